//! Tiers that a service knows: asked for once per caller, and remembered.
//!
//! A caller's first request waits for the service; later ones are answered from memory. When an answer is past its time it is
//! served on while a new one is fetched. What fails is told as undecided, and is never kept as an answer.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hashbrown::HashMap;
use hyper::body::Bytes;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::Tier;
use super::lookup::{LookupClient, LookupFailure, TierAnswer};
use crate::cache::{self, AnswerSource, Bounded, Cache, CacheKey, Capacity, Config, Staleness, Unanswered, bounded};
use crate::clock::Nanos;
use crate::denial::{Code, Denial};
use crate::hash::KeyedHasher;
use crate::rules::Endpoint;

/// A request to a service, on behalf of one caller.
#[derive(Clone, Debug)]
pub struct LookupRequest {
    endpoint: Arc<Endpoint>,
    body: Bytes,
    /// Of url, user and body.
    hash: u128,
}

/// What is known about a caller's tier.
#[derive(Clone, Debug, PartialEq)]
pub enum Lookup {
    Tier(Arc<Tier>),
    /// The service knows the caller's groups, and they belong to no tier.
    NoTier,
    /// It could not be told.
    Undecided(Denial),
}

/// Asks tier services, and remembers what they answer. Clones share it all.
#[derive(Clone, Debug)]
pub struct TierServices(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    client: LookupClient,
    /// How long a request waits.
    patience: Duration,
    hasher: KeyedHasher,
    cache: Cache<Option<Arc<Tier>>>,
    /// The tiers that were answered, by name and display name: callers are many, tiers few.
    tiers: Bounded<Arc<Tier>>,
    services: Mutex<HashMap<Arc<str>, Arc<Service>>>,
}

/// One service, by its URL.
#[derive(Debug)]
struct Service {
    calls: Arc<Semaphore>,
    /// Whether the last call failed: only changes are logged.
    failing: AtomicBool,
}

/// How long "no tier" is: a new user is put into a group after their first request, and tries again.
const NO_TIER_TTL: Duration = Duration::from_secs(10);
/// How long a request waits. Shorter than the gate's own bound, so that the reason is told.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long after a call was begun that failed there is no other for the same caller.
const PAUSE: Duration = Duration::from_secs(1);
/// Calls in flight to one service.
const CALLS: usize = 64;
/// Callers whose tier is remembered; each takes about 300 bytes.
const CALLERS: usize = 100_000;
/// Different tiers that are remembered.
const TIERS: usize = 1_000;
/// Services whose state is kept, of policies that are gone too.
const SERVICES: usize = 64;

// === impl LookupRequest ===

impl CacheKey for LookupRequest {
    type Value = Option<Arc<Tier>>;

    fn hash(&self) -> u128 {
        self.hash
    }

    fn fresh_until(&self, tier: &Option<Arc<Tier>>, asked: Nanos) -> Nanos {
        let ttl = if tier.is_some() { self.endpoint.ttl } else { self.endpoint.ttl.min(NO_TIER_TTL) };
        asked.saturating_add(ttl)
    }

    /// A tier stands for as long again; that there is none does not.
    fn stale_until(&self, tier: &Option<Arc<Tier>>, asked: Nanos) -> Nanos {
        if tier.is_some() { asked.saturating_add(2 * self.endpoint.ttl) } else { asked }
    }
}

impl PartialEq for LookupRequest {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

// === impl TierServices ===

impl Default for TierServices {
    fn default() -> Self {
        Self::new()
    }
}

impl TierServices {
    /// # Panics
    ///
    /// The operating system has no randomness: nothing could be kept apart safely.
    #[must_use]
    pub fn new() -> Self {
        Self::patient(PATIENCE)
    }

    /// Requests wait for `patience`: for tests on a loaded machine.
    pub(crate) fn patient(patience: Duration) -> Self {
        TierServices(Arc::new(Inner {
            client: LookupClient::new(),
            patience,
            hasher: KeyedHasher::random(),
            cache: Cache::new(Config {
                capacity: Capacity::entries(CALLERS),
                failures: CALLERS,
                fetches: CALLERS,
                staleness: Staleness::WhileRevalidate,
                runtime: None,
            }),
            tiers: bounded(TIERS),
            services: Mutex::default(),
        }))
    }

    /// The request which tier `user` has, for whom the policy sends `body`.
    #[must_use]
    pub fn request(&self, endpoint: &Arc<Endpoint>, user: &str, body: String) -> LookupRequest {
        let hash = self.0.hasher.hash_list([&*endpoint.url, user, &body]);
        LookupRequest { endpoint: Arc::clone(endpoint), body: body.into(), hash }
    }

    /// What is remembered. Answers at once; something stale is to be followed by [`Self::refresh`].
    #[must_use]
    pub fn recall(&self, request: &LookupRequest, now: Nanos) -> Option<(Lookup, AnswerSource)> {
        self.0.cache.get(request, now).map(told)
    }

    /// Asks the service, once however many requests wait for it, and remembers the answer. Waits for 100 ms at most.
    pub async fn ask(&self, request: &LookupRequest, now: Nanos) -> (Lookup, AnswerSource) {
        let until = Instant::now() + self.0.patience;
        match self.0.cache.fetch(request, now, until, || self.clone().fetch(request.clone())).await {
            Ok(answer) => told(answer),
            Err(why) => {
                let failure = match why {
                    Unanswered::Late => LookupFailure::Late(self.0.patience),
                    Unanswered::Busy(most) => LookupFailure::Busy(most),
                    Unanswered::GivenUp => LookupFailure::Call("the call was given up".to_owned()),
                };
                (Lookup::Undecided(undecided(request, &failure)), AnswerSource::Fetched)
            }
        }
    }

    /// Fetches a new answer in the background, unless that is under way, or failed a moment ago.
    pub fn refresh(&self, request: &LookupRequest, now: Nanos) {
        self.0.cache.refresh(request, now, || self.clone().fetch(request.clone()));
    }

    async fn fetch(self, request: LookupRequest) -> Result<Option<Arc<Tier>>, cache::Failure> {
        let failed = |failure| cache::Failure { denial: undecided(&request, &failure), keep: Some(PAUSE) };
        self.call(&request).await.map_err(failed)
    }

    async fn call(&self, request: &LookupRequest) -> Result<Option<Arc<Tier>>, LookupFailure> {
        let Endpoint { url, uri, timeout, .. } = &*request.endpoint;
        let service = self.service(url);
        let call = async {
            // Half of it, so that whoever waits is told the reason.
            let permit = tokio::time::timeout(self.0.patience / 2, service.calls.acquire()).await;
            let Ok(Ok(_permit)) = permit else { return Err(LookupFailure::Busy(CALLS)) };
            self.0.client.ask(uri.clone(), request.body.clone()).await
        };
        let answer = tokio::time::timeout(*timeout, call).await.unwrap_or(Err(LookupFailure::Late(*timeout)));
        service.note(url, answer.as_ref().err());
        Ok(match answer? {
            TierAnswer::Tier { name, display_name } => Some(self.tier(&name, &display_name)),
            TierAnswer::None => None,
        })
    }

    fn tier(&self, name: &str, display_name: &str) -> Arc<Tier> {
        let key = self.0.hasher.hash_list([name, display_name]);
        let tier = || Ok::<_, std::convert::Infallible>(Arc::new(Tier::new(name, 0, display_name)));
        let Ok(tier) = self.0.tiers.get_or_insert_with(&key, tier);
        tier
    }

    fn service(&self, url: &Arc<str>) -> Arc<Service> {
        let mut services = self.0.services.lock();
        if services.len() >= SERVICES && !services.contains_key(url) {
            services.retain(|_, service| service.calls.available_permits() < CALLS);
        }
        Arc::clone(services.entry(Arc::clone(url)).or_insert_with(|| {
            Arc::new(Service { calls: Arc::new(Semaphore::new(CALLS)), failing: AtomicBool::new(false) })
        }))
    }
}

fn told(answer: cache::Answer<Option<Arc<Tier>>>) -> (Lookup, AnswerSource) {
    let lookup = match answer.value {
        Ok(Some(tier)) => Lookup::Tier(tier),
        Ok(None) => Lookup::NoTier,
        Err(denial) => Lookup::Undecided(denial),
    };
    (lookup, answer.source)
}

fn undecided(request: &LookupRequest, failure: &LookupFailure) -> Denial {
    Denial::new(Code::UnavailableTiers, "the caller's tier cannot be told")
        .detail(format!("tier lookup at {}: {failure}", request.endpoint.url))
}

// === impl Service ===

impl Service {
    /// Logs that the service began to fail, or is well again.
    fn note(&self, url: &str, failure: Option<&LookupFailure>) {
        if self.failing.swap(failure.is_some(), Ordering::Relaxed) == failure.is_some() {
            return;
        }
        match failure {
            Some(failure) => tracing::warn!(url, error = %failure, "the tier service fails"),
            None => tracing::info!(url, "the tier service is well again"),
        }
    }
}
