//! What a caller is shown of their limits: docs/limits.md has the body.

use std::time::Duration;

use serde::Serialize;

use super::{Style, whole_seconds};
use crate::denial::Denial;
use crate::gate::{Evidence, Shown, ShownRate};
use crate::limit::{Quota, Span, Standing, Verdict};
use crate::rules::Counts;

/// The body: who asks, and each rate.
#[derive(Serialize)]
struct Body<'a> {
    user: Option<&'a str>,
    tier: Option<&'a str>,
    limits: Vec<RateBody<'a>>,
    /// Where there are more than are shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    truncated: Option<bool>,
}

/// One rate of a limit, as callers and operators are shown it.
#[derive(Debug, Serialize)]
pub struct RateBody<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    counts: Option<&'static str>,
    algorithm: &'static str,
    limit: u64,
    #[serde(flatten)]
    span: SpanBody,
    #[serde(flatten)]
    state: State,
}

/// What the number of the limit is for, where that is more than calls that run.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum SpanBody {
    Lasting { window_seconds: Seconds },
    Calendar { window: &'static str, time_zone: &'static str },
    Running {},
}

/// Where a rate stands, or why that is not known.
#[derive(Debug, Serialize)]
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
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Seconds {
    Whole(u64),
    Part(f64),
}

/// The body of the answer to who asks for their limits.
pub(super) fn body<'a>(shown: &'a Shown, evidence: &'a Evidence, style: Style) -> String {
    let rate = |rate: &'a ShownRate| {
        let standing = rate.standing.as_ref().map_err(|denial| told(denial, style));
        let counts = Counts::new(rate.kind, matches!(rate.quota.span(), Span::Running));
        RateBody::new(&rate.limit, Some(counts), &rate.quota, standing)
    };
    let limits = shown.rates.iter().map(rate).collect();
    let (user, tier) = (evidence.user.as_deref(), evidence.tier.as_deref());
    let body = Body { user, tier, limits, truncated: shown.truncated.then_some(true) };
    // Texts and numbers become JSON whatever they are.
    serde_json::to_string(&body).unwrap_or_default()
}

// === impl RateBody ===

impl<'a> RateBody<'a> {
    /// A rate of the limit `name`, that stands so or of which that is not known.
    #[must_use]
    pub fn new(name: &'a str, counts: Option<Counts>, quota: &Quota, standing: Result<&Standing, String>) -> Self {
        let counts = counts.map(Counts::name);
        let (algorithm, limit, span) = (quota.algorithm().name(), quota.limit(), quota.span().into());
        let state = standing.map_or_else(|error| State::Untold { error }, State::from);
        RateBody { name, counts, algorithm, limit, span, state }
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

// === impl SpanBody ===

impl From<Span> for SpanBody {
    fn from(span: Span) -> Self {
        match span {
            Span::Lasting(window) => SpanBody::Lasting { window_seconds: window.into() },
            Span::Calendar(calendar) => {
                SpanBody::Calendar { window: calendar.unit().name(), time_zone: calendar.zone() }
            }
            Span::Running => SpanBody::Running {},
        }
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
