//! The `tiergate` command.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use tiergate::args::{Cli, Command, Token};
use tiergate::printable::printable;
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
    let command = Cli::parse().command;
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
            // A closed stderr changes nothing about the exit code.
            let _ = writeln!(io::stderr(), "tiergate: {}", printable(&error.to_string()));
            ExitCode::from(failure)
        }
    }
}
