//! Properties and filters that limits ask for and no AuthPolicy declares.
//!
//! Limits see as `auth.<filter>` what `response.success.filters.<filter>` declares, and nothing else.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::{Attached, Policy};
use crate::expression::{Expression, Reference, UseKind, Uses};
use crate::manifest::{LimitPolicy, LimitSpec, Manifests};
use crate::problem::{Finding, InForce, ObjectName, Place, Problem, Severity};
use crate::rules::{AuthRules, Shape};
use crate::spelling::did_you_mean;

/// What limits see of a caller on some route: the properties of each filter, `None` if they may be any.
type Declared = BTreeMap<String, Option<BTreeSet<String>>>;

/// A property of a filter.
type Property = (String, String);

/// A limit, by its policy's kind and its name.
type LimitName<'p> = (&'p str, &'p str);

/// The limits that apply somewhere, as they apply there: with the `when` of whichever policy has won it.
struct AppliedLimits<'p> {
    /// What limits see, on one route or another.
    views: Vec<CallerView>,
    by_limit: HashMap<LimitName<'p>, Looks<'p>>,
    /// The policies whose `when` may hold for limits of others.
    common: HashMap<*const Expression, &'p LimitPolicy>,
}

/// What limits see of a caller.
enum CallerView {
    /// The AuthPolicy is in error.
    Unknown,
    /// There is none, which is told of the route.
    Nobody,
    Declared(Declared),
}

/// What a limit looks at, and where: on the routes of these views.
#[derive(Default)]
struct Looks<'p> {
    when: Vec<(&'p Arc<Expression>, BTreeSet<usize>)>,
    everywhere: BTreeSet<usize>,
}

/// A predicate of a limit, and where it is told of.
struct ReportedPredicate<'t> {
    policy: &'t LimitPolicy,
    expression: &'t Expression,
    place: &'t Place,
    field: &'t str,
    /// Whose `when` it is, if not the policy's own.
    owner: Option<&'t LimitPolicy>,
}

fn of_rules(rules: &AuthRules) -> Declared {
    let mut declared = Declared::new();
    for filter in &rules.filters {
        let properties = match &filter.what.shape {
            Shape::Object(properties) => Some(properties.iter().map(|(name, _)| name.to_string()).collect()),
            Shape::Plain(_) => None,
        };
        // Of several of one key it may be any that makes it.
        let all = declared.entry(filter.what.name.to_string()).or_insert_with(|| Some(BTreeSet::new()));
        *all = all.take().zip(properties).map(|(all, properties): (BTreeSet<_>, BTreeSet<_>)| &all | &properties);
    }
    declared
}

// === impl AppliedLimits ===

impl<'p> AppliedLimits<'p> {
    fn new(policy: &'p Policy, manifests: &'p Manifests) -> Self {
        let common = manifests.limit_policies.iter();
        let common =
            common.flat_map(|policy| policy.when.iter().map(move |when| (Arc::as_ptr(&when.expression), policy)));
        let mut applied = AppliedLimits { views: Vec::new(), by_limit: HashMap::new(), common: common.collect() };
        let mut known = HashMap::new();
        for (rules, set) in policy.limit_sets() {
            let key = match &rules {
                Attached::Active(rules) if rules.broken.is_none() => Some(Some(Arc::as_ptr(rules))),
                Attached::Active(_) | Attached::Broken(_) => Some(None),
                Attached::None => None,
            };
            let at = *known.entry(key).or_insert_with(|| {
                applied.views.push(match &rules {
                    Attached::Active(rules) if rules.broken.is_none() => CallerView::Declared(of_rules(rules)),
                    Attached::Active(_) | Attached::Broken(_) => CallerView::Unknown,
                    Attached::None => CallerView::Nobody,
                });
                applied.views.len() - 1
            });
            for limit in set.all() {
                let looks = applied.by_limit.entry((&*set.policy.kind, &*limit.name)).or_default();
                looks.everywhere.insert(at);
                for expression in &limit.when {
                    match looks.when.iter_mut().find(|(known, _)| Arc::ptr_eq(known, expression)) {
                        Some((_, routes)) => drop(routes.insert(at)),
                        None => looks.when.push((expression, BTreeSet::from([at]))),
                    }
                }
            }
        }
        applied
    }

    /// Calls `see` with every limit that applies somewhere.
    fn each<'m>(&self, manifests: &'m Manifests, mut see: impl FnMut(&'m LimitPolicy, &'m LimitSpec, &Looks<'p>)) {
        for policy in &manifests.limit_policies {
            for limit in policy.limits.iter().flatten() {
                let name = format!("{}/{}", policy.meta.object.path(), limit.name);
                if let Some(looks) = self.by_limit.get(&(&*policy.meta.object.kind, name.as_str())) {
                    see(policy, limit, looks);
                }
            }
        }
    }

    /// What is declared on each of these routes, as far as that is known.
    fn declared(&self, routes: &BTreeSet<usize>) -> Vec<(usize, &Declared)> {
        let view = |at: &usize| Some((*at, self.views.get(*at)?));
        let seen = routes.iter().filter_map(view);
        let declared = seen.filter_map(|(at, seen)| match seen {
            CallerView::Declared(declared) => Some((at, declared)),
            CallerView::Unknown | CallerView::Nobody => None,
        });
        declared.collect()
    }

    /// What can be looked at on any of these routes; `None` where that cannot be told.
    fn made(&self, routes: &BTreeSet<usize>) -> Option<BTreeSet<&str>> {
        let mut made = BTreeSet::new();
        for seen in routes.iter().filter_map(|at| self.views.get(*at)) {
            match seen {
                CallerView::Unknown => return None,
                CallerView::Nobody => drop(made.insert("identity")),
                CallerView::Declared(declared) => made.extend(declared.keys().map(String::as_str)),
            }
        }
        Some(made)
    }
}

/// Limits that look at what no AuthPolicy of any of their routes makes: an error, or they would apply to nobody.
pub(super) fn unmade(policy: &Policy, manifests: &Manifests) -> Vec<Problem> {
    let applied = AppliedLimits::new(policy, manifests);
    let mut unmade = Unmade { applied: &applied, told: HashSet::new(), problems: Vec::new() };
    applied.each(manifests, |policy, limit, looks| {
        unmade.conditions(policy, limit, looks);
        unmade.counters(policy, limit, looks);
    });
    let Unmade { mut problems, .. } = unmade;
    // A policy in shadow shuts nothing.
    let on_trial = manifests.limit_policies.iter().filter(|policy| policy.is_on_trial());
    let on_trial: HashSet<_> = on_trial.map(|policy| &policy.meta.object).collect();
    for problem in &mut problems {
        let shuts = problem.object.as_ref().is_none_or(|object| !on_trial.contains(&object));
        problem.severity = Severity::Error;
        problem.in_force = Some(if shuts { InForce::Shut } else { InForce::Nothing });
    }
    problems
}

/// What was found so far of limits that look at what nothing makes.
struct Unmade<'a, 'p> {
    applied: &'a AppliedLimits<'p>,
    /// What was told already of a `when` that holds for all limits of a policy.
    told: HashSet<(&'a ObjectName, *const Expression)>,
    problems: Vec<Problem>,
}

// === impl Unmade ===

impl<'a> Unmade<'a, '_> {
    fn conditions(&mut self, policy: &'a LimitPolicy, limit: &LimitSpec, looks: &Looks<'_>) {
        let applied = self.applied;
        for (expression, routes) in &looks.when {
            let own = policy.conditions(limit).find(|predicate| Arc::ptr_eq(&predicate.expression, expression));
            let owner = applied.common.get(&Arc::as_ptr(expression)).copied().filter(|_| own.is_none());
            // One `when` holds for all limits of a policy alike.
            if owner.is_some() && !self.told.insert((&policy.meta.object, Arc::as_ptr(expression))) {
                continue;
            }
            let (place, field) =
                own.map_or((&policy.limits_place, "spec.limits"), |predicate| (&predicate.place, &*predicate.field));
            let found = ReportedPredicate { policy, expression, place, field, owner };
            filters(applied, &found, routes, Finding::PropertyUndeclared, &mut self.problems);
            predicate(&found, &applied.declared(routes), &mut self.problems);
        }
    }

    fn counters(&mut self, policy: &LimitPolicy, limit: &LimitSpec, looks: &Looks<'_>) {
        for (i, counter) in limit.counters.iter().enumerate() {
            let field = format!("spec.limits.{}.counters[{i}]", limit.name);
            let found =
                ReportedPredicate { policy, expression: counter, place: &limit.place, field: &field, owner: None };
            filters(self.applied, &found, &looks.everywhere, Finding::CounterUndeclared, &mut self.problems);
        }
    }
}

// === impl ReportedPredicate ===

impl ReportedPredicate<'_> {
    fn problem(&self, code: Finding, message: &str) -> Problem {
        let owner = self.owner.map(|owner| format!("the `when` of {}, which holds for these too, ", owner.meta.object));
        let message = format!("{}{message}", owner.unwrap_or_default());
        self.policy.meta.warning(code, self.place, self.field, message)
    }
}

// === filters that nothing makes ===

fn filters(
    applied: &AppliedLimits<'_>,
    found: &ReportedPredicate<'_>,
    routes: &BTreeSet<usize>,
    code: Finding,
    problems: &mut Vec<Problem>,
) {
    let references = found.expression.references();
    let looked_at: BTreeSet<&str> = references.iter().filter_map(Reference::member).collect();
    if looked_at.is_empty() {
        return;
    }
    let Some(made) = applied.made(routes) else { return };
    for member in looked_at.difference(&made) {
        let message = format!("asks for `auth.{member}`, which no AuthPolicy of its routes makes");
        problems.push(found.problem(code, &message).remedy(make(member, &made)));
    }
}

fn make(member: &str, made: &BTreeSet<&str>) -> String {
    let there = match made.iter().map(|filter| format!("`auth.{filter}`")).collect::<Vec<_>>().join(", ") {
        none if none.is_empty() => "none is declared".to_owned(),
        some => format!("there is {some}"),
    };
    match did_you_mean(member, made.iter().copied()) {
        Some(meant) => format!("did you mean `auth.{meant}`?"),
        None => format!("limits see what the AuthPolicy declares under response.success.filters, by its name: {there}"),
    }
}

// === properties that nothing declares ===

pub(crate) fn undeclared(policy: &Policy, manifests: &Manifests, problems: &mut Vec<Problem>) {
    let applied = AppliedLimits::new(policy, manifests);
    applied.each(manifests, |policy, limit, looks| {
        counters(policy, limit, looks, &applied.declared(&looks.everywhere), problems);
    });
}

/// The properties that an expression cannot do without, as far as that can be told.
fn needed(expression: &Expression) -> Vec<Property> {
    let Uses { paths, opaque: false } = expression.uses() else { return Vec::new() };
    let tested: Vec<_> =
        paths.iter().filter(|used| used.how == UseKind::Tested).map(|used| used.path.clone()).collect();
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
fn predicate(found: &ReportedPredicate<'_>, routes: &[(usize, &Declared)], problems: &mut Vec<Problem>) {
    let mut needed = needed(found.expression);
    needed.retain(|property| routes.iter().all(|(_, declared)| lacks(declared, property)));
    needed.retain(|(filter, _)| routes.iter().any(|(_, declared)| declared.contains_key(filter)));
    for property in needed {
        let (filter, name) = &property;
        let message = format!("asks for `auth.{filter}.{name}`, which no AuthPolicy of its routes declares");
        problems.push(remedied(found.problem(Finding::PropertyUndeclared, &message), &property, routes));
    }
}

/// A counter without a value: whoever matches the limit is answered 503.
fn counters(
    policy: &LimitPolicy,
    limit: &LimitSpec,
    looks: &Looks<'_>,
    routes: &[(usize, &Declared)],
    problems: &mut Vec<Problem>,
) {
    let asked = looks.when.iter().flat_map(|(expression, on)| needed(expression).into_iter().map(move |one| (one, on)));
    let asked: Vec<(Property, &BTreeSet<usize>)> = asked.collect();
    let matching = |(at, declared): &&(usize, &Declared)| {
        asked.iter().filter(|(_, on)| on.contains(at)).all(|(property, _)| !lacks(declared, property))
    };
    for (i, counter) in limit.counters.iter().enumerate() {
        for property in needed(counter) {
            if !routes.iter().filter(matching).any(|(_, declared)| lacks(declared, &property)) {
                continue;
            }
            let (filter, name) = &property;
            let message = format!(
                "counts by `auth.{filter}.{name}`, which no AuthPolicy declares for some of its routes: whoever matches is \
                 answered 503 there"
            );
            let field = format!("spec.limits.{}.counters[{i}]", limit.name);
            let problem = policy.meta.warning(Finding::CounterUndeclared, &limit.place, &field, message);
            problems.push(Problem { severity: Severity::Error, ..remedied(problem, &property, routes) });
        }
    }
}

fn remedied(problem: Problem, (filter, name): &Property, routes: &[(usize, &Declared)]) -> Problem {
    let declared: BTreeSet<&str> =
        routes.iter().filter_map(|(_, route)| route.get(filter)?.as_ref()).flatten().map(String::as_str).collect();
    let declare =
        format!("declare `{name}` in the AuthPolicy, under response.success.filters.{filter}.json.properties");
    problem.remedy(match did_you_mean(name, declared.iter().copied()) {
        Some(meant) => format!("did you mean `auth.{filter}.{meant}`? Else {declare}"),
        None => declare,
    })
}
