//! Which HTTPRoute rule a request belongs to, by Gateway API precedence. Built once per snapshot.
//!
//! Source: Gateway API v1, `HTTPRouteSpec.hostnames` and `HTTPRouteRule.matches`: the most specific host, then an exact
//! path, then the longest prefix, then a method, then the number of headers, then of query parameters; ties go to the
//! oldest route (in a folder, which has no ages, the first by namespace and name), then to the first rule.

use std::borrow::Cow;
use std::sync::Arc;

use hashbrown::HashMap;

use super::RoutePlan;
use crate::manifest::{HeaderMatch, Match, PathMatch, TextMatch};
use crate::request::Request;

/// The routes of one Gateway.
#[derive(Debug, Default)]
pub struct RouteTable {
    exact: HashMap<String, HostRoutes>,
    /// By what follows the `*`, such as `.example.com`.
    wildcard: HashMap<String, HostRoutes>,
    any: HostRoutes,
    /// Of routes whose hosts could not be read: they could be for any, so they are asked before all others.
    unknown: HostRoutes,
}

/// The host of a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    Every,
    /// It could not be read.
    Unknown,
    /// Lower case; `*.` starts a wildcard.
    Named(String),
}

/// The rules of one host name.
#[derive(Debug, Default)]
struct HostRoutes {
    exact: HashMap<String, Vec<Candidate>>,
    /// By prefix, without the trailing slash.
    prefixes: HashMap<String, Vec<Candidate>>,
    /// In bytes.
    longest_prefix: usize,
    regexes: Vec<(regex::Regex, Candidate)>,
    /// A route whose matches could not be read: it could be for any path of the host.
    shut: Option<Arc<RoutePlan>>,
}

/// A match whose host and path fit already.
#[derive(Clone, Debug)]
struct Candidate {
    rule: Arc<Match>,
    plan: Arc<RoutePlan>,
    /// The position of the route and of the rule.
    order: (usize, usize),
}

// === impl RouteTable ===

impl RouteTable {
    /// Adds a match of rule `order` under `host`.
    pub fn add(&mut self, host: &Host, rule: &Arc<Match>, plan: &Arc<RoutePlan>, order: (usize, usize)) {
        let routes = self.host(host);
        let candidate = Candidate { rule: Arc::clone(rule), plan: Arc::clone(plan), order };
        match &rule.path {
            PathMatch::Exact(path) => routes.exact.entry(path.clone()).or_default().push(candidate),
            PathMatch::Prefix(path) => {
                routes.longest_prefix = routes.longest_prefix.max(path.len());
                routes.prefixes.entry(path.clone()).or_default().push(candidate);
            }
            PathMatch::Regex(regex) => routes.regexes.push((regex.clone(), candidate)),
        }
    }

    /// Sends every request of `host` to `plan`.
    pub fn shut(&mut self, host: &Host, plan: &Arc<RoutePlan>) {
        self.host(host).shut = Some(Arc::clone(plan));
    }

    fn host(&mut self, host: &Host) -> &mut HostRoutes {
        match host {
            Host::Every => &mut self.any,
            Host::Unknown => &mut self.unknown,
            Host::Named(name) => match name.strip_prefix('*') {
                Some(suffix) => self.wildcard.entry(suffix.to_owned()).or_default(),
                None => self.exact.entry(name.clone()).or_default(),
            },
        }
    }

    /// Sorts by precedence; call it once after the last [`RouteTable::add`].
    pub fn finish(&mut self) {
        let hosts = self.exact.values_mut().chain(self.wildcard.values_mut());
        for host in hosts.chain([&mut self.any, &mut self.unknown]) {
            for candidates in host.exact.values_mut().chain(host.prefixes.values_mut()) {
                candidates.sort_by_key(Candidate::precedence);
            }
            host.regexes.sort_by_key(|(_, candidate)| candidate.precedence());
        }
    }

    /// Every plan, as often as a match leads to it.
    pub fn plans(&self) -> impl Iterator<Item = &RoutePlan> {
        let hosts = self.exact.values().chain(self.wildcard.values()).chain([&self.any, &self.unknown]);
        hosts.flat_map(HostRoutes::candidates).map(|candidate| &*candidate.plan)
    }

    /// Names of the headers that matches look at, in lower case.
    pub fn header_names(&self) -> impl Iterator<Item = &str> {
        let hosts = self.exact.values().chain(self.wildcard.values()).chain([&self.any, &self.unknown]);
        hosts.flat_map(HostRoutes::candidates).flat_map(|candidate| &candidate.rule.headers).map(|header| &*header.name)
    }

    /// The route of `request`, whose path is canonical.
    #[must_use]
    pub fn find(&self, request: &Request<'_>) -> Option<&RoutePlan> {
        if let Some(found) = self.unknown.find(request) {
            return Some(found);
        }
        if let Some(found) = self.find_by_host(request) {
            return Some(found);
        }
        self.any.find(request)
    }

    fn find_by_host(&self, request: &Request<'_>) -> Option<&RoutePlan> {
        if self.exact.is_empty() && self.wildcard.is_empty() {
            return None;
        }
        let host = host_name(request.host);
        if let Some(found) = self.exact.get(&*host).and_then(|routes| routes.find(request)) {
            return Some(found);
        }
        // The longest wildcard first; `*.example.com` does not match `example.com`.
        let mut suffixes = host.match_indices('.').filter(|(at, _)| *at > 0 && !self.wildcard.is_empty());
        suffixes.find_map(|(at, _)| self.wildcard.get(host.get(at..)?)?.find(request))
    }
}

/// The host without its port, in lower case, and without the dot that may end a host name.
pub(super) fn host_name(host: &str) -> Cow<'_, str> {
    let name = match host.rsplit_once(':') {
        // `[::1]:8080` has colons before its port; `[::1]` has no port at all.
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

// === impl HostRoutes ===

impl HostRoutes {
    fn candidates(&self) -> impl Iterator<Item = &Candidate> {
        let by_path = self.exact.values().chain(self.prefixes.values()).flatten();
        by_path.chain(self.regexes.iter().map(|(_, candidate)| candidate))
    }

    fn find(&self, request: &Request<'_>) -> Option<&RoutePlan> {
        if let Some(plan) = &self.shut {
            return Some(plan);
        }
        let pick = |candidates: &'_ Vec<Candidate>| -> Option<usize> {
            candidates.iter().position(|candidate| candidate.fits(request))
        };
        if let Some(candidates) = self.exact.get(request.path)
            && let Some(at) = pick(candidates)
        {
            return candidates.get(at).map(|candidate| &*candidate.plan);
        }
        let mut prefix = request.path.strip_suffix('/').unwrap_or(request.path);
        while !self.prefixes.is_empty() {
            // A longer path than any prefix need not be looked up.
            if prefix.len() <= self.longest_prefix
                && let Some(candidates) = self.prefixes.get(prefix)
                && let Some(at) = pick(candidates)
            {
                return candidates.get(at).map(|candidate| &*candidate.plan);
            }
            match prefix.bytes().rposition(|byte| byte == b'/') {
                Some(slash) => prefix = prefix.get(..slash).unwrap_or_default(),
                None => break,
            }
        }
        // Where regular expressions stand is left to implementations; here they come last.
        let fits =
            |(regex, candidate): &&(regex::Regex, Candidate)| regex.is_match(request.path) && candidate.fits(request);
        self.regexes.iter().find(fits).map(|(_, candidate)| &*candidate.plan)
    }
}

// === impl Candidate ===

impl Candidate {
    fn precedence(&self) -> impl Ord + use<> {
        use std::cmp::Reverse;
        let rule = &self.rule;
        (Reverse(rule.method.is_some()), Reverse(rule.headers.len()), Reverse(rule.query.len()), self.order)
    }

    fn fits(&self, request: &Request<'_>) -> bool {
        let rule = &self.rule;
        rule.method.as_ref().is_none_or(|method| method == request.method)
            && rule
                .headers
                .iter()
                .all(|wanted| request.headers.joined(&wanted.name).is_some_and(|value| wanted.value.fits(&value)))
            && rule.query.iter().all(|wanted| query_fits(wanted, request.query.unwrap_or_default()))
    }
}

/// The first parameter of the name decides, as the Gateway API recommends.
fn query_fits(wanted: &HeaderMatch, query: &str) -> bool {
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let mut named = pairs.filter(|(name, _)| *name == wanted.name);
    named.next().is_some_and(|(_, value)| wanted.value.fits(value))
}

// === impl TextMatch ===

impl TextMatch {
    fn fits(&self, value: &str) -> bool {
        match self {
            TextMatch::Exact(wanted) => wanted == value,
            TextMatch::Regex(regex) => regex.is_match(value),
        }
    }
}
