//! Closing a keeper: first what works under locks, then the registry, then the session.

use std::sync::atomic::Ordering;
use std::time::Duration;

use ractor::{ActorCell, ActorProcessingErr, ActorRef, RpcReplyPort};
use tracing::warn;

use super::{Adopted, KeeperMessage, State};
use crate::registry::RegistryActorMessage;
use crate::session::SessionMessage;

impl State {
    pub(super) fn close(
        &mut self,
        reply: Option<RpcReplyPort<()>>,
        myself: &ActorRef<KeeperMessage>,
    ) -> Result<(), ActorProcessingErr> {
        let first = self.closing.is_none();
        self.closing.get_or_insert_default().extend(reply);
        if first {
            self.is_closing.store(true, Ordering::Relaxed);
            if let Some(limit) = self.settings.close_timeout {
                self.cast_after(limit, KeeperMessage::CloseOverdue, myself);
            }
            self.adopted.values().for_each(|adopted| (adopted.stop)());
            self.close_registry_when_alone(myself)?;
        }
        Ok(())
    }

    pub(super) fn adopt(&mut self, actor: ActorCell, adopted: Adopted, myself: &ActorRef<KeeperMessage>) {
        actor.link(myself.get_cell());
        if self.closing.is_some() {
            (adopted.stop)();
        }
        if self.killing {
            (adopted.kill)();
        }
        self.adopted.insert(actor.get_id(), adopted);
        let myself = myself.clone();
        // No supervision event tells of an actor that ends before it has started.
        tokio::spawn(async move {
            if actor.wait(None).await.is_ok() {
                let _ = myself.cast(KeeperMessage::AdoptedEnded(actor.get_id()));
            }
        });
    }

    pub(super) fn close_registry_when_alone(
        &mut self,
        myself: &ActorRef<KeeperMessage>,
    ) -> Result<(), ActorProcessingErr> {
        match self.closing.is_some() && self.adopted.is_empty() {
            true => self.close_registry(myself),
            false => Ok(()),
        }
    }

    fn close_registry(&mut self, myself: &ActorRef<KeeperMessage>) -> Result<(), ActorProcessingErr> {
        if !self.closing_registry {
            self.closing_registry = true;
            self.registry.call_and_forward(
                RegistryActorMessage::Close,
                myself,
                |()| KeeperMessage::RegistryClosed,
                None,
            )?;
        }
        Ok(())
    }

    /// Kills what works under locks, and keeps the locks for a while until nothing is left of it: the next holder would
    /// work beside it. Then closes without waiting any longer: leases are lost.
    pub(super) fn close_overdue(
        &mut self,
        myself: &ActorRef<KeeperMessage>,
    ) -> Result<(), ActorProcessingErr> {
        let actors = self.adopted.len();
        if self.closing_session {
            return Ok(());
        }
        if actors > 0 && !self.killing {
            warn!(actors, "close timeout reached: killing the actors that still work under locks");
            self.killing = true;
            self.adopted.values().for_each(|adopted| (adopted.kill)());
            self.cast_after(KILL_LIMIT, KeeperMessage::CloseOverdue, myself);
            return Ok(());
        }
        warn!(
            actors,
            "close timeout reached: closing the session before all actors have ended and all releases are confirmed"
        );
        self.close_registry(myself)?;
        self.close_session(myself)
    }

    pub(super) fn close_session(
        &mut self,
        myself: &ActorRef<KeeperMessage>,
    ) -> Result<(), ActorProcessingErr> {
        self.closing_session = true;
        let asked = self.session.as_ref().map(|session| {
            session.call_and_forward(SessionMessage::Close, myself, |()| KeeperMessage::SessionClosed, None)
        });
        if !matches!(asked, Some(Ok(_))) {
            myself.cast(KeeperMessage::SessionClosed)?;
        }
        Ok(())
    }
}

/// How long closing waits for actors that it has killed, and for the releases of their locks.
const KILL_LIMIT: Duration = Duration::from_secs(2);
