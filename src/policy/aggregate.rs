//! The rules of aggregated ClusterRoles, as the cluster's aggregation controller fills them in
//! (`pkg/controller/clusterroleaggregation`).
//!
//! They are those of the ClusterRoles that the selectors match, which may be aggregated themselves. The role's own `rules`
//! are replaced; the controller leaves them only where there is nothing to put in their place. Around a circle, which own
//! rules survive depends on the order in which the controller comes by: here none do.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::manifest::Role;
use crate::rules::PolicyRule;

/// Roles, by their index, whose `rules` as written a role has in effect.
pub(crate) type Holders = BTreeSet<usize>;

/// Aggregated roles times all roles: far above any cluster's, and bearable in time and memory.
const MAX_PAIRS: usize = 10_000_000;

/// A role on the way to its rules.
struct RoleNode {
    /// The ClusterRoles that it takes rules from.
    sources: Vec<usize>,
    has_rules: bool,
    /// `None` until it is known.
    holders: Option<Holders>,
}

/// The rules that each of `roles` has in effect.
pub(crate) fn rules(roles: &[Role]) -> Vec<Arc<[PolicyRule]>> {
    // Roles that aggregate the same have one list: the sum of all lists could be the square of the folder.
    let mut lists: HashMap<Holders, Arc<[PolicyRule]>> = HashMap::new();
    let collect = |holders: &Holders| {
        let held = holders.iter().filter_map(|i| roles.get(*i));
        held.flat_map(|role| &role.rules).cloned().collect()
    };
    let list = |holders: Holders| Arc::clone(lists.entry(holders).or_insert_with_key(collect));
    holders(roles).into_iter().map(list).collect()
}

/// Whether there are so many that no aggregated role is filled in: none of them grants anything then.
pub(crate) fn too_many(roles: &[Role]) -> bool {
    let aggregated = roles.iter().filter(|role| role.aggregation.is_some()).count();
    aggregated.saturating_mul(roles.len()) > MAX_PAIRS
}

/// For each of `roles`, the roles whose rules as written it has in effect.
pub(crate) fn holders(roles: &[Role]) -> Vec<Holders> {
    if too_many(roles) {
        let own = |(i, role): (usize, &Role)| role.aggregation.is_none().then_some(i).into_iter().collect();
        return roles.iter().enumerate().map(own).collect();
    }
    let mut nodes: Vec<RoleNode> = roles.iter().map(|role| RoleNode::new(role, roles)).collect();
    settle(&mut nodes);
    circles(&mut nodes);
    nodes.into_iter().map(|node| node.holders.unwrap_or_default()).collect()
}

/// Settles the roles whose sources are all settled, until there are no more.
fn settle(nodes: &mut [RoleNode]) {
    loop {
        let mut changed = false;
        for i in 0..nodes.len() {
            let Some(node) = nodes.get(i).filter(|node| node.holders.is_none()) else { continue };
            let Some(mut holders) = node.union(nodes) else { continue };
            if holders.is_empty() && node.has_rules {
                holders.insert(i);
            }
            changed = true;
            if let Some(node) = nodes.get_mut(i) {
                node.holders = Some(holders);
            }
        }
        if !changed {
            return;
        }
    }
}

/// What is left waits for itself. It gets what flows into the circle, and nothing of its own.
fn circles(nodes: &mut [RoleNode]) {
    let left: Vec<usize> =
        (0..nodes.len()).filter(|i| nodes.get(*i).is_some_and(|node| node.holders.is_none())).collect();
    for node in nodes.iter_mut() {
        node.holders.get_or_insert_default();
    }
    // Ends because sets only grow.
    loop {
        let mut changed = false;
        for i in &left {
            let grown = nodes.get(*i).and_then(|node| node.union(nodes));
            if let Some(node) = nodes.get_mut(*i).filter(|node| node.holders != grown) {
                node.holders = grown;
                changed = true;
            }
        }
        if !changed {
            return;
        }
    }
}

// === impl RoleNode ===

impl RoleNode {
    fn new(role: &Role, roles: &[Role]) -> Self {
        let mut sources = Vec::new();
        if let Some(aggregation) = &role.aggregation {
            let itself = |other: &Role| other.meta.object == role.meta.object;
            let others =
                roles.iter().enumerate().filter(|(_, other)| other.meta.namespace().is_empty() && !itself(other));
            sources.extend(others.filter(|(_, other)| aggregation.matches(&other.labels)).map(|(i, _)| i));
        }
        RoleNode { sources, has_rules: !role.rules.is_empty(), holders: None }
    }

    /// What the sources hold; `None` while that of one is not known.
    fn union(&self, nodes: &[RoleNode]) -> Option<Holders> {
        let mut union = Holders::new();
        for source in &self.sources {
            union.extend(nodes.get(*source)?.holders.as_ref()?);
        }
        Some(union)
    }
}
