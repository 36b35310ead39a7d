//! Reads typed values out of a [`Node`], collecting every problem instead of stopping at the first.
//!
//! A reading function returns `None` only after it reported why.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use super::tree::{Key, Node, Value};
use crate::problem::{Finding, ObjectName, Place, Position, Problem, Severity};
use crate::spelling::did_you_mean;

/// Collects the problems of one file.
#[derive(Debug)]
pub struct Report {
    file: Arc<str>,
    object: RefCell<Option<ObjectName>>,
    problems: RefCell<Vec<Problem>>,
    /// How many problems there were before those of `object`.
    before: Cell<usize>,
    errors: Cell<usize>,
}

/// One value, with the path that leads to it.
#[derive(Clone, Debug)]
pub struct Field<'a> {
    pub node: &'a Node,
    pub path: String,
    report: &'a Report,
}

/// The fields of a mapping; [`Fields::done`] reports those that nobody asked for.
#[derive(Debug)]
pub struct Fields<'a> {
    entries: &'a [(Key, Node)],
    at: Position,
    path: String,
    report: &'a Report,
    asked: Vec<&'static str>,
    /// Those that were reported as missing.
    missing: Vec<&'static str>,
}

// === impl Report ===

impl Report {
    #[must_use]
    pub fn new(file: &Arc<str>) -> Self {
        Report {
            file: Arc::clone(file),
            object: RefCell::default(),
            problems: RefCell::default(),
            before: Cell::default(),
            errors: Cell::default(),
        }
    }

    /// From here on problems belong to `object`.
    pub fn name(&self, object: Option<ObjectName>) {
        if *self.object.borrow() != object {
            self.before.set(self.problems.borrow().len());
            self.object.replace(object);
        }
    }

    /// The object that problems belong to is called `object`: those that were told of it, and those to come.
    pub fn rename(&self, object: &ObjectName) {
        let mut problems = self.problems.borrow_mut();
        for problem in problems.iter_mut().skip(self.before.get()) {
            problem.object = Some(object.clone());
        }
        self.object.replace(Some(object.clone()));
    }

    #[must_use]
    pub fn place(&self, at: Position) -> Place {
        Place::new(&self.file, at)
    }

    #[must_use]
    pub fn into_problems(self) -> Vec<Problem> {
        self.problems.into_inner()
    }

    /// How many errors were reported so far.
    #[must_use]
    pub fn errors(&self) -> usize {
        self.errors.get()
    }

    pub fn add(&self, problem: Problem) {
        self.errors.set(self.errors.get() + usize::from(problem.is_error()));
        self.problems.borrow_mut().push(problem);
    }

    #[must_use]
    pub fn problem_at(&self, severity: Severity, place: &Place, field: &str, message: impl Into<String>) -> Problem {
        let at = Position { line: place.line, column: place.column };
        self.problem(severity, at, field, message)
    }

    /// A problem of a value; [`Problem::code`] says if it is another kind.
    #[must_use]
    pub fn problem(&self, severity: Severity, at: Position, field: &str, message: impl Into<String>) -> Problem {
        let problem = Problem::new(Finding::ValueInvalid, severity, self.place(at), message);
        Problem { object: self.object.borrow().clone(), field: field.to_owned(), ..problem }
    }
}

// === impl Field ===

impl<'a> Field<'a> {
    #[must_use]
    pub fn root(node: &'a Node, report: &'a Report) -> Self {
        Field { node, path: String::new(), report }
    }

    #[must_use]
    pub fn place(&self) -> Place {
        self.report.place(self.node.at)
    }

    #[must_use]
    pub fn error(&self, message: impl Into<String>) -> Problem {
        self.problem(Severity::Error, message)
    }

    #[must_use]
    pub fn warning(&self, message: impl Into<String>) -> Problem {
        self.problem(Severity::Warning, message)
    }

    #[must_use]
    pub fn problem(&self, severity: Severity, message: impl Into<String>) -> Problem {
        self.report.problem(severity, self.node.at, &self.path, message)
    }

    pub fn report(&self, problem: Problem) {
        self.report.add(problem);
    }

    /// Reports why the field cannot be read.
    pub fn refuse<T>(&self, problem: Problem) -> Option<T> {
        self.report(problem);
        None
    }

    /// Reports an error of the field, and what is expected there.
    pub fn invalid<T>(&self, message: impl Into<String>, expected: impl Into<String>) -> Option<T> {
        self.refuse(self.error(message).expected(expected))
    }

    /// Reports that the field is of the wrong type.
    pub fn wrong_type(&self, expected: &str) {
        let message = format!("is {}", self.node.type_name());
        self.report(self.error(message).code(Finding::TypeWrong).expected(expected));
    }

    /// Reports a rule that tiergate does not carry out. Skipping it could open the gate, so it is an error.
    pub fn unsupported(&self, what: &str, remedy: &str) {
        let message = format!("{what} is not supported, and skipping it could open the gate");
        self.report(self.error(message).code(Finding::Unsupported).remedy(remedy));
    }

    #[must_use]
    pub fn text(&self) -> Option<&'a str> {
        match &self.node.value {
            Value::Text(text) => Some(text),
            _ => {
                self.wrong_type("a string");
                None
            }
        }
    }

    #[must_use]
    pub fn non_empty_text(&self) -> Option<&'a str> {
        let text = self.text()?;
        if text.is_empty() {
            self.report(self.error("is empty").expected("a non-empty string"));
            return None;
        }
        Some(text)
    }

    #[must_use]
    pub fn integer(&self) -> Option<i64> {
        match self.node.value {
            Value::Int(value) => Some(value),
            _ => {
                self.wrong_type("a whole number");
                None
            }
        }
    }

    /// The items of a list.
    #[must_use]
    pub fn items(&self) -> Option<Vec<Field<'a>>> {
        let Value::List(items) = &self.node.value else {
            self.wrong_type("a list");
            return None;
        };
        let item = |(i, node)| Field { node, path: format!("{}[{i}]", self.path), report: self.report };
        Some(items.iter().enumerate().map(item).collect())
    }

    /// The items of a list of strings.
    #[must_use]
    pub fn texts(&self) -> Option<Vec<String>> {
        all(&self.items()?, |item| item.text().map(str::to_owned))
    }

    #[must_use]
    pub fn fields(&self) -> Option<Fields<'a>> {
        let Value::Map(entries) = &self.node.value else {
            self.wrong_type("a mapping");
            return None;
        };
        let (asked, missing) = (Vec::new(), Vec::new());
        Some(Fields { entries, at: self.node.at, path: self.path.clone(), report: self.report, asked, missing })
    }

    /// The entries of a mapping whose keys the user chooses.
    #[must_use]
    pub fn entries(&self) -> Option<Vec<(&'a Key, Field<'a>)>> {
        let fields = self.fields()?;
        let entry = |(key, node): &'a (Key, Node)| (key, fields.field(&key.name, node));
        Some(fields.entries.iter().map(entry).collect())
    }
}

/// What `read` makes of each of `items`; `None` if it makes nothing of one. All are read, for their problems.
pub fn all<I, T>(items: &[I], read: impl FnMut(&I) -> Option<T>) -> Option<Vec<T>> {
    let read: Vec<T> = items.iter().filter_map(read).collect();
    (read.len() == items.len()).then_some(read)
}

// === impl Fields ===

impl<'a> Fields<'a> {
    fn field(&self, name: &str, node: &'a Node) -> Field<'a> {
        let separator = if self.path.is_empty() { "" } else { "." };
        Field { node, path: format!("{}{separator}{name}", self.path), report: self.report }
    }

    /// The field `name`, if it is there and not null.
    pub fn take(&mut self, name: &'static str) -> Option<Field<'a>> {
        self.take_even_null(name).filter(|field| field.node.value != Value::Null)
    }

    /// The field `name`, if it is there. Where null is a slip, it is of the wrong type.
    pub fn take_even_null(&mut self, name: &'static str) -> Option<Field<'a>> {
        if !self.asked.contains(&name) {
            self.asked.push(name);
        }
        let (_, node) = self.entries.iter().find(|(key, _)| key.name == name)?;
        Some(self.field(name, node))
    }

    /// Whether there is a field that was probably meant to be `name`.
    #[must_use]
    pub fn misspells(&self, name: &str) -> bool {
        self.entries.iter().any(|(key, _)| did_you_mean(&key.name, [name]).is_some())
    }

    /// The field `name`; its absence is an error.
    pub fn require(&mut self, name: &'static str, expected: &str) -> Option<Field<'a>> {
        let field = self.take(name);
        if field.is_none() {
            self.missing.push(name);
            let message = format!("`{name}` is missing");
            let problem = self.report.problem(Severity::Error, self.at, &self.path, message);
            self.report.add(problem.code(Finding::FieldMissing).expected(expected));
        }
        field
    }

    /// Known fields that are not read.
    pub fn ignore(&mut self, names: &[&'static str]) {
        self.asked.extend_from_slice(names);
    }

    /// Reports the fields that were never asked for. One that was probably meant to be another is an error wherever it stands:
    /// what it should have said is not said.
    pub fn done(self, severity: Severity) {
        for (key, node) in self.entries {
            let field = if self.path.is_empty() { key.name.clone() } else { format!("{}.{}", self.path, key.name) };
            if self.asked.contains(&key.name.as_str()) {
                // Where unknown fields are errors, a rule that was emptied is one too.
                let told = self.missing.contains(&key.name.as_str());
                if severity == Severity::Error && node.value == Value::Null && !told {
                    let problem = self.report.problem(severity, node.at, &field, "is null").code(Finding::TypeWrong);
                    self.report.add(problem.remedy("say what it is, or remove it"));
                }
                continue;
            }
            let meant = did_you_mean(&key.name, self.asked.iter().copied());
            let severity = if meant.is_some() { Severity::Error } else { severity };
            let mut problem = self.report.problem(severity, key.at, &field, "is not a field that is known here");
            problem = problem.code(Finding::FieldUnknown).expected(format!("one of {}", self.asked.join(", ")));
            if let Some(meant) = meant {
                problem = problem.remedy(format!("did you mean `{meant}`?"));
            }
            self.report.add(problem);
        }
    }
}
