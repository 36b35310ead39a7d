//! What is in force while something is in error: a message that says "shut" has to be right about it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::{AuthPolicy, LimitPolicy, Manifests, Model, ModelGrant, Shadow, Target};
use crate::problem::{Finding, InForce, ObjectName, Problem};

// === impl Manifests ===

impl Manifests {
    /// Has each call count as one that runs for so long at most.
    pub fn lease_calls(&mut self, call_time: Duration) {
        self.limit_policies.iter_mut().for_each(|policy| policy.lease(call_time));
    }

    /// Says of each error what is in force meanwhile.
    pub fn say_what_is_in_force(&mut self) {
        let mut problems = std::mem::take(&mut self.problems);
        let read = ReadObjects::of(self);
        for problem in problems.iter_mut().filter(|problem| problem.is_error()) {
            problem.in_force = read.in_force(problem);
        }
        self.problems = problems;
    }
}

/// What was read, by name; of two objects of one name the first.
struct ReadObjects<'m> {
    manifests: &'m Manifests,
    unparsable: HashSet<&'m Arc<str>>,
    auth_policies: HashMap<&'m ObjectName, &'m AuthPolicy>,
    limit_policies: HashMap<&'m ObjectName, &'m LimitPolicy>,
    models: HashMap<&'m ObjectName, &'m Model>,
}

// === impl ReadObjects ===

impl<'m> ReadObjects<'m> {
    fn of(manifests: &'m Manifests) -> Self {
        ReadObjects {
            manifests,
            unparsable: manifests.unparsable.iter().collect(),
            auth_policies: manifests.auth_policies.iter().rev().map(|policy| (&policy.meta.object, policy)).collect(),
            limit_policies: manifests.limit_policies.iter().rev().map(|policy| (&policy.meta.object, policy)).collect(),
            models: manifests.models.iter().rev().map(|model| (&model.meta.object, model)).collect(),
        }
    }

    fn in_force(&self, problem: &Problem) -> Option<InForce> {
        let Some(object) = &problem.object else { return Some(self.of_file(&problem.place.file)) };
        if let Some(since) = self.manifests.kept.get(object) {
            return Some(InForce::LastGood(*since));
        }
        // Of two objects of one name the first is used. What has a field is a tier that its mapping has twice.
        if problem.code == Finding::ObjectDuplicate && problem.field.is_empty() {
            let shuts = object.kind.ends_with("Policy") || &*object.kind == "HTTPRoute";
            return Some(if shuts { InForce::Shut } else { InForce::Nothing });
        }
        self.of_object(object)
    }

    fn of_file(&self, file: &Arc<str>) -> InForce {
        match self.manifests.kept_files.get(file) {
            Some(since) => InForce::LastGood(*since),
            None if self.unparsable.contains(file) => InForce::AllShut,
            None => InForce::Nothing,
        }
    }

    fn of_object(&self, object: &ObjectName) -> Option<InForce> {
        match &*object.kind {
            "AuthPolicy" => {
                let found = self.auth_policies.get(object)?;
                found.rules.is_none().then(|| of_policy(&found.target, found.shadow))
            }
            "HTTPRoute" | "Gateway" if object.is_unreadable() => Some(InForce::AllShut),
            "HTTPRoute" | "Gateway" | "ConfigMap" => Some(InForce::Shut),
            "LLMInferenceService" => {
                let found = self.models.get(object);
                found.is_none_or(|model| model.grant == ModelGrant::Unreadable).then_some(InForce::NoGrant)
            }
            kind if !kind.ends_with("Policy") && super::KINDS.iter().any(|known| known.name == kind) => {
                Some(InForce::NoGrant)
            }
            _ => {
                let found = self.limit_policies.get(object)?;
                found.limits.is_none().then(|| of_policy(&found.target, found.is_on_trial()))
            }
        }
    }
}

/// What a policy in error does.
fn of_policy(target: &Target, in_shadow: bool) -> InForce {
    match (in_shadow, target) {
        (true, _) => InForce::Nothing,
        (false, Target::Unknown) => InForce::AllShut,
        (false, _) => InForce::Shut,
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
