//! Refusals, and failures to decide: two different answers.

mod code;

use std::borrow::Cow;
use std::time::Duration;

pub use self::code::{Class, Code};

/// A refusal in a policy's own words, Authorino's `denyWith`. What is `None` or empty is said as usual.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DenyWith {
    /// The HTTP status, 300 to 599.
    pub status: Option<u16>,
    /// The header `x-ext-auth-reason`.
    pub reason: Option<String>,
    /// Headers by name, in place of tiergate's own of that name.
    pub headers: Vec<(String, String)>,
    /// The body: `text/plain`, unless `headers` say otherwise.
    pub body: Option<String>,
}

/// A request that is not let through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Why. [`crate::respond`] chooses headers and body by it.
    pub code: Code,
    /// For the caller.
    pub message: Cow<'static, str>,
    /// For the operator: goes to log and metadata, to the caller only under `--verbose-refusals`.
    pub detail: Option<String>,
    /// When the same request would pass.
    pub retry_after: Option<Duration>,
    /// How the policy wants it to be said.
    pub deny_with: Option<Box<DenyWith>>,
}

// === impl Denial ===

impl Denial {
    /// A refusal by `code`, of which the caller is told `message`.
    #[must_use]
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Denial { code, message: message.into(), detail: None, retry_after: None, deny_with: None }
    }

    /// Adds what only the operator should read.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }
}
