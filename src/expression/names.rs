//! Names that there are not: functions, roots, and members that no request has. The interpreter would meet them only while a
//! request waits, and take some of them for what this request happens not to have.

use cel::IdedExpr;
use cel::common::ast::{CallExpr, ComprehensionExpr, Expr, operators};

use super::CompileError;
use super::general::{children, is_local};
use super::reference::{asked_for, fields, text};
use crate::request::Attributes;
use crate::spelling::did_you_mean;

/// Functions that expressions may call.
const FUNCTIONS: &[&str] = &[
    "_?_:_",
    "_&&_",
    "_||_",
    "!_",
    "_-_",
    "_+_",
    "_*_",
    "_/_",
    "_%_",
    "_==_",
    "_!=_",
    "_>=_",
    "_<=_",
    "_>_",
    "_<_",
    "-_",
    "_[_]",
    "_[?_]",
    "_?._",
    "@in",
    "@not_strictly_false",
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "matches",
    "string",
    "int",
    "uint",
    "double",
    "bool",
    "bytes",
    "type",
    "dyn",
    "charAt",
    "indexOf",
    "lastIndexOf",
    "join",
    "lowerAscii",
    "upperAscii",
    "replace",
    "split",
    "substring",
    "trim",
    "reverse",
    "format",
    "strings.quote",
    "duration",
    "timestamp",
    "orValue",
    "hasValue",
    "optional.of",
    "optional.none",
    "value",
    "or",
];

/// Functions of Kuadrant's that are not carried out, and what to write.
const FOREIGN_FUNCTIONS: &[(&str, &str)] = &[
    (
        "requestBodyJSON",
        "no body is read here: give each model's HTTPRoute limits of its own, or look at `request.path` or a header",
    ),
    ("responseBodyJSON", "tokens are counted by the usage report: a TokenRateLimitPolicy says how many"),
    ("queryMap", "look at the text, as in `request.query.contains(\"stream=true\")`"),
    ("decodeQueryString", "look at the text, as in `request.query.contains(\"stream=true\")`"),
    ("getHostProperty", "look at `auth` or `request`"),
    ("not", "write `!`"),
];

/// What expressions of one kind see.
struct Vocabulary {
    roots: &'static [&'static str],
    /// Roots of other systems, or other places, and what to write.
    foreign: &'static [(&'static str, &'static str)],
    /// What is said of a root that there is not.
    sees: &'static str,
    /// Refuses a chain of fields that leads to nothing.
    member: fn(&[&str]) -> Result<(), CompileError>,
}

/// What conditions, values and counters see.
const OF_REQUESTS: Vocabulary =
    Vocabulary { roots: ROOTS, foreign: FOREIGN_ROOTS, sees: "expressions see `auth` and `request`", member };

/// What costs see.
const OF_ANSWERS: Vocabulary = Vocabulary {
    roots: &[USAGE, MODEL],
    foreign: FOREIGN_TO_COSTS,
    sees: "costs see `usage` and `model`",
    member: member_of_answer,
};

/// Root variables, with what is documented about them.
pub(super) const ROOTS: &[&str] = &["auth", "request"];

/// Root variables of costs.
pub(super) const USAGE: &str = "usage";
pub(super) const MODEL: &str = "model";
/// The members of `usage`, in the order of [`super::Used`].
pub(super) const NUMBERS: [&str; 5] = ["input", "output", "cached", "reasoning", "total"];
/// Those of `model`.
const OF_MODEL: [&str; 2] = ["namespace", "name"];

/// What other expressions see and costs do not, and what to write.
const FOREIGN_TO_COSTS: &[(&str, &str)] = &[("auth", OTHER_LIMITS), ("request", OTHER_LIMITS)];
const OTHER_LIMITS: &str = "a cost sees the answer alone: `usage` and `model`; for some callers or requests write another limit, with its own `when` and cost";

/// Roots of Authorino's and Kuadrant's documents that are not carried out, and what to write.
const FOREIGN_ROOTS: &[(&str, &str)] = &[
    ("context", "`context` is for selectors; in CEL write `request.method`, `request.path`, `request.headers`"),
    ("source", "look at the caller, `auth.identity`, or at a header that the gateway sets"),
    ("destination", "look at `request.host` or `request.path`"),
    ("connection", "look at the caller, `auth.identity`, or at a header that the gateway sets"),
    ("metadata", "what the AuthPolicy found out is `auth.metadata`; to limits, `auth.identity`"),
    ("grpc", "look at `request.path`, which is `/<service>/<method>`"),
    ("response", "a limit is decided before there is a response"),
    ("descriptors", "a policy's expression sees the request itself: write `auth` and `request`"),
    (USAGE, "what an answer used is known to costs alone: the annotation `tiergate.io/cost.<limit>`"),
    (MODEL, "look at `request.path`, or at a header that names the model"),
];

/// Members of Authorino's and Kuadrant's `request` that are not carried out, and what to write.
const FOREIGN_ATTRIBUTES: &[(&str, &str)] = &[
    ("auth", "look at `auth.identity`: the AuthPolicy says what it holds"),
    ("http", "leave `http` out, as in `request.headers[\"x-team\"]`"),
    ("body", "no body is read here: look at `request.path` or a header"),
    ("raw_body", "no body is read here: look at `request.path` or a header"),
    ("user_agent", "write `request.headers[\"user-agent\"]`"),
    ("useragent", "write `request.headers[\"user-agent\"]`"),
    ("referer", "write `request.headers[\"referer\"]`"),
    ("id", "write `request.headers[\"x-request-id\"]`"),
    ("grpc", "look at `request.path`, which is `/<service>/<method>`"),
    ("time", "windows are what limits know of time"),
    ("size", "write `request.headers[\"content-length\"]`"),
    ("protocol", "look at `request.scheme`"),
    ("context_extensions", "look at `request.host` or `request.path`"),
];

/// Refuses what names what is not there.
pub(super) fn check(program: &cel::Program) -> Result<(), CompileError> {
    OF_REQUESTS.check(program)
}

/// Likewise, of a cost.
pub(super) fn check_cost(program: &cel::Program) -> Result<(), CompileError> {
    OF_ANSWERS.check(program)
}

// === impl Vocabulary ===

impl Vocabulary {
    fn check(&self, program: &cel::Program) -> Result<(), CompileError> {
        let expression = program.expression();
        let references = program.references();
        let functions = references.functions();
        // The first by name: their order is chance.
        if let Some(name) = functions.iter().filter(|name| !FUNCTIONS.contains(*name)).min() {
            return Err(unknown_function(name));
        }
        let variables = references.variables();
        let unknown = |name: &&&str| !self.roots.contains(*name) && !is_local(expression, name);
        if let Some(name) = variables.iter().filter(unknown).min() {
            return Err(self.unknown_root(name, expression));
        }
        members(expression, self.member)
    }

    fn unknown_root(&self, name: &str, expression: &IdedExpr) -> CompileError {
        if let Some((_, remedy)) = self.foreign.iter().find(|(foreign, _)| *foreign == name) {
            return CompileError::new(format!("names `{name}`, which is not supported")).remedy(*remedy);
        }
        let error = CompileError::new(format!("names `{name}`, which is not known here; {}", self.sees));
        let lower = name.to_ascii_lowercase();
        if let Some(constant) = ["true", "false", "null"].into_iter().find(|constant| *constant == lower) {
            return meant(error, Some(constant));
        }
        // What stands alone is a text more likely than a root.
        match hyphenated(expression, name) {
            Some(path) => error.remedy(format!("write `{path}`: a `-` is a minus")),
            None if is_selected(expression, name) => meant(error, did_you_mean(name, self.roots.iter().copied())),
            None => error.remedy(format!("write a text in quotes: `\"{name}\"`")),
        }
    }
}

fn unknown_function(name: &str) -> CompileError {
    if let Some((_, remedy)) = FOREIGN_FUNCTIONS.iter().find(|(foreign, _)| *foreign == name) {
        return CompileError::new(format!("calls `{name}`, which is not supported")).remedy(*remedy);
    }
    let error = CompileError::new(format!("calls `{name}`, which is not a function"));
    meant(error, did_you_mean(name, FUNCTIONS.iter().copied()))
}

fn meant(error: CompileError, meant: Option<&str>) -> CompileError {
    match meant {
        Some(meant) => error.remedy(format!("did you mean `{meant}`?")),
        None => error,
    }
}

/// What was meant where `name` is the end of a name with a hyphen: `request.headers.x-team`.
fn hyphenated(expression: &IdedExpr, name: &str) -> Option<String> {
    let mut open = vec![expression];
    while let Some(expression) = open.pop() {
        children(expression, &mut |child| open.push(child));
        let (mut parts, mut left) = (Vec::new(), expression);
        while let Expr::Call(call) = &left.expr
            && let (operators::SUBSTRACT, [before, after]) = (call.func_name.as_str(), call.args.as_slice())
            && let Expr::Ident(part) = &after.expr
        {
            parts.push(part.as_str());
            left = before;
        }
        let Some(path) = fields(left) else { continue };
        let [path @ .., first] = path.as_slice() else { continue };
        if !path.is_empty() && parts.contains(&name) {
            parts.push(first);
            parts.reverse();
            return Some(format!("{}[\"{}\"]", path.join("."), parts.join("-")));
        }
    }
    None
}

/// Whether something is selected from the variable `name`.
fn is_selected(expression: &IdedExpr, name: &str) -> bool {
    let mut open = vec![expression];
    while let Some(expression) = open.pop() {
        if fields(expression).is_some_and(|path| path.len() > 1 && path.first() == Some(&name)) {
            return true;
        }
        children(expression, &mut |child| open.push(child));
    }
    false
}

// === members ===

fn members(expression: &IdedExpr, member: fn(&[&str]) -> Result<(), CompileError>) -> Result<(), CompileError> {
    let mut open = vec![expression];
    while let Some(expression) = open.pop() {
        if let Some(path) = fields(expression).or_else(|| asked_for(expression)) {
            member(&path)?;
            continue;
        }
        if let Expr::Comprehension(comprehension) = &expression.expr {
            headers_by_name(comprehension)?;
        }
        children(expression, &mut |child| open.push(child));
    }
    Ok(())
}

/// Refuses a chain of fields that leads to what no request has. What is in `auth` is another question: see `View`.
fn member(path: &[&str]) -> Result<(), CompileError> {
    let ["request", name, inside @ ..] = path else { return Ok(()) };
    if *name == "headers" {
        let [header, inside @ ..] = inside else { return Ok(()) };
        lower_case(header)?;
        return no_member(&format!("request.headers[\"{header}\"]"), inside);
    }
    if Attributes::NAMES.contains(name) {
        return no_member(&format!("request.{name}"), inside);
    }
    if let Some((_, remedy)) = FOREIGN_ATTRIBUTES.iter().find(|(foreign, _)| foreign == name) {
        return Err(CompileError::new(format!("asks for `request.{name}`, which is not supported")).remedy(*remedy));
    }
    let error = CompileError::new(format!("asks for `request.{name}`, which no request has"));
    let known = || Attributes::NAMES.iter().copied().chain(["headers"]);
    Err(match did_you_mean(name, known()) {
        Some(meant) => error.remedy(format!("did you mean `request.{meant}`?")),
        None => error.remedy(format!("there are {}", known().collect::<Vec<_>>().join(", "))),
    })
}

/// Likewise, to what no answer has.
fn member_of_answer(path: &[&str]) -> Result<(), CompileError> {
    let (root, known, name, inside) = match path {
        [root, name, inside @ ..] if *root == USAGE => (*root, &NUMBERS[..], *name, inside),
        [root, name, inside @ ..] if *root == MODEL => (*root, &OF_MODEL[..], *name, inside),
        _ => return Ok(()),
    };
    if !known.contains(&name) {
        let error = CompileError::new(format!("asks for `{root}.{name}`, which no answer has"));
        return Err(match did_you_mean(name, known.iter().copied()) {
            Some(meant) => error.remedy(format!("did you mean `{root}.{meant}`?")),
            None => error.remedy(format!("there are {}", known.join(", "))),
        });
    }
    match inside.first() {
        Some(inside) => Err(CompileError::new(format!("asks for `{inside}` in `{root}.{name}`, which has no members"))),
        None => Ok(()),
    }
}

/// A text has no members.
fn no_member(of: &str, inside: &[&str]) -> Result<(), CompileError> {
    let Some(name) = inside.first() else { return Ok(()) };
    let error = CompileError::new(format!("asks for `{name}` in `{of}`, which is a text and has no members"));
    Err(error.remedy(format!("write `{of} == \"{name}\"`, or `{of}.contains(\"{name}\")`")))
}

fn lower_case(header: &str) -> Result<(), CompileError> {
    if !header.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Ok(());
    }
    let error = CompileError::new(format!("asks for the header `{header}`, and names of headers are lower case here"));
    Err(error.remedy(format!("write `{}`", header.to_ascii_lowercase())))
}

/// Names of headers that a macro goes through, or that it compares theirs with.
fn headers_by_name(c: &ComprehensionExpr) -> Result<(), CompileError> {
    let is_headers = |expression: &IdedExpr| fields(expression).is_some_and(|path| path == ["request", "headers"]);
    let is_variable = |e: &IdedExpr| matches!(&e.expr, Expr::Ident(name) if *name == c.iter_var);
    let names = texts(&c.iter_range);
    let over_headers = is_headers(&c.iter_range);
    let mut open = vec![&c.loop_step];
    while let Some(expression) = open.pop() {
        children(expression, &mut |child| open.push(child));
        let Expr::Call(CallExpr { func_name, args, .. }) = &expression.expr else { continue };
        let [left, right] = args.as_slice() else { continue };
        let names = match func_name.as_str() {
            operators::INDEX | operators::OPT_INDEX if is_headers(left) && is_variable(right) => &names,
            operators::IN if is_variable(left) && is_headers(right) => &names,
            operators::EQUALS | operators::IN if over_headers && is_variable(left) => &texts(right),
            operators::EQUALS if over_headers && is_variable(right) => &texts(left),
            _ => continue,
        };
        names.iter().try_for_each(|name| lower_case(name))?;
    }
    Ok(())
}

/// The literals of a text, or of a list of them.
fn texts(expression: &IdedExpr) -> Vec<&str> {
    match &expression.expr {
        Expr::List(list) => list.elements.iter().filter_map(text).collect(),
        _ => text(expression).into_iter().collect(),
    }
}
