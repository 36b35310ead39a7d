//! The process's clock.

use std::time::{Duration, Instant};

/// A moment, as nanoseconds on a monotonic clock that starts with the process. It means nothing to another process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Nanos(pub u64);

/// The process's clock. The limiter never reads it: the time is passed in.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

// === impl Clock ===

impl Clock {
    /// A clock that starts now.
    #[must_use]
    pub fn start() -> Self {
        Clock { origin: Instant::now() }
    }

    /// The time since it started.
    #[must_use]
    pub fn now(&self) -> Nanos {
        Nanos::from(self.origin.elapsed())
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
