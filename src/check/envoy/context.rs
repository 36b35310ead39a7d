//! What routes tell tiergate beside the request: `context_extensions`.

use std::collections::BTreeSet;

use super::EnvoyFile;
use super::entry::Filter;
use super::read::{ConfigValue, configuration, is_type};
use super::role::FilterRole;
use crate::problem::Finding;
use crate::spelling::did_you_mean;

/// What tiergate reads.
const READ: [&str; 3] = ["gateway", "listener", "model"];

pub(super) fn check<'a>(file: &EnvoyFile<'a>, filters: &[&Filter<'a>]) {
    let checks = filters.iter().filter(|filter| file.role(&filter.entry) == Some(FilterRole::Check));
    let names: BTreeSet<&str> = checks.map(|filter| filter.name).collect();
    let chains = file.managers.iter().flat_map(super::manager::chains);
    let all: BTreeSet<&str> = chains.flat_map(|chain| chain.filters).map(|filter| filter.name).collect();
    for (name, setting) in file.facts.settings.iter().cloned() {
        let Some(own) = configuration(setting).filter(|own| is_type(own, ".ExtAuthzPerRoute")) else { continue };
        if names.is_empty() || names.contains(name) {
            own.at(&["check_settings", "context_extensions"]).iter().for_each(extensions);
        } else if !file.managers.is_empty() && !all.contains(name) {
            let message = format!("has no effect: no filter of this file is called `{name}`");
            let remedy =
                format!("name it like the filter: `{}`", names.iter().copied().collect::<Vec<_>>().join("`, `"));
            own.warn(Finding::EnvoyContextUnread, message, &remedy);
        }
    }
}

fn extensions(extensions: &ConfigValue<'_>) {
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
