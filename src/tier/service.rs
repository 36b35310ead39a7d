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
use hyper::Uri;
use hyper::body::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use super::Tier;
use super::lookup::{Answer, Caller, Failure};
use crate::clock::Nanos;
use crate::denial::{Code, Denial};
use crate::hash::{KeyedHasher, Remembered, remember};

/// Where tiers are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// As the policy spells it.
    pub url: Arc<str>,
    uri: Uri,
    /// How long an answer is remembered.
    ttl: Duration,
    /// How long a call may take.
    timeout: Duration,
}

/// A question to a service, on behalf of one caller.
#[derive(Clone, Debug)]
pub struct Question {
    endpoint: Arc<Endpoint>,
    body: Bytes,
    /// Of url, user and body.
    key: u128,
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

/// How an answer was come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    Fresh,
    /// Past its time: a new one should be fetched.
    Stale,
}

/// Asks tier services, and remembers what they answer. Clones share it all.
#[derive(Clone, Debug)]
pub struct TierServices(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    caller: Caller,
    /// How long a request waits.
    patience: Duration,
    keys: KeyedHasher,
    slots: Remembered<Arc<Slot>>,
    /// The tiers that were answered, by name and display name: callers are many, tiers few.
    tiers: Remembered<Arc<Tier>>,
    services: Mutex<HashMap<Arc<str>, Arc<Service>>>,
}

/// One service, by its URL.
#[derive(Debug)]
struct Service {
    calls: Arc<Semaphore>,
    /// Whether the last call failed: only changes are logged.
    failing: AtomicBool,
}

/// What is known of one question. No lock of it is held across an await.
#[derive(Debug, Default)]
struct Slot(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The tier, or none, and when it was asked for.
    answer: Option<(Option<Arc<Tier>>, Nanos)>,
    /// Why the last call failed, and when the next may be made.
    failed: Option<(Denial, Nanos)>,
    /// The call in flight, for all who wait for it.
    call: Option<watch::Receiver<Option<Lookup>>>,
}

/// How long an answer is remembered when the policy says nothing shorter: what the seeds' policies say.
const TTL: Duration = Duration::from_secs(300);
/// How long "no tier" is: a new user is put into a group after their first request, and tries again.
const NO_TIER_TTL: Duration = Duration::from_secs(10);
/// How long a request waits. Shorter than the gate's own bound, so that the reason is told.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long a call may take at most. Longer than a request waits: the answer of a slow service is there for the next.
const TIMEOUT: Duration = Duration::from_secs(1);
/// How long after the start of a call that failed there is no other for the same caller.
const PAUSE: Duration = Duration::from_secs(1);
/// Calls in flight to one service.
const CALLS: usize = 64;
/// Callers whose tier is remembered; each takes about 300 bytes.
const CALLERS: usize = 100_000;
/// Different tiers that are remembered.
const TIERS: usize = 1_000;
/// Services whose state is kept, of policies that are gone too.
const SERVICES: usize = 64;

// === impl Endpoint ===

impl Endpoint {
    /// `ttl` and `timeout` are upper bounds: an answer is remembered for 300 s and a call takes 1 s, or less. No `timeout`
    /// or one of zero is the same.
    ///
    /// # Errors
    ///
    /// What is called cannot be told from `url`, in words that follow it.
    pub fn new(url: &str, ttl: Option<Duration>, timeout: Option<Duration>) -> Result<Self, &'static str> {
        if url.contains(['{', '}']) {
            return Err("has a placeholder");
        }
        let uri: Uri = url.parse().map_err(|_| "is no URL")?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
            return Err("is no http or https URL");
        }
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err("holds credentials");
        }
        let timeout = timeout.filter(|timeout| !timeout.is_zero());
        Ok(Endpoint {
            url: url.into(),
            uri,
            ttl: ttl.map_or(TTL, |ttl| ttl.min(TTL)),
            timeout: timeout.map_or(TIMEOUT, |timeout| timeout.min(TIMEOUT)),
        })
    }
}

// === impl Question ===

impl PartialEq for Question {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
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
            caller: Caller::new(),
            patience,
            keys: KeyedHasher::random(),
            slots: remember(CALLERS),
            tiers: remember(TIERS),
            services: Mutex::default(),
        }))
    }

    /// The question which tier `user` has, for whom the policy sends `body`.
    #[must_use]
    pub fn question(&self, endpoint: &Arc<Endpoint>, user: &str, body: String) -> Question {
        let key = self.0.keys.hash_list([&*endpoint.url, user, &body]);
        Question { endpoint: Arc::clone(endpoint), body: body.into(), key }
    }

    /// What is remembered. Answers at once; something stale is to be followed by [`Self::refresh`].
    #[must_use]
    pub fn recall(&self, question: &Question, now: Nanos) -> Option<(Lookup, Age)> {
        self.0.slots.get(&question.key)?.0.lock().recall(&question.endpoint, now)
    }

    /// Asks the service, once however many requests wait for it, and remembers the answer. Waits for 100 ms at most.
    pub async fn ask(&self, question: &Question, now: Nanos) -> Lookup {
        let mut call = {
            let slot = self.slot(question);
            let mut state = slot.0.lock();
            // Another request may have asked meanwhile.
            if let Some((lookup, _)) = state.recall(&question.endpoint, now) {
                return lookup;
            }
            match state.in_flight() {
                Some(call) => call,
                None => self.start(&slot, &mut state, question, now),
            }
        };
        let told = tokio::time::timeout(self.0.patience, call.wait_for(Option::is_some)).await;
        let lookup = match told {
            Ok(Ok(lookup)) => lookup.clone(),
            // The worker that made the call has stopped.
            Ok(Err(_)) => None,
            Err(_) => return Lookup::Undecided(undecided(question, &Failure::Late(self.0.patience))),
        };
        lookup.unwrap_or_else(|| {
            Lookup::Undecided(undecided(question, &Failure::Call("the call was given up".to_owned())))
        })
    }

    /// Fetches a new answer in the background, unless that is under way, or failed a moment ago.
    pub fn refresh(&self, question: &Question, now: Nanos) {
        let slot = self.slot(question);
        let mut state = slot.0.lock();
        if state.in_flight().is_none() && state.failure(now).is_none() {
            drop(self.start(&slot, &mut state, question, now));
        }
    }

    fn slot(&self, question: &Question) -> Arc<Slot> {
        let slot = self.0.slots.get_or_insert_with(&question.key, || Ok::<_, std::convert::Infallible>(Arc::default()));
        let Ok(slot) = slot;
        slot
    }

    /// Starts a call that goes on when those who wait for it have left.
    fn start(
        &self,
        slot: &Arc<Slot>,
        state: &mut State,
        question: &Question,
        now: Nanos,
    ) -> watch::Receiver<Option<Lookup>> {
        let (teller, call) = watch::channel(None);
        state.call = Some(call.clone());
        let (services, slot, question) = (self.clone(), Arc::clone(slot), question.clone());
        tokio::spawn(async move {
            let answer = services.call(&question).await;
            let lookup = slot.0.lock().learn(answer.map_err(|failure| undecided(&question, &failure)), now);
            // Whoever waited may have left.
            let _ = teller.send(Some(lookup));
        });
        call
    }

    async fn call(&self, question: &Question) -> Result<Option<Arc<Tier>>, Failure> {
        let Endpoint { url, uri, timeout, .. } = &*question.endpoint;
        let service = self.service(url);
        let call = async {
            // Half of it, so that whoever waits is told the reason.
            let permit = tokio::time::timeout(self.0.patience / 2, service.calls.acquire()).await;
            let Ok(Ok(_permit)) = permit else { return Err(Failure::Busy(CALLS)) };
            self.0.caller.ask(uri.clone(), question.body.clone()).await
        };
        let answer = tokio::time::timeout(*timeout, call).await.unwrap_or(Err(Failure::Late(*timeout)));
        service.note(url, answer.as_ref().err());
        Ok(match answer? {
            Answer::Tier { name, display_name } => Some(self.tier(&name, &display_name)),
            Answer::None => None,
        })
    }

    fn tier(&self, name: &str, display_name: &str) -> Arc<Tier> {
        let key = self.0.keys.hash_list([name, display_name]);
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

fn undecided(question: &Question, failure: &Failure) -> Denial {
    Denial::new(Code::UnavailableTiers, "the caller's tier cannot be told")
        .detail(format!("tier lookup at {}: {failure}", question.endpoint.url))
}

// === impl Service ===

impl Service {
    /// Logs that the service began to fail, or is well again.
    fn note(&self, url: &str, failure: Option<&Failure>) {
        if self.failing.swap(failure.is_some(), Ordering::Relaxed) == failure.is_some() {
            return;
        }
        match failure {
            Some(failure) => tracing::warn!(url, error = %failure, "the tier service fails"),
            None => tracing::info!(url, "the tier service is well again"),
        }
    }
}

// === impl State ===

impl State {
    fn recall(&self, endpoint: &Endpoint, now: Nanos) -> Option<(Lookup, Age)> {
        let answer = self.answer.as_ref().and_then(|(tier, since)| {
            let within = |ttl: Duration| now < since.saturating_add(ttl);
            match tier {
                Some(tier) if within(endpoint.ttl) => Some((Lookup::Tier(Arc::clone(tier)), Age::Fresh)),
                Some(tier) if within(2 * endpoint.ttl) => Some((Lookup::Tier(Arc::clone(tier)), Age::Stale)),
                None if within(endpoint.ttl.min(NO_TIER_TTL)) => Some((Lookup::NoTier, Age::Fresh)),
                _ => None,
            }
        });
        answer.or_else(|| Some((Lookup::Undecided(self.failure(now)?.clone()), Age::Fresh)))
    }

    /// Why there is to be no call yet.
    fn failure(&self, now: Nanos) -> Option<&Denial> {
        self.failed.as_ref().filter(|(_, until)| now < *until).map(|(denial, _)| denial)
    }

    /// The call in flight. One whose worker has stopped tells nobody anything.
    fn in_flight(&self) -> Option<watch::Receiver<Option<Lookup>>> {
        self.call.clone().filter(|call| call.has_changed().is_ok())
    }

    /// Remembers what a call that began at `now` has told. A failure leaves the answer before as it is.
    fn learn(&mut self, answer: Result<Option<Arc<Tier>>, Denial>, now: Nanos) -> Lookup {
        self.call = None;
        match answer {
            Ok(tier) => {
                self.answer = Some((tier.clone(), now));
                self.failed = None;
                tier.map_or(Lookup::NoTier, Lookup::Tier)
            }
            Err(denial) => {
                self.failed = Some((denial.clone(), now.saturating_add(PAUSE)));
                Lookup::Undecided(denial)
            }
        }
    }
}
