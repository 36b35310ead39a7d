//! Calls in flight: one for all who ask the same.

use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::ApiServer;
use crate::denial::{Code, Denial};
use crate::hash::Unhashed;

/// How long a request that has something to fall back on waits for something better.
pub(crate) const PATIENCE: Duration = Duration::from_millis(50);
/// Different questions in flight, those that wait for their turn among them. More are answered "undecided" at once.
const FLIGHTS: usize = 4_096;

type Outcome<T> = Result<T, Denial>;
type Landing<T> = watch::Receiver<Option<Outcome<T>>>;
type InFlight<T> = Mutex<HashMap<u128, Landing<T>, Unhashed>>;

/// Calls in flight, by what they ask.
#[derive(Debug)]
pub(crate) struct Flights<T>(Arc<InFlight<T>>);

/// Takes a flight off the list, however it ends.
struct OffTheList<T> {
    flights: Arc<InFlight<T>>,
    key: u128,
}

// === impl Flights ===

impl<T> Clone for Flights<T> {
    fn clone(&self) -> Self {
        Flights(Arc::clone(&self.0))
    }
}

impl<T: Clone + Send + Sync + 'static> Flights<T> {
    pub(crate) fn new() -> Self {
        Flights(Arc::default())
    }

    /// The outcome of the flight of `key`, which is `start`ed on the thread of `server` if there is none, and goes on when nobody
    /// waits any more. What a flight leaves behind when it ends is for `recall` to find. Waits until `until`.
    pub(crate) async fn join<F>(
        &self,
        key: u128,
        (server, until): (&ApiServer, Instant),
        recall: impl FnOnce() -> Option<T>,
        start: impl FnOnce() -> F,
    ) -> Outcome<T>
    where
        F: Future<Output = Outcome<T>> + Send + 'static,
    {
        let mut landing = {
            let mut flights = self.0.lock();
            match flights.get(&key) {
                Some(landing) => landing.clone(),
                // One may have ended since the caller has looked: it leaves the list after what it leaves behind.
                None if let Some(known) = recall() => return Ok(known),
                None if flights.len() >= FLIGHTS => return Err(busy()),
                None => {
                    let (teller, landing) = watch::channel(None);
                    flights.insert(key, landing.clone());
                    let (flight, listed) = (start(), OffTheList { flights: Arc::clone(&self.0), key });
                    server.spawn(async move {
                        let outcome = flight.await;
                        drop(listed);
                        // Whoever waited may have left.
                        let _ = teller.send(Some(outcome));
                    });
                    landing
                }
            }
        };
        match timeout_at(until, landing.wait_for(Option::is_some)).await {
            Err(_) => Err(late()),
            Ok(told) => told.ok().and_then(|outcome| outcome.clone()).unwrap_or_else(|| Err(given_up())),
        }
    }
}

impl<T> Drop for OffTheList<T> {
    fn drop(&mut self) {
        self.flights.lock().remove(&self.key);
    }
}

fn late() -> Denial {
    Denial::new(Code::UnavailableDeadline, "the API server could not be asked in time")
}

fn busy() -> Denial {
    Denial::new(Code::UnavailableApiServer, "the API server cannot be asked now")
        .detail(format!("{FLIGHTS} questions wait for it"))
}

fn given_up() -> Denial {
    Denial::new(Code::UnavailableInternal, "the API server could not be asked")
}
