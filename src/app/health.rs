//! Whether the process is to be sent anything: what gRPC's health service and `/readyz` answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::gate::Gate;
use crate::listen::{Workers, service_names};

/// How often the workers are asked whether they answer.
const PROBE: Duration = Duration::from_millis(500);
/// How long they have for it, and at a stop those who still read a page.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// What is said to those who ask whether the process is well.
pub(super) struct Health {
    pub(super) reporter: HealthReporter,
    /// Whether the workers answer.
    pub(super) serving: Arc<AtomicBool>,
    /// Whether a stop was asked for.
    pub(super) stopping: Arc<AtomicBool>,
}

// === impl Health ===

impl Health {
    /// Of a process that does not serve yet.
    pub(super) async fn new() -> Self {
        let (reporter, _) = tonic_health::server::health_reporter();
        let health = Health { reporter, serving: Arc::default(), stopping: Arc::default() };
        health.say(false).await;
        health
    }

    /// Asks the workers, over and over, whether they answer.
    pub(super) async fn probe(&self, workers: &Workers, gate: &Gate) {
        let mut said = false;
        loop {
            let alive = workers.alive(PATIENCE).await;
            self.serving.store(alive, Ordering::Relaxed);
            let healthy = alive && gate.policies.are_followed() && gate.policies.current().unready.is_none();
            // Whoever watches health is told every time that it is said.
            if healthy != said {
                self.say(healthy).await;
                said = healthy;
            }
            tokio::time::sleep(PROBE).await;
        }
    }

    /// From now on nothing new is to be sent.
    pub(super) async fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.say(false).await;
    }

    async fn say(&self, serving: bool) {
        let status = match serving {
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        };
        for service in service_names() {
            self.reporter.set_service_status(service, status).await;
        }
    }
}
