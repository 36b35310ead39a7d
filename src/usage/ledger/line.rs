//! One line of the usage log.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::clock::Micros;
use crate::limit;
use crate::process::decision_id;
use crate::usage::{Channel, Charged, Report, Reservation, Settlement, Usage};

/// What one settled call cost, or by how much that is more or less than an earlier line of it said.
///
/// Numbers are in tokens. Those that nobody knows are left out; of a correction they are differences, which may be
/// negative, so that the sum of a call's lines is what it cost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// When it was settled, or corrected. It is written in UTC, to the millisecond.
    #[serde(with = "rfc3339")]
    pub time: Micros,
    /// The id of the decision that let the call through, as its log line has it.
    pub decision: Arc<str>,
    pub user: Arc<str>,
    /// The tier that was enforced; empty if there was none.
    pub tier: Arc<str>,
    /// The model's.
    pub namespace: Arc<str>,
    pub model: Arc<str>,
    pub route: Arc<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<i64>,
    /// Of `input`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached: Option<i64>,
    /// Of `output`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<i64>,
    pub total: i64,
    /// By the limit, as `namespace/policy/limit`, in the unit of its cost.
    #[serde(default)]
    pub charged: BTreeMap<Arc<str>, i64>,
    pub quality: Quality,
    /// What the report came over; empty if there was none.
    pub channel: Cow<'static, str>,
    /// From the decision to the settlement, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// Of the answer; 0 where the client left before there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Whether it corrects an earlier line of this decision.
    #[serde(default, skip_serializing_if = "is_false")]
    pub correction: bool,
    /// What it corrects, where that is a line of a call that nobody had reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corrects: Option<Quality>,
}

/// How well it is known what a call cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quality {
    /// No report came: what was held is what is charged.
    #[default]
    Unsettled,
    /// Told from the bytes or chunks of the answer.
    Estimate,
    /// What was counted before the answer was broken off.
    Counted,
    /// What the model said, or nothing because it failed. It is exact.
    Final,
}

// === impl Line ===

impl Line {
    /// The line of a call for which a report was `charged` at `time`; `None` if it has settled nothing. Which limits were charged is
    /// for the caller to say.
    #[must_use]
    pub fn settled(reservation: &Reservation, report: &Report, charged: &Charged, time: Micros) -> Option<Self> {
        let (total, quality) = match charged.settlement {
            Settlement::Settled(tokens) => (tokens, Quality::Final),
            Settlement::Estimated(tokens) => (tokens, charged.quality.into()),
            Settlement::NoUsage if reservation.is_call => (0, Quality::Final),
            _ => return None,
        };
        // What an estimate says of its parts is written with the number that corrects it.
        let usage = if quality == Quality::Final { report.usage } else { Usage::default() };
        Some(Line {
            input: usage.input.map(tokens),
            output: usage.output.map(tokens),
            cached: usage.cached.map(tokens),
            reasoning: usage.reasoning.map(tokens),
            total: tokens(total).saturating_sub(tokens(charged.before.unwrap_or(0))),
            quality,
            duration_ms: Some(time.0.saturating_sub(reservation.minted.0) / 1_000),
            status: report.status.and_then(|status| u16::try_from(status).ok()),
            correction: charged.before.is_some(),
            ..Line::of_call(reservation, time)
        })
    }

    /// The line of a call that nobody has reported until `time`, of whose token limits each holds what it `holds`: that is what it cost. Where
    /// a limit has a cost, what is held is in another unit, and what was expected is what the call cost in tokens, if it holds anything.
    #[must_use]
    pub fn unsettled(reservation: &Reservation, holds: &BTreeMap<Arc<str>, u64>, time: Micros) -> Self {
        let total = match holds.values().copied().max().unwrap_or(0) {
            1.. if reservation.is_priced => reservation.forecast.guess.ceil() as u64,
            held => held,
        };
        Line {
            total: tokens(total),
            charged: holds.iter().map(|(limit, held)| (Arc::clone(limit), tokens(*held))).collect(),
            ..Line::of_call(reservation, time)
        }
    }

    /// Who called what, and nothing of what that cost.
    fn of_call(reservation: &Reservation, time: Micros) -> Self {
        let (namespace, model) = reservation.model_name.split_once('/').unwrap_or(("", &reservation.model_name));
        Line {
            time,
            decision: reservation.decision.map(|id| decision_id(id).into()).unwrap_or_default(),
            user: Arc::clone(&reservation.user),
            tier: Arc::clone(&reservation.tier),
            namespace: namespace.into(),
            model: model.into(),
            route: Arc::clone(&reservation.route_name),
            ..Line::default()
        }
    }

    /// The same of a report that came over `channel`, for which each limit was `charged` so much.
    #[must_use]
    pub fn of(self, channel: Channel, charged: BTreeMap<Arc<str>, i64>) -> Self {
        Line { channel: Cow::Borrowed(channel.as_str()), charged, ..self }
    }

    /// Whether it needs no other line of its call: not a better one, and none that it corrects.
    pub(super) fn is_exact(&self) -> bool {
        self.quality == Quality::Final && (!self.correction || self.corrects.is_some())
    }

    /// This line and an `other` one of its call as one, in place of both, whichever of them came first.
    #[must_use]
    pub fn with(self, other: Line) -> Self {
        let (mut line, less) = if self.quality < other.quality { (other, self) } else { (self, other) };
        line.total = line.total.saturating_add(less.total);
        for (limit, charged) in less.charged {
            let sum = line.charged.entry(limit).or_default();
            *sum = sum.saturating_add(charged);
        }
        line.corrects = line.corrects.or(less.corrects);
        line.correction = line.corrects.is_some() || (line.correction && less.correction);
        line
    }

    /// This line as the correction of an `earlier` one, which was written though there was no report.
    #[must_use]
    pub fn correcting(mut self, earlier: &Line) -> Self {
        self.total = self.total.saturating_sub(earlier.total);
        for (limit, charged) in &earlier.charged {
            let difference = self.charged.entry(Arc::clone(limit)).or_default();
            *difference = difference.saturating_sub(*charged);
        }
        (self.correction, self.corrects) = (true, Some(earlier.quality));
        self
    }
}

impl From<limit::Quality> for Quality {
    fn from(quality: limit::Quality) -> Self {
        match quality {
            limit::Quality::Running | limit::Quality::Estimate => Quality::Estimate,
            limit::Quality::Counted => Quality::Counted,
            limit::Quality::Final => Quality::Final,
        }
    }
}

/// `number` with a sign; the largest that there is, where it would be beyond it.
fn tokens(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(flag: &bool) -> bool {
    !flag
}

/// Moments as RFC 3339 has them.
pub mod rfc3339 {
    use serde::de::Error;

    use super::{Cow, Deserialize, Deserializer, Micros, Serialize, Serializer, Timestamp};

    /// Writes it in UTC, to the millisecond; what is begun of one does not count.
    ///
    /// # Errors
    ///
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(time: &Micros, serializer: S) -> Result<S::Ok, S::Error> {
        super::moment(*time).serialize(serializer)
    }

    /// Reads it, with any offset.
    ///
    /// # Errors
    ///
    /// It is no time, or one before 1970.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Micros, D::Error> {
        // A text without escapes, which a time is, is not copied.
        #[derive(Deserialize)]
        struct Text<'t>(#[serde(borrow)] Cow<'t, str>);
        let Text(text) = Text::deserialize(deserializer)?;
        let time: Timestamp = text.parse().map_err(|_| D::Error::custom("a `time` that is none"))?;
        let micros = u64::try_from(time.as_microsecond());
        micros.map(Micros).map_err(|_| D::Error::custom("a `time` before 1970"))
    }
}

/// `time` as it is written.
fn moment(time: Micros) -> String {
    format!("{:.3}", timestamp(time))
}

/// `time` as jiff has it; the last moment that there is, where it would be beyond that.
#[must_use]
pub fn timestamp(time: Micros) -> Timestamp {
    let micros = i64::try_from(time.0).unwrap_or(i64::MAX);
    Timestamp::from_microsecond(micros).unwrap_or(Timestamp::MAX)
}
