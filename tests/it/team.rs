//! A team's limit and its users' own on one request, from many connections at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::reload::replace;
use crate::support::{Folder, Tiergate};
use crate::wire::{channel, check, check_request, http, outcome};

const USERS: usize = 100;
const TEAM: usize = 1_000;
const USER: usize = 15;

/// No time passes in windows of days.
const MANIFESTS: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gw, namespace: ns}
spec: {gatewayClassName: x, listeners: [{name: http, port: 80, protocol: HTTP}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: ns}
spec: {parentRefs: [{name: gw}], rules: [{}]}
---
apiVersion: kuadrant.io/v1
kind: AuthPolicy
metadata: {name: open, namespace: ns}
spec:
  targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: gw}
  rules: {authentication: {anybody: {anonymous: {}}}}
---
apiVersion: kuadrant.io/v1
kind: RateLimitPolicy
metadata: {name: limits, namespace: ns}
spec:
  targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: gw}
  limits:
    user:
      rates: [{limit: 15, window: 2400h}]
      counters: [{expression: 'request.headers["x-user"]'}, {expression: 'request.headers["x-team"]'}]
    team:
      rates: [{limit: 1000, window: 2400h}]
      counters: [{expression: 'request.headers["x-team"]'}]
"#;

/// Whether the user's request is let in.
async fn passes(channel: &Channel, user: usize) -> bool {
    let mut http = http("/v1/chat/completions", None);
    http.headers.insert("x-user".to_owned(), format!("user-{user}"));
    http.headers.insert("x-team".to_owned(), "red".to_owned());
    match outcome(&check(channel, check_request(http)).await) {
        (200, _) => true,
        (429, "TG-LIMIT-REQUESTS") => false,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_team_of_a_hundred_users_is_never_let_in_more_than_its_thousand_times() {
    let folder = Folder::new();
    folder.file("all.yaml", MANIFESTS);
    let tiergate = Tiergate::start(&folder.0, &[]);
    let passed: Arc<[AtomicUsize]> = (0..USERS).map(|_| AtomicUsize::new(0)).collect();
    let all = |passed: &[AtomicUsize]| passed.iter().map(|user| user.load(Ordering::SeqCst)).sum::<usize>();
    let mut tasks = JoinSet::new();
    for task in 0..16 {
        let (passed, channel) = (Arc::clone(&passed), channel(&tiergate).await);
        tasks.spawn(async move {
            for turn in 0..100 {
                let user = (task * 31 + turn * 7) % USERS;
                if passes(&channel, user).await {
                    passed[user].fetch_add(1, Ordering::SeqCst);
                }
                assert!(all(&passed) <= TEAM);
            }
        });
    }
    tasks.join_all().await;
    let channel = channel(&tiergate).await;
    for (user, count) in passed.iter().enumerate() {
        count.fetch_add(usize::from(passes(&channel, user).await), Ordering::SeqCst);
    }
    assert_eq!(all(&passed), TEAM);
    // What the team's limit refused has cost no user anything: with room for all of them each has their own limit, and no more.
    replace(&folder.0, "all.yaml", "limit: 1000", "limit: 1000000");
    tiergate.await_log("policy published");
    for (user, count) in passed.iter().enumerate() {
        while passes(&channel, user).await {
            count.fetch_add(1, Ordering::SeqCst);
        }
        assert_eq!(count.load(Ordering::SeqCst), USER, "user {user}");
    }
}

/// In the log and as a metric, once for the team and not for each of its users.
#[tokio::test]
async fn a_part_of_a_teams_limit_is_told_once() {
    let folder = Folder::new();
    let annotated = "metadata: {name: limits, namespace: ns, annotations: {tiergate.io/notify.team: '50,100'}}";
    let text =
        MANIFESTS.replace("metadata: {name: limits, namespace: ns}", annotated).replace("limit: 1000", "limit: 4");
    folder.file("all.yaml", &text);
    let tiergate = Tiergate::start(&folder.0, &[]);
    let channel = channel(&tiergate).await;
    let reached = async |percent: &str| tiergate.metric("tiergate_limit_reached_total", percent).await;
    assert_eq!((reached("percent=\"50\"").await, reached("percent=\"100\"").await), (0, 0));
    for (user, passed) in [(1, true), (2, true), (3, true), (4, true), (5, false)] {
        assert_eq!(passes(&channel, user).await, passed);
    }
    assert_eq!((reached("percent=\"50\"").await, reached("percent=\"100\"").await), (1, 1));
    // Both within one second.
    for expected in [[50, 2, 4], [100, 4, 4]] {
        let line = tiergate.await_log("usage has reached a part of a limit");
        let numbers = ["percent", "used", "of"].map(|name| line[name].as_u64());
        assert_eq!(numbers, expected.map(Some), "{line}");
        assert_eq!((line["limit"].as_str(), line["counter"].as_str()), (Some("ns/limits/team"), Some("red")));
        assert!(line["reset_seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{line}");
    }
}
