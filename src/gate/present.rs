//! What an admitted caller is presented as: to the limits, in metadata, in the headers that the model receives.

use std::sync::Arc;

use serde_json::Value;

use super::caller::{Caller, fits, header_text, holds, no_tier};
use crate::denial::Denial;
use crate::expression::{EvalError, Object, Properties, Scope, undecided};
use crate::rules::{AuthRules, Shape, ValueSource};

/// What an admitted caller is presented as.
#[derive(Debug, Default)]
pub struct Presented {
    pub filters: Vec<(Arc<str>, Properties<'static>)>,
    pub headers: Vec<(String, String)>,
}

// === impl Presented ===

impl Presented {
    /// What the limits see as `auth.identity`.
    #[must_use]
    pub fn identity(&self) -> Option<Object<'_>> {
        let (_, properties) = self.filters.iter().find(|(name, _)| &**name == "identity")?;
        Some(properties.object())
    }
}

/// Builds what the response declares.
///
/// # Errors
///
/// A property has no value: because the caller has no tier, or because the policy is wrong.
pub(super) fn present(rules: &AuthRules, caller: &Caller<'_>) -> Result<Presented, Denial> {
    let scope = caller.scope();
    let no_value = |name: &str, error: &EvalError| {
        let is_without = caller.tier.is_none() && !rules.metadata.is_empty();
        match error {
            EvalError::Missing(_) if is_without => no_tier(rules, caller),
            error => undecided(&format!("response property `{name}`"), error),
        }
    };
    let mut presented = Presented::default();
    for rule in &rules.filters {
        // Of two of one key the first one counts, here as wherever it is looked up.
        if presented.filters.iter().any(|(name, _)| *name == rule.what.name) {
            continue;
        }
        if !holds(rules, &rule.name, &rule.when, &scope)? {
            continue;
        }
        let properties = match &rule.what.shape {
            Shape::Object(properties) => {
                let eval = |(name, source): &(Arc<str>, ValueSource)| match source.eval(&scope) {
                    Ok(value) => Ok((Arc::clone(name), value.into_owned())),
                    Err(error) => Err(no_value(name, &error)),
                };
                Properties::Object(properties.iter().map(eval).collect::<Result<_, _>>()?)
            }
            Shape::Plain(source) => {
                Properties::Value(source.eval(&scope).map_err(|error| no_value(&rule.what.name, &error))?.to_json())
            }
        };
        presented.filters.push((Arc::clone(&rule.what.name), properties));
    }
    for rule in &rules.headers {
        if presented.headers.iter().any(|(name, _)| **name == *rule.what.name) {
            continue;
        }
        if !holds(rules, &rule.name, &rule.when, &scope)? {
            continue;
        }
        let value = to_header(&rule.what.shape, &scope).map_err(|error| no_value(&rule.what.name, &error))?;
        presented.headers.push((rule.what.name.to_string(), value));
    }
    Ok(presented)
}

fn to_header(shape: &Shape, scope: &Scope<'_>) -> Result<String, EvalError> {
    let value = match shape {
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
