//! What is counted of the state file.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use crate::clock::Micros;
use crate::family::{Registry, register};

/// Counts saves. Clones share it.
#[derive(Clone, Debug)]
pub struct StateMetrics {
    /// Of the file.
    bytes: Gauge,
    duration: Histogram,
    /// When the last one was, in seconds since 1970.
    saved: Gauge<f64, AtomicU64>,
    /// Those that failed.
    errors: Counter,
    failing: Gauge,
}

/// In seconds: from what a small write takes to what nobody should wait for.
const DURATIONS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0];

// === impl StateMetrics ===

impl Default for StateMetrics {
    fn default() -> Self {
        let (bytes, duration) = (Gauge::default(), Histogram::new(DURATIONS));
        StateMetrics { bytes, duration, saved: Gauge::default(), errors: Counter::default(), failing: Gauge::default() }
    }
}

impl StateMetrics {
    /// A save was made.
    pub(super) fn saved(&self, took: Duration, bytes: u64, at: Micros) {
        self.duration.observe(took.as_secs_f64());
        self.bytes(bytes);
        self.saved.set(at.0 as f64 / 1e6);
        self.failing.set(0);
    }

    /// The file is so large.
    pub(super) fn bytes(&self, bytes: u64) {
        self.bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// A save failed.
    pub(super) fn failed(&self) {
        self.errors.inc();
        self.failing.set(1);
    }

    /// Puts the families onto the page.
    pub(crate) fn register(&self, registry: &mut Registry) {
        register(registry, "tiergate_state_bytes", self.bytes.clone());
        register(registry, "tiergate_state_save_duration_seconds", self.duration.clone());
        register(registry, "tiergate_state_last_save_timestamp_seconds", self.saved.clone());
        register(registry, "tiergate_state_errors", self.errors.clone());
        register(registry, "tiergate_state_failing", self.failing.clone());
    }
}
