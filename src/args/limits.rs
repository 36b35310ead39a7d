//! The flags of `tiergate limits`.

use std::num::{NonZeroU64, NonZeroUsize};

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand, ValueEnum};

use crate::rules::Counts;

use super::value::{account_id, admin_url, number};

/// Look at accounts of a serving process, and change them.
#[derive(Debug, Subcommand)]
pub enum Limits {
    /// List accounts: who has used something of a limit
    List(ListAccounts),
    /// Show one account: each of its limits, what is used and what is left
    Show(ShowAccount),
    /// Make an account's limits as if nothing had been used, debt included
    Reset(ResetAccount),
    /// Give an account some requests or tokens back: at most what is used
    Grant(GrantAccount),
}

/// What scripts need to know.
const LIMITS_EXIT: &str = "\
Exit code: 0 if it is done; 1 if there is no such account, or it has used nothing of the limit; 2 if tiergate could not be asked, \
or for wrong usage.

Every change is in the log of the serving process, with who and why.";

/// Where the serving process is asked.
#[derive(Clone, Debug, Args)]
pub struct AdminArgs {
    /// The admin port of the serving process (its --listen-admin)
    #[arg(long, env = "TIERGATE_ADMIN", value_name = "URL", default_value = "http://127.0.0.1:8081", value_parser = admin_url)]
    pub admin: String,
    /// How it is printed
    #[arg(long, short, env = "TIERGATE_OUTPUT", value_enum, default_value = "table")]
    pub output: LimitsOutput,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LimitsOutput {
    Table,
    Json,
}

/// Which account is meant.
#[derive(Clone, Debug, Args)]
pub struct WhichAccount {
    /// What the account counts under, exactly: the value of each counter, in the order of the limit's counters, such as a user's id;
    /// of a limit without counters its name, namespace/policy/limit
    #[arg(value_name = "VALUE", required_unless_present = "id")]
    pub values: Vec<String>,
    /// Its id instead, as `tiergate limits list` prints it
    #[arg(long, env = "TIERGATE_ACCOUNT", value_name = "ID", value_parser = account_id, conflicts_with = "values")]
    pub id: Option<String>,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = LIMITS_EXIT)]
pub struct ListAccounts {
    /// Only accounts whose name contains TEXT
    #[arg(value_name = "TEXT")]
    pub search: Option<String>,
    /// Only those behind this account, whose id the page before ended with
    #[arg(long, env = "TIERGATE_AFTER", value_name = "ID", value_parser = account_id)]
    pub after: Option<String>,
    /// How many are listed, 1,000 at most
    #[arg(long, env = "TIERGATE_MOST", value_name = "N", default_value = "100", value_parser = number::<NonZeroUsize>)]
    pub most: NonZeroUsize,
    #[command(flatten)]
    pub admin: AdminArgs,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = LIMITS_EXIT)]
pub struct ShowAccount {
    #[command(flatten)]
    pub which: WhichAccount,
    #[command(flatten)]
    pub admin: AdminArgs,
}

/// Of what, why, and who says so.
#[derive(Clone, Debug, Args)]
pub struct ChangeArgs {
    /// Only this limit, as namespace/policy/limit [default: all that the account has]
    #[arg(long, env = "TIERGATE_LIMIT", value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub limit: Option<String>,
    /// Only if it counts these: policies of two kinds may have limits of one name
    #[arg(long, env = "TIERGATE_COUNTS", value_name = "WHAT", requires = "limit")]
    pub counts: Option<Counts>,
    /// Why; it stands in the log
    #[arg(long, env = "TIERGATE_REASON", value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    pub reason: String,
    /// Who says so; it stands in the log [default: $USER]
    #[arg(long, env = "TIERGATE_CHANGED_BY", value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub by: Option<String>,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = LIMITS_EXIT)]
pub struct ResetAccount {
    #[command(flatten)]
    pub which: WhichAccount,
    #[command(flatten)]
    pub change: ChangeArgs,
    #[command(flatten)]
    pub admin: AdminArgs,
}

#[derive(Clone, Debug, Args)]
#[command(
    after_help = LIMITS_EXIT,
    mut_arg("limit", |limit| limit.required(true).help("Of which limit, as namespace/policy/limit"))
)]
pub struct GrantAccount {
    #[command(flatten)]
    pub which: WhichAccount,
    /// How many requests or tokens are given back: to each rate of the limit as many
    #[arg(long, env = "TIERGATE_HITS", value_name = "N", value_parser = number::<NonZeroU64>)]
    pub hits: NonZeroU64,
    #[command(flatten)]
    pub change: ChangeArgs,
    #[command(flatten)]
    pub admin: AdminArgs,
}

// === impl ChangeArgs ===

impl ChangeArgs {
    /// Who says so, if anybody does.
    #[must_use]
    pub fn by(&self) -> Option<String> {
        let user = || std::env::var("USER").ok().filter(|user| !user.trim().is_empty());
        self.by.clone().or_else(user)
    }
}
