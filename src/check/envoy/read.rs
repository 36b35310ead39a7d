//! Envoy's configuration as it is written: fields in `snake_case` or, as its JSON has them, in `camelCase`.

use std::time::Duration;

use crate::document::{Field, Node, Report, Value};
use crate::problem::{Finding, Position, Severity};

/// A value of the configuration.
#[derive(Clone, Debug)]
pub(super) struct ConfigValue<'a> {
    field: Field<'a>,
    /// Where its name stands.
    key: Option<Position>,
}

/// What tells a value from equal ones.
pub(super) type Address = *const Node;

/// The type that `@type` names; of a TypedStruct, that of what it wraps.
pub(super) fn type_of<'a>(item: &ConfigValue<'a>) -> Option<&'a str> {
    item.entry(if item.wraps() { "type_url" } else { "@type" })?.as_text()
}

/// Whether it is a message of this type.
pub(super) fn is_type(item: &ConfigValue<'_>, ending: &str) -> bool {
    type_of(item).is_some_and(|name| name.ends_with(ending))
}

/// A route's configuration of a filter, as it is or in a FilterConfig.
pub(super) fn configuration<'a>(setting: ConfigValue<'a>) -> Option<ConfigValue<'a>> {
    if is_type(&setting, ".route.v3.FilterConfig") { setting.get("config") } else { Some(setting) }
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

// === impl ConfigValue ===

impl<'a> ConfigValue<'a> {
    pub(super) fn root(document: &'a Node, report: &'a Report) -> Self {
        ConfigValue { field: Field::root(document, report), key: None }
    }

    fn value(&self) -> &'a Value {
        &self.field.node.value
    }

    /// Where the value is in memory, which no other one is.
    pub(super) fn address(&self) -> Address {
        self.field.node
    }

    /// The field `name` of a mapping, if it is there and not null; of a TypedStruct, that of what it wraps.
    pub(super) fn get(&self, name: &str) -> Option<ConfigValue<'a>> {
        let wrapped = || self.entry("value").filter(|_| self.wraps())?.get(name);
        self.entry(name).or_else(|| self.entry(&camel(name))).or_else(wrapped)
    }

    fn wraps(&self) -> bool {
        self.entry("@type").and_then(|name| name.as_text()).is_some_and(|name| name.ends_with(".TypedStruct"))
    }

    /// As `get`, by a name that the user chose.
    pub(super) fn entry(&self, name: &str) -> Option<ConfigValue<'a>> {
        let Value::Map(entries) = self.value() else { return None };
        entries.iter().find(|(key, node)| key.name == name && node.value != Value::Null)?;
        self.entries().into_iter().find(|(key, _)| *key == name).map(|(_, item)| item)
    }

    /// The field at the end of a path of names.
    pub(super) fn at(&self, path: &[&str]) -> Option<ConfigValue<'a>> {
        path.iter().try_fold(self.clone(), |item, name| item.get(name))
    }

    /// The field `name`, or the whole where it is not there: where its absence is told.
    pub(super) fn spot(&self, name: &str) -> ConfigValue<'a> {
        self.get(name).unwrap_or_else(|| self.clone())
    }

    /// The items of the list `name`, if there is one.
    pub(super) fn list(&self, name: &str) -> Vec<ConfigValue<'a>> {
        self.get(name).map(|list| list.items()).unwrap_or_default()
    }

    pub(super) fn items(&self) -> Vec<ConfigValue<'a>> {
        match self.value() {
            Value::List(_) => {
                let items = self.field.items().unwrap_or_default().into_iter();
                items.map(|field| ConfigValue { field, key: None }).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The values of a mapping or list.
    pub(super) fn children(&self) -> Vec<ConfigValue<'a>> {
        match self.value() {
            Value::Map(_) => self.entries().into_iter().map(|(_, item)| item).collect(),
            _ => self.items(),
        }
    }

    /// The names and values of a mapping.
    pub(super) fn entries(&self) -> Vec<(&'a str, ConfigValue<'a>)> {
        match self.value() {
            Value::Map(_) => {
                let entries = self.field.entries().unwrap_or_default().into_iter();
                entries.map(|(key, field)| (key.name.as_str(), ConfigValue { field, key: Some(key.at) })).collect()
            }
            _ => Vec::new(),
        }
    }

    /// What `wanted` is true of, at any depth.
    pub(super) fn find(&self, wanted: &impl Fn(&ConfigValue<'a>) -> bool) -> Vec<ConfigValue<'a>> {
        let mut found: Vec<ConfigValue<'a>> = self.children().iter().flat_map(|child| child.find(wanted)).collect();
        if wanted(self) {
            found.insert(0, self.clone());
        }
        found
    }

    pub(super) fn as_text(&self) -> Option<&'a str> {
        match self.value() {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn text(&self, name: &str) -> Option<&'a str> {
        self.get(name)?.as_text()
    }

    pub(super) fn as_number(&self) -> Option<i64> {
        match self.value() {
            Value::Int(number) => Some(*number),
            Value::Text(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// A number, also in the form `{value: 1}`.
    pub(super) fn number(&self, name: &str) -> Option<i64> {
        let item = self.get(name)?;
        item.get("value").unwrap_or(item).as_number()
    }

    /// `true` or `false`, in all the words that Envoy takes for them, also in the form `{value: true}`.
    pub(super) fn as_bool(&self) -> Option<bool> {
        match self.get("value").as_ref().unwrap_or(self).value() {
            Value::Bool(value) => Some(*value),
            Value::Text(text) => match text.to_ascii_lowercase().as_str() {
                "true" | "yes" | "y" | "on" => Some(true),
                "false" | "no" | "n" | "off" => Some(false),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether the field is there and true.
    pub(super) fn is_true(&self, name: &str) -> bool {
        self.turned_on(name).is_some()
    }

    /// The field, if it is there and true.
    pub(super) fn turned_on(&self, name: &str) -> Option<ConfigValue<'a>> {
        self.get(name).filter(|item| item.as_bool() == Some(true))
    }

    /// Whether an enumeration is one of `names`, or the number of one.
    pub(super) fn is_one_of(&self, name: &str, names: &[(&str, i64)]) -> bool {
        self.get(name).is_some_and(|item| {
            names.iter().any(|(text, number)| match item.value() {
                Value::Text(written) => written == text,
                Value::Int(written) => written == number,
                _ => false,
            })
        })
    }

    /// A duration as protobuf's JSON writes it: `0.25s`.
    pub(super) fn duration(&self, name: &str) -> Option<Duration> {
        let seconds: f64 = self.text(name)?.strip_suffix('s')?.parse().ok()?;
        Duration::try_from_secs_f64(seconds).ok()
    }

    pub(super) fn warn(&self, code: Finding, message: impl Into<String>, remedy: &str) {
        self.say(Severity::Warning, code, message, remedy);
    }

    pub(super) fn error(&self, code: Finding, message: impl Into<String>, remedy: &str) {
        self.say(Severity::Error, code, message, remedy);
    }

    fn say(&self, severity: Severity, code: Finding, message: impl Into<String>, remedy: &str) {
        let mut problem = self.field.problem(severity, message).code(code).remedy(remedy);
        // What has lines of its own is found by its name.
        if let Some(at) = self.key.filter(|_| matches!(self.value(), Value::Map(_) | Value::List(_))) {
            (problem.place.line, problem.place.column) = (at.line, at.column);
        }
        self.field.report(problem);
    }
}
