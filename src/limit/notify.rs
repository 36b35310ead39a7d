//! Parts of a limit whose use is told when it is reached.

use smallvec::SmallVec;

/// Parts of a limit, in percent: each from 1 to 100, in rising order, none of them twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notify(SmallVec<[u8; 8]>);

/// Why a text is no parts of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotifyError {
    /// Something of it is no whole number from 1 to 100.
    #[error("holds what is no percent")]
    Percent,
    /// A number stands in it twice.
    #[error("holds {0} twice")]
    Twice(u8),
    /// There are too many.
    #[error("holds more than {} numbers", Notify::MOST)]
    TooMany,
}

/// Parts of a limit that what it counts has come to, and where it stands then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// In hits, of which one may be begun.
    pub(crate) before: u64,
    /// Likewise.
    pub(crate) after: u64,
    pub(crate) limit: u64,
}

// === impl Notify ===

impl Notify {
    /// The most parts of one limit: each has a series.
    pub const MOST: usize = 10;

    /// The parts that a text names, with commas between them, in any order: `80,100`.
    ///
    /// # Errors
    ///
    /// It holds something else, a number twice, or more than [`Notify::MOST`].
    pub fn parse(text: &str) -> Result<Self, NotifyError> {
        let mut percents = SmallVec::new();
        for part in text.split(',') {
            if percents.len() == Self::MOST {
                return Err(NotifyError::TooMany);
            }
            let part = part.trim();
            let is_number = part.bytes().all(|byte| byte.is_ascii_digit());
            let percent = part.parse().ok().filter(|percent| is_number && (1..=100).contains(percent));
            percents.push(percent.ok_or(NotifyError::Percent)?);
        }
        percents.sort_unstable();
        match percents.array_windows().find(|[one, next]| one == next) {
            Some([twice, _]) => Err(NotifyError::Twice(*twice)),
            None => Ok(Notify(percents)),
        }
    }

    /// All parts, in rising order.
    pub fn percents(&self) -> impl Iterator<Item = u8> + '_ {
        self.0.iter().copied()
    }

    /// The parts that are reached by `step`, and were not before it.
    pub(crate) fn reached(&self, step: Step) -> impl Iterator<Item = u8> + '_ {
        let share = |used: u64| u128::from(used) * 100;
        self.percents().filter(move |percent| {
            let part = u128::from(step.limit) * u128::from(*percent);
            share(step.before) < part && part <= share(step.after)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_percents_between_commas() {
        let percents = |text: &str| Notify::parse(text).map(|notify| notify.percents().collect::<Vec<_>>());
        assert_eq!(percents("80,100"), Ok(vec![80, 100]));
        assert_eq!(percents(" 100 , 1,50"), Ok(vec![1, 50, 100]));
        assert_eq!(percents("1,2,3,4,5,6,7,8,9,10").map(|all| all.len()), Ok(10));
        assert_eq!(percents("1,2,3,4,5,6,7,8,9,10,11"), Err(NotifyError::TooMany));
        assert_eq!(percents("80,80"), Err(NotifyError::Twice(80)));
        for text in ["", "0", "101", "80%", "80,", "-1", "+80", "0.8", "80 100", "256"] {
            assert_eq!(percents(text), Err(NotifyError::Percent), "{text:?}");
        }
    }

    #[test]
    fn a_part_is_reached_by_what_passes_it_and_by_nothing_else() {
        let notify = Notify::parse("80,100").unwrap();
        let reached = |before, after, limit| notify.reached(Step { before, after, limit }).collect::<Vec<_>>();
        assert_eq!(reached(3, 4, 5), [80]);
        assert_eq!(reached(4, 5, 5), [100]);
        assert_eq!(reached(0, 9, 5), [80, 100]);
        // Of 7 hits 80 % are 5.6.
        assert_eq!((reached(4, 5, 7), reached(5, 6, 7)), (vec![], vec![80]));
        for (before, after) in [(4, 4), (5, 9), (0, 3), (9, 4)] {
            assert_eq!(reached(before, after, 5), <[u8; 0]>::default(), "{before} {after}");
        }
        assert_eq!(reached(0, 0, 0), <[u8; 0]>::default(), "nothing of nothing");
        let most = u64::MAX / 2;
        assert_eq!(reached(0, most, most), [80, 100]);
    }
}
