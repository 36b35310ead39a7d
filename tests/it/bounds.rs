//! What clients can hold of the gateway, and for how long, with the configurations that are shipped: times and sizes are made smaller,
//! and nothing else.

use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::envoy::{BODY, Gateway, gateway_before, gateway_by, gateway_with, shipped};
use crate::support::{Connection, PATIENCE, Tiergate, generous_manifests, get, soak};
use crate::wire::premium;

const FILES: [&str; 3] = ["envoy/tiergate.yaml", "envoy/classic.yaml", "envoy/lua.yaml"];
const QWEN: &str = "/llm/qwen3/v1/chat/completions";
/// More than a client's and the gateway's buffers together.
const BODY_SIZE: usize = 8_300_000;
static TOKEN: LazyLock<String> = LazyLock::new(premium);

/// The shipped configuration with other values. Each of them stands there once.
fn with(file: &str, values: &[(&str, &str)]) -> String {
    values.iter().fold(shipped(file), |config, (value, other)| {
        assert_eq!(config.matches(value).count(), 1, "{file} has `{value}`");
        config.replace(value, other)
    })
}

fn start(file: &str) -> Tiergate {
    let flags: &[&str] = if file.contains("classic") { &["--enforce-limits", "rls"] } else { &[] };
    let manifests = generous_manifests();
    // It has read them when it serves; the folder goes.
    Tiergate::start(&manifests.0, flags)
}

fn head(length: usize) -> String {
    format!(
        "POST {QWEN} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n",
        *TOKEN
    )
}

/// What Envoy has allocated, in MiB.
async fn allocated(gateway: &Gateway) -> u64 {
    let memory: Value = get(gateway.admin, "/memory").await.json();
    memory["allocated"].as_str().unwrap().parse::<u64>().unwrap() >> 20
}

/// The status of one request on a connection of its own, or `None` if it gets no answer.
async fn ask(address: SocketAddr) -> Option<u16> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    stream
        .write_all((head(BODY.len()) + BODY).replace("host: a", "host: a\r\nconnection: close").as_bytes())
        .await
        .ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok()?;
    String::from_utf8_lossy(&answer).split(' ').nth(1)?.parse().ok()
}

/// How long until a request is answered with 200.
async fn served_within(address: SocketAddr) -> Duration {
    let started = Instant::now();
    while ask(address).await != Some(200) {
        assert!(started.elapsed() < 2 * PATIENCE, "somebody is served again");
        // Envoy has to be asked.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    started.elapsed()
}

/// Bodies that lack their last 58 bytes, of which one comes now and then. What they end with.
async fn trickle(address: SocketAddr, bodies: usize) -> JoinSet<String> {
    let mut clients = JoinSet::new();
    for _ in 0..bodies {
        let head = head(BODY_SIZE);
        clients.spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let body = "{\"x\":\"".to_owned() + &"y".repeat(BODY_SIZE - 6 - 58);
            let (mut reads, mut writes) = stream.split();
            let write = async {
                // It may end at any point: what counts is what is read.
                let _ = writes.write_all((head + &body).as_bytes()).await;
                // Slowly enough for 58 bytes to last longer than any timeout here.
                while writes.write_all(b"y").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(1500)).await;
                }
            };
            let mut answer = vec![0; 4096];
            tokio::select! {
                () = write => String::from("ended"),
                read = reads.read(&mut answer) => {
                    String::from_utf8_lossy(&answer[..read.unwrap_or(0)]).lines().next().unwrap_or("ended").to_owned()
                }
            }
        });
    }
    clients
}

#[tokio::test]
async fn bodies_that_are_never_finished_give_their_memory_back() {
    let (bodies, timeout) = soak((20, Duration::from_secs(4)), (80, Duration::from_secs(60)));
    for file in FILES {
        let tiergate = start(file);
        let value = format!("request_timeout: {}s", timeout.as_secs());
        let config = with(file, &[("request_timeout: 60s", &value)]);
        let gateway = gateway_by(&config, &[tiergate.grpc.port()]).await;
        assert_eq!(ask(gateway.address).await, Some(200));
        let before = allocated(&gateway).await;
        let started = Instant::now();
        let clients = trickle(gateway.address, bodies).await;
        let most = bodies as u64 * (BODY_SIZE as u64 >> 20);
        while allocated(&gateway).await < before + most * 9 / 10 {
            assert!(started.elapsed() < PATIENCE, "the bodies arrive");
            tokio::task::yield_now().await;
        }
        // However long they took to arrive: a body's time begins with its first byte, so that it is over before this.
        let (arrived, held) = (Instant::now(), allocated(&gateway).await);
        while allocated(&gateway).await > before + 30 {
            assert!(arrived.elapsed() < timeout + Duration::from_secs(10), "{} MiB", allocated(&gateway).await);
            // Its page has to be asked.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let after = arrived.elapsed();
        println!("{file}: {bodies} bodies: {before} MiB before, {held} held, below {} after {after:.1?}", before + 30);
        let ends = clients.join_all().await;
        assert!(ends.iter().all(|end| end == "HTTP/1.1 408 Request Timeout"), "{ends:?}");
    }
}

#[tokio::test]
async fn above_its_bound_of_memory_the_gateway_gives_up_the_largest_and_serves_on() {
    const BODIES: usize = 60;
    const BOUND: u64 = 200;
    // Those that fit below the bound may stay, as when they come slowly.
    let fit = (BOUND << 20) as usize / BODY_SIZE;
    for file in FILES {
        let tiergate = start(file);
        let bound = format!("max_heap_size_bytes: {}", BOUND << 20);
        let values =
            [("max_heap_size_bytes: 2147483648", bound.as_str()), ("request_timeout: 60s", "request_timeout: 600s")];
        let gateway = gateway_by(&with(file, &values), &[tiergate.grpc.port()]).await;
        let mut clients = trickle(gateway.address, BODIES).await;
        let started = Instant::now();
        for _ in 0..BODIES - fit {
            let end = tokio::time::timeout_at((started + 2 * PATIENCE).into(), clients.join_next()).await;
            let end = end.expect("they are given up").unwrap().unwrap();
            assert!(!end.contains("408"), "{end}");
        }
        println!("{file}: {} of {BODIES} bodies were given up after {:.1?}", BODIES - fit, started.elapsed());
        while allocated(&gateway).await > BOUND {
            assert!(started.elapsed() < 3 * PATIENCE, "what they held is given back");
            // Its page has to be asked.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // Those that fit may fill it to its bound, where nobody else is served, until they are over: as they are now.
        drop(clients);
        assert!(served_within(gateway.address).await < Duration::from_secs(20));
    }
}

#[tokio::test]
async fn silent_connections_keep_nobody_out_for_longer_than_the_idle_time() {
    const BOUND: usize = 32;
    let idle = Duration::from_secs(3);
    for file in FILES {
        let tiergate = start(file);
        let connections = format!("max_active_downstream_connections: {BOUND}");
        let values = [
            ("max_active_downstream_connections: 50000", connections.as_str()),
            ("idle_timeout: 60s", "idle_timeout: 3s"),
        ];
        let gateway = gateway_by(&with(file, &values), &[tiergate.grpc.port()]).await;
        // Some say nothing, some begin HTTP/2, some had an answer.
        for said in ["", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\u{4}\0\0\0\0\0", &(head(BODY.len()) + BODY)] {
            let mut silent = Vec::new();
            for _ in 0..BOUND {
                let mut connection = Connection::open(gateway.address).await;
                connection.write(said.as_bytes()).await;
                silent.push(connection);
            }
            let started = Instant::now();
            while gateway.stat("http.inference.downstream_cx_active").await < BOUND as u64 {
                assert!(started.elapsed() < PATIENCE, "all are there");
                tokio::task::yield_now().await;
            }
            assert_eq!(ask(gateway.address).await, None, "{file}: there is no room for another");
            let within = served_within(gateway.address).await;
            println!(
                "{file}: a new client was served after {within:.1?}, of connections that said {} bytes",
                said.len()
            );
            assert!(within < idle + Duration::from_secs(5), "{within:?}");
            drop(silent);
            while gateway.stat("http.inference.downstream_cx_active").await > 0 {
                assert!(started.elapsed() < PATIENCE, "all are gone");
                tokio::task::yield_now().await;
            }
        }
    }
}

#[tokio::test]
async fn a_request_ends_at_the_longest_time_however_lively_its_answer_is() {
    for file in FILES {
        let tiergate = start(file);
        let config = with(file, &[("max_stream_duration: 3600s", "max_stream_duration: 1s")]);
        // Some fifteen events, one each 500 ms.
        let gateway = gateway_with(&config, &[tiergate.grpc.port()], &["--pause", "500"]).await;
        let body = BODY.replacen('{', "{\"stream\":true,", 1);
        let mut connection = Connection::open(gateway.address).await;
        let started = Instant::now();
        connection.write((head(body.len()) + &body).as_bytes()).await;
        let answer = connection.closed().await;
        let elapsed = started.elapsed();
        assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("[DONE]"), "{file}: it was cut: {answer}");
        assert!((Duration::from_secs(1)..Duration::from_secs(4)).contains(&elapsed), "{file}: {elapsed:?}");
        assert_eq!(gateway.stat("http.inference.downstream_rq_max_duration_reached").await, 1);
    }
}

/// A model whose answers never end. It says when it is left.
async fn endless() -> (u16, tokio::sync::mpsc::UnboundedReceiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (left, leaves) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let left = left.clone();
            tokio::spawn(async move {
                let mut request = vec![0; 65536];
                let _ = stream.read(&mut request).await;
                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
                let _ = stream.write_all(head.as_bytes()).await;
                let event = format!("data: {{\"x\":\"{}\"}}\n\n", "y".repeat(60_000));
                let chunk = format!("{:x}\r\n{event}\r\n", event.len());
                while stream.write_all(chunk.as_bytes()).await.is_ok() {}
                // The test may be over.
                let _ = left.send(());
            });
        }
    });
    (port, leaves)
}

#[tokio::test]
async fn an_answer_that_nobody_reads_is_given_up() {
    for file in FILES {
        let tiergate = start(file);
        let config = with(file, &[("int_value: 60000", "int_value: 2000")]);
        let (model, mut leaves) = endless().await;
        let gateway = gateway_before(&config, &[tiergate.grpc.port()], model).await;
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = socket.connect(gateway.address).await.unwrap();
        stream.write_all((head(BODY.len()) + BODY).as_bytes()).await.unwrap();
        let started = Instant::now();
        tokio::time::timeout(Duration::from_secs(30), leaves.recv()).await.expect("the model is left").unwrap();
        println!("{file}: an answer that nobody read was given up after {:.1?}", started.elapsed());
        while gateway.stat("http.inference.downstream_cx_active").await > 0 {
            assert!(started.elapsed() < PATIENCE, "the connection is gone");
            tokio::task::yield_now().await;
        }
        drop(stream);
    }
}
