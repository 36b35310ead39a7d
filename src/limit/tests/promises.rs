//! What a token bucket with holds promises (P1 to P6), whatever callers do, in exact numbers.

use super::settle::{Reserved, World};
use super::*;

/// An exact fraction: hits × the window's microseconds.
type Exact = i128;

/// One call of a history, in exact numbers.
#[derive(Clone, Copy)]
struct Lived {
    reserved: Reserved,
    used: Option<u64>,
}

prop_compose! {
    fn small_quotas()(limit in 1_u64..200, window_ms in 1_u64..120_000) -> Quota {
        Quota::new(limit, Duration::from_millis(window_ms))
    }
}

proptest! {
    /// P1: of the calls that are admitted in any interval, what they used, as far as it was held, is at most the limit and what comes back
    /// in it. Whatever callers park.
    #[test]
    fn what_was_held_never_passes_the_limit_in_any_interval(
        limit in 1_u64..200,
        steps in prop::collection::vec((0_u64..5_000_000, 1_u64..100, 0_usize..8, 0_u64..100), 1..120),
    ) {
        let quota = Quota::new(limit, MINUTE);
        let mut world = World::new(quota);
        let (mut now, mut lived) = (0_u64, Vec::<Lived>::new());
        for (wait, want, action, used) in steps {
            now += wait;
            let time = Duration::from_micros(now);
            let open: Vec<usize> = (0..lived.len()).filter(|call| lived[*call].used.is_none()).collect();
            match open.get(action.saturating_sub(4) * 3 % open.len().max(1)) {
                Some(open) if action >= 4 => {
                    // Mostly nothing: the more is given back, the more there is to take twice.
                    let used = if used < 70 { 0 } else { used };
                    world.settle(lived[*open].reserved, used, time);
                    lived[*open].used = Some(used);
                }
                _ => lived.extend(world.hold(want, time).map(|reserved| Lived { reserved, used: None })),
            }
        }
        let window = i128::try_from(quota.window().as_micros()).unwrap();
        let limit = i128::from(quota.limit());
        for (at, first) in lived.iter().enumerate() {
            let mut sum: Exact = 0;
            for call in &lived[at..] {
                let held = call.reserved.hold.held;
                sum += i128::from(call.used.map_or(held, |used| used.min(held))) * window;
                let length = i128::from(call.reserved.minted.0 - first.reserved.minted.0);
                prop_assert!(sum <= limit * (window + length), "{sum} of {limit} in {length} µs");
            }
        }
    }

    /// P2: a call is charged what it used at least, and what it held or used at most; exactly what it used while its hold is unpaid.
    #[test]
    fn a_call_is_charged_between_what_it_used_and_what_it_held(
        quota in small_quotas(), before in 0_u64..50, want in 1_u64..100, used in 0_u64..200, wait in 0_u64..60_000_000,
    ) {
        let mut world = World::new(quota);
        let first = world.ask(Cost::Take(before.min(quota.limit())), Duration::ZERO);
        let reserved = first.and_then(|_| world.hold(want, Duration::ZERO));
        prop_assume!(reserved.is_some());
        let reserved = reserved.unwrap();
        let held = reserved.hold.held;
        let taken = |hits: u64| {
            let mut world = World::new(quota);
            let _ = world.ask(Cost::Take(before.min(quota.limit())), Duration::ZERO);
            world.memory.charge(&taking(hits, quota), u32::MAX, Micros(0));
            world.standing(Duration::from_micros(wait)).reset()
        };
        world.settle(reserved, used, Duration::from_micros(wait));
        let reset = world.standing(Duration::from_micros(wait)).reset();
        if used <= held {
            let slack = Duration::from_micros(2);
            prop_assert!(reset + slack >= taken(used) && reset <= taken(held) + slack, "{reset:?}");
        }
        if wait == 0 {
            prop_assert!(reset.abs_diff(taken(used)) <= Duration::from_micros(2));
        }
    }

    /// P3: a report of what was held changes nothing. P4: a hold that is given back at once was never there, to a microsecond. P5: nothing
    /// makes more remain than the limit.
    #[test]
    fn a_hold_that_was_right_or_is_given_back_changes_nothing(
        quota in small_quotas(), before in 0_u64..100, want in 1_u64..100, wait in 0_u64..60_000_000,
    ) {
        let mut world = World::new(quota);
        let _ = world.hold(before.max(1), Duration::ZERO);
        let time = Duration::from_micros(wait);
        let was = world.standing(time).reset();
        if let Some(reserved) = world.hold(want, time) {
            let held = world.standing(time);
            world.settle(reserved, reserved.hold.held, time);
            prop_assert_eq!(world.standing(time), held);
        }
        if let Some(reserved) = world.hold(want, time) {
            let between = world.standing(time).reset();
            world.settle(reserved, 0, time);
            let now = world.standing(time).reset();
            prop_assert!(now <= between && world.left(time) <= quota.limit());
            prop_assert!(now + Duration::from_micros(2) >= was);
        }
    }

    /// P6: refused a microsecond before, admitted then.
    #[test]
    fn the_time_after_which_a_hold_fits_is_exact(
        carrying in any::<bool>(), windows in any::<bool>(), limit in 1_u64..200, window_ms in 1_u64..120_000,
        used in 1_u64..1_000, want in 1_u64..300, later in 0_u64..10_000_000,
    ) {
        let quota = Quota::new(limit, Duration::from_millis(window_ms));
        let quota = if windows { quota.by(Algorithm::FixedWindow) } else { quota };
        let mut world = World::new(if carrying { quota.carrying_debt() } else { quota });
        world.memory.charge(&taking(used, world.quota), u32::MAX, Micros(0));
        let need = want.min(limit * 9 / 10).max(1);
        let demand = Demand { cost: Cost::Hold { want, need }, ..take(1, 1, world.quota) };
        let refused = world.memory.admit(&[demand], Micros(later));
        if let Verdict::Exceeds(Some(wait)) = refused.standings[0].verdict {
            prop_assert!(!wait.is_zero());
            let ready = Duration::from_micros(later) + wait;
            prop_assert!(world.hold(want, ready - Duration::from_micros(1)).is_none());
            prop_assert!(world.hold(want, ready).is_some());
        }
    }
}
