//! The tiers that limits are for.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::manifest::Manifests;

/// The tiers that limits name. Where the mapping is not ours, these are the tiers that we know of.
pub(super) fn named(manifests: &Manifests) -> BTreeSet<Arc<str>> {
    let limits = manifests.limit_policies.iter().flat_map(|policy| policy.limits.iter().flatten());
    let predicates = limits.flat_map(|limit| &limit.when);
    predicates
        .flat_map(|predicate| predicate.expression.literals_compared_with("auth.identity.tier"))
        .map(Arc::from)
        .collect()
}
