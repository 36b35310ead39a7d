//! Puts the rules of policies together, which stand in a row from the least specific to the most.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Attachment, Together};
use crate::manifest::Strategy;
use crate::policy::Attached;
use crate::problem::{Finding, ObjectName, Place};

/// Rules that can be put together.
pub(in crate::policy) trait Merge {
    /// That one gives way to another of its name on the same target.
    const REPLACED: Finding;

    /// These rules, and those of `other` whose names are not among them.
    fn and(&self, other: &Self) -> Self;

    fn parts(&self) -> Vec<Part<'_>>;
}

/// A rule, a limit, or the `when` of a policy.
#[derive(Clone, Copy)]
pub(in crate::policy) struct Part<'r> {
    /// What it is one of, such as `limits`.
    pub(super) block: &'static str,
    /// Empty where there is one alone.
    pub(super) name: &'r str,
    /// The policy that it is written in.
    pub(super) policy: &'r ObjectName,
    pub(super) place: &'r Place,
    /// Whether it is one limit of a policy that only says what it would have refused: of two of one name, one of them in force,
    /// none gives way.
    pub(super) in_shadow: bool,
    pub(super) what: &'r dyn Says,
}

/// What a part says, for comparing two of one name.
pub(in crate::policy) trait Says {
    /// Of the requests that it is for. Empty where it need not be told.
    fn requests(&self) -> String {
        String::new()
    }

    fn all(&self) -> String;
}

/// The block of the condition of a whole policy.
pub(super) const WHEN: &str = "when";

/// What policies in a row make: those in force as if nothing were on trial, and all of them, if anything is.
pub(super) struct Apart<'a, 'm, R> {
    pub(super) in_force: Folded<'a, 'm, R>,
    pub(super) trial: Option<Folded<'a, 'm, R>>,
}

/// What policies make together.
pub(super) struct Folded<'a, 'm, R> {
    pub(super) rules: Attached<R>,
    /// The policies that they are from, the most specific first.
    pub(super) from: Vec<&'a Attachment<'m, R>>,
    pub(super) replaced: Vec<Replaced<'a, 'm, R>>,
}

/// A policy that gives way as a whole.
pub(super) struct Replaced<'a, 'm, R> {
    pub(super) policy: &'a Attachment<'m, R>,
    pub(super) by: Vec<&'a Attachment<'m, R>>,
    /// It is overridden, so that it counts nowhere; a default may count elsewhere.
    pub(super) everywhere: bool,
}

/// A part that gives way to another of its name, which counts.
pub(super) struct Lost<'f, 'm, R> {
    pub(super) policy: &'f Attachment<'m, R>,
    pub(super) part: Part<'f>,
    pub(super) by: &'f Attachment<'m, R>,
    pub(super) winner: Part<'f>,
}

/// Source: Kuadrant's `merge_strategies.go`. What is in error counts by the strategy that it was written with: what replaces it
/// does so whatever it says, and without that nobody can tell what it would have said.
pub(super) fn fold<'a, 'm, R: Merge>(policies: &[&'a Attachment<'m, R>]) -> Folded<'a, 'm, R> {
    let mut folded = Folded { rules: Attached::None, from: Vec::new(), replaced: Vec::new() };
    policies.iter().rev().for_each(|policy| folded.add(policy));
    folded
}

// === impl Apart ===

impl<'a, 'm, R: Merge> Apart<'a, 'm, R> {
    pub(super) fn new(policies: &[&'a Attachment<'m, R>]) -> Self {
        let in_force: Vec<_> = policies.iter().copied().filter(|policy| !policy.shadow).collect();
        let trial = (in_force.len() < policies.len()).then(|| fold(policies));
        Apart { in_force: fold(&in_force), trial }
    }

    /// The parts that give way. Those on trial are told of where all of them are.
    pub(super) fn lost(&self) -> Vec<Lost<'_, 'm, R>> {
        let mut lost = self.in_force.lost();
        if let Some(trial) = &self.trial {
            lost.retain(|lost| !lost.part.in_shadow);
            lost.extend(trial.lost().into_iter().filter(|lost| lost.policy.shadow || lost.part.in_shadow));
        }
        lost
    }

    /// The policies that give way as a whole.
    pub(super) fn replaced(&self) -> Vec<&Replaced<'a, 'm, R>> {
        let trial = self.trial.iter().flat_map(|trial| &trial.replaced);
        self.in_force.replaced.iter().chain(trial.filter(|replaced| replaced.policy.shadow)).collect()
    }

    /// What the policies that are left make with those on trial, if any of these is left, by the most specific of them.
    pub(super) fn tried(&self) -> Option<Together<'_, R>> {
        let trial = self.trial.as_ref()?;
        trial.told_by(trial.from.iter().copied().find(|policy| policy.shadow))
    }

    /// The policies that are left, of those in force and of all.
    pub(super) fn from(&self) -> [&[&'a Attachment<'m, R>]; 2] {
        [Some(&self.in_force), self.trial.as_ref()].map(|folded| folded.map_or(&[][..], |folded| &folded.from))
    }

    /// Those of which something counts: in force, and on trial.
    pub(super) fn counting(&self, lost: &[Lost<'_, 'm, R>]) -> [Vec<&'m ObjectName>; 2] {
        let counts = |policy: &&Attachment<'m, R>| {
            let lost = lost.iter().filter(|lost| std::ptr::eq(lost.policy, *policy)).count();
            lost == 0 || lost < policy.parts().len()
        };
        let [in_force, all] = self.from();
        let counting = |policies: &[&Attachment<'m, R>], shadow: bool| {
            let policies = policies.iter().copied().filter(|policy| policy.shadow == shadow);
            policies.filter(counts).map(|policy| &policy.meta.object).collect()
        };
        [counting(in_force, false), counting(all, true)]
    }
}

// === impl Folded ===

impl<'a, R> Folded<'a, '_, R> {
    pub(super) fn together(&self) -> Option<Together<'_, R>> {
        self.told_by(self.from.first().copied())
    }

    fn told_by(&self, policy: Option<&'a Attachment<'_, R>>) -> Option<Together<'_, R>> {
        match (&self.rules, policy) {
            (Attached::Active(rules), Some(policy)) => Some((&**rules, policy.meta)),
            _ => None,
        }
    }
}

impl<'a, 'm, R: Merge> Folded<'a, 'm, R> {
    /// Puts in the policy that stands before all that are in.
    fn add(&mut self, policy: &'a Attachment<'m, R>) {
        let strategy = policy.strategy.unwrap_or(Strategy { overrides: true, merge: true });
        let rules = std::mem::replace(&mut self.rules, Attached::None);
        self.rules = match (&policy.rules, rules, strategy) {
            // The more specific rules replace these, whatever these are.
            (_, rules @ (Attached::Active(_) | Attached::Broken(_)), Strategy { overrides: false, merge: false }) => {
                self.replaced.push(Replaced { policy, by: self.from.clone(), everywhere: false });
                rules
            }
            (None, ..) => {
                self.from = vec![policy];
                Attached::Broken(policy.meta.object.clone())
            }
            (Some(own), Attached::None, _) | (Some(own), _, Strategy { overrides: true, merge: false }) => {
                self.override_all(policy);
                Attached::Active(Arc::clone(own))
            }
            (Some(_), broken @ Attached::Broken(_), _) => broken,
            (Some(own), Attached::Active(specific), Strategy { overrides, .. }) => {
                self.from.push(policy);
                Attached::Active(Arc::new(if overrides { own.and(&specific) } else { specific.and(own) }))
            }
        };
    }

    /// All that are in give way to `policy`.
    fn override_all(&mut self, policy: &'a Attachment<'m, R>) {
        let replaced = std::mem::take(&mut self.replaced).into_iter().map(|replaced| replaced.policy);
        let before = replaced.chain(std::mem::replace(&mut self.from, vec![policy]));
        let by_this = |before| Replaced { policy: before, by: vec![policy], everywhere: true };
        self.replaced = before.map(by_this).collect();
    }
    /// The parts that give way.
    pub(super) fn lost(&self) -> Vec<Lost<'_, 'm, R>> {
        let Attached::Active(rules) = &self.rules else { return Vec::new() };
        if self.from.len() < 2 {
            return Vec::new();
        }
        let winners: HashMap<_, _> = rules.parts().into_iter().map(|part| (part.key(), part)).collect();
        let parts = self.from.iter().flat_map(|policy| policy.parts().into_iter().map(move |part| (*policy, part)));
        let lost = parts.filter_map(|(policy, part)| {
            let winner = *winners.get(&part.key()).filter(|winner| winner.policy != part.policy)?;
            let by = *self.from.iter().find(|policy| policy.meta.object == *winner.policy)?;
            Some(Lost { policy, part, by, winner })
        });
        lost.collect()
    }
}

// === impl Attachment ===

impl<R: Merge> Attachment<'_, R> {
    pub(super) fn parts(&self) -> Vec<Part<'_>> {
        self.rules.as_ref().map(|rules| rules.parts()).unwrap_or_default()
    }
}

// === impl Part ===

impl<'r> Part<'r> {
    fn key(&self) -> (&'static str, &'r str, bool) {
        (self.block, self.name, self.in_shadow)
    }

    /// Whether it makes no difference which of the two counts.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.what.all() == other.what.all()
    }

    /// Such as `limits.free`.
    pub(super) fn field(&self) -> String {
        if self.name.is_empty() { self.block.to_owned() } else { format!("{}.{}", self.block, self.name) }
    }
}
