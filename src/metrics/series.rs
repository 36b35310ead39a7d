//! Series of decisions on what the policy names: tiers, models and limits. Those of usage reports stand with them in `usage`.
//!
//! They are made when a snapshot is published, and dropped when it no longer names them. On the path of a request they are only
//! looked up: no lock, no allocation, and nothing that a caller sends makes one.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use hashbrown::HashMap;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;

use crate::family::{Family, Registry, register};
use crate::gate::{Evidence, LimitEvidence};
use crate::limit::{CellId, Notify, Verdict};
use crate::policy::{Attached, Limit, LimitSet, Policy};
use crate::rules::LimitKind;
use crate::usage::{Named, OTHER, policy_and_limit};

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DecisionOutcome {
    Allowed,
    Refused,
    Undecided,
}

/// The families that have these series.
#[derive(Debug, Default)]
pub(super) struct Families {
    tier_decisions: Family<TierLabels, Counter>,
    limit_decisions: Family<LimitDecisionLabels, Counter>,
    model_decisions: Family<ModelLabels, Counter>,
    limit_checks: Family<LimitCheckLabels, Counter>,
}

/// The series of one snapshot.
#[derive(Debug)]
pub(super) struct Series {
    tiers: HashMap<Arc<str>, OfTier>,
    no_tier: OfTier,
    /// By `namespace/name`.
    models: HashMap<String, OfModel>,
    no_model: OfModel,
    other_model: OfModel,
    /// By `namespace/policy/limit`.
    limits: ByKind<HashMap<Arc<str>, OfLimit>>,
    other_limit: ByKind<OfLimit>,
}

#[derive(Debug, Default)]
struct ByKind<T> {
    requests: T,
    tokens: T,
}

/// The tier is the one that was enforced, not the one that the token's namespace spells.
#[derive(Debug)]
struct OfTier {
    decisions: [Counter; OUTCOMES.len()],
    limits: ByKind<[Counter; VERDICTS.len()]>,
}

#[derive(Debug)]
struct OfModel {
    decisions: [Counter; OUTCOMES.len()],
}

#[derive(Debug)]
struct OfLimit {
    checks: [Counter; VERDICTS.len()],
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct TierLabels {
    outcome: &'static str,
    tier: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct LimitDecisionLabels {
    kind: &'static str,
    tier: Arc<str>,
    verdict: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct ModelLabels {
    model: Arc<str>,
    namespace: Arc<str>,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct LimitCheckLabels {
    kind: &'static str,
    limit: Arc<str>,
    policy: Arc<str>,
    verdict: &'static str,
}

const OUTCOMES: [&str; 3] = ["allowed", "refused", "undecided"];
const VERDICTS: [&str; 2] = ["exceeds", "fits"];
/// Models, and limits, that have series of their own. More would make a page of megabytes.
const MOST: usize = 1_000;
/// Cells whose limit is known: those of limits that count for each route by itself are many.
const MOST_CELLS: usize = 100_000;

// === impl Families ===

impl Families {
    pub(super) fn register(&self, registry: &mut Registry) {
        register(registry, "tiergate_tier_decisions", self.tier_decisions.clone());
        register(registry, "tiergate_model_decisions", self.model_decisions.clone());
        register(registry, "tiergate_limit_decisions", self.limit_decisions.clone());
        register(registry, "tiergate_limit_checks", self.limit_checks.clone());
    }

    /// The series of what `policy` names. What had some `before` keeps them before others get any.
    pub(super) fn of(&self, policy: &Policy, before: Option<&Series>) -> Series {
        let tiers = policy.known_tiers().map(|tier| (Arc::clone(tier), self.tier(tier)));
        let mut series = Series {
            tiers: tiers.collect(),
            no_tier: self.tier(&Arc::default()),
            models: HashMap::new(),
            no_model: self.model("", ""),
            other_model: self.model("", OTHER),
            limits: ByKind::default(),
            other_limit: ByKind {
                requests: self.limit(LimitKind::Requests, OTHER),
                tokens: self.limit(LimitKind::Tokens, OTHER),
            },
        };
        let names = policy.models.iter().flat_map(|(ns, names)| names.iter().map(move |name| format!("{ns}/{name}")));
        let had = |name: &String| before.is_some_and(|before| before.models.contains_key(name));
        for name in chosen(names.collect(), had) {
            let (namespace, model) = name.split_once('/').unwrap_or_default();
            let of_model = self.model(namespace, model);
            series.models.insert(name, of_model);
        }
        for kind in [LimitKind::Requests, LimitKind::Tokens] {
            let had = |name: &Arc<str>| before.is_some_and(|before| before.limits.get(kind).contains_key(name));
            let limits = sets(policy).flat_map(|(set, ..)| set.all()).filter(|limit| limit.kind == kind);
            for name in chosen(limits.map(|limit| Arc::clone(&limit.name)).collect(), had) {
                let of_limit = self.limit(kind, &name);
                series.limits.get_mut(kind).insert(name, of_limit);
            }
        }
        series
    }

    /// Drops what `series` are not.
    pub(super) fn keep(&self, series: &Series) {
        let tier = |tier: &Arc<str>| tier.is_empty() || series.tiers.contains_key(tier);
        self.tier_decisions.retain(|labels| tier(&labels.tier));
        self.limit_decisions.retain(|labels| tier(&labels.tier));
        let model = |namespace: &str, model: &str| {
            namespace.is_empty() || series.models.contains_key(&format!("{namespace}/{model}"))
        };
        self.model_decisions.retain(|labels| model(&labels.namespace, &labels.model));
        let limit = |kind: LimitKind, policy: &str, limit: &str| {
            policy.is_empty() || series.limits.get(kind).contains_key(&*format!("{policy}/{limit}"))
        };
        self.limit_checks.retain(|labels| {
            let kind = if labels.kind == "tokens" { LimitKind::Tokens } else { LimitKind::Requests };
            limit(kind, &labels.policy, &labels.limit)
        });
    }

    fn tier(&self, tier: &Arc<str>) -> OfTier {
        let tier = || Arc::clone(tier);
        let limits = |kind| {
            VERDICTS.map(|verdict| self.limit_decisions.get(&LimitDecisionLabels { kind, tier: tier(), verdict }))
        };
        OfTier {
            decisions: OUTCOMES.map(|outcome| self.tier_decisions.get(&TierLabels { outcome, tier: tier() })),
            limits: ByKind { requests: limits("requests"), tokens: limits("tokens") },
        }
    }

    fn model(&self, namespace: &str, model: &str) -> OfModel {
        let (namespace, model): (Arc<str>, Arc<str>) = (namespace.into(), model.into());
        let labels = |outcome| ModelLabels { model: Arc::clone(&model), namespace: Arc::clone(&namespace), outcome };
        OfModel { decisions: OUTCOMES.map(|outcome| self.model_decisions.get(&labels(outcome))) }
    }

    fn limit(&self, kind: LimitKind, name: &str) -> OfLimit {
        let (policy, limit) = policy_and_limit(name);
        let (policy, limit): (Arc<str>, Arc<str>) = (policy.into(), limit.into());
        let kind = match kind {
            LimitKind::Requests => "requests",
            LimitKind::Tokens => "tokens",
        };
        let checks = VERDICTS.map(|verdict| {
            let (limit, policy) = (Arc::clone(&limit), Arc::clone(&policy));
            self.limit_checks.get(&LimitCheckLabels { kind, limit, policy, verdict })
        });
        OfLimit { checks }
    }
}

/// At most [`MOST`] of them; those that were there before come first.
fn chosen<T: Ord>(all: BTreeSet<T>, had: impl Fn(&T) -> bool) -> impl Iterator<Item = T> {
    let (kept, new): (Vec<T>, Vec<T>) = all.into_iter().partition(had);
    kept.into_iter().chain(new).take(MOST)
}

/// The limits of all routes, each set once.
fn sets(policy: &Policy) -> impl Iterator<Item = (&Arc<LimitSet>, u64)> {
    let mut seen = HashSet::new();
    all_sets(policy).filter(move |(set, _)| seen.insert(Arc::as_ptr(set)))
}

/// The limits of each route, and its hash.
fn all_sets(policy: &Policy) -> impl Iterator<Item = (&Arc<LimitSet>, u64)> {
    let listeners = policy.gateways.iter().flat_map(|gateway| &gateway.listeners);
    let plans = listeners.flat_map(|listener| listener.routes.plans());
    plans.flat_map(|plan| plan.limits.iter().map(move |limits| (limits, plan.hash))).filter_map(|(limits, hash)| {
        match limits {
            Attached::Active(set) => Some((set, hash)),
            Attached::None | Attached::Broken(_) => None,
        }
    })
}

// === impl Series ===

impl Series {
    /// Counts a decision on a request, whose limits were asked.
    pub(super) fn decided(&self, outcome: DecisionOutcome, evidence: &Evidence) {
        let tier = self.tier(evidence.tier.as_ref());
        count(&tier.decisions, outcome as usize);
        let model = match &evidence.permit.model {
            None => &self.no_model,
            Some(name) => self.models.get(name.as_str()).map_or(&self.other_model, |model| model),
        };
        count(&model.decisions, outcome as usize);
        for limit in &evidence.limits {
            if let Some(verdict) = verdict(limit) {
                count(tier.limits.get(limit.kind), verdict);
                count(&self.limit(limit).checks, verdict);
            }
        }
        for limit in &evidence.shadow_limits {
            if let Some(verdict) = verdict(limit) {
                count(&self.limit(limit).checks, verdict);
            }
        }
    }

    fn tier(&self, tier: Option<&Arc<str>>) -> &OfTier {
        tier.and_then(|tier| self.tiers.get(tier)).unwrap_or(&self.no_tier)
    }

    fn limit(&self, limit: &LimitEvidence) -> &OfLimit {
        self.limits.get(limit.kind).get(&limit.name).unwrap_or_else(|| self.other_limit.get(limit.kind))
    }

    /// What of `policy`, whose series these are, the tokens of reports are counted by.
    pub(super) fn of_usage(&self, policy: &Policy) -> Named {
        Named {
            tiers: self.tiers.keys().cloned().collect(),
            models: self.models.keys().cloned().collect(),
            limits: self.limits.tokens.keys().cloned().collect(),
            cells: self.cells(policy),
            watched: self.watched(policy),
        }
    }

    /// The limits that have series and say of which parts is told.
    fn watched(&self, policy: &Policy) -> Vec<(LimitKind, Arc<str>, Arc<Notify>)> {
        let has_series = |limit: &&Limit| self.limits.get(limit.kind).contains_key(&limit.name);
        let limits = sets(policy).flat_map(|(set, _)| set.all()).filter(has_series);
        limits
            .filter_map(|limit| Some((limit.kind, Arc::clone(&limit.name), Arc::clone(limit.notify.as_ref()?))))
            .collect()
    }

    /// Which token limit has which cells.
    fn cells(&self, policy: &Policy) -> HashMap<CellId, Arc<str>> {
        let mut cells = HashMap::new();
        let mut add = |set: &LimitSet, route: u64, is_wanted: fn(bool) -> bool| {
            for limit in set.all().filter(|limit| limit.kind == LimitKind::Tokens && is_wanted(limit.per_route)) {
                if !self.limits.tokens.contains_key(&limit.name) {
                    continue;
                }
                for (cell, _) in limit.cells(route) {
                    if cells.len() < MOST_CELLS {
                        cells.insert(cell, Arc::clone(&limit.name));
                    }
                }
            }
        };
        sets(policy).for_each(|(set, route)| add(set, route, |per_route| !per_route));
        let by_route: HashSet<*const LimitSet> = sets(policy)
            .filter(|(set, _)| set.all().any(|limit| limit.per_route && limit.kind == LimitKind::Tokens))
            .map(|(set, _)| Arc::as_ptr(set))
            .collect();
        if !by_route.is_empty() {
            let of_routes = all_sets(policy).filter(|(set, _)| by_route.contains(&Arc::as_ptr(set)));
            of_routes.for_each(|(set, route)| add(set, route, |per_route| per_route));
        }
        cells
    }
}

/// Its place among [`VERDICTS`], once it was asked.
fn verdict(limit: &LimitEvidence) -> Option<usize> {
    limit.standing.as_ref().map(|standing| usize::from(standing.verdict == Verdict::Fits))
}

fn count(counters: &[Counter], at: usize) {
    counters.get(at).map(Counter::inc);
}

// === impl ByKind ===

impl<T> ByKind<T> {
    fn get(&self, kind: LimitKind) -> &T {
        match kind {
            LimitKind::Requests => &self.requests,
            LimitKind::Tokens => &self.tokens,
        }
    }

    fn get_mut(&mut self, kind: LimitKind) -> &mut T {
        match kind {
            LimitKind::Requests => &mut self.requests,
            LimitKind::Tokens => &mut self.tokens,
        }
    }
}
