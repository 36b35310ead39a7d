//! Which policies apply to a rule of a route, and what they make together.
//!
//! Source: GEP-713 and GEP-2649; how policies meet is Kuadrant's (`EffectivePolicyForPath` in `merge_strategies.go`). All that a
//! request can be reached by stand in one row: level by level from the least specific, those of one target by age, the oldest
//! first. They are put together from the row's end, and the strategy of the one that comes to the others decides. So of the
//! `defaults` of one target the newest wins, of its `overrides` the oldest.

mod fold;
mod shared;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use self::fold::{Folded, Lost, Merge, Part, Says, WHEN, fold};
use super::lint::warning;
use super::{Attached, AuthRules, Limit, LimitKind, LimitSet, Overridden, Rule, ShadowLimits, in_words};
use crate::manifest::{
    Age, Finding, InForce, LimitPolicy, LimitSpec, Manifests, Meta, ObjectName, Place, Predicate, Problem, Severity,
    Shadow, Strategy, Target,
};

/// What a rule of a route on a listener can be reached by, from the least specific to the most.
pub(super) type Levels = [Target; 4];

/// One policy of a kind, as far as it could be read.
struct Attachment<'m, R> {
    meta: &'m Meta,
    target: &'m Target,
    /// Where the target is named.
    place: &'m Place,
    /// `None` if it could not be read, or its place among others cannot be told.
    strategy: Option<Strategy>,
    /// Whether all of it only says what it would have refused.
    shadow: bool,
    /// `None` where the policy is in error.
    rules: Option<Arc<R>>,
}

/// All policies of one kind.
pub(super) struct Attachments<'m, R, T> {
    /// Those of one target by age, the oldest first.
    by_target: HashMap<Target, Vec<Attachment<'m, R>>>,
    /// What was put together before, by the policies that went in.
    made: HashMap<Vec<&'m ObjectName>, Attached<T>>,
    /// Policies that apply somewhere, and those that would if no other did.
    used: HashSet<&'m ObjectName>,
    reached: HashSet<&'m ObjectName>,
    /// Policies that give way somewhere, be it in part, and to which.
    gave_way: HashMap<&'m ObjectName, BTreeSet<ObjectName>>,
    /// Policies that are overridden as a whole.
    overridden: HashSet<&'m ObjectName>,
    /// Policies that shut what they are for somewhere, being in error.
    shut: HashSet<ObjectName>,
    problems: Vec<Problem>,
}

/// Policies that are in force somewhere; and those that give way to others, or to none but are in force nowhere.
pub(super) type Standing = (HashSet<ObjectName>, HashMap<ObjectName, BTreeSet<ObjectName>>);

// === impl Attachments ===

impl<'m, R: Merge, T> Attachments<'m, R, T> {
    fn new(policies: impl Iterator<Item = Attachment<'m, R>>) -> Self {
        let mut by_target: HashMap<Target, Vec<Attachment<'m, R>>> = HashMap::new();
        for policy in policies {
            let of_target = by_target.entry(policy.target.clone()).or_default();
            // One object that is there twice was reported as such.
            if of_target.iter().all(|known| known.meta.object != policy.meta.object) {
                of_target.push(policy);
            }
        }
        for policies in by_target.values_mut() {
            // On trial a policy adds to those in force, and takes nothing of them away.
            let any_in_force = policies.iter().any(|policy| !policy.shadow);
            for trial in policies.iter_mut().filter(|policy| policy.shadow && any_in_force) {
                trial.strategy = Some(Strategy { overrides: false, merge: true });
            }
            policies.sort_by_key(|policy| (!policy.shadow, policy.meta.seniority()));
        }
        Attachments {
            problems: shared::problems(&by_target),
            by_target,
            made: HashMap::new(),
            used: HashSet::new(),
            reached: HashSet::new(),
            gave_way: HashMap::new(),
            overridden: HashSet::new(),
            shut: HashSet::new(),
        }
    }

    /// Whether a policy is for one section of `whole`.
    pub(super) fn has_section_of(&self, whole: &Target) -> bool {
        self.by_target.keys().any(|target| target.section().is_some() && target.whole() == *whole)
    }

    /// What applies at `levels`, and what gives way there. `make` finishes what is put together, once for each combination of
    /// policies.
    fn effective(
        &mut self,
        levels: &Levels,
        make: impl FnOnce(&R, &Meta, &mut Vec<Problem>) -> Attached<T>,
    ) -> (Attached<T>, Vec<Overridden>) {
        // One whose target is unknown could be for anything.
        if let Some(unknown) = self.by_target.get(&Target::Unknown).and_then(|policies| policies.first()) {
            return (Attached::Broken(unknown.meta.object.clone()), Vec::new());
        }
        let policies: Vec<_> = levels.iter().filter_map(|target| self.by_target.get(target)).flatten().collect();
        self.reached.extend(policies.iter().map(|policy| &policy.meta.object));
        let folded = fold(&policies);
        let lost = folded.lost();
        let whole = folded.replaced.iter().map(|replaced| (replaced.policy, None, replaced.by.clone()));
        let parts = lost.iter().map(|lost| (lost.policy, Some(lost.part.field()), vec![lost.by]));
        let mut overridden = Vec::new();
        for (policy, part, by) in whole.chain(parts) {
            let by: Vec<_> = by.iter().map(|policy| policy.meta.object.clone()).collect();
            self.gave_way.entry(&policy.meta.object).or_default().extend(by.iter().cloned());
            overridden.push(Overridden { policy: policy.meta.object.clone(), part, by });
        }
        let everywhere = folded.replaced.iter().filter(|replaced| replaced.everywhere);
        self.overridden.extend(everywhere.map(|replaced| &replaced.policy.meta.object));
        let Folded { rules, from, .. } = &folded;
        let (rules, most_specific) = match (rules, from.first()) {
            (Attached::Active(rules), Some(policy)) => (rules, policy.meta),
            (Attached::Broken(policy), _) => {
                self.shut.insert(policy.clone());
                return (Attached::Broken(policy.clone()), overridden);
            }
            _ => return (Attached::None, overridden),
        };
        let has_lost_all = |policy: &Attachment<'m, R>| {
            let lost = lost.iter().filter(|lost| std::ptr::eq(lost.policy, policy)).count();
            lost > 0 && lost == policy.parts().len()
        };
        self.used.extend(from.iter().filter(|policy| !has_lost_all(policy)).map(|policy| &policy.meta.object));
        let names: Vec<_> = from.iter().map(|policy| &policy.meta.object).collect();
        if let Some(made) = self.made.get(&names) {
            return (made.clone(), overridden);
        }
        self.problems.extend(lost.iter().filter_map(Lost::for_other_requests));
        let made = make(rules, most_specific, &mut self.problems);
        self.made.insert(names, made.clone());
        (made, overridden)
    }

    /// Policies that are replaced wherever they would apply: in error, they shut nothing.
    pub(super) fn spared(&self) -> impl Iterator<Item = &'m ObjectName> {
        self.reached
            .iter()
            .filter(|object| self.gave_way.contains_key(*object) && !self.shut.contains(**object))
            .copied()
    }

    pub(super) fn in_force(&self) -> Standing {
        let gave_way = |object: &&&'m ObjectName| {
            let by = self.gave_way.get(*object).cloned().unwrap_or_default();
            (!by.is_empty() || !self.used.contains(*object)).then(|| ((**object).clone(), by))
        };
        let used = self.used.iter().map(|object| (*object).clone()).collect();
        (used, self.reached.iter().filter_map(|object| gave_way(&object)).collect())
    }

    /// Problems that showed when policies were put together; and the policies that never came to it.
    pub(super) fn into_problems(mut self) -> Vec<Problem> {
        let told = self.problems.iter().filter(|problem| problem.code != Finding::TargetShared);
        let told: HashSet<_> = told.filter_map(|problem| problem.object.clone()).collect();
        for policy in self.by_target.values().flatten() {
            let object = &policy.meta.object;
            // The defaults of a Gateway are for routes to come, too.
            let is_default = matches!(policy.target, Target::Gateway { .. }) && !self.overridden.contains(object);
            let is_idle = self.reached.contains(object) && !self.used.contains(object) && !is_default;
            if let Some(by) = self.gave_way.get(object).filter(|_| is_idle && !told.contains(object))
                && policy.rules.is_some()
            {
                let message = format!("overridden by {} wherever it would apply", in_words(by));
                let problem = warning(Finding::PolicyShadowed, policy.meta, &policy.meta.place, "", message);
                self.problems.push(problem.remedy("remove it, or use the strategy `merge`"));
            }
        }
        self.problems
    }
}

impl<R> Lost<'_, '_, R> {
    /// Of two levels the more specific one may say otherwise of the same requests, and is meant to; not of others.
    fn for_other_requests(&self) -> Option<Problem> {
        let Lost { policy, part, by, winner } = self;
        (by.target != policy.target && part.what.requests() != winner.what.requests()).then(|| {
            let message = format!("a limit of this name in {} takes its place, for other requests", winner.policy);
            let field = format!("spec.{}", part.field());
            let problem = warning(Finding::LimitReplaced, policy.meta, part.place, &field, message);
            problem.remedy("give one of them another name: `merge` goes by names alone")
        })
    }
}

/// What the policy's strategy is good for: where its place among others is not known, it could win over any.
fn strategy(meta: &Meta, strategy: Option<Strategy>) -> Option<Strategy> {
    strategy.filter(|_| meta.age != Age::Unreadable)
}

// === AuthPolicy ===

pub(super) type AuthAttachments<'m> = Attachments<'m, AuthRules, (ObjectName, Arc<AuthRules>)>;

pub(super) fn auth_policies(manifests: &Manifests) -> AuthAttachments<'_> {
    Attachments::new(manifests.auth_policies.iter().map(|policy| {
        let broken = || Arc::new(AuthRules { shadow: true, broken: true, ..AuthRules::default() });
        let rules = policy.rules.clone().or_else(|| policy.shadow.then(broken));
        Attachment {
            meta: &policy.meta,
            target: &policy.target,
            place: &policy.target_place,
            strategy: strategy(&policy.meta, policy.strategy),
            shadow: policy.shadow,
            rules,
        }
    }))
}

impl Merge for AuthRules {
    const REPLACED: Finding = Finding::RuleReplaced;

    fn and(&self, other: &Self) -> Self {
        AuthRules::and(self, other)
    }

    fn parts(&self) -> Vec<Part<'_>> {
        fn parts<'r, T: fmt::Debug + 'r>(
            rules: &'r AuthRules,
            block: &'static str,
            of_block: impl IntoIterator<Item = &'r Arc<Rule<T>>>,
        ) -> impl Iterator<Item = Part<'r>> {
            of_block.into_iter().map(move |rule| Part {
                block,
                name: &rule.name,
                policy: &rule.origin,
                place: &rule.place,
                in_shadow: rules.in_shadow.contains(&rule.origin),
                what: &**rule,
            })
        }
        let when = parts(self, WHEN, &self.when).map(|when| Part { name: "", ..when });
        let patterns = parts(self, "patterns", &self.patterns);
        let authentication = parts(self, "rules.authentication", &self.authentication);
        let metadata = parts(self, "rules.metadata", &self.metadata);
        let authorization = parts(self, "rules.authorization", &self.authorization);
        let filters = parts(self, "rules.response.success.filters", &self.filters);
        let headers = parts(self, "rules.response.success.headers", &self.headers);
        let told = parts(self, "rules.response", self.unauthenticated.iter());
        let told = told.chain(parts(self, "rules.response", self.unauthorized.iter()));
        let rules = authentication.chain(metadata).chain(authorization).chain(told).chain(filters).chain(headers);
        when.chain(patterns).chain(rules).collect()
    }
}

impl AuthAttachments<'_> {
    /// The rules for a request at `levels`, and the most specific policy that they are from.
    pub(super) fn at(&mut self, levels: &Levels) -> (Attached<(ObjectName, Arc<AuthRules>)>, Vec<Overridden>) {
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

impl<T: fmt::Debug> Says for Rule<T> {
    fn all(&self) -> String {
        format!("{:?} {} {:?}", self.when, self.priority, self.what)
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

/// The limits of one or more policies.
pub(super) struct LimitRules<'m> {
    /// A policy in shadow that is in error.
    broken: Option<&'m ObjectName>,
    /// Whose `when` has to hold for every limit, but for those of policies in shadow, which have their own.
    when: Option<&'m LimitPolicy>,
    limits: Vec<Written<'m>>,
}

/// A limit, and the policy that it is written in.
type Written<'m> = (&'m LimitPolicy, &'m LimitSpec);

impl Merge for LimitRules<'_> {
    const REPLACED: Finding = Finding::LimitReplaced;

    fn and(&self, other: &Self) -> Self {
        let is_new = |(_, limit): &&Written<'_>| self.limits.iter().all(|(_, known)| known.name != limit.name);
        let limits = self.limits.iter().chain(other.limits.iter().filter(is_new)).copied().collect();
        LimitRules { broken: self.broken.or(other.broken), when: self.when.or(other.when), limits }
    }

    fn parts(&self) -> Vec<Part<'_>> {
        let when = self.when.map(|policy| Part {
            block: WHEN,
            name: "",
            policy: &policy.meta.object,
            place: policy.when.first().map_or(&policy.limits_place, |predicate| &predicate.place),
            in_shadow: false,
            what: policy,
        });
        let limits = self.limits.iter().map(|written @ (policy, spec)| Part {
            block: "limits",
            name: &spec.name,
            policy: &policy.meta.object,
            place: &spec.place,
            in_shadow: policy.shadow.covers(&spec.name),
            what: written,
        });
        when.into_iter().chain(limits).collect()
    }
}

impl Says for LimitPolicy {
    fn all(&self) -> String {
        sources(self.when.iter())
    }
}

impl Says for Written<'_> {
    fn requests(&self) -> String {
        sources(self.1.when.iter())
    }

    fn all(&self) -> String {
        let (policy, spec) = self;
        let counters: Vec<&str> = spec.counters.iter().map(|counter| counter.source()).collect();
        format!("{} {counters:?} {:?} {}", self.requests(), spec.rates, policy.per_route)
    }
}

fn sources<'m>(when: impl Iterator<Item = &'m Predicate>) -> String {
    let sources: Vec<&str> = when.map(|predicate| predicate.expression.source()).collect();
    format!("{sources:?}")
}

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
        let shadow = policy.shadow == Shadow::Everything;
        let limits = limits.or_else(|| shadow.then(Vec::new));
        let when = Some(policy).filter(|policy| !policy.when.is_empty() && !shadow);
        Attachment {
            meta: &policy.meta,
            target: &policy.target,
            place: &policy.target_place,
            strategy: strategy(&policy.meta, policy.strategy),
            shadow,
            rules: limits.map(|limits| Arc::new(LimitRules { broken, when, limits })),
        }
    }))
}

impl LimitAttachments<'_> {
    /// The limits for a request at `levels`.
    ///
    /// A limit counts for what its policy is attached to: on a Gateway once per user for that Gateway, on an HTTPRoute for that
    /// route; for the route too where its policy says so.
    pub(super) fn at(&mut self, levels: &Levels) -> (Attached<LimitSet>, Vec<Overridden>) {
        self.effective(levels, |rules, most_specific, _| {
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

impl LimitRules<'_> {
    fn limit(&self, (policy, spec): Written<'_>) -> Limit {
        let (name, scope) = (&policy.meta.object, policy.target.to_string());
        // What holds for all limits is that of the policy that won it.
        let common = if policy.shadow == Shadow::Everything { Some(policy) } else { self.when };
        let common = common.into_iter().flat_map(|policy| &policy.when);
        let when = common.chain(&spec.when);
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
