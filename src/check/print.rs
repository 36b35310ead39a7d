//! How findings are printed.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde_json::json;

use super::sharing::{self, Sharing};
use crate::args::Format;
use crate::printable::printable_line;
use crate::problem::{Finding, Origin, Problem, Severity};

/// What there was beside problems.
#[derive(Clone, Copy, Debug)]
pub(super) struct Summary<'o> {
    /// How many objects were read.
    pub(super) read: usize,
    /// Those that were not read, by their kinds.
    pub(super) ignored: &'o BTreeMap<String, usize>,
    pub(super) limits: &'o [Sharing],
}

pub(super) fn problems(
    format: Format,
    problems: &[Problem],
    summary: Summary<'_>,
    out: &mut impl Write,
) -> io::Result<()> {
    match format {
        Format::Text => text(problems, summary, out),
        Format::Json => {
            let Summary { read, ignored, limits } = summary;
            let limits: Vec<_> = limits.iter().map(Sharing::json).collect();
            let found = json!({ "problems": problems, "objects": read, "not_read": ignored, "limits": limits });
            writeln!(out, "{found:#}")
        }
        Format::Github => problems.iter().try_for_each(|problem| writeln!(out, "{}", workflow_command(problem))),
    }
}

fn text(problems: &[Problem], summary: Summary<'_>, out: &mut impl Write) -> io::Result<()> {
    for problem in problems {
        writeln!(out, "{problem}")?;
    }
    sharing::text(summary.limits, out)?;
    let errors = problems.iter().filter(|problem| problem.is_error()).count();
    let warnings = problems.len() - errors;
    let plural = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    if !summary.ignored.is_empty() {
        let kinds: Vec<String> =
            summary.ignored.iter().map(|(kind, number)| format!("{number} {}", printable_line(kind))).collect();
        writeln!(out, "not read: {}", kinds.join(", "))?;
    }
    writeln!(out, "{}: {}, {}", plural(summary.read, "object"), plural(errors, "error"), plural(warnings, "warning"))
}

/// A workflow command of GitHub Actions, which shows the problem at its line of a pull request.
fn workflow_command(problem: &Problem) -> String {
    let command = match problem.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let place = &problem.place;
    let (file, text) = (property(&printable_line(&place.file)), data(&problem.text().to_string()));
    format!("::{command} file={file},line={},col={},title={}::{text}", place.line, place.column, problem.code)
}

/// Line breaks would end a command.
fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// Colons and commas would end a property.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

/// The explanation of a finding.
pub(super) fn explanation(finding: Finding, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{finding}: {}", finding.explanation())
}

/// All findings, with their titles.
pub(super) fn list(out: &mut impl Write) -> io::Result<()> {
    let width = Finding::ALL.iter().map(|finding| finding.as_str().len()).max().unwrap_or_default();
    for (origin, heading) in [
        (Origin::Reading, "While reading"),
        (Origin::Objects, "Between objects"),
        (Origin::Envoy, "In Envoy's configuration"),
        (Origin::Cluster, "On a cluster"),
        (Origin::Serving, "While serving"),
    ] {
        writeln!(out, "{heading}:")?;
        for finding in Finding::ALL.iter().filter(|finding| finding.origin() == origin) {
            writeln!(out, "  {:width$}  {}", finding.as_str(), finding.title())?;
        }
    }
    Ok(())
}
