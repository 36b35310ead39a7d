//! The types that a cost may yield, as far as its syntax tree tells. CEL has no arithmetic of whole numbers with fractions: the
//! interpreter would say so only while an answer is settled.

use cel::IdedExpr;
use cel::common::ast::{CallExpr, Expr, LiteralValue, operators};

use super::CompileError;
use super::general::children;
use super::names::{MODEL, USAGE};
use super::reference::text;

/// A set of types: those that an expression has in one of its branches or another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Types(u8);

/// How each is named to people.
const NAMES: [(Types, &str); 6] = [
    (Types::INT, "a whole number"),
    (Types::DOUBLE, "a number with a fraction"),
    (Types::UINT, "an unsigned number"),
    (Types::TEXT, "a text"),
    (Types::BOOL, "true or false"),
    (Types::OTHER, "a list or mapping"),
];

/// What calls yield, whatever is in them.
const RESULTS: [(&str, Types); 20] = [
    ("int", Types::INT),
    ("size", Types::INT),
    ("indexOf", Types::INT),
    ("lastIndexOf", Types::INT),
    ("double", Types::DOUBLE),
    ("uint", Types::UINT),
    ("string", Types::TEXT),
    ("lowerAscii", Types::TEXT),
    ("upperAscii", Types::TEXT),
    ("trim", Types::TEXT),
    ("substring", Types::TEXT),
    ("replace", Types::TEXT),
    ("join", Types::TEXT),
    ("charAt", Types::TEXT),
    ("split", Types::OTHER),
    ("contains", Types::BOOL),
    ("startsWith", Types::BOOL),
    ("endsWith", Types::BOOL),
    ("matches", Types::BOOL),
    ("bool", Types::BOOL),
];

/// The types of `expression`.
///
/// # Errors
///
/// It calculates with what cannot be calculated with.
pub(super) fn of(expression: &IdedExpr) -> Result<Types, CompileError> {
    if let Some(types) = of_path(expression) {
        return Ok(types);
    }
    match &expression.expr {
        Expr::Literal(literal) => Ok(of_literal(literal)),
        Expr::Call(call) => of_call(call, expression),
        Expr::Ident(name) if [USAGE, MODEL].contains(&name.as_str()) => Ok(Types::OTHER),
        Expr::List(_) | Expr::Map(_) | Expr::Struct(_) => inside(expression).map(|()| Types::OTHER),
        Expr::Comprehension(c) => {
            inside(expression)?;
            // `map` and `filter` gather a list; of others the result has a variable.
            Ok(if matches!(c.accu_init.expr, Expr::List(_)) { Types::OTHER } else { Types::ANY })
        }
        Expr::Select(select) if select.test => Ok(Types::BOOL),
        Expr::Select(_) => inside(expression).map(|()| Types::ANY),
        Expr::Ident(_) | Expr::Unspecified => Ok(Types::ANY),
    }
}

/// Looks for faults in the parts of `expression`.
fn inside(expression: &IdedExpr) -> Result<(), CompileError> {
    let mut parts = Vec::new();
    children(expression, &mut |child| parts.push(child));
    parts.into_iter().try_for_each(|part| of(part).map(drop))
}

/// `usage.input`, `model["name"]`
fn of_path(expression: &IdedExpr) -> Option<Types> {
    let root = match &expression.expr {
        Expr::Select(select) if !select.test => &select.operand,
        Expr::Call(call) if call.func_name == operators::INDEX => {
            let [root, key] = call.args.as_slice() else { return None };
            text(key).map(|_| root)?
        }
        _ => return None,
    };
    match &root.expr {
        Expr::Ident(name) if name == USAGE => Some(Types::INT),
        Expr::Ident(name) if name == MODEL => Some(Types::TEXT),
        _ => None,
    }
}

fn of_literal(literal: &LiteralValue) -> Types {
    match literal {
        LiteralValue::Int(_) => Types::INT,
        LiteralValue::UInt(_) => Types::UINT,
        LiteralValue::Double(_) => Types::DOUBLE,
        LiteralValue::String(_) => Types::TEXT,
        LiteralValue::Boolean(_) => Types::BOOL,
        LiteralValue::Bytes(_) | LiteralValue::Null => Types::OTHER,
    }
}

fn of_call(call: &CallExpr, expression: &IdedExpr) -> Result<Types, CompileError> {
    match (call.func_name.as_str(), call.args.as_slice()) {
        (operators::ADD, [a, b]) => calculated("adds", (a, b), Types::NUMBERS.or(Types::TEXT).or(Types::OTHER)),
        (operators::SUBSTRACT, [a, b]) => calculated("subtracts", (a, b), Types::NUMBERS),
        (operators::MULTIPLY, [a, b]) => calculated("multiplies", (a, b), Types::NUMBERS),
        (operators::DIVIDE, [a, b]) => calculated("divides", (a, b), Types::NUMBERS),
        (operators::MODULO, [a, b]) => calculated("divides", (a, b), Types::INT.or(Types::UINT)),
        (operators::NEGATE, [a]) => {
            let types = of(a)?;
            match types.other_than(Types::INT.or(Types::DOUBLE)) {
                Some(what) => Err(CompileError::new(format!("negates {what}"))),
                None => Ok(types),
            }
        }
        (operators::CONDITIONAL, [condition, a, b]) => {
            if let Some(what) = of(condition)?.other_than(Types::BOOL) {
                return Err(CompileError::new(format!("asks whether {what} is so")));
            }
            Ok(of(a)?.or(of(b)?))
        }
        (operator, _) if is_question(operator) => inside(expression).map(|()| Types::BOOL),
        (name, _) => {
            inside(expression)?;
            let result = RESULTS.iter().find(|(function, _)| *function == name);
            Ok(result.map_or(Types::ANY, |(_, types)| *types))
        }
    }
}

fn is_question(operator: &str) -> bool {
    [
        operators::EQUALS,
        operators::NOT_EQUALS,
        operators::LESS,
        operators::LESS_EQUALS,
        operators::GREATER,
        operators::GREATER_EQUALS,
        operators::LOGICAL_AND,
        operators::LOGICAL_OR,
        operators::LOGICAL_NOT,
        operators::IN,
    ]
    .contains(&operator)
}

/// What an operator yields that takes two of one type, among `fit`.
fn calculated(does: &str, (a, b): (&IdedExpr, &IdedExpr), fit: Types) -> Result<Types, CompileError> {
    let (left, right) = (of(a)?, of(b)?);
    for types in [left, right] {
        if let Some(what) = types.other_than(fit) {
            return Err(CompileError::new(format!("{does} {what}")));
        }
    }
    match left.unlike(right) {
        None => Ok(left.and(right)),
        Some((one, other)) => {
            let error = CompileError::new(format!("{does} {one} and {other}, which CEL does not mix"));
            Err(error.remedy("write `double(…)` around the whole numbers, as in `1.5 * double(usage.output)`"))
        }
    }
}

// === impl Types ===

impl Types {
    const INT: Self = Types(1);
    const DOUBLE: Self = Types(2);
    const UINT: Self = Types(4);
    const TEXT: Self = Types(8);
    const BOOL: Self = Types(16);
    const OTHER: Self = Types(32);
    /// What is not known.
    const ANY: Self = Types(64);
    pub(super) const NUMBERS: Self = Types(7);

    fn or(self, other: Types) -> Self {
        Types(self.0 | other.0)
    }

    fn has(self, types: Types) -> bool {
        self.0 & types.0 != 0
    }

    /// Those of two that are alike; what is not known is like the other.
    fn and(self, other: Types) -> Self {
        if self.has(Types::ANY) { other } else { self }
    }

    /// The name of one that is known, and is none of `fit`.
    pub(super) fn other_than(self, fit: Types) -> Option<&'static str> {
        NAMES.iter().find(|(types, _)| self.has(*types) && !fit.has(*types)).map(|(_, name)| *name)
    }

    /// The names of two that are known and not alike.
    fn unlike(self, other: Types) -> Option<(&'static str, &'static str)> {
        NAMES
            .iter()
            .filter(|(types, _)| self.has(*types))
            .find_map(|(types, name)| Some((*name, other.other_than(*types)?)))
    }
}
