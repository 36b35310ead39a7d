//! What is followed while the process serves: the source of the policy, and the files that flags name.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;
use tokio::signal::unix::Signal;

use super::publisher::Publisher;
use crate::gate::Gate;
use crate::metrics::Metrics;
use crate::source::{NamedFile, Nudge, Nudges, Source};
use crate::usage::Ledger;

/// What is followed, and who takes over what becomes of it.
pub(super) struct Following {
    pub(super) source: Source,
    pub(super) files: Vec<NamedFile>,
    pub(super) publisher: Publisher,
    pub(super) followed: Followed,
}

/// That the source is followed. It does not say so any more when it is dropped, be it by a panic.
pub(super) struct Followed {
    pub(super) gate: Arc<Gate>,
    pub(super) metrics: Arc<Metrics>,
}

/// Has everything that is read from files read again.
pub(super) struct Reload([Nudge; 2]);

// === impl Following ===

impl Following {
    /// Publishes what the source and the files become, from threads that end with the process.
    ///
    /// # Errors
    ///
    /// The operating system gives no thread.
    pub(super) fn start(self) -> io::Result<Reload> {
        let Following { source, files, publisher, followed } = self;
        let of_source = Arc::new(Mutex::new(publisher));
        let of_files = Arc::clone(&of_source);
        let (changes, others) = (Nudges::default(), Nudges::default());
        let reload = Reload([changes.nudge(), others.nudge()]);
        followed.during(move || source.watch(changes, |loaded| of_source.lock().source(loaded)))?;
        if !files.is_empty() {
            let watch = move || NamedFile::watch(files, others, |path, taken| of_files.lock().file(path, taken));
            std::thread::Builder::new().name("files".to_owned()).spawn(watch)?;
        }
        Ok(reload)
    }
}

// === impl Followed ===

impl Followed {
    /// Starts the thread that follows the source.
    fn during(self, follow: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
        let thread = std::thread::Builder::new().name("source".to_owned());
        thread.spawn(move || {
            let _followed = self;
            follow();
        })
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.gate.policies.end();
        self.metrics.reloaded(false);
        tracing::error!("the source is not followed any more; the policy stays as it is, and a change needs a restart");
    }
}

// === impl Reload ===

impl Reload {
    /// Does so whenever a signal asks for it, and has the usage log opened anew.
    pub(super) async fn at_each(self, mut hangup: Signal, ledger: Option<Arc<Ledger>>) {
        while hangup.recv().await.is_some() {
            tracing::info!(signal = "SIGHUP", "files are read again");
            self.0.iter().for_each(Nudge::look);
            ledger.iter().for_each(|ledger| ledger.reopen());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;
    use crate::test_util::{gate, settings};

    /// Readiness goes by it.
    #[test]
    fn a_source_that_panics_is_not_followed_any_more() {
        let gate = Arc::new(gate(Policy::default(), settings()));
        assert!(gate.policies.are_followed());
        let followed = Followed { gate: Arc::clone(&gate), metrics: Arc::new(Metrics::new()) };
        let thread = followed.during(|| panic!("as a reader that has a fault")).unwrap();
        thread.join().unwrap_err();
        assert!(!gate.policies.are_followed());
    }
}
