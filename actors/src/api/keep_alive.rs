//! What keeps a keeper open.

use ractor::{ActorCell, DerivedActorRef};

/// Keeps a keeper open: every handle and every lease has one. The keeper closes when the last one is dropped.
pub struct KeepAlive(DerivedActorRef<KeeperRequest>);

/// What handles, leases and the actors that work under them ask of the keeper.
pub enum KeeperRequest {
    /// The last handle and the last lease are gone.
    Abandoned,
    /// This actor works under locks of the keeper. When the keeper closes, `stop` is called, and the locks are kept until
    /// the actor has ended; when the keeper dies, the actor is killed.
    Adopt {
        /// The actor.
        actor: ActorCell,
        /// Asks it to end.
        stop: Box<dyn Fn() + Send>,
    },
}

#[cfg(feature = "cluster")]
impl ractor::Message for KeeperRequest {}

impl KeepAlive {
    /// For this keeper.
    pub fn new(keeper: DerivedActorRef<KeeperRequest>) -> KeepAlive {
        KeepAlive(keeper)
    }

    /// The keeper that is kept open.
    pub fn keeper(&self) -> &DerivedActorRef<KeeperRequest> {
        &self.0
    }
}

impl Drop for KeepAlive {
    fn drop(&mut self) {
        // A keeper that is closed already needs no telling.
        let _ = self.0.send_message(KeeperRequest::Abandoned);
    }
}
