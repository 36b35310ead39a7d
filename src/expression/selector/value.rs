//! What paths and modifiers share: a value on the way, how much text may be made of it, and what is wrong with a selector.

use std::borrow::Cow;

use serde_json::Value;

use super::super::{CompileError, EvalError};

/// How much text the modifiers of one evaluation may make, in bytes. `@tostr` and `@replace` can multiply what they get.
pub(super) const MAX_TEXT: usize = 1024 * 1024;

/// A value on the way; `None` where nothing is there, which modifiers tell from null.
pub(super) type PathValue<'a> = Option<Cow<'a, Value>>;

/// How much text may still be made.
#[derive(Debug)]
pub(super) struct TextBudget(usize);

// === impl TextBudget ===

impl TextBudget {
    pub(super) fn new() -> Self {
        TextBudget(MAX_TEXT)
    }

    pub(super) fn spend(&mut self, bytes: usize) -> Result<(), EvalError> {
        let left = self.0.checked_sub(bytes);
        let too_much = || format!("a selector's modifiers would make more than {MAX_TEXT} bytes");
        self.0 = left.ok_or_else(|| EvalError::Failed(too_much()))?;
        Ok(())
    }
}

/// What is wrong with a selector.
pub(super) fn error(message: impl Into<String>) -> CompileError {
    CompileError::new(message)
}
