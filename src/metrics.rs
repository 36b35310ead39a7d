//! Metrics: every family of the process, in one struct.
//!
//! prometheus-client rather than prometheus: the latter has had no release since early 2025. Counters on the path of a
//! request are looked up once, at the start.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::access::AccessSource;
use crate::apiserver::ApiMetrics;
use crate::gate::{Class, Code, Decision, Evidence, IdentitySource, Stage, TierSource};
use crate::limit::Verdict;
use crate::listen::rate_limit::Correction;
use crate::manifest::{Finding, Problem};
use crate::policy::{LimitKind, Policy};
use crate::usage::{Settlement, Usage};

/// The process's metrics.
#[derive(Debug)]
pub struct Metrics {
    /// Of calls of the API server.
    pub api: ApiMetrics,
    registry: Registry,
    allowed: Counter,
    /// One for each [`Code`], in the order of [`Code::ALL`].
    refused: Vec<Counter>,
    duration: Histogram,
    /// One for each [`Stage`], in the order of [`Stage::ALL`].
    stages: Vec<Histogram>,
    identity_hits: Counter,
    identity_misses: Counter,
    identity_stale: Counter,
    /// One for each [`AccessSource`], in the order of [`AccessSource::ALL`].
    access: Vec<Counter>,
    disagreements: Counter,
    stale: Counter,
    would: Family<WouldLabels, Counter>,
    /// One for each [`TierSource`], in the order of [`TierSource::ALL`].
    tier_lookups: Vec<Counter>,
    tier_gone: Counter,
    unlimited: Counter,
    no_room: Counter,
    limit_decisions: Family<LimitLabels, Counter>,
    reports: Family<ResultLabel, Counter>,
    corrections: Family<CorrectionLabel, Counter>,
    tokens: Family<TokenLabels, Counter>,
    shadow: Gauge,
    generation: Gauge,
    last_reload_successful: Gauge,
    objects: Gauge,
    objects_in_error: Gauge,
    objects_last_good: Gauge,
    problems: Family<SeverityLabel, Gauge>,
    findings: Family<FindingLabels, Gauge>,
    accounts: Gauge,
    identities: Gauge,
    tiers: Mutex<KnownTiers>,
}

/// The tiers that may have series.
#[derive(Debug, Default)]
struct KnownTiers {
    current: BTreeSet<Arc<str>>,
    /// Those of the snapshot before, which a request in flight may have counted after their series were dropped.
    former: BTreeSet<Arc<str>>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct DecisionLabels {
    outcome: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct WouldLabels {
    /// What is in shadow: `process` or `policy`.
    by: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StageLabel {
    stage: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CorrectionLabel {
    what: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct SourceLabel {
    source: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct SeverityLabel {
    severity: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct FindingLabels {
    code: &'static str,
    severity: &'static str,
}

/// The tier is the one that was enforced, not the one that the token's namespace spells.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct LimitLabels {
    tier: Arc<str>,
    kind: &'static str,
    verdict: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct TokenLabels {
    tier: Arc<str>,
    usage: &'static str,
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
        let mut registry = Registry::with_prefix("tiergate");
        let decisions = Family::<DecisionLabels, Counter>::default();
        registry.register("decisions", "Decided requests, by outcome and reason code", decisions.clone());
        let caches = Family::<ResultLabel, Counter>::default();
        registry.register("identity_lookups", "Look-ups of a token's identity, by result", caches.clone());
        let accesses = Family::<SourceLabel, Counter>::default();
        registry.register("access_decisions", "Access that was asked for, by who has said", accesses.clone());
        let services = Family::<ResultLabel, Counter>::default();
        registry.register("tier_lookups", "Tiers that a service knows, by how they were come by", services.clone());
        let duration = Histogram::new(buckets());
        registry.register("decision_duration_seconds", "Time to decide a request", duration.clone());
        let stages = Family::<StageLabel, Histogram>::new_with_constructor(|| Histogram::new(buckets()));
        registry.register("stage_duration_seconds", "Time of each stage, of one request in 16", stages.clone());
        let counter = |labels| decisions.get_or_create_owned(&labels);
        let outcome = |code: Code| match code.class() {
            Class::Undecided => "undecided",
            _ => "refused",
        };
        let metrics = Metrics {
            api: ApiMetrics::default(),
            allowed: counter(DecisionLabels { outcome: "allowed", reason: "" }),
            refused: (Code::ALL.iter())
                .map(|code| counter(DecisionLabels { outcome: outcome(*code), reason: code.as_str() }))
                .collect(),
            duration,
            stages: Stage::ALL.iter().map(|s| stages.get_or_create_owned(&StageLabel { stage: s.as_str() })).collect(),
            identity_hits: caches.get_or_create_owned(&ResultLabel { result: "hit" }),
            identity_misses: caches.get_or_create_owned(&ResultLabel { result: "miss" }),
            identity_stale: caches.get_or_create_owned(&ResultLabel { result: "stale" }),
            access: (AccessSource::ALL.iter())
                .map(|source| accesses.get_or_create_owned(&SourceLabel { source: source.as_str() }))
                .collect(),
            disagreements: Counter::default(),
            stale: Counter::default(),
            would: Family::default(),
            tier_lookups: (TierSource::ALL.iter())
                .map(|source| services.get_or_create_owned(&ResultLabel { result: source.as_str() }))
                .collect(),
            tier_gone: Counter::default(),
            unlimited: Counter::default(),
            no_room: Counter::default(),
            limit_decisions: Family::default(),
            reports: Family::default(),
            corrections: Family::default(),
            tokens: Family::default(),
            shadow: Gauge::default(),
            generation: Gauge::default(),
            last_reload_successful: Gauge::default(),
            objects: Gauge::default(),
            objects_in_error: Gauge::default(),
            objects_last_good: Gauge::default(),
            problems: Family::default(),
            findings: Family::default(),
            accounts: Gauge::default(),
            identities: Gauge::default(),
            tiers: Mutex::default(),
            registry,
        };
        metrics.registered()
    }

    fn registered(mut self) -> Self {
        let r = &mut self.registry;
        self.api.register(r);
        let help = "Access of which RBAC in process and the API server say different things (--access both)";
        r.register("access_disagreements", help, self.disagreements.clone());
        let help = "Decisions that rest on what was known, since the API server is away";
        r.register("stale_decisions", help, self.stale.clone());
        let help =
            "Requests that would have been refused, or undecided, were it not for --shadow or a policy's annotation";
        r.register("would_have_refused", help, self.would.clone());
        r.register("requests_without_limit", "Requests whose caller matched no limit", self.unlimited.clone());
        let help = "Requests whose caller's namespace is of a tier that is no longer configured";
        r.register("requests_of_gone_tier", help, self.tier_gone.clone());
        r.register("requests_without_room", "Requests for whose account there was no room", self.no_room.clone());
        r.register("limit_decisions", "What limits said, by the tier that was enforced", self.limit_decisions.clone());
        r.register("usage_reports", "Usage reports, by what became of them", self.reports.clone());
        let help = "What usage reports said and was not taken: a number that is none, more than --max-answer-tokens or --max-debt-windows";
        r.register("usage_corrections", help, self.corrections.clone());
        r.register("usage_tokens", "Tokens reported, by the tier that was enforced", self.tokens.clone());
        r.register("shadow", "Whether every request is let through (--shadow)", self.shadow.clone());
        r.register("policy_generation", "Number of the policy snapshot in use", self.generation.clone());
        let name = "policy_last_reload_successful";
        r.register(name, "Whether the folder could be read the last time", self.last_reload_successful.clone());
        self.last_reload_successful.set(1);
        r.register("policy_objects", "Objects read into the policy", self.objects.clone());
        r.register("policy_objects_in_error", "Objects that are in error", self.objects_in_error.clone());
        let help = "Objects of which a last good version is in force, since they or their files are in error";
        r.register("policy_objects_last_good", help, self.objects_last_good.clone());
        r.register("policy_problems", "Problems of the configuration, by severity", self.problems.clone());
        r.register("policy_findings", "Problems of the configuration, by code and severity", self.findings.clone());
        r.register("limit_accounts", "Accounts that limits keep", self.accounts.clone());
        r.register("identities", "Identities that are remembered", self.identities.clone());
        // Counters are there from the start, so that a rate over them has a beginning.
        for result in Settlement::ALL.map(Settlement::as_str).into_iter().chain([REFUSED]) {
            drop(self.reports.get_or_create(&ResultLabel { result }));
        }
        for correction in Correction::ALL {
            drop(self.corrections.get_or_create(&CorrectionLabel { what: correction.as_str() }));
        }
        self
    }

    /// Notes whether the process is in shadow.
    pub fn in_shadow(&self, shadow: bool) {
        self.shadow.set(i64::from(shadow));
    }

    /// Counts a decision that took `elapsed`.
    pub fn decided(&self, decision: &Decision, elapsed: Duration) {
        self.duration.observe(elapsed.as_secs_f64());
        let evidence = &decision.evidence;
        match &decision.outcome {
            // The limits are still to be asked, and what they say is counted then.
            Ok(grant) if grant.handover.is_some() => 0,
            Ok(_) => self.allowed.inc(),
            Err(denial) => {
                let at = Code::ALL.iter().position(|code| *code == denial.code);
                at.and_then(|at| self.refused.get(at)).map_or(0, Counter::inc)
            }
        };
        match evidence.identity_source {
            Some(IdentitySource::Remembered) => self.identity_hits.inc(),
            Some(IdentitySource::Reviewed) => self.identity_misses.inc(),
            Some(IdentitySource::Stale) => self.identity_stale.inc(),
            None => 0,
        };
        if let Some(source) = evidence.access.source {
            let at = AccessSource::ALL.iter().position(|known| *known == source);
            if let Some(counter) = at.and_then(|at| self.access.get(at)) {
                counter.inc();
            }
        }
        if evidence.access.disagreed {
            self.disagreements.inc();
        }
        if evidence.stale() {
            self.stale.inc();
        }
        if let Some(source) = evidence.tier_source {
            let at = TierSource::ALL.iter().position(|known| *known == source);
            if let Some(counter) = at.and_then(|at| self.tier_lookups.get(at)) {
                counter.inc();
            }
        }
        if evidence.tier_gone.is_some() {
            self.tier_gone.inc();
        }
        let undecided = decision.outcome.as_ref().is_ok_and(|grant| grant.handover.is_some());
        for would in &evidence.would {
            let by = if would.by.is_some() { "policy" } else { "process" };
            self.would.get_or_create(&WouldLabels { by, reason: would.denial.code.as_str() }).inc();
        }
        if evidence.unlimited && !undecided {
            self.unlimited.inc();
        }
        let tier = self.tier_label(evidence);
        if evidence.no_room {
            self.no_room.inc();
        }
        for limit in &evidence.limits {
            let Some(standing) = &limit.standing else { continue };
            let labels = LimitLabels {
                tier: Arc::clone(&tier),
                kind: kind(limit.kind),
                verdict: verdict(standing.verdict == Verdict::Fits),
            };
            self.limit_decisions.get_or_create(&labels).inc();
        }
        for (stage, taken) in evidence.laps.iter().flat_map(|laps| &laps.taken) {
            let at = Stage::ALL.iter().position(|known| known == stage);
            if let Some(histogram) = at.and_then(|at| self.stages.get(at)) {
                histogram.observe(taken.as_secs_f64());
            }
        }
    }

    /// The tier of a decision, as a label. A service may answer anything: what it names is counted under its name if the
    /// policy knows it, and under no tier if not, so that there is an end to the series.
    fn tier_label(&self, evidence: &Evidence) -> Arc<str> {
        let tier = evidence.tier.as_ref();
        match evidence.tier_source {
            None => tier.cloned(),
            Some(_) => tier.and_then(|tier| self.tiers.lock().current.get(tier).cloned()),
        }
        .unwrap_or_default()
    }

    /// Counts a usage report that nobody can read.
    pub fn report_refused(&self) {
        self.reports.get_or_create(&ResultLabel { result: REFUSED }).inc();
    }

    /// Counts what of a usage report was not taken as it was said.
    pub fn corrected(&self, correction: Correction) {
        self.corrections.get_or_create(&CorrectionLabel { what: correction.as_str() }).inc();
    }

    /// Counts a usage report.
    pub fn reported(&self, settlement: Settlement, usage: &Usage, tier: &Arc<str>) {
        self.reports.get_or_create(&ResultLabel { result: settlement.as_str() }).inc();
        // A report can come a day after its tier is gone: its tokens are counted, under no tier.
        let known = || self.tiers.lock().current.get(tier).cloned().unwrap_or_default();
        let known = match settlement {
            Settlement::Settled(_) => known(),
            Settlement::Estimated(tokens) => {
                self.tokens.get_or_create(&TokenLabels { tier: known(), usage: ESTIMATED }).inc_by(tokens);
                return;
            }
            _ => return,
        };
        let numbers = [usage.tokens(), usage.input, usage.output, usage.cached, usage.reasoning];
        for (name, number) in USAGES.into_iter().zip(numbers) {
            if let Some(number) = number {
                self.tokens.get_or_create(&TokenLabels { tier: Arc::clone(&known), usage: name }).inc_by(number);
            }
        }
    }

    /// Notes a snapshot that went into use, and drops the series of tiers that are gone.
    pub fn published(&self, policy: &Policy) {
        self.keep_tiers(policy.known_tiers().map(Arc::clone).collect());
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.generation.set(i64::try_from(policy.generation).unwrap_or(i64::MAX));
        self.objects.set(number(policy.objects));
        self.objects_in_error.set(number(policy.objects_in_error()));
        self.objects_last_good.set(number(policy.kept.len()));
        let errors = policy.problems.iter().filter(|problem| problem.is_error()).count();
        let counts = [("error", errors), ("warning", policy.problems.len() - errors)];
        for (severity, count) in counts {
            self.problems.get_or_create(&SeverityLabel { severity }).set(number(count));
        }
        for (finding, (severity, error)) in
            Finding::ALL.iter().flat_map(|finding| [("error", true), ("warning", false)].map(|kind| (*finding, kind)))
        {
            let labels = FindingLabels { code: finding.as_str(), severity };
            let same = |problem: &&Problem| problem.code == finding && problem.is_error() == error;
            match policy.problems.iter().filter(same).count() {
                0 => drop(self.findings.remove(&labels)),
                count => drop(self.findings.get_or_create(&labels).set(number(count))),
            }
        }
    }

    fn keep_tiers(&self, current: BTreeSet<Arc<str>>) {
        let mut tiers = self.tiers.lock();
        let former = std::mem::replace(&mut tiers.current, current);
        let before = std::mem::replace(&mut tiers.former, former);
        for tier in before.union(&tiers.former).filter(|tier| !tiers.current.contains(*tier)) {
            for usage in USAGES.into_iter().chain([ESTIMATED]) {
                self.tokens.remove(&TokenLabels { tier: Arc::clone(tier), usage });
            }
            for limit in [LimitKind::Requests, LimitKind::Tokens] {
                for fits in [true, false] {
                    let labels = LimitLabels { tier: Arc::clone(tier), kind: kind(limit), verdict: verdict(fits) };
                    self.limit_decisions.remove(&labels);
                }
            }
        }
    }

    /// Notes whether the folder could be read.
    pub fn reloaded(&self, successful: bool) {
        self.last_reload_successful.set(i64::from(successful));
    }

    /// The page, in the OpenMetrics text format.
    #[must_use]
    pub fn page(&self, accounts: usize, identities: usize) -> String {
        self.accounts.set(i64::try_from(accounts).unwrap_or(i64::MAX));
        self.identities.set(i64::try_from(identities).unwrap_or(i64::MAX));
        let mut page = String::new();
        if text::encode(&mut page, &self.registry).is_err() {
            // Writing to a string does not fail.
            let _ = writeln!(page, "# EOF");
        }
        page
    }
}

/// 1 µs to 2 s.
fn buckets() -> impl Iterator<Item = f64> {
    exponential_buckets(0.000_001, 2.0, 22)
}

/// The labels of tokens.
const USAGES: [&str; 5] = ["total", "input", "output", "cached", "reasoning"];
/// Tokens of answers that said no usage.
const ESTIMATED: &str = "estimated";
/// The result of a report that nobody can read.
const REFUSED: &str = "refused";

fn verdict(fits: bool) -> &'static str {
    if fits { "fits" } else { "exceeds" }
}

fn kind(kind: LimitKind) -> &'static str {
    match kind {
        LimitKind::Requests => "requests",
        LimitKind::Tokens => "tokens",
    }
}

#[cfg(test)]
mod tests;
