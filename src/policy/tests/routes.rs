use super::*;

/// Routes of namespace `ns`, each named for its match, in the order given.
fn routes(matches: &[(&str, &str)]) -> Policy {
    let add = |world: World, (name, one): &(&str, &str)| world.matching(&format!("ns/{name}"), one);
    matches.iter().fold(World::new(), add).sound()
}

/// Whether the route matches, for a Gateway with that route alone.
fn matches(one: &str, request: &Request<'_>) -> bool {
    match found(&routes(&[("r", one)]), request) {
        Ok(_) => true,
        Err(Code::RouteUnknown) => false,
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn prefix_matches_whole_segments() {
    for (prefix, path, fits) in [
        ("/llm/a", "/llm/a", true),
        ("/llm/a", "/llm/a/", true),
        ("/llm/a", "/llm/a/b/c", true),
        ("/llm/a", "/llm/ab", false),
        ("/llm/a", "/llm", false),
        ("/llm/a", "/llm/", false),
        ("/llm/a", "/x/llm/a", false),
        ("/llm/a", "/LLM/a", false),
        ("/llm/a/", "/llm/a", true),
        ("/llm/a/", "/llm/a/b", true),
        ("/llm/a/", "/llm/ab", false),
        ("/", "/", true),
        ("/", "/anything/at/all", true),
    ] {
        let one = format!("path: {{type: PathPrefix, value: {prefix}}}");
        assert_eq!(matches(&one, &request("h", path)), fits, "{prefix} {path}");
    }
}

#[test]
fn exact_path_is_exact() {
    for (exact, path, fits) in [
        ("/a", "/a", true),
        ("/a", "/a/", false),
        ("/a/", "/a/", true),
        ("/a/", "/a", false),
        ("/a", "/a/b", false),
        ("/a", "/A", false),
        ("/", "/", true),
        ("/", "/a", false),
    ] {
        let one = format!("path: {{type: Exact, value: {exact}}}");
        assert_eq!(matches(&one, &request("h", path)), fits, "{exact} {path}");
    }
}

#[test]
fn regular_expression_matches_the_whole_path() {
    let one = "path: {type: RegularExpression, value: '/v[0-9]|/x'}";
    for (path, fits) in [("/v1", true), ("/x", true), ("/v1/", false), ("/a/v1", false), ("/v12", false)] {
        assert_eq!(matches(one, &request("h", path)), fits, "{path}");
    }
}

#[test]
fn method_headers_and_query_all_have_to_fit() {
    let one = "method: POST, headers: [{name: X-Team, value: red}, {name: x-n, type: RegularExpression, value: '[0-9]+'}], \
               queryParams: [{name: v, value: '1'}]";
    let with = |method: &'static str, headers: &[(&'static str, &'static [u8])], query: Option<&'static str>| Request {
        method,
        headers: Headers::List(headers.to_vec()),
        query,
        ..request("h", "/")
    };
    let (team, number) = (("x-team", &b"red"[..]), ("X-N", &b"42"[..]));
    for (method, headers, query, fits) in [
        ("POST", &[team, number][..], Some("v=1"), true),
        ("POST", &[number, team], Some("a=b&v=1&c"), true),
        ("GET", &[team, number], Some("v=1"), false),
        ("PUT", &[team, number], Some("v=1"), false),
        ("POST", &[team], Some("v=1"), false),
        ("POST", &[("x-team", b"RED"), number], Some("v=1"), false),
        ("POST", &[team, ("x-n", b"42a")], Some("v=1"), false),
        ("POST", &[team, number], None, false),
        ("POST", &[team, number], Some(""), false),
        ("POST", &[team, number], Some("v=2"), false),
        ("POST", &[team, number], Some("V=1"), false),
        // The first parameter of a name decides.
        ("POST", &[team, number], Some("v=1&v=2"), true),
        ("POST", &[team, number], Some("v=2&v=1"), false),
        // Nothing is decoded.
        ("POST", &[team, number], Some("%76=1"), false),
        ("POST", &[team, number], Some("v=%31"), false),
    ] {
        let request = with(method, headers, query);
        assert_eq!(matches(one, &request), fits, "{request:?}");
    }
}

#[test]
fn any_match_of_any_rule_is_enough_and_a_rule_without_matches_matches() {
    let policy = World::new()
        .route(
            "ns/several",
            "rules: [{matches: [{path: {value: /a}}, {path: {value: /b}}]}, {matches: [{path: {value: /c}}]}]",
        )
        .route("ns/rest", "rules: [{backendRefs: []}]")
        .sound();
    for (path, route) in [("/a", "ns/several"), ("/b", "ns/several"), ("/c/d", "ns/several"), ("/d", "ns/rest")] {
        assert_eq!(found(&policy, &request("h", path)), Ok(route), "{path}");
    }
    let policy = World::new().route("ns/bare", "").sound();
    assert_eq!(found(&policy, &request("h", "/x")), Ok("ns/bare"));
}

/// Gateway API, `HTTPRouteRule.matches`: each row names two routes that both match, the winner first.
#[test]
fn precedence_of_matches_is_that_of_the_gateway_api() {
    let request = Request {
        query: Some("p=1&q=1"),
        headers: Headers::List(vec![("a", b"1"), ("b", b"1"), ("c", b"1")]),
        ..request("h", "/llm/a/b")
    };
    let header = |names: &[&str]| {
        let one = |name: &&str| format!("{{name: {name}, value: '1'}}");
        format!("headers: [{}]", names.iter().map(one).collect::<Vec<_>>().join(", "))
    };
    let (one, three) = (header(&["a"]), header(&["a", "b", "c"]));
    let (p, pq) =
        ("queryParams: [{name: p, value: '1'}]", "queryParams: [{name: p, value: '1'}, {name: q, value: '1'}]");
    let exact = "path: {type: Exact, value: /llm/a/b}";
    let (longer, shorter) = ("path: {value: /llm/a}", "path: {value: /llm}");
    let regex = "path: {type: RegularExpression, value: '/llm/.*'}";
    for (what, winner, loser) in [
        ("exact path", exact.to_owned(), format!("path: {{value: /llm/a/b}}, method: POST, {three}, {pq}")),
        ("longest prefix", longer.to_owned(), format!("{shorter}, method: POST, {three}, {pq}")),
        ("method", format!("{longer}, method: POST"), format!("{longer}, {three}, {pq}")),
        ("more headers", format!("{longer}, {three}"), format!("{longer}, {one}, {pq}")),
        (
            "more headers beside a method",
            format!("{longer}, method: POST, {three}"),
            format!("{longer}, method: POST, {one}"),
        ),
        ("more query parameters", format!("{longer}, {one}, {pq}"), format!("{longer}, {one}, {p}")),
        ("anything over nothing", format!("{longer}, {p}"), longer.to_owned()),
        ("a regular expression last", shorter.to_owned(), format!("{regex}, method: POST, {three}")),
        ("even after the root", "method: POST".to_owned(), format!("{regex}, method: POST, {three}")),
    ] {
        // Whatever the names say, and the order in the file.
        for names in [["a", "z"], ["z", "a"]] {
            let policy = routes(&[(names[0], &winner), (names[1], &loser)]);
            assert_eq!(found(&policy, &request), Ok(&*format!("ns/{}", names[0])), "{what}");
            let policy = routes(&[(names[1], &loser), (names[0], &winner)]);
            assert_eq!(found(&policy, &request), Ok(&*format!("ns/{}", names[0])), "{what}");
        }
    }
}

#[test]
fn equal_matches_go_to_the_first_route_by_namespace_and_name() {
    for order in [["b/a", "a/z", "a/b"], ["a/b", "a/z", "b/a"], ["a/z", "b/a", "a/b"]] {
        let add = |world: World, path: &&str| world.matching(path, "path: {value: /x}");
        let policy = order.iter().fold(World::new(), add).sound();
        assert_eq!(found(&policy, &request("h", "/x")), Ok("a/b"), "{order:?}");
    }
}

#[test]
fn better_match_that_does_not_fit_gives_way() {
    let policy = routes(&[
        ("exact", "path: {type: Exact, value: /a/b}, method: GET"),
        ("long", "path: {value: /a/b}, headers: [{name: x, value: '1'}]"),
        ("long-too", "path: {value: /a/b}, method: PUT"),
        ("short", "path: {value: /a}"),
    ]);
    for (method, header, route) in
        [("GET", "1", "ns/exact"), ("PUT", "1", "ns/long-too"), ("POST", "1", "ns/long"), ("POST", "2", "ns/short")]
    {
        let request =
            Request { method, headers: Headers::List(vec![("x", header.as_bytes())]), ..request("h", "/a/b") };
        assert_eq!(found(&policy, &request), Ok(route), "{method} {header}");
    }
}

// === hosts ===

/// One route for each list of host names, all for every path.
fn by_hosts(routes: &[(&str, &str)]) -> Policy {
    let add = |world: World, (name, hosts): &(&str, &str)| {
        let hosts = if hosts.is_empty() { String::new() } else { format!("hostnames: [{hosts}]") };
        world.route(&format!("ns/{name}"), &hosts)
    };
    routes.iter().fold(World::new(), add).sound()
}

#[test]
fn exact_host_goes_before_the_longest_wildcard_before_none() {
    let policy = by_hosts(&[
        ("any", ""),
        ("wide", "'*.example.com'"),
        ("narrow", "'*.a.example.com'"),
        ("exact", "b.a.example.com"),
    ]);
    for (host, route) in [
        ("b.a.example.com", "ns/exact"),
        ("c.a.example.com", "ns/narrow"),
        ("x.b.a.example.com", "ns/narrow"),
        ("a.example.com", "ns/wide"),
        ("x.y.example.com", "ns/wide"),
        // A wildcard stands for at least one label.
        ("example.com", "ns/any"),
        (".example.com", "ns/any"),
        ("badexample.com", "ns/any"),
        ("example.com.evil.org", "ns/any"),
        ("", "ns/any"),
        ("localhost", "ns/any"),
    ] {
        assert_eq!(found(&policy, &request(host, "/")), Ok(route), "{host:?}");
    }
}

#[test]
fn port_and_case_of_a_host_do_not_matter() {
    let policy = by_hosts(&[("exact", "Models.Example.com"), ("wild", "'*.Example.org'")]);
    for (host, route) in [
        ("models.example.com", Ok("ns/exact")),
        ("MODELS.example.COM", Ok("ns/exact")),
        ("models.example.com:443", Ok("ns/exact")),
        ("models.example.com:8080", Ok("ns/exact")),
        // Whatever follows the last colon; a dot that ends the name is a part of it.
        ("models.example.com:", Ok("ns/exact")),
        ("models.example.com:http", Ok("ns/exact")),
        ("Models.Example.com.:80", Err(Code::RouteUnknown)),
        ("models.example.com.", Err(Code::RouteUnknown)),
        ("A.EXAMPLE.ORG:1", Ok("ns/wild")),
        ("models.example.com:80:80", Err(Code::RouteUnknown)),
        ("xmodels.example.com", Err(Code::RouteUnknown)),
        ("[::1]", Err(Code::RouteUnknown)),
        ("[::1]:8080", Err(Code::RouteUnknown)),
        ("", Err(Code::RouteUnknown)),
    ] {
        assert_eq!(found(&policy, &request(host, "/")), route, "{host:?}");
    }
    let any = by_hosts(&[("any", "")]);
    for host in ["[::1]:8080", "[::1]", "127.0.0.1:10000", ":80", "é.example"] {
        assert_eq!(found(&any, &request(host, "/")), Ok("ns/any"), "{host:?}");
    }
}

#[test]
fn more_specific_host_goes_before_a_more_specific_path() {
    let policy = World::new()
        .route("ns/exact-host", "hostnames: [a.example.com]")
        .route(
            "ns/wildcard",
            "hostnames: ['*.example.com'], rules: [{matches: [{path: {type: Exact, value: /x}, method: POST}]}]",
        )
        .sound();
    assert_eq!(found(&policy, &request("a.example.com", "/x")), Ok("ns/exact-host"));
    assert_eq!(found(&policy, &request("b.example.com", "/x")), Ok("ns/wildcard"));
}

#[test]
fn listener_and_route_serve_the_hosts_that_both_name() {
    let (a, b) = ("a.example.com", "b.example.com");
    for (listener, hosts, served, not) in [
        ("", "", &[a, "x.org"][..], &[][..]),
        ("", a, &[a], &[b]),
        (a, "", &[a], &[b]),
        (a, a, &[a], &[b]),
        (a, b, &[], &[a, b]),
        ("'*.example.com'", "", &[a, "x.a.example.com"], &["example.com", "a.example.org"]),
        ("'*.example.com'", a, &[a], &[b]),
        ("'*.example.com'", "a.example.com, c.example.org", &[a], &["c.example.org"]),
        ("'*.example.com'", "'*.a.example.com'", &["x.a.example.com"], &[a, b]),
        (a, "'*.example.com'", &[a], &[b]),
        ("'*.a.example.com'", "'*.example.com'", &["x.a.example.com"], &[b, "x.b.example.com"]),
        ("'*.example.com'", "'*.example.com'", &[a], &["example.com"]),
        ("'*.example.com'", "example.com", &[], &["example.com", a]),
        ("'*.example.com'", "'*.example.org'", &[], &["a.example.org", a]),
    ] {
        let hostname = if listener.is_empty() { String::new() } else { format!(", hostname: {listener}") };
        let hostnames = if hosts.is_empty() { String::new() } else { format!("hostnames: [{hosts}]") };
        let world = World::default().gateway("ns/gw", &format!("{{name: http{hostname}}}")).route("ns/r", &hostnames);
        let policy = world.compile();
        for host in served {
            assert_eq!(found(&policy, &request(host, "/")), Ok("ns/r"), "{listener} {hosts}: {host}");
        }
        for host in not {
            assert_eq!(found(&policy, &request(host, "/")), Err(Code::RouteUnknown), "{listener} {hosts}: {host}");
        }
        let unattached = policy.problems.iter().any(|problem| problem.code == Finding::RouteUnattached);
        assert_eq!(unattached, served.is_empty(), "{listener} {hosts}");
    }
}

// === attachment ===

#[test]
fn route_attaches_where_listener_and_parent_agree() {
    let listeners = "{name: same, hostname: same.example.com}, \
                     {name: explicit, hostname: explicit.example.com, allowedRoutes: {namespaces: {from: Same}}}, \
                     {name: all, hostname: all.example.com, allowedRoutes: {namespaces: {from: All}}}";
    let hosts = ["same.example.com", "explicit.example.com", "all.example.com"];
    for (path, parent, served) in [
        ("ns/r", "{name: gw}", [true, true, true]),
        ("ns/r", "{name: gw, sectionName: all}", [false, false, true]),
        ("ns/r", "{name: gw, sectionName: same}", [true, false, false]),
        ("ns/r", "{name: gw, sectionName: gone}", [false; 3]),
        ("ns/r", "{name: gw, sectionName: same}, {name: gw, sectionName: all}", [true, false, true]),
        ("other/r", "{name: gw, namespace: ns}", [false, false, true]),
        ("other/r", "{name: gw, namespace: ns, sectionName: same}", [false; 3]),
        // Without a namespace the parent is of the route's own.
        ("other/r", "{name: gw}", [false; 3]),
        ("ns/r", "{name: gw2}", [false; 3]),
        ("ns/r", "{group: '', kind: Service, name: gw}", [false; 3]),
    ] {
        let policy = World::default().gateway("ns/gw", listeners).route_to(parent, path, "").compile();
        let reached = hosts.map(|host| found(&policy, &request(host, "/")).is_ok());
        assert_eq!(reached, served, "{path} {parent}");
        let unattached = policy.problems.iter().any(|problem| problem.code == Finding::RouteUnattached);
        assert_eq!(unattached, served == [false; 3], "{path} {parent}: {}", shown(&policy.problems));
    }
}

/// Gateway API: "If no matches are specified, the default is a prefix path match on /".
#[test]
fn rule_with_an_empty_list_of_matches_matches_everything() {
    let policy = World::new().route("ns/r", "rules: [{matches: []}]").sound();
    assert_eq!(found(&policy, &request("h", "/anything")), Ok("ns/r"));
}

// === routes in error ===

/// Whether a request is answered 503: because its route is in error, or because its Gateway is.
fn is_shut(policy: &Policy, request: &Request<'_>) -> bool {
    match policy.route(None, request) {
        Err(denial) => crate::respond::status(denial.code).0 == 503,
        Ok(plan) => matches!(plan.auth, Attached::Broken(_)),
    }
}

/// Envoy would still send the request where the route says, and not under the policies of a broader one.
#[test]
fn route_in_error_is_not_passed_over_for_a_broader_one() {
    let rules = "rules: [{matches: [{path: {value: /llm}}]}]";
    for (fault, narrow) in [
        ("its host name", format!("hostnames: ['not a host'], {rules}")),
        ("one of its host names", format!("hostnames: [other.example.com, 'a:80'], {rules}")),
        ("the type of its host names", format!("hostnames: text, {rules}")),
        ("another field of its match", "hostnames: [h.example.com], rules: [{matches: [{path: {value: /llm}, headers: [{name: x}]}]}]".to_owned()),
        ("its path", "hostnames: [h.example.com], rules: [{matches: [{path: {value: llm}}]}]".to_owned()),
        (
            "one of its paths",
            "hostnames: [h.example.com], rules: [{matches: [{path: {value: /x}}, {path: {type: Prefix, value: /llm}}]}]".to_owned(),
        ),
        ("one of its rules", "hostnames: [h.example.com], rules: [{matches: [{path: {value: /x}}]}, text]".to_owned()),
        ("the type of its matches", "hostnames: [h.example.com], rules: [{matches: text}]".to_owned()),
        ("the type of its rules", "hostnames: [h.example.com], rules: text".to_owned()),
    ] {
        for broad in ["", "hostnames: [h.example.com]", "hostnames: ['*.example.com']"] {
            let policy = World::new()
                .auth("ns/auth", "Gateway gw")
                .route("ns/broad", broad)
                .route("ns/narrow", &narrow)
                .compile();
            assert!(policy.problems.iter().any(Problem::is_error), "{fault}");
            assert!(
                is_shut(&policy, &request("h.example.com", "/llm/x")),
                "a route with an error in {fault} is passed over for one with `{broad}`"
            );
        }
    }
}

#[test]
fn route_in_error_shuts_no_more_than_it_could_be_for() {
    let broad = || World::new().auth("ns/auth", "Gateway gw").route("ns/broad", "");
    let rules = "rules: [{matches: [{path: {value: /llm}}]}]";
    // Its paths are known, so that other paths are not its.
    let policy = broad().route("ns/narrow", &format!("hostnames: ['not a host'], {rules}")).compile();
    assert_eq!(found(&policy, &request("h", "/other")), Ok("ns/broad"));
    assert!(!is_shut(&policy, &request("h", "/other")));
    // Its hosts are known, so that other hosts are not its.
    let policy =
        broad().route("ns/narrow", "hostnames: [a.example.com], rules: [{matches: [{path: {value: llm}}]}]").compile();
    assert!(is_shut(&policy, &request("a.example.com", "/any")));
    assert!(!is_shut(&policy, &request("b.example.com", "/any")));
    // Its Gateway is known.
    let two = broad().gateway("ns/gw2", "{name: http}").route_to("{name: gw2}", "ns/narrow", "rules: text").compile();
    assert!(!is_shut(&two, &Request { gateway: Some("ns/gw"), ..request("h", "/") }));
    assert!(is_shut(&two, &Request { gateway: Some("ns/gw2"), ..request("h", "/") }));
}

#[test]
fn route_whose_parents_are_in_error_could_be_of_any_gateway() {
    for parents in ["{namespace: ns}", "text", "{name: ''}"] {
        let policy = World::new()
            .auth("ns/auth", "Gateway gw")
            .route("ns/broad", "")
            .route_to(parents, "ns/narrow", "rules: [{matches: [{path: {value: /llm}}]}]")
            .compile();
        assert!(is_shut(&policy, &request("h", "/llm/x")), "{parents}");
        assert!(!is_shut(&policy, &request("h", "/other")), "{parents}");
    }
}

#[test]
fn gateway_in_error_shuts_its_routes_alone() {
    let policy = World::new()
        .gateway("ns/bad", "{name: http, hostname: 'not a host'}")
        .route("ns/r", "")
        .route_to("{name: bad}", "ns/r2", "")
        .compile();
    assert!(!is_shut(&policy, &Request { gateway: Some("ns/gw"), ..request("h", "/") }));
    assert!(is_shut(&policy, &Request { gateway: Some("ns/bad"), ..request("h", "/") }));
    let alone = World::default().gateway("ns/bad", "{name: http, hostname: 'not a host'}").compile();
    assert!(is_shut(&alone, &request("h", "/")));
}
