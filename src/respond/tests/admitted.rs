use std::collections::HashMap;
use std::sync::Arc;

use super::*;
use crate::access::Grantor;
use crate::expression::{Properties, Val};
use crate::gate::Permit;

/// The headers of identity that are removed whether they were sent or not.
const ALWAYS: [&str; 5] = ["authorization", "x-maas-group", "x-maas-key-id", "x-maas-subscription", "x-maas-username"];

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names
}

#[test]
fn credential_and_identity_never_reach_the_model() {
    let sent = HashMap::from(
        [
            ("authorization", "Bearer abc"),
            ("x-maas-username", "mallory"),
            ("X-MaaS-Role", "admin"),
            ("x-maas-", "short"),
            ("x-maas", "not one of them"),
            ("x-request-id", "1"),
            ("x-mäas-x", "2"),
            ("é", "3"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    let list: Vec<(&str, &[u8])> = sent.iter().map(|(name, value)| (&**name, value.as_bytes())).collect();
    let mut expected: Vec<String> = ALWAYS.map(str::to_owned).to_vec();
    expected.extend(["x-maas-role".to_owned(), "x-maas-".to_owned()]);
    for form in [Headers::Map(&sent), Headers::List(list)] {
        let (ok, _) = admit(Grant::default(), evidence(), Some(&form));
        assert_eq!(sorted(ok.headers_to_remove), sorted(expected.clone()), "{form:?}");
    }
    let (ok, _) = admit(Grant::default(), evidence(), None);
    assert_eq!(sorted(ok.headers_to_remove), ALWAYS);
}

/// Nothing that is only nearly one of them, and nothing that was not sent.
#[test]
fn what_models_believe_of_a_caller_reaches_none() {
    let removed = [
        "impersonate-user",
        "Impersonate-Extra-Scopes",
        "x-remote-user",
        "X-Remote-Extra-Team",
        "x-forwarded-user",
        "x-forwarded-email",
        "x-forwarded-groups",
        "x-forwarded-preferred-username",
        "x-forwarded-access-token",
        "x-auth-request-user",
        "x-envoy-peer-metadata-id",
        "x-gateway-destination-endpoint-subset",
        "x-gateway-inference-fairness-id",
        "x-gateway-model-name-rewrite",
        "x-llm-d-inference-objective",
        "x-prefiller-host-port",
        "x-encoder-hosts-ports",
        "x-data-parallel-host-port",
        "x-kv-cache-source-host-port",
    ];
    let kept = ["impersonate", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-remote", "x-envoy-id"];
    let sent = removed.iter().chain(&kept).map(|name| (*name, b"1".as_slice())).collect();
    let sent = Headers::List(sent);
    let (ok, _) = admit(Grant::default(), evidence(), Some(&sent));
    let mut expected = ALWAYS.map(str::to_owned).to_vec();
    expected.extend(removed.map(str::to_lowercase));
    assert_eq!(sorted(ok.headers_to_remove), sorted(expected));
    // A policy may say who calls in these words.
    let grant = Grant { headers: vec![("x-remote-user".to_owned(), "alice".to_owned())], ..Grant::default() };
    let (ok, _) = admit(grant, evidence(), Some(&sent));
    assert!(!ok.headers_to_remove.iter().any(|name| name == "x-remote-user"), "{:?}", ok.headers_to_remove);
    assert_eq!(headers(&ok.headers), map(&[("x-remote-user", "alice")]));
    // Kuadrant's plugin removes nothing, so they are emptied.
    let style = Style { compat: Some(Compat::KuadrantWasm), ..TERSE };
    let (ok, _) = admit_in(style, Grant::default(), evidence(), Some(&sent));
    let emptied = headers(&ok.headers);
    assert!(removed.iter().all(|name| emptied.get(&name.to_lowercase()).is_some_and(String::is_empty)), "{emptied:?}");
}

#[test]
fn header_sent_twice_is_removed_once() {
    let sent = Headers::List(vec![("x-maas-a", b"1"), ("X-Maas-A", b"2"), ("X-MAAS-GROUP", b"3")]);
    let (ok, _) = admit(Grant::default(), evidence(), Some(&sent));
    let mut expected = ALWAYS.map(str::to_owned).to_vec();
    expected.push("x-maas-a".to_owned());
    assert_eq!(sorted(ok.headers_to_remove), sorted(expected));
}

/// Envoy removes last: a header that is set and removed would be gone.
#[test]
fn header_that_is_set_is_overwritten_and_not_removed() {
    let set = |pairs: &[(&str, &str)]| Grant {
        headers: pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        ..Grant::default()
    };
    let sent = Headers::List(vec![("X-MaaS-Team", b"forged"), ("X-MaaS-Username", b"forged")]);
    let grant = set(&[("x-maas-username", "alice"), ("x-maas-team", "red"), ("x-other", "1")]);
    let (ok, _) = admit(grant, evidence(), Some(&sent));
    assert_eq!(headers(&ok.headers), map(&[("x-maas-username", "alice"), ("x-maas-team", "red"), ("x-other", "1")]));
    assert_eq!(sorted(ok.headers_to_remove), ["authorization", "x-maas-group", "x-maas-key-id", "x-maas-subscription"]);
    // A policy that hands the model a credential of its own.
    let (ok, _) = admit(set(&[("authorization", "Bearer model-key")]), evidence(), None);
    assert_eq!(headers(&ok.headers), map(&[("authorization", "Bearer model-key")]));
    assert_eq!(sorted(ok.headers_to_remove), ALWAYS[1..]);
}

/// It fails a request on `response_headers_to_add`, `headers_to_remove` and parameters of the query, and sets headers by their exact names.
#[test]
fn what_kuadrants_plugin_cannot_take_is_said_in_another_way() {
    let style = Style { compat: Some(Compat::KuadrantWasm), ..TERSE };
    let sent = Headers::List(vec![("x-maas-Role", b"admin"), ("x-maas-username", b"forged"), ("x-other", b"1")]);
    let grant = || Grant {
        headers: vec![("x-maas-username".to_owned(), "alice".to_owned())],
        filters: vec![(Arc::from("identity"), Properties::Value(json!({"userid": "alice"})))],
        ..Grant::default()
    };
    let limits = || with_limits([limit(LimitKind::Requests, 5, 4, seconds(60.0), Verdict::Fits)]);
    let (ok, response) = admit_in(style, grant(), limits(), Some(&sent));
    let emptied = ["authorization", "x-maas-group", "x-maas-key-id", "x-maas-role", "x-maas-subscription"];
    let mut expected = map(&emptied.map(|name| (name, "")));
    expected.extend(map(&[("x-maas-username", "alice")]));
    assert_eq!(headers(&ok.headers), expected);
    assert_eq!(OkHttpResponse { headers: Vec::new(), ..ok }, OkHttpResponse::default());
    // The rest is as ever.
    let (_, other) = admit(grant(), limits(), Some(&sent));
    assert_eq!((response.status, response.dynamic_metadata), (other.status, other.dynamic_metadata));
    let refuse = |style| refuse(Denial::new(Code::LimitRequests, "no"), limits(), style).headers;
    assert_eq!(refuse(style), refuse(TERSE));
}

#[test]
fn metadata_carries_the_filters_and_the_decision() {
    let mut evidence = evidence();
    evidence.route = Some("llm/qwen3-route".into());
    evidence.user = Some("system:serviceaccount:maas-tier-free:alice".into());
    evidence.identity_source = Some(crate::cache::AnswerSource::Hit);
    evidence.tier = Some("free".into());
    evidence.permit = Permit {
        model: Some("llm/qwen3".to_owned()),
        grantor: Some(Grantor { name: "RoleBinding llm/access".into() }),
        refused: None,
    };
    let filter = json!({
        "userid": "alice", "level": 1, "half": 0.5, "yes": true, "nothing": null,
        "groups": ["a", ["b"]], "nested": { "tier": "free" },
    });
    let evaluated = Properties::Object(vec![
        (Arc::from("tier"), Val::Text("free".into())),
        (Arc::from("groups"), Val::Json(std::borrow::Cow::Owned(json!(["a", 2])))),
    ]);
    let grant = Grant {
        filters: vec![
            (Arc::from("identity"), Properties::Value(filter.clone())),
            (Arc::from("plain"), Properties::Value(json!("text"))),
            (Arc::from("evaluated"), evaluated),
        ],
        reservation: "sealed".to_owned(),
        ..Grant::default()
    };
    let (_, response) = admit(grant, evidence, None);
    assert_eq!(response.status.as_ref().unwrap().code, GrpcCode::Ok as i32);
    let mut filter = filter;
    filter["level"] = json!(1.0);
    let expected = json!({
        "identity": filter,
        "plain": "text",
        "evaluated": { "tier": "free", "groups": ["a", 2.0] },
        "tiergate": {
            "decision": "allowed",
            "decision_id": decision_id(7),
            "generation": 3.0,
            "reservation": "sealed",
            "route": "llm/qwen3-route",
            "user": "system:serviceaccount:maas-tier-free:alice",
            "tier": "free",
            "model": "llm/qwen3",
            "granted_by": "RoleBinding llm/access",
            "identity_source": "hit",
        },
    });
    assert_eq!(metadata_of(&response), expected);
}

#[test]
fn filter_called_tiergate_does_not_displace_the_decision() {
    let grant = Grant {
        filters: vec![(
            Arc::from("tiergate"),
            Properties::Value(json!({ "reservation": "forged", "decision": "refused" })),
        )],
        reservation: "sealed".to_owned(),
        ..Grant::default()
    };
    let (_, response) = admit(grant, evidence(), None);
    let metadata = metadata_of(&response);
    assert_eq!(metadata["tiergate"]["reservation"], "sealed");
    assert_eq!(metadata["tiergate"]["decision"], "allowed");
}

#[test]
fn refusal_tells_no_filter_and_no_reservation() {
    let answer = refuse(Denial::new(Code::LimitNone, "no"), evidence(), TERSE);
    let metadata = metadata_of(&answer.response);
    assert_eq!(metadata.as_object().unwrap().len(), 1);
    assert_eq!(metadata["tiergate"].get("reservation"), None);
}

#[test]
fn decision_ids_differ_and_share_the_process() {
    let (first, second) = (decision_id(1), decision_id(2));
    assert_ne!(first, second);
    assert_eq!(first.split('-').next(), second.split('-').next());
    assert_eq!(first, decision_id(1));
}

/// Below it h2 copies an answer and writes it with others; from it on, each has a system call of its own (see `Connection`).
#[tokio::test]
async fn the_tours_allowed_answers_are_below_what_is_written_by_itself() {
    use prost::Message;

    use crate::test_util::{Call, compile_files, demo, gate, options, settings, token};

    /// In front of a message of gRPC.
    const PREFIX: usize = 5;
    const WRITTEN_BY_ITSELF: usize = 1024;
    let gate = gate(compile_files(&demo(), &options()), settings());
    for (tier, model) in [("free", "granite"), ("premium", "qwen3"), ("enterprise", "qwen3")] {
        let namespace = format!("maas-default-gateway-tier-{tier}");
        let name = gate.policies.current().accounts.uids[&namespace].keys().max().unwrap().clone();
        let mut call = Call::chat(model).bearer(&token(tier, &name));
        // As many as a client sends by mistake; each is named in the answer.
        call.headers.extend(["x-maas-team", "x-maas-role"].map(|name| (name.to_owned(), "a".to_owned())));
        let decision = call.on(&gate, Nanos(0)).await;
        assert!(decision.outcome.is_ok(), "{tier}: {:?}", decision.outcome);
        let response = check_response(&decision, Some(&Headers::Map(&call.headers)), TERSE);
        let length = PREFIX + response.encoded_len();
        assert!(length < WRITTEN_BY_ITSELF, "{tier}: {length} bytes");
    }
}
