//! The `tiergate` command.

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

use tiergate::args::{Command, Token, unknown_variables};
use tiergate::printable::{masked, printable};
use tiergate::{accounts, app, check, explain, tally, token};

/// Costs a fifth less CPU per Check than the system's allocator. Without huge pages (`no_thp`): with them, each byte of
/// a message that a peer only promises took up to 2 MiB, and a thousand such messages 1.2 GiB.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `EX_USAGE` of sysexits(3): what was asked for cannot be done as it was asked.
const USAGE: u8 = 64;
/// There is no yes and no no: nothing could be checked, or explained, as `grep` and linters have it.
const NO_ANSWER: u8 = 2;

fn main() -> ExitCode {
    let command = Command::of_process();
    // `serve` logs all of them; the others speak of slips alone.
    if !matches!(command, Command::Serve(_)) {
        let slips = unknown_variables().into_iter().filter(|variable| variable.meant.is_some());
        slips.for_each(|variable| drop(writeln!(io::stderr(), "tiergate: {variable}")));
    }
    let failure = match command {
        Command::Check(_) | Command::Explain(_) | Command::Usage(_) | Command::Limits(_) => NO_ANSWER,
        Command::Serve(_) | Command::Token(_) => USAGE,
    };
    match run(command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // A closed stderr changes nothing about the exit code. What is wrong may be repeated, and hold a secret.
            let _ = writeln!(io::stderr(), "tiergate: {}", printable(&masked(&error.to_string())));
            ExitCode::from(failure)
        }
    }
}

/// Whether the answer is yes, or it is done.
fn run(command: Command) -> Result<bool, Box<dyn Error>> {
    let out = &mut io::stdout();
    Ok(match command {
        Command::Serve(args) => app::serve(&args)?,
        Command::Check(args) => check::run(args, out)?,
        Command::Explain(args) => explain::run(&args, out)?,
        Command::Usage(args) => tally::run(&args, out, &mut io::stderr())?,
        Command::Limits(args) => accounts::run(&args, out, &mut io::stderr())?,
        Command::Token(Token::Keys(args)) => token::keys(&args, out).map(|()| true)?,
        Command::Token(Token::Create(args)) => token::create(&args, out).map(|()| true)?,
    })
}
