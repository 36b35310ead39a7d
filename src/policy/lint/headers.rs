//! Limits that callers lift, by what they send or do not send.

use std::collections::{BTreeMap, BTreeSet};

use super::warning;
use crate::manifest::{Finding, LimitPolicy, LimitSpec, Manifests, Predicate, Problem};
use crate::policy::{How, Reference, Use};

/// Stands for every value that no predicate names.
const ANY_OTHER: &str = "\u{1}";

pub(super) fn lifted(manifests: &Manifests, problems: &mut Vec<Problem>) {
    for policy in &manifests.limit_policies {
        let limits = policy.limits.as_deref().unwrap_or_default();
        let whatever_is_sent = Plain::of(policy, limits);
        for limit in limits {
            let names: BTreeSet<String> = limit.when.iter().flat_map(headers).collect();
            if !names.is_empty() && !whatever_is_sent.back(limit) {
                problems.extend(names.iter().filter_map(|name| by_header(policy, limit, name)));
            }
        }
    }
}

/// The headers that a predicate looks at.
fn headers(predicate: &Predicate) -> impl Iterator<Item = String> {
    predicate.expression.references().into_iter().filter_map(|reference| match reference {
        Reference::Header(name) => Some(name),
        _ => None,
    })
}

/// What the limits in force ask that look at no header: the predicates of each, by the first of them; under `None` those that are for
/// everybody.
struct Plain<'a>(BTreeMap<Option<&'a str>, BTreeSet<BTreeSet<&'a str>>>);

fn is_plain(predicate: &&Predicate) -> bool {
    let looks = |reference: &Reference| matches!(reference, Reference::Header(_) | Reference::Headers);
    !predicate.expression.references().iter().any(looks)
}

impl<'a> Plain<'a> {
    fn of(policy: &LimitPolicy, limits: &'a [LimitSpec]) -> Self {
        let mut all = Plain(BTreeMap::new());
        for limit in limits.iter().filter(|limit| !policy.shadow.covers(&limit.name)) {
            if limit.when.iter().all(|predicate| is_plain(&predicate)) {
                let asked: BTreeSet<&str> = limit.when.iter().map(|predicate| predicate.expression.source()).collect();
                all.0.entry(asked.first().copied()).or_default().insert(asked);
            }
        }
        all
    }

    /// Whether one of them is for the callers of a limit too, whatever headers they send.
    fn back(&self, limit: &LimitSpec) -> bool {
        let own: BTreeSet<&str> =
            limit.when.iter().filter(is_plain).map(|predicate| predicate.expression.source()).collect();
        let firsts = own.iter().copied().map(Some).chain([None]);
        firsts.filter_map(|first| self.0.get(&first)).flatten().any(|asked| asked.is_subset(&own))
    }
}

fn by_header(policy: &LimitPolicy, limit: &LimitSpec, name: &str) -> Option<Problem> {
    let lifting = |sent| limit.when.iter().find(|predicate| !predicate.expression.may_hold(name, sent));
    let problem =
        |code, predicate: &Predicate, message| warning(code, &policy.meta, &predicate.place, &predicate.field, message);
    if let Some(predicate) = lifting(None) {
        let message = format!("a caller who does not send `{name}` is not limited: a missing key does not match");
        let remedy = match reads(predicate, name) {
            true => format!("write {}, or add a limit for them", with_others(predicate, name)),
            false => "add a limit for them, or go by auth.identity".to_owned(),
        };
        return Some(problem(Finding::LimitWithoutHeader, predicate, message).remedy(remedy));
    }
    let compared = limit.when.iter().flat_map(|predicate| predicate.expression.uses().paths);
    let texts = compared.filter_map(|used| match used.how {
        How::Compared(texts) if used.path.header().is_some_and(|own| own.eq_ignore_ascii_case(name)) => Some(texts),
        _ => None,
    });
    let texts: Vec<String> = texts.flatten().collect();
    let (message, predicate) = if let Some(predicate) = lifting(Some(ANY_OTHER)) {
        let other = if texts.is_empty() { "" } else { " with another value" };
        (format!("a caller who sends `{name}`{other} is not limited, and anybody can"), predicate)
    } else {
        let (text, predicate) = texts.iter().find_map(|text| Some((text, lifting(Some(text))?)))?;
        (format!("a caller who sends `{name}: {text}` is not limited, and anybody can"), predicate)
    };
    let remedy = "go by auth.identity; or have the gateway set the header, and say so with tiergate.io/ignore";
    Some(problem(Finding::LimitLiftedByHeader, predicate, message).remedy(remedy))
}

/// Whether the predicate looks at the header's value, and not only whether there is one.
fn reads(predicate: &Predicate, name: &str) -> bool {
    let is_header = |used: &Use| used.path.header().is_some_and(|own| own.eq_ignore_ascii_case(name));
    predicate.expression.uses().paths.iter().any(|used| is_header(used) && used.how != How::Tested)
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
