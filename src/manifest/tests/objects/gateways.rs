use super::*;

#[test]
fn listeners_are_read_with_their_defaults() {
    for (fields, hostname, from) in [
        ("", None, NamespacesFrom::Same),
        (", hostname: Models.Example.COM", Some("models.example.com"), NamespacesFrom::Same),
        (", hostname: '*.example.com'", Some("*.example.com"), NamespacesFrom::Same),
        (", allowedRoutes: {namespaces: {from: All}}", None, NamespacesFrom::All),
        (", allowedRoutes: {namespaces: {from: Same}}", None, NamespacesFrom::Same),
        (", allowedRoutes: {namespaces: {}, kinds: [{kind: HTTPRoute}]}", None, NamespacesFrom::Same),
        (", tls: {mode: Terminate}", None, NamespacesFrom::Same),
    ] {
        let manifests = expect(&listener(fields), &[]);
        let [listener] = manifests.gateways[0].listeners.as_slice() else {
            panic!("{fields}");
        };
        let read = (&*listener.name, listener.hostname.as_deref(), listener.from.clone());
        assert_eq!(read, ("http", hostname, from), "{fields}");
    }
}

/// As Kubernetes has them; what is not known is not guessed, unless it makes no difference.
#[test]
fn namespaces_are_selected_by_their_names_and_labels() {
    use NamespacesFrom::Selector;
    let labels: Labels = [("team", "red"), ("kubernetes.io/metadata.name", "forged")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
    let name = "kubernetes.io/metadata.name";
    for (selector, known, unknown) in [
        ("{}".to_owned(), true, Some(true)),
        ("{matchLabels: {team: red}}".to_owned(), true, None),
        ("{matchLabels: {team: Red}}".to_owned(), false, None),
        (format!("{{matchLabels: {{{name}: models}}}}"), true, Some(true)),
        (format!("{{matchLabels: {{{name}: forged}}}}"), false, Some(false)),
        (format!("{{matchLabels: {{{name}: models, team: red}}}}"), true, None),
        (format!("{{matchLabels: {{{name}: other, team: red}}}}"), false, Some(false)),
        (format!("{{matchExpressions: [{{key: {name}, operator: In, values: [a, models]}}]}}"), true, Some(true)),
        (format!("{{matchExpressions: [{{key: {name}, operator: NotIn, values: [a, models]}}]}}"), false, Some(false)),
        (format!("{{matchExpressions: [{{key: {name}, operator: DoesNotExist}}]}}"), false, Some(false)),
        ("{matchExpressions: [{key: team, operator: NotIn, values: [blue]}]}".to_owned(), true, None),
        ("{matchExpressions: [{key: size, operator: NotIn, values: [big]}]}".to_owned(), true, None),
        (
            "{matchExpressions: [{key: team, operator: Exists}, {key: size, operator: DoesNotExist}]}".to_owned(),
            true,
            None,
        ),
        ("{matchLabels: {team: red}, matchExpressions: [{key: size, operator: Exists}]}".to_owned(), false, None),
    ] {
        let manifests = expect(
            &listener(&format!(", allowedRoutes: {{namespaces: {{from: Selector, selector: {selector}}}}}")),
            &[],
        );
        let gateway = &manifests.gateways[0];
        let Selector(read) = &gateway.listeners[0].from else { panic!("{selector}") };
        assert_eq!(
            (read.selects("models", Some(&labels)), read.selects("models", None)),
            (Some(known), unknown),
            "{selector}"
        );
        assert_eq!(gateway.asks_for_labels(), selector.contains("team") || selector.contains("size"), "{selector}");
    }
}

#[test]
fn a_namespace_in_error_has_no_labels() {
    let namespace =
        |labels: &str| format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: models, labels: {labels}}}\n");
    let labels =
        |text: &str| read(text).namespaces.iter().map(|namespace| namespace.labels.clone()).collect::<Vec<_>>();
    assert_eq!(labels(&namespace("{team: red}")), [Labels::from([("team".to_owned(), "red".to_owned())])]);
    assert_eq!(
        labels("apiVersion: v1\nkind: Namespace\nmetadata: {name: models}\nspec: {finalizers: [kubernetes]}\n"),
        [Labels::new()]
    );
    for (text, row) in [
        (namespace("{team: ▸1}"), (E, "metadata.labels.team", "a string")),
        (namespace("{team: ▸a b}"), (E, "metadata.labels.team", "is not the value of a label")),
        (namespace("▸red"), (E, "metadata.labels", "a mapping")),
    ] {
        assert_eq!(expect(&text, &[row]).namespaces.len(), 0, "{text}");
    }
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn gateway_faults_say_what_is_right() {
    for (marked, row, used) in [
        (
            gateway("{gatewayClassName: c, listeners: [{name: http, port: 80, protocol: HTTP}], ▸lisners: []}"),
            (E, "spec.lisners", "did you mean `listeners`?"),
            false,
        ),
        (listener(", ▸hostnme: a"), (E, "spec.listeners[0].hostnme", "did you mean `hostname`?"), false),
        (
            listener(", allowedRoutes: {namespaces: {from: All, selector: ▸{matchLabels: {a: b}}}}"),
            (W, "spec.listeners[0].allowedRoutes.namespaces.selector", "write `from: Selector`"),
            true,
        ),
        (
            listener(", allowedRoutes: {namespaces: {selector: ▸{matchLabels: {a: b}}}}"),
            (W, "spec.listeners[0].allowedRoutes.namespaces.selector", "says nothing beside `from: Same`"),
            true,
        ),
        (
            listener(", allowedRoutes: {namespaces: ▸{from: Selector}}"),
            (E, "spec.listeners[0].allowedRoutes.namespaces", "`selector` is missing"),
            false,
        ),
        (
            listener(", allowedRoutes: {namespaces: {from: ▸selector}}"),
            (E, "spec.listeners[0].allowedRoutes.namespaces.from", "did you mean `Selector`?"),
            false,
        ),
        (
            listener(", allowedRoutes: {namespaces: {from: ▸Alle}}"),
            (E, "spec.listeners[0].allowedRoutes.namespaces.from", "did you mean `All`?"),
            false,
        ),
        (
            listener(", allowedRoutes: {namespaces: {▸form: All}}"),
            (E, "spec.listeners[0].allowedRoutes.namespaces.form", "did you mean `from`?"),
            false,
        ),
        (
            listener(", allowedRoutes: {namespaces: {from: Selector, selector: {▸matchLables: {a: b}}}}"),
            (E, "spec.listeners[0].allowedRoutes.namespaces.selector.matchLables", "did you mean `matchLabels`?"),
            false,
        ),
        (
            listener(", allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {a: ▸1}}}}"),
            (E, "spec.listeners[0].allowedRoutes.namespaces.selector.matchLabels.a", "a string"),
            false,
        ),
        (
            listener(
                ", allowedRoutes: {namespaces: {from: Selector, selector: {matchExpressions: [{key: a, operator: ▸in, values: [b]}]}}}",
            ),
            (
                E,
                "spec.listeners[0].allowedRoutes.namespaces.selector.matchExpressions[0].operator",
                "In, NotIn, Exists",
            ),
            false,
        ),
        (
            listener(
                ", allowedRoutes: {namespaces: {from: Selector, selector: {matchExpressions: [▸{key: a, operator: In}]}}}",
            ),
            (E, "spec.listeners[0].allowedRoutes.namespaces.selector.matchExpressions[0]", "list the values"),
            false,
        ),
        (
            listener(", allowedRoutes: {namespaces: {from: ▸Everywhere}}"),
            (E, "spec.listeners[0].allowedRoutes.namespaces.from", "All, Same or Selector"),
            false,
        ),
        (listener(", hostname: ▸'example.com:80'"), (E, "spec.listeners[0].hostname", "without a port"), false),
        (listener(", hostname: ▸'a..b'"), (E, "spec.listeners[0].hostname", "is not a host name"), false),
        (listener(", hostname: ▸'*'"), (E, "spec.listeners[0].hostname", "is not a host name"), false),
        (listener(", hostname: ▸'a.*.b'"), (E, "spec.listeners[0].hostname", "is not a host name"), false),
        (gateway("▸{gatewayClassName: c}"), (E, "spec", "`listeners` is missing"), false),
        (gateway("{listeners: [▸{port: 80}]}"), (E, "spec.listeners[0]", "`name` is missing"), false),
        (gateway("{listeners: ▸{}}"), (E, "spec.listeners", "a list"), false),
        (gateway("{listeners: ▸[]}"), (E, "spec.listeners", "at least one listener"), false),
        (gateway("▸text"), (E, "spec", "a mapping"), false),
    ] {
        assert_eq!(expect(&marked, &[row]).gateways[0].broken, !used, "{marked}");
    }
}

#[test]
fn routes_are_read_with_their_defaults() {
    let manifests = expect(
        &route(
            "hostnames: [A.Example.com, '*.b.com']
rules:
- matches:
  - path: {type: Exact, value: /a/b/}
    method: POST
    headers: [{name: X-Team, value: red}, {type: RegularExpression, name: x, value: '[0-9]+'}]
    queryParams: [{name: Q, value: v}]
  - path: {value: /llm/}
  - {}
- backendRefs: [{name: b}]
  filters: []
  timeouts: {}
- matches: [{path: {type: RegularExpression, value: '/v[0-9]/.*'}}]
",
        ),
        &[],
    );
    let route = &manifests.routes[0];
    assert_eq!(route.hostnames, ["a.example.com", "*.b.com"]);
    let parent = ParentRef { namespace: "ns".into(), name: "gw".into(), section: None, port: None };
    assert_eq!(route.parents, [parent]);
    let paths: Vec<Vec<String>> =
        route.rules.iter().map(|rule| rule.matches.iter().map(|m| format!("{:?}", m.path)).collect()).collect();
    let everything = "Prefix(\"\")";
    let regex = "Regex(Regex(\"\\\\A(?:/v[0-9]/.*)\\\\z\"))";
    assert_eq!(paths, [vec!["Exact(\"/a/b/\")", "Prefix(\"/llm\")", everything], vec![everything], vec![regex]]);
    let first = &route.rules[0].matches[0];
    assert_eq!(first.method.as_deref(), Some("POST"));
    // Header names ignore case, names of query parameters do not.
    let names: Vec<&str> = first.headers.iter().chain(&first.query).map(|m| &*m.name).collect();
    assert_eq!(names, ["x-team", "x", "Q"]);
}

#[test]
fn route_without_rules_or_with_other_parents() {
    let manifests = expect(&route(""), &[]);
    assert_eq!(manifests.routes[0].rules.len(), 1);
    assert!(matches!(&manifests.routes[0].rules[0].matches[0].path, PathMatch::Prefix(p) if p.is_empty()));
    let text = route("").replace(
        "[{name: gw}]",
        "[{group: '', kind: Service, name: s}, {name: gw, namespace: other, sectionName: https, port: 443}]",
    );
    let manifests = expect(&text, &[]);
    let parent =
        ParentRef { namespace: "other".into(), name: "gw".into(), section: Some("https".to_owned()), port: Some(443) };
    assert_eq!(manifests.routes[0].parents, [parent]);
}

#[test]
fn route_faults_say_what_is_right() {
    for (marked, row, used) in [
        (route("▸hostname: a\n"), (E, "spec.hostname", "did you mean `hostnames`?"), false),
        (route("rules: [{▸match: []}]\n"), (E, "spec.rules[0].match", "did you mean `matches`?"), false),
        (route("rules: [{▸color: red}]\n"), (W, "spec.rules[0].color", "is not a field that is known here"), true),
        (route("hostnames: [▸'a:80']\n"), (E, "spec.hostnames[0]", "is not a host name"), false),
        (route("rules: ▸{}\n"), (E, "spec.rules", "a list"), false),
        (matching("{path: {value: ▸llm}}"), (E, "spec.rules[0].matches[0].path.value", "starts with `/`"), false),
        (matching("{path: {value: ▸''}}"), (E, "spec.rules[0].matches[0].path.value", "starts with `/`"), false),
        (
            matching("{path: {value: ▸/a//b}}"),
            (E, "spec.rules[0].matches[0].path.value", "empty or dot segments"),
            false,
        ),
        (
            matching("{path: {value: ▸/a/../b}}"),
            (E, "spec.rules[0].matches[0].path.value", "empty or dot segments"),
            false,
        ),
        (
            matching("{path: {type: RegularExpression, value: ▸'('}}"),
            (E, "spec.rules[0].matches[0].path.value", "is not a regular expression"),
            false,
        ),
        (
            matching("{headers: [▸{name: a, value: b, type: Prefix}]}"),
            (E, "spec.rules[0].matches[0].headers[0]", "Exact or RegularExpression"),
            false,
        ),
        (
            matching("{queryParams: [▸{name: a}]}"),
            (E, "spec.rules[0].matches[0].queryParams[0]", "`value` is missing"),
            false,
        ),
        (matching("{method: ▸''}"), (E, "spec.rules[0].matches[0].method", "is empty"), false),
    ] {
        assert_eq!(expect(&marked, &[row]).routes[0].fault.any, !used, "{marked}");
    }
    let (text, _) = unmark(&matching("{path: {type: Prefix, value: /a}}"));
    let manifests = read(&text);
    assert_eq!((manifests.routes[0].fault.matches, manifests.problems.len()), (true, 1));
    assert!(manifests.problems[0].to_string().contains("PathPrefix, Exact or RegularExpression"));
    let orphan =
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\nspec: ▸{rules: [{}]}\n";
    assert!(expect(orphan, &[(E, "spec", "`parentRefs` is missing")]).routes[0].fault.parents);
}
