//! Expressions that are plain field access, possibly split or compared.

use std::borrow::Cow;

use cel::IdedExpr;
use cel::common::ast::{EntryExpr, Expr, LiteralValue, MapExpr, operators};
use serde_json::Value;

use super::{EvalError, Scope, Val};
use crate::request::Attributes;

/// An expression that needs no interpreter. `eval` answers `None` where it is not sure to agree with the
/// interpreter; the interpreter is asked then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Direct {
    /// `auth.identity.userid`, `auth.metadata.matchedTier["tier"]`
    Path(Path),
    /// `request.path.split("/")[1]`
    Split { path: Path, separator: String, index: usize },
    /// `{ "groups": auth.identity.user.groups }`: a mapping of one entry
    Entry { key: String, path: Path },
    /// `auth.identity.tier == "free"`, either way round
    Equals { path: Path, literal: String },
}

/// A chain of fields from a root.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Path {
    root: Root,
    fields: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Root {
    Identity,
    Metadata,
    /// `auth.<filter>` of limits: the filter is the first field.
    Filter,
    Request,
}

static TRUE: Value = Value::Bool(true);
static FALSE: Value = Value::Bool(false);

// === impl Direct ===

impl Direct {
    pub(super) fn recognise(expression: &IdedExpr) -> Option<Self> {
        if let Some(path) = Path::recognise(expression) {
            return Some(Direct::Path(path));
        }
        match &expression.expr {
            Expr::Map(map) => Self::entry(map),
            Expr::Call(call) => {
                let [left, right] = call.args.as_slice() else { return None };
                match call.func_name.as_str() {
                    operators::EQUALS => Self::equality(left, right),
                    operators::INDEX => Self::split(left, right),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    fn entry(map: &MapExpr) -> Option<Self> {
        let [entry] = map.entries.as_slice() else { return None };
        let EntryExpr::MapEntry(entry) = &entry.expr else { return None };
        let key = text_literal(&entry.key).filter(|_| !entry.optional)?;
        Some(Direct::Entry { key: key.to_owned(), path: Path::recognise(&entry.value)? })
    }

    fn equality(left: &IdedExpr, right: &IdedExpr) -> Option<Self> {
        let (path, literal) = match (Path::recognise(left), Path::recognise(right)) {
            (Some(path), None) => (path, text_literal(right)?),
            (None, Some(path)) => (path, text_literal(left)?),
            _ => return None,
        };
        let literal = literal.to_owned();
        Some(Direct::Equals { path, literal })
    }

    /// The element `index` of `pieces`, where these are a text that is split.
    fn split(pieces: &IdedExpr, index: &IdedExpr) -> Option<Self> {
        let Expr::Literal(LiteralValue::Int(index)) = &index.expr else { return None };
        let Expr::Call(split) = &pieces.expr else { return None };
        let [separator] = split.args.as_slice() else { return None };
        let separator = text_literal(separator)?;
        // An empty separator splits into characters; that is left to the interpreter.
        if split.func_name != "split" || separator.is_empty() {
            return None;
        }
        Some(Direct::Split {
            path: Path::recognise(split.target.as_ref()?)?,
            separator: separator.to_owned(),
            index: usize::try_from(*index.inner()).ok()?,
        })
    }

    pub(super) fn eval<'a>(&'a self, scope: &Scope<'a>) -> Option<Result<Val<'a>, EvalError>> {
        match self {
            Direct::Path(path) => path.eval(scope),
            Direct::Entry { key, path } => Some(path.eval(scope)?.map(|value| {
                let entry = serde_json::Map::from_iter([(key.clone(), value.to_json())]);
                Val::Json(Cow::Owned(Value::Object(entry)))
            })),
            Direct::Equals { path, literal } => match path.eval(scope)? {
                Ok(Val::Text(text)) => Some(Ok(boolean(text == *literal))),
                Ok(Val::Json(value)) => match value.as_ref() {
                    Value::String(text) => Some(Ok(boolean(text == literal))),
                    // Values of different types are different: equality is heterogeneous.
                    Value::Null | Value::Bool(_) | Value::Number(_) => Some(Ok(boolean(false))),
                    Value::Array(_) | Value::Object(_) => None,
                },
                Err(error) => Some(Err(error)),
            },
            Direct::Split { path, separator, index } => match path.eval(scope)? {
                Ok(Val::Text(Cow::Borrowed(text))) => Some(part(text, separator, *index)),
                Ok(Val::Json(Cow::Borrowed(Value::String(text)))) => Some(part(text, separator, *index)),
                Ok(_) => None,
                Err(error) => Some(Err(error)),
            },
        }
    }
}

fn boolean<'a>(value: bool) -> Val<'a> {
    Val::Json(Cow::Borrowed(if value { &TRUE } else { &FALSE }))
}

fn part<'a>(text: &'a str, separator: &str, index: usize) -> Result<Val<'a>, EvalError> {
    let part = match separator.as_bytes() {
        [byte] if byte.is_ascii() => part_by_byte(text, *byte, index),
        _ => text.split(separator).nth(index),
    };
    let part = part.ok_or_else(|| EvalError::Missing(format!("element {index}")))?;
    Ok(Val::Text(Cow::Borrowed(part)))
}

/// Most separators are one byte, and most parts short: looking at each byte costs less than setting up a search for each part.
fn part_by_byte(text: &str, separator: u8, index: usize) -> Option<&str> {
    let (mut left, mut start) = (index, 0);
    for (at, byte) in text.bytes().enumerate() {
        if byte == separator {
            if left == 0 {
                return text.get(start..at);
            }
            (left, start) = (left - 1, at + 1);
        }
    }
    if left == 0 { text.get(start..) } else { None }
}

fn text_literal(expression: &IdedExpr) -> Option<&str> {
    match &expression.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner()),
        _ => None,
    }
}

// === impl Path ===

impl Path {
    /// A path as people write it, `auth.identity.user.username`: the plain selectors of Authorino are such paths.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut names: Vec<String> = text.split('.').map(str::to_owned).collect();
        if !names.iter().all(|name| is_plain(name)) {
            return None;
        }
        names.reverse();
        Self::from_reversed(names)
    }

    pub(super) fn recognise(expression: &IdedExpr) -> Option<Self> {
        let mut reversed = Vec::new();
        let mut current = expression;
        loop {
            match &current.expr {
                Expr::Ident(name) => {
                    reversed.push(name.clone());
                    return Self::from_reversed(reversed);
                }
                Expr::Select(select) if !select.test => {
                    reversed.push(select.field.clone());
                    current = &select.operand;
                }
                Expr::Call(call) if call.func_name == operators::INDEX => {
                    let [operand, key] = call.args.as_slice() else {
                        return None;
                    };
                    reversed.push(text_literal(key)?.to_owned());
                    current = operand;
                }
                _ => return None,
            }
        }
    }

    /// The path whose presence `has(…)` asks for.
    pub(super) fn tested(expression: &IdedExpr) -> Option<Self> {
        let Expr::Select(select) = &expression.expr else { return None };
        let mut reversed = vec![select.field.clone()];
        let mut current = &select.operand;
        while let Expr::Select(select) = &current.expr {
            reversed.push(select.field.clone());
            current = &select.operand;
        }
        let Expr::Ident(root) = &current.expr else { return None };
        reversed.push(root.clone());
        Self::from_reversed(reversed).filter(|_| select.test)
    }

    /// The property of `auth.identity`, or the text attribute of the request, that the path is.
    #[must_use]
    pub fn text_property(&self) -> Option<(bool, &str)> {
        match (self.root, self.fields.as_slice()) {
            (Root::Identity, [name]) => Some((true, name)),
            (Root::Request, [name]) if Attributes::NAMES.contains(&name.as_str()) => Some((false, name)),
            _ => None,
        }
    }

    /// To limits: the filter that the path leads into, and the property of it.
    #[must_use]
    pub fn filter_property(&self) -> Option<(&str, &str)> {
        match (self.root, self.fields.as_slice()) {
            (Root::Identity, [name, ..]) => Some(("identity", name)),
            (Root::Metadata, [name, ..]) => Some(("metadata", name)),
            (Root::Filter, [filter, name, ..]) => Some((filter, name)),
            _ => None,
        }
    }

    /// The header of the request that the path is.
    #[must_use]
    pub fn header(&self) -> Option<&str> {
        match (self.root, self.fields.as_slice()) {
            (Root::Request, [headers, name]) if headers == "headers" => Some(name),
            _ => None,
        }
    }

    /// Whether the path leads into `auth.metadata`.
    #[must_use]
    pub fn is_metadata(&self) -> bool {
        self.root == Root::Metadata
    }

    fn from_reversed(mut reversed: Vec<String>) -> Option<Self> {
        let root = reversed.pop()?;
        let first = reversed.pop()?;
        let root = match (root.as_str(), first.as_str()) {
            ("auth", "identity") => Root::Identity,
            ("auth", "metadata") => Root::Metadata,
            ("auth", _) => Root::Filter,
            ("request", _) => Root::Request,
            _ => return None,
        };
        if matches!(root, Root::Filter | Root::Request) {
            reversed.push(first);
        }
        reversed.reverse();
        // A bare root is an object to build: left to the interpreter.
        let least = if root == Root::Filter { 2 } else { 1 };
        (reversed.len() >= least).then_some(Path { root, fields: reversed })
    }

    /// `None` where the interpreter has to be asked.
    pub(crate) fn eval<'a>(&self, scope: &Scope<'a>) -> Option<Result<Val<'a>, EvalError>> {
        let (mut first, mut rest) = self.fields.split_first()?;
        let value = match self.root {
            Root::Identity => match scope.identity {
                // Selecting from a text is a type error, which the interpreter words.
                Some(identity) if identity.is_plain() => return None,
                Some(identity) => identity.get(first),
                None => return Some(Err(EvalError::Missing("identity".to_owned()))),
            },
            Root::Metadata => match scope.metadata.iter().find(|(name, _)| **name == **first) {
                Some((_, value)) => Some(value.reborrow()),
                // To limits it is a filter like others.
                None => match scope.filter("metadata") {
                    Some(filter) if filter.is_plain() => return None,
                    filter => filter.and_then(|filter| filter.get(first)),
                },
            },
            Root::Filter => {
                let Some(filter) = scope.filter(first) else {
                    return Some(Err(EvalError::Missing(first.clone())));
                };
                if filter.is_plain() {
                    return None;
                }
                (first, rest) = rest.split_first()?;
                filter.get(first)
            }
            // Headers and unknown attributes are the interpreter's.
            Root::Request if !rest.is_empty() || !Attributes::NAMES.contains(&first.as_str()) => return None,
            Root::Request => scope.request.get(first).map(|text| Val::Text(Cow::Borrowed(text))),
        };
        let Some(value) = value else {
            return Some(Err(EvalError::Missing(first.clone())));
        };
        if rest.is_empty() {
            return Some(Ok(value));
        }
        let Val::Json(Cow::Borrowed(value)) = value else { return None };
        descend(value, rest)
    }
}

/// The value below `value` that `fields` lead to; `None` where the interpreter has to be asked.
#[inline]
fn descend<'a>(value: &'a Value, fields: &[String]) -> Option<Result<Val<'a>, EvalError>> {
    let mut current = value;
    for field in fields {
        // Selecting from anything but a mapping is a type error, which the interpreter words.
        match current.as_object()?.get(field) {
            Some(next) => current = next,
            None => return Some(Err(EvalError::Missing(field.clone()))),
        }
    }
    Some(Ok(Val::Json(Cow::Borrowed(current))))
}

fn is_plain(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}
