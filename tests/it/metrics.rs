//! What an operator sees: `/metrics`, and the log of refusals.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use envoy_types::pb::envoy::config::core::v3::address::Address as Kind;
use envoy_types::pb::envoy::config::core::v3::{Address, SocketAddress};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::Peer;
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::support::{Answer, Connection, Tiergate, root};
use crate::wire::{channel, check, check_request, demo, http, outcome, premium};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// What Prometheus 3 sends.
const PROMETHEUS: &str = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
    application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
    text/plain;version=0.0.4;q=0.3,*/*;q=0.2";

async fn page(tiergate: &Tiergate, accept: &str) -> Answer {
    Connection::open(tiergate.http).await.send("GET", "/metrics", &[("accept", accept)], "").await
}

/// The families of docs/metrics.md, by the names of their series.
fn documented() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(root("docs/metrics.md")).unwrap();
    let sections = text.split("\n### `").skip(1).map(|section| section.split_once("`\n\n").unwrap());
    let sections = sections.filter(|(name, _)| cfg!(target_os = "linux") || !name.starts_with("process_"));
    let kind = |text: &str| ["counter", "gauge", "histogram"].into_iter().find(|k| text.contains(&format!(" A {k};")));
    sections.map(|(name, text)| (name.to_owned(), kind(text).unwrap().to_owned())).collect()
}

/// Names of families and their types, as `parser` of PyPI's prometheus_client has them.
fn parsed(parser: &str, page: &str) -> BTreeMap<String, String> {
    let output = Command::new(root("scripts/prometheus_client.sh")).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "scripts/prometheus_client.sh installs prometheus_client");
    let package = String::from_utf8(output.stdout).unwrap().lines().last().unwrap().to_owned();
    let program = format!(
        "import json, sys\n\
         from prometheus_client{parser} import text_string_to_metric_families as parse\n\
         families = list(parse(sys.stdin.read()))\n\
         assert sum(len(family.samples) for family in families) > 200\n\
         assert all(family.documentation for family in families), families\n\
         print(json.dumps({{family.name: family.type for family in families}}))"
    );
    let mut python = Command::new("python3");
    python.args(["-c", &program]).env("PYTHONPATH", package).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut python = python.spawn().unwrap();
    python.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success(), "{parser} does not read the page:\n{page}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn the_parsers_of_prometheus_read_the_page_in_both_formats_and_find_every_family() {
    if Command::new("python3").arg("--version").output().is_err() {
        eprintln!("SKIPPED: there is no python3, so no parser of Prometheus' has read /metrics");
        return;
    }
    let tiergate = demo(&[]);
    let channel = channel(&tiergate).await;
    let fresh = (page(&tiergate, PROMETHEUS).await.body, page(&tiergate, TEXT).await.body);
    for authorization in [Some(format!("Bearer {}", premium())), None] {
        check(&channel, check_request(http("/llm/qwen3/v1/chat/completions", authorization.as_deref()))).await;
    }
    let used = (page(&tiergate, PROMETHEUS).await.body, page(&tiergate, TEXT).await.body);
    // The parsers name a counter without its suffix in either format.
    let name = |(name, kind): (String, String)| (name.trim_end_matches("_total").to_owned(), kind);
    let expected: BTreeMap<_, _> = documented().into_iter().map(name).collect();
    assert!(expected.len() > 40, "{expected:?}");
    for (open, text) in [fresh, used] {
        assert_eq!(parsed(".openmetrics.parser", &open), expected);
        assert_eq!(parsed(".parser", &text), expected);
    }
}

#[tokio::test]
async fn each_gets_the_format_that_it_asks_for() {
    let tiergate = demo(&[]);
    for (accept, kind) in [
        (PROMETHEUS, OPEN_METRICS),
        ("application/openmetrics-text", OPEN_METRICS),
        ("*/*", TEXT),
        ("text/plain", TEXT),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", TEXT),
    ] {
        let answer = page(&tiergate, accept).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, Some(kind)), "{accept}");
        let open = kind == OPEN_METRICS;
        assert_eq!(answer.body.ends_with("# EOF\n"), open, "{accept}");
        assert_eq!(answer.body.contains("# TYPE tiergate_decisions counter\n"), open, "{accept}");
        assert_eq!(answer.body.contains("# TYPE tiergate_decisions_total counter\n"), !open, "{accept}");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_process_tells_what_it_costs_and_which_it_is() {
    let tiergate = demo(&[]);
    let page = page(&tiergate, TEXT).await.body;
    let number = |name: &str| {
        let line = page.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name} in {page}"));
        line.trim().parse::<f64>().unwrap()
    };
    let resident = number("process_resident_memory_bytes ") / 1024.0;
    let seen = tiergate.memory() as f64;
    assert!((resident - seen).abs() < seen / 2.0, "{resident} KiB, and /proc has {seen}");
    assert!(number("process_virtual_memory_bytes ") > number("process_resident_memory_bytes "));
    let open = number("process_open_fds ");
    assert!((5.0..200.0).contains(&open) && open < number("process_max_fds "), "{open}");
    assert!((0.001..60.0).contains(&number("process_cpu_seconds_total ")));
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    let started = number("process_start_time_seconds ");
    assert!((now - 120.0..now + 2.0).contains(&started), "{started}, now {now}");
    let version = format!("tiergate_build_info{{version=\"{}\"}} ", env!("CARGO_PKG_VERSION"));
    assert_eq!(number(&version), 1.0);
}

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
    let before = page(&tiergate, TEXT).await.body.lines().count();
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
    assert_eq!(page(&tiergate, TEXT).await.body.lines().count(), before, "callers and paths make no series");
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
