//! That a filter is off, where it says so and for whom.

use super::Beside;
use super::descriptor::unsure;
use super::read::ConfigValue;
use super::role::FilterRole;
use crate::problem::Finding;

/// That a filter is off, and where that stands.
#[derive(Clone, Debug)]
pub(super) struct Off<'a> {
    pub(super) at: ConfigValue<'a>,
    pub(super) how: Disabled<'a>,
}

/// In which way a filter is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Disabled<'a> {
    /// Where no route turns it on, such as the one of this name.
    Unless(Option<&'a str>),
    /// For the requests of this part of the routes.
    Of(&'static str),
    /// For what a matcher says.
    Matched,
    /// Somebody else is asked about this part of the routes.
    Elsewhere(&'static str),
    /// For requests that lack a value of each descriptor.
    Dropped,
    /// For all, or for those: neither the filter nor the route has descriptors, or these are all.
    Unsure,
}

// === impl Off ===

impl Off<'_> {
    /// Says it. A report that is off opens nothing, and matters where there are token limits.
    pub(super) fn tell(&self, role: FilterRole, beside: Beside) {
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
