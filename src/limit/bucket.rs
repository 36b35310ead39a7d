//! A token bucket that can be peeked, taken from, and charged into debt. Pure arithmetic: it knows no clock and no map.
//!
//! Its level is kept as GCRA keeps its theoretical arrival time, but as an exact integer in units of hits × nanoseconds
//! of the window, so that neither a division nor rounding ever lets a fraction of a hit through.

use std::time::Duration;

use super::{Cost, Nanos, Quota, Verdict};

/// The state of one bucket. A fresh one is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// What was used and has not come back, in hits × nanoseconds; above the quota's capacity it is debt.
    spent: u128,
    /// When `spent` was right.
    at: Nanos,
    /// How much of `spent` comes back each nanosecond: the limit, which can change while the bucket is in use.
    refill: u64,
}

// === impl Bucket ===

impl Bucket {
    /// Lets what has come back since the last look come back, and adopts `quota`.
    pub fn advance(&mut self, quota: &Quota, now: Nanos) {
        // Another thread may have been here with a later clock; time never runs backwards for a bucket.
        let elapsed = now.0.saturating_sub(self.at.0);
        let back = u128::from(elapsed) * u128::from(self.refill);
        self.spent = self.spent.saturating_sub(back);
        self.at = self.at.max(now);
        self.refill = quota.limit;
    }

    /// Whether `cost` fits, at the time of the last [`Bucket::advance`].
    #[must_use]
    pub fn peek(&self, quota: &Quota, cost: Cost) -> Verdict {
        let hits = cost.hits();
        let wanted = self.spent.saturating_add(quota.price(hits));
        match wanted.checked_sub(quota.capacity()) {
            None | Some(0) => Verdict::Fits,
            Some(_) if hits > quota.limit => Verdict::Exceeds(None),
            Some(missing) => Verdict::Exceeds(Some(nanoseconds(missing.div_ceil(u128::from(quota.limit.max(1)))))),
        }
    }

    /// Adds `hits`, into debt if need be.
    pub fn charge(&mut self, quota: &Quota, hits: u64) {
        self.spent = self.spent.saturating_add(quota.price(hits));
    }

    /// Whole hits that are used, a begun one included.
    #[must_use]
    pub fn used(&self, quota: &Quota) -> u64 {
        u64::try_from(self.spent.div_ceil(u128::from(quota.window))).unwrap_or(u64::MAX)
    }

    /// Whole hits that are left.
    #[must_use]
    pub fn remaining(&self, quota: &Quota) -> u64 {
        let left = quota.capacity().saturating_sub(self.spent) / u128::from(quota.window);
        u64::try_from(left).unwrap_or(u64::MAX)
    }

    /// Until the bucket is full again.
    #[must_use]
    pub fn reset(&self) -> Duration {
        nanoseconds(self.spent.div_ceil(u128::from(self.refill.max(1))))
    }

    /// Whether the bucket will be full at `now`, so that forgetting it changes nothing.
    #[must_use]
    pub fn is_idle(&self, now: Nanos) -> bool {
        let elapsed = now.0.saturating_sub(self.at.0);
        self.spent <= u128::from(elapsed) * u128::from(self.refill)
    }
}

fn nanoseconds(value: u128) -> Duration {
    Duration::from_nanos(u64::try_from(value).unwrap_or(u64::MAX))
}
