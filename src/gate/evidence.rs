//! What a decision rests on: body, log, metrics and metadata are rendered from it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::access::AccessEvidence;
use super::notify::Watched;
use super::{Shadowed, Shown};
use crate::access::AccessSource;
use crate::cache::AnswerSource;
use crate::denial::Denial;
use crate::expression::{Properties, Scope};
use crate::gate::{Caller, Permit, Presented};
use crate::identity::Identity;
use crate::limit::{Quota, Span, Standing, Verdict};
use crate::policy::{AuthPlan, Limit, RoutePlan};
use crate::problem::ObjectName;
use crate::rules::LimitKind;
use crate::usage::{Forecast, ModelId, Reached};

/// One request in this many has its stages timed: reading the clock for each would cost more than some stages.
const TIMED: u64 = 16;

/// A decided request.
#[derive(Debug)]
pub struct Decision {
    pub outcome: Result<Grant, Denial>,
    pub evidence: Evidence,
}

/// What an admitted request is given.
#[derive(Debug, Default)]
pub struct Grant {
    /// Dynamic metadata, as the policy declares it.
    pub filters: Vec<(Arc<str>, Properties<'static>)>,
    /// Headers that the model receives, as the policy declares them.
    pub headers: Vec<(String, String)>,
    /// Comes back with the usage report.
    pub reservation: String,
    /// Where a second call takes from the limits: what it has to be told.
    pub handover: Option<Box<Handover>>,
    /// What the caller asked to be shown: it is the answer, in place of the model's.
    pub shown: Option<Box<Shown>>,
}

/// What limits look at, for a call that has no request.
#[derive(Debug)]
pub struct Handover {
    /// `namespace/name`
    pub gateway: Arc<str>,
    pub listener: Arc<str>,
    /// `auth.identity` of the limits, as JSON; null if there is none.
    pub identity: String,
    /// What the limits look at of filters of other names, as a JSON object.
    pub filters: String,
    /// The headers that routes and limits look at, as JSON; null for one that was not sent.
    pub headers: String,
}

/// What was found on the way to a decision, as far as it went.
#[derive(Debug)]
pub struct Evidence {
    /// Unique in this process's life; in the body, the log and the metadata.
    pub id: u64,
    /// Of the policy snapshot.
    pub generation: u64,
    /// The last stage that the request got through.
    pub passed: Option<Stage>,
    pub route: Option<Arc<str>>,
    /// What tells the route from others where each has cells of its own; 0 where none has.
    pub route_hash: u64,
    /// The rule of the route.
    pub rule: Option<Arc<str>>,
    /// The AuthPolicy that applies.
    pub policy: Option<Arc<ObjectName>>,
    /// Whether that policy's `when` leaves the request alone.
    pub policy_skipped: bool,
    pub user: Option<Arc<str>>,
    /// What the review of the token said, whether the policy accepted it or not.
    pub identity: Option<Arc<Identity>>,
    pub identity_source: Option<AnswerSource>,
    /// The rule of authentication that accepted the caller.
    pub authentication: Option<Arc<str>>,
    /// The tier that was enforced.
    pub tier: Option<Arc<str>>,
    /// Where the tier came from, if not from our own mapping.
    pub tier_source: Option<AnswerSource>,
    /// The tier that the caller's namespace is named for, where it is no longer configured.
    pub tier_gone: Option<Arc<str>>,
    /// The model is there as soon as it was asked for; the grantor, once there is one.
    pub permit: Permit,
    pub access: AccessEvidence,
    /// Whether changes may have been missed that would decide otherwise.
    pub outdated: bool,
    pub limits: SmallVec<[LimitEvidence; 2]>,
    /// Those that refuse nothing.
    pub shadow_limits: Vec<LimitEvidence>,
    /// What would have been said.
    pub shadowed: Vec<Shadowed>,
    /// The values that limits count under, by the limit's name; where they are to be told.
    pub keys: Option<Box<CounterKeys>>,
    /// Whether a model may write for the request.
    pub is_call: bool,
    /// The model that was asked for, as reservations name it.
    pub model: ModelId,
    /// What the call is expected to cost the token limits that reserve it.
    pub forecast: Forecast,
    /// Limits of which parts are told, and what they have come to.
    pub watched: Vec<Watched>,
    pub reached: Vec<Reached>,
    /// Whether a limit that matched has a cost.
    pub is_priced: bool,
    /// Whether the cost of a limit that matched looks at the model.
    pub priced_by_model: bool,
    /// Whether no limit matched the caller.
    pub unlimited: bool,
    /// Whether an account of the caller was not there before.
    pub is_new_account: bool,
    /// Whether there was no room for the caller's account.
    pub accounts_full: bool,
    /// How long the stages took, of one request in sixteen.
    pub stage_times: Option<Box<StageTimes>>,
}

/// One rate of a limit that matched.
#[derive(Clone, Debug)]
pub struct LimitEvidence {
    pub name: Arc<str>,
    pub kind: LimitKind,
    /// What its number is for.
    pub span: Span,
    /// Where it stands, once it was asked.
    pub standing: Option<Standing>,
}

/// A part of the decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    Route,
    Identity,
    Facts,
    Access,
    Limits,
    Admission,
}

/// By the kind and name of a limit.
pub type CounterKeys = HashMap<(LimitKind, Arc<str>), Vec<String>>;

/// How long each stage took.
#[derive(Debug)]
pub struct StageTimes {
    last: Instant,
    pub taken: SmallVec<[(Stage, Duration); 8]>,
}

// === impl Stage ===

impl Stage {
    pub const ALL: &'static [Stage] =
        &[Stage::Route, Stage::Identity, Stage::Facts, Stage::Access, Stage::Limits, Stage::Admission];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Route => "route",
            Stage::Identity => "identity",
            Stage::Facts => "facts",
            Stage::Access => "access",
            Stage::Limits => "limits",
            Stage::Admission => "admission",
        }
    }
}

// === impl LimitEvidence ===

impl LimitEvidence {
    /// Before the limit was asked.
    pub(super) fn new(limit: &Limit, quota: &Quota) -> Self {
        LimitEvidence { name: Arc::clone(&limit.name), kind: limit.kind, span: quota.span(), standing: None }
    }
}

// === impl Evidence ===

impl Evidence {
    #[must_use]
    #[inline]
    pub fn new(id: u64, generation: u64) -> Self {
        let timed = id.is_multiple_of(TIMED);
        Evidence {
            id,
            generation,
            passed: None,
            route: None,
            route_hash: 0,
            rule: None,
            policy: None,
            policy_skipped: false,
            user: None,
            identity: None,
            identity_source: None,
            authentication: None,
            tier: None,
            tier_source: None,
            tier_gone: None,
            permit: Permit::default(),
            access: AccessEvidence::default(),
            outdated: false,
            limits: SmallVec::new(),
            shadow_limits: Vec::new(),
            shadowed: Vec::new(),
            keys: None,
            is_call: false,
            model: ModelId::NONE,
            forecast: Forecast::default(),
            watched: Vec::new(),
            reached: Vec::new(),
            is_priced: false,
            priced_by_model: false,
            unlimited: false,
            is_new_account: false,
            accounts_full: false,
            stage_times: timed.then(|| Box::new(StageTimes { last: Instant::now(), taken: SmallVec::new() })),
        }
    }

    pub(super) fn route(&mut self, route: &RoutePlan) {
        self.route = Some(Arc::clone(&route.name));
        self.rule = Some(Arc::clone(&route.rule));
    }

    pub(super) fn policy(&mut self, auth: &AuthPlan) {
        self.policy = Some(Arc::clone(&auth.policy));
    }

    pub(super) fn identity(&mut self, identity: &Arc<Identity>) {
        self.user = Some(Arc::clone(&identity.user));
        self.identity = Some(Arc::clone(identity));
    }

    pub(super) fn tier(&mut self, caller: &Caller<'_>) {
        self.tier.clone_from(&caller.tier);
        self.tier_gone.clone_from(&caller.gone);
    }

    /// What `limit` counts under, for a request of `route` that it matched.
    pub(super) fn counts(&mut self, limit: &Limit, scope: &Scope<'_>, route: &RoutePlan) {
        if limit.per_route {
            self.route_hash = route.hash;
        }
        if let Some(keys) = &mut self.keys {
            keys.insert((limit.kind, Arc::clone(&limit.name)), limit.key(scope));
        }
    }

    /// Ends a stage.
    pub(super) fn lap(&mut self, stage: Stage) {
        self.passed = Some(stage);
        if let Some(times) = &mut self.stage_times {
            let now = Instant::now();
            times.taken.push((stage, now - times.last));
            times.last = now;
        }
    }

    /// Whether part of this is older than it should be, because the API server is away.
    #[must_use]
    pub fn stale(&self) -> bool {
        self.outdated
            || self.identity_source == Some(AnswerSource::Stale)
            || self.access.source == Some(AccessSource::Review(AnswerSource::Stale))
    }

    /// The limit that takes longest to let this request through, and how long that is; never is longer than any wait.
    #[must_use]
    pub fn refusing(&self) -> Option<(Option<Duration>, &LimitEvidence)> {
        Self::refusing_of(&self.limits)
    }

    pub(super) fn refusing_of(limits: &[LimitEvidence]) -> Option<(Option<Duration>, &LimitEvidence)> {
        let exceeded = limits.iter().filter_map(|limit| match limit.standing.as_ref()?.verdict {
            Verdict::Exceeds(wait) => Some((wait, limit)),
            Verdict::Fits => None,
        });
        exceeded.max_by_key(|(wait, _)| (wait.is_none(), *wait))
    }

    /// The request (or token) limit with the least left.
    #[must_use]
    pub fn most_restrictive(&self, kind: LimitKind) -> Option<&Standing> {
        let of_kind = self.limits.iter().filter(|limit| limit.kind == kind);
        let standings = of_kind.filter_map(|limit| limit.standing.as_ref());
        standings.min_by_key(|standing| (standing.remaining(), std::cmp::Reverse(standing.reset())))
    }
}

// === impl Grant ===

impl Grant {
    pub(super) fn new(presented: Presented) -> Self {
        let Presented { filters, headers } = presented;
        Grant { filters, headers, reservation: String::new(), handover: None, shown: None }
    }
}
