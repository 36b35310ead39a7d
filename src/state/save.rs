//! One save: what changed, in one transaction.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use redb::WriteTransaction;

use super::file::{File, GONE, JOURNAL, LEARNED, META, Meta, SETTLED, SHARDS};
use super::load::{Journal, Journals};
use super::merge::Keeping;
use super::{Shared, StateError};
use crate::clock::Micros;
use crate::limit::{CellId, Copied, InForce, Memory, Row, Store};

/// What a file is saved from, and what is known of it.
pub(super) struct Saver {
    pub(super) file: File,
    pub(super) shared: Shared,
    pub(super) journals: Journals,
    pub(super) gone: HashMap<CellId, Micros>,
    /// What of that, and of calls that have a line without a report, was written last; and whether it is in the file.
    pub(super) told: Told,
    pub(super) is_told: bool,
}

/// What is written as a whole when it changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) gone: HashMap<CellId, Micros>,
    pub(super) unsettled: Vec<u128>,
}

/// What is to be saved besides what changed.
#[derive(Debug, Default)]
pub(super) struct Also {
    /// What was learned: that is not worth a write each second. And limits that are there again are noted.
    pub(super) learned: bool,
}

/// What changed.
#[derive(Debug, Default)]
struct Changes {
    shards: Vec<Copied>,
    settled: Vec<Row>,
    learned: Option<Vec<Vec<u8>>>,
    told: Option<Told>,
}

/// What the saver knows after a save.
struct Saved {
    journals: Vec<(usize, Journal)>,
    gone: Option<HashMap<CellId, Micros>>,
}

/// So much of bases is merged in one save, in bytes: the others wait for the next.
const MERGED: usize = 16 * 1024 * 1024;
/// A list of more calls is written with what was learned, and not whenever it changed.
const FEW: usize = 4096;
/// A part of what was learned, in bytes.
const PART: usize = 60_000;

// === impl Saver ===

impl Saver {
    /// Saves what changed until `now`; whether anything did. What cannot be saved is noted again.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub(super) fn save(&mut self, also: Also, now: Micros, in_force: &dyn Fn() -> InForce) -> Result<bool, StateError> {
        if also.learned && !self.gone.is_empty() {
            let in_force = in_force();
            self.gone.retain(|cell, _| !in_force.has(*cell));
        }
        let changes = self.changes(also, now);
        if changes.is_empty() {
            return Ok(false);
        }
        // Nothing of a file that somebody else wrote into may end the thread.
        let written = catch_unwind(AssertUnwindSafe(|| self.write(&changes, now, in_force)));
        match written.unwrap_or_else(|_| Err(self.panicked())) {
            Ok(saved) => {
                self.take(saved, changes.told);
                Ok(true)
            }
            Err(error) => {
                self.file.close();
                self.is_told = false;
                self.put_back(changes);
                Err(error)
            }
        }
    }

    pub(super) fn panicked(&self) -> StateError {
        let (path, error) = (self.file.path.clone(), "a panic, which the log tells".to_owned());
        StateError::Failed { path, doing: "cannot be written", error }
    }

    fn memory(&self) -> &Memory {
        let Store::Memory(memory) = &self.shared.limits.store;
        memory
    }

    /// First the cells, and then what is settled: see [`Memory::copy_settled`].
    fn changes(&self, also: Also, now: Micros) -> Changes {
        let (memory, told) = (self.memory(), self.told(&also));
        let (visited, shards): (Vec<_>, Vec<_>) = (0..Memory::SHARDS).map(|shard| memory.copy(shard, now)).unzip();
        Changes {
            shards: shards.into_iter().flatten().collect(),
            settled: memory.copy_settled(&visited, now),
            learned: if also.learned { self.shared.forecasts.records(PART) } else { None },
            told: (!self.is_told || told != self.told).then_some(told),
        }
    }

    /// What the file has to tell from now on.
    fn told(&self, also: &Also) -> Told {
        let unsettled = match self.shared.sealer.unsettled_calls() {
            Some(calls) if also.learned || calls.len() <= FEW => calls,
            // Nobody has asked for them, or has done so yet.
            _ => self.told.unsettled.clone(),
        };
        Told { gone: self.gone.clone(), unsettled }
    }

    fn put_back(&self, changes: Changes) {
        let memory = self.memory();
        changes.shards.into_iter().for_each(|copied| memory.put_back(copied));
        memory.put_back_settled(&changes.settled);
        if changes.learned.is_some() {
            self.shared.forecasts.put_back();
        }
    }

    fn write(&mut self, changes: &Changes, now: Micros, in_force: &dyn Fn() -> InForce) -> Result<Saved, StateError> {
        let (path, is_closed) = (self.file.path.clone(), self.file.is_closed());
        let database = self.file.database()?;
        if is_closed {
            let journals = Journals::of(database);
            self.journals = journals.map_err(|error| StateError::failed(&path, "cannot be read", &error))?;
        }
        let (journals, gone) = (&self.journals, &self.gone);
        let written = || -> Result<Saved, redb::Error> {
            let transaction = database.begin_write()?;
            let mut saved = changes.write(&transaction, journals)?;
            saved.merge(&transaction, Merging { journals, gone, now, in_force })?;
            transaction.commit()?;
            Ok(saved)
        };
        written().map_err(|error| StateError::failed(&path, "cannot be written", &error))
    }

    fn take(&mut self, saved: Saved, told: Option<Told>) {
        self.journals.next += 1;
        for (shard, journal) in saved.journals {
            if let Some(known) = self.journals.shards.get_mut(shard) {
                *known = journal;
            }
        }
        if let Some(told) = told {
            self.told = told;
        }
        self.is_told = true;
        if let Some(gone) = saved.gone {
            self.told.gone.clone_from(&gone);
            self.gone = gone;
        }
    }
}

/// What is merged by.
struct Merging<'a> {
    journals: &'a Journals,
    gone: &'a HashMap<CellId, Micros>,
    now: Micros,
    in_force: &'a dyn Fn() -> InForce,
}

// === impl Changes ===

impl Changes {
    fn is_empty(&self) -> bool {
        let Changes { shards, settled, learned, told } = self;
        shards.is_empty() && settled.is_empty() && learned.is_none() && told.is_none()
    }

    fn write(&self, transaction: &WriteTransaction, journals: &Journals) -> Result<Saved, redb::Error> {
        let mut saved = Saved { journals: Vec::new(), gone: None };
        let (mut journal, mut shards) = (transaction.open_table(JOURNAL)?, transaction.open_table(SHARDS)?);
        for Copied { shard, at, records, .. } in &self.shards {
            let number = *shard as u16;
            journal.insert((journals.next, number), records.as_slice())?;
            shards.insert(number, at.0)?;
            let mut known = journals.shards.get(*shard).cloned().unwrap_or_default();
            known.saves.push(journals.next);
            known.size += records.len();
            saved.journals.push((*shard, known));
        }
        write_settled(transaction, &self.settled)?;
        if let Some(learned) = &self.learned {
            write_learned(transaction, learned)?;
        }
        if let Some(Told { gone, unsettled }) = &self.told {
            write_gone(transaction, gone)?;
            let calls: Vec<u8> = unsettled.iter().flat_map(|call| call.to_be_bytes()).collect();
            transaction.open_table(META)?.insert(Meta::UNSETTLED, calls.as_slice())?;
        }
        Ok(saved)
    }
}

/// Writes rows of settled reservations.
pub(super) fn write_settled(transaction: &WriteTransaction, rows: &[Row]) -> Result<(), redb::Error> {
    let mut settled = transaction.open_table(SETTLED)?;
    for Row { key, blob } in rows {
        let key = (key.instance.0, key.kind, key.number);
        match blob {
            Some(blob) => drop(settled.insert(key, blob.as_slice())?),
            None => drop(settled.remove(key)?),
        }
    }
    Ok(())
}

fn write_learned(transaction: &WriteTransaction, parts: &[Vec<u8>]) -> Result<(), redb::Error> {
    let mut learned = transaction.open_table(LEARNED)?;
    let mut number = 0;
    for part in parts {
        learned.insert(number, part.as_slice())?;
        number += 1;
    }
    learned.retain(|part, _| part < number)?;
    Ok(())
}

// === impl Saved ===

impl Saved {
    /// Merges the journals that are due, as far as one save may. Only a shard that changed can be due.
    fn merge(&mut self, transaction: &WriteTransaction, merging: Merging<'_>) -> Result<(), redb::Error> {
        let mut due: Vec<(usize, Journal)> =
            self.journals.iter().filter(|(_, known)| known.is_due()).cloned().collect();
        let late = merging
            .journals
            .shards
            .iter()
            .enumerate()
            .filter(|(shard, known)| known.is_due() && self.journals.iter().all(|(changed, _)| changed != shard));
        due.extend(late.map(|(shard, known)| (shard, known.clone())));
        if due.is_empty() {
            return Ok(());
        }
        let in_force = (merging.in_force)();
        let mut keeping = Keeping::new(&in_force, merging.gone.clone(), merging.now);
        let mut merged = 0;
        for (shard, journal) in due {
            if merged > MERGED {
                break;
            }
            merged += journal.base + journal.size;
            let journal = journal.merge(shard as u16, transaction, &mut keeping)?;
            self.journals.retain(|(known, _)| *known != shard);
            self.journals.push((shard, journal));
        }
        write_gone(transaction, &keeping.gone)?;
        self.gone = Some(keeping.gone);
        Ok(())
    }
}

/// Writes since when cells are not in force.
pub(super) fn write_gone(transaction: &WriteTransaction, gone: &HashMap<CellId, Micros>) -> Result<(), redb::Error> {
    let mut table = transaction.open_table(GONE)?;
    table.retain(|cell, _| gone.contains_key(&CellId(cell)))?;
    for (cell, since) in gone {
        table.insert(cell.0, since.0)?;
    }
    Ok(())
}
