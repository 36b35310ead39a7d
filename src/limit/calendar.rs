//! Windows of the calendar: a day, a week, a month or a year in a time zone.
//!
//! Each begins at the first instant of its first day: where midnight does not exist, as in the night that a zone's clocks are put
//! forward at midnight, that is later; where it comes twice, it is the first. So a day has 23 or 25 hours at times. Zones are those of the
//! IANA time zone database that the program brings along: what the machine has installed does not matter.

use std::collections::HashMap;
use std::fmt;
use std::sync::LazyLock;

use jiff::civil::{Date, date};
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{Span, Timestamp, ToSpan, Zoned};
use parking_lot::Mutex;

use crate::clock::Micros;

/// What a window of the calendar is one of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unit {
    Day,
    /// From Monday on, as in ISO 8601.
    Week,
    Month,
    Year,
}

/// A unit in a time zone. It is small, and lives as long as the process: there are four units, and some hundred zones.
#[derive(Clone, Copy)]
pub struct Calendar(&'static Known);

struct Known {
    unit: Unit,
    zone: TimeZone,
    name: String,
}

/// There is no such time zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no time zone of the IANA database")]
pub struct UnknownZone;

static ZONES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);
static KNOWN: LazyLock<Mutex<HashMap<(Unit, String), Calendar>>> = LazyLock::new(Mutex::default);

const DAY: u64 = 24 * 3_600_000_000;
/// Weeks are counted from the Monday before.
const FIRST: Date = date(1970, 1, 1);
const MONDAY: i64 = 3;

// === impl Unit ===

impl Unit {
    pub const ALL: [Unit; 4] = [Unit::Day, Unit::Week, Unit::Month, Unit::Year];

    /// How it is written in the annotation `tiergate.io/window.<limit>`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Unit::Day => "day",
            Unit::Week => "week",
            Unit::Month => "month",
            Unit::Year => "year",
        }
    }

    /// What none is longer than, in microseconds, with three hours for clocks that are put back.
    pub(super) const fn longest(self) -> u64 {
        let days = match self {
            Unit::Day => 1,
            Unit::Week => 7,
            Unit::Month => 31,
            Unit::Year => 366,
        };
        days * DAY + DAY / 8
    }
}

// === impl Calendar ===

impl Calendar {
    /// Windows of `unit` in the zone of this name, such as `Europe/Berlin`; letters' case does not matter.
    ///
    /// # Errors
    ///
    /// There is no such zone.
    pub fn new(unit: Unit, zone: &str) -> Result<Self, UnknownZone> {
        let zone = ZONES.get(zone).map_err(|_| UnknownZone)?;
        let name = zone.iana_name().ok_or(UnknownZone)?.to_owned();
        let known = || Calendar(Box::leak(Box::new(Known { unit, zone, name: name.clone() })));
        Ok(*KNOWN.lock().entry((unit, name.clone())).or_insert_with(known))
    }

    /// The names of all time zones.
    #[must_use]
    pub fn zones() -> Vec<String> {
        ZONES.available().map(|name| name.to_string()).collect()
    }

    #[must_use]
    pub fn unit(self) -> Unit {
        self.0.unit
    }

    /// The zone's name.
    #[must_use]
    pub fn zone(self) -> &'static str {
        &self.0.name
    }

    /// When the window ends that `at` is in, and the next one begins.
    #[must_use]
    pub fn end(self, at: Micros) -> Micros {
        self.start(self.number(at) + 1)
    }

    /// The number of the window that `at` is in; they are numbered one by one.
    #[must_use]
    pub(super) fn number(self, at: Micros) -> i64 {
        let number = self.number_of(zoned(at, &self.0.zone).date());
        // What the zone's clocks show may go back over midnight; windows do not.
        match at {
            _ if self.start(number) > at => number - 1,
            _ if self.start(number + 1) <= at => number + 1,
            _ => number,
        }
    }

    /// When the window of this number begins; the first or last moment there is, where it is before or beyond that.
    #[must_use]
    pub(super) fn start(self, number: i64) -> Micros {
        let day = self.day(number).and_then(|day| day.to_zoned(self.0.zone.clone())?.start_of_day());
        match day {
            Ok(day) => Micros(u64::try_from(day.timestamp().as_microsecond()).unwrap_or(0)),
            Err(_) if number < 0 => Micros(0),
            Err(_) => Micros(u64::MAX),
        }
    }

    /// The first day of the window of this number.
    fn day(self, number: i64) -> Result<Date, jiff::Error> {
        let days = |days: i64| FIRST.checked_add(Span::new().try_days(days)?);
        match self.0.unit {
            Unit::Day => days(number),
            Unit::Week => days(number.saturating_mul(7).saturating_sub(MONDAY)),
            Unit::Month => FIRST.checked_add(Span::new().try_months(number)?),
            Unit::Year => FIRST.checked_add(Span::new().try_years(number)?),
        }
    }

    /// The number of the window that has this day.
    fn number_of(self, day: Date) -> i64 {
        let days = || i64::from((day - FIRST).get_days());
        let years = i64::from(day.year()) - i64::from(FIRST.year());
        match self.0.unit {
            Unit::Day => days(),
            Unit::Week => (days() + MONDAY).div_euclid(7),
            Unit::Month => years * 12 + i64::from(day.month()) - 1,
            Unit::Year => years,
        }
    }
}

/// A moment in a zone; the last one that jiff has, where it is beyond that.
fn zoned(at: Micros, zone: &TimeZone) -> Zoned {
    let at = i64::try_from(at.0).ok().and_then(|at| Timestamp::from_microsecond(at).ok());
    // Not the very last: it has no day after it.
    let last = || Timestamp::MAX.checked_sub(48.hours()).unwrap_or(Timestamp::UNIX_EPOCH);
    at.unwrap_or_else(last).to_zoned(zone.clone())
}

impl PartialEq for Calendar {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.0, other.0)
    }
}

impl Eq for Calendar {}

/// As it is said: `month in Europe/Berlin`.
impl fmt::Display for Calendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.0.unit.name(), self.0.name)
    }
}

impl fmt::Debug for Calendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
