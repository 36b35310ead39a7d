//! Kuadrant's AuthPolicy, the part of it that tiergate carries out.
//!
//! A rule that is not carried out is an error, and its target stays shut: skipping it could open the gate.

mod condition;
mod response;
mod rules;
mod tier_lookup;
mod value;

use std::sync::Arc;
use std::time::Duration;

use self::condition::{read_conditions, read_patterns, read_predicates};
use self::response::read_response;
use self::rules::{read_authentication, read_authorization, read_metadata};
use self::value::{read_expression, read_selector};
use super::target::{Block, read_block, read_target};
use super::{Meta, Shadow, Strategy, Target, annotation};
use crate::document::{Field, Fields, Key, Report, all};
use crate::expression::{Selector, View};
use crate::problem::{Finding, ObjectName, Place, Severity};
use crate::rules::{AuthRules, Condition, Rule};

/// An AuthPolicy. `rules` is `None` when it is in error.
#[derive(Clone, Debug)]
pub struct AuthPolicy {
    pub meta: Meta,
    pub target: Target,
    /// Where the target is named.
    pub target_place: Place,
    /// `None` if it could not be read.
    pub strategy: Option<Strategy>,
    pub rules: Option<Arc<AuthRules>>,
    /// Whether it only says what it would have refused.
    pub shadow: bool,
}

pub(super) fn read(meta: Meta, mut fields: Fields<'_>, report: &Report) -> AuthPolicy {
    let errors = report.errors();
    let mut policy = AuthPolicy::unreadable(meta, Target::Unknown);
    let spec = fields.require("spec", "targetRef and rules").and_then(|field| field.fields());
    fields.done(Severity::Error);
    if let Some(spec) = spec {
        policy.read_spec(spec);
    }
    policy.shadow = annotation::read_shadow(&policy.meta, report, None) == Shadow::Everything;
    policy.rules = policy.rules.filter(|_| policy.meta.usable && report.errors() == errors);
    policy
}

// === impl AuthPolicy ===

impl AuthPolicy {
    /// A policy for `target` of which nothing else is known.
    pub(super) fn unreadable(meta: Meta, target: Target) -> Self {
        AuthPolicy { target_place: meta.place.clone(), meta, target, strategy: None, rules: None, shadow: false }
    }

    fn read_spec(&mut self, mut spec: Fields<'_>) {
        let target = spec.require("targetRef", "the Gateway or HTTPRoute that is protected");
        (self.target, self.target_place) = read_target(target, &self.meta);
        let Some(mut block) = read_block(spec, &["rules", "when", "patterns"]) else { return };
        self.strategy = block.strategy;
        self.rules = read_block_rules(&mut block, &Arc::new(self.meta.object.clone())).map(Arc::new);
        block.done();
    }
}

/// The rules of a block, with what stands beside them.
fn read_block_rules(block: &mut Block<'_>, origin: &Arc<ObjectName>) -> Option<AuthRules> {
    let named = |field: Field<'_>| {
        let conditions = read_predicates(&field)?;
        Some(Arc::new(Rule::new("when", origin, field.place(), conditions)))
    };
    let when = block.fields.take("when").and_then(named);
    let patterns = block.fields.take("patterns").and_then(|field| read_patterns(&field, origin));
    let field = block.fields.require("rules", "authentication and authorization")?;
    let rules = read_rules(&field, origin)?;
    if block.strategy.is_some_and(|strategy| !strategy.merge) && rules.admit_everybody() {
        let problem = field.error("authenticates nobody and checks nothing, so everybody would be let in");
        let problem = problem.code(Finding::PolicyOpen).remedy("add authentication or authorization");
        field.report(problem.expected("kubernetesTokenReview; or `anonymous: {}`, if that is meant"));
    }
    Some(AuthRules { when, patterns: patterns.unwrap_or_default(), ..rules })
}

fn read_rules(field: &Field<'_>, origin: &Arc<ObjectName>) -> Option<AuthRules> {
    let mut fields = field.fields()?;
    let (authentication, metadata) = (fields.take("authentication"), fields.take("metadata"));
    let (authorization, response) = (fields.take("authorization"), fields.take("response"));
    if let Some(callbacks) = fields.take("callbacks") {
        callbacks.unsupported("`callbacks`", "remove it");
    }
    fields.done(Severity::Error);
    // All are read, whatever is wrong with those before: what is not read is not told.
    let mut rules = AuthRules { metadata_place: metadata.as_ref().map(Field::place), ..AuthRules::default() };
    let authentication = read_block_of(authentication, origin, View::Request, read_authentication);
    let metadata = read_block_of(metadata, origin, View::Caller, read_metadata);
    let authorization = read_block_of(authorization, origin, View::Caller, read_authorization);
    if let Some(field) = response {
        read_response(&field, origin, &mut rules);
    }
    (rules.authentication, rules.metadata, rules.authorization) = (authentication?, metadata?, authorization?);
    Some(rules)
}

/// A block of rules, in the order of their priorities; empty if it is not there.
fn read_block_of<T>(
    field: Option<Field<'_>>,
    origin: &Arc<ObjectName>,
    view: View,
    read: fn(Entry<'_, '_>) -> Option<T>,
) -> Option<Vec<Arc<Rule<T>>>> {
    let mut rules = field.map_or(Some(Vec::new()), |field| read_named(&field, origin, view, read))?;
    rules.sort_by_key(|rule| rule.priority);
    Some(rules)
}

/// A rule that is being read, without the fields that every rule has.
struct Entry<'e, 'a> {
    name: &'e str,
    field: &'e Field<'a>,
    fields: Fields<'a>,
    /// The longest that what the rule learns may be remembered.
    ttl: Option<Duration>,
}

/// The entries of a block of named rules, whose conditions look from `view`.
fn read_named<T>(
    field: &Field<'_>,
    origin: &Arc<ObjectName>,
    view: View,
    read: fn(Entry<'_, '_>) -> Option<T>,
) -> Option<Vec<Arc<Rule<T>>>> {
    all(&field.entries()?, |(Key { name, .. }, field)| {
        let mut fields = field.fields()?;
        let Common { when, priority, ttl } = read_common(&mut fields, view);
        let what = read(Entry { name, field, fields, ttl })?;
        Some(Arc::new(Rule { when, priority, ..Rule::new(name, origin, field.place(), what) }))
    })
}

/// What every rule has.
#[derive(Default)]
struct Common {
    when: Vec<Condition>,
    priority: i64,
    ttl: Option<Duration>,
}

/// What Authorino takes where a `cache` has no `ttl`.
const DEFAULT_TTL: Duration = Duration::from_secs(60);

/// Reads the fields that every rule has. The keys of a `cache` are read and not used: what is remembered here is remembered by
/// keys of our own, which never take two callers for one.
fn read_common(fields: &mut Fields<'_>, view: View) -> Common {
    fields.ignore(&["metrics"]);
    Common {
        priority: fields.take("priority").and_then(|field| field.integer()).unwrap_or_default(),
        when: fields.take("when").and_then(|field| read_conditions(&field, view)).unwrap_or_default(),
        ttl: fields.take("cache").and_then(|field| read_cache(&field)),
    }
}

fn read_cache(field: &Field<'_>) -> Option<Duration> {
    let mut fields = field.fields()?;
    let key = fields.require("key", "what tells entries apart").and_then(|field| field.fields());
    let ttl = fields.take("ttl").and_then(|field| field.integer().map(|seconds| (field, seconds)));
    fields.done(Severity::Error);
    let ttl = ttl.map_or(Some(DEFAULT_TTL), |(field, seconds)| read_seconds(&field, seconds));
    read_cache_key(key?);
    ttl
}

fn read_seconds(field: &Field<'_>, seconds: i64) -> Option<Duration> {
    match u64::try_from(seconds) {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => field.invalid(format!("{seconds} is negative"), "seconds"),
    }
}

fn read_cache_key(mut key: Fields<'_>) {
    if let Some(expression) = key.take("expression") {
        let _ = read_expression(&expression, View::Caller);
    }
    if let Some(selector) = key.take("selector")
        && let Some(text) = read_selector(&selector, View::Caller).as_ref().map(Selector::source)
        && text.contains("authorization")
        && text.contains("@case:")
    {
        let problem = selector.warning(format!("`{text}` would take two tokens that differ only in case for one"));
        let problem = problem.code(Finding::CacheKeyUnsafe);
        let remedy = "none is needed: here an identity is remembered by the whole token, and `ttl` is an upper bound";
        selector.report(problem.remedy(remedy));
    }
    key.ignore(&["value"]);
    key.done(Severity::Error);
}
