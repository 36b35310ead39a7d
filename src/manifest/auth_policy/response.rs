//! `response`: what an admitted caller is presented as, and what a refused one is told.

use std::sync::Arc;

use super::value::{read_properties, read_value};
use super::{Entry, read_named};
use crate::document::Field;
use crate::expression::View;
use crate::problem::{ObjectName, Severity};
use crate::rules::{AuthRules, DenyWithSpec, Item, Rule, Shape};

pub(super) fn read_response(field: &Field<'_>, origin: &Arc<ObjectName>, rules: &mut AuthRules) {
    let Some(mut fields) = field.fields() else { return };
    let mut telling = |name: &'static str, view: View| {
        let field = fields.take(name)?;
        read_telling(&field, view).map(|telling| Arc::new(Rule::new(name, origin, field.place(), telling)))
    };
    rules.unauthenticated = telling("unauthenticated", View::Request);
    rules.unauthorized = telling("unauthorized", View::Caller);
    let success = fields.take("success").and_then(|field| field.fields());
    fields.done(Severity::Error);
    let Some(mut success) = success else { return };
    if let Some(filters) = success.take("filters") {
        rules.filters = read_named(&filters, origin, View::Caller, read_item).unwrap_or_default();
    }
    if let Some(headers) = success.take("headers") {
        rules.headers = read_named(&headers, origin, View::Caller, read_header).unwrap_or_default();
    }
    success.done(Severity::Error);
}

fn read_header(entry: Entry<'_, '_>) -> Option<Item> {
    let field = entry.field;
    let item = read_item(entry)?;
    check_header_name(&item.name, field).then(|| Item { name: item.name.to_ascii_lowercase().into(), ..item })
}

/// RFC 9110, section 5.1: a token.
fn check_header_name(name: &str, field: &Field<'_>) -> bool {
    let token = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
    if !token {
        field.report(field.error(format!("`{name}` cannot be the name of a header")).expected("such as x-user"));
    }
    token
}

fn read_item(entry: Entry<'_, '_>) -> Option<Item> {
    let Entry { name, field, mut fields, .. } = entry;
    if let Some(wristband) = fields.take("wristband") {
        wristband.unsupported("`wristband`", "remove it");
    }
    let name = fields.take("key").and_then(|field| field.non_empty_text()).unwrap_or(name);
    let (json, plain) = (fields.take("json"), fields.take("plain"));
    fields.done(Severity::Error);
    let shape = match (json, plain) {
        (Some(json), None) => {
            let mut fields = json.fields()?;
            let properties = fields.require("properties", "at least one property");
            fields.done(Severity::Error);
            Shape::Object(read_properties(&properties?, View::Caller)?)
        }
        (None, Some(plain)) => Shape::Plain(read_value(&plain, View::Caller)?),
        _ => {
            return field.invalid("says no value, or two", "either `json` or `plain`");
        }
    };
    Some(Item { name: name.into(), shape })
}

fn read_telling(field: &Field<'_>, view: View) -> Option<DenyWithSpec> {
    let mut fields = field.fields()?;
    let code = fields.take("code");
    let (message, headers, body) = (fields.take("message"), fields.take("headers"), fields.take("body"));
    fields.done(Severity::Error);
    let value = |field: Option<Field<'_>>| field.map_or(Some(None), |field| read_value(&field, view).map(Some));
    let (code, message, body) =
        (code.map_or(Some(None), |field| read_code(&field).map(Some)), value(message), value(body));
    let mut named = Some(Vec::new());
    if let Some(headers) = headers {
        for (name, field) in headers.entries()? {
            let sound = check_header_name(&name.name, &field);
            let value = read_value(&field, view).filter(|_| sound);
            named = named.zip(value).map(|(mut named, value)| {
                named.push((name.name.to_ascii_lowercase(), value));
                named
            });
        }
    }
    Some(DenyWithSpec { code: code?, message: message?, headers: named?, body: body? })
}

fn read_code(field: &Field<'_>) -> Option<u16> {
    let number = field.integer()?;
    let code = u16::try_from(number).ok().filter(|code| (300..=599).contains(code));
    code.or_else(|| field.invalid(format!("{number} is not the status of a refusal"), "300 to 599"))
}
