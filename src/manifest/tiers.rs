//! The tier ConfigMap (`tier-to-group-mapping`): a YAML list inside the key `tiers`.

use super::Meta;
use crate::document;
use crate::document::{Field, Fields, Node, Report, block_header, inside_block, shift};
use crate::problem::{Finding, Place, Severity};

/// A ConfigMap. `tiers` is `None` when they are in error, as they are in every ConfigMap that is no tier mapping.
#[derive(Clone, Debug)]
pub struct TierMapping {
    pub meta: Meta,
    pub tiers: Option<Vec<TierSpec>>,
}

/// One tier as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TierSpec {
    pub name: String,
    pub display_name: Option<String>,
    /// Precedence: the highest level of a caller's groups wins.
    pub level: i64,
    pub groups: Vec<String>,
    pub place: Place,
}

/// Reads a ConfigMap. Whether it is the tier mapping is told by its name, which is not known here: what is wrong with one that is
/// not is nobody's problem.
pub(super) fn read(meta: Meta, mut fields: Fields<'_>, text: &str, report: &Report) -> TierMapping {
    let tiers = read_data(&mut fields, text, report);
    fields.ignore(&["binaryData", "immutable"]);
    let errors = report.errors();
    fields.done(Severity::Warning);
    let tiers = tiers.filter(|_| report.errors() == errors && meta.usable);
    TierMapping { meta, tiers }
}

fn read_data(fields: &mut Fields<'_>, text: &str, report: &Report) -> Option<Vec<TierSpec>> {
    let data = fields.require("data", "the key `tiers`, a list of tiers")?;
    let mut entries = data.fields()?;
    let Some(tiers) = entries.take("tiers") else {
        let keys: Vec<&str> = data.entries()?.iter().map(|(key, _)| key.name.as_str()).collect();
        let problem = data.error("has no `tiers`").code(Finding::FieldMissing);
        let problem = problem.expected("the key `tiers`, a list of name, level and groups");
        data.report(match keys.as_slice() {
            [] => problem,
            keys => {
                problem.remedy(format!("it has `{}`: call the one that lists the tiers `tiers`", keys.join("`, `")))
            }
        });
        return None;
    };
    let inner = tiers.text()?;
    let errors = report.errors();
    let header = block_header(text, tiers.node.at);
    let read = match document::parse(inner) {
        Ok(documents) => documents.into_iter().next().and_then(|mut node| {
            shift(&mut node, header, tiers.node.at);
            read_tiers(&node, &tiers.path, report)
        }),
        Err(fault) => {
            let at = inside_block(header, tiers.node.at, fault.at);
            let message = format!("the text is not YAML: {}", fault.message);
            let problem = report.problem(Severity::Error, at, &tiers.path, message).code(Finding::YamlSyntax);
            report.add(problem.expected("a list of tiers"));
            None
        }
    };
    let read = read.filter(|tiers| !tiers.is_empty());
    if read.is_none() && report.errors() == errors {
        tiers.report(tiers.error("holds no tier").expected("a list of name, level and groups"));
    }
    read.filter(|_| report.errors() == errors)
}

fn read_tiers(node: &Node, path: &str, report: &Report) -> Option<Vec<TierSpec>> {
    let mut root = Field::root(node, report);
    root.path = path.to_owned();
    let mut tiers: Vec<TierSpec> = Vec::new();
    for item in root.items()? {
        let Some(tier) = read_tier(&item, report) else { continue };
        if let Some(first) = tiers.iter().find(|other| other.name == tier.name) {
            let message = format!("tier `{}` is defined a second time; the first is at {}", tier.name, first.place);
            item.report(item.error(message).code(Finding::ObjectDuplicate).remedy("remove one of them"));
            continue;
        }
        if let Some(equal) = tiers.iter().find(|other| other.level == tier.level) {
            let message = format!("tiers `{}` and `{}` have the same level {}", equal.name, tier.name, tier.level);
            item.report(
                item.warning(message)
                    .code(Finding::TierLevelsEqual)
                    .expected("a level of its own for each tier")
                    .remedy(format!("for a caller in both, `{}` wins because it stands first", equal.name)),
            );
        }
        tiers.push(tier);
    }
    Some(tiers)
}

fn read_tier(item: &Field<'_>, report: &Report) -> Option<TierSpec> {
    let mut fields = item.fields()?;
    let name = fields.require("name", "the tier's name, lower case and alphanumeric").and_then(|field| {
        let name = field.non_empty_text()?;
        if !crate::request::is_dns1123_label(name) {
            let problem = field.warning(format!("`{name}` cannot be part of a namespace's name"));
            field.report(problem.expected("lower-case letters, digits and inner hyphens"));
        }
        Some(name.to_owned())
    });
    let display_name = fields.take("displayName").and_then(|field| {
        let text = field.text()?;
        if !text.is_empty() && text.trim().is_empty() {
            return field.refuse(field.error("is nothing but white space"));
        }
        (!text.is_empty()).then(|| text.to_owned())
    });
    let level = fields.require("level", "a whole number; higher wins").and_then(|field| field.integer());
    let groups = fields.require("groups", "the Kubernetes groups of the tier").and_then(|field| field.texts());
    fields.ignore(&["description"]);
    fields.done(Severity::Warning);
    let place = report.place(item.node.at);
    Some(TierSpec { name: name?, display_name, level: level?, groups: groups?, place })
}
