//! A request as a client sends it.

use crate::request::{Headers, OperatorModel, Request};

/// A request, as far as a command line tells it.
#[derive(Clone, PartialEq, Eq)]
pub struct Sent {
    pub method: String,
    pub scheme: String,
    pub host: String,
    /// With the query.
    pub path: String,
    /// By lower-case name.
    pub headers: Vec<(String, String)>,
    pub gateway: Option<String>,
    pub listener: Option<String>,
    pub model: Option<String>,
    /// What of it is not known, and what was taken in its place.
    pub unknown: Vec<String>,
}

// === impl Sent ===

impl Sent {
    pub(super) fn new(method: &str, path: &str) -> Self {
        Sent {
            method: method.to_owned(),
            scheme: "http".to_owned(),
            host: "localhost".to_owned(),
            path: path.to_owned(),
            headers: Vec::new(),
            gateway: None,
            listener: None,
            model: None,
            unknown: Vec::new(),
        }
    }

    /// A request for `url`, whose path stays as it is.
    pub(super) fn of_url(url: &str) -> Self {
        let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (credentials, host) =
            authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
        let default_port = if scheme == "https" { ":443" } else { ":80" };
        let slash = if path.starts_with('/') { "" } else { "/" };
        let mut sent = Sent::new("GET", &format!("{slash}{path}"));
        sent.scheme = scheme.to_owned();
        sent.host = host.strip_suffix(default_port).unwrap_or(host).to_owned();
        if credentials.is_some() {
            sent.headers.push(("authorization".to_owned(), "Basic (credentials)".to_owned()));
        }
        sent
    }

    pub(super) fn request(&self) -> Request<'_> {
        let (path, query) = Request::split_path(&self.path);
        let headers = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        Request {
            method: &self.method,
            host: &self.host,
            scheme: &self.scheme,
            path,
            query,
            headers: Headers::List(headers.collect()),
            gateway: self.gateway.as_deref(),
            listener: self.listener.as_deref(),
            port: None,
            peer: None,
            sni: None,
            model: self.model.as_deref().map_or(OperatorModel::Unset, OperatorModel::Named),
            // No shipped gateway sends it.
            body: None,
        }
    }
}

/// Without the values of headers, which may be tokens.
impl std::fmt::Debug for Sent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.request().fmt(f)
    }
}
