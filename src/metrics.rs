//! Metrics: every family of the process, in one struct. What they mean is in `catalog`.
//!
//! prometheus-client rather than prometheus: the latter has had no release since early 2025. Counters on the path of a
//! request are looked up once, at the start; those of what the policy names, when it is published (`series`).

pub mod catalog;
mod page;
mod ports;
mod process;
mod series;
mod snapshot;
mod timing;

use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Metric;
use tracing_appender::non_blocking::ErrorCounter;

pub use self::page::PageFormat;
pub use self::ports::{Port, PortMetrics, Refusal};

use self::catalog::FAMILIES;
use self::series::{DecisionOutcome, Families, Series};
use self::snapshot::Snapshot;
use self::timing::Timing;
use crate::access::AccessSource;
use crate::apiserver::ApiMetrics;
use crate::cache::AnswerSource;
use crate::denial::{Class, Code};
use crate::family::{Family, Registry, register};
use crate::gate::{Decision, Grant, Stage};
use crate::policy::Policy;
use crate::problem::Problem;
use crate::usage::{Caller, LedgerMetrics, UsageMetrics};

/// The process's metrics.
#[derive(Debug)]
pub struct Metrics {
    /// Of calls of the API server.
    pub api: ApiMetrics,
    /// Of what peers are refused at the ports.
    pub ports: PortMetrics,
    /// Of usage reports.
    pub usage: UsageMetrics,
    /// Of the usage log.
    pub ledger: LedgerMetrics,
    registry: Registry,
    allowed: Counter,
    shown: Counter,
    /// One for each [`Code`], in the order of [`Code::ALL`].
    refused: Vec<Counter>,
    duration: Timing,
    /// One for each [`Stage`], in the order of [`Stage::ALL`].
    stages: Vec<Timing>,
    /// One for each [`AnswerSource`], in the order of [`AnswerSource::ALL`].
    identity_lookups: Vec<Counter>,
    /// One for each [`AccessSource`], in the order of [`AccessSource::ALL`].
    access: Vec<Counter>,
    disagreements: Counter,
    stale: Counter,
    shadowed: Family<ShadowLabels, Counter>,
    /// One for each [`AnswerSource`], in the order of [`AnswerSource::ALL`].
    tier_lookups: Vec<Counter>,
    tier_gone: Counter,
    unlimited: Counter,
    accounts_full: Counter,
    /// Steps of the wall clock.
    pub clock_steps: Counter,
    limit_changes: Family<ActionLabel, Counter>,
    /// Of what the policy names.
    named: Families,
    series: ArcSwap<Series>,
    shadow: Gauge,
    snapshot: Snapshot,
    accounts: Gauge,
    identities: Gauge,
    log_lines_dropped: Counter,
    log: OnceLock<ErrorCounter>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct DecisionLabels {
    outcome: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct ShadowLabels {
    /// What is in shadow: `process` or `policy`.
    by: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct ActionLabel {
    action: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct StageLabel {
    stage: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct SourceLabel {
    source: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct BuildLabels {
    version: &'static str,
}

// === impl Metrics ===

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::new(FAMILIES);
        let r = &mut registry;
        let build: Family<_, Gauge> = registered(r, "tiergate_build_info", Family::default());
        build.get(&BuildLabels { version: env!("CARGO_PKG_VERSION") }).set(1);
        let decisions: Family<_, Counter> = registered(r, "tiergate_decisions", Family::default());
        let lookups: Family<_, Counter> = registered(r, "tiergate_identity_lookups", Family::default());
        let accesses: Family<_, Counter> = registered(r, "tiergate_access_decisions", Family::default());
        let services: Family<_, Counter> = registered(r, "tiergate_tier_lookups", Family::default());
        let duration = registered(r, "tiergate_decision_duration_seconds", Timing::default());
        let stages: Family<_, Timing> = registered(r, "tiergate_stage_duration_seconds", Family::default());
        let named = Families::default();
        let of_source = |family: &Family<_, Counter>| {
            AnswerSource::ALL.iter().map(|s| family.get(&SourceLabel { source: s.as_str() })).collect()
        };
        let reason = |code: &Code| match code.class() {
            Class::Undecided => DecisionLabels { outcome: "undecided", reason: code.as_str() },
            _ => DecisionLabels { outcome: "refused", reason: code.as_str() },
        };
        let metrics = Metrics {
            api: ApiMetrics::default(),
            ports: PortMetrics::default(),
            usage: UsageMetrics::default(),
            ledger: LedgerMetrics::default(),
            allowed: decisions.get(&DecisionLabels { outcome: "allowed", reason: "" }),
            shown: decisions.get(&DecisionLabels { outcome: "shown", reason: "" }),
            refused: Code::ALL.iter().map(|code| decisions.get(&reason(code))).collect(),
            duration,
            stages: Stage::ALL.iter().map(|stage| stages.get(&StageLabel { stage: stage.as_str() })).collect(),
            identity_lookups: of_source(&lookups),
            access: AccessSource::ALL.iter().map(|s| accesses.get(&SourceLabel { source: s.as_str() })).collect(),
            disagreements: Counter::default(),
            stale: Counter::default(),
            shadowed: Family::default(),
            tier_lookups: of_source(&services),
            tier_gone: Counter::default(),
            unlimited: Counter::default(),
            accounts_full: Counter::default(),
            clock_steps: Counter::default(),
            limit_changes: of_actions(),
            series: ArcSwap::from_pointee(named.of(&Policy::default(), None)),
            named,
            shadow: Gauge::default(),
            snapshot: Snapshot::default(),
            accounts: Gauge::default(),
            identities: Gauge::default(),
            log_lines_dropped: Counter::default(),
            log: OnceLock::new(),
            registry,
        };
        metrics.on_the_page()
    }

    fn on_the_page(mut self) -> Self {
        let r = &mut self.registry;
        self.api.register(r);
        self.ports.register(r);
        self.named.register(r);
        self.usage.register(r);
        self.ledger.register(r);
        register(r, "tiergate_access_disagreements", self.disagreements.clone());
        register(r, "tiergate_stale_decisions", self.stale.clone());
        register(r, "tiergate_would_have_refused", self.shadowed.clone());
        register(r, "tiergate_requests_without_limit", self.unlimited.clone());
        register(r, "tiergate_requests_of_gone_tier", self.tier_gone.clone());
        register(r, "tiergate_requests_without_room", self.accounts_full.clone());
        register(r, "tiergate_clock_steps", self.clock_steps.clone());
        register(r, "tiergate_limit_changes", self.limit_changes.clone());
        register(r, "tiergate_shadow", self.shadow.clone());
        self.snapshot.register(r);
        register(r, "tiergate_limit_accounts", self.accounts.clone());
        register(r, "tiergate_identities", self.identities.clone());
        register(r, "tiergate_log_lines_dropped", self.log_lines_dropped.clone());
        r.register_collector(Box::new(process::Process));
        self
    }

    /// Notes who knows how many lines of the log were dropped.
    pub fn in_log(&self, dropped: ErrorCounter) {
        // There is one log.
        let _ = self.log.set(dropped);
    }

    /// Notes whether the process is in shadow.
    pub fn in_shadow(&self, shadow: bool) {
        self.shadow.set(i64::from(shadow));
    }

    /// Counts what an operator changed of an account: `reset` or `grant`.
    pub fn limits_changed(&self, action: &'static str) {
        self.limit_changes.get(&ActionLabel { action }).inc();
    }

    /// Counts a decision that took `elapsed`, and tells of parts of limits that it has reached.
    pub fn decided(&self, decision: &Decision, elapsed: Duration) {
        self.duration.observe(elapsed);
        let evidence = &decision.evidence;
        // The limits are still to be asked, and what they say is counted then.
        let handed_over = decision.outcome.as_ref().is_ok_and(|grant| grant.handover.is_some());
        if !handed_over {
            self.ended(decision);
        }
        count(AnswerSource::ALL, &self.identity_lookups, evidence.identity_source);
        count(AccessSource::ALL, &self.access, evidence.access.source);
        if evidence.access.disagreed {
            self.disagreements.inc();
        }
        if evidence.stale() {
            self.stale.inc();
        }
        count(AnswerSource::ALL, &self.tier_lookups, evidence.tier_source);
        if evidence.tier_gone.is_some() {
            self.tier_gone.inc();
        }
        for shadowed in &evidence.shadowed {
            let by = if shadowed.by.is_some() { "policy" } else { "process" };
            self.shadowed.get(&ShadowLabels { by, reason: shadowed.denial.code.as_str() }).inc();
        }
        if evidence.unlimited && !handed_over {
            self.unlimited.inc();
        }
        if evidence.accounts_full {
            self.accounts_full.inc();
        }
        for reached in &evidence.reached {
            let of = Option::unwrap_or_default;
            let (user, tier) = (of(evidence.user.as_deref()), of(evidence.tier.as_deref()));
            self.usage.reached(reached, Caller { user, tier, model: of(evidence.permit.model.as_deref()) });
        }
        for (stage, taken) in evidence.stage_times.iter().flat_map(|times| &times.taken) {
            let at = Stage::ALL.iter().position(|known| known == stage);
            if let Some(histogram) = at.and_then(|at| self.stages.get(at)) {
                histogram.observe(*taken);
            }
        }
    }

    /// Counts what became of a request.
    fn ended(&self, decision: &Decision) {
        let outcome = match &decision.outcome {
            // No call of a model, and nothing was asked of the limits.
            Ok(Grant { shown: Some(_), .. }) => {
                self.shown.inc();
                return;
            }
            Ok(_) => {
                self.allowed.inc();
                DecisionOutcome::Allowed
            }
            Err(denial) => {
                let at = Code::ALL.iter().position(|code| *code == denial.code);
                at.and_then(|at| self.refused.get(at)).map(Counter::inc);
                if denial.code.class() == Class::Undecided {
                    DecisionOutcome::Undecided
                } else {
                    DecisionOutcome::Refused
                }
            }
        };
        self.series.load().decided(outcome, &decision.evidence);
    }

    /// Notes a snapshot that went into use, and drops the series of what is gone; and what is wrong beside it.
    pub fn published(&self, policy: &Policy, faults: &[Problem]) {
        let series = Arc::new(self.named.of(policy, Some(&self.series.load())));
        self.series.store(Arc::clone(&series));
        self.named.keep(&series);
        self.usage.published(&series.of_usage(policy));
        self.snapshot.published(policy, faults);
    }

    /// Notes whether the folder could be read.
    pub fn reloaded(&self, successful: bool) {
        self.snapshot.last_reload_successful.set(i64::from(successful));
    }

    /// The page.
    #[must_use]
    pub fn page(&self, format: PageFormat, accounts: usize, identities: usize) -> String {
        self.accounts.set(i64::try_from(accounts).unwrap_or(i64::MAX));
        self.identities.set(i64::try_from(identities).unwrap_or(i64::MAX));
        if let Some(log) = self.log.get() {
            self.log_lines_dropped.inner().store(log.dropped_lines() as u64, Ordering::Relaxed);
        }
        let mut page = String::new();
        if self.registry.encode(&mut page).is_err() {
            // Writing to a string does not fail.
            let _ = writeln!(page, "# EOF");
        }
        match format {
            PageFormat::OpenMetrics => page,
            PageFormat::Text => page::to_text(&page),
        }
    }
}

/// Those of all actions are there from the start, so that a rate over them has a beginning.
fn of_actions() -> Family<ActionLabel, Counter> {
    let changes = Family::default();
    for action in ["grant", "reset"] {
        changes.get(&ActionLabel { action });
    }
    changes
}

/// Counts `which` of `all`, each of which has one of the `counters`.
fn count<T: PartialEq>(all: &[T], counters: &[Counter], which: Option<T>) {
    let at = which.and_then(|which| all.iter().position(|one| *one == which));
    at.and_then(|at| counters.get(at)).map(Counter::inc);
}

/// `metric`, which is on the page from now on.
fn registered<M: Metric + Clone>(registry: &mut Registry, name: &'static str, metric: M) -> M {
    register(registry, name, metric.clone());
    metric
}

#[cfg(test)]
mod tests;
