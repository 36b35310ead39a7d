//! Limits: how much of what one caller may have.
//!
//! An *account* is all cells of one counter key (one user); a *cell* is one limit's counter in it, and a *hit* what it counts: a
//! request, or a token. (GCRA calls *cell* what is counted; here that is a hit.) What a request asks of one account is checked
//! together and then written, under one lock: all of it or nothing.
//!
//! ```
//! use std::time::{Duration, Instant};
//! use tiergate::clock::Micros;
//! use tiergate::limit::{AccountKey, CellId, Cost, Demand, Memory, Outcome, Quota, Verdict};
//!
//! let memory = Memory::default();
//! let two_a_minute = Quota::new(2, Duration::from_secs(60));
//! let demand = Demand { account: AccountKey(1), cell: CellId(1), quota: two_a_minute, cost: Cost::Take(1) };
//! let ask = |second| memory.admit(&[demand], Micros::from(Duration::from_secs(second)));
//!
//! assert!(ask(0).admitted());
//! assert_eq!(ask(0).standings[0].remaining(), 0);
//! let refused = ask(10);
//! assert_eq!(refused.outcome, Outcome::Exceeded);
//! // Two a minute are one each 30 seconds.
//! assert_eq!(refused.standings[0].verdict, Verdict::Exceeds(Some(Duration::from_secs(20))));
//! assert!(ask(30).admitted());
//! ```

mod algorithm;
mod bucket;
mod calendar;
mod cell;
mod change;
mod memory;
mod names;
mod notify;
mod quota;
mod running;
mod settled;
mod sliding;
mod window;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use smallvec::SmallVec;

pub use self::algorithm::{Algorithm, Compared};
pub use self::bucket::Bucket;
pub use self::calendar::{Calendar, Unit, UnknownZone};
pub use self::cell::Cell;
pub use self::change::{Change, Changed, Stands};
pub use self::memory::{Accounts, Copied, Memory};
pub use self::names::{AccountName, AccountNames};
pub(crate) use self::notify::Step;
pub use self::notify::{Notify, NotifyError};
pub use self::quota::{InForce, Quota, Quotas, Rate, Span};
pub use self::running::Running;
pub use self::settled::{Charge, Due, Earlier, Hold, Instance, Quality, Report, Rise, Row, RowKey, Settled};
pub use self::sliding::Sliding;
pub use self::window::Window;

use crate::clock::{Micros, Nanos, Pace};

/// Names one account: a hash of the counter values, keyed so that nobody can choose collisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountKey(pub u128);

/// Names one rate of one limit, and the scope that it counts in: a hash that is the same after a restart, whatever number and window
/// the rate has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CellId(pub u64);

/// What a demand asks of its cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// Take so many hits, if they are there.
    Take(u64),
    /// Pass while so many are there as are needed, and hold as many as are wanted, or are there: what the request costs is known only
    /// after its answer, and the charge is corrected then ([`Limits::settle`]), into debt if need be.
    Hold {
        /// What the request will cost, as far as can be told; 0 to hold nothing.
        want: u64,
        /// At least 1, and no more than is wanted, but where that is 0.
        need: u64,
    },
}

/// One thing that a request needs.
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    /// Who asks.
    pub account: AccountKey,
    /// Which of the account's counters is asked.
    pub cell: CellId,
    /// What the cell's limit allows now.
    pub quota: Quota,
    /// What is asked.
    pub cost: Cost,
}

/// Where a cell stands: after the demand if it was admitted, as it was if not. Whatever store the cell is in, these are numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// What the cell said.
    pub verdict: Verdict,
    limit: u64,
    /// In microseconds.
    window: u64,
    used: u64,
    /// In microseconds.
    reset: u64,
    held: u64,
    mark: Micros,
}

/// What one cell said to its demand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is there.
    Fits,
    /// It is not: it would be after the duration, if nobody else takes of it; never, if there is none.
    Exceeds(Option<Duration>),
}

/// The answer to several demands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admission {
    /// Whether all was taken.
    pub outcome: Outcome,
    /// One for each demand, in their order; none where it could not be told.
    pub standings: SmallVec<[Standing; 2]>,
    /// When it was, on the store's clock.
    pub at: Micros,
    /// Whether an account was not there before, of which something was taken or may be charged later; or was left by an earlier process,
    /// and its name may not be known.
    pub is_new: bool,
}

/// What became of several demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All of them fit, and all was taken.
    Admitted,
    /// Nothing was taken: one of them, at least, does not fit, and its standing says so.
    Exceeded,
    /// Nothing was taken, and nobody can tell whether they fit.
    Undecided(Undecided),
}

/// Why it cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undecided {
    /// There is no room for another account.
    Full,
    /// Whoever keeps the accounts gave no answer.
    NoAnswer,
}

/// How long a call is taken to run where nothing is known of others.
const UNKNOWN_CALL_TIME: Duration = Duration::from_secs(10);

/// How much of what everybody may have, and has had.
#[derive(Debug)]
pub struct Limits {
    /// Where accounts are kept.
    pub store: Store,
    /// What accounts are called.
    pub names: AccountNames,
    quotas: ArcSwap<Quotas>,
    /// How the store's time goes.
    pace: ArcSwap<Pace>,
}

/// Where accounts are kept.
#[derive(Debug)]
pub enum Store {
    /// In this process, for as long as it runs.
    Memory(Memory),
}

// === impl CellId ===

impl CellId {
    /// The cell of the same rate for requests of one route alone, by the route's hash; of that one, the rate's own.
    #[must_use]
    pub fn on_route(self, route: u64) -> Self {
        CellId(self.0 ^ route)
    }
}

// === impl Limits ===

impl Limits {
    /// Limits whose accounts are kept in `memory`, before any quota is in force.
    #[must_use]
    pub fn in_memory(memory: Memory) -> Self {
        Limits {
            store: Store::Memory(memory),
            names: AccountNames::default(),
            quotas: ArcSwap::default(),
            pace: ArcSwap::from_pointee(Pace::since(Micros(0))),
        }
    }

    /// The same limits in a process whose clock started at `began`; without this, in 1970.
    #[must_use]
    pub fn since(self, began: Micros) -> Self {
        Limits { pace: ArcSwap::from_pointee(Pace::since(began)), ..self }
    }

    /// What the store's clock says at `now`. Memory has none of its own: it goes by the process's, after the wall clock.
    #[must_use]
    #[inline]
    pub fn time(&self, now: Nanos) -> Micros {
        self.pace.load().time(now)
    }

    /// How time goes now.
    #[must_use]
    pub fn pace(&self) -> Pace {
        **self.pace.load()
    }

    /// Has time go so from now on.
    pub fn go_by(&self, pace: Pace) {
        self.pace.store(Arc::new(pace));
    }

    /// Checks all `demands`, and takes all of them or none. Where it could not be told, nothing was taken.
    ///
    /// Memory answers without waiting; the function is `async` for the stores that cannot.
    pub async fn admit(&self, demands: &[Demand], now: Nanos) -> Admission {
        match &self.store {
            Store::Memory(memory) => memory.admit(demands, self.time(now)),
        }
    }

    /// Where the cells of `demands` stand, and what each would say to its demand if it were the only one. Nothing is taken, and no account
    /// is made. `None` where nobody can tell.
    ///
    /// Memory looks at what one account has under one lock, and at one account after another.
    pub async fn look(&self, demands: &[Demand], now: Nanos) -> Option<Vec<Standing>> {
        match &self.store {
            Store::Memory(memory) => memory.look(demands, self.time(now)),
        }
    }

    /// Notes what an account is called.
    pub fn note(&self, account: AccountKey, name: AccountName) {
        self.names.note(account, name, |account| self.has(account));
    }

    /// Whether there is such an account.
    #[must_use]
    pub fn has(&self, account: AccountKey) -> bool {
        match &self.store {
            Store::Memory(memory) => memory.has(account),
        }
    }

    /// The accounts behind `after` in the order of pages, `most` at most; with `among`, those of them that are there.
    #[must_use]
    pub fn page(&self, after: Option<AccountKey>, most: usize, among: Option<Vec<AccountKey>>) -> Vec<AccountKey> {
        match (&self.store, among) {
            (Store::Memory(memory), None) => memory.page(after, most),
            (Store::Memory(memory), Some(among)) => memory.page_among(after, most, among),
        }
    }

    /// The cells of an account that `quota` knows, and where each stands; `None` where there is no such account.
    #[must_use]
    pub fn account(
        &self,
        account: AccountKey,
        quota: impl Fn(CellId) -> Option<Quota>,
        now: Nanos,
    ) -> Option<Vec<Stands>> {
        match &self.store {
            Store::Memory(memory) => memory.account(account, quota, self.time(now)),
        }
    }

    /// Changes those of `cells` that an account has, all at once; `None` where there is no such account.
    #[must_use]
    pub fn change(
        &self,
        account: AccountKey,
        cells: &[(CellId, Quota)],
        change: Change,
        now: Nanos,
    ) -> Option<Vec<Changed>> {
        match &self.store {
            Store::Memory(memory) => memory.change(account, cells, change, self.time(now)),
        }
    }

    /// Makes what is charged for a reservation what is due, if `report` is better than what was known of it, once: what was held too
    /// much is given back as far as it was not paid for by time yet, what was held too little is charged, into debt if need be.
    pub async fn settle(&self, report: &Report<'_>, now: Nanos) -> Settled {
        match &self.store {
            Store::Memory(memory) => memory.settle(report, self.time(now)),
        }
    }

    /// What becomes of `report`, whatever is due by it, if it is known already that nothing is charged for it. Nothing changes by asking.
    #[must_use]
    pub fn refuses(&self, report: &Report<'_>, now: Nanos) -> Option<Settled> {
        match &self.store {
            Store::Memory(memory) => memory.refuses(report, self.time(now)),
        }
    }

    /// How many of an instance's reservations from `first` on, and before `end`, no report has come for.
    #[must_use]
    pub fn silent(&self, instance: Instance, first: u64, end: u64) -> u64 {
        match &self.store {
            Store::Memory(memory) => memory.silent(instance, first, end),
        }
    }

    /// Puts `quotas` in force, in place of those before: what is charged afterwards is charged by these. What is not among them is
    /// charged by what it was for another day: its limit may be gone for as long as its policy is in error. Only one thread may.
    pub fn put_in_force(&self, quotas: Quotas) {
        let before = self.quotas.load();
        self.quotas.store(Arc::new(quotas.after(&before, Instant::now())));
    }

    /// The quota of a cell as it is in force, or was last. The cell may be one of those that each route has, here of the route with
    /// this hash. `None` if it is not known, or gone for a day.
    #[must_use]
    pub fn quota(&self, cell: CellId, route: u64) -> Option<Quota> {
        self.rate(cell, route).map(|rate| rate.quota)
    }

    /// Likewise, with what an answer counts in it.
    #[must_use]
    pub fn rate(&self, cell: CellId, route: u64) -> Option<Rate> {
        let quotas = self.quotas.load();
        quotas.get(cell).or_else(|| quotas.get(cell.on_route(route))).cloned()
    }

    /// Forgets some of what is idle: see [`Memory::sweep`].
    pub fn sweep(&self, turn: usize, now: Nanos) {
        match &self.store {
            Store::Memory(memory) => memory.sweep(turn, self.time(now)),
        }
    }

    /// How many accounts are kept.
    #[must_use]
    pub fn accounts(&self) -> usize {
        match &self.store {
            Store::Memory(memory) => memory.accounts(),
        }
    }
}

// === impl Admission ===

impl Admission {
    /// Whether all was taken.
    #[must_use]
    #[inline]
    pub fn admitted(&self) -> bool {
        self.outcome == Outcome::Admitted
    }
}

// === impl Outcome ===

impl Outcome {
    /// Of demands of which it is known whether they `fit`.
    #[inline]
    fn of(fit: bool) -> Self {
        if fit { Outcome::Admitted } else { Outcome::Exceeded }
    }
}

/// As long as nobody has answered.
impl Default for Outcome {
    fn default() -> Self {
        Outcome::Undecided(Undecided::NoAnswer)
    }
}

// === impl Standing ===

impl Standing {
    /// Of a cell of `quota` of which so many hits are `used`, a begun one included, until all of them are back after `reset`. More
    /// than the limit is used where there is debt.
    #[must_use]
    pub fn new(quota: &Quota, verdict: Verdict, used: u64, reset: Duration) -> Self {
        let (limit, window, reset) = (quota.limit, quota.window, Micros::from(reset).0);
        Standing { verdict, limit, window, used, reset, held: 0, mark: Micros(0) }
    }

    /// The same of calls that run, with a guess of when one of them is over: they usually take so long, where that is known. At least a
    /// second, and no longer than what is sure.
    #[must_use]
    pub fn guessing(self, usual: Option<Duration>) -> Self {
        let each = usual.unwrap_or(UNKNOWN_CALL_TIME) / u32::try_from(self.used.max(1)).unwrap_or(u32::MAX);
        match self.verdict {
            Verdict::Exceeds(Some(sure)) => {
                Standing { verdict: Verdict::Exceeds(Some(sure.min(each.max(Duration::from_secs(1))))), ..self }
            }
            _ => self,
        }
    }

    /// What the limit allows in one window.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// The time in which that comes back.
    #[must_use]
    pub fn window(&self) -> Duration {
        Duration::from_micros(self.window)
    }

    /// Hits that are used, or held, a begun one included: more than the limit where there is debt.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used
    }

    /// Whole hits that are left.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.limit.saturating_sub(self.used)
    }

    /// Hits that the demand took, or holds.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.held
    }

    /// The place of what the demand took in its cell: what is given back of it has to know.
    #[must_use]
    pub fn mark(&self) -> Micros {
        self.mark
    }

    /// Until all of the limit is there again.
    #[must_use]
    pub fn reset(&self) -> Duration {
        Duration::from_micros(self.reset)
    }
}

// === impl Cost ===

impl Cost {
    /// Pass while one is left, and hold nothing.
    pub const POSTPAID: Cost = Cost::Hold { want: 0, need: 1 };

    /// How many hits have to be left.
    #[must_use]
    pub fn hits(self) -> u64 {
        match self {
            Cost::Take(hits) => hits,
            Cost::Hold { need, .. } => need,
        }
    }

    /// Whether anything is charged at admission.
    #[must_use]
    #[inline]
    pub fn takes(self) -> bool {
        !matches!(self, Cost::Hold { want: 0, .. })
    }

    /// The same, holding no more than is needed.
    fn at_least(self) -> Self {
        match self {
            Cost::Hold { want, need } => Cost::Hold { want: want.min(need), need },
            Cost::Take(_) => self,
        }
    }
}

#[cfg(test)]
mod tests;
