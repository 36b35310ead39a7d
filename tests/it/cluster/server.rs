//! A server process that ends when the test process does, however that ends.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

/// The process, under a shell that waits for the end of its standard input: the operating system closes it when the test
/// process is gone, and no destructor has to run for that.
pub(crate) struct Server {
    shell: Child,
    /// Held open for as long as the server shall run.
    input: Option<ChildStdin>,
    id: String,
    pub(crate) log: PathBuf,
}

/// The log, the folder to remove at the end, and the command. A signal to all processes of the terminal must not keep it from
/// tidying up.
const KEEP: &str = r#"trap '' INT TERM HUP
log=$1 folder=$2; shift 2
"$@" </dev/null >>"$log" 2>&1 & server=$!
echo $server
cat >/dev/null
kill -9 $server 2>/dev/null; wait $server 2>/dev/null
[ -z "$folder" ] || rm -rf "$folder""#;

impl Server {
    pub(crate) fn start(server: &Command, log: &Path, folder: Option<&Path>) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", KEEP, "sh"]).arg(log).arg(folder.unwrap_or(Path::new("")));
        command.arg(server.get_program()).args(server.get_args());
        let mut shell = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let input = shell.stdin.take();
        let mut id = String::new();
        BufReader::new(shell.stdout.take().unwrap()).read_line(&mut id).unwrap();
        Server { shell, input, id: id.trim().to_owned(), log: log.to_owned() }
    }

    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.id]).status().unwrap();
        assert!(sent.success(), "{name} to {}", self.id);
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(&mut self) {
        self.input = None;
        self.shell.wait().unwrap();
    }

    /// The end of what it said.
    pub(crate) fn said(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.shell.wait();
    }
}
