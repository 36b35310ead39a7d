use super::*;
use crate::rules::PolicyRule;

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
        PolicyRule {
            api_groups: strings(&["g"]),
            resources: strings(&["r", "r/s"]),
            resource_names: strings(&["m"]),
            verbs: strings(&["post", "get"]),
        },
        PolicyRule { verbs: strings(&["get"]), ..PolicyRule::default() },
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
