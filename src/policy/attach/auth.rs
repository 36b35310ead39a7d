//! AuthPolicies.

use std::fmt;
use std::sync::Arc;

use super::fold::{Merge, Part, Says, WHEN};
use super::{Attachment, Attachments, EffectivePolicy, Levels, strategy};
use crate::manifest::{Manifests, Meta};
use crate::policy::{Attached, AuthPlan};
use crate::problem::{Finding, InForce, ObjectName, Place, Problem, Severity};
use crate::rules::{AuthRules, Rule};

pub(in crate::policy) type AuthAttachments<'m> = Attachments<'m, AuthRules, Ruled>;

/// The rules of AuthPolicies, put together.
pub(in crate::policy) struct Ruled {
    /// The most specific policy that they are from, of those on trial where they only say what they would have refused.
    pub(in crate::policy) policy: Arc<ObjectName>,
    pub(in crate::policy) rules: Arc<AuthRules>,
    /// Whether nothing of them is in force: they only say what they would have refused.
    pub(in crate::policy) shadow: bool,
    /// What the policies on trial make of them, where others are in force.
    pub(in crate::policy) trial: Option<Arc<Ruled>>,
}

pub(in crate::policy) fn auth_policies(manifests: &Manifests) -> AuthAttachments<'_> {
    Attachments::new(manifests.auth_policies.iter().map(|policy| {
        let object = &policy.meta.object;
        let broken = || Arc::new(AuthRules { broken: Some(object.clone()), ..AuthRules::default() });
        let rules = policy.rules.clone().or_else(|| policy.shadow.then(broken));
        Attachment {
            meta: &policy.meta,
            target: &policy.target,
            place: &policy.target_place,
            strategy: strategy(&policy.meta, policy.strategy),
            shadow: policy.shadow,
            rules,
        }
    }))
}

impl Merge for AuthRules {
    const REPLACED: Finding = Finding::RuleReplaced;

    fn and(&self, other: &Self) -> Self {
        AuthRules::and(self, other)
    }

    fn parts(&self) -> Vec<Part<'_>> {
        fn parts<'r, T: fmt::Debug + 'r>(
            block: &'static str,
            of_block: impl IntoIterator<Item = &'r Arc<Rule<T>>>,
        ) -> impl Iterator<Item = Part<'r>> {
            of_block.into_iter().map(move |rule| Part {
                block,
                name: &rule.name,
                policy: &rule.origin,
                place: &rule.place,
                in_shadow: false,
                what: &**rule,
            })
        }
        let when = parts(WHEN, &self.when).map(|when| Part { name: "", ..when });
        let patterns = parts("patterns", &self.patterns);
        let authentication = parts("rules.authentication", &self.authentication);
        let metadata = parts("rules.metadata", &self.metadata);
        let authorization = parts("rules.authorization", &self.authorization);
        let filters = parts("rules.response.success.filters", &self.filters);
        let headers = parts("rules.response.success.headers", &self.headers);
        let told = parts("rules.response", self.unauthenticated.iter());
        let told = told.chain(parts("rules.response", self.unauthorized.iter()));
        let rules = authentication.chain(metadata).chain(authorization).chain(told).chain(filters).chain(headers);
        when.chain(patterns).chain(rules).collect()
    }
}

impl<'m> AuthAttachments<'m> {
    /// The rules for a request at `levels`.
    pub(in crate::policy) fn at(&mut self, levels: &Levels) -> Arc<EffectivePolicy<'m, Ruled>> {
        self.effective(levels, |in_force, trial, problems| {
            if let Some((rules, policy)) = in_force {
                let faults = faults(rules, policy, InForce::Shut);
                if !faults.is_empty() {
                    problems.extend(faults);
                    return Attached::Broken(policy.object.clone());
                }
            }
            let trial = trial.map(|(rules, policy)| {
                let faults = faults(rules, policy, InForce::Nothing);
                let broken = rules.broken.clone().or_else(|| faults.first().map(|_| policy.object.clone()));
                problems.extend(faults);
                Arc::new(Ruled::new(AuthRules { broken, ..rules.clone() }, policy, in_force.is_none(), None))
            });
            match in_force {
                Some((rules, policy)) => Attached::Active(Arc::new(Ruled::new(rules.clone(), policy, false, trial))),
                None => trial.map_or(Attached::None, Attached::Active),
            }
        })
    }

    /// Notes what a row is in force as on some route: what `plan` says.
    pub(in crate::policy) fn note_plan(&mut self, row: &EffectivePolicy<'m, Ruled>, plan: &Attached<AuthPlan>) {
        let trial = plan.active().map(|plan| plan.trial.as_ref().unwrap_or(plan));
        self.note(row, plan.broken(), |_| trial.is_some_and(|trial| trial.rules.broken.is_none()));
    }
}

impl Ruled {
    fn new(rules: AuthRules, policy: &Meta, shadow: bool, trial: Option<Arc<Ruled>>) -> Self {
        Ruled { policy: Arc::new(policy.object.clone()), rules: Arc::new(rules), shadow, trial }
    }
}

impl<T: fmt::Debug> Says for Rule<T> {
    fn all(&self) -> String {
        format!("{:?} {} {:?}", self.when, self.priority, self.what)
    }
}

/// What keeps rules that were put together from being used. What is in error already says no more.
fn faults(rules: &AuthRules, policy: &Meta, in_force: InForce) -> Vec<Problem> {
    if rules.broken.is_some() {
        return Vec::new();
    }
    let fault = |code, place: &Place, message: String, remedy: Option<String>| {
        let problem = Problem::new(code, Severity::Error, place.clone(), message).of(&policy.object, "spec");
        Problem { remedy, in_force: Some(in_force), ..problem }
    };
    let references = rules.faults().into_iter();
    let mut faults: Vec<Problem> = references
        .map(|(error, place)| fault(Finding::ReferenceUnknown, &place, error.message, error.remedy))
        .collect();
    let twice = rules.named_twice().into_iter();
    faults.extend(twice.map(|(error, place)| fault(Finding::ValueInvalid, &place, error.message, error.remedy)));
    if rules.admit_everybody() {
        let message = "together with other policies authenticates nobody and checks nothing".to_owned();
        faults.push(fault(Finding::PolicyOpen, &policy.place, message, None));
    }
    faults
}
