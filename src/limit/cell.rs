//! The state of one limit in one account, by whichever algorithm.

use super::{Algorithm, Bucket, Charge, Cost, Demand, Quota, Standing, Verdict, Window};
use crate::clock::Micros;
use crate::record::Reading;

/// What one limit has counted in one account: a counter, by each algorithm in its own way. (In the words of GCRA a *cell* is what is
/// counted, a unit of traffic; here that is a hit.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    /// By [`Algorithm::TokenBucket`].
    Bucket(Bucket),
    /// By [`Algorithm::FixedWindow`].
    Window(Window),
}

/// What every algorithm does, so that a request decides once which one it is.
trait Counter {
    fn advance(&mut self, quota: &Quota, now: Micros);
    fn fits(&self, quota: &Quota, need: u64, now: Micros) -> Verdict;
    fn charge(&mut self, quota: &Quota, hits: u64, now: Micros);
    fn used(&self, now: Micros) -> u64;
    /// Until nothing is used, in microseconds.
    fn left(&self, quota: &Quota, now: Micros) -> u64;
    fn mark(&self) -> Micros;

    #[inline(always)]
    fn peek(&self, quota: &Quota, cost: Cost, now: Micros) -> Verdict {
        match cost {
            Cost::Take(hits) if hits > quota.limit => Verdict::Exceeds(None),
            Cost::Take(hits) => self.fits(quota, hits, now),
            Cost::Hold { need, .. } => self.fits(quota, need, now),
        }
    }

    #[inline(always)]
    fn take(&mut self, quota: &Quota, cost: Cost, now: Micros) -> u64 {
        let hits = match cost {
            Cost::Take(hits) => hits,
            // No more than is there, and what is needed at least.
            Cost::Hold { want, .. } => want.min(quota.limit.saturating_sub(self.used(now))),
        };
        if hits > 0 {
            self.charge(quota, hits, now);
        }
        hits
    }

    #[inline]
    fn admit(&mut self, Demand { quota, cost, .. }: &Demand, now: Micros) -> Standing {
        self.advance(quota, now);
        let verdict = self.peek(quota, *cost, now);
        let held = if verdict == Verdict::Fits { self.take(quota, *cost, now) } else { 0 };
        Standing { held, ..self.standing(quota, verdict, now) }
    }

    #[inline(always)]
    fn standing(&self, quota: &Quota, verdict: Verdict, now: Micros) -> Standing {
        let (used, reset, mark) = (self.used(now), self.left(quota, now), self.mark());
        Standing { verdict, limit: quota.limit, window: quota.window, used, reset, held: 0, mark }
    }
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

    /// Whole hits that are used, a begun one included; after [`Cell::advance`].
    #[must_use]
    #[inline]
    pub fn used(&self, now: Micros) -> u64 {
        match self {
            Cell::Bucket(bucket) => bucket.used(now),
            Cell::Window(window) => window.used(),
        }
    }

    /// Whether `cost` fits at `now`, after [`Cell::advance`].
    #[must_use]
    #[inline]
    pub fn peek(&self, quota: &Quota, cost: Cost, now: Micros) -> Verdict {
        match self {
            Cell::Bucket(bucket) => bucket.peek(quota, cost, now),
            Cell::Window(window) => window.peek(quota, cost, now),
        }
    }

    /// Takes or holds what fits, after [`Cell::advance`]; how much that is.
    #[inline]
    pub fn take(&mut self, quota: &Quota, cost: Cost, now: Micros) -> u64 {
        match self {
            Cell::Bucket(bucket) => bucket.take(quota, cost, now),
            Cell::Window(window) => window.take(quota, cost, now),
        }
    }

    /// Takes or holds what a demand asks, if it fits; where the cell stands then.
    #[inline]
    pub(super) fn admit(&mut self, demand: &Demand, now: Micros) -> Standing {
        if self.algorithm() != demand.quota.algorithm {
            *self = self.converted(&demand.quota, now);
        }
        match self {
            Cell::Bucket(bucket) => bucket.admit(demand, now),
            Cell::Window(window) => window.admit(demand, now),
        }
    }

    /// Where the cell stands at `now`, after it said `verdict` to a demand.
    #[must_use]
    #[inline]
    pub fn standing(&self, quota: &Quota, verdict: Verdict, now: Micros) -> Standing {
        match self {
            Cell::Bucket(bucket) => bucket.standing(quota, verdict, now),
            Cell::Window(window) => window.standing(quota, verdict, now),
        }
    }

    /// Whether forgetting the cell at `now` changes nothing.
    #[must_use]
    pub fn is_idle(&self, now: Micros) -> bool {
        match self {
            Cell::Bucket(bucket) => bucket.is_idle(now),
            Cell::Window(window) => window.is_idle(now),
        }
    }

    /// Appends its record: the code of its algorithm, and its state by that.
    pub(super) fn write(&self, record: &mut Vec<u8>) {
        record.push(self.algorithm().code());
        match self {
            Cell::Bucket(bucket) => bucket.write(record),
            Cell::Window(window) => window.write(record),
        }
    }

    /// What [`Cell::write`] wrote. `None` for what no cell is.
    pub(super) fn read(record: &mut Reading<'_>) -> Option<Self> {
        Some(match Algorithm::of_code(record.byte()?)? {
            Algorithm::TokenBucket => Cell::Bucket(Bucket::read(record)?),
            Algorithm::FixedWindow => Cell::Window(Window::read(record)?),
        })
    }
}

// === impl Counter ===

impl Counter for Bucket {
    #[inline]
    fn advance(&mut self, quota: &Quota, now: Micros) {
        self.advance(quota, now);
    }

    #[inline]
    fn fits(&self, quota: &Quota, need: u64, now: Micros) -> Verdict {
        self.fits(quota, need, now)
    }

    #[inline]
    fn charge(&mut self, quota: &Quota, hits: u64, _: Micros) {
        self.charge(quota, hits);
    }

    #[inline]
    fn used(&self, now: Micros) -> u64 {
        self.used(now)
    }

    #[inline]
    fn left(&self, _: &Quota, now: Micros) -> u64 {
        self.left(now)
    }

    #[inline]
    fn mark(&self) -> Micros {
        self.mark()
    }
}

impl Counter for Window {
    #[inline]
    fn advance(&mut self, quota: &Quota, now: Micros) {
        self.advance(quota, now);
    }

    #[inline]
    fn fits(&self, quota: &Quota, need: u64, now: Micros) -> Verdict {
        self.fits(quota, need, now)
    }

    #[inline]
    fn charge(&mut self, quota: &Quota, hits: u64, now: Micros) {
        self.charge(quota, hits, now);
    }

    #[inline]
    fn used(&self, _: Micros) -> u64 {
        self.used()
    }

    #[inline]
    fn left(&self, quota: &Quota, now: Micros) -> u64 {
        self.left(quota, now)
    }

    #[inline]
    fn mark(&self) -> Micros {
        self.mark()
    }
}
