//! A cluster of the tour's own: etcd and kube-apiserver on loopback, with the manifests applied.

#[path = "../../../tests/cluster/control_plane.rs"]
mod control_plane;
#[path = "../../../tests/cluster/objects.rs"]
mod objects;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use kube::Client;
use serde_json::json;
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
    /// tiergate's, which may do what deploy/base says and nothing else.
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
            permit(&client, parts.permissions).await
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

/// tiergate's ServiceAccount and what it may do, as they are deployed.
async fn permit(client: &Client, base: &Path) -> Result<()> {
    for file in ["service-account.yaml", "cluster-role.yaml", "tier-mapping-role.yaml"] {
        objects::apply(client, &fs::read_to_string(base.join(file))?).await?;
    }
    Ok(())
}
