use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio::sync::Semaphore;

use super::*;
use crate::denial::Code;

/// Long enough for a loaded machine; nothing waits this long when all is well.
const LONG: Duration = Duration::from_secs(30);

/// One who takes answers that are this old.
#[derive(Clone, Copy)]
struct Key {
    hash: u128,
    fresh: Duration,
    stale: Duration,
}

impl CacheKey for Key {
    type Value = u64;

    fn hash(&self) -> u128 {
        self.hash
    }

    fn fresh_until(&self, _: &u64, fetched: Nanos) -> Nanos {
        fetched.saturating_add(self.fresh)
    }

    fn stale_until(&self, _: &u64, fetched: Nanos) -> Nanos {
        fetched.saturating_add(self.stale)
    }
}

/// A cache, and who is asked: each time it answers the number of times that it was asked, as soon as it may.
struct World {
    cache: Cache<u64>,
    asked: Arc<AtomicUsize>,
    may: Arc<Semaphore>,
    fails: Option<Failure>,
}

const KEY: Key = Key { hash: 7, fresh: Duration::from_secs(10), stale: Duration::from_secs(20) };
const IF_ERROR: Staleness = Staleness::IfError { patience: LONG };

impl World {
    fn new(staleness: Staleness) -> Self {
        World {
            cache: cache(staleness),
            asked: Arc::default(),
            may: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            fails: None,
        }
    }

    /// It answers nobody until [`Self::answer`].
    fn hold(&self) {
        self.may.forget_permits(Semaphore::MAX_PERMITS);
    }

    fn answer(&self) {
        self.may.add_permits(1_000);
    }

    fn source(&self) -> impl FnOnce() -> std::pin::Pin<Box<dyn Future<Output = Result<u64, Failure>> + Send>> + use<> {
        let (asked, may, fails) = (Arc::clone(&self.asked), Arc::clone(&self.may), self.fails.clone());
        move || {
            let number = asked.fetch_add(1, Ordering::Relaxed) as u64 + 1;
            async move {
                may.acquire().await.unwrap().forget();
                fails.map_or(Ok(number), Err)
            }
            .boxed()
        }
    }

    async fn fetch(&self, key: Key, seconds: u64) -> Result<Told, Unanswered> {
        self.cache.fetch(&key, at(seconds), Instant::now() + LONG, self.source()).await.map(told)
    }

    fn get(&self, key: Key, seconds: u64) -> Option<Told> {
        self.cache.get(&key, at(seconds)).map(told)
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

type Told = (Result<u64, Code>, AnswerSource);

fn cache(staleness: Staleness) -> Cache<u64> {
    Cache::new(Config { capacity: Capacity::entries(100), failures: 100, fetches: 100, staleness, runtime: None })
}

fn told(answer: Answer<u64>) -> Told {
    (answer.value.map_err(|denial| denial.code), answer.source)
}

fn at(seconds: u64) -> Nanos {
    Nanos::from(Duration::from_secs(1_000 + seconds))
}

fn key(hash: u128) -> Key {
    Key { hash, ..KEY }
}

fn failure(code: Code, seconds: u64) -> Failure {
    Failure { denial: Denial::new(code, "no"), keep: Some(Duration::from_secs(seconds)) }
}

fn undecided() -> Failure {
    failure(Code::UnavailableApiServer, 1)
}

#[tokio::test]
async fn an_answer_is_a_hit_for_as_long_as_it_is_good_for_who_asks() {
    let world = World::new(IF_ERROR);
    assert_eq!(world.fetch(KEY, 0).await, Ok((Ok(1), AnswerSource::Fetched)));
    assert_eq!(world.get(KEY, 9), Some((Ok(1), AnswerSource::Hit)));
    assert_eq!(world.fetch(KEY, 9).await, Ok((Ok(1), AnswerSource::Hit)), "nothing is asked");
    assert_eq!(world.get(KEY, 10), None);
    let impatient = Key { fresh: Duration::from_secs(5), ..KEY };
    assert_eq!(world.get(impatient, 5), None);
    assert_eq!(world.fetch(impatient, 5).await, Ok((Ok(2), AnswerSource::Fetched)));
    assert_eq!(world.get(KEY, 14), Some((Ok(2), AnswerSource::Hit)), "what one has asked is there for all");
    assert_eq!(world.get(key(8), 5), None);
}

#[tokio::test]
async fn one_fetch_serves_all_who_wait() {
    let world = World::new(IF_ERROR);
    world.hold();
    let release = async {
        tokio::task::yield_now().await;
        world.answer();
    };
    let (answers, ()) = tokio::join!(join_all((0..50).map(|_| world.fetch(KEY, 0))), release);
    assert_eq!(answers, vec![Ok((Ok(1), AnswerSource::Fetched)); 50]);
    assert_eq!(world.asked(), 1);
}

#[tokio::test]
async fn who_leaves_half_way_neither_ends_a_fetch_nor_leaves_it_behind() {
    let world = World::new(IF_ERROR);
    world.hold();
    assert_eq!(world.fetch(KEY, 0).now_or_never(), None);
    let short = world.cache.fetch(&KEY, at(0), Instant::now(), world.source()).await.map(told);
    assert_eq!(short, Err(Unanswered::Late));
    world.answer();
    world.cache.settled(&KEY, Instant::now() + LONG).await;
    assert_eq!(world.get(KEY, 0), Some((Ok(1), AnswerSource::Hit)));
    assert!(world.cache.fetches.under_way(KEY.hash).is_none());
    assert_eq!(world.asked(), 1);
}

#[tokio::test]
async fn a_refusal_takes_the_place_of_an_answer_and_is_one_for_its_own_time() {
    let mut world = World::new(IF_ERROR);
    let _ = world.fetch(KEY, 0).await;
    world.fails = Some(failure(Code::TokenRejected, 3));
    assert_eq!(world.fetch(KEY, 10).await, Ok((Err(Code::TokenRejected), AnswerSource::Fetched)), "nothing stands");
    assert_eq!(world.get(KEY, 12), Some((Err(Code::TokenRejected), AnswerSource::Hit)));
    assert_eq!(world.get(KEY, 13), None);
    assert_eq!(world.cache.len(), 0);
    world.fails = None;
    assert_eq!(world.fetch(KEY, 13).await, Ok((Ok(3), AnswerSource::Fetched)));
}

/// Whoever has looked before a fetch failed, and comes to make one of their own after it has.
#[tokio::test]
async fn who_comes_just_after_a_failure_makes_no_call_of_their_own() {
    for denial in [undecided(), failure(Code::TokenRejected, 1)] {
        let mut world = World::new(IF_ERROR);
        world.fails = Some(denial.clone());
        let _ = world.fetch(KEY, 0).await;
        let Ok(Joined::Known(late)) = world.cache.join(&KEY, at(0), world.source()) else { panic!("it is fetched") };
        assert_eq!((told(late), world.asked()), ((Err(denial.denial.code), AnswerSource::Hit), 1));
        // The pause is over.
        assert!(matches!(world.cache.join(&KEY, at(1), world.source()), Ok(Joined::Fetch(_))));
        assert_eq!(world.asked(), 2);
    }
}

#[tokio::test]
async fn a_failure_that_is_not_to_be_kept_is_told_to_who_waits() {
    let mut world = World::new(IF_ERROR);
    world.fails = Some(Failure { keep: None, ..failure(Code::TokenNotYet, 0) });
    assert_eq!(world.fetch(KEY, 0).await, Ok((Err(Code::TokenNotYet), AnswerSource::Fetched)));
    assert_eq!(world.get(KEY, 0), None);
    let answer = world.cache.settle(&KEY, world.fails.clone().map_or(Ok(5), Err), at(0));
    assert_eq!(told(answer), (Err(Code::TokenNotYet), AnswerSource::Fetched));
    assert_eq!((world.get(KEY, 0), world.cache.failures()), (None, 0));
}

#[tokio::test]
async fn an_answer_past_its_time_stands_while_its_source_is_away() {
    let mut world = World::new(IF_ERROR);
    let _ = world.fetch(KEY, 0).await;
    world.fails = Some(undecided());
    assert_eq!(world.get(KEY, 10), None, "it is asked for");
    assert_eq!(world.fetch(KEY, 10).await, Ok((Ok(1), AnswerSource::Stale)));
    assert_eq!(world.get(KEY, 10), Some((Ok(1), AnswerSource::Stale)), "a failure is not asked about again at once");
    assert_eq!(world.get(KEY, 11), None);
    assert_eq!(world.fetch(KEY, 19).await, Ok((Ok(1), AnswerSource::Stale)));
    assert_eq!(world.fetch(KEY, 20).await, Ok((Err(Code::UnavailableApiServer), AnswerSource::Fetched)));
    assert_eq!(world.get(KEY, 20), Some((Err(Code::UnavailableApiServer), AnswerSource::Hit)));
}

#[tokio::test]
async fn who_has_something_to_fall_back_on_waits_less() {
    let patience = Duration::from_millis(20);
    let world = World::new(Staleness::IfError { patience });
    let _ = world.fetch(KEY, 0).await;
    world.hold();
    let started = Instant::now();
    assert_eq!(world.fetch(KEY, 10).await, Ok((Ok(1), AnswerSource::Stale)));
    assert!((patience..LONG).contains(&started.elapsed()));
    assert_eq!(world.asked(), 2);
    world.answer();
    world.cache.settled(&KEY, Instant::now() + LONG).await;
    assert_eq!(world.get(KEY, 10), Some((Ok(2), AnswerSource::Hit)));
}

#[tokio::test]
async fn an_answer_past_its_time_is_used_at_once_while_a_new_one_is_fetched() {
    let mut world = World::new(Staleness::WhileRevalidate);
    let _ = world.fetch(KEY, 0).await;
    world.hold();
    for _ in 0..3 {
        assert_eq!(world.get(KEY, 10), Some((Ok(1), AnswerSource::Stale)));
        world.cache.refresh(&KEY, at(10), world.source());
    }
    assert_eq!(world.asked(), 2);
    world.answer();
    world.cache.settled(&KEY, Instant::now() + LONG).await;
    assert_eq!(world.get(KEY, 10), Some((Ok(2), AnswerSource::Hit)));
    world.cache.refresh(&KEY, at(10), world.source());
    assert_eq!(world.asked(), 2, "there is nothing to renew");
    world.fails = Some(undecided());
    world.cache.refresh(&KEY, at(20), world.source());
    world.cache.settled(&KEY, Instant::now() + LONG).await;
    world.cache.refresh(&KEY, at(20), world.source());
    assert_eq!(world.asked(), 3, "it failed a moment ago");
    assert_eq!(world.get(KEY, 20), Some((Ok(2), AnswerSource::Stale)));
}

/// A question that was asked early and answered late.
#[tokio::test]
async fn an_older_answer_does_not_replace_a_newer_one() {
    let world = World::new(IF_ERROR);
    world.cache.insert(KEY.hash, 2, at(5));
    world.cache.insert(KEY.hash, 1, at(4));
    assert_eq!(world.get(KEY, 6), Some((Ok(2), AnswerSource::Hit)));
}

#[tokio::test]
async fn fetches_are_bounded() {
    let world = World::new(IF_ERROR);
    world.hold();
    for hash in 0..100 {
        assert_eq!(world.fetch(key(hash), 0).now_or_never(), None);
    }
    assert_eq!(world.fetch(key(100), 0).await, Err(Unanswered::Busy(100)));
    assert_eq!(world.fetch(key(99), 0).now_or_never(), None, "one more who waits for a fetch costs none");
    world.answer();
    world.cache.settled(&key(99), Instant::now() + LONG).await;
    assert_eq!(world.fetch(key(100), 0).await.map(|(_, source)| source), Ok(AnswerSource::Fetched));
}

#[tokio::test]
async fn a_flood_of_failures_moves_no_answer_out_and_is_bounded() {
    let world = World::new(IF_ERROR);
    world.cache.insert(KEY.hash, 1, at(0));
    for hash in 100..10_000 {
        world.cache.insert_failure(hash, failure(Code::TokenRejected, 3), at(0));
    }
    assert_eq!(world.get(KEY, 0), Some((Ok(1), AnswerSource::Hit)));
    assert!(world.cache.failures() <= 100);
    world.cache.clear();
    assert_eq!((world.cache.len(), world.cache.failures()), (0, 0));
}

#[test]
fn answers_are_bounded_by_number_or_by_weight() {
    let of = |capacity| Cache::new(Config { capacity, failures: 1, fetches: 1, staleness: IF_ERROR, runtime: None });
    let one = of(Capacity::entries(1));
    let heavy = of(Capacity::weight(10, 1_000, |weight: &u64| *weight));
    for hash in 0..1_000 {
        one.insert(hash, 1, at(0));
        heavy.insert(hash, 100, at(0));
        assert_eq!(one.get(&key(hash), at(0)).map(told), Some((Ok(1), AnswerSource::Hit)), "the last one is there");
    }
    assert_eq!(one.len(), 1);
    assert!((5..=10).contains(&heavy.len()) && heavy.weight() <= 1_000, "{} of {}", heavy.weight(), heavy.len());
}

/// Its fetches are given up, those that it is given meanwhile too, and others make them again.
#[test]
fn a_fetch_whose_runtime_has_ended_is_made_again() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (first, second) = (runtime(), runtime());
    let mut world = World::new(IF_ERROR);
    world.cache.runtime = Some(first.handle().clone());
    world.hold();
    assert_eq!(second.block_on(async { world.fetch(KEY, 0).now_or_never() }), None);
    drop(first);
    assert_eq!(second.block_on(world.fetch(KEY, 0)), Err(Unanswered::GivenUp));
    assert_eq!(world.asked(), 2);
    world.cache.runtime = None;
    world.answer();
    assert_eq!(second.block_on(world.fetch(KEY, 0)), Ok((Ok(3), AnswerSource::Fetched)));
    // Nobody is there to run it.
    assert_eq!(world.fetch(key(8), 0).now_or_never(), Some(Err(Unanswered::GivenUp)));
}

#[tokio::test]
async fn a_fetch_that_panics_is_given_up() {
    let world = World::new(IF_ERROR);
    let fetch = || async { if true { panic!("a fault of the test's own") } else { Ok(1) } };
    let answer = world.cache.fetch(&KEY, at(0), Instant::now() + LONG, fetch).await;
    assert_eq!(answer.map(told), Err(Unanswered::GivenUp));
    assert_eq!(world.fetch(KEY, 0).await, Ok((Ok(1), AnswerSource::Fetched)));
}
