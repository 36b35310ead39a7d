//! The thread that writes the usage log.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::file::{Doing, LogFile, Trouble};
use super::line::Line;
use super::metrics::LedgerMetrics;
use crate::clock::Micros;

/// So many bytes are written at a time, and one line more.
const BATCH: usize = 256 * 1024;
/// How long lines are gathered that come one by one, so that each does not cost a write and a thread's waking.
const GATHER: Duration = Duration::from_millis(20);
/// When what failed is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How often the log tells of something that stays wrong.
const AGAIN: Duration = Duration::from_secs(60);

/// What the thread is sent.
pub(super) enum Message {
    Line(Box<Line>),
    /// To look what it is asked for.
    Look,
}

/// What the thread is asked for.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) to_end: AtomicBool,
    pub(super) to_reopen: AtomicBool,
}

/// The thread's own.
pub(super) struct Writer {
    pub(super) queue: Receiver<Message>,
    pub(super) file: LogFile,
    pub(super) asked: Arc<Asked>,
    pub(super) metrics: LedgerMetrics,
    /// Told at the end.
    pub(super) ended: Sender<()>,
    /// Lines that are to be written next.
    pub(super) batch: Vec<u8>,
    pub(super) told: Option<Told>,
}

/// What the log was told, and when.
pub(super) struct Told {
    doing: Doing,
    kind: io::ErrorKind,
    at: Instant,
}

// === impl Writer ===

impl Writer {
    /// Writes until it is asked to end, or nobody is left who could send it a line.
    pub(super) fn run(mut self) {
        loop {
            // What was sent before that is written.
            let to_end = self.asked.to_end.load(Ordering::Acquire);
            let goes_on = if to_end { self.drain() } else { self.gather() };
            self.flush();
            if to_end && !self.batch.is_empty() {
                self.give_up();
                break;
            }
            if !goes_on {
                break;
            }
        }
        // Nobody may wait for it.
        let _ = self.ended.send(());
    }

    /// Waits until there is something to do, and takes the lines that there are by then: whether there can be more.
    fn gather(&mut self) -> bool {
        if !self.batch.is_empty() {
            thread::park_timeout(RETRY);
            return true;
        }
        let wait = self.file.due().map(|due| Duration::from_micros(due.0.saturating_sub(now().0)));
        // What was due and could not be done is due still.
        let wait = if self.told.is_some() { wait.map(|wait| wait.max(RETRY)) } else { wait };
        let first = match wait {
            Some(wait) => self.queue.recv_timeout(wait),
            None => self.queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match first {
            Ok(Message::Line(line)) => {
                self.take(&line);
                thread::park_timeout(GATHER);
            }
            Ok(Message::Look) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        self.drain();
        true
    }

    /// Takes what is in the queue, as far as it goes into one batch: whether there can be more.
    pub(super) fn drain(&mut self) -> bool {
        while self.batch.len() < BATCH {
            match self.queue.try_recv() {
                Ok(Message::Line(line)) => self.take(&line),
                Ok(Message::Look) => {}
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return false,
            }
        }
        true
    }

    fn take(&mut self, line: &Line) {
        let before = self.batch.len();
        if serde_json::to_writer(&mut self.batch, line).is_err() {
            self.batch.truncate(before);
            self.metrics.failed.inc();
            return;
        }
        self.batch.push(b'\n');
    }

    /// Writes the batch, and leaves of it what could not be written.
    pub(super) fn flush(&mut self) {
        if self.asked.to_reopen.swap(false, Ordering::AcqRel) {
            self.file.close();
        }
        let appended = self.file.append(&self.batch, now());
        let taken = appended.taken.min(self.batch.len());
        self.metrics.written.inc_by(lines(self.batch.get(..taken).unwrap_or_default()));
        self.batch.drain(..taken);
        self.metrics.failing.set(i64::from(!self.batch.is_empty()));
        self.tell(appended.trouble);
    }

    /// Tells the log what is wrong when that begins, every minute that it stays so, and when it is over.
    fn tell(&mut self, trouble: Option<Trouble>) {
        let file = self.file.path().display().to_string();
        let Some(Trouble { doing, error }) = trouble else {
            if self.told.take().is_some() {
                tracing::info!(file, "--usage-log: it is well again");
            }
            return;
        };
        let kind = error.kind();
        let is_known = self
            .told
            .as_ref()
            .is_some_and(|told| (told.doing, told.kind) == (doing, kind) && told.at.elapsed() < AGAIN);
        if !is_known {
            self.told = Some(Told { doing, kind, at: Instant::now() });
            tracing::error!(
                file, %error,
                "--usage-log: the file is in trouble: {}; it is tried again", doing.as_str()
            );
        }
    }

    /// Counts what will never be written.
    fn give_up(&mut self) {
        let mut lost = lines(&self.batch);
        while let Ok(message) = self.queue.try_recv() {
            lost += u64::from(matches!(message, Message::Line(_)));
        }
        self.metrics.failed.inc_by(lost);
        let file = self.file.path().display().to_string();
        tracing::error!(file, lines = lost, "--usage-log: the process ends, and lines are lost");
    }
}

/// The wall clock, which names of files and their ages go by.
pub(super) fn now() -> Micros {
    Micros(u64::try_from(Timestamp::now().as_microsecond()).unwrap_or(0))
}

fn lines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}
