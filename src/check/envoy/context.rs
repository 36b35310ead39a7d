//! What routes tell tiergate beside the request: `context_extensions`.

use super::Found;
use super::chain::{Filter, Role};
use super::read::{Item, is_type};
use super::route::configuration;
use crate::manifest::{Finding, did_you_mean};

/// What tiergate reads.
const READ: [&str; 3] = ["gateway", "listener", "model"];

pub(super) fn check<'a>(found: &Found<'a>, filters: &[&Filter<'a>]) {
    let checks = filters.iter().filter(|filter| found.role(&filter.entry) == Some(Role::Check));
    let names: Vec<&str> = checks.map(|filter| filter.name).collect();
    for (name, setting) in found.documents.iter().flat_map(Item::settings) {
        let Some(own) = configuration(setting).filter(|own| is_type(own, ".ExtAuthzPerRoute")) else { continue };
        if names.is_empty() || names.contains(&name) {
            own.at(&["check_settings", "context_extensions"]).iter().for_each(extensions);
        } else if !found.managers.is_empty() && !is_filter(name, found) {
            let message = format!("has no effect: no filter of this file is called `{name}`");
            let remedy = format!("name it like the filter: `{}`", names.join("`, `"));
            own.warn(Finding::EnvoyContextUnread, message, &remedy);
        }
    }
}

/// Whether a filter of any connection manager has this name.
fn is_filter(name: &str, found: &Found<'_>) -> bool {
    let chains = found.managers.iter().flat_map(super::manager::chains);
    chains.flat_map(|chain| chain.filters).any(|filter| filter.name == name)
}

fn extensions(extensions: &Item<'_>) {
    for (key, at) in extensions.entries().into_iter().filter(|(key, _)| !READ.contains(key)) {
        let message = match key {
            "host" => "`host` is what Authorino finds its configuration by; tiergate does not read it, and goes by the request's".into(),
            _ => format!("`{key}` is not read by tiergate"),
        };
        let remedy = match did_you_mean(key, READ) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("remove it; tiergate reads {}", READ.join(", ")),
        };
        at.warn(Finding::EnvoyContextUnread, message, &remedy);
    }
}
