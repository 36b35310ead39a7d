//! The files of manifests: what is read, and what is there and is not.

use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::FolderError;
use crate::manifest::Manifests;
use crate::problem::{Finding, Place, Problem, Severity};

/// Stands for standard input among the paths.
const STDIN: &str = "-";
/// How it is called in messages.
const STDIN_NAME: &str = "<stdin>";
/// Larger files are no manifests.
const MAX_FILE: u64 = 64 * 1024 * 1024;
/// What of a file tells whether it looks like a manifest.
const BEGINNING: u64 = 64 * 1024;
/// How deep folders inside are looked through for manifests, and at how many entries.
const DEPTH: usize = 4;
const ENTRIES: usize = 1_000;

/// What was found at some paths.
#[derive(Debug, Default, Hash)]
pub(super) struct FoundFiles {
    texts: Vec<File>,
    passed_over: Vec<PassedOver>,
}

/// A file's name for messages, and its text or why there is none.
type File = (String, Result<String, String>);

/// What looks as if it were meant, and is not read.
#[derive(Debug, Hash, PartialEq, Eq, PartialOrd, Ord)]
struct PassedOver {
    name: String,
    message: &'static str,
    remedy: &'static str,
}

/// What the file system says of some paths, and of what stands in folders among them, without opening a file. As long as it is the
/// same, so is what stands in them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stamp(u64);

/// A file that changed this short ago may change again, in a moment that has the same time: so coarse do file systems keep it.
const TICK: Duration = Duration::from_secs(2);

// === impl FoundFiles ===

impl FoundFiles {
    /// Reads files, and the manifests of folders in the order of their names; `-` is standard input. Folders inside are not
    /// entered, as `kubectl apply -f` does not; links are followed, as a mounted ConfigMap needs.
    ///
    /// # Errors
    ///
    /// A path is not there, or a folder holds no manifest. What stands in a file is no error here.
    pub(super) fn read(paths: &[PathBuf]) -> Result<Self, FolderError> {
        let mut files = FoundFiles::default();
        let mut found: Vec<PathBuf> = Vec::new();
        for path in paths {
            let unreadable = |error| FolderError::Folder { path: path.clone(), error };
            if path.as_os_str() != STDIN && fs::metadata(path).map_err(unreadable)?.is_dir() {
                found.extend(files.look_through(path)?);
            } else {
                found.push(path.clone());
            }
        }
        // A file that is named twice, by itself and with its folder, is one. In one folder two names are two files.
        let mut read: HashSet<PathBuf> = HashSet::new();
        let is_one = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        for path in found.into_iter().filter(|path| paths.len() < 2 || read.insert(is_one(path))) {
            files.texts.push(match path.as_os_str() == STDIN {
                true => (STDIN_NAME.to_owned(), read_stdin()),
                false => (path.display().to_string(), read_file(&path)),
            });
        }
        Ok(files)
    }

    /// Reads what stands in the files. The parsers recurse: call this on a large stack.
    pub(super) fn parse(&self) -> Manifests {
        let texts = self.texts.iter().map(|(name, text)| (name.as_str(), text.as_deref().map_err(String::as_str)));
        let mut manifests = Manifests::read_files(texts);
        manifests.problems.extend(self.passed_over.iter().map(PassedOver::problem));
        manifests
    }

    /// The manifests of a folder.
    fn look_through(&mut self, dir: &Path) -> Result<Vec<PathBuf>, FolderError> {
        let folder = |error| FolderError::Folder { path: dir.to_owned(), error };
        let mut paths: Vec<PathBuf> = Vec::new();
        let mut passed_over = Vec::new();
        for entry in fs::read_dir(dir).map_err(folder)? {
            let path = entry.map_err(folder)?.path();
            match why_passed_over(&path) {
                None => paths.push(path),
                Some(None) => {}
                Some(Some((message, remedy))) => {
                    passed_over.push(PassedOver { name: path.display().to_string(), message, remedy });
                }
            }
        }
        passed_over.sort_unstable();
        if paths.is_empty() {
            let passed_over = passed_over.iter().map(|file| file.name.as_str()).collect::<Vec<_>>().join(", ");
            return Err(FolderError::Empty { path: dir.to_owned(), passed_over });
        }
        paths.sort_unstable();
        self.passed_over.extend(passed_over);
        Ok(paths)
    }
}

// === impl Stamp ===

impl Stamp {
    /// `None` where there is none that says enough: something is not there, or has just changed.
    pub(super) fn of<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Option<Self> {
        let (mut hasher, mut newest) = (DefaultHasher::new(), UNIX_EPOCH);
        let mut add = |path: &Path, about: Option<Metadata>| {
            let said = about.as_ref().map(|about| {
                let (changed, written) = ((about.ctime(), about.ctime_nsec()), (about.mtime(), about.mtime_nsec()));
                newest = newest.max(since_epoch(about.ctime())).max(since_epoch(about.mtime()));
                (about.dev(), about.ino(), about.size(), about.mode(), changed, written)
            });
            (path, said).hash(&mut hasher);
        };
        for path in paths {
            let about = fs::metadata(path).ok()?;
            if about.is_dir() {
                let entries = fs::read_dir(path).ok()?.map(|entry| entry.map(|entry| entry.path()));
                let mut entries: Vec<PathBuf> = entries.collect::<Result<_, _>>().ok()?;
                entries.sort_unstable();
                entries.iter().for_each(|entry| add(entry, fs::metadata(entry).ok()));
            }
            add(path, Some(about));
        }
        let rested = SystemTime::now().duration_since(newest).is_ok_and(|rested| rested >= TICK);
        rested.then(|| Stamp(hasher.finish()))
    }
}

fn since_epoch(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
}

/// Why what is at `path` is not read, if it is not: what to say of it where it looks as if it were meant to be.
fn why_passed_over(path: &Path) -> Option<Option<(&'static str, &'static str)>> {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    // `..data` and its like are how a mounted ConfigMap is swapped, `.#file` is how an editor locks it.
    if name.starts_with("..") || name.starts_with(".#") {
        return Some(None);
    }
    if path.is_dir() {
        let found = !name.starts_with('.') && holds_manifests(path, DEPTH, &mut { ENTRIES });
        let remedy = "move its files into the folder above: folders inside are not entered";
        return Some(found.then_some(("is a folder with manifests in it, and is not read", remedy)));
    }
    if name.starts_with('.') {
        let found = looks_like_manifest(path);
        return Some(found.then_some(("is hidden, and is not read", "rename it so that it does not start with a dot")));
    }
    if has_ending(path) {
        return None;
    }
    let remedy = "rename it so that it ends in .yaml, .yml or .json, or remove it";
    Some(looks_like_manifest(path).then_some(("looks like a manifest, and is not read for its ending", remedy)))
}

fn has_ending(path: &Path) -> bool {
    matches!(path.extension().and_then(|extension| extension.to_str()), Some("yaml" | "yml" | "json"))
}

fn holds_manifests(dir: &Path, depth: usize, entries: &mut usize) -> bool {
    let Some(depth) = depth.checked_sub(1) else { return false };
    let found = fs::read_dir(dir).into_iter().flatten().flatten().take_while(|_| {
        *entries = entries.saturating_sub(1);
        *entries > 0
    });
    let paths: Vec<PathBuf> = found.map(|entry| entry.path()).collect();
    paths.iter().any(|path| match path.is_dir() {
        true => holds_manifests(path, depth, entries),
        false => looks_like_manifest(path),
    })
}

/// Whether a file begins as an object of Kubernetes does.
fn looks_like_manifest(path: &Path) -> bool {
    if !fs::metadata(path).is_ok_and(|about| about.is_file()) {
        return false;
    }
    let mut beginning = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(BEGINNING).read_to_end(&mut beginning));
    let text = String::from_utf8_lossy(&beginning);
    let mut lines = text.trim_start_matches('\u{feff}').lines().map(str::trim_end);
    let first = lines.find(|line| !line.is_empty() && !line.starts_with('#')).unwrap_or_default();
    let begins = first.starts_with(['{', '-', '%']) || first.split_once(':').is_some_and(|(key, _)| !key.contains(' '));
    read.is_ok() && begins && text.contains("apiVersion") && text.contains("kind")
}

fn read_stdin() -> Result<String, String> {
    let mut bytes = Vec::new();
    io::stdin().lock().take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    text_of(bytes)
}

/// The text of a file, or why there is none.
fn read_file(path: &Path) -> Result<String, String> {
    text_of(read_bytes(path)?)
}

/// What stands in a file, or why nothing does. A pipe or device would never end.
pub(super) fn read_bytes(path: &Path) -> Result<Vec<u8>, String> {
    let about = fs::metadata(path).map_err(|error| error.to_string())?;
    if !about.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    if about.len() > MAX_FILE {
        return Err(too_large());
    }
    fs::read(path).map_err(|error| error.to_string())
}

fn text_of(bytes: Vec<u8>) -> Result<String, String> {
    if bytes.len() as u64 > MAX_FILE {
        return Err(too_large());
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
        let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("line {line} is not UTF-8")
    })
}

fn too_large() -> String {
    format!("it is larger than {} MiB", MAX_FILE >> 20)
}

// === impl PassedOver ===

impl PassedOver {
    fn problem(&self) -> Problem {
        let place = Place { file: self.name.as_str().into(), line: 0, column: 0 };
        Problem::new(Finding::FileNotRead, Severity::Warning, place, self.message).remedy(self.remedy)
    }
}
