//! What an answer comes to in each limit that let its call through.

use std::sync::Arc;

use smallvec::SmallVec;

use super::{Bounds, Hold, MAX_COST, ModelId, Reached, Reservation};
use crate::expression::{CostError, EvalError, TokenCost, Used};
use crate::limit::{Due, Limits, Rise};
use crate::rules::LimitKind;

/// A limit that refuses nobody would gather debt for ever, and shut its callers out for as long once it is enforced.
const SHADOW_DEBT_WINDOWS: u32 = 10;

/// An answer, for the limits that let its call through.
#[derive(Debug)]
pub(super) struct Answer<'a> {
    pub(super) limits: &'a Limits,
    pub(super) reservation: &'a Reservation,
    /// `None` for a request that the gateway refused.
    pub(super) used: Option<Used>,
    pub(super) bounds: Bounds,
}

/// What is due for an answer.
#[derive(Debug, Default)]
pub(super) struct Dues {
    /// One for each hold, in their order; in tokens until [`Dues::price`].
    pub(super) due: SmallVec<[Due; 2]>,
    /// Those of limits with a cost.
    priced: Vec<Priced>,
    /// Why a cost has no value, and what is charged in its place.
    pub(super) fault: Option<Box<str>>,
}

/// What is due for an answer that has a price.
#[derive(Debug)]
struct Priced {
    /// Its place among all that are due.
    at: usize,
    cost: Arc<TokenCost>,
}

// === impl Answer ===

impl Answer<'_> {
    /// What is due to the cell of each hold, costs aside.
    pub(super) fn dues(&self) -> Dues {
        let mut dues = Dues::default();
        for hold in &self.reservation.holds {
            let due = self.due(hold, &mut dues);
            dues.due.push(due);
        }
        dues
    }

    /// What keeps the place of a call that runs, in each limit of such calls; `None` if there is none.
    pub(super) fn places(&self) -> Option<SmallVec<[Due; 2]>> {
        let Dues { mut due, .. } = self.dues();
        for (due, hold) in due.iter_mut().zip(&self.reservation.holds) {
            due.used = hold.of.held;
        }
        due.iter().any(Due::counts_calls).then_some(due)
    }

    /// What is due to the cell of one. A request counts as the one that it is, whatever its limit allows now, but where the gateway
    /// refused it; a limit that is gone for long is not charged.
    fn due(&self, hold: &Hold, dues: &mut Dues) -> Due {
        let rate = self.limits.rate(hold.of.cell, self.reservation.route);
        let quota = rate.as_ref().map(|rate| rate.quota);
        let watched = rate.as_ref().is_some_and(|rate| rate.notify.is_some());
        let (quota, used) = match (hold.kind, self.used) {
            // A call that is over does not run.
            (LimitKind::Requests, _) if quota.is_some_and(|quota| quota.counts_calls()) => (quota, 0),
            // What it took is there, unless the process before lost it.
            (LimitKind::Requests, Some(_)) => (quota, hold.of.held),
            (LimitKind::Tokens, Some(used)) => {
                if let Some(cost) = rate.and_then(|rate| rate.cost) {
                    dues.priced.push(Priced { at: dues.due.len(), cost });
                }
                (quota, used.total)
            }
            (_, None) => (quota, 0),
        };
        let debt_windows = match hold.shadow {
            true => self.bounds.debt_windows.min(SHADOW_DEBT_WINDOWS),
            false => self.bounds.debt_windows,
        };
        Due { hold: hold.of, quota, used, debt_windows, watched }
    }

    /// The parts of a limit that its use came to as it rose.
    pub(super) fn reached(&self, rise: &Rise) -> Option<Reached> {
        let hold = self.reservation.holds.get(rise.at)?;
        let rate = self.limits.rate(hold.of.cell, self.reservation.route)?;
        let reached = Reached::by(rate.notify.as_ref()?, &rate.name, hold.kind, rise.before, rise.standing)?;
        Some(Reached { shadow: hold.shadow, ..reached })
    }

    /// What the answer costs by `cost`, bounded by nothing.
    fn evaluated(&self, cost: &TokenCost, used: &Used) -> Result<u64, CostError> {
        let Reservation { model, model_name, .. } = self.reservation;
        // The cost is newer than the call, so that nobody knew that its name would be asked for; or the name was cut.
        if cost.looks_at_model() && model.is_known() && ModelId::of(model_name) != *model {
            let why = "looks at the model, whose name this call does not tell in full";
            return Err(CostError::Unknown(EvalError::Failed(why.to_owned())));
        }
        cost.tokens(used, model_name)
    }

    /// What is charged where nobody can tell the cost: what was held, which is in the unit of the limit, and in proportion more where
    /// the answer used more tokens than were expected of it. So a slip makes no answer free, and few long ones cheap. A hold may have been
    /// of less than was expected, as its body bounds it or as little was left: how many tokens that were is not known, except where no
    /// limit had a cost then. Where nothing was held there is no number in that unit, and its tokens are charged.
    fn unknown(&self, used: &Used, held: u64) -> u64 {
        if held == 0 {
            return used.total;
        }
        let guess = (self.reservation.forecast.guess.ceil() as u64).max(1);
        let expected = if self.reservation.is_priced { guess } else { guess.min(held) };
        let in_proportion = (u128::from(held) * u128::from(used.total)).div_ceil(u128::from(expected));
        u64::try_from(in_proportion).unwrap_or(MAX_COST).clamp(held, MAX_COST.max(held))
    }
}

// === impl Dues ===

impl Dues {
    /// Whether a limit has a cost.
    pub(super) fn have_prices(&self) -> bool {
        !self.priced.is_empty()
    }

    /// Makes what is due to limits with a cost what the `answer` costs by it: the same for all rates of one limit.
    pub(super) fn price(&mut self, answer: &Answer<'_>) {
        let Some(used) = answer.used else { return };
        // The rates of one limit are beside each other, and share its cost.
        for rates in std::mem::take(&mut self.priced).chunk_by(|one, next| Arc::ptr_eq(&one.cost, &next.cost)) {
            let Some(Priced { cost, .. }) = rates.first() else { continue };
            let holds = rates.iter().filter_map(|rate| self.due.get(rate.at)).map(|due| due.hold.held);
            let held = holds.max().unwrap_or(0);
            let price = self.priced(cost, answer, &used, held);
            for rate in rates {
                if let Some(due) = self.due.get_mut(rate.at) {
                    due.used = price;
                }
            }
        }
    }

    /// What the answer costs by `cost`, of whose limit so much was `held`. What used nothing costs nothing.
    fn priced(&mut self, cost: &TokenCost, answer: &Answer<'_>, used: &Used, held: u64) -> u64 {
        if used.total == 0 {
            return 0;
        }
        let (charged, why) = match answer.evaluated(cost, used) {
            Ok(price @ 0..=MAX_COST) => return price,
            Ok(price) => (MAX_COST, format!("yields {price}")),
            // It is charged no less than what is merely large.
            Err(CostError::Beyond(error)) => (MAX_COST, error.to_string()),
            Err(CostError::Unknown(error) | CostError::Impossible(error)) => {
                (answer.unknown(used, held), error.to_string())
            }
        };
        self.fault.get_or_insert_with(|| format!("`{}` {why}: charged {charged}", cost.source()).into());
        charged
    }
}
