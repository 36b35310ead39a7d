//! What answers cost in the words of every API, through the configurations that are shipped: the model's own account beside what
//! tiergate charged.

mod access_log;
mod configs;
mod cpu;
mod cut;
mod lua;
mod reserve;
mod table;
mod told;

use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use crate::envoy::{Gateway, envoy, gateway_on, shipped};
use crate::support::{Connection, Folder, PATIENCE, Tiergate, generous_manifests};
use crate::wire::premium;

/// An API of model servers.
struct Dialect {
    name: &'static str,
    /// Below the model's prefix.
    path: &'static str,
    /// The words of the prompt go where `WORDS` stands, the longest answer where `MOST` does.
    body: &'static str,
    /// Whether what is asked for is a stream: by the path, where the body says nothing of it.
    stream: bool,
}

const fn dialect(name: &'static str, path: &'static str, body: &'static str, stream: bool) -> Dialect {
    Dialect { name, path, body, stream }
}

const CHAT: &str = r#"{"messages":[{"role":"user","content":"WORDS"}],"max_tokens":MOST,"stream":STREAM}"#;
const COMPLETIONS: &str = r#"{"prompt":"WORDS","max_tokens":MOST,"stream":STREAM}"#;
const MESSAGES: &str =
    r#"{"messages":[{"role":"user","content":[{"type":"text","text":"WORDS"}]}],"max_tokens":MOST,"stream":STREAM}"#;
const RESPONSES: &str = r#"{"input":"WORDS","max_output_tokens":MOST,"stream":STREAM}"#;
const GEMINI: &str = r#"{"contents":[{"parts":[{"text":"WORDS"}]}],"generationConfig":{"maxOutputTokens":MOST}}"#;
const EMBEDDINGS: &str = r#"{"input":["WORDS"]}"#;
const OLLAMA_CHAT: &str =
    r#"{"messages":[{"role":"user","content":"WORDS"}],"options":{"num_predict":MOST},"stream":STREAM}"#;
const OLLAMA_GENERATE: &str = r#"{"prompt":"WORDS","options":{"num_predict":MOST},"stream":STREAM}"#;

const DIALECTS: [Dialect; 11] = [
    dialect("chat", "/v1/chat/completions", CHAT, false),
    dialect("chat", "/v1/chat/completions", CHAT, true),
    dialect("completions", "/v1/completions", COMPLETIONS, false),
    dialect("completions", "/v1/completions", COMPLETIONS, true),
    dialect("Messages", "/v1/messages", MESSAGES, false),
    dialect("Messages", "/v1/messages", MESSAGES, true),
    dialect("Responses", "/v1/responses", RESPONSES, false),
    dialect("Responses", "/v1/responses", RESPONSES, true),
    dialect("Gemini", "/v1beta/models/qwen3:generateContent", GEMINI, false),
    dialect("Gemini", "/v1beta/models/qwen3:streamGenerateContent?alt=sse", GEMINI, true),
    dialect("embeddings", "/v1/embeddings", EMBEDDINGS, false),
];

/// What Lua alone reads.
const LUA_DIALECTS: [Dialect; 5] = [
    dialect("Gemini's list", "/v1beta/models/qwen3:streamGenerateContent", GEMINI, true),
    dialect("Ollama's chat", "/api/chat", OLLAMA_CHAT, false),
    dialect("Ollama's chat", "/api/chat", OLLAMA_CHAT, true),
    dialect("Ollama's generate", "/api/generate", OLLAMA_GENERATE, false),
    dialect("Ollama's generate", "/api/generate", OLLAMA_GENERATE, true),
];

/// Every configuration, with what tiergate is told of it.
pub(crate) const SETUPS: [(&str, &[&str]); 4] = [
    (configs::BY_LOG, &[]),
    (configs::BY_CALL, &[]),
    ("envoy/classic.yaml", &["--enforce-limits", "rls"]),
    (configs::LUA, &[]),
];

/// A tiergate whose limits nobody reaches, behind an Envoy before the sample model.
struct World {
    _manifests: Folder,
    tiergate: Tiergate,
    gateway: Gateway,
    bearer: String,
}

impl World {
    async fn start(file: &str, flags: &[&str], model: &[&str]) -> Self {
        Self::by(&shipped(file), flags, model).await
    }

    async fn by(config: &str, flags: &[&str], model: &[&str]) -> Self {
        Self::on(&envoy(), config, flags, model).await
    }

    async fn on(envoy: &Path, config: &str, flags: &[&str], model: &[&str]) -> Self {
        let manifests = generous_manifests();
        let tiergate = Tiergate::start(&manifests.0, flags);
        let gateway = gateway_on(envoy, config, &[tiergate.grpc.port()], model).await;
        World { _manifests: manifests, tiergate, gateway, bearer: format!("Bearer {}", premium()) }
    }

    fn headers(&self) -> [(&str, &str); 2] {
        [("authorization", &self.bearer), ("content-type", "application/json")]
    }

    /// Waits until so many answers were reported, and the model has written its line of each.
    async fn reported(&self, answers: usize) {
        let started = Instant::now();
        let is_told = async || self.tiergate.metric("tiergate_usage_reports_total", "").await >= answers as u64;
        while !is_told().await || self.gateway.account().len() < answers {
            assert!(started.elapsed() < PATIENCE, "{answers} answers are reported: {:?}", self.gateway.account());
            tokio::task::yield_now().await;
        }
    }

    async fn charged(&self) -> u64 {
        self.tiergate.metric("tiergate_usage_tokens_total", "usage=\"total\"").await
    }

    /// With what was charged by bytes, or by what was counted until an answer broke off.
    async fn charged_in_all(&self) -> u64 {
        self.charged().await + self.tiergate.metric("tiergate_usage_tokens_total", "usage=\"estimated\"").await
    }

    /// The lines that `configs::telling` has Envoy write, once there are so many. Envoy writes when it likes; a request to its admin
    /// port makes it.
    async fn told(&self, file: &Path, lines: usize) -> Vec<Value> {
        let started = Instant::now();
        loop {
            crate::support::post(self.gateway.admin, "/reopen_logs", "").await;
            let text = std::fs::read_to_string(file).unwrap_or_default();
            let told: Vec<Value> =
                text.split_inclusive('\n').map_while(|line| serde_json::from_str(line).ok()).collect();
            if told.len() >= lines {
                return told;
            }
            assert!(started.elapsed() < PATIENCE, "{lines} requests are told of: {text}");
            tokio::task::yield_now().await;
        }
    }
}

impl World {
    /// Sends a request whose connection ends with its answer, which may be any.
    async fn ask(&self, dialect: &Dialect, body: &str) -> Connection {
        let mut connection = Connection::open(self.gateway.address).await;
        let head = format!(
            "POST {} HTTP/1.1\r\nhost: a\r\nconnection: close\r\nauthorization: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            dialect.path(),
            self.bearer,
            body.len()
        );
        connection.write((head + body).as_bytes()).await;
        connection
    }
}

impl Dialect {
    fn path(&self) -> String {
        format!("/llm/qwen3{}", self.path)
    }

    fn body(&self, words: usize, most: usize) -> String {
        let body = self.body.replace("WORDS", vec!["word"; words].join(" ").as_str());
        body.replace("MOST", &most.to_string()).replace("STREAM", &self.stream.to_string())
    }

    /// A body whose answer is sent as `manner` says, which `examples/model/manner.rs` lists.
    fn sample(&self, words: usize, most: usize, manner: &Value) -> String {
        let body = self.body(words, most);
        format!("{},\"sample\":{manner}}}", body.strip_suffix('}').unwrap())
    }
}

/// What the model says that it sent.
fn sent(line: &Value) -> u64 {
    line["input"].as_u64().unwrap() + line["output"].as_u64().unwrap()
}

impl World {
    /// Asks in each of these, so many rounds long; what was not charged as the model says.
    async fn uncharged(&self, dialects: &[&Dialect], rounds: usize) -> Vec<String> {
        let mut connection = Connection::open(self.gateway.address).await;
        let (mut answers, mut others) = (0, Vec::new());
        for round in 0..rounds {
            for dialect in dialects {
                let (path, body) = (dialect.path(), dialect.body(3 + round, 17 * round + 5));
                let before = self.charged().await;
                let answer = connection.send("POST", &path, &self.headers(), &body).await;
                assert_eq!(answer.status, 200, "{}, stream {}: {}", dialect.name, dialect.stream, answer.body);
                let is_stream = answer.header("content-type").unwrap().starts_with("text/event-stream");
                assert_eq!(is_stream, dialect.stream, "{}: {}", dialect.name, answer.body);
                answers += 1;
                self.reported(answers).await;
                let (charged, cost) = (self.charged().await - before, sent(self.gateway.account().last().unwrap()));
                if charged != cost {
                    others.push(format!("{}, stream {}: {charged} of {cost}", dialect.name, dialect.stream));
                }
            }
        }
        println!("{} of {answers} answers charged what they cost", answers - others.len());
        others
    }
}

#[tokio::test]
async fn every_answer_is_charged_what_it_cost_in_every_dialect() {
    for (file, flags) in SETUPS {
        println!("{file}:");
        let world = World::start(file, flags, &[]).await;
        assert_eq!(world.uncharged(&DIALECTS.iter().collect::<Vec<_>>(), 5).await, [""; 0], "{file}");
        assert_eq!(world.reports("refused").await, 0, "{file}");
        if file == configs::LUA {
            assert_eq!(world.gateway.stat("http.inference.lua.errors").await, 0);
        }
    }
}

#[tokio::test]
async fn a_long_answer_and_a_long_event_pass_and_are_charged() {
    for (file, flags) in SETUPS {
        let world = World::start(file, flags, &[]).await;
        let mut connection = Connection::open(world.gateway.address).await;
        for (answers, (stream, bytes)) in (1..).zip([(false, 2 << 20), (true, 9 << 10), (true, 200 << 10)]) {
            let dialect = DIALECTS.iter().find(|chat| chat.name == "chat" && chat.stream == stream).unwrap();
            let body = dialect.sample(10, 50, &json!({ "padding": bytes }));
            let before = world.charged().await;
            let answer = connection.send("POST", &dialect.path(), &world.headers(), &body).await;
            assert!(answer.status == 200 && answer.body.len() > bytes, "{file}: {} bytes", answer.body.len());
            world.reported(answers).await;
            println!("{file}, stream {stream}: {} bytes passed", answer.body.len());
            assert_eq!(world.charged().await - before, 60, "{file}, stream {stream}, {bytes}");
        }
    }
}

impl World {
    /// Asks for a chat of so many tokens, and leaves after so many events, or at its end.
    async fn leave_after(&self, events: usize, most: usize) {
        let dialect = DIALECTS.iter().find(|dialect| dialect.name == "chat" && dialect.stream).unwrap();
        let mut connection = Connection::open(self.gateway.address).await;
        let body = dialect.body(10, most);
        // The model names every header that came, each in an event of its own.
        let named: String = (0..80).map(|at| format!("x-{at}: a\r\n")).collect();
        let head = format!(
            "POST {} HTTP/1.1\r\nhost: a\r\nauthorization: {}\r\n{named}content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            dialect.path(),
            self.bearer,
            body.len()
        );
        connection.write((head + &body).as_bytes()).await;
        let (mut read, mut seen, mut counted) = (Vec::new(), 0, 0);
        while seen < events && !read.ends_with(b"[DONE]\n\n\r\n0\r\n\r\n") {
            let some = tokio::time::timeout(PATIENCE, connection.stream.read_buf(&mut read)).await.expect("it goes on");
            assert!(some.unwrap() > 0, "{}", String::from_utf8_lossy(&read));
            // An event may end in what comes next.
            let whole = read.len().saturating_sub(5).max(counted);
            seen += read[counted..].windows(6).take(whole - counted).filter(|part| *part == b"data: ").count();
            counted = whole;
        }
    }
}

/// With running totals, and without, where what its bytes usually cost is charged: as the model says, none is free.
#[tokio::test]
async fn streams_that_are_left_anywhere_are_charged_about_what_was_sent() {
    const STREAMS: usize = 200;
    const LONGEST: usize = 60;
    let mut random = std::process::id().wrapping_mul(2_654_435_761);
    println!("seed {random}");
    let (native, lua) = (shipped(configs::BY_LOG), shipped(configs::LUA));
    let without = |file: &str, running: &str, rest: &str| {
        assert_eq!(file.matches(running).count(), 1, "running totals are asked for");
        file.replace(running, rest)
    };
    for (what, config, tells_totals) in [
        ("native, with running totals", &native, true),
        ("native, without", &without(&native, "continuous_usage_stats: true\n", "\n"), false),
        ("Lua, with running totals", &lua, true),
        ("Lua, without", &without(&lua, ", \"continuous_usage_stats\"}", "}"), false),
    ] {
        let world = World::by(config, &[], &["--pause", "2"]).await;
        // What answers usually cost.
        for length in [300, 500, 700, 900] {
            world.leave_after(usize::MAX, length).await;
        }
        world.reported(4).await;
        let before = world.charged_in_all().await;
        for _ in 0..STREAMS / 20 {
            let left = (0..20).map(|_| {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                world.leave_after(1 + (random >> 16) as usize % LONGEST, 10 * LONGEST)
            });
            futures_util::future::join_all(left.collect::<Vec<_>>()).await;
        }
        world.reported(4 + STREAMS).await;
        let (charged, account) = (world.charged_in_all().await - before, world.gateway.account());
        let sent: u64 = account.iter().skip(4).map(sent).sum();
        assert!(account.iter().skip(4).all(|line| line["ended"] == false), "they were left");
        println!("{what}: {STREAMS} streams were left, {charged} tokens charged of {sent}");
        assert_eq!(world.tiergate.metric("tiergate_usage_reports_total", "no_usage").await, 0, "none is free");
        // What is charged is the last total that came: of each stream but the events that were on their way, a token each.
        let apart = if tells_totals { 5 * STREAMS as u64 } else { sent / 5 };
        assert!(charged.abs_diff(sent) <= apart, "{what}: {charged} of {sent}");
    }
}

/// Running totals are asked for, so that the last one before the client left is what is charged.
#[tokio::test]
async fn a_stream_that_its_client_leaves_is_charged_what_it_had_said() {
    for (file, flags) in SETUPS {
        let world = World::start(file, flags, &["--pause", "30"]).await;
        for (at, name) in ["chat", "completions", "Gemini"].into_iter().enumerate() {
            let dialect = DIALECTS.iter().find(|dialect| dialect.name == name && dialect.stream).unwrap();
            let before = world.charged_in_all().await;
            let mut connection = Connection::open(world.gateway.address).await;
            let (body, bearer) = (dialect.body(10, 500), &world.bearer);
            let head = format!(
                "POST {} HTTP/1.1\r\nhost: a\r\nauthorization: {bearer}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                dialect.path(),
                body.len()
            );
            connection.write((head + &body).as_bytes()).await;
            let mut read = Vec::new();
            while String::from_utf8_lossy(&read).matches("data: ").count() < 4 {
                assert!(connection.stream.read_buf(&mut read).await.unwrap() > 0, "{}", String::from_utf8_lossy(&read));
            }
            drop(connection);
            world.reported(at + 1).await;
            let (charged, line) = (world.charged_in_all().await - before, world.gateway.account().pop().unwrap());
            assert_eq!(line["ended"], false, "{name}: the model was left while it wrote");
            println!("{file}, {name}: charged {charged} of {} that were sent", sent(&line));
            // What the gateway had read: at least the prompt and three events of the client's, at most what was sent.
            assert!((10 + 60..=sent(&line)).contains(&charged), "{name}: {charged}, {line}");
        }
    }
}
