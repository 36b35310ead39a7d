//! What a file that is opened tells.

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use redb::{Database, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable};

use super::file::{BASE, File, GONE, JOURNAL, LEARNED, META, Meta, SETTLED, SHARDS};
use super::merge::Keeping;
use super::{Beginning, Opened, Options, Shared, StateError};
use crate::clock::Micros;
use crate::limit::{Accounts, Instance, Memory, RowKey};

/// What of the file is whose: enough to know what has to be merged.
#[derive(Debug)]
pub(super) struct Journals {
    /// One for each shard.
    pub(super) shards: Vec<Journal>,
    /// The number of the next save.
    pub(super) next: u64,
}

/// Of one shard.
#[derive(Clone, Debug, Default)]
pub(super) struct Journal {
    /// The saves in which it changed.
    pub(super) saves: Vec<u64>,
    /// In bytes.
    pub(super) size: usize,
    /// Of its base, likewise.
    pub(super) base: usize,
}

/// Why a file tells nothing.
enum Unreadable {
    Damaged(&'static str),
    Failed(redb::Error),
}

/// No clock says a later moment, for two centuries: of a later one the arithmetic of cells would not be exact.
const LATEST: u64 = 1 << 53;

// === impl Journals ===

impl Default for Journals {
    fn default() -> Self {
        Journals { shards: vec![Journal::default(); Memory::SHARDS], next: 0 }
    }
}

impl Journals {
    /// As the tables have them: after a commit that failed nobody knows whether it was made.
    pub(super) fn of(database: &Database) -> Result<Self, redb::Error> {
        let (transaction, mut journals) = (database.begin_read()?, Journals::default());
        for row in transaction.open_table(BASE)?.iter()? {
            let (key, records) = row?;
            journals.has_base(key.value().0, records.value().len());
        }
        for row in transaction.open_table(JOURNAL)?.iter()? {
            let (key, records) = row?;
            let (save, shard) = key.value();
            journals.has_save(save, shard, records.value().len());
        }
        Ok(journals)
    }

    /// A part of a base, of that many bytes.
    fn has_base(&mut self, shard: u16, bytes: usize) {
        if let Some(journal) = self.shards.get_mut(usize::from(shard)) {
            journal.base += bytes;
        }
    }

    /// What changed in one save, in that many bytes.
    fn has_save(&mut self, save: u64, shard: u16, bytes: usize) {
        if let Some(journal) = self.shards.get_mut(usize::from(shard)) {
            journal.saves.push(save);
            journal.size += bytes;
        }
        self.next = self.next.max(save.saturating_add(1));
    }
}

// === impl Opened ===

impl Opened {
    /// Opens the file of `options`, and reads it into the memory of which a process begins.
    ///
    /// # Errors
    ///
    /// Another process uses it, or it cannot be used: the message says why, and what to do.
    pub fn open(options: &Options, beginning: Beginning<'_>) -> Result<Self, StateError> {
        let started = Instant::now();
        let room = beginning.memory.room();
        let Beginning { clock, in_force, .. } = beginning;
        let opened = match Self::read(options, beginning) {
            Err(StateError::Unusable { path, why }) if options.discard => {
                let aside = File::discard(&path)?;
                let (file, aside) = (path.display(), aside.display());
                tracing::warn!(%file, why, %aside, "--state-discard: the file cannot be used, and an empty one is begun");
                Self::read(options, Beginning { memory: Memory::bounded(room), clock, in_force })
            }
            opened => opened,
        }?;
        let (file, accounts, bytes) = (opened.file.path.display(), opened.memory.accounts(), opened.file.size());
        tracing::info!(%file, accounts, bytes, seconds = started.elapsed().as_secs_f64(), "--state: the file is read");
        Ok(opened)
    }

    fn read(options: &Options, beginning: Beginning<'_>) -> Result<Self, StateError> {
        let mut file = File::open(&options.path)?;
        let path = file.path.clone();
        let transaction = file.database()?.begin_read();
        let transaction = transaction.map_err(|error| StateError::failed(&path, "cannot be read", &error))?;
        let read = Reading { transaction: &transaction, beginning };
        // Of a table that others wrote into it may panic.
        let all = catch_unwind(AssertUnwindSafe(|| read.all())).unwrap_or(Err(Unreadable::Damaged("a table")));
        let mut opened = match all {
            Ok(read) => read.into_opened(file),
            Err(Unreadable::Damaged(what)) => {
                return Err(StateError::unusable(&path, format!("it is damaged: {what} cannot be read")));
            }
            Err(Unreadable::Failed(error)) => return Err(StateError::failed(&path, "cannot be read", &error)),
        };
        let unsettled = std::mem::take(&mut opened.meta.unsettled);
        opened.unsettled =
            unsettled.chunks_exact(16).filter_map(|call| Some(u128::from_be_bytes(call.try_into().ok()?))).collect();
        Ok(opened)
    }

    /// Begins the process: what it reserves is known to those that come after it, what was reserved before it is settled here, and what was
    /// learned is known.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn begin(&mut self, shared: &Shared) -> Result<(), StateError> {
        let crate::limit::Store::Memory(memory) = &shared.limits.store;
        let rows = memory.begin(shared.sealer.instance(), &self.copied, self.now);
        let path = self.file.path.clone();
        let database = self.file.database()?;
        let written = || -> Result<(), redb::Error> {
            let transaction = database.begin_write()?;
            self.meta.write(&transaction)?;
            super::save::write_settled(&transaction, &rows)?;
            super::save::write_gone(&transaction, &self.gone)?;
            Ok(transaction.commit()?)
        };
        written().map_err(|error| StateError::failed(&path, "cannot be written", &error))?;
        let earlier: HashSet<Instance> = memory.earlier().into_iter().collect();
        // Of the others no report is taken any more.
        self.unsettled.retain(|call| earlier.contains(&Instance((call >> 64) as u64)));
        shared.sealer.take_over(earlier);
        for part in std::mem::take(&mut self.learned) {
            if shared.forecasts.read(&part).is_none() {
                tracing::warn!(file = %path.display(), "--state: what was learned cannot be read, and is learned again");
            }
        }
        Ok(())
    }
}

/// A file that is read.
struct Reading<'a> {
    transaction: &'a ReadTransaction,
    beginning: Beginning<'a>,
}

/// What was read.
struct Read {
    memory: Memory,
    began: Micros,
    now: Micros,
    meta: Meta,
    learned: Vec<Vec<u8>>,
    copied: Vec<Micros>,
    journals: Journals,
    gone: HashMap<crate::limit::CellId, Micros>,
}

// === impl Read ===

impl Read {
    fn into_opened(self, file: File) -> Opened {
        let Read { memory, began, now, meta, learned, copied, journals, gone } = self;
        Opened { file, memory, began, now, unsettled: Vec::new(), meta, learned, copied, journals, gone }
    }
}

// === impl Reading ===

impl Reading<'_> {
    fn all(self) -> Result<Read, Unreadable> {
        let copied = self.copied()?;
        let mut journals = Journals::default();
        let shards = self.accounts(&mut journals)?;
        let newest = copied.iter().max().copied().unwrap_or_default();
        // The process's clock has run for as long as another process had the file.
        let Beginning { clock, in_force, .. } = self.beginning;
        let elapsed = Micros::from(Duration::from_nanos(clock.now().0)).0;
        let began = clock.began().max(Micros(newest.0.saturating_sub(elapsed)));
        let now = Micros(began.0.saturating_add(elapsed));
        let mut keeping = Keeping::new(in_force, self.gone()?, now);
        let (meta, learned) = (self.meta()?, self.learned()?);
        let is_whole = meta.secret.is_some() && meta.accounts.is_some();
        if !is_whole && shards.iter().any(|accounts| !accounts.is_empty()) {
            return Err(Unreadable::Damaged("its keys"));
        }
        let settled = self.transaction.open_table(SETTLED)?;
        let mut memory = self.beginning.memory.copied();
        for ((number, mut accounts), at) in shards.into_iter().enumerate().zip(&copied) {
            accounts.retain(now, keeping.kept());
            memory.restore(number, accounts, *at);
        }
        restore_settled(&mut memory, &settled)?;
        keeping.forget();
        Ok(Read { memory, began, now, meta, learned, copied, journals, gone: keeping.gone })
    }

    fn meta(&self) -> Result<Meta, Unreadable> {
        Meta::read(&self.transaction.open_table(META)?)?.ok_or(Unreadable::Damaged("its keys"))
    }

    fn copied(&self) -> Result<Vec<Micros>, Unreadable> {
        let mut all = vec![Micros(0); Memory::SHARDS];
        for row in self.transaction.open_table(SHARDS)?.iter()? {
            let (shard, at) = row?;
            let copied = all.get_mut(usize::from(shard.value())).ok_or(Unreadable::Damaged("a shard"))?;
            *copied = Some(at.value()).filter(|at| *at < LATEST).map(Micros).ok_or(Unreadable::Damaged("a time"))?;
        }
        Ok(all)
    }

    /// The accounts of each shard: the base, and then what changed since, in its order.
    fn accounts(&self, journals: &mut Journals) -> Result<Vec<Accounts>, Unreadable> {
        let mut shards: Vec<Accounts> = (0..Memory::SHARDS).map(|_| Accounts::default()).collect();
        for row in self.transaction.open_table(BASE)?.iter()? {
            let (key, records) = row?;
            let (shard, _) = key.value();
            read(&mut shards, shard, records.value())?;
            journals.has_base(shard, records.value().len());
        }
        for row in self.transaction.open_table(JOURNAL)?.iter()? {
            let (key, records) = row?;
            let (save, shard) = key.value();
            read(&mut shards, shard, records.value())?;
            journals.has_save(save, shard, records.value().len());
            save.checked_add(1).ok_or(Unreadable::Damaged("the number of a save"))?;
        }
        Ok(shards)
    }

    fn gone(&self) -> Result<HashMap<crate::limit::CellId, Micros>, Unreadable> {
        let mut gone = HashMap::new();
        for row in self.transaction.open_table(GONE)?.iter()? {
            let (cell, since) = row?;
            gone.insert(crate::limit::CellId(cell.value()), Micros(since.value()));
        }
        Ok(gone)
    }

    fn learned(&self) -> Result<Vec<Vec<u8>>, Unreadable> {
        let rows = self.transaction.open_table(LEARNED)?;
        let parts = rows.iter()?.map(|row| row.map(|(_, part)| part.value().to_vec()));
        Ok(parts.collect::<Result<_, _>>()?)
    }
}

/// Reads records of a shard.
fn read(shards: &mut [Accounts], shard: u16, records: &[u8]) -> Result<(), Unreadable> {
    let shard = usize::from(shard);
    let accounts = shards.get_mut(shard).and_then(|accounts| accounts.read(shard, records));
    accounts.ok_or(Unreadable::Damaged("an account"))
}

fn restore_settled(memory: &mut Memory, rows: &ReadOnlyTable<(u64, u8, u64), &'static [u8]>) -> Result<(), Unreadable> {
    for row in rows.iter()? {
        let (key, row) = row?;
        let (instance, kind, number) = key.value();
        let key = RowKey { instance: Instance(instance), kind, number };
        memory.restore_settled(key, row.value()).ok_or(Unreadable::Damaged("what is settled"))?;
    }
    Ok(())
}

// === impl Unreadable ===

impl<E: Into<redb::Error>> From<E> for Unreadable {
    fn from(error: E) -> Self {
        use redb::Error::{Corrupted, TableDoesNotExist, TableIsMultimap, TableTypeMismatch, TypeDefinitionChanged};
        match error.into() {
            Corrupted(_) | TableDoesNotExist(_) | TableIsMultimap(_) => Unreadable::Damaged("a table"),
            TableTypeMismatch { .. } | TypeDefinitionChanged { .. } => Unreadable::Damaged("a table"),
            error => Unreadable::Failed(error),
        }
    }
}
