//! Copies of what changed, for a file that outlives the process; and what such a file gives back.
//!
//! A copy of a shard holds its lock for the accounts that changed, and no longer. What is charged after a copy is charged later than
//! the copy says: so a reservation tells by its time whether what it holds is in it.

use super::account::{records, write_gone};
use super::{Accounts, Key, Memory, REMEMBERED, SHARDS, Shard};
use crate::clock::Micros;
use crate::limit::Instance;
use crate::limit::settled::{Row, RowKey};

/// What changed in one shard since the copy before.
#[derive(Debug)]
pub struct Copied {
    /// Whose it is.
    pub shard: usize,
    /// What was charged until then is in it.
    pub at: Micros,
    /// As [`Accounts::read`] reads them.
    pub records: Vec<u8>,
    /// Whose records they are.
    keys: Vec<Key>,
}

// === impl Memory ===

impl Memory {
    /// How many accounts are kept at most, about.
    #[must_use]
    pub fn room(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().room).sum()
    }

    /// How many shards there are. A file has as many.
    pub const SHARDS: usize = SHARDS;

    /// The same, noting what changes, for [`Memory::copy`].
    #[must_use]
    pub fn copied(mut self) -> Self {
        self.shards.iter_mut().for_each(|shard| shard.get_mut().changes.are_kept = true);
        self.settled.get_mut().are_copied = true;
        self
    }

    /// Takes over the accounts of a shard, as a copy of `at` has them.
    pub fn restore(&mut self, shard: usize, mut accounts: Accounts, at: Micros) {
        let Some(shard) = self.shards.get_mut(shard).map(|shard| shard.get_mut()) else { return };
        let is_noted = !shard.changes.are_kept;
        accounts.0.values_mut().for_each(|account| account.is_noted = is_noted);
        shard.sweep_at = (accounts.len() * 2).max(64);
        shard.accounts = accounts.0;
        shard.latest = shard.latest.max(after(at));
    }

    /// What changed in a shard since it was copied last, if anything did; and when that is, which is not before `now`.
    pub fn copy(&self, shard: usize, now: Micros) -> (Micros, Option<Copied>) {
        match self.shards.get(shard) {
            Some(locked) => locked.lock().copy(shard, now),
            None => (now, None),
        }
    }

    /// Notes again what could not be kept of a copy.
    pub fn put_back(&self, copied: Copied) {
        if let Some(shard) = self.shards.get(copied.shard) {
            shard.lock().put_back(copied.keys);
        }
    }

    /// What changed of the reservations that are settled, after all shards were copied, each at its time: bits are newer than cells, so
    /// that a crash in between loses a correction and never applies one twice.
    pub fn copy_settled(&self, copied: &[Micros], now: Micros) -> Vec<Row> {
        self.settled.lock().copy(copied, REMEMBERED, now)
    }

    /// Notes again what could not be kept of it.
    pub fn put_back_settled(&self, rows: &[Row]) {
        self.settled.lock().put_back(rows);
    }

    /// Takes over what is known of settled reservations. `None` if a row is none.
    pub fn restore_settled(&mut self, key: RowKey, row: &[u8]) -> Option<()> {
        self.settled.get_mut().read(key, row)
    }

    /// Begins `instance`, before it makes a reservation: those that were before it have ended, when the shards had been `copied` at these
    /// times. The rows that tell it, and all instances whose reservations are known.
    pub fn begin(&self, instance: Instance, copied: &[Micros], now: Micros) -> Vec<Row> {
        self.settled.lock().begin(instance, copied, now, REMEMBERED)
    }

    /// The earlier instances whose reservations are known here.
    pub fn earlier(&self) -> Vec<Instance> {
        self.settled.lock().earlier()
    }
}

// === impl Shard ===

impl Shard {
    fn copy(&mut self, number: usize, now: Micros) -> (Micros, Option<Copied>) {
        let at = self.not_before_latest(now);
        self.latest = after(at);
        if self.changes.keys.is_empty() {
            return (at, None);
        }
        let keys = std::mem::take(&mut self.changes.keys);
        let mut records = records();
        for key in &keys {
            match self.accounts.get_mut(key) {
                Some(account) => {
                    account.is_noted = false;
                    account.write(*key, &mut records);
                }
                None => write_gone(*key, &mut records),
            }
        }
        (at, Some(Copied { shard: number, at, records, keys }))
    }

    fn put_back(&mut self, keys: Vec<Key>) {
        for key in keys {
            match self.accounts.get_mut(&key) {
                Some(account) if account.is_noted => {}
                Some(account) => {
                    account.is_noted = true;
                    self.changes.add(key);
                }
                // Of one that has gone the file says that more is used than there is, for as long as that lasts: so no more of them
                // are remembered than there is room for others.
                None if self.changes.keys.len() < self.room => self.changes.add(key),
                None => {}
            }
        }
    }
}

/// The moment after that one.
fn after(at: Micros) -> Micros {
    Micros(at.0.saturating_add(1))
}
