//! Why a request was answered as it was: what each stage saw and decided, from which object and line.
//!
//! A trace is rendered from the evidence of a real decision and the policy as it is now; nothing is decided here.

mod caller;
mod change;
mod command;
mod curl;
mod error;
mod reasons;
mod sent;
mod shape;
mod steps;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt::{self, Write};

use serde::Serialize;

pub use self::command::run;
pub use self::error::ExplainError;

use crate::denial::{Class, Code, Denial};
use crate::gate::{Evidence, Record, RequestLine, Stage};
use crate::identity::Identity;
use crate::policy::{Attached, AuthPlan, GatewayPlan, ListenerPlan, Policy, RoutePlan};
use crate::printable::{masked, printable, printable_line};
use crate::problem::{ObjectName, Place};
use crate::process;
use crate::respond;

/// A decision to explain.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// `None` for what was not even a request.
    pub request_line: Option<&'a RequestLine>,
    pub evidence: &'a Evidence,
    /// What was said, or would have been but for `--shadow`; `None` if nothing was to be said.
    pub denial: Option<&'a Denial>,
    pub let_through: bool,
    /// As it is now, which need not be what was decided by.
    pub policy: &'a Policy,
    /// Why the caller is taken to be who they are, where no review says so.
    pub believed: Option<&'a str>,
    /// Whether the request is the first of all: nothing was taken from any limit before.
    pub first: bool,
    /// Whether it asked for the caller's limits, and was shown them.
    pub shown: bool,
}

/// The explanation of one decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trace {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestLine>,
    pub decision: TraceResult,
    /// What the client gets; 200 where the model answers instead.
    pub status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
    pub steps: Vec<TraceStep>,
    /// What would change the answer.
    pub changes: Vec<String>,
    /// What the reader has to know about the trace itself.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// One stage of the decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TraceStep {
    pub name: &'static str,
    pub result: TraceResult,
    pub findings: Vec<TraceFinding>,
}

/// What a stage, or the whole, came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TraceResult {
    Passed,
    /// There was nothing to do.
    Skipped,
    /// It would have been refused, or left undecided.
    Shadow,
    Refused,
    Undecided,
    NotReached,
}

/// Something that a stage saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TraceFinding {
    pub text: String,
    /// Where it is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
}

/// The stages, as they are explained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum TraceStage {
    Route,
    Policy,
    Identity,
    Tier,
    Access,
    Limits,
}

/// The route of the decision, in the policy as it is now.
struct CurrentRoute<'p> {
    plan: &'p RoutePlan,
    at: Vec<(&'p GatewayPlan, &'p ListenerPlan)>,
}

// === impl Case ===

impl<'a> Case<'a> {
    /// The decision of `record`, for which `policy` is the current one.
    #[must_use]
    pub fn of(record: &'a Record, policy: &'a Policy) -> Self {
        Case::new(record.request_line.as_ref(), &record.evidence, record.denial.as_ref(), policy)
    }

    /// The decision whose refusal is `denial`, for which `policy` is the current one.
    #[must_use]
    pub fn new(
        request_line: Option<&'a RequestLine>,
        evidence: &'a Evidence,
        denial: Option<&'a Denial>,
        policy: &'a Policy,
    ) -> Self {
        let of_process = evidence.shadowed.iter().find(|shadowed| shadowed.by.is_none());
        let shadowed = of_process.map(|shadowed| &shadowed.denial);
        let let_through = denial.is_none();
        let denial = denial.or(shadowed);
        Case { request_line, evidence, denial, let_through, policy, believed: None, first: false, shown: false }
    }

    /// Where the request stopped.
    fn stopped(&self) -> Option<TraceStage> {
        self.denial?;
        if self.misses_tier_late() {
            return Some(TraceStage::Tier);
        }
        Some(match self.evidence.passed {
            None if self.evidence.route.is_none() => TraceStage::Route,
            None => TraceStage::Policy,
            Some(Stage::Route) => TraceStage::Identity,
            Some(Stage::Identity) => TraceStage::Tier,
            Some(Stage::Facts) => TraceStage::Access,
            Some(Stage::Access | Stage::Limits | Stage::Admission) => TraceStage::Limits,
        })
    }

    /// Whether the tier was missed where it was needed, which is after access.
    fn misses_tier_late(&self) -> bool {
        let of_tier = self.denial.is_some_and(|denial| matches!(denial.code, Code::TierNone | Code::TierGone));
        of_tier && self.evidence.passed >= Some(Stage::Access)
    }

    /// What the AuthPolicy, being in shadow as a whole, would have said.
    fn policy_would(&self) -> bool {
        let policy = self.evidence.policy.as_ref().map(|policy| policy.path());
        policy.is_some_and(|policy| {
            self.evidence.shadowed.iter().any(|shadowed| shadowed.by.as_deref() == Some(&*policy))
        })
    }

    fn result(&self, stage: TraceStage) -> TraceResult {
        let (Some(denial), Some(stopped)) = (self.denial, self.stopped()) else { return TraceResult::Passed };
        if stage == stopped {
            return if self.let_through { TraceResult::Shadow } else { TraceResult::of(denial) };
        }
        let passed_before = self.misses_tier_late() && stage == TraceStage::Access;
        if stage < stopped || passed_before { TraceResult::Passed } else { TraceResult::NotReached }
    }

    /// The plan that was decided by; after a change of the policy, what is in its place.
    fn find(&self) -> Option<CurrentRoute<'a>> {
        let (route, rule) = (self.evidence.route.as_deref()?, self.evidence.rule.as_deref()?);
        let listeners = self
            .policy
            .gateways
            .iter()
            .flat_map(|gateway| gateway.listeners.iter().map(move |listener| (gateway, listener)));
        let all = listeners.filter_map(|(gateway, listener)| {
            let of_rule = |plan: &&RoutePlan| *plan.name == *route && *plan.rule == *rule;
            let mut plans = listener.routes.plans().chain(listener.routes.shut_plans()).chain(listener.own.as_deref());
            Some((gateway, listener, plans.find(of_rule)?))
        });
        let all: Vec<_> = all.collect();
        let by_policy = |plan: &RoutePlan| match (&plan.auth, &self.evidence.policy) {
            (Attached::Active(auth), Some(policy)) => auth.policy == *policy,
            _ => false,
        };
        let best = all.iter().find(|(_, _, plan)| by_policy(plan)).or(all.first());
        let (_, _, plan) = *best?;
        let same = all.iter().filter(|(_, _, other)| by_policy(other) == by_policy(plan));
        Some(CurrentRoute { plan, at: same.map(|(gateway, listener, _)| (*gateway, *listener)).collect() })
    }

    fn place(&self, object: &ObjectName) -> Option<Place> {
        self.policy.places.get(object).cloned()
    }

    /// Whether the policy is that of a cluster: its objects stand in no file.
    fn is_of_cluster(&self) -> bool {
        !self.policy.places.is_empty() && self.policy.places.values().all(|place| place.line == 0)
    }

    fn identity(&self) -> Option<&'a Identity> {
        self.evidence.identity.as_deref()
    }

    fn finding(&self, text: impl Into<String>, object: &ObjectName) -> TraceFinding {
        TraceFinding { text: text.into(), place: self.place(object) }
    }
}

// === impl CurrentRoute ===

impl<'p> CurrentRoute<'p> {
    fn auth(&self) -> Option<&'p AuthPlan> {
        self.plan.auth.active().map(|auth| &**auth)
    }

    /// Whether it is no route, but the Gateway itself.
    fn is_gateway(&self) -> bool {
        self.at.iter().any(|(_, listener)| listener.own.as_deref().is_some_and(|own| std::ptr::eq(own, self.plan)))
    }

    /// What is in error of what applies to the route.
    fn broken(&self) -> impl Iterator<Item = &'p ObjectName> {
        let limits = self.plan.limits.iter().filter_map(Attached::broken);
        self.plan.auth.broken().into_iter().chain(limits)
    }
}

// === impl Trace ===

impl Trace {
    #[must_use]
    pub fn of(case: &Case<'_>) -> Self {
        let found = case.find();
        let (decision, status) = match case.denial {
            None => (TraceResult::Passed, 200),
            Some(_) if case.let_through => (TraceResult::Shadow, 200),
            Some(denial) => (TraceResult::of(denial), respond::status_of(denial)),
        };
        let (mut steps, mut changes) = (steps::all(case, found.as_ref()), change::all(case, found.as_ref()));
        // What was sent may be repeated in them.
        let texts = steps.iter_mut().flat_map(|step| &mut step.findings).map(|finding| &mut finding.text);
        texts.chain(&mut changes).for_each(mask);
        Trace {
            decision_id: None,
            time: None,
            request: case.request_line.cloned(),
            decision,
            status,
            code: case.denial.map(|denial| denial.code.as_str()),
            steps,
            changes,
            notes: Vec::new(),
        }
    }

    /// The explanation of `record`, for which `policy` is the current one.
    #[must_use]
    pub fn of_record(record: &Record, policy: &Policy) -> Self {
        let mut trace = Trace::of(&Case::of(record, policy));
        trace.decision_id = Some(process::decision_id(record.evidence.id));
        trace.time = Some(record.time.to_string());
        let (then, now) = (record.evidence.generation, policy.generation);
        if then != now {
            trace.notes.push(format!(
                "the policy has changed since: it was decided by generation {then}; places and advice are of generation {now}"
            ));
        }
        trace
    }
}

fn mask(text: &mut String) {
    if let Cow::Owned(masked) = masked(text) {
        *text = masked;
    }
}

// === impl TraceResult ===

impl TraceResult {
    fn of(denial: &Denial) -> Self {
        if denial.code.class() == Class::Undecided { TraceResult::Undecided } else { TraceResult::Refused }
    }

    fn as_str(self) -> &'static str {
        match self {
            TraceResult::Passed => "passed",
            TraceResult::Skipped => "skipped",
            TraceResult::Shadow => "in shadow",
            TraceResult::Refused => "REFUSED",
            TraceResult::Undecided => "UNDECIDED",
            TraceResult::NotReached => "not reached",
        }
    }
}

// === impl TraceFinding ===

impl TraceFinding {
    fn new(text: impl Into<String>, place: Option<Place>) -> Self {
        TraceFinding { text: text.into(), place }
    }
}

impl From<&str> for TraceFinding {
    fn from(text: &str) -> Self {
        TraceFinding::new(text, None)
    }
}

impl From<String> for TraceFinding {
    fn from(text: String) -> Self {
        TraceFinding::new(text, None)
    }
}

// === text ===

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        self.write(&mut text)?;
        f.write_str(&printable(&text))
    }
}

impl Trace {
    fn write(&self, out: &mut String) -> fmt::Result {
        match &self.request {
            Some(RequestLine { method, host, path }) => {
                writeln!(out, "{}", printable_line(&format!("{method} {path} at {host}")))?;
            }
            None => writeln!(out, "a request that was not kept")?,
        }
        if let (Some(id), Some(time)) = (&self.decision_id, &self.time) {
            writeln!(out, "decision {id} at {time}")?;
        }
        writeln!(out)?;
        for step in &self.steps {
            let (mut name, mut result) = (step.name, step.result.as_str());
            if step.findings.is_empty() {
                writeln!(out, "{name:<9} {result}")?;
            }
            for TraceFinding { text, place } in &step.findings {
                let place = place.as_ref().map(|place| format!("  [{place}]")).unwrap_or_default();
                // A text of several lines, such as a problem with its remedy, stays in its column.
                let text = text.replace('\n', &format!("\n{:<22}", ""));
                writeln!(out, "{name:<9} {result:<11} {text}{place}")?;
                (name, result) = ("", "");
            }
        }
        if !self.changes.is_empty() {
            writeln!(out, "\nwhat would change the answer:")?;
        }
        for change in &self.changes {
            writeln!(out, "  - {}", change.replace('\n', "\n    "))?;
        }
        for note in &self.notes {
            writeln!(out, "\nnote: {note}")?;
        }
        Ok(())
    }
}
