use std::sync::Arc;

use super::*;

/// The rule of the seeds: `post` on `serving.kserve.io/llminferenceservices`.
fn rule() -> PolicyRule {
    rule_of(&["serving.kserve.io"], &["llminferenceservices"], &[], &["post"])
}

fn rule_of(api_groups: &[&str], resources: &[&str], resource_names: &[&str], verbs: &[&str]) -> PolicyRule {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    PolicyRule {
        verbs: owned(verbs),
        api_groups: owned(api_groups),
        resources: owned(resources),
        resource_names: owned(resource_names),
    }
}

/// `alice` of group `premium` posts to model `llm/qwen3`.
const QUERY: AccessQuery<'static> = AccessQuery {
    user: "alice",
    groups: &["premium", "system:authenticated"],
    verb: "post",
    group: "serving.kserve.io",
    resource: "llminferenceservices",
    subresource: "",
    namespace: "llm",
    name: "qwen3",
};

fn user(name: &str) -> Subject {
    Subject::User(name.to_owned())
}

fn group(name: &str) -> Subject {
    Subject::Group(name.to_owned())
}

/// Bindings of `(namespace, name, rule, subject)`.
fn rbac<const N: usize>(bindings: [(&str, &str, PolicyRule, Subject); N]) -> Rbac {
    let mut rbac = Rbac::default();
    for (namespace, name, rule, subject) in bindings {
        let rules: Arc<[PolicyRule]> = Arc::new([rule]);
        rbac.bind(namespace, name, &rules, &[subject]);
    }
    rbac
}

/// Whether `rule`, bound to alice in the namespace of the query, grants it.
fn grants(rule: PolicyRule, query: &AccessQuery<'_>) -> bool {
    rbac([("llm", "binding", rule, user("alice"))]).authorize(query).is_some()
}

fn by(name: &str) -> Option<Grantor> {
    Some(Grantor { name: name.into() })
}

#[test]
fn nothing_is_granted_without_a_binding() {
    assert_eq!(Rbac::default().authorize(&QUERY), None);
}

#[test]
fn a_grant_names_the_binding() {
    let rbac = rbac([("llm", "RoleBinding llm/access", rule(), user("alice"))]);
    assert_eq!(rbac.authorize(&QUERY), by("RoleBinding llm/access"));
    assert_eq!(by("RoleBinding llm/access").unwrap().to_string(), "RoleBinding llm/access");
}

#[test]
fn subjects_are_whole_names_of_their_kind() {
    for (subject, granted) in [
        (user("alice"), true),
        (user("Alice"), false),
        (user("alic"), false),
        (user("alice2"), false),
        (user(""), false),
        (user("*"), false),
        (group("premium"), true),
        (group("system:authenticated"), true),
        (group("prem"), false),
        (group("*"), false),
        (group("system:unauthenticated"), false),
        // A group of the user's name, and a user of the group's.
        (group("alice"), false),
        (user("premium"), false),
    ] {
        let rbac = rbac([("llm", "binding", rule(), subject.clone())]);
        assert_eq!(rbac.authorize(&QUERY).is_some(), granted, "{subject:?}");
    }
}

#[test]
fn a_service_account_is_the_user_it_authenticates_as() {
    let rbac = rbac([("llm", "binding", rule(), user("system:serviceaccount:team:bot"))]);
    let ask = |user| AccessQuery { user, ..QUERY };
    assert!(rbac.authorize(&ask("system:serviceaccount:team:bot")).is_some());
    assert!(rbac.authorize(&ask("system:serviceaccount:other:bot")).is_none());
    assert!(rbac.authorize(&ask("bot")).is_none());
}

#[test]
fn one_subject_of_many_is_enough() {
    let mut rbac = Rbac::default();
    let rules: Arc<[PolicyRule]> = Arc::new([rule()]);
    rbac.bind("llm", "binding", &rules, &[user("bob"), group("premium"), user("carol")]);
    assert_eq!(rbac.authorize(&QUERY), by("binding"));
    let nobody = AccessQuery { user: "dave", groups: &[], ..QUERY };
    assert_eq!(rbac.authorize(&nobody), None);
}

#[test]
fn one_rule_of_many_is_enough_and_two_halves_are_not() {
    let bind = |rules: Vec<PolicyRule>| {
        let mut rbac = Rbac::default();
        rbac.bind("llm", "binding", &rules.into(), &[user("alice")]);
        rbac.authorize(&QUERY).is_some()
    };
    let other_verb = rule_of(&["serving.kserve.io"], &["llminferenceservices"], &[], &["get"]);
    let other_resource = rule_of(&["serving.kserve.io"], &["inferenceservices"], &[], &["post"]);
    assert!(bind(vec![other_verb.clone(), rule()]));
    assert!(!bind(vec![other_verb, other_resource]));
    assert!(!bind(vec![]));
}

/// However a binding is kept: by the names in it, or beside those.
#[test]
fn a_binding_grants_what_its_rules_grant_whichever_names_they_have() {
    let names: Vec<String> = (0..12).map(|n| format!("model-{n}")).collect();
    let first = |count: usize| names.iter().take(count).map(String::as_str).collect::<Vec<_>>();
    let (groups, resources) = (["serving.kserve.io"], ["llminferenceservices"]);
    let named = |names: &[&str], verb| rule_of(&groups, &resources, names, &[verb]);
    let roles: Vec<Vec<PolicyRule>> = vec![
        vec![],
        vec![named(&[], "post")],
        vec![named(&["model-3"], "post")],
        vec![named(&["model-3", "model-3"], "post"), named(&["model-3", "model-4"], "get")],
        vec![named(&["model-3"], "get"), named(&[], "post")],
        vec![named(&[""], "post")],
        vec![named(&["*"], "post")],
        vec![named(&first(8), "post")],
        vec![named(&first(9), "post")],
        vec![named(&first(8), "post"), named(&["model-9"], "get")],
        vec![named(&first(12), "get"), named(&["model-1"], "post")],
    ];
    let asked = first(12).into_iter().chain(["", "*", "qwen3"]);
    for (name, verb) in asked.flat_map(|name| [(name, "post"), (name, "get")]) {
        let query = AccessQuery { name, verb, ..QUERY };
        for (i, role) in roles.iter().enumerate() {
            let mut rbac = Rbac::default();
            // Beside others, of the same subject and of another.
            rbac.bind("llm", "other", &vec![named(&["other"], "post")].into(), &[user("alice"), group("premium")]);
            rbac.bind("llm", "binding", &role.clone().into(), &[group("premium")]);
            let granted = role.iter().any(|rule| super::grants(rule, &query));
            assert_eq!(rbac.authorize(&query), granted.then(|| by("binding").unwrap()), "role {i}: {query:?}");
        }
    }
}

#[test]
fn role_in_another_namespace_grants_nothing() {
    let rbac = rbac([
        ("a", "RoleBinding a/x", rule(), user("alice")),
        ("llm-2", "RoleBinding llm-2/x", rule(), user("alice")),
    ]);
    let ask = |namespace| AccessQuery { namespace, ..QUERY };
    assert_eq!(rbac.authorize(&ask("a")), by("RoleBinding a/x"));
    assert_eq!(rbac.authorize(&ask("b")), None);
    assert_eq!(rbac.authorize(&ask("llm")), None);
    assert_eq!(rbac.authorize(&ask("A")), None);
}

#[test]
fn cluster_wide_binding_grants_everywhere() {
    let rbac = rbac([("", "ClusterRoleBinding x", rule(), group("premium"))]);
    for namespace in ["llm", "other", ""] {
        assert_eq!(rbac.authorize(&AccessQuery { namespace, ..QUERY }), by("ClusterRoleBinding x"), "{namespace:?}");
    }
}

#[test]
fn question_about_the_whole_cluster_is_not_answered_by_a_namespace() {
    let rbac = rbac([("llm", "binding", rule(), user("alice"))]);
    assert_eq!(rbac.authorize(&AccessQuery { namespace: "", ..QUERY }), None);
}

#[test]
fn superusers_may_do_everything() {
    let rbac = Rbac::default();
    let ask = |groups| AccessQuery { groups, ..QUERY };
    assert_eq!(rbac.authorize(&ask(&["system:authenticated", "system:masters"])), by("system:masters"));
    assert_eq!(rbac.authorize(&ask(&["system:masters2"])), None);
    let named = AccessQuery { user: "system:masters", groups: &[], ..QUERY };
    assert_eq!(rbac.authorize(&named), None);
}

#[test]
fn verbs_and_groups_match_whole_or_by_a_star() {
    for (api_groups, verbs, granted) in [
        (&["serving.kserve.io"][..], &["post"][..], true),
        (&["*"], &["post"], true),
        (&["serving.kserve.io"], &["*"], true),
        (&["*"], &["*"], true),
        (&["apps", "serving.kserve.io"], &["get", "post"], true),
        (&[""], &["post"], false),
        (&["kserve.io"], &["post"], false),
        (&["*.kserve.io"], &["post"], false),
        (&["SERVING.KSERVE.IO"], &["post"], false),
        (&["serving.kserve.io"], &["POST"], false),
        (&["serving.kserve.io"], &["get", "create"], false),
        (&["serving.kserve.io"], &["p*"], false),
        (&["serving.kserve.io"], &[], false),
        (&[], &["post"], false),
    ] {
        let rule = rule_of(api_groups, &["llminferenceservices"], &[], verbs);
        assert_eq!(grants(rule, &QUERY), granted, "{api_groups:?} {verbs:?}");
    }
}

/// `ResourceMatches` of `pkg/apis/rbac/v1/evaluation_helpers.go`.
#[test]
fn resources_and_subresources_match_as_in_kubernetes() {
    for (rule, subresource, granted) in [
        ("llminferenceservices", "", true),
        ("*", "", true),
        ("*", "status", true),
        ("llminferenceservices/status", "status", true),
        ("*/status", "status", true),
        // A subresource is a resource of its own, in both directions.
        ("llminferenceservices", "status", false),
        ("llminferenceservices/status", "", false),
        ("*/status", "", false),
        ("llminferenceservices/scale", "status", false),
        ("*/scale", "status", false),
        ("inferenceservices/status", "status", false),
        // No other place for a star.
        ("*/*", "status", false),
        ("*/*", "*", true),
        ("*/*", "", false),
        ("llminferenceservices/*", "status", false),
        ("llminferenceservices/*", "", false),
        ("llm*", "", false),
        ("llminferenceservice", "", false),
        ("LLMInferenceServices", "", false),
        ("", "", false),
        ("/status", "status", false),
        ("llminferenceservices/", "", false),
    ] {
        let query = AccessQuery { subresource, ..QUERY };
        let granted_now = grants(rule_of(&["serving.kserve.io"], &[rule], &[], &["post"]), &query);
        assert_eq!(granted_now, granted, "rule `{rule}`, subresource `{subresource}`");
    }
    for (rule, resource, subresource, granted) in [
        ("pods/log", "pods/log", "", true),
        ("a/b/c", "a/b", "c", true),
        ("a/b/c", "a", "b/c", true),
        ("*/log", "pods/log", "", false),
        ("*/b/c", "a", "b/c", true),
        ("*/c", "a/b", "c", true),
    ] {
        let query = AccessQuery { resource, subresource, ..QUERY };
        let granted_now = grants(rule_of(&["serving.kserve.io"], &[rule], &[], &["post"]), &query);
        assert_eq!(granted_now, granted, "rule `{rule}`, asked for `{resource}`, `{subresource}`");
    }
    let none = rule_of(&["serving.kserve.io"], &[], &[], &["post"]);
    assert!(!grants(none, &QUERY), "a rule without resources");
}

#[test]
fn resource_names_restrict_to_these_objects() {
    for (names, name, granted) in [
        (&["qwen3"][..], "qwen3", true),
        (&["llama", "qwen3"], "qwen3", true),
        (&["llama"], "qwen3", false),
        // Unlike everywhere else, a star is only a name here.
        (&["*"], "qwen3", false),
        (&["qwen3"], "qwen3-large", false),
        (&["qwen3"], "QWEN3", false),
        (&[], "qwen3", true),
        // No name asks for all objects: only a rule without names grants that.
        (&["qwen3"], "", false),
        (&["*"], "", false),
        (&[], "", true),
    ] {
        let rule = rule_of(&["serving.kserve.io"], &["llminferenceservices"], names, &["post"]);
        let query = AccessQuery { name, ..QUERY };
        assert_eq!(grants(rule, &query), granted, "names {names:?}, asked for {name:?}");
    }
}

#[test]
fn rules_only_grant_so_a_second_binding_takes_nothing_away() {
    let narrow = rule_of(&["serving.kserve.io"], &["llminferenceservices"], &["llama"], &["post"]);
    let wide = rbac([("llm", "narrow", narrow.clone(), user("alice")), ("llm", "wide", rule(), user("alice"))]);
    assert_eq!(wide.authorize(&QUERY), by("wide"));
    let elsewhere = rbac([("llm", "narrow", narrow, user("alice")), ("", "cluster", rule(), group("premium"))]);
    assert_eq!(elsewhere.authorize(&QUERY), by("cluster"));
}
