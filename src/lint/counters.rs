//! Limits that count together what was meant to be counted apart, or apart what was meant to be counted together.

use std::collections::{BTreeMap, BTreeSet};

use super::tiers::{ByTier, TIER, may_apply};
use crate::expression::{Expression, Reference};
use crate::limit::Quota;
use crate::manifest::{DEBT_ANNOTATION, LimitPolicy, LimitSpec, Manifests};
use crate::policy::{Attached, Limit, LimitSet, Policy};
use crate::problem::{Finding, Problem};
use crate::rules::LimitKind;

/// What an expression, or several, looks at.
#[derive(Default)]
struct Sources {
    /// Something of the caller, other than the tier.
    caller: bool,
    tier: bool,
    /// Something that the caller writes into the request.
    request: bool,
}

pub(super) fn counters(manifests: &Manifests, problems: &mut Vec<Problem>) {
    for policy in &manifests.limit_policies {
        let limits = policy.limits.iter().flatten();
        // A limit of zero is for nobody: there is nothing to count.
        let counted = limits.filter(|limit| limit.rates.iter().any(|rate| rate.limit() > 0));
        problems.extend(counted.filter_map(|limit| fault(policy, limit)));
        problems.extend(fixed_window(policy));
    }
}

fn fault(policy: &LimitPolicy, limit: &LimitSpec) -> Option<Problem> {
    let counted = Sources::of(limit.counters.iter().map(|counter| &**counter));
    let asked = Sources::of(policy.conditions(limit).map(|predicate| &*predicate.expression));
    if counted.caller {
        return None;
    }
    let problem = |code, message| {
        let field = format!("spec.limits.{}.counters", limit.name);
        policy.meta.warning(code, &limit.place, &field, message)
    };
    if counted.request {
        let written: Vec<&str> = limit.counters.iter().map(|counter| counter.source()).collect();
        let written = written.join("`, `");
        let message = format!("counts by `{written}`, which callers choose: whoever sends another one is counted anew");
        let remedy = "add a counter of the caller, such as auth.identity.userid";
        return Some(problem(Finding::CounterOfCaller, message).remedy(remedy));
    }
    // One caller, or one group of them, has a limit of its own.
    if asked.caller {
        return None;
    }
    let rates: Vec<String> = limit.rates.iter().map(|rate| shown(policy.kind, rate)).collect();
    let how = match limit.counters.is_empty() {
        true => "has no counter: all callers whom it matches",
        false if counted.tier => "counts by the tier: all of its callers",
        false => "counts by what is the same for all: all callers whom it matches",
    };
    let message = format!("{how} share {}", rates.join(", and "));
    let remedy =
        "add a counter, such as auth.identity.userid; where they are to share it, say so with tiergate.io/ignore";
    Some(problem(Finding::CounterMissing, message).remedy(remedy))
}

fn shown(kind: LimitKind, rate: &Quota) -> String {
    let what = if kind == LimitKind::Tokens { "token" } else { "request" };
    let plural = if rate.limit() == 1 { "" } else { "s" };
    format!("{} {what}{plural} {}", rate.limit(), rate.span())
}

/// Tokens are charged after the answer: at the end of a fixed window all debt is forgiven.
fn fixed_window(policy: &LimitPolicy) -> Option<Problem> {
    let mut rates = policy.limits.iter().flatten().flat_map(|limit| &limit.rates);
    if policy.kind != LimitKind::Tokens || !rates.any(|rate| rate.forgives_debt()) {
        return None;
    }
    let place = policy.meta.annotation(DEBT_ANNOTATION).map_or(&policy.meta.place, |(.., place)| place);
    let message =
        "counts tokens in windows: what an answer costs beyond its window's limit is forgiven at the end of it";
    let field = format!("metadata.annotations.{DEBT_ANNOTATION}");
    let problem = policy.meta.warning(Finding::TokensFixedWindow, place, &field, message.to_owned());
    Some(problem.remedy("remove the annotation: without it the debt is carried into the windows that follow"))
}

/// Token limits for callers whose requests nothing limits: a call that costs few tokens may be made any number of times.
pub(super) fn tokens_alone(policy: &Policy, manifests: &Manifests, problems: &mut Vec<Problem>) {
    let mut alone: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for plan in policy.combinations() {
        let in_error = plan.limits.iter().any(|limits| matches!(limits, Attached::Broken(_)));
        let sets = || plan.limits.iter().filter_map(active);
        let requests: Vec<&Limit> = sets().flat_map(LimitSet::all).filter(|l| l.kind == LimitKind::Requests).collect();
        let tokens = sets().flat_map(LimitSet::limits).filter(|limit| limit.kind == LimitKind::Tokens && !in_error);
        // The tiers that request limits name; others are looked for.
        let named = requests.iter().flat_map(|limit| tiers(limit));
        let mut limited: BTreeMap<String, bool> = named.map(|tier| (tier, true)).collect();
        let by_tier = ByTier::of(requests.iter().copied());
        let mut is_alone = |limit: &&Limit| requests.is_empty() || !is_limited(limit, &by_tier, &mut limited);
        for limit in tokens.filter(|limit| is_alone(limit)) {
            if let Some((policy, name)) = limit.name.rsplit_once('/') {
                alone.entry(policy).or_default().insert(name);
            }
        }
    }
    for policy in manifests.limit_policies.iter().filter(|policy| policy.kind == LimitKind::Tokens) {
        let Some(names) = alone.get(&*policy.meta.object.path()) else { continue };
        let names = names.iter().copied().collect::<Vec<_>>().join("`, `");
        let message = format!("no request limit is for the callers of `{names}`: only tokens are counted");
        let place = &policy.limits_place;
        let problem = policy.meta.warning(Finding::TokenLimitAlone, place, "spec.limits", message);
        problems.push(problem.remedy("add a RateLimitPolicy: tokens are known only after the answer"));
    }
}

fn active(limits: &Attached<LimitSet>) -> Option<&LimitSet> {
    match limits {
        Attached::Active(set) => Some(set),
        Attached::None | Attached::Broken(_) => None,
    }
}

/// Whether one of `requests` is for each of the tiers that a token limit names. `limited` remembers which tiers they are for.
fn is_limited(limit: &Limit, requests: &ByTier<'_>, limited: &mut BTreeMap<String, bool>) -> bool {
    tiers(limit).into_iter().all(|tier| *limited.entry(tier).or_insert_with_key(|tier| requests.any_for(tier)))
}

/// The tiers that a limit names, and is for.
fn tiers(limit: &Limit) -> Vec<String> {
    let named = limit.when.iter().flat_map(|expression| expression.literals_compared_with(TIER));
    named.filter(|tier| may_apply(limit, tier)).collect()
}

// === impl Sources ===

impl Sources {
    fn of<'e>(expressions: impl Iterator<Item = &'e Expression>) -> Self {
        let mut sources = Sources::default();
        for reference in expressions.flat_map(Expression::references) {
            match reference {
                Reference::Attribute(_) | Reference::Headers | Reference::Header(_) => sources.request = true,
                // A tier is all of its callers.
                Reference::Property(_, name) if name == "tier" => sources.tier = true,
                _ => sources.caller = true,
            }
        }
        sources
    }
}
