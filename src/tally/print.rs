//! How the sums are printed.

use std::borrow::Cow;
use std::io::{self, Write};

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::sums::{Row, Sums, Tally};
use super::unread::Counts;
use crate::args::{By, UsageFormat};
use crate::printable::printable_line;

/// So many characters of a name are in a table; the other formats have all of it.
const WIDEST: usize = 60;

pub(super) fn sums(format: UsageFormat, tally: &Tally, unread: Counts, out: &mut impl Write) -> io::Result<()> {
    match format {
        UsageFormat::Table => table(tally, out),
        UsageFormat::Csv => csv(tally, out),
        UsageFormat::Json => json(tally, unread, out),
    }
}

// Tables.

/// Names to the left, numbers to the right, and the sum of everything below.
fn table(tally: &Tally, out: &mut impl Write) -> io::Result<()> {
    let rows = tally.rows();
    let texts = tally.by.len();
    let heads = tally.by.iter().map(|by| by.as_str()).chain(Sums::NAMES).map(str::to_owned).collect();
    let line = |row: &Row<'_>| -> Vec<String> {
        let names = row.cells.iter().map(|name| short(name));
        names.chain(row.sums.numbers().iter().map(ToString::to_string)).collect()
    };
    let all = line(&Row { cells: last(texts), sums: tally.all });
    let mut widths: Vec<usize> = vec![0; texts + Sums::NAMES.len()];
    let lines = || std::iter::once(&heads).cloned().chain(rows.iter().map(line)).chain([all.clone()]);
    for line in lines() {
        widths.iter_mut().zip(&line).for_each(|(width, cell)| *width = (*width).max(cell.chars().count()));
    }
    lines().try_for_each(|line| writeln!(out, "{}", aligned(&line, &widths, texts).trim_end()))
}

/// What the last row has in place of names.
fn last(texts: usize) -> Vec<Cow<'static, str>> {
    (0..texts).map(|at| Cow::Borrowed(if at == 0 { "(all)" } else { " " })).collect()
}

fn aligned(line: &[String], widths: &[usize], texts: usize) -> String {
    let cell = |(at, (cell, width)): (usize, (&String, &usize))| match at < texts {
        true => format!("{cell:<width$}"),
        false => format!("{cell:>width$}"),
    };
    line.iter().zip(widths).enumerate().map(cell).collect::<Vec<_>>().join("  ")
}

/// A name that fits into a table, and does nothing to the terminal.
fn short(name: &str) -> String {
    let name = printable_line(name);
    match name.chars().count() {
        0 => "-".to_owned(),
        count if count > WIDEST => name.chars().take(WIDEST - 1).chain(['…']).collect(),
        _ => name.into_owned(),
    }
}

// CSV, as RFC 4180 has it.

/// Without the sum of everything, so that whoever sums the rows has it.
fn csv(tally: &Tally, out: &mut impl Write) -> io::Result<()> {
    let heads: Vec<&str> = tally.by.iter().map(|by| by.as_str()).chain(Sums::NAMES).collect();
    writeln!(out, "{}", heads.join(","))?;
    for row in tally.rows() {
        let names = row.cells.iter().map(|name| quoted(name));
        let numbers = row.sums.numbers();
        let cells: Vec<String> = names.chain(numbers.iter().map(ToString::to_string)).collect();
        writeln!(out, "{}", cells.join(","))?;
    }
    Ok(())
}

/// A name that is one cell to whoever reads it, and to a spreadsheet no formula: it has an apostrophe before it, if it would be one.
fn quoted(name: &str) -> String {
    const FORMULA: [char; 11] = ['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠'];
    let mark = if name.starts_with(FORMULA) { "'" } else { "" };
    // Of other characters some are separators, in some countries.
    let is_plain = |character: char| character.is_alphanumeric() || "._:/@-".contains(character);
    match mark.is_empty() && name.chars().all(is_plain) {
        true => name.to_owned(),
        false => format!("\"{mark}{}\"", name.replace('"', "\"\"")),
    }
}

// JSON.

#[derive(Serialize)]
struct Page<'t> {
    rows: Vec<Named<'t>>,
    all: Sums,
    not_read: Counts,
}

/// A row with the names of its cells.
struct Named<'t> {
    by: &'t [By],
    row: Row<'t>,
}

impl Serialize for Named<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (by, cell) in self.by.iter().zip(&self.row.cells) {
            map.serialize_entry(by.as_str(), cell)?;
        }
        for (name, number) in Sums::NAMES.iter().zip(self.row.sums.numbers()) {
            map.serialize_entry(name, &number)?;
        }
        map.end()
    }
}

fn json(tally: &Tally, not_read: Counts, out: &mut impl Write) -> io::Result<()> {
    let rows = tally.rows().into_iter().map(|row| Named { by: &tally.by, row }).collect();
    serde_json::to_writer_pretty(&mut *out, &Page { rows, all: tally.all, not_read })?;
    writeln!(out)
}
