//! Which Gateway, listener and route a request belongs to.
//!
//! Source: Gateway API v1, `Listener.hostname`: a request belongs to the listeners with the most specific name that matches
//! its host, and to no other ("listener isolation").

use std::sync::Arc;

use hashbrown::HashSet;
use smallvec::SmallVec;

use super::route::{Host, RouteTable};
use super::{Attached, AuthPlan, LimitSet, Overridden, Policy};
use crate::denial::{Code, Denial};
use crate::problem::ObjectName;
use crate::request::{Request, host_name};

/// One Gateway, with its listeners.
#[derive(Debug)]
pub struct GatewayPlan {
    /// `namespace/name`
    pub name: Arc<str>,
    pub listeners: Vec<ListenerPlan>,
    /// The Gateway is in error, so its requests cannot be decided.
    pub broken: bool,
}

/// Listeners of one host name that no policy tells apart, with their routes.
#[derive(Debug)]
pub struct ListenerPlan {
    pub names: Vec<Arc<str>>,
    pub ports: Vec<u16>,
    pub host: Host,
    pub routes: RouteTable,
    /// What applies here to who asks about limits where no route is: the policies of the Gateway and of the listener; `None` where
    /// there are none.
    pub own: Option<Arc<RoutePlan>>,
}

/// What applies to one rule of an HTTPRoute, on one listener.
#[derive(Debug)]
pub struct RoutePlan {
    /// `namespace/name`
    pub name: Arc<str>,
    /// The rule's name; `rule-1` for the first that has none.
    pub rule: Arc<str>,
    /// Tells the route from others, where limits count for each by itself. The same after a restart.
    pub hash: u64,
    pub auth: Attached<AuthPlan>,
    /// RateLimitPolicy and TokenRateLimitPolicy, where there are any.
    pub limits: Vec<Attached<LimitSet>>,
    /// Policies and parts of them that give way to these.
    pub overridden: Vec<Arc<[Overridden]>>,
}

// === impl GatewayPlan ===

impl GatewayPlan {
    /// The rule that `request`, whose path is canonical, is for.
    ///
    /// # Errors
    ///
    /// No route matches, or it cannot be told which listener the request came to and they have different policies.
    pub fn find(&self, request: &Request<'_>) -> Result<&RoutePlan, Denial> {
        self.find_on(request).map(|(_, plan)| plan)
    }

    /// Likewise, with a listener that leads to it.
    ///
    /// # Errors
    ///
    /// As [`GatewayPlan::find`].
    pub fn find_on(&self, request: &Request<'_>) -> Result<(&ListenerPlan, &RoutePlan), Denial> {
        if let [only] = self.listeners.as_slice()
            && only.host == Host::Every
            && request.listener.is_none()
        {
            return only.find(request)?.ok_or_else(unknown);
        }
        if let Some(name) = request.listener {
            return self.named(name)?.find(request)?.ok_or_else(unknown);
        }
        let host = host_name(request.host);
        // Where Envoy listens need not be a port that a listener names; then it could be any of theirs.
        let named = |port: &u16| self.listeners.iter().any(|listener| listener.ports.contains(port));
        match request.port.filter(named) {
            Some(port) => self.find_at(Some(port), &host, request)?.ok_or_else(unknown),
            None => self.find_anywhere(&host, request),
        }
    }

    fn named(&self, name: &str) -> Result<&ListenerPlan, Denial> {
        let is_it = |listener: &&ListenerPlan| listener.names.iter().any(|own| **own == *name);
        let named = self.listeners.iter().find(is_it);
        named.ok_or_else(|| {
            let why = format!("Gateway {} has no listener `{name}`", self.name);
            Denial::new(Code::UnavailableGateway, NOT_KNOWN).detail(why)
        })
    }

    /// The ports that listeners name; `None` in place of them where there is none.
    fn ports(&self) -> SmallVec<[Option<u16>; 4]> {
        let mut ports: SmallVec<[Option<u16>; 4]> = SmallVec::new();
        for port in self.listeners.iter().flat_map(|listener| &listener.ports).copied() {
            if !ports.contains(&Some(port)) {
                ports.push(Some(port));
            }
        }
        if ports.is_empty() {
            ports.push(None);
        }
        ports
    }

    /// At whatever listener, if it makes no difference which.
    fn find_anywhere(&self, host: &str, request: &Request<'_>) -> Result<(&ListenerPlan, &RoutePlan), Denial> {
        let mut found: Option<(&ListenerPlan, &RoutePlan)> = None;
        for port in self.ports() {
            let Some(plan) = self.find_at(port, host, request)? else { continue };
            match found {
                Some((_, other)) if !other.is_same(plan.1) => {
                    let why = format!(
                        "listeners of Gateway {} share a host name and have different policies; name the listener in \
                         context_extensions.listener",
                        self.name
                    );
                    return Err(Denial::new(Code::UnavailableGateway, NOT_KNOWN).detail(why));
                }
                _ => found = Some(plan),
            }
        }
        found.ok_or_else(unknown)
    }

    /// At the listener of `port` with the most specific name; one without a port is of every port.
    fn find_at(
        &self,
        port: Option<u16>,
        host: &str,
        request: &Request<'_>,
    ) -> Result<Option<(&ListenerPlan, &RoutePlan)>, Denial> {
        let of_port = |listener: &&ListenerPlan| {
            listener.ports.is_empty() || port.is_some_and(|port| listener.ports.contains(&port))
        };
        let fitting = |host: &str| {
            let fit = |listener: &&ListenerPlan| listener.host.fits(host);
            self.listeners.iter().filter(of_port).filter(|listener| fit(listener).is_some()).max_by_key(fit)
        };
        let fit = self.listeners.iter().filter(of_port).filter(|listener| listener.host.fits(host).is_some());
        let Some(listener) = fitting(host) else { return Ok(None) };
        // TLS chose the listener by the name in the handshake: its policies are not for a host of another one.
        let by_sni = request.sni.and_then(|sni| fitting(&host_name(sni)));
        if by_sni.is_some_and(|other| !std::ptr::eq(other, listener)) {
            return Err(Denial::new(Code::RequestInvalid, "the TLS connection was made for another host"));
        }
        // Envoy knows host names alone. Where a wider listener's is the closest one, Istio and Envoy Gateway let the request
        // stray to it.
        let closest = fit.max_by_key(|other| other.routes.serves(host));
        let Some(strayed) = closest.filter(|other| other.routes.serves(host) > listener.routes.serves(host)) else {
            return listener.find(request);
        };
        if strayed.find(request)?.is_some() {
            let why = format!("a wider listener of Gateway {} serves the host", self.name);
            return Err(Denial::new(Code::UnavailableGateway, NOT_KNOWN).detail(why));
        }
        Ok(None)
    }

    /// What applies to `request`, which no route is for, if that is the same on all listeners that it may have come to.
    #[must_use]
    pub fn own(&self, request: &Request<'_>) -> Option<&RoutePlan> {
        let host = host_name(request.host);
        let may_be = |listener: &&ListenerPlan| match request.listener {
            Some(name) => listener.names.iter().any(|own| **own == *name),
            None => listener.host.fits(&host).is_some(),
        };
        let mut plans = self.listeners.iter().filter(may_be).map(|listener| listener.own.as_deref());
        let first = plans.next()??;
        plans.all(|plan| plan.is_some_and(|plan| plan.has_policies_of(first))).then_some(first)
    }

    /// Names of the headers that matches look at, in lower case.
    pub fn header_names(&self) -> impl Iterator<Item = &str> {
        self.listeners.iter().flat_map(|listener| listener.routes.header_names())
    }

    /// Every plan, as often as a match leads to it.
    pub fn plans(&self) -> impl Iterator<Item = &RoutePlan> {
        self.listeners.iter().flat_map(|listener| listener.routes.plans())
    }
}

const NOT_KNOWN: &str = "the listener of this request is not known";

fn unknown() -> Denial {
    Denial::new(Code::RouteUnknown, "no route matches this request")
}

// === impl ListenerPlan ===

impl ListenerPlan {
    fn find(&self, request: &Request<'_>) -> Result<Option<(&ListenerPlan, &RoutePlan)>, Denial> {
        Ok(self.routes.find(request)?.map(|plan| (self, plan)))
    }
}

// === impl RoutePlan ===

impl RoutePlan {
    /// Whether the same policies apply to both, on the same rule.
    fn is_same(&self, other: &RoutePlan) -> bool {
        self.name == other.name && self.rule == other.rule && self.has_policies_of(other)
    }

    pub(super) fn has_policies_of(&self, other: &RoutePlan) -> bool {
        self.auth.is_same(&other.auth)
            && self.limits.len() == other.limits.len()
            && self.limits.iter().zip(&other.limits).all(|(one, other)| one.is_same(other))
    }
}

// === impl Policy ===

impl Policy {
    /// Every plan, once.
    pub fn plans(&self) -> impl Iterator<Item = &RoutePlan> {
        let mut seen = HashSet::new();
        self.gateways.iter().flat_map(GatewayPlan::plans).filter(move |plan| seen.insert(std::ptr::from_ref(*plan)))
    }

    /// One plan for each combination of policies.
    pub(crate) fn combinations(&self) -> impl Iterator<Item = &RoutePlan> {
        let mut seen = HashSet::new();
        self.plans().filter(move |plan| {
            let limits: SmallVec<[_; 2]> = plan.limits.iter().map(Attached::what).collect();
            seen.insert((plan.auth.what(), limits))
        })
    }
}

/// What is attached, as it is told from others.
#[derive(PartialEq, Eq, Hash)]
enum AttachedId<'p> {
    Nothing,
    Active(*const ()),
    Broken(&'p ObjectName),
}

impl<T> Attached<T> {
    /// What is in force, if anything is.
    #[must_use]
    pub fn active(&self) -> Option<&Arc<T>> {
        match self {
            Attached::Active(policy) => Some(policy),
            Attached::None | Attached::Broken(_) => None,
        }
    }

    /// The policy that is in error, if one is.
    #[must_use]
    pub fn broken(&self) -> Option<&ObjectName> {
        match self {
            Attached::Broken(policy) => Some(policy),
            Attached::None | Attached::Active(_) => None,
        }
    }

    fn what(&self) -> AttachedId<'_> {
        match self {
            Attached::None => AttachedId::Nothing,
            Attached::Active(policy) => AttachedId::Active(Arc::as_ptr(policy).cast()),
            Attached::Broken(policy) => AttachedId::Broken(policy),
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Attached::None, Attached::None) => true,
            (Attached::Active(one), Attached::Active(other)) => Arc::ptr_eq(one, other),
            (Attached::Broken(one), Attached::Broken(other)) => one == other,
            _ => false,
        }
    }
}

// === impl Host ===

impl Host {
    /// Whether it is one name, and no pattern.
    pub(super) fn is_spelled_out(&self) -> bool {
        matches!(self, Host::Named(name) if !name.starts_with('*'))
    }

    /// How well this name of a listener fits `host`: the more, the better.
    pub(super) fn fits(&self, host: &str) -> Option<usize> {
        match self {
            Host::Every | Host::Unknown => Some(0),
            Host::Named(name) => match name.strip_prefix('*') {
                // `*.example.com` does not match `example.com`.
                Some(suffix) => (host.len() > suffix.len() && host.ends_with(suffix)).then_some(suffix.len()),
                None => (name == host).then_some(usize::MAX),
            },
        }
    }
}
