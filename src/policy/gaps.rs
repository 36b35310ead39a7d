//! Whom no limit is for, and which routes no AuthPolicy protects.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Attached, GatewayPlan, LimitKind, LimitSet, Policy, RoutePlan, lint};

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

// === impl Policy ===

impl Policy {
    /// What is left out on the routes that are not shut.
    #[must_use]
    pub fn gaps(&self) -> Gaps {
        let plans = self.gateways.iter().flat_map(GatewayPlan::plans);
        let open = |plan: &&RoutePlan| {
            let broken = plan.limits.iter().any(|limits| matches!(limits, Attached::Broken(_)));
            !broken && !matches!(plan.auth, Attached::Broken(_))
        };
        let mut tiers: Vec<Arc<str>> = self.known_tiers().map(Arc::clone).collect();
        if tiers.is_empty() {
            tiers.push("".into());
        }
        let mut gaps = Gaps::default();
        for plan in plans.filter(open) {
            if matches!(plan.auth, Attached::None) {
                gaps.routes.insert(Arc::clone(&plan.name));
            }
            let of_kind = |kind| tiers.iter().filter(move |tier| !is_limited(plan, kind, tier)).map(Arc::clone);
            gaps.requests.extend(of_kind(LimitKind::Requests));
            gaps.tokens.extend(of_kind(LimitKind::Tokens));
        }
        gaps
    }
}

/// Whether a limit may apply to requests of `tier`; one in shadow refuses nobody.
fn is_limited(plan: &RoutePlan, kind: LimitKind, tier: &str) -> bool {
    let sets = plan.limits.iter().filter_map(|limits| match limits {
        Attached::Active(set) => Some(&**set),
        Attached::None | Attached::Broken(_) => None,
    });
    sets.flat_map(LimitSet::limits).filter(|limit| limit.kind == kind).any(|limit| {
        let when: Vec<_> = limit.when.iter().map(|expression| &**expression).collect();
        lint::may_apply(&when, tier)
    })
}
