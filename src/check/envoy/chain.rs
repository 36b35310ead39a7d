//! Chains of HTTP filters: which of them ask tiergate, and for whose requests they do not.

use std::collections::HashSet;

use super::filter::unsure;
use super::matcher::{self, Gap};
use super::read::{Address, ConfigValue, is_type, type_of};
use super::route::{Disabled, Off, Way};
use super::{Beside, EnvoyFile};
use crate::problem::Finding;

/// The filters of a connection manager or of one of its upgrades, in their order; or one that stands alone.
#[derive(Clone, Debug)]
pub(super) struct Chain<'a> {
    pub(super) filters: Vec<Filter<'a>>,
}

/// An entry of a chain.
#[derive(Clone, Debug)]
pub(super) struct Filter<'a> {
    pub(super) entry: ConfigValue<'a>,
    /// What routes know it by.
    pub(super) name: &'a str,
}

/// What a filter asks tiergate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FilterRole {
    Check,
    /// Whether the limits let a request through.
    Limits,
    Report,
}

const ROLES: [FilterRole; 3] = [FilterRole::Check, FilterRole::Limits, FilterRole::Report];

/// Whether it is an entry of a chain of HTTP filters.
pub(super) fn is_filter(item: &ConfigValue<'_>) -> bool {
    let configuration = item.get("typed_config");
    let name = configuration.as_ref().and_then(type_of).unwrap_or_default();
    name.contains(".filters.http.") || name.ends_with(".ExtensionWithMatcher")
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
            filter.check(file, beside);
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

// === impl Filter ===

impl<'a> Filter<'a> {
    fn of(entry: ConfigValue<'a>) -> Self {
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

    fn check(&self, file: &EnvoyFile<'a>, beside: Beside) {
        let Some(role) = file.role(&self.entry) else { return };
        if let (Some(at), true) = (self.entry.turned_on("is_optional"), role != FilterRole::Report) {
            let message = "lets an Envoy that does not know the filter leave it out without a word";
            at.error(Finding::EnvoyFailOpen, message, "remove `is_optional`");
        }
        let gap = self
            .entry
            .get("typed_config")
            .and_then(|configuration| matcher::gap(&configuration, &|item| file.role(item).is_some()));
        if let Some(Gap::Skip(at) | Gap::Matched(at)) = gap {
            Off { at, how: Disabled::Matched }.tell(role, beside);
        }
    }
}

// === impl Off ===

impl Off<'_> {
    /// Says it. A report that is off opens nothing, and matters where there are token limits.
    fn tell(&self, role: FilterRole, beside: Beside) {
        let (what, undone) = match role {
            FilterRole::Check => ("the Check", "pass unjudged"),
            FilterRole::Limits => ("the limits", "pass uncounted"),
            FilterRole::Report => ("the report", "are never charged for their tokens"),
        };
        let (message, remedy) = match self.how {
            Disabled::Unless(route) => {
                let such = route.map(|name| format!(", such as `{name}`")).unwrap_or_default();
                (format!("turns {what} off: requests {undone} where no route turns it on{such}"), "remove `disabled`")
            }
            Disabled::Of(scope) => (
                format!("turns {what} off for this {scope}: its requests {undone}"),
                "remove it; what is no model can have a listener of its own, without the filter",
            ),
            Disabled::Matched => (
                format!("keeps {what} from some requests, and they {undone}"),
                "put the filter into the chain by itself, without a matcher",
            ),
            Disabled::Elsewhere(scope) => (
                format!("asks somebody else than tiergate about this {scope}: its requests {undone}"),
                "remove the service, or let it lead to tiergate",
            ),
            Disabled::Dropped => (
                format!("takes the place of the descriptors, and requests that lack a value of each of these {undone}"),
                "remove `rate_limits` here",
            ),
            Disabled::Unsure => return unsure(&self.at),
        };
        match role {
            FilterRole::Check | FilterRole::Limits => self.at.error(Finding::EnvoyFailOpen, message, remedy),
            FilterRole::Report if beside.token_limits => self.at.warn(Finding::EnvoyReportMissing, message, remedy),
            FilterRole::Report => {}
        }
    }
}
