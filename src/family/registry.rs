//! Which families are on the page.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text;
use prometheus_client::registry::{self, Metric};

use super::Description;

/// The families on the page: prometheus-client's registry, where each has the unit and the meaning that it is described with.
/// The descriptions are given to it, since only who makes the page knows those of all modules.
#[derive(Debug)]
pub(crate) struct Registry {
    registered: registry::Registry,
    descriptions: &'static [Description],
}

/// Puts `metric` onto the page, under the name of a description.
pub(crate) fn register(registry: &mut Registry, name: &'static str, metric: impl Metric) {
    let described = registry.descriptions.iter().find(|family| family.name == name);
    let (meaning, (name, unit)) = described.map_or(("", (name, None)), |found| (found.meaning, found.parts()));
    match unit {
        Some(unit) => registry.registered.register_with_unit(name, meaning, unit, metric),
        None => registry.registered.register(name, meaning, metric),
    }
}

// === impl Registry ===

impl Registry {
    /// An empty page, for families that are among these.
    pub(crate) fn new(descriptions: &'static [Description]) -> Self {
        Registry { registered: registry::Registry::default(), descriptions }
    }

    /// Has `collector` tell its families whenever the page is written.
    pub(crate) fn register_collector(&mut self, collector: Box<dyn Collector>) {
        self.registered.register_collector(collector);
    }

    /// The page as OpenMetrics has it.
    pub(crate) fn encode(&self, page: &mut String) -> fmt::Result {
        text::encode(page, &self.registered)
    }
}
