//! Where the policy comes from: a folder of manifests.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::manifest::Manifests;
use crate::policy::{Options, Policy, compile};

/// Parsers of YAML and CEL recurse, on input that is not ours.
const STACK: usize = 256 * 1024 * 1024;

/// Why a folder cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error("cannot read folder `{}`: {error}", path.display())]
    Folder { path: PathBuf, error: io::Error },
    #[error("cannot read `{}`: {error}", path.display())]
    File { path: PathBuf, error: io::Error },
    #[error("`{}` holds no manifest: no *.yaml, *.yml or *.json", path.display())]
    Empty { path: PathBuf },
    #[error("the compiler ended unexpectedly: {0}")]
    Compiler(String),
}

/// Reads the manifests of `dir`, files in the order of their names. Folders inside are not entered, as `kubectl apply -f`
/// does not; links are followed, as a mounted ConfigMap needs.
///
/// # Errors
///
/// The folder or one of its files cannot be read. What stands in them is no error here: see [`Manifests::problems`].
pub fn read_folder(dir: &Path) -> Result<Manifests, FolderError> {
    let files = read_files(dir)?;
    on_large_stack(|| Manifests::read(files.iter().map(|(name, text)| (name.as_str(), text.as_str()))))
}

/// Reads and compiles `dir`.
///
/// # Errors
///
/// As [`read_folder`].
pub fn load(dir: &Path, options: &Options) -> Result<Policy, FolderError> {
    let files = read_files(dir)?;
    on_large_stack(|| {
        compile(Manifests::read(files.iter().map(|(name, text)| (name.as_str(), text.as_str()))), options)
    })
}

/// Runs `work` on a thread whose stack bears every input that passes the parsers' bounds.
///
/// # Errors
///
/// There is no thread, or `work` panicked.
pub fn on_large_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, FolderError> {
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().name("compile".to_owned()).stack_size(STACK);
        let thread = builder.spawn_scoped(scope, work).map_err(|error| FolderError::Compiler(error.to_string()))?;
        thread.join().map_err(|_| FolderError::Compiler("it panicked".to_owned()))
    })
}

fn read_files(dir: &Path) -> Result<Vec<(String, String)>, FolderError> {
    let folder = |error| FolderError::Folder { path: dir.to_owned(), error };
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(dir).map_err(folder)? {
        let path = entry.map_err(folder)?.path();
        // `..data` and its like are how a mounted ConfigMap is swapped.
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let kind = path.extension().and_then(|extension| extension.to_str());
        if !hidden && matches!(kind, Some("yaml" | "yml" | "json")) && path.is_file() {
            paths.push(path);
        }
    }
    if paths.is_empty() {
        return Err(FolderError::Empty { path: dir.to_owned() });
    }
    paths.sort_unstable();
    let read = |path: PathBuf| match fs::read(&path) {
        // A byte that is not UTF-8 becomes a replacement character: the YAML parser names its line.
        Ok(bytes) => Ok((path.display().to_string(), String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) => Err(FolderError::File { path, error }),
    };
    paths.into_iter().map(read).collect()
}
