//! What usage costs to read and to report: the CPU time that Envoy and tiergate take for a call, and for a chunk of a stream, by
//! each reader and channel that `envoy/` ships. All take turns in one run. Left out: the model's own time, TLS, and other load.

use std::cell::Cell;
use std::time::Duration;

use serde_json::json;

use super::configs::{BY_CALL, BY_LOG, LUA, lua_by_call, with_ai_protocol_manager};
use super::{DIALECTS, Dialect, World};
use crate::envoy::shipped;
use crate::support::Connection;

const ROUNDS: usize = 5;
const CONNECTIONS: usize = 32;
const CALLS: usize = 1_600;
const STREAMS: usize = 160;
/// Chunks of a short stream, and of a long one.
const CHUNKS: [usize; 2] = [20, 220];
/// So that each chunk comes alone.
const PAUSE_MS: u64 = 2;

/// CPU time in microseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    envoy: f64,
    tiergate: f64,
}

struct Setup {
    name: &'static str,
    world: World,
    calls: Vec<Spent>,
    chunks: Vec<Spent>,
}

impl Spent {
    fn until(self, later: Spent, times: usize) -> Spent {
        let of = |before: f64, after: f64| (after - before) / times as f64;
        Spent { envoy: of(self.envoy, later.envoy), tiergate: of(self.tiergate, later.tiergate) }
    }
}

impl Setup {
    async fn start(name: &'static str, config: &str) -> Self {
        Setup { name, world: World::by(config, &[], &[]).await, calls: Vec::new(), chunks: Vec::new() }
    }

    fn spent(&self) -> Spent {
        let of = |cpu: Duration| cpu.as_secs_f64() * 1e6;
        Spent { envoy: of(self.world.gateway.cpu()), tiergate: of(self.world.tiergate.process.cpu()) }
    }

    /// What a request costs of `dialect`, whose answer has so many words: each is a chunk of a stream.
    async fn request(&self, dialect: &Dialect, requests: usize, words: usize) -> Spent {
        let (before, known) = (self.spent(), self.world.gateway.account().len());
        let pause = if dialect.stream { PAUSE_MS } else { 0 };
        let manner = json!({"pause_ms": pause, "text": vec!["word"; words].join(" ")});
        let body = dialect.sample(10, words, &manner);
        let left = Cell::new(requests);
        let ask = async || {
            let mut connection = Connection::open(self.world.gateway.address).await;
            while let Some(others) = left.get().checked_sub(1) {
                left.set(others);
                let answer = connection.send("POST", &dialect.path(), &self.world.headers(), &body).await;
                assert_eq!(answer.status, 200, "{}: {}", self.name, answer.body);
            }
        };
        futures_util::future::join_all((0..CONNECTIONS).map(|_| ask())).await;
        // Each look costs tiergate a page of metrics, so there are few.
        let mut looks = tokio::time::interval(Duration::from_millis(250));
        while self.world.tiergate.metric("tiergate_usage_reports_total", "").await < (known + requests) as u64 {
            looks.tick().await;
        }
        before.until(self.spent(), requests)
    }

    async fn round(&mut self) {
        let chat = |stream| DIALECTS.iter().find(|dialect| dialect.name == "chat" && dialect.stream == stream).unwrap();
        self.calls.push(self.request(chat(false), CALLS, 60).await);
        let [short, long] = CHUNKS;
        let few = self.request(chat(true), STREAMS, short).await;
        let many = self.request(chat(true), STREAMS, long).await;
        self.chunks.push(few.until(many, long - short));
    }
}

fn median(costs: &[Spent], of: fn(&Spent) -> f64) -> f64 {
    let mut numbers: Vec<f64> = costs.iter().map(of).collect();
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

#[tokio::test]
#[ignore = "measures, and holds nothing"]
async fn what_each_reader_and_channel_costs() {
    let mut setups = [
        Setup::start("native, call", &shipped(BY_CALL)).await,
        Setup::start("native, log", &shipped(BY_LOG)).await,
        Setup::start("ai_protocol_manager, log", &with_ai_protocol_manager()).await,
        Setup::start("Lua, call", &lua_by_call()).await,
        Setup::start("Lua, log", &shipped(LUA)).await,
    ];
    for _ in 0..ROUNDS {
        for setup in &mut setups {
            setup.round().await;
        }
    }
    println!("CPU in µs, medians of {ROUNDS} rounds      Envoy, call  tiergate, call  Envoy, chunk  tiergate, chunk");
    for Setup { name, calls, chunks, .. } in &setups {
        let [one, two] =
            [calls, chunks].map(|costs| [median(costs, |cost| cost.envoy), median(costs, |cost| cost.tiergate)]);
        println!("{name:<32} {:>16.1} {:>15.1} {:>13.2} {:>16.2}", one[0], one[1], two[0], two[1]);
    }
}
