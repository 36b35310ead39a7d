//! `tiergate token`: keys and ServiceAccount tokens, where no API server makes them.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};

use crate::args::{Create, KeyAlgorithm, Keys};
use crate::identity::{Claims, KubernetesClaims, ObjectClaims, ServiceAccountRef, unix_seconds};
use crate::policy::derived_uid;
use crate::printable::printable_line;
use crate::source::{FolderError, read_folder};

/// Why a key or token cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("`{}`: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("`{}` is there already; --force replaces it, and its tokens are refused from then on", .0.display())]
    Exists(PathBuf),
    #[error("the key cannot be made")]
    Generate,
    #[error("`{}` is not a private key for ES256 or RS256, as `tiergate token keys` makes them", .0.display())]
    NotAKey(PathBuf),
    #[error("the token cannot be signed: {0}")]
    Sign(jsonwebtoken::errors::Error),
    #[error("ServiceAccount {namespace}/{name} is not in `{}`{}", dir.display(), hint.as_ref().map(|hint| format!("; did you mean {hint}?")).unwrap_or_default())]
    NoAccount { namespace: String, name: String, dir: PathBuf, hint: Option<String> },
    #[error("cannot print: {0}")]
    Output(io::Error),
    #[error(transparent)]
    Folder(#[from] FolderError),
}

/// Makes a signing key and its JWKS, and prints where they are.
///
/// # Errors
///
/// There is a key already, or the files cannot be written.
pub fn keys(args: &Keys, out: &mut impl Write) -> Result<(), TokenError> {
    let (key_path, jwks_path) = (args.dir.join("signing-key.pem"), args.dir.join("jwks.json"));
    fs::create_dir_all(&args.dir).map_err(|error| TokenError::Io { path: args.dir.clone(), error })?;
    if let Some(existing) = [&key_path, &jwks_path].into_iter().find(|path| path.exists() && !args.force) {
        return Err(TokenError::Exists(existing.clone()));
    }
    let (der, algorithm) = match args.algorithm {
        KeyAlgorithm::Es256 => (es256()?, Algorithm::ES256),
        KeyAlgorithm::Rs256 => (rs256()?, Algorithm::RS256),
    };
    let pem = pem::encode(&pem::Pem::new("PRIVATE KEY", der));
    let jwk = jwk(&encoding_key(pem.as_bytes(), algorithm).ok_or(TokenError::Generate)?, algorithm)?;
    let jwks = serde_json::to_string_pretty(&JwkSet { keys: vec![jwk] }).map_err(|_| TokenError::Generate)?;
    write_private(&key_path, pem.as_bytes(), args.force)?;
    fs::write(&jwks_path, jwks + "\n").map_err(|error| TokenError::Io { path: jwks_path.clone(), error })?;
    let printed = [&key_path, &jwks_path].map(|path| printable_line(&path.display().to_string()).into_owned());
    writeln!(out, "{}", printed.join("\n")).map_err(TokenError::Output)
}

fn es256() -> Result<Vec<u8>, TokenError> {
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
    pkcs8.map(|document| document.as_ref().to_vec()).map_err(|_| TokenError::Generate)
}

fn rs256() -> Result<Vec<u8>, TokenError> {
    let pair = aws_lc_rs::rsa::KeyPair::generate(KeySize::Rsa2048).map_err(|_| TokenError::Generate)?;
    let der: Pkcs8V1Der<'static> = pair.as_der().map_err(|_| TokenError::Generate)?;
    Ok(der.as_ref().to_vec())
}

/// The public half, named by its thumbprint (RFC 7638).
fn jwk(key: &EncodingKey, algorithm: Algorithm) -> Result<Jwk, TokenError> {
    let mut jwk = Jwk::from_encoding_key(key, algorithm).map_err(TokenError::Sign)?;
    jwk.common.key_id = Some(jwk.thumbprint(ThumbprintHash::SHA256).map_err(TokenError::Sign)?);
    jwk.common.public_key_use = Some(PublicKeyUse::Signature);
    Ok(jwk)
}

fn encoding_key(pem: &[u8], algorithm: Algorithm) -> Option<EncodingKey> {
    match algorithm {
        Algorithm::ES256 => EncodingKey::from_ec_pem(pem).ok(),
        _ => EncodingKey::from_rsa_pem(pem).ok(),
    }
}

/// Writes a file that only its owner can read, from its first byte on.
fn write_private(path: &Path, bytes: &[u8], replace: bool) -> Result<(), TokenError> {
    use std::os::unix::fs::OpenOptionsExt;
    let failed = |error| TokenError::Io { path: path.to_owned(), error };
    if replace && path.exists() {
        fs::remove_file(path).map_err(failed)?;
    }
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(bytes)).map_err(failed)
}

/// Mints a token, and prints it.
///
/// # Errors
///
/// The ServiceAccount is not in the folder, or the key cannot be used.
pub fn create(args: &Create, out: &mut impl Write) -> Result<(), TokenError> {
    let account = find_account(args)?;
    let pem = fs::read(&args.signing_key).map_err(|error| TokenError::Io { path: args.signing_key.clone(), error })?;
    let not_a_key = || TokenError::NotAKey(args.signing_key.clone());
    let (key, algorithm) = [Algorithm::ES256, Algorithm::RS256]
        .into_iter()
        .find_map(|algorithm| Some((encoding_key(&pem, algorithm)?, algorithm)))
        .ok_or_else(not_a_key)?;
    let mut header = Header::new(algorithm);
    header.kid = jwk(&key, algorithm).map_err(|_| not_a_key())?.common.key_id;
    let now = unix_seconds();
    let audiences = if args.audience.is_empty() { vec![args.issuer.clone()] } else { args.audience.clone() };
    let claims = Claims {
        iss: args.issuer.clone(),
        sub: account.user(),
        aud: audiences,
        exp: now.saturating_add(args.duration.as_secs().max(1)),
        nbf: Some(now),
        iat: Some(now),
        jti: Some(uuid::Uuid::new_v4().to_string()),
        kubernetes: Some(KubernetesClaims {
            namespace: account.namespace,
            serviceaccount: ObjectClaims { name: account.name, uid: account.uid },
            ..KubernetesClaims::default()
        }),
    };
    let token = encode(&header, &claims, &key).map_err(TokenError::Sign)?;
    writeln!(out, "{token}").and_then(|()| out.flush()).map_err(TokenError::Output)
}

fn find_account(args: &Create) -> Result<ServiceAccountRef, TokenError> {
    let manifests = read_folder(&args.manifests)?;
    let accounts = || manifests.service_accounts.iter().map(|account| &account.meta);
    let found = accounts().find(|meta| **meta.namespace() == *args.namespace && **meta.name() == *args.name);
    match found {
        Some(meta) => Ok(ServiceAccountRef {
            namespace: args.namespace.clone(),
            name: args.name.clone(),
            uid: meta.uid.clone().unwrap_or_else(|| derived_uid(&args.namespace, &args.name)),
        }),
        None => Err(TokenError::NoAccount {
            namespace: args.namespace.clone(),
            name: args.name.clone(),
            dir: args.manifests.clone(),
            hint: accounts().find(|meta| **meta.name() == *args.name).map(|meta| meta.object.path()),
        }),
    }
}
