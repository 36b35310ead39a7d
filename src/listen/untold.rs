//! What happens too often for a line each.

use std::time::{Duration, Instant};

/// A line for each refusal would let a flood of them flood the log.
const LINES: Duration = Duration::from_secs(1);

/// Events since the last line about them.
#[derive(Debug, Default)]
pub struct Untold {
    number: u64,
    told: Option<Instant>,
}

// === impl Untold ===

impl Untold {
    /// Counts one; how many are to be told about now.
    pub fn count(&mut self, now: Instant) -> Option<u64> {
        self.number += 1;
        if self.told.is_some_and(|told| now.duration_since(told) < LINES) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_told_once_a_second_with_its_number() {
        let (mut refusals, start) = (Untold::default(), Instant::now());
        assert_eq!(refusals.count(start), Some(1));
        for at in 1..1000 {
            assert_eq!(refusals.count(start + Duration::from_millis(at)), None);
        }
        assert_eq!(refusals.count(start + LINES), Some(1000));
    }
}
