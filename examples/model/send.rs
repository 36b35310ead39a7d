//! An answer on its way: in pieces, as the request wants them, with account of what was sent.

use std::io;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio_stream::{Stream, StreamExt};

use crate::Model;
use crate::account::Entry;
use crate::answer::{Answer, Said, put};
use crate::asked::{Api, Asked};
use crate::manner::{Manner, Told};

/// A piece of a body, and how many tokens of the answer were sent with it.
struct Piece {
    bytes: Vec<u8>,
    output: u64,
}

/// How the parts of an answer stand in its body.
#[derive(Clone, Copy)]
enum Frame {
    Whole,
    Events,
    Lines,
    List,
}

/// Sends it piece by piece.
pub async fn answer(asked: Asked, model: &Model, headers: &HeaderMap) -> Response {
    let id = headers.get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
    let status = asked.manner.status.and_then(|status| StatusCode::from_u16(status).ok()).unwrap_or(StatusCode::OK);
    let mut entry = model.account.begin(id, &asked, status.as_u16());
    let manner = asked.manner.clone();
    if manner.hang_after == Some(0) {
        // Until the client goes.
        std::future::pending::<()>().await;
    }
    let pause = manner.pause_ms.map_or(model.pause, Duration::from_millis);
    let answer = Answer::to(asked, headers);
    if status.is_client_error() || status.is_server_error() {
        return refusal(status, &answer, &mut entry);
    }
    let frame = Frame::of(&answer.asked);
    let pieces = frame.pieces(&answer);
    ([(header::CONTENT_TYPE, frame.kind())], Body::from_stream(paced(pieces, manner, pause, entry))).into_response()
}

/// An error, which may have cost something all the same.
fn refusal(status: StatusCode, answer: &Answer, entry: &mut Entry) -> Response {
    let error = json!({"message": "as it was asked for", "type": "server_error", "param": null, "code": null});
    let mut body = json!({ "error": error });
    if answer.asked.manner.usage == Told::Always {
        answer.tell(&mut body);
    }
    let output = if answer.asked.is_free() { 0 } else { answer.asked.output };
    entry.sent(body.to_string().len(), output, true);
    (status, Json(body)).into_response()
}

fn paced(
    pieces: Vec<Piece>,
    manner: Manner,
    pause: Duration,
    mut entry: Entry,
) -> impl Stream<Item = io::Result<Vec<u8>>> {
    let last = pieces.len();
    let frames = tokio_stream::iter(pieces.into_iter().enumerate()).then(move |(at, piece)| async move {
        if manner.hang_after == Some(at) {
            std::future::pending::<()>().await;
        }
        if at > 0 && !pause.is_zero() {
            tokio::time::sleep(pause).await;
        } else if manner.cut.is_some() || manner.break_after.is_some() {
            // What came before is sent first, so that it arrives by itself.
            tokio::task::yield_now().await;
        }
        if manner.break_after == Some(at) { Err(io::Error::other("as it was asked for")) } else { Ok((at, piece)) }
    });
    frames.map(move |frame| {
        let (at, piece) = frame?;
        entry.sent(piece.bytes.len(), piece.output, at + 1 == last);
        Ok(piece.bytes)
    })
}

// === impl Frame ===

impl Frame {
    fn of(asked: &Asked) -> Self {
        match asked.api {
            _ if !asked.stream => Frame::Whole,
            Api::OllamaChat | Api::OllamaGenerate => Frame::Lines,
            Api::ListGenerate => Frame::List,
            _ => Frame::Events,
        }
    }

    fn kind(self) -> &'static str {
        match self {
            Frame::Events => "text/event-stream; charset=utf-8",
            Frame::Lines => "application/x-ndjson",
            Frame::Whole | Frame::List => "application/json",
        }
    }

    fn pieces(self, answer: &Answer) -> Vec<Piece> {
        let manner = &answer.asked.manner;
        let parts = answer.parts();
        let (first, last) = (0, parts.len().saturating_sub(1));
        let texts = parts.into_iter().enumerate().map(|(at, said)| {
            let output = said.output;
            (self.text(said, manner, at == first, at == last), output)
        });
        let mut sent = 0;
        let pieces = texts.flat_map(|(text, output)| {
            let before = std::mem::replace(&mut sent, output);
            let mut pieces: Vec<Piece> =
                manner.pieces(&text).into_iter().map(|bytes| Piece { bytes, output: before }).collect();
            // Its tokens are sent when all of it is.
            if let Some(last) = pieces.last_mut() {
                last.output = output;
            }
            pieces
        });
        pieces.collect()
    }

    fn text(self, said: Said, manner: &Manner, is_first: bool, is_last: bool) -> String {
        let mut object = said.object;
        if is_first && manner.padding > 0 {
            put(&mut object, "padding", Value::from("x".repeat(manner.padding)));
        }
        match (self, &object) {
            // What is no object stands as it is.
            (Frame::Events, Value::String(data)) => manner.event(None, data),
            (Frame::Events, object) => {
                let name = said.is_named.then(|| object["type"].as_str().unwrap_or_default());
                manner.event(name, &manner.json(object))
            }
            (Frame::Lines, object) => manner.json(object).replace('\n', " ") + "\n",
            (Frame::List, object) => {
                let [before, after] = [if is_first { "[" } else { ",\r\n" }, if is_last { "]" } else { "" }];
                [before, &manner.json(object), after].concat()
            }
            (Frame::Whole, object) => manner.json(object),
        }
    }
}
