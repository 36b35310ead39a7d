//! Reads selectors. What cannot be meant is an error here, so that nothing is silently null later.

use serde_json::Value;

use super::super::{CompileError, Path};
use super::modifier::Modifier;
use super::path::{SelectorPath, SelectorRoot};
use super::query::QueryOperator;
use super::step::{ArrayQuery, PathStep};
use super::value::error;
use crate::request::Attributes;
use crate::spelling::did_you_mean;

/// What a selector is written as.
#[derive(Debug)]
pub(super) enum Form {
    Path(SelectorPath),
    /// Yields text.
    Template(Vec<Piece>),
}

/// A part of a template.
#[derive(Debug)]
pub(super) enum Piece {
    Text(String),
    Path(SelectorPath),
}

/// Longest selector that is accepted, in bytes.
pub(super) const MAX_LENGTH: usize = 8 * 1024;
/// Most names, modifiers and placeholders that are accepted.
pub(super) const MAX_PARTS: usize = 64;
/// Deepest nesting of `#` and queries that is accepted.
pub(super) const MAX_DEPTH: usize = 8;

/// Every root, for "did you mean".
const ROOTS: &[&str] = &[
    "auth.identity",
    "auth.metadata",
    "request.method",
    "request.host",
    "request.scheme",
    "request.path",
    "request.url_path",
    "request.query",
    "request.headers",
    "context.request.http.method",
    "context.request.http.host",
    "context.request.http.scheme",
    "context.request.http.path",
    "context.request.http.headers",
];

/// Characters that a name holds only behind a `\`: most of them say that the text is CEL.
const SPECIAL: &str = "()[]{}\"'=<>!&+,;*?";

/// What is left to read, and how much was read.
struct Parser<'t> {
    rest: &'t str,
    parts: usize,
}

pub(super) fn form(text: &str) -> Result<Form, CompileError> {
    if text.trim().is_empty() {
        return Err(error("is empty"));
    }
    if text.len() > MAX_LENGTH {
        return Err(error(format!("is {} bytes long; at most {MAX_LENGTH} are accepted", text.len())));
    }
    let form = if is_template(text) { template(text).map(Form::Template) } else { path(text).map(Form::Path) };
    form.map_err(|error| if looks_like_cel(text) { is_cel() } else { error })
}

/// Authorino's rule: a template has a brace that is not the argument of a modifier.
fn is_template(text: &str) -> bool {
    text.match_indices('{').any(|(at, _)| {
        let before = text.get(..at).and_then(|before| before.strip_suffix(':')).unwrap_or_default();
        let name = before.trim_end_matches(|char: char| char.is_ascii_alphanumeric() || char == '_');
        let modified = name.strip_suffix('@').filter(|_| name.len() < before.len());
        modified.is_none_or(|value| value.is_empty() || value.ends_with('@'))
    })
}

fn template(text: &str) -> Result<Vec<Piece>, CompileError> {
    let (mut pieces, mut literal, mut chars) = (Vec::new(), String::new(), text.char_indices());
    while let Some((at, char)) = chars.next() {
        match char {
            // Whatever is escaped stands for itself.
            '\\' => literal.extend(chars.next().map(|(_, char)| char)),
            '{' => {
                let start = at + 1;
                let mut depth = 1_usize;
                let end = chars.find_map(|(at, char)| {
                    match char {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        _ => {}
                    }
                    (depth == 0).then_some(at)
                });
                let inner = end.and_then(|end| text.get(start..end));
                let inner = inner.ok_or_else(|| {
                    error("has a `{` that is never closed").remedy("close it, or write `\\{` for the character")
                })?;
                if inner.is_empty() {
                    return Err(error("has an empty `{}`").remedy("name a path in it, or write `\\{\\}`"));
                }
                if !literal.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut literal)));
                }
                pieces.push(Piece::Path(path(inner)?));
                if pieces.len() > MAX_PARTS {
                    return Err(error(format!("has more than {} placeholders", MAX_PARTS / 2)));
                }
            }
            char => literal.push(char),
        }
    }
    if !literal.is_empty() {
        pieces.push(Piece::Text(literal));
    }
    Ok(pieces)
}

fn path(text: &str) -> Result<SelectorPath, CompileError> {
    let mut parser = Parser { rest: text, parts: 0 };
    let mut steps = parser.steps(0)?;
    let mut names = steps.iter().map_while(|step| match step {
        PathStep::Name(name) => Some(name.as_str()),
        _ => None,
    });
    let names: [Option<&str>; 5] = std::array::from_fn(|_| names.next());
    let (root, taken) = root(&names.map(Option::unwrap_or_default)).ok_or_else(|| no_root(text, &names))??;
    let is_text = matches!(root, SelectorRoot::Attribute(_) | SelectorRoot::Target | SelectorRoot::Header(_));
    if is_text && steps.get(taken).is_some_and(|step| !matches!(step, PathStep::Modifier(_))) {
        let of: Vec<&str> = names.iter().copied().map_while(std::convert::identity).take(taken).collect();
        let of = of.join(".");
        return Err(error(format!("selects nothing: `{of}` is a text and has no members"))
            .remedy("look at the whole of it, or at a part by `@extract`"));
    }
    steps.drain(..taken.min(steps.len()));
    let plain = Path::parse(text)
        .filter(|_| matches!(root, SelectorRoot::Identity | SelectorRoot::Metadata | SelectorRoot::Attribute(_)));
    Ok(SelectorPath { root, steps, plain })
}

/// The root that `names` begin with, and how many of them it takes; `None` if there is none of that name.
fn root(names: &[&str; 5]) -> Option<Result<(SelectorRoot, usize), CompileError>> {
    let header = |name: &str, taken: usize| {
        if name.chars().any(|char| char.is_ascii_uppercase()) {
            let lower = name.to_ascii_lowercase();
            return Err(error(format!("selects nothing: the names of headers are lower case, `{name}` is not"))
                .remedy(format!("write `{lower}`")));
        }
        Ok(if name.is_empty() {
            (SelectorRoot::Headers, taken - 1)
        } else {
            (SelectorRoot::Header(name.to_owned()), taken)
        })
    };
    let attribute =
        |name: &str| Attributes::NAMES.iter().find(|known| **known == name).map(|name| SelectorRoot::Attribute(name));
    match names {
        ["auth", "identity", ..] => Some(Ok((SelectorRoot::Identity, 2))),
        ["auth", "metadata", ..] => Some(Ok((SelectorRoot::Metadata, 2))),
        ["request", "headers", name, ..] => Some(header(name, 3)),
        ["request", name, ..] => attribute(name).map(|root| Ok((root, 2))),
        ["context", "request", "http", "headers", name] => Some(header(name, 5)),
        ["context", "request", "http", "path", _] => Some(Ok((SelectorRoot::Target, 4))),
        ["context", "request", "http", name @ ("method" | "host" | "scheme"), _] => {
            attribute(name).map(|root| Ok((root, 4)))
        }
        _ => None,
    }
}

fn no_root(text: &str, names: &[Option<&str>; 5]) -> CompileError {
    let names: Vec<&str> = names.iter().copied().map_while(std::convert::identity).collect();
    let meant = [2, 3, 4].into_iter().find_map(|length| {
        let typed = names.get(..length)?.join(".");
        did_you_mean(&typed, ROOTS.iter().copied().filter(|known| known.split('.').count() == length))
    });
    let remedy = match meant {
        Some(meant) => format!("did you mean `{meant}`?"),
        None if names.len() == 1 && !text.contains(['.', '|']) => "write what never changes under `value`".to_owned(),
        None => format!("begin with one of {}", ROOTS.join(", ")),
    };
    error("selects nothing: no path that is known here begins like this").remedy(remedy)
}

// === impl Parser ===

impl Parser<'_> {
    fn steps(&mut self, depth: usize) -> Result<Vec<PathStep>, CompileError> {
        if depth > MAX_DEPTH {
            return Err(error(format!("nests more than {MAX_DEPTH} `#` in each other")));
        }
        let mut steps = Vec::new();
        loop {
            self.parts += 1;
            if self.parts > MAX_PARTS {
                return Err(error(format!("has more than {MAX_PARTS} parts")));
            }
            steps.push(match self.rest.chars().next() {
                Some('@') => PathStep::Modifier(self.modifier()?),
                Some('#') => self.elements(depth)?,
                Some('!') => {
                    return Err(error("has a `!`, which is not supported").remedy("write the value under `value`"));
                }
                Some('{' | '[') => {
                    return Err(error("makes a list or mapping of several paths, which is not supported")
                        .remedy("write a CEL `expression`"));
                }
                _ => PathStep::Name(self.name()?),
            });
            match self.rest.chars().next() {
                None => return Ok(steps),
                Some('.' | '|') => self.skip(1),
                Some(other) => return Err(error(format!("has a `{other}` where `.`, `|` or the end is expected"))),
            }
        }
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = self.rest.get(bytes..).unwrap_or_default();
    }

    fn take(&mut self, bytes: usize) -> &str {
        let (taken, rest) = self.rest.split_at_checked(bytes).unwrap_or((self.rest, ""));
        self.rest = rest;
        taken
    }

    fn name(&mut self) -> Result<String, CompileError> {
        let (mut name, mut end, mut chars) = (String::new(), self.rest.len(), self.rest.char_indices());
        while let Some((at, char)) = chars.next() {
            match char {
                '\\' => name.push(chars.next().ok_or_else(|| error("ends with a `\\`"))?.1),
                '.' | '|' => {
                    end = at;
                    break;
                }
                '*' | '?' => {
                    return Err(error(format!("has the wildcard `{char}`, which is not supported"))
                        .remedy(format!("name the member; write `\\{char}` where the character is part of its name")));
                }
                char if SPECIAL.contains(char) || char.is_whitespace() || char.is_control() => {
                    let what = if char.is_whitespace() { "white space".to_owned() } else { format!("{char:?}") };
                    return Err(error(format!("has {what} in a name"))
                        .remedy("put a `\\` before it where it is part of the name"));
                }
                char => name.push(char),
            }
        }
        if end == 0 {
            return Err(error("has an empty part: a `.` or `|` with nothing before or behind it"));
        }
        self.skip(end);
        Ok(name)
    }

    /// `#`, `#.…`, `#(…)` or `#(…)#`
    fn elements(&mut self, depth: usize) -> Result<PathStep, CompileError> {
        self.skip(1);
        match self.rest.chars().next() {
            None | Some('|') => Ok(PathStep::Count),
            Some('.') => {
                self.skip(1);
                Ok(PathStep::Each(self.for_each(depth)?))
            }
            Some('(') => {
                self.skip(1);
                let end = query_end(self.rest).ok_or_else(|| error("has a `#(` that is never closed"))?;
                let text = self.take(end).to_owned();
                self.skip(1);
                let query = self.query(&text, depth)?;
                let all = self.rest.starts_with('#');
                self.skip(usize::from(all));
                let then = match self.rest.strip_prefix('.') {
                    Some(rest) => {
                        self.rest = rest;
                        Some(self.for_each(depth)?)
                    }
                    None => None,
                };
                Ok(PathStep::Find { query, all, then })
            }
            Some('[') => Err(error("has a query in `#[…]`, which gjson gave up").remedy("write it as `#(…)`")),
            Some(_) => Err(error("has a name that begins with `#`").remedy("write `\\#`")),
        }
    }

    /// The steps behind `#.` and `#(…).`: up to a `|`, they are taken from each element.
    fn for_each(&mut self, depth: usize) -> Result<Vec<PathStep>, CompileError> {
        let end = pipe_at(self.rest).unwrap_or(self.rest.len());
        let text = self.take(end).to_owned();
        self.within(&text, depth)
    }

    fn within(&mut self, text: &str, depth: usize) -> Result<Vec<PathStep>, CompileError> {
        let mut parser = Parser { rest: text, parts: self.parts };
        let steps = parser.steps(depth + 1)?;
        self.parts = parser.parts;
        Ok(steps)
    }

    fn query(&mut self, text: &str, depth: usize) -> Result<ArrayQuery, CompileError> {
        let (left, test) = match operator_at(text) {
            None => (text, None),
            Some(at) => {
                let (left, right) = text.split_at_checked(at).unwrap_or((text, ""));
                let known = QueryOperator::NAMES.iter().find(|(name, _)| right.starts_with(name));
                let (name, operator) =
                    known.ok_or_else(|| error(format!("compares by an operator that is not known: `{right}`")))?;
                let right = blank_trimmed(right.get(name.len()..).unwrap_or_default());
                (left, Some((*operator, literal(right)?)))
            }
        };
        let left = blank_trimmed(left);
        let mut path = Vec::new();
        if !left.is_empty() {
            path = self.within(left, depth)?;
        } else if test.is_none() {
            return Err(error("has an empty query `#()`"));
        }
        Ok(ArrayQuery { path, test })
    }

    fn modifier(&mut self) -> Result<Modifier, CompileError> {
        self.skip(1);
        let end = self.rest.find([':', '.', '|']).unwrap_or(self.rest.len());
        let name = self.take(end).to_owned();
        let argument = match self.rest.strip_prefix(':') {
            Some(rest) => {
                self.rest = rest;
                Some(self.argument(&name)?)
            }
            None => None,
        };
        Modifier::read(&name, argument)
    }

    /// A mapping, or a word that ends at a `|`: a dot is part of it.
    fn argument(&mut self, name: &str) -> Result<Value, CompileError> {
        if self.rest.starts_with('{') {
            let mut values = serde_json::Deserializer::from_str(self.rest).into_iter::<Value>();
            let Some(Ok(value)) = values.next() else {
                return Err(error(format!("has an argument of `@{name}` that is not JSON")));
            };
            let length = values.byte_offset();
            self.skip(length);
            return Ok(value);
        }
        let end = self.rest.find('|').unwrap_or(self.rest.len());
        let word = self.take(end);
        if let Some((word, next)) = word.split_once('.') {
            return Err(error(format!("has `.{next}` in the argument of `@{name}`, which ends at a `|`"))
                .remedy(format!("write `@{name}:{word}|{next}`")));
        }
        Ok(Value::String(word.to_owned()))
    }
}

/// Where gjson sees the `|` that ends what is taken from each element. It does not see one right behind `.#`, and it
/// sees those in arguments.
fn pipe_at(text: &str) -> Option<usize> {
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '\\' => _ = chars.next(),
            '|' => return Some(at),
            '.' if chars.as_str().starts_with('#') => {
                _ = chars.next();
                if let Some((at, '(')) = chars.next() {
                    let inside = text.get(at + 1..).unwrap_or_default();
                    let end = at + 1 + query_end(inside)?;
                    while chars.next().is_some_and(|(at, _)| at < end) {}
                }
            }
            _ => {}
        }
    }
    None
}

/// Where the bracket of a query closes; brackets in quotes do not count.
fn query_end(text: &str) -> Option<usize> {
    let (mut depth, mut chars) = (1_usize, text.char_indices());
    while let Some((at, char)) = chars.next() {
        match char {
            '\\' => _ = chars.next(),
            '(' | '[' => depth += 1,
            ')' | ']' => {
                depth -= 1;
                if depth == 0 {
                    return (char == ')').then_some(at);
                }
            }
            '"' => skip_quoted(&mut chars),
            _ => {}
        }
    }
    None
}

/// Where the operator of a query begins: the first of its characters outside of inner queries.
fn operator_at(text: &str) -> Option<usize> {
    let (mut depth, mut chars) = (0_usize, text.char_indices());
    while let Some((at, char)) = chars.next() {
        match char {
            '!' | '=' | '<' | '>' | '%' if depth == 0 => return Some(at),
            '\\' => _ = chars.next(),
            '(' | '[' => depth += 1,
            ')' | ']' => depth = depth.saturating_sub(1),
            '"' => skip_quoted(&mut chars),
            _ => {}
        }
    }
    None
}

fn skip_quoted(chars: &mut std::str::CharIndices<'_>) {
    while let Some((_, char)) = chars.next() {
        match char {
            '\\' => _ = chars.next(),
            '"' => return,
            _ => {}
        }
    }
}

fn blank_trimmed(text: &str) -> &str {
    text.trim_matches(|char| char <= ' ')
}

/// The right side of a comparison: quoted, or as it stands.
fn literal(text: &str) -> Result<String, CompileError> {
    let literal = match text.starts_with('"') {
        true => serde_json::from_str(text)
            .map_err(|_| error(format!("compares with {text}, which is not a quoted text in JSON")))?,
        false => text.to_owned(),
    };
    if literal.starts_with('~') {
        return Err(error("compares with `~…`, which is not supported").remedy("compare with `true` or `false`"));
    }
    Ok(literal)
}

/// Operators, calls, indexes and quotes, which no path has outside of queries and arguments.
fn looks_like_cel(text: &str) -> bool {
    let mut outside = String::new();
    let (mut depth, mut before) = (0_usize, ' ');
    for char in text.chars() {
        match char {
            '(' | '[' if before == '#' || depth > 0 => depth += 1,
            '{' if before == ':' || depth > 0 => depth += 1,
            ')' | ']' | '}' if depth > 0 => depth -= 1,
            _ if depth > 0 => {}
            char => outside.push(char),
        }
        before = char;
    }
    ["==", "!=", "&&", "||", ">=", "<=", " ? ", " + ", " in ", "(", "[", "\"", "'"]
        .iter()
        .any(|sign| outside.contains(sign))
}

fn is_cel() -> CompileError {
    error("is CEL, and would select nothing").remedy("write it under `expression`")
}
