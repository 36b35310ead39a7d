//! What went while it was served: told like what comes, since a limit that is lifted by mistake says nothing by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::manifest::{Finding, ObjectName, Part, Place, Problem, Severity, Within};
use crate::policy::{Gaps, Policy};

/// How long a departure is told. Whoever meant it needs to do nothing.
const TOLD: Duration = Duration::from_secs(3600);
/// How many departures of one kind are told.
const MOST: usize = 20;

type Parts = BTreeMap<Part, Place>;

/// What there was last, and what went of late.
#[derive(Debug, Default)]
pub(super) struct Departures {
    /// `None` before the first policy.
    known: Option<Parts>,
    gaps: Gaps,
    gone: Vec<Departure>,
    /// On a cluster callers come and go all the time.
    without_accounts: bool,
}

#[derive(Debug)]
struct Departure {
    part: Part,
    at: Instant,
    problem: Problem,
}

// === impl Departures ===

impl Departures {
    pub(super) fn of_cluster() -> Self {
        Departures { without_accounts: true, ..Departures::default() }
    }

    /// Adds to the problems of `policy`, which was made of `parts` in `files`, what went since the policy before.
    pub(super) fn follow(&mut self, parts: Parts, files: &[Arc<str>], policy: &mut Policy, now: Instant) {
        let gaps = policy.gaps();
        if let Some(known) = self.known.take() {
            let gone = known.iter().filter(|(part, _)| self.is_gone(part, &parts));
            let gone = gone.map(|(part, place)| {
                let with_file = place.line > 0 && !files.contains(&place.file);
                let message = message(part, with_file.then_some(&*place.file), &self.gaps, &gaps);
                Departure { part: part.clone(), at: now, problem: problem(part, place, message) }
            });
            let gone: Vec<Departure> = gone.collect();
            self.gone.extend(gone);
        }
        self.gone.retain(|gone| !parts.contains_key(&gone.part) && now.duration_since(gone.at) < TOLD);
        self.bound();
        policy.problems.extend(self.gone.iter().map(|gone| gone.problem.clone()));
        (self.known, self.gaps) = (Some(parts), gaps);
    }

    /// Whether one has been told for long enough.
    pub(super) fn are_due(&self, now: Instant) -> bool {
        self.gone.iter().any(|gone| now.duration_since(gone.at) >= TOLD)
    }

    /// Of an object that is gone as a whole the parts are not told.
    fn is_gone(&self, part: &Part, now: &Parts) -> bool {
        let whole = Part { object: part.object.clone(), within: None };
        let Some(within) = &part.within else {
            let untold = self.without_accounts && &*part.object.kind == "ServiceAccount";
            return !untold && !now.contains_key(part);
        };
        let of_object = now.range(&whole..).take_while(|(other, _)| other.object == part.object);
        let mut others = of_object.filter_map(|(other, _)| other.within.as_ref());
        now.contains_key(&whole) && !others.any(|other| other.covers(within))
    }

    /// Keeps the latest of each kind.
    fn bound(&mut self) {
        let mut of_kind: BTreeMap<Arc<str>, usize> = BTreeMap::new();
        let mut kept: Vec<Departure> = Vec::new();
        for gone in std::mem::take(&mut self.gone).into_iter().rev() {
            let number = of_kind.entry(Arc::clone(&gone.part.object.kind)).or_default();
            *number += 1;
            if *number <= MOST {
                kept.push(gone);
            }
        }
        kept.reverse();
        self.gone = kept;
    }
}

fn problem(part: &Part, place: &Place, message: String) -> Problem {
    let problem = Problem::new(Finding::ObjectGone, Severity::Warning, place.clone(), message).of(&part.object, "");
    problem.remedy("put it back, if that was not meant; it is told for an hour")
}

fn message(part: &Part, file: Option<&str>, before: &Gaps, now: &Gaps) -> String {
    let gone = match (&part.within, file) {
        (Some(within), _) => within.to_string(),
        (None, Some(file)) => format!("is gone with {file}"),
        (None, None) => "is gone".to_owned(),
    };
    match consequence(&part.object, part.within.as_ref(), before, now) {
        Some(consequence) => format!("{gone}: {consequence}"),
        None => gone,
    }
}

/// What is not limited or protected any more.
fn consequence(object: &ObjectName, within: Option<&Within>, before: &Gaps, now: &Gaps) -> Option<String> {
    let list = |names: &BTreeSet<Arc<str>>, before: &BTreeSet<Arc<str>>| {
        names.difference(before).map(|name| &**name).collect::<Vec<_>>().join(", ")
    };
    let limited = |what: &str, names: &BTreeSet<Arc<str>>, before: &BTreeSet<Arc<str>>| {
        let new = names.difference(before).count();
        match (new, list(names, before)) {
            (0, _) => None,
            (_, tiers) if tiers.is_empty() => Some(format!("requests have no {what} limit")),
            (1, tier) => Some(format!("tier {tier} has no {what} limit")),
            (_, tiers) => Some(format!("tiers {tiers} have no {what} limit")),
        }
    };
    match (&*object.kind, within) {
        ("RateLimitPolicy", _) => limited("request", &now.requests, &before.requests),
        ("TokenRateLimitPolicy", _) => limited("token", &now.tokens, &before.tokens),
        ("AuthPolicy", None | Some(Within::Target(_))) => {
            let routes = list(&now.routes, &before.routes);
            (!routes.is_empty()).then(|| format!("no AuthPolicy protects {routes}: see --without-policy"))
        }
        _ => None,
    }
}
