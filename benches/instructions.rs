//! Instructions of what every request pays for, counted by Valgrind's callgrind: the same on a busy machine and on an idle one.
//!
//! Each operation runs in a process of its own; its set-up is not counted. `--check` compares with `benches/instructions.txt` and fails where a count rose by more than 5 %;
//! `--record` writes that file anew. Counts depend on the compiler, so they are compared only for the one they were recorded
//! with.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a bench that cannot be set up has to stop"
)]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::process::{Command, ExitCode};
use std::time::Duration;

use envoy_types::pb::envoy::service::auth::v3::CheckRequest;
use prost::Message;
use tiergate::clock::{Clock, Micros, Nanos};
use tiergate::limit::{AccountKey, Cost, Demand, Memory, Quota};
use tiergate::listen::ext_authz::to_request;
use tiergate::metrics::Metrics;
use tiergate::respond::{Style, check_response};

mod support;

use self::support::{captured, gate, gate_with_limits, now};

/// What is counted: its name, and what sets it up and runs it.
const OPERATIONS: &[(&str, fn())] = &[
    ("decode the request (prost)", decode),
    ("warm decision", || decide(&gate(&captured_request()))),
    ("take of one limit", || take(1)),
    ("take of two limits of one caller", || take(2)),
    ("answer of a decision", answer),
    ("encode the answer (prost)", encode),
    ("count a decision (metrics)", count_decision),
    ("warm decision, 10 limits", || decide(&gate_with_limits(&captured_request(), 10))),
    ("warm decision, 10,000 limits", || decide(&gate_with_limits(&captured_request(), 10_000))),
];

/// Not compared with a limit: theirs is compared with each other's.
const SCALING: [&str; 2] = ["warm decision, 10 limits", "warm decision, 10,000 limits"];
const TIMES: u64 = 1600;
/// In percent.
const TOLERANCE: u64 = 5;
const SCALING_TOLERANCE: u64 = 10;

/// The one function whose instructions are counted, with all that it calls.
#[inline(never)]
fn tiergate_counted(operation: &mut dyn FnMut()) {
    for _ in 0..TIMES {
        operation();
    }
}

fn measure(mut operation: impl FnMut()) {
    // What happens only once is not counted.
    operation();
    tiergate_counted(&mut operation);
}

fn captured_request() -> CheckRequest {
    CheckRequest::decode(captured().as_slice()).expect("a CheckRequest")
}

fn decode() {
    let bytes = captured();
    measure(|| drop(black_box(CheckRequest::decode(black_box(bytes.as_slice())))));
}

fn decide(gate: &tiergate::gate::Gate) {
    let request = captured_request();
    let request = to_request(&request).expect("HTTP attributes");
    let clock = Clock::start();
    measure(|| {
        let decision = now(gate.check(black_box(&request), clock.now()));
        assert!(black_box(decision).outcome.is_ok());
    });
}

fn take(limits: usize) {
    let memory = Memory::default();
    let keys = tiergate::hash::KeyedHasher::random();
    let quota = Quota::new(1_000_000_000, Duration::from_secs(60));
    let mut at = 0;
    measure(|| {
        at += 1;
        let account = AccountKey(keys.hash(black_box("jland-78028f6d")));
        let demand = |cell| Demand { account, cell: tiergate::limit::CellId(cell), quota, cost: Cost::Take(1) };
        let demands = [demand(1), demand(2)];
        assert!(memory.admit(&demands[..limits], Micros(at)).admitted());
    });
}

fn answer() {
    let request = captured_request();
    let http = to_request(&request).expect("HTTP attributes");
    let decision = now(gate(&request).check(&http, Nanos(1)));
    measure(|| drop(black_box(check_response(black_box(&decision), Some(&http.headers), Style::default()))));
}

fn encode() {
    let request = captured_request();
    let http = to_request(&request).expect("HTTP attributes");
    let decision = now(gate(&request).check(&http, Nanos(1)));
    let response = check_response(&decision, Some(&http.headers), Style::default());
    measure(|| drop(black_box(black_box(&response).encode_to_vec())));
}

fn count_decision() {
    let request = captured_request();
    let http = to_request(&request).expect("HTTP attributes");
    let (gate, metrics) = (gate(&request), Metrics::new());
    metrics.published(&gate.policies.current(), &[]);
    let decision = now(gate.check(&http, Nanos(1)));
    measure(|| metrics.decided(black_box(&decision), Duration::from_micros(3)));
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let flag = |name: &str| arguments.iter().any(|argument| argument == name);
    if let [run, name] = arguments.as_slice()
        && run == "--run"
    {
        let (_, operation) = OPERATIONS.iter().find(|(known, _)| known == name).expect("a known operation");
        operation();
        return ExitCode::SUCCESS;
    }
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("instructions: not counted: valgrind is not installed (Debian: `apt-get install valgrind`)");
        return ExitCode::SUCCESS;
    }
    let counts: BTreeMap<&str, u64> = OPERATIONS.iter().map(|(name, _)| (*name, count(name))).collect();
    if flag("--record") {
        record(&counts);
    }
    let limits = recorded();
    let comparable = limits.compiler == compiler();
    let mut failed = false;
    println!("{:<36} {:>12} {:>12}", "instructions of", "now", "recorded");
    for (name, _) in OPERATIONS {
        let (count, limit) = (counts[name], limits.counts.get(*name).copied());
        let rose = limit.is_some_and(|limit| comparable && count * 100 > limit * (100 + TOLERANCE));
        let remark = if rose { format!("  rose by more than {TOLERANCE} %") } else { String::new() };
        println!("{name:<36} {count:>12} {:>12}{remark}", limit.map_or_else(|| "-".to_owned(), |n| n.to_string()));
        failed |= rose || (limit.is_none() && !SCALING.contains(name));
    }
    let [few, many] = SCALING.map(|name| counts[name]);
    println!("10,000 limits cost {:.2} times what 10 do", many as f64 / few as f64);
    failed |= many.abs_diff(few) * 100 > few * SCALING_TOLERANCE;
    if !comparable {
        println!("not compared: recorded with {}, this is {}", limits.compiler, compiler());
    }
    if failed {
        println!("a count rose, or is not recorded; if it has to be so: cargo bench --bench instructions -- --record");
    }
    if flag("--check") && failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// The instructions of one run of the operation.
fn count(name: &str) -> u64 {
    let this = std::env::current_exe().expect("this program");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--toggle-collect=*tiergate_counted*", "--callgrind-out-file=/dev/null"])
        .arg(this)
        .args(["--run", name])
        .output()
        .expect("valgrind runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    let collected = text.lines().find_map(|line| line.split_once("Collected :")).expect("a count").1;
    collected.trim().parse::<u64>().expect("a number") / TIMES
}

/// What `benches/instructions.txt` says.
struct Recorded {
    compiler: String,
    counts: BTreeMap<String, u64>,
}

fn recorded() -> Recorded {
    let text = std::fs::read_to_string(support::root("benches/instructions.txt")).unwrap_or_default();
    let mut lines = text.lines();
    let compiler = lines.next().unwrap_or_default().to_owned();
    let pair =
        |line: &str| line.rsplit_once(' ').map(|(name, n)| (name.trim().to_owned(), n.parse().expect("a count")));
    Recorded { compiler, counts: lines.filter_map(pair).collect() }
}

fn record(counts: &BTreeMap<&str, u64>) {
    let mut text = format!("{}\n", compiler());
    for (name, _) in OPERATIONS.iter().filter(|(name, _)| !SCALING.contains(name)) {
        text.push_str(&format!("{name:<36} {}\n", counts[name]));
    }
    std::fs::write(support::root("benches/instructions.txt"), text).expect("benches/instructions.txt is written");
}

/// Compilers of one minor version make the same code, or nearly.
fn compiler() -> String {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let output = Command::new(rustc).arg("--version").output().expect("rustc runs");
    let version = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = version.split(' ').nth(1).unwrap_or_default().rsplit_once('.').map(|(minor, _)| minor.to_owned());
    format!("rustc {} on {}", version.unwrap_or_default(), std::env::consts::ARCH)
}

/// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
