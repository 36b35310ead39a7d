//! Shadow: what would have been said is recorded, and not answered.
//!
//! `--shadow` puts the whole process there; the annotation `tiergate.io/shadow` one policy, or some of its limits.

use std::sync::Arc;

use super::{Candidate, Deciding, Decision, Evidence, Gate, Grant, LimitEvidence, exceeded};
use crate::clock::Micros;
use crate::denial::Denial;
use crate::expression::Scope;
use crate::limit::{Demand, Outcome};
use crate::policy::{self, Attached, AuthPlan, Matched, RoutePlan};
use crate::request::Request;
use crate::usage::Forecast;

/// Something that would have been said.
#[derive(Clone, Debug)]
pub struct Shadowed {
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
}

// === impl Deciding ===

impl Deciding<'_> {
    /// The decision, with what it rests on: under `--shadow` its answer is always yes.
    pub(super) fn answer(mut self, outcome: Result<Grant, Denial>) -> Decision {
        let outcome = match outcome {
            Err(denial) if self.gate.settings.shadow => {
                self.evidence.shadowed.push(Shadowed { denial, by: None });
                // Its usage report is taken, and charged to nothing.
                Ok(Grant { reservation: self.reserve(&[], &[], self.gate.limits.time(self.now)), ..Grant::default() })
            }
            outcome => outcome,
        };
        Decision { outcome, evidence: self.evidence }
    }

    /// Records what the AuthPolicies on trial would have said of a request that those in force let through. Nothing else of it counts.
    pub(super) async fn try_out(&mut self, trial: &AuthPlan, request: &Request<'_>) {
        let evidence = Evidence::new(self.evidence.id, self.evidence.generation);
        let mut tried = Deciding { evidence, ..*self };
        let said = tried.authorise(trial, request).await;
        self.until = tried.until;
        // What the limits say is for those in force.
        if let Err(denial) = said {
            self.evidence.note_shadowed(denial, trial);
        }
    }

    /// What the request would ask of the limits in shadow.
    pub(super) fn shadow_demands(&mut self, route: &RoutePlan, scope: &Scope<'_>) -> Vec<Demand> {
        let mut demands = Vec::new();
        for limits in &route.limits {
            let Attached::Active(limits) = limits else { continue };
            let Some(shadow) = &limits.shadow else { continue };
            if let Some(broken) = &shadow.broken {
                self.evidence
                    .shadowed
                    .push(Shadowed { denial: policy::broken(broken), by: Some(broken.path().into()) });
            }
            let mut matched = smallvec::SmallVec::<[Matched<'_>; 2]>::new();
            if let Err(denial) = shadow.limits.matching(scope, &self.gate.keys, &mut matched) {
                self.evidence.shadowed.push(Shadowed { denial, by: Some(shadow.limits.policy.path().into()) });
                continue;
            }
            let expected = match self.evidence.forecast {
                Forecast { want: 0, .. } => self.forecast(&matched, scope),
                known => known,
            };
            for matched in matched {
                let want = match &matched.limit.cost {
                    None => Ok(expected.want),
                    Some(cost) => self.priced(cost, matched.limit, scope, expected),
                };
                let want = match want {
                    Ok(want) => want,
                    Err(denial) => {
                        let by = Some(Arc::clone(&matched.limit.name));
                        self.evidence.shadowed.push(Shadowed { denial, by });
                        continue;
                    }
                };
                self.evidence.counts(matched.limit, scope, route);
                if let Some(notify) = &matched.limit.notify {
                    self.watch(notify, matched.limit, scope, true);
                }
                demands.extend(self.demands(matched, route, want));
                let evidence = matched.limit.rates.iter().map(|(_, quota)| LimitEvidence::new(matched.limit, quota));
                self.evidence.shadow_limits.extend(evidence);
            }
        }
        demands
    }

    /// Takes what an admitted request would take from the limits in shadow, all of it or nothing; when that was, if it
    /// takes anything.
    pub(super) async fn admit_in_shadow(&mut self, candidate: &Candidate) -> Option<Micros> {
        if candidate.shadow.is_empty() {
            return None;
        }
        let admission = self.gate.limits.admit(&candidate.shadow, self.now).await;
        self.evidence.is_new_account |= admission.is_new;
        for (limit, standing) in self.evidence.shadow_limits.iter_mut().zip(&admission.standings) {
            limit.standing = Some(*standing);
        }
        // Where it could not be told nothing can be said, and nothing is refused.
        if admission.outcome == Outcome::Exceeded {
            let refusing = Evidence::refusing_of(&self.evidence.shadow_limits);
            let by = refusing.map(|(_, limit)| Arc::clone(&limit.name));
            let denial = exceeded(refusing);
            self.evidence.shadowed.push(Shadowed { denial, by });
        }
        admission.admitted().then_some(admission.at)
    }
}

// === impl Evidence ===

impl Evidence {
    /// Records what a policy in shadow would have said.
    pub(super) fn note_shadowed(&mut self, denial: Denial, auth: &AuthPlan) {
        self.shadowed.push(Shadowed { denial, by: Some(auth.policy.path().into()) });
    }
}
