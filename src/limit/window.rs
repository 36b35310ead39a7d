//! A fixed window that the first hit starts, after which the counter starts anew: what Limitador counts by.
//!
//! It admits its limit once in every window; across the edge of two windows, up to twice the limit in a short time.

use std::time::Duration;

use super::{Cost, Nanos, Quota, Verdict};

/// The state of one window. A fresh one has not started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    pub(super) used: u64,
    pub(super) started: Nanos,
    /// When it was last looked at.
    pub(super) at: Nanos,
    length: u64,
}

// === impl Window ===

impl Window {
    /// Ends the window if its time is over.
    pub fn advance(&mut self, quota: &Quota, now: Nanos) {
        self.at = self.at.max(now);
        self.length = quota.window;
        if self.at >= self.end() {
            self.used = 0;
        }
    }

    /// Whether `cost` fits, at the time of the last [`Window::advance`].
    #[must_use]
    pub fn peek(&self, quota: &Quota, cost: Cost) -> Verdict {
        let hits = cost.hits();
        match self.used.saturating_add(hits) <= quota.limit {
            true => Verdict::Fits,
            false if hits > quota.limit => Verdict::Exceeds(None),
            false => Verdict::Exceeds(Some(self.reset())),
        }
    }

    /// Adds `hits`, into debt if need be: the end of the window forgives it. The first hit starts the window.
    pub fn charge(&mut self, hits: u64) {
        if self.used == 0 {
            self.started = self.at;
        }
        self.used = self.used.saturating_add(hits);
    }

    #[must_use]
    pub fn remaining(&self, quota: &Quota) -> u64 {
        quota.limit.saturating_sub(self.used)
    }

    /// Until the counter starts anew.
    #[must_use]
    pub fn reset(&self) -> Duration {
        match self.used {
            0 => Duration::ZERO,
            _ => Duration::from_nanos(self.end().0.saturating_sub(self.at.0)),
        }
    }

    /// Whether nothing will count at `now`.
    #[must_use]
    pub fn is_idle(&self, now: Nanos) -> bool {
        self.used == 0 || now >= self.end()
    }

    fn end(&self) -> Nanos {
        Nanos(self.started.0.saturating_add(self.length))
    }
}
