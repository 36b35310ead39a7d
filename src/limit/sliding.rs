//! A window that slides: the aligned window of now, and what of the one before has not slid out of sight yet.
//!
//! It admits its limit in every aligned window, and less than twice the limit in any other time of that length: what was used in the
//! window before counts in proportion to how much of it is still seen, as if it had been used evenly. What answers cost beyond the limit is
//! carried into the windows that follow, or counts in its own and the next alone, as the limit says.

use std::time::Duration;

use super::cell::Counter;
use super::{Charge, Quota, Verdict};
use crate::clock::Micros;
use crate::record::{Reading, write_number};

/// The state of one counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sliding {
    /// In the window of now, and in the one before it.
    used: u64,
    before: u64,
    /// Which window is that of now: they are numbered from 1970 on.
    number: u64,
    /// The limit by which it was counted, and its window in microseconds.
    limit: u64,
    window: u64,
    /// How often that was changed, or what was used was forgotten.
    changes: u16,
}

/// The whole of the window before, in the parts by which it slides out.
const PARTS: u64 = 1024;
/// Numbers of windows are below it, for a hundred years to come.
const NUMBERS: u32 = 52;

// === impl Sliding ===

impl Sliding {
    /// Appends its record.
    pub(super) fn write(&self, record: &mut Vec<u8>) {
        let Sliding { used, before, number, limit, window, changes } = self;
        for number in [*number, *used, *before, *limit, *window, u64::from(*changes)] {
            write_number(record, number);
        }
    }

    /// What [`Sliding::write`] wrote. `None` for what none is.
    pub(super) fn read(record: &mut Reading<'_>) -> Option<Self> {
        let (number, used, before) = (record.number()?, record.number()?, record.number()?);
        let (limit, window) = (record.number()?, record.number()?);
        let changes = u16::try_from(record.number()?).ok()?;
        let is_one = limit <= Quota::MAX_LIMIT && number < 1 << NUMBERS;
        is_one.then_some(Sliding { used, before, number, limit, window, changes })
    }

    /// Goes on to the window that has this number; so many windows have ended since.
    fn roll(&mut self, number: u64, carries_debt: bool) {
        let ended = number.saturating_sub(self.number);
        (self.before, self.used) = match ended {
            0 => return,
            _ if carries_debt => self.carried(ended),
            // What is beyond the limit is forgotten with its window.
            1 => (self.used.min(self.limit), 0),
            _ => (0, 0),
        };
        self.number = number;
    }

    /// What counts in the window before and in that one, once so many have ended: each takes up its limit of the debt, or one hit of a limit
    /// of nothing, so that what was used ends some day.
    fn carried(&self, ended: u64) -> (u64, u64) {
        let limit = self.limit.max(1);
        let left = |ended: u64| self.used.saturating_sub(limit.saturating_mul(ended));
        (left(ended - 1).min(limit), left(ended))
    }

    /// The same use, by another quota.
    #[cold]
    fn adopting(self, quota: &Quota, now: Micros) -> Self {
        let within = |used: u64| used.min(self.limit).min(quota.limit);
        let debt = self.used.saturating_sub(self.limit);
        // What slides out of a longer window may slide out of the new one later; never sooner than it would have been forgotten.
        let used = within(self.counted(now).min(self.limit)).saturating_add(debt);
        let changes = self.changes.wrapping_add(1);
        let number = now.0 / quota.window;
        Sliding { used, before: 0, number, limit: quota.limit, window: quota.window, changes }
    }

    /// What counts at `now`, rounded up.
    fn counted(&self, now: Micros) -> u64 {
        let before = u128::from(self.before) * u128::from(self.weight(now));
        self.used.saturating_add(u64::try_from(before.div_ceil(u128::from(PARTS))).unwrap_or(u64::MAX))
    }

    /// How much of the window before is still seen, in parts, rounded up.
    fn weight(&self, now: Micros) -> u64 {
        let window = self.window.max(1);
        let seen = u128::from(window - now.0 % window) * u128::from(PARTS);
        u64::try_from(seen.div_ceil(u128::from(window))).unwrap_or(PARTS)
    }

    /// When the window begins that comes so many after that of now.
    fn start(&self, after: u64) -> u64 {
        self.number.saturating_add(after).saturating_mul(self.window)
    }

    /// The first moment at which `need` fits, which does not fit in the window of now as it is.
    fn when(&self, quota: &Quota, need: u64) -> u64 {
        let Some(room) = quota.limit.checked_sub(need) else { return self.idle_at(quota) };
        let beyond = self.used.saturating_sub(room);
        let ended = match (beyond, quota.carries_debt) {
            (0, _) => 0,
            (_, true) => beyond.div_ceil(quota.limit),
            (_, false) => 1,
        };
        let mut then = *self;
        then.roll(self.number.saturating_add(ended), quota.carries_debt);
        then.slid_to(room.saturating_sub(then.used))
    }

    /// When no more than `room` of the window before is seen.
    fn slid_to(&self, room: u64) -> u64 {
        if self.before == 0 {
            return self.start(0);
        }
        let parts = (u128::from(room) * u128::from(PARTS) / u128::from(self.before)).min(u128::from(PARTS));
        let seen = parts * u128::from(self.window) / u128::from(PARTS);
        self.start(1).saturating_sub(u64::try_from(seen).unwrap_or(self.window))
    }

    /// When nothing counts any more.
    fn idle_at(&self, quota: &Quota) -> u64 {
        let windows = match (self.used, self.before) {
            (0, 0) => return 0,
            (0, _) => 1,
            (used, _) if quota.carries_debt => used.div_ceil(quota.limit.max(1)).saturating_add(1),
            _ => 2,
        };
        self.start(windows)
    }
}

impl Counter for Sliding {
    #[inline]
    fn advance(&mut self, quota: &Quota, now: Micros) {
        if let Some(number) = now.0.checked_div(self.window) {
            self.roll(number, quota.carries_debt);
        }
        if (self.limit, self.window) != (quota.limit, quota.window) {
            *self = self.adopting(quota, now);
        }
    }

    /// Where nothing counts, whatever is asked is held.
    fn fits(&self, quota: &Quota, need: u64, now: Micros) -> Verdict {
        let counted = self.counted(now);
        match (quota.limit, counted.saturating_add(need) <= quota.limit) {
            (0, _) => Verdict::Exceeds(None),
            (_, true) => Verdict::Fits,
            (_, false) if counted == 0 => Verdict::Fits,
            (_, false) => {
                Verdict::Exceeds(Some(Duration::from_micros(self.when(quota, need).saturating_sub(now.0).max(1))))
            }
        }
    }

    #[inline]
    fn charge(&mut self, _: &Quota, hits: u64, _: Micros) {
        self.used = self.used.saturating_add(hits);
    }

    #[inline]
    fn used(&self, now: Micros) -> u64 {
        self.counted(now)
    }

    #[inline]
    fn left(&self, quota: &Quota, now: Micros) -> u64 {
        self.idle_at(quota).saturating_sub(now.0)
    }

    /// The window of a hold: see [`Counter::give_back`].
    #[inline]
    fn mark(&self) -> Micros {
        Micros(self.number | u64::from(self.changes) << NUMBERS)
    }

    fn room(&self, _: &Quota) -> u64 {
        u64::MAX - self.used
    }

    /// What was held is given back to the window that it was held in, this one or the one before; not where the limit has been changed
    /// since.
    fn give_back(&mut self, _: &Quota, hits: u64, charge: Charge, _: Micros) -> u64 {
        let held_in = match self.mark().0.checked_sub(charge.mark.0) {
            Some(0) => &mut self.used,
            Some(1) if self.number > 0 => &mut self.before,
            _ => return 0,
        };
        let back = hits.min(*held_in);
        *held_in -= back;
        back
    }

    /// First of the window of now, whose hits count whole.
    fn grant(&mut self, _: &Quota, hits: u64, now: Micros) {
        let left = self.counted(now).saturating_sub(hits);
        self.used = self.used.saturating_sub(hits);
        let seen = u128::from(left.saturating_sub(self.used)) * u128::from(PARTS);
        let before = seen.checked_div(u128::from(self.weight(now))).unwrap_or(u128::MAX);
        self.before = self.before.min(u64::try_from(before).unwrap_or(u64::MAX));
    }

    fn reset(&mut self, _: &Quota, _: Micros) {
        (self.used, self.before, self.changes) = (0, 0, self.changes.wrapping_add(1));
    }

    fn bound_debt(&mut self, quota: &Quota, windows: u32, _: Micros) -> bool {
        if !quota.carries_debt {
            return false;
        }
        let most = quota.limit.max(1).saturating_mul(u64::from(windows).saturating_add(1));
        let is_longer = self.used > most;
        self.used = self.used.min(most);
        is_longer
    }

    fn is_idle(&self, now: Micros) -> bool {
        let Some(number) = now.0.checked_div(self.window) else { return true };
        let mut then = *self;
        // Whether debts are carried is not known here: as long as they might be, they are.
        then.roll(number, true);
        // A cell that is made anew would take marks of before a reset for its own.
        let is_remembered = self.changes > 1 && number < self.number.saturating_add(2);
        (then.used, then.before) == (0, 0) && !is_remembered
    }
}
