//! RBAC that changes all the time: who is allowed stays so, and the API server is spared.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kube::Client;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::review::reviews;
use super::{Caller, REVIEW, World, ok, refused};
use crate::cluster::{CRDS, Cluster, apply, apply_object};

/// 100 a second.
const REQUESTS: usize = 600;
const PACE: Duration = Duration::from_millis(10);

/// A cluster where nothing changes beside what the test changes, and a world in it.
async fn quiet(name: &str) -> (Cluster, World) {
    let cluster = Cluster::start();
    apply(&cluster.client().await, CRDS).await;
    let world = World::generous(&cluster, name).await;
    (cluster, world)
}

const SECOND: Duration = Duration::from_secs(1);

/// An object of RBAC that changes all the time, and how often it has.
struct Churn {
    task: JoinHandle<()>,
    changes: Arc<AtomicUsize>,
}

impl Churn {
    /// A change as often as this.
    fn start(client: &Client, every: Duration, kind: &'static str, namespace: Option<String>) -> Self {
        let (client, changes) = (client.clone(), Arc::<AtomicUsize>::default());
        let counted = Arc::clone(&changes);
        let task = tokio::spawn(async move {
            let mut times = interval(every);
            for verb in ["get", "list"].into_iter().cycle() {
                times.tick().await;
                apply_object(&client, &role(kind, namespace.as_deref(), verb)).await;
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Churn { task, changes }
    }

    /// Ends it, which had gone on until now.
    async fn end(self) {
        let Churn { task, changes } = self;
        // By itself it ends with a panic alone.
        match task.is_finished() {
            true => task.await.unwrap(),
            false => task.abort(),
        }
        assert!(changes.load(Ordering::Relaxed) > 0, "nothing has changed");
    }
}

fn role(kind: &str, namespace: Option<&str>, verb: &str) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind,
        "metadata": {"name": "churn", "namespace": namespace},
        "rules": [{"apiGroups": ["example.com"], "resources": ["widgets"], "verbs": [verb]}],
    })
}

/// How often each answer was given.
async fn answers(caller: &mut Caller, path: &str) -> BTreeMap<(i32, String), usize> {
    let mut answers = BTreeMap::new();
    let mut requests = interval(PACE);
    requests.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for _ in 0..REQUESTS {
        requests.tick().await;
        *answers.entry(caller.asks(path).await).or_default() += 1;
    }
    answers
}

fn all(answer: (i32, String)) -> BTreeMap<(i32, String), usize> {
    BTreeMap::from([(answer, REQUESTS)])
}

#[tokio::test]
async fn what_changes_elsewhere_costs_no_review_nor_does_the_start() {
    let (cluster, world) = quiet("calm").await;
    let namespace = "elsewhere";
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
    apply_object(&world.client, &object).await;
    let mut before = 0;
    for churn in [false, true] {
        let tiergate = world.tiergate(&cluster, &[REVIEW, "--access", "review"]).await;
        let mut ivan = world.caller(&tiergate, "enterprise", "ivan-e85d40b9").await;
        let churn = churn.then(|| Churn::start(&world.client, SECOND, "Role", Some(namespace.to_owned())));
        let started = Instant::now();
        assert_eq!(answers(&mut ivan, &world.path("lab", "phi")).await, all(ok()));
        let took = started.elapsed();
        if let Some(churn) = churn {
            churn.end().await;
        }
        // One, and one more after each 5 seconds.
        let now = reviews(&cluster, &world).1;
        assert_eq!(now - before, 1 + took.as_secs() as usize / 5, "in {took:?}");
        before = now;
    }
}

#[tokio::test]
async fn what_changes_in_the_namespace_or_the_cluster_costs_two_reviews_a_second_and_refuses_nobody() {
    let (cluster, world) = quiet("churn").await;
    let tiergate = world.tiergate(&cluster, &[REVIEW, "--access", "review"]).await;
    let mut ivan = world.caller(&tiergate, "enterprise", "ivan-e85d40b9").await;
    let phi = world.path("lab", "phi");
    let lab = format!("{}-lab", world.name);
    for (every, kind, namespace) in
        [(SECOND, "Role", Some(lab.clone())), (SECOND, "ClusterRole", None), (SECOND / 10, "Role", Some(lab))]
    {
        let (before, started) = (reviews(&cluster, &world).1, Instant::now());
        let churn = Churn::start(&world.client, every, kind, namespace);
        assert_eq!(answers(&mut ivan, &phi).await, all(ok()), "{kind}");
        let asked = reviews(&cluster, &world).1 - before;
        let seconds = started.elapsed().as_secs_f64();
        println!("{kind} changed every {every:?}, {REQUESTS} requests: {asked} reviews in {seconds:.1} s");
        assert!(asked as f64 <= 2.0 * seconds + 1.0, "{kind}: {asked} reviews in {seconds:.1} s");
        assert!(asked >= 6, "{kind}: {asked} reviews, and each change is asked about");
        // What is taken away is gone all the same.
        world.delete("RoleBinding", "model-post-access-tier-binding").await;
        let took = ivan.until(&phi, &refused(403, "TG-ACCESS-DENIED")).await;
        println!("{kind} changed every {every:?}: refused {took:.0?} after the binding is gone; goal 1 s");
        // A loaded machine gets five times as long.
        assert!(took < Duration::from_secs(5), "{kind}: {took:?}");
        churn.end().await;
        world.apply_all().await;
        ivan.until(&phi, &ok()).await;
    }
}

#[tokio::test]
async fn who_has_no_grant_is_refused_and_never_told_that_it_is_unknown() {
    let (cluster, world) = quiet("ungranted").await;
    let tiergate = world.tiergate(&cluster, &[REVIEW, "--access", "rbac"]).await;
    let mut free = world.caller(&tiergate, "free", "alice-12345678").await;
    let churns = [
        Churn::start(&world.client, SECOND, "Role", Some(world.llm())),
        Churn::start(&world.client, SECOND, "Role", Some(format!("{}-lab", world.name))),
        Churn::start(&world.client, SECOND, "ClusterRole", None),
    ];
    assert_eq!(answers(&mut free, &world.path("llm", "draft")).await, all(refused(403, "TG-ACCESS-DENIED")));
    for churn in churns {
        churn.end().await;
    }
}
