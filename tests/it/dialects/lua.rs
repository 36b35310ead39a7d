//! The Lua filter of `envoy/lua.yaml`: what it makes of requests, what it tells of answers, and what becomes of both when it fails.

use axum::body::Bytes;
use axum::http::HeaderMap;
use axum::response::IntoResponse;
use axum::routing::post;
use serde_json::json;
use tokio::io::AsyncReadExt;

use super::configs::{self, LUA};
use super::{DIALECTS, LUA_DIALECTS, World};
use crate::envoy::{gateway_before, shipped};
use crate::support::{Connection, Folder, PATIENCE, Tiergate, generous_manifests};
use crate::wire::premium;

const CHAT: &str = "/v1/chat/completions";
const FORCED: &str = r#""include_usage":true,"continuous_usage_stats":true"#;

/// The path below the model's prefix, what is sent, and what arrives: `FORCED` stands for what is forced, and nothing means that it
/// is refused.
const BODIES: [(&str, &str, &str); 25] = [
    (CHAT, r#"{"stream":true}"#, r#"{"stream_options":{FORCED},"stream":true}"#),
    (CHAT, r#" {"a":"é","stream" : true }"#, r#" {"stream_options":{FORCED},"a":"é","stream" : true }"#),
    ("/v1/completions", r#"{"stream":true}"#, r#"{"stream_options":{FORCED},"stream":true}"#),
    ("/v1/completions?x=/v1/messages", r#"{"stream":true}"#, r#"{"stream_options":{FORCED},"stream":true}"#),
    // The client's other options stay, and what it says of ours does not.
    (CHAT, r#"{"stream_options":{},"stream":true}"#, r#"{"stream_options":{FORCED},"stream":true}"#),
    (CHAT, r#"{"stream":true,"stream_options":null}"#, r#"{"stream":true,"stream_options":{FORCED}}"#),
    (
        CHAT,
        r#"{"stream_options":{"x":[{"include_usage":false}], "include_usage" : false},"stream":true}"#,
        r#"{"stream_options":{"continuous_usage_stats":true,"x":[{"include_usage":false}], "include_usage" : true},"stream":true}"#,
    ),
    (
        CHAT,
        r#"{"stream_options":{"include\u005fusage":false,"continuous_usage_stats":null},"stream":true}"#,
        r#"{"stream_options":{"include\u005fusage":true,"continuous_usage_stats":true},"stream":true}"#,
    ),
    // Numbers, order and duplicates of other keys stay as they are.
    (
        CHAT,
        r#"{"seed":12345678901234567890,"b":1,"a":1.0,"b":2,"max_tokens":300000,"stream":true}"#,
        r#"{"stream_options":{FORCED},"seed":12345678901234567890,"b":1,"a":1.0,"b":2,"max_tokens":300000,"stream":true}"#,
    ),
    (CHAT, r#"{"str\u0065am":true}"#, r#"{"stream_options":{FORCED},"str\u0065am":true}"#),
    (CHAT, r#"{"a":"\"}","stream":true}"#, r#"{"stream_options":{FORCED},"a":"\"}","stream":true}"#),
    // Nothing is added.
    (CHAT, r#"{"stream":false,"stream_options":{"a":1}}"#, r#"{"stream":false,"stream_options":{"a":1}}"#),
    (CHAT, r#"{"a":{"stream":true},"b":"{\"stream\":true}"}"#, r#"{"a":{"stream":true},"b":"{\"stream\":true}"}"#),
    (CHAT, r#"["stream",true]"#, r#"["stream",true]"#),
    ("/v1/messages", r#"{"stream":true}"#, r#"{"stream":true}"#),
    ("/v1/responses", r#"{"stream":true}"#, r#"{"stream":true}"#),
    ("/api/chat", r#"{"stream":true}"#, r#"{"stream":true}"#),
    // Models would take these one as this and one as that.
    (CHAT, r#"{"stream":true,"stream":false}"#, ""),
    (CHAT, r#"{"stream":true,"stream_options":{},"stream_options":{}}"#, ""),
    (CHAT, r#"{"stream":true,"stream_options":[]}"#, ""),
    (CHAT, r#"{"stream":[true]}"#, ""),
    (CHAT, r#"{"Stream":true}"#, ""),
    (CHAT, r#"{"stream":false}{"stream":true}"#, ""),
    (CHAT, r#"{"stream":true"#, ""),
    (CHAT, "\u{1f}\u{8b}", ""),
];

/// Where a model listens that answers with the body that it got, as text.
async fn mirror() -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer = async |headers: HeaderMap, body: Bytes| {
        assert_eq!(headers["content-length"], body.len().to_string());
        body.into_response()
    };
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(post(answer))).await });
    port
}

/// `accept-encoding` is removed, and some models compress all the same.
#[tokio::test]
async fn a_compressed_answer_passes_and_is_charged_by_its_bytes() {
    let answer =
        async || ([("content-encoding", "gzip"), ("content-type", "application/json")], vec![0x1f, 0x8b, 0x08]);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(post(answer))).await });
    let manifests = generous_manifests();
    let tiergate = Tiergate::start(&manifests.0, &[]);
    let gateway = gateway_before(&shipped(LUA), &[tiergate.grpc.port()], port).await;
    let bearer = format!("Bearer {}", premium());
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let mut connection = Connection::open(gateway.address).await;
    let answer = connection.send("POST", &format!("/llm/qwen3{CHAT}"), &headers, r#"{"messages":[]}"#).await;
    assert_eq!((answer.status, answer.header("content-length")), (200, Some("3")));
    let started = std::time::Instant::now();
    while tiergate.metric("tiergate_usage_reports_total", "\"estimated\"").await == 0 {
        assert!(started.elapsed() < PATIENCE, "it is reported");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_request_stays_as_it_came_but_for_what_is_forced() {
    let manifests = generous_manifests();
    let tiergate = Tiergate::start(&manifests.0, &[]);
    let gateway = gateway_before(&shipped(LUA), &[tiergate.grpc.port()], mirror().await).await;
    let bearer = format!("Bearer {}", premium());
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let mut faults = Vec::new();
    for (path, sent, arrives) in BODIES {
        let mut connection = Connection::open(gateway.address).await;
        let answer = connection.send("POST", &format!("/llm/qwen3{path}"), &headers, sent).await;
        let expected = arrives.replace("FORCED", FORCED);
        let is_refused = answer.status == 400 && answer.body.contains("TG-BODY-UNREADABLE");
        if is_refused != expected.is_empty() || !is_refused && answer.body != expected {
            faults.push((path, sent, answer.status, answer.body));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
    assert_eq!(gateway.stat("http.inference.lua.errors").await, 0);
}

/// A world whose Envoy writes down what the filter told of each answer, and where.
async fn telling() -> (World, Folder) {
    let folder = Folder::new();
    let format = r#"usage: "%DYNAMIC_METADATA(tiergate.usage)%", request: "%DYNAMIC_METADATA(tiergate.request)%""#;
    let config = configs::telling(&shipped(LUA), &folder.0.join("told"), format);
    (World::by(&config, &[], &[]).await, folder)
}

#[tokio::test]
async fn the_end_of_an_answer_is_seen_and_its_chunks_are_counted() {
    let (world, folder) = telling().await;
    let mut answers = 0;
    for dialect in DIALECTS.iter().chain(&LUA_DIALECTS) {
        // What comes before the words, and after them: the end, and the usage where it has an event of its own.
        let around = match dialect.name {
            _ if !dialect.stream => 1,
            "chat" | "completions" => 2,
            "Messages" => 3,
            "Responses" => 2,
            _ => 1,
        };
        let words = if dialect.stream { 3 } else { 0 };
        for (manner, chunks, is_ended) in [
            (json!({"text": "one two three"}), around + words, true),
            (json!({"text": "one two three", "usage": "never", "no_done": true}), around + words, true),
            (json!({"text": "one two three", "break_after": 2}), 2, false),
        ] {
            if manner.get("break_after").is_some() && !dialect.stream {
                continue;
            }
            // The event with the usage alone is not sent where there is none.
            let is_apart = matches!(dialect.name, "chat" | "completions") && dialect.stream;
            let chunks = chunks - usize::from(is_apart && manner.get("usage").is_some());
            world.ask(dialect, &dialect.sample(3, 20, &manner)).await.closed().await;
            answers += 1;
            let told = world.told(&folder.0.join("told"), answers).await.pop().unwrap();
            let what = format!("{}, stream {}, {manner}: {told}", dialect.name, dialect.stream);
            assert_eq!(told["usage"]["chunks"], chunks, "{what}");
            assert_eq!(told["usage"].get("ended"), is_ended.then_some(&json!(1)), "{what}");
            assert_eq!(told["request"] == json!({"streams": 1}), dialect.stream, "{what}");
        }
    }
}

/// Whatever goes wrong in the script, what the client and the model get is as it would be without it.
#[tokio::test]
async fn a_script_that_fails_breaks_no_answer_and_makes_none_free() {
    let dialect = DIALECTS.iter().find(|dialect| dialect.name == "chat" && dialect.stream).unwrap();
    let ask = async |world: &World, body: &str| {
        Connection::open(world.gateway.address).await.send("POST", &dialect.path(), &world.headers(), body).await
    };
    for (function, of_request) in
        [("function Usage:take(chunk)\n", false), ("local function examined(text, kind, path)\n", true)]
    {
        let config = shipped(LUA);
        assert_eq!(config.matches(function).count(), 1);
        let broken =
            config.replace(function, &format!("{function}                            do error(\"broken\") end\n"));
        let world = World::by(&broken, &[], &[]).await;
        for at in 1..=3 {
            let answer = ask(&world, &dialect.sample(3, 20, &json!({"text": "one two"}))).await;
            assert_eq!(answer.status, 200, "{}", answer.body);
            assert!(answer.body.ends_with("data: [DONE]\n\n"), "{}", answer.body);
            assert_eq!(answer.body.contains("\"total_tokens\":23"), !of_request, "{}", answer.body);
            world.reported(at).await;
            assert_eq!(world.tiergate.metric("tiergate_usage_reports_total", "\"estimated\"").await, at as u64);
        }
    }
}

/// Envoy holds as much of an answer as before, and the script nothing.
#[tokio::test]
async fn an_event_of_any_size_passes_is_charged_and_is_not_held() {
    const SIZE: usize = 64 << 20;
    let world = World::start(LUA, &[], &[]).await;
    let mut answers = 0;
    for dialect in DIALECTS.iter().filter(|dialect| dialect.name == "Responses" || dialect.name == "embeddings") {
        for size in [1, SIZE] {
            let (before, peak) = (world.charged().await, world.gateway.peak_memory());
            let body = dialect.sample(3, 20, &json!({"text": "one", "padding": size}));
            let mut connection = world.ask(dialect, &body).await;
            let (mut bytes, mut buffer) = (0, vec![0; 1 << 20]);
            loop {
                match tokio::time::timeout(PATIENCE, connection.stream.read(&mut buffer)).await.expect("it goes on") {
                    Ok(0) => break,
                    read => bytes += read.unwrap(),
                }
            }
            assert!(bytes > size, "all of it passes: {bytes}");
            answers += 1;
            world.reported(answers).await;
            let (charged, line) = (world.charged().await - before, world.gateway.account().pop().unwrap());
            assert_eq!(charged, super::sent(&line), "{}, {size}", dialect.name);
            let more = world.gateway.peak_memory() - peak;
            println!("{}, stream {}: {bytes} bytes passed, {more} KiB more", dialect.name, dialect.stream);
            assert!(more < 40 << 10, "{more} KiB more at the most");
        }
    }
}
