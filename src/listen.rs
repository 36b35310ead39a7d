//! Sockets: gRPC for the gateway, on one single-threaded runtime per worker; HTTP for people and probes.
//!
//! A current-thread runtime per worker costs 30-40 % less CPU than one multi-threaded runtime: answers of a connection
//! are written together. Connections are handed to the workers in turn, so that a gateway's few are spread evenly.

mod acceptor;
pub mod admin;
mod connection;
pub mod ext_authz;
pub mod http;
pub mod rate_limit;
mod throttle;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener, TcpStream as StdStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use envoy_types::pb::envoy::service::auth::v3::authorization_server::AuthorizationServer;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_server::RateLimitServiceServer;
use socket2::{Domain, Socket, Type};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic_health::server::{HealthReporter, HealthService};

pub use self::acceptor::Acceptor;
use self::connection::Connection;
use self::ext_authz::ExtAuthz;
use self::rate_limit::RateLimit;

/// A CheckRequest of Envoy is a few KiB; more than this is an attack or a misconfigured body limit. What arrives and is not
/// read yet is bounded by HTTP/2's windows: hyper's 1 MiB for each connection.
const MAX_MESSAGE: usize = 1024 * 1024;
/// How long a call may take, its message included: without a bound, one that is never finished would be kept as long as its
/// connection. The caller's own deadline (`grpc-timeout`) holds where it is shorter. An answer that is a stream is
/// not bounded by it once it began.
const MAX_CALL: Duration = Duration::from_secs(5);
/// Each stream is one request that waits. Envoy's own default bound is the same; tonic's is none.
const MAX_STREAMS: u32 = 1024;
/// Of a call's own headers, which are Envoy's and few: those of the request it asks about are in the message.
const MAX_HEADERS: u32 = 16 * 1024;
/// hyper's guards against rapid reset (CVE-2023-44487), of streams that the peer resets before they are looked at, and of
/// those that we reset because of the peer's faults. Beyond them the connection is closed. tonic would switch the second off.
/// The peer is a gateway that hands its callers' resets on over a connection that all of them share: the bound is above the
/// 500 that Envoy takes from one caller, where the usual 20 let one caller break off the calls of the others.
const MAX_PENDING_RESETS: usize = 512;
const MAX_LOCAL_RESETS: usize = 1024;
/// A connection is asked to go (GOAWAY) when it is this old, so that gateways spread over new replicas; what is in flight
/// after the grace is broken off. Each worker's age differs by up to a tenth, so that not all of them close at once.
const MAX_AGE: Duration = Duration::from_secs(300);
const AGE_GRACE: Duration = Duration::from_secs(30);
/// Connections at one time. A gateway has a few for each of its threads; far more is an attack, and costs memory. More wait
/// for nothing: they are closed as they come. (The kernel holds up to 128 that were not accepted yet, as std asks it to.)
const MAX_CONNECTIONS: usize = 4096;
/// How often a peer that says nothing is pinged, and how long it has to answer.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));
/// Evaluating an expression recurses; debug builds need more than the 2 MiB that threads get.
pub const STACK: usize = 8 * 1024 * 1024;
/// Connections that wait for a worker.
const QUEUE: usize = 128;

/// The services that a worker serves.
#[derive(Clone)]
pub struct Services {
    pub ext_authz: Arc<ExtAuthz>,
    pub rate_limit: Arc<RateLimit>,
    pub health: HealthReporter,
}

/// A connection on its way to a worker, with its place among the allowed ones.
type Accepted = (StdStream, OwnedSemaphorePermit);

/// One thread that answers gRPC.
struct Worker {
    runtime: Handle,
    connections: mpsc::Sender<Accepted>,
    thread: JoinHandle<()>,
}

/// The workers of the process.
pub struct Workers(Vec<Worker>);

/// Binds `address`; `[::]` is for IPv4 too, whatever the host's default, and for IPv4 alone where the host has no IPv6.
///
/// # Errors
///
/// The address is in use, or not ours; the message says which.
pub fn bind(address: SocketAddr) -> io::Result<StdListener> {
    let everywhere = address.is_ipv6() && address.ip().is_unspecified();
    let bound = match everywhere {
        true => listen_on_both(address),
        false => StdListener::bind(address),
    };
    let bound = bound.or_else(|error| {
        if !everywhere || error.raw_os_error() != Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error()) {
            return Err(error);
        }
        tracing::warn!(%address, "there is no IPv6 here; listening for IPv4 alone");
        StdListener::bind((Ipv4Addr::UNSPECIFIED, address.port()))
    });
    let listener =
        bound.map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}")))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn listen_on_both(address: SocketAddr) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
    socket.set_only_v6(false)?;
    // As the standard library does.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Connections that wait to be accepted; the kernel bounds it further.
const BACKLOG: i32 = 4_096;

// === impl Workers ===

impl Workers {
    /// Starts `count` workers. They stop, when `stop` changes, after what is in flight is answered.
    ///
    /// # Errors
    ///
    /// The operating system gives no thread.
    pub fn start(count: usize, services: &Services, stop: &watch::Receiver<bool>) -> io::Result<Self> {
        let worker = |number| Worker::start(number, services.clone(), stop.clone());
        (0..count.max(1)).map(worker).collect::<io::Result<_>>().map(Workers)
    }

    /// Connections for the workers, bounded in their number.
    ///
    /// # Errors
    ///
    /// The listener cannot be used by this runtime.
    pub fn acceptor(listener: StdListener) -> io::Result<Acceptor> {
        // A connection is an open file; half of them is for the pages, the manifests and whatever else.
        Acceptor::new(listener, MAX_CONNECTIONS.min(crate::process::open_files() / 2))
    }

    /// Accepts connections, and hands them to the workers in turn, until the future is dropped.
    pub async fn accept(&self, acceptor: &mut Acceptor) {
        let mut turn = 0_usize;
        loop {
            let (stream, place) = acceptor.accept().await;
            let worker = self.0.get(turn % self.0.len().max(1));
            turn = turn.wrapping_add(1);
            // A worker whose queue is full is stuck: the connection is closed, and the gateway tries again.
            let handed = stream
                .into_std()
                .is_ok_and(|stream| worker.is_some_and(|worker| worker.connections.try_send((stream, place)).is_ok()));
            if !handed {
                acceptor.refused("their worker does not take any");
            }
        }
    }

    /// Whether every worker runs a task within `patience`.
    pub async fn alive(&self, patience: Duration) -> bool {
        let mut answers = Vec::new();
        for worker in &self.0 {
            let (send, receive) = oneshot::channel();
            worker.runtime.spawn(async move { send.send(()) });
            answers.push(receive);
        }
        let all = async {
            for answer in answers {
                if answer.await.is_err() {
                    return false;
                }
            }
            true
        };
        tokio::time::timeout(patience, all).await.unwrap_or(false)
    }

    /// Waits for the workers to end.
    pub fn join(self) {
        for worker in self.0 {
            drop(worker.connections);
            if worker.thread.join().is_err() {
                tracing::error!("a worker panicked");
            }
        }
    }
}

// === impl Worker ===

impl Worker {
    fn start(number: usize, services: Services, mut stop: watch::Receiver<bool>) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (connections, incoming) = mpsc::channel::<Accepted>(QUEUE);
        let serve = move || {
            // Of 16 workers, each a different part of a tenth of the age.
            let age = MAX_AGE + MAX_AGE / 160 * u32::try_from(number % 16).unwrap_or(0);
            let incoming = ReceiverStream::new(incoming).map(move |(stream, place)| {
                stream.set_nodelay(true)?;
                Ok(Connection::new(TcpStream::from_std(stream)?, place, age + AGE_GRACE))
            });
            let stopped = async move {
                // An error means that the sender is gone, which is a stop too.
                let _ = stop.changed().await;
            };
            let ended = runtime.block_on(server(services, incoming, age, stopped));
            if let Err(error) = ended {
                tracing::error!(%error, "a worker ended");
            }
        };
        let thread = std::thread::Builder::new().name(format!("worker-{number}")).stack_size(STACK).spawn(serve)?;
        Ok(Worker { runtime: handle, connections, thread })
    }
}

async fn server(
    services: Services,
    incoming: impl tokio_stream::Stream<Item = io::Result<Connection>>,
    age: Duration,
    stopped: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let health =
        tonic_health::pb::health_server::HealthServer::new(HealthService::from_health_reporter(services.health));
    let authorization = AuthorizationServer::from_arc(services.ext_authz).max_decoding_message_size(MAX_MESSAGE);
    let rate_limit = RateLimitServiceServer::from_arc(services.rate_limit).max_decoding_message_size(MAX_MESSAGE);
    tonic::transport::Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .http2_max_header_list_size(MAX_HEADERS)
        .http2_max_pending_accept_reset_streams(Some(MAX_PENDING_RESETS))
        .http2_max_local_error_reset_streams(Some(MAX_LOCAL_RESETS))
        .timeout(MAX_CALL)
        // Without tonic's own grace: with it, 0.14 breaks the connection off and never asks it to go. `Connection` ends it.
        .max_connection_age(age)
        .http2_keepalive_interval(Some(KEEPALIVE.0))
        .http2_keepalive_timeout(Some(KEEPALIVE.1))
        .add_service(health)
        .add_service(authorization)
        .add_service(rate_limit)
        .serve_with_incoming_shutdown(incoming, stopped)
        .await
}

#[cfg(test)]
mod tests;
