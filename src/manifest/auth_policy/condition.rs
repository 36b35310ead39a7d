//! Conditions: `when`, the patterns of `patternMatching`, and named `patterns`.

use std::sync::Arc;

use super::super::limit_policy::compile;
use super::super::pattern;
use super::value::read_selector;
use crate::document::{Field, all};
use crate::expression::{View, asks_for_query};
use crate::problem::{Finding, ObjectName, Severity};
use crate::rules::{Condition, Operator, Pattern, Patterns, Rule};
use crate::spelling::did_you_mean;

/// The conditions of a list, all of which have to hold.
pub(super) fn read_conditions(field: &Field<'_>, view: View) -> Option<Vec<Condition>> {
    all(&field.items()?, |item| read_condition(item, view))
}

/// `when` of a whole policy, before anybody is authenticated: predicates alone, as for limits.
pub(super) fn read_predicates(field: &Field<'_>) -> Option<Vec<Condition>> {
    let conditions = read_conditions(field, View::Request)?;
    let plain = conditions.iter().all(|condition| matches!(condition, Condition::Predicate(_)));
    if !plain {
        let problem = field.error("holds a condition that is no predicate");
        field.report(problem.expected("a list of `predicate`: CEL expressions that yield a boolean"));
    }
    plain.then_some(conditions)
}

/// Most named sets of conditions of one policy: they are looked for one after the other.
const MOST_PATTERNS: usize = 1_000;

/// Named sets of conditions.
pub(super) fn read_patterns(field: &Field<'_>, origin: &Arc<ObjectName>) -> Option<Patterns> {
    let entries = field.entries()?;
    if entries.len() > MOST_PATTERNS {
        let message = format!("holds {} sets of patterns; at most {MOST_PATTERNS} are accepted", entries.len());
        return field.refuse(field.error(message));
    }
    let read = |field: &Field<'_>| {
        let mut fields = field.fields()?;
        let all = fields.require("allOf", "a list of patterns");
        fields.done(Severity::Error);
        read_conditions(&all?, View::Caller).map(Condition::All)
    };
    all(&entries, |(key, field)| Some(Arc::new(Rule::new(&key.name, origin, field.place(), read(field)?))))
}

fn read_condition(item: &Field<'_>, view: View) -> Option<Condition> {
    let mut fields = item.fields()?;
    let forms = ["predicate", "patternRef", "all", "any"].map(|name| fields.take(name));
    let pattern = ["selector", "operator", "value"].map(|name| fields.take(name));
    fields.done(Severity::Error);
    let pattern = pattern.iter().any(Option::is_some).then_some(pattern);
    match (forms, pattern) {
        ([Some(predicate), None, None, None], None) => {
            compile(&predicate, |text| view.predicate(text)).map(Arc::new).map(Condition::Predicate)
        }
        ([None, Some(reference), None, None], None) => reference.non_empty_text().map(Arc::from).map(Condition::Named),
        ([None, None, Some(all), None], None) => read_conditions(&all, view).map(Condition::All),
        ([None, None, None, Some(any)], None) => read_conditions(&any, view).map(Condition::Any),
        ([None, None, None, None], Some(parts)) => read_pattern(item, parts, view).map(Condition::Pattern),
        _ => {
            let problem = item.error("is no condition, or more than one");
            let forms = "`predicate`, `patternRef`, `all`, `any`, or `selector` with `operator` and `value`";
            item.refuse(problem.expected(forms))
        }
    }
}

/// A pattern, of its `selector`, `operator` and `value`.
fn read_pattern(item: &Field<'_>, parts: [Option<Field<'_>>; 3], view: View) -> Option<Box<Pattern>> {
    let [selector, operator, value] = parts;
    for (name, field) in [("selector", &selector), ("operator", &operator)] {
        if field.is_none() {
            item.report(item.error(format!("has no `{name}`")));
        }
    }
    let selector = selector.and_then(|field| read_selector(&field, view));
    let text = value.as_ref().map_or(Some(""), |value| value.text());
    let operator = read_operator(item, operator, text, value.as_ref());
    let pattern = Pattern { selector: selector?, operator: operator? };
    if is_of_query(&pattern, text?) {
        let value = value.as_ref().unwrap_or(item);
        let source = pattern.selector.source();
        let problem = value.error(format!("looks for a query in `{source}`, which ends before the `?`"));
        let remedy = "select `request.query`, or `context.request.http.path`, which has the query";
        return value.refuse(problem.code(Finding::ExpressionInvalid).remedy(remedy));
    }
    Some(Box::new(pattern))
}

/// Whether it compares the path with what has a query: the path never has one.
fn is_of_query(pattern: &Pattern, text: &str) -> bool {
    let is_path = ["request.path", "request.url_path"].contains(&pattern.selector.source());
    is_path
        && match pattern.operator {
            Operator::Matches(_) => asks_for_query(text),
            _ => text.contains('?'),
        }
}

fn read_operator(
    item: &Field<'_>,
    operator: Option<Field<'_>>,
    text: Option<&str>,
    value: Option<&Field<'_>>,
) -> Option<Operator> {
    let operator = operator?;
    let name = operator.text()?;
    let text = text?.to_owned();
    Some(match name {
        "eq" => Operator::Equals(text),
        "neq" => Operator::Differs(text),
        "incl" => Operator::Includes(text),
        "excl" => Operator::Excludes(text),
        "matches" => Operator::Matches(read_regex(&text, value.unwrap_or(item))?),
        other => {
            let known = ["eq", "neq", "incl", "excl", "matches"];
            let problem = operator.error(format!("`{other}` is not an operator")).expected(known.join(", "));
            operator.report(match did_you_mean(other, known) {
                Some(meant) => problem.remedy(format!("did you mean `{meant}`?")),
                None => problem,
            });
            return None;
        }
    })
}

fn read_regex(text: &str, field: &Field<'_>) -> Option<regex::bytes::Regex> {
    let read = pattern::anywhere(text);
    read.map_err(|fault| field.report(field.error(fault).expected("RE2 syntax, in ASCII"))).ok()
}
