//! Lines that wait a little: what is estimated may be known soon, and has one line then.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use parking_lot::Mutex;

use super::line::Line;
use crate::clock::Nanos;

/// So many lines wait, of some 500 bytes each. Of more the oldest is written at once.
pub(super) const MOST: usize = 16_384;

/// The lines that are not exact yet, each for as long as a better report is waited for. A correction waits too, if what it corrects does not:
/// that may have a line, or be about to come from another thread, which took its report first.
#[derive(Debug)]
pub(super) struct Grace {
    period: Duration,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// By call: see [`crate::usage::Reservation::call`].
    lines: HashMap<u128, Waits>,
    /// When each has waited long enough, the oldest first: as many as there are lines.
    due: BTreeSet<(Nanos, u128)>,
    is_over: bool,
}

#[derive(Debug)]
struct Waits {
    until: Nanos,
    line: Line,
}

// === impl Grace ===

impl Grace {
    pub(super) fn new(period: Duration) -> Self {
        Grace { period, waiting: Mutex::default() }
    }

    /// Takes a line of that call, as one with the line of it that waits: what is to be written now.
    pub(super) fn take(&self, call: u128, line: Line, now: Nanos) -> Option<Line> {
        let mut waiting = self.waiting.lock();
        let waits = match waiting.remove(call) {
            Some(earlier) => Waits { line: line.with(earlier.line), ..earlier },
            None => Waits { until: now.saturating_add(self.period), line },
        };
        if waits.line.is_exact() || self.period.is_zero() || waiting.is_over {
            return Some(waits.line);
        }
        waiting.insert(call, waits);
        if waiting.lines.len() > MOST { waiting.oldest() } else { None }
    }

    /// Takes out what has waited long enough.
    pub(super) fn due(&self, now: Nanos) -> Vec<Line> {
        let mut waiting = self.waiting.lock();
        let mut lines = Vec::new();
        while waiting.due.first().is_some_and(|(due, _)| *due <= now) {
            lines.extend(waiting.oldest());
        }
        lines
    }

    /// Takes out everything, the oldest first. From now on nothing waits.
    pub(super) fn end(&self) -> Vec<Line> {
        let mut waiting = self.waiting.lock();
        waiting.is_over = true;
        let mut lines = Vec::new();
        while !waiting.due.is_empty() {
            lines.extend(waiting.oldest());
        }
        lines
    }
}

// === impl Waiting ===

impl Waiting {
    fn insert(&mut self, call: u128, waits: Waits) {
        self.due.insert((waits.until, call));
        self.lines.insert(call, waits);
    }

    fn remove(&mut self, call: u128) -> Option<Waits> {
        let waits = self.lines.remove(&call)?;
        self.due.remove(&(waits.until, call));
        Some(waits)
    }

    /// Takes out the line that waits for longest.
    fn oldest(&mut self) -> Option<Line> {
        let (_, call) = self.due.pop_first()?;
        self.lines.remove(&call).map(|waits| waits.line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::ledger::Quality;

    const PERIOD: Duration = Duration::from_secs(5);

    fn line(quality: Quality, total: i64) -> Line {
        Line { quality, total, charged: [("a/b/c".into(), total)].into(), ..Line::default() }
    }

    fn correction(quality: Quality, total: i64) -> Line {
        Line { correction: true, ..line(quality, total) }
    }

    fn at(seconds: u64) -> Nanos {
        Nanos::from(Duration::from_secs(seconds))
    }

    /// Sequence 2 of one call: bytes, and its usage a little later.
    #[test]
    fn an_estimate_and_what_corrects_it_within_the_grace_are_one_exact_line() {
        let grace = Grace::new(PERIOD);
        assert_eq!(grace.take(1, line(Quality::Estimate, 100), at(0)), None);
        assert_eq!(grace.take(1, correction(Quality::Counted, -20), at(1)), None);
        assert_eq!(grace.due(at(4)), []);
        assert_eq!(grace.take(1, correction(Quality::Final, -20), at(4)), Some(line(Quality::Final, 60)));
        assert_eq!((grace.due(at(9)), grace.end()), (vec![], vec![]));
    }

    /// Sequence 4: its usage after the grace.
    #[test]
    fn after_the_grace_an_estimate_has_a_line_and_its_correction_another() {
        let grace = Grace::new(PERIOD);
        assert_eq!(grace.take(1, line(Quality::Estimate, 100), at(0)), None);
        assert_eq!(grace.due(at(5)), [line(Quality::Estimate, 100)]);
        let last = correction(Quality::Final, -40);
        assert_eq!((grace.take(1, last.clone(), at(6)), grace.due(at(10))), (None, vec![]));
        assert_eq!(grace.due(at(11)), [last]);
    }

    /// Two threads, of which the second to take a report is the first that comes here.
    #[test]
    fn a_correction_that_comes_before_what_it_corrects_is_one_line_with_it() {
        let grace = Grace::new(PERIOD);
        let exact = line(Quality::Final, 60);
        assert_eq!(grace.take(1, correction(Quality::Final, -40), at(0)), None);
        assert_eq!(grace.take(1, line(Quality::Estimate, 100), at(0)), Some(exact.clone()));
        // Of three too.
        assert_eq!(grace.take(2, correction(Quality::Final, -20), at(0)), None);
        assert_eq!(grace.take(2, correction(Quality::Counted, -20), at(0)), None);
        assert_eq!(grace.take(2, line(Quality::Estimate, 100), at(0)), Some(exact));
        // And where a line is corrected that was written without a report.
        let corrects = |line| Line { correction: true, corrects: Some(Quality::Unsettled), ..line };
        assert_eq!(grace.take(3, correction(Quality::Final, -40), at(0)), None);
        let last = grace.take(3, corrects(line(Quality::Estimate, 30)), at(0));
        assert_eq!(last, Some(corrects(line(Quality::Final, -10))));
        assert_eq!(grace.end(), []);
    }

    #[test]
    fn what_is_exact_does_not_wait_and_without_a_grace_nothing_does() {
        let exact = line(Quality::Final, 60);
        assert_eq!(Grace::new(PERIOD).take(1, exact.clone(), at(0)), Some(exact));
        let estimate = line(Quality::Estimate, 60);
        assert_eq!(Grace::new(Duration::ZERO).take(1, estimate.clone(), at(0)), Some(estimate));
    }

    #[test]
    fn no_more_lines_wait_than_may_and_all_of_them_are_written_at_the_end() {
        let grace = Grace::new(PERIOD);
        let number = |call: u128| i64::try_from(call).unwrap();
        let take = |call| grace.take(call, line(Quality::Estimate, number(call)), at(0));
        let most = MOST as u128;
        assert!((0..most).all(|call| take(call).is_none()));
        assert_eq!(take(most), Some(line(Quality::Estimate, 0)), "the oldest makes room");
        // What was corrected meanwhile has left its place.
        assert_eq!(grace.take(1, correction(Quality::Final, 1), at(1)), Some(line(Quality::Final, 2)));
        assert_eq!(take(most + 1), None);
        let places = |waiting: &Waiting| (waiting.lines.len(), waiting.due.len());
        assert_eq!(places(&grace.waiting.lock()), (MOST, MOST));
        let rest: Vec<i64> = grace.end().iter().map(|line| line.total).collect();
        assert_eq!(rest, (2..=number(most) + 1).collect::<Vec<_>>());
        assert_eq!(take(most + 2).unwrap().total, number(most) + 2, "nothing waits after that");
    }
}
