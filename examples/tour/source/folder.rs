//! A folder of manifests, for whose ServiceAccounts `tiergate token` mints tokens.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Account, files_of};
use crate::Result;
use crate::accounts::make_keys;
use crate::processes::output;

pub struct Folder {
    tiergate: PathBuf,
    manifests: PathBuf,
    scratch: PathBuf,
    key: PathBuf,
    jwks: PathBuf,
}

impl Folder {
    /// Makes its keys in `scratch`.
    pub fn open(tiergate: &Path, manifests: &Path, scratch: &Path) -> Result<Self> {
        let (key, jwks) = make_keys(tiergate, scratch, "keys")?;
        let (tiergate, manifests, scratch) = (tiergate.to_owned(), manifests.to_owned(), scratch.to_owned());
        Ok(Self { tiergate, manifests, scratch, key, jwks })
    }

    pub fn arguments(&self) -> Vec<OsString> {
        let Self { manifests, jwks, .. } = self;
        vec!["--manifests".into(), manifests.into(), "--jwks".into(), jwks.into()]
    }

    pub fn token(&self, of: Account, audience: &str) -> Result<String> {
        self.token_by(&self.manifests, of, audience)
    }

    /// By a copy of the manifests from a time when the account was there.
    pub fn token_of_deleted(&self, of: Account, audience: &str) -> Result<String> {
        let before = self.scratch.join("manifests");
        fs::create_dir(&before)?;
        for file in files_of(&self.manifests)? {
            fs::copy(&file, before.join(file.file_name().unwrap_or_default()))?;
        }
        fs::write(before.join("deleted.yaml"), of.manifest())?;
        self.token_by(&before, of, audience)
    }

    pub fn signing_key(&self) -> PathBuf {
        self.key.clone()
    }

    fn token_by(&self, manifests: &Path, of: Account, audience: &str) -> Result<String> {
        let mut command = Command::new(&self.tiergate);
        command.args(["token", "create", of.name, "--namespace", &of.namespace()]);
        command.args(["--audience", audience, "--duration", "1h"]);
        command.arg("--signing-key").arg(&self.key).arg("--manifests").arg(manifests);
        Ok(output(&mut command)?.trim().to_owned())
    }
}
