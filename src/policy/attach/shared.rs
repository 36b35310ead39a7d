//! Findings of policies that have one target: which of them, and what of them, never counts.

use std::collections::HashMap;

use super::Attachment;
use super::fold::{Apart, Folded, Merge, WHEN};
use crate::manifest::Target;
use crate::policy::{Attached, in_words};
use crate::problem::{Finding, Problem, Severity};

/// Between levels it is meant that something gives way; among policies of one target it is a slip.
pub(super) fn problems<R: Merge>(by_target: &HashMap<Target, Vec<Attachment<'_, R>>>) -> Vec<Problem> {
    let shared = by_target.iter().filter(|(target, policies)| **target != Target::Unknown && policies.len() > 1);
    shared.flat_map(|(_, policies)| of_target(policies)).collect()
}

fn of_target<R: Merge>(policies: &[Attachment<'_, R>]) -> Vec<Problem> {
    let Apart { in_force, trial } = Apart::new(&policies.iter().collect::<Vec<_>>());
    let mut problems = given_way(&in_force, |_| true);
    problems.extend(trial.iter().flat_map(|trial| given_way(trial, |policy| policy.shadow)));
    problems.extend(narrowed(&in_force));
    problems.iter_mut().for_each(|problem| problem.severity = Severity::Error);
    if let ([oldest, others @ ..], []) = (policies, &*problems) {
        problems.extend(others.iter().map(|policy| {
            let message = format!("{} has the same target: what they say is put together by name", oldest.meta.object);
            let problem = policy.problem(Finding::TargetShared, "spec.targetRef", message);
            problem.remedy("put them into one, or say that it is meant: `tiergate.io/ignore: target-shared`")
        }));
    }
    problems
}

/// What gives way, of the policies that `tell` says.
fn given_way<'m, R: Merge>(folded: &Folded<'_, 'm, R>, tell: fn(&Attachment<'m, R>) -> bool) -> Vec<Problem> {
    let mut problems = Vec::new();
    for replaced in folded.replaced.iter().filter(|replaced| tell(replaced.policy)) {
        let by = in_words(replaced.by.iter().map(|policy| &policy.meta.object));
        let message = format!("overridden by {by}, which has the same target");
        let problem = replaced.policy.problem(Finding::PolicyShadowed, "spec.targetRef", message);
        problems.push(problem.remedy("give both the strategy `merge`, or keep one policy of a kind per target"));
    }
    let lost = folded.lost().into_iter().filter(|lost| tell(lost.policy) && !lost.part.is_like(&lost.winner));
    for lost in lost {
        let message = format!("overridden by {}, which has the same target", lost.winner.policy.path());
        let field = format!("spec.{}", lost.part.field());
        let problem = lost.policy.problem(R::REPLACED, &field, message);
        let problem = Problem { place: lost.part.place.clone(), ..problem };
        problems.push(problem.remedy(match lost.part.name {
            "" => "keep one of the two; a condition can stand in each rule or limit, too",
            _ => "give one of the two another name, or remove it",
        }));
    }
    problems
}

/// The `when` of one policy holds for the rules of all that it is merged with.
fn narrowed<R: Merge>(folded: &Folded<'_, '_, R>) -> Vec<Problem> {
    let Attached::Active(rules) = &folded.rules else { return Vec::new() };
    let all = rules.parts();
    let Some(when) = all.iter().find(|part| part.block == WHEN) else { return Vec::new() };
    let own = |policy: &Attachment<'_, R>| {
        let parts = policy.parts();
        let kept = all.iter().any(|kept| *kept.policy == policy.meta.object);
        !kept || parts.iter().any(|part| part.block == WHEN)
    };
    let narrowed = folded.from.iter().filter(|policy| !own(policy)).map(|policy| {
        let message = format!(
            "the `when` of {}, which has the same target, holds for this policy too: it says nothing of other requests",
            when.policy
        );
        let problem = policy.problem(R::REPLACED, "spec", message);
        problem.remedy("write that `when` in the rules or limits that it is meant for")
    });
    narrowed.collect()
}

impl<R> Attachment<'_, R> {
    fn problem(&self, code: Finding, field: &str, message: String) -> Problem {
        self.meta.warning(code, self.place, field, message)
    }
}
