//! Listeners that take routes by the labels of their namespaces.

use super::*;

/// A Gateway `ns/gw` whose listener selects so, a broad route of `ns` that it always takes, and a narrow one of `models`.
fn selecting(selector: &str) -> World {
    let listener = |name: &str, port: u16, selector: &str| {
        format!(
            "{{name: {name}, port: {port}, allowedRoutes: {{namespaces: {{from: Selector, selector: {selector}}}}}}}"
        )
    };
    let own = "{matchLabels: {kubernetes.io/metadata.name: ns}}";
    World::default()
        .gateway("ns/gw", &[listener("http", 80, selector), listener("own", 81, own)].join(", "))
        .auth("ns/auth", "Gateway gw")
        .route_to("{name: gw, sectionName: own}", "ns/broad", "")
        .route_to(
            "{name: gw, namespace: ns, sectionName: http}",
            "models/small",
            "rules: [{matches: [{path: {value: /small}}]}]",
        )
}

fn labelled(world: World, name: &str, labels: &str) -> World {
    world.text(&format!("---\n{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, labels: {labels}}}}}\n"))
}

/// What is found at the port of the selecting listener.
fn asked(policy: &Policy) -> Result<String, Code> {
    let request = Request { port: Some(80), ..request("h", "/small") };
    let plan = policy.route(None, &request).map_err(|denial| denial.code)?;
    Ok(match &plan.auth {
        Attached::Active(auth) => format!("{} by {}", plan.name, auth.policy),
        Attached::Broken(object) => format!("{} is shut for {object}", plan.name),
        Attached::None => format!("{} without a policy", plan.name),
    })
}

#[test]
fn a_route_is_attached_where_its_namespace_is_selected() {
    let taken = Ok("models/small by AuthPolicy ns/auth".to_owned());
    let unknown = Ok("models/small is shut for HTTPRoute models/small".to_owned());
    for (selector, labels, expected) in [
        ("{}", None, &taken),
        ("{matchLabels: {kubernetes.io/metadata.name: models}}", None, &taken),
        ("{matchLabels: {kubernetes.io/metadata.name: models}}", Some("{team: red}"), &taken),
        ("{matchLabels: {kubernetes.io/metadata.name: model}}", None, &Err(Code::RouteUnknown)),
        ("{matchLabels: {team: red}}", Some("{team: red}"), &taken),
        ("{matchLabels: {team: red}}", Some("{team: blue}"), &Err(Code::RouteUnknown)),
        ("{matchLabels: {team: red}}", Some("{}"), &Err(Code::RouteUnknown)),
        ("{matchLabels: {team: red}}", None, &unknown),
        ("{matchExpressions: [{key: team, operator: DoesNotExist}]}", Some("{}"), &taken),
        ("{matchExpressions: [{key: team, operator: DoesNotExist}]}", None, &unknown),
        ("{matchLabels: {kubernetes.io/metadata.name: ns, team: red}}", None, &Err(Code::RouteUnknown)),
    ] {
        let mut world = selecting(selector);
        if let Some(labels) = labels {
            world = labelled(world, "models", labels);
        }
        let policy = world.compile();
        assert_eq!(asked(&policy), *expected, "{selector} {labels:?}");
        let codes: Vec<Finding> = policy.problems.iter().map(|problem| problem.code).collect();
        let expected = match expected {
            Err(_) => vec![Finding::RouteUnattached],
            shut if *shut == unknown => vec![Finding::NamespaceUnknown],
            _ => vec![],
        };
        assert_eq!(codes, expected, "{selector} {labels:?}: {}", shown(&policy.problems));
    }
}

#[test]
fn the_gateways_own_namespace_is_no_exception() {
    let listener = "{name: http, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {team: red}}}}}";
    let world = World::default()
        .gateway("ns/gw", listener)
        .auth("ns/auth", "Gateway gw")
        .matching("ns/small", "path: {value: /small}");
    let shut = Ok("ns/small is shut for HTTPRoute ns/small".to_owned());
    for (labels, expected) in [
        (None, shut),
        (Some("{team: red}"), Ok("ns/small by AuthPolicy ns/auth".to_owned())),
        (Some("{team: blue}"), Err(Code::RouteUnknown)),
    ] {
        let world = labels.map_or_else(|| world.clone(), |labels| labelled(world.clone(), "ns", labels));
        assert_eq!(asked(&world.compile()), expected, "{labels:?}");
    }
}

/// Where one listener is certain and another is not, each goes by itself.
#[test]
fn what_is_not_known_shuts_the_route_on_that_listener_alone() {
    let selecting = "allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {team: red}}}}";
    let listeners = format!(
        "{{name: a, port: 80, {selecting}}}, {{name: b, port: 81, allowedRoutes: {{namespaces: {{from: All}}}}}}"
    );
    let world = World::default().gateway("ns/gw", &listeners).auth("ns/auth", "Gateway gw").route_to(
        "{name: gw, namespace: ns}",
        "models/small",
        "rules: [{matches: [{path: {value: /small}}]}]",
    );
    let policy = world.compile();
    let at = |port| {
        let asked = Request { port: Some(port), ..request("h", "/small") };
        matches!(policy.route(None, &asked).unwrap().auth, Attached::Broken(_))
    };
    assert_eq!([at(80), at(81)], [true, false]);
    let told: Vec<_> = policy.problems.iter().map(|problem| (problem.code, problem.message.as_str())).collect();
    let message = "listener `a` of Gateway ns/gw selects namespaces by labels, and those of `models` are not known, so the route is shut there";
    assert_eq!(told, [(Finding::NamespaceUnknown, message)]);
}
