//! The token that keeps a keeper open.

use ractor::{ActorCell, DerivedActorRef};
use tokio::runtime::Handle;

use crate::record::Recording;

/// Keeps a keeper open. All handles and leases share one; the keeper closes when the last of them drops it.
pub struct KeepAlive {
    keeper: DerivedActorRef<KeeperRequest>,
    recording: Option<Recording>,
    runtime: Handle,
}

/// Messages to the keeper from handles, leases and the actors that work under them.
pub enum KeeperRequest {
    /// The last handle and the last lease were dropped.
    Abandoned,
    /// Links an actor that works under locks of the keeper. When the keeper closes, it calls `stop` and keeps the locks
    /// until the actor has ended. If that takes longer than the close timeout, it calls `kill`. When the keeper dies, the
    /// actor is killed.
    Adopt {
        /// The actor that works under the locks.
        actor: ActorCell,
        /// Asks the actor to end.
        stop: Box<dyn Fn() + Send>,
        /// Kills what the actor runs under the locks, and lets the actor end when nothing is left of that.
        kill: Box<dyn Fn() + Send>,
    },
}

#[cfg(feature = "cluster")]
impl ractor::Message for KeeperRequest {}

impl KeepAlive {
    /// A token that keeps this keeper open, which has this record. Panics outside a Tokio runtime: it is called in that of
    /// the keeper.
    pub fn new(keeper: DerivedActorRef<KeeperRequest>, recording: Option<Recording>) -> KeepAlive {
        KeepAlive { keeper, recording, runtime: Handle::current() }
    }

    /// The keeper that is kept open.
    pub fn keeper(&self) -> &DerivedActorRef<KeeperRequest> {
        &self.keeper
    }

    /// The runtime of the keeper, for what must not end with a caller's.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// The keeper's record, which the actors that work under its locks add to.
    pub fn recording(&self) -> Option<&Recording> {
        self.recording.as_ref()
    }
}

impl Drop for KeepAlive {
    fn drop(&mut self) {
        // Fails if the keeper is already closed.
        let _ = self.keeper.send_message(KeeperRequest::Abandoned);
    }
}
