//! Admission: what a request asks of the limits that match it, all of it or nothing.

use std::time::Duration;

use smallvec::SmallVec;

use super::present::Presented;
use super::{Deciding, Fallback, Grant, LimitEvidence, Stage};
use crate::denial::{Code, Denial};
use crate::expression::Scope;
use crate::limit::{AccountKey, Admission, Cost, Demand, Outcome, Undecided};
use crate::policy::{self, Attached, Limit, Matched, RoutePlan};
use crate::request::{Request, Unset};
use crate::rules::LimitKind;
use crate::usage::{self, Hold, ModelId, Terms};

/// A request that passes, if its limits let it.
#[derive(Debug, Default)]
pub(super) struct Candidate {
    pub(super) grant: Grant,
    pub(super) demands: Demands,
    /// What limits that refuse nothing would take.
    pub(super) shadow: Vec<Demand>,
}

pub(super) type Demands = SmallVec<[Demand; 2]>;

// === impl Deciding ===

impl Deciding<'_> {
    /// The request of a caller who is `presented` to the limits.
    pub(super) fn candidate(
        &mut self,
        route: &RoutePlan,
        request: &Request<'_>,
        presented: Presented,
    ) -> Result<Candidate, Denial> {
        let (request, identity) = (request.attributes(Unset::Empty), presented.identity());
        let scope = Scope { request, identity, metadata: &[], filters: &presented.filters };
        let demands = self.demand(route, &scope)?;
        let shadow = self.shadow_demands(route, &scope);
        Ok(Candidate { grant: Grant::new(presented), demands, shadow })
    }

    /// What the request asks of the limits that match it.
    pub(super) fn demand(&mut self, route: &RoutePlan, scope: &Scope<'_>) -> Result<Demands, Denial> {
        let (gate, evidence) = (self.gate, &mut self.evidence);
        evidence.passed = Some(Stage::Access);
        let mut matched: SmallVec<[Matched<'_>; 2]> = SmallVec::new();
        for limits in &route.limits {
            match limits {
                Attached::Active(limits) => limits.matching(scope, &gate.keys, &mut matched)?,
                Attached::Broken(name) => return Err(policy::broken(name)),
                Attached::None => {}
            }
        }
        evidence.unlimited = matched.is_empty();
        if matched.is_empty() && gate.settings.without_limit == Fallback::Refuse {
            return Err(Denial::new(Code::LimitNone, "no limit is configured for you"));
        }
        let (method, path) = (scope.request.method, scope.request.path);
        evidence.is_call = usage::is_call(method, path);
        let has_token_limit = matched.iter().any(|Matched { limit, .. }| limit.kind == LimitKind::Tokens);
        if gate.settings.uncounted == Fallback::Refuse
            && has_token_limit
            && evidence.is_call
            && !usage::is_counted(path)
        {
            return Err(uncounted());
        }
        let mut demands = Demands::new();
        for Matched { limit, account } in matched {
            evidence.key(limit, scope);
            // One by one: `extend` sets up for many, and there are two.
            for demand in limit.demands(account, route) {
                demands.push(demand);
                evidence.limits.push(LimitEvidence::new(limit));
            }
        }
        Ok(demands)
    }

    /// Takes what the request costs, all of it or nothing.
    pub(super) async fn admit(&mut self, candidate: Candidate) -> Result<Grant, Denial> {
        let Admission { outcome, standings } = self.gate.limits.admit(&candidate.demands, self.now).await;
        self.evidence.accounts_full = outcome == Outcome::Undecided(Undecided::Full);
        for (limit, standing) in self.evidence.limits.iter_mut().zip(standings) {
            limit.standing = Some(standing);
        }
        match outcome {
            Outcome::Admitted => {}
            Outcome::Exceeded => return Err(exceeded(self.evidence.refusing())),
            Outcome::Undecided(Undecided::Full) if self.gate.settings.without_room == Fallback::Allow => {
                // Its usage report is taken, and charged to nothing.
                let reservation = self.reserve(&[]);
                return Ok(Grant { reservation, ..candidate.grant });
            }
            Outcome::Undecided(why) => return Err(undecided(why)),
        }
        self.admit_in_shadow(&candidate).await;
        let Candidate { grant, mut demands, shadow } = candidate;
        for demand in shadow {
            demands.push(demand);
        }
        let reservation = self.reserve(&demands);
        self.evidence.lap(Stage::Admission);
        Ok(Grant { reservation, ..grant })
    }

    /// What the usage report gives back, so that its tokens are charged to the token limits among `demands`.
    pub(super) fn reserve(&self, demands: &[Demand]) -> String {
        let mut holds: SmallVec<[Hold; 2]> = SmallVec::new();
        for Demand { account, cell, cost, .. } in demands {
            if *cost == Cost::Postpaid {
                holds.push(Hold { account: *account, cell: *cell });
            }
        }
        let evidence = &self.evidence;
        let tier = evidence.tier.as_deref().unwrap_or_default();
        let model = evidence.permit.model.as_deref().map_or(ModelId::NONE, ModelId::of);
        self.gate.sealer.seal(
            &Terms { is_call: evidence.is_call, tier, model, route: evidence.route_hash, holds: &holds },
            self.gate.limits.time(self.now),
        )
    }
}

/// The refusal of a call whose tokens nobody could count.
fn uncounted() -> Denial {
    let paths = usage::COUNTED.join(", ");
    let message = "you have a token limit, and what this call costs cannot be read from its answer";
    Denial::new(Code::RequestUncounted, format!("{message}: call a path that ends in one of {paths}"))
        .detail("see --uncounted")
}

/// The answer where nobody can tell whether the limits let the request through.
fn undecided(why: Undecided) -> Denial {
    match why {
        Undecided::Full => Denial::new(Code::UnavailableAccounts, "there is no room to count another caller")
            .detail("see --max-accounts"),
        Undecided::NoAnswer => Denial::new(Code::UnavailableInternal, "the limits cannot be asked"),
    }
}

/// The refusal by the limit that takes longest to let this request through.
pub(super) fn exceeded(refusing: Option<(Option<Duration>, &LimitEvidence)>) -> Denial {
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
    pub(super) fn demands(&self, account: AccountKey, route: &RoutePlan) -> impl Iterator<Item = Demand> {
        self.cells(route.hash).map(move |(cell, quota)| Demand { account, cell, quota, cost: self.cost() })
    }

    /// What a request costs before its answer is known.
    fn cost(&self) -> Cost {
        match self.kind {
            LimitKind::Requests => Cost::Take(1),
            LimitKind::Tokens => Cost::Postpaid,
        }
    }
}
