mod shadow;
mod tier;

use std::path::Path;
use std::time::Duration;

use super::*;
use crate::clock::Nanos;
use crate::gate::{Decision, DecisionSettings, Fallback, Gate, RequestLine};
use crate::test_util::{Call, ES256, claims, compile_files, demo, gate, options, settings, token};

/// The demo's manifests, under names that are the same everywhere.
fn files() -> Vec<(String, String)> {
    let name = |name: String| Path::new(&name).file_name().unwrap().to_str().unwrap().to_owned();
    demo().into_iter().map(|(path, text)| (name(path), text)).collect()
}

/// The demo with `from` replaced by `to` in one of its files.
fn with(file: &str, from: &str, to: &str) -> Vec<(String, String)> {
    let mut files = files();
    let (_, text) = files.iter_mut().find(|(name, _)| name == file).unwrap();
    assert!(text.contains(from), "{file} holds {from}");
    *text = text.replacen(from, to, 1);
    files
}

fn gate_of(files: &[(String, String)]) -> Gate {
    gate(compile_files(files, &options()), settings())
}

/// The explanation of `call`, by `gate` at the beginning of time.
async fn explain(call: &Call, gate: &Gate) -> String {
    trace(call, &call.on(gate, Nanos(0)).await, gate).to_string()
}

fn trace(call: &Call, decision: &Decision, gate: &Gate) -> Trace {
    let asked = RequestLine { method: "POST".into(), host: "127.0.0.1:10000".into(), path: call.path.as_str().into() };
    let (evidence, denial) = (&decision.evidence, decision.outcome.as_ref().err());
    Trace::of(&Case::new(Some(&asked), evidence, denial, &gate.policies.current()))
}

fn premium() -> String {
    token("premium", "jland-78028f6d")
}

fn free() -> String {
    token("free", "alice-12345678")
}

#[tokio::test]
async fn an_allowed_request_names_every_object_that_let_it_through() {
    let gate = gate_of(&files());
    let call = Call::chat("qwen3").bearer(&premium());
    insta::assert_snapshot!("allowed", explain(&call, &gate).await);
    let again = explain(&call, &gate).await;
    assert!(again.contains("remembered from an earlier review") && again.contains("18 left"), "{again}");
}

#[tokio::test]
async fn a_missing_token_says_what_the_policy_wants() {
    insta::assert_snapshot!("no_token", explain(&Call::chat("qwen3"), &gate_of(&files())).await);
}

#[tokio::test]
async fn a_token_for_another_audience_names_both() {
    let mut claims = claims("maas-default-gateway-tier-premium", "jland-78028f6d");
    claims.aud = vec!["vault".to_owned()];
    let call = Call::chat("qwen3").bearer(&ES256.sign(&claims));
    insta::assert_snapshot!("wrong_audience", explain(&call, &gate_of(&files())).await);
}

#[tokio::test]
async fn a_deleted_account_is_named_with_one_that_is_like_it() {
    let call = Call::chat("qwen3").bearer(&token("premium", "jland-78028f6e"));
    insta::assert_snapshot!("deleted_account", explain(&call, &gate_of(&files())).await);
}

#[tokio::test]
async fn a_missing_grant_comes_with_the_commands_that_make_it() {
    let gate = gate_of(&files());
    insta::assert_snapshot!("no_grant", explain(&Call::chat("qwen3").bearer(&free()), &gate).await);
    let elsewhere = with("models.yaml", "/llm/qwen3}", "/llm}");
    let misspelt = explain(&Call::chat("qwen33").bearer(&free()), &gate_of(&elsewhere)).await;
    assert!(misspelt.contains("there is no LLMInferenceService llm/qwen33; did you mean llm/qwen3?"), "{misspelt}");
}

#[tokio::test]
async fn a_caller_without_a_tier_is_told_which_groups_give_one() {
    const STRANGER: &str = "
apiVersion: v1
kind: ServiceAccount
metadata: {name: stranger, namespace: elsewhere}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: everybody, namespace: lab}
subjects: [{kind: Group, name: 'system:authenticated', apiGroup: rbac.authorization.k8s.io}]
roleRef: {kind: Role, name: model-post-access, apiGroup: rbac.authorization.k8s.io}
";
    let mut files = with("tiers.yaml", "- system:authenticated", "- free-users");
    files.push(("stranger.yaml".to_owned(), STRANGER.to_owned()));
    let call = Call::path("/lab/phi/v1/chat/completions").bearer(&ES256.sign(&claims("elsewhere", "stranger")));
    insta::assert_snapshot!("no_tier", explain(&call, &gate_of(&files)).await);
}

/// Whoever calls as OpenAI has it, or forgets a part, is told the path.
#[tokio::test]
async fn a_path_of_another_shape_is_told_the_paths_of_models() {
    let everything = with("models.yaml", "/llm/qwen3}", "/}");
    for (files, path, expected) in [
        (
            files(),
            "/v1/chat/completions",
            "send /lab/phi/v1/chat/completions or /llm/draft/v1/chat/completions or /llm/granite/v1/",
        ),
        (files(), "/qwen3/v1/chat/completions", "send /llm/qwen3/v1/chat/completions, which starts with the model"),
        (
            files(),
            "/llm/v1/chat/completions",
            "send /llm/draft/v1/chat/completions or /llm/granite/v1/chat/completions or /llm/qwen3/",
        ),
        (files(), "/api/llm/qwen3/v1/chat", "send /llm/qwen3/v1/chat,"),
        (files(), "/qwen3", "send /llm/qwen3,"),
        (everything.clone(), "/v1/chat/completions?a=b", "send /lab/phi/v1/chat/completions or"),
        (everything.clone(), "/qwen3/v1/models", "send /llm/qwen3/v1/models,"),
        (everything, "/", "send /lab/phi or"),
    ] {
        let told = explain(&Call::path(path).bearer(&free()), &gate_of(&files)).await;
        assert!(told.contains(expected), "{path}: {told}");
    }
    let other = explain(&Call::path("/llm/qwen4/v1").bearer(&free()), &gate_of(&files())).await;
    assert!(!other.contains("send /"), "{other}");
}

#[tokio::test]
async fn a_limit_names_what_it_counts_under() {
    let files = |counters: &str| {
        let mut files = files();
        let (_, text) = files.iter_mut().find(|(name, _)| name == "limits.yaml").unwrap();
        *text = text.replace("[{expression: auth.identity.userid}]", &format!("[{counters}]"));
        files
    };
    let path = "{expression: 'request.path.split(\"/\")[2]'}";
    for (counters, expected) in [
        ("{expression: auth.identity.userid}", "counted under auth.identity.userid = alice-12345678\n"),
        ("", "one count for all callers\n"),
        (
            &*format!("{{expression: auth.identity.tier}}, {path}"),
            "counted under auth.identity.tier = free, request.path.split(\"/\")[2] = granite\n",
        ),
        // Whoever reads it is not to have the caller's token.
        (
            "{expression: 'request.headers[\"authorization\"]'}",
            "counted under request.headers[\"authorization\"] = (not shown)\n",
        ),
    ] {
        let mut gate = gate_of(&files(counters));
        let call = Call::chat("granite").bearer(&free());
        let refused = explain(&call, &gate).await;
        assert!(refused.contains("limits.yaml") && !refused.contains(" = "), "{refused}");
        gate.tells_keys = true;
        let told = explain(&call, &gate).await;
        assert!(told.contains(expected), "{expected}\n{told}");
    }
}

#[tokio::test]
async fn an_unknown_route_names_the_nearest_and_why_it_does_not_match() {
    let gate = gate_of(&files());
    insta::assert_snapshot!("unknown_route", explain(&Call::path("/llm/qwen4/v1"), &gate).await);
    let method = with("models.yaml", "value: /llm/qwen3}", "value: /llm/qwen3}, method: GET");
    let host = with("models.yaml", "  rules:", "  hostnames: [models.example.com]\n  rules:");
    for (files, expected) in [
        (method, "which is for this path with method GET"),
        (host, "which is for this path at host models.example.com"),
    ] {
        let told = explain(&Call::path("/llm/qwen3/v1"), &gate_of(&files)).await;
        assert!(told.contains(expected), "{told}");
    }
    let none = gate_of(&files().into_iter().filter(|(name, _)| name == "gateway.yaml").collect::<Vec<_>>());
    assert!(explain(&Call::path("/a"), &none).await.contains("add an HTTPRoute: none is attached"));
}

#[tokio::test]
async fn an_exceeded_limit_says_when_it_passes_by_itself() {
    let gate = gate_of(&files());
    let call = Call::chat("granite").bearer(&free());
    for _ in 0..5 {
        assert!(call.on(&gate, Nanos(0)).await.outcome.is_ok());
    }
    insta::assert_snapshot!("limit", explain(&call, &gate).await);
    let gate = gate_of(&with("limits.yaml", "limit: 5,", "limit: 0,"));
    let never = explain(&call, &gate).await;
    assert!(never.contains("EXCEEDED, lets nothing through, ever") && !never.contains("wait:"), "{never}");
}

#[tokio::test]
async fn a_policy_in_error_shows_its_problems() {
    let auth = with("auth-policy.yaml", "kubernetesTokenReview:", "oauth2Introspection:");
    insta::assert_snapshot!("auth_in_error", explain(&Call::chat("qwen3").bearer(&premium()), &gate_of(&auth)).await);
    let limits = with("limits.yaml", "window: 2m", "window: 1d");
    insta::assert_snapshot!(
        "limits_in_error",
        explain(&Call::chat("qwen3").bearer(&premium()), &gate_of(&limits)).await
    );
}

/// What it was for is not known, so it is no candidate of any path.
#[tokio::test]
async fn a_route_in_error_is_named_with_its_problem() {
    let route = with("models.yaml", "type: PathPrefix, value: /llm/qwen3}", "type: PathPrefx, value: /llm/qwen3}");
    let told = explain(&Call::chat("granite").bearer(&premium()), &gate_of(&route)).await;
    for expected in [
        "policy    UNDECIDED   HTTPRoute llm/qwen3-route, which is in error  [models.yaml:14:3]",
        "  - models.yaml:19:24: error[",
        "`PathPrefx` is not a type of path match",
    ] {
        assert!(told.contains(expected), "{expected}\n{told}");
    }
    let nameless = with("auth-policy.yaml", "  name: gateway-auth-policy\n", "");
    let told = explain(&Call::chat("granite").bearer(&premium()), &gate_of(&nameless)).await;
    assert!(told.contains("`name` is missing"), "{told}");
}

#[tokio::test]
async fn a_path_with_two_readings_says_what_to_send() {
    insta::assert_snapshot!("path", explain(&Call::path("/llm//qwen3/./v1"), &gate_of(&files())).await);
    let escaped = explain(&Call::path("/llm/qwen3%2Fv1"), &gate_of(&files())).await;
    assert!(escaped.contains("send a path in UTF-8, without `;`"), "{escaped}");
}

#[tokio::test]
async fn a_route_without_a_policy_is_refused_or_open_as_configured() {
    let files: Vec<_> = files().into_iter().filter(|(name, _)| name != "auth-policy.yaml").collect();
    insta::assert_snapshot!("no_policy", explain(&Call::chat("qwen3"), &gate_of(&files)).await);
    let open = DecisionSettings { without_policy: Fallback::Allow, ..settings() };
    let gate = gate(compile_files(&files, &options()), open);
    insta::assert_snapshot!("open", explain(&Call::chat("qwen3"), &gate).await);
}

#[tokio::test]
async fn a_policy_that_leaves_a_request_alone_and_a_rule_that_does_not_hold_are_named() {
    let get = "when: [{predicate: request.method == \"GET\"}]";
    let alone = with("auth-policy.yaml", "  rules:\n", &format!("  {get}\n  rules:\n"));
    let told = explain(&Call::chat("qwen3"), &gate_of(&alone)).await;
    for expected in [
        "its `when` does not hold, so it has nothing to say  [auth-policy.yaml:12:",
        "identity  skipped     the policy leaves this request alone",
    ] {
        assert!(told.contains(expected), "{expected}\n{told}");
    }
    let rule = "authorization:\n      only-get:\n        patternMatching: {patterns: [{predicate: request.method == \"GET\"}]}\n";
    let ruled = with("auth-policy.yaml", "authorization:\n", rule);
    let told = explain(&Call::chat("granite").bearer(&free()), &gate_of(&ruled)).await;
    for expected in [
        "access    REFUSED     authorization `only-get` asks  [auth-policy.yaml:37:9]",
        "- a request for which authorization `only-get` holds (auth-policy.yaml:37:9)",
    ] {
        assert!(told.contains(expected), "{expected}\n{told}");
    }
}

/// Everything that a code leads to is said in the present tense of the policy, and something is said for each.
#[tokio::test]
async fn every_code_has_something_that_would_change_it() {
    let gate = gate_of(&files());
    let decision = Call::chat("qwen3").bearer(&free()).on(&gate, Nanos(0)).await;
    let policy = gate.policies.current();
    let asked = RequestLine { method: "POST".into(), host: "h".into(), path: "/llm/qwen3".into() };
    for code in Code::ALL {
        let denial = Denial::new(*code, "no").detail("authorization `tier-access` does not hold");
        let case = Case::new(Some(&asked), &decision.evidence, Some(&denial), &policy);
        let trace = Trace::of(&case);
        // A rule that is not there, a limit that was not asked, and a folder without a fault have nothing to name.
        let silent = [Code::AccessRule, Code::LimitRequests, Code::LimitTokens, Code::UnavailableConfiguration];
        assert_eq!(trace.changes.is_empty(), silent.contains(code), "{code:?}: {:?}", trace.changes);
    }
}

#[tokio::test]
async fn a_record_is_explained_by_the_policy_as_it_is_now() {
    let gate = gate_of(&files());
    let call = Call::chat("qwen3").bearer(&free());
    let decision = call.on(&gate, Nanos(0)).await;
    let id = decision.evidence.id;
    gate.recent.record(None, decision);
    let record = gate.recent.get(id).unwrap();
    assert_eq!(Trace::of_record(&record, &gate.policies.current()).notes, Vec::<String>::new());
    let moved: Vec<_> = with("auth-policy.yaml", "# Who calls", "\n\n# Who calls");
    gate.policies.publish(compile_files(&moved, &options()));
    let trace = Trace::of_record(&record, &gate.policies.current());
    assert!(trace.notes[0].contains("decided by generation 1; places and advice are of generation 2"), "{trace}");
    assert!(trace.to_string().contains("gateway-auth-policy  [auth-policy.yaml:7:3]"), "{trace}");
    // Of the whole policy nothing is left.
    gate.policies.publish(compile_files(&files()[1..2], &options()));
    let trace = Trace::of_record(&record, &gate.policies.current());
    assert_eq!((trace.status, trace.code), (403, Some("TG-ACCESS-DENIED")));
    assert!(trace.to_string().contains("it is not in the policy any more"), "{trace}");
}

#[tokio::test]
async fn a_record_keeps_no_policy_alive() {
    let gate = gate_of(&files());
    let decision = Call::chat("qwen3").bearer(&free()).on(&gate, Nanos(0)).await;
    gate.recent.record(None, decision);
    let old = std::sync::Arc::downgrade(&gate.policies.current());
    gate.policies.publish(compile_files(&files(), &options()));
    assert!(old.upgrade().is_none());
}

#[test]
fn what_a_client_sent_does_not_talk_to_the_terminal() {
    let gate = gate_of(&files());
    let evidence = Evidence::new(1, 1);
    let denial = Denial::new(Code::PathNotCanonical, "no");
    let asked = RequestLine { method: "GET".into(), host: "h\u{1b}[2J".into(), path: "/a\r\u{7}".into() };
    let policy = gate.policies.current();
    let case = Case::new(Some(&asked), &evidence, Some(&denial), &policy);
    let text = Trace::of(&case).to_string();
    assert!(text.starts_with("GET /a\\r\\u{7} at h\\u{1b}[2J\n"), "{text:?}");
}

#[test]
fn durations_are_said_in_the_largest_unit_that_is_exact() {
    for (millis, expected) in
        [(0, "0s"), (12_600, "12.6s"), (24_000, "24s"), (120_000, "2m"), (7_200_000, "2h"), (90_000, "90s")]
    {
        assert_eq!(super::steps::span(Duration::from_millis(millis)), expected);
    }
}

#[test]
fn waits_of_many_days_are_said_in_days_and_hours() {
    const HOUR: u64 = 3600;
    for (seconds, expected) in [
        (90, "90s"),
        (47 * HOUR, "47h"),
        (47 * HOUR + 1, "2d"),
        (30 * 24 * HOUR + 1, "30d 1h"),
        (31 * 24 * HOUR - HOUR, "30d 23h"),
    ] {
        assert_eq!(super::steps::rough_span(Duration::from_secs(seconds)), expected);
    }
}

/// The policy may ask about another resource, with another verb, for another user.
#[tokio::test]
async fn what_would_grant_it_is_what_was_asked_for() {
    let pools = [
        ("value: serving.kserve.io", "value: inference.networking.k8s.io"),
        ("value: llminferenceservices", "value: inferencepools"),
        ("value: post", "value: get"),
    ];
    let mut files = files();
    let (_, text) = files.iter_mut().find(|(name, _)| name == "auth-policy.yaml").unwrap();
    for (from, to) in pools {
        assert!(text.contains(from), "{from}");
        *text = text.replace(from, to);
    }
    let told = explain(&Call::chat("qwen3").bearer(&free()), &gate_of(&files)).await;
    let group = "system:serviceaccounts:maas-default-gateway-tier-free";
    for expected in [
        "authorization `tier-access` asks for `get` on inferencepools.inference.networking.k8s.io llm/qwen3, for system:serviceaccount:",
        "a Role with `get` on inferencepools.inference.networking.k8s.io `qwen3`",
        "kubectl create role qwen3-get-access -n llm --verb=get --resource=inferencepools.inference.networking.k8s.io --resource-name=qwen3",
        &format!("kubectl create rolebinding qwen3-get-access -n llm --role=qwen3-get-access --group={group}"),
    ] {
        assert!(told.contains(expected), "{expected}\n{told}");
    }
    assert!(!told.contains("LLMInferenceService") && !told.contains("annotation"), "{told}");
    let (_, text) = files.iter_mut().find(|(name, _)| name == "auth-policy.yaml").unwrap();
    *text = text.replacen("expression: auth.identity.user.username\n          authorizationGroups:\n            expression: auth.identity.user.groups\n", "value: system:serviceaccount:ops:robot\n", 1);
    let told = explain(&Call::chat("qwen3").bearer(&free()), &gate_of(&files)).await;
    for expected in
        ["grant it, to system:serviceaccount:ops:robot, whom the policy asks about:", " --serviceaccount=ops:robot\n"]
    {
        assert!(told.contains(expected), "{expected}\n{told}");
    }
}

/// Where the policy is that of a cluster, nobody is sent to a folder.
#[tokio::test]
async fn remedies_speak_of_the_cluster_where_there_is_one() {
    let elsewhere = with("models.yaml", "/llm/qwen3}", "/llm}");
    let mut policy = compile_files(&elsewhere, &options());
    policy.places.values_mut().for_each(|place| (place.line, place.column) = (0, 0));
    let gate = gate(policy, settings());
    let told = explain(&Call::chat("qwen33").bearer(&free()), &gate).await;
    assert!(
        told.contains(
            "llm/qwen33 (kubectl get llminferenceservices.serving.kserve.io -n llm); did you mean llm/qwen3?"
        ),
        "{told}"
    );
    let openshift = explain(&Call::chat("qwen3").bearer("sha256~abc"), &gate).await;
    assert!(openshift.contains("it is an OpenShift token (`sha256~…`)"), "{openshift}");
    assert!(openshift.contains("- or serve with --review-foreign"), "{openshift}");
    let (evidence, policy) = (Evidence::new(1, 1), gate.policies.current());
    for code in Code::ALL {
        let denial = Denial::new(*code, "no");
        let asked = RequestLine { method: "GET".into(), host: "h".into(), path: "/a".into() };
        let text = Trace::of(&Case::new(Some(&asked), &evidence, Some(&denial), &policy)).to_string();
        assert!(!text.contains("folder") && !text.contains("--jwks"), "{text}");
    }
}
