mod accounts;
mod cost;
mod deployed;
mod language;
mod notify;
mod recipes;
mod reserve;
mod shadow;
mod shown;
mod stale;
mod tiers;

use std::time::Duration;

use super::*;
use crate::cache::AnswerSource;
use crate::policy::Options;
use crate::test_util::{Call, compile_files, compile_text, demo, gate, options, settings, token};
use crate::usage::{ModelId, Report, Settlement, Settlements, Usage};

/// A Gateway with one route for everything, and somebody who calls.
const ONE_ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gw, namespace: ns}
spec: {gatewayClassName: x, listeners: [{name: http, port: 80, protocol: HTTP}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: ns}
spec: {parentRefs: [{name: gw}]}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: alice, namespace: team}
---
";

fn demo_gate() -> Gate {
    gate(compile_files(&demo(), &options()), settings())
}

/// The first ServiceAccount of a tier in the demo's manifests.
fn user(gate: &Gate, tier: &str, at: usize) -> String {
    let policy = gate.policies.current();
    let mut names: Vec<_> =
        policy.accounts.uids[&format!("maas-default-gateway-tier-{tier}")].keys().cloned().collect();
    names.sort();
    names[at].clone()
}

async fn code(call: &Call, gate: &Gate) -> Option<Code> {
    call.on(gate, Nanos(0)).await.outcome.err().map(|denial| denial.code)
}

#[tokio::test]
async fn a_premium_user_may_call_a_premium_model() {
    let gate = demo_gate();
    let token = token("premium", &user(&gate, "premium", 0));
    let decision = Call::chat("qwen3").bearer(&token).on(&gate, Nanos(0)).await;
    let grant = decision.outcome.unwrap();
    assert_eq!(grant.filters[0].0.as_ref(), "identity");
    assert_eq!(grant.filters[0].1.to_json()["tier"], "premium");
    let evidence = &decision.evidence;
    assert_eq!(evidence.tier.as_deref(), Some("premium"));
    assert_eq!(evidence.permit.model.as_deref(), Some("llm/qwen3"));
    assert_eq!(evidence.identity_source, Some(AnswerSource::Fetched));
    assert_eq!(evidence.limits.len(), 2);
    let again = Call::chat("qwen3").bearer(&token).on(&gate, Nanos(0)).await;
    assert_eq!(again.evidence.identity_source, Some(AnswerSource::Hit));
}

#[tokio::test]
async fn each_refusal_has_its_code() {
    let gate = demo_gate();
    let free = token("free", &user(&gate, "free", 0));
    for (call, expected) in [
        (Call::chat("qwen3"), Code::TokenMissing),
        (Call::chat("qwen3").bearer("garbage"), Code::TokenMalformed),
        (Call::chat("qwen3").bearer(&token("free", "nobody")), Code::TokenSubjectGone),
        (Call::chat("qwen3").bearer(&free), Code::AccessDenied),
        (Call::chat("draft").bearer(&free), Code::AccessDenied),
        (Call::path("/llm//m/v1").bearer(&free), Code::PathNotCanonical),
        (Call::path("/llm/a%2Fb/v1").bearer(&free), Code::PathNotCanonical),
        (Call::path("/llm/granite;x=1/v1").bearer(&free), Code::PathNotCanonical),
        (Call::path("/nowhere/x").bearer(&free), Code::RouteUnknown),
        (Call::path("/").bearer(&free), Code::RouteUnknown),
    ] {
        assert_eq!(code(&call, &gate).await, Some(expected), "{}", call.path);
    }
    assert_eq!(code(&Call::chat("granite").bearer(&free), &gate).await, None);
}

#[tokio::test]
async fn the_sixth_request_of_a_free_user_is_refused_and_takes_nothing() {
    let gate = demo_gate();
    let (one, other) = (token("free", &user(&gate, "free", 0)), token("free", &user(&gate, "free", 1)));
    for _ in 0..5 {
        assert_eq!(code(&Call::chat("granite").bearer(&one), &gate).await, None);
    }
    let denial = Call::chat("granite").bearer(&one).on(&gate, Nanos(0)).await.outcome.unwrap_err();
    assert_eq!(denial.code, Code::LimitRequests);
    assert_eq!(denial.retry_after, Some(Duration::from_secs(24)));
    assert_eq!(code(&Call::chat("granite").bearer(&other), &gate).await, None);
    // The query is no part of the path, and a refused path costs nothing.
    assert_eq!(code(&Call::path("/llm/granite;/v1").bearer(&other), &gate).await, Some(Code::PathNotCanonical));
    let fifth = Nanos::from(Duration::from_secs(24));
    assert!(
        Call::path("/llm/granite/v1/chat/completions?a=/llm/qwen3").bearer(&one).on(&gate, fifth).await.outcome.is_ok()
    );
}

#[tokio::test]
async fn usage_is_charged_once_to_the_limits_that_admitted() {
    let gate = demo_gate();
    let settlements = Settlements::default();
    let token = token("free", &user(&gate, "free", 0));
    let call = Call::chat("granite").bearer(&token);
    let usage = Usage { total: Some(60), ..Usage::default() };
    let report = Report { usage, ..Report::default() };
    for _ in 0..2 {
        let grant = call.on(&gate, Nanos(0)).await.outcome.unwrap();
        let reservation = gate.sealer.open(&grant.reservation).unwrap();
        assert_eq!(
            (&*reservation.tier, reservation.model, reservation.is_call),
            ("free", ModelId::of("llm/granite"), true)
        );
        let settle = || settlements.settle(&gate.limits, &reservation, &report, Nanos(0));
        assert_eq!(settle().await.settlement, Settlement::Settled(60));
        assert_eq!(settle().await.settlement, Settlement::Duplicate);
    }
    let decision = call.on(&gate, Nanos(0)).await;
    let denial = decision.outcome.unwrap_err();
    assert_eq!(denial.code, Code::LimitTokens);
    // 120 of 100 are used; 21 have to come back at 100 a minute.
    assert_eq!(denial.retry_after, Some(Duration::from_millis(12_600)));
    let requests = decision.evidence.most_restrictive(crate::rules::LimitKind::Requests).unwrap();
    assert_eq!(requests.remaining(), 3, "a refusal by tokens takes no request");
}

/// Not by what it was when the request came, which would change it back.
#[tokio::test]
async fn usage_is_charged_to_the_limit_as_it_is_then() {
    let gate = demo_gate();
    let settlements = Settlements::default();
    let call = Call::chat("granite").bearer(&token("free", &user(&gate, "free", 0)));
    let grant = call.on(&gate, Nanos(0)).await.outcome.unwrap();
    let changed = demo().into_iter().map(|(name, text)| (name, text.replace("limit: 100,", "limit: 1000,")));
    gate.publish(compile_files(&changed.collect::<Vec<_>>(), &options()));
    let report = Report { usage: Usage { total: Some(600), ..Usage::default() }, ..Report::default() };
    let reservation = gate.sealer.open(&grant.reservation).unwrap();
    settlements.settle(&gate.limits, &reservation, &report, Nanos(0)).await;
    let evidence = call.on(&gate, Nanos(0)).await.evidence;
    let tokens = evidence.most_restrictive(crate::rules::LimitKind::Tokens).unwrap();
    assert_eq!((tokens.limit(), tokens.remaining()), (1000, 400));
}

#[tokio::test]
async fn a_deleted_service_account_is_refused_at_once_though_it_is_remembered() {
    let gate = demo_gate();
    let name = user(&gate, "premium", 0);
    let call = Call::chat("qwen3").bearer(&token("premium", &name));
    assert_eq!(code(&call, &gate).await, None);
    let mut policy = compile_files(&demo(), &options());
    let accounts = policy.accounts.uids.get_mut("maas-default-gateway-tier-premium").unwrap();
    accounts.insert(name.clone(), "another-uid".to_owned());
    gate.policies.publish(policy);
    assert_eq!(code(&call, &gate).await, Some(Code::TokenSubjectGone), "made anew");
    let mut policy = compile_files(&demo(), &options());
    policy.accounts.uids.get_mut("maas-default-gateway-tier-premium").unwrap().remove(&name);
    gate.policies.publish(policy);
    assert_eq!(code(&call, &gate).await, Some(Code::TokenSubjectGone), "deleted");
    gate.policies.publish(compile_files(&demo(), &options()));
    assert_eq!(code(&call, &gate).await, None);
    assert_eq!(gate.policies.current().generation, 4);
}

#[tokio::test]
async fn an_operator_names_the_model_instead_of_the_path() {
    let gate = demo_gate();
    let free = token("free", &user(&gate, "free", 0));
    let named = |model: &str| Call { model: Some(model.to_owned()), ..Call::chat("granite").bearer(&free) };
    assert_eq!(code(&named("llm/granite"), &gate).await, None);
    assert_eq!(code(&named("llm/qwen3"), &gate).await, Some(Code::AccessDenied));
    for wrong in ["llm", "llm/", "/granite", "llm/a/b", "LLM/granite"] {
        assert_eq!(code(&named(wrong), &gate).await, Some(Code::PolicyModel), "{wrong}");
    }
}

#[tokio::test]
async fn without_a_policy_or_a_limit_the_flags_decide() {
    const ROUTE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: g, namespace: a}
spec: {gatewayClassName: x, listeners: [{name: http, port: 80, protocol: HTTP}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: a}
spec: {parentRefs: [{name: g}]}
";
    let decide = async |settings: DecisionSettings| code(&Call::path("/x"), &gate(compile_text(ROUTE), settings)).await;
    assert_eq!(decide(settings()).await, Some(Code::RouteNoPolicy));
    let open = DecisionSettings { without_policy: Fallback::Allow, ..settings() };
    assert_eq!(decide(open.clone()).await, None);
    assert_eq!(decide(DecisionSettings { without_limit: Fallback::Refuse, ..open }).await, Some(Code::LimitNone));
}

/// What makes no model write costs nothing.
#[tokio::test]
async fn calls_that_cannot_be_counted_are_refused_where_that_is_wanted() {
    for uncounted in [Fallback::Allow, Fallback::Refuse] {
        let gate = gate(compile_files(&demo(), &options()), DecisionSettings { uncounted, ..settings() });
        let token = token("free", &user(&gate, "free", 0));
        for (end, is_counted) in [("responses", true), ("audio/transcriptions", false), ("tokenize", true)] {
            let call = Call::path(&format!("/llm/granite/v1/{end}")).bearer(&token);
            let refused = !is_counted && uncounted == Fallback::Refuse;
            assert_eq!(code(&call, &gate).await, refused.then_some(Code::RequestUncounted), "{end}, {uncounted:?}");
        }
    }
}

#[tokio::test]
async fn what_cannot_be_decided_is_not_refused() {
    let free = |gate: &Gate| token("free", &user(gate, "free", 0));
    let broken = |file: &str, from: &str, to: &str| {
        let mut files = demo();
        let found = files.iter_mut().find(|(name, _)| name.ends_with(file)).unwrap();
        assert!(found.1.contains(from), "{from} is in {file}");
        found.1 = found.1.replace(from, to);
        gate(compile_files(&files, &options()), settings())
    };
    for (file, from, to, expected) in [
        // Two windows of one policy are wrong: the policy shuts its target.
        ("limits.yaml", "window: 2m", "window: 2d", Code::PolicyInvalid),
        ("auth-policy.yaml", "authorization:", "callbacks: {}\n    authorization:", Code::PolicyInvalid),
        ("tiers.yaml", "level: 1\n", "levle: 1\n", Code::PolicyTiers),
        // Without a mapping of our own a service is asked, and none is there.
        ("tiers.yaml", "tier-to-group-mapping", "another", Code::UnavailableTiers),
        ("tiers.yaml", "data:", "data: [", Code::UnavailableConfiguration),
        ("auth-policy.yaml", "auth.identity.userid", "1 / 0", Code::PolicyExpression),
        (
            "limits.yaml",
            "expression: auth.identity.userid",
            "expression: auth.identity.user.nothing",
            Code::PolicyExpression,
        ),
        ("limits.yaml", "auth.identity.tier == \"free\"", "auth.identity.tier + 1 == 2", Code::PolicyExpression),
    ] {
        let gate = broken(file, from, to);
        let token = token("free", "alice-12345678");
        let call = Call::chat("granite").bearer(&token);
        let found = code(&call, &gate).await;
        // Which caller it is does not matter, unless the gate got as far as knowing it.
        let found = if found == Some(Code::TokenSubjectGone) {
            code(&Call::chat("granite").bearer(&free(&gate)), &gate).await
        } else {
            found
        };
        assert_eq!(found, Some(expected), "{file}: {to}");
    }
}

#[tokio::test]
async fn a_caller_without_a_tier_is_refused_as_such() {
    let mut files = demo();
    for (_, text) in &mut files {
        *text = text.replace("system:authenticated", "nobody-has-this-group");
    }
    // The group of its own namespace is a tier's too, so the account has to be elsewhere, with a grant of its own.
    files.push((
        "guest.yaml".to_owned(),
        "
apiVersion: v1
kind: ServiceAccount
metadata: {name: guest, namespace: elsewhere}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: guest, namespace: llm}
rules: [{apiGroups: [serving.kserve.io], resources: [llminferenceservices], verbs: [post]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: guest, namespace: llm}
subjects: [{kind: ServiceAccount, name: guest, namespace: elsewhere}]
roleRef: {kind: Role, name: guest, apiGroup: rbac.authorization.k8s.io}
"
        .to_owned(),
    ));
    let gate = gate(compile_files(&files, &options()), settings());
    let token = crate::test_util::ES256.sign(&crate::test_util::claims("elsewhere", "guest"));
    assert_eq!(code(&Call::chat("granite").bearer(&token), &gate).await, Some(Code::TierNone));
}

/// The demo's AuthPolicy, its expressions replaced by selectors.
fn with_selectors(tier: &str) -> Gate {
    let mut files = demo();
    let (_, text) = files.iter_mut().find(|(_, text)| text.contains("kind: AuthPolicy")).unwrap();
    for (expression, selector) in [
        (
            "expression: |\n              auth.identity.user.username.split(\":\")[3]",
            "auth.identity.user.username.@extract:{\"sep\":\":\",\"pos\":3}",
        ),
        ("expression: auth.identity.user.username", "{auth.identity.user.username}"),
        ("expression: auth.identity.user.groups", "auth.identity.user.groups.#(%\"system:*\")#"),
        (
            "expression: |\n                request.path.split(\"/\")[1]",
            "request.path.@extract:{\"sep\":\"/\",\"pos\":1}",
        ),
        (
            "expression: |\n                request.path.split(\"/\")[2]",
            "request.url_path.@extract:{\"sep\":\"/\",\"pos\":2}",
        ),
        ("expression: auth.identity.userid", "auth.identity.userid.@case:upper"),
        ("expression: auth.metadata.matchedTier[\"tier\"]", tier),
    ] {
        assert!(text.contains(expression), "{expression}");
        *text = text.replace(expression, &format!("selector: '{selector}'"));
    }
    gate(compile_files(&files, &options()), settings())
}

#[tokio::test]
async fn selectors_decide_as_expressions_do_and_null_is_undecided() {
    let gate = with_selectors("auth.metadata.matchedTier.tier");
    let name = user(&gate, "premium", 0);
    let token = token("premium", &name);
    let decision = Call::chat("qwen3").bearer(&token).on(&gate, Nanos(0)).await;
    let grant = decision.outcome.unwrap();
    assert_eq!(grant.filters[0].1.to_json(), serde_json::json!({"userid": name.to_uppercase(), "tier": "premium"}));
    assert_eq!(decision.evidence.permit.model.as_deref(), Some("llm/qwen3"));
    let free = crate::test_util::token("free", &user(&gate, "free", 0));
    assert_eq!(code(&Call::chat("qwen3").bearer(&free), &gate).await, Some(Code::AccessDenied));

    let gate = with_selectors("auth.metadata.matchedTier.teir");
    assert_eq!(code(&Call::chat("qwen3").bearer(&token), &gate).await, Some(Code::PolicyExpression));
}

#[tokio::test]
async fn one_token_is_reviewed_once_however_many_wait() {
    let gate = Arc::new(demo_gate());
    let call = Arc::new(Call::chat("granite").bearer(&token("free", &user(&gate, "free", 0))));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let (gate, call) = (Arc::clone(&gate), Arc::clone(&call));
        tasks.spawn(async move { call.on(&gate, Nanos(0)).await.outcome.is_ok() });
    }
    let admitted = tasks.join_all().await.into_iter().filter(|admitted| *admitted).count();
    assert_eq!(admitted, 5, "the request limit of a free user");
    assert_eq!(gate.identities.len(), 1);
}

/// The demo with an annotation on one of its policies.
fn annotated(policy: &str, annotation: &str) -> Gate {
    let mut files = demo();
    let found = files.iter_mut().find(|(_, text)| text.contains(policy)).unwrap();
    found.1 =
        found.1.replace(&format!("name: {policy}\n"), &format!("name: {policy}\n  annotations: {{{annotation}}}\n"));
    gate(compile_files(&files, &options()), settings())
}

#[tokio::test]
async fn a_gateway_policy_counts_for_the_gateway_or_for_each_route() {
    for (scope, second) in [("gateway", Some(Code::LimitRequests)), ("route", None)] {
        let gate = annotated("gateway-rate-limits", &format!("tiergate.io/counter-scope: {scope}"));
        let token = token("enterprise", &user(&gate, "enterprise", 0));
        for _ in 0..50 {
            assert_eq!(code(&Call::chat("granite").bearer(&token), &gate).await, None, "{scope}");
        }
        assert_eq!(code(&Call::chat("granite").bearer(&token), &gate).await, Some(Code::LimitRequests), "{scope}");
        assert_eq!(code(&Call::chat("qwen3").bearer(&token), &gate).await, second, "{scope}");
    }
}

#[tokio::test]
async fn a_fixed_window_gives_everything_back_at_once() {
    let gate = annotated("gateway-rate-limits", "tiergate.io/algorithm: fixed-window");
    let token = token("free", &user(&gate, "free", 0));
    let call = Call::chat("granite").bearer(&token);
    for round in 0..2 {
        let now = Nanos::from(Duration::from_secs(120 * round));
        for _ in 0..5 {
            assert!(call.on(&gate, now).await.outcome.is_ok());
        }
        let denial = call.on(&gate, now).await.outcome.unwrap_err();
        assert_eq!(denial.retry_after, Some(Duration::from_secs(120)));
    }
}

#[tokio::test]
async fn an_annotation_of_ours_that_is_wrong_is_not_passed_over() {
    let (requests, tokens) = ("gateway-rate-limits", "gateway-token-rate-limits");
    let window = "tiergate.io/algorithm: fixed-window";
    for (policy, annotation, severity, shut) in [
        (requests, "tiergate.io/algorithm: sliding", "error", true),
        (requests, "tiergate.io/counter-scope: user", "error", true),
        (requests, "tiergate.io/algoritm: fixed-window", "error", true),
        (requests, "example.com/algorithm: x", "", false),
        (tokens, "tiergate.io/token-admission: reserved", "error", true),
        (tokens, "tiergate.io/token-admision: reserve", "error", true),
        (tokens, "tiergate.io/token-admission: positive", "", false),
        // What they say is of tokens, and of windows.
        (requests, "tiergate.io/token-admission: reserve", "error", true),
        (requests, "tiergate.io/debt: carry", "error", true),
        (tokens, "tiergate.io/debt: forgive", "error", true),
        (tokens, "tiergate.io/debt: carry", "", false),
        (tokens, &format!("{window}, tiergate.io/debt: carry"), "", false),
        (tokens, &format!("{window}, tiergate.io/debt: forgive"), "warning", false),
        (tokens, &format!("{window}, tiergate.io/debt: forgives"), "error", true),
    ] {
        let gate = annotated(policy, annotation);
        let problems: Vec<_> =
            gate.policies.current().problems.iter().map(|problem| problem.severity.to_string()).collect();
        let expected: Vec<String> = Some(severity.to_owned()).filter(|text| !text.is_empty()).into_iter().collect();
        assert_eq!(problems, expected, "{annotation}");
        let token = token("free", &user(&gate, "free", 0));
        let found = code(&Call::chat("granite").bearer(&token), &gate).await;
        assert_eq!(found, shut.then_some(Code::PolicyInvalid), "{annotation}");
    }
}

/// That is no refusal, and no flag lets the request through.
#[tokio::test]
async fn where_the_limits_cannot_be_asked_it_is_undecided() {
    for without_room in [Fallback::Refuse, Fallback::Allow] {
        let mut gate = gate(compile_files(&demo(), &options()), DecisionSettings { without_room, ..settings() });
        gate.limits = Arc::new(Limits::in_memory(crate::limit::Memory::mute()));
        let call = Call::chat("granite").bearer(&token("free", &user(&gate, "free", 0)));
        let decision = call.on(&gate, Nanos(0)).await;
        assert!(
            !decision.evidence.accounts_full && decision.evidence.limits.iter().all(|limit| limit.standing.is_none())
        );
        let code = decision.outcome.unwrap_err().code;
        assert_eq!((code, code.class()), (Code::UnavailableInternal, crate::denial::Class::Undecided));
    }
}

#[tokio::test]
async fn without_room_for_an_account_the_flag_decides() {
    for (without_room, expected) in [(Fallback::Refuse, Some(Code::UnavailableAccounts)), (Fallback::Allow, None)] {
        let mut gate = gate(compile_files(&demo(), &options()), DecisionSettings { without_room, ..settings() });
        gate.limits = Arc::new(Limits::in_memory(crate::limit::Memory::bounded(0)));
        let call = Call::chat("granite").bearer(&token("free", &user(&gate, "free", 0)));
        let decision = call.on(&gate, Nanos(0)).await;
        assert!(decision.evidence.accounts_full);
        if let Ok(grant) = &decision.outcome {
            assert!(gate.sealer.open(&grant.reservation).is_some_and(|reservation| reservation.holds.is_empty()));
        }
        assert_eq!(decision.outcome.err().map(|denial| denial.code), expected);
    }
}
