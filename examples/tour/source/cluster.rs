//! A cluster of the tour's own: etcd and kube-apiserver on loopback, with the manifests applied.

#[path = "../../../tests/cluster/control_plane.rs"]
mod control_plane;
#[path = "../../../tests/cluster/objects.rs"]
mod objects;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use kube::Client;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use self::control_plane::ControlPlane;
use super::{Account, files_of};
use crate::Result;
use crate::processes::Processes;

/// The namespace of tiergate's ServiceAccount.
const NAMESPACE: &str = "tiergate-system";

pub struct Cluster {
    runtime: Runtime,
    client: Client,
    control_plane: ControlPlane,
    /// tiergate's, which may do what docs/kubernetes.md says and nothing else.
    kubeconfig: PathBuf,
}

/// What a cluster is made of.
pub struct Parts<'a> {
    /// The folder of etcd and kube-apiserver.
    pub binaries: &'a Path,
    pub manifests: &'a Path,
    /// The page that says what tiergate may do.
    pub permissions: &'a Path,
    /// For keys and etcd's data.
    pub scratch: &'a Path,
    pub logs: &'a Path,
}

// === impl Cluster ===

impl Cluster {
    pub fn start(parts: &Parts<'_>, processes: &Processes) -> Result<Self> {
        let folder = parts.scratch.join("cluster");
        fs::create_dir(&folder)?;
        let control_plane = ControlPlane::prepare(parts.binaries, &folder)?;
        println!("starting etcd and kube-apiserver on {}", control_plane.server());
        processes.start("etcd", &control_plane.etcd(), &parts.logs.join("etcd.log"))?;
        let log = parts.logs.join("kube-apiserver.log");
        // Asked to, it would wait for a minute for those who watch; and it keeps nothing.
        processes.start_ended_by("KILL", "kube-apiserver", &control_plane.api_server(), &log)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client = runtime.block_on(control_plane::client(&control_plane.admin()))?;
        processes.await_ready("kube-apiserver", || runtime.block_on(control_plane::ready(&client)).is_ok())?;

        println!("applying {}", parts.manifests.display());
        runtime.block_on(async {
            objects::apply(&client, objects::CRDS).await?;
            for file in files_of(parts.manifests)? {
                let text = fs::read_to_string(&file)?;
                objects::apply(&client, &text).await.map_err(|error| format!("{}: {error}", file.display()))?;
            }
            permit(&client, &fs::read_to_string(parts.permissions)?).await
        })?;
        let token = runtime.block_on(objects::token(&client, NAMESPACE, "tiergate", &[]))?;
        let server = control_plane.server();
        let kubeconfig = control_plane.kubeconfig("tiergate", &server, "ca.crt", &json!({"token": token}))?;
        Ok(Self { runtime, client, control_plane, kubeconfig })
    }

    pub fn arguments(&self) -> Vec<OsString> {
        vec!["--kubernetes".into(), "--kubeconfig".into(), (&self.kubeconfig).into()]
    }

    pub fn token(&self, of: Account, audience: &str) -> Result<String> {
        self.runtime.block_on(objects::token(&self.client, &of.namespace(), of.name, &[audience]))
    }

    pub fn token_of_deleted(&self, of: Account, audience: &str) -> Result<String> {
        self.runtime.block_on(objects::apply(&self.client, &of.manifest()))?;
        let token = self.token(of, audience)?;
        for account in objects::objects(&of.manifest())? {
            self.runtime.block_on(objects::delete(&self.client, &account))?;
        }
        Ok(token)
    }

    pub fn signing_key(&self) -> PathBuf {
        self.control_plane.path("tokens.key")
    }

    pub fn admin(&self) -> PathBuf {
        self.control_plane.admin()
    }
}

/// A ServiceAccount for tiergate, and the roles of the documentation bound to it.
async fn permit(client: &Client, page: &str) -> Result<()> {
    let yaml = page.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next());
    let roles = objects::objects(yaml.ok_or("docs/kubernetes.md has no roles in YAML")?)?;
    let account = json!({"kind": "ServiceAccount", "name": "tiergate", "namespace": NAMESPACE});
    let metadata = json!({"name": "tiergate", "namespace": NAMESPACE});
    let account_object = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata});
    objects::apply(client, &account_object.to_string()).await?;
    for role in roles {
        objects::apply_object(client, &role).await?;
        objects::apply_object(client, &binding(&role, &account)).await?;
    }
    Ok(())
}

/// Gives `role` to `subject`, under the role's name.
fn binding(role: &Value, subject: &Value) -> Value {
    let field = |name| role.get(name).and_then(Value::as_str).unwrap_or_default();
    json!({
        "apiVersion": field("apiVersion"), "kind": format!("{}Binding", field("kind")), "metadata": role.get("metadata"),
        "subjects": [subject],
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io", "kind": field("kind"), "name": role.pointer("/metadata/name"),
        },
    })
}
