//! Whether what the rules refer to is there: named patterns, what `metadata` found out, and what an identity has.
//!
//! Only when the rules of all levels are put together is it known which there are.

use std::collections::{BTreeSet, HashMap};

use super::auth::ANONYMOUS;
use super::condition::{Condition, Patterns, Sizes, find};
use super::{AccessRule, AuthRules, Authorization, DenyWithSpec, Item, Shape, ValueSource};
use crate::expression::{CompileError, Reference, View};
use crate::problem::Place;
use crate::spelling::did_you_mean;

/// A reference that leads nowhere, and where it stands.
pub type Fault = (CompileError, Place);

/// What a rule can look at.
#[derive(Clone, Debug, Default)]
struct Known<'r> {
    metadata: Vec<&'r str>,
    /// Members of the identity; `None` where it may have any.
    identity: Option<Vec<&'r str>>,
}

/// The rules that are looked through.
struct Check<'r> {
    patterns: &'r Patterns,
    sizes: Sizes<'r>,
    faults: Vec<Fault>,
}

// === impl AuthRules ===

impl AuthRules {
    /// Every reference that leads nowhere, or in a circle.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        let mut check = Check { patterns: &self.patterns, sizes: Sizes::new(&self.patterns), faults: Vec::new() };
        let all = Known {
            metadata: self.metadata.iter().map(|rule| &*rule.name).collect(),
            identity: self.identity_members(),
        };
        let none = Known::default();
        for rule in &self.authentication {
            check.conditions(&rule.when, &rule.place, View::Request, &none);
        }
        for (at, rule) in self.metadata.iter().enumerate() {
            // A rule sees what those before it found out.
            let before = Known { metadata: all.metadata.get(..at).unwrap_or_default().to_vec(), ..all.clone() };
            check.conditions(&rule.when, &rule.place, View::Caller, &before);
            check.values([&rule.what.body], &rule.place, &before);
        }
        for rule in &self.authorization {
            check.conditions(&rule.when, &rule.place, View::Caller, &all);
            match &rule.what {
                Authorization::Patterns(conditions) => {
                    check.conditions(conditions, &rule.place, View::Caller, &all);
                }
                Authorization::Access(access) => check.values(access.values(), &rule.place, &all),
            }
        }
        for rule in self.filters.iter().chain(&self.headers) {
            check.conditions(&rule.when, &rule.place, View::Caller, &all);
            check.values(rule.what.values(), &rule.place, &all);
        }
        if let Some(rule) = &self.unauthorized {
            check.values(rule.what.values(), &rule.place, &all);
        }
        check.faults
    }

    /// Filters and headers that always have the key of another one, so that one of the two is lost; where a `when`
    /// tells them apart, the first one that holds does.
    #[must_use]
    pub fn named_twice(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        for (what, rules) in [("filters", &self.filters), ("headers", &self.headers)] {
            let mut by_key: HashMap<&str, &str> = HashMap::new();
            for rule in rules.iter().filter(|rule| rule.when.is_empty()) {
                let key = &*rule.what.name;
                let Some(first) = by_key.insert(key, &rule.name) else { continue };
                let message =
                    format!("{what} `{first}` and `{}` have one key, `{key}`, so one of them is lost", rule.name);
                let fault =
                    CompileError::new(message).remedy("give one of them another `key`, or a `when`, or remove it");
                faults.push((fault, rule.place.clone()));
            }
        }
        faults
    }

    /// The members that an identity can have, whichever way it was come by; `None` where it may have any.
    fn identity_members(&self) -> Option<Vec<&str>> {
        let mut members = if self.authentication.is_empty() { ANONYMOUS.to_vec() } else { Vec::new() };
        for rule in &self.authentication {
            members.extend(rule.what.method.members()?);
            let own = rule.what.defaults.iter().chain(&rule.what.overrides);
            members.extend(own.map(|(name, _)| &**name));
        }
        Some(members)
    }
}

// === impl Check ===

impl Check<'_> {
    fn conditions(&mut self, conditions: &[Condition], place: &Place, view: View, known: &Known<'_>) {
        for condition in conditions {
            if let Err(fault) = self.sizes.check(condition) {
                self.faults.push((fault, place.clone()));
                continue;
            }
            let mut references = BTreeSet::new();
            condition.references(self.patterns, &mut references);
            // A condition was read for its place, but the patterns that it names for any.
            if let Err(fault) = view.check(references.iter().cloned()) {
                let message = format!("refers to patterns for another place: one {}", fault.message);
                self.faults.push((CompileError { message, ..fault }, place.clone()));
            }
            self.members(&references, place, known);
        }
    }

    fn values<'v>(&mut self, values: impl IntoIterator<Item = &'v ValueSource>, place: &Place, known: &Known<'_>) {
        values.into_iter().for_each(|value| self.members(&value.references(), place, known));
    }

    fn members<'v>(&mut self, references: impl IntoIterator<Item = &'v Reference>, place: &Place, known: &Known<'_>) {
        for reference in references {
            let Reference::Property(root, name) = reference else { continue };
            let (there, why) = match (root.as_str(), &known.identity) {
                ("metadata", _) => (&known.metadata, "no rule of metadata before it makes"),
                ("identity", Some(members)) => {
                    (members, "neither a token's review nor `defaults` and `overrides` make")
                }
                _ => continue,
            };
            if there.contains(&name.as_str()) {
                continue;
            }
            let fault = CompileError::new(format!("asks for `auth.{root}.{name}`, which {why}"));
            let fault = match did_you_mean(name, there.iter().copied()) {
                Some(meant) => fault.remedy(format!("did you mean `auth.{root}.{meant}`?")),
                None if there.is_empty() => fault.remedy(format!("there is none: add one under rules.{root}")),
                None => fault.remedy(format!("there is {}", there.join(", "))),
            };
            self.faults.push((fault, place.clone()));
        }
    }
}

// === what is looked at ===

impl Condition {
    /// What it looks at, through the patterns that it names.
    fn references(&self, patterns: &Patterns, found: &mut BTreeSet<Reference>) {
        match self {
            Condition::Predicate(expression) => found.extend(expression.references()),
            Condition::Pattern(pattern) => found.extend(pattern.selector.references()),
            Condition::All(conditions) | Condition::Any(conditions) => {
                conditions.iter().for_each(|condition| condition.references(patterns, found));
            }
            Condition::Named(name) => {
                if let Some(condition) = find(patterns, name) {
                    condition.references(patterns, found);
                }
            }
        }
    }
}

impl ValueSource {
    fn references(&self) -> Vec<Reference> {
        match self {
            ValueSource::Constant(_) => Vec::new(),
            ValueSource::Expression(expression) => expression.references().into_iter().collect(),
            ValueSource::Selector(selector) => selector.references().collect(),
        }
    }

    fn is_of_path(&self) -> bool {
        self.references().iter().any(|reference| match reference {
            Reference::Attribute(name) => matches!(*name, "path" | "url_path" | "query"),
            Reference::Header(name) => name == ":path",
            _ => false,
        })
    }
}

impl Authorization {
    /// Whether it asks about a model that the path names. Where no model is named there is nothing to ask.
    #[must_use]
    pub fn asks_for_model_of_path(&self) -> bool {
        match self {
            Authorization::Access(rule) => [&rule.namespace, &rule.model].into_iter().any(ValueSource::is_of_path),
            Authorization::Patterns(_) => false,
        }
    }
}

impl AccessRule {
    fn values(&self) -> impl Iterator<Item = &ValueSource> {
        let AccessRule { user, groups, verb, group, resource, subresource, namespace, model } = self;
        [user, verb, group, resource, subresource, namespace, model].into_iter().chain(groups)
    }
}

impl Item {
    fn values(&self) -> impl Iterator<Item = &ValueSource> {
        let (properties, plain) = match &self.shape {
            Shape::Object(properties) => (properties.as_slice(), None),
            Shape::Plain(source) => (&[][..], Some(source)),
        };
        properties.iter().map(|(_, source)| source).chain(plain)
    }
}

impl DenyWithSpec {
    fn values(&self) -> impl Iterator<Item = &ValueSource> {
        self.headers.iter().map(|(_, source)| source).chain(&self.message).chain(&self.body)
    }
}
