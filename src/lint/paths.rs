//! AuthPolicies that read the model from the wrong place of the path.

use std::collections::{BTreeMap, HashMap};

use crate::expression::{EvalError, Reference, Scope};
use crate::manifest::{HttpRoute, Manifests, PathMatch, RouteRule};
use crate::policy::Policy;
use crate::problem::{Finding, ObjectName, Place, Problem};
use crate::request::{Attributes, is_dns1123_label, is_dns1123_subdomain};
use crate::rules::{AccessRule, Authorization, ValueSource};

/// What clients append to a model's path.
const API: &str = "/v1/chat/completions";

/// A rule of an AuthPolicy, and what it makes of the first route that is not served by it; and how many are not.
struct Missed {
    name: String,
    what: String,
    routes: usize,
}

pub(super) fn without_model(policy: &Policy, manifests: &Manifests, problems: &mut Vec<Problem>) {
    for ((object, place), Missed { name, what, routes }) in missed(policy, manifests) {
        let Some(policy) = manifests.auth_policies.iter().find(|policy| policy.meta.object == *object) else {
            continue;
        };
        let others = if routes > 1 { format!("; and so for {} others", routes - 1) } else { String::new() };
        let field = format!("spec.rules.authorization.{name}");
        let problem = policy.meta.warning(Finding::PathWithoutModel, place, &field, format!("{what}{others}"));
        let remedy = "of /llm/qwen3/v1, split(\"/\")[1] is llm and [2] is qwen3: [0] is what is before the first slash";
        problems.push(problem.remedy(remedy));
    }
}

/// The rules that make no model of a path, by their policy and place.
fn missed<'p>(policy: &'p Policy, manifests: &Manifests) -> BTreeMap<(&'p ObjectName, &'p Place), Missed> {
    let mut missed: BTreeMap<(&ObjectName, &Place), Missed> = BTreeMap::new();
    let by_path: HashMap<String, &HttpRoute> =
        manifests.routes.iter().rev().map(|route| (route.meta.object.path(), route)).collect();
    for (plan, auth) in policy.plans().filter_map(|plan| Some((plan, plan.auth.active()?))) {
        let Some(route) = by_path.get(&*plan.name).copied().filter(|_| auth.rules.when.is_none()) else { continue };
        let Some(rule) = rule_of(route, &plan.rule) else { continue };
        for authorization in auth.rules.authorization.iter().filter(|rule| rule.when.is_empty()) {
            let Authorization::Access(access) = &authorization.what else { continue };
            let mut faults = rule.matches.iter().filter_map(|one| fault(access, &one.path, route, policy));
            let Some(fault) = faults.next() else { continue };
            let key = (&*authorization.origin, &authorization.place);
            let what = format!("{fault} on {}", route.meta.object);
            let first = || Missed { name: authorization.name.to_string(), what, routes: 0 };
            missed.entry(key).or_insert_with(first).routes += 1;
        }
    }
    missed
}

fn rule_of<'r>(route: &'r HttpRoute, name: &str) -> Option<&'r RouteRule> {
    let at = (0..route.rules.len()).find(|at| route.rule_name(*at) == name)?;
    route.rules.get(at)
}

/// What a rule makes of a path, where that is no model.
fn fault(access: &AccessRule, path: &PathMatch, route: &HttpRoute, policy: &Policy) -> Option<String> {
    let (start, path) = match path {
        PathMatch::Exact(path) => (path, path.clone()),
        PathMatch::Prefix(prefix) => (prefix, format!("{prefix}{API}")),
        PathMatch::Regex(_) => return None,
    };
    let namespace = read(&access.namespace, &path)?;
    let model = read(&access.model, &path)?;
    let parts: Vec<&str> = start.split('/').skip(1).collect();
    // KServe's routes are in the namespace of their model.
    let is_model = |namespace: &str, name: &str| {
        policy.models.get(namespace).is_some_and(|models| models.contains(name))
            || policy.models.is_empty() && namespace == &**route.meta.namespace()
    };
    let meant = parts.windows(2).find_map(|pair| match pair {
        [namespace, name] if is_model(namespace, name) => Some((*namespace, *name)),
        _ => None,
    });
    match (&namespace, &model) {
        (Some(namespace), Some(model)) if is_dns1123_label(namespace) && is_dns1123_subdomain(model) => {
            let (of, name) = meant.filter(|(of, name)| (*of, *name) != (namespace.as_str(), model.as_str()))?;
            Some(format!("takes {path} for model {namespace}/{model}, and it is of {of}/{name},"))
        }
        (namespace, model) => {
            let shown = |part: &Option<String>| part.clone().unwrap_or_else(|| "(not there)".to_owned());
            Some(format!("{path} names no model, with namespace `{}` and name `{}`,", shown(namespace), shown(model)))
        }
    }
}

/// The value of `source` for this path, if it has one; `None` if it goes by more than the path.
fn read(source: &ValueSource, path: &str) -> Option<Option<String>> {
    let ValueSource::Expression(expression) = source else { return None };
    let of_path = |reference: &Reference| matches!(reference, Reference::Attribute("path" | "url_path"));
    if !expression.references().iter().all(of_path) {
        return None;
    }
    let request = Attributes { path, ..Attributes::default() };
    match expression.eval(&Scope { request, ..Scope::default() }) {
        Ok(value) => Some(value.into_text().map(std::borrow::Cow::into_owned)),
        Err(EvalError::Missing(_)) => Some(None),
        Err(EvalError::Failed(_)) => None,
    }
}
