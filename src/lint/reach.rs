//! Limits that no request can ever match, or that never refuse one.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::{Map, Value};

use crate::expression::{Direct, Object, Scope, UseKind, Uses};
use crate::limit::{self, Quota};
use crate::manifest::{LimitPolicy, LimitSpec, Manifests, Predicate};
use crate::problem::{Finding, Problem};
use crate::request::Attributes;
use crate::rules::LimitKind;

pub(super) fn limits(manifests: &Manifests, problems: &mut Vec<Problem>) {
    for policy in &manifests.limit_policies {
        let limits = policy.limits.as_deref().unwrap_or_default();
        predicates(policy, limits, problems);
        stricter(policy, limits, problems);
    }
}

// === predicates ===

/// The texts that the predicates of a limit compare things with: `(true, "tier")` is `auth.identity.tier`, `(false, "host")`
/// is `request.host`.
type Texts = BTreeMap<(bool, String), Vec<String>>;

/// One text for each thing that is compared.
struct SampleRequest<'w> {
    identity: Value,
    request: Attributes<'w>,
}

/// How many worlds are tried for one limit.
const MOST: usize = 256;
/// Stands for every text that no predicate names.
const ANY_OTHER: &str = "\u{1}";

/// A predicate, and what it looks at.
type PredicateUses<'m> = (&'m Predicate, Uses);

fn read(predicate: &Predicate) -> PredicateUses<'_> {
    (predicate, predicate.expression.uses())
}

/// Reports of each limit the first predicate that leaves nothing of what those before it let through; one of the policy once.
fn predicates(policy: &LimitPolicy, limits: &[LimitSpec], problems: &mut Vec<Problem>) {
    let common: Vec<PredicateUses<'_>> = policy.when.iter().map(read).collect();
    let of_policy = contradiction(policy, &common.iter().collect::<Vec<_>>());
    if of_policy.is_some() {
        problems.extend(of_policy.filter(|_| !limits.is_empty()));
        return;
    }
    for limit in limits.iter().filter(|limit| !limit.when.is_empty()) {
        let own: Vec<PredicateUses<'_>> = limit.when.iter().map(read).collect();
        problems.extend(contradiction(policy, &common.iter().chain(&own).collect::<Vec<_>>()));
    }
}

fn contradiction(policy: &LimitPolicy, when: &[&PredicateUses<'_>]) -> Option<Problem> {
    let texts = compared(when)?;
    let worlds: Vec<SampleRequest<'_>> =
        (0..texts.values().map(Vec::len).product()).map(|n| SampleRequest::new(&texts, n)).collect();
    // With this one nothing is left of any world.
    let refuted = worlds.iter().map(|world| when.iter().position(|(predicate, _)| world.refutes(predicate)));
    let at = refuted.collect::<Option<Vec<usize>>>()?.into_iter().max()?;
    let (last, _) = when.get(at)?;
    let message = match at == 0 || worlds.iter().all(|world| world.refutes(last)) {
        true => "can never be true, so the limit applies to nobody",
        false => "contradicts the predicates before it, so the limit applies to nobody",
    };
    let problem = policy.meta.warning(Finding::PredicateUnreachable, &last.place, &last.field, message.to_owned());
    let remedy = "all predicates of a limit have to hold; for either of two write `in [\"a\", \"b\"]`";
    Some(problem.remedy(remedy))
}

/// `None` where it is plain that there is something to match, or cannot be told.
fn compared(when: &[&PredicateUses<'_>]) -> Option<Texts> {
    if let [(only, _)] = when
        && matches!(only.expression.direct(), Some(Direct::Equals { .. }))
    {
        return None;
    }
    let (mut texts, mut read) = (Texts::new(), BTreeSet::new());
    for (_, uses) in when {
        if uses.opaque {
            return None;
        }
        for used in &uses.paths {
            let property = used.path.text_property().map(|(identity, name)| (identity, name.to_owned()));
            match (property, &used.how) {
                (_, UseKind::Tested) => return None,
                (Some((identity, name)), UseKind::Compared(with)) if identity || has_own_text(&name) => {
                    texts.entry((identity, name)).or_default().extend(with.iter().cloned());
                }
                (property, _) => read.extend(property),
            }
        }
    }
    // What is looked at in another way too has no value in any world, and then nothing is refuted by it.
    texts.retain(|property, _| !read.contains(property));
    for texts in texts.values_mut() {
        texts.sort_unstable();
        texts.dedup();
        texts.push(ANY_OTHER.to_owned());
    }
    let number = texts.values().try_fold(1_usize, |product, texts| product.checked_mul(texts.len()))?;
    (number <= MOST).then_some(texts)
}

/// `url_path` is another name of `path`, so neither can have a text of its own.
fn has_own_text(attribute: &str) -> bool {
    matches!(attribute, "method" | "host")
}

impl<'w> SampleRequest<'w> {
    /// The `number`th of all combinations.
    fn new(texts: &'w Texts, mut number: usize) -> Self {
        let mut identity = Map::new();
        let mut request = Attributes::default();
        for ((of_identity, name), texts) in texts {
            let text = texts.get(number % texts.len()).map(String::as_str).unwrap_or_default();
            number /= texts.len();
            match (of_identity, name.as_str()) {
                (true, _) => drop(identity.insert(name.clone(), Value::from(text))),
                (false, "method") => request.method = text,
                (false, _) => request.host = text,
            }
        }
        SampleRequest { identity: Value::Object(identity), request }
    }

    /// Whether the predicate is false whatever else the request has.
    fn refutes(&self, predicate: &Predicate) -> bool {
        let identity = Some(Object { base: Some(&self.identity), extra: &[] });
        let scope = Scope { request: self.request, identity, ..Scope::default() };
        predicate.expression.eval_bool(&scope) == Ok(false)
    }
}

// === rates ===

/// What a limit counts: its predicates and counters, as they are written.
type LimitParts<'l> = BTreeSet<(bool, &'l str)>;

/// More conditions and counters of a limit, or limits that count the same, are not looked through.
const MOST_PARTS: usize = 8;
const MOST_EQUAL: usize = 32;

/// Reports the rates that never refuse anything, since another one of the policy always does before.
fn stricter(policy: &LimitPolicy, limits: &[LimitSpec], problems: &mut Vec<Problem>) {
    let by_counted = by_counted(limits);
    for (at, limit) in limits.iter().enumerate() {
        let own: Vec<_> = counted(limit).into_iter().collect();
        if own.len() > MOST_PARTS {
            continue;
        }
        // What has fewer conditions applies whenever this one does, and what has fewer counters counts more.
        let parts = (0..1_usize << own.len()).map(|chosen| chosen_of(&own, chosen));
        // What is in shadow refuses nobody.
        let refuses = |other: &LimitSpec| !policy.shadow.covers(&other.name) || policy.shadow.covers(&limit.name);
        // Numbers of other units are not compared.
        let refuses = |other: &LimitSpec| refuses(other) && unit(other) == unit(limit);
        let others = parts.filter_map(|part| by_counted.get(&part)).flatten().filter(|(_, other)| refuses(other));
        let others: Vec<_> = others.collect();
        for (i, rate) in limit.rates.iter().enumerate() {
            // Of two that are equal the later one is the one too many.
            let is_first =
                |place: (usize, usize), quota: &Quota| place != (at, i) && (quota != rate || place < (at, i));
            let found = others.iter().find_map(|(other, spec)| {
                let compared = RateComparison { kind: policy.kind, same: counted(spec).len() == own.len() };
                let mut rates = spec.rates.iter().enumerate();
                let before = |(j, quota): &(usize, &Quota)| {
                    is_first((*other, *j), quota) && always_stricter(quota, rate, compared)
                };
                rates.find(before).map(|(_, quota)| (&spec.name, quota))
            });
            let Some((name, quota)) = found else { continue };
            let (rate, quota) = (shown(rate), shown(quota));
            let message = format!("{rate} is never reached: limit `{name}` lets through {quota} at most");
            let field = format!("spec.limits.{}.rates[{i}]", limit.name);
            let problem = policy.meta.warning(Finding::LimitUnreachable, &limit.place, &field, message);
            problems.push(problem.remedy("remove one of them, or give them different predicates or counters"));
        }
    }
}

/// The limits that count each thing, and which ones of the policy they are.
fn by_counted(limits: &[LimitSpec]) -> HashMap<LimitParts<'_>, Vec<(usize, &LimitSpec)>> {
    let mut by_counted: HashMap<LimitParts<'_>, Vec<(usize, &LimitSpec)>> = HashMap::new();
    for (at, limit) in limits.iter().enumerate() {
        let same = by_counted.entry(counted(limit)).or_default();
        if same.len() < MOST_EQUAL {
            same.push((at, limit));
        }
    }
    by_counted
}

/// The parts whose bits are set in `chosen`.
fn chosen_of<'l>(parts: &[(bool, &'l str)], chosen: usize) -> LimitParts<'l> {
    parts.iter().enumerate().filter(|(i, _)| chosen & (1 << i) != 0).map(|(_, part)| *part).collect()
}

fn counted(limit: &LimitSpec) -> LimitParts<'_> {
    let when = limit.when.iter().map(|predicate| (false, predicate.expression.source().trim()));
    when.chain(limit.counters.iter().map(|counter| (true, counter.source().trim()))).collect()
}

/// What an answer counts, as it is written.
fn unit(limit: &LimitSpec) -> Option<&str> {
    limit.cost.as_ref().map(|cost| cost.source())
}

/// What a rate is compared with another one as.
#[derive(Clone, Copy, Debug)]
pub(super) struct RateComparison {
    pub(super) kind: LimitKind,
    /// Whether both count the same. Else the stricter one counts more.
    pub(super) same: bool,
}

/// Whether `quota` always refuses before `rate` does.
pub(super) fn always_stricter(quota: &Quota, rate: &Quota, compared: RateComparison) -> bool {
    let charged_afterwards = compared.kind == LimitKind::Tokens;
    quota.refuses_before(rate, limit::Compared { charged_afterwards, same: compared.same })
}

fn shown(quota: &Quota) -> String {
    format!("{} {}", quota.limit(), quota.span())
}
