mod auth;
mod limits;
mod targets;

use super::*;

const TARGET: &str = "targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: gw}\n";
const AUTHENTICATION: &str = "authentication: {sa: {kubernetesTokenReview: {audiences: [a]}}}\n";

/// An object `p` of namespace `ns` with this spec.
fn object(kind: &str, spec: &str) -> String {
    format!(
        "apiVersion: kuadrant.io/v1\nkind: {kind}\nmetadata: {{name: p, namespace: ns}}\nspec:\n{}",
        indent(spec, 2)
    )
}

fn auth_policy(rules: &str) -> String {
    object("AuthPolicy", &format!("{TARGET}rules:\n{}", indent(rules, 2)))
}

fn limit_policy(limits: &str) -> String {
    object("RateLimitPolicy", &format!("{TARGET}limits:\n{}", indent(limits, 2)))
}

fn gateway() -> Target {
    Target::gateway(&ObjectName::new("Gateway", "ns", "gw"), None)
}

/// Asserts that at the mark the rule is refused as one that is not carried out, that nothing of the policy is used, and
/// that its target is known, so that only that one stays shut.
#[track_caller]
fn refused(marked: &str, field: &str, phrase: &str) {
    let (text, marks) = unmark(marked);
    let manifests = read(&text);
    let shown: Vec<String> = manifests.problems.iter().map(ToString::to_string).collect();
    let problem = manifests.problems.iter().find(|problem| problem.field == field);
    let Some(problem) = problem else {
        panic!("nothing about {field} in {shown:#?} of\n{text}");
    };
    assert_eq!((problem.place.line, problem.place.column), marks[0], "{marked}{problem}");
    assert!(problem.is_error(), "{problem}");
    assert!(problem.message.contains(phrase), "{problem}");
    assert!(problem.message.contains("is not supported"), "{problem}");
    assert!(problem.remedy.is_some(), "{problem}");
    for policy in &manifests.auth_policies {
        assert!(policy.rules.is_none(), "{marked}");
        assert_eq!(policy.target, gateway(), "{marked}");
    }
    for policy in &manifests.limit_policies {
        assert!(policy.limits.is_none(), "{marked}");
        assert_eq!(policy.target, gateway(), "{marked}");
    }
    assert_eq!(manifests.auth_policies.len() + manifests.limit_policies.len(), 1);
}

#[test]
fn a_policy_says_its_rules_in_one_place_and_by_a_known_strategy() {
    let rules = format!("rules:\n{}", indent(AUTHENTICATION, 2));
    let limits = "limits: {a: {rates: [{limit: 1, window: 1m}]}}";
    for (kind, spec, field, phrase) in [
        ("AuthPolicy", format!("{TARGET}rules: ▸{{}}\noverrides: {{rules: {{}}}}"), "spec.rules", "`overrides` too"),
        ("AuthPolicy", format!("{TARGET}defaults: {{}}\noverrides: ▸{{}}"), "spec.overrides", "beside `defaults`"),
        ("AuthPolicy", format!("{TARGET}when: ▸[]\ndefaults:\n{}", indent(&rules, 2)), "spec.when", "`defaults` too"),
        (
            "AuthPolicy",
            format!("{TARGET}defaults:\n  strategy: ▸mix\n{}", indent(&rules, 2)),
            "spec.defaults.strategy",
            "`mix` is not a strategy",
        ),
        (
            "RateLimitPolicy",
            format!("{TARGET}overrides: {{strategy: ▸'', {limits}}}"),
            "spec.overrides.strategy",
            "atomic or merge",
        ),
        ("TokenRateLimitPolicy", format!("{TARGET}overrides: ▸{{}}"), "spec.overrides", "`limits` is missing"),
    ] {
        let (text, _) = unmark(&object(kind, &spec));
        let manifests = read(&text);
        let problem = manifests.problems.iter().find(|problem| problem.field == field);
        let problem = problem.unwrap_or_else(|| panic!("nothing about {field}: {:#?}", manifests.problems));
        assert!(problem.is_error() && problem.to_string().contains(phrase), "{problem}");
        let broken = manifests.auth_policies.iter().map(|p| p.rules.is_none());
        let broken = broken.chain(manifests.limit_policies.iter().map(|p| p.limits.is_none()));
        assert_eq!(broken.collect::<Vec<_>>(), [true], "{spec}");
    }
}

#[test]
fn policy_of_an_unsupported_version_is_not_used_and_keeps_its_target_shut() {
    let rules = format!("{TARGET}rules:\n{}", indent(AUTHENTICATION, 2));
    let limits = format!("{TARGET}limits: {{a: {{rates: [{{limit: 1, window: 1m}}]}}}}");
    for (kind, spec, version) in [
        ("AuthPolicy", &rules, "v1beta2"),
        ("AuthPolicy", &rules, "v2"),
        ("RateLimitPolicy", &limits, "v2"),
        ("TokenRateLimitPolicy", &limits, "v1beta1"),
    ] {
        let text = object(kind, spec).replace("kuadrant.io/v1", &format!("▸kuadrant.io/{version}"));
        let manifests = expect(&text, &[(E, "apiVersion", "kuadrant.io/v1")]);
        let auth = manifests.auth_policies.iter().map(|p| (&p.target, p.rules.is_none()));
        let limits = manifests.limit_policies.iter().map(|p| (&p.target, p.limits.is_none()));
        let states: Vec<_> = auth.chain(limits).collect();
        assert_eq!(states, [(&gateway(), true)], "{kind} {version}");
    }
}

#[test]
fn unknown_fields_of_policies_are_errors() {
    let rates = "rates: [{limit: 1, window: 1m}]";
    for (marked, field, phrase) in [
        (limit_policy(&format!("a: {{{rates}, ▸wen: []}}")), "spec.limits.a.wen", "did you mean `when`?"),
        (limit_policy(&format!("a: {{{rates}, ▸countrs: []}}")), "spec.limits.a.countrs", "did you mean `counters`?"),
        (
            limit_policy("a: {rates: [{limit: 1, window: 1m, ▸unit: s}]}"),
            "spec.limits.a.rates[0].unit",
            "one of limit, window",
        ),
        (
            limit_policy(&format!("a: {{{rates}, ▸routeSelectors: []}}")),
            "spec.limits.a.routeSelectors",
            "is not a field that is known here",
        ),
        (
            object("RateLimitPolicy", &format!("{TARGET}limits: {{a: {{{rates}}}}}\n▸limit: {{}}")),
            "spec.limit",
            "did you mean `limits`?",
        ),
        (
            auth_policy(&format!("{AUTHENTICATION}▸authorisation: {{}}")),
            "spec.rules.authorisation",
            "did you mean `authorization`?",
        ),
        (
            auth_policy("authentication: {sa: {kubernetesTokenReview: {audiences: [a], ▸audience: b}}}"),
            "spec.rules.authentication.sa.kubernetesTokenReview.audience",
            "did you mean `audiences`?",
        ),
        (
            auth_policy(&format!("{AUTHENTICATION}response: {{success: {{▸filter: {{}}}}}}")),
            "spec.rules.response.success.filter",
            "did you mean `filters`?",
        ),
        (
            object(
                "AuthPolicy",
                &format!("{}rules: {{{}}}", TARGET.replace('}', ", ▸nmae: x}"), AUTHENTICATION.trim()),
            ),
            "spec.targetRef.nmae",
            "did you mean `name`?",
        ),
    ] {
        let manifests = expect(&marked, &[(E, field, phrase)]);
        let unused = manifests.auth_policies.iter().all(|policy| policy.rules.is_none())
            && manifests.limit_policies.iter().all(|policy| policy.limits.is_none());
        assert!(unused, "{marked}");
    }
    // Outside of the spec, too: a rule could have slipped out of it.
    let text = object("RateLimitPolicy", &format!("{TARGET}limits: {{a: {{{rates}}}}}"));
    let manifests = expect(&format!("{text}▸limits: {{}}\n"), &[(E, "limits", "is not a field that is known here")]);
    assert!(manifests.limit_policies[0].limits.is_none());
}

#[test]
fn every_place_for_an_expression_is_compiled() {
    let access = |attributes: &str| {
        auth_policy(&format!(
            "{AUTHENTICATION}authorization:\n  x:\n    kubernetesSubjectAccessReview:\n      user: {{value: u}}\n      \
             authorizationGroups: {{value: []}}\n      resourceAttributes: {{namespace: {{value: ns}}, name: {{value: ns}}}}\n"
        ))
        .replace("user: {value: u}", attributes)
    };
    for (marked, field) in [
        (
            limit_policy("a: {rates: [{limit: 1, window: 1m}], counters: [{expression: ▸auth.}]}"),
            "limits.a.counters[0].expression",
        ),
        (
            object(
                "RateLimitPolicy",
                &format!("{TARGET}when: [{{predicate: ▸auth.}}]\nlimits: {{a: {{rates: [{{limit: 1, window: 1m}}]}}}}"),
            ),
            "when[0].predicate",
        ),
        (
            auth_policy(
                "authentication: {b: {kubernetesTokenReview: {}}, sa: {kubernetesTokenReview: {}, defaults: {userid: {expression: ▸auth.}}}}",
            ),
            "rules.authentication.sa.defaults.userid.expression",
        ),
        (
            auth_policy("authentication: {sa: {kubernetesTokenReview: {}, cache: {key: {expression: ▸auth.}}}}"),
            "rules.authentication.sa.cache.key.expression",
        ),
        (
            auth_policy(&format!(
                "{AUTHENTICATION}metadata: {{t: {{http: {{url: 'http://h/v1/tiers/lookup', body: {{expression: ▸auth.}}}}}}}}"
            )),
            "rules.metadata.t.http.body.expression",
        ),
        (access("user: {expression: ▸auth.}"), "rules.authorization.x.kubernetesSubjectAccessReview.user.expression"),
        (
            auth_policy(&format!(
                "{AUTHENTICATION}response: {{success: {{filters: {{i: {{json: {{properties: {{t: {{expression: ▸auth.}}}}}}}}}}}}}}"
            )),
            "rules.response.success.filters.i.json.properties.t.expression",
        ),
        (
            auth_policy(&format!(
                "{AUTHENTICATION}response: {{success: {{headers: {{h: {{plain: {{expression: ▸auth.}}}}}}}}}}"
            )),
            "rules.response.success.headers.h.plain.expression",
        ),
    ] {
        let field = format!("spec.{field}").leak();
        expect(&marked, &[(E, field, "does not compile")]);
    }
}

#[test]
fn old_forms_say_what_to_write_now() {
    expect(
        &limit_policy(
            "a: {rates: [{limit: 1, window: 1m}], when: [{selector: ▸auth.identity.tier, operator: eq, value: free}]}",
        ),
        &[(E, "spec.limits.a.when[0].selector", "write a CEL `predicate`")],
    );
    expect(
        &limit_policy("a: {rates: [{limit: 1, window: 1m}], counters: [▸auth.identity.userid]}"),
        &[(E, "spec.limits.a.counters[0]", "a mapping")],
    );
    expect(
        &auth_policy(
            "authentication: {sa: {kubernetesTokenReview: {}, cache: {key: {selector: ▸'auth.identity.a == \"b\"'}}}}",
        ),
        &[(E, "spec.rules.authentication.sa.cache.key.selector", "is CEL, and would select nothing")],
    );
}

#[test]
fn policy_that_lets_nobody_in_or_limits_nothing_is_noticed() {
    expect(&auth_policy("▸authentication: {}"), &[(E, "spec.rules", "everybody would be let in")]);
    expect(&auth_policy("▸metadata: {}"), &[(E, "spec.rules", "everybody would be let in")]);
    expect(&auth_policy("authentication: {a: {anonymous: {}}}"), &[]);
    expect(&auth_policy("authorization: {a: {patternMatching: {patterns: [{predicate: 'false'}]}}}"), &[]);
    expect(&object("AuthPolicy", &format!("▸{TARGET}")), &[(E, "spec", "`rules` is missing")]);
    expect(&object("RateLimitPolicy", &format!("▸{TARGET}")), &[(E, "spec", "`limits` is missing")]);
    let manifests =
        expect(&object("RateLimitPolicy", &format!("{TARGET}limits: ▸{{}}")), &[(E, "spec.limits", "holds no limit")]);
    assert!(manifests.limit_policies[0].limits.is_none());
    // As where there is nothing at all.
    for (marked, field) in [
        (auth_policy(&format!("{AUTHENTICATION}authorization: ▸null")), "spec.rules.authorization"),
        (limit_policy("a: {rates: [{limit: 1, window: 1m}], when: ▸null}"), "spec.limits.a.when"),
        (limit_policy("a: {rates: [{limit: 1, window: 1m}], counters: ▸null}"), "spec.limits.a.counters"),
    ] {
        expect(&marked, &[(E, field, "is null")]);
    }
}

/// Whoever mends one mistake at a time learns of the next one by the next check.
#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn an_object_with_several_mistakes_shows_all_of_them() {
    let policy = |kind: &str, spec: &str| {
        format!("apiVersion: kuadrant.io/v1\nkind: {kind}\nmetadata: {{name: a, namespace: ns}}\nspec:\n{spec}\n")
    };
    let target = "  targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: gw}\n";
    let rbac = |kind: &str, rest: &str| {
        format!(
            "apiVersion: rbac.authorization.k8s.io/v1\nkind: {kind}\nmetadata: {{name: a, namespace: ns}}\n{rest}\n"
        )
    };
    let gateway = |kind: &str, spec: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: a, namespace: ns}}\nspec:\n{spec}\n"
        )
    };
    let rows: [(String, &[&str]); 10] = [
        (
            policy(
                "RateLimitPolicy",
                &format!(
                    "{target}  limits:\n    a:\n      rates: [1, {{limit: x, window: y}}, {{window: z}}]\n      when: [{{predicate: '1 +'}}, {{predicat: a}}]\n      counters: [{{expression: ')'}}, {{}}]\n      more: 1"
                ),
            ),
            &[
                "spec.limits.a.rates[0]",
                "spec.limits.a.rates[1].limit",
                "spec.limits.a.rates[1].window",
                "spec.limits.a.rates[2]",
                "spec.limits.a.rates[2].window",
                "spec.limits.a.when[0].predicate",
                "spec.limits.a.when[1]",
                "spec.limits.a.when[1].predicat",
                "spec.limits.a.counters[0].expression",
                "spec.limits.a.counters[1]",
                "spec.limits.a.more",
            ],
        ),
        (
            policy(
                "AuthPolicy",
                &format!(
                    "{target}  when: [{{predicate: 1}}]\n  patterns: {{p: {{}}}}\n  rules:\n    authentication: {{a: {{jwt: {{}}}}}}\n    metadata: {{m: {{uma: {{}}}}}}\n    authorization: {{z: {{opa: {{}}}}, y: {{patternMatching: {{patterns: [{{operator: is}}]}}}}}}\n    response: {{unauthorized: {{code: 1, headers: {{'a b': {{}}, c: {{}}}}}}}}"
                ),
            ),
            &[
                "spec.when[0].predicate",
                "spec.patterns.p",
                "spec.rules.authentication.a.jwt",
                "spec.rules.metadata.m.uma",
                "spec.rules.metadata.m",
                "spec.rules.authorization.z.opa",
                "spec.rules.authorization.y.patternMatching.patterns[0]",
                "spec.rules.authorization.y.patternMatching.patterns[0].operator",
                "spec.rules.response.unauthorized.code",
                "spec.rules.response.unauthorized.headers.a b",
                "spec.rules.response.unauthorized.headers.a b",
                "spec.rules.response.unauthorized.headers.c",
            ],
        ),
        (
            policy("RateLimitPolicy", "  targetRef: {group: x, kind: y, sectionName: 1}\n  limits: {a: {rates: []}}"),
            &[
                "spec.targetRef",
                "spec.targetRef.group",
                "spec.targetRef.kind",
                "spec.targetRef.sectionName",
                "spec.limits.a.rates",
            ],
        ),
        (rbac("Role", "rules: [{nonResourceURLs: [/a], resources: [b]}]"), &["rules[0]", "rules[0]", "rules[0]"]),
        (
            rbac("RoleBinding", "roleRef: {kind: Rolle}\nsubjects: [{kind: Grupp}, {name: ''}, {kind: User, name: 1}]"),
            &[
                "roleRef",
                "roleRef.kind",
                "subjects[0]",
                "subjects[0].kind",
                "subjects[1]",
                "subjects[1].name",
                "subjects[2].name",
            ],
        ),
        (
            rbac(
                "ClusterRole",
                "aggregationRule: {clusterRoleSelectors: [{matchExpressions: [{key: '-', operator: Is, values: 1}, {}]}]}",
            ),
            &[
                "aggregationRule.clusterRoleSelectors[0].matchExpressions[0].key",
                "aggregationRule.clusterRoleSelectors[0].matchExpressions[0].operator",
                "aggregationRule.clusterRoleSelectors[0].matchExpressions[0].values",
                "aggregationRule.clusterRoleSelectors[0].matchExpressions[1]",
                "aggregationRule.clusterRoleSelectors[0].matchExpressions[1]",
            ],
        ),
        (
            gateway("Gateway", "  listeners: [{port: 0, hostname: 'a b', allowedRoutes: {namespaces: {from: Some}}}]"),
            &[
                "spec.listeners[0]",
                "spec.listeners[0].port",
                "spec.listeners[0].hostname",
                "spec.listeners[0].allowedRoutes.namespaces.from",
            ],
        ),
        (
            gateway(
                "HTTPRoute",
                "  parentRefs: [{port: 0, kind: 1}]\n  rules: [{matches: [{path: {type: A, value: 1}, method: get, headers: [{name: 'a b', value: ''}, {}], queryParams: 1}]}]",
            ),
            &[
                "spec.parentRefs[0]",
                "spec.parentRefs[0].port",
                "spec.parentRefs[0].kind",
                "spec.rules[0].matches[0].path.value",
                "spec.rules[0].matches[0].method",
                "spec.rules[0].matches[0].headers[0].name",
                "spec.rules[0].matches[0].headers[0].value",
                "spec.rules[0].matches[0].headers[1]",
                "spec.rules[0].matches[0].headers[1]",
                "spec.rules[0].matches[0].queryParams",
            ],
        ),
        (
            policy(
                "AuthPolicy",
                &format!(
                    "{target}  rules: {{metadata: {{m: {{cache: {{ttl: -1, key: {{expression: ')'}}}}, http: {{url: 'http://a', body: {{}}}}}}}}}}"
                ),
            ),
            &[
                "spec.rules.metadata.m.cache.ttl",
                "spec.rules.metadata.m.cache.key.expression",
                "spec.rules.metadata.m.http.url",
                "spec.rules.metadata.m.http.body",
            ],
        ),
        (
            policy(
                "AuthPolicy",
                &format!(
                    "{target}  rules: {{authorization: {{z: {{kubernetesSubjectAccessReview: {{user: {{}}, authorizationGroups: {{}}, resourceAttributes: {{verb: {{}}}}}}}}}}}}"
                ),
            ),
            &[
                "spec.rules.authorization.z.kubernetesSubjectAccessReview.user",
                "spec.rules.authorization.z.kubernetesSubjectAccessReview.authorizationGroups",
                "spec.rules.authorization.z.kubernetesSubjectAccessReview.resourceAttributes.verb",
                "spec.rules.authorization.z.kubernetesSubjectAccessReview.resourceAttributes",
                "spec.rules.authorization.z.kubernetesSubjectAccessReview.resourceAttributes",
            ],
        ),
    ];
    for (text, fields) in rows {
        let problems = read(&text).problems;
        let mut found: Vec<&str> = problems.iter().map(|problem| problem.field.as_str()).collect();
        found.sort_unstable();
        let mut fields = fields.to_vec();
        fields.sort_unstable();
        assert_eq!(
            found,
            fields,
            "{text}{}",
            problems.iter().map(|problem| format!("{problem}\n")).collect::<String>()
        );
    }
}
