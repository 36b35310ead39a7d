//! The state of one limit in one account, by whichever algorithm.

use super::{Algorithm, Bucket, Charge, Cost, Demand, Quota, Running, Sliding, Standing, Verdict, Window};
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
    /// By [`Algorithm::SlidingWindow`].
    Sliding(Sliding),
    /// By [`Algorithm::Calendar`].
    Calendar(Window),
    /// By [`Algorithm::Concurrency`].
    Running(Running),
}

/// Does the same with the counter of a cell, whichever it is.
macro_rules! each {
    ($cell:expr, $counter:ident => $done:expr) => {
        match $cell {
            Cell::Bucket($counter) => $done,
            Cell::Window($counter) | Cell::Calendar($counter) => $done,
            Cell::Sliding($counter) => $done,
            Cell::Running($counter) => $done,
        }
    };
}

/// What every algorithm does, so that a request decides once which one it is. All but [`Counter::advance`] and [`Counter::is_idle`] are
/// asked after that, at the same moment.
pub(super) trait Counter {
    /// Lets time pass until `now`, and adopts `quota`.
    fn advance(&mut self, quota: &Quota, now: Micros);
    /// What a hold of `need` would meet.
    fn fits(&self, quota: &Quota, need: u64, now: Micros) -> Verdict;
    /// Adds `hits`, into debt if need be.
    fn charge(&mut self, quota: &Quota, hits: u64, now: Micros);
    /// Whole hits that are used, a begun one included.
    fn used(&self, now: Micros) -> u64;
    /// Until nothing is used, in microseconds.
    fn left(&self, quota: &Quota, now: Micros) -> u64;
    /// The place of what was charged last.
    fn mark(&self) -> Micros;
    /// How many hits can be charged so that they can be given back exactly.
    fn room(&self, quota: &Quota) -> u64;
    /// Gives back what of `hits` has not been paid for since they were charged; how many that are.
    fn give_back(&mut self, quota: &Quota, hits: u64, charge: Charge, now: Micros) -> u64;
    /// Forgets what was used, whoever's it is: what was held before gives nothing back.
    fn reset(&mut self, quota: &Quota, now: Micros);
    /// Gives back so many hits, or all that are used, whoever's they are.
    fn grant(&mut self, quota: &Quota, hits: u64, now: Micros) {
        // As of the last that was charged, just now: of it nothing was paid for.
        let charge = Charge { mark: self.mark(), minted: now };
        self.give_back(quota, hits, charge, now);
    }
    /// Ends a debt after so many windows; whether it was longer.
    fn bound_debt(&mut self, quota: &Quota, windows: u32, now: Micros) -> bool;
    /// Whether forgetting it at `now` changes nothing.
    fn is_idle(&self, now: Micros) -> bool;

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
            Algorithm::SlidingWindow => Cell::Sliding(Sliding::default()),
            Algorithm::Calendar => Cell::Calendar(Window::default()),
            Algorithm::Concurrency => Cell::Running(Running::default()),
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
        each!(self, counter => Counter::advance(counter, quota, now));
    }

    /// What the cell counts by.
    #[must_use]
    #[inline]
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Cell::Bucket(_) => Algorithm::TokenBucket,
            Cell::Window(_) => Algorithm::FixedWindow,
            Cell::Sliding(_) => Algorithm::SlidingWindow,
            Cell::Calendar(_) => Algorithm::Calendar,
            Cell::Running(_) => Algorithm::Concurrency,
        }
    }

    /// The same use, counted by the algorithm of `quota`; none, where either counts calls that run.
    #[cold]
    fn converted(self, quota: &Quota, now: Micros) -> Self {
        let mut before = self;
        before.pass(quota, now);
        let mut cell = Cell::fresh(quota);
        cell.pass(quota, now);
        // Hits that were used are no calls that run, nor the other way round.
        let are_calls = |algorithm| algorithm == Algorithm::Concurrency;
        let is_kept = are_calls(before.algorithm()) == are_calls(quota.algorithm);
        match before.used(now) {
            used @ 1.. if is_kept => cell.charge(quota, used, now),
            _ => {}
        }
        cell
    }

    /// How many hits can be charged so that they can be given back exactly; after [`Cell::advance`].
    #[must_use]
    pub fn room(&self, quota: &Quota) -> u64 {
        each!(self, counter => Counter::room(counter, quota))
    }

    /// Adds `hits`, into debt if need be.
    #[inline]
    pub fn charge(&mut self, quota: &Quota, hits: u64, now: Micros) {
        each!(self, counter => Counter::charge(counter, quota, hits, now));
    }

    /// The place of what was charged last.
    #[must_use]
    #[inline]
    pub fn mark(&self) -> Micros {
        each!(self, counter => Counter::mark(counter))
    }

    /// Gives back what of `hits`, charged at `minted` with that `mark`, has not been paid for at `now`; after [`Cell::advance`].
    /// How many hits that are, a begun one included.
    pub fn give_back(&mut self, quota: &Quota, hits: u64, charge: Charge, now: Micros) -> u64 {
        each!(self, counter => Counter::give_back(counter, quota, hits, charge, now))
    }

    /// Forgets what was used, whoever's it is: what was held before gives nothing back; after [`Cell::advance`].
    pub(super) fn reset(&mut self, quota: &Quota, now: Micros) {
        each!(self, counter => Counter::reset(counter, quota, now));
    }

    /// Gives back so many hits, or all that are used, whoever's they are; after [`Cell::advance`].
    pub(super) fn grant(&mut self, quota: &Quota, hits: u64, now: Micros) {
        each!(self, counter => Counter::grant(counter, quota, hits, now));
    }

    /// Ends a debt after so many windows; whether it was longer.
    pub fn bound_debt(&mut self, quota: &Quota, windows: u32, now: Micros) -> bool {
        each!(self, counter => Counter::bound_debt(counter, quota, windows, now))
    }

    /// Whole hits that are used, a begun one included; after [`Cell::advance`].
    #[must_use]
    #[inline]
    pub fn used(&self, now: Micros) -> u64 {
        each!(self, counter => Counter::used(counter, now))
    }

    /// Whether `cost` fits at `now`, after [`Cell::advance`].
    #[must_use]
    #[inline]
    pub fn peek(&self, quota: &Quota, cost: Cost, now: Micros) -> Verdict {
        each!(self, counter => counter.peek(quota, cost, now))
    }

    /// Takes or holds what fits, after [`Cell::advance`]; how much that is.
    #[inline]
    pub fn take(&mut self, quota: &Quota, cost: Cost, now: Micros) -> u64 {
        each!(self, counter => counter.take(quota, cost, now))
    }

    /// Takes or holds what a demand asks, if it fits; where the cell stands then.
    #[inline]
    pub(super) fn admit(&mut self, demand: &Demand, now: Micros) -> Standing {
        if self.algorithm() != demand.quota.algorithm {
            *self = self.converted(&demand.quota, now);
        }
        each!(self, counter => counter.admit(demand, now))
    }

    /// Where the cell stands at `now`, after it said `verdict` to a demand.
    #[must_use]
    #[inline]
    pub fn standing(&self, quota: &Quota, verdict: Verdict, now: Micros) -> Standing {
        each!(self, counter => counter.standing(quota, verdict, now))
    }

    /// Whether forgetting the cell at `now` changes nothing.
    #[must_use]
    pub fn is_idle(&self, now: Micros) -> bool {
        each!(self, counter => Counter::is_idle(counter, now))
    }

    /// Appends its record: the code of its algorithm, and its state by that.
    pub(super) fn write(&self, record: &mut Vec<u8>) {
        record.push(self.algorithm().code());
        match self {
            Cell::Bucket(bucket) => bucket.write(record),
            Cell::Window(window) | Cell::Calendar(window) => window.write(record),
            Cell::Sliding(sliding) => sliding.write(record),
            Cell::Running(running) => running.write(record),
        }
    }

    /// What [`Cell::write`] wrote. `None` for what no cell is.
    pub(super) fn read(record: &mut Reading<'_>) -> Option<Self> {
        Some(match Algorithm::of_code(record.byte()?)? {
            Algorithm::TokenBucket => Cell::Bucket(Bucket::read(record)?),
            Algorithm::FixedWindow => Cell::Window(Window::read(record)?),
            Algorithm::SlidingWindow => Cell::Sliding(Sliding::read(record)?),
            Algorithm::Calendar => Cell::Calendar(Window::read(record)?),
            Algorithm::Concurrency => Cell::Running(Running::read(record)?),
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

    fn room(&self, quota: &Quota) -> u64 {
        self.room(quota)
    }

    fn reset(&mut self, quota: &Quota, now: Micros) {
        *self = Bucket::fresh(quota);
        // It is full now, so every hold of before has been paid for.
        self.advance(quota, now);
    }

    fn give_back(&mut self, quota: &Quota, hits: u64, charge: Charge, now: Micros) -> u64 {
        self.give_back(quota, hits, charge, now)
    }

    fn bound_debt(&mut self, quota: &Quota, windows: u32, now: Micros) -> bool {
        self.bound_debt(quota, windows, now)
    }

    fn is_idle(&self, now: Micros) -> bool {
        self.is_idle(now)
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

    fn room(&self, _: &Quota) -> u64 {
        self.room()
    }

    fn reset(&mut self, _: &Quota, _: Micros) {
        self.reset();
    }

    fn give_back(&mut self, _: &Quota, hits: u64, charge: Charge, _: Micros) -> u64 {
        self.give_back(hits, charge.mark)
    }

    fn bound_debt(&mut self, quota: &Quota, windows: u32, _: Micros) -> bool {
        self.bound_debt(quota, windows)
    }

    fn is_idle(&self, now: Micros) -> bool {
        self.is_idle(now)
    }
}
