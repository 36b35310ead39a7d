//! Answers that are still streaming, behind a real Envoy, while the process that let them through ends and another takes over.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{QWEN, countable, saved};
use crate::envoy::gateway_of;
use crate::support::{Connection, Folder, PATIENCE, TIERGATE, Tiergate, free_port, token};

const STREAMS: u64 = 6;

/// A stream that lasts some seconds.
async fn stream(mut connection: Connection, bearer: String) -> u16 {
    let manner = json!({"text": "one two three four five six seven eight nine ten ".repeat(4), "pause_ms": 120});
    let body = json!({
        "model": "qwen3", "messages": [{"role": "user", "content": "a b c"}], "max_tokens": 40,
        "stream": true, "stream_options": {"include_usage": true}, "sample": manner,
    });
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    connection.send("POST", QWEN, &headers, &body.to_string()).await.status
}

async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let started = Instant::now();
    while !holds().await {
        assert!(started.elapsed() < PATIENCE, "{what}");
        // Files and pages are asked; they do not tell.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn totals(ledger: &Path) -> Vec<i64> {
    let text = std::fs::read_to_string(ledger).unwrap_or_default();
    let line = |line: &str| serde_json::from_str::<Value>(line).unwrap()["total"].as_i64().unwrap();
    text.lines().map(line).collect()
}

/// Whether it is killed, or stopped: then its calls have lines already, which the next process corrects.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_still_streaming_are_settled_by_the_next_process_to_the_token() {
    for (signal, lines) in [("KILL", STREAMS), ("TERM", 2 * STREAMS)] {
        let (manifests, folder, port) = (countable(), Folder::new(), free_port());
        let [state, ledger] = ["state", "ledger"].map(|name| folder.0.join(name));
        let bearer = format!("Bearer {}", token("maas-default-gateway-tier-premium", "jland-78028f6d", &manifests.0));
        let flags = ["--drain-delay", "0s", "--drain-timeout", "1s", "--settle-grace", "0s"];
        let files = ["--state", state.to_str().unwrap(), "--usage-log", ledger.to_str().unwrap()];
        let start =
            || Tiergate::start_at(port, Command::new(TIERGATE), &manifests.0, &[&flags[..], &files[..]].concat());
        let tiergate = start();
        let gateway = gateway_of(&[port]).await;
        let mut streams = JoinSet::new();
        for _ in 0..STREAMS {
            streams.spawn(stream(Connection::open(gateway.address).await, bearer.clone()));
        }
        let allowed = async || tiergate.metric("tiergate_decisions_total", "allowed").await == STREAMS;
        until("all are let through", allowed).await;
        if signal == "KILL" {
            saved(&tiergate).await;
        }
        tiergate.signal(signal);
        tiergate.ended().await;
        assert!(gateway.account().is_empty(), "they are streaming still");
        let next = start();
        let statuses = streams.join_all().await;
        assert_eq!(statuses, [200; STREAMS as usize]);
        let settled = async || next.metric("tiergate_usage_reports_total", "result=\"settled\"").await == STREAMS;
        until("the next one settles them", settled).await;
        until("the ledger has them", async || totals(&ledger).len() as u64 == lines).await;
        let account = gateway.account();
        let sent = |line: &Value| line["input"].as_i64().unwrap() + line["output"].as_i64().unwrap();
        assert_eq!(account.len() as u64, STREAMS);
        let sent: i64 = account.iter().map(sent).sum();
        assert_eq!(totals(&ledger).iter().sum::<i64>(), sent, "{signal}: {:?}", totals(&ledger));
        assert_eq!(next.metric("tiergate_usage_reports_total", "unknown").await, 0);
    }
}
