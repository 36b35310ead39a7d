//! Where the policy comes from: a folder of manifests, read at the start and whenever it changes, or a cluster that is watched.

mod kubernetes;

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use notify::{RecursiveMode, Watcher};

pub use self::kubernetes::Kubernetes;

use crate::manifest::Manifests;
use crate::policy::{Options, Policy, compile};

/// Parsers of YAML and CEL recurse, on input that is not ours.
const STACK: usize = 256 * 1024 * 1024;
/// A change is looked at when nothing has changed for this long: editors and `kubectl` write in several steps.
const QUIET: Duration = Duration::from_millis(100);
/// And at the latest this long after its first step.
const LATEST: Duration = Duration::from_secs(1);
/// How often the folder is looked at without being told: some file systems tell nothing.
const POLL: Duration = Duration::from_secs(10);

/// A source of the policy.
pub enum Source {
    Folder(Box<Folder>),
    Kubernetes(Box<Kubernetes>),
}

/// A folder of manifests, with what was last good in it.
#[derive(Debug)]
pub struct Folder {
    dir: PathBuf,
    options: Options,
    last_good: Option<Manifests>,
    /// Of what was read last: a change that changes nothing is none.
    fingerprint: Option<u64>,
}

/// Why a folder cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error("cannot read folder `{}`: {error}", path.display())]
    Folder { path: PathBuf, error: io::Error },
    #[error("`{}` holds no manifest: no *.yaml, *.yml or *.json", path.display())]
    Empty { path: PathBuf },
    #[error("the compiler ended unexpectedly: {0}")]
    Compiler(String),
    #[error("cannot watch folder `{}`: {error}", path.display())]
    Watch { path: PathBuf, error: notify::Error },
}

/// A file's name for messages, and its text or why there is none.
type File = (String, Result<String, String>);

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

    /// Watches the source for ever, and passes on what it becomes: a new policy, or why there is none.
    ///
    /// # Errors
    ///
    /// The operating system does not let the folder be watched.
    pub fn watch(self, changed: impl FnMut(Result<Policy, FolderError>)) -> Result<(), FolderError> {
        match self {
            Source::Folder(folder) => folder.watch(changed),
            Source::Kubernetes(cluster) => {
                cluster.watch(changed);
                Ok(())
            }
        }
    }
}

// === impl Folder ===

impl Folder {
    #[must_use]
    pub fn new(dir: &Path, options: Options) -> Self {
        Folder { dir: dir.to_owned(), options, last_good: None, fingerprint: None }
    }

    /// Reads and compiles the folder, if anything in it changed since the last time. An object in error keeps its own last
    /// good version.
    ///
    /// # Errors
    ///
    /// The folder cannot be read. What stands in its files is no error here: see [`Policy::problems`].
    pub fn load(&mut self) -> Result<Option<Policy>, FolderError> {
        // What is read after a failure is published, even if it is what it was before: somebody waits to hear of it.
        let files = read_files(&self.dir).inspect_err(|_| self.fingerprint = None)?;
        let mut hasher = DefaultHasher::new();
        files.hash(&mut hasher);
        let fingerprint = Some(hasher.finish());
        if fingerprint == self.fingerprint {
            return Ok(None);
        }
        let (last_good, options) = (&self.last_good, &self.options);
        let (manifests, policy) = on_large_stack(|| {
            let mut manifests = parse(&files);
            if let Some(last) = last_good {
                manifests.keep_last_good(last);
            }
            let policy = compile(manifests.clone(), options);
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
        let failed = |error| FolderError::Watch { path: self.dir.clone(), error };
        let (send, events) = channel();
        // Each event says only that there is something to look at.
        let tell = move |_: notify::Result<notify::Event>| {
            // Nobody listens any more only when the process ends.
            let _ = send.send(());
        };
        let mut watcher = notify::recommended_watcher(tell).map_err(failed)?;
        watcher.watch(&self.dir, RecursiveMode::NonRecursive).map_err(failed)?;
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
            let _ = watcher.watch(&self.dir, RecursiveMode::NonRecursive);
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

/// Reads the manifests of `dir`, files in the order of their names. Folders inside are not entered, as `kubectl apply -f`
/// does not; links are followed, as a mounted ConfigMap needs.
///
/// # Errors
///
/// The folder cannot be read. What stands in it is no error here: see [`Manifests::problems`].
pub fn read_folder(dir: &Path) -> Result<Manifests, FolderError> {
    let files = read_files(dir)?;
    on_large_stack(|| parse(&files))
}

fn parse(files: &[File]) -> Manifests {
    let files = files.iter().map(|(name, text)| (name.as_str(), text.as_deref().map_err(String::as_str)));
    Manifests::read_files(files)
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

fn read_files(dir: &Path) -> Result<Vec<File>, FolderError> {
    let folder = |error| FolderError::Folder { path: dir.to_owned(), error };
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(dir).map_err(folder)? {
        let path = entry.map_err(folder)?.path();
        // `..data` and its like are how a mounted ConfigMap is swapped.
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let kind = path.extension().and_then(|extension| extension.to_str());
        if !hidden && matches!(kind, Some("yaml" | "yml" | "json")) && !path.is_dir() {
            paths.push(path);
        }
    }
    if paths.is_empty() {
        return Err(FolderError::Empty { path: dir.to_owned() });
    }
    paths.sort_unstable();
    let read = |path: PathBuf| (path.display().to_string(), read_file(&path));
    Ok(paths.into_iter().map(read).collect())
}

/// Larger files are no manifests.
const MAX_FILE: u64 = 64 * 1024 * 1024;

/// The text of a file, or why there is none. A pipe or device would never end.
fn read_file(path: &Path) -> Result<String, String> {
    let about = fs::metadata(path).map_err(|error| error.to_string())?;
    if !about.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    if about.len() > MAX_FILE {
        return Err(format!("it is larger than {} MiB", MAX_FILE >> 20));
    }
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    String::from_utf8(bytes).map_err(|error| {
        let good = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
        let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("line {line} is not UTF-8")
    })
}
