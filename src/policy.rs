//! The policy: everything that decides requests, compiled from the manifests into one immutable snapshot.

pub(crate) mod aggregate;
mod attach;
mod compile;
mod gateway;
mod hostless;
mod limits;
mod nearest;
mod properties;
mod route;
mod served;
mod status;
pub(crate) mod tiers;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use hashbrown::{HashMap, HashSet};
use jiff::Timestamp;

pub use self::compile::{Compiled, Mapping, Options, compile, derived_uid, instances, mapping};
pub use self::gateway::{GatewayPlan, ListenerPlan, RoutePlan};
pub use self::limits::{Limit, LimitSet, Matched, ShadowLimits};
pub use self::nearest::Nearest;
pub(crate) use self::properties::undeclared;
pub use self::route::RouteTable;
pub use self::status::{StatusCondition, say};

use crate::access::Rbac;
use crate::clock::Nanos;
use crate::denial::{Code, Denial};
use crate::identity::ServiceAccounts;
use crate::limit::{InForce, Quotas, Rate};
use crate::problem::{ObjectName, Place, Problem};
use crate::request::{self, Request};
use crate::rules::AuthRules;
use crate::tier::TierTable;

/// One snapshot. Requests read it; nothing changes it.
#[derive(Debug, Default)]
pub struct Policy {
    /// Rises with every snapshot that is published.
    pub generation: u64,
    /// Why nothing can be decided at all, for instance a file that is not YAML at the start.
    pub unready: Option<String>,
    pub gateways: Vec<GatewayPlan>,
    pub rbac: Rbac,
    /// Those that are watched.
    pub accounts: ServiceAccounts,
    /// The models that there are, by namespace.
    pub models: HashMap<String, HashSet<String>>,
    /// Since when changes may not have been seen, and why; where the source is a cluster.
    pub outdated: Option<Outdated>,
    /// For `POST /v1/tiers/lookup`.
    pub tiers: Tiers,
    /// The tiers that limits are for.
    pub named_tiers: BTreeSet<Arc<str>>,
    pub problems: Vec<Problem>,
    /// The policies that are in force on some route.
    pub enforced: HashSet<ObjectName>,
    /// The policies that give way to others on some route, be it in part, and to which; and those that are for some route and in force
    /// on none, because another is in error there.
    pub overridden: HashMap<ObjectName, BTreeSet<ObjectName>>,
    /// Where each object is written that was read.
    pub places: HashMap<ObjectName, Place>,
    /// How many objects went in; and how many did not, by their kinds.
    pub objects: usize,
    pub ignored: BTreeMap<String, usize>,
    /// The objects in error whose last good version is in force, and since when.
    pub kept: HashMap<ObjectName, Timestamp>,
}

/// What is known may be out of date.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outdated {
    pub since: Nanos,
    pub why: Arc<str>,
}

/// What the tier mapping is, if it is.
#[derive(Clone, Debug, Default)]
pub enum Tiers {
    /// There is no ConfigMap of the configured name.
    #[default]
    Missing,
    /// There is one, in error: the text names the fault.
    Invalid(Arc<str>),
    Known(Arc<TierTable>),
}

/// A policy that a route has, or should have.
#[derive(Debug)]
pub enum Attached<T> {
    None,
    Active(Arc<T>),
    /// The policy is in error: its target stays shut.
    Broken(ObjectName),
}

/// A policy, or a rule or limit of it, that gives way to others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overridden {
    pub policy: ObjectName,
    /// Such as `limits.free`; `None` for the whole policy.
    pub part: Option<String>,
    pub by: Vec<ObjectName>,
}

/// An AuthPolicy on a Gateway.
#[derive(Debug)]
pub struct AuthPlan {
    /// The most specific one that its rules are from.
    pub policy: Arc<ObjectName>,
    pub rules: Arc<AuthRules>,
    pub tiers: Tiers,
    /// Whether nothing of it is in force: it only says what it would have refused.
    pub shadow: bool,
    /// What would be in its place were the policies on trial in force, by the name of one of those: it only says what it would have
    /// refused.
    pub trial: Option<Arc<AuthPlan>>,
}

/// The current snapshot, for many readers and the one who publishes.
#[derive(Debug, Default)]
pub struct Policies {
    current: ArcSwap<Policy>,
    /// What is wrong with the source of the policy, and with files that flags name. It changes nothing about the policy in force.
    faults: ArcSwap<Vec<Problem>>,
    /// Whether no other one will come.
    ended: AtomicBool,
}

// === impl Attached ===

impl<T> Clone for Attached<T> {
    fn clone(&self) -> Self {
        match self {
            Attached::None => Attached::None,
            Attached::Active(policy) => Attached::Active(Arc::clone(policy)),
            Attached::Broken(name) => Attached::Broken(name.clone()),
        }
    }
}

// === impl Policies ===

impl Policies {
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        let policies = Policies::default();
        policies.publish(policy);
        policies
    }

    #[must_use]
    pub fn current(&self) -> arc_swap::Guard<Arc<Policy>> {
        self.current.load()
    }

    /// Makes `policy` the current one, with the next generation. Only one thread may publish.
    pub fn publish(&self, mut policy: Policy) {
        policy.generation = self.current.load().generation + 1;
        self.current.store(Arc::new(policy));
    }

    /// What is wrong beside the policy, so that something older stays in force.
    #[must_use]
    pub fn faults(&self) -> arc_swap::Guard<Arc<Vec<Problem>>> {
        self.faults.load()
    }

    pub fn set_faults(&self, faults: Vec<Problem>) {
        self.faults.store(Arc::new(faults));
    }

    /// Nobody follows the source any more.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    /// Whether what changes is still followed.
    #[must_use]
    pub fn are_followed(&self) -> bool {
        !self.ended.load(Ordering::Relaxed)
    }
}

// === impl Policy ===

impl Policy {
    /// Whether anything can be decided.
    ///
    /// # Errors
    ///
    /// There is no configuration.
    pub fn ready(&self) -> Result<(), Denial> {
        let Some(why) = &self.unready else { return Ok(()) };
        let message = "the gate has no configuration";
        Err(Denial::new(Code::UnavailableConfiguration, message).detail(why.as_str()))
    }

    /// Whether what is known is not too old: changes may have been missed for as long as `stale` says.
    ///
    /// # Errors
    ///
    /// It is.
    pub fn recent(&self, now: Nanos, stale: Duration) -> Result<(), Denial> {
        match &self.outdated {
            Some(Outdated { since, why }) if now >= since.saturating_add(stale) => {
                let detail = format!("{why}, for longer than --stale-for {} s", stale.as_secs());
                Err(Denial::new(Code::UnavailableStale, "what the gate knows may be out of date").detail(detail))
            }
            _ => Ok(()),
        }
    }

    /// Whether it is known that there is no such model. Where there is none at all, nothing is known of models.
    #[must_use]
    pub fn has_no_model(&self, namespace: &str, name: &str) -> bool {
        !self.models.is_empty() && !self.models.get(namespace).is_some_and(|models| models.contains(name))
    }

    /// The route of `request`: `configured` names the Gateway where Envoy does not.
    ///
    /// # Errors
    ///
    /// Method or path has more than one reading, no route matches, or it cannot be told which Gateway is meant.
    pub fn route(&self, configured: Option<&str>, request: &Request<'_>) -> Result<&RoutePlan, Denial> {
        request.check_method()?;
        if let Err(fault) = request::check_canonical(request.path) {
            return Err(Denial::new(Code::PathNotCanonical, fault.describe()));
        }
        self.gateway(request.gateway.or(configured))?.find(request)
    }

    /// The Gateway of this name; without a name the only one.
    ///
    /// # Errors
    ///
    /// It is not known, or in error.
    pub fn gateway<'p>(&'p self, named: Option<&str>) -> Result<&'p GatewayPlan, Denial> {
        let undecided = |why: String| {
            Err(Denial::new(Code::UnavailableGateway, "the gateway of this request is not known").detail(why))
        };
        let usable = |gateway: &'p GatewayPlan| match gateway.broken {
            true => undecided(format!("Gateway {} is in error: see `tiergate check`, or /problems", gateway.name)),
            false => Ok(gateway),
        };
        match (named, self.gateways.as_slice()) {
            (Some(name), gateways) => match gateways.iter().find(|gateway| *gateway.name == *name) {
                Some(gateway) => usable(gateway),
                None => undecided(format!("no Gateway `{name}` is configured")),
            },
            (None, [gateway]) => usable(gateway),
            (None, []) => undecided("no Gateway is configured".to_owned()),
            (None, several) => {
                let names: Vec<_> = several.iter().map(|gateway| &*gateway.name).collect();
                undecided(format!(
                    "{} Gateways are configured ({}); set --gateway, or context_extensions.gateway in Envoy",
                    several.len(),
                    names.join(", ")
                ))
            }
        }
    }

    /// The tiers that are known by name: those of the mapping, or those that limits are for where the mapping is not ours.
    pub fn known_tiers(&self) -> impl Iterator<Item = &Arc<str>> {
        let (table, named) = match &self.tiers {
            Tiers::Known(table) => (table.tiers(), None),
            Tiers::Missing | Tiers::Invalid(_) => (&[][..], Some(&self.named_tiers)),
        };
        let of_table = table.iter().map(|tier| &tier.name);
        of_table.chain(named.into_iter().flatten())
    }

    /// The limits that apply somewhere, with the AuthPolicy there, each combination once.
    pub(crate) fn limit_sets(&self) -> Vec<(Attached<AuthRules>, &LimitSet)> {
        let mut seen = HashSet::new();
        let plans = self.gateways.iter().flat_map(GatewayPlan::plans);
        let sets = plans.flat_map(|plan| plan.limits.iter().map(move |limits| (&plan.auth, limits)));
        let combinations = sets.filter_map(|(auth, limits)| {
            let Attached::Active(set) = limits else { return None };
            let (rules, pointer) = match auth {
                Attached::Active(auth) => (Attached::Active(Arc::clone(&auth.rules)), Some(Arc::as_ptr(&auth.rules))),
                Attached::Broken(policy) => (Attached::Broken(policy.clone()), None),
                Attached::None => (Attached::None, None),
            };
            // What was put together of the same policies is one set, on however many routes.
            seen.insert((std::mem::discriminant(auth), pointer, Arc::as_ptr(set))).then_some((rules, &**set))
        });
        combinations.collect()
    }

    /// What the limits allow now, those in shadow too.
    #[must_use]
    pub fn quotas(&self) -> Quotas {
        let sets = self.combinations().flat_map(|plan| &plan.limits).filter_map(|limits| match limits {
            Attached::Active(set) => Some(set),
            Attached::Broken(_) | Attached::None => None,
        });
        let rates = |limit: &Limit| {
            let of = |quota| Rate {
                name: Arc::clone(&limit.name),
                quota,
                cost: limit.cost.clone(),
                notify: limit.notify.clone(),
            };
            limit.rates.iter().map(move |(cell, quota)| (*cell, of(*quota))).collect::<Vec<_>>()
        };
        sets.flat_map(|set| set.all()).flat_map(rates).collect()
    }

    /// The cells that limits have now.
    #[must_use]
    pub fn cells_in_force(&self) -> InForce {
        InForce::new(&self.quotas(), self.gateways.iter().flat_map(GatewayPlan::plans).map(|plan| plan.hash))
    }

    /// How many objects are in error.
    #[must_use]
    pub fn objects_in_error(&self) -> usize {
        let errors = self.problems.iter().filter(|problem| problem.is_error());
        let mut places: Vec<_> = errors.map(|problem| (&problem.object, &problem.place.file)).collect();
        places.sort_unstable();
        places.dedup();
        places.len()
    }
}

/// `ns/a and ns/b`: of policies, whose kind is known.
pub(crate) fn in_words<'o>(objects: impl IntoIterator<Item = &'o ObjectName>) -> String {
    const NAMED: usize = 8;
    let names: Vec<String> = objects.into_iter().map(ObjectName::path).collect();
    match names.split_at_checked(NAMED) {
        Some((first, rest)) if !rest.is_empty() => format!("{} and {} others", first.join(", "), rest.len()),
        _ => names.join(" and "),
    }
}

/// The denial of a target whose policy is in error.
#[must_use]
pub fn broken(policy: &ObjectName) -> Denial {
    Denial::new(Code::PolicyInvalid, "the policy of this route is in error")
        .detail(format!("{policy} is in error: see `tiergate check`, or /problems"))
}
