//! The rules of an AuthPolicy: who calls, what is known about them, what they may do.

use serde_json::Value as Json;

use super::Entry;
use super::condition::read_conditions;
use super::tier_lookup::read_lookup;
use super::value::{read_expression, read_properties, read_selector, read_text_value, read_value};
use crate::document::{Field, Fields};
use crate::expression::View;
use crate::problem::Severity;
use crate::rules::{AccessRule, Authentication, Authorization, Method, TierLookup, ValueSource};

pub(super) fn read_authentication(entry: Entry<'_, '_>) -> Option<Authentication> {
    let Entry { field, mut fields, ttl, .. } = entry;
    let others = ["jwt", "apiKey", "x509", "oauth2Introspection"];
    let is_refused = refuse(&mut fields, others, "authentication by", "use kubernetesTokenReview");
    if let Some(credentials) = fields.take("credentials") {
        read_credentials(&credentials);
    }
    let properties = ["defaults", "overrides"].map(|name| fields.take(name));
    let ways = ["kubernetesTokenReview", "anonymous", "plain"].map(|name| fields.take(name));
    fields.done(Severity::Error);
    let [defaults, overrides] =
        properties.map(|field| field.map_or(Some(Vec::new()), |field| read_properties(&field, View::Identity)));
    let method = read_method(field, ways, is_refused)?;
    Some(Authentication { method, defaults: defaults?, overrides: overrides?, ttl })
}

/// Reports those of `names` that are there: `what` by one of them is not carried out.
fn refuse<const N: usize>(fields: &mut Fields<'_>, names: [&'static str; N], what: &str, remedy: &str) -> bool {
    let mut is_refused = false;
    for name in names {
        if let Some(field) = fields.take(name) {
            field.unsupported(&format!("{what} `{name}`"), remedy);
            is_refused = true;
        }
    }
    is_refused
}

/// The way to authenticate that is there. Where another one was refused, that was said already.
fn read_method(field: &Field<'_>, ways: [Option<Field<'_>>; 3], is_refused: bool) -> Option<Method> {
    match ways {
        [Some(review), None, None] => Some(Method::TokenReview { audiences: read_audiences(&review)? }),
        [None, Some(anonymous), None] => {
            anonymous.fields()?.done(Severity::Error);
            Some(Method::Anonymous)
        }
        [None, None, Some(plain)] => Some(Method::Plain(read_plain(&plain)?)),
        _ if is_refused => None,
        _ => {
            field.invalid("says no way to authenticate, or more than one", "kubernetesTokenReview, anonymous or plain")
        }
    }
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
        _ => field.invalid("says no value, or more than one", "selector or expression"),
    }
}

fn read_credentials(field: &Field<'_>) {
    let Some(mut fields) = field.fields() else { return };
    let others = ["customHeader", "queryString", "cookie"];
    refuse(&mut fields, others, "a credential in", "use the Authorization header");
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
    refuse(&mut fields, ["userInfo", "uma"], "metadata from", "remove it");
    let http = fields.require("http", "a tier lookup");
    fields.done(Severity::Error);
    read_lookup(&http?, ttl)
}

pub(super) fn read_authorization(entry: Entry<'_, '_>) -> Option<Authorization> {
    let Entry { field, mut fields, .. } = entry;
    let remedy = "use kubernetesSubjectAccessReview or patternMatching";
    let is_refused = refuse(&mut fields, ["opa", "spicedb"], "authorization by", remedy);
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
        _ if is_refused => None,
        _ => field
            .invalid("says no way to authorize, or more than one", "kubernetesSubjectAccessReview or patternMatching"),
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
