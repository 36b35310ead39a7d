//! What went while it was served: told like what comes, since a limit that is lifted by mistake says nothing by itself.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::lint::{Gaps, gaps};
use crate::manifest::{Part, Permission, Within, few};
use crate::policy::Policy;
use crate::problem::{Finding, ObjectName, Place, Problem, Severity};

/// How long a departure is told. Whoever meant it needs to do nothing.
const TOLD: Duration = Duration::from_secs(3600);
/// How many departures of one kind are told. The others are counted.
const MOST: usize = 20;
/// So many rules of one role are looked for in its other rules; of more that go at once, each is told as it was.
const COMPARED: usize = 20;

type Parts = BTreeMap<Part, Place>;

/// What there was last, and what went of late.
#[derive(Debug, Default)]
pub(super) struct Departures {
    /// `None` before the first policy.
    known: Option<Parts>,
    gaps: Gaps,
    gone: Vec<Departure>,
    /// What is not told one by one, by kind.
    more: BTreeMap<Arc<str>, More>,
    /// On a cluster callers come and go all the time.
    without_accounts: bool,
}

#[derive(Debug)]
struct Departure {
    part: Part,
    place: Place,
    at: Instant,
    /// Whether it was attached to a Gateway, so that many requests miss it.
    is_wide: bool,
    /// Whether its file went too.
    with_file: bool,
    /// What is not limited or protected any more.
    consequence: Option<Arc<str>>,
}

/// Departures that are counted, and when the last of them was.
#[derive(Debug)]
struct More {
    number: usize,
    at: Instant,
}

// === impl Departures ===

impl Departures {
    pub(super) fn of_cluster() -> Self {
        Departures { without_accounts: true, ..Departures::default() }
    }

    /// Adds to the problems of `policy`, which was made of `parts` in `files`, what went since the policy before.
    pub(super) fn follow(&mut self, parts: Parts, files: &[Arc<str>], policy: &mut Policy, now: Instant) {
        let gaps = gaps(policy);
        self.gone.retain(|gone| !has(&parts, &gone.part) && is_told(gone.at, now));
        self.more.retain(|_, more| is_told(more.at, now));
        if let Some(known) = self.known.take() {
            self.gone.extend(self.lost(&known, &parts, now));
            self.bound(now);
            let files: HashSet<&str> = files.iter().map(|file| &**file).collect();
            for new in self.gone.iter_mut().filter(|gone| gone.at == now) {
                new.with_file = new.place.line > 0 && !files.contains(&*new.place.file);
                new.consequence = consequence(&new.part, &self.gaps, &gaps);
            }
        }
        policy.problems.extend(self.gone.iter().map(Departure::problem));
        policy.problems.extend(self.more.iter().map(|(kind, more)| more.problem(kind)));
        (self.known, self.gaps) = (Some(parts), gaps);
    }

    /// Whether one has been told for long enough.
    pub(super) fn are_due(&self, now: Instant) -> bool {
        let mut times = self.gone.iter().map(|gone| gone.at).chain(self.more.values().map(|more| more.at));
        times.any(|at| !is_told(at, now))
    }

    /// What of `known` is not there now. Of an object that is gone as a whole the parts are not told.
    fn lost(&self, known: &Parts, now: &Parts, at: Instant) -> Vec<Departure> {
        let mut compared: HashMap<&ObjectName, usize> = HashMap::new();
        let mut lost = Vec::new();
        for (part, place) in known.iter().filter(|(part, _)| !now.contains_key(part)) {
            let left = match &part.within {
                None if self.without_accounts && &*part.object.kind == "ServiceAccount" => Vec::new(),
                None => vec![None],
                Some(_) if !now.contains_key(&whole(&part.object)) => Vec::new(),
                Some(Within::Permission(permission)) => {
                    let compared = compared.entry(&part.object).or_default();
                    *compared += 1;
                    let others = permissions(&part.object, now).take(if *compared > COMPARED { 0 } else { usize::MAX });
                    let left = permission.without(others);
                    left.into_iter().map(Within::Permission).map(Some).collect()
                }
                Some(_) if has(now, part) => Vec::new(),
                within => vec![within.clone()],
            };
            lost.extend(left.into_iter().map(|within| Departure {
                part: Part { object: part.object.clone(), within },
                place: place.clone(),
                at,
                is_wide: is_wide(&part.object, known),
                with_file: false,
                consequence: None,
            }));
        }
        lost
    }

    /// Keeps some of each kind, and counts the others: what many requests miss goes before what few do, the latest before older
    /// ones, and no namespace pushes out those of another.
    fn bound(&mut self, now: Instant) {
        let mut gone = std::mem::take(&mut self.gone);
        gone.sort_by_key(|gone| (Reverse(gone.is_wide), Reverse(gone.at)));
        let mut of_namespace: HashMap<(Arc<str>, Arc<str>), usize> = HashMap::new();
        let mut turns: Vec<(usize, Departure)> = Vec::with_capacity(gone.len());
        for gone in gone {
            let ObjectName { kind, namespace, .. } = &gone.part.object;
            let turn = of_namespace.entry((Arc::clone(kind), Arc::clone(namespace))).or_default();
            *turn += 1;
            turns.push((*turn, gone));
        }
        turns.sort_by_key(|(turn, gone)| (Reverse(gone.is_wide), *turn));
        let mut of_kind: BTreeMap<Arc<str>, usize> = BTreeMap::new();
        for (_, gone) in turns {
            let kind = &gone.part.object.kind;
            let number = of_kind.entry(Arc::clone(kind)).or_default();
            *number += 1;
            if *number <= MOST {
                self.gone.push(gone);
            } else {
                let more = self.more.entry(Arc::clone(kind)).or_insert(More { number: 0, at: now });
                (more.number, more.at) = (more.number + 1, now);
            }
        }
        self.gone.sort_by(|one, other| (one.at, &one.part).cmp(&(other.at, &other.part)));
    }
}

fn is_told(at: Instant, now: Instant) -> bool {
    now.duration_since(at) < TOLD
}

fn whole(object: &ObjectName) -> Part {
    Part { object: object.clone(), within: None }
}

/// The parts of an object from `first` on.
fn of_object<'p>(object: &'p ObjectName, first: Option<Within>, parts: &'p Parts) -> impl Iterator<Item = &'p Within> {
    let first = Part { object: object.clone(), within: first };
    let parts = parts.range(first..).take_while(move |(part, _)| part.object == *object);
    parts.filter_map(|(part, _)| part.within.as_ref())
}

/// What a role permits.
fn permissions<'p>(object: &'p ObjectName, parts: &'p Parts) -> impl Iterator<Item = &'p Permission> {
    let parts = of_object(object, Some(Within::Permission(Permission::default())), parts);
    parts.map_while(|within| match within {
        Within::Permission(permission) => Some(permission),
        _ => None,
    })
}

/// Whether there is a part, by itself or in a wider one.
fn has(parts: &Parts, part: &Part) -> bool {
    let wider = match &part.within {
        Some(Within::Permission(permission)) => return permission.without(permissions(&part.object, parts)).is_empty(),
        Some(Within::Grant(Some(_))) => Some(Within::Grant(None)),
        _ => None,
    };
    let is_there = |within| parts.contains_key(&Part { object: part.object.clone(), within });
    parts.contains_key(part) || wider.is_some_and(|wider| is_there(Some(wider)))
}

/// Whether an object is attached to a Gateway.
fn is_wide(object: &ObjectName, parts: &Parts) -> bool {
    let mut targets = of_object(object, None, parts).map_while(|within| match within {
        Within::Target(target) => Some(target),
        _ => None,
    });
    targets.any(|target| target.starts_with("Gateway "))
}

/// What is not limited or protected any more without `part`.
fn consequence(part: &Part, before: &Gaps, now: &Gaps) -> Option<Arc<str>> {
    let new = |names: &BTreeSet<Arc<str>>, before: &BTreeSet<Arc<str>>| {
        let (number, names) = (names.difference(before).count(), names.difference(before).map(|name| &**name));
        (number, few(names))
    };
    let limited = |what: &str, (number, tiers): (usize, String)| match number {
        0 => None,
        _ if tiers.is_empty() => Some(format!("requests have no {what} limit")),
        1 => Some(format!("tier {tiers} has no {what} limit")),
        _ => Some(format!("tiers {tiers} have no {what} limit")),
    };
    let consequence = match (&*part.object.kind, &part.within) {
        ("RateLimitPolicy", _) => limited("request", new(&now.requests, &before.requests)),
        ("TokenRateLimitPolicy", _) => limited("token", new(&now.tokens, &before.tokens)),
        ("AuthPolicy", None | Some(Within::Target(_))) => {
            let (number, routes) = new(&now.routes, &before.routes);
            (number > 0).then(|| format!("no AuthPolicy protects {routes}: see --without-policy"))
        }
        _ => None,
    };
    consequence.map(Arc::from)
}

// === impl Departure ===

impl Departure {
    fn problem(&self) -> Problem {
        let gone = match &self.part.within {
            Some(within) => within.to_string(),
            None if self.with_file => format!("is gone with {}", self.place.file),
            None => "is gone".to_owned(),
        };
        let message = match &self.consequence {
            Some(consequence) => format!("{gone}: {consequence}"),
            None => gone,
        };
        let problem = Problem::new(Finding::ObjectGone, Severity::Warning, self.place.clone(), message);
        let problem = problem.of(&self.part.object, "");
        problem.remedy("put it back, if that was not meant; it is told for an hour")
    }
}

// === impl More ===

impl More {
    fn problem(&self, kind: &str) -> Problem {
        let place = Place { file: kind.into(), line: 0, column: 0 };
        let message = format!("and {} more of this kind are gone, or parts of them", self.number);
        let problem = Problem::new(Finding::ObjectGone, Severity::Warning, place, message);
        problem.remedy("compare what is there with what should be; it is told for an hour after the last of them")
    }
}

#[cfg(test)]
mod tests;
