//! The domain `tiergate`: the limits of the manifests, asked by a call of their own.
//!
//! The entries of all descriptors are facts about one request: see [`Facts`].

use std::sync::atomic::Ordering;
use std::time::Instant;

use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::Code;
use envoy_types::pb::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use tonic::Status;

use super::{DOMAIN, MAX_DESCRIPTORS, RateLimit};
use crate::gate::{EnforceLimits, Facts};
use crate::respond;

/// A request has ten facts or so, and each may be a descriptor.
const MAX_ENTRIES: usize = 256;
/// In bytes. The longest is a set of headers, which Envoy bounds at 60 KiB, as JSON: at most twice as long where every byte is a
/// quote. A whole message has twice this bound.
const MAX_VALUE: usize = 128 * 1024;

// === impl RateLimit ===

impl RateLimit {
    /// Takes what one request costs from the limits that match it.
    pub(super) async fn take(&self, request: &RateLimitRequest) -> Result<RateLimitResponse, Status> {
        let started = Instant::now();
        let facts = match self.facts(request) {
            Ok(facts) => facts,
            Err(status) => {
                // The gateway says 503 and nothing else; whoever looks for the reason looks here.
                tracing::warn!("a rate-limit request is refused: {}", status.message());
                let shadow = self.gate.is_shadow().then(RateLimitResponse::default);
                return shadow
                    .map(|answer| RateLimitResponse { overall_code: Code::Ok as i32, ..answer })
                    .ok_or(status);
            }
        };
        self.asked.store(true, Ordering::Relaxed);
        let decision = self.gate.take(&facts, self.clock.now()).await;
        let asked = facts.request().ok();
        self.refusals.tell(asked.as_ref(), &decision);
        self.metrics.decided(&decision, started.elapsed());
        let response = respond::rate_limit_response(&decision, self.style);
        self.gate.recent.record(asked.as_ref(), decision);
        response
    }

    fn facts(&self, request: &RateLimitRequest) -> Result<Facts, Status> {
        let refuse = |why: String| Err(Status::invalid_argument(why));
        if self.gate.enforced_by() == EnforceLimits::Check {
            // Check has taken them: once more would be twice.
            return refuse(format!(
                "Check takes from the limits here; domain `{DOMAIN}` is for --enforce-limits rls (TIERGATE_ENFORCE_LIMITS)"
            ));
        }
        if request.descriptors.len() > MAX_DESCRIPTORS {
            return refuse(format!("more than {MAX_DESCRIPTORS} descriptors"));
        }
        if request.hits_addend > 1 {
            return refuse("a request costs one; what its answer costs is reported afterwards".to_owned());
        }
        let mut facts = Facts::default();
        let mut entries = 0;
        for descriptor in &request.descriptors {
            let hits = descriptor.hits_addend.as_ref().is_none_or(|hits| hits.value == 1);
            if !hits || descriptor.is_negative_hits {
                return refuse("a request costs one; what its answer costs is reported afterwards".to_owned());
            }
            if descriptor.limit.is_some() {
                return refuse("a descriptor has a limit of its own; limits are those of the manifests".to_owned());
            }
            entries += descriptor.entries.len();
            if entries > MAX_ENTRIES {
                return refuse(format!("more than {MAX_ENTRIES} entries"));
            }
            for entry in &descriptor.entries {
                if entry.value.len() > MAX_VALUE {
                    return refuse(format!("an entry is longer than {MAX_VALUE} bytes"));
                }
                facts.tell(&entry.key, &entry.value).map_err(Status::invalid_argument)?;
            }
        }
        Ok(facts)
    }
}
