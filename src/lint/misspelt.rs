//! Rules of roles that nearly grant what AuthPolicies ask for.

use std::collections::BTreeSet;

use super::grants::constant;
use super::rbac::{GROUP, RESOURCE, VERB, bound};
use crate::manifest::Manifests;
use crate::problem::{Finding, ObjectName, Problem};
use crate::rules::{Authorization, PolicyRule, Subject};
use crate::spelling::did_you_mean;

/// What an AuthPolicy asks whether the caller may do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct AskedAccess<'m> {
    group: &'m str,
    resource: &'m str,
    verb: &'m str,
}

/// The verbs that an API server knows itself: they are granted for other reasons too.
const OF_THE_SERVER: [&str; 9] =
    ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "*"];
/// A resource of the same group, which is nearly called as that of the models.
const OTHER_MODELS: &str = "inferenceservices";
/// What people write for `post`.
const FOR_POST: [&str; 6] = ["create", "get", "use", "call", "invoke", "access"];

pub(super) fn rules(manifests: &Manifests, problems: &mut Vec<Problem>) {
    let asked = asked(manifests, problems);
    // A role for callers, whatever else it grants.
    let bound = bound(manifests);
    let callers = bound.iter().filter(|bound| bound.binding.subjects.iter().any(is_of_callers));
    let bound_to_callers: BTreeSet<&ObjectName> = callers.map(|bound| &bound.role.meta.object).collect();
    for role in &manifests.roles {
        let granted = |asked: &AskedAccess<'_>| role.rules.iter().any(|rule| grants(rule, *asked));
        for (i, rule) in role.rules.iter().enumerate() {
            let missing = asked.iter().filter(|asked| !granted(asked));
            let mut faults = missing.filter_map(|asked| {
                let (field, fault) = fault(rule, *asked, bound_to_callers.contains(&role.meta.object))?;
                Some((field, fault, asked))
            });
            let Some((field, fault, AskedAccess { group, resource, verb })) = faults.next() else { continue };
            let message = format!("{fault}, and AuthPolicies ask for `{verb}` on {resource} of {group}");
            let field = format!("rules[{i}].{field}");
            let problem = role.meta.warning(Finding::RuleMisspelt, &role.meta.place, &field, message);
            let right = format!("{{apiGroups: [{group}], resources: [{resource}], verbs: [{verb}]}}");
            problems.push(problem.remedy(format!("to let callers in, write {right}")));
        }
    }
}

/// What the AuthPolicies ask for, as far as it is the same for every request; what they nearly ask for is a finding by itself.
/// Without any, callers of models are asked about.
fn asked<'m>(manifests: &'m Manifests, problems: &mut Vec<Problem>) -> BTreeSet<AskedAccess<'m>> {
    let (mut asked, mut any) = (BTreeSet::new(), false);
    for policy in &manifests.auth_policies {
        for rule in policy.rules.iter().flat_map(|rules| &rules.authorization) {
            let Authorization::Access(access) = &rule.what else { continue };
            any = true;
            let constants = (constant(&access.group), constant(&access.resource), constant(&access.verb));
            let (Some(group), Some(resource), Some(verb)) = constants else { continue };
            if near(group, GROUP) && is_like(resource, RESOURCE) || group == GROUP && near(resource, RESOURCE) {
                let message = format!("asks about {resource} of {group}, and models are {RESOURCE} of {GROUP}");
                let field = format!("spec.rules.authorization.{}", rule.name);
                let problem = policy.meta.warning(Finding::RuleMisspelt, &rule.place, &field, message);
                problems.push(problem.remedy("correct `group` and `resource`: nothing grants what is not there"));
                continue;
            }
            asked.insert(AskedAccess { group, resource, verb });
        }
    }
    if !any {
        asked.insert(AskedAccess { group: GROUP, resource: RESOURCE, verb: VERB });
    }
    asked
}

/// All ServiceAccounts of a namespace are callers; a single one may well be a controller's.
fn is_of_callers(subject: &Subject) -> bool {
    matches!(subject, Subject::Group(group) if group.starts_with("system:serviceaccounts:"))
}

fn holds(names: &[String], wanted: &str) -> bool {
    names.iter().any(|name| name == "*" || name == wanted)
}

fn grants(rule: &PolicyRule, asked: AskedAccess<'_>) -> bool {
    let is_of = holds(&rule.api_groups, asked.group) && holds(&rule.resources, asked.resource);
    is_of && holds(&rule.verbs, asked.verb)
}

/// The field that is off, and how, where a rule grants not quite what is asked for.
fn fault(rule: &PolicyRule, asked: AskedAccess<'_>, bound_to_callers: bool) -> Option<(&'static str, String)> {
    let AskedAccess { group, resource, verb } = asked;
    let (of_group, of_resource) = (holds(&rule.api_groups, group), holds(&rule.resources, resource));
    let shown = |names: &[String]| match names {
        [only] if only.is_empty() => "the core group".to_owned(),
        names => format!("`{}`", names.join("`, `")),
    };
    let names_it = rule.resources.iter().any(|name| name == resource);
    let nearly = rule.resources.iter().any(|name| near(name, resource));
    // A verb that is no API server's own is only ever granted to callers.
    let for_callers = !OF_THE_SERVER.contains(&verb) && rule.verbs.iter().any(|own| own == verb);
    if !of_group && (names_it || nearly || (of_resource && rule.api_groups.iter().any(|own| near(own, group)))) {
        return Some(("apiGroups", format!("grants {} of {}", shown(&rule.resources), shown(&rule.api_groups))));
    }
    if of_group && !of_resource && (nearly || for_callers) {
        return Some(("resources", format!("grants {}", shown(&rule.resources))));
    }
    let slips = |own: &String| near(own, verb) || verb == VERB && FOR_POST.contains(&own.as_str());
    let viewer = OF_THE_SERVER.contains(&verb) || !bound_to_callers && !rule.verbs.iter().all(slips);
    if of_group && names_it && !viewer && !for_callers {
        return Some(("verbs", format!("grants {}", shown(&rule.verbs))));
    }
    None
}

/// Whether `name` is a slip of `wanted`: other letters, the singular, or a typing error.
fn near(name: &str, wanted: &str) -> bool {
    let singular = wanted.strip_suffix('s').is_some_and(|singular| name.eq_ignore_ascii_case(singular));
    let slip = did_you_mean(name, [wanted]).is_some() && name != OTHER_MODELS;
    name != wanted && (singular || name.eq_ignore_ascii_case(wanted) || slip)
}

fn is_like(name: &str, wanted: &str) -> bool {
    name == wanted || near(name, wanted)
}
