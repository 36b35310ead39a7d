//! The API server hangs, or is dead, and is the authority: who is known is served, who is not is told to come again.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::access::settled;
use super::{Caller, REVIEW, World, ok, refused};
use crate::cluster::{CRDS, Cluster, apply, token};
use crate::envoy::{chat, gateway};
use crate::support::{Connection, PATIENCE, Tiergate, soak};

/// A world on a cluster of its own, whose API server may go.
async fn world(name: &str) -> (Cluster, World) {
    let cluster = Cluster::start();
    apply(&cluster.client().await, CRDS).await;
    let world = World::generous(&cluster, name).await;
    (cluster, world)
}

async fn token_of(world: &World, tier: &str, name: &str) -> String {
    token(&world.client, &format!("{}-tier-{tier}", world.name), name, &[&world.audience()]).await
}

/// Status and code, and how long it took.
async fn ask(connection: &mut Connection, path: &str, token: &str) -> ((u16, String), Duration) {
    let started = Instant::now();
    let answer = chat(connection, path, token).await;
    let code =
        if answer.status == 200 { String::new() } else { answer.json()["error"]["code"].as_str().unwrap().to_owned() };
    ((answer.status, code), started.elapsed())
}

/// Callers who are known: what each is answered, and how long the answers took.
struct Known {
    stop: Arc<AtomicBool>,
    callers: JoinSet<Vec<Duration>>,
}

impl Known {
    /// Ten callers, who ask until they are stopped, and must always be answered the same.
    fn start(gateway: SocketAddr, all: &[(String, String, (u16, String))]) -> Self {
        let (stop, mut callers) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
        let each = soak(Duration::from_millis(100), Duration::from_millis(20));
        for n in 0..10 {
            let ((path, token, expected), stop) = (all[n % all.len()].clone(), Arc::clone(&stop));
            callers.spawn(async move {
                let (mut connection, mut took) = (Connection::open(gateway).await, Vec::new());
                let mut pace = tokio::time::interval(each);
                while !stop.load(Ordering::Relaxed) {
                    pace.tick().await;
                    let (answer, time) = ask(&mut connection, &path, &token).await;
                    assert_eq!(answer, expected, "{path}");
                    took.push(time);
                }
                took
            });
        }
        Known { stop, callers }
    }

    async fn end(self) -> Vec<Duration> {
        self.stop.store(true, Ordering::Relaxed);
        let mut took = self.callers.join_all().await.concat();
        took.sort_unstable();
        took
    }
}

/// Callers who come for the first time while the server is away: how often each code was answered.
async fn strangers(gateway: SocketAddr, path: &str, tokens: Vec<String>, time: Duration) -> BTreeMap<String, usize> {
    let (mut connection, mut codes) = (Connection::open(gateway).await, BTreeMap::new());
    let mut pace = tokio::time::interval(time / u32::try_from(tokens.len()).unwrap());
    for token in tokens {
        pace.tick().await;
        let ((status, code), _) = ask(&mut connection, path, &token).await;
        assert_eq!(status, 503, "{code}");
        *codes.entry(code).or_default() += 1;
    }
    assert!(
        codes.keys().all(|code| code.starts_with("TG-UNAVAILABLE-") && code != "TG-UNAVAILABLE-CHECK"),
        "{codes:?}"
    );
    codes
}

/// Asks as somebody new until they are let in: how long that took.
async fn let_in(gateway: SocketAddr, path: &str, token: &str) -> Duration {
    let (mut connection, started) = (Connection::open(gateway).await, Instant::now());
    loop {
        let (answer, _) = ask(&mut connection, path, token).await;
        if answer.0 == 200 {
            return started.elapsed();
        }
        assert!(answer.0 == 503 && started.elapsed() < PATIENCE, "{answer:?}");
        // How a recovery is seen is by asking.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_api_server_known_callers_are_served_and_strangers_come_again() {
    let (cluster, world) = world("gone").await;
    // So short that every identity has to be reviewed anew meanwhile.
    let tiergate = world.tiergate(&cluster, &[REVIEW, "--identity-ttl", "2s"]).await;
    let gateway = gateway(tiergate.grpc).await;
    let (granite, draft, qwen) = (world.path("llm", "granite"), world.path("llm", "draft"), world.path("llm", "qwen3"));
    let (free, premium) =
        (token_of(&world, "free", "alice-12345678").await, token_of(&world, "premium", "jland-78028f6d").await);
    let known = [
        (granite.clone(), free.clone(), (200, String::new())),
        (draft.clone(), free.clone(), (403, "TG-ACCESS-DENIED".to_owned())),
        (qwen.clone(), premium, (200, String::new())),
    ];
    settled(&cluster, &world, &mut Caller::with(&tiergate, &free).await, &draft).await;
    let away = soak(Duration::from_secs(6), Duration::from_secs(30));
    for dead in [false, true] {
        let mut tokens = Vec::new();
        for _ in 0..soak(10, 100) {
            tokens.push(token_of(&world, "free", "bob-2b9f1c07").await);
        }
        let next = token_of(&world, "free", "carol-7d20e4aa").await;
        let callers = Known::start(gateway.address, &known);
        // All of them have been answered once.
        for (path, token, expected) in &known {
            assert_eq!(ask(&mut Connection::open(gateway.address).await, path, token).await.0, *expected);
        }
        match dead {
            false => cluster.signal_api_server("STOP"),
            true => cluster.kill_api_server(),
        }
        let codes = strangers(gateway.address, &granite, tokens, away).await;
        let stale = tiergate.metric("tiergate_stale_decisions_total", "").await;
        assert!(stale > 0, "what rests on what was known is counted");
        match dead {
            false => cluster.signal_api_server("CONT"),
            true => cluster.restart_api_server(),
        }
        let recovered = let_in(gateway.address, &granite, &next).await;
        let took = callers.end().await;
        println!(
            "API server {} for {away:?}: {} requests of known callers answered as before (median {:.1?}, p99 {:.1?}, longest {:.1?}), {stale} from what \
             was known; strangers {codes:?}; let in {recovered:.1?} after it was back",
            if dead { "dead" } else { "hung" },
            took.len(),
            took[took.len() / 2],
            took[took.len() * 99 / 100],
            took[took.len() - 1],
        );
        assert!(recovered < Duration::from_secs(25), "{recovered:?}");
    }
    // What was taken away is taken away.
    world.delete("ServiceAccount", "alice-12345678").await;
    Caller::with(&tiergate, &free).await.until(&granite, &refused(401, "TG-TOKEN-SUBJECT-GONE")).await;
    told(&tiergate);
}

/// A person who reads the log is told what happens, and not over and over.
fn told(tiergate: &Tiergate) {
    let logged = tiergate.logged();
    let lines: Vec<&str> = (logged.iter())
        .filter(|line| line["target"] != "tiergate::decision" && line["level"] != "INFO")
        .filter_map(|line| line["message"].as_str())
        .collect();
    assert!(lines.iter().any(|line| line.contains("what was read last stays in force")), "{lines:#?}");
    assert!(lines.contains(&"the API server is not asked for a while"), "{lines:#?}");
    assert!(lines.len() <= 12, "{lines:#?}");
}

#[tokio::test]
async fn what_is_known_is_good_for_as_long_as_it_is_allowed_to_be() {
    let (cluster, world) = world("bound").await;
    let short = world.tiergate(&cluster, &[REVIEW, "--stale-for", "3s"]).await;
    let never = world.tiergate(&cluster, &[REVIEW, "--stale-for", "0s"]).await;
    let local = world.tiergate(&cluster, &[REVIEW, "--identity", "local"]).await;
    let granite = world.path("llm", "granite");
    let token = token_of(&world, "free", "alice-12345678").await;
    let [mut in_short, mut in_never] = [Caller::with(&short, &token).await, Caller::with(&never, &token).await];
    let mut in_local = Caller::with(&local, &token).await;
    for caller in [&mut in_short, &mut in_never, &mut in_local] {
        assert_eq!(caller.asks(&granite).await, ok());
    }
    let stranger = token_of(&world, "free", "bob-2b9f1c07").await;
    cluster.kill_api_server();
    // The keys are known, and the ServiceAccount was there.
    assert_eq!(Caller::with(&local, &stranger).await.asks(&granite).await, ok());
    let stale = refused(503, "TG-UNAVAILABLE-STALE");
    in_never.until(&granite, &stale).await;
    assert_eq!(in_short.asks(&granite).await, ok(), "it is three seconds");
    let took = in_short.until(&granite, &stale).await;
    assert!(took > Duration::from_secs(1), "{took:?}");
    assert_eq!(in_local.asks(&granite).await, ok());
    cluster.restart_api_server();
    for caller in [&mut in_short, &mut in_never, &mut in_local] {
        caller.until(&granite, &ok()).await;
    }
}
