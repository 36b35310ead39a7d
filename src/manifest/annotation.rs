//! Annotations of ours on policies: what their own language cannot say.

use std::collections::HashMap;
use std::sync::Arc;

use super::few::few;
use super::limit_policy::invalid;
use super::{IGNORE_ANNOTATION, LimitSpec, Meta};
use crate::document::Report;
use crate::expression::TokenCost;
use crate::limit::Notify;
use crate::problem::{Finding, Place, Problem, Severity};
use crate::spelling::did_you_mean;

/// Which policies, or limits, only say what they would have refused: `"true"`, or the names of limits.
pub(super) const SHADOW: &str = "tiergate.io/shadow";

/// What a limit counts for an answer: the limit's name takes the place of what is in angle brackets.
pub(super) const COST: &str = "tiergate.io/cost.<limit>";
/// Of which parts of a limit it is told when they are used: percents, with commas between them.
pub(super) const NOTIFY: &str = "tiergate.io/notify.<limit>";
/// What ends the name of an annotation of which there are several.
const ANY_LIMIT: &str = "<limit>";
const PERCENTS: &str = "up to 10 percents from 1 to 100 with commas between them, such as \"80,100\"";
/// So many annotations of limits that are not there are told: each is compared with every limit.
const MOST_UNKNOWN: usize = 10;

/// What of a policy is in shadow: it is carried out, and what it says is recorded instead of answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Shadow {
    #[default]
    Nothing,
    Everything,
    /// These limits.
    Limits(Vec<String>),
}

/// An annotation: its name, its value, and where it stands.
pub(super) type Annotation = (String, String, Place);

/// The value of an annotation that has to be one of `choices`.
pub(super) fn read_choice<T: Copy>(meta: &Meta, report: &Report, name: &str, choices: &[(&str, T)]) -> Option<T> {
    read_choice_of(report, meta.annotation(name)?, choices)
}

/// Likewise, of one that is there.
pub(super) fn read_choice_of<T: Copy>(report: &Report, written: &Annotation, choices: &[(&str, T)]) -> Option<T> {
    let (_, text, _) = written;
    let chosen = choices.iter().find(|(choice, _)| choice == text);
    if chosen.is_none() {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let problem = problem_of(report, written, format!("`{text}` is not a choice"));
        report.add(problem.expected(names.join(" or ")));
    }
    chosen.map(|(_, value)| *value)
}

/// A problem of an annotation.
pub(super) fn problem_of(report: &Report, (name, _, place): &Annotation, message: String) -> Problem {
    report.problem_at(Severity::Error, place, &format!("metadata.annotations.{name}"), message)
}

/// What of a policy is in shadow. What cannot be read is not: a slip must not open the gate.
pub(super) fn read_shadow(meta: &Meta, report: &Report, limits: Option<&[LimitSpec]>) -> Shadow {
    let Some((_, text, place)) = meta.annotation(SHADOW) else { return Shadow::Nothing };
    match text.as_str() {
        "true" => return Shadow::Everything,
        "false" => return Shadow::Nothing,
        _ => {}
    }
    let names: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
    let known: Vec<&str> = limits.unwrap_or_default().iter().map(|limit| limit.name.as_str()).collect();
    let unknown = names.iter().find(|name| !known.contains(&name.as_str()));
    let Some(unknown) = unknown else { return Shadow::Limits(names) };
    let field = format!("metadata.annotations.{SHADOW}");
    let problem = report.problem_at(Severity::Error, place, &field, format!("`{unknown}` is not a choice"));
    let problem = problem.expected(match known.as_slice() {
        [] => "\"true\" or \"false\"".to_owned(),
        known => format!("\"true\", \"false\", or some of {}, with commas between them", known.join(", ")),
    });
    report.add(match did_you_mean(unknown, known) {
        Some(meant) => problem.remedy(format!("did you mean `{meant}`?")),
        None => problem,
    });
    Shadow::Nothing
}

/// Gives each of `limits` the cost that an annotation says.
pub(super) fn read_costs(meta: &Meta, report: &Report, limits: &mut [LimitSpec]) {
    let costs = by_limit(meta, report, COST, limits);
    for (limit, written) in limits.iter_mut().zip(costs) {
        let Some(written @ (_, text, _)) = written else { continue };
        match TokenCost::compile(text) {
            Ok(cost) => limit.cost = Some(Arc::new(cost)),
            Err(error) => report.add(invalid(|message| problem_of(report, written, message), text, error)),
        }
    }
}

/// Gives each of `limits` the parts of which an annotation wants to be told.
pub(super) fn read_notifies(meta: &Meta, report: &Report, limits: &mut [LimitSpec]) {
    let notifies = by_limit(meta, report, NOTIFY, limits);
    for (limit, written) in limits.iter_mut().zip(notifies) {
        let Some(written @ (_, text, _)) = written else { continue };
        match Notify::parse(text) {
            Ok(notify) => limit.notify = Some(Arc::new(notify)),
            Err(error) => report.add(problem_of(report, written, error.to_string()).expected(PERCENTS)),
        }
    }
}

/// The `annotation` of each of `limits`, one for each; those of no limit are reported.
pub(super) fn by_limit<'m>(
    meta: &'m Meta,
    report: &Report,
    annotation: &str,
    limits: &[LimitSpec],
) -> Vec<Option<&'m Annotation>> {
    let prefix = annotation.trim_end_matches(ANY_LIMIT);
    let mut all: HashMap<&str, &Annotation> =
        meta.annotations.iter().filter_map(|written| Some((written.0.strip_prefix(prefix)?, written))).collect();
    let found = limits.iter().map(|limit| all.remove(limit.name.as_str())).collect();
    // In the order of the manifest.
    let unknown = meta.annotations.iter().filter_map(|written| all.get_key_value(written.0.strip_prefix(prefix)?));
    for (limit, written) in unknown.take(MOST_UNKNOWN) {
        let problem = problem_of(report, written, format!("there is no limit `{limit}`"));
        report.add(of_no_limit(problem, annotation, limit, limits));
    }
    found
}

/// The problem of an `annotation` of `limit`, which is none of `known`.
fn of_no_limit(problem: Problem, annotation: &str, limit: &str, known: &[LimitSpec]) -> Problem {
    let problem = problem.code(Finding::ReferenceUnknown);
    let names = || known.iter().map(|limit| limit.name.as_str());
    match did_you_mean(limit, names()) {
        Some(meant) => problem.remedy(format!("did you mean `{}`?", annotation.replace(ANY_LIMIT, meant))),
        None => problem.expected(format!("the name of a limit: {}", few(names()))),
    }
}

/// Reports annotations that look like ours and are not among `known`, nor for every object, and those that are nearly one of
/// `known`. They are errors: what they should have said is not said.
pub(super) fn unknown(meta: &Meta, report: &Report, known: &[&str]) {
    for (name, _, place) in &meta.annotations {
        let is_known = name == IGNORE_ANNOTATION || known.iter().any(|known| is_named(name, known));
        let meant = meant(name, known);
        if is_known || !(name.starts_with("tiergate.io/") || meant.is_some()) {
            continue;
        }
        let field = format!("metadata.annotations.{name}");
        let problem = report.problem_at(Severity::Error, place, &field, "is not an annotation that is known here");
        let problem = problem.code(Finding::AnnotationUnknown);
        report.add(match (meant, known) {
            (Some(meant), _) => problem.remedy(format!("did you mean `{meant}`?")),
            (None, []) => problem.remedy("remove it"),
            (None, known) => problem.expected(known.join(" or ")),
        });
    }
}

/// Whether an annotation's name is `known`, or one of those that `known` stands for.
fn is_named(name: &str, known: &str) -> bool {
    match known.strip_suffix(ANY_LIMIT) {
        Some(prefix) => name.starts_with(prefix),
        None => name == known,
    }
}

/// The annotation that `name` is nearly: of `known`, or of those for every object.
fn meant(name: &str, known: &[&str]) -> Option<String> {
    let all = || known.iter().copied().chain([IGNORE_ANNOTATION]);
    if let Some(meant) = did_you_mean(name, all()) {
        return Some(meant.to_owned());
    }
    // Without the limit's name, which may be as long as all the rest.
    let slash = name.find('/')?;
    let (before, limit) = name.get(slash..)?.split_once('.')?;
    let prefix = format!("{}{before}.", name.get(..slash)?);
    let prefixes = all().filter_map(|known| known.strip_suffix(ANY_LIMIT));
    did_you_mean(&prefix, prefixes).map(|meant| format!("{meant}{limit}"))
}

// === impl Shadow ===

impl Shadow {
    /// Whether the limit of this name is in shadow.
    #[must_use]
    pub fn covers(&self, limit: &str) -> bool {
        match self {
            Shadow::Nothing => false,
            Shadow::Everything => true,
            Shadow::Limits(names) => names.iter().any(|name| name == limit),
        }
    }
}
