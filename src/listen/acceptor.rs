//! A listening socket with bounds on its connections, for every port.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};

use super::places::{ConnectionBounds, ConnectionPlace, Full, Places};
use crate::metrics::{Port, PortMetrics, Refusal};
use crate::throttle::Throttle;

/// How long accepting pauses when the operating system gives no connection: mostly there are too many open files, and
/// waiting lets some close.
const PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections, each with its place among the allowed ones.
#[derive(Debug)]
pub struct Acceptor {
    listener: TcpListener,
    port: Port,
    places: Arc<Places>,
    metrics: PortMetrics,
    refused: Throttle,
    displaced: Throttle,
}

// === impl Acceptor ===

impl Acceptor {
    /// More connections than `bounds` allow are closed as they come, unless idle ones can go for them.
    ///
    /// # Errors
    ///
    /// The listener cannot be used by this runtime.
    pub fn new(listener: StdListener, port: Port, bounds: ConnectionBounds, metrics: PortMetrics) -> io::Result<Self> {
        let listener = TcpListener::from_std(listener)?;
        let (places, refused, displaced) = (Arc::new(Places::new(bounds)), Throttle::default(), Throttle::default());
        Ok(Acceptor { listener, port, places, metrics, refused, displaced })
    }

    /// The next connection. Dropping the future loses none.
    pub async fn accept(&mut self) -> (TcpStream, ConnectionPlace) {
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    if let Some(place) = self.place(peer) {
                        return (stream, place);
                    }
                }
                Err(error) => {
                    self.refused(Refusal::System, &error.to_string());
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn place(&mut self, peer: SocketAddr) -> Option<ConnectionPlace> {
        match self.places.take(peer.ip()) {
            Ok((place, displaced)) => {
                if displaced {
                    self.displaced();
                }
                Some(place)
            }
            Err(full) => {
                let reason = match full {
                    Full::All => Refusal::Full,
                    Full::OfOne => Refusal::Address,
                };
                self.refused(reason, &full.to_string());
                None
            }
        }
    }

    /// Tells that a connection was refused.
    pub fn refused(&mut self, reason: Refusal, why: &str) {
        self.metrics.refused(self.port, reason);
        if let Some(connections) = self.refused.count(Instant::now()) {
            tracing::warn!(port = self.port.as_str(), connections, why, "connections were refused");
        }
    }

    fn displaced(&mut self) {
        self.metrics.displaced(self.port);
        if let Some(connections) = self.displaced.count(Instant::now()) {
            tracing::warn!(port = self.port.as_str(), connections, "idle connections were closed for new ones");
        }
    }
}
