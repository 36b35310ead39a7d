//! Conditions: `when`, `patternMatching` and named `patterns`.
//!
//! Source: Authorino's AuthConfig v1beta3, `PatternExpressionOrRef`. Unlike there, a condition that cannot be evaluated leaves
//! the request undecided: a rule that is skipped could open the gate.

use std::collections::HashMap;
use std::sync::Arc;

use crate::expression::{CompileError, EvalError, Expression, Scope, Selector};
use crate::rules::Rule;
use crate::spelling::did_you_mean;

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

/// Deepest nesting of named patterns in each other: conditions are looked through on the stack of a request.
const DEEPEST: usize = 16;
/// Most conditions that the rules of a request may come to through the patterns that they name.
const MOST: usize = 1_000;

/// What the named patterns come to, each found once.
pub(super) struct Sizes<'p> {
    patterns: &'p Patterns,
    by_name: HashMap<&'p str, (&'p Condition, State)>,
    /// How many are being found out: they lead to each other.
    open: usize,
    /// What was named so far comes to.
    spent: usize,
}

/// How far it is known what patterns come to.
#[derive(Clone, Debug)]
enum State {
    Unknown,
    /// It is being found out: who names it now leads to itself.
    Open,
    Known(Result<Size, CompileError>),
}

/// What a condition comes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Size {
    /// Conditions, those of named patterns as often as they are named.
    conditions: usize,
    /// Of these, those of named patterns.
    named: usize,
    /// Patterns that lead to each other.
    depth: usize,
}

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
            // What is too much, and circles, were refused when the rules were put together.
            Condition::Named(name) => match find(patterns, name) {
                Some(condition) => condition.holds(scope, patterns),
                None => Err(EvalError::Failed(format!("there are no patterns `{name}`"))),
            },
        }
    }
}

pub(super) fn find<'p>(patterns: &'p Patterns, name: &str) -> Option<&'p Condition> {
    patterns.iter().find(|rule| *rule.name == *name).map(|rule| &rule.what)
}

// === impl Sizes ===

impl<'p> Sizes<'p> {
    pub(super) fn new(patterns: &'p Patterns) -> Self {
        // As in [`find`], the first of a name is meant.
        let named = patterns.iter().rev().map(|rule| (&*rule.name, (&rule.what, State::Unknown)));
        Sizes { patterns, by_name: named.collect(), open: 0, spent: 0 }
    }

    /// Checks that every reference of `condition` leads to patterns, and not in a circle, and that all that were checked do not come
    /// to too much.
    ///
    /// # Errors
    ///
    /// The first one that does not.
    pub(super) fn check(&mut self, condition: &Condition) -> Result<(), CompileError> {
        let size = self.of(condition)?;
        self.spent = self.spent.saturating_add(size.named);
        if size.named > 0 && self.spent > MOST {
            let message = format!(
                "comes to {} conditions through the patterns that it names: the rules of a policy may come to {MOST} in all",
                size.named
            );
            return Err(CompileError::new(message).remedy("name fewer patterns, or patterns with fewer conditions"));
        }
        Ok(())
    }

    fn of(&mut self, condition: &Condition) -> Result<Size, CompileError> {
        match condition {
            Condition::Predicate(_) | Condition::Pattern(_) => Ok(Size { conditions: 1, ..Size::default() }),
            Condition::All(conditions) | Condition::Any(conditions) => {
                let whole = Size { conditions: 1, ..Size::default() };
                conditions.iter().try_fold(whole, |whole, condition| Ok(whole.and(self.of(condition)?)))
            }
            Condition::Named(name) => {
                let Size { conditions, depth, .. } = self.of_name(name)?;
                let depth = depth + 1;
                if depth > DEEPEST { Err(too_deep(name)) } else { Ok(Size { conditions, named: conditions, depth }) }
            }
        }
    }

    fn of_name(&mut self, name: &str) -> Result<Size, CompileError> {
        let Some((condition, state)) = self.by_name.get_mut(name) else {
            let fault = CompileError::new(format!("refers to patterns `{name}`, which are not there"));
            return Err(match did_you_mean(name, self.patterns.iter().map(|rule| &*rule.name)) {
                Some(meant) => fault.remedy(format!("did you mean `{meant}`?")),
                None => fault,
            });
        };
        match state {
            State::Known(size) => return size.clone(),
            State::Open => {
                let fault = format!("refers to patterns `{name}`, which lead to themselves");
                return Err(CompileError::new(fault));
            }
            State::Unknown if self.open == DEEPEST => return Err(too_deep(name)),
            State::Unknown => *state = State::Open,
        }
        let condition = *condition;
        self.open += 1;
        let size = self.of(condition);
        self.open -= 1;
        if let Some((_, state)) = self.by_name.get_mut(name) {
            *state = State::Known(size.clone());
        }
        size
    }
}

fn too_deep(name: &str) -> CompileError {
    CompileError::new(format!("refers to patterns `{name}`: patterns stand more than {DEEPEST} deep in each other"))
}

// === impl Size ===

impl Size {
    /// Both, one beside the other.
    fn and(self, other: Size) -> Self {
        Size {
            conditions: self.conditions.saturating_add(other.conditions),
            named: self.named.saturating_add(other.named),
            depth: self.depth.max(other.depth),
        }
    }
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
    use crate::expression::Object;
    use crate::problem::{ObjectName, Place};

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
            assert_eq!(Sizes::new(&patterns).check(&condition), Ok(()));
            assert_eq!(holds(&condition, &patterns), Ok(expected), "{condition:?}");
        }
    }

    #[test]
    fn references_that_lead_nowhere_or_in_a_circle_are_found() {
        let circle = patterns([("a", named("b")), ("b", named("a"))]);
        let fault = |condition: &Condition| Sizes::new(&circle).check(condition).unwrap_err().message;
        assert_eq!(fault(&named("a")), "refers to patterns `a`, which lead to themselves");
        assert_eq!(fault(&Condition::All(vec![named("b")])), "refers to patterns `b`, which lead to themselves");
        let condition = Condition::Any(vec![Condition::All(vec![named("c")])]);
        assert_eq!(fault(&condition), "refers to patterns `c`, which are not there");
        assert!(holds(&named("c"), &circle).is_err(), "even unchecked it is undecided");
    }

    /// `depth` patterns, each of which names the next one `times` times; the last one holds.
    fn nested(depth: usize, times: usize) -> Patterns {
        let origin = Arc::new(ObjectName::new("AuthPolicy", "ns", "a"));
        let place = || Place::new(&"f".into(), Default::default());
        let what = |at: usize| Condition::All((0..times).map(|_| named(&format!("p{}", at + 1))).collect());
        let rule = |at: usize| Arc::new(Rule::new(&format!("p{at}"), &origin, place(), what(at)));
        let last = Arc::new(Rule::new(&format!("p{depth}"), &origin, place(), Condition::All(Vec::new())));
        (0..depth).map(rule).chain([last]).collect()
    }

    /// Ten in each of three are a thousand, and ten in each of fifteen would be answered never.
    #[test]
    fn patterns_that_come_to_too_much_are_refused_and_each_is_looked_at_once() {
        let check = |depth, times| Sizes::new(&nested(depth, times)).check(&named("p0")).map_err(|fault| fault.message);
        assert_eq!([check(2, 10), check(3, 9), check(15, 1)], [Ok(()), Ok(()), Ok(())]);
        let many = "conditions through the patterns that it names: the rules of a policy may come to 1000 in all";
        assert_eq!(check(3, 10), Err(format!("comes to 1111 {many}")));
        assert_eq!(check(15, 10), Err(format!("comes to 1111111111111111 {many}")));
        let deep = |name| Err(format!("refers to patterns `{name}`: patterns stand more than 16 deep in each other"));
        assert_eq!(check(16, 1), deep("p16"));
        let patterns = nested(16, 1);
        let mut sizes = Sizes::new(&patterns);
        assert_eq!(sizes.check(&named("p1")), Ok(()));
        assert_eq!(sizes.check(&named("p0")).map_err(|fault| fault.message), deep("p0"), "what is known counts too");
        // All that a policy names counts.
        let patterns = nested(2, 10);
        let mut sizes = Sizes::new(&patterns);
        let refused = (0..10).map(|_| sizes.check(&named("p0")).is_err());
        assert_eq!(refused.filter(|refused| *refused).count(), 1, "111 conditions fit nine times");
        assert!(sizes.check(&Condition::All(Vec::new())).is_ok(), "what names none comes to nothing");
    }

    #[test]
    fn a_predicate_on_what_is_missing_is_no_answer() {
        let predicate = Expression::compile_predicate("auth.identity.nothing == 'x'").unwrap();
        let condition = Condition::Predicate(predicate.into());
        assert!(matches!(holds(&condition, &Vec::new()), Err(EvalError::Missing(_))));
    }
}
