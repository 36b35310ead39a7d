//! Properties that limits ask for and no AuthPolicy declares.
//!
//! Limits see as `auth.identity` what `response.success.filters.identity` declares, and nothing else.

use std::collections::{BTreeSet, HashMap};

use super::{limit_sets, warning};
use crate::manifest::{Finding, LimitPolicy, LimitSpec, Manifests, Problem, did_you_mean};
use crate::policy::{AuthRules, Expression, How, Policy, Shape, Uses};

/// What limits see of a caller on some route. `None`: it may be anything.
type Declared = Option<BTreeSet<String>>;

pub(super) fn undeclared(policy: &Policy, manifests: &Manifests, problems: &mut Vec<Problem>) {
    let by_limit = declared(policy);
    for limits in &manifests.limit_policies {
        for limit in limits.limits.iter().flatten() {
            let name = format!("{}/{}", limits.meta.object.path(), limit.name);
            if let Some(declared) = by_limit.get(&(&*limits.meta.object.kind, name.as_str())) {
                predicates(limits, limit, declared, problems);
                counters(limits, limit, declared, problems);
            }
        }
    }
}

/// What is declared on each of the routes that a limit applies to, by its policy's kind and its name.
fn declared(policy: &Policy) -> HashMap<(&str, &str), BTreeSet<Declared>> {
    let mut by_limit: HashMap<(&str, &str), BTreeSet<Declared>> = HashMap::new();
    for (rules, set) in limit_sets(policy) {
        let Some(declared) = rules.map(of_rules) else { continue };
        for limit in set.all() {
            by_limit.entry((&*set.policy.kind, &*limit.name)).or_default().insert(declared.clone());
        }
    }
    by_limit
}

fn of_rules(rules: &AuthRules) -> Declared {
    let Some(filter) = rules.filters.iter().find(|filter| &*filter.what.name == "identity") else {
        return Some(BTreeSet::new());
    };
    match &filter.what.shape {
        Shape::Object(properties) => Some(properties.iter().map(|(name, _)| name.to_string()).collect()),
        Shape::Plain(_) => None,
    }
}

/// The properties that an expression cannot do without, as far as that can be told.
fn needed(expression: &Expression) -> Vec<String> {
    let Uses { paths, opaque: false } = expression.uses() else { return Vec::new() };
    let tested: Vec<_> = paths.iter().filter(|used| used.how == How::Tested).map(|used| used.path.clone()).collect();
    let needed = paths.iter().filter(|used| !tested.contains(&used.path));
    needed.filter_map(|used| used.path.identity_property().map(str::to_owned)).collect()
}

fn lacks(declared: &Declared, property: &str) -> bool {
    declared.as_ref().is_some_and(|declared| !declared.contains(property))
}

/// A predicate that no route can satisfy. Where one does, the limit is for that route.
fn predicates(policy: &LimitPolicy, limit: &LimitSpec, routes: &BTreeSet<Declared>, problems: &mut Vec<Problem>) {
    for predicate in &limit.when {
        let mut needed = needed(&predicate.expression);
        needed.retain(|property| routes.iter().all(|declared| lacks(declared, property)));
        for property in needed {
            let message = format!("asks for `auth.identity.{property}`, which no AuthPolicy of its routes declares");
            let code = Finding::PropertyUndeclared;
            let problem = warning(code, &policy.meta, &predicate.place, &predicate.field, message);
            problems.push(remedied(problem, &property, routes));
        }
    }
}

/// A counter without a value: whoever matches the limit is answered 503.
fn counters(policy: &LimitPolicy, limit: &LimitSpec, routes: &BTreeSet<Declared>, problems: &mut Vec<Problem>) {
    let asked: Vec<String> = limit.when.iter().flat_map(|predicate| needed(&predicate.expression)).collect();
    let matching = |declared: &&Declared| asked.iter().all(|property| !lacks(declared, property));
    for (i, counter) in limit.counters.iter().enumerate() {
        for property in needed(counter) {
            if !routes.iter().filter(matching).any(|declared| lacks(declared, &property)) {
                continue;
            }
            let message = format!(
                "counts by `auth.identity.{property}`, which no AuthPolicy declares for some of its routes: whoever matches \
                 is answered 503 there"
            );
            let field = format!("spec.limits.{}.counters[{i}]", limit.name);
            let problem = warning(Finding::CounterUndeclared, &policy.meta, &limit.place, &field, message);
            problems.push(remedied(problem, &property, routes));
        }
    }
}

fn remedied(problem: Problem, property: &str, routes: &BTreeSet<Declared>) -> Problem {
    let declared: BTreeSet<&str> = routes.iter().flatten().flatten().map(String::as_str).collect();
    let declare =
        format!("declare `{property}` in the AuthPolicy, under response.success.filters.identity.json.properties");
    problem.remedy(match did_you_mean(property, declared.iter().copied()) {
        Some(meant) => format!("did you mean `auth.identity.{meant}`? Else {declare}"),
        None => declare,
    })
}
