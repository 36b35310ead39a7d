//! A tier that vanishes while users hold it.

use super::{GRANITE, bearer, open};
use crate::reload::replace;
use crate::support::{TIERGATE, Tiergate, get};
use crate::wire::{channel, check, check_request, http, outcome, own, text};

#[tokio::test]
async fn a_tier_that_vanishes_is_reported_at_once_and_its_users_fall_to_their_next() {
    let folder = open();
    let tiergate = Tiergate::start(&folder.0, &["--log", "warn,tiergate=info"]);
    let channel = channel(&tiergate).await;
    let premium = bearer(&folder, "premium", "jland-78028f6d");
    let ask = async || check(&channel, check_request(http(GRANITE, Some(&premium)))).await;
    assert_eq!(text(own(&ask().await), "tier"), "premium");
    replace(&folder.0, "tiers.yaml", "name: premium", "name: gold");
    // The log.
    let told = tiergate.await_log("of tier `premium`, which is not in the tier mapping");
    assert_eq!(told["level"], "WARN");
    tiergate.await_log("policy published");
    // The requests.
    let answer = ask().await;
    assert_eq!(outcome(&answer), (200, ""));
    assert_eq!((text(own(&answer), "tier"), text(own(&answer), "tier_gone")), ("free", "premium"));
    // The metrics: users, the predicates of two policies, an annotation; and the new tier has no limit, twice.
    assert_eq!(tiergate.metric("tiergate_requests_of_gone_tier_total", "").await, 1);
    let warnings = tiergate.metric("tiergate_policy_problems", "severity=\"warning\"").await;
    let problems = get(tiergate.http, "/problems").await.json();
    let problems = problems["problems"].as_array().unwrap();
    assert_eq!(problems.len() as u64, warnings);
    let of = |kind: &str| {
        let named = |problem: &&serde_json::Value| {
            problem["object"]["kind"] == kind && problem["message"].as_str().unwrap().contains("`premium`")
        };
        problems.iter().filter(named).count()
    };
    assert_eq!(["ServiceAccount", "RateLimitPolicy", "TokenRateLimitPolicy", "LLMInferenceService"].map(of), [1; 4]);
    // The command.
    let check = std::process::Command::new(TIERGATE).arg("check").arg(&folder.0).output().unwrap();
    let shown = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(shown.contains("of tier `premium`, which is not in the tier mapping"), "{shown}");
    // And back.
    replace(&folder.0, "tiers.yaml", "name: gold", "name: premium");
    tiergate.await_log("policy published");
    assert_eq!(text(own(&ask().await), "tier"), "premium");
    // What is left is told for an hour: the tier that was there in between.
    let left = get(tiergate.http, "/problems").await.json();
    let left = left["problems"].as_array().unwrap();
    assert!(left.iter().all(|problem| problem["code"] == "object-gone"), "{left:?}");
    assert_eq!(tiergate.metric("tiergate_policy_problems", "severity=\"error\"").await, 0);
}

#[tokio::test]
async fn without_a_next_tier_the_refusal_says_which_one_is_gone() {
    let folder = open();
    replace(&folder.0, "tiers.yaml", "name: premium", "name: gold");
    for (flags, everybody) in [(&[][..], "- nobody"), (&["--tier-unknown", "refuse"], "- system:authenticated")] {
        replace(&folder.0, "tiers.yaml", "- system:authenticated", everybody);
        let tiergate = Tiergate::start(&folder.0, flags);
        let channel = channel(&tiergate).await;
        let premium = bearer(&folder, "premium", "jland-78028f6d");
        let answer = check(&channel, check_request(http(GRANITE, Some(&premium)))).await;
        assert_eq!(outcome(&answer), (403, "TG-TIER-GONE"));
        assert_eq!(text(own(&answer), "tier_gone"), "premium");
        let line = tiergate.await_log("your tier `premium` is no longer configured");
        assert_eq!((&line["code"], &line["tier.gone"]), (&"TG-TIER-GONE".into(), &"premium".into()));
        replace(&folder.0, "tiers.yaml", everybody, "- system:authenticated");
    }
}
