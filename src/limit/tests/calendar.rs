//! Windows of the calendar.

use super::*;
use crate::limit::{Calendar, UnknownZone};

const SECOND: u64 = 1_000_000;
const HOUR: u64 = 3600 * SECOND;

fn calendar(unit: Unit, zone: &str) -> Calendar {
    Calendar::new(unit, zone).unwrap()
}

/// A moment as jiff reads it.
fn moment(text: &str) -> Micros {
    Micros(u64::try_from(text.parse::<jiff::Timestamp>().unwrap().as_microsecond()).unwrap())
}

/// A year of hours, against what Python's zoneinfo says: see scripts/record_calendar.py.
#[test]
fn every_hour_of_a_year_is_in_the_window_that_python_says() {
    let recorded = include_str!("../../../tests/data/calendar.txt");
    let (mut hours, mut lengths) = (0, std::collections::BTreeSet::new());
    for line in recorded.lines() {
        let mut words = line.split(' ');
        let (zone, unit) = (words.next().unwrap(), words.next().unwrap());
        let unit = Unit::ALL.into_iter().find(|known| known.name() == unit).unwrap();
        let starts: Vec<u64> = words.map(|start| start.parse::<u64>().unwrap() * SECOND).collect();
        let calendar = calendar(unit, zone);
        for (window, number) in starts.windows(2).zip(calendar.number(Micros(starts[0]))..) {
            let (start, end) = (window[0], window[1]);
            lengths.insert((unit.name(), (end - start) / HOUR));
            assert!(end - start <= unit.longest(), "{zone} {unit:?}");
            for at in (start..end).step_by(usize::try_from(HOUR).unwrap()).chain([end - 1]) {
                assert_eq!(
                    (calendar.end(Micros(at)), calendar.number(Micros(at))),
                    (Micros(end), number),
                    "{zone} {unit:?} {at}"
                );
                hours += 1;
            }
            assert_eq!(calendar.start(number), Micros(start));
        }
    }
    assert!(hours > 3 * 4 * 8760, "{hours}");
    for length in
        [("day", 23), ("day", 24), ("day", 25), ("week", 167), ("week", 169), ("month", 28 * 24), ("year", 8760)]
    {
        assert!(lengths.contains(&length), "{length:?} of {lengths:?}");
    }
}

/// Sequence 27. The nights by hand: in Berlin the 29th of March has 23 hours, and the 25th of October 25; in Santiago the 6th of
/// September has no midnight, and its first instant is one o'clock.
#[test]
fn a_day_begins_at_the_first_instant_that_it_has() {
    let berlin = calendar(Unit::Day, "Europe/Berlin");
    for (at, end) in [
        ("2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"),
        ("2026-03-29T21:59:59.999999Z", "2026-03-29T22:00:00Z"),
        ("2026-03-29T22:00:00Z", "2026-03-30T22:00:00Z"),
        ("2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"),
        ("2026-10-25T22:59:59Z", "2026-10-25T23:00:00Z"),
    ] {
        assert_eq!(berlin.end(moment(at)), moment(end), "{at}");
    }
    let santiago = calendar(Unit::Day, "America/Santiago");
    assert_eq!(santiago.end(moment("2026-09-05T12:00:00Z")), moment("2026-09-06T04:00:00Z"));
    assert_eq!(santiago.end(moment("2026-09-06T04:00:00Z")), moment("2026-09-07T03:00:00Z"));
    // A day that Samoa left out, to be on the other side of the date line.
    let apia = calendar(Unit::Day, "Pacific/Apia");
    assert_eq!(apia.end(moment("2011-12-30T09:00:00Z")), moment("2011-12-30T10:00:00Z"));
    assert_eq!(apia.end(moment("2011-12-30T10:00:00Z")), moment("2011-12-31T10:00:00Z"));
    let month = calendar(Unit::Month, "UTC");
    assert_eq!(month.end(moment("2028-02-29T23:59:59Z")), moment("2028-03-01T00:00:00Z"), "a leap day");
    assert_eq!(calendar(Unit::Year, "utc"), calendar(Unit::Year, "UTC"), "however it is written");
}

#[test]
fn every_zone_has_days_and_nothing_else_is_one() {
    let zones = Calendar::zones();
    assert!(zones.len() > 400, "{}", zones.len());
    for zone in &zones {
        let day = calendar(Unit::Day, zone);
        let mut at = moment("2026-01-01T00:00:00Z");
        for _ in 0..366 {
            let end = day.end(at);
            assert!(end > at && end.0 - at.0 <= Unit::Day.longest(), "{zone} {at:?}");
            at = end;
        }
    }
    for none in ["", "Berlin", "Europe/Berlim", "CEST-1", "UTC+1", "../../etc/passwd", "Europe/Berlin\n", "\u{0}"] {
        assert_eq!(Calendar::new(Unit::Day, none).err(), Some(UnknownZone), "{none:?}");
    }
}

/// Whatever is asked of it: times are numbers out of files and reports.
#[test]
fn the_ends_of_time_are_no_trouble() {
    for unit in Unit::ALL {
        let calendar = calendar(unit, "Europe/Berlin");
        let quota = Quota::in_calendar(5, calendar).carrying_debt();
        for at in [0, 1, u64::MAX / 4, i64::MAX as u64, u64::MAX / 2, u64::MAX - 1] {
            assert!(calendar.end(Micros(at)) >= Micros(1));
            let mut cell = Cell::fresh(&quota);
            cell.advance(&quota, Micros(at));
            cell.charge(&quota, u64::MAX / 2, Micros(at));
            cell.advance(&quota, Micros(at.saturating_add(1)));
            let _ = cell.standing(&quota, Verdict::Fits, Micros(at));
        }
        for windows in [0, 1, 1 << 20, u64::MAX / 2, u64::MAX] {
            let _ = quota.end_after(Micros(1 << 50), windows);
        }
        for number in [i64::MIN, -1_000_000, 0, 1_000_000, i64::MAX] {
            let _ = calendar.start(number);
        }
    }
}

/// A budget is there again at midnight of the zone, whenever it was used; a debt takes up the windows that follow.
#[test]
fn a_budget_ends_with_its_window() {
    let quota = Quota::in_calendar(100, calendar(Unit::Month, "Europe/Berlin"));
    let postpaid = |quota| Demand { cost: Cost::POSTPAID, ..take(1, 1, quota) };
    let (now, march) = (moment("2026-02-20T12:00:00Z"), moment("2026-02-28T23:00:00Z"));
    let wait = |until: Micros| Some(Duration::from_micros(until.0 - now.0));
    for (quota, used, verdict, left_in_march) in [
        (quota, 100, Verdict::Exceeds(wait(march)), 100),
        (quota, 250, Verdict::Exceeds(wait(march)), 100),
        (quota.carrying_debt(), 100, Verdict::Exceeds(wait(march)), 100),
        (quota.carrying_debt(), 150, Verdict::Exceeds(wait(march)), 50),
        (quota.carrying_debt(), 250, Verdict::Exceeds(wait(moment("2026-03-31T22:00:00Z"))), 0),
    ] {
        let memory = Memory::default();
        memory.charge(&taking(used, quota), 10, now);
        let standing = admit(&memory, postpaid(quota), now).standings[0];
        assert_eq!(standing.verdict, verdict, "{used}");
        assert!(standing.reset() >= Duration::from_micros(march.0 - now.0));
        assert!(!admit(&memory, postpaid(quota), Micros(march.0 - 1)).admitted());
        assert_eq!(admit(&memory, postpaid(quota), march).standings[0].remaining(), left_in_march, "{used}");
    }
}

/// 22. and its like: the use stays, and nothing of before is given back.
#[test]
fn a_limit_that_becomes_one_of_the_calendar_keeps_its_use() {
    let now = moment("2026-02-20T12:00:00Z");
    let month = Quota::in_calendar(100, calendar(Unit::Month, "Europe/Berlin"));
    let day = Quota::in_calendar(100, calendar(Unit::Day, "Asia/Tokyo"));
    for (before, after, reset) in [
        (Quota::new(100, MINUTE), month, "2026-02-28T23:00:00Z"),
        (Quota::new(100, MINUTE).by(Algorithm::FixedWindow), day, "2026-02-20T15:00:00Z"),
        (month, day, "2026-02-20T15:00:00Z"),
        // It ends no later than its own window would have.
        (day, month, "2026-02-20T15:00:00Z"),
    ] {
        let memory = Memory::default();
        assert!(memory.admit(&[Demand { cost: Cost::Take(60), ..take(1, 1, before) }], now).admitted());
        let standing = admit(&memory, Demand { cost: Cost::POSTPAID, ..take(1, 1, after) }, now).standings[0];
        assert_eq!((standing.remaining(), now.saturating_add(standing.reset())), (40, moment(reset)), "{before:?}");
    }
}
