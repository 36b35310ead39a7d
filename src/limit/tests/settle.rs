//! Holds and settlements, by each algorithm.

use super::*;
use crate::limit::settled::{MAX_INTERIM, MAX_PAGES, PAGE};

const SECOND: Duration = Duration::from_secs(1);

/// One account with one cell, whose calls are reserved and reported.
pub(super) struct World {
    pub(super) memory: Memory,
    pub(super) quota: Quota,
    debt_windows: u32,
    serial: u64,
}

/// What a call reserved.
#[derive(Clone, Copy)]
pub(super) struct Reserved {
    serial: u64,
    pub(super) minted: Micros,
    pub(super) hold: Hold,
}

// === impl World ===

impl World {
    pub(super) fn new(quota: Quota) -> Self {
        World { memory: Memory::default(), quota, debt_windows: u32::MAX, serial: 0 }
    }

    pub(super) fn bucket(limit: u64) -> Self {
        World::new(Quota::new(limit, MINUTE))
    }

    /// A call that is expected to cost this; `None` if it is refused.
    pub(super) fn hold(&mut self, want: u64, now: Duration) -> Option<Reserved> {
        let need = want.min(self.quota.limit() * 9 / 10).max(1);
        self.ask(Cost::Hold { want, need }, now)
    }

    pub(super) fn ask(&mut self, cost: Cost, now: Duration) -> Option<Reserved> {
        let demand = Demand { cost, ..take(1, 1, self.quota) };
        let Admission { outcome, standings, at, .. } = self.memory.admit(&[demand], Micros::from(now));
        self.serial += 1;
        let (held, mark) = (standings[0].held(), standings[0].mark());
        let hold = Hold { account: AccountKey(1), cell: CellId(1), held, mark };
        (outcome == Outcome::Admitted).then_some(Reserved { serial: self.serial, minted: at, hold })
    }

    pub(super) fn report(&self, reserved: Reserved, quality: Quality, used: u64, now: Duration) -> Settled {
        let Reserved { serial, minted, hold } = reserved;
        let due = [Due { hold, quota: Some(self.quota), used, debt_windows: self.debt_windows, watched: false }];
        let report = Report { instance: Instance(1), serial, minted, quality, tokens: used, due: &due };
        self.memory.settle(&report, Micros::from(now))
    }

    /// The whole answer used so many.
    pub(super) fn settle(&self, reserved: Reserved, used: u64, now: Duration) -> Settled {
        self.report(reserved, Quality::Final, used, now)
    }

    pub(super) fn standing(&self, now: Duration) -> Standing {
        let look = Demand { cost: Cost::POSTPAID, ..take(1, 1, self.quota) };
        self.memory.admit(&[look], Micros::from(now)).standings[0]
    }

    pub(super) fn left(&self, now: Duration) -> u64 {
        self.standing(now).remaining()
    }
}

/// What a report of so many tokens said of one cell.
fn earlier(tokens: u64) -> Earlier {
    Earlier { tokens, used: [tokens].into_iter().collect() }
}

const APPLIED: Settled = Settled::Applied { before: None, debt_cut: false, rises: Vec::new(), overran: false };

fn fixed(limit: u64) -> Quota {
    Quota::new(limit, MINUTE).by(Algorithm::FixedWindow).carrying_debt()
}

/// 14. Whatever was held.
#[test]
fn what_is_settled_at_once_is_charged_as_if_it_were_taken() {
    for quota in [Quota::new(100, MINUTE), fixed(100)] {
        for (held, used) in [(60, 40), (60, 60), (60, 0), (10, 40)] {
            let mut world = World::new(quota);
            let reserved = world.hold(held, Duration::ZERO).unwrap();
            assert_eq!(world.left(Duration::ZERO), 100 - held);
            assert_eq!(world.settle(reserved, used, Duration::ZERO), APPLIED);
            assert_eq!(world.left(Duration::ZERO), 100 - used, "{held} held, {used} used");
        }
    }
}

/// 15.
#[test]
fn what_time_has_paid_for_is_not_given_back() {
    let mut world = World::bucket(100);
    let reserved = world.hold(60, Duration::ZERO).unwrap();
    // 50 of the 60 are paid after 30 s; of the 60 that are not used, 10 come back.
    assert_eq!(world.left(30 * SECOND), 90);
    assert_eq!(world.settle(reserved, 0, 30 * SECOND), APPLIED);
    assert_eq!(world.left(30 * SECOND), 100);
    // Within the window of a fixed one all of it does.
    let mut world = World::new(fixed(100));
    let reserved = world.hold(60, Duration::ZERO).unwrap();
    world.settle(reserved, 0, 30 * SECOND);
    assert_eq!(world.left(30 * SECOND), 100);
}

/// 16.
#[test]
fn parked_answers_buy_nothing() {
    let mut world = World::bucket(1000);
    let parked: Vec<_> = (0..10).map(|_| world.hold(100, Duration::ZERO).unwrap()).collect();
    assert!(world.hold(100, Duration::ZERO).is_none());
    // A window later all is paid for, and a spree uses the whole limit.
    let spree: Vec<_> = (0..10).map(|_| world.hold(100, MINUTE).unwrap()).collect();
    for reserved in parked {
        world.settle(reserved, 1, MINUTE);
    }
    assert_eq!(world.left(MINUTE), 0, "the parked ones give nothing back");
    assert!(world.hold(100, MINUTE).is_none());
    for reserved in spree {
        world.settle(reserved, 100, MINUTE);
    }
    assert_eq!(world.left(MINUTE), 0);
}

/// 17.
#[test]
fn a_hold_that_moved_up_is_paid_for_sooner() {
    let mut world = World::bucket(100);
    let first = world.hold(50, Duration::ZERO).unwrap();
    let second = world.hold(50, Duration::ZERO).unwrap();
    world.settle(first, 0, Duration::ZERO);
    // The second is the only one in the queue now, and paid after 30 s.
    world.hold(60, 30 * SECOND).unwrap();
    world.settle(second, 0, 30 * SECOND);
    assert_eq!(world.left(30 * SECOND), 40);
}

/// Answers of one burst end in any order: a hold that ends last has not been paid for by what those behind it gave back.
#[test]
fn what_a_burst_does_not_use_comes_back_in_whatever_order_its_answers_end() {
    for order in [|call: usize| call, |call| 63 - call, |call| call * 37 % 64] {
        let mut world = World::bucket(100_000);
        let burst: Vec<_> = (0..64).map(|_| world.hold(1_300, Duration::ZERO).unwrap()).collect();
        for end in 0..64 {
            world.settle(burst[order(end)], 60, Duration::ZERO);
        }
        assert_eq!(world.left(Duration::ZERO), 100_000 - 64 * 60);
    }
    // Later ones keep no more than what may have been paid for: as much as comes back in the time since.
    let mut world = World::bucket(100_000);
    let burst: Vec<_> = (0..64).map(|_| world.hold(1_300, Duration::ZERO).unwrap()).collect();
    let late = Duration::from_millis(300);
    burst.into_iter().rev().for_each(|call| _ = world.settle(call, 60, late));
    let left = world.left(late);
    assert!((100_000 - 64 * (60 + 500)..=100_000 - 64 * 60 + 500).contains(&left), "{left}");
}

/// 18.
#[test]
fn a_cell_that_is_made_anew_owes_nothing_to_the_holds_of_before() {
    let mut world = World::bucket(100);
    let [less, more] = [20, 20].map(|want| world.hold(want, Duration::ZERO).unwrap());
    for turn in 0..Memory::TURNS {
        world.memory.sweep(turn, at(2 * MINUTE));
    }
    assert_eq!(world.memory.accounts(), 0);
    world.settle(less, 0, 2 * MINUTE);
    assert_eq!(world.memory.accounts(), 0, "nothing to give back makes no account");
    let fresh = world.hold(50, 2 * MINUTE).unwrap();
    world.settle(more, 30, 2 * MINUTE);
    assert_eq!(world.left(2 * MINUTE), 40, "ten more than were held");
    world.settle(fresh, 50, 2 * MINUTE);
    assert_eq!(world.left(2 * MINUTE), 40);
}

/// 19.
#[test]
fn what_is_held_in_one_window_is_not_given_back_to_the_next() {
    let mut world = World::new(fixed(100));
    let [less, more] = [40, 40].map(|want| world.hold(want, Duration::ZERO).unwrap());
    world.hold(10, MINUTE).unwrap();
    world.settle(less, 0, MINUTE);
    assert_eq!(world.left(MINUTE), 90);
    world.settle(more, 60, MINUTE);
    assert_eq!(world.left(MINUTE), 70, "what it used more counts where it is known");
}

/// 20, 21, 22: use stays, and is no debt; what is held by another rule is not given back.
#[test]
fn a_limit_that_changes_keeps_its_use_and_gives_back_nothing_of_before() {
    let (bucket, hour) = (Quota::new(1000, MINUTE), Duration::from_secs(3600));
    for (before, after, left) in [
        (bucket, Quota::new(100, MINUTE), 0),
        (fixed(1000), fixed(100), 0),
        (bucket, Quota::new(1000, hour), 100),
        (fixed(1000), Quota::new(1000, hour).by(Algorithm::FixedWindow).carrying_debt(), 100),
        (bucket, fixed(1000), 100),
        (fixed(1000), bucket, 100),
    ] {
        let mut world = World::new(before);
        let reserved = world.hold(900, Duration::ZERO).unwrap();
        world.quota = after;
        assert_eq!(world.left(SECOND / 100), left, "{before:?} to {after:?}");
        world.settle(reserved, 0, SECOND / 100);
        assert_eq!(world.left(SECOND / 100), left, "{before:?} to {after:?}");
        assert!(world.standing(SECOND / 100).reset() <= after.window());
    }
}

/// The call that meets the change first has its place by the new rule.
#[test]
fn what_is_held_by_a_changed_limit_is_given_back() {
    for (before, after) in [(Quota::new(1000, MINUTE), Quota::new(100, MINUTE)), (fixed(1000), fixed(100))] {
        let mut world = World::new(before);
        let _ = world.hold(20, Duration::ZERO);
        world.quota = after;
        let reserved = world.hold(50, SECOND / 100).unwrap();
        world.settle(reserved, 0, SECOND / 100);
        assert_eq!(world.left(SECOND / 100), 80, "{before:?} to {after:?}");
    }
}

/// A debt that is cut takes nothing of what others owe, or hold, when a better report corrects the one that made it.
#[test]
fn a_correction_of_a_debt_that_was_cut_gives_back_what_was_charged() {
    for quota in [Quota::new(100, MINUTE), fixed(100)] {
        let mut world = World { debt_windows: 10, ..World::new(quota) };
        let (first, second) =
            (world.ask(Cost::POSTPAID, Duration::ZERO).unwrap(), world.hold(10, Duration::ZERO).unwrap());
        let third = world.hold(50, Duration::ZERO).unwrap();
        world.settle(first, 500, Duration::ZERO);
        let settled = world.report(second, Quality::Estimate, 2_000_000, Duration::ZERO);
        assert_eq!(settled, Settled::Applied { before: None, debt_cut: true, rises: Vec::new(), overran: false });
        world.settle(second, 60, Duration::ZERO);
        let owed = world.standing(Duration::ZERO).reset();
        assert!(owed >= MINUTE * 6, "500 of another, 60 of this one, 50 held: {owed:?}");
        world.settle(third, 50, Duration::ZERO);
        assert_eq!(world.standing(Duration::ZERO).reset(), owed);
    }
}

/// 24.
/// However large an estimate was, a correction of it gives back that one alone.
#[test]
fn a_correction_of_a_charge_beyond_all_time_leaves_what_others_use() {
    let year = 365 * 24 * 3600 * SECOND;
    for quota in [Quota::new(100, year), Quota::new(100, year).by(Algorithm::FixedWindow).carrying_debt()] {
        for huge in [Quota::MAX_LIMIT, u64::MAX] {
            let mut world = World::new(quota);
            let [other, reserved] = [world.hold(40, Duration::ZERO).unwrap(), world.hold(10, Duration::ZERO).unwrap()];
            world.settle(other, 40, Duration::ZERO);
            world.report(reserved, Quality::Estimate, huge, Duration::ZERO);
            // A hundred thousand years.
            let standing = world.standing(SECOND);
            assert!(standing.reset() > 100_000 * year && standing.remaining() == 0, "{standing:?}");
            world.settle(reserved, 10, SECOND);
            assert_eq!(world.left(SECOND), 50, "{quota:?}, {huge}");
        }
    }
}

#[test]
fn nothing_is_held_of_a_limit_of_zero_and_there_is_no_time_after_which() {
    for quota in [Quota::new(0, MINUTE), fixed(0)] {
        let world = World::new(quota);
        let cost = Cost::Hold { want: 5, need: 1 };
        let admission = world.memory.admit(&[Demand { cost, ..take(1, 1, quota) }], at(100 * MINUTE));
        assert_eq!(admission.standings[0].verdict, Verdict::Exceeds(None));
    }
}

/// 25.
#[test]
fn an_answer_of_eighteen_limits_is_eighteen_windows_of_debt_unless_it_is_forgiven() {
    let forgiving = Quota::new(100, MINUTE).by(Algorithm::FixedWindow);
    for (quota, windows) in [(Quota::new(100, MINUTE), 18), (fixed(100), 18), (forgiving, 1)] {
        let mut world = World::new(quota);
        let reserved = world.hold(5000, Duration::ZERO).unwrap();
        assert_eq!(reserved.hold.held, 100);
        world.settle(reserved, 1800, Duration::ZERO);
        let reset = MINUTE * windows;
        assert_eq!(world.standing(Duration::ZERO).reset(), reset);
        // A bucket has the 90 that a call needs a little before it is full.
        let ready = if quota.algorithm().has_windows() { reset } else { reset - 6 * SECOND };
        assert!(world.hold(5000, ready - SECOND / 1000).is_none());
        assert!(world.hold(5000, ready).is_some(), "{quota:?}");
    }
}

/// 28, and the same with a caller who asks for more than there ever is.
#[test]
fn of_64_calls_at_once_run_as_many_as_fit() {
    for (want, admitted) in [(60, 1), (100_000, 1), (30, 3)] {
        let mut world = World::bucket(100);
        let running: Vec<_> = (0..64).filter_map(|_| world.hold(want, Duration::ZERO)).collect();
        assert_eq!(running.len(), admitted, "{want}");
        for reserved in running {
            world.settle(reserved, 30, Duration::ZERO);
        }
        assert_eq!(world.left(Duration::ZERO), 100 - 30 * admitted as u64, "{want}");
    }
}

/// 9.
#[test]
fn ten_thousand_copies_of_a_report_are_one_charge_and_nothing_grows() {
    let mut world = World::bucket(100);
    let reserved = world.hold(50, Duration::ZERO).unwrap();
    assert_eq!(world.settle(reserved, 30, Duration::ZERO), APPLIED);
    for _ in 0..10_000 {
        assert_eq!(world.settle(reserved, 30, Duration::ZERO), Settled::Duplicate { conflicting: false });
    }
    assert_eq!(world.settle(reserved, 31, Duration::ZERO), Settled::Duplicate { conflicting: true });
    assert_eq!((world.left(Duration::ZERO), world.memory.accounts()), (70, 1));
}

/// Reports of different quality, in every order: the same sum, and at one moment the same cell.
#[test]
fn a_settlement_is_a_join() {
    use Quality::{Counted, Estimate, Final};
    let reports = [(Estimate, 80), (Counted, 20), (Final, 50)];
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    for quota in [Quota::new(100, MINUTE), fixed(100)] {
        for (order, held) in orders.iter().flat_map(|order| [10, 60, 90].map(|held| (order, held))) {
            let mut world = World::new(quota);
            let reserved = world.hold(held, Duration::ZERO).unwrap();
            for (quality, used) in order.map(|at| reports[at]) {
                world.report(reserved, quality, used, Duration::ZERO);
            }
            assert_eq!(world.left(Duration::ZERO), 50, "{held} held, {order:?}");
        }
    }
}

/// What an estimate added on top of the hold is given back when the number is known, until it is paid for.
#[test]
fn what_an_estimate_added_is_given_back_first() {
    let mut world = World::bucket(100);
    let reserved = world.hold(20, Duration::ZERO).unwrap();
    world.report(reserved, Quality::Estimate, 80, Duration::ZERO);
    assert_eq!(world.left(Duration::ZERO), 20);
    let settled = world.settle(reserved, 20, 12 * SECOND);
    assert_eq!(
        settled,
        Settled::Applied { before: Some(earlier(80)), debt_cut: false, rises: Vec::new(), overran: false }
    );
    // The hold's 20 are paid after 12 s; of the other 60 nothing is.
    assert_eq!(world.left(12 * SECOND), 100);
}

#[test]
fn what_is_remembered_of_settlements_is_bounded_and_nothing_is_settled_twice() {
    let world = World::bucket(100);
    let hold = Hold { account: AccountKey(1), cell: CellId(1), held: 0, mark: Micros(0) };
    let settle =
        |serial, quality| world.report(Reserved { serial, minted: Micros(0), hold }, quality, 0, Duration::ZERO);
    let pages = MAX_PAGES as u64 + 10;
    for page in 0..pages {
        assert_eq!(settle(page * PAGE, Quality::Final), APPLIED, "{page}");
    }
    let again: Vec<_> = (0..pages).map(|page| settle(page * PAGE, Quality::Final)).collect();
    assert!(again[..10].iter().all(|settled| *settled == Settled::Late));
    assert!(again[10..].iter().all(|settled| *settled == Settled::Duplicate { conflicting: false }));
    // Of what a better report may still correct, the oldest stays as it is.
    let first = (pages - 1) * PAGE + 1;
    for serial in first..=first + MAX_INTERIM as u64 {
        assert_eq!(settle(serial, Quality::Estimate), APPLIED);
    }
    assert_eq!(settle(first, Quality::Final), Settled::Duplicate { conflicting: false });
    assert_eq!(
        settle(first + 1, Quality::Final),
        Settled::Applied { before: Some(earlier(0)), debt_cut: false, rises: Vec::new(), overran: false }
    );
}

#[test]
fn settlements_are_forgotten_after_a_day() {
    let world = World::bucket(100);
    let hold = Hold { account: AccountKey(1), cell: CellId(1), held: 0, mark: Micros(0) };
    let hour = |hours: u32| Duration::from_secs(3600) * hours;
    let settle = |hours, serial, minted| {
        world.settle(Reserved { serial, minted: Micros::from(hour(minted)), hold }, 1, hour(hours))
    };
    assert_eq!(settle(0, 0, 0), APPLIED);
    assert_eq!(settle(24, 0, 0), Settled::Duplicate { conflicting: false });
    assert_eq!(settle(25, 0, 0), Settled::Late);
    // Nothing came for a day; of what comes then the numbers go on.
    for serial in [1, PAGE - 1, PAGE] {
        assert_eq!(settle(25, serial, 24), APPLIED, "{serial}");
        assert_eq!(settle(25, serial, 24), Settled::Duplicate { conflicting: false }, "{serial}");
    }
}

#[test]
fn reservations_that_nobody_reported_are_counted() {
    let mut world = World::bucket(1_000_000);
    let calls: Vec<_> = (0..300).map(|_| world.hold(1, Duration::ZERO).unwrap()).collect();
    let silent = |world: &World| world.memory.silent(Instance(1), 1, 301);
    assert_eq!(silent(&world), 300);
    for (n, reserved) in calls.iter().enumerate().filter(|(n, _)| n % 3 == 0) {
        let quality = if n % 2 == 0 { Quality::Final } else { Quality::Estimate };
        world.report(*reserved, quality, 1, Duration::ZERO);
    }
    assert_eq!(silent(&world), 200);
    assert_eq!(world.memory.silent(Instance(2), 1, 301), 300, "another one's are not known");
    assert_eq!(world.memory.silent(Instance(1), 301, 1), 0);
}
