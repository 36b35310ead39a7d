//! HTTP/2 that is wrong, or too much of it.

use std::cell::Cell;

use tokio::io::AsyncWriteExt;

use crate::envoy::chat;
use crate::h2::{
    ACK, BOUND, CONTINUATION, END_HEADERS, ENHANCE_YOUR_CALM, End, GOAWAY, H2, HEADERS, PING, PROTOCOL_ERROR,
    RST_STREAM, SETTINGS, frame, headers, literal, sent_away,
};
use crate::support::Connection;

use super::{QWEN, World};

const CALL: [(&[u8], &[u8]); 6] = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":authority", b"tiergate"),
    (b":path", b"/envoy.service.auth.v3.Authorization/Check"),
    (b"content-type", b"application/grpc"),
    (b"te", b"trailers"),
];

pub(super) async fn ten_thousand_headers_of_a_call_are_refused(world: &World) {
    let names: Vec<String> = (0..10_000).map(|at| format!("x-{at}")).collect();
    let mut fields = CALL.to_vec();
    fields.extend(names.iter().map(|name| (name.as_bytes(), b"a".as_slice())));
    let end = H2::open(world.grpc()).await.ask(1, &fields, "").await;
    assert!(!matches!(end, End::Answer(status, _) if status != 431), "{end:?}");
}

pub(super) async fn header_names_in_capitals_are_no_http2(world: &World) {
    let mut fields = CALL.to_vec();
    fields.push((b"X-Capital", b"a"));
    for address in [world.grpc(), world.gateway().await] {
        let end = H2::open(address).await.ask(1, &fields, "").await;
        let refused = matches!(end, End::Reset(PROTOCOL_ERROR) | End::GoAway(_) | End::Closed | End::Answer(400, _));
        assert!(refused, "{end:?}");
    }
}

/// Ten thousand requests, each reset as soon as it is sent, a hundred a write.
async fn reset_rapidly(connection: &mut H2) {
    for batch in 0..100 {
        let mut bytes = Vec::new();
        for at in 0..100 {
            let stream = (batch * 100 + at) * 2 + 1;
            bytes.extend(headers(stream, true, &CALL));
            bytes.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
        }
        if !connection.write(&bytes).await {
            return;
        }
    }
}

pub(super) async fn a_rapid_reset_is_sent_away_and_others_are_served(world: &World) {
    let attack = async {
        // Those that are looked at as fast as they come are cancelled calls; those that pile up are an attack.
        let mut bytes = Vec::new();
        for at in 0..20_000 {
            bytes.extend(headers(at * 2 + 1, true, &CALL));
            bytes.extend(frame(RST_STREAM, 0, at * 2 + 1, &8_u32.to_be_bytes()));
        }
        // What it is told last may be lost with the connection, so one try is not always enough.
        let told = async {
            loop {
                let mut attacker = H2::open(world.grpc()).await;
                attacker.write(&bytes).await;
                if sent_away(attacker, ENHANCE_YOUR_CALM).await {
                    return;
                }
            }
        };
        tokio::time::timeout(BOUND, told).await.expect("it is told why");
    };
    tokio::join!(attack, world.serves());
}

/// Envoy hands each reset on, over the connection to tiergate that all callers of a worker share.
pub(super) async fn a_rapid_reset_of_the_gateway_reaches_no_other_caller(world: &World) {
    let gateway = world.gateway().await;
    let mut connections = Vec::new();
    for _ in 0..8 {
        connections.push(Connection::open(gateway).await);
    }
    let attacked = Cell::new(false);
    let attack = async {
        // Envoy ends a connection after 500 resets, and has two workers: many connections reach both.
        for _ in 0..2 {
            let attackers = (0..64).map(|_| async { reset_rapidly(&mut H2::open(gateway).await).await });
            futures_util::future::join_all(attackers).await;
        }
        attacked.set(true);
    };
    let others = async {
        let mut answers = 0;
        while !attacked.get() {
            for connection in &mut connections {
                let answer = chat(connection, QWEN, &world.token).await;
                assert_eq!(answer.status, 200, "{}", answer.body);
                answers += 1;
            }
        }
        answers
    };
    // The others are served first, so that the attack is not over before they have begun.
    let (answers, ()) = tokio::join!(others, attack);
    assert!(answers > 0, "nobody else was served");
}

pub(super) async fn a_flood_of_continuations_is_ended(world: &World) {
    let mut attacker = H2::open(world.grpc()).await;
    let attack = async {
        let field = literal(b"x-a", &[b'a'; 1000]);
        attacker.write(&frame(HEADERS, 0, 1, &field)).await;
        let more = frame(CONTINUATION, 0, 1, &field.repeat(16));
        // 160 MiB, if nobody ended it.
        for _ in 0..10_000 {
            if !attacker.write(&more).await {
                return true;
            }
        }
        false
    };
    let (ended, ()) = tokio::join!(attack, world.serves());
    assert!(ended, "headers without an end are ended");
}

pub(super) async fn a_flood_of_settings_and_pings_stops_nobody_else(world: &World) {
    for flood in [frame(SETTINGS, 0, 0, &[]).repeat(10_000), frame(PING, 0, 0, &[0; 8]).repeat(10_000)] {
        let mut attacker = H2::open(world.grpc()).await;
        let attack = async {
            attacker.write(&flood).await;
            // Every one is acknowledged, or the connection ends; and no more than that is kept for it.
            let mut acknowledged = 0;
            while acknowledged < 10_000 {
                match attacker.next().await {
                    Some(frame) if frame.kind == GOAWAY => return,
                    Some(frame) if matches!(frame.kind, SETTINGS | PING) => {
                        acknowledged += u32::from(frame.flags & ACK)
                    }
                    Some(_) => {}
                    None => return,
                }
            }
        };
        let attack = tokio::time::timeout(BOUND, attack);
        let (attacked, ()) = tokio::join!(attack, world.serves());
        assert!(attacked.is_ok(), "answered or ended");
    }
}

pub(super) async fn what_is_not_http2_is_ended(world: &World) {
    let frame_of_no_kind = frame(0x42, END_HEADERS, 0x7fff_ffff, &[0xff; 100]);
    for (what, bytes) in [
        ("HTTP/1.1", b"GET /livez HTTP/1.1\r\nhost: a\r\nauthorization: Bearer x\r\n\r\n".to_vec()),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 and so on and on".to_vec()),
        ("zeros", vec![0; 1024]),
        ("a frame of 16 MiB", [crate::h2::PREFACE, &[0xff; 64]].concat()),
        ("no settings", [crate::h2::PREFACE, &frame_of_no_kind, &[0xff; 64]].concat()),
    ] {
        let mut connection = Connection::open(world.grpc()).await;
        let _ = connection.stream.write_all(&bytes).await;
        let said = tokio::time::timeout(BOUND, connection.closed()).await;
        assert!(said.is_ok(), "{what}");
    }
}
