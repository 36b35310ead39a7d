//! The tour's users and their tokens.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Map, Value, json};

use crate::Result;
use crate::processes::output;
use crate::source::{Account, Source};

const AUDIENCE: &str = "maas-default-gateway-sa";

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
    pub lena: String,
    pub mona: String,
    pub other_audience: String,
    pub expired: String,
    pub foreign: String,
    pub deleted: String,
    pub curl_premium: String,
    pub curl_free: String,
}

// === impl Tokens ===

impl Tokens {
    /// Mints all tokens; a key that nobody trusts is made in `scratch`.
    pub fn mint(source: &Source, tiergate: &Path, scratch: &Path) -> Result<Self> {
        let valid = |name, tier| source.token(Account { name, tier }, AUDIENCE);
        let jland = Account { name: "jland-78028f6d", tier: "premium" };
        let mallory = Account { name: "mallory-6d1c09f5", tier: "premium" };
        let (foreign_key, _) = make_keys(tiergate, scratch, "foreign-keys")?;
        Ok(Self {
            jland: source.token(jland, AUDIENCE)?,
            grace: valid("grace-9be105d3", "premium")?,
            heidi: valid("heidi-3a67c2f1", "premium")?,
            ivan: valid("ivan-e85d40b9", "enterprise")?,
            alice: valid("alice-12345678", "free")?,
            bob: valid("bob-2b9f1c07", "free")?,
            carol: valid("carol-7d20e4aa", "free")?,
            dave: valid("dave-51c8be93", "free")?,
            erin: valid("erin-0fa3d6b2", "free")?,
            frank: valid("frank-c4417e58", "free")?,
            lena: valid("lena-6e8d2c40", "free")?,
            mona: valid("mona-5c0e91d7", "enterprise")?,
            other_audience: source.token(jland, "somebody-else")?,
            expired: expired(&source.token(jland, AUDIENCE)?, &source.signing_key())?,
            foreign: signed_anew(&source.token(jland, AUDIENCE)?, &foreign_key, |_| ())?,
            deleted: source.token_of_deleted(mallory, AUDIENCE)?,
            curl_premium: valid("judy-14f2a9d0", "premium")?,
            curl_free: valid("kevin-a83b5e6c", "free")?,
        })
    }
}

/// No one mints tokens of the past, so a good one gets earlier dates and a new signature with the same key.
fn expired(token: &str, key: &Path) -> Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    signed_anew(token, key, |claims| {
        for (claim, ago) in [("iat", 7200), ("nbf", 7200), ("exp", 3600)] {
            claims.insert(claim.to_owned(), json!(now - ago));
        }
    })
}

/// The token with changed claims and the signature of `key`, under the name of the key that it had.
fn signed_anew(token: &str, key: &Path, change: impl FnOnce(&mut Map<String, Value>)) -> Result<String> {
    let header = jsonwebtoken::decode_header(token)?;
    let claims = token.split('.').nth(1).ok_or("a token without claims")?;
    let mut claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims)?)?;
    change(&mut claims);
    let key = fs::read(key)?;
    let key = match header.alg {
        Algorithm::ES256 => EncodingKey::from_ec_pem(&key)?,
        _ => EncodingKey::from_rsa_pem(&key)?,
    };
    Ok(jsonwebtoken::encode(&header, &claims, &key)?)
}

/// Makes a signing key in a new folder of `scratch`; returns its file and that of its JWKS.
pub fn make_keys(tiergate: &Path, scratch: &Path, name: &str) -> Result<(PathBuf, PathBuf)> {
    // By a relative path: should the tour be killed meanwhile, this could make `scratch` anew after it was removed.
    output(Command::new(tiergate).args(["token", "keys", name]).current_dir(scratch))?;
    let folder = scratch.join(name);
    Ok((folder.join("signing-key.pem"), folder.join("jwks.json")))
}
