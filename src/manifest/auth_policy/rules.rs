//! The rules of an AuthPolicy: who calls, what is known about them, what they may do.

use serde_json::Value as Json;

use super::Entry;
use super::condition::read_conditions;
use super::tier_lookup::read_lookup;
use super::value::{read_expression, read_properties, read_selector, read_text_value, read_value};
use crate::document::Field;
use crate::expression::View;
use crate::problem::Severity;
use crate::rules::{AccessRule, Authentication, Authorization, Method, TierLookup, ValueSource};

pub(super) fn read_authentication(entry: Entry<'_, '_>) -> Option<Authentication> {
    let Entry { field, mut fields, ttl, .. } = entry;
    let mut other_way = false;
    for other in ["jwt", "apiKey", "x509", "oauth2Introspection"] {
        if let Some(field) = fields.take(other) {
            field.unsupported(&format!("authentication by `{other}`"), "use kubernetesTokenReview");
            other_way = true;
        }
    }
    if let Some(credentials) = fields.take("credentials") {
        read_credentials(&credentials);
    }
    let (defaults, overrides) = (fields.take("defaults"), fields.take("overrides"));
    let (review, anonymous, plain) =
        (fields.take("kubernetesTokenReview"), fields.take("anonymous"), fields.take("plain"));
    fields.done(Severity::Error);
    let properties =
        |field: Option<Field<'_>>| field.map_or(Some(Vec::new()), |field| read_properties(&field, View::Identity));
    let (defaults, overrides) = (properties(defaults), properties(overrides));
    let method = match (review, anonymous, plain) {
        (Some(review), None, None) => Method::TokenReview { audiences: read_audiences(&review)? },
        (None, Some(anonymous), None) => {
            anonymous.fields()?.done(Severity::Error);
            Method::Anonymous
        }
        (None, None, Some(plain)) => Method::Plain(read_plain(&plain)?),
        // It was said already that it is not carried out.
        _ if other_way => return None,
        _ => {
            let problem = field.error("says no way to authenticate, or more than one");
            field.report(problem.expected("kubernetesTokenReview, anonymous or plain"));
            return None;
        }
    };
    Some(Authentication { method, defaults: defaults?, overrides: overrides?, ttl })
}

fn read_audiences(field: &Field<'_>) -> Option<Vec<String>> {
    let mut fields = field.fields()?;
    fields.ignore(&["timeout"]);
    let audiences = fields.take("audiences");
    fields.done(Severity::Error);
    audiences.map_or(Some(Vec::new()), |field| field.texts())
}

fn read_plain(field: &Field<'_>) -> Option<ValueSource> {
    let mut fields = field.fields()?;
    let (selector, expression) = (fields.take("selector"), fields.take("expression"));
    fields.done(Severity::Error);
    match (selector, expression) {
        (Some(selector), None) => read_selector(&selector, View::Request).map(ValueSource::Selector),
        (None, Some(expression)) => read_expression(&expression, View::Request).map(ValueSource::Expression),
        _ => {
            field.report(field.error("says no value, or more than one").expected("selector or expression"));
            None
        }
    }
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

pub(super) fn read_metadata(entry: Entry<'_, '_>) -> Option<TierLookup> {
    let Entry { mut fields, ttl, .. } = entry;
    for other in ["userInfo", "uma"] {
        if let Some(field) = fields.take(other) {
            field.unsupported(&format!("metadata from `{other}`"), "remove it");
        }
    }
    let http = fields.require("http", "a tier lookup");
    fields.done(Severity::Error);
    read_lookup(&http?, ttl)
}

pub(super) fn read_authorization(entry: Entry<'_, '_>) -> Option<Authorization> {
    let Entry { field, mut fields, .. } = entry;
    let mut other_way = false;
    for other in ["opa", "spicedb"] {
        if let Some(field) = fields.take(other) {
            let remedy = "use kubernetesSubjectAccessReview or patternMatching";
            field.unsupported(&format!("authorization by `{other}`"), remedy);
            other_way = true;
        }
    }
    let (review, patterns) = (fields.take("kubernetesSubjectAccessReview"), fields.take("patternMatching"));
    fields.done(Severity::Error);
    match (review, patterns) {
        (Some(review), None) => read_access(&review).map(Authorization::Access),
        (None, Some(patterns)) => {
            let mut fields = patterns.fields()?;
            let list = fields.require("patterns", "a list of conditions, all of which have to hold");
            fields.done(Severity::Error);
            read_conditions(&list?, View::Caller).map(Authorization::Patterns)
        }
        _ if other_way => None,
        _ => {
            let problem = field.error("says no way to authorize, or more than one");
            field.report(problem.expected("kubernetesSubjectAccessReview or patternMatching"));
            None
        }
    }
}

fn read_access(field: &Field<'_>) -> Option<Box<AccessRule>> {
    let mut fields = field.fields()?;
    fields.ignore(&["timeout"]);
    let user = fields
        .require("user", "expression: auth.identity.user.username")
        .and_then(|field| read_text_value(&field, View::Caller));
    if let Some(groups) = fields.take("groups") {
        groups.unsupported("the static `groups`", "use `authorizationGroups`");
    }
    let groups = fields.take("authorizationGroups").map(|field| read_value(&field, View::Caller));
    let attributes = fields.require("resourceAttributes", "the resource that is asked for");
    fields.done(Severity::Error);
    let mut fields = attributes?.fields()?;
    let mut attribute =
        |name| fields.take(name).map_or(Some(None), |field| read_text_value(&field, View::Caller).map(Some));
    let (group, resource, subresource, verb) =
        (attribute("group"), attribute("resource"), attribute("subresource"), attribute("verb"));
    let namespace =
        fields.require("namespace", "the model's namespace").and_then(|field| read_text_value(&field, View::Caller));
    // An empty name would ask for every model at once.
    let model = fields.require("name", "the model's name").and_then(|field| read_text_value(&field, View::Caller));
    fields.done(Severity::Error);
    let groups = match groups {
        None => None,
        Some(groups) => Some(groups?),
    };
    let empty = || ValueSource::Constant(Json::String(String::new()));
    Some(Box::new(AccessRule {
        user: user?,
        groups,
        group: group?.unwrap_or_else(empty),
        resource: resource?.unwrap_or_else(empty),
        subresource: subresource?.unwrap_or_else(empty),
        verb: verb?.unwrap_or_else(empty),
        namespace: namespace?,
        model: model?,
    }))
}
