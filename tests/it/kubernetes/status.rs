//! What tiergate tells objects about themselves.

use std::time::{Duration, Instant};

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::{REVIEW, World};
use crate::cluster::{CRDS, Cluster, api, apply, apply_object, delete, request};
use crate::support::PATIENCE;

/// One of its own: every tiergate tells all policies of a cluster.
async fn cluster() -> Cluster {
    let cluster = Cluster::start();
    apply(&cluster.client().await, CRDS).await;
    cluster
}

/// A condition of a policy: status, reason, message.
async fn condition(world: &World, policy: &Value, name: &str) -> Option<Value> {
    let (api, of) = api(&world.client, policy);
    let found = api.get(&of).await.unwrap();
    let conditions = found.data.pointer("/status/conditions")?.as_array()?;
    conditions.iter().find(|condition| condition["type"] == name).cloned()
}

/// Waits for a condition, as `kubectl wait --for=condition=…` does.
async fn until(world: &World, policy: &Value, name: &str, expected: impl Fn(&Value) -> bool) -> Value {
    let (started, mut last) = (Instant::now(), None);
    loop {
        if let Some(condition) = condition(world, policy, name).await {
            if expected(&condition) {
                return condition;
            }
            last = Some(condition);
        }
        assert!(started.elapsed() < PATIENCE, "{name} of {} is {last:?}", policy["metadata"]["name"]);
        // It is written when it was compiled: asking is how that is seen.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn is(status: &'static str, reason: &'static str) -> impl Fn(&Value) -> bool {
    move |condition| condition["status"] == status && condition["reason"] == reason
}

fn policies(world: &World) -> Vec<Value> {
    let of_kind = |object: &&Value| object["kind"].as_str().is_some_and(|kind| kind.ends_with("Policy"));
    world.objects.iter().filter(of_kind).cloned().collect()
}

fn writes(cluster: &Cluster, world: &World) -> usize {
    cluster.calls(|user| user == world.account()).iter().filter(|(verb, _)| verb == "patch" || verb == "create").count()
}

#[tokio::test]
async fn policies_say_whether_they_are_accepted_and_in_force() {
    let cluster = cluster().await;
    let world = World::generous(&cluster, "status").await;
    let tiergate = world.tiergate(&cluster, &[]).await;
    let policies = policies(&world);
    assert!(policies.len() >= 3, "{policies:?}");
    for policy in &policies {
        let enforced = until(&world, policy, "Enforced", is("True", "Enforced")).await;
        assert_eq!(enforced["observedGeneration"], 1, "{enforced}");
        until(&world, policy, "Accepted", is("True", "Accepted")).await;
    }
    let limits = policies.iter().find(|policy| policy["kind"] == "TokenRateLimitPolicy").unwrap();
    let since = condition(&world, limits, "Enforced").await.unwrap()["lastTransitionTime"].clone();

    // In error: what was good before stays in force, and the field is named.
    let mut broken = limits.clone();
    let name = limits["spec"]["limits"].as_object().unwrap().keys().next().unwrap().clone();
    broken["spec"]["limits"][&name]["when"] = json!([{"predicate": "auth.identity.tier =="}]);
    apply_object(&world.client, &broken).await;
    let accepted = until(&world, limits, "Accepted", is("False", "Invalid")).await;
    let message = accepted["message"].as_str().unwrap();
    assert!(message.starts_with(&format!("spec.limits.{name}.when[0].predicate: ")), "{message}");
    let enforced = until(&world, limits, "Enforced", |condition| condition["observedGeneration"] == 2).await;
    assert_eq!(enforced["status"], "True");
    let message = enforced["message"].as_str().unwrap();
    assert!(message.starts_with("in force is its last good version, since 2"), "{message}");
    assert_eq!(enforced["lastTransitionTime"], since);
    let event = event(&world, limits).await;
    assert_eq!((&event["reason"], &event["type"]), (&json!("ExpressionInvalid"), &json!("Warning")), "{event}");
    apply_object(&world.client, limits).await;
    until(&world, limits, "Accepted", is("True", "Accepted")).await;

    // Of two on one target the newer is in force.
    let mut second = limits.clone();
    second["metadata"]["name"] = json!("z-second");
    apply_object(&world.client, &second).await;
    until(&world, &second, "Enforced", is("True", "Enforced")).await;
    let enforced = until(&world, limits, "Enforced", is("False", "Overridden")).await;
    let winner = format!("overridden by {}/z-second ", second["metadata"]["namespace"].as_str().unwrap());
    assert!(enforced["message"].as_str().unwrap().starts_with(&winner), "{enforced}");
    until(&world, limits, "Accepted", is("True", "Accepted")).await;
    delete(&world.client, &second).await;
    until(&world, limits, "Enforced", is("True", "Enforced")).await;
    let mut lost = limits.clone();
    // Where no Gateway and no route is, it is no error, of which there would be an Event.
    lost["metadata"]["name"] = json!("lost");
    lost["metadata"]["namespace"] = json!(format!("{}-tier-free", world.name));
    lost["spec"]["targetRef"]["name"] = json!("nowhere");
    apply_object(&world.client, &lost).await;
    until(&world, &lost, "Accepted", is("False", "TargetNotFound")).await;

    // Without a change nothing is written, not by a second one and not by one that starts anew.
    let before = writes(&cluster, &world);
    drop(tiergate);
    let again = world.tiergate(&cluster, &[REVIEW]).await;
    let marker = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "marker", "namespace": format!("{}-tier-free", world.name)}});
    apply_object(&world.client, &marker).await;
    again.await_log("policy published");
    let mut third = lost.clone();
    third["metadata"]["name"] = json!("zz-third");
    apply_object(&world.client, &third).await;
    until(&world, &third, "Accepted", is("False", "TargetNotFound")).await;
    // In the order of their names: what comes before the last one was looked at, and found as it should be.
    assert_eq!(writes(&cluster, &world), before + 1);
}

async fn event(world: &World, policy: &Value) -> Value {
    let namespace = policy["metadata"]["namespace"].as_str().unwrap();
    let path = format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events");
    let started = Instant::now();
    loop {
        let events: Value = world.client.request(request("GET", &path, None)).await.unwrap();
        let of = |event: &&Value| event["regarding"]["name"] == policy["metadata"]["name"] && event["note"].is_string();
        if let Some(event) = events["items"].as_array().unwrap().iter().find(of) {
            return event.clone();
        }
        assert!(started.elapsed() < PATIENCE, "an Event is sent");
        // It is sent when it was compiled: asking is how that is seen.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn what_another_controller_owns_is_its_own() {
    let cluster = cluster().await;
    let world = World::generous(&cluster, "owned").await;
    let policies = policies(&world);
    let (theirs, ours) = (&policies[0], &policies[1]);
    let (operators, name) = api(&world.client, theirs);
    let status = json!({
        "apiVersion": theirs["apiVersion"], "kind": theirs["kind"], "metadata": {"name": name},
        "status": {"conditions": [{
            "type": "Accepted", "status": "False", "reason": "Operator", "message": "says the operator",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]},
    });
    operators.patch_status(&name, &PatchParams::apply("kuadrant-operator"), &Patch::Apply(&status)).await.unwrap();
    let tiergate = world.tiergate(&cluster, &[]).await;
    let told = tiergate.await_log("is another controller's");
    assert_eq!(told["manager"], "kuadrant-operator");
    until(&world, ours, "Enforced", is("True", "Enforced")).await;
    assert_eq!(condition(&world, theirs, "Accepted").await.unwrap()["reason"], "Operator");
    assert_eq!(condition(&world, theirs, "Enforced").await, None);
}

#[tokio::test]
async fn nothing_is_written_where_it_is_not_wanted() {
    let cluster = cluster().await;
    let world = World::generous(&cluster, "silent").await;
    let _silent = world.tiergate(&cluster, &["--no-status"]).await;
    // One that came later has told everything: so would the silent one have.
    let kubeconfig = world.kubeconfig(&cluster, "talker", super::rules()).await;
    let _talker = world.start(&cluster, &kubeconfig, &[]);
    for policy in policies(&world) {
        until(&world, &policy, "Enforced", is("True", "Enforced")).await;
    }
    assert_eq!(writes(&cluster, &world), 0);
}

#[tokio::test]
async fn what_may_not_be_written_is_told_once_and_stops_nothing() {
    let cluster = cluster().await;
    let world = World::generous(&cluster, "mute").await;
    let mut rules = super::rules();
    for rule in rules.as_array_mut().unwrap() {
        let verbs = rule["verbs"].as_array_mut().unwrap();
        verbs.retain(|verb| verb != "patch");
    }
    rules.as_array_mut().unwrap().retain(|rule| rule["verbs"] != json!([]));
    let kubeconfig = world.kubeconfig(&cluster, "tiergate", rules).await;
    let tiergate = world.start(&cluster, &kubeconfig, &[]);
    let told = tiergate.await_log("statuses may not be written");
    assert!(told["message"].as_str().unwrap().contains("--no-status"), "{told}");
    assert_eq!(writes(&cluster, &world), 1, "it is not tried over and over");
    for policy in policies(&world) {
        assert_eq!(condition(&world, &policy, "Accepted").await, None);
    }
    // Requests have nothing to do with it.
    crate::support::await_ready(&tiergate).await;
    let mut free = world.caller(&tiergate, "free", "alice-12345678").await;
    assert_eq!(free.asks(&world.path("llm", "granite")).await, super::ok());
}
