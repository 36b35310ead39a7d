//! The files that flags name: read at the start, and again whenever they change.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use super::Nudges;
use super::files::{Stamp, read_bytes};
use super::lookout::{LookReason, Lookout, links};

/// A file that a flag names, as it was when it was read last.
pub struct NamedFile {
    /// By which it is called in messages.
    pub path: PathBuf,
    /// All that is read with it: itself, and what it names in turn.
    files: fn(&Path) -> Vec<PathBuf>,
    fingerprint: u64,
    stamp: Option<Stamp>,
    /// Takes over what stands in it now, or says why it cannot be used.
    take: Box<dyn FnMut() -> Result<(), String> + Send>,
    failing: bool,
}

// === impl NamedFile ===

impl NamedFile {
    /// A file before it is read for the first time. `None` for what is no regular file: a pipe can be read once.
    #[must_use]
    pub fn new(path: &Path, files: fn(&Path) -> Vec<PathBuf>) -> Option<Self> {
        let fingerprint = path.is_file().then(|| fingerprint(&files(path)))?;
        let take = Box::new(|| Ok::<(), String>(()));
        Some(NamedFile { path: path.to_owned(), files, fingerprint, stamp: None, take, failing: false })
    }

    /// The file, that `take` reads again: what stands in it is in use then, or what it was before stays so.
    #[must_use]
    pub fn taken_by(self, take: impl FnMut() -> Result<(), String> + Send + 'static) -> Self {
        NamedFile { take: Box::new(take), ..self }
    }

    /// Watches `files` for ever. `told` hears of each that has changed, with the reason if it cannot be used.
    pub fn watch(mut files: Vec<NamedFile>, nudges: Nudges, mut told: impl FnMut(&Path, Result<(), String>)) {
        let mut lookout = Lookout::new(nudges);
        // The first time for what changed between the start and the watch.
        let mut look = LookReason::Told;
        loop {
            let watched = lookout.watch(&files.iter().flat_map(NamedFile::dirs).collect());
            for file in &mut files {
                if let Some(taken) = file.look(look) {
                    told(&file.path, taken);
                }
            }
            let Some(next) = lookout.wait(!watched) else { return };
            look = next;
        }
    }

    /// The folders in which something changes when the file does.
    fn dirs(&self) -> BTreeSet<PathBuf> {
        let files = (self.files)(&self.path);
        let parent = |path: &PathBuf| match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        files.iter().map(parent).chain(files.iter().flat_map(|file| links(file))).collect()
    }

    /// Takes over what stands in it, if that is something else than the last time; `None` if not.
    fn look(&mut self, look: LookReason) -> Option<Result<(), String>> {
        let files = (self.files)(&self.path);
        let stamp = Stamp::of(&files);
        // What could not be used is tried again: it may depend on more than the file.
        if look == LookReason::Due && !self.failing && stamp.is_some() && stamp == self.stamp {
            return None;
        }
        self.stamp = stamp;
        let before = std::mem::replace(&mut self.fingerprint, fingerprint(&files));
        if self.fingerprint == before && !self.failing {
            return None;
        }
        let taken = (self.take)();
        self.failing = taken.is_err();
        Some(taken)
    }
}

fn fingerprint(files: &[PathBuf]) -> u64 {
    let mut hasher = DefaultHasher::new();
    files.iter().for_each(|file| (file, read_bytes(file)).hash(&mut hasher));
    hasher.finish()
}
