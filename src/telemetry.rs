//! What the process says of itself: its log, and its metrics.

use std::io;
use std::path::Path;
use std::sync::Arc;

use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::reload::Error as ReloadError;

use crate::args::{LogArgs, LogFormat, log_directives};
use crate::metrics::Metrics;

/// The log and the metrics of the process.
pub struct Telemetry {
    pub metrics: Arc<Metrics>,
    pub filter: LogFilter,
    /// Writes what waits to be written when it is dropped.
    _flushed_at_the_end: WorkerGuard,
}

/// What of the log is let through, which can be changed.
#[derive(Clone)]
pub struct LogFilter {
    /// As `--log` has it: directives, or `@FILE`.
    log: String,
    change: Change,
}

type Change = Arc<dyn Fn(EnvFilter) -> Result<(), ReloadError> + Send + Sync>;

/// Why nothing can be logged as `--log` says.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("--log: {0}")]
    Directives(String),
    #[error("--log: {0}")]
    Filter(#[from] ParseError),
}

/// Lines wait for the writer in a bounded queue, and are dropped when it is full: whoever reads the log too slowly, or not
/// at all, must not make requests wait.
const LINES: usize = 16_384;

/// The client of the API server, among the targets of the log.
const KUBE: &str = "kube_client";

// === impl Telemetry ===

impl Telemetry {
    /// Starts the log, of which a process has one, on standard error.
    ///
    /// # Errors
    ///
    /// `--log` names a file that cannot be read, or in which no directives stand.
    ///
    /// # Panics
    ///
    /// There is a log already.
    pub fn start(args: &LogArgs) -> Result<Self, LogError> {
        let filter = filter(&args.log)?;
        let queue = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(LINES);
        let (writer, guard) = queue.finish(io::stderr());
        let metrics = Arc::new(Metrics::new());
        metrics.in_log(writer.error_counter());
        let filter = LogFilter { log: args.log.clone(), change: init(args.log_format, filter, writer) };
        Ok(Telemetry { metrics, filter, _flushed_at_the_end: guard })
    }
}

/// Logs to `writer` from now on; what changes the filter.
fn init(format: LogFormat, filter: EnvFilter, writer: NonBlocking) -> Change {
    // A closed stderr is no reason to fail, and there is nobody to tell.
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).log_internal_errors(false);
    match format {
        LogFormat::Json => {
            let builder = builder.json().flatten_event(true).with_filter_reloading();
            let handle = builder.reload_handle();
            builder.init();
            Arc::new(move |filter| handle.reload(filter))
        }
        LogFormat::Text => {
            let builder = builder.with_ansi(false).with_filter_reloading();
            let handle = builder.reload_handle();
            builder.init();
            Arc::new(move |filter| handle.reload(filter))
        }
    }
}

// === impl LogFilter ===

impl LogFilter {
    /// The file that says what is let through, if one does.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.log.strip_prefix('@').map(Path::new)
    }

    /// Reads anew what is let through. What it was stays in force where that fails.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or no directives stand in it.
    pub fn reload(&self) -> Result<(), String> {
        let filter = filter(&self.log).map_err(|error| error.to_string())?;
        (self.change)(filter).map_err(|error| error.to_string())
    }
}

/// What `--log` lets through.
fn filter(log: &str) -> Result<EnvFilter, LogError> {
    let directives = log_directives(log).map_err(LogError::Directives)?;
    let filter = EnvFilter::try_new(&directives)?;
    // It tells every failure as often as it is tried; what is wrong with a watch is said once, by us.
    match directives.contains(KUBE) {
        true => Ok(filter),
        false => Ok(filter.add_directive(format!("{KUBE}=off").parse()?)),
    }
}
