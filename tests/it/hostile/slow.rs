//! Peers that take their time. Where only the server's clock ends a wait, the test waits for the end itself.

use std::time::{Duration, Instant};

use crate::h2::{BOUND, H2, PREFACE, call, frame, headers};
use crate::support::Connection;

use super::World;

const CHECK: &str = "envoy.service.auth.v3.Authorization/Check";

/// A message of which a quarter of a mebibyte is promised and ten bytes come.
const UNFINISHED: &[u8] = &[0, 0, 4, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10];

/// tonic's word for a deadline that passed. Whoever set one goes by its own clock.
const LATE: (u16, Option<u16>) = (200, Some(tonic::Code::Cancelled as u16));

async fn is_closed(connection: Connection) {
    let closed = tokio::time::timeout(BOUND, connection.closed()).await;
    assert!(closed.is_ok(), "the peer is closed");
}

pub(super) async fn a_peer_that_says_nothing_is_closed(world: &World) {
    is_closed(Connection::open(world.grpc()).await).await;
}

pub(super) async fn a_preface_that_is_not_finished_is_closed(world: &World) {
    for said in [1, PREFACE.len() - 1] {
        let mut connection = Connection::open(world.grpc()).await;
        connection.write(&PREFACE[..said]).await;
        is_closed(connection).await;
    }
}

/// Without a deadline of the caller's, the server's own ends the call.
pub(super) async fn a_message_that_is_not_finished_ends(world: &World) {
    let started = Instant::now();
    let pieces: [&[u8]; 3] = [&UNFINISHED[..3], &UNFINISHED[3..7], &UNFINISHED[7..]];
    assert_eq!(call(world.grpc(), CHECK, &[], &pieces, false).await.unwrap(), LATE);
    assert!(started.elapsed() < BOUND, "{:?}", started.elapsed());
}

/// A call can be made to wait by not finishing its message: nothing else in a Check does.
pub(super) async fn the_callers_deadline_is_honoured(world: &World) {
    let started = Instant::now();
    let late = call(world.grpc(), CHECK, &[("grpc-timeout", "100m")], &[UNFINISHED], false).await;
    assert_eq!(late.unwrap(), LATE);
    let waited = started.elapsed();
    assert!((Duration::from_millis(100)..Duration::from_secs(4)).contains(&waited), "{waited:?}: not the server's own");
    // A deadline that is no deadline is none, and what is ready in time is answered.
    for timeout in ["", "x", "99999999999S", "-1m", "1S"] {
        let answered = call(world.grpc(), CHECK, &[("grpc-timeout", timeout)], &[&[0; 5]], true).await;
        assert_eq!(answered.unwrap(), (200, Some(0)), "{timeout:?}");
    }
}

pub(super) async fn a_thousand_promised_messages_take_no_memory(world: &World) {
    let before = world.memory();
    let mut connection = H2::open(world.grpc()).await;
    let mut bytes = Vec::new();
    for at in 0..1000 {
        bytes.extend(headers(
            at * 2 + 1,
            false,
            &[
                (b":method", b"POST"),
                (b":scheme", b"http"),
                (b":authority", b"tiergate"),
                (b":path", b"/envoy.service.auth.v3.Authorization/Check"),
                (b"content-type", b"application/grpc"),
                (b"te", b"trailers"),
            ],
        ));
        bytes.extend(frame(crate::h2::DATA, 0, at * 2 + 1, UNFINISHED));
    }
    connection.write(&bytes).await;
    // They end together, so the first that ends says that all have arrived.
    connection.end(1).await;
    let after = world.memory();
    assert!(after < before + 200 * 1024, "{before} KiB before, {after} KiB after");
}

pub(super) async fn a_head_that_is_not_finished_is_closed(world: &World) {
    for said in ["", "G", "GET /livez HTTP/1.1\r\nhost: a\r\nx-a: "] {
        let mut connection = Connection::open(world.tiergate.http).await;
        connection.write(said.as_bytes()).await;
        is_closed(connection).await;
    }
}

pub(super) async fn a_body_that_is_not_finished_is_refused(world: &World) {
    let mut connection = Connection::open(world.tiergate.http).await;
    let head = "POST /v1/tiers/lookup HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n{\"groups\"";
    connection.write(head.as_bytes()).await;
    assert_eq!(connection.answer().await.status, 408);
    is_closed(connection).await;
}
