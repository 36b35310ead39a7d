//! Envoy's configuration as it is written: fields in `snake_case` or, as its JSON has them, in `camelCase`.

use std::time::Duration;

use crate::manifest::Finding;
use crate::manifest::reader::Field;
use crate::manifest::tree::Value;

/// A value of the configuration.
#[derive(Clone, Debug)]
pub(super) struct Item<'a>(pub(super) Field<'a>);

/// The type that `@type` names.
pub(super) fn type_of<'a>(item: &Item<'a>) -> Option<&'a str> {
    item.text("@type")
}

fn camel(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |mut all, word| {
        let mut chars = word.chars();
        all.extend(chars.next().map(|c| c.to_ascii_uppercase()));
        all + chars.as_str()
    })
}

// === impl Item ===

impl<'a> Item<'a> {
    /// The field `name` of a mapping, if it is there and not null.
    pub(super) fn get(&self, name: &str) -> Option<Item<'a>> {
        let Value::Map(entries) = &self.0.node.value else { return None };
        let is_there = entries
            .iter()
            .any(|(key, node)| (key.name == name || key.name == camel(name)) && node.value != Value::Null);
        let found = self.0.entries().filter(|_| is_there)?.into_iter();
        found.into_iter().find(|(key, _)| key.name == name || key.name == camel(name)).map(|(_, field)| Item(field))
    }

    /// The field at the end of a path of names.
    pub(super) fn at(&self, path: &[&str]) -> Option<Item<'a>> {
        path.iter().try_fold(self.clone(), |item, name| item.get(name))
    }

    pub(super) fn items(&self) -> Vec<Item<'a>> {
        match &self.0.node.value {
            Value::List(_) => self.0.items().unwrap_or_default().into_iter().map(Item).collect(),
            _ => Vec::new(),
        }
    }

    /// The values of a mapping or list.
    pub(super) fn children(&self) -> Vec<Item<'a>> {
        match &self.0.node.value {
            Value::Map(_) => self.0.entries().unwrap_or_default().into_iter().map(|(_, field)| Item(field)).collect(),
            _ => self.items(),
        }
    }

    /// The names and values of a mapping.
    pub(super) fn entries(&self) -> Vec<(&'a str, Item<'a>)> {
        match &self.0.node.value {
            Value::Map(_) => {
                let entries = self.0.entries().unwrap_or_default().into_iter();
                entries.map(|(key, field)| (key.name.as_str(), Item(field))).collect()
            }
            _ => Vec::new(),
        }
    }

    pub(super) fn as_text(&self) -> Option<&'a str> {
        match &self.0.node.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn text(&self, name: &str) -> Option<&'a str> {
        self.get(name)?.as_text()
    }

    /// A number, also in the form `{value: 1}`.
    pub(super) fn number(&self, name: &str) -> Option<i64> {
        let item = self.get(name)?;
        let item = item.get("value").unwrap_or(item);
        match &item.0.node.value {
            Value::Int(number) => Some(*number),
            Value::Text(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// Whether the field is there and true, also in the form `{value: true}`.
    pub(super) fn is_true(&self, name: &str) -> bool {
        let item = self.get(name);
        let item = item.map(|item| item.get("value").unwrap_or(item));
        item.is_some_and(|item| item.0.node.value == Value::Bool(true))
    }

    /// Whether an enumeration is one of `names`, or the number of one.
    pub(super) fn is_one_of(&self, name: &str, names: &[(&str, i64)]) -> bool {
        let Some(item) = self.get(name) else { return false };
        names.iter().any(|(text, number)| match &item.0.node.value {
            Value::Text(written) => written == text,
            Value::Int(written) => written == number,
            _ => false,
        })
    }

    /// A duration as protobuf's JSON writes it: `0.25s`.
    pub(super) fn duration(&self, name: &str) -> Option<Duration> {
        let seconds: f64 = self.text(name)?.strip_suffix('s')?.parse().ok()?;
        Duration::try_from_secs_f64(seconds).ok()
    }

    pub(super) fn warn(&self, code: Finding, message: impl Into<String>, remedy: &str) {
        self.0.report(self.0.warning(message).code(code).remedy(remedy));
    }
}
