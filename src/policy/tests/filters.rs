//! What limits see of a caller: what the filters of the AuthPolicies of their routes make, each under its name.

use super::*;

/// The routes `/a` and `/b`, each with an AuthPolicy whose filter has the name that is given.
fn routes(a: &str, b: &str) -> World {
    let rules = |filter: &str| {
        let filters =
            format!("{{{filter}: {{json: {{properties: {{userid: {{expression: auth.identity.user.username}}}}}}}}}}");
        format!(
            "rules: {{authentication: {{sa: {{kubernetesTokenReview: {{audiences: [a]}}}}}}, response: {{success: {{filters: {filters}}}}}}}"
        )
    };
    let world = World::new().matching("ns/a", "path: {value: /a}").matching("ns/b", "path: {value: /b}");
    world.policy("AuthPolicy", "ns/a", "HTTPRoute a", &rules(a)).policy("AuthPolicy", "ns/b", "HTTPRoute b", &rules(b))
}

fn errors(policy: &Policy) -> Vec<String> {
    let errors = policy.problems.iter().filter(|problem| problem.is_error());
    errors.map(|problem| format!("{}: {}", problem.field, problem.message)).collect()
}

const TENANT: &str = "has(auth.tenant.userid)";
const IDENTITY: &str = "auth.identity.userid == \"ann\"";

#[test]
fn a_limit_is_for_the_routes_whose_filters_it_looks_at() {
    let policy = routes("tenant", "identity").limits_when(&[TENANT, IDENTITY]).compile();
    assert_eq!(errors(&policy), <[String; 0]>::default());
    for path in ["/a", "/b"] {
        assert_eq!(applied(&policy, path).last().unwrap(), "RateLimitPolicy ns/limits");
    }
}

#[test]
fn a_limit_that_looks_at_what_no_route_makes_shuts_them_all() {
    let world =
        routes("tenant", "identity").limits_when(&["auth.tennant.userid != \"\"", "auth.idenity == {}", IDENTITY]);
    let policy = world.tokens("ns/tokens", "Gateway gw").compile();
    let no = "which no AuthPolicy of its routes makes";
    assert_eq!(
        errors(&policy),
        [
            format!("spec.limits.l0.when[0].predicate: asks for `auth.tennant`, {no}"),
            format!("spec.limits.l1.when[0].predicate: asks for `auth.idenity`, {no}"),
        ],
        "each is told once"
    );
    for path in ["/a", "/b"] {
        let applied = applied(&policy, path);
        assert_eq!(applied[1..], ["broken RateLimitPolicy ns/limits", "TokenRateLimitPolicy ns/tokens"]);
    }
    let remedies: Vec<_> = policy.problems.iter().filter_map(|problem| problem.remedy.as_deref()).collect();
    assert!(remedies.contains(&"did you mean `auth.tenant`?"), "{remedies:?}");
}

/// An override that is in error takes the place of nothing: its routes are shut all the same.
#[test]
fn limits_in_the_place_of_others_are_looked_at_too() {
    let limits = |name: &str, predicate: &str| {
        format!("limits: {{{name}: {{rates: [{{limit: 1, window: 1m}}], when: [{{predicate: '{predicate}'}}]}}}}")
    };
    let world =
        routes("tenant", "tenant").policy("RateLimitPolicy", "ns/b", "HTTPRoute b", &limits("own", "auth.x.y == 1"));
    let policy = world.policy("RateLimitPolicy", "ns/gw", "Gateway gw", &limits("common", TENANT)).compile();
    assert_eq!(applied(&policy, "/a")[1], "RateLimitPolicy ns/gw");
    assert_eq!(applied(&policy, "/b")[1], "broken RateLimitPolicy ns/b");
    assert_eq!(errors(&policy).len(), 1, "{}", shown(&policy.problems));
}

#[test]
fn what_an_auth_policy_in_error_makes_is_not_known() {
    let world = World::new().route("ns/r", "").policy(
        "AuthPolicy",
        "ns/auth",
        "Gateway gw",
        "rules: {authentication: {a: {}}}",
    );
    let policy = world.limits_when(&[TENANT]).compile();
    assert_eq!(errors(&policy).len(), 1, "of the AuthPolicy alone: {}", shown(&policy.problems));
    let without = World::new().route("ns/r", "").limits_when(&[TENANT, IDENTITY]).compile();
    assert_eq!(
        errors(&without),
        ["spec.limits.l0.when[0].predicate: asks for `auth.tenant`, which no AuthPolicy of its routes makes"]
    );
}

#[test]
fn a_rule_sees_the_metadata_of_every_level_that_comes_before_it() {
    let lookup = "{http: {url: 'http://maas-api/v1/tiers/lookup', body: {expression: '{\"groups\": auth.identity.user.groups}'}}}";
    let gateway = format!(
        "defaults: {{strategy: merge, rules: {{authentication: {{sa: {{kubernetesTokenReview: {{audiences: [a]}}}}}}, metadata: {{tier: {lookup}}}}}}}"
    );
    let world = World::new().route("ns/r", "").policy("AuthPolicy", "ns/gw", "Gateway gw", &gateway);
    let asks = |name: &str| {
        let pattern = format!("{{predicate: 'auth.metadata.{name}.tier == \"free\"'}}");
        format!("rules: {{authorization: {{rule: {{patternMatching: {{patterns: [{pattern}]}}}}}}}}")
    };
    let with = |name: &str| world.clone().policy("AuthPolicy", "ns/own", "HTTPRoute r", &asks(name)).compile();
    assert_eq!(errors(&with("tier")), <[String; 0]>::default());
    let policy = with("teir");
    assert_eq!(errors(&policy), ["spec: asks for `auth.metadata.teir`, which no rule of metadata before it makes"]);
    assert_eq!(applied(&policy, "/"), ["broken AuthPolicy ns/own"]);
}

#[test]
fn a_limit_policy_in_shadow_shuts_nothing() {
    let limits = "targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: gw}, limits: {a: {rates: [{limit: 1, window: \
                  1m}], when: [{predicate: 'auth.x.y == 1'}]}}";
    let text = format!(
        "---\napiVersion: kuadrant.io/v1\nkind: RateLimitPolicy\nmetadata: {{name: p, namespace: ns, annotations: \
         {{tiergate.io/shadow: 'true'}}}}\nspec: {{{limits}}}\n"
    );
    let policy = routes("tenant", "tenant").text(&text).compile();
    let in_force: Vec<_> = policy.problems.iter().filter_map(|problem| problem.in_force).collect();
    assert_eq!(in_force, [crate::problem::InForce::Nothing], "{}", shown(&policy.problems));
    assert_eq!(applied(&policy, "/a")[1], "RateLimitPolicy ns/p", "of which nothing is used");
}

/// `ns/a` at `gw` and at `other`, each of which overrides with a RateLimitPolicy of one limit for `predicate`.
fn at_two_gateways(first: &str, second: &str) -> World {
    let overrides = |predicate: &str| {
        let limit = format!("{{rates: [{{limit: 9, window: 1m}}], when: [{{predicate: '{predicate}'}}], {BY_CALLER}}}");
        format!("overrides: {{strategy: merge, limits: {{all: {limit}}}}}")
    };
    let listener = "{name: http, allowedRoutes: {namespaces: {from: All}}}";
    World::default()
        .gateway("ns/gw", listener)
        .gateway("ns/other", listener)
        .route_to("{name: gw}, {name: other}", "ns/a", "")
        .auth("ns/auth", "HTTPRoute a")
        .requests("ns/a", "HTTPRoute a")
        .policy("RateLimitPolicy", "ns/gw", "Gateway gw", &overrides(first))
        .policy("RateLimitPolicy", "ns/other", "Gateway other", &overrides(second))
}

/// Two sets of limits may begin and end alike, and be as long.
#[test]
fn every_set_of_limits_is_looked_at() {
    let bad = "auth.tennant.id == \"a\"";
    for (first, second, at) in [(IDENTITY, bad, "other"), (bad, IDENTITY, "gw")] {
        let policy = at_two_gateways(first, second).compile();
        let message = "spec.overrides.limits.all.when[0].predicate: asks for `auth.tennant`, which no AuthPolicy of its routes makes";
        assert_eq!(errors(&policy), [message], "{at}");
        let gateway = format!("ns/{at}");
        let plan = policy.route(None, &Request { gateway: Some(&gateway), ..request("h", "/") }).unwrap();
        assert!(matches!(&plan.limits[0], Attached::Broken(policy) if *policy.name == *at), "{:?}", plan.limits);
    }
}

/// The `when` of a Gateway's policy holds for the limits of its routes, also where nothing else is left of it.
#[test]
fn a_when_that_limits_of_another_policy_get_is_looked_at() {
    let gateway = |when: &str| {
        format!(
            "defaults: {{strategy: merge, when: [{{predicate: '{when}'}}], limits: {{a: {{rates: [{{limit: 9, window: 1m}}], {BY_CALLER}}}}}}}"
        )
    };
    let with = |when: &str| {
        let world = World::new().route("ns/r", "").auth("ns/auth", "Gateway gw");
        let world = world.policy("RateLimitPolicy", "ns/gw", "Gateway gw", &gateway(when));
        world.requests("ns/own", "HTTPRoute r").compile()
    };
    assert_eq!(errors(&with(IDENTITY)), <[String; 0]>::default());
    let policy = with("auth.tennant.id == \"a\"");
    assert_eq!(
        errors(&policy),
        [
            "spec.limits: the `when` of RateLimitPolicy ns/gw, which holds for these too, asks for `auth.tennant`, which no \
          AuthPolicy of its routes makes"
        ]
    );
    assert_eq!(applied(&policy, "/")[1], "broken RateLimitPolicy ns/own");
}

/// A key leads to one value. Which of two it is to be, only a `when` can tell.
#[test]
fn two_filters_or_headers_of_one_key_shut_the_target_unless_a_when_tells_them_apart() {
    let item = |name: &str, rest: &str| format!("{name}: {{plain: {{value: x}}{rest}}}");
    let when = ", when: [{predicate: 'request.method == \"POST\"'}]";
    for (what, first, second, apart) in [
        ("filters", item("identity", ""), item("extra", ", key: identity"), false),
        ("headers", item("x-a", ""), item("other", ", key: X-A"), false),
        ("filters", item("identity", ""), item("extra", &format!(", key: identity{when}")), true),
        ("headers", item("x-a", when), item("other", ", key: X-A"), true),
        ("filters", item("identity", ""), item("extra", ", key: extra"), true),
    ] {
        let rules =
            |items: &str, rest: &str| format!("rules: {{{rest}response: {{success: {{{what}: {{{items}}}}}}}}}");
        let authentication = "authentication: {sa: {kubernetesTokenReview: {audiences: [a]}}}, ";
        let one = rules(&format!("{first}, {second}"), authentication);
        let merged = format!("defaults: {{strategy: merge, {}}}", rules(&first, authentication));
        let world = World::new().route("ns/r", "");
        for policy in [
            world.clone().policy("AuthPolicy", "ns/auth", "Gateway gw", &one).compile(),
            world
                .policy("AuthPolicy", "ns/gw", "Gateway gw", &merged)
                .policy(
                    "AuthPolicy",
                    "ns/auth",
                    "HTTPRoute r",
                    &rules(&second, "authentication: {all: {anonymous: {}}}, "),
                )
                .compile(),
        ] {
            let shut = applied(&policy, "/")[0].starts_with("broken");
            assert_eq!((errors(&policy).is_empty(), shut), (apart, !apart), "{what}: {}", shown(&policy.problems));
            assert!(errors(&policy).iter().all(|error| error.contains("have one key")), "{}", shown(&policy.problems));
        }
    }
}
