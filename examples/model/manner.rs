//! How an answer is sent, where a request says so: not as a well-behaved model would, but as some model might.

use serde::Deserialize;
use serde_json::Value;

/// The field `sample` of a request's body. What it does not name is as usual.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Manner {
    pub usage: Told,
    /// The answer is an error of this status.
    pub status: Option<u16>,
    /// So many tokens the answer has, where it is shorter than it may be.
    pub output: Option<u64>,
    /// Of the prompt's tokens, how many come from a cache; of the answer's, how many are reasoning.
    pub cached: u64,
    pub reasoning: u64,
    /// A stream that ends with `[DONE]` ends without.
    pub no_done: bool,
    /// After so many pieces nothing more comes; after 0 not even a status. Or the connection breaks.
    pub hang_after: Option<usize>,
    pub break_after: Option<usize>,
    /// Milliseconds between the pieces.
    pub pause_ms: Option<u64>,
    /// The body is sent in pieces of so many bytes, wherever they end.
    pub cut: Option<usize>,
    pub line_end: LineEnd,
    /// Each event has a comment, and fields that nobody needs.
    pub comments: bool,
    /// An event's data stands in several lines.
    pub data_lines: bool,
    /// The members of objects stand in the opposite order, or their names are escaped.
    pub reversed: bool,
    pub escaped: bool,
    /// What the answer says.
    pub text: Option<String>,
    /// How many bytes the first event of a stream, or the whole answer, has besides.
    pub padding: usize,
}

/// How often an answer tells its usage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Told {
    /// As its API does, and the request's options say.
    #[default]
    Usual,
    Never,
    /// In every event that may have it, as it is so far; in an error too.
    Always,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LineEnd {
    #[default]
    Lf,
    Crlf,
    Cr,
}

/// In quotes, each letter by its number.
fn escaped(name: &str) -> String {
    let letters: String = name.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
    format!("\"{letters}\"")
}

// === impl LineEnd ===

impl LineEnd {
    fn as_str(self) -> &'static str {
        match self {
            LineEnd::Lf => "\n",
            LineEnd::Crlf => "\r\n",
            LineEnd::Cr => "\r",
        }
    }
}

// === impl Manner ===

impl Manner {
    /// An object as the body of an answer, or as one line of it.
    pub fn json(&self, object: &Value) -> String {
        if self.reversed || self.escaped || self.data_lines { self.written(object) } else { object.to_string() }
    }

    /// A server-sent event; with its name, where the API names them.
    pub fn event(&self, name: Option<&str>, data: &str) -> String {
        let mut lines = Vec::new();
        if self.comments {
            lines.extend([": a comment, which says data: {}", "id: 1", "retry: 10", "data"].map(str::to_owned));
        }
        lines.extend(name.map(|name| format!("event: {name}")));
        // The space after the colon may be missing.
        let colon = if self.comments { ":" } else { ": " };
        lines.extend(data.split('\n').map(|line| format!("data{colon}{line}")));
        let end = self.line_end.as_str();
        lines.join(end) + end + end
    }

    /// The pieces of a body.
    pub fn pieces(&self, body: &str) -> Vec<Vec<u8>> {
        let most = self.cut.unwrap_or(usize::MAX).max(1);
        body.as_bytes().chunks(most).map(<[u8]>::to_vec).collect()
    }

    fn written(&self, value: &Value) -> String {
        let between = if self.data_lines { ",\n" } else { "," };
        match value {
            Value::Object(fields) => {
                let name = |name: &str| if self.escaped { escaped(name) } else { Value::from(name).to_string() };
                let mut fields: Vec<String> =
                    fields.iter().map(|(key, value)| format!("{} : {}", name(key), self.written(value))).collect();
                if self.reversed {
                    fields.reverse();
                }
                format!("{{{}}}", fields.join(between))
            }
            Value::Array(items) => {
                let items: Vec<String> = items.iter().map(|item| self.written(item)).collect();
                format!("[{}]", items.join(between))
            }
            other => other.to_string(),
        }
    }
}
