//! Limits that callers lift, by what they send or do not send.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::expression::{Reference, Use, UseKind};
use crate::manifest::{LimitPolicy, LimitSpec, Manifests, Predicate};
use crate::problem::{Finding, Problem};

/// Stands for every value that no predicate names.
const ANY_OTHER: &str = "\u{1}";

/// Predicates, by the headers that they look at.
type ByHeader<'m> = BTreeMap<String, Vec<&'m Predicate>>;

pub(super) fn lifted(manifests: &Manifests, problems: &mut Vec<Problem>) {
    for policy in &manifests.limit_policies {
        let limits = policy.limits.as_deref().unwrap_or_default();
        let of_policy = by_header(&policy.when);
        let whatever_is_sent = Plain::of(policy, limits);
        // What the policy alone says of a header is the same for each limit.
        let mut told = BTreeSet::new();
        for limit in limits {
            let own = by_header(&limit.when);
            if (own.is_empty() && of_policy.is_empty()) || whatever_is_sent.back(limit) {
                continue;
            }
            let others = of_policy.keys().filter(|name| !own.contains_key(*name) && told.insert((*name).clone()));
            problems.extend(own.keys().chain(others).filter_map(|name| {
                let looking = [&of_policy, &own].into_iter().filter_map(|by_header| by_header.get(name));
                lifted_by(policy, &looking.flatten().copied().collect::<Vec<_>>(), name)
            }));
        }
    }
}

fn by_header(when: &[Predicate]) -> ByHeader<'_> {
    let mut by_header = ByHeader::new();
    for predicate in when {
        for reference in predicate.expression.references() {
            if let Reference::Header(name) = reference {
                by_header.entry(name).or_default().push(predicate);
            }
        }
    }
    by_header
}

/// What a limit itself asks.
type PredicateSet<'m> = BTreeSet<&'m str>;

/// What the limits in force ask that look at no header, beside what the policy asks of all: the predicates of each, by the rarest of
/// them; under `None` those that ask nothing more.
struct Plain<'m>(HashMap<Option<&'m str>, BTreeSet<PredicateSet<'m>>>);

fn is_plain(predicate: &&Predicate) -> bool {
    let looks = |reference: &Reference| matches!(reference, Reference::Header(_) | Reference::Headers);
    !predicate.expression.references().iter().any(looks)
}

// === impl Plain ===

impl<'m> Plain<'m> {
    fn of(policy: &'m LimitPolicy, limits: &'m [LimitSpec]) -> Self {
        // What all are asked makes no difference between them.
        let common: PredicateSet<'_> = policy.when.iter().map(|predicate| predicate.expression.source()).collect();
        let in_force = limits.iter().filter(|limit| !policy.shadow.covers(&limit.name));
        let plain = in_force.filter(|limit| policy.conditions(limit).all(|predicate| is_plain(&predicate)));
        let own = |limit: &'m LimitSpec| limit.when.iter().map(|predicate| predicate.expression.source());
        let all: BTreeSet<PredicateSet<'_>> =
            plain.map(|limit| own(limit).filter(|source| !common.contains(source)).collect()).collect();
        let mut number: HashMap<&str, usize> = HashMap::new();
        all.iter().flatten().for_each(|source| *number.entry(source).or_default() += 1);
        let mut plain = Plain(HashMap::new());
        for asked in all {
            let rarest = asked.iter().copied().min_by_key(|source| number.get(source));
            plain.0.entry(rarest).or_default().insert(asked);
        }
        plain
    }

    /// Whether one of them is for the callers of a limit too, whatever headers they send.
    fn back(&self, limit: &LimitSpec) -> bool {
        let own: PredicateSet<'_> = limit.when.iter().map(|predicate| predicate.expression.source()).collect();
        let rarest = own.iter().copied().map(Some).chain([None]);
        rarest.filter_map(|rarest| self.0.get(&rarest)).flatten().any(|asked| asked.is_subset(&own))
    }
}

/// Whether the predicates of a limit that look at a header let callers lift it.
fn lifted_by(policy: &LimitPolicy, looking: &[&Predicate], name: &str) -> Option<Problem> {
    let lifting = |sent| looking.iter().copied().find(|predicate| !predicate.expression.may_hold(name, sent));
    let problem =
        |code, predicate: &Predicate, message| policy.meta.warning(code, &predicate.place, &predicate.field, message);
    if let Some(predicate) = lifting(None) {
        let message = format!("a caller who does not send `{name}` is not limited: a missing key does not match");
        let remedy = match reads(predicate, name) {
            true => format!("write {}, or add a limit for them", with_others(predicate, name)),
            false => "add a limit for them, or go by auth.identity".to_owned(),
        };
        return Some(problem(Finding::LimitWithoutHeader, predicate, message).remedy(remedy));
    }
    let texts = compared_texts(looking, name);
    let (sent, predicate) = if let Some(predicate) = lifting(Some(ANY_OTHER)) {
        let other = if texts.is_empty() { "" } else { " with another value" };
        (format!("`{name}`{other}"), predicate)
    } else {
        let (text, predicate) = texts.iter().find_map(|text| Some((text, lifting(Some(text))?)))?;
        (format!("`{name}: {text}`"), predicate)
    };
    let message = format!("a caller who sends {sent} is not limited, and anybody can");
    let remedy = "go by auth.identity; or have the gateway set the header, and say so with tiergate.io/ignore";
    Some(problem(Finding::LimitLiftedByHeader, predicate, message).remedy(remedy))
}

/// The texts that predicates compare a header with.
fn compared_texts(looking: &[&Predicate], name: &str) -> Vec<String> {
    let compared = looking.iter().flat_map(|predicate| predicate.expression.uses().paths);
    let texts = compared.filter_map(|used| match used.how {
        UseKind::Compared(texts) if used.path.header().is_some_and(|own| own.eq_ignore_ascii_case(name)) => Some(texts),
        _ => None,
    });
    texts.flatten().collect()
}

/// Whether the predicate looks at the header's value, and not only whether there is one.
fn reads(predicate: &Predicate, name: &str) -> bool {
    let is_header = |used: &Use| used.path.header().is_some_and(|own| own.eq_ignore_ascii_case(name));
    predicate.expression.uses().paths.iter().any(|used| is_header(used) && used.how != UseKind::Tested)
}

/// The predicate, for those who do not send the header too.
fn with_others(predicate: &Predicate, name: &str) -> String {
    let (source, sent) = (predicate.expression.source(), format!("!(\"{name}\" in request.headers)"));
    let only = predicate.expression.references() == BTreeSet::from([Reference::Header(name.to_owned())]);
    match only {
        true if source.contains(['&', '|', '?']) => format!("`{sent} || ({source})`"),
        true => format!("`{sent} || {source}`"),
        false => format!("`{sent} || …` where it looks at the header"),
    }
}
