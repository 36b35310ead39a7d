//! The process's clock, and the time that stores go by.

mod pace;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub use self::pace::{Follower, Pace, Stepped};

/// A moment, as nanoseconds on a monotonic clock that starts with the process. It means nothing to another process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Nanos(pub u64);

/// A moment, as whole microseconds since 1970 on the clock of a store: in cells and reservations, which may outlive the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Micros(pub u64);

/// The process's clock. The limiter never reads it: the time is passed in.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
    began: Micros,
}

// === impl Clock ===

impl Clock {
    /// A clock that starts now.
    #[must_use]
    pub fn start() -> Self {
        Clock { origin: Instant::now(), began: Self::wall() }
    }

    /// One that has run for so long, and started when the wall clock said `began`.
    #[cfg(test)]
    pub(crate) fn started(began: Micros, ago: Duration) -> Self {
        Clock { origin: Instant::now().checked_sub(ago).unwrap(), began }
    }

    /// What the wall clock says.
    #[must_use]
    pub fn wall() -> Micros {
        Micros::from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
    }

    /// The time since it started.
    #[must_use]
    pub fn now(&self) -> Nanos {
        Nanos::from(self.origin.elapsed())
    }

    /// What the wall clock said when it started: see [`Pace`].
    #[must_use]
    pub fn began(&self) -> Micros {
        self.began
    }
}

// === impl Nanos ===

impl Nanos {
    /// So much later; the last moment there is, where that would be beyond it.
    #[must_use]
    pub fn saturating_add(self, duration: Duration) -> Self {
        Nanos(self.0.saturating_add(Nanos::from(duration).0))
    }
}

/// So long after the clock started.
impl From<Duration> for Nanos {
    fn from(duration: Duration) -> Self {
        let seconds = duration.as_secs().saturating_mul(1_000_000_000);
        Nanos(seconds.saturating_add(u64::from(duration.subsec_nanos())))
    }
}

// === impl Micros ===

impl Micros {
    /// So much later; the last moment there is, where that would be beyond it.
    #[must_use]
    pub fn saturating_add(self, duration: Duration) -> Self {
        Micros(self.0.saturating_add(Micros::from(duration).0))
    }
}

/// So long after 1970; a begun microsecond counts whole.
impl From<Duration> for Micros {
    fn from(duration: Duration) -> Self {
        let seconds = duration.as_secs().saturating_mul(1_000_000);
        Micros(seconds.saturating_add(u64::from(duration.subsec_nanos().div_ceil(1_000))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_of_the_process_is_a_whole_microsecond_of_the_store() {
        let began = Micros(1_800_000_000_000_000);
        for (nanos, later) in [(0, 0), (999, 0), (1_000, 1), (1_999, 1), (u64::MAX, u64::MAX / 1_000)] {
            assert_eq!(Pace::since(began).time(Nanos(nanos)), Micros(began.0 + later), "{nanos}");
        }
        assert_eq!(Pace::since(Micros(u64::MAX)).time(Nanos(5_000)), Micros(u64::MAX));
        for (nanos, micros) in [(0, 0), (1, 1), (1_000, 1), (1_001, 2), (60_000_000_000, 60_000_000)] {
            assert_eq!(Micros::from(Duration::from_nanos(nanos)), Micros(micros), "{nanos}");
        }
    }

    #[test]
    fn a_clock_starts_at_the_wall_clocks_time_and_goes_on_by_itself() {
        let clock = Clock::start();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let off = Pace::since(clock.began()).time(clock.now()).0.abs_diff(Micros::from(now).0);
        assert!(off < 1_000_000, "{off} µs");
    }
}
