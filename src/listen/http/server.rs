//! Serves the pages, so that no peer holds a connection for longer than it needs one.

use std::convert::Infallible;
use std::io;
use std::net::TcpListener as StdListener;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::listen::acceptor::Acceptor;
use crate::listen::places::{ConnectionBounds, ConnectionPlace};
use crate::metrics::{Port, PortMetrics};

/// Connections at one time: of probes, a scraper or two, people, and maas-api's clients. Who comes always gets a place, since a
/// probe cannot be told from others before its head is read: the idlest goes for it, and of those that were not answered
/// yet, the oldest. A probe asks at once, and so is answered before it is the oldest of many.
const BOUNDS: ConnectionBounds = ConnectionBounds { all: 256, of_one: 128, idle: Duration::ZERO };
/// How long a request's head may take, and how long a connection may say nothing between two requests.
const HEAD: Duration = Duration::from_secs(5);
/// How long its body and its answer may take together.
const REQUEST: Duration = Duration::from_secs(10);
/// No more requests are taken when a connection is this old, and it is broken off after the grace: there is no other
/// bound on a peer that does not read its answers.
const MAX_AGE: Duration = Duration::from_secs(60);
const AGE_GRACE: Duration = Duration::from_secs(5);
/// hyper's bound as it is, written down: it answers 431 to more.
const MAX_HEADERS: usize = 100;
/// Of a head that is not complete; more is answered 431. Answers wait in a buffer of the same size.
const MAX_HEAD: usize = 64 * 1024;

/// Serves `router` until `stop` changes, and then what is in flight.
///
/// # Errors
///
/// The listener cannot be used by this runtime.
pub async fn serve(
    listener: StdListener,
    port: Port,
    router: Router,
    metrics: PortMetrics,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut acceptor = Acceptor::new(listener, port, BOUNDS, metrics)?;
    let mut served = JoinSet::new();
    loop {
        tokio::select! {
            (stream, place) = acceptor.accept() => {
                served.spawn(converse(stream, place, router.clone(), stop.clone()));
                // It is looked at before the next is accepted, so that in a flood of them who asks at once is answered.
                tokio::task::yield_now().await;
            }
            Some(_) = served.join_next() => {}
            _ = stop.changed() => break,
        }
    }
    drop(acceptor);
    while served.join_next().await.is_some() {}
    Ok(())
}

/// One connection, from its first request to its last.
async fn converse(stream: TcpStream, place: ConnectionPlace, router: Router, mut stop: watch::Receiver<bool>) {
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    let mut http = builder.http1();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_headers(MAX_HEADERS).max_buf_size(MAX_HEAD);
    let (router, seat) = (TowerToHyperService::new(router), Arc::clone(place.seat()));
    let answered = service_fn(|request: hyper::Request<Incoming>| {
        let (answering, seat) = (router.call(request), Arc::clone(&seat));
        async move {
            let answer = answering.await;
            seat.used();
            answer
        }
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), answered));
    // How a connection ends is its peer's affair.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = seat.over() => return,
        () = sleep(MAX_AGE) => {}
        _ = stop.changed() => {}
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        _ = timeout(AGE_GRACE, connection) => {}
        () = seat.over() => {}
    }
}

/// Bounds the time of a request, its body included.
pub async fn in_time(request: Request, next: Next) -> Result<Response, Infallible> {
    let late = (StatusCode::REQUEST_TIMEOUT, "the request took too long\n");
    Ok(timeout(REQUEST, next.run(request)).await.unwrap_or_else(|_| late.into_response()))
}
