//! Accounts as tables. What callers are called, and what limits are, is made safe to print.

use std::io::{self, Write};

use serde_json::Value;

use crate::printable::printable_line;

/// So many characters of a name are in a table; JSON has all of it.
const WIDEST: usize = 60;

/// A list of accounts, a line for each of their limits.
pub(super) fn accounts(found: &Value, out: &mut impl Write) -> io::Result<()> {
    let mut rows = vec![["account", "limit", "used", "left", "of", "reset", "id"].map(str::to_owned).to_vec()];
    for account in list(&found["accounts"]) {
        let of_limit = |limit: &Value| {
            let numbers = ["used", "left", "limit"].map(|field| number(&limit[field]));
            let [used, left, of] = numbers;
            vec![
                name(account),
                limit_name(limit),
                used,
                left,
                of,
                seconds(&limit["reset_seconds"]),
                text(&account["account"]),
            ]
        };
        match list(&account["limits"]) {
            [] => rows.push(
                [&*name(account), "-", "-", "-", "-", "-", &*text(&account["account"])].map(str::to_owned).to_vec(),
            ),
            limits => rows.extend(limits.iter().map(of_limit)),
        }
    }
    if rows.len() == 1 {
        return writeln!(out, "no account");
    }
    table(&rows, &[2, 3, 4, 5], out)?;
    match found["next"].as_str() {
        Some(next) => writeln!(out, "\nthere may be more: --after {}", printable_line(next)),
        None => Ok(()),
    }
}

/// One account, with all that is known of its limits.
pub(super) fn account(found: &Value, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "account {}, id {}\n", name(found), text(&found["account"]))?;
    let heads = ["limit", "counts", "algorithm", "window", "of", "used", "left", "reset", "next"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for limit in list(&found["limits"]) {
        let numbers = ["limit", "used", "left"].map(|field| number(&limit[field]));
        let [of, used, left] = numbers;
        let times = ["reset_seconds", "retry_after_seconds"].map(|field| seconds(&limit[field]));
        let ([reset, next], window) = (times, window(limit));
        let (counts, algorithm) = (text(&limit["counts"]), text(&limit["algorithm"]));
        rows.push(vec![limit_name(limit), counts, algorithm, window, of, used, left, reset, next]);
    }
    table(&rows, &[3, 4, 5, 6, 7, 8], out)
}

/// What was changed.
pub(super) fn changes(found: &Value, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "account {}, id {}\n", name(found), text(&found["account"]))?;
    let heads = ["limit", "counts", "of", "used before", "after", "left before", "after", "given back"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for change in list(&found["changed"]) {
        let (before, after) = (&change["before"], &change["after"]);
        let numbers =
            [&change["limit"], &before["used"], &after["used"], &before["left"], &after["left"], &change["given_back"]];
        let what = [limit_name(change), text(&change["counts"])];
        rows.push(what.into_iter().chain(numbers.map(number)).collect());
    }
    table(&rows, &[2, 3, 4, 5, 6, 7], out)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn name(account: &Value) -> String {
    let values = account["values"].as_array().map(|values| values.iter().filter_map(Value::as_str).collect::<Vec<_>>());
    let Some(values) = values else { return "(forgotten)".to_owned() };
    let shared = if account["shared"] == true { "(everybody) " } else { "" };
    let cut = if account["cut"] == true { "…" } else { "" };
    short(&format!("{shared}{}{cut}", values.join(", ")))
}

fn limit_name(limit: &Value) -> String {
    let route = limit["route"].as_str().map(|route| format!(" on {route}")).unwrap_or_default();
    let shadow = if limit["shadow"] == true { " (shadow)" } else { "" };
    short(&format!("{}{route}{shadow}", limit["name"].as_str().unwrap_or_default()))
}

fn text(value: &Value) -> String {
    short(value.as_str().unwrap_or_default())
}

/// A text that fits into a table, and does nothing to the terminal.
fn short(text: &str) -> String {
    let text = printable_line(text);
    match text.chars().count() {
        0 => "-".to_owned(),
        count if count > WIDEST => text.chars().take(WIDEST - 1).chain(['…']).collect(),
        _ => text.into_owned(),
    }
}

fn number(value: &Value) -> String {
    value.as_u64().map_or_else(|| "-".to_owned(), |number| number.to_string())
}

fn seconds(value: &Value) -> String {
    if value.is_number() { format!("{value}s") } else { "never".to_owned() }
}

/// The time that a limit is for, if it is for one.
fn window(limit: &Value) -> String {
    match (&limit["window_seconds"], &limit["window"], &limit["time_zone"]) {
        (Value::Number(seconds), ..) => format!("{seconds}s"),
        (_, Value::String(unit), Value::String(zone)) => short(&format!("{unit}, {zone}")),
        _ => "-".to_owned(),
    }
}

/// Columns in line, those of numbers to the right.
fn table(rows: &[Vec<String>], numbers: &[usize], out: &mut impl Write) -> io::Result<()> {
    let width =
        |at: usize| rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows.first().map_or(0, Vec::len)).map(width).collect();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(at, (cell, width))| match numbers.contains(&at) {
            true => format!("{cell:>width$}"),
            false => format!("{cell:<width$}"),
        });
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}
