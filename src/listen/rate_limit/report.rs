//! The domain `tiergate.report`: what an answer cost.
//!
//! One report carries all numbers of one answer. Each descriptor has the entries `tiergate.reservation` and
//! `tiergate.usage`, and its number in `hits_addend`.

use std::sync::atomic::Ordering;

use envoy_types::pb::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::Code;
use envoy_types::pb::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use tonic::Status;

use super::{DOMAIN, MAX_DESCRIPTORS, RateLimit};
use crate::gate::EnforceLimits;
use crate::usage::{Channel, MAX_HITS, Report};

const RESERVATION: &str = "tiergate.reservation";
const USAGE: &str = "tiergate.usage";

/// A report as it was read.
struct ReadReport<'r> {
    sealed: &'r str,
    report: Report,
    /// The first number that is none, if there is one.
    wrong: Option<String>,
}

// === impl RateLimit ===

impl RateLimit {
    /// Takes one report. Nobody waits for the answer: it is sent when the response is over.
    pub(super) async fn report(&self, request: &RateLimitRequest) -> Result<RateLimitResponse, Status> {
        let ReadReport { sealed, report, wrong } =
            read(request).inspect_err(|status| self.usage.refuse(Channel::RateLimit, status.message()))?;
        if let Some(why) = wrong {
            self.usage.pass_over(Channel::RateLimit, &why);
        }
        self.usage.take(sealed, &report, Channel::RateLimit, self.clock.now()).await;
        self.miss_the_question();
        Ok(taken())
    }

    /// Says once that answers are reported and nobody asked whether there may be any: the gateway makes one call, and the
    /// limits are for the second.
    pub(in crate::listen) fn miss_the_question(&self) {
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

fn read(request: &RateLimitRequest) -> Result<ReadReport<'_>, Status> {
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
    Ok(ReadReport { sealed, report, wrong })
}

/// The descriptor's number, else the request's. Absent, it would be one; a report always says.
fn hits(descriptor: &RateLimitDescriptor, request: &RateLimitRequest) -> Option<u64> {
    let hits = descriptor.hits_addend.as_ref().map_or(u64::from(request.hits_addend), |hits| hits.value);
    (hits <= MAX_HITS && !descriptor.is_negative_hits).then_some(hits)
}
