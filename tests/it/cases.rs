//! `tests/cases/*.yaml`: what is asked of these manifests, and what is answered.
//!
//! The same files are asked three ways, in process, through Envoy with one call, and through Envoy with two, and each way has
//! to give the same answers.

mod behind_envoy;
mod in_process;
mod sent;
mod table;

use std::collections::{BTreeMap, BTreeSet};

use self::behind_envoy::BehindEnvoy;
use self::in_process::InProcess;
use self::sent::{Got, REASON, Sent};
use self::table::{Answer, Table};
use crate::support::root;

/// How a gateway asks tiergate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Setup {
    OneCall,
    TwoCalls,
}

/// One of the three ways.
enum Way {
    InProcess(Box<InProcess>),
    BehindEnvoy(Box<BehindEnvoy>),
}

/// What of an answer has to be the same in whichever way it was asked for, and whatever a case says of it.
#[derive(Debug, PartialEq, Eq)]
struct Essence {
    case: String,
    status: u16,
    code: Option<String>,
    /// Those of limits and refusals; no times.
    headers: BTreeMap<String, String>,
}

/// As many as the issue asks for, at least.
const CASES: usize = 120;

fn tables() -> Vec<Table> {
    let files = std::fs::read_dir(root("tests/cases")).unwrap().map(|entry| entry.unwrap().path());
    let files: BTreeSet<_> =
        files.filter(|path| path.extension().is_some_and(|extension| extension == "yaml")).collect();
    files.iter().map(|path| Table::read(path)).collect()
}

/// Asks every case of `table` in its order, and compares what is answered with what it says.
async fn ask(table: &Table, way: &mut Way) -> Vec<Essence> {
    let (mut essences, mut faults) = (Vec::new(), Vec::new());
    for case in &table.cases {
        let name = format!("{}: {}", table.name, case.name);
        let sent = Sent::of(table, case);
        for time in 1..=case.times {
            let got = match way {
                Way::InProcess(gate) => gate.ask(&sent).await,
                Way::BehindEnvoy(gateway) => gateway.ask(&sent).await,
            };
            // The headers of the last one tell of all before.
            for fault in case.answer.faults(&got, time == case.times) {
                faults.push(format!("{name} ({time} of {}): {fault}; {}", case.times, got.body));
            }
            essences.push(Essence::of(&name, &got));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    essences
}

impl Essence {
    fn of(case: &str, got: &Got) -> Self {
        let timed = |name: &str| name == "retry-after" || name.contains("-reset");
        let telling = |name: &str| {
            name.starts_with("x-ratelimit-") || ["retry-after", "www-authenticate", REASON].contains(&name)
        };
        let headers = got.headers.iter().filter(|(name, _)| telling(name));
        let value = |name: &str, value: &str| if timed(name) { "some time".to_owned() } else { value.to_owned() };
        Essence {
            case: case.to_owned(),
            status: got.status,
            code: got.code().map(str::to_owned),
            headers: headers.map(|(name, text)| (name.clone(), value(name, text))).collect(),
        }
    }
}

impl Answer {
    /// Everything in which `got` is another answer.
    fn faults(&self, got: &Got, headers_too: bool) -> Vec<String> {
        let mut faults = Vec::new();
        let mut compare = |what: &str, expected: Option<&str>, found: Option<&str>| {
            let fits = match (expected, found) {
                (Some("*"), found) => found.is_some(),
                (expected, found) => expected == found,
            };
            if !fits {
                faults.push(format!("{what}: {expected:?} is expected, {found:?} found"));
            }
        };
        compare("status", Some(&self.status.to_string()), Some(&got.status.to_string()));
        compare("code", self.code.as_deref(), got.code());
        if !self.headers.contains_key(REASON) {
            compare(REASON, self.code.as_deref(), got.header(REASON));
        }
        if headers_too {
            for (name, value) in &self.headers {
                compare(name, value.as_deref(), got.header(name));
            }
        }
        for (name, value) in &self.sees {
            let seen = got.seen.as_ref().and_then(|seen| seen.get(name)).map(String::as_str);
            compare(&format!("the model's {name}"), value.as_deref(), seen);
        }
        if got.seen.is_some() != (self.status == 200) {
            faults.push("the model is asked where the answer is 200, and nowhere else".to_owned());
        }
        faults
    }
}

async fn in_process(table: &Table, setup: Setup) -> Vec<Essence> {
    ask(table, &mut Way::InProcess(Box::new(InProcess::start(table, setup)))).await
}

async fn through_envoy(setup: Setup) {
    for table in tables() {
        let mut gateway = Way::BehindEnvoy(Box::new(BehindEnvoy::start(&table, setup).await));
        let through = ask(&table, &mut gateway).await;
        assert_eq!(through, in_process(&table, setup).await, "{}", table.name);
    }
}

#[tokio::test]
async fn the_cases_hold_in_process() {
    let tables = tables();
    let mut names = BTreeSet::new();
    let mut asked = 0;
    for table in &tables {
        let with_one = in_process(table, Setup::OneCall).await;
        assert_eq!(with_one, in_process(table, Setup::TwoCalls).await, "{}", table.name);
        asked += with_one.len();
        for case in &table.cases {
            assert!(names.insert(format!("{}: {}", table.name, case.name)), "{} is there twice", case.name);
        }
    }
    println!("{} cases in {} tables, {asked} requests", names.len(), tables.len());
    assert!(names.len() >= CASES, "{} cases", names.len());
}

#[tokio::test]
async fn the_cases_hold_through_envoy_with_one_call() {
    through_envoy(Setup::OneCall).await;
}

#[tokio::test]
async fn the_cases_hold_through_envoy_with_two_calls() {
    through_envoy(Setup::TwoCalls).await;
}
