//! The decision.
//!
//! What is known is decided by a plain function; what is not known is named, fetched, and decided again. Admission is
//! the last step, so that nothing is taken from a limit for a request that is refused.

mod access;
mod admit;
mod classic;
mod evidence;
mod fact;
mod facts;
mod recent;
mod settings;
mod shadow;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use self::access::AccessEvidence;
pub use self::classic::EnforceLimits;
pub use self::evidence::{Decision, Evidence, Grant, Handover, IdentitySource, LimitEvidence, Stage, TierSource};
pub use self::facts::Facts;
pub use self::recent::{Asked, Recent, Record, start};
pub use self::settings::{Otherwise, Settings, TierUnknown};
pub use self::shadow::Would;

use self::admit::{Candidate, exceeded};
use self::fact::{Fact, Known};
use crate::access::{AccessReviews, Query};
use crate::clock::Nanos;
use crate::denial::{Code, Denial};
use crate::hash::{KeyedHasher, Secret};
use crate::identity::Identities;
use crate::limit::Limits;
use crate::policy::{self, Attached, AuthPlan, Policies, Policy, Presented, RoutePlan};
use crate::request::{Request, Unset};
use crate::tier::TierServices;
use crate::usage::{Bounds, Sealer};

/// Everything that a decision needs.
#[derive(Debug)]
pub struct Gate {
    pub policies: Arc<Policies>,
    pub identities: Identities,
    /// Whom to ask about access, where there is somebody.
    pub access: Option<AccessReviews>,
    pub tiers: TierServices,
    pub limits: Arc<Limits>,
    pub sealer: Arc<Sealer>,
    /// What was not let through of late.
    pub recent: Recent,
    /// Whether evidence has the values that limits count under: for explanations alone, since each has to be kept.
    pub tells_keys: bool,
    keys: KeyedHasher,
    settings: Settings,
    decisions: AtomicU64,
}

/// What of a secret the key of accounts' names is derived for. Under another one all accounts would begin anew.
const ACCOUNTS: &str = "accounts";

/// Where a try ends.
enum Step<'a> {
    Need(Fact<'a>),
    Refuse(Denial),
}

// === impl Gate ===

impl Gate {
    #[must_use]
    pub fn new(policies: Arc<Policies>, identities: Identities, limits: Arc<Limits>, settings: Settings) -> Self {
        let secret = Secret::random();
        limits.put_in_force(policies.current().quotas());
        Gate {
            policies,
            identities,
            access: None,
            tiers: TierServices::new(),
            limits,
            sealer: Arc::new(Sealer::new(&secret)),
            recent: Recent::default(),
            tells_keys: false,
            keys: KeyedHasher::derived(&secret, ACCOUNTS),
            settings,
            decisions: AtomicU64::new(0),
        }
    }

    /// The same gate, whose reservations and accounts are those of all gates with this secret.
    #[must_use]
    pub fn with_secret(self, secret: &Secret) -> Self {
        let keys = KeyedHasher::derived(secret, ACCOUNTS);
        Gate { sealer: Arc::new(Sealer::new(secret)), keys, ..self }
    }

    /// Puts a policy in force, and what its limits allow. Only one thread may publish.
    pub fn publish(&self, policy: Policy) {
        self.limits.put_in_force(policy.quotas());
        self.policies.publish(policy);
    }

    /// What one usage report may cost.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        self.settings.bounds
    }

    /// Decides one request at `now`.
    pub async fn check(&self, request: &Request<'_>, now: Nanos) -> Decision {
        let policy = self.policies.current();
        let mut evidence = self.evidence(policy.generation);
        let outcome = self.judge(&policy, request, now, &mut evidence).await;
        let outcome = self.answer(outcome, now, &mut evidence);
        Decision { outcome, evidence }
    }

    async fn judge(
        &self,
        policy: &Policy,
        request: &Request<'_>,
        now: Nanos,
        evidence: &mut Evidence,
    ) -> Result<Grant, Denial> {
        let mut known = Known::default();
        loop {
            let step = self.decide(policy, request, &mut known, now, evidence);
            for question in known.stale.drain(..) {
                self.tiers.refresh(&question, now);
            }
            match step {
                Ok(candidate) => {
                    return match self.settings.enforce_limits {
                        EnforceLimits::Check => self.admit(candidate, now, evidence).await,
                        EnforceLimits::Rls => self.hand_over(candidate, policy, request, now, evidence).await,
                    };
                }
                Err(Step::Refuse(denial)) => return Err(denial),
                Err(Step::Need(fact)) => {
                    let stage = fact.stage();
                    self.fetch(fact, policy, &mut known, now).await;
                    evidence.lap(stage);
                }
            }
        }
    }

    /// The answer to what is not even a request.
    #[must_use]
    pub fn refuse(&self, denial: Denial, now: Nanos) -> Decision {
        let mut evidence = self.evidence(self.policies.current().generation);
        let outcome = self.answer(Err(denial), now, &mut evidence);
        Decision { outcome, evidence }
    }

    fn evidence(&self, generation: u64) -> Evidence {
        let keys = self.tells_keys.then(Box::default);
        Evidence { keys, ..Evidence::new(self.decisions.fetch_add(1, Ordering::Relaxed), generation) }
    }

    /// One try: no await, no I/O.
    fn decide<'a>(
        &self,
        policy: &'a Policy,
        request: &Request<'a>,
        known: &mut Known,
        now: Nanos,
        evidence: &mut Evidence,
    ) -> Result<Candidate, Step<'a>> {
        policy.ready()?;
        evidence.behind = policy.behind.is_some();
        policy.recent(now, self.settings.stale_for)?;
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
            Err(Step::Refuse(denial)) if auth.shadow => {
                evidence.would(denial, auth);
                Ok(self.candidate(route, request, Presented::default(), evidence)?)
            }
            Err(step) => Err(step),
        }
    }

    /// What the AuthPolicy says; and what the limits say to a caller whom it lets through.
    fn authorise<'a>(
        &self,
        policy: &'a Policy,
        (route, auth): (&RoutePlan, &'a AuthPlan),
        request: &Request<'a>,
        known: &mut Known,
        now: Nanos,
        evidence: &mut Evidence,
    ) -> Result<Result<Candidate, Denial>, Step<'a>> {
        let rules = &auth.rules;
        if let Some(broken) = &rules.broken {
            return Err(policy::broken(broken).into());
        }
        evidence.policy(auth);
        if !rules.applies(request.attributes(Unset::Empty))? {
            evidence.left_alone = true;
            self.try_out(policy, (route, auth), request, known, now, evidence)?;
            return Ok(self.candidate(route, request, Presented::default(), evidence));
        }
        evidence.lap(Stage::Route);
        let reviewed;
        let mut caller = match rules.identify(None, request.attributes(Unset::Absent))? {
            Some(caller) => caller,
            None => {
                reviewed = self.identity(policy, rules, request, known, now, evidence)?;
                let caller = rules.identify(Some(&reviewed), request.attributes(Unset::Absent))?;
                caller.ok_or_else(|| Denial::new(Code::UnavailableInternal, "the token was reviewed to no end"))?
            }
        };
        evidence.authentication = caller.rule.map(|rule| Arc::clone(&rule.name));
        evidence.lap(Stage::Identity);
        self.learn(auth, &mut caller, known, now, evidence)?;
        evidence.tier(&caller);
        rules.check_tier(&caller, self.settings.tier_unknown)?;
        evidence.lap(Stage::Facts);
        let (access, identity) = (&mut evidence.access, caller.reviewed());
        let ask = |query: &Query<'_>| self.access(policy, (query, identity), known, now, access);
        match rules.permit(&caller, request.model, &mut evidence.permit, ask) {
            // The limits are for the caller all the same.
            Err(Step::Refuse(denial)) if auth.shadow => evidence.would(denial, auth),
            permitted => permitted?,
        }
        evidence.lap(Stage::Access);
        let presented = rules.present(&caller)?;
        self.try_out(policy, (route, auth), request, known, now, evidence)?;
        let candidate = self.candidate(route, request, presented, evidence);
        evidence.lap(Stage::Limits);
        Ok(candidate)
    }
}

// === impl Step ===

impl From<Denial> for Step<'_> {
    fn from(denial: Denial) -> Self {
        Step::Refuse(denial)
    }
}
