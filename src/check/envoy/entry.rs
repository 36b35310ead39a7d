//! An entry of a chain of HTTP filters.

use super::off::{Disabled, Off};
use super::read::{ConfigValue, is_type, type_of};

/// An entry of a chain.
#[derive(Clone, Debug)]
pub(super) struct Filter<'a> {
    pub(super) entry: ConfigValue<'a>,
    /// What routes know it by.
    pub(super) name: &'a str,
}

/// Whether it is an entry of a chain of HTTP filters.
pub(super) fn is_filter(item: &ConfigValue<'_>) -> bool {
    let configuration = item.get("typed_config");
    let name = configuration.as_ref().and_then(type_of).unwrap_or_default();
    name.contains(".filters.http.") || name.ends_with(".ExtensionWithMatcher")
}

// === impl Filter ===

impl<'a> Filter<'a> {
    pub(super) fn of(entry: ConfigValue<'a>) -> Self {
        Filter { name: entry.text("name").unwrap_or_default(), entry }
    }

    /// Whether it is off where no route says anything, such as this one.
    pub(super) fn off(&self, route: Option<&'a str>) -> Option<Off<'a>> {
        Some(Off { at: self.entry.turned_on("disabled")?, how: Disabled::Unless(route) })
    }

    /// The configuration of a ratelimit filter that leaves its descriptors to the routes.
    pub(super) fn without_descriptors(&self) -> Option<ConfigValue<'a>> {
        let all = self.entry.find(&|item| is_type(item, ".filters.http.ratelimit.v3.RateLimit"));
        all.into_iter().find(|item| item.get("rate_limits").is_none())
    }
}
