//! An HTTP connection manager whose requests tiergate judges.

use std::time::Duration;

use super::chain::Chain;
use super::read::{ConfigValue, is_type};
use super::role::FilterRole;
use super::{Beside, EnvoyFile, access_log};
use crate::problem::Finding;

const REWRITES: [(&str, i64); 2] = [("UNESCAPE_AND_REDIRECT", 3), ("UNESCAPE_AND_FORWARD", 4)];

/// Filters that send requests to a model.
const ROUTERS: [&str; 2] = [".filters.http.router.v3.Router", ".filters.http.mcp_router.v3.McpRouter"];

/// Its chain of filters, and those of its upgrades.
pub(super) fn chains<'a>(manager: &ConfigValue<'a>) -> Vec<Chain<'a>> {
    let own = manager.get("http_filters").into_iter();
    let upgrades = upgrades(manager);
    let of_upgrades = upgrades.iter().filter_map(|upgrade| upgrade.get("filters"));
    own.chain(of_upgrades).map(|list| Chain::of(&list)).collect()
}

pub(super) fn upgrades<'a>(manager: &ConfigValue<'a>) -> Vec<ConfigValue<'a>> {
    manager.list("upgrade_configs")
}

/// The name of routes that it is told while Envoy runs.
pub(super) fn routes_by_name<'a>(manager: &ConfigValue<'a>) -> Option<&'a str> {
    manager.get("rds")?.text("route_config_name")
}

pub(super) fn check(manager: &ConfigValue<'_>, file: &EnvoyFile<'_>, beside: Beside) {
    path(manager);
    timeouts(manager, file);
    if let Some(routes) = manager.get("route_config") {
        hits_addend(&routes);
    }
    let asking = chains(manager).into_iter().filter(|chain| chain.roles(file).contains(&FilterRole::Check));
    asking.for_each(|chain| order(&chain, file));
    let Some(chain) = manager.get("http_filters").map(|list| Chain::of(&list)) else { return };
    let is_reported = chain.roles(file).contains(&FilterRole::Report) || !access_log::logs(manager, file).is_empty();
    if beside.token_limits && !is_reported {
        let message = "reports no usage, so that token limits never fill";
        let remedy = "add the access log of envoy/tiergate.yaml, or the ratelimit filter of envoy/report-by-call.yaml, with `domain: tiergate.report`";
        manager.warn(Finding::EnvoyReportMissing, message, remedy);
    }
}

/// Whoever says nothing is not waited for.
fn timeouts(manager: &ConfigValue<'_>, file: &EnvoyFile<'_>) {
    if is_never(manager, "request_timeout") {
        let message = "waits for ever for a request that does not end";
        manager.spot("request_timeout").warn(Finding::EnvoyRequestTimeout, message, "set `request_timeout: 60s`");
    }
    idle_connections(manager);
    idle_requests(manager, file);
}

fn is_never(item: &ConfigValue<'_>, name: &str) -> bool {
    item.duration(name).is_none_or(|duration| duration == Duration::ZERO)
}

fn idle_connections(manager: &ConfigValue<'_>) {
    let options = manager.get("common_http_protocol_options");
    let idle = options.as_ref().and_then(|options| options.get("idle_timeout"));
    if options.is_none_or(|options| is_never(&options, "idle_timeout")) {
        let message = if idle.is_some() {
            "keeps connections that nobody uses for ever"
        } else {
            "keeps connections that nobody uses for an hour"
        };
        let at = idle.unwrap_or_else(|| manager.clone());
        at.warn(Finding::EnvoyIdleTimeout, message, "set `common_http_protocol_options: {idle_timeout: 60s}`");
    }
}

fn idle_requests(manager: &ConfigValue<'_>, file: &EnvoyFile<'_>) {
    let message = "keeps a request for ever on which nobody says anything";
    let actions: Vec<_> = file.ways(manager).into_iter().filter_map(|way| way.action).collect();
    let is_set = |name: &str, item: &ConfigValue<'_>| item.get(name).is_some();
    for at in actions.iter().filter(|action| is_set("idle_timeout", action) && is_never(action, "idle_timeout")) {
        at.spot("idle_timeout").warn(Finding::EnvoyIdleTimeout, message, "set `idle_timeout: 600s`");
    }
    let is_inherited = actions.is_empty() || actions.iter().any(|action| !is_set("idle_timeout", action));
    if let Some(at) =
        manager.get("stream_idle_timeout").filter(|_| is_inherited && is_never(manager, "stream_idle_timeout"))
    {
        at.warn(Finding::EnvoyIdleTimeout, message, "remove `stream_idle_timeout: 0s` (the default is 300s)");
    }
}

/// Check, route and model have to see one path.
fn path(manager: &ConfigValue<'_>) {
    if !manager.is_true("normalize_path") {
        let at = manager.spot("normalize_path");
        let message = "does not resolve dot segments, so that the model may see another path than was judged";
        at.warn(Finding::EnvoyPathNotNormalized, message, "set `normalize_path: true`");
    }
    let message = "rewrites the path before tiergate, which refuses what has more than one reading, can see it";
    if manager.is_true("merge_slashes")
        && let Some(at) = manager.get("merge_slashes")
    {
        at.warn(Finding::EnvoyPathRewritten, message, "set `merge_slashes: false`");
    }
    let action = "path_with_escaped_slashes_action";
    if manager.is_one_of(action, &REWRITES)
        && let Some(at) = manager.get(action)
    {
        at.warn(Finding::EnvoyPathRewritten, message, "set `path_with_escaped_slashes_action: KEEP_UNCHANGED`");
    }
}

/// The Check comes first: what comes before it acts on requests that nobody judged.
fn order(chain: &Chain<'_>, file: &EnvoyFile<'_>) {
    let is_check = |entry: &ConfigValue<'_>| file.role(entry) == Some(FilterRole::Check);
    for filter in chain.filters.iter().take_while(|filter| !is_check(&filter.entry)) {
        // Envoy refuses one that stands there by itself, and not one behind a matcher.
        for router in filter.entry.find(&|item| ROUTERS.iter().any(|ending| is_type(item, ending))) {
            let message = "sends requests away before the Check: they pass unjudged";
            router.error(Finding::EnvoyFailOpen, message, "put it behind the ext_authz filter");
        }
        let Some(configuration) = filter.entry.get("typed_config") else { continue };
        if file.role(&filter.entry).is_some() {
            let message = "counts before the Check, of which it knows nothing then";
            configuration.warn(Finding::EnvoyFilterOrder, message, "put it behind the ext_authz filter");
        }
    }
}

/// Envoy reads `hits_addend` on the filter and in `RateLimitPerRoute`, and passes over it on a route.
fn hits_addend(item: &ConfigValue<'_>) {
    for (name, child) in item.entries() {
        match name {
            "typed_per_filter_config" | "typedPerFilterConfig" => continue,
            "rate_limits" | "rateLimits" => {
                for at in child.items().iter().filter_map(|limit| limit.get("hits_addend")) {
                    let message = "is passed over by Envoy on a route: every report counts 1";
                    let remedy = "put `rate_limits` on the ratelimit filter, or into a RateLimitPerRoute of typed_per_filter_config";
                    at.warn(Finding::EnvoyHitsAddendIgnored, message, remedy);
                }
            }
            _ => hits_addend(&child),
        }
    }
    item.items().iter().for_each(hits_addend);
}
