//! Chains of HTTP filters: which of them ask tiergate, and for whose requests they do not.

use std::collections::HashSet;

use super::entry::Filter;
use super::matcher::{self, Gap};
use super::off::{Disabled, Off};
use super::read::{Address, ConfigValue};
use super::role::{FilterRole, ROLES};
use super::route::Way;
use super::{Beside, EnvoyFile};
use crate::problem::Finding;

/// The filters of a connection manager or of one of its upgrades, in their order; or one that stands alone.
#[derive(Clone, Debug)]
pub(super) struct Chain<'a> {
    pub(super) filters: Vec<Filter<'a>>,
}

// === impl Chain ===

impl<'a> Chain<'a> {
    pub(super) fn of(list: &ConfigValue<'a>) -> Self {
        Chain { filters: list.items().into_iter().map(Filter::of).collect() }
    }

    pub(super) fn alone(entry: &ConfigValue<'a>) -> Self {
        Chain { filters: vec![Filter::of(entry.clone())] }
    }

    /// What its filters ask tiergate.
    pub(super) fn roles(&self, file: &EnvoyFile<'a>) -> Vec<FilterRole> {
        self.filters.iter().filter_map(|filter| file.role(&filter.entry)).collect()
    }

    /// Whether a way has settings for any of its filters.
    pub(super) fn is_named_by(&self, way: &Way<'a>) -> bool {
        self.filters.iter().any(|filter| way.names(filter.name))
    }

    /// What its filters that ask tiergate do not see.
    pub(super) fn check(&self, ways: &[Way<'a>], file: &EnvoyFile<'a>, beside: Beside) {
        for filter in &self.filters {
            check_entry(filter, file, beside);
        }
        for role in ROLES {
            let has_role = |filter: &&Filter<'a>| file.role(&filter.entry) == Some(role);
            let filters: Vec<&Filter<'a>> = self.filters.iter().filter(has_role).collect();
            let mut told: HashSet<Address> = HashSet::new();
            let off_on_ways = ways.iter().filter_map(|way| all_off(&filters, |filter| way.off(filter, file)));
            let without = |filter: &Filter<'a>| {
                let at = filter.without_descriptors().filter(|_| role == FilterRole::Limits)?;
                Some(Off { at, how: Disabled::Unsure })
            };
            let off_anywhere = || all_off(&filters, |filter| filter.off(None).or_else(|| without(filter)));
            let all = off_on_ways.chain(ways.is_empty().then(off_anywhere).flatten());
            for off in all.filter(|off| told.insert(off.at.address())) {
                off.tell(role, beside);
            }
        }
    }
}

/// What turns off the last of several filters that ask the same: while one of them is on, requests are judged.
fn all_off<'a>(filters: &[&Filter<'a>], off: impl Fn(&Filter<'a>) -> Option<Off<'a>>) -> Option<Off<'a>> {
    let all: Vec<Off<'a>> = filters.iter().map(|filter| off(filter)).collect::<Option<_>>()?;
    let said = all.iter().find(|off| !matches!(off.how, Disabled::Unless(_)));
    said.or(all.first()).cloned()
}

/// What one filter that asks tiergate leaves out by itself.
fn check_entry<'a>(filter: &Filter<'a>, file: &EnvoyFile<'a>, beside: Beside) {
    let Some(role) = file.role(&filter.entry) else { return };
    if let (Some(at), true) = (filter.entry.turned_on("is_optional"), role != FilterRole::Report) {
        let message = "lets an Envoy that does not know the filter leave it out without a word";
        at.error(Finding::EnvoyFailOpen, message, "remove `is_optional`");
    }
    let gap = filter
        .entry
        .get("typed_config")
        .and_then(|configuration| matcher::gap(&configuration, &|item| file.role(item).is_some()));
    if let Some(Gap::Skip(at) | Gap::Matched(at)) = gap {
        Off { at, how: Disabled::Matched }.tell(role, beside);
    }
}
