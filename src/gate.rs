//! The decision, from top to bottom: [`Gate::check`], `decide` and `authorise` are its order, and each step has a file below `gate/`.
//!
//! Steps are functions over data: what the policy says ([`crate::rules`]), and what is known of the request. A step that needs what is
//! not known yet waits for it, within one bound; where all is known the decision never waits. Admission is the last step, so that
//! nothing is taken from a limit for a request that is refused.
//!
//! ```
//! use std::sync::Arc;
//! # use std::time::Duration;
//! use tiergate::clock::Nanos;
//! use tiergate::denial::Code;
//! # use tiergate::gate::{DecisionSettings, EnforceLimits, Fallback, LimitsPath, TierUnknown};
//! use tiergate::gate::Gate;
//! use tiergate::identity::{Authority, Identities, Remember};
//! use tiergate::limit::{Limits, Memory};
//! use tiergate::lint::compile;
//! use tiergate::manifest::Manifests;
//! use tiergate::policy::{Options, Policies};
//! use tiergate::request::{Headers, OperatorModel, Request};
//!
//! # const JWKS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","alg":"ES256","use":"sig","kid":"1",
//! #   "x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}"#;
//! const POLICY: &str = "
//! apiVersion: gateway.networking.k8s.io/v1
//! kind: Gateway
//! metadata: {name: gw, namespace: ns}
//! spec: {gatewayClassName: any, listeners: [{name: http, port: 80, protocol: HTTP}]}
//! ---
//! apiVersion: gateway.networking.k8s.io/v1
//! kind: HTTPRoute
//! metadata: {name: all, namespace: ns}
//! spec: {parentRefs: [{name: gw}], rules: [{}]}
//! ---
//! apiVersion: kuadrant.io/v1
//! kind: AuthPolicy
//! metadata: {name: readers, namespace: ns}
//! spec:
//!   targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: gw}
//!   rules:
//!     authentication: {anybody: {anonymous: {}}}
//!     authorization: {reads: {patternMatching: {patterns: [{predicate: request.method == 'GET'}]}}}
//! ";
//!
//! # let settings = DecisionSettings {
//! #     gateway: None,
//! #     without_policy: Fallback::Refuse,
//! #     without_limit: Fallback::Allow,
//! #     without_room: Fallback::Refuse,
//! #     enforce_limits: EnforceLimits::Check,
//! #     uncounted: Fallback::Allow,
//! #     bounds: tiergate::usage::Bounds::default(),
//! #     reserving: tiergate::gate::Reserving::default(),
//! #     shadow: false,
//! #     limits_path: LimitsPath::default(),
//! #     tier_unknown: TierUnknown::Next,
//! #     stale_for: Duration::ZERO,
//! # };
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! let policy = compile(Manifests::read([("policy.yaml", POLICY)]), &Options::default());
//! let identities = Identities::new(Authority::from_jwks(JWKS, "https://issuer")?, Remember::default());
//! let limits = Arc::new(Limits::in_memory(Memory::default()));
//! let gate = Gate::new(Arc::new(Policies::new(policy)), identities, limits, settings);
//!
//! let headers = Default::default();
//! let mut request = Request {
//!     method: "GET",
//!     host: "models.example.com",
//!     scheme: "http",
//!     path: "/v1/models",
//!     query: None,
//!     headers: Headers::Map(&headers),
//!     gateway: None,
//!     listener: None,
//!     port: None,
//!     peer: None,
//!     sni: None,
//!     model: OperatorModel::Unset,
//!     body: None,
//! };
//! assert!(gate.check(&request, Nanos(0)).await.outcome.is_ok());
//! request.method = "POST";
//! let denial = gate.check(&request, Nanos(0)).await.outcome.unwrap_err();
//! assert_eq!(denial.code, Code::AccessRule);
//! # Ok::<(), tiergate::identity::AuthorityError>(())
//! # }).unwrap();
//! ```

mod access;
mod accounts;
mod admit;
mod caller;
mod classic;
mod evidence;
mod facts;
mod identify;
mod learn;
mod notify;
mod permit;
mod present;
mod recent;
mod settings;
mod shadow;
mod shown;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

pub use self::access::AccessEvidence;
pub use self::accounts::{Account, AccountsPage, AccountsQuery, CellName, ChangeOutcome, LimitsMeant};
pub use self::classic::EnforceLimits;
pub use self::evidence::{Decision, Evidence, Grant, Handover, LimitEvidence, Stage};
pub use self::facts::Facts;
pub use self::permit::{Permit, Refused};
pub use self::recent::{Recent, Record, RequestLine, start};
pub use self::settings::{DecisionSettings, Fallback, Reserving, TierUnknown};
pub use self::shadow::Shadowed;
pub use self::shown::{LimitsPath, Shown, ShownRate};

use self::admit::{Candidate, exceeded};
use self::caller::{Caller, applies};
use self::classic::put_in_force;
use self::identify::Reviews;
use self::learn::check_tier;
use self::present::{Presented, present};
use crate::access::AccessReviews;
use crate::clock::Nanos;
use crate::denial::{Code, Denial};
use crate::hash::{KeyedHasher, Secret};
use crate::identity::Identities;
use crate::limit::Limits;
use crate::policy::{self, Attached, AuthPlan, Policies, Policy, RoutePlan};
use crate::request::{Body, Request, Unset};
use crate::tier::TierServices;
use crate::usage::{Forecasts, Reports, Sealer, Settlements, UsageMetrics};

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
    /// What calls are expected to cost.
    pub forecasts: Arc<Forecasts>,
    /// What was not let through of late.
    pub recent: Recent,
    /// Whether evidence has the values that limits count under: for explanations alone, since each has to be kept.
    pub tells_keys: bool,
    keys: KeyedHasher,
    settings: DecisionSettings,
    decisions: AtomicU64,
}

/// What of a secret the key of accounts' names is derived for. Under another one all accounts would begin anew.
const ACCOUNTS: &str = "accounts";

/// A request that is being decided.
struct Deciding<'a> {
    gate: &'a Gate,
    policy: &'a Policy,
    now: Nanos,
    /// What was found so far: it is all that a decision tells of itself.
    evidence: Evidence,
    until: Option<Instant>,
    /// Of the request, where it is sent along: it is read only where tokens are held for it.
    body: Option<Body<'a>>,
    /// Whether the path names no model, so that nothing says whether the caller may call it.
    names_no_model: bool,
}

/// How long a request waits for all that is not known. Gateways give up after 200 to 250 ms, and then the reason is lost.
const DEADLINE: Duration = Duration::from_millis(150);

// === impl Gate ===

impl Gate {
    #[must_use]
    pub fn new(
        policies: Arc<Policies>,
        identities: Identities,
        limits: Arc<Limits>,
        settings: DecisionSettings,
    ) -> Self {
        let secret = Secret::random();
        put_in_force(&limits, &policies.current(), settings.enforce_limits);
        Gate {
            policies,
            identities,
            access: None,
            tiers: TierServices::new(),
            limits,
            sealer: Arc::new(Sealer::new(&secret)),
            forecasts: Arc::new(Forecasts::new(settings.reserving.margin)),
            recent: Recent::default(),
            tells_keys: false,
            keys: KeyedHasher::derived(&secret, ACCOUNTS),
            settings,
            decisions: AtomicU64::new(0),
        }
    }

    /// The same gate, whose reservations and accounts are those of all gates with this secret. What it seals with may change later
    /// ([`Sealer::adopt`]); what it calls accounts does not.
    #[must_use]
    pub fn with_secret(self, secret: &Secret) -> Self {
        let keys = KeyedHasher::derived(secret, ACCOUNTS);
        Gate { sealer: Arc::new(Sealer::new(secret)), keys, ..self }
    }

    /// The same gate, with that key of accounts' names: those of a memory that outlives the secret.
    #[must_use]
    pub fn with_account_key(self, keys: KeyedHasher) -> Self {
        Gate { keys, ..self }
    }

    /// The key of accounts' names.
    #[must_use]
    pub fn account_key(&self) -> &KeyedHasher {
        &self.keys
    }

    /// Puts a policy in force, and what its limits allow. Only one thread may publish.
    pub fn publish(&self, policy: Policy) {
        put_in_force(&self.limits, &policy, self.settings.enforce_limits);
        self.policies.publish(policy);
    }

    /// Takes reports of what was reserved here.
    #[must_use]
    pub fn reports(&self, metrics: UsageMetrics) -> Reports {
        let (sealer, limits) = (Arc::clone(&self.sealer), Arc::clone(&self.limits));
        let settlements = Settlements::new(self.settings.bounds, Arc::clone(&self.forecasts));
        Reports::new(sealer, limits, settlements, metrics)
    }

    /// Decides one request at `now`.
    pub async fn check(&self, request: &Request<'_>, now: Nanos) -> Decision {
        let policy = self.policies.current();
        let mut deciding = Deciding::new(self, &policy, now);
        deciding.body = request.body;
        let outcome = deciding.decide(request).await;
        deciding.answer(outcome)
    }

    /// Takes what one request costs from the limits, all of it or nothing, as `facts` tell the request.
    pub async fn take(&self, facts: &Facts, now: Nanos) -> Decision {
        let policy = self.policies.current();
        let mut deciding = Deciding::new(self, &policy, now);
        let outcome = deciding.take(facts).await;
        deciding.answer(outcome)
    }

    /// The answer to what is not even a request.
    #[must_use]
    pub fn refuse(&self, denial: Denial, now: Nanos) -> Decision {
        Deciding::new(self, &self.policies.current(), now).answer(Err(denial))
    }
}

// === impl Deciding ===

impl<'a> Deciding<'a> {
    fn new(gate: &'a Gate, policy: &'a Policy, now: Nanos) -> Self {
        let id = gate.decisions.fetch_add(1, Ordering::Relaxed);
        let evidence = Evidence::new(id, policy.generation);
        let mut deciding = Deciding { gate, policy, now, evidence, until: None, body: None, names_no_model: false };
        deciding.evidence.keys = gate.tells_keys.then(Box::default);
        deciding
    }

    /// The decision, step by step. A step that needs what is not known waits for it; where all is known, nothing waits.
    async fn decide(&mut self, request: &Request<'_>) -> Result<Grant, Denial> {
        let (policy, settings) = (self.policy, &self.gate.settings);
        policy.ready()?;
        self.evidence.outdated = policy.outdated.is_some();
        policy.recent(self.now, settings.stale_for)?;
        request.check_headers()?;
        if let Some(prefix) = settings.limits_path.asked_for(request) {
            return Box::pin(self.show(prefix, request)).await;
        }
        let route = policy.route(settings.gateway.as_deref(), request)?;
        self.evidence.route(route);
        let presented = self.admit_by(route, request).await?;
        let candidate = self.candidate(route, request, presented)?;
        self.evidence.lap(Stage::Limits);
        match settings.enforce_limits {
            EnforceLimits::Check => self.admit(candidate).await.inspect(|grant| self.note_names(route, request, grant)),
            EnforceLimits::Rls => self.hand_over(candidate, request).await,
        }
    }

    /// What the AuthPolicy of the route presents the caller as. In shadow it refuses nobody; one on trial beside it only says what it
    /// would have said of those who are let through.
    async fn admit_by(&mut self, route: &RoutePlan, request: &Request<'_>) -> Result<Presented, Denial> {
        let auth = match &route.auth {
            Attached::Active(auth) => auth,
            Attached::Broken(name) => return Err(policy::broken(name)),
            Attached::None if self.gate.settings.without_policy == Fallback::Allow => return Ok(Presented::default()),
            Attached::None => return Err(Denial::new(Code::RouteNoPolicy, "this route has no policy")),
        };
        let presented = match self.authorise(auth, request).await {
            Ok(presented) => presented,
            Err(denial) if auth.shadow => {
                self.evidence.note_shadowed(denial, auth);
                return Ok(Presented::default());
            }
            Err(denial) => return Err(denial),
        };
        if let Some(trial) = &auth.trial {
            self.try_out(trial, request).await;
        }
        Ok(presented)
    }

    /// What the rules of the AuthPolicy say: who calls, what is known of them, whether they may, and what the limits see of them.
    async fn authorise(&mut self, auth: &AuthPlan, request: &Request<'_>) -> Result<Presented, Denial> {
        let rules = &*auth.rules;
        if let Some(broken) = &rules.broken {
            return Err(policy::broken(broken));
        }
        self.evidence.policy(auth);
        if !applies(rules, request.attributes(Unset::Empty))? {
            self.evidence.policy_skipped = true;
            return Ok(Presented::default());
        }
        self.evidence.lap(Stage::Route);
        let mut reviews = Reviews::default();
        let mut caller = self.identify(rules, request, &mut reviews).await?;
        self.evidence.authentication = caller.rule.map(|rule| Arc::clone(&rule.name));
        self.evidence.lap(Stage::Identity);
        self.learn(auth, &mut caller).await?;
        self.evidence.tier(&caller);
        check_tier(rules, &caller, self.gate.settings.tier_unknown)?;
        self.evidence.lap(Stage::Facts);
        match self.permit(rules, &caller, request.model).await {
            // The limits are for the caller all the same.
            Err(denial) if auth.shadow => self.evidence.note_shadowed(denial, auth),
            permitted => permitted?,
        }
        self.evidence.lap(Stage::Access);
        present(rules, &caller)
    }

    /// When the request has waited long enough, for whatever: one bound for all that it waits for.
    fn until(&mut self) -> Instant {
        *self.until.get_or_insert_with(|| Instant::now() + DEADLINE)
    }
}
