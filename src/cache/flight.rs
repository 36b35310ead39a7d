//! One fetch for all who ask the same.

use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::hash::Unhashed;

/// Fetches under way, by what they ask for.
#[derive(Debug)]
pub(super) struct SingleFlight<T> {
    open: Arc<OpenFetches<T>>,
    /// How many there may be.
    most: usize,
}

/// A fetch under way, as one of those see it who wait for it.
#[derive(Clone, Debug)]
pub(super) struct Fetch<T>(watch::Receiver<Option<T>>);

/// What comes of asking for a fetch.
#[derive(Debug)]
pub(super) enum Joined<K, T> {
    /// There is no need of one any more.
    Known(K),
    Fetch(Fetch<T>),
}

/// Why whoever waited for a fetch has no outcome of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unanswered {
    /// It takes longer than they wait.
    Late,
    /// This many are under way, and there are to be no more.
    Busy(usize),
    /// Whoever was fetching has stopped.
    GivenUp,
}

type OpenFetches<T> = Mutex<HashMap<u128, Fetch<T>, Unhashed>>;

/// Takes a fetch off the list, however it ends.
struct Listed<T> {
    open: Arc<OpenFetches<T>>,
    key: u128,
}

// === impl SingleFlight ===

impl<T: Clone + Send + Sync + 'static> SingleFlight<T> {
    pub(super) fn new(most: usize) -> Self {
        SingleFlight { open: Arc::default(), most }
    }

    /// The fetch for `key`. If there is none, it is `start`ed on `runtime`, and goes on when nobody waits any more. What a fetch leaves
    /// behind when it ends is for `known` to find.
    ///
    /// # Errors
    ///
    /// Too many are under way.
    pub(super) fn join<K, F>(
        &self,
        key: u128,
        known: impl FnOnce() -> Option<K>,
        start: impl FnOnce() -> F,
        runtime: &Handle,
    ) -> Result<Joined<K, T>, Unanswered>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut open = self.open.lock();
        match open.get(&key) {
            Some(fetch) => return Ok(Joined::Fetch(fetch.clone())),
            // One may have ended since the caller has looked: it leaves the list after what it leaves behind.
            None if let Some(known) = known() => return Ok(Joined::Known(known)),
            None if open.len() >= self.most => return Err(Unanswered::Busy(self.most)),
            None => {}
        }
        let (outcome, receiver) = watch::channel(None);
        let fetch = Fetch(receiver);
        open.insert(key, fetch.clone());
        // A runtime that is shutting down drops what it is given at once, and then the list is taken again.
        drop(open);
        let (listed, work) = (Listed { open: Arc::clone(&self.open), key }, start());
        drop(runtime.spawn(async move {
            let result = work.await;
            drop(listed);
            // Whoever waited may have left.
            let _ = outcome.send(Some(result));
        }));
        Ok(Joined::Fetch(fetch))
    }

    /// The fetch for `key`, if there is one.
    #[cfg(test)]
    pub(super) fn under_way(&self, key: u128) -> Option<Fetch<T>> {
        self.open.lock().get(&key).cloned()
    }
}

// === impl Fetch ===

impl<T: Clone> Fetch<T> {
    /// Waits for its outcome, until `until`.
    pub(super) async fn outcome(mut self, until: Instant) -> Result<T, Unanswered> {
        match timeout_at(until, self.0.wait_for(Option::is_some)).await {
            Err(_) => Err(Unanswered::Late),
            Ok(told) => told.ok().and_then(|outcome| outcome.clone()).ok_or(Unanswered::GivenUp),
        }
    }
}

// === impl Listed ===

impl<T> Drop for Listed<T> {
    fn drop(&mut self) {
        self.open.lock().remove(&self.key);
    }
}
