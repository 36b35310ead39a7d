//! A model server whose usage can be foretold, so that limits can be watched at work. It speaks what model servers speak: OpenAI's
//! chat, completions, embeddings and Responses, Anthropic's Messages, Gemini and Ollama, whole and streamed.
//!
//! An answer costs the words of its prompt and as many tokens as it may have (16 if the request does not say). Its text names the
//! headers that arrived. A stream of chat or completions carries `usage` only when `stream_options` asks for it; the others always
//! do, and refuse an option that is not theirs.
//!
//! A request may have a field `sample`, which says how the answer is to be sent: without usage, as an error, cut anywhere, never to its
//! end. `manner.rs` lists what it may say.

mod account;
mod answer;
mod asked;
mod manner;
mod send;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Json, Response};
use clap::Parser;
use serde_json::json;
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{SignalKind, signal};

use self::account::Account;
use self::asked::{Api, Asked};

#[derive(Parser)]
#[command(about = "A model server whose usage can be foretold")]
struct Args {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:8000")]
    listen: SocketAddr,

    /// Append a line of JSON to this file for each answer: whose it was (x-request-id), in which dialect, and how many tokens it had
    /// sent when it ended or was broken off
    #[arg(long)]
    account: Option<PathBuf>,

    /// Milliseconds between the events of a stream
    #[arg(long, default_value_t = 0)]
    pause: u64,
}

/// What every answer needs.
#[derive(Clone)]
struct Model {
    account: Account,
    pause: Duration,
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let args = Args::parse();
    let listener = listen(args.listen)?;
    println!("model: listening on {}", listener.local_addr()?);
    let model = Model { account: Account::open(args.account.as_deref())?, pause: Duration::from_millis(args.pause) };
    let app = Router::new().fallback(serve).layer(DefaultBodyLimit::max(16 << 20)).with_state(model);
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
async fn serve(State(model): State<Model>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let path = uri.path();
    if let Some(prefix) = path.strip_suffix("/v1/models") {
        return match method {
            Method::GET => models(prefix),
            method => refuse(StatusCode::METHOD_NOT_ALLOWED, format!("`{method}` is not allowed here")),
        };
    }
    let Some((api, name)) = Api::of(path, uri.query().unwrap_or_default()) else {
        return refuse(StatusCode::NOT_FOUND, format!("no such path: `{path}`"));
    };
    if method != Method::POST {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, format!("`{method}` is not allowed here"));
    }
    match Asked::read(api, name, &body) {
        Ok(asked) => send::answer(asked, &model, &headers).await,
        Err(fault) => refuse(StatusCode::BAD_REQUEST, fault),
    }
}

fn models(prefix: &str) -> Response {
    let model = json!({"id": asked::model_name(prefix), "object": "model", "created": 0, "owned_by": "tiergate"});
    Json(json!({"object": "list", "data": [model]})).into_response()
}

fn refuse(status: StatusCode, message: String) -> Response {
    let error = json!({"message": message, "type": "invalid_request_error", "param": null, "code": null});
    (status, Json(json!({ "error": error }))).into_response()
}
