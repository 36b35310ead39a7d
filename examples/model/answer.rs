//! Answers, in the words of each API.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::http::{HeaderMap, header};
use serde_json::{Value, json};

use crate::asked::{Api, Asked};
use crate::manner::Told;

/// An answer that is about to be sent.
pub struct Answer {
    pub asked: Asked,
    created: u64,
    content: String,
}

/// A part of an answer, and how many tokens of it were said by then.
pub struct Said {
    pub object: Value,
    /// Whether its event has a name, as those of Anthropic and of OpenAI's Responses.
    pub is_named: bool,
    pub output: u64,
}

/// The names alone: the values of some of them are nobody's business.
fn names_of(headers: &HeaderMap) -> String {
    let mut names: Vec<&str> = headers.keys().map(header::HeaderName::as_str).collect();
    names.sort_unstable();
    names.join(" ")
}

/// Adds a member to an object.
pub fn put(object: &mut Value, name: &str, value: Value) {
    if let Some(fields) = object.as_object_mut() {
        fields.insert(name.to_owned(), value);
    }
}

/// Adds the members of another object, if it is one.
fn put_all(object: &mut Value, others: Value) {
    if let (Some(fields), Value::Object(others)) = (object.as_object_mut(), others) {
        fields.extend(others);
    }
}

// === impl Answer ===

impl Answer {
    pub fn to(asked: Asked, headers: &HeaderMap) -> Self {
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs());
        let text = asked.manner.text.clone();
        let content = text.unwrap_or_else(|| format!("headers received: {}", names_of(headers)));
        Answer { asked, created, content }
    }

    /// What is sent: one object, or one for each word and what the API says before and after.
    pub fn parts(&self) -> Vec<Said> {
        let all = self.asked.output;
        if !self.asked.stream {
            return vec![Said { object: self.whole(), is_named: false, output: all }];
        }
        let is_named = matches!(self.asked.api, Api::Messages | Api::Responses);
        let said = |object: Value, output| Said { object, is_named, output };
        let words: Vec<&str> = self.content.split_inclusive(' ').collect();
        let so_far = |at: usize| all.saturating_mul(at as u64 + 1) / (words.len() as u64).max(1);
        let mut parts: Vec<Said> = self.before().into_iter().map(|object| said(object, 0)).collect();
        for (at, word) in words.iter().enumerate() {
            let output = so_far(at);
            parts.extend(self.word(word, output).into_iter().map(|object| said(object, output)));
        }
        parts.extend(self.after().into_iter().map(|object| said(object, all)));
        parts
    }

    /// Puts the usage into an object that is sent.
    pub fn tell(&self, body: &mut Value) {
        let usage = self.usage(self.asked.output);
        match self.asked.api {
            Api::Generate | Api::StreamGenerate | Api::ListGenerate => put(body, "usageMetadata", usage),
            Api::OllamaChat | Api::OllamaGenerate => put_all(body, usage),
            _ => put(body, "usage", usage),
        }
    }

    fn usage(&self, output: u64) -> Value {
        let (input, cached) = (self.asked.input, self.asked.cached());
        let (reasoning, total) = (self.asked.manner.reasoning.min(output), input.saturating_add(output));
        match self.asked.api {
            Api::Chat | Api::Completions => json!({
                "prompt_tokens": input,
                "completion_tokens": output,
                "total_tokens": total,
                "prompt_tokens_details": {"cached_tokens": cached},
                "completion_tokens_details": {"reasoning_tokens": reasoning},
            }),
            Api::Embeddings => json!({"prompt_tokens": input, "total_tokens": total}),
            Api::Messages => json!({
                "input_tokens": input - cached,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": cached,
                "output_tokens": output,
            }),
            Api::Responses => json!({
                "input_tokens": input,
                "input_tokens_details": {"cached_tokens": cached},
                "output_tokens": output,
                "output_tokens_details": {"reasoning_tokens": reasoning},
                "total_tokens": total,
            }),
            Api::Generate | Api::StreamGenerate | Api::ListGenerate => json!({
                "promptTokenCount": input,
                "cachedContentTokenCount": cached,
                "candidatesTokenCount": output - reasoning,
                "thoughtsTokenCount": reasoning,
                "totalTokenCount": total,
            }),
            Api::OllamaChat | Api::OllamaGenerate => json!({"prompt_eval_count": input, "eval_count": output}),
        }
    }

    /// The usage of the whole answer, where it is told.
    fn at_the_end(&self) -> Value {
        if self.asked.manner.usage == Told::Never { Value::Null } else { self.usage(self.asked.output) }
    }

    /// The usage so far, where it is told all the time.
    fn running(&self, output: u64) -> Value {
        let is_gemini = matches!(self.asked.api, Api::StreamGenerate | Api::ListGenerate);
        match self.asked.manner.usage {
            Told::Never => Value::Null,
            Told::Usual if !(self.asked.running || is_gemini) => Value::Null,
            Told::Usual | Told::Always => self.usage(output),
        }
    }

    /// The answer as one object.
    fn whole(&self) -> Value {
        let (model, content, usage) = (&self.asked.model, &self.content, self.at_the_end());
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
            Api::Generate | Api::StreamGenerate | Api::ListGenerate => self.candidate(content, Some("STOP"), usage),
            Api::OllamaChat | Api::OllamaGenerate => self.line(content, Some(usage)),
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

    /// As Ollama says it: the last one, which is done, has what it used.
    fn line(&self, text: &str, done: Option<Value>) -> Value {
        let mut line = json!({"model": self.asked.model, "created_at": "2026-01-01T00:00:00Z", "done": done.is_some()});
        match self.asked.api {
            Api::OllamaChat => put(&mut line, "message", json!({"role": "assistant", "content": text})),
            _ => put(&mut line, "response", Value::from(text)),
        }
        put_all(&mut line, done.unwrap_or_default());
        line
    }

    fn before(&self) -> Option<Value> {
        match self.asked.api {
            Api::Messages => {
                let usage = if self.asked.manner.usage == Told::Never { Value::Null } else { self.usage(1) };
                let message = self.message(json!([]), Value::Null, usage);
                Some(json!({"type": "message_start", "message": message}))
            }
            Api::Responses => {
                let response = self.response("in_progress", json!([]), Value::Null);
                Some(json!({"type": "response.created", "response": response}))
            }
            _ => None,
        }
    }

    fn word(&self, word: &str, output: u64) -> Vec<Value> {
        let running = self.running(output);
        match self.asked.api {
            Api::Chat | Api::Embeddings => {
                let choice = json!({"index": 0, "delta": {"content": word}, "finish_reason": null});
                vec![self.chunk("chat.completion.chunk", json!([choice]), running)]
            }
            Api::Completions => {
                let choice = json!({"index": 0, "text": word, "finish_reason": null});
                vec![self.chunk("text_completion", json!([choice]), running)]
            }
            Api::Messages => {
                let delta = json!({"type": "text_delta", "text": word});
                let word = json!({"type": "content_block_delta", "index": 0, "delta": delta});
                let so_far = json!({"type": "message_delta", "delta": {}, "usage": {"output_tokens": output}});
                [Some(word), running.is_object().then_some(so_far)].into_iter().flatten().collect()
            }
            Api::Responses => {
                let word = json!({"type": "response.output_text.delta", "delta": word});
                let so_far = || self.response("in_progress", json!([]), running.clone());
                let so_far = running.is_object().then(|| json!({"type": "response.in_progress", "response": so_far()}));
                [Some(word), so_far].into_iter().flatten().collect()
            }
            Api::Generate | Api::StreamGenerate | Api::ListGenerate => vec![self.candidate(word, None, running)],
            Api::OllamaChat | Api::OllamaGenerate => vec![self.line(word, None)],
        }
    }

    fn after(&self) -> Vec<Value> {
        let usage = self.at_the_end();
        match self.asked.api {
            Api::Chat | Api::Embeddings | Api::Completions => {
                let kind = if self.asked.api == Api::Completions { "text_completion" } else { "chat.completion.chunk" };
                let choice = json!({"index": 0, "delta": {}, "text": "", "finish_reason": "stop"});
                let stop = self.chunk(kind, json!([choice]), self.running(self.asked.output));
                // In an event without choices, if it was asked for.
                let is_told = usage.is_object() && (self.asked.usage || self.asked.manner.usage == Told::Always);
                let usage = is_told.then(|| self.chunk(kind, json!([]), usage));
                let done = (!self.asked.manner.no_done).then(|| Value::from("[DONE]"));
                [Some(stop), usage, done].into_iter().flatten().collect()
            }
            Api::Messages => {
                let output = usage.is_object().then(|| json!({"output_tokens": self.asked.output}));
                let delta = json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": output});
                vec![delta, json!({"type": "message_stop"})]
            }
            Api::Responses => {
                let content = json!([{"type": "output_text", "text": self.content}]);
                vec![json!({"type": "response.completed", "response": self.response("completed", content, usage)})]
            }
            Api::Generate | Api::StreamGenerate | Api::ListGenerate => vec![self.candidate("", Some("STOP"), usage)],
            Api::OllamaChat | Api::OllamaGenerate => vec![self.line("", Some(usage))],
        }
    }
}
