use serde_json::{Value, json};
use smallvec::SmallVec;

use super::*;
use crate::expression::{Object, Scope};
use crate::hash::KeyedHasher;
use crate::limit::{AccountKey, Limits, Memory};
use crate::request::Unset;

/// The limits of a RateLimitPolicy: name, predicates and counters of each.
fn set(limits: &[(&str, &[&str], &[&str])]) -> Arc<LimitSet> {
    let list = |key: &str, texts: &[&str]| {
        let items: Vec<String> = texts.iter().map(|text| format!("{{{key}: '{text}'}}")).collect();
        items.join(", ")
    };
    let limit = |(name, when, counters): &(&str, &[&str], &[&str])| {
        let (when, counters) = (list("predicate", when), list("expression", counters));
        format!("{name}: {{rates: [{{limit: 1, window: 1m}}], when: [{when}], counters: [{counters}]}}")
    };
    let limits: Vec<String> = limits.iter().map(limit).collect();
    let rest = format!("limits: {{{}}}", limits.join(", "));
    let policy = World::new().route("ns/r", "").policy("RateLimitPolicy", "ns/p", "HTTPRoute r", &rest).sound();
    match &policy.route(None, &request("h", "/")).unwrap().limits[..] {
        [Attached::Active(limits)] => Arc::clone(limits),
        other => panic!("{other:?}"),
    }
}

/// The limits that match a caller with this identity, and the accounts they count in.
fn matching(set: &LimitSet, keys: &KeyedHasher, identity: &Value) -> Result<Vec<(String, AccountKey)>, Denial> {
    let request = request("models.example.com", "/llm/qwen3");
    let identity = Some(Object { base: Some(identity), extra: &[] });
    let scope = Scope { request: request.attributes(Unset::Empty), identity, ..Scope::default() };
    let mut matched: SmallVec<[Matched<'_>; 2]> = SmallVec::new();
    set.matching(&scope, keys, &mut matched)?;
    Ok(matched.iter().map(|matched| (matched.limit.name.to_string(), matched.account)).collect())
}

/// The names alone, without the policy's; or the code of the refusal.
fn names(set: &LimitSet, identity: &Value) -> Result<Vec<String>, Code> {
    let found = matching(set, &KeyedHasher::random(), identity).map_err(|denial| denial.code)?;
    Ok(found.iter().map(|(name, _)| name.trim_start_matches("ns/p/").to_owned()).collect())
}

const FREE: &str = "auth.identity.tier == \"free\"";
const PREMIUM: &str = "auth.identity.tier == \"premium\"";

#[test]
fn limits_match_by_their_predicates_in_the_order_of_the_policy() {
    let set = set(&[
        ("everyone", &[], &[]),
        ("z-premium", &[PREMIUM], &[]),
        ("free", &[FREE], &[]),
        ("free-red", &[FREE, "auth.identity.team == \"red\""], &[]),
        ("red", &["auth.identity.team == \"red\""], &[]),
        ("a-not-free", &["auth.identity.tier != \"free\""], &[]),
        ("either", &["auth.identity.tier in [\"free\", \"premium\"]"], &[]),
        ("llm", &["request.path.startsWith(\"/llm\")", "\"free\" == auth.identity.tier"], &[]),
        ("never", &[FREE, PREMIUM], &[]),
    ]);
    for (identity, expected) in [
        (json!({ "tier": "free", "team": "blue" }), &["everyone", "free", "either", "llm"][..]),
        (json!({ "tier": "free", "team": "red" }), &["everyone", "free", "free-red", "red", "either", "llm"]),
        (json!({ "tier": "premium", "team": "red" }), &["everyone", "z-premium", "red", "a-not-free", "either"]),
        (json!({ "tier": "gold", "team": "" }), &["everyone", "a-not-free"]),
        // A text is only equal to that text.
        (json!({ "tier": "Free", "team": 1 }), &["everyone", "a-not-free"]),
        (json!({ "tier": ["free"], "team": null }), &["everyone", "a-not-free"]),
    ] {
        assert_eq!(
            names(&set, &identity).as_deref(),
            Ok(&expected.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()[..]),
            "{identity}"
        );
    }
}

#[test]
fn missing_key_does_not_match() {
    let set =
        set(&[("free", &[FREE], &[]), ("not-free", &["auth.identity.tier != \"free\""], &[]), ("all", &["true"], &[])]);
    for identity in [json!({}), json!({ "team": "red" })] {
        assert_eq!(names(&set, &identity), Ok(vec!["all".to_owned()]), "{identity}");
    }
}

#[test]
fn predicate_that_fails_is_undecided_and_never_skipped() {
    for predicate in [
        "auth.identity.n > \"text\"",
        "auth.identity.n",
        "auth.identity.n.startsWith(\"a\")",
        "1 / (auth.identity.n - 1) == 1",
    ] {
        let set = set(&[("a", &[predicate], &[]), ("b", &["true"], &[])]);
        assert_eq!(names(&set, &json!({ "n": 1 })), Err(Code::PolicyExpression), "{predicate}");
        // Where an earlier condition says no, a later one is not asked.
        let guarded = self::set(&[("a", &[FREE, predicate], &[])]);
        assert_eq!(names(&guarded, &json!({ "n": 1, "tier": "premium" })), Ok(vec![]), "{predicate}");
        assert_eq!(names(&guarded, &json!({ "n": 1, "tier": "free" })), Err(Code::PolicyExpression), "{predicate}");
    }
}

#[test]
fn counter_without_a_value_is_undecided_and_never_shared() {
    let set = set(&[("a", &["true"], &["auth.identity.userid"])]);
    for identity in [json!({}), json!({ "userid": null }), json!({ "userid": ["a"] }), json!({ "userid": {} })] {
        assert_eq!(names(&set, &identity), Err(Code::PolicyExpression), "{identity}");
    }
    // Of a limit that does not apply, no counter is asked.
    let other = self::set(&[("a", &[FREE], &["auth.identity.userid"])]);
    assert_eq!(names(&other, &json!({ "tier": "premium" })), Ok(vec![]));
    let denial = matching(&set, &KeyedHasher::random(), &json!({})).unwrap_err();
    assert!(denial.detail.unwrap().contains("counter of limit ns/p/a"));
}

#[test]
fn accounts_are_one_for_each_list_of_counter_values() {
    let keys = KeyedHasher::random();
    let set = set(&[
        ("user", &[], &["auth.identity.userid"]),
        ("user-too", &[], &["auth.identity.userid"]),
        ("both", &[], &["auth.identity.userid", "auth.identity.team"]),
        ("all", &[], &[]),
        ("all-too", &[], &[]),
    ]);
    let accounts = |identity: Value| -> Vec<AccountKey> {
        let matched = matching(&set, &keys, &identity).unwrap();
        matched.into_iter().map(|(_, account)| account).collect()
    };
    let alice = accounts(json!({ "userid": "alice", "team": "red" }));
    let bob = accounts(json!({ "userid": "bob", "team": "red" }));
    assert_eq!(alice, accounts(json!({ "userid": "alice", "team": "red" })));
    assert_eq!(alice[0], alice[1], "limits of one counter share the account, and are taken together");
    for (a, b) in
        [(alice[0], bob[0]), (alice[2], bob[2]), (alice[0], alice[2]), (alice[3], alice[4]), (alice[0], alice[3])]
    {
        assert_ne!(a, b);
    }
    assert_eq!(alice[3], bob[3], "a limit without counters is everybody's");
    // No two lists of values look alike.
    let split = accounts(json!({ "userid": "a", "team": "bc" }))[2];
    assert_ne!(split, accounts(json!({ "userid": "ab", "team": "c" }))[2]);
    assert_ne!(split, accounts(json!({ "userid": "bc", "team": "a" }))[2]);
}

/// Its cell goes on counting. What is charged afterwards is looked up by it.
#[test]
fn a_rate_is_the_same_one_whatever_number_and_window_it_has() {
    let compiled = |rates: &str| {
        let limits = format!("limits: {{l: {{rates: [{rates}]}}}}");
        let world = World::new().route("ns/r", "").policy("TokenRateLimitPolicy", "ns/p", "HTTPRoute r", &limits);
        let policy = world.sound();
        let cells: Vec<_> = match &policy.route(None, &request("h", "/")).unwrap().limits[..] {
            [Attached::Active(set)] => set.limits()[0].rates.iter().map(|(cell, _)| *cell).collect(),
            other => panic!("{other:?}"),
        };
        (cells, policy)
    };
    let (cells, _) = compiled("{limit: 1, window: 1m}, {limit: 9, window: 1h}");
    assert_ne!(cells[0], cells[1]);
    let (swapped, _) = compiled("{limit: 9, window: 1h}, {limit: 1, window: 1m}");
    assert_eq!(swapped, [cells[1], cells[0]], "whatever order they are written in");
    let (more, _) = compiled("{limit: 5, window: 5m}, {limit: 1, window: 1m}, {limit: 9, window: 1h}");
    assert_eq!(more[1..], cells, "whatever others come");
    assert_eq!(compiled("{limit: 2, window: 1h}").0, [cells[1]], "or go");
    let (changed, policy) = compiled("{limit: 5, window: 1m}, {limit: 9, window: 3h}");
    assert_eq!(changed, cells);
    let limits = Limits::in_memory(Memory::default());
    limits.put_in_force(policy.quotas());
    let in_force =
        cells.iter().map(|cell| limits.quota(*cell, 0).map(|quota| (quota.limit(), quota.window().as_secs())));
    assert_eq!(in_force.collect::<Vec<_>>(), [Some((5, 60)), Some((9, 3 * 3600))]);
    assert!(limits.quota(cells[0].on_route(1), 0).is_none());
}

#[test]
fn thousand_limits_find_the_one_that_matches() {
    let predicates: Vec<String> = (0..1_000).map(|i| format!("auth.identity.tier == \"t{i}\"")).collect();
    let lists: Vec<[&str; 1]> = predicates.iter().map(|predicate| [predicate.as_str()]).collect();
    let names_of: Vec<String> = (0..1_000).map(|i| format!("l{i}")).collect();
    let limits: Vec<(&str, &[&str], &[&str])> =
        names_of.iter().zip(&lists).map(|(name, list)| (name.as_str(), &list[..], &[][..])).collect();
    let set = set(&limits);
    assert_eq!(set.limits().len(), 1_000);
    for i in [0, 1, 500, 999] {
        assert_eq!(names(&set, &json!({ "tier": format!("t{i}") })), Ok(vec![format!("l{i}")]));
    }
    assert_eq!(names(&set, &json!({ "tier": "t1000" })), Ok(vec![]));
}
