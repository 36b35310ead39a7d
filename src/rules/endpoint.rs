//! Where an AuthPolicy asks for the tiers of callers.

use std::sync::Arc;
use std::time::Duration;

use hyper::Uri;

/// Where tiers are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// As the policy spells it.
    pub url: Arc<str>,
    /// The same, to be called.
    pub uri: Uri,
    /// How long an answer is remembered.
    pub ttl: Duration,
    /// How long a call may take.
    pub timeout: Duration,
}

/// How long an answer is remembered when the policy says nothing shorter: what the seeds' policies say.
const TTL: Duration = Duration::from_secs(300);
/// How long a call may take at most. Longer than a request waits: the answer of a slow service is there for the next.
const TIMEOUT: Duration = Duration::from_secs(1);

// === impl Endpoint ===

impl Endpoint {
    /// `ttl` and `timeout` are upper bounds: an answer is remembered for 300 s and a call takes 1 s, or less. No `timeout`
    /// or one of zero is the same.
    ///
    /// # Errors
    ///
    /// What is called cannot be told from `url`, in words that follow it.
    pub fn new(url: &str, ttl: Option<Duration>, timeout: Option<Duration>) -> Result<Self, &'static str> {
        if url.contains(['{', '}']) {
            return Err("has a placeholder");
        }
        let uri: Uri = url.parse().map_err(|_| "is no URL")?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
            return Err("is no http or https URL");
        }
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err("holds credentials");
        }
        let timeout = timeout.filter(|timeout| !timeout.is_zero());
        Ok(Endpoint {
            url: url.into(),
            uri,
            ttl: ttl.map_or(TTL, |ttl| ttl.min(TTL)),
            timeout: timeout.map_or(TIMEOUT, |timeout| timeout.min(TIMEOUT)),
        })
    }
}
