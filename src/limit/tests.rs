mod calendar;
mod copy;
mod kinds;
mod promises;
mod settle;
mod window;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

fn at(duration: Duration) -> Micros {
    Micros::from(duration)
}

fn take(account: u128, cell: u64, quota: Quota) -> Demand {
    Demand { account: AccountKey(account), cell: CellId(cell), quota, cost: Cost::Take(1) }
}

/// So many of the first cell.
fn taking(hits: u64, quota: Quota) -> Demand {
    Demand { cost: Cost::Take(hits), ..take(1, 1, quota) }
}

fn admit(memory: &Memory, demand: Demand, now: Micros) -> Admission {
    memory.admit(&[demand], now)
}

/// 900 of 1,000 used is 100 of 100 used, and no debt; a debt lasts as long as before.
#[test]
fn a_limit_that_is_lowered_makes_no_debt_of_what_was_used() {
    let window = |limit| Quota::new(limit, MINUTE);
    for (used, reset) in [(900, MINUTE), (1000, MINUTE), (3000, 3 * MINUTE), (50, MINUTE / 2)] {
        let memory = Memory::default();
        memory.charge(&taking(used, window(1000)), 10, Micros(0));
        let lowered =
            admit(&memory, Demand { cost: Cost::POSTPAID, ..take(1, 1, window(100)) }, Micros(0)).standings[0];
        assert_eq!((lowered.remaining(), lowered.reset()), (100_u64.saturating_sub(used), reset), "{used}");
    }
}

/// Hits stay hits, by either algorithm; a debt lasts neither longer nor for more windows than before.
#[test]
fn a_window_that_changes_keeps_what_was_used() {
    const HOUR: Duration = Duration::from_secs(3600);
    let bucket = |window| Quota::new(100, window);
    let fixed = |window| bucket(window).by(Algorithm::FixedWindow);
    for (before, after, used, left, reset) in [
        (bucket(MINUTE), bucket(HOUR), 50, 50, HOUR / 2),
        (bucket(HOUR), bucket(MINUTE), 50, 50, MINUTE / 2),
        (bucket(MINUTE), bucket(HOUR), 250, 0, HOUR + MINUTE * 3 / 2),
        (bucket(HOUR), bucket(MINUTE), 250, 0, MINUTE * 5 / 2),
        (fixed(MINUTE), fixed(HOUR), 50, 50, MINUTE),
        (fixed(HOUR), fixed(MINUTE), 50, 50, MINUTE),
        (fixed(HOUR), fixed(MINUTE), 250, 0, MINUTE),
    ] {
        let memory = Memory::default();
        memory.charge(&taking(used, before), 10, Micros(0));
        let standing = admit(&memory, Demand { cost: Cost::POSTPAID, ..take(1, 1, after) }, Micros(0)).standings[0];
        assert_eq!((standing.remaining(), standing.reset()), (left, reset), "{used} of {before:?}");
    }
}

/// In a fixed window the end of the window forgives all of it.
#[test]
fn a_debt_ends_after_so_many_windows() {
    let quota = Quota::new(100, MINUTE);
    for (windows, used, cut) in [(10, 1100, false), (10, 1101, true), (1, 1_000_000_000, true), (u32::MAX, 5000, false)]
    {
        let memory = Memory::default();
        assert_eq!(memory.charge(&taking(used, quota), windows, Micros(0)), cut, "{used}");
        let standing = admit(&memory, Demand { cost: Cost::POSTPAID, ..take(1, 1, quota) }, Micros(0)).standings[0];
        let whole = MINUTE * u32::try_from(used / 100).unwrap();
        assert_eq!(standing.reset(), if cut { MINUTE * (windows + 1) } else { whole }, "{used}");
    }
}

#[test]
fn a_bucket_of_five_per_two_minutes_admits_five_at_once_then_one_each_24_seconds() {
    let (memory, quota) = (Memory::default(), Quota::new(5, 2 * MINUTE));
    let demand = take(1, 1, quota);
    for left in (0..5).rev() {
        let admission = admit(&memory, demand, Micros(0));
        assert!(admission.admitted());
        assert_eq!(admission.standings[0].remaining(), left);
    }
    let refused = admit(&memory, demand, Micros(0));
    assert!(!refused.admitted());
    assert_eq!(refused.standings[0].verdict, Verdict::Exceeds(Some(Duration::from_secs(24))));
    assert_eq!(refused.standings[0].reset(), 2 * MINUTE);
    assert!(!admit(&memory, demand, Micros(24_000_000 - 1)).admitted());
    assert!(admit(&memory, demand, Micros(24_000_000)).admitted());
}

/// Whoever gets the lock later may have read the clock earlier, by as much as it waited for a review.
#[test]
fn requests_that_come_late_with_their_time_are_not_refused_for_it() {
    let (memory, quota) = (Memory::default(), Quota::new(50, 2 * MINUTE));
    let admitted =
        (0..60).filter(|late| admit(&memory, take(1, 1, quota), Micros(1_000_000 - late)).admitted()).count();
    assert_eq!(admitted, 50);
    let both = |late: u64| [take(2, 1, quota), take(3, 1, quota)].map(|demand| (demand, Micros(1_000_000 - late)));
    let admitted = (0..60).filter(|late| {
        let [(one, now), (other, _)] = both(*late);
        memory.admit(&[one, other], now).admitted()
    });
    assert_eq!(admitted.count(), 50);
}

#[test]
fn a_limit_of_zero_refuses_for_ever() {
    let quota = Quota::new(0, MINUTE);
    for cost in [Cost::Take(1), Cost::POSTPAID] {
        let demand = Demand { cost, ..take(1, 1, quota) };
        let refused = admit(&Memory::default(), demand, at(100 * MINUTE));
        assert_eq!(refused.standings[0].verdict, Verdict::Exceeds(None));
        assert_eq!(refused.standings[0].remaining(), 0);
    }
}

#[test]
fn a_charge_goes_into_debt_and_debt_is_paid_off_by_time() {
    let (memory, quota) = (Memory::default(), Quota::new(100, MINUTE));
    let postpaid = Demand { cost: Cost::POSTPAID, ..take(1, 1, quota) };
    memory.charge(&taking(60, quota), 10, Micros(0));
    assert!(admit(&memory, postpaid, Micros(0)).admitted());
    memory.charge(&taking(60, quota), 10, Micros(0));
    let refused = admit(&memory, postpaid, Micros(0));
    // 21 tokens have to come back: 20 of debt and one to spend.
    assert_eq!(refused.standings[0].verdict, Verdict::Exceeds(Some(Duration::from_millis(12_600))));
    assert_eq!(refused.standings[0].remaining(), 0);
    assert!(admit(&memory, postpaid, at(Duration::from_millis(12_600))).admitted());
}

#[test]
fn postpaid_takes_nothing() {
    let (memory, quota) = (Memory::default(), Quota::new(1, MINUTE));
    let postpaid = Demand { cost: Cost::POSTPAID, ..take(1, 1, quota) };
    for _ in 0..10 {
        assert_eq!(admit(&memory, postpaid, Micros(0)).standings[0].remaining(), 1);
    }
    assert_eq!(memory.accounts(), 0, "peeking keeps no account");
}

#[test]
fn of_several_demands_all_are_taken_or_none() {
    let memory = Memory::default();
    let (wide, narrow) = (Quota::new(10, MINUTE), Quota::new(1, MINUTE));
    // Once in one account, once across two.
    for (account, other) in [(1, 1), (2, 3)] {
        let demands = [take(account, 1, wide), take(other, 2, narrow)];
        assert!(memory.admit(&demands, Micros(0)).admitted());
        let refused = memory.admit(&demands, Micros(0));
        assert!(!refused.admitted());
        assert_eq!(refused.standings[0].remaining(), 9, "nothing was taken from the limit that had some");
        assert_eq!(refused.standings[0].verdict, Verdict::Fits);
        assert_eq!(refused.standings[1].verdict, Verdict::Exceeds(Some(MINUTE)));
    }
}

#[test]
fn two_demands_on_one_cell_see_each_other() {
    let memory = Memory::default();
    let demand = take(1, 1, Quota::new(1, MINUTE));
    assert!(!memory.admit(&[demand, demand], Micros(0)).admitted());
    assert!(admit(&memory, demand, Micros(0)).admitted());
    // Both are written, whether the account is new or known, and alone or beside another.
    let (wide, other) = (take(2, 1, Quota::new(10, MINUTE)), take(3, 1, Quota::new(10, MINUTE)));
    for left in [8, 6] {
        assert_eq!(memory.admit(&[wide, wide], Micros(0)).standings[1].remaining(), left);
    }
    assert_eq!(memory.admit(&[wide, other, wide], Micros(0)).standings[2].remaining(), 4);
    assert_eq!(admit(&memory, wide, Micros(0)).standings[0].remaining(), 3);
}

#[test]
fn a_limit_that_changes_keeps_what_was_used() {
    let memory = Memory::default();
    for _ in 0..4 {
        assert!(admit(&memory, take(1, 1, Quota::new(10, MINUTE)), Micros(0)).admitted());
    }
    assert_eq!(admit(&memory, take(1, 1, Quota::new(5, MINUTE)), Micros(0)).standings[0].remaining(), 0);
    assert!(!admit(&memory, take(1, 1, Quota::new(5, MINUTE)), Micros(0)).admitted());
}

#[test]
fn idle_accounts_leave_and_live_ones_stay() {
    let (memory, quota) = (Memory::default(), Quota::new(1, MINUTE));
    let account = |n: u64| (u128::from(n) << 64) | u128::from(n);
    assert!(admit(&memory, take(account(7), 1, Quota::new(1, 1000 * MINUTE)), Micros(0)).admitted());
    for n in 0..200_000 {
        let now = Micros(n * 1_000);
        let _ = admit(&memory, take(account(1000 + n), 1, quota), now);
    }
    // One account a millisecond, each live for a minute.
    assert!(memory.accounts() < 150_000, "{} accounts", memory.accounts());
    assert!(!admit(&memory, take(account(7), 1, Quota::new(1, 1000 * MINUTE)), at(3 * MINUTE)).admitted());
}

#[test]
fn idle_accounts_leave_although_nobody_comes() {
    const ACCOUNTS: u64 = 10_000;
    let memory = Memory::default();
    let account = |n: u64| (u128::from(n) << 64) | u128::from(n);
    for n in 0..ACCOUNTS {
        let window = if n % 10 == 0 { 1000 * MINUTE } else { MINUTE };
        assert!(admit(&memory, take(account(n), 1, Quota::new(1, window)), Micros(0)).admitted());
    }
    for turn in 0..Memory::TURNS {
        memory.sweep(turn, at(MINUTE / 2));
    }
    assert_eq!(memory.accounts() as u64, ACCOUNTS, "all are live");
    // Wherever the turns begin.
    for turn in 17..17 + Memory::TURNS {
        memory.sweep(turn, at(MINUTE));
    }
    assert_eq!(memory.accounts() as u64, ACCOUNTS / 10);
    for n in (0..ACCOUNTS).step_by(10) {
        let again = admit(&memory, take(account(n), 1, Quota::new(1, 1000 * MINUTE)), at(MINUTE));
        assert!(!again.admitted(), "a live one is never forgotten");
    }
}

#[test]
fn at_the_bound_there_is_room_for_those_who_are_there_and_for_nobody_else() {
    const BOUND: usize = 4 * Memory::SHARDS;
    let (memory, quota) = (Memory::bounded(BOUND), Quota::new(10, MINUTE));
    let account = |n: u64| (u128::from(n) << 64) | u128::from(n);
    for n in 0..BOUND as u64 {
        assert!(admit(&memory, take(account(n), 1, quota), Micros(0)).admitted(), "{n}");
    }
    for n in 0..BOUND as u64 {
        assert!(admit(&memory, take(account(n), 1, quota), Micros(1)).admitted(), "a live one is never forgotten");
        for cost in [Cost::Take(1), Cost::POSTPAID] {
            let newcomer = Demand { cost, ..take(account(10_000 + n), 1, quota) };
            let refused = admit(&memory, newcomer, Micros(1));
            assert_eq!(refused.outcome, Outcome::Undecided(Undecided::Full));
        }
    }
    assert_eq!(memory.accounts(), BOUND);
    // When they are idle, they leave.
    assert!(admit(&memory, take(account(99_999), 1, quota), at(2 * MINUTE)).admitted());
    assert!(memory.accounts() < BOUND);
}

/// Whether of one account or of several.
#[test]
fn who_gets_no_answer_has_taken_nothing_and_knows_nothing() {
    let quota = Quota::new(10, MINUTE);
    for demands in [[take(1, 1, quota), take(1, 2, quota)], [take(1, 1, quota), take(2, 1, quota)]] {
        let admission = Memory::mute().admit(&demands, Micros(0));
        assert_eq!((admission.outcome, admission.standings.len()), (Outcome::Undecided(Undecided::NoAnswer), 0));
        assert!(!admission.admitted());
    }
}

#[test]
fn sixty_four_threads_on_one_limit_of_500_admit_exactly_500() {
    let memory = Arc::new(Memory::default());
    let demand = take(1, 1, Quota::new(500, Duration::from_secs(24 * 3600)));
    let admitted = race(&memory, &[demand]);
    assert_eq!(admitted, 500);
}

#[test]
fn two_limits_of_one_account_are_never_taken_one_without_the_other() {
    let memory = Arc::new(Memory::default());
    let day = Duration::from_secs(24 * 3600);
    let demands = [take(1, 1, Quota::new(500, day)), take(1, 2, Quota::new(700, day))];
    assert_eq!(race(&memory, &demands), 500);
    let [first, second] = demands.map(|demand| admit(&memory, Demand { cost: Cost::POSTPAID, ..demand }, Micros(0)));
    assert_eq!((first.standings[0].remaining(), second.standings[0].remaining()), (0, 200));
}

#[test]
fn several_accounts_in_opposite_orders_do_not_deadlock() {
    let memory = Arc::new(Memory::default());
    let quota = Quota::new(1_000_000, MINUTE);
    let (a, b) = (take(1 << 64, 1, quota), take(2 << 64, 2, quota));
    std::thread::scope(|scope| {
        for demands in [[a, b], [b, a]] {
            let memory = &memory;
            scope.spawn(move || {
                for _ in 0..20_000 {
                    assert!(memory.admit(&demands, Micros(0)).admitted());
                }
            });
        }
    });
    assert_eq!(admit(&memory, a, Micros(0)).standings[0].remaining(), 1_000_000 - 40_001);
}

/// What is in several shards has the time of the one that is ahead, and each of them goes on from there.
#[test]
fn an_account_that_met_one_that_is_ahead_is_not_refused_for_it() {
    let memory = Memory::default();
    let (team, user) = (take(1 << 64, 1, Quota::new(100, MINUTE)), take(2 << 64, 2, Quota::new(2, MINUTE)));
    assert!(admit(&memory, team, Micros(10)).admitted());
    let met = memory.admit(&[team, user], Micros(5));
    assert_eq!((met.admitted(), met.at), (true, Micros(10)));
    let again = admit(&memory, user, Micros(6));
    assert_eq!((again.admitted(), again.at, again.standings[0].remaining()), (true, Micros(10), 0));
}

/// A team's limit of 1,000, shared by 100 users with 15 each: never more than 1,000 at any moment, exactly 1,000 in the end, and never one
/// of two limits without the other.
#[test]
fn a_team_of_a_hundred_users_has_its_limit_and_each_user_theirs() {
    let day = Duration::from_secs(24 * 3600);
    let holding = Cost::Hold { want: 1, need: 1 };
    let user = |number: u64| Demand {
        cost: if number.is_multiple_of(2) { Cost::Take(1) } else { holding },
        ..take(u128::from(number + 2) << 64, 2, Quota::new(15, day))
    };
    let team = |user: &Demand| Demand { cost: user.cost, ..take(1 << 64, 1, Quota::new(1_000, day)) };
    let (memory, taken) = (Memory::default(), std::array::from_fn::<_, 100, _>(|_| AtomicU64::new(0)));
    let all = || taken.iter().map(|of_user| of_user.load(Ordering::SeqCst)).sum::<u64>();
    let ask = |number: usize| {
        let user = user(number as u64);
        // In either order: whoever comes first is the same to both.
        let demands = if number.is_multiple_of(3) { [team(&user), user] } else { [user, team(&user)] };
        let admission = memory.admit(&demands, Micros(0));
        let held: Vec<u64> = admission.standings.iter().map(Standing::held).collect();
        assert_eq!(held, [u64::from(admission.admitted()); 2]);
        if admission.admitted() {
            taken[number].fetch_add(1, Ordering::SeqCst);
        }
        assert!(all() <= 1_000);
    };
    let start = std::sync::Barrier::new(16);
    std::thread::scope(|scope| {
        for thread in 0..16 {
            let (start, ask) = (&start, &ask);
            scope.spawn(move || {
                start.wait();
                (0..100).for_each(|turn| ask((thread * 31 + turn * 7) % 100));
            });
        }
    });
    (0..100).for_each(ask);
    assert_eq!(all(), 1_000);
    let left = |demand| admit(&memory, Demand { cost: Cost::POSTPAID, ..demand }, Micros(0)).standings[0].remaining();
    for (number, taken) in taken.iter().enumerate() {
        assert_eq!(left(user(number as u64)), 15 - taken.load(Ordering::SeqCst), "user {number}");
    }
    assert_eq!(left(team(&user(0))), 0);
}

/// How many of 64 threads' 6,400 tries are admitted, all at the same time.
fn race(memory: &Arc<Memory>, demands: &[Demand]) -> usize {
    let start = std::sync::Barrier::new(64);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..64)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    (0..100).filter(|_| memory.admit(demands, Micros(0)).admitted()).count()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    })
}

prop_compose! {
    fn quotas()(limit in 0_u64..=1_000, window_ms in 1_u64..=120_000) -> Quota {
        Quota::new(limit, Duration::from_millis(window_ms))
    }
}

proptest! {
    /// What is admitted up to any moment is at most the limit and what has come back by then.
    #[test]
    fn never_admits_more_than_the_limit_plus_refill(
        quota in quotas(),
        steps in prop::collection::vec((0_u64..3_000_000, 1_u64..20), 1..200),
    ) {
        let memory = Memory::default();
        let (mut now, mut admitted) = (0_u64, 0_u128);
        for (wait, hits) in steps {
            now += wait;
            let demand = Demand { cost: Cost::Take(hits), ..take(1, 1, quota) };
            if memory.admit(&[demand], Micros(now)).admitted() {
                admitted += u128::from(hits);
            }
            // admitted <= limit + limit * now / window, without rounding.
            let window = quota.window().as_micros();
            prop_assert!(admitted * window <= u128::from(quota.limit()) * (window + u128::from(now)));
        }
    }

    /// Refused just before, admitted at it.
    #[test]
    fn retry_after_is_exact(
        quota in quotas(),
        used in 0_u64..3_000,
        hits in 1_u64..50,
        later in 0_u64..10_000_000,
    ) {
        let memory = Memory::default();
        memory.charge(&taking(used, quota), 10, Micros(0));
        let demand = Demand { cost: Cost::Take(hits), ..take(1, 1, quota) };
        let refused = memory.admit(&[demand], Micros(later));
        match refused.standings[0].verdict {
            Verdict::Fits => prop_assert!(refused.admitted()),
            Verdict::Exceeds(None) => prop_assert!(hits > quota.limit()),
            Verdict::Exceeds(Some(wait)) => {
                prop_assert!(!refused.admitted());
                prop_assert!(!wait.is_zero());
                let ready = Micros(later).saturating_add(wait);
                prop_assert!(!memory.admit(&[demand], Micros(ready.0 - 1)).admitted());
                prop_assert!(memory.admit(&[demand], ready).admitted());
            }
        }
    }

    /// At `reset` the whole limit is there again, and not a microsecond earlier.
    #[test]
    fn reset_is_when_the_cell_is_full(quota in quotas(), used in 1_u64..3_000) {
        prop_assume!(quota.limit() > 0);
        let mut bucket = Bucket::default();
        bucket.advance(&quota, Micros(0));
        bucket.charge(&quota, used);
        let reset = Micros::from(bucket.until_full(Micros(0)));
        prop_assert!(!bucket.is_idle(Micros(reset.0 - 1)));
        prop_assert!(bucket.is_idle(reset));
        bucket.advance(&quota, reset);
        prop_assert_eq!(bucket.used(reset), 0);
    }

    /// A clock of another thread that is a little behind changes nothing.
    #[test]
    fn time_never_runs_backwards(quota in quotas(), times in prop::collection::vec(0_u64..1_000_000, 1..50)) {
        prop_assume!(quota.limit() > 0);
        let mut bucket = Bucket::default();
        let (mut latest, mut charged) = (0, 0_u128);
        for time in times {
            latest = latest.max(time);
            bucket.advance(&quota, Micros(time));
            bucket.charge(&quota, 1);
            charged += 1;
        }
        let back = u128::from(quota.limit()) * u128::from(latest);
        let owed = (charged * quota.window().as_micros()).saturating_sub(back);
        prop_assert!(bucket.until_full(Micros(latest)).as_micros() >= owed / u128::from(quota.limit()));
    }
}
