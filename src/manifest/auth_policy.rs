//! Kuadrant's AuthPolicy, the part of it that seed policies use.
//!
//! A rule that tiergate does not carry out is an error, and its target stays shut: skipping it could open the gate.

use std::sync::Arc;

use serde_json::Value as Json;

use super::limit_policy::compile;
use super::reader::{Field, Fields, Report};
use super::tree::{Node, Value};
use super::{Meta, Place, Severity, Target, read_rules, read_target};
use crate::policy::{
    AccessRule, AuthRules, Authentication, Expression, Filter, Path, RequestHeader, Shape, TierLookup, ValueSource,
};

/// An AuthPolicy. `rules` is `None` when it is in error.
#[derive(Clone, Debug)]
pub struct AuthPolicy {
    pub meta: Meta,
    pub target: Target,
    /// Where the target is named.
    pub target_place: Place,
    pub rules: Option<Arc<AuthRules>>,
}

const REMEDY: &str = "write the rules directly under `spec.rules`";
/// The endpoint of maas-api that tiergate answers itself, from the tier ConfigMap.
const TIER_LOOKUP: &str = "/v1/tiers/lookup";

pub(super) fn read(meta: Meta, mut fields: Fields<'_>, report: &Report) -> AuthPolicy {
    let errors = report.errors();
    let (mut target, mut target_place, mut rules) = (Target::Unknown, meta.place.clone(), None);
    let spec = fields.require("spec", "targetRef and rules").and_then(|field| field.fields());
    fields.done(Severity::Error);
    if let Some(mut spec) = spec {
        (target, target_place) =
            read_target(spec.require("targetRef", "the Gateway or HTTPRoute that is protected"), &meta);
        for name in ["when", "patterns"] {
            if let Some(field) = spec.take(name) {
                field.unsupported(&format!("`{name}`"), "remove it, or keep the policy where it is supported");
            }
        }
        match read_rules(&mut spec, "rules", REMEDY) {
            Some(field) => rules = read_auth_rules(&field),
            None => {
                let _ = spec.require("rules", "authentication and authorization");
            }
        }
        spec.done(Severity::Error);
    }
    let rules = rules.filter(|_| meta.usable && report.errors() == errors).map(Arc::new);
    AuthPolicy { meta, target, target_place, rules }
}

/// The entries of a block of named rules, if it is there.
fn named(field: Option<Field<'_>>) -> Vec<(String, Field<'_>)> {
    let entries = field.and_then(|field| field.entries()).unwrap_or_default();
    entries.into_iter().map(|(key, field)| (key.name.clone(), field)).collect()
}

fn read_auth_rules(field: &Field<'_>) -> Option<AuthRules> {
    let mut fields = field.fields()?;
    let authentication = fields.require("authentication", "at least one kubernetesTokenReview");
    let metadata = fields.take("metadata");
    let authorization = fields.take("authorization");
    let response = fields.take("response");
    if let Some(callbacks) = fields.take("callbacks") {
        callbacks.unsupported("`callbacks`", "remove it");
    }
    fields.done(Severity::Error);
    let mut rules = AuthRules::default();
    if let Some(field) = authentication {
        let entries = named(Some(field.clone()));
        if entries.is_empty() {
            field.report(field.error("nobody could be authenticated").expected("at least one kubernetesTokenReview"));
        }
        rules.authentication.extend(entries.into_iter().filter_map(|(name, field)| read_authentication(name, &field)));
    }
    if let Some(field) = metadata {
        rules.metadata_place = Some(field.place());
        let entries = named(Some(field)).into_iter();
        rules.tier_lookups.extend(entries.filter_map(|(name, field)| read_metadata(name, &field)));
    }
    for (name, field) in named(authorization) {
        rules.access.extend(read_authorization(name, &field));
    }
    if let Some(response) = response {
        read_response(&response, &mut rules);
    }
    Some(rules)
}

/// The fields that every evaluator has. `cache` only says how long a peer may remember; we remember by our own rules.
fn read_common(fields: &mut Fields<'_>) {
    fields.ignore(&["metrics"]);
    if let Some(priority) = fields.take("priority").filter(|field| field.integer().is_some_and(|n| n != 0)) {
        priority.unsupported("a `priority` other than 0", "remove it; the order of rules has no effect here");
    }
    if let Some(when) = fields.take("when") {
        when.unsupported("`when` of a rule", "remove the condition");
    }
    if let Some(cache) = fields.take("cache") {
        read_cache(&cache);
    }
}

fn read_cache(field: &Field<'_>) {
    let Some(mut fields) = field.fields() else { return };
    let key = fields.require("key", "what tells entries apart").and_then(|field| field.fields());
    let ttl = fields.take("ttl").and_then(|field| field.integer().map(|ttl| (field, ttl)));
    fields.done(Severity::Error);
    if let Some((field, ttl)) = ttl.filter(|(_, ttl)| *ttl < 0) {
        field.report(field.error(format!("{ttl} is negative")).expected("seconds"));
    }
    let Some(mut key) = key else { return };
    if let Some(expression) = key.take("expression") {
        let _ = compile(&expression, Expression::compile);
    }
    if let Some(selector) = key.take("selector") {
        let _ = read_selector(&selector);
    }
    key.ignore(&["value"]);
    key.done(Severity::Error);
}

fn read_authentication(name: String, field: &Field<'_>) -> Option<Authentication> {
    let mut fields = field.fields()?;
    read_common(&mut fields);
    for other in ["jwt", "apiKey", "x509", "oauth2Introspection", "plain", "anonymous"] {
        if let Some(field) = fields.take(other) {
            field.unsupported(&format!("authentication by `{other}`"), "use kubernetesTokenReview");
        }
    }
    if let Some(credentials) = fields.take("credentials") {
        read_credentials(&credentials);
    }
    if let Some(overrides) = fields.take("overrides") {
        overrides.unsupported("`overrides` of an identity", "use `defaults`");
    }
    let defaults = fields.take("defaults").map_or(Some(Vec::new()), |field| read_properties(&field));
    let review = fields.require("kubernetesTokenReview", "the audiences to accept");
    fields.done(Severity::Error);
    let mut review = review?.fields()?;
    review.ignore(&["timeout"]);
    let audiences = review.take("audiences");
    review.done(Severity::Error);
    let audiences = audiences.map_or(Some(Vec::new()), |field| field.texts())?;
    Some(Authentication { name, audiences, defaults: defaults? })
}

fn read_credentials(field: &Field<'_>) {
    let Some(mut fields) = field.fields() else { return };
    for other in ["customHeader", "queryString", "cookie"] {
        if let Some(field) = fields.take(other) {
            field.unsupported(&format!("a credential in `{other}`"), "use the Authorization header");
        }
    }
    if let Some(mut header) = fields.take("authorizationHeader").and_then(|field| field.fields()) {
        if let Some(prefix) = header.take("prefix").filter(|field| field.text().is_some_and(|text| text != "Bearer")) {
            prefix.unsupported("a prefix other than `Bearer`", "remove it");
        }
        header.done(Severity::Error);
    }
    fields.done(Severity::Error);
}

fn read_metadata(name: String, field: &Field<'_>) -> Option<TierLookup> {
    let mut fields = field.fields()?;
    read_common(&mut fields);
    for other in ["userInfo", "uma"] {
        if let Some(field) = fields.take(other) {
            field.unsupported(&format!("metadata from `{other}`"), "remove it");
        }
    }
    let http = fields.require("http", "a tier lookup")?;
    fields.done(Severity::Error);
    let mut fields = http.fields()?;
    fields.ignore(&["method", "contentType", "headers", "credentials", "timeout"]);
    let url = fields.require("url", "the URL of the tier lookup");
    let body = fields.require("body", "{ \"groups\": auth.identity.user.groups }");
    for other in ["urlExpression", "bodyParameters", "sharedSecretRef", "oauth2"] {
        if let Some(field) = fields.take(other) {
            field.unsupported(&format!("`{other}`"), "the tier lookup needs none");
        }
    }
    fields.done(Severity::Error);
    let (url, body) = (url?, body?);
    let path = url.text()?.split_once("://").and_then(|(_, rest)| rest.find('/').and_then(|at| rest.get(at..)));
    if path != Some(TIER_LOOKUP) {
        let remedy = format!("only `{TIER_LOOKUP}` is answered, from the tier ConfigMap");
        url.unsupported("metadata from another endpoint", &remedy);
    }
    Some(TierLookup { name: name.into(), body: read_value(&body)? })
}

fn read_authorization(name: String, field: &Field<'_>) -> Option<AccessRule> {
    let mut fields = field.fields()?;
    read_common(&mut fields);
    for other in ["patternMatching", "opa", "spicedb"] {
        if let Some(field) = fields.take(other) {
            field.unsupported(&format!("authorization by `{other}`"), "use kubernetesSubjectAccessReview");
        }
    }
    let review = fields.require("kubernetesSubjectAccessReview", "who asks for which resource");
    fields.done(Severity::Error);
    let mut fields = review?.fields()?;
    fields.ignore(&["timeout"]);
    let user = fields.require("user", "expression: auth.identity.user.username").and_then(|field| read_value(&field));
    if let Some(groups) = fields.take("groups") {
        groups.unsupported("the static `groups`", "use `authorizationGroups`");
    }
    let groups = fields.take("authorizationGroups").map(|field| read_value(&field));
    let attributes = fields.require("resourceAttributes", "the resource that is asked for");
    fields.done(Severity::Error);
    let mut fields = attributes?.fields()?;
    let mut attribute = |name| fields.take(name).map_or(Some(None), |field| read_value(&field).map(Some));
    let (group, resource, subresource, verb) =
        (attribute("group"), attribute("resource"), attribute("subresource"), attribute("verb"));
    let namespace = fields.require("namespace", "the model's namespace").and_then(|field| read_value(&field));
    // An empty name would ask for every model at once.
    let model = fields.require("name", "the model's name").and_then(|field| read_value(&field));
    fields.done(Severity::Error);
    let groups = match groups {
        None => None,
        Some(groups) => Some(groups?),
    };
    let empty = || ValueSource::Constant(Json::String(String::new()));
    Some(AccessRule {
        name,
        user: user?,
        groups,
        group: group?.unwrap_or_else(empty),
        resource: resource?.unwrap_or_else(empty),
        subresource: subresource?.unwrap_or_else(empty),
        verb: verb?.unwrap_or_else(empty),
        namespace: namespace?,
        model: model?,
    })
}

fn read_response(field: &Field<'_>, rules: &mut AuthRules) {
    let Some(mut fields) = field.fields() else { return };
    for other in ["unauthenticated", "unauthorized"] {
        if let Some(field) = fields.take(other) {
            let remedy = "remove it; refusals are OpenAI-style errors with a code";
            field.unsupported(&format!("a custom `{other}` answer"), remedy);
        }
    }
    let success = fields.take("success").and_then(|field| field.fields());
    fields.done(Severity::Error);
    let Some(mut success) = success else { return };
    for (name, field) in success.take("filters").and_then(|field| field.entries()).unwrap_or_default() {
        if let Some((key, shape)) = read_item(&field) {
            rules.filters.push(Filter { name: key.unwrap_or_else(|| name.name.clone()).into(), shape });
        }
    }
    for (name, field) in success.take("headers").and_then(|field| field.entries()).unwrap_or_default() {
        if let Some((key, shape)) = read_item(&field) {
            let name = key.unwrap_or_else(|| name.name.clone()).to_ascii_lowercase();
            if !is_header_name(&name) {
                field
                    .report(field.error(format!("`{name}` cannot be the name of a header")).expected("such as x-user"));
                continue;
            }
            rules.headers.push(RequestHeader { name, shape });
        }
    }
    success.done(Severity::Error);
}

/// RFC 9110, section 5.1: a token.
fn is_header_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

fn read_item(field: &Field<'_>) -> Option<(Option<String>, Shape)> {
    let mut fields = field.fields()?;
    read_common(&mut fields);
    if let Some(wristband) = fields.take("wristband") {
        wristband.unsupported("`wristband`", "remove it");
    }
    let key = fields.take("key").and_then(|field| field.non_empty_text()).map(str::to_owned);
    let json = fields.take("json");
    let plain = fields.take("plain");
    fields.done(Severity::Error);
    match (json, plain) {
        (Some(json), None) => {
            let mut fields = json.fields()?;
            let properties = fields.require("properties", "at least one property");
            fields.done(Severity::Error);
            let properties = read_properties(&properties?)?;
            Some((key, Shape::Object(properties)))
        }
        (None, Some(plain)) => Some((key, Shape::Plain(read_value(&plain)?))),
        _ => {
            field.report(field.error("says no value, or two").expected("either `json` or `plain`"));
            None
        }
    }
}

fn read_properties(field: &Field<'_>) -> Option<Vec<(Arc<str>, ValueSource)>> {
    let entries = field.entries()?;
    let read: Vec<_> =
        entries.iter().filter_map(|(key, field)| Some((key.name.as_str().into(), read_value(field)?))).collect();
    (read.len() == entries.len()).then_some(read)
}

/// `value`, `selector` or `expression`.
fn read_value(field: &Field<'_>) -> Option<ValueSource> {
    let mut fields = field.fields()?;
    let (value, selector, expression) = (fields.take("value"), fields.take("selector"), fields.take("expression"));
    fields.done(Severity::Error);
    match (value, selector, expression) {
        (Some(value), None, None) => Some(ValueSource::Constant(to_json(value.node))),
        (None, Some(selector), None) => read_selector(&selector).map(ValueSource::Expression),
        (None, None, Some(expression)) => compile(&expression, Expression::compile).map(ValueSource::Expression),
        _ => {
            field.report(field.error("says no value, or more than one").expected("value, selector or expression"));
            None
        }
    }
}

/// A selector that is a plain path. Authorino's modifiers and templates are another language.
fn read_selector(field: &Field<'_>) -> Option<Expression> {
    let text = field.text()?;
    if text.contains("@case:lower") && text.contains("authorization") {
        let problem = field.error(format!("`{text}` would take two tokens that differ only in case for one"));
        field.report(
            problem
                .remedy("remove the `cache`: tiergate remembers identities by the whole token, never past its expiry"),
        );
        return None;
    }
    if Path::parse(text).is_none() {
        let problem = field.error(format!("`{text}` is not a plain path; modifiers and templates are not supported"));
        field.report(
            problem
                .expected("a path such as auth.identity.user.username")
                .remedy("write a CEL `expression`; a `cache` can be removed, tiergate needs none"),
        );
        return None;
    }
    compile(field, Expression::compile)
}

fn to_json(node: &Node) -> Json {
    match &node.value {
        Value::Null => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Int(value) => Json::from(*value),
        Value::BigInt(value) => Json::from(*value),
        Value::Float(value) => Json::from(*value),
        Value::Text(text) => Json::String(text.clone()),
        Value::List(items) => items.iter().map(to_json).collect(),
        Value::Map(entries) => entries.iter().map(|(key, node)| (key.name.clone(), to_json(node))).collect(),
    }
}
