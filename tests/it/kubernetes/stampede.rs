//! Many requests at once through Envoy, and how few calls of the API server they cost.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::KeyPair;
use serde_json::{Value, json};
use tiergate::identity::{Claims, KubernetesClaims, ObjectClaims};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::access::settled;
use super::review::reviews;
use super::{REVIEW, World, rules};
use crate::cluster::{CRDS, Cluster, SHARED, apply, apply_object, token};
use crate::envoy::{chat, gateway};
use crate::support::{Connection, Tiergate, await_ready, get, soak};

/// An answer: its status, the code of a refusal, and how long it took.
type Told = (u16, String, Duration);

/// Sends each of `requests` (path and token) on a connection of its own, all at once.
async fn at_once(gateway: SocketAddr, requests: Vec<(String, String)>) -> Vec<Told> {
    let start = Arc::new(Barrier::new(requests.len()));
    let mut tasks = JoinSet::new();
    for (path, token) in requests {
        let start = Arc::clone(&start);
        tasks.spawn(async move {
            let mut connection = Connection::open(gateway).await;
            start.wait().await;
            tell(&mut connection, &path, &token).await
        });
    }
    tasks.join_all().await
}

async fn tell(connection: &mut Connection, path: &str, token: &str) -> Told {
    let started = Instant::now();
    let answer = chat(connection, path, token).await;
    let code = if answer.status == 200 { Value::Null } else { answer.json()["error"]["code"].clone() };
    (answer.status, code.as_str().unwrap_or_default().to_owned(), started.elapsed())
}

/// A new token of a user of the free tier.
async fn fresh(world: &World, name: &str) -> String {
    token(&world.client, &format!("{}-tier-free", world.name), name, &[&world.audience()]).await
}

fn slowest(told: &[Told]) -> Duration {
    told.iter().map(|(.., took)| *took).max().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_requests_with_one_cold_token_cost_one_review() {
    // A debug build beside other tests has to answer them within Envoy's deadline.
    let count = soak(300, 1_000);
    // One of its own: on the one that is shared, other tests change RBAC, and an answer right after a change is not kept.
    let cluster = Cluster::start();
    apply(&cluster.client().await, CRDS).await;
    let world = World::generous(&cluster, "thousand").await;
    let tiergate = world.tiergate(&cluster, &[REVIEW]).await;
    let gateway = gateway(tiergate.grpc).await;
    let mut alice = world.caller(&tiergate, "free", "alice-12345678").await;
    settled(&cluster, &world, &mut alice, &world.path("llm", "draft")).await;
    // One that is granted, and one whose refusal is the API server's word.
    for (model, status) in [("granite", 200), ("draft", 403)] {
        for _ in 0..soak(1, 10) {
            let before = reviews(&cluster, &world);
            let request = (world.path("llm", model), fresh(&world, "bob-2b9f1c07").await);
            let told = at_once(gateway.address, vec![request; count]).await;
            assert!(told.iter().all(|(told, ..)| *told == status), "{:?}", told.iter().find(|(s, ..)| *s != status));
            let after = reviews(&cluster, &world);
            let (tokens, accesses) = (after.0 - before.0, after.1 - before.1);
            println!(
                "{count} requests at once for {model} with one cold token: {tokens} TokenReview, {accesses} SubjectAccessReviews, \
                 slowest answer {:.0?}",
                slowest(&told)
            );
            assert_eq!(tokens, 1);
            // Should it take longer than the five seconds for which an answer is remembered, on a loaded machine, there are more.
            assert!(accesses <= 1 + usize::try_from(slowest(&told).as_secs() / 5).unwrap(), "{accesses}");
        }
    }
}

/// A key that signs tokens, and what it calls itself.
struct Signer {
    key: EncodingKey,
    id: Option<String>,
}

impl Signer {
    fn sign(&self, claims: &Claims) -> String {
        let header = Header { kid: self.id.clone(), ..Header::new(Algorithm::ES256) };
        encode(&header, claims, &self.key).unwrap()
    }
}

fn key(pem: &str) -> EncodingKey {
    EncodingKey::from_ec_pem(pem.as_bytes()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn junk_costs_the_api_server_nothing() {
    let world = World::generous(&SHARED, "junk").await;
    let tiergate = world.tiergate(&SHARED, &[REVIEW]).await;
    let gateway = gateway(tiergate.grpc).await;
    let jwks: JwkSet = serde_json::from_str(&std::fs::read_to_string(SHARED.jwks()).unwrap()).unwrap();
    let known = jwks.keys[0].common.key_id.clone();
    let stranger = KeyPair::generate().unwrap().serialize_pem();
    let strange = |id: Option<String>| Signer { key: key(&stranger), id };
    let own = Signer { key: key(&std::fs::read_to_string(SHARED.signing_key()).unwrap()), id: known.clone() };
    let wrong_audience =
        token(&world.client, &format!("{}-tier-free", world.name), "alice-12345678", &["another"]).await;
    let (now, uid) = (unix_seconds(), uid_of_alice(&world).await);
    let claims = |n: usize, exp: u64| Claims {
        iss: "https://kubernetes.default.svc".to_owned(),
        sub: format!("system:serviceaccount:{}-tier-free:alice-12345678", world.name),
        aud: vec![world.audience()],
        exp,
        nbf: Some(now - 7200),
        iat: Some(now - 7200),
        jti: Some(n.to_string()),
        kubernetes: Some(KubernetesClaims {
            namespace: format!("{}-tier-free", world.name),
            serviceaccount: ObjectClaims { name: "alice-12345678".to_owned(), uid: uid.clone() },
            ..KubernetesClaims::default()
        }),
    };
    let bearer = |n: usize| match n % 8 {
        0 => format!("sha256~{n:043}"),
        1 => format!("eyJ{n}.eyJ{n}.x{n}"),
        2 => strange(known.clone()).sign(&claims(n, now + 3600)),
        3 => strange(Some(format!("key-{n}"))).sign(&claims(n, now + 3600)),
        4 => strange(None).sign(&claims(n, now + 3600)),
        5 => own.sign(&claims(n, now - 3600)),
        6 => {
            let (header, body) = (json!({"alg": "none"}), serde_json::to_string(&claims(n, now + 3600)).unwrap());
            format!("{}.{}.", base64(&header.to_string()), base64(&body))
        }
        _ => encode(&Header::default(), &claims(n, now + 3600), &EncodingKey::from_secret(b"secret")).unwrap(),
    };
    let count = soak(1_000, 10_000);
    let (started, granite) = (Instant::now(), world.path("llm", "granite"));
    let bearers: Vec<String> = (0..count).map(bearer).chain([wrong_audience, "x".repeat(7_000)]).collect();
    let mut tasks = JoinSet::new();
    for share in bearers.chunks(bearers.len().div_ceil(32)).map(<[String]>::to_vec) {
        let (path, address) = (granite.clone(), gateway.address);
        tasks.spawn(async move {
            let mut connection = Connection::open(address).await;
            for token in share {
                let (status, code, _) = tell(&mut connection, &path, &token).await;
                assert!(status == 401 && code.starts_with("TG-TOKEN-"), "{status} {code}: {token}");
            }
        });
    }
    tasks.join_all().await;
    let took = started.elapsed();
    // Longer than any token that is looked at.
    let mut connection = Connection::open(gateway.address).await;
    assert_eq!(tell(&mut connection, &granite, &"x".repeat(16 << 10)).await.1, "TG-TOKEN-MALFORMED");
    assert_eq!(reviews(&SHARED, &world), (0, 0));
    let keys = tiergate.metric("tiergate_api_calls_total", "call=\"keys\"").await;
    println!("{count} bearers that are good for nothing in {took:.1?}: no review, {keys} calls for keys");
    // A key that nobody knows is looked for once a second, in two calls.
    assert!(keys <= 4 + 2 * (took.as_secs() + 1), "{keys} in {took:?}");
    assert_eq!(tell(&mut connection, &granite, &fresh(&world, "alice-12345678").await).await.0, 200);
}

fn unix_seconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text)
}

async fn uid_of_alice(world: &World) -> String {
    let path = format!("/api/v1/namespaces/{}-tier-free/serviceaccounts/alice-12345678", world.name);
    let account: Value = world.client.request(crate::cluster::request("GET", &path, None)).await.unwrap();
    account["metadata"]["uid"].as_str().unwrap().to_owned()
}

/// A way to the API server on which everything that is sent takes `delay` longer.
async fn slow_way(server: &str, delay: Duration) -> SocketAddr {
    let target: SocketAddr = server.trim_start_matches("https://").parse().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Ok(far) = TcpStream::connect(target).await else { return };
                let ((mut from, mut back), (mut answer, mut to)) = (near.into_split(), far.into_split());
                let there = async move {
                    let mut buffer = vec![0; 1 << 16];
                    while let Ok(read) = from.read(&mut buffer).await {
                        // What is tried is slowness.
                        tokio::time::sleep(delay).await;
                        if read == 0 || to.write_all(&buffer[..read]).await.is_err() {
                            break;
                        }
                    }
                };
                // An end of either is the end of both.
                tokio::select! {
                    () = there => {}
                    _ = tokio::io::copy(&mut answer, &mut back) => {}
                }
            });
        }
    });
    address
}

/// This world's tiergate, whose way to the API server is slow.
async fn slowly(cluster: &Cluster, world: &World, flags: &[&str]) -> Tiergate {
    let direct = world.kubeconfig(cluster, "tiergate", rules()).await;
    let way = slow_way(cluster.server(), Duration::from_millis(20)).await;
    let text = std::fs::read_to_string(&direct).unwrap();
    let kubeconfig = direct.with_extension("slow");
    std::fs::write(&kubeconfig, text.replace(cluster.server(), &format!("https://{way}"))).unwrap();
    let tiergate = world.start(cluster, &kubeconfig, flags);
    await_ready(&tiergate).await;
    tiergate
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_cold_tokens_at_once_are_let_in_or_told_to_come_again() {
    let world = World::generous(&SHARED, "cold").await;
    let (count, granite) = (soak(100, 500), world.path("llm", "granite"));
    let namespace = format!("{}-tier-free", world.name);
    for n in 0..count {
        let meta = json!({"name": format!("user-{n}"), "namespace": namespace});
        apply_object(&world.client, &json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta})).await;
    }
    for (flags, local) in [(&[REVIEW, "--identity", "local"][..], true), (&[REVIEW], false)] {
        let tiergate = slowly(&SHARED, &world, flags).await;
        let gateway = gateway(tiergate.grpc).await;
        let mut requests = Vec::new();
        for n in 0..count {
            requests.push((granite.clone(), fresh(&world, &format!("user-{n}")).await));
        }
        let before = reviews(&SHARED, &world).0;
        let first = at_once(gateway.address, requests.clone()).await;
        let good = first.iter().filter(|(status, ..)| *status == 200).count();
        let other = first.iter().find(|(status, code, _)| *status != 200 && !(*status == 503 && is_ours(code)));
        assert_eq!(other, None);
        let slowest_first = slowest(&first);
        let late = later_than_a_quarter(&tiergate).await;
        // Whoever was told to come again does so, after the second that `Retry-After` says.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let second = at_once(gateway.address, requests).await;
        let again = second.iter().filter(|(status, ..)| *status == 200).count();
        let tokens = reviews(&SHARED, &world).0 - before;
        println!(
            "{count} cold tokens at once, 20 ms to the API server, {flags:?}: {good} let in, slowest answer {slowest_first:.0?}, {late} \
             decided later than Envoy would wait; {tokens} TokenReviews; {again} on a second try, slowest {:.0?}",
            slowest(&second)
        );
        assert_eq!(again, count, "{:?}", second.iter().find(|(status, ..)| *status != 200));
        // Whose review came to nothing in time is asked about once more.
        let asked = if local { 0..=0 } else { count..=2 * count - good };
        assert!(asked.contains(&tokens), "{tokens} TokenReviews, {good} let in at first");
        assert!(!local || good == count);
    }
}

/// How many decisions took longer than a quarter of a second, which is what the shipped configuration waits.
async fn later_than_a_quarter(tiergate: &Tiergate) -> u64 {
    let page = get(tiergate.http, "/metrics").await.body;
    let value = |name: &str| {
        let line = page.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name} in {page}"));
        line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    let within = value("tiergate_decision_duration_seconds_bucket{le=\"0.262144\"}");
    value("tiergate_decision_duration_seconds_count") - within
}

fn is_ours(code: &str) -> bool {
    matches!(code, "TG-UNAVAILABLE-DEADLINE" | "TG-UNAVAILABLE-API-SERVER")
}

/// What made Authorino's users raise its limits, or give up: authorino#568.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_users_with_many_requests_cost_ten_reviews() {
    let world = World::generous(&SHARED, "ten").await;
    let tiergate = world.tiergate(&SHARED, &[REVIEW]).await;
    let gateway = gateway(tiergate.grpc).await;
    let (each, granite) = (soak(100, 1_000), world.path("llm", "granite"));
    let users = ["alice-12345678", "bob-2b9f1c07", "carol-7d20e4aa", "dave-51c8be93", "erin-0fa3d6b2"];
    let (started, mut tasks) = (Instant::now(), JoinSet::new());
    // Two tokens each: ten callers.
    for user in users.iter().chain(&users) {
        let (token, path, address) = (fresh(&world, user).await, granite.clone(), gateway.address);
        tasks.spawn(async move {
            let mut connection = Connection::open(address).await;
            for _ in 0..each {
                assert_eq!(tell(&mut connection, &path, &token).await.0, 200);
            }
        });
    }
    tasks.join_all().await;
    let (tokens, accesses) = reviews(&SHARED, &world);
    println!(
        "ten users, {each} requests each in {:.1?}: all 200, {tokens} TokenReviews, {accesses} SubjectAccessReviews",
        started.elapsed()
    );
    assert_eq!((tokens, accesses), (10, 0));
}
