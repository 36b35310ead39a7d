use serde_json::{Value, json};

use super::*;
use crate::test_util::scripted::{Answer, Scripted};

const QUERY: Query<'static> = Query {
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
        let question = self.reviews.question(&QUERY, None, &self.changes).unwrap();
        let (verdict, source) = match self.reviews.recall(&question, at(ms)) {
            Some(known) => known,
            None => self.reviews.ask(&question, at(ms), Instant::now() + Duration::from_secs(10)).await,
        };
        let told = match verdict {
            Verdict::Granted(_) => Some(true),
            Verdict::NotGranted(_) => Some(false),
            Verdict::Undecided(_) => None,
        };
        (told, source)
    }
}

use AccessSource::{Asked, Remembered, Stale};

#[tokio::test]
async fn a_change_that_concerns_the_question_is_asked_about_at_once_and_once_a_second_for_two() {
    let answers = [true, false, true, false, true].map(says);
    let mut world = World::new(answers.into()).await;
    assert_eq!(world.asks(10_000).await, (Some(true), Asked));
    world.changes.note("other", at(11_000));
    assert_eq!(world.asks(11_000).await, (Some(true), Remembered));
    world.changes.note("llm", at(11_500));
    for (ms, expected) in [
        (11_550, (false, Asked)),
        (11_560, (false, Remembered)),
        (12_549, (false, Remembered)),
        (12_550, (true, Asked)),
        (13_549, (true, Remembered)),
        (13_550, (false, Asked)),
        // It has settled.
        (18_549, (false, Remembered)),
        (18_550, (true, Asked)),
    ] {
        assert_eq!(world.asks(ms).await, (Some(expected.0), expected.1), "at {ms}");
    }
    assert_eq!(world.server.asked(5).await.len(), 5);
}

#[tokio::test]
async fn while_that_is_asked_the_last_answer_stands_for_a_second_whichever_it_is() {
    for allowed in [true, false] {
        let mut world = World::new(vec![says(allowed), Answer::Silence]).await;
        assert_eq!(world.asks(10_000).await, (Some(allowed), Asked));
        world.changes.note("", at(11_000));
        for ms in [11_000, 11_500, 11_999] {
            assert_eq!(world.asks(ms).await, (Some(allowed), Stale), "{allowed} at {ms}");
        }
        assert_eq!(world.asks(12_000).await, (None, Asked), "{allowed}");
    }
}

/// A question that was asked before a change and answered after another one.
#[tokio::test]
async fn an_older_answer_does_not_replace_a_newer_one() {
    let world = World::new(vec![says(false)]).await;
    assert_eq!(world.asks(10_000).await, (Some(false), Asked));
    let key = world.reviews.question(&QUERY, None, &world.changes).unwrap().key;
    let granted = Ok(Grantor { name: "late".into() });
    world.reviews.memory.learn(key, &Arc::new(super::Answer { granted, asked: at(9_000) }));
    assert_eq!(world.asks(10_001).await, (Some(false), Remembered));
}
