//! The names of rotated files: that of the log, a dot, and the time of the rotation.

use std::path::{Path, PathBuf};

use jiff::Timestamp;

/// The time as names have it: `20261129T011237.123Z`. They sort as they were rotated.
const FORMAT: &str = "%Y%m%dT%H%M%S%.3fZ";
/// What a time of [`FORMAT`] looks like, with 9 for any digit.
const PATTERN: &str = "99999999T999999.999Z";

/// The name that the log at `path` is given when it is rotated at `time`.
pub(super) fn rotated_name(path: &Path, time: Timestamp) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(time.strftime(FORMAT).to_string());
    name.into()
}

/// Whether `other` is a file that the log at `path` was rotated to, by this process or another.
pub(super) fn rotation_of(path: &Path, other: &Path) -> bool {
    suffix(path, other).and_then(|suffix| suffix.strip_prefix('.')).is_some_and(is_time)
}

/// What the name of `other` has behind that of `path`, if it has all of it.
#[must_use]
pub fn suffix<'o>(path: &Path, other: &'o Path) -> Option<&'o str> {
    let name = path.file_name()?.as_encoded_bytes();
    let rest = other.file_name()?.as_encoded_bytes().strip_prefix(name)?;
    str::from_utf8(rest).ok()
}

fn is_time(text: &str) -> bool {
    let is_like = |(byte, like): (u8, u8)| if like == b'9' { byte.is_ascii_digit() } else { byte == like };
    text.len() == PATTERN.len() && text.bytes().zip(PATTERN.bytes()).all(is_like)
}
