//! CheckRequests: bytes as they come off the wire, decoded, decided on a warm gate, answered.

use std::sync::{Arc, LazyLock};

use envoy_types::pb::envoy::config::core::v3::HeaderValueOption;
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{
    CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse, attribute_context,
};
use envoy_types::pb::google::protobuf::value::Kind;
use prost::Message;
use tiergate::clock::Clock;
use tiergate::denial::Code;
use tiergate::listen::ext_authz::ExtAuthz;
use tiergate::respond::{Style, status};

use super::path::{has_one_reading, model_of};
use super::world::{CALLERS, GATE, run};

static AUTHZ: LazyLock<ExtAuthz> = LazyLock::new(|| ExtAuthz {
    gate: Arc::clone(&GATE),
    metrics: Arc::default(),
    refusals: Arc::default(),
    clock: Clock::start(),
    style: Style { verbose_refusals: true, ..Style::default() },
});

/// Every answer is whole, and holds no token; what is let through is a remembered caller on a model granted to it.
pub fn check_request(data: &[u8]) -> &'static str {
    let Ok(check) = CheckRequest::decode(data) else { return "not a CheckRequest" };
    let response = run(AUTHZ.decide(&check));
    let wire = response.encode_to_vec();
    assert_eq!(CheckResponse::decode(wire.as_slice()).as_ref(), Ok(&response));
    assert_holds_no_token(data, &check, &wire);
    let status = response.status.as_ref().expect("every answer has a status");
    assert_eq!(metadata(&response, "decision") == Some("allowed"), status.code == 0, "{response:?}");
    match response.http_response.as_ref().expect("every answer says what to do") {
        HttpResponse::OkResponse(ok) => {
            assert_eq!((status.code, status.message.as_str()), (0, ""));
            assert_allowed(&check, &response, ok);
            "allowed"
        }
        HttpResponse::DeniedResponse(denied) if http_status(denied) == Some(200) => {
            assert_shown(&check, &response, denied);
            "shown"
        }
        HttpResponse::DeniedResponse(denied) => assert_denied(&response, denied),
        HttpResponse::ErrorResponse(_) => panic!("not an answer of ours: {response:?}"),
    }
}

fn assert_allowed(check: &CheckRequest, response: &CheckResponse, ok: &OkHttpResponse) {
    let http = http(check).expect("HTTP attributes");
    let path = http.path.split('?').next().unwrap_or_default();
    assert!(has_one_reading(path), "{path:?}");
    let authorization = headers(http, "authorization");
    let [authorization] = authorization.as_slice() else { panic!("one Authorization header: {authorization:?}") };
    let (scheme, token) = authorization.split_at(7.min(authorization.len()));
    assert!(scheme.eq_ignore_ascii_case(b"bearer "), "{authorization:?}");
    let caller = CALLERS.iter().find(|caller| caller.token.as_bytes() == token).expect("a remembered token");
    let model = operator_model(check).unwrap_or_else(|| model_of(path).expect("two segments"));
    assert!(caller.may.contains(&&*model), "{} may not call {model}", caller.token);
    assert_eq!(metadata(response, "model"), Some(&*model));
    let reservation = metadata(response, "reservation").expect("a reservation");
    assert!(GATE.sealer.open(reservation).is_some());

    assert_headers(&ok.headers);
    assert_headers(&ok.response_headers_to_add);
    let removed = |name: &str| ok.headers_to_remove.iter().any(|removed| removed.eq_ignore_ascii_case(name));
    assert!(removed("authorization"));
    for name in names(http).filter(|name| name.to_ascii_lowercase().starts_with("x-maas-")) {
        assert!(removed(name), "{name:?} reaches the model");
    }
}

fn http_status(denied: &DeniedHttpResponse) -> Option<i32> {
    denied.status.as_ref().map(|status| status.code)
}

/// Who asks for their limits is a remembered caller, and gets no further.
fn assert_shown(check: &CheckRequest, response: &CheckResponse, denied: &DeniedHttpResponse) {
    let http = http(check).expect("HTTP attributes");
    let path = http.path.split('?').next().unwrap_or_default();
    assert!(["GET", "HEAD"].contains(&&*http.method) && path.ends_with("/v1/limits"), "{} {path:?}", http.method);
    assert_ne!(response.status.as_ref().map(|status| status.code), Some(0), "it would be sent on to a model");
    let body: serde_json::Value = serde_json::from_str(&denied.body).expect("the body is JSON");
    assert!(body["limits"].is_array() && body["error"].is_null(), "{body}");
    let authorization = headers(http, "authorization");
    let is_of = |token: &str| authorization.iter().any(|header| header.ends_with(token.as_bytes()));
    assert!(CALLERS.iter().any(|caller| is_of(caller.token)), "{authorization:?}");
}

/// The code, once the answer was checked.
fn assert_denied(response: &CheckResponse, denied: &DeniedHttpResponse) -> &'static str {
    let message = &response.status.as_ref().expect("a status").message;
    let code = Code::ALL.iter().find(|code| code.as_str() == message).expect("a code of ours");
    let (http, grpc, kind) = status(*code);
    assert_eq!(denied.status.as_ref().map(|status| status.code), Some(i32::from(http)));
    assert!((400..600).contains(&http));
    assert_eq!(response.status.as_ref().map(|status| status.code), Some(grpc as i32));
    assert_headers(&denied.headers);
    let header = |name: &str| denied.headers.iter().filter_map(|h| h.header.as_ref()).find(|h| h.key == name);
    assert_eq!(header("x-ext-auth-reason").map(|header| header.value.as_str()), Some(code.as_str()));
    assert_eq!(header("www-authenticate").is_some(), http == 401);
    assert!(http != 503 || header("retry-after").is_some());
    let body: serde_json::Value = serde_json::from_str(&denied.body).expect("the body is JSON");
    // A limit that is used up for long says so in OpenAI's words, and the reason beside.
    let is_used_up = header("x-should-retry").is_some();
    assert!(!is_used_up || http == 429);
    let told = if is_used_up { ["insufficient_quota"; 2] } else { [code.as_str(), kind] };
    assert_eq!([&body["error"]["code"], &body["error"]["type"]], told);
    assert_eq!(body["error"]["reason"], if is_used_up { code.as_str().into() } else { serde_json::Value::Null });
    code.as_str()
}

/// Ours replace what stands there, and hold nothing that would end a header.
fn assert_headers(headers: &[HeaderValueOption]) {
    for option in headers {
        let header = option.header.as_ref().expect("a header");
        assert_eq!(option.append_action, HeaderAppendAction::OverwriteIfExistsOrAdd as i32, "{header:?}");
        assert!(header.raw_value.is_empty() && !header.key.is_empty(), "{header:?}");
        assert!(!header.value.contains(|c: char| c.is_ascii_control()), "{header:?}");
    }
}

/// A token that was sent as a token, and as nothing else, comes back nowhere. What the operator's configuration says, such
/// as the name of a Gateway, may come back.
fn assert_holds_no_token(request: &[u8], check: &CheckRequest, response: &[u8]) {
    let count =
        |bytes: &[u8], text: &str| bytes.windows(text.len()).filter(|window| *window == text.as_bytes()).count();
    let authorization = http(check).map(|http| headers(http, "authorization")).unwrap_or_default();
    let is_sent = |token: &str| authorization.iter().any(|value| count(value, token) > 0) && count(request, token) == 1;
    for token in CALLERS.iter().map(|caller| caller.token).filter(|token| is_sent(token)) {
        assert_eq!(count(response, token), 0, "{token}");
    }
}

fn http(check: &CheckRequest) -> Option<&attribute_context::HttpRequest> {
    check.attributes.as_ref()?.request.as_ref()?.http.as_ref()
}

fn metadata<'r>(response: &'r CheckResponse, name: &str) -> Option<&'r str> {
    text(&response.dynamic_metadata.as_ref()?.fields.get("tiergate")?.kind, name)
}

fn text<'k>(kind: &'k Option<Kind>, name: &str) -> Option<&'k str> {
    let Some(Kind::StructValue(own)) = kind else { return None };
    match &own.fields.get(name)?.kind {
        Some(Kind::StringValue(text)) => Some(text),
        other => panic!("`{name}` is {other:?}"),
    }
}

/// The model that the operator set, which goes before the path; that both of its places agree is asserted.
fn operator_model(check: &CheckRequest) -> Option<String> {
    let attributes = check.attributes.as_ref()?;
    let extension = attributes.context_extensions.get("model");
    let metadata = attributes.route_metadata_context.as_ref();
    let metadata = metadata.and_then(|metadata| metadata.filter_metadata.get("tiergate")?.fields.get("model"));
    let metadata = metadata.map(|value| match &value.kind {
        Some(Kind::StringValue(text)) => text,
        other => panic!("a model that is {other:?} was let through"),
    });
    if let (Some(one), Some(other)) = (extension, metadata) {
        assert_eq!(one, other);
    }
    extension.or(metadata).cloned()
}

/// The values of a header: of the raw form if there is one.
fn headers<'h>(http: &'h attribute_context::HttpRequest, name: &str) -> Vec<&'h [u8]> {
    match http.header_map.as_ref().filter(|map| !map.headers.is_empty()) {
        Some(map) => {
            let named = map.headers.iter().filter(|header| header.key.eq_ignore_ascii_case(name));
            named.map(|h| if h.raw_value.is_empty() { h.value.as_bytes() } else { &h.raw_value[..] }).collect()
        }
        None => match http.headers.get(name) {
            // The lower-case name is Envoy's; others are looked at only without it.
            Some(value) => vec![value.as_bytes()],
            None => {
                let named = http.headers.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
                named.map(|(_, value)| value.as_bytes()).collect()
            }
        },
    }
}

fn names(http: &attribute_context::HttpRequest) -> Box<dyn Iterator<Item = &str> + '_> {
    match http.header_map.as_ref().filter(|map| !map.headers.is_empty()) {
        Some(map) => Box::new(map.headers.iter().map(|header| header.key.as_str())),
        None => Box::new(http.headers.keys().map(String::as_str)),
    }
}
