//! A folder of manifests, read at the start and whenever it changes.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use notify::{RecursiveMode, Watcher};

use super::files::Files;
use super::{Departures, FolderError, on_large_stack};
use crate::manifest::Manifests;
use crate::policy::{Options, Policy, compile};

/// A change is looked at when nothing has changed for this long: editors and `kubectl` write in several steps.
const QUIET: Duration = Duration::from_millis(100);
/// And at the latest this long after its first step.
const LATEST: Duration = Duration::from_secs(1);
/// How often the folder is looked at without being told: some file systems tell nothing.
const POLL: Duration = Duration::from_secs(10);

/// A folder of manifests, with what was last good in it.
#[derive(Debug)]
pub struct Folder {
    /// One folder; to look at once, there may be several, and files.
    paths: Vec<PathBuf>,
    options: Options,
    last_good: Option<Manifests>,
    /// Of what was read last: a change that changes nothing is none.
    fingerprint: Option<u64>,
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
        Folder { paths, options, last_good: None, fingerprint: None, departures: Departures::default() }
    }

    /// Reads and compiles the folder, if anything in it changed since the last time. An object in error keeps its own last
    /// good version.
    ///
    /// # Errors
    ///
    /// The folder cannot be read. What stands in its files is no error here: see [`Policy::problems`].
    pub fn load(&mut self) -> Result<Option<Policy>, FolderError> {
        // What is read after a failure is published, even if it is what it was before: somebody waits to hear of it.
        let files = Files::read(&self.paths).inspect_err(|_| self.fingerprint = None)?;
        let mut hasher = DefaultHasher::new();
        files.hash(&mut hasher);
        let fingerprint = Some(hasher.finish());
        if fingerprint == self.fingerprint && !self.departures.are_due(Instant::now()) {
            return Ok(None);
        }
        let (last_good, options, departures) = (&self.last_good, &self.options, &mut self.departures);
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
    ///
    /// # Errors
    ///
    /// The operating system does not let it be watched.
    pub fn watch(mut self, mut changed: impl FnMut(Result<Policy, FolderError>)) -> Result<(), FolderError> {
        let paths = self.paths.clone();
        let (send, events) = channel();
        // Each event says only that there is something to look at.
        let tell = move |_: notify::Result<notify::Event>| {
            // Nobody listens any more only when the process ends.
            let _ = send.send(());
        };
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |error| FolderError::Watch { path, error }
        };
        let mut watcher = notify::recommended_watcher(tell).map_err(failed(Path::new("")))?;
        for path in &paths {
            watcher.watch(path, RecursiveMode::NonRecursive).map_err(failed(path))?;
        }
        let mut failing = false;
        loop {
            // The first time for what changed between the start and the watch.
            match self.load() {
                Ok(None) => {}
                Ok(Some(policy)) => {
                    failing = false;
                    changed(Ok(policy));
                }
                // Told once, however often it is tried.
                Err(error) if !failing => {
                    failing = true;
                    changed(Err(error));
                }
                Err(_) => {}
            }
            // A folder that was removed and made anew is another one to the operating system.
            for path in &paths {
                let _ = watcher.watch(path, RecursiveMode::NonRecursive);
            }
            if !settle(&events) {
                return Ok(());
            }
        }
    }
}

/// Waits for events, and until they pause; `false` when there will be none any more.
fn settle(events: &Receiver<()>) -> bool {
    match events.recv_timeout(POLL) {
        Err(RecvTimeoutError::Timeout) => return true,
        Err(RecvTimeoutError::Disconnected) => return false,
        Ok(()) => {}
    }
    let first = Instant::now();
    while first.elapsed() < LATEST {
        match events.recv_timeout(QUIET) {
            Ok(()) => {}
            Err(RecvTimeoutError::Timeout) => break,
            Err(RecvTimeoutError::Disconnected) => return false,
        }
    }
    true
}

/// Reads the manifests of `dir`.
///
/// # Errors
///
/// The folder cannot be read. What stands in it is no error here: see [`Manifests::problems`].
pub fn read_folder(dir: &Path) -> Result<Manifests, FolderError> {
    let files = Files::read(&[dir.to_owned()])?;
    on_large_stack(|| files.parse())
}
