//! Usage by Envoy's access log: what is charged beside what the model says that it sent, and what only an access log can tell.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use super::configs::{self, BY_CALL, BY_LOG};
use super::{DIALECTS, Dialect, World, sent};
use crate::envoy::{Gateway, chat, gateway_before, gateway_by, shipped};
use crate::support::{Connection, PATIENCE, TIERGATE, Tiergate, free_port, generous_manifests, root, token};

const GRANITE: &str = "/llm/granite/v1/chat/completions";

/// A change to one of the files is a change to both.
#[test]
fn the_configuration_is_the_other_one_with_a_log_for_the_call() {
    let body = |config: &str| config.split_once("admin:\n").unwrap().1.to_owned();
    let one = configs::without_call(&body(&shipped(BY_CALL)));
    let other = configs::without_log(&body(&shipped(BY_LOG)));
    let changed = one.lines().zip(other.lines()).find(|(one, other)| one != other);
    assert_eq!((changed, one.len()), (None, other.len()));
}

/// Waits until so many reports became this, of any.
async fn results(tiergate: &Tiergate, result: &str, reports: u64) {
    let started = Instant::now();
    while tiergate.metric("tiergate_usage_reports_total", result).await < reports {
        assert!(started.elapsed() < PATIENCE, "{reports} of {result}");
        tokio::task::yield_now().await;
    }
}

fn free() -> String {
    token("maas-default-gateway-tier-free", "alice-12345678", &root("examples/manifests"))
}

impl World {
    /// Leaves a stream after some events: what was charged, and the model's line.
    async fn left(&self) -> (u64, Value) {
        let dialect = DIALECTS.iter().find(|dialect| dialect.name == "chat" && dialect.stream).unwrap();
        let (before, answers) = (self.charged_in_all().await, self.gateway.account().len());
        let mut connection = Connection::open(self.gateway.address).await;
        let (path, body, bearer) = (dialect.path(), dialect.body(10, 500), &self.bearer);
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: a\r\nauthorization: {bearer}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        connection.write((head + &body).as_bytes()).await;
        let mut read = Vec::new();
        while String::from_utf8_lossy(&read).matches("data: ").count() < 4 {
            assert!(connection.stream.read_buf(&mut read).await.unwrap() > 0, "{}", String::from_utf8_lossy(&read));
        }
        drop(connection);
        self.reported(answers + 1).await;
        (self.charged_in_all().await - before, self.gateway.account().pop().unwrap())
    }
}

/// Of the dialects that it has.
#[tokio::test]
async fn the_log_tells_what_envoys_own_reader_read() {
    let world = World::by(&configs::with_ai_protocol_manager(), &[], &[]).await;
    let known: Vec<&Dialect> =
        DIALECTS.iter().filter(|dialect| ["chat", "Messages", "Responses", "Gemini"].contains(&dialect.name)).collect();
    assert_eq!(world.uncharged(&known, 3).await, [""; 0]);
}

/// It tells nothing of a stream with an event that is no JSON: `[DONE]` behind an empty line of data is one.
#[tokio::test]
async fn a_stream_of_which_envoys_own_reader_tells_nothing_is_not_free() {
    let world = World::by(&configs::with_ai_protocol_manager(), &[], &[]).await;
    let chat = DIALECTS.iter().find(|dialect| dialect.name == "chat" && dialect.stream).unwrap();
    for (answers, manner) in (1..).zip([json!({"comments": true}), json!({"usage": "never"})]) {
        let answer = world.ask(chat, &chat.sample(3, 20, &manner)).await.closed().await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        world.reported(answers).await;
        assert_eq!(world.tiergate.metric("tiergate_usage_reports_total", "\"estimated\"").await, answers as u64);
        assert!(world.tiergate.metric("tiergate_usage_tokens_total", "\"estimated\"").await >= answers as u64);
    }
}

#[tokio::test]
async fn a_stream_that_its_client_leaves_is_charged_what_it_had_said_by_the_log_too() {
    let without: String = shipped(BY_LOG)
        .split_inclusive('\n')
        .filter(|line| line.trim_start() != "continuous_usage_stats: true\n")
        .collect();
    for (what, config) in [("with running totals", shipped(BY_LOG)), ("without", without)] {
        let world = World::by(&config, &[], &["--pause", "30"]).await;
        let (charged, line) = world.left().await;
        assert_eq!(line["ended"], false, "the model was left while it wrote");
        println!("{what}: charged {charged} of {} that were sent", sent(&line));
        assert_eq!(world.tiergate.metric("tiergate_usage_reports_total", "\"estimated\"").await, 1, "{what}");
        assert!(charged > 0, "{what}: none is free");
    }
}

#[tokio::test]
async fn both_channels_at_once_charge_once() {
    let world = World::by(&configs::with_log(&shipped(BY_CALL)), &[], &[]).await;
    let chats: Vec<&Dialect> = DIALECTS.iter().filter(|dialect| dialect.name == "chat").collect();
    let mut connection = Connection::open(world.gateway.address).await;
    for round in 0..10 {
        for dialect in &chats {
            let answer = connection.send("POST", &dialect.path(), &world.headers(), &dialect.body(3, round)).await;
            assert_eq!(answer.status, 200, "{}", answer.body);
        }
    }
    let reports = "tiergate_usage_reports_total";
    results(&world.tiergate, "", 40).await;
    let of = async |result| world.tiergate.metric(reports, result).await;
    assert_eq!((of("\"settled\"").await, of("\"duplicate\"").await), (20, 20), "and none conflicts");
    assert_eq!(world.charged().await, world.gateway.account().iter().map(sent).sum::<u64>());
}

/// Requests left of a caller with 5, as the answer says.
async fn left_after(gateway: &Gateway, path: &str) -> u64 {
    let answer = chat(&mut Connection::open(gateway.address).await, path, &free()).await;
    answer.header("x-ratelimit-remaining-requests").unwrap_or_else(|| panic!("{}", answer.body)).parse().unwrap()
}

#[tokio::test]
async fn what_envoy_refuses_after_check_costs_no_tokens_and_no_request() {
    let tiergate = Tiergate::start(&root("examples/manifests"), &[]);
    let gateway = gateway_by(&shipped(BY_LOG), &[tiergate.grpc.port()]).await;
    let bearer = format!("Bearer {}", free());
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    // More often than there are requests.
    for refused in 1..=6 {
        let answer = Connection::open(gateway.address).await.send("POST", GRANITE, &headers, "{\"stream\": 1}").await;
        assert_eq!(answer.json()["error"]["code"], "TG-BODY-UNREADABLE", "{}", answer.body);
        results(&tiergate, "\"no_usage\"", refused).await;
    }
    assert_eq!(left_after(&gateway, GRANITE).await, 4, "of 5, this one taken");
    // A caller whom Check refuses has no reservation.
    assert_eq!(chat(&mut Connection::open(gateway.address).await, GRANITE, "garbage").await.status, 401);
    let started = Instant::now();
    while tiergate.metric("tiergate_access_log_passed_total", "unreserved").await == 0 {
        assert!(started.elapsed() < PATIENCE, "the refusal is told");
        tokio::task::yield_now().await;
    }
    // Nobody listens where the model should be: the tokens that were held are given back, and the request stays one.
    let tiergate = Tiergate::start(&root("examples/manifests"), &[]);
    let gateway = gateway_before(&shipped(BY_LOG), &[tiergate.grpc.port()], free_port()).await;
    assert_eq!(left_after(&gateway, GRANITE).await, 4);
    results(&tiergate, "\"no_usage\"", 1).await;
    assert_eq!(left_after(&gateway, GRANITE).await, 3);
}

#[tokio::test]
async fn a_tiergate_that_is_restarted_is_told_again_and_the_log_does_not_keep_the_old_one() {
    let manifests = generous_manifests();
    let port = free_port();
    let start = || Tiergate::start_at(port, Command::new(TIERGATE), &manifests.0, &["--drain-delay", "0s"]);
    let mut tiergate = start();
    let gateway = gateway_by(&shipped(BY_LOG), &[port]).await;
    for round in 0..3 {
        let started = Instant::now();
        // Envoy has to find out that it is back.
        while chat(&mut Connection::open(gateway.address).await, GRANITE, &free()).await.status != 200 {
            assert!(started.elapsed() < PATIENCE, "it is back");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        results(&tiergate, "\"settled\"", 1).await;
        if round < 2 {
            tiergate.signal("TERM");
            let stopped = Instant::now();
            let (status, log) = tiergate.ended().await;
            assert_eq!(status.code(), Some(0));
            assert!(!log.iter().any(|line| line["message"].as_str().unwrap().contains("--drain-timeout")), "{log:?}");
            println!("stopped in {:?}", stopped.elapsed());
            tiergate = start();
        }
    }
}
