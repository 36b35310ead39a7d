//! What an AuthPolicy does with a caller: names it, finds facts about it, checks its access, presents it to the limits.
//!
//! Two identities, as in Kuadrant: here `auth.identity` is the reviewed user with `defaults`; to the limits it is what
//! `response.success.filters.identity` declares.

mod access;
mod condition;
mod facts;
mod hostless;
mod present;
mod references;
mod rules;

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use serde_json::{Value, json};
use smallvec::SmallVec;

pub use self::access::{Permit, Refused};
pub use self::condition::{Condition, Operator, Pattern, Patterns};
pub(super) use self::hostless::Hostless;
pub use self::present::Presented;
pub use self::rules::{
    AccessRule, AuthRules, Authentication, Authorization, Item, Method, Rule, Shape, Telling, TierLookup,
};

use self::present::{fits, header_text};
use super::{host_name, undecided};
use crate::access::{Query, Verdict};
use crate::denial::{Class, Code, Denial, DenyWith};
use crate::expression::{EvalError, Expression, Object, Properties, Scope, Selector, Val};
use crate::identity::Identity;
use crate::request::{Attributes, OperatorModel};

/// Where a value comes from.
#[derive(Debug)]
pub enum ValueSource {
    Constant(Value),
    Expression(Expression),
    /// Null, where it leads nowhere, is taken for missing: an attribute made of nothing could mean every one.
    Selector(Selector),
}

/// A caller that was authenticated, with its defaults and the facts about it.
#[derive(Debug)]
pub struct Caller<'a> {
    object: Cow<'a, Value>,
    /// `defaults` and `overrides`.
    properties: Vec<(Arc<str>, Val<'a>)>,
    groups: &'a [String],
    /// Whose token was reviewed.
    reviewed: Option<&'a Identity>,
    metadata: SmallVec<[(Arc<str>, Val<'a>); 1]>,
    pub tier: Option<Arc<str>>,
    /// The tier that the caller's namespace is named for, if it is no longer configured.
    pub gone: Option<Arc<str>>,
    /// Whether a look-up found no tier.
    without_tier: bool,
    /// The rule that accepted it.
    pub rule: Option<&'a Rule<Authentication>>,
    request: Attributes<'a>,
}

static ANONYMOUS: LazyLock<Value> = LazyLock::new(|| json!({ "anonymous": true }));

// === impl AuthRules ===

impl AuthRules {
    /// Whether the policy has anything to say about a request.
    ///
    /// # Errors
    ///
    /// Its `when` has no answer.
    pub fn applies(&self, request: Attributes<'_>) -> Result<bool, Denial> {
        match &self.when {
            None => Ok(true),
            Some(when) => self.holds("when", &when.what, &Scope { request, ..Scope::default() }),
        }
    }

    /// Names the caller, by the first way that accepts it; `None` where that takes what a review of its token says.
    ///
    /// # Errors
    ///
    /// None does: there is no token, it is for another audience, or is of a kind that the defaults cannot name.
    pub fn identify<'a>(
        &'a self,
        reviewed: Option<&'a Result<Arc<Identity>, Denial>>,
        request: Attributes<'a>,
    ) -> Result<Option<Caller<'a>>, Denial> {
        let scope = Scope { request, ..Scope::default() };
        if self.authentication.is_empty() {
            return Ok(Some(Caller::new(Cow::Borrowed(&*ANONYMOUS), &[], request)));
        }
        let mut refused = None;
        for rule in &self.authentication {
            if !self.holds(&rule.name, &rule.when, &scope)? {
                continue;
            }
            let caller = match (&rule.what.method, reviewed) {
                (Method::TokenReview { .. }, None) => return Ok(None),
                (Method::TokenReview { .. }, Some(Err(denial))) => Err(denial.clone()),
                (Method::TokenReview { audiences }, Some(Ok(identity))) => self.accept(audiences, identity, request),
                (Method::Anonymous, _) => Ok(Caller::new(Cow::Borrowed(&*ANONYMOUS), &[], request)),
                (Method::Plain(source), _) => plain(source, &scope),
            };
            match caller.and_then(|caller| rule.what.complete(caller)) {
                Ok(caller) => return Ok(Some(Caller { rule: Some(rule), ..caller })),
                // "I could not tell" is no reason to try whether the caller passes as somebody else.
                Err(denial) if denial.code.class() == Class::Undecided => return Err(denial),
                Err(denial) => drop(refused.get_or_insert(denial)),
            }
        }
        let none = || Denial::new(Code::TokenMissing, "no way to authenticate applies to this request");
        Err(self.tell(refused.unwrap_or_else(none), &scope))
    }

    /// Accepts `identity` for one of `audiences`.
    fn accept<'a>(
        &self,
        audiences: &[String],
        identity: &'a Identity,
        request: Attributes<'a>,
    ) -> Result<Caller<'a>, Denial> {
        let is_for = |audience: &str| identity.audiences.iter().any(|own| own == audience);
        let accepted = match audiences {
            [] => is_for(&host_name(request.host)),
            audiences => audiences.iter().any(|audience| is_for(audience)),
        };
        if accepted {
            let caller = Caller::new(Cow::Borrowed(&identity.object), &identity.groups, request);
            return Ok(Caller { reviewed: Some(identity), ..caller });
        }
        Err(self.other_audience(&identity.audiences, request.host))
    }

    /// The audiences that tokens may be for. Without any it is the host, which a listener or route spells out.
    pub fn audiences<'a>(&'a self, host: &'a str) -> impl Iterator<Item = Cow<'a, str>> {
        self.authentication.iter().flat_map(move |rule| {
            let (audiences, host) = match &rule.what.method {
                Method::TokenReview { audiences } if audiences.is_empty() => (&[][..], Some(host)),
                Method::TokenReview { audiences } => (audiences.as_slice(), None),
                Method::Anonymous | Method::Plain(_) => (&[][..], None),
            };
            audiences.iter().map(|audience| Cow::Borrowed(audience.as_str())).chain(host.map(host_name))
        })
    }

    /// Whether a token for `audiences` is good for anything here.
    ///
    /// # Errors
    ///
    /// It is for others.
    pub fn accept_any(&self, audiences: &[String], host: &str) -> Result<(), Denial> {
        match self.audiences(host).any(|wanted| audiences.iter().any(|own| **own == *wanted)) {
            true => Ok(()),
            false => Err(self.other_audience(audiences, host)),
        }
    }

    fn other_audience(&self, audiences: &[String], host: &str) -> Denial {
        let wanted: Vec<_> = self.audiences(host).collect();
        let detail = format!("the token is for {}, the policy wants {}", audiences.join(", "), wanted.join(", "));
        Denial::new(Code::TokenAudience, "the token is for another audience").detail(detail)
    }

    /// Checks every rule of authorization, and says in `permit` what they were about. What a caller may do is for `ask` to say.
    ///
    /// # Errors
    ///
    /// One does not hold, nothing grants the caller this model, or the path names none.
    pub fn permit<E: From<Denial>>(
        &self,
        caller: &Caller<'_>,
        operator: OperatorModel<'_>,
        permit: &mut Permit,
        mut ask: impl FnMut(&Query<'_>) -> Result<Verdict, E>,
    ) -> Result<(), E> {
        let scope = caller.scope();
        for rule in &self.authorization {
            let permitted = self.permit_by(rule, &scope, operator, permit, &mut ask)?;
            permitted.map_err(|denial| self.tell(caller.explain(denial), &scope))?;
        }
        Ok(())
    }

    fn permit_by<E: From<Denial>>(
        &self,
        rule: &Rule<Authorization>,
        scope: &Scope<'_>,
        operator: OperatorModel<'_>,
        permit: &mut Permit,
        ask: &mut impl FnMut(&Query<'_>) -> Result<Verdict, E>,
    ) -> Result<Result<(), Denial>, E> {
        match self.holds(&rule.name, &rule.when, scope) {
            Ok(true) => {}
            Ok(false) => return Ok(Ok(())),
            Err(denial) => return Ok(Err(denial)),
        }
        match &rule.what {
            Authorization::Access(access) => {
                *permit = Permit::default();
                access.permit(&rule.name, scope, operator, permit, ask)
            }
            Authorization::Patterns(conditions) => Ok(self.holds(&rule.name, conditions, scope).and_then(|holds| {
                let denial = || {
                    let denial = Denial::new(Code::AccessRule, "a rule of this route's policy does not let you in");
                    denial.detail(format!("authorization `{}` of {} does not hold", rule.name, rule.origin))
                };
                holds.then_some(()).ok_or_else(denial)
            })),
        }
    }

    /// Builds what the response declares.
    ///
    /// # Errors
    ///
    /// A property has no value: because the caller has no tier, or because the policy is wrong.
    pub fn present<'a>(&'a self, caller: &'a Caller<'_>) -> Result<Presented<'a>, Denial> {
        let scope = caller.scope();
        let no_value = |name: &str, error: &EvalError| {
            let no_tier = caller.tier.is_none() && !self.metadata.is_empty();
            match error {
                EvalError::Missing(_) if no_tier => self.no_tier(caller),
                error => undecided(&format!("response property `{name}`"), error),
            }
        };
        let mut presented = Presented::default();
        for rule in &self.filters {
            // Of two of one key the first one counts, here as wherever it is looked up.
            if presented.filters.iter().any(|(name, _)| *name == rule.what.name) {
                continue;
            }
            if !self.holds(&rule.name, &rule.when, &scope)? {
                continue;
            }
            let properties = match &rule.what.shape {
                Shape::Object(properties) => {
                    let eval = |(name, source): &'a (Arc<str>, ValueSource)| match source.eval(&scope) {
                        Ok(value) => Ok((Arc::clone(name), value)),
                        Err(error) => Err(no_value(name, &error)),
                    };
                    Properties::Object(properties.iter().map(eval).collect::<Result<_, _>>()?)
                }
                Shape::Plain(source) => {
                    Properties::Value(source.eval(&scope).map_err(|error| no_value(&rule.what.name, &error))?.to_json())
                }
            };
            presented.filters.push((Arc::clone(&rule.what.name), properties));
        }
        for rule in &self.headers {
            if presented.headers.iter().any(|(name, _)| **name == *rule.what.name) {
                continue;
            }
            if !self.holds(&rule.name, &rule.when, &scope)? {
                continue;
            }
            let value = rule.what.shape.to_header(&scope).map_err(|error| no_value(&rule.what.name, &error))?;
            presented.headers.push((rule.what.name.to_string(), value));
        }
        Ok(presented)
    }

    fn holds(&self, name: &str, conditions: &[Condition], scope: &Scope<'_>) -> Result<bool, Denial> {
        if conditions.is_empty() {
            return Ok(true);
        }
        let holds = Condition::all(conditions, scope, &self.patterns);
        holds.map_err(|error| undecided(&format!("a condition of `{name}`"), &error))
    }

    /// A refusal in the policy's own words, where it has any. What of them has no value is left out.
    fn tell(&self, denial: Denial, scope: &Scope<'_>) -> Denial {
        let telling = match denial.code.class() {
            Class::Unauthenticated => &self.unauthenticated,
            Class::Forbidden => &self.unauthorized,
            _ => return denial,
        };
        let Some(telling) = telling else { return denial };
        let Telling { code, message, headers, body } = &telling.what;
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
}

/// The identity that something before us has found out.
fn plain<'a>(source: &'a ValueSource, scope: &Scope<'a>) -> Result<Caller<'a>, Denial> {
    let value = match source.eval(scope) {
        Ok(value) => value.to_json(),
        Err(EvalError::Missing(_)) => Value::Null,
        Err(error) => return Err(undecided("a plain identity", &error)),
    };
    match value {
        Value::Null => Err(Denial::new(Code::TokenMissing, "the request says nothing of who you are")),
        value => Ok(Caller::new(Cow::Owned(value), &[], scope.request)),
    }
}

// === impl Caller ===

impl<'a> Caller<'a> {
    fn new(object: Cow<'a, Value>, groups: &'a [String], request: Attributes<'a>) -> Self {
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

    /// Whose token was reviewed.
    #[must_use]
    pub fn reviewed(&self) -> Option<&'a Identity> {
        self.reviewed
    }

    fn scope(&self) -> Scope<'_> {
        Scope {
            request: self.request,
            identity: Some(Object { base: Some(&self.object), extra: &self.properties }),
            metadata: &self.metadata,
            filters: &[],
        }
    }
}

// === impl Authentication ===

impl Authentication {
    /// Adds `defaults` and `overrides`.
    fn complete<'a>(&'a self, mut caller: Caller<'a>) -> Result<Caller<'a>, Denial> {
        if self.defaults.is_empty() && self.overrides.is_empty() {
            return Ok(caller);
        }
        caller.properties = match &caller.object {
            Cow::Borrowed(object) => self.properties(object, caller.request)?,
            Cow::Owned(object) => {
                let properties = self.properties(object, caller.request)?.into_iter();
                properties.map(|(name, value)| (name, value.into_owned())).collect()
            }
        };
        Ok(caller)
    }

    /// They see the identity as it was found, not each other: their order would be chance.
    fn properties<'v>(
        &'v self,
        object: &'v Value,
        request: Attributes<'v>,
    ) -> Result<Vec<(Arc<str>, Val<'v>)>, Denial> {
        if !object.is_object() {
            return Err(undecided("defaults", &EvalError::Failed("the identity has no properties".to_owned())));
        }
        let identity = Some(Object { base: Some(object), extra: &[] });
        let scope = Scope { request, identity, ..Scope::default() };
        // Without adapters: every request with a token comes by.
        let mut properties = Vec::with_capacity(self.overrides.len() + self.defaults.len());
        for (name, source) in &self.overrides {
            properties.push((Arc::clone(name), property(name, source, object, &scope)?));
        }
        for (name, source) in &self.defaults {
            let overridden = self.overrides.iter().any(|(other, _)| other == name);
            if !overridden && object.get(&**name).is_none() {
                properties.push((Arc::clone(name), property(name, source, object, &scope)?));
            }
        }
        Ok(properties)
    }
}

fn property<'v>(name: &str, source: &'v ValueSource, object: &Value, scope: &Scope<'v>) -> Result<Val<'v>, Denial> {
    source.eval(scope).map_err(|error| match error {
        EvalError::Missing(_) => {
            let user = object.pointer("/user/username").and_then(Value::as_str).unwrap_or_default();
            let denial = Denial::new(Code::TokenRejected, "the token is not of a known kind of user");
            denial.detail(format!("`{name}` has no value for user `{user}`"))
        }
        error @ EvalError::Failed(_) => undecided(&format!("identity property `{name}`"), &error),
    })
}

// === impl ValueSource ===

impl ValueSource {
    /// The value.
    ///
    /// # Errors
    ///
    /// See [`EvalError`].
    pub fn eval<'a>(&'a self, scope: &Scope<'a>) -> Result<Val<'a>, EvalError> {
        match self {
            ValueSource::Constant(value) => Ok(Val::Json(Cow::Borrowed(value))),
            ValueSource::Expression(expression) => expression.eval(scope),
            ValueSource::Selector(selector) => match selector.eval(scope)? {
                Val::Json(value) if value.is_null() => Err(EvalError::Missing(format!("`{}`", selector.source()))),
                value => Ok(value),
            },
        }
    }
}
