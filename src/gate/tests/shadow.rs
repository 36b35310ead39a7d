//! Shadow: of the process, of one policy, of one limit.

use envoy_types::pb::envoy::service::auth::v3::OkHttpResponse;
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;

use serde_json::json;

use super::reserve::{World, total};
use super::*;
use crate::clock::Clock;
use crate::identity::{ClusterReview, IdentityMode, Remember};
use crate::limit::{CellId, Cost, Demand, Quota};
use crate::problem::{Finding, Problem};
use crate::respond::{Style, check_response};
use crate::test_util::scripted::{Answer, Scripted};
use crate::test_util::{AUDIENCE, ES256, ISSUER, claims};
use crate::usage::Channel;

/// The outcome, and what would have been said by whom.
async fn told(call: &Call, gate: &Gate) -> (Option<Code>, Vec<(Code, Option<String>)>) {
    let decision = call.on(gate, Nanos(0)).await;
    let shadowed = decision
        .evidence
        .shadowed
        .iter()
        .map(|shadowed| (shadowed.denial.code, shadowed.by.as_deref().map(str::to_owned)));
    (decision.outcome.err().map(|denial| denial.code), shadowed.collect())
}

#[tokio::test]
async fn a_process_in_shadow_lets_everything_through_and_changes_nothing() {
    let gate = gate(compile_files(&demo(), &options()), DecisionSettings { shadow: true, ..settings() });
    let free = token("free", &user(&gate, "free", 0));
    for (call, expected) in [
        (Call::chat("qwen3"), Code::TokenMissing),
        (Call::chat("qwen3").bearer("garbage"), Code::TokenMalformed),
        (Call::chat("qwen3").bearer(&free), Code::AccessDenied),
        (Call::path("/llm//m/v1").bearer(&free), Code::PathNotCanonical),
        (Call::path("/nowhere").bearer(&free), Code::RouteUnknown),
    ] {
        assert_eq!(told(&call, &gate).await, (None, vec![(expected, None)]), "{}", call.path);
    }
    let call = Call::chat("granite").bearer(&free);
    for _ in 0..5 {
        assert_eq!(told(&call, &gate).await, (None, vec![]));
    }
    assert_eq!(told(&call, &gate).await, (None, vec![(Code::LimitRequests, None)]));
    // Allowed or not, nothing of the request is touched: whoever decides today goes on deciding.
    let style = Style { shadow: true, ..Style::default() };
    for call in [call, Call::chat("phi").bearer("garbage")] {
        let response = check_response(&call.on(&gate, Nanos(0)).await, None, style);
        assert_eq!(response.status.unwrap().code, 0);
        assert_eq!(response.http_response, Some(HttpResponse::OkResponse(OkHttpResponse::default())));
        let metadata = response.dynamic_metadata.unwrap();
        assert!(format!("{metadata:?}").contains("would_code"), "{metadata:?}");
    }
    assert!(gate.refuse(Denial::new(Code::RequestInvalid, "no request"), Nanos(0)).outcome.is_ok());
}

/// A folder with one route, an AuthPolicy and a limit of one request for each user, with these annotations.
fn world(auth: &str, limits: &str) -> String {
    format!(
        "{ONE_ROUTE}apiVersion: kuadrant.io/v1
kind: AuthPolicy
metadata: {{name: auth, namespace: ns, annotations: {{{auth}}}}}
spec:
  targetRef: {{group: gateway.networking.k8s.io, kind: Gateway, name: gw}}
  rules:
    authentication: {{sa: {{kubernetesTokenReview: {{audiences: [maas-default-gateway-sa]}}}}}}
    response: {{success: {{filters: {{identity: {{json: {{properties: {{user: {{expression: auth.identity.user.username}}}}}}}}}}}}}}
---
apiVersion: kuadrant.io/v1
kind: RateLimitPolicy
metadata: {{name: limits, namespace: ns, annotations: {{{limits}}}}}
spec:
  targetRef: {{group: gateway.networking.k8s.io, kind: Gateway, name: gw}}
  limits:
    one: {{rates: [{{limit: 1, window: 1h}}], counters: [{{expression: auth.identity.user}}]}}
    two: {{rates: [{{limit: 2, window: 1h}}], counters: [{{expression: auth.identity.user}}]}}
"
    )
}

const ON: &str = "tiergate.io/shadow: 'true'";

fn alice() -> Call {
    Call::path("/chat").bearer(&ES256.sign(&claims("team", "alice")))
}

#[tokio::test]
async fn a_policy_in_shadow_refuses_nobody_and_the_rest_does() {
    let gate = gate(compile_text(&world(ON, "")), settings());
    let by = || Some("ns/auth".to_owned());
    // The limits count users: to them a caller without an identity is undecided, as ever.
    assert_eq!(
        told(&Call::path("/chat"), &gate).await,
        (Some(Code::PolicyExpression), vec![(Code::TokenMissing, by())])
    );
    assert_eq!(told(&alice(), &gate).await, (None, vec![]));
    assert_eq!(told(&alice(), &gate).await, (Some(Code::LimitRequests), vec![]));
}

#[tokio::test]
async fn a_limit_policy_in_shadow_counts_and_refuses_nothing() {
    let limit = |name: &str| Some(format!("ns/limits/{name}"));
    let gate = gate(compile_text(&world("", ON)), settings());
    assert_eq!(told(&alice(), &gate).await, (None, vec![]));
    for _ in 0..3 {
        assert_eq!(told(&alice(), &gate).await, (None, vec![(Code::LimitRequests, limit("one"))]));
    }
    let headers = check_response(&alice().on(&gate, Nanos(0)).await, None, Style::default());
    assert!(!format!("{headers:?}").contains("x-ratelimit"), "callers are told nothing of it");
    assert_eq!(told(&Call::path("/chat"), &gate).await, (Some(Code::TokenMissing), vec![]));
}

#[tokio::test]
async fn one_limit_of_a_policy_can_be_in_shadow() {
    let gate = gate(compile_text(&world("", "tiergate.io/shadow: one")), settings());
    let one = || vec![(Code::LimitRequests, Some("ns/limits/one".to_owned()))];
    assert_eq!(told(&alice(), &gate).await, (None, vec![]));
    assert_eq!(told(&alice(), &gate).await, (None, one()));
    assert_eq!(told(&alice(), &gate).await, (Some(Code::LimitRequests), vec![]));
}

#[tokio::test]
async fn what_is_in_error_and_in_shadow_shuts_nothing() {
    let broken = |text: String| text.replace("kubernetesTokenReview", "apiKey");
    let by = |policy: &str| vec![(Code::PolicyInvalid, Some(policy.to_owned()))];
    let shut = gate(compile_text(&broken(world("", ON))), settings());
    assert_eq!(told(&alice(), &shut).await, (Some(Code::PolicyInvalid), vec![]));
    let open = gate(compile_text(&broken(world(ON, ON))), settings());
    let (outcome, shadowed) = told(&alice(), &open).await;
    assert_eq!(outcome, None);
    assert_eq!(shadowed[0], by("ns/auth")[0]);
    let broken = |text: String| text.replace("1h", "1y");
    let shut = gate(compile_text(&broken(world("", ""))), settings());
    assert_eq!(told(&alice(), &shut).await, (Some(Code::PolicyInvalid), vec![]));
    let open = gate(compile_text(&broken(world("", ON))), settings());
    assert_eq!(told(&alice(), &open).await, (None, by("ns/limits")));
}

#[tokio::test]
async fn a_rule_in_shadow_among_others_is_the_only_one_that_refuses_nobody() {
    let text = world("", "")
        + "---
apiVersion: kuadrant.io/v1
kind: AuthPolicy
metadata: {name: trial, namespace: ns, annotations: {tiergate.io/shadow: 'true'}}
spec:
  targetRef: {group: gateway.networking.k8s.io, kind: HTTPRoute, name: r}
  rules: {authorization: {never: {patternMatching: {patterns: [{predicate: 'false'}]}}}}
";
    let target = "spec:\n  targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: gw}\n  rules:";
    let merged = "spec:\n  targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: gw}\n  defaults:\n   strategy: merge\n   rules:";
    let gate = gate(compile_text(&text.replace(target, merged)), settings());
    assert!(!gate.policies.current().problems.iter().any(Problem::is_error));
    assert_eq!(told(&alice(), &gate).await, (None, vec![(Code::AccessRule, Some("ns/trial".to_owned()))]));
    assert_eq!(told(&Call::path("/chat"), &gate).await, (Some(Code::TokenMissing), vec![]));
}

/// What is in force decides as if nothing were on trial, whatever that says.
#[tokio::test]
async fn a_policy_on_trial_lets_nobody_in_and_changes_nothing() {
    let trial = |kind: &str, target: &str, rest: &str| {
        format!(
            "---\n{{apiVersion: kuadrant.io/v1, kind: {kind}, metadata: {{name: trial, namespace: ns, annotations: {{{ON}}}}}, spec: \
             {{targetRef: {{group: gateway.networking.k8s.io, kind: {target}}}, {rest}}}}}\n"
        )
    };
    let never = "authorization: {never: {patternMatching: {patterns: [{predicate: 'false'}]}}}";
    let by = |code| vec![(code, Some("ns/trial".to_owned()))];
    let open = "rules: {authentication: {all: {anonymous: {}}}}";
    let strict =
        format!("rules: {{authentication: {{other: {{kubernetesTokenReview: {{audiences: [other]}}}}}}, {never}}}");
    let own_words = format!(
        "rules: {{{never}, authentication: {{all: {{anonymous: {{}}}}}}, response: {{unauthenticated: {{code: 302}}, unauthorized: {{code: \
         302}}, success: {{filters: {{identity: {{plain: {{value: x}}}}}}, headers: {{x-y: {{plain: {{value: z}}}}}}}}}}}}"
    );
    for (rest, shadowed) in [
        (open, vec![]),
        (&*strict, by(Code::TokenAudience)),
        (&own_words, by(Code::AccessRule)),
        ("rules: {authentication: {key: {apiKey: {}}}}", by(Code::PolicyInvalid)),
        ("when: [{predicate: 'false'}], rules: {authentication: {all: {anonymous: {}}}}", vec![]),
    ] {
        let gate = gate(compile_text(&(world("", "") + &trial("AuthPolicy", "HTTPRoute, name: r", rest))), settings());
        assert_eq!(told(&Call::path("/chat"), &gate).await, (Some(Code::TokenMissing), vec![]), "{rest}");
        let refused = Call::path("/chat").on(&gate, Nanos(0)).await.outcome.unwrap_err();
        assert!(refused.deny_with.is_none(), "{rest}");
        let admitted = alice().on(&gate, Nanos(0)).await;
        let seen: Vec<_> = admitted
            .evidence
            .shadowed
            .iter()
            .map(|shadowed| (shadowed.denial.code, shadowed.by.as_deref().map(str::to_owned)))
            .collect();
        assert_eq!(seen, shadowed, "{rest}");
        assert_eq!(admitted.outcome.unwrap().headers, [], "{rest}");
        // The limits count the caller whom the policy in force names.
        assert_eq!(told(&alice(), &gate).await, (Some(Code::LimitRequests), shadowed), "{rest}");
    }
}

/// A gate of the policy in `text`, whose tokens an API server reviews; `answers` are its TokenReviews.
async fn under_review(text: &str, answers: Vec<Answer>) -> (Gate, Scripted) {
    let keys = serde_json::from_str(&ES256.jwks).unwrap();
    let discovery = [Answer::Json(200, json!({"issuer": ISSUER, "jwks_uri": ""})), Answer::Json(200, keys)];
    let server = Scripted::start(discovery.into_iter().chain(answers).collect()).await;
    let review = ClusterReview::new(server.api_server(), IdentityMode::Review, true, Duration::ZERO, Clock::start());
    server.asked(2).await;
    let policy = compile_text(text);
    assert!(!policy.problems.iter().any(Problem::is_error), "{:?}", policy.problems);
    let mut gate = gate(policy, settings());
    gate.identities = Identities::of_cluster(review, Remember::default());
    (gate, server)
}

/// A TokenReview: alice's token is for this audience, or for nobody.
fn reviewed(audience: Option<&str>) -> Answer {
    let status = match audience {
        Some(audience) => json!({"authenticated": true, "audiences": [audience], "user": {"username": "alice"}}),
        None => json!({"authenticated": false}),
    };
    Answer::Json(
        201,
        json!({"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "spec": {}, "status": status}),
    )
}

/// An AuthPolicy on trial, whose TokenReview is this one.
fn trial_by(review: &str) -> String {
    format!(
        "---\n{{apiVersion: kuadrant.io/v1, kind: AuthPolicy, metadata: {{name: trial, namespace: ns, annotations: {{{ON}}}}}, spec: \
         {{targetRef: {{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r}}, rules: {{authentication: {{tokens: \
         {{{review}}}}}}}}}}}\n"
    )
}

/// It may have questions of its own to the API server: what comes of them is not what comes of those of the policy in force.
#[tokio::test]
async fn what_a_review_for_a_policy_on_trial_says_is_said_to_it_alone() {
    let other = "kubernetesTokenReview: {audiences: [other]}";
    let newer = format!(
        "kubernetesTokenReview: {{audiences: [{AUDIENCE}]}}, cache: {{ttl: 5, key: {{selector: \
         context.request.http.headers.authorization}}}}"
    );
    let away = || Answer::Json(500, json!({"kind": "Status", "status": "Failure", "code": 500}));
    let would = |code| vec![(code, Some("ns/trial".to_owned()))];
    for (trial, second, first_says, then_says) in [
        (other, reviewed(Some("other")), vec![], vec![]),
        (other, reviewed(None), would(Code::TokenRejected), would(Code::TokenRejected)),
        (other, reviewed(Some(AUDIENCE)), would(Code::TokenAudience), would(Code::TokenAudience)),
        (other, away(), would(Code::UnavailableApiServer), would(Code::UnavailableApiServer)),
        (&*newer, away(), vec![], would(Code::UnavailableApiServer)),
    ] {
        let answers = vec![reviewed(Some(AUDIENCE)), second];
        let (gate, server) = under_review(&(world("", "") + &trial_by(trial)), answers).await;
        let call = Call::path("/chat").bearer("opaque");
        let said = async |now: Nanos| {
            let Decision { outcome, evidence } = call.on(&gate, now).await;
            let identity = evidence.identity.map(|identity| identity.audiences.clone());
            assert_eq!(identity, Some(vec![AUDIENCE.to_owned()]), "the caller is whom the policy in force knows");
            let would = evidence.shadowed.iter();
            let would = would.map(|would| (would.denial.code, would.by.as_deref().map(str::to_owned)));
            (outcome.err().map(|denial| denial.code), would.collect::<Vec<_>>())
        };
        let began = Duration::from_secs(100);
        assert_eq!(said(Nanos::from(began)).await, (None, first_says), "{trial}");
        // Past five seconds the policy in force goes on with what it has.
        let later = if trial == newer { began + Duration::from_secs(6) } else { began };
        assert_eq!(said(Nanos::from(later)).await, (Some(Code::LimitRequests), then_says), "{trial}");
        assert_eq!(server.asked(4).await.len(), 4, "each asked once: {trial}");
    }
}

/// A decision that asks twice is told the same, and costs the API server as much as one without a trial.
#[tokio::test]
async fn a_request_is_reviewed_once_where_nothing_may_be_remembered() {
    let review = format!(
        "kubernetesTokenReview: {{audiences: [{AUDIENCE}]}}, cache: {{ttl: 0, key: {{selector: \
         context.request.http.headers.authorization}}}}"
    );
    let in_force = world("", "").replace(&format!("kubernetesTokenReview: {{audiences: [{AUDIENCE}]}}"), &review);
    let answers = vec![reviewed(Some(AUDIENCE)), reviewed(Some(AUDIENCE)), reviewed(None)];
    let (gate, server) = under_review(&(in_force + &trial_by(&review)), answers).await;
    let call = Call::path("/chat").bearer("opaque");
    for (at, outcome) in [(1, None), (2, Some(Code::LimitRequests)), (3, Some(Code::TokenRejected))] {
        let decision = call.on(&gate, Nanos(at)).await;
        assert_eq!(decision.outcome.err().map(|denial| denial.code), outcome);
        assert!(decision.evidence.shadowed.is_empty(), "{:?}", decision.evidence.shadowed);
        assert_eq!(
            decision.evidence.identity_source,
            Some(AnswerSource::Fetched),
            "each request by a review of its own"
        );
        assert_eq!(server.asked(2 + at as usize).await.len(), 2 + at as usize);
    }
}

#[tokio::test]
async fn a_rule_on_trial_does_not_stand_in_for_one_of_its_name() {
    let policy = |name: &str, shadow: &str, target: &str, block: &str, predicate: &str| {
        format!(
            "---\n{{apiVersion: kuadrant.io/v1, kind: AuthPolicy, metadata: {{name: {name}, namespace: ns, annotations: {{{shadow}}}}}, spec: \
             {{targetRef: {{group: gateway.networking.k8s.io, kind: {target}}}, {block}: {{strategy: merge, rules: {{authentication: {{sa: \
             {{kubernetesTokenReview: {{audiences: [maas-default-gateway-sa]}}}}}}, authorization: {{check: {{patternMatching: {{patterns: \
             [{{predicate: '{predicate}'}}]}}}}}}}}}}}}}}\n"
        )
    };
    for block in ["defaults", "overrides"] {
        let with = |real: &str, trial: &str| {
            let world = ONE_ROUTE.to_owned() + &policy("real", "", "Gateway, name: gw", "defaults", real);
            gate(compile_text(&(world + &policy("trial", ON, "HTTPRoute, name: r", block, trial))), settings())
        };
        assert_eq!(told(&alice(), &with("false", "true")).await, (Some(Code::AccessRule), vec![]));
        let shadowed = vec![(Code::AccessRule, Some("ns/trial".to_owned()))];
        assert_eq!(told(&alice(), &with("true", "false")).await, (None, shadowed));
    }
}

/// Of filters, and of headers, of one key the first that holds counts: for the direct way, for the interpreter, and for the model.
#[tokio::test]
async fn the_first_of_one_key_counts_everywhere() {
    let item = |name: &str, tier: &str, when: &str| {
        format!("{name}: {{key: identity, json: {{properties: {{tier: {{value: {tier}}}}}}}{when}}}")
    };
    let header =
        |name: &str, tier: &str, when: &str| format!("{name}: {{key: X-Tier, plain: {{value: {tier}}}{when}}}");
    let when = ", when: [{predicate: 'request.method == \"POST\"'}]";
    let limit = |name: &str, predicate: &str| {
        format!("{name}: {{rates: [{{limit: 9, window: 1h}}], when: [{{predicate: '{predicate}'}}]}}")
    };
    let text = format!(
        "{ONE_ROUTE}{{apiVersion: kuadrant.io/v1, kind: AuthPolicy, metadata: {{name: auth, namespace: ns}}, spec: {{targetRef: {{group: \
         gateway.networking.k8s.io, kind: Gateway, name: gw}}, rules: {{authentication: {{all: {{anonymous: {{}}}}}}, response: {{success: \
         {{filters: {{{}, {}}}, headers: {{{}, {}}}}}}}}}}}}}\n---\n{{apiVersion: kuadrant.io/v1, kind: RateLimitPolicy, metadata: {{name: \
         limits, namespace: ns}}, spec: {{targetRef: {{group: gateway.networking.k8s.io, kind: Gateway, name: gw}}, limits: {{{}, {}, {}}}}}}}\n",
        item("a", "free", when),
        item("b", "enterprise", ""),
        header("a", "free", when),
        header("b", "enterprise", ""),
        limit("direct", "auth.identity.tier == \"free\""),
        limit("interpreted", "auth.identity.tier in [\"free\"]"),
        limit("other", "auth.identity.tier in [\"enterprise\"]"),
    );
    let policy = compile_text(&text);
    assert!(!policy.problems.iter().any(Problem::is_error), "{:?}", policy.problems);
    let decision = Call::path("/chat").on(&gate(policy, settings()), Nanos(0)).await;
    let matched: Vec<_> = decision.evidence.limits.iter().map(|limit| &*limit.name).collect();
    assert_eq!(matched, ["ns/limits/direct", "ns/limits/interpreted"]);
    assert_eq!(decision.outcome.unwrap().headers, [("x-tier".to_owned(), "free".to_owned())]);
}

#[test]
fn a_slip_in_the_annotation_opens_nothing() {
    for (auth, limits, object) in [
        ("tiergate.io/shadow: 'yes'", "", "ns/auth"),
        ("tiergate.io/shadow: one", "", "ns/auth"),
        ("", "tiergate.io/shadow: 'on'", "ns/limits"),
        ("", "'tiergate.io/shadow': 'one,tow'", "ns/limits"),
    ] {
        let policy = compile_text(&world(auth, limits));
        let errors: Vec<String> =
            policy.problems.iter().filter(|p| p.is_error()).map(|p| p.object.as_ref().unwrap().path()).collect();
        assert_eq!(errors, [object], "{auth} {limits}");
    }
    let misspelt = compile_text(&world("tiergate.io/shadwo: 'true'", ""));
    let told = misspelt.problems.iter().find(|problem| problem.code == Finding::AnnotationUnknown).unwrap();
    assert_eq!((told.is_error(), told.remedy.as_deref()), (true, Some("did you mean `tiergate.io/shadow`?")));
}

/// The accounts of limits in shadow may be ahead of the caller's, when others have asked them since.
#[tokio::test]
async fn a_limit_in_shadow_makes_no_hold_of_another_younger_than_it_is() {
    let world = World::with(
        "
apiVersion: kuadrant.io/v1
kind: TokenRateLimitPolicy
metadata: {name: tokens, namespace: ns, annotations: {tiergate.io/shadow: trial}}
spec:
  targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: gw}
  limits:
    all:
      rates: [{limit: 6000, window: 60s}]
      counters: [{expression: 'request.headers[\"x-user\"]'}]
    trial:
      rates: [{limit: 1000000, window: 60s}]
",
    );
    let later = Nanos::from(Duration::from_secs(10));
    world.decide("bob", later).await.outcome.unwrap();
    for number in 0..32 {
        let user = format!("ada-{number}");
        let first = world.decide(&user, Nanos(0)).await.outcome.unwrap().reservation;
        let second = world.decide(&user, Nanos(0)).await;
        assert_eq!(second.evidence.limits[0].standing.unwrap().held(), 1_313);
        let hold = world.gate.sealer.open(&first).unwrap().holds[0].of;
        let quota = Quota::new(1, Duration::from_secs(60));
        let look = Demand { account: hold.account, cell: CellId(0), quota, cost: Cost::Take(1) };
        // Others may share the caller's clock with the limit in shadow.
        if world.gate.limits.admit(&[look], Nanos(0)).await.at != world.gate.limits.time(Nanos(0)) {
            continue;
        }
        world.reports.take(&first, &total(10), Channel::RateLimit, later).await;
        let standing = world.decide(&user, later).await.evidence.limits[0].standing.unwrap();
        // Of both holds time has paid 1,000, which the first gives back no more.
        assert_eq!(6_000 - standing.remaining() - standing.held(), 1_313);
        return;
    }
    panic!("32 callers share a clock with one limit");
}
