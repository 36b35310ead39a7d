//! Which HTTPRoute rule a request belongs to. Built once per snapshot.
//!
//! What is found has to be what Envoy takes: a request that is decided under one rule's policies and sent where another
//! rule says would be a hole. So this is the Gateway API (`HTTPRouteSpec.hostnames`, `HTTPRouteRule.matches`) as its
//! controllers write it into Envoy's configuration; `docs/routes.md` says where those depart from its text, and
//! `tests/it/routes.rs` compares with a real Envoy.

use std::cmp::Reverse;
use std::sync::Arc;

use hashbrown::HashMap;
use smallvec::SmallVec;

use super::RoutePlan;
use crate::denial::{Code, Denial};
use crate::manifest::{Match, PathMatch, RouteOrder, TextMatch, ValueMatch};
use crate::request::{Headers, Request, host_name};

/// The routes of one Gateway.
#[derive(Debug, Default)]
pub struct RouteTable {
    order: RouteOrder,
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

/// A host that a listener serves for a route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Served {
    pub host: Host,
    /// The route's own name for it, where that is wider than the listener's; `*` if it has none.
    pub wider: Option<Arc<str>>,
}

/// The rules of one host name: what Envoy calls a virtual host.
#[derive(Debug, Default)]
struct HostRoutes {
    /// By what names of routes they came here, each once.
    names: Vec<Option<Arc<str>>>,
    exact: HashMap<String, Vec<RouteCandidate>>,
    /// By prefix, without the trailing slash.
    prefixes: HashMap<String, Vec<RouteCandidate>>,
    /// In bytes.
    longest_prefix: usize,
    regexes: Vec<(regex::bytes::Regex, RouteCandidate)>,
    /// A route whose matches could not be read: it could be for any path of the host.
    shut: Option<Arc<RoutePlan>>,
}

/// A match whose host and path fit already.
#[derive(Clone, Debug)]
struct RouteCandidate {
    rule: Arc<Match>,
    plan: Arc<RoutePlan>,
    /// The route's name for the host, if it is wider.
    wider: Option<Arc<str>>,
    /// The position of the route and of the rule.
    order: (usize, usize),
}

/// The first match that fits, if one does.
type FirstMatch<'c> = Result<Option<&'c RouteCandidate>, Denial>;

/// Of which name of routes the matches are looked at; `None` is all.
type Only<'n> = Option<&'n Option<Arc<str>>>;

/// Whether a condition holds; `None` if that depends on how Envoy reads the request.
type Holds = Option<bool>;

// === impl RouteTable ===

impl RouteTable {
    #[must_use]
    pub fn new(order: RouteOrder) -> Self {
        RouteTable { order, ..RouteTable::default() }
    }

    /// Adds a match of rule `order` under a host.
    pub fn add(&mut self, served: &Served, rule: &Arc<Match>, plan: &Arc<RoutePlan>, order: (usize, usize)) {
        let routes = self.host(&served.host);
        if !routes.names.contains(&served.wider) {
            routes.names.push(served.wider.clone());
        }
        let (rule, plan, wider) = (Arc::clone(rule), Arc::clone(plan), served.wider.clone());
        let candidate = RouteCandidate { rule, plan, wider, order };
        match &candidate.rule.path {
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
                Some(suffix) => self.wildcard.entry_ref(suffix).or_default(),
                None => self.exact.entry_ref(name.as_str()).or_default(),
            },
        }
    }

    /// Sorts by precedence; call it once after the last [`RouteTable::add`].
    pub fn finish(&mut self) {
        let order = self.order;
        let hosts = self.exact.values_mut().chain(self.wildcard.values_mut());
        for host in hosts.chain([&mut self.any, &mut self.unknown]) {
            for candidates in host.exact.values_mut().chain(host.prefixes.values_mut()) {
                candidates.sort_by_key(|candidate| candidate.precedence(order));
            }
            // The longest first, which the Gateway API leaves open and all controllers do.
            host.regexes
                .sort_by_key(|(_, candidate)| (Reverse(candidate.rule.path_length), candidate.precedence(order)));
        }
    }

    fn hosts(&self) -> impl Iterator<Item = &HostRoutes> {
        self.exact.values().chain(self.wildcard.values()).chain([&self.any, &self.unknown])
    }

    /// Every plan, as often as a match leads to it.
    pub fn plans(&self) -> impl Iterator<Item = &RoutePlan> {
        self.hosts().flat_map(HostRoutes::candidates).map(|candidate| &*candidate.plan)
    }

    /// The plans that take every request of a host, since nobody knows what else they were for.
    pub fn shut_plans(&self) -> impl Iterator<Item = &RoutePlan> {
        self.hosts().filter_map(|host| host.shut.as_deref())
    }

    /// Names of the headers that matches look at, in lower case.
    pub fn header_names(&self) -> impl Iterator<Item = &str> {
        self.hosts()
            .flat_map(HostRoutes::candidates)
            .flat_map(|candidate| &candidate.rule.headers)
            .map(|header| &*header.name)
    }

    /// Every match, with its host (`None`: every one) and the plan that it leads to.
    pub fn matches(&self) -> impl Iterator<Item = (Option<String>, &Match, &RoutePlan)> {
        let exact = self.exact.iter().map(|(name, routes)| (Some(name.clone()), routes));
        let wildcard = self.wildcard.iter().map(|(suffix, routes)| (Some(format!("*{suffix}")), routes));
        let hosts = exact.chain(wildcard).chain([(None, &self.any), (None, &self.unknown)]);
        hosts.flat_map(|(host, routes)| {
            routes.candidates().map(move |candidate| (host.clone(), &*candidate.rule, &*candidate.plan))
        })
    }

    /// The route of `request`, whose path is canonical.
    ///
    /// # Errors
    ///
    /// It depends on a header that Envoys read in different ways, or on the ages of routes, so it is not known where the
    /// request would go.
    pub fn find(&self, request: &Request<'_>) -> Result<Option<&RoutePlan>, Denial> {
        if let Some(found) = self.unknown.find(request, self.order)? {
            return Ok(Some(found));
        }
        // The most specific host name alone, as Envoy takes one virtual host: if none of its rules fits, none does.
        self.routes_of(request.host).find(request, self.order)
    }

    fn routes_of(&self, host: &str) -> &HostRoutes {
        if self.exact.is_empty() && self.wildcard.is_empty() {
            return &self.any;
        }
        let host = host_name(host);
        self.exact.get(&*host).or_else(|| Some(self.of_wildcard(&host)?.1)).unwrap_or(&self.any)
    }

    /// The longest wildcard that matches `host`; `*.example.com` does not match `example.com`.
    fn of_wildcard(&self, host: &str) -> Option<(usize, &HostRoutes)> {
        let mut suffixes = host.match_indices('.').filter(|(at, _)| *at > 0 && !self.wildcard.is_empty());
        suffixes.find_map(|(at, _)| {
            let suffix = host.get(at..)?;
            Some((suffix.len(), self.wildcard.get(suffix)?))
        })
    }

    /// How specific the name is at which `host` is served: the more, the more specific; `None` if it is not.
    pub(super) fn serves(&self, host: &str) -> Option<usize> {
        if self.exact.contains_key(host) {
            return Some(usize::MAX);
        }
        let wildcard = self.of_wildcard(host).map(|(length, _)| length);
        wildcard.or_else(|| (!self.any.is_empty()).then_some(0))
    }
}

// === impl HostRoutes ===

impl HostRoutes {
    fn candidates(&self) -> impl Iterator<Item = &RouteCandidate> {
        let by_path = self.exact.values().chain(self.prefixes.values()).flatten();
        by_path.chain(self.regexes.iter().map(|(_, candidate)| candidate))
    }

    fn is_empty(&self) -> bool {
        self.shut.is_none() && self.candidates().next().is_none()
    }

    fn find(&self, request: &Request<'_>, order: RouteOrder) -> Result<Option<&RoutePlan>, Denial> {
        if let Some(plan) = &self.shut {
            return Ok(Some(plan));
        }
        if self.names.len() < 2 || order == RouteOrder::EnvoyGateway {
            return Ok(self.best(request, order, None)?.map(|candidate| &*candidate.plan));
        }
        // Istio has the matches of one name after those of another, by the ages of objects, and what fits everything last.
        let mut best: SmallVec<[&RouteCandidate; 2]> = SmallVec::new();
        for name in &self.names {
            best.extend(self.best(request, order, Some(name))?);
        }
        if best.iter().any(|candidate| !candidate.fits_everything()) {
            best.retain(|candidate| !candidate.fits_everything());
        }
        let Some((first, others)) = best.split_first() else { return Ok(None) };
        match others.iter().find(|other| !other.plan.has_policies_of(&first.plan)) {
            None => Ok(Some(&first.plan)),
            Some(other) => {
                let why = format!(
                    "HTTPRoute {} and {} have different names for the host, so their ages decide; give both the same hostnames",
                    first.plan.name, other.plan.name
                );
                Err(Denial::new(Code::UnavailableGateway, "the route of this request is not known").detail(why))
            }
        }
    }

    fn best(&self, request: &Request<'_>, order: RouteOrder, only: Only<'_>) -> FirstMatch<'_> {
        if let Some(candidates) = self.exact.get(request.path)
            && let Some(found) = pick(candidates, request, only)?
        {
            return Ok(Some(found));
        }
        match order {
            RouteOrder::GatewayApi => match self.by_prefix(request, only)? {
                Some(found) => Ok(Some(found)),
                None => self.by_regex(request, only),
            },
            RouteOrder::EnvoyGateway => match self.by_regex(request, only)? {
                Some(found) => Ok(Some(found)),
                None => self.by_prefix(request, only),
            },
        }
    }

    fn by_prefix(&self, request: &Request<'_>, only: Only<'_>) -> FirstMatch<'_> {
        let mut prefix = request.path.strip_suffix('/').unwrap_or(request.path);
        while !self.prefixes.is_empty() {
            // A longer path than any prefix need not be looked up.
            if prefix.len() <= self.longest_prefix
                && let Some(candidates) = self.prefixes.get(prefix)
                && let Some(found) = pick(candidates, request, only)?
            {
                return Ok(Some(found));
            }
            match prefix.bytes().rposition(|byte| byte == b'/') {
                Some(slash) => prefix = prefix.get(..slash).unwrap_or_default(),
                None => break,
            }
        }
        Ok(None)
    }

    fn by_regex(&self, request: &Request<'_>, only: Only<'_>) -> FirstMatch<'_> {
        let path = request.path.as_bytes();
        let matching = self.regexes.iter().filter(|(regex, _)| regex.is_match(path));
        pick(matching.map(|(_, candidate)| candidate), request, only)
    }
}

/// The first that fits.
fn pick<'c>(
    candidates: impl IntoIterator<Item = &'c RouteCandidate>,
    request: &Request<'_>,
    only: Only<'_>,
) -> FirstMatch<'c> {
    let of_name = |candidate: &&RouteCandidate| only.is_none_or(|name| candidate.wider == *name);
    for candidate in candidates.into_iter().filter(of_name) {
        match candidate.fits(request) {
            Some(true) => return Ok(Some(candidate)),
            Some(false) => {}
            None => {
                let why = "a header that chooses the route has more than one reading";
                let detail = format!("a match of HTTPRoute {}", candidate.plan.name);
                return Err(Denial::new(Code::RequestInvalid, why).detail(detail));
            }
        }
    }
    Ok(None)
}

// === impl RouteCandidate ===

impl RouteCandidate {
    /// Among matches of one path. The last resort is the position: of routes by age, or namespace and name, then of rules.
    fn precedence(&self, order: RouteOrder) -> impl Ord + use<> {
        let rule = &self.rule;
        let (method, headers, query) = (usize::from(rule.method.is_some()), rule.headers.len(), rule.query.len());
        let exact = |of: &[ValueMatch]| of.iter().filter(|one| matches!(one.value, TextMatch::Exact(_))).count();
        let counts = match order {
            RouteOrder::GatewayApi => [method, headers, query, 0, 0],
            RouteOrder::EnvoyGateway => [
                // `/a` and `/a/` are one prefix of two lengths.
                rule.path_length,
                method + headers,
                method + exact(&rule.headers),
                query,
                exact(&rule.query),
            ],
        };
        (Reverse(counts), self.order)
    }

    /// What Istio moves behind all others.
    fn fits_everything(&self) -> bool {
        let rule = &self.rule;
        let path = match &rule.path {
            PathMatch::Prefix(prefix) => prefix.is_empty(),
            PathMatch::Regex(regex) => regex.as_str() == r"\A(?:.*)\z",
            PathMatch::Exact(_) => false,
        };
        path && rule.method.is_none() && rule.headers.is_empty() && rule.query.is_empty()
    }

    fn fits(&self, request: &Request<'_>) -> Holds {
        let rule = &self.rule;
        if rule.method.as_ref().is_some_and(|method| method != request.method) {
            return Some(false);
        }
        let headers = rule.headers.iter().map(|wanted| header_fits(wanted, request));
        let query = rule.query.iter().map(|wanted| query_fits(wanted, request.query.unwrap_or_default()));
        let mut fits = Some(true);
        for holds in headers.chain(query) {
            match holds {
                Some(true) => {}
                Some(false) => return Some(false),
                None => fits = None,
            }
        }
        fits
    }
}

// === conditions ===

/// Values of one header of which all combinations are looked at. Lists that are longer have more than one reading.
const MOST_VALUES: usize = 8;

fn header_fits(wanted: &ValueMatch, request: &Request<'_>) -> Holds {
    // Envoy knows the host by one name, whichever it was sent by.
    if wanted.name == "host" {
        return text_fits(&wanted.value, request.host.as_bytes());
    }
    let values = request.headers.values(&wanted.name);
    match (&request.headers, values.as_slice()) {
        (_, []) => Some(false),
        (Headers::List(_), [value]) => bytes_fit(&wanted.value, value),
        // Since 1.39 Envoy wants one of them to match; before, it wanted all of them to, joined.
        (Headers::List(_), several) => {
            let joined = bytes_fit(&wanted.value, &several.join(&b','))?;
            let mut one = Some(false);
            for value in several {
                one = if bytes_fit(&wanted.value, value)? { Some(true) } else { one };
            }
            one.filter(|one| *one == joined)
        }
        (Headers::Map(_), [value]) => joined_fits(&wanted.value, value),
        // Names that differ in case: Envoy sends none.
        (Headers::Map(_), _) => None,
    }
}

/// Whether it holds for `value`, which may be several values that Envoy joined.
fn joined_fits(wanted: &TextMatch, value: &[u8]) -> Holds {
    let blank = |at: Option<usize>| at.and_then(|at| value.get(at)).is_some_and(|byte| matches!(byte, b' ' | b'\t'));
    // It joins without a blank, and sends no value with one at its ends.
    let joint = |at: &usize| value.get(*at) == Some(&b',') && !blank(at.checked_sub(1)) && !blank(at.checked_add(1));
    let joints: SmallVec<[usize; MOST_VALUES]> = (0..value.len()).filter(joint).take(MOST_VALUES).collect();
    if joints.len() == MOST_VALUES {
        return None;
    }
    let whole = text_fits(wanted, value)?;
    let starts = [0].into_iter().chain(joints.iter().map(|at| at + 1));
    for (first, start) in starts.enumerate() {
        for end in joints.iter().copied().chain([value.len()]).skip(first) {
            if text_fits(wanted, value.get(start..end)?)? != whole {
                return None;
            }
        }
    }
    Some(whole)
}

/// The first parameter of the name decides, as the Gateway API recommends. Nothing is decoded.
fn query_fits(wanted: &ValueMatch, query: &str) -> Holds {
    let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    match pairs.find(|(name, _)| *name == wanted.name) {
        Some((_, value)) => text_fits(&wanted.value, value.as_bytes()),
        None => Some(false),
    }
}

/// For what Envoy sends as text: bytes that are not UTF-8 have become `!`.
fn text_fits(wanted: &TextMatch, value: &[u8]) -> Holds {
    let fits = bytes_fit(wanted, value)?;
    let doubtful = fits || matches!(wanted, TextMatch::Regex(_));
    (!doubtful || !value.contains(&b'!')).then_some(fits)
}

fn bytes_fit(wanted: &TextMatch, value: &[u8]) -> Holds {
    match wanted {
        TextMatch::Exact(text) => Some(text.as_bytes() == value),
        TextMatch::Regex(regex) => value.is_ascii().then(|| regex.is_match(value)),
    }
}
