//! `envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit`: for the domain `tiergate.report` usage reports, for the
//! domain `tiergate` whether the limits let a request through.
//!
//! One report carries all numbers of one answer. Each descriptor has the entries `tiergate.reservation` and
//! `tiergate.usage`, and its number in `hits_addend`.

mod take;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use envoy_types::pb::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::Code;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_server::RateLimitService;
use envoy_types::pb::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use futures_util::FutureExt;
use tonic::{Response, Status};

use super::refusals::Refusals;
use crate::gate::{EnforceLimits, Gate};
use crate::limit::Clock;
use crate::metrics::Metrics;
use crate::respond::Style;
use crate::usage::{MAX_HITS, Settlement, Settlements, Usage};

/// The domain of usage reports.
pub const REPORT_DOMAIN: &str = "tiergate.report";
/// The domain of questions about the limits of the manifests.
pub const DOMAIN: &str = "tiergate";
const RESERVATION: &str = "tiergate.reservation";
const USAGE: &str = "tiergate.usage";
/// Envoy sends one descriptor for each number; far more than that is somebody else's request.
const MAX_DESCRIPTORS: usize = 64;

/// The rate-limit service.
#[derive(Debug)]
pub struct RateLimit {
    pub gate: Arc<Gate>,
    settlements: Settlements,
    pub metrics: Arc<Metrics>,
    refusals: Arc<Refusals>,
    clock: Clock,
    style: Style,
    /// Whether anybody asked about the limits.
    asked: AtomicBool,
    /// Whether it was said that nobody does.
    told: AtomicBool,
}

#[tonic::async_trait]
impl RateLimitService for RateLimit {
    async fn should_rate_limit(
        &self,
        request: tonic::Request<RateLimitRequest>,
    ) -> Result<Response<RateLimitResponse>, Status> {
        // As in ExtAuthz: a panic in one request is one that no other should feel.
        match AssertUnwindSafe(self.handle(request.get_ref())).catch_unwind().await {
            Ok(answer) => answer.map(Response::new),
            Err(_) => {
                tracing::error!("a rate-limit request panicked; it is answered as undecided");
                Err(Status::unavailable("the gate failed on this request"))
            }
        }
    }
}

// === impl RateLimit ===

impl RateLimit {
    #[must_use]
    pub fn new(gate: Arc<Gate>, metrics: Arc<Metrics>, refusals: Arc<Refusals>, clock: Clock, style: Style) -> Self {
        let (settlements, asked, told) = (Settlements::default(), AtomicBool::new(false), AtomicBool::new(false));
        RateLimit { gate, settlements, metrics, refusals, clock, style, asked, told }
    }

    /// Takes one request.
    ///
    /// # Errors
    ///
    /// The domain is not served here, or a descriptor is malformed.
    pub async fn handle(&self, request: &RateLimitRequest) -> Result<RateLimitResponse, Status> {
        match request.domain.as_str() {
            REPORT_DOMAIN => self.report(request).await,
            DOMAIN => self.take(request).await,
            "" => Err(Status::invalid_argument("the domain is empty")),
            other => Err(Status::invalid_argument(format!(
                "domain `{other}` is not served; usage reports have the domain `{REPORT_DOMAIN}`, limits `{DOMAIN}`"
            ))),
        }
    }

    async fn report(&self, request: &RateLimitRequest) -> Result<RateLimitResponse, Status> {
        if request.descriptors.len() > MAX_DESCRIPTORS {
            return Err(Status::invalid_argument(format!("more than {MAX_DESCRIPTORS} descriptors")));
        }
        let mut sealed = None;
        let mut usage = Usage::default();
        for descriptor in &request.descriptors {
            let entry = |key| descriptor.entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value);
            match (sealed, entry(RESERVATION)) {
                (_, None) => return Err(Status::invalid_argument(format!("a descriptor has no `{RESERVATION}`"))),
                (Some(first), Some(other)) if first != other => {
                    return Err(Status::invalid_argument("one report carries two reservations"));
                }
                (_, found) => sealed = found,
            }
            if let Some(field) = entry(USAGE).and_then(|name| usage.field(name)) {
                *field = Some(hits(descriptor, request)?);
            }
        }
        let Some(sealed) = sealed else {
            return Err(Status::invalid_argument("no descriptors"));
        };
        let reservation = self.gate.sealer.open(sealed);
        let settlement = match &reservation {
            Some(reservation) => {
                let now = self.clock.now();
                self.settlements.settle(&self.gate.limits, reservation, &usage, now).await
            }
            None => Settlement::Unknown,
        };
        self.metrics.reported(settlement, &usage, reservation.as_ref());
        self.miss_the_question();
        if settlement == Settlement::Unknown {
            tracing::warn!("a usage report carries a reservation that this process did not make");
        }
        // Nobody waits for the answer: it is sent when the response is over.
        Ok(RateLimitResponse { overall_code: Code::Ok as i32, ..RateLimitResponse::default() })
    }
}

impl RateLimit {
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

/// The descriptor's number, else the request's. Absent, it would be one; a report always says.
fn hits(descriptor: &RateLimitDescriptor, request: &RateLimitRequest) -> Result<u64, Status> {
    let hits = descriptor.hits_addend.as_ref().map_or(u64::from(request.hits_addend), |hits| hits.value);
    if hits > MAX_HITS || descriptor.is_negative_hits {
        return Err(Status::invalid_argument(format!("hits_addend has to be 0 to {MAX_HITS}")));
    }
    Ok(hits)
}

// === impl Usage ===

impl Usage {
    /// The field of a number. Names that are not tokens (`status`, `bytes` …) have none.
    fn field(&mut self, name: &str) -> Option<&mut Option<u64>> {
        Some(match name {
            "total" => &mut self.total,
            "input" => &mut self.input,
            "output" => &mut self.output,
            "cached" => &mut self.cached,
            "reasoning" => &mut self.reasoning,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests;
