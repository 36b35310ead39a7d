//! What is published, and what is said of it: in the log, on `/problems`, in the metrics.

use std::collections::{BTreeMap, HashSet};
use std::hash::Hash;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;

use crate::gate::Gate;
use crate::metrics::Metrics;
use crate::policy::Policy;
use crate::problem::{Finding, InForce, Place, Problem, Severity};
use crate::source::FolderError;

/// Publishes what the source becomes, and what becomes of files.
pub(super) struct Publisher {
    log: ProblemLog,
    gate: Arc<Gate>,
    metrics: Arc<Metrics>,
    /// What is wrong beside the policy, by what it is wrong with; the source has no path.
    faults: BTreeMap<PathBuf, Problem>,
}

// === impl Publisher ===

impl Publisher {
    /// Of a gate the problems of whose policy are in `log` already.
    pub(super) fn new(log: ProblemLog, gate: Arc<Gate>, metrics: Arc<Metrics>) -> Self {
        metrics.published(&gate.policies.current(), &[]);
        Publisher { log, gate, metrics, faults: BTreeMap::new() }
    }

    /// Takes over what the source became.
    pub(super) fn source(&mut self, loaded: Result<Policy, FolderError>) {
        self.metrics.reloaded(loaded.is_ok());
        match loaded {
            Ok(policy) => {
                self.gate.publish(policy);
                self.note(Path::new(""), None);
                let policy = self.gate.policies.current();
                let (generation, objects) = (policy.generation, policy.objects);
                match &policy.unready {
                    None => tracing::info!(policy.generation = generation, objects, "policy published"),
                    Some(why) => {
                        tracing::warn!(policy.generation = generation, objects, why, "policy published: not ready")
                    }
                }
            }
            Err(error) => {
                let place = error.path().map_or_else(|| "the source".into(), |path| path.display().to_string());
                let problem = fault(Finding::SourceUnreadable, &place, error.to_string());
                let remedy = "put back what was there, and make it readable: that is noticed within a second, at a mount within ten";
                self.note(Path::new(""), Some(problem.remedy(remedy)));
            }
        }
    }

    /// Takes over what became of a file that a flag names.
    pub(super) fn file(&mut self, path: &Path, taken: Result<(), String>) {
        let place = path.display().to_string();
        if taken.is_ok() {
            tracing::info!(file = place, "read again, and in use");
        }
        let problem = taken.err().map(|why| fault(Finding::SettingUnreadable, &place, why));
        let remedy = "mend it, or put back what was there: that is noticed within a second";
        self.note(path, problem.map(|problem| problem.remedy(remedy)));
    }

    fn note(&mut self, of: &Path, problem: Option<Problem>) {
        match (problem, self.faults.remove(of)) {
            (None, _) => {}
            // It is the same fault, for as long as it is in other words.
            (Some(new), before) => {
                let in_force = before.and_then(|before| before.in_force).or(new.in_force);
                self.faults.insert(of.to_owned(), Problem { in_force, ..new });
            }
        }
        self.gate.policies.set_faults(self.faults.values().cloned().collect());
        let (policy, faults) = (self.gate.policies.current(), self.gate.policies.faults());
        self.metrics.published(&policy, &faults);
        // Whoever reads of it finds it on the pages.
        self.log.update(faults.iter().chain(&policy.problems));
    }
}

/// Something that cannot be read any more, so that what it was before is in force.
fn fault(code: Finding, place: &str, message: String) -> Problem {
    let place = Place { file: place.into(), line: 0, column: 0 };
    let problem = Problem::new(code, Severity::Error, place, message);
    Problem { in_force: Some(InForce::LastGood(Timestamp::now())), ..problem }
}

/// The log of problems: what was wrong when it was last written.
#[derive(Default)]
pub(super) struct ProblemLog(HashSet<Problem>);

impl ProblemLog {
    /// Logs the problems that there were not the last time, and those that have ended: a cluster changes often.
    pub(super) fn update<'a>(&mut self, problems: impl IntoIterator<Item = &'a Problem>) {
        let problems: Vec<&Problem> = problems.into_iter().collect();
        problems.iter().filter(|problem| !self.0.contains(**problem)).for_each(|problem| log_problem(problem));
        {
            let now: HashSet<_> = problems.iter().map(|problem| what(problem)).collect();
            self.0.iter().filter(|problem| !now.contains(&what(problem))).for_each(log_end);
        }
        self.0 = problems.into_iter().cloned().collect();
    }
}

/// What a problem is, wherever it stands: lines move with every edit.
fn what(problem: &Problem) -> impl Eq + Hash {
    let file = problem.object.is_none().then_some(&problem.place.file);
    (problem.code, &problem.object, file, &problem.field, &problem.message)
}

fn log_end(problem: &Problem) {
    let (code, place, field) = (problem.code.as_str(), problem.place.to_string(), problem.field.as_str());
    let object = problem.object.as_ref().map(ToString::to_string);
    tracing::info!(code, place, object, field, "no longer so: {}", problem.message);
}

fn log_problem(problem: &Problem) {
    let (code, place) = (problem.code.as_str(), problem.place.to_string());
    let remedy = problem.remedy.as_deref();
    let object = problem.object.as_ref().map(ToString::to_string);
    let (object, field) = (object.as_deref(), problem.field.as_str());
    let in_force = problem.in_force.as_ref().map(ToString::to_string);
    if problem.is_error() {
        tracing::error!(code, place, object, field, remedy, in_force, "{}", problem.message);
    } else {
        tracing::warn!(code, place, object, field, remedy, in_force, "{}", problem.message);
    }
}
