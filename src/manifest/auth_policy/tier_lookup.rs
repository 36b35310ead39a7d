//! The lookup of a caller's tier, as an AuthPolicy writes it: `metadata.<name>.http`.

use std::sync::Arc;
use std::time::Duration;

use super::value::read_value;
use crate::document::Field;
use crate::expression::View;
use crate::problem::Severity;
use crate::rules::Endpoint;
use crate::rules::TierLookup;

/// The endpoint of maas-api. Where the tier ConfigMap is ours it is answered in process, elsewhere it is called.
const TIER_LOOKUP: &str = "/v1/tiers/lookup";

pub(super) fn read_lookup(http: &Field<'_>, ttl: Option<Duration>) -> Option<TierLookup> {
    let mut fields = http.fields()?;
    // Says where a shared secret is put, and there is none.
    fields.ignore(&["credentials"]);
    let url = fields.require("url", "the URL of the tier lookup");
    let body = fields.require("body", "{ \"groups\": auth.identity.user.groups }");
    for other in ["urlExpression", "bodyParameters", "headers", "sharedSecretRef", "oauth2"] {
        if let Some(field) = fields.take(other) {
            field.unsupported(&format!("`{other}`"), "the tier lookup needs none");
        }
    }
    for (name, only) in [("method", "POST"), ("contentType", "application/json")] {
        if let Some(field) = fields.take(name) {
            check_only(&field, only);
        }
    }
    let timeout = fields.take("timeout").and_then(|field| read_timeout(&field));
    fields.done(Severity::Error);
    let body = body.and_then(|body| read_value(&body, View::Caller));
    let endpoint = read_endpoint(&url?, ttl, timeout)?;
    Some(TierLookup { endpoint: Arc::new(endpoint), body: body? })
}

/// Reports what a look-up cannot be made with.
fn check_only(field: &Field<'_>, only: &str) {
    if let Some(text) = field.text().filter(|text| *text != only) {
        field.report(field.error(format!("a tier lookup cannot be made with {text}")).expected(only));
    }
}

fn read_timeout(field: &Field<'_>) -> Option<Duration> {
    match u64::try_from(field.integer()?) {
        Ok(milliseconds) => Some(Duration::from_millis(milliseconds)),
        Err(_) => field.invalid("is negative", "milliseconds"),
    }
}

fn read_endpoint(url: &Field<'_>, ttl: Option<Duration>, timeout: Option<Duration>) -> Option<Endpoint> {
    let text = url.text()?;
    let path = text.split_once("://").and_then(|(_, rest)| rest.find('/').and_then(|at| rest.get(at..)));
    if path != Some(TIER_LOOKUP) {
        let remedy = format!("only `{TIER_LOOKUP}` is known, by the tier ConfigMap or by the service that has it");
        url.unsupported("metadata from another endpoint", &remedy);
        return None;
    }
    let endpoint = Endpoint::new(text, ttl, timeout);
    let unusable = |fault| url.error(format!("{fault}, so it cannot be called")).expected("an http or https URL");
    endpoint.map_err(|fault| url.report(unusable(fault))).ok()
}
