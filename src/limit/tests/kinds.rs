//! What every kind of limit promises, and what sliding windows and concurrency do beside.

use super::settle::{Reserved, World};
use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn sliding(limit: u64) -> Quota {
    Quota::new(limit, MINUTE).by(Algorithm::SlidingWindow)
}

fn running(limit: u64, lease: Duration) -> Quota {
    Quota::new(limit, lease).by(Algorithm::Concurrency)
}

prop_compose! {
    /// Every kind, over windows of milliseconds to days.
    fn quotas()(
        kind in prop::sample::select(Algorithm::ALL), limit in 1_u64..200, window_ms in 1_u64..120_000, carrying in any::<bool>(),
        unit in prop::sample::select(&Unit::ALL[..2]),
    ) -> Quota {
        let quota = match kind {
            Algorithm::Calendar => Quota::in_calendar(limit, Calendar::new(unit, "Europe/Berlin").unwrap()),
            kind => Quota::new(limit, Duration::from_millis(window_ms)).by(kind),
        };
        if carrying { quota.carrying_debt() } else { quota }
    }
}

/// What happens in a history: a wait, in parts of a window, and then a call, or the end of one.
fn steps() -> impl Strategy<Value = Vec<(u64, u64, usize, u64)>> {
    prop::collection::vec((0_u64..700, 1_u64..100, 0_usize..8, 0_u64..150), 1..100)
}

/// A world in which `steps` happen, each told.
fn live(
    quota: Quota,
    steps: Vec<(u64, u64, usize, u64)>,
    mut told: impl FnMut(&mut World, Duration, Option<Reserved>),
) {
    let (mut world, mut now, mut open) =
        (World::new(quota), Duration::from_secs(1_772_000_000), Vec::<Reserved>::new());
    for (wait, want, action, used) in steps {
        now += quota.window() * u32::try_from(wait).unwrap() / 1000;
        // Whole microseconds, as stores have them.
        now = Duration::from_micros(Micros::from(now).0);
        let reserved = match action {
            0..4 => world.hold(want, now),
            _ if open.is_empty() => None,
            at => {
                world.settle(open.remove(at * 7 % open.len()), used, now);
                None
            }
        };
        open.extend(reserved);
        told(&mut world, now, reserved);
    }
}

proptest! {
    /// P5 and P6: no more remains than the limit; who is refused is refused a microsecond before what he is told, and let in then. (When calls
    /// that run end is not known: there it is a bound.)
    #[test]
    fn what_is_told_of_a_limit_is_so(quota in quotas(), steps in steps(), want in 1_u64..300) {
        live(quota, steps, |world, now, _| {
            let standing = world.standing(now);
            assert!(standing.remaining() <= quota.limit());
            assert_eq!(standing.reset().is_zero(), standing.remaining() == quota.limit());
            let need = want.min(quota.limit() * 9 / 10).max(1);
            let ask = |cell: &mut Cell, at: Duration| {
                cell.advance(&quota, Micros::from(at));
                cell.peek(&quota, Cost::Hold { want, need }, Micros::from(at))
            };
            let Some(cell) = world.memory.cell(AccountKey(1), CellId(1)) else { return };
            if let Verdict::Exceeds(wait) = ask(&mut cell.clone(), now) {
                let wait = wait.expect("the limit is not 0");
                assert!(!wait.is_zero());
                assert_eq!(ask(&mut cell.clone(), now + wait - Duration::from_micros(1)), Verdict::Exceeds(Some(Duration::from_micros(1))));
                let then = ask(&mut cell.clone(), now + wait);
                assert!(then == Verdict::Fits || quota.algorithm() == Algorithm::Concurrency, "{then:?} {cell:?}");
            }
        });
    }

    /// A cell that says it is idle may be forgotten: one that is made anew says the same, whatever comes.
    #[test]
    fn what_is_idle_may_be_forgotten(quota in quotas(), steps in steps(), later in 0_u64..5_000, want in 1_u64..100) {
        live(quota, steps, |world, now, _| {
            let Some(mut cell) = world.memory.cell(AccountKey(1), CellId(1)) else { return };
            let now = Micros::from(now + quota.window() * u32::try_from(later).unwrap() / 1000);
            if !cell.is_idle(now) {
                return;
            }
            let mut fresh = Cell::fresh(&quota);
            for cell in [&mut cell, &mut fresh] {
                cell.advance(&quota, now);
            }
            for at in [now, now.saturating_add(quota.window() / 3), now.saturating_add(quota.window())] {
                let demand = Demand { cost: Cost::Hold { want, need: 1 }, ..take(1, 1, quota) };
                let [one, other] = [&mut cell, &mut fresh].map(|cell| cell.admit(&demand, at));
                assert_eq!((one.verdict, one.remaining(), one.reset()), (other.verdict, other.remaining(), other.reset()));
            }
        });
    }

    /// All that is held counts from the start, and all that is given back at once was never there.
    #[test]
    fn a_hold_that_is_given_back_at_once_was_never_there(quota in quotas(), steps in steps(), want in 1_u64..100) {
        live(quota, steps, |world, now, _| {
            let was = world.standing(now);
            if let Some(reserved) = world.hold(want, now) {
                let held = world.standing(now);
                assert!(held.remaining() <= was.remaining() - reserved.hold.held.min(was.remaining()));
                world.settle(reserved, 0, now);
                let is = world.standing(now);
                assert!(is.remaining() >= was.remaining() && is.remaining() <= quota.limit(), "{was:?} {is:?}");
            }
        });
    }

    /// In a window of the calendar, a fixed one, and an aligned one of those that slide, no more is held than the limit; in any time of that
    /// length less than twice as much.
    #[test]
    fn no_window_holds_more_than_its_limit(quota in quotas(), mut steps in steps()) {
        prop_assume!(quota.algorithm().has_windows());
        // Nothing is given back that could be held again.
        steps.iter_mut().for_each(|(.., action, _)| *action %= 4);
        let mut held = Vec::<(Duration, Micros, u64)>::new();
        live(quota, steps, |_, now, reserved| {
            held.extend(reserved.map(|reserved| (now, reserved.hold.mark, reserved.hold.held)));
        });
        for (first, window, _) in &held {
            let within: u64 = held.iter().filter(|(_, mark, _)| mark == window).map(|(.., held)| held).sum();
            prop_assert!(within <= quota.limit(), "{within}");
            let any = held.iter().filter(|(at, ..)| at >= first && *at < *first + quota.window());
            let any: u64 = any.map(|(.., held)| held).sum();
            // Windows that do not slide may meet at the edge.
            prop_assert!(quota.algorithm() != Algorithm::SlidingWindow || any < 2 * quota.limit(), "{any}");
        }
    }
}

/// Less than twice the limit in any time of one window, exactly the limit in an aligned one.
#[test]
fn a_window_slides() {
    let (mut world, quota) = (World::new(sliding(100)), sliding(100));
    assert_eq!(world.quota, quota);
    let ask = |world: &mut World, hits, now| world.ask(Cost::Take(hits), now).is_some();
    assert!(ask(&mut world, 100, 30 * SECOND));
    assert!(!ask(&mut world, 1, 59 * SECOND));
    // At the edge all of it is still seen, and then it slides out evenly.
    assert!(!ask(&mut world, 1, 60 * SECOND));
    assert_eq!(world.left(90 * SECOND), 50);
    assert!(ask(&mut world, 50, 90 * SECOND));
    assert!(!ask(&mut world, 1, 90 * SECOND));
    // Of the 50 of that window; the first one is out of sight.
    assert_eq!(world.left(120 * SECOND), 50);
    assert_eq!(world.left(180 * SECOND), 100);
}

/// What was held in a window is given back to that one, as long as it is seen.
#[test]
fn what_was_held_is_given_back_to_its_own_window() {
    for (end, left) in [(50, 100), (90, 100), (119, 100), (130, 100)] {
        let mut world = World::new(sliding(100));
        let reserved = world.hold(80, 30 * SECOND).unwrap();
        world.settle(reserved, 0, end * SECOND);
        assert_eq!(world.left(end * SECOND), left, "{end}");
    }
    let mut world = World::new(sliding(100));
    let parked = world.hold(90, 30 * SECOND).unwrap();
    assert!(world.hold(90, 130 * SECOND).is_some());
    world.settle(parked, 0, 130 * SECOND);
    assert_eq!(world.left(130 * SECOND), 10, "out of sight, it gives nothing back");
}

/// As in a fixed window: each of those that follow takes up its limit of a debt.
#[test]
fn debt_of_a_sliding_window_is_carried_or_forgotten() {
    for (quota, left) in [(sliding(100), [0, 0, 100, 100]), (sliding(100).carrying_debt(), [0, 0, 0, 75])] {
        let mut world = World::new(quota);
        world.memory.charge(&taking(250, quota), u32::MAX, Micros(0));
        let lefts = [59, 60, 120, 210].map(|second| world.left(second * SECOND));
        assert_eq!(lefts, left, "{quota:?}");
        assert!(world.hold(1, 300 * SECOND).is_some());
    }
}

/// 20 and 21, of windows that slide: use stays use when the limit or the window changes.
#[test]
fn a_sliding_window_that_changes_keeps_what_was_used() {
    for (limit, window, used, left) in [(100, MINUTE, 900, 0), (100, MINUTE, 50, 50), (1000, 60 * MINUTE, 900, 100)] {
        let mut world = World::new(sliding(1000));
        world.ask(Cost::Take(used), Duration::ZERO).unwrap();
        world.quota = Quota::new(limit, window).by(Algorithm::SlidingWindow);
        assert_eq!(world.left(SECOND), left, "{limit} {window:?}");
        assert_eq!(world.left(SECOND + 2 * window), limit);
    }
}

/// Who sweeps has read the clock before others did.
#[test]
fn a_sweep_of_a_moment_ago_frees_no_place() {
    for kind in Algorithm::ALL {
        let lease = 15 * MINUTE;
        let mut world = World::new(Quota::new(4, lease).by(*kind));
        let now = lease * 1000;
        for _ in 0..4 {
            assert!(world.ask(Cost::Take(1), now).is_some());
        }
        for turn in 0..Memory::TURNS {
            world.memory.sweep(turn, Micros::from(now - MINUTE));
        }
        assert!(world.ask(Cost::Take(1), now).is_none(), "{kind:?}");
    }
}

/// A day's debt is not paid by the windows that came after it.
#[test]
fn a_debt_is_paid_by_the_windows_that_it_was_made_in() {
    let at = |text: &str| {
        Duration::from_micros(u64::try_from(text.parse::<jiff::Timestamp>().unwrap().as_microsecond()).unwrap())
    };
    let of = |unit, zone| Quota::in_calendar(100, Calendar::new(unit, zone).unwrap()).carrying_debt();
    let hourly = Quota::new(100, 60 * MINUTE).by(Algorithm::FixedWindow).carrying_debt();
    let (day, month) = (of(Unit::Day, "UTC"), of(Unit::Month, "UTC"));
    let (tokyo, berlin) = (of(Unit::Month, "Asia/Tokyo"), of(Unit::Month, "Europe/Berlin"));
    for (before, made, after, then, used) in [
        (month, "2026-02-10T00:00:00Z", day, "2026-03-31T12:00:00Z", 900),
        // Eight days have ended; that is as many as seven of the longest that there can be.
        (day, "2026-02-01T12:00:00Z", month, "2026-02-09T12:00:00Z", 300),
        (hourly, "2026-02-01T00:00:00Z", day, "2026-02-01T08:30:00Z", 200),
        (tokyo, "2026-02-10T00:00:00Z", berlin, "2026-03-01T00:00:00Z", 900),
        (tokyo, "2026-02-10T00:00:00Z", berlin, "2026-04-01T00:00:00Z", 800),
    ] {
        let mut world = World::new(before);
        world.memory.charge(&taking(1000, before), u32::MAX, Micros::from(at(made)));
        world.quota = after;
        assert_eq!(world.standing(at(then)).used(), used, "{before:?} {after:?}");
    }
}

/// 53. A place is free when its call is reported, once; and if it never is, when its lease ends.
#[test]
fn a_place_is_free_when_its_call_ends_and_at_the_end_of_its_lease() {
    let lease = 15 * MINUTE;
    let mut world = World::new(running(4, lease));
    let ask = |world: &mut World, now| world.ask(Cost::Take(1), now);
    let calls: Vec<_> = (0..4).map(|second| ask(&mut world, second * SECOND).unwrap()).collect();
    assert!(ask(&mut world, 10 * SECOND).is_none());
    world.settle(calls[0], 0, 10 * SECOND);
    assert_eq!(world.left(10 * SECOND), 1);
    world.settle(calls[0], 0, 11 * SECOND);
    assert_eq!(world.left(11 * SECOND), 1, "once");
    let late = ask(&mut world, 12 * SECOND).unwrap();
    assert!(ask(&mut world, 12 * SECOND).is_none());
    // Nobody reports them: they are free after their lease, and a twentieth of it at most.
    assert!(ask(&mut world, lease).is_none(), "the first that is not reported began after a second");
    let after = lease + 12 * SECOND + lease / 20;
    assert_eq!(world.left(after), 4);
    let again: Vec<_> = (0..4).map(|_| ask(&mut world, after).unwrap()).collect();
    // A report after the lease takes nobody's place.
    for call in calls.iter().skip(1).chain([&late]) {
        world.settle(*call, 0, after + SECOND);
    }
    assert!(ask(&mut world, after + SECOND).is_none());
    for call in again {
        world.settle(call, 0, after + SECOND);
    }
    assert_eq!(world.left(after + SECOND), 4);
}

/// 54. A call that is longer than the lease keeps its place while its gateway says that it runs; else it is told at its end.
#[test]
fn a_call_that_is_longer_than_its_lease_keeps_its_place_while_that_is_told() {
    let lease = MINUTE;
    let mut world = World::new(running(1, lease));
    let call = world.ask(Cost::Take(1), SECOND).unwrap();
    for third in 1..20 {
        let now = SECOND + lease * third / 3;
        assert!(world.ask(Cost::Take(1), now).is_none(), "{third}");
        assert!(matches!(world.report(call, Quality::Running, 1, now), Settled::Applied { before: None, .. }));
        assert_eq!(world.left(now), 0);
    }
    let end = SECOND + lease * 20 / 3;
    let ended = world.settle(call, 0, end);
    assert_eq!(ended, Settled::Applied { before: None, debt_cut: false, rises: Vec::new(), overran: false });
    assert_eq!(world.left(end), 1);
    assert!(matches!(world.report(call, Quality::Running, 1, end), Settled::Duplicate { .. }), "it is over");
    assert_eq!(world.left(end), 1);

    let call = world.ask(Cost::Take(1), end).unwrap();
    let after = end + lease * 2;
    let other = world.ask(Cost::Take(1), after).expect("the place was free when the lease ended");
    let ended = world.settle(call, 0, after);
    assert_eq!(ended, Settled::Applied { before: None, debt_cut: false, rises: Vec::new(), overran: true });
    assert_eq!(world.left(after), 0, "that is the other's place");
    world.settle(other, 0, after);
    assert_eq!(world.left(after), 1);
}

/// 55. Nobody is cut, and nobody is let in until fewer run.
#[test]
fn fewer_may_run_at_once_without_cutting_any() {
    let mut world = World::new(running(8, MINUTE));
    let calls: Vec<_> = (0..8).map(|_| world.ask(Cost::Take(1), SECOND).unwrap()).collect();
    world.quota = running(4, MINUTE);
    for (ended, call) in calls.into_iter().enumerate() {
        assert_eq!(world.left(SECOND), (ended as u64).saturating_sub(4), "{ended} have ended");
        assert!(world.ask(Cost::Take(5), SECOND).is_none());
        world.settle(call, 0, SECOND);
    }
    assert_eq!(world.left(SECOND), 4);
}

/// A longer lease is that of the calls that run, too: nobody can tell when those began.
#[test]
fn a_lease_that_changes_frees_no_place_early() {
    let mut world = World::new(running(4, MINUTE));
    let call = world.ask(Cost::Take(1), 30 * SECOND).unwrap();
    world.quota = running(4, 10 * MINUTE);
    assert_eq!(world.left(59 * SECOND), 3);
    assert_eq!(world.left(5 * MINUTE), 3);
    world.settle(call, 0, 6 * MINUTE);
    assert_eq!(world.left(6 * MINUTE), 4);
}

/// 54, over a start with another lease: a call that is renewed has one place.
#[test]
fn a_call_of_another_lease_is_renewed_to_one_place() {
    let mut world = World::new(running(4, MINUTE));
    let calls: Vec<_> = (0..4).map(|_| world.ask(Cost::Take(1), SECOND).unwrap()).collect();
    world.quota = running(4, 10 * MINUTE);
    for call in &calls {
        world.report(*call, Quality::Running, 1, 10 * SECOND);
    }
    assert_eq!(world.left(10 * SECOND), 0);
    for call in calls {
        world.settle(call, 0, 20 * SECOND);
    }
    assert_eq!(world.left(20 * SECOND), 4);
}

proptest! {
    /// Never more than the limit at once, and each place ends with its report, or its lease and a twentieth of that.
    #[test]
    fn so_many_calls_run_at_once(
        limit in 1_u64..20, lease_ms in 100_u64..1_000_000,
        steps in prop::collection::vec((0_u64..400, any::<bool>(), 0_usize..100), 1..300),
    ) {
        let lease = Duration::from_millis(lease_ms);
        let (mut world, mut now) = (World::new(running(limit, lease)), Duration::from_secs(1_772_000_000));
        let mut runs: Vec<(Duration, Reserved)> = Vec::new();
        for (wait, ends, which) in steps {
            now = Duration::from_micros(Micros::from(now + lease * u32::try_from(wait).unwrap() / 2_000).0);
            if ends && !runs.is_empty() {
                let (_, call) = runs.remove(which % runs.len());
                world.settle(call, 0, now);
            } else if let Some(call) = world.ask(Cost::Take(1), now) {
                runs.push((now, call));
            }
            let sure = runs.iter().filter(|(since, _)| now < *since + lease).count() as u64;
            let perhaps = runs.iter().filter(|(since, _)| now <= *since + lease + lease / 20 + Duration::from_millis(25)).count() as u64;
            let used = limit - world.left(now);
            prop_assert!(sure <= limit && sure <= used && used <= perhaps, "{sure} {used} {perhaps}");
        }
    }
}

/// Memory of a million callers is a million of these.
#[test]
fn a_cell_is_small_whatever_it_counts_by() {
    assert!(size_of::<Cell>() <= 56, "{}", size_of::<Cell>());
}
