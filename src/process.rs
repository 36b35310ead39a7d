//! What the process asks of the operating system before it serves.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::PanicHookInfo;
use std::sync::LazyLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Keeps what is in the memory, tokens among it, out of core dumps and out of the reach of other processes of the same
/// user; lets the process open as many files as it may; and keeps what panics say out of the log.
pub fn prepare() {
    no_core_dumps();
    let files = getrlimit(Resource::Nofile);
    // A connection is a file, and the usual 1,024 is a bound for programs that use select(2).
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files }) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    std::panic::set_hook(Box::new(panicked));
}

/// How many files may be open at one time.
#[must_use]
pub fn open_files() -> usize {
    getrlimit(Resource::Nofile).current.map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX))
}

fn no_core_dumps() {
    let limit = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    // The limit binds no dump that goes to a program (`core_pattern` with a pipe); this does.
    #[cfg(target_os = "linux")]
    let limit = limit.and(rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable));
    if let Err(error) = limit {
        tracing::warn!(%error, "a crash may leave a core dump, with callers' tokens in it");
    }
}

/// Logs a panic, as every other line is logged.
fn panicked(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string);
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    tracing::error!(place, backtrace, "a panic: {}", message(panic.payload()));
}

/// A literal is ours. What was formatted may hold what a caller sent: slicing a text wrongly quotes the text.
fn message(payload: &(dyn Any + Send)) -> &'static str {
    payload.downcast_ref::<&'static str>().copied().unwrap_or("its message is not shown, for it may hold a secret")
}

/// A decision's id as people see it: that of the process, and its number in it.
#[must_use]
pub fn decision_id(id: u64) -> String {
    format!("{:08x}-{id:08x}", process_tag())
}

/// Tells the decisions of one process from another's.
#[must_use]
pub fn process_tag() -> u32 {
    static PROCESS: LazyLock<u32> = LazyLock::new(|| {
        let mut bytes = [0; 4];
        // Not a secret: without randomness two processes may share it, and nothing breaks.
        let _ = aws_lc_rs::rand::fill(&mut bytes);
        u32::from_be_bytes(bytes)
    });
    *PROCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::string_slice, reason = "that is the panic in question")]
    fn a_panic_tells_nothing_that_a_caller_sent() {
        let payload = |panic: fn()| std::panic::catch_unwind(panic).unwrap_err();
        let token = payload(|| drop("canary-é"[..8].to_owned()));
        assert!(token.downcast_ref::<String>().unwrap().contains("canary"), "or there is nothing to hide");
        assert!(!message(&*token).contains("canary"));
        assert_eq!(message(&*payload(|| panic!("a slip"))), "a slip");
    }
}
