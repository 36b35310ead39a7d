//! The domain `tiergate.report`: what an answer cost.
//!
//! One report carries all numbers of one answer. Each descriptor has the entries `tiergate.reservation` and
//! `tiergate.usage`, and its number in `hits_addend`.

use std::sync::atomic::Ordering;
use std::time::Instant;

use envoy_types::pb::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::Code;
use envoy_types::pb::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use tonic::Status;

use super::{DOMAIN, MAX_DESCRIPTORS, RateLimit};
use crate::gate::EnforceLimits;
use crate::usage::{Charged, MAX_HITS, Report, Settlement};

const RESERVATION: &str = "tiergate.reservation";
const USAGE: &str = "tiergate.usage";

/// What of a report is not taken as it was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Correction {
    /// A number that is none: the others of its report count.
    Number,
    /// An answer that says more tokens than `--max-answer-tokens`.
    Answer,
    /// A debt of more than `--max-debt-windows`.
    Debt,
}

/// A report as it was read.
struct Read<'r> {
    sealed: &'r str,
    report: Report,
    /// The first number that is none, if there is one.
    wrong: Option<String>,
}

// === impl RateLimit ===

impl RateLimit {
    /// Takes one report. Nobody waits for the answer: it is sent when the response is over.
    pub(super) async fn report(&self, request: &RateLimitRequest) -> Result<RateLimitResponse, Status> {
        let Read { sealed, report, wrong } = read(request).inspect_err(|status| {
            self.metrics.report_refused();
            self.warn(|reports| tracing::warn!(reports, why = status.message(), "usage reports are refused"));
        })?;
        if let Some(why) = wrong {
            self.metrics.corrected(Correction::Number);
            self.warn(|reports| tracing::warn!(reports, why, "usage reports have numbers that are not taken"));
        }
        let Some(reservation) = self.gate.sealer.open(sealed) else {
            self.metrics.reported(Settlement::Unknown, &report.usage, None);
            self.miss_the_question();
            self.warn(|reports| {
                tracing::warn!(reports, "usage reports carry reservations that this process did not make")
            });
            return Ok(taken());
        };
        let Charged { settlement, cut, debt_cut } =
            self.settlements.settle(&self.gate.limits, &reservation, &report, self.clock.now()).await;
        self.metrics.reported(settlement, &report.usage, Some(&reservation));
        if let Some(tokens) = cut {
            self.metrics.corrected(Correction::Answer);
            let (tier, most) = (&*reservation.tier, self.gate.bounds().answer);
            self.warn(|reports| {
                tracing::warn!(reports, tier, tokens, most, "answers are said to cost more than --max-answer-tokens")
            });
        }
        if debt_cut {
            self.metrics.corrected(Correction::Debt);
            let tier = &*reservation.tier;
            self.warn(|reports| tracing::warn!(reports, tier, "debts are cut at --max-debt-windows"));
        }
        self.miss_the_question();
        Ok(taken())
    }

    /// A line, where there was none in the last second; with the number of reports that wanted one since.
    fn warn(&self, line: impl FnOnce(u64)) {
        if let Some(reports) = self.untold.lock().count(Instant::now()) {
            line(reports);
        }
    }

    /// Says once that answers are reported and nobody asked whether there may be any: the gateway makes one call, and the
    /// limits are for the second.
    fn miss_the_question(&self) {
        let missing = self.gate.enforced_by() == EnforceLimits::Rls && !self.asked.load(Ordering::Relaxed);
        if missing && !self.told.swap(true, Ordering::Relaxed) {
            tracing::error!(
                "no limit is enforced: with --enforce-limits rls the gateway has to ask in the rate-limit domain \
                 `{DOMAIN}`, as envoy/classic.yaml does"
            );
        }
    }
}

fn taken() -> RateLimitResponse {
    RateLimitResponse { overall_code: Code::Ok as i32, ..RateLimitResponse::default() }
}

fn read(request: &RateLimitRequest) -> Result<Read<'_>, Status> {
    if request.descriptors.len() > MAX_DESCRIPTORS {
        return Err(Status::invalid_argument(format!("more than {MAX_DESCRIPTORS} descriptors")));
    }
    let (mut sealed, mut report, mut wrong) = (None, Report::default(), None);
    for descriptor in &request.descriptors {
        let entry = |key| descriptor.entries.iter().find(|entry| entry.key == key).map(|entry| &*entry.value);
        match (sealed, entry(RESERVATION)) {
            (_, None) => return Err(Status::invalid_argument(format!("a descriptor has no `{RESERVATION}`"))),
            (Some(first), Some(other)) if first != other => {
                return Err(Status::invalid_argument("one report carries two reservations"));
            }
            (_, found) => sealed = found,
        }
        let Some(name) = entry(USAGE) else { continue };
        match hits(descriptor, request) {
            Some(number) => report.note(name, number),
            None if wrong.is_none() => wrong = Some(format!("`{name}` has to be 0 to {MAX_HITS}")),
            None => {}
        }
    }
    let sealed = sealed.ok_or_else(|| Status::invalid_argument("no descriptors"))?;
    Ok(Read { sealed, report, wrong })
}

/// The descriptor's number, else the request's. Absent, it would be one; a report always says.
fn hits(descriptor: &RateLimitDescriptor, request: &RateLimitRequest) -> Option<u64> {
    let hits = descriptor.hits_addend.as_ref().map_or(u64::from(request.hits_addend), |hits| hits.value);
    (hits <= MAX_HITS && !descriptor.is_negative_hits).then_some(hits)
}

// === impl Correction ===

impl Correction {
    pub const ALL: [Correction; 3] = [Correction::Number, Correction::Answer, Correction::Debt];

    /// The metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Correction::Number => "number",
            Correction::Answer => "answer",
            Correction::Debt => "debt",
        }
    }
}

// === impl Report ===

impl Report {
    /// Takes a number by its name. Names that nothing is decided by (`chunks`, `duration_ms` …) are passed over.
    fn note(&mut self, name: &str, number: u64) {
        let field = match name {
            "total" => &mut self.usage.total,
            "input" => &mut self.usage.input,
            "output" => &mut self.usage.output,
            "cached" => &mut self.usage.cached,
            "reasoning" => &mut self.usage.reasoning,
            "status" => &mut self.status,
            "bytes" => &mut self.bytes,
            "request_bytes" => &mut self.request_bytes,
            "stream" => {
                self.streamed = number > 0;
                return;
            }
            _ => return,
        };
        // A report may have a total in the words of several APIs, of which the answer speaks one.
        *field = (*field).max(Some(number));
    }
}
