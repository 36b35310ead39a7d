//! The modules of `src` stand in layers, and `src/lib.rs` draws them: a module may use those that are drawn above it, and no other. All
//! code that is not only for tests is looked at, macros and paths in the middle of a line included; there are no exceptions.

use std::collections::{BTreeMap, BTreeSet};
use std::iter::Peekable;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree, token_stream};

use crate::support::Folder;

/// A use of one module by another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Arrow {
    from: String,
    to: String,
    /// `file:line`
    place: String,
}

/// The code of one file, or of a module inside it.
struct Code<'a> {
    file: &'a Path,
    /// From the root of the crate; empty for the root itself.
    module: Vec<String>,
    arrows: &'a mut BTreeSet<Arrow>,
    /// Modules that have files of their own.
    below: Vec<Vec<String>>,
}

type Tokens = Peekable<token_stream::IntoIter>;

// === impl Code ===

impl Code<'_> {
    fn read(&mut self, stream: TokenStream) {
        let mut tokens = stream.into_iter().peekable();
        while let Some(token) = tokens.next() {
            match token {
                TokenTree::Punct(mark) if mark.as_char() == '#' && is_for_tests(&mut tokens) => skip_item(&mut tokens),
                TokenTree::Ident(word) if word == "mod" => self.declared(&mut tokens),
                TokenTree::Ident(word) if ["crate", "super", "self"].iter().any(|root| word == root) => {
                    let line = word.span().start().line;
                    let base = match word.to_string().as_str() {
                        "crate" => Vec::new(),
                        "super" => self.module.split_last().map(|(_, rest)| rest.to_vec()).unwrap_or_default(),
                        _ => self.module.clone(),
                    };
                    self.path(base, &mut tokens, line);
                }
                TokenTree::Group(group) => self.read(group.stream()),
                _ => {}
            }
        }
    }

    /// `mod name;` or `mod name { … }`
    fn declared(&mut self, tokens: &mut Tokens) {
        let Some(TokenTree::Ident(name)) = tokens.next() else { return };
        let mut module = self.module.clone();
        module.push(name.to_string());
        match tokens.next() {
            Some(TokenTree::Group(body)) => {
                let outer = std::mem::replace(&mut self.module, module);
                self.read(body.stream());
                self.module = outer;
            }
            _ => self.below.push(module),
        }
    }

    /// What follows `crate`, `super` or `self`.
    fn path(&mut self, mut base: Vec<String>, tokens: &mut Tokens, line: usize) {
        while takes_colons(tokens) {
            match tokens.next() {
                Some(TokenTree::Ident(word)) if word == "super" => drop(base.pop()),
                Some(TokenTree::Ident(word)) => return self.arrow(&base, &word.to_string(), line),
                // `use crate::{a, b::c}`, over lines
                Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                    let mut starts = true;
                    for token in group.stream() {
                        match token {
                            TokenTree::Ident(word) if starts => {
                                self.arrow(&base, &word.to_string(), word.span().start().line);
                                starts = false;
                            }
                            TokenTree::Punct(mark) if mark.as_char() == ',' => starts = true,
                            _ => {}
                        }
                    }
                    return;
                }
                _ => return,
            }
        }
    }

    fn arrow(&mut self, base: &[String], first: &str, line: usize) {
        let to = base.first().map_or(first, String::as_str).to_owned();
        let Some(from) = self.module.first().filter(|from| **from != to) else { return };
        let place = format!("{}:{line}", self.file.display());
        self.arrows.insert(Arrow { from: from.clone(), to, place });
    }
}

/// Whether the attribute that begins here is `#[cfg(test)]`.
fn is_for_tests(tokens: &mut Tokens) -> bool {
    matches!(tokens.peek(), Some(TokenTree::Group(group)) if group.stream().to_string().replace(' ', "") == "cfg(test)")
}

/// Passes over what the attribute is of.
fn skip_item(tokens: &mut Tokens) {
    for token in tokens {
        match token {
            TokenTree::Punct(mark) if mark.as_char() == ';' => return,
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => return,
            _ => {}
        }
    }
}

fn takes_colons(tokens: &mut Tokens) -> bool {
    let mut colon =
        || tokens.next_if(|token| matches!(token, TokenTree::Punct(mark) if mark.as_char() == ':')).is_some();
    colon() && colon()
}

/// Where the module's code is: `a/b.rs`, or `a/b/mod.rs`, which there is none of.
fn file_of(src: &Path, module: &[String]) -> PathBuf {
    match module {
        [] => src.join("lib.rs"),
        module => src.join(module.join("/")).with_extension("rs"),
    }
}

/// Every arrow between the modules of the crate that is rooted at `src/lib.rs`, and its modules.
fn arrows(src: &Path) -> (BTreeSet<Arrow>, BTreeSet<String>) {
    let (mut arrows, mut modules) = (BTreeSet::new(), BTreeSet::new());
    let mut open = vec![Vec::new()];
    while let Some(module) = open.pop() {
        let file = file_of(src, &module);
        let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        modules.extend(module.first().cloned());
        let mut code = Code { file: &file, module, arrows: &mut arrows, below: Vec::new() };
        code.read(text.parse().unwrap());
        open.append(&mut code.below);
    }
    (arrows, modules)
}

/// The layer of each module, as `src/lib.rs` draws them: one a line, names before two spaces and what they are.
fn drawn(src: &Path) -> BTreeMap<String, usize> {
    let text = std::fs::read_to_string(src.join("lib.rs")).unwrap();
    let drawing = text.split("```text").nth(1).unwrap().split("```").next().unwrap();
    let lines = drawing.lines().filter_map(|line| line.strip_prefix("//! "));
    let names = lines.enumerate().flat_map(|(layer, line)| {
        let names = line.split("  ").next().unwrap_or_default().split(' ');
        names.filter(|name| !name.is_empty()).map(move |name| (name.to_owned(), layer))
    });
    names.collect()
}

fn climbing(src: &Path) -> Vec<String> {
    let layers = drawn(src);
    let (arrows, modules) = arrows(src);
    let undrawn = modules.iter().filter(|module| !layers.contains_key(*module));
    let undrawn = undrawn.map(|module| format!("{module} is not drawn in src/lib.rs"));
    let gone =
        layers.keys().filter(|name| !modules.contains(*name)).map(|name| format!("{name} is drawn, and not there"));
    let climbs = arrows.iter().filter(|arrow| layers.get(&arrow.to) >= layers.get(&arrow.from));
    let climbs =
        climbs.map(|Arrow { from, to, place }| format!("{place}: {from} uses {to}, which does not stand below it"));
    undrawn.chain(gone).chain(climbs).collect()
}

#[test]
fn every_module_uses_only_what_stands_below_it() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let faults = climbing(&src);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn an_arrow_that_climbs_is_found_however_it_is_written() {
    let folder = Folder::new();
    let src = folder.0.as_path();
    let write = |name: &str, text: &str| {
        let path = src.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write(
        "lib.rs",
        "//! ```text\n//! low\n//! middle  of both\n//! high\n//! ```\npub mod low;\nmod middle;\npub mod high;\n",
    );
    write("middle.rs", "use crate::low::A;\n#[cfg(test)]\nmod tests;\n#[cfg(test)]\nuse crate::high::A as B;\n");
    write("high.rs", "use super::{low::A, middle};\n");
    for low in [
        "use crate::high::A;",
        "use crate::{\n    high::A,\n};",
        "pub use crate::high;",
        "fn f() -> u8 { crate::high::A }",
        "fn f() { println!(\"{}\", crate::high::A) }",
        "use super::high::A;",
        "mod inner { use super::super::high::A; }",
    ] {
        write("low.rs", low);
        let faults = climbing(src);
        assert_eq!(faults.len(), 1, "{low}: {faults:?}");
        assert!(faults[0].contains("low.rs:") && faults[0].contains("low uses high"), "{faults:?}");
    }
    write("low.rs", "mod inner;");
    write("low/inner.rs", "use super::super::middle::A;");
    assert_eq!(climbing(src).len(), 1);
    for fine in
        ["", "use self::inner::A; mod inner { pub use super::B; }", "#[cfg(test)]\nmod tests { use crate::high::A; }"]
    {
        write("low.rs", fine);
        assert_eq!(climbing(src), Vec::<String>::new(), "{fine}");
    }
}
