//! Requests that are described to tiergate, or sent to the Envoy in front of it.

use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue};
use envoy_types::pb::envoy::service::auth::v3::CheckRequest;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::HttpRequest;
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use prost::Message;

use crate::envoy::BODY;
use crate::h2::{End, Field, H2, call, grpc_message};
use crate::support::Connection;
use crate::wire::{channel, check, check_request, http, outcome};

use super::{QWEN, World};

const CHECK: &str = "envoy.service.auth.v3.Authorization/Check";

/// A request for qwen3 with these headers, as Envoy sends them with `encode_raw_headers`.
fn raw(headers: &[(&str, &[u8])]) -> CheckRequest {
    let header = |(key, value): &(&str, &[u8])| HeaderValue {
        key: (*key).to_owned(),
        raw_value: value.to_vec(),
        ..HeaderValue::default()
    };
    let headers = headers.iter().map(header).collect();
    check_request(HttpRequest { header_map: Some(HeaderMap { headers }), ..http(QWEN, None) })
}

pub(super) async fn a_check_above_the_bound_is_refused_and_the_connection_serves_on(world: &World) {
    let channel = channel(&world.tiergate).await;
    let of = |size: usize| check_request(HttpRequest { body: "x".repeat(size), ..http("/x", None) });
    for huge in [256 * 1024, 5 * 1024 * 1024] {
        let status = AuthorizationClient::new(channel.clone()).check(of(huge)).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::OutOfRange, "{status}");
        // Three times what Envoy can make one of, with every header it takes.
        assert_eq!(outcome(&check(&channel, of(210 * 1024)).await).0, 404);
    }
}

pub(super) async fn ten_thousand_headers_in_a_check_are_decided(world: &World) {
    let bearer = world.bearer();
    let mut named = http(QWEN, Some(&bearer));
    named.headers.extend((0..10_000).map(|at| (format!("x-{at}"), "a".to_owned())));
    assert_eq!(world.outcome(check_request(named)).await.0, 200);
    let names: Vec<String> = (0..10_000).map(|at| format!("x-{at}")).collect();
    let mut headers: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), b"a".as_slice())).collect();
    headers.push(("authorization", bearer.as_bytes()));
    assert_eq!(world.outcome(raw(&headers)).await.0, 200);
    // Those that tell who calls are compared with each other, and so are bounded.
    let names: Vec<String> = (0..10_000).map(|at| format!("x-maas-{at}")).collect();
    let mut headers: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), b"a".as_slice())).collect();
    headers.push(("authorization", bearer.as_bytes()));
    assert_eq!(world.outcome(raw(&headers)).await, (400, "TG-REQUEST-INVALID".to_owned()));
}

pub(super) async fn duplicated_headers_in_a_check_are_refused(world: &World) {
    let bearer = world.bearer();
    let good = ("authorization", bearer.as_bytes());
    for (headers, expected) in [
        (vec![good, ("host", b"models".as_slice())], (200, "")),
        (vec![good, good], (401, "TG-TOKEN-MALFORMED")),
        (vec![good, ("host", b"models"), ("host", b"models")], (400, "TG-REQUEST-INVALID")),
        (vec![good, (":authority", b"models"), ("host", b"elsewhere")], (400, "TG-REQUEST-INVALID")),
        (vec![good, ("x-maas-group", b"a"), ("x-maas-group", b"b")], (400, "TG-REQUEST-INVALID")),
        (vec![good, ("x-maas-subscription", b"a"), ("X-MaaS-Subscription", b"b")], (400, "TG-REQUEST-INVALID")),
    ] {
        let (status, code) = world.outcome(raw(&headers)).await;
        let names: Vec<_> = headers.iter().map(|(name, _)| *name).collect();
        assert_eq!((status, code.as_str()), expected, "{names:?}");
    }
}

pub(super) async fn header_names_in_capitals_are_the_same_names(world: &World) {
    let bearer = world.bearer();
    let good = bearer.as_bytes();
    assert_eq!(world.outcome(raw(&[("AUTHORIZATION", good)])).await.0, 200);
    let twice = raw(&[("AUTHORIZATION", good), ("authorization", good)]);
    assert_eq!(world.outcome(twice).await, (401, "TG-TOKEN-MALFORMED".to_owned()));
    let mut connection = Connection::open(world.gateway().await).await;
    let headers = [("AUTHORIZATION", bearer.as_str()), ("CONTENT-TYPE", "application/json"), ("X-MAAS-GROUP", "root")];
    let answer = connection.send("POST", QWEN, &headers, BODY).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    // The model names the headers that it saw.
    assert!(!answer.body.to_lowercase().contains("x-maas-group"), "{}", answer.body);
}

/// Who calls and where the call goes is said by the gateway: what else stands before a model would believe these.
pub(super) async fn headers_that_models_believe_reach_none(world: &World) {
    let bearer = world.bearer();
    let believed = [
        "Impersonate-User",
        "x-remote-group",
        "x-forwarded-user",
        "x-forwarded-email",
        "x-forwarded-groups",
        "x-forwarded-preferred-username",
        "X-Auth-Request-User",
        "x-gateway-destination-endpoint",
        "x-gateway-inference-fairness-id",
        "x-gateway-inference-objective",
        "x-llm-d-inference-fairness-id",
        "x-prefiller-host-port",
        "x-envoy-peer-metadata",
        "x-envoy-peer-metadata-id",
    ];
    let mut headers = vec![("authorization", bearer.as_str()), ("content-type", "application/json"), ("x-other", "1")];
    headers.extend(believed.map(|name| (name, "root")));
    // Twice is no way around.
    headers.push(("x-remote-group", "system:masters"));
    let answer = Connection::open(world.gateway().await).await.send("POST", QWEN, &headers, BODY).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let said = answer.json()["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    let arrived: Vec<&str> = said.split(' ').collect();
    assert!(
        arrived.contains(&"x-other") && arrived.contains(&"x-forwarded-for"),
        "the model names its headers: {said}"
    );
    let leaked: Vec<_> = believed.into_iter().filter(|name| arrived.contains(&name.to_lowercase().as_str())).collect();
    assert!(leaked.is_empty(), "{leaked:?}");
}

pub(super) async fn invalid_utf8_is_refused_and_the_process_lives(world: &World) {
    let opaque = raw(&[("authorization", b"Bearer \xff\xfe")]);
    assert_eq!(world.outcome(opaque).await, (401, "TG-TOKEN-MALFORMED".to_owned()));
    // A path that is not UTF-8 is no message of protobuf: the marker is replaced in what was encoded.
    let mut message = check_request(http("/llm/@@@@", None)).encode_to_vec();
    let at = message.windows(4).position(|bytes| bytes == b"@@@@").unwrap();
    message[at..at + 4].fill(0xff);
    for message in [message, b"\xff\xff\xff\xff".to_vec()] {
        let (status, code) = call(world.grpc(), CHECK, &[], &[&grpc_message(&message)], true).await.unwrap();
        assert_eq!((status, code), (200, Some(tonic::Code::Internal as u16)));
    }
    let fields = fields(world, &[(b"x-opaque", b"\xff\xfe"), (b"x-maas-group", b"\xff")]);
    let end = H2::open(world.gateway().await).await.ask(1, &fields, BODY).await;
    assert!(matches!(end, End::Answer(200, ref body) if !body.contains("x-maas-group")), "{end:?}");
}

/// A good request over HTTP/2, and these headers.
fn fields<'a>(world: &World, more: &[Field<'a>]) -> Vec<Field<'a>> {
    // It lives as long as the test, and there are few of them.
    let bearer: &'static [u8] = world.bearer().into_bytes().leak();
    let mut fields: Vec<Field<'_>> = vec![
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":authority", b"models.example.com"),
        (b":path", QWEN.as_bytes()),
        (b"authorization", bearer),
        (b"content-type", b"application/json"),
    ];
    fields.extend(more);
    fields
}

pub(super) async fn duplicated_headers_get_through_no_gateway(world: &World) {
    let (address, bearer) = (world.gateway().await, world.bearer());
    for (more, expected) in [
        (("authorization", bearer.as_str()), 401),
        (("host", "elsewhere.example.com"), 400),
        (("host", "models.example.com"), 400),
    ] {
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json"), more];
        let answer = Connection::open(address).await.send("POST", QWEN, &headers, BODY).await;
        assert_eq!(answer.status, expected, "{}: {}", more.0, answer.body);
    }
    let group = ("x-maas-group", "a");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json"), group, group];
    let answer = Connection::open(address).await.send("POST", QWEN, &headers, BODY).await;
    assert_eq!((answer.status, answer.header("x-ext-auth-reason")), (400, Some("TG-REQUEST-INVALID")));
    // Over HTTP/2 Envoy drops a host beside the authority, so that one is left.
    let http2: [(&[Field<'_>], &[u16]); 4] = [
        (&[(b"authorization", b"Bearer x")], &[401]),
        (&[(b"host", b"elsewhere.example.com")], &[200, 400]),
        (&[(b":authority", b"elsewhere.example.com")], &[400]),
        (&[(b"x-maas-group", b"a"), (b"x-maas-group", b"b")], &[400]),
    ];
    for (more, expected) in http2 {
        let status = match H2::open(address).await.ask(1, &fields(world, more), BODY).await {
            End::Answer(status, _) => status,
            End::Reset(_) | End::GoAway(_) | End::Closed => 400,
        };
        assert!(expected.contains(&status), "{more:?}: {status}");
    }
}

pub(super) async fn ten_thousand_headers_get_through_no_gateway(world: &World) {
    let (address, bearer) = (world.gateway().await, world.bearer());
    let names: Vec<String> = (0..10_000).map(|at| format!("x-{at}")).collect();
    let mut request = format!("POST {QWEN} HTTP/1.1\r\nhost: models\r\nauthorization: {bearer}\r\n");
    names.iter().for_each(|name| request.push_str(&format!("{name}: a\r\n")));
    request.push_str("content-length: 0\r\n\r\n");
    let mut connection = Connection::open(address).await;
    connection.write(request.as_bytes()).await;
    assert_eq!(connection.answer().await.status, 431);
    let more: Vec<Field<'_>> = names.iter().map(|name| (name.as_bytes(), b"a".as_slice())).collect();
    let end = H2::open(address).await.ask(1, &fields(world, &more), "").await;
    assert!(!matches!(end, End::Answer(status, _) if status != 431), "{end:?}");
}
