//! The ports: what is bound, who answers there, and how that ends.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::health::PATIENCE;
use crate::clock::Clock;
use crate::listen::admin::{self, AdminPages};
use crate::listen::http::{self, Pages};
use crate::listen::{Acceptor, Services, Workers, bind};
use crate::metrics::Port;
use crate::settings::{DrainSettings, ListenSettings};

/// The sockets that are listened on.
pub(super) struct Sockets {
    pub(super) grpc: Socket,
    pub(super) http: Socket,
    pub(super) admin: Option<Socket>,
}

/// A socket, and where it is: port 0 has become one.
pub(super) struct Socket {
    pub(super) listener: TcpListener,
    pub(super) address: SocketAddr,
}

/// What answers gRPC.
pub(super) struct Grpc {
    pub(super) acceptor: Acceptor,
    pub(super) workers: Workers,
    stop: watch::Sender<bool>,
}

/// What answers HTTP, until all else has stopped: probes ask while requests are drained.
pub(super) struct PageServers {
    served: JoinSet<io::Result<()>>,
    close: watch::Sender<bool>,
}

// === impl Sockets ===

impl Sockets {
    /// # Errors
    ///
    /// An address is in use, or not ours; the message says which.
    pub(super) fn bind(settings: &ListenSettings) -> io::Result<Self> {
        let (grpc, http) = (Socket::bind(settings.grpc)?, Socket::bind(settings.http)?);
        Ok(Sockets { grpc, http, admin: settings.admin.map(Socket::bind).transpose()? })
    }
}

// === impl Socket ===

impl Socket {
    fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = bind(address)?;
        let address = listener.local_addr()?;
        Ok(Socket { listener, address })
    }
}

// === impl Grpc ===

impl Grpc {
    /// Starts `workers` threads. Nothing is accepted for them yet.
    ///
    /// # Errors
    ///
    /// The operating system gives no thread, or the listener cannot be used.
    pub(super) fn start(listener: TcpListener, services: &Services, workers: usize) -> io::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let workers = Workers::start(workers, services, &stopped)?;
        let acceptor = Workers::acceptor(listener, services.ext_authz.metrics.ports.clone())?;
        Ok(Grpc { acceptor, workers, stop })
    }

    /// Serves on for a moment, and then what is in flight.
    pub(super) async fn drain(mut self, settings: DrainSettings) {
        // Gateways need a moment to notice; whom they still send is served.
        let _ = timeout(settings.delay, self.workers.accept(&mut self.acceptor)).await;
        drop(self.acceptor);
        // The receivers live in the workers; when none is left, there is nothing to stop.
        let _ = self.stop.send(true);
        join(self.workers, settings.timeout).await;
    }
}

/// Waits for the workers, but not for ever: a stream that never ends must not keep the process.
async fn join(workers: Workers, patience: Duration) {
    let joined = tokio::task::spawn_blocking(|| workers.join());
    match timeout(patience, joined).await {
        Ok(_) => tracing::info!("stopped"),
        Err(_) => tracing::warn!("requests were still in flight after --drain-timeout"),
    }
}

// === impl PageServers ===

impl PageServers {
    /// Serves `pages`, and those of the admin port where there is one.
    pub(super) fn start(http: TcpListener, admin: Option<Socket>, pages: Pages, clock: Clock) -> Self {
        let ports = pages.metrics.ports.clone();
        let (close, closed) = watch::channel(false);
        let mut served = JoinSet::new();
        if let Some(Socket { listener, address }) = admin {
            let (gate, metrics) = (Arc::clone(&pages.gate), Arc::clone(&pages.metrics));
            let router = admin::router(AdminPages { gate, metrics, clock }, address);
            served.spawn(http::serve(listener, Port::Admin, router, ports.clone(), closed.clone()));
        }
        served.spawn(http::serve(http, Port::Http, http::router(pages), ports, closed));
        PageServers { served, close }
    }

    /// Ends them. Whoever is still reading a page has no claim on the process.
    pub(super) async fn close(self) {
        let _ = self.close.send(true);
        let _ = timeout(PATIENCE, self.served.join_all()).await;
    }
}
