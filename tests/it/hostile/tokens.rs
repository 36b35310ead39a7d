//! Tokens that were made to be believed, and to be parsed.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use crate::support::KEYS;
use crate::wire::{check_request, http};

use super::{QWEN, World};

fn part(text: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(text)
}

fn key() -> EncodingKey {
    EncodingKey::from_ec_pem(&std::fs::read(KEYS.0.join("signing-key.pem")).unwrap()).unwrap()
}

/// The public key: its set as it is published, and its identifier.
fn public() -> (String, String) {
    let jwks = std::fs::read_to_string(KEYS.0.join("jwks.json")).unwrap();
    let set: Value = serde_json::from_str(&jwks).unwrap();
    (jwks, set["keys"][0]["kid"].as_str().unwrap().to_owned())
}

async fn code(world: &World, token: &str) -> String {
    let (status, code) = world.outcome(check_request(http(QWEN, Some(&format!("Bearer {token}"))))).await;
    assert_eq!(status, 401, "{code}: {token}");
    code
}

/// Tokens with a good caller's claims, forged in different ways.
fn forged(world: &World) -> Vec<(&'static str, String)> {
    let (jwks, kid) = public();
    let mut parts = world.token.split('.');
    let (_, body, signature) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
    let claims: Value = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(body).unwrap()).unwrap();
    let with = |header: Value, signature: &str| format!("{}.{body}.{signature}", part(&header.to_string()));
    let hmac = |secret: &[u8]| {
        let header = Header { kid: Some(kid.clone()), ..Header::new(Algorithm::HS256) };
        encode(&header, &claims, &EncodingKey::from_secret(secret)).unwrap()
    };
    let point: Value = serde_json::from_str::<Value>(&jwks).unwrap()["keys"][0].take();
    let signed = |header: Header| encode(&header, &claims, &key()).unwrap();
    let foreign = Header { kid: Some("../../keys".to_owned()), ..Header::new(Algorithm::ES256) };
    let crit = Header { kid: Some(kid.clone()), crit: Some(vec!["b64".to_owned()]), ..Header::new(Algorithm::ES256) };
    vec![
        ("none", with(json!({"alg": "none"}), "")),
        ("none, in capitals and with a signature", with(json!({"alg": "None", "kid": kid}), signature)),
        ("HS256 with the key set", hmac(jwks.as_bytes())),
        ("HS256 with the point", hmac(point["x"].as_str().unwrap().as_bytes())),
        ("HS256 with nothing", hmac(b"")),
        ("foreign kid", signed(foreign)),
        ("crit", signed(crit)),
        ("own key", with(json!({"alg": "ES256", "jwk": point, "jku": "http://127.0.0.1:1/"}), signature)),
        ("own idea of an algorithm: none given", with(json!({"kid": kid}), signature)),
        ("ten thousand groups", part(&json!({"alg": "ES256", "groups": vec!["g"; 10_000]}).to_string())),
    ]
}

/// None of those whose name starts like this is believed.
async fn refused(world: &World, kind: &str) {
    let forged: Vec<_> = forged(world).into_iter().filter(|(what, _)| what.starts_with(kind)).collect();
    assert!(!forged.is_empty(), "{kind}");
    for (what, token) in forged {
        let code = code(world, &token).await;
        let expected = ["TG-TOKEN-REJECTED", "TG-TOKEN-MALFORMED", "TG-TOKEN-SIGNATURE"];
        assert!(expected.contains(&code.as_str()), "{what}: {code}");
    }
}

pub(super) async fn a_token_with_alg_none_is_refused(world: &World) {
    refused(world, "none").await;
}

pub(super) async fn a_token_with_hs256_and_the_public_key_is_refused(world: &World) {
    refused(world, "HS256").await;
}

pub(super) async fn a_token_with_a_foreign_kid_is_refused(world: &World) {
    refused(world, "foreign kid").await;
}

pub(super) async fn a_token_with_crit_is_refused(world: &World) {
    refused(world, "crit").await;
}

pub(super) async fn a_token_that_brings_its_own_key_or_no_algorithm_is_refused(world: &World) {
    refused(world, "own").await;
}

pub(super) async fn a_token_with_ten_thousand_groups_is_refused(world: &World) {
    refused(world, "ten thousand groups").await;
}

pub(super) async fn json_of_a_thousand_levels_in_a_token_is_refused(world: &World) {
    let deep = |open: &str, close: &str| format!("{}1{}", open.repeat(1000), close.repeat(1000));
    for deep in [deep("[", "]"), deep("{\"a\":", "}")] {
        let header = part(&format!("{{\"alg\":\"ES256\",\"kid\":{deep}}}"));
        let unknown = part(&format!("{{\"alg\":\"ES256\",\"x\":{deep}}}"));
        let body = world.token.split('.').nth(1).unwrap();
        for header in [header, unknown] {
            let code = code(world, &format!("{header}.{body}.AAAA")).await;
            assert!(["TG-TOKEN-MALFORMED", "TG-TOKEN-SIGNATURE"].contains(&code.as_str()), "{code}");
        }
        // Signed by the right key, so that the claims are looked at.
        let header = Header { kid: Some(public().1), ..Header::new(Algorithm::ES256) };
        let claims = serde_json::value::RawValue::from_string(deep).unwrap();
        assert_eq!(code(world, &encode(&header, &claims, &key()).unwrap()).await, "TG-TOKEN-MALFORMED");
    }
}
