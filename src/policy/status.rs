//! What a policy object is told about itself: whether it is accepted, and whether it is in force.
//!
//! Types and reasons are those of GEP-713 and of Kuadrant: <https://gateway-api.sigs.k8s.io/geps/gep-713/>.

use std::collections::HashMap;

use super::{Policy, in_words};
use crate::problem::{Finding, InForce, ObjectName, Problem};

/// A condition of an object's status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
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
    pub fn conditions(&self) -> HashMap<&ObjectName, [Condition; 2]> {
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

    fn conditions_of(&self, object: &ObjectName, problems: &[&Problem]) -> [Condition; 2] {
        let unaccepted = problems.iter().find_map(|problem| Some((reason(problem)?, say(problem))));
        let in_error = problems.iter().any(|problem| is_fault(problem));
        let leaves_open = |now: InForce| matches!(now, InForce::Nothing | InForce::Rest);
        let shuts = problems.iter().any(|problem| problem.in_force.is_some_and(|now| !leaves_open(now)));
        // In shadow it shuts nothing.
        let opens = !shuts && problems.iter().any(|problem| problem.in_force.is_some_and(leaves_open));
        let condition =
            |name, holds, reason, message: &str| Condition { name, holds, reason, message: message.to_owned() };
        let accepted = match &unaccepted {
            None => condition(ACCEPTED, true, ACCEPTED, "tiergate reads and uses it"),
            Some((reason, message)) => condition(ACCEPTED, false, reason, message),
        };
        let (enforced, overridden) = (self.enforced.contains(object), self.overridden.get(object));
        let winners = overridden.filter(|by| !by.is_empty()).map(in_words);
        let enforced = match &unaccepted {
            _ if enforced && let Some(since) = self.kept.get(object) => {
                let kept = format!("in force is {}", InForce::LastGood(*since));
                condition(ENFORCED, true, ENFORCED, &kept)
            }
            _ if enforced => match winners {
                None => condition(ENFORCED, true, ENFORCED, "it is in force"),
                Some(by) => {
                    condition(ENFORCED, true, ENFORCED, &format!("it is in force, but for what is overridden by {by}"))
                }
            },
            Some((reason, _)) if in_error => {
                let message = match winners.filter(|_| !shuts) {
                    Some(by) => format!("it is not in force: overridden by {by}"),
                    None if opens => "it is not in force".to_owned(),
                    None => "it is not in force, and requests that it is for are answered 503".to_owned(),
                };
                condition(ENFORCED, false, reason, &message)
            }
            Some((reason, message)) => condition(ENFORCED, false, reason, message),
            None if overridden.is_some() => {
                let by = winners.unwrap_or_else(|| "a policy that is in error".to_owned());
                condition(ENFORCED, false, "Overridden", &format!("overridden by {by} on every route that it is for"))
            }
            None => condition(ENFORCED, false, "Unknown", "no route that it is for is known"),
        };
        [accepted, enforced]
    }
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
