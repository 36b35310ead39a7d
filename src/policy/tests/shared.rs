//! How policies of one target meet.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::strategies::{limits, met, rules, section, world};
use super::*;

const BAD: &str = "limits: {b: {rates: [{limit: 1, window: 0s}]}}";

/// The problems of policies of one target, as `object: field: message`.
pub(super) fn told(policy: &Policy) -> Vec<String> {
    use Finding::{LimitReplaced, PolicyShadowed, RuleReplaced, TargetShared};
    let meeting = [LimitReplaced, PolicyShadowed, RuleReplaced, TargetShared];
    let told = policy.problems.iter().filter(|problem| meeting.contains(&problem.code));
    let object = |problem: &Problem| problem.object.as_ref().unwrap().name.to_string();
    let told = told.map(|p| format!("{} {} {}: {}: {}", p.severity, p.code, object(p), p.field, p.message));
    told.collect()
}

#[test]
fn of_two_defaults_the_newer_wins_and_of_two_overrides_the_older() {
    for (older, newer, expected) in [
        ("", "", &["b 20", "c 30"][..]),
        ("defaults atomic", "defaults merge", &["b 20", "c 30"]),
        ("defaults merge", "defaults atomic", &["a 1", "b 20", "c 30"]),
        ("defaults merge", "", &["a 1", "b 20", "c 30"]),
        ("defaults merge", "defaults merge", &["a 1", "b 20", "c 30"]),
        ("overrides atomic", "overrides merge", &["a 1", "b 2"]),
        ("overrides merge", "overrides atomic", &["a 1", "b 2", "c 30"]),
        ("overrides merge", "overrides merge", &["a 1", "b 2", "c 30"]),
        // The older policy's strategy decides.
        ("", "overrides atomic", &["b 20", "c 30"]),
        ("defaults merge", "overrides atomic", &["a 1", "b 20", "c 30"]),
        ("overrides atomic", "", &["a 1", "b 2"]),
        ("overrides merge", "defaults merge", &["a 1", "b 2", "c 30"]),
    ] {
        for target in [
            "Gateway gw".to_owned(),
            section("Gateway gw", "in"),
            "HTTPRoute a".to_owned(),
            section("HTTPRoute a", "chat"),
        ] {
            for kind in ["RateLimitPolicy", "TokenRateLimitPolicy"] {
                // By name, and by age where the names say otherwise; without an age is newest.
                for (first, second) in
                    [("ns/a", "ns/b"), ("ns/b@1", "ns/a@2"), ("ns/b@1", "ns/a"), ("ns/a@1", "ns/b@1")]
                {
                    let policy = world()
                        .policy(kind, second, &target, &limits(newer, &[("b", 20), ("c", 30)]))
                        .policy(kind, first, &target, &limits(older, &[("a", 1), ("b", 2)]))
                        .compile();
                    let shown = format!("{kind}s {first} {older:?} and {second} {newer:?} on {target}");
                    assert_eq!(met(&policy, "in.example.com", "/chat"), expected, "{shown}");
                }
            }
        }
    }
}

#[test]
fn what_gives_way_to_a_policy_of_the_same_target_is_an_error() {
    let pair = |older: &str, newer: &str| {
        world()
            .policy("RateLimitPolicy", "ns/z@1", "Gateway gw", &limits(older, &[("a", 1), ("b", 2)]))
            .policy("RateLimitPolicy", "ns/x@2", "Gateway gw", &limits(newer, &[("b", 20), ("c", 30)]))
            .compile()
    };
    let whole = |loser: &str, winner: &str| {
        format!("error policy-shadowed {loser}: spec.targetRef: overridden by ns/{winner}, which has the same target")
    };
    let part = |loser: &str, winner: &str| {
        format!("error limit-replaced {loser}: spec.limits.b: overridden by ns/{winner}, which has the same target")
    };
    for (older, newer, expected) in [
        ("", "", whole("z", "x")),
        ("overrides atomic", "", whole("x", "z")),
        ("defaults merge", "defaults merge", part("z", "x")),
        ("overrides merge", "overrides merge", part("x", "z")),
    ] {
        assert_eq!(told(&pair(older, newer)), [expected], "{older} and {newer}");
    }
    // Of different names, or said alike, nothing gives way.
    for alike in [limits("defaults merge", &[("c", 3)]), limits("defaults merge", &[("a", 1)])] {
        let policy = world()
            .policy("RateLimitPolicy", "ns/one", "HTTPRoute a", &limits("defaults merge", &[("a", 1), ("b", 2)]))
            .policy("RateLimitPolicy", "ns/two", "HTTPRoute a", &alike)
            .compile();
        let shared = "RateLimitPolicy ns/one has the same target: what they say is put together by name";
        assert_eq!(told(&policy), [format!("warning target-shared two: spec.targetRef: {shared}")]);
    }
}

#[test]
fn three_policies_are_folded_from_the_newest() {
    let three = |oldest: &str, middle: &str, newest: &str| {
        let policy = world()
            .policy("RateLimitPolicy", "ns/middle@2", "Gateway gw", &limits(middle, &[("a", 2), ("b", 20), ("c", 200)]))
            .policy("RateLimitPolicy", "ns/newest@3", "Gateway gw", &limits(newest, &[("a", 3), ("b", 30)]))
            .policy("RateLimitPolicy", "ns/oldest@1", "Gateway gw", &limits(oldest, &[("a", 1)]))
            .compile();
        let overridden = |name: &str| {
            let by = policy.overridden.get(&ObjectName::new("RateLimitPolicy", "ns", name));
            by.into_iter().flatten().map(|object| object.name.to_string()).collect::<Vec<_>>().join(" ")
        };
        let given_way = ["oldest", "middle", "newest"].map(overridden).join("; ");
        (met(&policy, "in.example.com", "/chat").join(", "), given_way)
    };
    let result = |met: &str, overridden: &str| (met.to_owned(), overridden.to_owned());
    assert_eq!(three("", "", ""), result("a 3, b 30", "newest; newest; "));
    assert_eq!(three("defaults merge", "defaults merge", ""), result("a 3, b 30, c 200", "newest; newest; "));
    assert_eq!(three("", "defaults merge", ""), result("a 3, b 30, c 200", "middle newest; newest; "));
    assert_eq!(three("overrides merge", "", ""), result("a 1, b 30", "; newest; oldest"));
    assert_eq!(three("overrides atomic", "overrides merge", ""), result("a 1", "; oldest; oldest"));
    assert_eq!(three("overrides merge", "overrides merge", ""), result("a 1, b 20, c 200", "; oldest; middle oldest"));
}

#[test]
fn in_error_one_policy_shuts_the_target_unless_another_replaces_it_whatever_it_says() {
    let bad = |strategy: &str| match strategy.split_once(' ') {
        Some((block, strategy)) => format!("{block}: {{strategy: {strategy}, {BAD}}}"),
        None => BAD.to_owned(),
    };
    let good = |strategy: &str| limits(strategy, &[("c", 3)]);
    for (older, newer, expected) in [
        (bad(""), good(""), "c 3"),
        (bad("defaults merge"), good(""), "broken a"),
        (bad("overrides atomic"), good(""), "broken a"),
        (bad("overrides merge"), good("overrides atomic"), "broken a"),
        // Nobody knows what it would have replaced.
        (bad("defaults mix"), good(""), "broken a"),
        (good(""), bad(""), "broken b"),
        (good("defaults merge"), bad(""), "broken b"),
        (good("overrides merge"), bad(""), "broken b"),
        (good("overrides atomic"), bad("overrides atomic"), "c 3"),
    ] {
        let policy = world()
            .policy("RateLimitPolicy", "ns/a", "HTTPRoute a", &older)
            .policy("RateLimitPolicy", "ns/b", "HTTPRoute a", &newer)
            .compile();
        assert_eq!(met(&policy, "in.example.com", "/chat"), [expected], "{older} before {newer}");
    }
}

/// Its place among the others is not known: it could have won over any of them.
#[test]
fn an_age_that_cannot_be_read_shuts_the_target() {
    for age in ["yesterday", "2026-03-01", "'2026-03-01 09:00:00'", "'20260301'", "[]", "''"] {
        for strategy in ["", "overrides atomic"] {
            let policy = world()
                .policy("RateLimitPolicy", "ns/good@1", "Gateway gw", &limits(strategy, &[("a", 1)]))
                .text(&format!(
                    "---\n{{apiVersion: kuadrant.io/v1, kind: RateLimitPolicy, metadata: {{name: bad, namespace: ns, \
                     creationTimestamp: {age}}}, spec: {{targetRef: {{group: gateway.networking.k8s.io, kind: Gateway, name: gw}}, {}}}}}\n",
                    limits("", &[("b", 2)])
                ))
                .compile();
            assert_eq!(met(&policy, "in.example.com", "/chat"), ["broken bad"], "{age}");
            let error = policy.problems.iter().find(|problem| problem.is_error()).unwrap();
            let code = if age == "[]" { Finding::TypeWrong } else { Finding::ValueInvalid };
            assert_eq!((&*error.field, error.code), ("metadata.creationTimestamp", code));
        }
    }
    // As `kubectl create --dry-run` prints it, it is none.
    let dry = "---\n{apiVersion: kuadrant.io/v1, kind: RateLimitPolicy, metadata: {name: a, namespace: ns, creationTimestamp: null}, \
               spec: {targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: gw}, limits: {b: {rates: [{limit: 2, window: 1m}]}}}}\n";
    let policy =
        world().policy("RateLimitPolicy", "ns/b@1", "Gateway gw", &limits("", &[("a", 1)])).text(dry).compile();
    assert_eq!(met(&policy, "in.example.com", "/chat"), ["b 2"]);
}

#[test]
fn rules_of_auth_policies_with_one_target_are_merged_by_name() {
    let authentication = "authentication: {sa: {kubernetesTokenReview: {}}}";
    let with = |block: &str, rules: &str| format!("{block}: {{strategy: merge, {rules}}}");
    let check = |name: &str, value: &str| {
        format!(
            "authorization: {{{name}: {{patternMatching: {{patterns: [{{predicate: 'request.method == \"{value}\"'}}]}}}}}}"
        )
    };
    let first = with("defaults", &format!("rules: {{{authentication}, {}}}", check("a", "GET")));
    let second = |name: &str, value: &str| {
        let policy = world()
            .policy("AuthPolicy", "ns/first", "Gateway gw", &first)
            .policy(
                "AuthPolicy",
                "ns/second",
                "Gateway gw",
                &with("defaults", &format!("rules: {{{}}}", check(name, value))),
            )
            .compile();
        (rules(&policy), told(&policy))
    };
    let shared = "warning target-shared second: spec.targetRef: AuthPolicy ns/first has the same target: what they say is put together by name";
    let (found, problems) = second("b", "POST");
    assert_eq!(found, ["authentication sa of first", "authorization b of second", "authorization a of first"]);
    assert_eq!(problems, [shared]);
    let (found, problems) = second("a", "GET");
    assert_eq!((found.len(), problems), (2, vec![shared.to_owned()]), "what is written alike is not lost");
    let (found, problems) = second("a", "POST");
    assert_eq!(found, ["authentication sa of first", "authorization a of second"]);
    assert_eq!(
        problems,
        ["error rule-replaced first: spec.rules.authorization.a: overridden by ns/second, which has the same target"]
    );
}

/// One `when` holds for all that is merged, as in Kuadrant: where it does not hold, none of the rules does.
#[test]
fn a_when_that_takes_hold_of_another_policys_rules_is_an_error() {
    let policy = |when: &str, rest: &str| format!("defaults: {{strategy: merge, {when}{rest}}}");
    let (get, post) =
        ("when: [{predicate: 'request.method == \"GET\"'}], ", "when: [{predicate: 'request.method == \"POST\"'}], ");
    let narrowed = |code: &str, loser: &str, winner: &str| {
        format!(
            "error {code} {loser}: spec: the `when` of {winner}, which has the same target, holds for this policy too: it says nothing of other requests"
        )
    };
    for (kind, code, rules) in [
        (
            "AuthPolicy",
            "rule-replaced",
            ["rules: {authentication: {x: {anonymous: {}}}}", "rules: {authentication: {y: {anonymous: {}}}}"],
        ),
        (
            "RateLimitPolicy",
            "limit-replaced",
            ["limits: {x: {rates: [{limit: 1, window: 1m}]}}", "limits: {y: {rates: [{limit: 1, window: 1m}]}}"],
        ),
    ] {
        let pair = |older: &str, newer: &str| {
            let world = world().policy(kind, "ns/a", "Gateway gw", &policy(older, rules[0])).policy(
                kind,
                "ns/b",
                "Gateway gw",
                &policy(newer, rules[1]),
            );
            told(&world.compile())
        };
        assert_eq!(pair(get, ""), [narrowed(code, "b", &format!("{kind} ns/a"))]);
        assert_eq!(pair("", get), [narrowed(code, "a", &format!("{kind} ns/b"))]);
        assert_eq!(
            pair(get, post),
            [format!("error {code} a: spec.when: overridden by ns/b, which has the same target")]
        );
        assert_eq!(pair(get, get).len(), 1);
        assert!(pair(get, get)[0].starts_with("warning target-shared"));
    }
}

#[test]
fn policies_that_give_way_are_accepted_and_told_to_whom() {
    let conditions = |older: &str, newer: &str| {
        let policy = world()
            .policy("RateLimitPolicy", "ns/old@1", "Gateway gw", &limits(older, &[("a", 1), ("b", 2)]))
            .policy("RateLimitPolicy", "ns/new@2", "Gateway gw", &limits(newer, &[("b", 20)]))
            .compile();
        let conditions = policy.conditions();
        ["old", "new"].map(|name| {
            let [accepted, enforced] = &conditions[&ObjectName::new("RateLimitPolicy", "ns", name)];
            assert!(accepted.holds, "{accepted:?}");
            format!("{}: {}", enforced.reason, enforced.message)
        })
    };
    let in_force = "Enforced: it is in force";
    assert_eq!(conditions("", ""), ["Overridden: overridden by ns/new on every route that it is for", in_force]);
    assert_eq!(
        conditions("defaults merge", ""),
        ["Enforced: it is in force, but for what is overridden by ns/new", in_force]
    );
    assert_eq!(
        conditions("overrides merge", "defaults merge"),
        [in_force, "Overridden: overridden by ns/old on every route that it is for"]
    );
}

#[test]
fn of_two_routes_with_one_match_the_older_gets_the_request() {
    for (first, second, winner) in [
        ("ns/a@2", "ns/b@1", "ns/b"),
        ("ns/a@1", "ns/b@2", "ns/a"),
        ("ns/a@1", "ns/b@1", "ns/a"),
        ("ns/a", "ns/b", "ns/a"),
        ("ns/a", "ns/b@1", "ns/b"),
    ] {
        let policy = World::new().matching(first, "path: {value: /x}").matching(second, "path: {value: /x}").compile();
        assert_eq!(found(&policy, &request("h", "/x")), Ok(winner), "{first} and {second}");
    }
    // One whose age cannot be read could be the older.
    let text = World::new().matching("ns/a@1", "path: {value: /x}").matching("ns/b@2", "path: {value: /x}").text;
    let policy = World::default().text(&text.replace("2026-03-02T", "March 2, ")).compile();
    assert_eq!(applied(&policy, "/x"), ["broken HTTPRoute ns/b"]);
}

/// Kuadrant's fold, written out as in `merge_strategies.go`: strategy and rules of each policy, from the least specific to the most.
fn kuadrants(row: &[(&str, BTreeMap<String, u64>)]) -> BTreeMap<String, u64> {
    let Some((_, last)) = row.last() else { return BTreeMap::new() };
    row.iter().rev().fold(last.clone(), |target, (strategy, source)| match *strategy {
        "overrides atomic" => source.clone(),
        "overrides merge" => target.into_iter().chain(source.clone()).collect(),
        "defaults merge" => source.clone().into_iter().chain(target).collect(),
        _ => target,
    })
}

/// A policy on one of four levels: level, strategy, age and which limits it has.
fn policies() -> impl Strategy<Value = Vec<(usize, &'static str, Option<u8>, [bool; 3])>> {
    let strategy =
        prop::sample::select(vec!["", "defaults atomic", "defaults merge", "overrides atomic", "overrides merge"]);
    let limits = any::<[bool; 3]>().prop_filter("no limit", |has| has.contains(&true));
    prop::collection::vec((0..4_usize, strategy, prop::option::of(1..4_u8), limits), 1..7)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn policies_fold_as_kuadrants_in_whatever_order_they_are_read(
        policies in policies(),
        order in prop::collection::vec(any::<u64>(), 7),
    ) {
        let targets = ["Gateway gw".to_owned(), section("Gateway gw", "in"), "HTTPRoute a".to_owned(), section("HTTPRoute a", "chat")];
        let named = |at: usize| ["a", "b", "c"].into_iter().enumerate().map(move |(i, name)| (name, (10 * at + i) as u64));
        let mut row = Vec::new();
        let mut files = vec![("world.yaml".to_owned(), world().text)];
        for (at, (level, strategy, age, has)) in policies.iter().enumerate() {
            let own: Vec<_> = named(at).zip(has).filter(|(_, has)| **has).map(|(limit, _)| limit).collect();
            let path = age.map_or(format!("ns/p{at}"), |day| format!("ns/p{at}@{day}"));
            let world = World::default().policy("RateLimitPolicy", &path, &targets[*level], &limits(strategy, &own));
            files.push((format!("p{at}.yaml"), world.text));
            let own: BTreeMap<String, u64> = own.into_iter().map(|(name, limit)| (name.to_owned(), limit)).collect();
            row.push(((*level, age.unwrap_or(9), at), (*strategy, own)));
        }
        row.sort_by_key(|(key, _)| *key);
        let row: Vec<_> = row.into_iter().map(|(_, policy)| policy).collect();
        let expected: Vec<String> = kuadrants(&row).into_iter().map(|(name, limit)| format!("{name} {limit}")).collect();
        let compiled = |files: &[(String, String)]| {
            let files = files.iter().map(|(name, text)| (name.as_str(), text.as_str()));
            let policy = on_large_stack(|| compile(Manifests::read(files), &Options::default())).unwrap();
            (met(&policy, "in.example.com", "/chat"), shown(&policy.problems))
        };
        let sorted = compiled(&files);
        prop_assert_eq!(&sorted.0, &expected);
        let mut shuffled: Vec<_> = order.into_iter().zip(files).collect();
        shuffled.sort();
        let files: Vec<_> = shuffled.into_iter().map(|(_, file)| file).collect();
        prop_assert_eq!(compiled(&files), sorted);
    }
}
