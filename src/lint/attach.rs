//! Policies and routes that are attached to nothing, and routes that no policy protects.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::manifest::{Gateway, HttpRoute, Manifests, Meta, ParentRef, Target};
use crate::policy::{Attached, Options, Policy};
use crate::problem::{Finding, ObjectName, Place, Problem, Severity};
use crate::spelling::did_you_mean;

/// The Gateway that the process is told of.
pub(super) fn gateway(manifests: &Manifests, options: &Options, problems: &mut Vec<Problem>) {
    let Some(name) = &options.gateway else { return };
    let known: Vec<String> = manifests.gateways.iter().map(|gateway| gateway.meta.object.path()).collect();
    if known.contains(name) {
        return;
    }
    let message = format!("no Gateway {name} is there, so requests are undecided where Envoy names none");
    let place = Place { file: "--gateway".into(), line: 0, column: 0 };
    let mut problem = Problem::new(Finding::GatewayUnknown, Severity::Error, place, message);
    problem.expected = (!known.is_empty()).then(|| format!("one of {}", known.join(", ")));
    problems.push(match did_you_mean(name, known.iter().map(String::as_str)) {
        Some(meant) => problem.remedy(format!("did you mean `{meant}`?")),
        None => problem.remedy("add the Gateway, or name one that is there"),
    });
}

/// Most comparisons of a name with others, to tell what was probably meant.
const MOST_GUESSES: usize = 2_000_000;

/// Objects that policies can be for.
struct KnownTargets<'m> {
    by_kind: HashMap<&'m str, TargetsOfKind<'m>>,
    /// Gateways that a route names, there or not.
    parents: HashSet<(&'m str, &'m str)>,
    /// The sections of each object, by its kind, namespace and name.
    sections: HashMap<(&'m str, &'m str, &'m str), Vec<String>>,
    guesses: usize,
}

/// Those of one kind.
#[derive(Default)]
struct TargetsOfKind<'m> {
    all: HashSet<(&'m str, &'m str)>,
    by_name: BTreeMap<&'m str, &'m ObjectName>,
    namespaces: HashSet<&'m str>,
}

pub(super) fn targets(manifests: &Manifests, problems: &mut Vec<Problem>) {
    let auth = manifests.auth_policies.iter().map(|policy| (&policy.meta, &policy.target, &policy.target_place));
    let limits = manifests.limit_policies.iter().map(|policy| (&policy.meta, &policy.target, &policy.target_place));
    let mut known = KnownTargets::of(manifests);
    let authorises = manifests.auth_policies.iter().any(|policy| known.has(&policy.target));
    for (meta, target, place) in auth.chain(limits) {
        problems.extend(match known.has(target) {
            _ if *target == Target::Unknown => None,
            true => known.missing_section(meta, target, place),
            // Without any policy, requests are refused; beside another one, or in place of a limit, this one's absence opens something.
            false => known.missing(meta, target, place, &*meta.object.kind != "AuthPolicy" || authorises),
        });
    }
}

/// Kind, namespace and name of a target.
fn named(target: &Target) -> Option<(&'static str, &str, &str)> {
    match target {
        Target::Unknown => None,
        Target::Gateway { namespace, name, .. } => Some(("Gateway", namespace, name)),
        Target::HttpRoute { namespace, name, .. } => Some(("HTTPRoute", namespace, name)),
    }
}

// === impl KnownTargets ===

impl<'m> KnownTargets<'m> {
    fn of(manifests: &'m Manifests) -> Self {
        let parents = manifests.routes.iter().flat_map(|route| &route.parents);
        let mut known = KnownTargets {
            by_kind: HashMap::from([("Gateway", TargetsOfKind::default()), ("HTTPRoute", TargetsOfKind::default())]),
            parents: parents.map(|parent| (&*parent.namespace, &*parent.name)).collect(),
            sections: HashMap::new(),
            guesses: MOST_GUESSES,
        };
        for gateway in &manifests.gateways {
            known.add(&gateway.meta.object, gateway.listeners.iter().map(|listener| listener.name.clone()));
        }
        for route in &manifests.routes {
            known.add(&route.meta.object, (0..route.rules.len()).map(|at| route.rule_name(at)));
        }
        known
    }

    fn add(&mut self, object: &'m ObjectName, sections: impl Iterator<Item = String>) {
        let of_kind = self.by_kind.entry(&object.kind).or_default();
        of_kind.all.insert((&object.namespace, &object.name));
        of_kind.by_name.entry(&object.name).or_insert(object);
        of_kind.namespaces.insert(&object.namespace);
        let key = (&*object.kind, &*object.namespace, &*object.name);
        let collect = || sections.collect();
        self.sections.entry(key).or_insert_with(collect);
    }

    fn has(&self, target: &Target) -> bool {
        let has = |(kind, namespace, name)| {
            self.by_kind.get(kind).is_some_and(|known| known.all.contains(&(namespace, name)))
        };
        named(target).is_some_and(has)
    }

    /// A policy whose target is not there.
    fn missing(&mut self, meta: &Meta, target: &Target, place: &Place, opens: bool) -> Option<Problem> {
        let (kind, namespace, name) = named(target)?;
        let other_kind = if kind == "Gateway" { "HTTPRoute" } else { "Gateway" };
        let (known, others) = (self.by_kind.get(kind)?, self.by_kind.get(other_kind)?);
        let elsewhere = known.by_name.get(name);
        let of_other_kind =
            others.all.contains(&(namespace, name)).then(|| ObjectName::new(other_kind, namespace, name));
        // What could not be compared may be a slip like any other.
        let guesses = self.guesses.checked_sub(known.by_name.len());
        self.guesses = guesses.unwrap_or_default();
        let meant = guesses.and_then(|_| did_you_mean(name, known.by_name.keys().copied()));
        let could_be = elsewhere.is_some()
            || meant.is_some()
            || guesses.is_none()
            || of_other_kind.is_some()
            || (kind == "Gateway" && self.parents.contains(&(namespace, name)))
            || (opens && (known.namespaces.contains(namespace) || others.namespaces.contains(namespace)));
        let message = format!("{target} is not there, so the policy has no effect");
        let mut problem = meta.warning(Finding::TargetMissing, place, "spec.targetRef", message);
        // Else the target is in a folder or file of its own.
        if could_be {
            problem.severity = Severity::Error;
        }
        Some(if let Some(other) = elsewhere {
            problem.remedy(format!("a policy has to be in its target's namespace: {other}"))
        } else if let Some(other) = of_other_kind {
            problem.remedy(format!("did you mean {other}?"))
        } else if let Some(meant) = meant {
            problem.remedy(format!("did you mean `{meant}`?"))
        } else {
            problem.remedy("add it to the folder, or correct the name")
        })
    }

    /// A policy for a listener or rule that its target does not have.
    fn missing_section(&self, meta: &Meta, target: &Target, place: &Place) -> Option<Problem> {
        let section = target.section()?;
        let known = self.sections.get(&named(target)?)?;
        if known.iter().any(|name| *name == **section) {
            return None;
        }
        let message = format!("{} has no section `{section}`, so the policy has no effect", target.whole());
        let problem = meta.warning(Finding::TargetMissing, place, "spec.targetRef.sectionName", message);
        let problem = Problem { severity: Severity::Error, ..problem };
        let problem = problem.expected(format!("one of {}", known.join(", ")));
        Some(match did_you_mean(section, known.iter().map(String::as_str)) {
            Some(meant) => problem.remedy(format!("did you mean `{meant}`?")),
            None => problem.remedy("name a listener of the Gateway, or a rule of the HTTPRoute"),
        })
    }
}

pub(super) fn parents(manifests: &Manifests, problems: &mut Vec<Problem>) {
    let labels = manifests.namespace_labels();
    for route in &manifests.routes {
        let mut attached = false;
        for gateway in &manifests.gateways {
            for (listener, certain) in route.listeners_of(gateway, &labels) {
                attached = true;
                if !certain {
                    problems.push(uncertain(route, gateway, &listener.name));
                }
            }
        }
        let of_broken = |gateway: &&Gateway| gateway.broken && route.parents.iter().any(|parent| parent.is(gateway));
        // Which listeners a Gateway in error has is not known.
        if !attached && !manifests.gateways.iter().any(|gateway| of_broken(&gateway)) {
            problems.push(unattached(route, &manifests.gateways));
        }
    }
}

/// A route that no request reaches. Where its parent is not there beside others that are, that is an error: requests that were meant
/// for it may be decided by the policies of a broader one.
fn unattached(route: &HttpRoute, gateways: &[Gateway]) -> Problem {
    let problem = |message: &str| {
        let message = format!("{message}, so no request reaches it");
        route.meta.warning(Finding::RouteUnattached, &route.parents_place, "spec.parentRefs", message)
    };
    let missing = route.parents.iter().find_map(|parent| missing_parent(parent, gateways));
    match missing {
        Some((what, meant)) => {
            let remedy = match meant {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => "name a Gateway that is there, and a listener of it".to_owned(),
            };
            Problem { severity: Severity::Error, ..problem(&format!("attaches to {what}, which is not there")) }
                .remedy(remedy)
        }
        None => {
            let remedy = "check the parent's name and namespace, allowedRoutes and hostnames";
            problem("attaches to no listener of a known Gateway").remedy(remedy)
        }
    }
}

/// What of a parent is not there, and what was probably meant. Without any Gateway, they are written elsewhere.
fn missing_parent(parent: &ParentRef, gateways: &[Gateway]) -> Option<(String, Option<String>)> {
    let path = format!("{}/{}", parent.namespace, parent.name);
    let known = || gateways.iter().map(|gateway| gateway.meta.object.path());
    let Some(gateway) = gateways.iter().find(|gateway| parent.is(gateway)) else {
        let names: Vec<String> = known().collect();
        let same_name = names.iter().find(|other| other.rsplit('/').next() == Some(&*parent.name)).cloned();
        let meant = same_name.or_else(|| did_you_mean(&path, names.iter().map(String::as_str)).map(str::to_owned));
        return (!gateways.is_empty()).then(|| (format!("Gateway {path}"), meant));
    };
    let section = parent.section.as_deref()?;
    let names: Vec<&str> = gateway.listeners.iter().map(|listener| listener.name.as_str()).collect();
    let meant = did_you_mean(section, names.iter().copied()).map(str::to_owned);
    (!names.contains(&section)).then(|| (format!("listener `{section}` of Gateway {path}"), meant))
}

/// A route that a listener takes, or not, by labels that are not known.
fn uncertain(route: &HttpRoute, gateway: &Gateway, listener: &str) -> Problem {
    let (namespace, gateway) = (route.meta.namespace(), &gateway.meta.object);
    let message = format!(
        "listener `{listener}` of {gateway} selects namespaces by labels, and those of `{namespace}` are not known, so the route \
         is shut there"
    );
    let problem = route.meta.warning(Finding::NamespaceUnknown, &route.parents_place, "spec.parentRefs", message);
    problem.remedy(format!(
        "add Namespace `{namespace}` with its labels to the folder; on a cluster, let tiergate list and watch namespaces"
    ))
}

pub(super) fn unprotected(policy: &Policy, manifests: &Manifests, problems: &mut Vec<Problem>) {
    let open: HashSet<&str> =
        policy.plans().filter(|plan| matches!(plan.auth, Attached::None)).map(|plan| &*plan.name).collect();
    for route in manifests.routes.iter().filter(|route| open.contains(&*route.meta.object.path())) {
        let message = "has no AuthPolicy, neither of its own nor of its Gateway".to_owned();
        let problem = route.meta.warning(Finding::RouteUnprotected, &route.meta.place, "", message);
        problems.push(problem.remedy("requests are refused; --without-policy allow lets everyone through"));
    }
}
