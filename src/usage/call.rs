//! Which requests make a model write, and of which answers the shipped Envoy configurations read what they cost.

/// The ends of paths whose answers say their usage in a form that `envoy/tiergate.yaml` and `envoy/classic.yaml` read.
pub const COUNTED: [&str; 9] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/messages",
    "/v1/responses",
    "/v1/rerank",
    "/v1/score",
    ":generateContent",
    ":streamGenerateContent",
];
/// The ends of paths for which no model runs, though they are posted to and answer without usage.
const FREE: [&str; 4] = ["/tokenize", "/detokenize", "/v1/messages/count_tokens", ":countTokens"];
/// RFC 9110, section 9.2.1: what changes nothing asks no model to write. Nor does what removes.
const SAFE: [&str; 5] = ["GET", "HEAD", "OPTIONS", "TRACE", "DELETE"];

/// Whether a model may write for the request. The path is without its query, as it was sent.
#[must_use]
pub fn is_call(method: &str, path: &str) -> bool {
    !SAFE.contains(&method) && !ends_with_any(path, &FREE)
}

/// Whether the usage of the answer to a call of this path can be read.
#[must_use]
pub fn is_counted(path: &str) -> bool {
    ends_with_any(path, &COUNTED)
}

/// One slash at the end makes no other path. An encoded letter does: whoever wrote it is not known to mean the same.
pub(super) fn ends_with_any(path: &str, ends: &[&str]) -> bool {
    let path = path.strip_suffix('/').unwrap_or(path);
    ends.iter().any(|end| path.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_what_may_make_a_model_write() {
        for (method, path, is_a_call, counted) in [
            ("POST", "/llm/qwen3/v1/chat/completions", true, true),
            ("POST", "/llm/qwen3/v1/chat/completions/", true, true),
            ("PUT", "/llm/qwen3/v1/messages", true, true),
            ("POST", "/llm/qwen3/v1beta/models/qwen3:streamGenerateContent", true, true),
            ("POST", "/llm/qwen3/v1/audio/transcriptions", true, false),
            ("POST", "/llm/qwen3/v1/chat/completions/x", true, false),
            ("POST", "/llm/qwen3/v1/chat/complet%69ons", true, false),
            ("POST", "/llm/qwen3/v1/Chat/Completions", true, false),
            ("POST", "/llm/qwen3/tokeniz%65", true, false),
            ("POST", "/llm/qwen3/tokenize", false, false),
            ("POST", "/llm/qwen3/v1/messages/count_tokens", false, false),
            ("GET", "/llm/qwen3/v1/models", false, false),
            ("DELETE", "/llm/qwen3/v1/responses/r1", false, false),
        ] {
            assert_eq!((is_call(method, path), is_counted(path)), (is_a_call, counted), "{method} {path}");
        }
    }
}
