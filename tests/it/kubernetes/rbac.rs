//! RBAC in process beside the API server's own authorizer: random objects, read by the real watch, and random questions.

mod generate;

use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::Client;
use serde_json::{Value, json};
use tiergate::access::AccessQuery;
use tiergate::clock::Clock;
use tiergate::policy::{Options, Policy};
use tiergate::source::Kubernetes;
use tokio::sync::watch;

use self::generate::{GROUP, LABEL, Question, World};
use crate::cluster::{Cluster, apply_object, request};
use crate::support::{PATIENCE, soak};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const QUESTIONS_OF_A_WORLD: usize = 20;

/// Creates or replaces an object: whether the API server takes it.
async fn put(client: &Client, object: &Value) -> bool {
    let metadata = &object["metadata"];
    let scope = metadata["namespace"].as_str().map(|name| format!("/namespaces/{name}")).unwrap_or_default();
    let collection = format!("{RBAC}{scope}/{}s", object["kind"].as_str().unwrap().to_lowercase());
    let name = metadata["name"].as_str().unwrap().replace(' ', "%20");
    for (method, path) in [("POST", collection.clone()), ("PUT", format!("{collection}/{name}"))] {
        match client.request::<Value>(request(method, &path, Some(object.clone()))).await {
            Ok(_) => return true,
            // It is there.
            Err(kube::Error::Api(status)) if status.code == 409 && method == "POST" => {}
            Err(kube::Error::Api(status)) if matches!(status.code, 400 | 422) => return false,
            Err(error) => panic!("{object}: {error}"),
        }
    }
    panic!("{object} is replaced or refused")
}

async fn review(client: &Client, question: &Question) -> bool {
    let Question { user, groups, verb, group, resource, subresource, namespace, name } = question;
    let attributes = json!({
        "verb": verb, "group": group, "resource": resource, "subresource": subresource, "namespace": namespace, "name": name,
    });
    let spec = json!({"user": user, "groups": groups, "resourceAttributes": attributes});
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec});
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let answer: Value = client.request(request("POST", path, Some(review))).await.unwrap();
    answer["status"]["allowed"].as_bool().unwrap()
}

fn authorize(policy: &Policy, question: &Question) -> bool {
    let groups: Vec<&str> = question.groups.iter().map(String::as_str).collect();
    let query = AccessQuery {
        user: &question.user,
        groups: &groups,
        verb: &question.verb,
        group: &question.group,
        resource: &question.resource,
        subresource: &question.subresource,
        namespace: &question.namespace,
        name: &question.name,
    };
    policy.rbac.authorize(&query).is_some()
}

/// Objects that come after all others of their kinds, with the question that they alone answer with yes: whoever says so
/// knows the others too.
fn sentinel(number: usize, namespace: &str) -> ([Value; 2], Question) {
    let api = "rbac.authorization.k8s.io/v1";
    let (role, binding, metadata) = match namespace {
        "" => (
            "ClusterRole",
            "ClusterRoleBinding",
            json!({"name": format!("sentinel-{number}"), "labels": {LABEL: "yes"}}),
        ),
        _ => ("Role", "RoleBinding", json!({"name": format!("sentinel-{number}"), "namespace": namespace})),
    };
    let user = format!("sentinel-{number}-of-{namespace}");
    let rules = json!([{"apiGroups": ["tests"], "resources": ["sentinels"], "verbs": ["see"]}]);
    let objects = [
        json!({"apiVersion": api, "kind": role, "metadata": metadata, "rules": rules}),
        json!({
            "apiVersion": api, "kind": binding, "metadata": metadata,
            "subjects": [{"kind": "User", "apiGroup": GROUP, "name": user}],
            "roleRef": {"apiGroup": GROUP, "kind": role, "name": metadata["name"]},
        }),
    ];
    let question = Question {
        user,
        verb: "see".to_owned(),
        group: "tests".to_owned(),
        resource: "sentinels".to_owned(),
        namespace: namespace.to_owned(),
        ..Question::default()
    };
    (objects, question)
}

/// Awaits that the API server's authorizer and the policy that is published here know all that there is now.
async fn settle(client: &Client, published: &mut watch::Receiver<Arc<Policy>>, number: usize, namespace: &str) {
    let sentinels = [sentinel(number, namespace), sentinel(number, "")];
    for object in sentinels.iter().flat_map(|(objects, _)| objects) {
        assert!(put(client, object).await);
    }
    for (_, question) in &sentinels {
        let started = Instant::now();
        while !review(client, question).await {
            assert!(started.elapsed() < PATIENCE, "the authorizer knows of {question:?}");
            // It is asked; it does not tell.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let known = published.wait_for(|policy| authorize(policy, question));
        drop(tokio::time::timeout(PATIENCE, known).await.expect("the watch tells in time").unwrap());
    }
}

/// The policies of a watch of `cluster`.
fn follow(cluster: &Cluster) -> watch::Receiver<Arc<Policy>> {
    let (send, published) = watch::channel(Arc::new(Policy::default()));
    let kubeconfig = cluster.admin();
    // It watches for as long as there are tests.
    std::thread::spawn(move || {
        let source = Kubernetes::connect(Some(&kubeconfig), Options::default(), false, Clock::start()).unwrap();
        source.watch(|policy| {
            send.send_replace(Arc::new(policy.unwrap()));
        });
    });
    published
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rbac_in_process_and_the_api_servers_authorizer_agree_about_random_requests() {
    // Of its own: groups that everybody is in are granted things.
    let cluster = Cluster::start();
    let client = cluster.client().await;
    let mut published = follow(&cluster);
    let worlds = soak(200, 2_000) / QUESTIONS_OF_A_WORLD;
    let (mut asked, mut allowed, mut taken, mut refused, mut disagreements) = (0, 0, 0, 0, Vec::new());
    for number in 0..worlds {
        let world = World::new(number as u64 + 1, QUESTIONS_OF_A_WORLD);
        for name in &world.namespaces {
            let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            apply_object(&client, &namespace).await;
        }
        for object in world.objects.iter().chain(&world.later) {
            match put(&client, object).await {
                true => taken += 1,
                false => refused += 1,
            }
        }
        settle(&client, &mut published, number, &world.namespaces[0]).await;
        let policy = Arc::clone(&published.borrow());
        for question in &world.questions {
            let (theirs, ours) = (review(&client, question).await, authorize(&policy, question));
            asked += 1;
            allowed += usize::from(theirs);
            if theirs != ours {
                disagreements.push(format!("world {}: the API server {theirs}, here {ours}: {question:?}", number + 1));
            }
        }
        // What is for the whole cluster is not for the next world.
        let all = format!("{RBAC}/clusterrolebindings?labelSelector={LABEL}");
        client.request::<Value>(request("DELETE", &all, None)).await.unwrap();
    }
    println!(
        "RBAC in process beside the API server's authorizer: {asked} requests in {worlds} worlds, {allowed} allowed, {} denied; {} \
         disagreements; {taken} objects, {refused} more refused",
        asked - allowed,
        disagreements.len()
    );
    assert!(disagreements.is_empty(), "{} of {asked}:\n{}", disagreements.len(), disagreements.join("\n"));
    let fifteen_percent = asked * 15 / 100;
    assert!(allowed >= fifteen_percent && asked - allowed >= fifteen_percent, "{allowed} of {asked} allowed");
    assert!(refused > 0, "odd objects are among them");
}
