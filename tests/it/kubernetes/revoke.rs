//! Access that is taken away is gone within a second, through a real Envoy: not before, and no answer is cut for it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::post;
use futures_util::StreamExt;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::sync::{mpsc, watch};

use super::{REVIEW, World};
use crate::cluster::{SHARED, token};
use crate::envoy::{BODY, chat, gateway_before, shipped};
use crate::support::{Connection, PATIENCE, soak};

/// The goal is a second, at the 99th percentile; a loaded machine gets five times as long.
const GONE: Duration = Duration::from_secs(5);

/// A model whose streams go on when they are told to.
struct Model {
    port: u16,
    go_on: watch::Sender<()>,
}

impl Model {
    async fn start() -> Self {
        let (go_on, _) = watch::channel(());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let told = go_on.clone();
        let answer = move |body: Bytes| async move { answer(&body, told.subscribe()) };
        let app = axum::Router::new().fallback(post(answer));
        tokio::spawn(async move { axum::serve(listener, app).await });
        Model { port, go_on }
    }
}

const USAGE: &str = r#"{"prompt_tokens":3,"completion_tokens":5,"total_tokens":8}"#;

fn answer(body: &[u8], mut go_on: watch::Receiver<()>) -> Response {
    let usage: Value = serde_json::from_str(USAGE).unwrap();
    let request: Value = serde_json::from_slice(body).unwrap();
    if request["stream"] != true {
        return Json(json!({"object": "chat.completion", "choices": [], "usage": usage})).into_response();
    }
    let event = |word: &str| format!("data: {}\n\n", json!({"choices": [{"index": 0, "delta": {"content": word}}]}));
    let begin = event("first");
    let end = format!("{}data: {}\n\ndata: [DONE]\n\n", event("last"), json!({"choices": [], "usage": usage}));
    let rest = stream::once(async move {
        // The test may be over.
        let _ = go_on.changed().await;
        end
    });
    let events = stream::iter([begin]).chain(rest).map(Ok::<_, std::convert::Infallible>);
    ([(CONTENT_TYPE, "text/event-stream")], Body::from_stream(events)).into_response()
}

/// An answer that is being written.
struct Streaming {
    connection: Connection,
    read: String,
}

impl Streaming {
    /// Asks, and reads until there is something.
    async fn start(gateway: SocketAddr, path: &str, token: &str) -> Self {
        let mut streaming = Streaming { connection: Connection::open(gateway).await, read: String::new() };
        let body = BODY.replacen('{', "{\"stream\":true,", 1);
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: models.example.com\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        streaming.connection.write(format!("{head}{body}").as_bytes()).await;
        streaming.read_until("first").await;
        assert!(streaming.read.starts_with("HTTP/1.1 200 "), "{}", streaming.read);
        streaming
    }

    async fn read_until(&mut self, what: &str) {
        let mut bytes = [0; 4096];
        while !self.read.contains(what) {
            let read = self.connection.stream.read(&mut bytes);
            let read = tokio::time::timeout(PATIENCE, read).await.expect("it streams").expect("it is not cut");
            assert!(read > 0, "cut before `{what}`: {}", self.read);
            self.read.push_str(str::from_utf8(&bytes[..read]).unwrap());
        }
    }

    /// Reads all that has not come yet.
    async fn finish(mut self) {
        assert!(!self.read.contains("last"), "it streams still: {}", self.read);
        // The last chunk of the body is empty.
        self.read_until("\r\n0\r\n\r\n").await;
        assert!(self.read.contains("last") && self.read.contains("[DONE]"), "{}", self.read);
    }
}

/// What a request was answered.
#[derive(Debug)]
struct Seen {
    received: Instant,
    status: u16,
    code: String,
}

/// A caller who asks all the time, and what can be taken away from them.
struct Asking {
    what: &'static str,
    kind: &'static str,
    object: &'static str,
    path: String,
    refusal: (u16, &'static str),
    token: watch::Sender<String>,
    seen: mpsc::UnboundedReceiver<Seen>,
    times: Vec<Duration>,
    undecided: usize,
}

impl Asking {
    async fn next(&mut self) -> Seen {
        tokio::time::timeout(PATIENCE, self.seen.recv()).await.expect("requests are answered").unwrap()
    }

    fn is_refusal(&self, seen: &Seen) -> bool {
        (seen.status, &*seen.code) == self.refusal
    }

    /// Whether it could not be told: the API server was asked, by a machine that has much to do.
    fn is_undecided(&mut self, seen: &Seen) -> bool {
        let undecided = seen.status == 503 && seen.code.starts_with("TG-UNAVAILABLE-");
        self.undecided += usize::from(undecided);
        undecided
    }

    /// When the first request was refused.
    async fn first_refusal(&mut self) -> Instant {
        let started = Instant::now();
        loop {
            let seen = self.next().await;
            if self.is_refusal(&seen) {
                return seen.received;
            }
            assert!(seen.status == 200 || self.is_undecided(&seen), "{}: {seen:?}", self.what);
            assert!(started.elapsed() < PATIENCE, "{} is taken away, and requests are allowed", self.what);
        }
    }

    async fn until_allowed(&mut self) {
        let started = Instant::now();
        loop {
            let seen = self.next().await;
            if seen.status == 200 {
                return;
            }
            assert!(self.is_refusal(&seen) || self.is_undecided(&seen), "{}: {seen:?}", self.what);
            assert!(started.elapsed() < PATIENCE, "{} is given back: {seen:?}", self.what);
        }
    }

    /// Everything so far was allowed.
    fn is_allowed(&mut self) {
        while let Ok(seen) = self.seen.try_recv() {
            assert_eq!(seen.status, 200, "{}: {seen:?}", self.what);
        }
    }

    async fn take_away(&self, world: &World) {
        match self.kind {
            "LLMInferenceService" => {
                world.change(self.kind, self.object, |model| model["metadata"]["annotations"] = json!({})).await;
            }
            _ => world.delete(self.kind, self.object).await,
        }
    }

    /// And, of a ServiceAccount, a token of what it is now.
    async fn give_back(&self, world: &World) {
        world.change(self.kind, self.object, |_| {}).await;
        if self.kind == "ServiceAccount" {
            let namespace = format!("{}-tier-premium", world.name);
            self.token.send_replace(token(&world.client, &namespace, self.object, &[&world.audience()]).await);
        }
    }

    fn figures(&mut self) -> String {
        self.times.sort_unstable();
        let count = self.times.len();
        let (median, high) = (self.times[count / 2], self.times[(count * 99).div_ceil(100) - 1]);
        format!(
            "{} taken away: refused after {median:.0?} (median), {high:.0?} (99th percentile), {:.0?} (longest of {count}); goal 1 s; {} \
             requests undecided",
            self.what,
            self.times[count - 1],
            self.undecided
        )
    }
}

/// Asks again and again, for as long as somebody wants to know.
async fn ask(gateway: SocketAddr, path: String, token: watch::Receiver<String>, seen: mpsc::UnboundedSender<Seen>) {
    let mut connection = Connection::open(gateway).await;
    loop {
        let bearer = token.borrow().clone();
        let answer = chat(&mut connection, &path, &bearer).await;
        let code = answer.header("x-ext-auth-reason").unwrap_or_default().to_owned();
        if seen.send(Seen { received: Instant::now(), status: answer.status, code }).is_err() {
            return;
        }
        // The pace: without it, the machine would be busy with nothing but this.
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
}

async fn is_taken_away(name: &str, flags: &[&str]) {
    let world = World::generous(&SHARED, name).await;
    let tiergate = world.tiergate(&SHARED, flags).await;
    let model = Model::start().await;
    let gateway = gateway_before(&shipped("envoy/tiergate.yaml"), &[tiergate.grpc.port()], model.port).await;
    let denied = (403, "TG-ACCESS-DENIED");
    let gone = (401, "TG-TOKEN-SUBJECT-GONE");
    let (phi, qwen) = (("lab", "phi"), ("llm", "qwen3"));
    let (mut all, mut tasks) = (Vec::new(), tokio::task::JoinSet::new());
    for (what, kind, object, refusal, (tier, caller), (namespace, model)) in [
        ("RoleBinding", "RoleBinding", "model-post-access-tier-binding", denied, ("enterprise", "ivan-e85d40b9"), phi),
        ("annotation", "LLMInferenceService", "qwen3", denied, ("premium", "jland-78028f6d"), qwen),
        // Granite is everybody's: only who calls can change.
        ("ServiceAccount", "ServiceAccount", "grace-9be105d3", gone, ("premium", "grace-9be105d3"), ("llm", "granite")),
    ] {
        let namespace_of = format!("{}-tier-{tier}", world.name);
        let bearer = token(&world.client, &namespace_of, caller, &[&world.audience()]).await;
        let (token, current) = watch::channel(bearer);
        let (send, seen) = mpsc::unbounded_channel();
        let path = world.path(namespace, model);
        tasks.spawn(ask(gateway.address, path.clone(), current, send));
        let mut asking = Asking { what, kind, object, path, refusal, token, seen, times: Vec::new(), undecided: 0 };
        asking.until_allowed().await;
        all.push(asking);
    }
    for _ in 0..soak(10, 100) {
        for at in 0..all.len() {
            all.iter_mut().for_each(Asking::is_allowed);
            let asking = &mut all[at];
            let old = asking.token.borrow().clone();
            let streaming = Streaming::start(gateway.address, &asking.path, &old).await;
            // What is refused from here on came too early, until the call is sent.
            let called = Instant::now();
            asking.take_away(&world).await;
            let replied = Instant::now();
            let refused = asking.first_refusal().await;
            assert!(refused >= called, "{} is there, and a request is refused", asking.what);
            asking.times.push(refused.saturating_duration_since(replied));
            for _ in 0..3 {
                let seen = asking.next().await;
                assert!(asking.is_refusal(&seen) || asking.is_undecided(&seen), "it stays so: {seen:?}");
            }
            model.go_on.send_replace(());
            streaming.finish().await;
            asking.give_back(&world).await;
            asking.until_allowed().await;
            if asking.kind == "ServiceAccount" {
                // The token is of one that is gone for ever.
                let answer = chat(&mut Connection::open(gateway.address).await, &asking.path, &old).await;
                let reason = answer.header("x-ext-auth-reason").unwrap_or_default();
                assert_eq!((answer.status, reason), asking.refusal, "{}", answer.body);
            }
        }
    }
    for asking in &mut all {
        println!("{flags:?}: {}", asking.figures());
    }
    for asking in &all {
        assert!(asking.times.iter().all(|time| *time < GONE), "{}: {:?}", asking.what, asking.times);
    }
    // They end before Envoy does.
    drop(all);
    tasks.join_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_taken_away_is_gone_at_once_and_answers_go_on() {
    is_taken_away("revoked", &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_taken_away_is_gone_at_once_where_the_api_server_is_asked() {
    is_taken_away("withdrawn", &[REVIEW]).await;
}
