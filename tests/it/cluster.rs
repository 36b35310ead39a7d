//! A real control plane on loopback: etcd and kube-apiserver, of the binaries that scripts/kube.sh has.

#[path = "../cluster/control_plane.rs"]
mod control_plane;
#[path = "../cluster/objects.rs"]
mod objects;
mod server;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use kube::Client;
use kube::api::{Api, DynamicObject};
use serde_json::{Value, json};

use self::control_plane::ControlPlane;
pub(crate) use self::objects::CRDS;
use self::server::Server;
use crate::support::{Folder, PATIENCE, root};

pub(crate) struct Cluster {
    pub(crate) folder: PathBuf,
    control_plane: ControlPlane,
    server: String,
    api_server: Mutex<Server>,
    etcd: Server,
}

/// The one that tests share. Each uses names of its own.
pub(crate) static SHARED: LazyLock<Cluster> = LazyLock::new(|| {
    let cluster = Cluster::start();
    cluster.blocking(|client| async move { apply(&client, CRDS).await });
    cluster
});

/// Every call, without bodies: what tests count.
const AUDIT: &str =
    "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{level: Metadata}]\n";

pub(crate) static BINARIES: LazyLock<PathBuf> = LazyLock::new(|| {
    let mut script = Command::new(root("scripts/kube.sh"));
    let output = script.args(["etcd", "kube-apiserver"]).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "scripts/kube.sh builds Kubernetes");
    String::from_utf8(output.stdout).unwrap().lines().last().unwrap().into()
});

impl Cluster {
    /// A cluster without any object that is not its own.
    pub(crate) fn start() -> Self {
        let folder = Folder::new();
        let control_plane = ControlPlane::prepare(&BINARIES, &folder.0).unwrap();
        let strange = rcgen::generate_simple_self_signed(Vec::new()).unwrap();
        folder.file("strange.crt", &strange.cert.pem());
        folder.file("audit.yaml", AUDIT);
        let etcd = Server::start(&control_plane.etcd(), &control_plane.path("etcd.log"), Some(&folder.0));
        let api_server = Mutex::new(start_api_server(&control_plane));
        let server = control_plane.server();
        // The shell around etcd removes it: that happens in any case.
        let folder = std::mem::ManuallyDrop::new(folder).0.clone();
        let cluster = Cluster { folder, control_plane, server, api_server, etcd };
        cluster.await_ready();
        let jwks = |client: Client| async move { client.request_text(request("GET", "/openid/v1/jwks", None)).await };
        std::fs::write(cluster.jwks(), cluster.blocking(jwks).unwrap()).unwrap();
        cluster
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The keys of ServiceAccounts' tokens.
    pub(crate) fn jwks(&self) -> PathBuf {
        self.path("jwks.json")
    }

    /// The key that signs them.
    pub(crate) fn signing_key(&self) -> PathBuf {
        self.path("tokens.key")
    }

    /// A kubeconfig with these credentials.
    pub(crate) fn kubeconfig(&self, name: &str, user: Value) -> PathBuf {
        self.kubeconfig_of(name, &self.server, "ca.crt", user)
    }

    pub(crate) fn kubeconfig_of(&self, name: &str, server: &str, ca: &str, user: Value) -> PathBuf {
        self.control_plane.kubeconfig(name, server, ca, &user).unwrap()
    }

    /// Its URL.
    pub(crate) fn server(&self) -> &str {
        &self.server
    }

    pub(crate) fn admin(&self) -> PathBuf {
        self.control_plane.admin()
    }

    /// A kubeconfig of a new ServiceAccount that may do what `rules` of a ClusterRole say.
    pub(crate) async fn kubeconfig_with(&self, client: &Client, name: &str, rules: Value) -> PathBuf {
        let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules});
        for object in [
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "tiergate", "namespace": name}}),
            role,
            json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
                "subjects": [{"kind": "ServiceAccount", "name": "tiergate", "namespace": name}],
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
            }),
        ] {
            apply_object(client, &object).await;
        }
        let token = token(client, name, "tiergate", &[]).await;
        self.kubeconfig(name, json!({"token": token}))
    }

    pub(crate) async fn client(&self) -> Client {
        client(&self.admin()).await
    }

    /// Runs `work` with a client, from a thread that may wait.
    fn blocking<T: Send, F: Future<Output = T>>(&self, work: impl FnOnce(Client) -> F + Send) -> T {
        let run = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { work(self.client().await).await })
        };
        std::thread::scope(|scope| scope.spawn(run).join().unwrap())
    }

    fn await_ready(&self) {
        let ready = |client: Client| async move {
            let started = Instant::now();
            while control_plane::ready(&client).await.is_err() {
                assert!(started.elapsed() < PATIENCE * 2, "the API server gets ready:\n{}", self.said());
                // Nothing tells when another process is ready.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        self.blocking(ready);
    }

    fn said(&self) -> String {
        format!("--- etcd\n{}\n--- kube-apiserver\n{}", self.etcd.said(), self.api_server.lock().unwrap().said())
    }

    pub(crate) fn signal_api_server(&self, name: &str) {
        self.api_server.lock().unwrap().signal(name);
    }

    pub(crate) fn kill_api_server(&self) {
        self.api_server.lock().unwrap().kill();
    }

    /// Again, with what it stored.
    pub(crate) fn restart_api_server(&self) {
        *self.api_server.lock().unwrap() = start_api_server(&self.control_plane);
        self.await_ready();
    }

    /// The calls so far, of users for whom `of` says so: the verb and the resource of each.
    pub(crate) fn calls(&self, of: impl Fn(&str) -> bool) -> Vec<(String, String)> {
        let text = std::fs::read_to_string(self.path("audit.log")).unwrap();
        let entries = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let ours = entries.filter(|entry| of(entry["user"]["username"].as_str().unwrap_or_default()));
        // A watch is told of twice: when it starts, and when it ends.
        let begun = ours.filter(|entry| entry["verb"] != "watch" || entry["stage"] == "ResponseStarted");
        begun.map(|entry| (text(&entry["verb"]), text(&entry["objectRef"]["resource"]))).collect()
    }

    /// Waits until such a user has made such a call.
    pub(crate) async fn until_called(&self, of: impl Fn(&str) -> bool, verb: &str, resource: &str) {
        let (started, call) = (Instant::now(), (verb.to_owned(), resource.to_owned()));
        loop {
            let calls = self.calls(&of);
            if calls.contains(&call) {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "{verb} {resource}: {calls:?}");
            // The API server writes its log when it likes, and reading is how that is seen.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn start_api_server(control_plane: &ControlPlane) -> Server {
    let mut command = control_plane.api_server();
    command.arg(format!("--audit-policy-file={}", control_plane.path("audit.yaml").display()));
    command.arg(format!("--audit-log-path={}", control_plane.path("audit.log").display()));
    Server::start(&command, &control_plane.path("kube-apiserver.log"), None)
}

pub(crate) async fn client(kubeconfig: &Path) -> Client {
    control_plane::client(kubeconfig).await.unwrap()
}

pub(crate) fn request(method: &str, path: &str, body: Option<Value>) -> axum::http::Request<Vec<u8>> {
    objects::request(method, path, body).unwrap()
}

/// A token of a ServiceAccount, as `kubectl create token` asks for it.
pub(crate) async fn token(client: &Client, namespace: &str, name: &str, audiences: &[&str]) -> String {
    objects::token(client, namespace, name, audiences).await.unwrap()
}

pub(crate) fn objects(yaml: &str) -> Vec<Value> {
    objects::objects(yaml).unwrap()
}

/// Server-side apply of every object, and of the namespaces that they are in.
pub(crate) async fn apply(client: &Client, yaml: &str) {
    objects::apply(client, yaml).await.unwrap();
}

pub(crate) async fn apply_object(client: &Client, object: &Value) {
    objects::apply_object(client, object).await.unwrap();
}

pub(crate) async fn delete(client: &Client, object: &Value) {
    objects::delete(client, object).await.unwrap();
}

pub(crate) fn api(client: &Client, object: &Value) -> (Api<DynamicObject>, String) {
    objects::api(client, object).unwrap()
}
