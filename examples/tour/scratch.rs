//! A folder for keys and what else must not stay.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::Result;

/// Only this user can read it, and it goes when the tour does, however that ends.
pub struct Scratch {
    path: PathBuf,
    janitor: Child,
    lifeline: Option<ChildStdin>,
}

/// Removes a folder when standard input ends; again if a server, which then ends as well, has still written to it.
const REMOVE_WHEN_STDIN_ENDS: &str = r#"
cat >/dev/null
for try in 1 2 3 4 5 6 7 8 9 10; do
  rm -rf "$1" && exit
  sleep 1
done
"#;

// === impl Scratch ===

impl Scratch {
    pub fn create() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("tiergate-tour-{}", std::process::id()));
        // Fails when it is there already: then it is not ours.
        DirBuilder::new().mode(0o700).create(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let mut janitor = Command::new("sh")
            .args(["-c", REMOVE_WHEN_STDIN_ENDS, "janitor"])
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0) // else Ctrl-C would end it before it has begun
            .spawn()
            .map_err(|error| format!("sh: {error}"))?;
        let lifeline = janitor.stdin.take();
        Ok(Self { path, janitor, lifeline })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.lifeline = None;
        _ = self.janitor.wait();
    }
}
