//! Texts with a `?` that are looked for in the path of a request. Here the path ends before its query, so they are never there.

use cel::IdedExpr;
use cel::common::ast::{CallExpr, Expr, LiteralValue, operators};
use regex_syntax::hir::{Hir, HirKind};

use super::CompileError;
use super::general::children;
use super::reference::{fields, text};

/// Functions that look for their argument in a text.
const LOOKING: &[&str] = &["contains", "startsWith", "endsWith", "indexOf", "lastIndexOf", "split"];

/// Functions whose result has no `?` where the text before them has none.
const KEEPING: &[&str] = &["lowerAscii", "upperAscii", "trim", "substring", "orValue", "value", "string"];

/// Variables of the macros around an expression, and the texts that they go through.
type Locals<'e> = Vec<(&'e str, Vec<&'e str>)>;

/// Refuses an expression that looks for a query in the path.
pub(super) fn check<'e>(expression: &'e IdedExpr, locals: &mut Locals<'e>) -> Result<(), CompileError> {
    if let Some((path, text)) = never_there(expression, locals) {
        return Err(error(path, text));
    }
    if let Some(split) = before_query(expression) {
        return split.target.iter().try_for_each(|target| check(target, locals));
    }
    if let Expr::Comprehension(c) = &expression.expr {
        [&c.iter_range, &c.accu_init].into_iter().try_for_each(|part| check(part, locals))?;
        locals.push((&c.iter_var, texts(&c.iter_range, locals)));
        let body = [&c.loop_cond, &c.loop_step, &c.result].into_iter().try_for_each(|part| check(part, locals));
        locals.pop();
        return body;
    }
    let mut inside = Vec::new();
    children(expression, &mut |child| inside.push(child));
    inside.into_iter().try_for_each(|child| check(child, locals))
}

fn error(path: &str, text: &str) -> CompileError {
    let error =
        CompileError::new(format!("looks for `{text}` in `request.{path}`, which ends before the `?` of the query"));
    let query = text.split_once('?').map(|(_, query)| query);
    let query = query
        .filter(|query| !query.is_empty() && query.bytes().all(|b| b.is_ascii_alphanumeric() || b"=&-_".contains(&b)));
    error.remedy(format!(
        "look at `request.query`, as in `request.query.contains(\"{}\")`",
        query.unwrap_or("stream=true")
    ))
}

/// Which path is asked for a text that it cannot have, and the text.
fn never_there<'e>(expression: &'e IdedExpr, locals: &Locals<'e>) -> Option<(&'e str, &'e str)> {
    let Expr::Call(call) = &expression.expr else { return None };
    let (one, other) = operands(call)?;
    let has_query = |text: &&str| text.contains('?');
    match call.func_name.as_str() {
        operators::EQUALS | operators::NOT_EQUALS => {
            let (path, other) = path(one).map(|path| (path, other)).or_else(|| Some((path(other)?, one)))?;
            Some((path, texts(other, locals).into_iter().find(has_query)?))
        }
        operators::IN => Some((path(one)?, texts(other, locals).into_iter().find(has_query)?)),
        "matches" => Some((path(one)?, texts(other, locals).into_iter().find(|text| asks_for_query(text))?)),
        name if LOOKING.contains(&name) => Some((path(one)?, texts(other, locals).into_iter().find(has_query)?)),
        _ => None,
    }
}

/// What is looked into, and what is looked for: `a.contains(b)`, `a == b`.
fn operands(call: &CallExpr) -> Option<(&IdedExpr, &IdedExpr)> {
    match (&call.target, call.args.as_slice()) {
        (Some(target), [argument, ..]) => Some((target, argument)),
        (None, [one, other]) => Some((one, other)),
        _ => None,
    }
}

/// `request.path` or `request.url_path`, be it in other letters or a part of it.
fn path(expression: &IdedExpr) -> Option<&str> {
    if let Some(["request", name @ ("path" | "url_path")]) = fields(expression).as_deref() {
        return Some(name);
    }
    let Expr::Call(call) = &expression.expr else { return None };
    let of = call.target.as_deref().or_else(|| call.args.first())?;
    KEEPING.contains(&call.func_name.as_str()).then(|| path(of)).flatten()
}

/// The literals that make up a text, or any of a list.
fn texts<'e>(expression: &'e IdedExpr, locals: &Locals<'e>) -> Vec<&'e str> {
    match &expression.expr {
        Expr::List(list) => list.elements.iter().flat_map(|element| texts(element, locals)).collect(),
        Expr::Ident(name) => {
            locals.iter().rfind(|(local, _)| local == name).map(|(_, texts)| texts.clone()).unwrap_or_default()
        }
        Expr::Call(call) if call.func_name == operators::ADD => {
            call.args.iter().flat_map(|part| texts(part, locals)).collect()
        }
        _ => text(expression).into_iter().collect(),
    }
}

/// `request.path.split("?")[0]`, which is the path anywhere.
fn before_query(expression: &IdedExpr) -> Option<&CallExpr> {
    let Expr::Call(index) = &expression.expr else { return None };
    let [list, at] = index.args.as_slice() else { return None };
    let is_first = matches!(&at.expr, Expr::Literal(LiteralValue::Int(at)) if *at.inner() == 0);
    match &list.expr {
        Expr::Call(call) if is_first && index.func_name == operators::INDEX && call.func_name == "split" => Some(call),
        _ => None,
    }
}

/// Whether all that a regular expression matches has a `?`.
#[must_use]
pub fn asks_for_query(pattern: &str) -> bool {
    regex_syntax::parse(pattern).is_ok_and(|pattern| needs_query(&pattern))
}

fn needs_query(pattern: &Hir) -> bool {
    match pattern.kind() {
        HirKind::Literal(literal) => literal.0.contains(&b'?'),
        HirKind::Repetition(repetition) => repetition.min > 0 && needs_query(&repetition.sub),
        HirKind::Capture(capture) => needs_query(&capture.sub),
        HirKind::Concat(parts) => parts.iter().any(needs_query),
        HirKind::Alternation(parts) => parts.iter().all(needs_query),
        HirKind::Empty | HirKind::Look(_) | HirKind::Class(_) => false,
    }
}
