//! Tiers: which one a caller's groups belong to.
//!
//! The algorithm is maas-api's: every tier has, beside the groups it lists, the group of its own namespace's service
//! accounts; the highest level that shares a group with the caller wins; ties go to the one that stands first.

mod lookup;
mod service;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use hashbrown::HashMap;
use serde_json::{Value, json};

pub use self::service::{Lookup, LookupRequest, TierServices};

use crate::manifest::TierSpec;
use crate::problem::Place;

/// One tier.
#[derive(Debug, PartialEq)]
pub struct Tier {
    pub name: Arc<str>,
    /// Of a service's tiers, which only the service compares: 0.
    pub level: i64,
    /// Where it is written; a service's tiers are nowhere.
    pub place: Option<Place>,
    /// What a lookup answers: `{"tier": …, "displayName": …}`.
    pub answer: Value,
}

/// The tiers of one instance (gateway), by group.
#[derive(Debug, Default)]
pub struct TierTable {
    /// Best first.
    tiers: Vec<Tier>,
    /// The best tier of each group, as an index into `tiers`.
    by_group: HashMap<String, usize>,
    /// What the namespaces of the tiers begin with.
    prefixes: Vec<String>,
}

// === impl Tier ===

impl Tier {
    fn new(name: &str, level: i64, display_name: &str) -> Self {
        let answer = json!({ "tier": name, "displayName": display_name });
        Tier { name: name.into(), level, place: None, answer }
    }
}

// === impl TierTable ===

impl TierTable {
    /// Builds the table of `specs` for `instances`, whose `<instance>-tier-<tier>` namespaces belong to the tiers.
    #[must_use]
    pub fn new<'i>(specs: &[TierSpec], instances: impl IntoIterator<Item = &'i str> + Clone) -> Self {
        let mut order: Vec<&TierSpec> = specs.iter().collect();
        // Stable: ties keep the order of the file.
        order.sort_by_key(|spec| std::cmp::Reverse(spec.level));
        let prefixes = instances.clone().into_iter().map(namespace_prefix).collect();
        let mut table = TierTable { prefixes, ..TierTable::default() };
        for (index, spec) in order.into_iter().enumerate() {
            let own = instances.clone().into_iter().map(|instance| service_account_group(instance, &spec.name));
            for group in spec.groups.iter().cloned().chain(own) {
                table.by_group.entry(group).or_insert(index);
            }
            let display_name = spec.display_name.as_ref().unwrap_or(&spec.name);
            let tier = Tier::new(&spec.name, spec.level, display_name);
            table.tiers.push(Tier { place: Some(spec.place.clone()), ..tier });
        }
        table
    }

    /// The tier of a caller in `groups`.
    #[must_use]
    pub fn of<'g>(&self, groups: impl IntoIterator<Item = &'g str>) -> Option<&Tier> {
        let best = groups.into_iter().filter_map(|group| self.by_group.get(group)).min()?;
        self.tiers.get(*best)
    }

    /// The tier that `namespace` belongs to by its name, and that is not in the table: it was removed, or renamed, while
    /// there are users of it.
    #[must_use]
    pub fn gone<'n>(&self, namespace: &'n str) -> Option<&'n str> {
        let named = || self.prefixes.iter().filter_map(|prefix| namespace.strip_prefix(prefix.as_str()));
        // One instance's name may begin with another's.
        let known = named().any(|name| self.tiers.iter().any(|tier| *tier.name == *name));
        if known { None } else { named().find(|name| !name.is_empty()) }
    }

    /// The first of `groups` that gives the tier `name`.
    #[must_use]
    pub fn giving<'g>(&self, name: &str, groups: impl IntoIterator<Item = &'g str>) -> Option<&'g str> {
        let is_it = |at: &usize| self.tiers.get(*at).is_some_and(|tier| *tier.name == *name);
        let mut groups = groups.into_iter();
        groups.find(|group| self.by_group.get(*group).is_some_and(is_it))
    }

    /// The groups that give the tier `name`, in the order of the alphabet.
    #[must_use]
    pub fn groups(&self, name: &str) -> Vec<&str> {
        let groups =
            self.by_group.iter().filter(|(_, at)| self.tiers.get(**at).is_some_and(|tier| *tier.name == *name));
        let mut groups: Vec<_> = groups.map(|(group, _)| group.as_str()).collect();
        groups.sort_unstable();
        groups
    }

    /// All tiers, best first.
    #[must_use]
    pub fn tiers(&self) -> &[Tier] {
        &self.tiers
    }
}

/// The group of all service accounts in a tier's namespace.
#[must_use]
pub fn service_account_group(instance: &str, tier: &str) -> String {
    format!("system:serviceaccounts:{}{tier}", namespace_prefix(instance))
}

/// What the namespaces of an instance's tiers begin with.
fn namespace_prefix(instance: &str) -> String {
    format!("{instance}-tier-")
}
