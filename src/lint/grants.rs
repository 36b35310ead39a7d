//! Who may call which model: what RBAC and annotations leave out, and what they give too much of.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde_json::Value;

use super::TierContext;
use super::rbac::{GROUP, RESOURCE, ResolvedBinding, VERB, bound};
use crate::manifest::{Manifests, Model, ModelGrant};
use crate::problem::{Finding, Problem};
use crate::rules::{Authorization, PolicyRule, Subject, ValueSource};
use crate::tier::service_account_group;

/// Groups that every ServiceAccount is in.
const EVERY_ACCOUNT: [&str; 2] = ["system:serviceaccounts", "system:authenticated"];
const ACCOUNTS: &str = "system:serviceaccounts:";
const ACCOUNT: &str = "system:serviceaccount:";

/// What a binding grants: `post` on models.
struct BindingGrant<'m> {
    subjects: &'m [Subject],
    /// Empty: in all namespaces.
    namespace: &'m str,
    /// Empty: all models.
    names: &'m [String],
}

/// The tiers that a subject stands for.
struct Subjects<'w> {
    by_group: HashMap<String, Vec<&'w str>>,
    every: Vec<&'w str>,
}

/// Findings about who may call what, where AuthPolicies ask RBAC at all.
pub(super) fn grants(world: &TierContext<'_>, problems: &mut Vec<Problem>) {
    let verbs = asked_verbs(world.manifests);
    if !verbs.contains(VERB) {
        return;
    }
    let (bound, subjects) = (bound(world.manifests), Subjects::of(world));
    too_broad(&bound, &subjects, &verbs, problems);
    let granted: Vec<BindingGrant<'_>> = bound.iter().flat_map(BindingGrant::of).collect();
    let without = models_without_grant(world, &granted, problems);
    // If nobody may call any, that was said of each.
    if without < world.manifests.models.len() && !world.instances.is_empty() {
        tiers_without_model(world, &granted, &subjects, problems);
    }
}

/// The verbs on models that AuthPolicies ask for; none if one asks for something that only a request can tell.
fn asked_verbs(manifests: &Manifests) -> HashSet<&str> {
    let policies = manifests.auth_policies.iter().filter_map(|policy| policy.rules.as_ref());
    let mut verbs = HashSet::new();
    for rule in policies.flat_map(|rules| &rules.authorization) {
        let Authorization::Access(rule) = &rule.what else { continue };
        match (constant(&rule.group), constant(&rule.resource), constant(&rule.verb)) {
            (Some(GROUP), Some(RESOURCE), Some(verb)) => drop(verbs.insert(verb)),
            (Some(_), Some(_), Some(_)) => {}
            _ => return HashSet::new(),
        }
    }
    verbs
}

pub(super) fn constant(source: &ValueSource) -> Option<&str> {
    match source {
        ValueSource::Constant(Value::String(text)) => Some(text),
        _ => None,
    }
}

fn any(names: &[String], wanted: &str) -> bool {
    names.iter().any(|name| name == "*" || name == wanted)
}

fn is_of_models(rule: &PolicyRule) -> bool {
    any(&rule.api_groups, GROUP) && any(&rule.resources, RESOURCE)
}

/// Tiers that could do more with models than call them. A group of people may: administrators are in some tier too.
fn too_broad(
    bound: &[ResolvedBinding<'_>],
    subjects: &Subjects<'_>,
    verbs: &HashSet<&str>,
    problems: &mut Vec<Problem>,
) {
    for bound in bound {
        let accounts = bound.binding.subjects.iter().filter(|subject| match subject {
            Subject::Group(group) => group.starts_with(ACCOUNTS) || EVERY_ACCOUNT.contains(&group.as_str()),
            Subject::User(_) => true,
        });
        let tiers: BTreeSet<&str> = accounts.flat_map(|subject| subjects.tiers(subject)).copied().collect();
        let of_models = || bound.rules.iter().filter(|rule| is_of_models(rule));
        let beyond: BTreeSet<&str> =
            of_models().flat_map(|rule| &rule.verbs).map(String::as_str).filter(|verb| !verbs.contains(verb)).collect();
        let everything = of_models().any(|rule| rule.resources.iter().any(|name| name == "*"));
        if tiers.is_empty() || (beyond.is_empty() && !everything) {
            continue;
        }
        let tiers = tiers.into_iter().collect::<Vec<_>>().join(", ");
        let verbs = beyond.into_iter().collect::<Vec<_>>().join(", ");
        let what = match (everything, verbs.is_empty()) {
            (false, _) => format!("more on models than `post`: {verbs}"),
            (true, true) => "other resources than models: `*`".to_owned(),
            (true, false) => format!("every resource, and more than `post`: {verbs}"),
        };
        let message = format!("{} grants tier {tiers} {what}", bound.binding.meta.object);
        let problem = bound.role.meta.warning(Finding::GrantTooBroad, &bound.role.meta.place, "rules", message);
        problems.push(problem.remedy("callers need `post` on llminferenceservices and nothing else"));
    }
}

/// Reports models that nobody may call, and tells how many there are.
fn models_without_grant(world: &TierContext<'_>, granted: &[BindingGrant<'_>], problems: &mut Vec<Problem>) -> usize {
    let some = granted.iter().filter(|grant| !grant.subjects.is_empty());
    let whole: HashSet<&str> =
        some.clone().filter(|grant| grant.names.is_empty()).map(|grant| grant.namespace).collect();
    let named: HashSet<(&str, &str)> =
        some.flat_map(|grant| grant.names.iter().map(|name| (grant.namespace, name.as_str()))).collect();
    let by_rbac = |model: &Model| {
        let (namespace, name) = (&**model.meta.namespace(), &**model.meta.name());
        ["", namespace].iter().any(|place| whole.contains(place) || named.contains(&(*place, name)))
    };
    let mut without = 0;
    for model in world.manifests.models.iter().filter(|model| !by_rbac(model)) {
        let Some(remedy) = remedy(world, model) else { continue };
        without += 1;
        let message = "is a model that nobody may call: no binding grants `post` on it".to_owned();
        let problem = model.meta.warning(Finding::ModelWithoutGrant, &model.meta.place, "", message);
        problems.push(problem.remedy(remedy));
    }
    without
}

/// What to do for a model that no binding grants, where its annotation does not.
fn remedy(world: &TierContext<'_>, model: &Model) -> Option<String> {
    match &model.grant {
        // Reported where it is written.
        ModelGrant::Unreadable => None,
        ModelGrant::AllTiers | ModelGrant::Tiers(..) if world.options.grant_from_annotation => None,
        ModelGrant::AllTiers | ModelGrant::Tiers(..) => {
            let remedy =
                "add the RoleBinding that a controller makes of its annotation, or set --grant-from-annotation";
            Some(remedy.to_owned())
        }
        ModelGrant::Nobody => {
            let group = world.instances.first().zip(world.tiers.first());
            let group = group.map(|(instance, tier)| service_account_group(instance, &tier.name));
            let group = group.unwrap_or_else(|| "system:serviceaccounts:<instance>-tier-<tier>".to_owned());
            Some(format!("add a Role and a RoleBinding for groups such as {group} to {}", model.meta.namespace()))
        }
    }
}

/// A tier whose users get 403 whatever they call.
fn tiers_without_model(
    world: &TierContext<'_>,
    granted: &[BindingGrant<'_>],
    subjects: &Subjects<'_>,
    problems: &mut Vec<Problem>,
) {
    let served = served_tiers(world, granted, subjects);
    for tier in world.tiers.iter().filter(|tier| !served.contains(tier.name.as_str())) {
        let message = format!("tier `{}` may call no model: nothing grants it any", tier.name);
        let problem = world.mapping.warning(Finding::TierWithoutModel, &tier.place, "data.tiers", message);
        let groups = world.instances.iter().map(|instance| service_account_group(instance, &tier.name));
        let groups = groups.collect::<Vec<_>>().join(", ");
        problems.push(problem.remedy(format!("add a RoleBinding for {groups} in a namespace with models")));
    }
}

/// The tiers that may call some model.
fn served_tiers<'w>(
    world: &TierContext<'w>,
    granted: &[BindingGrant<'_>],
    subjects: &Subjects<'w>,
) -> HashSet<&'w str> {
    let models = &world.manifests.models;
    let namespaces: HashSet<&str> = models.iter().map(|model| &**model.meta.namespace()).collect();
    let names: HashSet<(&str, &str)> =
        models.iter().map(|model| (&**model.meta.namespace(), &**model.meta.name())).collect();
    let is_there = |grant: &&BindingGrant<'_>| match grant.namespace {
        // A grant for the whole cluster is for models of other folders too.
        "" => true,
        namespace if grant.names.is_empty() => namespaces.contains(namespace),
        namespace => grant.names.iter().any(|name| names.contains(&(namespace, name.as_str()))),
    };
    let granted = granted.iter().filter(is_there).flat_map(|grant| grant.subjects);
    let mut served: HashSet<&str> = granted.flat_map(|subject| subjects.tiers(subject)).copied().collect();
    for model in models.iter().filter(|_| world.options.grant_from_annotation) {
        match &model.grant {
            ModelGrant::AllTiers => served.extend(world.tiers.iter().map(|tier| tier.name.as_str())),
            ModelGrant::Tiers(tiers, _) => served.extend(tiers.iter().map(String::as_str)),
            ModelGrant::Nobody | ModelGrant::Unreadable => {}
        }
    }
    served
}

// === impl BindingGrant ===

impl<'m> BindingGrant<'m> {
    fn of(bound: &'m ResolvedBinding<'_>) -> impl Iterator<Item = BindingGrant<'m>> {
        let rules = bound.rules.iter().filter(|rule| is_of_models(rule) && any(&rule.verbs, VERB));
        rules.map(|rule| BindingGrant {
            subjects: &bound.binding.subjects,
            namespace: bound.binding.meta.namespace(),
            names: &rule.resource_names,
        })
    }
}

// === impl Subjects ===

impl<'w> Subjects<'w> {
    fn of(world: &TierContext<'w>) -> Self {
        let mut by_group: HashMap<String, Vec<&str>> = HashMap::new();
        for tier in world.tiers {
            let own = world.instances.iter().map(|instance| service_account_group(instance, &tier.name));
            for group in tier.groups.iter().cloned().chain(own) {
                by_group.entry(group).or_default().push(&tier.name);
            }
        }
        Subjects { by_group, every: world.tiers.iter().map(|tier| tier.name.as_str()).collect() }
    }

    fn tiers(&self, subject: &Subject) -> &[&'w str] {
        let own = |group: &str| self.by_group.get(group).map(Vec::as_slice).unwrap_or_default();
        match subject {
            Subject::Group(group) if EVERY_ACCOUNT.contains(&group.as_str()) => &self.every,
            Subject::Group(group) => own(group),
            Subject::User(user) => match user.strip_prefix(ACCOUNT).and_then(|rest| rest.split_once(':')) {
                Some((namespace, _)) => own(&format!("{ACCOUNTS}{namespace}")),
                None => &[],
            },
        }
    }
}
