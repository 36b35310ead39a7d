//! The calls that no report has come for yet, so that the usage log has a line of those that nobody reports.
//!
//! No limit needs it: a hold is a charge. So it is kept where there is a usage log, as far as there is room, and what there is no room for
//! is counted.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;

use super::ledger::Line;
use crate::clock::Nanos;

/// So many callers do not wait for one another. Serial numbers are consecutive, so each has as many calls as any other.
const SHARDS: usize = 16;
/// What a sealed reservation has mostly, in bytes. Where all are longer there is room for fewer.
const USUAL: usize = 300;
/// So many calls are taken out under one lock: a Check that comes to the same shard waits for no more of them.
const BATCH: usize = 32;

/// Calls without a report, each as its sealed reservation; and those that have a line already, since no report came in time.
#[derive(Debug)]
pub(super) struct Outstanding {
    shards: [Mutex<Shard>; SHARDS],
    /// How many of each kind there may be in one shard.
    most: usize,
    /// Calls that there was no room for.
    forgotten: Counter,
    /// Calls of processes before this one that have a line, since no report came before those ended.
    inherited: Mutex<HashSet<u128>>,
}

/// Which calls are to have a line without a report, and when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expiry {
    /// The first serial number of those that are waited for still.
    pub(super) end: u64,
    pub(super) now: Nanos,
    /// So long after `now` a report may still correct the line; `None` if nobody will: then nothing is kept of it.
    pub(super) correctable: Option<Duration>,
}

/// By their serial numbers, which rise with time.
#[derive(Debug, Default)]
struct Shard {
    open: BTreeMap<u64, Arc<str>>,
    /// Of `open`.
    bytes: usize,
    /// What has a line without a report, and since when.
    unsettled: BTreeMap<u64, Nanos>,
}

/// A call that is to have a line, which is made already; `None` where none can be.
struct Prepared {
    serial: u64,
    line: Option<Line>,
}

// === impl Outstanding ===

impl Outstanding {
    /// With room for so many `calls`; of more the oldest are `forgotten`.
    pub(super) fn new(calls: usize, forgotten: Counter) -> Self {
        let (shards, inherited) = (Default::default(), Mutex::default());
        Outstanding { shards, most: calls.div_ceil(SHARDS).max(1), forgotten, inherited }
    }

    /// Remembers a call until [`Outstanding::settled`] or [`Outstanding::expire`] takes it out.
    pub(super) fn remember(&self, serial: u64, sealed: &str) {
        let Some(shard) = self.shard(serial) else { return };
        let sealed: Arc<str> = sealed.into();
        let mut shard = shard.lock();
        shard.bytes += sealed.len();
        shard.open.insert(serial, sealed);
        while shard.open.len() > self.most || shard.bytes > self.most.saturating_mul(USUAL) {
            let Some(oldest) = shard.open.first_key_value().map(|(serial, _)| *serial) else { break };
            shard.close(oldest);
            self.forgotten.inc();
        }
    }

    /// A first report of the call has come: whether the call has a line already.
    pub(super) fn settled(&self, serial: u64) -> bool {
        let Some(shard) = self.shard(serial) else { return false };
        let mut shard = shard.lock();
        shard.close(serial);
        shard.unsettled.remove(&serial).is_some()
    }

    /// Knows of calls of processes before this one that have a line.
    pub(super) fn inherit(&self, calls: Vec<u128>) {
        self.inherited.lock().extend(calls);
    }

    /// A first report of a call of a process before this one has come: whether the call has a line already.
    pub(super) fn settled_before(&self, call: u128) -> bool {
        self.inherited.lock().remove(&call)
    }

    /// The calls that have a line without a report: those of this process, with `instance` before the serial number, and those before it.
    pub(super) fn unsettled(&self, instance: u128) -> Vec<u128> {
        let mut calls: Vec<u128> = self.inherited.lock().iter().copied().collect();
        for shard in &self.shards {
            calls.extend(shard.lock().unsettled.keys().map(|serial| instance | u128::from(*serial)));
        }
        calls
    }

    /// Has lines written of the calls that expire: `line` makes that of a sealed reservation, and `write` says whether there was room for
    /// it. Whether all of them have one; else the others are there still.
    ///
    /// `line` is called without a lock, and a report may come meanwhile. `write` is called under the lock that the report of its call
    /// takes, so that no correction is written before it: it must not wait.
    pub(super) fn expire(
        &self,
        expiry: Expiry,
        line: impl Fn(&str) -> Option<Line>,
        write: impl Fn(Line) -> bool,
    ) -> bool {
        let prepared = |(serial, sealed): (u64, Arc<str>)| Prepared { serial, line: line(&sealed) };
        for shard in &self.shards {
            while shard.lock().forget(expiry) {}
            loop {
                let expired = shard.lock().before(expiry.end);
                if expired.is_empty() {
                    break;
                }
                let prepared: Vec<Prepared> = expired.into_iter().map(prepared).collect();
                if !self.take_out(&mut shard.lock(), prepared, expiry, &write) {
                    return false;
                }
            }
        }
        true
    }

    /// Has the lines written of those that no report has come for in the meantime: whether there was room.
    fn take_out(
        &self,
        shard: &mut Shard,
        prepared: Vec<Prepared>,
        expiry: Expiry,
        write: impl Fn(Line) -> bool,
    ) -> bool {
        for Prepared { serial, line } in prepared {
            if !shard.open.contains_key(&serial) {
                continue;
            }
            // A line that a report would have to correct, and could not, is none.
            let has_room = expiry.correctable.is_none() || shard.unsettled.len() < self.most;
            if let Some(line) = line.filter(|_| has_room) {
                if !write(line) {
                    return false;
                }
                if expiry.correctable.is_some() {
                    shard.unsettled.insert(serial, expiry.now);
                }
            } else {
                self.forgotten.inc();
            }
            shard.close(serial);
        }
        true
    }

    /// How many calls have neither a report nor a line.
    pub(super) fn open(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().open.len()).sum()
    }

    fn shard(&self, serial: u64) -> Option<&Mutex<Shard>> {
        self.shards.get(serial as usize % SHARDS)
    }
}

// === impl Shard ===

impl Shard {
    /// The first calls before `end`, as many as are taken at a time.
    fn before(&self, end: u64) -> Vec<(u64, Arc<str>)> {
        self.open.range(..end).take(BATCH).map(|(serial, sealed)| (*serial, Arc::clone(sealed))).collect()
    }

    /// The call is not waited for any more.
    fn close(&mut self, serial: u64) {
        if let Some(sealed) = self.open.remove(&serial) {
            self.bytes = self.bytes.saturating_sub(sealed.len());
        }
    }

    /// Forgets what no report corrects any more, as much as is taken at a time: whether there can be more.
    fn forget(&mut self, Expiry { now, correctable, .. }: Expiry) -> bool {
        let is_over = |at: &Nanos| correctable.is_none_or(|correctable| at.saturating_add(correctable) < now);
        for _ in 0..BATCH {
            match self.unsettled.first_entry() {
                Some(oldest) if is_over(oldest.get()) => _ = oldest.remove(),
                _ => return false,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn at(hours: u32) -> Nanos {
        Nanos::from(HOUR * hours)
    }

    fn before(end: u64, hours: u32) -> Expiry {
        Expiry { end, now: at(hours), correctable: Some(HOUR) }
    }

    fn unsettled(call: &str) -> Option<Line> {
        Some(Line { decision: call.into(), ..Line::default() })
    }

    /// The calls that are there, as they were remembered.
    fn expired(outstanding: &Outstanding, end: u64, hours: u32) -> Vec<String> {
        let calls = RefCell::new(Vec::new());
        assert!(outstanding.expire(before(end, hours), unsettled, |line| {
            calls.borrow_mut().push(line.decision.to_string());
            true
        }));
        let mut calls = calls.into_inner();
        calls.sort_unstable();
        calls
    }

    fn is_empty(outstanding: &Outstanding) -> bool {
        let is_empty = |shard: &Shard| shard.open.is_empty() && shard.bytes == 0 && shard.unsettled.is_empty();
        outstanding.shards.iter().all(|shard| is_empty(&shard.lock()))
    }

    #[test]
    fn a_call_without_a_report_is_taken_out_once_and_a_later_report_knows_that() {
        let outstanding = Outstanding::new(1_000, Counter::default());
        for serial in 0..4 {
            outstanding.remember(serial, &format!("call {serial}"));
        }
        assert!(!outstanding.settled(1), "it has no line yet");
        assert_eq!(expired(&outstanding, 3, 0), ["call 0", "call 2"]);
        assert_eq!(expired(&outstanding, 3, 0), [""; 0]);
        assert_eq!([0, 0, 1, 3].map(|serial| outstanding.settled(serial)), [true, false, false, false]);
        // Nothing corrects it any more.
        assert_eq!(expired(&outstanding, 4, 2), [""; 0]);
        assert!(!outstanding.settled(2));
        assert!(is_empty(&outstanding));
    }

    #[test]
    fn of_more_calls_than_there_is_room_for_the_oldest_are_forgotten_and_counted() {
        let forgotten = Counter::default();
        let outstanding = Outstanding::new(2 * SHARDS, forgotten.clone());
        let shards = SHARDS as u64;
        for serial in 0..3 * shards {
            outstanding.remember(serial, &format!("{serial:02}"));
        }
        assert_eq!(forgotten.get(), shards);
        assert!(!outstanding.settled(0));
        let rest: Vec<String> = (shards..3 * shards).map(|serial| serial.to_string()).collect();
        assert_eq!(expired(&outstanding, u64::MAX, 0), rest);
        // Long ones leave room for fewer.
        outstanding.remember(100 * shards, &"x".repeat(USUAL));
        outstanding.remember(101 * shards, &"x".repeat(USUAL + 1));
        assert_eq!(forgotten.get(), shards + 1);
    }

    #[test]
    fn no_more_lines_are_written_than_can_be_corrected() {
        let forgotten = Counter::default();
        let outstanding = Outstanding::new(SHARDS, forgotten.clone());
        outstanding.remember(0, "first");
        assert_eq!(expired(&outstanding, 1, 0), ["first"]);
        outstanding.remember(16, "second");
        assert_eq!((expired(&outstanding, 17, 1), forgotten.get()), (vec![], 1));
        assert_eq!([0, 16].map(|serial| outstanding.settled(serial)), [true, false]);
    }

    /// At the end of the process nobody corrects a line, so none needs room for that.
    #[test]
    fn what_nobody_corrects_needs_no_room_and_is_not_kept() {
        let forgotten = Counter::default();
        let outstanding = Outstanding::new(SHARDS, forgotten.clone());
        outstanding.remember(0, "first");
        assert_eq!(expired(&outstanding, 1, 0), ["first"]);
        outstanding.remember(16, "second");
        let last = Expiry { correctable: None, ..before(u64::MAX, 0) };
        let lines = Cell::new(0);
        assert!(outstanding.expire(last, unsettled, |_| {
            lines.set(lines.get() + 1);
            true
        }));
        assert_eq!((lines.get(), forgotten.get(), is_empty(&outstanding)), (1, 0, true));
    }

    #[test]
    fn a_report_that_comes_while_lines_are_made_is_all_that_its_call_has() {
        let outstanding = Outstanding::new(1_000, Counter::default());
        for serial in [0, 16, 32] {
            outstanding.remember(serial, &serial.to_string());
        }
        let lines = RefCell::new(Vec::new());
        // Under a lock this would wait for ever.
        let reported = |call: &str| {
            if call == "0" {
                assert!(!outstanding.settled(16), "it has no line to correct");
            }
            unsettled(call)
        };
        assert!(outstanding.expire(before(100, 0), reported, |line| {
            lines.borrow_mut().push(line.decision.to_string());
            true
        }));
        assert_eq!(lines.into_inner(), ["0", "32"]);
        assert_eq!([0, 16, 32].map(|serial| outstanding.settled(serial)), [true, false, true]);
        assert!(is_empty(&outstanding));
    }

    #[test]
    fn a_line_that_there_is_no_room_for_is_written_later_and_corrected_by_nobody_before() {
        let (calls, room) = (3 * BATCH as u64, Cell::new(BATCH as u64 + 1));
        let outstanding = Outstanding::new(10_000, Counter::default());
        for call in 0..calls {
            outstanding.remember(call * SHARDS as u64, "call");
        }
        let write = |_| {
            let has_room = room.get() > 0;
            room.set(room.get().saturating_sub(1));
            has_room
        };
        assert!(!outstanding.expire(before(u64::MAX, 0), unsettled, write));
        assert_eq!(outstanding.open() as u64, calls - BATCH as u64 - 1);
        let last = (calls - 1) * SHARDS as u64;
        assert!(!outstanding.settled(last), "it has no line to correct");
        room.set(calls);
        assert!(outstanding.expire(before(u64::MAX, 0), unsettled, write));
        assert_eq!((outstanding.open(), room.get()), (0, 2 + BATCH as u64));
        assert_eq!((0..calls).filter(|call| outstanding.settled(call * SHARDS as u64)).count() as u64, calls - 1);
        assert!(is_empty(&outstanding));
    }
}
