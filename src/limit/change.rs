//! What an operator changes in an account: a cell is made fresh, or hits are given back.

use super::{Cell, CellId, Cost, Quota, Standing};
use crate::clock::Micros;

/// What is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The cell is as if nothing had been used, and has no debt. What runs gives nothing back of before.
    Reset,
    /// So many hits are back, or all that are used.
    Grant(u64),
}

/// A cell that was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed {
    pub cell: CellId,
    pub before: Standing,
    pub after: Standing,
}

/// A cell of an account, and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stands {
    pub cell: CellId,
    pub quota: Quota,
    pub standing: Standing,
}

// === impl Change ===

impl Change {
    /// `cell` after it, at `now`, to which the cell has come.
    pub(super) fn of(self, mut cell: Cell, quota: &Quota, now: Micros) -> Cell {
        match self {
            Change::Reset => cell.reset(quota, now),
            Change::Grant(hits) => cell.grant(quota, hits, now),
        }
        cell
    }
}

// === impl Cell ===

impl Cell {
    /// Where the cell stands, which has come to `now`, and what it says to one more hit.
    #[must_use]
    pub fn shown(&self, quota: &Quota, now: Micros) -> Standing {
        self.standing(quota, self.peek(quota, Cost::Take(1), now), now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{
        AccountKey, Algorithm, Calendar, Demand, Hold, Instance, Memory, Quality, Report, Settled, Unit, Verdict,
    };
    use super::*;
    use crate::limit::Due;

    const ACCOUNT: AccountKey = AccountKey(7);
    const CELL: CellId = CellId(1);

    fn at(second: u64) -> Micros {
        Micros(1_800_000_000_000_000 + second * 1_000_000)
    }

    fn quota(algorithm: Algorithm) -> Quota {
        let quota = match algorithm {
            Algorithm::Calendar => Quota::in_calendar(100, Calendar::new(Unit::Month, "Europe/Berlin").unwrap()),
            _ => Quota::new(100, Duration::from_secs(100)).by(algorithm),
        };
        quota.carrying_debt()
    }

    fn hold(memory: &Memory, quota: Quota, hits: u64, now: Micros) -> Standing {
        let cost = Cost::Hold { want: hits, need: 1 };
        memory.admit(&[Demand { account: ACCOUNT, cell: CELL, quota, cost }], now).standings[0]
    }

    fn used(memory: &Memory, quota: Quota, now: Micros) -> u64 {
        memory.account(ACCOUNT, |_| Some(quota), now).unwrap()[0].standing.used()
    }

    /// Charges what a hold of `held` hits cost.
    fn settle(memory: &Memory, quota: Quota, held: Standing, used: u64, now: Micros) {
        let hold = Hold { account: ACCOUNT, cell: CELL, held: held.held(), mark: held.mark() };
        let due = [Due { hold, quota: Some(quota), used, debt_windows: u32::MAX, watched: false }];
        let (instance, quality) = (Instance(1), Quality::Final);
        let report = Report { instance, serial: 0, minted: at(0), quality, tokens: used, due: &due };
        assert!(matches!(memory.settle(&report, now), Settled::Applied { .. }));
    }

    #[test]
    fn a_grant_gives_back_what_is_used_and_no_more() {
        for algorithm in Algorithm::ALL {
            for (taken, charged, granted, left) in
                [(60, 60, 1, 59), (60, 60, 60, 0), (60, 60, 1_000, 0), (60, 350, 100, 250), (60, 350, u64::MAX, 0)]
            {
                let (memory, quota) = (Memory::default(), quota(*algorithm));
                let held = hold(&memory, quota, taken, at(0));
                settle(&memory, quota, held, charged, at(0));
                let changed = memory.change(ACCOUNT, &[(CELL, quota)], Change::Grant(granted), at(0)).unwrap();
                let [Changed { before, after, .. }] = changed[..] else { panic!("{changed:?}") };
                let case = format!("{algorithm:?} {charged} - {granted}");
                assert_eq!((before.used(), after.used()), (charged, left), "{case}");
                assert_eq!(used(&memory, quota, at(0)), left, "{case}");
                let fits = hold(&memory, quota, 0, at(0)).verdict == Verdict::Fits;
                assert_eq!(fits, left < 100, "{case}");
            }
        }
    }

    #[test]
    fn after_a_reset_nothing_is_used_and_what_runs_gives_nothing_back() {
        for algorithm in Algorithm::ALL {
            for (costs, left) in [(0, 50), (60, 50), (90, 80)] {
                let (memory, quota) = (Memory::default(), quota(*algorithm));
                let held = hold(&memory, quota, 60, at(0));
                let changed = memory.change(ACCOUNT, &[(CELL, quota)], Change::Reset, at(1)).unwrap();
                assert_eq!((changed[0].before.used() > 50, changed[0].after.used()), (true, 0), "{algorithm:?}");
                hold(&memory, quota, 50, at(1));
                settle(&memory, quota, held, costs, at(1));
                assert_eq!(used(&memory, quota, at(1)), left, "{algorithm:?} {costs}");
            }
        }
    }

    /// Part of it slides out of sight, and part was used before.
    #[test]
    fn a_grant_reaches_the_window_before() {
        let (memory, quota) = (Memory::default(), quota(Algorithm::SlidingWindow));
        hold(&memory, quota, 80, at(99));
        hold(&memory, quota, 20, at(100));
        assert_eq!(used(&memory, quota, at(150)), 60);
        for (granted, left) in [(10, 50), (30, 20), (15, 5), (100, 0)] {
            let _ = memory.change(ACCOUNT, &[(CELL, quota)], Change::Grant(granted), at(150));
            assert_eq!(used(&memory, quota, at(150)), left, "{granted}");
        }
    }

    /// Those go whose lease ends first, be it that nobody reports them.
    #[test]
    fn a_grant_frees_places_of_calls_that_run() {
        let (memory, quota) = (Memory::default(), quota(Algorithm::Concurrency));
        hold(&memory, quota, 3, at(0));
        let late = hold(&memory, quota, 2, at(50));
        let free = |places| memory.change(ACCOUNT, &[(CELL, quota)], Change::Grant(places), at(50)).unwrap()[0].after;
        assert_eq!(free(3).used(), 2);
        settle(&memory, quota, late, 0, at(50));
        assert_eq!(used(&memory, quota, at(50)), 0);
    }

    #[test]
    fn of_an_account_that_is_not_there_nothing_is_changed() {
        let (memory, quota) = (Memory::default(), quota(Algorithm::default()));
        assert_eq!(memory.change(ACCOUNT, &[(CELL, quota)], Change::Reset, at(0)), None);
        hold(&memory, quota, 1, at(0));
        assert_eq!(memory.change(ACCOUNT, &[(CellId(2), quota)], Change::Grant(1), at(0)), Some(vec![]));
        assert_eq!(memory.accounts(), 1);
    }

    #[test]
    fn pages_have_each_account_once_in_one_order() {
        let (memory, quota) = (Memory::default(), quota(Algorithm::default()));
        let keys: Vec<_> = (0..1_000_u128).map(|at| AccountKey(at << 60 | at)).collect();
        for account in &keys {
            let cost = Cost::Take(1);
            memory.admit(&[Demand { account: *account, cell: CELL, quota, cost }], at(0));
        }
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let page = memory.page(after, 7);
            assert!(page.len() <= 7);
            let Some(last) = page.last() else { break };
            after = Some(*last);
            assert_eq!(memory.page_among(all.last().copied(), 7, keys.clone()), page);
            all.extend(page);
        }
        let mut sorted = all.clone();
        sorted.sort_unstable();
        assert_eq!((all.len(), sorted), (1_000, keys));
    }
}
