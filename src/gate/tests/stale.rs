//! What is known may be out of date, since nothing has been heard of the cluster.

use std::time::Duration;

use super::*;
use crate::policy::Outdated;

const SECOND: u64 = 1_000_000_000;

/// Nothing has been heard since the tenth second.
fn outdated(stale_for: Duration) -> Gate {
    let mut policy = compile_files(&demo(), &options());
    policy.outdated = Some(Outdated { since: Nanos(10 * SECOND), why: "https://server: no answer".into() });
    gate(policy, DecisionSettings { stale_for, ..settings() })
}

#[tokio::test]
async fn what_is_known_is_good_until_the_time_is_over_and_marked() {
    let gate = outdated(Duration::from_secs(5));
    let known = token("free", &user(&gate, "free", 0));
    for (model, expected) in [("granite", None), ("draft", Some(Code::AccessDenied))] {
        let call = Call::chat(model).bearer(&known);
        for at in [10 * SECOND, 15 * SECOND - 1] {
            let decision = call.on(&gate, Nanos(at)).await;
            assert!(decision.evidence.stale(), "{model} at {at}");
            assert_eq!(decision.outcome.err().map(|denial| denial.code), expected, "{model} at {at}");
        }
        for at in [15 * SECOND, 500 * SECOND] {
            let denial = call.on(&gate, Nanos(at)).await.outcome.unwrap_err();
            assert_eq!(denial.code, Code::UnavailableStale, "{model} at {at}");
            assert_eq!(denial.detail.as_deref(), Some("https://server: no answer, for longer than --stale-for 5 s"));
        }
    }
}

#[tokio::test]
async fn no_time_is_none() {
    let gate = outdated(Duration::ZERO);
    let call = Call::chat("granite").bearer(&token("free", &user(&gate, "free", 0)));
    let code = call.on(&gate, Nanos(10 * SECOND)).await.outcome.err().map(|denial| denial.code);
    assert_eq!(code, Some(Code::UnavailableStale));
}

#[tokio::test]
async fn what_is_followed_is_not_marked() {
    let gate = demo_gate();
    let call = Call::chat("granite").bearer(&token("free", &user(&gate, "free", 0)));
    let decision = call.on(&gate, Nanos(500 * SECOND)).await;
    assert!(decision.outcome.is_ok() && !decision.evidence.stale());
}
