//! A YAML document as a tree whose every key and value knows its line and column.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use crate::problem::Position;

/// One value of a document, and where it stands.
#[derive(Clone, Debug)]
pub struct Node {
    pub value: Value,
    pub at: Position,
}

/// What stands at a [`Node`].
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    /// An integer above `i64::MAX`.
    BigInt(u64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// A key of a mapping, and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    pub name: String,
    pub at: Position,
}

/// Why a text is not YAML.
#[derive(Clone, Debug)]
pub struct ParseFault {
    pub message: String,
    pub at: Position,
}

/// Reads all documents of `text`; empty documents are left out.
///
/// # Errors
///
/// The first place at which the text is not YAML, holds a key twice, or passes the parser's budget (nesting, aliases
/// that expand).
pub fn parse(text: &str) -> Result<Vec<Node>, ParseFault> {
    let documents: Vec<Spanned<Tree>> = serde_saphyr::from_multiple_with_options(text, options()).map_err(|error| {
        ParseFault { at: error.location().map(|l| at(&l)).unwrap_or_default(), message: reason(&error) }
    })?;
    Ok(documents.into_iter().map(Node::from).filter(|node| node.value != Value::Null).collect())
}

/// A file may hold many thousands of objects; what explodes (aliases, nesting) stays bounded as the parser bounds it.
fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_documents: 1_000_000,
            max_events: 20_000_000,
            max_nodes: 10_000_000,
            max_depth: 64,
        },
    }
}

/// The parser's message without the position, which the caller prints as a position.
fn reason(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    if let Some(key) = text.strip_prefix("duplicate mapping key: ") {
        let key = key.split(',').next().unwrap_or(key);
        return format!("key `{key}` stands a second time");
    }
    if text.contains("deserialize") {
        return "a key of a mapping is not a text".to_owned();
    }
    match text.rfind(" at line ") {
        Some(end) => text.get(..end).unwrap_or(&text).to_owned(),
        None => text,
    }
}

fn at(location: &serde_saphyr::Location) -> Position {
    Position {
        line: u32::try_from(location.line()).unwrap_or(u32::MAX),
        column: u32::try_from(location.column()).unwrap_or(u32::MAX),
    }
}

// === impl Node ===

impl Node {
    /// The value of a key of a mapping.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Node> {
        let Value::Map(entries) = &self.value else { return None };
        entries.iter().find(|(own, _)| own.name == key).map(|(_, value)| value)
    }

    /// The name of the value's type, for messages.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self.value {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Int(_) | Value::BigInt(_) => "an integer",
            Value::Float(_) => "a number",
            Value::Text(_) => "a string",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }
}

impl From<Spanned<Tree>> for Node {
    fn from(tree: Spanned<Tree>) -> Self {
        Node { at: at(&tree.referenced), value: tree.value.0 }
    }
}

impl From<&serde_json::Value> for Node {
    /// An object of a cluster: it has no lines.
    fn from(value: &serde_json::Value) -> Self {
        use serde_json::Value as Json;
        let number = |number: &serde_json::Number| match (number.as_i64(), number.as_u64()) {
            (Some(value), _) => Value::Int(value),
            (None, Some(value)) => Value::BigInt(value),
            (None, None) => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        };
        let key = |name: &String| Key { name: name.clone(), at: Position::default() };
        let value = match value {
            Json::Null => Value::Null,
            Json::Bool(value) => Value::Bool(*value),
            Json::Number(value) => number(value),
            Json::String(text) => Value::Text(text.clone()),
            Json::Array(items) => Value::List(items.iter().map(Node::from).collect()),
            Json::Object(entries) => {
                Value::Map(entries.iter().map(|(name, value)| (key(name), value.into())).collect())
            }
        };
        Node { value, at: Position::default() }
    }
}

impl PartialEq for Node {
    /// Positions do not count: two nodes are equal when they say the same.
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

// === Deserialize ===

/// A [`Value`] on its way out of the parser.
struct Tree(Value);

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor).map(Tree)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Int(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(i64::try_from(value).map_or(Value::BigInt(value), Value::Int))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element::<Spanned<Tree>>()? {
            list.push(item.into());
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Vec::new();
        while let Some((key, value)) = entries.next_entry::<Spanned<String>, Spanned<Tree>>()? {
            let key = Key { at: at(&key.referenced), name: key.value };
            map.push((key, value.into()));
        }
        Ok(Value::Map(map))
    }
}
