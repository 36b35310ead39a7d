//! For whom a token is: the audiences that an AuthPolicy wants.

use std::borrow::Cow;

use super::Credentials;
use crate::denial::{Code, Denial};

// === impl Credentials ===

impl<'a> Credentials<'a> {
    /// The audiences that the token may be for, by any rule that goes by its reviewer.
    pub(super) fn wanted(&self) -> impl Iterator<Item = Cow<'a, str>> {
        self.rules.audiences(self.reviewer, self.host)
    }

    /// Whether the token is good for any rule that goes by its reviewer, where it is for `audiences`.
    ///
    /// # Errors
    ///
    /// It is for others.
    pub(super) fn accept_any(&self, audiences: &[String]) -> Result<(), Denial> {
        match self.wanted().any(|wanted| audiences.iter().any(|own| **own == *wanted)) {
            true => Ok(()),
            false => Err(other_audience(self.wanted(), audiences)),
        }
    }
}

/// The refusal of a token that is for `audiences` and not for any that is `wanted`.
#[must_use]
pub fn other_audience<'a>(wanted: impl Iterator<Item = Cow<'a, str>>, audiences: &[String]) -> Denial {
    let wanted: Vec<_> = wanted.collect();
    let detail = format!("the token is for {}, the policy wants {}", audiences.join(", "), wanted.join(", "));
    Denial::new(Code::TokenAudience, "the token is for another audience").detail(detail)
}
