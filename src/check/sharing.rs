//! Who shares the counters of each limit.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde_json::{Value, json};

use crate::policy::{Attached, Limit, Policy};
use crate::printable::printable_line;
use crate::rules::LimitKind;

/// A limit that is in force somewhere, and what it counts for.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Sharing {
    /// `namespace/policy/limit`
    name: String,
    /// What is counted: `requests` or `tokens`.
    counts: &'static str,
    /// The expressions whose values have a counter each; none for one counter.
    counters: Vec<String>,
    /// Whether each route has counters of its own.
    per_route: bool,
    /// Whether it refuses nobody.
    shadow: bool,
}

/// So many limits are told as text. JSON has all of them.
const MOST: usize = 100;

// === impl Sharing ===

impl Sharing {
    /// Of every limit that applies to a route of `policy`, by its name.
    pub(super) fn of(policy: &Policy) -> Vec<Self> {
        let mut limits = BTreeMap::new();
        for attached in policy.plans().flat_map(|plan| &plan.limits) {
            let Attached::Active(set) = attached else { continue };
            let in_shadow = set.shadow.iter().flat_map(|shadow| shadow.limits.limits());
            let all = set.limits().iter().map(|limit| (limit, false)).chain(in_shadow.map(|limit| (limit, true)));
            // Where policies meet on several routes one limit stands in several sets.
            all.for_each(|(limit, shadow)| {
                limits.entry((&*limit.name, limit.kind == LimitKind::Tokens, shadow)).or_insert(limit);
            });
        }
        limits.into_iter().map(|((.., shadow), limit)| Sharing::new(limit, shadow)).collect()
    }

    fn new(limit: &Limit, shadow: bool) -> Self {
        let text = |source: &str| printable_line(source.trim()).into_owned();
        Sharing {
            name: printable_line(&limit.name).into_owned(),
            counts: match limit.kind {
                LimitKind::Requests => "requests",
                LimitKind::Tokens => "tokens",
            },
            counters: limit.counters.iter().map(|counter| text(counter.source())).collect(),
            per_route: limit.per_route,
            shadow,
        }
    }

    fn by(&self) -> String {
        let by = match self.counters.as_slice() {
            [] => "one counter for everybody".to_owned(),
            [only] => format!("one for each {only}"),
            [before @ .., last] => format!("one for each value of {} and {last}", before.join(", ")),
        };
        if self.per_route { format!("{by}, on each route by itself") } else { by }
    }

    pub(super) fn json(&self) -> Value {
        let Sharing { name, counts, counters, per_route, shadow } = self;
        json!({
            "limit": name,
            "counts": counts,
            "counters": counters,
            "per_route": per_route,
            "shadow": shadow,
            "shared": self.by(),
        })
    }
}

/// The counters of `limits`, a line each.
pub(super) fn text(limits: &[Sharing], out: &mut impl Write) -> io::Result<()> {
    if limits.is_empty() {
        return Ok(());
    }
    writeln!(out, "counters of the limits in force:")?;
    for limit in limits.iter().take(MOST) {
        let shadow = if limit.shadow { ", in shadow" } else { "" };
        writeln!(out, "  {} ({}{shadow}): {}", limit.name, limit.counts, limit.by())?;
    }
    match limits.len().saturating_sub(MOST) {
        0 => Ok(()),
        more => writeln!(out, "  and {more} more: --format json has all"),
    }
}
