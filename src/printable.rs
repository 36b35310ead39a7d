//! Text of others, made safe to print: what clients sent and manifests name must not talk to the reader's terminal, and
//! secrets in it must not be kept.

mod secret;

use std::borrow::Cow;
use std::fmt::Write;

pub use self::secret::masked;

/// `text` with control characters, and those that turn the direction of writing, as escapes. Line breaks stay.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, |character| character != '\n' && is_unprintable(character))
}

/// Likewise, on one line.
#[must_use]
pub fn printable_line(text: &str) -> Cow<'_, str> {
    escaped(text, is_unprintable)
}

fn escaped(text: &str, is_wrong: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_wrong) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match is_wrong(character) {
            true => _ = write!(out, "{}", character.escape_default()),
            false => out.push(character),
        }
    }
    Cow::Owned(out)
}

/// Unicode's `Cc`, the explicit directions of UAX #9, and its line and paragraph separators.
fn is_unprintable(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_act_upon_is_shown() {
        for (text, lines, line) in [
            ("plain – ünï", "plain – ünï", "plain – ünï"),
            ("a\u{1b}[2Jb\u{9b}m", "a\\u{1b}[2Jb\\u{9b}m", "a\\u{1b}[2Jb\\u{9b}m"),
            ("a\r\u{7}\nb", "a\\r\\u{7}\nb", "a\\r\\u{7}\\nb"),
            ("eerf\u{202e}free\u{2069}", "eerf\\u{202e}free\\u{2069}", "eerf\\u{202e}free\\u{2069}"),
        ] {
            assert_eq!((&*printable(text), &*printable_line(text)), (lines, line), "{text:?}");
        }
    }
}
