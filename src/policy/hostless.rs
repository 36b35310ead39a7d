//! Tokens that would be for whatever host a caller sends: whoever makes up the host of a request would make up the audience.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::route::Served;
use crate::problem::{Finding, InForce, ObjectName, Place, Problem, Severity};
use crate::rules::AuthRules;

/// The routes at which no host is spelled out that could be an audience, by the rule that names none.
#[derive(Debug, Default)]
pub struct Hostless(BTreeMap<Nameless, Routes>);

/// A rule that names no audience.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Nameless {
    place: Place,
    rule: Arc<str>,
    policy: ObjectName,
}

#[derive(Debug, Default)]
struct Routes {
    named: BTreeSet<ObjectName>,
    /// Whether the rule is in force on one of them, so that it is shut.
    shut: bool,
}

// === impl Hostless ===

impl Hostless {
    /// The policy of a rule that names no audience, where nothing spells out the host that would be one. `in_shadow` says whether it
    /// is on trial.
    pub fn find(
        &mut self,
        rules: &AuthRules,
        in_shadow: bool,
        route: &ObjectName,
        served: &[Served],
    ) -> Option<ObjectName> {
        if served.iter().all(|served| served.host.is_spelled_out()) {
            return None;
        }
        let rule = rules.authentication.iter().find(|rule| rule.what.method.takes_host())?;
        let policy = (*rule.origin).clone();
        let nameless = Nameless { place: rule.place.clone(), rule: Arc::clone(&rule.name), policy };
        let routes = self.0.entry(nameless).or_default();
        routes.named.insert(route.clone());
        routes.shut |= !in_shadow;
        Some((*rule.origin).clone())
    }

    /// An error of each such rule.
    pub fn into_problems(self) -> impl Iterator<Item = Problem> {
        self.0.into_iter().map(|(nameless, routes)| missing(nameless, &routes))
    }
}

fn missing(Nameless { place, rule, policy }: Nameless, routes: &Routes) -> Problem {
    let route = routes.named.first().map(ToString::to_string).unwrap_or_default();
    let more = match routes.named.len().saturating_sub(1) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let message = format!(
        "names no `audiences`, and no listener or route spells out the host that would be one: callers of {route}{more} could \
         make it up"
    );
    let problem = Problem::new(Finding::AudienceMissing, Severity::Error, place, message);
    let problem = problem.of(&policy, format!("rules.authentication.{rule}"));
    let problem = problem
        .remedy("name `audiences`, or give the listener a `hostname` or the route `hostnames` without a wildcard");
    Problem { in_force: Some(if routes.shut { InForce::Shut } else { InForce::Nothing }), ..problem }
}
