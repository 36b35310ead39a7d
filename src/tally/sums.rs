//! The sums, by what they are of.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;
use smallvec::SmallVec;

use super::read::Entry;
use crate::args::By;
use crate::clock::Micros;
use crate::usage::ledger::{Quality, timestamp};

/// The sums of all groups, and of everything.
#[derive(Debug)]
pub(super) struct Tally {
    /// Each once.
    pub(super) by: Vec<By>,
    pub(super) all: Sums,
    names: Names,
    groups: HashMap<Key, Sums>,
}

/// What a group has the sums of. They are wide enough for any number of lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Sums {
    pub(super) calls: i64,
    /// Those of the calls that are not exact, though they were reported.
    pub(super) estimated: i64,
    /// Those that nobody has reported.
    pub(super) unsettled: i64,
    pub(super) input: i128,
    pub(super) output: i128,
    pub(super) cached: i128,
    pub(super) reasoning: i128,
    pub(super) total: i128,
}

/// A group, as it is printed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Row<'t> {
    /// One for each of [`Tally::by`].
    pub(super) cells: Vec<Cow<'t, str>>,
    pub(super) sums: Sums,
}

/// What a group is of: for each [`By`] the number of a name or of a time.
type Key = SmallVec<[u64; 4]>;

/// Texts with numbers, so that a group has no texts of its own.
#[derive(Debug, Default)]
struct Names {
    numbers: HashMap<Arc<str>, u64>,
    texts: Vec<Arc<str>>,
}

const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;

// === impl Tally ===

impl Tally {
    pub(super) fn by(by: &[By]) -> Self {
        let mut once: Vec<By> = Vec::new();
        by.iter().for_each(|by| {
            if !once.contains(by) {
                once.push(*by)
            }
        });
        Tally { by: once, all: Sums::default(), names: Names::default(), groups: HashMap::new() }
    }

    pub(super) fn add(&mut self, entry: &Entry<'_>) {
        let names = &mut self.names;
        let key = self.by.iter().map(|by| match by {
            By::User => names.number(&entry.user),
            By::Tier => names.number(&entry.tier),
            By::Model => names.number(&entry.model),
            By::Namespace => names.number(&entry.namespace),
            By::Hour => seconds(entry.time) / HOUR,
            By::Day => seconds(entry.time) / DAY,
            By::Month => month(entry.time),
        });
        let key: Key = key.collect();
        self.groups.entry(key).or_default().add(entry);
        self.all.add(entry);
    }

    /// The groups in the order of what they are of.
    pub(super) fn rows(&self) -> Vec<Row<'_>> {
        let cells = |key: &Key| self.by.iter().zip(key).map(|(by, number)| self.cell(*by, *number)).collect();
        let mut rows: Vec<Row<'_>> =
            self.groups.iter().map(|(key, sums)| Row { cells: cells(key), sums: *sums }).collect();
        rows.sort_unstable_by(|one, other| one.cells.cmp(&other.cells));
        rows
    }

    fn cell(&self, by: By, number: u64) -> Cow<'_, str> {
        match by {
            By::User | By::Tier | By::Model | By::Namespace => Cow::Borrowed(self.names.text(number)),
            By::Hour => time(number * HOUR, "%Y-%m-%dT%H:00Z"),
            By::Day => time(number * DAY, "%Y-%m-%d"),
            By::Month => Cow::Owned(format!("{:04}-{:02}", number / 12, number % 12 + 1)),
        }
    }
}

fn seconds(time: Micros) -> u64 {
    time.0 / 1_000_000
}

/// Of all since the year 0.
fn month(time: Micros) -> u64 {
    let date = timestamp(time).to_zoned(TimeZone::UTC).date();
    // No line is of a time before 1970.
    u64::try_from(i32::from(date.year()) * 12 + i32::from(date.month()) - 1).unwrap_or(0)
}

fn time(seconds: u64, format: &str) -> Cow<'static, str> {
    let time = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    Cow::Owned(time.unwrap_or(Timestamp::MAX).strftime(format).to_string())
}

// === impl Sums ===

impl Sums {
    fn add(&mut self, entry: &Entry<'_>) {
        let number = |number: Option<i64>| i128::from(number.unwrap_or(0));
        // A correction is no call: it makes what was a call of one quality one of another.
        match (entry.correction, entry.corrects) {
            (false, _) => self.calls += 1,
            (true, Some(before)) => self.count(before, -1),
            (true, None) => self.count(Quality::Estimate, -1),
        }
        self.count(entry.quality, 1);
        self.input += number(entry.input);
        self.output += number(entry.output);
        self.cached += number(entry.cached);
        self.reasoning += number(entry.reasoning);
        self.total += i128::from(entry.total);
    }

    /// Counts so many more calls that are of this quality.
    fn count(&mut self, quality: Quality, calls: i64) {
        match quality {
            Quality::Unsettled => self.unsettled += calls,
            Quality::Estimate | Quality::Counted => self.estimated += calls,
            Quality::Final => {}
        }
    }

    /// The names of the columns.
    pub(super) const NAMES: [&str; 8] =
        ["calls", "estimated", "unsettled", "input", "output", "cached", "reasoning", "total"];

    /// The numbers, in the order of [`Sums::NAMES`].
    pub(super) fn numbers(&self) -> [i128; 8] {
        let Sums { calls, estimated, unsettled, input, output, cached, reasoning, total } = *self;
        [calls.into(), estimated.into(), unsettled.into(), input, output, cached, reasoning, total]
    }
}

// === impl Names ===

impl Names {
    fn number(&mut self, text: &str) -> u64 {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let (text, number) = (Arc::<str>::from(text), self.texts.len() as u64);
        self.texts.push(Arc::clone(&text));
        self.numbers.insert(text, number);
        number
    }

    fn text(&self, number: u64) -> &str {
        usize::try_from(number).ok().and_then(|number| self.texts.get(number)).map_or("", |text| text)
    }
}
