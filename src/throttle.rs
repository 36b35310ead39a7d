//! Lines of the log that would be too many.

use std::time::{Duration, Instant};

/// A line for each refusal would let a flood of them flood the log.
const BETWEEN_LINES: Duration = Duration::from_secs(1);

/// Bounds how often one kind of event is told: a line a second, each with the number of events since the line before.
#[derive(Debug, Default)]
pub struct Throttle {
    /// Events since the last line about them.
    events: u64,
    last_line: Option<Instant>,
}

// === impl Throttle ===

impl Throttle {
    /// Counts one event at `now`; if a line is due, how many events it is to tell of.
    pub fn count(&mut self, now: Instant) -> Option<u64> {
        self.events += 1;
        if self.last_line.is_some_and(|last| now.duration_since(last) < BETWEEN_LINES) {
            return None;
        }
        self.last_line = Some(now);
        Some(std::mem::take(&mut self.events))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_told_once_a_second_with_its_number() {
        let (mut refusals, start) = (Throttle::default(), Instant::now());
        assert_eq!(refusals.count(start), Some(1));
        for at in 1..1000 {
            assert_eq!(refusals.count(start + Duration::from_millis(at)), None);
        }
        assert_eq!(refusals.count(start + BETWEEN_LINES), Some(1000));
    }
}
