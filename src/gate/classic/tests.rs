use super::*;
use crate::clock::Nanos;
use crate::denial::Code;
use crate::gate::{Decision, DecisionSettings};
use crate::rules::LimitKind;
use crate::test_util::{Call, compile_files, compile_text, demo, gate, options, settings, token};
use crate::usage::{Channel, Report, Settlement, Usage, UsageMetrics};

fn classic() -> DecisionSettings {
    DecisionSettings { enforce_limits: EnforceLimits::Rls, ..settings() }
}

fn demo_gate() -> Gate {
    gate(compile_files(&demo(), &options()), classic())
}

fn alice() -> Call {
    Call::chat("granite").bearer(&token("free", "alice-12345678"))
}

/// What Envoy makes of a Check that let `call` pass.
fn handed_over(call: &Call, decision: &Decision) -> Facts {
    handed_over_by("POST", call, decision)
}

fn handed_over_by(method: &str, call: &Call, decision: &Decision) -> Facts {
    let handover = decision.outcome.as_ref().unwrap().handover.as_ref().unwrap();
    let mut facts = Facts::default();
    for (key, value) in [
        ("auth.identity", handover.identity.as_str()),
        ("auth", &handover.filters),
        ("request.headers", &handover.headers),
        ("tiergate.gateway", &handover.gateway),
        ("tiergate.listener", &handover.listener),
        ("request.method", method),
        ("request.scheme", "http"),
        ("request.host", "127.0.0.1:10000"),
        ("request.path", &call.path),
    ] {
        facts.tell(key, value).unwrap();
    }
    facts
}

/// Both calls of one request: the second one's refusal.
async fn both(call: &Call, gate: &Gate) -> Option<Code> {
    let checked = call.on(gate, Nanos(0)).await;
    gate.take(&handed_over(call, &checked), Nanos(0)).await.outcome.err().map(|denial| denial.code)
}

#[tokio::test]
async fn the_second_call_takes_what_check_would_have_taken() {
    let gate = demo_gate();
    for _ in 0..5 {
        assert_eq!(both(&alice(), &gate).await, None);
    }
    let checked = alice().on(&gate, Nanos(0)).await;
    assert_eq!(checked.evidence.limits.len(), 2, "two limits match");
    assert!(checked.evidence.limits.iter().all(|limit| limit.standing.is_none()), "and neither is asked");
    let taken = gate.take(&handed_over(&alice(), &checked), Nanos(0)).await;
    assert_eq!(taken.outcome.unwrap_err().code, Code::LimitRequests);
    let standings = |decision: &Decision| decision.evidence.limits.iter().map(|l| l.standing).collect::<Vec<_>>();
    let one_call = gate_that_took_five().await;
    assert_eq!(standings(&taken_by_facts(&gate).await), standings(&alice().on(&one_call, Nanos(0)).await));
}

async fn gate_that_took_five() -> Gate {
    let gate = gate(compile_files(&demo(), &options()), settings());
    for _ in 0..5 {
        assert!(alice().on(&gate, Nanos(0)).await.outcome.is_ok());
    }
    gate
}

async fn taken_by_facts(gate: &Gate) -> Decision {
    let checked = alice().on(gate, Nanos(0)).await;
    gate.take(&handed_over(&alice(), &checked), Nanos(0)).await
}

/// What Check says no to is not left to the second call.
#[tokio::test]
async fn check_still_refuses_what_is_no_question_of_how_much() {
    let gate = demo_gate();
    let code = async |call: Call| call.on(&gate, Nanos(0)).await.outcome.unwrap_err().code;
    assert_eq!(code(Call::chat("granite")).await, Code::TokenMissing);
    assert_eq!(code(Call::chat("qwen3").bearer(&token("free", "alice-12345678"))).await, Code::AccessDenied);
    let unlimited = compile_text(OPEN);
    let refuse = DecisionSettings { without_limit: Fallback::Refuse, ..open() };
    let gate = crate::test_util::gate(unlimited, refuse);
    let denial = Call::path("/x").on(&gate, Nanos(0)).await.outcome.unwrap_err();
    assert_eq!(denial.code, Code::LimitNone);
}

/// A Gateway and a route without AuthPolicy.
const OPEN: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: g, namespace: a}
spec: {gatewayClassName: x, listeners: [{name: http, port: 80, protocol: HTTP}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: a}
spec:
  parentRefs: [{name: g}]
  rules: [{matches: [{headers: [{name: X-Route, value: one}]}, {path: {value: /x}}]}]
";

fn open() -> DecisionSettings {
    DecisionSettings { without_policy: Fallback::Allow, ..classic() }
}

fn limited(when: &str, counter: &str) -> Gate {
    let policy = format!(
        "{OPEN}---
apiVersion: kuadrant.io/v1
kind: RateLimitPolicy
metadata: {{name: p, namespace: a}}
spec:
  targetRef: {{group: gateway.networking.k8s.io, kind: Gateway, name: g}}
  limits: {{one: {{rates: [{{limit: 1, window: 1h}}], when: [{{predicate: '{when}'}}], counters: [{{expression: '{counter}'}}]}}}}
"
    );
    let policy = compile_text(&policy);
    assert_eq!(policy.problems.iter().filter(|problem| problem.is_error()).count(), 0, "{:?}", policy.problems);
    gate(policy, open())
}

fn with_header(name: &str, value: &str) -> Call {
    let mut call = Call::path("/x?a=b");
    call.headers.insert(name.to_owned(), value.to_owned());
    call
}

#[tokio::test]
async fn headers_that_routes_and_limits_look_at_are_handed_over_sent_or_not() {
    let gate = limited(r#"request.headers["x-one"] == "1" || !has(request.headers.x_two)"#, "request.query");
    let headers = |call: &Call, decision: Decision| {
        let grant = decision.outcome.unwrap();
        let _ = call;
        serde_json::from_str::<Value>(&grant.handover.unwrap().headers).unwrap()
    };
    let call = with_header("x-one", "1");
    let told = headers(&call, call.on(&gate, Nanos(0)).await);
    assert_eq!(told, serde_json::json!({"x-one": "1", "x_two": null, "x-route": null}));
    assert_eq!(both(&call, &gate).await, None);
    assert_eq!(both(&call, &gate).await, Some(Code::LimitRequests));
    assert_eq!(both(&with_header("x_two", "2"), &gate).await, None, "does not match");
    assert_eq!(both(&with_header("x_two", "2"), &gate).await, None);
}

#[tokio::test]
async fn limits_that_look_at_the_request_see_the_same_one() {
    let gate = limited(
        r#"request.scheme == "http" && request.method == "POST" && request.path == "/x" && request.host.startsWith("127")"#,
        "request.query",
    );
    assert_eq!(both(&Call::path("/x?a=b"), &gate).await, None);
    assert_eq!(both(&Call::path("/x?a=b"), &gate).await, Some(Code::LimitRequests));
    assert_eq!(both(&Call::path("/x?a=c"), &gate).await, None);
}

#[tokio::test]
async fn both_ways_see_an_empty_query_where_there_is_none() {
    let gate = limited(r#"!request.query.contains("dry_run=true")"#, "request.query");
    assert_eq!(both(&Call::path("/x"), &gate).await, None);
    assert_eq!(both(&Call::path("/x"), &gate).await, Some(Code::LimitRequests));
    assert_eq!(both(&Call::path("/x?"), &gate).await, Some(Code::LimitRequests));
    assert_eq!(both(&Call::path("/x?dry_run=true"), &gate).await, None, "does not match");
    assert_eq!(both(&Call::path("/x?dry_run=true"), &gate).await, None);
    let gate = limited(r#"request.headers["host"] == "127.0.0.1:10000""#, "request.query");
    assert_eq!(both(&Call::path("/x"), &gate).await, None);
    assert_eq!(both(&Call::path("/x"), &gate).await, Some(Code::LimitRequests));
}

#[tokio::test]
async fn a_limit_without_its_fact_is_an_error_and_not_a_limit_that_does_not_match() {
    let gate = demo_gate();
    let checked = alice().on(&gate, Nanos(0)).await;
    assert!(gate.take(&handed_over(&alice(), &checked), Nanos(0)).await.outcome.is_ok());
    let mut facts = Facts::default();
    for (key, value) in [("request.method", "POST"), ("request.host", "h"), ("request.path", alice().path.as_str())] {
        facts.tell(key, value).unwrap();
    }
    let denial = gate.take(&facts, Nanos(0)).await.outcome.unwrap_err();
    assert_eq!(denial.message, "the descriptor has no entry `auth.identity.tier`");
    facts.tell("auth.identity.tier", "free").unwrap();
    let denial = gate.take(&facts, Nanos(0)).await.outcome.unwrap_err();
    assert_eq!(denial.message, "the descriptor has no entry `auth.identity.userid`");
    assert!(denial.detail.unwrap().contains("gateway-rate-limits"));
    facts.tell("auth.identity.userid", "alice-12345678").unwrap();
    let decision = gate.take(&facts, Nanos(0)).await;
    assert!(decision.outcome.is_ok());
    assert_eq!(decision.evidence.limits.len(), 2);
    let all = limited("size(request.headers) > 3", "request.path");
    let denial = all.take(&handed_over(&Call::path("/x"), &Call::path("/x").on(&all, Nanos(0)).await), Nanos(0)).await;
    assert_eq!(denial.outcome.unwrap_err().code, Code::RequestInvalid);
}

/// Nothing is held by a cost here; answers are charged by it, and the second call sees what they left.
#[tokio::test]
async fn an_answer_is_charged_by_the_cost_of_its_limit() {
    let cost = "(model.name == \"granite\" ? 3 : 1) * usage.output";
    let kind = "kind: TokenRateLimitPolicy\nmetadata:\n";
    let priced = format!("{kind}  annotations: {{tiergate.io/cost.free-user-tokens: '{cost}'}}\n");
    let files: Vec<_> = demo().into_iter().map(|(name, text)| (name, text.replace(kind, &priced))).collect();
    assert_ne!(files, demo(), "there is one to annotate");
    let gate = gate(compile_files(&files, &options()), classic());
    let reports = gate.reports(UsageMetrics::default());
    let left = |decision: &Decision| decision.evidence.most_restrictive(LimitKind::Tokens).unwrap().remaining();
    let checked = alice().on(&gate, Nanos(0)).await;
    assert_eq!(left(&gate.take(&handed_over(&alice(), &checked), Nanos(0)).await), 100);
    let usage = Usage { input: Some(10), output: Some(20), ..Usage::default() };
    let report = Report { usage, ..Report::default() };
    let told = reports.take(&checked.outcome.unwrap().reservation, &report, Channel::RateLimit, Nanos(0)).await;
    assert_eq!((told.settlement, told.cost_fault), (Settlement::Settled(30), None));
    assert_eq!(left(&taken_by_facts(&gate).await), 100 - 3 * 20);
}

/// As in Check: a rule for POST is not about `post`, which to many a model is POST all the same.
#[tokio::test]
async fn a_method_with_lower_case_letters_is_an_error_in_the_second_call_too() {
    let gate = demo_gate();
    let checked = alice().on(&gate, Nanos(0)).await;
    let denial = gate.take(&handed_over_by("post", &alice(), &checked), Nanos(0)).await.outcome.unwrap_err();
    assert_eq!(denial.code, Code::RequestInvalid);
}

#[tokio::test]
async fn a_tier_that_is_told_has_a_series_only_if_the_policy_knows_it() {
    let gate = demo_gate();
    let mut facts = handed_over(&alice(), &alice().on(&gate, Nanos(0)).await);
    facts.tell("tiergate.tier", "free").unwrap();
    facts.tell("tiergate.model", "llm/granite").unwrap();
    facts.tell("tiergate.user", "system:serviceaccount:a:b").unwrap();
    let evidence = gate.take(&facts, Nanos(0)).await.evidence;
    let told = (evidence.tier.as_deref(), evidence.permit.model.as_deref(), evidence.user.as_deref());
    assert_eq!(told, (Some("free"), Some("llm/granite"), Some("system:serviceaccount:a:b")));
    facts.tier = Some("invented".to_owned());
    assert_eq!(gate.take(&facts, Nanos(0)).await.evidence.tier, None);
}

#[tokio::test]
async fn a_caller_without_room_is_let_through_uncounted_or_not_at_all() {
    for (without_room, expected) in [(Fallback::Allow, None), (Fallback::Refuse, Some(Code::UnavailableAccounts))] {
        let mut gate = gate(compile_files(&demo(), &options()), DecisionSettings { without_room, ..classic() });
        gate.limits = std::sync::Arc::new(crate::limit::Limits::in_memory(crate::limit::Memory::bounded(0)));
        let checked = alice().on(&gate, Nanos(0)).await;
        let taken = gate.take(&handed_over(&alice(), &checked), Nanos(0)).await;
        assert_eq!(taken.outcome.err().map(|denial| denial.code), expected);
        let reservation = gate.sealer.open(&checked.outcome.unwrap().reservation).unwrap();
        // A request and its tokens, by one limit each.
        assert_eq!(reservation.holds.len(), if without_room == Fallback::Refuse { 2 } else { 0 });
    }
}

/// Two listeners of one host name, which Check tells apart by the port, and a limit on one of them.
#[tokio::test]
async fn the_second_call_is_about_the_listener_that_check_found() {
    let policy = compile_text(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: g, namespace: a}
spec:
  gatewayClassName: x
  listeners: [{name: open, port: 80, protocol: HTTP}, {name: limited, port: 81, protocol: HTTP}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: a}
spec: {parentRefs: [{name: g}]}
---
apiVersion: kuadrant.io/v1
kind: RateLimitPolicy
metadata: {name: p, namespace: a}
spec:
  targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: g, sectionName: limited}
  limits: {none: {rates: [{limit: 0, window: 1h}]}}
",
    );
    assert_eq!(policy.problems.iter().filter(|problem| problem.is_error()).count(), 0, "{:?}", policy.problems);
    let gate = gate(policy, open());
    let headers = std::collections::HashMap::new();
    for (port, listener, expected) in [(80, "open", None), (81, "limited", Some(Code::LimitRequests))] {
        let request = Request {
            method: "POST",
            host: "h",
            scheme: "http",
            path: "/x",
            query: None,
            headers: crate::request::Headers::Map(&headers),
            gateway: None,
            listener: None,
            port: Some(port),
            peer: None,
            sni: None,
            model: crate::request::OperatorModel::Unset,
            body: None,
        };
        let checked = gate.check(&request, Nanos(0)).await;
        assert_eq!(&*checked.outcome.as_ref().unwrap().handover.as_ref().unwrap().listener, listener);
        let taken = gate.take(&handed_over(&Call::path("/x"), &checked), Nanos(0)).await;
        assert_eq!(taken.outcome.err().map(|denial| denial.code), expected);
    }
    let mut facts = Facts::default();
    for (key, value) in [("request.method", "POST"), ("request.host", "h"), ("request.path", "/x")] {
        facts.tell(key, value).unwrap();
    }
    let denial = gate.take(&facts, Nanos(0)).await.outcome.unwrap_err();
    assert_eq!(denial.message, "the descriptor has no entry `tiergate.listener`");
}

/// Limits in shadow are handed over too, and said once what would have been said.
#[tokio::test]
async fn limits_in_shadow_are_told_by_the_second_call_alone() {
    let policy = compile_text(&format!(
        "{OPEN}---
apiVersion: kuadrant.io/v1
kind: RateLimitPolicy
metadata: {{name: p, namespace: a, annotations: {{tiergate.io/shadow: 'true'}}}}
spec:
  targetRef: {{group: gateway.networking.k8s.io, kind: Gateway, name: g}}
  limits: {{one: {{rates: [{{limit: 0, window: 1h}}], when: [{{predicate: 'request.headers.x_one == \"1\"'}}]}}}}
"
    ));
    assert_eq!(policy.problems.iter().filter(|problem| problem.is_error()).count(), 0, "{:?}", policy.problems);
    let gate = gate(policy, open());
    let call = with_header("x_one", "1");
    let shadowed = |decision: &Decision| {
        decision.evidence.shadowed.iter().map(|shadowed| shadowed.denial.code).collect::<Vec<_>>()
    };
    let checked = call.on(&gate, Nanos(0)).await;
    assert_eq!(shadowed(&checked), []);
    let taken = gate.take(&handed_over(&call, &checked), Nanos(0)).await;
    assert!(taken.outcome.is_ok());
    assert_eq!(shadowed(&taken), [Code::LimitRequests]);
    let mut facts = Facts::default();
    for (key, value) in
        [("request.method", "GET"), ("request.host", "h"), ("request.path", "/x"), ("request.headers.x-route", "")]
    {
        facts.tell(key, value).unwrap();
    }
    let untold = gate.take(&facts, Nanos(0)).await;
    assert_eq!(untold.outcome.as_ref().err(), None, "a limit in shadow refuses nothing");
    assert_eq!(shadowed(&untold), [Code::RequestInvalid]);
}

/// What filters of any name made is handed over, as far as limits look at it.
#[tokio::test]
async fn filters_of_other_names_are_handed_over() {
    let policy = compile_text(&format!(
        "{OPEN}---
apiVersion: kuadrant.io/v1
kind: AuthPolicy
metadata: {{name: p, namespace: a}}
spec:
  targetRef: {{group: gateway.networking.k8s.io, kind: Gateway, name: g}}
  rules:
    authentication: {{anybody: {{anonymous: {{}}}}}}
    response:
      success:
        filters:
          tenant: {{json: {{properties: {{name: {{expression: request.headers.x_tenant}}, level: {{value: 3}}}}}}}}
          secret: {{plain: {{value: not looked at}}}}
---
apiVersion: kuadrant.io/v1
kind: RateLimitPolicy
metadata: {{name: p, namespace: a}}
spec:
  targetRef: {{group: gateway.networking.k8s.io, kind: Gateway, name: g}}
  limits:
    one:
      rates: [{{limit: 1, window: 1h}}]
      when: [{{predicate: auth.tenant.level == 3}}]
      counters: [{{expression: auth.tenant.name}}]
"
    ));
    assert_eq!(policy.problems.iter().filter(|problem| problem.is_error()).count(), 0, "{:?}", policy.problems);
    let gate = gate(policy, classic());
    let (red, blue) = (with_header("x_tenant", "red"), with_header("x_tenant", "blue"));
    let checked = red.on(&gate, Nanos(0)).await;
    let handover = checked.outcome.as_ref().unwrap().handover.as_ref().unwrap();
    assert_eq!(handover.filters, r#"{"tenant":{"level":3,"name":"red"}}"#);
    let codes = [both(&red, &gate).await, both(&red, &gate).await, both(&blue, &gate).await];
    assert_eq!(codes, [None, Some(Code::LimitRequests), None], "each tenant has an account");
    let mut facts = Facts::default();
    for (key, value) in [
        ("auth.identity", "null"),
        ("request.headers", handover.headers.as_str()),
        ("request.method", "POST"),
        ("request.host", "127.0.0.1:10000"),
        ("request.path", "/x?a=b"),
    ] {
        facts.tell(key, value).unwrap();
    }
    let denial = gate.take(&facts, Nanos(0)).await.outcome.unwrap_err();
    assert_eq!(denial.message, "the descriptor has no entry `auth`");
}
