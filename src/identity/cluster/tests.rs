use serde_json::{Value, json};

use super::*;
use crate::cache::AnswerSource;
use crate::clock::Nanos;
use crate::gate::Gate;
use crate::identity::{Identities, Remember};
use crate::policy::derived_uid;
use crate::test_util::scripted::{Answer, Scripted};
use crate::test_util::{
    AUDIENCE, Call, ES256, ISSUER, RS256, STRANGER, claims, compile_files, demo, gate, options, settings, token,
};

const TIER: &str = "maas-default-gateway-tier-free";
const NAME: &str = "alice-12345678";

fn discovery(keys: &str) -> [Answer; 2] {
    let keys = serde_json::from_str(keys).unwrap();
    [Answer::Json(200, json!({"issuer": ISSUER, "jwks_uri": "https://elsewhere"})), Answer::Json(200, keys)]
}

fn status(code: u16) -> Answer {
    Answer::Json(
        code,
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": "no", "reason": ""}),
    )
}

fn review(status: Value) -> Answer {
    Answer::Json(
        201,
        json!({"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "spec": {}, "status": status}),
    )
}

fn user(name: &str, audiences: &Value) -> Value {
    json!({
        "authenticated": true, "audiences": audiences,
        "user": {
            "username": name, "uid": derived_uid(TIER, NAME),
            "groups": ["system:serviceaccounts", format!("system:serviceaccounts:{TIER}"), "system:authenticated"],
            "extra": {"authentication.kubernetes.io/credential-id": ["JTI=1"]},
        },
    })
}

fn alice() -> String {
    format!("system:serviceaccount:{TIER}:{NAME}")
}

fn good() -> Answer {
    review(user(&alice(), &json!([AUDIENCE])))
}

/// A gate whose API server publishes these keys, and then answers so.
async fn world(keys: &str, answers: Vec<Answer>, foreign: bool) -> (Gate, Scripted, Clock) {
    let server = Scripted::start(discovery(keys).into_iter().chain(answers).collect()).await;
    let api = server.api_server();
    let (clock, stale) = (Clock::start(), Duration::from_secs(300));
    let cluster = ClusterReview::new(api, IdentityMode::Review, foreign, stale, clock);
    server.asked(2).await;
    let mut gate = gate(compile_files(&demo(), &options()), settings());
    gate.identities = Identities::of_cluster(cluster, Remember { stale, ..Remember::default() });
    (gate, server, clock)
}

async fn asks(gate: &Gate, token: &str, now: Nanos) -> (Option<Code>, Option<AnswerSource>) {
    let decision = Call::chat("granite").bearer(token).on(gate, now).await;
    (decision.outcome.err().map(|denial| denial.code), decision.evidence.identity_source)
}

#[tokio::test]
async fn what_is_no_good_answer_lets_nobody_in() {
    let unavailable = Code::UnavailableApiServer;
    for (what, answer, expected) in [
        ("too much to do", status(429), unavailable),
        ("a failure", status(500), unavailable),
        ("half a body", Answer::Cut(r#"{"kind": "TokenReview", "status": {"authenticated": true"#), unavailable),
        ("another kind of answer", Answer::Json(200, json!("<html>")), unavailable),
        ("no status", Answer::Json(201, json!({"kind": "TokenReview", "spec": {}})), unavailable),
        ("nothing at all", Answer::Silence, Code::UnavailableDeadline),
        ("no permission", status(403), unavailable),
        ("a refusal", review(json!({"error": "expired"})), Code::TokenRejected),
        (
            "a refusal with a user",
            review(json!({"authenticated": false, "user": {"username": "x"}})),
            Code::TokenRejected,
        ),
        ("another audience", review(user(&alice(), &json!(["another"]))), Code::TokenAudience),
        ("no audience", review(user(&alice(), &json!([]))), Code::TokenAudience),
        ("nobody", review(user("system:anonymous", &json!([AUDIENCE]))), Code::TokenRejected),
        ("no name", review(user("", &json!([AUDIENCE]))), Code::TokenRejected),
    ] {
        let (gate, _server, clock) = world(&ES256.jwks, vec![answer], false).await;
        let (code, source) = asks(&gate, &token("free", NAME), clock.now()).await;
        assert_eq!((code, source), (Some(expected), Some(AnswerSource::Fetched)), "{what}");
    }
    let (gate, _server, clock) = world(&ES256.jwks, vec![good()], false).await;
    assert_eq!(asks(&gate, &token("free", NAME), clock.now()).await.0, None);
}

#[tokio::test]
async fn what_cannot_be_good_is_not_asked_about() {
    let (gate, server, clock) = world(&ES256.jwks, Vec::new(), false).await;
    let with = |change: &dyn Fn(&mut crate::identity::Claims)| {
        let mut claims = claims(TIER, NAME);
        change(&mut claims);
        ES256.sign(&claims)
    };
    for (what, token, expected) in [
        ("opaque", "sha256~abc".to_owned(), Code::TokenMalformed),
        ("expired", with(&|claims| claims.exp -= 7200), Code::TokenExpired),
        ("of another issuer", with(&|claims| claims.iss.push('x')), Code::TokenIssuer),
        ("for another audience", with(&|claims| claims.aud = vec!["another".to_owned()]), Code::TokenAudience),
        ("of a ServiceAccount that is gone", ES256.sign(&claims(TIER, "nobody")), Code::TokenSubjectGone),
    ] {
        assert_eq!(asks(&gate, &token, clock.now()).await.0, Some(expected), "{what}");
    }
    assert_eq!(server.asked(2).await.len(), 2, "but for the keys");
}

/// What is read is as old as its clock says, which nobody can move.
async fn age(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Keys are looked for once more when a token names one that is not known, and its token is good at once.
#[tokio::test]
async fn a_new_key_is_noticed() {
    let answers = discovery(&RS256.jwks).into_iter().chain([good()]).collect();
    let (gate, server, clock) = world(&ES256.jwks, answers, false).await;
    age(KEYS_AGE).await;
    assert_eq!(asks(&gate, &RS256.sign(&claims(TIER, NAME)), clock.now()).await.0, None);
    assert_eq!(server.asked(5).await.len(), 5);
}

#[tokio::test]
async fn an_unknown_key_is_looked_for_once_a_second_however_many_tokens_name_one() {
    let (gate, server, clock) = world(&ES256.jwks, discovery(&ES256.jwks).into(), false).await;
    age(KEYS_AGE).await;
    let strange = |n: usize| {
        let mut claims = claims(TIER, NAME);
        claims.jti = Some(n.to_string());
        STRANGER.sign(&claims)
    };
    for n in 0..20 {
        assert_eq!(asks(&gate, &strange(n), clock.now()).await.0, Some(Code::TokenSignature));
    }
    assert_eq!(server.asked(4).await.len(), 4);
}

#[tokio::test]
async fn a_foreign_token_is_the_api_servers_to_know() {
    let answers = vec![good(), review(json!({"error": "who?"}))];
    let (gate, server, clock) = world(&ES256.jwks, answers, true).await;
    assert_eq!(asks(&gate, "opaque-1", clock.now()).await, (None, Some(AnswerSource::Fetched)));
    assert_eq!(asks(&gate, "opaque-1", clock.now()).await.1, Some(AnswerSource::Hit));
    assert_eq!(asks(&gate, "opaque-2", clock.now()).await.0, Some(Code::TokenRejected));
    assert_eq!(server.asked(4).await.len(), 4);
    // Nothing tells when it ends: half a minute later it is reviewed again.
    let later = clock.now().saturating_add(UNWATCHED);
    assert_eq!(asks(&gate, "opaque-1", later).await.1, Some(AnswerSource::Stale));
}

#[tokio::test]
async fn an_identity_past_its_time_is_used_while_the_api_server_is_away_and_not_past_its_token() {
    let (gate, _server, clock) = world(&ES256.jwks, vec![good(), status(500), status(500)], false).await;
    let mut claims = claims(TIER, NAME);
    claims.exp = crate::identity::unix_seconds() + 800;
    let token = ES256.sign(&claims);
    assert_eq!(asks(&gate, &token, clock.now()).await, (None, Some(AnswerSource::Fetched)));
    let after = |seconds: u64| clock.now().saturating_add(Duration::from_secs(seconds));
    assert_eq!(asks(&gate, &token, after(590)).await, (None, Some(AnswerSource::Hit)));
    // After ten minutes it would be reviewed again.
    assert_eq!(asks(&gate, &token, after(610)).await, (None, Some(AnswerSource::Stale)));
    // It expires before `--stale-for` is over.
    assert_eq!(asks(&gate, &token, after(810)).await.0.map(Code::class), Some(crate::denial::Class::Undecided));
}
