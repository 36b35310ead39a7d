//! The rules of an AuthPolicy: who calls, what is known about them, what they may do.

use serde_json::Value as Json;

use super::Entry;
use super::condition::read_conditions;
use super::tier_lookup::read_lookup;
use super::value::{read_expression, read_properties, read_selector, read_text_value, read_value};
use crate::document::{Field, Fields};
use crate::expression::View;
use crate::problem::Severity;
use crate::rules::{AccessRule, Authentication, Authorization, Method, Reviewer, TierLookup, ValueSource};

type ReadMethod = fn(&Field<'_>) -> Option<Method>;

/// The ways to authenticate that are carried out, and what reads each.
const WAYS: &[(&str, ReadMethod)] =
    &[("kubernetesTokenReview", read_token_review), ("anonymous", read_anonymous), ("plain", read_plain)];

pub(super) fn read_authentication(entry: Entry<'_, '_>) -> Option<Authentication> {
    let Entry { field, mut fields, ttl, .. } = entry;
    let others = ["jwt", "apiKey", "x509", "oauth2Introspection"];
    let is_refused = refuse(&mut fields, others, "authentication by", "use kubernetesTokenReview");
    if let Some(credentials) = fields.take("credentials") {
        read_credentials(&credentials);
    }
    let properties = ["defaults", "overrides"].map(|name| fields.take(name));
    let ways: Vec<_> = WAYS.iter().filter_map(|(name, read)| Some((fields.take(name)?, read))).collect();
    fields.done(Severity::Error);
    let [defaults, overrides] =
        properties.map(|field| field.map_or(Some(Vec::new()), |field| read_properties(&field, View::Identity)));
    let method = match ways.as_slice() {
        [(way, read)] => read(way)?,
        // That another one is not carried out was said already.
        _ if is_refused => return None,
        _ => {
            let expected = "kubernetesTokenReview, anonymous or plain";
            return field.invalid("says no way to authenticate, or more than one", expected);
        }
    };
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

fn read_token_review(field: &Field<'_>) -> Option<Method> {
    let mut fields = field.fields()?;
    fields.ignore(&["timeout"]);
    let audiences = fields.take("audiences");
    fields.done(Severity::Error);
    let audiences = audiences.map_or(Some(Vec::new()), |field| field.texts())?;
    Some(Method::Token { reviewer: Reviewer::Kubernetes, audiences })
}

fn read_anonymous(field: &Field<'_>) -> Option<Method> {
    field.fields()?.done(Severity::Error);
    Some(Method::Anonymous)
}

fn read_plain(field: &Field<'_>) -> Option<Method> {
    let mut fields = field.fields()?;
    let (selector, expression) = (fields.take("selector"), fields.take("expression"));
    fields.done(Severity::Error);
    let source = match (selector, expression) {
        (Some(selector), None) => read_selector(&selector, View::Request).map(ValueSource::Selector),
        (None, Some(expression)) => read_expression(&expression, View::Request).map(ValueSource::Expression),
        _ => field.invalid("says no value, or more than one", "selector or expression"),
    };
    source.map(Method::Plain)
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
