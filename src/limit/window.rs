//! A window after which the counter starts anew: one that the first hit starts, which is what Limitador counts by, or one of the
//! calendar.
//!
//! It admits its limit once in every window; across the edge of two windows, up to twice the limit in a short time. What answers cost
//! beyond the limit is carried into the windows that follow, or forgiven at the end of its own, as the limit says.

use std::time::Duration;

use super::{Quota, Verdict};
use crate::clock::Micros;
use crate::record::{Reading, write_number};

/// The state of one window. A fresh one has not started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    used: u64,
    /// When the counter starts anew, if anything was used.
    end: Micros,
    /// The limit by which it was counted, and its window in microseconds.
    limit: u64,
    window: u64,
    /// How often that was changed.
    changes: u16,
}

/// Times are below it, for a hundred years to come.
const TIMES: u32 = 52;

// === impl Window ===

impl Window {
    /// Ends the window if its time is over at `now`, and goes on with the debt if that is carried. Of a window that became shorter no
    /// more than that is left; under a lower limit what was used within the old one fills the new one, and is no debt.
    #[inline]
    pub fn advance(&mut self, quota: &Quota, now: Micros) {
        if now >= self.end {
            self.pass(quota, now);
        }
        if (self.limit, self.window) != (quota.limit, quota.window) {
            let debt = self.used.saturating_sub(self.limit);
            let used = self.used.min(self.limit).min(quota.limit).saturating_add(debt);
            let end = self.end.min(quota.end_of(now));
            let changes = self.changes.wrapping_add(1);
            *self = Window { used, end, limit: quota.limit, window: quota.window, changes };
        }
    }

    /// Starts the counter anew at the end of its window, or that of the last which a debt filled.
    fn pass(&mut self, quota: &Quota, now: Micros) {
        let debt = if quota.carries_debt { self.used.saturating_sub(self.limit) } else { 0 };
        if debt == 0 {
            self.used = 0;
            return;
        }
        // Of a limit of nothing one hit comes back in a window, so that what was used ends some day.
        // By the windows that it was counted in, which may be others than those of now.
        let of_calendar = quota.calendar.is_some() && self.window == quota.window;
        let passed = if of_calendar { quota.ended(self.end, now) } else { self.passed(now) };
        self.used = self.used.saturating_sub(self.limit.max(1).saturating_mul(passed));
        self.end = match of_calendar {
            true => quota.end_of(now),
            false => Micros(self.end.0.saturating_add(passed.saturating_mul(self.window))),
        };
    }

    /// How many windows have ended at `now`, each as long as those of its limit can be.
    fn passed(&self, now: Micros) -> u64 {
        now.0.checked_sub(self.end.0).map_or(0, |since| 1 + since / self.window.max(1))
    }

    /// What a hold of `need` at `now` would meet, after [`Window::advance`]. An empty window holds whatever is asked of it.
    #[must_use]
    #[inline]
    pub fn fits(&self, quota: &Quota, need: u64, now: Micros) -> Verdict {
        match (quota.limit, self.used.saturating_add(need) <= quota.limit) {
            (0, _) => Verdict::Exceeds(None),
            (_, true) => Verdict::Fits,
            (_, false) if self.used == 0 => Verdict::Fits,
            (_, false) => Verdict::Exceeds(Some(Duration::from_micros(self.until_room(quota, need, now)))),
        }
    }

    /// Until there is room for `need`, in microseconds: the end of this window, or of a later one where a debt fills that.
    fn until_room(&self, quota: &Quota, need: u64, now: Micros) -> u64 {
        let beyond = match quota.carries_debt {
            true => self.used.saturating_add(need).saturating_sub(quota.limit).max(1),
            false => 1,
        };
        // An empty window takes whatever is needed.
        let windows = beyond.div_ceil(quota.limit.max(1)).min(self.used.div_ceil(quota.limit.max(1))).max(1);
        quota.end_after(self.end, windows - 1).0.saturating_sub(now.0)
    }

    /// The window of a hold: what it gives back, it gives back to this one alone, and not where its limit has been changed since.
    #[must_use]
    #[inline]
    pub fn mark(&self) -> Micros {
        Micros(self.end.0 | u64::from(self.changes) << TIMES)
    }

    /// Gives back `hits` that were held in the window of that `mark`, if it is this one; how many. After [`Window::advance`].
    pub fn give_back(&mut self, hits: u64, mark: Micros) -> u64 {
        let back = if mark == self.mark() { hits.min(self.used) } else { 0 };
        self.used -= back;
        back
    }

    /// Forgets what was used. What was held before gives nothing back, as if the limit had been changed.
    pub(super) fn reset(&mut self) {
        (self.used, self.changes) = (0, self.changes.wrapping_add(1));
    }

    /// How many hits can be charged so that the counter is exact.
    #[must_use]
    pub fn room(&self) -> u64 {
        u64::MAX - self.used
    }

    /// Adds `hits`, into debt if need be. The first hit starts the window.
    #[inline]
    pub fn charge(&mut self, quota: &Quota, hits: u64, now: Micros) {
        if self.used == 0 {
            self.end = quota.end_of(now);
        }
        self.used = self.used.saturating_add(hits);
    }

    /// Ends a debt after so many windows, those of `quota`; whether it was longer.
    pub fn bound_debt(&mut self, quota: &Quota, windows: u32) -> bool {
        if !quota.carries_debt {
            return false;
        }
        let most = quota.limit.max(1).saturating_mul(u64::from(windows).saturating_add(1));
        let is_longer = self.used > most;
        self.used = self.used.min(most);
        is_longer
    }

    /// Hits that are used of the window, after [`Window::advance`].
    #[must_use]
    #[inline]
    pub fn used(&self) -> u64 {
        self.used
    }

    /// Until the counter starts anew, in microseconds: where a debt is carried, until that is paid too.
    #[inline]
    pub(super) fn left(&self, quota: &Quota, now: Micros) -> u64 {
        let windows = match self.used {
            0 => return 0,
            used if quota.carries_debt && used > quota.limit => used.div_ceil(quota.limit.max(1)) - 1,
            _ => 0,
        };
        quota.end_after(self.end, windows).0.saturating_sub(now.0)
    }

    /// Until the counter starts anew.
    #[must_use]
    pub fn until_new(&self, quota: &Quota, now: Micros) -> Duration {
        Duration::from_micros(self.left(quota, now))
    }

    /// Appends its record.
    pub(super) fn write(&self, record: &mut Vec<u8>) {
        for number in [self.end.0, self.used, self.limit, self.window, u64::from(self.changes)] {
            write_number(record, number);
        }
    }

    /// What [`Window::write`] wrote. `None` for what no window is.
    pub(super) fn read(record: &mut Reading<'_>) -> Option<Self> {
        let (end, used) = (Micros(record.number()?), record.number()?);
        let (limit, window) = (record.number()?, record.number()?);
        let changes = u16::try_from(record.number()?).ok()?;
        let is_one = limit <= Quota::MAX_LIMIT;
        is_one.then_some(Window { used, end, limit, window, changes })
    }

    /// Whether nothing will count at `now`.
    #[must_use]
    pub fn is_idle(&self, now: Micros) -> bool {
        // A cell that is made anew would take marks of before a reset for its own.
        let is_remembered = self.changes > 1 && now < self.end;
        self.used <= self.limit.max(1).saturating_mul(self.passed(now)) && !is_remembered
    }
}
