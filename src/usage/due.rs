//! What an answer comes to in each limit that let its call through.

use smallvec::SmallVec;

use super::{Bounds, Hold, Reservation};
use crate::expression::{EvalError, TokenCost, Used};
use crate::limit::{Due, Limits};
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
    /// One for each hold, in their order.
    pub(super) due: SmallVec<[Due; 2]>,
    /// What a cost came to that is more than an answer may.
    pub(super) cut: Option<u64>,
    /// Why a cost has no value.
    pub(super) fault: Option<Box<str>>,
}

// === impl Answer ===

impl Answer<'_> {
    /// What is due to the cell of each hold.
    pub(super) fn dues(&self) -> Dues {
        let mut dues = Dues::default();
        for hold in &self.reservation.holds {
            let due = self.due(hold, &mut dues);
            dues.due.push(due);
        }
        dues
    }

    /// What is due to the cell of one. A request counts as the one that it is, whatever its limit allows now, but where the gateway
    /// refused it; a limit that is gone for long is not charged.
    fn due(&self, hold: &Hold, dues: &mut Dues) -> Due {
        let rate = self.limits.rate(hold.of.cell, self.reservation.route);
        let quota = rate.as_ref().map(|rate| rate.quota);
        let (quota, used) = match (hold.kind, self.used) {
            (LimitKind::Requests, Some(_)) => (None, hold.of.held),
            (LimitKind::Tokens, Some(used)) => match rate.and_then(|rate| rate.cost) {
                Some(cost) => (quota, self.priced(&cost, &used, hold, dues)),
                None => (quota, used.total),
            },
            (_, None) => (quota, 0),
        };
        let debt_windows = match hold.shadow {
            true => self.bounds.debt_windows.min(SHADOW_DEBT_WINDOWS),
            false => self.bounds.debt_windows,
        };
        Due { hold: hold.of, quota, used, debt_windows }
    }

    /// What the answer costs by `cost`. What used nothing costs nothing; one that has no value costs what is held for it, or its tokens
    /// where these are more, so that a slip in a cost makes no answer free.
    fn priced(&self, cost: &TokenCost, used: &Used, hold: &Hold, dues: &mut Dues) -> u64 {
        if used.total == 0 {
            return 0;
        }
        match self.evaluated(cost, used) {
            Ok(tokens) => {
                if tokens > self.bounds.answer {
                    dues.cut = dues.cut.max(Some(tokens));
                }
                tokens.min(self.bounds.answer)
            }
            Err(error) => {
                dues.fault.get_or_insert_with(|| format!("`{}` {error}", cost.source()).into());
                used.total.max(hold.of.held)
            }
        }
    }

    fn evaluated(&self, cost: &TokenCost, used: &Used) -> Result<u64, EvalError> {
        let Reservation { model, model_name, .. } = self.reservation;
        // The cost is newer than the call: nobody knew that its name would be asked for.
        if cost.looks_at_model() && model_name.is_empty() && model.is_known() {
            return Err(EvalError::Failed("looks at the model, whose name this call does not tell".to_owned()));
        }
        cost.tokens(used, model_name)
    }
}
