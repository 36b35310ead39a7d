//! The most that a call can cost, as its body says: its prompt, and the longest answer that it asks for, once for each choice.
//!
//! It is read only where a gateway sends the body along, which no shipped configuration does. A bound makes a hold smaller, and never
//! wrongly so: a body about which there is any doubt has none. That is one which a model server may read in another way than is read
//! here, or of which a part stands elsewhere.

use std::num::NonZeroU64;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::call::ends_with_any;
use crate::request::Body;

/// Bytes of JSON a token of a prompt.
const BYTES_A_TOKEN: u64 = 4;
/// No API has so many names in one object. It bounds the work that a body makes.
const MAX_NAMES: usize = 256;

/// An API of model servers.
struct Dialect {
    /// The ends of its paths.
    paths: &'static [&'static str],
    fields: &'static [Field],
}

/// A name in an object, and what it says.
type Field = (&'static str, Meaning);

/// What a field says.
#[derive(Clone, Copy)]
enum Meaning {
    /// The tokens of the longest answer.
    Longest,
    /// How many answers are written.
    Choices,
    /// One prompt or many, each of which is answered.
    Prompts,
    /// That a part of the prompt is none of the body.
    Elsewhere,
    /// An object that has such fields.
    Object(&'static [Field]),
}

const DIALECTS: [Dialect; 6] = [
    Dialect { paths: &["/v1/chat/completions"], fields: &CHAT },
    Dialect { paths: &["/v1/completions"], fields: &COMPLETIONS },
    Dialect { paths: &["/v1/responses"], fields: &RESPONSES },
    Dialect { paths: &["/v1/messages"], fields: &[("max_tokens", Meaning::Longest)] },
    Dialect { paths: &[":generateContent", ":streamGenerateContent"], fields: &GEMINI },
    Dialect { paths: &["/api/chat", "/api/generate"], fields: &OLLAMA },
];

/// OpenAI's chat. `best_of` is vLLM's.
const CHAT: [Field; 4] = [
    ("max_completion_tokens", Meaning::Longest),
    ("max_tokens", Meaning::Longest),
    ("n", Meaning::Choices),
    ("best_of", Meaning::Choices),
];
/// OpenAI's completions; vLLM takes prompts of another form beside them.
const COMPLETIONS: [Field; 6] = [
    ("max_tokens", Meaning::Longest),
    ("max_completion_tokens", Meaning::Longest),
    ("n", Meaning::Choices),
    ("best_of", Meaning::Choices),
    ("prompt", Meaning::Prompts),
    ("prompt_embeds", Meaning::Elsewhere),
];
/// OpenAI's Responses, which may go on from what was said before.
const RESPONSES: [Field; 4] = [
    ("max_output_tokens", Meaning::Longest),
    ("previous_response_id", Meaning::Elsewhere),
    ("conversation", Meaning::Elsewhere),
    ("prompt", Meaning::Elsewhere),
];
const GEMINI: [Field; 2] = [("generationConfig", Meaning::Object(&GENERATION)), ("cachedContent", Meaning::Elsewhere)];
const GENERATION: [Field; 2] = [("maxOutputTokens", Meaning::Longest), ("candidateCount", Meaning::Choices)];
const OLLAMA: [Field; 1] = [("options", Meaning::Object(&[("num_predict", Meaning::Longest)]))];

/// Names of bounds and choices of all APIs, and of single servers. Where its API does not have it, a server may heed one all the same:
/// llama.cpp lets `n_predict` win over `max_tokens`.
const KNOWN: [&str; 14] = [
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "max_new_tokens",
    "max_length",
    "num_predict",
    "n_predict",
    "n",
    "n_cmpl",
    "best_of",
    "candidate_count",
    "num_return_sequences",
    "generation_config",
    "options",
];

/// What a body asks for.
#[derive(Default)]
struct Asked {
    longest: Option<NonZeroU64>,
    choices: Option<NonZeroU64>,
    prompts: Option<u64>,
}

/// Reads an object that may have these fields.
struct Object<'a> {
    fields: &'static [Field],
    asked: &'a mut Asked,
}

/// Reads the name of a field: which of these it is, if any.
struct Name(&'static [Field]);

/// Reads how many prompts there are.
struct Prompts;

/// What one element of a list of prompts is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Element {
    Text,
    /// Of one prompt, which all the list is.
    Token,
    Tokens,
}

/// The most tokens that a call of this path can cost, which sends that body; `None` where it names no bound, or leaves a doubt.
#[must_use]
pub fn most_tokens(path: &str, body: Body<'_>) -> Option<u64> {
    let dialect = DIALECTS.iter().find(|dialect| ends_with_any(path, dialect.paths))?;
    let asked = Asked::read(dialect.fields, body.bytes()).ok()?;
    let prompt = u64::try_from(body.bytes().len()).ok()?.div_ceil(BYTES_A_TOKEN);
    Some(prompt.saturating_add(asked.output()?))
}

// === impl Asked ===

impl Asked {
    fn read(fields: &'static [Field], body: &[u8]) -> Result<Asked, serde_json::Error> {
        let mut asked = Asked::default();
        let mut reader = serde_json::Deserializer::from_slice(body);
        Object { fields, asked: &mut asked }.deserialize(&mut reader)?;
        reader.end()?;
        Ok(asked)
    }

    /// The tokens of all answers together.
    fn output(&self) -> Option<u64> {
        let choices = self.choices.map_or(1, NonZeroU64::get).saturating_mul(self.prompts.unwrap_or(1));
        Some(self.longest?.get().saturating_mul(choices))
    }

    /// Takes the value of a field. Only null is as if it were not there; what is no whole number above 0, servers read each in its own
    /// way.
    fn take<'de, A: MapAccess<'de>>(&mut self, meaning: Meaning, map: &mut A) -> Result<(), A::Error> {
        match meaning {
            Meaning::Longest => self.longest = self.longest.max(map.next_value()?),
            Meaning::Choices => self.choices = self.choices.max(map.next_value()?),
            Meaning::Prompts => self.prompts = Some(map.next_value_seed(Prompts)?),
            Meaning::Elsewhere => {
                if map.next_value::<Option<IgnoredAny>>()?.is_some() {
                    return Err(A::Error::custom("a part of the prompt stands elsewhere"));
                }
            }
            Meaning::Object(fields) => map.next_value_seed(Object { fields, asked: self })?,
        }
        Ok(())
    }
}

// === impl Object ===

impl<'de> DeserializeSeed<'de> for Object<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object or null")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let (mut seen, mut names) = (0_u32, 0);
        while let Some(field) = map.next_key_seed(Name(self.fields))? {
            names += 1;
            if names > MAX_NAMES {
                return Err(A::Error::custom("too many names"));
            }
            let Some((at, (_, meaning))) = field.and_then(|at| Some((at, self.fields.get(at)?))) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            // Of two, one server takes the first and another the last.
            if seen & 1 << at != 0 {
                return Err(A::Error::custom("a name stands there twice"));
            }
            seen |= 1 << at;
            self.asked.take(*meaning, &mut map)?;
        }
        Ok(())
    }
}

// === impl Name ===

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<usize>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Option<usize>, E> {
        let found = self.0.iter().position(|(known, _)| *known == name);
        let mut known = self.0.iter().map(|(known, _)| *known).chain(KNOWN);
        if found.is_none() && known.any(|known| letters(known).eq(letters(name))) {
            return Err(E::custom("a name of a bound that is not this API's"));
        }
        Ok(found)
    }
}

/// What servers compare of names who do not go by each letter: Go's JSON folds case, which two letters beyond ASCII fold to as well, and
/// Google's has two ways to divide words.
fn letters(name: &str) -> impl Iterator<Item = char> {
    name.chars().filter(|letter| !matches!(letter, '_' | '-')).map(|letter| match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        letter => letter.to_ascii_lowercase(),
    })
}

// === impl Prompts ===

impl<'de> DeserializeSeed<'de> for Prompts {
    type Value = u64;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<u64, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Prompts {
    type Value = u64;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a prompt or a list of prompts")
    }

    fn visit_unit<E: Error>(self) -> Result<u64, E> {
        Ok(1)
    }

    fn visit_str<E: Error>(self, _text: &str) -> Result<u64, E> {
        Ok(1)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<u64, A::Error> {
        let (mut first, mut prompts) = (None, 0);
        while let Some(element) = list.next_element()? {
            if *first.get_or_insert(element) != element {
                return Err(A::Error::custom("a list of several things"));
            }
            prompts += 1;
        }
        match first {
            None => Err(A::Error::custom("no prompt")),
            Some(Element::Token) => Ok(1),
            Some(Element::Text | Element::Tokens) => Ok(prompts),
        }
    }
}

// === impl Element ===

impl<'de> serde::Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Kind;

        impl<'de> Visitor<'de> for Kind {
            type Value = Element;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a prompt or a token")
            }

            fn visit_str<E: Error>(self, _text: &str) -> Result<Element, E> {
                Ok(Element::Text)
            }

            fn visit_u64<E: Error>(self, _token: u64) -> Result<Element, E> {
                Ok(Element::Token)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut tokens: A) -> Result<Element, A::Error> {
                while tokens.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Element::Tokens)
            }
        }

        deserializer.deserialize_any(Kind)
    }
}

#[cfg(test)]
mod tests;
