//! Properties and filters that limits ask for and no AuthPolicy declares.
//!
//! Limits see as `auth.<filter>` what `response.success.filters.<filter>` declares, and nothing else.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{limit_sets, warning};
use crate::manifest::{
    Finding, InForce, LimitPolicy, LimitSpec, Manifests, Place, Problem, Severity, Shadow, did_you_mean,
};
use crate::policy::{Attached, AuthRules, Expression, How, Policy, Reference, Shape, Uses};

/// What limits see of a caller on some route: the properties of each filter, `None` if they may be any.
type Declared = BTreeMap<String, Option<BTreeSet<String>>>;

/// A property of a filter.
type Property = (String, String);

/// A limit, by its policy's kind and its name.
type LimitName<'p> = (&'p str, &'p str);

fn of_rules(rules: &AuthRules) -> Declared {
    let properties = |shape: &Shape| match shape {
        Shape::Object(properties) => Some(properties.iter().map(|(name, _)| name.to_string()).collect()),
        Shape::Plain(_) => None,
    };
    rules.filters.iter().map(|filter| (filter.what.name.to_string(), properties(&filter.what.shape))).collect()
}

/// Calls `see` with every limit that applies somewhere.
fn each<'m>(manifests: &'m Manifests, mut see: impl FnMut(&'m LimitPolicy, &'m LimitSpec, LimitName<'_>)) {
    for policy in &manifests.limit_policies {
        for limit in policy.limits.iter().flatten() {
            let name = format!("{}/{}", policy.meta.object.path(), limit.name);
            see(policy, limit, (&*policy.meta.object.kind, name.as_str()));
        }
    }
}

/// Limits that look at what no AuthPolicy of any of their routes makes: an error, or they would apply to nobody.
pub(super) fn unmade(policy: &Policy, manifests: &Manifests) -> Vec<Problem> {
    let mut problems = filters(policy, manifests);
    let by_limit = declared(policy);
    each(manifests, |policy, limit, name| {
        if let Some(declared) = by_limit.get(&name) {
            predicates(policy, limit, declared, &mut problems);
        }
    });
    // A policy in shadow shuts nothing.
    let in_shadow = |policy: &&LimitPolicy| policy.shadow == Shadow::Everything;
    let in_shadow: Vec<_> =
        manifests.limit_policies.iter().filter(in_shadow).map(|policy| &policy.meta.object).collect();
    for problem in &mut problems {
        let shuts = problem.object.as_ref().is_none_or(|object| !in_shadow.contains(&object));
        problem.severity = Severity::Error;
        problem.in_force = Some(if shuts { InForce::Shut } else { InForce::Nothing });
    }
    problems
}

// === filters that nothing makes ===

fn filters(policy: &Policy, manifests: &Manifests) -> Vec<Problem> {
    let made = made(policy);
    let mut problems = Vec::new();
    each(manifests, |policy, limit, name| {
        let Some(Some(made)) = made.get(&name) else { return };
        let mut look = |expression: &Expression, code, place: &Place, field: &str| {
            let looked_at: BTreeSet<String> =
                expression.references().iter().filter_map(Reference::member).map(str::to_owned).collect();
            for member in looked_at.difference(made) {
                let message = format!("asks for `auth.{member}`, which no AuthPolicy of its routes makes");
                problems.push(warning(code, &policy.meta, place, field, message).remedy(make(member, made)));
            }
        };
        for predicate in policy.conditions(limit) {
            look(&predicate.expression, Finding::PropertyUndeclared, &predicate.place, &predicate.field);
        }
        for (i, counter) in limit.counters.iter().enumerate() {
            let field = format!("spec.limits.{}.counters[{i}]", limit.name);
            look(counter, Finding::CounterUndeclared, &limit.place, &field);
        }
    });
    problems
}

/// What can be looked at on any of the routes that a limit applies to; `None` where that cannot be told.
fn made(policy: &Policy) -> HashMap<LimitName<'_>, Option<BTreeSet<String>>> {
    let mut by_limit: HashMap<LimitName<'_>, Option<BTreeSet<String>>> = HashMap::new();
    for (rules, set) in limit_sets(policy) {
        let here: Option<Vec<String>> = match &rules {
            Attached::Active(rules) if !rules.broken => Some(of_rules(rules).into_keys().collect()),
            Attached::Active(_) | Attached::Broken(_) => None,
            // That there is no AuthPolicy is told of the route.
            Attached::None => Some(vec!["identity".to_owned()]),
        };
        for limit in set.all() {
            let all = by_limit.entry((&*set.policy.kind, &*limit.name)).or_insert_with(|| Some(BTreeSet::new()));
            match (all.as_mut(), &here) {
                (Some(all), Some(here)) => all.extend(here.iter().cloned()),
                _ => *all = None,
            }
        }
    }
    by_limit
}

fn make(member: &str, made: &BTreeSet<String>) -> String {
    let there = match made.iter().map(|filter| format!("`auth.{filter}`")).collect::<Vec<_>>().join(", ") {
        none if none.is_empty() => "none is declared".to_owned(),
        some => format!("there is {some}"),
    };
    match did_you_mean(member, made.iter().map(String::as_str)) {
        Some(meant) => format!("did you mean `auth.{meant}`?"),
        None => format!("limits see what the AuthPolicy declares under response.success.filters, by its name: {there}"),
    }
}

// === properties that nothing declares ===

pub(super) fn undeclared(policy: &Policy, manifests: &Manifests, problems: &mut Vec<Problem>) {
    let by_limit = declared(policy);
    each(manifests, |policy, limit, name| {
        if let Some(declared) = by_limit.get(&name) {
            counters(policy, limit, declared, problems);
        }
    });
}

/// What is declared on each of the routes that a limit applies to.
fn declared(policy: &Policy) -> HashMap<LimitName<'_>, BTreeSet<Declared>> {
    let mut by_limit: HashMap<LimitName<'_>, BTreeSet<Declared>> = HashMap::new();
    for (rules, set) in limit_sets(policy) {
        let Attached::Active(rules) = rules else { continue };
        let declared = of_rules(&rules);
        for limit in set.all() {
            by_limit.entry((&*set.policy.kind, &*limit.name)).or_default().insert(declared.clone());
        }
    }
    by_limit
}

/// The properties that an expression cannot do without, as far as that can be told.
fn needed(expression: &Expression) -> Vec<Property> {
    let Uses { paths, opaque: false } = expression.uses() else { return Vec::new() };
    let tested: Vec<_> = paths.iter().filter(|used| used.how == How::Tested).map(|used| used.path.clone()).collect();
    let needed = paths.iter().filter(|used| !tested.contains(&used.path));
    let property = |(filter, name): (&str, &str)| (filter.to_owned(), name.to_owned());
    needed.filter_map(|used| used.path.filter_property().map(property)).collect()
}

fn lacks(declared: &Declared, (filter, name): &Property) -> bool {
    match declared.get(filter) {
        None => true,
        Some(properties) => properties.as_ref().is_some_and(|properties| !properties.contains(name)),
    }
}

/// A predicate that no route can satisfy; with a filter that no route has, that was said. Where one does, the limit is for that
/// route.
fn predicates(policy: &LimitPolicy, limit: &LimitSpec, routes: &BTreeSet<Declared>, problems: &mut Vec<Problem>) {
    for predicate in policy.conditions(limit) {
        let mut needed = needed(&predicate.expression);
        needed.retain(|property| routes.iter().all(|declared| lacks(declared, property)));
        needed.retain(|(filter, _)| routes.iter().any(|declared| declared.contains_key(filter)));
        for property in needed {
            let (filter, name) = &property;
            let message = format!("asks for `auth.{filter}.{name}`, which no AuthPolicy of its routes declares");
            let code = Finding::PropertyUndeclared;
            let problem = warning(code, &policy.meta, &predicate.place, &predicate.field, message);
            problems.push(remedied(problem, &property, routes));
        }
    }
}

/// A counter without a value: whoever matches the limit is answered 503.
fn counters(policy: &LimitPolicy, limit: &LimitSpec, routes: &BTreeSet<Declared>, problems: &mut Vec<Problem>) {
    let asked: Vec<Property> = policy.conditions(limit).flat_map(|predicate| needed(&predicate.expression)).collect();
    let matching = |declared: &&Declared| asked.iter().all(|property| !lacks(declared, property));
    for (i, counter) in limit.counters.iter().enumerate() {
        for property in needed(counter) {
            if !routes.iter().filter(matching).any(|declared| lacks(declared, &property)) {
                continue;
            }
            let (filter, name) = &property;
            let message = format!(
                "counts by `auth.{filter}.{name}`, which no AuthPolicy declares for some of its routes: whoever matches is \
                 answered 503 there"
            );
            let field = format!("spec.limits.{}.counters[{i}]", limit.name);
            let problem = warning(Finding::CounterUndeclared, &policy.meta, &limit.place, &field, message);
            problems.push(Problem { severity: Severity::Error, ..remedied(problem, &property, routes) });
        }
    }
}

fn remedied(problem: Problem, (filter, name): &Property, routes: &BTreeSet<Declared>) -> Problem {
    let declared: BTreeSet<&str> =
        routes.iter().filter_map(|route| route.get(filter)?.as_ref()).flatten().map(String::as_str).collect();
    let declare =
        format!("declare `{name}` in the AuthPolicy, under response.success.filters.{filter}.json.properties");
    problem.remedy(match did_you_mean(name, declared.iter().copied()) {
        Some(meant) => format!("did you mean `auth.{filter}.{meant}`? Else {declare}"),
        None => declare,
    })
}
