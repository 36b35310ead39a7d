//! The model's account beside tiergate's, to the token: every reader, on each Envoy that it is for, over each channel, in every dialect,
//! whole and streamed, however the answer is written and cut.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value, json};

use super::configs::{self, BY_CALL, BY_LOG, Channel, LUA};
use super::{DIALECTS, Dialect, LUA_DIALECTS, World};
use crate::envoy::{envoy, older, shipped};
use crate::support::{Connection, soak};

const CONNECTIONS: usize = 32;
/// How a model may write what it says, by turns.
const MANNERS: [&str; 9] = [
    r"{}",
    r#"{"cut":1}"#,
    r#"{"cut":7,"line_end":"crlf","text":"é 漢 one"}"#,
    r#"{"cut":3,"comments":true,"data_lines":true}"#,
    r#"{"cut":11,"reversed":true,"escaped":true}"#,
    r#"{"usage":"always","no_done":true}"#,
    r#"{"cut":5,"usage":"always","reversed":true,"line_end":"crlf"}"#,
    r#"{"cut":4096,"padding":20000}"#,
    r#"{"padding":90000,"escaped":true}"#,
];
/// Which Envoy's own reader does not know: lines that end with CR alone.
const LUA_MANNERS: [&str; 1] = [r#"{"cut":5,"line_end":"cr","comments":true}"#];
const NUMBERS: [&str; 5] = ["total", "input", "output", "cached", "reasoning"];

/// What `ai_protocol_manager` reads.
const MANAGED: [&str; 4] = ["chat", "Messages", "Responses", "Gemini"];

/// A reader, what it reads, and what its reports come over.
struct Reader {
    kind: Kind,
    channel: Channel,
    config: String,
    dialects: Vec<&'static Dialect>,
    manners: Vec<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Envoy's own filters for JSON and events.
    Native,
    Lua,
    /// Envoy's own filter for these APIs, whose numbers an access log alone can carry.
    AiProtocolManager,
}

/// What one dialect's answers cost, as somebody says.
type Cost = BTreeMap<&'static str, u64>;

impl Reader {
    fn native(channel: Channel) -> Self {
        let config = shipped(if channel == Channel::Call { BY_CALL } else { BY_LOG });
        let dialects = DIALECTS.iter().collect();
        Reader { kind: Kind::Native, channel, config, dialects, manners: MANNERS.to_vec() }
    }

    fn lua(channel: Channel) -> Self {
        let config = if channel == Channel::Call { configs::lua_by_call() } else { shipped(LUA) };
        let dialects = DIALECTS.iter().chain(&LUA_DIALECTS).collect();
        let manners = MANNERS.into_iter().chain(LUA_MANNERS).collect();
        Reader { kind: Kind::Lua, channel, config, dialects, manners }
    }

    fn ai_protocol_manager() -> Self {
        let dialects = DIALECTS.iter().filter(|dialect| MANAGED.contains(&dialect.name)).collect();
        let (config, channel) = (configs::with_ai_protocol_manager(), Channel::Log);
        Reader { kind: Kind::AiProtocolManager, channel, config, dialects, manners: MANNERS.to_vec() }
    }

    /// The body of a request of this number.
    fn body(&self, dialect: &Dialect, number: usize) -> String {
        let manner = self.manners[number % self.manners.len()];
        let mut manner: serde_json::Map<String, Value> = serde_json::from_str(manner).unwrap();
        manner.entry("text").or_insert("one two é".into());
        manner.insert("reasoning".to_owned(), (number % 10).into());
        // What a cache had of Messages stands beside the input, where Envoy's own reader does not look.
        let cached = if self.kind == Kind::Native && dialect.name == "Messages" { 0 } else { number % 3 };
        manner.insert("cached".to_owned(), cached.into());
        // Of a stream with an event that is no JSON it tells nothing: `[DONE]` behind an empty line of data is one.
        if self.kind == Kind::AiProtocolManager && manner.contains_key("comments") {
            manner.insert("no_done".to_owned(), true.into());
        }
        dialect.sample(3 + number % 5, 20 + number, &Value::from(manner))
    }

    /// What the model says that its answers cost, as far as the dialect can tell it and the reader reads it.
    fn cost(&self, dialect: &Dialect, lines: &[Value]) -> Cost {
        let sum = |name: &str| lines.iter().map(|line| line[name].as_u64().unwrap()).sum::<u64>();
        let tells_reasoning = !matches!(dialect.name, "Messages" | "embeddings") && !dialect.name.starts_with("Ollama");
        let tells_cached = dialect.name != "embeddings" && !dialect.name.starts_with("Ollama");
        let reasoning = if tells_reasoning { sum("reasoning") } else { 0 };
        let cached = if tells_cached { sum("cached") } else { 0 };
        // Gemini counts thoughts beside the answer, and Envoy's own reader adds nothing.
        let apart = if self.kind == Kind::Native && dialect.name == "Gemini" { reasoning } else { 0 };
        let numbers = [sum("input") + sum("output"), sum("input"), sum("output") - apart, cached, reasoning];
        NUMBERS.into_iter().zip(numbers).collect()
    }

    /// Sends so many requests of a dialect at so many connections, and compares.
    async fn cell(&self, world: &World, dialect: &Dialect, requests: usize) -> Result<u64, String> {
        let (before, known) = (world.costs().await, world.gateway.account().len());
        let next = Cell::new(0);
        let ask = async || {
            let mut connection = Connection::open(world.gateway.address).await;
            while next.get() < requests {
                let body = self.body(dialect, next.replace(next.get() + 1));
                let answer = connection.send("POST", &dialect.path(), &world.headers(), &body).await;
                assert_eq!(answer.status, 200, "{}: {body}: {}", dialect.name, answer.body);
            }
        };
        futures_util::future::join_all((0..CONNECTIONS).map(|_| ask())).await;
        world.reported(known + requests).await;
        let lines = world.gateway.account().split_off(known);
        assert!(lines.iter().all(|line| line["dialect"] == dialect.name && line["ended"] == true), "{lines:?}");
        let (after, expected) = (world.costs().await, self.cost(dialect, &lines));
        let charged: Cost = after.into_iter().map(|(name, number)| (name, number - before[name])).collect();
        if charged == expected { Ok(charged["total"]) } else { Err(format!("charged {charged:?}, sent {expected:?}")) }
    }

    async fn runs_on(&self, version: &str, envoy: &Path) {
        let world = World::on(envoy, &self.config, &[], &[]).await;
        let (requests, mut faults, mut table) = (soak(100, 500), Vec::new(), String::new());
        for dialect in &self.dialects {
            let how = if dialect.stream { "streamed" } else { "whole" };
            let what = format!("{:?} on {version}, {:?}, {}, {how}", self.kind, self.channel, dialect.name);
            match self.cell(&world, dialect, requests).await {
                Ok(tokens) => table += &format!("{what}: {requests} answers, {tokens} tokens sent, all charged\n"),
                Err(fault) => faults.push(format!("{what}: {fault}")),
            }
        }
        println!("{table}");
        assert!(faults.is_empty(), "{faults:#?}");
        for settlement in ["estimated", "no_usage", "duplicate", "unknown"] {
            assert_eq!(world.reports(settlement).await, 0, "{settlement}");
        }
        let lines = world.gateway.account();
        let ids: BTreeSet<&str> = lines.iter().filter_map(|line| line["x-request-id"].as_str()).collect();
        assert_eq!(ids.len(), lines.len(), "each request was answered once");
        if self.kind == Kind::Lua {
            assert_eq!(world.gateway.stat("http.inference.lua.errors").await, 0);
        }
    }
}

impl World {
    /// How many reports were settled so.
    pub(super) async fn reports(&self, settlement: &str) -> u64 {
        self.tiergate.metric("tiergate_usage_reports_total", &format!("\"{settlement}\"")).await
    }

    /// What tiergate says that answers cost.
    async fn costs(&self) -> Cost {
        let mut told = Cost::new();
        for name in NUMBERS {
            let label = format!("usage=\"{name}\"");
            told.insert(name, self.tiergate.metric("tiergate_usage_tokens_total", &label).await);
        }
        told
    }
}

/// What the model refuses or fails at costs nothing, and what it says that it cost, if it says so.
#[tokio::test]
async fn a_failure_of_the_model_costs_what_it_says() {
    for (file, flags) in super::SETUPS {
        let world = World::start(file, flags, &[]).await;
        let dialects = [&DIALECTS[0], &DIALECTS[1], &DIALECTS[5], &DIALECTS[9]];
        let mut answers = 0;
        for dialect in dialects {
            for (status, usage, settlement) in
                [(400, "usual", "no_usage"), (503, "usual", "no_usage"), (500, "always", "settled")]
            {
                let (before, told) = (world.charged().await, world.reports(settlement).await);
                let body = dialect.sample(3, 20, &json!({"status": status, "usage": usage}));
                let answer = world.ask(dialect, &body).await.closed().await;
                assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
                answers += 1;
                world.reported(answers).await;
                let line = world.gateway.account().pop().unwrap();
                assert_eq!(world.charged().await - before, super::sent(&line), "{file}, {}, {line}", dialect.name);
                assert_eq!(world.reports(settlement).await, told + 1, "{file}, {}, {status}", dialect.name);
            }
        }
    }
}

#[tokio::test]
async fn envoys_own_readers_by_a_call() {
    Reader::native(Channel::Call).runs_on("1.40.0", &envoy()).await;
}

#[tokio::test]
async fn envoys_own_readers_by_a_call_on_older_1_38_3() {
    Reader::native(Channel::Call).runs_on("1.38.3", &older("1.38.3")).await;
}

#[tokio::test]
async fn envoys_own_readers_by_a_log() {
    Reader::native(Channel::Log).runs_on("1.40.0", &envoy()).await;
}

#[tokio::test]
async fn envoys_own_readers_by_a_log_on_older_1_38_3() {
    Reader::native(Channel::Log).runs_on("1.38.3", &older("1.38.3")).await;
}

#[tokio::test]
async fn ai_protocol_manager_by_a_log() {
    Reader::ai_protocol_manager().runs_on("1.40.0", &envoy()).await;
}

#[tokio::test]
async fn lua_by_a_call() {
    Reader::lua(Channel::Call).runs_on("1.40.0", &envoy()).await;
}

#[tokio::test]
async fn lua_by_a_call_on_older_1_38_3() {
    Reader::lua(Channel::Call).runs_on("1.38.3", &older("1.38.3")).await;
}

#[tokio::test]
async fn lua_by_a_call_on_older_1_36_2() {
    Reader::lua(Channel::Call).runs_on("1.36.2", &older("1.36.2")).await;
}

#[tokio::test]
async fn lua_by_a_log() {
    Reader::lua(Channel::Log).runs_on("1.40.0", &envoy()).await;
}

#[tokio::test]
async fn lua_by_a_log_on_older_1_38_3() {
    Reader::lua(Channel::Log).runs_on("1.38.3", &older("1.38.3")).await;
}

#[tokio::test]
async fn lua_by_a_log_on_older_1_36_2() {
    Reader::lua(Channel::Log).runs_on("1.36.2", &older("1.36.2")).await;
}
