//! A `curl` line as the request that it would send.
//!
//! Source: curl(1). Options that change the request are followed, those that do not are passed over, and one that is not known
//! here is an error: its next word could be a value or a URL.

mod error;
mod shell;

pub use self::error::CurlError;

use self::shell::{OUTPUT, VARIABLE};
use super::sent::Sent;

/// What an option does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// Nothing to the request; has no value.
    Flag,
    /// Nothing to the request; has a value.
    Value,
    Method,
    Header,
    Url,
    Data,
    Json,
    Form,
    Upload,
    Get,
    Head,
    Bearer,
    User,
    Agent,
    Referer,
    Cookie,
    AsIs,
}

use Effect::{
    Agent, AsIs, Bearer, Cookie, Data, Flag, Form, Get, Head, Header, Json, Method, Referer, Upload, Url, User, Value,
};

/// Long names, with the letter where there is one.
const OPTIONS: &[(&str, char, Effect)] = &[
    ("request", 'X', Method),
    ("header", 'H', Header),
    ("url", '\0', Url),
    ("data", 'd', Data),
    ("data-raw", '\0', Data),
    ("data-ascii", '\0', Data),
    ("data-binary", '\0', Data),
    ("data-urlencode", '\0', Data),
    ("json", '\0', Json),
    ("form", 'F', Form),
    ("form-string", '\0', Form),
    ("upload-file", 'T', Upload),
    ("get", 'G', Get),
    ("head", 'I', Head),
    ("oauth2-bearer", '\0', Bearer),
    ("user", 'u', User),
    ("user-agent", 'A', Agent),
    ("referer", 'e', Referer),
    ("cookie", 'b', Cookie),
    ("path-as-is", '\0', AsIs),
    ("silent", 's', Flag),
    ("show-error", 'S', Flag),
    ("include", 'i', Flag),
    ("show-headers", '\0', Flag),
    ("insecure", 'k', Flag),
    ("verbose", 'v', Flag),
    ("location", 'L', Flag),
    ("fail", 'f', Flag),
    ("fail-with-body", '\0', Flag),
    ("fail-early", '\0', Flag),
    ("no-buffer", 'N', Flag),
    ("compressed", '\0', Flag),
    ("globoff", 'g', Flag),
    ("ipv4", '4', Flag),
    ("ipv6", '6', Flag),
    ("progress-bar", '#', Flag),
    ("no-progress-meter", '\0', Flag),
    ("http1.0", '0', Flag),
    ("http1.1", '\0', Flag),
    ("http2", '\0', Flag),
    ("http2-prior-knowledge", '\0', Flag),
    ("http3", '\0', Flag),
    ("no-keepalive", '\0', Flag),
    ("tcp-nodelay", '\0', Flag),
    ("remote-name", 'O', Flag),
    ("remote-header-name", 'J', Flag),
    ("disable", 'q', Flag),
    ("anyauth", '\0', Flag),
    ("basic", '\0', Flag),
    ("output", 'o', Value),
    ("write-out", 'w', Value),
    ("dump-header", 'D', Value),
    ("cookie-jar", 'c', Value),
    ("max-time", 'm', Value),
    ("connect-timeout", '\0', Value),
    ("retry", '\0', Value),
    ("retry-delay", '\0', Value),
    ("retry-max-time", '\0', Value),
    ("limit-rate", '\0', Value),
    ("speed-limit", 'Y', Value),
    ("speed-time", 'y', Value),
    ("cacert", '\0', Value),
    ("capath", '\0', Value),
    ("cert", 'E', Value),
    ("key", '\0', Value),
    ("ciphers", '\0', Value),
    ("tls-max", '\0', Value),
    ("pinnedpubkey", '\0', Value),
    ("resolve", '\0', Value),
    ("connect-to", '\0', Value),
    ("proxy", 'x', Value),
    ("noproxy", '\0', Value),
    ("interface", '\0', Value),
    ("unix-socket", '\0', Value),
    ("trace", '\0', Value),
    ("trace-ascii", '\0', Value),
    ("stderr", '\0', Value),
];

/// What the options came to.
#[derive(Debug, Default)]
struct CurlOptions {
    urls: Vec<String>,
    method: Option<String>,
    headers: Vec<(String, Option<String>)>,
    data: Vec<String>,
    body: bool,
    upload: bool,
    get: bool,
    head: bool,
    as_is: bool,
    notes: Vec<String>,
}

/// What of a line is unknown, in words.
const PRINTED: &str = "it is what a command prints (`$(…)`)";
const HELD: &str = "it is what a variable holds";

/// The request that `line` would send.
///
/// # Errors
///
/// See [`CurlError`]; no message repeats a value.
pub(super) fn parse(line: &str) -> Result<Sent, CurlError> {
    let shell::CommandLine { words, notes } = shell::read(line)?;
    let mut words = words.into_iter();
    let program = words.next();
    if !program.as_deref().is_some_and(|word| word == "curl" || word.ends_with("/curl")) {
        return Err(CurlError::NotCurl);
    }
    let mut read = CurlOptions { notes, ..CurlOptions::default() };
    let mut only_urls = false;
    while let Some(word) = words.next() {
        if only_urls || !word.starts_with('-') || word == "-" {
            read.urls.push(word);
        } else if word == "--" {
            only_urls = true;
        } else if let Some(long) = word.strip_prefix("--") {
            let effect = OPTIONS.iter().find(|(name, ..)| *name == long).map(|(.., effect)| *effect);
            // What follows a `=` may be a secret.
            let name = || format!("--{}", long.split('=').next().unwrap_or_default());
            let effect = effect.ok_or_else(|| CurlError::Unknown(name()))?;
            let value = if effect.has_value() {
                words.next().ok_or_else(|| CurlError::NoValue(name()))?
            } else {
                String::new()
            };
            read.take(effect, value)?;
        } else {
            read.letters(&word, &mut words)?;
        }
    }
    read.finish()
}

// === impl Effect ===

impl Effect {
    fn has_value(self) -> bool {
        !matches!(self, Flag | Get | Head | AsIs)
    }
}

// === impl CurlOptions ===

impl CurlOptions {
    /// Letters such as `-sSk`, of which the last may have its value attached: `-XPOST`.
    fn letters(&mut self, word: &str, words: &mut impl Iterator<Item = String>) -> Result<(), CurlError> {
        for (at, letter) in word.char_indices().skip(1) {
            let name = || format!("-{letter}");
            let effect =
                OPTIONS.iter().find(|(_, known, _)| *known == letter && letter != '\0').map(|(.., effect)| *effect);
            let effect = effect.ok_or_else(|| CurlError::Unknown(name()))?;
            if !effect.has_value() {
                self.take(effect, String::new())?;
                continue;
            }
            let attached = word.get(at + letter.len_utf8()..).filter(|rest| !rest.is_empty()).map(str::to_owned);
            let value = attached.or_else(|| words.next()).ok_or_else(|| CurlError::NoValue(name()))?;
            return self.take(effect, value);
        }
        Ok(())
    }

    fn take(&mut self, effect: Effect, value: String) -> Result<(), CurlError> {
        let mut header = |name: &str, value: String| self.headers.push((name.to_owned(), Some(value)));
        match effect {
            Flag | Value => {}
            Method => self.method = Some(value),
            Header => self.header(&value)?,
            Url => self.urls.push(value),
            Data => {
                self.data.push(value);
                self.body = true;
            }
            Json => {
                header("content-type", "application/json".to_owned());
                header("accept", "application/json".to_owned());
                self.data.push(value);
                self.body = true;
            }
            Form => self.body = true,
            Upload => self.upload = true,
            Get => self.get = true,
            Head => self.head = true,
            AsIs => self.as_is = true,
            Bearer => header("authorization", format!("Bearer {value}")),
            // Whose name and password they are does not matter: it is no bearer token.
            User => header("authorization", "Basic (credentials)".to_owned()),
            Agent => header("user-agent", value),
            Referer => header("referer", value),
            Cookie => header("cookie", value),
        }
        Ok(())
    }

    /// `Name: value`; `Name;` sends an empty one, and `Name:` keeps curl from sending its own.
    fn header(&mut self, text: &str) -> Result<(), CurlError> {
        if let Some((name, value)) = text.split_once(':').filter(|(name, _)| !name.is_empty() && !name.starts_with('@'))
        {
            let value = Some(value.trim()).filter(|value| !value.is_empty()).map(str::to_owned);
            self.headers.push((name.to_ascii_lowercase(), value));
            return Ok(());
        }
        match text.strip_suffix(';') {
            Some(name) => self.headers.push((name.to_ascii_lowercase(), Some(String::new()))),
            None => return Err(CurlError::Header(text.split([' ', '=']).next().unwrap_or_default().to_owned())),
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Sent, CurlError> {
        let url = match std::mem::take(&mut self.urls).as_slice() {
            [] => return Err(CurlError::NoUrl),
            [only] => self.url(only)?,
            _ => return Err(CurlError::SeveralUrls),
        };
        let mut sent = Sent::of_url(&url);
        if !self.as_is {
            sent.path = without_dots(&sent.path);
        }
        if self.get {
            self.append_query(&mut sent.path);
        }
        let inferred = match (self.head, self.body && !self.get, self.upload) {
            (true, ..) => "HEAD",
            (_, true, _) => "POST",
            (.., true) => "PUT",
            _ => "GET",
        };
        let method = self.method.take().map(|method| self.known(method, "the method"));
        sent.method = method.unwrap_or_else(|| inferred.to_owned());
        self.put_headers(&mut sent);
        sent.unknown = self.notes;
        Ok(sent)
    }

    /// Puts the data into the query, as `--get` does.
    fn append_query(&mut self, path: &mut String) {
        let (files, texts): (Vec<String>, _) =
            std::mem::take(&mut self.data).into_iter().partition(|data| is_of_file(data));
        if !files.is_empty() {
            let note = "a part of the query is in a file, which is not read: the path is taken without it";
            self.notes.push(note.to_owned());
        }
        let query: Vec<String> = texts.into_iter().map(|text| self.known(text, "the query")).collect();
        if !query.is_empty() {
            path.push(if path.contains('?') { '&' } else { '?' });
            path.push_str(&query.join("&"));
        }
    }

    fn put_headers(&mut self, sent: &mut Sent) {
        for (name, value) in std::mem::take(&mut self.headers) {
            let name = self.known(name, "the name of a header");
            // The token is for whoever looks at the caller.
            let value = match value {
                Some(value) if name == "authorization" => Some(value.replace(OUTPUT, "$(...)").replace(VARIABLE, "")),
                value => value.map(|value| self.known(value, &format!("header `{name}`"))),
            };
            match value {
                Some(host) if name == "host" => sent.host = host,
                Some(value) => sent.headers.push((name, value)),
                None => {}
            }
        }
    }

    /// The URL, if enough of it is known.
    fn url(&mut self, text: &str) -> Result<String, CurlError> {
        let (_, rest) = text.split_once("://").unwrap_or(("", text));
        match rest.chars().next() {
            Some(OUTPUT) if !rest.contains('/') => Err(CurlError::UnknownUrl(PRINTED)),
            Some(VARIABLE) if !rest.contains('/') => Err(CurlError::UnknownUrl(HELD)),
            _ => Ok(self.known(text.to_owned(), "the URL")),
        }
    }

    /// `text`, where what is unknown has something in its place; and a note of that.
    fn known(&mut self, text: String, of: &str) -> String {
        const TAKEN: &str = "unknown";
        if text.contains(OUTPUT) {
            self.notes.push(format!("a part of {of} is not known, since {PRINTED}: `{TAKEN}` is taken for it"));
        }
        if text.contains(VARIABLE) {
            self.notes.push(format!("a part of {of} is not known, since {HELD}: its name is taken as it stands"));
        }
        text.replace(OUTPUT, TAKEN).replace(VARIABLE, "")
    }
}

/// `@file`, or `name@file` as `--data-urlencode` has it.
fn is_of_file(data: &str) -> bool {
    let name = data.split(['=', '@']).next().unwrap_or_default();
    data.get(name.len()..).is_some_and(|rest| rest.starts_with('@'))
}

/// curl resolves dot segments before it sends a path (RFC 3986, section 5.2.4); empty segments stay.
fn without_dots(path: &str) -> String {
    let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
    let mut out: Vec<&str> = Vec::new();
    let segments: Vec<&str> = path.split('/').collect();
    for (at, segment) in segments.iter().enumerate() {
        let last = at + 1 == segments.len();
        match *segment {
            "." => {}
            ".." if out.len() > 1 => drop(out.pop()),
            ".." => {}
            other => {
                out.push(other);
                continue;
            }
        }
        // What a dot segment leaves at the end is a folder.
        if last {
            out.push("");
        }
    }
    let path = out.join("/");
    query.map_or(path.clone(), |query| format!("{path}?{query}"))
}

#[cfg(test)]
mod tests;
