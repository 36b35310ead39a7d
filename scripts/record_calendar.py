#!/usr/bin/env python3
"""Record when the days, weeks, months and years of 2026 begin in three time zones, as Python's zoneinfo has it, into
tests/data/calendar.txt. A line: zone, unit, and the first second of each window since 1970, from the one that has the first hour of the
year to the one after its last.

A window begins at the first instant at which the zone's clocks show its first day: found by looking at every quarter of an hour.
Needs Python 3.9 and a time zone database (`pip install tzdata`, or the system's)."""

import pathlib
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

# Clocks that change at night; at midnight; and by half an hour, in the south.
ZONES = ["Europe/Berlin", "America/Santiago", "Australia/Lord_Howe"]
UNITS = {
    "day": lambda day: day,
    "week": lambda day: day - timedelta(days=day.weekday()),
    "month": lambda day: day.replace(day=1),
    "year": lambda day: day.replace(month=1, day=1),
}
FROM, UNTIL = datetime(2024, 12, 30, tzinfo=timezone.utc), datetime(2028, 1, 3, tzinfo=timezone.utc)
YEAR = datetime(2026, 1, 1, tzinfo=timezone.utc), datetime(2027, 1, 1, tzinfo=timezone.utc)


def days(zone):
    """The first instant of each day."""
    at, last = FROM, None
    while at < UNTIL:
        day = at.astimezone(zone).date()
        if last is None or day > last:
            yield day, at
            last = day
        at += timedelta(minutes=15)


def starts(zone, first_day):
    """The first instant of each window: that of its first day."""
    known = [(day, at) for day, at in days(zone) if first_day(day) == day]
    first = max(i for i, (_, at) in enumerate(known) if at <= YEAR[0])
    last = min(i for i, (_, at) in enumerate(known) if at >= YEAR[1])
    return [at for _, at in known[first : last + 1]]


def main():
    lines = []
    for name in ZONES:
        for unit, first_day in UNITS.items():
            times = " ".join(str(int(at.timestamp())) for at in starts(ZoneInfo(name), first_day))
            lines.append(f"{name} {unit} {times}\n")
    out = pathlib.Path(__file__).parent.parent / "tests/data/calendar.txt"
    out.write_text("".join(lines))


main()
