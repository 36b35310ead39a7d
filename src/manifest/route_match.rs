//! The matches of an HTTPRoute's rules.
//!
//! Source: Gateway API v1, `HTTPRouteMatch`, with the bounds of its CRD.

use super::pattern;
use crate::document::Field;
use crate::problem::Severity;
use crate::request::{PathFault, check_canonical};

/// Headers, or query parameters, of one match.
const MAX_VALUES: usize = 16;

const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

#[derive(Debug)]
pub struct Match {
    pub path: PathMatch,
    /// How long the path is as it is written, in bytes.
    pub path_length: usize,
    pub method: Option<String>,
    /// By name in lower case, no name twice.
    pub headers: Vec<ValueMatch>,
    /// By name, no name twice.
    pub query: Vec<ValueMatch>,
}

#[derive(Clone, Debug)]
pub enum PathMatch {
    Exact(String),
    /// Whole path segments; without a trailing slash.
    Prefix(String),
    Regex(regex::bytes::Regex),
}

/// A match on a header or a query parameter.
#[derive(Debug)]
pub struct ValueMatch {
    pub name: String,
    pub value: TextMatch,
}

#[derive(Debug)]
pub enum TextMatch {
    Exact(String),
    /// Matches whole values, of ASCII.
    Regex(regex::bytes::Regex),
}

/// What of a match names its values.
#[derive(Clone, Copy, PartialEq)]
enum Of {
    Headers,
    Query,
}

pub(super) fn read_match(item: &Field<'_>) -> Option<Match> {
    let mut fields = item.fields()?;
    let path = fields.take("path");
    let method = fields.take("method");
    let headers = fields.take("headers");
    let query = fields.take("queryParams");
    fields.done(Severity::Warning);
    let path = path.map_or(Some((PathMatch::Prefix(String::new()), 1)), |field| read_path(&field));
    let method = method.map_or(Some(None), |field| read_method(&field).map(Some));
    let (headers, query) = (read_values(headers, Of::Headers), read_values(query, Of::Query));
    let (path, path_length) = path?;
    Some(Match { path, path_length, method: method?, headers: headers?, query: query? })
}

fn read_path(field: &Field<'_>) -> Option<(PathMatch, usize)> {
    let mut fields = field.fields()?;
    let kind = fields.take("type");
    let value = fields.take("value");
    fields.done(Severity::Warning);
    let kind = kind.as_ref().map_or(Some("PathPrefix"), |field| field.text())?;
    let text = value.as_ref().map_or(Some("/"), |field| field.text())?;
    let value = value.as_ref().unwrap_or(field);
    bounded(value, text, 1024)?;
    if kind == "RegularExpression" {
        return Some((PathMatch::Regex(read_pattern(value, text)?), text.len()));
    }
    check_path(value, text)?;
    match kind {
        "Exact" => Some((PathMatch::Exact(text.to_owned()), text.len())),
        "PathPrefix" => Some((PathMatch::Prefix(text.trim_end_matches('/').to_owned()), text.len())),
        other => {
            field.invalid(format!("`{other}` is not a type of path match"), "PathPrefix, Exact or RegularExpression")
        }
    }
}

/// Reports a text that is no path, or none that a request could have.
fn check_path(value: &Field<'_>, text: &str) -> Option<()> {
    if text.contains(['?', '#']) {
        return value.invalid(format!("`{text}` is more than a path"), "a path without `?` and `#`");
    }
    let Err(fault) = check_canonical(text) else { return Some(()) };
    let expected = "a path that starts with `/`, without empty or dot segments";
    // A path that the Gateway API allows, and that no request which passes the path rule can match.
    if matches!(fault, PathFault::Character | PathFault::Encoding) {
        let problem = value.warning(format!("`{text}` is not a canonical path, so no request matches it"));
        value.report(problem.expected(expected));
        return Some(());
    }
    value.invalid(format!("`{text}` is not a canonical path"), expected)
}

fn read_method(field: &Field<'_>) -> Option<String> {
    let text = field.non_empty_text()?;
    if !METHODS.contains(&text) {
        return field.invalid(format!("`{text}` is not a method"), METHODS.join(", "));
    }
    Some(text.to_owned())
}

fn read_values(field: Option<Field<'_>>, of: Of) -> Option<Vec<ValueMatch>> {
    let Some(field) = field else { return Some(Vec::new()) };
    let items = field.items()?;
    at_most(&field, items.len(), MAX_VALUES)?;
    let mut values: Vec<ValueMatch> = Vec::with_capacity(items.len());
    for item in &items {
        let Some(value) = read_value(item, of) else { continue };
        if values.iter().any(|other| other.name == value.name) {
            // The Gateway API says that the first counts, Istio and Envoy Gateway ask for all.
            item.report(item.error(format!("`{}` is named twice", value.name)).expected("each name once"));
            continue;
        }
        values.push(value);
    }
    (values.len() == items.len()).then_some(values)
}

fn read_value(item: &Field<'_>, of: Of) -> Option<ValueMatch> {
    let mut fields = item.fields()?;
    let name = fields.require("name", "the name to match").and_then(|field| read_name(&field, of));
    let value = fields.require("value", "the value to match");
    let kind = fields.take("type");
    fields.done(Severity::Warning);
    let kind = kind.as_ref().map_or(Some("Exact"), |field| field.text());
    let value = value?;
    let text = value.non_empty_text()?;
    bounded(&value, text, if of == Of::Headers { 4096 } else { 1024 })?;
    let value = match kind? {
        "Exact" => TextMatch::Exact(text.to_owned()),
        "RegularExpression" => TextMatch::Regex(read_pattern(&value, text)?),
        other => {
            return item.invalid(format!("`{other}` is not a type of match"), "Exact or RegularExpression");
        }
    };
    Some(ValueMatch { name: name?, value })
}

fn read_name(field: &Field<'_>, of: Of) -> Option<String> {
    let name = field.non_empty_text()?;
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.len() > 256 || !name.bytes().all(token) {
        return field.invalid("is not a name that can be matched", "at most 256 letters, digits and !#$%&'*+-.^_`|~");
    }
    Some(if of == Of::Headers { name.to_ascii_lowercase() } else { name.to_owned() })
}

fn read_pattern(field: &Field<'_>, text: &str) -> Option<regex::bytes::Regex> {
    match pattern::whole(text) {
        Ok(regex) => Some(regex),
        Err(why) => field.invalid(why, "a regular expression of RE2's syntax, as Envoy takes it"),
    }
}

fn bounded(field: &Field<'_>, text: &str, most: usize) -> Option<()> {
    if text.len() > most {
        return field.invalid(format!("is {} bytes long", text.len()), format!("at most {most}"));
    }
    Some(())
}

/// Reports a list that is longer than the Gateway API allows.
pub(super) fn at_most(field: &Field<'_>, length: usize, most: usize) -> Option<()> {
    if length > most {
        return field.invalid(format!("has {length} items"), format!("at most {most}"));
    }
    Some(())
}

// === impl Match ===

impl Match {
    /// What a rule without matches has.
    #[must_use]
    pub fn everything() -> Self {
        Match {
            path: PathMatch::Prefix(String::new()),
            path_length: 1,
            method: None,
            headers: Vec::new(),
            query: Vec::new(),
        }
    }
}
