//! Merging the journal of a shard with its base, from the file alone.

use std::collections::{HashMap, HashSet};

use redb::{ReadableTable, StorageError, WriteTransaction};

use super::file::{BASE, JOURNAL};
use super::load::Journal;
use crate::clock::Micros;
use crate::limit::{Accounts, CellId, InForce};

/// Which cells are kept: those that limits have, and for a day those that limits had. A policy may be in error for an hour, and that is no
/// amnesty.
#[derive(Debug)]
pub(super) struct Keeping<'a> {
    pub(super) in_force: &'a InForce,
    /// Since when cells are not in force.
    pub(super) gone: HashMap<CellId, Micros>,
    /// Cells that accounts have.
    seen: HashSet<CellId>,
    now: Micros,
}

/// How long a cell is kept whose limit is gone.
const KEPT: u64 = 24 * 3600 * 1_000_000;
/// A part of a base, in bytes: with its key a little less than a page of 64 KiB, since a page is of a power of two.
const PART: usize = 60_000;
/// A journal is merged when it is as large as the base, but not for less than this.
const LEAST: usize = 32 * 1024;

// === impl Keeping ===

impl<'a> Keeping<'a> {
    /// With what is known to be `gone`.
    pub(super) fn new(in_force: &'a InForce, gone: HashMap<CellId, Micros>, now: Micros) -> Self {
        Keeping { in_force, gone, seen: HashSet::new(), now }
    }

    /// Forgets, after all accounts were seen, since when cells are gone that are there again, or that nobody has any more.
    pub(super) fn forget(&mut self) {
        let Keeping { in_force, gone, seen, now } = self;
        gone.retain(|cell, since| {
            let is_young = now.0.saturating_sub(since.0) < 2 * KEPT;
            !in_force.has(*cell) && (is_young || seen.contains(cell))
        });
    }

    /// Whether a cell is kept. One that has gone is noted.
    pub(super) fn kept(&mut self) -> impl FnMut(CellId) -> bool {
        let mut known: HashMap<CellId, bool> = HashMap::new();
        move |cell| *known.entry(cell).or_insert_with(|| self.keeps(cell))
    }

    fn keeps(&mut self, cell: CellId) -> bool {
        self.seen.insert(cell);
        if self.in_force.has(cell) {
            self.gone.remove(&cell);
            return true;
        }
        let since = *self.gone.entry(cell).or_insert(self.now);
        self.now.0.saturating_sub(since.0) < KEPT
    }
}

// === impl Journal ===

impl Journal {
    pub(super) fn is_due(&self) -> bool {
        self.size >= self.base.max(LEAST)
    }

    /// Makes the base of `shard` what its journal made of it; what the journal is then.
    pub(super) fn merge(
        &self,
        shard: u16,
        transaction: &WriteTransaction,
        keeping: &mut Keeping<'_>,
    ) -> Result<Journal, redb::Error> {
        let (mut base, mut journal) = (transaction.open_table(BASE)?, transaction.open_table(JOURNAL)?);
        let damaged = || StorageError::Corrupted("an account cannot be read".to_owned());
        let mut accounts = Accounts::default();
        for row in base.range((shard, 0)..=(shard, u32::MAX))? {
            accounts.read(shard.into(), row?.1.value()).ok_or_else(damaged)?;
        }
        for save in &self.saves {
            if let Some(records) = journal.remove((*save, shard))? {
                accounts.read(shard.into(), records.value()).ok_or_else(damaged)?;
            }
        }
        accounts.retain(keeping.now, keeping.kept());
        let (mut merged, mut parts) = (Journal::default(), 0);
        for records in accounts.records(PART) {
            base.insert((shard, parts), records.as_slice())?;
            merged.base += records.len();
            parts += 1;
        }
        base.retain_in((shard, parts)..=(shard, u32::MAX), |_, _| false)?;
        Ok(merged)
    }
}
