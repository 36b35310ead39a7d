//! Usage: what a model's answer cost, reported after it, charged to the limits that let the request through.
//!
//! [`Reports`] takes what a gateway reports, whichever [`Channel`] it comes over.

mod call;
mod channel;
mod estimate;
mod metrics;
mod reports;
mod reservation;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use parking_lot::Mutex;

pub use self::call::{COUNTED, is_call, is_counted};
pub use self::channel::Channel;
pub use self::metrics::{Correction, UsageMetrics};
pub use self::reports::Reports;
pub use self::reservation::{Hold, Instance, ModelId, Reservation, Sealer, Terms};

pub(crate) use self::metrics::{Named, OTHER, policy_and_limit};

use self::estimate::Rates;
use crate::clock::{Micros, Nanos};
use crate::limit::{Cost, Demand, Limits};

/// The largest number that one report may carry: Envoy's own cap on `hits_addend` of a descriptor.
pub const MAX_HITS: u64 = 1_000_000_000;

/// How long settled reservations are remembered, so that none is settled twice: longer than any stream. One that is reported
/// later is charged only if none of its age was forgotten.
pub const REMEMBERED: Duration = Duration::from_secs(24 * 3600);

/// What one report may cost its caller, whatever it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The most tokens that one answer costs.
    pub answer: u64,
    /// After so many windows a debt is over.
    pub debt_windows: u32,
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
    /// Nobody knows any more whether it was settled: see [`REMEMBERED`].
    Late,
    /// Not a reservation of ours.
    Unknown,
}

/// A settlement, and what of the report was not charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charged {
    pub settlement: Settlement,
    /// What the answer would have cost without [`Bounds::answer`].
    pub cut: Option<u64>,
    /// Whether a debt was cut at [`Bounds::debt_windows`].
    pub debt_cut: bool,
}

/// Settles reservations, each once.
#[derive(Debug, Default)]
pub struct Settlements {
    bounds: Bounds,
    settled: Mutex<HashMap<Instance, Settled>>,
    rates: Rates,
}

/// Which serial numbers of one instance were settled. They are consecutive, so a bit for each is enough: a day of a thousand answers a second
/// is 11 MB.
#[derive(Debug, Default)]
struct Settled {
    pages: BTreeMap<u64, Page>,
    /// Pages before this one were dropped, for their age or want of room: nobody knows any more what was settled of them.
    first: u64,
}

/// What was known of a serial number.
enum Mark {
    New,
    Known,
    Forgotten,
}

/// The bits of [`PAGE`] consecutive serial numbers.
#[derive(Debug)]
struct Page {
    /// When the last of them was settled.
    newest: Micros,
    bits: Box<[u64]>,
}

const PAGE: u64 = 1 << 16;
/// 32 MB of them: a day of 3,000 answers a second. Where there are more, reservations are late sooner.
const MAX_PAGES: usize = 4096;

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
}

// === impl Bounds ===

impl Bounds {
    /// A long context, read and answered once.
    pub const ANSWER: u64 = 1_000_000;
    /// An answer of eleven limits on an empty account.
    pub const DEBT_WINDOWS: u32 = 10;
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds { answer: Self::ANSWER, debt_windows: Self::DEBT_WINDOWS }
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

    /// Whether an answer without usage has cost something all the same. A gateway that says no status answered.
    fn has_answer(&self) -> bool {
        self.bytes.is_some_and(|bytes| bytes > 0) && !self.has_failed()
    }

    /// Whether the model answered with an error, or not at all.
    fn has_failed(&self) -> bool {
        self.status.is_some_and(|status| !(1..400).contains(&status))
    }
}

// === impl Settlements ===

impl Settlements {
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Settlements { bounds, ..Settlements::default() }
    }

    /// Charges what `report` says to every token limit of `reservation` that is still there, by what the limit allows now.
    pub async fn settle(&self, limits: &Limits, reservation: &Reservation, report: &Report, now: Nanos) -> Charged {
        let is_estimated = report.is_partial() && reservation.is_call && report.has_answer();
        let said = match report.usage.tokens() {
            _ if is_estimated => self.rates.estimate(reservation.model, report),
            Some(tokens) => tokens,
            None => return Settlement::NoUsage.into(),
        };
        let at = limits.time(now);
        match self.settled.lock().entry(reservation.instance).or_default().insert(reservation.serial, at) {
            Mark::New => {}
            Mark::Known => return Settlement::Duplicate.into(),
            Mark::Forgotten => return Settlement::Late.into(),
        }
        let tokens = said.min(self.bounds.answer);
        let mut debt_cut = false;
        for &Hold { account, cell } in &reservation.holds {
            // A limit that is gone for long is not charged.
            let Some(quota) = limits.quota(cell, reservation.route) else { continue };
            let demand = Demand { account, cell, quota, cost: Cost::Take(tokens) };
            debt_cut |= limits.charge(&demand, self.bounds.debt_windows, now).await;
        }
        if !is_estimated && said == tokens && !report.has_failed() {
            self.rates.learn(reservation.model, report, now);
        }
        let settlement = if is_estimated { Settlement::Estimated(tokens) } else { Settlement::Settled(tokens) };
        Charged { cut: (said > tokens).then_some(said), debt_cut, ..settlement.into() }
    }
}

impl From<Settlement> for Charged {
    fn from(settlement: Settlement) -> Self {
        Charged { settlement, cut: None, debt_cut: false }
    }
}

// === impl Settled ===

impl Settled {
    /// Remembers a serial number.
    fn insert(&mut self, serial: u64, now: Micros) -> Mark {
        let oldest = Micros(now.0.saturating_sub(Micros::from(REMEMBERED).0));
        // Serial numbers rise with time, so the first page is the oldest.
        while let Some(page) = self.pages.first_entry().filter(|page| page.get().newest < oldest) {
            self.first = page.key() + 1;
            page.remove();
        }
        let number = serial / PAGE;
        if number < self.first {
            return Mark::Forgotten;
        }
        let fresh = || Page { newest: now, bits: vec![0; (PAGE / 64) as usize].into() };
        let page = self.pages.entry(number).or_insert_with(fresh);
        let (word, bit) = ((serial % PAGE / 64) as usize, 1 << (serial % 64));
        let Some(word) = page.bits.get_mut(word) else { return Mark::Forgotten };
        let known = *word & bit != 0;
        if !known {
            *word |= bit;
            page.newest = page.newest.max(now);
        }
        if self.pages.len() > MAX_PAGES
            && let Some((oldest, _)) = self.pages.pop_first()
        {
            self.first = oldest + 1;
        }
        if known { Mark::Known } else { Mark::New }
    }
}

// === impl Settlement ===

impl Settlement {
    /// One of each.
    pub const ALL: [Settlement; 6] = [
        Settlement::Settled(0),
        Settlement::Estimated(0),
        Settlement::NoUsage,
        Settlement::Duplicate,
        Settlement::Late,
        Settlement::Unknown,
    ];

    /// The metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Settlement::Settled(_) => "settled",
            Settlement::Estimated(_) => "estimated",
            Settlement::NoUsage => "no_usage",
            Settlement::Duplicate => "duplicate",
            Settlement::Late => "late",
            Settlement::Unknown => "unknown",
        }
    }
}
