//! The servers of the tour. None outlives it, however it ends.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::Result;

/// Runs a server until it ends or standard input does. The other end of that pipe closes whenever the tour is gone, be
/// it by SIGKILL, which no handler of ours would see.
const UNTIL_STDIN_ENDS: &str = r#"
exec 3<&0
"$@" 3<&- &
server=$!
{ cat >/dev/null; kill "$server"; sleep 5; kill -9 "$server"; } <&3 3<&- >/dev/null 2>&1 &
watcher=$!
exec 3<&- </dev/null
wait "$server"
code=$?
kill "$watcher" 2>/dev/null
exit "$code"
"#;

/// A little more than the script above gives a server.
const STOP_WITHIN: Duration = Duration::from_secs(7);

/// All servers, shared by the thread that starts them and the one that hears signals.
#[derive(Clone, Default)]
pub struct Processes(Arc<Mutex<Vec<Process>>>);

struct Process {
    name: &'static str,
    shell: Child,
    lifeline: Option<ChildStdin>,
    log: PathBuf,
}

// === impl Processes ===

impl Processes {
    /// Starts a server, its output in `log`.
    pub fn start(&self, name: &'static str, command: &Command, log: &Path) -> Result<()> {
        let failed = |error: io::Error| format!("{name}: {error}");
        let output = File::create(log).map_err(failed)?;
        let mut shell = Command::new("sh")
            .args(["-c", UNTIL_STDIN_ENDS, name])
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(Stdio::piped())
            .stdout(output.try_clone().map_err(failed)?)
            .stderr(output)
            .process_group(0) // else Ctrl-C would end the servers before the tour asks them to
            .spawn()
            .map_err(failed)?;
        let lifeline = shell.stdin.take();
        self.lock().push(Process { name, shell, lifeline, log: log.to_owned() });
        Ok(())
    }

    /// An error if a server has ended.
    pub fn check(&self) -> Result<()> {
        for process in self.lock().iter_mut() {
            if let Some(status) = process.shell.try_wait()? {
                let Process { name, log, .. } = &*process;
                return Err(format!("{name} ended ({status}); the end of {}:\n{}", log.display(), tail(log)).into());
            }
        }
        Ok(())
    }

    /// Calls `ready` until it says yes, a server ends, or 30 seconds have passed.
    pub fn await_ready(&self, name: &str, ready: impl Fn() -> bool) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !ready() {
            self.check()?;
            if Instant::now() > deadline {
                return Err(format!("{name} is not ready after 30 seconds. {}", self.logs()).into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Where to read what the servers said.
    pub fn logs(&self) -> String {
        self.lock().iter().fold("The logs:".to_owned(), |mut text, process| {
            _ = write!(text, "\n  {:<9} {}", process.name, process.log.display());
            text
        })
    }

    /// Ends all servers, and comes back when they are gone.
    pub fn stop(&self) {
        let mut processes = self.lock();
        for process in processes.iter_mut() {
            process.lifeline = None;
        }
        let deadline = Instant::now() + STOP_WITHIN;
        for mut process in processes.drain(..) {
            while matches!(process.shell.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Process>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The last lines of a log, indented.
fn tail(log: &Path) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let last = lines.get(lines.len().saturating_sub(12)..).unwrap_or_default();
    last.iter().map(|line| format!("  {line}\n")).collect()
}
