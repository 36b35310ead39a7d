//! Limits of calls that run at once, behind a real Envoy: by the model's own count.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::envoy::{Gateway, gateway_by, shipped};
use crate::support::{Answer, Connection, Folder, PATIENCE, Tiergate, generous_manifests, get};
use crate::wire::{channel, check, check_request, http, outcome, premium};

const PATH: &str = "/llm/granite/v1/chat/completions";
/// Calls that may run at once, of all callers together.
const LIMIT: usize = 4;
const CALLERS: usize = 64;

struct World {
    tiergate: Tiergate,
    gateway: Gateway,
    bearer: String,
    _manifests: Folder,
}

impl World {
    async fn start(flags: &[&str]) -> Self {
        World::behind(&shipped("envoy/tiergate.yaml"), flags).await
    }

    /// Behind an Envoy with another configuration.
    async fn behind(config: &str, flags: &[&str]) -> Self {
        let manifests = generous_manifests();
        let limits = std::fs::read_to_string(manifests.0.join("limits.yaml")).unwrap();
        let name = "  name: gateway-rate-limits\n";
        let annotated = format!("{name}  annotations: {{tiergate.io/algorithm.parallel: concurrency}}\n");
        let limit = format!("  limits:\n    parallel:\n      rates: [{{limit: {LIMIT}, window: 1m}}]\n");
        let limits = limits.replacen(name, &annotated, 1).replacen("  limits:\n", &limit, 1);
        manifests.file("limits.yaml", &limits);
        let tiergate = Tiergate::start(&manifests.0, flags);
        let gateway = gateway_by(config, &[tiergate.grpc.port()]).await;
        World { tiergate, gateway, bearer: format!("Bearer {}", premium()), _manifests: manifests }
    }

    /// Begins a call whose answer is of `words`, `pause_ms` apart.
    async fn begin(&self, words: usize, pause_ms: u64) -> Connection {
        let sample = json!({"text": "word ".repeat(words), "pause_ms": pause_ms});
        let body = json!({"messages": [{"role": "user", "content": "one"}], "max_tokens": words, "stream": true, "sample": sample});
        let body = body.to_string();
        let mut connection = Connection::open(self.gateway.address).await;
        let head = format!(
            "POST {PATH} HTTP/1.1\r\nhost: a\r\nauthorization: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            self.bearer,
            body.len()
        );
        connection.write((head + &body).as_bytes()).await;
        connection
    }

    async fn call(&self, words: usize, pause_ms: u64) -> Answer {
        self.begin(words, pause_ms).await.answer().await
    }

    /// Until a call is let in; how long that took.
    async fn until_free(&self) -> Duration {
        let started = Instant::now();
        loop {
            let answer = self.call(1, 0).await;
            if answer.status == 200 {
                return started.elapsed();
            }
            assert!(is_full(&answer) && started.elapsed() < PATIENCE, "{} {}", answer.head, answer.body);
            tokio::task::yield_now().await;
        }
    }
}

/// Whether it was refused because as many run as may.
fn is_full(answer: &Answer) -> bool {
    (answer.status, answer.header("x-ext-auth-reason")) == (429, Some("TG-LIMIT-REQUESTS"))
}

#[tokio::test]
async fn so_many_calls_run_at_once_at_the_model_and_no_more() {
    let world = World::start(&[]).await;
    let caller = async || {
        let (mut served, mut refused) = (0, 0);
        for _ in 0..3 {
            let answer = world.call(10, 10).await;
            match answer.status {
                200 => served += 1,
                _ => {
                    assert!(is_full(&answer), "{} {}", answer.head, answer.body);
                    // Nobody knows when one of them is over, and it is said so.
                    assert!(
                        answer.body.contains("as may run at once: 4; one may be over in about "),
                        "{}",
                        answer.body
                    );
                    let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
                    assert!((1..=10).contains(&wait), "{wait}");
                    refused += 1;
                }
            }
        }
        (served, refused)
    };
    let counts = futures_util::future::join_all((0..CALLERS).map(|_| caller())).await;
    let served: usize = counts.iter().map(|(served, _)| served).sum();
    let refused: usize = counts.iter().map(|(_, refused)| refused).sum();
    assert_eq!(served + refused, 3 * CALLERS);
    assert!(served >= LIMIT && refused > 0, "{served} served, {refused} refused");
    // All places are free again.
    world.until_free().await;
    let running: Vec<u64> = world.gateway.account().iter().map(|line| line["running"].as_u64().unwrap()).collect();
    assert_eq!(running.iter().max(), Some(&(LIMIT as u64)), "{running:?}");
}

#[tokio::test]
async fn a_client_that_leaves_gives_its_place_back() {
    let world = World::start(&[]).await;
    let mut running = Vec::new();
    for _ in 0..LIMIT {
        let connection = world.begin(100, 1_000).await;
        assert_eq!(connection.begun().await.status, 200);
        running.push(connection);
    }
    assert!(is_full(&world.call(1, 0).await));
    drop(running.pop());
    // Long before the call would have been over, or its lease.
    let waited = world.until_free().await;
    assert!(waited < Duration::from_secs(50), "{waited:?}");
}

/// Sequence 53, over the wire: whoever asked never reports.
#[tokio::test]
async fn a_report_that_is_lost_gives_its_place_back_at_the_end_of_its_lease() {
    const LEASE: Duration = Duration::from_secs(6);
    let world = World::start(&["--max-call-time", "6s"]).await;
    let channel = channel(&world.tiergate).await;
    let ask = async || {
        let response = check(&channel, check_request(http(PATH, Some(&world.bearer)))).await;
        let (status, code) = outcome(&response);
        (status, code.to_owned())
    };
    let started = Instant::now();
    for _ in 0..LIMIT {
        assert_eq!(ask().await.0, 200);
    }
    let full = (429, "TG-LIMIT-REQUESTS".to_owned());
    assert_eq!(ask().await, full);
    let mut asked = 1;
    while started.elapsed() < PATIENCE {
        let outcome = ask().await;
        if outcome.0 == 200 {
            break;
        }
        assert_eq!(outcome, full);
        asked += 1;
        tokio::task::yield_now().await;
    }
    let waited = started.elapsed();
    assert!(waited >= LEASE && waited < LEASE * 5, "{waited:?}, {asked} asked");
}

/// Sequence 54, on a real Envoy: it tells each second that calls run, which last longer than their lease.
#[tokio::test]
async fn a_call_that_its_gateway_says_runs_keeps_its_place_beyond_its_lease() {
    const LEASE: Duration = Duration::from_secs(3);
    let name = "stat_prefix: inference\n";
    let telling = format!("{name}{:16}access_log_options: {{access_log_flush_interval: 1s}}\n", "");
    let config = shipped("envoy/tiergate.yaml");
    assert_eq!(config.matches(name).count(), 1);
    let world = World::behind(&config.replace(name, &telling), &["--max-call-time", "3s"]).await;
    let mut running = Vec::new();
    for _ in 0..LIMIT {
        let connection = world.begin(120, 100).await;
        assert_eq!(connection.begun().await.status, 200);
        running.push(connection);
    }
    let started = Instant::now();
    while started.elapsed() < LEASE * 2 {
        assert!(is_full(&world.call(1, 0).await), "after {:?}", started.elapsed());
        // Nothing happens in that time, which is what is looked for.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for connection in &mut running {
        assert_eq!(connection.answer().await.status, 200);
    }
    world.until_free().await;
    let page = get(world.tiergate.http, "/metrics").await.body;
    assert!(page.contains("tiergate_usage_corrections_total{what=\"lease\"} 0\n"), "{page}");
}
