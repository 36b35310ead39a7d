//! What is wrong with a configuration: where, why, and what to do about it.

mod finding;
mod in_force;

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

pub use self::finding::{Finding, Origin};
pub use self::in_force::InForce;
use crate::printable::printable_line;

/// How much a [`Problem`] weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The object is not used as it stands; `tiergate check` fails.
    Error,
    /// The object is used, and probably not what was meant.
    Warning,
}

/// A position in a text: 1-based line and column, in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub line: u32,
    pub column: u32,
}

/// A place in a file of the folder, or an object of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// Of what is no file: `kind namespace/name`, or what was to be read.
    pub file: Arc<str>,
    /// 0 where there are no lines; in an object of a cluster, lines are those of a text inside it.
    #[serde(skip_serializing_if = "is_zero")]
    pub line: u32,
    #[serde(skip_serializing_if = "is_zero")]
    pub column: u32,
}

/// The name of a Kubernetes object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ObjectName {
    pub kind: Arc<str>,
    /// Empty for a cluster-wide object.
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

/// One error or warning about the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Problem {
    pub code: Finding,
    pub severity: Severity,
    pub place: Place,
    pub object: Option<ObjectName>,
    /// The field inside the object, such as `spec.limits.free.rates[0].window`; empty for the object itself.
    pub field: String,
    pub message: String,
    /// What would have been right.
    pub expected: Option<String>,
    /// What to do.
    pub remedy: Option<String>,
    /// What is in force meanwhile, where that is not what is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_force: Option<InForce>,
}

// === impl Place ===

impl Place {
    #[must_use]
    pub fn new(file: &Arc<str>, at: Position) -> Self {
        Place { file: Arc::clone(file), line: at.line, column: at.column }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&printable_line(&self.file)),
            line => write!(f, "{}:{line}:{}", printable_line(&self.file), self.column),
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

// === impl ObjectName ===

impl ObjectName {
    /// `namespace/name`
    #[must_use]
    pub fn path(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    #[must_use]
    pub fn new(kind: &str, namespace: &str, name: &str) -> Self {
        ObjectName { kind: kind.into(), namespace: namespace.into(), name: name.into() }
    }

    /// Stands for an object of which it cannot be read which one it is. No object can have such a name, and no two of them have the
    /// same.
    #[must_use]
    pub fn unreadable(kind: &str, place: &Place) -> Self {
        ObjectName::new(kind, "", &format!("(at {place})"))
    }

    #[must_use]
    pub fn is_unreadable(&self) -> bool {
        self.name.starts_with('(')
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

// === impl Problem ===

impl Problem {
    /// A problem of no object.
    #[must_use]
    pub fn new(code: Finding, severity: Severity, place: Place, message: impl Into<String>) -> Self {
        let (object, field, message) = (None, String::new(), message.into());
        Problem { code, severity, place, object, field, message, expected: None, remedy: None, in_force: None }
    }

    /// The problem, of a field of `object`; or without a field, of all of it.
    #[must_use]
    pub fn of(mut self, object: &ObjectName, field: impl Into<String>) -> Self {
        self.object = Some(object.clone());
        self.field = field.into();
        self
    }

    #[must_use]
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    #[must_use]
    pub fn code(mut self, code: Finding) -> Self {
        self.code = code;
        self
    }

    #[must_use]
    pub fn expected(mut self, expected: impl Into<String>) -> Self {
        self.expected = Some(expected.into());
        self
    }

    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        })
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without a line, the place is the object again.
        if self.place.line > 0 || self.object.is_none() {
            write!(f, "{}: ", self.place)?;
        }
        write!(f, "{}[{}]: {}", self.severity, self.code, self.text())
    }
}

impl Problem {
    /// What it is about and what is wrong, without place and weight.
    #[must_use]
    pub fn text(&self) -> impl fmt::Display {
        fmt::from_fn(|f| self.write_text(f))
    }

    fn write_text(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(object) = &self.object {
            write!(f, "{}: ", printable_line(&object.to_string()))?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", printable_line(&self.field))?;
        }
        f.write_str(&printable_line(&self.message))?;
        if let Some(expected) = &self.expected {
            write!(f, "\n    expected: {}", printable_line(expected))?;
        }
        if let Some(remedy) = &self.remedy {
            write!(f, "\n    remedy:   {}", printable_line(remedy))?;
        }
        if let Some(in_force) = &self.in_force {
            write!(f, "\n    in force: {in_force}")?;
        }
        Ok(())
    }
}
