//! Where the controllers of Gateways, or Envoys of different versions, take different routes.

use super::*;

/// `ns/gw`, whose controller is Envoy Gateway.
fn envoy_gateway() -> World {
    World::default().text(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: gw, namespace: ns, annotations: \
         {tiergate.io/route-order: envoy-gateway}}\nspec: {gatewayClassName: eg, listeners: [{name: http}]}\n",
    )
}

fn of_names(names: &[&str]) -> String {
    let one = |name: &&str| format!("{{name: {name}, value: '1'}}");
    names.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Each row names two routes that both match: the winner to the Gateway API, and the winner to Envoy Gateway.
#[test]
fn envoy_gateway_has_an_order_of_its_own() {
    let request = Request {
        query: Some("p=1&q=1"),
        headers: Headers::List(vec![("a", b"1"), ("b", b"1"), ("c", b"1")]),
        ..request("h", "/llm/a/b")
    };
    let (one, two) = (format!("headers: [{}]", of_names(&["a"])), format!("headers: [{}]", of_names(&["a", "b"])));
    let exact = "path: {type: Exact, value: /llm/a/b}";
    let prefix = "path: {value: /llm/a/b}";
    let regex = "path: {type: RegularExpression, value: '/llm/.*'}";
    let longer = "path: {type: RegularExpression, value: '/llm/a/.*'}";
    let pattern = |of: &str, name: &str| format!("{of}: [{{name: {name}, type: RegularExpression, value: '.+'}}]");
    for (what, api, ours) in [
        ("an exact path before all", exact.to_owned(), exact.to_owned()),
        ("a regular expression before prefixes", prefix.to_owned(), regex.to_owned()),
        ("the longer regular expression", longer.to_owned(), longer.to_owned()),
        ("two headers before a method", format!("{prefix}, method: POST"), format!("{prefix}, {two}")),
        (
            "a header and a method before one header",
            format!("{prefix}, method: POST"),
            format!("{prefix}, {one}, method: POST"),
        ),
        ("an exact header", format!("{prefix}, {}", pattern("headers", "a")), format!("{prefix}, {one}")),
        (
            "an exact query parameter",
            format!("{prefix}, {}", pattern("queryParams", "p")),
            format!("{prefix}, queryParams: [{}]", of_names(&["p"])),
        ),
        ("a slash at the end of a prefix", format!("{prefix}, {two}"), "path: {value: /llm/a/b/}".to_owned()),
    ] {
        // The winner to the Gateway API wins ties by its name, so that Envoy Gateway's wins by its order.
        let routes = |world: World| world.matching("ns/a", &api).matching("ns/z", &ours);
        let winner = |world: World| routes(world).sound().route(None, &request).unwrap().name.to_string();
        assert_eq!(winner(World::new()), if what.contains("before one header") { "ns/z" } else { "ns/a" }, "{what}");
        assert_eq!(winner(envoy_gateway()), if api == ours { "ns/a" } else { "ns/z" }, "{what}");
    }
    // What is left is as the Gateway API has it: the first by name.
    let policy = envoy_gateway().matching("ns/b", prefix).matching("ns/a", prefix).sound();
    assert_eq!(found(&policy, &request), Ok("ns/a"));
}

#[test]
fn regular_expressions_of_the_gateway_api_go_by_their_length() {
    let regex = |text: &str| format!("path: {{type: RegularExpression, value: '{text}'}}");
    let policy = World::new()
        .matching("ns/a", &format!("{}, method: POST, headers: [{}]", regex("/.*"), of_names(&["a", "b"])))
        .matching("ns/z", &regex("/llm/.*"))
        .sound();
    let headers = Headers::List(vec![("a", b"1"), ("b", b"1")]);
    assert_eq!(found(&policy, &Request { headers, ..request("h", "/llm/x") }), Ok("ns/z"));
}

// === readings of a header ===

/// Whether the match fits, as far as that is clear.
fn fits(policy: &Policy, headers: Headers<'_>, query: Option<&str>) -> Option<bool> {
    match found(policy, &Request { headers, query, ..request("h", "/") }) {
        Ok(_) => Some(true),
        Err(Code::RouteUnknown) => Some(false),
        Err(Code::RequestInvalid) => None,
        Err(other) => panic!("{other:?}"),
    }
}

/// Envoy joined the values of a header before it matched them, until 1.39 wanted one value to match.
#[test]
fn a_header_that_is_sent_twice_fits_only_if_it_does_in_every_reading() {
    let exact = World::new().matching("ns/r", "headers: [{name: x, value: a}]").sound();
    let regex = |text: &str| {
        World::new()
            .matching("ns/r", &format!("headers: [{{name: x, type: RegularExpression, value: '{text}'}}]"))
            .sound()
    };
    let both = World::new().matching("ns/r", "headers: [{name: x, value: 'a,b'}]").sound();
    for (policy, sent, expected) in [
        (&exact, &[&b"a"[..]][..], Some(true)),
        (&exact, &[b"b", b"c"], Some(false)),
        (&exact, &[b"a", b"b"], None),
        (&exact, &[b"b", b"a"], None),
        (&exact, &[b"a", b"a"], None),
        (&exact, &[b"a,b"], Some(false)),
        (&both, &[b"a,b"], Some(true)),
        (&both, &[b"a", b"b"], None),
        (&regex(".*"), &[b"a", b"b"], Some(true)),
        (&regex("[^,]*"), &[b"a", b"b"], None),
        (&regex("b.*"), &[b"a", b"c"], Some(false)),
        // Bytes to some Envoys, characters to others.
        (&exact, &["é".as_bytes()], Some(false)),
        (&regex("."), &["é".as_bytes()], None),
        (&regex("."), &[b"\xff"], None),
    ] {
        let list = sent.iter().map(|value| ("X", *value)).collect();
        assert_eq!(fits(policy, Headers::List(list), None), expected, "{sent:?}");
    }
}

/// Without `encode_raw_headers` Envoy joins values before it asks, and replaces what is not UTF-8 by `!`.
#[test]
fn a_joined_header_fits_only_if_it_does_however_it_was_sent() {
    let policy = |wanted: &str| World::new().matching("ns/r", &format!("headers: [{{name: x, {wanted}}}]")).sound();
    let (a, ab) = (policy("value: a"), policy("value: 'a,b'"));
    let regex = |text: &str| policy(&format!("type: RegularExpression, value: '{text}'"));
    let many = ["a"; 9].join(",");
    for (policy, sent, expected) in [
        (&a, "a", Some(true)),
        (&a, "b", Some(false)),
        (&a, "a,b", None),
        (&a, "b,c", Some(false)),
        (&a, "a,", None),
        (&a, ",a", None),
        // Envoy joins without a blank.
        (&a, "a, b", Some(false)),
        (&a, "b ,a", Some(false)),
        (&ab, "a,b", None),
        (&ab, "c,a,b", None),
        (&ab, "a, b", Some(false)),
        (&regex(".*"), "a,b", Some(true)),
        (&regex(".+"), "a,b", Some(true)),
        (&regex(".+"), "a,", None),
        (&regex("Mozilla.*Gecko.*"), "Mozilla/5.0 (KHTML, like Gecko)", Some(true)),
        (&regex(".*"), many.as_str(), None),
        (&policy("value: 'a!'"), "a!", None),
        (&a, "a!", Some(false)),
        (&regex("a"), "a!", None),
    ] {
        let map = std::collections::HashMap::from([("x".to_owned(), sent.to_owned())]);
        assert_eq!(fits(policy, Headers::Map(&map), None), expected, "{sent}");
    }
}

#[test]
fn the_header_host_is_the_host_whichever_it_was_sent_by() {
    let policy = World::new().matching("ns/r", "headers: [{name: Host, value: a.example.com}]").sound();
    for (host, expected) in
        [("a.example.com", Ok("ns/r")), ("a.example.com:80", Err(Code::RouteUnknown)), ("b", Err(Code::RouteUnknown))]
    {
        let headers = Headers::List(vec![("host", b"other.example.com"), (":authority", host.as_bytes())]);
        assert_eq!(found(&policy, &Request { headers, ..request(host, "/") }), expected, "{host}");
    }
}
