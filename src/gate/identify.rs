//! Who calls: by the first rule of authentication that accepts the caller.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::Value;

use super::Deciding;
use super::caller::{Caller, holds, in_its_words};
use crate::denial::{Class, Code, Denial};
use crate::expression::{EvalError, Object, Scope, Val, undecided};
use crate::identity::{Credentials, Identity, other_audience};
use crate::request::{Attributes, Request, Unset};
use crate::rules::{AuthRules, Authentication, Method, Reviewer, ValueSource};

/// What the review of a token said.
type Reviewed = Result<Arc<Identity>, Denial>;

/// What was said of a request's token, by one reviewer after another. The caller borrows from it.
#[derive(Debug, Default)]
pub(super) struct Reviews {
    said: Option<Reviewed>,
    /// By the reviewer that was asked next. Few policies name a second one, so there is room for it only when it was asked.
    next: Option<Box<Reviews>>,
}

/// The reviews of a request's token, while rules are tried.
struct Asking<'c> {
    /// Where a review is put: the first one, and the next one after it.
    first: Option<&'c mut Option<Reviewed>>,
    next: Option<&'c mut Option<Box<Reviews>>>,
    /// The last review, and who made it.
    last: Option<(&'c Reviewer, &'c Reviewed)>,
}

// === impl Deciding ===

impl Deciding<'_> {
    /// Names the caller, by the first way that accepts it. What reviews of its token say, where any are asked for, is put into
    /// `reviews`, which the caller borrows from.
    ///
    /// # Errors
    ///
    /// None does: there is no token, it is for another audience, or is of a kind that the defaults cannot name.
    pub(super) async fn identify<'c>(
        &mut self,
        rules: &'c AuthRules,
        request: &'c Request<'_>,
        reviews: &'c mut Reviews,
    ) -> Result<Caller<'c>, Denial> {
        let attributes = request.attributes(Unset::Absent);
        if rules.authentication.is_empty() {
            return Ok(Caller::anonymous(attributes));
        }
        let scope = Scope { request: attributes, ..Scope::default() };
        let (mut asking, mut refused) = (Asking::new(reviews), None);
        for rule in &rules.authentication {
            if !holds(rules, &rule.name, &rule.when, &scope)? {
                continue;
            }
            let method = &rule.what.method;
            let named = match method {
                Method::Token { reviewer, .. } => {
                    // Once, however many rules look at it one after another.
                    let said = match asking.said_by(reviewer) {
                        None => asking.keep(reviewer, self.review(reviewer, rules, request).await),
                        said => said,
                    };
                    accept(rules, method, reviewer, said, attributes)
                }
                Method::Anonymous => Ok(Caller::anonymous(attributes)),
                Method::Plain(source) => plain(source, &scope),
            };
            match named.and_then(|caller| complete(&rule.what, caller)) {
                Ok(caller) => return Ok(Caller { rule: Some(rule), ..caller }),
                // "I could not tell" is no reason to try whether the caller passes as somebody else.
                Err(denial) if denial.code.class() == Class::Undecided => return Err(denial),
                Err(denial) => drop(refused.get_or_insert(denial)),
            }
        }
        let none = || Denial::new(Code::TokenMissing, "no way to authenticate applies to this request");
        Err(in_its_words(rules, refused.unwrap_or_else(none), &scope))
    }

    /// The identity behind the request's token, as `reviewer` says and as long as its ServiceAccount is there.
    async fn review(&mut self, reviewer: &Reviewer, rules: &AuthRules, request: &Request<'_>) -> Reviewed {
        let identities = &self.gate.identities;
        let token = request.bearer()?;
        let credentials = Credentials { token, reviewer, rules, host: request.host, peer: request.peer };
        let answer = match identities.recall(&credentials, self.now) {
            Some(answer) => answer,
            None => {
                let until = self.until();
                identities.review(&credentials, &self.policy.accounts, self.now, until).await
            }
        };
        self.evidence.identity_source = Some(answer.source);
        let identity = answer.value?;
        self.evidence.identity(&identity);
        match &identity.service_account {
            Some(account) => account.check(&self.policy.accounts, identities.vouched_for(reviewer)).map(|()| identity),
            None => Ok(identity),
        }
    }
}

// === impl Asking ===

impl<'c> Asking<'c> {
    fn new(Reviews { said, next }: &'c mut Reviews) -> Self {
        Asking { first: Some(said), next: Some(next), last: None }
    }

    /// What `reviewer` has said, if it was asked last.
    fn said_by(&self, reviewer: &Reviewer) -> Option<&'c Reviewed> {
        self.last.filter(|(last, _)| *last == reviewer).map(|(_, said)| said)
    }

    /// Keeps what `reviewer` says, beside what others have said.
    fn keep(&mut self, reviewer: &'c Reviewer, reviewed: Reviewed) -> Option<&'c Reviewed> {
        let room = match self.first.take() {
            Some(first) => first,
            None => {
                let Reviews { said, next } = &mut **self.next.take()?.insert(Box::default());
                self.next = Some(next);
                said
            }
        };
        let said = &*room.insert(reviewed);
        self.last = Some((reviewer, said));
        Some(said)
    }
}

/// Accepts who was reviewed by `reviewer`, where the token is for an audience that `method` names.
fn accept<'a>(
    rules: &AuthRules,
    method: &Method,
    reviewer: &Reviewer,
    said: Option<&'a Reviewed>,
    request: Attributes<'a>,
) -> Result<Caller<'a>, Denial> {
    let identity = match said {
        Some(Ok(identity)) => identity,
        Some(Err(denial)) => return Err(denial.clone()),
        None => return Err(Denial::new(Code::UnavailableInternal, "the token was reviewed to no end")),
    };
    let mut wanted = method.audiences(reviewer, request.host);
    if wanted.any(|audience| identity.audiences.iter().any(|own| **own == *audience)) {
        let caller = Caller::new(Cow::Borrowed(&identity.object), &identity.groups, request);
        return Ok(Caller { reviewed: Some(identity), ..caller });
    }
    Err(other_audience(rules.audiences(reviewer, request.host), &identity.audiences))
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

/// Adds `defaults` and `overrides`.
fn complete<'a>(how: &'a Authentication, mut caller: Caller<'a>) -> Result<Caller<'a>, Denial> {
    if how.defaults.is_empty() && how.overrides.is_empty() {
        return Ok(caller);
    }
    caller.properties = match &caller.object {
        Cow::Borrowed(object) => properties(how, object, caller.request)?,
        Cow::Owned(object) => {
            let properties = properties(how, object, caller.request)?.into_iter();
            properties.map(|(name, value)| (name, value.into_owned())).collect()
        }
    };
    Ok(caller)
}

/// They see the identity as it was found, not each other: their order would be chance.
fn properties<'v>(
    how: &'v Authentication,
    object: &'v Value,
    request: Attributes<'v>,
) -> Result<Vec<(Arc<str>, Val<'v>)>, Denial> {
    if !object.is_object() {
        return Err(undecided("defaults", &EvalError::Failed("the identity has no properties".to_owned())));
    }
    let identity = Some(Object { base: Some(object), extra: &[] });
    let scope = Scope { request, identity, ..Scope::default() };
    // Without adapters: every request with a token comes by.
    let mut properties = Vec::with_capacity(how.overrides.len() + how.defaults.len());
    for (name, source) in &how.overrides {
        properties.push((Arc::clone(name), property(name, source, object, &scope)?));
    }
    for (name, source) in &how.defaults {
        let overridden = how.overrides.iter().any(|(other, _)| other == name);
        if !overridden && object.get(&**name).is_none() {
            properties.push((Arc::clone(name), property(name, source, object, &scope)?));
        }
    }
    Ok(properties)
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
