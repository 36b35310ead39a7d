//! `tiergate explain --code`: what the documentation says of a reason code.

use std::io::{self, Write};

use super::error::ExplainError;
use crate::spelling::did_you_mean;

/// `docs/reasons.md`: a section for each [`crate::denial::Code`], and for each code that our Envoy configurations answer by themselves.
const PAGE: &str = include_str!("../../docs/reasons.md");

/// What one code means, and who has to do what about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Section {
    code: &'static str,
    /// Markdown; its first line is a sentence of its own.
    text: &'static str,
}

/// Sections of one status, or of one answerer.
#[derive(Clone, Copy, Debug)]
struct ReasonGroup {
    heading: &'static str,
    rest: &'static str,
}

/// Prints the section of `code`; without a code, a line for each of them.
///
/// # Errors
///
/// There is no such code.
pub(super) fn print(code: Option<&str>, out: &mut impl Write) -> Result<(), ExplainError> {
    let printed = match code {
        None => list(out),
        Some(code) => {
            let Section { code, text } = named(code)?;
            writeln!(out, "{code}: {text}")
        }
    };
    // A closed pipe, as of `| head`, is no reason to fail.
    drop(printed);
    Ok(())
}

fn named(code: &str) -> Result<Section, ExplainError> {
    let found = sections().find(|section| section.code == code);
    found.ok_or_else(|| ExplainError::Code {
        code: code.to_owned(),
        meant: did_you_mean(code, sections().map(|section| section.code)),
    })
}

fn list(out: &mut impl Write) -> io::Result<()> {
    let width = sections().map(|section| section.code.len()).max().unwrap_or_default();
    for group in groups() {
        writeln!(out, "{}:", group.heading)?;
        for section in group.sections() {
            writeln!(out, "  {:width$}  {}", section.code, section.sentence())?;
        }
    }
    Ok(())
}

fn groups() -> impl Iterator<Item = ReasonGroup> {
    let parts = PAGE.split("\n## ").skip(1).filter_map(|part| part.split_once('\n'));
    parts.map(|(heading, rest)| ReasonGroup { heading, rest })
}

/// All, in the order of the page.
fn sections() -> impl Iterator<Item = Section> {
    groups().flat_map(ReasonGroup::sections)
}

// === impl Section ===

impl Section {
    /// What the code says, in a line.
    fn sentence(&self) -> &'static str {
        self.text.lines().next().unwrap_or_default()
    }
}

// === impl ReasonGroup ===

impl ReasonGroup {
    fn sections(self) -> impl Iterator<Item = Section> {
        let parts = self.rest.split("\n### ").skip(1).filter_map(|part| part.split_once('\n'));
        parts.map(|(heading, text)| Section { code: heading.trim_matches('`'), text: text.trim() })
    }
}

#[cfg(test)]
mod tests;
