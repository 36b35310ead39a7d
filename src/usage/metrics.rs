//! What is counted of usage reports: what became of them, how late they come, and the tokens that they charge, by channel, tier, model
//! and limit.
//!
//! Series of what a policy names are made when it is published, and dropped when it no longer names them. While reports are
//! taken they are only looked up, and nothing that a report says makes one.

use std::collections::HashSet;
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use hashbrown::HashMap;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use smallvec::SmallVec;

use super::notices::Notices;
use super::{Caller, Channel, Charged, ModelId, Reached, Reservation, Settlement, Usage};
use crate::family::{Family, Registry, register};
use crate::limit::{CellId, Notify};
use crate::rules::LimitKind;

/// Counts usage reports and their tokens. Clones share it.
#[derive(Clone, Debug)]
pub struct UsageMetrics {
    reports: Family<ReportLabels, Counter>,
    corrections: Family<CorrectionLabel, Counter>,
    awaited: Gauge,
    unsettled: Counter,
    delay: Histogram,
    passed: Family<EntryLabel, Counter>,
    channels: Channels,
    tokens: Families,
    series: Arc<ArcSwap<Series>>,
    notices: Notices,
}

/// What of a report is not taken as it was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Correction {
    /// A number that is none: the others of its report count.
    Number,
    /// An answer that says more tokens than `--max-answer-tokens`.
    Answer,
    /// A debt of more than `--max-debt-windows`.
    Debt,
    /// An answer for which the cost of a limit has no value, or none that an answer can cost.
    Cost,
    /// A call that ran longer than `--max-call-time`, and was not counted any more among those that run.
    Lease,
}

/// An entry of an access log that is no report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passed {
    /// Of a request that has no reservation: Check refused it, or was not asked.
    Unreserved,
    /// Of a request that is not over.
    Interim,
    /// Of a connection, not of a request.
    Tcp,
}

/// What tokens are counted by: what a policy names, and has a series of its own.
#[derive(Debug, Default)]
pub(crate) struct Named {
    pub(crate) tiers: HashSet<Arc<str>>,
    /// Each as `namespace/name`.
    pub(crate) models: HashSet<String>,
    /// The token limits, each as `namespace/policy/limit`.
    pub(crate) limits: HashSet<Arc<str>>,
    /// Which of the limits a cell is of.
    pub(crate) cells: HashMap<CellId, Arc<str>>,
    /// The limits of which parts are told, of either kind.
    pub(crate) watched: Vec<(LimitKind, Arc<str>, Arc<Notify>)>,
}

/// The family by channel, and its series: one for each of [`Channel::ALL`], in that order.
#[derive(Clone, Debug)]
struct Channels {
    family: Family<ChannelLabels, Counter>,
    series: Vec<Tokens>,
}

/// The families that have series of what a policy names.
#[derive(Clone, Debug, Default)]
struct Families {
    tiers: Family<TierLabels, Counter>,
    models: Family<ModelLabels, Counter>,
    limits: Family<LimitLabels, Counter>,
}

/// The series of one snapshot.
#[derive(Debug)]
struct Series {
    tiers: HashMap<Arc<str>, Tokens>,
    no_tier: Tokens,
    /// By what reservations carry.
    models: HashMap<ModelId, Tokens>,
    no_model: Tokens,
    other_model: Tokens,
    /// That of the limit which each cell is of.
    cells: HashMap<CellId, Counter>,
    other_limit: Counter,
}

/// One for each of [`KINDS`].
type Tokens = [Counter; KINDS.len()];

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct ReportLabels {
    channel: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct CorrectionLabel {
    what: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct EntryLabel {
    entry: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct ChannelLabels {
    channel: &'static str,
    usage: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct TierLabels {
    tier: Arc<str>,
    usage: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct ModelLabels {
    model: Arc<str>,
    namespace: Arc<str>,
    usage: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct LimitLabels {
    limit: Arc<str>,
    policy: Arc<str>,
}

/// The label `usage` of tokens.
const KINDS: [&str; 7] = ["total", "input", "output", "cached", "reasoning", "estimated", "corrected"];
/// The ends of the buckets of delays, in seconds: from a short answer to a stream of hours.
const DELAYS: [f64; 14] = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1_800.0, 3_600.0, 7_200.0];
/// The result of a report that nobody can read.
const REFUSED: &str = "refused";
/// The label of what is not named.
pub(crate) const OTHER: &str = "other";

/// The policy, as `namespace/policy`, and the limit, of a limit's name `namespace/policy/limit`.
pub(crate) fn policy_and_limit(name: &str) -> (&str, &str) {
    let slash = name.match_indices('/').nth(1).map(|(at, _)| at);
    slash.and_then(|at| Some((name.get(..at)?, name.get(at + 1..)?))).unwrap_or(("", name))
}

/// The tokens of a report, of each of [`KINDS`]; `None` if it was not charged.
fn numbers(usage: &Usage, Charged { settlement, before, .. }: &Charged) -> Option<[Option<u64>; KINDS.len()]> {
    // What an estimate says of its parts is taken from the report that corrects it.
    let (usage, estimated) = match settlement {
        Settlement::Settled(_) => (*usage, None),
        Settlement::Estimated(tokens) => (Usage::default(), Some(*tokens)),
        Settlement::NoUsage if before.is_some() => (Usage::default(), None),
        _ => return None,
    };
    Some([usage.tokens(), usage.input, usage.output, usage.cached, usage.reasoning, estimated, *before])
}

fn count(tokens: &Tokens, numbers: [Option<u64>; KINDS.len()]) {
    for (counter, number) in tokens.iter().zip(numbers) {
        number.map(|number| counter.inc_by(number));
    }
}

// === impl UsageMetrics ===

impl Default for UsageMetrics {
    fn default() -> Self {
        let (reports, corrections, passed) = (Family::default(), Family::default(), Family::default());
        // Counters are there from the start, so that a rate over them has a beginning.
        for channel in Channel::ALL.iter().map(|channel| channel.as_str()) {
            for result in Settlement::ALL.map(Settlement::as_str).into_iter().chain([REFUSED]) {
                reports.get(&ReportLabels { channel, result });
            }
        }
        for correction in Correction::ALL {
            corrections.get(&CorrectionLabel { what: correction.as_str() });
        }
        for entry in Passed::ALL {
            passed.get(&EntryLabel { entry: entry.as_str() });
        }
        let (tokens, channels) = (Families::default(), Channels::default());
        let series = Arc::new(ArcSwap::from_pointee(tokens.of(&Named::default())));
        let (awaited, unsettled, delay) = (Gauge::default(), Counter::default(), Histogram::new(DELAYS));
        UsageMetrics {
            reports,
            corrections,
            passed,
            awaited,
            unsettled,
            delay,
            channels,
            tokens,
            series,
            notices: Notices::default(),
        }
    }
}

impl UsageMetrics {
    /// Puts the families onto the page.
    pub(crate) fn register(&self, registry: &mut Registry) {
        register(registry, "tiergate_usage_reports", self.reports.clone());
        register(registry, "tiergate_usage_corrections", self.corrections.clone());
        register(registry, "tiergate_usage_reports_awaited", self.awaited.clone());
        register(registry, "tiergate_usage_unsettled", self.unsettled.clone());
        register(registry, "tiergate_usage_settlement_delay_seconds", self.delay.clone());
        register(registry, "tiergate_access_log_passed", self.passed.clone());
        register(registry, "tiergate_channel_tokens", self.channels.family.clone());
        register(registry, "tiergate_usage_tokens", self.tokens.tiers.clone());
        register(registry, "tiergate_model_tokens", self.tokens.models.clone());
        register(registry, "tiergate_limit_tokens", self.tokens.limits.clone());
        self.notices.register(registry);
    }

    /// Takes what a snapshot that went into use names, and drops the series of what is gone.
    pub(crate) fn published(&self, named: &Named) {
        self.series.store(Arc::new(self.tokens.of(named)));
        self.notices.published(&named.watched);
        self.tokens.keep(named);
    }

    /// Counts and tells that a request of this caller reached parts of a limit.
    pub(crate) fn reached(&self, reached: &Reached, caller: Caller<'_>) {
        self.notices.tell(reached, caller);
    }

    /// Counts a report that nobody can read.
    pub(super) fn refused(&self, channel: Channel) {
        self.reports.get(&ReportLabels { channel: channel.as_str(), result: REFUSED }).inc();
    }

    /// Notes how long after its Check a call was settled first.
    pub(super) fn settled_after(&self, delay: Duration) {
        self.delay.observe(delay.as_secs_f64());
    }

    /// So many reservations have no report yet.
    pub(super) fn open(&self, reservations: u64) {
        self.awaited.set(i64::try_from(reservations).unwrap_or(i64::MAX));
    }

    /// So many more calls have had no report, and cannot run any more.
    pub(super) fn unsettled(&self, calls: u64) {
        self.unsettled.inc_by(calls);
    }

    /// Counts what of a report was not taken as it was said.
    pub(super) fn corrected(&self, correction: Correction) {
        self.corrections.get(&CorrectionLabel { what: correction.as_str() }).inc();
    }

    /// Counts an entry of an access log that is no report.
    pub(super) fn passed(&self, entry: Passed) {
        self.passed.get(&EntryLabel { entry: entry.as_str() }).inc();
    }

    /// Counts a report; and its tokens, if they were charged to the `reservation` that it carried.
    pub(crate) fn reported(
        &self,
        channel: Channel,
        charged: &Charged,
        usage: &Usage,
        reservation: Option<&Reservation>,
    ) {
        self.reports.get(&ReportLabels { channel: channel.as_str(), result: charged.settlement.as_str() }).inc();
        if let Some(reservation) = reservation
            && let Some(numbers) = numbers(usage, charged)
        {
            let series = self.series.load();
            for tokens in self.channels.of(channel).into_iter().chain(series.of_call(reservation)) {
                count(tokens, numbers);
            }
            series.charged(reservation, &charged.charges);
        }
    }
}

// === impl Correction ===

impl Correction {
    /// One of each.
    pub const ALL: [Correction; 5] =
        [Correction::Number, Correction::Answer, Correction::Debt, Correction::Cost, Correction::Lease];

    /// The metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Correction::Number => "number",
            Correction::Answer => "answer",
            Correction::Debt => "debt",
            Correction::Cost => "cost",
            Correction::Lease => "lease",
        }
    }
}

// === impl Passed ===

impl Passed {
    /// One of each.
    pub const ALL: [Passed; 3] = [Passed::Unreserved, Passed::Interim, Passed::Tcp];

    /// The metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Passed::Unreserved => "unreserved",
            Passed::Interim => "interim",
            Passed::Tcp => "tcp",
        }
    }
}

// === impl Channels ===

impl Default for Channels {
    fn default() -> Self {
        let family = Family::default();
        let of = |channel: &Channel| KINDS.map(|usage| family.get(&ChannelLabels { channel: channel.as_str(), usage }));
        let series = Channel::ALL.iter().map(of).collect();
        Channels { family, series }
    }
}

impl Channels {
    fn of(&self, channel: Channel) -> Option<&Tokens> {
        let at = Channel::ALL.iter().position(|known| *known == channel)?;
        self.series.get(at)
    }
}

// === impl Families ===

impl Families {
    /// The series of what is `named`.
    fn of(&self, named: &Named) -> Series {
        let model = |name: &String| {
            let (namespace, model) = name.split_once('/').unwrap_or_default();
            (ModelId::of(name), self.model(namespace, model))
        };
        let limits: HashMap<&str, Counter> = named.limits.iter().map(|name| (&**name, self.limit(name))).collect();
        let counter = |name: &Arc<str>| limits.get(&**name).cloned();
        let cell = |(cell, name): (&CellId, &Arc<str>)| Some((*cell, counter(name)?));
        Series {
            tiers: named.tiers.iter().map(|tier| (Arc::clone(tier), self.tier(tier))).collect(),
            no_tier: self.tier(&Arc::default()),
            models: named.models.iter().map(model).collect(),
            no_model: self.model("", ""),
            other_model: self.model("", OTHER),
            cells: named.cells.iter().filter_map(cell).collect(),
            other_limit: self.limit(OTHER),
        }
    }

    /// Drops the series of what is not `named`.
    fn keep(&self, named: &Named) {
        self.tiers.retain(|labels| labels.tier.is_empty() || named.tiers.contains(&labels.tier));
        self.models.retain(|ModelLabels { model, namespace, .. }| {
            namespace.is_empty() || named.models.contains(&format!("{namespace}/{model}"))
        });
        self.limits.retain(|LimitLabels { limit, policy }| {
            policy.is_empty() || named.limits.contains(&*format!("{policy}/{limit}"))
        });
    }

    fn tier(&self, tier: &Arc<str>) -> Tokens {
        KINDS.map(|usage| self.tiers.get(&TierLabels { tier: Arc::clone(tier), usage }))
    }

    fn model(&self, namespace: &str, model: &str) -> Tokens {
        let (namespace, model): (Arc<str>, Arc<str>) = (namespace.into(), model.into());
        let labels = |usage| ModelLabels { model: Arc::clone(&model), namespace: Arc::clone(&namespace), usage };
        KINDS.map(|usage| self.models.get(&labels(usage)))
    }

    fn limit(&self, name: &str) -> Counter {
        let (policy, limit) = policy_and_limit(name);
        self.limits.get(&LimitLabels { limit: limit.into(), policy: policy.into() })
    }
}

// === impl Series ===

impl Series {
    /// By what a call's tokens are counted.
    fn of_call(&self, reservation: &Reservation) -> [&Tokens; 2] {
        [self.tier(&reservation.tier), self.model(reservation.model)]
    }

    /// Counts what was charged to limits.
    fn charged(&self, reservation: &Reservation, charges: &[i64]) {
        // A limit of several rates is charged once in each.
        let mut counted: SmallVec<[&Counter; 4]> = SmallVec::new();
        let charges = reservation.holds.iter().zip(charges);
        for (hold, charge) in charges.filter(|(hold, _)| hold.kind == LimitKind::Tokens) {
            let limit = self.cells.get(&hold.of.cell).unwrap_or(&self.other_limit);
            if !counted.iter().any(|known| ptr::eq(known.inner(), limit.inner())) {
                counted.push(limit);
                limit.inc_by(u64::try_from(*charge).unwrap_or(0));
            }
        }
    }

    /// A report can come a day after its tier is gone: its tokens are counted, under no tier.
    fn tier(&self, tier: &str) -> &Tokens {
        self.tiers.get(tier).unwrap_or(&self.no_tier)
    }

    fn model(&self, model: ModelId) -> &Tokens {
        match model {
            ModelId::NONE => &self.no_model,
            model => self.models.get(&model).unwrap_or(&self.other_model),
        }
    }
}
