//! Facts that a decision needs and that may not be known yet: who calls, and what a service says of them.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::{Instant, timeout_at};

use super::{Evidence, Gate, Stage, Step};
use crate::access::{AccessReview, AccessSource, Verdict};
use crate::cache::{Answer, Source};
use crate::clock::Nanos;
use crate::denial::{Code, Denial};
use crate::identity::{Credentials, Identity};
use crate::policy::{AuthPlan, AuthRules, Caller, Policy};
use crate::request::Request;
use crate::tier::{Lookup, LookupRequest};

/// How long a request waits for all that is not known. Gateways give up after 200 to 250 ms, and then the reason is lost.
const DEADLINE: Duration = Duration::from_millis(150);

/// Something that was not known when the decision was tried.
pub(super) enum Fact<'a> {
    Identity(Credentials<'a>),
    Tier(LookupRequest),
    Access(AccessReview),
}

/// Facts that were fetched for this request. They need not be found in a cache again: it may be full.
#[derive(Default)]
pub(super) struct Known {
    pub(super) identity: Option<Answer<Arc<Identity>>>,
    pub(super) tiers: SmallVec<[(LookupRequest, Lookup, Source); 1]>,
    pub(super) access: SmallVec<[(AccessReview, Verdict, AccessSource); 1]>,
    /// When the request has waited long enough, for whatever.
    pub(super) until: Option<Instant>,
    /// Whose answers are past their time: new ones are fetched after the decision.
    pub(super) stale: SmallVec<[LookupRequest; 1]>,
}

// === impl Gate ===

impl Gate {
    /// Finds out what was not known. That it could not be found out in time is an answer too.
    pub(super) async fn fetch(&self, fact: Fact<'_>, policy: &Policy, known: &mut Known, now: Nanos) {
        let until = *known.until.get_or_insert_with(|| Instant::now() + DEADLINE);
        match fact {
            Fact::Identity(credentials) => {
                known.identity = Some(self.identities.review(&credentials, policy, now, until).await);
            }
            Fact::Access(review) => {
                // Only where there is somebody to ask is there a question.
                if let Some(reviews) = &self.access {
                    let (verdict, source) = reviews.ask(&review, now, until).await;
                    known.access.push((review, verdict, source));
                }
            }
            Fact::Tier(request) => {
                let told = timeout_at(until, self.tiers.ask(&request, now)).await;
                let late = || Lookup::Undecided(late("the caller's tier could not be told in time"));
                let (lookup, source) = told.unwrap_or_else(|_| (late(), Source::Fetched));
                known.tiers.push((request, lookup, source));
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
        let credentials = Credentials { token, rules, host: request.host, peer: request.peer };
        let answer = match &known.identity {
            Some(answer) => answer.clone(),
            None => match self.identities.recall(&credentials, now) {
                Some(answer) => answer,
                None => return Err(Step::Need(Fact::Identity(credentials))),
            },
        };
        evidence.identity_source = Some(answer.source);
        let identity = match answer.value {
            Ok(identity) => identity,
            Err(denial) => return Ok(Err(denial)),
        };
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
            let request = self.tiers.request(endpoint, user, body);
            let (lookup, source) = match tiers.iter().find(|(asked, ..)| *asked == request) {
                Some((_, lookup, source)) => (lookup.clone(), *source),
                None => match self.tiers.recall(&request, now) {
                    Some((lookup, Source::Stale)) => {
                        stale.push(request);
                        (lookup, Source::Stale)
                    }
                    Some(known) => known,
                    None => return Err(Step::Need(Fact::Tier(request))),
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
