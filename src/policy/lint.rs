//! What is wrong between objects: each is right by itself, and together they do not say what was meant.
//!
//! Each finding has its section in `docs/check.md`, and folders with and without it under `tests/data/lint`.

mod attach;
mod counters;
mod grants;
mod groups;
mod headers;
mod misspelt;
mod paths;
mod properties;
mod rbac;
mod reach;
mod tiers;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{Attached, GatewayPlan, LimitSet, Options, Policy};
use crate::manifest::{Manifests, Meta, TierSpec};
use crate::problem::{Finding, InForce, ObjectName, Place, Problem, Severity};
use crate::rules::AuthRules;

pub(super) use self::tiers::ByTier;

type Mapping<'m> = Option<Result<&'m [TierSpec], Arc<str>>>;

/// What findings about tiers look at.
struct World<'m> {
    manifests: &'m Manifests,
    options: &'m Options,
    /// The tier mapping.
    mapping: &'m Meta,
    tiers: &'m [TierSpec],
    /// Whose `<instance>-tier-<tier>` namespaces belong to the tiers.
    instances: &'m [&'m str],
}

pub(super) fn warning(code: Finding, meta: &Meta, place: &Place, field: &str, message: String) -> Problem {
    Problem::new(code, Severity::Warning, place.clone(), message).of(&meta.object, field)
}

/// Findings that need only the objects.
pub(super) fn objects(manifests: &Manifests, options: &Options, problems: &mut Vec<Problem>) {
    attach::gateway(manifests, options, problems);
    attach::targets(manifests, problems);
    attach::parents(manifests, problems);
    rbac::rbac(manifests, problems);
    misspelt::rules(manifests, problems);
    reach::limits(manifests, problems);
    counters::counters(manifests, problems);
    headers::lifted(manifests, problems);
    tiers::other_mappings(manifests, options, problems);
}

/// Findings that need the compiled policy too.
pub(super) fn policy(
    policy: &Policy,
    manifests: &Manifests,
    options: &Options,
    (mapping, instances): (&Mapping<'_>, &[&str]),
    problems: &mut Vec<Problem>,
) {
    let meta = manifests.tier_mappings.iter().map(|mapping| &mapping.meta);
    let meta = meta.clone().find(|meta| meta.object.path() == options.tier_mapping);
    if let (Some(Ok(tiers)), Some(meta)) = (mapping, meta) {
        let world = World { manifests, options, mapping: meta, tiers, instances };
        tiers::unknown(&world, problems);
        tiers::without_limit(policy, &world, problems);
        grants::grants(&world, problems);
    } else if mapping.is_none() {
        tiers::missing_mapping(manifests, problems);
    }
    let tiers = mapping.as_ref().and_then(|mapping| mapping.as_ref().ok());
    groups::groups(manifests, meta.zip(tiers.copied()), instances, problems);
    counters::tokens_alone(policy, manifests, problems);
    paths::without_model(policy, manifests, problems);
    properties::undeclared(policy, manifests, problems);
    attach::unprotected(policy, manifests, problems);
}

/// Errors of limits that ask for what no AuthPolicy makes: they cannot be used as they stand.
pub(super) fn unmade(policy: &Policy, manifests: &Manifests) -> Vec<Problem> {
    properties::unmade(policy, manifests)
}

/// The limits that apply somewhere, with the AuthPolicy there, each combination once.
fn limit_sets(policy: &Policy) -> Vec<(Attached<AuthRules>, &LimitSet)> {
    let mut seen = HashSet::new();
    let plans = policy.gateways.iter().flat_map(GatewayPlan::plans);
    let sets = plans.flat_map(|plan| plan.limits.iter().map(move |limits| (&plan.auth, limits)));
    let combinations = sets.filter_map(|(auth, limits)| {
        let Attached::Active(set) = limits else { return None };
        let (rules, pointer) = match auth {
            Attached::Active(auth) => (Attached::Active(Arc::clone(&auth.rules)), Some(Arc::as_ptr(&auth.rules))),
            Attached::Broken(policy) => (Attached::Broken(policy.clone()), None),
            Attached::None => (Attached::None, None),
        };
        // What was put together of the same policies is one set, on however many routes.
        seen.insert((std::mem::discriminant(auth), pointer, Arc::as_ptr(set))).then_some((rules, &**set))
    });
    combinations.collect()
}

/// Findings of something that is not there. It may be in a file that could not be read.
const ABSENCES: &[Finding] = &[
    Finding::TierMappingMissing,
    Finding::TierWithoutModel,
    Finding::ModelWithoutGrant,
    Finding::RoleMissing,
    Finding::RoleWithoutModels,
    Finding::AggregationEmpty,
    Finding::TokenLimitAlone,
    Finding::PropertyUndeclared,
    Finding::CounterUndeclared,
    Finding::GatewayUnknown,
    Finding::TargetMissing,
    Finding::RouteUnattached,
    Finding::NamespaceUnknown,
    Finding::RouteUnprotected,
];

/// Puts problems into the order of the files, says what errors leave in force, and leaves out what is meant to be so, and what cannot be told yet. An error
/// cannot be meant.
pub(super) fn finish(manifests: &Manifests, problems: &mut Vec<Problem>) {
    let ignoring = manifests.metas().filter(|meta| !meta.ignored.is_empty());
    let ignored: HashMap<&ObjectName, &[Finding]> = ignoring.map(|meta| (&meta.object, &*meta.ignored)).collect();
    let is_meant = |problem: &Problem| {
        let of_object = problem.object.as_ref().and_then(|object| ignored.get(object));
        !problem.is_error() && of_object.is_some_and(|codes| codes.contains(&problem.code))
    };
    let unsure = |problem: &Problem| !manifests.unparsable.is_empty() && ABSENCES.contains(&problem.code);
    problems.retain(|problem| !is_meant(problem) && !unsure(problem));
    for problem in problems.iter_mut().filter(|problem| problem.is_error() && problem.in_force.is_none()) {
        problem.in_force = InForce::of(problem.code);
    }
    problems.sort_by(|a, b| (&a.place, &a.field).cmp(&(&b.place, &b.field)));
    // What a policy asks for all its limits is looked at for each of them, where it depends on the limit.
    problems.dedup();
}
