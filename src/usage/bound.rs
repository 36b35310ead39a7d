//! The most that a call can cost, as its body says: its prompt, and the longest answer that it asks for, once for each choice.
//!
//! It is read only where a gateway sends the body along, which no shipped configuration does. A bound makes a hold smaller. A body about
//! which there is a doubt has none: one which a model server may read in another way than is read here, or of which a part stands
//! elsewhere.
//!
//! The answers are bounded. The prompt is told by its bytes, and may cost more: of rare letters each is a token, or several. What a call
//! used beyond its hold is charged when it ends, as for any other.

mod part;

use std::num::NonZeroU64;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use self::part::{Part, only_null};
use super::call::ends_with_any;
use crate::request::Body;

/// Bytes of JSON a token of a prompt.
const BYTES_A_TOKEN: u64 = 4;
/// No API has so many names in one object, nor such long ones, in bytes. It bounds the work that a body makes.
const MAX_NAMES: usize = 256;
const MAX_NAME: usize = 64;

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
    /// Likewise, for servers that know this name: it raises what another says, and bounds nothing alone.
    Raises,
    /// How many answers are written.
    Choices,
    /// One prompt or many, each of which is answered.
    Prompts,
    /// A part of the prompt, which may name what the body does not hold.
    Part,
    /// Likewise, where an object with an `id` and without a `type` is one that the server keeps.
    Items,
    /// That a part of the prompt is none of the body.
    Elsewhere,
    /// An object that has such fields.
    Object(&'static [Field]),
}

const DIALECTS: [Dialect; 6] = [
    Dialect { paths: &["/v1/chat/completions"], fields: &CHAT },
    Dialect { paths: &["/v1/completions"], fields: &COMPLETIONS },
    Dialect { paths: &["/v1/responses"], fields: &RESPONSES },
    Dialect { paths: &["/v1/messages"], fields: &MESSAGES },
    Dialect { paths: &[":generateContent", ":streamGenerateContent"], fields: &GEMINI },
    Dialect { paths: &["/api/chat", "/api/generate"], fields: &OLLAMA },
];

/// OpenAI's chat. `best_of` is vLLM's. OpenAI's newer models take `max_completion_tokens` alone.
const CHAT: [Field; 5] = [
    ("messages", Meaning::Items),
    ("max_completion_tokens", Meaning::Longest),
    ("max_tokens", Meaning::Longest),
    ("n", Meaning::Choices),
    ("best_of", Meaning::Choices),
];
/// OpenAI's completions, which know no `max_completion_tokens`; vLLM takes prompts of another form beside them.
const COMPLETIONS: [Field; 6] = [
    ("max_tokens", Meaning::Longest),
    ("max_completion_tokens", Meaning::Raises),
    ("n", Meaning::Choices),
    ("best_of", Meaning::Choices),
    ("prompt", Meaning::Prompts),
    ("prompt_embeds", Meaning::Elsewhere),
];
/// OpenAI's Responses, which may go on from what was said before.
const RESPONSES: [Field; 5] = [
    ("input", Meaning::Items),
    ("max_output_tokens", Meaning::Longest),
    ("previous_response_id", Meaning::Elsewhere),
    ("conversation", Meaning::Elsewhere),
    ("prompt", Meaning::Elsewhere),
];
const MESSAGES: [Field; 2] = [("max_tokens", Meaning::Longest), ("messages", Meaning::Part)];
const GEMINI: [Field; 3] = [
    ("generationConfig", Meaning::Object(&GENERATION)),
    ("contents", Meaning::Part),
    ("cachedContent", Meaning::Elsewhere),
];
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
    raised: Option<NonZeroU64>,
    choices: Option<NonZeroU64>,
    prompts: Option<Prompts>,
}

/// What there is of prompts.
#[derive(Clone, Copy, Default)]
struct Prompts {
    /// How many are answered.
    answered: u64,
    /// Those of their tokens that stand there as numbers.
    tokens: u64,
}

/// Reads an object that may have these fields.
struct Object<'a> {
    fields: &'static [Field],
    asked: &'a mut Asked,
}

/// Reads the name of a field: which of these it is, if any.
struct Name(&'static [Field]);

/// Reads a prompt, or a list of them.
struct PromptOrList;

/// What one element of a list of prompts is.
#[derive(Clone, Copy)]
enum Element {
    Text,
    /// Of one prompt, which all the list is.
    Token,
    /// So many, of one prompt.
    Tokens(u64),
}

/// The most tokens that a call of this path can cost, which sends that body; `None` where it names no bound, or leaves a doubt.
#[must_use]
pub fn most_tokens(path: &str, body: Body<'_>) -> Option<u64> {
    let dialect = DIALECTS.iter().find(|dialect| ends_with_any(path, dialect.paths))?;
    let asked = Asked::read(dialect.fields, body.bytes()).ok()?;
    let by_bytes = u64::try_from(body.bytes().len()).ok()?.div_ceil(BYTES_A_TOKEN);
    let prompt = by_bytes.max(asked.prompts.unwrap_or_default().tokens);
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
        let prompts = self.prompts.map_or(1, |prompts| prompts.answered);
        let choices = self.choices.map_or(1, NonZeroU64::get).saturating_mul(prompts);
        let longest = self.longest?;
        Some(longest.max(self.raised.unwrap_or(longest)).get().saturating_mul(choices))
    }

    /// Takes the value of a field. Only null is as if it were not there; what is no whole number above 0, servers read each in its own
    /// way.
    fn take<'de, A: MapAccess<'de>>(&mut self, meaning: Meaning, map: &mut A) -> Result<(), A::Error> {
        match meaning {
            Meaning::Longest => self.longest = self.longest.max(map.next_value()?),
            Meaning::Raises => self.raised = map.next_value()?,
            Meaning::Choices => self.choices = self.choices.max(map.next_value()?),
            Meaning::Prompts => self.prompts = Some(map.next_value_seed(PromptOrList)?),
            Meaning::Part => map.next_value_seed(Part::ANY)?,
            Meaning::Items => map.next_value_seed(Part::ITEMS)?,
            Meaning::Elsewhere => only_null(map)?,
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
        if name.len() > MAX_NAME {
            return Err(E::custom("a long name"));
        }
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

impl Prompts {
    const ONE: Prompts = Prompts { answered: 1, tokens: 0 };

    fn and(self, element: Element) -> Self {
        let Prompts { answered, tokens } = self;
        match element {
            Element::Text => Prompts { answered: answered + 1, tokens },
            Element::Token => Prompts { answered: 1, tokens: tokens + 1 },
            Element::Tokens(more) => Prompts { answered: answered + 1, tokens: tokens + more },
        }
    }
}

// === impl PromptOrList ===

impl<'de> DeserializeSeed<'de> for PromptOrList {
    type Value = Prompts;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Prompts, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for PromptOrList {
    type Value = Prompts;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a prompt or a list of prompts")
    }

    fn visit_unit<E: Error>(self) -> Result<Prompts, E> {
        Ok(Prompts::ONE)
    }

    fn visit_str<E: Error>(self, _text: &str) -> Result<Prompts, E> {
        Ok(Prompts::ONE)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Prompts, A::Error> {
        let (mut first, mut prompts) = (None, Prompts::default());
        while let Some(element) = list.next_element::<Element>()? {
            let kind = std::mem::discriminant(&element);
            if *first.get_or_insert(kind) != kind {
                return Err(A::Error::custom("a list of several things"));
            }
            prompts = prompts.and(element);
        }
        match first {
            None => Err(A::Error::custom("no prompt")),
            Some(_) => Ok(prompts),
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

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Element, A::Error> {
                let mut tokens = 0;
                while list.next_element::<u64>()?.is_some() {
                    tokens += 1;
                }
                Ok(Element::Tokens(tokens))
            }
        }

        deserializer.deserialize_any(Kind)
    }
}

#[cfg(test)]
mod tests;
