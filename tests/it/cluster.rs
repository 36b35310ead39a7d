//! A real control plane on loopback: etcd and kube-apiserver, of the binaries that scripts/kube.sh has.
//!
//! There are no controllers: nothing collects garbage, fills in aggregated ClusterRoles, or makes ServiceAccounts.

mod server;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, Config};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::{Value, json};
use tiergate::manifest::KINDS;

use self::server::Server;
use crate::support::{Folder, PATIENCE, free_ports, root};

pub(crate) struct Cluster {
    pub(crate) folder: PathBuf,
    server: String,
    arguments: Vec<String>,
    api_server: Mutex<Server>,
    etcd: Server,
}

/// The one that tests share. Each uses names of its own.
pub(crate) static SHARED: LazyLock<Cluster> = LazyLock::new(|| {
    let cluster = Cluster::start();
    cluster.blocking(|client| async move { apply(&client, CRDS).await });
    cluster
});

pub(crate) const CRDS: &str = include_str!("../data/crds.yaml");

/// Every call, without bodies: what tests count.
const AUDIT: &str =
    "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{level: Metadata}]\n";

static BINARIES: LazyLock<PathBuf> = LazyLock::new(|| {
    let mut script = Command::new(root("scripts/kube.sh"));
    let output = script.args(["etcd", "kube-apiserver"]).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "scripts/kube.sh builds Kubernetes");
    String::from_utf8(output.stdout).unwrap().lines().last().unwrap().into()
});

impl Cluster {
    /// A cluster without any object that is not its own.
    pub(crate) fn start() -> Self {
        let folder = Folder::new();
        write_keys(&folder);
        folder.file("audit.yaml", AUDIT);
        let path = |name: &str| folder.0.join(name).display().to_string();
        let [etcd_port, peer, port] = free_ports();
        let etcd_arguments = [
            format!("--data-dir={}", path("etcd")),
            "--unsafe-no-fsync".to_owned(),
            "--log-level=warn".to_owned(),
            format!("--listen-client-urls=http://127.0.0.1:{etcd_port}"),
            format!("--advertise-client-urls=http://127.0.0.1:{etcd_port}"),
            format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
            format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"),
            format!("--initial-cluster=default=http://127.0.0.1:{peer}"),
        ];
        let arguments = vec![
            format!("--etcd-servers=http://127.0.0.1:{etcd_port}"),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={port}"),
            format!("--tls-cert-file={}", path("server.crt")),
            format!("--tls-private-key-file={}", path("server.key")),
            format!("--client-ca-file={}", path("ca.crt")),
            "--authorization-mode=RBAC".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", path("tokens.pub")),
            format!("--service-account-signing-key-file={}", path("tokens.key")),
            "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            "--disable-admission-plugins=ServiceAccount".to_owned(),
            format!("--audit-policy-file={}", path("audit.yaml")),
            format!("--audit-log-path={}", path("audit.log")),
        ];
        let etcd = BINARIES.join("etcd");
        let etcd = Server::start(&etcd, &etcd_arguments, &folder.0.join("etcd.log"), Some(&folder.0));
        let server = format!("https://127.0.0.1:{port}");
        let api_server = Mutex::new(start_api_server(&arguments, &folder.0));
        // The shell around etcd removes it: that happens in any case.
        let folder = std::mem::ManuallyDrop::new(folder).0.clone();
        let cluster = Cluster { folder, server, arguments, api_server, etcd };
        let admin = json!({"client-certificate": cluster.path("admin.crt"), "client-key": cluster.path("admin.key")});
        cluster.kubeconfig("admin", admin);
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
        let path = self.path(&format!("{name}.kubeconfig"));
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{"name": "it", "cluster": {"server": server, "certificate-authority": self.path(ca)}}],
            "users": [{"name": "it", "user": user}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        });
        std::fs::write(&path, config.to_string()).unwrap();
        path
    }

    /// Its URL.
    pub(crate) fn server(&self) -> &str {
        &self.server
    }

    pub(crate) fn admin(&self) -> PathBuf {
        self.path("admin.kubeconfig")
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
            while client.request_text(request("GET", "/readyz", None)).await.is_err() {
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
        *self.api_server.lock().unwrap() = start_api_server(&self.arguments, &self.folder);
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
}

fn start_api_server(arguments: &[String], folder: &Path) -> Server {
    Server::start(&BINARIES.join("kube-apiserver"), arguments, &folder.join("kube-apiserver.log"), None)
}

/// A CA with what it signed, and the keys of tokens.
fn write_keys(folder: &Folder) {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(DnType::CommonName, "tiergate tests");
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    folder.file("ca.crt", &authority.pem());
    for (name, hosts) in [("server", vec!["127.0.0.1".to_owned(), "localhost".to_owned()]), ("admin", Vec::new())] {
        let (mut params, key) = (CertificateParams::new(hosts).unwrap(), KeyPair::generate().unwrap());
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, "system:masters");
        folder.file(&format!("{name}.crt"), &params.signed_by(&key, &authority).unwrap().pem());
        folder.file(&format!("{name}.key"), &key.serialize_pem());
    }
    let strange = rcgen::generate_simple_self_signed(Vec::new()).unwrap();
    folder.file("strange.crt", &strange.cert.pem());
    let tokens = KeyPair::generate().unwrap();
    folder.file("tokens.key", &tokens.serialize_pem());
    folder.file("tokens.pub", &tokens.public_key_pem());
}

pub(crate) async fn client(kubeconfig: &Path) -> Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

pub(crate) fn request(method: &str, path: &str, body: Option<Value>) -> axum::http::Request<Vec<u8>> {
    let builder = axum::http::Request::builder().method(method).uri(path).header("content-type", "application/json");
    builder.body(body.map(|body| body.to_string().into_bytes()).unwrap_or_default()).unwrap()
}

/// A token of a ServiceAccount, as `kubectl create token` asks for it.
pub(crate) async fn token(client: &Client, namespace: &str, name: &str, audiences: &[&str]) -> String {
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token");
    let spec = json!({"audiences": audiences, "expirationSeconds": 3600});
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
    let answer: Value = client.request(request("POST", &path, Some(body))).await.unwrap();
    answer["status"]["token"].as_str().unwrap().to_owned()
}

pub(crate) fn objects(yaml: &str) -> Vec<Value> {
    serde_saphyr::from_multiple::<Value>(yaml).unwrap()
}

/// Server-side apply of every object, and of the namespaces that they are in.
pub(crate) async fn apply(client: &Client, yaml: &str) {
    let objects = objects(yaml);
    let mut namespaces: Vec<&str> =
        objects.iter().filter_map(|object| object["metadata"]["namespace"].as_str()).collect();
    namespaces.sort_unstable();
    namespaces.dedup();
    for name in namespaces {
        apply_object(client, &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})).await;
    }
    for object in &objects {
        apply_object(client, object).await;
    }
}

pub(crate) async fn apply_object(client: &Client, object: &Value) {
    let (api, name) = api(client, object);
    let params = PatchParams::apply("tests").force();
    let started = Instant::now();
    loop {
        match api.patch(&name, &params, &Patch::Apply(object)).await {
            Ok(_) => return,
            // A kind that was defined a moment ago is not served yet.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 429) && started.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => panic!("{name}: {error}"),
        }
    }
}

pub(crate) async fn delete(client: &Client, object: &Value) {
    let (api, name) = api(client, object);
    api.delete(&name, &DeleteParams::default()).await.unwrap();
}

fn api(client: &Client, object: &Value) -> (Api<DynamicObject>, String) {
    let (kind, version) = (object["kind"].as_str().unwrap(), object["apiVersion"].as_str().unwrap());
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let plural = KINDS
        .iter()
        .find(|known| known.name == kind)
        .map_or_else(|| format!("{}s", kind.to_lowercase()), |k| k.plural());
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), &plural);
    let name = object["metadata"]["name"].as_str().unwrap().to_owned();
    let api = match object["metadata"]["namespace"].as_str() {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    (api, name)
}
