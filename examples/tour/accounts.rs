//! The tour's users and their tokens, minted with `tiergate token`.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Map, Value, json};

use crate::Result;

const AUDIENCE: &str = "maas-default-gateway-sa";
const TIER_NAMESPACE: &str = "maas-default-gateway-tier";

/// A folder for keys that only this user can read, and that goes when the tour does.
pub struct Scratch(PathBuf);

/// Who calls. Each user whose requests are counted has rows of its own, so that no row depends on another's.
pub struct Tokens {
    pub jland: String,
    pub grace: String,
    pub heidi: String,
    pub ivan: String,
    pub alice: String,
    pub bob: String,
    pub carol: String,
    pub dave: String,
    pub erin: String,
    pub frank: String,
    pub other_audience: String,
    pub expired: String,
    pub foreign: String,
    pub deleted: String,
    pub curl_premium: String,
    pub curl_free: String,
}

/// Mints tokens for the ServiceAccounts of a folder of manifests.
struct Mint<'a> {
    tiergate: &'a Path,
    key: PathBuf,
    manifests: PathBuf,
}

// === impl Scratch ===

impl Scratch {
    pub fn create() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("tiergate-tour-{}", std::process::id()));
        // Fails when it is there already: then it is not ours.
        DirBuilder::new().mode(0o700).create(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.0);
    }
}

// === impl Tokens ===

impl Tokens {
    /// Makes keys in `scratch` and mints all tokens; also returns the JWKS that tiergate is to trust.
    pub fn mint(tiergate: &Path, manifests: &Path, scratch: &Path) -> Result<(Self, PathBuf)> {
        let (key, jwks) = make_keys(tiergate, &scratch.join("keys"))?;
        let (foreign_key, _) = make_keys(tiergate, &scratch.join("foreign-keys"))?;
        let ours = Mint { tiergate, key, manifests: manifests.to_owned() };
        let foreign = Mint { tiergate, key: foreign_key, manifests: manifests.to_owned() };
        let past = Mint {
            tiergate,
            key: ours.key.clone(),
            manifests: with_deleted_user(manifests, &scratch.join("manifests"))?,
        };
        let tokens = Self {
            jland: ours.token("jland-78028f6d", "premium", AUDIENCE)?,
            grace: ours.token("grace-9be105d3", "premium", AUDIENCE)?,
            heidi: ours.token("heidi-3a67c2f1", "premium", AUDIENCE)?,
            ivan: ours.token("ivan-e85d40b9", "enterprise", AUDIENCE)?,
            alice: ours.token("alice-12345678", "free", AUDIENCE)?,
            bob: ours.token("bob-2b9f1c07", "free", AUDIENCE)?,
            carol: ours.token("carol-7d20e4aa", "free", AUDIENCE)?,
            dave: ours.token("dave-51c8be93", "free", AUDIENCE)?,
            erin: ours.token("erin-0fa3d6b2", "free", AUDIENCE)?,
            frank: ours.token("frank-c4417e58", "free", AUDIENCE)?,
            other_audience: ours.token("jland-78028f6d", "premium", "somebody-else")?,
            expired: ours.expired("jland-78028f6d", "premium")?,
            foreign: foreign.token("jland-78028f6d", "premium", AUDIENCE)?,
            deleted: past.token("mallory-6d1c09f5", "premium", AUDIENCE)?,
            curl_premium: ours.token("judy-14f2a9d0", "premium", AUDIENCE)?,
            curl_free: ours.token("kevin-a83b5e6c", "free", AUDIENCE)?,
        };
        Ok((tokens, jwks))
    }
}

// === impl Mint ===

impl Mint<'_> {
    fn token(&self, name: &str, tier: &str, audience: &str) -> Result<String> {
        let mut command = Command::new(self.tiergate);
        command.args(["token", "create", name, "--namespace", &format!("{TIER_NAMESPACE}-{tier}")]);
        command.args(["--audience", audience, "--duration", "1h"]);
        command.arg("--signing-key").arg(&self.key).arg("--manifests").arg(&self.manifests);
        Ok(output(&mut command)?.trim().to_owned())
    }

    /// No one mints tokens of the past, so a good one gets earlier dates and a new signature with the same key.
    fn expired(&self, name: &str, tier: &str) -> Result<String> {
        let token = self.token(name, tier, AUDIENCE)?;
        let header = jsonwebtoken::decode_header(&token)?;
        let claims = token.split('.').nth(1).ok_or("a token without claims")?;
        let mut claims: Map<String, Value> = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims)?)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        for (claim, ago) in [("iat", 7200), ("nbf", 7200), ("exp", 3600)] {
            claims.insert(claim.to_owned(), json!(now - ago));
        }
        let key = fs::read(&self.key)?;
        let key = match header.alg {
            Algorithm::ES256 => EncodingKey::from_ec_pem(&key)?,
            _ => EncodingKey::from_rsa_pem(&key)?,
        };
        Ok(jsonwebtoken::encode(&header, &claims, &key)?)
    }
}

/// Makes a signing key; returns its file and that of its JWKS.
fn make_keys(tiergate: &Path, folder: &Path) -> Result<(PathBuf, PathBuf)> {
    output(Command::new(tiergate).args(["token", "keys"]).arg(folder))?;
    Ok((folder.join("signing-key.pem"), folder.join("jwks.json")))
}

/// A copy of the manifests from a time when one more user was there.
fn with_deleted_user(manifests: &Path, copy: &Path) -> Result<PathBuf> {
    fs::create_dir(copy)?;
    for entry in fs::read_dir(manifests)? {
        let entry = entry?;
        fs::copy(entry.path(), copy.join(entry.file_name()))?;
    }
    let namespace = format!("{TIER_NAMESPACE}-premium");
    let user =
        format!("apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: mallory-6d1c09f5, namespace: {namespace}}}\n");
    fs::write(copy.join("deleted.yaml"), user)?;
    Ok(copy.to_owned())
}

/// What a command prints; what it complains about, if it fails.
pub fn output(command: &mut Command) -> Result<String> {
    let described = format!("{command:?}");
    let output = command.output().map_err(|error| format!("{described}: {error}"))?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(format!("{described}: {}: {complaint}", output.status).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}
