//! The thread that saves.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::save::{Also, Saver, Told};
use super::{Opened, Shared, StateError, StateMetrics};
use crate::clock::Clock;
use crate::limit::InForce;

/// The state file of a process that serves.
#[derive(Debug)]
pub struct State {
    ask: Sender<Ask>,
    ended: Mutex<Receiver<bool>>,
}

/// What the thread is asked for.
enum Ask {
    /// To save for the last time, again and again until then if that fails.
    End(Instant),
}

/// Says which cells limits have now.
pub type InForceNow = Box<dyn Fn() -> InForce + Send>;

/// The thread's own.
struct Writer {
    saver: Saver,
    metrics: StateMetrics,
    clock: Clock,
    in_force: InForceNow,
    /// When the log was told last that something is wrong, if it is.
    told: Option<Instant>,
    learned: Instant,
    /// How long after a save the next one begins.
    pause: Duration,
}

/// From the begin of one save to that of the next: a little less than the second that a kill may lose, since the disk takes its time.
const EACH: Duration = Duration::from_millis(900);
/// After saves that fail one by one twice the pause, until it is so long: to open a file that is damaged takes long.
const LONGEST: Duration = Duration::from_secs(10);
/// Between tries of the last save.
const LAST_EACH: Duration = Duration::from_millis(100);
/// What was learned is soft, and seldom worth a write.
const LEARNED_EACH: Duration = Duration::from_secs(60);
/// How often the log tells of something that stays wrong.
const AGAIN: Duration = Duration::from_secs(60);

// === impl State ===

impl State {
    /// Saves what changes of `shared`, each second, from a thread of its own.
    ///
    /// # Errors
    ///
    /// The operating system gives no thread.
    pub fn start(
        opened: Opened,
        shared: Shared,
        clock: Clock,
        metrics: StateMetrics,
        in_force: InForceNow,
    ) -> Result<Self, StateError> {
        let Opened { file, journals, gone, unsettled, .. } = opened;
        metrics.bytes(file.size());
        let path = file.path.clone();
        let (ask, asked) = channel();
        let (end, ended) = channel();
        let told = Told { gone: gone.clone(), unsettled };
        let saver = Saver { file, shared, journals, gone, told, is_told: true };
        let writer = Writer { saver, metrics, clock, in_force, told: None, learned: Instant::now(), pause: EACH };
        let run = move || {
            // Whoever asked may be gone.
            let _ = end.send(writer.run(&asked));
        };
        let thread = thread::Builder::new().name("state".to_owned()).spawn(run);
        thread.map_err(|error| StateError::failed(&path, "has no thread", &error))?;
        Ok(State { ask, ended: Mutex::new(ended) })
    }

    /// Saves for the last time: whether that was done within `patience`. What changes after that is not saved.
    pub fn end(&self, patience: Duration) -> bool {
        let _ = self.ask.send(Ask::End(Instant::now() + patience));
        let saved = self.ended.lock().recv_timeout(patience).unwrap_or(false);
        if !saved {
            tracing::error!("--state: the last save failed, and what changed since the one before is lost");
        }
        saved
    }
}

// === impl Writer ===

impl Writer {
    /// Saves until it is asked to end, or nobody is left who could ask: whether the last save was made.
    fn run(mut self, asked: &Receiver<Ask>) -> bool {
        let mut next = Instant::now() + EACH;
        loop {
            match asked.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Err(RecvTimeoutError::Timeout) => {
                    let learned = self.learned.elapsed() >= LEARNED_EACH;
                    let is_saved = self.save(Also { learned });
                    self.pause = if is_saved { EACH } else { (self.pause * 2).min(LONGEST) };
                    // A save takes a part of the second that it is for; one that took longer is not made up for.
                    next = (next + self.pause).max(Instant::now());
                }
                Ok(Ask::End(until)) => return self.save_last(until),
                Err(RecvTimeoutError::Disconnected) => return self.save(Also { learned: true }),
            }
        }
    }

    /// What waits for room on a disk may have it in a moment.
    fn save_last(&mut self, until: Instant) -> bool {
        loop {
            if self.save(Also { learned: true }) {
                return true;
            }
            if Instant::now() + LAST_EACH >= until {
                return false;
            }
            thread::sleep(LAST_EACH);
        }
    }

    fn save(&mut self, also: Also) -> bool {
        let started = Instant::now();
        if also.learned {
            self.learned = started;
        }
        let now = self.saver.shared.limits.time(self.clock.now());
        // Whatever happens, it is tried again.
        let saved = catch_unwind(AssertUnwindSafe(|| self.saver.save(also, now, &*self.in_force)));
        let saved = saved.unwrap_or_else(|_| Err(self.saver.panicked()));
        match &saved {
            Ok(true) => self.metrics.saved(started.elapsed(), self.saver.file.size(), now),
            Ok(false) => {}
            Err(_) => self.metrics.failed(),
        }
        self.tell(saved.as_ref().err(), matches!(saved, Ok(true)));
        saved.is_ok()
    }

    /// Tells the log what is wrong when that begins, every minute that it stays so, and when it is over.
    fn tell(&mut self, error: Option<&StateError>, is_saved: bool) {
        let Some(error) = error else {
            if is_saved && self.told.take().is_some() {
                tracing::info!("--state: the file is written again, with all that changed meanwhile");
            }
            return;
        };
        if self.told.is_none_or(|told| told.elapsed() >= AGAIN) {
            self.told = Some(Instant::now());
            tracing::error!(%error, "limits are kept in memory alone, and a restart would lose what changes; it is tried again every few seconds");
        }
    }
}
