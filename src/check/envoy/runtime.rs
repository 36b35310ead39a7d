//! Runtime keys: what the file itself sets them to, and whether anybody else may.

use super::read::ConfigValue;

/// The layers of a bootstrap.
#[derive(Debug, Default)]
pub(super) struct Runtime<'a> {
    layers: Vec<ConfigValue<'a>>,
    /// Whether there are layers that change while Envoy runs, or could be: a part of a configuration does not tell.
    changes: bool,
}

const DENOMINATORS: [(&str, i64); 3] = [("HUNDRED", 100), ("TEN_THOUSAND", 10_000), ("MILLION", 1_000_000)];

fn is_whole(fraction: &ConfigValue<'_>) -> bool {
    let denominator = DENOMINATORS.iter().find(|one| fraction.is_one_of("denominator", &[**one]));
    // The first is the default of protobuf.
    let whole = denominator.map_or(100, |(_, number)| *number);
    fraction.number("numerator").unwrap_or_default() >= whole
}

/// The value of a key, which may be written as one name or as mappings in each other.
fn value<'a>(layer: &ConfigValue<'a>, key: &str) -> Option<ConfigValue<'a>> {
    let nested = |(name, child): (&str, ConfigValue<'a>)| value(&child, key.strip_prefix(name)?.strip_prefix('.')?);
    layer.entry(key).or_else(|| layer.entries().into_iter().find_map(nested))
}

// === impl Runtime ===

impl<'a> Runtime<'a> {
    pub(super) fn of(documents: &[ConfigValue<'a>]) -> Self {
        let runtimes = documents.iter().filter_map(|document| document.get("layered_runtime"));
        let layers: Vec<_> = runtimes.flat_map(|runtime| runtime.get("layers")).flat_map(|list| list.items()).collect();
        let is_bootstrap = documents.iter().any(|document| document.get("static_resources").is_some());
        let changes = !is_bootstrap || layers.iter().any(|layer| layer.get("static_layer").is_none());
        Runtime { layers: layers.iter().filter_map(|layer| layer.get("static_layer")).collect(), changes }
    }

    fn value(&self, item: &ConfigValue<'a>) -> Option<ConfigValue<'a>> {
        let key = item.text("runtime_key")?;
        self.layers.iter().rev().find_map(|layer| value(layer, key))
    }

    /// The key of a value, if somebody may set it while Envoy runs.
    pub(super) fn key(&self, item: &ConfigValue<'a>) -> Option<ConfigValue<'a>> {
        item.get("runtime_key").filter(|_| self.changes)
    }

    /// What makes a part of a RuntimeFractionalPercent, and whether it does so now or could later.
    pub(super) fn part(&self, item: &ConfigValue<'a>) -> Option<(ConfigValue<'a>, bool)> {
        let set = self.value(item);
        let default = item.get("default_value").is_some_and(|fraction| is_whole(&fraction));
        let is_all =
            set.as_ref().map_or(default, |set| set.as_number().map_or(is_whole(set), |percent| percent >= 100));
        match (is_all, self.key(item)) {
            (false, _) => Some((set.unwrap_or_else(|| item.clone()), true)),
            (true, key) => Some((key?, false)),
        }
    }

    /// Whether a RuntimeFeatureFlag is true now.
    pub(super) fn is_on(&self, item: &ConfigValue<'a>) -> bool {
        let set = self.value(item).and_then(|set| set.as_bool());
        set.unwrap_or_else(|| item.is_true("default_value"))
    }
}
