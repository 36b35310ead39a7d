//! Expressions in the CEL interpreter.

use std::borrow::Cow;
use std::sync::Arc;

use cel::common::ast::{EntryExpr, Expr, LiteralValue, operators};
use cel::{ExecutionError, IdedExpr};
use serde_json::{Map, Number, Value};

use super::direct::Path;
use super::{EvalError, Scope, Val, cost};
use crate::request::Unset;

/// Evaluates `program`; only the roots that it names are built.
pub(super) fn eval<'a>(program: &cel::Program, env: &Arc<cel::Env>, scope: &Scope<'_>) -> Result<Val<'a>, EvalError> {
    let mut context = cel::Context::with_env(Arc::clone(env));
    let references = program.references();
    for (name, build) in [("auth", auth as fn(&Scope<'_>) -> Value), ("request", request)] {
        if references.has_variable(name) {
            let value = build(scope);
            if !cost::fits(&value) {
                return Err(EvalError::Failed("the request holds more than an expression may see".to_owned()));
            }
            let bound = context.add_variable(name, value);
            bound.map_err(|error| EvalError::Failed(error.to_string()))?;
        }
    }
    let value = program.execute(&context).map_err(|error| eval_error(program, &error))?;
    to_val(&value)
}

fn auth(scope: &Scope<'_>) -> Value {
    let mut auth = Map::new();
    if let Some(identity) = scope.identity {
        auth.insert("identity".to_owned(), identity.to_json());
    }
    if !scope.metadata.is_empty() {
        let metadata = scope.metadata.iter().map(|(name, value)| (name.to_string(), value.to_json()));
        auth.insert("metadata".to_owned(), Value::Object(metadata.collect()));
    }
    // Of two of one name the first one counts, as in `Scope::filter`.
    for (name, properties) in scope.filters {
        auth.entry(&**name).or_insert_with(|| properties.to_json());
    }
    auth.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    Value::Object(auth)
}

fn request(scope: &Scope<'_>) -> Value {
    let mut request = Map::new();
    for name in crate::request::Attributes::NAMES {
        if let Some(value) = scope.request.get(name) {
            request.insert((*name).to_owned(), Value::String(value.to_owned()));
        }
    }
    if let Some(headers) = scope.request.headers {
        let mut map = Map::new();
        for (name, value) in headers.iter() {
            let name = name.to_ascii_lowercase();
            match map.get_mut(&name) {
                Some(Value::String(joined)) => *joined = format!("{joined},{value}"),
                _ => drop(map.insert(name, Value::String(value.into_owned()))),
            }
        }
        // Envoy knows the host by this name too, and sends it by none.
        if let (Unset::Empty, false) = (scope.request.unset, map.contains_key("host")) {
            map.insert("host".to_owned(), Value::String(scope.request.host.to_owned()));
        }
        request.insert("headers".to_owned(), Value::Object(map));
    }
    Value::Object(request)
}

pub(super) fn eval_error(program: &cel::Program, error: &ExecutionError) -> EvalError {
    match error {
        ExecutionError::NoSuchKey(name) if spells(program.expression(), name) => EvalError::Missing(name.to_string()),
        // It was computed, perhaps from a caller's header.
        ExecutionError::NoSuchKey(_) => EvalError::Missing("a computed key".to_owned()),
        // A variable of a macro, outside of it: a mistake of the policy, not something the caller lacks.
        ExecutionError::UndeclaredReference(name) => EvalError::Failed(format!("`{name}` is not known here")),
        ExecutionError::IndexOutOfBounds(index) => EvalError::Missing(match index {
            cel::Value::Int(index) => format!("element {index}"),
            _ => "an element".to_owned(),
        }),
        // The texts of most other errors hold the values at hand, which may be a caller's headers.
        ExecutionError::NoSuchOverload(overload) => EvalError::Failed(overload.to_string()),
        ExecutionError::FunctionError { function, .. } => EvalError::Failed(format!("`{function}` failed")),
        ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => {
            EvalError::Failed("division by zero".to_owned())
        }
        ExecutionError::Overflow(..) => EvalError::Failed("arithmetic overflow".to_owned()),
        _ => EvalError::Failed("the values have types that do not fit".to_owned()),
    }
}

/// Whether `name` stands in the expression itself.
fn spells(expression: &IdedExpr, name: &str) -> bool {
    let mut found = false;
    walk(expression, &mut |expression| {
        found |= match &expression.expr {
            Expr::Select(select) => select.field == name,
            Expr::Literal(LiteralValue::String(text)) => text.inner() == name,
            _ => false,
        }
    });
    found
}

fn to_val<'a>(value: &cel::Value) -> Result<Val<'a>, EvalError> {
    if let cel::Value::String(text) = value {
        return Ok(Val::Text(Cow::Owned(text.to_string())));
    }
    to_json(value).map(|value| Val::Json(Cow::Owned(value)))
}

fn to_json(value: &cel::Value) -> Result<Value, EvalError> {
    let unusable = |what: &str| Err(EvalError::Failed(format!("yields {what}, which has no JSON form")));
    Ok(match value {
        cel::Value::Null => Value::Null,
        cel::Value::Bool(value) => Value::Bool(*value),
        cel::Value::Int(value) => Value::Number((*value).into()),
        cel::Value::UInt(value) => Value::Number((*value).into()),
        cel::Value::Float(value) => match Number::from_f64(*value) {
            Some(number) => Value::Number(number),
            None => return unusable("a number that is not finite"),
        },
        cel::Value::String(text) => Value::String(text.to_string()),
        cel::Value::List(items) => Value::Array(items.iter().map(to_json).collect::<Result<_, _>>()?),
        cel::Value::Map(map) => {
            let entry = |(key, value): (&cel::objects::Key, &cel::Value)| Ok((key.to_string(), to_json(value)?));
            Value::Object(map.map.iter().map(entry).collect::<Result<_, EvalError>>()?)
        }
        _ => return unusable("a value"),
    })
}

/// The first error, without the interpreter's drawing of the source.
pub(super) fn parse_error(errors: &cel::ParseErrors) -> String {
    let text = errors.to_string();
    let first = text.lines().next().unwrap_or("is not CEL");
    let first = first.strip_prefix("ERROR: <input>:").unwrap_or(first);
    match first.split_once(": ") {
        Some((position, message)) => format!("does not compile: {message} (at {position} of the expression)"),
        None => format!("does not compile: {first}"),
    }
}

/// Whether `name` is a variable that a macro (`exists`, `map` …) declares.
pub(super) fn is_local(expression: &IdedExpr, name: &str) -> bool {
    let mut found = false;
    walk(expression, &mut |expression| {
        if let Expr::Comprehension(c) = &expression.expr {
            found |= c.iter_var == name || c.accu_var == name || c.iter_var2.as_deref() == Some(name);
        }
    });
    found
}

/// Names the type of a result that can never be a boolean.
pub(super) fn surely_not_bool(expression: &IdedExpr) -> Option<&'static str> {
    match &expression.expr {
        Expr::Literal(LiteralValue::Boolean(_)) => None,
        Expr::Literal(LiteralValue::String(_)) => Some("a string"),
        Expr::Literal(LiteralValue::Null) => Some("null"),
        Expr::Literal(_) => Some("a number"),
        Expr::List(_) => Some("a list"),
        Expr::Map(_) | Expr::Struct(_) => Some("a mapping"),
        // `map` and `filter` gather a list; `exists_one` counts, and its result is a comparison.
        Expr::Comprehension(c) => match c.accu_init.expr {
            Expr::List(_) => Some("a list"),
            _ => surely_not_bool(&c.result),
        },
        Expr::Call(call) => match call.func_name.as_str() {
            operators::CONDITIONAL => call.args.iter().skip(1).find_map(surely_not_bool),
            operators::ADD => Some("a sum"),
            operators::SUBSTRACT | operators::MULTIPLY | operators::DIVIDE | operators::MODULO | operators::NEGATE => {
                Some("a number")
            }
            "size" | "int" | "uint" | "double" | "indexOf" | "lastIndexOf" => Some("a number"),
            "string" | "join" | "replace" | "substring" | "trim" | "lowerAscii" | "upperAscii" | "charAt" => {
                Some("a string")
            }
            "split" => Some("a list"),
            _ => None,
        },
        Expr::Unspecified | Expr::Ident(_) | Expr::Select(_) => None,
    }
}

/// The text literals that `path` is compared with, by `==` or `in`.
pub(super) fn literals_compared_with(expression: &IdedExpr, path: &str) -> Vec<String> {
    let Some(path) = Path::parse(path) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    walk(expression, &mut |expression| {
        let Expr::Call(call) = &expression.expr else { return };
        let [left, right] = call.args.as_slice() else { return };
        let is_path = |side: &IdedExpr| Path::recognise(side).as_ref() == Some(&path);
        let other = match call.func_name.as_str() {
            operators::EQUALS | operators::NOT_EQUALS if is_path(left) => right,
            operators::EQUALS | operators::NOT_EQUALS if is_path(right) => left,
            operators::IN if is_path(left) => right,
            _ => return,
        };
        let mut literal = |expression: &IdedExpr| {
            if let Expr::Literal(LiteralValue::String(text)) = &expression.expr {
                found.push(text.inner().to_owned());
            }
        };
        match &other.expr {
            Expr::List(list) => list.elements.iter().for_each(literal),
            _ => literal(other),
        }
    });
    found
}

/// The depth of the syntax tree, found without recursion: evaluating it recurses this deep.
pub(super) fn depth(expression: &IdedExpr) -> usize {
    let (mut deepest, mut open) = (0, vec![(expression, 1)]);
    while let Some((expression, depth)) = open.pop() {
        deepest = deepest.max(depth);
        children(expression, &mut |child| open.push((child, depth + 1)));
    }
    deepest
}

fn walk(expression: &IdedExpr, visit: &mut impl FnMut(&IdedExpr)) {
    let mut open = vec![expression];
    while let Some(expression) = open.pop() {
        visit(expression);
        children(expression, &mut |child| open.push(child));
    }
}

pub(super) fn children<'e>(expression: &'e IdedExpr, visit: &mut impl FnMut(&'e IdedExpr)) {
    match &expression.expr {
        Expr::Call(call) => call.target.as_deref().into_iter().chain(&call.args).for_each(visit),
        Expr::Select(select) => visit(&select.operand),
        Expr::List(list) => list.elements.iter().for_each(visit),
        Expr::Map(map) => map.entries.iter().for_each(|entry| entry_children(&entry.expr, visit)),
        Expr::Struct(object) => object.entries.iter().for_each(|entry| entry_children(&entry.expr, visit)),
        Expr::Comprehension(c) => {
            [&c.iter_range, &c.accu_init, &c.loop_cond, &c.loop_step, &c.result].into_iter().for_each(visit);
        }
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => {}
    }
}

fn entry_children<'e>(entry: &'e EntryExpr, visit: &mut impl FnMut(&'e IdedExpr)) {
    match entry {
        EntryExpr::MapEntry(entry) => {
            visit(&entry.key);
            visit(&entry.value);
        }
        EntryExpr::StructField(field) => visit(&field.value),
    }
}
