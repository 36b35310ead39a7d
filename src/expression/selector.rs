//! Selectors of policies: Authorino's paths into what is known about a request, and templates of such paths.
//!
//! `auth.identity.user.username`, `request.headers.authorization.@extract:{"pos":1}`, and as a template
//! `{auth.identity.user.username}:{request.path}`. A path that leads nowhere yields null, and its caller decides what
//! that means. What a selector cannot mean here (an unknown root, an unknown modifier, CEL) is refused when it is
//! compiled: in Authorino it would silently be null.
//!
//! Where tiergate differs from Authorino, on purpose:
//!
//! * `request.path` has no query, as everywhere in tiergate. `request.url_path` is the same, as in Authorino;
//!   `context.request.http.path` is the path with its query, as Envoy sends it.
//! * `@extract`, `@replace` and `@base64:decode` keep a text whole; Authorino's end it at a quote, and read a backslash
//!   as an escape. `@case` and `@strip` change characters, never the escapes of the JSON text.
//! * What is not base64, or not UTF-8 beneath it, is null after `@base64:decode`; what is not JSON, after `@fromstr`.
//!   Authorino goes on with as much as it could read.
//! * A mapping that is shown as text has its members in the order of their names.
//! * A text has no members and no elements. gjson looks for some in the JSON that a text happens to hold.
//! * A modifier may follow an escaped name with a dot: `annotations.example\.com/team.@case:lower`.
//!
//! Source: gjson 1.14 (`SYNTAX.md`, and what its code does where that says nothing), Authorino's `pkg/json`.

mod modifier;
mod parse;
mod path;
mod query;
mod step;
#[cfg(test)]
mod tests;
mod text;
mod value;

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::Value;
use smallvec::SmallVec;

use self::parse::{Form, Piece};
use self::path::SelectorPath;
use super::{CompileError, EvalError, Reference, Scope, Val};

static NULL: Value = Value::Null;

/// A compiled selector.
#[derive(Debug)]
pub struct Selector {
    source: Arc<str>,
    form: Form,
}

// === impl Selector ===

impl Selector {
    /// Compiles `text`.
    ///
    /// # Errors
    ///
    /// The text is too long, is no path or template, or names a root, an attribute or a modifier that is not known here.
    pub fn compile(text: &str) -> Result<Self, CompileError> {
        Ok(Selector { source: text.into(), form: parse::form(text)? })
    }

    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// What of the request and its caller it looks at.
    pub fn references(&self) -> impl Iterator<Item = Reference> {
        let (path, pieces) = match &self.form {
            Form::Path(path) => (Some(path), &[][..]),
            Form::Template(pieces) => (None, pieces.as_slice()),
        };
        let of_pieces = pieces.iter().filter_map(|piece| match piece {
            Piece::Path(path) => Some(path),
            Piece::Text(_) => None,
        });
        path.into_iter().chain(of_pieces).map(SelectorPath::reference)
    }

    /// The value; null where the path leads nowhere. A template yields text.
    ///
    /// # Errors
    ///
    /// [`EvalError::Failed`]: a modifier cannot do what it is asked to, or would make too much text. Never
    /// [`EvalError::Missing`].
    pub fn eval<'a>(&'a self, scope: &Scope<'a>) -> Result<Val<'a>, EvalError> {
        match &self.form {
            Form::Path(path) => Ok(path.eval(scope)?.unwrap_or(Val::Json(Cow::Borrowed(&NULL)))),
            Form::Template(pieces) => Ok(Val::Text(template(pieces, scope)?)),
        }
    }

    /// The value as gjson's `String()`: null is empty, a list or mapping is compact JSON. Operators such as `eq` and
    /// `matches` compare this.
    ///
    /// # Errors
    ///
    /// See [`Selector::eval`].
    pub fn eval_text<'a>(&'a self, scope: &Scope<'a>) -> Result<Cow<'a, str>, EvalError> {
        match &self.form {
            Form::Path(path) => Ok(path.eval(scope)?.map_or(Cow::Borrowed(""), text::of_val)),
            Form::Template(pieces) => template(pieces, scope),
        }
    }

    /// The value as gjson's `Array()`, each element as text: a list has its elements, nothing has none, anything else is
    /// one. The operators `incl` and `excl` look into this.
    ///
    /// # Errors
    ///
    /// See [`Selector::eval`].
    pub fn eval_list<'a>(&'a self, scope: &Scope<'a>) -> Result<SmallVec<[Cow<'a, str>; 4]>, EvalError> {
        Ok(match self.eval(scope)? {
            Val::Json(Cow::Borrowed(Value::Array(items))) => items.iter().map(text::of).collect(),
            Val::Json(Cow::Owned(Value::Array(items))) => items.into_iter().map(text::of_owned).collect(),
            Val::Json(value) if value.is_null() => SmallVec::new(),
            value => SmallVec::from_iter([text::of_val(value)]),
        })
    }
}

fn template<'a>(pieces: &'a [Piece], scope: &Scope<'a>) -> Result<Cow<'a, str>, EvalError> {
    let mut text = String::new();
    for piece in pieces {
        match piece {
            Piece::Text(part) => text.push_str(part),
            Piece::Path(path) => text.push_str(&path.eval(scope)?.map_or(Cow::Borrowed(""), text::of_val)),
        }
    }
    Ok(Cow::Owned(text))
}
