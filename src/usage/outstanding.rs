//! The calls that no report has come for yet, so that the usage log has a line of those that nobody reports.
//!
//! No limit needs it: a hold is a charge. So it is kept where there is a usage log, as far as there is room, and what there is no room for
//! is counted.

use std::collections::BTreeMap;
use std::mem;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;

use super::ledger::Line;
use crate::clock::Nanos;

/// So many callers do not wait for one another. Serial numbers are consecutive, so each has as many calls as any other.
const SHARDS: usize = 16;
/// What a sealed reservation has mostly, in bytes. Where all are longer there is room for fewer.
const USUAL: usize = 300;

/// Calls without a report, each as its sealed reservation; and those that have a line already, since no report came in time.
#[derive(Debug)]
pub(super) struct Outstanding {
    shards: [Mutex<Shard>; SHARDS],
    /// How many of each kind there may be in one shard.
    most: usize,
    /// Calls that there was no room for.
    forgotten: Counter,
}

/// By their serial numbers, which rise with time.
#[derive(Debug, Default)]
struct Shard {
    open: BTreeMap<u64, Box<str>>,
    /// Of `open`.
    bytes: usize,
    /// What has a line without a report.
    unsettled: BTreeMap<u64, Written>,
}

/// A line that was written without a report: since when, and what it said. What it would say later may be another policy's word.
#[derive(Debug)]
struct Written {
    at: Nanos,
    charges: Box<Line>,
}

// === impl Outstanding ===

impl Outstanding {
    /// With room for so many `calls`; of more the oldest are `forgotten`.
    pub(super) fn new(calls: usize, forgotten: Counter) -> Self {
        Outstanding { shards: Default::default(), most: calls.div_ceil(SHARDS).max(1), forgotten }
    }

    /// Remembers a call until [`Outstanding::settled`] or [`Outstanding::expire`] takes it out.
    pub(super) fn remember(&self, serial: u64, sealed: &str) {
        let Some(shard) = self.shard(serial) else { return };
        let mut shard = shard.lock();
        shard.bytes += sealed.len();
        shard.open.insert(serial, sealed.into());
        while shard.open.len() > self.most || shard.bytes > self.most.saturating_mul(USUAL) {
            let Some((_, oldest)) = shard.open.pop_first() else { break };
            shard.bytes = shard.bytes.saturating_sub(oldest.len());
            self.forgotten.inc();
        }
    }

    /// A report of the call has come: what the call's line says, if it has one already.
    pub(super) fn settled(&self, serial: u64) -> Option<Box<Line>> {
        let mut shard = self.shard(serial)?.lock();
        if let Some(sealed) = shard.open.remove(&serial) {
            shard.bytes = shard.bytes.saturating_sub(sealed.len());
        }
        shard.unsettled.remove(&serial).map(|written| written.charges)
    }

    /// Takes out the calls before `end`: each is to have its `line` now, which a report within `correctable` corrects.
    pub(super) fn expire(
        &self,
        end: u64,
        now: Nanos,
        correctable: Duration,
        line: impl Fn(&str) -> Option<Line>,
    ) -> Vec<Line> {
        let mut lines = Vec::new();
        for shard in &self.shards {
            let mut shard = shard.lock();
            shard.forget(now, correctable);
            let later = shard.open.split_off(&end);
            for (serial, sealed) in mem::replace(&mut shard.open, later) {
                shard.bytes = shard.bytes.saturating_sub(sealed.len());
                // A line that nobody knows of could not be corrected: so there is none.
                match line(&sealed).filter(|_| shard.unsettled.len() < self.most) {
                    Some(line) => {
                        shard.unsettled.insert(serial, Written { at: now, charges: Box::new(line.charges()) });
                        lines.push(line);
                    }
                    None => _ = self.forgotten.inc(),
                }
            }
        }
        lines
    }

    fn shard(&self, serial: u64) -> Option<&Mutex<Shard>> {
        self.shards.get(serial as usize % SHARDS)
    }
}

// === impl Shard ===

impl Shard {
    /// Forgets what no report corrects any more.
    fn forget(&mut self, now: Nanos, correctable: Duration) {
        while let Some(oldest) = self.unsettled.first_entry()
            && oldest.get().at.saturating_add(correctable) < now
        {
            oldest.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn at(hours: u32) -> Nanos {
        Nanos::from(HOUR * hours)
    }

    /// The calls that are there, as they were remembered.
    fn expired(outstanding: &Outstanding, end: u64, hours: u32) -> Vec<String> {
        let line = |call: &str| Some(Line { decision: call.into(), ..Line::default() });
        let mut calls: Vec<String> =
            outstanding.expire(end, at(hours), HOUR, line).into_iter().map(|line| line.decision.to_string()).collect();
        calls.sort_unstable();
        calls
    }

    #[test]
    fn a_call_without_a_report_is_taken_out_once_and_a_later_report_knows_that() {
        let outstanding = Outstanding::new(1_000, Counter::default());
        for serial in 0..4 {
            outstanding.remember(serial, &format!("call {serial}"));
        }
        assert!(outstanding.settled(1).is_none(), "it has no line yet");
        assert_eq!(expired(&outstanding, 3, 0), ["call 0", "call 2"]);
        assert_eq!(expired(&outstanding, 3, 0), [""; 0]);
        assert_eq!([0, 0, 1, 3].map(|serial| outstanding.settled(serial).is_some()), [true, false, false, false]);
        // Nothing corrects it any more.
        assert_eq!(expired(&outstanding, 4, 2), [""; 0]);
        assert!(outstanding.settled(2).is_none());
        assert!(outstanding.shards.iter().all(|shard| shard.lock().bytes == 0 && shard.lock().unsettled.is_empty()));
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
        assert!(outstanding.settled(0).is_none());
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
        assert_eq!([0, 16].map(|serial| outstanding.settled(serial).is_some()), [true, false]);
    }
}
