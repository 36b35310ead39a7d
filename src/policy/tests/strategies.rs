//! How policies of several levels meet.

use super::*;

/// `ns/gw` with two listeners; `ns/a` on both, with a named rule and one without a name.
pub(super) fn world() -> World {
    let listener = |name: &str, host: &str| {
        format!("{{name: {name}, hostname: {host}, allowedRoutes: {{namespaces: {{from: All}}}}}}")
    };
    World::default()
        .gateway("ns/gw", &format!("{}, {}", listener("in", "in.example.com"), listener("out", "out.example.com")))
        .route("ns/a", "rules: [{name: chat, matches: [{path: {value: /chat}}]}, {matches: [{path: {value: /rest}}]}]")
}

/// A RateLimitPolicy with limits of these names, each of one number.
pub(super) fn limits(strategy: &str, names: &[(&str, u64)]) -> String {
    let limit =
        |(name, limit): &(&str, u64)| format!("{name}: {{rates: [{{limit: {limit}, window: 1m}}], {BY_CALLER}}}");
    let limits = format!("limits: {{{}}}", names.iter().map(limit).collect::<Vec<_>>().join(", "));
    match strategy {
        "" => limits,
        strategy => {
            let (block, strategy) = strategy.split_once(' ').unwrap();
            format!("{block}: {{strategy: {strategy}, {limits}}}")
        }
    }
}

/// The limits, by name and number, that a request at `host` and `path` meets.
pub(super) fn met(policy: &Policy, host: &str, path: &str) -> Vec<String> {
    let plan = policy.route(None, &request(host, path)).unwrap();
    let mut met = Vec::new();
    for limits in &plan.limits {
        match limits {
            Attached::Active(set) => met.extend(set.limits().iter().map(|limit| {
                let name = limit.name.rsplit_once('/').unwrap().1;
                format!("{name} {}", limit.rates[0].1.limit())
            })),
            Attached::Broken(name) => met.push(format!("broken {}", name.name)),
            Attached::None => {}
        }
    }
    met.sort();
    met
}

pub(super) fn section(target: &str, section: &str) -> String {
    format!("{target}, sectionName: {section}")
}

#[test]
fn the_most_specific_of_four_levels_applies() {
    let all = |world: World| {
        world.policy("RateLimitPolicy", "ns/gateway", "Gateway gw", &limits("", &[("g", 1)])).policy(
            "RateLimitPolicy",
            "ns/listener",
            &section("Gateway gw", "out"),
            &limits("", &[("l", 2)]),
        )
    };
    let policy = all(world()).sound();
    assert_eq!(met(&policy, "in.example.com", "/chat"), ["g 1"]);
    assert_eq!(met(&policy, "out.example.com", "/chat"), ["l 2"]);
    let world = all(world()).auth("ns/auth", "Gateway gw").policy(
        "RateLimitPolicy",
        "ns/rule",
        &section("HTTPRoute a", "chat"),
        &limits("", &[("c", 4)]),
    );
    let policy = world.clone().sound();
    assert_eq!(met(&policy, "out.example.com", "/chat"), ["c 4"]);
    assert_eq!(met(&policy, "out.example.com", "/rest"), ["l 2"]);
    let world = world.policy("RateLimitPolicy", "ns/route", "HTTPRoute a", &limits("", &[("r", 3)]));
    let policy = world.clone().compile();
    assert_eq!(met(&policy, "in.example.com", "/chat"), ["c 4"]);
    assert_eq!(met(&policy, "in.example.com", "/rest"), ["r 3"]);
    // The defaults of a Gateway are for routes to come, too.
    assert_eq!(shown(&policy.problems), "");
    let second = section("HTTPRoute a", "rule-2");
    let policy = world.policy("RateLimitPolicy", "ns/second", &second, &limits("", &[("s", 5)])).compile();
    assert_eq!(met(&policy, "in.example.com", "/rest"), ["s 5"]);
    let replaced: Vec<_> =
        policy.problems.iter().map(|p| format!("{}: {}", p.object.as_ref().unwrap(), p.message)).collect();
    let by = "ns/rule and ns/second";
    assert_eq!(replaced, [format!("RateLimitPolicy ns/route: overridden by {by} wherever it would apply")]);
}

#[test]
fn strategies_meet_as_kuadrants_do() {
    for (gateway, route, expected) in [
        ("", "", &["b 20", "c 30"][..]),
        ("defaults atomic", "", &["b 20", "c 30"]),
        ("defaults merge", "", &["a 1", "b 20", "c 30"]),
        ("overrides atomic", "", &["a 1", "b 2"]),
        ("overrides merge", "", &["a 1", "b 2", "c 30"]),
        // The less specific policy's strategy decides.
        ("", "overrides atomic", &["b 20", "c 30"]),
        ("defaults merge", "defaults atomic", &["a 1", "b 20", "c 30"]),
        ("overrides atomic", "overrides merge", &["a 1", "b 2"]),
    ] {
        let policy = world()
            .policy("RateLimitPolicy", "ns/gateway", "Gateway gw", &limits(gateway, &[("a", 1), ("b", 2)]))
            .policy("RateLimitPolicy", "ns/route", "HTTPRoute a", &limits(route, &[("b", 20), ("c", 30)]))
            .compile();
        assert_eq!(met(&policy, "in.example.com", "/chat"), expected, "{gateway} over {route}");
    }
}

#[test]
fn what_is_in_error_shuts_what_its_rules_could_be_part_of() {
    const BAD: &str = "limits: {b: {rates: [{limit: 1, window: 0s}]}}";
    let bad = |strategy: &str| match strategy.split_once(' ') {
        Some((block, strategy)) => format!("{block}: {{strategy: {strategy}, {BAD}}}"),
        None => BAD.to_owned(),
    };
    for (gateway, route, expected) in [
        // A default that a sound policy replaces anyway does no harm.
        (bad(""), limits("", &[("c", 3)]), "c 3"),
        (bad("defaults merge"), limits("", &[("c", 3)]), "broken gateway"),
        (bad("overrides atomic"), limits("", &[("c", 3)]), "broken gateway"),
        (bad("overrides merge"), limits("", &[("c", 3)]), "broken gateway"),
        // Nobody knows what it would have replaced.
        (bad("defaults mix"), limits("", &[("c", 3)]), "broken gateway"),
        (limits("", &[("a", 1)]), bad(""), "broken route"),
        (limits("defaults merge", &[("a", 1)]), bad(""), "broken route"),
        (limits("overrides merge", &[("a", 1)]), bad(""), "broken route"),
        (limits("overrides atomic", &[("a", 1)]), bad(""), "a 1"),
    ] {
        let policy = world()
            .policy("RateLimitPolicy", "ns/gateway", "Gateway gw", &gateway)
            .policy("RateLimitPolicy", "ns/route", "HTTPRoute a", &route)
            .compile();
        assert_eq!(met(&policy, "in.example.com", "/chat"), [expected], "{gateway} over {route}");
    }
}

/// Of a thousand rules of routes that the same policies are for, each would be as much work as the first.
#[test]
fn what_policies_make_is_found_out_once() {
    let policy = world()
        .policy("RateLimitPolicy", "ns/gateway", "Gateway gw", &limits("defaults merge", &[("a", 1), ("b", 2)]))
        .policy("RateLimitPolicy", "ns/route", "HTTPRoute a", &limits("", &[("b", 20)]))
        .auth("ns/auth", "Gateway gw")
        .sound();
    let given_way = ["/chat", "/rest"].map(|path| {
        let plan = policy.route(None, &request("in.example.com", path)).unwrap();
        assert_eq!(plan.overridden.iter().map(|all| all.len()).collect::<Vec<_>>(), [1]);
        Arc::clone(&plan.overridden[0])
    });
    assert!(Arc::ptr_eq(&given_way[0], &given_way[1]));
}

/// What an AuthPolicy's rules are called, wherever they are from.
pub(super) fn rules(policy: &Policy) -> Vec<String> {
    let plan = policy.route(None, &request("in.example.com", "/chat")).unwrap();
    let Attached::Active(auth) = &plan.auth else { panic!("{:?}", plan.auth) };
    let rules = &auth.rules;
    let from = |kind: &str, name: &str, origin: &ObjectName| format!("{kind} {name} of {}", origin.name);
    let mut named: Vec<_> = rules.authentication.iter().map(|r| from("authentication", &r.name, &r.origin)).collect();
    named.extend(rules.authorization.iter().map(|r| from("authorization", &r.name, &r.origin)));
    named.extend(rules.filters.iter().map(|r| from("filter", &r.name, &r.origin)));
    named.extend(rules.when.iter().map(|r| from("rule", &r.name, &r.origin)));
    named.extend(rules.unauthorized.iter().map(|r| from("rule", &r.name, &r.origin)));
    named
}

#[test]
fn auth_policies_merge_rule_by_rule() {
    let gateway = "when: [{predicate: 'true'}], rules: {authentication: {sa: {kubernetesTokenReview: {audiences: [a]}}}, authorization: {a: \
                   {patternMatching: {patterns: []}}, b: {patternMatching: {patterns: []}}}, response: {unauthorized: {code: 404}}}";
    let route = "rules: {authorization: {b: {patternMatching: {patterns: []}}}, response: {success: {filters: {identity: \
                 {plain: {value: x}}}}}}";
    for (block, expected) in [
        (
            "defaults",
            [
                "authentication sa of gateway",
                "authorization b of route",
                "authorization a of gateway",
                "filter identity of route",
                "rule when of gateway",
                "rule unauthorized of gateway",
            ],
        ),
        (
            "overrides",
            [
                "authentication sa of gateway",
                "authorization a of gateway",
                "authorization b of gateway",
                "filter identity of route",
                "rule when of gateway",
                "rule unauthorized of gateway",
            ],
        ),
    ] {
        let policy = world()
            .policy("AuthPolicy", "ns/gateway", "Gateway gw", &format!("{block}: {{strategy: merge, {gateway}}}"))
            .policy("AuthPolicy", "ns/route", "HTTPRoute a", route)
            .sound();
        assert_eq!(rules(&policy), expected, "{block}");
    }
}

#[test]
fn patterns_that_lead_nowhere_or_in_a_circle_or_to_too_much_shut_the_target() {
    let with = |patterns: &str, when: &str| {
        format!(
            "patterns: {{{patterns}}}, rules: {{authentication: {{sa: {{kubernetesTokenReview: {{}}, when: [{when}]}}}}}}"
        )
    };
    let ten = |at: usize| vec![format!("{{patternRef: p{at}}}"); 10].join(", ");
    let laughs = (0..3).map(|at| format!("p{at}: {{allOf: [{}]}}", ten(at + 1))).chain(["p3: {allOf: []}".to_owned()]);
    let laughs = laughs.collect::<Vec<_>>().join(", ");
    for (rest, phrase) in [
        (with("", "{patternRef: gone}"), "refers to patterns `gone`, which are not there"),
        (with("a: {allOf: [{patternRef: a}]}", "{patternRef: a}"), "`a`, which lead to themselves"),
        (
            with("a: {allOf: [{patternRef: b}]}, b: {allOf: [{any: [{patternRef: a}]}]}", "{all: [{patternRef: a}]}"),
            "which lead to themselves",
        ),
        (with(&laughs, "{patternRef: p0}"), "comes to 1111 conditions through the patterns that it names"),
    ] {
        let policy = world().policy("AuthPolicy", "ns/auth", "Gateway gw", &rest).compile();
        let plan = policy.route(None, &request("in.example.com", "/chat")).unwrap();
        assert!(matches!(&plan.auth, Attached::Broken(name) if &*name.name == "auth"), "{rest}");
        let problem = policy.problems.iter().find(|problem| problem.is_error()).unwrap();
        assert!(problem.message.contains(phrase), "{problem}");
    }
    // Patterns of another level count, once they are merged.
    let policy = world()
        .policy(
            "AuthPolicy",
            "ns/gateway",
            "Gateway gw",
            "defaults: {strategy: merge, patterns: {a: {allOf: [{selector: request.method, operator: eq, value: POST}]}}, \
             rules: {authentication: {sa: {kubernetesTokenReview: {audiences: [a]}}}}}",
        )
        .policy(
            "AuthPolicy",
            "ns/route",
            "HTTPRoute a",
            "rules: {authorization: {post: {patternMatching: {patterns: [{patternRef: a}]}}}}",
        )
        .sound();
    assert_eq!(rules(&policy), ["authentication sa of gateway", "authorization post of route"]);
}

#[test]
fn a_section_that_is_not_there_is_warned_about() {
    let policy = world()
        .policy("RateLimitPolicy", "ns/a", &section("Gateway gw", "inn"), &limits("", &[("a", 1)]))
        .policy("RateLimitPolicy", "ns/b", &section("HTTPRoute a", "rule-1"), &limits("", &[("a", 1)]))
        .auth("ns/auth", "Gateway gw")
        .compile();
    let told: Vec<_> = policy.problems.iter().map(|p| (&*p.message, p.remedy.as_deref().unwrap_or_default())).collect();
    assert_eq!(
        told,
        [
            ("Gateway ns/gw has no section `inn`, so the policy has no effect", "did you mean `in`?"),
            ("HTTPRoute ns/a has no section `rule-1`, so the policy has no effect", "did you mean `rule-2`?"),
        ]
    );
}

#[test]
fn limits_of_a_listener_or_rule_count_by_themselves() {
    let policy = world()
        .policy("RateLimitPolicy", "ns/in", &section("Gateway gw", "in"), &limits("", &[("a", 1)]))
        .policy("RateLimitPolicy", "ns/out", &section("Gateway gw", "out"), &limits("", &[("a", 1)]))
        .sound();
    let cell = |host: &str, path: &str| match &policy.route(None, &request(host, path)).unwrap().limits[0] {
        Attached::Active(limits) => limits.limits()[0].rates[0].0,
        other => panic!("{other:?}"),
    };
    assert_eq!(cell("in.example.com", "/chat"), cell("in.example.com", "/rest"));
    assert_ne!(cell("in.example.com", "/chat"), cell("out.example.com", "/chat"));
}

// === listeners ===

/// The listener or route, by the limit that is met.
fn listener_of(policy: &Policy, asked: &Request<'_>) -> Result<String, Code> {
    let plan = policy.route(None, asked).map_err(|denial| denial.code)?;
    match plan.limits.first() {
        Some(Attached::Active(limits)) => Ok(limits.policy.name.to_string()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_request_belongs_to_the_listener_with_the_most_specific_host() {
    let listener =
        |name: &str, host: &str| format!("{{name: {name}, {host}allowedRoutes: {{namespaces: {{from: All}}}}}}");
    let listeners = [
        listener("any", ""),
        listener("wide", "hostname: '*.example.com', "),
        listener("narrow", "hostname: '*.in.example.com', "),
        listener("exact", "hostname: a.in.example.com, "),
    ];
    let world = World::default().gateway("ns/gw", &listeners.join(", ")).route("ns/a", "");
    let world = ["any", "wide", "narrow", "exact"].iter().fold(world, |world, name| {
        world.policy("RateLimitPolicy", &format!("ns/{name}"), &section("Gateway gw", name), &limits("", &[("a", 1)]))
    });
    // Only attached to the widest: what belongs to another listener is not for it.
    let policy = world
        .clone()
        .route_to("{name: gw, sectionName: wide}", "ns/b", "rules: [{matches: [{path: {value: /b}}]}]")
        .compile();
    for (host, expected) in [
        ("other.org", "any"),
        ("example.com", "any"),
        ("x.example.com", "wide"),
        ("x.in.example.com", "narrow"),
        ("A.in.example.com:8080", "exact"),
    ] {
        assert_eq!(listener_of(&policy, &request(host, "/")).as_deref(), Ok(expected), "{host}");
    }
    let named = Request { listener: Some("wide"), ..request("a.in.example.com", "/") };
    assert_eq!(listener_of(&policy, &named).as_deref(), Ok("wide"), "the operator says so");
    let unknown = Request { listener: Some("gone"), ..request("a.in.example.com", "/") };
    assert_eq!(listener_of(&policy, &unknown), Err(Code::UnavailableGateway));
    let at = |host: &str| policy.route(None, &request(host, "/b")).map(|plan| plan.name.to_string());
    assert_eq!(at("x.example.com").as_deref(), Ok("ns/b"));
    assert_eq!(at("x.in.example.com").as_deref(), Ok("ns/a"));
}

#[test]
fn listeners_of_one_host_are_told_apart_by_port_and_else_not_at_all() {
    let listeners = "{name: http, port: 80, allowedRoutes: {namespaces: {from: All}}}, \
                     {name: https, port: 443, allowedRoutes: {namespaces: {from: All}}}";
    let world = World::default().gateway("ns/gw", listeners).route("ns/a", "");
    let plain = world.clone().requests("ns/both", "Gateway gw").sound();
    assert_eq!(listener_of(&plain, &request("h", "/")).as_deref(), Ok("both"));
    let policy = world
        .policy("RateLimitPolicy", "ns/http", &section("Gateway gw", "http"), &limits("", &[("a", 1)]))
        .policy("RateLimitPolicy", "ns/https", &section("Gateway gw", "https"), &limits("", &[("a", 1)]))
        .auth("ns/auth", "Gateway gw")
        .sound();
    let at = |port| listener_of(&policy, &Request { port, ..request("h", "/") });
    assert_eq!(at(Some(80)).as_deref(), Ok("http"));
    assert_eq!(at(Some(443)).as_deref(), Ok("https"));
    // Behind a Service, Envoy's port is another; then it cannot be told.
    assert_eq!(at(Some(8443)), Err(Code::UnavailableGateway));
    assert_eq!(at(None), Err(Code::UnavailableGateway));
    let named = Request { listener: Some("https"), port: Some(8443), ..request("h", "/") };
    assert_eq!(listener_of(&policy, &named).as_deref(), Ok("https"));
}

#[test]
fn a_tls_connection_is_for_the_hosts_of_its_listener() {
    let policy = world()
        .policy("RateLimitPolicy", "ns/in", &section("Gateway gw", "in"), &limits("", &[("a", 1)]))
        .policy("RateLimitPolicy", "ns/out", &section("Gateway gw", "out"), &limits("", &[("a", 1)]))
        .auth("ns/auth", "Gateway gw")
        .sound();
    let at = |sni, host| listener_of(&policy, &Request { sni, ..request(host, "/chat") });
    assert_eq!(at(Some("in.example.com"), "in.example.com").as_deref(), Ok("in"));
    assert_eq!(at(Some("IN.example.com"), "in.example.com:443").as_deref(), Ok("in"));
    assert_eq!(at(Some("out.example.com"), "in.example.com"), Err(Code::RequestInvalid));
    // A name that no listener has was not what chose one.
    assert_eq!(at(Some("else.example.com"), "in.example.com").as_deref(), Ok("in"));
    assert_eq!(at(None, "in.example.com").as_deref(), Ok("in"));
}
