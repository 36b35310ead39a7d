//! Answers of somebody else that are remembered: the one cache of identities, access, tiers and keys.
//!
//! Whoever asks says what an answer is remembered by and how long it is good for them: `CacheKey`. The cache does the rest:
//!
//! - A fresh answer is a hit. Past its time it may be used for a while yet, and then it is called stale: `Staleness`.
//! - Failures are remembered for a while of their own (`Failure`), apart from the answers: a flood of them moves no answer out.
//! - One fetch serves all who ask the same. It goes on when nobody waits any more, and what it finds is there for the next.
//! - All of it is bounded: answers by number or weight, failures and fetches by number.
//!
//! A hit takes one look-up and allocates nothing.

mod flight;

use std::sync::Arc;
use std::time::Duration;

use quick_cache::sync::{Cache as Map, DefaultLifecycle};
use quick_cache::{UnitWeighter, Weighter};
use tokio::runtime::Handle;
use tokio::time::Instant;

pub(crate) use self::flight::Unanswered;

use self::flight::{Joined, SingleFlight};
use crate::clock::Nanos;
use crate::denial::{Class, Denial};
use crate::hash::Unhashed;

/// Where an answer comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AnswerSource {
    /// It was remembered. So is a failure that is not to be tried again yet.
    Hit,
    /// It was remembered, and is past its time.
    Stale,
    /// It was asked for now, by this request or by another one that asked the same.
    Fetched,
}

/// What is known of a question.
#[derive(Clone, Debug)]
pub struct Answer<V> {
    /// The answer; or why there is none, or none that is good for the one who asks.
    pub value: Result<V, Denial>,
    pub source: AnswerSource,
}

/// A question: what its answers are remembered by, and how long they are good for the one who asks.
pub(crate) trait CacheKey {
    type Value: Clone + Send + Sync + 'static;

    /// A hash of all that the answer depends on, which callers cannot choose.
    fn hash(&self) -> u128;

    /// Questions of which this is the same are answered by one fetch.
    fn flight(&self) -> u128 {
        self.hash()
    }

    /// Until when a `value` that was asked for at `fetched` is fresh.
    fn fresh_until(&self, value: &Self::Value, fetched: Nanos) -> Nanos;

    /// Until when such a `value` may be used although it is not fresh any more.
    fn stale_until(&self, value: &Self::Value, fetched: Nanos) -> Nanos;
}

/// When an answer past its time is used, until [`CacheKey::stale_until`] (RFC 5861).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Staleness {
    /// Where a new one cannot be had (`stale-if-error`), or not within `patience`.
    IfError { patience: Duration },
    /// At once (`stale-while-revalidate`): nobody waits, and whoever uses it calls [`Cache::refresh`].
    WhileRevalidate,
}

/// Why a fetch has no answer.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// An undecided one leaves the answer before as it is; any other takes its place.
    pub denial: Denial,
    /// How long nobody asks again, from when it was asked. `None`: it is told to those who wait for it, and not remembered.
    pub keep: Option<Duration>,
}

/// How many answers are remembered; those that were used least go first.
#[derive(Debug)]
pub(crate) struct Capacity<V> {
    /// About how many there are.
    entries: usize,
    /// What all of them may weigh.
    weight: u64,
    weigh: fn(&V) -> u64,
}

/// What a cache is like.
#[derive(Debug)]
pub(crate) struct Config<V> {
    pub capacity: Capacity<V>,
    /// How many failures are remembered.
    pub failures: usize,
    /// How many fetches may be under way, those that wait for their turn among them.
    pub fetches: usize,
    pub staleness: Staleness,
    /// Where fetches run. `None`: where they are asked for.
    pub runtime: Option<Handle>,
}

/// A bounded cache of answers `V`.
#[derive(Debug)]
pub(crate) struct Cache<V> {
    store: Arc<Remembered<V>>,
    fetches: SingleFlight<Result<V, Denial>>,
    staleness: Staleness,
    runtime: Option<Handle>,
}

/// A bounded map by hashes; when it is full those that were used least go.
pub(crate) type Bounded<T, W = UnitWeighter> = Map<u128, T, W, Unhashed, DefaultLifecycle<u128, T>>;

/// What is remembered.
#[derive(Debug)]
struct Remembered<V> {
    /// quick_cache rather than a plain map: bounded. Its hits cost as much as dashmap's.
    answers: Bounded<Entry<V>, Weight<V>>,
    /// And until when they are the answer.
    failures: Bounded<(Denial, Nanos)>,
}

#[derive(Clone, Debug)]
struct Entry<V> {
    value: V,
    /// When it was asked for.
    fetched: Nanos,
}

#[derive(Debug)]
struct Weight<V>(fn(&V) -> u64);

/// A map of at most this many.
pub(crate) fn bounded<T: Clone>(entries: usize) -> Bounded<T> {
    Map::with(entries, entries as u64, UnitWeighter, Unhashed::default(), DefaultLifecycle::default())
}

// === impl AnswerSource ===

impl AnswerSource {
    pub const ALL: &'static [AnswerSource] = &[AnswerSource::Hit, AnswerSource::Stale, AnswerSource::Fetched];

    /// As metrics and metadata name it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            AnswerSource::Hit => "hit",
            AnswerSource::Stale => "stale",
            AnswerSource::Fetched => "fetched",
        }
    }
}

// === impl Answer ===

impl<V> Answer<V> {
    /// What was asked for now.
    pub(crate) fn fetched(value: Result<V, Denial>) -> Self {
        Answer { value, source: AnswerSource::Fetched }
    }

    fn hit(value: V) -> Self {
        Answer { value: Ok(value), source: AnswerSource::Hit }
    }

    fn stale(value: V) -> Self {
        Answer { value: Ok(value), source: AnswerSource::Stale }
    }

    /// What stands in its stead, if it could not be told.
    fn or_stale(self, standing: impl FnOnce() -> Option<V>) -> Self {
        match &self.value {
            Err(denial) if denial.code.class() == Class::Undecided => standing().map_or(self, Answer::stale),
            _ => self,
        }
    }
}

// === impl Capacity ===

impl<V> Capacity<V> {
    /// At most this many.
    pub(crate) fn entries(most: usize) -> Self {
        Capacity { entries: most, weight: most as u64, weigh: |_| 1 }
    }

    /// As many as `weigh` no more than `most` together; about `usual` of them.
    pub(crate) fn weight(usual: usize, most: u64, weigh: fn(&V) -> u64) -> Self {
        Capacity { entries: usual, weight: most, weigh }
    }
}

// === impl Cache ===

impl<V: Clone + Send + Sync + 'static> Cache<V> {
    pub(crate) fn new(config: Config<V>) -> Self {
        let Config { capacity: Capacity { entries, weight, weigh }, failures, fetches, staleness, runtime } = config;
        let answers = Map::with(entries, weight, Weight(weigh), Unhashed::default(), DefaultLifecycle::default());
        let store = Arc::new(Remembered { answers, failures: bounded(failures) });
        Cache { store, fetches: SingleFlight::new(fetches), staleness, runtime }
    }

    /// What is remembered at `now`, if nothing has to be asked. Answers at once.
    pub(crate) fn get<K: CacheKey<Value = V>>(&self, key: &K, now: Nanos) -> Option<Answer<V>> {
        let hash = key.hash();
        match self.store.answers.get(&hash) {
            Some(entry) if entry.is_fresh(key, now) => Some(Answer::hit(entry.value)),
            Some(entry) if self.staleness == Staleness::WhileRevalidate && entry.is_usable(key, now) => {
                Some(Answer::stale(entry.value))
            }
            entry => {
                let failed = Answer { value: Err(self.store.failure(hash, now)?), source: AnswerSource::Hit };
                let standing = || entry.filter(|entry| entry.is_usable(key, now)).map(|entry| entry.value);
                Some(failed.or_stale(standing))
            }
        }
    }

    /// What is remembered, or else what `start` fetches: once however many ask, and on when they have left. It counts as
    /// asked for at `now`. Waits until `until`, and less where [`Staleness::IfError`] says so.
    ///
    /// # Errors
    ///
    /// No answer came in time, and none stands.
    pub(crate) async fn fetch<K, F>(
        &self,
        key: &K,
        now: Nanos,
        until: Instant,
        start: impl FnOnce() -> F,
    ) -> Result<Answer<V>, Unanswered>
    where
        K: CacheKey<Value = V>,
        F: Future<Output = Result<V, Failure>> + Send + 'static,
    {
        // Another request may have found out meanwhile.
        if let Some(answer) = self.get(key, now) {
            return Ok(answer);
        }
        let until = self.wait_until(key, now, until);
        let outcome = match self.join(key, now, start) {
            Ok(Joined::Known(answer)) => return Ok(answer.or_stale(|| self.standing(key, now))),
            Ok(Joined::Fetch(fetch)) => fetch.outcome(until).await,
            Err(unanswered) => Err(unanswered),
        };
        let standing = || self.standing(key, now);
        match outcome {
            Ok(value) => Ok(Answer::fetched(value).or_stale(standing)),
            Err(unanswered) => standing().map(Answer::stale).ok_or(unanswered),
        }
    }

    /// Has a new answer fetched in the background, unless that is under way, or failed a moment ago.
    pub(crate) fn refresh<K, F>(&self, key: &K, now: Nanos, start: impl FnOnce() -> F)
    where
        K: CacheKey<Value = V>,
        F: Future<Output = Result<V, Failure>> + Send + 'static,
    {
        if self.store.failure(key.hash(), now).is_none() {
            drop(self.join(key, now, start));
        }
    }

    /// Remembers what came of asking at `now`, and says what is to be said of it.
    pub(crate) fn settle<K: CacheKey<Value = V>>(&self, key: &K, outcome: Result<V, Failure>, now: Nanos) -> Answer<V> {
        let outcome = self.store.settle(key.hash(), outcome, now);
        Answer::fetched(outcome).or_stale(|| self.standing(key, now))
    }

    /// How long to wait, `until` at most: less with something to fall back on.
    pub(crate) fn wait_until<K: CacheKey<Value = V>>(&self, key: &K, now: Nanos, until: Instant) -> Instant {
        match self.staleness {
            Staleness::IfError { patience } if self.standing(key, now).is_some() => {
                Instant::now().checked_add(patience).map_or(until, |at| at.min(until))
            }
            _ => until,
        }
    }

    /// Remembers an answer that was asked for at `fetched`.
    pub(crate) fn insert(&self, hash: u128, value: V, fetched: Nanos) {
        self.store.learn(hash, value, fetched);
    }

    /// Remembers a failure of `now`.
    pub(crate) fn insert_failure(&self, hash: u128, failure: Failure, now: Nanos) {
        drop(self.store.settle(hash, Err(failure), now));
    }

    /// Forgets all. What is under way is remembered when it comes.
    pub(crate) fn clear(&self) {
        self.store.answers.clear();
        self.store.failures.clear();
    }

    /// How many answers are remembered, failures apart.
    pub(crate) fn len(&self) -> usize {
        self.store.answers.len()
    }

    fn join<K, F>(
        &self,
        key: &K,
        now: Nanos,
        start: impl FnOnce() -> F,
    ) -> Result<Joined<Answer<V>, Result<V, Denial>>, Unanswered>
    where
        K: CacheKey<Value = V>,
        F: Future<Output = Result<V, Failure>> + Send + 'static,
    {
        let runtime = match &self.runtime {
            Some(runtime) => runtime.clone(),
            None => Handle::try_current().map_err(|_| Unanswered::GivenUp)?,
        };
        let (store, hash) = (Arc::clone(&self.store), key.hash());
        let work = || {
            let fetch = start();
            async move { store.settle(hash, fetch.await, now) }
        };
        self.fetches.join(key.flight(), || self.known(key, now), work, &runtime)
    }

    /// What makes a fetch needless: a fresh answer, or a failure that is not to be tried again yet.
    fn known<K: CacheKey<Value = V>>(&self, key: &K, now: Nanos) -> Option<Answer<V>> {
        let hash = key.hash();
        match self.store.answers.get(&hash) {
            Some(entry) if entry.is_fresh(key, now) => Some(Answer::hit(entry.value)),
            _ => Some(Answer { value: Err(self.store.failure(hash, now)?), source: AnswerSource::Hit }),
        }
    }

    /// The last answer, if it may be used for want of a newer one.
    fn standing<K: CacheKey<Value = V>>(&self, key: &K, now: Nanos) -> Option<V> {
        let entry = self.store.answers.get(&key.hash())?;
        entry.is_usable(key, now).then_some(entry.value)
    }
}

#[cfg(test)]
impl<V: Clone + Send + Sync + 'static> Cache<V> {
    /// What the answers weigh.
    pub(crate) fn weight(&self) -> u64 {
        self.store.answers.weight()
    }

    /// How many failures are remembered.
    pub(crate) fn failures(&self) -> usize {
        self.store.failures.len()
    }

    /// Waits until no fetch for `key` is under way.
    pub(crate) async fn settled<K: CacheKey<Value = V>>(&self, key: &K, until: Instant) {
        if let Some(fetch) = self.fetches.under_way(key.flight()) {
            assert!(!matches!(fetch.outcome(until).await, Err(Unanswered::Late)));
        }
    }
}

// === impl Remembered ===

impl<V: Clone> Remembered<V> {
    /// Remembers what came of asking at `now`.
    fn settle(&self, hash: u128, outcome: Result<V, Failure>, now: Nanos) -> Result<V, Denial> {
        let Failure { denial, keep } = match outcome {
            Ok(value) => {
                self.learn(hash, value.clone(), now);
                return Ok(value);
            }
            Err(failure) => failure,
        };
        if let Some(keep) = keep {
            if denial.code.class() != Class::Undecided {
                self.answers.remove(&hash);
            }
            self.failures.insert(hash, (denial.clone(), now.saturating_add(keep)));
        }
        Err(denial)
    }

    fn learn(&self, hash: u128, value: V, fetched: Nanos) {
        // A fetch that took long may have been overtaken.
        if self.answers.get(&hash).is_none_or(|known| known.fetched <= fetched) {
            self.answers.insert(hash, Entry { value, fetched });
        }
        self.failures.remove(&hash);
    }

    /// Why nobody is to ask yet.
    fn failure(&self, hash: u128, now: Nanos) -> Option<Denial> {
        self.failures.get(&hash).filter(|(_, until)| now < *until).map(|(denial, _)| denial)
    }
}

// === impl Entry ===

impl<V> Entry<V> {
    fn is_fresh<K: CacheKey<Value = V>>(&self, key: &K, now: Nanos) -> bool {
        now < key.fresh_until(&self.value, self.fetched)
    }

    fn is_usable<K: CacheKey<Value = V>>(&self, key: &K, now: Nanos) -> bool {
        now < key.stale_until(&self.value, self.fetched)
    }
}

// === impl Weight ===

impl<V> Clone for Weight<V> {
    fn clone(&self) -> Self {
        Weight(self.0)
    }
}

impl<V> Weighter<u128, Entry<V>> for Weight<V> {
    fn weight(&self, _: &u128, entry: &Entry<V>) -> u64 {
        (self.0)(&entry.value)
    }
}

#[cfg(test)]
mod tests;
