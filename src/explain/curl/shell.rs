//! What a shell makes of a line before curl sees it: as far as the line tells.
//!
//! Source: POSIX, Shell Command Language, sections 2.2 to 2.10. Nothing is run and nothing is looked up.

use super::error::CurlError;

/// Stands for what a command would print.
pub(super) const OUTPUT: char = '\u{f0000}';
/// Stands before a variable that is not filled in.
pub(super) const VARIABLE: char = '\u{f0001}';

/// The words of one command, and what of the line is no part of it.
#[derive(Debug, Default)]
pub(super) struct CommandLine {
    pub(super) words: Vec<String>,
    pub(super) notes: Vec<String>,
}

struct ShellReader<'l> {
    rest: std::iter::Peekable<std::str::Chars<'l>>,
    /// For a splitter into words that knows quotes, and nothing else of a shell.
    out: String,
    notes: Vec<String>,
}

/// Reads the first command of `line`.
///
/// # Errors
///
/// A quote, `$(` or backquote is not closed.
pub(super) fn read(line: &str) -> Result<CommandLine, CurlError> {
    // A line that goes on.
    let line = line.replace("\\\r\n", "").replace("\\\n", "").replace([OUTPUT, VARIABLE], "");
    let mut reader = ShellReader { rest: line.trim().chars().peekable(), out: String::new(), notes: Vec::new() };
    reader.command()?;
    let words = shlex::split(&reader.out).ok_or(CurlError::Words)?;
    Ok(CommandLine { words, notes: reader.notes })
}

// === impl ShellReader ===

impl ShellReader<'_> {
    fn command(&mut self) -> Result<(), CurlError> {
        let mut quoted = false;
        while let Some(character) = self.rest.next() {
            match character {
                '\\' => self.escaped(),
                '\'' if !quoted => self.literal()?,
                '"' => {
                    quoted = !quoted;
                    self.out.push('"');
                }
                '$' => self.dollar()?,
                '`' => {
                    self.skip_to('`')?;
                    self.out.push(OUTPUT);
                }
                '|' | ';' | '&' | '\n' if !quoted => {
                    self.end(character);
                    return Ok(());
                }
                '>' | '<' if !quoted => self.redirection(character)?,
                other => self.out.push(other),
            }
        }
        Ok(())
    }

    fn escaped(&mut self) {
        self.out.push('\\');
        self.out.extend(self.rest.next());
    }

    /// Up to the quote that ends it, nothing means anything.
    fn literal(&mut self) -> Result<(), CurlError> {
        self.out.push('\'');
        loop {
            let character = self.rest.next().ok_or(CurlError::Words)?;
            self.out.push(character);
            if character == '\'' {
                return Ok(());
            }
        }
    }

    fn dollar(&mut self) -> Result<(), CurlError> {
        match self.rest.peek() {
            Some('(') => {
                self.substitution()?;
                self.out.push(OUTPUT);
            }
            Some('{') => {
                self.out.extend([VARIABLE, '$']);
                loop {
                    let character = self.rest.next().ok_or(CurlError::Words)?;
                    // Quotes of a default value are not ours to split at.
                    self.out.push(if matches!(character, '"' | '\'' | '\\') || character.is_whitespace() {
                        '_'
                    } else {
                        character
                    });
                    if character == '}' {
                        return Ok(());
                    }
                }
            }
            Some(next) if next.is_ascii_alphanumeric() || "_@*#?!-".contains(*next) => self.out.extend([VARIABLE, '$']),
            _ => self.out.push('$'),
        }
        Ok(())
    }

    /// Past the `)` that closes a `$(…)`, or a `<(…)`.
    fn substitution(&mut self) -> Result<(), CurlError> {
        let mut depth = 0_usize;
        loop {
            match self.rest.next().ok_or(CurlError::Words)? {
                '(' => depth += 1,
                ')' if depth == 1 => return Ok(()),
                ')' => depth = depth.saturating_sub(1),
                '\\' => drop(self.rest.next()),
                quote @ ('\'' | '"') => self.skip_to(quote)?,
                _ => {}
            }
        }
    }

    fn skip_to(&mut self, end: char) -> Result<(), CurlError> {
        loop {
            match self.rest.next().ok_or(CurlError::Words)? {
                '\\' if end != '\'' => drop(self.rest.next()),
                character if character == end => return Ok(()),
                _ => {}
            }
        }
    }

    /// The end of the command: what follows may hold secrets, and is not repeated.
    fn end(&mut self, operator: char) {
        let doubled = self.rest.peek() == Some(&operator);
        if self.rest.clone().all(char::is_whitespace) && !doubled {
            return;
        }
        let operator = match (operator, doubled) {
            ('\n', _) => "the end of the line".to_owned(),
            (operator, true) => format!("`{operator}{operator}`"),
            (operator, false) => format!("`{operator}`"),
        };
        let quote = if operator == "`&`" { "; put the URL into quotes, if it goes on there" } else { "" };
        self.notes.push(format!("what follows {operator} is another command to a shell, and left out here{quote}"));
    }

    /// Files that the command reads or writes: nothing of the request, but for a body.
    fn redirection(&mut self, operator: char) -> Result<(), CurlError> {
        // `2>` is of the operator.
        let descriptor = self.out.trim_end_matches(|c: char| c.is_ascii_digit());
        if descriptor.is_empty() || descriptor.ends_with(char::is_whitespace) {
            self.out.truncate(descriptor.len());
        }
        if operator == '<' && self.rest.peek() == Some(&'(') {
            self.substitution()?;
            self.out.push(OUTPUT);
            return Ok(());
        }
        while self.rest.next_if(|c| matches!(c, '>' | '<' | '&' | '|')).is_some() {}
        while self.rest.next_if(|c| *c == ' ' || *c == '\t').is_some() {}
        while let Some(character) = self.rest.next_if(|c| !c.is_whitespace() && !"|;&<>".contains(*c)) {
            if let quote @ ('\'' | '"') = character {
                self.skip_to(quote)?;
            }
        }
        self.out.push(' ');
        Ok(())
    }
}
