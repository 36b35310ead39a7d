//! Which route a request that none matches was probably meant for.

use std::sync::Arc;

use super::Policy;
use super::route::Host;
use crate::manifest::{Match, PathMatch};
use crate::request::host_name;

/// The route that is nearest to a request, and why it does not match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nearest {
    /// `namespace/name`
    pub route: Arc<str>,
    /// What the route is for, in words.
    pub what: String,
}

// === impl Policy ===

impl Policy {
    /// The route that comes nearest to `method` and `path` at `host`; `None` if there is no route at all.
    #[must_use]
    pub fn nearest(&self, method: &str, host: &str, path: &str) -> Option<Nearest> {
        let host = host_name(host);
        let listeners = self.gateways.iter().flat_map(|gateway| &gateway.listeners);
        let matches = listeners.flat_map(|listener| listener.routes.matches());
        let near = matches.map(|(of_host, wanted, plan)| {
            let at = of_host.clone().map_or(Host::Every, Host::Named);
            let (far, what) = wanted.compare(method, path, at.fits(&host).is_some(), of_host.as_deref());
            (far, Arc::clone(&plan.name), what)
        });
        // By name where several are as near, so that the answer is not chance.
        near.min().map(|(_, route, what)| Nearest { route, what })
    }
}

// === impl Match ===

impl Match {
    /// How far a request is from this match, and what the match is for.
    fn compare(&self, method: &str, path: &str, at_host: bool, host: Option<&str>) -> (usize, String) {
        let on = host.map(|host| format!(" at host {host}")).unwrap_or_default();
        let far = self.path.distance(path);
        if far > 0 {
            return (far.saturating_add(2), format!("is for {}{on}", self.path.describe()));
        }
        if !at_host {
            return (2, format!("is for this path{on}"));
        }
        let what = match &self.method {
            Some(wanted) if wanted != method => format!("is for this path with method {wanted}"),
            _ => "is for this path with other headers or query parameters".to_owned(),
        };
        (1, what)
    }
}

// === impl PathMatch ===

impl PathMatch {
    /// 0 if `path` matches; else how many characters would have to change.
    fn distance(&self, path: &str) -> usize {
        // Long paths are compared in part: the cost grows with the square.
        const LONGEST: usize = 128;
        let start = |text: &str| text.chars().take(LONGEST).collect::<String>();
        match self {
            PathMatch::Exact(wanted) if wanted == path => 0,
            PathMatch::Exact(wanted) => strsim::osa_distance(&start(wanted), &start(path)).max(1),
            PathMatch::Prefix(prefix) => {
                if path.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
                    return 0;
                }
                let segments = prefix.split('/').count();
                let same_depth = path.split('/').take(segments).collect::<Vec<_>>().join("/");
                strsim::osa_distance(&start(prefix), &start(&same_depth)).max(1)
            }
            PathMatch::Regex(regex) if regex.is_match(path.as_bytes()) => 0,
            PathMatch::Regex(_) => LONGEST,
        }
    }

    fn describe(&self) -> String {
        match self {
            PathMatch::Exact(path) => path.clone(),
            PathMatch::Prefix(path) if path.is_empty() => "/…".to_owned(),
            PathMatch::Prefix(path) => format!("{path}/…"),
            PathMatch::Regex(regex) => format!("paths that match {regex}"),
        }
    }
}
