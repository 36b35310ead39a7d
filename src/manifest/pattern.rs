//! Regular expressions of HTTPRoutes, which Envoy reads with RE2, and of conditions, which Authorino reads with Go's RE2.
//!
//! The `regex` crate grew from RE2 and reads nearly all of it alike. What it reads as something else is translated, or
//! refused: a pattern that matches more or less here than in Envoy would put a request under another rule's policy.
//! Patterns and what they are asked about are ASCII: beyond it, some Envoys match bytes and some match characters.

use std::ops::Range;

use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::ast::{
    AssertionKind, Ast, ClassPerl, ClassPerlKind, ClassSetBinaryOp, ClassSetItem, Flag, Flags, FlagsItemKind,
    GroupKind, HexLiteralKind, Literal, LiteralKind, RepetitionKind, RepetitionRange, Span, Visitor, parse::Parser,
    visit,
};

/// Bytes of one compiled pattern.
const SIZE: usize = 64 << 10;

/// How often RE2 repeats at most, repetitions within repetitions multiplied.
const REPEATS: u32 = 1000;

/// A pattern that matches whole values, as in Envoy.
///
/// # Errors
///
/// Why `text` is not one that Envoy and we read alike.
pub(super) fn whole(text: &str) -> Result<Regex, String> {
    let translated = translate(text, false)?;
    build(text, RegexBuilder::new(&format!(r"\A(?:{translated})\z")).unicode(false))
}

/// A pattern that matches anywhere in a value, character by character, as in Go.
///
/// # Errors
///
/// Why `text` is not one that Go and we read alike.
pub(super) fn anywhere(text: &str) -> Result<Regex, String> {
    build(text, &mut RegexBuilder::new(&translate(text, true)?))
}

fn not_one(text: &str, why: &dyn std::fmt::Display) -> String {
    format!("`{text}` is not a regular expression: {why}")
}

/// `text`, such that the `regex` crate reads it as RE2 does.
fn translate(text: &str, unicode: bool) -> Result<String, String> {
    let ast = Parser::new().parse(text).map_err(|error| not_one(text, error.kind()))?;
    let edits = visit(&ast, PatternReader { text, unicode, edits: Vec::new(), repeats: vec![1] })
        .map_err(|what| format!("`{text}` has {what}, which RE2 reads differently or not at all"))?;
    let mut translated = String::with_capacity(text.len() + 8);
    let mut copied = 0;
    for (span, replacement) in edits {
        translated.push_str(text.get(copied..span.start).unwrap_or_default());
        translated.push_str(replacement);
        copied = span.end;
    }
    translated.push_str(text.get(copied..).unwrap_or_default());
    Ok(translated)
}

fn build(text: &str, builder: &mut RegexBuilder) -> Result<Regex, String> {
    let built = builder.size_limit(SIZE).dfa_size_limit(SIZE).build();
    built.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => format!("`{text}` is too large when it is compiled"),
        other => not_one(text, &other),
    })
}

/// Walks a pattern: what to replace, in the order of the text, or what cannot be read.
struct PatternReader<'t> {
    text: &'t str,
    /// Whether classes have to be told to be ASCII, as they are in RE2 whatever they are asked about.
    unicode: bool,
    edits: Vec<(Range<usize>, &'static str)>,
    /// How often what stands here is repeated, one for each repetition around it.
    repeats: Vec<u32>,
}

type Readable = Result<(), &'static str>;

// === impl PatternReader ===

impl PatternReader<'_> {
    fn replace(&mut self, span: &Span, replacement: &'static str) {
        self.edits.push((span.start.offset..span.end.offset, replacement));
    }

    /// `\s` has no vertical tab in RE2.
    fn perl(&mut self, class: &ClassPerl) -> Readable {
        match (&class.kind, class.negated) {
            (ClassPerlKind::Space, false) => self.replace(&class.span, r"[\t\n\f\r ]"),
            (ClassPerlKind::Space, true) => self.replace(&class.span, r"[^\t\n\f\r ]"),
            (ClassPerlKind::Digit | ClassPerlKind::Word, _) if !self.unicode => {}
            (ClassPerlKind::Digit, false) => self.replace(&class.span, "[0-9]"),
            (ClassPerlKind::Digit, true) => self.replace(&class.span, "[^0-9]"),
            (ClassPerlKind::Word, false) => self.replace(&class.span, "[0-9A-Za-z_]"),
            (ClassPerlKind::Word, true) => self.replace(&class.span, "[^0-9A-Za-z_]"),
        }
        Ok(())
    }

    fn repetition(&mut self, of: &regex_syntax::ast::Repetition) -> Readable {
        if matches!(*of.ast, Ast::Repetition(_)) {
            return Err("a repetition of a repetition");
        }
        let mut times = 1;
        if let RepetitionKind::Range(range) = &of.op.kind {
            if self.text.get(of.op.span.start.offset..).is_some_and(|text| text.starts_with("{,")) {
                return Err("`{,`");
            }
            let (RepetitionRange::Exactly(most) | RepetitionRange::AtLeast(most) | RepetitionRange::Bounded(_, most)) =
                range;
            times = (*most).max(1);
        }
        let times = self.repeats.last().unwrap_or(&1).saturating_mul(times);
        if times > REPEATS {
            return Err("more than 1,000 repetitions");
        }
        self.repeats.push(times);
        Ok(())
    }
}

impl Visitor for PatternReader<'_> {
    type Output = Vec<(Range<usize>, &'static str)>;
    type Err = &'static str;

    fn finish(self) -> Result<Self::Output, Self::Err> {
        Ok(self.edits)
    }

    fn visit_pre(&mut self, ast: &Ast) -> Readable {
        match ast {
            Ast::Empty(_) | Ast::Dot(_) | Ast::ClassBracketed(_) | Ast::Alternation(_) | Ast::Concat(_) => Ok(()),
            Ast::Flags(set) => flags(&set.flags),
            Ast::Literal(one) => literal(one),
            Ast::Assertion(assertion) => match assertion.kind {
                AssertionKind::StartLine
                | AssertionKind::EndLine
                | AssertionKind::StartText
                | AssertionKind::EndText => Ok(()),
                AssertionKind::WordBoundary | AssertionKind::NotWordBoundary => {
                    let ascii = match assertion.kind {
                        AssertionKind::WordBoundary => r"(?-u:\b)",
                        _ => r"(?-u:\B)",
                    };
                    if self.unicode {
                        self.replace(&assertion.span, ascii);
                    }
                    Ok(())
                }
                _ => Err("a start or an end of a word"),
            },
            Ast::ClassUnicode(_) => Err(r"a class `\p`"),
            Ast::ClassPerl(class) => self.perl(class),
            Ast::Repetition(repetition) => self.repetition(repetition),
            Ast::Group(group) => match &group.kind {
                GroupKind::CaptureIndex(_) => Ok(()),
                GroupKind::NonCapturing(set) => flags(set),
                GroupKind::CaptureName { name, .. } => {
                    let word = name.name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
                    if word { Ok(()) } else { Err("a group whose name is not a word") }
                }
            },
        }
    }

    fn visit_post(&mut self, ast: &Ast) -> Readable {
        if matches!(ast, Ast::Repetition(_)) {
            self.repeats.pop();
        }
        Ok(())
    }

    fn visit_class_set_item_pre(&mut self, item: &ClassSetItem) -> Readable {
        match item {
            ClassSetItem::Empty(_) | ClassSetItem::Ascii(_) | ClassSetItem::Union(_) => Ok(()),
            ClassSetItem::Literal(one) => literal(one),
            ClassSetItem::Range(range) => literal(&range.start).and_then(|()| literal(&range.end)),
            ClassSetItem::Unicode(_) => Err(r"a class `\p`"),
            ClassSetItem::Perl(class) => self.perl(class),
            // To RE2 the inner bracket is a character like others.
            ClassSetItem::Bracketed(_) => Err("a bracket within brackets"),
        }
    }

    fn visit_class_set_binary_op_pre(&mut self, _: &ClassSetBinaryOp) -> Readable {
        // To RE2 these are characters.
        Err("`&&`, `--` or `~~` within brackets")
    }
}

fn flags(flags: &Flags) -> Readable {
    let known = |kind: &FlagsItemKind| match kind {
        FlagsItemKind::Negation => true,
        FlagsItemKind::Flag(flag) => {
            matches!(flag, Flag::CaseInsensitive | Flag::MultiLine | Flag::DotMatchesNewLine | Flag::SwapGreed)
        }
    };
    if flags.items.iter().all(|item| known(&item.kind)) {
        Ok(())
    } else {
        Err("a flag other than `i`, `m`, `s` and `U`")
    }
}

fn literal(literal: &Literal) -> Readable {
    match &literal.kind {
        LiteralKind::HexFixed(HexLiteralKind::UnicodeShort | HexLiteralKind::UnicodeLong)
        | LiteralKind::HexBrace(HexLiteralKind::UnicodeShort | HexLiteralKind::UnicodeLong) => Err(r"`\u` or `\U`"),
        _ if literal.c.is_ascii() => Ok(()),
        _ => Err("a character that is not ASCII"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Go's `regexp` says of these was looked up in its documentation: classes are ASCII, a dot is a character.
    #[test]
    fn patterns_of_conditions_match_anywhere_and_their_classes_are_ascii() {
        for (pattern, value, expected) in [
            ("^admin", "administrator", true),
            ("admin", "an administrator", true),
            ("^admin$", "administrator", false),
            (r"^\d+$", "123", true),
            (r"^\d+$", "\u{661}\u{662}", false),
            (r"^\D+$", "\u{661}\u{662}", true),
            (r"^\w+$", "caf\u{e9}", false),
            (r"^[\w-]+$", "a-b_1", true),
            (r"^caf.$", "caf\u{e9}", true),
            (r"^caf\S$", "caf\u{e9}", true),
            (r"\bb\b", "a b c", true),
            (r"caf\b", "caf\u{e9}", true),
            ("", "anything", true),
        ] {
            assert_eq!(anywhere(pattern).unwrap().is_match(value.as_bytes()), expected, "{pattern} {value}");
        }
        for refused in ["(", r"\pL", "a{1001}", "caf\u{e9}", "[a&&b]"] {
            assert!(anywhere(refused).is_err(), "{refused}");
        }
    }
}
