use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::*;
use crate::args::Format;
use crate::policy::Options;
use crate::problem::{Origin, Problem};

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// What is wrong with the manifests of `folder`, if there are any, and with the Envoy configurations in its folder `envoy`.
fn found(folder: &Path) -> Vec<Problem> {
    let files = |dir: &Path| {
        let entries = std::fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = entries.filter(|path| path.extension().is_some_and(|kind| kind == "yaml")).collect();
        files.sort();
        files
    };
    let policy = match files(folder).is_empty() {
        true => Policy::default(),
        false => Folder::new(folder, options(folder)).load().unwrap().unwrap(),
    };
    let beside = Beside { token_limits: limits_tokens(&policy) };
    let mut problems = policy.problems;
    for file in files(&folder.join("envoy")) {
        let text = std::fs::read_to_string(&file).unwrap();
        problems.extend(on_large_stack(|| envoy::problems(&file.display().to_string(), &text, beside)).unwrap());
    }
    problems
}

/// A file `.gateway` is what `--gateway` says.
fn options(folder: &Path) -> Options {
    let gateway = std::fs::read_to_string(folder.join(".gateway"));
    Options { gateway: gateway.ok().map(|name| name.trim().to_owned()), ..Options::default() }
}

fn shown(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("{problem}\n")).collect()
}

#[test]
fn every_finding_has_a_folder_that_triggers_it_and_one_that_does_not() {
    for finding in Finding::ALL.iter().filter(|finding| matches!(finding.origin(), Origin::Objects | Origin::Envoy)) {
        let folder = root("tests/data/lint").join(finding.as_str());
        let (bad, good) = (found(&folder.join("bad")), found(&folder.join("good")));
        let codes: BTreeSet<&str> = bad.iter().map(|problem| problem.code.as_str()).collect();
        assert_eq!(codes, BTreeSet::from([finding.as_str()]), "{}", shown(&bad));
        assert!(folder.join("good").is_dir() && good.is_empty(), "{finding}: {}", shown(&good));
        for problem in bad {
            assert!(problem.remedy.is_some(), "a finding without a remedy: {problem}");
            let is_told = problem.in_force.is_some() || finding.origin() == Origin::Envoy;
            assert!(!problem.is_error() || is_told, "an error that does not say what is in force: {problem}");
        }
    }
    let folders = std::fs::read_dir(root("tests/data/lint")).unwrap();
    let names: BTreeSet<String> = folders.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let stray: Vec<_> = names.iter().filter(|name| Finding::named(name).is_err()).collect();
    assert!(stray.is_empty(), "folders of no finding: {stray:?}");
}

/// What each folder's findings say, for people to read in one place.
#[test]
fn findings_say_what_they_mean_at_their_places() {
    let base = root("tests/data/lint");
    let mut all = String::new();
    for finding in Finding::ALL.iter().filter(|finding| matches!(finding.origin(), Origin::Objects | Origin::Envoy)) {
        all += &shown(&found(&base.join(finding.as_str()).join("bad")));
    }
    insta::assert_snapshot!(all.replace(&format!("{}/", base.display()), ""));
}

#[test]
fn a_warning_that_is_meant_is_left_out_and_an_error_is_not() {
    let problems = |annotation: &str| {
        let text = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: tier-to-group-mapping\n  namespace: maas-api\n  annotations: \
             {{tiergate.io/ignore: '{annotation}'}}\ndata:\n  tiers: '[{{name: a, level: 1, groups: []}}, \
             {{name: b, level: 1, groups: []}}, {{name: b, level: 2, groups: []}}]'\n"
        );
        let manifests = crate::manifest::Manifests::read([("t.yaml", text.as_str())]);
        let policy = on_large_stack(|| crate::lint::compile(manifests, &Options::default())).unwrap();
        policy.problems.iter().map(|problem| (problem.code, problem.remedy.clone().unwrap())).collect::<Vec<_>>()
    };
    let codes = |annotation: &str| problems(annotation).iter().map(|(code, _)| *code).collect::<Vec<_>>();
    use Finding::{ObjectDuplicate, TierLevelsEqual, ValueInvalid};
    assert_eq!(codes(""), [TierLevelsEqual, ObjectDuplicate]);
    assert_eq!(codes("tier-levels-equal"), [ObjectDuplicate]);
    assert_eq!(codes("object-duplicate , tier-levels-equal,"), [ObjectDuplicate]);
    assert_eq!(codes("tier-level-equal"), [ValueInvalid, TierLevelsEqual, ObjectDuplicate]);
    assert_eq!(problems("tier-level-equal")[0].1, "did you mean `tier-levels-equal`?");
    assert_eq!(problems("xyzzy")[0].1, "`tiergate check --explain` lists them");
}

/// One text for each finding of reading, and the findings that it gives.
#[test]
fn every_finding_of_reading_is_found() {
    let account = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: a, namespace: ns}\n";
    let policy = |annotations: &str, spec: &str| {
        let target = "targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: gw}";
        format!(
            "apiVersion: kuadrant.io/v1\nkind: RateLimitPolicy\nmetadata: {{name: p, namespace: ns, annotations: {{{annotations}}}}}\n\
             spec: {{{target}, {spec}}}\n"
        )
    };
    let limit = |rate: &str, when: &str| {
        format!(
            "limits: {{a: {{rates: [{{limit: {rate}}}], when: [{when}], counters: [{{expression: auth.identity.userid}}]}}}}"
        )
    };
    let sound = limit("1, window: 1m", "");
    let auth = "{apiVersion: kuadrant.io/v1, kind: AuthPolicy, metadata: {name: a, namespace: ns}, spec: {targetRef: {group: \
                gateway.networking.k8s.io, kind: Gateway, name: gw}, rules: {authentication: {a: {anonymous: {}, when: \
                [{patternRef: gone}]}}}}}\n---\n{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: gw, \
                namespace: ns}, spec: {listeners: [{name: http}]}}\n---\n{apiVersion: gateway.networking.k8s.io/v1, kind: \
                HTTPRoute, metadata: {name: r, namespace: ns}, spec: {parentRefs: [{name: gw}], rules: [{}]}}\n";
    let cache = "cache: {key: {selector: 'request.headers.authorization.@case:lower'}}";
    let cached = auth.replace("when: [{patternRef: gone}]", cache);
    assert_ne!(cached, auth);
    let rows = [
        (Finding::FileUnreadable, None),
        (Finding::FileNotRead, Some("# nothing\n".to_owned())),
        (Finding::YamlSyntax, Some("a: [".to_owned())),
        (Finding::KindUnknown, Some(policy("", &sound).replace("RateLimitPolicy", "RateLimitPolcy"))),
        (
            Finding::KindNotRead,
            Some(account.replace("v1", "maas.opendatahub.io/v1alpha1").replace("ServiceAccount", "MaaSSubscription")),
        ),
        (Finding::FieldUnknown, Some(account.replace("metadata", "extra: 1\nmetadata"))),
        (Finding::FieldMissing, Some(account.replace("metadata: {name: a, namespace: ns}", ""))),
        (Finding::TypeWrong, Some(account.replace("name: a", "name: 1"))),
        (Finding::ValueInvalid, Some(policy("", &limit("1, window: 1d", "")))),
        (Finding::ExpressionInvalid, Some(policy("", &limit("1, window: 1m", "{predicate: '1 +'}")))),
        (Finding::ReferenceUnknown, Some(auth.to_owned())),
        (Finding::AnnotationUnknown, Some(policy("tiergate.io/algoritm: fixed-window", &sound))),
        (Finding::CacheKeyUnsafe, Some(cached)),
        (Finding::ObjectDuplicate, Some(format!("{account}---\n{account}"))),
        (Finding::Unsupported, Some(policy("", &limit("1, window: 1m", "{selector: a, operator: eq, value: b}")))),
    ];
    let reading = Finding::ALL.iter().filter(|finding| finding.origin() == Origin::Reading);
    assert_eq!(rows.iter().map(|(finding, _)| finding).collect::<Vec<_>>(), reading.collect::<Vec<_>>());
    for (finding, text) in rows {
        let file = [("f.yaml", text.as_deref().ok_or("it is a pipe"))];
        let read = || crate::lint::compile(crate::manifest::Manifests::read_files(file), &Options::default());
        let problems = on_large_stack(read).unwrap().problems;
        // The policies of this test have no Gateway to be on.
        let codes = problems.iter().map(|problem| problem.code).filter(|code| *code != Finding::TargetMissing);
        assert_eq!(codes.collect::<Vec<_>>(), [finding], "{}", shown(&problems));
        assert!(
            problems.iter().all(|problem| !problem.is_error() || problem.in_force.is_some()),
            "{}",
            shown(&problems)
        );
    }
}

/// What is missing may be in the file that cannot be read: mend that first.
#[test]
fn beside_a_file_that_is_not_yaml_nothing_is_called_missing() {
    let binding = "{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: b, namespace: ns}, \
                   roleRef: {kind: Role, name: r}}";
    let codes = |files: &[(&str, &str)]| {
        let manifests = crate::manifest::Manifests::read(files.iter().copied());
        let policy = on_large_stack(|| crate::lint::compile(manifests, &Options::default())).unwrap();
        policy.problems.iter().map(|problem| problem.code).collect::<Vec<_>>()
    };
    assert_eq!(codes(&[("b.yaml", binding)]), [Finding::RoleMissing]);
    assert_eq!(codes(&[("b.yaml", binding), ("r.yaml", "[")]), [Finding::YamlSyntax]);
}

#[test]
fn examples_are_clean() {
    let options = Options { grant_from_annotation: true, ..Options::default() };
    let policy = Folder::new(&root("examples/manifests"), options).load().unwrap().unwrap();
    assert_eq!(shown(&policy.problems), "");
    assert!(limits_tokens(&policy));
}

#[test]
fn shipped_envoy_configurations_are_clean() {
    let mut files = 0;
    for entry in std::fs::read_dir(root("envoy")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|kind| kind == "yaml") {
            let text = std::fs::read_to_string(&path).unwrap();
            let beside = Beside { token_limits: true };
            let problems = on_large_stack(|| envoy::problems("envoy.yaml", &text, beside)).unwrap();
            assert_eq!(shown(&problems), "", "{}", path.display());
            files += 1;
        }
    }
    assert!(files > 0);
}

#[test]
fn every_finding_is_explained_in_the_order_of_the_list() {
    let documentation = include_str!("../../docs/check.md");
    let headings = documentation.lines().filter_map(|line| line.strip_prefix("### "));
    let headings: Vec<&str> = headings.map(|heading| heading.trim_matches('`')).collect();
    let codes: Vec<&str> = Finding::ALL.iter().map(|finding| finding.as_str()).collect();
    assert_eq!(headings, codes);
    for finding in Finding::ALL {
        let (title, text) = (finding.title(), finding.explanation());
        assert!(title.ends_with('.') && title.len() <= 100, "{finding}: {title}");
        assert!(text.contains("\nRemedy: "), "{finding}: {text}");
        assert!(!text.contains("\n## ") && text.len() < 1500, "{finding}: {text}");
        assert_eq!(Finding::named(finding.as_str()), Ok(*finding));
    }
    assert_eq!(Finding::named("tier-unkown"), Err(Some("tier-unknown")));
    assert_eq!(Finding::named("xyzzy"), Err(None));
}

fn printed(format: Format, problems: &[Problem]) -> String {
    let mut out = Vec::new();
    let ignored = std::collections::BTreeMap::from([("Service".to_owned(), 2)]);
    print::problems(format, problems, Summary { read: 3, ignored: &ignored, limits: &[] }, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn formats_carry_code_place_sentence_and_remedy() {
    let text = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: a, nmespace: \"b\"}\n---\nkind: 100%\n";
    let problems = crate::manifest::Manifests::read([("a, b:c.yaml", text)]).problems;
    insta::assert_snapshot!("text", printed(Format::Text, &problems));
    insta::assert_snapshot!("json", printed(Format::Json, &problems));
    insta::assert_snapshot!("github", printed(Format::Github, &problems));
}

#[test]
fn the_kind_of_an_object_that_is_not_read_does_not_talk_to_the_terminal() {
    let (mut out, kinds) = (Vec::new(), std::collections::BTreeMap::from([("\u{1b}]0;x\u{7}\nok".to_owned(), 1)]));
    print::problems(Format::Text, &[], Summary { read: 0, ignored: &kinds, limits: &[] }, &mut out).unwrap();
    let expected = "not read: 1 \\u{1b}]0;x\\u{7}\\nok\n0 objects: 0 errors, 0 warnings\n";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn envoy_configuration_that_is_not_yaml_is_an_error_at_its_place() {
    let problems = envoy::problems("e.yaml", "static_resources: [\n", Beside::default());
    let [problem] = problems.as_slice() else { panic!("{}", shown(&problems)) };
    assert_eq!((problem.code, problem.is_error()), (Finding::YamlSyntax, true));
}

/// The filter alone, as it stands in the `value` of an Istio EnvoyFilter; and JSON, with names as protobuf writes them.
#[test]
fn parts_of_a_configuration_are_read_too() {
    let filter = r#"{"value": {"name": "authz", "typedConfig": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
        "grpcService": {"envoyGrpc": {"clusterName": "outbound|50051||tiergate.ns.svc.cluster.local"}, "timeout": "0s"},
        "failureModeAllow": true, "transportApiVersion": "V3"}}}"#;
    let codes = |text: &str| {
        let problems = envoy::problems("e", text, Beside { token_limits: true });
        problems.iter().map(|problem| problem.code).collect::<Vec<_>>()
    };
    use Finding::{EnvoyCheckMissing, EnvoyFailOpen, EnvoyStatusOnError, EnvoyTimeout};
    assert_eq!(codes(filter), [EnvoyStatusOnError, EnvoyTimeout, EnvoyFailOpen]);
    assert_eq!(codes("{}"), [EnvoyCheckMissing]);
    assert_eq!(codes("a word"), [EnvoyCheckMissing]);
    assert_eq!(codes("[[[{http_filters: 7, '@type': [x], name: {}}]]]"), [EnvoyCheckMissing]);
    for empty in ["", "\n", "---\n", "# none\n", "null"] {
        assert_eq!(codes(empty), [EnvoyCheckMissing], "{empty:?}");
    }
}

#[test]
fn timeouts_are_between_tiergates_own_and_what_callers_bear() {
    let text = std::fs::read_to_string(root("tests/data/lint/envoy-timeout/bad/envoy/envoy.yaml")).unwrap();
    assert_eq!(text.matches("timeout: 0.150s").count(), 1);
    for (timeout, expected) in
        [("0s", 1), ("0.1s", 1), ("0.150s", 1), ("0.151s", 0), ("0.25s", 0), ("5s", 0), ("5.1s", 1), ("600s", 1)]
    {
        let text = text.replace("timeout: 0.150s", &format!("timeout: {timeout}"));
        let problems = envoy::problems("e.yaml", &text, Beside::default());
        let found = problems.iter().filter(|problem| problem.code == Finding::EnvoyTimeout).count();
        assert_eq!((found, problems.len()), (expected, expected), "{timeout}: {}", shown(&problems));
    }
}

/// Whose filter it is, is told by the cluster: another authorization service may open or wait as it likes.
#[test]
fn filters_of_other_services_are_not_judged() {
    let text = std::fs::read_to_string(root("envoy/tiergate.yaml")).unwrap();
    let other = text.replace(
        "                http_filters:\n",
        "                http_filters:
                  - name: other
                    typed_config:
                      \"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
                      failure_mode_allow: true
                      grpc_service: {envoy_grpc: {cluster_name: opa}, timeout: 9s}\n",
    );
    assert_ne!(text, other);
    let problems = on_large_stack(|| envoy::problems("e.yaml", &other, Beside { token_limits: true })).unwrap();
    assert_eq!(shown(&problems), "");
}

#[test]
fn an_access_log_tells_what_some_filter_reads() {
    let text = std::fs::read_to_string(root("envoy/tiergate.yaml")).unwrap();
    let of =
        |text: &str, token_limits| on_large_stack(|| envoy::problems("e.yaml", text, Beside { token_limits })).unwrap();
    let unread = text.replace("metadata_namespace: tiergate.usage", "metadata_namespace: others");
    let problems = of(&unread, true);
    assert!(matches!(&problems[..], [one] if one.code == Finding::EnvoyReportMissing), "{}", shown(&problems));
    assert_eq!(shown(&of(&unread, false)), "", "without token limits nothing has to be read");
    let by_envoy = unread.replace(
        "type.googleapis.com/envoy.extensions.filters.http.sse_to_metadata.v3.SseToMetadata",
        "type.googleapis.com/envoy.extensions.filters.http.ai_protocol_manager.v3.AiProtocolManager",
    );
    assert_eq!(shown(&of(&by_envoy, true)), "");
    // Where nobody reports, nobody looks.
    let nobody = text.replace("access_log:", "others:");
    assert_eq!(of(&nobody, true).len(), 1, "{}", shown(&of(&nobody, true)));
}

/// So many listeners, each of which asks tiergate.
fn listeners(number: usize) -> String {
    let listener = |number: usize| {
        format!(
            r#"
    - name: listener-{number}
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                route_config: {{virtual_hosts: [{{domains: ["*"], routes: [{{match: {{prefix: /}}, route: {{cluster: model}}}}]}}]}}
                http_filters:
                  - name: envoy.filters.http.ext_authz
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
                      grpc_service: {{envoy_grpc: {{cluster_name: tiergate}}}}
                      filter_enabled_metadata: {{filter: envoy.filters.http.rbac}}
                  - name: envoy.filters.http.ratelimit
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimit
                      domain: tiergate.report
                      rate_limit_service: {{grpc_service: {{envoy_grpc: {{cluster_name: tiergate}}}}}}
                  - name: envoy.filters.http.router
                    typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}"#
        )
    };
    format!("static_resources:\n  listeners:{}\n", (0..number).map(listener).collect::<String>())
}

#[test]
fn an_envoy_configuration_is_read_in_time_that_grows_with_its_listeners() {
    let took = |number: usize| {
        let text = listeners(number);
        let took = (0..2).map(|_| {
            let start = std::time::Instant::now();
            let problems = envoy::problems("e.yaml", &text, Beside { token_limits: true });
            assert!(problems.len() > number);
            start.elapsed()
        });
        took.min().unwrap()
    };
    let (few, many) = (took(50), took(500));
    assert!(many < 30 * few, "50 listeners in {few:?}, 500 in {many:?}");
}

/// Of every limit that applies somewhere, once, with what it counts for.
#[test]
fn each_limit_in_force_says_who_shares_its_counter() {
    let policy = |kind: &str, name: &str, annotations: &str, limits: &str| {
        format!(
            "---\napiVersion: kuadrant.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: ns, annotations: {{{annotations}}}}}\nspec:\n  \
             targetRef: {{group: gateway.networking.k8s.io, kind: Gateway, name: gw}}\n  limits: {{{limits}}}\n"
        )
    };
    let limit = |name: &str, counters: &str| {
        let counters = counters.split(';').filter(|counter| !counter.is_empty());
        let counters: Vec<_> = counters.map(|counter| format!("{{expression: '{counter}'}}")).collect();
        format!("{name}: {{rates: [{{limit: 5, window: 1m}}], counters: [{}]}}", counters.join(", "))
    };
    let text = [
        "{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: gw, namespace: ns}, spec: {listeners: [{name: http, port: 80, protocol: HTTP}]}}\n---\n\
         {apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: a, namespace: ns}, spec: {parentRefs: [{name: gw}], rules: [{}]}}\n---\n\
         {apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: b, namespace: ns}, spec: {parentRefs: [{name: gw}], hostnames: [b.example.com], rules: [{}]}}\n"
            .to_owned(),
        policy("RateLimitPolicy", "all", "", &[limit("ceiling", ""), limit("user", "auth.identity.userid")].join(", ")),
        policy(
            "TokenRateLimitPolicy",
            "all",
            "tiergate.io/counter-scope: route, tiergate.io/shadow: trial",
            &[limit("team", "auth.identity.team;request.method;request.path"), limit("trial", "auth.identity.team")].join(", "),
        ),
    ]
    .concat();
    let policy = crate::test_util::compile_text(&text);
    let errors: Vec<_> = policy.problems.iter().filter(|problem| problem.is_error()).collect();
    assert!(errors.is_empty(), "{errors:?}");
    let limits = Sharing::of(&policy);
    let mut out = Vec::new();
    sharing::text(&limits, &mut out).unwrap();
    let expected = "counters of the limits in force:
  ns/all/ceiling (requests): one counter for everybody
  ns/all/team (tokens): one for each value of auth.identity.team, request.method and request.path, on each route by itself
  ns/all/trial (tokens, in shadow): one for each auth.identity.team, on each route by itself
  ns/all/user (requests): one for each auth.identity.userid
";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
    let json: Vec<_> = limits.iter().map(Sharing::json).collect();
    assert_eq!(
        json[1],
        serde_json::json!({
            "limit": "ns/all/team",
            "counts": "tokens",
            "counters": ["auth.identity.team", "request.method", "request.path"],
            "per_route": true,
            "shadow": false,
            "shared": "one for each value of auth.identity.team, request.method and request.path, on each route by itself",
        })
    );
}
