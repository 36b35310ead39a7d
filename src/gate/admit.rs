//! Admission: what a request asks of the limits that match it, all of it or nothing.

use std::time::Duration;

use smallvec::SmallVec;

use super::present::Presented;
use super::{Deciding, EnforceLimits, Fallback, Grant, LimitEvidence, Reserving, Stage};
use crate::clock::Micros;
use crate::denial::{Code, Denial};
use crate::expression::{Scope, TokenCost, undecided as no_value};
use crate::limit::{self, Admission, Cost, Demand, Outcome, Quota, Span, Standing, Undecided, Verdict};
use crate::policy::{self, Attached, Limit, Matched, RoutePlan};
use crate::request::{Body, HeaderLookup, Request, Unset};
use crate::rules::{LimitKind, TokenAdmission};
use crate::usage::{self, Calling, Forecast, Hold, ModelId, Terms};

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
        evidence.model = evidence.permit.model.as_deref().map_or(ModelId::NONE, ModelId::of);
        let has_token_limit = matched.iter().any(|Matched { limit, .. }| limit.kind == LimitKind::Tokens);
        if gate.settings.uncounted == Fallback::Refuse
            && has_token_limit
            && evidence.is_call
            && !usage::is_counted(path)
        {
            return Err(uncounted());
        }
        let expected = self.forecast(&matched, scope);
        let mut demands = Demands::new();
        for matched in matched {
            self.evidence.counts(matched.limit, scope, route);
            let want = match &matched.limit.cost {
                None => expected.want,
                Some(cost) => self.priced(cost, matched.limit, scope, expected)?,
            };
            if let Some(notify) = &matched.limit.notify {
                self.watch(notify, matched.limit, scope, false);
            }
            // One by one: `extend` sets up for many, and there are two.
            for demand in self.demands(matched, route, want) {
                self.evidence.limits.push(LimitEvidence::new(matched.limit, &demand.quota));
                demands.push(demand);
            }
        }
        Ok(demands)
    }

    /// What the call is expected to cost whoever its tokens are counted for; nothing where nobody reserves it.
    pub(super) fn forecast(&mut self, matched: &[Matched<'_>], scope: &Scope<'_>) -> Forecast {
        let counted = matched.iter().find(|matched| matched.limit.kind == LimitKind::Tokens);
        // What a second call takes is not known to the reservation, which Check has made before.
        let reserves = self.evidence.is_call && self.gate.settings.enforce_limits == EnforceLimits::Check;
        let Some(Matched { account, .. }) = counted.filter(|_| reserves) else { return Forecast::default() };
        let calling = Calling { model: self.evidence.model, account: *account };
        let forecast = self.gate.forecasts.forecast(calling, self.body_length(scope));
        self.evidence.forecast = match self.body {
            None => forecast,
            Some(body) => bounded(forecast, scope, body),
        };
        self.evidence.forecast
    }

    /// What the call is expected to cost by the `cost` of `limit`.
    ///
    /// # Errors
    ///
    /// The cost has no value for what is expected.
    #[cold]
    pub(super) fn priced(
        &mut self,
        cost: &TokenCost,
        limit: &Limit,
        scope: &Scope<'_>,
        expected: Forecast,
    ) -> Result<u64, Denial> {
        self.evidence.is_priced = true;
        self.evidence.priced_by_model |= cost.looks_at_model();
        if expected.want == 0 || limit.admission_under(self.gate.settings.reserving) == TokenAdmission::Positive {
            return Ok(0);
        }
        let used = self.gate.forecasts.split(self.evidence.model, self.body_length(scope), expected);
        let used = used.at_most(self.gate.settings.bounds.answer);
        let model = self.evidence.permit.model.as_deref().unwrap_or_default();
        let tokens = cost.tokens(&used, model);
        let tokens = tokens.map_err(|error| no_value(&format!("cost of limit {}", limit.name), error.eval()))?;
        Ok(tokens.min(usage::MAX_COST))
    }

    /// The bytes of the request's body, where it is there or the client says them.
    fn body_length(&self, scope: &Scope<'_>) -> Option<u64> {
        self.body.map_or_else(|| told_length(scope), |body| u64::try_from(body.bytes().len()).ok())
    }

    /// What a request asks of each of a limit's rates, which the call is expected to cost so much.
    pub(super) fn demands<'p>(
        &self,
        Matched { limit, account }: Matched<'p>,
        route: &RoutePlan,
        want: u64,
    ) -> impl Iterator<Item = Demand> + use<'p> {
        let reserving = self.gate.settings.reserving;
        let cells = limit.cells(route.hash);
        cells.map(move |(cell, quota)| Demand { account, cell, quota, cost: limit.ask(&quota, want, reserving) })
    }

    /// Takes what the request costs, all of it or nothing.
    pub(super) async fn admit(&mut self, candidate: Candidate) -> Result<Grant, Denial> {
        let Admission { outcome, standings, at, is_new } = self.gate.limits.admit(&candidate.demands, self.now).await;
        self.evidence.is_new_account = is_new;
        self.evidence.accounts_full = outcome == Outcome::Undecided(Undecided::Full);
        for (limit, standing) in self.evidence.limits.iter_mut().zip(standings) {
            limit.standing = Some(standing);
        }
        match outcome {
            Outcome::Admitted => {}
            Outcome::Exceeded => {
                self.guess_when_calls_end();
                return Err(exceeded(self.evidence.refusing()));
            }
            Outcome::Undecided(Undecided::Full) if self.gate.settings.without_room == Fallback::Allow => {
                // Its usage report is taken, and charged to nothing.
                let reservation = self.reserve(&[], &[], at);
                return Ok(Grant { reservation, ..candidate.grant });
            }
            Outcome::Undecided(why) => return Err(undecided(why)),
        }
        // INVARIANT: no hold of a limit that refuses seems made later than it was, which would give back what time has paid for, nor
        // earlier, which may give nothing back. Another account may be ahead; what a limit in shadow gets back may be a little wrong.
        let at = match self.admit_in_shadow(&candidate).await {
            Some(shadow_at) if candidate.demands.is_empty() => shadow_at,
            _ => at,
        };
        if !self.evidence.watched.is_empty() {
            self.evidence.note_reached();
        }
        let Candidate { grant, demands, shadow } = candidate;
        let reservation = self.reserve(&demands, &shadow, at);
        self.evidence.lap(Stage::Admission);
        Ok(Grant { reservation, ..grant })
    }

    /// Says of limits of calls that run when one of those may be over: as often as calls of this model end, where they are alike. Who runs
    /// them is not known.
    #[cold]
    fn guess_when_calls_end(&mut self) {
        let usual = self.usual_call_time();
        for limit in self.evidence.limits.iter_mut().filter(|limit| limit.span == Span::Running) {
            limit.standing = limit.standing.map(|standing| standing.guessing(usual));
        }
    }

    /// How long calls of the model that is asked for run, where that is known.
    pub(super) fn usual_call_time(&self) -> Option<Duration> {
        let model = self.evidence.permit.model.as_deref().map_or(ModelId::NONE, ModelId::of);
        self.gate.forecasts.call_time(model)
    }

    /// What the usage report gives back, so that what `demands`, and those in `shadow`, took at that time becomes what the answer cost.
    pub(super) fn reserve(&self, demands: &[Demand], shadow: &[Demand], at: Micros) -> String {
        let evidence = &self.evidence;
        let mut holds: SmallVec<[Hold; 2]> = SmallVec::new();
        for (demand, limit) in demands.iter().zip(&evidence.limits) {
            holds.push(limit.hold(demand));
        }
        for (demand, limit) in shadow.iter().zip(&evidence.shadow_limits) {
            holds.push(Hold { shadow: true, ..limit.hold(demand) });
        }
        // Whose report reaches a part of a limit is told as well.
        let names = self.gate.settings.reserving.names || !evidence.watched.is_empty();
        let priced_by_model = evidence.priced_by_model;
        let terms = Terms {
            is_call: evidence.is_call,
            is_priced: evidence.is_priced,
            decision: names.then_some(evidence.id),
            tier: evidence.tier.as_deref().unwrap_or_default(),
            model: evidence.model,
            model_name: evidence.permit.model.as_deref().filter(|_| names || priced_by_model).unwrap_or_default(),
            user: evidence.user.as_deref().filter(|_| names).unwrap_or_default(),
            route_name: evidence.route.as_deref().filter(|_| names).unwrap_or_default(),
            route: evidence.route_hash,
            forecast: evidence.forecast,
            holds: &holds,
        };
        self.gate.sealer.seal(&terms, at)
    }
}

// === impl LimitEvidence ===

impl LimitEvidence {
    /// What its rate took for `demand`; where a second call takes, nothing yet.
    fn hold(&self, Demand { account, cell, .. }: &Demand) -> Hold {
        let (held, mark) = self.standing.map_or((0, Micros(0)), |standing| (standing.held(), standing.mark()));
        Hold { kind: self.kind, shadow: false, of: limit::Hold { account: *account, cell: *cell, held, mark } }
    }
}

/// A forecast of a call that can cost no more than its body says. No shipped gateway sends bodies along.
#[cold]
fn bounded(forecast: Forecast, scope: &Scope<'_>, body: Body<'_>) -> Forecast {
    usage::most_tokens(scope.request.path, body).map_or(forecast, |most| forecast.at_most(most))
}

/// The bytes of the request's body, where the client says them.
fn told_length(scope: &Scope<'_>) -> Option<u64> {
    match scope.request.headers.map(|headers| headers.get("content-length")) {
        Some(HeaderLookup::One(length)) => length.parse().ok(),
        _ => None,
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
pub(super) fn undecided(why: Undecided) -> Denial {
    match why {
        Undecided::Full => Denial::new(Code::UnavailableAccounts, "there is no room to count another caller")
            .detail("see --max-accounts"),
        Undecided::NoAnswer => Denial::new(Code::UnavailableInternal, "the limits cannot be asked"),
    }
}

/// The refusal by the limit that takes longest to let this request through.
pub(super) fn exceeded(refusing: Option<(Option<Duration>, &LimitEvidence)>) -> Denial {
    let Some((retry_after, LimitEvidence { name, kind, span, standing: Some(standing) })) = refusing else {
        return Denial::new(Code::UnavailableInternal, "the limits gave no reason");
    };
    let (code, what) = match kind {
        LimitKind::Requests => (Code::LimitRequests, "requests"),
        LimitKind::Tokens => (Code::LimitTokens, "tokens"),
    };
    let mut denial = Denial::new(code, used_up(standing, what, *span)).detail(format!("limit {name}"));
    denial.retry_after = retry_after;
    denial
}

/// What the caller is told of the limit that refuses, which counts `what`.
fn used_up(standing: &Standing, what: &str, span: Span) -> String {
    let number = standing.limit();
    match (span, standing.remaining()) {
        (Span::Running, _) => {
            let running = format!("as many of your {what} run as may run {span}: {number}");
            match standing.verdict {
                // Nobody knows how long they run.
                Verdict::Exceeds(Some(wait)) => {
                    format!("{running}; one may be over in about {} s", wait.as_secs_f64().ceil())
                }
                _ => running,
            }
        }
        (_, 0) => format!("you have used your {number} {what} {span}"),
        (_, left) => format!("you have {left} of your {number} {what} {span} left, fewer than this call may cost"),
    }
}

// === impl Limit ===

impl Limit {
    /// What a request costs one rate before its answer is known. It has to find what it is expected to cost, or a part of the limit,
    /// whichever is less, and holds what is there of it.
    fn ask(&self, quota: &Quota, want: u64, reserving: Reserving) -> Cost {
        match (self.kind, self.admission_under(reserving)) {
            (LimitKind::Requests, _) => Cost::Take(1),
            (LimitKind::Tokens, TokenAdmission::Positive) => Cost::POSTPAID,
            (LimitKind::Tokens, TokenAdmission::Reserve) => {
                let most = ((quota.limit() as f64 * reserving.fraction) as u64).max(1);
                Cost::Hold { want, need: want.clamp(1, most) }
            }
        }
    }

    #[inline]
    fn admission_under(&self, reserving: Reserving) -> TokenAdmission {
        self.admission.unwrap_or(reserving.admission)
    }
}
