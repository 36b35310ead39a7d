//! Which reservations have been settled, and how well it was known what they cost: a settlement is a join.
//!
//! Of several reports of one answer the best quality wins, once, whatever order they come in. Who keeps the cells keeps this too, and
//! changes both at once: else a report that comes twice, or fails half-way, is charged twice or never.

mod copy;
mod row;

use std::collections::{BTreeMap, HashMap};

use smallvec::SmallVec;

pub use self::row::{Row, RowKey};

use self::copy::Changes;
use self::row::Ended;

use super::{AccountKey, Cell, CellId, Quota, Standing};
use crate::clock::Micros;

/// One run of a process that makes reservations: random, so that no two are alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instance(pub u64);

/// How well it is known what an answer cost; later ones are better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Quality {
    /// None: the call runs still, and keeps its place among those that do. It is told as often as it is so.
    Running,
    /// An estimate, from the bytes of the answer.
    Estimate,
    /// The usage so far, of an answer whose end was not seen.
    Counted,
    /// The usage of the whole answer, or that there was none. Nothing changes it any more.
    Final,
}

/// What an admission took, or held, of one cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    pub account: AccountKey,
    pub cell: CellId,
    /// In hits.
    pub held: u64,
    /// Its place in the cell: see [`super::Cell::mark`].
    pub mark: Micros,
}

/// What the answer cost the cell of a hold.
#[derive(Clone, Copy, Debug)]
pub struct Due {
    pub hold: Hold,
    /// What the cell's limit allows now; `None` if it is gone, and nothing is charged.
    pub quota: Option<Quota>,
    /// In hits.
    pub used: u64,
    /// After so many windows of the limit a debt is over.
    pub debt_windows: u32,
    /// Whether it is to be said how its use rises.
    pub watched: bool,
}

/// How the use of one cell rose by a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rise {
    /// The place of its hold among all that were due.
    pub at: usize,
    /// What was used before, in hits, a begun one included.
    pub before: u64,
    pub standing: Standing,
}

/// A report of what the answer to one reservation cost.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// Who made the reservation.
    pub instance: Instance,
    /// Which of that instance's it is; it rises with time.
    pub serial: u64,
    /// When it was made, on the store's clock.
    pub minted: Micros,
    pub quality: Quality,
    /// What tells two reports of one quality apart: the tokens that they say.
    pub tokens: u64,
    pub due: &'a [Due],
}

/// What became of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// Every cell was charged what is due.
    Applied {
        /// What an earlier report said, which this one corrects.
        before: Option<Earlier>,
        /// Whether a debt was cut.
        debt_cut: bool,
        /// How use rose that is watched.
        rises: Vec<Rise>,
        /// Whether the place of a call among those that run was free before the call was over.
        overran: bool,
    },
    /// A report of this quality, or a better one, was applied before.
    Duplicate {
        /// Whether this one is as good, and says another number.
        conflicting: bool,
    },
    /// Nobody knows any more whether the reservation was settled.
    Late,
}

/// What a report said that a better one corrects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Earlier {
    pub tokens: u64,
    /// In hits, what was due to the cell of each hold, in their order.
    pub used: SmallVec<[u64; 2]>,
}

/// What is known of the reservations of each instance.
#[derive(Debug, Default)]
pub(super) struct Settlements {
    instances: HashMap<Instance, OfInstance>,
    /// Whether copies are made of them.
    pub(super) are_copied: bool,
}

/// Serial numbers are consecutive, so a bit is enough for each that is final: a day of a thousand answers a second is 11 MB.
#[derive(Debug, Default)]
struct OfInstance {
    pages: BTreeMap<u64, Page>,
    /// Pages before this one were dropped for want of room.
    first: u64,
    /// Those that a better report may still correct. Of more than [`MAX_INTERIM`] the oldest stays as it is.
    interim: BTreeMap<u64, Interim>,
    /// What the last final reports said, by their serial numbers.
    said: HashMap<u64, (u64, u64)>,
    /// If the instance is an earlier one, whose reservations were taken over.
    ended: Option<Ended>,
    changes: Changes,
}

/// What was charged on a report that is not final.
#[derive(Clone, Debug)]
pub(super) struct Interim {
    quality: Quality,
    /// When the reservation was made.
    minted: Micros,
    pub(super) said: Earlier,
    /// One for each hold, in their order.
    pub(super) charged: SmallVec<[Charged; 2]>,
}

/// What is charged to the cell of one hold.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Charged {
    /// In hits, all together.
    pub(super) hits: u64,
    /// So many of them may not be charged: after a crash it is not always known which correction the cell of a file has seen.
    pub(super) doubt: u64,
    /// What of them came on top of the hold, by an earlier report; its place is its own.
    pub(super) extra: u64,
    pub(super) at: Charge,
    /// The shard of the cell.
    pub(super) shard: usize,
    /// When it was corrected last, and the least and the most that was charged before and after: a copy of the cell from before that has
    /// something in between.
    pub(super) corrected: Micros,
    pub(super) least: u64,
    pub(super) most: u64,
}

/// When something was charged, and its place in the cell.
#[derive(Clone, Copy, Debug, Default)]
pub struct Charge {
    pub mark: Micros,
    pub minted: Micros,
}

/// The bits of [`PAGE`] consecutive serial numbers.
#[derive(Debug)]
struct Page {
    /// When the last of them was settled.
    newest: Micros,
    bits: Box<[u64]>,
    /// Since the last copy.
    is_changed: bool,
}

pub(super) const PAGE: u64 = 1 << 16;
/// Of 64 bits, in a page.
const WORDS: usize = (PAGE / 64) as usize;
/// 32 MB of them: a day of 3,000 answers a second. Where there are more, reservations are late sooner.
pub(super) const MAX_PAGES: usize = 4096;
pub(super) const MAX_INTERIM: usize = 1 << 16;
/// So many final reports are compared with one that comes after them.
const MAX_SAID: u64 = 1 << 13;

// === impl Settlements ===

impl Settlements {
    /// What was charged for the reservation before, where `report` is better than what was known; else what becomes of it.
    pub(super) fn open(
        &mut self,
        report: &Report<'_>,
        remembered: Micros,
        now: Micros,
    ) -> Result<Option<Interim>, Settled> {
        let are_copied = self.are_copied;
        let known = self.instances.entry(report.instance).or_insert_with(|| OfInstance::new(are_copied));
        let oldest = Micros(now.0.saturating_sub(remembered.0));
        known.forget(oldest);
        // Whether it was settled may be forgotten.
        if report.minted < oldest {
            return Err(Settled::Late);
        }
        if known.is_final(report.serial)? {
            let said = known.said.get(&(report.serial % MAX_SAID));
            let differs = said.is_some_and(|(serial, tokens)| *serial == report.serial && *tokens != report.tokens);
            return Err(Settled::Duplicate { conflicting: report.quality == Quality::Final && differs });
        }
        let again = report.quality == Quality::Running;
        match known.interim.get(&report.serial) {
            Some(interim) if interim.quality == report.quality && again => Ok(Some(interim.clone())),
            Some(interim) if interim.quality >= report.quality => {
                let conflicting = interim.quality == report.quality && interim.said.tokens != report.tokens;
                Err(Settled::Duplicate { conflicting })
            }
            interim => Ok(interim.cloned()),
        }
    }

    /// Remembers what was charged on `report`.
    pub(super) fn close(&mut self, report: &Report<'_>, charged: SmallVec<[Charged; 2]>, now: Micros) {
        let Some(known) = self.instances.get_mut(&report.instance) else { return };
        if report.quality < Quality::Final {
            let said = Earlier { tokens: report.tokens, used: report.due.iter().map(|due| due.used).collect() };
            let interim = Interim { quality: report.quality, minted: report.minted, said, charged };
            known.interim.insert(report.serial, interim);
            known.changes.interim(report.serial);
            if known.interim.len() > MAX_INTERIM
                && let Some((oldest, interim)) = known.interim.pop_first()
            {
                known.changes.interim(oldest);
                if interim.quality > Quality::Running {
                    known.set_final(oldest, now);
                }
            }
            return;
        }
        if known.interim.remove(&report.serial).is_some() {
            known.changes.interim(report.serial);
        }
        known.said.insert(report.serial % MAX_SAID, (report.serial, report.tokens));
        known.set_final(report.serial, now);
    }

    /// What the cell of a hold has of it. Of a reservation that an earlier instance made after the last copy of the cell it has nothing.
    pub(super) fn held(&self, report: &Report<'_>, hold: &Hold) -> Charged {
        let ended = self.instances.get(&report.instance).and_then(|known| known.ended.as_ref());
        match ended.is_some_and(|ended| ended.has_lost(hold.account.shard(), report.minted)) {
            true => Charged::held(&Hold { held: 0, ..*hold }),
            false => Charged::held(hold),
        }
    }

    /// How many of an instance's reservations from `first` on, and before `end`, no report has come for.
    pub(super) fn silent(&self, instance: Instance, first: u64, end: u64) -> u64 {
        let all = end.saturating_sub(first);
        let Some(known) = self.instances.get(&instance) else { return all };
        let (low, high) = (first / PAGE, end / PAGE);
        let settled: u64 = known.pages.range(low..=high).map(|(number, page)| page.count(*number, first, end)).sum();
        let interim = known.interim.range(first..end.max(first));
        let interim = interim.filter(|(_, interim)| interim.quality > Quality::Running).count() as u64;
        all.saturating_sub(settled).saturating_sub(interim)
    }
}

// === impl Interim ===

impl Interim {
    /// What a report said that a better one corrects.
    pub(super) fn told(self) -> Option<Earlier> {
        (self.quality > Quality::Running).then_some(self.said)
    }
}

// === impl OfInstance ===

impl OfInstance {
    fn new(are_copied: bool) -> Self {
        OfInstance { changes: Changes::new(are_copied), ..OfInstance::default() }
    }

    /// Drops what was settled before `oldest`, and so made before it. Serial numbers rise with time, so the first page is the oldest. Its
    /// last numbers may be made yet.
    fn forget(&mut self, oldest: Micros) {
        // No report of these is taken any more, be it better.
        while let Some(interim) = self.interim.first_entry().filter(|interim| interim.get().minted < oldest) {
            self.changes.interim(*interim.key());
            interim.remove();
        }
        while let Some(page) = self.pages.first_entry().filter(|page| page.get().newest < oldest) {
            self.changes.page_dropped(*page.key());
            page.remove();
        }
    }

    fn is_final(&self, serial: u64) -> Result<bool, Settled> {
        let number = serial / PAGE;
        if number < self.first {
            return Err(Settled::Late);
        }
        Ok(self.pages.get(&number).is_some_and(|page| page.has(serial)))
    }

    fn set_final(&mut self, serial: u64, now: Micros) {
        if serial / PAGE < self.first {
            return;
        }
        let fresh = || Page { newest: now, bits: vec![0; WORDS].into(), is_changed: true };
        self.pages.entry(serial / PAGE).or_insert_with(fresh).set(serial, now);
        if self.pages.len() > MAX_PAGES
            && let Some((oldest, _)) = self.pages.pop_first()
        {
            self.first = self.first.max(oldest + 1);
            self.changes.page_dropped(oldest);
        }
    }
}

// === impl Page ===

impl Page {
    fn has(&self, serial: u64) -> bool {
        let word = self.bits.get((serial % PAGE / 64) as usize);
        word.is_some_and(|word| word & (1 << (serial % 64)) != 0)
    }

    fn set(&mut self, serial: u64, now: Micros) {
        self.newest = self.newest.max(now);
        self.is_changed = true;
        if let Some(word) = self.bits.get_mut((serial % PAGE / 64) as usize) {
            *word |= 1 << (serial % 64);
        }
    }

    /// How many of the serial numbers from `first` on, and before `end`, are in this page, which has that `number`.
    fn count(&self, number: u64, first: u64, end: u64) -> u64 {
        let from = first.saturating_sub(number * PAGE).min(PAGE);
        let to = end.saturating_sub(number * PAGE).min(PAGE);
        let words = self.bits.iter().zip((0..).step_by(64));
        let within = |(word, at): (&u64, u64)| {
            let (low, high) = (from.clamp(at, at + 64) - at, to.clamp(at, at + 64) - at);
            let below = |bits: u64| 1_u64.checked_shl(bits as u32).map_or(u64::MAX, |bit| bit - 1);
            u64::from((word & below(high) & !below(low)).count_ones())
        };
        words.map(within).sum()
    }
}

// === impl Due ===

impl Due {
    /// Whether it is of calls that run at once, and the lease of one that took its place then is over.
    pub(super) fn has_ended(&self, taken: Micros, now: Micros) -> bool {
        self.quota.is_some_and(|quota| quota.counts_calls() && now.0.saturating_sub(taken.0) >= quota.window)
    }

    /// Whether it is of calls that run at once.
    #[must_use]
    pub fn counts_calls(&self) -> bool {
        self.quota.is_some_and(|quota| quota.counts_calls())
    }
}

// === impl Charged ===

impl Charged {
    /// What an admission has charged.
    pub(super) fn held(hold: &Hold) -> Self {
        let (hits, shard) = (hold.held, hold.account.shard());
        Charged { hits, least: hits, most: hits, shard, ..Charged::default() }
    }

    /// What of it is charged for certain.
    pub(super) fn certain(&self) -> u64 {
        self.hits.saturating_sub(self.doubt)
    }

    /// The same, after it was corrected at `now`.
    pub(super) fn corrected_at(self, now: Micros) -> Self {
        Charged { corrected: now, least: self.least.min(self.certain()), most: self.most.max(self.hits), ..self }
    }

    /// What is charged once `cell`, which has come to `now`, has been charged what is `due` for a hold of `minted`; and whether a debt
    /// was cut. What is due within a doubt changes nothing.
    pub(super) fn corrected(self, cell: &mut Cell, due: &Due, minted: Micros, now: Micros) -> (Self, bool) {
        let Some(quota) = &due.quota else { return (self, false) };
        match due.used.checked_sub(self.hits) {
            Some(more) => {
                let charged = self.more(cell, quota, more, now);
                let before = cell.used(now);
                let is_cut = cell.bound_debt(quota, due.debt_windows, now);
                (charged.cut(before - cell.used(now), cell.mark()), is_cut)
            }
            None => {
                // First what came on top of the hold, by its own place.
                let less = self.certain().saturating_sub(due.used);
                let of_extra = less.min(self.extra);
                let hold = Charge { mark: due.hold.mark, minted };
                let back =
                    cell.give_back(quota, of_extra, self.at, now) + cell.give_back(quota, less - of_extra, hold, now);
                (Charged { hits: self.hits - back.min(less), extra: self.extra - of_extra, ..self }, false)
            }
        }
    }

    /// What is charged once `cell`, which has come to `now`, has it as taken just now.
    pub(super) fn renewed(self, cell: &mut Cell, due: &Due, minted: Micros, now: Micros) -> Self {
        let Some(quota) = &due.quota else { return self };
        let _ = self.corrected(cell, &Due { used: 0, ..*due }, minted, now);
        cell.charge(quota, due.used, now);
        let at = Charge { mark: cell.mark(), minted: now };
        Charged { hits: due.used.saturating_add(self.doubt), extra: due.used, at, ..self }.corrected_at(now)
    }

    /// So many more, as far as can be counted; they have a place of their own, until a better report takes them back.
    fn more(self, cell: &mut Cell, quota: &Quota, more: u64, now: Micros) -> Self {
        let more = more.min(cell.room(quota));
        cell.charge(quota, more, now);
        // Of two the first: what is given back is given back by the place that is sooner paid for.
        let at = if self.extra == 0 { Charge { mark: cell.mark(), minted: now } } else { self.at };
        Charged { hits: self.hits.saturating_add(more), extra: self.extra.saturating_add(more), at, ..self }
    }

    /// What is left of it when a debt was cut by so many hits, after which the cell ends at `mark`.
    fn cut(self, hits: u64, mark: Micros) -> Self {
        let (hits, extra) = (self.hits.saturating_sub(hits), self.extra.saturating_sub(hits));
        Charged {
            hits,
            extra,
            doubt: self.doubt.min(hits),
            at: Charge { mark: self.at.mark.min(mark), ..self.at },
            ..self
        }
    }
}
