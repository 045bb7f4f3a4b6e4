//! What an actor application sends. The answers are in [`event`](super::event).

use std::sync::Arc;

use ractor::RpcReplyPort;
use tokio::sync::oneshot;

use super::contender::{Contender, Known, LeaseHolder};
use super::error::{AcquireError, ContendersError, ResizeError};
use super::lease::ReleasePort;
use super::request::{AcquireRequest, ContenderOptions, MultiLockRequest, Permits};
use super::resource::Resource;
use crate::machine::Ticket;
use crate::machine::exclusion::Patterns;

/// To the actor of one lock.
#[non_exhaustive]
pub enum LockMessage {
    /// Wants the lock. What happens to the request is told to its sink.
    Acquire(AcquireRequest),
    /// No longer wants it. Does nothing to a ticket that is held: drop its guard instead. A ticket that has not been
    /// used, or is done, is ignored.
    Cancel(Ticket),
    /// Releases a held lock, and replies when the server has confirmed it. A request that has not been granted is not
    /// released, and goes on: the reply is [`NotGranted`](super::error::ReleaseError::NotGranted).
    Release(Ticket, Option<ReleasePort>),
    /// Lists who waits and holds, in order.
    Contenders(Patterns, RpcReplyPort<Result<Vec<Contender>, ContendersError>>),
    /// Asks for the first in the queue, and is answered once that differs from what the asker knows. Closing the channel
    /// ends the watching.
    First(Patterns, Known, oneshot::Sender<Result<Option<Contender>, ContendersError>>),
    /// Deletes a contender's node that outlives sessions: that of a crashed owner.
    RemoveContender(Contender, RpcReplyPort<Result<(), ContendersError>>),
}

/// To the actor of one semaphore.
#[non_exhaustive]
pub enum SemaphoreMessage {
    /// Wants permits. What happens to the request is told to its sink.
    Acquire(AcquireRequest, Permits),
    /// No longer wants them: as [`LockMessage::Cancel`].
    Cancel(Ticket),
    /// Releases held permits: as [`LockMessage::Release`].
    Release(Ticket, Option<ReleasePort>),
    /// Lists who holds permits, in no order.
    LeaseHolders(RpcReplyPort<Result<Vec<LeaseHolder>, ContendersError>>),
    /// Changes the number of permits; makes the root with these options if there is none.
    Resize(u32, Arc<ContenderOptions>, RpcReplyPort<Result<(), ResizeError>>),
}

/// About requests for several locks.
#[non_exhaustive]
pub enum MultiLockMessage {
    /// Wants all of them. What happens to the request is told to its sink.
    Acquire(MultiLockRequest),
    /// No longer wants them: as [`LockMessage::Cancel`].
    Cancel(Ticket),
}

/// To the registry, which finds or starts the actor that a message is for.
pub enum RegistryMessage {
    /// A handle of this resource was made.
    Open(Resource),
    /// A handle of this resource is gone.
    Dropped(Resource),
    /// For the actor of the lock at this path.
    Lock(Arc<str>, LockMessage),
    /// For the actor of the semaphore at this path.
    Semaphore(Arc<str>, SemaphoreMessage),
    /// For the actor of a multi-lock.
    MultiLock(MultiLockMessage),
}

#[cfg(feature = "cluster")]
mod cluster {
    impl ractor::Message for super::LockMessage {}
    impl ractor::Message for super::SemaphoreMessage {}
    impl ractor::Message for super::MultiLockMessage {}
    impl ractor::Message for super::RegistryMessage {}
}

impl RegistryMessage {
    /// Answers a message that comes after the keeper was closed.
    pub fn refuse(self) {
        match self {
            RegistryMessage::Lock(_, message) => message.refuse(),
            RegistryMessage::Semaphore(_, message) => message.refuse(),
            RegistryMessage::MultiLock(MultiLockMessage::Acquire(request)) => {
                request.refuse(AcquireError::Closed)
            }
            RegistryMessage::MultiLock(MultiLockMessage::Cancel(_))
            | RegistryMessage::Open(_)
            | RegistryMessage::Dropped(_) => {}
        }
    }
}

impl LockMessage {
    fn refuse(self) {
        match self {
            LockMessage::Acquire(request) => request.refuse(AcquireError::Closed),
            LockMessage::Contenders(_, reply) => answer(reply, ContendersError::Closed),
            LockMessage::First(_, _, reply) => answer(reply.into(), ContendersError::Closed),
            LockMessage::RemoveContender(_, reply) => answer(reply, ContendersError::Closed),
            // The lock was lost: the reply port says so when it is dropped.
            LockMessage::Cancel(_) | LockMessage::Release(..) => {}
        }
    }
}

impl SemaphoreMessage {
    fn refuse(self) {
        match self {
            SemaphoreMessage::Acquire(request, _) => request.refuse(AcquireError::Closed),
            SemaphoreMessage::LeaseHolders(reply) => answer(reply, ContendersError::Closed),
            SemaphoreMessage::Resize(_, _, reply) => answer(reply, ResizeError::Closed),
            // As for a lock.
            SemaphoreMessage::Cancel(_) | SemaphoreMessage::Release(..) => {}
        }
    }
}

fn answer<T, E>(reply: RpcReplyPort<Result<T, E>>, error: E) {
    // The asker may have gone.
    let _ = reply.send(Err(error));
}
