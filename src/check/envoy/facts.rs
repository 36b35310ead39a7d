//! What is so anywhere in a file, looked for once.

use std::collections::BTreeSet;

use super::read::{ConfigValue, is_type, type_of};
use super::route::SETTINGS;

/// What filters and routes of a file have.
#[derive(Debug, Default)]
pub(super) struct FilterFacts<'a> {
    /// Every setting that routes have for filters, by the filter's name.
    pub(super) settings: Vec<(&'a str, ConfigValue<'a>)>,
    /// The metadata that filters write: `namespace:key`.
    pub(super) written: BTreeSet<String>,
    /// Whether there is a filter that writes what its program says.
    pub(super) runs_programs: bool,
    /// Whether Envoy's own filter reads usage.
    has_ai_protocol_manager: bool,
    /// Whether routes have descriptors of their own.
    pub(super) has_limited_routes: bool,
    /// Whether an RBAC filter marks every request.
    marks_everybody: bool,
}

const PROGRAMS: [&str; 6] = [".lua.", ".wasm.", ".ext_proc.", ".golang.", ".dynamic_modules.", ".set_metadata."];

/// Whether a permission or principal of RBAC is every one.
fn matches_all(rule: &ConfigValue<'_>) -> bool {
    let all = [["and_rules", "rules"], ["and_ids", "ids"]].iter().find_map(|path| rule.at(path));
    rule.is_true("any") || all.is_some_and(|list| list.items().iter().all(matches_all))
}

/// Whether an RBAC filter has a policy in shadow that is for every request.
fn marks_everybody(filter: &ConfigValue<'_>) -> bool {
    let is_any =
        |policy: &ConfigValue<'_>, name| policy.get(name).is_some_and(|list| list.items().iter().any(matches_all));
    let policies = filter.at(&["shadow_rules", "policies"]).map(|policies| policies.children()).unwrap_or_default();
    policies.iter().any(|policy| is_any(policy, "permissions") && is_any(policy, "principals"))
}

// === impl FilterFacts ===

impl<'a> FilterFacts<'a> {
    /// Takes over what one value says, without those in it.
    pub(super) fn note(&mut self, item: &ConfigValue<'a>) {
        self.settings.extend(item.get(SETTINGS).iter().flat_map(ConfigValue::entries));
        if let Some((namespace, key)) = item.text("metadata_namespace").zip(item.text("key")) {
            self.written.insert([namespace, ":", key].concat());
        }
        self.runs_programs |= type_of(item).is_some_and(|name| PROGRAMS.iter().any(|part| name.contains(part)));
        self.has_ai_protocol_manager |= type_of(item).is_some_and(|name| name.contains(".ai_protocol_manager."));
        let is_route = || item.get("cluster").is_some() || item.get("domains").is_some();
        self.has_limited_routes |= item.get("rate_limits").is_some() && is_route();
        self.marks_everybody |= is_type(item, ".filters.http.rbac.v3.RBAC") && marks_everybody(item);
    }

    /// Whether a filter reads usage from answers, or a program may.
    pub(super) fn reads_usage(&self) -> bool {
        let reads = |key: &String| key.starts_with("tiergate.usage:");
        self.runs_programs || self.has_ai_protocol_manager || self.written.iter().any(reads)
    }

    /// Whether metadata are those of an RBAC filter that marks every request: so Istio turns Check on, by a policy of action CUSTOM.
    pub(super) fn mark_everybody(&self, metadata: &ConfigValue<'a>) -> bool {
        metadata.text("filter") == Some("envoy.filters.http.rbac") && self.marks_everybody
    }
}
