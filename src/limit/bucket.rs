//! A token bucket that can be peeked, taken from, and charged into debt. Pure arithmetic: it knows no clock and no map.
//!
//! It is kept as GCRA keeps its theoretical arrival time: as the moment at which it is full again. That moment is exact, a
//! microsecond and a fraction of one, so that no rounding ever lets a part of a hit through; and taking needs no division.

use std::time::Duration;

use super::{Cost, Quota, Verdict};
use crate::clock::Micros;

/// The state of one bucket. A fresh one is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// When the bucket is full again, rounded down.
    full: Micros,
    /// What was rounded off, in parts of `refill` of a microsecond.
    fraction: u64,
    /// Hits that come back in one window: the limit. Zero when fresh.
    refill: u64,
    /// That window, in microseconds. Limit and window can change while the bucket is in use: these are those by which it was filled.
    window: u64,
}

// === impl Bucket ===

impl Default for Bucket {
    fn default() -> Self {
        Bucket { full: Micros(0), fraction: 0, refill: 0, window: 1 }
    }
}

impl Bucket {
    /// A full bucket of `quota`.
    #[must_use]
    #[inline]
    pub fn fresh(quota: &Quota) -> Self {
        Bucket { full: Micros(0), fraction: 0, refill: quota.refill(), window: quota.window }
    }

    /// Adopts `quota` at `now`. Hits that were used stay used when limit or window changed, as far as the new limit goes; a debt
    /// beyond it lasts as many windows as before.
    #[inline]
    pub fn advance(&mut self, quota: &Quota, now: Micros) {
        if self.full < now {
            // INVARIANT: less than one microsecond of fraction, which is over too.
            (self.full, self.fraction) = (now, 0);
        }
        if (self.refill, self.window) != (quota.refill(), quota.window) {
            *self = self.adopting(quota, now);
        }
    }

    /// The same use, by another quota; a begun hit counts whole. (Counted as hits of the new limit, 900 used of 1,000 would be eight
    /// windows of debt under 100.) A debt lasts neither longer nor for more windows than before.
    #[cold]
    fn adopting(self, quota: &Quota, now: Micros) -> Self {
        let latest = Micros(now.0.saturating_add(self.window));
        let debt = u128::from(self.full.0.saturating_sub(latest.0));
        let debt = debt.min(debt * u128::from(quota.window) / u128::from(self.window));
        let within = Bucket { full: self.full.min(latest), ..self };
        let mut bucket = Bucket { full: now, fraction: 0, refill: quota.refill(), window: quota.window };
        bucket.add(quota.price(within.used(now).min(quota.refill())), quota);
        bucket.full = Micros(bucket.full.0.saturating_add(u64::try_from(debt).unwrap_or(u64::MAX)));
        bucket
    }

    /// Ends a debt after so many windows, whole ones of `quota`; whether it was longer.
    pub fn bound_debt(&mut self, quota: &Quota, windows: u32, now: Micros) -> bool {
        let longest = quota.window.saturating_mul(u64::from(windows).saturating_add(1));
        let latest = Micros(now.0.saturating_add(longest));
        let is_longer = (self.full, self.fraction) > (latest, 0);
        if is_longer {
            (self.full, self.fraction) = (latest, 0);
        }
        is_longer
    }

    /// Whether `cost` fits at `now`, after [`Bucket::advance`].
    #[must_use]
    #[inline]
    pub fn peek(&self, quota: &Quota, cost: Cost, now: Micros) -> Verdict {
        let mut bucket = *self;
        bucket.fit(quota, cost.hits(), now)
    }

    /// Takes what `cost` asks, if it fits at `now`, after [`Bucket::advance`].
    #[inline]
    pub fn admit(&mut self, quota: &Quota, cost: Cost, now: Micros) -> Verdict {
        match cost {
            Cost::Take(hits) => self.fit(quota, hits, now),
            Cost::Postpaid => self.peek(quota, cost, now),
        }
    }

    /// Adds `hits`, if they fit at `now`.
    #[inline]
    fn fit(&mut self, quota: &Quota, hits: u64, now: Micros) -> Verdict {
        if hits > quota.limit {
            return Verdict::Exceeds(None);
        }
        let mut after = *self;
        after.charge(quota, hits);
        let latest = Micros(now.0.saturating_add(quota.window));
        if (after.full, after.fraction) <= (latest, 0) {
            *self = after;
            return Verdict::Fits;
        }
        Verdict::Exceeds(Some(after.until_full(latest)))
    }

    /// Adds `hits`, into debt if need be.
    #[inline]
    pub fn charge(&mut self, quota: &Quota, hits: u64) {
        if hits == 1 {
            let fraction = self.fraction + quota.part;
            let carry = u64::from(fraction >= self.refill);
            self.fraction = fraction - carry * self.refill;
            self.full = Micros(self.full.0.saturating_add(quota.interval).saturating_add(carry));
        } else {
            self.add(quota.price(hits), quota);
        }
    }

    /// Whole hits that are used, a begun one included.
    #[must_use]
    #[inline]
    pub fn used(&self, now: Micros) -> u64 {
        let spent = self.spent(now);
        match u64::try_from(spent) {
            Ok(spent) => spent.div_ceil(self.window),
            Err(_) => u64::try_from(spent.div_ceil(u128::from(self.window))).unwrap_or(u64::MAX),
        }
    }

    /// Until the bucket is full again.
    #[must_use]
    pub fn until_full(&self, now: Micros) -> Duration {
        Duration::from_micros(self.left(now))
    }

    /// Likewise, in microseconds.
    #[inline]
    pub(super) fn left(&self, now: Micros) -> u64 {
        // A begun microsecond has to end.
        let begun = u64::from(self.fraction > 0 && self.full >= now);
        self.full.0.saturating_sub(now.0).saturating_add(begun)
    }

    /// Whether the bucket is full at `now`, so that forgetting it changes nothing.
    #[must_use]
    pub fn is_idle(&self, now: Micros) -> bool {
        self.until_full(now).is_zero()
    }

    /// What is used and has not come back, in hits × microseconds of the window.
    fn spent(&self, now: Micros) -> u128 {
        let left = self.full.0.saturating_sub(now.0);
        u128::from(left) * u128::from(self.refill) + u128::from(self.fraction)
    }

    /// Adds so many hits × microseconds of the window.
    fn add(&mut self, spent: u128, quota: &Quota) {
        let refill = u128::from(quota.refill());
        let sum = spent.saturating_add(u128::from(self.fraction));
        let microseconds = u64::try_from(sum / refill).unwrap_or(u64::MAX);
        self.full = Micros(self.full.0.saturating_add(microseconds));
        // Less than `refill`, which is a `u64`.
        self.fraction = (sum % refill) as u64;
    }
}
