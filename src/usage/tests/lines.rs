//! Sequences of reports of one call: what is charged, what is counted, and the lines of the usage log.

use std::collections::HashMap;
use std::sync::Barrier;
use std::{fs, thread};

use futures_util::FutureExt;

use super::*;
use crate::family::Registry;
use crate::test_util::Scratch;
use crate::usage::ledger::{self, Ledger, Line, Options, Waits};
use crate::usage::outstanding::Expiry;
use crate::usage::{Channel, LedgerMetrics, UsageMetrics};

const LIMIT: &str = "maas/tokens/free";
const PATIENCE: Duration = Duration::from_secs(30);
const SECOND: Duration = Duration::from_secs(1);

/// A process that writes a usage log, whose callers have 100 tokens a minute of one limit.
struct World {
    sealer: Arc<Sealer>,
    limits: Arc<Limits>,
    reports: Reports,
    ledger: Arc<Ledger>,
    metrics: UsageMetrics,
    ledger_metrics: LedgerMetrics,
    folder: Scratch,
}

// === impl World ===

impl World {
    fn new(waits: Waits) -> Self {
        World::with_room(waits, 1_000)
    }

    /// Of whose lines so many wait for the file.
    fn with_room(waits: Waits, lines: usize) -> Self {
        let (folder, ledger_metrics, metrics) = (Scratch::new(), LedgerMetrics::default(), UsageMetrics::default());
        let path = folder.path("u.log");
        let options = Options { path, max_size: 1 << 30, max_age: Duration::from_secs(3600), keep: 0, waits };
        let ledger = Arc::new(Ledger::with_room(options, ledger_metrics.clone(), lines).unwrap());
        let (sealer, limits) = (Arc::new(Sealer::random()), Arc::new(limits()));
        let (first, other) = (named(Quota::new(100, MINUTE)), Rate::from(Quota::new(100, MINUTE)));
        limits.put_in_force([(CellId(1), first), (CellId(2), other)].into_iter().collect());
        let reports = Reports::new(Arc::clone(&sealer), Arc::clone(&limits), Settlements::default(), metrics.clone());
        let reports = reports.written_by(Arc::clone(&ledger));
        World { sealer, limits, reports, ledger, metrics, ledger_metrics, folder }
    }

    /// A call that holds so many tokens of each of these cells.
    async fn call(&self, cells: &[u64], want: u64) -> String {
        let demands: Vec<Demand> =
            cells.iter().map(|cell| Demand { cost: Cost::Hold { want, need: 1 }, ..look(*cell) }).collect();
        let admission = self.limits.admit(&demands, Nanos(0)).await;
        assert!(admission.admitted());
        let holds: Vec<Hold> = cells
            .iter()
            .zip(&admission.standings)
            .map(|(cell, standing)| {
                let of = limit::Hold { held: standing.held(), mark: standing.mark(), ..hold(*cell).of };
                Hold { of, ..hold(*cell) }
            })
            .collect();
        let terms = Terms { is_call: true, decision: Some(7), user: "ada", holds: &holds, ..Terms::default() };
        self.sealer.seal(&terms, admission.at)
    }

    async fn take(&self, sealed: &str, report: Report, after: Duration) -> Settlement {
        self.reports.take(sealed, &report, Channel::RateLimit, Nanos::from(after)).await.settlement
    }

    /// As each second does, for that one.
    fn tick(&self, after: Duration) {
        self.reports.count_silent(Nanos::from(after));
    }

    /// The hits of a cell at that time, which starts full.
    async fn used(&self, cell: u64, after: Duration) -> u64 {
        let standing = self.limits.admit(&[look(cell)], Nanos::from(after)).await.standings[0];
        100 - standing.remaining()
    }

    /// All lines of the log, which ends with that.
    fn log(&self) -> Vec<Line> {
        assert!(self.ledger.close(PATIENCE));
        self.written()
    }

    /// Those that are in the file.
    fn written(&self) -> Vec<Line> {
        let text = fs::read_to_string(self.folder.path("u.log")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Of them: quality, total, what the limit was charged, whether it is a correction.
    fn lines(&self) -> Vec<(ledger::Quality, i64, i64, bool)> {
        self.log().iter().map(part).collect()
    }

    /// Whether the page has these lines.
    fn shows(&self, lines: &[&str]) {
        let (mut registry, mut page) = (Registry::new(&[]), String::new());
        self.metrics.register(&mut registry);
        self.ledger_metrics.register(&mut registry);
        registry.encode(&mut page).unwrap();
        lines.iter().for_each(|line| assert!(page.lines().any(|shown| shown == *line), "{line}\n{page}"));
    }
}

/// A rate of [`LIMIT`].
fn named(quota: Quota) -> Rate {
    Rate { name: LIMIT.into(), ..Rate::from(quota) }
}

fn part(line: &Line) -> (ledger::Quality, i64, i64, bool) {
    (line.quality, line.total, charged(line), line.correction)
}

fn charged(line: &Line) -> i64 {
    line.charged.get(LIMIT).copied().unwrap_or_default()
}

fn bytes(bytes: u64) -> Report {
    Report { status: Some(200), bytes: Some(bytes), ..Report::default() }
}

use ledger::Quality::{Counted, Estimate, Final, Unsettled};

/// Sequence 1: the same over two channels.
#[tokio::test]
async fn a_final_report_over_two_channels_is_charged_once_and_has_one_line() {
    let world = World::new(Waits::default());
    let sealed = world.call(&[1], 20).await;
    let report = super::tokens(60);
    let take = |channel| world.reports.take(&sealed, &report, channel, Nanos(0));
    assert_eq!(take(Channel::RateLimit).await.settlement, Settlement::Settled(60));
    assert_eq!(take(Channel::AccessLog).await.settlement, Settlement::Duplicate);
    assert_eq!(world.used(1, Duration::ZERO).await, 60);
    assert_eq!(world.lines(), [(Final, 60, 60, false)]);
}

/// Sequences 2 and 4: bytes, and the usage within the grace, or after it.
#[tokio::test]
async fn an_estimate_has_a_line_of_its_own_if_no_better_report_comes_within_the_grace() {
    for (after, lines) in
        [(SECOND, vec![(Final, 60, 60, false)]), (SECOND * 6, vec![(Estimate, 20, 20, false), (Final, 40, 40, true)])]
    {
        let world = World::new(Waits::default());
        let sealed = world.call(&[1], 1).await;
        assert_eq!(world.take(&sealed, bytes(80), Duration::ZERO).await, Settlement::Estimated(20));
        (1..=after.as_secs()).for_each(|second| world.tick(SECOND * second as u32));
        assert_eq!(world.take(&sealed, super::tokens(60), after).await, Settlement::Settled(60));
        assert_eq!(world.lines(), lines);
    }
}

/// Sequence 3: the usage, and bytes after it.
#[tokio::test]
async fn an_estimate_after_the_usage_is_a_duplicate() {
    let world = World::new(Waits::default());
    let sealed = world.call(&[1], 1).await;
    world.take(&sealed, super::tokens(60), Duration::ZERO).await;
    assert_eq!(world.take(&sealed, bytes(80), Duration::ZERO).await, Settlement::Duplicate);
    assert_eq!(world.lines(), [(Final, 60, 60, false)]);
}

/// Sequence 5: two final reports that differ.
#[tokio::test]
async fn of_two_final_reports_that_differ_the_first_counts() {
    let world = World::new(Waits::default());
    let sealed = world.call(&[1], 20).await;
    assert_eq!(world.take(&sealed, super::tokens(60), Duration::ZERO).await, Settlement::Settled(60));
    assert_eq!(world.take(&sealed, super::tokens(61), Duration::ZERO).await, Settlement::Conflicting);
    assert_eq!(world.used(1, Duration::ZERO).await, 60);
    world.shows(&[
        "tiergate_usage_reports_total{channel=\"rate_limit\",result=\"settled\"} 1",
        "tiergate_usage_reports_total{channel=\"rate_limit\",result=\"conflicting\"} 1",
    ]);
    assert_eq!(world.lines(), [(Final, 60, 60, false)]);
}

/// Sequence 6: no report.
#[tokio::test]
async fn a_call_that_nobody_reports_stays_charged_what_it_holds_and_has_a_line_that_says_so() {
    let world = World::new(Waits::default());
    world.call(&[1], 80).await;
    // No model writes for it, so it costs nothing and has no line.
    let _ = world.sealer.seal(&Terms { decision: Some(8), ..Terms::default() }, Micros(0));
    world.tick(Duration::ZERO);
    world.shows(&["tiergate_usage_reports_awaited 2", "tiergate_usage_unsettled_total 0"]);
    world.tick(Bounds::CALL_TIME);
    world.tick(Bounds::CALL_TIME + SECOND);
    world.shows(&["tiergate_usage_reports_awaited 0", "tiergate_usage_unsettled_total 2"]);
    assert_eq!(world.used(1, Duration::ZERO).await, 80);
    assert_eq!(world.lines(), [(Unsettled, 80, 80, false)]);
}

/// Sequence 7: a report after the call time. Estimates too correct what was held, and are corrected.
#[tokio::test]
async fn a_report_after_the_call_time_corrects_what_was_held_once() {
    // Longer than any debt.
    let late = Bounds::CALL_TIME + SECOND;
    for (sent, settled, lines) in [
        (vec![super::tokens(60), super::tokens(60)], 60_u64, vec![(Final, -20, -20, true)]),
        (vec![super::tokens(900)], 900, vec![(Final, 820, 820, true)]),
        (vec![bytes(80), super::tokens(60)], 60, vec![(Final, -20, -20, true)]),
        (vec![bytes(80)], 20, vec![(Estimate, -60, -60, true)]),
        (vec![Report { status: Some(503), ..Report::default() }], 0, vec![(Final, -80, -80, true)]),
    ] {
        let world = World::new(Waits::default());
        let sealed = world.call(&[1], 80).await;
        world.tick(Duration::ZERO);
        world.tick(Bounds::CALL_TIME);
        for report in &sent {
            world.take(&sealed, *report, late).await;
        }
        // What was held is long paid for: only what was used more is charged.
        let more = settled.saturating_sub(80).min(100);
        assert_eq!(world.used(1, late).await, more, "{sent:?}");
        let all = world.lines();
        assert_eq!(all[0], (Unsettled, 80, 80, false));
        assert_eq!(all[1..], lines, "{sent:?}");
        assert_eq!(all.iter().map(|(_, total, ..)| total).sum::<i64>(), settled as i64);
    }
}

/// Sequence 7, and a policy that was published after the line without a report: of another amount, or without the limit. That is charged
/// by what it was for another day, under the name that it had.
#[tokio::test]
async fn a_report_after_the_call_time_corrects_what_its_line_said_whatever_policy_is_in_force() {
    // Of a day, so that time pays for little.
    let day = |limit| Quota::new(limit, Duration::from_secs(86_400));
    let quotas = |limit: Option<u64>| limit.map(|limit| (CellId(1), named(day(limit)))).into_iter().collect::<Quotas>();
    let late = Bounds::CALL_TIME + SECOND;
    for after in [Some(200), None] {
        let world = World::new(Waits::default());
        world.limits.put_in_force(quotas(Some(100)));
        let held = Demand { quota: day(100), cost: Cost::Hold { want: 80, need: 1 }, ..look(1) };
        let standing = world.limits.admit(&[held], Nanos(0)).await.standings[0];
        let of = limit::Hold { held: standing.held(), mark: standing.mark(), ..hold(1).of };
        let terms = Terms { is_call: true, decision: Some(7), holds: &[Hold { of, ..hold(1) }], ..Terms::default() };
        let sealed = world.sealer.seal(&terms, Micros(0));
        world.tick(Duration::ZERO);
        world.tick(Bounds::CALL_TIME);
        world.limits.put_in_force(quotas(after));
        let now = Demand { quota: day(after.unwrap_or(100)), ..look(1) };
        let left = async || world.limits.admit(&[now], Nanos::from(late)).await.standings[0].remaining();
        let before = left().await;
        assert_eq!(world.take(&sealed, super::tokens(95), late).await, Settlement::Settled(95));
        let more = (before - left().await) as i64;
        let log = world.log();
        let part = |line: &Line| (line.quality, line.total, charged(line), line.corrects);
        let expected = [(Unsettled, 80, standing.held() as i64, None), (Final, 15, more, Some(Unsettled))];
        assert_eq!(log.iter().map(part).collect::<Vec<_>>(), expected, "{after:?}");
        assert_eq!(log.iter().map(charged).sum::<i64>(), 95, "{after:?}");
    }
}

/// Likewise where an estimate has a line, before and after that of a call without a report.
#[tokio::test]
async fn a_correction_of_an_estimate_names_a_limit_that_is_gone() {
    for is_unsettled in [false, true] {
        let world = World::new(Waits::default());
        let sealed = world.call(&[1], 80).await;
        world.tick(Duration::ZERO);
        let mut now = Duration::ZERO;
        if is_unsettled {
            now = Bounds::CALL_TIME;
            world.tick(now);
        }
        world.take(&sealed, bytes(360), now).await;
        world.tick(now + SECOND * 6);
        world.limits.put_in_force(Quotas::default());
        world.take(&sealed, super::tokens(95), now + SECOND * 7).await;
        let log = world.log();
        assert_eq!(log.len(), if is_unsettled { 3 } else { 2 });
        let sums = [log.iter().map(|line| line.total).sum::<i64>(), log.iter().map(charged).sum()];
        assert_eq!(sums, [95, 95], "{log:?}");
    }
}

/// Sequence 8: a report later than anybody remembers.
#[tokio::test]
async fn a_report_after_settle_within_changes_nothing() {
    let world = World::new(Waits::default());
    let sealed = world.call(&[1], 80).await;
    world.tick(Duration::ZERO);
    world.tick(Bounds::CALL_TIME);
    let late = Bounds::SETTLE_WITHIN + SECOND;
    assert_eq!(world.take(&sealed, super::tokens(900), late).await, Settlement::Late);
    assert_eq!(world.used(1, late).await, 0, "time has paid for what was held");
    world.shows(&["tiergate_usage_reports_total{channel=\"rate_limit\",result=\"late\"} 1"]);
    assert_eq!(world.lines(), [(Unsettled, 80, 80, false)]);
}

fn parts(input: u64, output: u64) -> Usage {
    Usage { input: Some(input), output: Some(output), ..Usage::default() }
}

/// Sequence 13: the model fails, with and without usage; a stream breaks off.
#[tokio::test]
async fn a_failure_is_free_unless_it_says_what_it_used_and_what_broke_off_never_is() {
    let failed = Report { status: Some(503), bytes: Some(90), ..Report::default() };
    let broken = Report { ended: Some(false), status: Some(200), streamed: true, ..Report::default() };
    for (report, used, quality) in [
        (failed, 0, Final),
        (Report { usage: super::tokens(30).usage, ..failed }, 30, Final),
        (Report { bytes: Some(2_000), ..broken }, 20, Estimate),
        (Report { bytes: Some(2_000), usage: super::tokens(30).usage, ..broken }, 30, Counted),
        (Report { bytes: Some(4_000), usage: super::tokens(30).usage, ..broken }, 40, Counted),
        // A running total is better than bytes; the first event's output is none.
        (Report { bytes: Some(4_000), usage: parts(10, 9), ..broken }, 19, Counted),
        (Report { bytes: Some(4_000), usage: parts(10, 8), ..broken }, 50, Counted),
        // Before the first byte there is nothing to tell by but what was expected.
        (broken, 1, Estimate),
    ] {
        let world = World::new(Waits::default());
        let sealed = world.call(&[1], 50).await;
        world.take(&sealed, report, Duration::ZERO).await;
        assert_eq!(world.used(1, Duration::ZERO).await, used, "{report:?}");
        let used = used as i64;
        assert_eq!(world.lines(), [(quality, used, used, false)], "{report:?}");
    }
}

/// Sequence 23: of two limits one is deleted, and gone for longer than anybody knows it.
#[tokio::test]
async fn where_a_limit_was_deleted_the_others_are_settled() {
    let world = World::new(Waits::default());
    let sealed = world.call(&[1, 2], 80).await;
    // A reservation of a limit that no quota is known of.
    let gone = limit::Hold { cell: CellId(3), held: 80, ..hold(3).of };
    let holds = [Hold { of: gone, ..hold(3) }, world.sealer.open(&sealed).unwrap().holds[1]];
    let sealed = world.sealer.seal(&Terms { is_call: true, holds: &holds, ..Terms::default() }, Micros(0));
    assert_eq!(world.take(&sealed, super::tokens(30), Duration::ZERO).await, Settlement::Settled(30));
    let used = [1, 2, 3].map(|cell| world.used(cell, Duration::ZERO));
    let [other, settled, deleted] = futures_util::future::join_all(used).await.try_into().unwrap();
    assert_eq!((other, settled, deleted), (80, 30, 0));
}

#[tokio::test]
async fn calls_that_there_is_no_room_to_remember_have_no_line_and_are_counted() {
    let world = World::new(Waits { open: 1, ..Waits::default() });
    // As many as each part of the memory has room for, and one.
    let first = world.call(&[1], 1).await;
    for _ in 0..16 {
        world.call(&[1], 1).await;
    }
    world.tick(Duration::ZERO);
    world.tick(Bounds::CALL_TIME);
    world.shows(&["tiergate_usage_unsettled_total 17", "tiergate_usage_log_forgotten_total 1"]);
    // It has none that a report could correct.
    world.take(&first, super::tokens(60), Bounds::CALL_TIME).await;
    let lines = world.lines();
    assert_eq!((lines.len(), lines[16]), (17, (Final, 60, 60, false)));
}

#[tokio::test]
async fn calls_that_are_open_when_the_process_ends_have_a_line_and_the_others_one_too() {
    let world = World::new(Waits::default());
    let [reported, estimated] = [world.call(&[1], 10).await, world.call(&[1], 10).await];
    world.call(&[1], 30).await;
    world.take(&reported, super::tokens(20), Duration::ZERO).await;
    world.take(&estimated, bytes(80), Duration::ZERO).await;
    assert!(world.reports.end(Nanos::from(SECOND), PATIENCE));
    let mut lines: Vec<_> = world.written().iter().map(part).collect();
    lines.sort_unstable_by_key(|(quality, ..)| *quality);
    assert_eq!(lines, [(Unsettled, 30, 30, false), (Estimate, 20, 20, false), (Final, 20, 20, false)]);
    world.shows(&["tiergate_usage_log_forgotten_total 0"]);
}

/// More lines than there is room for, of both kinds.
#[tokio::test]
async fn the_end_waits_for_room_while_the_file_takes_lines() {
    let world = World::with_room(Waits::default(), 8);
    for call in 0..200 {
        let holds = [Hold { of: limit::Hold { held: 3, ..hold(1).of }, ..hold(1) }];
        let terms = Terms { is_call: true, decision: Some(call), holds: &holds, ..Terms::default() };
        let sealed = world.sealer.seal(&terms, Micros(0));
        if call % 2 == 0 {
            world.take(&sealed, bytes(80), Duration::ZERO).await;
        }
    }
    assert!(world.reports.end(Nanos(0), PATIENCE * 2));
    let lines = world.written();
    let of = |quality| lines.iter().filter(|line| line.quality == quality).count();
    assert_eq!((of(Estimate), of(Unsettled)), (100, 100));
    world.shows(&["tiergate_usage_log_lines_total{result=\"dropped\"} 0"]);
}

/// A limit with a cost holds in a unit of its own: the line's total is what was expected in tokens, whatever policy is in force by then.
#[test]
fn the_total_of_an_unsettled_call_is_in_tokens() {
    let world = World::new(Waits::default());
    let holds = [Hold { of: limit::Hold { held: 300, ..hold(1).of }, ..hold(1) }];
    let forecast = Forecast { want: 130, prior: 100.0, guess: 100.0 };
    for is_priced in [false, true] {
        let terms = Terms { is_call: true, is_priced, decision: Some(7), forecast, holds: &holds, ..Terms::default() };
        let _ = world.sealer.seal(&terms, Micros(0));
    }
    world.tick(Duration::ZERO);
    world.tick(Bounds::CALL_TIME);
    assert_eq!(world.lines(), [(Unsettled, 300, 300, false), (Unsettled, 100, 300, false)]);
}

/// Two channels at the same moment, and the end of the call time in the middle of them.
#[test]
fn reports_of_one_call_at_one_moment_sum_to_what_it_cost_with_the_line_before_its_correction() {
    const CALLS: u64 = 2_000;
    let world = World::with_room(Waits::default(), 4 * CALLS as usize);
    let seal = |decision| {
        let holds = [Hold { of: limit::Hold { held: 7, ..hold(1).of }, ..hold(1) }];
        let terms = Terms { is_call: true, decision: Some(decision), holds: &holds, ..Terms::default() };
        world.sealer.seal(&terms, Micros(0))
    };
    let sealed: Vec<String> = (0..CALLS).map(seal).collect();
    let start = Barrier::new(3);
    let report = |channel, report: Report| {
        for sealed in &sealed {
            start.wait();
            let charged = world.reports.take(sealed, &report, channel, Nanos(0)).now_or_never().unwrap();
            assert!(!matches!(charged.settlement, Settlement::Unknown | Settlement::Late));
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| report(Channel::AccessLog, bytes(80)));
        scope.spawn(|| report(Channel::RateLimit, super::tokens(60)));
        for serial in 0..CALLS {
            start.wait();
            // Of every other call, as at the end of its time.
            if serial % 2 == 0 {
                let expiry = Expiry { end: serial + 1, now: Nanos(0), correctable: Some(SECOND) };
                world.reports.write_unsettled(expiry, |line| world.ledger.offer(line));
            }
        }
    });
    let mut calls = HashMap::<Arc<str>, Vec<Line>>::new();
    world.log().into_iter().for_each(|line| calls.entry(Arc::clone(&line.decision)).or_default().push(line));
    assert_eq!(calls.len() as u64, CALLS);
    for lines in calls.values() {
        let sum = |part: fn(&Line) -> i64| lines.iter().map(part).sum::<i64>();
        assert_eq!([sum(|line| line.total), sum(charged)], [60, 60], "{lines:?}");
        let part = |line: &Line| (line.quality, line.correction, line.corrects);
        match &*lines.iter().map(part).collect::<Vec<_>>() {
            [(Final, false, None)] | [(Unsettled, false, None), (Final, true, Some(Unsettled))] => {}
            other => panic!("{other:?}"),
        }
    }
}
