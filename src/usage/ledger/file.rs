//! The file of the usage log: appended to, rotated, opened again.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::line::{rfc3339, timestamp};
use super::name::{rotated_name, rotation_of};
use crate::clock::Micros;

/// How the log is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub path: PathBuf,
    /// The file is rotated before it would be larger, in bytes.
    pub max_size: u64,
    /// And when its first line is so old.
    pub max_age: Duration,
    /// How many rotated files are kept; 0 for all.
    pub keep: usize,
    pub waits: Waits,
}

/// How long, and how many, calls wait for their lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waits {
    /// So long a line that is not exact waits for a better report.
    pub grace: Duration,
    /// So many calls without a report are remembered, to have a line when none comes.
    pub open: usize,
}

/// The file, open or not.
#[derive(Debug)]
pub(super) struct LogFile {
    options: Options,
    open: Option<Open>,
}

/// A file that is open.
#[derive(Debug)]
struct Open {
    file: File,
    identity: Identity,
    /// A device has no size, is never rotated, and has no end that could be cut.
    is_regular: bool,
    size: u64,
    /// The time of its first line.
    began: Micros,
    /// Whether its last line is without its end.
    is_cut: bool,
}

/// Device and inode: what a file is, wherever it has been moved to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity(u64, u64);

/// What became of lines that were to be appended.
#[derive(Debug)]
pub(super) struct Appended {
    /// How many of the bytes need not be appended again. They end with a line.
    pub(super) taken: usize,
    pub(super) trouble: Option<Trouble>,
}

/// What could not be done with the file.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) doing: Doing,
    pub(super) error: io::Error,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doing {
    Opening,
    Writing,
    Rotating,
    /// An old file.
    Removing,
}

/// A first line is shorter.
const FIRST_LINE: usize = 64 * 1024;

// === impl Waits ===

impl Waits {
    /// The same report over another channel is there by then.
    pub const GRACE: Duration = Duration::from_secs(5);
    /// 60 MB of them.
    pub const OPEN: usize = 200_000;
}

impl Default for Waits {
    fn default() -> Self {
        Waits { grace: Self::GRACE, open: Self::OPEN }
    }
}

// === impl LogFile ===

impl LogFile {
    /// Opens the file, and makes it where it is not there.
    ///
    /// # Errors
    ///
    /// It cannot be opened, or is nothing that lines can be appended to.
    pub(super) fn open(options: Options, now: Micros) -> io::Result<Self> {
        // A rotation would rename a link, and leave what it leads to.
        let path = fs::canonicalize(&options.path).unwrap_or_else(|_| options.path.clone());
        let open = Some(Open::at(&path, now)?);
        Ok(LogFile { options: Options { path, ..options }, open })
    }

    pub(super) fn waits(&self) -> Waits {
        self.options.waits
    }

    pub(super) fn path(&self) -> &Path {
        &self.options.path
    }

    /// Has it opened anew before the next lines.
    pub(super) fn close(&mut self) {
        self.open = None;
    }

    /// When it is due to be rotated, if it is open and has lines.
    pub(super) fn due(&self) -> Option<Micros> {
        let open = self.open.as_ref().filter(|open| open.is_regular && open.size > 0)?;
        Some(open.began.saturating_add(self.options.max_age))
    }

    /// Appends `lines`, each of which has its end, after it has rotated the file if that is due.
    pub(super) fn append(&mut self, lines: &[u8], now: Micros) -> Appended {
        let rotated = self.rotate_if_due(lines.len(), now);
        let (taken, failure) = match self.current(now) {
            Err(error) => (0, Some(Trouble { doing: Doing::Opening, error })),
            Ok(open) => {
                let (taken, result) = open.append(lines);
                (taken, result.err().map(|error| Trouble { doing: Doing::Writing, error }))
            }
        };
        if failure.is_some() {
            // Whatever it was, the next try begins from the start, and looks how the file ends.
            self.close();
        }
        Appended { taken, trouble: failure.or(rotated.err()) }
    }

    /// The file that is at the path: another one, where that was moved away.
    fn current(&mut self, now: Micros) -> io::Result<&mut Open> {
        let metadata = fs::metadata(&self.options.path).ok();
        let same = |open: &Open| {
            metadata.as_ref().filter(|metadata| open.identity == Identity::of(metadata)).map(Metadata::len)
        };
        let open = match self.open.take().and_then(|open| Some((same(&open)?, open))) {
            // Others may have appended to it, or emptied it.
            Some((size, open)) => Open { began: if size == 0 { now } else { open.began }, size, ..open },
            None => Open::at(&self.options.path, now)?,
        };
        Ok(self.open.insert(open))
    }

    fn rotate_if_due(&mut self, more: usize, now: Micros) -> Result<(), Trouble> {
        let (max_size, max_age) = (self.options.max_size, self.options.max_age);
        // What cannot be opened is told by whoever writes.
        let Ok(open) = self.current(now) else { return Ok(()) };
        let is_full = more > 0 && open.size.saturating_add(more as u64) > max_size;
        let is_old = open.began.saturating_add(max_age) <= now;
        if !open.is_regular || open.size == 0 || !(is_full || is_old) {
            return Ok(());
        }
        let newest = rotate(&self.options.path, now).map_err(|error| Trouble { doing: Doing::Rotating, error })?;
        self.close();
        self.remove_old(&newest).map_err(|error| Trouble { doing: Doing::Removing, error })
    }

    /// Removes the oldest of the rotated files, where there are more than are to be kept. The `newest` stays, though its name be that of
    /// an old one: the clock may have been set back.
    fn remove_old(&self, newest: &Path) -> io::Result<()> {
        let Some(others) = self.options.keep.checked_sub(1) else { return Ok(()) };
        let mut rotated = rotated(&self.options.path)?;
        rotated.retain(|path| path != newest);
        let extra = rotated.len().saturating_sub(others);
        rotated.drain(..extra).try_for_each(fs::remove_file)
    }
}

/// Gives the file a name with the time, which no other has.
fn rotate(path: &Path, now: Micros) -> io::Result<PathBuf> {
    let later = |millis| rotated_name(path, timestamp(now.saturating_add(Duration::from_millis(millis))));
    let free = (0..1_000).map(later).find(|name| !name.exists());
    let name = free.ok_or_else(|| io::Error::new(io::ErrorKind::AlreadyExists, "its name with the time is taken"))?;
    fs::rename(path, &name)?;
    Ok(name)
}

/// The rotated files of the log at `path`, the oldest first.
fn rotated(path: &Path) -> io::Result<Vec<PathBuf>> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut found = Vec::new();
    for entry in fs::read_dir(folder.unwrap_or(Path::new(".")))? {
        // As the path is written, so that it is the same for the same file.
        let entry = folder.unwrap_or(Path::new("")).join(entry?.file_name());
        if rotation_of(path, &entry) {
            found.push(entry);
        }
    }
    found.sort_unstable();
    Ok(found)
}

// === impl Open ===

impl Open {
    fn at(path: &Path, now: Micros) -> io::Result<Self> {
        let wrong = |what| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        match fs::metadata(path).map(|metadata| metadata.file_type()) {
            Ok(kind) if kind.is_dir() => return wrong("it is a folder, and has to be a file"),
            // Opening one would wait for somebody who reads.
            Ok(kind) if kind.is_fifo() || kind.is_socket() => return wrong("it is a pipe, and has to be a file"),
            _ => {}
        }
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
        let metadata = file.metadata()?;
        let (is_regular, size) = (metadata.is_file(), metadata.len());
        let has_lines = is_regular && size > 0;
        Ok(Open {
            identity: Identity::of(&metadata),
            is_regular,
            size,
            began: if has_lines { began(&file, &metadata).map_or(now, |began| began.min(now)) } else { now },
            is_cut: has_lines && last_byte(&file, size)? != b'\n',
            file,
        })
    }

    /// Appends `lines`: how many bytes of them need not be appended again, and why that is not all.
    fn append(&mut self, lines: &[u8]) -> (usize, io::Result<()>) {
        if lines.is_empty() {
            return (0, Ok(()));
        }
        if self.is_cut {
            // Whoever reads loses one line, and not the one after it too.
            if let (_, Err(error)) = self.write(b"\n") {
                return (0, Err(error));
            }
            self.is_cut = false;
        }
        let (done, result) = self.write(lines);
        (taken(lines, done), result)
    }

    fn write(&mut self, bytes: &[u8]) -> (usize, io::Result<()>) {
        let (done, result) = write(&mut self.file, bytes);
        self.size = self.size.saturating_add(done as u64);
        (done, result)
    }
}

/// Writes what it can: how many bytes, and why that is not all.
fn write(file: &mut impl Write, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut done = 0;
    while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
        match file.write(rest) {
            Ok(0) => return (done, Err(io::ErrorKind::WriteZero.into())),
            Ok(more) => done += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (done, Err(error)),
        }
    }
    (done, Ok(()))
}

/// How much of `lines` need not be written again, of which so many bytes were: a line that was cut is written again, unless only its
/// end is missing, which it gets before the next.
fn taken(lines: &[u8], done: usize) -> usize {
    match lines.get(done) {
        None => lines.len(),
        Some(b'\n') => done + 1,
        Some(_) => {
            let written = lines.get(..done).unwrap_or_default();
            written.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1)
        }
    }
}

fn last_byte(file: &File, size: u64) -> io::Result<u8> {
    let mut byte = [0];
    file.read_exact_at(&mut byte, size.saturating_sub(1))?;
    Ok(byte[0])
}

/// When the file began: the time of its first line, else that of its last change.
fn began(file: &File, metadata: &Metadata) -> Option<Micros> {
    #[derive(Deserialize)]
    struct First {
        #[serde(with = "rfc3339")]
        time: Micros,
    }
    let mut bytes = vec![0; FIRST_LINE];
    let read = file.read_at(&mut bytes, 0).unwrap_or(0);
    bytes.truncate(read);
    let line = bytes.split(|byte| *byte == b'\n').next()?;
    let first = serde_json::from_slice::<First>(line).map(|first| first.time);
    let changed = || Some(metadata.modified().ok()?.duration_since(std::time::UNIX_EPOCH).ok()?.into());
    first.ok().or_else(changed)
}

// === impl Identity ===

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        Identity(metadata.dev(), metadata.ino())
    }
}

// === impl Doing ===

impl Doing {
    /// What cannot be done, and what that means.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Doing::Opening => "it cannot be opened, and lines wait as long as there is room",
            Doing::Writing => "it cannot be written, and lines wait as long as there is room",
            Doing::Rotating => "it cannot be rotated, and grows",
            Doing::Removing => "it is rotated, and files that are not to be kept cannot be removed",
        }
    }
}

#[cfg(test)]
mod tests;
