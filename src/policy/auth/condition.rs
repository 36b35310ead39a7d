//! Conditions: `when`, `patternMatching` and named `patterns`.
//!
//! Source: Authorino's AuthConfig v1beta3, `PatternExpressionOrRef`. Unlike there, a condition that cannot be evaluated leaves
//! the request undecided: a rule that is skipped could open the gate.

use std::sync::Arc;

use super::Rule;
use crate::manifest::did_you_mean;
use crate::policy::Selector;
use crate::policy::expression::{CompileError, EvalError, Expression, Scope};

/// One condition.
#[derive(Debug)]
pub enum Condition {
    /// CEL
    Predicate(Arc<Expression>),
    Pattern(Box<Pattern>),
    /// A named set of patterns.
    Named(Arc<str>),
    /// Holds if all do, so also if there are none.
    All(Vec<Condition>),
    /// Holds if one does, so not if there are none.
    Any(Vec<Condition>),
}

/// A comparison of what a selector finds.
#[derive(Debug)]
pub struct Pattern {
    pub selector: Selector,
    pub operator: Operator,
}

/// How a [`Pattern`] compares: texts with the value as text, `incl` and `excl` with each of its elements.
#[derive(Debug)]
pub enum Operator {
    Equals(String),
    Differs(String),
    Includes(String),
    Excludes(String),
    /// Anywhere in the value.
    Matches(regex::bytes::Regex),
}

/// Named sets of patterns.
pub type Patterns = Vec<Arc<Rule<Condition>>>;

/// Deepest nesting of named patterns in each other.
const DEEPEST: usize = 16;

// === impl Condition ===

impl Condition {
    /// Whether all of `conditions` hold.
    ///
    /// # Errors
    ///
    /// One of them has no answer.
    pub fn all(conditions: &[Condition], scope: &Scope<'_>, patterns: &Patterns) -> Result<bool, EvalError> {
        for condition in conditions {
            if !condition.holds(scope, patterns)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn holds(&self, scope: &Scope<'_>, patterns: &Patterns) -> Result<bool, EvalError> {
        match self {
            Condition::Predicate(expression) => expression.eval_bool(scope),
            Condition::Pattern(pattern) => pattern.holds(scope),
            Condition::All(conditions) => Condition::all(conditions, scope, patterns),
            Condition::Any(conditions) => {
                for condition in conditions {
                    if condition.holds(scope, patterns)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            // Circles were refused when the rules were put together.
            Condition::Named(name) => match find(patterns, name) {
                Some(condition) => condition.holds(scope, patterns),
                None => Err(EvalError::Failed(format!("there are no patterns `{name}`"))),
            },
        }
    }

    /// Checks that every reference leads to patterns, and not in a circle.
    ///
    /// # Errors
    ///
    /// The first one that does not.
    pub fn check(&self, patterns: &Patterns) -> Result<(), CompileError> {
        self.check_within(patterns, 0)
    }

    fn check_within(&self, patterns: &Patterns, depth: usize) -> Result<(), CompileError> {
        match self {
            Condition::Predicate(_) | Condition::Pattern(_) => Ok(()),
            Condition::All(conditions) | Condition::Any(conditions) => {
                conditions.iter().try_for_each(|condition| condition.check_within(patterns, depth))
            }
            // It leads to itself, or through more others than anybody nests.
            Condition::Named(name) if depth == DEEPEST => {
                Err(CompileError::new(format!("refers to patterns `{name}`, which lead to themselves")))
            }
            Condition::Named(name) => match find(patterns, name) {
                Some(condition) => condition.check_within(patterns, depth + 1),
                None => {
                    let fault = CompileError::new(format!("refers to patterns `{name}`, which are not there"));
                    Err(match did_you_mean(name, patterns.iter().map(|rule| &*rule.name)) {
                        Some(meant) => fault.remedy(format!("did you mean `{meant}`?")),
                        None => fault,
                    })
                }
            },
        }
    }
}

pub(super) fn find<'p>(patterns: &'p Patterns, name: &str) -> Option<&'p Condition> {
    patterns.iter().find(|rule| *rule.name == *name).map(|rule| &rule.what)
}

// === impl Pattern ===

impl Pattern {
    fn holds(&self, scope: &Scope<'_>) -> Result<bool, EvalError> {
        let includes =
            |wanted: &str| self.selector.eval_list(scope).map(|items| items.iter().any(|item| item == wanted));
        Ok(match &self.operator {
            Operator::Equals(wanted) => self.selector.eval_text(scope)? == *wanted,
            Operator::Differs(wanted) => self.selector.eval_text(scope)? != *wanted,
            Operator::Includes(wanted) => includes(wanted)?,
            Operator::Excludes(wanted) => !includes(wanted)?,
            Operator::Matches(regex) => regex.is_match(self.selector.eval_text(scope)?.as_bytes()),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::manifest::{ObjectName, Place};
    use crate::policy::Object;

    fn pattern(selector: &str, operator: Operator) -> Condition {
        let selector = Selector::compile(selector).unwrap();
        Condition::Pattern(Box::new(Pattern { selector, operator }))
    }

    fn named(name: &str) -> Condition {
        Condition::Named(name.into())
    }

    fn patterns<const N: usize>(named: [(&str, Condition); N]) -> Patterns {
        let origin = Arc::new(ObjectName::new("AuthPolicy", "ns", "a"));
        let place = || Place::new(&"f".into(), Default::default());
        named.map(|(name, condition)| Arc::new(Rule::new(name, &origin, place(), condition))).into()
    }

    fn holds(condition: &Condition, patterns: &Patterns) -> Result<bool, EvalError> {
        let identity = json!({"groups": ["a", "b"], "name": "x", "number": 7, "empty": null});
        let identity = Some(Object { base: Some(&identity), extra: &[] });
        condition.holds(&Scope { identity, ..Scope::default() }, patterns)
    }

    #[test]
    fn operators_compare_as_authorinos_do() {
        let is = |text: &str| Operator::Equals(text.to_owned());
        let incl = |text: &str| Operator::Includes(text.to_owned());
        let regex = |text: &str| Operator::Matches(regex::bytes::Regex::new(text).unwrap());
        for (selector, operator, expected) in [
            ("auth.identity.name", is("x"), true),
            ("auth.identity.name", Operator::Differs("x".to_owned()), false),
            ("auth.identity.number", is("7"), true),
            ("auth.identity.groups", is("[\"a\",\"b\"]"), true),
            ("auth.identity.nothing", is(""), true),
            ("auth.identity.empty", is(""), true),
            ("auth.identity.groups", incl("a"), true),
            ("auth.identity.groups", incl("c"), false),
            ("auth.identity.name", incl("x"), true),
            ("auth.identity.nothing", incl(""), false),
            ("auth.identity.groups", Operator::Excludes("c".to_owned()), true),
            ("auth.identity.nothing", Operator::Excludes("c".to_owned()), true),
            ("auth.identity.name", regex("^x$"), true),
            ("auth.identity.groups", regex("\"b\""), true),
            ("auth.identity.nothing", regex("."), false),
        ] {
            let shown = format!("{selector} {operator:?}");
            assert_eq!(holds(&pattern(selector, operator), &Vec::new()), Ok(expected), "{shown}");
        }
    }

    #[test]
    fn lists_nest_and_names_refer() {
        let yes = || pattern("auth.identity.name", Operator::Equals("x".to_owned()));
        let no = || pattern("auth.identity.name", Operator::Equals("y".to_owned()));
        let patterns = patterns([("yes", yes()), ("no", Condition::All(vec![no()]))]);
        for (condition, expected) in [
            (Condition::All(vec![]), true),
            (Condition::Any(vec![]), false),
            (Condition::All(vec![yes(), Condition::Any(vec![no(), yes()])]), true),
            (Condition::All(vec![named("yes"), named("no")]), false),
            (Condition::Any(vec![named("no"), named("yes")]), true),
        ] {
            assert_eq!(condition.check(&patterns), Ok(()));
            assert_eq!(holds(&condition, &patterns), Ok(expected), "{condition:?}");
        }
    }

    #[test]
    fn references_that_lead_nowhere_or_in_a_circle_are_found() {
        let circle = patterns([("a", named("b")), ("b", named("a"))]);
        let fault = |condition: &Condition| condition.check(&circle).unwrap_err().message;
        assert_eq!(fault(&named("a")), "refers to patterns `a`, which lead to themselves");
        let condition = Condition::Any(vec![Condition::All(vec![named("c")])]);
        assert_eq!(fault(&condition), "refers to patterns `c`, which are not there");
        assert!(holds(&named("c"), &circle).is_err(), "even unchecked it is undecided");
    }

    #[test]
    fn a_predicate_on_what_is_missing_is_no_answer() {
        let predicate = Expression::compile_predicate("auth.identity.nothing == 'x'").unwrap();
        let condition = Condition::Predicate(predicate.into());
        assert!(matches!(holds(&condition, &Vec::new()), Err(EvalError::Missing(_))));
    }
}
