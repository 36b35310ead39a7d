//! What a caller is shown of their limits: docs/limits.md has the body.

use std::time::Duration;

use serde::Serialize;

use super::{Style, whole_seconds};
use crate::denial::Denial;
use crate::gate::{Evidence, Shown, ShownRate};
use crate::limit::{Standing, Verdict};
use crate::rules::LimitKind;

/// The body: who asks, and each rate.
#[derive(Serialize)]
struct Body<'a> {
    user: Option<&'a str>,
    tier: Option<&'a str>,
    limits: Vec<Rate<'a>>,
    /// Where there are more than are shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    truncated: Option<bool>,
}

#[derive(Serialize)]
struct Rate<'a> {
    name: &'a str,
    counts: &'static str,
    algorithm: &'static str,
    limit: u64,
    window_seconds: Seconds,
    #[serde(flatten)]
    state: State,
}

/// Where a rate stands, or why that is not known.
#[derive(Serialize)]
#[serde(untagged)]
enum State {
    Known {
        used: u64,
        left: u64,
        reset_seconds: u64,
        /// Until one more hit would pass; null for never.
        retry_after_seconds: Option<u64>,
    },
    Untold {
        error: String,
    },
}

/// A number of seconds, a whole one where it is one.
#[derive(Serialize)]
#[serde(untagged)]
enum Seconds {
    Whole(u64),
    Part(f64),
}

/// The body of the answer to who asks for their limits.
pub(super) fn body(shown: &Shown, evidence: &Evidence, style: Style) -> String {
    let limits = shown.rates.iter().map(|rate| Rate::of(rate, style)).collect();
    let (user, tier) = (evidence.user.as_deref(), evidence.tier.as_deref());
    let body = Body { user, tier, limits, truncated: shown.truncated.then_some(true) };
    // Texts and numbers become JSON whatever they are.
    serde_json::to_string(&body).unwrap_or_default()
}

// === impl Rate ===

impl<'a> Rate<'a> {
    fn of(ShownRate { limit, kind, quota, standing }: &'a ShownRate, style: Style) -> Self {
        Rate {
            name: limit,
            counts: match kind {
                LimitKind::Requests => "requests",
                LimitKind::Tokens => "tokens",
            },
            algorithm: quota.algorithm().name(),
            limit: quota.limit(),
            window_seconds: Seconds::from(quota.window()),
            state: match standing {
                Ok(standing) => State::from(standing),
                Err(denial) => State::Untold { error: told(denial, style) },
            },
        }
    }
}

/// What is said to the caller; what is meant for operators only where callers are told that too.
fn told(Denial { message, detail, .. }: &Denial, style: Style) -> String {
    match detail {
        Some(detail) if style.verbose_refusals => format!("{message}: {detail}"),
        _ => message.to_string(),
    }
}

// === impl State ===

impl From<&Standing> for State {
    fn from(standing: &Standing) -> Self {
        let retry_after_seconds = match standing.verdict {
            Verdict::Fits => Some(0),
            Verdict::Exceeds(wait) => wait.map(whole_seconds),
        };
        let (used, left, reset_seconds) = (standing.used(), standing.remaining(), whole_seconds(standing.reset()));
        State::Known { used, left, reset_seconds, retry_after_seconds }
    }
}

// === impl Seconds ===

impl From<Duration> for Seconds {
    fn from(duration: Duration) -> Self {
        match duration.subsec_nanos() {
            0 => Seconds::Whole(duration.as_secs()),
            _ => Seconds::Part(duration.as_secs_f64()),
        }
    }
}
