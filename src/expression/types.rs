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

/// A function: what it takes first, and what it yields.
struct Function {
    name: &'static str,
    takes: Types,
    yields: Types,
}

impl Function {
    const fn new(name: &'static str, takes: Types, yields: Types) -> Self {
        Function { name, takes, yields }
    }
}

/// Those of which it is known; of others anything may come.
const FUNCTIONS: [Function; 20] = [
    Function::new("int", SCALAR, Types::INT),
    Function::new("double", SCALAR, Types::DOUBLE),
    Function::new("uint", SCALAR, Types::UINT),
    Function::new("size", Types::TEXT.or(Types::OTHER), Types::INT),
    Function::new("indexOf", Types::TEXT, Types::INT),
    Function::new("lastIndexOf", Types::TEXT, Types::INT),
    Function::new("string", SCALAR.or(Types::BOOL).or(Types::OTHER), Types::TEXT),
    Function::new("lowerAscii", Types::TEXT, Types::TEXT),
    Function::new("upperAscii", Types::TEXT, Types::TEXT),
    Function::new("trim", Types::TEXT, Types::TEXT),
    Function::new("substring", Types::TEXT, Types::TEXT),
    Function::new("replace", Types::TEXT, Types::TEXT),
    Function::new("join", Types::OTHER, Types::TEXT),
    Function::new("charAt", Types::TEXT, Types::TEXT),
    Function::new("split", Types::TEXT, Types::OTHER),
    Function::new("contains", Types::TEXT, Types::BOOL),
    Function::new("startsWith", Types::TEXT, Types::BOOL),
    Function::new("endsWith", Types::TEXT, Types::BOOL),
    Function::new("matches", Types::TEXT, Types::BOOL),
    Function::new("bool", Types::TEXT.or(Types::BOOL), Types::BOOL),
];

/// A number, or a text.
const SCALAR: Types = Types::NUMBERS.or(Types::TEXT);

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
            fits(types, Types::INT.or(Types::DOUBLE), "negates").map(|()| types)
        }
        (operators::CONDITIONAL, [condition, a, b]) => {
            fits(of(condition)?, Types::BOOL, "takes for a condition")?;
            Ok(of(a)?.or(of(b)?))
        }
        (operators::LOGICAL_AND | operators::LOGICAL_OR, [a, b]) => {
            [a, b].into_iter().try_for_each(|side| fits(of(side)?, Types::BOOL, "takes for a condition"))?;
            Ok(Types::BOOL)
        }
        (operators::LOGICAL_NOT, [a]) => fits(of(a)?, Types::BOOL, "takes for a condition").map(|()| Types::BOOL),
        (operators::LESS | operators::LESS_EQUALS | operators::GREATER | operators::GREATER_EQUALS, [a, b]) => {
            compared(of(a)?, of(b)?).map(|()| Types::BOOL)
        }
        (operators::EQUALS | operators::NOT_EQUALS, _) => inside(expression).map(|()| Types::BOOL),
        (operators::IN, [item, list]) => {
            of(item)?;
            fits(of(list)?, Types::OTHER, "looks into").map(|()| Types::BOOL)
        }
        (name, _) => {
            let function = FUNCTIONS.iter().find(|function| function.name == name);
            // INVARIANT: each part is looked at once, else what is nested takes twice as long with each level.
            for (at, part) in call.target.as_deref().into_iter().chain(&call.args).enumerate() {
                let types = of(part)?;
                if let Some(function) = function.filter(|_| at == 0) {
                    fits(types, function.takes, &format!("calls `{name}` with"))?;
                }
            }
            Ok(function.map_or(Types::ANY, |function| function.yields))
        }
    }
}

/// Refuses what is none of `fit`, which the expression `does` something with.
fn fits(types: Types, fit: Types, does: &str) -> Result<(), CompileError> {
    match types.other_than(fit) {
        Some(what) => Err(CompileError::new(format!("{does} {what}, which cannot be"))),
        None => Ok(()),
    }
}

/// Numbers are compared with numbers, of whatever kind, and texts with texts.
fn compared(left: Types, right: Types) -> Result<(), CompileError> {
    [left, right].into_iter().try_for_each(|side| fits(side, SCALAR, "compares"))?;
    if (left.has(Types::TEXT) && right.has(Types::NUMBERS)) || (left.has(Types::NUMBERS) && right.has(Types::TEXT)) {
        return Err(CompileError::new("compares a number with a text"));
    }
    Ok(())
}

/// What an operator yields that takes two of one type, among `fit`.
fn calculated(does: &str, (a, b): (&IdedExpr, &IdedExpr), fit: Types) -> Result<Types, CompileError> {
    let (left, right) = (of(a)?, of(b)?);
    [left, right].into_iter().try_for_each(|side| fits(side, fit, does))?;
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

    const fn or(self, other: Types) -> Self {
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
