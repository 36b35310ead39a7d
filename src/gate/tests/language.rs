//! What AuthPolicies can say, played through the gate.

use std::collections::HashMap;

use super::*;
use crate::request::{Headers, OperatorModel};
use crate::respond::{Style, check_response};
use crate::test_util::ES256;
use crate::test_util::claims;
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;

/// One route for everything, and its AuthPolicy's `spec`, without the target.
fn protected(spec: &str) -> String {
    format!(
        "{ONE_ROUTE}apiVersion: kuadrant.io/v1
kind: AuthPolicy
metadata: {{name: auth, namespace: ns}}
spec:
  targetRef: {{group: gateway.networking.k8s.io, kind: Gateway, name: gw}}
  {spec}
"
    )
}

#[track_caller]
fn gate_of(spec: &str) -> Gate {
    let policy = compile_text(&protected(spec));
    let errors: Vec<String> = policy.problems.iter().filter(|p| p.is_error()).map(ToString::to_string).collect();
    assert_eq!(errors, <[String; 0]>::default(), "{spec}");
    gate(policy, settings())
}

fn alice() -> String {
    ES256.sign(&claims("team", "alice"))
}

const REVIEW: &str = "authentication: {sa: {kubernetesTokenReview: {audiences: [maas-default-gateway-sa]}}}";

/// The identity that limits see.
async fn seen(call: &Call, gate: &Gate) -> Result<serde_json::Value, Code> {
    let decision = call.on(gate, Nanos(0)).await;
    let grant = decision.outcome.map_err(|denial| denial.code)?;
    Ok(grant.filters.first().map(|(_, properties)| properties.to_json()).unwrap_or_default())
}

#[tokio::test]
async fn a_policy_whose_condition_does_not_hold_has_nothing_to_say() {
    let gate = gate_of(&format!("when: [{{predicate: 'request.path != \"/health\"'}}]\n  rules: {{{REVIEW}}}"));
    assert_eq!(code(&Call::path("/health"), &gate).await, None);
    assert_eq!(code(&Call::path("/chat"), &gate).await, Some(Code::TokenMissing));
    assert_eq!(code(&Call::path("/chat").bearer(&alice()), &gate).await, None);
    // A condition that cannot be told opens nothing.
    let gate =
        gate_of(&format!("when: [{{predicate: 'request.headers[\"x-env\"] == \"prod\"'}}]\n  rules: {{{REVIEW}}}"));
    assert_eq!(code(&Call::path("/chat"), &gate).await, Some(Code::PolicyExpression));
}

#[tokio::test]
async fn rules_are_left_out_where_their_conditions_do_not_hold() {
    let admin = "admin: {when: [{selector: request.path, operator: matches, value: '^/admin'}], patternMatching: {patterns: \
                 [{selector: auth.identity.user.username, operator: eq, value: root}]}}";
    let gate = gate_of(&format!("rules: {{{REVIEW}, authorization: {{{admin}}}}}"));
    assert_eq!(code(&Call::path("/chat").bearer(&alice()), &gate).await, None);
    assert_eq!(code(&Call::path("/admin/x").bearer(&alice()), &gate).await, Some(Code::AccessRule));
    let gate = gate_of(
        "rules: {authentication: {sa: {kubernetesTokenReview: {audiences: [maas-default-gateway-sa]}, when: [{predicate: \
         'request.path.startsWith(\"/llm/\")'}]}, open: {anonymous: {}, when: [{predicate: 'request.path == \"/models\"'}]}}}",
    );
    assert_eq!(code(&Call::path("/llm/x"), &gate).await, Some(Code::TokenMissing));
    assert_eq!(code(&Call::path("/llm/x").bearer(&alice()), &gate).await, None);
    assert_eq!(code(&Call::path("/models"), &gate).await, None);
    // No way to authenticate is left, so nobody is known.
    assert_eq!(code(&Call::path("/other").bearer(&alice()), &gate).await, Some(Code::TokenMissing));
}

#[tokio::test]
async fn who_is_nobody_in_particular_is_anonymous() {
    let identity = "response: {success: {filters: {identity: {json: {properties: {anonymous: {expression: \
                    'has(auth.identity.anonymous)'}}}}}}}";
    let gate = gate_of(&format!(
        "rules: {{authentication: {{open: {{anonymous: {{}}, priority: 1}}, sa: {{kubernetesTokenReview: {{audiences: \
         [maas-default-gateway-sa]}}}}}}, {identity}}}"
    ));
    let anonymous = |value: bool| Ok(serde_json::json!({ "anonymous": value }));
    assert_eq!(seen(&Call::path("/"), &gate).await, anonymous(true));
    assert_eq!(seen(&Call::path("/").bearer("junk"), &gate).await, anonymous(true));
    assert_eq!(seen(&Call::path("/").bearer(&alice()), &gate).await, anonymous(false));
    // A policy without authentication means the same.
    let gate = gate_of(&format!("rules: {{authorization: {{a: {{patternMatching: {{patterns: []}}}}}}, {identity}}}"));
    assert_eq!(seen(&Call::path("/").bearer(&alice()), &gate).await, anonymous(true));
}

#[tokio::test]
async fn an_identity_can_come_from_the_request_and_be_completed() {
    let gate = gate_of(
        "rules: {authentication: {header: {plain: {expression: '{\"user\": request.headers[\"x-user\"], \"kind\": \"header\"}'}, \
         defaults: {kind: {value: none}, team: {value: red}}, overrides: {user: {expression: 'auth.identity.user + \"!\"'}}}}, \
         response: {success: {filters: {identity: {plain: {expression: auth.identity}}}}}}",
    );
    let mut call = Call::path("/");
    assert_eq!(seen(&call, &gate).await, Err(Code::TokenMissing));
    call.headers.insert("x-user".to_owned(), "bob".to_owned());
    let expected = serde_json::json!({ "kind": "header", "team": "red", "user": "bob!" });
    assert_eq!(seen(&call, &gate).await, Ok(expected));
}

#[tokio::test]
async fn overrides_win_over_what_the_review_said_and_defaults_do_not() {
    let gate = gate_of(
        "rules: {authentication: {sa: {kubernetesTokenReview: {audiences: [maas-default-gateway-sa]}, defaults: {authenticated: \
         {value: default}, x: {value: 1}}, overrides: {audiences: {value: [none]}}}}, response: {success: {filters: {identity: \
         {json: {properties: {a: {expression: auth.identity.authenticated}, b: {expression: auth.identity.audiences}, c: \
         {expression: auth.identity.x}}}}}}}}",
    );
    let expected = serde_json::json!({ "a": true, "b": ["none"], "c": 1 });
    assert_eq!(seen(&Call::path("/").bearer(&alice()), &gate).await, Ok(expected));
}

#[tokio::test]
async fn what_could_not_be_reviewed_is_not_anonymous_instead() {
    // The expression fails, so nobody knows who this is: the next rule would call it anonymous.
    let gate = gate_of(
        "rules: {authentication: {a: {plain: {expression: 'request.path + 1'}}, b: {anonymous: {}, priority: 1}}}",
    );
    assert_eq!(code(&Call::path("/"), &gate).await, Some(Code::PolicyExpression));
}

#[tokio::test]
async fn an_identity_is_remembered_at_most_as_long_as_the_policy_says() {
    let gate = gate_of(
        "rules: {authentication: {sa: {kubernetesTokenReview: {audiences: [maas-default-gateway-sa]}, cache: {key: {expression: \
         request.path}, ttl: 5}}}}",
    );
    let token = alice();
    let call = Call::path("/").bearer(&token);
    for (seconds, expected) in
        [(0, AnswerSource::Fetched), (4, AnswerSource::Hit), (5, AnswerSource::Fetched), (9, AnswerSource::Hit)]
    {
        let decision = call.on(&gate, Nanos::from(Duration::from_secs(seconds))).await;
        assert!(decision.outcome.is_ok());
        assert_eq!(decision.evidence.identity_source, Some(expected), "{seconds} s");
    }
}

/// Status, headers and body of a refusal.
async fn refused(call: &Call, gate: &Gate) -> (i32, Vec<(String, String)>, String) {
    let decision = call.on(gate, Nanos(0)).await;
    let response = check_response(&decision, None, Style::default());
    let Some(HttpResponse::DeniedResponse(denied)) = response.http_response else { panic!("{response:?}") };
    let headers =
        denied.headers.into_iter().filter_map(|option| option.header).map(|header| (header.key, header.value));
    (denied.status.unwrap().code, headers.collect(), denied.body)
}

fn header(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

#[tokio::test]
async fn refusals_are_told_in_the_policys_own_words() {
    let gate = gate_of(&format!(
        "rules: {{{REVIEW}, authorization: {{never: {{patternMatching: {{patterns: [{{predicate: 'false'}}]}}}}}}, response: \
         {{unauthenticated: {{code: 302, message: {{value: please log in}}, headers: {{Location: {{expression: \
         '\"/login?to=\" + request.path'}}}}, body: {{value: see /login}}}}, unauthorized: {{body: {{expression: \
         '\"not for \" + auth.identity.user.username'}}, headers: {{x-broken: {{expression: auth.identity.user.nothing}}, \
         content-type: {{value: text/html}}}}}}}}}}"
    ));
    let (status, headers, body) = refused(&Call::path("/chat"), &gate).await;
    assert_eq!((status, body.as_str()), (302, "see /login"));
    assert_eq!(
        headers,
        [
            header("content-type", "text/plain"),
            header("x-ext-auth-reason", "please log in"),
            header("location", "/login?to=/chat"),
        ]
    );
    let (status, headers, body) = refused(&Call::path("/chat").bearer(&alice()), &gate).await;
    assert_eq!((status, body.as_str()), (403, "not for system:serviceaccount:team:alice"));
    // A header without a value is left out; the rest stands.
    assert_eq!(headers, [header("x-ext-auth-reason", "TG-ACCESS-RULE"), header("content-type", "text/html")]);
    // What is no refusal of the policy is told as ever.
    let (status, _, body) = refused(&Call::path("/a//b").bearer(&alice()), &gate).await;
    assert!(status == 400 && body.contains("TG-PATH-NOT-CANONICAL"), "{status} {body}");
}

#[tokio::test]
async fn a_refusal_with_a_code_or_headers_of_its_own_has_no_challenge_of_ours() {
    let ours = "Bearer realm=\"tiergate\"";
    for (unauthenticated, expected) in [
        ("", Some(ours)),
        ("message: {value: please log in}", Some(ours)),
        ("body: {value: see /login}", Some(ours)),
        ("code: 401", None),
        ("code: 302", None),
        ("headers: {x-hint: {value: see /login}}", None),
        ("headers: {WWW-Authenticate: {value: 'Bearer realm=\"models\"'}}", Some("Bearer realm=\"models\"")),
        ("code: 403, headers: {x-hint: {value: a}}, message: {value: b}, body: {value: c}", None),
    ] {
        let response = if unauthenticated.is_empty() {
            String::new()
        } else {
            format!(", response: {{unauthenticated: {{{unauthenticated}}}}}")
        };
        let (_, headers, _) = refused(&Call::path("/chat"), &gate_of(&format!("rules: {{{REVIEW}{response}}}"))).await;
        let challenge = headers.iter().find(|(name, _)| name == "www-authenticate").map(|(_, value)| value.as_str());
        assert_eq!(challenge, expected, "{unauthenticated}");
    }
}

#[tokio::test]
async fn a_header_cannot_be_broken_out_of() {
    let gate = gate_of(&format!(
        "rules: {{{REVIEW}, response: {{success: {{headers: {{x-user: {{plain: {{expression: '\"a\\r\\nx-admin: yes\"'}}}}}}}}}}}}"
    ));
    assert_eq!(code(&Call::path("/").bearer(&alice()), &gate).await, Some(Code::PolicyExpression));
    let gate = gate_of(
        "rules: {authorization: {never: {patternMatching: {patterns: [{predicate: 'false'}]}}}, response: {unauthorized: {message: \
         {expression: '\"a\\r\\nx-admin: yes\"'}}}}",
    );
    let (_, headers, _) = refused(&Call::path("/"), &gate).await;
    assert_eq!(headers[1], header("x-ext-auth-reason", "TG-ACCESS-RULE"));
}

/// As in Authorino; but a host that nobody spells out is the caller's word.
#[tokio::test]
async fn without_audiences_a_token_has_to_be_for_the_host_that_is_spelled_out() {
    let gate_of = |hostname: &str| {
        let policy = protected("rules: {authentication: {sa: {kubernetesTokenReview: {}}}}");
        gate(
            compile_text(&policy.replace("listeners: [{name: http", &format!("listeners: [{{{hostname}name: http"))),
            settings(),
        )
    };
    let code = async |gate: &Gate, host: &str, audience: &str| {
        let mut claims = claims("team", "alice");
        claims.aud = vec![audience.to_owned()];
        let headers = HashMap::from([("authorization".to_owned(), format!("Bearer {}", ES256.sign(&claims)))]);
        let request = Request {
            method: "POST",
            host,
            scheme: "https",
            path: "/chat",
            query: None,
            headers: Headers::Map(&headers),
            gateway: None,
            listener: None,
            port: None,
            peer: None,
            sni: None,
            model: OperatorModel::Unset,
            body: None,
        };
        gate.check(&request, Nanos(0)).await.outcome.err().map(|denial| denial.code)
    };
    let named = gate_of("hostname: models.example.com, ");
    for (host, audience, expected) in [
        ("models.example.com", "models.example.com", None),
        ("models.example.com:8443", "models.example.com", None),
        ("Models.Example.com", "models.example.com", None),
        ("models.example.com", "vault", Some(Code::TokenAudience)),
        ("models.example.com:8443", "models.example.com:8443", Some(Code::TokenAudience)),
        ("Models.Example.com", "Models.Example.com", Some(Code::TokenAudience)),
        ("vault", "vault", Some(Code::RouteUnknown)),
    ] {
        assert_eq!(code(&named, host, audience).await, expected, "{host} {audience}");
    }
    for hostname in ["", "hostname: '*.example.com', "] {
        let open = gate_of(hostname);
        assert_eq!(
            code(&open, "vault.example.com", "vault.example.com").await,
            Some(Code::PolicyInvalid),
            "{hostname}"
        );
    }
}

/// What a request has not is empty to the policy as a whole, and absent to its rules.
#[tokio::test]
async fn a_query_that_is_not_there_is_empty_to_the_policy_and_absent_to_its_rules() {
    let when = r#"when: [{predicate: '!request.query.contains("dry_run=true")'}]"#;
    let gate = gate_of(&format!("{when}\n  rules: {{{REVIEW}}}"));
    assert_eq!(code(&Call::path("/chat"), &gate).await, Some(Code::TokenMissing), "the policy applies");
    assert_eq!(code(&Call::path("/chat?"), &gate).await, Some(Code::TokenMissing));
    assert_eq!(code(&Call::path("/chat?dry_run=true"), &gate).await, None);
    let rule = |predicate: &str| {
        format!(
            "rules: {{{REVIEW}, authorization: {{q: {{patternMatching: {{patterns: [{{predicate: '{predicate}'}}]}}}}}}}}"
        )
    };
    let gate = gate_of(&rule("!has(request.query)"));
    assert_eq!(code(&Call::path("/chat").bearer(&alice()), &gate).await, None);
    assert_eq!(code(&Call::path("/chat?a=b").bearer(&alice()), &gate).await, Some(Code::AccessRule));
    let gate = gate_of(&rule("request.query == \"\""));
    assert_eq!(code(&Call::path("/chat").bearer(&alice()), &gate).await, Some(Code::PolicyExpression));
}
