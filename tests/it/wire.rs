//! gRPC, without Envoy in between: what Envoy would never send, among others.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue, Metadata};
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Request};
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest, CheckResponse, OkHttpResponse};
use envoy_types::pb::envoy::service::ratelimit::v3::RateLimitRequest;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::Code;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, UInt64Value, Value};
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::support::{Folder, POSITIVE, Tiergate, get, root, token};

pub(crate) async fn channel(tiergate: &Tiergate) -> Channel {
    Channel::from_shared(format!("http://{}", tiergate.grpc)).unwrap().connect().await.unwrap()
}

pub(crate) fn demo(flags: &[&str]) -> Tiergate {
    Tiergate::start(&root("examples/manifests"), flags)
}

pub(crate) fn premium() -> String {
    token("maas-default-gateway-tier-premium", "jland-78028f6d", &root("examples/manifests"))
}

pub(crate) fn http(path: &str, authorization: Option<&str>) -> HttpRequest {
    let mut headers = HashMap::new();
    if let Some(value) = authorization {
        headers.insert("authorization".to_owned(), value.to_owned());
    }
    HttpRequest { method: "POST".into(), path: path.into(), host: "models".into(), headers, ..HttpRequest::default() }
}

pub(crate) fn check_request(http: HttpRequest) -> CheckRequest {
    CheckRequest {
        attributes: Some(AttributeContext {
            request: Some(Request { http: Some(http), ..Request::default() }),
            ..AttributeContext::default()
        }),
    }
}

pub(crate) async fn check(channel: &Channel, request: CheckRequest) -> CheckResponse {
    try_check(channel, request).await.unwrap()
}

pub(crate) async fn try_check(channel: &Channel, request: CheckRequest) -> Result<CheckResponse, tonic::Status> {
    AuthorizationClient::new(channel.clone()).check(request).await.map(tonic::Response::into_inner)
}

/// HTTP status (200 for allowed) and reason code.
pub(crate) fn outcome(response: &CheckResponse) -> (i32, &str) {
    match response.http_response.as_ref().unwrap() {
        HttpResponse::DeniedResponse(denied) => {
            (denied.status.as_ref().unwrap().code, response.status.as_ref().unwrap().message.as_str())
        }
        _ => (200, ""),
    }
}

pub(crate) fn own(response: &CheckResponse) -> &Struct {
    match &response.dynamic_metadata.as_ref().unwrap().fields["tiergate"].kind {
        Some(Kind::StructValue(own)) => own,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn text<'s>(fields: &'s Struct, name: &str) -> &'s str {
    match &fields.fields.get(name).unwrap_or_else(|| panic!("no {name}")).kind {
        Some(Kind::StringValue(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn hostile_checks_get_defined_answers_and_the_process_lives() {
    let tiergate = demo(&[]);
    let channel = channel(&tiergate).await;
    let qwen = "/llm/qwen3/v1/chat/completions";
    let long = format!("Bearer {}", "a".repeat(64 * 1024));
    let token = &*premium();
    let good = format!("Bearer {token}");
    for (what, request, expected) in [
        ("no attributes", CheckRequest { attributes: None }, (400, "TG-REQUEST-INVALID")),
        (
            "no HTTP attributes",
            CheckRequest { attributes: Some(AttributeContext::default()) },
            (400, "TG-REQUEST-INVALID"),
        ),
        ("empty path", check_request(http("", None)), (400, "TG-PATH-NOT-CANONICAL")),
        ("path of a slash", check_request(http("/", Some(&good))), (404, "TG-ROUTE-UNKNOWN")),
        ("a token of one byte", check_request(http(qwen, Some("Bearer x"))), (401, "TG-TOKEN-MALFORMED")),
        ("a token of 64 KiB", check_request(http(qwen, Some(&long))), (401, "TG-TOKEN-MALFORMED")),
        ("a blank token", check_request(http(qwen, Some("Bearer   "))), (401, "TG-TOKEN-MALFORMED")),
        ("two tokens", check_request(http(qwen, Some(&format!("{good} x")))), (401, "TG-TOKEN-MALFORMED")),
        ("joined tokens", check_request(http(qwen, Some(&format!("{good},{good}")))), (401, "TG-TOKEN-MALFORMED")),
        ("another scheme", check_request(http(qwen, Some("Basic YTpi"))), (401, "TG-TOKEN-MISSING")),
        ("only a namespace", check_request(http("/llm", Some(&good))), (404, "TG-ROUTE-UNKNOWN")),
        ("a good one", check_request(http(qwen, Some(&good))), (200, "")),
        ("a good one with a query", check_request(http(&format!("{qwen}?a=/../b;c"), Some(&good))), (200, "")),
    ] {
        assert_eq!(outcome(&check(&channel, request).await), expected, "{what}");
    }
    assert_eq!(get(tiergate.http, "/livez").await.status, 200);
    let logged = tiergate.logged();
    assert!(logged.iter().any(|line| line["code"] == "TG-TOKEN-MALFORMED"), "one line per refusal");
    assert!(!logged.iter().any(|line| line.to_string().contains(token)), "never a token");
}

#[tokio::test]
async fn both_forms_of_headers_are_read() {
    let tiergate = demo(&[]);
    let channel = channel(&tiergate).await;
    let raw = |pairs: &[(&str, &[u8])]| {
        let header = |(key, value): &(&str, &[u8])| HeaderValue {
            key: (*key).to_owned(),
            raw_value: value.to_vec(),
            ..HeaderValue::default()
        };
        let mut request = http("/llm/qwen3/v1/chat/completions", None);
        request.header_map = Some(HeaderMap { headers: pairs.iter().map(header).collect() });
        check_request(request)
    };
    let good = format!("Bearer {}", premium());
    let good = good.as_bytes();
    let allowed =
        check(&channel, raw(&[("authorization", good), ("X-MaaS-Anything", b"me"), ("x-maas-group", b"g")])).await;
    assert_eq!(outcome(&allowed).0, 200);
    let Some(HttpResponse::OkResponse(ok)) = &allowed.http_response else { panic!("{allowed:?}") };
    for name in ["authorization", "x-maas-anything", "x-maas-group", "x-maas-username"] {
        assert!(ok.headers_to_remove.iter().any(|removed| removed == name), "{name}: {:?}", ok.headers_to_remove);
    }
    let twice = check(&channel, raw(&[("authorization", good), ("Authorization", good)])).await;
    assert_eq!(outcome(&twice), (401, "TG-TOKEN-MALFORMED"));
    let opaque = check(&channel, raw(&[("authorization", b"Bearer \xff\xfe")])).await;
    assert_eq!(outcome(&opaque), (401, "TG-TOKEN-MALFORMED"));
}

#[tokio::test]
async fn kuadrants_plugin_gets_nothing_that_it_cannot_take() {
    let tiergate = demo(&["--compat", "kuadrant-wasm"]);
    let channel = channel(&tiergate).await;
    let good = format!("Bearer {}", premium());
    let mut request = http("/llm/qwen3/v1/chat/completions", Some(&good));
    request.headers.insert("x-maas-anything".to_owned(), "me".to_owned());
    let response = check(&channel, check_request(request)).await;
    assert_eq!(outcome(&response).0, 200);
    let Some(HttpResponse::OkResponse(ok)) = response.http_response else { panic!("{response:?}") };
    let set: HashMap<_, _> =
        ok.headers.iter().filter_map(|option| option.header.as_ref()).map(|set| (&*set.key, &*set.value)).collect();
    assert_eq!((set.get("authorization"), set.get("x-maas-anything")), (Some(&""), Some(&"")), "{set:?}");
    assert_eq!(OkHttpResponse { headers: Vec::new(), ..ok.clone() }, OkHttpResponse::default());
    assert!(response.dynamic_metadata.unwrap().fields.contains_key("identity"));
}

#[tokio::test]
async fn an_answer_carries_the_policys_metadata_and_the_decision() {
    let tiergate = demo(&[]);
    let channel = channel(&tiergate).await;
    let good = format!("Bearer {}", premium());
    let response = check(&channel, check_request(http("/llm/qwen3/v1/chat/completions", Some(&good)))).await;
    let metadata = response.dynamic_metadata.as_ref().unwrap();
    let Some(Kind::StructValue(identity)) = &metadata.fields["identity"].kind else { panic!("{metadata:?}") };
    assert_eq!((text(identity, "tier"), text(identity, "userid")), ("premium", "jland-78028f6d"));
    let own = own(&response);
    assert_eq!(text(own, "decision"), "allowed");
    assert_eq!(text(own, "model"), "llm/qwen3");
    assert!(text(own, "granted_by").contains("qwen3"));
    assert!(!text(own, "reservation").is_empty());
    // The operator's own word about gateway and model goes before path and flags.
    let mut request = check_request(http("/llm/granite/v1/chat/completions", Some(&good)));
    let attributes = request.attributes.as_mut().unwrap();
    attributes.context_extensions.insert("model".into(), "llm/draft".into());
    assert_eq!(outcome(&check(&channel, request.clone()).await), (403, "TG-ACCESS-DENIED"));
    let model = Value { kind: Some(Kind::StringValue("llm/granite".into())) };
    let fields = Struct { fields: HashMap::from([("model".to_owned(), model)]) };
    let route = Metadata { filter_metadata: HashMap::from([("tiergate".to_owned(), fields)]), ..Metadata::default() };
    request.attributes.as_mut().unwrap().route_metadata_context = Some(route);
    assert_eq!(outcome(&check(&channel, request.clone()).await), (503, "TG-POLICY-MODEL"), "they disagree");
    request.attributes.as_mut().unwrap().context_extensions.clear();
    assert_eq!(outcome(&check(&channel, request.clone()).await).0, 200);
    request.attributes.as_mut().unwrap().context_extensions.insert("gateway".into(), "a/b".into());
    assert_eq!(outcome(&check(&channel, request).await), (503, "TG-UNAVAILABLE-GATEWAY"));
}

pub(crate) fn descriptor(reservation: &str, usage: Option<&str>, hits: Option<u64>) -> RateLimitDescriptor {
    let entry = |key: &str, value: &str| Entry { key: key.to_owned(), value: value.to_owned() };
    let mut entries = vec![entry("tiergate.reservation", reservation)];
    entries.extend(usage.map(|usage| entry("tiergate.usage", usage)));
    RateLimitDescriptor {
        entries,
        hits_addend: hits.map(|value| UInt64Value { value }),
        ..RateLimitDescriptor::default()
    }
}

pub(crate) fn report(descriptors: Vec<RateLimitDescriptor>) -> RateLimitRequest {
    RateLimitRequest { domain: "tiergate.report".to_owned(), descriptors, hits_addend: 0 }
}

#[tokio::test]
async fn usage_reports_are_settled_once_and_hostile_ones_refused() {
    let tiergate = demo(POSITIVE);
    let channel = channel(&tiergate).await;
    let mut client = RateLimitServiceClient::new(channel.clone());
    let good = format!("Bearer {}", premium());
    let response = check(&channel, check_request(http("/llm/qwen3/v1/chat/completions", Some(&good)))).await;
    let reservation = text(own(&response), "reservation").to_owned();
    let full = || {
        report(vec![
            descriptor(&reservation, None, Some(0)),
            descriptor(&reservation, Some("total"), Some(60)),
            descriptor(&reservation, Some("input"), Some(20)),
            descriptor(&reservation, Some("output"), Some(40)),
            descriptor(&reservation, Some("status"), Some(200)),
        ])
    };
    for _ in 0..2 {
        let answer = client.should_rate_limit(full()).await.unwrap().into_inner();
        assert_eq!(answer.overall_code, Code::Ok as i32);
    }
    for (result, count) in [("settled", 1), ("duplicate", 1), ("unknown", 0)] {
        assert_eq!(tiergate.metric("tiergate_usage_reports_total", result).await, count, "{result}");
    }
    assert_eq!(tiergate.metric("tiergate_usage_tokens_total", "usage=\"total\"").await, 60);
    assert_eq!(tiergate.metric("tiergate_usage_tokens_total", "tier=\"premium\"").await, 60 + 20 + 40);
    let after = check(&channel, check_request(http("/llm/qwen3/v1/chat/completions", Some(&good)))).await;
    let Some(HttpResponse::OkResponse(ok)) = &after.http_response else { panic!("{after:?}") };
    let remaining = ok.response_headers_to_add.iter().filter_map(|option| option.header.as_ref());
    let remaining: Vec<_> = remaining.filter(|header| header.key == "x-ratelimit-remaining-tokens").collect();
    let left: u64 = remaining[0].value.parse().unwrap();
    assert!((49_940..=50_000).contains(&left), "60 of 50,000, and what came back since: {left}");

    for (what, request) in [
        ("no descriptors", report(vec![])),
        ("no reservation", report(vec![RateLimitDescriptor::default()])),
        ("two reservations", report(vec![descriptor(&reservation, None, None), descriptor("x", None, None)])),
        ("too many descriptors", report(vec![descriptor(&reservation, None, None); 1000])),
        ("empty domain", RateLimitRequest { domain: String::new(), ..full() }),
        ("another domain", RateLimitRequest { domain: "elsewhere".to_owned(), ..full() }),
    ] {
        let status = client.should_rate_limit(request).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument, "{what}: {status}");
    }
    // A number that is none loses itself, and not the report.
    for number in [1 << 63, 1_000_000_001] {
        client.should_rate_limit(report(vec![descriptor(&reservation, Some("total"), Some(number))])).await.unwrap();
    }
    assert_eq!(tiergate.metric("tiergate_usage_corrections_total", "number").await, 2);
    assert_eq!(tiergate.metric("tiergate_usage_reports_total", "refused").await, 4);
    for junk in ["", "junk", "\u{0}", &"A".repeat(100_000)] {
        client.should_rate_limit(report(vec![descriptor(junk, Some("total"), Some(5))])).await.unwrap();
    }
    assert_eq!(tiergate.metric("tiergate_usage_reports_total", "unknown").await, 4);
    assert_eq!(tiergate.metric("tiergate_usage_tokens_total", "usage=\"total\"").await, 60);
}

#[tokio::test]
async fn health_is_serving_only_with_a_configuration() {
    let serving = tonic_health::pb::health_check_response::ServingStatus::Serving as i32;
    let status = async |tiergate: &Tiergate| {
        let request = HealthCheckRequest { service: "envoy.service.auth.v3.Authorization".to_owned() };
        let mut watch = HealthClient::new(channel(tiergate).await).watch(request).await.unwrap().into_inner();
        // The first word may come before the first probe of the workers.
        let first = watch.message().await.unwrap().unwrap().status;
        if first == serving { first } else { watch.message().await.unwrap().unwrap().status }
    };
    assert_eq!(status(&demo(&[])).await, serving);
    let folder = Folder::new();
    folder.file("broken.yaml", "a: [1\n");
    let broken = Tiergate::start(&folder.0, &[]);
    let channel = channel(&broken).await;
    assert_eq!(outcome(&check(&channel, check_request(http("/x", None))).await), (503, "TG-UNAVAILABLE-CONFIGURATION"));
    let ready = get(broken.http, "/readyz").await;
    assert_eq!(ready.status, 503);
    assert!(ready.body.contains("broken.yaml"), "{}", ready.body);
    let request = HealthCheckRequest { service: "envoy.service.auth.v3.Authorization".to_owned() };
    let health = HealthClient::new(channel).check(request).await.unwrap().into_inner();
    assert_ne!(health.status, serving);
}

/// Whoever reads the log too slowly, or not at all, makes no request wait; what is dropped of it is counted.
#[tokio::test]
async fn a_log_that_nobody_reads_stops_nothing() {
    let (reader, writer) = std::io::pipe().unwrap();
    let (tiergate, addresses) = crate::support::start_with_log(&root("examples/manifests"), writer);
    let channel = Channel::from_shared(format!("http://{}", addresses.0)).unwrap().connect().await.unwrap();
    let refuse = async || outcome(&check(&channel, check_request(http("/llm/qwen3/v1", None))).await).0;
    let dropped = async || {
        let page = get(addresses.1, "/metrics").await.body;
        let dropped = page.lines().find_map(|line| line.strip_prefix("tiergate_log_lines_dropped_total "));
        dropped.unwrap().parse::<u64>().unwrap()
    };
    let mut refused = 0;
    while dropped().await == 0 {
        assert!(refused < 3_000, "the queue is full");
        for _ in 0..100 {
            assert_eq!(refuse().await, 401);
        }
        refused += 100;
    }
    drop(reader);
    for _ in 0..100 {
        assert_eq!(refuse().await, 401);
    }
    drop(tiergate);
}
