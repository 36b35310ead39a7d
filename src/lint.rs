//! What is wrong between objects: each is right by itself, and together they do not say what was meant.
//!
//! Each finding has its section in `docs/check.md`, and folders with and without it under `tests/data/lint`.

mod attach;
mod counters;
mod gaps;
mod gone;
mod grants;
mod groups;
mod headers;
mod misspelt;
mod paths;
mod rbac;
mod reach;
mod tiers;

#[cfg(test)]
mod tests;

use std::collections::HashMap;

pub use self::gaps::{Gaps, gaps};

use crate::manifest::{Manifests, Meta, TierSpec};
use crate::policy::{self, Compiled, Options, Policy};
use crate::problem::{Finding, InForce, ObjectName, Problem};

/// What findings about tiers look at.
struct TierContext<'m> {
    manifests: &'m Manifests,
    options: &'m Options,
    /// The tier mapping.
    mapping: &'m Meta,
    tiers: &'m [TierSpec],
    /// Whose `<instance>-tier-<tier>` namespaces belong to the tiers.
    instances: &'m [&'m str],
}

/// Compiles what was read, and looks for what is wrong between the objects.
#[must_use]
pub fn compile(manifests: Manifests, options: &Options) -> Policy {
    let Compiled { mut policy, manifests, read } = policy::compile(manifests, options);
    let mut problems = std::mem::take(&mut policy.problems);
    let mapping = policy::mapping(&manifests, options, &problems);
    let instances = policy::instances(&manifests, options);
    let mut found = Vec::new();
    objects(&manifests, options, &mut found);
    // Of two at one place that of the objects is told first.
    problems.splice(read..read, found);
    of_policy(&policy, &manifests, options, &mapping, &mut problems);
    if let Some(Ok(tiers)) = &mapping {
        gone::users(&manifests, tiers, &instances, &mut problems);
    }
    finish(&manifests, &mut problems);
    policy.problems = problems;
    policy
}

/// Findings that need only the objects.
fn objects(manifests: &Manifests, options: &Options, problems: &mut Vec<Problem>) {
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
fn of_policy(
    policy: &Policy,
    manifests: &Manifests,
    options: &Options,
    mapping: &policy::Mapping<'_>,
    problems: &mut Vec<Problem>,
) {
    let instances = &policy::instances(manifests, options);
    let meta = manifests.tier_mappings.iter().map(|mapping| &mapping.meta);
    let meta = meta.clone().find(|meta| meta.object.path() == options.tier_mapping);
    if let (Some(Ok(tiers)), Some(meta)) = (mapping, meta) {
        let world = TierContext { manifests, options, mapping: meta, tiers, instances };
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
    policy::undeclared(policy, manifests, problems);
    attach::unprotected(policy, manifests, problems);
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
fn finish(manifests: &Manifests, problems: &mut Vec<Problem>) {
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
