//! The state of one limit in one account, by either algorithm.

use std::time::Duration;

use super::{Algorithm, Bucket, Cost, Nanos, Quota, Verdict, Window};

/// What a cell counts by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    Bucket(Bucket),
    Window(Window),
}

// === impl Cell ===

impl Cell {
    /// A cell of which nothing was used.
    #[must_use]
    pub fn fresh(quota: &Quota) -> Self {
        match quota.algorithm {
            Algorithm::TokenBucket => Cell::Bucket(Bucket::default()),
            Algorithm::FixedWindow => Cell::Window(Window::default()),
        }
    }

    /// Lets time pass until `now`, and adopts `quota`. A cell whose limit changed its algorithm keeps what was used.
    pub fn advance(&mut self, quota: &Quota, now: Nanos) {
        match (&self, quota.algorithm) {
            (Cell::Bucket(bucket), Algorithm::FixedWindow) => {
                let mut bucket = *bucket;
                bucket.advance(quota, now);
                let mut window = Window::default();
                window.advance(quota, now);
                window.charge(bucket.used(quota));
                *self = Cell::Window(window);
            }
            (Cell::Window(window), Algorithm::TokenBucket) => {
                let mut window = *window;
                window.advance(quota, now);
                let mut bucket = Bucket::default();
                bucket.advance(quota, now);
                bucket.charge(quota, window.used);
                *self = Cell::Bucket(bucket);
            }
            _ => {}
        }
        match self {
            Cell::Bucket(bucket) => bucket.advance(quota, now),
            Cell::Window(window) => window.advance(quota, now),
        }
    }

    /// Whether `cost` fits, at the time of the last [`Cell::advance`].
    #[must_use]
    pub fn peek(&self, quota: &Quota, cost: Cost) -> Verdict {
        match self {
            Cell::Bucket(bucket) => bucket.peek(quota, cost),
            Cell::Window(window) => window.peek(quota, cost),
        }
    }

    /// Adds `hits`, into debt if need be.
    pub fn charge(&mut self, quota: &Quota, hits: u64) {
        match self {
            Cell::Bucket(bucket) => bucket.charge(quota, hits),
            Cell::Window(window) => window.charge(hits),
        }
    }

    /// Whole hits that are left.
    #[must_use]
    pub fn remaining(&self, quota: &Quota) -> u64 {
        match self {
            Cell::Bucket(bucket) => bucket.remaining(quota),
            Cell::Window(window) => window.remaining(quota),
        }
    }

    /// Until all of the limit is there again.
    #[must_use]
    pub fn reset(&self) -> Duration {
        match self {
            Cell::Bucket(bucket) => bucket.reset(),
            Cell::Window(window) => window.reset(),
        }
    }

    /// Whether forgetting the cell at `now` changes nothing.
    #[must_use]
    pub fn is_idle(&self, now: Nanos) -> bool {
        match self {
            Cell::Bucket(bucket) => bucket.is_idle(now),
            Cell::Window(window) => window.is_idle(now),
        }
    }
}
