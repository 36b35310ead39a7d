//! What would have been refused, and was not.

use super::*;

const NAMESPACE: &str = "  namespace: openshift-ingress\n";

/// The demo with the first policy of `file` in shadow.
fn in_shadow(file: &str) -> Vec<(String, String)> {
    with(file, NAMESPACE, &format!("{NAMESPACE}  annotations: {{tiergate.io/shadow: \"true\"}}\n"))
}

#[tokio::test]
async fn under_shadow_the_stage_that_would_have_refused_is_named() {
    let gate = gate(compile_files(&files(), &options()), DecisionSettings { shadow: true, ..settings() });
    let call = Call::chat("qwen3").bearer(&free());
    let decision = call.on(&gate, Nanos(0)).await;
    let trace = trace(&call, &decision, &gate);
    assert_eq!((trace.status, trace.decision, trace.code), (200, TraceResult::Shadow, Some("TG-ACCESS-DENIED")));
    let text = trace.to_string();
    for expected in [
        "access    in shadow   model llm/qwen3",
        "limits    not reached",
        "answer    in shadow   allowed: --shadow lets everything through; without it 403 TG-ACCESS-DENIED: you have no access",
        "kubectl create rolebinding qwen3-post-access",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
    // It is kept like a refusal, by its id.
    let id = decision.evidence.id;
    gate.recent.record(None, decision);
    let record = gate.recent.get(id).unwrap();
    assert_eq!((record.denial.is_none(), record.code()), (true, Some(Code::AccessDenied)));
    let of_record = Trace::of_record(&record, &gate.policies.current());
    assert_eq!((of_record.steps, of_record.changes), (trace.steps, trace.changes));
}

#[tokio::test]
async fn a_policy_in_shadow_says_what_it_saw_and_would_have_said() {
    let gate = gate_of(&in_shadow("auth-policy.yaml"));
    insta::assert_snapshot!("policy_in_shadow", explain(&Call::chat("qwen3").bearer(&free()), &gate).await);
    let without_token = explain(&Call::chat("qwen3"), &gate).await;
    for expected in [
        "identity  in shadow   authentication `service-accounts` wants a token for maas-default-gateway-sa",
        "gateway-auth-policy would have said 401 TG-TOKEN-MISSING: no bearer token was sent",
    ] {
        assert!(without_token.contains(expected), "{expected}\n{without_token}");
    }
}

#[tokio::test]
async fn a_limit_in_shadow_is_listed_as_such() {
    let gate = gate_of(&in_shadow("limits.yaml"));
    let call = Call::chat("granite").bearer(&free());
    for _ in 0..5 {
        assert!(call.on(&gate, Nanos(0)).await.evidence.shadowed.is_empty());
    }
    let text = explain(&call, &gate).await;
    for expected in [
        "in shadow: RateLimitPolicy openshift-ingress/gateway-rate-limits/free: 5 requests per 2m, 0 left",
        "EXCEEDED, lets this through in 24s  [limits.yaml:15:7]",
        "shadow    in shadow   openshift-ingress/gateway-rate-limits/free would have said 429 TG-LIMIT-REQUESTS",
        "answer    passed      allowed",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
}

#[tokio::test]
async fn a_policy_on_trial_is_named_beside_the_one_in_force() {
    let trial = "{apiVersion: kuadrant.io/v1, kind: AuthPolicy, metadata: {name: trial, namespace: llm, annotations: {tiergate.io/shadow: \
                 'true'}}, spec: {targetRef: {group: gateway.networking.k8s.io, kind: HTTPRoute, name: granite-route}, rules: {authorization: \
                 {never: {patternMatching: {patterns: [{predicate: 'false'}]}}}}}}\n";
    let mut files = files();
    files.push(("trial.yaml".to_owned(), trial.to_owned()));
    let text = explain(&Call::chat("granite").bearer(&free()), &gate_of(&files)).await;
    for expected in [
        "policy    passed      AuthPolicy openshift-ingress/gateway-auth-policy",
        "in shadow beside it: AuthPolicy llm/trial  [trial.yaml:1:",
        "shadow    in shadow   llm/trial would have said 403 TG-ACCESS-RULE",
        "answer    passed      allowed",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
}
