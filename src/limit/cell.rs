//! The state of one limit in one account, by whichever algorithm.

use super::{Algorithm, Bucket, Charge, Cost, Demand, Quota, Standing, Verdict, Window};
use crate::clock::Micros;

/// What one limit has counted in one account: a counter, by each algorithm in its own way. (In the words of GCRA a *cell* is what is
/// counted, a unit of traffic; here that is a hit.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    /// By [`Algorithm::TokenBucket`].
    Bucket(Bucket),
    /// By [`Algorithm::FixedWindow`].
    Window(Window),
}

// === impl Cell ===

impl Cell {
    /// A cell of which nothing was used.
    #[must_use]
    pub fn fresh(quota: &Quota) -> Self {
        match quota.algorithm {
            Algorithm::TokenBucket => Cell::Bucket(Bucket::fresh(quota)),
            Algorithm::FixedWindow => Cell::Window(Window::default()),
        }
    }

    /// Lets time pass until `now`, and adopts `quota`. A cell whose limit changed its algorithm keeps what was used.
    #[inline]
    pub fn advance(&mut self, quota: &Quota, now: Micros) {
        if self.algorithm() != quota.algorithm {
            *self = self.converted(quota, now);
        }
        self.pass(quota, now);
    }

    /// Likewise, of a cell of that algorithm.
    #[inline]
    fn pass(&mut self, quota: &Quota, now: Micros) {
        match self {
            Cell::Bucket(bucket) => bucket.advance(quota, now),
            Cell::Window(window) => window.advance(quota, now),
        }
    }

    /// What the cell counts by.
    #[must_use]
    #[inline]
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Cell::Bucket(_) => Algorithm::TokenBucket,
            Cell::Window(_) => Algorithm::FixedWindow,
        }
    }

    /// The same use, counted by the algorithm of `quota`.
    #[cold]
    fn converted(self, quota: &Quota, now: Micros) -> Self {
        let used = match self {
            Cell::Bucket(mut bucket) => {
                bucket.advance(quota, now);
                bucket.used(now)
            }
            Cell::Window(mut window) => {
                window.advance(quota, now);
                window.used()
            }
        };
        let mut cell = Cell::fresh(quota);
        cell.pass(quota, now);
        cell.charge(quota, used, now);
        cell
    }

    /// Whether `cost` fits at `now`, after [`Cell::advance`].
    #[must_use]
    #[inline]
    pub fn peek(&self, quota: &Quota, cost: Cost, now: Micros) -> Verdict {
        match cost {
            Cost::Take(hits) if hits > quota.limit => Verdict::Exceeds(None),
            Cost::Take(hits) => self.fits(quota, hits, now),
            Cost::Hold { need, .. } => self.fits(quota, need, now),
        }
    }

    #[inline]
    fn fits(&self, quota: &Quota, need: u64, now: Micros) -> Verdict {
        match self {
            Cell::Bucket(bucket) => bucket.fits(quota, need, now),
            Cell::Window(window) => window.fits(quota, need, now),
        }
    }

    /// How many hits can be charged so that they can be given back exactly; after [`Cell::advance`].
    #[must_use]
    pub fn room(&self, quota: &Quota) -> u64 {
        match self {
            Cell::Bucket(bucket) => bucket.room(quota),
            Cell::Window(window) => window.room(),
        }
    }

    /// Adds `hits`, into debt if need be.
    #[inline]
    pub fn charge(&mut self, quota: &Quota, hits: u64, now: Micros) {
        match self {
            Cell::Bucket(bucket) => bucket.charge(quota, hits),
            Cell::Window(window) => window.charge(quota, hits, now),
        }
    }

    /// The place of what was charged last.
    #[must_use]
    #[inline]
    pub fn mark(&self) -> Micros {
        match self {
            Cell::Bucket(bucket) => bucket.mark(),
            Cell::Window(window) => window.mark(),
        }
    }

    /// Gives back what of `hits`, charged at `minted` with that `mark`, has not been paid for at `now`; after [`Cell::advance`].
    /// How many hits that are, a begun one included.
    pub fn give_back(&mut self, quota: &Quota, hits: u64, charge: Charge, now: Micros) -> u64 {
        match self {
            Cell::Bucket(bucket) => bucket.give_back(quota, hits, charge, now),
            Cell::Window(window) => window.give_back(hits, charge.mark),
        }
    }

    /// Ends a debt after so many windows; whether it was longer.
    pub fn bound_debt(&mut self, quota: &Quota, windows: u32, now: Micros) -> bool {
        match self {
            Cell::Bucket(bucket) => bucket.bound_debt(quota, windows, now),
            Cell::Window(window) => window.bound_debt(quota, windows),
        }
    }

    /// Takes or holds what a demand asks, if it fits: a hold no more than is there, and what it needs at least.
    #[inline]
    pub(super) fn admit(&mut self, demand: &Demand, now: Micros) -> (Verdict, u64) {
        self.advance(&demand.quota, now);
        match self.peek(&demand.quota, demand.cost, now) {
            Verdict::Fits => (Verdict::Fits, self.take(&demand.quota, demand.cost, now)),
            exceeds => (exceeds, 0),
        }
    }

    /// Takes or holds what fits; how much that is.
    #[inline]
    pub fn take(&mut self, quota: &Quota, cost: Cost, now: Micros) -> u64 {
        let hits = match cost {
            Cost::Take(hits) => hits,
            Cost::Hold { want, .. } => want.min(quota.limit.saturating_sub(self.used(now))),
        };
        if hits > 0 {
            self.charge(quota, hits, now);
        }
        hits
    }

    /// Whole hits that are used, a begun one included; after [`Cell::advance`].
    #[must_use]
    #[inline]
    pub fn used(&self, now: Micros) -> u64 {
        match self {
            Cell::Bucket(bucket) => bucket.used(now),
            Cell::Window(window) => window.used(),
        }
    }

    /// Where the cell stands at `now`, after it said `verdict` to a demand.
    #[must_use]
    #[inline]
    pub fn standing(&self, quota: &Quota, verdict: Verdict, now: Micros) -> Standing {
        let reset = match self {
            Cell::Bucket(bucket) => bucket.left(now),
            Cell::Window(window) => window.left(quota, now),
        };
        let (used, mark) = (self.used(now), self.mark());
        Standing { verdict, limit: quota.limit, window: quota.window, used, reset, held: 0, mark }
    }

    /// Whether forgetting the cell at `now` changes nothing.
    #[must_use]
    pub fn is_idle(&self, now: Micros) -> bool {
        match self {
            Cell::Bucket(bucket) => bucket.is_idle(now),
            Cell::Window(window) => window.is_idle(now),
        }
    }
}
