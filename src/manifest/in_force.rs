//! What is in force while something is in error: a message that says "shut" has to be right about it.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use jiff::{Timestamp, Unit};
use serde::{Serialize, Serializer};

use super::{AuthPolicy, Finding, LimitPolicy, Manifests, Model, ModelGrant, ObjectName, Problem, Shadow, Target};

/// What is in force in place of what is in error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InForce {
    /// What was good before this time.
    LastGood(Timestamp),
    /// Nothing can be decided for what it is for.
    Shut,
    /// It could be for anything, so nothing can be decided at all.
    AllShut,
    /// It grants nothing.
    NoGrant,
    /// Nothing of it, and nothing instead.
    Nothing,
    /// All of it but what the message names.
    Rest,
}

// === impl InForce ===

impl InForce {
    /// What an error between objects leaves in force, where its code tells.
    #[must_use]
    pub fn of(code: Finding) -> Option<Self> {
        match code {
            Finding::TargetMissing
            | Finding::RouteUnattached
            | Finding::PolicyShadowed
            | Finding::TierMappingUnused => Some(InForce::Nothing),
            Finding::RuleReplaced | Finding::LimitReplaced | Finding::CounterUndeclared => Some(InForce::Rest),
            Finding::GatewayUnknown => Some(InForce::Shut),
            _ => None,
        }
    }
}

impl fmt::Display for InForce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InForce::LastGood(since) => {
                write!(f, "its last good version, since {}", since.round(Unit::Second).unwrap_or(*since))
            }
            InForce::Shut => f.write_str("nothing of it; what it is for is shut (503)"),
            InForce::AllShut => f.write_str("nothing; it could be for anything, so everything is shut (503)"),
            InForce::NoGrant => f.write_str("nothing of it; it grants nothing"),
            InForce::Nothing => f.write_str("nothing of it"),
            InForce::Rest => f.write_str("the rest of it"),
        }
    }
}

impl Serialize for InForce {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

// === impl Manifests ===

impl Manifests {
    /// Says of each error what is in force meanwhile.
    pub fn say_what_is_in_force(&mut self) {
        let mut problems = std::mem::take(&mut self.problems);
        let read = Read::of(self);
        for problem in problems.iter_mut().filter(|problem| problem.is_error()) {
            problem.in_force = read.in_force(problem);
        }
        self.problems = problems;
    }
}

/// What was read, by name; of two objects of one name the first.
struct Read<'m> {
    manifests: &'m Manifests,
    unparsable: HashSet<&'m Arc<str>>,
    auth_policies: HashMap<&'m ObjectName, &'m AuthPolicy>,
    limit_policies: HashMap<&'m ObjectName, &'m LimitPolicy>,
    models: HashMap<&'m ObjectName, &'m Model>,
}

// === impl Read ===

impl<'m> Read<'m> {
    fn of(manifests: &'m Manifests) -> Self {
        Read {
            manifests,
            unparsable: manifests.unparsable.iter().collect(),
            auth_policies: manifests.auth_policies.iter().rev().map(|policy| (&policy.meta.object, policy)).collect(),
            limit_policies: manifests.limit_policies.iter().rev().map(|policy| (&policy.meta.object, policy)).collect(),
            models: manifests.models.iter().rev().map(|model| (&model.meta.object, model)).collect(),
        }
    }

    fn in_force(&self, problem: &Problem) -> Option<InForce> {
        let Some(object) = &problem.object else {
            let file = &problem.place.file;
            return Some(match self.manifests.kept_files.get(file) {
                Some(since) => InForce::LastGood(*since),
                None if self.unparsable.contains(file) => InForce::AllShut,
                None => InForce::Nothing,
            });
        };
        if let Some(since) = self.manifests.kept.get(object) {
            return Some(InForce::LastGood(*since));
        }
        // Of two objects of one name the first is used. What has a field is a tier that its mapping has twice.
        if problem.code == Finding::ObjectDuplicate && problem.field.is_empty() {
            let shuts = object.kind.ends_with("Policy") || &*object.kind == "HTTPRoute";
            return Some(if shuts { InForce::Shut } else { InForce::Nothing });
        }
        let policy = |target: &Target, in_shadow: bool| match (in_shadow, target) {
            (true, _) => InForce::Nothing,
            (false, Target::Unknown) => InForce::AllShut,
            (false, _) => InForce::Shut,
        };
        Some(match &*object.kind {
            "AuthPolicy" => {
                let found = self.auth_policies.get(object)?;
                return found.rules.is_none().then(|| policy(&found.target, found.shadow));
            }
            "HTTPRoute" | "Gateway" if object.is_unreadable() => InForce::AllShut,
            "HTTPRoute" | "Gateway" | "ConfigMap" => InForce::Shut,
            "LLMInferenceService" => {
                let found = self.models.get(object);
                return found.is_none_or(|model| model.grant == ModelGrant::Unreadable).then_some(InForce::NoGrant);
            }
            kind if !kind.ends_with("Policy") && super::KINDS.iter().any(|known| known.name == kind) => {
                InForce::NoGrant
            }
            _ => {
                let found = self.limit_policies.get(object)?;
                return found.limits.is_none().then(|| policy(&found.target, found.is_on_trial()));
            }
        })
    }
}

// === impl LimitPolicy ===

impl LimitPolicy {
    /// Whether all of it only says what it would have refused.
    pub fn is_on_trial(&self) -> bool {
        let mut limits = self.limits.iter().flatten().peekable();
        self.shadow == Shadow::Everything
            || (limits.peek().is_some() && limits.all(|limit| self.shadow.covers(&limit.name)))
    }
}
