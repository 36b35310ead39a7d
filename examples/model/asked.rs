//! What a request asks for.

use serde::Deserialize;
use serde_json::Value;

use crate::manner::{Manner, Told};

/// Whose words a request is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    Chat,
    Completions,
    Embeddings,
    Messages,
    Responses,
    /// Gemini. What is streamed has a path of its own, and is a list unless events are asked for.
    Generate,
    StreamGenerate,
    ListGenerate,
    OllamaChat,
    OllamaGenerate,
}

/// A request that was understood.
pub struct Asked {
    pub api: Api,
    pub model: String,
    /// Words of the prompt.
    pub input: u64,
    /// Tokens that the answer has.
    pub output: u64,
    pub stream: bool,
    /// Whether a stream ends with its usage, and whether every event before has what it was so far.
    pub usage: bool,
    pub running: bool,
    pub manner: Manner,
}

const PATHS: [(&str, Api); 7] = [
    ("/v1/chat/completions", Api::Chat),
    ("/v1/completions", Api::Completions),
    ("/v1/embeddings", Api::Embeddings),
    ("/v1/messages", Api::Messages),
    ("/v1/responses", Api::Responses),
    ("/api/chat", Api::OllamaChat),
    ("/api/generate", Api::OllamaGenerate),
];

/// Where Gemini's models are: `/v1beta/models/<model>:generateContent`.
const GEMINI: &str = "/v1beta/models/";

pub fn model_name(prefix: &str) -> &str {
    match prefix.rsplit('/').next() {
        Some("") | None => "model",
        Some(name) => name,
    }
}

/// The words of a text, of a list, or of what an object says. Parts without text (images) count nothing.
fn words(value: &Value) -> usize {
    match value {
        Value::String(text) => text.split_whitespace().count(),
        Value::Array(items) => items.iter().map(words).sum(),
        Value::Object(fields) => {
            ["content", "parts", "text"].iter().filter_map(|name| fields.get(*name)).map(words).sum()
        }
        _ => 0,
    }
}

// === impl Api ===

impl Api {
    /// What a path means, and the model that it names.
    pub fn of<'a>(path: &'a str, query: &str) -> Option<(Self, &'a str)> {
        let openai = PATHS.iter().find_map(|(end, api)| Some((*api, model_name(path.strip_suffix(end)?))));
        openai.or_else(|| {
            let (_, call) = path.split_once(GEMINI)?;
            match call.split_once(':')? {
                (model, "generateContent") => Some((Api::Generate, model)),
                (model, "streamGenerateContent") if query.contains("alt=sse") => Some((Api::StreamGenerate, model)),
                (model, "streamGenerateContent") => Some((Api::ListGenerate, model)),
                _ => None,
            }
        })
    }

    /// As the account calls it.
    pub fn name(self) -> &'static str {
        match self {
            Api::Chat => "chat",
            Api::Completions => "completions",
            Api::Embeddings => "embeddings",
            Api::Messages => "Messages",
            Api::Responses => "Responses",
            Api::Generate | Api::StreamGenerate => "Gemini",
            Api::ListGenerate => "Gemini's list",
            Api::OllamaChat => "Ollama's chat",
            Api::OllamaGenerate => "Ollama's generate",
        }
    }

    /// Where the prompt is, and where the longest answer is said.
    fn fields(self) -> (&'static [&'static str], &'static [&'static str]) {
        match self {
            Api::Chat => (&["/messages"], &["/max_completion_tokens", "/max_tokens"]),
            Api::Completions => (&["/prompt"], &["/max_tokens"]),
            Api::Embeddings => (&["/input"], &[]),
            Api::Messages => (&["/system", "/messages"], &["/max_tokens"]),
            Api::Responses => (&["/instructions", "/input"], &["/max_output_tokens"]),
            Api::Generate | Api::StreamGenerate | Api::ListGenerate => {
                (&["/systemInstruction", "/contents"], &["/generationConfig/maxOutputTokens"])
            }
            Api::OllamaChat => (&["/messages"], &["/options/num_predict"]),
            Api::OllamaGenerate => (&["/system", "/prompt"], &["/options/num_predict"]),
        }
    }
}

// === impl Asked ===

impl Asked {
    /// # Errors
    ///
    /// What such a server would refuse: a body that is no JSON, that has no prompt, that says `stream` in other words, or an option
    /// where there is none.
    pub fn read(api: Api, model: &str, body: &[u8]) -> Result<Self, String> {
        let body: Value = serde_json::from_slice(body).map_err(|error| format!("not JSON: {error}"))?;
        let (prompts, longest) = api.fields();
        let prompts: Vec<&Value> = prompts.iter().filter_map(|pointer| body.pointer(pointer)).collect();
        if prompts.is_empty() {
            return Err("there is no prompt".to_owned());
        }
        let stream = match (api, body.get("stream")) {
            (Api::StreamGenerate | Api::ListGenerate, _) => true,
            (Api::OllamaChat | Api::OllamaGenerate, None | Some(Value::Null)) => true,
            (Api::Generate | Api::Embeddings, _) | (_, None | Some(Value::Null)) => false,
            (_, Some(Value::Bool(stream))) => *stream,
            (_, Some(other)) => return Err(format!("`stream` is true or false, not {other}")),
        };
        let options = body.get("stream_options").filter(|options| !options.is_null());
        if options.is_some() && !(stream && matches!(api, Api::Chat | Api::Completions)) {
            return Err("`stream_options` is only for chat and completions with `stream: true`".to_owned());
        }
        let option = |name: &str| options.and_then(|options| options.get(name)?.as_bool()).unwrap_or(false);
        let manner = match body.get("sample") {
            Some(manner) => Manner::deserialize(manner).map_err(|error| format!("`sample`: {error}"))?,
            None => Manner::default(),
        };
        let most = longest.iter().find_map(|pointer| body.pointer(pointer)?.as_u64()).unwrap_or(16);
        let output = manner.output.unwrap_or(most).min(most);
        Ok(Asked {
            api,
            model: body.get("model").and_then(Value::as_str).unwrap_or(model).to_owned(),
            input: prompts.into_iter().map(words).sum::<usize>() as u64,
            output: if api == Api::Embeddings { 0 } else { output },
            stream,
            usage: option("include_usage"),
            running: option("include_usage") && option("continuous_usage_stats"),
            manner,
        })
    }

    /// Whether it is an error that used nothing.
    pub fn is_free(&self) -> bool {
        self.manner.status.is_some() && self.manner.usage != Told::Always
    }

    /// Tokens of the prompt that come from a cache.
    pub fn cached(&self) -> u64 {
        self.manner.cached.min(self.input)
    }
}
