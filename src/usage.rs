//! Usage: what a model's answer cost, reported after it, charged to the limits that let the request through.
//!
//! [`Reports`] takes what a gateway reports, whichever [`Channel`] it comes over.

mod bound;
mod call;
mod channel;
mod due;
mod estimate;
mod forecast;
pub mod ledger;
mod metrics;
mod notices;
mod outstanding;
mod reports;
mod reservation;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

pub use self::bound::most_tokens;
pub use self::call::{COUNTED, is_call, is_counted};
pub use self::channel::Channel;
pub use self::forecast::{Calling, Forecast, Forecasts};
pub use self::ledger::{Ledger, LedgerMetrics};
pub use self::metrics::{Correction, Passed, UsageMetrics};
pub use self::notices::{Caller, Reached};
pub use self::reports::Reports;
pub use self::reservation::{Hold, ModelId, Reservation, Sealer, Terms};

pub(crate) use self::metrics::{Named, OTHER, policy_and_limit};

use self::due::Answer;
use self::estimate::Rates;
use smallvec::SmallVec;

use crate::clock::Nanos;
use crate::expression::Used;
use crate::limit::{self, Due, Earlier, Limits, Quality, Quota, Settled};
use crate::rules::LimitKind;

/// The largest number that one report may carry: Envoy's own cap on `hits_addend` of a descriptor.
pub const MAX_HITS: u64 = 1_000_000_000;

/// The most that one answer counts by the cost of a limit, in the limit's unit: as much as the largest limit allows. It leaves room for
/// half a million units a token at [`Bounds::ANSWER`]. What a cell cannot count of it is not charged: see [`limit::Cell::room`].
pub const MAX_COST: u64 = Quota::MAX_LIMIT;

/// What a stream's first event may tell of the output, where nothing but its last one tells it again.
const FIRST_OUTPUT: u64 = 8;

/// What one report may cost its caller, whatever it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The most tokens that one answer counts; a cost of a limit prices no more.
    pub answer: u64,
    /// After so many windows a debt is over.
    pub debt_windows: u32,
    /// After so long an answer that nobody reported is counted as unsettled.
    pub call_time: Duration,
    /// A report that comes so long after its Check is not taken.
    pub settle_within: Duration,
}

/// What a gateway reports of one answer. Each number is there only if the gateway knew it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub usage: Usage,
    /// The answer's status; 0 where the client left before there was one.
    pub status: Option<u64>,
    /// The bytes of the answer's body that were sent.
    pub bytes: Option<u64>,
    /// The bytes of the request's body.
    pub request_bytes: Option<u64>,
    /// Whether the request asked for a stream.
    pub streamed: bool,
    /// Whether the end of the answer was seen.
    pub ended: Option<bool>,
    /// Whether nothing of the request came to a model: the gateway refused it after its Check, or the client left before.
    pub unsent: bool,
}

/// What the model says that an answer cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub total: Option<u64>,
    pub input: Option<u64>,
    pub output: Option<u64>,
    pub cached: Option<u64>,
    pub reasoning: Option<u64>,
}

/// What became of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Settlement {
    /// Charged this many tokens.
    Settled(u64),
    /// Charged this many, as its bytes tell: it had no usage.
    Estimated(u64),
    /// It had no usage, and costs nothing: a refusal or failure of the model, an answer without a byte, a request for which no
    /// model writes.
    NoUsage,
    /// This reservation was settled before.
    Duplicate,
    /// It was settled before, by a report as good as this one which says another number.
    Conflicting,
    /// It comes later than [`Bounds::settle_within`].
    Late,
    /// Not a reservation of ours.
    Unknown,
}

/// A settlement, and what of the report was not charged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charged {
    pub settlement: Settlement,
    /// The tokens that the answer is said to have used, where these are more than [`Bounds::answer`].
    pub cut: Option<u64>,
    /// Why the cost of a limit has no value of at most [`MAX_COST`], and what was charged in its place.
    pub cost_fault: Option<Box<str>>,
    /// By how much more than an earlier report said, or less, the limit of each hold was charged, in the unit of its cost; in the order of
    /// the reservation's holds. Empty where nothing was.
    pub charges: SmallVec<[i64; 2]>,
    /// Whether a debt was cut at [`Bounds::debt_windows`].
    pub debt_cut: bool,
    /// Whether the call ran longer than [`Bounds::call_time`], so that it was not counted any more among those that run.
    pub overran: bool,
    /// What an earlier report said, which this one corrects.
    pub before: Option<u64>,
    /// How well it is known now what the answer cost.
    pub quality: Quality,
    /// Parts of limits that it has reached.
    pub reached: Vec<Reached>,
}

/// Settles reservations, each once.
#[derive(Debug, Default)]
pub struct Settlements {
    bounds: Bounds,
    rates: Rates,
    forecasts: Arc<Forecasts>,
}

/// What a report says that an answer used.
#[derive(Clone, Copy, Debug)]
struct Said {
    quality: Quality,
    used: Used,
}

// === impl Usage ===

impl Usage {
    /// The tokens that a limit counts: the total, or what it is the sum of.
    #[must_use]
    pub fn tokens(&self) -> Option<u64> {
        self.total.or_else(|| match (self.input, self.output) {
            (None, None) => None,
            (input, output) => Some(input.unwrap_or(0).saturating_add(output.unwrap_or(0))),
        })
    }

    /// The same of an answer of `total` tokens, complete: what of them is not the prompt's is the answer's, known or not.
    fn used(&self, total: u64) -> Used {
        let input = self.input.unwrap_or_else(|| self.output.map_or(0, |output| total.saturating_sub(output)));
        let output = self.output.unwrap_or(0).max(total.saturating_sub(input));
        let (cached, reasoning) = (self.cached.unwrap_or(0).min(input), self.reasoning.unwrap_or(0).min(output));
        Used { input, output, cached, reasoning, total }
    }
}

// === impl Bounds ===

impl Bounds {
    /// A long context, read and answered twice.
    pub const ANSWER: u64 = 2_000_000;
    /// A debt is paid by time alone.
    pub const DEBT_WINDOWS: u32 = u32::MAX;
    /// The longest call.
    pub const CALL_TIME: Duration = Duration::from_secs(15 * 60);
    /// Longer than any stream.
    pub const SETTLE_WITHIN: Duration = Duration::from_secs(2 * 3600);
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            answer: Self::ANSWER,
            debt_windows: Self::DEBT_WINDOWS,
            call_time: Self::CALL_TIME,
            settle_within: Self::SETTLE_WITHIN,
        }
    }
}

// === impl Report ===

impl Report {
    /// Takes a number by the name that it is reported under. Names that nothing is decided by (`chunks`, `duration_ms` …) are
    /// passed over.
    pub fn note(&mut self, name: &str, number: u64) {
        let field = match name {
            "total" => &mut self.usage.total,
            "input" => &mut self.usage.input,
            "output" => &mut self.usage.output,
            "cached" => &mut self.usage.cached,
            "reasoning" => &mut self.usage.reasoning,
            "status" => &mut self.status,
            "bytes" => &mut self.bytes,
            "request_bytes" => &mut self.request_bytes,
            "stream" => {
                self.streamed = number > 0;
                return;
            }
            "ended" => {
                self.ended = Some(number > 0);
                return;
            }
            _ => return,
        };
        // A report may have a total in the words of several APIs, of which the answer speaks one.
        *field = (*field).max(Some(number));
    }

    /// Whether the model has not said all that the answer cost: nothing, a total of 0, or the prompt alone, as of a stream that its
    /// client left.
    fn is_partial(&self) -> bool {
        let Usage { total, input, output, .. } = self.usage;
        total.unwrap_or(0) == 0 && (output.is_none() || (input, output) == (Some(0), Some(0)))
    }

    /// Whether an answer that broke off had told its output as it went. Messages tell it in their first event, of a few tokens, and then
    /// at their end alone.
    fn has_running_total(&self) -> bool {
        self.usage.output.is_some_and(|output| output > FIRST_OUTPUT)
    }

    /// Whether an answer without usage has cost something all the same. A gateway that says no status answered; a client that left before
    /// the first byte had called a model, and so had one who was given up for taking too long.
    fn has_answer(&self) -> bool {
        let is_cut = self.status == Some(0) || self.ended == Some(false) || (self.streamed && self.ended.is_none());
        !self.has_failed() && (is_cut || self.bytes != Some(0))
    }

    /// Whether the model answered with an error, or could not be reached.
    fn has_failed(&self) -> bool {
        // What the gateway says of an answer that was cut off is not the model's word.
        let is_cut = self.ended == Some(false);
        self.status.is_some_and(|status| status >= if is_cut { 600 } else { 400 })
    }
}

// === impl Settlements ===

impl Settlements {
    /// Settles within `bounds`; `forecasts` learn by it.
    #[must_use]
    pub fn new(bounds: Bounds, forecasts: Arc<Forecasts>) -> Self {
        Settlements { bounds, forecasts, rates: Rates::default() }
    }

    /// Charges what `report` says to every token limit of `reservation` that is still there, by what the limit allows now.
    pub async fn settle(&self, limits: &Limits, reservation: &Reservation, report: &Report, now: Nanos) -> Charged {
        let at = limits.time(now);
        if reservation.minted.saturating_add(self.bounds.settle_within) < at {
            self.free_places(limits, reservation, now).await;
            return Settlement::Late.into();
        }
        let said = self.said(reservation, report);
        let used = said.used.at_most(self.bounds.answer);
        let tokens = used.total;
        // Who leaves early, or comes while the model is away, keeps what the request took: else asking would be free.
        let is_refused = report.unsent && report.status.is_some_and(|status| (400..500).contains(&status));
        let used = (!is_refused).then_some(used);
        let answer = Answer { limits, reservation, used, bounds: self.bounds };
        let mut dues = answer.dues();
        let told = limit::Report {
            instance: reservation.instance,
            serial: reservation.serial,
            minted: reservation.minted,
            quality: said.quality,
            tokens,
            due: &[],
        };
        // A cost is not evaluated for a report that comes again.
        let refused = if dues.have_prices() { limits.refuses(&told, now) } else { None };
        let settled = match refused {
            Some(refused) => refused,
            None => {
                dues.price(&answer);
                limits.settle(&limit::Report { due: &dues.due, ..told }, now).await
            }
        };
        let (before, debt_cut, rises, overran) = match settled {
            Settled::Applied { before, debt_cut, rises, overran } => (before, debt_cut, rises, overran),
            Settled::Duplicate { conflicting: true } => return Settlement::Conflicting.into(),
            Settled::Duplicate { conflicting: false } => return Settlement::Duplicate.into(),
            Settled::Late => return Settlement::Late.into(),
        };
        if before.is_none() && reservation.is_call && !report.unsent && !report.has_failed() {
            let time = Duration::from_micros(at.0.saturating_sub(reservation.minted.0));
            self.forecasts.ran(reservation.model, time, at);
        }
        let is_final = said.quality == Quality::Final;
        if is_final && said.used.total == tokens && !report.has_failed() && !report.unsent {
            self.rates.learn(reservation.model, report, now);
            if let Some(calling) = reservation.calling() {
                self.forecasts.learn(calling, reservation.forecast, &report.usage, at);
            }
        }
        Charged {
            settlement: Settlement::of(said.quality, &report.usage, tokens),
            cut: Some(said.used.total).filter(|said| *said > tokens),
            cost_fault: dues.fault,
            charges: charges(&dues.due, before.as_ref()),
            debt_cut,
            overran,
            before: before.map(|before| before.tokens),
            quality: said.quality,
            reached: rises.iter().filter_map(|rise| answer.reached(rise)).collect(),
        }
    }

    /// Has a call keep its place in limits of calls that run, which its gateway says that it does.
    pub async fn renew(&self, limits: &Limits, reservation: &Reservation, now: Nanos) {
        let Reservation { instance, serial, minted, .. } = *reservation;
        let answer = Answer { limits, reservation, used: None, bounds: self.bounds };
        if let Some(due) = answer.places() {
            let running = limit::Report { instance, serial, minted, quality: Quality::Running, tokens: 0, due: &due };
            let _ = limits.settle(&running, now).await;
        }
    }

    /// Frees the places of a call that is over, whatever else of its report comes too late.
    #[cold]
    async fn free_places(&self, limits: &Limits, reservation: &Reservation, now: Nanos) {
        let Reservation { instance, serial, minted, .. } = *reservation;
        let answer = Answer { limits, reservation, used: None, bounds: self.bounds };
        let Some(mut due) = answer.places() else { return };
        for due in &mut due {
            match due.counts_calls() {
                true => due.used = 0,
                false => due.quota = None,
            }
        }
        let over = limit::Report { instance, serial, minted, quality: Quality::Final, tokens: 0, due: &due };
        let _ = limits.settle(&over, now).await;
    }

    /// What the answer cost, and how well that is known.
    fn said(&self, reservation: &Reservation, report: &Report) -> Said {
        let model = reservation.model;
        let by_bytes = || report.bytes.map(|_| self.rates.estimate(model, report));
        // Where nothing is known but what was expected.
        let expected = || {
            let total = (reservation.forecast.guess.ceil() as u64).max(1);
            Used::estimated(total, self.rates.prompt(model, report))
        };
        match report.usage.tokens() {
            _ if report.unsent => Said { quality: Quality::Final, used: Used::default() },
            _ if report.is_partial() && reservation.is_call && report.has_answer() => {
                Said { quality: Quality::Estimate, used: by_bytes().unwrap_or_else(expected) }
            }
            Some(tokens) if report.ended == Some(false) && reservation.is_call => {
                let least = if report.has_running_total() { None } else { by_bytes() };
                let total = least.map_or(tokens, |bytes| bytes.total.max(tokens));
                Said { quality: Quality::Counted, used: report.usage.used(total) }
            }
            Some(tokens) => Said { quality: Quality::Final, used: report.usage.used(tokens) },
            None => Said { quality: Quality::Final, used: Used::default() },
        }
    }
}

// === impl Charged ===

impl Charged {
    /// Whether the report was the first that its call was settled by.
    fn is_first(&self) -> bool {
        let is_settled = !matches!(
            self.settlement,
            Settlement::Duplicate | Settlement::Conflicting | Settlement::Late | Settlement::Unknown
        );
        is_settled && self.before.is_none()
    }
}

impl From<Settlement> for Charged {
    fn from(settlement: Settlement) -> Self {
        Charged {
            settlement,
            cut: None,
            cost_fault: None,
            charges: SmallVec::new(),
            debt_cut: false,
            overran: false,
            before: None,
            quality: Quality::Final,
            reached: Vec::new(),
        }
    }
}

/// By how much more each cell was charged than an `earlier` report said, or less.
fn charges(due: &[Due], earlier: Option<&Earlier>) -> SmallVec<[i64; 2]> {
    let said = |at: usize| earlier.and_then(|earlier| earlier.used.get(at)).copied().unwrap_or(0);
    // One answer is charged far less than the largest number, whatever it says.
    let number = |hits: u64| i64::try_from(hits).unwrap_or(i64::MAX);
    let charge = |(at, due): (usize, &Due)| number(due.used) - number(said(at));
    due.iter().enumerate().map(charge).collect()
}

// === impl Reservation ===

impl Reservation {
    /// Whose call it is, as far as somebody expected it to cost something.
    fn calling(&self) -> Option<Calling> {
        if self.forecast.guess <= 0.0 {
            return None;
        }
        let hold = self.holds.iter().find(|hold| hold.kind == LimitKind::Tokens)?;
        Some(Calling { model: self.model, account: hold.of.account })
    }
}

// === impl Settlement ===

impl Settlement {
    /// One of each.
    pub const ALL: [Settlement; 7] = [
        Settlement::Settled(0),
        Settlement::Estimated(0),
        Settlement::NoUsage,
        Settlement::Duplicate,
        Settlement::Conflicting,
        Settlement::Late,
        Settlement::Unknown,
    ];

    /// By a report of this quality, on which so many tokens were charged.
    fn of(quality: Quality, usage: &Usage, tokens: u64) -> Self {
        match quality {
            Quality::Final if usage.tokens().is_none() => Settlement::NoUsage,
            Quality::Final => Settlement::Settled(tokens),
            Quality::Counted | Quality::Estimate | Quality::Running => Settlement::Estimated(tokens),
        }
    }

    /// The metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Settlement::Settled(_) => "settled",
            Settlement::Estimated(_) => "estimated",
            Settlement::NoUsage => "no_usage",
            Settlement::Duplicate => "duplicate",
            Settlement::Conflicting => "conflicting",
            Settlement::Late => "late",
            Settlement::Unknown => "unknown",
        }
    }
}
