//! An HTTP connection manager whose requests tiergate judges.

use super::filter::REPORT;
use super::read::{Item, type_of};
use super::{Beside, Found};
use crate::manifest::Finding;

const REWRITES: [(&str, i64); 2] = [("UNESCAPE_AND_REDIRECT", 3), ("UNESCAPE_AND_FORWARD", 4)];

/// The configurations of its filters, in their order.
pub(super) fn filters<'a>(manager: &Item<'a>) -> Vec<Item<'a>> {
    let filters = manager.get("http_filters").map(|filters| filters.items()).unwrap_or_default();
    let configured = filters.iter().filter_map(|filter| {
        let configuration = filter.get("typed_config")?;
        // A filter may be wrapped in a matcher.
        Some(configuration.at(&["extension_config", "typed_config"]).unwrap_or(configuration))
    });
    configured.collect()
}

pub(super) fn check(manager: &Item<'_>, found: &Found<'_>, beside: Beside) {
    path(manager);
    order(manager, found);
    if let Some(routes) = manager.get("route_config") {
        hits_addend(&routes);
    }
    let limits = filters(manager);
    let reports =
        found.rate_limits.iter().any(|own| own.domain == REPORT && limits.iter().any(|filter| own.is(filter)));
    if beside.token_limits && !reports {
        let message = "reports no usage, so that token limits never fill";
        let remedy = "add the ratelimit filter of envoy/tiergate.yaml, with `domain: tiergate.report`";
        manager.warn(Finding::EnvoyReportMissing, message, remedy);
    }
}

/// Check, route and model have to see one path.
fn path(manager: &Item<'_>) {
    if !manager.is_true("normalize_path") {
        let at = manager.get("normalize_path").unwrap_or_else(|| manager.clone());
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
fn order(manager: &Item<'_>, found: &Found<'_>) {
    let filters = filters(manager);
    let Some(check) = filters.iter().position(|filter| found.authz.iter().any(|authz| authz.is(filter))) else {
        return;
    };
    for filter in filters.iter().take(check) {
        let is_limit = found.rate_limits.iter().any(|limit| limit.is(filter));
        let is_router = type_of(filter).is_some_and(|name| name.ends_with(".router.v3.Router"));
        let message = match (is_limit, is_router) {
            (true, _) => "counts before the Check, of which it knows nothing then",
            (_, true) => "sends requests away before the Check",
            _ => continue,
        };
        filter.warn(Finding::EnvoyFilterOrder, message, "put it behind the ext_authz filter");
    }
}

/// Envoy reads `hits_addend` on the filter and in `RateLimitPerRoute`, and passes over it on a route.
fn hits_addend(item: &Item<'_>) {
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
