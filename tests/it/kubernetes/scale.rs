//! Many objects, and large ones.

use std::hint::black_box;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::service::auth::v3::CheckRequest;
use prost::Message;
use serde_json::{Value, json};
use tiergate::clock::Clock;
use tiergate::listen::ext_authz::to_request;

use super::{World, ok, refused};
use crate::bench::{LARGE, SMALL, captured, gate_at, now};
use crate::cluster::{CRDS, Cluster, SHARED, apply, apply_object, objects, request};
use crate::support::soak;

#[tokio::test]
async fn a_config_map_of_a_mebibyte_is_read() {
    let world = World::generous(&SHARED, "large").await;
    let tiergate = world.tiergate(&SHARED, &[]).await;
    let qwen = world.path("llm", "qwen3");
    let mut premium = world.caller(&tiergate, "premium", "jland-78028f6d").await;
    assert_eq!(premium.asks(&qwen).await, ok());
    // Premium is gone from it, among groups without end.
    let mut tiers = "- name: free\n  level: 1\n  groups:\n".to_owned();
    while tiers.len() < 1_040_000 {
        tiers.push_str(&format!("    - some-group-of-many-{:09}\n", tiers.len()));
    }
    world.change("ConfigMap", "tier-to-group-mapping", |map| map["data"]["tiers"] = json!(tiers)).await;
    let took = premium.until(&qwen, &refused(403, "TG-TIER-GONE")).await;
    println!("a ConfigMap of {} KiB is live after {took:.0?}", tiers.len() >> 10);
    assert!(took < Duration::from_secs(15), "{took:?}");
}

/// Creates `objects`, many at a time.
async fn create(world: &World, path: String, objects: impl Iterator<Item = Value>) {
    let mut tasks = tokio::task::JoinSet::new();
    for object in objects {
        while tasks.len() >= 32 {
            tasks.join_next().await.unwrap().unwrap();
        }
        let (client, path) = (world.client.clone(), path.clone());
        tasks.spawn(async move {
            client.request::<Value>(request("POST", &path, Some(object))).await.unwrap();
        });
    }
    tasks.join_all().await;
}

#[tokio::test]
async fn a_change_among_a_thousand_models_and_five_thousand_bindings_is_live_at_once() {
    let cluster = Cluster::start();
    let admin = cluster.client().await;
    apply(&admin, CRDS).await;
    let world = World::generous(&cluster, "scale").await;
    let llm = world.llm();
    let tiers = 20;
    let mapping: String = (0..tiers).map(|i| format!("- name: t{i}\n  level: {i}\n  groups: [group-{i}]\n")).collect();
    let (models, bindings) = (1_000, 5_000);
    let model = |i: usize| {
        json!({
            "apiVersion": "serving.kserve.io/v1alpha1", "kind": "LLMInferenceService", "metadata": {"name": format!("model-{i}"), "namespace": llm},
            "spec": {"model": {"uri": format!("hf://org/model-{i}")}},
        })
    };
    create(
        &world,
        format!("/apis/serving.kserve.io/v1alpha1/namespaces/{llm}/llminferenceservices"),
        (0..models).map(model),
    )
    .await;
    let route = |i: usize| {
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": format!("route-{i}"), "namespace": llm},
            "spec": {
                "parentRefs": [{"name": "scale", "namespace": "scale-ingress"}],
                "rules": [{"matches": [{"path": {"type": "PathPrefix", "value": format!("/{llm}/model-{i}")}}]}],
            },
        })
    };
    create(&world, format!("/apis/gateway.networking.k8s.io/v1/namespaces/{llm}/httproutes"), (0..models).map(route))
        .await;
    let rbac = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{llm}");
    let role = |i: usize| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": format!("role-{i}"), "namespace": llm},
            "rules": [{"apiGroups": ["serving.kserve.io"], "resources": ["llminferenceservices"], "resourceNames": [format!("model-{i}")], "verbs": ["post"]}],
        })
    };
    create(&world, format!("{rbac}/roles"), (0..models).map(role)).await;
    let binding = |i: usize| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": format!("binding-{i}"), "namespace": llm},
            "subjects": [{"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": format!("system:serviceaccounts:scale-tier-t{}", i % tiers)}],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": format!("role-{}", i % models)},
        })
    };
    create(&world, format!("{rbac}/rolebindings"), (0..bindings).map(binding)).await;
    world.change("ConfigMap", "tier-to-group-mapping", |map| map["data"]["tiers"] = json!(mapping)).await;
    let user = "{apiVersion: v1, kind: ServiceAccount, metadata: {name: user, namespace: scale-tier-t0}}";
    apply(&admin, user).await;

    let started = Instant::now();
    let tiergate = world.tiergate(&cluster, &[]).await;
    let ready = started.elapsed();
    let mut user = world.caller(&tiergate, "t0", "user").await;
    // Of tier 0: every twentieth binding.
    let (granted, other) = (world.path("llm", "model-20"), world.path("llm", "model-21"));
    assert_eq!(user.asks(&granted).await, ok());
    let denied = refused(403, "TG-ACCESS-DENIED");
    assert_eq!(user.asks(&other).await, denied);
    let extra = "{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: extra, namespace: scale-llm}, \
         subjects: [{kind: User, apiGroup: rbac.authorization.k8s.io, name: 'system:serviceaccount:scale-tier-t0:user'}], \
         roleRef: {kind: Role, apiGroup: rbac.authorization.k8s.io, name: role-21}}";
    let extra = objects(extra).remove(0);
    let mut times = Vec::new();
    for _ in 0..soak(5, 50) {
        apply_object(&admin, &extra).await;
        times.push(user.until(&other, &ok()).await);
        crate::cluster::delete(&admin, &extra).await;
        times.push(user.until(&other, &denied).await);
    }
    times.sort_unstable();
    let (median, longest) = (times[times.len() / 2], times[times.len() - 1]);
    println!(
        "{models} models, {tiers} tiers, {bindings} bindings: ready after {ready:.1?}, a change is live after {median:.0?} (median), {longest:.0?} \
         (longest of {}); {} MiB",
        times.len(),
        tiergate.memory() >> 10
    );
    assert!(median < Duration::from_secs(5), "{times:?}");
}

/// What `make bench` measures with more care.
#[test]
fn a_warm_decision_among_a_thousand_models_takes_as_long_as_among_ten() {
    let request = CheckRequest::decode(captured().as_slice()).unwrap();
    let http = to_request(&request).unwrap();
    let clock = Clock::start();
    let gates = [SMALL, LARGE].map(|scale| gate_at(&request, scale));
    let mut fastest = [Duration::MAX; 2];
    // In turn, so that what else the machine does falls upon both; the fastest is that which it disturbed least.
    for _ in 0..soak(50, 1_000) {
        for (gate, fastest) in gates.iter().zip(&mut fastest) {
            let started = Instant::now();
            for _ in 0..20 {
                assert!(now(gate.check(black_box(&http), clock.now())).outcome.is_ok());
            }
            *fastest = started.elapsed().min(*fastest);
        }
    }
    let [small, large] = fastest.map(|time| time / 20);
    let ratio = large.as_secs_f64() / small.as_secs_f64();
    println!(
        "a warm decision among 1,000 models, 20 tiers, 5,000 bindings: {large:.1?}; among ten models {small:.1?}; ratio {ratio:.2}"
    );
    assert!(ratio < 5.0, "{large:?} beside {small:?}");
}
