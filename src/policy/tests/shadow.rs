//! What is on trial in shadow takes nothing out of force.

use super::shared::told;
use super::strategies::{limits, met, rules, section, world};
use super::*;
use crate::problem::InForce;

const STRATEGIES: [&str; 4] = ["", "defaults merge", "overrides atomic", "overrides merge"];
const BAD_LIMITS: &str = "limits: {b: {rates: [{limit: 1, window: 0s}]}}";
const AUTHENTICATION: &str = "authentication: {sa: {kubernetesTokenReview: {}}}";

/// A policy of which `shadow` is on trial.
fn on_trial(kind: &str, age: u8, target: &str, (shadow, spec): (&str, &str)) -> String {
    let (target, section) = target.split_once(", ").map_or((target, String::new()), |(t, s)| (t, format!(", {s}")));
    let (target_kind, name) = target.split_once(' ').unwrap();
    let target = format!("{{group: gateway.networking.k8s.io, kind: {target_kind}, name: {name}{section}}}");
    format!(
        "---\n{{apiVersion: kuadrant.io/v1, kind: {kind}, metadata: {{name: trial, namespace: ns, creationTimestamp: \
         '2026-03-0{age}T09:00:00Z', annotations: {{tiergate.io/shadow: '{shadow}'}}}}, spec: {{targetRef: {target}, {spec}}}}}\n"
    )
}

/// `rules: …` with a strategy.
fn with(strategy: &str, rules: &str) -> String {
    match strategy.split_once(' ') {
        None => rules.to_owned(),
        Some((block, strategy)) => format!("{block}: {{strategy: {strategy}, {rules}}}"),
    }
}

/// Every way in which one policy in force and one on trial can meet: target and strategy of each, and the age of the latter, where
/// the former is of the second day.
fn meetings() -> impl Iterator<Item = ([String; 2], [&'static str; 2], u8)> {
    let targets = || ["Gateway gw".to_owned(), section("Gateway gw", "in"), "HTTPRoute a".to_owned()];
    let pairs = targets().into_iter().flat_map(move |real| targets().map(|trial| [real.clone(), trial]));
    // Age counts among policies of one target.
    let aged =
        pairs.flat_map(|pair| if pair[0] == pair[1] { vec![(pair.clone(), 1), (pair, 3)] } else { vec![(pair, 1)] });
    let strategies = || STRATEGIES.into_iter().flat_map(|real| STRATEGIES.map(|trial| [real, trial]));
    aged.flat_map(move |(pair, age)| strategies().map(move |strategies| (pair.clone(), strategies, age)))
}

/// The names of the limits in shadow.
fn tried(policy: &Policy) -> Vec<String> {
    let plan = policy.route(None, &request("in.example.com", "/chat")).unwrap();
    let sets = plan.limits.iter().filter_map(|limits| match limits {
        Attached::Active(set) => set.shadow.as_ref(),
        Attached::None | Attached::Broken(_) => None,
    });
    sets.flat_map(|shadow| shadow.limits.limits()).map(|limit| limit.name.to_string()).collect()
}

fn plan(policy: &Policy) -> &Arc<AuthPlan> {
    match &policy.route(None, &request("in.example.com", "/chat")).unwrap().auth {
        Attached::Active(plan) => plan,
        other => panic!("{other:?}"),
    }
}

#[test]
fn limits_in_force_are_those_without_the_policy_on_trial() {
    for ([real, trial], [real_strategy, strategy], age) in meetings() {
        let alone =
            world().policy("RateLimitPolicy", "ns/real@2", &real, &limits(real_strategy, &[("a", 1), ("b", 2)]));
        let shown = format!("{real_strategy:?} on {real}, on trial {strategy:?} of day {age} on {trial}");
        for spec in [limits(strategy, &[("b", 20), ("c", 30)]), with(strategy, BAD_LIMITS)] {
            for shadow in ["true", "b,c"] {
                if shadow != "true" && spec.contains("0s") {
                    continue;
                }
                let text = on_trial("RateLimitPolicy", age, &trial, (shadow, &spec));
                let policy = alone.clone().text(&text).compile();
                assert_eq!(met(&policy, "in.example.com", "/chat"), ["a 1", "b 2"], "{shown}: {spec}");
            }
        }
    }
}

/// The rest of its policy counts as it would without it.
#[test]
fn a_limit_on_trial_takes_the_place_of_none_in_force() {
    for ([real, trial], [real_strategy, strategy], age) in meetings() {
        let alone =
            world().policy("RateLimitPolicy", "ns/real@2", &real, &limits(real_strategy, &[("a", 1), ("b", 2)]));
        let with = |names: &[(&str, u64)], shadow: &str| {
            let text = on_trial("RateLimitPolicy", age, &trial, (shadow, &limits(strategy, names)));
            alone.clone().text(&text).compile()
        };
        let (tried, without) = (with(&[("b", 20), ("c", 30)], "b"), with(&[("c", 30)], "false"));
        assert_eq!(
            met(&tried, "in.example.com", "/chat"),
            met(&without, "in.example.com", "/chat"),
            "{real_strategy:?} on {real}, on trial b of {strategy:?} of day {age} on {trial}"
        );
    }
}

#[test]
fn rules_in_force_are_those_without_the_policy_on_trial() {
    let check = |method: &str| {
        let predicate = format!("{{predicate: 'request.method == \"{method}\"'}}");
        format!("authorization: {{check: {{patternMatching: {{patterns: [{predicate}]}}}}}}")
    };
    let real = format!("rules: {{{AUTHENTICATION}, {}}}", check("POST"));
    let filter = "response: {unauthorized: {code: 404}, success: {filters: {identity: {plain: {value: x}}}}}";
    let tried = format!("when: [{{predicate: 'false'}}], rules: {{{}, {filter}}}", check("GET"));
    let open = "rules: {authentication: {all: {anonymous: {}}}}";
    let bad = "rules: {authentication: {sa: {x509: {}}}}";
    for ([target, trial], [strategy, trial_strategy], age) in meetings() {
        let world = world().policy("AuthPolicy", "ns/real@2", &target, &with(strategy, &real));
        for spec in [&*tried, open, bad] {
            let text = on_trial("AuthPolicy", age, &trial, ("true", &with(trial_strategy, spec)));
            let policy = world.clone().text(&text).compile();
            let shown = format!("{strategy:?} on {target}, on trial {spec} {trial_strategy:?} of day {age} on {trial}");
            assert_eq!(rules(&policy), ["authentication sa of real", "authorization check of real"], "{shown}");
            assert!(plan(&policy).rules.broken.is_none() && !plan(&policy).shadow, "{shown}");
        }
    }
}

#[test]
fn what_is_on_trial_is_told_beside_what_is_in_force() {
    for age in [1, 3] {
        for strategy in STRATEGIES {
            let spec = limits(strategy, &[("b", 20), ("c", 30)]);
            let policy = world()
                .policy("RateLimitPolicy", "ns/real@2", "Gateway gw", &limits("", &[("a", 1), ("b", 2)]))
                .text(&on_trial("RateLimitPolicy", age, "Gateway gw", ("true", &spec)))
                .compile();
            assert_eq!(tried(&policy), ["ns/trial/b", "ns/trial/c"], "{strategy}");
            assert!(told(&policy).iter().all(|told| told.starts_with("warning target-shared")), "{:?}", told(&policy));
        }
        let spec = "rules: {authorization: {x: {patternMatching: {patterns: [{predicate: 'false'}]}}}}";
        let policy = world()
            .policy("AuthPolicy", "ns/real@2", "Gateway gw", &format!("rules: {{{AUTHENTICATION}}}"))
            .text(&on_trial("AuthPolicy", age, "Gateway gw", ("true", spec)))
            .compile();
        assert_eq!(rules(&policy), ["authentication sa of real"]);
        let trial = plan(&policy).trial.as_ref().unwrap();
        let named = trial.rules.authentication.iter().map(|rule| &*rule.name);
        assert!(named.chain(trial.rules.authorization.iter().map(|rule| &*rule.name)).eq(["sa", "x"]));
        assert_eq!(&*trial.policy.name, "trial");
    }
    // In force it would have taken the place of the Gateway's.
    let policy = world()
        .policy("AuthPolicy", "ns/real", "Gateway gw", &format!("rules: {{{AUTHENTICATION}}}"))
        .text(&on_trial("AuthPolicy", 1, "HTTPRoute a", ("true", "rules: {authentication: {all: {anonymous: {}}}}")))
        .compile();
    let trial = plan(&policy).trial.as_ref().unwrap();
    assert!(trial.rules.authentication.iter().map(|rule| &*rule.name).eq(["all"]));
    // An override leaves nothing of it to try.
    let policy = world()
        .policy("RateLimitPolicy", "ns/real", "Gateway gw", &limits("overrides atomic", &[("a", 1)]))
        .text(&on_trial("RateLimitPolicy", 1, "HTTPRoute a", ("true", &limits("", &[("b", 2)]))))
        .compile();
    assert_eq!(tried(&policy), <[String; 0]>::default());
    let overridden = &policy.overridden[&ObjectName::new("RateLimitPolicy", "ns", "trial")];
    assert!(overridden.iter().map(|policy| &*policy.name).eq(["real"]));
}

#[test]
fn a_policy_in_error_in_force_shuts_whatever_is_on_trial() {
    for trial in ["Gateway gw", "HTTPRoute a"] {
        let policy = world()
            .policy("RateLimitPolicy", "ns/real@2", "Gateway gw", BAD_LIMITS)
            .text(&on_trial("RateLimitPolicy", 3, trial, ("true", &limits("overrides atomic", &[("b", 2)]))))
            .compile();
        assert_eq!(met(&policy, "in.example.com", "/chat"), ["broken real"], "{trial}");
    }
}

#[test]
fn a_policy_on_trial_whose_target_is_unknown_shuts_nothing() {
    for kind in ["AuthPolicy", "RateLimitPolicy", "TokenRateLimitPolicy"] {
        let policy = world()
            .auth("ns/auth", "Gateway gw")
            .requests("ns/requests", "Gateway gw")
            .text(&format!(
                "---\n{{apiVersion: kuadrant.io/v1, kind: {kind}, metadata: {{name: trial, namespace: ns, annotations: \
                 {{tiergate.io/shadow: 'true'}}}}, spec: {{targetReff: {{}}, limits: {{}}, rules: {{}}}}}}\n"
            ))
            .compile();
        let at = policy.route(None, &request("in.example.com", "/chat")).unwrap();
        assert!(matches!(at.auth, Attached::Active(_)), "{kind}: {:?}", at.auth);
        assert_eq!(met(&policy, "in.example.com", "/chat"), ["a 1"], "{kind}");
        let in_force: Vec<_> = policy.problems.iter().filter_map(|problem| problem.in_force).collect();
        assert!(!in_force.is_empty() && in_force.iter().all(|now| *now == InForce::Nothing), "{kind}: {in_force:?}");
    }
}

/// References are looked at when rules are put together: of a trial, that is an error that shuts nothing.
#[test]
fn a_trial_that_refers_to_nothing_shuts_nothing() {
    let spec = "rules: {authorization: {x: {patternMatching: {patterns: [{predicate: 'auth.metadata.gone.a == 1'}]}}}}";
    let trial = on_trial("AuthPolicy", 1, "HTTPRoute a", ("true", spec));
    for (world, alone) in [(world().auth("ns/auth", "Gateway gw"), false), (world(), true)] {
        let policy = world.text(&trial).compile();
        let errors: Vec<_> = policy.problems.iter().filter(|problem| problem.is_error()).collect();
        assert!(errors.iter().all(|error| error.in_force == Some(InForce::Nothing)), "{}", shown(&policy.problems));
        let plan = plan(&policy);
        let tried = plan.trial.as_ref().unwrap_or(plan);
        assert_eq!((plan.shadow, tried.rules.broken.as_ref().map(|broken| &*broken.name)), (alone, Some("trial")));
        let [accepted, enforced] = &policy.conditions()[&ObjectName::new("AuthPolicy", "ns", "trial")];
        assert!(!accepted.holds && !enforced.holds);
        assert_eq!(enforced.message, "it is not in force");
    }
}
