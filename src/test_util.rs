//! Worlds for unit tests: a folder in a string, callers with real tokens, requests.

mod scratch;
pub(crate) mod scripted;
#[allow(dead_code, reason = "tests of the process use what these do not")]
pub(crate) mod tier_service;

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, EncodingKey, Header};

pub(crate) use self::scratch::Scratch;

use crate::clock::Nanos;
use crate::gate::{Decision, DecisionSettings, EnforceLimits, Fallback, Gate, LimitsPath, Reserving, TierUnknown};
use crate::identity::{Authority, Claims, Identities, KubernetesClaims, ObjectClaims, Remember, unix_seconds};
use crate::limit::{Limits, Memory};
use crate::lint::compile;
use crate::manifest::Manifests;
use crate::policy::{Options, Policies, Policy, derived_uid};
use crate::request::{Body, Headers, OperatorModel, Request};
use crate::rules::TokenAdmission;
use crate::usage::Bounds;

/// Asserts that ten times as many take about ten times as long, and not a hundred times. `time` says how long some take. On a loaded
/// machine it may take a second look.
#[track_caller]
pub(crate) fn assert_linear(what: &str, number: usize, time: impl Fn(usize) -> Duration) {
    let mut looks = Vec::new();
    for _ in 0..3 {
        let (some, many) = (time(number), time(10 * number));
        if many < some * 50 {
            return;
        }
        looks.push((some, many));
    }
    panic!("{what}: {number}, and ten times as many, take {looks:?}");
}

pub(crate) const ISSUER: &str = "https://kubernetes.default.svc";
pub(crate) const AUDIENCE: &str = "maas-default-gateway-sa";

/// Two signing keys: one whose public half is in the JWKS, and a stranger's.
pub(crate) struct TestKey {
    pub(crate) pem: String,
    pub(crate) algorithm: Algorithm,
    pub(crate) id: String,
    pub(crate) jwks: String,
}

pub(crate) static ES256: LazyLock<TestKey> = LazyLock::new(|| TestKey::new(crate::args::KeyAlgorithm::Es256));
pub(crate) static RS256: LazyLock<TestKey> = LazyLock::new(|| TestKey::new(crate::args::KeyAlgorithm::Rs256));
pub(crate) static STRANGER: LazyLock<TestKey> = LazyLock::new(|| TestKey::new(crate::args::KeyAlgorithm::Es256));

impl TestKey {
    fn new(algorithm: crate::args::KeyAlgorithm) -> Self {
        let dir = std::env::temp_dir().join(format!("tiergate-test-{}", uuid::Uuid::new_v4()));
        let args = crate::args::Keys { dir: dir.clone(), algorithm, force: false };
        crate::token::keys(&args, &mut Vec::new()).unwrap();
        let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
        let (pem, jwks) = (read("signing-key.pem"), read("jwks.json"));
        std::fs::remove_dir_all(&dir).unwrap();
        let set: JwkSet = serde_json::from_str(&jwks).unwrap();
        TestKey {
            pem,
            algorithm: match algorithm {
                crate::args::KeyAlgorithm::Es256 => Algorithm::ES256,
                crate::args::KeyAlgorithm::Rs256 => Algorithm::RS256,
            },
            id: set.keys[0].common.key_id.clone().unwrap(),
            jwks,
        }
    }

    pub(crate) fn encoding(&self) -> EncodingKey {
        match self.algorithm {
            Algorithm::ES256 => EncodingKey::from_ec_pem(self.pem.as_bytes()).unwrap(),
            _ => EncodingKey::from_rsa_pem(self.pem.as_bytes()).unwrap(),
        }
    }

    pub(crate) fn sign(&self, claims: &impl serde::Serialize) -> String {
        let header = Header { kid: Some(self.id.clone()), ..Header::new(self.algorithm) };
        jsonwebtoken::encode(&header, claims, &self.encoding()).unwrap()
    }
}

/// The claims that the API server mints for a ServiceAccount.
pub(crate) fn claims(namespace: &str, name: &str) -> Claims {
    let now = unix_seconds();
    Claims {
        iss: ISSUER.to_owned(),
        sub: format!("system:serviceaccount:{namespace}:{name}"),
        aud: vec![AUDIENCE.to_owned()],
        exp: now + 3600,
        nbf: Some(now),
        iat: Some(now),
        jti: Some("7c3d".to_owned()),
        kubernetes: Some(KubernetesClaims {
            namespace: namespace.to_owned(),
            serviceaccount: ObjectClaims { name: name.to_owned(), uid: derived_uid(namespace, name) },
            ..KubernetesClaims::default()
        }),
    }
}

/// A token of the free, premium … caller `name`.
pub(crate) fn token(tier: &str, name: &str) -> String {
    ES256.sign(&claims(&format!("maas-default-gateway-tier-{tier}"), name))
}

/// The demo's manifests: the seeds' objects.
pub(crate) fn demo() -> Vec<(String, String)> {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/manifests");
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.display().to_string(), std::fs::read_to_string(&path).unwrap()))
        .collect();
    files.sort();
    files
}

pub(crate) fn compile_text(text: &str) -> Policy {
    compile_files(&[("test.yaml".to_owned(), text.to_owned())], &options())
}

pub(crate) fn compile_files(files: &[(String, String)], options: &Options) -> Policy {
    let read = || Manifests::read(files.iter().map(|(name, text)| (name.as_str(), text.as_str())));
    crate::source::on_large_stack(|| compile(read(), options)).unwrap()
}

pub(crate) fn options() -> Options {
    Options { grant_from_annotation: true, ..Options::default() }
}

pub(crate) fn settings() -> DecisionSettings {
    DecisionSettings {
        gateway: None,
        without_policy: Fallback::Refuse,
        without_limit: Fallback::Allow,
        shadow: false,
        limits_path: LimitsPath::default(),
        without_room: Fallback::Refuse,
        uncounted: Fallback::Allow,
        bounds: Bounds::default(),
        // Most tests report nothing.
        reserving: Reserving { admission: TokenAdmission::Positive, ..Reserving::default() },
        enforce_limits: EnforceLimits::Check,
        tier_unknown: TierUnknown::Next,
        stale_for: std::time::Duration::ZERO,
    }
}

pub(crate) fn gate(policy: Policy, settings: DecisionSettings) -> Gate {
    let identities = Identities::new(Authority::from_jwks(&ES256.jwks, ISSUER).unwrap(), Remember::default());
    let limits = Arc::new(Limits::in_memory(Memory::default()));
    Gate::new(Arc::new(Policies::new(policy)), identities, limits, settings)
}

/// A request, built fluently.
pub(crate) struct Call {
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) model: Option<String>,
    pub(crate) gateway: Option<String>,
    /// Where the gateway sends it along.
    pub(crate) body: Option<String>,
}

impl Call {
    /// A chat completion of a model in namespace `llm`.
    pub(crate) fn chat(model: &str) -> Self {
        Self::path(&format!("/llm/{model}/v1/chat/completions"))
    }

    pub(crate) fn path(path: &str) -> Self {
        Call { method: "POST", path: path.to_owned(), headers: HashMap::new(), model: None, gateway: None, body: None }
    }

    pub(crate) fn get(path: &str) -> Self {
        Call { method: "GET", ..Self::path(path) }
    }

    pub(crate) fn bearer(mut self, token: &str) -> Self {
        self.headers.insert("authorization".to_owned(), format!("Bearer {token}"));
        self
    }

    pub(crate) async fn on(&self, gate: &Gate, now: Nanos) -> Decision {
        let (path, query) = Request::split_path(&self.path);
        let request = Request {
            method: self.method,
            host: "127.0.0.1:10000",
            scheme: "http",
            path,
            query,
            headers: Headers::Map(&self.headers),
            gateway: self.gateway.as_deref(),
            listener: None,
            port: None,
            peer: None,
            sni: None,
            model: self.model.as_deref().map_or(OperatorModel::Unset, OperatorModel::Named),
            body: self.body.as_deref().map(|body| Body::whole(body.as_bytes())),
        };
        gate.check(&request, now).await
    }
}
