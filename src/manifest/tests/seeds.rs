//! The manifests of the seeds, each alone and all together.

use super::*;
use crate::lint::compile;
use crate::policy::Options;
use crate::problem::Severity;

const SEEDS: &[(&str, &str)] = &[
    ("added.yaml", include_str!("../../../tests/data/manifests/added.yaml")),
    ("seed-001-002-tiers.yaml", include_str!("../../../tests/data/manifests/seed-001-002-tiers.yaml")),
    ("seed-001-rbac.yaml", include_str!("../../../tests/data/manifests/seed-001-rbac.yaml")),
    ("seed-002-authpolicy.yaml", include_str!("../../../tests/data/manifests/seed-002-authpolicy.yaml")),
    ("seed-002-ratelimit.yaml", include_str!("../../../tests/data/manifests/seed-002-ratelimit.yaml")),
    ("seed-002-rbac.yaml", include_str!("../../../tests/data/manifests/seed-002-rbac.yaml")),
];

const DEPLOYED: (&str, &str) = ("deployed.yaml", include_str!("../../../tests/data/manifests/deployed.yaml"));
/// What was deployed beside it: see src/gate/tests/deployed.rs.
const BESIDE: [&str; 3] = ["deployed-limits.yaml", "deployed-maas-api.yaml", "deployed-tiers.yaml"];

/// What is wrong with a folder of these files: where (file and line), and a phrase of what.
fn problems(files: &[(&str, &str)]) -> Vec<Problem> {
    on_large_stack(|| compile(Manifests::read(files.iter().copied()), &Options::default()).problems).unwrap()
}

/// Asserts file, line, object, field and a phrase of every problem, in the order in which they are printed.
#[track_caller]
fn expect_all(problems: &[Problem], severity: Severity, rows: &[(&str, u32, &str, &str, &str)]) {
    let shown: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let shown = shown.join("\n");
    assert_eq!(problems.len(), rows.len(), "{shown}");
    for (problem, (file, line, object, field, phrase)) in problems.iter().zip(rows) {
        let place = (&*problem.place.file, problem.place.line);
        let of = problem.object.as_ref().map(ToString::to_string).unwrap_or_default();
        assert_eq!(problem.severity, severity, "{problem}");
        assert_eq!((place, &*of, &*problem.field), ((*file, *line), *object, *field), "{shown}");
        assert!(problem.to_string().contains(phrase), "{phrase}: {problem}");
    }
}

const ROUTE_UNPROTECTED: (&str, u32, &str, &str, &str) =
    ("added.yaml", 19, "HTTPRoute llm/qwen3-route", "", "has no AuthPolicy, neither of its own nor of its Gateway");
const TOKENS_ALONE: (&str, u32, &str, &str, &str) = (
    "added.yaml",
    54,
    "TokenRateLimitPolicy openshift-ingress/gateway-token-rate-limits",
    "spec.limits",
    "no request limit is for the callers of `free-user-tokens`, `premium-user-tokens`, `stier-user-tokens`",
);
const NO_GATEWAY: (&str, u32, &str, &str, &str) = (
    "seed-002-authpolicy.yaml",
    8,
    "AuthPolicy openshift-ingress/gateway-auth-policy",
    "spec.targetRef",
    "Gateway openshift-ingress/openshift-ai-inference is not there",
);
const NO_ROUTE: (&str, u32, &str, &str, &str) = (
    "seed-002-ratelimit.yaml",
    8,
    "RateLimitPolicy model-serving/model-rate-limits",
    "spec.targetRef",
    "HTTPRoute model-serving/model-route is not there",
);

#[test]
fn every_file_that_users_start_from_is_there() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/manifests");
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let mut listed: Vec<&str> = SEEDS.iter().chain([&DEPLOYED]).map(|(name, _)| *name).chain(BESIDE).collect();
    listed.sort_unstable();
    assert_eq!(names, listed);
}

#[test]
fn each_seed_alone_loads_with_the_warnings_that_are_due() {
    let no_mapping = (NO_GATEWAY.0, 13, NO_GATEWAY.2, "spec.rules.metadata", "add the ConfigMap tier-to-group-mapping");
    for (name, text) in SEEDS {
        let rows: &[_] = match *name {
            "added.yaml" => &[ROUTE_UNPROTECTED, TOKENS_ALONE],
            "seed-002-authpolicy.yaml" => &[NO_GATEWAY, no_mapping],
            "seed-002-ratelimit.yaml" => &[NO_ROUTE],
            _ => &[],
        };
        expect_all(&problems(&[(name, text)]), W, rows);
    }
}

#[test]
fn all_seeds_together_load_with_the_warnings_that_are_due() {
    let tokens = "TokenRateLimitPolicy openshift-ingress/gateway-token-rate-limits";
    expect_all(
        &problems(SEEDS),
        W,
        &[
            ROUTE_UNPROTECTED,
            (
                "added.yaml",
                33,
                "LLMInferenceService llm/qwen3",
                "metadata.annotations",
                "tier `stier`, which is not in the tier mapping",
            ),
            ("added.yaml", 54, tokens, "spec.limits", "has no token limit for tier enterprise"),
            TOKENS_ALONE,
            (
                "added.yaml",
                64,
                tokens,
                "spec.limits.stier-user-tokens.when[0].predicate",
                "one of free, premium, enterprise",
            ),
            (
                "seed-001-002-tiers.yaml",
                8,
                "ConfigMap maas-api/tier-to-group-mapping",
                "data.tiers",
                "tier `free` may call no model",
            ),
            (
                "seed-001-002-tiers.yaml",
                18,
                "ConfigMap maas-api/tier-to-group-mapping",
                "data.tiers",
                "tier `enterprise` may call no model",
            ),
            NO_GATEWAY,
            NO_ROUTE,
            (
                "seed-002-rbac.yaml",
                5,
                "Role model-serving/model-post-access",
                "metadata.namespace",
                "models are in llm",
            ),
        ],
    );
}

#[test]
fn policy_that_was_really_deployed_loads_and_its_lower_case_key_is_named() {
    let key = (
        DEPLOYED.0,
        20,
        "AuthPolicy openshift-ingress/gateway-auth-policy",
        "spec.rules.authentication.service-accounts.cache.key.selector",
        "would take two tokens that differ only in case for one",
    );
    let mut beside: Vec<(&str, &str)> = SEEDS.to_vec();
    beside.retain(|(name, _)| *name != "seed-002-authpolicy.yaml");
    beside.push(DEPLOYED);
    for files in [&[DEPLOYED][..], &beside] {
        let mut found = problems(files);
        assert!(!found.iter().any(Problem::is_error), "{found:?}");
        found.retain(|problem| &*problem.place.file == DEPLOYED.0 && problem.field.contains(".cache."));
        expect_all(&found, W, &[key]);
        assert!(found[0].remedy.as_ref().is_some_and(|it| it.contains("the whole token")), "{found:?}");
    }
}

#[test]
fn seeds_say_what_they_were_written_to_say() {
    let manifests = read_all(SEEDS);
    let tiers: Vec<_> = manifests.tier_mappings[0]
        .tiers
        .iter()
        .flatten()
        .map(|tier| (&*tier.name, tier.level, tier.groups.join(",")))
        .collect();
    let owned = str::to_owned;
    assert_eq!(
        tiers,
        [
            ("free", 1, owned("system:authenticated")),
            ("premium", 10, owned("premium-users")),
            ("enterprise", 20, owned("enterprise-users")),
        ]
    );
    let limits: Vec<String> = manifests
        .limit_policies
        .iter()
        .flat_map(|policy| policy.limits.iter().flatten())
        .map(|limit| format!("{} {:?}", limit.name, limit.rates[0].limit()))
        .collect();
    assert_eq!(
        limits,
        ["free-user-tokens 100", "premium-user-tokens 50000", "stier-user-tokens 999", "free 5", "premium 20"]
    );
    let rules = manifests.auth_policies[0].rules.as_ref().unwrap();
    let crate::rules::Method::Token { audiences, .. } = &rules.authentication[0].what.method else { panic!() };
    assert_eq!(audiences, &["openshift-ai-inference-sa"]);
    assert_eq!((manifests.read, manifests.ignored.values().sum::<usize>()), (13, 0));
}
