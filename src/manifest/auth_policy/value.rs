//! Values: `value`, `selector` or `expression`.

use std::sync::Arc;

use serde_json::Value as Json;

use super::super::limit_policy::compile;
use crate::document::{Field, Node, Value, all};
use crate::expression::{Expression, Selector, View};
use crate::problem::Severity;
use crate::rules::ValueSource;

/// Named values.
pub(super) fn read_properties(field: &Field<'_>, view: View) -> Option<Vec<(Arc<str>, ValueSource)>> {
    all(&field.entries()?, |(key, field)| Some((key.name.as_str().into(), read_value(field, view)?)))
}

/// `value`, `selector` or `expression`.
pub(super) fn read_value(field: &Field<'_>, view: View) -> Option<ValueSource> {
    let mut fields = field.fields()?;
    let (value, selector, expression) = (fields.take("value"), fields.take("selector"), fields.take("expression"));
    fields.done(Severity::Error);
    match (value, selector, expression) {
        (Some(value), None, None) => Some(ValueSource::Constant(to_json(value.node))),
        (None, Some(selector), None) => read_selector(&selector, view).map(ValueSource::Selector),
        (None, None, Some(expression)) => read_expression(&expression, view).map(ValueSource::Expression),
        _ => field.invalid("says no value, or more than one", "value, selector or expression"),
    }
}

/// A value that has to be a text, where it is written out.
pub(super) fn read_text_value(field: &Field<'_>, view: View) -> Option<ValueSource> {
    let source = read_value(field, view)?;
    match &source {
        ValueSource::Constant(value) if !value.is_string() => {
            field.fields()?.take("value")?.wrong_type("a string");
            None
        }
        _ => Some(source),
    }
}

pub(super) fn read_selector(field: &Field<'_>, view: View) -> Option<Selector> {
    compile(field, |text| view.selector(text))
}

pub(super) fn read_expression(field: &Field<'_>, view: View) -> Option<Expression> {
    compile(field, |text| view.expression(text))
}

fn to_json(node: &Node) -> Json {
    match &node.value {
        Value::Null => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Int(value) => Json::from(*value),
        Value::BigInt(value) => Json::from(*value),
        Value::Float(value) => Json::from(*value),
        Value::Text(text) => Json::String(text.clone()),
        Value::List(items) => items.iter().map(to_json).collect(),
        Value::Map(entries) => entries.iter().map(|(key, node)| (key.name.clone(), to_json(node))).collect(),
    }
}
