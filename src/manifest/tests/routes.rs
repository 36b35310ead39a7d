//! What of an HTTPRoute is refused: beyond the bounds of the Gateway API, and what Envoys read in different ways.

use super::*;

/// A route with these rules, marked or not.
fn rules(rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r, namespace: ns}}\n\
         spec:\n  parentRefs: [{{name: gw}}]\n  rules: {rules}\n"
    )
}

fn one_match(one: &str) -> String {
    rules(&format!("[{{matches: [{{{one}}}]}}]"))
}

fn repeated(one: &str, times: usize) -> String {
    vec![one; times].join(", ")
}

fn numbered(prefix: &str, times: usize) -> String {
    (0..times).map(|at| format!("{{name: {prefix}{at}, value: v}}")).collect::<Vec<_>>().join(", ")
}

#[test]
fn a_match_beyond_the_bounds_of_the_api_shuts_its_hosts() {
    let (long, header) = ("a".repeat(1025), "a".repeat(4097));
    for (text, field, phrase) in [
        (rules("▸[]"), "spec.rules", "has no rule"),
        (rules(&format!("▸[{}]", repeated("{}", 17))), "spec.rules", "has 17 items"),
        (rules(&format!("[▸{{matches: [{}]}}]", repeated("{}", 65))), "spec.rules[0]", "has 65 items"),
        (
            rules(&format!("▸[{}]", repeated(&format!("{{matches: [{}]}}", repeated("{}", 43)), 3))),
            "spec.rules",
            "has 129 items",
        ),
        (one_match(&format!("headers: ▸[{}]", numbered("x", 17))), ".headers", "has 17 items"),
        (one_match(&format!("queryParams: ▸[{}]", numbered("x", 17))), ".queryParams", "has 17 items"),
        (one_match(&format!("path: {{value: ▸/{long}}}")), ".path.value", "is 1026 bytes long"),
        (one_match(&format!("headers: [{{name: x, value: ▸{header}}}]")), ".headers[0].value", "is 4097 bytes long"),
        (
            one_match(&format!("queryParams: [{{name: x, value: ▸{long}}}]")),
            ".queryParams[0].value",
            "is 1025 bytes long",
        ),
        (one_match("headers: [{name: x, value: ▸''}]"), ".headers[0].value", "is empty"),
        (one_match("headers: [{name: ▸':path', value: x}]"), ".headers[0].name", "letters, digits"),
        (one_match("headers: [{name: ▸'a b', value: x}]"), ".headers[0].name", "letters, digits"),
        (one_match("method: ▸post"), ".method", "`post` is not a method"),
        (one_match("method: ▸PROPFIND"), ".method", "GET, HEAD, POST"),
        (one_match("path: {value: ▸'/a?b=c'}"), ".path.value", "is more than a path"),
        (one_match("path: {value: ▸'/a#b'}"), ".path.value", "is more than a path"),
    ] {
        let field = if field.starts_with('.') { format!("spec.rules[0].matches[0]{field}") } else { field.to_owned() };
        let manifests = expect(&text, &[(E, &field, phrase)]);
        let fault = manifests.routes[0].fault;
        assert!(fault.any && fault.matches && !fault.hosts && !fault.parents, "{text}");
    }
}

#[test]
fn a_match_at_the_bounds_of_the_api_is_read() {
    let (path, header) = ("a".repeat(1023), "a".repeat(4096));
    let sixteen = numbered("x", 16);
    for text in [
        rules(&format!("[{}]", repeated("{}", 16))),
        rules(&format!("[{}]", repeated(&format!("{{matches: [{}]}}", repeated("{}", 64)), 2))),
        one_match(&format!("headers: [{sixteen}], queryParams: [{sixteen}]")),
        one_match(&format!("path: {{value: /{path}}}, headers: [{{name: x, value: {header}}}]")),
    ] {
        assert!(!expect(&text, &[]).routes[0].fault.any);
    }
}

#[test]
fn more_host_names_than_the_api_allows_could_be_any() {
    let names = repeated("a.example.com", 17);
    let text = rules("[{}]").replace("  rules:", &format!("  hostnames: ▸[{names}]\n  rules:"));
    let manifests = expect(&text, &[(E, "spec.hostnames", "has 17 items")]);
    assert!(manifests.routes[0].fault.hosts);
}

/// The Gateway API says that the first counts; Istio and Envoy Gateway ask for all of them.
#[test]
fn a_name_that_one_match_has_twice_is_an_error() {
    let first = "spec.rules[0].matches[0]";
    for (one, field) in [
        ("headers: [{name: x, value: a}, ▸{name: x, value: b}]", "headers[1]"),
        ("headers: [{name: X-Team, value: a}, {name: other, value: a}, ▸{name: x-team, value: a}]", "headers[2]"),
        ("queryParams: [{name: x, value: a}, ▸{name: x, value: b}]", "queryParams[1]"),
    ] {
        expect(&one_match(one), &[(E, &format!("{first}.{field}"), "is named twice")]);
    }
    // Names of query parameters that differ in case are two names.
    expect(&one_match("queryParams: [{name: x, value: a}, {name: X, value: b}]"), &[]);
}

/// No request that passes the path rule has it. Its host is served all the same.
#[test]
fn a_path_that_is_not_canonical_is_a_match_that_nothing_fits() {
    let field = "spec.rules[0].matches[0].path.value";
    for path in ["/a;b", "/a%2fb", "/a%2Eb"] {
        for kind in ["Exact", "PathPrefix"] {
            let text = one_match(&format!("path: {{type: {kind}, value: ▸'{path}'}}"));
            let manifests = expect(&text, &[(W, field, "so no request matches it")]);
            assert_eq!(manifests.routes[0].rules[0].matches.len(), 1);
        }
    }
}

/// Wherever a pattern can stand. `tests/it/routes/patterns.rs` compares patterns with RE2.
#[test]
fn patterns_that_cannot_be_read_as_envoy_does_are_errors() {
    for (pattern, phrase) in [
        ("(", "is not a regular expression"),
        ("\\pL", "a class `\\p`"),
        ("[[a]b]", "a bracket within brackets"),
        ("a**", "a repetition of a repetition"),
        ("(?x)a", "a flag other than"),
        ("é", "a character that is not ASCII"),
        ("([a-z]{1,30}[0-9]{1,30}[A-Z]{1,30}){1,30}", "is too large when it is compiled"),
    ] {
        let first = "spec.rules[0].matches[0]";
        for (one, field) in [
            ("path: {type: RegularExpression, value: ▸'PATTERN'}", "path.value"),
            ("headers: [{name: x, type: RegularExpression, value: ▸'PATTERN'}]", "headers[0].value"),
            ("queryParams: [{name: x, type: RegularExpression, value: ▸'PATTERN'}]", "queryParams[0].value"),
        ] {
            expect(&one_match(&one.replace("PATTERN", pattern)), &[(E, &format!("{first}.{field}"), phrase)]);
        }
    }
}

#[test]
fn the_order_of_a_gateways_matches_is_one_of_two() {
    let gateway = |annotation: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata:\n  name: gw\n  namespace: ns\n  annotations: \
             {{{annotation}}}\nspec: {{gatewayClassName: c, listeners: [{{name: http}}]}}\n"
        )
    };
    for (annotation, order) in [
        ("", RouteOrder::GatewayApi),
        ("tiergate.io/route-order: gateway-api", RouteOrder::GatewayApi),
        ("tiergate.io/route-order: envoy-gateway", RouteOrder::EnvoyGateway),
    ] {
        let manifests = expect(&gateway(annotation), &[]);
        assert_eq!((manifests.gateways[0].order, manifests.gateways[0].broken), (order, false), "{annotation}");
    }
    let field = "metadata.annotations.tiergate.io/route-order";
    let manifests = expect(&gateway("tiergate.io/route-order: ▸istio"), &[(E, field, "gateway-api or envoy-gateway")]);
    assert!(manifests.gateways[0].broken);
    let field = "metadata.annotations.tiergate.io/route-orders";
    expect(
        &gateway("tiergate.io/route-orders: ▸envoy-gateway"),
        &[(E, field, "did you mean `tiergate.io/route-order`?")],
    );
}
