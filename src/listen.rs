//! Sockets: gRPC for the gateway, on one single-threaded runtime per worker; HTTP for people and probes.
//!
//! A current-thread runtime per worker costs 30-40 % less CPU than one multi-threaded runtime: answers of a connection
//! are written together. Connections are handed to the workers in turn, so that a gateway's few are spread evenly.

mod acceptor;
pub mod access_log;
pub mod admin;
mod connection;
pub mod ext_authz;
pub mod http;
mod places;
pub mod rate_limit;
pub mod refusals;
mod unfinished;

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
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_stream::StreamExt;
use tonic::server::NamedService;
use tonic::transport::server::Router;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

pub use self::acceptor::Acceptor;
use self::access_log::AccessLog;
use self::connection::Connection;
use self::ext_authz::ExtAuthz;
use self::places::{ConnectionBounds, ConnectionPlace};
use self::rate_limit::RateLimit;
use self::unfinished::Unfinished;
use crate::metrics::{Port, PortMetrics, Refusal};
use crate::usage::Channel;

/// A CheckRequest of Envoy is a few KiB, and with all the headers that Envoy takes (60 KiB) about 70; more than this is an
/// attack or a misconfigured body limit.
const MAX_MESSAGE: usize = 256 * 1024;
/// Of all messages of calls together that are not whole, and again of all access logs, of which each stream counts as a call: some 2,000
/// that say nothing. The allocator takes up to twice as much. A thousand Checks of 4 KiB that all are in
/// pieces at once take 16 MiB of it, as each counts for its call too; Envoy sends them whole, and then they take nothing.
const MAX_UNFINISHED: usize = 24 * 1024 * 1024;
/// Of what arrives and is not read yet (HTTP/2's windows), of one call: most messages come at once.
const STREAM_WINDOW: u32 = 64 * 1024;
/// And of one connection: hyper's default, written down. Half of it is what h2 lets small pieces take up before it ends the
/// connection, 256 bytes each; a peer that has to wait for the window sends such pieces, and one of every call has to fit.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
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
/// for nothing: they are closed as they come, unless one that is idle can be asked to go.
const MAX_CONNECTIONS: usize = 4096;
/// One address may have half of them: many gateways can be behind one (a NAT, a node), and none keeps out all others.
const ONE_ADDRESS: usize = 2;
/// How long a connection that made a call is let be where places are short. A gateway that serves anybody calls more often, and
/// one that does not comes back.
const IDLE: Duration = Duration::from_secs(5);
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

/// The room of messages that are not whole: that of access logs is another one, so that a log which says nothing for hours takes none from
/// the calls, and no burst of calls ends a log.
#[derive(Clone)]
struct Rooms {
    calls: Arc<Unfinished>,
    logs: Arc<Unfinished>,
}

/// A connection on its way to a worker, with its place among the allowed ones.
type Accepted = (StdStream, ConnectionPlace);

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
    let bound = listen(address).or_else(|error| {
        if !everywhere || error.raw_os_error() != Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error()) {
            return Err(error);
        }
        tracing::warn!(%address, "there is no IPv6 here; listening for IPv4 alone");
        listen(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port()))
    });
    bound.map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}")))
}

fn listen(address: SocketAddr) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    // As the standard library does, but for the backlog: its 128 are fewer than come at once when something is wrong, and who is
    // dropped tries again after a second, which is as long as a probe waits.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// The gRPC services, by the names that health is asked for; the empty one stands for the whole server.
pub fn service_names() -> impl Iterator<Item = &'static str> {
    let channel = |channel: &Channel| match channel {
        Channel::RateLimit => RateLimitServiceServer::<RateLimit>::NAME,
        Channel::AccessLog => AccessLog::NAME,
    };
    ["", AuthorizationServer::<ExtAuthz>::NAME].into_iter().chain(Channel::ALL.iter().map(channel))
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
        let rooms = Rooms::new(&services.ext_authz.metrics.ports);
        let worker = |number| Worker::start(number, services, &rooms, stop.clone());
        (0..count.max(1)).map(worker).collect::<io::Result<_>>().map(Workers)
    }

    /// Connections for the workers, bounded in their number.
    ///
    /// # Errors
    ///
    /// The listener cannot be used by this runtime.
    pub fn acceptor(listener: StdListener, metrics: PortMetrics) -> io::Result<Acceptor> {
        // A connection is an open file; half of them is for the pages, the manifests and whatever else.
        let all = MAX_CONNECTIONS.min(crate::process::open_files() / 2);
        Acceptor::new(
            listener,
            Port::Grpc,
            ConnectionBounds { all, of_one: all.div_ceil(ONE_ADDRESS), idle: IDLE },
            metrics,
        )
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
                acceptor.refused(Refusal::Worker, "their worker does not take any");
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

// === impl Rooms ===

impl Rooms {
    fn new(metrics: &PortMetrics) -> Self {
        let room = || Arc::new(Unfinished::new(MAX_UNFINISHED, metrics.clone()));
        Rooms { calls: room(), logs: room() }
    }
}

// === impl Worker ===

impl Worker {
    fn start(number: usize, services: &Services, rooms: &Rooms, stop: watch::Receiver<bool>) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (connections, incoming) = mpsc::channel::<Accepted>(QUEUE);
        // Of 16 workers, each a different part of a tenth of the age.
        let age = MAX_AGE + MAX_AGE / 160 * u32::try_from(number % 16).unwrap_or(0);
        let router = router(services, rooms, age, &stop);
        let serve = move || runtime.block_on(serve(router, incoming, age + AGE_GRACE, stop));
        let thread = std::thread::Builder::new().name(format!("worker-{number}")).stack_size(STACK).spawn(serve)?;
        Ok(Worker { runtime: handle, connections, thread })
    }
}

/// Serves connections until `stop` changes, and then what is in flight on them. None lives longer than `lifetime`.
async fn serve(
    router: Router,
    mut incoming: mpsc::Receiver<Accepted>,
    lifetime: Duration,
    mut stop: watch::Receiver<bool>,
) {
    let (go, going) = watch::channel(());
    let mut served = JoinSet::new();
    loop {
        tokio::select! {
            // Who was accepted is served, also at a stop.
            biased;
            accepted = incoming.recv() => match accepted {
                Some((stream, place)) => {
                    served.spawn(converse(router.clone(), stream, place, lifetime, going.clone()));
                }
                None => break,
            },
            // An error means that the sender is gone, which is a stop too.
            _ = stop.changed() => break,
            Some(_) = served.join_next() => {}
        }
    }
    drop((incoming, go));
    while served.join_next().await.is_some() {}
}

/// One connection, to its end. tonic asks it to go at its age; here it is asked when another needs its place, or all have to go.
async fn converse(
    router: Router,
    stream: StdStream,
    place: ConnectionPlace,
    lifetime: Duration,
    mut going: watch::Receiver<()>,
) {
    let connected = stream.set_nodelay(true).and_then(|()| TcpStream::from_std(stream));
    // Whose socket is gone already has nothing to say.
    let Ok(stream) = connected else { return };
    let seat = Arc::clone(place.seat());
    let connection = Connection::new(stream, place, lifetime);
    let go = async move {
        // tonic takes the connection first, and then asks it; the other way it would be dropped.
        tokio::task::yield_now().await;
        tokio::select! {
            () = seat.over() => {}
            _ = going.changed() => {}
        }
    };
    // No end, so that the server does not ask its only connection to go at once.
    let incoming = tokio_stream::once(Ok::<_, io::Error>(connection)).chain(tokio_stream::pending());
    if let Err(error) = router.serve_with_incoming_shutdown(incoming, go).await {
        tracing::error!(%error, "a connection could not be served");
    }
}

fn router(services: &Services, rooms: &Rooms, age: Duration, stop: &watch::Receiver<bool>) -> Router {
    let health = HealthServer::new(HealthService::from_health_reporter(services.health.clone()))
        .max_decoding_message_size(MAX_MESSAGE);
    let authorization =
        AuthorizationServer::from_arc(Arc::clone(&services.ext_authz)).max_decoding_message_size(MAX_MESSAGE);
    let router = tonic::transport::Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .http2_max_header_list_size(MAX_HEADERS)
        .http2_max_pending_accept_reset_streams(Some(MAX_PENDING_RESETS))
        .http2_max_local_error_reset_streams(Some(MAX_LOCAL_RESETS))
        .timeout(MAX_CALL)
        // Without tonic's own grace: with it, 0.14 breaks the connection off and never asks it to go. `Connection` ends it.
        .max_connection_age(age)
        .http2_keepalive_interval(Some(KEEPALIVE.0))
        .http2_keepalive_timeout(Some(KEEPALIVE.1))
        .add_service(rooms.calls.count(health))
        .add_service(rooms.calls.count(authorization));
    // What carries usage reports: a channel that nobody serves does not compile.
    Channel::ALL.iter().fold(router, |router, channel| match channel {
        Channel::RateLimit => {
            let service = RateLimitServiceServer::from_arc(Arc::clone(&services.rate_limit));
            router.add_service(rooms.calls.count(service.max_decoding_message_size(MAX_MESSAGE)))
        }
        Channel::AccessLog => {
            let log = AccessLog::new(Arc::clone(&services.rate_limit), stop.clone(), age);
            router.add_service(rooms.logs.count_each(log))
        }
    })
}

#[cfg(test)]
mod tests;
