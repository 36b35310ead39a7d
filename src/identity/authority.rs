//! tiergate as the authority: ServiceAccount tokens as the API server mints them, verified against a JWKS.
//!
//! Source: Kubernetes `pkg/serviceaccount/claims.go` (claims) and `pkg/serviceaccount/util.go` (user name, groups, extra).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{Jwk, JwkSet, KeyAlgorithm};
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation, decode, decode_header};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Identity, ServiceAccountRef};
use crate::clock::Nanos;
use crate::denial::{Code, Denial};
use crate::request::BearerToken;

/// Clocks of one cluster differ by less; the library's default of 60 s would keep dead tokens alive.
const LEEWAY: Duration = Duration::from_secs(5);

/// Verifies tokens of one issuer.
#[derive(Debug)]
pub struct Authority {
    issuer: String,
    keys: Vec<IssuerKey>,
}

struct IssuerKey {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

/// Who says to have signed a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signer {
    /// One of the keys.
    Known,
    /// The issuer, with a key that is not known.
    Unknown,
    Foreign,
}

/// What a token lives with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenBinding {
    /// Its ServiceAccount alone.
    ToNothingElse,
    /// A Pod, Secret or Node too, and only the API server knows whether that is there.
    ToAnother,
}

#[derive(Deserialize)]
struct Issuer {
    iss: String,
}

/// Why a JWKS cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("is not a JSON Web Key Set: {}", without_contents(.0))]
    NotJwks(serde_json::Error),
    #[error("key {0} cannot be used: {1}")]
    Key(String, jsonwebtoken::errors::Error),
    #[error("holds no key for RS256 or ES256")]
    NoKey,
}

/// serde's words about a value would repeat it, and it may be a secret that stands where keys should.
fn without_contents(error: &serde_json::Error) -> String {
    let (line, column) = (error.line(), error.column());
    match error.is_data() {
        true => format!("a member is missing or another one, at line {line} column {column}"),
        false => error.to_string(),
    }
}

/// The claims of a ServiceAccount token.
#[derive(Debug, Serialize, Deserialize)]
pub struct Claims {
    pub iss: String,
    pub sub: String,
    #[serde(deserialize_with = "one_or_many")]
    pub aud: Vec<String>,
    /// Seconds since 1970.
    pub exp: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iat: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: Option<KubernetesClaims>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct KubernetesClaims {
    pub namespace: String,
    pub serviceaccount: ObjectClaims,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<ObjectClaims>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<ObjectClaims>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<ObjectClaims>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct ObjectClaims {
    pub name: String,
    pub uid: String,
}

// === impl Authority ===

impl Authority {
    /// Reads a JWKS. Keys of other algorithms than RS256 and ES256 are left out.
    ///
    /// # Errors
    ///
    /// It is no JWKS, a key is malformed, or no key is left.
    pub fn from_jwks(jwks: &str, issuer: &str) -> Result<Self, AuthorityError> {
        let set: JwkSet = serde_json::from_str(jwks).map_err(AuthorityError::NotJwks)?;
        let mut keys = Vec::new();
        for (at, jwk) in set.keys.iter().enumerate() {
            let Some(algorithm) = algorithm(jwk) else { continue };
            let id = jwk.common.key_id.clone();
            let name = id.clone().unwrap_or_else(|| format!("number {at}"));
            let key = DecodingKey::from_jwk(jwk).map_err(|error| AuthorityError::Key(name, error))?;
            keys.push(IssuerKey { id, algorithm, key });
        }
        if keys.is_empty() {
            return Err(AuthorityError::NoKey);
        }
        Ok(Authority { issuer: issuer.to_owned(), keys })
    }

    /// Accepts no token.
    #[must_use]
    pub fn without_keys() -> Self {
        Authority { issuer: String::new(), keys: Vec::new() }
    }

    /// Verifies `token`: signature, issuer, times. The audience is the policy's to accept; that the ServiceAccount is there is
    /// looked at for every request, since it changes.
    pub(super) fn review(&self, token: &BearerToken<'_>, now: Nanos) -> Result<Identity, Denial> {
        self.claims(token)?.identity(now)
    }

    /// What `token` says, if its signature, issuer and times are good.
    pub(super) fn claims(&self, token: &BearerToken<'_>) -> Result<Claims, Denial> {
        let header = header(token)?;
        let mut denial = None;
        for key in self.keys.iter().filter(|key| key.fits(&header)) {
            match self.verify(token, key) {
                Ok(claims) => return Ok(claims),
                Err(error) => denial = Some(refusal(&error)),
            }
        }
        Err(denial.unwrap_or_else(|| self.foreign(token)))
    }

    /// Who says to have signed `token`.
    pub(super) fn signer(&self, token: &BearerToken<'_>) -> Result<Signer, Denial> {
        let header = header(token)?;
        let claims = jsonwebtoken::dangerous::insecure_decode::<Issuer>(token.secret());
        let claims = claims.map_err(|error| refusal(&error))?.claims;
        Ok(match self.keys.iter().any(|key| key.fits(&header)) {
            _ if claims.iss != self.issuer => Signer::Foreign,
            true => Signer::Known,
            false => Signer::Unknown,
        })
    }

    fn verify(&self, token: &BearerToken<'_>, key: &IssuerKey) -> Result<Claims, jsonwebtoken::errors::Error> {
        let mut validation = Validation::new(key.algorithm);
        validation.leeway = LEEWAY.as_secs();
        validation.validate_nbf = true;
        validation.validate_aud = false;
        validation.set_issuer(&[&self.issuer]);
        validation.set_required_spec_claims(&["exp", "iss", "sub"]);
        decode::<Claims>(token.secret(), &key.key, &validation).map(|data| data.claims)
    }

    /// No key fits: a token of another issuer is called that, since the reader can do something about it.
    pub(super) fn foreign(&self, token: &BearerToken<'_>) -> Denial {
        match jsonwebtoken::dangerous::insecure_decode::<Issuer>(token.secret()) {
            Ok(data) if data.claims.iss != self.issuer => {
                Denial::new(Code::TokenIssuer, "the token is of another issuer")
                    .detail(format!("this gate accepts tokens of `{}`", self.issuer))
            }
            Ok(_) => Denial::new(Code::TokenSignature, "the token is signed by an unknown key"),
            Err(_) => malformed(token),
        }
    }
}

/// What OpenShift's tokens of users start with: they say nothing by themselves.
pub const OPENSHIFT: &str = "sha256~";

fn malformed(token: &BearerToken<'_>) -> Denial {
    let denial = Denial::new(Code::TokenMalformed, "the token is not a JSON Web Token");
    match token.secret().starts_with(OPENSHIFT) {
        true => denial.detail(
            "it is an OpenShift token (`sha256~…`), which only the API server can review: serve with --kubernetes and \
             --review-foreign",
        ),
        false => denial,
    }
}

fn header(token: &BearerToken<'_>) -> Result<Header, Denial> {
    let header = decode_header(token.secret()).map_err(|error| match error.kind() {
        ErrorKind::InvalidAlgorithmName => Denial::new(Code::TokenRejected, "the token's algorithm is not accepted"),
        _ => malformed(token),
    })?;
    // Extensions that must be understood (RFC 7515, section 4.1.11) are not.
    match header.crit {
        None => Ok(header),
        Some(_) => Err(Denial::new(Code::TokenRejected, "the token has an extension that is not understood")),
    }
}

/// When `token` says that it expires, in seconds since 1970; whoever signed it.
pub(super) fn expiry(token: &BearerToken<'_>) -> Option<u64> {
    #[derive(Deserialize)]
    struct Expiry {
        exp: u64,
    }
    jsonwebtoken::dangerous::insecure_decode::<Expiry>(token.secret()).ok().map(|data| data.claims.exp)
}

/// Whom `token` claims to be of, whoever signed it: for explanations, never for decisions. Its times are looked at as in a
/// review.
///
/// # Errors
///
/// It is no JSON Web Token, not of a ServiceAccount, not valid yet, or not any more.
pub fn believe(token: &BearerToken<'_>, now: Nanos) -> Result<Identity, Denial> {
    let claims = jsonwebtoken::dangerous::insecure_decode::<Claims>(token.secret());
    let claims = claims.map_err(|error| refusal(&error))?.claims;
    let (time, leeway) = (unix_seconds(), LEEWAY.as_secs());
    if claims.exp < time.saturating_sub(leeway) {
        return Err(refusal(&ErrorKind::ExpiredSignature.into()));
    }
    if claims.nbf.is_some_and(|from| from > time.saturating_add(leeway)) {
        return Err(refusal(&ErrorKind::ImmatureSignature.into()));
    }
    claims.identity(now)
}

// === impl Claims ===

impl Claims {
    /// The ServiceAccount that they name.
    pub(super) fn service_account(&self) -> Option<ServiceAccountRef> {
        let KubernetesClaims { namespace, serviceaccount: ObjectClaims { name, uid }, .. } =
            self.kubernetes.as_ref()?;
        Some(ServiceAccountRef { namespace: namespace.clone(), name: name.clone(), uid: uid.clone() })
    }

    pub(super) fn bound(&self) -> TokenBinding {
        let others = self.kubernetes.as_ref().map(|kubernetes| [&kubernetes.pod, &kubernetes.secret, &kubernetes.node]);
        match others {
            Some(others) if others.iter().all(|other| other.is_none()) => TokenBinding::ToNothingElse,
            _ => TokenBinding::ToAnother,
        }
    }

    /// The user behind these claims.
    ///
    /// # Errors
    ///
    /// They are not of a ServiceAccount.
    pub fn identity(self, now: Nanos) -> Result<Identity, Denial> {
        let rejected = || Denial::new(Code::TokenRejected, "the token is not of a ServiceAccount");
        let account = self.service_account().ok_or_else(rejected)?;
        let user = account.user();
        if self.sub != user {
            return Err(rejected());
        }
        let groups = account.groups();
        let mut extra = serde_json::Map::new();
        if let Some(jti) = self.jti {
            extra.insert("authentication.kubernetes.io/credential-id".to_owned(), json!([format!("JTI={jti}")]));
        }
        let left = self.exp.saturating_sub(unix_seconds());
        Ok(Identity {
            object: json!({
                "authenticated": true,
                "audiences": self.aud,
                "user": { "username": user, "uid": account.uid, "groups": groups, "extra": Value::Object(extra) },
            }),
            user: user.into(),
            uid: account.uid.clone(),
            groups,
            audiences: self.aud,
            scoped: false,
            service_account: Some(account),
            keep: Duration::MAX,
            expires: now.saturating_add(Duration::from_secs(left)),
        })
    }
}

/// The API server mints lists; other issuers write a single audience as a string (RFC 7519, section 4.1.3).
fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(audience) => vec![audience],
        OneOrMany::Many(audiences) => audiences,
    })
}

fn algorithm(jwk: &Jwk) -> Option<Algorithm> {
    use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve};
    let natural = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => Algorithm::ES256,
        _ => return None,
    };
    match (jwk.common.key_algorithm, natural) {
        (None, natural) => Some(natural),
        (Some(KeyAlgorithm::RS256), Algorithm::RS256) => Some(Algorithm::RS256),
        (Some(KeyAlgorithm::ES256), Algorithm::ES256) => Some(Algorithm::ES256),
        _ => None,
    }
}

fn refusal(error: &jsonwebtoken::errors::Error) -> Denial {
    match error.kind() {
        ErrorKind::ExpiredSignature => Denial::new(Code::TokenExpired, "the token has expired"),
        ErrorKind::ImmatureSignature => Denial::new(Code::TokenNotYet, "the token is not valid yet"),
        ErrorKind::InvalidIssuer => Denial::new(Code::TokenIssuer, "the token is of another issuer"),
        ErrorKind::InvalidSignature => Denial::new(Code::TokenSignature, "the token's signature is wrong"),
        ErrorKind::MissingRequiredClaim(claim) => {
            Denial::new(Code::TokenRejected, "the token lacks a claim").detail(format!("claim `{claim}` is missing"))
        }
        _ => Denial::new(Code::TokenMalformed, "the token is not a JSON Web Token of a ServiceAccount"),
    }
}

pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl IssuerKey {
    /// INVARIANT: the key decides the algorithm, never the token: no `none`, no HMAC with a public key.
    fn fits(&self, header: &Header) -> bool {
        self.algorithm == header.alg && (header.kid.is_none() || self.id == header.kid)
    }
}

impl std::fmt::Debug for IssuerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("id", &self.id).field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}
