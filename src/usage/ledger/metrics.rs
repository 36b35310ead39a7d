//! What is counted of the usage log.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use crate::family::{Family, Registry, register};

/// Counts what becomes of lines. Clones share it.
#[derive(Clone, Debug)]
pub struct LedgerMetrics {
    lines: Family<ResultLabel, Counter>,
    /// In the file.
    pub(super) written: Counter,
    /// There was no room for them in the queue.
    pub(super) dropped: Counter,
    /// They waited for a file that could not be written until the process ended.
    pub(super) failed: Counter,
    /// Calls without a report that there was no room to remember.
    pub(super) forgotten: Counter,
    /// Whether the file could not be written when that was last tried.
    pub(super) failing: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

// === impl LedgerMetrics ===

impl Default for LedgerMetrics {
    fn default() -> Self {
        let lines = Family::default();
        let [written, dropped, failed] =
            ["written", "dropped", "failed"].map(|result| lines.get(&ResultLabel { result }));
        let (forgotten, failing) = (Counter::default(), Gauge::default());
        LedgerMetrics { lines, written, dropped, failed, forgotten, failing }
    }
}

impl LedgerMetrics {
    /// Puts the families onto the page.
    pub(crate) fn register(&self, registry: &mut Registry) {
        register(registry, "tiergate_usage_log_lines", self.lines.clone());
        register(registry, "tiergate_usage_log_forgotten", self.forgotten.clone());
        register(registry, "tiergate_usage_log_failing", self.failing.clone());
    }
}
