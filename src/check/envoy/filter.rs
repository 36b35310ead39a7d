//! The filters that ask tiergate.

use std::time::Duration;

use super::read::Item;
use crate::manifest::Finding;

/// An ext_authz filter that speaks gRPC.
#[derive(Debug)]
pub(super) struct Authz<'a> {
    item: Item<'a>,
    pub(super) cluster: String,
}

/// A ratelimit filter.
#[derive(Debug)]
pub(super) struct RateLimit<'a> {
    pub(super) item: Item<'a>,
    pub(super) cluster: String,
    pub(super) domain: String,
}

/// The domain of usage reports.
pub(super) const REPORT: &str = "tiergate.report";
/// tiergate gives up by itself then, with a reason.
const DEADLINE: Duration = Duration::from_millis(150);
/// Longer than this nobody should wait for an answer that takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// The reasons to try a call again that no tiergate has begun.
const UNDECIDED: [&str; 3] = ["connect-failure", "refused-stream", "reset-before-request"];
const V3: [(&str, i64); 1] = [("V3", 2)];
const SERVER_ERRORS: [(&str, i64); 5] = [
    ("ServiceUnavailable", 503),
    ("InternalServerError", 500),
    ("NotImplemented", 501),
    ("BadGateway", 502),
    ("GatewayTimeout", 504),
];
const DENOMINATORS: [(&str, i64); 3] = [("HUNDRED", 100), ("TEN_THOUSAND", 10_000), ("MILLION", 1_000_000)];

/// Where a gRPC service leads: the name of a cluster, or an address.
fn cluster(service: &Item<'_>) -> Option<String> {
    let name = service.at(&["envoy_grpc", "cluster_name"]).or_else(|| service.at(&["google_grpc", "target_uri"]))?;
    name.as_text().map(str::to_owned)
}

fn api_version(item: &Item<'_>) {
    if !item.is_one_of("transport_api_version", &V3) {
        let at = item.get("transport_api_version").unwrap_or_else(|| item.clone());
        at.warn(
            Finding::EnvoyApiVersion,
            "does not speak version 3 of the protocol",
            "set `transport_api_version: V3`",
        );
    }
}

// === impl Authz ===

impl<'a> Authz<'a> {
    pub(super) fn of(item: &Item<'a>) -> Option<Self> {
        let cluster = cluster(&item.get("grpc_service")?)?;
        Some(Authz { item: item.clone(), cluster })
    }

    /// Whether it is this filter's configuration.
    pub(super) fn is(&self, configuration: &Item<'_>) -> bool {
        std::ptr::eq(self.item.0.node, configuration.0.node)
    }

    pub(super) fn check(&self) {
        self.opens();
        self.errors();
        api_version(&self.item);
        self.headers();
        if let Some(body) = self.item.get("with_request_body") {
            let message = "holds bodies back until they are there, which tiergate does not read: long prompts wait, or are answered 413";
            body.warn(Finding::EnvoyBodyBuffered, message, "remove `with_request_body`");
        }
        if self.item.is_true("clear_route_cache") {
            let at = self.item.get("clear_route_cache").unwrap_or_else(|| self.item.clone());
            let message = "chooses the route again after the Check, so that another one than was judged may be taken";
            at.warn(Finding::EnvoyRouteCache, message, "set `clear_route_cache: false`");
        }
    }

    /// What lets requests pass that nobody judged.
    fn opens(&self) {
        let warn = |name: &str, message: &str, remedy: &str| {
            let at = self.item.get(name).unwrap_or_else(|| self.item.clone());
            at.warn(Finding::EnvoyFailOpen, message, remedy);
        };
        if self.item.is_true("failure_mode_allow") {
            let message = "lets every request pass while tiergate does not answer";
            warn("failure_mode_allow", message, "set `failure_mode_allow: false`");
        }
        if self.item.is_true("shadow_mode") {
            warn("shadow_mode", "lets every request pass that tiergate refuses", "remove `shadow_mode`");
        }
        let Some(fraction) = self.item.at(&["filter_enabled", "default_value"]) else { return };
        let denominator = DENOMINATORS.iter().find(|one| fraction.is_one_of("denominator", &[**one]));
        // The first is the default of protobuf.
        let whole = denominator.map_or(100, |(_, number)| *number);
        if fraction.number("numerator").unwrap_or_default() < whole {
            let message = "asks tiergate about a part of the requests only, and lets the others pass";
            warn("filter_enabled", message, "remove `filter_enabled`");
        }
    }

    /// What becomes of a Check that gets no answer.
    fn errors(&self) {
        let status = self.item.get("status_on_error");
        if !status.as_ref().is_some_and(|status| status.is_one_of("code", &SERVER_ERRORS)) {
            let message = "answers 403 when tiergate does not answer: \"you may not\", which nobody decided";
            let message = if status.is_some() { "is not 503 when tiergate does not answer" } else { message };
            let at = status.unwrap_or_else(|| self.item.clone());
            at.warn(Finding::EnvoyStatusOnError, message, "set `status_on_error: {code: ServiceUnavailable}`");
        }
        let Some(service) = self.item.get("grpc_service") else { return };
        // Without one it is 200 ms.
        if let Some((timeout, at)) = service.duration("timeout").zip(service.get("timeout")) {
            let message = match timeout {
                Duration::ZERO => "waits for ever for a tiergate that does not answer",
                timeout if timeout <= DEADLINE => "gives up before tiergate does (150 ms), whose answer says why",
                timeout if timeout > PATIENCE => {
                    "makes every request wait this long for a tiergate that does not answer"
                }
                _ => "",
            };
            if !message.is_empty() {
                at.warn(Finding::EnvoyTimeout, message, "set it to 0.25s");
            }
        }
        let retries = service.at(&["retry_policy", "retry_on"]);
        let conditions = retries.as_ref().and_then(Item::as_text).unwrap_or_default().split(',').map(str::trim);
        let unsafe_ones: Vec<&str> = conditions.filter(|name| !name.is_empty() && !UNDECIDED.contains(name)).collect();
        if let Some(at) = retries.filter(|_| !unsafe_ones.is_empty()) {
            let message =
                format!("sends a Check again that may have taken its limits already: {}", unsafe_ones.join(", "));
            at.warn(Finding::EnvoyCheckRetried, message, &format!("set it to {}", UNDECIDED.join(",")));
        }
    }

    /// The credential has to arrive.
    fn headers(&self) {
        let patterns = |name: &str| self.item.at(&[name, "patterns"]);
        let remedy = "without `allowed_headers` all are sent, which tiergate needs to see duplicates too";
        let message = "keeps the Authorization header from tiergate, so that everybody is answered 401";
        if let Some(allowed) = patterns("allowed_headers").filter(|allowed| !allowed.items().iter().any(fits)) {
            allowed.warn(Finding::EnvoyAuthorizationWithheld, message, remedy);
        }
        if let Some(disallowed) = patterns("disallowed_headers").filter(|list| list.items().iter().any(fits)) {
            disallowed.warn(Finding::EnvoyAuthorizationWithheld, message, "do not withhold `authorization`");
        }
    }
}

/// Whether a string matcher matches `authorization`; one that cannot be read is given the benefit of the doubt.
fn fits(matcher: &Item<'_>) -> bool {
    const NAME: &str = "authorization";
    let ignore_case = matcher.is_true("ignore_case");
    let text = |name: &str| {
        let text = matcher.text(name)?;
        Some(if ignore_case { text.to_ascii_lowercase() } else { text.to_owned() })
    };
    let plain = [("exact", str::eq as fn(&str, &str) -> bool), ("prefix", |own, text| own.starts_with(text))];
    let plain = plain.into_iter().chain([
        ("suffix", (|own, text| own.ends_with(text)) as fn(&str, &str) -> bool),
        ("contains", |own, text| own.contains(text)),
    ]);
    let found = plain.into_iter().find_map(|(name, fits)| Some(fits(NAME, &text(name)?)));
    found.unwrap_or_else(|| {
        let pattern = matcher.at(&["safe_regex", "regex"]).and_then(|item| item.as_text());
        pattern
            .and_then(|text| regex::Regex::new(&format!("^(?:{text})$")).ok())
            .is_none_or(|regex| regex.is_match(NAME))
    })
}

// === impl RateLimit ===

impl<'a> RateLimit<'a> {
    pub(super) fn of(item: &Item<'a>) -> Self {
        let service = item.at(&["rate_limit_service", "grpc_service"]);
        let cluster = service.and_then(|service| cluster(&service)).unwrap_or_default();
        RateLimit { item: item.clone(), cluster, domain: item.text("domain").unwrap_or_default().to_owned() }
    }

    pub(super) fn is(&self, configuration: &Item<'_>) -> bool {
        std::ptr::eq(self.item.0.node, configuration.0.node)
    }

    pub(super) fn check(&self) {
        if let Some(service) = self.item.get("rate_limit_service") {
            api_version(&service);
        }
        // A report is not waited for, and denies nothing.
        if self.domain != REPORT && !self.item.is_true("failure_mode_deny") {
            let at = self.item.get("failure_mode_deny").unwrap_or_else(|| self.item.clone());
            let message = "lets every request pass uncounted while tiergate does not answer";
            at.warn(Finding::EnvoyFailOpen, message, "set `failure_mode_deny: true`");
        }
    }
}
