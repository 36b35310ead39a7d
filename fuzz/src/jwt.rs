//! Tokens. The input is a token as it is, or its making: a header, a line break, claims, a line break, and how it is
//! signed: `es256`, `rs256` (the keys of the JWKS), `stranger`, `hmac` (with the public keys), or the signature itself.
//!
//! No corpus holds a key: they are made anew by each process. `@es256` and `@rs256` in a header stand for their ids.

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use serde_json::Value;
use tiergate::args::{KeyAlgorithm, Keys};
use tiergate::clock::Nanos;
use tiergate::identity::{Authority, Credentials, Identities, Remember, ServiceAccounts};
use tiergate::request::BearerToken;
use tiergate::rules::{AuthRules, Reviewer};

use super::world::run;

const ISSUER: &str = "https://kubernetes.default.svc";

struct Key {
    signing: EncodingKey,
    algorithm: Algorithm,
    id: String,
    jwk: Value,
}

static ES256: LazyLock<Key> = LazyLock::new(|| Key::new("es256"));
static RS256: LazyLock<Key> = LazyLock::new(|| Key::new("rs256"));
static STRANGER: LazyLock<Key> = LazyLock::new(|| Key::new("es256"));
static JWKS: LazyLock<String> = LazyLock::new(|| serde_json::json!({"keys": [ES256.jwk, RS256.jwk]}).to_string());

/// What is accepted was signed by a key of the set, by that key's algorithm, and says what the identity says.
pub fn jwt(data: &[u8]) -> &'static str {
    let Ok(text) = str::from_utf8(data) else { return "not text" };
    let making: Vec<&str> = text.splitn(3, '\n').collect();
    let (token, signed) = match making.as_slice() {
        [header, claims, how] => {
            let header = header.replace("@es256", &ES256.id).replace("@rs256", &RS256.id);
            let (token, by) = sign(&header, claims, how.trim_end());
            (token, by.map(|key| (header, *claims, key)))
        }
        _ => (text.to_owned(), None),
    };
    // The gate refuses the rest before it asks (see `request`); the review bears it all the same.
    let identities = || {
        let remember = Remember { bytes: 40_000, ..Remember::default() };
        Identities::new(Authority::from_jwks(&JWKS, ISSUER).unwrap(), remember)
    };
    let (rules, accounts) = (AuthRules::default(), ServiceAccounts::default());
    let (bearer, reviewer) = (BearerToken::new(&token), &Reviewer::Kubernetes);
    let credentials = Credentials { token: bearer, reviewer, rules: &rules, host: "", peer: None };
    let until = tokio::time::Instant::now();
    let review = run(identities().review(&credentials, &accounts, Nanos(0), until));
    let again = run(identities().review(&credentials, &accounts, Nanos(0), until));
    match (review.value, again.value) {
        (Ok(identity), Ok(_)) => {
            let (header, claims, key) = signed.expect("what is accepted was signed by a key of the set");
            let (header, claims): (Value, Value) =
                (serde_json::from_str(&header).unwrap(), serde_json::from_str(claims).unwrap());
            assert_eq!(header["alg"], format!("{:?}", key.algorithm));
            assert!(header.get("kid").is_none_or(|id| id.is_null() || *id == key.id) && header["crit"].is_null());
            assert_eq!((&claims["iss"], &claims["sub"]), (&ISSUER.into(), &(*identity.user).into()));
            let account = &claims["kubernetes.io"];
            let (namespace, name) = (&account["namespace"], &account["serviceaccount"]["name"]);
            let [namespace, name] = [namespace, name].map(|text| text.as_str().unwrap());
            assert_eq!(*identity.user, *format!("system:serviceaccount:{namespace}:{name}"));
            let audiences = match &claims["aud"] {
                Value::String(one) => vec![one.clone()],
                many => many.as_array().unwrap().iter().map(|one| one.as_str().unwrap().to_owned()).collect(),
            };
            assert_eq!(identity.audiences, audiences);
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
            assert!(claims["exp"].as_f64().unwrap() + 6.0 > now as f64, "{claims}");
            assert!(claims["nbf"].as_f64().is_none_or(|not_before| not_before < now as f64 + 6.0), "{claims}");
            "accepted"
        }
        (Err(denial), Err(other)) => {
            assert_eq!(denial, other);
            // Of a short one, a part may be a word of the message.
            let said = format!("{denial:?}");
            assert!(token.len() < 40 || !said.contains(&*token), "{said}");
            denial.code.as_str()
        }
        _ => panic!("two reviews of one token differ"),
    }
}

/// The token, and the key of the set that signed it, if one did.
fn sign(header: &str, claims: &str, how: &str) -> (String, Option<&'static Key>) {
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let by = |key: &Key| crypto::sign(signed.as_bytes(), &key.signing, key.algorithm).unwrap();
    let (signature, key) = match how {
        "es256" => (by(&ES256), Some(&*ES256)),
        "rs256" => (by(&RS256), Some(&*RS256)),
        "stranger" => (by(&STRANGER), None),
        "hmac" => {
            let secret = EncodingKey::from_secret(RS256.jwk["n"].as_str().unwrap().as_bytes());
            (crypto::sign(signed.as_bytes(), &secret, Algorithm::HS256).unwrap(), None)
        }
        signature => (signature.to_owned(), None),
    };
    (format!("{signed}.{signature}"), key)
}

// === impl Key ===

impl Key {
    fn new(name: &'static str) -> Self {
        let (kind, algorithm) = match name {
            "rs256" => (KeyAlgorithm::Rs256, Algorithm::RS256),
            _ => (KeyAlgorithm::Es256, Algorithm::ES256),
        };
        let dir = std::env::temp_dir().join(format!("tiergate-fuzz-{}", uuid::Uuid::new_v4()));
        tiergate::token::keys(&Keys { dir: dir.clone(), algorithm: kind, force: false }, &mut Vec::new()).unwrap();
        let read = |name| std::fs::read_to_string(dir.join(name)).unwrap();
        let (pem, jwks) = (read("signing-key.pem"), read("jwks.json"));
        std::fs::remove_dir_all(&dir).unwrap();
        let jwk: Value = serde_json::from_str::<Value>(&jwks).unwrap()["keys"][0].take();
        let signing = match algorithm {
            Algorithm::RS256 => EncodingKey::from_rsa_pem(pem.as_bytes()).unwrap(),
            _ => EncodingKey::from_ec_pem(pem.as_bytes()).unwrap(),
        };
        Key { signing, algorithm, id: jwk["kid"].as_str().unwrap().to_owned(), jwk }
    }
}
