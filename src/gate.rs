//! The decision.
//!
//! What is known is decided by a plain function; what is not known is named, fetched, and decided again. Admission is
//! the last step, so that nothing is taken from a limit for a request that is refused.

mod classic;
mod denial;
mod evidence;
mod recent;
mod shadow;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::{Instant, timeout_at};

pub use self::classic::EnforceLimits;
pub use self::denial::{Class, Code, Denial, Told};
pub use self::evidence::{Decision, Evidence, Grant, Handover, IdentitySource, LimitEvidence, Stage, TierSource};
pub use self::recent::{Asked, Recent, Record};
pub use self::shadow::Would;

use crate::hash::KeyedHasher;
use crate::identity::{Identities, Identity, Review};
use crate::limit::{AccountKey, Admission, Cost, Demand, Limits, Nanos};
use crate::manifest::ObjectName;
use crate::policy::{
    self, Attached, AuthPlan, AuthRules, Caller, Limit, LimitKind, Matched, Policies, Policy, Presented, RoutePlan,
    Scope,
};
use crate::request::{BearerToken, Request};
use crate::tier::{Age, Lookup, Question, TierServices};
use crate::usage::{Hold, Sealer};

/// How long a request waits for all that is not known. Gateways give up after 200 to 250 ms, and then the reason is lost.
const DEADLINE: Duration = Duration::from_millis(150);

/// What happens to requests that no policy, or no limit, says anything about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Otherwise {
    Allow,
    Refuse,
}

/// What happens to a caller whose tier is not known: it is no longer configured, or none has their groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum TierUnknown {
    Refuse,
    /// The next tier that their groups give; without one, the policy decides.
    #[default]
    Next,
}

/// What the process's flags say about decisions.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `namespace/name` of the Gateway, where Envoy does not say it.
    pub gateway: Option<String>,
    pub without_policy: Otherwise,
    pub without_limit: Otherwise,
    /// What happens to a new caller when there is no room for another account.
    pub without_room: Otherwise,
    pub enforce_limits: EnforceLimits,
    /// Whether every request is let through, and what would have been said is only recorded.
    pub shadow: bool,
    pub tier_unknown: TierUnknown,
}

/// Everything that a decision needs.
#[derive(Debug)]
pub struct Gate {
    pub policies: Arc<Policies>,
    pub identities: Identities,
    pub tiers: TierServices,
    pub limits: Arc<Limits>,
    pub sealer: Arc<Sealer>,
    /// What was not let through of late.
    pub recent: Recent,
    keys: KeyedHasher,
    settings: Settings,
    decisions: AtomicU64,
}

/// Something that was not known when the decision was tried.
enum Fact<'a> {
    Identity(BearerToken<'a>),
    Tier(Question),
}

/// Where a try ends.
enum Step<'a> {
    Need(Fact<'a>),
    Refuse(Denial),
}

/// Facts that were fetched for this request. They need not be found in a cache again: it may be full.
#[derive(Default)]
struct Known {
    identity: Option<Review>,
    tiers: SmallVec<[(Question, Lookup); 1]>,
    /// When the request has waited long enough, for whatever.
    until: Option<Instant>,
    /// Whose answers are past their time: new ones are fetched after the decision.
    stale: SmallVec<[Question; 1]>,
}

/// A request that passes, if its limits let it.
#[derive(Debug, Default)]
struct Candidate {
    grant: Grant,
    demands: Demands,
    /// What limits that refuse nothing would take.
    shadow: Vec<Demand>,
}

type Demands = SmallVec<[Demand; 2]>;

// === impl Gate ===

impl Gate {
    #[must_use]
    pub fn new(policies: Arc<Policies>, identities: Identities, limits: Arc<Limits>, settings: Settings) -> Self {
        Gate {
            policies,
            identities,
            tiers: TierServices::new(),
            limits,
            sealer: Arc::new(Sealer::random()),
            recent: Recent::default(),
            keys: KeyedHasher::random(),
            settings,
            decisions: AtomicU64::new(0),
        }
    }

    /// Decides one request at `now`.
    pub async fn check(&self, request: &Request<'_>, now: Nanos) -> Decision {
        let decision = self.judge(request, now).await;
        self.answer(decision, now)
    }

    async fn judge(&self, request: &Request<'_>, now: Nanos) -> Decision {
        let policy = self.policies.current();
        let mut evidence = self.evidence(policy.generation);
        let mut known = Known::default();
        loop {
            let step = self.decide(&policy, request, &mut known, now, &mut evidence);
            for question in known.stale.drain(..) {
                self.tiers.refresh(&question, now);
            }
            match step {
                Ok(candidate) => {
                    return match self.settings.enforce_limits {
                        EnforceLimits::Check => self.admit(candidate, now, evidence).await,
                        EnforceLimits::Rls => self.hand_over(candidate, &policy, request, now, evidence).await,
                    };
                }
                Err(Step::Refuse(denial)) => return evidence.refuse(denial),
                Err(Step::Need(fact)) => {
                    let stage = fact.stage();
                    self.fetch(fact, &mut known, now).await;
                    evidence.lap(stage);
                }
            }
        }
    }

    /// The answer to what is not even a request.
    #[must_use]
    pub fn refuse(&self, denial: Denial, now: Nanos) -> Decision {
        self.answer(self.evidence(self.policies.current().generation).refuse(denial), now)
    }

    fn evidence(&self, generation: u64) -> Evidence {
        Evidence::new(self.decisions.fetch_add(1, Ordering::Relaxed), generation)
    }

    /// Finds out what was not known. That it could not be found out in time is an answer too.
    async fn fetch(&self, fact: Fact<'_>, known: &mut Known, now: Nanos) {
        let until = *known.until.get_or_insert_with(|| Instant::now() + DEADLINE);
        match fact {
            Fact::Identity(token) => {
                let review = timeout_at(until, self.identities.review(&token, now)).await;
                let late = || late("the token could not be reviewed in time");
                known.identity = Some(review.unwrap_or_else(|_| Review::Refused(late())));
            }
            Fact::Tier(question) => {
                let lookup = timeout_at(until, self.tiers.ask(&question, now)).await;
                let late = || late("the caller's tier could not be told in time");
                known.tiers.push((question, lookup.unwrap_or_else(|_| Lookup::Undecided(late()))));
            }
        }
    }

    /// One try: no await, no I/O.
    fn decide<'a>(
        &self,
        policy: &Policy,
        request: &Request<'a>,
        known: &mut Known,
        now: Nanos,
        evidence: &mut Evidence,
    ) -> Result<Candidate, Step<'a>> {
        policy.ready()?;
        request.check_headers()?;
        let route = policy.route(self.settings.gateway.as_deref(), request)?;
        evidence.route(route);
        let auth = match &route.auth {
            Attached::Active(auth) => auth,
            Attached::Broken(name) => return Err(policy::broken(name).into()),
            Attached::None if self.settings.without_policy == Otherwise::Allow => {
                return Ok(self.candidate(route, request, Presented::default(), evidence)?);
            }
            Attached::None => return Err(Denial::new(Code::RouteNoPolicy, "this route has no policy").into()),
        };
        match self.authorise(policy, (route, auth), request, known, now, evidence) {
            Ok(candidate) => Ok(candidate?),
            Err(Step::Refuse(denial)) if auth.rules.shadow => {
                evidence.would.push(Would { denial, by: Some(auth.policy.path().into()) });
                Ok(self.candidate(route, request, Presented::default(), evidence)?)
            }
            Err(step) => Err(step),
        }
    }

    /// What the AuthPolicy says; and what the limits say to a caller whom it lets through.
    fn authorise<'a>(
        &self,
        policy: &Policy,
        (route, auth): (&RoutePlan, &AuthPlan),
        request: &Request<'a>,
        known: &mut Known,
        now: Nanos,
        evidence: &mut Evidence,
    ) -> Result<Result<Candidate, Denial>, Step<'a>> {
        let rules = &auth.rules;
        if rules.broken {
            return Err(policy::broken(&auth.policy).into());
        }
        evidence.policy(auth);
        if !rules.applies(request.attributes())? {
            evidence.left_alone = true;
            return Ok(self.candidate(route, request, Presented::default(), evidence));
        }
        evidence.lap(Stage::Route);
        let reviewed;
        let mut caller = match rules.identify(None, request.attributes())? {
            Some(caller) => caller,
            None => {
                reviewed = self.identity(policy, rules, request, known, now, evidence)?;
                let caller = rules.identify(Some(&reviewed), request.attributes())?;
                caller.ok_or_else(|| Denial::new(Code::UnavailableInternal, "the token was reviewed to no end"))?
            }
        };
        evidence.authentication = caller.rule.map(|rule| Arc::clone(&rule.name));
        evidence.lap(Stage::Identity);
        self.learn(auth, &mut caller, known, now, evidence)?;
        evidence.tier(&caller);
        rules.check_tier(&caller, self.settings.tier_unknown)?;
        evidence.lap(Stage::Facts);
        let would = |denial, by: &ObjectName| evidence.would.push(Would { denial, by: Some(by.path().into()) });
        rules.permit(&caller, &policy.rbac, request.model, &mut evidence.permit, would)?;
        evidence.lap(Stage::Access);
        let presented = rules.present(&caller)?;
        let candidate = self.candidate(route, request, presented, evidence);
        evidence.lap(Stage::Limits);
        Ok(candidate)
    }

    /// The identity behind the request's token, as long as its ServiceAccount is there; a refusal of it is for the policy to
    /// answer, which may know another way.
    fn identity<'a>(
        &self,
        policy: &Policy,
        rules: &AuthRules,
        request: &Request<'a>,
        known: &Known,
        now: Nanos,
        evidence: &mut Evidence,
    ) -> Result<Result<Arc<Identity>, Denial>, Step<'a>> {
        let token = match request.bearer() {
            Ok(token) => token,
            Err(denial) => return Ok(Err(denial)),
        };
        let (review, source) = match &known.identity {
            Some(review) => (review.clone(), IdentitySource::Reviewed),
            None => match self.identities.recall(&token, now, rules.identity_ttl()) {
                Some(review) => (review, IdentitySource::Remembered),
                None => return Err(Step::Need(Fact::Identity(token))),
            },
        };
        evidence.identity_source = Some(source);
        Ok(match review {
            Review::Refused(denial) => Err(denial),
            Review::Known(identity) => {
                evidence.identity(&identity);
                match &identity.service_account {
                    Some(account) => account.check(policy).map(|()| identity),
                    None => Ok(identity),
                }
            }
        })
    }

    /// Finds out what the policy asks about the caller.
    fn learn<'p, 'a>(
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

    /// The request of a caller who is `presented` to the limits.
    fn candidate(
        &self,
        route: &RoutePlan,
        request: &Request<'_>,
        presented: Presented<'_>,
        evidence: &mut Evidence,
    ) -> Result<Candidate, Denial> {
        let scope = Scope { request: request.attributes(), identity: presented.identity(), metadata: &[] };
        let demands = self.demand(route, &scope, evidence)?;
        let shadow = self.shadow_demands(route, &scope, evidence);
        Ok(Candidate { grant: Grant::new(presented), demands, shadow })
    }

    /// What the request asks of the limits that match it.
    fn demand(&self, route: &RoutePlan, scope: &Scope<'_>, evidence: &mut Evidence) -> Result<Demands, Denial> {
        evidence.passed = Some(Stage::Access);
        let mut matched: SmallVec<[Matched<'_>; 2]> = SmallVec::new();
        for limits in &route.limits {
            match limits {
                Attached::Active(limits) => limits.matching(scope, &self.keys, &mut matched)?,
                Attached::Broken(name) => return Err(policy::broken(name)),
                Attached::None => {}
            }
        }
        evidence.unlimited = matched.is_empty();
        if matched.is_empty() && self.settings.without_limit == Otherwise::Refuse {
            return Err(Denial::new(Code::LimitNone, "no limit is configured for you"));
        }
        let mut demands = Demands::new();
        for Matched { limit, account } in matched {
            // One by one: `extend` sets up for many, and there are two.
            for demand in limit.demands(account, route) {
                demands.push(demand);
                evidence.limits.push(LimitEvidence::new(limit));
            }
        }
        Ok(demands)
    }

    /// Takes what the request costs, all of it or nothing.
    async fn admit(&self, candidate: Candidate, now: Nanos, mut evidence: Evidence) -> Decision {
        let Admission { admitted, full, standings } = self.limits.admit(&candidate.demands, now).await;
        evidence.no_room = full;
        if full && self.settings.without_room == Otherwise::Allow {
            // Its usage report is taken, and charged to nothing.
            let reservation = self.reserve(&[], &evidence, now);
            return evidence.allow(Grant { reservation, ..candidate.grant });
        }
        if full {
            let denial = Denial::new(Code::UnavailableAccounts, "there is no room to count another caller");
            return evidence.refuse(denial.detail("see --max-accounts"));
        }
        for (limit, standing) in evidence.limits.iter_mut().zip(standings) {
            limit.standing = Some(standing);
        }
        if !admitted {
            let denial = exceeded(evidence.refusing());
            return evidence.refuse(denial);
        }
        self.admit_in_shadow(&candidate, now, &mut evidence).await;
        let Candidate { grant, mut demands, shadow } = candidate;
        for demand in shadow {
            demands.push(demand);
        }
        let reservation = self.reserve(&demands, &evidence, now);
        evidence.lap(Stage::Admission);
        evidence.allow(Grant { reservation, ..grant })
    }

    /// What the usage report gives back, so that its tokens are charged to the token limits among `demands`.
    fn reserve(&self, demands: &[Demand], evidence: &Evidence, now: Nanos) -> String {
        let mut holds: SmallVec<[Hold; 2]> = SmallVec::new();
        for Demand { account, cell, quota, cost } in demands {
            if *cost == Cost::Positive {
                holds.push(Hold { account: *account, cell: *cell, quota: *quota });
            }
        }
        self.sealer.seal(&holds, evidence.tier.as_deref().unwrap_or_default(), now)
    }
}

fn late(message: &'static str) -> Denial {
    Denial::new(Code::UnavailableDeadline, message)
}

/// The refusal by the limit that takes longest to let this request through.
fn exceeded(refusing: Option<(Option<Duration>, &LimitEvidence)>) -> Denial {
    let Some((retry_after, limit)) = refusing else {
        return Denial::new(Code::UnavailableInternal, "the limits gave no reason");
    };
    let (number, window) = limit.standing.map_or((0, Duration::ZERO), |standing| (standing.limit(), standing.window()));
    let (code, what) = match limit.kind {
        LimitKind::Requests => (Code::LimitRequests, "requests"),
        LimitKind::Tokens => (Code::LimitTokens, "tokens"),
    };
    let message = format!("you have used your {number} {what} per {window:?}");
    let mut denial = Denial::new(code, message).detail(format!("limit {}", limit.name));
    denial.retry_after = retry_after;
    denial
}

// === impl Limit ===

impl Limit {
    /// What a request asks of each of the limit's rates.
    fn demands(&self, account: AccountKey, route: &RoutePlan) -> impl Iterator<Item = Demand> {
        self.cells(route.hash).map(move |(cell, quota)| Demand { account, cell, quota, cost: self.cost() })
    }

    /// What a request costs before its answer is known.
    fn cost(&self) -> Cost {
        match self.kind {
            LimitKind::Requests => Cost::Take(1),
            LimitKind::Tokens => Cost::Positive,
        }
    }
}

// === impl Fact ===

impl Fact<'_> {
    /// What it is fetched for.
    fn stage(&self) -> Stage {
        match self {
            Fact::Identity(_) => Stage::Identity,
            Fact::Tier(_) => Stage::Facts,
        }
    }
}

// === impl Step ===

impl From<Denial> for Step<'_> {
    fn from(denial: Denial) -> Self {
        Step::Refuse(denial)
    }
}
