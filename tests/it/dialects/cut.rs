//! What reports come over is cut for five seconds under load, and nothing else is: every call is charged, none twice, and none is
//! waited for in the end.

use std::cell::Cell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use super::configs::{self, BY_CALL, BY_LOG, Channel};
use super::{DIALECTS, Dialect, World, sent};
use crate::envoy::{envoy, gateway_on, shipped};
use crate::support::{Connection, Folder, PATIENCE, Tiergate, free_port, generous_manifests};
use crate::wire::premium;

const CUT: Duration = Duration::from_secs(5);
const CLIENTS: usize = 16;
/// So many reports are seen before the cut, and after it.
const SEEN: u64 = 100;
/// The caller's, in a window that is longer than the test, so that all that is charged stays charged.
const LIMIT: u64 = 1_000_000_000;
/// What Envoy writes of each request, so that its model's line and its ledger's are found.
const TOLD: &str =
    r#"id: "%REQ(X-REQUEST-ID)%", decision: "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:tiergate:decision_id)%""#;

/// Carries what an Envoy reports to a tiergate.
struct Relay {
    port: u16,
    to: SocketAddr,
    carrying: JoinHandle<()>,
}

/// A world whose reports of one channel go through a relay. Its folder has what tiergate and Envoy write.
struct Scene {
    world: World,
    relay: Relay,
    folder: Folder,
}

/// What became of the calls of a scene, in calls and tokens.
#[derive(Debug, Default)]
struct Outcome {
    calls: usize,
    /// Those that ended while the channel was cut.
    meanwhile: usize,
    /// Those that no report came for, and what the model sent of them.
    lost: u64,
    lost_sent: u64,
    /// What the model sent of all.
    sent: u64,
    /// What the ledger says that was charged, and what the caller's limit says.
    ledger: u64,
    charged: u64,
}

async fn carry(mut from: TcpStream, to: SocketAddr) {
    // It is reset when it is dropped.
    from.set_zero_linger().unwrap();
    let mut to = TcpStream::connect(to).await.unwrap();
    // An end of either is an end.
    let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
}

// === impl Relay ===

impl Relay {
    async fn start(to: SocketAddr) -> Self {
        let port = free_port();
        Relay { port, to, carrying: Self::listen(port, to).await }
    }

    async fn listen(port: u16, to: SocketAddr) -> JoinHandle<()> {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                connections.spawn(carry(listener.accept().await.unwrap().0, to));
            }
        })
    }

    /// For a while its connections are reset, and new ones are refused.
    async fn cut(&mut self, time: Duration) {
        self.carrying.abort();
        assert!((&mut self.carrying).await.unwrap_err().is_cancelled());
        // The length of the cut is what is tried.
        tokio::time::sleep(time).await;
        self.carrying = Self::listen(self.port, self.to).await;
    }
}

// === impl Scene ===

/// The manifests of [`generous_manifests`], where nothing of what is charged comes back.
fn manifests() -> Folder {
    let folder = generous_manifests();
    let limits = std::fs::read_to_string(folder.0.join("limits.yaml")).unwrap();
    let (name, window) = ("  name: gateway-token-rate-limits\n", "limit: 1000000000, window: 1m}");
    assert!(limits.contains(name) && limits.contains(window), "{limits}");
    let fixed = format!("{name}  annotations: {{tiergate.io/algorithm: fixed-window}}\n");
    folder.file("limits.yaml", &limits.replace(name, &fixed).replace(window, &window.replace("1m", "24h")));
    folder
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_inclusive('\n').filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Waits for something that does not tell.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !is_so().await {
        assert!(started.elapsed() < PATIENCE, "{what}");
        // Metrics and files of other processes tell nobody when they change.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Calls again and again, now streamed and now not, and now and then without any usage.
async fn call(world: &World, stop: &Cell<bool>) {
    let dialects: Vec<&Dialect> = DIALECTS.iter().filter(|dialect| dialect.name == "chat").collect();
    let mut connection = Connection::open(world.gateway.address).await;
    let mut number = 0;
    while !stop.get() {
        let dialect = dialects[number % 2];
        let usage = if number % 7 == 6 { "never" } else { "usual" };
        let text = "one two three four five six seven eight nine ten";
        let body = dialect.sample(5, 40, &json!({"text": text, "pause_ms": 10, "usage": usage}));
        let answer = connection.send("POST", &dialect.path(), &world.headers(), &body).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        number += 1;
    }
}

impl Scene {
    async fn start(config: &str, channel: Channel) -> Self {
        let (manifests, folder) = (manifests(), Folder::new());
        let ledger = folder.0.join("ledger");
        let flags = ["--max-call-time", "10s", "--usage-log", ledger.to_str().unwrap()];
        let tiergate = Tiergate::start(&manifests.0, &flags);
        let relay = Relay::start(tiergate.grpc).await;
        let config = configs::reporting_to(config, channel, relay.port);
        let config = configs::telling(&config, &folder.0.join("told"), TOLD);
        let gateway = gateway_on(&envoy(), &config, &[tiergate.grpc.port()], &[]).await;
        let bearer = format!("Bearer {}", premium());
        let world = World { _manifests: manifests, tiergate, gateway, bearer };
        Scene { world, relay, folder }
    }

    /// Calls until reports have come, none came, and they came again; those are counted as this result. How many calls ended while it
    /// was cut.
    async fn play(&mut self, result: &str) -> usize {
        let Scene { world, relay, .. } = self;
        let (stop, ended) = (Cell::new(false), || world.gateway.account().len());
        let seen = async |from: u64| until("reports come", async || world.reports(result).await >= from + SEEN).await;
        let conduct = async {
            seen(0).await;
            let before = ended();
            relay.cut(CUT).await;
            let meanwhile = ended() - before;
            seen(world.reports(result).await).await;
            stop.set(true);
            meanwhile
        };
        let calls = futures_util::future::join_all((0..CLIENTS).map(|_| call(world, &stop)));
        futures_util::future::join(conduct, calls).await.0
    }

    /// The caller's tokens that are charged, as the answer to a request says that costs none.
    async fn charged(&self) -> u64 {
        let mut connection = Connection::open(self.world.gateway.address).await;
        let answer = connection.send("GET", "/llm/qwen3/v1/models", &self.world.headers(), "").await;
        let left: u64 = answer.header("x-ratelimit-remaining-tokens").unwrap().parse().unwrap();
        LIMIT - left
    }

    /// The lines of the ledger that are due to a report, by the decision; `calls` calls have some.
    async fn ledger(&self, calls: usize) -> HashMap<String, Vec<Value>> {
        let mut ledger = HashMap::<String, Vec<Value>>::new();
        until("the ledger is written", async || {
            ledger.clear();
            let lines = lines(&self.folder.0.join("ledger"));
            for line in lines.into_iter().filter(|line| line["quality"] != "unsettled") {
                ledger.entry(line["decision"].as_str().unwrap().to_owned()).or_default().push(line);
            }
            ledger.len() >= calls
        })
        .await;
        ledger
    }

    /// Compares every call's line of the model with its lines of the ledger.
    async fn outcome(&self, meanwhile: usize) -> Outcome {
        let tiergate = &self.world.tiergate;
        until("nothing is open", async || tiergate.metric("tiergate_usage_reports_awaited", "").await == 0).await;
        let account = self.world.gateway.account();
        let unsettled = tiergate.metric("tiergate_usage_unsettled_total", "").await;
        let told = self.world.told(&self.folder.0.join("told"), account.len()).await;
        let mut ledger = self.ledger(account.len() - unsettled as usize).await;
        let charged = self.charged().await;
        let mut outcome = Outcome { calls: account.len(), meanwhile, charged, ..Outcome::default() };
        let account: HashMap<&str, &Value> =
            account.iter().map(|line| (line["x-request-id"].as_str().unwrap(), line)).collect();
        assert_eq!((account.len(), told.len()), (outcome.calls, outcome.calls), "each was answered once");
        for told in &told {
            let (line, decision) = (account[told["id"].as_str().unwrap()], told["decision"].as_str().unwrap());
            assert_eq!(line["ended"], true, "{line}");
            outcome.count(sent(line), &ledger.remove(decision).unwrap_or_default());
        }
        assert!(ledger.is_empty(), "{ledger:?}");
        assert_eq!(outcome.lost, unsettled, "what is not in the ledger is counted");
        outcome
    }
}

// === impl Outcome ===

impl Outcome {
    /// Takes a call of which the model sent so many tokens, with its lines of the ledger.
    fn count(&mut self, sent: u64, ledger: &[Value]) {
        let charged: i64 = ledger.iter().map(|line| line["total"].as_i64().unwrap()).sum();
        let first = ledger.iter().filter(|line| line.get("correction").is_none()).count();
        let is_final = ledger.iter().any(|line| line["quality"] == "final");
        assert_eq!(first, usize::from(!ledger.is_empty()), "none is charged twice: {ledger:?}");
        assert!(ledger.is_empty() || charged > 0, "none is free: {ledger:?}");
        assert!(!is_final || charged == sent as i64, "{charged} of {sent}: {ledger:?}");
        self.sent += sent;
        self.ledger += charged as u64;
        if ledger.is_empty() {
            self.lost += 1;
            self.lost_sent += sent;
        }
    }

    fn print(&self, what: &str) {
        let Outcome { calls, meanwhile, lost, lost_sent, sent, ledger, charged } = self;
        println!(
            "{what}: {calls} calls, {meanwhile} while it was cut; {} in the ledger, {lost} unsettled",
            *calls as u64 - lost
        );
        println!(
            "{what}: {sent} tokens sent, {lost_sent} of them unsettled; {charged} charged, {ledger} of them by the ledger, {} held",
            charged - ledger
        );
    }
}

/// Calls that were never reported keep what they held.
#[tokio::test]
async fn where_the_only_channel_is_cut_no_call_is_free() {
    let play = async |what: &str, file: &str, channel: Channel| {
        let mut scene = Scene::start(&shipped(file), channel).await;
        let meanwhile = scene.play("settled").await;
        let outcome = scene.outcome(meanwhile).await;
        outcome.print(what);
        assert!(outcome.lost > 0, "{what}: it was cut");
        // They held what such calls cost, with a margin.
        let held = outcome.charged - outcome.ledger;
        let most = 3 * outcome.lost_sent;
        assert!((outcome.lost_sent..=most).contains(&held), "{what}: {held} held, {outcome:?}");
        for none in ["duplicate", "conflicting", "unknown", "late"] {
            assert_eq!(scene.world.reports(none).await, 0, "{what}: {none}");
        }
    };
    let call = play("the call is cut", BY_CALL, Channel::Call);
    let log = play("the log is cut", BY_LOG, Channel::Log);
    futures_util::future::join(call, log).await;
}

#[tokio::test]
async fn where_both_channels_are_on_and_one_is_cut_every_call_is_reported() {
    let play = async |what: &str, channel: Channel| {
        let mut scene = Scene::start(&configs::with_log(&shipped(BY_CALL)), channel).await;
        let meanwhile = scene.play("duplicate").await;
        let outcome = scene.outcome(meanwhile).await;
        outcome.print(what);
        assert_eq!((outcome.lost, outcome.charged), (0, outcome.ledger), "{what}");
        for none in ["unknown", "late"] {
            assert_eq!(scene.world.reports(none).await, 0, "{what}: {none}");
        }
    };
    let call = play("both are on, and the call is cut", Channel::Call);
    let log = play("both are on, and the log is cut", Channel::Log);
    futures_util::future::join(call, log).await;
}
