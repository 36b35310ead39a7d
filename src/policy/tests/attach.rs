use super::*;
use crate::expression::{EvalError, undecided};

/// A rule that tiergate does not carry out, so that the policy is in error and its target is known.
const UNSUPPORTED: &str = "rules: {authentication: {sa: {x509: {}}}}";
const BAD_LIMIT: &str = "limits: {a: {rates: [{limit: 1, window: 0s}]}}";

/// Two routes of `ns/gw`: `ns/a` at `/a` and `ns/b` at `/b`.
fn two_routes() -> World {
    World::new().matching("ns/a", "path: {value: /a}").matching("ns/b", "path: {value: /b}")
}

#[test]
fn policy_on_a_gateway_applies_to_all_of_its_routes_and_to_no_other() {
    let policy = two_routes()
        .gateway("ns/other", "{name: http}")
        .route_to("{name: other}", "ns/c", "")
        .auth("ns/auth", "Gateway gw")
        .requests("ns/requests", "Gateway gw")
        .tokens("ns/tokens", "Gateway gw")
        .sound();
    let all = ["AuthPolicy ns/auth", "RateLimitPolicy ns/requests", "TokenRateLimitPolicy ns/tokens"];
    for (gateway, path, expected) in [("ns/gw", "/a", &all[..]), ("ns/gw", "/b", &all), ("ns/other", "/", &["none"])] {
        let asked = Request { gateway: Some(gateway), ..request("h", path) };
        let plan = policy.route(None, &asked).unwrap();
        let limits = plan.limits.iter().map(|limits| match limits {
            Attached::Active(limits) => limits.policy.to_string(),
            other => panic!("{other:?}"),
        });
        let auth = match &plan.auth {
            Attached::Active(plan) => plan.policy.to_string(),
            _ => "none".to_owned(),
        };
        let applied: Vec<String> = std::iter::once(auth).chain(limits).collect();
        assert_eq!(applied, expected, "{gateway}{path}");
    }
}

#[test]
fn policy_on_a_route_replaces_that_of_its_gateway_for_each_kind_by_itself() {
    let world = two_routes()
        .auth("ns/auth", "Gateway gw")
        .requests("ns/requests", "Gateway gw")
        .tokens("ns/tokens", "Gateway gw");
    for (own, expected) in [
        (
            world.clone().auth("ns/own", "HTTPRoute a"),
            ["AuthPolicy ns/own", "RateLimitPolicy ns/requests", "TokenRateLimitPolicy ns/tokens"],
        ),
        (
            world.clone().requests("ns/own", "HTTPRoute a"),
            ["AuthPolicy ns/auth", "RateLimitPolicy ns/own", "TokenRateLimitPolicy ns/tokens"],
        ),
        (
            world.clone().tokens("ns/own", "HTTPRoute a"),
            ["AuthPolicy ns/auth", "RateLimitPolicy ns/requests", "TokenRateLimitPolicy ns/own"],
        ),
    ] {
        let policy = own.sound();
        assert_eq!(applied(&policy, "/a"), expected);
        let inherited = ["AuthPolicy ns/auth", "RateLimitPolicy ns/requests", "TokenRateLimitPolicy ns/tokens"];
        assert_eq!(applied(&policy, "/b"), inherited);
    }
}

#[test]
fn targets_are_of_the_policys_namespace() {
    let policy = two_routes().auth("elsewhere/auth", "Gateway gw").requests("elsewhere/r", "HTTPRoute a").compile();
    assert_eq!(applied(&policy, "/a"), ["none"]);
    let remedies: Vec<_> = policy.problems.iter().filter_map(|p| p.remedy.as_deref()).collect();
    for object in ["Gateway ns/gw", "HTTPRoute ns/a"] {
        let remedy = format!("a policy has to be in its target's namespace: {object}");
        assert!(remedies.contains(&&*remedy), "{remedies:?}");
    }
}

#[test]
fn policy_in_error_shuts_its_target_and_nothing_else() {
    let good = ["AuthPolicy ns/auth", "RateLimitPolicy ns/requests", "TokenRateLimitPolicy ns/tokens"];
    let world = two_routes()
        .auth("ns/auth", "Gateway gw")
        .requests("ns/requests", "Gateway gw")
        .tokens("ns/tokens", "Gateway gw");
    // Not even the Gateway's policy stands in for a route's own.
    for (at, kind, rest) in
        [(0, "AuthPolicy", UNSUPPORTED), (1, "RateLimitPolicy", BAD_LIMIT), (2, "TokenRateLimitPolicy", BAD_LIMIT)]
    {
        let policy = world.clone().policy(kind, "ns/bad", "HTTPRoute a", rest).compile();
        let mut expected = good.map(str::to_owned);
        expected[at] = format!("broken {kind} ns/bad");
        assert_eq!(applied(&policy, "/a"), expected);
        assert_eq!(applied(&policy, "/b"), good, "{kind}");
    }
    let policy = two_routes()
        .policy("AuthPolicy", "ns/bad", "Gateway gw", UNSUPPORTED)
        .auth("ns/own", "HTTPRoute b")
        .gateway("ns/gw2", "{name: http}")
        .compile();
    let asked = |path| Request { gateway: Some("ns/gw"), ..request("h", path) };
    let auth = |path| policy.route(None, &asked(path)).map(|plan| plan.auth.clone()).unwrap();
    assert!(matches!(auth("/a"), Attached::Broken(_)));
    assert!(matches!(auth("/b"), Attached::Active(_)));
}

#[test]
fn policy_with_an_unknown_target_shuts_every_route() {
    let world = two_routes()
        .auth("ns/auth", "Gateway gw")
        .auth("ns/own", "HTTPRoute b")
        .requests("ns/requests", "Gateway gw")
        .tokens("ns/tokens", "HTTPRoute b");
    let (a, b) = (
        ["AuthPolicy ns/auth", "RateLimitPolicy ns/requests"],
        ["AuthPolicy ns/own", "RateLimitPolicy ns/requests", "TokenRateLimitPolicy ns/tokens"],
    );
    let policy = world.sound();
    assert_eq!(
        (applied(&policy, "/a"), applied(&policy, "/b")),
        (a.map(str::to_owned).to_vec(), b.map(str::to_owned).to_vec())
    );
    let unknown = |kind: &str| {
        format!(
            "---\n{{apiVersion: kuadrant.io/v1, kind: {kind}, metadata: {{name: bad, namespace: far}}, spec: {{}}}}\n"
        )
    };
    let policy = world.clone().text(&unknown("AuthPolicy")).compile();
    for path in ["/a", "/b"] {
        assert_eq!(applied(&policy, path)[0], "broken AuthPolicy far/bad", "{path}");
        assert_eq!(applied(&policy, path)[1], "RateLimitPolicy ns/requests", "{path}");
    }
    let policy = world.clone().text(&unknown("RateLimitPolicy")).compile();
    for (path, auth) in [("/a", a[0]), ("/b", b[0])] {
        assert_eq!(applied(&policy, path)[..2], [auth.to_owned(), "broken RateLimitPolicy far/bad".to_owned()]);
    }
    let policy = world.text(&unknown("TokenRateLimitPolicy")).compile();
    for path in ["/a", "/b"] {
        assert_eq!(applied(&policy, path)[2], "broken TokenRateLimitPolicy far/bad", "{path}");
    }
}

/// Whatever keeps a policy from being used, what it was for stays shut: no request may find it gone.
#[test]
fn policy_that_cannot_be_used_never_leaves_its_target_open() {
    let spec = "spec: {targetRef: {group: gateway.networking.k8s.io, kind: HTTPRoute, name: a}, limits: {a: {rates: \
                [{limit: 1, window: 1m}]}}}";
    let policy = |head: &str| format!("---\n{{{head}, {spec}}}\n");
    let mut open = Vec::new();
    for (what, object) in [
        (
            "its version",
            policy("apiVersion: kuadrant.io/v9, kind: RateLimitPolicy, metadata: {name: bad, namespace: ns}"),
        ),
        ("no name", policy("apiVersion: kuadrant.io/v1, kind: RateLimitPolicy, metadata: {namespace: ns}")),
        (
            "an empty name",
            policy("apiVersion: kuadrant.io/v1, kind: RateLimitPolicy, metadata: {name: '', namespace: ns}"),
        ),
        ("no metadata", policy("apiVersion: kuadrant.io/v1, kind: RateLimitPolicy")),
        ("metadata of a wrong type", policy("apiVersion: kuadrant.io/v1, kind: RateLimitPolicy, metadata: text")),
        // The first of the name is for another target.
        (
            "its name",
            policy("apiVersion: kuadrant.io/v1, kind: RateLimitPolicy, metadata: {name: taken, namespace: ns}"),
        ),
    ] {
        let policy = two_routes().requests("ns/taken", "HTTPRoute b").text(&object).compile();
        assert!(policy.problems.iter().any(Problem::is_error), "{what}");
        let plan = policy.route(None, &request("h", "/a")).unwrap();
        if !plan.limits.iter().any(|limits| matches!(limits, Attached::Broken(_))) {
            open.push(what);
        }
    }
    assert_eq!(open, <[&str; 0]>::default(), "what was wrong with policies that leave their route without a limit");
}

#[test]
fn limits_of_two_targets_are_counted_apart_and_those_of_a_gateway_once() {
    let policy = two_routes().requests("ns/a", "HTTPRoute a").requests("ns/b", "HTTPRoute b").sound();
    let cell = |path| match &policy.route(None, &request("h", path)).unwrap().limits[0] {
        Attached::Active(limits) => limits.limits()[0].rates[0].0,
        other => panic!("{other:?}"),
    };
    assert_ne!(cell("/a"), cell("/b"));
    let gateway = two_routes().requests("ns/g", "Gateway gw").sound();
    let cell = |path| match &gateway.route(None, &request("h", path)).unwrap().limits[0] {
        Attached::Active(limits) => limits.limits()[0].rates[0].0,
        other => panic!("{other:?}"),
    };
    assert_eq!(cell("/a"), cell("/b"), "a Gateway's policy counts once for all routes");
}

#[test]
fn broken_and_undecided_are_answers_of_their_own() {
    let name = ObjectName::new("AuthPolicy", "ns", "a");
    let denial = broken(&name);
    assert_eq!(denial.code, Code::PolicyInvalid);
    assert!(denial.detail.unwrap().contains("AuthPolicy ns/a"));
    assert!(!denial.message.contains("ns/a"), "callers are told nothing of policies");
    let denial = undecided("predicate of limit x", &EvalError::Failed("types".to_owned()));
    assert_eq!((denial.code, denial.detail.as_deref()), (Code::PolicyExpression, Some("predicate of limit x: types")));
}
