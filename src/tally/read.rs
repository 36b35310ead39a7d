//! Lines of usage logs, read one at a time.

use std::borrow::Cow;
use std::io::{self, BufRead, Read};
use std::time::Duration;

use serde::Deserialize;

use crate::clock::Micros;
use crate::usage::ledger::{Quality, rfc3339};

/// What is summed of a line. A field that is always written has to be there: else it is no line of a usage log.
#[derive(Debug, Deserialize)]
pub(super) struct Entry<'l> {
    #[serde(with = "rfc3339")]
    pub(super) time: Micros,
    #[serde(borrow)]
    pub(super) user: Cow<'l, str>,
    #[serde(borrow)]
    pub(super) tier: Cow<'l, str>,
    #[serde(borrow)]
    pub(super) namespace: Cow<'l, str>,
    #[serde(borrow)]
    pub(super) model: Cow<'l, str>,
    #[serde(default)]
    pub(super) input: Option<i64>,
    #[serde(default)]
    pub(super) output: Option<i64>,
    #[serde(default)]
    pub(super) cached: Option<i64>,
    #[serde(default)]
    pub(super) reasoning: Option<i64>,
    pub(super) total: i64,
    pub(super) quality: Quality,
    #[serde(default)]
    pub(super) correction: bool,
    #[serde(default)]
    pub(super) corrects: Option<Quality>,
}

/// No line that tiergate writes is longer, in bytes.
const LONGEST: usize = 1 << 20;
/// What is written at one time is there after so long: a file that ends within a line may be in the middle of it.
const WRITE: Duration = Duration::from_millis(20);
/// How compressed files begin, and what reads them.
const COMPRESSED: [(&[u8], &str); 3] =
    [(&[0x1f, 0x8b], "zcat"), (&[0x28, 0xb5, 0x2f, 0xfd], "zstdcat"), (&[0xfd, b'7', b'z', b'X', b'Z'], "xzcat")];

/// Hands each line, with its number, to `each`: what stands in it, or why that cannot be read.
///
/// # Errors
///
/// There is no more to read, and why.
pub(super) fn read(
    mut lines: impl BufRead,
    mut each: impl FnMut(u64, Result<Entry<'_>, String>),
) -> Result<(), String> {
    let begin = lines.fill_buf().map_err(|error| error.to_string())?;
    if let Some((_, reader)) = COMPRESSED.iter().find(|(magic, _)| begin.starts_with(magic)) {
        return Err(format!("it is compressed: `{reader} FILE | tiergate usage -` reads it"));
    }
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let whole = next(&mut lines, &mut line).map_err(|error| format!("after line {}: {error}", number - 1))?;
        match whole {
            None => break,
            Some(false) => each(number, Err(format!("longer than {LONGEST} bytes"))),
            Some(true) => match line.trim_ascii() {
                // What ends a cut line may leave an empty one.
                [] => {}
                line => each(number, serde_json::from_slice(line).map_err(|error| reason(line, &error))),
            },
        }
    }
    Ok(())
}

/// Reads the next line into `line`, as far as a line goes: whether that is all of it; `None` at the end.
fn next(lines: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<Option<bool>> {
    let mut is_whole = true;
    loop {
        let mut more = |line: &mut Vec<u8>| {
            let room = LONGEST.saturating_sub(line.len());
            lines.by_ref().take(room as u64).read_until(b'\n', line)
        };
        let mut read = more(line)?;
        if (1..LONGEST).contains(&read) && !line.ends_with(b"\n") {
            std::thread::sleep(WRITE);
            read += more(line)?;
        }
        if read < LONGEST || line.ends_with(b"\n") {
            return Ok((read > 0 || !is_whole).then_some(is_whole));
        }
        is_whole = false;
        line.clear();
    }
}

/// A line is one line, so only the column says where.
fn reason(line: &[u8], error: &serde_json::Error) -> String {
    if line.iter().all(|byte| *byte == 0) {
        return "zeros, as a crash of the machine leaves them".to_owned();
    }
    let text = error.to_string();
    let text = text.rsplit_once(" at line ").map_or(&*text, |(text, _)| text);
    match error.is_eof() {
        true => "it is cut off".to_owned(),
        false => format!("{text} (column {})", error.column()),
    }
}
