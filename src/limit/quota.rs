//! What a limit allows.

use std::time::Duration;

use super::Nanos;

/// So many hits per window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    pub(super) limit: u64,
    /// In nanoseconds.
    pub(super) window: u64,
    pub(super) algorithm: Algorithm,
}

/// How hits come back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// Evenly: a bucket that holds the limit, and regains all of it in one window.
    #[default]
    TokenBucket,
    /// All at once, a window after the first hit.
    FixedWindow,
}

// === impl Quota ===

impl Quota {
    /// The largest limit: far above any real one, and small enough for the arithmetic never to overflow.
    pub const MAX_LIMIT: u64 = 1_000_000_000_000;

    /// A limit above [`Quota::MAX_LIMIT`] is lowered to it, an empty window is raised to one nanosecond.
    #[must_use]
    pub fn new(limit: u64, window: Duration) -> Self {
        Quota {
            limit: limit.min(Self::MAX_LIMIT),
            window: Nanos::from(window).0.max(1),
            algorithm: Algorithm::default(),
        }
    }

    /// The same, counted by `algorithm`.
    #[must_use]
    pub fn by(self, algorithm: Algorithm) -> Self {
        Quota { algorithm, ..self }
    }

    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit
    }

    #[must_use]
    pub fn window(&self) -> Duration {
        Duration::from_nanos(self.window)
    }

    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// All of the limit, in hits × nanoseconds of the window.
    pub(super) fn capacity(&self) -> u128 {
        self.price(self.limit)
    }

    pub(super) fn price(&self, hits: u64) -> u128 {
        u128::from(hits) * u128::from(self.window)
    }
}
