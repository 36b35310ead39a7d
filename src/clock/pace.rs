//! How a store's time goes: by the process's clock, which nobody sets, and after the wall clock, which is right in the end.
//!
//! Limits that end at midnight need the true time, and all limits need one that never goes back and seldom jumps: a jump forward gives
//! everybody a window. So small differences are made up for slowly. A step forward is believed once the wall clock has stood by it for
//! a while. A step back never is: time goes at half its speed until it is true.

use std::time::Duration;

use super::{Micros, Nanos};

/// From one moment on, time goes so fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    since: Nanos,
    at: Micros,
    /// Of the speed of the process's clock.
    per_mille: u64,
}

/// Follows the wall clock.
#[derive(Debug)]
pub struct Follower {
    pace: Pace,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The wall clock says the same, or nearly.
    Agreed,
    /// It has been ahead by so many microseconds since then.
    Ahead { since: Nanos, by: i64 },
    /// It is behind.
    Behind,
}

/// What is to be told of the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stepped {
    /// It was set forward by so much, and is believed.
    Forward(Duration),
    /// It was set back by so much. Time goes at half its speed until it is true.
    Back(Duration),
}

/// What differs by less is made up for at [`SLEW`].
const STEP: i64 = 1_000_000;
/// Whoever looks each second is off by as much.
const AGREED: i64 = 2_000;
const SLEW: u64 = 1;
const HALF: u64 = 500;
/// So long a step forward has to stand.
const BELIEVED: Duration = Duration::from_secs(10);

// === impl Pace ===

impl Pace {
    /// That of the process's clock, which started at `began`.
    #[must_use]
    pub fn since(began: Micros) -> Self {
        Pace { since: Nanos(0), at: began, per_mille: 1_000 }
    }

    /// The time at `now`, not before the pace began.
    #[must_use]
    #[inline]
    pub fn time(&self, now: Nanos) -> Micros {
        let passed = now.0.saturating_sub(self.since.0) / 1_000;
        let passed = match self.per_mille {
            1_000 => passed,
            other => (u128::from(passed) * u128::from(other) / 1_000).try_into().unwrap_or(u64::MAX),
        };
        Micros(self.at.0.saturating_add(passed))
    }
}

// === impl Follower ===

impl Follower {
    /// Goes on from `pace`.
    #[must_use]
    pub fn new(pace: Pace) -> Self {
        Follower { pace, state: State::Agreed }
    }

    /// The pace from now on, as the wall clock says `wall`; and what is to be told, if anything is. To be called about once a second.
    pub fn look(&mut self, now: Nanos, wall: Micros) -> (Pace, Option<Stepped>) {
        let time = self.pace.time(now);
        let furthest = if wall < time { i64::MIN } else { i64::MAX };
        let off = i64::try_from(i128::from(wall.0) - i128::from(time.0)).unwrap_or(furthest);
        let (at, per_mille, stepped) = match off {
            STEP.. => self.ahead(now, off, time, wall),
            _ if off <= -STEP => {
                let is_new = std::mem::replace(&mut self.state, State::Behind) != State::Behind;
                (time, HALF, is_new.then(|| Stepped::Back(Duration::from_micros(off.unsigned_abs()))))
            }
            _ => {
                self.state = State::Agreed;
                (time, self.slewed(off), None)
            }
        };
        self.pace = Pace { since: now, at, per_mille };
        (self.pace, stepped)
    }

    fn ahead(&mut self, now: Nanos, off: i64, time: Micros, wall: Micros) -> (Micros, u64, Option<Stepped>) {
        let (since, by) = match self.state {
            State::Ahead { since, by } if by.abs_diff(off) < STEP.unsigned_abs() => (since, by),
            // It is not where it was, or has just come to be there.
            _ => (now, off),
        };
        if now >= since.saturating_add(BELIEVED) {
            self.state = State::Agreed;
            return (wall, 1_000, Some(Stepped::Forward(Duration::from_micros(off.unsigned_abs()))));
        }
        self.state = State::Ahead { since, by };
        (time, 1_000, None)
    }

    fn slewed(&self, off: i64) -> u64 {
        match off {
            AGREED.. => 1_000 + SLEW,
            _ if off <= -AGREED => 1_000 - SLEW,
            _ => 1_000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGAN: u64 = 1_772_000_000_000_000;
    const SECOND: u64 = 1_000_000;
    const DAY: i64 = 24 * 3600 * 1_000_000;

    /// What the time is after each second, when the wall clock is off by so much then; and what is told.
    fn lived(off: impl Fn(u64) -> i64, seconds: u64) -> (Vec<i64>, Vec<Stepped>) {
        let mut follower = Follower::new(Pace::since(Micros(BEGAN)));
        let (mut offs, mut told, mut last) = (Vec::new(), Vec::new(), Micros(0));
        let mut pace = follower.pace;
        for second in 0..seconds {
            let now = Nanos(second * 1_000 * SECOND);
            let true_time = BEGAN + second * SECOND;
            assert!(pace.time(now) >= last, "time goes back");
            let stepped;
            (pace, stepped) = follower.look(now, Micros(true_time.checked_add_signed(off(second)).unwrap()));
            told.extend(stepped);
            last = pace.time(now);
            offs.push(i64::try_from(last.0).unwrap() - i64::try_from(true_time).unwrap());
        }
        (offs, told)
    }

    #[test]
    fn a_clock_that_drifts_is_followed_slowly() {
        for off in [900_000, -900_000, 50_000, -50_000] {
            let (offs, told) = lived(|_| off, 1_000);
            assert!(offs.windows(2).all(|two| two[0].abs_diff(two[1]) <= 1_000), "{off}");
            assert!(offs.last().unwrap().abs_diff(off) <= 3_000, "{off}: {:?}", offs.last());
            assert!(told.is_empty());
        }
        let (offs, _) = lived(|second| if second % 2 == 0 { 1_000 } else { -1_000 }, 100);
        assert!(offs.iter().all(|off| *off == 0), "what nobody can measure changes nothing");
    }

    #[test]
    fn a_step_forward_is_believed_when_it_stands() {
        let (offs, told) = lived(|second| if second >= 5 { DAY } else { 0 }, 60);
        assert_eq!(told, [Stepped::Forward(Duration::from_micros(DAY.unsigned_abs()))]);
        assert!(offs[..15].iter().all(|off| *off == 0) && offs[15..].iter().all(|off| *off == DAY), "{offs:?}");
        // Forth and back, over midnight: nothing stands for long enough.
        let (offs, told) = lived(|second| if second % 10 < 8 { DAY } else { 0 }, 300);
        assert!(told.is_empty() && offs.iter().all(|off| *off == 0));
        // It goes on being set, or gains.
        for gained in [2_000_000, 900_000] {
            let (_, told) = lived(|second| i64::try_from(second).unwrap() * gained, 100);
            assert!(told.is_empty(), "{gained}: {told:?}");
        }
    }

    #[test]
    fn a_step_back_is_waited_for_at_half_speed() {
        let (offs, told) = lived(|second| if second >= 5 { -20_000_000 } else { 0 }, 80);
        assert_eq!(told, [Stepped::Back(Duration::from_secs(20))]);
        // It takes twice as long as the step, and then it is true.
        assert!(offs[30] < -12_000_000 && offs[30] > -13_000_000, "{}", offs[30]);
        assert!(offs[79].abs_diff(-20_000_000) < SECOND, "{}", offs[79]);
        let (offs, told) = lived(|second| if (5..8).contains(&second) { -DAY } else { 0 }, 3_000);
        // And forth again: what was lost is made up for.
        assert_eq!(
            told,
            [-DAY, 1_500_000].map(|by| match Duration::from_micros(by.unsigned_abs()) {
                back if by < 0 => Stepped::Back(back),
                forward => Stepped::Forward(forward),
            })
        );
        assert!(offs.last().unwrap().abs_diff(0) < 10_000, "{:?}", offs.last());
    }

    #[test]
    fn any_wall_clock_is_borne() {
        let mut follower = Follower::new(Pace::since(Micros(u64::MAX - 5)));
        let (mut now, mut last) = (Nanos(0), Micros(0));
        for wall in [0, u64::MAX, 1 << 62, 5].into_iter().flat_map(|wall| [wall; 15]) {
            now = now.saturating_add(Duration::from_secs(1));
            let (pace, _) = follower.look(now, Micros(wall));
            assert!(pace.time(now) >= last, "{wall}");
            last = pace.time(now);
        }
    }
}
