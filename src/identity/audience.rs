//! For whom a token is: the audiences that an AuthPolicy wants.

use crate::denial::{Code, Denial};
use crate::rules::AuthRules;

/// Whether a token for `audiences` is good for any of `rules`, on `host`.
///
/// # Errors
///
/// It is for others.
pub(super) fn accept_any(rules: &AuthRules, audiences: &[String], host: &str) -> Result<(), Denial> {
    match rules.audiences(host).any(|wanted| audiences.iter().any(|own| **own == *wanted)) {
        true => Ok(()),
        false => Err(other_audience(rules, audiences, host)),
    }
}

/// The refusal of a token that is for `audiences`, where `rules` want others on `host`.
#[must_use]
pub fn other_audience(rules: &AuthRules, audiences: &[String], host: &str) -> Denial {
    let wanted: Vec<_> = rules.audiences(host).collect();
    let detail = format!("the token is for {}, the policy wants {}", audiences.join(", "), wanted.join(", "));
    Denial::new(Code::TokenAudience, "the token is for another audience").detail(detail)
}
