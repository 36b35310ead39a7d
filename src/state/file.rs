//! The file itself: its tables, and how it is opened, made, and moved aside.

use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use redb::backends::FileBackend;
use redb::{
    Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, TableDefinition, TableError,
    WriteTransaction,
};

use super::StateError;
use super::lock::{Lock, PATIENCE};

/// What the file is, and the keys that go with it.
pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// Accounts, by shard and part.
pub(super) const BASE: TableDefinition<'_, (u16, u32), &[u8]> = TableDefinition::new("base");
/// Accounts that changed since, by save and shard.
pub(super) const JOURNAL: TableDefinition<'_, (u64, u16), &[u8]> = TableDefinition::new("journal");
/// When each shard was copied last.
pub(super) const SHARDS: TableDefinition<'_, u16, u64> = TableDefinition::new("shards");
/// Settled reservations, by instance, kind and number.
pub(super) const SETTLED: TableDefinition<'_, (u64, u8, u64), &[u8]> = TableDefinition::new("settled");
/// What was learned, by part.
pub(super) const LEARNED: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("learned");
/// Since when cells are not in force that accounts have.
pub(super) const GONE: TableDefinition<'_, u64, u64> = TableDefinition::new("gone");

const PRODUCT: (&str, &[u8]) = ("product", b"tiergate");
/// Another one is another layout.
pub(super) const FORMAT: u32 = 1;
const FORMAT_KEY: &str = "format";
const SECRET: &str = "secret";
const ACCOUNTS: &str = "accounts";
/// What of the file is kept in memory: what is written is seldom read again.
const CACHE: usize = 16 * 1024 * 1024;

/// A file that this process alone uses.
#[derive(Debug)]
pub(super) struct File {
    pub(super) path: PathBuf,
    /// `None` after a failure, until it is opened anew.
    database: Option<Database>,
    is: Identity,
    _lock: Lock,
}

/// Which file it is, wherever it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

/// The keys that go with the file.
#[derive(Debug, Default)]
pub(super) struct Meta {
    pub(super) secret: Option<[u8; 32]>,
    pub(super) accounts: Option<[u8; 32]>,
    pub(super) unsettled: Vec<u8>,
}

// === impl File ===

impl File {
    /// Opens the file, and makes it where it is not there.
    ///
    /// # Errors
    ///
    /// Another process uses it, or it cannot be used.
    pub(super) fn open(path: &Path) -> Result<Self, StateError> {
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let lock = Lock::take(&path, PATIENCE)?;
        if is_wanting(&path)? {
            make(&path)?;
        }
        let database = open(&path, true)?;
        keep_secret(&path);
        let is = Identity::of(&path).map_err(|error| StateError::failed(&path, "cannot be opened", &error))?;
        Ok(File { path, database: Some(database), is, _lock: lock })
    }

    /// Moves a file aside that is not what it should be, and says where it is.
    ///
    /// # Errors
    ///
    /// Another process uses it, or it cannot be moved.
    pub(super) fn discard(path: &Path) -> Result<PathBuf, StateError> {
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let _lock = Lock::take(&path, PATIENCE)?;
        let time = Timestamp::now().strftime("%Y%m%dT%H%M%S%.6fZ").to_string();
        let aside = beside(&path, &format!(".discarded-{time}"));
        fs::rename(&path, &aside).map_err(|error| StateError::failed(&path, "cannot be moved aside", &error))?;
        Ok(aside)
    }

    /// The database, which is opened anew after a failure.
    ///
    /// # Errors
    ///
    /// It cannot be; or the file is not where it was. Another one has other keys, and what is written to one that was moved is lost.
    pub(super) fn database(&mut self) -> Result<&Database, StateError> {
        if !Identity::of(&self.path).is_ok_and(|is| is == self.is) {
            let error = io::Error::other("it was moved, or another one is in its place: put it back, or start again");
            return Err(StateError::failed(&self.path, "is not the file that was opened", &error));
        }
        let database = match self.database.take() {
            Some(database) => database,
            None => open(&self.path, false)?,
        };
        Ok(self.database.insert(database))
    }

    /// Has it opened anew before it is used again: after a failure it takes nothing more.
    pub(super) fn close(&mut self) {
        self.database = None;
    }

    /// Whether it was closed since it was used last.
    pub(super) fn is_closed(&self) -> bool {
        self.database.is_none()
    }

    /// In bytes.
    pub(super) fn size(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |metadata| metadata.len())
    }
}

// === impl Identity ===

impl Identity {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        Ok(Identity { device: metadata.dev(), inode: metadata.ino() })
    }
}

/// Whether there is none at `path`, or an empty one.
fn is_wanting(path: &Path) -> Result<bool, StateError> {
    let wrong = |error: io::Error| Err(StateError::failed(path, "cannot be opened", &error));
    match fs::metadata(path) {
        // Nor is it moved aside: it may be a device.
        Ok(metadata) if !metadata.is_file() => {
            wrong(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"))
        }
        Ok(metadata) => Ok(metadata.len() == 0),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => wrong(error),
    }
}

/// The database at `path`; at first all that is in it is looked at.
fn open(path: &Path, is_first: bool) -> Result<Database, StateError> {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE).set_check_integrity_on_open(is_first);
    let database = guarded(path, || builder.open(path))?;
    check(path, &database)?;
    Ok(database)
}

/// It has secrets.
fn keep_secret(path: &Path) {
    if fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0) {
        let _ = fs::set_permissions(path, Permissions::from_mode(0o600));
    }
}

/// What the file's own code says of it: of a file that others wrote into it may panic.
fn guarded(path: &Path, open: impl FnOnce() -> Result<Database, DatabaseError>) -> Result<Database, StateError> {
    match catch_unwind(AssertUnwindSafe(open)) {
        Ok(Ok(database)) => Ok(database),
        Ok(Err(DatabaseError::DatabaseAlreadyOpen)) => Err(StateError::InUse { path: path.to_owned(), pid: None }),
        Ok(Err(DatabaseError::Storage(StorageError::Io(error)))) if error.kind() != io::ErrorKind::InvalidData => {
            match error.kind() {
                io::ErrorKind::UnexpectedEof => Err(StateError::unusable(path, "it is cut off")),
                _ => Err(StateError::failed(path, "cannot be opened", &error)),
            }
        }
        Ok(Err(DatabaseError::Storage(StorageError::Io(_)))) => {
            Err(StateError::unusable(path, "it is no state file of tiergate"))
        }
        Ok(Err(error)) => Err(StateError::unusable(path, format!("it is damaged, or cut off: {error}"))),
        Err(_) => Err(StateError::unusable(path, "it is damaged, or cut off")),
    }
}

/// Makes an empty one, whole or not at all.
fn make(path: &Path) -> Result<(), StateError> {
    let failed = |error: &dyn std::error::Error| StateError::failed(path, "cannot be made", error);
    let new = beside(path, ".new");
    let _ = fs::remove_file(&new);
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&new);
    let file = file.map_err(|error| failed(&error))?;
    let filled = || -> Result<(), redb::Error> {
        let database = Builder::new().set_cache_size(CACHE).create_with_backend(FileBackend::new(file)?)?;
        let transaction = database.begin_write()?;
        {
            let mut meta = transaction.open_table(META)?;
            meta.insert(PRODUCT.0, PRODUCT.1)?;
            meta.insert(FORMAT_KEY, FORMAT.to_be_bytes().as_slice())?;
        }
        tables(&transaction)?;
        transaction.commit()?;
        Ok(database.close()?)
    };
    filled().map_err(|error| failed(&error))?;
    fs::rename(&new, path).map_err(|error| failed(&error))?;
    // The name too is to be there after a crash of the machine, where that can be had.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let _ = fs::File::open(folder).and_then(|folder| folder.sync_all());
    Ok(())
}

/// Has all tables made.
fn tables(transaction: &WriteTransaction) -> Result<(), TableError> {
    transaction.open_table(BASE)?;
    transaction.open_table(JOURNAL)?;
    transaction.open_table(SHARDS)?;
    transaction.open_table(SETTLED)?;
    transaction.open_table(LEARNED)?;
    transaction.open_table(GONE)?;
    Ok(())
}

/// Whether it is ours, and of a format that is known.
fn check(path: &Path, database: &Database) -> Result<(), StateError> {
    let foreign = || StateError::unusable(path, "it is no state file of tiergate");
    let transaction = database.begin_read().map_err(|error| StateError::failed(path, "cannot be read", &error))?;
    let meta = transaction.open_table(META).map_err(|_| foreign())?;
    let value = |key| meta.get(key).ok().flatten().map(|value| value.value().to_vec());
    if value(PRODUCT.0).as_deref() != Some(PRODUCT.1) {
        return Err(foreign());
    }
    let format = value(FORMAT_KEY).and_then(|format| format.try_into().ok()).map(u32::from_be_bytes);
    match format.ok_or_else(foreign)? {
        FORMAT => Ok(()),
        newer => Err(StateError::unusable(
            path,
            format!("it was written by another version of tiergate (format {newer}; this one reads {FORMAT})"),
        )),
    }
}

// === impl Meta ===

impl Meta {
    /// Calls that have a line in the usage log without a report.
    pub(super) const UNSETTLED: &'static str = "unsettled";

    /// `None` if something of it is of another length than that has.
    pub(super) fn read(table: &impl ReadableTable<&'static str, &'static [u8]>) -> Result<Option<Self>, StorageError> {
        let value = |key| table.get(key).map(|value| value.map(|value| value.value().to_vec()));
        let key =
            |value: Option<Vec<u8>>| value.map(|value| value.try_into().ok()).map_or(Some(None), |key| key.map(Some));
        let [secret, accounts] = [key(value(SECRET)?), key(value(ACCOUNTS)?)];
        let unsettled = value(Self::UNSETTLED)?.unwrap_or_default();
        Ok(secret.zip(accounts).map(|(secret, accounts)| Meta { secret, accounts, unsettled }))
    }

    /// Writes the keys. The calls are written by each save in which they changed.
    pub(super) fn write(&self, transaction: &WriteTransaction) -> Result<(), redb::Error> {
        let mut table = transaction.open_table(META)?;
        for (key, value) in [(SECRET, &self.secret), (ACCOUNTS, &self.accounts)] {
            if let Some(value) = value {
                table.insert(key, value.as_slice())?;
            }
        }
        Ok(())
    }
}

/// The path of a file beside it, with that ending.
pub(super) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}
