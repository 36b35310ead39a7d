//! Labels, and the selectors that match them.

use std::collections::BTreeMap;

use crate::document::Field;
use crate::problem::{Place, Severity};
use crate::request::is_dns1123_subdomain;

pub type Labels = BTreeMap<String, String>;

/// What labels have to be, all of it. An empty selector matches every object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
}

/// Which ClusterRoles a ClusterRole takes its rules from: those that any selector matches.
#[derive(Clone, Debug)]
pub struct Aggregation {
    pub selectors: Vec<LabelSelector>,
    pub place: Place,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: LabelOperator,
}

/// The label that every namespace has: its name.
const NAME: &str = "kubernetes.io/metadata.name";

#[derive(Clone, Debug, PartialEq, Eq)]
enum LabelOperator {
    In(Vec<String>),
    /// Also without the label.
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
}

// === impl Aggregation ===

impl Aggregation {
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.selectors.iter().any(|selector| selector.matches(labels))
    }
}

// === impl LabelSelector ===

impl LabelSelector {
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements.iter().all(|requirement| requirement.holds(labels.get(&requirement.key)))
    }

    /// Whether it selects a namespace; `None` if that depends on labels that are not known.
    #[must_use]
    pub fn selects(&self, namespace: &str, labels: Option<&Labels>) -> Option<bool> {
        let name = namespace.to_owned();
        let mut selects = Some(true);
        for requirement in &self.requirements {
            let holds = match labels {
                _ if requirement.key == NAME => requirement.holds(Some(&name)),
                Some(labels) => requirement.holds(labels.get(&requirement.key)),
                None => {
                    selects = None;
                    continue;
                }
            };
            if !holds {
                return Some(false);
            }
        }
        selects
    }

    /// Whether it asks for more of a namespace than its name.
    #[must_use]
    pub fn asks_for_labels(&self) -> bool {
        self.requirements.iter().any(|requirement| requirement.key != NAME)
    }
}

// === impl Requirement ===

impl Requirement {
    fn holds(&self, value: Option<&String>) -> bool {
        match &self.operator {
            LabelOperator::In(values) => value.is_some_and(|value| values.contains(value)),
            LabelOperator::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            LabelOperator::Exists => value.is_some(),
            LabelOperator::DoesNotExist => value.is_none(),
        }
    }
}

// === reading ===

/// Reads `aggregationRule`. What is in error is reported, and the whole role with it.
pub(super) fn read_aggregation(field: &Field<'_>) -> Option<Aggregation> {
    let mut fields = field.fields()?;
    let selectors = fields.require("clusterRoleSelectors", "at least one label selector");
    fields.done(Severity::Warning);
    let selectors = selectors?;
    let items = selectors.items()?;
    if items.is_empty() {
        return selectors.invalid("is empty", "at least one label selector");
    }
    let selectors = items.iter().filter_map(read_selector).collect();
    Some(Aggregation { selectors, place: field.place() })
}

/// Reads a label selector. A field that is not known is an error: without it, more would be selected.
pub(super) fn read_selector(field: &Field<'_>) -> Option<LabelSelector> {
    let mut fields = field.fields()?;
    let mut requirements = Vec::new();
    if let Some(labels) = fields.take("matchLabels") {
        let equal = |(key, value)| Requirement { key, operator: LabelOperator::In(vec![value]) };
        requirements.extend(read_labels(&labels).into_iter().map(equal));
    }
    if let Some(items) = fields.take("matchExpressions").and_then(|field| field.items()) {
        requirements.extend(items.iter().filter_map(read_requirement));
    }
    fields.done(Severity::Error);
    Some(LabelSelector { requirements })
}

fn read_requirement(field: &Field<'_>) -> Option<Requirement> {
    let mut fields = field.fields()?;
    let key = fields.require("key", "the key of a label");
    let operator = fields.require("operator", "In, NotIn, Exists or DoesNotExist");
    let list = fields.take("values");
    fields.done(Severity::Error);
    let items = list.map_or(Some(Vec::new()), |list| list.items());
    let key = key.and_then(|key| key.text().filter(|text| check_key(&key, text)).map(str::to_owned));
    let values = items.iter().flatten().filter_map(read_value).collect();
    let operator = operator?;
    let name = operator.text()?;
    let read = match name {
        "In" => LabelOperator::In(values),
        "NotIn" => LabelOperator::NotIn(values),
        "Exists" => LabelOperator::Exists,
        "DoesNotExist" => LabelOperator::DoesNotExist,
        other => {
            return operator.invalid(format!("`{other}` is not an operator"), "In, NotIn, Exists or DoesNotExist");
        }
    };
    match (&read, !items?.is_empty()) {
        (LabelOperator::In(_) | LabelOperator::NotIn(_), false) => {
            field.report(field.error(format!("`{name}` needs `values`")).remedy("list the values of the label"));
        }
        (LabelOperator::Exists | LabelOperator::DoesNotExist, true) => {
            field.report(field.error(format!("`{name}` takes no `values`")).remedy("remove `values`"));
        }
        _ => {}
    }
    Some(Requirement { key: key?, operator: read })
}

/// Reads labels as the API server takes them; it refuses an object with others.
pub(super) fn read_labels(field: &Field<'_>) -> Labels {
    let mut labels = Labels::new();
    for (key, value) in field.entries().unwrap_or_default() {
        if let Some(text) = read_value(&value).filter(|_| check_key(&value, &key.name)) {
            labels.insert(key.name.clone(), text);
        }
    }
    labels
}

fn read_value(field: &Field<'_>) -> Option<String> {
    let text = field.text()?;
    if text.is_empty() || is_label_name(text) {
        return Some(text.to_owned());
    }
    let expected = "at most 63 letters, digits, `-`, `_` and `.`, a letter or digit at both ends";
    field.invalid(format!("`{text}` is not the value of a label"), expected)
}

fn check_key(field: &Field<'_>, key: &str) -> bool {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let sound = is_label_name(name) && prefix.is_none_or(is_dns1123_subdomain);
    if !sound {
        let problem = field.error(format!("`{key}` is not the key of a label"));
        field.report(problem.expected("a name such as `tier`, or `example.com/tier`"));
    }
    sound
}

fn is_label_name(name: &str) -> bool {
    let end = |char: Option<char>| char.is_some_and(|c| c.is_ascii_alphanumeric());
    name.len() <= 63
        && end(name.chars().next())
        && end(name.chars().next_back())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}
