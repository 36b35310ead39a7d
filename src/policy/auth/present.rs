//! What an admitted caller is presented as: to the limits, in metadata, in the headers that the model receives.

use std::sync::Arc;

use serde_json::Value;

use super::Shape;
use crate::policy::expression::{EvalError, Object, Scope, Val};

/// What an admitted caller is presented as.
#[derive(Debug, Default)]
pub struct Presented<'a> {
    pub filters: Vec<(Arc<str>, Properties<'a>)>,
    pub headers: Vec<(String, String)>,
}

/// The value of a filter.
#[derive(Debug)]
pub enum Properties<'a> {
    Object(Vec<(Arc<str>, Val<'a>)>),
    Value(Value),
}

// === impl Shape ===

impl Shape {
    pub(super) fn to_header(&self, scope: &Scope<'_>) -> Result<String, EvalError> {
        let value = match self {
            Shape::Plain(source) => header_text(&source.eval(scope)?),
            Shape::Object(properties) => {
                let mut object = serde_json::Map::new();
                for (name, source) in properties {
                    object.insert(name.to_string(), source.eval(scope)?.to_json());
                }
                Value::Object(object).to_string()
            }
        };
        if fits(&value) {
            return Ok(value);
        }
        Err(EvalError::Failed("holds characters that no header can".to_owned()))
    }
}

// === impl Presented ===

impl<'a> Presented<'a> {
    /// What the limits see as `auth.identity`.
    #[must_use]
    pub fn identity(&self) -> Option<Object<'_>> {
        let (_, properties) = self.filters.iter().find(|(name, _)| &**name == "identity")?;
        Some(match properties {
            Properties::Object(extra) => Object { base: None, extra },
            Properties::Value(value) => Object { base: Some(value), extra: &[] },
        })
    }
}

impl Properties<'_> {
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
        match self {
            Properties::Object(extra) => Object { base: None, extra }.to_json(),
            Properties::Value(value) => value.clone(),
        }
    }
}

/// A value as text; lists and mappings as JSON.
pub(super) fn header_text(value: &Val<'_>) -> String {
    match value.clone().into_text() {
        Some(text) => text.into_owned(),
        None => value.to_json().to_string(),
    }
}

/// RFC 9110, section 5.5: what a header's value may hold.
pub(super) fn fits(value: &str) -> bool {
    value.bytes().all(|b| b == b'\t' || (b >= b' ' && b != 0x7f))
}
