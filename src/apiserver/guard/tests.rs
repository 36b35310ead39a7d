use super::*;

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

#[test]
fn a_breaker_opens_after_failures_in_a_row_and_tries_with_one_call() {
    let (mut breaker, start) = (Breaker::default(), Instant::now());
    for _ in 0..FAILURES - 1 {
        assert!(!breaker.failed(0, start));
    }
    assert!(!breaker.succeeded());
    for _ in 0..FAILURES - 1 {
        assert!(!breaker.failed(0, start));
    }
    assert!(breaker.failed(0, start));
    // Calls that were under way by then do not make it longer.
    assert!(!breaker.failed(0, start));
    assert_eq!(breaker.admit(start), Err(PAUSE));
    let later = start + PAUSE;
    assert_eq!(breaker.admit(later), Ok(1));
    // Others wait for what that one shows.
    assert_eq!(breaker.admit(later), Err(CALL));
    assert!(!breaker.failed(1, later));
    assert_eq!(breaker.left(later), Some(PAUSE * 2));
    assert_eq!(breaker.admit(later + PAUSE * 2), Ok(2));
    assert!(breaker.succeeded());
    assert_eq!(breaker.left(later), None);
}

#[test]
fn a_breaker_that_opens_again_and_again_stays_open_for_seconds_at_most() {
    let (mut breaker, mut now) = (Breaker { failures: FAILURES, ..Breaker::default() }, Instant::now());
    for times in 0..20 {
        breaker.failed(times, now);
        let left = breaker.left(now).unwrap();
        assert!(left <= LONGEST_PAUSE, "{left:?}");
        now += left;
        assert_eq!(breaker.admit(now), Ok(times + 1));
    }
}

fn guard(qps: u32, burst: u32) -> Guard {
    Guard::new(budget(qps, burst), ApiMetrics::default())
}

async fn good() -> kube::Result<()> {
    Ok(())
}

#[tokio::test]
async fn a_caller_who_asks_too_much_takes_nothing_from_others() {
    let guard = guard(1_000, 1_000);
    let mut refused = 0;
    for _ in 0..EACH.burst.get() * 2 {
        refused += u32::from(matches!(guard.call(Call::TokenReview, 1, good()).await, Err(CallFailure::CallerBudget)));
    }
    assert!(refused > EACH.burst.get() / 2, "{refused}");
    guard.call(Call::TokenReview, 2, good()).await.unwrap();
}

#[tokio::test]
async fn all_callers_together_have_a_budget() {
    let guard = guard(1, 10);
    let mut made = 0;
    for caller in 0..100 {
        made += u32::from(guard.call(Call::SubjectAccessReview, caller, good()).await.is_ok());
    }
    assert!((10..20).contains(&made), "{made}");
    // Keys are not a caller's to ask for.
    guard.call(Call::Keys, 0, good()).await.unwrap();
}

#[tokio::test]
async fn a_call_that_is_not_answered_ends() {
    let guard = guard(1_000, 1_000);
    let started = Instant::now();
    let silent = std::future::pending::<kube::Result<()>>();
    assert!(matches!(guard.call(Call::TokenReview, 1, silent).await, Err(CallFailure::Late)));
    assert!(started.elapsed() >= CALL);
}

#[tokio::test]
async fn a_refusal_names_the_rule_and_opens_nothing() {
    let guard = guard(1_000, 1_000);
    for _ in 0..FAILURES * 2 {
        let status = kube::core::Status::failure("no way", "Forbidden").with_code(403).boxed();
        let failure =
            guard.call::<()>(Call::TokenReview, 1, async { Err(kube::Error::Api(status)) }).await.unwrap_err();
        let told = failure.to_string();
        assert!(told.starts_with("no way; add to the ClusterRole"), "{told}");
        assert!(told.contains(r#"resources: ["tokenreviews"], verbs: ["create"]"#), "{told}");
    }
    guard.call(Call::TokenReview, 2, good()).await.unwrap();
}

#[tokio::test]
async fn one_answer_is_counted_and_a_failing_server_left_alone() {
    let guard = guard(1_000, 1_000);
    let failing = || async { Err(kube::Error::Service("gone".into())) };
    for _ in 0..FAILURES {
        let failure = guard.call::<()>(Call::SubjectAccessReview, 1, failing()).await.unwrap_err();
        assert!(matches!(failure, CallFailure::Failed(_)), "{failure}");
    }
    let failure = guard.call(Call::SubjectAccessReview, 1, good()).await.unwrap_err();
    assert!(matches!(failure, CallFailure::Open(_)), "{failure}");
    assert!(failure.retry_after().is_some_and(|wait| wait <= seconds(0.5)));
    assert_eq!(guard.metrics.open.get(), 1);
    let labels = CallLabels { call: "subject_access_review", result: "failed" };
    assert_eq!(guard.metrics.calls.get(&labels).get(), u64::from(FAILURES));
}
