//! What the tasks that follow a cluster tell the one that owns what is known of it.

use serde_json::Value;
use tokio::sync::mpsc::Sender;

use crate::apiserver::connection::reason;

/// Something that was seen of the cluster.
#[derive(Debug)]
pub(super) enum ClusterEvent {
    /// What the watch with this number in the store saw.
    Watch { at: usize, update: Update },
    /// That the server answers, or why it does not. No watch says so: one whose server hangs says nothing.
    Heartbeat(Result<(), String>),
}

/// What a watch saw.
#[derive(Debug)]
pub(super) enum Update {
    /// All objects that there are.
    Listed(Vec<WatchedObject>),
    Changed(WatchedObject),
    Deleted(ObjectKey),
    /// The watch stands: whatever changes from now on is seen.
    Watching,
    Failed(WatchFault),
}

/// Why there is no watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum WatchFault {
    /// No answer, or one that is none.
    Unreachable(String),
    Unauthenticated(String),
    Forbidden(String),
    /// The cluster does not serve the kind, and has said so for a while (`again`) or since a moment ago.
    Missing {
        again: bool,
    },
    /// It serves the kind in versions that are not known here.
    Newer(Vec<String>),
}

/// Namespace and name.
pub(super) type ObjectKey = (String, String);

/// An object, without what changes and says nothing.
#[derive(Debug)]
pub(super) struct WatchedObject {
    pub key: ObjectKey,
    pub about: About,
    pub value: Value,
}

/// What an object says of itself that policies do not ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct About {
    pub version: &'static str,
    pub uid: String,
    pub generation: i64,
}

/// Where a watch sends what it sees, as the watch with this number in the store.
#[derive(Clone, Debug)]
pub(super) struct Outlet {
    pub at: usize,
    pub events: Sender<ClusterEvent>,
}

// === impl WatchFault ===

impl WatchFault {
    pub(super) fn of(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.code == 401 => WatchFault::Unauthenticated(status.message),
            kube::Error::Api(status) if status.code == 403 => WatchFault::Forbidden(status.message),
            kube::Error::Api(status) => {
                WatchFault::Unreachable(format!("it answers {}: {}", status.code, status.message))
            }
            error => WatchFault::Unreachable(reason(&error)),
        }
    }
}

// === impl Outlet ===

impl Outlet {
    /// Waits while the store is behind; an error means that nobody listens any more.
    pub(super) async fn send(&self, update: Update) -> Result<(), ()> {
        self.events.send(ClusterEvent::Watch { at: self.at, update }).await.map_err(drop)
    }
}
