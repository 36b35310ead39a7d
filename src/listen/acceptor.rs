//! A listening socket with a bound on its connections, for both servers.

use std::io;
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::throttle::Throttle;

/// How long accepting pauses when the operating system gives no connection: mostly there are too many open files, and
/// waiting lets some close.
const PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections, each with its place among the allowed ones.
#[derive(Debug)]
pub struct Acceptor {
    listener: TcpListener,
    places: Arc<Semaphore>,
    refusals: Throttle,
}

// === impl Acceptor ===

impl Acceptor {
    /// At most `places` connections are open at one time; more are closed as they come.
    ///
    /// # Errors
    ///
    /// The listener cannot be used by this runtime.
    pub fn new(listener: StdListener, places: usize) -> io::Result<Self> {
        let listener = TcpListener::from_std(listener)?;
        Ok(Acceptor { listener, places: Arc::new(Semaphore::new(places)), refusals: Throttle::default() })
    }

    /// The next connection. Dropping the future loses none.
    pub async fn accept(&mut self) -> (TcpStream, OwnedSemaphorePermit) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => match Arc::clone(&self.places).try_acquire_owned() {
                    Ok(place) => return (stream, place),
                    Err(_) => self.refused("there are too many"),
                },
                Err(error) => {
                    self.refused(&error.to_string());
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Tells that a connection was refused.
    pub fn refused(&mut self, why: &str) {
        if let Some(connections) = self.refusals.count(Instant::now()) {
            tracing::warn!(connections, why, "connections were refused");
        }
    }

    /// Waits until none of `places` connections is open; for a listener that accepts no more.
    pub async fn closed(self, places: usize) {
        let Acceptor { listener, places: taken, .. } = self;
        drop(listener);
        // Nobody closes the semaphore.
        let _ = taken.acquire_many(u32::try_from(places).unwrap_or(u32::MAX)).await;
    }
}
