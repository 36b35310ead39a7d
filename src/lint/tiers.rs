//! Tiers that are named and not there, and tiers that are there and not provided for.

use std::collections::{HashMap, HashSet};

use serde_json::json;

use super::TierContext;
use crate::expression::{Direct, Expression, Object, Scope};
use crate::manifest::{LimitSpec, Manifests, ModelGrant, TierSpec};
use crate::policy::{Limit, LimitSet, Options, Policy};
use crate::problem::{Finding, ObjectName, Problem, Severity};
use crate::rules::{LimitKind, Subject};
use crate::spelling::did_you_mean;

pub(super) const TIER: &str = "auth.identity.tier";
const ADD: &str = "add the tier to the mapping; until then this has no effect";

fn is_nearly(name: &str, wanted: &str) -> bool {
    name == wanted || did_you_mean(name, [wanted]).is_some()
}

/// ConfigMaps that look like the tier mapping and are not; an error where one has its name, or nearly, and it is not there.
pub(super) fn other_mappings(manifests: &Manifests, options: &Options, problems: &mut Vec<Problem>) {
    let is_there = manifests.tier_mappings.iter().any(|mapping| mapping.meta.object.path() == options.tier_mapping);
    let name = options.tier_mapping.rsplit('/').next();
    for mapping in &manifests.tier_mappings {
        let reads_as_tiers = mapping.tiers.as_ref().is_some_and(|tiers| !tiers.is_empty());
        if reads_as_tiers && mapping.meta.object.path() != options.tier_mapping {
            let message = format!("is not the tier mapping, which is {}", options.tier_mapping);
            let mut problem = mapping.meta.warning(Finding::TierMappingUnused, &mapping.meta.place, "", message);
            if !is_there && name.is_some_and(|name| is_nearly(mapping.meta.name(), name)) {
                problem.severity = Severity::Error;
            }
            problems.push(problem.remedy("set --tier-mapping if this one is meant"));
        }
    }
}

pub(super) fn missing_mapping(manifests: &Manifests, problems: &mut Vec<Problem>) {
    for auth in &manifests.auth_policies {
        let Some(rules) = &auth.rules else { continue };
        if let (Some(place), Some(lookup)) = (&rules.metadata_place, rules.metadata.first()) {
            let message =
                format!("there is no tier mapping here, so tiers are asked for at {}", lookup.what.endpoint.url);
            let problem = auth.meta.warning(Finding::TierMappingMissing, place, "spec.rules.metadata", message);
            let remedy = "add the ConfigMap tier-to-group-mapping, or set --tier-mapping, to look them up in process";
            problems.push(problem.remedy(remedy));
        }
    }
}

/// Whatever names a tier that is not in the mapping: a typing error, or a tier that was renamed or removed.
pub(super) fn unknown(world: &TierContext<'_>, problems: &mut Vec<Problem>) {
    predicates(world.manifests, world.tiers, problems);
    annotations(world.manifests, world.tiers, problems);
    let known: HashSet<String> = world
        .namespaces()
        .flat_map(|prefix| world.tiers.iter().map(move |tier| format!("{prefix}{}", tier.name)))
        .collect();
    bindings(world, &known, problems);
}

/// A typing error of many guides: `premum` for `premium` matches nobody.
fn predicates(manifests: &Manifests, tiers: &[TierSpec], problems: &mut Vec<Problem>) {
    for policy in &manifests.limit_policies {
        for predicate in policy.predicates() {
            for name in predicate.expression.literals_compared_with(TIER) {
                if tiers.iter().any(|tier| tier.name == name) {
                    continue;
                }
                let problem = |code, message| policy.meta.warning(code, &predicate.place, &predicate.field, message);
                problems.push(match tiers.iter().find(|tier| tier.name.eq_ignore_ascii_case(&name)) {
                    Some(tier) => {
                        let message = format!("names tier `{name}`, and the mapping has `{}`", tier.name);
                        problem(Finding::TierCase, message)
                            .remedy("write it as the mapping does: texts are compared as they are")
                    }
                    None => {
                        let message = format!("names tier `{name}`, which is not in the tier mapping");
                        unknown_tier(problem(Finding::TierUnknown, message), &name, tiers, ADD)
                    }
                });
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
            let problem = model.meta.warning(Finding::ModelTierUnknown, place, "metadata.annotations", message);
            problems.push(unknown_tier(problem, name, tiers, ADD));
        }
    }
}

/// Subjects that are the ServiceAccounts of a tier of ours that is not there.
fn bindings(world: &TierContext<'_>, known: &HashSet<String>, problems: &mut Vec<Problem>) {
    for binding in &world.manifests.role_bindings {
        for subject in &binding.subjects {
            let namespace = match subject {
                Subject::Group(group) => group.strip_prefix("system:serviceaccounts:"),
                Subject::User(user) => {
                    user.strip_prefix("system:serviceaccount:").and_then(|rest| Some(rest.split_once(':')?.0))
                }
            };
            let Some((namespace, name)) = namespace.and_then(|own| Some((own, world.unknown_tier_of(own, known)?)))
            else {
                continue;
            };
            let message =
                format!("grants to namespace `{namespace}` of tier `{name}`, which is not in the tier mapping");
            let problem =
                binding.meta.warning(Finding::BindingTierUnknown, &binding.subjects_place, "subjects", message);
            let otherwise = "put the tier back into the mapping, or remove the subject";
            problems.push(unknown_tier(problem, name, world.tiers, otherwise));
        }
    }
}

/// What is right, and what to do if it was no slip.
fn unknown_tier(problem: Problem, name: &str, tiers: &[TierSpec], otherwise: &str) -> Problem {
    let names: Vec<&str> = tiers.iter().map(|tier| tier.name.as_str()).collect();
    let meant = did_you_mean(name, names.iter().copied());
    let problem = problem.expected(format!("one of {}", names.join(", ")));
    problem.remedy(match meant {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => otherwise.to_owned(),
    })
}

/// Silence that surprises: a new tier without a limit is not limited at all.
pub(super) fn without_limit(policy: &Policy, world: &TierContext<'_>, problems: &mut Vec<Problem>) {
    let sets = policy.limit_sets();
    // Limits that were put together are those of the most specific policy.
    let mut of_policy: HashMap<&ObjectName, Vec<&LimitSet>> = HashMap::new();
    sets.iter().for_each(|(_, set)| of_policy.entry(&set.policy).or_default().push(set));
    for policy in &world.manifests.limit_policies {
        if policy.limits.as_deref().is_none_or(<[LimitSpec]>::is_empty) {
            continue;
        }
        let sets: Vec<ByTier<'_>> = match of_policy.get(&policy.meta.object) {
            Some(sets) => sets.iter().map(|set| ByTier::of(set.all())).collect(),
            // Its limits are told with those of another policy, or it is not in force.
            None => continue,
        };
        let names = world.tiers.iter().map(|tier| tier.name.as_str());
        let is_limited = |tier: &str| sets.iter().all(|limits| limits.any_for(tier));
        let without: Vec<&str> = names.filter(|tier| !is_limited(tier)).collect();
        if !without.is_empty() {
            let what = if policy.kind == LimitKind::Tokens { "token" } else { "request" };
            let message = format!("has no {what} limit for tier {}", without.join(", "));
            let place = &policy.limits_place;
            let problem = policy.meta.warning(Finding::TierWithoutLimit, place, "spec.limits", message);
            problems.push(problem.remedy("add a limit; --without-limit says what happens to callers who match none"));
        }
    }
}

/// Limits, by the tier of a caller.
pub(super) struct ByTier<'p> {
    /// Those that are for one tier alone.
    only: HashMap<&'p str, Vec<&'p Limit>>,
    others: Vec<&'p Limit>,
}

// === impl ByTier ===

impl<'p> ByTier<'p> {
    pub(super) fn of(limits: impl IntoIterator<Item = &'p Limit>) -> Self {
        let mut by_tier = ByTier { only: HashMap::new(), others: Vec::new() };
        for limit in limits {
            match limit.when.iter().find_map(|expression| only_for(expression)) {
                Some(tier) => by_tier.only.entry(tier).or_default().push(limit),
                None => by_tier.others.push(limit),
            }
        }
        by_tier
    }

    /// Whether one of them may apply to a caller of `tier`.
    pub(super) fn any_for(&self, tier: &str) -> bool {
        self.only.get(tier).into_iter().flatten().chain(&self.others).any(|limit| may_apply(limit, tier))
    }
}

/// The one tier for which a predicate can hold.
fn only_for(predicate: &Expression) -> Option<&str> {
    match predicate.direct()? {
        Direct::Equals { path, literal } if path.text_property() == Some((true, "tier")) => Some(literal),
        _ => None,
    }
}

/// Whether a limit may apply to a caller of `tier`: what depends on more than the tier may.
pub(super) fn may_apply(limit: &Limit, tier: &str) -> bool {
    let identity = json!({ "tier": tier });
    let identity = Some(Object { base: Some(&identity), extra: &[] });
    let scope = Scope { identity, ..Scope::default() };
    limit.when.iter().all(|expression| expression.eval_bool(&scope) != Ok(false))
}

// === impl TierContext ===

impl TierContext<'_> {
    /// What the names of the tiers' namespaces start with.
    fn namespaces(&self) -> impl Iterator<Item = String> {
        self.instances.iter().map(|instance| format!("{instance}-tier-"))
    }

    /// The tier that a namespace would belong to, if it were in the mapping. Other instances may have tiers of their own.
    fn unknown_tier_of<'n>(&self, namespace: &'n str, known: &HashSet<String>) -> Option<&'n str> {
        if known.contains(namespace) {
            return None;
        }
        self.namespaces().find_map(|prefix| namespace.strip_prefix(&*prefix))
    }
}
