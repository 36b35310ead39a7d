use serde_json::{Value, json};

use super::*;
use crate::test_util::scripted::{Answer, Scripted};

const QUERY: AccessQuery<'static> = AccessQuery {
    user: "alice",
    groups: &["premium"],
    verb: "post",
    group: "serving.kserve.io",
    resource: "llminferenceservices",
    subresource: "",
    namespace: "llm",
    name: "qwen3",
};

/// Milliseconds.
fn at(ms: u64) -> Nanos {
    Nanos(ms * 1_000_000)
}

fn review(status: Value) -> Answer {
    Answer::Json(
        201,
        json!({"kind": "SubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "spec": {}, "status": status}),
    )
}

fn says(allowed: bool) -> Answer {
    review(json!({"allowed": allowed}))
}

/// Asks of a server that answers so, and nothing after that.
struct World {
    reviews: AccessReviews,
    server: Scripted,
    changes: Changes,
}

impl World {
    async fn new(answers: Vec<Answer>) -> Self {
        let server = Scripted::start(answers).await;
        let reviews = AccessReviews::new(server.api_server(), AccessMode::Review, Duration::from_secs(300));
        World { reviews, server, changes: Changes::default() }
    }

    /// What a request is told; `None` if it cannot be told. Then where that is from.
    async fn asks(&self, ms: u64) -> (Option<bool>, AccessSource) {
        let review = self.reviews.review(&QUERY, None, &self.changes).unwrap();
        let (verdict, source) = match self.reviews.recall(&review, at(ms)) {
            Some(known) => known,
            None => self.reviews.ask(&review, at(ms), Instant::now() + Duration::from_secs(10)).await,
        };
        let told = match verdict {
            AccessDecision::Granted(_) => Some(true),
            AccessDecision::NotGranted(_) => Some(false),
            AccessDecision::Undecided(_) => None,
        };
        (told, source)
    }
}

const FETCHED: AccessSource = AccessSource::Review(AnswerSource::Fetched);
const HIT: AccessSource = AccessSource::Review(AnswerSource::Hit);
const STALE: AccessSource = AccessSource::Review(AnswerSource::Stale);

#[tokio::test]
async fn a_change_that_concerns_the_question_is_asked_about_at_once_and_once_a_second_for_two() {
    let answers = [true, false, true, false, true].map(says);
    let mut world = World::new(answers.into()).await;
    assert_eq!(world.asks(10_000).await, (Some(true), FETCHED));
    world.changes.note("other", at(11_000));
    assert_eq!(world.asks(11_000).await, (Some(true), HIT));
    world.changes.note("llm", at(11_500));
    for (ms, expected) in [
        (11_550, (false, FETCHED)),
        (11_560, (false, HIT)),
        (12_549, (false, HIT)),
        (12_550, (true, FETCHED)),
        (13_549, (true, HIT)),
        (13_550, (false, FETCHED)),
        // It has settled.
        (18_549, (false, HIT)),
        (18_550, (true, FETCHED)),
    ] {
        assert_eq!(world.asks(ms).await, (Some(expected.0), expected.1), "at {ms}");
    }
    assert_eq!(world.server.asked(5).await.len(), 5);
}

#[tokio::test]
async fn while_that_is_asked_the_last_answer_stands_for_a_second_whichever_it_is() {
    for allowed in [true, false] {
        let mut world = World::new(vec![says(allowed), Answer::Silence]).await;
        assert_eq!(world.asks(10_000).await, (Some(allowed), FETCHED));
        world.changes.note("", at(11_000));
        for ms in [11_000, 11_500, 11_999] {
            assert_eq!(world.asks(ms).await, (Some(allowed), STALE), "{allowed} at {ms}");
        }
        assert_eq!(world.asks(12_000).await, (None, FETCHED), "{allowed}");
    }
}

/// A question that was asked before a change and answered after another one.
#[tokio::test]
async fn an_older_answer_does_not_replace_a_newer_one() {
    let world = World::new(vec![says(false)]).await;
    assert_eq!(world.asks(10_000).await, (Some(false), FETCHED));
    let hash = world.reviews.review(&QUERY, None, &world.changes).unwrap().hash;
    let granted = Ok(Grantor { name: "late".into() });
    world.reviews.cache.insert(hash, Arc::new(granted), at(9_000));
    assert_eq!(world.asks(10_001).await, (Some(false), HIT));
}
