//! The servers of the tour. None outlives it, however it ends.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::Result;

/// Runs a server until it ends or standard input does. The other end of that pipe closes whenever the tour is gone, be
/// it by SIGKILL, which no handler of ours would see.
const UNTIL_STDIN_ENDS: &str = r#"
signal=$1; shift
exec 3<&0
"$@" 3<&- &
server=$!
{ cat >/dev/null; kill -s "$signal" "$server"; sleep 5; kill -9 "$server"; } <&3 3<&- >/dev/null 2>&1 &
watcher=$!
exec 3<&- </dev/null
wait "$server"
code=$?
kill "$watcher" 2>/dev/null
exit "$code"
"#;

/// Longer than a server takes that has the machine for itself.
const READY_WITHIN: Duration = Duration::from_secs(60);

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
        self.start_ended_by("TERM", name, command, log)
    }

    /// The same, of one that ends by this signal.
    pub fn start_ended_by(&self, signal: &str, name: &'static str, command: &Command, log: &Path) -> Result<()> {
        let failed = |error: io::Error| format!("{name}: {error}");
        let output = File::create(log).map_err(failed)?;
        let mut shell = Command::new("sh")
            .args(["-c", UNTIL_STDIN_ENDS, name, signal])
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

    /// Calls `ready` until it says yes, a server ends, or a minute has passed.
    pub fn await_ready(&self, name: &str, ready: impl Fn() -> bool) -> Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        while !ready() {
            self.check()?;
            if Instant::now() > deadline {
                return Err(
                    format!("{name} is not ready after {} seconds. {}", READY_WITHIN.as_secs(), self.logs()).into()
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Ends a server, and comes back when it is gone.
    pub fn end(&self, name: &str) -> Result<()> {
        let mut processes = self.lock();
        let at = processes.iter().position(|process| process.name == name);
        let mut process = processes.remove(at.ok_or_else(|| format!("{name} was not started"))?);
        process.lifeline = None;
        let status = process.shell.wait()?;
        if !status.success() {
            let Process { log, .. } = &process;
            return Err(format!("{name} ended ({status}); the end of {}:\n{}", log.display(), tail(log)).into());
        }
        Ok(())
    }

    /// Where to read what the servers said.
    pub fn logs(&self) -> String {
        self.lock().iter().fold("The logs:".to_owned(), |mut text, process| {
            _ = write!(text, "\n  {:<14} {}", process.name, process.log.display());
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

/// What a command prints; what it complains about, if it fails.
pub fn output(command: &mut Command) -> Result<String> {
    let described = format!("{command:?}");
    let output = command.output().map_err(|error| format!("{described}: {error}"))?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(format!("{described}: {}: {complaint}", output.status).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Runs a script of `scripts/` that shows its progress and ends with a path.
pub fn install(script: &Path, arguments: &[&str]) -> Result<PathBuf> {
    let failed = |error: io::Error| format!("{}: {error}", script.display());
    let mut child = Command::new(script).args(arguments).stdout(Stdio::piped()).spawn().map_err(failed)?;
    let mut path = None;
    for line in child.stdout.take().into_iter().flat_map(|output| BufReader::new(output).lines()) {
        let line = line.map_err(failed)?;
        if line.starts_with('/') {
            path = Some(line.into());
        } else {
            println!("{line}");
        }
    }
    let status = child.wait().map_err(failed)?;
    let failed = || format!("{} failed ({status}): see above", script.display()).into();
    path.filter(|_| status.success()).ok_or_else(failed)
}

/// The last lines of a log, indented.
fn tail(log: &Path) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let last = lines.get(lines.len().saturating_sub(12)..).unwrap_or_default();
    last.iter().map(|line| format!("  {line}\n")).collect()
}
