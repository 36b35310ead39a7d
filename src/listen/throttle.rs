//! Lines of the log that whoever sends requests can order.

use std::time::{Duration, Instant};

/// A line for each would let a flood of them flood the log.
const LINES: Duration = Duration::from_secs(1);

/// Counts what is told of at most once a second.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    untold: u64,
    told: Option<Instant>,
}

// === impl Throttle ===

impl Throttle {
    /// Counts one; how many a line is due for now.
    pub(super) fn count(&mut self, now: Instant) -> Option<u64> {
        self.untold += 1;
        if self.told.is_some_and(|told| now.duration_since(told) < LINES) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_told_once_a_second_with_its_number() {
        let (mut throttle, start) = (Throttle::default(), Instant::now());
        assert_eq!(throttle.count(start), Some(1));
        for at in 1..1000 {
            assert_eq!(throttle.count(start + Duration::from_millis(at)), None);
        }
        assert_eq!(throttle.count(start + LINES), Some(1000));
    }
}
