//! Values as the text that Authorino would see: what Go's `encoding/json` writes, and gjson's `String()` of it.

use std::borrow::Cow;
use std::io;

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::Formatter;

use super::super::Val;

/// Go's JSON: `<`, `>` and `&` are escaped, and a whole number has no fraction.
struct Go;

pub(super) fn of_val(value: Val<'_>) -> Cow<'_, str> {
    match value {
        Val::Text(text) => text,
        Val::Json(Cow::Borrowed(value)) => of(value),
        Val::Json(Cow::Owned(value)) => of_owned(value),
    }
}

pub(super) fn of(value: &Value) -> Cow<'_, str> {
    match value {
        Value::Null => Cow::Borrowed(""),
        Value::String(text) => Cow::Borrowed(text),
        Value::Bool(value) => Cow::Borrowed(if *value { "true" } else { "false" }),
        Value::Number(number) => Cow::Owned(match number.as_f64().filter(|_| number.is_f64()) {
            Some(float) => float.to_string(),
            None => number.to_string(),
        }),
        Value::Array(_) | Value::Object(_) => Cow::Owned(json(value)),
    }
}

pub(super) fn of_owned<'a>(value: Value) -> Cow<'a, str> {
    match value {
        Value::String(text) => Cow::Owned(text),
        value => Cow::Owned(of(&value).into_owned()),
    }
}

/// Compact JSON.
pub(super) fn json(value: &Value) -> String {
    let mut bytes = Vec::new();
    let written = value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, Go));
    debug_assert!(written.is_ok(), "a value is always JSON: {written:?}");
    String::from_utf8(bytes).unwrap_or_default()
}

// === impl Go ===

impl Formatter for Go {
    fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        match value.abs() {
            size if size >= 1e21 => writer.write_all(format!("{value:e}").replace('e', "e+").as_bytes()),
            size if size < 1e-6 && size != 0.0 => write!(writer, "{value:e}"),
            _ => write!(writer, "{value}"),
        }
    }

    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        let special = |char| matches!(char, '<' | '>' | '&' | '\u{2028}' | '\u{2029}');
        while let Some((at, char)) = rest.char_indices().find(|(_, char)| special(*char)) {
            let (before, after) = rest.split_at_checked(at).unwrap_or((rest, ""));
            write!(writer, "{before}\\u{:04x}", u32::from(char))?;
            rest = after.get(char.len_utf8()..).unwrap_or_default();
        }
        writer.write_all(rest.as_bytes())
    }
}
