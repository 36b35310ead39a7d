//! Usage: what a model's answer cost, reported after it, charged to the limits that let the request through.

mod reservation;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;

pub use self::reservation::{About, Hold, ModelId, Reservation, Sealer};

use crate::limit::{Limits, Nanos};

/// The largest number that one report may carry: Envoy's own cap on `hits_addend` of a descriptor.
pub const MAX_HITS: u64 = 1_000_000_000;

/// How long after its Check a reservation can be settled: longer than any stream. Settled ones are remembered this long, so
/// that none is ever settled twice.
pub const SETTLE_WITHIN: Duration = Duration::from_secs(24 * 3600);

/// The numbers of one report. Each is there only if the gateway knew it.
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
    /// The report came, and the answer had no usage in it.
    NoUsage,
    /// This reservation was settled before.
    Duplicate,
    /// Its Check is longer ago than [`SETTLE_WITHIN`], or than so many others that there was no room to remember it.
    Late,
    /// Not a reservation of ours.
    Unknown,
}

/// Settles reservations, each once.
#[derive(Debug, Default)]
pub struct Settlements {
    settled: Mutex<Settled>,
}

/// Which serial numbers were settled. They are consecutive, so a bit for each is enough: a day of a thousand answers a second
/// is 11 MB.
#[derive(Debug, Default)]
struct Settled {
    pages: BTreeMap<u64, Page>,
    /// Pages before this one were dropped for want of room: nobody knows any more what was settled of them.
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
    /// When the last of them that was settled was minted.
    newest: Nanos,
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

// === impl Settlements ===

impl Settlements {
    /// Charges `usage` to every token limit of `reservation`.
    pub async fn settle(&self, limits: &Limits, reservation: &Reservation, usage: &Usage, now: Nanos) -> Settlement {
        let Some(tokens) = usage.tokens() else {
            return Settlement::NoUsage;
        };
        if now.0.saturating_sub(reservation.minted.0) > Nanos::from(SETTLE_WITHIN).0 {
            return Settlement::Late;
        }
        match self.settled.lock().insert(reservation.minted, reservation.serial, now) {
            Mark::New => {}
            Mark::Known => return Settlement::Duplicate,
            Mark::Forgotten => return Settlement::Late,
        }
        for hold in &reservation.holds {
            limits.charge(hold.account, hold.cell, hold.quota, tokens, now).await;
        }
        Settlement::Settled(tokens)
    }
}

// === impl Settled ===

impl Settled {
    /// Remembers a serial number.
    fn insert(&mut self, minted: Nanos, serial: u64, now: Nanos) -> Mark {
        let oldest = Nanos(now.0.saturating_sub(Nanos::from(SETTLE_WITHIN).0));
        // Serial numbers rise with time, so the first page is the oldest.
        while self.pages.first_key_value().is_some_and(|(_, page)| page.newest < oldest) {
            self.pages.pop_first();
        }
        let number = serial / PAGE;
        if number < self.first {
            return Mark::Forgotten;
        }
        let fresh = || Page { newest: minted, bits: vec![0; (PAGE / 64) as usize].into() };
        let page = self.pages.entry(number).or_insert_with(fresh);
        page.newest = page.newest.max(minted);
        let (word, bit) = ((serial % PAGE / 64) as usize, 1 << (serial % 64));
        let Some(word) = page.bits.get_mut(word) else { return Mark::Forgotten };
        let known = *word & bit != 0;
        *word |= bit;
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
    /// The metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Settlement::Settled(_) => "settled",
            Settlement::NoUsage => "no_usage",
            Settlement::Duplicate => "duplicate",
            Settlement::Late => "late",
            Settlement::Unknown => "unknown",
        }
    }
}
