//! What a policy is attached to, and how its rules meet those of other policies on the way to a request.
//!
//! Source: Gateway API, "Policy attachment" (GEP-713, GEP-2649); the strategies are Kuadrant's.

use std::fmt;
use std::sync::Arc;

use super::Meta;
use crate::document::{Field, Fields};
use crate::problem::{ObjectName, Place};

/// The group of everything that a policy can target.
const GROUP: &str = "gateway.networking.k8s.io";

/// What a policy is attached to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    Gateway {
        namespace: Arc<str>,
        name: Arc<str>,
        /// One listener of it.
        section: Option<Arc<str>>,
    },
    HttpRoute {
        namespace: Arc<str>,
        name: Arc<str>,
        /// One rule of it, by its name; the first rule without one is `rule-1`.
        section: Option<Arc<str>>,
    },
    /// The target could not be read, so the policy could have been for anything.
    Unknown,
}

/// What happens where policies of several levels apply to one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Strategy {
    /// These rules win over those of more specific policies, which otherwise win.
    pub overrides: bool,
    /// Rules are put together by their names, instead of all of one policy replacing all of the other.
    pub merge: bool,
}

/// The part of a policy's `spec` that holds its rules: `spec` itself, or its `defaults` or `overrides`.
#[derive(Debug)]
pub(super) struct Block<'a> {
    pub fields: Fields<'a>,
    /// `None` if it could not be read.
    pub strategy: Option<Strategy>,
    /// Whether it is `spec` itself, so that what else stands there is for [`Block::done`] too.
    nested: Option<Fields<'a>>,
}

/// Reads the `targetRef` of a policy, and says where it stands. What cannot be read is [`Target::Unknown`].
pub(super) fn read_target(field: Option<Field<'_>>, meta: &Meta) -> (Target, Place) {
    let place = field.as_ref().map_or_else(|| meta.place.clone(), Field::place);
    (target(field, meta).unwrap_or(Target::Unknown), place)
}

fn target(field: Option<Field<'_>>, meta: &Meta) -> Option<Target> {
    let mut fields = field?.fields()?;
    let group = fields.require("group", GROUP);
    let kind = fields.require("kind", "Gateway or HTTPRoute");
    let name = fields.require("name", "the name of the Gateway or HTTPRoute").and_then(|field| field.non_empty_text());
    let section = fields.take("sectionName").map_or(Some(None), |field| field.non_empty_text().map(Some));
    fields.done(crate::problem::Severity::Error);
    let group_text = group.as_ref().and_then(Field::text);
    if let (Some(group), Some(text)) = (&group, group_text.filter(|text| *text != GROUP)) {
        group.report(group.error(format!("`{text}` has nothing that a policy can target")).expected(GROUP));
    }
    let kind_text = kind.as_ref().and_then(Field::text);
    if let (Some(kind), Some(text)) = (&kind, kind_text.filter(|text| !["Gateway", "HTTPRoute"].contains(text))) {
        kind.report(kind.error(format!("a policy cannot target `{text}`")).expected("Gateway or HTTPRoute"));
    }
    let (name, section) = (name?, section?.map(Arc::from));
    group_text.filter(|text| *text == GROUP)?;
    let (namespace, name) = (Arc::clone(meta.namespace()), name.into());
    match kind_text? {
        "Gateway" => Some(Target::Gateway { namespace, name, section }),
        "HTTPRoute" => Some(Target::HttpRoute { namespace, name, section }),
        _ => None,
    }
}

/// Finds the block that holds the fields of `names`: `spec` itself, `defaults` or `overrides`.
pub(super) fn read_block<'a>(mut spec: Fields<'a>, names: &[&'static str]) -> Option<Block<'a>> {
    let (defaults, overrides) = (spec.take("defaults"), spec.take("overrides"));
    let direct: Vec<Field<'a>> = names.iter().filter_map(|name| spec.take(name)).collect();
    let (field, is_override) = match (defaults, overrides) {
        (None, None) => return Some(Block { fields: spec, strategy: Some(Strategy::default()), nested: None }),
        (Some(_), Some(overrides)) => {
            overrides.report(overrides.error("stands beside `defaults`").remedy("keep one of them"));
            spec.done(crate::problem::Severity::Error);
            return None;
        }
        (Some(defaults), None) => (defaults, false),
        (None, Some(overrides)) => (overrides, true),
    };
    if let Some(direct) = direct.first() {
        let message =
            format!("stands in `spec`, and there is `{}` too", if is_override { "overrides" } else { "defaults" });
        direct.report(direct.error(message).remedy("keep one of them"));
    }
    let mut fields = field.fields()?;
    let strategy = fields.take("strategy").map_or(Some(false), |field| read_merge(&field));
    let strategy = strategy.map(|merge| Strategy { overrides: is_override, merge });
    Some(Block { fields, strategy, nested: Some(spec) })
}

/// Whether rules are put together.
fn read_merge(field: &Field<'_>) -> Option<bool> {
    match field.text()? {
        "atomic" => Some(false),
        "merge" => Some(true),
        other => field.invalid(format!("`{other}` is not a strategy"), "atomic or merge"),
    }
}

// === impl Block ===

impl Block<'_> {
    /// Reports the fields that nobody asked for.
    pub fn done(self) {
        self.fields.done(crate::problem::Severity::Error);
        if let Some(spec) = self.nested {
            spec.done(crate::problem::Severity::Error);
        }
    }
}

// === impl Target ===

impl Target {
    /// The whole object that the target is, or is a section of.
    #[must_use]
    pub fn whole(&self) -> Target {
        let mut target = self.clone();
        if let Target::Gateway { section, .. } | Target::HttpRoute { section, .. } = &mut target {
            *section = None;
        }
        target
    }

    #[must_use]
    pub fn section(&self) -> Option<&Arc<str>> {
        match self {
            Target::Gateway { section, .. } | Target::HttpRoute { section, .. } => section.as_ref(),
            Target::Unknown => None,
        }
    }

    /// A Gateway, or one of its listeners.
    #[must_use]
    pub fn gateway(object: &ObjectName, section: Option<&str>) -> Self {
        let (namespace, name) = (Arc::clone(&object.namespace), Arc::clone(&object.name));
        Target::Gateway { namespace, name, section: section.map(Arc::from) }
    }

    /// An HTTPRoute, or one of its rules.
    #[must_use]
    pub fn route(object: &ObjectName, section: Option<&str>) -> Self {
        let (namespace, name) = (Arc::clone(&object.namespace), Arc::clone(&object.name));
        Target::HttpRoute { namespace, name, section: section.map(Arc::from) }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, namespace, name) = match self {
            Target::Gateway { namespace, name, .. } => ("Gateway", &**namespace, &**name),
            Target::HttpRoute { namespace, name, .. } => ("HTTPRoute", &**namespace, &**name),
            Target::Unknown => ("", "", ""),
        };
        write!(f, "{kind} {namespace}/{name}")?;
        match self.section() {
            Some(section) => write!(f, "#{section}"),
            None => Ok(()),
        }
    }
}
