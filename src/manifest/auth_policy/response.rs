//! `response`: what an admitted caller is presented as, and what a refused one is told.

use std::sync::Arc;

use super::super::reader::Field;
use super::super::{ObjectName, Severity};
use super::value::{read_properties, read_value};
use super::{Entry, read_named};
use crate::policy::{AuthRules, Item, Rule, Shape, Telling};

pub(super) fn read_response(field: &Field<'_>, origin: &Arc<ObjectName>, rules: &mut AuthRules) {
    let Some(mut fields) = field.fields() else { return };
    let mut telling = |name: &'static str| {
        let field = fields.take(name)?;
        read_telling(&field).map(|telling| Arc::new(Rule::new(name, origin, field.place(), telling)))
    };
    rules.unauthenticated = telling("unauthenticated");
    rules.unauthorized = telling("unauthorized");
    let success = fields.take("success").and_then(|field| field.fields());
    fields.done(Severity::Error);
    let Some(mut success) = success else { return };
    if let Some(filters) = success.take("filters") {
        rules.filters = read_named(&filters, origin, read_item).unwrap_or_default();
    }
    if let Some(headers) = success.take("headers") {
        rules.headers = read_named(&headers, origin, read_header).unwrap_or_default();
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
            Shape::Object(read_properties(&properties?)?)
        }
        (None, Some(plain)) => Shape::Plain(read_value(&plain)?),
        _ => {
            field.report(field.error("says no value, or two").expected("either `json` or `plain`"));
            return None;
        }
    };
    Some(Item { name: name.into(), shape })
}

fn read_telling(field: &Field<'_>) -> Option<Telling> {
    let mut fields = field.fields()?;
    let code = fields.take("code");
    let (message, headers, body) = (fields.take("message"), fields.take("headers"), fields.take("body"));
    fields.done(Severity::Error);
    let code = code.map_or(Some(None), |field| read_status(&field).map(Some));
    let value = |field: Option<Field<'_>>| field.map_or(Some(None), |field| read_value(&field).map(Some));
    let (message, body) = (value(message), value(body));
    let entries = headers.map_or(Some(Vec::new()), |headers| headers.entries())?;
    let read: Vec<_> = entries
        .iter()
        .map(|(name, field)| {
            let (sound, value) = (check_header_name(&name.name, field), read_value(field));
            value.filter(|_| sound).map(|value| (name.name.to_ascii_lowercase(), value))
        })
        .collect();
    Some(Telling { code: code?, message: message?, headers: read.into_iter().collect::<Option<_>>()?, body: body? })
}

fn read_status(field: &Field<'_>) -> Option<u16> {
    let number = field.integer()?;
    let code = u16::try_from(number).ok().filter(|code| (300..=599).contains(code));
    if code.is_none() {
        field.report(field.error(format!("{number} is not the status of a refusal")).expected("300 to 599"));
    }
    code
}
