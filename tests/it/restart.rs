//! Stops on the wire, and restarts under load, behind a real Envoy with a second instance.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tonic::codegen::Bytes;
use tonic::codegen::http::Request;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::envoy::{Gateway, chat, gateway_of};
use crate::h2::{H2, grpc_message, sent_away};
use crate::support::{
    Connection, PATIENCE, TIERGATE, Tiergate, await_ready, free_port, generous_manifests, get, soak, token,
};
use crate::wire::{channel, check, check_request, demo, http, outcome, premium};

const QWEN: &str = "/llm/qwen3/v1/chat/completions";

/// A stream that never ends by itself, after its first word.
async fn watch(channel: Channel) -> tonic::Streaming<tonic_health::pb::HealthCheckResponse> {
    let request = HealthCheckRequest { service: "envoy.service.auth.v3.Authorization".to_owned() };
    HealthClient::new(channel).watch(request).await.unwrap().into_inner()
}

async fn status_becomes(watch: &mut tonic::Streaming<tonic_health::pb::HealthCheckResponse>, wanted: ServingStatus) {
    let becomes = async { while watch.message().await.unwrap().unwrap().status != wanted as i32 {} };
    tokio::time::timeout(PATIENCE, becomes).await.expect("the health is told");
}

#[tokio::test]
async fn a_stop_says_not_ready_and_serves_on_until_gateways_could_notice() {
    const DELAY: Duration = Duration::from_secs(3);
    let tiergate = demo(&["--drain-delay", "3s"]);
    let old = channel(&tiergate).await;
    let mut health = watch(channel(&tiergate).await).await;
    let asked_to_go = tokio::spawn(sent_away(H2::open(tiergate.grpc).await, 0));
    let good = format!("Bearer {}", premium());
    let checked = async |channel: &Channel| outcome(&check(channel, check_request(http(QWEN, Some(&good)))).await).0;
    status_becomes(&mut health, ServingStatus::Serving).await;
    let (grpc, stopped) = (tiergate.grpc, Instant::now());
    tiergate.signal("TERM");
    status_becomes(&mut health, ServingStatus::NotServing).await;
    let ready = get(tiergate.http, "/readyz").await;
    assert_eq!((ready.status, ready.body.as_str()), (503, "stopping\n"));
    assert_eq!(get(tiergate.http, "/livez").await.status, 200, "nobody is to kill it");
    assert_eq!(checked(&old).await, 200, "over a connection that was there");
    assert_eq!(checked(&channel(&tiergate).await).await, 200, "over a new one");
    assert!(!asked_to_go.is_finished() && stopped.elapsed() < DELAY, "all of it before connections are asked to go");
    drop(health);
    assert!(asked_to_go.await.unwrap(), "GOAWAY, without an error");
    assert!(stopped.elapsed() >= DELAY);
    assert!(TcpStream::connect(grpc).await.is_err(), "no new connection");
    let (status, _) = tiergate.ended().await;
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn health_that_stays_as_it_is_is_told_once() {
    let tiergate = demo(&[]);
    let mut health = watch(channel(&tiergate).await).await;
    status_becomes(&mut health, ServingStatus::Serving).await;
    // The workers are asked three times meanwhile.
    let again = tokio::time::timeout(Duration::from_millis(1_800), health.message()).await;
    assert!(again.is_err(), "{again:?}");
}

#[tokio::test]
async fn what_is_in_flight_at_a_stop_is_answered() {
    let tiergate = demo(&["--drain-delay", "0s"]);
    let stream = Connection::open(tiergate.grpc).await.stream;
    let (sender, connection) = ::h2::client::handshake(stream).await.unwrap();
    let driver = tokio::spawn(connection);
    let mut sender = sender.ready().await.unwrap();
    let request = Request::post("http://tiergate/grpc.health.v1.Health/Check");
    let request = request.header("content-type", "application/grpc").header("te", "trailers").body(()).unwrap();
    let (answer, mut message) = sender.send_request(request, false).unwrap();
    tiergate.signal("TERM");
    let refused = async {
        loop {
            match sender.ready().await {
                Ok(ready) => sender = ready,
                Err(error) => break error,
            }
            tokio::task::yield_now().await;
        }
    };
    let refused = tokio::time::timeout(PATIENCE, refused).await.expect("GOAWAY");
    assert!(refused.is_go_away() && refused.is_remote(), "{refused}");
    message.send_data(Bytes::from(grpc_message(&[])), true).unwrap();
    let mut body = answer.await.unwrap().into_body();
    while let Some(data) = body.data().await {
        body.flow_control().release_capacity(data.unwrap().len()).unwrap();
    }
    assert_eq!(body.trailers().await.unwrap().unwrap().get("grpc-status").unwrap(), "0");
    let (status, log) = tiergate.ended().await;
    assert_eq!(status.code(), Some(0));
    assert!(log.iter().any(|line| line["message"] == "stopped"), "{log:?}");
    driver.abort();
}

#[tokio::test]
async fn a_stream_that_never_ends_holds_no_stop_past_its_bound() {
    let tiergate = demo(&["--drain-delay", "0s", "--drain-timeout", "1s"]);
    let mut endless = watch(channel(&tiergate).await).await;
    assert!(endless.message().await.unwrap().is_some());
    let stopped = Instant::now();
    tiergate.signal("TERM");
    let (status, log) = tiergate.ended().await;
    assert_eq!(status.code(), Some(0));
    let took = stopped.elapsed();
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(10), "{took:?}");
    assert!(log.iter().any(|line| line["message"].as_str().unwrap().contains("--drain-timeout")), "{log:?}");
}

#[tokio::test]
async fn a_second_signal_stops_at_once() {
    // Neither in the delay nor in the drain after it does anything keep the process.
    for delay in ["60s", "0s"] {
        let tiergate = demo(&["--drain-delay", delay, "--drain-timeout", "60s"]);
        let mut endless = watch(channel(&tiergate).await).await;
        assert!(endless.message().await.unwrap().is_some());
        let asked_to_go = tokio::spawn(sent_away(H2::open(tiergate.grpc).await, 0));
        let stopped = Instant::now();
        tiergate.signal("TERM");
        tiergate.await_log("stopping");
        if delay == "0s" {
            assert!(asked_to_go.await.unwrap());
        }
        tiergate.signal("TERM");
        let (status, log) = tiergate.ended().await;
        assert_eq!(status.code(), Some(1), "{delay}");
        assert!(stopped.elapsed() < Duration::from_secs(30), "{delay}");
        assert!(log.iter().any(|line| line["message"] == "stopping at once"), "{log:?}");
    }
}

/// Waits until Envoy says this of the tiergate at `port`.
async fn in_envoy(gateway: &Gateway, port: u16, wanted: &str) {
    let line = format!("tiergate::127.0.0.1:{port}::{wanted}");
    let started = Instant::now();
    while !get(gateway.admin, "/clusters").await.body.lines().any(|found| found == line) {
        assert!(started.elapsed() < PATIENCE, "Envoy says `{line}`");
        // Envoy has to be asked.
        sleep(Duration::from_millis(20)).await;
    }
}

/// What one connection saw.
#[derive(Default)]
struct Seen {
    took: Vec<Duration>,
    failures: Vec<String>,
}

/// Asks at a steady pace, and once more after `enough`.
async fn ask(address: SocketAddr, token: String, enough: Arc<AtomicBool>) -> Seen {
    let mut connection = Connection::open(address).await;
    let mut seen = Seen::default();
    // Time is what a pace is made of: callers who never wait would measure a machine without idle time.
    let mut pace = interval(Duration::from_millis(20));
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        pace.tick().await;
        let last = enough.load(Ordering::Relaxed);
        let started = Instant::now();
        let answer = chat(&mut connection, QWEN, &token).await;
        seen.took.push(started.elapsed());
        if answer.status != 200 {
            seen.failures.push(format!("{} {}", answer.status, answer.body));
        }
        if last {
            return seen;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_restarted_in_turn_under_load_fail_no_request() {
    const CONNECTIONS: usize = 16;
    /// The delay takes 2 s of it. The rest is for a loaded machine: no answer here takes a second.
    const LONGEST: Duration = Duration::from_secs(10);
    let rounds = soak(2, 20);
    let manifests = generous_manifests();
    let start =
        |port| Tiergate::start_at(port, Command::new(TIERGATE), &manifests.0, &["--log", "warn,tiergate::app=info"]);
    let ports = [free_port(), free_port()];
    let mut tiergates = ports.map(|port| Some(start(port)));
    let gateway = gateway_of(&ports).await;
    for port in ports {
        in_envoy(&gateway, port, "health_flags::healthy").await;
    }
    let token = token("maas-default-gateway-tier-premium", "jland-78028f6d", &manifests.0);
    let enough = Arc::new(AtomicBool::new(false));
    let mut load = JoinSet::new();
    for _ in 0..CONNECTIONS {
        load.spawn(ask(gateway.address, token.clone(), Arc::clone(&enough)));
    }
    let (mut drains, mut served) = (Vec::new(), 0);
    for _ in 0..rounds {
        for (port, running) in ports.into_iter().zip(&mut tiergates) {
            let old = running.take().unwrap();
            served += old.metric("tiergate_decisions_total", "allowed").await;
            let stopped = Instant::now();
            old.signal("TERM");
            in_envoy(&gateway, port, "health_flags::/failed_active_hc").await;
            let (status, log) = old.ended().await;
            drains.push(stopped.elapsed());
            assert_eq!(status.code(), Some(0), "{log:?}");
            let new = running.insert(start(port));
            await_ready(new).await;
            in_envoy(&gateway, port, "health_flags::healthy").await;
        }
    }
    enough.store(true, Ordering::Relaxed);
    let (mut took, mut failures) = (Vec::new(), Vec::new());
    for seen in load.join_all().await {
        took.extend(seen.took);
        failures.extend(seen.failures);
    }
    took.sort();
    let (requests, longest) = (took.len(), *drains.iter().max().unwrap());
    println!(
        "{requests} requests, {} restarts, longest drain {longest:?}, {} failures, p99 {:?}, longest answer {:?}",
        drains.len(),
        failures.len(),
        took[requests * 99 / 100],
        took[requests - 1],
    );
    assert!(failures.is_empty(), "{} of {requests}: {:?}", failures.len(), failures.iter().take(5).collect::<Vec<_>>());
    assert!(longest < LONGEST, "{longest:?}");
    assert!(served > 0, "both served before they stopped");
}

/// The number of a statistic of Envoy's cluster of tiergates.
async fn statistic(gateway: &Gateway, name: &str) -> u64 {
    let page = get(gateway.admin, &format!("/stats?filter=cluster.tiergate.{name}$")).await;
    page.body.trim().rsplit_once(": ").unwrap_or_else(|| panic!("{}", page.body)).1.parse().unwrap()
}

/// Before a health check can tell: what finds nobody at the first is asked at the second.
#[tokio::test]
async fn an_instance_that_is_gone_fails_no_request() {
    let manifests = generous_manifests();
    let ports = [free_port(), free_port()];
    let start = |port| Tiergate::start_at(port, Command::new(TIERGATE), &manifests.0, &[]);
    let (killed, _stays) = (start(ports[0]), start(ports[1]));
    let gateway = gateway_of(&ports).await;
    for port in ports {
        in_envoy(&gateway, port, "health_flags::healthy").await;
    }
    let token = token("maas-default-gateway-tier-premium", "jland-78028f6d", &manifests.0);
    let mut connection = Connection::open(gateway.address).await;
    killed.signal("KILL");
    killed.ended().await;
    in_envoy(&gateway, ports[0], "cx_active::0").await;
    for _ in 0..20 {
        let answer = chat(&mut connection, QWEN, &token).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        // This one has no report, so that the next Check is another instance's turn.
        let junk = chat(&mut connection, QWEN, "garbage").await;
        assert_eq!(junk.status, 401, "{}", junk.body);
    }
    assert!(statistic(&gateway, "upstream_rq_retry_success").await > 0, "it was tried");
}

/// A health check is no reason to refuse where nobody else could be asked.
#[tokio::test]
async fn a_single_instance_is_asked_whatever_it_says_of_itself() {
    let manifests = generous_manifests();
    let port = free_port();
    let start = || Tiergate::start_at(port, Command::new(TIERGATE), &manifests.0, &[]);
    let old = start();
    let gateway = gateway_of(&[port]).await;
    in_envoy(&gateway, port, "health_flags::healthy").await;
    let token = token("maas-default-gateway-tier-premium", "jland-78028f6d", &manifests.0);
    let mut connection = Connection::open(gateway.address).await;
    assert_eq!(chat(&mut connection, QWEN, &token).await.status, 200);
    old.signal("TERM");
    in_envoy(&gateway, port, "health_flags::/failed_active_hc").await;
    assert_eq!(chat(&mut connection, QWEN, &token).await.status, 200, "it serves on");
    old.ended().await;
    assert_eq!(chat(&mut connection, QWEN, &token).await.status, 503, "there is none");
    let _new = start();
    assert_eq!(chat(&mut connection, QWEN, &token).await.status, 200, "whether a check has told already or not");
}
