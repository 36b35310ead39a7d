//! `envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit`: for the domain `tiergate.report` usage reports, for the
//! domain `tiergate` whether the limits let a request through.

mod report;
mod take;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_server::RateLimitService;
use envoy_types::pb::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use futures_util::FutureExt;
use tonic::{Response, Status};

use super::refusals::Refusals;
use crate::clock::Clock;
use crate::gate::Gate;
use crate::metrics::Metrics;
use crate::respond::Style;
use crate::usage::{Ledger, Reports};

/// The domain of usage reports.
pub const REPORT_DOMAIN: &str = "tiergate.report";
/// The domain of questions about the limits of the manifests.
pub const DOMAIN: &str = "tiergate";
/// Envoy sends one descriptor for each number; far more than that is somebody else's request.
const MAX_DESCRIPTORS: usize = 64;

/// The rate-limit service.
#[derive(Debug)]
pub struct RateLimit {
    pub gate: Arc<Gate>,
    /// Takes the reports of every channel.
    pub usage: Arc<Reports>,
    pub metrics: Arc<Metrics>,
    refusals: Arc<Refusals>,
    pub(super) clock: Clock,
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
        let usage = Arc::new(gate.reports(metrics.usage.clone()));
        let (asked, told) = (AtomicBool::new(false), AtomicBool::new(false));
        RateLimit { gate, usage, metrics, refusals, clock, style, asked, told }
    }

    /// Has `ledger` write down what is settled; where another process takes over from this one, as this did from the one before, with the
    /// calls that it has `inherited`: see [`Reports::inherited`].
    #[must_use]
    pub fn written_by(self, ledger: Arc<Ledger>, inherited: Option<Vec<u128>>) -> Self {
        let reports = self.gate.reports(self.metrics.usage.clone()).written_by(ledger);
        let usage = match inherited {
            Some(unsettled) => reports.inherited(unsettled),
            None => reports,
        };
        RateLimit { usage: Arc::new(usage), ..self }
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
}

#[cfg(test)]
mod tests;
