//! HTTPRoutes → Envoy's route configuration, as Istio and Envoy Gateway make it: written from what those do
//! (`pilot/pkg/config/kube/gateway` and `pilot/pkg/networking/core` of Istio, `internal/gatewayapi` and
//! `internal/xds/translator` of Envoy Gateway, August 2026), knowing nothing of tiergate.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Whose translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Controller {
    Istio,
    EnvoyGateway,
}

/// What tells which route of a virtual host comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) enum Told {
    ByObjects,
    /// Among other things their ages, which a folder does not have.
    ByAge,
    /// Envoy refuses the configuration.
    Not,
}

/// One match of one rule of one route, at one listener.
struct Entry<'w> {
    /// `namespace/name`
    route: String,
    /// As policies name it.
    rule: String,
    listener: &'w str,
    /// Another host name than that of the virtual host, which both it and the listener's cover.
    wider: Option<String>,
    path: PathOf<'w>,
    method: Option<&'w str>,
    headers: Vec<&'w Value>,
    query: Vec<&'w Value>,
}

#[derive(Clone, Copy, PartialEq)]
enum PathOf<'w> {
    Exact(&'w str),
    Prefix(&'w str),
    Regex(&'w str),
}

impl Controller {
    /// The virtual hosts that serve the listeners of `port`.
    pub(crate) fn virtual_hosts(self, gateway: &Value, routes: &[Value], port: u16) -> Value {
        let mut routes: Vec<&Value> = routes.iter().collect();
        // Without ages.
        routes.sort_by_key(|route| name_of(route));
        let listeners: Vec<&Value> =
            list(&gateway["spec"]["listeners"]).into_iter().filter(|listener| listener["port"] == port).collect();
        let mut hosts: BTreeMap<String, Vec<Entry>> = BTreeMap::new();
        for listener in &listeners {
            // Istio has a VirtualService for each host name of routes; they stand one after another, by age.
            let mut services: BTreeMap<(String, Option<String>), Vec<Entry>> = BTreeMap::new();
            for route in &routes {
                for (host, name) in self.hosts(listener, &listeners, route) {
                    let wider = Some(name).filter(|name| *name != host && self == Controller::Istio);
                    let service = services.entry((host, wider.clone())).or_default();
                    service.extend(entries(route, listener, wider.as_deref()));
                }
            }
            for ((host, _), mut entries) in services {
                self.sort(&mut entries);
                hosts.entry(host).or_default().extend(entries);
            }
        }
        let virtual_host = |(host, mut entries): (String, Vec<Entry>)| {
            let told = match self {
                Controller::Istio if entries.iter().any(|entry| entry.wider != entries[0].wider) => Told::ByAge,
                // Two virtual hosts have one domain, which Envoy refuses.
                Controller::EnvoyGateway if entries.iter().any(|entry| entry.listener != entries[0].listener) => {
                    Told::Not
                }
                _ => Told::ByObjects,
            };
            if self == Controller::Istio {
                entries.sort_by_key(Entry::takes_everything);
            }
            let routes: Vec<Value> = entries.iter().map(|entry| entry.route(told)).collect();
            json!({"name": host, "domains": [host], "routes": routes})
        };
        hosts.into_iter().map(virtual_host).collect()
    }

    /// The domains at which `listener` serves `route`, each with the route's host name that led to it.
    fn hosts(self, listener: &Value, listeners: &[&Value], route: &Value) -> Vec<(String, String)> {
        let namespaces = &listener["allowedRoutes"]["namespaces"]["from"];
        if namespaces != "All" && route["metadata"]["namespace"] != "ns" {
            return Vec::new();
        }
        let attached = list(&route["spec"]["parentRefs"]).into_iter().any(|parent| {
            let gateway = parent.get("kind").is_none_or(|kind| kind == "Gateway") && parent["name"] == "gw";
            let same = |field: &str, of: &str| parent.get(field).is_none_or(|wanted| *wanted == listener[of]);
            gateway && same("sectionName", "name") && same("port", "port")
        });
        if !attached {
            return Vec::new();
        }
        let of_listener = hostname(listener);
        let of_route: Vec<String> = match route["spec"]["hostnames"].as_array() {
            Some(names) => names.iter().map(|name| name.as_str().unwrap().to_ascii_lowercase()).collect(),
            None => vec!["*".to_owned()],
        };
        let others = listeners.iter().filter(|other| other["name"] != listener["name"]);
        let others: Vec<String> = others.map(|other| hostname(other)).collect();
        let mut hosts: Vec<(String, String)> = Vec::new();
        for name in of_route {
            let host = match (covers(&of_listener, &name), covers(&name, &of_listener)) {
                (true, _) => name.clone(),
                (_, true) => of_listener.clone(),
                _ => continue,
            };
            let isolated = match self {
                // Another listener that is more specific takes what it covers.
                Controller::Istio => others
                    .iter()
                    .any(|other| covers(&of_listener, other) && *other != of_listener && covers(other, &host)),
                // Another listener takes its own name, and nothing else.
                Controller::EnvoyGateway => others.contains(&host),
            };
            let same =
                |(other, by): &(String, String)| *other == host && (*by == name || self == Controller::EnvoyGateway);
            if !isolated && !hosts.iter().any(same) {
                hosts.push((host, name));
            }
        }
        hosts
    }

    fn sort(self, entries: &mut Vec<Entry>) {
        match self {
            Controller::Istio => {
                entries.sort_by_key(|entry| {
                    let (rank, length) = match entry.path {
                        PathOf::Exact(path) => (0, path.len()),
                        PathOf::Prefix(path) => (1, trimmed(path).len()),
                        PathOf::Regex(path) => (2, path.len()),
                    };
                    let counts = (Reverse(entry.headers.len()), Reverse(entry.query.len()));
                    (rank, Reverse(length), Reverse(entry.method.is_some()), counts)
                });
                // Nothing is reached behind what takes everything.
                let reached = entries.iter().position(Entry::takes_everything).map_or(entries.len(), |at| at + 1);
                entries.truncate(reached);
            }
            Controller::EnvoyGateway => {
                entries.sort_by_key(|entry| {
                    let (rank, length) = match entry.path {
                        PathOf::Exact(path) => (0, path.len()),
                        PathOf::Regex(path) => (1, path.len()),
                        PathOf::Prefix("/") => (2, 0),
                        PathOf::Prefix(path) => (2, path.len()),
                    };
                    // The method is one header more.
                    let method = usize::from(entry.method.is_some());
                    let exact = |of: &[&Value]| of.iter().filter(|one| is_exact(one)).count();
                    (
                        rank,
                        Reverse(length),
                        Reverse(entry.headers.len() + method),
                        Reverse(exact(&entry.headers) + method),
                        Reverse(entry.query.len()),
                        Reverse(exact(&entry.query)),
                    )
                });
            }
        }
    }
}

fn name_of(route: &Value) -> (String, String) {
    let text = |field: &str| route["metadata"][field].as_str().unwrap().to_owned();
    (text("namespace"), text("name"))
}

/// Of a listener; `*` is every host.
pub(crate) fn hostname(listener: &Value) -> String {
    listener["hostname"].as_str().unwrap_or("*").to_ascii_lowercase()
}

/// Whether every host of `name` is one of `pattern`.
pub(crate) fn covers(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(suffix) => pattern == name || name.len() > suffix.len() && name.ends_with(suffix),
        None => pattern == name,
    }
}

/// A final `/` of a prefix says nothing.
fn trimmed(prefix: &str) -> &str {
    if prefix == "/" { prefix } else { prefix.strip_suffix('/').unwrap_or(prefix) }
}

fn is_exact(one: &Value) -> bool {
    one.get("type").is_none_or(|kind| kind == "Exact")
}

fn list(value: &Value) -> Vec<&Value> {
    value.as_array().map(|items| items.iter().collect()).unwrap_or_default()
}

fn entries<'w>(route: &'w Value, listener: &'w Value, wider: Option<&str>) -> Vec<Entry<'w>> {
    let (namespace, name) = name_of(route);
    let rules = list(&route["spec"]["rules"]).into_iter().enumerate();
    let of_rule = |(at, rule): (usize, &'w Value)| {
        let mut matches = list(&rule["matches"]);
        if matches.is_empty() {
            // As the API server fills it in: what is asked for is not there, and has its default.
            matches.push(&Value::Null);
        }
        let rule = rule["name"].as_str().map_or_else(|| format!("rule-{}", at + 1), str::to_owned);
        let entry = |one: &'w Value| {
            let value = one["path"]["value"].as_str().unwrap_or("/");
            Entry {
                route: format!("{namespace}/{name}"),
                rule: rule.clone(),
                listener: listener["name"].as_str().unwrap(),
                wider: wider.map(str::to_owned),
                path: match one["path"]["type"].as_str().unwrap_or("PathPrefix") {
                    "Exact" => PathOf::Exact(value),
                    "PathPrefix" => PathOf::Prefix(value),
                    "RegularExpression" => PathOf::Regex(value),
                    other => panic!("{other}"),
                },
                method: one["method"].as_str(),
                headers: list(&one["headers"]),
                query: list(&one["queryParams"]),
            }
        };
        matches.into_iter().map(entry).collect::<Vec<_>>()
    };
    rules.flat_map(of_rule).collect()
}

// === impl Entry ===

impl Entry<'_> {
    fn takes_everything(&self) -> bool {
        let path = matches!(self.path, PathOf::Prefix("/") | PathOf::Regex(".*"));
        path && self.method.is_none() && self.headers.is_empty() && self.query.is_empty()
    }

    /// A route that answers with its own name, the listener's, and what tells that it is this one.
    fn route(&self, told: Told) -> Value {
        let text = |one: &Value| match is_exact(one) {
            true => json!({"exact": one["value"]}),
            false => json!({"safe_regex": {"regex": one["value"]}}),
        };
        let one = |one: &&Value| json!({"name": one["name"], "string_match": text(one)});
        let mut headers: Vec<Value> = self.headers.iter().map(one).collect();
        if let Some(method) = self.method {
            headers.push(json!({"name": ":method", "string_match": {"exact": method}}));
        }
        let query: Vec<Value> = self.query.iter().map(one).collect();
        let mut matched = json!({"headers": headers, "query_parameters": query});
        match self.path {
            PathOf::Exact(path) => matched["path"] = json!(path),
            PathOf::Prefix("/") => matched["prefix"] = json!("/"),
            PathOf::Prefix(path) => matched["path_separated_prefix"] = json!(trimmed(path)),
            PathOf::Regex(regex) => matched["safe_regex"] = json!({"regex": regex}),
        }
        let selected = json!([format!("{} {}", self.route, self.rule), self.listener, told]).to_string();
        json!({
            "match": matched,
            "direct_response": {"status": 200},
            "response_headers_to_add": [{"header": {"key": "x-selected", "value": selected}}],
        })
    }
}
