//! A folder of manifests, read at the start and whenever it changes.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::files::{FoundFiles, Stamp};
use super::lookout::{LookReason, Lookout, links};
use super::{Departures, FolderError, Nudges, on_large_stack};
use crate::lint::compile;
use crate::manifest::Manifests;
use crate::policy::{Options, Policy};

/// A folder of manifests, with what was last good in it.
#[derive(Debug)]
pub struct Folder {
    /// One folder; to look at once, there may be several, and files.
    pub(super) paths: Vec<PathBuf>,
    options: Options,
    last_good: Option<Manifests>,
    /// Of what was read last: a change that changes nothing is none.
    fingerprint: Option<u64>,
    /// Of what was read last, too: as long as it is the same, no file is opened.
    stamp: Option<Stamp>,
    departures: Departures,
}

// === impl Folder ===

impl Folder {
    #[must_use]
    pub fn new(dir: &Path, options: Options) -> Self {
        Self::of(vec![dir.to_owned()], options)
    }

    /// Folders and files as one; `-` is standard input.
    #[must_use]
    pub fn of(paths: Vec<PathBuf>, options: Options) -> Self {
        Folder { paths, options, last_good: None, fingerprint: None, stamp: None, departures: Departures::default() }
    }

    /// Reads and compiles the folder, if anything in it changed since the last time. An object in error keeps its own last
    /// good version.
    ///
    /// # Errors
    ///
    /// The folder cannot be read. What stands in its files is no error here: see [`Policy::problems`].
    pub fn load(&mut self) -> Result<Option<Policy>, FolderError> {
        // What is read after a failure is published, even if it is what it was before: somebody waits to hear of it.
        let files = FoundFiles::read(&self.paths).inspect_err(|_| self.fingerprint = None)?;
        let mut hasher = DefaultHasher::new();
        files.hash(&mut hasher);
        let fingerprint = Some(hasher.finish());
        if fingerprint == self.fingerprint && !self.departures.are_due(Instant::now()) {
            return Ok(None);
        }
        let (last_good, options, departures) = (&self.last_good, &self.options, &mut self.departures);
        self.fingerprint = None;
        let (manifests, policy) = on_large_stack(|| {
            let mut manifests = files.parse();
            if let Some(last) = last_good {
                manifests.keep_last_good(last);
            }
            let mut policy = compile(manifests.clone(), options);
            departures.follow(manifests.parts(), &manifests.files, &mut policy, Instant::now());
            (manifests, policy)
        })?;
        self.last_good = Some(manifests);
        self.fingerprint = fingerprint;
        Ok(Some(policy))
    }

    /// Watches the folder for ever, and passes on what it becomes: a new policy, or why there is none.
    pub fn watch(mut self, nudges: Nudges, mut changed: impl FnMut(Result<Policy, FolderError>)) {
        let dirs = |paths: &[PathBuf]| paths.iter().cloned().chain(paths.iter().flat_map(|path| links(path))).collect();
        let mut lookout = Lookout::new(nudges);
        // The first time for what changed between the start and the watch.
        let (mut failing, mut look) = (String::new(), LookReason::Told);
        loop {
            // Before it is read, so that nothing is missed that changes meanwhile.
            let watched = lookout.watch(&dirs(&self.paths));
            let loaded = self.look(look);
            let gone = matches!(loaded, Err(FolderError::Folder { .. } | FolderError::Empty { .. }));
            match loaded {
                Ok(None) => {}
                Ok(Some(policy)) => {
                    failing.clear();
                    changed(Ok(policy));
                }
                Err(error) => {
                    let why = error.to_string();
                    // Told once, however often it is tried.
                    if why != failing {
                        changed(Err(error));
                    }
                    failing = why;
                }
            }
            let Some(next) = lookout.wait(gone || !watched) else { return };
            look = next;
        }
    }

    /// Loads the folder, unless time alone has passed and the file system says that all is as it was.
    pub(super) fn look(&mut self, look: LookReason) -> Result<Option<Policy>, FolderError> {
        let stamp = Stamp::of(&self.paths);
        let same = stamp.is_some() && stamp == self.stamp;
        if look == LookReason::Due && same && !self.departures.are_due(Instant::now()) {
            return Ok(None);
        }
        let loaded = self.load();
        self.stamp = stamp.filter(|_| loaded.is_ok());
        loaded
    }
}

/// Reads the manifests of `dir`.
///
/// # Errors
///
/// The folder cannot be read. What stands in it is no error here: see [`Manifests::problems`].
pub fn read_folder(dir: &Path) -> Result<Manifests, FolderError> {
    let files = FoundFiles::read(&[dir.to_owned()])?;
    on_large_stack(|| files.parse())
}
