//! A path: where it starts, and the steps from there.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::super::{EvalError, Path, Reference, Scope, Val};
use super::step::{ArrayQuery, PathStep};
use super::value::{PathValue, TextBudget};

/// A path from one of the roots.
#[derive(Debug)]
pub(super) struct SelectorPath {
    pub root: SelectorRoot,
    pub steps: Vec<PathStep>,
    /// The same, where it is plain field access.
    pub plain: Option<Path>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SelectorRoot {
    Identity,
    Metadata,
    /// One of `Attributes::NAMES`.
    Attribute(&'static str),
    /// Envoy's own `path`: with the query.
    Target,
    /// By its name in lower case.
    Header(String),
    Headers,
}

// === impl SelectorPath ===

impl SelectorPath {
    /// What it looks at.
    pub(super) fn reference(&self) -> Reference {
        let member = |of: &str| match self.steps.first() {
            Some(PathStep::Name(name)) => Reference::Property(of.to_owned(), name.clone()),
            _ => Reference::Member(of.to_owned()),
        };
        match &self.root {
            SelectorRoot::Identity => member("identity"),
            SelectorRoot::Metadata => member("metadata"),
            SelectorRoot::Attribute(name) => Reference::Attribute(name),
            SelectorRoot::Target => Reference::Attribute("path"),
            SelectorRoot::Header(name) => Reference::Header(name.clone()),
            SelectorRoot::Headers => Reference::Headers,
        }
    }

    pub(super) fn eval<'a>(&'a self, scope: &Scope<'a>) -> Result<Option<Val<'a>>, EvalError> {
        match self.plain.as_ref().and_then(|path| path.eval(scope)) {
            Some(Ok(value)) => return Ok(Some(value)),
            Some(Err(EvalError::Missing(_))) => return Ok(None),
            Some(Err(error)) => return Err(error),
            None => {}
        }
        let (start, steps) = self.start(scope);
        if steps.is_empty() {
            return Ok(start);
        }
        let start = start.map(|value| match value {
            Val::Text(text) => Cow::Owned(Value::String(text.into_owned())),
            Val::Json(value) => value,
        });
        Ok(run(steps, start, &mut TextBudget::new())?.map(Val::Json))
    }

    /// The value of the root, and the steps that are left: of an object that is not built yet, one member is enough.
    fn start<'a>(&'a self, scope: &Scope<'a>) -> (Option<Val<'a>>, &'a [PathStep]) {
        let steps = self.steps.as_slice();
        let value = match (&self.root, steps) {
            (SelectorRoot::Identity, steps) => match (scope.identity, steps) {
                (None, _) => None,
                (Some(identity), _) if identity.base.is_some_and(|base| !base.is_object()) => {
                    identity.base.map(|base| Val::Json(Cow::Borrowed(base)))
                }
                (Some(identity), [PathStep::Name(name), rest @ ..]) => return (identity.get(name), rest),
                (Some(identity), _) => Some(Val::Json(Cow::Owned(identity.to_json()))),
            },
            (SelectorRoot::Metadata, [PathStep::Name(name), rest @ ..]) => {
                let found = scope.metadata.iter().find(|(key, _)| **key == **name);
                return (found.map(|(_, value)| value.reborrow()), rest);
            }
            (SelectorRoot::Metadata, _) => {
                let members = scope.metadata.iter().map(|(name, value)| (name.to_string(), value.to_json()));
                Some(Val::Json(Cow::Owned(Value::Object(members.collect()))))
            }
            (SelectorRoot::Attribute(name), _) => scope.request.get(name).map(|text| Val::Text(Cow::Borrowed(text))),
            (SelectorRoot::Target, _) => scope.request.get("path").map(|path| {
                Val::Text(match scope.request.query {
                    Some(query) => Cow::Owned(format!("{path}?{query}")),
                    None => Cow::Borrowed(path),
                })
            }),
            (SelectorRoot::Header(name), _) => {
                scope.request.headers.and_then(|headers| headers.joined(name)).map(Val::Text)
            }
            (SelectorRoot::Headers, _) => scope.request.headers.map(|headers| {
                let mut members = Map::new();
                for name in headers.names().map(str::to_ascii_lowercase) {
                    let value = headers.joined(&name).unwrap_or_default();
                    members.insert(name, Value::String(value.into_owned()));
                }
                Val::Json(Cow::Owned(Value::Object(members)))
            }),
        };
        (value, steps)
    }
}

/// Follows `steps` from `current`. A name, `#` or query on what holds nothing ends the way, whatever follows it.
pub(super) fn run<'a>(
    steps: &[PathStep],
    current: PathValue<'a>,
    budget: &mut TextBudget,
) -> Result<PathValue<'a>, EvalError> {
    let mut current = current;
    for step in steps {
        current = match (step, current) {
            (PathStep::Modifier(modifier), current) => modifier.apply(current, budget)?,
            (_, None) => return Ok(None),
            (PathStep::Name(name), Some(value)) if value.is_object() || value.is_array() => member(value, name),
            (PathStep::Count, Some(value)) if value.is_object() => None,
            (PathStep::Count, Some(value)) => {
                let Some(items) = value.as_array() else { return Ok(None) };
                Some(Cow::Owned(Value::from(items.len())))
            }
            // gjson takes the `#` for the name of a member then, and a modifier has nothing to work on.
            (PathStep::Each(then), Some(value))
                if value.is_object() && matches!(then.first(), Some(PathStep::Modifier(_))) =>
            {
                run(then, None, budget)?
            }
            (PathStep::Each(then), Some(value)) => {
                let Some(items) = elements(value) else { return Ok(None) };
                Some(each(items, then, budget)?)
            }
            (PathStep::Find { query, all, then }, Some(value)) => {
                let Some(items) = elements(value) else { return Ok(None) };
                let mut matching = matching(items, query, *all, budget)?;
                match then {
                    // Where nothing matches, gjson does not look beyond the pipe.
                    Some(_) if matching.is_empty() => return Ok(all.then(|| Cow::Owned(Value::Array(Vec::new())))),
                    then if *all => Some(each(matching, then.as_deref().unwrap_or_default(), budget)?),
                    Some(then) => run(then, matching.pop(), budget)?,
                    None => matching.pop(),
                }
            }
            (PathStep::Name(_), Some(_)) => return Ok(None),
        };
    }
    Ok(current)
}

/// Whether `query` means this element.
fn is_meant(query: &ArrayQuery, element: &Value, budget: &mut TextBudget) -> Result<bool, EvalError> {
    let value = match (element.is_object() || element.is_array(), query.path.is_empty()) {
        (true, false) => run(&query.path, Some(Cow::Borrowed(element)), budget)?,
        (false, true) => Some(Cow::Borrowed(element)),
        (true, true) | (false, false) => None,
    };
    Ok(match (value, &query.test) {
        (None, _) => false,
        (Some(_), None) => true,
        (Some(value), Some((operator, right))) => operator.holds(&value, right),
    })
}

/// The items that `query` finds: all, or the first.
fn matching<'a>(
    items: Vec<Cow<'a, Value>>,
    query: &ArrayQuery,
    all: bool,
    budget: &mut TextBudget,
) -> Result<Vec<Cow<'a, Value>>, EvalError> {
    let mut matching = Vec::new();
    for item in items {
        if is_meant(query, &item, budget)? {
            matching.push(item);
            if !all {
                break;
            }
        }
    }
    Ok(matching)
}

fn each<'a>(
    items: Vec<Cow<'a, Value>>,
    then: &[PathStep],
    budget: &mut TextBudget,
) -> Result<Cow<'a, Value>, EvalError> {
    let mut found = Vec::new();
    for item in items {
        found.extend(run(then, Some(item), budget)?.map(Cow::into_owned));
    }
    Ok(Cow::Owned(Value::Array(found)))
}

fn member<'a>(value: Cow<'a, Value>, name: &str) -> PathValue<'a> {
    match value {
        Cow::Borrowed(Value::Object(members)) => members.get(name).map(Cow::Borrowed),
        Cow::Owned(Value::Object(mut members)) => members.remove(name).map(Cow::Owned),
        value => {
            let index = name.bytes().all(|byte| byte.is_ascii_digit()).then(|| name.parse().ok()).flatten()?;
            elements(value)?.into_iter().nth(index)
        }
    }
}

fn elements(value: Cow<'_, Value>) -> Option<Vec<Cow<'_, Value>>> {
    match value {
        Cow::Borrowed(Value::Array(items)) => Some(items.iter().map(Cow::Borrowed).collect()),
        Cow::Owned(Value::Array(items)) => Some(items.into_iter().map(Cow::Owned).collect()),
        _ => None,
    }
}
