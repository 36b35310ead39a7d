//! The usage log: one line of JSON for each settled call, in a file that is only appended to.
//!
//! A request never waits for it. Lines go through a bounded queue to a thread of their own, which writes those that have come
//! together; what does not fit into the queue is counted, and told in the log. While the file cannot be written, it is tried
//! again each second. A line that is not exact waits a little for a better report of its call, that both be one line.

mod file;
mod grace;
mod line;
mod metrics;
mod name;
mod names;
mod writer;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

pub use self::file::{Options, Waits};
pub use self::line::{Line, Quality, rfc3339, timestamp};
pub use self::metrics::LedgerMetrics;
pub use self::name::suffix;
pub use self::names::LimitNames;

use self::file::LogFile;
use self::grace::Grace;
use self::writer::{Asked, Message, Writer, now};
use super::outstanding::Outstanding;
use crate::clock::Nanos;
use crate::throttle::Throttle;

/// So many lines wait for the thread, of some 500 bytes each: seconds of the busiest gateway.
const QUEUE: usize = 65_536;
/// How long the end of the process waits for room at a time: what the thread needs to write a batch.
const ROOM: Duration = Duration::from_millis(1);

/// Writes the usage log.
pub struct Ledger {
    queue: SyncSender<Message>,
    asked: Arc<Asked>,
    thread: Thread,
    ended: Mutex<Receiver<()>>,
    metrics: LedgerMetrics,
    waits: Waits,
    grace: Grace,
    /// Lines that there was no room for.
    dropped: Mutex<Throttle>,
}

/// Why there is no usage log.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("--usage-log: `{}` cannot be opened: {error}", path.display())]
    Open { path: PathBuf, error: io::Error },
    #[error("--usage-log: there is no thread for it: {0}")]
    Thread(io::Error),
}

// === impl Ledger ===

impl Ledger {
    /// Opens the file, makes it where it is not there, and starts the thread.
    ///
    /// # Errors
    ///
    /// The file cannot be opened, or the operating system gives no thread.
    pub fn open(options: Options, metrics: LedgerMetrics) -> Result<Self, LedgerError> {
        Ledger::with_room(options, metrics, QUEUE)
    }

    /// Likewise, where so many lines wait for the thread.
    pub(super) fn with_room(options: Options, metrics: LedgerMetrics, lines: usize) -> Result<Self, LedgerError> {
        let path = options.path.clone();
        let file = LogFile::open(options, now()).map_err(|error| LedgerError::Open { path, error })?;
        let (mut ledger, writer) = Ledger::around(file, metrics, lines);
        let thread = thread::Builder::new().name("usage-log".to_owned()).spawn(move || writer.run());
        ledger.thread = thread.map_err(LedgerError::Thread)?.thread().clone();
        Ok(ledger)
    }

    /// A ledger whose thread is not started.
    fn around(file: LogFile, metrics: LedgerMetrics, lines: usize) -> (Self, Writer) {
        let (queue, lines) = mpsc::sync_channel(lines);
        let (end, ended) = mpsc::channel();
        let asked = Arc::<Asked>::default();
        let waits = file.waits();
        let grace = Grace::new(waits.grace);
        let writer = Writer {
            queue: lines,
            file,
            asked: Arc::clone(&asked),
            metrics: metrics.clone(),
            ended: end,
            batch: Vec::new(),
            told: None,
        };
        let (ended, dropped) = (Mutex::new(ended), Mutex::default());
        (Ledger { queue, asked, thread: thread::current(), ended, metrics, waits, grace, dropped }, writer)
    }

    /// Has `line` written soon, if there is room for it: whether there is.
    pub(super) fn offer(&self, line: Line) -> bool {
        self.queue.try_send(Message::Line(Box::new(line))).is_ok()
    }

    /// Has what waits for a better report written, and waits for room until then. From now on nothing waits for one.
    pub(super) fn end_waiting(&self, until: Instant) {
        for line in self.grace.end() {
            let mut message = Message::Line(Box::new(line));
            while let Err(TrySendError::Full(back)) = self.queue.try_send(message) {
                if Instant::now() >= until {
                    self.tell_dropped();
                    break;
                }
                self.make_room();
                message = back;
            }
        }
    }

    /// Waits a moment for the thread to make room.
    pub(super) fn make_room(&self) {
        self.thread.unpark();
        // A sender of a full queue can wait for room, but not for so long at most.
        thread::sleep(ROOM);
    }

    /// Has `line` written soon. Where there is no room for it, it is dropped and counted.
    pub fn write(&self, line: Line) {
        if !self.offer(line) {
            self.tell_dropped();
        }
    }

    fn tell_dropped(&self) {
        self.metrics.dropped.inc();
        if let Some(lines) = self.dropped.lock().count(Instant::now()) {
            tracing::error!(lines, "--usage-log: lines are dropped, for there is no room to wait for the file");
        }
    }

    /// Has a line of that call written: soon if it is exact and no correction, else when it has waited long
    /// enough for a line that corrects it, or that it corrects, as one with that.
    pub fn settle(&self, call: u128, line: Line, now: Nanos) {
        self.grace.take(call, line, now).into_iter().for_each(|line| self.write(line));
    }

    /// Has what has waited long enough written. To be called about once a second.
    pub fn write_due(&self, now: Nanos) {
        self.grace.due(now).into_iter().for_each(|line| self.write(line));
    }

    /// Room for the calls that have no report yet, of which no line can be written.
    #[must_use]
    pub(super) fn outstanding(&self) -> Outstanding {
        Outstanding::new(self.waits.open, self.metrics.forgotten.clone())
    }

    /// Has the file opened anew: what is at its path by then, or a new one.
    pub fn reopen(&self) {
        self.asked.to_reopen.store(true, Ordering::Release);
        self.wake();
    }

    /// Writes what waits, and ends: whether it did within `patience`. What is written after that is dropped.
    pub fn close(&self, patience: Duration) -> bool {
        self.grace.end().into_iter().for_each(|line| self.write(line));
        self.asked.to_end.store(true, Ordering::Release);
        self.wake();
        let ended = self.ended.lock().recv_timeout(patience).is_ok();
        if !ended {
            tracing::error!("--usage-log: the file takes too long, and lines may be lost");
        }
        ended
    }

    /// A full queue has the thread awake.
    fn wake(&self) {
        let _ = self.queue.try_send(Message::Look);
        self.thread.unpark();
    }
}

/// The thread writes what it can, and ends.
impl Drop for Ledger {
    fn drop(&mut self) {
        self.grace.end().into_iter().for_each(|line| self.write(line));
        self.asked.to_end.store(true, Ordering::Release);
        self.wake();
    }
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ledger")
    }
}

#[cfg(test)]
mod tests;
