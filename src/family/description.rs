//! What is said of a family, on the page and in the documentation.

use prometheus_client::registry::Unit;

/// A family, as it is described.
#[derive(Clone, Copy, Debug)]
pub struct Description {
    /// Series of counters have `_total` behind it, those of histograms `_bucket`, `_sum` and `_count`.
    pub name: &'static str,
    pub kind: MetricKind,
    /// Of its numbers, in the plural.
    pub unit: &'static str,
    /// The labels, in the order of the alphabet, with what they can be.
    pub labels: &'static [(&'static str, &'static str)],
    /// Without a full stop.
    pub meaning: &'static str,
    /// What to alert on, or to look at it for.
    pub alert: &'static str,
}

/// The kind of a family's metrics, as both formats of the page have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    Counter,
    Gauge,
    Histogram,
}

// === impl Description ===

impl Description {
    /// The name without its unit, and the unit if it has one, as OpenMetrics takes them apart.
    pub(crate) fn parts(&self) -> (&'static str, Option<Unit>) {
        for (suffix, unit) in [("_seconds", Unit::Seconds), ("_bytes", Unit::Bytes)] {
            if let Some(name) = self.name.strip_suffix(suffix) {
                return (name, Some(unit));
            }
        }
        (self.name, None)
    }

    /// The name of its series, which is also that of the family in Prometheus' text format.
    #[must_use]
    pub fn series(&self) -> String {
        let suffix = if self.kind == MetricKind::Counter { "_total" } else { "" };
        format!("{}{suffix}", self.name)
    }
}

// === impl MetricKind ===

impl MetricKind {
    /// The word of `# TYPE`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
        }
    }
}
