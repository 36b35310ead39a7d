//! `envoy.service.auth.v3.Authorization/Check`: wire → [`Request`] → [`Gate`] → wire.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::core::v3::HeaderValue;
use envoy_types::pb::envoy::config::core::v3::address::Address;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::service::auth::v3::AttributeContext;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::HttpRequest;
use envoy_types::pb::envoy::service::auth::v3::authorization_server::Authorization;
use envoy_types::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse};
use envoy_types::pb::google::protobuf::value::Kind;
use futures_util::FutureExt;
use tonic::{Response, Status};

use super::refusals::Refusals;
use crate::clock::Clock;
use crate::denial::{Code, Denial};
use crate::gate::Gate;
use crate::metrics::Metrics;
use crate::request::{Body, HeaderLookup, Headers, OperatorModel, Request};
use crate::respond::{self, Style};

/// The ext_authz service.
#[derive(Debug)]
pub struct ExtAuthz {
    pub gate: Arc<Gate>,
    pub metrics: Arc<Metrics>,
    pub refusals: Arc<Refusals>,
    pub clock: Clock,
    pub style: Style,
}

#[tonic::async_trait]
impl Authorization for ExtAuthz {
    async fn check(&self, request: tonic::Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        Ok(Response::new(self.survive(self.decide(request.get_ref())).await))
    }
}

// === impl ExtAuthz ===

impl ExtAuthz {
    /// A panic in one request is a fault of ours that no other request should feel: this one is undecided.
    async fn survive(&self, deciding: impl Future<Output = CheckResponse>) -> CheckResponse {
        // Locks are released as the stack unwinds, and no state is half written: a cell is changed by one assignment.
        match AssertUnwindSafe(deciding).catch_unwind().await {
            Ok(response) => response,
            Err(_) => {
                tracing::error!("a request panicked; it is answered as undecided");
                let denial = Denial::new(Code::UnavailableInternal, "the gate failed on this request");
                let decision = self.gate.refuse(denial, self.clock.now());
                self.refusals.tell(None, &decision);
                self.metrics.decided(&decision, Duration::ZERO);
                let response = respond::check_response(&decision, None, self.style);
                self.gate.recent.record(None, decision);
                response
            }
        }
    }

    /// Decides one CheckRequest.
    pub async fn decide(&self, check: &CheckRequest) -> CheckResponse {
        let started = Instant::now();
        let request = to_request(check);
        let decision = match &request {
            Some(request) => self.gate.check(request, self.clock.now()).await,
            None => {
                let denial = Denial::new(Code::RequestInvalid, "the request has no HTTP attributes");
                self.gate.refuse(denial, self.clock.now())
            }
        };
        let response = respond::check_response(&decision, request.as_ref().map(|request| &request.headers), self.style);
        self.refusals.tell(request.as_ref(), &decision);
        self.metrics.decided(&decision, started.elapsed());
        self.gate.recent.record(request.as_ref(), decision);
        response
    }
}

/// Borrows a request from the wire; `None` without HTTP attributes.
pub fn to_request(check: &CheckRequest) -> Option<Request<'_>> {
    let attributes = check.attributes.as_ref()?;
    let http = attributes.request.as_ref()?.http.as_ref()?;
    let (path, query) = Request::split_path(&http.path);
    let extension = |name| attributes.context_extensions.get(name).map(String::as_str);
    let metadata = attributes.route_metadata_context.as_ref().and_then(|metadata| {
        metadata.filter_metadata.get("tiergate")?.fields.get("model").map(|value| value.kind.as_ref())
    });
    let metadata = match metadata {
        None => Ok(None),
        Some(Some(Kind::StringValue(model))) => Ok(Some(model.as_str())),
        // The operator's word cannot be read: that is no reason to go by the path.
        Some(_) => Err(()),
    };
    let headers = headers(http);
    let body = body(http, &headers);
    Some(Request {
        method: &http.method,
        host: &http.host,
        scheme: &http.scheme,
        path,
        query,
        headers,
        gateway: extension("gateway"),
        listener: extension("listener"),
        port: port(attributes),
        peer: peer(attributes),
        sni: attributes.tls_session.as_ref().map(|session| session.sni.as_str()).filter(|sni| !sni.is_empty()),
        model: match (extension("model"), metadata) {
            (_, Err(())) => OperatorModel::Conflict,
            (None, Ok(None)) => OperatorModel::Unset,
            (Some(one), Ok(Some(other))) if one != other => OperatorModel::Conflict,
            (Some(model), Ok(_)) | (None, Ok(Some(model))) => OperatorModel::Named(model),
        },
        body,
    })
}

/// The address that Envoy takes for the client's.
fn peer(attributes: &AttributeContext) -> Option<&str> {
    match &attributes.source.as_ref()?.address.as_ref()?.address {
        Some(Address::SocketAddress(address)) => Some(&address.address),
        _ => None,
    }
}

/// The port of Envoy's that the request came to.
fn port(attributes: &AttributeContext) -> Option<u16> {
    let Some(Address::SocketAddress(address)) = &attributes.destination.as_ref()?.address.as_ref()?.address else {
        return None;
    };
    match address.port_specifier.as_ref()? {
        PortSpecifier::PortValue(port) => u16::try_from(*port).ok(),
        PortSpecifier::NamedPort(_) => None,
    }
}

/// With `encode_raw_headers` Envoy fills `header_map` and leaves `headers` empty.
fn headers<'a>(http: &'a HttpRequest) -> Headers<'a> {
    match &http.header_map {
        Some(map) if !map.headers.is_empty() => {
            let pair = |header: &'a HeaderValue| -> (&'a str, &'a [u8]) {
                let raw = if header.raw_value.is_empty() { header.value.as_bytes() } else { &header.raw_value };
                (&header.key, raw)
            };
            Headers::List(map.headers.iter().map(pair).collect())
        }
        _ => Headers::Map(&http.headers),
    }
}

/// The body, where Envoy sends it (`with_request_body`: as text, or with `pack_as_bytes` as bytes) and all of it is there.
fn body<'a>(http: &'a HttpRequest, headers: &Headers<'_>) -> Option<Body<'a>> {
    let bytes = match (http.body.as_bytes(), http.raw_body.as_slice()) {
        ([], []) => return None,
        (bytes, []) | ([], bytes) => bytes,
        _ => return None,
    };
    // Envoy sets the first with every body that it sends. A client's own stands beside it as a second one.
    let is_cut = headers.get("x-envoy-auth-partial-body") != HeaderLookup::One("false");
    let is_of_length = match headers.get("content-length") {
        HeaderLookup::Absent => true,
        HeaderLookup::One(length) => length.parse() == Ok(bytes.len()),
        HeaderLookup::Several | HeaderLookup::Opaque => false,
    };
    (!is_cut && is_of_length).then_some(Body::whole(bytes))
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::core::v3::HeaderMap;

    use super::*;
    use crate::metrics::PageFormat;
    use crate::test_util::{compile_files, demo, gate, options, settings};

    const BODY: &str = r#"{"max_tokens": 20}"#;

    /// A request with these headers, in either form, and a body as text, as bytes or as both.
    fn with_body(headers: &[(&str, &str)], raw: bool, text: &str, bytes: &str) -> HttpRequest {
        let mut http = HttpRequest { body: text.to_owned(), raw_body: bytes.into(), ..HttpRequest::default() };
        if raw {
            let header = |(name, value): &(&str, &str)| HeaderValue {
                key: (*name).to_owned(),
                raw_value: value.as_bytes().to_vec(),
                ..HeaderValue::default()
            };
            http.header_map = Some(HeaderMap { headers: headers.iter().map(header).collect() });
        } else {
            http.headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        }
        http
    }

    #[test]
    fn a_body_is_taken_where_all_of_it_is_there() {
        let whole = ("x-envoy-auth-partial-body", "false");
        for raw in [false, true] {
            for (sent, length) in [(&[whole][..], "absent"), (&[whole, ("content-length", "18")], "told")] {
                for (text, bytes) in [(BODY, ""), ("", BODY)] {
                    let http = with_body(sent, raw, text, bytes);
                    let taken = body(&http, &headers(&http));
                    assert_eq!(taken, Some(Body::whole(BODY.as_bytes())), "{length} {raw} {text}");
                }
            }
        }
    }

    #[test]
    fn a_body_of_which_a_part_may_be_missing_is_not_taken() {
        let [whole, cut] = ["false", "true"].map(|value| ("x-envoy-auth-partial-body", value));
        for (sent, raw, text, bytes) in [
            (&[cut, ("content-length", "18")][..], false, BODY, ""),
            (&[("content-length", "18")], false, BODY, ""),
            // The first is the client's.
            (&[whole, cut], true, BODY, ""),
            (&[whole, ("content-length", "19")], false, BODY, ""),
            (&[whole, ("content-length", "17")], true, "", BODY),
            (&[whole, ("content-length", "18,18")], false, BODY, ""),
            (&[whole, ("content-length", "18"), ("content-length", "18")], true, BODY, ""),
            (&[whole, ("content-length", "")], false, BODY, ""),
            (&[whole], false, BODY, BODY),
            (&[whole, ("content-length", "0")], false, "", ""),
        ] {
            let http = with_body(sent, raw, text, bytes);
            assert_eq!(body(&http, &headers(&http)), None, "{sent:?} {text:?} {bytes:?}");
        }
    }

    #[test]
    fn a_body_is_not_shown() {
        assert_eq!(format!("{:?}", Body::whole(b"a secret")), "Body(8 bytes)");
    }

    #[tokio::test]
    async fn a_panic_in_one_request_is_its_own_answer() {
        let gate = Arc::new(gate(compile_files(&demo(), &options()), settings()));
        let clock = Clock::start();
        let (metrics, refusals) = (Arc::default(), Arc::default());
        let authz = ExtAuthz { gate, metrics, refusals, clock, style: Style::default() };
        let response = authz.survive(async { panic!("a fault of ours") }).await;
        assert_eq!(response.status.unwrap().message, "TG-UNAVAILABLE-INTERNAL");
        let page = authz.metrics.page(PageFormat::Text, 0, 0);
        assert!(page.contains("tiergate_decisions_total{outcome=\"undecided\",reason=\"TG-UNAVAILABLE-INTERNAL\"} 1"));
    }
}
