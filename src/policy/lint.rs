//! What is wrong between objects: each is right by itself, and together they do not say what was meant.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::json;

use super::{Attached, Attributes, GatewayPlan, LimitKind, Object, Options, Policy, Scope, aggregate};
use crate::manifest::{
    LimitSpec, Manifests, Meta, ModelGrant, ObjectName, Place, Problem, Severity, Target, TierSpec, did_you_mean,
};

const TIER: &str = "auth.identity.tier";

type Mapping<'m> = Option<Result<&'m [TierSpec], Arc<str>>>;

pub(super) fn warning(meta: &Meta, place: &Place, field: &str, message: String) -> Problem {
    Problem {
        severity: Severity::Warning,
        place: place.clone(),
        object: Some(meta.object.clone()),
        field: field.to_owned(),
        message,
        expected: None,
        remedy: None,
    }
}

/// Warnings that need only the objects.
pub(super) fn objects(manifests: &Manifests, options: &Options, problems: &mut Vec<Problem>) {
    targets(manifests, problems);
    parents(manifests, problems);
    bindings(manifests, problems);
    aggregations(manifests, problems);
    roles_without_models(manifests, problems);
    for mapping in &manifests.tier_mappings {
        let reads_as_tiers = mapping.tiers.as_ref().is_some_and(|tiers| !tiers.is_empty());
        if reads_as_tiers && mapping.meta.object.path() != options.tier_mapping {
            let message = format!("is not the tier mapping, which is {}", options.tier_mapping);
            let problem = warning(&mapping.meta, &mapping.meta.place, "", message);
            problems.push(problem.remedy("set --tier-mapping if this one is meant"));
        }
    }
}

fn targets(manifests: &Manifests, problems: &mut Vec<Problem>) {
    let auth = manifests.auth_policies.iter().map(|policy| (&policy.meta, &policy.target, &policy.target_place));
    let limits = manifests.limit_policies.iter().map(|policy| (&policy.meta, &policy.target, &policy.target_place));
    for (meta, target, place) in auth.chain(limits) {
        let (known, name): (Vec<&ObjectName>, _) = match target {
            Target::Unknown => continue,
            Target::Gateway { name, .. } => (manifests.gateways.iter().map(|g| &g.meta.object).collect(), name),
            Target::HttpRoute { name, .. } => (manifests.routes.iter().map(|r| &r.meta.object).collect(), name),
        };
        if known.iter().any(|object| object.name == *name && object.namespace == *meta.namespace()) {
            problems.extend(missing_section(manifests, meta, target, place));
            continue;
        }
        let message = format!("{target} is not there, so the policy has no effect");
        let mut problem = warning(meta, place, "spec.targetRef", message);
        if let Some(other) = known.iter().find(|object| object.name == *name) {
            problem = problem.remedy(format!("a policy has to be in its target's namespace: {other}"));
        } else if let Some(meant) = did_you_mean(name, known.iter().map(|object| &*object.name)) {
            problem = problem.remedy(format!("did you mean `{meant}`?"));
        }
        problems.push(problem);
    }
}

/// A policy for a listener or rule that its target does not have.
fn missing_section(manifests: &Manifests, meta: &Meta, target: &Target, place: &Place) -> Option<Problem> {
    let section = target.section()?;
    let is = |object: &ObjectName| target.whole().to_string() == format!("{} {}", object.kind, object.path());
    let gateway = manifests.gateways.iter().find(|gateway| is(&gateway.meta.object));
    let route = manifests.routes.iter().find(|route| is(&route.meta.object));
    let listeners = gateway.into_iter().flat_map(|gateway| gateway.listeners.iter().map(|l| l.name.clone()));
    let rules = route.into_iter().flat_map(|route| (0..route.rules.len()).map(|at| route.rule_name(at)));
    let known: Vec<String> = listeners.chain(rules).collect();
    if known.iter().any(|name| *name == **section) {
        return None;
    }
    let message = format!("{} has no section `{section}`, so the policy has no effect", target.whole());
    let problem = warning(meta, place, "spec.targetRef.sectionName", message);
    let problem = problem.expected(format!("one of {}", known.join(", ")));
    Some(match did_you_mean(section, known.iter().map(String::as_str)) {
        Some(meant) => problem.remedy(format!("did you mean `{meant}`?")),
        None => problem.remedy("name a listener of the Gateway, or a rule of the HTTPRoute"),
    })
}

fn parents(manifests: &Manifests, problems: &mut Vec<Problem>) {
    for route in &manifests.routes {
        let attached = manifests.gateways.iter().any(|gateway| !route.hosts_on(gateway).is_empty());
        if !attached {
            let message = "attaches to no listener of a known Gateway, so no request reaches it".to_owned();
            let problem = warning(&route.meta, &route.parents_place, "spec.parentRefs", message);
            problems.push(problem.remedy("check the parent's name and namespace, allowedRoutes and hostnames"));
        }
    }
}

fn bindings(manifests: &Manifests, problems: &mut Vec<Problem>) {
    for binding in &manifests.role_bindings {
        let namespace = if binding.cluster_role { "" } else { &**binding.meta.namespace() };
        let found = manifests
            .roles
            .iter()
            .any(|role| **role.meta.namespace() == *namespace && **role.meta.name() == *binding.role);
        // The ClusterRoles that every cluster has are seldom in a folder.
        if !found {
            let kind = if binding.cluster_role { "ClusterRole" } else { "Role" };
            let message = format!("{kind} `{}` is not there, so the binding grants nothing", binding.role);
            problems.push(warning(&binding.meta, &binding.role_place, "roleRef", message));
        }
    }
}

/// Rules that do not come, and rules that are not used.
fn aggregations(manifests: &Manifests, problems: &mut Vec<Problem>) {
    if aggregate::too_many(&manifests.roles)
        && let Some((role, first)) = manifests.roles.iter().find_map(|role| Some((role, role.aggregation.as_ref()?)))
    {
        let message = format!(
            "there are too many to fill in among {} roles, so none of them grants anything",
            manifests.roles.len()
        );
        let problem = warning(&role.meta, &first.place, "aggregationRule", message);
        problems.push(
            Problem { severity: Severity::Error, ..problem }.remedy("keep fewer aggregated ClusterRoles in the folder"),
        );
        return;
    }
    let holders = aggregate::holders(&manifests.roles);
    for (i, (role, holders)) in manifests.roles.iter().zip(holders).enumerate() {
        let Some(aggregation) = &role.aggregation else { continue };
        let (message, remedy) = if holders.iter().all(|holder| *holder == i) {
            ("matches no ClusterRole of the folder that has rules", "add it to the folder, or check its labels")
        } else if !role.rules.is_empty() {
            ("replaces the role's own `rules`", "put them into a ClusterRole that is matched")
        } else {
            continue;
        };
        problems.push(warning(&role.meta, &aggregation.place, "aggregationRule", message.to_owned()).remedy(remedy));
    }
}

/// A role in the wrong namespace, a common mistake: it grants models where none is.
fn roles_without_models(manifests: &Manifests, problems: &mut Vec<Problem>) {
    for role in manifests.roles.iter().filter(|role| !role.meta.namespace().is_empty()) {
        let grants = role.rules.iter().any(|rule| rule.resources.iter().any(|name| name == "llminferenceservices"));
        let models = || manifests.models.iter().map(|model| &model.meta.object);
        if !grants || manifests.models.is_empty() || models().any(|model| model.namespace == *role.meta.namespace()) {
            continue;
        }
        let namespaces: BTreeSet<&str> = models().map(|model| &*model.namespace).collect();
        let namespaces: Vec<&str> = namespaces.into_iter().collect();
        let message = "grants models in a namespace where none is".to_owned();
        let problem = warning(&role.meta, &role.meta.namespace_place, "metadata.namespace", message);
        problems.push(problem.remedy(format!("models are in {}", namespaces.join(", "))));
    }
}

/// Warnings that need the compiled policy too.
pub(super) fn policy(policy: &Policy, manifests: &Manifests, mapping: &Mapping<'_>, problems: &mut Vec<Problem>) {
    if let Some(Ok(tiers)) = mapping {
        predicates(manifests, tiers, problems);
        annotations(manifests, tiers, problems);
        tiers_without_limit(manifests, tiers, problems);
    } else if mapping.is_none() {
        missing_mapping(manifests, problems);
    }
    unprotected(policy, manifests, problems);
}

fn missing_mapping(manifests: &Manifests, problems: &mut Vec<Problem>) {
    for auth in &manifests.auth_policies {
        let Some(rules) = &auth.rules else { continue };
        if let (Some(place), Some(lookup)) = (&rules.metadata_place, rules.metadata.first()) {
            let message =
                format!("there is no tier mapping here, so tiers are asked for at {}", lookup.what.endpoint.url);
            let problem = warning(&auth.meta, place, "spec.rules.metadata", message);
            let remedy = "add the ConfigMap tier-to-group-mapping, or set --tier-mapping, to look them up in process";
            problems.push(problem.remedy(remedy));
        }
    }
}

/// A typing error of many guides: `premum` for `premium` matches nobody.
fn predicates(manifests: &Manifests, tiers: &[TierSpec], problems: &mut Vec<Problem>) {
    for policy in &manifests.limit_policies {
        let predicates = policy.limits.iter().flatten().flat_map(|limit| &limit.when);
        for predicate in predicates {
            for name in predicate.expression.literals_compared_with(TIER) {
                if tiers.iter().any(|tier| tier.name == name) {
                    continue;
                }
                let message = format!("names tier `{name}`, which is not in the tier mapping");
                let problem = warning(&policy.meta, &predicate.place, &predicate.field, message);
                problems.push(unknown_tier(problem, &name, tiers));
            }
        }
    }
}

fn annotations(manifests: &Manifests, tiers: &[TierSpec], problems: &mut Vec<Problem>) {
    for model in &manifests.models {
        let ModelGrant::Tiers(granted, place) = &model.grant else {
            continue;
        };
        for name in granted.iter().filter(|name| tiers.iter().all(|tier| tier.name != **name)) {
            let message = format!("grants the model to tier `{name}`, which is not in the tier mapping");
            let problem = warning(&model.meta, place, "metadata.annotations", message);
            problems.push(unknown_tier(problem, name, tiers));
        }
    }
}

fn unknown_tier(problem: Problem, name: &str, tiers: &[TierSpec]) -> Problem {
    let names: Vec<&str> = tiers.iter().map(|tier| tier.name.as_str()).collect();
    let meant = did_you_mean(name, names.iter().copied());
    let problem = problem.expected(format!("one of {}", names.join(", ")));
    problem.remedy(match meant {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => "add the tier to the mapping; until then this has no effect".to_owned(),
    })
}

/// Silence that surprises: a new tier without a limit is not limited at all.
fn tiers_without_limit(manifests: &Manifests, tiers: &[TierSpec], problems: &mut Vec<Problem>) {
    for policy in &manifests.limit_policies {
        let Some(limits) = &policy.limits else { continue };
        if limits.is_empty() {
            continue;
        }
        let names = tiers.iter().map(|tier| tier.name.as_str());
        let without: Vec<&str> = names.filter(|tier| !limits.iter().any(|limit| may_apply(limit, tier))).collect();
        if !without.is_empty() {
            let what = if policy.kind == LimitKind::Tokens { "token" } else { "request" };
            let message = format!("has no {what} limit for tier {}", without.join(", "));
            let problem = warning(&policy.meta, &policy.limits_place, "spec.limits", message);
            problems.push(problem.remedy("add a limit; --without-limit says what happens to callers who match none"));
        }
    }
}

/// Whether a limit may apply to a caller of `tier`: what depends on more than the tier may.
fn may_apply(limit: &LimitSpec, tier: &str) -> bool {
    let identity = json!({ "tier": tier });
    let scope = Scope {
        request: Attributes::default(),
        identity: Some(Object { base: Some(&identity), extra: &[] }),
        metadata: &[],
    };
    limit.when.iter().all(|predicate| predicate.expression.eval_bool(&scope) != Ok(false))
}

fn unprotected(policy: &Policy, manifests: &Manifests, problems: &mut Vec<Problem>) {
    for route in &manifests.routes {
        let name = route.meta.object.path();
        let plans = policy.gateways.iter().flat_map(GatewayPlan::plans);
        let mut plans = plans.filter(|plan| *plan.name == *name);
        if plans.any(|plan| matches!(plan.auth, Attached::None)) {
            let message = "has no AuthPolicy, neither of its own nor of its Gateway".to_owned();
            let problem = warning(&route.meta, &route.meta.place, "", message);
            problems.push(problem.remedy("requests are refused; --without-policy allow lets everyone through"));
        }
    }
}
