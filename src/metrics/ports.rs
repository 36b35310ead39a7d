//! What peers are refused at the ports, before any decision.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Counts what is refused.
#[derive(Clone, Debug)]
pub struct PortMetrics {
    refused: Family<RefusedLabels, Counter>,
    displaced: Family<PortLabel, Counter>,
    unfinished: Counter,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RefusedLabels {
    port: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
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
            drop(metrics.displaced.get_or_create(&PortLabel { port: port.as_str() }));
            for reason in Refusal::ALL {
                drop(metrics.refused.get_or_create(&RefusedLabels { port: port.as_str(), reason: reason.as_str() }));
            }
        }
        metrics
    }
}

impl PortMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Connections that were closed as they came, by port and reason";
        registry.register("connections_refused", help, self.refused.clone());
        let help = "Connections that were closed since others needed their places, by port";
        registry.register("connections_displaced", help, self.displaced.clone());
        let help = "Calls refused since messages that are not whole took too much memory";
        registry.register("unfinished_calls_refused", help, self.unfinished.clone());
    }

    pub(crate) fn refused(&self, port: Port, reason: Refusal) {
        self.refused.get_or_create(&RefusedLabels { port: port.as_str(), reason: reason.as_str() }).inc();
    }

    pub(crate) fn unfinished(&self) {
        self.unfinished.inc();
    }

    pub(crate) fn displaced(&self, port: Port) {
        self.displaced.get_or_create(&PortLabel { port: port.as_str() }).inc();
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
