//! The flags of the usage log, and of `tiergate usage`.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::value::{appended, bytes, duration, duration_or_none, manifests, moment, number, number_or_zero};
use crate::clock::Micros;
use crate::usage::ledger::Waits;

/// Where usage is written down, and how the file is kept.
#[derive(Clone, Debug, Args)]
pub struct UsageLogArgs {
    /// Append a line of JSON to this file for each call whose tokens are settled, or that nobody reports, for `tiergate usage` and for
    /// bills; it is made where it is not there. What cannot be written is told, and stops nothing
    #[arg(long, env = "TIERGATE_USAGE_LOG", value_name = "FILE", value_parser = appended)]
    pub usage_log: Option<PathBuf>,
    /// Rotate the usage log before it is larger: it becomes FILE with the time in UTC behind it, and FILE is begun
    /// anew
    #[arg(long, env = "TIERGATE_USAGE_LOG_MAX_SIZE", value_name = "BYTES", default_value = "100MiB", value_parser = bytes)]
    pub usage_log_max_size: u64,
    /// And when its first line is so old
    #[arg(long, env = "TIERGATE_USAGE_LOG_MAX_AGE", value_name = "DURATION", default_value = "24h", value_parser = duration)]
    pub usage_log_max_age: Duration,
    /// How many rotated files are kept; older ones are removed. 0 keeps all
    #[arg(long, env = "TIERGATE_USAGE_LOG_KEEP", value_name = "N", default_value = "0", value_parser = number_or_zero)]
    pub usage_log_keep: usize,
    /// How long a line of the usage log that is not exact waits for a better report, so that both are one line,
    /// and a correction for the line that it corrects; 0s for not at all
    #[arg(long, env = "TIERGATE_SETTLE_GRACE", value_name = "DURATION", default_value = "5s", value_parser = duration_or_none)]
    pub settle_grace: Duration,
    /// How many calls without a report are remembered for the usage log, of about 300 bytes each; of more the oldest are forgotten, and
    /// have no line unless a report comes
    #[arg(long, env = "TIERGATE_MAX_OPEN_CALLS", value_name = "N", default_value_t = OPEN, value_parser = number::<NonZeroUsize>)]
    pub max_open_calls: NonZeroUsize,
}

/// What is summed, and how it is printed.
#[derive(Clone, Debug, Args)]
#[command(after_help = HELP)]
pub struct Usage {
    /// Usage logs, each with the rotated files beside it; folders, of which every file is read; `-` is standard input. No file is
    /// counted twice
    #[arg(env = "TIERGATE_USAGE_LOG", value_name = "PATH", value_parser = manifests, required = true)]
    pub paths: Vec<PathBuf>,
    /// A row for each of these; several are allowed. Hours, days and months are those of UTC
    #[arg(long, env = "TIERGATE_BY", value_enum, value_delimiter = ',', default_value = "user")]
    pub by: Vec<By>,
    /// Only what was settled from then on: a date (its begin in UTC), a time such as 2026-11-29T12:00:00Z, or a duration ago such as 24h
    #[arg(long, env = "TIERGATE_SINCE", value_name = "TIME", value_parser = moment)]
    pub since: Option<Micros>,
    /// Only what was settled before then
    #[arg(long, env = "TIERGATE_UNTIL", value_name = "TIME", value_parser = moment)]
    pub until: Option<Micros>,
    /// How the sums are printed; csv: for spreadsheets, in which no name is a formula
    #[arg(
        long,
        alias = "output",
        short_alias = 'o',
        env = "TIERGATE_USAGE_FORMAT",
        value_enum,
        default_value = "table"
    )]
    pub format: UsageFormat,
}

const OPEN: NonZeroUsize = NonZeroUsize::MIN.saturating_add(Waits::OPEN - 1);

/// What a row can be of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum By {
    User,
    Tier,
    Model,
    Namespace,
    Hour,
    Day,
    Month,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum UsageFormat {
    Table,
    Csv,
    Json,
}

/// What the numbers mean, and what scripts need to know.
const HELP: &str = "\
The numbers of a row: calls; how many of them are estimated, that is reported and not exact; how many unsettled, that is not reported; \
tokens of input and output; cached (of the input) and \
reasoning (of the output); total, which is what the calls cost. Corrections are in the sums, so a number can be negative where a call is \
outside of --since and --until and its correction is inside.

Examples:
  tiergate usage /var/log/tiergate/usage.log
  tiergate usage --by tier,model,day --since 168h /var/log/tiergate/usage.log
  tiergate usage --by user,month --since 2026-11-01 --until 2026-12-01 --format csv logs-of-replica-1/ logs-of-replica-2/
  zcat usage.log-*.gz | tiergate usage --format json -

What cannot be read is told on standard error, by file, line and reason, and counted; the sums are of the rest.

Exit code: 0 if all was read; 1 if some was not, such as a line that was cut; 2 if nothing could be summed: wrong usage, a path that is \
not there, no file that can be read.";

// === impl By ===

impl By {
    /// The name of its column, as the flag has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            By::User => "user",
            By::Tier => "tier",
            By::Model => "model",
            By::Namespace => "namespace",
            By::Hour => "hour",
            By::Day => "day",
            By::Month => "month",
        }
    }
}
