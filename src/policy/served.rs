//! At which hosts a listener serves a route.
//!
//! Source: Gateway API v1, `Listener.allowedRoutes`, `ParentReference` and `HTTPRouteSpec.hostnames`.

use std::collections::HashMap;
use std::sync::Arc;

use smallvec::SmallVec;

use super::route::{Host, Served};
use crate::manifest::{Gateway, HttpRoute, Labels, Listener, NamespacesFrom, ParentRef, RouteOrder};

/// What a listener has of a route.
#[derive(PartialEq)]
pub(super) struct Serving {
    /// The hosts at which it serves the route; none if it is not attached.
    pub served: Vec<Served>,
    /// Whether it is attached. Where it is not known, Envoy may send it requests: under a broader route's policies they must not
    /// be decided.
    pub certain: bool,
}

/// The labels of namespaces, where they are known.
pub(super) type LabelsOf<'m> = HashMap<&'m str, &'m Labels>;

impl Gateway {
    /// Whether `host`, which `listener` would serve, is left to another listener of its port.
    fn isolates(&self, listener: &Listener, host: &Host) -> bool {
        let Host::Named(host) = host else { return false };
        let same_port =
            |other: &Listener| other.port == listener.port || other.port.is_none() || listener.port.is_none();
        let mut others = self.listeners.iter().filter(|other| other.hostname != listener.hostname && same_port(other));
        others.any(|other| {
            let Some(name) = other.hostname.as_deref() else { return false };
            let narrower = listener.hostname.as_deref().is_none_or(|own| covers(own, name));
            match self.order {
                RouteOrder::GatewayApi => narrower && (name == host || covers(name, host)),
                RouteOrder::EnvoyGateway => narrower && name == host,
            }
        })
    }

    /// Where Envoy may listen for a listener's port: Envoy Gateway moves those that only root may open.
    pub(super) fn ports(&self, port: u16) -> impl Iterator<Item = u16> + use<> {
        let moved = self.order == RouteOrder::EnvoyGateway && port < 1024;
        [Some(port), moved.then_some(port + 10_000)].into_iter().flatten()
    }
}

impl HttpRoute {
    /// The listeners of `gateway` that serve the route, and whether that is certain.
    pub(crate) fn listeners_of<'g>(
        &self,
        gateway: &'g Gateway,
        labels: &LabelsOf<'_>,
    ) -> impl Iterator<Item = (&'g Listener, bool)> {
        gateway.listeners.iter().filter_map(|listener| {
            let attached = self.attached_to(gateway, listener, labels);
            (!attached.served.is_empty()).then_some((listener, attached.certain))
        })
    }

    pub(super) fn attached_to(&self, gateway: &Gateway, listener: &Listener, labels: &LabelsOf<'_>) -> Serving {
        let parents = self.parents.iter().filter(|parent| parent.is(gateway));
        let admitted: SmallVec<[_; 2]> = parents.map(|parent| listener.admits(gateway, self, parent, labels)).collect();
        let certain = self.fault.parents || admitted.contains(&Some(true)) || !admitted.contains(&None);
        let attached = self.fault.parents || admitted.iter().any(|admitted| *admitted != Some(false));
        Serving { served: if attached { self.served_at(gateway, listener) } else { Vec::new() }, certain }
    }

    /// The hosts at which `listener` serves the route, if it is attached.
    fn served_at(&self, gateway: &Gateway, listener: &Listener) -> Vec<Served> {
        if self.fault.hosts {
            return vec![Served { host: Host::Unknown, wider: None }];
        }
        let mut served = common_hosts(listener.hostname.as_deref(), &self.hostnames);
        served.retain(|served| !gateway.isolates(listener, &served.host));
        served.sort_unstable();
        served.dedup();
        served
    }

    /// The name of a rule, by which policies refer to it.
    pub(crate) fn rule_name(&self, at: usize) -> String {
        let name = self.rules.get(at).and_then(|rule| rule.name.clone());
        name.unwrap_or_else(|| format!("rule-{}", at + 1))
    }
}

/// Host names that both a listener and a route serve.
fn common_hosts(listener: Option<&str>, route: &[String]) -> Vec<Served> {
    let served =
        |host: &str, wider: Option<&str>| Served { host: Host::Named(host.to_owned()), wider: wider.map(Arc::from) };
    match (listener, route) {
        (None, []) => vec![Served { host: Host::Every, wider: None }],
        (Some(listener), []) => vec![served(listener, Some("*"))],
        (None, names) => names.iter().map(|name| served(name, None)).collect(),
        (Some(listener), names) => {
            let common = names.iter().filter_map(|name| Some((common_host(listener, name)?, name.as_str())));
            common.map(|(host, name)| served(host, Some(name).filter(|name| *name != host))).collect()
        }
    }
}

/// The more specific of two names of which one covers the other.
fn common_host<'h>(a: &'h str, b: &'h str) -> Option<&'h str> {
    if a == b || covers(a, b) {
        Some(b)
    } else if covers(b, a) {
        Some(a)
    } else {
        None
    }
}

/// Whether `wildcard` is one, and matches every host of `name`, which is another.
fn covers(wildcard: &str, name: &str) -> bool {
    wildcard.strip_prefix('*').is_some_and(|suffix| name.ends_with(suffix) && name.len() > suffix.len())
}

impl ParentRef {
    pub(crate) fn is(&self, gateway: &Gateway) -> bool {
        self.name == *gateway.meta.name() && self.namespace == *gateway.meta.namespace()
    }
}

impl Listener {
    /// Whether a route may attach to it by `parent`; `None` if that depends on labels that are not known.
    fn admits(&self, gateway: &Gateway, route: &HttpRoute, parent: &ParentRef, labels: &LabelsOf<'_>) -> Option<bool> {
        let port = parent.port.is_none() || self.port.is_none() || parent.port == self.port;
        if !port || parent.section.as_ref().is_some_and(|section| *section != self.name) {
            return Some(false);
        }
        let namespace = route.meta.namespace();
        match &self.from {
            NamespacesFrom::Same => Some(gateway.meta.namespace() == namespace),
            NamespacesFrom::All => Some(true),
            NamespacesFrom::Selector(selector) => selector.selects(namespace, labels.get(&**namespace).copied()),
        }
    }
}
