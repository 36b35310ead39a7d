//! Expressions of policies: compiled once, evaluated on the attributes of a request.
//!
//! The forms that everyone writes (`auth.identity.tier == "free"`, `request.path.split("/")[1]`,
//! `auth.identity.userid`) run as direct field access; everything else, and every value that the direct form is not
//! sure about, goes to the CEL interpreter. Property tests hold the two equal.
//!
//! Source: the Common Expression Language specification; the roots are those of Authorino's and Kuadrant's documents.
//!
//! ```
//! use tiergate::expression::{Expression, Scope};
//! use tiergate::request::Attributes;
//!
//! let reads = Expression::compile_predicate("request.method in ['GET', 'HEAD']")?;
//! let request = Attributes { method: "HEAD", ..Attributes::default() };
//! assert_eq!(reads.eval_bool(&Scope { request, ..Scope::default() }), Ok(true));
//! assert!(Expression::compile_predicate("request.metod == 'GET'").is_err(), "what is not there is told at once");
//! # Ok::<(), tiergate::expression::CompileError>(())
//! ```

mod cost;
mod direct;
mod general;
mod header;
mod inspect;
mod names;
mod query;
mod reference;
mod selector;
mod slip;
#[cfg(test)]
mod tests;
mod token_cost;
mod types;
mod view;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use serde_json::Value;
use smallvec::SmallVec;

pub use self::direct::{Direct, Path};
pub use self::inspect::{Use, UseKind, Uses};
pub use self::query::asks_for_query;
pub use self::reference::Reference;
pub use self::selector::Selector;
pub use self::token_cost::{CostError, TokenCost, Used};

#[cfg(test)]
pub(crate) use self::token_cost::EVALUATED;

pub use self::view::View;

use crate::denial::{Code, Denial};
use crate::request::Attributes;

/// Longest expression that is accepted, in bytes.
const MAX_LENGTH: usize = 8 * 1024;
/// Deepest nesting of brackets that is accepted. The parser recurses, so this bounds its stack.
const MAX_NESTING: usize = 32;
/// Most operators, calls and selections that are accepted: they nest in the syntax tree without any bracket.
const MAX_TERMS: usize = 400;
/// Deepest syntax tree that is accepted: evaluation recurses, on the stack of a request.
const MAX_DEPTH: usize = 64;

/// A compiled expression.
#[derive(Debug)]
pub struct Expression {
    source: Arc<str>,
    direct: Option<Direct>,
    program: cel::Program,
}

/// Why an expression cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CompileError {
    pub message: String,
    pub remedy: Option<String>,
}

/// Why an expression has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// A key, attribute or list element that is not there.
    #[error("{0} is not there")]
    Missing(String),
    /// Anything else: types that do not fit, a failing function.
    #[error("{0}")]
    Failed(String),
}

/// A value of an expression: text borrowed from the request where possible.
#[derive(Clone, Debug, PartialEq)]
pub enum Val<'a> {
    Text(Cow<'a, str>),
    Json(Cow<'a, Value>),
}

/// An object made of a shared base and properties laid over it, which win.
#[derive(Clone, Copy, Debug, Default)]
pub struct Object<'a> {
    pub base: Option<&'a Value>,
    pub extra: &'a [(Arc<str>, Val<'a>)],
}

/// What a filter of an AuthPolicy's response makes.
#[derive(Debug, PartialEq)]
pub enum Properties<'a> {
    Object(Vec<(Arc<str>, Val<'a>)>),
    Value(Value),
}

/// What an expression can see.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scope<'a> {
    /// `request.*`
    pub request: Attributes<'a>,
    /// `auth.identity`, if there is one.
    pub identity: Option<Object<'a>>,
    /// `auth.metadata`
    pub metadata: &'a [(Arc<str>, Val<'a>)],
    /// `auth.*` of limits: what filters of any other name made.
    pub filters: &'a [(Arc<str>, Properties<'a>)],
}

/// The one environment of all expressions: building one costs more than evaluating.
static ENVIRONMENT: LazyLock<Arc<cel::Env>> = LazyLock::new(|| {
    let mut env = cel::Env::stdlib();
    // The extension cannot collide with the standard library it was written for.
    let added = env.add_extension(cel::extensions::strings);
    debug_assert!(added.is_ok(), "strings extension: {added:?}");
    Arc::new(env)
});

// === impl Expression ===

impl Expression {
    /// Compiles `source`.
    ///
    /// The parser recurses: call this on a thread with a large stack (see `source::on_large_stack`).
    ///
    /// # Errors
    ///
    /// The expression is too long or too deep, is not CEL, or names a function, a root or a part of a request that does not exist.
    pub fn compile(source: &str) -> Result<Self, CompileError> {
        let program = parse(source)?;
        names::check(&program)?;
        cost::check(program.expression()).map_err(CompileError::new)?;
        query::check(program.expression(), &mut Vec::new())?;
        Ok(Expression { source: source.trim().into(), direct: Direct::recognise(program.expression()), program })
    }

    /// Compiles a predicate: an expression that can yield a boolean.
    ///
    /// # Errors
    ///
    /// As [`Expression::compile`]; or it can be seen that the result is never a boolean.
    pub fn compile_predicate(source: &str) -> Result<Self, CompileError> {
        let expression = Self::compile(source)?;
        match general::surely_not_bool(expression.program.expression()) {
            None => Ok(expression),
            Some(what) => Err(CompileError {
                message: format!("yields {what}, not a boolean"),
                remedy: Some("compare it with something, as in `auth.identity.tier == \"free\"`".to_owned()),
            }),
        }
    }

    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    #[must_use]
    pub fn direct(&self) -> Option<&Direct> {
        self.direct.as_ref()
    }

    /// The literals that the expression compares `path` with, for instance tier names.
    #[must_use]
    pub fn literals_compared_with(&self, path: &str) -> Vec<String> {
        general::literals_compared_with(self.program.expression(), path)
    }

    /// What of the request and its caller the expression looks at, whichever way its evaluation takes.
    #[must_use]
    pub fn references(&self) -> BTreeSet<Reference> {
        reference::of(self.program.expression())
    }

    /// What the expression looks at.
    #[must_use]
    pub fn uses(&self) -> Uses {
        inspect::uses(self.program.expression())
    }

    /// Whether a predicate could hold for a request that has the header `name`, in lower case, with the value `sent`; or does not
    /// have it. Whatever else the predicate looks at may be anything.
    #[must_use]
    pub fn may_hold(&self, name: &str, sent: Option<&str>) -> bool {
        header::may_hold(self.program.expression(), name, sent)
    }

    /// Evaluates the expression.
    ///
    /// # Errors
    ///
    /// See [`EvalError`]; never panics.
    pub fn eval<'a>(&'a self, scope: &Scope<'a>) -> Result<Val<'a>, EvalError> {
        match self.direct.as_ref().and_then(|direct| direct.eval(scope)) {
            Some(result) => result,
            None => self.eval_general(scope),
        }
    }

    /// Evaluates with the interpreter alone.
    ///
    /// # Errors
    ///
    /// See [`EvalError`].
    pub fn eval_general<'a>(&self, scope: &Scope<'_>) -> Result<Val<'a>, EvalError> {
        general::eval(&self.program, &ENVIRONMENT, scope)
    }

    /// Evaluates a predicate.
    ///
    /// # Errors
    ///
    /// See [`EvalError`]; a result that is not a boolean is [`EvalError::Failed`].
    pub fn eval_bool(&self, scope: &Scope<'_>) -> Result<bool, EvalError> {
        // Not the value, which may be a caller's header.
        let other = || format!("`{}` yields no boolean", self.source);
        match self.eval(scope)? {
            Val::Json(value) if value.is_boolean() => Ok(*value == Value::Bool(true)),
            _ => Err(EvalError::Failed(other())),
        }
    }
}

// === impl CompileError ===

impl CompileError {
    pub(super) fn new(message: impl Into<String>) -> Self {
        CompileError { message: message.into(), remedy: None }
    }

    #[must_use]
    pub(super) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

// === impl Val ===

impl<'a> Val<'a> {
    /// The text that a header, a counter or a resource attribute is made of; `None` for lists and mappings.
    #[must_use]
    pub fn into_text(self) -> Option<Cow<'a, str>> {
        match self {
            Val::Text(text) => Some(text),
            Val::Json(Cow::Borrowed(Value::String(text))) => Some(Cow::Borrowed(text)),
            Val::Json(value) => match value.into_owned() {
                Value::String(text) => Some(Cow::Owned(text)),
                Value::Bool(value) => Some(Cow::Owned(value.to_string())),
                Value::Number(value) => Some(Cow::Owned(value.to_string())),
                Value::Null | Value::Array(_) | Value::Object(_) => None,
            },
        }
    }

    /// The strings of a list of strings.
    #[must_use]
    pub fn as_texts(&self) -> Option<SmallVec<[&str; 4]>> {
        match self {
            Val::Json(value) => value.as_array()?.iter().map(Value::as_str).collect(),
            Val::Text(_) => None,
        }
    }

    /// The same, borrowed from this one.
    #[must_use]
    pub fn reborrow(&self) -> Val<'_> {
        match self {
            Val::Text(text) => Val::Text(Cow::Borrowed(text)),
            Val::Json(value) => Val::Json(Cow::Borrowed(value)),
        }
    }

    /// The same, borrowing nothing.
    #[must_use]
    pub fn into_owned(self) -> Val<'static> {
        match self {
            Val::Text(text) => Val::Text(Cow::Owned(text.into_owned())),
            Val::Json(value) => Val::Json(Cow::Owned(value.into_owned())),
        }
    }

    #[must_use]
    pub fn to_json(&self) -> Value {
        match self {
            Val::Text(text) => Value::String(text.to_string()),
            Val::Json(value) => value.clone().into_owned(),
        }
    }
}

impl std::fmt::Display for Val<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Val::Text(text) => write!(f, "{text:?}"),
            Val::Json(value) => write!(f, "{value}"),
        }
    }
}

// === impl Object ===

impl<'a> Object<'a> {
    #[must_use]
    #[inline]
    pub fn get(&self, name: &str) -> Option<Val<'a>> {
        if let Some((_, value)) = self.extra.iter().find(|(key, _)| **key == *name) {
            return Some(value.reborrow());
        }
        self.base?.get(name).map(|value| Val::Json(Cow::Borrowed(value)))
    }

    /// Whether it is no object, but a value that has no properties.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.base.is_some_and(|base| !base.is_object())
    }

    /// The whole. A base that is no object stands for itself.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut object = match self.base {
            Some(Value::Object(base)) => base.clone(),
            Some(other) if self.extra.is_empty() => return other.clone(),
            _ => serde_json::Map::new(),
        };
        object.extend(self.extra.iter().map(|(name, value)| (name.to_string(), value.to_json())));
        Value::Object(object)
    }
}

// === impl Properties ===

impl<'a> Properties<'a> {
    /// The same as what expressions look at.
    #[must_use]
    pub fn object(&self) -> Object<'_> {
        match self {
            Properties::Object(extra) => Object { base: None, extra },
            Properties::Value(value) => Object { base: Some(value), extra: &[] },
        }
    }

    /// The same, borrowing nothing.
    #[must_use]
    pub fn into_owned(self) -> Properties<'static> {
        match self {
            Properties::Object(properties) => {
                Properties::Object(properties.into_iter().map(|(name, value)| (name, value.into_owned())).collect())
            }
            Properties::Value(value) => Properties::Value(value),
        }
    }

    #[must_use]
    pub fn to_json(&self) -> Value {
        self.object().to_json()
    }
}

// === impl Scope ===

impl<'a> Scope<'a> {
    /// What the filter `name` made.
    pub(super) fn filter(&self, name: &str) -> Option<Object<'a>> {
        self.filters.iter().find(|(filter, _)| **filter == *name).map(|(_, properties)| properties.object())
    }
}

/// The syntax tree of `source`, which is no deeper than evaluation can bear.
fn parse(source: &str) -> Result<cel::Program, CompileError> {
    bound(source)?;
    let program = ENVIRONMENT
        .compile(source)
        .map_err(|errors| CompileError { message: general::parse_error(&errors), remedy: slip::remedy(source) })?;
    let depth = general::depth(program.expression());
    if depth > MAX_DEPTH {
        let message = format!("is a tree {depth} levels deep; at most {MAX_DEPTH} are accepted");
        return Err(CompileError::new(message));
    }
    Ok(program)
}

/// Refuses what the recursive parser, evaluator or destructor could not bear.
fn bound(source: &str) -> Result<(), CompileError> {
    if source.trim().is_empty() {
        return Err(CompileError::new("is empty"));
    }
    if source.len() > MAX_LENGTH {
        let message = format!("is {} bytes long; at most {MAX_LENGTH} are accepted", source.len());
        return Err(CompileError::new(message));
    }
    let (mut depth, mut deepest, mut terms) = (0_usize, 0_usize, 0_usize);
    for byte in source.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
        terms += usize::from(b"()[]{}.?:+-*/%<>=!&|,".contains(&byte));
    }
    if deepest > MAX_NESTING {
        let message = format!("nests {deepest} brackets deep; at most {MAX_NESTING} are accepted");
        return Err(CompileError::new(message));
    }
    if terms > MAX_TERMS {
        let message = format!("has {terms} operators and separators; at most {MAX_TERMS} are accepted");
        return Err(CompileError::new(message));
    }
    Ok(())
}

/// The denial of an expression that has no value.
#[must_use]
pub fn undecided(what: &str, error: &EvalError) -> Denial {
    Denial::new(Code::PolicyExpression, "a policy expression could not be evaluated").detail(format!("{what}: {error}"))
}
