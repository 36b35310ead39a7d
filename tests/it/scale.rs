//! A million users, and floods of junk beside good traffic: memory and latency.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::service::auth::v3::CheckRequest;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use tiergate::identity::{Claims, KubernetesClaims, ObjectClaims};
use tiergate::policy::derived_uid;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::support::{Folder, KEYS, PATIENCE, Tiergate, generous_manifests, get, root, soak};
use crate::wire::{channel, check, check_request, descriptor, http, outcome, own, premium, report, text};

const QWEN: &str = "/llm/qwen3/v1/chat/completions";
const PREMIUM: &str = "maas-default-gateway-tier-premium";
/// A line for each decision would be most of what is measured.
const QUIET: [&str; 2] = ["--log", "info,tiergate::decision=warn"];

const CONNECTIONS: u64 = 4;
const IN_FLIGHT: u64 = 32;
/// Numbers that are played over one set of connections, which are younger then than the age at which they are asked to go.
const CHUNK: u64 = 50_000;

/// The tour's manifests, whose limits count by the header `x-user` and per `window`: one token is any number of users.
fn by_header(window: &str) -> Folder {
    let folder = Folder::new();
    for entry in std::fs::read_dir(root("examples/manifests")).unwrap() {
        let path = entry.unwrap().path();
        let mut text = std::fs::read_to_string(&path).unwrap();
        if path.ends_with("limits.yaml") {
            let counters = (text.matches("expression: auth.identity.userid").count(), text.matches("window: ").count());
            assert_eq!(counters, (6, 6), "the tour's limits");
            text = text.replace("expression: auth.identity.userid", "expression: 'request.headers[\"x-user\"]'");
            text = text.replace("window: 2m", "window: 1m").replace("window: 1m", &format!("window: {window}"));
        }
        folder.file(path.file_name().unwrap().to_str().unwrap(), &text);
    }
    folder
}

/// Calls `call` with every number, many at a time on a few connections.
async fn play<F>(tiergate: &Tiergate, numbers: Range<u64>, call: impl Fn(Channel, u64) -> F + Clone + Send + 'static)
where
    F: Future<Output = ()> + Send,
{
    let mut start = numbers.start;
    while start < numbers.end {
        let (next, end) = (Arc::new(AtomicU64::new(start)), numbers.end.min(start + CHUNK));
        let mut tasks = JoinSet::new();
        for _ in 0..CONNECTIONS {
            let channel = channel(tiergate).await;
            for _ in 0..IN_FLIGHT {
                let (channel, next, call) = (channel.clone(), Arc::clone(&next), call.clone());
                tasks.spawn(async move {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= end {
                            return;
                        }
                        call(channel.clone(), number).await;
                    }
                });
            }
        }
        tokio::time::timeout(PATIENCE * 3, tasks.join_all()).await.expect("all are answered in time");
        start = end;
    }
}

fn of_user(bearer: &str, user: u64) -> CheckRequest {
    let mut request = http(QWEN, Some(bearer));
    request.headers.insert("x-user".to_owned(), format!("user-{user:07}"));
    check_request(request)
}

/// The page's series, without their values.
async fn series(tiergate: &Tiergate) -> (usize, Vec<String>) {
    let page = get(tiergate.http, "/metrics").await;
    assert_eq!(page.status, 200);
    let series = page.body.lines().map(|line| line.rsplit_once(' ').map_or(line, |(series, _)| series).to_owned());
    (page.body.len(), series.collect())
}

/// Signs tokens as the API server does, each another.
#[derive(Clone)]
struct Signer {
    header: Header,
    key: Arc<EncodingKey>,
}

impl Signer {
    fn new() -> Self {
        let jwks: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(KEYS.0.join("jwks.json")).unwrap()).unwrap();
        let kid = jwks["keys"][0]["kid"].as_str().unwrap().to_owned();
        let pem = std::fs::read(KEYS.0.join("signing-key.pem")).unwrap();
        let header = Header { kid: Some(kid), ..Header::new(Algorithm::ES256) };
        Signer { header, key: Arc::new(EncodingKey::from_ec_pem(&pem).unwrap()) }
    }

    fn token(&self) -> String {
        let name = "jland-78028f6d";
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let claims = Claims {
            iss: "https://kubernetes.default.svc".to_owned(),
            sub: format!("system:serviceaccount:{PREMIUM}:{name}"),
            aud: vec!["maas-default-gateway-sa".to_owned()],
            exp: now + 3600,
            nbf: Some(now),
            iat: Some(now),
            jti: Some(uuid::Uuid::new_v4().to_string()),
            kubernetes: Some(KubernetesClaims {
                namespace: PREMIUM.to_owned(),
                serviceaccount: ObjectClaims { name: name.to_owned(), uid: derived_uid(PREMIUM, name) },
                ..KubernetesClaims::default()
            }),
        };
        jsonwebtoken::encode(&self.header, &claims, &self.key).unwrap()
    }
}

/// The users are values of a counter, all of one token; each has an account of two cells, requests and tokens. Then as many
/// tokens as there may be, each with an identity of its own. A million identities at once are left out: what they take is
/// bounded whatever their number, and whoever is not remembered is reviewed again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_users_and_as_many_identities_as_are_kept_stay_small() {
    let (users, tokens) = (soak(20_000, 1_000_000), soak(2_000, 100_000));
    let manifests = by_header("24h");
    let tiergate = Tiergate::start(&manifests.0, &QUIET);
    let bearer: Arc<str> = format!("Bearer {}", premium()).into();
    let use_once = move |channel: Channel, user| {
        let bearer = Arc::clone(&bearer);
        async move {
            let response = check(&channel, of_user(&bearer, user)).await;
            assert_eq!(outcome(&response).0, 200, "{response:?}");
            let reservation = text(own(&response), "reservation");
            let used = report(vec![descriptor(reservation, Some("total"), Some(60))]);
            RateLimitServiceClient::new(channel).should_rate_limit(used).await.unwrap();
        }
    };
    // So many that every label is there, and what each connection takes.
    play(&tiergate, 0..1_000, use_once.clone()).await;
    let ((size, before), memory, started) = (series(&tiergate).await, tiergate.memory(), Instant::now());
    play(&tiergate, 1_000..users, use_once).await;
    let ((size_after, after), grown) = (series(&tiergate).await, tiergate.memory());
    let accounts = tiergate.metric("tiergate_limit_accounts", "").await;
    println!("{accounts} accounts in {:.1} s", started.elapsed().as_secs_f64());
    println!("resident memory: {memory} KiB before, {grown} KiB after them");
    println!("/metrics: {size} bytes before, {size_after} bytes after them");
    assert_eq!(accounts, users);
    assert_eq!(before, after, "no series is a user's");
    assert_eq!(tiergate.metric("tiergate_usage_reports_total", "settled").await, users);
    // 160 bytes each, and what the allocator keeps for the connections of every chunk.
    assert!(grown < memory + 32 * 1024 + users * 160 / 1024, "{memory} KiB before, {grown} KiB after");

    let (signer, started) = (Signer::new(), Instant::now());
    let call_once = move |channel: Channel, user| {
        let bearer = format!("Bearer {}", signer.token());
        async move { assert_eq!(outcome(&check(&channel, of_user(&bearer, user)).await).0, 200) }
    };
    play(&tiergate, 0..tokens, call_once).await;
    let (identities, full) = (tiergate.metric("tiergate_identities", "").await, tiergate.memory());
    let each = (full.saturating_sub(grown)) * 1024 / identities;
    println!("{tokens} tokens in {:.1} s, {identities} identities kept", started.elapsed().as_secs_f64());
    println!("resident memory: {full} KiB after them, {each} bytes each; goal for all: 200 MB");
    assert!(full < grown + 48 * 1024, "{grown} KiB before, {full} KiB after");
}

/// What callers wait, sorted.
struct Waits(Vec<Duration>);

impl Waits {
    fn at(&self, part: f64) -> f64 {
        self.0[((self.0.len() - 1) as f64 * part) as usize].as_secs_f64() * 1_000.0
    }

    fn print(&self, what: &str) {
        let (calls, p50, p99) = (self.0.len(), self.at(0.5), self.at(0.99));
        println!("{what}: {calls} good calls, p50 {p50:.2} ms, p99 {p99:.2} ms");
    }
}

/// One call after the other on each of a few connections.
async fn good(tiergate: &Tiergate, bearer: &str, lasting: Duration) -> Waits {
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (channel, bearer) = (channel(tiergate).await, bearer.to_owned());
        tasks.spawn(async move {
            let mut waits = Vec::new();
            while started.elapsed() < lasting && waits.len() < 1_000_000 {
                let called = Instant::now();
                let response = check(&channel, check_request(http(QWEN, Some(&bearer)))).await;
                waits.push(called.elapsed());
                assert_eq!(outcome(&response).0, 200, "{response:?}");
            }
            waits
        });
    }
    let mut waits = tasks.join_all().await.concat();
    waits.sort_unstable();
    Waits(waits)
}

/// `rate` tokens a second that nobody made, each another: three in ten are a good token's words under a forged signature,
/// which only a verification tells. Returns how many.
async fn junk(tiergate: &Tiergate, signed: &str, rate: u64, lasting: Duration) -> u64 {
    const TICK: Duration = Duration::from_millis(20);
    let ticks = lasting.as_millis() / TICK.as_millis();
    let words = signed.rsplit_once('.').unwrap().0.to_owned();
    let mut tasks = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (channel, words) = (channel(tiergate).await, words.clone());
        tasks.spawn(async move {
            let (mut sent, mut calls) = (0, JoinSet::new());
            let mut interval = tokio::time::interval(TICK);
            for _ in 0..ticks {
                interval.tick().await;
                for _ in 0..rate / 50 / CONNECTIONS {
                    let forged = sent % 10 < 3;
                    let token = if forged { format!("{words}.{}", signature()) } else { signature() };
                    let (channel, expected) = (channel.clone(), if forged { "SIGNATURE" } else { "MALFORMED" });
                    calls.spawn(async move {
                        let request = check_request(http(QWEN, Some(&format!("Bearer {token}"))));
                        let response = check(&channel, request).await;
                        let (status, code) = outcome(&response);
                        assert_eq!((status, code.strip_prefix("TG-TOKEN-")), (401, Some(expected)));
                    });
                    sent += 1;
                }
                // Those who are behind their pace wait, as the streams of one connection are bounded.
                while calls.len() > 500 {
                    calls.join_next().await.unwrap().unwrap();
                }
            }
            calls.join_all().await;
            sent
        });
    }
    tasks.join_all().await.into_iter().sum()
}

/// As long as one of ES256 is, and as random.
fn signature() -> String {
    use base64::Engine;
    let bytes: Vec<u8> = (0..4).flat_map(|_| uuid::Uuid::new_v4().into_bytes()).collect();
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

/// Client and server share the machine's cores: what good calls wait longer is the client's own work too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_junk_tokens_moves_nothing_else() {
    let (rate, lasting) = (soak(1_000, 10_000), Duration::from_secs(soak(1, 10)));
    let manifests = generous_manifests();
    let tiergate = Tiergate::start(&manifests.0, &QUIET);
    let signed = premium();
    let bearer = format!("Bearer {signed}");
    // In the full form, as many identities as are kept: one more would move another out.
    let signer = Signer::new();
    let remembered = move |channel: Channel, _| {
        let bearer = format!("Bearer {}", signer.token());
        async move { assert_eq!(outcome(&check(&channel, check_request(http(QWEN, Some(&bearer)))).await).0, 200) }
    };
    play(&tiergate, 0..soak(500, 20_000), remembered).await;
    good(&tiergate, &bearer, lasting / 10).await;
    good(&tiergate, &bearer, lasting).await.print("alone");
    let kept = async || {
        (tiergate.metric("tiergate_identities", "").await, tiergate.metric("tiergate_limit_accounts", "").await)
    };
    let (before, memory) = (kept().await, tiergate.memory());
    assert!(before.0 > 500 && before.1 == 1, "{before:?}");
    let started = Instant::now();
    let flood = async {
        let sent = junk(&tiergate, &signed, rate, lasting).await;
        (sent, sent as f64 / started.elapsed().as_secs_f64())
    };
    let ((sent, reached), waits) = tokio::join!(flood, good(&tiergate, &bearer, lasting));
    waits.print("beside the flood");
    let flooded = tiergate.memory();
    println!("junk: {sent} tokens, {reached:.0} a second; resident memory: {memory} KiB before, {flooded} KiB after");
    assert_eq!(kept().await, before, "no identity and no account came or went");
    assert_eq!(tiergate.metric("tiergate_decisions_total", "TG-TOKEN-").await, sent);
    assert!(flooded < memory + 48 * 1024, "{memory} KiB before, {flooded} KiB after");
}

/// The known ones are served on, new ones as it is configured, and an alarm rises.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_bound_new_callers_are_answered_as_configured_and_known_ones_served_on() {
    const BOUND: u64 = 300;
    let manifests = by_header("24h");
    let bearer: Arc<str> = format!("Bearer {}", premium()).into();
    for (flag, newcomer) in [("refuse", (503, "TG-UNAVAILABLE-ACCOUNTS")), ("allow", (200, ""))] {
        let bound = BOUND.to_string();
        let flags = [&QUIET[..], &["--max-accounts", &bound, "--without-room", flag]].concat();
        let tiergate = Tiergate::start(&manifests.0, &flags);
        let alarm = async || tiergate.metric("tiergate_requests_without_room_total", "").await;
        let accounts = async || tiergate.metric("tiergate_limit_accounts", "").await;
        // One after the other, to see who has an account: a shard can be full before all are.
        let (mut known, channel) = (Vec::new(), channel(&tiergate).await);
        for user in 0..BOUND {
            let before = accounts().await;
            let answer = check(&channel, of_user(&bearer, user)).await;
            match accounts().await - before {
                0 => assert_eq!(outcome(&answer), newcomer),
                _ => known.push(user),
            }
        }
        let flood = Arc::clone(&bearer);
        let come = move |channel: Channel, user| {
            let bearer = Arc::clone(&flood);
            async move { drop(check(&channel, of_user(&bearer, user)).await) }
        };
        play(&tiergate, 10_000..13_000, come).await;
        assert!(accounts().await <= BOUND, "{} accounts", accounts().await);
        let before = alarm().await;
        assert!(before >= 3_000 - BOUND, "{before} newcomers had no room");
        for user in &known {
            assert_eq!(outcome(&check(&channel, of_user(&bearer, *user)).await).0, 200);
        }
        assert_eq!(alarm().await, before, "{} have their account", known.len());
        // The few shards that are not full are filled in passing.
        let mut without = 0;
        for user in 20_000..20_100 {
            let accounts_before = accounts().await;
            let answer = check(&channel, of_user(&bearer, user)).await;
            if accounts().await == accounts_before {
                assert_eq!(outcome(&answer), newcomer);
                without += 1;
            }
        }
        assert!(without > 50, "{without} of 100 newcomers");
        assert_eq!(alarm().await, before + without);
    }
}

/// In the short form some of them, in the full one all: a turn of every shard takes a minute.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_accounts_of_a_flood_leave_when_they_are_idle() {
    let manifests = by_header("1s");
    let tiergate = Tiergate::start(&manifests.0, &QUIET);
    let bearer: Arc<str> = format!("Bearer {}", premium()).into();
    let come = move |channel: Channel, user| {
        let bearer = Arc::clone(&bearer);
        async move { assert_eq!(outcome(&check(&channel, of_user(&bearer, user)).await).0, 200) }
    };
    play(&tiergate, 0..soak(2_000, 100_000), come).await;
    let (kept, started) = (tiergate.metric("tiergate_limit_accounts", "").await, Instant::now());
    let enough = soak(kept - 1, 0);
    assert!(kept > 0);
    while tiergate.metric("tiergate_limit_accounts", "").await > enough {
        assert!(started.elapsed() < PATIENCE * 2, "idle accounts leave");
        // They become idle by time alone, and nothing tells when.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("{kept} idle accounts, {enough} after {:.1} s", started.elapsed().as_secs_f64());
}

/// What a Check costs the process, with 64 of them in flight on one connection, as an Envoy of one busy thread has them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures, and holds nothing"]
async fn what_a_check_costs() {
    const FLIGHT: u64 = 64;
    let manifests = generous_manifests();
    let tiergate = Tiergate::start(&manifests.0, &QUIET);
    let (channel, bearer) = (channel(&tiergate).await, format!("Bearer {}", premium()));
    let run = async |number: u64| {
        let mut tasks = JoinSet::new();
        for _ in 0..FLIGHT {
            let (channel, request) = (channel.clone(), check_request(http(QWEN, Some(&bearer))));
            tasks.spawn(async move {
                for _ in 0..number / FLIGHT {
                    assert_eq!(outcome(&check(&channel, request.clone()).await).0, 200);
                }
            });
        }
        tokio::time::timeout(PATIENCE * 3, tasks.join_all()).await.expect("all are answered in time");
    };
    run(soak(640, 6_400)).await;
    let (before, number) = (tiergate.cpu(), soak(6_400, 64_000));
    run(number).await;
    let cpu = tiergate.cpu() - before;
    println!("a Check, 64 in flight: {:.1} µs of CPU", cpu.as_secs_f64() * 1e6 / number as f64);
}
