//! Series of what the policy names: tiers, models and limits.
//!
//! They are made when a snapshot is published, and dropped when it no longer names them. On the path of a request they are only
//! looked up: no lock, no allocation, and nothing that a caller sends makes one.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use hashbrown::HashMap;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use smallvec::SmallVec;

use crate::family::{Family, Registry, register};
use crate::gate::{Evidence, LimitEvidence};
use crate::limit::{CellId, Verdict};
use crate::policy::{Attached, LimitKind, LimitSet, Policy};
use crate::usage::{ModelId, Reservation, Settlement, Usage};

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Allowed,
    Refused,
    Undecided,
}

/// The families that have these series.
#[derive(Debug, Default)]
pub(super) struct Families {
    tier_decisions: Family<TierLabels, Counter>,
    limit_decisions: Family<LimitDecisionLabels, Counter>,
    usage_tokens: Family<TierTokenLabels, Counter>,
    model_decisions: Family<ModelLabels, Counter>,
    model_tokens: Family<ModelTokenLabels, Counter>,
    limit_checks: Family<LimitCheckLabels, Counter>,
    limit_tokens: Family<LimitTokenLabels, Counter>,
}

/// The series of one snapshot.
#[derive(Debug)]
pub(super) struct Series {
    tiers: HashMap<Arc<str>, OfTier>,
    no_tier: OfTier,
    /// By `namespace/name`; and by what reservations carry.
    models: HashMap<String, Arc<OfModel>>,
    models_by_id: HashMap<ModelId, Arc<OfModel>>,
    no_model: OfModel,
    other_model: OfModel,
    /// By `namespace/policy/limit`.
    limits: ByKind<HashMap<Arc<str>, Arc<OfLimit>>>,
    other_limit: ByKind<Arc<OfLimit>>,
    /// The limit of each cell that tokens are charged to.
    cells: HashMap<CellId, Arc<OfLimit>>,
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
    tokens: [Counter; USAGES.len()],
}

#[derive(Debug)]
struct OfModel {
    decisions: [Counter; OUTCOMES.len()],
    tokens: [Counter; USAGES.len()],
}

#[derive(Debug)]
struct OfLimit {
    checks: [Counter; VERDICTS.len()],
    /// Of a token limit.
    tokens: Option<Counter>,
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
struct TierTokenLabels {
    tier: Arc<str>,
    usage: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct ModelLabels {
    model: Arc<str>,
    namespace: Arc<str>,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct ModelTokenLabels {
    model: Arc<str>,
    namespace: Arc<str>,
    usage: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct LimitCheckLabels {
    kind: &'static str,
    limit: Arc<str>,
    policy: Arc<str>,
    verdict: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct LimitTokenLabels {
    limit: Arc<str>,
    policy: Arc<str>,
}

const OUTCOMES: [&str; 3] = ["allowed", "refused", "undecided"];
const VERDICTS: [&str; 2] = ["exceeds", "fits"];
const USAGES: [&str; 6] = ["total", "input", "output", "cached", "reasoning", "estimated"];
/// What is not named.
const OTHER: &str = "other";
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
        register(registry, "tiergate_limit_tokens", self.limit_tokens.clone());
        register(registry, "tiergate_usage_tokens", self.usage_tokens.clone());
        register(registry, "tiergate_model_tokens", self.model_tokens.clone());
    }

    /// The series of what `policy` names. What had some `before` keeps them before others get any.
    pub(super) fn of(&self, policy: &Policy, before: Option<&Series>) -> Series {
        let tiers = policy.known_tiers().map(|tier| (Arc::clone(tier), self.tier(tier)));
        let mut series = Series {
            tiers: tiers.collect(),
            no_tier: self.tier(&Arc::default()),
            models: HashMap::new(),
            models_by_id: HashMap::new(),
            no_model: self.model("", ""),
            other_model: self.model("", OTHER),
            limits: ByKind::default(),
            other_limit: ByKind {
                requests: Arc::new(self.limit(LimitKind::Requests, "", OTHER)),
                tokens: Arc::new(self.limit(LimitKind::Tokens, "", OTHER)),
            },
            cells: HashMap::new(),
        };
        let names = policy.models.iter().flat_map(|(ns, names)| names.iter().map(move |name| format!("{ns}/{name}")));
        let had = |name: &String| before.is_some_and(|before| before.models.contains_key(name));
        for name in chosen(names.collect(), had) {
            let (namespace, model) = name.split_once('/').unwrap_or_default();
            let of_model = Arc::new(self.model(namespace, model));
            series.models_by_id.insert(ModelId::of(&name), Arc::clone(&of_model));
            series.models.insert(name, of_model);
        }
        for kind in [LimitKind::Requests, LimitKind::Tokens] {
            let had = |name: &Arc<str>| before.is_some_and(|before| before.limits.get(kind).contains_key(name));
            let limits = sets(policy).flat_map(|(set, ..)| set.all()).filter(|limit| limit.kind == kind);
            for name in chosen(limits.map(|limit| Arc::clone(&limit.name)).collect(), had) {
                let (policy, limit) = parts(&name);
                let of_limit = Arc::new(self.limit(kind, policy, limit));
                series.limits.get_mut(kind).insert(name, of_limit);
            }
        }
        series.find_cells(policy);
        series
    }

    /// Drops what `series` are not.
    pub(super) fn keep(&self, series: &Series) {
        let tier = |tier: &Arc<str>| tier.is_empty() || series.tiers.contains_key(tier);
        self.tier_decisions.retain(|labels| tier(&labels.tier));
        self.limit_decisions.retain(|labels| tier(&labels.tier));
        self.usage_tokens.retain(|labels| tier(&labels.tier));
        let model = |namespace: &str, model: &str| {
            namespace.is_empty() || series.models.contains_key(&format!("{namespace}/{model}"))
        };
        self.model_decisions.retain(|labels| model(&labels.namespace, &labels.model));
        self.model_tokens.retain(|labels| model(&labels.namespace, &labels.model));
        let limit = |kind: LimitKind, policy: &str, limit: &str| {
            policy.is_empty() || series.limits.get(kind).contains_key(&*format!("{policy}/{limit}"))
        };
        self.limit_tokens.retain(|labels| limit(LimitKind::Tokens, &labels.policy, &labels.limit));
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
            tokens: USAGES.map(|usage| self.usage_tokens.get(&TierTokenLabels { tier: tier(), usage })),
        }
    }

    fn model(&self, namespace: &str, model: &str) -> OfModel {
        let (namespace, model): (Arc<str>, Arc<str>) = (namespace.into(), model.into());
        let name = || (Arc::clone(&model), Arc::clone(&namespace));
        OfModel {
            decisions: OUTCOMES.map(|outcome| {
                let (model, namespace) = name();
                self.model_decisions.get(&ModelLabels { model, namespace, outcome })
            }),
            tokens: USAGES.map(|usage| {
                let (model, namespace) = name();
                self.model_tokens.get(&ModelTokenLabels { model, namespace, usage })
            }),
        }
    }

    fn limit(&self, kind: LimitKind, policy: &str, limit: &str) -> OfLimit {
        let (policy, limit): (Arc<str>, Arc<str>) = (policy.into(), limit.into());
        let name = || (Arc::clone(&limit), Arc::clone(&policy));
        let of_kind = match kind {
            LimitKind::Requests => "requests",
            LimitKind::Tokens => "tokens",
        };
        let tokens = (kind == LimitKind::Tokens).then(|| {
            let (limit, policy) = name();
            self.limit_tokens.get(&LimitTokenLabels { limit, policy })
        });
        let checks = VERDICTS.map(|verdict| {
            let (limit, policy) = name();
            self.limit_checks.get(&LimitCheckLabels { kind: of_kind, limit, policy, verdict })
        });
        OfLimit { checks, tokens }
    }
}

/// At most [`MOST`] of them; those that were there before come first.
fn chosen<T: Ord>(all: BTreeSet<T>, had: impl Fn(&T) -> bool) -> impl Iterator<Item = T> {
    let (kept, new): (Vec<T>, Vec<T>) = all.into_iter().partition(had);
    kept.into_iter().chain(new).take(MOST)
}

/// `namespace/policy` and `limit`.
fn parts(name: &str) -> (&str, &str) {
    let slash = name.match_indices('/').nth(1).map(|(at, _)| at);
    slash.and_then(|at| Some((name.get(..at)?, name.get(at + 1..)?))).unwrap_or(("", name))
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
    pub(super) fn decided(&self, outcome: Outcome, evidence: &Evidence) {
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

    /// Counts the tokens of a report that was charged.
    pub(super) fn settled(&self, reservation: &Reservation, usage: &Usage, settlement: Settlement) {
        let (charged, estimated) = match settlement {
            Settlement::Settled(tokens) => (tokens, None),
            Settlement::Estimated(tokens) => (tokens, Some(tokens)),
            _ => return,
        };
        // A report can come a day after its tier is gone: its tokens are counted, under no tier.
        let tier = self.tier(Some(&reservation.tier));
        let model = match reservation.model {
            ModelId::NONE => &self.no_model,
            id => self.models_by_id.get(&id).map_or(&self.other_model, |model| model),
        };
        let numbers = [usage.tokens(), usage.input, usage.output, usage.cached, usage.reasoning, estimated];
        for ((of_tier, of_model), number) in tier.tokens.iter().zip(&model.tokens).zip(numbers) {
            if let Some(number) = number {
                of_tier.inc_by(number);
                of_model.inc_by(number);
            }
        }
        // A limit of several rates is charged once in each.
        let mut counted: SmallVec<[*const OfLimit; 4]> = SmallVec::new();
        for hold in &reservation.holds {
            let limit = self.cells.get(&hold.cell).unwrap_or(&self.other_limit.tokens);
            if !counted.contains(&Arc::as_ptr(limit)) {
                counted.push(Arc::as_ptr(limit));
                limit.tokens.as_ref().map(|tokens| tokens.inc_by(charged));
            }
        }
    }

    fn tier(&self, tier: Option<&Arc<str>>) -> &OfTier {
        tier.and_then(|tier| self.tiers.get(tier)).unwrap_or(&self.no_tier)
    }

    fn limit(&self, limit: &LimitEvidence) -> &OfLimit {
        self.limits.get(limit.kind).get(&limit.name).unwrap_or_else(|| self.other_limit.get(limit.kind))
    }

    /// Finds which token limit has which cells.
    fn find_cells(&mut self, policy: &Policy) {
        let mut cells = HashMap::new();
        let mut add = |set: &LimitSet, route: u64, is_wanted: fn(bool) -> bool| {
            for limit in set.all().filter(|limit| limit.kind == LimitKind::Tokens && is_wanted(limit.per_route)) {
                let Some(series) = self.limits.tokens.get(&limit.name) else { continue };
                for (cell, _) in limit.cells(route) {
                    if cells.len() < MOST_CELLS {
                        cells.insert(cell, Arc::clone(series));
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
        self.cells = cells;
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
