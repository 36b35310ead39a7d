//! What was probably meant by a text that is no CEL: signs and words of other languages.

/// Words of other languages, and the operators that are meant.
const WORDS: [(&str, &str); 7] =
    [("and", "&&"), ("or", "||"), ("not", "!"), ("is", "=="), ("eq", "=="), ("equals", "=="), ("neq", "!=")];

/// What to write in place of what `source` has and CEL has not.
pub(super) fn remedy(source: &str) -> Option<String> {
    let mut words = String::new();
    let mut chars = source.chars().peekable();
    let (mut before, mut quoted) = (' ', None);
    while let Some(char) = chars.next() {
        if let Some(quote) = quoted {
            match char {
                '\\' => _ = chars.next(),
                char if char == quote => quoted = None,
                _ => {}
            }
            continue;
        }
        if matches!(char, '"' | '\'') {
            quoted = Some(char);
            words.push(' ');
        } else if let Some(meant) = meant_by(before, char, chars.peek().copied().unwrap_or(' ')) {
            return Some(meant.to_owned());
        }
        words.push(char);
        before = char;
    }
    if quoted.is_some() {
        return Some("close the quotes".to_owned());
    }
    let mut words = words.split_whitespace().map(str::to_ascii_lowercase);
    words.find_map(|word| {
        let (_, operator) = WORDS.iter().find(|(name, _)| *name == word)?;
        Some(format!("write `{operator}` for `{word}`"))
    })
}

/// What a sign between two others means that CEL has not.
fn meant_by(before: char, char: char, next: char) -> Option<&'static str> {
    match char {
        '=' if before == '=' && next == '=' => Some("compare with `==`, not `===`"),
        '=' if !"=!<>".contains(before) && next == '~' => {
            Some("write `matches`, as in `request.path.matches(\"^/a\")`")
        }
        '=' if !"=!<>".contains(before) && next != '=' => Some("compare with `==`"),
        '&' if before != '&' && next != '&' => Some("write `&&`"),
        '|' if before != '|' && next != '|' => Some("write `||`"),
        '<' if next == '>' => Some("write `!=`"),
        '\u{201c}' | '\u{201d}' | '\u{2018}' | '\u{2019}' | '`' => Some("write quotes as `\"` or `'`"),
        ';' => Some("leave out the `;`"),
        _ => None,
    }
}
