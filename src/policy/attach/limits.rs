//! RateLimitPolicies and TokenRateLimitPolicies.

use std::collections::HashSet;
use std::sync::Arc;

use super::fold::{Merge, Part, Says, WHEN};
use super::{Attachment, Attachments, EffectivePolicy, Levels, Together, strategy};
use crate::limit::Quota;
use crate::manifest::{LimitPolicy, LimitSpec, Manifests, Predicate};
use crate::policy::{Attached, Limit, LimitSet, ShadowLimits};
use crate::problem::{Finding, ObjectName};
use crate::rules::LimitKind;

/// The limits of one or more policies.
pub(in crate::policy) struct LimitRules<'m> {
    /// A policy in shadow that is in error.
    broken: Option<&'m ObjectName>,
    /// Whose `when` has to hold for every limit, but for those of policies in shadow, which have their own.
    when: Option<&'m LimitPolicy>,
    limits: Vec<Written<'m>>,
}

/// A limit, and the policy that it is written in.
#[derive(Clone, Copy)]
struct Written<'m> {
    policy: &'m LimitPolicy,
    spec: &'m LimitSpec,
    /// Whether it only says what it would have refused; and whether all of its policy does.
    in_shadow: bool,
    on_trial: bool,
}

impl Merge for LimitRules<'_> {
    const REPLACED: Finding = Finding::LimitReplaced;

    /// What is on trial takes the place of nothing in force, nor the other way round.
    fn and(&self, other: &Self) -> Self {
        let known: HashSet<_> = self.limits.iter().map(Written::key).collect();
        let new = other.limits.iter().filter(|limit| !known.contains(&limit.key()));
        let limits = self.limits.iter().chain(new).copied().collect();
        LimitRules { broken: self.broken.or(other.broken), when: self.when.or(other.when), limits }
    }

    fn parts(&self) -> Vec<Part<'_>> {
        let when = self.when.map(|policy| Part {
            block: WHEN,
            name: "",
            policy: &policy.meta.object,
            place: policy.when.first().map_or(&policy.limits_place, |predicate| &predicate.place),
            in_shadow: false,
            what: policy,
        });
        let limits = self.limits.iter().map(|written @ Written { policy, spec, in_shadow, .. }| Part {
            block: "limits",
            name: &spec.name,
            policy: &policy.meta.object,
            place: &spec.place,
            in_shadow: *in_shadow,
            what: written,
        });
        when.into_iter().chain(limits).collect()
    }
}

impl<'m> Written<'m> {
    /// Of two of one key one gives way.
    fn key(&self) -> (&'m str, bool) {
        (&self.spec.name, self.in_shadow)
    }
}

impl Says for LimitPolicy {
    fn all(&self) -> String {
        sources(self.when.iter())
    }
}

impl Says for Written<'_> {
    fn requests(&self) -> String {
        sources(self.spec.when.iter())
    }

    fn all(&self) -> String {
        let Written { policy, spec, .. } = self;
        let counters: Vec<&str> = spec.counters.iter().map(|counter| counter.source()).collect();
        let cost = spec.cost.as_ref().map(|cost| cost.source());
        format!("{} {counters:?} {:?} {} {cost:?}", self.requests(), spec.rates, policy.per_route)
    }
}

fn sources<'m>(when: impl Iterator<Item = &'m Predicate>) -> String {
    let sources: Vec<&str> = when.map(|predicate| predicate.expression.source()).collect();
    format!("{sources:?}")
}

pub(in crate::policy) type LimitAttachments<'m> = Attachments<'m, LimitRules<'m>, LimitSet>;

/// The policies of one kind; those that are `unusable` are in error, whatever they say.
pub(in crate::policy) fn limit_policies<'m>(
    manifests: &'m Manifests,
    kind: LimitKind,
    unusable: &HashSet<ObjectName>,
) -> LimitAttachments<'m> {
    let of_kind = manifests.limit_policies.iter().filter(|policy| policy.kind == kind);
    Attachments::new(of_kind.map(|policy| {
        let limits = policy.limits.as_ref().filter(|_| !unusable.contains(&policy.meta.object));
        let on_trial = policy.is_on_trial();
        let written = |spec| Written { policy, spec, in_shadow: policy.shadow.covers(&spec.name), on_trial };
        let limits: Option<Vec<_>> = limits.map(|limits| limits.iter().map(written).collect());
        let broken = limits.is_none().then_some(&policy.meta.object);
        let limits = limits.or_else(|| on_trial.then(Vec::new));
        let when = Some(policy).filter(|policy| !policy.when.is_empty() && !on_trial);
        Attachment {
            meta: &policy.meta,
            target: &policy.target,
            place: &policy.target_place,
            strategy: strategy(&policy.meta, policy.strategy),
            shadow: on_trial,
            rules: limits.map(|limits| Arc::new(LimitRules { broken, when, limits })),
        }
    }))
}

impl<'m> LimitAttachments<'m> {
    /// The limits for a request at `levels`.
    ///
    /// A limit counts for what its policy is attached to: on a Gateway once per user for that Gateway, on an HTTPRoute for that
    /// route; for the route too where its policy says so.
    pub(in crate::policy) fn at(&mut self, levels: &Levels) -> Arc<EffectivePolicy<'m, LimitSet>> {
        let row = self.effective(levels, |in_force, trial, _| {
            let set = |(rules, policy): Together<'_, LimitRules<'_>>, in_shadow: bool| {
                let limits = rules.limits.iter().filter(|limit| limit.in_shadow == in_shadow);
                LimitSet::new(policy.object.clone(), limits.map(|limit| rules.limit(limit)).collect())
            };
            let (Some(enforced), Some(tried)) = (in_force.or(trial), trial.or(in_force)) else { return Attached::None };
            let shadow = ShadowLimits { limits: set(tried, true), broken: tried.0.broken.cloned() };
            Attached::Active(Arc::new(set(enforced, false).with(shadow)))
        });
        let shadow = row.attached.active().and_then(|set| set.shadow.as_ref());
        let broken = shadow.and_then(|shadow| shadow.broken.as_ref());
        self.note(&row, None, |policy| broken != Some(policy));
        row
    }
}

impl LimitRules<'_> {
    fn limit(&self, Written { policy, spec, on_trial, .. }: &Written<'_>) -> Limit {
        let (name, scope) = (&policy.meta.object, policy.target.to_string());
        // What holds for all limits is that of the policy that won it.
        let common = if *on_trial { Some(*policy) } else { self.when };
        let common = common.into_iter().flat_map(|policy| &policy.when);
        let when = common.chain(&spec.when);
        let longest = spec.rates.iter().map(Quota::window).max();
        let rate = |quota: &Quota| {
            let window = Some(quota.window()).filter(|window| Some(*window) != longest);
            (Limit::cell(name, &spec.name, &scope, window), *quota)
        };
        Limit {
            name: format!("{}/{}", name.path(), spec.name).into(),
            kind: policy.kind,
            place: spec.place.clone(),
            when: when.map(|predicate| Arc::clone(&predicate.expression)).collect(),
            counters: spec.counters.iter().map(Arc::clone).collect(),
            admission: policy.admission,
            cost: spec.cost.clone(),
            notify: spec.notify.clone(),
            per_route: policy.per_route,
            rates: spec.rates.iter().map(rate).collect(),
        }
    }
}
