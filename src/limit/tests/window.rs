use proptest::prelude::*;

use super::*;

fn fixed(limit: u64, window: Duration) -> Quota {
    Quota::new(limit, window).by(Algorithm::FixedWindow)
}

#[test]
fn the_first_hit_starts_the_window_and_its_end_forgives_everything() {
    let (memory, quota) = (Memory::default(), fixed(3, MINUTE));
    let demand = take(1, 1, quota);
    let start = at(10 * MINUTE);
    for left in (0..3).rev() {
        let admission = admit(&memory, demand, start);
        assert!(admission.admitted());
        assert_eq!(admission.standings[0].remaining(), left);
        assert_eq!(admission.standings[0].reset(), MINUTE);
    }
    let later = at(10 * MINUTE + MINUTE / 2);
    assert_eq!(admit(&memory, demand, later).standings[0].verdict, Verdict::Exceeds(Some(MINUTE / 2)));
    let end = at(11 * MINUTE);
    assert!(!admit(&memory, demand, Micros(end.0 - 1)).admitted());
    assert_eq!(admit(&memory, demand, end).standings[0].remaining(), 2);
}

#[test]
fn a_refused_hit_starts_no_window() {
    let (memory, quota) = (Memory::default(), fixed(3, MINUTE));
    let large = Demand { cost: Cost::Take(4), ..take(1, 1, quota) };
    assert_eq!(admit(&memory, large, Micros(0)).standings[0].verdict, Verdict::Exceeds(None));
    assert_eq!(memory.accounts(), 0);
}

#[test]
fn debt_of_a_window_ends_with_it() {
    let (memory, quota) = (Memory::default(), fixed(100, MINUTE));
    let postpaid = Demand { cost: Cost::POSTPAID, ..take(1, 1, quota) };
    memory.charge(&taking(250, quota), 10, Micros(0));
    assert_eq!(admit(&memory, postpaid, Micros(0)).standings[0].verdict, Verdict::Exceeds(Some(MINUTE)));
    assert_eq!(admit(&memory, postpaid, at(MINUTE)).standings[0].remaining(), 100);
}

#[test]
fn use_is_kept_when_the_algorithm_changes() {
    let all = || Algorithm::ALL.iter().copied();
    for (before, after) in all().flat_map(|before| all().map(move |after| (before, after))) {
        let memory = Memory::default();
        let quota = Quota::new(5, MINUTE);
        assert_eq!(Cell::fresh(&quota.by(before)).algorithm(), before);
        for _ in 0..3 {
            assert!(admit(&memory, take(1, 1, quota.by(before)), Micros(0)).admitted());
        }
        let left = admit(&memory, take(1, 1, quota.by(after)), Micros(0)).standings[0].remaining();
        let are_calls = |algorithm| algorithm == Algorithm::Concurrency;
        assert_eq!(left, if are_calls(before) == are_calls(after) { 1 } else { 4 }, "{before:?} to {after:?}");
    }
}

#[test]
fn several_rates_of_one_limit_count_side_by_side() {
    let memory = Memory::default();
    let demands = [take(1, 1, fixed(2, MINUTE)), take(1, 2, fixed(3, 10 * MINUTE))];
    let admitted = |now| memory.admit(&demands, now).admitted();
    assert_eq!([admitted(Micros(0)), admitted(Micros(0)), admitted(Micros(0))], [true, true, false]);
    assert_eq!([admitted(at(MINUTE)), admitted(at(MINUTE))], [true, false], "the longer one is used up");
    assert!(admitted(at(10 * MINUTE)));
}

proptest! {
    /// In no window, counted from its first hit, is more admitted than the limit.
    #[test]
    fn a_window_admits_its_limit_and_no_more(
        limit in 0_u64..20,
        window_ms in 1_u64..5_000,
        steps in prop::collection::vec((0_u64..3_000_000, 1_u64..5), 1..200),
    ) {
        let (memory, quota) = (Memory::default(), fixed(limit, Duration::from_millis(window_ms)));
        let window = quota.window().as_micros() as u64;
        let (mut now, mut started, mut used) = (0_u64, None, 0_u64);
        for (wait, hits) in steps {
            now += wait;
            if started.is_some_and(|started| now >= started + window) {
                (started, used) = (None, 0);
            }
            let demand = Demand { cost: Cost::Take(hits), ..take(1, 1, quota) };
            let admitted = memory.admit(&[demand], Micros(now)).admitted();
            prop_assert_eq!(admitted, used + hits <= limit);
            if admitted {
                started = started.or(Some(now));
                used += hits;
            }
        }
    }

    /// Refused just before, admitted at it.
    #[test]
    fn retry_after_is_exact(limit in 1_u64..50, window_ms in 1_u64..5_000, used in 1_u64..100, later in 0_u64..6_000_000) {
        let (memory, quota) = (Memory::default(), fixed(limit, Duration::from_millis(window_ms)));
        memory.charge(&taking(used, quota), 10, Micros(0));
        let demand = take(1, 1, quota);
        if let Verdict::Exceeds(Some(wait)) = memory.admit(&[demand], Micros(later)).standings[0].verdict {
            let ready = Micros(later).saturating_add(wait);
            prop_assert!(!memory.admit(&[demand], Micros(ready.0 - 1)).admitted());
            prop_assert!(memory.admit(&[demand], ready).admitted());
        }
    }
}
