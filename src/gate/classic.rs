//! The classic setup: Check decides whether, and a second call how much.
//!
//! Under `--enforce-limits rls` Check takes nothing from the limits. It hands over what they look at, in its metadata, and the
//! gateway asks about the limits with a call of its own.

use std::sync::Arc;

use serde_json::{Map, Value};
use smallvec::SmallVec;

use super::{Candidate, Deciding, Evidence, Fallback, Gate, Grant, Handover, Shadowed};
use crate::denial::Denial;
use crate::expression::{Object, Reference, Scope};
use crate::gate::Facts;
use crate::limit::{Cost, Demand, Limits, Outcome, Undecided};
use crate::policy::{Attached, LimitSet, Policy, RoutePlan};
use crate::request::{Request, Unset};

/// Which call takes from the limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum EnforceLimits {
    /// Check, the only call before the model's answer
    #[default]
    Check,
    /// ShouldRateLimit in the domain `tiergate`, which the gateway calls after Check (envoy/classic.yaml)
    Rls,
}

/// Puts what the limits of `policy` allow in force, and says what of it goes badly together with the second call.
pub(super) fn put_in_force(limits: &Limits, policy: &Policy, enforced_by: EnforceLimits) {
    let quotas = policy.quotas();
    if enforced_by == EnforceLimits::Rls && quotas.count_calls() {
        let line = "--enforce-limits rls: no report frees the places of limits of calls that run at once: each is taken for --max-call-time";
        tracing::warn!(remedy = "let Check enforce them", "{line}");
    }
    limits.put_in_force(quotas);
}

// === impl Gate ===

impl Gate {
    /// Which call takes from the limits.
    #[must_use]
    pub fn enforced_by(&self) -> EnforceLimits {
        self.settings.enforce_limits
    }
}

// === impl Deciding ===

impl Deciding<'_> {
    /// Takes what a request costs that is told by `facts`.
    pub(super) async fn take(&mut self, facts: &Facts) -> Result<Grant, Denial> {
        let candidate = self.told(facts)?;
        self.admit(candidate).await.inspect(|_| self.note_told(facts))
    }

    /// What the limits ask of the request.
    fn told(&mut self, facts: &Facts) -> Result<Candidate, Denial> {
        let (policy, configured) = (self.policy, self.gate.settings.gateway.as_deref());
        self.evidence.told(policy, facts);
        policy.ready()?;
        let request = facts.request()?;
        let gateway = policy.gateway(request.gateway.or(configured))?;
        if gateway.listeners.len() > 1 {
            facts.check_listener(&gateway.name)?;
        }
        for name in gateway.header_names() {
            facts.check_header(name, "a route")?;
        }
        let route = policy.route(configured, &request)?;
        self.evidence.route(route);
        for (reference, policy) in references(route) {
            facts.check(reference, policy)?;
        }
        let identity = facts.identity().map(|base| Object { base: Some(base), extra: &[] });
        let request_attributes = request.attributes(Unset::Empty);
        let scope = Scope { request: request_attributes, identity, metadata: &[], filters: facts.filters() };
        let demands = self.demand(route, &scope)?;
        let mut shadow = self.shadow_demands(route, &scope);
        // Check has said so already.
        self.evidence.shadowed.clear();
        for (reference, policy) in shadow_references(route) {
            if let Err(denial) = facts.check(reference, policy) {
                self.evidence.shadowed.push(Shadowed { denial, by: Some(policy.into()) });
                self.evidence.shadow_limits.clear();
                shadow.clear();
                break;
            }
        }
        Ok(Candidate { demands, shadow, ..Candidate::default() })
    }

    /// Lets the request pass as far as the limits, and says what they will have to be told.
    pub(super) async fn hand_over(&self, candidate: Candidate, request: &Request<'_>) -> Result<Grant, Denial> {
        let Candidate { mut grant, mut demands, shadow } = candidate;
        grant.handover = Some(Box::new(self.handover(&grant, request)?));
        if self.gate.settings.without_room == Fallback::Allow && self.has_no_room(&demands).await {
            // Whoever is let through uncounted is not charged afterwards either.
            demands.clear();
        }
        grant.reservation = self.reserve(&demands, &shadow, self.gate.limits.time(self.now));
        Ok(grant)
    }

    /// What the second call has to be told of `request`, which is granted this.
    fn handover(&self, grant: &Grant, request: &Request<'_>) -> Result<Handover, Denial> {
        let configured = self.gate.settings.gateway.as_deref();
        let gateway = self.policy.gateway(request.gateway.or(configured))?;
        let (listener, route) = gateway.find_on(request)?;
        let looked_at = || references(route).chain(shadow_references(route)).map(|(reference, _)| reference);
        let of_limits = looked_at().filter_map(|reference| match reference {
            Reference::Header(name) => Some(name.as_str()),
            _ => None,
        });
        let header = |name: &str| (name.to_owned(), request.headers.joined(name).map(Value::from).into());
        let headers: Map<String, Value> = gateway.header_names().chain(of_limits).map(header).collect();
        let (identity, others): (Vec<_>, Vec<_>) = grant.filters.iter().partition(|(name, _)| &**name == "identity");
        let identity = identity.first().map_or(Value::Null, |(_, identity)| identity.to_json());
        let is_looked_at =
            |name: &str| looked_at().any(|reference| *reference == Reference::Auth || reference.member() == Some(name));
        let others = others.into_iter().filter(|(name, _)| is_looked_at(name));
        let filters: Map<String, Value> = others.map(|(name, made)| (name.to_string(), made.to_json())).collect();
        Ok(Handover {
            gateway: Arc::clone(&gateway.name),
            listener: listener.names.first().map(Arc::clone).unwrap_or_default(),
            identity: identity.to_string(),
            filters: Value::Object(filters).to_string(),
            headers: Value::Object(headers).to_string(),
        })
    }

    async fn has_no_room(&self, demands: &[Demand]) -> bool {
        let looked: SmallVec<[Demand; 2]> =
            demands.iter().map(|demand| Demand { cost: Cost::POSTPAID, ..*demand }).collect();
        self.gate.limits.admit(&looked, self.now).await.outcome == Outcome::Undecided(Undecided::Full)
    }
}

/// What the limits of `route` look at, and the policy that does.
fn references(route: &RoutePlan) -> impl Iterator<Item = (&Reference, &str)> {
    active(route).flat_map(references_of)
}

/// Likewise, of the limits that refuse nothing.
fn shadow_references(route: &RoutePlan) -> impl Iterator<Item = (&Reference, &str)> {
    active(route).filter_map(|limits| limits.shadow.as_ref()).flat_map(|shadow| references_of(&shadow.limits))
}

fn references_of(limits: &LimitSet) -> impl Iterator<Item = (&Reference, &str)> {
    limits.references().iter().map(|reference| (reference, &*limits.policy.name))
}

fn active(route: &RoutePlan) -> impl Iterator<Item = &LimitSet> {
    route.limits.iter().filter_map(|limits| match limits {
        Attached::Active(limits) => Some(&**limits),
        Attached::Broken(_) | Attached::None => None,
    })
}

// === impl Evidence ===

impl Evidence {
    /// What is told for metrics and answers. A tier that the policy does not know gets no series of its own.
    fn told(&mut self, policy: &Policy, facts: &Facts) {
        if let Some(told) = &facts.tier {
            let mut tiers = policy.known_tiers();
            self.tier = tiers.find(|tier| ***tier == **told).map(Arc::clone);
        }
        self.permit.model = facts.model.clone();
        self.user = facts.user.as_deref().map(Into::into);
    }
}

#[cfg(test)]
mod tests;
