//! The `tiergate` command.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use tiergate::args::{Cli, Command, Token, name_variable, unknown};
use tiergate::printable::{masked, printable};
use tiergate::{app, check, explain, token};

/// Costs a fifth less CPU per Check than the system's allocator. Without huge pages (`no_thp`): with them, each byte of
/// a message that a peer only promises took up to 2 MiB, and a thousand such messages 1.2 GiB.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `EX_USAGE` of sysexits(3): what was asked for cannot be done as it was asked.
const USAGE: u8 = 64;
/// There is no yes and no no: nothing could be checked, or explained, as `grep` and linters have it.
const NO_ANSWER: u8 = 2;

fn main() -> ExitCode {
    let mut out = io::stdout().lock();
    let value_of = |name: &OsStr| std::env::var(name).ok();
    let command = Cli::try_parse().unwrap_or_else(|error| name_variable(error, value_of).exit()).command;
    // `serve` logs all of them; the others speak of slips alone.
    if !matches!(command, Command::Serve(_)) {
        let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        let slips = unknown(names).into_iter().filter(|variable| variable.meant.is_some());
        slips.for_each(|variable| drop(writeln!(io::stderr(), "tiergate: {variable}")));
    }
    let failure = if matches!(command, Command::Check(_) | Command::Explain(_)) { NO_ANSWER } else { USAGE };
    let result: Result<bool, Box<dyn std::error::Error>> = match command {
        Command::Serve(args) => {
            drop(out);
            app::serve(&args).map_err(Into::into)
        }
        Command::Check(args) => check::run(args, &mut out).map_err(Into::into),
        Command::Explain(args) => explain::run(&args, &mut out).map_err(Into::into),
        Command::Token(Token::Keys(args)) => token::keys(&args, &mut out).map(|()| true).map_err(Into::into),
        Command::Token(Token::Create(args)) => token::create(&args, &mut out).map(|()| true).map_err(Into::into),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // A closed stderr changes nothing about the exit code. What is wrong may be repeated, and hold a secret.
            let _ = writeln!(io::stderr(), "tiergate: {}", printable(&masked(&error.to_string())));
            ExitCode::from(failure)
        }
    }
}
