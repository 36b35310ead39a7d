//! RBAC objects that do not do what they were written for.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::manifest::{Manifests, Meta, Role, RoleBinding};
use crate::policy::aggregate;
use crate::problem::{Finding, Problem, Severity};
use crate::rules::PolicyRule;

/// The resource that models are, and what their callers need.
pub(super) const GROUP: &str = "serving.kserve.io";
pub(super) const RESOURCE: &str = "llminferenceservices";
pub(super) const VERB: &str = "post";

/// A binding whose role is there, with the rules that the role has in effect.
pub(super) struct ResolvedBinding<'m> {
    pub(super) binding: &'m RoleBinding,
    pub(super) role: &'m Role,
    pub(super) rules: Arc<[PolicyRule]>,
}

pub(super) fn rbac(manifests: &Manifests, problems: &mut Vec<Problem>) {
    bindings(manifests, problems);
    aggregations(manifests, problems);
    without_models(manifests, problems);
}

fn bindings(manifests: &Manifests, problems: &mut Vec<Problem>) {
    let roles = roles(manifests);
    for binding in &manifests.role_bindings {
        // The ClusterRoles that every cluster has are seldom in a folder.
        if !roles.contains_key(&role_of(binding)) {
            let kind = if binding.cluster_role { "ClusterRole" } else { "Role" };
            let message = format!("{kind} `{}` is not there, so the binding grants nothing", binding.role);
            let problem = binding.meta.warning(Finding::RoleMissing, &binding.role_place, "roleRef", message);
            let place = if binding.cluster_role { "the folder" } else { &**binding.meta.namespace() };
            problems.push(problem.remedy(format!("add the {kind} to {place}, or name one that is there")));
        }
    }
}

/// Roles, by namespace and name.
fn roles(manifests: &Manifests) -> HashMap<(&str, &str), usize> {
    let roles = manifests.roles.iter().enumerate();
    roles.map(|(at, role)| ((&**role.meta.namespace(), &**role.meta.name()), at)).collect()
}

fn role_of(binding: &RoleBinding) -> (&str, &str) {
    let namespace = if binding.cluster_role { "" } else { &**binding.meta.namespace() };
    (namespace, &binding.role)
}

pub(super) fn bound(manifests: &Manifests) -> Vec<ResolvedBinding<'_>> {
    let (roles, rules) = (roles(manifests), aggregate::rules(&manifests.roles));
    let bound = |binding| {
        let at = *roles.get(&role_of(binding))?;
        Some(ResolvedBinding { binding, role: manifests.roles.get(at)?, rules: Arc::clone(rules.get(at)?) })
    };
    manifests.role_bindings.iter().filter_map(bound).collect()
}

/// Rules that do not come, and rules that are not used.
fn aggregations(manifests: &Manifests, problems: &mut Vec<Problem>) {
    if let Some(problem) = too_many_aggregations(&manifests.roles) {
        problems.push(problem);
        return;
    }
    let holders = aggregate::holders(&manifests.roles);
    for (i, (role, holders)) in manifests.roles.iter().zip(holders).enumerate() {
        let Some(aggregation) = &role.aggregation else { continue };
        let (code, message, remedy) = if holders.iter().all(|holder| *holder == i) {
            let message = "matches no ClusterRole of the folder that has rules";
            (Finding::AggregationEmpty, message, "add it to the folder, or check its labels")
        } else if !role.rules.is_empty() {
            let message = "replaces the role's own `rules`";
            (Finding::AggregationReplacesRules, message, "put them into a ClusterRole that is matched")
        } else {
            continue;
        };
        problems
            .push(role.meta.warning(code, &aggregation.place, "aggregationRule", message.to_owned()).remedy(remedy));
    }
}

fn too_many_aggregations(roles: &[Role]) -> Option<Problem> {
    let (role, first) = roles.iter().find_map(|role| Some((role, role.aggregation.as_ref()?)))?;
    aggregate::too_many(roles).then(|| {
        let number = roles.len();
        let message = format!("there are too many to fill in among {number} roles, so none of them grants anything");
        let problem = role.meta.warning(Finding::Unsupported, &first.place, "aggregationRule", message);
        let problem = problem.remedy("keep fewer aggregated ClusterRoles in the folder");
        Problem { severity: Severity::Error, ..problem }
    })
}

/// A role in the wrong namespace, a common mistake: it grants models where none is. The same goes for the binding of a
/// ClusterRole.
fn without_models(manifests: &Manifests, problems: &mut Vec<Problem>) {
    let namespaces: BTreeSet<&str> = manifests.models.iter().map(|model| &**model.meta.namespace()).collect();
    if namespaces.is_empty() {
        return;
    }
    let elsewhere = |meta: &Meta| !meta.namespace().is_empty() && !namespaces.contains(&**meta.namespace());
    let shown = namespaces.iter().copied().collect::<Vec<_>>().join(", ");
    let mut report = |meta: &Meta| {
        let message = "grants models in a namespace where none is".to_owned();
        let place = &meta.namespace_place;
        let problem = meta.warning(Finding::RoleWithoutModels, place, "metadata.namespace", message);
        problems.push(problem.remedy(format!("models are in {shown}")));
    };
    let names_models = |role: &&Role| role.rules.iter().any(|rule| rule.resources.iter().any(|name| name == RESOURCE));
    manifests
        .roles
        .iter()
        .filter(|role| elsewhere(&role.meta))
        .filter(names_models)
        .for_each(|role| report(&role.meta));
    let of_cluster_role = bound(manifests).into_iter().filter(|bound| bound.binding.cluster_role);
    for bound in of_cluster_role.filter(|bound| elsewhere(&bound.binding.meta)) {
        if bound.rules.iter().any(|rule| rule.resources.iter().any(|name| name == RESOURCE)) {
            report(&bound.binding.meta);
        }
    }
}
