//! Tiers that a service knows, and tiers that are gone.

use futures_util::FutureExt;
use futures_util::future::join_all;

use super::*;
use crate::test_util::tier_service::{Says, TierService};
use crate::tier::TierServices;

const LONG: Duration = Duration::from_secs(30);
/// Everybody may call the models in `llm`, whatever their tier.
const ACCESS: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: all, namespace: llm}
rules: [{apiGroups: [serving.kserve.io], resources: [llminferenceservices], verbs: [post]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: all, namespace: llm}
subjects: [{kind: Group, name: 'system:authenticated', apiGroup: rbac.authorization.k8s.io}]
roleRef: {kind: Role, name: all, apiGroup: rbac.authorization.k8s.io}
";
const TIER: &str = "auth.metadata.matchedTier[\"tier\"]";
const TIER_OR_FREE: &str = "'has(auth.metadata.matchedTier.tier) ? auth.metadata.matchedTier.tier : \"free\"'";

/// The demo, with texts replaced, and access for everybody.
fn world(replaced: &[(&str, &str)], unknown: TierUnknown) -> Gate {
    let mut files = demo();
    files.push(("access.yaml".to_owned(), ACCESS.to_owned()));
    for (from, to) in replaced {
        assert!(files.iter().any(|(_, text)| text.contains(from)), "{from}");
        files.iter_mut().for_each(|(_, text)| *text = text.replace(from, to));
    }
    let policy = compile_files(&files, &Options { grant_from_annotation: false, ..options() });
    let errors: Vec<_> = policy.problems.iter().filter(|problem| problem.is_error()).collect();
    assert!(errors.is_empty(), "{errors:?}");
    let mut gate = gate(policy, DecisionSettings { tier_unknown: unknown, ..settings() });
    gate.tiers = TierServices::patient(LONG);
    gate
}

/// The demo without its mapping, whose policy asks `service`.
fn asking(service: &TierService, expression: &str, unknown: TierUnknown) -> Gate {
    let url = format!("http://{}", service.address);
    let here = "http://maas-api.maas-api.svc.cluster.local:8080";
    world(&[("name: tier-to-group-mapping", "name: other"), (here, &url), (TIER, expression)], unknown)
}

fn call(tier: &str, user: &str) -> Call {
    Call::chat("granite").bearer(&token(tier, user))
}

fn seconds(seconds: u64) -> Nanos {
    Nanos::from(Duration::from_secs(seconds))
}

/// The tier that was enforced, or the refusal's code; where it came from; which tier is gone.
fn told(decision: &Decision) -> (Result<String, Code>, Option<AnswerSource>, Option<&str>) {
    let evidence = &decision.evidence;
    let outcome = match &decision.outcome {
        Ok(_) => Ok(evidence.tier.as_deref().unwrap_or_default().to_owned()),
        Err(denial) => Err(denial.code),
    };
    (outcome, evidence.tier_source, evidence.tier_gone.as_deref())
}

fn tier(name: &str) -> Result<String, Code> {
    Ok(name.to_owned())
}

#[tokio::test]
async fn fifty_requests_of_a_cold_user_ask_the_service_once() {
    let service = TierService::start(Says::tier("enterprise")).await;
    let gate = asking(&service, TIER, TierUnknown::Next);
    let call = call("free", "alice-12345678");
    let decisions = join_all((0..50).map(|_| call.on(&gate, Nanos(0)))).await;
    for decision in &decisions {
        assert_eq!(told(decision), (tier("enterprise"), Some(AnswerSource::Fetched), None));
        let grant = decision.outcome.as_ref().unwrap();
        assert_eq!(grant.filters[0].1.to_json(), serde_json::json!({"userid": "alice-12345678", "tier": "enterprise"}));
    }
    assert_eq!(service.calls(), 1);
    let groups = "{\"groups\":[\"system:serviceaccounts\",\"system:serviceaccounts:maas-default-gateway-tier-free\",\"system:authenticated\"]}";
    assert!(service.last().ends_with(groups), "{}", service.last());
    // Known, it is decided without waiting: here by the limit of its tier.
    let decision = call.on(&gate, Nanos(0)).now_or_never().unwrap();
    assert_eq!(told(&decision), (Err(Code::LimitRequests), Some(AnswerSource::Hit), None));
}

#[tokio::test]
async fn an_answer_past_its_time_is_decided_without_waiting() {
    let service = TierService::start(Says::tier("premium")).await;
    let gate = asking(&service, TIER, TierUnknown::Next);
    let call = call("free", "alice-12345678");
    assert_eq!(told(&call.on(&gate, Nanos(0)).await).0, tier("premium"));
    service.says(Says::tier("free"));
    let decision = call.on(&gate, seconds(300)).now_or_never().unwrap();
    assert_eq!(told(&decision), (tier("premium"), Some(AnswerSource::Stale), None));
    let renewed = async {
        while told(&call.on(&gate, seconds(301)).await) != (tier("free"), Some(AnswerSource::Hit), None) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, renewed).await.unwrap();
    assert_eq!(service.calls(), 2);
}

#[tokio::test]
async fn a_service_that_fails_leaves_it_undecided_and_takes_nothing_from_a_limit() {
    let service = TierService::start(Says::Answer(500, "{\"tier\":\"free\"}".to_owned())).await;
    for unknown in [TierUnknown::Next, TierUnknown::Refuse] {
        let gate = asking(&service, TIER_OR_FREE, unknown);
        let call = call("free", "alice-12345678");
        let decision = call.on(&gate, Nanos(0)).await;
        assert_eq!(told(&decision), (Err(Code::UnavailableTiers), Some(AnswerSource::Fetched), None));
        let denial = decision.outcome.unwrap_err();
        assert_eq!(denial.message, "the caller's tier cannot be told");
        assert!(denial.detail.unwrap().ends_with("it answered 500 Internal Server Error"));
        assert_eq!(gate.limits.accounts(), 0);
    }
}

#[tokio::test]
async fn whom_the_service_knows_no_tier_for_is_the_policys_to_answer_or_refused() {
    let service = TierService::start(Says::Answer(404, "{\"error\":\"not_found\"}".to_owned())).await;
    for (expression, unknown, outcome) in [
        (TIER, TierUnknown::Next, Err(Code::TierNone)),
        (TIER, TierUnknown::Refuse, Err(Code::TierNone)),
        (TIER_OR_FREE, TierUnknown::Next, tier("")),
        (TIER_OR_FREE, TierUnknown::Refuse, Err(Code::TierNone)),
    ] {
        let gate = asking(&service, expression, unknown);
        let decision = call("premium", "jland-78028f6d").on(&gate, Nanos(0)).await;
        assert_eq!(told(&decision), (outcome, Some(AnswerSource::Fetched), None), "{expression} {unknown:?}");
        // What the policy makes of it is what limits see.
        if let Ok(grant) = &decision.outcome {
            assert_eq!(grant.filters[0].1.to_json()["tier"], "free");
            assert_eq!(decision.evidence.limits[0].name.as_ref(), "openshift-ingress/gateway-rate-limits/free");
        }
    }
}

#[tokio::test]
async fn where_the_mapping_is_ours_nobody_is_asked() {
    let service = TierService::start(Says::tier("enterprise")).await;
    let url = format!("http://{}", service.address);
    let gate = world(&[("http://maas-api.maas-api.svc.cluster.local:8080", &url)], TierUnknown::Next);
    assert_eq!(told(&call("free", "alice-12345678").on(&gate, Nanos(0)).await), (tier("free"), None, None));
    let gate = world(
        &[("http://maas-api.maas-api.svc.cluster.local:8080", &url), ("level: 1\n", "level: 2\n")],
        TierUnknown::Next,
    );
    assert_eq!(told(&call("free", "alice-12345678").on(&gate, Nanos(0)).await), (tier("free"), None, None));
    assert_eq!(service.calls(), 0);
}

#[tokio::test]
async fn users_of_a_tier_that_is_gone_fall_to_their_next_one_or_are_refused() {
    let renamed = ("name: premium", "name: gold");
    let nobody = ("- system:authenticated", "- nobody");
    let premium = || call("premium", "jland-78028f6d");
    for (replaced, unknown, outcome) in [
        (&[renamed][..], TierUnknown::Next, tier("free")),
        (&[renamed], TierUnknown::Refuse, Err(Code::TierGone)),
        (&[renamed, nobody], TierUnknown::Next, Err(Code::TierGone)),
        (&[renamed, nobody], TierUnknown::Refuse, Err(Code::TierGone)),
    ] {
        let gate = world(replaced, unknown);
        let decision = premium().on(&gate, Nanos(0)).await;
        assert_eq!(told(&decision), (outcome, None, Some("premium")), "{replaced:?} {unknown:?}");
        if let Err(denial) = decision.outcome {
            assert_eq!(denial.message, "your tier `premium` is no longer configured");
        }
        // Others notice nothing.
        let enterprise = call("enterprise", "ivan-e85d40b9").on(&gate, Nanos(0)).await;
        assert_eq!(told(&enterprise), (tier("enterprise"), None, None));
    }
    // Without a tier that was theirs, it is another refusal.
    let gate = world(&[nobody, ("maas-default-gateway-tier-free}", "elsewhere}")], TierUnknown::Next);
    let guest = Call::chat("granite")
        .bearer(&crate::test_util::ES256.sign(&crate::test_util::claims("elsewhere", "bob-2b9f1c07")));
    assert_eq!(told(&guest.on(&gate, Nanos(0)).await), (Err(Code::TierNone), None, None));
}

#[tokio::test]
async fn who_lost_their_models_with_their_tier_is_told_so() {
    let mut files = demo();
    files.iter_mut().for_each(|(_, text)| *text = text.replace("name: premium", "name: gold"));
    let gate = gate(compile_files(&files, &options()), settings());
    let decision = call("premium", "jland-78028f6d").on(&gate, Nanos(0)).await;
    let denial = decision.outcome.unwrap_err();
    assert_eq!(denial.code, Code::TierGone);
    let message = "your tier `premium` is no longer configured, and you have no access to model llm/granite";
    assert_eq!(denial.message, message);
    assert!(denial.detail.unwrap().contains("no RoleBinding in namespace llm grants Group"));
}

/// What is waited for is found on the way: nothing of the decision is begun again, and so nothing of it is counted twice.
#[tokio::test]
async fn a_decision_that_waits_goes_through_each_stage_once() {
    let service = TierService::start(Says::tier("free")).await;
    let url = format!("http://{}", service.address);
    let here = "http://maas-api.maas-api.svc.cluster.local:8080";
    let in_shadow = "kind: AuthPolicy\nmetadata:\n  annotations: {tiergate.io/shadow: \"true\"}\n";
    let replaced = [
        ("name: tier-to-group-mapping", "name: other"),
        (here, &url),
        ("kind: AuthPolicy\nmetadata:\n", in_shadow),
        ("verbs: [post]", "verbs: [get]"),
    ];
    let gate = world(&replaced, TierUnknown::Next);
    // The first decision of a process has its stages timed.
    let decision = call("free", &user(&gate, "free", 0)).on(&gate, Nanos(0)).await;
    assert!(decision.outcome.is_ok(), "in shadow nobody is refused: {decision:?}");
    assert_eq!(decision.evidence.tier_source, Some(AnswerSource::Fetched));
    let shadowed: Vec<_> = decision.evidence.shadowed.iter().map(|shadowed| shadowed.denial.code).collect();
    assert_eq!(shadowed, [Code::AccessDenied]);
    let stages: Vec<_> = decision.evidence.stage_times.unwrap().taken.iter().map(|(stage, _)| *stage).collect();
    assert_eq!(stages, Stage::ALL);
}
