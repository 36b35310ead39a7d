//! Facts that a decision needs and that may not be known yet: who calls, and what a service says of them.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::{Instant, timeout_at};

use super::{Evidence, Gate, IdentitySource, Stage, Step, TierSource};
use crate::access::{AccessSource, Question as AccessQuestion, Verdict};
use crate::clock::Nanos;
use crate::denial::{Code, Denial};
use crate::identity::{Asked, Identity, Review};
use crate::policy::{AuthPlan, AuthRules, Caller, Policy};
use crate::request::Request;
use crate::tier::{Age, Lookup, Question};

/// How long a request waits for all that is not known. Gateways give up after 200 to 250 ms, and then the reason is lost.
const DEADLINE: Duration = Duration::from_millis(150);

/// Something that was not known when the decision was tried.
pub(super) enum Fact<'a> {
    Identity(Asked<'a>),
    Tier(Question),
    Access(AccessQuestion),
}

/// Facts that were fetched for this request. They need not be found in a cache again: it may be full.
#[derive(Default)]
pub(super) struct Known {
    pub(super) identity: Option<Review>,
    pub(super) tiers: SmallVec<[(Question, Lookup); 1]>,
    pub(super) access: SmallVec<[(AccessQuestion, Verdict, AccessSource); 1]>,
    /// When the request has waited long enough, for whatever.
    pub(super) until: Option<Instant>,
    /// Whose answers are past their time: new ones are fetched after the decision.
    pub(super) stale: SmallVec<[Question; 1]>,
}

// === impl Gate ===

impl Gate {
    /// Finds out what was not known. That it could not be found out in time is an answer too.
    pub(super) async fn fetch(&self, fact: Fact<'_>, policy: &Policy, known: &mut Known, now: Nanos) {
        let until = *known.until.get_or_insert_with(|| Instant::now() + DEADLINE);
        match fact {
            Fact::Identity(asked) => known.identity = Some(self.identities.review(&asked, policy, now, until).await),
            Fact::Access(question) => {
                // Only where there is somebody to ask is there a question.
                if let Some(reviews) = &self.access {
                    let (verdict, source) = reviews.ask(&question, now, until).await;
                    known.access.push((question, verdict, source));
                }
            }
            Fact::Tier(question) => {
                let lookup = timeout_at(until, self.tiers.ask(&question, now)).await;
                let late = || late("the caller's tier could not be told in time");
                known.tiers.push((question, lookup.unwrap_or_else(|_| Lookup::Undecided(late()))));
            }
        }
    }

    /// The identity behind the request's token, as long as its ServiceAccount is there; a refusal of it is for the policy to
    /// answer, which may know another way.
    pub(super) fn identity<'a>(
        &self,
        policy: &Policy,
        rules: &'a AuthRules,
        request: &Request<'a>,
        known: &Known,
        now: Nanos,
        evidence: &mut Evidence,
    ) -> Result<Result<Arc<Identity>, Denial>, Step<'a>> {
        let token = match request.bearer() {
            Ok(token) => token,
            Err(denial) => return Ok(Err(denial)),
        };
        let asked = Asked { token, rules, host: request.host, peer: request.peer };
        let (review, source) = match &known.identity {
            Some(review) => (review.clone(), IdentitySource::Reviewed),
            None => match self.identities.recall(&asked, now) {
                Some(review) => (review, IdentitySource::Remembered),
                None => return Err(Step::Need(Fact::Identity(asked))),
            },
        };
        let (identity, source) = match review {
            Review::Refused(denial) => {
                evidence.identity_source = Some(source);
                return Ok(Err(denial));
            }
            Review::Known(identity) => (identity, source),
            Review::Stale(identity) => (identity, IdentitySource::Stale),
        };
        evidence.identity_source = Some(source);
        evidence.identity(&identity);
        Ok(match &identity.service_account {
            Some(account) => account.check(policy, self.identities.vouched_for()).map(|()| identity),
            None => Ok(identity),
        })
    }

    /// Finds out what the policy asks about the caller.
    pub(super) fn learn<'p, 'a>(
        &self,
        auth: &'p AuthPlan,
        caller: &mut Caller<'p>,
        known: &mut Known,
        now: Nanos,
        evidence: &mut Evidence,
    ) -> Result<(), Step<'a>> {
        let Known { tiers, stale, .. } = known;
        auth.rules.learn(caller, &auth.tiers, |endpoint, user, body| {
            let question = self.tiers.question(endpoint, user, body);
            let (lookup, source) = match tiers.iter().find(|(asked, _)| *asked == question) {
                Some((_, lookup)) => (lookup.clone(), TierSource::Asked),
                None => match self.tiers.recall(&question, now) {
                    Some((lookup, Age::Fresh)) => (lookup, TierSource::Remembered),
                    Some((lookup, Age::Stale)) => {
                        stale.push(question);
                        (lookup, TierSource::Stale)
                    }
                    None => return Err(Step::Need(Fact::Tier(question))),
                },
            };
            evidence.tier_source = Some(source);
            Ok(lookup)
        })
    }
}

fn late(message: &'static str) -> Denial {
    Denial::new(Code::UnavailableDeadline, message)
}

// === impl Fact ===

impl Fact<'_> {
    /// What it is fetched for.
    pub(super) fn stage(&self) -> Stage {
        match self {
            Fact::Identity(_) => Stage::Identity,
            Fact::Tier(_) => Stage::Facts,
            Fact::Access(_) => Stage::Access,
        }
    }
}
