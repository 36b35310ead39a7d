use super::*;
use crate::access::Query;

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
    let query = Query {
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
    let query = Query {
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
        ("verb", Query { verb: "get", ..query }),
        ("group", Query { group: "", ..query }),
        ("resource", Query { resource: "inferenceservices", ..query }),
        ("subresource", Query { subresource: "status", ..query }),
        ("namespace", Query { namespace: "other", ..query }),
        ("whole cluster", Query { namespace: "", ..query }),
        ("every name", Query { name: "", ..query }),
        // The group of the tier's own namespaces, not the users that the mapping lists.
        ("listed group", Query { groups: &["everyone", "premium-users"], ..query }),
        ("user", Query { user: "system:serviceaccounts:gw-tier-free", groups: &[], ..query }),
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
