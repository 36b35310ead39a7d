//! What an expression looks at: for whoever has to carry it to where the expression is evaluated, or knows that it can never be there.

use std::collections::BTreeSet;

use cel::IdedExpr;
use cel::common::ast::{Expr, LiteralValue, operators};

use super::general::children;
use crate::request::Attributes;

/// A part of the request or of its caller.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reference {
    /// `auth` as a whole.
    Auth,
    /// `auth.<name>` as a whole, for instance to ask which properties `auth.identity` has.
    Member(String),
    /// `auth.<member>.<name>`, and whatever is inside it.
    Property(String, String),
    /// `request.<name>`, of [`Attributes::NAMES`].
    Attribute(&'static str),
    /// `request.headers` as a whole.
    Headers,
    /// `request.headers.<name>`, in lower case.
    Header(String),
}

/// Everything that `expression` looks at.
pub(super) fn of(expression: &IdedExpr) -> BTreeSet<Reference> {
    let mut found = BTreeSet::new();
    let mut open = vec![expression];
    while let Some(expression) = open.pop() {
        if let Some(path) = fields(expression).or_else(|| asked_for(expression)) {
            found.extend(Reference::to(&path));
        } else {
            children(expression, &mut |child| open.push(child));
        }
    }
    found
}

/// The names of a chain of fields, the root first; a presence test names its field too, and so does `.?`.
pub(super) fn fields(expression: &IdedExpr) -> Option<Vec<&str>> {
    let mut reversed = Vec::new();
    let mut current = expression;
    loop {
        match &current.expr {
            Expr::Ident(name) => {
                reversed.push(name.as_str());
                reversed.reverse();
                return Some(reversed);
            }
            Expr::Select(select) => {
                reversed.push(&select.field);
                current = &select.operand;
            }
            Expr::Call(call)
                if matches!(
                    call.func_name.as_str(),
                    operators::INDEX | operators::OPT_INDEX | operators::OPT_SELECT
                ) =>
            {
                let [operand, key] = call.args.as_slice() else { return None };
                reversed.push(text(key)?);
                current = operand;
            }
            _ => return None,
        }
    }
}

/// `"name" in auth.identity` asks for one name alone.
pub(super) fn asked_for(expression: &IdedExpr) -> Option<Vec<&str>> {
    let Expr::Call(call) = &expression.expr else { return None };
    let [name, container] = call.args.as_slice() else { return None };
    let mut path = (call.func_name == operators::IN).then(|| fields(container)).flatten()?;
    path.push(text(name)?);
    Some(path)
}

pub(super) fn text(expression: &IdedExpr) -> Option<&str> {
    match &expression.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner()),
        _ => None,
    }
}

// === impl Reference ===

impl Reference {
    /// What a chain of fields leads to; nothing where it leads to what no request has.
    fn to(path: &[&str]) -> Option<Self> {
        Some(match path {
            ["auth"] => Reference::Auth,
            ["auth", member] => Reference::Member((*member).to_owned()),
            ["auth", member, name, ..] => Reference::Property((*member).to_owned(), (*name).to_owned()),
            ["request"] | ["request", "headers"] => Reference::Headers,
            ["request", "headers", name, ..] => Reference::Header(name.to_ascii_lowercase()),
            ["request", name, ..] => {
                Reference::Attribute(Attributes::NAMES.iter().find(|attribute| *attribute == name)?)
            }
            _ => return None,
        })
    }

    /// The member of `auth` that it is, or is in.
    #[must_use]
    pub fn member(&self) -> Option<&str> {
        match self {
            Reference::Member(member) | Reference::Property(member, _) => Some(member),
            Reference::Auth | Reference::Attribute(_) | Reference::Headers | Reference::Header(_) => None,
        }
    }
}
