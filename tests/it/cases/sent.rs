//! Requests as they are sent, and what comes back.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::Value;
use tiergate::args::KeyAlgorithm;
use tiergate::identity::{Claims, KubernetesClaims, ObjectClaims};
use tiergate::policy::derived_uid;

use super::table::{Caller, Case, Signer, Table};
use crate::support::{Folder, KEYS};

/// A request.
pub(super) struct Sent {
    pub(super) method: String,
    pub(super) path: String,
    /// As Envoy makes it.
    pub(super) arrives: String,
    pub(super) host: String,
    /// The same name twice is two headers.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: String,
    /// What the answer costs, if it has a cost.
    pub(super) tokens: Option<u64>,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Got {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Value,
    /// The headers that the model received, if it was asked.
    pub(super) seen: Option<BTreeMap<String, String>>,
}

/// Where the reason of a refusal stands besides.
pub(super) const REASON: &str = "x-ext-auth-reason";
/// A prompt of three words, and so three tokens.
const PROMPT: u64 = 3;

static STRANGER: LazyLock<Folder> = LazyLock::new(|| {
    let folder = Folder::new();
    let args = tiergate::args::Keys { dir: folder.0.clone(), algorithm: KeyAlgorithm::Es256, force: true };
    tiergate::token::keys(&args, &mut Vec::new()).unwrap();
    folder
});

// === impl Sent ===

impl Sent {
    pub(super) fn of(table: &Table, case: &Case) -> Self {
        let (method, path) = case.request.split_once(' ').expect("METHOD path");
        let token = |name: &str| {
            let caller = table.callers.get(name).unwrap_or_else(|| panic!("{}: no caller `{name}`", case.name));
            caller.token()
        };
        let mut headers = Vec::new();
        if let Some(caller) = &case.caller {
            headers.push(("authorization".to_owned(), format!("Bearer {}", token(caller))));
        }
        for (name, values) in &case.headers {
            for value in values.values() {
                // `{alice}` stands for her token.
                let named = table.callers.keys().filter(|name| value.contains(&format!("{{{name}}}")));
                let value = named.fold(value.clone(), |text, name| text.replace(&format!("{{{name}}}"), &token(name)));
                headers.push((name.clone(), value));
            }
        }
        let is_chat = method == "POST";
        let body = format!(
            r#"{{"messages":[{{"role":"user","content":"one two three"}}],"max_tokens":{}}}"#,
            case.tokens.saturating_sub(PROMPT)
        );
        if is_chat {
            headers.push(("content-type".to_owned(), "application/json".to_owned()));
        }
        Sent {
            method: method.to_owned(),
            path: path.to_owned(),
            arrives: case.arrives.clone().unwrap_or_else(|| path.to_owned()),
            host: case.host.clone().unwrap_or_else(|| table.host.clone()),
            headers,
            body: if is_chat { body } else { String::new() },
            tokens: is_chat.then_some(case.tokens),
        }
    }
}

// === impl Caller ===

impl Caller {
    fn token(&self) -> String {
        if let Some(token) = &self.token {
            return token.clone();
        }
        let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap();
        let at = |seconds: i64| u64::try_from(now + seconds).unwrap();
        let account = self.service_account.as_deref().map(|name| name.split_once('/').expect("namespace/name"));
        let audience = match self.audience.values() {
            [] => vec!["maas-default-gateway-sa".to_owned()],
            audiences => audiences.to_vec(),
        };
        let subject = account.map(|(namespace, name)| format!("system:serviceaccount:{namespace}:{name}"));
        self.sign(&Claims {
            iss: self.issuer.clone().unwrap_or_else(|| tiergate::args::DEFAULT_ISSUER.to_owned()),
            sub: subject.or_else(|| self.user.clone()).expect("a serviceAccount, a user or a token"),
            aud: audience,
            exp: at(self.expires_in),
            nbf: Some(at(self.valid_in)),
            iat: Some(at(self.valid_in)),
            jti: None,
            kubernetes: account.map(|(namespace, name)| KubernetesClaims {
                namespace: namespace.to_owned(),
                serviceaccount: ObjectClaims {
                    name: name.to_owned(),
                    uid: self.uid.clone().unwrap_or_else(|| derived_uid(namespace, name)),
                },
                ..KubernetesClaims::default()
            }),
        })
    }

    fn sign(&self, claims: &Claims) -> String {
        let read = |folder: &Folder, name: &str| std::fs::read_to_string(folder.0.join(name)).unwrap();
        let id = |folder: &Folder| {
            let set: JwkSet = serde_json::from_str(&read(folder, "jwks.json")).unwrap();
            set.keys[0].common.key_id.clone()
        };
        let (key, id) = match self.signed_by {
            Signer::Us => (&*KEYS, id(&KEYS)),
            Signer::Stranger => (&*STRANGER, id(&KEYS)),
            Signer::Unknown => (&*STRANGER, id(&STRANGER)),
            Signer::Nobody => {
                let parts = [br#"{"alg":"none","typ":"JWT"}"#.to_vec(), serde_json::to_vec(claims).unwrap(), vec![]];
                return parts.map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
            }
        };
        let header = Header { kid: id, ..Header::new(Algorithm::ES256) };
        let key = EncodingKey::from_ec_pem(read(key, "signing-key.pem").as_bytes()).unwrap();
        jsonwebtoken::encode(&header, claims, &key).unwrap()
    }
}

// === impl Got ===

impl Got {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut named = self.headers.iter().filter(|(other, _)| other == name);
        let first = named.next().map(|(_, value)| value.as_str());
        assert!(named.next().is_none(), "{name} stands there twice: {self:?}");
        first
    }

    /// The reason of a refusal: the body's, where it is ours.
    pub(super) fn code(&self) -> Option<&str> {
        let error = &self.body["error"];
        // Of a limit that is used up for long, `code` is what OpenAI's clients look for.
        let named = error["reason"].as_str().or_else(|| error["code"].as_str());
        named.or_else(|| self.header(REASON))
    }
}
