//! What a policy object is told about itself: whether it is accepted, and whether it is in force.
//!
//! Types and reasons are those of GEP-713 and of Kuadrant: <https://gateway-api.sigs.k8s.io/geps/gep-713/>.

use std::collections::HashMap;

use super::{Policy, in_words};
use crate::problem::{Finding, InForce, ObjectName, Problem};

/// A condition of an object's status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusCondition {
    /// Its `type`.
    pub name: &'static str,
    pub holds: bool,
    pub reason: &'static str,
    pub message: String,
}

// === impl Policy ===

impl Policy {
    /// The conditions of every policy object.
    #[must_use]
    pub fn conditions(&self) -> HashMap<&ObjectName, [StatusCondition; 2]> {
        let mut problems: HashMap<&ObjectName, Vec<&Problem>> = HashMap::new();
        for problem in &self.problems {
            if let Some(object) = &problem.object {
                problems.entry(object).or_default().push(problem);
            }
        }
        let policies = self.places.keys().filter(|object| object.kind.ends_with("Policy"));
        policies
            .map(|object| (object, self.conditions_of(object, problems.get(object).map_or(&[], Vec::as_slice))))
            .collect()
    }

    fn conditions_of(&self, object: &ObjectName, problems: &[&Problem]) -> [StatusCondition; 2] {
        let unaccepted = problems.iter().find_map(|problem| Some((reason(problem)?, say(problem))));
        let accepted = match &unaccepted {
            None => condition(ACCEPTED, true, ACCEPTED, "tiergate reads and uses it"),
            Some((reason, message)) => condition(ACCEPTED, false, reason, message),
        };
        let enforced = match unaccepted {
            _ if self.enforced.contains(object) => condition(ENFORCED, true, ENFORCED, &self.how_enforced(object)),
            Some((reason, _)) if problems.iter().any(|problem| is_fault(problem)) => {
                condition(ENFORCED, false, reason, &self.why_not_enforced(object, problems))
            }
            Some((reason, message)) => condition(ENFORCED, false, reason, &message),
            None if self.overridden.contains_key(object) => {
                let by = self.winners(object).unwrap_or_else(|| "a policy that is in error".to_owned());
                condition(ENFORCED, false, "Overridden", &format!("overridden by {by} on every route that it is for"))
            }
            None => condition(ENFORCED, false, "Unknown", "no route that it is for is known"),
        };
        [accepted, enforced]
    }

    /// Those that it gives way to, be it in part.
    fn winners(&self, object: &ObjectName) -> Option<String> {
        self.overridden.get(object).filter(|by| !by.is_empty()).map(in_words)
    }

    fn how_enforced(&self, object: &ObjectName) -> String {
        match (self.kept.get(object), self.winners(object)) {
            (Some(since), _) => format!("in force is {}", InForce::LastGood(*since)),
            (None, None) => "it is in force".to_owned(),
            (None, Some(by)) => format!("it is in force, but for what is overridden by {by}"),
        }
    }

    /// What happens in place of a policy in error.
    fn why_not_enforced(&self, object: &ObjectName, problems: &[&Problem]) -> String {
        let leaves_open = |now: InForce| matches!(now, InForce::Nothing | InForce::Rest);
        let shuts = problems.iter().any(|problem| problem.in_force.is_some_and(|now| !leaves_open(now)));
        // In shadow it shuts nothing.
        let opens = !shuts && problems.iter().any(|problem| problem.in_force.is_some_and(leaves_open));
        match self.winners(object).filter(|_| !shuts) {
            Some(by) => format!("it is not in force: overridden by {by}"),
            None if opens => "it is not in force".to_owned(),
            None => "it is not in force, and requests that it is for are answered 503".to_owned(),
        }
    }
}

fn condition(name: &'static str, holds: bool, reason: &'static str, message: &str) -> StatusCondition {
    StatusCondition { name, holds, reason, message: message.to_owned() }
}

const ACCEPTED: &str = "Accepted";
const ENFORCED: &str = "Enforced";

/// Why a policy with this problem is not accepted, if it is not.
fn reason(problem: &Problem) -> Option<&'static str> {
    match problem.code {
        Finding::TargetMissing => Some("TargetNotFound"),
        _ => is_fault(problem).then_some("Invalid"),
    }
}

/// Whether it keeps the policy from being used. What gives way to another policy is right by itself.
fn is_fault(problem: &Problem) -> bool {
    // A policy for what is not there shuts nothing either.
    let harmless = [Finding::PolicyShadowed, Finding::RuleReplaced, Finding::LimitReplaced, Finding::TargetMissing];
    problem.is_error() && !harmless.contains(&problem.code)
}

/// The problem, without its object: field, fault, what is expected, and what to do.
#[must_use]
pub fn say(problem: &Problem) -> String {
    let field = match problem.field.as_str() {
        "" => String::new(),
        field => format!("{field}: "),
    };
    let expected = problem.expected.as_ref().map(|expected| format!("; expected {expected}")).unwrap_or_default();
    let remedy = problem.remedy.as_ref().map(|remedy| format!("; {remedy}")).unwrap_or_default();
    format!("{field}{}{expected}{remedy}", problem.message)
}
