//! How the limits of a policy count, as its annotations say: by which algorithm, over which window, in which time zone.
//!
//! Kuadrant knows windows of hours at most. So what the policy itself says stays valid there, and the rest stands beside it.

use std::time::Duration;

use super::annotation::{Annotation, by_limit, problem_of, read_choice_of};
use super::limit_policy::{ALGORITHM, parse_duration};
use super::{LimitSpec, Meta};
use crate::document::Report;
use crate::limit::{Algorithm, Calendar, Quota, Running, Unit};
use crate::rules::LimitKind;
use crate::spelling::did_you_mean;

/// Of one limit; [`ALGORITHM`] is for those that have none of their own.
pub(super) const ALGORITHM_OF: &str = "tiergate.io/algorithm.<limit>";
/// The window of a limit that has one rate, in place of what its rate says.
pub(super) const WINDOW_OF: &str = "tiergate.io/window.<limit>";
/// Whose clocks a window of the calendar goes by.
pub(super) const ZONE_OF: &str = "tiergate.io/time-zone.<limit>";

/// The zone of windows of the calendar for which none is said.
const ZONE: &str = "UTC";
const WINDOWS: &str = "day, week, month or year, or a duration such as 12h, 30d or 4w";
/// No window is longer: ten years.
const LONGEST: Duration = Duration::from_secs(3653 * 24 * 3600);

/// What annotations say of one limit.
struct Said<'a> {
    report: &'a Report,
    algorithm: Option<&'a Annotation>,
    window: Option<&'a Annotation>,
    zone: Option<&'a Annotation>,
}

/// A window, as it is written.
#[derive(Clone, Copy)]
enum Window {
    Of(Unit),
    Lasting(Duration),
}

/// Makes the rates of `limits`, which count things of that `kind`, count as the annotations of their policy say.
pub(super) fn read_kinds(meta: &Meta, report: &Report, kind: LimitKind, limits: &mut [LimitSpec]) {
    let common = meta.annotation(ALGORITHM);
    let common = common.and_then(|written| Some((read_choice_of(report, written, &choices(kind))?, written)));
    let [algorithms, windows, zones] =
        [ALGORITHM_OF, WINDOW_OF, ZONE_OF].map(|annotation| by_limit(meta, report, annotation, limits));
    let said = algorithms.into_iter().zip(windows).zip(zones);
    for (limit, ((algorithm, window), zone)) in limits.iter_mut().zip(said) {
        let said = Said { report, algorithm, window, zone };
        if let Some(rates) = said.rates(&limit.rates, common, kind) {
            limit.rates = rates;
        }
    }
}

/// The algorithms that limits of this kind can count by: tokens are none of calls that run.
fn choices(kind: LimitKind) -> Vec<(&'static str, Algorithm)> {
    let counts = |algorithm: &&Algorithm| kind == LimitKind::Requests || **algorithm != Algorithm::Concurrency;
    Algorithm::ALL.iter().filter(counts).map(|algorithm| (algorithm.name(), *algorithm)).collect()
}

// === impl Said ===

impl<'a> Said<'a> {
    /// The same rates as they are to count; `None` where that cannot be told, which is reported.
    fn rates(
        &self,
        rates: &[Quota],
        common: Option<(Algorithm, &'a Annotation)>,
        kind: LimitKind,
    ) -> Option<Vec<Quota>> {
        let own = match self.algorithm {
            Some(written) => Some((read_choice_of(self.report, written, &choices(kind))?, written)),
            None => None,
        };
        let window = match self.window {
            Some(written) => Some((self.window(written, rates)?, written)),
            None => None,
        };
        match (own.or(common), window) {
            (Some((algorithm, written)), Some((Window::Of(unit), _))) if algorithm != Algorithm::Calendar => {
                match own {
                    // It is more than what is said for all.
                    None => self.in_calendar(rates, unit),
                    Some(_) => self.refuse(written, &format!("and `{}` is a window of the calendar", unit.name())),
                }
            }
            (_, Some((Window::Of(unit), _))) => self.in_calendar(rates, unit),
            (Some((Algorithm::Calendar, written)), _) => {
                let (name, unit) = (WINDOW_OF, "day, week, month or year");
                self.refuse(written, &format!("and needs `{name}`, which is one of {unit}"))
            }
            (algorithm, window) => self.by(rates, algorithm, window),
        }
    }

    fn in_calendar(&self, rates: &[Quota], unit: Unit) -> Option<Vec<Quota>> {
        let calendar = match self.zone {
            None => Calendar::new(unit, ZONE).ok()?,
            Some(written) => match Calendar::new(unit, &written.1) {
                Ok(calendar) => calendar,
                Err(error) => return self.no_zone(written, &error.to_string()),
            },
        };
        Some(rates.iter().map(|rate| Quota::in_calendar(rate.limit(), calendar)).collect())
    }

    fn by(
        &self,
        rates: &[Quota],
        algorithm: Option<(Algorithm, &'a Annotation)>,
        window: Option<(Window, &'a Annotation)>,
    ) -> Option<Vec<Quota>> {
        if let Some(written) = self.zone {
            return self.refuse(written, "but the limit's window is none of the calendar: day, week, month or year");
        }
        match (algorithm, window) {
            (Some((Algorithm::Concurrency, _)), Some((_, written))) => {
                self.refuse(written, "but calls that run at once have no window")
            }
            (Some((Algorithm::Concurrency, written)), None) => self.at_once(rates, written),
            (algorithm, window) => {
                let algorithm = algorithm.map_or(Algorithm::default(), |(algorithm, _)| algorithm);
                let over = |rate: &Quota| match window {
                    Some((Window::Lasting(window), _)) => rate.over(window),
                    _ => *rate,
                };
                Some(rates.iter().map(|rate| over(rate).by(algorithm)).collect())
            }
        }
    }

    /// Calls that run at once have no window. That of the rate stands there because Kuadrant asks for one.
    fn at_once(&self, rates: &[Quota], written: &'a Annotation) -> Option<Vec<Quota>> {
        match rates {
            [only] if only.limit() <= Running::MAX_LIMIT => Some(vec![only.by(Algorithm::Concurrency)]),
            [_] => self.refuse(written, &format!("which counts {} calls at most", Running::MAX_LIMIT)),
            _ => self.refuse(written, "but its limit has several rates: calls that run at once have one number"),
        }
    }

    /// The window of a limit with one rate.
    fn window(&self, written: &'a Annotation, rates: &[Quota]) -> Option<Window> {
        if rates.len() > 1 {
            return self.refuse(written, "but its limit has several rates: write a limit for each");
        }
        let text = written.1.trim();
        if let Some(unit) = Unit::ALL.into_iter().find(|unit| unit.name() == text) {
            return Some(Window::Of(unit));
        }
        match days(text).or_else(|| parse_duration(text)) {
            Some(window) if !window.is_zero() && window <= LONGEST => Some(Window::Lasting(window)),
            _ => {
                let problem = problem_of(self.report, written, format!("`{text}` is no window")).expected(WINDOWS);
                let meant = did_you_mean(text, Unit::ALL.map(Unit::name));
                self.report.add(match meant {
                    Some(meant) => problem.remedy(format!("did you mean `{meant}`?")),
                    None => problem,
                });
                None
            }
        }
    }

    fn no_zone<T>(&self, written: &'a Annotation, why: &str) -> Option<T> {
        let zones = Calendar::zones();
        let problem = problem_of(self.report, written, format!("`{}` {why}", written.1));
        let problem = problem.expected("a name such as Europe/Berlin, America/New_York or UTC");
        let place =
            |zone: &&String| zone.rsplit('/').next().is_some_and(|place| place.eq_ignore_ascii_case(&written.1));
        let meant = did_you_mean(&written.1, zones.iter().map(String::as_str)).map(str::to_owned);
        let meant = meant.or_else(|| zones.iter().find(place).cloned());
        self.report.add(match meant {
            Some(meant) => problem.remedy(format!("did you mean `{meant}`?")),
            None => problem,
        });
        None
    }

    fn refuse<T>(&self, written: &'a Annotation, why: &str) -> Option<T> {
        self.report.add(problem_of(self.report, written, format!("is `{}`, {why}", written.1)));
        None
    }
}

/// `30d` and `4w`, which durations of the Gateway API have not.
fn days(text: &str) -> Option<Duration> {
    let (number, days) = match (text.strip_suffix('d'), text.strip_suffix('w')) {
        (Some(number), _) => (number, 1),
        (_, Some(number)) => (number, 7),
        _ => return None,
    };
    let number = Some(number).filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()))?;
    Some(Duration::from_secs(number.parse::<u32>().ok()?.checked_mul(days)?.into()) * 24 * 3600)
}
