//! What an AuthPolicy does with a caller: names it, finds facts about it, checks its access, presents it to the limits.
//!
//! Two identities, as in Kuadrant: here `auth.identity` is the reviewed user with `defaults`; to the limits it is what
//! `response.success.filters.identity` declares.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use serde_json::Value;
use smallvec::SmallVec;

use super::expression::{Attributes, Direct, EvalError, Expression, Object, Scope, Val};
use super::{Tiers, undecided};
use crate::access::{Grantor, Query, Rbac};
use crate::gate::{Code, Denial};
use crate::identity::Identity;
use crate::manifest::Place;
use crate::request::{self, OperatorModel};
use crate::tier::Tier;

/// The rules of one AuthPolicy, compiled.
#[derive(Debug, Default)]
pub struct AuthRules {
    pub authentication: Vec<Authentication>,
    pub tier_lookups: Vec<TierLookup>,
    /// Where the lookups are written.
    pub metadata_place: Option<Place>,
    pub access: Vec<AccessRule>,
    /// Dynamic metadata of an admitted request.
    pub filters: Vec<Filter>,
    /// Headers that the model receives.
    pub headers: Vec<RequestHeader>,
}

/// `kubernetesTokenReview`
#[derive(Debug)]
pub struct Authentication {
    pub name: String,
    /// Empty: the request's host, as in Authorino.
    pub audiences: Vec<String>,
    pub defaults: Vec<(Arc<str>, ValueSource)>,
}

/// `metadata.http` of `/v1/tiers/lookup`
#[derive(Debug)]
pub struct TierLookup {
    pub name: Arc<str>,
    /// Yields `{"groups": […]}`.
    pub body: ValueSource,
}

/// `kubernetesSubjectAccessReview`
#[derive(Debug)]
pub struct AccessRule {
    pub name: String,
    pub user: ValueSource,
    pub groups: Option<ValueSource>,
    pub verb: ValueSource,
    pub group: ValueSource,
    pub resource: ValueSource,
    pub subresource: ValueSource,
    pub namespace: ValueSource,
    pub model: ValueSource,
}

/// An entry of `response.success.filters`: one object of the dynamic metadata.
#[derive(Debug)]
pub struct Filter {
    pub name: Arc<str>,
    pub shape: Shape,
}

/// An entry of `response.success.headers`.
#[derive(Debug)]
pub struct RequestHeader {
    /// Lower case.
    pub name: String,
    pub shape: Shape,
}

/// `json` or `plain`
#[derive(Debug)]
pub enum Shape {
    Object(Vec<(Arc<str>, ValueSource)>),
    Plain(ValueSource),
}

/// Where a value comes from.
#[derive(Debug)]
pub enum ValueSource {
    Constant(Value),
    Expression(Expression),
}

/// A caller that was authenticated, with its defaults and the facts about it.
#[derive(Debug)]
pub struct Caller<'a> {
    identity: &'a Identity,
    defaults: Vec<(Arc<str>, Val<'a>)>,
    metadata: SmallVec<[(Arc<str>, &'a Value); 1]>,
    pub tier: Option<&'a Tier>,
    request: Attributes<'a>,
}

/// A model that the caller may call, and what says so.
#[derive(Clone, Debug, Default)]
pub struct Permit {
    /// `namespace/name`
    pub model: Option<String>,
    pub grantor: Option<Grantor>,
}

/// What an admitted caller is presented as.
#[derive(Debug, Default)]
pub struct Presented<'a> {
    pub filters: Vec<(Arc<str>, Properties<'a>)>,
    pub headers: Vec<(String, String)>,
}

/// The value of a filter.
#[derive(Debug)]
pub enum Properties<'a> {
    Object(Vec<(Arc<str>, Val<'a>)>),
    Value(Value),
}

static NO_TIER: LazyLock<Value> = LazyLock::new(|| Value::Object(serde_json::Map::new()));

// === impl AuthRules ===

impl AuthRules {
    /// Accepts `identity` for one of the audiences, and adds its defaults.
    ///
    /// # Errors
    ///
    /// The token is for another audience, or is of a kind that the defaults cannot name.
    pub fn identify<'a>(&'a self, identity: &'a Identity, request: Attributes<'a>) -> Result<Caller<'a>, Denial> {
        let accepted = self.authentication.iter().find(|authentication| {
            let audiences = &authentication.audiences;
            let is_for = |audience: &str| identity.audiences.iter().any(|own| own == audience);
            if audiences.is_empty() { is_for(request.host) } else { audiences.iter().any(|a| is_for(a)) }
        });
        let Some(accepted) = accepted else {
            let wanted: Vec<_> = self.authentication.iter().flat_map(|a| &a.audiences).map(String::as_str).collect();
            let detail =
                format!("the token is for {}, the policy wants {}", identity.audiences.join(", "), wanted.join(", "));
            return Err(Denial::new(Code::TokenAudience, "the token is for another audience").detail(detail));
        };
        // Defaults see the reviewed user, not each other: their order would be chance.
        let reviewed = Object { base: Some(&identity.object), extra: &[] };
        let scope = Scope { request, identity: Some(reviewed), metadata: &[] };
        let mut caller = Caller { identity, defaults: Vec::new(), metadata: SmallVec::new(), tier: None, request };
        for (name, source) in &accepted.defaults {
            // `defaults` only fill in what is not there.
            if identity.object.get(&**name).is_some() {
                continue;
            }
            let value = match source.eval(&scope) {
                Ok(value) => value,
                Err(EvalError::Missing(_)) => {
                    let detail = format!("defaults.{name} has no value for user `{}`", identity.user);
                    return Err(
                        Denial::new(Code::TokenRejected, "the token is not of a known kind of user").detail(detail)
                    );
                }
                Err(error) => return Err(undecided(&format!("defaults.{name}"), &error)),
            };
            caller.defaults.push((Arc::clone(name), value));
        }
        Ok(caller)
    }

    /// Finds the facts that the policy asks for.
    ///
    /// # Errors
    ///
    /// The mapping is missing or in error. Having no tier is no error here: the policy must answer it.
    pub fn learn<'a>(&'a self, caller: &mut Caller<'a>, tiers: &'a Tiers) -> Result<(), Denial> {
        for lookup in &self.tier_lookups {
            let table = match tiers {
                Tiers::Known(table) => table,
                Tiers::Missing => {
                    let denial = Denial::new(Code::PolicyTiers, "the caller's tier cannot be told");
                    return Err(denial.detail("there is no tier mapping: see --tier-mapping"));
                }
                Tiers::Invalid(fault) => {
                    let denial = Denial::new(Code::PolicyTiers, "the caller's tier cannot be told");
                    return Err(denial.detail(format!("the tier mapping is in error: {fault}")));
                }
            };
            let tier = lookup.with_groups(&caller.scope(), |groups| table.of(groups.iter().copied()))?;
            caller.metadata.push((Arc::clone(&lookup.name), tier.map_or(&NO_TIER, |tier| &tier.answer)));
            caller.tier = caller.tier.or(tier);
        }
        Ok(())
    }

    /// Checks every access rule.
    ///
    /// # Errors
    ///
    /// Nothing grants the caller this model, or the path names none.
    pub fn permit(&self, caller: &Caller<'_>, rbac: &Rbac, operator: OperatorModel<'_>) -> Result<Permit, Denial> {
        let mut permit = Permit::default();
        for rule in &self.access {
            let scope = caller.scope();
            let (namespace, model) = rule.model(&scope, operator)?;
            let user = rule.attribute("user", &rule.user, &scope)?;
            let groups = match &rule.groups {
                Some(source) => Some(source.eval(&scope).map_err(|error| undecided("authorizationGroups", &error))?),
                None => None,
            };
            let groups: SmallVec<[&str; 4]> = match &groups {
                Some(value) => value.as_texts().ok_or_else(|| {
                    undecided("authorizationGroups", &EvalError::Failed("not a list of strings".to_owned()))
                })?,
                None => SmallVec::new(),
            };
            let query = Query {
                user: &user,
                groups: &groups,
                verb: &rule.attribute("verb", &rule.verb, &scope)?,
                group: &rule.attribute("group", &rule.group, &scope)?,
                resource: &rule.attribute("resource", &rule.resource, &scope)?,
                subresource: &rule.attribute("subresource", &rule.subresource, &scope)?,
                namespace: &namespace,
                name: &model,
            };
            permit.grantor = Some(rbac.authorize(&query).ok_or_else(|| missing_grant(&query))?);
            permit.model = Some(format!("{namespace}/{model}"));
        }
        Ok(permit)
    }

    /// Builds what the response declares.
    ///
    /// # Errors
    ///
    /// A property has no value: because the caller has no tier, or because the policy is wrong.
    pub fn present<'a>(&'a self, caller: &'a Caller<'_>) -> Result<Presented<'a>, Denial> {
        let scope = caller.scope();
        let no_value = |name: &str, error: &EvalError| {
            let no_tier = caller.tier.is_none() && !self.tier_lookups.is_empty();
            match error {
                EvalError::Missing(_) if no_tier => {
                    let groups = caller.identity.groups.join(", ");
                    Denial::new(Code::TierNone, "the caller belongs to no tier")
                        .detail(format!("no tier lists any of the groups {groups}"))
                }
                error => undecided(&format!("response property `{name}`"), error),
            }
        };
        let mut presented = Presented::default();
        for filter in &self.filters {
            let properties = match &filter.shape {
                Shape::Object(properties) => {
                    let eval = |(name, source): &'a (Arc<str>, ValueSource)| match source.eval(&scope) {
                        Ok(value) => Ok((Arc::clone(name), value)),
                        Err(error) => Err(no_value(name, &error)),
                    };
                    Properties::Object(properties.iter().map(eval).collect::<Result<_, _>>()?)
                }
                Shape::Plain(source) => {
                    Properties::Value(source.eval(&scope).map_err(|error| no_value(&filter.name, &error))?.to_json())
                }
            };
            presented.filters.push((Arc::clone(&filter.name), properties));
        }
        for header in &self.headers {
            let value = header.shape.to_header(&scope).map_err(|error| no_value(&header.name, &error))?;
            presented.headers.push((header.name.clone(), value));
        }
        Ok(presented)
    }
}

/// The refusal of a model. "Does not exist" and "not granted" look the same to the caller.
fn missing_grant(query: &Query<'_>) -> Denial {
    let Query { user, verb, group, resource, namespace, name, .. } = query;
    let subject = query.groups.iter().find(|group| {
        group.strip_prefix("system:serviceaccounts:").is_some_and(|namespace| namespace.contains("-tier-"))
    });
    let whom = subject.map_or_else(|| format!("User {user}"), |group| format!("Group {group}"));
    let detail = format!(
        "no RoleBinding in namespace {namespace} grants {whom} a Role with `{verb}` on {resource}.{group} `{name}`; \
         grant it with: kubectl create rolebinding {name}-post-access -n {namespace} --role=<role> --group={}",
        subject.unwrap_or(&"<group>")
    );
    let message = format!("you have no access to model {namespace}/{name}");
    Denial::new(Code::AccessDenied, message).detail(detail)
}

// === impl Caller ===

impl<'a> Caller<'a> {
    fn scope(&self) -> Scope<'_> {
        Scope {
            request: self.request,
            identity: Some(Object { base: Some(&self.identity.object), extra: &self.defaults }),
            metadata: &self.metadata,
        }
    }
}

// === impl TierLookup ===

impl TierLookup {
    /// Calls `of` with the groups that the body holds.
    fn with_groups<T>(&self, scope: &Scope<'_>, of: impl FnOnce(&[&str]) -> T) -> Result<T, Denial> {
        let failed = |error: EvalError| undecided(&format!("metadata.{} body", self.name), &error);
        if let ValueSource::Expression(expression) = &self.body
            && let Some(Direct::Entry { key, path }) = expression.direct()
            && key == "groups"
            && let Some(groups) = path.eval(scope)
        {
            let groups = groups.map_err(failed)?;
            if let Some(groups) = groups.as_texts() {
                return Ok(of(&groups));
            }
        }
        let body = self.body.eval(scope).map_err(failed)?.to_json();
        let groups = body.get("groups").and_then(Value::as_array);
        let groups: Option<SmallVec<[&str; 4]>> = groups.and_then(|list| list.iter().map(Value::as_str).collect());
        match groups {
            Some(groups) => Ok(of(&groups)),
            None => Err(failed(EvalError::Failed("holds no list of `groups`".to_owned()))),
        }
    }
}

// === impl AccessRule ===

impl AccessRule {
    /// Namespace and name of the model. What the operator set on the route goes before the path.
    fn model<'s>(
        &'s self,
        scope: &Scope<'s>,
        operator: OperatorModel<'s>,
    ) -> Result<(Cow<'s, str>, Cow<'s, str>), Denial> {
        let (namespace, model) = match operator {
            OperatorModel::Named(name) => match name.split_once('/') {
                Some((namespace, name)) => (Cow::Borrowed(namespace), Cow::Borrowed(name)),
                None => {
                    let detail = format!("`{name}` is not namespace/name");
                    return Err(Denial::new(Code::PolicyModel, "the model of this route is misnamed").detail(detail));
                }
            },
            OperatorModel::Conflict => {
                let detail =
                    "context_extensions.model and the route's metadata name different models, or what is no text";
                return Err(Denial::new(Code::PolicyModel, "the model of this route is named twice").detail(detail));
            }
            OperatorModel::Unset => {
                (self.derived("namespace", &self.namespace, scope)?, self.derived("name", &self.model, scope)?)
            }
        };
        if request::is_dns1123_label(&namespace) && request::is_dns1123_subdomain(&model) {
            return Ok((namespace, model));
        }
        match operator {
            OperatorModel::Unset => Err(Denial::new(Code::PathNotCanonical, "the path names no model")),
            _ => Err(Denial::new(Code::PolicyModel, "the model of this route is misnamed")),
        }
    }

    fn derived<'s>(&self, what: &str, source: &'s ValueSource, scope: &Scope<'s>) -> Result<Cow<'s, str>, Denial> {
        match source.eval(scope) {
            Ok(value) => value.into_text().ok_or_else(|| not_text(what)),
            Err(EvalError::Missing(_)) => Err(Denial::new(Code::PathNotCanonical, "the path names no model")),
            Err(error) => Err(undecided(what, &error)),
        }
    }

    fn attribute<'s>(&self, what: &str, source: &'s ValueSource, scope: &Scope<'s>) -> Result<Cow<'s, str>, Denial> {
        let value = source.eval(scope).map_err(|error| undecided(&format!("{}.{what}", self.name), &error))?;
        value.into_text().ok_or_else(|| not_text(what))
    }
}

fn not_text(what: &str) -> Denial {
    undecided(what, &EvalError::Failed("is not text".to_owned()))
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
        }
    }
}

// === impl Shape ===

impl Shape {
    fn to_header(&self, scope: &Scope<'_>) -> Result<String, EvalError> {
        match self {
            Shape::Plain(source) => {
                let value = source.eval(scope)?;
                match value.clone().into_text() {
                    Some(text) => Ok(text.into_owned()),
                    None => Ok(value.to_json().to_string()),
                }
            }
            Shape::Object(properties) => {
                let mut object = serde_json::Map::new();
                for (name, source) in properties {
                    object.insert(name.to_string(), source.eval(scope)?.to_json());
                }
                Ok(Value::Object(object).to_string())
            }
        }
    }
}

// === impl Presented ===

impl<'a> Presented<'a> {
    /// What the limits see as `auth.identity`.
    #[must_use]
    pub fn identity(&self) -> Option<Object<'_>> {
        let (_, properties) = self.filters.iter().find(|(name, _)| &**name == "identity")?;
        Some(match properties {
            Properties::Object(extra) => Object { base: None, extra },
            Properties::Value(value) => Object { base: Some(value), extra: &[] },
        })
    }
}

impl Properties<'_> {
    /// The same, borrowing nothing.
    #[must_use]
    pub fn into_owned(self) -> Properties<'static> {
        match self {
            Properties::Object(properties) => {
                Properties::Object(properties.into_iter().map(|(name, value)| (name, value.into_owned())).collect())
            }
            Properties::Value(value) => Properties::Value(value),
        }
    }

    #[must_use]
    pub fn to_json(&self) -> Value {
        match self {
            Properties::Object(extra) => Object { base: None, extra }.to_json(),
            Properties::Value(value) => value.clone(),
        }
    }
}
