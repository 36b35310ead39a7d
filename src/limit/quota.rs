//! What a limit allows.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Algorithm, CellId};
use crate::clock::Micros;
use crate::expression::TokenCost;

/// What a limit allows: so many hits per window, which come back as its algorithm says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    pub(super) limit: u64,
    /// In microseconds.
    pub(super) window: u64,
    pub(super) algorithm: Algorithm,
    pub(super) carries_debt: bool,
    /// Microseconds until one hit is back, rounded down; and what was rounded off, in parts of the limit.
    pub(super) interval: u64,
    pub(super) part: u64,
}

/// What one rate of a limit allows, what an answer counts in it, and how the limit is called.
#[derive(Clone, Debug)]
pub struct Rate {
    /// `namespace/policy/limit`; empty where nobody calls it by one.
    pub name: Arc<str>,
    pub quota: Quota,
    /// `None` where an answer counts its tokens, and a request itself.
    pub cost: Option<Arc<TokenCost>>,
}

/// The rates, each by the cell that it has for all routes; and since when those are not in force that were.
#[derive(Debug, Default)]
pub struct Quotas(HashMap<CellId, (Rate, Option<Instant>)>);

/// The cells that limits in force have.
#[derive(Clone, Debug, Default)]
pub struct InForce {
    rates: HashSet<CellId>,
    /// The hashes of the routes, of which some have cells of their own.
    routes: Vec<u64>,
}

/// How long a quota is known that is not in force any more: for answers that are out when their limit goes, or its policy is in
/// error. As long as reservations are.
const KEPT: Duration = Duration::from_secs(24 * 3600);

// === impl Quotas ===

impl Quotas {
    pub(super) fn get(&self, cell: CellId) -> Option<&Rate> {
        self.0.get(&cell).map(|(rate, _)| rate)
    }

    /// These, and those `before` them that are not among them, for a while from `now` on.
    pub(super) fn after(mut self, before: &Quotas, now: Instant) -> Self {
        for (cell, (rate, gone)) in &before.0 {
            let gone = gone.unwrap_or(now);
            if now.saturating_duration_since(gone) < KEPT {
                self.0.entry(*cell).or_insert_with(|| (rate.clone(), Some(gone)));
            }
        }
        self
    }
}

impl<R: Into<Rate>> FromIterator<(CellId, R)> for Quotas {
    fn from_iter<T: IntoIterator<Item = (CellId, R)>>(rates: T) -> Self {
        Quotas(rates.into_iter().map(|(cell, rate)| (cell, (rate.into(), None))).collect())
    }
}

// === impl InForce ===

impl InForce {
    /// Those of these rates, and of each on these routes.
    #[must_use]
    pub fn new(rates: &Quotas, routes: impl IntoIterator<Item = u64>) -> Self {
        let routes: HashSet<u64> = routes.into_iter().collect();
        InForce { rates: rates.0.keys().copied().collect(), routes: routes.into_iter().collect() }
    }

    /// Whether the cell is of a limit in force, for all routes or for one of them.
    #[must_use]
    pub fn has(&self, cell: CellId) -> bool {
        let on = |route: &u64| self.rates.contains(&cell.on_route(*route));
        self.rates.contains(&cell) || self.routes.iter().any(on)
    }
}

// === impl Rate ===

impl From<Quota> for Rate {
    fn from(quota: Quota) -> Self {
        Rate { name: Arc::default(), quota, cost: None }
    }
}

// === impl Quota ===

impl Quota {
    /// The largest limit: far above any real one, and small enough for the arithmetic never to overflow.
    pub const MAX_LIMIT: u64 = 1_000_000_000_000;

    /// A limit above [`Quota::MAX_LIMIT`] is lowered to it, an empty window is raised to one microsecond.
    #[must_use]
    pub fn new(limit: u64, window: Duration) -> Self {
        let (limit, window) = (limit.min(Self::MAX_LIMIT), Micros::from(window).0.max(1));
        let refill = limit.max(1);
        Quota {
            limit,
            window,
            algorithm: Algorithm::default(),
            carries_debt: false,
            interval: window / refill,
            part: window % refill,
        }
    }

    /// The same, counted by `algorithm`.
    #[must_use]
    pub fn by(self, algorithm: Algorithm) -> Self {
        Quota { algorithm, ..self }
    }

    /// The same; what answers cost beyond the limit of a fixed window is carried into those that follow.
    #[must_use]
    pub fn carrying_debt(self) -> Self {
        Quota { carries_debt: true, ..self }
    }

    /// Whether the end of a window forgives what answers cost beyond its limit. Else that is paid off by time.
    #[must_use]
    pub fn forgives_debt(&self) -> bool {
        self.algorithm.has_windows() && !self.carries_debt
    }

    /// Hits per window; 0 for never.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// The time in which they come back.
    #[must_use]
    pub fn window(&self) -> Duration {
        Duration::from_micros(self.window)
    }

    /// How they come back.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Hits that come back in one window. Of a limit of nothing one does, so that what was used ends some day.
    pub(super) fn refill(&self) -> u64 {
        self.limit.max(1)
    }

    /// So many hits, in hits × microseconds of the window.
    pub(super) fn price(&self, hits: u64) -> u128 {
        u128::from(hits) * u128::from(self.window)
    }
}
