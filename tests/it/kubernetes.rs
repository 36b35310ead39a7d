//! tiergate on a real kube-apiserver.

mod access;
mod away;
mod changes;
mod churn;
mod credentials;
mod deploy;
mod namespaces;
mod outage;
mod rbac;
mod review;
mod revoke;
mod scale;
mod stampede;
mod start;
mod status;
mod tour;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use kube::Client;
use serde_json::{Value, json};
use tonic::transport::Channel;

use crate::cluster::{Cluster, apply, apply_object, delete, objects, token};
use crate::support::{PATIENCE, POSITIVE, Tiergate, await_ready, get, root};
use crate::wire::{channel, check_request, http, outcome};

/// In place of a flag: the API server reviews tokens.
pub(crate) const REVIEW: &str = "(review)";

/// The tour's objects under names that no other test has.
pub(crate) struct World {
    pub(crate) name: String,
    pub(crate) client: Client,
    pub(crate) objects: Vec<Value>,
}

/// What tiergate's ServiceAccount may do: the ClusterRole, and the Role for the ConfigMap.
fn roles() -> [Value; 2] {
    ["cluster-role", "tier-mapping-role"].map(|file| {
        let text = std::fs::read_to_string(root(&format!("deploy/base/{file}.yaml"))).unwrap();
        objects(&text).swap_remove(0)
    })
}

/// The ClusterRole's rules.
pub(crate) fn rules() -> Value {
    roles()[0]["rules"].clone()
}

/// The same without one resource.
pub(crate) fn rules_without(resource: &str) -> Value {
    let mut rules = rules();
    for resources in rules.as_array_mut().unwrap().iter_mut().filter_map(|rule| rule.get_mut("resources")) {
        resources.as_array_mut().unwrap().retain(|other| other != resource);
    }
    rules.as_array_mut().unwrap().retain(|rule| rule["resources"] != json!([]));
    rules
}

impl World {
    /// Applies the tour's objects.
    pub(crate) async fn new(cluster: &Cluster, name: &str) -> Self {
        let world = World { name: name.to_owned(), client: cluster.client().await, objects: tour(name) };
        world.apply_all().await;
        world
    }

    /// With limits that no test reaches.
    pub(crate) async fn generous(cluster: &Cluster, name: &str) -> Self {
        let mut world = World { name: name.to_owned(), client: cluster.client().await, objects: tour(name) };
        for object in &mut world.objects {
            let limits = object.pointer_mut("/spec/limits").and_then(Value::as_object_mut);
            for limit in limits.into_iter().flat_map(|limits| limits.values_mut()) {
                limit["rates"][0]["limit"] = json!(1_000_000_000);
            }
        }
        world.apply_all().await;
        world
    }

    pub(crate) async fn apply_all(&self) {
        apply(&self.client, &self.objects.iter().map(|object| format!("---\n{object}\n")).collect::<String>()).await;
    }

    pub(crate) fn object(&self, kind: &str, name: &str) -> Value {
        let found = self.objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
        found.unwrap_or_else(|| panic!("{kind} {name}")).clone()
    }

    /// Applies an object of the world with what `change` makes of it.
    pub(crate) async fn change(&self, kind: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let mut object = self.object(kind, name);
        change(&mut object);
        apply_object(&self.client, &object).await;
    }

    pub(crate) async fn delete(&self, kind: &str, name: &str) {
        delete(&self.client, &self.object(kind, name)).await;
    }

    pub(crate) fn llm(&self) -> String {
        format!("{}-llm", self.name)
    }

    /// Of one of the models, by namespace of the tour (`llm`, `lab`) and name.
    pub(crate) fn path(&self, namespace: &str, model: &str) -> String {
        format!("/{}-{namespace}/{model}/v1/chat/completions", self.name)
    }

    /// A tiergate that watches `cluster` for this world's Gateway, with a ServiceAccount that may read and nothing else.
    pub(crate) async fn tiergate(&self, cluster: &Cluster, flags: &[&str]) -> Tiergate {
        let kubeconfig = self.kubeconfig(cluster, "tiergate", rules()).await;
        let tiergate = self.start(cluster, &kubeconfig, flags);
        await_ready(&tiergate).await;
        tiergate
    }

    /// Of a new ServiceAccount, which may do what these `rules` of a ClusterRole say, and read the tiers.
    pub(crate) async fn kubeconfig(&self, cluster: &Cluster, name: &str, rules: Value) -> PathBuf {
        let account = format!("{}-{name}", self.name);
        let kubeconfig = cluster.kubeconfig_with(&self.client, &account, rules).await;
        let [_, mut role] = roles();
        role["metadata"] = json!({"name": account, "namespace": format!("{}-maas-api", self.name)});
        apply_object(&self.client, &role).await;
        let binding = json!({
            "apiVersion": role["apiVersion"], "kind": "RoleBinding", "metadata": role["metadata"],
            "subjects": [{"kind": "ServiceAccount", "name": "tiergate", "namespace": account}],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": account},
        });
        apply_object(&self.client, &binding).await;
        kubeconfig
    }

    pub(crate) fn start(&self, cluster: &Cluster, kubeconfig: &Path, flags: &[&str]) -> Tiergate {
        let name = &self.name;
        let (gateway, mapping) = (format!("{name}-ingress/{name}"), format!("{name}-maas-api/tier-to-group-mapping"));
        let own = [
            "--gateway",
            &gateway,
            "--tier-mapping",
            &mapping,
            "--instance",
            name,
            "--grant-from-annotation",
            POSITIVE[0],
        ];
        let jwks = cluster.jwks();
        let keys = ["--jwks", jwks.to_str().unwrap()];
        // Who is asked of a token is not what most tests are about.
        let authority = if flags.contains(&REVIEW) { &[][..] } else { &keys[..] };
        let flags = flags.iter().filter(|flag| **flag != REVIEW).copied();
        Tiergate::start_on(kubeconfig, &own.iter().chain(authority).copied().chain(flags).collect::<Vec<_>>())
    }

    /// The name that this world's tiergate has to the API server.
    pub(crate) fn account(&self) -> String {
        format!("system:serviceaccount:{}-tiergate:tiergate", self.name)
    }

    pub(crate) async fn caller(&self, tiergate: &Tiergate, tier: &str, name: &str) -> Caller {
        let namespace = format!("{}-tier-{tier}", self.name);
        Caller::with(tiergate, &token(&self.client, &namespace, name, &[&self.audience()]).await).await
    }

    /// What its AuthPolicy wants tokens to be for.
    pub(crate) fn audience(&self) -> String {
        format!("{}-sa", self.name)
    }
}

/// The manifests of the tour, renamed.
fn tour(name: &str) -> Vec<Value> {
    let mut objects_of_all = Vec::new();
    for entry in std::fs::read_dir(root("examples/manifests")).unwrap() {
        let mut text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        for (from, to) in [
            ("maas-default-gateway", name.to_owned()),
            ("openshift-ingress", format!("{name}-ingress")),
            ("namespace: maas-api", format!("namespace: {name}-maas-api")),
            ("namespace: llm", format!("namespace: {name}-llm")),
            ("namespace: lab", format!("namespace: {name}-lab")),
            ("value: /llm/", format!("value: /{name}-llm/")),
            ("value: /lab/", format!("value: /{name}-lab/")),
        ] {
            text = text.replace(from, &to);
        }
        objects_of_all.extend(objects(&text));
    }
    objects_of_all
}

/// One caller, asking again and again.
pub(crate) struct Caller {
    client: AuthorizationClient<Channel>,
    authorization: String,
}

impl Caller {
    pub(crate) async fn with(tiergate: &Tiergate, token: &str) -> Self {
        Caller { client: AuthorizationClient::new(channel(tiergate).await), authorization: format!("Bearer {token}") }
    }

    pub(crate) async fn asks(&mut self, path: &str) -> (i32, String) {
        let request = check_request(http(path, Some(&self.authorization)));
        let response = self.client.check(request).await.unwrap().into_inner();
        let (status, code) = outcome(&response);
        (status, code.to_owned())
    }

    /// Asks until the answer is `expected`: how long that took.
    pub(crate) async fn until(&mut self, path: &str, expected: &(i32, String)) -> Duration {
        let started = Instant::now();
        loop {
            let answer = self.asks(path).await;
            if answer == *expected {
                return started.elapsed();
            }
            assert!(started.elapsed() < PATIENCE, "{path} is answered {answer:?} instead of {expected:?}");
            // What changes is on its way through other processes, and asking is how it is seen.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

pub(crate) fn ok() -> (i32, String) {
    (200, String::new())
}

pub(crate) fn refused(status: i32, code: &str) -> (i32, String) {
    (status, code.to_owned())
}

/// The problems that are shown of an object, or of what is watched.
pub(crate) async fn problems_of(tiergate: &Tiergate, place: &str) -> Vec<Value> {
    let problems = get(tiergate.http, "/problems").await.json();
    let problems = problems["problems"].as_array().unwrap();
    problems.iter().filter(|problem| problem["place"]["file"] == place).cloned().collect()
}
