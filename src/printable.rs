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

/// `text` as one word of a command that somebody may paste into a shell. A zero byte, which no word can have, goes.
#[must_use]
pub fn shell_word(text: &str) -> Cow<'_, str> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=@".contains(&byte);
    if !text.is_empty() && text.bytes().all(is_plain) {
        return Cow::Borrowed(text);
    }
    let text = text.replace('\0', "");
    Cow::Owned(shlex::try_quote(&text).map(Cow::into_owned).unwrap_or_default())
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
        || matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
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
            ("a\u{61c}b", "a\\u{61c}b", "a\\u{61c}b"),
            ("eerf\u{202e}free\u{2069}", "eerf\\u{202e}free\\u{2069}", "eerf\\u{202e}free\\u{2069}"),
        ] {
            assert_eq!((&*printable(text), &*printable_line(text)), (lines, line), "{text:?}");
        }
    }
    #[test]
    fn a_word_of_a_command_is_one_word_and_nothing_else() {
        for text in ["x$(id)", "a b", "`id`", "--user=a;id", "it's", "!!", "$HOME", "a\nb", "ü", ""] {
            let word = shell_word(text);
            assert_eq!(shlex::split(&word), Some(vec![text.to_owned()]), "{word}");
            let bare = word.chars().any(|c| "$`;!".contains(c)) && !word.contains('\'');
            assert!(!bare, "{word}");
        }
        assert_eq!(
            shell_word("--group=system:serviceaccounts:a-tier-free"),
            "--group=system:serviceaccounts:a-tier-free"
        );
        assert_eq!(shlex::split(&shell_word("a\0b c")), Some(vec!["ab c".to_owned()]));
    }
}
