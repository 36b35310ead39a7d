//! Answers, in the words of each API.

use std::convert::Infallible;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio_stream::StreamExt;

use crate::Model;
use crate::asked::{Api, Asked};

/// An answer that is about to be sent.
pub struct Answer {
    asked: Asked,
    created: u64,
    content: String,
}

/// A piece of a body, and how many tokens of the answer were sent with it.
struct Piece {
    text: String,
    output: u64,
}

/// The names alone: the values of some of them are nobody's business.
fn names_of(headers: &HeaderMap) -> String {
    let mut names: Vec<&str> = headers.keys().map(header::HeaderName::as_str).collect();
    names.sort_unstable();
    names.join(" ")
}

fn event(object: &Value) -> String {
    format!("data: {object}\n\n")
}

/// As Anthropic and OpenAI's Responses name their events.
fn named(object: &Value) -> String {
    let name = object.get("type").and_then(Value::as_str).unwrap_or_default();
    format!("event: {name}\n{}", event(object))
}

// === impl Answer ===

impl Answer {
    pub fn to(asked: Asked, headers: &HeaderMap) -> Self {
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs());
        Answer { asked, created, content: format!("headers received: {}", names_of(headers)) }
    }

    /// Sends it piece by piece, and keeps account of what was sent.
    pub fn send(self, model: &Model, headers: &HeaderMap) -> Response {
        let id = headers.get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
        let mut entry = model.account.begin(id, self.asked.input);
        let (kind, pieces) = match self.asked.stream {
            true => ("text/event-stream; charset=utf-8", self.events()),
            false => {
                let whole = Piece { text: self.whole(self.asked.output).to_string(), output: self.asked.output };
                ("application/json", vec![whole])
            }
        };
        let (last, pause) = (pieces.len(), model.pause);
        let frames = tokio_stream::iter(pieces.into_iter().enumerate()).then(move |(at, piece)| async move {
            if at > 0 && !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            (at, piece)
        });
        let frames = frames.map(move |(at, piece)| {
            entry.sent(piece.output, at + 1 == last);
            Ok::<_, Infallible>(piece.text)
        });
        ([(header::CONTENT_TYPE, kind)], Body::from_stream(frames)).into_response()
    }

    fn usage(&self, output: u64) -> Value {
        let input = self.asked.input;
        let total = input.saturating_add(output);
        match self.asked.api {
            Api::Chat | Api::Completions => json!({
                "prompt_tokens": input,
                "completion_tokens": output,
                "total_tokens": total,
                "prompt_tokens_details": {"cached_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 0},
            }),
            Api::Embeddings => json!({"prompt_tokens": input, "total_tokens": total}),
            Api::Messages => json!({"input_tokens": input, "output_tokens": output}),
            Api::Responses => json!({
                "input_tokens": input,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": output,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": total,
            }),
            Api::Generate | Api::StreamGenerate => json!({
                "promptTokenCount": input,
                "candidatesTokenCount": output,
                "totalTokenCount": total,
            }),
        }
    }

    /// The answer as one object.
    fn whole(&self, output: u64) -> Value {
        let (model, content, usage) = (&self.asked.model, &self.content, self.usage(output));
        match self.asked.api {
            Api::Chat => {
                let message = json!({"role": "assistant", "content": content});
                let choice = json!({"index": 0, "message": message, "finish_reason": "stop"});
                self.chunk("chat.completion", json!([choice]), usage)
            }
            Api::Completions => {
                let choice = json!({"index": 0, "text": content, "finish_reason": "stop"});
                self.chunk("text_completion", json!([choice]), usage)
            }
            Api::Embeddings => {
                let one = json!({"object": "embedding", "index": 0, "embedding": [0.5, 0.25]});
                json!({"object": "list", "data": [one], "model": model, "usage": usage})
            }
            Api::Messages => self.message(json!([{"type": "text", "text": content}]), json!("end_turn"), usage),
            Api::Responses => self.response("completed", json!([{"type": "output_text", "text": content}]), usage),
            Api::Generate | Api::StreamGenerate => self.candidate(content, Some("STOP"), usage),
        }
    }

    fn chunk(&self, kind: &str, choices: Value, usage: Value) -> Value {
        json!({
            "id": "chatcmpl-sample",
            "object": kind,
            "created": self.created,
            "model": self.asked.model,
            "choices": choices,
            "usage": usage,
        })
    }

    fn message(&self, content: Value, stop: Value, usage: Value) -> Value {
        json!({
            "id": "msg_sample",
            "type": "message",
            "role": "assistant",
            "model": self.asked.model,
            "content": content,
            "stop_reason": stop,
            "usage": usage,
        })
    }

    fn response(&self, status: &str, content: Value, usage: Value) -> Value {
        let message = json!({"type": "message", "role": "assistant", "content": content});
        json!({
            "id": "resp_sample",
            "object": "response",
            "created_at": self.created,
            "status": status,
            "model": self.asked.model,
            "output": [message],
            "usage": usage,
        })
    }

    fn candidate(&self, text: &str, reason: Option<&str>, usage: Value) -> Value {
        let content = json!({"role": "model", "parts": [{"text": text}]});
        let candidate = json!({"index": 0, "content": content, "finishReason": reason});
        json!({"candidates": [candidate], "modelVersion": self.asked.model, "usageMetadata": usage})
    }

    /// The answer as a model writes it: one event a word, and what its API says before and after.
    fn events(&self) -> Vec<Piece> {
        let all = self.asked.output;
        let words: Vec<&str> = self.content.split_inclusive(' ').collect();
        let so_far = |at: usize| all.saturating_mul(at as u64 + 1) / (words.len() as u64).max(1);
        let words = words.iter().enumerate().map(|(at, word)| (*word, so_far(at)));
        let mut pieces = vec![Piece { text: self.before(), output: 0 }];
        pieces.extend(words.map(|(word, output)| Piece { text: self.word(word, output), output }));
        pieces.extend(self.after().into_iter().map(|text| Piece { text, output: all }));
        pieces.retain(|piece| !piece.text.is_empty());
        pieces
    }

    fn before(&self) -> String {
        match self.asked.api {
            Api::Messages => {
                let message = self.message(json!([]), Value::Null, self.usage(1));
                named(&json!({"type": "message_start", "message": message}))
            }
            Api::Responses => {
                let response = self.response("in_progress", json!([]), Value::Null);
                named(&json!({"type": "response.created", "response": response}))
            }
            _ => String::new(),
        }
    }

    fn word(&self, word: &str, output: u64) -> String {
        let running = if self.asked.running { self.usage(output) } else { Value::Null };
        match self.asked.api {
            Api::Chat | Api::Embeddings => {
                let choice = json!({"index": 0, "delta": {"content": word}, "finish_reason": null});
                event(&self.chunk("chat.completion.chunk", json!([choice]), running))
            }
            Api::Completions => {
                let choice = json!({"index": 0, "text": word, "finish_reason": null});
                event(&self.chunk("text_completion", json!([choice]), running))
            }
            Api::Messages => {
                let delta = json!({"type": "text_delta", "text": word});
                named(&json!({"type": "content_block_delta", "index": 0, "delta": delta}))
            }
            Api::Responses => named(&json!({"type": "response.output_text.delta", "delta": word})),
            Api::Generate | Api::StreamGenerate => event(&self.candidate(word, None, self.usage(output))),
        }
    }

    fn after(&self) -> Vec<String> {
        let usage = self.usage(self.asked.output);
        match self.asked.api {
            Api::Chat | Api::Embeddings | Api::Completions => {
                let kind = if self.asked.api == Api::Completions { "text_completion" } else { "chat.completion.chunk" };
                let running = if self.asked.running { usage.clone() } else { Value::Null };
                let choice = json!({"index": 0, "delta": {}, "text": "", "finish_reason": "stop"});
                let stop = event(&self.chunk(kind, json!([choice]), running));
                // In an event without choices, if it was asked for.
                let usage = self.asked.usage.then(|| event(&self.chunk(kind, json!([]), usage)));
                [Some(stop), usage, Some("data: [DONE]\n\n".to_owned())].into_iter().flatten().collect()
            }
            Api::Messages => {
                let delta = json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": self.asked.output}});
                vec![named(&delta), named(&json!({"type": "message_stop"}))]
            }
            Api::Responses => {
                let response =
                    self.response("completed", json!([{"type": "output_text", "text": self.content}]), usage);
                vec![named(&json!({"type": "response.completed", "response": response}))]
            }
            Api::Generate | Api::StreamGenerate => vec![event(&self.candidate("", Some("STOP"), usage))],
        }
    }
}
