//! Shadow: what would have been said is recorded, and not answered.
//!
//! `--shadow` puts the whole process there; the annotation `tiergate.io/shadow` one policy, or some of its limits.

use std::sync::Arc;

use super::fact::Known;
use super::{Candidate, Evidence, Gate, Grant, LimitEvidence, Step, exceeded};
use crate::clock::Nanos;
use crate::denial::Denial;
use crate::expression::Scope;
use crate::limit::{Demand, Outcome};
use crate::policy::{self, Attached, AuthPlan, Matched, Policy, RoutePlan};
use crate::request::Request;

/// Something that would have been said.
#[derive(Clone, Debug)]
pub struct Would {
    pub denial: Denial,
    /// The policy or limit in shadow; `None` under `--shadow`.
    pub by: Option<Arc<str>>,
}

// === impl Gate ===

impl Gate {
    /// Whether every request is let through.
    #[must_use]
    pub fn is_shadow(&self) -> bool {
        self.settings.shadow
    }

    /// The answer: under `--shadow` always yes.
    pub(super) fn answer(
        &self,
        outcome: Result<Grant, Denial>,
        now: Nanos,
        evidence: &mut Evidence,
    ) -> Result<Grant, Denial> {
        match outcome {
            Err(denial) if self.settings.shadow => {
                evidence.would.push(Would { denial, by: None });
                // Its usage report is taken, and charged to nothing.
                Ok(Grant { reservation: self.reserve(&[], evidence, now), ..Grant::default() })
            }
            outcome => outcome,
        }
    }

    /// Records what the AuthPolicies on trial would have said of a request that those in force let through. Nothing else of it counts.
    pub(super) fn try_out<'a>(
        &self,
        policy: &'a Policy,
        (route, auth): (&RoutePlan, &'a AuthPlan),
        request: &Request<'a>,
        known: &mut Known,
        now: Nanos,
        evidence: &mut Evidence,
    ) -> Result<(), Step<'a>> {
        let Some(trial) = &auth.trial else { return Ok(()) };
        let mut seen = Evidence::new(evidence.id, evidence.generation);
        match self.authorise(policy, (route, trial), request, known, now, &mut seen) {
            // What the limits say is for those in force.
            Ok(_) => Ok(()),
            Err(Step::Refuse(denial)) => {
                evidence.would(denial, trial);
                Ok(())
            }
            Err(need) => Err(need),
        }
    }

    /// What the request would ask of the limits in shadow.
    pub(super) fn shadow_demands(&self, route: &RoutePlan, scope: &Scope<'_>, evidence: &mut Evidence) -> Vec<Demand> {
        let mut demands = Vec::new();
        for limits in &route.limits {
            let Attached::Active(limits) = limits else { continue };
            let Some(shadow) = &limits.shadow else { continue };
            if let Some(broken) = &shadow.broken {
                evidence.would.push(Would { denial: policy::broken(broken), by: Some(broken.path().into()) });
            }
            let mut matched = smallvec::SmallVec::<[Matched<'_>; 2]>::new();
            if let Err(denial) = shadow.limits.matching(scope, &self.keys, &mut matched) {
                evidence.would.push(Would { denial, by: Some(shadow.limits.policy.path().into()) });
                continue;
            }
            for Matched { limit, account } in matched {
                evidence.key(limit, scope);
                demands.extend(limit.demands(account, route));
                evidence.shadow_limits.extend(limit.rates.iter().map(|_| LimitEvidence::new(limit)));
            }
        }
        demands
    }

    /// Takes what an admitted request would take from the limits in shadow, all of it or nothing.
    pub(super) async fn admit_in_shadow(&self, candidate: &Candidate, now: Nanos, evidence: &mut Evidence) {
        if candidate.shadow.is_empty() {
            return;
        }
        let admission = self.limits.admit(&candidate.shadow, now).await;
        for (limit, standing) in evidence.shadow_limits.iter_mut().zip(admission.standings) {
            limit.standing = Some(standing);
        }
        // Where it could not be told nothing can be said, and nothing is refused.
        if admission.outcome == Outcome::Exceeded {
            let refusing = Evidence::refusing_of(&evidence.shadow_limits);
            let by = refusing.map(|(_, limit)| Arc::clone(&limit.name));
            let denial = exceeded(refusing);
            evidence.would.push(Would { denial, by });
        }
    }
}

// === impl Evidence ===

impl Evidence {
    /// Records what a policy in shadow would have said.
    pub(super) fn would(&mut self, denial: Denial, auth: &AuthPlan) {
        self.would.push(Would { denial, by: Some(auth.policy.path().into()) });
    }
}
