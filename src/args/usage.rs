//! The flags of the usage log.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::value::{appended, bytes, duration, number_or_zero};

/// Where usage is written down, and how the file is kept.
#[derive(Clone, Debug, Args)]
pub struct UsageLogArgs {
    /// Append a line of JSON to this file for each call whose tokens are settled, for `tiergate usage` and for bills; it is made where
    /// it is not there. What cannot be written is told, and stops nothing
    #[arg(long, env = "TIERGATE_USAGE_LOG", value_name = "FILE", value_parser = appended)]
    pub usage_log: Option<PathBuf>,
    /// Rotate the usage log before it is larger: it becomes FILE.<time in UTC>, and FILE is begun anew
    #[arg(long, env = "TIERGATE_USAGE_LOG_MAX_SIZE", value_name = "BYTES", default_value = "100MiB", value_parser = bytes)]
    pub usage_log_max_size: u64,
    /// And when its first line is so old
    #[arg(long, env = "TIERGATE_USAGE_LOG_MAX_AGE", value_name = "DURATION", default_value = "24h", value_parser = duration)]
    pub usage_log_max_age: Duration,
    /// How many rotated files are kept; older ones are removed. 0 keeps all
    #[arg(long, env = "TIERGATE_USAGE_LOG_KEEP", value_name = "N", default_value = "0", value_parser = number_or_zero)]
    pub usage_log_keep: usize,
}
