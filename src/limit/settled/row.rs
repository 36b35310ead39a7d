//! What is known of settled reservations, as rows of a table.

use smallvec::SmallVec;

use super::{Charge, Charged, Earlier, Instance, Interim, Page, Quality, WORDS};
use crate::clock::Micros;
use crate::limit::Memory;
use crate::record::{Reading, write_number};

/// One row, as it has to be from now on.
#[derive(Debug)]
pub struct Row {
    pub key: RowKey,
    /// `None` if it has to go.
    pub blob: Option<Vec<u8>>,
}

/// Which row it is; all of one instance stand together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowKey {
    pub instance: Instance,
    /// What the row tells of.
    pub kind: u8,
    /// Which of that kind it is.
    pub number: u64,
}

/// An earlier instance.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) at: Micros,
    /// When each shard had been copied last by then. What was made after that is not in its cells.
    pub(super) copied: Box<[Micros]>,
}

/// An instance itself, as its row tells it.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// The first page that is known.
    pub(super) first: u64,
    pub(super) ended: Option<Ended>,
}

/// How the rows are written; another number is another way.
const VERSION: u8 = 1;
const ALL: u64 = u64::MAX;
/// More holds has no reservation.
const MOST_HOLDS: u64 = 64;

// === impl RowKey ===

impl RowKey {
    /// The instance itself; the number is 0.
    pub(super) const INSTANCE: u8 = 0;
    pub(super) const PAGE: u8 = 1;
    /// A report that a better one may still correct, by its serial number.
    pub(super) const INTERIM: u8 = 2;
}

// === impl Ended ===

impl Ended {
    /// Whether a shard has nothing of what was made at `minted`.
    pub(super) fn has_lost(&self, shard: usize, minted: Micros) -> bool {
        self.copied.get(shard).is_none_or(|copied| minted > *copied)
    }
}

// === impl Told ===

impl Told {
    pub(super) fn write(&self) -> Vec<u8> {
        let mut row = vec![VERSION];
        write_number(&mut row, self.first);
        if let Some(Ended { at, copied }) = &self.ended {
            write_number(&mut row, at.0);
            copied.iter().for_each(|copied| write_number(&mut row, copied.0));
        }
        row
    }

    pub(super) fn read(row: &[u8]) -> Option<Self> {
        let mut row = Reading::of(row, VERSION)?;
        let first = row.number()?;
        if row.is_empty() {
            return Some(Told { first, ended: None });
        }
        let at = Micros(row.number()?);
        let copied = (0..Memory::SHARDS).map(|_| row.number().map(Micros)).collect::<Option<_>>()?;
        row.is_empty().then_some(Told { first, ended: Some(Ended { at, copied }) })
    }
}

// === impl Page ===

impl Page {
    /// In turn how many words of settled reservations alone there are, and the words after those: of a page that is over few are left.
    pub(super) fn write(&self) -> Vec<u8> {
        let mut row = vec![VERSION];
        write_number(&mut row, self.newest.0);
        let end = self.bits.iter().rposition(|word| *word != 0).map_or(0, |last| last + 1);
        let mut rest = self.bits.get(..end).unwrap_or_default();
        while !rest.is_empty() {
            let (full, others) = rest.split_at(run(rest, |word| word == ALL));
            let (others, after) = others.split_at(run(others, |word| word != ALL));
            write_number(&mut row, full.len() as u64);
            write_number(&mut row, others.len() as u64);
            others.iter().for_each(|word| row.extend_from_slice(&word.to_be_bytes()));
            rest = after;
        }
        row
    }

    pub(super) fn read(row: &[u8]) -> Option<Self> {
        let mut row = Reading::of(row, VERSION)?;
        let newest = Micros(row.number()?);
        let mut bits: Vec<u64> = Vec::with_capacity(WORDS);
        while !row.is_empty() {
            let [full, others] = [row.number()?, row.number()?];
            if full.max(others) > WORDS as u64 {
                return None;
            }
            bits.extend((0..full).map(|_| ALL));
            for _ in 0..others {
                bits.push(row.word()?);
            }
            if bits.len() > WORDS {
                return None;
            }
        }
        bits.resize(WORDS, 0);
        Some(Page { newest, bits: bits.into(), is_changed: false })
    }
}

/// How many words there are before the first that is not so.
fn run(words: &[u64], is_so: impl Fn(u64) -> bool) -> usize {
    words.iter().position(|word| !is_so(*word)).unwrap_or(words.len())
}

// === impl Interim ===

impl Interim {
    /// As far as it is in the cells of shards that were `copied` at these times.
    pub(super) fn write(&self, copied: &[Micros]) -> Vec<u8> {
        let mut row = vec![VERSION, self.quality.code()];
        write_number(&mut row, self.minted.0);
        write_number(&mut row, self.said.tokens);
        write_number(&mut row, self.charged.len() as u64);
        for (at, charged) in self.charged.iter().enumerate() {
            let used = self.said.used.get(at).copied().unwrap_or(0);
            write_number(&mut row, used);
            charged.copied(self.minted, copied).write(&mut row);
        }
        row
    }

    /// Whether it is not in all of those cells.
    pub(super) fn is_newer(&self, copied: &[Micros]) -> bool {
        let at = |charged: &Charged| copied.get(charged.shard).copied().unwrap_or_default();
        self.charged.iter().any(|charged| charged.corrected.max(self.minted) > at(charged))
    }

    pub(super) fn read(row: &[u8]) -> Option<Self> {
        let mut row = Reading::of(row, VERSION)?;
        let quality = Quality::of_code(row.byte()?)?;
        let (minted, tokens, holds) = (Micros(row.number()?), row.number()?, row.number()?);
        let (mut used, mut charged) = (SmallVec::new(), SmallVec::new());
        if holds > MOST_HOLDS {
            return None;
        }
        for _ in 0..holds {
            used.push(row.number()?);
            charged.push(Charged::read(&mut row)?);
        }
        row.is_empty().then_some(Interim { quality, minted, said: Earlier { tokens, used }, charged })
    }
}

// === impl Charged ===

impl Charged {
    /// What of it is in a copy of its cell, which each shard was `copied` at; of a reservation of `minted`.
    fn copied(self, minted: Micros, copied: &[Micros]) -> Self {
        let at = copied.get(self.shard).copied().unwrap_or_default();
        match (minted > at, self.corrected > at) {
            (true, _) => Charged { hits: 0, doubt: 0, extra: 0, least: 0, most: 0, ..self },
            (false, true) => Charged { hits: self.most, doubt: self.most.saturating_sub(self.least), extra: 0, ..self },
            (false, false) => self,
        }
    }

    fn write(&self, row: &mut Vec<u8>) {
        let Charged { hits, doubt, extra, at, shard, corrected, least, most } = self;
        for number in [*hits, *doubt, *extra, at.mark.0, at.minted.0, *shard as u64, corrected.0, *least, *most] {
            write_number(row, number);
        }
    }

    fn read(row: &mut Reading<'_>) -> Option<Self> {
        let (hits, doubt, extra) = (row.number()?, row.number()?, row.number()?);
        let at = Charge { mark: Micros(row.number()?), minted: Micros(row.number()?) };
        let shard = usize::try_from(row.number()?).ok()?;
        let (corrected, least, most) = (Micros(row.number()?), row.number()?, row.number()?);
        let is_one = extra <= hits && doubt <= hits && least <= most && shard < Memory::SHARDS;
        is_one.then_some(Charged { hits, doubt, extra, at, shard, corrected, least, most })
    }
}

// === impl Quality ===

impl Quality {
    fn code(self) -> u8 {
        match self {
            Quality::Estimate => 0,
            Quality::Counted => 1,
            Quality::Final => 2,
            Quality::Running => 3,
        }
    }

    /// Of a report that a better one may still correct.
    fn of_code(code: u8) -> Option<Self> {
        [Quality::Running, Quality::Estimate, Quality::Counted].into_iter().find(|quality| quality.code() == code)
    }
}
