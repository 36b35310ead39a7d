//! What an expression may cost at most, told from its syntax tree before it is ever evaluated.
//!
//! The interpreter bounds nothing by itself, and a request waits for it. So the work of every node is estimated for the
//! largest request that an expression may see (which [`fits`] holds true), and what could take too long does not compile.
//! All functions are linear in each of their arguments, once texts that multiply (`replace` by something computed) are
//! refused; so a macro's body may be estimated for the average element, and multiplied.
//!
//! What is selected or looked up is lent by the interpreter, and not copied: `auth.identity.tier` costs as little in a macro as
//! outside of it. What a macro over the headers looks up there, each under its own name, is all of them once: the average too.

use cel::IdedExpr;
use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, LiteralValue, SelectExpr, operators};
use serde_json::Value;

/// What an expression may see of one request, in bytes: Envoy lets through headers of 60 KiB by default.
const DATA: u64 = 64 * 1024;
/// Elements of one list or mapping that it may see.
const ELEMENTS: u64 = 1024;
/// In units of about 10 ns: a fifth of a second for the largest request, and microseconds for an ordinary one.
const MAX_WORK: u64 = 20_000_000;
/// Of any value on the way, as often as it is made, in bytes.
const MAX_SIZE: u64 = 16 * 1024 * 1024;
/// Finding a variable of a macro, and a root from within macros.
const LOCAL: u64 = 5;
const ROOT: u64 = 30;
/// Calling a function, or looking something up.
const CALL: u64 = 10;
/// One round of a macro, without its body.
const ROUND: u64 = 10;
/// Texts are copied and compared this many bytes a unit.
const BYTES: u64 = 16;
/// Compiling a small regular expression, which the interpreter does for every match.
const REGEX: u64 = 5_000;
/// The compiled form of a regular expression, in bytes: a small one.
const REGEX_SIZE: usize = 64 * 1024;
/// A digit string longer than this after `%.` in a format would print that many zeros.
const PRECISION_DIGITS: usize = 3;

/// Bounds on one node of the syntax tree.
#[derive(Clone, Copy, Debug, Default)]
struct Bound {
    work: u64,
    /// In bytes.
    size: u64,
    /// Elements, of this value or of any inside it.
    items: u64,
    /// Whether the interpreter only points to the value: it is part of what an expression sees, or of the expression.
    lent: bool,
    kind: ValueKind,
}

/// What is known of a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ValueKind {
    #[default]
    Any,
    /// A text, or a list of texts: nothing inside has elements.
    Texts,
    /// `request.headers`, or the name of one of them that a macro goes through.
    Headers,
}

/// Variables of the macros around a node.
type Locals<'e> = Vec<(&'e str, Bound)>;

/// A boolean or a number.
const SCALAR: Bound = Bound { work: 0, size: 8, items: 0, lent: true, kind: ValueKind::Any };

/// Refuses an expression that could cost too much.
///
/// # Errors
///
/// What it does too much of, for people.
pub(super) fn check(expression: &IdedExpr) -> Result<(), String> {
    bound(expression, &mut Vec::new(), 1).map(drop)
}

/// Whether `data` is no more than an expression may see.
pub(super) fn fits(data: &Value) -> bool {
    let (mut bytes, mut open) = (0, vec![data]);
    while let Some(value) = open.pop() {
        let elements = match value {
            Value::String(text) => {
                bytes += text.len() as u64;
                0
            }
            Value::Array(items) => {
                open.extend(items);
                items.len()
            }
            Value::Object(entries) => {
                bytes += entries.keys().map(|key| key.len() as u64).sum::<u64>();
                open.extend(entries.values());
                entries.len()
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        };
        if bytes > DATA || elements as u64 > ELEMENTS {
            return false;
        }
    }
    true
}

/// Bounds `expression`, which is evaluated `times` times.
fn bound<'e>(expression: &'e IdedExpr, locals: &mut Locals<'e>, times: u64) -> Result<Bound, String> {
    let found = match &expression.expr {
        Expr::Literal(LiteralValue::String(text)) => Bound { size: text.inner().len() as u64, ..SCALAR },
        Expr::Literal(_) | Expr::Unspecified => SCALAR,
        Expr::Ident(name) => bound_name(name, locals),
        Expr::Select(select) => bound_select(select, locals, times)?,
        Expr::List(list) => gather(&list.elements.iter().collect::<Vec<_>>(), locals, times)?,
        Expr::Map(map) => gather(&map.entries.iter().flat_map(|e| parts(&e.expr)).collect::<Vec<_>>(), locals, times)?,
        Expr::Struct(object) => {
            gather(&object.entries.iter().flat_map(|e| parts(&e.expr)).collect::<Vec<_>>(), locals, times)?
        }
        Expr::Call(call) => bound_call(call, locals, times)?,
        Expr::Comprehension(comprehension) => bound_macro(comprehension, locals, times)?,
    };
    let found = Bound { work: found.work.saturating_add(1), ..found };
    found.within(times)
}

/// A variable of a macro, or what a request has.
fn bound_name(name: &str, locals: &Locals<'_>) -> Bound {
    match locals.iter().rfind(|(local, _)| *local == name) {
        Some((_, local)) => Bound { work: LOCAL, ..*local },
        None => Bound { work: ROOT, size: DATA, items: ELEMENTS, lent: true, kind: ValueKind::Any },
    }
}

/// A field of a value.
fn bound_select<'e>(select: &'e SelectExpr, locals: &mut Locals<'e>, times: u64) -> Result<Bound, String> {
    let operand = bound(&select.operand, locals, times)?.working(LOCAL);
    let of_request = matches!(&select.operand.expr, Expr::Ident(name) if name == "request")
        && locals.iter().all(|(local, _)| *local != "request");
    Ok(match operand.kind {
        _ if select.test => operand.scalar(),
        ValueKind::Any if of_request && select.field == "headers" => Bound { kind: ValueKind::Headers, ..operand },
        ValueKind::Any if !of_request => operand,
        ValueKind::Any | ValueKind::Texts | ValueKind::Headers => Bound { items: 0, kind: ValueKind::Texts, ..operand },
    })
}

fn parts(entry: &EntryExpr) -> Vec<&IdedExpr> {
    match entry {
        EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
        EntryExpr::StructField(field) => vec![&field.value],
    }
}

/// A value made of others.
fn gather<'e>(elements: &[&'e IdedExpr], locals: &mut Locals<'e>, times: u64) -> Result<Bound, String> {
    let count = elements.len() as u64;
    let mut whole = Bound { work: count.saturating_mul(CALL), size: count * 8, items: count, ..Bound::default() };
    for element in elements {
        whole = whole.and(bound(element, locals, times)?);
    }
    Ok(whole)
}

fn bound_call<'e>(call: &'e CallExpr, locals: &mut Locals<'e>, times: u64) -> Result<Bound, String> {
    let arguments: Vec<&IdedExpr> = call.target.as_deref().into_iter().chain(&call.args).collect();
    let bounds = arguments.iter().map(|argument| bound(argument, locals, times)).collect::<Result<Vec<_>, _>>()?;
    let all = bounds.iter().fold(Bound { work: CALL, ..Bound::default() }, |all, argument| all.and(*argument));
    let called = Called { function: &call.func_name, arguments, bounds, all };
    match called.operator().or_else(|| called.question()) {
        Some(bound) => Ok(bound),
        None => called.text(),
    }
}

/// A call, with what its target and arguments cost.
struct Called<'e> {
    function: &'e str,
    arguments: Vec<&'e IdedExpr>,
    bounds: Vec<Bound>,
    /// All of them, and the call itself.
    all: Bound,
}

fn touched(bytes: u64) -> u64 {
    bytes / BYTES
}

// === impl Called ===

impl Called<'_> {
    fn size(&self, at: usize) -> u64 {
        self.bounds.get(at).map_or(0, |bound| bound.size)
    }

    fn items(&self, at: usize) -> u64 {
        self.bounds.get(at).map_or(0, |bound| bound.items)
    }

    fn literal(&self, at: usize) -> Option<&str> {
        self.arguments.get(at).and_then(|argument| text_literal(argument))
    }

    /// What chooses, compares, looks up or adds.
    fn operator(&self) -> Option<Bound> {
        let all = self.all;
        Some(match self.function {
            operators::CONDITIONAL => {
                let chosen = self.bounds.iter().skip(1);
                let lent = chosen.clone().all(|bound| bound.lent);
                Bound { size: chosen.map(|bound| bound.size).max().unwrap_or_default(), lent, ..all }
            }
            operators::LOGICAL_AND | operators::LOGICAL_OR | operators::LOGICAL_NOT | operators::NOT_STRICTLY_FALSE => {
                all.scalar()
            }
            operators::EQUALS
            | operators::NOT_EQUALS
            | operators::LESS
            | operators::LESS_EQUALS
            | operators::GREATER
            | operators::GREATER_EQUALS => self.comparison(),
            operators::ADD => {
                // Of two lists, the elements of both.
                let items = self.items(0).saturating_add(self.items(1));
                Bound { items, ..all.working(touched(all.size)).made(all.size.saturating_add(8)) }
            }
            operators::INDEX | operators::OPT_INDEX => self.lookup(),
            operators::OPT_SELECT => all.working(touched(self.size(0))).made(self.size(0)),
            operators::IN => all.working(touched(all.size).saturating_add(self.items(1))).scalar(),
            _ => return None,
        })
    }

    /// What differs in length is never compared further, and nothing is compared beyond the shorter one.
    fn comparison(&self) -> Bound {
        let shorter = self.bounds.iter().map(|bound| bound.size).min().unwrap_or_default();
        let fewer = self.bounds.iter().map(|bound| bound.items).min().unwrap_or_default();
        self.all.working(touched(shorter).saturating_add(fewer)).scalar()
    }

    fn lookup(&self) -> Bound {
        let [of, key] = self.bounds.as_slice() else { return self.all };
        // An optional value is a copy.
        let lent = of.lent && self.function == operators::INDEX;
        let all = Bound { size: of.size, lent, ..self.all.working(touched(key.size)) };
        match (of.kind, key.kind) {
            (ValueKind::Headers, ValueKind::Headers) => {
                Bound { size: of.size / ELEMENTS, items: 0, kind: ValueKind::Texts, ..all }
            }
            (ValueKind::Headers | ValueKind::Texts, _) => Bound { items: 0, kind: ValueKind::Texts, ..all },
            (ValueKind::Any, _) => all,
        }
    }

    /// What tells something of a value: a number, or whether it is so.
    fn question(&self) -> Option<Bound> {
        Some(match self.function {
            "contains" | "startsWith" | "endsWith" | "size" | "int" | "uint" | "double" | "bool" | "type"
            | "hasValue" => self.all.working(touched(self.all.size)).scalar(),
            // The interpreter compares at every position.
            "indexOf" | "lastIndexOf" => {
                let compared = self.size(0).saturating_mul(self.size(1).max(BYTES));
                self.all.working(touched(compared)).scalar()
            }
            _ => return None,
        })
    }

    /// What is made of a text; and whatever else is called.
    fn text(&self) -> Result<Bound, String> {
        let (all, size) = (self.all, self.size(0));
        let made = |size: u64| all.working(touched(size)).made(size);
        Ok(match self.function {
            "replace" => {
                let Some(replacement) = self.literal(2) else {
                    let message = "replaces by something computed, which could grow without a bound: write it out";
                    return Err(message.to_owned());
                };
                made(size.saturating_add(1).saturating_mul(replacement.len() as u64 + 1))
            }
            "split" => {
                let pieces = size.saturating_add(1);
                let split = all.working(pieces).made(size.saturating_add(pieces.saturating_mul(8)));
                Bound { items: pieces, kind: ValueKind::Texts, ..split }
            }
            "join" => made(size.saturating_add(self.items(0).saturating_mul(self.size(1)))),
            "format" => {
                let Some(template) = self.literal(0).filter(|template| is_short_format(template)) else {
                    return Err("formats by a text that is computed, or to more than 999 digits".to_owned());
                };
                let numbers = template.matches('%').count() as u64;
                made(all.size.saturating_mul(2).saturating_add(numbers.saturating_mul(2_000)))
            }
            "matches" => return self.regex(),
            // Characters, on the way.
            "charAt" | "substring" | "reverse" | "strings.quote" => {
                all.working(all.size / 4).made(size.saturating_mul(2))
            }
            _ => all.working(touched(all.size)).made(all.size.saturating_add(8)),
        })
    }

    fn regex(&self) -> Result<Bound, String> {
        let Some(pattern) = self.literal(1) else {
            return Err("matches a regular expression that is computed: write it out".to_owned());
        };
        if let Err(error) = regex::RegexBuilder::new(pattern).size_limit(REGEX_SIZE).build() {
            let reason = error.to_string();
            let reason = reason.lines().last().unwrap_or_default();
            return Err(format!("holds a regular expression that cannot be used: {reason}"));
        }
        Ok(self.all.working(REGEX.saturating_add(self.size(0))).scalar())
    }
}

/// `exists`, `map`, `filter` and their like.
fn bound_macro<'e>(c: &'e ComprehensionExpr, locals: &mut Locals<'e>, times: u64) -> Result<Bound, String> {
    let range = bound(&c.iter_range, locals, times)?;
    let (initial, rounds) = (bound(&c.accu_init, locals, times)?, range.items);
    let inside = if range.kind == ValueKind::Any { range.items } else { 0 };
    let element = Bound { size: range.size / rounds.max(1), items: inside, ..range };
    let outside = locals.len();
    locals.push((&c.iter_var, element));
    if let Some(second) = &c.iter_var2 {
        locals.push((second, Bound { kind: ValueKind::Any, ..element }));
    }
    // The body sees what was gathered so far; what one round adds to it is told by a round that has gathered nothing.
    locals.push((&c.accu_var, Bound { work: 0, ..initial }));
    let inside = times.saturating_mul(rounds);
    let body = bound(&c.loop_cond, locals, inside)?.and(bound(&c.loop_step, locals, inside)?);
    locals.truncate(outside);
    locals.push((&c.accu_var, body.gathered(c, &range)));
    let result = bound(&c.result, locals, times)?;
    locals.truncate(outside);
    // Every element is copied; what is gathered is not, the interpreter appends.
    let work = rounds.saturating_mul(body.work.saturating_add(ROUND)).saturating_add(range.size / BYTES);
    Ok(Bound {
        work: work.saturating_add(range.work).saturating_add(initial.work).saturating_add(result.work),
        ..result
    })
}

/// Whether a macro gathers the elements themselves, all or some of them, as `filter` does.
fn gathers_itself(c: &ComprehensionExpr) -> bool {
    let itself = |expression: &IdedExpr| {
        let Expr::Call(call) = &expression.expr else { return false };
        let [_, added] = call.args.as_slice() else { return false };
        let Expr::List(list) = &added.expr else { return false };
        let is_variable = |element: &IdedExpr| matches!(&element.expr, Expr::Ident(name) if *name == c.iter_var);
        call.func_name == operators::ADD && matches!(list.elements.as_slice(), [only] if is_variable(only))
    };
    match &c.loop_step.expr {
        Expr::Call(call) if call.func_name == operators::CONDITIONAL => call.args.get(1).is_some_and(itself),
        _ => itself(&c.loop_step),
    }
}

fn text_literal(expression: &IdedExpr) -> Option<&str> {
    match &expression.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner()),
        _ => None,
    }
}

fn is_short_format(template: &str) -> bool {
    template.split("%.").skip(1).all(|rest| rest.bytes().take_while(u8::is_ascii_digit).count() <= PRECISION_DIGITS)
}

// === impl Bound ===

impl Bound {
    /// Itself, if it is not too much `times` times.
    fn within(self, times: u64) -> Result<Self, String> {
        if self.work.saturating_mul(times) > MAX_WORK {
            return Err("could keep a request waiting: put fewer macros inside each other".to_owned());
        }
        if !self.lent && self.size.saturating_mul(times) > MAX_SIZE {
            return Err(format!(
                "could make more than {} MiB of values for one request: do less for each element",
                MAX_SIZE >> 20
            ));
        }
        Ok(self)
    }

    /// What a macro has made of `rounds` elements of `range`, where one round makes as much as this.
    fn gathered(self, c: &ComprehensionExpr, range: &Bound) -> Self {
        let gathers = matches!(c.accu_init.expr, Expr::List(_) | Expr::Map(_));
        let rounds = range.items;
        Bound {
            size: if gathers { rounds.saturating_mul(self.size) } else { self.size },
            items: if gathers { rounds.max(self.items) } else { self.items },
            kind: if gathers_itself(c) { range.kind } else { ValueKind::Any },
            ..Bound::default()
        }
    }

    /// Both, one beside the other.
    fn and(self, other: Bound) -> Self {
        Bound {
            work: self.work.saturating_add(other.work),
            size: self.size.saturating_add(other.size),
            items: self.items.max(other.items),
            lent: false,
            kind: ValueKind::Any,
        }
    }

    fn working(self, work: u64) -> Self {
        Bound { work: self.work.saturating_add(work), ..self }
    }

    /// A boolean or a number, made of it.
    fn scalar(self) -> Self {
        Bound { work: self.work, ..SCALAR }
    }

    /// A new value, of `size` bytes.
    fn made(self, size: u64) -> Self {
        Bound { size, lent: false, kind: ValueKind::Any, ..self }
    }
}
