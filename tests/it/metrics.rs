//! What an operator sees: the log of refusals.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::core::v3::address::Address as Kind;
use envoy_types::pb::envoy::config::core::v3::{Address, SocketAddress};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::Peer;
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::wire::{channel, check, check_request, demo, http, outcome, premium};

/// A request from an address.
fn from(address: &str, path: &str, authorization: Option<&str>) -> CheckRequest {
    let mut request = check_request(http(path, authorization));
    let socket = SocketAddress { address: address.to_owned(), ..SocketAddress::default() };
    let address = Some(Address { address: Some(Kind::SocketAddress(socket)) });
    if let Some(AttributeContext { source, .. }) = &mut request.attributes {
        *source = Some(Peer { address, ..Peer::default() });
    }
    request
}

/// Sends them, 64 at a time; all are refused.
async fn refused(channel: &Channel, requests: Vec<CheckRequest>) {
    let mut workers = JoinSet::new();
    let requests = std::sync::Arc::new(parking_lot::Mutex::new(requests));
    for _ in 0..64 {
        let (channel, requests) = (channel.clone(), std::sync::Arc::clone(&requests));
        workers.spawn(async move {
            let mut client = AuthorizationClient::new(channel);
            loop {
                let Some(request) = requests.lock().pop() else { break };
                let answer = client.check(request).await.unwrap().into_inner();
                assert_ne!(outcome(&answer).0, 200);
            }
        });
    }
    workers.join_all().await;
}

#[tokio::test]
async fn a_flood_of_refusals_is_told_in_a_few_lines_that_add_up() {
    let tiergate = demo(&["--drain-delay", "0s"]);
    let channel = channel(&tiergate).await;
    let (good, qwen) = (format!("Bearer {}", premium()), "/llm/qwen3/v1/chat/completions");
    let mut requests = Vec::new();
    for number in 0..5_000 {
        // From thousands of callers without a token; of one caller, for a model that is not theirs; from three addresses.
        requests.push(from(&format!("10.0.{}.{}", number / 250, number % 250), qwen, None));
        requests.push(from("10.1.0.1", &format!("/llm/draft/v1/{number}"), Some(&good)));
        requests.push(from(&format!("10.2.0.{}", number % 3), qwen, Some("Bearer x")));
        requests.push(from("10.3.0.1", &format!("/nowhere-{number}"), None));
    }
    let all = requests.len() as u64;
    assert_eq!(all, 20_000);
    refused(&channel, requests).await;
    let counted = tiergate.metric("tiergate_decisions_total", "outcome=\"refused\"").await;
    drop(channel);
    tiergate.signal("TERM");
    let (status, log) = tiergate.ended().await;
    assert!(status.success());
    let told: Vec<_> = log.iter().filter(|line| line["target"] == "tiergate::decision").collect();
    assert!(told.len() < 1_000, "{} lines", told.len());
    let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
    for line in &told {
        *sums.entry(line["code"].as_str().unwrap()).or_default() += line["more"].as_u64().unwrap_or(1);
    }
    let expected = ["TG-ACCESS-DENIED", "TG-ROUTE-UNKNOWN", "TG-TOKEN-MALFORMED", "TG-TOKEN-MISSING"];
    assert_eq!(sums, expected.into_iter().map(|code| (code, 5_000)).collect());
    assert_eq!((sums.values().sum::<u64>(), counted), (all, all));
    let summary = told.iter().find(|line| line["more"].is_u64() && line["code"] == "TG-ACCESS-DENIED").unwrap();
    assert_eq!(summary["user.name"], "system:serviceaccount:maas-default-gateway-tier-premium:jland-78028f6d");
    assert!(summary["message"].as_str().unwrap().starts_with("and "), "{summary}");
}

#[tokio::test]
async fn the_line_of_a_refusal_says_who_asked_for_what_and_no_secret() {
    let tiergate = demo(&[]);
    let channel = channel(&tiergate).await;
    let good = format!("Bearer {}", premium());
    let mut request = from("10.9.8.7", "/llm/draft/v1/chat?api_key=canary", Some(&good));
    let http = request.attributes.as_mut().unwrap().request.as_mut().unwrap().http.as_mut().unwrap();
    http.headers.insert("x-request-id".to_owned(), "4f1c-77".to_owned());
    assert_eq!(outcome(&check(&channel, request).await).0, 403);
    let line = tiergate.log_until("").into_iter().find(|line| line["code"] == "TG-ACCESS-DENIED").unwrap();
    for (field, expected) in [
        ("request.method", "POST"),
        ("request.host", "models"),
        ("request.path", "/llm/draft/v1/chat"),
        ("request.id", "4f1c-77"),
        ("client.address", "10.9.8.7"),
        ("user.name", "system:serviceaccount:maas-default-gateway-tier-premium:jland-78028f6d"),
        ("tier", "premium"),
        ("model", "llm/draft"),
    ] {
        assert_eq!(line[field], expected, "{line}");
    }
    assert_eq!(line["status"], 403);
    // In paths, hosts and ids too: in the log, and on the page that explains.
    let secrets =
        ["/a/sk-canary0123456789abcdef", "/a;password=canary", "/llm/AKIACANARY0123456789", "/Basic%20Y2FuYXJ5OnB3"];
    for path in secrets {
        let mut request = from("10.9.8.8", path, None);
        let http = request.attributes.as_mut().unwrap().request.as_mut().unwrap().http.as_mut().unwrap();
        http.host = "https://me:canary@x".to_owned();
        http.headers.insert("x-request-id".to_owned(), "token=canary".to_owned());
        assert_ne!(outcome(&check(&channel, request).await).0, 200);
    }
    let mut outputs = vec![crate::support::get(tiergate.admin, "/explain?format=json").await.body];
    for entry in
        crate::support::get(tiergate.admin, "/explain?format=json").await.json()["decisions"].as_array().unwrap()
    {
        let page = format!("/explain/{}", entry["decision_id"].as_str().unwrap());
        outputs.push(crate::support::get(tiergate.admin, &page).await.body);
        outputs.push(crate::support::get(tiergate.admin, &format!("{page}?format=json")).await.body);
    }
    tiergate.signal("TERM");
    let (_, log) = tiergate.ended().await;
    outputs.extend(log.iter().map(ToString::to_string));
    assert!(outputs.iter().filter(|output| output.contains("(a secret)")).count() > 8, "{outputs:#?}");
    let told = outputs.iter().find(|output| {
        let output = output.to_ascii_lowercase();
        output.contains("canary") || output.contains("y2fuyxj5")
    });
    assert!(told.is_none(), "{told:?}");
}
