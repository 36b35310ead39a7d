//! Gateway and HTTPRoute: the fields that decide which rule a request belongs to.
//!
//! Source: Gateway API v1, `HTTPRouteMatch` and `Listener`.

use std::sync::Arc;

use super::Meta;
use super::annotation::read_choice;
use super::route_match::{Match, at_most, read_match};
use super::selector::{LabelSelector, read_selector};
use crate::document::{Field, Fields, Report};
use crate::problem::{Place, Severity};
use crate::request::is_dns1123_label;
use crate::spelling::did_you_mean;

/// The bounds of the CRD: host names and rules of a route, matches of a rule, and of all its rules.
const MAX_HOSTNAMES: usize = 16;
const MAX_RULES: usize = 16;
const MAX_MATCHES: usize = 64;
const MAX_MATCHES_OF_ROUTE: usize = 128;

/// Whose order of matches the Gateway's controller has.
pub(super) const ORDER: &str = "tiergate.io/route-order";
/// The group of parents, unless they say another.
const GROUP: &str = "gateway.networking.k8s.io";
const ORDERS: [(&str, RouteOrder); 2] =
    [("gateway-api", RouteOrder::GatewayApi), ("envoy-gateway", RouteOrder::EnvoyGateway)];

#[derive(Clone, Debug)]
pub struct Gateway {
    pub meta: Meta,
    pub listeners: Vec<Listener>,
    pub order: RouteOrder,
    /// In error: its requests cannot be decided.
    pub broken: bool,
}

/// Which of several matches wins. The Gateway API leaves a part of it open, and Envoy Gateway departs from the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RouteOrder {
    /// As the Gateway API says; regular expressions after all prefixes, the longest first, as Istio has them.
    #[default]
    GatewayApi,
    /// Regular expressions go before prefixes, a method is one header more, and of as many headers or query parameters
    /// those win that have more exact ones.
    EnvoyGateway,
}

#[derive(Clone, Debug)]
pub struct Listener {
    pub name: String,
    /// Lower case; `None` serves every host.
    pub hostname: Option<String>,
    pub port: Option<u16>,
    pub from: NamespacesFrom,
}

/// From which namespaces routes may attach to a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamespacesFrom {
    Same,
    All,
    /// From those that it selects by their labels; the Gateway's own is no exception.
    Selector(LabelSelector),
}

#[derive(Clone, Debug)]
pub struct HttpRoute {
    pub meta: Meta,
    pub parents: Vec<ParentRef>,
    /// Where the parents are named.
    pub parents_place: Place,
    /// Lower case.
    pub hostnames: Vec<String>,
    pub rules: Vec<RouteRule>,
    pub fault: RouteFault,
}

/// What of a route could not be read. What it was for stays shut: a request must not be decided by a broader route's
/// policies because the narrower one has a typing error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteFault {
    /// Something; the route has no policy but this.
    pub any: bool,
    /// It could be attached to any Gateway.
    pub parents: bool,
    /// It could be for any host.
    pub hosts: bool,
    /// It could match any path of its hosts.
    pub matches: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentRef {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    /// The listener's name.
    pub section: Option<String>,
    /// The listener's port.
    pub port: Option<u16>,
}

#[derive(Clone, Debug)]
pub struct RouteRule {
    pub name: Option<String>,
    pub matches: Vec<Arc<Match>>,
}

pub(super) fn read_gateway(meta: Meta, mut fields: Fields<'_>, report: &Report) -> Gateway {
    let errors = report.errors();
    let spec = fields.require("spec", "gatewayClassName and listeners").and_then(|field| field.fields());
    fields.done(Severity::Warning);
    let mut listeners = Vec::new();
    if let Some(mut spec) = spec {
        spec.ignore(&["gatewayClassName", "addresses", "infrastructure", "backendTLS", "allowedListeners", "tls"]);
        if let Some(field) = spec.require("listeners", "at least one listener") {
            let items = field.items();
            if items.as_ref().is_some_and(Vec::is_empty) {
                field.report(field.error("is empty").expected("at least one listener"));
            }
            listeners.extend(items.unwrap_or_default().iter().filter_map(read_listener));
        }
        spec.done(Severity::Warning);
    }
    let order = read_choice(&meta, report, ORDER, &ORDERS).unwrap_or_default();
    let broken = !meta.usable || report.errors() > errors;
    Gateway { meta, listeners, order, broken }
}

fn read_listener(item: &Field<'_>) -> Option<Listener> {
    let mut fields = item.fields()?;
    fields.ignore(&["protocol", "tls"]);
    let port = fields.take("port").and_then(|field| read_port(&field));
    let name = fields.require("name", "the listener's name").and_then(|field| field.non_empty_text());
    let hostname = fields.take("hostname").and_then(|field| read_hostname(&field));
    let mut from = Some(NamespacesFrom::Same);
    if let Some(mut allowed) = fields.take("allowedRoutes").and_then(|allowed| allowed.fields()) {
        allowed.ignore(&["kinds"]);
        if let Some(namespaces) = allowed.take("namespaces") {
            from = read_namespaces(&namespaces);
        }
        allowed.done(Severity::Warning);
    }
    fields.done(Severity::Warning);
    Some(Listener { name: name?.to_owned(), hostname, port, from: from? })
}

fn read_port(field: &Field<'_>) -> Option<u16> {
    let number = field.integer()?;
    let port = u16::try_from(number).ok().filter(|port| *port > 0);
    port.or_else(|| field.invalid(format!("{number} is not a port"), "1 to 65535"))
}

fn read_namespaces(field: &Field<'_>) -> Option<NamespacesFrom> {
    const CHOICES: [&str; 3] = ["All", "Same", "Selector"];
    let mut fields = field.fields()?;
    let from = fields.take("from");
    let choice = from.as_ref().map_or(Some("Same"), Field::text)?;
    if choice == "Selector" {
        let selector = fields.require("selector", "the labels of the namespaces; `{}` for all");
        fields.done(Severity::Error);
        return selector.as_ref().and_then(read_selector).map(NamespacesFrom::Selector);
    }
    let selector = fields.take("selector");
    fields.done(Severity::Error);
    let read = match choice {
        "Same" => NamespacesFrom::Same,
        "All" => NamespacesFrom::All,
        other => {
            let from = from.as_ref().unwrap_or(field);
            let problem = from.error(format!("`{other}` is not a choice")).expected("All, Same or Selector");
            let meant = CHOICES.into_iter().find(|choice| choice.eq_ignore_ascii_case(other));
            from.report(match meant.or_else(|| did_you_mean(other, CHOICES)) {
                Some(meant) => problem.remedy(format!("did you mean `{meant}`?")),
                None => problem,
            });
            return None;
        }
    };
    if let Some(selector) = selector {
        let problem = selector.warning(format!("says nothing beside `from: {choice}`"));
        selector.report(problem.remedy("remove it, or write `from: Selector`"));
    }
    Some(read)
}

/// A host name, or a wildcard `*.` followed by one.
fn read_hostname(field: &Field<'_>) -> Option<String> {
    let name = field.non_empty_text()?.to_ascii_lowercase();
    let plain = name.strip_prefix("*.").unwrap_or(&name);
    if plain.split('.').all(is_dns1123_label) {
        return Some(name);
    }
    let expected = "a name such as models.example.com or *.example.com, without a port";
    field.invalid(format!("`{name}` is not a host name"), expected)
}

pub(super) fn read_route(meta: Meta, mut fields: Fields<'_>, report: &Report) -> HttpRoute {
    let errors = report.errors();
    let spec = fields.require("spec", "parentRefs and rules").and_then(|field| field.fields());
    fields.done(Severity::Warning);
    let place = meta.place.clone();
    let mut route = HttpRoute::unreadable(meta, place);
    if let Some(spec) = spec {
        route.fault = route.read_spec(spec, report);
        route.fault.any = !route.meta.usable || report.errors() > errors;
    }
    route
}

/// Whether `read` reports an error.
fn fails(report: &Report, read: impl FnOnce()) -> bool {
    let errors = report.errors();
    read();
    report.errors() > errors
}

/// Reads a parent that is a Gateway. A route may have others, such as a Service for a mesh; they are not ours.
fn read_parent(item: &Field<'_>, meta: &Meta) -> Option<ParentRef> {
    let mut fields = item.fields()?;
    let (group, kind) = (fields.take("group"), fields.take("kind"));
    let port = fields.take("port").and_then(|field| read_port(&field));
    let name = fields.require("name", "the Gateway's name").and_then(|field| field.non_empty_text());
    let namespace = fields.take("namespace").and_then(|field| field.non_empty_text());
    let section = fields.take("sectionName").and_then(|field| field.text()).map(str::to_owned);
    fields.done(Severity::Warning);
    let names = [(&group, GROUP, "group"), (&kind, "Gateway", "kind")];
    for (field, ours, what) in names {
        let Some(field) = field else { continue };
        let text = field.text()?;
        if text == ours {
            continue;
        }
        if did_you_mean(text, [ours]).is_some() {
            let problem = field.error(format!("`{text}` is not a {what} that is known here"));
            field.report(problem.remedy(format!("did you mean `{ours}`?")));
        }
        return None;
    }
    Some(ParentRef {
        namespace: namespace.map_or_else(|| Arc::clone(meta.namespace()), Arc::from),
        name: name?.into(),
        section,
        port,
    })
}

fn read_rules(field: &Field<'_>) -> Vec<RouteRule> {
    let Some(items) = field.items() else { return Vec::new() };
    if items.is_empty() {
        field.report(field.error("has no rule").expected("at least one rule, or no `rules` at all"));
    }
    // What is more than that is not read: it could be any number.
    if at_most(field, items.len(), MAX_RULES).is_none() {
        return Vec::new();
    }
    let rules: Vec<RouteRule> = items.iter().filter_map(read_rule).collect();
    at_most(field, rules.iter().map(|rule| rule.matches.len()).sum(), MAX_MATCHES_OF_ROUTE);
    rules
}

fn read_rule(item: &Field<'_>) -> Option<RouteRule> {
    let mut fields = item.fields()?;
    let name = fields.take("name").and_then(|field| field.non_empty_text()).map(str::to_owned);
    fields.ignore(&["filters", "backendRefs", "timeouts", "retry", "sessionPersistence"]);
    let matches = fields.take("matches");
    fields.done(Severity::Warning);
    let matches = match matches.map(|field| field.items()) {
        Some(None) => return None,
        Some(Some(items)) if !items.is_empty() => {
            at_most(item, items.len(), MAX_MATCHES)?;
            items.iter().filter_map(read_match).map(Arc::new).collect()
        }
        // Gateway API: without a match, a rule is for every path.
        _ => vec![Match::everything().into()],
    };
    Some(RouteRule { name, matches })
}

// === impl Gateway ===

impl Gateway {
    /// Whether one of its listeners takes routes by labels of their namespaces.
    #[must_use]
    pub fn asks_for_labels(&self) -> bool {
        self.listeners.iter().any(|listener| match &listener.from {
            NamespacesFrom::Selector(selector) => selector.asks_for_labels(),
            NamespacesFrom::Same | NamespacesFrom::All => false,
        })
    }

    /// A Gateway of which nothing is known.
    pub(super) fn unreadable(meta: Meta) -> Self {
        Gateway { meta, listeners: Vec::new(), order: RouteOrder::default(), broken: true }
    }
}

// === impl HttpRoute ===

impl HttpRoute {
    fn read_spec(&mut self, mut spec: Fields<'_>, report: &Report) -> RouteFault {
        spec.ignore(&["useDefaultGateways"]);
        let parents = fails(report, || self.read_parents(spec.require("parentRefs", "the Gateway of the route")));
        let hosts = fails(report, || self.read_hostnames(spec.take("hostnames")));
        if hosts {
            self.hostnames.clear();
        }
        let matches = fails(report, || match spec.take("rules") {
            Some(rules) => self.rules = read_rules(&rules),
            // Gateway API: a route without rules matches every path.
            None => self.rules.push(RouteRule { name: None, matches: vec![Match::everything().into()] }),
        });
        spec.done(Severity::Warning);
        RouteFault { any: false, parents, hosts, matches }
    }

    fn read_parents(&mut self, field: Option<Field<'_>>) {
        let Some(field) = field else { return };
        self.parents_place = field.place();
        let Some(items) = field.items() else { return };
        if items.is_empty() {
            field.report(field.error("is empty").expected("the Gateway of the route"));
        }
        self.parents.extend(items.iter().filter_map(|item| read_parent(item, &self.meta)));
    }

    fn read_hostnames(&mut self, field: Option<Field<'_>>) {
        if let Some(field) = field
            && let Some(items) = field.items()
            && at_most(&field, items.len(), MAX_HOSTNAMES).is_some()
        {
            self.hostnames.extend(items.iter().filter_map(read_hostname));
        }
    }

    /// A route of which nothing is known.
    pub(super) fn unreadable(meta: Meta, place: Place) -> Self {
        HttpRoute {
            meta,
            parents: Vec::new(),
            parents_place: place,
            hostnames: Vec::new(),
            rules: Vec::new(),
            fault: RouteFault::EVERYTHING,
        }
    }
}

impl RouteFault {
    const EVERYTHING: RouteFault = RouteFault { any: true, parents: true, hosts: true, matches: true };
}
