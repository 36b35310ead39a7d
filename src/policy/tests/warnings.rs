use super::*;
use crate::lint::gaps;
use crate::test_util::assert_linear;

/// Asserts that compiling gives exactly these warnings, of object, field and a phrase; in the order of the file.
#[track_caller]
fn expect(world: &World, rows: &[(&str, &str, &str)]) {
    expect_of(world, &rows.iter().map(|row| (Severity::Warning, *row)).collect::<Vec<_>>());
}

fn expect_of(world: &World, rows: &[(Severity, (&str, &str, &str))]) {
    let policy = world.compile();
    let all = shown(&policy.problems);
    assert_eq!(policy.problems.len(), rows.len(), "{all}of\n{}", world.text);
    for (problem, (severity, (object, field, phrase))) in policy.problems.iter().zip(rows) {
        assert_eq!(problem.severity, *severity, "{all}");
        let of = problem.object.as_ref().map(ToString::to_string).unwrap_or_default();
        assert_eq!((&*of, &*problem.field), (*object, *field), "{all}");
        assert!(problem.to_string().contains(phrase), "{phrase} in\n{all}");
    }
}

/// A world without a warning.
fn quiet() -> World {
    World::new().tiers(TIERS).route("ns/r", "").auth_with_tiers("ns/auth", "Gateway gw")
}

const LIMITS: &str = "RateLimitPolicy ns/limits";
const FREE: &str = "auth.identity.tier == \"free\"";
const PREMIUM: &str = "auth.identity.tier == \"premium\"";
const ENTERPRISE: &str = "auth.identity.tier == \"enterprise\"";

#[test]
fn sound_world_gives_no_warning() {
    expect(&quiet(), &[]);
    expect(&quiet().limits_when(&[FREE, PREMIUM, ENTERPRISE]), &[]);
}

#[test]
fn predicate_that_names_an_unknown_tier_is_warned_about() {
    let premum = "auth.identity.tier == \"premum\"";
    let field = "spec.limits.l3.when[0].predicate";
    for (predicate, phrase) in [
        (premum, "did you mean `premium`?"),
        ("\"premum\" == auth.identity.tier", "names tier `premum`, which is not in the tier mapping"),
        ("auth.identity.tier in [\"free\", \"premum\"]", "did you mean `premium`?"),
        ("request.path == \"/\" && auth.identity.tier == \"premum\"", "did you mean `premium`?"),
        ("auth.identity[\"tier\"] == \"premum\"", "did you mean `premium`?"),
        ("auth.identity.tier == \"stier\"", "add the tier to the mapping"),
        ("auth.identity.tier == \"stier\"", "one of free, premium, enterprise"),
    ] {
        expect(&quiet().limits_when(&[FREE, PREMIUM, ENTERPRISE, predicate]), &[(LIMITS, field, phrase)]);
    }
    // Another field may hold any text.
    expect(&quiet().limits_when(&[FREE, PREMIUM, ENTERPRISE, "auth.identity.team == \"premum\""]), &[]);
}

#[test]
fn place_of_an_unknown_tier_is_the_predicates() {
    let world = quiet();
    let before = world.text.lines().count();
    let policy = world.limits_when(&["true", "auth.identity.tier == \"premum\""]).compile();
    let place = &policy.problems.last().unwrap().place;
    // apiVersion, kind, metadata, and the spec on one line.
    assert_eq!(place.line as usize, before + 5, "{}", shown(&policy.problems));
    assert!(place.column > 100, "{place}");
}

#[test]
fn tier_without_a_limit_is_warned_about() {
    let row = |phrase| [(LIMITS, "spec.limits", phrase)];
    for (predicates, phrase) in [
        (&[FREE, PREMIUM][..], "has no request limit for tier enterprise"),
        (&[FREE], "has no request limit for tier premium, enterprise"),
        (&["auth.identity.tier in [\"free\", \"premium\"]"], "has no request limit for tier enterprise"),
        (
            &["auth.identity.tier == \"free\" || auth.identity.tier == \"premium\""],
            "has no request limit for tier enterprise",
        ),
        (&[FREE], "--without-limit"),
    ] {
        expect(&quiet().limits_when(predicates), &row(phrase));
    }
    let tokens =
        format!("limits: {{a: {{rates: [{{limit: 1, window: 1m}}], when: [{{predicate: '{FREE}'}}], {BY_CALLER}}}}}");
    expect(
        &quiet().requests("ns/limits", "Gateway gw").policy("TokenRateLimitPolicy", "ns/tokens", "Gateway gw", &tokens),
        &[("TokenRateLimitPolicy ns/tokens", "spec.limits", "has no token limit for tier premium, enterprise")],
    );
}

#[test]
fn limit_for_everybody_is_a_limit_for_every_tier() {
    for predicates in [&["true"][..], &[FREE, "true"], &[FREE, "request.path.startsWith(\"/\")"]] {
        expect(&quiet().limits_when(predicates), &[]);
    }
    expect(&quiet().requests("ns/limits", "Gateway gw"), &[]);
}

/// What is not in force limits nobody, and is no reason to miss a limit in it.
#[test]
fn only_what_is_in_force_is_looked_through_for_the_limits_of_tiers() {
    let only_free =
        format!("limits: {{a: {{rates: [{{limit: 1, window: 1m}}], when: [{{predicate: '{FREE}'}}], {BY_CALLER}}}}}");
    let codes = |world: &World| world.compile().problems.iter().map(|problem| problem.code).collect::<Vec<_>>();
    let shadowed = quiet().requests("ns/z", "Gateway gw").policy("RateLimitPolicy", "ns/all", "Gateway gw", &only_free);
    assert_eq!(codes(&shadowed), [Finding::PolicyShadowed]);
    let gone = quiet().policy("RateLimitPolicy", "ns/late", "Gateway gone", &only_free);
    assert_eq!(codes(&gone), [Finding::TargetMissing]);
    let merged = quiet()
        .policy(
            "RateLimitPolicy",
            "ns/all",
            "Gateway gw",
            &format!("defaults: {{strategy: merge, {}}}", only_free.replace(FREE, "true").replace("a:", "b:")),
        )
        .policy("RateLimitPolicy", "ns/own", "HTTPRoute r", &only_free);
    assert_eq!(codes(&merged), []);
}

/// A limit that looks at the headers, one by one or all of them, is no limit for whoever does not send them.
#[test]
fn only_a_limit_that_looks_at_no_header_is_one_whatever_is_sent() {
    let named = "request.headers[\"x-team\"] == \"a\"";
    for (other, is_found) in [
        ("request.path != \"/\"", false),
        ("request.headers.exists(h, h == \"x-other\")", true),
        ("size(request.headers) > 3", true),
    ] {
        let rates = |limit| format!("rates: [{{limit: {limit}, window: 1m}}], {BY_CALLER}");
        let limits = format!(
            "limits: {{all: {{{}, when: [{{predicate: '{other}'}}]}}, \
             team: {{{}, when: [{{predicate: '{other}'}}, {{predicate: '{named}'}}]}}}}",
            rates(9),
            rates(1)
        );
        let problems = quiet().policy("RateLimitPolicy", "ns/limits", "Gateway gw", &limits).compile().problems;
        let found = problems.iter().find(|problem| problem.code == Finding::LimitWithoutHeader);
        assert_eq!(found.is_some(), is_found, "{other}: {}", shown(&problems));
    }
}

/// What is looked for among the limits takes time that grows with their number.
#[test]
fn many_limits_are_looked_through_in_time() {
    let limits = |of: &str, number: usize, limit: &dyn Fn(usize) -> String| {
        let limits: Vec<String> = (0..number).map(|at| format!("l{at}: {{{BY_CALLER}, {}}}", limit(at))).collect();
        (of.to_owned(), format!("limits: {{{}}}", limits.join(", ")))
    };
    let when = |predicates: &[String]| {
        let predicates: Vec<String> =
            predicates.iter().map(|predicate| format!("{{predicate: '{predicate}'}}")).collect();
        format!("rates: [{{limit: 1, window: 1m}}], when: [{}]", predicates.join(", "))
    };
    let tier = |at: usize| format!("auth.identity.tier == \"t{at}\"");
    let team = |at: usize| format!("request.headers[\"x-team\"] == \"t{at}\"");
    let (requests, tokens) = ("RateLimitPolicy", "TokenRateLimitPolicy");
    // Of those that go by a header, some have one beside them whatever is sent.
    let by_header = |at: usize| match at % 4 {
        0 | 2 => when(&[tier(at)]),
        rest => when(&["request.method == \"POST\"".to_owned(), tier(at - rest % 3), team(at)]),
    };
    type Policies<'w> = &'w dyn Fn(usize) -> Vec<(String, String)>;
    let variants: [(&str, Finding, Policies<'_>); 5] = [
        ("tiers", Finding::TierUnknown, &|number| vec![limits(requests, number, &|at| when(&[tier(at)]))]),
        ("headers", Finding::LimitWithoutHeader, &|number| vec![limits(requests, number, &by_header)]),
        ("a condition of the policy", Finding::LimitWithoutHeader, &|number| {
            let (kind, limits) = limits(requests, number, &by_header);
            // It sorts before all others.
            vec![(kind, format!("when: [{{predicate: 'auth.identity.team != \"\"'}}], {limits}"))]
        }),
        ("tokens", Finding::TierUnknown, &|number| {
            vec![requests, tokens].into_iter().map(|kind| limits(kind, number, &|at| when(&[tier(at)]))).collect()
        }),
        ("tokens of other tiers", Finding::TokenLimitAlone, &|number| {
            let other = |at: usize| when(&[format!("auth.identity.tier == \"u{at}\"")]);
            vec![limits(requests, number, &other), limits(tokens, number, &|at| when(&[tier(at)]))]
        }),
    ];
    for (what, code, policies) in variants {
        let time = |number: usize| {
            let world = policies(number).iter().enumerate().fold(quiet(), |world, (at, (kind, rest))| {
                world.policy(kind, &format!("ns/limits{at}"), "Gateway gw", rest)
            });
            let manifests = on_large_stack(|| Manifests::read([("f.yaml", world.text.as_str())])).unwrap();
            let started = std::time::Instant::now();
            let policy = on_large_stack(|| compile(manifests, &world.options)).unwrap();
            let _ = gaps(&policy);
            let elapsed = started.elapsed();
            assert!(policy.problems.iter().any(|problem| problem.code == code), "{what}: {code} is found");
            elapsed
        };
        assert_linear(what, 300, time);
    }
}

/// However many matches and hosts lead to it.
#[test]
fn each_plan_and_each_combination_of_policies_is_looked_at_once() {
    let paths = ["/a", "/b", "/c"].map(|path| format!("{{path: {{type: PathPrefix, value: {path}}}}}")).join(", ");
    let spec =
        |name: &str| format!("hostnames: [{name}.example.com, {name}.example.net], rules: [{{matches: [{paths}]}}]");
    let world =
        quiet().limits_when(&[FREE, PREMIUM, ENTERPRISE]).route("ns/one", &spec("one")).route("ns/two", &spec("two"));
    let numbers = |policy: &Policy| {
        let led_to: usize = policy.gateways.iter().map(|gateway| gateway.plans().count()).sum();
        [led_to, policy.plans().count(), policy.combinations().count()]
    };
    assert_eq!(numbers(&world.compile()), [13, 3, 1]);
    assert_eq!(numbers(&world.clone().requests("ns/own", "HTTPRoute one").compile()), [13, 3, 2]);
    assert_eq!(numbers(&world.auth("ns/own", "HTTPRoute one").compile()), [13, 3, 2]);
}

/// A limit for all but one tier is one for the others.
#[test]
fn limit_that_excludes_a_tier_is_none_for_it() {
    for predicate in ["auth.identity.tier != \"free\"", "!(auth.identity.tier == \"free\")"] {
        expect(&quiet().limits_when(&[predicate]), &[(LIMITS, "spec.limits", "has no request limit for tier free\n")]);
        expect(&quiet().limits_when(&[FREE, predicate]), &[]);
    }
}

#[test]
fn annotation_that_names_an_unknown_tier_is_warned_about() {
    let field = "metadata.annotations";
    for (tiers, phrase) in [
        ("[\"premum\"]", "did you mean `premium`?"),
        ("[\"free\",\"stier\"]", "tier `stier`, which is not in the tier mapping"),
    ] {
        expect(&quiet().model("llm/m", Some(tiers)), &[("LLMInferenceService llm/m", field, phrase)]);
    }
    for tiers in [None, Some("[]"), Some("[\"free\",\"premium\"]")] {
        expect(&quiet().model("llm/m", tiers), &[]);
    }
}

#[test]
fn role_where_no_model_is_is_warned_about() {
    let rules =
        |resource: &str| format!("rules: [{{apiGroups: [serving.kserve.io], resources: [{resource}], verbs: [post]}}]");
    let (models, others) = (rules("llminferenceservices"), rules("inferenceservices"));
    let world = || quiet().model("llm/m", None).model("llm2/m", None);
    expect(
        &world().rbac("Role", "elsewhere/access", &models),
        &[("Role elsewhere/access", "metadata.namespace", "models are in llm, llm2")],
    );
    expect(&world().rbac("Role", "llm/access", &models), &[]);
    expect(&world().rbac("Role", "elsewhere/access", &others.replace("post", "get")), &[]);
    expect(&world().rbac("ClusterRole", "x/access", &models), &[]);
    // Without any model in the folder nothing can be said.
    expect(&quiet().rbac("Role", "elsewhere/access", &models), &[]);
}

#[test]
fn policy_whose_target_is_not_there_but_could_be_meant_is_an_error() {
    for (target, phrase) in [
        ("Gateway gone", "Gateway ns/gone is not there, so the policy has no effect"),
        ("HTTPRoute gone", "HTTPRoute ns/gone is not there, so the policy has no effect"),
        ("Gateway gww", "did you mean `gw`?"),
        // The name of an object of the other kind.
        ("HTTPRoute gw", "did you mean Gateway ns/gw?"),
        ("Gateway r", "did you mean HTTPRoute ns/r?"),
    ] {
        for kind in ["AuthPolicy", "RateLimitPolicy", "TokenRateLimitPolicy"] {
            let late = |world: World| match kind {
                "AuthPolicy" => world.auth("ns/late", target),
                "RateLimitPolicy" => world.requests("ns/late", target),
                _ => world.tokens("ns/late", target),
            };
            let problems = late(quiet()).compile().problems;
            let [problem] = problems.as_slice() else { panic!("{}", shown(&problems)) };
            let object = problem.object.as_ref().unwrap().to_string();
            assert_eq!((object, problem.field.as_str()), (format!("{kind} ns/late"), "spec.targetRef"));
            assert!(problem.is_error() && problem.to_string().contains(phrase), "{problem}");
        }
    }
    let elsewhere = quiet().auth("other/late", "Gateway gw").compile().problems;
    assert!(elsewhere[0].is_error(), "{}", shown(&elsewhere));
    assert!(elsewhere[0].to_string().contains("in its target's namespace: Gateway ns/gw"), "{}", shown(&elsewhere));
}

#[test]
fn policy_for_a_gateway_that_routes_name_and_nobody_has_is_an_error() {
    let gone = World::default().route_to("{name: gw, namespace: far}", "ns/r", "").requests("far/late", "Gateway gw");
    let problems = gone.compile().problems;
    let found = problems.iter().find(|problem| problem.code == Finding::TargetMissing).unwrap();
    assert!(found.is_error(), "{}", shown(&problems));
}

/// Manifests are checked by parts, too.
#[test]
fn policy_whose_target_is_somewhere_else_is_warned_about() {
    let row = |object| [(object, "spec.targetRef", "add it to the folder, or correct the name")];
    expect(&quiet().requests("other/late", "Gateway far"), &row("RateLimitPolicy other/late"));
    expect(&quiet().auth("other/late", "HTTPRoute far"), &row("AuthPolicy other/late"));
    // Requests without any AuthPolicy are refused: nothing is open.
    expect(&World::new().auth("ns/late", "Gateway far"), &row("AuthPolicy ns/late"));
}

#[test]
fn lookup_without_a_mapping_is_warned_about() {
    let world = || World::new().route("ns/r", "");
    let row = ("AuthPolicy ns/auth", "spec.rules.metadata", "tiers are asked for at http://maas-api/v1/tiers/lookup");
    expect(&world().auth_with_tiers("ns/auth", "Gateway gw"), &[row]);
    expect(&world().auth("ns/auth", "Gateway gw"), &[]);
    let elsewhere = world().auth_with_tiers("ns/auth", "Gateway gw").tiers_at("tenant/tier-to-group-mapping", TIERS);
    let other = (
        "ConfigMap tenant/tier-to-group-mapping",
        "",
        "is not the tier mapping, which is maas-api/tier-to-group-mapping",
    );
    // It was probably moved.
    expect_of(&elsewhere, &[(Severity::Warning, row), (Severity::Error, other)]);
    let options = Options { tier_mapping: "tenant/tier-to-group-mapping".to_owned(), ..Options::default() };
    expect(&elsewhere.options(options), &[]);
}

#[test]
fn binding_of_a_missing_role_is_warned_about() {
    let role_ref = |kind: &str| format!("roleRef: {{kind: {kind}, name: gone}}");
    for (binding, path, shown, kind) in [
        ("RoleBinding", "llm/b", "RoleBinding llm/b", "Role"),
        ("RoleBinding", "llm/b", "RoleBinding llm/b", "ClusterRole"),
        ("ClusterRoleBinding", "x/b", "ClusterRoleBinding b", "ClusterRole"),
    ] {
        let phrase = format!("{kind} `gone` is not there, so the binding grants nothing");
        expect(&quiet().rbac(binding, path, &role_ref(kind)), &[(shown, "roleRef", &phrase)]);
    }
    let elsewhere = quiet().rbac("Role", "other/gone", "rules: []").rbac("RoleBinding", "llm/b", &role_ref("Role"));
    expect(&elsewhere, &[("RoleBinding llm/b", "roleRef", "Role `gone` is not there")]);
    let there = quiet().rbac("Role", "llm/gone", "rules: []").rbac("RoleBinding", "llm/b", &role_ref("Role"));
    expect(&there, &[]);
}

#[test]
fn warning_stands_at_the_field_that_it_names() {
    let role_ref = "subjects: []\nroleRef: {kind: Role, name: gone}";
    for (world, field, text) in [
        (quiet().rbac("RoleBinding", "llm/b", role_ref), "roleRef", "roleRef: "),
        (World::new().route_to("{name: gone}", "ns/r", ""), "spec.parentRefs", "spec: {parentRefs: "),
        (quiet().auth("ns/late", "Gateway gone"), "spec.targetRef", "spec: {targetRef: "),
    ] {
        let policy = world.compile();
        let [problem] = policy.problems.as_slice() else { panic!("{}", shown(&policy.problems)) };
        let lines = || world.text.lines().enumerate();
        let (line, _) = lines().filter(|(_, line)| line.starts_with(text)).last().unwrap();
        assert_eq!(problem.field, field);
        let place = (problem.place.line as usize, problem.place.column as usize);
        assert_eq!(place, (line + 1, text.len() + 1), "{problem}");
    }
}

#[test]
fn route_that_nobody_protects_is_warned_about() {
    let row = ("HTTPRoute ns/r", "", "has no AuthPolicy, neither of its own nor of its Gateway");
    expect(&World::new().route("ns/r", ""), &[row]);
    expect(&World::new().route("ns/r", "").requests("ns/l", "HTTPRoute r"), &[row]);
    expect(&World::new().route("ns/r", "").auth("ns/a", "HTTPRoute r"), &[]);
    expect(&World::new().route("ns/r", "").auth("ns/a", "Gateway gw"), &[]);
}

#[test]
fn route_that_attaches_nowhere_is_warned_about() {
    let row = |phrase| ("HTTPRoute ns/r", "spec.parentRefs", phrase);
    let check = row("check the parent's name and namespace, allowedRoutes and hostnames");
    expect(&World::new().route_to("{group: '', kind: Service, name: gw}", "ns/r", ""), &[check]);
    for (parent, phrase) in [
        ("{name: gone}", "attaches to Gateway ns/gone, which is not there"),
        ("{name: gww}", "did you mean `ns/gw`?"),
        ("{name: gw, namespace: other}", "did you mean `ns/gw`?"),
        ("{name: gw, sectionName: htp}", "did you mean `http`?"),
    ] {
        expect_of(&World::new().route_to(parent, "ns/r", ""), &[(Severity::Error, row(phrase))]);
    }
    // The Gateways are in a folder of their own.
    expect(&World::default().route_to("{name: gone}", "ns/r", ""), &[check]);
}

#[test]
fn problems_come_in_the_order_of_the_files() {
    let limits = "limits: {a: {rates: [{limit: 1, window: 0s}], when: [{predicate: 'auth.identity.tier == \"x\"'}]}}";
    let world = World::new()
        .policy("RateLimitPolicy", "ns/a", "Gateway gone", limits)
        .route("ns/r", "")
        .policy("AuthPolicy", "ns/b", "Gateway gone", "rules: {}")
        .rbac("Role", "x/c", "rulez: []");
    let places: Vec<_> = world.compile().problems.iter().map(|problem| problem.place.clone()).collect();
    let mut sorted = places.clone();
    sorted.sort();
    assert_eq!(places, sorted);
    assert!(places.len() >= 5, "{places:?}");
}
