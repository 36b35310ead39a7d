//! Where the policy comes from: a folder of manifests, read at the start and whenever it changes, or a cluster that is watched.

mod departures;
mod files;
mod folder;
mod kubernetes;
mod lookout;
mod named;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};

pub use self::folder::{Folder, read_folder};
pub use self::kubernetes::{Kubernetes, Reconnect};
pub use self::lookout::{Nudge, Nudges};
pub use self::named::NamedFile;

use self::departures::Departures;
use crate::policy::Policy;

/// Parsers of YAML and CEL recurse, on input that is not ours.
const STACK: usize = 256 * 1024 * 1024;

/// A source of the policy.
pub enum Source {
    Folder(Box<Folder>),
    Kubernetes(Box<Kubernetes>),
}

/// Why a folder cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error("cannot read `{}`: {error}", path.display())]
    Folder { path: PathBuf, error: io::Error },
    #[error("`{}` holds no manifest: no *.yaml, *.yml or *.json{}", path.display(), but(passed_over))]
    Empty { path: PathBuf, passed_over: String },
    #[error("the compiler ended unexpectedly: {0}")]
    Compiler(String),
}

fn but(passed_over: &str) -> String {
    if passed_over.is_empty() { String::new() } else { format!("; not read: {passed_over}") }
}

// === impl FolderError ===

impl FolderError {
    /// What cannot be read, where that is known.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            FolderError::Folder { path, .. } | FolderError::Empty { path, .. } => Some(path),
            FolderError::Compiler(_) => None,
        }
    }
}

// === impl Source ===

impl Source {
    /// What there is at the start. A cluster has to be read first.
    ///
    /// # Errors
    ///
    /// The folder cannot be read.
    pub fn first(&mut self) -> Result<Policy, FolderError> {
        match self {
            Source::Folder(folder) => Ok(folder.load()?.unwrap_or_default()),
            Source::Kubernetes(cluster) => Ok(cluster.unread()),
        }
    }

    /// Watches the source for ever, and passes on what it becomes: a new policy, or why there is none. A cluster tells its changes
    /// itself, and is not nudged.
    pub fn watch(self, nudges: Nudges, changed: impl FnMut(Result<Policy, FolderError>)) {
        match self {
            Source::Folder(folder) => folder.watch(nudges, changed),
            Source::Kubernetes(cluster) => cluster.watch(changed),
        }
    }
}

/// Runs `work` on a thread whose stack bears every input that passes the parsers' bounds.
///
/// # Errors
///
/// There is no thread, or `work` panicked.
pub fn on_large_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, FolderError> {
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().name("compile".to_owned()).stack_size(STACK);
        let thread = builder.spawn_scoped(scope, work).map_err(|error| FolderError::Compiler(error.to_string()))?;
        thread.join().map_err(|_| FolderError::Compiler("it panicked".to_owned()))
    })
}
