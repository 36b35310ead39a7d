//! Whether a predicate can hold, where all that is known is one header of the request.
//!
//! What is not known may be anything, so an expression has a set of outcomes; a missing key is one, as the language has it: it
//! does not match, unless the other side of `||` decides.

use cel::IdedExpr;
use cel::common::ast::{Expr, LiteralValue, operators};

/// The header that is known, and what it is.
#[derive(Clone, Copy)]
struct KnownHeader<'h> {
    name: &'h str,
    sent: Option<&'h str>,
}

/// What an expression comes to, as far as the header tells.
enum Seen {
    Text(String),
    Truth(Outcomes),
    /// A key that is not there.
    Missing,
    Anything,
}

/// A set of [`OUTCOMES`].
#[derive(Clone, Copy, PartialEq, Eq)]
struct Outcomes(u8);

const TRUE: Outcomes = Outcomes(1);
const FALSE: Outcomes = Outcomes(2);
const MISSING: Outcomes = Outcomes(4);
const ANY: Outcomes = Outcomes(7);
const OUTCOMES: [Outcomes; 3] = [TRUE, FALSE, MISSING];

pub(super) fn may_hold(predicate: &IdedExpr, name: &str, sent: Option<&str>) -> bool {
    KnownHeader { name, sent }.truth(predicate).has(TRUE)
}

// === impl KnownHeader ===

impl KnownHeader<'_> {
    fn truth(self, expression: &IdedExpr) -> Outcomes {
        match self.look(expression) {
            Seen::Truth(outcomes) => outcomes,
            Seen::Missing => MISSING,
            Seen::Text(_) | Seen::Anything => ANY,
        }
    }

    fn look(self, expression: &IdedExpr) -> Seen {
        match &expression.expr {
            Expr::Literal(LiteralValue::Boolean(value)) => Seen::Truth(Outcomes::of(*value.inner())),
            Expr::Literal(LiteralValue::String(text)) => Seen::Text(text.inner().to_owned()),
            Expr::Select(select) if is_headers(&select.operand) => match self.is(&select.field) {
                false => Seen::Anything,
                true if select.test => Seen::Truth(Outcomes::of(self.sent.is_some())),
                true => self.value(),
            },
            Expr::Select(select) => self.pass_on([&*select.operand]),
            Expr::Call(call) => {
                let arguments: Vec<&IdedExpr> = call.target.as_deref().into_iter().chain(&call.args).collect();
                self.call(&call.func_name, &arguments)
            }
            _ => Seen::Anything,
        }
    }

    fn call(self, function: &str, arguments: &[&IdedExpr]) -> Seen {
        match (function, arguments) {
            (operators::LOGICAL_AND, [a, b]) => Seen::Truth(self.truth(a).with(self.truth(b), and)),
            (operators::LOGICAL_OR, [a, b]) => {
                let either = |a: Outcomes, b| negated(and(negated(a), negated(b)));
                Seen::Truth(self.truth(a).with(self.truth(b), either))
            }
            (operators::LOGICAL_NOT, [a]) => Seen::Truth(self.truth(a).with(TRUE, |a, _| negated(a))),
            (operators::CONDITIONAL, [condition, a, b]) => {
                let condition = self.truth(condition);
                let branch = |when, branch| if condition.has(when) { self.truth(branch) } else { Outcomes(0) };
                Seen::Truth(branch(TRUE, a).or(branch(FALSE, b)).or(Outcomes(condition.0 & MISSING.0)))
            }
            (operators::EQUALS, [a, b]) => self.compare(a, b, true),
            (operators::NOT_EQUALS, [a, b]) => self.compare(a, b, false),
            (operators::IN, [key, headers]) if is_headers(headers) => match self.look(key) {
                Seen::Text(key) if self.is(&key) => Seen::Truth(Outcomes::of(self.sent.is_some())),
                _ => Seen::Anything,
            },
            (operators::IN, [value, list]) => self.is_among(value, list),
            (operators::INDEX, [headers, key]) if is_headers(headers) => match self.look(key) {
                Seen::Text(key) if self.is(&key) => self.value(),
                _ => Seen::Anything,
            },
            ("orValue", [optional, otherwise]) if self.is_optional(optional) => match self.sent {
                Some(text) => Seen::Text(text.to_owned()),
                None => self.look(otherwise),
            },
            ("hasValue", [optional]) if self.is_optional(optional) => Seen::Truth(Outcomes::of(self.sent.is_some())),
            // These do not fail where their argument is not there, or give no boolean in the end.
            ("_[?_]" | "_?._" | "orValue" | "hasValue" | "or", _) => Seen::Anything,
            (_, arguments) => self.pass_on(arguments.iter().copied()),
        }
    }

    /// Without an argument, a function has no value.
    fn pass_on<'e>(self, arguments: impl IntoIterator<Item = &'e IdedExpr>) -> Seen {
        let is_missing = |argument| matches!(self.look(argument), Seen::Missing);
        match arguments.into_iter().any(is_missing) {
            true => Seen::Missing,
            false => Seen::Anything,
        }
    }

    fn compare(self, a: &IdedExpr, b: &IdedExpr, equal: bool) -> Seen {
        match (self.look(a), self.look(b)) {
            (Seen::Missing, _) | (_, Seen::Missing) => Seen::Missing,
            (Seen::Text(a), Seen::Text(b)) => Seen::Truth(Outcomes::of((a == b) == equal)),
            _ => Seen::Anything,
        }
    }

    fn is_among(self, value: &IdedExpr, list: &IdedExpr) -> Seen {
        let items: Option<Vec<Seen>> = match &list.expr {
            Expr::List(list) => Some(list.elements.iter().map(|item| self.look(item)).collect()),
            _ => None,
        };
        match (self.look(value), items) {
            (Seen::Missing, _) => Seen::Missing,
            (Seen::Text(text), Some(items)) if items.iter().all(|item| matches!(item, Seen::Text(_))) => {
                let found = items.iter().any(|item| matches!(item, Seen::Text(item) if *item == text));
                Seen::Truth(Outcomes::of(found))
            }
            _ => Seen::Anything,
        }
    }

    /// `request.headers[?"name"]` or `request.headers.?name`
    fn is_optional(self, expression: &IdedExpr) -> bool {
        let Expr::Call(call) = &expression.expr else { return false };
        let [headers, key] = call.args.as_slice() else { return false };
        let optional = matches!(call.func_name.as_str(), "_[?_]" | "_?._");
        optional && is_headers(headers) && matches!(self.look(key), Seen::Text(key) if self.is(&key))
    }

    fn is(self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }

    fn value(self) -> Seen {
        self.sent.map_or(Seen::Missing, |text| Seen::Text(text.to_owned()))
    }
}

fn is_headers(expression: &IdedExpr) -> bool {
    let Expr::Select(select) = &expression.expr else { return false };
    let of_request = matches!(&select.operand.expr, Expr::Ident(name) if name == "request");
    of_request && select.field == "headers" && !select.test
}

// === impl Outcomes ===

impl Outcomes {
    fn of(value: bool) -> Self {
        if value { TRUE } else { FALSE }
    }

    fn has(self, outcome: Outcomes) -> bool {
        self.0 & outcome.0 != 0
    }

    fn or(self, other: Outcomes) -> Self {
        Outcomes(self.0 | other.0)
    }

    /// What `combine` makes of each pair.
    fn with(self, other: Outcomes, combine: impl Fn(Outcomes, Outcomes) -> Outcomes) -> Self {
        let pairs = OUTCOMES.iter().flat_map(|a| OUTCOMES.iter().map(move |b| (*a, *b)));
        let of_both = pairs.filter(|(a, b)| self.has(*a) && other.has(*b));
        of_both.fold(Outcomes(0), |all, (a, b)| all.or(combine(a, b)))
    }
}

fn and(a: Outcomes, b: Outcomes) -> Outcomes {
    match (a, b) {
        (FALSE, _) | (_, FALSE) => FALSE,
        (TRUE, TRUE) => TRUE,
        _ => MISSING,
    }
}

fn negated(a: Outcomes) -> Outcomes {
    match a {
        TRUE => FALSE,
        FALSE => TRUE,
        other => other,
    }
}
