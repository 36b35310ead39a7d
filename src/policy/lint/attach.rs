//! Policies and routes that are attached to nothing, and routes that no policy protects.

use std::collections::HashSet;

use super::warning;
use crate::manifest::{
    Finding, Gateway, HttpRoute, Manifests, Meta, ObjectName, ParentRef, Place, Problem, Severity, Target, did_you_mean,
};
use crate::policy::{Attached, GatewayPlan, Options, Policy};

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

pub(super) fn targets(manifests: &Manifests, problems: &mut Vec<Problem>) {
    let auth = manifests.auth_policies.iter().map(|policy| (&policy.meta, &policy.target, &policy.target_place));
    let limits = manifests.limit_policies.iter().map(|policy| (&policy.meta, &policy.target, &policy.target_place));
    let gateways: Vec<&ObjectName> = manifests.gateways.iter().map(|gateway| &gateway.meta.object).collect();
    let routes: Vec<&ObjectName> = manifests.routes.iter().map(|route| &route.meta.object).collect();
    let is_there = |target: &Target| match target {
        Target::Unknown => false,
        Target::Gateway { namespace, name, .. } => {
            gateways.iter().any(|g| g.name == *name && g.namespace == *namespace)
        }
        Target::HttpRoute { namespace, name, .. } => {
            routes.iter().any(|r| r.name == *name && r.namespace == *namespace)
        }
    };
    let is_parent = |target: &Target| match target {
        Target::Gateway { namespace, name, .. } => {
            let mut parents = manifests.routes.iter().flat_map(|route| &route.parents);
            parents.any(|parent| parent.name == *name && parent.namespace == *namespace)
        }
        Target::HttpRoute { .. } | Target::Unknown => false,
    };
    let authorises = manifests.auth_policies.iter().any(|policy| is_there(&policy.target));
    for (meta, target, place) in auth.chain(limits) {
        let (known, others, name) = match target {
            Target::Unknown => continue,
            Target::Gateway { name, .. } => (&gateways, &routes, name),
            Target::HttpRoute { name, .. } => (&routes, &gateways, name),
        };
        if is_there(target) {
            problems.extend(missing_section(manifests, meta, target, place));
            continue;
        }
        let elsewhere = known.iter().find(|object| object.name == *name);
        let meant = did_you_mean(name, known.iter().map(|object| &*object.name));
        let mut own = known.iter().chain(others).filter(|object| object.namespace == *meta.namespace());
        let of_other_kind = own.clone().find(|object| object.name == *name);
        // Without any policy, requests are refused; beside another one, or in place of a limit, this one's absence opens something.
        let opens = &*meta.object.kind != "AuthPolicy" || authorises;
        let could_be = elsewhere.is_some()
            || meant.is_some()
            || of_other_kind.is_some()
            || is_parent(target)
            || (opens && own.next().is_some());
        let message = format!("{target} is not there, so the policy has no effect");
        let mut problem = warning(Finding::TargetMissing, meta, place, "spec.targetRef", message);
        // Else the target is in a folder or file of its own.
        if could_be {
            problem.severity = Severity::Error;
        }
        problems.push(if let Some(other) = elsewhere {
            problem.remedy(format!("a policy has to be in its target's namespace: {other}"))
        } else if let Some(other) = of_other_kind {
            problem.remedy(format!("did you mean {other}?"))
        } else if let Some(meant) = meant {
            problem.remedy(format!("did you mean `{meant}`?"))
        } else {
            problem.remedy("add it to the folder, or correct the name")
        });
    }
}

/// A policy for a listener or rule that its target does not have.
fn missing_section(manifests: &Manifests, meta: &Meta, target: &Target, place: &Place) -> Option<Problem> {
    let section = target.section()?;
    let is = |object: &ObjectName| target.whole().to_string() == format!("{} {}", object.kind, object.path());
    let gateway = manifests.gateways.iter().find(|gateway| is(&gateway.meta.object));
    let route = manifests.routes.iter().find(|route| is(&route.meta.object));
    let listeners = gateway.into_iter().flat_map(|gateway| gateway.listeners.iter().map(|l| l.name.clone()));
    let rules = route.into_iter().flat_map(|route| (0..route.rules.len()).map(|at| route.rule_name(at)));
    let known: Vec<String> = listeners.chain(rules).collect();
    if known.iter().any(|name| *name == **section) {
        return None;
    }
    let message = format!("{} has no section `{section}`, so the policy has no effect", target.whole());
    let problem = warning(Finding::TargetMissing, meta, place, "spec.targetRef.sectionName", message);
    let problem = Problem { severity: Severity::Error, ..problem };
    let problem = problem.expected(format!("one of {}", known.join(", ")));
    Some(match did_you_mean(section, known.iter().map(String::as_str)) {
        Some(meant) => problem.remedy(format!("did you mean `{meant}`?")),
        None => problem.remedy("name a listener of the Gateway, or a rule of the HTTPRoute"),
    })
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
        warning(Finding::RouteUnattached, &route.meta, &route.parents_place, "spec.parentRefs", message)
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
    let problem = warning(Finding::NamespaceUnknown, &route.meta, &route.parents_place, "spec.parentRefs", message);
    problem.remedy(format!(
        "add Namespace `{namespace}` with its labels to the folder; on a cluster, let tiergate list and watch namespaces"
    ))
}

pub(super) fn unprotected(policy: &Policy, manifests: &Manifests, problems: &mut Vec<Problem>) {
    let plans = policy.gateways.iter().flat_map(GatewayPlan::plans);
    let open: HashSet<&str> =
        plans.filter(|plan| matches!(plan.auth, Attached::None)).map(|plan| &*plan.name).collect();
    for route in manifests.routes.iter().filter(|route| open.contains(&*route.meta.object.path())) {
        let message = "has no AuthPolicy, neither of its own nor of its Gateway".to_owned();
        let problem = warning(Finding::RouteUnprotected, &route.meta, &route.meta.place, "", message);
        problems.push(problem.remedy("requests are refused; --without-policy allow lets everyone through"));
    }
}
