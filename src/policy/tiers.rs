//! The tiers that limits are for.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::manifest::{LimitPolicy, Manifests};

/// The tiers that limits name. Where the mapping is not ours, these are the tiers that we know of.
pub(crate) fn named(manifests: &Manifests) -> BTreeSet<Arc<str>> {
    let predicates = manifests.limit_policies.iter().flat_map(LimitPolicy::predicates);
    predicates
        .flat_map(|predicate| predicate.expression.literals_compared_with("auth.identity.tier"))
        .map(Arc::from)
        .collect()
}
