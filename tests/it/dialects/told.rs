//! Usage in other words, of which each answer here is an example: what is counted, and what Envoy's filters cannot read.

use std::time::Instant;

use axum::body::Bytes;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::{Value, json};

use super::configs::{BY_LOG, LUA};
use crate::envoy::{gateway_before, shipped};
use crate::support::{Connection, PATIENCE, Tiergate, generous_manifests};
use crate::wire::premium;

const JSON: &str = "application/json";
const SSE: &str = "text/event-stream";

/// The content type of an answer (empty: none), the answer, and the tokens that are charged for it; `None` where it is charged by
/// its bytes.
const TOLD: [(&str, &str, Option<u64>); 21] = [
    // What Kuadrant counts.
    (JSON, r#"{"usage":{"total_tokens":60}}"#, Some(60)),
    (JSON, r#"{"usageMetadata":{"totalTokenCount":60}}"#, Some(60)),
    (JSON, r#"{"response":{"usage":{"total_tokens":60}}}"#, Some(60)),
    (JSON, r#"{"usage":{"inputTokens":10,"outputTokens":50,"totalTokens":60}}"#, Some(60)),
    (SSE, "data: {\"usage\":{\"total_tokens\":60}}\n\n", Some(60)),
    (SSE, "data: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"total_tokens\":60}}}\n\n", Some(60)),
    (
        SSE,
        "data: {\"usageMetadata\":{\"totalTokenCount\":7}}\n\ndata: {\"usageMetadata\":{\"totalTokenCount\":60}}\n\n",
        Some(60),
    ),
    (SSE, "data: {\"usage\":{\"totalTokens\":60}}\n\n", Some(60)),
    // Without a total the two are added, whichever events they stand in.
    (JSON, r#"{"type":"message","usage":{"input_tokens":10,"output_tokens":50}}"#, Some(60)),
    (SSE, "data: {\"type\":\"message_delta\",\"usage\":{\"input_tokens\":10,\"output_tokens\":50}}\n\n", Some(60)),
    (
        SSE,
        "data: {\"message\":{\"usage\":{\"input_tokens\":10,\"output_tokens\":1}}}\n\ndata: {\"usage\":{\"output_tokens\":50}}\n\n",
        Some(60),
    ),
    (JSON, r#"{"usageMetadata":{"promptTokenCount":10,"candidatesTokenCount":50}}"#, Some(60)),
    (JSON, r#"{"usage":{"inputTokens":10,"outputTokens":50}}"#, Some(60)),
    // Round numbers, which are easily written with an exponent; the last is the largest that a report carries.
    (JSON, r#"{"usage":{"total_tokens":100000}}"#, Some(100_000)),
    (SSE, "data: {\"usage\":{\"prompt_tokens\":300000,\"completion_tokens\":200000}}\n\n", Some(500_000)),
    (JSON, r#"{"usage":{"total_tokens":1000000000}}"#, Some(1_000_000_000)),
    // What is said of the type.
    ("application/json; charset=utf-8", r#"{"usage":{"total_tokens":60}}"#, Some(60)),
    ("application/problem+json", r#"{"usage":{"total_tokens":60}}"#, Some(60)),
    ("", r#"{"usage":{"total_tokens":60}}"#, Some(60)),
    ("Text/Event-Stream; charset=utf-8", "data: {\"usage\":{\"total_tokens\":60}}\n\n", Some(60)),
    // A total of another name does not take its place.
    (SSE, "data: {\"usage\":{\"total_tokens\":60}}\n\ndata: {\"usageMetadata\":{\"totalTokenCount\":0}}\n\n", Some(60)),
];

/// What is charged for what Envoy's own readers read, by a call and by a log, and for what Lua does. README.md beside the configuration
/// names what is charged by its bytes.
const APART: [(&str, &str, [Option<u64>; 3]); 16] = [
    (
        SSE,
        "data: {\"usage\":{\"total_tokens\":60}}\n\ndata: {\"usage\":{\"total_tokens\":0}}\n\n",
        [None, None, Some(60)],
    ),
    (SSE, "data: {\"usage\":{\"total_tokens\":60}}\n", [None, None, Some(60)]),
    (SSE, "data: {\"usage\":{\"total_tokens\":60}}\r\r", [None, None, Some(60)]),
    ("text/plain", r#"{"usage":{"total_tokens":60}}"#, [None, None, None]),
    ("", "data: {\"usage\":{\"total_tokens\":60}}\n\n", [None, None, None]),
    (JSON, r#"[{"usageMetadata":{"totalTokenCount":60}}]"#, [None, None, Some(60)]),
    ("application/x-ndjson", "{\"usage\":{\"total_tokens\":60}}\n{}\n", [None, None, Some(60)]),
    (
        "application/x-ndjson",
        "{\"no\n{\"done\":true,\"prompt_eval_count\":10,\"eval_count\":50}\n",
        [None, None, Some(60)],
    ),
    (JSON, r#"{"done":true,"prompt_eval_count":10,"eval_count":50}"#, [None, None, Some(60)]),
    // Of Messages, what was cached stands beside the input.
    (
        JSON,
        r#"{"usage":{"input_tokens":1,"cache_read_input_tokens":6,"cache_creation_input_tokens":3,"output_tokens":50}}"#,
        [Some(51), Some(51), Some(60)],
    ),
    // Some models tell it both ways; and text is no number of its own.
    (
        JSON,
        r#"{"usage":{"prompt_tokens":10,"cache_read_input_tokens":6,"completion_tokens":50}}"#,
        [Some(60), Some(60), Some(60)],
    ),
    (JSON, r#"{"a":"\"usage\":{\"total_tokens\":1}","usage":{"total_tokens":59.5}}"#, [Some(59), Some(60), Some(60)]),
    (JSON, r#"{"usage":{"total_tokens":-60}}"#, [None, None, None]),
    (JSON, r#"{"usage":{"total_tokens":2000000000}}"#, [None, Some(1_000_000_000), Some(1_000_000_000)]),
    (JSON, r#"{"usage":{"total_tokens":9223372036854775808}}"#, [None, None, Some(1_000_000_000)]),
    (JSON, r#"<p>{"usage":{"total_tokens":60}}"#, [None, None, None]),
];

/// Answers what the request says that it should.
async fn answer(body: Bytes) -> Response {
    let request: Value = serde_json::from_slice(&body).unwrap();
    let text = request["text"].as_str().unwrap().to_owned();
    let mut response = text.into_response();
    match request["kind"].as_str().unwrap() {
        "" => response.headers_mut().remove(CONTENT_TYPE),
        kind => response.headers_mut().insert(CONTENT_TYPE, kind.parse().unwrap()),
    };
    response
}

/// Where the model listens.
async fn model() -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(post(answer))).await });
    port
}

#[tokio::test]
async fn usage_in_other_words_is_counted_where_envoy_can_read_it() {
    let manifests = generous_manifests();
    let bearer = format!("Bearer {}", premium());
    for (file, flags) in super::SETUPS {
        let tiergate = Tiergate::start(&manifests.0, flags);
        let gateway = gateway_before(&shipped(file), &[tiergate.grpc.port()], model().await).await;
        let mut connection = Connection::open(gateway.address).await;
        let mut others = Vec::new();
        let column = match file {
            LUA => 2,
            BY_LOG => 1,
            _ => 0,
        };
        let apart = APART.map(|(kind, text, charged)| (kind, text, charged[column]));
        for (at, (kind, text, expected)) in TOLD.into_iter().chain(apart).enumerate() {
            let (reports, tokens) = ("tiergate_usage_reports_total", "tiergate_usage_tokens_total");
            let (settled, total) = (tiergate.metric(reports, "\"settled\"").await, "usage=\"total\"");
            let before = tiergate.metric(tokens, total).await;
            let headers = [("authorization", bearer.as_str()), ("content-type", JSON)];
            let body = json!({"kind": kind, "text": text}).to_string();
            let answer = connection.send("POST", "/llm/qwen3/v1/chat/completions", &headers, &body).await;
            assert_eq!((answer.status, answer.body.as_str()), (200, text), "{kind}");
            let started = Instant::now();
            while tiergate.metric(reports, "").await <= at as u64 {
                assert!(started.elapsed() < PATIENCE, "{text} is reported");
                tokio::task::yield_now().await;
            }
            let counted = tiergate.metric(reports, "\"settled\"").await > settled;
            let charged = counted.then_some(tiergate.metric(tokens, total).await - before);
            if charged != expected {
                others.push((kind, text, charged, expected));
            }
        }
        assert_eq!(tiergate.metric("tiergate_usage_reports_total", "\"no_usage\"").await, 0, "{file}: none is free");
        assert!(others.is_empty(), "{file}: kind, answer, charged, expected: {others:#?}");
    }
}
