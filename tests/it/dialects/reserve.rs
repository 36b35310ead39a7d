//! Calls hold what they are expected to cost, behind a real Envoy: many at once, answers that are held back, and a limit that is smaller
//! than an answer.

use std::time::{Duration, Instant};

use serde_json::json;

use super::configs::{self, BY_LOG};
use super::{DIALECTS, Dialect, World};
use crate::envoy::{envoy, gateway_on, shipped};
use crate::support::{Connection, Folder, POSITIVE, Tiergate, generous_manifests, root, token};
use crate::wire::premium;

const GRANITE: &str = "/llm/granite";
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Calls that are out at once.
const AT_ONCE: u64 = 64;
/// Words of every prompt.
const PROMPT: u64 = 10;
/// What Envoy writes of each request: which it is, and the decision, whose ids rise.
const TOLD: &str =
    r#"call: "%REQ(:PATH)%", decision: "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:tiergate:decision_id)%""#;

/// Calls at once of one caller, who has that limit.
struct Load {
    limit: u64,
    window: Duration,
    /// What they cost on average, and by how much they differ.
    about: u64,
    spread: u64,
}

/// A world where a caller of the free tier has a small limit, and others as much as they like.
struct Small {
    world: World,
    folder: Folder,
    free: String,
}

/// One of many calls at once.
struct Call {
    /// What its answer costs, or would have.
    cost: u64,
    /// What it held; `None` if it was refused.
    held: Option<u64>,
}

/// What calls at once came to, in calls and tokens.
#[derive(Debug, Default)]
struct Sums {
    admitted: u64,
    used: u64,
    /// Used beyond the limit.
    beyond: u64,
    /// Used of each beyond what it held.
    missed: u64,
    /// Refused, though they would have fitted.
    wrongly: u64,
}

fn streamed() -> &'static Dialect {
    DIALECTS.iter().find(|dialect| dialect.name == "chat" && dialect.stream).unwrap()
}

/// What an answer that is begun says is left of its caller's tokens. Nothing of it is taken.
async fn left_by(connection: &Connection) -> u64 {
    let answer = connection.begun().await;
    answer.header("x-ratelimit-remaining-tokens").expect(&answer.head).parse().unwrap()
}

// === impl Load ===

impl Load {
    fn cost(&self, number: u64) -> u64 {
        self.about - self.spread / 2 + number * 97 % self.spread
    }

    /// All of them, in a world that knows what such calls cost.
    async fn play(&self, admission: &str, flags: &[&str]) -> Sums {
        let Load { limit, window, about, .. } = self;
        let small = Small::start(*limit, *window, flags).await;
        small.teach(50, *about).await;
        let started = Instant::now();
        let calls = small.at_once(50, self).await;
        let sums = Sums::of(&calls, *limit);
        println!("{AT_ONCE} at once of about {about} against {limit} in {window:?}, {admission}: {sums:?}");
        assert_eq!(calls.len() as u64, AT_ONCE, "each was decided");
        // What comes back meanwhile may be used too.
        let again = *limit as f64 * started.elapsed().as_secs_f64() / window.as_secs_f64();
        assert!(sums.beyond <= sums.missed + again.ceil() as u64, "{admission}: {sums:?}");
        sums
    }

    async fn reserved_and_positive(&self) -> (Sums, Sums) {
        futures_util::future::join(self.play("reserve", &[]), self.play("positive", POSITIVE)).await
    }
}

// === impl Small ===

impl Small {
    async fn start(limit: u64, window: Duration, flags: &[&str]) -> Self {
        Small::behind(&shipped(BY_LOG), limit, window, flags).await
    }

    /// Behind an Envoy with another configuration.
    async fn behind(config: &str, limit: u64, window: Duration, flags: &[&str]) -> Self {
        let (manifests, folder) = (generous_manifests(), Folder::new());
        let limits = std::fs::read_to_string(manifests.0.join("limits.yaml")).unwrap();
        let rates = "free-user-tokens:\n      rates: [{limit: 1000000000, window: 1m}]";
        assert_eq!(limits.matches(rates).count(), 1, "{limits}");
        let small = format!("free-user-tokens:\n      rates: [{{limit: {limit}, window: {}s}}]", window.as_secs());
        manifests.file("limits.yaml", &limits.replace(rates, &small));
        let tiergate = Tiergate::start(&manifests.0, flags);
        let config = configs::telling(config, &folder.0.join("told"), TOLD);
        let gateway = gateway_on(&envoy(), &config, &[tiergate.grpc.port()], &[]).await;
        let token = token("maas-default-gateway-tier-free", "alice-12345678", &root("examples/manifests"));
        let world = World { _manifests: manifests, tiergate, gateway, bearer: format!("Bearer {}", premium()) };
        Small { world, folder, free: format!("Bearer {token}") }
    }

    /// Begins a chat of the free caller; `query` stands behind its path.
    async fn begin(&self, query: &str, body: &str) -> Connection {
        let mut connection = Connection::open(self.world.gateway.address).await;
        let head = format!(
            "POST {GRANITE}{}{query} HTTP/1.1\r\nhost: a\r\nauthorization: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            streamed().path,
            self.free,
            body.len()
        );
        connection.write((head + body).as_bytes()).await;
        connection
    }

    /// Other callers' answers of that cost, by which the model is known.
    async fn teach(&self, answers: usize, cost: u64) {
        let mut connection = Connection::open(self.world.gateway.address).await;
        let (path, body) =
            (format!("{GRANITE}{}", DIALECTS[0].path), DIALECTS[0].body(PROMPT as usize, (cost - PROMPT) as usize));
        for _ in 0..answers {
            let answer = connection.send("POST", &path, &self.world.headers(), &body).await;
            assert_eq!(answer.status, 200, "{}", answer.body);
        }
        self.world.reported(answers).await;
    }

    /// Calls that are all out at once, each in the order of its decision, after `before` others.
    async fn at_once(&self, before: usize, load: &Load) -> Vec<Call> {
        let call = async |number: u64| {
            // It lasts until all are decided.
            let manner = json!({"text": "word ".repeat(40), "pause_ms": 40});
            let body = streamed().sample(PROMPT as usize, (load.cost(number) - PROMPT) as usize, &manner);
            let answer = self.begin(&format!("?call={number}"), &body).await.answer().await;
            if answer.status != 200 {
                assert_eq!((answer.status, answer.header("x-ext-auth-reason")), (429, Some("TG-LIMIT-TOKENS")));
                return None;
            }
            Some(answer.header("x-ratelimit-remaining-tokens").unwrap().parse::<u64>().unwrap())
        };
        let left = futures_util::future::join_all((0..AT_ONCE).map(call)).await;
        self.world.reported(before + left.iter().flatten().count()).await;
        // Each found what the one before had left.
        let mut found: Vec<u64> = left.iter().copied().flatten().chain([load.limit]).collect();
        found.sort_unstable();
        let held = |left: u64| found.iter().find(|found| **found > left).map_or(0, |found| found - left);
        let mut told = self.world.told(&self.folder.0.join("told"), before + left.len()).await;
        told.sort_by_key(|line| line["decision"].as_str().unwrap().to_owned());
        let numbers =
            told.iter().filter_map(|line| line["call"].as_str()?.rsplit_once("?call=")?.1.parse::<u64>().ok());
        numbers.map(|number| Call { cost: load.cost(number), held: left[number as usize].map(held) }).collect()
    }

    /// The tokens that the free caller has left, as the answer to a request says that costs none.
    async fn left(&self) -> u64 {
        let mut connection = Connection::open(self.world.gateway.address).await;
        let headers = [("authorization", &*self.free)];
        let answer = connection.send("GET", &format!("{GRANITE}/v1/models"), &headers, "").await;
        answer.header("x-ratelimit-remaining-tokens").expect(&answer.head).parse().unwrap()
    }
}

// === impl Sums ===

impl Sums {
    fn of(calls: &[Call], limit: u64) -> Self {
        let mut sums = Sums::default();
        // What was used, and would have been by those who were wrongly refused.
        let mut taken = 0;
        for Call { cost, held } in calls {
            match held {
                Some(held) => {
                    sums.admitted += 1;
                    sums.used += cost;
                    sums.missed += cost.saturating_sub(*held);
                }
                None if taken + cost <= limit => sums.wrongly += 1,
                None => continue,
            }
            taken += cost;
        }
        sums.beyond = sums.used.saturating_sub(limit);
        sums
    }
}

/// What is used beyond the limit is what the holds missed, and no more.
#[tokio::test]
async fn of_many_calls_at_once_no_more_run_than_fit() {
    let small = Load { limit: 100, window: MINUTE, about: 60, spread: 15 };
    let large = Load { limit: 10_000, window: DAY, about: 800, spread: 401 };
    let (reserve, positive) = small.reserved_and_positive().await;
    assert_eq!((reserve.admitted, reserve.beyond, reserve.wrongly, positive.admitted), (1, 0, 0, AT_ONCE));
    let (reserve, positive) = large.reserved_and_positive().await;
    assert!((7..=12).contains(&reserve.admitted), "{reserve:?}");
    assert!(positive.admitted == AT_ONCE && positive.beyond > 30_000, "{positive:?}");
}

/// The longest answer that a client asks for is not what its call holds.
#[tokio::test]
async fn a_caller_whose_limit_is_smaller_than_an_answer_is_served_one_call_at_a_time() {
    let small = Small::start(100, MINUTE, &[]).await;
    small.teach(1, 5_000).await;
    let body = |pause: u64| {
        let manner = json!({"text": "word ".repeat(20), "pause_ms": pause, "output": 1});
        streamed().sample(1, 100_000, &manner)
    };
    for answers in 2..=4 {
        let mut running = small.begin("", &body(50)).await;
        assert_eq!(left_by(&running).await, 0, "it holds all of the limit");
        let refused = small.begin("", &body(0)).await.answer().await;
        assert_eq!((refused.status, refused.header("x-ext-auth-reason")), (429, Some("TG-LIMIT-TOKENS")));
        assert!(refused.header("retry-after").is_some(), "{}", refused.head);
        assert_eq!(running.answer().await.status, 200);
        small.world.reported(answers).await;
    }
    assert_eq!(small.world.charged().await, 5_000 + 3 * 2);
}

#[tokio::test]
async fn what_is_left_goes_down_before_an_answer_is_over() {
    const STREAMS: usize = 40;
    const LIMIT: u64 = 100_000;
    let small = Small::start(LIMIT, DAY, &[]).await;
    let body = streamed().sample(PROMPT as usize, 500, &json!({"hang_after": 1}));
    let (mut running, mut left) = (Vec::new(), vec![LIMIT]);
    for _ in 0..STREAMS {
        let connection = small.begin("", &body).await;
        left.push(left_by(&connection).await);
        running.push(connection);
    }
    let held: Vec<u64> = left.windows(2).map(|left| left[0].saturating_sub(left[1])).collect();
    let last = *left.last().unwrap();
    println!("{STREAMS} streams that are held back hold {} each, and leave {last} of {LIMIT}", held[0]);
    assert!(held.iter().all(|held| *held > 1_000), "each holds what an answer of an unknown model may cost");
    assert_eq!(small.world.tiergate.metric("tiergate_usage_reports_total", "").await, 0, "none is over");
    // Their clients leave. They are charged what was seen of them, and most of the rest comes back: in a bucket, a call that ends after
    // later ones gets less of it.
    drop(running);
    small.world.reported(STREAMS).await;
    let used = LIMIT - small.left().await;
    let sent: u64 = small.world.gateway.account().iter().map(super::sent).sum();
    println!("{used} are charged when they are left, of {sent} that were sent");
    assert!((STREAMS as u64..LIMIT - last).contains(&used), "{used}");
}

/// Sequence 30, of a model of which nothing is known. What Envoy tells of headers has two forms, and so has the body.
#[tokio::test]
async fn where_envoy_sends_whole_bodies_a_call_holds_no_more_than_it_asks_for() {
    const LIMIT: u64 = 100_000;
    const RAW: &str = "encode_raw_headers: true";
    let config = shipped(BY_LOG);
    assert!(config.contains(RAW), "the shipped configuration tells headers as they are");
    for (headers, settings, is_whole) in [
        (RAW, "max_request_bytes: 65536", true),
        ("encode_raw_headers: false", "max_request_bytes: 65536, pack_as_bytes: true", true),
        (RAW, "max_request_bytes: 64, allow_partial_message: true", false),
    ] {
        let config = configs::sending_bodies(&config.replace(RAW, headers), settings);
        let small = Small::behind(&config, LIMIT, DAY, &[]).await;
        let (mut running, mut before) = (Vec::new(), LIMIT);
        for (choices, most) in [(1, 20), (8, 100), (1, 100_000)] {
            let manner = json!({"hang_after": 1});
            let body =
                streamed().sample(PROMPT as usize, most, &manner).replacen('{', &format!("{{\"n\":{choices},"), 1);
            let connection = small.begin("", &body).await;
            let left = left_by(&connection).await;
            running.push(connection);
            let (prompt, bytes) = ((body.len() as u64).div_ceil(4), body.len() as f64);
            let estimate = ((1_000.0 + bytes / 4.0) * 1.3).ceil() as u64;
            let bound = if is_whole { prompt + choices * most as u64 } else { u64::MAX };
            assert_eq!(before - left, estimate.min(bound), "{headers}, {settings}: {body}");
            before = left;
        }
    }
}

/// What the finding `envoy-body-buffered` says of long prompts.
#[tokio::test]
async fn where_envoy_sends_bodies_a_long_one_is_refused() {
    for (settings, status, code) in [
        ("max_request_bytes: 65536", 413, "request_payload_too_large"),
        ("max_request_bytes: 1048576", 503, "TG-UNAVAILABLE-CHECK"),
    ] {
        let config = configs::sending_bodies(&shipped(BY_LOG), settings);
        let small = Small::behind(&config, 100_000_000, DAY, &[]).await;
        let body = streamed().body(60_000, 20);
        let answer = small.begin("", &body).await.answer().await;
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (status, &json!(code)), "{}", answer.body);
    }
}
