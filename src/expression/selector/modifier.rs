//! `@name` and `@name:argument`: what is done to a value on the way.

use std::borrow::Cow;
use std::sync::LazyLock;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::engine::{DecodePaddingMode, general_purpose};
use regex::Regex;
use serde_json::{Map, Value};

use super::super::{CompileError, EvalError};
use super::text;
use super::value::{PathValue, TextBudget, error};
use crate::spelling::did_you_mean;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Modifier {
    /// `@this`, and what only lays the JSON text out: `@ugly`, `@valid`.
    This,
    Lower,
    Upper,
    Strip,
    Extract {
        separator: String,
        position: usize,
    },
    Replace {
        old: String,
        new: String,
    },
    Encode,
    Decode,
    ToText,
    FromText,
    Keys,
    Values,
    Reverse,
    Flatten {
        deep: bool,
    },
    Group,
}

const MODIFIERS: &[&str] = &[
    "this", "ugly", "valid", "case", "strip", "extract", "replace", "base64", "tostr", "fromstr", "keys", "values",
    "reverse", "flatten", "group",
];

const UPPER: &str = "@case:upper";

/// What Go's `unicode.IsPrint` calls not printable.
static NOT_PRINTABLE: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let regex = Regex::new(r"[^\p{L}\p{M}\p{N}\p{P}\p{S} ]+");
    debug_assert!(regex.is_ok(), "{regex:?}");
    regex.ok()
});

/// Go's decoder takes any bits after the last whole byte.
const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true);
const PADDED: GeneralPurpose = GeneralPurpose::new(&STANDARD, LENIENT);
const UNPADDED: GeneralPurpose =
    GeneralPurpose::new(&STANDARD, LENIENT.with_decode_padding_mode(DecodePaddingMode::RequireNone));

// === impl Modifier ===

impl Modifier {
    /// The modifier `name`.
    ///
    /// # Errors
    ///
    /// There is none of that name, or the argument is none that it knows.
    pub(super) fn read(name: &str, argument: Option<Value>) -> Result<Self, CompileError> {
        match name {
            "case" => word(name, argument, ["lower", "upper"], [Modifier::Lower, Modifier::Upper]),
            "base64" => word(name, argument, ["encode", "decode"], [Modifier::Encode, Modifier::Decode]),
            "extract" => Self::read_extract(argument),
            "replace" => Self::read_replace(argument),
            "flatten" => Self::read_flatten(argument),
            "pretty" | "join" => Err(error(format!("uses the modifier `@{name}`, which is not supported"))
                .remedy("remove it, or write a CEL `expression`")),
            name if !MODIFIERS.contains(&name) => Err(unknown(name)),
            name if argument.is_some() => Err(error(format!("gives `@{name}` an argument; it takes none"))),
            "strip" => Ok(Modifier::Strip),
            "tostr" => Ok(Modifier::ToText),
            "fromstr" => Ok(Modifier::FromText),
            "keys" => Ok(Modifier::Keys),
            "values" => Ok(Modifier::Values),
            "reverse" => Ok(Modifier::Reverse),
            "group" => Ok(Modifier::Group),
            _ => Ok(Modifier::This),
        }
    }

    fn read_extract(argument: Option<Value>) -> Result<Self, CompileError> {
        let options = options("extract", argument, &["sep", "pos"])?;
        let whole = |value: &Value| value.as_u64().and_then(|at| usize::try_from(at).ok());
        let position = options.get("pos").map_or(Some(0), whole);
        let position = position.ok_or_else(|| error("has a `pos` of `@extract` that is no whole number from 0 on"))?;
        Ok(Modifier::Extract { separator: text_option("extract", &options, "sep", " ")?, position })
    }

    fn read_replace(argument: Option<Value>) -> Result<Self, CompileError> {
        let options = options("replace", argument, &["old", "new"])?;
        let text = |option| text_option("replace", &options, option, "");
        let (old, new) = (text("old")?, text("new")?);
        if old.is_empty() {
            let error = error("replaces nothing: `@replace` needs an `old`");
            return Err(error.remedy("write `@replace:{\"old\":\"a\",\"new\":\"b\"}`"));
        }
        Ok(Modifier::Replace { old, new })
    }

    fn read_flatten(argument: Option<Value>) -> Result<Self, CompileError> {
        match options("flatten", argument, &["deep"])?.get("deep") {
            None => Ok(Modifier::Flatten { deep: false }),
            Some(Value::Bool(deep)) => Ok(Modifier::Flatten { deep: *deep }),
            Some(_) => Err(error("has a `deep` of `@flatten` that is not true or false")),
        }
    }

    /// What becomes of `found`. Most modifiers make something of nothing, as gjson's do.
    pub(super) fn apply<'a>(&self, found: PathValue<'a>, budget: &mut TextBudget) -> Result<PathValue<'a>, EvalError> {
        Ok(match self {
            Modifier::This => found,
            Modifier::Lower => change("@case:lower", found, &|text| text.chars().map(lower_case).collect())?,
            Modifier::Upper => change(UPPER, found, &|text| text.chars().map(upper_case).collect())?,
            Modifier::Strip => change("@strip", found, &strip)?,
            Modifier::Extract { separator, position } => {
                let text = spent(text_of(&found), budget)?;
                Some(Cow::Owned(extract(&text, separator, *position).map_or(Value::Null, Value::String)))
            }
            Modifier::Replace { old, new } => owned(replace(&text_of(&found), old, new, budget)?),
            Modifier::Encode => owned(encode(&text_of(&found), budget)?),
            Modifier::Decode => Some(Cow::Owned(decode(&spent(text_of(&found), budget)?))),
            Modifier::ToText => {
                let text = found.map(|value| text::json(&value)).unwrap_or_default();
                budget.spend(text.len())?;
                owned(text)
            }
            Modifier::FromText => from_text(found, budget)?,
            Modifier::Keys => Some(Cow::Owned(keys(found.as_deref()))),
            Modifier::Values => Some(Cow::Owned(values(found.map(Cow::into_owned)))),
            Modifier::Reverse => reversed(found)?,
            Modifier::Flatten { deep } => match found.as_deref() {
                Some(Value::Array(items)) => Some(Cow::Owned(Value::Array(flat(items, *deep)))),
                _ => found,
            },
            Modifier::Group => match found.as_deref() {
                Some(Value::Object(members)) => Some(Cow::Owned(group(members))),
                _ => None,
            },
        })
    }
}

/// The modifier whose argument is one of two words.
fn word(
    name: &str,
    argument: Option<Value>,
    known: [&str; 2],
    modifiers: [Modifier; 2],
) -> Result<Modifier, CompileError> {
    let word = argument.as_ref().and_then(Value::as_str);
    let found = known.into_iter().zip(modifiers).find(|(known, _)| word == Some(known));
    found.map(|(_, modifier)| modifier).ok_or_else(|| {
        let meant = word.and_then(|word| did_you_mean(word, known));
        let choices = known.map(|known| format!("`@{name}:{known}`")).join(" or ");
        let remedy =
            meant.map_or_else(|| format!("write {choices}"), |meant| format!("did you mean `@{name}:{meant}`?"));
        error(format!("gives `@{name}` no argument that it knows")).remedy(remedy)
    })
}

fn unknown(name: &str) -> CompileError {
    let meant = did_you_mean(name, MODIFIERS.iter().copied()).map(|meant| format!("did you mean `@{meant}`?"));
    let known = || format!("write `\\@` where it is part of a name; the modifiers are @{}", MODIFIERS.join(", @"));
    error(format!("uses `@{name}`, which is not a modifier")).remedy(meant.unwrap_or_else(known))
}

fn options(
    name: &str,
    argument: Option<Value>,
    known: &[&str],
) -> Result<serde_json::Map<String, Value>, CompileError> {
    let options = match argument {
        None => serde_json::Map::new(),
        Some(Value::Object(options)) => options,
        Some(_) => {
            let error = error(format!("gives `@{name}` an argument that is no mapping"));
            return Err(error.remedy(format!("write `@{name}:{{\"{}\":…}}`", known.join("\":…,\""))));
        }
    };
    match options.keys().find(|key| !known.contains(&key.as_str())) {
        None => Ok(options),
        Some(unknown) => {
            let error = error(format!("gives `@{name}` the option `{unknown}`, which it does not know"));
            Err(match did_you_mean(unknown, known.iter().copied()) {
                Some(meant) => error.remedy(format!("did you mean `{meant}`?")),
                None => error.remedy(format!("its options are {}", known.join(", "))),
            })
        }
    }
}

fn text_option(
    name: &str,
    options: &serde_json::Map<String, Value>,
    option: &str,
    otherwise: &str,
) -> Result<String, CompileError> {
    match options.get(option) {
        None => Ok(otherwise.to_owned()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err(error(format!("has an `{option}` of `@{name}` that is no text"))),
    }
}

fn owned<'a>(text: String) -> PathValue<'a> {
    Some(Cow::Owned(Value::String(text)))
}

fn text_of<'t>(found: &'t PathValue<'_>) -> Cow<'t, str> {
    found.as_deref().map_or(Cow::Borrowed(""), text::of)
}

fn spent<'t>(text: Cow<'t, str>, budget: &mut TextBudget) -> Result<Cow<'t, str>, EvalError> {
    budget.spend(text.len())?;
    Ok(text)
}

fn asked_of(modifier: &str, what: &str) -> EvalError {
    EvalError::Failed(format!("`{modifier}` is asked of {what}"))
}

fn extract(text: &str, separator: &str, position: usize) -> Option<String> {
    match separator {
        "" => text.chars().nth(position).map(String::from),
        separator => text.split(separator).nth(position).map(str::to_owned),
    }
}

fn replace(text: &str, old: &str, new: &str, budget: &mut TextBudget) -> Result<String, EvalError> {
    let times = text.matches(old).count();
    budget.spend(times.saturating_mul(new.len()).saturating_add(text.len()))?;
    Ok(text.replace(old, new))
}

fn encode(text: &str, budget: &mut TextBudget) -> Result<String, EvalError> {
    budget.spend(text.len() / 3 * 4 + 4)?;
    Ok(general_purpose::STANDARD.encode(text.as_bytes()))
}

/// What the JSON of a text says.
fn from_text<'a>(found: PathValue<'a>, budget: &mut TextBudget) -> Result<PathValue<'a>, EvalError> {
    Ok(match found.as_deref() {
        Some(Value::String(text)) => {
            budget.spend(text.len())?;
            serde_json::from_str(text).ok().map(Cow::Owned)
        }
        Some(Value::Null) | None => None,
        Some(_) => found,
    })
}

fn reversed(found: PathValue<'_>) -> Result<PathValue<'_>, EvalError> {
    match found.as_deref() {
        Some(Value::Array(items)) => Ok(Some(Cow::Owned(items.iter().rev().cloned().collect()))),
        Some(Value::Object(_)) => Err(asked_of("@reverse", "a mapping")),
        _ => Ok(found),
    }
}

fn keys(found: Option<&Value>) -> Value {
    match found {
        Some(Value::Object(members)) => members.keys().cloned().map(Value::String).collect(),
        Some(Value::Array(items)) => items.iter().map(|_| Value::Null).collect(),
        Some(_) => Value::Array(vec![Value::Null]),
        None => Value::Array(Vec::new()),
    }
}

fn values(found: Option<Value>) -> Value {
    match found {
        Some(Value::Object(members)) => members.into_iter().map(|(_, value)| value).collect(),
        Some(Value::Array(items)) => Value::Array(items),
        Some(value) => Value::Array(vec![value]),
        None => Value::Array(Vec::new()),
    }
}

/// Changes a text, or each text of a list, if there is one.
fn change<'a>(
    modifier: &str,
    found: PathValue<'a>,
    change: &dyn Fn(&str) -> String,
) -> Result<PathValue<'a>, EvalError> {
    found.map(|value| each_text(modifier, value, change)).transpose()
}

/// Changes a text, or each text of a list.
fn each_text<'a>(
    modifier: &str,
    value: Cow<'a, Value>,
    change: &dyn Fn(&str) -> String,
) -> Result<Cow<'a, Value>, EvalError> {
    Ok(match value.as_ref() {
        Value::String(text) => Cow::Owned(Value::String(change(text))),
        Value::Array(items) => {
            let items = items.iter().map(|item| each_text(modifier, Cow::Borrowed(item), change).map(Cow::into_owned));
            Cow::Owned(Value::Array(items.collect::<Result<_, _>>()?))
        }
        // A mapping has its members in the order of their names here, and changed names would have another.
        Value::Object(_) => return Err(asked_of(modifier, "a mapping")),
        // `TRUE` is no JSON: Authorino would make nothing of it, or zero of `NULL`.
        Value::Null | Value::Bool(_) if modifier == UPPER => return Err(asked_of(modifier, "what is no text")),
        Value::Null | Value::Bool(_) | Value::Number(_) => value,
    })
}

/// Go changes one character into one; where Unicode's full mapping has several, its simple one is meant.
fn upper_case(char: char) -> char {
    let mut mapped = char.to_uppercase();
    match (mapped.next(), mapped.next(), char) {
        (Some(one), None, _) => one,
        (_, _, '\u{1f80}'..='\u{1f87}' | '\u{1f90}'..='\u{1f97}' | '\u{1fa0}'..='\u{1fa7}') => {
            char::from_u32(u32::from(char) + 8).unwrap_or(char)
        }
        (_, _, '\u{1fb3}' | '\u{1fc3}' | '\u{1ff3}') => char::from_u32(u32::from(char) + 9).unwrap_or(char),
        _ => char,
    }
}

fn lower_case(char: char) -> char {
    let mut mapped = char.to_lowercase();
    match (mapped.next(), mapped.next()) {
        (Some(one), None) => one,
        (Some(first), Some(_)) => first,
        _ => char,
    }
}

fn strip(text: &str) -> String {
    match NOT_PRINTABLE.as_ref() {
        Some(regex) => regex.replace_all(text, "").into_owned(),
        None => text.to_owned(),
    }
}

/// With or without padding. Line breaks are skipped, as Go's decoder skips them.
fn decode(text: &str) -> Value {
    let text: String = text.chars().filter(|char| !matches!(char, '\r' | '\n')).collect();
    let bytes = PADDED.decode(&text).or_else(|_| UNPADDED.decode(&text));
    let text = bytes.ok().and_then(|bytes| String::from_utf8(bytes).ok());
    text.map_or(Value::Null, Value::String)
}

fn flat(items: &[Value], deep: bool) -> Vec<Value> {
    let mut flattened = Vec::new();
    for item in items {
        match item {
            Value::Array(inner) if deep => flattened.extend(flat(inner, deep)),
            Value::Array(inner) => flattened.extend(inner.iter().cloned()),
            other => flattened.push(other.clone()),
        }
    }
    flattened
}

/// `{"a": [1, 2], "b": [3]}` becomes `[{"a": 1, "b": 3}, {"a": 2}]`.
fn group(members: &Map<String, Value>) -> Value {
    let mut rows: Vec<Map<String, Value>> = Vec::new();
    for (name, value) in members {
        for (index, item) in value.as_array().into_iter().flatten().enumerate() {
            if rows.len() == index {
                rows.push(Map::new());
            }
            if let Some(row) = rows.get_mut(index) {
                row.insert(name.clone(), item.clone());
            }
        }
    }
    rows.into_iter().map(Value::Object).collect()
}
