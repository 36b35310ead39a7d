//! A token bucket that can be taken from, held in, and settled, into debt if need be. Pure arithmetic: it knows no clock and no map.
//!
//! It is kept as GCRA keeps its theoretical arrival time: as the moment at which it is full again. That moment is exact, a
//! microsecond and a fraction of one, so that no rounding ever lets a part of a hit through; and taking needs no division.
//!
//! The bucket is a queue of work that is served at a steady rate, and `full` is its end. A hold has been paid for once the queue has
//! passed the place at which it ended, its *mark*; only what has not been paid for is given back. Else who parks many cheap
//! answers, and ends them when the bucket is full again, would have their holds a second time.
//!
//! Two bounds tell what has not been paid for, and the better one counts: what was given back since may all have stood before the
//! hold; and the queue can have spent no more on it than the time since it was made. Where answers end in another order than they
//! began, and soon, the second gives back what the first would keep.

use std::time::Duration;

use super::{Charge, Quota, Verdict};
use crate::clock::Micros;
use crate::record::{Reading, write_number};

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
    /// What was given back since the bucket was last full, in microseconds, rounded up. What stands behind it in the queue has moved up
    /// by at most so much.
    refunded: u64,
    /// When the bucket was last full: every hold of before has been paid for.
    since: Micros,
}

/// No bucket is full later than that, as far as answers fill it: a hundred thousand years from now, and far enough from the last moment
/// that there is for what is told of it.
const LATEST: Micros = Micros(u64::MAX / 2);

// === impl Bucket ===

impl Default for Bucket {
    fn default() -> Self {
        Bucket { full: Micros(0), fraction: 0, refill: 0, window: 1, refunded: 0, since: Micros(0) }
    }
}

impl Bucket {
    /// A full bucket of `quota`.
    #[must_use]
    #[inline]
    pub fn fresh(quota: &Quota) -> Self {
        Bucket { refill: quota.refill(), window: quota.window, ..Bucket::default() }
    }

    /// Adopts `quota` at `now`. Hits that were used stay used when limit or window changed, as far as the new limit goes; a debt
    /// beyond it lasts as many windows as before.
    #[inline]
    pub fn advance(&mut self, quota: &Quota, now: Micros) {
        if self.full < now {
            // INVARIANT: less than one microsecond of fraction, which is over too.
            (self.full, self.fraction) = (now, 0);
            (self.refunded, self.since) = (0, now);
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
        // A mark of before means another place in this queue: what it holds is not given back.
        let mut bucket = Bucket { full: now, since: now, ..Bucket::fresh(quota) };
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

    /// What a hold of `need` at `now` would meet, after [`Bucket::advance`]. A full bucket holds whatever is asked of it.
    #[must_use]
    #[inline]
    pub fn fits(&self, quota: &Quota, need: u64, now: Micros) -> Verdict {
        if quota.limit == 0 {
            return Verdict::Exceeds(None);
        }
        let mut after = *self;
        after.charge(quota, need);
        let latest = Micros(now.0.saturating_add(quota.window));
        match (after.full, after.fraction) <= (latest, 0) || (self.full, self.fraction) <= (now, 0) {
            true => Verdict::Fits,
            false => Verdict::Exceeds(Some(after.until_full(latest))),
        }
    }

    /// Where the last hit of the queue ends: the mark of a hold that was charged just now. Behind a begun microsecond, in the hold's
    /// disfavour.
    #[must_use]
    #[inline]
    pub fn mark(&self) -> Micros {
        Micros(self.full.0.saturating_add(self.refunded))
    }

    /// Gives back what of `hits`, held at `minted` and ended at `mark`, has not been paid for at `now`, after [`Bucket::advance`]. How
    /// many that are, a begun one included.
    pub(super) fn give_back(&mut self, quota: &Quota, hits: u64, Charge { mark, minted }: Charge, now: Micros) -> u64 {
        if minted < self.since || hits == 0 {
            return 0;
        }
        // Whatever was given back may have stood before the hold. Nor is more of it paid for than time has passed.
        let place = mark.0.saturating_sub(self.refunded).min(self.full.0);
        let behind = u128::from(place.saturating_sub(now.0)) * u128::from(quota.refill());
        let passed = u128::from(now.0.saturating_sub(minted.0)) * u128::from(quota.refill());
        let price = quota.price(hits);
        let back = price.min(behind.max(price.saturating_sub(passed)));
        let spent = self.spent(now);
        let back = back.min(spent);
        let left = spent - back;
        (self.full, self.fraction) = (now, 0);
        self.add(left, quota);
        let begun = u64::try_from(back.div_ceil(u128::from(quota.refill()))).unwrap_or(u64::MAX);
        self.refunded = self.refunded.saturating_add(begun);
        u64::try_from(back.div_ceil(u128::from(quota.window))).unwrap_or(hits)
    }

    /// How many hits can be charged so that the moments are exact. More could not be given back: nobody would know how far they reach.
    #[must_use]
    pub fn room(&self, quota: &Quota) -> u64 {
        let left = u128::from(LATEST.0.saturating_sub(self.full.0)) * u128::from(quota.refill());
        u64::try_from(left / u128::from(quota.window)).unwrap_or(u64::MAX)
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

    /// Appends its record.
    pub(super) fn write(&self, record: &mut Vec<u8>) {
        // The bucket was full before it is full again.
        let until = self.full.0.wrapping_sub(self.since.0);
        for number in [self.since.0, until, self.fraction, self.refill, self.window, self.refunded] {
            write_number(record, number);
        }
    }

    /// What [`Bucket::write`] wrote. `None` for what no bucket is.
    pub(super) fn read(record: &mut Reading<'_>) -> Option<Self> {
        let since = Micros(record.number()?);
        let full = Micros(since.0.wrapping_add(record.number()?));
        let (fraction, refill) = (record.number()?, record.number()?);
        let (window, refunded) = (record.number()?, record.number()?);
        let is_one = full >= since && fraction < refill && refill <= Quota::MAX_LIMIT && window > 0;
        is_one.then_some(Bucket { full, fraction, refill, window, refunded, since })
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
