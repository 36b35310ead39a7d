//! One request as the gate sees it: borrowed from the wire, knowing nothing of it.

mod attributes;
mod body;

use std::borrow::Cow;
use std::collections::HashMap;

use smallvec::{SmallVec, smallvec};

pub use self::attributes::{Attributes, Unset};
pub use self::body::Body;

use crate::denial::{Code, Denial};

/// Longest bearer token that is looked at, in bytes. Kubernetes mints about 1 KiB; OIDC tokens with many groups reach 4.
const MAX_TOKEN: usize = 8 * 1024;

/// Headers `x-maas-…` of one request. The platform has five.
const MAX_IDENTITY_HEADERS: usize = 32;

/// A request to decide.
#[derive(Debug)]
pub struct Request<'a> {
    pub method: &'a str,
    /// With the port, if the client sent one.
    pub host: &'a str,
    pub scheme: &'a str,
    /// Percent-encoded as it was sent, without the query.
    pub path: &'a str,
    pub query: Option<&'a str>,
    pub headers: Headers<'a>,
    /// `namespace/name` of the Gateway, when Envoy's configuration says it (`context_extensions.gateway`).
    pub gateway: Option<&'a str>,
    /// The name of the Gateway's listener, when Envoy's configuration says it (`context_extensions.listener`).
    pub listener: Option<&'a str>,
    /// The port that the request came to.
    pub port: Option<u16>,
    /// The address that it came from, as Envoy sees it.
    pub peer: Option<&'a str>,
    /// The host that the client named in the TLS handshake, where Envoy tells it (`include_tls_session`): RFC 6066, section 3.
    pub sni: Option<&'a str>,
    /// `namespace/name` of the model, when the operator set it on the route instead of leaving it to the path.
    pub model: OperatorModel<'a>,
    /// Where the gateway sends all of it.
    pub body: Option<Body<'a>>,
}

/// What the operator says about the model of a route, in `context_extensions.model` or in the route's metadata
/// (`tiergate.model`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperatorModel<'a> {
    Unset,
    Named(&'a str),
    /// Both are set, and differ.
    Conflict,
}

/// Header names are lower case on HTTP/2 and in Envoy; lookups ignore case all the same. Its `Debug` form has names alone.
#[derive(Clone)]
pub enum Headers<'a> {
    /// `AttributeContext.HttpRequest.headers`: one value a name, duplicates joined by Envoy with a comma.
    Map(&'a HashMap<String, String>),
    /// `AttributeContext.HttpRequest.header_map`: raw values, duplicates visible.
    List(Vec<RawHeader<'a>>),
}

/// A header's name, and the bytes of its value.
pub type RawHeader<'a> = (&'a str, &'a [u8]);

/// The result of looking a header up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderLookup<'a> {
    Absent,
    One(&'a str),
    /// Sent more than once.
    Several,
    /// Not UTF-8.
    Opaque,
}

/// A bearer token. Its `Debug` form hides it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BearerToken<'a>(&'a str);

/// Why a path is not canonical.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathFault {
    NotAbsolute,
    EmptySegment,
    DotSegment,
    Character,
    Encoding,
}

// === impl Request ===

impl<'a> Request<'a> {
    /// What expressions see of the request, where what it does not have is `unset`.
    #[must_use]
    pub fn attributes(&self, unset: Unset) -> Attributes<'_> {
        Attributes {
            method: self.method,
            host: self.host,
            scheme: self.scheme,
            path: self.path,
            query: self.query,
            headers: Some(&self.headers),
            unset,
        }
    }

    /// The call of the same caller, at the same place, that would be posted to `path`.
    #[must_use]
    pub fn as_call<'c>(&self, path: &'c str) -> Request<'c>
    where
        'a: 'c,
    {
        Request { method: "POST", path, query: None, headers: self.headers.clone(), body: None, ..*self }
    }

    /// Refuses a method with lower-case letters. Methods are case-sensitive (RFC 9110, section 9.1), so `post` is none that
    /// rules for `POST` are about, and to many a model it is `POST` all the same.
    ///
    /// # Errors
    ///
    /// It has one.
    pub fn check_method(&self) -> Result<(), Denial> {
        if self.method.bytes().any(|byte| byte.is_ascii_lowercase()) {
            return Err(Denial::new(
                Code::RequestInvalid,
                "the method has lower-case letters: methods are case-sensitive",
            ));
        }
        Ok(())
    }

    /// Refuses what could be read in two ways by whoever reads it next: a host that is sent twice, or differs from the
    /// one that is decided on, an identity header that is sent twice, and a path whose bytes are not those that were sent.
    ///
    /// # Errors
    ///
    /// The first such header.
    pub fn check_headers(&self) -> Result<(), Denial> {
        let ambiguous = |why| Err(Denial::new(Code::RequestInvalid, why));
        let mut identity: SmallVec<[&str; 4]> = SmallVec::new();
        // Envoy joins two of them into one.
        if self.host.contains(',') {
            return ambiguous("the host was sent twice");
        }
        let (mut host, mut authority) = (false, false);
        for name in self.headers.names() {
            match name.len() {
                4 if name.eq_ignore_ascii_case("host") => host = true,
                10 if name.eq_ignore_ascii_case(":authority") => authority = true,
                _ if is_identity_header(name) => {
                    if identity.iter().any(|other| other.eq_ignore_ascii_case(name)) {
                        return ambiguous("an identity header was sent twice");
                    }
                    // Each is compared with all others, here and where they are removed.
                    if identity.len() == MAX_IDENTITY_HEADERS {
                        return ambiguous("too many identity headers were sent");
                    }
                    identity.push(name);
                }
                _ => {}
            }
        }
        if self.has_other_path() {
            return Err(Denial::new(Code::PathNotCanonical, PathFault::Encoding.describe()));
        }
        for (sent, name) in [(host, "host"), (authority, ":authority")] {
            // Looked up once more only if it was sent; a second one is no longer `One`.
            let told = |host: &str| host.eq_ignore_ascii_case(self.host);
            if sent && !matches!(self.headers.get(name), HeaderLookup::One(host) if told(host)) {
                return ambiguous("the host was sent twice, or is not text");
            }
        }
        Ok(())
    }

    /// Whether the path may be another one than was sent: of bytes that are not UTF-8 Envoy makes `!`. The path itself stands among
    /// the raw headers alone, and not even there where `allowed_headers` leave it out.
    fn has_other_path(&self) -> bool {
        let told = match &self.headers {
            Headers::Map(_) => HeaderLookup::Absent,
            Headers::List(_) => self.headers.get(":path"),
        };
        match told {
            HeaderLookup::Opaque => true,
            HeaderLookup::One(_) => false,
            HeaderLookup::Absent | HeaderLookup::Several => self.path.contains('!'),
        }
    }

    /// Splits Envoy's `path`, which is not decoded and carries the query.
    #[must_use]
    pub fn split_path(path: &str) -> (&str, Option<&str>) {
        match path.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (path, None),
        }
    }

    /// The bearer token of the `Authorization` header (RFC 6750, section 2.1).
    ///
    /// # Errors
    ///
    /// There is none, more than one, or one that cannot be a token: the API server would take `"good token x"` for the
    /// good token, and blanks for an anonymous user, so white space is refused here.
    pub fn bearer(&self) -> Result<BearerToken<'a>, Denial> {
        let malformed = |why| Denial::new(Code::TokenMalformed, why);
        let value = match self.headers.get("authorization") {
            HeaderLookup::Absent => return Err(Denial::new(Code::TokenMissing, "no bearer token was sent")),
            HeaderLookup::One(value) => value,
            HeaderLookup::Several => return Err(malformed("more than one Authorization header was sent")),
            HeaderLookup::Opaque => return Err(malformed("the Authorization header is not text")),
        };
        let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Denial::new(Code::TokenMissing, "the Authorization header holds no bearer token"));
        }
        if token.is_empty() {
            return Err(Denial::new(Code::TokenMissing, "the bearer token is empty"));
        }
        if token.len() > MAX_TOKEN {
            return Err(malformed("the bearer token is longer than 8 KiB"));
        }
        // White space is no part of a token, a comma would be two headers that a proxy joined, and `!` is what Envoy makes
        // of bytes that are not UTF-8. The review refuses what else a token cannot hold. Every byte is looked at without a
        // branch, so that many are looked at at once: tokens are long.
        if token.bytes().fold(false, |found, b| found | (b <= b'!') | (b >= 0x7f) | (b == b',')) {
            return Err(malformed("the bearer token holds characters that no token has"));
        }
        Ok(BearerToken(token))
    }
}

// === impl Headers ===

impl std::fmt::Debug for Headers<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

impl<'a> Headers<'a> {
    /// Looks `name` (lower case) up.
    #[must_use]
    pub fn get(&self, name: &str) -> HeaderLookup<'a> {
        match self {
            Headers::Map(map) => match map.get(name) {
                Some(value) => HeaderLookup::One(value),
                // Not what Envoy sends, but a filter in front could.
                None => {
                    let mut found = map.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
                    match (found.next(), found.next()) {
                        (None, _) => HeaderLookup::Absent,
                        (Some((_, value)), None) => HeaderLookup::One(value),
                        (Some(_), Some(_)) => HeaderLookup::Several,
                    }
                }
            },
            Headers::List(list) => {
                let mut found = list.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
                match (found.next(), found.next()) {
                    (None, _) => HeaderLookup::Absent,
                    (Some((_, value)), None) => str::from_utf8(value).map_or(HeaderLookup::Opaque, HeaderLookup::One),
                    (Some(_), Some(_)) => HeaderLookup::Several,
                }
            }
        }
    }

    /// All values of `name` (lower case), as they were sent; in [`Headers::Map`] Envoy has joined them.
    #[must_use]
    pub fn values(&self, name: &str) -> SmallVec<[&'a [u8]; 2]> {
        let (map, list) = self.parts();
        if let Some(value) = map.and_then(|map| map.get(name)) {
            return smallvec![value.as_bytes()];
        }
        let map = map.into_iter().flatten().map(|(key, value)| (key.as_str(), value.as_bytes()));
        let named = map.chain(list.iter().copied()).filter(|(key, _)| key.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value).collect()
    }

    /// The values of `name` (lower case) as text, joined by a comma as Envoy joins them; `None` if it was not sent.
    #[must_use]
    pub fn joined(&self, name: &str) -> Option<Cow<'a, str>> {
        let values = self.values(name);
        match values.as_slice() {
            [] => None,
            [value] => Some(String::from_utf8_lossy(value)),
            several => Some(Cow::Owned(String::from_utf8_lossy(&several.join(&b',')).into_owned())),
        }
    }

    /// The names that were sent.
    pub fn names(&self) -> impl Iterator<Item = &'a str> + '_ {
        let (map, list) = self.parts();
        map.into_iter().flat_map(|map| map.keys().map(String::as_str)).chain(list.iter().map(|(name, _)| *name))
    }

    /// Names and values; a value that is not UTF-8 has its bytes replaced.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, Cow<'a, str>)> + '_ {
        let (map, list) = self.parts();
        let map = map.into_iter().flatten();
        let map = map.map(|(name, value)| (name.as_str(), Cow::Borrowed(value.as_str())));
        map.chain(list.iter().map(|(name, value)| (*name, String::from_utf8_lossy(value))))
    }

    fn parts(&self) -> (Option<&'a HashMap<String, String>>, &[RawHeader<'a>]) {
        match self {
            Headers::Map(map) => (Some(map), &[]),
            Headers::List(list) => (None, list),
        }
    }
}

/// Whether `name` is one of those that tell a model who calls: `x-maas-…`.
#[must_use]
pub fn is_identity_header(name: &str) -> bool {
    const PREFIX: &str = "x-maas-";
    name.get(..PREFIX.len()).is_some_and(|prefix| prefix.eq_ignore_ascii_case(PREFIX))
}

/// Beginnings of the names of other headers that are believed behind a gateway, whoever sent them: who calls (Kubernetes'
/// impersonation and its proxies, oauth2-proxy, Istio), for whom and with which priority a scheduler serves, and where a call goes
/// (the Gateway API's inference extension, llm-d). `docs/policies.md` lists them.
const BELIEVED: [&str; 17] = [
    "impersonate-",
    "x-remote-",
    "x-forwarded-user",
    "x-forwarded-email",
    "x-forwarded-groups",
    "x-forwarded-preferred-username",
    "x-forwarded-access-token",
    "x-auth-request-",
    "x-envoy-peer-metadata",
    "x-gateway-destination-endpoint",
    "x-gateway-inference-",
    "x-gateway-model-name",
    "x-llm-d-",
    "x-prefiller-host-port",
    "x-encoder-hosts-ports",
    "x-data-parallel-host-port",
    "x-kv-cache-source-host-port",
];

/// Whether `name` is one of those that a model, or what stands before it, believes. They may be sent, and reach no model.
#[must_use]
pub fn is_believed_header(name: &str) -> bool {
    // Asked of every header of every request that passes: the third letter leaves most of them out.
    let third = name.as_bytes().get(2).map(u8::to_ascii_lowercase);
    let Some(b'a' | b'd'..=b'g' | b'k'..=b'm' | b'p' | b'r') = third else { return false };
    let begins = |beginning: &str| {
        let (last, of_name) = (beginning.as_bytes().last(), name.as_bytes().get(beginning.len() - 1));
        last.copied() == of_name.map(u8::to_ascii_lowercase)
            && name.get(..beginning.len()).is_some_and(|start| start.eq_ignore_ascii_case(beginning))
    };
    is_identity_header(name) || BELIEVED.into_iter().any(begins)
}

// === impl BearerToken ===

impl<'a> BearerToken<'a> {
    #[must_use]
    pub fn new(token: &'a str) -> Self {
        BearerToken(token)
    }

    /// The token itself, for verifying it: never for logs, metrics or answers.
    #[must_use]
    pub fn secret(&self) -> &'a str {
        self.0
    }
}

impl std::fmt::Debug for BearerToken<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BearerToken({} bytes)", self.0.len())
    }
}

// === the path rule ===

/// Whether `path` (without query) has one reading only. Deriving a model from a
/// path is an authorisation decision, and what a backend makes of `//`, `..;` or `%2f` is not known here.
///
/// # Errors
///
/// The first reason why it is not.
pub fn check_canonical(path: &str) -> Result<(), PathFault> {
    let Some(rest) = path.strip_prefix('/') else {
        return Err(PathFault::NotAbsolute);
    };
    let (bytes, mut at) = (path.as_bytes(), 0);
    while let Some(byte) = bytes.get(at) {
        at += match byte {
            b';' | b'#' | b'\\' | 0x00..=0x1f | 0x7f => return Err(PathFault::Character),
            b'%' => bytes.get(at..).and_then(escapes).ok_or(PathFault::Encoding)?,
            _ => 1,
        };
    }
    // One trailing slash may stand.
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if path.len() > 1 {
        for segment in rest.split('/') {
            match segment {
                "" => return Err(PathFault::EmptySegment),
                "." | ".." => return Err(PathFault::DotSegment),
                _ => {}
            }
        }
    }
    Ok(())
}

/// How many bytes the escapes take of the character that `bytes` start with. `None` if it is one that divides paths or ends them,
/// where a decoding backend would see another path; or none at all: backends read bytes that are not UTF-8 each in its own way,
/// and `%c0%ae` as a dot.
fn escapes(bytes: &[u8]) -> Option<usize> {
    let length = match escaped(bytes)? {
        0x00..=0x1f | 0x7f | b'%' | b'.' | b'/' | b'\\' | b';' | b'#' | b'?' => return None,
        0x20..=0x7e => return Some(3),
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => return None,
    };
    let mut character = [0; 4];
    for (byte, escape) in character.iter_mut().zip(bytes.chunks(3)).take(length) {
        *byte = escaped(escape)?;
    }
    str::from_utf8(character.get(..length)?).ok()?;
    Some(3 * length)
}

/// The byte whose escape `bytes` start with.
fn escaped(bytes: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = bytes else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()
}

/// RFC 1123 label, as Kubernetes names namespaces: at most 63 lower-case letters, digits and inner hyphens.
#[must_use]
pub fn is_dns1123_label(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = name.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    bytes.len() <= 63 && inner(*first) && inner(*last) && bytes.iter().all(|b| inner(*b) || *b == b'-')
}

/// RFC 1123 subdomain, as Kubernetes names most objects: labels joined by dots, at most 253 bytes.
#[must_use]
pub fn is_dns1123_subdomain(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_dns1123_label)
}

impl PathFault {
    /// The fault in words.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            PathFault::NotAbsolute => "the path does not start with `/`",
            PathFault::EmptySegment => "the path has an empty segment",
            PathFault::DotSegment => "the path has a dot segment",
            PathFault::Character => "the path holds `;`, `#`, `\\` or a control character",
            PathFault::Encoding => {
                "the path holds an escape of `.`, `/`, `\\`, `%`, `;`, `#`, `?` or a control character, a broken one, or bytes \
                 that are not UTF-8"
            }
        }
    }
}

/// The host as Envoy compares it: in lower case, without what follows the last colon. A dot that ends it stays.
#[must_use]
pub fn host_name(host: &str) -> Cow<'_, str> {
    let name = match host.rsplit_once(':') {
        // `[::1]:8080` has colons before its port; `[::1]` has no port at all.
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    };
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

#[cfg(test)]
mod tests;
