#!/usr/bin/env python3
"""Prints what the last `cargo bench` says about the goals: ratios of medians of that one run."""

import json
import pathlib
import sys

CRITERION = pathlib.Path(__file__).resolve().parent.parent / "target" / "criterion"

# What is measured, what it is compared with, and the goal for the ratio.
GOALS = [
    ("check/warm decision, with evidence", "check/prost decodes the request", "below 1"),
    ("check/warm decision, a thousand models", "check/warm decision, ten models", "about 1"),
    ("take/one key", "take/one key, governor", "below 1"),
    ("take/a million keys at random", "take/a million keys at random, governor", "below 1"),
    ("take/one key, contended", "take/one key, contended, governor", "none: its ratio was 0.5 to 1.8"),
]


def median(name):
    """The median of a bench, in nanoseconds."""
    for described in CRITERION.glob("**/new/benchmark.json"):
        if json.loads(described.read_text())["full_id"] == name:
            return json.loads((described.parent / "estimates.json").read_text())["median"]["point_estimate"]
    sys.exit(f"goals.py: no figure of `{name}`: run `cargo bench` first")


print(f"{'measured':<38} {'ns':>7}   {'beside':<42} {'ns':>7} {'ratio':>6}  goal")
for ours, theirs, goal in GOALS:
    a, b = median(ours), median(theirs)
    print(f"{ours:<38} {a:>7.0f}   {theirs:<42} {b:>7.0f} {a / b:>6.2f}  {goal}")
