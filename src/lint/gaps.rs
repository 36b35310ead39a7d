//! Whom no limit is for, and which routes no AuthPolicy protects.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::tiers::ByTier;
use crate::policy::{Attached, Policy, RoutePlan};
use crate::rules::LimitKind;

/// What a policy leaves out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gaps {
    /// Tiers that have no request limit on some route; empty text where tiers are not known.
    pub requests: BTreeSet<Arc<str>>,
    /// Likewise, no token limit.
    pub tokens: BTreeSet<Arc<str>>,
    /// Routes without an AuthPolicy.
    pub routes: BTreeSet<Arc<str>>,
}

/// What is left out on the routes that are not shut.
#[must_use]
pub fn gaps(policy: &Policy) -> Gaps {
    let open = |plan: &&RoutePlan| {
        let broken = plan.limits.iter().any(|limits| matches!(limits, Attached::Broken(_)));
        !broken && !matches!(plan.auth, Attached::Broken(_))
    };
    let mut tiers: Vec<Arc<str>> = policy.known_tiers().map(Arc::clone).collect();
    if tiers.is_empty() {
        tiers.push("".into());
    }
    let mut gaps = Gaps::default();
    let unprotected = policy.plans().filter(open).filter(|plan| matches!(plan.auth, Attached::None));
    gaps.routes.extend(unprotected.map(|plan| Arc::clone(&plan.name)));
    for plan in policy.combinations().filter(open) {
        for (kind, gaps) in [(LimitKind::Requests, &mut gaps.requests), (LimitKind::Tokens, &mut gaps.tokens)] {
            let limits = limits(plan, kind);
            gaps.extend(tiers.iter().filter(|tier| !limits.any_for(tier)).map(Arc::clone));
        }
    }
    gaps
}

/// The limits that apply; one in shadow refuses nobody.
fn limits(plan: &RoutePlan, kind: LimitKind) -> ByTier<'_> {
    let sets = plan.limits.iter().filter_map(Attached::active);
    ByTier::of(sets.flat_map(|set| set.limits()).filter(|limit| limit.kind == kind))
}
