//! What an expression looks at, found without evaluating it.

use cel::IdedExpr;
use cel::common::ast::{Expr, LiteralValue, operators};

use super::direct::Path;
use super::general::children;

/// All that an expression looks at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uses {
    pub paths: Vec<Use>,
    /// Whether it looks at something that is no path, such as all of `auth.identity` or `auth.identity.?tier`.
    pub opaque: bool,
}

/// One place at which an expression looks at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    pub path: Path,
    pub how: UseKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UseKind {
    /// By `==`, `!=` or `in`, with these texts and nothing else.
    Compared(Vec<String>),
    /// By `has(…)`: it need not be there.
    Tested,
    /// In any other way.
    Read,
}

pub(super) fn uses(expression: &IdedExpr) -> Uses {
    let mut uses = Uses::default();
    let mut open = vec![expression];
    while let Some(expression) = open.pop() {
        if let Some((path, texts)) = comparison(expression) {
            uses.paths.push(Use { path, how: UseKind::Compared(texts) });
        } else if let Some(path) = Path::tested(expression) {
            uses.paths.push(Use { path, how: UseKind::Tested });
        } else if let Some(path) = Path::recognise(expression) {
            uses.paths.push(Use { path, how: UseKind::Read });
        } else {
            uses.opaque |= matches!(&expression.expr, Expr::Ident(name) if crate::expression::names::ROOTS.contains(&name.as_str()));
            children(expression, &mut |child| open.push(child));
        }
    }
    uses
}

/// The path and the texts that `expression` compares it with.
fn comparison(expression: &IdedExpr) -> Option<(Path, Vec<String>)> {
    let Expr::Call(call) = &expression.expr else { return None };
    let [left, right] = call.args.as_slice() else { return None };
    let (path, other) = match call.func_name.as_str() {
        operators::EQUALS | operators::NOT_EQUALS => match (Path::recognise(left), Path::recognise(right)) {
            (Some(path), None) => (path, right),
            (None, Some(path)) => (path, left),
            _ => return None,
        },
        operators::IN => (Path::recognise(left)?, right),
        _ => return None,
    };
    let text = |expression: &IdedExpr| match &expression.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner().to_owned()),
        _ => None,
    };
    let texts = match &other.expr {
        Expr::List(list) => list.elements.iter().map(text).collect::<Option<Vec<_>>>()?,
        _ => vec![text(other).filter(|_| call.func_name != operators::IN)?],
    };
    Some((path, texts))
}
