//! An OpenAI-like model server whose usage can be foretold, so that limits can be watched at work.
//!
//! `POST …/v1/chat/completions` answers JSON, or server-sent events for `"stream": true`; a stream carries `usage` only
//! when `stream_options.include_usage` asks for it. The answer's text names the headers that arrived.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Json, Response};
use clap::Parser;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Parser)]
#[command(about = "An OpenAI-like model server whose usage can be foretold")]
struct Args {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:8000")]
    listen: SocketAddr,
}

#[derive(Deserialize)]
struct ChatRequest {
    model: Option<String>,
    messages: Vec<Message>,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    #[serde(default)]
    stream: bool,
    stream_options: Option<StreamOptions>,
}

#[derive(Deserialize)]
struct Message {
    content: Option<Content>,
}

/// A message's text, whole or in parts; parts without text (images) count nothing.
#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
struct Part {
    #[serde(default)]
    text: String,
}

#[derive(Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

/// What every chunk of an answer, or the whole of it, is made from.
struct Answer {
    model: String,
    created: u64,
    content: String,
    usage: Value,
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let args = Args::parse();
    let listener = listen(args.listen)?;
    println!("model: listening on {}", listener.local_addr()?);
    let app = Router::new().fallback(serve).layer(DefaultBodyLimit::max(16 << 20));
    let mut terminated = signal(SignalKind::terminate())?;
    let stopped = async move {
        tokio::select! {
            _ = terminated.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    };
    axum::serve(listener, app).with_graceful_shutdown(stopped).await
}

/// A gateway that was asked by many at once connects as often at once. What the queue has no room for is dropped, and tried again after
/// a second, which may be all that the gateway waits; the usual 128 are soon full while this process has no turn.
fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(4_096)
}

/// The gateway forwards `/<namespace>/<model>/v1/…` as it came, so only the end of the path tells what is meant.
async fn serve(method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let path = uri.path();
    let chat_prefix = path.strip_suffix("/v1/chat/completions");
    let models_prefix = path.strip_suffix("/v1/models");
    match (chat_prefix, models_prefix, method) {
        (Some(prefix), _, Method::POST) => chat(prefix, &headers, &body),
        (_, Some(prefix), Method::GET) => models(prefix),
        (None, None, _) => refuse(StatusCode::NOT_FOUND, format!("no such path: `{path}`")),
        (.., method) => refuse(StatusCode::METHOD_NOT_ALLOWED, format!("`{method}` is not allowed here")),
    }
}

fn chat(prefix: &str, headers: &HeaderMap, body: &[u8]) -> Response {
    let request: ChatRequest = match serde_json::from_slice(body) {
        Ok(request) => request,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, format!("not a chat request: {error}")),
    };
    if request.stream_options.is_some() && !request.stream {
        return refuse(StatusCode::BAD_REQUEST, "`stream_options` is only for requests with `stream: true`".into());
    }
    let answer = Answer::to(&request, prefix, headers);
    if request.stream {
        let with_usage = request.stream_options.is_some_and(|options| options.include_usage);
        answer.stream(with_usage)
    } else {
        answer.whole()
    }
}

fn models(prefix: &str) -> Response {
    let model = json!({"id": model_name(prefix), "object": "model", "created": 0, "owned_by": "tiergate"});
    Json(json!({"object": "list", "data": [model]})).into_response()
}

fn refuse(status: StatusCode, message: String) -> Response {
    let error = json!({"message": message, "type": "invalid_request_error", "param": null, "code": null});
    (status, Json(json!({ "error": error }))).into_response()
}

fn model_name(prefix: &str) -> &str {
    match prefix.rsplit('/').next() {
        Some("") | None => "model",
        Some(name) => name,
    }
}

/// The names alone: the values of some of them are nobody's business.
fn names_of(headers: &HeaderMap) -> String {
    let mut names: Vec<&str> = headers.keys().map(header::HeaderName::as_str).collect();
    names.sort_unstable();
    names.join(" ")
}

// === impl Answer ===

impl Answer {
    fn to(request: &ChatRequest, prefix: &str, headers: &HeaderMap) -> Self {
        let prompt: usize = request.messages.iter().map(Message::words).sum();
        let completion = request.max_completion_tokens.or(request.max_tokens).unwrap_or(16);
        let prompt = prompt as u64;
        Self {
            model: request.model.clone().unwrap_or_else(|| model_name(prefix).to_owned()),
            created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs()),
            content: format!("headers received: {}", names_of(headers)),
            usage: json!({
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": prompt.saturating_add(completion),
                "prompt_tokens_details": {"cached_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 0},
            }),
        }
    }

    fn whole(&self) -> Response {
        let message = json!({"role": "assistant", "content": self.content});
        let choice = json!({"index": 0, "message": message, "finish_reason": "stop"});
        Json(self.object("chat.completion", json!([choice]), Some(&self.usage))).into_response()
    }

    /// One event per word, as a model writes; then the usage, if asked, in an event without choices.
    fn stream(&self, with_usage: bool) -> Response {
        let words = self.content.split_inclusive(' ').map(|word| self.chunk(json!({"content": word}), Value::Null));
        let mut events: Vec<String> = words.collect();
        events.push(self.chunk(json!({}), json!("stop")));
        if with_usage {
            events.push(event(&self.object("chat.completion.chunk", json!([]), Some(&self.usage))));
        }
        events.push("data: [DONE]\n\n".to_owned());
        let frames = tokio_stream::iter(events.into_iter().map(Ok::<_, Infallible>));
        let headers = [(header::CONTENT_TYPE, "text/event-stream; charset=utf-8")];
        (headers, Body::from_stream(frames)).into_response()
    }

    fn chunk(&self, delta: Value, finish_reason: Value) -> String {
        let choice = json!({"index": 0, "delta": delta, "finish_reason": finish_reason});
        event(&self.object("chat.completion.chunk", json!([choice]), None))
    }

    fn object(&self, kind: &str, choices: Value, usage: Option<&Value>) -> Value {
        json!({
            "id": "chatcmpl-sample",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
            "usage": usage,
        })
    }
}

fn event(object: &Value) -> String {
    format!("data: {object}\n\n")
}

// === impl Message ===

impl Message {
    fn words(&self) -> usize {
        match &self.content {
            None => 0,
            Some(Content::Text(text)) => text.split_whitespace().count(),
            Some(Content::Parts(parts)) => parts.iter().map(|part| part.text.split_whitespace().count()).sum(),
        }
    }
}
