//! What is told when a part of a limit is used: a metric, and a line of the log.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;

use super::metrics::{OTHER, policy_and_limit};
use crate::family::{Family, Registry, register};
use crate::limit::{Notify, Standing, Step};
use crate::printable::masked;
use crate::rules::LimitKind;
use crate::throttle::Throttle;

/// A rate of a limit of which parts are reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reached {
    /// `namespace/policy/limit`
    pub limit: Arc<str>,
    pub kind: LimitKind,
    /// The parts, in percent and rising order; never empty.
    pub percents: Vec<u8>,
    /// Where the rate stands then.
    pub standing: Standing,
    /// The values that it counts under, as far as they are known.
    pub key: Vec<String>,
    /// Whether it refuses nobody.
    pub shadow: bool,
}

/// Whose request it was that a part was reached by; what is not known is empty.
#[derive(Clone, Copy, Debug, Default)]
pub struct Caller<'a> {
    pub user: &'a str,
    pub tier: &'a str,
    pub model: &'a str,
}

/// Counts and tells what is reached. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Notices {
    family: Family<ReachedLabels, Counter>,
    /// Of those limits that have series of their own.
    named: Arc<ArcSwap<Named>>,
    /// Of all others together.
    others: Arc<Mutex<Throttle>>,
}

/// Limits by their kinds and names, each with the parts that are told and how often they are.
type Named = HashMap<LimitId, HashMap<u8, Arc<Mutex<Throttle>>>>;
type LimitId = (LimitKind, Arc<str>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct ReachedLabels {
    kind: &'static str,
    limit: Arc<str>,
    percent: u64,
    policy: Arc<str>,
}

// === impl Reached ===

impl Reached {
    /// What a rate has come to that stands there, and had used `before`; `None` if that is no part of `notify`.
    pub(crate) fn by(
        notify: &Notify,
        limit: &Arc<str>,
        kind: LimitKind,
        before: u64,
        standing: Standing,
    ) -> Option<Self> {
        let step = Step { before, after: standing.used(), limit: standing.limit() };
        let percents: Vec<u8> = notify.reached(step).collect();
        (!percents.is_empty()).then(|| Reached {
            limit: Arc::clone(limit),
            kind,
            percents,
            standing,
            key: Vec::new(),
            shadow: false,
        })
    }

    fn line(&self, caller: Caller<'_>, events: u64) {
        let known = |text: &str| (!text.is_empty()).then(|| masked(text).into_owned());
        let key = self.key.iter().map(|value| masked(value)).collect::<Vec<_>>().join(", ");
        tracing::info!(
            target: "tiergate::limit",
            limit = &*masked(&self.limit),
            kind = kind(self.kind),
            percent = self.percents.last(),
            used = self.standing.used(),
            of = self.standing.limit(),
            reset_seconds = self.standing.reset().as_secs_f64().ceil(),
            counter = (!key.is_empty()).then_some(key),
            user.name = known(caller.user),
            tier = known(caller.tier),
            model = known(caller.model),
            shadow = self.shadow.then_some(true),
            events,
            "usage has reached a part of a limit"
        );
    }
}

// === impl Notices ===

impl Notices {
    pub(super) fn register(&self, registry: &mut Registry) {
        register(registry, "tiergate_limit_reached", self.family.clone());
    }

    /// Counts each part that is reached, and tells the largest: each part of each limit once a second, though many accounts reach it.
    pub(super) fn tell(&self, reached: &Reached, caller: Caller<'_>) {
        let named = self.named.load();
        let parts = named.get(&(reached.kind, Arc::clone(&reached.limit)));
        let name = if parts.is_some() { &*reached.limit } else { OTHER };
        for percent in &reached.percents {
            self.counter(reached.kind, name, *percent).inc();
        }
        let of_largest = parts.zip(reached.percents.last()).and_then(|(parts, percent)| parts.get(percent));
        if let Some(events) = of_largest.unwrap_or(&self.others).lock().count(Instant::now()) {
            reached.line(caller, events);
        }
    }

    /// Takes what a snapshot names: its limits have series, those with parts from now on; what is gone has none.
    pub(super) fn published(&self, watched: &[(LimitKind, Arc<str>, Arc<Notify>)]) {
        let before = self.named.load();
        let mut named = Named::new();
        for (kind, limit, notify) in watched {
            let id = (*kind, Arc::clone(limit));
            // A part that was told a moment ago is not told again because of a new policy.
            let known = |percent| before.get(&id).and_then(|parts| parts.get(&percent)).cloned().unwrap_or_default();
            let parts: Vec<_> = notify.percents().map(|percent| (percent, known(percent))).collect();
            named.entry(id).or_default().extend(parts);
        }
        self.family.retain(|labels| {
            let of = |kind| named.contains_key(&(kind, format!("{}/{}", labels.policy, labels.limit).into()));
            labels.policy.is_empty()
                || of(if labels.kind == "tokens" { LimitKind::Tokens } else { LimitKind::Requests })
        });
        for (kind, limit, notify) in watched {
            // Counters are there from the start, so that a rate over them has a beginning.
            notify.percents().for_each(|percent| drop(self.counter(*kind, limit, percent)));
        }
        self.named.store(Arc::new(named));
    }

    fn counter(&self, of: LimitKind, name: &str, percent: u8) -> Counter {
        let (policy, limit) = policy_and_limit(name);
        let percent = percent.into();
        self.family.get(&ReachedLabels { kind: kind(of), limit: limit.into(), percent, policy: policy.into() })
    }
}

fn kind(kind: LimitKind) -> &'static str {
    match kind {
        LimitKind::Requests => "requests",
        LimitKind::Tokens => "tokens",
    }
}
