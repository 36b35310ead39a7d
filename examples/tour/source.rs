//! Where tiergate has its policy from, and where the users are: a folder of manifests, or a cluster that holds the same.

mod cluster;
mod folder;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::Result;

pub use cluster::{Cluster, Parts};
pub use folder::Folder;

pub enum Source {
    Folder(Folder),
    Cluster(Cluster),
}

/// A user: a ServiceAccount in the namespace of a tier.
#[derive(Clone, Copy)]
pub struct Account {
    pub name: &'static str,
    pub tier: &'static str,
}

// === impl Source ===

impl Source {
    /// What `tiergate serve` is to be told about it.
    pub fn arguments(&self) -> Vec<OsString> {
        match self {
            Self::Folder(folder) => folder.arguments(),
            Self::Cluster(cluster) => cluster.arguments(),
        }
    }

    /// A token that is valid for an hour.
    pub fn token(&self, of: Account, audience: &str) -> Result<String> {
        match self {
            Self::Folder(folder) => folder.token(of, audience),
            Self::Cluster(cluster) => cluster.token(of, audience),
        }
    }

    /// The same, of a ServiceAccount that is deleted since.
    pub fn token_of_deleted(&self, of: Account, audience: &str) -> Result<String> {
        match self {
            Self::Folder(folder) => folder.token_of_deleted(of, audience),
            Self::Cluster(cluster) => cluster.token_of_deleted(of, audience),
        }
    }

    /// The private key that signs these tokens, as PEM.
    pub fn signing_key(&self) -> PathBuf {
        match self {
            Self::Folder(folder) => folder.signing_key(),
            Self::Cluster(cluster) => cluster.signing_key(),
        }
    }

    /// A kubeconfig of one who may do everything, where there is a cluster.
    pub fn kubeconfig(&self) -> Option<PathBuf> {
        match self {
            Self::Folder(_) => None,
            Self::Cluster(cluster) => Some(cluster.admin()),
        }
    }
}

// === impl Account ===

impl Account {
    fn namespace(self) -> String {
        format!("maas-default-gateway-tier-{}", self.tier)
    }

    /// Its manifest.
    fn manifest(self) -> String {
        let Self { name, .. } = self;
        let namespace = self.namespace();
        format!("apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {name}, namespace: {namespace}}}\n")
    }
}

/// The files of a folder, by name.
fn files_of(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.sort_unstable();
    Ok(files)
}
