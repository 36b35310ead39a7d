use super::*;

/// A ServiceAccount named `name`, on one line.
fn account(name: &str) -> String {
    format!("{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: {name}, namespace: ns}}}}")
}

fn account_names(manifests: &Manifests) -> Vec<&str> {
    let accounts = manifests.service_accounts.iter();
    accounts.map(|account| &**account.meta.name()).collect()
}

#[test]
fn text_that_is_not_yaml_says_where_and_leaves_the_file_out() {
    for marked in [
        "apiVersion: v1\nkind: ServiceAccount\nmetadata: ▸{name: a\n---\nx: y\n",
        "apiVersion: v1\nkind: ▸\"ServiceAccount\nmetadata: {}",
        "apiVersion: v1\n  ▸kind: ServiceAccount\n",
        "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: ▸*x}\n",
        "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: a}\n▸metadata: {name: b}\n",
    ] {
        let (text, marks) = unmark(marked);
        let manifests = read(&text);
        let [problem] = manifests.problems.as_slice() else {
            panic!("{marked}: {:?}", manifests.problems);
        };
        assert_eq!(problem.severity, E, "{marked}");
        assert!(problem.message.starts_with("is not YAML: "), "{problem}");
        assert!(problem.remedy.is_some(), "{problem}");
        assert_eq!(problem.place.line, marks[0].0, "{marked}\n{problem}");
        assert_eq!(manifests.unparsable, [FILE.into()]);
        assert_eq!(manifests.read, 0);
    }
}

/// Messages are for operators, who know nothing of our parser.
#[test]
fn faults_of_the_text_are_worded_without_our_parser() {
    for text in ["a: 1\na: 2\n", "? null\n: b\n", "? [a, b]\n: c\n", "a: .inf\n", "a: [\n", "a: *b\n"] {
        for problem in read(text).problems {
            for word in ["Option", "Policy", "deserialize", "serde", "String"] {
                assert!(!problem.message.contains(word), "{text:?}: {}", problem.message);
            }
        }
    }
}

#[test]
fn one_bad_file_leaves_the_others_in() {
    let manifests =
        read_all(&[("a.yaml", "kind: ["), ("b.yaml", &account("b")), ("c.yaml", "}"), ("d.yaml", &account("d"))]);
    assert_eq!(manifests.unparsable, ["a.yaml".into(), "c.yaml".into()]);
    assert_eq!(account_names(&manifests), ["b", "d"]);
}

#[test]
fn every_problem_of_a_folder_is_reported_at_once() {
    let policy = |limit: &str| {
        format!(
            "apiVersion: kuadrant.io/v1\nkind: RateLimitPolicy\nmetadata: {{name: p, namespace: {limit}}}\nspec:\n  \
             targetRef: {{group: gateway.networking.k8s.io, kind: Gateway, name: gw}}\n  limits:\n    \
             a: {{rates: [{{limit: -1, window: 0s}}], when: [{{predicate: '1 +'}}]}}\n    b: {{rates: [], wen: []}}\n"
        )
    };
    let (first, second) = (policy("ns1"), format!("{}---\n{}", policy("ns2"), policy("ns3")));
    let manifests = read_all(&[("1.yaml", &first), ("2.yaml", "["), ("3.yaml", &second)]);
    let of = |file: &str| manifests.problems.iter().filter(|p| &*p.place.file == file).count();
    assert_eq!([of("1.yaml"), of("2.yaml"), of("3.yaml")], [5, 1, 10]);
    let fields: Vec<&str> = manifests.problems.iter().map(|p| p.field.as_str()).take(5).collect();
    assert_eq!(
        fields,
        [
            "spec.limits.a.rates[0].limit",
            "spec.limits.a.rates[0].window",
            "spec.limits.a.when[0].predicate",
            "spec.limits.b.rates",
            "spec.limits.b.wen",
        ]
    );
}

#[test]
fn problem_reads_as_one_line_that_editors_can_jump_to() {
    let (text, _) = unmark("apiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: a\n  ▸nmespace: b\n");
    let problem = &read(&text).problems[0];
    assert_eq!(
        problem.to_string(),
        "f.yaml:5:3: error[field-unknown]: ServiceAccount (at f.yaml:1:1): metadata.nmespace: is not a field that is known here\n    \
         expected: one of name, namespace, uid, annotations, labels, creationTimestamp, resourceVersion, generation, \
         generateName, managedFields, ownerReferences, finalizers, selfLink, deletionTimestamp, \
         deletionGracePeriodSeconds\n    remedy:   did you mean `namespace`?"
    );
}

#[test]
fn document_that_is_no_object_is_an_error() {
    for (marked, rows) in [
        ("▸text", &[(E, "", "a mapping")][..]),
        ("▸- a\n- b\n", &[(E, "", "a mapping")]),
        ("▸42", &[(E, "", "a mapping")]),
        ("▸▸a: b\n", &[(E, "", "`kind` is missing"), (E, "", "`apiVersion` is missing")]),
        ("▸kind: Role\n", &[(E, "", "`apiVersion` is missing")]),
        ("▸apiVersion: v1\n", &[(E, "", "`kind` is missing")]),
        ("apiVersion: v1\nkind: ▸[Role]\n", &[(E, "kind", "a string")]),
        ("apiVersion: ▸1\nkind: Role\n", &[(E, "apiVersion", "a string")]),
        ("▸apiVersion: v1\nkind: ServiceAccount\n", &[(E, "", "`metadata` is missing")]),
        ("apiVersion: v1\nkind: ServiceAccount\nmetadata: ▸text\n", &[(E, "metadata", "a mapping")]),
        (
            "apiVersion: v1\nkind: ServiceAccount\nmetadata: ▸{generateName: a}\n",
            &[(E, "metadata", "`name` is missing")],
        ),
        ("apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: ▸''}\n", &[(E, "metadata.name", "is empty")]),
        ("apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: ▸1}\n", &[(E, "metadata.name", "is an integer")]),
    ] {
        let manifests = expect(marked, rows);
        assert_eq!(account_names(&manifests), <[&str; 0]>::default());
    }
}

#[test]
fn a_file_without_an_object_is_noticed() {
    for text in ["▸", "▸---\n", "▸---\n---\n...\n", "▸# a comment\n", "▸null\n", "▸%YAML 1.2\n---\n"] {
        let manifests = expect(text, &[(W, "", "holds no object")]);
        assert_eq!((manifests.read, manifests.ignored.values().sum::<usize>()), (0, 0), "{text:?}");
    }
}

#[test]
fn line_ends_and_byte_order_marks_do_not_matter() {
    let text = "\u{feff}apiVersion: v1\r\nkind: ServiceAccount\r\nmetadata:\r\n  name: a\r\n  ▸nmespace: b\r\n";
    let (clean, _) = unmark(text);
    let manifests = read(&clean);
    let place = &manifests.problems[0].place;
    assert_eq!((place.line, place.column), (5, 3));
}

#[test]
fn objects_without_a_namespace_are_in_default() {
    let manifests = expect("{apiVersion: v1, kind: ServiceAccount, metadata: {name: a}}", &[]);
    let meta = &manifests.service_accounts[0].meta;
    assert_eq!(meta.object, ObjectName::new("ServiceAccount", "default", "a"));
    let text =
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: a, namespace: b}\nrules: []\n";
    let manifests = expect(text, &[]);
    assert_eq!(manifests.roles[0].meta.object.to_string(), "ClusterRole a");
}

#[test]
fn unknown_metadata_is_a_warning_and_misspelt_metadata_an_error() {
    let account = |metadata: &str| format!("apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: a, {metadata}}}\n");
    let manifests = expect(&account("▸shape: round"), &[(W, "metadata.shape", "is not a field that is known here")]);
    assert_eq!(account_names(&manifests), ["a"]);
    let manifests = expect(&account("▸lables: {x: y}"), &[(E, "metadata.lables", "did you mean `labels`?")]);
    assert_eq!(account_names(&manifests), [""; 0]);
}

/// In `default` it would be another object.
#[test]
fn an_object_whose_namespace_cannot_be_read_is_no_other_object() {
    let account =
        |namespace: &str| format!("apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: a, {namespace}}}\n");
    for (namespace, field, phrase) in [
        ("namespace: ▸no", "metadata.namespace", "is a boolean"),
        ("namespace: ▸5", "metadata.namespace", "is an integer"),
        ("namespace: ▸[ns]", "metadata.namespace", "is a list"),
        ("namespace: ▸{ns: x}", "metadata.namespace", "is a mapping"),
        ("namespace: ▸null", "metadata.namespace", "is null"),
        ("namespace: ▸''", "metadata.namespace", "is empty"),
        ("namespace: ▸Team", "metadata.namespace", "cannot be a namespace"),
        ("namespace: ▸a/b", "metadata.namespace", "cannot be a namespace"),
        ("▸namspace: ns", "metadata.namspace", "did you mean `namespace`?"),
        ("▸Namespace: ns", "metadata.Namespace", "did you mean `namespace`?"),
    ] {
        let marked = account(namespace);
        let manifests = expect(&marked, &[(E, field, phrase)]);
        assert_eq!(account_names(&manifests), [""; 0], "{namespace}");
        let policy = read(
            &unmark(&marked)
                .0
                .replace("apiVersion: v1", "apiVersion: kuadrant.io/v1")
                .replace("ServiceAccount", "RateLimitPolicy"),
        );
        assert_eq!(policy.limit_policies[0].target, Target::Unknown, "{namespace}");
        assert!(policy.limit_policies[0].limits.is_none());
    }
}

/// YAML 1.1, as kubectl reads it.
#[test]
fn words_that_kubectl_takes_for_booleans_are_no_names() {
    for word in ["y", "N", "yes", "No", "on", "OFF", "true"] {
        let marked = format!("{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: ▸{word}}}}}");
        expect(&marked, &[(E, "metadata.name", "is a boolean")]);
        let lower = word.to_lowercase();
        let quoted = marked.replace(&format!("▸{word}"), &format!("'{lower}'"));
        assert_eq!(account_names(&expect(&quoted, &[])), [lower]);
    }
}

#[test]
fn what_kubectl_prints_is_read_without_a_word() {
    expect(
        "apiVersion: v1
kind: ServiceAccount
metadata:
  name: a
  namespace: b
  uid: 0b1f4c6e-0000-4000-8000-000000000000
  creationTimestamp: \"2026-11-22T16:00:00Z\"
  deletionTimestamp: null
  generation: 3
  labels: {app: x}
  annotations: {kubectl.kubernetes.io/last-applied-configuration: '{}'}
  managedFields: [{manager: kubectl}]
  ownerReferences: []
  resourceVersion: \"1\"
  finalizers: [x]
secrets: [{name: s}]
imagePullSecrets: [{name: s}]
automountServiceAccountToken: false
status: {}
",
        &[],
    );
}

#[test]
fn lists_are_what_they_hold() {
    let items = format!(
        "items:\n- {}\n- {}\n- {{apiVersion: v1, kind: Secret, metadata: {{name: s}}}}\n",
        account("a"),
        account("b")
    );
    for head in ["apiVersion: v1\nkind: List\n", "apiVersion: v1\nkind: ServiceAccountList\nmetadata: {}\n"] {
        let manifests = expect(&format!("{head}{items}"), &[]);
        assert_eq!(account_names(&manifests), ["a", "b"], "{head}");
        assert_eq!((manifests.read, manifests.ignored.values().sum::<usize>()), (2, 1), "{head}");
    }
    let nested =
        format!("apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: List\n  items: [{}]\n", account("a"));
    assert_eq!(account_names(&expect(&nested, &[])), ["a"]);
    for empty in ["items: []\n", "items: null\n", "items: []\nmetadata: {resourceVersion: ''}\n"] {
        expect(&format!("apiVersion: v1\nkind: List\n{empty}"), &[]);
    }
    // Somebody else's object, whose kind is called so.
    let named = expect("{apiVersion: x/v1, kind: AllowList, metadata: {name: a}, spec: {}}", &[]);
    assert_eq!((named.read, named.ignored.get("AllowList")), (0, Some(&1)));
}

/// What it holds may be a limit.
#[test]
fn a_list_whose_items_are_not_there_leaves_its_file_unknown() {
    let known = "field that is known here";
    for (rest, rows) in [
        ("", &[(E, "", "`items` is missing")][..]),
        ("▸itmes: [{a: b}]\n", &[(E, "", "`items` is missing"), (E, "itmes", "did you mean `items`?")]),
        ("▸objects: [{a: b}]\n", &[(E, "", "`items` is missing"), (W, "objects", known)]),
        ("items: []\n▸item: [{a: b}]\n", &[(E, "item", "did you mean `items`?")]),
        ("items: ▸text\n", &[(E, "items", "a list")]),
    ] {
        let is_missing = rows.iter().any(|(_, field, _)| field.is_empty());
        for kind in ["List", "RateLimitPolicyList"] {
            let mark = if is_missing { "▸" } else { "" };
            let manifests = expect(&format!("{mark}apiVersion: v1\nkind: {kind}\n{rest}"), rows);
            assert_eq!((manifests.unparsable, manifests.files.len()), (vec![FILE.into()], 0), "{kind}: {rest}");
        }
    }
}

#[test]
fn problems_inside_a_list_have_their_own_place() {
    let item = "{apiVersion: v1, kind: ServiceAccount, metadata: {name: a, ▸nmespace: x}}";
    let marked = format!("apiVersion: v1\nkind: List\nitems:\n- {item}\n- ▸text\n");
    expect(&marked, &[(E, "metadata.nmespace", "`namespace`"), (E, "", "a mapping")]);
}

#[test]
fn kinds_of_others_are_ignored() {
    for text in [
        "{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}, spec: {replicas: 1}}",
        "{apiVersion: v1, kind: Secret, metadata: {name: a}}",
        "{apiVersion: v1, kind: Service, metadata: {name: a}}",
        // Names that are ours, of groups that are not.
        "{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {name: a}}",
        "{apiVersion: iam.example.com/v1, kind: Role, metadata: {name: a}}",
        "{apiVersion: extensions.kuadrant.io/v1alpha1, kind: TelemetryPolicy, metadata: {name: a}}",
        "{apiVersion: kuadrant.io/v1, kind: DNSPolicy, metadata: {name: a}}",
        "{apiVersion: kuadrant.io/v1, kind: TLSPolicy, metadata: {name: a}}",
        "{apiVersion: kuadrant.io/v1beta1, kind: Kuadrant, metadata: {name: a}}",
        "{apiVersion: v1, kind: Node, metadata: {name: a}}",
        "{apiVersion: gateway.networking.x-k8s.io/v1alpha1, kind: XMesh, metadata: {name: a}}",
        "{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: a}}",
        // Whatever stands in them.
        "{apiVersion: x/v1, kind: Any, metadata: 1, spec: {1: a, true: b, 2.5: c, d: !Tag e, f: 123456789012345678901}}",
    ] {
        let manifests = expect(text, &[]);
        assert_eq!((manifests.read, manifests.ignored.values().sum::<usize>()), (0, 1), "{text}");
    }
}

/// KServe's other model kind stands in many folders.
#[test]
fn inference_service_is_no_misspelt_model() {
    let manifests = expect("{apiVersion: serving.kserve.io/v1beta1, kind: InferenceService, metadata: {name: a}}", &[]);
    assert_eq!((manifests.read, manifests.ignored.values().sum::<usize>()), (0, 1));
}

#[test]
fn misspelt_kinds_that_grant_are_errors_and_grant_nothing() {
    for (version, kind, phrase) in [
        ("v1", "Configmap", "ConfigMap of v1?"),
        ("v1", "serviceaccounts", "ServiceAccount of v1?"),
        ("v1", "Role", "Role of rbac.authorization.k8s.io/v1?"),
        ("rbac.authorization.k8s.io/v1", "RoleBindng", "RoleBinding"),
        ("rbac.authorisation.k8s.io/v1", "Role", "Role of rbac.authorization.k8s.io/v1?"),
        ("serving.kserve.io/v1alpha1", "LLMInferenceServce", "LLMInferenceService"),
    ] {
        let marked = format!("{{apiVersion: {version}, kind: ▸{kind}, metadata: {{name: a}}}}");
        let manifests = expect(&marked, &[(E, "kind", phrase)]);
        assert_eq!((manifests.read, manifests.metas().filter(|meta| meta.usable).count()), (1, 0), "{marked}");
    }
}

/// They say who may call what, or how much, where they come from.
#[test]
fn kinds_that_decide_elsewhere_and_are_not_read_are_named() {
    for (version, kind) in [
        ("gateway.networking.k8s.io/v1", "GRPCRoute"),
        ("gateway.networking.k8s.io/v1alpha2", "TCPRoute"),
        ("gateway.networking.k8s.io/v1alpha3", "TLSRoute"),
        ("authorino.kuadrant.io/v1beta3", "AuthConfig"),
        ("extensions.kuadrant.io/v1alpha1", "PlanPolicy"),
        ("extensions.kuadrant.io/v1alpha1", "OIDCPolicy"),
        ("limitador.kuadrant.io/v1alpha1", "Limitador"),
        ("maas.opendatahub.io/v1alpha1", "MaaSSubscription"),
        ("maas.opendatahub.io/v1alpha1", "MaaSAuthPolicy"),
    ] {
        let marked = format!("{{apiVersion: {version}, kind: ▸{kind}, metadata: {{name: a}}}}");
        let manifests = expect(&marked, &[(W, "kind", "is not read")]);
        assert_eq!((manifests.read, manifests.ignored.get(kind)), (0, Some(&1)), "{marked}");
    }
}

/// It could be a policy of any kind.
#[test]
fn a_kind_that_kuadrant_does_not_have_shuts_its_target() {
    let target = "targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: gw}";
    for (kind, phrase) in [
        ("RatePolicy", "did you mean RateLimitPolicy of kuadrant.io/v1?"),
        ("RateLimit", "did you mean RateLimitPolicy of kuadrant.io/v1?"),
        ("RLP", "did you mean RateLimitPolicy of kuadrant.io/v1?"),
        ("LimitPolicy", "did you mean RateLimitPolicy of kuadrant.io/v1?"),
        ("TokenPolicy", "did you mean TokenRateLimitPolicy of kuadrant.io/v1?"),
        ("Quota", "AuthPolicy, RateLimitPolicy, TokenRateLimitPolicy"),
        ("authpolicies", "did you mean AuthPolicy of kuadrant.io/v1?"),
    ] {
        let marked = format!(
            "{{apiVersion: kuadrant.io/v1, kind: ▸{kind}, metadata: {{name: a, namespace: ns}}, spec: {{{target}, rest: 1}}}}"
        );
        let manifests = expect(&marked, &[(E, "kind", phrase)]);
        let [policy] = manifests.limit_policies.as_slice() else { panic!("{marked}") };
        assert_eq!(policy.target.to_string(), "Gateway ns/gw");
        assert!(policy.limits.is_none() && policy.strategy.is_none(), "{marked}");
    }
}

/// A policy or route that silently is not there opens what it should have limited.
#[test]
fn misspelt_kinds_that_guard_are_errors_and_what_they_are_for_stays_shut() {
    let target = "targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: gw}";
    let limits = format!("{{{target}, limits: {{a: {{rates: [{{limit: 1, window: 1m}}]}}}}}}");
    for (version, kind, phrase) in [
        ("kuadrant.io/v1", "RateLimitPolcy", "did you mean RateLimitPolicy of kuadrant.io/v1?"),
        ("kuadrant.io/v1", "RateLimitPolicies", "RateLimitPolicy of kuadrant.io/v1?"),
        ("kuadrant.io/v1", "TokenRatelimitPolicy", "TokenRateLimitPolicy"),
        ("v1", "RateLimitPolicy", "RateLimitPolicy of kuadrant.io/v1?"),
        ("kuadrant.oi/v1", "RateLimitPolicy", "RateLimitPolicy of kuadrant.io/v1?"),
        ("kuadrant/v1", "RateLimitPolicy", "RateLimitPolicy of kuadrant.io/v1?"),
        ("ratelimit.kuadrant.io/v1", "RateLimitPolicy", "RateLimitPolicy of kuadrant.io/v1?"),
    ] {
        let marked =
            format!("{{apiVersion: {version}, kind: ▸{kind}, metadata: {{name: a, namespace: ns}}, spec: {limits}}}");
        let manifests = expect(&marked, &[(E, "kind", phrase)]);
        let policy = &manifests.limit_policies[0];
        assert!(policy.limits.is_none() && policy.target != Target::Unknown, "{marked}");
    }
    let route = "{apiVersion: gateway.networking.k8s.io/v1, kind: ▸HttpRoute, metadata: {name: a}, spec: {parentRefs: [{name: g}]}}";
    assert!(expect(route, &[(E, "kind", "HTTPRoute")]).routes[0].fault.any);
    let nameless = read("{apiVersion: kuadrant.io/v1, kind: AuthPolcy}");
    assert_eq!(nameless.limit_policies[0].target, Target::Unknown);
    for kind in ["HTTPRoute", "Gateway"] {
        let nameless = read(&format!("{{apiVersion: gateway.networking.k8s.io/v1, kind: {kind}, spec: {{}}}}"));
        let shut = nameless.routes.iter().map(|route| route.fault.hosts && route.fault.matches && route.fault.parents);
        assert!(shut.chain(nameless.gateways.iter().map(|gateway| gateway.broken)).eq([true]), "{kind}");
    }
}

/// What it was meant to be cannot be told: it may be a limit.
#[test]
fn document_that_is_no_object_leaves_its_file_unknown() {
    let good = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: a}\n---\n";
    for bad in [
        "metadata: {name: b}\n",
        "kind: RateLimitPolicy\n",
        "apiVersion: v1\n",
        "text\n",
        "- list\n",
        "kind: [a]\napiVersion: v1\n",
    ] {
        let manifests = read(&format!("{good}{bad}"));
        assert_eq!(manifests.unparsable, [FILE.into()], "{bad}");
        assert!(manifests.files.is_empty() && manifests.problems.iter().any(Problem::is_error), "{bad}");
        assert_eq!(manifests.service_accounts.len(), 1, "{bad}");
    }
}

#[test]
fn version_that_is_not_supported_is_an_error() {
    for (marked, expected) in [
        ("{apiVersion: ▸v2, kind: ServiceAccount, metadata: {name: a}}", "v1"),
        (
            "{apiVersion: ▸rbac.authorization.k8s.io/v1beta1, kind: Role, metadata: {name: a}, rules: []}",
            "rbac.authorization.k8s.io/v1",
        ),
        (
            "{apiVersion: ▸gateway.networking.k8s.io/v1alpha2, kind: Gateway, metadata: {name: a}, spec: {listeners: [{name: a}]}}",
            "gateway.networking.k8s.io/v1 or gateway.networking.k8s.io/v1beta1",
        ),
    ] {
        expect(marked, &[(E, "apiVersion", expected)]);
    }
}

#[test]
fn second_object_of_a_name_is_an_error_and_the_first_is_used() {
    let account =
        |uid: &str| format!("apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: a, namespace: ns, uid: {uid}}}\n");
    let marked = format!("{}---\n▸{}", account("first"), account("second"));
    let manifests = expect(&marked, &[(E, "", "the first is at f.yaml:3:11")]);
    let uids: Vec<_> = manifests.service_accounts.iter().map(|account| account.meta.uid.as_deref()).collect();
    assert_eq!(uids, [Some("first")]);
    // In another file, too; but not of another namespace or kind.
    let manifests = read_all(&[
        ("1.yaml", &account("first")),
        ("2.yaml", &account("second")),
        ("3.yaml", &account("third").replace("namespace: ns", "namespace: other")),
        ("4.yaml", "{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: a, namespace: ns}}"),
    ]);
    assert_eq!(manifests.problems.len(), 1, "{:?}", manifests.problems);
    assert_eq!(manifests.problems[0].place.to_string(), "2.yaml:1:1");
    assert!(manifests.problems[0].message.contains("1.yaml:3:11"));
    assert_eq!(manifests.service_accounts.len(), 2);
}
