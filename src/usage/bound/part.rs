//! A part of a prompt, looked through for what it names and does not hold: a file, an image, an earlier item.

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{MAX_NAME, letters};

/// Names in a part of a prompt of what is kept elsewhere, in the letters of [`letters`].
const KEPT: [&str; 2] = ["fileid", "uuid"];
/// Names of addresses, which may hold what they name (`data:…`).
const ADDRESSES: [&str; 6] = ["url", "fileuri", "fileurl", "imageurl", "audiourl", "videourl"];

/// Looks through a part of a prompt for what it names and does not hold.
#[derive(Clone, Copy)]
pub(super) struct Part {
    /// Whether an object with an `id` and without a `type` is one that the server keeps.
    has_items: bool,
    text: Text,
}

/// What a text in a part of a prompt is.
#[derive(Clone, Copy)]
enum Text {
    Any,
    Address,
    Type,
}

/// What a name in a part of a prompt is.
#[derive(Clone, Copy)]
enum PartName {
    Any,
    Kept,
    Address,
    Id,
    Type,
}

/// Takes a value that names what stands elsewhere, if it is not null.
pub(super) fn only_null<'de, A: MapAccess<'de>>(map: &mut A) -> Result<(), A::Error> {
    match map.next_value::<Option<IgnoredAny>>()? {
        None => Ok(()),
        Some(_) => Err(elsewhere()),
    }
}

fn elsewhere<E: Error>() -> E {
    E::custom("a part of the prompt stands elsewhere")
}

// === impl Part ===

impl Part {
    pub(super) const ANY: Part = Part { has_items: false, text: Text::Any };
    /// Which may have items that the server keeps.
    pub(super) const ITEMS: Part = Part { has_items: true, text: Text::Any };

    /// What stands in it.
    fn of(self, text: Text) -> Self {
        Part { text, ..self }
    }
}

impl<'de> DeserializeSeed<'de> for Part {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Part {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a part of a prompt")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: Error>(self, _value: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: Error>(self, _number: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: Error>(self, _number: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: Error>(self, _number: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        match self.text {
            Text::Address if !text.starts_with("data:") => Err(elsewhere()),
            Text::Type if text == "item_reference" => Err(elsewhere()),
            Text::Any | Text::Address | Text::Type => Ok(()),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let (mut has_id, mut has_type) = (false, false);
        while let Some(name) = map.next_key()? {
            let text = match name {
                PartName::Kept => {
                    only_null(&mut map)?;
                    continue;
                }
                PartName::Any | PartName::Id => Text::Any,
                PartName::Address => Text::Address,
                PartName::Type => Text::Type,
            };
            has_id |= matches!(name, PartName::Id);
            has_type |= matches!(name, PartName::Type);
            map.next_value_seed(self.of(text))?;
        }
        // OpenAI's API lets the type of a reference away.
        match self.has_items && has_id && !has_type {
            true => Err(elsewhere()),
            false => Ok(()),
        }
    }
}

// === impl PartName ===

impl PartName {
    fn of(name: &str) -> Self {
        let is = |known: &&str| known.chars().eq(letters(name));
        match name {
            "id" => PartName::Id,
            "type" => PartName::Type,
            _ if name.len() > MAX_NAME => PartName::Any,
            _ if KEPT.iter().any(is) => PartName::Kept,
            _ if ADDRESSES.iter().any(is) => PartName::Address,
            _ => PartName::Any,
        }
    }
}

impl<'de> serde::Deserialize<'de> for PartName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;

        impl Visitor<'_> for Name {
            type Value = PartName;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a name")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<PartName, E> {
                Ok(PartName::of(name))
            }
        }

        deserializer.deserialize_str(Name)
    }
}
