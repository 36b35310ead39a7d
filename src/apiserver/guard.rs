//! What keeps calls to the API server few: a budget for each caller and one for all, a cap on those in flight, a bound on each, and
//! a circuit breaker.

#[cfg(test)]
mod tests;

use std::fmt;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::CallerHash;
use super::connection::reason;
use crate::backoff::Backoff;
use crate::family::{Family, Registry, register};

/// How many calls a second there may be in all, and how many at once after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    pub qps: NonZeroU32,
    pub burst: NonZeroU32,
}

/// Counts and times calls, and says whether the breaker is open.
#[derive(Clone, Debug)]
pub struct ApiMetrics {
    calls: Family<CallLabels, Counter>,
    duration: Family<CallLabel, Histogram>,
    open: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct CallLabels {
    call: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct CallLabel {
    call: &'static str,
}

#[derive(Debug)]
pub(super) struct Guard {
    all: DefaultDirectRateLimiter,
    qps: NonZeroU32,
    each: DefaultKeyedRateLimiter<CallerHash>,
    /// Since idle callers were forgotten.
    asked: AtomicU32,
    in_flight: Semaphore,
    breaker: Mutex<Breaker>,
    metrics: ApiMetrics,
}

/// What is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    TokenReview,
    SubjectAccessReview,
    Keys,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum CallFailure {
    CallerBudget,
    Budget(NonZeroU32),
    Busy,
    /// The breaker is open for so much longer.
    Open(Duration),
    Late,
    Forbidden {
        call: Call,
        why: String,
    },
    /// It answers that it has too much to do.
    Throttled(String),
    Failed(String),
}

/// Closed, until several calls in a row fail; then open for a while, until one call is let through to try.
#[derive(Debug, Default)]
struct Breaker {
    failures: u32,
    open: Option<OpenBreaker>,
    /// Rises whenever it opens: calls that began before tell nothing new by failing.
    times: u32,
}

#[derive(Clone, Copy, Debug)]
struct OpenBreaker {
    until: Instant,
    backoff: Backoff,
}

/// How long a call may take. Longer than a request waits: the answer of a slow server is there for the next.
const CALL: Duration = Duration::from_secs(1);
/// Calls in flight; each has a connection of its own.
const IN_FLIGHT: usize = 64;
/// What one caller may ask, so that it does not use up what all may. A user has few tokens and few models.
const EACH: Budget = budget(20, 200);
/// After so many questions, callers who have not asked of late are forgotten.
const SWEEP: u32 = 10_000;
/// So many failures in a row open the breaker.
const FAILURES: u32 = 5;
/// For how long: at first, and at most.
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(4);

const fn budget(qps: u32, burst: u32) -> Budget {
    Budget { qps: at_least_one(qps), burst: at_least_one(burst) }
}

const fn at_least_one(n: u32) -> NonZeroU32 {
    match NonZeroU32::new(n) {
        Some(n) => n,
        None => NonZeroU32::MIN,
    }
}

// === impl Budget ===

impl Budget {
    /// A tenth of what an API server on two cores answers.
    pub const USUAL: Budget = budget(200, 1_000);

    fn quota(self) -> Quota {
        Quota::per_second(self.qps).allow_burst(self.burst)
    }
}

// === impl Guard ===

impl Guard {
    pub(super) fn new(budget: Budget, metrics: ApiMetrics) -> Self {
        Guard {
            all: RateLimiter::direct(budget.quota()),
            qps: budget.qps,
            each: RateLimiter::keyed(EACH.quota()),
            asked: AtomicU32::new(0),
            in_flight: Semaphore::new(IN_FLIGHT),
            breaker: Mutex::default(),
            metrics,
        }
    }

    /// Makes a call, if it may be made now, and takes two seconds at most.
    pub(super) async fn call<T>(
        &self,
        call: Call,
        caller: CallerHash,
        work: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, CallFailure> {
        let result = self.guarded(call, caller, work).await;
        let told = result.as_ref().map_or_else(CallFailure::as_str, |_| "ok");
        self.metrics.calls.get(&CallLabels { call: call.as_str(), result: told }).inc();
        result
    }

    async fn guarded<T>(
        &self,
        call: Call,
        caller: CallerHash,
        work: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, CallFailure> {
        if let Some(left) = self.breaker.lock().left(Instant::now()) {
            return Err(CallFailure::Open(left));
        }
        self.spend(call, caller)?;
        let Ok(Ok(_permit)) = timeout(CALL, self.in_flight.acquire()).await else { return Err(CallFailure::Busy) };
        let times = self.breaker.lock().admit(Instant::now()).map_err(CallFailure::Open)?;
        let started = Instant::now();
        let answer = timeout(CALL, work).await.map_err(|_| CallFailure::Late);
        self.metrics.duration(call).observe(started.elapsed().as_secs_f64());
        let answer = answer.and_then(|answer| answer.map_err(|error| CallFailure::of(call, error)));
        let ill = answer.as_ref().err().filter(|failure| failure.is_illness());
        self.note(times, ill);
        answer
    }

    fn spend(&self, call: Call, caller: CallerHash) -> Result<(), CallFailure> {
        // They are asked for once in a while, and without them nobody is let in.
        if matches!(call, Call::Keys) {
            return Ok(());
        }
        if self.asked.fetch_add(1, Ordering::Relaxed) == SWEEP {
            self.asked.store(0, Ordering::Relaxed);
            self.each.retain_recent();
        }
        self.each.check_key(&caller).map_err(|_| CallFailure::CallerBudget)?;
        self.all.check().map_err(|_| CallFailure::Budget(self.qps))
    }

    fn note(&self, times: u32, ill: Option<&CallFailure>) {
        let change = {
            let mut breaker = self.breaker.lock();
            let change = match ill {
                None => breaker.succeeded(),
                Some(_) => breaker.failed(times, Instant::now()),
            };
            self.metrics.open.set(i64::from(breaker.open.is_some()));
            change
        };
        match (change, ill) {
            (true, Some(failure)) => tracing::warn!(error = %failure, "the API server is not asked for a while"),
            (true, None) => tracing::info!("the API server answers again"),
            (false, _) => {}
        }
    }
}

// === impl Breaker ===

impl Breaker {
    /// How long it is open yet.
    fn left(&self, now: Instant) -> Option<Duration> {
        self.open.map(|open| open.until.saturating_duration_since(now)).filter(|left| !left.is_zero())
    }

    /// Lets a call through: one to try, where it was open; then how often it has been.
    fn admit(&mut self, now: Instant) -> Result<u32, Duration> {
        if let Some(left) = self.left(now) {
            return Err(left);
        }
        if let Some(open) = &mut self.open {
            open.until = now + CALL;
        }
        Ok(self.times)
    }

    /// Whether it closes.
    fn succeeded(&mut self) -> bool {
        self.failures = 0;
        self.open.take().is_some()
    }

    /// Whether it opens, of a call that began when it had been open this many `times`.
    fn failed(&mut self, times: u32, now: Instant) -> bool {
        if times != self.times {
            return false;
        }
        self.failures = self.failures.saturating_add(1);
        let mut backoff = match self.open {
            Some(open) => open.backoff,
            None if self.failures >= FAILURES => Backoff::new(PAUSE, LONGEST_PAUSE),
            None => return false,
        };
        let opens = self.open.is_none();
        self.times = self.times.wrapping_add(1);
        self.open = Some(OpenBreaker { until: now + backoff.pause(), backoff });
        opens
    }
}

// === impl Call ===

impl Call {
    fn as_str(self) -> &'static str {
        match self {
            Call::TokenReview => "token_review",
            Call::SubjectAccessReview => "subject_access_review",
            Call::Keys => "keys",
        }
    }

    /// An answer without what was asked for.
    pub(super) fn empty(self) -> CallFailure {
        CallFailure::Failed(format!("the answer to a {} has no status", self.as_str()))
    }

    /// The rule of RBAC that permits it, as it is written in a ClusterRole.
    fn rule(self) -> &'static str {
        match self {
            Call::TokenReview => {
                r#"{apiGroups: ["authentication.k8s.io"], resources: ["tokenreviews"], verbs: ["create"]}"#
            }
            Call::SubjectAccessReview => {
                r#"{apiGroups: ["authorization.k8s.io"], resources: ["subjectaccessreviews"], verbs: ["create"]}"#
            }
            Call::Keys => {
                r#"{nonResourceURLs: ["/openid/v1/jwks", "/.well-known/openid-configuration"], verbs: ["get"]}"#
            }
        }
    }
}

// === impl CallFailure ===

impl CallFailure {
    fn of(call: Call, error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.code == 403 => CallFailure::Forbidden { call, why: status.message },
            kube::Error::Api(status) if status.code == 429 => CallFailure::Throttled(status.message),
            kube::Error::Api(status) => CallFailure::Failed(format!("it answers {}: {}", status.code, status.message)),
            error => CallFailure::Failed(reason(&error)),
        }
    }

    /// Whether it says that the server is not well, or has too much to do.
    fn is_illness(&self) -> bool {
        matches!(self, CallFailure::Late | CallFailure::Failed(_) | CallFailure::Throttled(_))
    }

    fn as_str(&self) -> &'static str {
        match self {
            CallFailure::CallerBudget => "caller_budget",
            CallFailure::Budget(_) => "budget",
            CallFailure::Busy => "busy",
            CallFailure::Open(_) => "open",
            CallFailure::Late => "late",
            CallFailure::Forbidden { .. } => "forbidden",
            CallFailure::Throttled(_) => "throttled",
            CallFailure::Failed(_) => "failed",
        }
    }

    /// When another try may have more luck.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            CallFailure::Open(left) => Some(*left),
            _ => None,
        }
    }
}

impl fmt::Display for CallFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallFailure::CallerBudget => {
                write!(f, "the caller has used up their questions to the API server ({} a second)", EACH.qps)
            }
            CallFailure::Budget(qps) => write!(f, "the questions to the API server are used up (--kube-api-qps {qps})"),
            CallFailure::Busy => write!(f, "{IN_FLIGHT} calls of the API server are under way"),
            CallFailure::Open(_) => f.write_str("the API server failed, and is not asked for a while"),
            CallFailure::Late => write!(f, "the API server did not answer within {} s", CALL.as_secs()),
            CallFailure::Forbidden { call, why } => {
                write!(f, "{why}; add to the ClusterRole of tiergate's ServiceAccount: {}", call.rule())
            }
            CallFailure::Throttled(why) => write!(f, "the API server has too much to do: {why}"),
            CallFailure::Failed(why) => write!(f, "the API server: {why}"),
        }
    }
}

// === impl ApiMetrics ===

impl Default for ApiMetrics {
    fn default() -> Self {
        ApiMetrics {
            calls: Family::default(),
            duration: Family::of(|| Histogram::new(exponential_buckets(0.000_25, 2.0, 14))),
            open: Gauge::default(),
        }
    }
}

impl ApiMetrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        register(registry, "tiergate_api_calls", self.calls.clone());
        register(registry, "tiergate_api_call_duration_seconds", self.duration.clone());
        register(registry, "tiergate_api_breaker_open", self.open.clone());
    }

    fn duration(&self, call: Call) -> Histogram {
        self.duration.get(&CallLabel { call: call.as_str() })
    }
}
