//! The state file: what limits have counted, which reservations are settled and what was learned, so that a process goes on where the
//! one before it ended, however that was.
//!
//! Each second a thread of its own copies what changed in memory ([`Memory::copy`]) and writes it, in one transaction with one wait for
//! the disk: nobody who asks about a limit waits for it. What a second changed is one row for each shard, a *journal*; rows in place would
//! be written fifty times over, since a file of a tree is written by pages. A shard whose journal has grown as large as its *base* is merged
//! with it, from the file alone. So each change is written about three times, and a process that has nothing to do writes nothing.
//!
//! A process that is killed leaves the last transaction whole: it has lost at most a second and the time of a save. What it reserved in
//! that is charged by its reports.

mod file;
mod load;
mod lock;
mod merge;
mod metrics;
mod save;
mod writer;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use self::metrics::StateMetrics;
pub use self::writer::State;

use self::file::{File, Meta};
use self::load::Journals;
use crate::clock::{Clock, Micros};
use crate::hash::{KeyedHasher, Secret};
use crate::limit::{CellId, InForce, Limits, Memory};
use crate::usage::{Forecasts, Sealer};

/// Where the state is kept, and what becomes of a file that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub path: PathBuf,
    /// Whether a file that cannot be used is moved aside, and an empty one begun. Else nothing starts.
    pub discard: bool,
}

/// What a process begins with.
#[derive(Debug)]
pub struct Beginning<'a> {
    /// Empty, for the accounts.
    pub memory: Memory,
    /// The process's, which has run since it started.
    pub clock: Clock,
    pub in_force: &'a InForce,
}

/// A state file that was read, of a process that does not serve yet.
#[derive(Debug)]
pub struct Opened {
    file: File,
    /// The accounts of before.
    pub memory: Memory,
    /// What the store's clock said when the process's clock started: so much that it says nothing before what was written.
    pub began: Micros,
    /// What it said when the file was read.
    now: Micros,
    /// The calls that had a line in the usage log without a report.
    pub unsettled: Vec<u128>,
    meta: Meta,
    learned: Vec<Vec<u8>>,
    copied: Vec<Micros>,
    journals: Journals,
    gone: HashMap<CellId, Micros>,
}

/// What the file is written from.
#[derive(Clone, Debug)]
pub struct Shared {
    pub limits: Arc<Limits>,
    pub sealer: Arc<Sealer>,
    pub forecasts: Arc<Forecasts>,
}

/// Why a state file is not used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error(
        "--state: `{}` is in use by another process{}: stop that one, or give each a file of its own",
        path.display(), named(*.pid)
    )]
    InUse { path: PathBuf, pid: Option<u32> },
    #[error(
        "--state: `{}` is not used: {why}. It stays as it is. Put back one that is good, or start with --state-discard: that moves it \
         aside, and begins an empty one",
        path.display()
    )]
    Unusable { path: PathBuf, why: String },
    #[error("--state: `{}` {doing}: {error}", path.display())]
    Failed { path: PathBuf, doing: &'static str, error: String },
}

// === impl Opened ===

impl Opened {
    /// The secret of reservations: the `given` one, else the one that the file keeps.
    #[must_use]
    pub fn secret(&mut self, given: Option<Secret>) -> Secret {
        let kept = self.kept();
        given.unwrap_or(kept)
    }

    /// The secret that the file keeps; if it has none a new one, which it keeps from now on.
    #[must_use]
    pub fn kept(&mut self) -> Secret {
        Secret::of(self.meta.secret.get_or_insert_with(crate::hash::random))
    }

    /// The key of accounts' names: that which the file keeps, else the `derived` one, which it keeps from now on, whatever becomes of the
    /// secret. Under another key all accounts would begin anew.
    #[must_use]
    pub fn account_key(&mut self, derived: &KeyedHasher) -> KeyedHasher {
        KeyedHasher::of(*self.meta.accounts.get_or_insert_with(|| derived.keys()))
    }
}

// === impl StateError ===

impl StateError {
    fn unusable(path: &Path, why: impl Into<String>) -> Self {
        StateError::Unusable { path: path.to_owned(), why: why.into() }
    }

    fn failed(path: &Path, doing: &'static str, error: &dyn std::error::Error) -> Self {
        StateError::Failed { path: path.to_owned(), doing, error: error.to_string() }
    }
}

fn named(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}
