//! Which policies apply to a rule of a route, and what they make together.
//!
//! Source: GEP-713 and GEP-2649; how rules of several levels meet is Kuadrant's (`merge_strategies.go`): from the most specific
//! policy to the least, the less specific one's strategy decides.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::lint::warning;
use super::{Attached, AuthRules, Limit, LimitKind, LimitSet, ShadowLimits};
use crate::manifest::{
    Finding, InForce, LimitPolicy, LimitSpec, Manifests, Meta, ObjectName, Place, Predicate, Problem, Severity, Shadow,
    Strategy, Target,
};

/// What a rule of a route on a listener can be reached by, from the least specific to the most.
pub(super) type Levels = [Target; 4];

/// One policy of a kind, as far as it could be read.
struct Attachment<'m, R> {
    meta: &'m Meta,
    /// `None` if it could not be read.
    strategy: Option<Strategy>,
    /// `None` where the policy is in error.
    rules: Option<Arc<R>>,
}

/// All policies of one kind, by target.
pub(super) struct Attachments<'m, R, T> {
    by_target: HashMap<Target, Attachment<'m, R>>,
    /// What was put together before, by the policies that went in.
    made: HashMap<Vec<&'m ObjectName>, Attached<T>>,
    /// Policies that apply somewhere, and those that would if no other did.
    used: HashSet<&'m ObjectName>,
    reached: HashSet<&'m ObjectName>,
    /// Policies that a less specific one overrides.
    overridden: HashSet<&'m ObjectName>,
    problems: Vec<Problem>,
}

/// Rules that can be put together.
pub(super) trait Merge {
    /// These rules, and those of `other` whose names are not among them.
    fn and(&self, other: &Self) -> Self;
}

impl Merge for AuthRules {
    fn and(&self, other: &Self) -> Self {
        AuthRules::and(self, other)
    }
}

/// The limits of one or more policies.
pub(super) struct LimitRules<'m> {
    /// A policy in shadow that is in error.
    broken: Option<&'m ObjectName>,
    when: &'m [Predicate],
    limits: Vec<Written<'m>>,
    /// Limits that gave way to one of the same name, and that one, where it is for other requests.
    replaced: Vec<(Written<'m>, Written<'m>)>,
}

/// A limit, and the policy that it is written in.
type Written<'m> = (&'m LimitPolicy, &'m LimitSpec);

impl Merge for LimitRules<'_> {
    fn and(&self, other: &Self) -> Self {
        let mut replaced: Vec<_> = self.replaced.iter().chain(&other.replaced).copied().collect();
        let mut limits = self.limits.clone();
        for limit in &other.limits {
            match self.limits.iter().find(|(_, known)| known.name == limit.1.name) {
                None => limits.push(*limit),
                Some(winner) if own_conditions(*winner).ne(own_conditions(*limit)) => replaced.push((*limit, *winner)),
                Some(_) => {}
            }
        }
        let when = if self.when.is_empty() { other.when } else { self.when };
        let broken = self.broken.or(other.broken);
        LimitRules { broken, when, limits, replaced }
    }
}

/// What a limit itself says of the requests that it is for.
fn own_conditions<'m>((policy, limit): Written<'m>) -> impl Iterator<Item = &'m str> {
    limit.when.iter().skip(policy.when.len()).map(|predicate| predicate.expression.source())
}

// === impl Attachments ===

impl<'m, R: Merge, T> Attachments<'m, R, T> {
    /// Of several policies of a kind on one target the oldest wins, then the first by namespace and name.
    fn new(policies: impl Iterator<Item = (&'m Target, Attachment<'m, R>)>) -> Self {
        let mut policies: Vec<_> = policies.collect();
        policies.sort_by(|(_, a), (_, b)| a.meta.seniority().cmp(&b.meta.seniority()));
        let mut attachments = Attachments {
            by_target: HashMap::new(),
            made: HashMap::new(),
            used: HashSet::new(),
            reached: HashSet::new(),
            overridden: HashSet::new(),
            problems: Vec::new(),
        };
        for (target, policy) in policies {
            match attachments.by_target.get(target) {
                // One object that is there twice was reported as such.
                Some(winner) if *target != Target::Unknown && winner.meta.object != policy.meta.object => {
                    let message = format!("{} has the same target, and wins", winner.meta.object);
                    let code = Finding::PolicyShadowed;
                    let problem = warning(code, policy.meta, &policy.meta.place, "spec.targetRef", message);
                    attachments.problems.push(problem.remedy("keep one policy of a kind per target"));
                }
                Some(_) if *target != Target::Unknown => {}
                _ => {
                    attachments.by_target.insert(target.clone(), policy);
                }
            }
        }
        attachments
    }

    /// Whether a policy is for one section of `whole`.
    pub(super) fn has_section_of(&self, whole: &Target) -> bool {
        self.by_target.keys().any(|target| target.section().is_some() && target.whole() == *whole)
    }

    /// What applies at `levels`. `make` finishes what is put together, once for each combination of policies.
    fn effective(
        &mut self,
        levels: &Levels,
        make: impl FnOnce(&R, &Meta, &mut Vec<Problem>) -> Attached<T>,
    ) -> Attached<T> {
        // One whose target is unknown could be for anything.
        if let Some(unknown) = self.by_target.get(&Target::Unknown) {
            return Attached::Broken(unknown.meta.object.clone());
        }
        let policies: Vec<_> = levels.iter().filter_map(|target| self.by_target.get(target)).collect();
        self.reached.extend(policies.iter().map(|policy| &policy.meta.object));
        let mut rules: Attached<R> = Attached::None;
        let mut from: Vec<&'m Meta> = Vec::new();
        for policy in policies.into_iter().rev() {
            let object = &policy.meta.object;
            let strategy = policy.strategy.unwrap_or(Strategy { overrides: true, merge: true });
            rules = match (&policy.rules, rules, strategy) {
                // The more specific rules replace these, whatever these are.
                (
                    _,
                    rules @ (Attached::Active(_) | Attached::Broken(_)),
                    Strategy { overrides: false, merge: false },
                ) => rules,
                (None, _, _) => Attached::Broken(object.clone()),
                (Some(own), Attached::None, _) | (Some(own), _, Strategy { overrides: true, merge: false }) => {
                    self.overridden.extend(from.iter().map(|meta| &meta.object));
                    from = vec![policy.meta];
                    Attached::Active(Arc::clone(own))
                }
                (Some(_), broken @ Attached::Broken(_), _) => broken,
                (Some(own), Attached::Active(specific), Strategy { overrides, .. }) => {
                    from.push(policy.meta);
                    let merged = if overrides { own.and(&specific) } else { specific.and(own) };
                    Attached::Active(Arc::new(merged))
                }
            };
        }
        let rules = match rules {
            Attached::None => return Attached::None,
            Attached::Broken(policy) => return Attached::Broken(policy),
            Attached::Active(rules) => rules,
        };
        let names: Vec<_> = from.iter().map(|meta| &meta.object).collect();
        self.used.extend(&names);
        let Some(most_specific) = from.first().copied() else { return Attached::None };
        if let Some(made) = self.made.get(&names) {
            return made.clone();
        }
        let made = make(&rules, most_specific, &mut self.problems);
        self.made.insert(names, made.clone());
        made
    }

    /// The policies that apply somewhere, and those that would if others did not replace them everywhere.
    pub(super) fn in_force(&self) -> (HashSet<ObjectName>, HashSet<ObjectName>) {
        let owned =
            |objects: &mut dyn Iterator<Item = &&'m ObjectName>| objects.map(|object| (*object).clone()).collect();
        (owned(&mut self.used.iter()), owned(&mut self.reached.difference(&self.used)))
    }

    /// Problems that showed when policies were put together; and the policies that never came to it.
    pub(super) fn into_problems(mut self) -> Vec<Problem> {
        for (target, policy) in &self.by_target {
            let object = &policy.meta.object;
            // The defaults of a Gateway are for routes to come, too.
            let is_default = matches!(target, Target::Gateway { .. }) && !self.overridden.contains(object);
            let is_idle = self.reached.contains(object) && !self.used.contains(object) && !is_default;
            if policy.rules.is_some() && is_idle {
                let message = "other policies replace all of it wherever it would apply".to_owned();
                let problem = warning(Finding::PolicyShadowed, policy.meta, &policy.meta.place, "", message);
                self.problems.push(problem.remedy("remove it, or use the strategy `merge`"));
            }
        }
        self.problems
    }
}

// === AuthPolicy ===

pub(super) type AuthAttachments<'m> = Attachments<'m, AuthRules, (ObjectName, Arc<AuthRules>)>;

pub(super) fn auth_policies(manifests: &Manifests) -> AuthAttachments<'_> {
    Attachments::new(manifests.auth_policies.iter().map(|policy| {
        let broken = || Arc::new(AuthRules { shadow: true, broken: true, ..AuthRules::default() });
        let rules = policy.rules.clone().or_else(|| policy.shadow.then(broken));
        let strategy = policy.strategy;
        (&policy.target, Attachment { meta: &policy.meta, strategy, rules })
    }))
}

impl AuthAttachments<'_> {
    /// The rules for a request at `levels`, and the most specific policy that they are from.
    pub(super) fn at(&mut self, levels: &Levels) -> Attached<(ObjectName, Arc<AuthRules>)> {
        self.effective(levels, |rules, policy, problems| {
            let object = &policy.object;
            let faults = faults(rules, policy);
            if faults.is_empty() {
                return Attached::Active(Arc::new((object.clone(), Arc::new(rules.clone()))));
            }
            problems.extend(faults);
            Attached::Broken(object.clone())
        })
    }
}

/// What keeps rules that were put together from being used.
fn faults(rules: &AuthRules, policy: &Meta) -> Vec<Problem> {
    let fault = |code, place: &Place, message: String, remedy: Option<String>| {
        let problem = Problem::new(code, Severity::Error, place.clone(), message).of(&policy.object, "spec");
        Problem { remedy, in_force: Some(InForce::Shut), ..problem }
    };
    let references = rules.faults().into_iter();
    let mut faults: Vec<Problem> = references
        .map(|(error, place)| fault(Finding::ReferenceUnknown, &place, error.message, error.remedy))
        .collect();
    if rules.admit_everybody() && !rules.broken {
        let message = "together with other policies authenticates nobody and checks nothing".to_owned();
        faults.push(fault(Finding::PolicyOpen, &policy.place, message, None));
    }
    faults
}

// === RateLimitPolicy, TokenRateLimitPolicy ===

pub(super) type LimitAttachments<'m> = Attachments<'m, LimitRules<'m>, LimitSet>;

/// The policies of one kind; those that are `unusable` are in error, whatever they say.
pub(super) fn limit_policies<'m>(
    manifests: &'m Manifests,
    kind: LimitKind,
    unusable: &HashSet<ObjectName>,
) -> LimitAttachments<'m> {
    let of_kind = manifests.limit_policies.iter().filter(|policy| policy.kind == kind);
    Attachments::new(of_kind.map(|policy| {
        let limits = policy.limits.as_ref().filter(|_| !unusable.contains(&policy.meta.object));
        let limits = limits.map(|limits| limits.iter().map(|spec| (policy, spec)).collect());
        let broken = limits.is_none().then_some(&policy.meta.object);
        let limits = limits.or_else(|| (policy.shadow == Shadow::Everything).then(Vec::new));
        let rules =
            limits.map(|limits| Arc::new(LimitRules { broken, when: &policy.when, limits, replaced: Vec::new() }));
        (&policy.target, Attachment { meta: &policy.meta, strategy: policy.strategy, rules })
    }))
}

impl LimitAttachments<'_> {
    /// The limits for a request at `levels`.
    ///
    /// A limit counts for what its policy is attached to: on a Gateway once per user for that Gateway, on an HTTPRoute for that
    /// route; for the route too where its policy says so.
    pub(super) fn at(&mut self, levels: &Levels) -> Attached<LimitSet> {
        self.effective(levels, |rules, most_specific, problems| {
            problems.extend(rules.replaced.iter().map(|(limit, winner)| replaced(*limit, *winner)));
            let (shadow, enforced): (Vec<_>, Vec<_>) =
                rules.limits.iter().partition(|(policy, spec)| policy.shadow.covers(&spec.name));
            let set = |limits: Vec<&Written<'_>>| {
                let limits = limits.into_iter().map(|written| rules.limit(*written));
                LimitSet::new(most_specific.object.clone(), limits.collect())
            };
            let shadow = ShadowLimits { limits: set(shadow), broken: rules.broken.cloned() };
            Attached::Active(Arc::new(set(enforced).with(shadow)))
        })
    }
}

/// A limit that the strategy `merge` took away, though it was for other requests than the one in its place.
fn replaced((policy, limit): Written<'_>, (other, _): Written<'_>) -> Problem {
    let message = format!("a limit of this name in {} takes its place, for other requests", other.meta.object);
    let field = format!("spec.limits.{}", limit.name);
    let problem = warning(Finding::LimitReplaced, &policy.meta, &limit.place, &field, message);
    problem.remedy("give one of them another name: `merge` goes by names alone")
}

impl LimitRules<'_> {
    fn limit(&self, (policy, spec): Written<'_>) -> Limit {
        let (name, scope) = (&policy.meta.object, policy.target.to_string());
        // What holds for all limits is that of the policy that won it.
        let own = spec.when.iter().skip(policy.when.len());
        let when = self.when.iter().chain(own);
        Limit {
            name: format!("{}/{}", name.path(), spec.name).into(),
            kind: policy.kind,
            place: spec.place.clone(),
            when: when.map(|predicate| Arc::clone(&predicate.expression)).collect(),
            counters: spec.counters.iter().map(Arc::clone).collect(),
            per_route: policy.per_route,
            rates: (spec.rates.iter())
                .map(|quota| (Limit::cell(name, &spec.name, &scope, quota.window().as_nanos()), *quota))
                .collect(),
        }
    }
}
