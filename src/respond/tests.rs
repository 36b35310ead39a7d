mod admitted;
mod limits;

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::*;
use crate::clock::Nanos;
use crate::gate::LimitEvidence;
use crate::limit::{Quota, Verdict};

type AnswerRow = (i32, GrpcCode, &'static str, &'static [(Code, &'static str)]);

/// For each code that is not `allowed`: HTTP status, gRPC code, `type` of the error, and the codes that are answered so.
const ANSWERS: &[AnswerRow] = &[
    (
        400,
        GrpcCode::InvalidArgument,
        "invalid_request_error",
        &[
            (Code::RequestInvalid, "TG-REQUEST-INVALID"),
            (Code::RequestUncounted, "TG-REQUEST-UNCOUNTED"),
            (Code::PathNotCanonical, "TG-PATH-NOT-CANONICAL"),
        ],
    ),
    (
        401,
        GrpcCode::Unauthenticated,
        "authentication_error",
        &[
            (Code::TokenMissing, "TG-TOKEN-MISSING"),
            (Code::TokenMalformed, "TG-TOKEN-MALFORMED"),
            (Code::TokenExpired, "TG-TOKEN-EXPIRED"),
            (Code::TokenNotYet, "TG-TOKEN-NOT-YET"),
            (Code::TokenAudience, "TG-TOKEN-AUDIENCE"),
            (Code::TokenIssuer, "TG-TOKEN-ISSUER"),
            (Code::TokenSignature, "TG-TOKEN-SIGNATURE"),
            (Code::TokenSubjectGone, "TG-TOKEN-SUBJECT-GONE"),
            (Code::TokenRejected, "TG-TOKEN-REJECTED"),
        ],
    ),
    (
        403,
        GrpcCode::PermissionDenied,
        "permission_error",
        &[
            (Code::AccessRule, "TG-ACCESS-RULE"),
            (Code::AccessDenied, "TG-ACCESS-DENIED"),
            (Code::TierNone, "TG-TIER-NONE"),
            (Code::TierGone, "TG-TIER-GONE"),
            (Code::RouteNoPolicy, "TG-ROUTE-NO-POLICY"),
            (Code::LimitNone, "TG-LIMIT-NONE"),
        ],
    ),
    (404, GrpcCode::NotFound, "not_found_error", &[(Code::RouteUnknown, "TG-ROUTE-UNKNOWN")]),
    (
        429,
        GrpcCode::ResourceExhausted,
        "rate_limit_error",
        &[(Code::LimitRequests, "TG-LIMIT-REQUESTS"), (Code::LimitTokens, "TG-LIMIT-TOKENS")],
    ),
    (
        503,
        GrpcCode::Unavailable,
        "service_unavailable_error",
        &[
            (Code::UnavailableConfiguration, "TG-UNAVAILABLE-CONFIGURATION"),
            (Code::UnavailableGateway, "TG-UNAVAILABLE-GATEWAY"),
            (Code::UnavailableDeadline, "TG-UNAVAILABLE-DEADLINE"),
            (Code::UnavailableAccounts, "TG-UNAVAILABLE-ACCOUNTS"),
            (Code::UnavailableTiers, "TG-UNAVAILABLE-TIERS"),
            (Code::UnavailableApiServer, "TG-UNAVAILABLE-API-SERVER"),
            (Code::UnavailableStale, "TG-UNAVAILABLE-STALE"),
            (Code::UnavailableInternal, "TG-UNAVAILABLE-INTERNAL"),
            (Code::PolicyInvalid, "TG-POLICY-INVALID"),
            (Code::PolicyTiers, "TG-POLICY-TIERS"),
            (Code::PolicyExpression, "TG-POLICY-EXPRESSION"),
            (Code::PolicyModel, "TG-POLICY-MODEL"),
        ],
    ),
];

const VERBOSE: Style = Style { verbose_refusals: true, ..TERSE };
const TERSE: Style = Style { verbose_refusals: false, shadow: false, compat: None, retry_hint: Style::RETRY_HINT };

/// One row for each code.
fn answers() -> impl Iterator<Item = (Code, &'static str, i32, GrpcCode, &'static str)> {
    let row = |(status, grpc, kind, codes): &'static (i32, GrpcCode, &'static str, &'static [(Code, &'static str)])| {
        codes.iter().map(move |(code, name)| (*code, *name, *status, *grpc, *kind))
    };
    ANSWERS.iter().flat_map(row)
}

fn evidence() -> Evidence {
    Evidence::new(7, 3)
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// A limit of `limit` per minute with `remaining` left.
fn limit(kind: LimitKind, limit: u64, remaining: u64, reset: Duration, verdict: Verdict) -> LimitEvidence {
    let quota = Quota::new(limit, Duration::from_secs(60));
    let standing = Some(Standing::new(&quota, verdict, limit - remaining, reset));
    LimitEvidence { name: "ns/policy/limit".into(), kind, span: quota.span(), standing }
}

fn with_limits(limits: impl IntoIterator<Item = LimitEvidence>) -> Evidence {
    let mut evidence = evidence();
    evidence.limits.extend(limits);
    evidence
}

/// A refusal on the wire.
struct Refused {
    status: i32,
    headers: BTreeMap<String, String>,
    error: serde_json::Map<String, Json>,
    response: CheckResponse,
}

fn refuse(denial: Denial, evidence: Evidence, style: Style) -> Refused {
    let response = check_response(&Decision { outcome: Err(denial), evidence }, None, style);
    let Some(HttpResponse::DeniedResponse(denied)) = &response.http_response else {
        panic!("not a denial: {response:?}");
    };
    let body: Json = serde_json::from_str(&denied.body).unwrap();
    Refused {
        status: denied.status.as_ref().unwrap().code,
        headers: headers(&denied.headers),
        error: body["error"].as_object().unwrap().clone(),
        response: response.clone(),
    }
}

fn admit(grant: Grant, evidence: Evidence, sent: Option<&Headers<'_>>) -> (OkHttpResponse, CheckResponse) {
    admit_in(TERSE, grant, evidence, sent)
}

fn admit_in(
    style: Style,
    grant: Grant,
    evidence: Evidence,
    sent: Option<&Headers<'_>>,
) -> (OkHttpResponse, CheckResponse) {
    let response = check_response(&Decision { outcome: Ok(grant), evidence }, sent, style);
    match &response.http_response {
        Some(HttpResponse::OkResponse(ok)) => (ok.clone(), response),
        other => panic!("not admitted: {other:?}"),
    }
}

/// Headers by name; each must stand once, and overwrite what the client sent.
fn headers(options: &[HeaderValueOption]) -> BTreeMap<String, String> {
    let mut map = BTreeMap::new();
    for option in options {
        let header = option.header.clone().unwrap();
        assert_eq!(option.append_action, HeaderAppendAction::OverwriteIfExistsOrAdd as i32, "{}", header.key);
        assert_eq!(header.key, header.key.to_ascii_lowercase());
        assert_eq!(map.insert(header.key.clone(), header.value), None, "{} twice", header.key);
    }
    map
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

/// Dynamic metadata as JSON.
fn metadata_of(response: &CheckResponse) -> Json {
    fn json(value: &Value) -> Json {
        match value.kind.as_ref().unwrap() {
            Kind::NullValue(_) => Json::Null,
            Kind::BoolValue(value) => json!(value),
            Kind::NumberValue(value) => json!(value),
            Kind::StringValue(value) => json!(value),
            Kind::ListValue(list) => list.values.iter().map(json).collect(),
            Kind::StructValue(object) => object.fields.iter().map(|(k, v)| (k.clone(), json(v))).collect(),
        }
    }
    let root = response.dynamic_metadata.as_ref().unwrap();
    root.fields.iter().map(|(k, v)| (k.clone(), json(v))).collect()
}

// === refusals ===

/// A refusal; one of a limit is over in a second.
fn soon(code: Code) -> Denial {
    let retry_after = (code.class() == Class::Limited).then(|| seconds(1.0));
    Denial { retry_after, ..Denial::new(code, "why not") }
}

#[test]
fn every_code_has_its_answer() {
    let listed: Vec<Code> = answers().map(|(code, ..)| code).collect();
    let mut all = Code::ALL.to_vec();
    all.sort_by_key(|code| listed.iter().position(|other| other == code));
    assert_eq!(listed, all, "a code is missing here, or stands twice");
    for (code, name, status, grpc, kind) in answers() {
        let answer = refuse(soon(code), evidence(), TERSE);
        assert_eq!(code.as_str(), name);
        assert_eq!(answer.status, status, "{name}");
        let rpc = answer.response.status.clone().unwrap();
        assert_eq!((rpc.code, &*rpc.message), (grpc as i32, name));
        assert_eq!(answer.headers["content-type"], "application/json", "{name}");
        assert_eq!(answer.headers["x-ext-auth-reason"], *name);
        let mut error = answer.error;
        assert!(error.remove("time").unwrap().as_str().unwrap().ends_with('Z'), "{name}");
        let mut expected = json!({
            "message": "why not",
            "type": kind,
            "code": name,
            "decision_id": decision_id(7),
        });
        if status == 429 {
            expected["retry_after_seconds"] = json!(1);
        }
        assert_eq!(Json::Object(error), expected);
    }
}

#[test]
fn each_status_has_its_headers_and_no_others() {
    for (code, name, status, ..) in answers() {
        let mut expected = map(&[("content-type", "application/json"), ("x-ext-auth-reason", name)]);
        match (code, status) {
            (Code::TokenMissing, _) => {
                expected.insert("www-authenticate".to_owned(), "Bearer realm=\"tiergate\"".to_owned());
            }
            (_, 401) => {
                let challenge =
                    "Bearer realm=\"tiergate\", error=\"invalid_token\", error_description=\"why not\"".to_owned();
                expected.insert("www-authenticate".to_owned(), challenge);
            }
            (_, 429 | 503) => {
                expected.insert("retry-after".to_owned(), "1".to_owned());
            }
            _ => {}
        }
        let answer = refuse(soon(code), evidence(), TERSE);
        assert_eq!(answer.headers, expected, "{name}");
    }
}

#[test]
fn challenge_stays_one_quoted_string() {
    let message = "a \"quoted\" and \\escaped\\ reason";
    let answer = refuse(Denial::new(Code::TokenRejected, message), evidence(), TERSE);
    assert_eq!(
        answer.headers["www-authenticate"],
        "Bearer realm=\"tiergate\", error=\"invalid_token\", error_description=\"a 'quoted' and 'escaped' reason\""
    );
    assert_eq!(answer.error["message"], json!(message));
}

#[test]
fn detail_is_for_operators_unless_asked_for() {
    for code in Code::ALL {
        let denial = Denial::new(*code, "why not").detail("grant it with kubectl");
        for (style, in_body) in [(TERSE, None), (VERBOSE, Some(&json!("grant it with kubectl")))] {
            let answer = refuse(denial.clone(), evidence(), style);
            assert_eq!(answer.error.get("detail"), in_body, "{code:?} {style:?}");
            let metadata = metadata_of(&answer.response);
            assert_eq!(metadata["tiergate"]["detail"], "grant it with kubectl", "{code:?} {style:?}");
            let shown = format!("{:?}{:?}", answer.headers, answer.response.status);
            assert!(!shown.contains("kubectl"), "{code:?}: {shown}");
        }
    }
    let without = refuse(Denial::new(Code::TierNone, "no tier"), evidence(), VERBOSE);
    assert_eq!(without.error.get("detail"), None);
    assert_eq!(metadata_of(&without.response)["tiergate"].get("detail"), None);
}

#[test]
fn body_names_model_and_tier_where_they_are_known() {
    let mut evidence = evidence();
    evidence.tier = Some("free".into());
    evidence.permit.model = Some("llm/qwen3".to_owned());
    let answer = refuse(Denial::new(Code::PolicyExpression, "why not"), evidence, TERSE);
    assert_eq!(answer.error["model"], "llm/qwen3");
    assert_eq!(answer.error["tier"], "free");
}

#[test]
fn refused_and_undecided_are_told_apart_in_the_metadata() {
    for (code, name, status, ..) in answers() {
        let answer = refuse(Denial::new(code, "why not"), evidence(), TERSE);
        let decision = if status == 503 { "undecided" } else { "refused" };
        let expected = json!({ "tiergate": {
            "decision": decision,
            "code": name,
            "decision_id": decision_id(7),
            "generation": 3.0,
        }});
        assert_eq!(metadata_of(&answer.response), expected, "{name}");
    }
}
