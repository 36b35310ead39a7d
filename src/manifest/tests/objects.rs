use super::*;
use crate::access::{Rule, Subject};

fn rbac(kind: &str, rest: &str) -> String {
    format!("apiVersion: rbac.authorization.k8s.io/v1\nkind: {kind}\nmetadata: {{name: p, namespace: ns}}\n{rest}")
}

fn gateway(spec: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: gw, namespace: ns}}\nspec: {spec}\n"
    )
}

fn listener(fields: &str) -> String {
    gateway(&format!("{{gatewayClassName: c, listeners: [{{name: http, port: 80, protocol: HTTP{fields}}}]}}"))
}

fn route(spec: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r, namespace: ns}}\nspec:\n  \
         parentRefs: [{{name: gw}}]\n{}",
        indent(spec, 2)
    )
}

fn matching(matches: &str) -> String {
    route(&format!("rules: [{{matches: [{matches}]}}]\n"))
}

fn model(annotations: &str) -> String {
    format!(
        "apiVersion: serving.kserve.io/v1alpha1\nkind: LLMInferenceService\nmetadata:\n  name: m\n  namespace: ns\n{annotations}"
    )
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

// === RBAC ===

#[test]
fn roles_are_read_as_written() {
    let manifests = expect(
        &rbac(
            "ClusterRole",
            "rules:\n- {apiGroups: [g], resources: [r, r/s], resourceNames: [m], verbs: [post, get]}\n\
             - {nonResourceURLs: [/healthz], verbs: [get]}\n",
        ),
        &[],
    );
    let [role] = manifests.roles.as_slice() else {
        panic!("{manifests:?}");
    };
    let expected = [
        Rule {
            api_groups: strings(&["g"]),
            resources: strings(&["r", "r/s"]),
            resource_names: strings(&["m"]),
            verbs: strings(&["post", "get"]),
        },
        Rule { verbs: strings(&["get"]), ..Rule::default() },
    ];
    assert_eq!(role.rules, expected);
    assert_eq!(expect(&rbac("Role", "rules: null\n"), &[]).roles[0].rules, []);
}

#[test]
fn role_in_error_is_not_used_and_grants_nothing() {
    let rule = "{apiGroups: [g], resources: [r], verbs: [get]}";
    for (rules, row) in [
        ("rules: ▸text", (E, "rules", "a list")),
        ("rules: [▸text]", (E, "rules[0]", "a mapping")),
        ("rules: [▸{apiGroups: [g], resources: [r]}]", (E, "rules[0]", "`verbs` is missing")),
        ("rules: [▸{verbs: [get]}]", (E, "rules[0]", "grants nothing")),
        ("rules: [▸{nonResourceURLs: [/x], verbs: [get]}]", (E, "rules[0]", "in a ClusterRole")),
        ("rules: [▸{resources: [r], verbs: [get]}]", (E, "rules[0]", "apiGroups and resources")),
        ("rules: [{apiGroups: ▸g, resources: [r], verbs: [get]}]", (E, "rules[0].apiGroups", "a list")),
        ("rules: [{apiGroups: [g], resources: [▸1], verbs: [get]}]", (E, "rules[0].resources[0]", "a string")),
    ] {
        let manifests = expect(&rbac("Role", rules), &[row]);
        assert_eq!(manifests.roles.len(), 0, "{rules}");
        let beside = rules.replace("rules: [", &format!("rules: [{rule}, ")).replace("[0]", "[1]");
        assert_eq!(read(&unmark(&rbac("Role", &beside)).0).roles.len(), 0, "{beside}");
    }
}

#[test]
fn unknown_field_of_a_role_is_a_warning_and_a_misspelt_one_an_error() {
    let rule =
        |field: &str| rbac("Role", &format!("rules:\n- {{apiGroups: [g], resources: [r], verbs: [get], {field}}}\n"));
    let unknown = expect(&rule("▸color: red"), &[(W, "rules[0].color", "is not a field that is known here")]);
    assert_eq!(unknown.roles.len(), 1);
    // Every model would be granted.
    let field = "rules[0].resourceName";
    let misspelt = expect(&rule("▸resourceName: [x]"), &[(E, field, "did you mean `resourceNames`?")]);
    assert_eq!(misspelt.roles.len(), 0);
}

#[test]
fn aggregation_is_read_as_written() {
    let header = "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: p, labels: {tier: free, a.b/c: ''}}\n";
    let manifests = expect(
        &format!(
            "{header}aggregationRule:\n  clusterRoleSelectors:\n  - matchLabels: {{tier: free}}\n    matchExpressions:\n    \
             - {{key: stage, operator: NotIn, values: [beta]}}\n  - matchExpressions: [{{key: x, operator: Exists}}]\nrules: []\n"
        ),
        &[],
    );
    let role = &manifests.roles[0];
    let labels =
        |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<Labels>();
    assert_eq!(role.labels, labels(&[("tier", "free"), ("a.b/c", "")]));
    let aggregation = role.aggregation.as_ref().unwrap();
    for (pairs, matched) in [
        (&[("tier", "free")][..], true),
        (&[("tier", "free"), ("stage", "ga")], true),
        (&[("tier", "free"), ("stage", "beta")], false),
        (&[("tier", "free"), ("stage", "beta"), ("x", "")], true),
        (&[("tier", "Free")], false),
        (&[], false),
    ] {
        assert_eq!(aggregation.matches(&labels(pairs)), matched, "{pairs:?}");
    }
    // A Role has none.
    let role = expect(
        &rbac("Role", "▸aggregationRule: {clusterRoleSelectors: [{}]}\nrules: []\n"),
        &[(W, "aggregationRule", "is not a field that is known here")],
    );
    assert!(role.roles[0].aggregation.is_none());
}

#[test]
fn role_whose_aggregation_is_in_error_is_not_used() {
    for (rule, row) in [
        ("▸{}", (E, "", "`clusterRoleSelectors` is missing")),
        ("{clusterRoleSelectors: ▸[]}", (E, ".clusterRoleSelectors", "at least one label selector")),
        ("{clusterRoleSelectors: [▸text]}", (E, ".clusterRoleSelectors[0]", "a mapping")),
        (
            "{clusterRoleSelectors: [{}, {matchExpressions: [{key: a, operator: ▸Like, values: [b]}]}]}",
            (E, ".clusterRoleSelectors[1].matchExpressions[0].operator", "`Like` is not an operator"),
        ),
        (
            "{clusterRoleSelectors: [{matchExpressions: [▸{key: a, operator: In}]}]}",
            (E, ".clusterRoleSelectors[0].matchExpressions[0]", "list the values"),
        ),
        (
            "{clusterRoleSelectors: [{matchExpressions: [▸{key: a, operator: Exists, values: [b]}]}]}",
            (E, ".clusterRoleSelectors[0].matchExpressions[0]", "remove `values`"),
        ),
        (
            "{clusterRoleSelectors: [{matchExpressions: [{key: ▸a b, operator: Exists}]}]}",
            (E, ".clusterRoleSelectors[0].matchExpressions[0].key", "is not the key of a label"),
        ),
        (
            "{clusterRoleSelectors: [{matchLabels: {a: ▸b c}}]}",
            (E, ".clusterRoleSelectors[0].matchLabels.a", "is not the value of a label"),
        ),
    ] {
        let field: &'static str = format!("aggregationRule{}", row.1).leak();
        let manifests =
            expect(&rbac("ClusterRole", &format!("aggregationRule: {rule}\nrules: []\n")), &[(row.0, field, row.2)]);
        assert_eq!(manifests.roles.len(), 0, "{rule}");
    }
}

#[test]
fn bindings_are_read_as_written() {
    let subjects = "subjects:
- {kind: User, name: alice, apiGroup: rbac.authorization.k8s.io}
- {kind: Group, name: devs}
- {kind: ServiceAccount, name: bot, namespace: team}
";
    let user = |name: &str| Subject::User(name.to_owned());
    let expected = [user("alice"), Subject::Group("devs".to_owned()), user("system:serviceaccount:team:bot")];
    for (kind, role, cluster_role) in [
        ("RoleBinding", "Role", false),
        ("RoleBinding", "ClusterRole", true),
        ("ClusterRoleBinding", "ClusterRole", true),
    ] {
        let role_ref = format!("roleRef: {{kind: {role}, name: r, apiGroup: rbac.authorization.k8s.io}}\n");
        let manifests = expect(&rbac(kind, &format!("{subjects}{role_ref}")), &[]);
        let [binding] = manifests.role_bindings.as_slice() else {
            panic!("{manifests:?}");
        };
        assert_eq!(binding.subjects, expected);
        assert_eq!((binding.cluster_role, &*binding.role), (cluster_role, "r"));
        let namespace = if kind == "RoleBinding" { "ns" } else { "" };
        assert_eq!(&**binding.meta.namespace(), namespace, "{kind}");
    }
    // The binding's own namespace, as the API server does.
    let own = "subjects: [{kind: ServiceAccount, name: bot}]\nroleRef: {kind: Role, name: r}\n";
    let manifests = expect(&rbac("RoleBinding", own), &[]);
    assert_eq!(manifests.role_bindings[0].subjects, [user("system:serviceaccount:ns:bot")]);
    let nobody = expect(&rbac("RoleBinding", "roleRef: {kind: Role, name: r}\n"), &[]);
    assert_eq!(nobody.role_bindings[0].subjects, []);
}

#[test]
fn binding_in_error_is_not_used() {
    let role_ref = "roleRef: {kind: Role, name: r}";
    let cluster_ref = "roleRef: {kind: ClusterRole, name: r}";
    for (kind, rest, row) in [
        ("RoleBinding", "roleRef: ▸{name: r}".to_owned(), (E, "roleRef", "`kind` is missing")),
        ("RoleBinding", "roleRef: ▸{kind: Role}".to_owned(), (E, "roleRef", "`name` is missing")),
        ("RoleBinding", "roleRef: {kind: ▸Roll, name: r}".to_owned(), (E, "roleRef.kind", "Role or ClusterRole")),
        (
            "ClusterRoleBinding",
            "roleRef: {kind: ▸Role, name: r}".to_owned(),
            (E, "roleRef.kind", "cannot refer to `Role`"),
        ),
        ("RoleBinding", format!("{role_ref}\nsubjects: [▸{{kind: Group}}]"), (E, "subjects[0]", "`name` is missing")),
        (
            "RoleBinding",
            "roleRef: {kind: Role, name: r, apiGroup: ▸rbac}".to_owned(),
            (E, "roleRef.apiGroup", "rbac.authorization.k8s.io"),
        ),
        ("RoleBinding", "roleRef: {kind: Role, name: ▸a/b}".to_owned(), (E, "roleRef.name", "cannot be a name")),
        (
            "RoleBinding",
            format!("{role_ref}\nsubjects: [{{kind: User, name: u, apiGroup: ▸x}}]"),
            (E, "subjects[0].apiGroup", "rbac.authorization.k8s.io"),
        ),
        (
            "RoleBinding",
            format!("{role_ref}\nsubjects: [{{kind: ServiceAccount, name: u, apiGroup: ▸rbac.authorization.k8s.io}}]"),
            (E, "subjects[0].apiGroup", "remove `apiGroup`"),
        ),
        (
            "RoleBinding",
            format!("{role_ref}\nsubjects: [{{kind: ServiceAccount, name: ▸Bot}}]"),
            (E, "subjects[0].name", "is not the name of a ServiceAccount"),
        ),
        (
            "RoleBinding",
            format!("{role_ref}\nsubjects: [{{kind: Group, name: g}}, {{kind: ▸Groop, name: g}}]"),
            (E, "subjects[1].kind", "User, Group or ServiceAccount"),
        ),
        ("RoleBinding", format!("{role_ref}\nsubjects: ▸{{kind: Group, name: g}}"), (E, "subjects", "a list")),
        (
            "ClusterRoleBinding",
            format!("{cluster_ref}\nsubjects: [▸{{kind: ServiceAccount, name: bot}}]"),
            (E, "subjects[0]", "add `namespace`"),
        ),
    ] {
        let manifests = expect(&rbac(kind, &rest), &[row]);
        assert_eq!(manifests.role_bindings.len(), 0, "{rest}");
    }
    let without = format!("{}subjects: []\n", rbac("RoleBinding", ""));
    let without = format!("▸{without}");
    assert_eq!(expect(&without, &[(E, "", "`roleRef` is missing")]).role_bindings.len(), 0);
}

// === Gateway API ===

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

// === callers and models ===

#[test]
fn annotation_says_which_tiers_have_a_model() {
    let annotated = |value: &str| model(&format!("  annotations:\n    alpha.maas.opendatahub.io/tiers: {value}\n"));
    let place = Place { file: FILE.into(), line: 7, column: 38 };
    for (text, grant) in [
        (model(""), ModelGrant::Nobody),
        (model("  annotations: {}\n"), ModelGrant::Nobody),
        (model("  annotations: {other: '[]'}\n"), ModelGrant::Nobody),
        (annotated("''"), ModelGrant::Nobody),
        (annotated("'  '"), ModelGrant::Nobody),
        (annotated("'[]'"), ModelGrant::AllTiers),
        (annotated("' [ ] '"), ModelGrant::AllTiers),
        (annotated("'[\"free\"]'"), ModelGrant::Tiers(strings(&["free"]), place.clone())),
        (annotated("'[\"free\", \"premium\"]'"), ModelGrant::Tiers(strings(&["free", "premium"]), place)),
    ] {
        let manifests = expect(&text, &[]);
        let [model] = manifests.models.as_slice() else {
            panic!("{text}");
        };
        assert_eq!(model.grant, grant, "{text}");
        assert_eq!(model.meta.object, ObjectName::new("LLMInferenceService", "ns", "m"));
    }
}

#[test]
fn malformed_annotation_is_an_error_and_grants_nobody() {
    let field = "metadata.annotations.alpha.maas.opendatahub.io/tiers";
    for (value, phrase) in [
        ("▸'[\"free\"'", "is not a JSON list of tier names"),
        ("▸free,premium", "'[]' for all tiers"),
        ("▸'{}'", "is not a JSON list of tier names"),
        ("▸'\"free\"'", "is not a JSON list of tier names"),
        ("▸'[1]'", "is not a JSON list of tier names"),
        ("▸'null'", "is not a JSON list of tier names"),
        ("▸'[\"a\"] x'", "is not a JSON list of tier names"),
        ("▸[free]", "a string"),
        ("▸[]", "a string"),
        ("▸true", "a string"),
    ] {
        let marked = model(&format!("  annotations:\n    alpha.maas.opendatahub.io/tiers: {value}\n"));
        let manifests = expect(&marked, &[(E, field, phrase)]);
        assert_eq!(manifests.models[0].grant, ModelGrant::Unreadable, "{value}");
    }
}

#[test]
fn spec_of_a_model_is_not_our_business() {
    let text = format!("{}spec: {{model: {{uri: hf://x}}, replicas: 2, anything: [1]}}\n", model(""));
    expect(&text, &[]);
    for version in ["v1alpha1", "v1alpha2", "v1beta1", "v1"] {
        expect(&model("").replace("v1alpha1", version), &[]);
    }
}
