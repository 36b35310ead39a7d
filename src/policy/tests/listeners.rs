//! Listeners that share a port, or a host name.

use super::*;

const ALL: &str = "allowedRoutes: {namespaces: {from: All}}";

/// A listener, by name, port and host name.
fn listener(name: &str, port: u16, hostname: &str) -> String {
    let hostname = if hostname.is_empty() { String::new() } else { format!("hostname: '{hostname}', ") };
    format!("{{name: {name}, port: {port}, {hostname}{ALL}}}")
}

fn world(listeners: &[String]) -> World {
    World::default().gateway("ns/gw", &listeners.join(", "))
}

fn at(policy: &Policy, host: &str, path: &str, port: Option<u16>) -> Result<String, Code> {
    found(policy, &Request { port, ..request(host, path) }).map(str::to_owned)
}

/// One virtual host of Envoy is asked, and no other.
#[test]
fn a_host_whose_most_specific_name_has_no_match_is_unknown() {
    let policy = World::new()
        .route("ns/exact", "hostnames: [a.example.com], rules: [{matches: [{path: {value: /a}}]}]")
        .route("ns/narrow", "hostnames: ['*.in.example.com'], rules: [{matches: [{path: {value: /n}}]}]")
        .route("ns/wide", "hostnames: ['*.example.com'], rules: [{matches: [{path: {value: /w}}]}]")
        .route("ns/any", "")
        .sound();
    for (host, path, expected) in [
        ("a.example.com", "/a", Ok("ns/exact")),
        ("a.example.com", "/w", Err(Code::RouteUnknown)),
        ("a.example.com", "/x", Err(Code::RouteUnknown)),
        ("b.in.example.com", "/n", Ok("ns/narrow")),
        ("b.in.example.com", "/w", Err(Code::RouteUnknown)),
        ("b.example.com", "/w", Ok("ns/wide")),
        ("b.example.com", "/x", Err(Code::RouteUnknown)),
        ("example.com", "/x", Ok("ns/any")),
    ] {
        assert_eq!(found(&policy, &request(host, path)), expected, "{host}{path}");
    }
}

#[test]
fn a_match_that_nothing_fits_keeps_its_host() {
    let policy = World::new()
        .route("ns/odd", "hostnames: [a.example.com], rules: [{matches: [{path: {value: '/a;b'}}]}]")
        .route("ns/any", "")
        .compile();
    assert_eq!(found(&policy, &request("a.example.com", "/x")), Err(Code::RouteUnknown));
    assert_eq!(found(&policy, &request("b.example.com", "/x")), Ok("ns/any"));
}

#[test]
fn the_port_goes_before_the_host_name() {
    let listeners = [listener("named", 80, "a.example.com"), listener("any", 8080, "")];
    let policy = world(&listeners)
        .route_to("{name: gw, sectionName: named}", "ns/named", "")
        .route_to("{name: gw, sectionName: any}", "ns/any", "")
        .sound();
    for (host, port, expected) in [
        ("a.example.com", Some(80), Ok("ns/named")),
        ("a.example.com", Some(8080), Ok("ns/any")),
        ("b.example.com", Some(80), Err(Code::RouteUnknown)),
        ("b.example.com", Some(8080), Ok("ns/any")),
        // A port that no listener names could be either's.
        ("a.example.com", Some(9), Err(Code::UnavailableGateway)),
        ("a.example.com", None, Err(Code::UnavailableGateway)),
        ("b.example.com", None, Ok("ns/any")),
    ] {
        assert_eq!(at(&policy, host, "/", port), expected.map(str::to_owned), "{host} {port:?}");
    }
}

/// As a redirect to HTTPS has its own route.
#[test]
fn listeners_of_one_host_name_with_different_routes_are_two() {
    let listeners = [listener("http", 80, ""), listener("https", 443, "")];
    let policy = world(&listeners)
        .route_to("{name: gw, sectionName: http}", "ns/a-redirect", "")
        .route_to("{name: gw, port: 443}", "ns/models", "")
        .sound();
    assert_eq!(at(&policy, "h", "/", Some(80)).as_deref(), Ok("ns/a-redirect"));
    assert_eq!(at(&policy, "h", "/", Some(443)).as_deref(), Ok("ns/models"));
    assert_eq!(at(&policy, "h", "/", None), Err(Code::UnavailableGateway));
}

/// Both of which Envoy would send to a route of the wider listener.
#[test]
fn what_strays_to_a_wider_listener_is_not_decided() {
    let listeners = [listener("wide", 80, "*.example.com"), listener("narrow", 80, "*.in.example.com")];
    let section = |name: &str| format!("{{name: gw, sectionName: {name}}}");
    let policy = world(&listeners)
        .route_to(&section("wide"), "ns/wide", "rules: [{matches: [{path: {value: /w}}]}]")
        .route_to(&section("narrow"), "ns/narrow", "hostnames: [a.in.example.com]")
        .sound();
    assert_eq!(at(&policy, "a.in.example.com", "/w", None).as_deref(), Ok("ns/narrow"));
    assert_eq!(at(&policy, "b.in.example.com", "/w", None), Err(Code::UnavailableGateway));
    assert_eq!(at(&policy, "b.in.example.com", "/x", None), Err(Code::RouteUnknown));
    // A route of the wider one that names a host of the narrower: left out by Istio, served by Envoy Gateway.
    let below = |order: &str| {
        let world = world(&listeners)
            .route_to(&section("wide"), "ns/below", "hostnames: [a.in.example.com, b.example.com]")
            .route_to(&section("narrow"), "ns/narrow", "");
        let annotated =
            format!("metadata: {{name: gw, namespace: ns, annotations: {{tiergate.io/route-order: {order}}}}}");
        World { text: world.text.replacen("metadata: {name: gw, namespace: ns}", &annotated, 1), ..world }.sound()
    };
    let (istio, envoy_gateway) = (below("gateway-api"), below("envoy-gateway"));
    assert_eq!(at(&istio, "a.in.example.com", "/", None).as_deref(), Ok("ns/narrow"));
    assert_eq!(at(&envoy_gateway, "a.in.example.com", "/", None), Err(Code::UnavailableGateway));
    for policy in [istio, envoy_gateway] {
        assert_eq!(at(&policy, "b.in.example.com", "/", None).as_deref(), Ok("ns/narrow"));
        assert_eq!(at(&policy, "b.example.com", "/", None).as_deref(), Ok("ns/below"));
    }
}

/// Envoy Gateway moves ports that only root may open by 10,000.
#[test]
fn a_port_that_envoy_gateway_moved_is_the_listeners() {
    let listeners = [listener("http", 80, ""), listener("https", 443, "")];
    let world = world(&listeners).route_to("{name: gw, sectionName: http}", "ns/plain", "").route_to(
        "{name: gw, sectionName: https}",
        "ns/models",
        "",
    );
    let text = world.text.replacen(
        "metadata: {name: gw, namespace: ns}",
        "metadata: {name: gw, namespace: ns, annotations: {tiergate.io/route-order: envoy-gateway}}",
        1,
    );
    let moved = World { text, ..world.clone() }.sound();
    assert_eq!(at(&moved, "h", "/", Some(10_443)).as_deref(), Ok("ns/models"));
    assert_eq!(at(&moved, "h", "/", Some(10_080)).as_deref(), Ok("ns/plain"));
    assert_eq!(at(&world.sound(), "h", "/", Some(10_443)), Err(Code::UnavailableGateway));
}

/// Istio has the matches of one name of routes after those of another, by age, and what fits everything last.
#[test]
fn routes_that_name_one_host_differently_are_undecided_where_both_fit() {
    let listeners = [listener("http", 80, "a.example.com")];
    let matching = |paths: &str| format!("rules: [{{matches: [{paths}]}}]");
    let world = world(&listeners)
        .route(
            "ns/named",
            &format!("hostnames: [a.example.com], {}", matching("{path: {value: /llm}}, {path: {value: /}}")),
        )
        .route(
            "ns/wide",
            &format!("hostnames: ['*.example.com'], {}", matching("{path: {value: /llm/a}}, {path: {value: /w}}")),
        )
        .route("ns/nameless", &matching("{path: {value: /n}}, {path: {value: /}, method: GET}"));
    let policies = |world: World| {
        ["named", "wide", "nameless"]
            .iter()
            .fold(world, |world, name| world.auth(&format!("ns/{name}"), &format!("HTTPRoute {name}")))
    };
    let apart = policies(world.clone()).sound();
    for (path, expected) in [
        ("/llm", Ok("ns/named")),
        ("/llm/a", Err(Code::UnavailableGateway)),
        ("/w", Ok("ns/wide")),
        ("/n", Ok("ns/nameless")),
        ("/x", Ok("ns/named")),
    ] {
        assert_eq!(at(&apart, "a.example.com", path, None), expected.map(str::to_owned), "{path}");
    }
    // Where the same policies apply, it makes no difference.
    let together = world.clone().auth("ns/all", "Gateway gw").sound();
    assert!(at(&together, "a.example.com", "/llm/a", None).is_ok());
    // All together, in Envoy Gateway's order.
    let text = policies(world).text.replacen(
        "metadata: {name: gw, namespace: ns}",
        "metadata: {name: gw, namespace: ns, annotations: {tiergate.io/route-order: envoy-gateway}}",
        1,
    );
    let policy = World { text, ..World::default() }.sound();
    assert_eq!(at(&policy, "a.example.com", "/llm/a", None).as_deref(), Ok("ns/wide"));
}

/// What is looked at does not grow with the number of routes: each path has its own candidates.
#[test]
fn a_thousand_routes_are_each_found() {
    let matches = |route: usize| {
        let one = |at: usize| format!("{{path: {{value: /llm/m{route}-{at}}}, headers: [{{name: x, value: '{at}'}}]}}");
        (0..8).map(one).collect::<Vec<_>>().join(", ")
    };
    let add = |world: World, route: usize| {
        world.route(&format!("ns/r{route}"), &format!("rules: [{{matches: [{}]}}]", matches(route)))
    };
    let policy = (0..1_000).fold(World::new(), add).sound();
    for route in (0..1_000).step_by(37) {
        let (path, name) = (format!("/llm/m{route}-7/v1"), format!("ns/r{route}"));
        let with = |value: &'static [u8]| Request { headers: Headers::List(vec![("x", value)]), ..request("h", &path) };
        assert_eq!(found(&policy, &with(b"7")), Ok(&*name));
        assert_eq!(found(&policy, &with(b"6")), Err(Code::RouteUnknown));
    }
}
