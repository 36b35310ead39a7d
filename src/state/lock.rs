//! One process on one file: who holds the lock of the file beside it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::StateError;
use super::file::beside;

/// Held until it is dropped, or the process ends in any way.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

/// How long the process before this one has to leave.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_millis(50);
/// A number is shorter.
const PID: u64 = 20;

// === impl Lock ===

impl Lock {
    /// The lock of the state file at `path`, which is waited for as long as `patience`.
    ///
    /// # Errors
    ///
    /// Another process holds it, or its file cannot be made.
    pub(super) fn take(path: &Path, patience: Duration) -> Result<Self, StateError> {
        let failed = |error: io::Error| StateError::failed(path, "has no lock", &error);
        let name = beside(path, ".lock");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&name);
        let mut file = file.map_err(failed)?;
        let until = Instant::now() + patience;
        let mut was_told = false;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() >= until => {
                    return Err(StateError::InUse { path: path.to_owned(), pid: pid(&mut file) });
                }
                Err(TryLockError::WouldBlock) => {
                    if !std::mem::replace(&mut was_told, true) {
                        let (file, pid) = (path.display(), pid(&mut file));
                        tracing::info!(%file, pid, "--state: the file is in use by another process, which is waited for");
                    }
                    // A lock that is waited for could be waited for without an end.
                    std::thread::sleep(AGAIN);
                }
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
        }
        file.set_len(0).and_then(|()| file.write_all(std::process::id().to_string().as_bytes())).map_err(failed)?;
        Ok(Lock { _file: file })
    }
}

/// Who holds it, as far as that was written.
fn pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    io::Seek::rewind(file).ok()?;
    file.take(PID).read_to_string(&mut text).ok()?;
    io::Seek::rewind(file).ok()?;
    text.trim().parse().ok()
}
