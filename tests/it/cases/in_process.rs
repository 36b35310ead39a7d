//! Cases without sockets: what Envoy would ask, and what it would make of the answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use clap::Parser;
use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue, HeaderValueOption};
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::HttpRequest;
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{CheckResponse, OkHttpResponse};
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::Code;
use envoy_types::pb::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use envoy_types::pb::google::protobuf::value::Kind;
use serde_json::Value;
use tiergate::args::{Cli, Command};
use tiergate::clock::Clock;
use tiergate::listen::ext_authz::ExtAuthz;
use tiergate::listen::rate_limit::RateLimit;
use tiergate::metrics::Metrics;
use tiergate::respond::Style;
use tiergate::settings::GateSettings;
use tiergate::source::Folder as Source;

use super::Setup;
use super::sent::{Got, Sent};
use super::table::Table;
use crate::support::KEYS;
use crate::wire::{check_request, descriptor, own, report};

/// A tiergate without its sockets.
pub(super) struct InProcess {
    ext_authz: ExtAuthz,
    rate_limit: RateLimit,
    setup: Setup,
}

// === impl InProcess ===

impl InProcess {
    pub(super) fn start(table: &Table, setup: Setup) -> Self {
        let folder = table.folder();
        let mut words = vec!["tiergate".to_owned(), "serve".to_owned()];
        words.push(format!("--manifests={}", folder.0.display()));
        words.push(format!("--jwks={}", KEYS.0.join("jwks.json").display()));
        words.extend(table.flags());
        words.extend(setup.flags().iter().map(|flag| (*flag).to_owned()));
        let Command::Serve(args) = Cli::try_parse_from(&words).unwrap().command else { panic!("it serves") };
        let policy = Source::new(&folder.0, args.policy.clone().into()).load().unwrap().unwrap();
        let (clock, metrics) = (Clock::start(), Arc::new(Metrics::new()));
        let gate = Arc::new(tiergate::app::gate(&GateSettings::from(&*args), policy, clock, &metrics.api).unwrap());
        let style = Style::from(&*args);
        InProcess {
            rate_limit: RateLimit::new(Arc::clone(&gate), Arc::clone(&metrics), Arc::default(), clock, style),
            ext_authz: ExtAuthz { gate, metrics, refusals: Arc::default(), clock, style },
            setup,
        }
    }

    pub(super) async fn ask(&self, sent: &Sent) -> Got {
        let checked = self.ext_authz.decide(&check_request(sent.http())).await;
        let ok = match checked.http_response.as_ref().unwrap() {
            HttpResponse::OkResponse(ok) => ok,
            HttpResponse::DeniedResponse(denied) => {
                return Got {
                    status: u16::try_from(denied.status.as_ref().unwrap().code).unwrap(),
                    headers: plain(&denied.headers),
                    body: serde_json::from_str(&denied.body).unwrap_or_default(),
                    seen: None,
                };
            }
            other => panic!("{other:?}"),
        };
        let headers = match self.setup {
            Setup::OneCall => plain(&ok.response_headers_to_add),
            Setup::TwoCalls => {
                let limits = self.rate_limit.handle(&question(sent, &checked)).await.unwrap();
                let headers = limits.response_headers_to_add.iter().map(pair).collect();
                if limits.overall_code == Code::OverLimit as i32 {
                    return over_limit(&limits, headers);
                }
                assert!(ok.response_headers_to_add.is_empty(), "Check says nothing of limits");
                headers
            }
        };
        self.report(sent, &checked).await;
        Got { status: 200, headers, body: Value::Null, seen: Some(forwarded(sent, ok)) }
    }

    /// The model's answer is over.
    async fn report(&self, sent: &Sent, checked: &CheckResponse) {
        let reservation = fact(checked, "reservation").expect("a reservation");
        let mut descriptors = vec![descriptor(&reservation, None, Some(0))];
        descriptors.extend(sent.tokens.map(|tokens| descriptor(&reservation, Some("total"), Some(tokens))));
        self.rate_limit.handle(&report(descriptors)).await.unwrap();
    }
}

/// What `envoy/classic.yaml` makes of a request and its Check.
fn question(sent: &Sent, checked: &CheckResponse) -> RateLimitRequest {
    let told = |name: &str| fact(checked, name).unwrap_or_else(|| "not told".to_owned());
    let mut entries = vec![
        ("auth.identity", told("identity")),
        ("request.headers", told("headers")),
        ("tiergate.gateway", told("gateway")),
        ("tiergate.listener", told("listener")),
        ("request.method", sent.method.clone()),
        ("request.scheme", "http".to_owned()),
        ("request.host", sent.host.clone()),
        ("request.path", sent.arrives.clone()),
    ];
    for (key, name) in [("tiergate.tier", "tier"), ("tiergate.model", "model"), ("tiergate.user", "user")] {
        entries.extend(fact(checked, name).map(|value| (key, value)));
    }
    let entry = |(key, value): (&str, String)| Entry { key: key.to_owned(), value };
    let descriptor =
        RateLimitDescriptor { entries: entries.into_iter().map(entry).collect(), ..RateLimitDescriptor::default() };
    RateLimitRequest { domain: "tiergate".to_owned(), descriptors: vec![descriptor], hits_addend: 0 }
}

fn over_limit(limits: &RateLimitResponse, headers: Vec<(String, String)>) -> Got {
    Got { status: 429, headers, body: serde_json::from_slice(&limits.raw_body).unwrap(), seen: None }
}

fn fact(checked: &CheckResponse, name: &str) -> Option<String> {
    match &own(checked).fields.get(name)?.kind {
        Some(Kind::StringValue(text)) => Some(text.clone()),
        _ => None,
    }
}

/// The headers that the model receives: Envoy sets first, and removes then.
fn forwarded(sent: &Sent, ok: &OkHttpResponse) -> BTreeMap<String, String> {
    let sent = sent.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone()));
    let mut headers: BTreeMap<String, String> = sent.collect();
    headers.extend(plain(&ok.headers));
    headers.retain(|name, _| !ok.headers_to_remove.contains(name));
    headers
}

fn plain(headers: &[HeaderValueOption]) -> Vec<(String, String)> {
    headers.iter().filter_map(|option| option.header.as_ref()).map(pair).collect()
}

fn pair(header: &HeaderValue) -> (String, String) {
    (header.key.clone(), header.value.clone())
}

// === impl Setup ===

impl Setup {
    pub(super) fn flags(self) -> &'static [&'static str] {
        match self {
            // Tokens are told by what is left before the answer: two calls hold nothing.
            Setup::OneCall => &["--token-admission=positive"],
            Setup::TwoCalls => &["--enforce-limits=rls"],
        }
    }

    pub(super) fn configuration(self) -> &'static str {
        match self {
            Setup::OneCall => "envoy/tiergate.yaml",
            Setup::TwoCalls => "envoy/classic.yaml",
        }
    }
}

// === impl Sent ===

impl Sent {
    fn http(&self) -> HttpRequest {
        let mut headers: Vec<HeaderValue> = Vec::new();
        let raw = |key: &str, value: &str| HeaderValue {
            key: key.to_ascii_lowercase(),
            raw_value: value.as_bytes().to_vec(),
            ..HeaderValue::default()
        };
        for (name, value) in &self.headers {
            // Envoy joins these, and no others.
            match headers.iter_mut().find(|header| name == "authorization" && header.key == *name) {
                Some(first) => *first = raw(name, &format!("{},{value}", String::from_utf8_lossy(&first.raw_value))),
                None => headers.push(raw(name, value)),
            }
        }
        headers.push(raw(":authority", &self.host));
        HttpRequest {
            method: self.method.clone(),
            path: self.arrives.clone(),
            host: self.host.clone(),
            scheme: "http".to_owned(),
            header_map: Some(HeaderMap { headers }),
            ..HttpRequest::default()
        }
    }
}
