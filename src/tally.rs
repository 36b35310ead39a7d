//! `tiergate usage`: sums usage logs, as a stream. What it holds in memory are the sums, and no lines.

mod print;
mod read;
mod sums;
mod unread;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use self::read::read;
use self::sums::Tally;
use self::unread::Unread;
use crate::args::Usage;
use crate::clock::Micros;
use crate::usage::ledger::suffix;

/// Why there are no sums.
#[derive(Debug, thiserror::Error)]
pub enum TallyError {
    #[error("--since has to be before --until")]
    Span,
    #[error("nothing was summed: there is no usage log that can be read")]
    Nothing,
    #[error("cannot print: {0}")]
    Output(io::Error),
}

/// Reads what it is given, and remembers what that was.
struct Reader<'e, E> {
    tally: Tally,
    unread: Unread<'e, E>,
    since: Micros,
    until: Micros,
    /// Device and inode of each file.
    seen: HashSet<(u64, u64)>,
    /// How many could be opened.
    opened: usize,
}

const STDIN: &str = "-";
/// Of a file at a time.
const BUFFER: usize = 256 * 1024;
/// So often a folder is looked at again for what was rotated while it was read.
const ROUNDS: usize = 10;

/// Prints the sums to `out`, and what could not be read to `err`; whether all could be.
///
/// # Errors
///
/// Nothing can be read, or printed.
pub fn run(args: &Usage, out: &mut impl Write, err: &mut impl Write) -> Result<bool, TallyError> {
    let (since, until) = (args.since.unwrap_or(Micros(0)), args.until.unwrap_or(Micros(u64::MAX)));
    if since >= until {
        return Err(TallyError::Span);
    }
    let (tally, unread) = (Tally::by(&args.by), Unread::told_to(err));
    let mut reader = Reader { tally, unread, since, until, seen: HashSet::new(), opened: 0 };
    args.paths.iter().for_each(|path| reader.path(path));
    let Reader { tally, unread, opened, .. } = reader;
    let unread = unread.end();
    if opened == 0 {
        return Err(TallyError::Nothing);
    }
    match print::sums(args.format, &tally, unread, out).and_then(|()| out.flush()) {
        // Whoever reads has seen enough, as `head` has.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(TallyError::Output(error)),
        _ => Ok(unread.is_nothing()),
    }
}

// === impl Reader ===

impl<E: Write> Reader<'_, E> {
    /// A path as it was given.
    fn path(&mut self, path: &Path) {
        if path == Path::new(STDIN) {
            self.opened += 1;
            return self.lines(Path::new("standard input"), io::stdin().lock());
        }
        if path.is_dir() {
            return self.files(path, |_| true);
        }
        // First the file itself: what it is rotated to meanwhile is the same, and known.
        self.file(path);
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        self.files(folder, |other| suffix(path, other).is_some_and(is_rotation));
    }

    /// The files of a folder that are wanted, but for hidden ones.
    fn files(&mut self, folder: &Path, is_wanted: impl Fn(&Path) -> bool) {
        let is_hidden = |path: &Path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        // While one is read others are rotated: what has another name by then is looked for once more.
        let mut tried = HashSet::new();
        for _ in 0..ROUNDS {
            let entries = fs::read_dir(folder).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
            let mut paths: Vec<PathBuf> = match entries {
                Ok(paths) => paths,
                Err(error) => return self.unread.file(folder, &error.to_string()),
            };
            // A pipe might have nobody who writes.
            paths.retain(|path| !is_hidden(path) && is_wanted(path) && !path.is_dir() && !is_special(path));
            paths.retain(|path| {
                tried.insert(path.metadata().map(|file| (file.dev(), file.ino())).map_err(|_| path.clone()))
            });
            paths.sort_unstable();
            if paths.is_empty() {
                return;
            }
            paths.iter().for_each(|path| self.file(path));
        }
    }

    fn file(&mut self, path: &Path) {
        let opened = File::open(path).and_then(|file| Ok((file.metadata()?, file)));
        match opened {
            Ok((metadata, file)) => {
                self.opened += 1;
                if self.seen.insert((metadata.dev(), metadata.ino())) {
                    self.lines(path, BufReader::with_capacity(BUFFER, file));
                }
            }
            Err(error) => self.unread.file(path, &error.to_string()),
        }
    }

    fn lines(&mut self, path: &Path, lines: impl BufRead) {
        let Reader { tally, unread, since, until, .. } = self;
        let end = read(lines, |number, entry| match entry {
            Ok(entry) if (*since..*until).contains(&entry.time) => tally.add(&entry),
            Ok(_) => {}
            Err(why) => unread.line(path, number, &why),
        });
        if let Err(why) = end {
            unread.file(path, &why);
        }
        unread.end_of_file(path);
    }
}

/// Whether that is what is added to the name of a log when it is rotated: by tiergate a dot and the time, by logrotate a dot and a number or
/// a hyphen and the date; and whatever comes behind, so that what is compressed is not passed over.
fn is_rotation(suffix: &str) -> bool {
    suffix.strip_prefix(['.', '-']).is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
}

fn is_special(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| !metadata.is_file())
}

#[cfg(test)]
mod tests;
