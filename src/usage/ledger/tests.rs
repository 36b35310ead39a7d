use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use smallvec::smallvec;

use super::*;
use crate::clock::Micros;
use crate::limit;
use crate::limit::Instance;
use crate::test_util::Scratch;
use crate::usage::{Channel, Charged, Forecast, ModelId, Report, Reservation, Settlement, Usage};

/// Longer than anything takes that is well.
const PATIENCE: Duration = Duration::from_secs(30);

fn options(path: &Path) -> Options {
    Options {
        path: path.to_owned(),
        max_size: 1 << 30,
        max_age: Duration::from_secs(3600),
        keep: 0,
        waits: Waits::default(),
    }
}

fn line(user: &str) -> Line {
    Line { user: user.into(), total: 1, ..Line::default() }
}

fn users(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str::<Line>(line).unwrap().user.to_string()).collect()
}

fn full() -> Line {
    Line {
        time: Micros(1_800_000_000_123_999),
        decision: "d1".into(),
        user: "ann \"\n\u{1b}".into(),
        tier: "free".into(),
        namespace: "llm".into(),
        model: "qwen3".into(),
        route: "maas/models".into(),
        input: Some(20),
        output: Some(-40),
        cached: Some(1),
        reasoning: Some(2),
        total: i64::MIN,
        charged: [(Arc::from("maas/tokens/free"), i64::MAX)].into(),
        quality: Quality::Counted,
        channel: Cow::Borrowed("rate_limit"),
        duration_ms: Some(u64::MAX),
        status: Some(200),
        correction: true,
        corrects: Some(Quality::Unsettled),
    }
}

#[test]
fn a_line_is_as_it_is_documented_and_reads_back() {
    let text = serde_json::to_string(&full()).unwrap();
    let expected = r#"{"time":"2027-01-15T08:00:00.123Z","decision":"d1","user":"ann \"\n\u001b","tier":"free","namespace":"llm","model":"qwen3","route":"maas/models","input":20,"output":-40,"cached":1,"reasoning":2,"total":-9223372036854775808,"charged":{"maas/tokens/free":9223372036854775807},"quality":"counted","channel":"rate_limit","duration_ms":18446744073709551615,"status":200,"correction":true,"corrects":"unsettled"}"#;
    assert_eq!(text, expected);
    let read: Line = serde_json::from_str(&text).unwrap();
    assert_eq!(read, Line { time: Micros(1_800_000_000_123_000), ..full() });
    let least = serde_json::to_string(&Line::default()).unwrap();
    let expected = r#"{"time":"1970-01-01T00:00:00.000Z","decision":"","user":"","tier":"","namespace":"","model":"","route":"","total":0,"charged":{},"quality":"unsettled","channel":""}"#;
    assert_eq!(least, expected);
    assert_eq!(serde_json::from_str::<Line>(&least).unwrap(), Line::default());
    // No time is too late to be written.
    assert!(serde_json::to_string(&Line { time: Micros(u64::MAX), ..full() }).unwrap().contains("9999-12-"));
}

#[test]
fn what_was_settled_has_a_line_and_nothing_else() {
    let reservation = Reservation {
        minted: Micros(1_000_000),
        instance: Instance(0),
        serial: 0,
        is_call: true,
        is_priced: false,
        decision: Some(0),
        tier: "free".into(),
        model: ModelId::of("llm/granite"),
        model_name: "llm/granite".into(),
        user: "ada".into(),
        route_name: "llm/r".into(),
        route: 0,
        forecast: Forecast::default(),
        holds: smallvec![],
    };
    let usage = Usage { total: Some(u64::MAX), input: Some(5), output: Some(u64::MAX), ..Usage::default() };
    let report = Report { usage, status: Some(200), ..Report::default() };
    let of = |reservation: &Reservation, charged: Charged| {
        let line = Line::settled(reservation, &report, &charged, Micros(3_500_999));
        line.map(|line| {
            let total = line.total;
            line.of(Channel::RateLimit, BTreeMap::from([("ns/p/l".into(), total)]))
        })
    };
    let expected = Line {
        time: Micros(3_500_999),
        decision: crate::process::decision_id(0).into(),
        user: "ada".into(),
        tier: "free".into(),
        namespace: "llm".into(),
        model: "granite".into(),
        route: "llm/r".into(),
        charged: BTreeMap::from([("ns/p/l".into(), 60)]),
        input: Some(5),
        output: Some(i64::MAX),
        total: 60,
        quality: Quality::Final,
        channel: "rate_limit".into(),
        duration_ms: Some(2_500),
        status: Some(200),
        ..Line::default()
    };
    let settled = Charged::from(Settlement::Settled(60));
    assert_eq!(of(&reservation, settled.clone()), Some(expected.clone()));
    let parts = |line: Line| Line { input: None, output: None, ..line };
    for (quality, expected_quality) in
        [(limit::Quality::Estimate, Quality::Estimate), (limit::Quality::Counted, Quality::Counted)]
    {
        let line = Line { quality: expected_quality, ..parts(expected.clone()) };
        assert_eq!(of(&reservation, Charged { quality, ..Settlement::Estimated(60).into() }), Some(line));
    }
    // The sum of an estimate and its correction is what the answer cost.
    let corrected = Charged { before: Some(100), ..settled.clone() };
    let charged = BTreeMap::from([("ns/p/l".into(), -40)]);
    let correction = Line { total: -40, correction: true, charged, ..expected.clone() };
    assert_eq!(of(&reservation, corrected), Some(correction));
    // So it is where nobody had reported.
    let holds = BTreeMap::from([("ns/p/l".into(), 70), ("ns/p/gone".into(), 10)]);
    let unsettled = Line::unsettled(&reservation, &holds, Micros(9));
    let charged = BTreeMap::from([("ns/p/gone".into(), 10), ("ns/p/l".into(), 70)]);
    let (time, quality, channel) = (Micros(9), Quality::Unsettled, "".into());
    let expected_unsettled =
        Line { time, total: 70, charged, quality, channel, duration_ms: None, status: None, ..parts(expected.clone()) };
    assert_eq!(unsettled, expected_unsettled);
    let correcting = of(&reservation, settled).unwrap().correcting(&unsettled);
    let charged = BTreeMap::from([("ns/p/gone".into(), -10), ("ns/p/l".into(), -10)]);
    let corrects = Some(Quality::Unsettled);
    assert_eq!(correcting, Line { total: -10, charged, correction: true, corrects, ..expected.clone() });
    let free = Line { total: 0, charged: BTreeMap::from([("ns/p/l".into(), 0)]), ..expected };
    assert_eq!(of(&reservation, Settlement::NoUsage.into()), Some(free));
    let no_call = Reservation { is_call: false, ..reservation.clone() };
    assert_eq!(of(&no_call, Settlement::NoUsage.into()), None);
    for settlement in [Settlement::Duplicate, Settlement::Conflicting, Settlement::Late, Settlement::Unknown] {
        assert_eq!(of(&reservation, settlement.into()), None, "{settlement:?}");
    }
}

#[test]
fn lines_are_written_in_their_order_and_all_of_them_at_the_end() {
    let (folder, metrics) = (Scratch::new(), LedgerMetrics::default());
    let path = folder.path("u.log");
    let ledger = Ledger::open(options(&path), metrics.clone()).unwrap();
    let expected: Vec<String> = (0..10_000).map(|number| number.to_string()).collect();
    expected.iter().for_each(|user| ledger.write(line(user)));
    assert!(ledger.close(PATIENCE));
    assert_eq!(users(&path), expected);
    assert_eq!([&metrics.written, &metrics.dropped, &metrics.failed].map(|counter| counter.get()), [10_000, 0, 0]);
    // What comes too late is counted.
    ledger.write(line("late"));
    assert_eq!(metrics.dropped.get(), 1);
}

#[test]
fn what_does_not_fit_is_dropped_and_counted_and_nobody_waits() {
    let (folder, metrics) = (Scratch::new(), LedgerMetrics::default());
    let path = folder.path("u.log");
    let file = LogFile::open(options(&path), now()).unwrap();
    // The thread is not started: it takes nothing.
    let (ledger, writer) = Ledger::around(file, metrics.clone(), 2);
    ["a", "b", "c", "d"].iter().for_each(|user| ledger.write(line(user)));
    assert_eq!(metrics.dropped.get(), 2);
    drop(ledger);
    writer.run();
    assert_eq!(users(&path), ["a", "b"]);
    assert_eq!(metrics.written.get(), 2);
}

#[test]
fn a_full_disk_is_counted_and_does_not_hold_the_end() {
    let metrics = LedgerMetrics::default();
    let ledger = Ledger::open(options(Path::new("/dev/full")), metrics.clone()).unwrap();
    ["a", "b"].iter().for_each(|user| ledger.write(line(user)));
    assert!(ledger.close(PATIENCE), "it does not try for ever");
    assert_eq!([&metrics.written, &metrics.dropped, &metrics.failed].map(|counter| counter.get()), [0, 0, 2]);
    assert_eq!(metrics.failing.get(), 1);
}

/// As at a disk that is full and has room again.
#[test]
fn what_could_not_be_written_is_written_when_it_can_be() {
    let (folder, metrics) = (Scratch::new(), LedgerMetrics::default());
    let (inner, path) = (folder.path("inner"), folder.path("inner/u.log"));
    fs::create_dir(&inner).unwrap();
    let file = LogFile::open(options(&path), now()).unwrap();
    let (ledger, mut writer) = Ledger::around(file, metrics.clone(), 2);
    fs::remove_dir_all(&inner).unwrap();
    ledger.write(line("a"));
    writer.drain();
    writer.flush();
    assert_eq!((metrics.failing.get(), metrics.written.get()), (1, 0));
    fs::create_dir(&inner).unwrap();
    writer.flush();
    assert_eq!((metrics.failing.get(), metrics.written.get()), (0, 1));
    assert_eq!(users(&path), ["a"]);
}

#[test]
fn a_ledger_that_is_dropped_ends_its_thread() {
    let folder = Scratch::new();
    let path = folder.path("u.log");
    let ledger = Ledger::open(options(&path), LedgerMetrics::default()).unwrap();
    ledger.write(line("a"));
    let (_, spare) = mpsc::channel();
    let ended = std::mem::replace(&mut *ledger.ended.lock(), spare);
    drop(ledger);
    ended.recv_timeout(PATIENCE).unwrap();
    assert_eq!(users(&path), ["a"]);
}

#[test]
fn a_file_that_cannot_be_opened_is_named_with_the_flag_and_the_reason() {
    let error = Ledger::open(options(Path::new("/nonexistent/u.log")), LedgerMetrics::default()).unwrap_err();
    let expected = "--usage-log: `/nonexistent/u.log` cannot be opened: No such file or directory (os error 2)";
    assert_eq!(error.to_string(), expected);
}
