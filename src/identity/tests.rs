use serde_json::json;

use super::*;
use crate::cache::AnswerSource;
use crate::denial::Code;
use crate::test_util::{AUDIENCE, ES256, ISSUER, RS256, STRANGER, claims, compile_text};

const ACCOUNT: &str = "
apiVersion: v1
kind: ServiceAccount
metadata: {name: alice, namespace: tier-free}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: bob, namespace: tier-free, uid: 0b0b}
";

fn authority() -> Authority {
    Authority::from_jwks(&ES256.jwks, ISSUER).unwrap()
}

fn credentials<'a>(token: &'a str, rules: &'a AuthRules) -> Credentials<'a> {
    Credentials { token: BearerToken::new(token), reviewer: &Reviewer::Kubernetes, rules, host: "", peer: None }
}

/// Reviews `token` at the start of the process.
fn reviewed(identities: &Identities, token: &str) -> Answer<Arc<Identity>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let (rules, accounts) = (AuthRules::default(), ServiceAccounts::default());
    let credentials = credentials(token, &rules);
    runtime.block_on(async { identities.review(&credentials, &accounts, Nanos(0), Instant::now()).await })
}

fn recalled(identities: &Identities, token: &str, now: Nanos) -> Option<Answer<Arc<Identity>>> {
    identities.recall(&credentials(token, &AuthRules::default()), now)
}

fn is_hit(answer: Option<&Answer<Arc<Identity>>>) -> bool {
    matches!(answer, Some(Answer { value: Ok(_), source: AnswerSource::Hit }))
}

fn review(authority: Authority, token: &str) -> Result<Arc<Identity>, Code> {
    let identities = Identities::new(authority, Remember::default());
    let review = reviewed(&identities, token);
    let recalled = recalled(&identities, token, Nanos(0));
    assert_eq!(review.source, AnswerSource::Fetched, "keys are always there");
    match review.value {
        Ok(identity) => {
            let is_hit = |answer: &Answer<Arc<Identity>>| {
                let same = matches!(&answer.value, Ok(other) if Arc::ptr_eq(&identity, other));
                same && answer.source == AnswerSource::Hit
            };
            let remembered = recalled.as_ref().is_some_and(is_hit);
            assert!(remembered || identity.expires == Nanos(0), "{recalled:?}");
            Ok(identity)
        }
        Err(denial) => {
            let remembered =
                matches!(recalled, Some(Answer { value: Err(other), source: AnswerSource::Hit }) if other == denial);
            assert!(remembered != (denial.code == Code::TokenNotYet), "what is not valid yet may be so in a moment");
            Err(denial.code)
        }
    }
}

fn refused(token: &str) -> Code {
    review(authority(), token).unwrap_err()
}

#[test]
fn a_service_account_is_named_as_the_api_server_names_it() {
    let identity = review(authority(), &ES256.sign(&claims("tier-free", "alice"))).unwrap();
    assert_eq!(&*identity.user, "system:serviceaccount:tier-free:alice");
    assert_eq!(identity.groups, ["system:serviceaccounts", "system:serviceaccounts:tier-free", "system:authenticated"]);
    assert_eq!(identity.audiences, [AUDIENCE]);
    let user = &identity.object["user"];
    assert_eq!(user["username"], "system:serviceaccount:tier-free:alice");
    assert_eq!(user["extra"], json!({"authentication.kubernetes.io/credential-id": ["JTI=7c3d"]}));
    assert_eq!(identity.object["authenticated"], true);
}

#[test]
fn rs256_and_es256_are_accepted_side_by_side() {
    let mut set: Value = serde_json::from_str(&ES256.jwks).unwrap();
    let other: Value = serde_json::from_str(&RS256.jwks).unwrap();
    set["keys"].as_array_mut().unwrap().extend(other["keys"].as_array().unwrap().clone());
    for key in [&*ES256, &*RS256] {
        let authority = Authority::from_jwks(&set.to_string(), ISSUER).unwrap();
        assert!(review(authority, &key.sign(&claims("tier-free", "alice"))).is_ok(), "{:?}", key.algorithm);
    }
}

#[test]
fn each_fault_of_a_token_has_its_code() {
    let now = unix_seconds();
    let with = |change: fn(&mut Claims, u64)| {
        let mut claims = claims("tier-free", "alice");
        change(&mut claims, now);
        ES256.sign(&claims)
    };
    for (what, token, code) in [
        ("expired", with(|c, now| c.exp = now - 60), Code::TokenExpired),
        ("expired beyond the leeway", with(|c, now| c.exp = now - 7), Code::TokenExpired),
        ("not yet valid", with(|c, now| c.nbf = Some(now + 60)), Code::TokenNotYet),
        ("another issuer", with(|c, _| c.iss = "https://elsewhere".to_owned()), Code::TokenIssuer),
        ("no ServiceAccount", with(|c, _| c.kubernetes = None), Code::TokenRejected),
        ("a subject of another name", with(|c, _| c.sub = "system:serviceaccount:x:y".to_owned()), Code::TokenRejected),
        ("anonymous", with(|c, _| c.sub = "system:anonymous".to_owned()), Code::TokenRejected),
        ("a stranger's key", STRANGER.sign(&claims("tier-free", "alice")), Code::TokenSignature),
        ("one byte", "x".to_owned(), Code::TokenMalformed),
        ("three empty parts", "..".to_owned(), Code::TokenMalformed),
        ("characters that no token has", "a\"b;c.d\\e:f.g".to_owned(), Code::TokenMalformed),
    ] {
        assert_eq!(refused(&token), code, "{what}");
    }
    assert!(review(authority(), &with(|c, now| c.exp = now - 2)).is_ok(), "clocks differ by a little");
}

/// Whether the account is there changes, and is looked at for every request: no review remembers it.
#[test]
fn an_account_is_gone_when_it_is_not_there_or_is_another() {
    let policy = compile_text(ACCOUNT);
    let gone = |name: &str, token: &Claims| {
        let identity = review(authority(), &ES256.sign(token)).unwrap();
        let account = identity.service_account.as_ref().unwrap();
        assert_eq!(account.name, name);
        account.check(&policy.accounts, false).err().map(|denial| denial.code)
    };
    assert_eq!(gone("alice", &claims("tier-free", "alice")), None);
    assert_eq!(gone("carol", &claims("tier-free", "carol")), Some(Code::TokenSubjectGone));
    assert_eq!(gone("bob", &claims("tier-free", "bob")), Some(Code::TokenSubjectGone), "its manifest has another uid");
}

#[test]
fn an_extension_that_must_be_understood_is_refused() {
    let header = jsonwebtoken::Header {
        kid: Some(ES256.id.clone()),
        crit: Some(vec!["b64".to_owned()]),
        ..jsonwebtoken::Header::new(ES256.algorithm)
    };
    let token = jsonwebtoken::encode(&header, &claims("tier-free", "alice"), &ES256.encoding()).unwrap();
    assert_eq!(refused(&token), Code::TokenRejected);
}

#[test]
fn the_key_decides_the_algorithm_and_never_the_token() {
    use base64::Engine;
    let encode = |value: &Value| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(value.to_string());
    let body = encode(&serde_json::to_value(claims("tier-free", "alice")).unwrap());
    let none = encode(&json!({"alg": "none", "typ": "JWT"}));
    for token in [format!("{none}.{body}."), format!("{none}.{body}"), format!("{none}.{body}.AAAA")] {
        assert!(matches!(refused(&token), Code::TokenRejected | Code::TokenMalformed), "{token}");
    }
    // HMAC with the public key as its secret.
    let header = jsonwebtoken::Header { kid: Some(ES256.id.clone()), ..Default::default() };
    let secret = jsonwebtoken::EncodingKey::from_secret(ES256.jwks.as_bytes());
    let forged = jsonwebtoken::encode(&header, &claims("tier-free", "alice"), &secret).unwrap();
    assert_eq!(refused(&forged), Code::TokenSignature);
    // A good token with one byte of its signature changed, and with another payload.
    let good = ES256.sign(&claims("tier-free", "alice"));
    let (rest, signature) = good.rsplit_once('.').unwrap();
    let other = if signature.starts_with('A') { 'B' } else { 'A' };
    assert_eq!(refused(&format!("{rest}.{other}{}", signature.get(1..).unwrap())), Code::TokenSignature);
    let header = rest.split_once('.').unwrap().0;
    let payload = encode(&serde_json::to_value(claims("tier-free", "bob")).unwrap());
    assert_eq!(refused(&format!("{header}.{payload}.{signature}")), Code::TokenSignature);
    assert_eq!(refused(&ES256.sign(&json!({"deep": 1}))), Code::TokenMalformed);
}

#[test]
fn a_key_set_without_a_usable_key_is_refused() {
    for (jwks, message) in [
        ("{}", "is not a JSON Web Key Set"),
        ("{\"keys\": []}", "holds no key"),
        ("{\"keys\": [{\"kty\": \"oct\", \"k\": \"AAAA\"}]}", "holds no key"),
    ] {
        let error = Authority::from_jwks(jwks, ISSUER).unwrap_err().to_string();
        assert!(error.contains(message), "{jwks}: {error}");
    }
}

#[test]
fn an_identity_is_never_remembered_past_its_token() {
    let identities =
        Identities::new(authority(), Remember { identities: Duration::from_secs(600), ..Remember::default() });
    for (lifetime, kept) in [(30, 30), (3600, 600)] {
        let mut claims = claims("tier-free", "alice");
        claims.exp = unix_seconds() + lifetime;
        let text = ES256.sign(&claims);
        let _ = reviewed(&identities, &text);
        let after = |seconds: u64| recalled(&identities, &text, Nanos::from(Duration::from_secs(seconds)));
        assert!(is_hit(after(kept - 2).as_ref()), "{lifetime}");
        assert!(after(kept + 1).is_none(), "{lifetime}");
    }
}

#[test]
fn tokens_that_differ_only_in_case_are_two_tokens() {
    let identities = Identities::new(authority(), Remember::default());
    let good = ES256.sign(&claims("tier-free", "alice"));
    let _ = reviewed(&identities, &good);
    assert!(recalled(&identities, &good, Nanos(0)).is_some());
    assert!(recalled(&identities, &good.to_lowercase(), Nanos(0)).is_none());
}

#[test]
fn identities_are_bounded_by_what_they_take() {
    const BYTES: u64 = 1 << 20;
    for (audiences, least, most) in [(1, 200, 400), (100, 50, 150)] {
        let identities = Identities::new(authority(), Remember { bytes: BYTES, ..Remember::default() });
        for n in 0..500 {
            let mut claims = claims("tier-free", "alice");
            claims.jti = Some(format!("{audiences} {n}"));
            claims.aud = (0..audiences).map(|n| format!("https://audience-{n}.example.com")).collect();
            let review = reviewed(&identities, &ES256.sign(&claims));
            assert!(review.value.is_ok());
        }
        assert!((least..most).contains(&identities.len()), "{} of {audiences} audiences", identities.len());
        assert!(identities.cache.weight() <= BYTES + BYTES / 8);
    }
}

#[test]
fn a_flood_of_junk_moves_no_identity_out() {
    let identities = Identities::new(authority(), Remember { bytes: 40_000, ..Remember::default() });
    let good = ES256.sign(&claims("tier-free", "alice"));
    let _ = reviewed(&identities, &good);
    for n in 0..50_000 {
        let junk = format!("junk{n}");
        let _ = reviewed(&identities, &junk);
    }
    assert!(is_hit(recalled(&identities, &good, Nanos(0)).as_ref()));
    assert!(identities.cache.failures() <= FAILURES);
}
