//! The header of an object: which one it is, how old, and what its annotations say.

use std::sync::Arc;

use super::age::{self, Age};
use super::kind::Kind;
use crate::document::{Field, Fields, Key, Report};
use crate::problem::{Finding, ObjectName, Place, Problem, Severity};
use crate::request::{is_dns1123_label, is_dns1123_subdomain};

/// The header of an object.
#[derive(Clone, Debug)]
pub struct Meta {
    pub object: ObjectName,
    pub place: Place,
    pub namespace_place: Place,
    pub annotations: Vec<(String, String, Place)>,
    /// Findings that are meant to be so, by the annotation [`IGNORE_ANNOTATION`].
    pub ignored: Vec<Finding>,
    pub uid: Option<String>,
    pub age: Age,
    /// Whether the object can be used: its API version is known, its age can be told, and no other object has its name.
    pub usable: bool,
}

/// What the API server writes.
const OF_SERVER: [&str; 9] = [
    "resourceVersion",
    "generation",
    "generateName",
    "managedFields",
    "ownerReferences",
    "finalizers",
    "selfLink",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
];

/// Reads the header of an object; `None` if it cannot be read which object it is.
pub(super) fn read_meta(fields: &mut Fields<'_>, kind: &Kind, report: &Report) -> Option<Meta> {
    let metadata = fields.require("metadata", "name, and namespace where the kind has one")?;
    let place = metadata.place();
    let mut meta = metadata.fields()?;
    let name = meta.require("name", "the object's name").and_then(|field| read_name(&field, kind));
    // `namespace:` with nothing behind it is a slip, and no namespace.
    let namespace = meta.take_even_null("namespace");
    let namespace_place = namespace.as_ref().map_or_else(|| place.clone(), Field::place);
    let namespace = namespace_of(namespace.as_ref(), &meta, kind);
    let uid = meta.take("uid").and_then(|field| field.non_empty_text()).map(str::to_owned);
    let annotations = read_annotations(meta.take("annotations"));
    meta.ignore(&["labels"]);
    let age = age::read(meta.take("creationTimestamp"), kind);
    meta.ignore(&OF_SERVER);
    meta.done(Severity::Warning);
    fields.ignore(&["status"]);
    let ignored = read_ignored(&annotations, report);
    Some(Meta {
        object: ObjectName::new(kind.name, namespace?, name?),
        place,
        namespace_place,
        annotations,
        ignored,
        uid,
        age,
        usable: true,
    })
}

/// The namespace of an object: empty where its kind has none.
fn namespace_of<'a>(field: Option<&Field<'a>>, meta: &Fields<'_>, kind: &Kind) -> Option<&'a str> {
    match field {
        Some(_) if !kind.namespaced => Some(""),
        Some(field) => read_namespace(field),
        None if kind.namespaced && meta.misspells("namespace") => None,
        // What kubectl would do without a context.
        None => Some(if kind.namespaced { "default" } else { "" }),
    }
}

fn read_annotations(field: Option<Field<'_>>) -> Vec<(String, String, Place)> {
    let entries = field.and_then(|field| field.entries()).unwrap_or_default();
    let text = |(key, value): (&Key, Field<'_>)| Some((key.name.clone(), value.text()?.to_owned(), value.place()));
    entries.into_iter().filter_map(text).collect()
}

/// A name that an object of `kind` can have. Those of RBAC are segments of a path, and read with them.
fn read_name<'a>(field: &Field<'a>, kind: &Kind) -> Option<&'a str> {
    let name = field.non_empty_text()?;
    if kind.group == "rbac.authorization.k8s.io" || is_dns1123_subdomain(name) {
        return Some(name);
    }
    let message = format!("`{name}` cannot be the name of an object");
    field.invalid(message, "lower-case letters, digits, inner `-` and `.`")
}

fn read_namespace<'a>(field: &Field<'a>) -> Option<&'a str> {
    let namespace = field.non_empty_text()?;
    if is_dns1123_label(namespace) {
        return Some(namespace);
    }
    let message = format!("`{namespace}` cannot be a namespace");
    field.invalid(message, "lower-case letters, digits and inner `-`")
}

/// Lists, with commas between, the codes of findings about an object that are meant to be so.
pub const IGNORE_ANNOTATION: &str = "tiergate.io/ignore";

fn read_ignored(annotations: &[(String, String, Place)], report: &Report) -> Vec<Finding> {
    let Some((_, text, place)) = annotations.iter().find(|(name, _, _)| name == IGNORE_ANNOTATION) else {
        return Vec::new();
    };
    let read = |code: &str| match Finding::named(code) {
        Ok(finding) => Some(finding),
        Err(meant) => {
            let field = format!("metadata.annotations.{IGNORE_ANNOTATION}");
            let message = format!("`{code}` is not the code of a finding");
            report.add(report.problem_at(Severity::Warning, place, &field, message).remedy(match meant {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => "`tiergate check --explain` lists them".to_owned(),
            }));
            None
        }
    };
    text.split(',').map(str::trim).filter(|code| !code.is_empty()).filter_map(read).collect()
}

// === impl Meta ===

impl Meta {
    /// A warning about the object, at `place`, of `field`.
    #[must_use]
    pub fn warning(&self, code: Finding, place: &Place, field: &str, message: String) -> Problem {
        Problem::new(code, Severity::Warning, place.clone(), message).of(&self.object, field)
    }

    /// The header of an object that has none, or cannot be used.
    pub(super) fn unreadable(object: ObjectName, place: Place) -> Self {
        Meta {
            object,
            namespace_place: place.clone(),
            place,
            annotations: Vec::new(),
            ignored: Vec::new(),
            uid: None,
            age: Age::Unreadable,
            usable: false,
        }
    }

    #[must_use]
    pub fn namespace(&self) -> &Arc<str> {
        &self.object.namespace
    }

    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.object.name
    }

    /// The order in which objects go before each other: the oldest first, then by namespace and name.
    #[must_use]
    pub fn seniority(&self) -> (Age, &ObjectName) {
        (self.age, &self.object)
    }

    #[must_use]
    pub fn annotation(&self, name: &str) -> Option<&(String, String, Place)> {
        self.annotations.iter().find(|(key, _, _)| key == name)
    }
}
