//! What a set of objects consists of, by name: to tell what went when it changes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::{Manifests, ModelGrant, Permission, Target};
use crate::problem::{ObjectName, Place};
use crate::rules::Subject;

/// An object, or a part of one that has a name of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Part {
    pub object: ObjectName,
    /// `None` for the object as a whole.
    pub within: Option<Within>,
}

/// A part of an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Within {
    /// What a policy is attached to, or a route.
    Target(String),
    Limit(String),
    /// A rule of an AuthPolicy: its block, and its name.
    Rule(&'static str, String),
    Tier(String),
    /// Whom a binding grants something.
    Subject(String),
    /// What a rule of a role permits.
    Permission(Permission),
    /// A tier that a model's annotation grants it to; `None` for all.
    Grant(Option<String>),
}

// === impl Manifests ===

impl Manifests {
    /// All parts, and where they are written.
    #[must_use]
    pub fn parts(&self) -> BTreeMap<Part, Place> {
        let whole = self.metas().map(|meta| (Part { object: meta.object.clone(), within: None }, meta.place.clone()));
        // What stands for something that cannot be read is nothing that could go.
        let mut parts: BTreeMap<Part, Place> = whole.filter(|(part, _)| !part.object.is_unreadable()).collect();
        let mut add = |object: &ObjectName, within, place: &Place| {
            parts.insert(Part { object: object.clone(), within: Some(within) }, place.clone());
        };
        for policy in self.limit_policies.iter().filter(|policy| policy.target != Target::Unknown) {
            add(&policy.meta.object, Within::Target(policy.target.to_string()), &policy.target_place);
        }
        for policy in self.auth_policies.iter().filter(|policy| policy.target != Target::Unknown) {
            add(&policy.meta.object, Within::Target(policy.target.to_string()), &policy.target_place);
        }
        for route in &self.routes {
            for parent in &route.parents {
                let gateway = ObjectName {
                    kind: "Gateway".into(),
                    namespace: Arc::clone(&parent.namespace),
                    name: Arc::clone(&parent.name),
                };
                let target = Target::gateway(&gateway, parent.section.as_deref());
                add(&route.meta.object, Within::Target(target.to_string()), &route.parents_place);
            }
        }
        for policy in &self.limit_policies {
            for limit in policy.limits.iter().flatten() {
                add(&policy.meta.object, Within::Limit(limit.name.clone()), &limit.place);
            }
        }
        for policy in &self.auth_policies {
            let Some(rules) = &policy.rules else { continue };
            let mut add = |block, name: &str, place: &Place| {
                add(&policy.meta.object, Within::Rule(block, name.to_owned()), place);
            };
            rules.authentication.iter().for_each(|rule| add("authentication", &rule.name, &rule.place));
            rules.metadata.iter().for_each(|rule| add("metadata", &rule.name, &rule.place));
            rules.authorization.iter().for_each(|rule| add("authorization", &rule.name, &rule.place));
        }
        for mapping in &self.tier_mappings {
            for tier in mapping.tiers.iter().flatten() {
                add(&mapping.meta.object, Within::Tier(tier.name.clone()), &tier.place);
            }
        }
        for role in &self.roles {
            let permissions = role.rules.iter().filter_map(Permission::of).map(Within::Permission);
            permissions.for_each(|permission| add(&role.meta.object, permission, &role.meta.place));
        }
        for binding in &self.role_bindings {
            for subject in &binding.subjects {
                let (Subject::User(name) | Subject::Group(name)) = subject;
                add(&binding.meta.object, Within::Subject(name.clone()), &binding.subjects_place);
            }
        }
        for model in &self.models {
            match &model.grant {
                ModelGrant::Tiers(tiers, place) => {
                    tiers.iter().for_each(|tier| add(&model.meta.object, Within::Grant(Some(tier.clone())), place));
                }
                ModelGrant::AllTiers => add(&model.meta.object, Within::Grant(None), &model.meta.place),
                ModelGrant::Nobody | ModelGrant::Unreadable => {}
            }
        }
        parts
    }
}

// === impl Within ===

/// What is said when it is gone.
impl fmt::Display for Within {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Within::Target(target) => return write!(f, "is not for {target} any more"),
            Within::Limit(name) => write!(f, "limit `{name}`"),
            Within::Rule(block, name) => write!(f, "{block} rule `{name}`"),
            Within::Tier(name) => write!(f, "tier `{name}`"),
            Within::Subject(name) => write!(f, "its subject {name}"),
            Within::Permission(permission) => write!(f, "its {permission}"),
            Within::Grant(Some(tier)) => write!(f, "the grant to tier `{tier}`"),
            Within::Grant(None) => f.write_str("the grant to all tiers"),
        }?;
        f.write_str(" is gone")
    }
}
