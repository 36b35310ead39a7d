//! Decisions on the wire: the only place that chooses headers and body. The status is that of the code's class, or the policy's own.
//!
//! Source: `envoy/service/auth/v3/external_auth.proto`; the header names are OpenAI's and Envoy's.

mod rate_limit;
mod shown;

use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{CheckResponse, DeniedHttpResponse, OkHttpResponse};
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{ListValue, Struct, Value};
use envoy_types::pb::google::rpc::Status;
use serde_json::json;
use tonic::Code as GrpcCode;

pub use self::rate_limit::rate_limit_response;
pub use self::shown::RateBody;

use crate::cache::AnswerSource;
use crate::denial::{Class, Code, Denial};
use crate::expression::{Properties, Val};
use crate::gate::{Decision, Evidence, Grant, Shown};
use crate::limit::{Span, Standing};
use crate::process::{decision_id, process_tag};
use crate::request::{Headers, is_believed_header};
use crate::rules::LimitKind;

#[cfg(test)]
mod tests;

/// Headers of identity that a client has no business sending, removed whether they were sent or not.
const IDENTITY_HEADERS: &[&str] =
    &["authorization", "x-maas-username", "x-maas-group", "x-maas-key-id", "x-maas-subscription"];
/// How long to wait before asking again when nothing could be decided.
const UNDECIDED_RETRY: Duration = Duration::from_secs(1);

/// The gRPC code of an answer with status 200 that stands in place of the model's: any but OK, by which the gateway would send the
/// request on.
const ANSWERED: GrpcCode = GrpcCode::PermissionDenied;

/// What the answer's looks depend on.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// Tell callers what is meant for operators.
    pub verbose_refusals: bool,
    /// Change nothing of requests and answers: see `--shadow`.
    pub shadow: bool,
    pub compat: Option<Compat>,
    /// A limit of which nothing comes back for longer than this is told as used up: who waits for it waits in vain.
    pub retry_hint: Duration,
}

/// Who asks, where it is not Envoy's own filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Compat {
    /// Kuadrant's WebAssembly plugin, which fails on an OK answer that removes headers or adds any to the response: headers of identity
    /// are emptied instead, and only 429 has `x-ratelimit-…`.
    KuadrantWasm,
}

/// What OpenAI's API calls a budget that is used up: `type` and `code` of its error. Clients give up on it.
const INSUFFICIENT_QUOTA: &str = "insufficient_quota";

// === impl Style ===

impl Style {
    /// How long it is worth to wait for a limit, by default. Some clients sleep through any `Retry-After`, however long.
    pub const RETRY_HINT: Duration = Duration::from_secs(60);

    /// Whether waiting is in vain, or nearly so. Of calls that run nobody knows when one is over.
    fn is_used_up(&self, denial: &Denial, evidence: &Evidence) -> bool {
        let is_guess = || refusing(evidence).is_some_and(|(span, _)| span == Span::Running);
        let is_vain = |wait| wait > self.retry_hint && !is_guess();
        denial.code.class() == Class::Limited && denial.retry_after.is_none_or(is_vain)
    }
}

impl Default for Style {
    fn default() -> Self {
        Style { verbose_refusals: false, shadow: false, compat: None, retry_hint: Style::RETRY_HINT }
    }
}

/// HTTP status, gRPC code and the `type` of the error body, for each kind of refusal.
#[must_use]
pub fn status(code: Code) -> (u16, GrpcCode, &'static str) {
    let class = code.class();
    let (grpc, kind) = match class {
        Class::Invalid => (GrpcCode::InvalidArgument, "invalid_request_error"),
        Class::Unauthenticated => (GrpcCode::Unauthenticated, "authentication_error"),
        Class::Forbidden => (GrpcCode::PermissionDenied, "permission_error"),
        Class::Unknown => (GrpcCode::NotFound, "not_found_error"),
        Class::Limited => (GrpcCode::ResourceExhausted, "rate_limit_error"),
        Class::Undecided => (GrpcCode::Unavailable, "service_unavailable_error"),
    };
    (class.status(), grpc, kind)
}

/// The HTTP status of a refusal: the policy's own, where it has one.
#[must_use]
pub fn status_of(denial: &Denial) -> u16 {
    denial.deny_with.as_ref().and_then(|own| own.status).unwrap_or_else(|| status(denial.code).0)
}

/// The answer to Envoy.
#[must_use]
pub fn check_response(decision: &Decision, sent: Option<&Headers<'_>>, style: Style) -> CheckResponse {
    let evidence = &decision.evidence;
    match &decision.outcome {
        Ok(Grant { shown: Some(shown), .. }) => CheckResponse {
            status: Some(Status { code: ANSWERED as i32, ..Status::default() }),
            dynamic_metadata: Some(metadata(decision)),
            http_response: Some(HttpResponse::DeniedResponse(answered(shown, evidence, style))),
        },
        Ok(grant) => CheckResponse {
            status: Some(Status { code: GrpcCode::Ok as i32, ..Status::default() }),
            dynamic_metadata: Some(metadata(decision)),
            http_response: Some(HttpResponse::OkResponse(match style.shadow {
                true => OkHttpResponse::default(),
                false => ok(grant, evidence, sent, style),
            })),
        },
        Err(denial) => {
            let (_, code, _) = status(denial.code);
            CheckResponse {
                status: Some(Status { code: code as i32, message: denial.code.as_str().to_owned(), details: vec![] }),
                dynamic_metadata: Some(metadata(decision)),
                http_response: Some(HttpResponse::DeniedResponse(denied(denial, evidence, style))),
            }
        }
    }
}

fn ok(grant: &Grant, evidence: &Evidence, sent: Option<&Headers<'_>>, style: Style) -> OkHttpResponse {
    // A header that we set is overwritten; one that we remove must not be among them, since Envoy removes last.
    let is_set = |name: &str| grant.headers.iter().any(|(set, _)| set.eq_ignore_ascii_case(name));
    let mut remove: Vec<String> =
        IDENTITY_HEADERS.iter().filter(|name| !is_set(name)).map(|name| (*name).to_owned()).collect();
    let believed = sent.into_iter().flat_map(Headers::names).filter(|name| is_believed_header(name) && !is_set(name));
    remove.extend(believed.map(str::to_ascii_lowercase));
    // Each once, in time that does not grow with the square of what was sent.
    remove.sort_unstable();
    remove.dedup();
    let mut headers: Vec<_> = grant.headers.iter().map(|(name, value)| overwrite(name, value.clone())).collect();
    if style.compat == Some(Compat::KuadrantWasm) {
        headers.extend(remove.iter().map(|name| overwrite(name, String::new())));
        return OkHttpResponse { headers, ..OkHttpResponse::default() };
    }
    OkHttpResponse {
        headers,
        headers_to_remove: remove,
        response_headers_to_add: limit_headers(evidence, evidence.most_restrictive(LimitKind::Requests)),
        ..OkHttpResponse::default()
    }
}

/// The answer to who asks for their limits, in the model's place.
fn answered(shown: &Shown, evidence: &Evidence, style: Style) -> DeniedHttpResponse {
    let headers = [("content-type", "application/json"), ("cache-control", "no-store")];
    DeniedHttpResponse {
        status: Some(HttpStatus { code: 200 }),
        headers: headers.map(|(name, value)| overwrite(name, value.to_owned())).into(),
        body: shown::body(shown, evidence, style),
    }
}

fn denied(denial: &Denial, evidence: &Evidence, style: Style) -> DeniedHttpResponse {
    let (status, ..) = status(denial.code);
    let own = denial.deny_with.as_deref();
    let own_body = own.and_then(|own| own.body.as_ref());
    let mut headers = denied_headers(denial, evidence, own_body.is_some());
    if style.is_used_up(denial, evidence) {
        headers.push(overwrite("x-should-retry", "false".to_owned()));
    }
    if let Some(own) = own {
        // The policy's own stand in place of ours, not beside them.
        let is_own = |name: &str| own.headers.iter().any(|(set, _)| set.eq_ignore_ascii_case(name));
        headers.retain(|option| option.header.as_ref().is_none_or(|header| !is_own(&header.key)));
        headers.extend(own.headers.iter().map(|(name, value)| overwrite(name, value.clone())));
    }
    DeniedHttpResponse {
        status: Some(HttpStatus { code: i32::from(own.and_then(|own| own.status).unwrap_or(status)) }),
        headers,
        body: own_body.cloned().unwrap_or_else(|| body(denial, evidence, style)),
    }
}

/// The headers of a refusal, but for those that a policy has of its own.
fn denied_headers(denial: &Denial, evidence: &Evidence, is_own_body: bool) -> Vec<HeaderValueOption> {
    let (status, ..) = status(denial.code);
    let own = denial.deny_with.as_deref();
    let reason = own.and_then(|own| own.reason.as_deref()).unwrap_or(denial.code.as_str());
    let content_type = if is_own_body { "text/plain" } else { "application/json" };
    let mut headers =
        vec![overwrite("content-type", content_type.to_owned()), overwrite("x-ext-auth-reason", reason.to_owned())];
    // A policy that sends callers elsewhere, or says itself how to authenticate, wants no other challenge.
    let is_customised = own.is_some_and(|own| own.status.is_some() || !own.headers.is_empty());
    if status == 401 && !is_customised {
        headers.push(overwrite("www-authenticate", challenge(denial)));
    }
    if let Some(wait) = denial.retry_after.or((status == 503).then_some(UNDECIDED_RETRY)) {
        headers.push(overwrite("retry-after", whole_seconds(wait).to_string()));
    }
    if status == 429 {
        headers.extend(limit_headers(evidence, refusing(evidence).map(|(_, standing)| standing)));
    }
    headers
}

/// RFC 6750, section 3: no error code where no token was sent.
fn challenge(denial: &Denial) -> String {
    match denial.code {
        Code::TokenMissing => "Bearer realm=\"tiergate\"".to_owned(),
        _ => format!(
            "Bearer realm=\"tiergate\", error=\"invalid_token\", error_description=\"{}\"",
            denial.message.replace(['"', '\\'], "'")
        ),
    }
}

/// The error object that OpenAI's clients read.
fn body(denial: &Denial, evidence: &Evidence, style: Style) -> String {
    let (.., kind) = status(denial.code);
    let used_up = style.is_used_up(denial, evidence);
    let (kind, code) = if used_up { (INSUFFICIENT_QUOTA, INSUFFICIENT_QUOTA) } else { (kind, denial.code.as_str()) };
    let mut error = json!({
        "message": denial.message,
        "type": kind,
        "code": code,
        "decision_id": decision_id(evidence.id),
        "time": crate::identity::timestamp(),
    });
    let mut add = |name: &str, value: serde_json::Value| {
        if let Some(object) = error.as_object_mut() {
            object.insert(name.to_owned(), value);
        }
    };
    if used_up {
        add("reason", json!(denial.code.as_str()));
    }
    if let Some(model) = &evidence.permit.model {
        add("model", json!(model));
    }
    if let Some(tier) = &evidence.tier {
        add("tier", json!(&**tier));
    }
    if let Some((span, standing)) = refusing(evidence).filter(|_| denial.code.class() == Class::Limited) {
        add("limit", json!(standing.limit()));
        add_span(&mut add, span);
    }
    if let Some(wait) = denial.retry_after {
        add("retry_after_seconds", json!(whole_seconds(wait)));
    }
    if let (true, Some(detail)) = (style.verbose_refusals, &denial.detail) {
        add("detail", json!(detail));
    }
    json!({ "error": error }).to_string()
}

/// What the number of a limit is for, in its own terms.
fn add_span(add: &mut impl FnMut(&str, serde_json::Value), span: Span) {
    match span {
        Span::Lasting(window) => add("window_seconds", json!(window.as_secs_f64())),
        Span::Calendar(calendar) => {
            add("window", json!(calendar.unit().name()));
            add("time_zone", json!(calendar.zone()));
        }
        Span::Running => {}
    }
}

/// The standing of the limit that refuses, and what its number is for.
fn refusing(evidence: &Evidence) -> Option<(Span, &Standing)> {
    let (_, limit) = evidence.refusing()?;
    Some((limit.span, limit.standing.as_ref()?))
}

/// Request and token limits are never compared with each other: each has its own three headers, and `classic` names
/// the one that the plain three are about.
fn limit_headers(evidence: &Evidence, classic: Option<&Standing>) -> Vec<HeaderValueOption> {
    let mut headers = Vec::with_capacity(9);
    let requests = evidence.most_restrictive(LimitKind::Requests);
    let tokens = evidence.most_restrictive(LimitKind::Tokens);
    for (standing, names) in [
        (classic, ["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"]),
        (requests, ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"]),
        (tokens, ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"]),
    ] {
        let Some(standing) = standing else { continue };
        let values = [standing.limit(), standing.remaining(), whole_seconds(standing.reset())];
        headers.extend(names.into_iter().zip(values).map(|(name, value)| overwrite(name, value.to_string())));
    }
    headers
}

/// Rounded up: a client that waits this long has waited long enough.
pub(crate) fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

/// Overwrites, never appends: a value that the client sent must not stand beside ours.
fn overwrite(name: &str, value: String) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue { key: name.to_owned(), value, ..HeaderValue::default() }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd as i32,
        ..HeaderValueOption::default()
    }
}

/// Why a text is not the id of a decision of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("is not a decision id: two groups of hexadecimal digits, such as {}", decision_id(0))]
    Form,
    #[error("is of another process, or of this one before a restart: its own ids begin with {:08x}", process_tag())]
    Foreign,
}

/// The decision that `text` names, in exactly the form of [`decision_id`].
///
/// # Errors
///
/// It is no such id, or another process gave it.
pub fn parse_decision_id(text: &str) -> Result<u64, IdError> {
    let (process, id) = text.split_once('-').ok_or(IdError::Form)?;
    let process = u32::from_str_radix(process, 16).map_err(|_| IdError::Form)?;
    let id = u64::from_str_radix(id, 16).map_err(|_| IdError::Form)?;
    if text != format!("{process:08x}-{id:08x}") {
        return Err(IdError::Form);
    }
    if process == process_tag() { Ok(id) } else { Err(IdError::Foreign) }
}

// === dynamic metadata ===

/// What the policy declares, and under `tiergate` the decision itself. Envoy puts it into the namespace
/// `envoy.filters.http.ext_authz`, of denials too.
fn metadata(decision: &Decision) -> Struct {
    let evidence = &decision.evidence;
    let mut root = Struct::default();
    let mut own = Own::default();
    own.add("decision_id", text(decision_id(evidence.id)));
    own.add("generation", Kind::NumberValue(evidence.generation as f64));
    match &decision.outcome {
        Ok(grant) => {
            own.granted(grant);
            let filters = grant.filters.iter();
            root.fields.extend(filters.map(|(name, value)| (name.to_string(), properties(value))));
        }
        Err(denial) => own.refused(denial),
    }
    own.seen(evidence);
    root.fields.insert("tiergate".to_owned(), Value { kind: Some(Kind::StructValue(own.0)) });
    root
}

/// What is said of a decision under `tiergate`.
#[derive(Default)]
struct Own(Struct);

// === impl Own ===

impl Own {
    #[inline]
    fn add(&mut self, name: &str, value: Kind) {
        self.0.fields.insert(name.to_owned(), Value { kind: Some(value) });
    }

    fn granted(&mut self, grant: &Grant) {
        self.add("decision", text(if grant.shown.is_some() { "shown" } else { "allowed" }));
        if !grant.reservation.is_empty() {
            self.add("reservation", text(grant.reservation.as_str()));
        }
        if let Some(handover) = &grant.handover {
            self.add("gateway", text(&*handover.gateway));
            self.add("listener", text(&*handover.listener));
            self.add("identity", text(handover.identity.as_str()));
            self.add("filters", text(handover.filters.as_str()));
            self.add("headers", text(handover.headers.as_str()));
        }
    }

    fn refused(&mut self, denial: &Denial) {
        self.add("decision", text(refusal(denial)));
        self.add("code", text(denial.code.as_str()));
        if let Some(detail) = &denial.detail {
            self.add("detail", text(detail.as_str()));
        }
    }

    /// What was found out, whatever was decided.
    fn seen(&mut self, evidence: &Evidence) {
        if let Some(first) = evidence.shadowed.first() {
            self.add("would", text(refusal(&first.denial)));
            self.add("would_code", text(first.denial.code.as_str()));
        }
        let optional = [
            ("route", evidence.route.as_deref()),
            ("user", evidence.user.as_deref()),
            ("tier", evidence.tier.as_deref()),
            ("model", evidence.permit.model.as_deref()),
            ("granted_by", evidence.permit.grantor.as_ref().map(|grantor| &*grantor.name)),
            ("tier_source", evidence.tier_source.map(AnswerSource::as_str)),
            ("tier_gone", evidence.tier_gone.as_deref()),
            ("identity_source", evidence.identity_source.map(AnswerSource::as_str)),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                self.add(name, text(value));
            }
        }
    }
}

/// Tells "you may not" from "it could not be told".
fn refusal(denial: &Denial) -> &'static str {
    if denial.code.class() == Class::Undecided { "undecided" } else { "refused" }
}

fn properties(properties: &Properties<'_>) -> Value {
    match properties {
        Properties::Object(properties) => {
            let field = |(name, value): &(std::sync::Arc<str>, Val<'_>)| {
                let value = match value {
                    Val::Text(value) => Value { kind: Some(text(value.as_ref())) },
                    Val::Json(value) => to_value(value),
                };
                (name.to_string(), value)
            };
            Value { kind: Some(Kind::StructValue(Struct { fields: properties.iter().map(field).collect() })) }
        }
        Properties::Value(value) => to_value(value),
    }
}

fn text(value: impl Into<String>) -> Kind {
    Kind::StringValue(value.into())
}

fn to_value(value: &serde_json::Value) -> Value {
    let kind = match value {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(value) => Kind::BoolValue(*value),
        serde_json::Value::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or_default()),
        serde_json::Value::String(value) => Kind::StringValue(value.clone()),
        serde_json::Value::Array(items) => Kind::ListValue(ListValue { values: items.iter().map(to_value).collect() }),
        serde_json::Value::Object(entries) => Kind::StructValue(Struct {
            fields: entries.iter().map(|(name, value)| (name.clone(), to_value(value))).collect(),
        }),
    };
    Value { kind: Some(kind) }
}
