//! What callers are shown of their limits.

use envoy_types::pb::envoy::service::auth::v3::DeniedHttpResponse;
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use serde_json::{Value, json};

use super::*;
use crate::respond::{Style, check_response};
use crate::usage::Channel;

const ROOT: &str = "/v1/limits";
const OF_MODEL: &str = "/llm/granite/v1/limits";
/// Anybody is who `x-user` says.
const PLAIN: &str = "apiVersion: kuadrant.io/v1
kind: AuthPolicy
metadata: {name: auth, namespace: ns}
spec:
  targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: gw}
  rules:
    authentication: {header: {plain: {expression: 'request.headers[\"x-user\"]'}}}
    response: {success: {filters: {identity: {json: {properties: {userid: {expression: auth.identity}}}}}}}
---
";

/// A folder with one route for everything, and this specification of limits of requests.
fn limited(limits: &str) -> String {
    format!(
        "{ONE_ROUTE}{PLAIN}apiVersion: kuadrant.io/v1
kind: RateLimitPolicy
metadata: {{name: limits, namespace: ns}}
spec:
  targetRef: {{group: gateway.networking.k8s.io, kind: Gateway, name: gw}}
  limits:
{limits}"
    )
}

/// A limit of so many in a minute, on what `counter` says.
fn limit(name: &str, number: u64, counter: &str) -> String {
    format!("    {name}: {{rates: [{{limit: {number}, window: 1m}}], counters: [{{expression: '{counter}'}}]}}\n")
}

fn ada(mut call: Call) -> Call {
    call.headers.insert("x-user".to_owned(), "ada".to_owned());
    call
}

/// The answer to who asks at `now`, which is a 200.
async fn answered(call: &Call, gate: &Gate, now: Nanos) -> DeniedHttpResponse {
    let decision = call.on(gate, now).await;
    let style = Style { shadow: gate.is_shadow(), ..Style::default() };
    let response = check_response(&decision, None, style);
    // By OK a gateway sends the request on.
    assert_ne!(response.status.unwrap().code, 0, "{:?}", decision.outcome);
    match response.http_response {
        Some(HttpResponse::DeniedResponse(denied)) if denied.status.as_ref().unwrap().code == 200 => denied,
        other => panic!("{other:?}"),
    }
}

async fn shown(call: &Call, gate: &Gate) -> Value {
    serde_json::from_str(&answered(call, gate, Nanos(0)).await.body).unwrap()
}

/// Each rate's name, and what `field` says of it.
async fn each(call: &Call, gate: &Gate, field: &str) -> Vec<(String, Value)> {
    let shown = shown(call, gate).await;
    let rates = shown["limits"].as_array().unwrap().iter();
    rates.map(|rate| (rate["name"].as_str().unwrap().to_owned(), rate[field].clone())).collect()
}

#[tokio::test]
async fn a_caller_is_shown_what_they_used_and_what_is_left() {
    let gate = demo_gate();
    let name = user(&gate, "free", 0);
    let token = token("free", &name);
    let user = format!("system:serviceaccount:maas-default-gateway-tier-free:{name}");
    let expected = |used: u64, reset: u64, wait: Option<u64>| {
        json!({"user": user, "tier": "free", "limits": [
            {"name": "openshift-ingress/gateway-rate-limits/free", "counts": "requests", "algorithm": "token-bucket",
             "limit": 5, "window_seconds": 120, "used": used, "left": 5 - used, "reset_seconds": reset,
             "retry_after_seconds": wait},
            {"name": "openshift-ingress/gateway-token-rate-limits/free-user-tokens", "counts": "tokens",
             "algorithm": "token-bucket", "limit": 100, "window_seconds": 60, "used": 0, "left": 100,
             "reset_seconds": 0, "retry_after_seconds": 0},
        ]})
    };
    let calls = [Call::get(ROOT), Call::get(OF_MODEL), Call { method: "HEAD", ..Call::get("/v1/limits?x=1") }];
    let calls = calls.map(|call| call.bearer(&token));
    let all_see = async |expected: Value| {
        for call in &calls {
            assert_eq!(shown(call, &gate).await, expected, "{} {}", call.method, call.path);
        }
    };
    all_see(expected(0, 0, Some(0))).await;
    assert_eq!(gate.limits.accounts(), 0, "who only asks has no account");
    let chat = Call::chat("granite").bearer(&token);
    for _ in 0..3 {
        assert_eq!(code(&chat, &gate).await, None);
    }
    all_see(expected(3, 72, Some(0))).await;
    all_see(expected(3, 72, Some(0))).await;
    for _ in 0..2 {
        assert_eq!(code(&chat, &gate).await, None, "asking has cost nothing");
    }
    assert_eq!(code(&chat, &gate).await, Some(Code::LimitRequests));
    all_see(expected(5, 120, Some(24))).await;
    let answer = answered(&calls[0], &gate, Nanos(0)).await;
    let headers: Vec<_> = answer.headers.iter().map(|one| one.header.clone().unwrap()).collect();
    let headers: Vec<_> = headers.iter().map(|one| (&*one.key, &*one.value)).collect();
    assert_eq!(headers, [("content-type", "application/json"), ("cache-control", "no-store")]);
}

#[tokio::test]
async fn who_asks_is_found_out_as_for_any_request() {
    let gate = demo_gate();
    let free = token("free", &user(&gate, "free", 0));
    for (call, expected) in [
        (Call::get(ROOT), Code::TokenMissing),
        (Call::get(OF_MODEL), Code::TokenMissing),
        (Call::get(ROOT).bearer("garbage"), Code::TokenMalformed),
        (Call::get(ROOT).bearer(&token("free", "nobody")), Code::TokenSubjectGone),
        // Below a model's prefix only for who may call the model.
        (Call::get("/llm/qwen3/v1/limits").bearer(&free), Code::AccessDenied),
        (Call::get("/llm/unknown/v1/limits").bearer(&free), Code::RouteUnknown),
        // The path rule comes first, and what only looks like the path is asked of a model.
        (Call::get("/llm//v1/limits"), Code::PathNotCanonical),
        (Call::get("//v1/limits"), Code::PathNotCanonical),
        (Call::get("/llm/granite/../v1/limits"), Code::PathNotCanonical),
        (Call::get("/llm/granite;x/v1/limits").bearer(&free), Code::PathNotCanonical),
        (Call::get("/llm/granite/v1%2Flimits"), Code::PathNotCanonical),
        (Call::get("/v1/limits/").bearer(&free), Code::RouteUnknown),
        (Call::path(ROOT).bearer(&free), Code::RouteUnknown),
        (Call::get("/LLM/granite/v1/limits").bearer(&free), Code::RouteUnknown),
    ] {
        assert_eq!(code(&call, &gate).await, Some(expected), "{} {}", call.method, call.path);
    }
    let twice = Call { gateway: Some("no/gateway".to_owned()), ..Call::get(ROOT).bearer(&free) };
    assert_eq!(code(&twice, &gate).await, Some(Code::UnavailableGateway));
    // A model that is named by the operator is named at the root too.
    let of_qwen = Call { model: Some("llm/qwen3".to_owned()), ..Call::get(ROOT).bearer(&free) };
    assert_eq!(code(&of_qwen, &gate).await, Some(Code::AccessDenied));
}

/// Callers may be strangers to `authentication`: the rules of authorization are then all that keeps them out.
#[tokio::test]
async fn rules_that_ask_for_no_model_of_the_path_count_at_the_root() {
    let with = |authentication: &str, rule: &str| {
        let policy = format!(
            "apiVersion: kuadrant.io/v1
kind: AuthPolicy
metadata: {{name: auth, namespace: ns}}
spec:
  targetRef: {{group: gateway.networking.k8s.io, kind: Gateway, name: gw}}
  rules: {{authentication: {{who: {authentication}}}, authorization: {{rule: {rule}}}}}
---
"
        );
        let text = limited("    one: {rates: [{limit: 1, window: 1m}]}\n").replace(PLAIN, &policy);
        let policy = compile_text(&text);
        let errors: Vec<_> = policy.problems.iter().filter(|problem| problem.is_error()).collect();
        assert!(errors.is_empty(), "{errors:?}");
        gate(policy, settings())
    };
    let pattern = "{patternMatching: {patterns: [{predicate: '\"x-team\" in request.headers'}]}}";
    let access = |namespace: &str, name: &str| {
        format!(
            "{{kubernetesSubjectAccessReview: {{user: {{value: ada}}, resourceAttributes: {{verb: {{value: post}}, group: \
             {{value: serving.kserve.io}}, resource: {{value: llminferenceservices}}, namespace: {namespace}, name: {name}}}}}}}"
        )
    };
    let (constant, of_path) = ("{value: llm}", "{expression: 'request.path.split(\"/\")[2]'}");
    let of_selector = "{selector: 'request.path.@extract:{\"sep\":\"/\",\"pos\":2}'}";
    let red = |mut call: Call| {
        call.headers.insert("x-team".to_owned(), "red".to_owned());
        call
    };
    for authentication in ["{plain: {expression: 'request.headers[\"x-user\"]'}}", "{anonymous: {}}"] {
        for (rule, expected) in [
            (pattern.to_owned(), Some(Code::AccessRule)),
            (access(constant, "{value: granite}"), Some(Code::AccessDenied)),
            (access(constant, of_path), None),
            (access(of_selector, "{value: granite}"), None),
        ] {
            let gate = with(authentication, &rule);
            assert_eq!(code(&ada(Call::get(ROOT)), &gate).await, expected, "{authentication} {rule}");
        }
        let gate = with(authentication, pattern);
        assert_eq!(each(&red(ada(Call::get(ROOT))), &gate, "left").await.len(), 1, "{authentication}");
    }
}

#[tokio::test]
async fn a_caller_without_a_tier_is_answered_as_the_flag_says() {
    let mut files = demo();
    for (_, text) in &mut files {
        *text = text.replace("system:authenticated", "nobody-has-this-group");
        // A policy that presents the tier cannot without one, whatever the flag says.
        *text = text.replace(
            "auth.metadata.matchedTier[\"tier\"]",
            "'has(auth.metadata.matchedTier.tier) ? auth.metadata.matchedTier.tier : \"free\"'",
        );
    }
    files.push((
        "guest.yaml".to_owned(),
        "{apiVersion: v1, kind: ServiceAccount, metadata: {name: guest, namespace: elsewhere}}".to_owned(),
    ));
    let token = crate::test_util::ES256.sign(&crate::test_util::claims("elsewhere", "guest"));
    for (tier_unknown, expected) in [(TierUnknown::Refuse, Some(Code::TierNone)), (TierUnknown::Next, None)] {
        let gate = gate(compile_files(&files, &options()), DecisionSettings { tier_unknown, ..settings() });
        assert_eq!(code(&Call::get(ROOT).bearer(&token), &gate).await, expected, "{tier_unknown:?}");
    }
}

#[tokio::test]
async fn limits_are_those_of_a_call_at_the_same_place() {
    let of = |name: &str, when: &str| {
        format!("    {name}: {{rates: [{{limit: 3, window: 1h}}], when: [{{predicate: '{when}'}}]}}\n")
    };
    let limits = [
        of("chats", "request.path.endsWith(\"/chat/completions\")"),
        of("posts", "request.method == \"POST\""),
        of("asks", "request.method == \"GET\""),
        of("beta", "request.headers[\"x-beta\"] == \"1\""),
        of("missing", "request.headers[\"x-none\"] == \"1\""),
    ];
    let gate = gate(compile_text(&limited(&limits.concat())), settings());
    let names = async |call: &Call| -> Vec<String> {
        each(call, &gate, "left").await.into_iter().map(|(name, _)| name).collect()
    };
    assert_eq!(names(&ada(Call::get(ROOT))).await, ["ns/limits/chats", "ns/limits/posts"]);
    let mut beta = ada(Call::get(OF_MODEL));
    beta.headers.insert("x-beta".to_owned(), "1".to_owned());
    assert_eq!(names(&beta).await, ["ns/limits/chats", "ns/limits/posts", "ns/limits/beta"]);
}

#[tokio::test]
async fn a_limit_that_cannot_be_told_is_an_error_beside_the_others() {
    let limits = [limit("broken", 3, "int(auth.identity.userid)"), limit("fine", 4, "auth.identity.userid")].concat();
    let gate = gate(compile_text(&limited(&limits)), settings());
    let shown = shown(&ada(Call::get(ROOT)), &gate).await;
    let error = "a policy expression could not be evaluated";
    let broken = json!({"name": "ns/limits/broken", "counts": "requests", "algorithm": "token-bucket", "limit": 3,
                        "window_seconds": 60, "error": error});
    assert_eq!(shown["limits"][0], broken);
    assert_eq!((&shown["limits"][1]["left"], &shown["user"]), (&json!(4), &Value::Null));
    assert_eq!(code(&ada(Call::path("/x")), &gate).await, Some(Code::PolicyExpression), "a call is undecided");
    let decision = ada(Call::get(ROOT)).on(&gate, Nanos(0)).await;
    let verbose = check_response(&decision, None, Style { verbose_refusals: true, ..Style::default() });
    assert!(format!("{verbose:?}").contains("counter of limit ns/limits/broken"), "{verbose:?}");
}

#[tokio::test]
async fn what_answers_hold_is_used_and_debt_is_more_than_all() {
    let reserving = Reserving::default();
    let gate = gate(compile_files(&demo(), &options()), DecisionSettings { reserving, ..settings() });
    let token = token("free", &user(&gate, "free", 0));
    let tokens = async || {
        let of = async |field| each(&Call::get(ROOT).bearer(&token), &gate, field).await[1].1.clone();
        (of("used").await, of("left").await, of("retry_after_seconds").await)
    };
    let held = Call::chat("granite").bearer(&token).on(&gate, Nanos(0)).await.outcome.unwrap();
    assert_eq!(tokens().await, (json!(100), json!(0), json!(1)));
    let reports = gate.reports(UsageMetrics::default());
    let report = Report { usage: Usage { total: Some(350), ..Usage::default() }, ..Report::default() };
    reports.take(&held.reservation, &report, Channel::RateLimit, Nanos(0)).await;
    assert_eq!(tokens().await, (json!(350), json!(0), json!(151)));
}

#[tokio::test]
async fn limits_of_nothing_and_in_shadow() {
    let limits = [limit("never", 0, "auth.identity.userid"), limit("some", 2, "auth.identity.userid")].concat();
    let text = limited(&limits).replace("name: limits,", "name: limits, annotations: {tiergate.io/shadow: some},");
    let gate = gate(compile_text(&text), settings());
    let shown = each(&ada(Call::get(ROOT)), &gate, "retry_after_seconds").await;
    assert_eq!(shown, [("ns/limits/never".to_owned(), Value::Null)]);
}

#[tokio::test]
async fn five_hundred_limits_are_whole_and_more_than_a_thousand_are_cut() {
    for (number, rows, truncated) in [(500, 500, Value::Null), (1_000, 1_000, Value::Null), (1_001, 1_000, json!(true))]
    {
        let limits: String =
            (0..number).map(|at| limit(&format!("l{at:04}"), at + 1, "auth.identity.userid")).collect();
        let gate = gate(compile_text(&limited(&limits)), settings());
        let shown = shown(&ada(Call::get(ROOT)), &gate).await;
        let rates = shown["limits"].as_array().unwrap();
        assert_eq!((rates.len(), &shown["truncated"]), (rows, &truncated), "{number}");
        assert!(rates.iter().zip(1..).all(|(rate, limit)| rate["left"] == limit), "{number}: in their order");
    }
}

#[tokio::test]
async fn whoever_takes_from_the_limits_they_are_shown_and_in_shadow_too() {
    for (enforce_limits, shadow) in
        [(EnforceLimits::Rls, false), (EnforceLimits::Check, true), (EnforceLimits::Rls, true)]
    {
        let settings = DecisionSettings { enforce_limits, shadow, ..settings() };
        let gate = gate(compile_files(&demo(), &options()), settings);
        let free = token("free", &user(&gate, "free", 0));
        let left = each(&Call::get(ROOT).bearer(&free), &gate, "left").await;
        assert_eq!(left.iter().map(|(_, left)| left.clone()).collect::<Vec<_>>(), [json!(5), json!(100)]);
        let stranger = code(&Call::get(ROOT), &gate).await;
        assert_eq!(stranger, (!shadow).then_some(Code::TokenMissing), "{enforce_limits:?} {shadow}");
    }
}

/// It is no refusal, and no call: nothing is remembered of it, or counted but the answer itself.
#[tokio::test]
async fn an_answer_is_told_as_an_answer() {
    let gate = demo_gate();
    let token = token("free", &user(&gate, "free", 0));
    let decision = Call::get(ROOT).bearer(&token).on(&gate, Nanos(0)).await;
    assert!(decision.evidence.limits.is_empty() && decision.evidence.shadowed.is_empty());
    assert!(decision.outcome.as_ref().unwrap().reservation.is_empty());
    let metadata = format!("{:?}", check_response(&decision, None, Style::default()).dynamic_metadata);
    assert!(metadata.contains("\"shown\"") && !metadata.contains("reservation"), "{metadata}");
    let metrics = crate::metrics::Metrics::new();
    metrics.published(&gate.policies.current(), &[]);
    metrics.decided(&decision, Duration::ZERO);
    let page = metrics.page(crate::metrics::PageFormat::Text, 0, 0);
    let told = |line: &str| page.lines().any(|other| other == line);
    assert!(told("tiergate_decisions_total{outcome=\"shown\",reason=\"\"} 1"), "{page}");
    assert!(told("tiergate_decisions_total{outcome=\"allowed\",reason=\"\"} 0"), "{page}");
    assert!(told("tiergate_tier_decisions_total{outcome=\"allowed\",tier=\"free\"} 0"), "{page}");
    gate.recent.record(None, decision);
    assert!(gate.recent.newest_first().is_empty());
}

#[tokio::test]
async fn what_each_route_counts_is_shown_below_a_models_prefix() {
    let gate = annotated("gateway-rate-limits", "tiergate.io/counter-scope: route");
    let token = token("free", &user(&gate, "free", 0));
    assert_eq!(code(&Call::chat("granite").bearer(&token), &gate).await, None);
    assert_eq!(each(&Call::get(OF_MODEL).bearer(&token), &gate, "used").await[0].1, json!(1));
    let root = each(&Call::get(ROOT).bearer(&token), &gate, "error").await;
    assert_eq!(root[0].1, json!("it counts for each route by itself: ask below a model's prefix"));
    assert_eq!(root[1].1, Value::Null);
}

#[tokio::test]
async fn where_nothing_says_which_limits_are_meant_the_remedy_is_said() {
    let only_models = |text: &str| {
        text.replace(
            "spec: {parentRefs: [{name: gw}]}",
            "spec: {parentRefs: [{name: gw}], rules: [{matches: [{path: {value: /a/b}}]}]}",
        )
    };
    let of_route = "targetRef: {group: gateway.networking.k8s.io, kind: HTTPRoute, name: r}";
    let text = only_models(&limited(&limit("one", 1, "auth.identity.userid")));
    let own = gate(compile_text(&text), settings());
    assert_eq!(each(&ada(Call::get(ROOT)), &own, "left").await, [("ns/limits/one".to_owned(), json!(1))]);
    let text = text.replace("targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: gw}", of_route);
    let none = gate(compile_text(&text), settings());
    let denial = ada(Call::get(ROOT)).on(&none, Nanos(0)).await.outcome.unwrap_err();
    assert_eq!(denial.code, Code::RouteUnknown);
    assert!(denial.message.contains("below a model's prefix") && denial.detail.unwrap().contains("HTTPRoute"));
    assert_eq!(each(&ada(Call::get("/a/b/v1/limits")), &none, "left").await.len(), 1);
}

/// It says nothing of routes: what is in force nowhere else is not, because of it.
#[tokio::test]
async fn a_policy_of_a_gateway_without_routes_is_in_force_nowhere() {
    let text = limited(&limit("one", 1, "auth.identity.userid"));
    let documents = text.split("---\n").filter(|document| !document.contains("kind: HTTPRoute\n"));
    let policy = compile_text(&documents.collect::<Vec<_>>().join("---\n"));
    assert_eq!(policy.gateways[0].listeners[0].routes.plans().count(), 0);
    assert!(policy.enforced.is_empty(), "{:?}", policy.enforced);
}

#[tokio::test]
async fn a_route_of_the_path_itself_has_its_own_limits() {
    let text = limited(&limit("one", 1, "auth.identity.userid"));
    let text = text.replace(
        "spec: {parentRefs: [{name: gw}]}",
        "spec: {parentRefs: [{name: gw}], rules: [{matches: [{path: {type: Exact, value: /v1/limits}}]}]}",
    );
    let gate = gate(compile_text(&text), settings());
    assert_eq!(each(&ada(Call::get(ROOT)), &gate, "left").await, [("ns/limits/one".to_owned(), json!(1))]);
}

#[tokio::test]
async fn the_path_can_be_another_one_or_none() {
    let at = |path: &str| DecisionSettings { limits_path: LimitsPath::new(path).unwrap(), ..settings() };
    let text = limited(&limit("one", 1, "auth.identity.userid"));
    let moved = gate(compile_text(&text), at("/left"));
    assert_eq!(each(&ada(Call::get("/llm/granite/left")), &moved, "left").await.len(), 1);
    assert!(ada(Call::get(ROOT)).on(&moved, Nanos(0)).await.outcome.unwrap().shown.is_none());
    let off = gate(compile_text(&text), at("off"));
    assert!(ada(Call::get(OF_MODEL)).on(&off, Nanos(0)).await.outcome.unwrap().shown.is_none());
    assert_eq!(code(&ada(Call::get(ROOT)), &off).await, Some(Code::LimitRequests), "that was a request");
    for wrong in ["", "/", "v1/limits", "/v1/limits/", "/v1//limits", "/v1/limits?x", "/v1/l mits", "/v1/%2e", "OFF"] {
        assert_eq!(LimitsPath::new(wrong), None, "{wrong}");
    }
}

#[tokio::test]
async fn where_the_limits_cannot_be_asked_nothing_is_shown() {
    let mut gate = demo_gate();
    gate.limits = Arc::new(Limits::in_memory(crate::limit::Memory::mute()));
    let call = Call::get(ROOT).bearer(&token("free", &user(&gate, "free", 0)));
    assert_eq!(code(&call, &gate).await, Some(Code::UnavailableInternal));
}

#[tokio::test]
async fn what_a_limit_is_for_is_told_in_its_own_terms() {
    let names = ["bucket", "month", "running", "sliding"];
    let limits: String = names.iter().map(|name| limit(name, 5, "auth.identity.userid")).collect();
    let annotations = "tiergate.io/window.month: month, tiergate.io/time-zone.month: Europe/Berlin, \
                       tiergate.io/algorithm.running: concurrency, tiergate.io/algorithm.sliding: sliding-window";
    let text = limited(&limits).replace("name: limits,", &format!("name: limits, annotations: {{{annotations}}},"));
    let gate = gate(compile_text(&text), settings());
    assert_eq!(code(&ada(Call::path("/v1/chat/completions")), &gate).await, None);
    let all = shown(&ada(Call::get(ROOT)), &gate).await;
    let field = |field: &str| -> Vec<Value> { (0..4).map(|at| all["limits"][at][field].clone()).collect() };
    assert_eq!(field("window_seconds"), [json!(60), Value::Null, Value::Null, json!(60)], "{all:#}");
    assert_eq!(field("window"), [Value::Null, json!("month"), Value::Null, Value::Null]);
    assert_eq!(field("time_zone"), [Value::Null, json!("Europe/Berlin"), Value::Null, Value::Null]);
    assert_eq!(field("algorithm"), ["token-bucket", "calendar", "concurrency", "sliding-window"].map(Value::from));
    assert_eq!((field("used"), field("left")), (vec![json!(1); 4], vec![json!(4); 4]));
    for _ in 0..4 {
        assert_eq!(code(&ada(Call::path("/v1/chat/completions")), &gate).await, None);
    }
    let all = shown(&ada(Call::get(ROOT)), &gate).await;
    // Five run, each for the ten seconds that a call is taken to run: a guess, as a refusal has it.
    assert_eq!(all["limits"][2]["retry_after_seconds"], json!(2), "{all:#}");
    let key = gate.account_of(&["ada".to_owned()]);
    let ChangeOutcome::Done { changed, .. } =
        gate.change(key, LimitsMeant::default(), crate::limit::Change::Reset, Nanos(0))
    else {
        panic!("it is there")
    };
    assert_eq!(changed.iter().map(|(_, changed)| changed.after.used()).collect::<Vec<_>>(), [0; 4]);
}
