//! Namespaces: listeners select by their labels whose routes they take.

use super::Meta;
use super::selector::{Labels, read_labels};
use crate::document::{Fields, Report};
use crate::problem::Severity;

#[derive(Clone, Debug)]
pub struct Namespace {
    pub meta: Meta,
    pub labels: Labels,
}

pub(super) fn read(meta: Meta, mut fields: Fields<'_>, report: &Report) -> Option<Namespace> {
    let errors = report.errors();
    let metadata = fields.take("metadata").and_then(|field| field.fields());
    let labels = metadata.and_then(|mut metadata| metadata.take("labels"));
    let labels = labels.map(|field| read_labels(&field)).unwrap_or_default();
    fields.ignore(&["spec"]);
    fields.done(Severity::Warning);
    // Of one in error no label is known.
    (report.errors() == errors).then_some(Namespace { meta, labels })
}
