//! A fixed window that the first hit starts, after which the counter starts anew: what Limitador counts by.
//!
//! It admits its limit once in every window; across the edge of two windows, up to twice the limit in a short time.

use std::time::Duration;

use super::{Cost, Quota, Verdict};
use crate::clock::Micros;

/// The state of one window. A fresh one has not started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    used: u64,
    /// When the counter starts anew, if anything was used.
    end: Micros,
}

// === impl Window ===

impl Window {
    /// Ends the window if its time is over at `now`. Of a window that became shorter no more than that is left.
    pub fn advance(&mut self, quota: &Quota, now: Micros) {
        if now >= self.end {
            self.used = 0;
        }
        self.end = self.end.min(Micros(now.0.saturating_add(quota.window)));
    }

    /// Whether `cost` fits at `now`, after [`Window::advance`].
    #[must_use]
    pub fn peek(&self, quota: &Quota, cost: Cost, now: Micros) -> Verdict {
        let hits = cost.hits();
        match self.used.saturating_add(hits) <= quota.limit {
            true => Verdict::Fits,
            false if hits > quota.limit => Verdict::Exceeds(None),
            false => Verdict::Exceeds(Some(self.until_new(now))),
        }
    }

    /// Takes what `cost` asks, if it fits at `now`, after [`Window::advance`].
    pub fn admit(&mut self, quota: &Quota, cost: Cost, now: Micros) -> Verdict {
        let verdict = self.peek(quota, cost, now);
        if let (Verdict::Fits, Cost::Take(hits)) = (verdict, cost) {
            self.charge(quota, hits, now);
        }
        verdict
    }

    /// Adds `hits`, into debt if need be: the end of the window forgives it. The first hit starts the window.
    pub fn charge(&mut self, quota: &Quota, hits: u64, now: Micros) {
        if self.used == 0 {
            self.end = Micros(now.0.saturating_add(quota.window));
        }
        self.used = self.used.saturating_add(hits);
    }

    /// Hits that are used of the window, after [`Window::advance`].
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used
    }

    /// Until the counter starts anew.
    #[must_use]
    pub fn until_new(&self, now: Micros) -> Duration {
        Duration::from_micros(self.left(now))
    }

    /// Likewise, in microseconds.
    pub(super) fn left(&self, now: Micros) -> u64 {
        match self.used {
            0 => 0,
            _ => self.end.0.saturating_sub(now.0),
        }
    }

    /// Whether nothing will count at `now`.
    #[must_use]
    pub fn is_idle(&self, now: Micros) -> bool {
        self.used == 0 || now >= self.end
    }
}
