//! RateLimitPolicy and TokenRateLimitPolicy.

use std::sync::Arc;
use std::time::Duration;

use super::annotation::{self, Shadow, read_choice};
use super::kinds::read_kinds;
use super::target::{read_block, read_target};
use super::{Meta, Strategy, Target};
use crate::document::{Field, Fields, Report, Value, all};
use crate::expression::{CompileError, Expression, TokenCost, View};
use crate::limit::{Algorithm, Notify, Quota};
use crate::problem::{Finding, Place, Problem, Severity};
use crate::rules::{LimitKind, TokenAdmission};

/// A policy of either kind. `limits` is `None` when it is in error.
#[derive(Clone, Debug)]
pub struct LimitPolicy {
    pub meta: Meta,
    pub kind: LimitKind,
    pub target: Target,
    /// Where the target is named.
    pub target_place: Place,
    /// `None` if it could not be read.
    pub strategy: Option<Strategy>,
    /// What has to hold for every limit, beside its own: see [`LimitPolicy::conditions`].
    pub when: Vec<Predicate>,
    pub limits: Option<Vec<LimitSpec>>,
    /// Where the limits are written.
    pub limits_place: Place,
    /// Whether a policy on a Gateway counts for each route by itself.
    pub per_route: bool,
    /// Of token limits, where the policy says it.
    pub admission: Option<TokenAdmission>,
    /// Which of its limits only say what they would have refused.
    pub shadow: Shadow,
}

/// One named limit.
#[derive(Clone, Debug)]
pub struct LimitSpec {
    pub name: String,
    pub place: Place,
    pub rates: Vec<Quota>,
    /// What has to hold for this one, beside what its policy asks for all.
    pub when: Vec<Predicate>,
    pub counters: Vec<Arc<Expression>>,
    /// What an answer counts, of a token limit that says so; else its tokens.
    pub cost: Option<Arc<TokenCost>>,
    /// Of which parts it is told when they are used, if of any.
    pub notify: Option<Arc<Notify>>,
}

/// A condition, and where it stands.
#[derive(Clone, Debug)]
pub struct Predicate {
    pub expression: Arc<Expression>,
    pub place: Place,
    pub field: String,
}

/// Most limits of one policy; rates, counters and predicates of one limit, and predicates of one policy. More are a slip of whatever
/// wrote them, and whoever publishes would wait for what their product costs.
const MOST_LIMITS: usize = 20_000;
const MOST_PARTS: usize = 100;

pub(super) fn read(meta: Meta, mut fields: Fields<'_>, report: &Report) -> LimitPolicy {
    let errors = report.errors();
    let mut policy = LimitPolicy::unreadable(meta, Target::Unknown);
    let spec = fields.require("spec", "targetRef and limits").and_then(|field| field.fields());
    fields.done(Severity::Error);
    if let Some(spec) = spec {
        policy.read_spec(spec);
    }
    policy.read_annotations(report);
    policy.limits = policy.limits.filter(|_| policy.meta.usable && report.errors() == errors);
    policy
}

// === impl LimitPolicy ===

impl LimitPolicy {
    /// A policy for `target` of which nothing else is known.
    pub(super) fn unreadable(meta: Meta, target: Target) -> Self {
        LimitPolicy {
            kind: kind_of(&meta.object.kind),
            target,
            target_place: meta.place.clone(),
            strategy: None,
            when: Vec::new(),
            limits: None,
            limits_place: meta.place.clone(),
            per_route: false,
            admission: None,
            shadow: Shadow::Nothing,
            meta,
        }
    }

    fn read_spec(&mut self, mut spec: Fields<'_>) {
        let target = spec.require("targetRef", "the Gateway or HTTPRoute that is limited");
        (self.target, self.target_place) = read_target(target, &self.meta);
        let Some(mut block) = read_block(spec, &["limits", "when"]) else { return };
        self.strategy = block.strategy;
        self.when = block.fields.take("when").and_then(|field| read_when(&field)).unwrap_or_default();
        if let Some(field) = block.fields.require("limits", "at least one named limit") {
            self.limits_place = field.place();
            self.limits = read_limits(&field);
        }
        block.done();
    }

    fn read_annotations(&mut self, report: &Report) {
        self.per_route = read_choice(&self.meta, report, SCOPE, &SCOPES).unwrap_or_default();
        self.shadow = annotation::read_shadow(&self.meta, report, self.limits.as_deref());
        let limits = self.limits.as_deref_mut().unwrap_or_default();
        read_kinds(&self.meta, report, self.kind, limits);
        annotation::read_notifies(&self.meta, report, limits);
        if self.kind == LimitKind::Tokens {
            self.admission = read_choice(&self.meta, report, ADMISSION, &ADMISSIONS);
            read_debt(&self.meta, report, limits);
            annotation::read_costs(&self.meta, report, limits);
        }
    }

    /// The longest that a call may take, for its limits of calls that run at once.
    pub(super) fn lease(&mut self, call_time: Duration) {
        for rate in self.limits.iter_mut().flatten().flat_map(|limit| &mut limit.rates) {
            if rate.algorithm() == Algorithm::Concurrency {
                *rate = rate.over(call_time);
            }
        }
    }

    /// All that has to hold for one of its limits, where no other policy is put together with it.
    pub fn conditions<'p>(&'p self, limit: &'p LimitSpec) -> impl Iterator<Item = &'p Predicate> + Clone {
        self.when.iter().chain(&limit.when)
    }

    /// All predicates that it holds, each once.
    pub fn predicates(&self) -> impl Iterator<Item = &Predicate> {
        let of_limits = self.limits.iter().flatten().flat_map(|limit| &limit.when);
        // Without limits they are for nothing.
        self.when.iter().filter(|_| self.limits.is_some()).chain(of_limits)
    }
}

/// How a policy's limits count.
pub const ALGORITHM: &str = "tiergate.io/algorithm";
/// What token limits let through: see [`TokenAdmission`].
pub(super) const ADMISSION: &str = "tiergate.io/token-admission";
const ADMISSIONS: [(&str, TokenAdmission); 2] =
    [("reserve", TokenAdmission::Reserve), ("positive", TokenAdmission::Positive)];
/// What becomes of what answers cost beyond the limit of a fixed window.
pub const DEBT: &str = "tiergate.io/debt";
const DEBTS: [(&str, bool); 2] = [("carry", true), ("forgive", false)];
/// What a policy on a Gateway counts for: the Gateway, or each of its routes as Kuadrant does.
pub(super) const SCOPE: &str = "tiergate.io/counter-scope";
const SCOPES: [(&str, bool); 2] = [("gateway", false), ("route", true)];

/// Says of limits of tokens whether they carry debt. Those of the same window and algorithm do alike.
fn read_debt(meta: &Meta, report: &Report, limits: &mut [LimitSpec]) {
    let mut rates = limits.iter().flat_map(|limit| &limit.rates);
    // A bucket has no window whose end could forgive. Where limits are in error, nobody knows what theirs are.
    let has_windows = limits.is_empty() || rates.any(|rate| rate.algorithm().has_windows());
    let choices = if has_windows { &DEBTS[..] } else { &DEBTS[..1] };
    if read_choice(meta, report, DEBT, choices).unwrap_or(true) {
        for rate in limits.iter_mut().flat_map(|limit| &mut limit.rates) {
            *rate = rate.carrying_debt();
        }
    }
}

/// What the limits of a policy of kind `kind` count.
fn kind_of(kind: &str) -> LimitKind {
    if kind.starts_with("Token") { LimitKind::Tokens } else { LimitKind::Requests }
}

fn read_limits(field: &Field<'_>) -> Option<Vec<LimitSpec>> {
    let entries = field.entries()?;
    check_number(field, entries.len(), MOST_LIMITS)?;
    if entries.is_empty() {
        field.report(field.error("holds no limit").expected("at least one named limit"));
    }
    Some(entries.iter().filter_map(|(key, field)| read_limit(&key.name, field)).collect())
}

/// The elements of a list, if they are not too many.
fn read_items<'a>(field: &Field<'a>) -> Option<Vec<Field<'a>>> {
    let items = field.items()?;
    check_number(field, items.len(), MOST_PARTS)?;
    Some(items)
}

fn check_number(field: &Field<'_>, number: usize, most: usize) -> Option<()> {
    if number <= most {
        return Some(());
    }
    field.refuse(field.error(format!("holds {number} entries; at most {most} are accepted")))
}

fn read_limit(name: &str, field: &Field<'_>) -> Option<LimitSpec> {
    let mut fields = field.fields()?;
    let rates = fields.require("rates", "at least one of limit and window").and_then(|field| read_rates(&field));
    let when = fields.take("when").map_or(Some(Vec::new()), |field| read_when(&field));
    let counters = fields.take("counters").map_or(Some(Vec::new()), |field| read_counters(&field));
    fields.done(Severity::Error);
    let (name, place) = (name.to_owned(), field.place());
    Some(LimitSpec { name, place, rates: rates?, when: when?, counters: counters?, cost: None, notify: None })
}

fn read_rates(field: &Field<'_>) -> Option<Vec<Quota>> {
    let items = read_items(field)?;
    if items.is_empty() {
        return field.invalid("is empty", "at least one of limit and window");
    }
    let mut rates: Vec<Quota> = Vec::new();
    for item in &items {
        let Some(quota) = read_rate(item) else { continue };
        if rates.iter().any(|other| other.window() == quota.window()) {
            let problem = item.error("a second rate over the same window");
            item.report(problem.remedy("keep the stricter one"));
        }
        rates.push(quota);
    }
    (rates.len() == items.len()).then_some(rates)
}

fn read_rate(item: &Field<'_>) -> Option<Quota> {
    let mut fields = item.fields()?;
    let limit =
        fields.require("limit", "how many are let through per window").and_then(|field| read_limit_value(&field));
    let window = match (fields.take("window"), read_old_window(item)) {
        (Some(window), _) => read_window(&window),
        (None, true) => {
            fields.ignore(&["duration", "unit"]);
            None
        }
        (None, false) => fields.require("window", "a duration such as 2m").and_then(|field| read_window(&field)),
    };
    fields.done(Severity::Error);
    Some(Quota::new(limit?, window?))
}

/// Whether a rate has `duration` and `unit` of v1beta2 in place of a window; which is reported.
fn read_old_window(rate: &Field<'_>) -> bool {
    let Some(mut fields) = rate.fields() else { return false };
    if fields.take("window").is_some() {
        return false;
    }
    let (duration, unit) = (fields.take("duration"), fields.take("unit"));
    let Some(field) = duration.as_ref().or(unit.as_ref()) else { return false };
    let number = match duration.as_ref().map(|field| &field.node.value) {
        Some(Value::Int(number)) => u64::try_from(*number).ok(),
        _ => Some(1),
    };
    let unit = match unit.as_ref().map(|field| &field.node.value) {
        Some(Value::Text(unit)) => unit.as_str(),
        _ => "second",
    };
    let meant = number.and_then(|number| window_of(number, unit)).unwrap_or_else(|| "1m".to_owned());
    let problem = field.error("`duration` and `unit` are the form of v1beta2, which is not supported");
    field.report(problem.code(Finding::Unsupported).remedy(format!("write `window: {meant}`")));
    true
}

fn read_limit_value(field: &Field<'_>) -> Option<u64> {
    let value = field.integer()?;
    let limit = u64::try_from(value).ok();
    let limit = limit.filter(|limit| *limit <= Quota::MAX_LIMIT);
    limit.or_else(|| {
        let expected = format!("0 (never) to {}", Quota::MAX_LIMIT);
        field.invalid(format!("{value} is out of range"), expected)
    })
}

const WINDOW: &str =
    "a Gateway API duration: up to four of hours, minutes, seconds and milliseconds, such as 2m or 1h30m";

fn read_window(field: &Field<'_>) -> Option<Duration> {
    if let Value::Int(seconds) = field.node.value {
        let problem = field.error("is an integer").code(Finding::TypeWrong).expected(WINDOW);
        let meant = u64::try_from(seconds).ok().and_then(|seconds| window_of(seconds, "s"));
        field.report(match meant {
            Some(meant) => problem.remedy(format!("write {meant}, if seconds are meant")),
            None => problem,
        });
        return None;
    }
    let text = field.text()?;
    match parse_duration(text) {
        Some(window) if window.is_zero() => {
            field.invalid(format!("`{text}` is no time at all, so nothing could ever be counted in it"), WINDOW)
        }
        Some(window) => Some(window),
        None => {
            let mut problem = field.error(format!("`{text}` is not a duration")).expected(WINDOW);
            if let Some(meant) = meant(text) {
                problem = problem.remedy(meant);
            }
            field.refuse(problem)
        }
    }
}

/// What a window was probably meant to be: `60`, `1 min`, `30d`, `1h 30m`.
fn meant(text: &str) -> Option<String> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = lower.split_at_checked(digits)?;
    let (number, unit) = (number.parse().ok()?, unit.trim_start());
    match window_of(number, if unit.is_empty() { "s" } else { unit }) {
        Some(meant) if unit.is_empty() => Some(format!("write {meant}, if seconds are meant")),
        Some(meant) if unit.starts_with(['d', 'w']) => Some(format!("days are not a unit here; write {meant}")),
        Some(meant) => Some(format!("write {meant}")),
        None => {
            let joined: String = lower.split_whitespace().collect();
            parse_duration(&joined).filter(|window| !window.is_zero()).map(|_| format!("write {joined}"))
        }
    }
}

/// `number` of a unit, as a duration of the Gateway API.
fn window_of(number: u64, unit: &str) -> Option<String> {
    // The unit that was meant, or a larger one where it would take more digits than a duration may have.
    const UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
    let (millis, own) = match unit {
        "ms" | "millisecond" | "milliseconds" => (1, 0),
        "s" | "sec" | "secs" | "second" | "seconds" => (1_000, 1),
        "m" | "min" | "mins" | "minute" | "minutes" => (60_000, 2),
        "h" | "hr" | "hrs" | "hour" | "hours" => (3_600_000, 3),
        "d" | "day" | "days" => (24 * 3_600_000, 3),
        "w" | "week" | "weeks" => (7 * 24 * 3_600_000, 3),
        _ => return None,
    };
    let millis = number.checked_mul(millis)?;
    UNITS.get(own..)?.iter().find_map(|(name, of)| {
        let (number, rest) = (millis / of, millis % of);
        (rest == 0 && (1..100_000).contains(&number)).then(|| format!("{number}{name}"))
    })
}

/// GEP-2257: `^([0-9]{1,5}(h|m|s|ms)){1,4}$`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut millis = 0_u64;
    for _ in 0..4 {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 || digits > 5 {
            return None;
        }
        let (number, after) = rest.split_at_checked(digits)?;
        let (unit, after) = [("ms", 1), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)]
            .into_iter()
            .find_map(|(name, millis)| Some((millis, after.strip_prefix(name)?)))?;
        millis += number.parse::<u64>().ok()? * unit;
        rest = after;
        if rest.is_empty() {
            return Some(Duration::from_millis(millis));
        }
    }
    None
}

fn read_when(field: &Field<'_>) -> Option<Vec<Predicate>> {
    all(&read_items(field)?, read_predicate)
}

fn read_predicate(item: &Field<'_>) -> Option<Predicate> {
    let mut fields = item.fields()?;
    for name in ["selector", "operator", "value"] {
        if let Some(old) = fields.take(name) {
            let problem = old.error("the condition form of v1beta2 is not supported").code(Finding::Unsupported);
            return old.refuse(problem.remedy("write a CEL `predicate`, such as auth.identity.tier == \"free\""));
        }
    }
    let field = fields.require("predicate", "a CEL expression that yields a boolean");
    fields.done(Severity::Error);
    let field = field?;
    let expression = compile(&field, |text| View::Limits.predicate(text))?;
    Some(Predicate { expression: expression.into(), place: field.place(), field: field.path.clone() })
}

fn read_counters(field: &Field<'_>) -> Option<Vec<Arc<Expression>>> {
    all(&read_items(field)?, |item| {
        let mut fields = item.fields()?;
        let field = fields.require("expression", "a CEL expression such as auth.identity.userid");
        fields.done(Severity::Error);
        compile(&field?, |text| View::Limits.expression(text)).map(Arc::new)
    })
}

/// What of an expression a message shows.
fn excerpt(text: &str) -> std::borrow::Cow<'_, str> {
    const LONGEST: usize = 120;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()).into(),
        None => text.into(),
    }
}

/// The problem of an expression that does not compile.
pub(super) fn invalid(problem: impl FnOnce(String) -> Problem, text: &str, error: CompileError) -> Problem {
    let problem = problem(format!("`{}` {error}", excerpt(text.trim()))).code(Finding::ExpressionInvalid);
    match error.remedy {
        Some(remedy) => problem.remedy(remedy),
        None => problem,
    }
}

/// Compiles the expression or selector in `field`, reporting why where it does not compile.
pub(super) fn compile<T>(field: &Field<'_>, compiler: impl FnOnce(&str) -> Result<T, CompileError>) -> Option<T> {
    let text = field.text()?;
    match compiler(text) {
        Ok(expression) => Some(expression),
        Err(error) => field.refuse(invalid(|message| field.error(message), text, error)),
    }
}
