//! The classic setup, behind a real Envoy with the configuration that is shipped: Check, then a call for the limits.

use std::time::Instant;

use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use serde_json::Value;

use crate::envoy::{Gateway, chat, gateway_by, gateway_of, shipped};
use crate::support::{Answer, Connection, Folder, PATIENCE, POSITIVE, Tiergate, generous_manifests, root, token};
use crate::wire::{channel, check, check_request, descriptor, http, outcome, own, report, text};

const RLS: &[&str] = &["--enforce-limits", "rls"];
const GRANITE: &str = "/llm/granite/v1/chat/completions";
const QWEN: &str = "/llm/qwen3/v1/chat/completions";

async fn classic(tiergate: &Tiergate) -> Gateway {
    gateway_by(&shipped("envoy/classic.yaml"), &[tiergate.grpc.port()]).await
}

fn free() -> String {
    token("maas-default-gateway-tier-free", "alice-12345678", &root("examples/manifests"))
}

/// The tour's manifests, whose windows are so long that nothing comes back.
fn slow_manifests() -> Folder {
    let folder = Folder::new();
    for entry in std::fs::read_dir(root("examples/manifests")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path)
            .unwrap()
            .replace("window: 2m", "window: 240h")
            .replace("window: 1m", "window: 240h");
        folder.file(path.file_name().unwrap().to_str().unwrap(), &text);
    }
    folder
}

/// What of an answer has to be the same in both setups: names of headers and what is no time, no id.
fn told(answer: &Answer) -> (u16, Vec<(String, String)>, Value) {
    let lines = answer.head.lines().skip(1).filter_map(|line| line.split_once(": "));
    let mut headers: Vec<_> = lines
        .map(|(name, value)| match name {
            "retry-after" | "date" | "content-length" | "x-envoy-upstream-service-time" => {
                (name.to_owned(), String::new())
            }
            name if name.contains("-reset") => (name.to_owned(), String::new()),
            _ => (name.to_owned(), value.to_owned()),
        })
        .collect();
    headers.sort();
    let mut body = answer.json();
    for name in ["decision_id", "time", "retry_after_seconds"] {
        if let Some(told) = body["error"].get_mut(name) {
            *told = Value::Null;
        }
    }
    body["created"] = Value::Null;
    (answer.status, headers, body)
}

/// A change to one of the files is a change to both.
#[test]
fn the_configuration_is_the_other_one_and_a_call_more() {
    let (one_call, two_calls) = (shipped("envoy/report-by-call.yaml"), shipped("envoy/classic.yaml"));
    let mut lines: Vec<&str> = two_calls.lines().collect();
    let own: Vec<&str> = one_call
        .lines()
        .filter(|line| match lines.iter().position(|other| other == line) {
            Some(at) => {
                lines.remove(at);
                false
            }
            None => true,
        })
        .map(|line| line.split_once('#').map_or(line, |(code, _)| code).trim())
        .filter(|code| !code.is_empty())
        .collect();
    let expected = ["expression: response.code_details != \"ext_authz_denied\"", "failure_mode_deny: true"];
    assert_eq!(own, expected, "of report-by-call.yaml alone");
}

/// What `envoy/tiergate.yaml` alone has beside its readers: what keeps its filters apart.
const NATIVE: &str = r#"early_header_mutation_extensions:
- name: envoy.http.early_header_mutation.header_mutation
"@type": type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation
mutations: [{remove: x-tiergate-usage}]
expression: response.code_details.startsWith("rbac_access_denied")
request_headers_to_remove: [accept-encoding, x-tiergate-usage]"#;
/// And `envoy/lua.yaml`.
const LUA: &str = r#"expression: response.code_details == "lua_response"
request_headers_to_remove: [accept-encoding]"#;

/// A change to one of these files is a change to both, but for who reads the bodies.
#[test]
fn the_configuration_with_lua_is_the_other_one_with_another_reader() {
    let lines = |file: &str, readers: &str| {
        let text = shipped(file);
        let (before, rest) = text.split_once(readers).expect("what reads the bodies");
        let (_, after) = rest.split_once("- name: envoy.filters.http.router").expect("the router after it");
        let lines = before.lines().chain(after.lines()).map(|line| line.split('#').next().unwrap_or_default().trim());
        lines.filter(|line| !line.is_empty()).map(str::to_owned).collect::<Vec<_>>()
    };
    let native = lines("envoy/tiergate.yaml", "- name: tiergate.request_stream");
    let lua = lines("envoy/lua.yaml", "- name: tiergate.usage\n");
    let own = |one: &[String], other: &[String]| {
        one.iter().filter(|line| !other.contains(line)).cloned().collect::<Vec<_>>().join("\n")
    };
    assert_eq!(own(&native, &lua), NATIVE);
    assert_eq!(own(&lua, &native), LUA);
}

#[tokio::test]
async fn both_setups_give_the_same_answers() {
    let (manifests, token) = (slow_manifests(), free());
    let (one, two) = (Tiergate::start(&manifests.0, POSITIVE), Tiergate::start(&manifests.0, RLS));
    let (one_call, two_calls) = (gateway_of(&[one.grpc.port()]).await, classic(&two).await);
    let (mut first, mut second) = (Connection::open(one_call.address).await, Connection::open(two_calls.address).await);
    for number in 0..6 {
        let answers = [chat(&mut first, GRANITE, &token).await, chat(&mut second, GRANITE, &token).await];
        assert_eq!(told(&answers[0]), told(&answers[1]));
        assert_eq!(answers[1].status, if number < 5 { 200 } else { 429 });
        for tiergate in [&one, &two] {
            settled(tiergate, (number + 1).min(5)).await;
        }
    }
    for token in ["garbage", ""] {
        assert_eq!(told(&chat(&mut first, QWEN, token).await), told(&chat(&mut second, QWEN, token).await));
    }
    assert_eq!(told(&chat(&mut first, QWEN, &token).await), told(&chat(&mut second, QWEN, &token).await));
    for (name, labels) in [
        ("tiergate_decisions_total", "allowed"),
        ("tiergate_decisions_total", "refused"),
        ("tiergate_decisions_total", "undecided"),
        ("tiergate_limit_decisions_total", "tier=\"free\""),
        ("tiergate_requests_without_limit_total", ""),
        ("tiergate_usage_tokens_total", "tier=\"free\""),
    ] {
        assert_eq!(one.metric(name, labels).await, two.metric(name, labels).await, "{name} {labels}");
    }
}

/// Waits until so many answers' usage was reported.
pub(crate) async fn settled(tiergate: &Tiergate, reports: u64) {
    let started = Instant::now();
    while tiergate.metric("tiergate_usage_reports_total", "").await < reports {
        assert!(started.elapsed() < PATIENCE, "a report comes");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_request_limit_refuses_with_headers_and_body() {
    let manifests = slow_manifests();
    let tiergate = Tiergate::start(&manifests.0, RLS);
    let gateway = classic(&tiergate).await;
    let (token, mut connection) = (free(), Connection::open(gateway.address).await);
    for left in (0..5).rev() {
        let answer = chat(&mut connection, GRANITE, &token).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert_eq!(answer.header("x-ratelimit-limit-requests"), Some("5"));
        assert_eq!(answer.header("x-ratelimit-remaining-requests"), Some(left.to_string().as_str()));
    }
    let refused = chat(&mut connection, GRANITE, &token).await;
    assert_eq!(refused.status, 429);
    assert_eq!(refused.header("content-type"), Some("application/json"));
    assert_eq!(refused.header("x-ext-auth-reason"), Some("TG-LIMIT-REQUESTS"));
    assert!(refused.header("retry-after").is_some_and(|wait| wait.parse::<u64>().is_ok_and(|wait| wait > 0)));
    let error = &refused.json()["error"];
    assert_eq!((error["reason"].as_str(), error["tier"].as_str()), (Some("TG-LIMIT-REQUESTS"), Some("free")));
    assert_eq!((error["model"].as_str(), error["limit"].as_u64()), (Some("llm/granite"), Some(5)));
    let line = tiergate.await_log("you have used your 5 requests");
    assert_eq!((line["tier"].as_str(), line["user.name"].is_string()), (Some("free"), true));
}

#[tokio::test]
async fn a_token_limit_refuses_once_usage_was_reported() {
    let manifests = slow_manifests();
    let tiergate = Tiergate::start(&manifests.0, RLS);
    let gateway = classic(&tiergate).await;
    let mut connection = Connection::open(gateway.address).await;
    let bearer = format!("Bearer {}", free());
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let body = r#"{"messages":[{"role":"user","content":"one two three"}],"max_tokens":57}"#;
    for (number, left) in [(1, "100"), (2, "40")] {
        let answer = connection.send("POST", GRANITE, &headers, body).await;
        assert_eq!((answer.status, answer.header("x-ratelimit-remaining-tokens")), (200, Some(left)));
        settled(&tiergate, number).await;
    }
    let refused = connection.send("POST", GRANITE, &headers, body).await;
    assert_eq!((refused.status, refused.header("x-ext-auth-reason")), (429, Some("TG-LIMIT-TOKENS")));
    assert_eq!(refused.header("x-ratelimit-remaining-requests"), Some("3"), "a refusal takes nothing");
    assert_eq!(tiergate.metric("tiergate_usage_reports_total", "settled").await, 2, "a refusal is not reported");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_hundred_requests_at_once_a_limit_of_five_lets_five_through() {
    let manifests = slow_manifests();
    let tiergate = Tiergate::start(&manifests.0, RLS);
    let gateway = classic(&tiergate).await;
    let (token, address) = (free(), gateway.address);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let token = token.clone();
        tasks.spawn(async move {
            let mut connection = Connection::open(address).await;
            chat(&mut connection, GRANITE, &token).await.status
        });
    }
    let mut statuses = tasks.join_all().await;
    statuses.sort_unstable();
    assert_eq!(statuses, [[200; 5].as_slice(), &[429; 95]].concat());
}

/// What the second call is not told must not open the gate: neither a value that is missing nor a descriptor that is.
#[tokio::test]
async fn a_request_whose_metadata_is_missing_is_refused() {
    let manifests = generous_manifests();
    let tiergate = Tiergate::start(&manifests.0, RLS);
    let token = free();
    let shipped = shipped("envoy/classic.yaml");
    for (from, to) in [
        ("path: [{key: tiergate}, {key: identity}]", "path: [{key: tiergate}, {key: nowhere}]"),
        ("path: [{key: tiergate}, {key: headers}]", "path: [{key: tiergate}, {key: nowhere}]"),
        ("path: [{key: tiergate}, {key: gateway}]", "path: [{key: tiergate}, {key: nowhere}]"),
        ("path: [{key: tiergate}, {key: listener}]", "path: [{key: tiergate}, {key: nowhere}]"),
        // Without a default the whole descriptor is dropped.
        ("{key: identity}]}\n                                default_value: not told", "{key: nowhere}]}"),
        ("header_name: \":path\"", "header_name: \"x-nobody-sends-this\""),
        // An entry that nobody thought of.
        ("descriptor_key: auth.identity", "descriptor_key: auth.identty"),
    ] {
        assert!(shipped.contains(from), "{from}");
        let gateway = gateway_by(&shipped.replace(from, to), &[tiergate.grpc.port()]).await;
        let answer = chat(&mut Connection::open(gateway.address).await, GRANITE, &token).await;
        assert_eq!(answer.status, 503, "{from}: {}", answer.body);
        assert_eq!(answer.json()["error"]["code"], "TG-UNAVAILABLE-LIMITS", "{from}");
        assert!(answer.header("retry-after").is_some(), "{from}");
    }
    let gateway = classic(&tiergate).await;
    assert_eq!(chat(&mut Connection::open(gateway.address).await, GRANITE, &token).await.status, 200);
}

#[tokio::test]
async fn a_dead_tiergate_is_503_whichever_call_finds_out() {
    let manifests = generous_manifests();
    let token = free();
    let tiergate = Tiergate::start(&manifests.0, RLS);
    let gateway = classic(&tiergate).await;
    let mut connection = Connection::open(gateway.address).await;
    assert_eq!(chat(&mut connection, GRANITE, &token).await.status, 200);
    drop(tiergate);
    let refused = chat(&mut connection, GRANITE, &token).await;
    assert_eq!((refused.status, refused.json()["error"]["code"].as_str()), (503, Some("TG-UNAVAILABLE-CHECK")));
    // One that answers Check, beside a port that nobody listens on for the limits.
    let alive = Tiergate::start(&manifests.0, RLS);
    let shipped = shipped("envoy/classic.yaml");
    let (before, limits) = shipped.split_once("domain: tiergate\n").unwrap();
    let limits = limits.replacen("cluster_name: tiergate}", "cluster_name: model}", 1);
    let gateway = gateway_by(&format!("{before}domain: tiergate\n{limits}"), &[alive.grpc.port()]).await;
    let refused = chat(&mut Connection::open(gateway.address).await, GRANITE, &token).await;
    assert_eq!((refused.status, refused.json()["error"]["code"].as_str()), (503, Some("TG-UNAVAILABLE-LIMITS")));
}

/// A gateway that asks twice of a tiergate that answers once: nothing is counted twice, and nothing passes.
#[tokio::test]
async fn two_calls_to_a_tiergate_that_takes_with_check_are_503() {
    let manifests = generous_manifests();
    let tiergate = Tiergate::start(&manifests.0, &[]);
    let gateway = classic(&tiergate).await;
    let refused = chat(&mut Connection::open(gateway.address).await, GRANITE, &free()).await;
    assert_eq!(refused.status, 503, "{}", refused.body);
    let line = tiergate.await_log("--enforce-limits rls");
    assert_eq!(line["level"], "WARN");
}

/// Nothing tells a gateway's question from another's.
#[tokio::test]
async fn it_is_said_at_the_start_who_is_believed_about_limits() {
    let believed = |tiergate: &Tiergate| {
        let line =
            tiergate.told.iter().find(|line| line["message"].as_str().is_some_and(|said| said.contains("believed")));
        line.cloned()
    };
    let line = believed(&Tiergate::start(&slow_manifests().0, RLS)).unwrap();
    // On loopback, as all tests are.
    assert_eq!((&line["level"], &line["remedy"]), (&"INFO".into(), &"keep it on loopback".into()), "{line}");
    assert_eq!(believed(&Tiergate::start(&slow_manifests().0, &[])), None, "one call believes nobody");
}

#[tokio::test]
async fn check_takes_nothing_where_the_second_call_does() {
    let tiergate = Tiergate::start(&slow_manifests().0, RLS);
    let channel = channel(&tiergate).await;
    let bearer = format!("Bearer {}", free());
    let mut reservation = String::new();
    for _ in 0..20 {
        let response = check(&channel, check_request(http(GRANITE, Some(&bearer)))).await;
        assert_eq!(outcome(&response), (200, ""));
        let own = own(&response);
        let identity: Value = serde_json::from_str(text(own, "identity")).unwrap();
        assert_eq!(identity, serde_json::json!({"tier": "free", "userid": "alice-12345678"}));
        assert_eq!((text(own, "headers"), text(own, "gateway")), ("{}", "openshift-ingress/maas-default-gateway"));
        reservation = text(own, "reservation").to_owned();
    }
    let mut client = RateLimitServiceClient::new(channel.clone());
    client.should_rate_limit(report(vec![descriptor(&reservation, Some("total"), Some(60))])).await.unwrap();
    assert_eq!(tiergate.metric("tiergate_usage_reports_total", "settled").await, 1);
    assert_eq!(tiergate.metric("tiergate_limit_decisions_total", "").await, 0);
}

/// The other mistake: a gateway that makes one call, before a tiergate that waits for two.
#[tokio::test]
async fn limits_that_nobody_asks_about_are_complained_of() {
    let tiergate = Tiergate::start(&slow_manifests().0, RLS);
    let gateway = gateway_of(&[tiergate.grpc.port()]).await;
    let answer = chat(&mut Connection::open(gateway.address).await, GRANITE, &free()).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let line = tiergate.await_log("no limit is enforced");
    assert_eq!(line["level"], "ERROR");
    assert_eq!(tiergate.metric("tiergate_decisions_total", "allowed").await, 0, "Check alone lets nobody through");
}
