//! What policies see of a request, by name.

use super::Headers;

/// The attributes of the request that expressions see, under the names of Authorino's "well-known attributes".
#[derive(Clone, Copy, Debug, Default)]
pub struct Attributes<'a> {
    pub method: &'a str,
    pub host: &'a str,
    pub scheme: &'a str,
    /// Without the query, unlike `request.path` in Envoy and Authorino.
    pub path: &'a str,
    pub query: Option<&'a str>,
    pub headers: Option<&'a Headers<'a>>,
    pub unset: Unset,
}

/// What an attribute is that the request does not have, such as the query of most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unset {
    /// Not there: as the rules of an AuthPolicy see it, for which Authorino leaves out what is empty.
    #[default]
    Absent,
    /// The empty text: as Envoy has it for limits, and for the `when` of an AuthPolicy as a whole.
    Empty,
}

// === impl Attributes ===

impl<'a> Attributes<'a> {
    /// A text attribute by name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&'a str> {
        let value = match name {
            "method" => self.method,
            "host" => self.host,
            "scheme" => self.scheme,
            "path" | "url_path" => self.path,
            "query" => self.query.unwrap_or_default(),
            _ => return None,
        };
        (!value.is_empty() || self.unset == Unset::Empty).then_some(value)
    }

    /// Names that [`Attributes::get`] knows.
    pub const NAMES: &'static [&'static str] = &["method", "host", "scheme", "path", "url_path", "query"];
}
