//! What changes in the cluster is live at once.

use std::time::Duration;

use serde_json::{Value, json};

use super::{World, ok, problems_of, refused};
use crate::cluster::{SHARED, apply_object, delete};
use crate::support::await_page;

/// A bound for loaded machines; the figures are printed.
const BOUND: Duration = Duration::from_secs(5);

#[tokio::test]
async fn the_tours_callers_get_what_the_tour_says() {
    let world = World::new(&SHARED, "tour").await;
    let tiergate = world.tiergate(&SHARED, &["--no-status"]).await;
    let mut free = world.caller(&tiergate, "free", "alice-12345678").await;
    let mut premium = world.caller(&tiergate, "premium", "jland-78028f6d").await;
    let mut enterprise = world.caller(&tiergate, "enterprise", "ivan-e85d40b9").await;
    let (qwen, granite, draft) = (world.path("llm", "qwen3"), world.path("llm", "granite"), world.path("llm", "draft"));
    let phi = world.path("lab", "phi");
    let denied = refused(403, "TG-ACCESS-DENIED");
    assert_eq!(
        [free.asks(&granite).await, free.asks(&qwen).await, free.asks(&phi).await],
        [ok(), denied.clone(), denied.clone()]
    );
    assert_eq!([premium.asks(&qwen).await, premium.asks(&draft).await], [ok(), denied.clone()]);
    assert_eq!([enterprise.asks(&phi).await, enterprise.asks(&draft).await], [ok(), denied]);
    for _ in 0..4 {
        assert_eq!(free.asks(&granite).await, ok());
    }
    assert_eq!(free.asks(&granite).await, refused(429, "TG-LIMIT-REQUESTS"));
    // One list and one watch of each kind, and nothing at all for requests. What is served of a first version that is not asked for again.
    // Of Namespaces nothing is asked where no listener selects by their labels.
    let user = "system:serviceaccount:tour-tiergate:tiergate";
    let mut calls = SHARED.calls(|name| name == user);
    calls.sort();
    calls.dedup();
    let kinds = tiergate::manifest::KINDS.iter().filter(|kind| kind.name != "Namespace");
    let kinds: Vec<String> = kinds.map(|kind| kind.plural()).collect();
    let mut expected: Vec<(String, String)> =
        kinds.iter().flat_map(|kind| ["list", "watch"].map(|verb| (verb.to_owned(), kind.clone()))).collect();
    expected.push(("get".to_owned(), String::new()));
    expected.sort();
    assert_eq!(calls, expected);
}

#[tokio::test]
async fn what_is_taken_away_is_refused_at_once() {
    let world = World::generous(&SHARED, "revoked").await;
    let tiergate = world.tiergate(&SHARED, &[]).await;
    let (qwen, granite, phi) = (world.path("llm", "qwen3"), world.path("llm", "granite"), world.path("lab", "phi"));
    let denied = refused(403, "TG-ACCESS-DENIED");
    let mut figures = Vec::new();
    let mut seen = |what: &'static str, took: Duration| {
        assert!(took < BOUND, "{what} is live after {took:?}");
        figures.push(format!("{what} {took:.0?}"));
    };

    let mut premium = world.caller(&tiergate, "premium", "jland-78028f6d").await;
    assert_eq!(premium.asks(&qwen).await, ok());
    let tiers = "alpha.maas.opendatahub.io/tiers";
    world
        .change("LLMInferenceService", "qwen3", |model| {
            model["metadata"]["annotations"][tiers] = json!("[\"enterprise\"]")
        })
        .await;
    seen("annotation", premium.until(&qwen, &denied).await);
    world.apply_all().await;
    seen("annotation given back", premium.until(&qwen, &ok()).await);

    let mut enterprise = world.caller(&tiergate, "enterprise", "ivan-e85d40b9").await;
    assert_eq!(enterprise.asks(&phi).await, ok());
    world.delete("RoleBinding", "model-post-access-tier-binding").await;
    seen("RoleBinding", enterprise.until(&phi, &denied).await);
    world.apply_all().await;
    seen("RoleBinding given back", enterprise.until(&phi, &ok()).await);

    let mut free = world.caller(&tiergate, "free", "alice-12345678").await;
    assert_eq!(free.asks(&granite).await, ok());
    world
        .change("RateLimitPolicy", "gateway-rate-limits", |policy| {
            policy["spec"]["limits"]["free"]["rates"][0]["limit"] = json!(0)
        })
        .await;
    seen("limit", free.until(&granite, &refused(429, "TG-LIMIT-REQUESTS")).await);
    world.apply_all().await;
    seen("limit given back", free.until(&granite, &ok()).await);

    let mapping = "tier-to-group-mapping";
    world
        .change("ConfigMap", mapping, |map| {
            let tiers = map["data"]["tiers"].as_str().unwrap();
            map["data"]["tiers"] = json!(tiers.replace("name: premium", "name: gold"));
        })
        .await;
    seen("tier ConfigMap", premium.until(&qwen, &refused(403, "TG-TIER-GONE")).await);
    world.apply_all().await;
    seen("tier ConfigMap given back", premium.until(&qwen, &ok()).await);

    // The same name again is another ServiceAccount: an old token stays refused.
    let gone = refused(401, "TG-TOKEN-SUBJECT-GONE");
    world.delete("ServiceAccount", "jland-78028f6d").await;
    seen("ServiceAccount deleted", premium.until(&qwen, &gone).await);
    apply_object(&world.client, &world.object("ServiceAccount", "jland-78028f6d")).await;
    let mut anew = world.caller(&tiergate, "premium", "jland-78028f6d").await;
    seen("ServiceAccount made anew", anew.until(&qwen, &ok()).await);
    assert_eq!(premium.asks(&qwen).await, gone);

    world.delete("AuthPolicy", "gateway-auth-policy").await;
    seen("AuthPolicy deleted", anew.until(&qwen, &refused(403, "TG-ROUTE-NO-POLICY")).await);
    println!("live after: {}", figures.join(", "));
}

#[tokio::test]
async fn an_object_in_error_keeps_its_last_good_version() {
    let world = World::generous(&SHARED, "broken").await;
    let tiergate = world.tiergate(&SHARED, &[]).await;
    let granite = world.path("llm", "granite");
    let mut premium = world.caller(&tiergate, "premium", "jland-78028f6d").await;
    assert_eq!(premium.asks(&granite).await, ok());
    let place = |kind: &str, namespace: &str, name: &str| format!("{kind} broken-{namespace}/{name}");
    for (kind, namespace, name, field, bad) in [
        (
            "AuthPolicy",
            "ingress",
            "gateway-auth-policy",
            "/spec/rules/authorization/tier-access",
            json!({"opa": {"rego": "allow = true"}}),
        ),
        ("RateLimitPolicy", "ingress", "gateway-rate-limits", "/spec/limits/premium/rates/0/window", json!("2d")),
        ("TokenRateLimitPolicy", "ingress", "gateway-token-rate-limits", "/spec/limits", json!("none")),
        ("Gateway", "ingress", "broken", "/spec/listeners", json!([])),
        ("HTTPRoute", "llm", "granite-route", "/spec/rules/0/matches/0/path/type", json!("Sideways")),
        ("ConfigMap", "maas-api", "tier-to-group-mapping", "/data/tiers", json!("- name: free\n  level: [")),
    ] {
        world.change(kind, name, |object| *object.pointer_mut(field).unwrap() = bad).await;
        let place = place(kind, namespace, name);
        await_page(tiergate.http, "/problems", |_, page| page.contains(&place) && page.contains("\"error\"")).await;
        let problems = problems_of(&tiergate, &place).await;
        assert!(problems.iter().any(|problem| problem["severity"] == "error"), "{place}: {problems:?}");
        assert_eq!(premium.asks(&granite).await, ok(), "{place}");
        world.apply_all().await;
        await_page(tiergate.http, "/problems", |_, page| !page.contains(&place)).await;
    }
    // Known to no last good version, a new one shuts what it is for.
    let mut bad = world.object("RateLimitPolicy", "gateway-rate-limits");
    bad["metadata"] = json!({"name": "of-granite", "namespace": world.llm()});
    bad["spec"]["targetRef"] =
        json!({"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "granite-route"});
    bad["spec"]["limits"]["free"]["rates"][0]["window"] = json!("2d");
    apply_object(&world.client, &bad).await;
    premium.until(&granite, &refused(503, "TG-POLICY-INVALID")).await;
    delete(&world.client, &bad).await;
    premium.until(&granite, &ok()).await;
    // Two policies of a kind on one target: of `defaults` the newer one wins, whatever its name.
    bad["metadata"] = json!({"name": "a-younger-one", "namespace": "broken-ingress"});
    bad["spec"] = world.object("RateLimitPolicy", "gateway-rate-limits")["spec"].clone();
    bad["spec"]["limits"]["premium"]["rates"][0]["limit"] = json!(0);
    // Ages are whole seconds.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    apply_object(&world.client, &bad).await;
    premium.until(&granite, &refused(429, "TG-LIMIT-REQUESTS")).await;
    let older = problems_of(&tiergate, "RateLimitPolicy broken-ingress/gateway-rate-limits").await;
    assert_eq!((older.len(), &older[0]["code"]), (1, &json!("policy-shadowed")), "{older:?}");
    assert!(older[0]["message"].as_str().unwrap().contains("broken-ingress/a-younger-one"), "{older:?}");
    delete(&world.client, &bad).await;
    premium.until(&granite, &ok()).await;
}

/// The cluster's controller fills in the rules of an aggregated ClusterRole; there is none here, so they stay as written.
#[tokio::test]
async fn an_aggregated_cluster_role_grants_what_is_stored() {
    let world = World::generous(&SHARED, "aggregated").await;
    let tiergate = world.tiergate(&SHARED, &[]).await;
    let draft = world.path("llm", "draft");
    let mut premium = world.caller(&tiergate, "premium", "jland-78028f6d").await;
    let rules = json!([{"apiGroups": ["serving.kserve.io"], "resources": ["llminferenceservices"], "verbs": ["post"]}]);
    let rbac = "rbac.authorization.k8s.io/v1";
    let role = |name: &str, rules: Value| json!({"apiVersion": rbac, "kind": "ClusterRole", "metadata": {"name": name, "labels": {"into": "aggregated"}}, "rules": rules});
    let mut whole = role("aggregated-whole", json!([]));
    whole["metadata"]["labels"] = json!({});
    whole["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {"into": "aggregated"}}]});
    apply_object(&world.client, &role("aggregated-part", rules.clone())).await;
    apply_object(&world.client, &whole).await;
    let binding = json!({
        "apiVersion": rbac, "kind": "RoleBinding", "metadata": {"name": "whole", "namespace": world.llm()},
        "subjects": [{"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": "system:serviceaccounts:aggregated-tier-premium"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "aggregated-whole"},
    });
    apply_object(&world.client, &binding).await;
    // What came after it is live, so the role is.
    world
        .change("LLMInferenceService", "qwen3", |model| {
            model["metadata"]["annotations"] = json!({"alpha.maas.opendatahub.io/tiers": "[]"})
        })
        .await;
    let mut free = world.caller(&tiergate, "free", "alice-12345678").await;
    free.until(&world.path("llm", "qwen3"), &ok()).await;
    assert_eq!(premium.asks(&draft).await, refused(403, "TG-ACCESS-DENIED"));
    whole["rules"] = rules;
    apply_object(&world.client, &whole).await;
    premium.until(&draft, &ok()).await;
}
