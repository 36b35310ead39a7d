//! When RBAC changed, and how long what the API server said holds then.
//!
//! The API server learns of a change as we do, by a watch, so what it says within two seconds of one may be older than the change.

use std::time::Duration;

use hashbrown::HashMap;

use crate::clock::Nanos;

/// When RBAC changed, by namespace. What changes in the whole cluster has the empty one.
#[derive(Clone, Debug, Default)]
pub struct Changes(HashMap<String, Burst>);

/// The changes that a question is concerned by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Concerns([Option<Burst>; 2]);

/// Changes in a row, none of them long after the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Burst {
    first: Nanos,
    last: Nanos,
    /// When the row before it ended.
    before: Nanos,
}

/// How long an answer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    /// Until then nothing is asked.
    pub fresh: Nanos,
    /// From then on it is asked anew, and until then the answer stands while that has not come to an end.
    pub stands: Nanos,
}

/// How long an answer is fresh.
const TTL: Duration = Duration::from_secs(5);
/// If no change is nearer than this.
const SETTLING: Duration = Duration::from_secs(2);
/// How often it is asked anew until then.
const AGAIN: Duration = Duration::from_secs(1);
/// How soon after an answer a change makes it be asked anew: so one question is asked twice a second at most, whatever changes.
const SOONEST: Duration = Duration::from_millis(500);
/// How long an answer stands that is asked anew for a change.
const STANDS: Duration = Duration::from_secs(1);
/// Changes with less between them are in a row.
const ROW: Duration = Duration::from_millis(500);
/// Namespaces that are kept apart.
const NAMESPACES: usize = 10_000;

// === impl Changes ===

impl Changes {
    /// Notes a change of RBAC in `namespace`, or, if that is empty, in the whole cluster.
    pub fn note(&mut self, namespace: &str, now: Nanos) {
        if self.0.len() >= NAMESPACES && !self.0.contains_key(namespace) {
            // It could have been anywhere, and at any time.
            self.0.clear();
            self.0.insert(String::new(), Burst { first: now, last: now, before: now });
            return;
        }
        let row = self.0.entry_ref(namespace).or_default();
        if now >= row.last.saturating_add(ROW) {
            (row.first, row.before) = (now, row.last);
        }
        row.last = now;
    }

    /// Those that a question about `namespace` is concerned by.
    #[must_use]
    pub fn concerning(&self, namespace: &str) -> Concerns {
        let of = |namespace: &str| self.0.get(namespace).copied();
        Concerns([of(""), of(namespace).filter(|_| !namespace.is_empty())])
    }
}

// === impl Concerns ===

impl Concerns {
    /// How long the answer holds that was asked for at `asked`; without an end to the next question, `stale` longer.
    pub(super) fn holds(&self, asked: Nanos, stale: Duration) -> Validity {
        let mut changes = self.0.iter().flatten();
        let overtaken = changes.clone().filter_map(|row| row.overtakes(asked)).min();
        let (fresh, stands) = match overtaken {
            Some(at) => (at.max(asked.saturating_add(SOONEST)), at.saturating_add(STANDS.min(stale))),
            None if changes.all(|row| asked >= row.last.saturating_add(SETTLING)) => {
                let fresh = asked.saturating_add(TTL);
                (fresh, fresh.saturating_add(stale))
            }
            None => {
                let fresh = asked.saturating_add(AGAIN);
                (fresh, fresh.saturating_add(STANDS.min(stale)))
            }
        };
        Validity { fresh, stands: stands.max(fresh) }
    }

    /// The last of them.
    pub(super) fn last(&self) -> Nanos {
        self.0.iter().flatten().map(|row| row.last).max().unwrap_or_default()
    }
}

// === impl Burst ===

impl Burst {
    /// When the first change came after `asked`, at the earliest that it can have been.
    fn overtakes(&self, asked: Nanos) -> Option<Nanos> {
        let overtaken = self.last > asked;
        // Of the rows before, only the end of one is known.
        overtaken.then(|| if asked < self.before { asked } else { asked.max(self.first) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALE: Duration = Duration::from_secs(300);

    /// Milliseconds.
    fn at(ms: u64) -> Nanos {
        Nanos(ms * 1_000_000)
    }

    /// After changes of the namespaces `(namespace, milliseconds)`.
    fn changed(changes: &[(&str, u64)]) -> Changes {
        let mut noted = Changes::default();
        changes.iter().for_each(|(namespace, ms)| noted.note(namespace, at(*ms)));
        noted
    }

    /// When an answer of then stops to be fresh, and to stand.
    fn holds(changes: &[(&str, u64)], asked: u64) -> (u64, u64) {
        let Validity { fresh, stands } = changed(changes).concerning("llm").holds(at(asked), STALE);
        (fresh.0 / 1_000_000, stands.0 / 1_000_000)
    }

    #[test]
    fn an_answer_holds_until_a_change_that_concerns_it() {
        let long = |asked: u64| (asked + 5_000, asked + 305_000);
        for (changes, asked, expected) in [
            // Nothing has changed, since the start or for two seconds.
            (&[][..], 0, long(0)),
            (&[("llm", 10_000)], 12_000, long(12_000)),
            (&[("", 10_000)], 12_000, long(12_000)),
            // Elsewhere.
            (&[("other", 10_000)], 9_000, long(9_000)),
            (&[("other", 10_000)], 10_100, long(10_100)),
            // It is asked about at once, and stands meanwhile, for a second.
            (&[("llm", 10_000)], 7_000, (10_000, 11_000)),
            (&[("", 10_000)], 7_000, (10_000, 11_000)),
            (&[("", 10_000), ("llm", 10_200)], 7_000, (10_000, 11_000)),
            // Then once a second.
            (&[("llm", 10_000)], 10_000, (11_000, 12_000)),
            (&[("", 10_000), ("llm", 3_000)], 11_999, (12_999, 13_999)),
            // Of changes in a row the first one overtakes it.
            (&[("llm", 10_000), ("llm", 10_400), ("llm", 10_800)], 9_000, (10_000, 11_000)),
            // Within the row it is overtaken by something that came after.
            (&[("llm", 10_000), ("llm", 10_400), ("llm", 10_800)], 10_100, (10_600, 11_100)),
            // One a second: each for itself.
            (&[("llm", 10_000), ("llm", 11_000), ("llm", 12_000)], 11_100, (12_000, 13_000)),
            // Something came in between, and it is not known when.
            (&[("llm", 10_000), ("llm", 11_000), ("llm", 12_000)], 9_000, (9_500, 10_000)),
            (&[("llm", 10_000), ("llm", 11_000), ("llm", 12_000)], 10_100, (10_600, 11_100)),
        ] {
            assert_eq!(holds(changes, asked), expected, "{changes:?} asked at {asked}");
        }
    }

    #[test]
    fn a_question_about_the_whole_cluster_is_not_concerned_by_a_namespace() {
        let changes = changed(&[("llm", 10_000)]);
        assert_eq!(changes.concerning(""), Concerns::default());
        assert_eq!(changed(&[("", 10_000)]).concerning("").last(), at(10_000));
    }

    #[test]
    fn without_staleness_nothing_stands_beyond_its_time() {
        let concerns = changed(&[("llm", 10_000)]).concerning("llm");
        for asked in [7_000, 10_500, 13_000] {
            let Validity { fresh, stands } = concerns.holds(at(asked), Duration::ZERO);
            assert_eq!(fresh, stands, "{asked}");
        }
    }

    /// Whatever changes, and however often: never more than two questions a second, and never an answer for longer than a second after
    /// a change, nor for longer than half a second without a question.
    #[test]
    fn changes_all_the_time_cost_two_questions_a_second() {
        for every in [20, 100, 333, 499, 500, 501, 999, 1_000, 1_001, 1_700, 2_500] {
            let (mut changes, mut asked, mut questions, mut overtaken) = (Changes::default(), 0, 0, None);
            for now in 1..20_000 {
                if now % every == 0 {
                    changes.note("llm", at(now));
                    overtaken = overtaken.or(Some(now));
                }
                let Validity { fresh, stands } = changes.concerning("llm").holds(at(asked), STALE);
                if fresh <= at(now) {
                    assert!(stands > at(now), "every {every} ms: nothing stands at {now}");
                    (asked, overtaken, questions) = (now, None, questions + 1);
                }
                assert!(overtaken.is_none_or(|at| now - at < 500), "every {every} ms: not asked by {now}");
            }
            assert!(questions <= 40, "every {every} ms: {questions} questions");
            if every >= 500 {
                assert!(questions >= 20_000 / every - 1, "every {every} ms: {questions} questions");
            }
        }
    }

    #[test]
    fn where_nobody_answers_an_answer_stands_for_a_second_after_the_first_change() {
        for every in [20, 100, 499, 500, 501, 1_000, 1_001, 1_700] {
            for asked in [3_000, 9_000, 9_999, 10_000, 10_001] {
                let mut changes = Changes::default();
                for now in (10_000..14_000).step_by(every) {
                    changes.note("llm", at(now));
                    let Validity { stands, .. } = changes.concerning("llm").holds(at(asked), STALE);
                    let first = (10_000..=now).step_by(every).find(|change| *change > asked);
                    let latest = first.map_or(asked + 2_000, |first| first + 1_000);
                    assert!(stands <= at(latest), "every {every} ms, asked at {asked}: {stands:?} at {now}");
                }
            }
        }
    }

    #[test]
    fn of_too_many_namespaces_each_could_have_changed() {
        let mut changes = Changes::default();
        for n in 0..NAMESPACES {
            changes.note(&format!("ns-{n}"), at(10_000));
        }
        assert_eq!(changes.concerning("llm"), Concerns::default());
        changes.note("one-more", at(20_000));
        let Validity { fresh, stands } = changes.concerning("ns-7").holds(at(9_000), STALE);
        assert_eq!((fresh, stands), (at(9_500), at(10_000)));
        let Validity { fresh, .. } = changes.concerning("ns-7").holds(at(22_000), STALE);
        assert_eq!(fresh, at(27_000));
    }
}
