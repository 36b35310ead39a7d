//! Where the values of rules come from.

use std::borrow::Cow;

use serde_json::Value;

use crate::expression::{EvalError, Expression, Scope, Selector, Val};

/// Where a value comes from.
#[derive(Debug)]
pub enum ValueSource {
    Constant(Value),
    Expression(Expression),
    /// Null, where it leads nowhere, is taken for missing: an attribute made of nothing could mean every one.
    Selector(Selector),
}

// === impl ValueSource ===

impl ValueSource {
    /// The value.
    ///
    /// # Errors
    ///
    /// See [`EvalError`].
    pub fn eval<'a>(&'a self, scope: &Scope<'a>) -> Result<Val<'a>, EvalError> {
        match self {
            ValueSource::Constant(value) => Ok(Val::Json(Cow::Borrowed(value))),
            ValueSource::Expression(expression) => expression.eval(scope),
            ValueSource::Selector(selector) => match selector.eval(scope)? {
                Val::Json(value) if value.is_null() => Err(EvalError::Missing(format!("`{}`", selector.source()))),
                value => Ok(value),
            },
        }
    }
}
