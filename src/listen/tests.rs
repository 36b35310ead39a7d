use tonic::codegen::http::Request;

use tokio::net::TcpListener;

use super::places::Places;
use super::*;
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::respond::Style;
use crate::test_util::{compile_files, demo, gate, options, settings};

pub(super) fn services() -> Services {
    let gate = Arc::new(gate(compile_files(&demo(), &options()), settings()));
    let (clock, metrics) = (Clock::start(), Arc::new(Metrics::new()));
    let rate_limit = RateLimit::new(Arc::clone(&gate), Arc::clone(&metrics), Arc::default(), clock, Style::default());
    let ext_authz = ExtAuthz { gate, metrics, refusals: Arc::default(), clock, style: Style::default() };
    let (health, _) = tonic_health::server::health_reporter();
    Services { ext_authz: Arc::new(ext_authz), rate_limit: Arc::new(rate_limit), health }
}

/// A server of one connection, and its client.
async fn connect(age: Duration, grace: Duration) -> (h2::client::SendRequest<axum::body::Bytes>, JoinAborts) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = watch::channel(false);
    let router = router(&services(), &Rooms::new(&PortMetrics::default()), age, &stopped);
    let serving = tokio::spawn(async move {
        let _stop = stop;
        let (stream, peer) = listener.accept().await.unwrap();
        let places = Arc::new(Places::new(ConnectionBounds { all: 1, of_one: 1, idle: IDLE }));
        let (place, _) = places.take(peer.ip()).unwrap();
        let (_go, going) = watch::channel(());
        converse(router, stream.into_std().unwrap(), place, age + grace, going).await;
    });
    let (sender, connection) = h2::client::handshake(TcpStream::connect(address).await.unwrap()).await.unwrap();
    (sender, JoinAborts([serving.abort_handle(), tokio::spawn(connection).abort_handle()]))
}

struct JoinAborts([tokio::task::AbortHandle; 2]);

impl Drop for JoinAborts {
    fn drop(&mut self) {
        self.0.iter().for_each(tokio::task::AbortHandle::abort);
    }
}

/// `grpc.health.v1.Health/<method>` of the whole server.
fn health(method: &str) -> Request<()> {
    let uri = format!("http://tiergate/grpc.health.v1.Health/{method}");
    Request::post(uri).header("content-type", "application/grpc").header("te", "trailers").body(()).unwrap()
}

/// A HealthCheckRequest for "": one frame of gRPC, with nothing in it.
const EMPTY: &[u8] = &[0; 5];

#[tokio::test]
async fn a_connection_at_its_age_is_asked_to_go_and_what_is_in_flight_is_answered() {
    let (sender, _tasks) = connect(Duration::from_millis(200), Duration::from_secs(60)).await;
    let mut sender = sender.ready().await.unwrap();
    let (answer, mut message) = sender.send_request(health("Check"), false).unwrap();
    // GOAWAY: this connection takes no further request.
    let mut refused = sender;
    loop {
        match refused.ready().await {
            Ok(ready) => refused = ready,
            Err(error) => break assert!(error.is_go_away() && error.is_remote(), "{error}"),
        }
        tokio::task::yield_now().await;
    }
    message.send_data(EMPTY.into(), true).unwrap();
    let mut body = answer.await.unwrap().into_body();
    while let Some(data) = body.data().await {
        let _ = body.flow_control().release_capacity(data.unwrap().len());
    }
    let trailers = body.trailers().await.unwrap().unwrap();
    assert_eq!(trailers.get("grpc-status").unwrap(), "0");
}

#[tokio::test]
async fn what_is_in_flight_after_the_grace_is_broken_off() {
    let (sender, _tasks) = connect(Duration::from_millis(50), Duration::from_millis(50)).await;
    let mut sender = sender.ready().await.unwrap();
    let (answer, mut message) = sender.send_request(health("Watch"), false).unwrap();
    message.send_data(EMPTY.into(), true).unwrap();
    let mut body = answer.await.unwrap().into_body();
    assert!(body.data().await.unwrap().is_ok(), "its first word");
    // Nothing is said after it, and a watch never ends by itself.
    assert!(body.data().await.is_none_or(|data| data.is_err()));
}

#[test]
fn every_address_of_ipv6_is_every_one_of_ipv4_too() {
    let listener = bind("[::]:0".parse().unwrap()).unwrap();
    let port = listener.local_addr().unwrap().port();
    StdStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    let taken = bind(SocketAddr::new("::".parse().unwrap(), port)).unwrap_err();
    assert!(taken.to_string().starts_with(&format!("cannot listen on [::]:{port}: ")), "{taken}");
}
