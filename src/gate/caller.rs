//! A caller as the rules of an AuthPolicy see it, and what the rules have in common.
//!
//! Two identities, as in Kuadrant: here `auth.identity` is the reviewed user with `defaults`; to the limits it is what
//! `response.success.filters.identity` declares.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use serde_json::{Value, json};
use smallvec::SmallVec;

use crate::denial::{Class, Code, Denial, DenyWith};
use crate::expression::{Object, Scope, Val, undecided};
use crate::identity::Identity;
use crate::request::Attributes;
use crate::rules::{AuthRules, Authentication, Condition, DenyWithSpec, Rule, ValueSource};

/// A caller that was authenticated, with its defaults and the facts about it.
#[derive(Debug)]
pub struct Caller<'a> {
    pub(super) object: Cow<'a, Value>,
    /// `defaults` and `overrides`.
    pub(super) properties: Vec<(Arc<str>, Val<'a>)>,
    pub(super) groups: &'a [String],
    /// Whose token was reviewed.
    pub(super) reviewed: Option<&'a Identity>,
    pub(super) metadata: SmallVec<[(Arc<str>, Val<'a>); 1]>,
    pub tier: Option<Arc<str>>,
    /// The tier that the caller's namespace is named for, if it is no longer configured.
    pub gone: Option<Arc<str>>,
    /// Whether a look-up found no tier.
    pub(super) without_tier: bool,
    /// The rule that accepted it.
    pub rule: Option<&'a Rule<Authentication>>,
    pub(super) request: Attributes<'a>,
}

static ANONYMOUS: LazyLock<Value> = LazyLock::new(|| json!({ "anonymous": true }));

// === impl Caller ===

impl<'a> Caller<'a> {
    pub(super) fn new(object: Cow<'a, Value>, groups: &'a [String], request: Attributes<'a>) -> Self {
        Caller {
            object,
            properties: Vec::new(),
            groups,
            reviewed: None,
            metadata: SmallVec::new(),
            tier: None,
            gone: None,
            without_tier: false,
            rule: None,
            request,
        }
    }

    pub(super) fn anonymous(request: Attributes<'a>) -> Self {
        Caller::new(Cow::Borrowed(&ANONYMOUS), &[], request)
    }

    /// What the rules see from here on.
    pub(super) fn scope(&self) -> Scope<'_> {
        Scope {
            request: self.request,
            identity: Some(Object { base: Some(&self.object), extra: &self.properties }),
            metadata: &self.metadata,
            filters: &[],
        }
    }
}

/// Whether the policy has anything to say about a request.
///
/// # Errors
///
/// Its `when` has no answer.
pub(super) fn applies(rules: &AuthRules, request: Attributes<'_>) -> Result<bool, Denial> {
    match &rules.when {
        None => Ok(true),
        Some(when) => holds(rules, "when", &when.what, &Scope { request, ..Scope::default() }),
    }
}

/// Whether all `conditions` of the rule `name` hold.
///
/// # Errors
///
/// One of them has no answer.
pub(super) fn holds(
    rules: &AuthRules,
    name: &str,
    conditions: &[Condition],
    scope: &Scope<'_>,
) -> Result<bool, Denial> {
    if conditions.is_empty() {
        return Ok(true);
    }
    let holds = Condition::all(conditions, scope, &rules.patterns);
    holds.map_err(|error| undecided(&format!("a condition of `{name}`"), &error))
}

/// A refusal in the policy's own words, where it has any. What of them has no value is left out.
pub(super) fn in_its_words(rules: &AuthRules, denial: Denial, scope: &Scope<'_>) -> Denial {
    let telling = match denial.code.class() {
        Class::Unauthenticated => &rules.unauthenticated,
        Class::Forbidden => &rules.unauthorized,
        _ => return denial,
    };
    let Some(telling) = telling else { return denial };
    let DenyWithSpec { code, message, headers, body } = &telling.what;
    let text = |source: &ValueSource| Some(header_text(&source.eval(scope).ok()?));
    let header = |(name, source): &(String, ValueSource)| Some((name.clone(), text(source).filter(|v| fits(v))?));
    let deny_with = DenyWith {
        status: *code,
        reason: message.as_ref().and_then(text).filter(|reason| fits(reason)),
        headers: headers.iter().filter_map(header).collect(),
        body: body.as_ref().and_then(text),
    };
    Denial { deny_with: Some(Box::new(deny_with)), ..denial }
}

/// The refusal of a caller without a tier.
pub(super) fn no_tier(rules: &AuthRules, caller: &Caller<'_>) -> Denial {
    let groups = caller.groups.join(", ");
    let denial = match &caller.gone {
        Some(tier) => Denial::new(Code::TierGone, format!("your tier `{tier}` is no longer configured"))
            .detail(format!("tier `{tier}` is not in the tier mapping; the caller's groups are {groups}")),
        None => Denial::new(Code::TierNone, "the caller belongs to no tier")
            .detail(format!("no tier has any of the groups {groups}")),
    };
    in_its_words(rules, denial, &caller.scope())
}

/// A value as text; lists and mappings as JSON.
pub(super) fn header_text(value: &Val<'_>) -> String {
    match value.clone().into_text() {
        Some(text) => text.into_owned(),
        None => value.to_json().to_string(),
    }
}

/// RFC 9110, section 5.5: what a header's value may hold.
pub(super) fn fits(value: &str) -> bool {
    value.bytes().all(|b| b == b'\t' || (b >= b' ' && b != 0x7f))
}
