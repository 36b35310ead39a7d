//! Policies that name no audience, so that the host of a request is one.

use super::*;

/// A world with one route, on a listener of this host name and with these of its own; empty for none.
fn world(listener: &str, route: &str) -> World {
    let hostname = if listener.is_empty() { String::new() } else { format!("hostname: '{listener}', ") };
    let gateway = format!("{{name: http, {hostname}allowedRoutes: {{namespaces: {{from: All}}}}}}");
    let hostnames = if route.is_empty() { String::new() } else { format!("hostnames: [{route}]") };
    World::default().gateway("ns/gw", &gateway).route("ns/r", &hostnames)
}

fn with_policy(world: World, rest: &str) -> Policy {
    world.policy("AuthPolicy", "ns/auth", "Gateway gw", rest).compile()
}

const HOST: &str = "rules: {authentication: {sa: {kubernetesTokenReview: {}}}}";

/// Of the plans: whether each is shut.
fn shut(policy: &Policy) -> Vec<bool> {
    let plans = policy.gateways.iter().flat_map(GatewayPlan::plans);
    plans.map(|plan| matches!(plan.auth, Attached::Broken(_))).collect()
}

fn findings(policy: &Policy) -> Vec<(Finding, Severity)> {
    policy.problems.iter().map(|problem| (problem.code, problem.severity)).collect()
}

#[test]
fn the_host_is_an_audience_only_where_it_is_spelled_out() {
    for (listener, route, spelled) in [
        ("", "", false),
        ("", "a.example.com", true),
        ("", "a.example.com, b.example.com", true),
        ("", "'*.example.com'", false),
        ("", "a.example.com, '*.example.org'", false),
        ("a.example.com", "", true),
        ("a.example.com", "'*.example.com'", true),
        ("*.example.com", "", false),
        ("*.example.com", "a.example.com", true),
        ("*.example.com", "'*.a.example.com'", false),
    ] {
        let policy = with_policy(world(listener, route), HOST);
        let error = (Finding::AudienceMissing, Severity::Error);
        let expected = if spelled { vec![] } else { vec![error] };
        assert_eq!(findings(&policy), expected, "`{listener}` `{route}`: {}", shown(&policy.problems));
        assert!(shut(&policy).iter().all(|shut| *shut != spelled), "`{listener}` `{route}`");
    }
}

#[test]
fn whoever_names_audiences_or_asks_for_no_token_needs_no_host() {
    for rest in [
        "rules: {authentication: {sa: {kubernetesTokenReview: {audiences: [a]}}}}",
        "rules: {authentication: {open: {anonymous: {}}}}",
        "rules: {authentication: {other: {plain: {selector: request.headers.x-user}}}}",
    ] {
        let policy = with_policy(world("", ""), rest);
        assert_eq!(shut(&policy), [false], "{rest}: {}", shown(&policy.problems));
    }
    for rest in [
        "rules: {authentication: {sa: {kubernetesTokenReview: {audiences: []}}}}",
        "defaults: {rules: {authentication: {sa: {kubernetesTokenReview: {}}}}}",
        "overrides: {strategy: merge, rules: {authentication: {sa: {kubernetesTokenReview: {timeout: 100}}}}}",
        "rules: {authentication: {a: {kubernetesTokenReview: {audiences: [a]}}, b: {kubernetesTokenReview: {}, when: \
         [{predicate: 'false'}]}}}",
    ] {
        assert_eq!(shut(&with_policy(world("", ""), rest)), [true], "{rest}");
    }
}

#[test]
fn one_finding_tells_of_all_routes_of_a_rule_and_only_they_are_shut() {
    let world = world("", "").route("ns/q", "").route("ns/named", "hostnames: [a.example.com]");
    let policy = with_policy(world, HOST);
    let [problem] = policy.problems.as_slice() else { panic!("{}", shown(&policy.problems)) };
    assert!(problem.message.contains("HTTPRoute ns/q and 1 more"), "{problem}");
    assert_eq!(problem.object.as_ref().unwrap().to_string(), "AuthPolicy ns/auth");
    assert!(problem.remedy.as_ref().unwrap().contains("`audiences`"), "{problem}");
    let plan = |host| &policy.route(None, &request(host, "/")).unwrap().auth;
    assert!(matches!(plan("a.example.com"), Attached::Active(_)));
    assert!(matches!(plan("vault"), Attached::Broken(_)));
}

/// Where requests are answered 503, nothing is in force.
#[test]
fn a_policy_that_shuts_every_route_is_not_enforced() {
    let enforced = |policy: &Policy, name: &str| {
        let [_, enforced] = &policy.conditions()[&ObjectName::new("AuthPolicy", "ns", name)];
        (enforced.holds, enforced.message.clone())
    };
    let shut = || (false, "it is not in force, and requests that it is for are answered 503".to_owned());
    assert_eq!(enforced(&with_policy(world("", ""), HOST), "auth"), shut());
    let elsewhere = world("", "").route("ns/named", "hostnames: [a.example.com]");
    assert_eq!(enforced(&with_policy(elsewhere, HOST), "auth"), (true, "it is in force".to_owned()));
    // Each is right by itself; what they make together is not.
    let gateway =
        "defaults: {strategy: merge, rules: {authentication: {sa: {kubernetesTokenReview: {audiences: [a]}}}}}";
    let route =
        "rules: {authorization: {x: {patternMatching: {patterns: [{predicate: 'auth.metadata.gone.a == 1'}]}}}}";
    let policy = world("", "").policy("AuthPolicy", "ns/gw", "Gateway gw", gateway).policy(
        "AuthPolicy",
        "ns/route",
        "HTTPRoute r",
        route,
    );
    let policy = policy.compile();
    assert_eq!(self::shut(&policy), [true]);
    assert_eq!(enforced(&policy, "route"), shut());
    assert!(!enforced(&policy, "gw").0);
}

#[test]
fn a_policy_in_shadow_shuts_nothing() {
    let text = "---\napiVersion: kuadrant.io/v1\nkind: AuthPolicy\nmetadata: {name: auth, namespace: ns, annotations: \
                {tiergate.io/shadow: 'true'}}\nspec: {targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: gw}, ";
    let policy = world("", "").text(&format!("{text}{HOST}}}\n")).compile();
    assert_eq!(findings(&policy), [(Finding::AudienceMissing, Severity::Error)], "{}", shown(&policy.problems));
    assert_eq!(policy.problems[0].in_force, Some(crate::problem::InForce::Nothing));
    match &policy.route(None, &request("vault", "/")).unwrap().auth {
        Attached::Active(plan) => assert!(plan.shadow && plan.rules.broken.is_some()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_name_of_the_gateway_that_serve_is_told_of_has_to_be_there() {
    let told = |name: &str| {
        let options = Options { gateway: Some(name.to_owned()), ..Options::default() };
        shown(&World::new().options(options).compile().problems)
    };
    assert_eq!(told("ns/gw"), "");
    let near = told("ns/gww");
    assert!(near.starts_with("--gateway: error[gateway-unknown]: no Gateway ns/gww is there"), "{near}");
    assert!(near.contains("did you mean `ns/gw`?"), "{near}");
    assert!(told("elsewhere/edge").contains("one of ns/gw"));
}
