//! What an admitted caller is presented as: to the limits, in metadata, in the headers that the model receives.

use std::sync::Arc;

use serde_json::Value;

use super::Shape;
use crate::expression::{EvalError, Object, Properties, Scope, Val};

/// What an admitted caller is presented as.
#[derive(Debug, Default)]
pub struct Presented<'a> {
    pub filters: Vec<(Arc<str>, Properties<'a>)>,
    pub headers: Vec<(String, String)>,
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
        Some(properties.object())
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
