//! A mapping that changes under load.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::service::auth::v3::CheckResponse;
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;

use super::{GRANITE, bearer, open};
use crate::live::{rename, told, write};
use crate::reload::replace;
use crate::support::{Tiergate, soak};
use crate::wire::{channel, check, check_request, http, outcome, own, text};

/// Of ten callers: 500 requests a second.
const EACH: Duration = Duration::from_millis(20);
const CALLERS: [(&str, &str); 10] = [
    ("free", "alice-12345678"),
    ("free", "bob-2b9f1c07"),
    ("free", "carol-7d20e4aa"),
    ("free", "dave-51c8be93"),
    ("free", "erin-0fa3d6b2"),
    ("premium", "jland-78028f6d"),
    ("premium", "grace-9be105d3"),
    ("premium", "heidi-3a67c2f1"),
    ("premium", "judy-14f2a9d0"),
    ("enterprise", "ivan-e85d40b9"),
];
/// What the limit of a tier is without its edition, which is added: far more than is asked for.
const LIMITS: [(&str, u64); 4] =
    [("free", 100_000_000), ("premium", 200_000_000), ("gold", 300_000_000), ("enterprise", 400_000_000)];

/// What a change did, by the number of its edition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    DisplayName,
    Group,
    Level,
    NewTier,
    RemovedTier,
}

impl Change {
    fn of(edition: u64) -> Self {
        match edition % 5 {
            0 => Change::DisplayName,
            1 => Change::Group,
            2 => Change::Level,
            3 => Change::NewTier,
            _ => Change::RemovedTier,
        }
    }

    /// The tier that a user of `tier`'s namespace has then.
    fn tier(self, tier: &'static str) -> &'static str {
        match (self, tier) {
            (_, "enterprise") => "enterprise",
            (Change::Level | Change::RemovedTier, _) => "free",
            (Change::NewTier, _) => "gold",
            (Change::Group, _) => "premium",
            (Change::DisplayName, tier) => tier,
        }
    }
}

/// The mapping and the limits of an edition, whose number each of them tells: the one by its display names, the other by its
/// numbers. The limit of the enterprise tier stays as it is.
fn edition(number: u64) -> String {
    let change = Change::of(number);
    let tier = |name: &str, level: u64, groups: &str| {
        format!("    - {{name: {name}, displayName: \"{number}\", level: {level}, groups: [{groups}]}}\n")
    };
    let everybody = "\"system:authenticated\"";
    let mut tiers = tier("free", if change == Change::Level { 100 } else { 1 }, everybody);
    if change != Change::RemovedTier {
        tiers += &tier("premium", 10, if change == Change::Group { everybody } else { "premium-users" });
    }
    if change == Change::NewTier {
        tiers += &tier("gold", 50, everybody);
    }
    tiers += &tier("enterprise", 1_000, "enterprise-users");
    let limit = |(name, limit): (&str, u64)| {
        let limit = if name == "enterprise" { limit } else { limit + number };
        format!(
            "    {name}:\n      rates: [{{limit: {limit}, window: 24h}}]\n      when: [{{predicate: auth.identity.tier == \"{name}\"}}]\n      \
             counters: [{{expression: auth.identity.userid}}]\n"
        )
    };
    let limits: String = LIMITS.into_iter().map(limit).collect();
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: tier-to-group-mapping, namespace: maas-api}}\ndata:\n  tiers: |\n{tiers}\
         ---\napiVersion: kuadrant.io/v1\nkind: RateLimitPolicy\nmetadata:\n  name: gateway-rate-limits\n  namespace: openshift-ingress\n  \
         annotations: {{tiergate.io/algorithm: fixed-window}}\nspec:\n  targetRef: {{group: gateway.networking.k8s.io, kind: Gateway, name: \
         maas-default-gateway}}\n  limits:\n{limits}"
    )
}

fn remaining(response: &CheckResponse) -> u64 {
    let Some(HttpResponse::OkResponse(ok)) = &response.http_response else { panic!("{response:?}") };
    let headers = ok.response_headers_to_add.iter().filter_map(|option| option.header.as_ref());
    let left = headers.into_iter().find(|header| header.key == "x-ratelimit-remaining-requests").unwrap();
    left.value.parse().unwrap()
}

/// Holds an answer against what its edition says, and gives its generation and edition.
fn holds(response: &CheckResponse, user_of: &'static str, used: &mut HashMap<&'static str, u64>) -> (u64, u64) {
    assert_eq!(outcome(response), (200, ""), "{:?}", own(response));
    let (generation, edition, limit) = told(response);
    let change = Change::of(edition);
    let tier = change.tier(user_of);
    assert_eq!(text(own(response), "tier"), tier, "edition {edition}, {change:?}, a user of {user_of}");
    let (_, base) = LIMITS.into_iter().find(|(name, _)| *name == tier).unwrap();
    let expected = if tier == "enterprise" { base } else { base + edition };
    assert_eq!(limit, expected, "the limit of another generation than {generation}");
    let gone = own(response).fields.contains_key("tier_gone");
    assert_eq!(gone, change == Change::RemovedTier && user_of == "premium", "edition {edition}");
    // What was used of a tier's limit is kept while the user has another tier, and each request takes one.
    let count = used.entry(tier).or_default();
    *count += 1;
    assert_eq!(limit - remaining(response), *count, "{tier}, edition {edition}");
    (generation, edition)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tiers_that_change_under_load_give_no_5xx_no_mixed_answer_and_lose_no_count() {
    let folder = open();
    for name in ["tiers.yaml", "limits.yaml"] {
        fs::remove_file(folder.0.join(name)).unwrap();
    }
    let tier = "auth.metadata.matchedTier[\"tier\"]";
    let shown = format!(
        "{tier}\n                edition:\n                  expression: auth.metadata.matchedTier[\"displayName\"]"
    );
    replace(&folder.0, "auth-policy.yaml", tier, &shown);
    folder.file("both.yaml", &edition(0));
    let tiergate = Tiergate::start(&folder.0, &["--log", "error,tiergate=info,tiergate::decision=error"]);
    let stop = Arc::new(AtomicBool::new(false));
    let mut callers = tokio::task::JoinSet::new();
    for (tier, name) in CALLERS {
        let (channel, authorization) = (channel(&tiergate).await, bearer(&folder, tier, name));
        let stop = Arc::clone(&stop);
        callers.spawn(async move {
            let (mut used, mut seen) = (HashMap::new(), Vec::new());
            let mut pace = tokio::time::interval(EACH);
            while !stop.load(Ordering::Relaxed) {
                pace.tick().await;
                let response = check(&channel, check_request(http(GRANITE, Some(&authorization)))).await;
                seen.push(holds(&response, tier, &mut used));
            }
            seen
        });
    }
    let (changes, started) = (soak(40, 1_000), Instant::now());
    for number in 1..=changes {
        write(&folder.0, "both.yaml", &edition(number), true);
        rename(&folder.0, "both.yaml");
        tiergate.await_log("policy published");
    }
    stop.store(true, Ordering::Relaxed);
    let seen: Vec<_> = callers.join_all().await.into_iter().flatten().collect();
    let mut editions: HashMap<u64, u64> = HashMap::new();
    for (generation, edition) in &seen {
        assert_eq!(editions.entry(*generation).or_insert(*edition), edition, "generation {generation}");
    }
    let newest = tiergate.metric("tiergate_policy_generation", "").await;
    assert!(newest > changes && editions.len() as u64 > changes / 2, "{newest} generations, {} seen", editions.len());
    assert_eq!(tiergate.metric("tiergate_decisions_total", "undecided").await, 0);
    println!(
        "{changes} changes of tiers in {:?}: {} answers of {} generations, no 5xx, none of two generations, no count lost",
        started.elapsed(),
        seen.len(),
        editions.len()
    );
}
