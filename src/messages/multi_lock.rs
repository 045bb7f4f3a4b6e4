//! Messages to a multi-lock.

use lockkeeper_actors::api::error::ReleaseError;
use lockkeeper_actors::api::event::{LockEvent, Refused};
use lockkeeper_actors::api::request::Ticket;
use ractor::{ActorRef, DerivedActorRef, RpcReplyPort};

use super::{Wait, reply_with};
use crate::address::Recipient;
use crate::multi_lock::{MultiGuard, MultiLock};
use crate::pending::{request_once, request_with_events};

/// A message to a multi-lock: see [`MultiLock::actor`].
#[derive(Debug)]
#[non_exhaustive]
pub enum MultiLockMessage {
    /// Requests all locks. Otherwise as [`LockMessage::Acquire`](super::LockMessage::Acquire).
    Acquire(Ticket, Wait, RpcReplyPort<Result<MultiGuard, Refused>>),
    /// Requests all locks, and sends all events of the request to an actor. Otherwise as
    /// [`LockMessage::AcquireWithEvents`](super::LockMessage::AcquireWithEvents).
    AcquireWithEvents(Ticket, Wait, DerivedActorRef<LockEvent<MultiGuard>>),
    /// As [`LockMessage::Cancel`](super::LockMessage::Cancel).
    Cancel(Ticket),
    /// Releases all locks that were granted to this ticket: as
    /// [`LockMessage::Release`](super::LockMessage::Release).
    Release(Ticket, RpcReplyPort<Result<(), ReleaseError>>),
}

impl MultiLock {
    /// The multi-lock as an actor, to which [messages](crate::messages) are sent: see
    /// [`Lock::actor`](crate::Lock::actor).
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime.
    pub fn actor(&self) -> ActorRef<MultiLockMessage> {
        self.start_actor()
    }
}

#[cfg(feature = "cluster")]
impl ractor::Message for MultiLockMessage {}

impl Recipient for MultiLock {
    type Message = MultiLockMessage;

    fn receive(&self, message: MultiLockMessage) {
        match message {
            MultiLockMessage::Acquire(ticket, wait, reply) => {
                let wait = self.wait(wait.at_most(reply.get_timeout()));
                request_once(self, ticket, wait, |answer| drop(reply.send(answer)));
            }
            MultiLockMessage::AcquireWithEvents(ticket, wait, actor) => {
                let asker = actor.get_cell();
                let tell = move |event| drop(actor.send_message(event));
                request_with_events(self, ticket, self.wait(wait), asker, tell);
            }
            MultiLockMessage::Cancel(ticket) => self.cancel(ticket),
            MultiLockMessage::Release(ticket, reply) => reply_with(reply, self.ask_release(ticket)),
        }
    }
}
