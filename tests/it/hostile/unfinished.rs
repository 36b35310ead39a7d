//! Messages that are sent but for their last byte.

use tokio::task::JoinSet;
use tonic::codegen::Bytes;

use crate::h2::{answered, grpc_message, head};
use crate::support::{Connection, PATIENCE, Tiergate};
use crate::wire::{channel, check, check_request, http, outcome, try_check};

use super::{QWEN, World};

const CALLS: [&str; 2] =
    ["envoy.service.auth.v3.Authorization/Check", "envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"];
/// The largest message that is taken.
const LARGEST: usize = 256 * 1024;
const REFUSED: u16 = tonic::Code::ResourceExhausted as u16;
/// tonic's word for a deadline that passed: the server's own.
const LATE: u16 = tonic::Code::Cancelled as u16;

pub(super) async fn a_thousand_messages_without_their_last_byte_take_little_memory(world: &World) {
    let tiergate = Tiergate::start(&world.manifests.0, &["--log", "info,tiergate::decision=warn"]);
    let before = tiergate.memory();
    let mut message = grpc_message(&[0; LARGEST]);
    message.pop();
    let message = Bytes::from(message);
    let (mut calls, mut drivers) = (JoinSet::new(), JoinSet::new());
    for _ in 0..8 {
        let stream = Connection::open(tiergate.grpc).await.stream;
        let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
        drivers.spawn(async move { drop(connection.await) });
        for at in 0..125 {
            sender = sender.ready().await.unwrap();
            let (answer, mut body) = sender.send_request(head(CALLS[at % 2], &[]), false).unwrap();
            body.send_data(message.clone(), false).unwrap();
            calls.spawn(async move {
                let ended = answered(answer).await;
                // It is kept open until then.
                drop(body);
                ended.unwrap().1.unwrap()
            });
        }
    }
    let (channel, bearer) = (channel(&tiergate).await, world.bearer());
    let (mut refused, mut late, mut served, mut ours) = (0, 0, 0, 0);
    while let Some(ended) = {
        // Others are served meanwhile; but who comes before those that were refused have gone is refused too.
        match try_check(&channel, check_request(http(QWEN, Some(&bearer)))).await {
            Ok(response) => {
                assert_eq!(outcome(&response).0, 200);
                served += 1;
            }
            Err(status) => {
                assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status}");
                ours += 1;
            }
        }
        tokio::time::timeout(PATIENCE, calls.join_next()).await.expect("every call ends")
    } {
        match ended.unwrap() {
            REFUSED => refused += 1,
            LATE => late += 1,
            other => panic!("a call ended with {other}"),
        }
    }
    let cost = tiergate.peak_memory() - before;
    println!("{refused} refused, {late} late, {served} others served; {cost} KiB more at most");
    assert_eq!(refused + late, 1000);
    assert!(served > 500, "{served} others served");
    assert!(refused > 800 && late > 50, "{refused} refused, {late} late");
    assert!(cost < 100 * 1024, "{cost} KiB");
    assert_eq!(tiergate.metric("tiergate_unfinished_calls_refused_total", "").await, refused + ours);
    let lines = tiergate.logged();
    let lines: Vec<_> = lines.iter().filter(|line| line["message"] == "calls were refused").collect();
    assert!(!lines.is_empty() && lines.len() < 30, "{} lines", lines.len());
}

/// A call that says nothing takes memory too.
pub(super) async fn ten_thousand_calls_that_say_nothing_take_little_memory(world: &World) {
    let tiergate = Tiergate::start(&world.manifests.0, &[]);
    let before = tiergate.memory();
    let (mut calls, mut drivers) = (JoinSet::new(), JoinSet::new());
    for _ in 0..10 {
        let stream = Connection::open(tiergate.grpc).await.stream;
        let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
        drivers.spawn(async move { drop(connection.await) });
        for at in 0..1000 {
            sender = sender.ready().await.unwrap();
            let (answer, body) = sender.send_request(head(CALLS[at % 2], &[]), false).unwrap();
            calls.spawn(async move {
                let ended = answered(answer).await;
                drop(body);
                ended.unwrap().1.unwrap()
            });
        }
    }
    let ended = tokio::time::timeout(PATIENCE, calls.join_all()).await.expect("every call ends");
    let refused = ended.iter().filter(|status| **status == REFUSED).count();
    let cost = tiergate.peak_memory() - before;
    println!("{refused} of {} refused; {cost} KiB more at most", ended.len());
    assert!(ended.iter().all(|status| [REFUSED, LATE].contains(status)));
    assert!(refused > 5000 && cost < 100 * 1024, "{refused} refused, {cost} KiB");
}

/// As a gateway sends them.
pub(super) async fn a_thousand_checks_in_flight_are_all_decided(world: &World) {
    let tiergate = Tiergate::start(&world.manifests.0, &["--log", "info,tiergate::decision=warn"]);
    let mut request = http(QWEN, Some(&world.bearer()));
    request.headers.insert("x-long".to_owned(), "a".repeat(4 * 1024));
    let request = check_request(request);
    for _ in 0..3 {
        let mut calls = JoinSet::new();
        for connection in [1, 4] {
            for _ in 0..connection {
                let channel = channel(&tiergate).await;
                for _ in 0..1000 / connection {
                    let (channel, request) = (channel.clone(), request.clone());
                    calls.spawn(async move { outcome(&check(&channel, request).await).0 });
                }
            }
        }
        let all = tokio::time::timeout(PATIENCE, calls.join_all()).await.expect("answered in time");
        assert!(all.iter().all(|status| *status == 200));
    }
    assert_eq!(tiergate.metric("tiergate_unfinished_calls_refused_total", "").await, 0);
}
