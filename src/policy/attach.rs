//! Which policies apply to a rule of a route, and what they make together.
//!
//! Source: GEP-713 and GEP-2649; how policies meet is Kuadrant's (`EffectivePolicyForPath` in `merge_strategies.go`). All that a
//! request can be reached by stand in one row: level by level from the least specific, those of one target by age, the oldest
//! first. They are put together from the row's end, and the strategy of the one that comes to the others decides. So of the
//! `defaults` of one target the newest wins, of its `overrides` the oldest.
//!
//! What is in force is put together as if nothing were on trial in shadow; a second time with what is, for that to say what it would
//! have refused.

mod auth;
mod fold;
mod limits;
mod shared;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

pub(super) use self::auth::{AuthAttachments, Ruled, auth_policies};
pub(super) use self::limits::{LimitAttachments, limit_policies};

use self::fold::{Apart, Lost, Merge, Replaced};
use super::{Attached, Overridden, in_words};
use crate::manifest::{Age, Meta, Strategy, Target};
use crate::problem::{Finding, ObjectName, Place, Problem};

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
    /// What was found out of policies that stand in one row.
    rows: HashMap<Vec<&'m ObjectName>, Arc<EffectivePolicy<'m, T>>>,
    /// What was put together before, by the policies that went in: those in force, and those on trial.
    made: HashMap<[Vec<&'m ObjectName>; 2], Attached<T>>,
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

/// What policies in a row make.
pub(super) struct EffectivePolicy<'m, T> {
    pub(super) attached: Attached<T>,
    /// Policies and parts of them that give way to these.
    pub(super) overridden: Arc<[Overridden]>,
    /// The policies that count for something in it.
    in_force: Vec<&'m ObjectName>,
    on_trial: Vec<&'m ObjectName>,
}

/// Rules that were put together, and the most specific policy that they are from.
type Together<'p, R> = (&'p R, &'p Meta);

/// Which policies are in force.
pub(super) struct Enforcement {
    /// Those that are, somewhere.
    pub(super) enforced: HashSet<ObjectName>,
    /// Those that give way to others, which are named; or to none, but are in force nowhere.
    pub(super) overridden: HashMap<ObjectName, BTreeSet<ObjectName>>,
}

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
            // On trial a policy adds to those in force on its target, whatever its strategy and age.
            let any_in_force = policies.iter().any(|policy| !policy.shadow);
            for trial in policies.iter_mut().filter(|policy| policy.shadow && any_in_force) {
                trial.strategy = Some(Strategy { overrides: false, merge: true });
            }
            policies.sort_by_key(|policy| (!policy.shadow, policy.meta.seniority()));
        }
        Attachments {
            problems: shared::problems(&by_target),
            by_target,
            rows: HashMap::new(),
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

    /// A policy whose target is unknown: it could be for anything. On trial it shuts nothing.
    fn without_target(&self) -> Option<&ObjectName> {
        let mut unknown = self.by_target.get(&Target::Unknown).into_iter().flatten();
        unknown.find(|policy| !policy.shadow).map(|policy| &policy.meta.object)
    }

    /// What applies at `levels`, and what gives way there. `make` finishes what is put together of the policies in force, and with
    /// those on trial, once for each combination of policies.
    fn effective(
        &mut self,
        levels: &Levels,
        make: impl FnOnce(Option<Together<'_, R>>, Option<Together<'_, R>>, &mut Vec<Problem>) -> Attached<T>,
    ) -> Arc<EffectivePolicy<'m, T>> {
        if let Some(unknown) = self.without_target() {
            return Arc::new(EffectivePolicy::new(Attached::Broken(unknown.clone())));
        }
        let policies: Vec<_> = levels.iter().filter_map(|target| self.by_target.get(target)).flatten().collect();
        let names = names_of(&policies);
        if let Some(row) = self.rows.get(&names) {
            return Arc::clone(row);
        }
        self.reached.extend(&names);
        let apart = Apart::new(&policies);
        let (lost, replaced) = (apart.lost(), apart.replaced());
        let overridden = note_given_way(&mut self.gave_way, &lost, &replaced);
        let everywhere = replaced.iter().filter(|replaced| replaced.everywhere);
        self.overridden.extend(everywhere.map(|replaced| &replaced.policy.meta.object));
        let key = apart.from().map(|from| names_of(from));
        let attached = match (&apart.in_force.rules, self.made.get(&key)) {
            (Attached::Broken(policy), _) => Attached::Broken(policy.clone()),
            (_, Some(made)) => made.clone(),
            _ => {
                self.problems.extend(lost.iter().filter_map(Lost::for_other_requests));
                let made = make(apart.in_force.together(), apart.tried(), &mut self.problems);
                self.made.insert(key, made.clone());
                made
            }
        };
        let [in_force, on_trial] = apart.counting(&lost);
        let row = Arc::new(EffectivePolicy { attached, overridden: overridden.into(), in_force, on_trial });
        self.rows.insert(names, Arc::clone(&row));
        row
    }

    /// Notes which policies a row puts in force on some route, if its rules can be used there; which of them shuts the route else.
    fn note(
        &mut self,
        row: &EffectivePolicy<'m, T>,
        shut: Option<&ObjectName>,
        on_trial: impl Fn(&ObjectName) -> bool,
    ) {
        match (&row.attached, shut) {
            (Attached::Broken(policy), _) | (_, Some(policy)) => {
                self.shut.insert(policy.clone());
            }
            (Attached::Active(_), None) => {
                self.used.extend(&row.in_force);
                self.used.extend(row.on_trial.iter().filter(|policy| on_trial(policy)));
            }
            (Attached::None, None) => {}
        }
    }

    /// Policies that are replaced wherever they would apply: in error, they shut nothing.
    pub(super) fn spared(&self) -> impl Iterator<Item = &'m ObjectName> {
        self.reached
            .iter()
            .filter(|object| self.gave_way.contains_key(*object) && !self.shut.contains(**object))
            .copied()
    }

    pub(super) fn in_force(&self) -> Enforcement {
        let gave_way = |object: &&&'m ObjectName| {
            let by = self.gave_way.get(*object).cloned().unwrap_or_default();
            (!by.is_empty() || !self.used.contains(*object)).then(|| ((**object).clone(), by))
        };
        Enforcement {
            enforced: self.used.iter().map(|object| (*object).clone()).collect(),
            overridden: self.reached.iter().filter_map(|object| gave_way(&object)).collect(),
        }
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
                let problem = policy.meta.warning(Finding::PolicyShadowed, &policy.meta.place, "", message);
                self.problems.push(problem.remedy("remove it, or use the strategy `merge`"));
            }
        }
        self.problems
    }
}

// === impl EffectivePolicy ===

impl<T> EffectivePolicy<'_, T> {
    fn new(attached: Attached<T>) -> Self {
        EffectivePolicy { attached, overridden: Arc::default(), in_force: Vec::new(), on_trial: Vec::new() }
    }
}

/// Notes what gives way, and to which.
fn note_given_way<'m, R>(
    gave_way: &mut HashMap<&'m ObjectName, BTreeSet<ObjectName>>,
    lost: &[Lost<'_, 'm, R>],
    replaced: &[&Replaced<'_, 'm, R>],
) -> Vec<Overridden> {
    let whole = replaced.iter().map(|replaced| (replaced.policy, None, replaced.by.clone()));
    let parts = lost.iter().map(|lost| (lost.policy, Some(lost.part.field()), vec![lost.by]));
    let overridden = whole.chain(parts).map(|(policy, part, by)| {
        let by: Vec<_> = by.iter().map(|policy| policy.meta.object.clone()).collect();
        gave_way.entry(&policy.meta.object).or_default().extend(by.iter().cloned());
        Overridden { policy: policy.meta.object.clone(), part, by }
    });
    overridden.collect()
}

fn names_of<'m, R>(policies: &[&Attachment<'m, R>]) -> Vec<&'m ObjectName> {
    policies.iter().map(|policy| &policy.meta.object).collect()
}

// === impl Lost ===

impl<R> Lost<'_, '_, R> {
    /// Of two levels the more specific one may say otherwise of the same requests, and is meant to; not of others.
    fn for_other_requests(&self) -> Option<Problem> {
        let Lost { policy, part, by, winner } = self;
        (by.target != policy.target && part.what.requests() != winner.what.requests()).then(|| {
            let message = format!("a limit of this name in {} takes its place, for other requests", winner.policy);
            let field = format!("spec.{}", part.field());
            let problem = policy.meta.warning(Finding::LimitReplaced, part.place, &field, message);
            problem.remedy("give one of them another name: `merge` goes by names alone")
        })
    }
}

/// What the policy's strategy is good for: where its place among others is not known, it could win over any.
fn strategy(meta: &Meta, strategy: Option<Strategy>) -> Option<Strategy> {
    strategy.filter(|_| meta.age != Age::Unreadable)
}
