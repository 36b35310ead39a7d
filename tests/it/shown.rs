//! Callers ask the gateway what is left of their limits, behind a real Envoy with the configurations that are shipped.

use serde_json::{Value, json};

use crate::envoy::{Gateway, chat, gateway_by, shipped};
use crate::support::{Answer, Connection, Tiergate, get, root, token};

const ROOT: &str = "/v1/limits";
const GRANITE: &str = "/llm/granite/v1/chat/completions";

fn free() -> String {
    token("maas-default-gateway-tier-free", "alice-12345678", &root("examples/manifests"))
}

async fn ask(gateway: &Gateway, path: &str, token: Option<&str>) -> Answer {
    let bearer = token.map(|token| format!("Bearer {token}"));
    let headers: Vec<_> = bearer.iter().map(|bearer| ("authorization", &**bearer)).collect();
    Connection::open(gateway.address).await.send("GET", path, &headers, "").await
}

/// Name, and what is used, of each limit.
fn used(answer: &Answer) -> Vec<(String, Value)> {
    assert_eq!(answer.status, 200, "{}", answer.body);
    let shown = answer.json();
    let limits = shown["limits"].as_array().unwrap().iter();
    limits.map(|limit| (limit["name"].as_str().unwrap().to_owned(), limit["used"].clone())).collect()
}

fn requests(used: u64) -> (String, Value) {
    ("openshift-ingress/gateway-rate-limits/free".to_owned(), json!(used))
}

#[tokio::test]
async fn the_gateway_answers_in_place_of_a_model_in_every_setup() {
    for (config, flags) in [
        ("envoy/tiergate.yaml", &[][..]),
        ("envoy/lua.yaml", &[]),
        ("envoy/report-by-call.yaml", &[]),
        ("envoy/classic.yaml", &["--enforce-limits", "rls"]),
        ("envoy/tiergate.yaml", &["--shadow"]),
    ] {
        let tiergate = Tiergate::start(&root("examples/manifests"), flags);
        let gateway = gateway_by(&shipped(config), &[tiergate.grpc.port()]).await;
        let free = free();
        let answer = ask(&gateway, ROOT, Some(&free)).await;
        assert_eq!(used(&answer)[0], requests(0), "{config}");
        assert_eq!(answer.header("content-type"), Some("application/json"), "{config}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{config}");
        let mut connection = Connection::open(gateway.address).await;
        assert_eq!(chat(&mut connection, GRANITE, &free).await.status, 200, "{config}");
        for path in [ROOT, "/llm/granite/v1/limits"] {
            assert_eq!(used(&ask(&gateway, path, Some(&free)).await)[0], requests(1), "{config} {path}");
        }
        let mut head = Connection::open(gateway.address).await;
        let request =
            format!("HEAD {ROOT} HTTP/1.1\r\nhost: m\r\nauthorization: Bearer {free}\r\nconnection: close\r\n\r\n");
        head.write(request.as_bytes()).await;
        let head = head.closed().await;
        assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{config}: {head}");
        if !flags.contains(&"--shadow") {
            let stranger = ask(&gateway, ROOT, None).await;
            assert_eq!((stranger.status, &stranger.json()["error"]["code"]), (401, &json!("TG-TOKEN-MISSING")));
            assert_eq!(ask(&gateway, "/llm/qwen3/v1/limits", Some(&free)).await.status, 403, "{config}");
            assert_eq!(ask(&gateway, "/llm//v1/limits", Some(&free)).await.status, 400, "{config}");
        }
        // No model saw them, and none of them is a refusal.
        assert_eq!(gateway.account().len(), 1, "{config}");
        assert_eq!(tiergate.metric("tiergate_decisions_total", "outcome=\"shown\"").await, 4, "{config}");
        let refused = get(tiergate.admin, "/explain").await.body;
        let expected = if flags.contains(&"--shadow") { 0 } else { 3 };
        assert_eq!(refused.matches("/v1/limits").count(), expected, "{config}: {refused}");
    }
}

/// What a Gateway's controller makes of an HTTPRoute without `backendRefs`: an error that Envoy answers by itself, once its filters
/// let the request through.
#[tokio::test]
async fn a_route_without_a_backend_is_enough() {
    let tiergate = Tiergate::start(&root("examples/manifests"), &[]);
    let config = shipped("envoy/tiergate.yaml");
    let every = "                        - match: {prefix: /}\n";
    assert!(config.contains(every));
    let own = "                        - match: {path: /v1/limits}\n                          direct_response: {status: 500}\n";
    let gateway = gateway_by(&config.replace(every, &format!("{own}{every}")), &[tiergate.grpc.port()]).await;
    assert_eq!(used(&ask(&gateway, ROOT, Some(&free())).await)[0], requests(0));
    assert_eq!(ask(&gateway, ROOT, None).await.status, 401);
}
