//! Peers that take up connections.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonic::codegen::Bytes;

use crate::h2::{BOUND, GOAWAY, H2, answered, connect_from, head};
use crate::support::{Connection, TIERGATE, Tiergate, get};

use super::World;

const CHECK: &str = "envoy.service.auth.v3.Authorization/Check";

/// A process whose open files allow 64 connections of gateways.
fn of_64_places(world: &World) -> Tiergate {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 128 && exec \"$0\" \"$@\"", TIERGATE]);
    Tiergate::start_as(command, &world.manifests.0, &["--workers", "1"])
}

/// The `at`th address of ours.
fn peer(at: u8) -> IpAddr {
    IpAddr::from([127, 0, 0, at])
}

/// A connection that makes calls, while this is kept.
struct Gateway(h2::client::SendRequest<Bytes>, tokio::task::JoinHandle<()>);

impl Gateway {
    async fn open(ours: IpAddr, address: SocketAddr) -> Result<Self, h2::Error> {
        let (sender, connection) = h2::client::handshake(connect_from(ours, address).await).await?;
        let driver = tokio::spawn(async move { drop(connection.await) });
        let mut gateway = Gateway(sender, driver);
        gateway.check().await.map(|()| gateway)
    }

    /// Whether a Check is answered.
    async fn check(&mut self) -> Result<(), h2::Error> {
        let (answer, mut message) = self.0.send_request(head(CHECK, &[]), false)?;
        message.send_data(Bytes::from_static(&[0; 5]), true)?;
        assert_eq!(answered(answer).await?, (200, Some(0)));
        Ok(())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.1.abort();
    }
}

async fn refused(tiergate: &Tiergate, reason: &str) -> u64 {
    let labels = format!("port=\"grpc\",reason=\"{reason}\"");
    tiergate.metric("tiergate_connections_refused_total", &labels).await
}

pub(super) async fn one_address_has_half_of_the_places_and_they_come_back(world: &World) {
    let tiergate = of_64_places(world);
    let mut greedy = Vec::new();
    // In time, so that all of them are in use: who is idle would go for who comes.
    for _ in 0..32 {
        greedy.push(Gateway::open(peer(1), tiergate.grpc).await.unwrap());
    }
    for _ in 0..8 {
        assert!(Gateway::open(peer(1), tiergate.grpc).await.is_err(), "more than half");
    }
    let told = tiergate.await_log("connections were refused");
    assert_eq!((&told["why"], &told["port"]), (&"their address has too many".into(), &"grpc".into()));
    assert_eq!((refused(&tiergate, "address").await, refused(&tiergate, "full").await), (8, 0));
    let lines = tiergate.logged().iter().filter(|line| line["message"] == "connections were refused").count();
    assert!(lines < 5, "{lines} more lines for eight connections");
    for at in 2..10 {
        assert!(Gateway::open(peer(at), tiergate.grpc).await.is_ok(), "{at}: there is room for others");
    }
    for gateway in &mut greedy {
        gateway.check().await.unwrap();
    }
    greedy.clear();
    let started = Instant::now();
    while Gateway::open(peer(1), tiergate.grpc).await.is_err() {
        assert!(started.elapsed() < BOUND, "places come back");
    }
}

pub(super) async fn a_new_gateway_is_served_beside_connections_that_fill_every_place(world: &World) {
    let tiergate = of_64_places(world);
    let mut used = Gateway::open(peer(4), tiergate.grpc).await.unwrap();
    let mut idle = Vec::new();
    for at in 0..63 {
        idle.push(H2::over(connect_from(peer(1 + at % 2), tiergate.grpc).await).await);
    }
    // What was sent before is known to have arrived: connections are accepted in their order.
    let mut newcomer = Gateway::open(peer(3), tiergate.grpc).await.unwrap();
    let mut oldest = idle.remove(0);
    // It is asked, and then closed though it does not go by itself.
    loop {
        match oldest.next().await {
            Some(frame) if frame.kind == GOAWAY => break,
            Some(_) => {}
            None => panic!("closed without a word"),
        }
    }
    while oldest.next().await.is_some() {}
    assert_eq!(tiergate.metric("tiergate_connections_displaced_total", "grpc").await, 1);
    assert_eq!(tiergate.await_log("idle connections were closed for new ones")["port"], "grpc");
    used.check().await.unwrap();
    newcomer.check().await.unwrap();
    assert_eq!(get(tiergate.http, "/livez").await.status, 200, "the pages have their own bound");
}

/// Sends a byte now and then, and comes again where it is closed.
async fn trickle(address: SocketAddr, opening: &'static str, first: Duration) {
    let mut buffer = [0; 1024];
    // Not all at one time: what is played here is time.
    tokio::time::sleep(first).await;
    loop {
        if let Ok(mut stream) = TcpStream::connect(address).await {
            let _ = stream.write_all(opening.as_bytes()).await;
            // Until it is closed.
            while !matches!(tokio::time::timeout(PACE, stream.read(&mut buffer)).await, Ok(Ok(0) | Err(_))) {
                if stream.write_all(b"a").await.is_err() {
                    break;
                }
            }
        }
        // As slowly as who trickles does.
        tokio::time::sleep(PACE).await;
    }
}

/// How often somebody who trickles sends a byte, or comes again.
const PACE: Duration = Duration::from_millis(500);

/// The slowest of these probes, on a thread of their own: a kubelet does not wait for the attack.
async fn slowest_probe(address: SocketAddr, rounds: usize) -> Duration {
    let probing = move || {
        let mut slowest = Duration::ZERO;
        for page in ["/livez", "/readyz"].iter().cycle().take(2 * rounds) {
            let asked = Instant::now();
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(BOUND)).unwrap();
            stream
                .write_all(format!("GET {page} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").as_bytes())
                .unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 OK"), "{page}: {answer}");
            slowest = slowest.max(asked.elapsed());
        }
        slowest
    };
    tokio::task::spawn_blocking(probing).await.unwrap()
}

pub(super) async fn probes_are_answered_beside_connections_that_trickle(world: &World) {
    const HEAD: &str = "GET /livez HTTP/1.1\r\nhost: a\r\nx-a: ";
    const BODY: &str = "POST /v1/tiers/lookup HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\n{";
    for opening in [HEAD, BODY] {
        for number in [256, 1000] {
            let tiergate = Tiergate::start(&world.manifests.0, &[]);
            let mut attack = JoinSet::new();
            for at in 0..number {
                attack.spawn(trickle(tiergate.http, opening, PACE * at / number));
            }
            // They fill all places that one address can have, and are closed for each other.
            let displaced = async || tiergate.metric("tiergate_connections_displaced_total", "http").await;
            let full = async { while displaced().await < 100 {} };
            tokio::time::timeout(BOUND, full).await.expect("they fill their places");
            let slowest = slowest_probe(tiergate.http, 20).await;
            println!("{number} that trickle: the slowest probe took {slowest:?}");
            assert!(slowest < Duration::from_secs(1), "{number}: {slowest:?}");
        }
    }
}

/// A scraper that keeps its connection is not closed for connections that ask for nothing.
pub(super) async fn who_was_answered_stays_beside_connections_that_ask_for_nothing(world: &World) {
    let tiergate = Tiergate::start(&world.manifests.0, &[]);
    let mut scraper = Connection::of_pages(tiergate.http).await;
    assert_eq!(scraper.send("GET", "/metrics", &[], "").await.status, 200);
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(Connection::open(tiergate.http).await);
    }
    assert!(tiergate.metric("tiergate_connections_displaced_total", "http").await > 150);
    assert_eq!(scraper.send("GET", "/metrics", &[], "").await.status, 200);
}
