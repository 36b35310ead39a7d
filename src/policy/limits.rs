//! The limits of one RateLimitPolicy or TokenRateLimitPolicy, found by what their predicates compare.

use std::collections::BTreeSet;
use std::hash::Hasher;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::{HashMap, HashSet};
use siphasher::sip::SipHasher13;
use smallvec::SmallVec;

use crate::denial::Denial;
use crate::expression::{Direct, EvalError, Expression, Path, Reference, Scope, TokenCost, Val, undecided};
use crate::hash::KeyedHasher;
use crate::limit::{AccountKey, CellId, Notify, Quota};
use crate::problem::{ObjectName, Place};
use crate::rules::{LimitKind, TokenAdmission};

/// One named limit.
#[derive(Debug)]
pub struct Limit {
    /// `namespace/policy/limit`
    pub name: Arc<str>,
    pub kind: LimitKind,
    pub place: Place,
    /// All must hold.
    pub when: Vec<Arc<Expression>>,
    pub counters: Vec<Arc<Expression>>,
    /// Of token limits, where the policy says it.
    pub admission: Option<TokenAdmission>,
    /// What an answer counts; without one, its tokens.
    pub cost: Option<Arc<TokenCost>>,
    /// Of which parts it is told when they are used, if of any.
    pub notify: Option<Arc<Notify>>,
    pub rates: Vec<(CellId, Quota)>,
    /// Whether each route has cells of its own: see [`Limit::cells`].
    pub per_route: bool,
}

/// The limits of one policy.
#[derive(Debug)]
pub struct LimitSet {
    pub policy: ObjectName,
    limits: Vec<Limit>,
    /// For each path that predicates compare with a text: which limits ask for which text. Cost does not grow with
    /// the number of limits.
    index: Vec<(Path, ByText)>,
    /// Limits with no such predicate.
    rest: Vec<usize>,
    references: BTreeSet<Reference>,
    pub shadow: Option<Box<ShadowLimits>>,
}

/// Limits that only say what they would have refused.
#[derive(Debug)]
pub struct ShadowLimits {
    pub limits: LimitSet,
    /// A policy in shadow that is in error.
    pub broken: Option<ObjectName>,
}

/// Limits, as positions, by the text that they ask for.
type ByText = HashMap<String, Vec<usize>>;

/// A limit that applies to a request, and the account that it counts in.
#[derive(Clone, Copy, Debug)]
pub struct Matched<'p> {
    pub limit: &'p Limit,
    pub account: AccountKey,
}

// === impl Limit ===

impl Limit {
    /// The identity of the cell of a limit's rate: the same after a restart, and after its number was changed. Of several rates all but
    /// the longest are known by their `window`; without one, it is the only or the longest rate, which stays itself when its window
    /// is changed. So no rate takes another's use when they are written in another order, or one of them comes or goes.
    #[must_use]
    pub fn cell(policy: &ObjectName, limit: &str, scope: &str, window: Option<Duration>) -> CellId {
        let mut hasher = SipHasher13::new();
        for part in [&*policy.kind, &*policy.namespace, &*policy.name, limit, scope] {
            hasher.write_usize(part.len());
            hasher.write(part.as_bytes());
        }
        hasher.write_u128(window.map_or(0, |window| window.as_nanos()));
        CellId(hasher.finish())
    }

    /// The cell of each rate, for requests of the route whose hash is `route`.
    pub fn cells(&self, route: u64) -> impl Iterator<Item = (CellId, Quota)> {
        let mask = if self.per_route { route } else { 0 };
        self.rates.iter().map(move |(cell, quota)| (cell.on_route(mask), *quota))
    }
}

// === impl LimitSet ===

impl LimitSet {
    #[must_use]
    pub fn new(policy: ObjectName, limits: Vec<Limit>) -> Self {
        let mut index: Vec<(Path, ByText)> = Vec::new();
        let mut rest = Vec::new();
        for (at, limit) in limits.iter().enumerate() {
            let compared = limit.when.iter().find_map(|expression| match expression.direct() {
                Some(Direct::Equals { path, literal }) => Some((path, literal)),
                _ => None,
            });
            let Some((path, literal)) = compared else {
                rest.push(at);
                continue;
            };
            let known = index.iter().position(|(other, _)| other == path);
            let known = known.unwrap_or_else(|| {
                index.push((path.clone(), HashMap::new()));
                index.len() - 1
            });
            if let Some((_, by_text)) = index.get_mut(known) {
                by_text.entry(literal.clone()).or_default().push(at);
            }
        }
        // Those of a whole policy are of each of its limits.
        let mut seen = HashSet::new();
        let expressions = limits.iter().flat_map(|limit| limit.when.iter().chain(&limit.counters));
        let expressions = expressions.filter(|expression| seen.insert(Arc::as_ptr(expression)));
        let references = expressions.flat_map(|expression| expression.references()).collect();
        LimitSet { policy, limits, index, rest, references, shadow: None }
    }

    /// The same, beside limits in shadow.
    #[must_use]
    pub fn with(mut self, shadow: ShadowLimits) -> Self {
        if shadow.broken.is_some() || !shadow.limits.limits.is_empty() {
            self.shadow = Some(Box::new(shadow));
        }
        self
    }

    /// What the limits look at: without one of these it cannot be told which of them apply.
    #[must_use]
    pub fn references(&self) -> &BTreeSet<Reference> {
        &self.references
    }

    #[must_use]
    pub fn limits(&self) -> &[Limit] {
        &self.limits
    }

    /// All limits, those in shadow last.
    pub fn all(&self) -> impl Iterator<Item = &Limit> {
        self.limits.iter().chain(self.shadow.iter().flat_map(|shadow| &shadow.limits.limits))
    }

    /// The limits that apply, in the order of the policy.
    ///
    /// # Errors
    ///
    /// A predicate or counter cannot be evaluated: skipping the limit would open the gate.
    pub fn matching<'p>(
        &'p self,
        scope: &Scope<'_>,
        keys: &KeyedHasher,
        matched: &mut SmallVec<[Matched<'p>; 2]>,
    ) -> Result<(), Denial> {
        for limit in self.candidates(scope) {
            if limit.applies(scope)? {
                matched.push(Matched { limit, account: limit.account(scope, keys)? });
            }
        }
        Ok(())
    }

    /// Likewise, one by one: each with its account, or why it cannot be told whether it applies, or in which account it counts.
    pub fn every_matching<'p>(
        &'p self,
        scope: &Scope<'_>,
        keys: &KeyedHasher,
    ) -> impl Iterator<Item = (&'p Limit, Result<AccountKey, Denial>)> {
        self.candidates(scope).filter_map(|limit| match limit.applies(scope) {
            Ok(true) => Some((limit, limit.account(scope, keys))),
            Ok(false) => None,
            Err(denial) => Some((limit, Err(denial))),
        })
    }

    /// The limits that may apply, in the order of the policy.
    #[inline]
    fn candidates(&self, scope: &Scope<'_>) -> impl Iterator<Item = &Limit> + use<'_> {
        let mut candidates: SmallVec<[usize; 8]> = SmallVec::from_slice(&self.rest);
        for (path, by_text) in &self.index {
            match path.eval(scope) {
                // Anything but a text equals no text.
                Some(Ok(value)) => {
                    candidates
                        .extend(text_of(&value).and_then(|text| by_text.get(text)).into_iter().flatten().copied());
                }
                // A missing key does not match.
                Some(Err(EvalError::Missing(_))) => {}
                // The interpreter is asked, limit by limit.
                Some(Err(EvalError::Failed(_))) | None => candidates.extend(by_text.values().flatten().copied()),
            }
        }
        candidates.sort_unstable();
        candidates.into_iter().filter_map(|at| self.limits.get(at))
    }
}

fn text_of<'v>(value: &'v Val<'_>) -> Option<&'v str> {
    match value {
        Val::Text(text) => Some(text),
        Val::Json(value) => value.as_str(),
    }
}

impl Limit {
    fn applies(&self, scope: &Scope<'_>) -> Result<bool, Denial> {
        for predicate in &self.when {
            match predicate.eval_bool(scope) {
                Ok(true) => {}
                Ok(false) | Err(EvalError::Missing(_)) => return Ok(false),
                Err(error) => return Err(undecided(&format!("predicate of limit {}", self.name), &error)),
            }
        }
        Ok(true)
    }

    /// The values of the counters, for people. A credential is not shown.
    #[must_use]
    pub fn key(&self, scope: &Scope<'_>) -> Vec<String> {
        let is_secret = |reference: &Reference| match reference {
            Reference::Headers => true,
            Reference::Header(name) => ["authorization", "proxy-authorization", "cookie"].contains(&name.as_str()),
            _ => false,
        };
        let value = |counter: &Arc<Expression>| match counter.eval(scope) {
            _ if counter.references().iter().any(is_secret) => "(not shown)".to_owned(),
            Ok(value) => value.into_text().map_or_else(|| "(no text)".to_owned(), |text| text.into_owned()),
            Err(_) => "(no value)".to_owned(),
        };
        self.counters.iter().map(value).collect()
    }

    fn account(&self, scope: &Scope<'_>, keys: &KeyedHasher) -> Result<AccountKey, Denial> {
        if self.counters.is_empty() {
            // One account for everybody, of this limit alone: limits without counters share no lock.
            return Ok(AccountKey(keys.hash(&self.name)));
        }
        let mut values: SmallVec<[_; 2]> = SmallVec::new();
        for counter in &self.counters {
            let failed = |error| undecided(&format!("counter of limit {}", self.name), &error);
            let value = counter.eval(scope).map_err(failed)?;
            let text = value.into_text();
            values.push(text.ok_or_else(|| failed(EvalError::Failed("is not a text or number".to_owned())))?);
        }
        Ok(AccountKey(match values.as_slice() {
            [only] => keys.hash(only),
            several => keys.hash_list(several.iter().map(|value| &**value)),
        }))
    }
}
