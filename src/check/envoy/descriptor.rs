//! The descriptors of rate-limit calls: what they are made of, and whether a question is always asked.

use super::read::ConfigValue;
use crate::problem::Finding;

/// The key of the entry that carries the reservation.
pub(super) const RESERVATION: &str = "tiergate.reservation";

/// One action of a descriptor.
pub(super) struct Action<'a> {
    pub(super) item: ConfigValue<'a>,
    pub(super) kind: &'a str,
}

/// The descriptors of a filter, or of a route's configuration of one.
fn limits<'a>(item: &ConfigValue<'a>) -> Vec<ConfigValue<'a>> {
    item.list("rate_limits")
}

/// Whether a filter asks something before the answer.
pub(super) fn is_before(filter: &ConfigValue<'_>) -> bool {
    limits(filter).iter().any(|limit| !limit.is_true("apply_on_stream_done"))
}

/// Whether a filter carries a reservation.
fn has_reservation(filter: &ConfigValue<'_>) -> bool {
    limits(filter).iter().flat_map(Action::of).any(|action| action.key() == RESERVATION)
}

/// Whether a filter carries a reservation, or sends everything when the answer is over.
pub(super) fn is_afterwards(filter: &ConfigValue<'_>) -> bool {
    let limits = limits(filter);
    let is_late = !limits.is_empty() && limits.iter().all(|limit| limit.is_true("apply_on_stream_done"));
    is_late || has_reservation(filter)
}

/// Whether every request makes one of these descriptors, with all values, before it goes on; else where that is not so.
pub(super) fn asks_always<'a>(limits: &ConfigValue<'a>) -> Result<(), ConfigValue<'a>> {
    let is_question = |limit: &ConfigValue<'_>| !limit.is_true("apply_on_stream_done");
    let is_sure = |limit: &ConfigValue<'a>| {
        let actions = Action::of(limit);
        is_question(limit) && !actions.is_empty() && actions.iter().all(Action::is_sure)
    };
    if limits.items().iter().any(is_sure) { Ok(()) } else { Err(limits.clone()) }
}

/// Descriptors, or a filter without any, of which a request may make none.
pub(super) fn unsure(at: &ConfigValue<'_>) {
    let message = "has no descriptor that every request makes: one that lacks a value is dropped, and without any the request passes";
    let remedy = "add `{actions: [{generic_key: {descriptor_key: tiergate.call, descriptor_value: limits}}]}`, as envoy/classic.yaml has it";
    at.error(Finding::EnvoyFailOpen, message, remedy);
}

// === impl Action ===

impl<'a> Action<'a> {
    pub(super) fn of(limit: &ConfigValue<'a>) -> Vec<Self> {
        let actions = limit.list("actions");
        let kinds = actions.iter().filter_map(|action| action.entries().into_iter().next());
        kinds.map(|(kind, item)| Action { item, kind }).collect()
    }

    pub(super) fn key(&self) -> &'a str {
        self.item.text("descriptor_key").unwrap_or_default()
    }

    /// Whether it has a value, or can do without, whatever the request is like.
    fn is_sure(&self) -> bool {
        let is_pseudo = self.item.text("header_name").is_some_and(|name| name.starts_with(':'));
        let is_always = matches!(self.kind, "generic_key" | "genericKey" | "remote_address" | "remoteAddress");
        is_always || is_pseudo || self.item.get("default_value").is_some() || self.item.is_true("skip_if_absent")
    }
}
