use super::*;
use crate::access::AccessQuery;

/// The tiers `free`, `premium` and `enterprise` of Gateway `ns/gw`, and models of namespace `llm`.
fn world() -> World {
    World::new()
        .tiers(TIERS)
        .model("llm/all", Some("[]"))
        .model("llm/some", Some("[\"premium\",\"enterprise\"]"))
        .model("llm/nobody", None)
        .model("llm/empty", Some(""))
        .model("llm/stier", Some("[\"stier\",\"free\"]"))
        .options(granting())
}

fn granting() -> Options {
    Options { grant_from_annotation: true, ..Options::default() }
}

/// What grants service accounts of `<instance>-tier-<tier>` to `post` to a model.
fn granted(policy: &Policy, namespace: &str, tier: &str, model: &str) -> Option<String> {
    let (namespace, name) = (namespace.to_owned(), model);
    let (model_namespace, name) = name.split_once('/').unwrap();
    let group = format!("system:serviceaccounts:{namespace}-tier-{tier}");
    let query = AccessQuery {
        user: "system:serviceaccount:x:y",
        groups: &["system:authenticated", &group],
        verb: "post",
        group: "serving.kserve.io",
        resource: "llminferenceservices",
        subresource: "",
        namespace: model_namespace,
        name,
    };
    policy.rbac.authorize(&query).map(|grantor| grantor.to_string())
}

/// Which of the three tiers may call a model.
fn tiers_with(policy: &Policy, model: &str) -> Vec<&'static str> {
    let mut tiers = vec!["free", "premium", "enterprise"];
    tiers.retain(|tier| granted(policy, "gw", tier, model).is_some());
    tiers
}

#[test]
fn annotation_grants_only_where_it_is_asked_to() {
    let policy = world().options(Options::default()).compile();
    for model in ["llm/all", "llm/some", "llm/stier"] {
        assert_eq!(tiers_with(&policy, model), <[&str; 0]>::default(), "{model}");
    }
}

#[test]
fn annotation_grants_the_model_to_the_tiers_that_it_names() {
    let policy = world().compile();
    for (model, tiers) in [
        ("llm/all", &["free", "premium", "enterprise"][..]),
        ("llm/some", &["premium", "enterprise"]),
        ("llm/nobody", &[]),
        ("llm/empty", &[]),
        // A tier that is not configured is nobody; the others have what they were granted.
        ("llm/stier", &["free"]),
        // Another model, and another namespace.
        ("llm/gone", &[]),
        ("other/all", &[]),
    ] {
        assert_eq!(tiers_with(&policy, model), tiers, "{model}");
    }
    assert_eq!(granted(&policy, "gw", "stier", "llm/stier"), None);
    assert_eq!(granted(&policy, "gw", "stier", "llm/all"), None);
    assert_eq!(granted(&policy, "gw", "free", "llm/all").as_deref(), Some("annotation of LLMInferenceService llm/all"));
}

#[test]
fn annotation_grants_post_on_that_model_and_nothing_more() {
    let policy = world().compile();
    let query = AccessQuery {
        user: "u",
        groups: &["system:serviceaccounts:gw-tier-free"],
        verb: "post",
        group: "serving.kserve.io",
        resource: "llminferenceservices",
        subresource: "",
        namespace: "llm",
        name: "all",
    };
    assert!(policy.rbac.authorize(&query).is_some());
    for (what, query) in [
        ("verb", AccessQuery { verb: "get", ..query }),
        ("group", AccessQuery { group: "", ..query }),
        ("resource", AccessQuery { resource: "inferenceservices", ..query }),
        ("subresource", AccessQuery { subresource: "status", ..query }),
        ("namespace", AccessQuery { namespace: "other", ..query }),
        ("whole cluster", AccessQuery { namespace: "", ..query }),
        ("every name", AccessQuery { name: "", ..query }),
        // The group of the tier's own namespaces, not the users that the mapping lists.
        ("listed group", AccessQuery { groups: &["everyone", "premium-users"], ..query }),
        ("user", AccessQuery { user: "system:serviceaccounts:gw-tier-free", groups: &[], ..query }),
    ] {
        assert_eq!(policy.rbac.authorize(&query), None, "{what}");
    }
}

#[test]
fn annotation_is_for_the_instances_that_there_are() {
    let two = world().gateway("ns/gw2", "{name: http}");
    let policy = two.compile();
    for (instance, may) in [("gw", true), ("gw2", true), ("maas", false)] {
        assert_eq!(granted(&policy, instance, "free", "llm/all").is_some(), may, "{instance}");
    }
    let policy = two.options(Options { instance: Some("maas".to_owned()), ..granting() }).compile();
    for (instance, may) in [("gw", false), ("gw2", false), ("maas", true)] {
        assert_eq!(granted(&policy, instance, "free", "llm/all").is_some(), may, "{instance}");
    }
}

#[test]
fn without_a_sound_mapping_the_annotation_grants_nothing() {
    let models = || World::new().model("llm/all", Some("[]")).model("llm/free", Some("[\"free\"]")).options(granting());
    for world in [
        models(),
        models().tiers("[{name: free, groups: [x]}]"),
        models().tiers_at("tenant/tier-to-group-mapping", TIERS),
        models().tiers("[]"),
    ] {
        let policy = world.compile();
        assert_eq!(tiers_with(&policy, "llm/all"), <[&str; 0]>::default(), "{}", world.text);
        assert_eq!(tiers_with(&policy, "llm/free"), <[&str; 0]>::default(), "{}", world.text);
    }
    let broken = World::new().tiers(TIERS).model("llm/all", Some("[\"free\"")).options(granting()).compile();
    assert_eq!(tiers_with(&broken, "llm/all"), <[&str; 0]>::default());
}

// === bindings ===

const RULES: &str = "rules: [{apiGroups: [serving.kserve.io], resources: [llminferenceservices], verbs: [post]}]";

fn bound(kind: &str, role: &str) -> String {
    let subject = "{kind: Group, name: 'system:serviceaccounts:gw-tier-free'}";
    format!("roleRef: {{kind: {kind}, name: {role}}}\nsubjects: [{subject}]")
}

#[test]
fn bindings_grant_as_in_kubernetes() {
    let world = World::new()
        .rbac("Role", "llm/role", RULES)
        .rbac("ClusterRole", "x/cluster-role", RULES)
        // Same name, other kind.
        .rbac("ClusterRole", "x/shadowed", "rules: []")
        .rbac("Role", "llm/shadowed", RULES)
        .rbac("RoleBinding", "llm/to-role", &bound("Role", "role"));
    let by = |world: &World, model: &str| granted(&world.compile(), "gw", "free", model);
    assert_eq!(by(&world, "llm/m").as_deref(), Some("RoleBinding llm/to-role"));
    assert_eq!(by(&world, "other/m"), None);
    let world = World::new().rbac("ClusterRole", "x/cluster-role", RULES).rbac("Role", "llm/role", RULES);
    for (binding, path, role, here, there) in [
        ("RoleBinding", "llm/b", bound("ClusterRole", "cluster-role"), true, false),
        ("RoleBinding", "other/b", bound("ClusterRole", "cluster-role"), false, true),
        ("ClusterRoleBinding", "x/b", bound("ClusterRole", "cluster-role"), true, true),
        // A role of another namespace, kind or name is not the one that is meant.
        ("RoleBinding", "other/b", bound("Role", "role"), false, false),
        ("RoleBinding", "llm/b", bound("Role", "cluster-role"), false, false),
        ("RoleBinding", "llm/b", bound("ClusterRole", "role"), false, false),
        ("RoleBinding", "llm/b", bound("Role", "gone"), false, false),
        ("ClusterRoleBinding", "x/b", bound("ClusterRole", "gone"), false, false),
    ] {
        let world = world.clone().rbac(binding, path, &role);
        let may = [by(&world, "llm/m").is_some(), by(&world, "other/m").is_some()];
        assert_eq!(may, [here, there], "{binding} {path} {role}");
    }
}

#[test]
fn role_or_binding_in_error_grants_nothing() {
    let binding = bound("Role", "role");
    for world in [
        World::new().rbac("Role", "llm/role", &RULES.replace("[post]", "post")).rbac("RoleBinding", "llm/b", &binding),
        World::new().rbac("Role", "llm/role", RULES).rbac("RoleBinding", "llm/b", &binding.replace("Group", "Groop")),
    ] {
        let policy = world.compile();
        assert!(policy.problems.iter().any(Problem::is_error), "{}", world.text);
        assert_eq!(granted(&policy, "gw", "free", "llm/m"), None, "{}", world.text);
    }
}

// === aggregation ===

/// A ClusterRole that grants `models` by name, and has labels.
fn labelled(name: &str, labels: &str, rest: &str) -> String {
    format!(
        "---\napiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {{name: {name}, labels: {labels}}}\n{rest}\n"
    )
}

fn naming(model: &str) -> String {
    RULES.replace("verbs:", &format!("resourceNames: [{model}], verbs:"))
}

const FREE: &str = "aggregationRule: {clusterRoleSelectors: [{matchLabels: {tier: free}}]}";

/// Which of these models ClusterRole `all`, bound in namespace `llm`, grants.
fn aggregated(world: &World) -> Vec<&'static str> {
    let policy = world.clone().rbac("RoleBinding", "llm/b", &bound("ClusterRole", "all")).compile();
    let mut models = vec!["own", "base", "other"];
    models.retain(|model| granted(&policy, "gw", "free", &format!("llm/{model}")).is_some());
    models
}

#[test]
fn aggregated_role_has_the_rules_of_what_it_matches_in_place_of_its_own() {
    let all = |own: &str| World::new().text(&labelled("all", "{}", &format!("{FREE}\n{own}")));
    let base = labelled("base", "{tier: free}", &naming("base"));
    let other = labelled("other", "{tier: premium}", &naming("other"));
    assert_eq!(aggregated(&all("").text(&base).text(&other)), ["base"]);
    assert_eq!(aggregated(&all(&naming("own")).text(&base)), ["base"]);
    // Nothing to replace them with: the controller leaves them.
    assert_eq!(aggregated(&all(&naming("own")).text(&other)), ["own"]);
    // What is in error grants nothing, also through others.
    assert_eq!(aggregated(&all("").text(&base.replace("[post]", "post"))), <[&str; 0]>::default());
    let deep =
        labelled("middle", "{tier: free}", "aggregationRule: {clusterRoleSelectors: [{matchLabels: {tier: premium}}]}");
    assert_eq!(aggregated(&all("").text(&deep).text(&other)), ["other"]);
}

#[test]
fn circle_of_aggregation_has_what_flows_into_it_and_no_own_rules() {
    let all = labelled("all", "{tier: free}", &format!("{FREE}\n{}", naming("own")));
    let back = labelled("back", "{tier: free}", &format!("{FREE}\n{}", naming("other")));
    let base = labelled("base", "{tier: free}", &naming("base"));
    let circle = World::new().text(&all).text(&back);
    assert_eq!(aggregated(&circle), <[&str; 0]>::default());
    assert_eq!(aggregated(&circle.text(&base)), ["base"]);
    // It never takes from itself: alone it is no circle.
    assert_eq!(aggregated(&World::new().text(&all)), ["own"]);
}

#[test]
fn aggregation_that_brings_nothing_or_replaces_rules_is_a_warning() {
    let all = format!("{FREE}\n{}", naming("own"));
    let empty = World::new().text(&labelled("all", "{}", &all));
    let full = empty.clone().text(&labelled("base", "{tier: free}", RULES));
    let quiet = World::new().text(&labelled("all", "{}", FREE)).text(&labelled("base", "{tier: free}", RULES));
    for (world, phrase) in [(empty, Some("matches no ClusterRole")), (full, Some("own `rules`")), (quiet, None)] {
        let problems = world.compile().problems;
        let found = problems.iter().find(|problem| problem.field == "aggregationRule");
        assert_eq!(found.map(|problem| problem.severity), phrase.map(|_| Severity::Warning), "{}", world.text);
        assert!(found.is_none_or(|problem| problem.message.contains(phrase.unwrap_or_default())), "{found:?}");
    }
}

#[test]
fn more_aggregation_than_could_be_filled_in_grants_nothing_and_is_told() {
    let each = |n: usize| labelled(&format!("a{n}"), "{tier: free}", FREE);
    let mut world = World::new().text(&labelled("all", "{}", &format!("{FREE}\n{}", naming("own"))));
    world =
        world.text(&labelled("base", "{tier: free}", &naming("base"))).text(&(0..3_200).map(each).collect::<String>());
    assert_eq!(aggregated(&world), <[&str; 0]>::default());
    let problems = world.compile().problems;
    let told = problems.iter().find(|problem| problem.field == "aggregationRule").unwrap();
    assert!(told.is_error() && told.message.contains("too many"), "{told:?}");
}
