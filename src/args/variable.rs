//! The environment variables that flags can be given in: which a wrong value came from, and which nobody reads.

use std::ffi::OsStr;

use clap::error::{ContextKind, ContextValue};
use clap::{Arg, Command, CommandFactory};

use super::Cli;
use crate::spelling::did_you_mean;

/// What all of them start with.
const PREFIX: &str = "TIERGATE_";

/// An environment variable that has our prefix, and is none of ours.
#[derive(Debug, PartialEq, Eq)]
pub struct UnknownVariable {
    pub name: String,
    pub meant: Option<String>,
}

/// Adds to an error about a value that it is a variable's, where it is one's.
pub(super) fn name_variable(mut error: clap::Error, value_of: impl Fn(&OsStr) -> Option<String>) -> clap::Error {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    };
    let (Some(flag), Some(value)) = (text(ContextKind::InvalidArg), text(ContextKind::InvalidValue)) else {
        return error;
    };
    let mut cli = Cli::command();
    // Only a built one can name its arguments.
    cli.build();
    let mut variables = arguments(&cli).into_iter().filter(|arg| arg.to_string() == flag).filter_map(Arg::get_env);
    let holds = |all: &str| all == value || all.split(',').any(|one| one == value);
    let from = variables.find(|name| value_of(name).is_some_and(|all| holds(&all)));
    if let Some(name) = from {
        let tip = format!("the value is that of the variable {}", name.display());
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    error
}

/// The variables of this process that no flag of any command reads.
#[must_use]
pub fn unknown_variables() -> Vec<UnknownVariable> {
    unknown(std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()))
}

/// Those among `names` that no flag of any command reads.
fn unknown(names: impl IntoIterator<Item = String>) -> Vec<UnknownVariable> {
    let cli = Cli::command();
    let known: Vec<&str> = arguments(&cli).into_iter().filter_map(|arg| arg.get_env()?.to_str()).collect();
    let ours = |name: &String| name.starts_with(PREFIX) && !known.contains(&name.as_str()) && !is_of_a_service(name);
    let mut unknown: Vec<_> = names.into_iter().filter(ours).collect();
    unknown.sort_unstable();
    let with_meant = |name: String| {
        // Beside the prefix, which would make any two near.
        let own = name.strip_prefix(PREFIX).unwrap_or_default();
        let meant = did_you_mean(own, known.iter().filter_map(|known| known.strip_prefix(PREFIX)));
        let meant = meant.map(|meant| format!("{PREFIX}{meant}"));
        UnknownVariable { name, meant }
    };
    unknown.into_iter().map(with_meant).collect()
}

/// Kubernetes tells every Pod about the Services of its namespace: `TIERGATE_SERVICE_HOST`, `TIERGATE_PORT_8080_TCP` and so on.
fn is_of_a_service(name: &str) -> bool {
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.ends_with("_PORT")
        || name.contains("_PORT_")
}

/// Every argument of every command.
fn arguments(command: &Command) -> Vec<&Arg> {
    let own = command.get_arguments();
    own.chain(command.get_subcommands().flat_map(arguments)).collect()
}

// === impl UnknownVariable ===

impl std::fmt::Display for UnknownVariable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let UnknownVariable { name, meant } = self;
        write!(f, "the variable {name} is not known, and has no effect")?;
        meant.as_ref().map_or(Ok(()), |meant| write!(f, "; did you mean {meant}?"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_reads_is_named_and_what_kubernetes_tells_is_not() {
        let names = [
            "TIERGATE_SHADOWW",
            "TIERGATE_SHADOW",
            "TIERGATE_DENY_WARNINGS",
            "TIERGATE_FOO",
            "OTHER_SHADOWW",
            "TIERGATE_SERVICE_HOST",
            "TIERGATE_SERVICE_PORT_GRPC",
            "TIERGATE_PORT",
            "TIERGATE_PORT_50051_TCP_ADDR",
        ];
        let told: Vec<String> = unknown(names.map(str::to_owned)).iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "the variable TIERGATE_FOO is not known, and has no effect",
                "the variable TIERGATE_SHADOWW is not known, and has no effect; did you mean TIERGATE_SHADOW?",
            ]
        );
    }

    #[test]
    fn no_variable_of_ours_looks_like_one_of_a_service() {
        let cli = Cli::command();
        let variables = arguments(&cli).into_iter().filter_map(|arg| arg.get_env()?.to_str());
        assert_eq!(variables.filter(|name| is_of_a_service(name)).count(), 0);
    }
}
