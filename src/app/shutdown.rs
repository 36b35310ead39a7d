//! What tells a serving process to stop.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that say stop: the first has requests drained, the second ends that.
///
/// Their handlers are installed once: a signal that comes early, or while the first one is followed, is not lost.
pub struct Shutdown {
    terminate: Signal,
    interrupt: Signal,
}

// === impl Shutdown ===

impl Shutdown {
    /// By SIGTERM and SIGINT. To be called within a runtime.
    ///
    /// # Errors
    ///
    /// The operating system takes no handler.
    pub fn on_signals() -> io::Result<Self> {
        Ok(Shutdown { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next one, and names it.
    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
