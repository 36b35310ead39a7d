//! Parts of limits that are told when they are reached.

use super::reserve::{compiled, total};
use super::*;
use crate::metrics::{Metrics, PageFormat};
use crate::rules::LimitKind;
use crate::usage::{Channel, Reached};

/// `limits` of requests and of tokens for each user, and what annotations of both say.
fn world(annotations: &str, algorithm: &str) -> Gate {
    let policy = |kind: &str, limit: u64, annotations: &str| {
        format!(
            "
apiVersion: kuadrant.io/v1
kind: {kind}
metadata: {{name: limits, namespace: ns, annotations: {{tiergate.io/algorithm: {algorithm}{annotations}}}}}
spec:
  targetRef: {{group: gateway.networking.k8s.io, kind: Gateway, name: gw}}
  limits:
    user:
      rates: [{{limit: {limit}, window: 1m}}]
      counters: [{{expression: 'request.headers[\"x-user\"]'}}]
---"
        )
    };
    let limits = [policy("RateLimitPolicy", 5, annotations), policy("TokenRateLimitPolicy", 1_000, annotations)];
    gate(compiled(&limits.concat()), settings())
}

async fn decide(gate: &Gate, user: &str, second: u64) -> Decision {
    let mut call = Call::path("/v1/chat/completions");
    call.headers.insert("x-user".to_owned(), user.to_owned());
    call.on(gate, Nanos::from(Duration::from_secs(second))).await
}

fn parts(reached: &[Reached]) -> Vec<(LimitKind, &[u8], u64)> {
    reached.iter().map(|reached| (reached.kind, &*reached.percents, reached.standing.used())).collect()
}

use LimitKind::{Requests, Tokens};

#[tokio::test]
async fn a_part_of_a_limit_is_told_once_by_whoever_reaches_it() {
    let gate = world(", tiergate.io/notify.user: '100,80'", "fixed-window");
    let told = async |user: &str, second| {
        let decision = decide(&gate, user, second).await;
        (decision.outcome.is_ok(), parts(&decision.evidence.reached).iter().map(|(.., at)| *at).collect::<Vec<_>>())
    };
    for turn in 0..2 {
        let second = turn * 60;
        for (call, expected) in [vec![], vec![], vec![], vec![4], vec![5]].into_iter().enumerate() {
            assert_eq!(told("ada", second).await, (true, expected), "window {turn}, call {call}");
        }
        // What is refused takes nothing, and so reaches nothing.
        assert_eq!(told("ada", second).await, (false, vec![]));
    }
    // Another account.
    for expected in [vec![], vec![], vec![], vec![4]] {
        assert_eq!(told("ben", 60).await, (true, expected));
    }
    let decision = decide(&gate, "ben", 60).await;
    let [reached] = &*decision.evidence.reached else { panic!("{:?}", decision.evidence.reached) };
    assert_eq!(
        (&*reached.limit, &*reached.percents, &*reached.key),
        ("ns/limits/user", &[100][..], &["ben".to_owned()][..])
    );
}

#[tokio::test]
async fn in_a_bucket_it_is_told_again_after_its_use_has_fallen_below() {
    let gate = world(", tiergate.io/notify.user: '80'", "token-bucket");
    let told = async |second| parts(&decide(&gate, "ada", second).await.evidence.reached).len();
    let mut all = Vec::new();
    // One is back each 12 seconds.
    for second in [0, 0, 0, 0, 0, 11, 12, 36, 36] {
        all.push(told(second).await);
    }
    assert_eq!(all, [0, 0, 0, 1, 0, 0, 0, 1, 0]);
}

#[tokio::test]
async fn a_usage_report_that_passes_a_part_tells_it() {
    let gate = world(", tiergate.io/notify.user: '80,100'", "fixed-window");
    let metrics = Metrics::new();
    metrics.published(&gate.policies.current(), &[]);
    let reports = gate.reports(metrics.usage.clone());
    let mut told: Vec<Vec<(LimitKind, Vec<u8>, u64)>> = Vec::new();
    for tokens in [700, 150, 10, 200] {
        let decision = decide(&gate, "ada", 0).await;
        metrics.decided(&decision, Duration::ZERO);
        let reservation = decision.outcome.unwrap().reservation;
        for _ in 0..2 {
            let charged = reports.take(&reservation, &total(tokens), Channel::RateLimit, Nanos(0)).await;
            told.push(parts(&charged.reached).iter().map(|(kind, parts, at)| (*kind, parts.to_vec(), *at)).collect());
        }
    }
    // A report that comes again tells nothing again.
    let expected = [vec![], vec![(Tokens, vec![80], 850)], vec![], vec![(Tokens, vec![100], 1_060)]];
    assert_eq!(told, expected.into_iter().flat_map(|first| [first, Vec::new()]).collect::<Vec<_>>());
    let page = metrics.page(PageFormat::OpenMetrics, 0, 0);
    let lines: Vec<&str> = page.lines().filter(|line| line.starts_with("tiergate_limit_reached_total")).collect();
    let line = |kind: &str, percent: u8, times: u8| {
        format!(
            "tiergate_limit_reached_total{{kind=\"{kind}\",limit=\"user\",percent=\"{percent}\",policy=\"ns/limits\"}} {times}"
        )
    };
    let all = [("requests", 80, 1), ("requests", 100, 0), ("tokens", 80, 1), ("tokens", 100, 1)];
    assert_eq!(lines, all.map(|(kind, percent, times)| line(kind, percent, times)));
    metrics.published(&world("", "fixed-window").policies.current(), &[]);
    assert!(!metrics.page(PageFormat::OpenMetrics, 0, 0).contains("tiergate_limit_reached_total{"));
}

/// What is held is used: a forecast reaches a part as well as an answer does, and both are told in shadow too.
#[tokio::test]
async fn limits_that_say_nothing_of_it_are_not_watched_and_those_in_shadow_may_be() {
    let silent = world("", "fixed-window");
    let watched = world(", tiergate.io/shadow: 'true', tiergate.io/notify.user: '20'", "fixed-window");
    for _ in 0..5 {
        let decision = decide(&silent, "ada", 0).await;
        assert!(
            decision.outcome.is_ok() && decision.evidence.reached.is_empty() && decision.evidence.watched.is_empty()
        );
    }
    let decision = decide(&watched, "ada", 0).await;
    let reached = &decision.evidence.reached;
    assert_eq!(parts(reached), [(Requests, &[20][..], 1)]);
    assert!(reached[0].shadow && reached[0].key == ["ada"]);
}
