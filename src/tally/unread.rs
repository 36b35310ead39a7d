//! What could not be read: told as it is met, and counted.

use std::io::Write;
use std::path::Path;

use serde::Serialize;

use crate::printable::{masked, printable_line};

/// Tells what cannot be read, and counts it. A reader of standard error who has gone changes nothing.
pub(super) struct Unread<'e, E> {
    err: &'e mut E,
    counts: Counts,
    /// Of the file that is being read.
    lines: u64,
}

/// How much could not be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Counts {
    pub(super) files: u64,
    pub(super) lines: u64,
}

/// So many lines of a file are told; it may be no usage log at all.
const TOLD: u64 = 10;
/// So many characters of a reason, which may repeat what stands in the file.
const REASON: usize = 200;

// === impl Unread ===

impl<'e, E: Write> Unread<'e, E> {
    pub(super) fn told_to(err: &'e mut E) -> Self {
        Unread { err, counts: Counts::default(), lines: 0 }
    }

    /// A file, or the rest of it.
    pub(super) fn file(&mut self, path: &Path, why: &str) {
        self.counts.files += 1;
        let _ = writeln!(self.err, "{}: not read: {}", name(path), safe(why));
    }

    pub(super) fn line(&mut self, path: &Path, number: u64, why: &str) {
        self.counts.lines += 1;
        self.lines += 1;
        if self.lines <= TOLD {
            let _ = writeln!(self.err, "{}:{number}: not read: {}", name(path), safe(why));
        }
    }

    pub(super) fn end_of_file(&mut self, path: &Path) {
        let more = self.lines.saturating_sub(TOLD);
        if more > 0 {
            let _ = writeln!(self.err, "{}: not read: {}", name(path), plural(more, "more line"));
        }
        self.lines = 0;
    }

    /// How much it was, which it tells if it was anything.
    pub(super) fn end(self) -> Counts {
        let Counts { files, lines } = self.counts;
        if !self.counts.is_nothing() {
            let _ = writeln!(self.err, "not read: {}, {}", plural(files, "file"), plural(lines, "line"));
        }
        self.counts
    }
}

fn plural(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn name(path: &Path) -> String {
    printable_line(&path.display().to_string()).into_owned()
}

fn safe(why: &str) -> String {
    let short: String = masked(why).chars().take(REASON).collect();
    printable_line(&short).into_owned()
}

// === impl Counts ===

impl Counts {
    pub(super) fn is_nothing(self) -> bool {
        self == Counts::default()
    }
}
