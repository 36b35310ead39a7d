//! The descriptors of usage reports: whether tiergate can read what a report says.

use std::collections::BTreeSet;

use super::descriptor::{Action, RESERVATION};
use super::entry::Filter;
use super::read::{ConfigValue, configuration};
use super::role::{CLUSTER_NAME, DOMAIN, FilterRole, REPORT};
use super::{Beside, EnvoyFile};
use crate::problem::Finding;
use crate::spelling::did_you_mean;

const USAGE: &str = "tiergate.usage";
const NUMBERS: [&str; 12] = [
    "total",
    "input",
    "output",
    "cached",
    "reasoning",
    "bytes",
    "request_bytes",
    "stream",
    "chunks",
    "ended",
    "status",
    "duration_ms",
];
/// Those of which one is enough.
const TOKENS: [&str; 3] = ["total", "input", "output"];
/// Where Check's answer left the reservation.
const NAMESPACE: &str = "envoy.filters.http.ext_authz";
const PATH: [&str; 2] = ["tiergate", "reservation"];
const UNREAD: Finding = Finding::EnvoyReportUnread;

pub(super) fn check<'a>(file: &EnvoyFile<'a>, filters: &[&Filter<'a>], beside: Beside) {
    let reports: Vec<_> = file.rate_limits.iter().filter(|limit| limit.role() == FilterRole::Report).collect();
    let Some(first) = reports.first() else { return };
    let own = reports.iter().filter_map(|report| report.item.get("rate_limits"));
    let overrides = overrides(file, filters);
    let lists: Vec<ConfigValue<'a>> = own.chain(overrides.iter().filter_map(|own| own.get("rate_limits"))).collect();
    if beside.token_limits && !file.facts.has_limited_routes && !lists.iter().any(carries_tokens) {
        let at = lists.first().unwrap_or(&first.item);
        at.warn(
            Finding::EnvoyReportMissing,
            "reports no tokens",
            "take the `rate_limits` of envoy/report-by-call.yaml",
        );
    }
    for report in &reports {
        domain(&report.item);
        leads(&report.item, file);
    }
    overrides.iter().filter(|own| own.get("domain").is_some()).for_each(domain);
    for limit in lists.iter().flat_map(|list| list.items()) {
        descriptor(&limit, file);
    }
}

/// What Check's answer leaves has to come to the report, whichever way it takes.
pub(super) fn ingestion(file: &EnvoyFile<'_>) {
    for authz in &file.authz {
        let ingests = authz.item.get("enable_dynamic_metadata_ingestion");
        if let Some(at) = ingests.filter(|flag| flag.as_bool() == Some(false)) {
            let message = "drops what Check's answer leaves for the report, so that there is none";
            at.warn(UNREAD, message, "remove `enable_dynamic_metadata_ingestion`");
        }
    }
}

/// What routes have for a filter that reports.
fn overrides<'a>(file: &EnvoyFile<'a>, filters: &[&Filter<'a>]) -> Vec<ConfigValue<'a>> {
    let reports = filters.iter().filter(|filter| file.role(&filter.entry) == Some(FilterRole::Report));
    let names: BTreeSet<&str> = reports.map(|filter| filter.name).collect();
    let settings = file.facts.settings.iter().filter(|(name, _)| names.contains(name));
    settings.filter_map(|(_, setting)| configuration(setting.clone())).collect()
}

/// Whether a list of descriptors tells what an answer cost.
fn carries_tokens(list: &ConfigValue<'_>) -> bool {
    let actions = list.items().into_iter().flat_map(|limit| Action::of(&limit));
    let mut numbers = actions.filter_map(|action| action.item.text("descriptor_value"));
    numbers.any(|name| TOKENS.contains(&name) || did_you_mean(name, TOKENS).is_some())
}

/// A report is settled by whoever made the reservation.
fn leads(item: &ConfigValue<'_>, file: &EnvoyFile<'_>) {
    let at = item.at(&CLUSTER_NAME);
    if let Some(at) = at.filter(|name| !name.as_text().is_some_and(|name| file.is_ours(name))) {
        let message = "leads to another service than Check: tiergate gets no report";
        at.warn(UNREAD, message, "name the cluster of the ext_authz filter");
    }
}

fn domain(item: &ConfigValue<'_>) {
    let domain = item.text("domain").unwrap_or_default();
    if domain == REPORT {
        return;
    }
    let at = item.spot("domain");
    let message = match domain {
        DOMAIN => "is the domain of questions about the limits: tiergate takes no report there".to_owned(),
        _ => format!("`{domain}` is no domain that tiergate serves: every report is refused, and Envoy says nothing"),
    };
    let remedy = match did_you_mean(domain, [REPORT]) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("set `domain: {REPORT}`"),
    };
    at.warn(UNREAD, message, &remedy);
}

/// One descriptor of a report.
fn descriptor(limit: &ConfigValue<'_>, file: &EnvoyFile<'_>) {
    if !limit.is_true("apply_on_stream_done") {
        let at = limit.spot("apply_on_stream_done");
        let message = "is sent before the answer, of which nothing is known yet, and the request waits for it";
        at.warn(UNREAD, message, "set `apply_on_stream_done: true`");
    }
    let actions = Action::of(limit);
    let named = |key: &str| actions.iter().find(|action| action.key() == key);
    match named(RESERVATION) {
        Some(action) => reservation(action),
        None => without_reservation(limit, &actions),
    }
    for action in actions.iter().filter(|action| did_you_mean(action.key(), [USAGE]).is_some()) {
        let at = action.item.spot("descriptor_key");
        let message = format!("`{}` is nothing that tiergate reads, and the number is lost", action.key());
        at.warn(UNREAD, message, &format!("did you mean `{USAGE}`?"));
    }
    if let Some(action) = named(USAGE) {
        usage(limit, action, file);
    }
}

/// A descriptor of which it cannot be told what it reports on.
fn without_reservation(limit: &ConfigValue<'_>, actions: &[Action<'_>]) {
    let meant = actions.iter().find(|action| did_you_mean(action.key(), [RESERVATION]).is_some());
    let message = match meant {
        Some(action) => {
            let key = action.key();
            format!("`{key}` is nothing that tiergate reads, and it refuses a report without `{RESERVATION}`")
        }
        None => format!("has no `{RESERVATION}`, and tiergate refuses a report with such a descriptor"),
    };
    let remedy = match meant {
        Some(_) => format!("did you mean `{RESERVATION}`?"),
        None => "add the metadata action of envoy/report-by-call.yaml to each descriptor".to_owned(),
    };
    let at = meant.and_then(|action| action.item.get("descriptor_key")).unwrap_or_else(|| limit.clone());
    at.warn(UNREAD, message, &remedy);
}

/// A descriptor that carries a number.
fn usage(limit: &ConfigValue<'_>, action: &Action<'_>, file: &EnvoyFile<'_>) {
    let value = action.item.get("descriptor_value");
    let name = value.as_ref().and_then(ConfigValue::as_text).unwrap_or_default();
    if !NUMBERS.contains(&name) && action.kind == "generic_key" {
        let remedy = match did_you_mean(name, NUMBERS) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("name one of {}", NUMBERS.join(", ")),
        };
        let message = format!("`{name}` is no number that tiergate knows, and it is lost");
        value.unwrap_or_else(|| action.item.clone()).warn(UNREAD, message, &remedy);
    }
    let Some(hits) = limit.get("hits_addend") else {
        let message = "carries no number, which counts as 1";
        limit.warn(UNREAD, message, "add `hits_addend`, as in envoy/report-by-call.yaml");
        return;
    };
    if let Some(at) = hits.turned_on("is_negative_hits") {
        at.warn(
            UNREAD,
            "makes tiergate refuse the report: what was held is settled by it",
            "remove `is_negative_hits`",
        );
    }
    match hits.get("format") {
        Some(format) => metadata(&format, file),
        None if TOKENS.contains(&name) => {
            let message = format!("is the same for every answer, whatever its `{name}` is");
            hits.warn(UNREAD, message, "set `format`, as in envoy/report-by-call.yaml");
        }
        None => {}
    }
}

/// A number that is read from what a filter wrote.
fn metadata(format: &ConfigValue<'_>, file: &EnvoyFile<'_>) {
    let read = format.as_text().and_then(|text| text.strip_prefix("%DYNAMIC_METADATA(")?.split_once(")%"));
    let Some((read, _)) = read else { return };
    let facts = &file.facts;
    if facts.written.contains(read) {
        return;
    }
    let remedy = match did_you_mean(read, facts.written.iter().map(String::as_str)) {
        Some(meant) => format!("did you mean `{meant}`?"),
        // A program may write what it likes, and another file may have the filter.
        None if file.managers.is_empty() || facts.runs_programs => return,
        None => "add the filters of envoy/tiergate.yaml that read `usage` from answers".to_owned(),
    };
    let message = format!("`{read}` is metadata that no filter of this file writes, and the number is lost");
    format.warn(UNREAD, message, &remedy);
}

/// Where one filter has descriptors of both kinds: those of a request, and those of its end.
pub(super) fn mixed(file: &EnvoyFile<'_>, filters: &[&Filter<'_>]) {
    let names: BTreeSet<&str> =
        filters.iter().filter(|filter| asks_limits(file, filter)).map(|filter| filter.name).collect();
    let settings = file.facts.settings.iter().filter(|(name, _)| names.contains(name));
    let overrides: Vec<ConfigValue<'_>> = settings.filter_map(|(_, setting)| configuration(setting.clone())).collect();
    let own = file.rate_limits.iter().map(|limit| &limit.item);
    for list in own.chain(&overrides).filter_map(|item| item.get("rate_limits")) {
        let late = list.items().iter().filter(|limit| limit.is_true("apply_on_stream_done")).count();
        if late > 0 && late < list.items().len() {
            let message = "has descriptors of the request and of its end in one filter, which older Envoys do not survive while tiergate is away (CVE-2026-26330)";
            let remedy = "make two filters of it, as envoy/classic.yaml has them: `domain: tiergate`, and `tiergate.report` with `apply_on_stream_done: true`";
            list.error(Finding::EnvoyDescriptorsMixed, message, remedy);
        }
    }
}

fn asks_limits(file: &EnvoyFile<'_>, filter: &Filter<'_>) -> bool {
    matches!(file.role(&filter.entry), Some(FilterRole::Limits | FilterRole::Report))
}

/// It has to be what Check's answer left.
fn reservation(action: &Action<'_>) {
    let path = action.item.at(&["metadata_key", "path"]).map(|path| path.items()).unwrap_or_default();
    let path: Vec<&str> = path.iter().filter_map(|segment| segment.text("key")).collect();
    let namespace = action.item.get("metadata_key").and_then(|key| key.text("key"));
    let is_dynamic = action.item.get("source").is_none() || action.item.is_one_of("source", &[("DYNAMIC", 0)]);
    if namespace != Some(NAMESPACE) || path != PATH || !is_dynamic {
        let at = action.item.spot("metadata_key");
        let message = "is not where Check's answer leaves the reservation: without it there is no report";
        at.warn(
            UNREAD,
            message,
            &format!("set `metadata_key: {{key: {NAMESPACE}, path: [{{key: tiergate}}, {{key: reservation}}]}}`"),
        );
    }
}
