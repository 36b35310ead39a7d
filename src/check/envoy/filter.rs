//! The filters that ask tiergate.

use std::time::Duration;

use super::descriptor::{asks_always, is_afterwards, is_before, unsure};
use super::read::ConfigValue;
use super::role::{CLUSTER_NAME, DOMAIN, FilterRole, REPORT};
use super::runtime::Runtime;
use super::{Beside, EnvoyFile};
use crate::problem::Finding;
use crate::spelling::did_you_mean;

/// An ext_authz filter that speaks gRPC.
#[derive(Debug)]
pub(super) struct AuthzFilter<'a> {
    pub(super) item: ConfigValue<'a>,
    pub(super) cluster: String,
}

/// A ratelimit filter.
#[derive(Debug)]
pub(super) struct RateLimitFilter<'a> {
    pub(super) item: ConfigValue<'a>,
    pub(super) cluster: String,
    pub(super) domain: String,
}

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

/// A fraction of the requests that is not all of them, or need not stay so.
fn part<'a>(item: &ConfigValue<'a>, name: &str, runtime: &Runtime<'a>, does: &str) {
    let Some((at, is_now)) = item.get(name).and_then(|fraction| runtime.part(&fraction)) else { return };
    let message = match is_now {
        true => format!("{does} a part of the requests only, and lets the others pass"),
        false => format!("{does} all requests until somebody sets this runtime key"),
    };
    at.error(Finding::EnvoyFailOpen, message, &format!("remove `{name}`"));
}

/// Where a gRPC service leads: the name of a cluster, or an address.
pub(super) fn cluster(service: &ConfigValue<'_>) -> Option<String> {
    let name = service.at(&["envoy_grpc", "cluster_name"]).or_else(|| service.at(&["google_grpc", "target_uri"]))?;
    name.as_text().map(str::to_owned)
}

fn api_version(item: &ConfigValue<'_>) {
    if !item.is_one_of("transport_api_version", &V3) {
        item.spot("transport_api_version").warn(
            Finding::EnvoyApiVersion,
            "does not speak version 3 of the protocol",
            "set `transport_api_version: V3`",
        );
    }
}

// === impl AuthzFilter ===

impl<'a> AuthzFilter<'a> {
    pub(super) fn of(item: &ConfigValue<'a>) -> Option<Self> {
        let cluster = cluster(&item.get("grpc_service")?)?;
        Some(AuthzFilter { item: item.clone(), cluster })
    }

    pub(super) fn check(&self, file: &EnvoyFile<'a>) {
        self.opens(file);
        self.errors();
        api_version(&self.item);
        self.headers();
        if let Some(body) = self.item.get("with_request_body") {
            let message = "holds bodies back until they are there, and tiergate reads of them only how much the call can cost: long prompts wait, or are answered 413";
            body.warn(Finding::EnvoyBodyBuffered, message, "remove `with_request_body`");
        }
        if let Some(at) = self.item.turned_on("clear_route_cache") {
            let message = "chooses the route again after the Check, so that another one than was judged may be taken";
            at.warn(Finding::EnvoyRouteCache, message, "set `clear_route_cache: false`");
        }
    }

    /// What lets requests pass that nobody judged.
    fn opens(&self, file: &EnvoyFile<'a>) {
        let runtime = &file.runtime;
        if let Some(at) = self.item.turned_on("failure_mode_allow") {
            let message = "lets every request pass while tiergate does not answer";
            at.error(Finding::EnvoyFailOpen, message, "set `failure_mode_allow: false`");
        }
        if let Some(at) = self.item.turned_on("shadow_mode") {
            at.error(Finding::EnvoyFailOpen, "lets every request pass that tiergate refuses", "remove `shadow_mode`");
        }
        // Whom it does not ask about it may refuse, for good.
        if self.item.get("deny_at_disable").is_some_and(|flag| runtime.is_on(&flag) && runtime.key(&flag).is_none()) {
            return;
        }
        part(&self.item, "filter_enabled", runtime, "asks tiergate about");
        if let Some(at) =
            self.item.get("filter_enabled_metadata").filter(|metadata| !file.facts.mark_everybody(metadata))
        {
            let message = "asks tiergate about requests with these metadata only, and lets the others pass";
            at.error(Finding::EnvoyFailOpen, message, "remove `filter_enabled_metadata`");
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
        timeout(&service);
        retries(&service);
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

/// How long a Check is waited for. Without a timeout it is 200 ms.
fn timeout(service: &ConfigValue<'_>) {
    let Some((timeout, at)) = service.duration("timeout").zip(service.get("timeout")) else { return };
    let message = match timeout {
        Duration::ZERO => "waits for ever for a tiergate that does not answer",
        timeout if timeout <= DEADLINE => "gives up before tiergate does (150 ms), whose answer says why",
        timeout if timeout > PATIENCE => "makes every request wait this long for a tiergate that does not answer",
        _ => return,
    };
    at.warn(Finding::EnvoyTimeout, message, "set it to 0.25s");
}

/// When a Check is sent again.
fn retries(service: &ConfigValue<'_>) {
    let retries = service.at(&["retry_policy", "retry_on"]);
    let conditions = retries.as_ref().and_then(ConfigValue::as_text).unwrap_or_default().split(',').map(str::trim);
    let unsafe_ones: Vec<&str> = conditions.filter(|name| !name.is_empty() && !UNDECIDED.contains(name)).collect();
    if let Some(at) = retries.filter(|_| !unsafe_ones.is_empty()) {
        let message = format!("sends a Check again that may have taken its limits already: {}", unsafe_ones.join(", "));
        at.warn(Finding::EnvoyCheckRetried, message, &format!("set it to {}", UNDECIDED.join(",")));
    }
}

/// Whether a string matcher matches `authorization`; one that cannot be read is given the benefit of the doubt.
fn fits(matcher: &ConfigValue<'_>) -> bool {
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
    let file = plain.into_iter().find_map(|(name, fits)| Some(fits(NAME, &text(name)?)));
    file.unwrap_or_else(|| {
        let pattern = matcher.at(&["safe_regex", "regex"]).and_then(|item| item.as_text());
        pattern
            .and_then(|text| regex::Regex::new(&format!("^(?:{text})$")).ok())
            .is_none_or(|regex| regex.is_match(NAME))
    })
}

// === impl RateLimitFilter ===

impl<'a> RateLimitFilter<'a> {
    pub(super) fn of(item: &ConfigValue<'a>) -> Self {
        let service = item.at(&["rate_limit_service", "grpc_service"]);
        let cluster = service.and_then(|service| cluster(&service)).unwrap_or_default();
        RateLimitFilter { item: item.clone(), cluster, domain: item.text("domain").unwrap_or_default().to_owned() }
    }

    /// What it is for: whatever the domain is called, what is sent after the answer is a report. In the domain of the limits, what is
    /// sent before is a question, whatever else there is.
    pub(super) fn role(&self) -> FilterRole {
        let is_named = self.domain == REPORT || did_you_mean(&self.domain, [REPORT]).is_some();
        let is_question = self.domain == DOMAIN && is_before(&self.item);
        if is_named || !is_question && is_afterwards(&self.item) { FilterRole::Report } else { FilterRole::Limits }
    }

    pub(super) fn check(&self, file: &EnvoyFile<'a>, beside: Beside) {
        if let Some(service) = self.item.get("rate_limit_service") {
            api_version(&service);
        }
        let asks_some = |name: &str| !matches!(self.item.text(name), None | Some("" | "both"));
        match self.role() {
            FilterRole::Report if beside.token_limits && asks_some("request_type") => {
                let at = self.item.spot("request_type");
                at.warn(Finding::EnvoyReportMissing, "reports a part of the answers only", "remove `request_type`");
            }
            // A report is not waited for, and denies nothing.
            FilterRole::Report => {}
            FilterRole::Check | FilterRole::Limits => self.opens(file, asks_some("request_type")),
        }
    }

    /// Whether another service than Check's is asked about the limits.
    fn leads_elsewhere(&self, file: &EnvoyFile<'a>) {
        let service = self.item.at(&CLUSTER_NAME);
        if let Some(at) = service.filter(|_| self.domain == DOMAIN && !file.is_ours(&self.cluster)) {
            let message = "asks another service than tiergate about the limits: requests pass uncounted";
            at.error(Finding::EnvoyFailOpen, message, "name the cluster of the ext_authz filter");
        }
    }

    /// What lets requests pass that nobody counted.
    fn opens(&self, file: &EnvoyFile<'a>, asks_some: bool) {
        let runtime = &file.runtime;
        let denies = self.item.get("failure_mode_deny_percent");
        if denies.is_none() && !self.item.is_true("failure_mode_deny") {
            let at = self.item.spot("failure_mode_deny");
            let message = "lets every request pass uncounted while tiergate does not answer";
            at.error(Finding::EnvoyFailOpen, message, "set `failure_mode_deny: true`");
        }
        part(&self.item, "failure_mode_deny_percent", runtime, "refuses, while tiergate does not answer,");
        part(&self.item, "filter_enabled", runtime, "asks tiergate about");
        part(&self.item, "filter_enforced", runtime, "enforces what tiergate says about");
        self.leads_elsewhere(file);
        if let Some(at) = self.item.get("request_type").filter(|_| asks_some) {
            let message = "asks tiergate about a part of the requests only, and lets the others pass";
            at.error(Finding::EnvoyFailOpen, message, "remove `request_type`");
        }
        // Without any, each way has to have them.
        if let Some(Err(at)) = self.item.get("rate_limits").as_ref().map(asks_always) {
            unsure(&at);
        }
    }
}
