//! The state file of the process.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::gate::Gate;
use crate::state::{Opened, Shared, State, StateError, StateMetrics};

/// A state file that was read, and what it is written from.
pub(super) struct Lasting {
    pub(super) opened: Opened,
    pub(super) shared: Shared,
}

/// A state file that is written.
pub(super) struct Saving {
    state: State,
    /// The calls that had a line in the usage log without a report, when the process before this one ended.
    pub(super) unsettled: Vec<u128>,
}

/// How long the last save may take.
const PATIENCE: Duration = Duration::from_secs(5);

// === impl Lasting ===

impl Lasting {
    /// Saves, from now on, what changes in the `gate`.
    ///
    /// # Errors
    ///
    /// The operating system gives no thread.
    pub(super) fn start(self, gate: &Arc<Gate>, clock: Clock, metrics: StateMetrics) -> Result<Saving, StateError> {
        let Lasting { opened, shared } = self;
        let unsettled = opened.unsettled.clone();
        let policies = Arc::clone(&gate.policies);
        let in_force = Box::new(move || policies.current().cells_in_force());
        let state = State::start(opened, shared, clock, metrics, in_force)?;
        Ok(Saving { state, unsettled })
    }
}

// === impl Saving ===

impl Saving {
    /// Saves for the last time, after all reports were taken.
    pub(super) fn end(&self) {
        self.state.end(PATIENCE);
    }
}
