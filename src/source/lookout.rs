//! When to look again at what was read from files: the operating system tells of changes, and where it does not, time does.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};

/// A change is looked at when nothing has changed for this long: editors and `kubectl` write in several steps.
const QUIET: Duration = Duration::from_millis(100);
/// And at the latest this long after its first step.
const LATEST: Duration = Duration::from_secs(1);
/// How often it is looked without being told: some file systems tell nothing.
const POLL: Duration = Duration::from_secs(10);
/// And where nothing can be told: a folder that is gone, or no watches are left.
const SOON: Duration = Duration::from_millis(500);

/// Asks for a look, as if something had changed.
#[derive(Clone, Debug)]
pub struct Nudge(Sender<()>);

/// What asks for looks. Each says only that there is something to look at.
#[derive(Debug)]
pub struct Nudges {
    nudge: Nudge,
    heard: Receiver<()>,
}

/// Why it is looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LookReason {
    /// Something has changed, or somebody asks.
    Told,
    /// Time has passed.
    Due,
}

/// Waits for changes in some folders.
pub(super) struct Lookout {
    /// `None` where the operating system has none to give.
    watcher: Option<RecommendedWatcher>,
    heard: Receiver<()>,
}

// === impl Nudge ===

impl Nudge {
    /// Returns at once.
    pub fn look(&self) {
        // Nobody listens any more only when the process ends.
        let _ = self.0.send(());
    }
}

// === impl Nudges ===

impl Default for Nudges {
    fn default() -> Self {
        let (send, heard) = channel();
        Nudges { nudge: Nudge(send), heard }
    }
}

impl Nudges {
    #[must_use]
    pub fn nudge(&self) -> Nudge {
        self.nudge.clone()
    }
}

// === impl Lookout ===

impl Lookout {
    pub(super) fn new(Nudges { nudge, heard }: Nudges) -> Self {
        let tell = move |event: notify::Result<Event>| {
            if event.as_ref().map_or(true, is_change) {
                nudge.look();
            }
        };
        let watcher = notify::recommended_watcher(tell);
        let watcher = watcher.inspect_err(|error| {
            tracing::warn!(%error, "changes of files are not told by the operating system; they are looked for twice a second");
        });
        Lookout { watcher: watcher.ok(), heard }
    }

    /// Watches the folders `dirs` from now on; whether all of them can be. Asked for again and again, since a folder that was removed
    /// and made anew is another one to the operating system.
    pub(super) fn watch(&mut self, dirs: &BTreeSet<PathBuf>) -> bool {
        let Some(watcher) = &mut self.watcher else { return false };
        let watched = dirs.iter().filter(|dir| watcher.watch(dir, RecursiveMode::NonRecursive).is_ok());
        watched.count() == dirs.len()
    }

    /// Waits for changes, and until they pause; `None` when there will be none any more. Soon, if what is looked at may change
    /// without a word.
    pub(super) fn wait(&self, soon: bool) -> Option<LookReason> {
        match self.heard.recv_timeout(if soon { SOON } else { POLL }) {
            Err(RecvTimeoutError::Timeout) => return Some(LookReason::Due),
            Err(RecvTimeoutError::Disconnected) => return None,
            Ok(()) => {}
        }
        let first = Instant::now();
        while first.elapsed() < LATEST {
            match self.heard.recv_timeout(QUIET) {
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
        Some(LookReason::Told)
    }
}

/// Whether something is another one than before. That a file was opened or read is no change: whoever reads it because of that
/// reads it for ever.
fn is_change(event: &Event) -> bool {
    match event.kind {
        EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}

/// The folders in which the symbolic links of `path` stand: swapping one puts something else at its place.
pub(super) fn links(path: &Path) -> impl Iterator<Item = PathBuf> {
    path.ancestors().filter(|path| path.is_symlink()).filter_map(Path::parent).map(|parent| {
        let here = parent.as_os_str().is_empty();
        if here { PathBuf::from(".") } else { parent.to_owned() }
    })
}
