//! Listeners that take routes by the labels of their namespaces.

use serde_json::{Value, json};

use super::{World, ok, problems_of, refused, rules, rules_without};
use crate::cluster::{CRDS, Cluster, apply, apply_object};
use crate::support::{await_page, await_ready};

/// The Gateway of the world takes routes of namespaces that `selector` selects.
async fn select(world: &World, selector: Value) {
    let from = json!({"namespaces": {"from": "Selector", "selector": selector}});
    world.change("Gateway", &world.name, |gateway| gateway["spec"]["listeners"][0]["allowedRoutes"] = from).await;
}

async fn label(world: &World, namespace: &str, labels: Value) {
    let metadata = json!({"name": format!("{}-{namespace}", world.name), "labels": labels});
    apply_object(&world.client, &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})).await;
}

/// Whether tiergates of the world have listed Namespaces.
fn are_listed(cluster: &Cluster, world: &World) -> bool {
    let list = ("list".to_owned(), "namespaces".to_owned());
    cluster.calls(|user| user.starts_with(&format!("system:serviceaccount:{}-", world.name))).contains(&list)
}

#[tokio::test]
async fn namespaces_are_watched_where_a_listener_selects_by_their_labels() {
    let cluster = Cluster::start();
    apply(&cluster.client().await, CRDS).await;
    let world = World::generous(&cluster, "select").await;
    let (granite, phi) = (world.path("llm", "granite"), world.path("lab", "phi"));
    let (unknown, shut) = (refused(404, "TG-ROUTE-UNKNOWN"), refused(503, "TG-POLICY-INVALID"));

    // The name is known without.
    let tiergate = world.tiergate(&cluster, &[]).await;
    let mut ivan = world.caller(&tiergate, "enterprise", "ivan-e85d40b9").await;
    assert_eq!((ivan.asks(&granite).await, ivan.asks(&phi).await), (ok(), ok()));
    select(&world, json!({"matchLabels": {"kubernetes.io/metadata.name": world.llm()}})).await;
    ivan.until(&phi, &unknown).await;
    assert_eq!(ivan.asks(&granite).await, ok());
    assert!(!are_listed(&cluster, &world));

    // Labels are not, until a listener asks for them.
    label(&world, "llm", json!({"models": "yes"})).await;
    select(&world, json!({"matchLabels": {"models": "yes"}})).await;
    label(&world, "lab", json!({"models": "yes"})).await;
    ivan.until(&phi, &ok()).await;
    ivan.until(&granite, &ok()).await;
    assert!(are_listed(&cluster, &world));
    label(&world, "llm", json!({})).await;
    ivan.until(&granite, &unknown).await;

    // At the start they are waited for.
    let tiergate = world.tiergate(&cluster, &[]).await;
    let mut ivan = world.caller(&tiergate, "enterprise", "ivan-e85d40b9").await;
    assert_eq!((ivan.asks(&granite).await, ivan.asks(&phi).await), (unknown.clone(), ok()));

    // Without the permission the routes that depend on them are shut, and it is named.
    let kubeconfig = world.kubeconfig(&cluster, "less", rules_without("namespaces")).await;
    let tiergate = world.start(&cluster, &kubeconfig, &[]);
    await_ready(&tiergate).await;
    let mut ivan = world.caller(&tiergate, "enterprise", "ivan-e85d40b9").await;
    assert_eq!((ivan.asks(&granite).await, ivan.asks(&phi).await), (shut.clone(), shut));
    let problems = problems_of(&tiergate, "namespaces").await;
    let rule = "{apiGroups: [\"\"], resources: [\"namespaces\"], verbs: [\"list\", \"watch\"]}";
    let remedy = format!("add to the ClusterRole of tiergate's ServiceAccount: {rule}");
    assert_eq!(problems.iter().map(|problem| problem["remedy"].clone()).collect::<Vec<_>>(), [json!(remedy)]);
    await_page(tiergate.http, "/problems", |_, page| page.contains("namespace-unknown")).await;
    let name = format!("{}-less", world.name);
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules()});
    apply_object(&world.client, &role).await;
    ivan.until(&phi, &ok()).await;
    let told = |page: &str| page.contains("namespace-unknown") || page.contains("may not be watched");
    await_page(tiergate.http, "/problems", |_, page| !told(page)).await;
}
