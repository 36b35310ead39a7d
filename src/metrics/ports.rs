//! What peers are refused at the ports, before any decision.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;

use crate::family::{Family, Registry, register};

/// Counts what is refused.
#[derive(Clone, Debug)]
pub struct PortMetrics {
    refused: Family<RefusedLabels, Counter>,
    displaced: Family<PortLabel, Counter>,
    unfinished: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct RefusedLabels {
    port: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct PortLabel {
    port: &'static str,
}

/// The ports of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    Grpc,
    Http,
    Admin,
}

/// Why a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There are as many as there may be, and none is idle.
    Full,
    /// There are as many of this address as there may be, and none is idle.
    Address,
    /// Its worker does not take any.
    Worker,
    /// The operating system gives none.
    System,
}

// === impl PortMetrics ===

impl Default for PortMetrics {
    fn default() -> Self {
        let metrics =
            PortMetrics { refused: Family::default(), displaced: Family::default(), unfinished: Counter::default() };
        // Counters are there from the start, so that a rate over them has a beginning.
        for port in Port::ALL {
            metrics.displaced.get(&PortLabel { port: port.as_str() });
            for reason in Refusal::ALL {
                metrics.refused.get(&RefusedLabels { port: port.as_str(), reason: reason.as_str() });
            }
        }
        metrics
    }
}

impl PortMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        register(registry, "tiergate_connections_refused", self.refused.clone());
        register(registry, "tiergate_connections_displaced", self.displaced.clone());
        register(registry, "tiergate_unfinished_calls_refused", self.unfinished.clone());
    }

    pub(crate) fn refused(&self, port: Port, reason: Refusal) {
        self.refused.get(&RefusedLabels { port: port.as_str(), reason: reason.as_str() }).inc();
    }

    pub(crate) fn unfinished(&self) {
        self.unfinished.inc();
    }

    pub(crate) fn displaced(&self, port: Port) {
        self.displaced.get(&PortLabel { port: port.as_str() }).inc();
    }
}

// === impl Port ===

impl Port {
    const ALL: [Port; 3] = [Port::Grpc, Port::Http, Port::Admin];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Port::Grpc => "grpc",
            Port::Http => "http",
            Port::Admin => "admin",
        }
    }
}

// === impl Refusal ===

impl Refusal {
    const ALL: [Refusal; 4] = [Refusal::Full, Refusal::Address, Refusal::Worker, Refusal::System];

    fn as_str(self) -> &'static str {
        match self {
            Refusal::Full => "full",
            Refusal::Address => "address",
            Refusal::Worker => "worker",
            Refusal::System => "system",
        }
    }
}
