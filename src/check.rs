//! `tiergate check`: every problem of a folder at once.

use std::io::{self, Write};

use serde_json::json;

use crate::args::{Check, Output};
use crate::manifest::Problem;
use crate::source::{Folder, FolderError};

/// Prints the problems of a folder; `true` if none is an error.
///
/// # Errors
///
/// The folder cannot be read.
pub fn run(args: Check, out: &mut impl Write) -> Result<bool, FolderError> {
    // What was never read before has changed.
    let policy = Folder::new(&args.manifests, args.policy.into()).load()?.unwrap_or_default();
    let errors = policy.problems.iter().filter(|problem| problem.is_error()).count();
    let printed = match args.output {
        Output::Text => text(&policy.problems, policy.objects, errors, out),
        Output::Json => writeln!(out, "{:#}", json!({ "problems": policy.problems, "objects": policy.objects })),
    };
    // A closed pipe, as of `| head`, is no reason to fail: the exit code says what was found.
    drop(printed);
    Ok(errors == 0)
}

fn text(problems: &[Problem], objects: usize, errors: usize, out: &mut impl Write) -> io::Result<()> {
    for problem in problems {
        writeln!(out, "{problem}")?;
    }
    let warnings = problems.len() - errors;
    let plural = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    writeln!(out, "{}: {}, {}", plural(objects, "object"), plural(errors, "error"), plural(warnings, "warning"))
}
