//! A real control plane on loopback, etcd and kube-apiserver with RBAC on: its keys and how it is started. The tests have
//! one, and so does `make run KUBE=1`; each keeps the processes in its own way.
//!
//! There are no controllers: nothing collects garbage, fills in aggregated ClusterRoles, or makes ServiceAccounts.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::{Value, json};

use super::objects::{Result, request};

/// How long a question whether it is ready may take.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);

pub struct ControlPlane {
    binaries: PathBuf,
    folder: PathBuf,
    etcd: u16,
    etcd_peer: u16,
    api_server: u16,
}

impl ControlPlane {
    /// Of the etcd and kube-apiserver in `binaries`, on ports that are free now. All that it writes is in `folder`, which
    /// has to be there.
    ///
    /// # Errors
    ///
    /// The folder cannot be written to, or there is no free port.
    pub fn prepare(binaries: &Path, folder: &Path) -> Result<Self> {
        write_keys(folder)?;
        let [etcd, etcd_peer, api_server] = free_ports()?;
        let (binaries, folder) = (binaries.to_owned(), folder.to_owned());
        let prepared = Self { binaries, folder, etcd, etcd_peer, api_server };
        let user = json!({"client-certificate": prepared.path("admin.crt"), "client-key": prepared.path("admin.key")});
        prepared.kubeconfig("admin", &prepared.server(), "ca.crt", &user)?;
        Ok(prepared)
    }

    /// Has to run before the API server does.
    pub fn etcd(&self) -> Command {
        let (client, peer) = (self.etcd_url(), format!("http://127.0.0.1:{}", self.etcd_peer));
        let mut command = Command::new(self.binaries.join("etcd"));
        command.args([
            &format!("--data-dir={}", self.path("etcd").display()),
            // Nothing of it is needed after a crash of the machine.
            "--unsafe-no-fsync",
            "--log-level=warn",
            &format!("--listen-client-urls={client}"),
            &format!("--advertise-client-urls={client}"),
            &format!("--listen-peer-urls={peer}"),
            &format!("--initial-advertise-peer-urls={peer}"),
            &format!("--initial-cluster=default={peer}"),
        ]);
        command
    }

    pub fn api_server(&self) -> Command {
        let file = |flag: &str, name: &str| format!("--{flag}={}", self.path(name).display());
        let mut command = Command::new(self.binaries.join("kube-apiserver"));
        command.args([
            &format!("--etcd-servers={}", self.etcd_url()),
            "--bind-address=127.0.0.1",
            &format!("--secure-port={}", self.api_server),
            &file("tls-cert-file", "server.crt"),
            &file("tls-private-key-file", "server.key"),
            &file("client-ca-file", "ca.crt"),
            "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            &file("service-account-key-file", "tokens.pub"),
            &file("service-account-signing-key-file", "tokens.key"),
            "--service-cluster-ip-range=10.0.0.0/24",
            "--endpoint-reconciler-type=none",
            // No controller makes a ServiceAccount `default`, without which this plugin lets no Pod be.
            "--disable-admission-plugins=ServiceAccount",
        ]);
        command
    }

    /// Its URL.
    pub fn server(&self) -> String {
        format!("https://127.0.0.1:{}", self.api_server)
    }

    /// A file of its folder. `tokens.key` is the private key that ServiceAccounts' tokens are signed with.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The kubeconfig of one who may do everything.
    pub fn admin(&self) -> PathBuf {
        self.path("admin.kubeconfig")
    }

    /// Writes a kubeconfig with these credentials; `ca` is a file of the folder.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn kubeconfig(&self, name: &str, server: &str, ca: &str, user: &Value) -> Result<PathBuf> {
        let path = self.path(&format!("{name}.kubeconfig"));
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "loopback",
            "clusters": [{"name": "loopback", "cluster": {"server": server, "certificate-authority": self.path(ca)}}],
            "users": [{"name": name, "user": user}],
            "contexts": [{"name": "loopback", "context": {"cluster": "loopback", "user": name}}],
        });
        write(&path, &config.to_string())?;
        Ok(path)
    }

    fn etcd_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.etcd)
    }
}

/// # Errors
///
/// The kubeconfig cannot be used.
pub async fn client(kubeconfig: &Path) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// Whether the API server serves, with the roles that it makes itself.
///
/// # Errors
///
/// What it says, or that it does not answer within seconds.
pub async fn ready(client: &Client) -> Result<()> {
    tokio::time::timeout(ANSWERED_WITHIN, client.request_text(request("GET", "/readyz", None)?)).await??;
    Ok(())
}

/// A CA with what it signed, and the keys of tokens.
fn write_keys(folder: &Path) -> Result<()> {
    let file = |name: &str, text: &str| write(&folder.join(name), text);
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(DnType::CommonName, "tiergate on loopback");
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
    file("ca.crt", &authority.pem())?;
    for (name, hosts) in [("server", vec!["127.0.0.1".to_owned(), "localhost".to_owned()]), ("admin", Vec::new())] {
        let (mut params, key) = (CertificateParams::new(hosts)?, KeyPair::generate()?);
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, "system:masters");
        file(&format!("{name}.crt"), &params.signed_by(&key, &authority)?.pem())?;
        file(&format!("{name}.key"), &key.serialize_pem())?;
    }
    let tokens = KeyPair::generate()?;
    file("tokens.key", &tokens.serialize_pem())?;
    file("tokens.pub", &tokens.public_key_pem())
}

fn write(path: &Path, text: &str) -> Result<()> {
    Ok(fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?)
}

/// Held until all are chosen, so that no two of them are the same.
fn free_ports<const N: usize>() -> io::Result<[u16; N]> {
    let mut held = Vec::new();
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        *port = listener.local_addr()?.port();
        held.push(listener);
    }
    Ok(ports)
}
