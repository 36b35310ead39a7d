//! What a limit allows.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::calendar::Calendar;
use super::{Algorithm, CellId, Notify};
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
    /// Where windows are those of the calendar. None is longer than `window` then.
    pub(super) calendar: Option<Calendar>,
    /// Microseconds until one hit is back, rounded down; and what was rounded off, in parts of the limit.
    pub(super) interval: u64,
    pub(super) part: u64,
}

/// The time that a limit is for: what is said of it after its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// A window of this length.
    Lasting(Duration),
    /// One of the calendar.
    Calendar(Calendar),
    /// As long as calls run.
    Running,
}

/// What one rate of a limit allows, what an answer counts in it, and how the limit is called.
#[derive(Clone, Debug)]
pub struct Rate {
    /// `namespace/policy/limit`; empty where nobody calls it by one.
    pub name: Arc<str>,
    pub quota: Quota,
    /// `None` where an answer counts its tokens, and a request itself.
    pub cost: Option<Arc<TokenCost>>,
    /// Of which parts it is told when they are used, if of any.
    pub notify: Option<Arc<Notify>>,
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
    /// Whether one of them is of calls that run at once.
    #[must_use]
    pub fn count_calls(&self) -> bool {
        self.0.values().any(|(rate, _)| rate.quota.counts_calls())
    }

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

// === impl Span ===

/// The end of a sentence: `5 requests per 2m`, `per month in Europe/Berlin`, `at once`.
impl std::fmt::Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Span::Lasting(window) => write!(f, "per {window:?}"),
            Span::Calendar(calendar) => write!(f, "per {calendar}"),
            Span::Running => f.write_str("at once"),
        }
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
        Rate { name: Arc::default(), quota, cost: None, notify: None }
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
            calendar: None,
            interval: window / refill,
            part: window % refill,
        }
    }

    /// So many in each window of the calendar.
    #[must_use]
    pub fn in_calendar(limit: u64, calendar: Calendar) -> Self {
        let quota = Quota::new(limit, Duration::from_micros(calendar.unit().longest()));
        Quota { algorithm: Algorithm::Calendar, calendar: Some(calendar), ..quota }
    }

    /// The same, counted by `algorithm`: not by the calendar, for which a unit is needed.
    #[must_use]
    pub fn by(self, algorithm: Algorithm) -> Self {
        Quota { algorithm, ..self }
    }

    /// The same, over another window.
    #[must_use]
    pub fn over(self, window: Duration) -> Self {
        let Quota { algorithm, carries_debt, .. } = self;
        Quota { algorithm, carries_debt, ..Quota::new(self.limit, window) }
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

    /// Whether it is of calls that run at once.
    #[must_use]
    pub fn counts_calls(&self) -> bool {
        self.algorithm == Algorithm::Concurrency
    }

    /// Until when what is used is used, and what comes then: for people and programs.
    #[must_use]
    pub fn span(&self) -> Span {
        match (self.algorithm, self.calendar) {
            (Algorithm::Concurrency, _) => Span::Running,
            (_, Some(calendar)) => Span::Calendar(calendar),
            (_, None) => Span::Lasting(self.window()),
        }
    }

    /// When the window ends that begins with a first hit at `now`, or has it.
    pub(super) fn end_of(&self, now: Micros) -> Micros {
        self.calendar.map_or(Micros(now.0.saturating_add(self.window)), |calendar| calendar.end(now))
    }

    /// How many windows have ended at `now`, the first of them at `end`.
    pub(super) fn ended(&self, end: Micros, now: Micros) -> u64 {
        match (self.calendar, now.0.checked_sub(end.0)) {
            (_, None) => 0,
            (None, Some(since)) => 1 + since / self.window,
            (Some(calendar), Some(_)) => {
                let number = calendar.number(end);
                // Of another zone's windows the last may have ended within one of this, which has not.
                let is_whole = calendar.start(number) == end;
                let ended = u64::try_from(calendar.number(now) - number).unwrap_or(0) + u64::from(is_whole);
                ended.max(1)
            }
        }
    }

    /// When the window ends that comes so many after that which ends at `end`.
    pub(super) fn end_after(&self, end: Micros, windows: u64) -> Micros {
        match (self.calendar, windows) {
            (_, 0) => end,
            (None, _) => Micros(end.0.saturating_add(windows.saturating_mul(self.window))),
            (Some(calendar), _) => {
                calendar.start(calendar.number(end).saturating_add(i64::try_from(windows).unwrap_or(i64::MAX)))
            }
        }
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
