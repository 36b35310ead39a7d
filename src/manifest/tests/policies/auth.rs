use std::time::Duration;

use super::*;
use crate::rules::Endpoint;
use crate::rules::{Authorization, Method, Shape, ValueSource};

#[test]
fn rules_that_are_not_carried_out_are_errors_and_nothing_of_the_policy_is_used() {
    for (rules, field, phrase) in [
        ("callbacks: ▸{x: {http: {url: 'http://x'}}}", "callbacks", "`callbacks`"),
        (
            "response: {success: {headers: {x: {wristband: ▸{issuer: x}}}}}",
            "response.success.headers.x.wristband",
            "`wristband`",
        ),
        ("authorization: {x: {opa: ▸{rego: allow = true}}}", "authorization.x.opa", "`opa`"),
        ("authorization: {x: {spicedb: ▸{endpoint: x}}}", "authorization.x.spicedb", "`spicedb`"),
        (
            "authorization: {x: {kubernetesSubjectAccessReview: {groups: ▸[a]}}}",
            "authorization.x.kubernetesSubjectAccessReview.groups",
            "static `groups`",
        ),
        ("metadata: {x: {uma: ▸{endpoint: x}}}", "metadata.x.uma", "`uma`"),
        ("metadata: {x: {userInfo: ▸{identitySource: x}}}", "metadata.x.userInfo", "`userInfo`"),
        (
            "metadata: {x: {http: {url: ▸'http://maas-api:8080/v1/other', body: {value: {}}}}}",
            "metadata.x.http.url",
            "another endpoint",
        ),
        (
            "metadata: {x: {http: {url: ▸'http://maas-api:8080', body: {value: {}}}}}",
            "metadata.x.http.url",
            "another endpoint",
        ),
        (
            "metadata: {x: {http: {url: ▸'http://h/v1/tiers/lookup?a=b', body: {value: {}}}}}",
            "metadata.x.http.url",
            "another endpoint",
        ),
    ] {
        let marked = auth_policy(&format!("{AUTHENTICATION}{rules}"));
        refused(&marked, &format!("spec.rules.{field}"), phrase);
    }
}

#[test]
fn tier_lookup_that_cannot_be_made_is_an_error() {
    let url = "url: 'http://h/v1/tiers/lookup'";
    for (http, field, phrase) in [
        (format!("{url}, sharedSecretRef: ▸{{name: x}}"), "sharedSecretRef", "`sharedSecretRef` is not supported"),
        (format!("{url}, oauth2: ▸{{tokenUrl: x}}"), "oauth2", "`oauth2` is not supported"),
        (format!("{url}, headers: ▸{{x: {{value: y}}}}"), "headers", "`headers` is not supported"),
        (format!("{url}, bodyParameters: ▸{{x: {{value: y}}}}"), "bodyParameters", "`bodyParameters` is not supported"),
        (format!("{url}, urlExpression: ▸'\"x\"'"), "urlExpression", "`urlExpression` is not supported"),
        (format!("{url}, method: ▸GET"), "method", "cannot be made with GET"),
        (
            format!("{url}, contentType: ▸application/x-www-form-urlencoded"),
            "contentType",
            "cannot be made with application/x-www-form-urlencoded",
        ),
        (format!("{url}, timeout: ▸-1"), "timeout", "is negative"),
        (format!("{url}, timeout: ▸100ms"), "timeout", "a whole number"),
        (format!("{url}, ▸retries: 1"), "retries", "not a field that is known"),
        ("url: ▸'http://u:p@h/v1/tiers/lookup'".to_owned(), "url", "holds credentials, so it cannot be called"),
        ("url: ▸'http://{context.x}/v1/tiers/lookup'".to_owned(), "url", "has a placeholder, so it cannot be called"),
        ("url: ▸'ftp://h/v1/tiers/lookup'".to_owned(), "url", "is no http or https URL, so it cannot be called"),
    ] {
        let rules = format!("metadata: {{x: {{http: {{body: {{value: {{}}}}, {http}}}}}}}");
        let marked = auth_policy(&format!("{AUTHENTICATION}{rules}"));
        let (text, marks) = unmark(&marked);
        let manifests = read(&text);
        let [problem] = manifests.problems.as_slice() else { panic!("{:#?}", manifests.problems) };
        assert_eq!((problem.place.line, problem.place.column), marks[0], "{marked}{problem}");
        assert_eq!(problem.field, format!("spec.rules.metadata.x.http.{field}"), "{problem}");
        assert!(problem.is_error() && problem.to_string().contains(phrase), "{problem}");
        assert!(manifests.auth_policies[0].rules.is_none(), "{marked}");
    }
}

#[test]
fn tier_lookup_takes_ttl_and_timeout_as_upper_bounds() {
    let endpoint = |http: &str, beside: &str| {
        let url = "url: 'http://h/v1/tiers/lookup', body: {value: {}}";
        let rules = format!("{AUTHENTICATION}metadata: {{x: {{http: {{{url}{http}}}{beside}}}}}");
        let manifests = expect(&auth_policy(&rules), &[]);
        Endpoint::clone(&manifests.auth_policies[0].rules.as_ref().unwrap().metadata[0].what.endpoint)
    };
    let expected = |ttl: Option<u64>, timeout: Option<u64>| {
        let (ttl, timeout) = (ttl.map(Duration::from_secs), timeout.map(Duration::from_millis));
        Endpoint::new("http://h/v1/tiers/lookup", ttl, timeout).unwrap()
    };
    let cache = |ttl: &str| format!(", cache: {{key: {{selector: auth.identity.user.username}}{ttl}}}");
    assert_eq!(endpoint("", ""), expected(None, None));
    assert_eq!(
        endpoint(", method: POST, contentType: application/json", &cache("")),
        expected(Some(60), None),
        "as Authorino"
    );
    assert_eq!(endpoint(", timeout: 80", &cache(", ttl: 60")), expected(Some(60), Some(80)));
    assert_ne!(expected(Some(60), None), expected(None, None));
}

#[test]
fn other_ways_to_authenticate_are_errors() {
    for (rule, field, phrase) in [
        ("jwt: ▸{issuerUrl: 'https://x'}", "jwt", "`jwt`"),
        ("apiKey: ▸{selector: {}}", "apiKey", "`apiKey`"),
        ("x509: ▸{selector: {}}", "x509", "`x509`"),
        ("oauth2Introspection: ▸{endpoint: x}", "oauth2Introspection", "`oauth2Introspection`"),
        ("credentials: {cookie: ▸{name: x}}", "credentials.cookie", "`cookie`"),
        ("credentials: {queryString: ▸{name: x}}", "credentials.queryString", "`queryString`"),
        ("credentials: {customHeader: ▸{name: x}}", "credentials.customHeader", "`customHeader`"),
        (
            "credentials: {authorizationHeader: {prefix: ▸APIKEY}}",
            "credentials.authorizationHeader.prefix",
            "other than `Bearer`",
        ),
    ] {
        // With and without a rule beside it that could be carried out.
        for beside in ["", ", kubernetesTokenReview: {audiences: [a]}"] {
            let marked = auth_policy(&format!("authentication: {{sa: {{{rule}{beside}}}}}"));
            refused(&marked, &format!("spec.rules.authentication.sa.{field}"), phrase);
        }
    }
}

/// A rule that is there, and in error, is not also missing.
#[test]
fn one_fault_is_reported_once() {
    expect(
        &auth_policy("authentication: {sa: {kubernetesTokenReview: {}, defaults: {u: {expression: ▸auth.}}}}"),
        &[(E, "spec.rules.authentication.sa.defaults.u.expression", "does not compile")],
    );
    expect(
        &auth_policy("authentication: {sa: {kubernetesTokenReview: {audiences: ▸a}}}"),
        &[(E, "spec.rules.authentication.sa.kubernetesTokenReview.audiences", "a list")],
    );
}

#[test]
fn auth_policy_is_read_as_written() {
    let rules = "authentication:
  sa:
    kubernetesTokenReview: {audiences: [a, b], timeout: 1}
    credentials: {authorizationHeader: {prefix: Bearer}}
    defaults: {userid: {expression: 'auth.identity.user.username'}, kind: {value: sa}}
    cache: {key: {selector: auth.identity.user.username}, ttl: 300}
    metrics: true
    priority: 0
metadata:
  tier:
    http: {url: 'https://maas-api/v1/tiers/lookup', method: POST, contentType: application/json, body: {expression: '{\"groups\": []}'}}
authorization:
  access:
    kubernetesSubjectAccessReview:
      user: {selector: auth.identity.user.username}
      authorizationGroups: {expression: auth.identity.user.groups}
      resourceAttributes: {group: {value: g}, resource: {value: r}, verb: {value: post}, namespace: {value: ns}, name: {value: m}}
response:
  success:
    filters: {identity: {json: {properties: {tier: {expression: 'auth.metadata.tier.tier'}}}}, other: {key: renamed, plain: {value: 1}}}
    headers: {X-Team: {plain: {value: red}}, y: {key: X-Other, json: {properties: {}}}}
";
    let manifests = expect(&auth_policy(rules), &[]);
    let rules = manifests.auth_policies[0].rules.as_ref().unwrap();
    let [authentication] = rules.authentication.as_slice() else { panic!("{rules:?}") };
    assert_eq!(&*authentication.name, "sa");
    let Method::Token { audiences, .. } = &authentication.what.method else { panic!("{authentication:?}") };
    assert_eq!(audiences, &["a", "b"]);
    assert_eq!(authentication.what.ttl, Some(Duration::from_secs(300)));
    let authentication = &authentication.what;
    let defaults: Vec<&str> = authentication.defaults.iter().map(|(name, _)| &**name).collect();
    assert_eq!(defaults, ["userid", "kind"]);
    assert!(matches!(&authentication.defaults[1].1, ValueSource::Constant(value) if value == "sa"));
    assert_eq!(
        rules.metadata.iter().map(|l| (&*l.name, &*l.what.endpoint.url)).collect::<Vec<_>>(),
        [("tier", "https://maas-api/v1/tiers/lookup")]
    );
    let [authorization] = rules.authorization.as_slice() else { panic!("{rules:?}") };
    assert_eq!(&*authorization.name, "access");
    let Authorization::Access(access) = &authorization.what else { panic!("{authorization:?}") };
    assert!(matches!(&access.subresource, ValueSource::Constant(value) if value == ""));
    let filters: Vec<(&str, bool)> =
        rules.filters.iter().map(|f| (&*f.what.name, matches!(f.what.shape, Shape::Object(_)))).collect();
    assert_eq!(filters, [("identity", true), ("renamed", false)]);
    let headers: Vec<(&str, bool)> =
        rules.headers.iter().map(|h| (&*h.what.name, matches!(h.what.shape, Shape::Object(_)))).collect();
    assert_eq!(headers, [("x-team", false), ("x-other", true)]);
}

/// To RBAC an empty name is every name, and an empty namespace the whole cluster.
#[test]
fn access_rule_has_to_say_which_model() {
    let rule = |attributes: &str| {
        auth_policy(&format!(
            "{AUTHENTICATION}authorization:\n  x:\n    kubernetesSubjectAccessReview:\n      user: {{value: u}}\n      \
             resourceAttributes: ▸{{{attributes}}}\n"
        ))
    };
    let field = "spec.rules.authorization.x.kubernetesSubjectAccessReview.resourceAttributes";
    expect(&rule("namespace: {value: ns}"), &[(E, field, "`name` is missing")]);
    expect(&rule("name: {value: ns}"), &[(E, field, "`namespace` is missing")]);
}

#[test]
fn value_is_said_once() {
    for (value, phrase) in [
        ("{}", "says no value, or more than one"),
        ("{value: a, expression: auth.identity}", "says no value, or more than one"),
        ("text", "a mapping"),
    ] {
        let marked = auth_policy(&format!(
            "authentication: {{b: {{kubernetesTokenReview: {{}}}}, sa: {{kubernetesTokenReview: {{}}, defaults: {{u: ▸{value}}}}}}}"
        ));
        expect(&marked, &[(E, "spec.rules.authentication.sa.defaults.u", phrase)]);
    }
    for item in ["{}", "{json: {properties: {}}, plain: {value: a}}"] {
        let marked = auth_policy(&format!("{AUTHENTICATION}response: {{success: {{filters: {{i: ▸{item}}}}}}}"));
        expect(&marked, &[(E, "spec.rules.response.success.filters.i", "either `json` or `plain`")]);
    }
}

#[test]
fn a_pattern_that_looks_for_a_query_in_the_path_is_an_error() {
    let policy = |pattern: &str| {
        let rule = format!("authorization: {{a: {{patternMatching: {{patterns: [{{{pattern}}}]}}}}}}\n");
        auth_policy(&format!("{AUTHENTICATION}{rule}"))
    };
    let field = "spec.rules.authorization.a.patternMatching.patterns[0].value";
    for pattern in [
        "selector: request.path, operator: eq, value: ▸'/a?b=c'",
        "selector: request.url_path, operator: neq, value: ▸'/a?b=c'",
        "selector: request.path, operator: incl, value: ▸'?'",
        r"selector: request.path, operator: matches, value: ▸'^/a\?b'",
    ] {
        expect(&policy(pattern), &[(E, field, "looks for a query in `request.")]);
    }
    for pattern in [
        "selector: request.query, operator: eq, value: 'b?'",
        "selector: context.request.http.path, operator: eq, value: '/a?b=c'",
        r"selector: request.path, operator: matches, value: '^/a(\?.*)?$'",
    ] {
        expect(&policy(pattern), &[]);
    }
}
