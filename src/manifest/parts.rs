//! What a set of objects consists of, by name: to tell what went when it changes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::{
    AuthPolicy, HttpRoute, LimitPolicy, Manifests, Meta, Model, ModelGrant, Permission, Role, RoleBinding, Target,
    TierMapping,
};
use crate::problem::{ObjectName, Place};
use crate::rules::{Rule, Subject};

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
        let mut parts = Parts::default();
        // What stands for something that cannot be read is nothing that could go.
        for meta in self.metas().filter(|meta| !meta.object.is_unreadable()) {
            parts.0.insert(Part { object: meta.object.clone(), within: None }, meta.place.clone());
        }
        self.auth_policies.iter().for_each(|policy| parts.of_auth_policy(policy));
        self.limit_policies.iter().for_each(|policy| parts.of_limit_policy(policy));
        self.routes.iter().for_each(|route| parts.of_route(route));
        self.tier_mappings.iter().for_each(|mapping| parts.of_tiers(mapping));
        self.roles.iter().for_each(|role| parts.of_role(role));
        self.role_bindings.iter().for_each(|binding| parts.of_binding(binding));
        self.models.iter().for_each(|model| parts.of_model(model));
        parts.0
    }
}

/// The parts that were found so far.
#[derive(Default)]
struct Parts(BTreeMap<Part, Place>);

// === impl Parts ===

impl Parts {
    fn add(&mut self, meta: &Meta, within: Within, place: &Place) {
        self.0.insert(Part { object: meta.object.clone(), within: Some(within) }, place.clone());
    }

    fn of_target(&mut self, meta: &Meta, target: &Target, place: &Place) {
        if *target != Target::Unknown {
            self.add(meta, Within::Target(target.to_string()), place);
        }
    }

    fn of_auth_policy(&mut self, policy: &AuthPolicy) {
        self.of_target(&policy.meta, &policy.target, &policy.target_place);
        if let Some(rules) = &policy.rules {
            self.of_rules(&policy.meta, "authentication", &rules.authentication);
            self.of_rules(&policy.meta, "metadata", &rules.metadata);
            self.of_rules(&policy.meta, "authorization", &rules.authorization);
        }
    }

    fn of_rules<T>(&mut self, meta: &Meta, block: &'static str, rules: &[Arc<Rule<T>>]) {
        for rule in rules {
            self.add(meta, Within::Rule(block, rule.name.to_string()), &rule.place);
        }
    }

    fn of_limit_policy(&mut self, policy: &LimitPolicy) {
        self.of_target(&policy.meta, &policy.target, &policy.target_place);
        for limit in policy.limits.iter().flatten() {
            let within = Within::Limit(limit.name.clone());
            self.add(&policy.meta, within, &limit.place);
        }
    }

    fn of_route(&mut self, route: &HttpRoute) {
        for parent in &route.parents {
            let gateway = ObjectName::new("Gateway", &parent.namespace, &parent.name);
            let target = Target::gateway(&gateway, parent.section.as_deref());
            self.of_target(&route.meta, &target, &route.parents_place);
        }
    }

    fn of_tiers(&mut self, mapping: &TierMapping) {
        for tier in mapping.tiers.iter().flatten() {
            self.add(&mapping.meta, Within::Tier(tier.name.clone()), &tier.place);
        }
    }

    fn of_role(&mut self, role: &Role) {
        for permission in role.rules.iter().filter_map(Permission::of) {
            self.add(&role.meta, Within::Permission(permission), &role.meta.place);
        }
    }

    fn of_binding(&mut self, binding: &RoleBinding) {
        for subject in &binding.subjects {
            let (Subject::User(name) | Subject::Group(name)) = subject;
            let within = Within::Subject(name.clone());
            self.add(&binding.meta, within, &binding.subjects_place);
        }
    }

    fn of_model(&mut self, model: &Model) {
        match &model.grant {
            ModelGrant::Tiers(tiers, place) => {
                let mut add = |tier| self.add(&model.meta, Within::Grant(Some(tier)), place);
                tiers.iter().cloned().for_each(&mut add);
            }
            ModelGrant::AllTiers => self.add(&model.meta, Within::Grant(None), &model.meta.place),
            ModelGrant::Nobody | ModelGrant::Unreadable => {}
        }
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
