//! The messages that an actor application sends. The events that it gets in return are in [`event`](super::event).

use std::sync::Arc;
use std::time::Duration;

use ractor::RpcReplyPort;
use tokio::sync::oneshot;

use super::contender::{Contender, Known, LeaseHolder, SemaphoreState};
use super::error::{AcquireError, AdvertiseError, QueryError, RemoveContenderError, ResizeError};
use super::inspection::{DeleteNodeError, Inventory, PathState};
use super::lease::{FencingToken, ReleasePort};
use super::request::{AcquireRequest, ContenderOptions, MultiLockRequest, Permits, Wait};
use super::resource::Resource;
use crate::machine::Ticket;
use crate::machine::patterns::Patterns;

/// Messages to the actor of one lock.
#[non_exhaustive]
pub enum LockMessage {
    /// Requests the lock. The request's sink receives its events.
    Acquire(AcquireRequest),
    /// Cancels a waiting request. A granted request is not affected: drop its guard instead. A ticket that is unknown
    /// or finished is ignored.
    Cancel(Ticket),
    /// Releases a held lock, and replies when the server has confirmed it. A request that has not been granted yet
    /// continues to wait, and the reply is [`NotGranted`](super::error::ReleaseError::NotGranted).
    Release(Ticket, Option<ReleasePort>),
    /// Lists all holders and waiters, in the order of the queue.
    Contenders(Patterns, RpcReplyPort<Result<Vec<Contender>, QueryError>>),
    /// Asks for the front of the queue. The reply is sent once that differs from what the caller knows. Closing the
    /// channel ends the request.
    First(Patterns, Known, oneshot::Sender<Result<Option<Contender>, QueryError>>),
    /// Changes the data of a request's node, and of the nodes that it gets later. Replies when the server has confirmed
    /// the change; a request that has no node yet waits for one.
    SetIdentifier(Ticket, Arc<[u8]>, RpcReplyPort<Result<(), AdvertiseError>>),
    /// Deletes the persistent node of a contender whose owner has crashed.
    RemoveContender(Contender, RpcReplyPort<Result<(), RemoveContenderError>>),
    /// Deletes the nodes of this path that linger although nobody wants them, and replies when they are gone.
    LetGo(RpcReplyPort<Result<(), QueryError>>),
}

/// Messages to the actor of one semaphore.
#[non_exhaustive]
pub enum SemaphoreMessage {
    /// Requests permits. The request's sink receives its events.
    Acquire(AcquireRequest, Permits),
    /// Cancels a waiting request, like [`LockMessage::Cancel`].
    Cancel(Ticket),
    /// Releases held permits, like [`LockMessage::Release`].
    Release(Ticket, Option<ReleasePort>),
    /// Lists all leases, in no particular order.
    LeaseHolders(RpcReplyPort<Result<Vec<LeaseHolder>, QueryError>>),
    /// Asks for the stored number of permits, and how many are taken.
    State(RpcReplyPort<Result<SemaphoreState, QueryError>>),
    /// Changes the number of permits. Creates the root with these options if it does not exist.
    Resize(u32, Arc<ContenderOptions>, RpcReplyPort<Result<(), ResizeError>>),
}

/// Messages about requests for several locks.
#[non_exhaustive]
pub enum MultiLockMessage {
    /// Requests several locks, all or none. The request's sink receives its events.
    Acquire(MultiLockRequest),
    /// Cancels a waiting request, like [`LockMessage::Cancel`].
    Cancel(Ticket),
    /// Releases all locks of a request, like [`LockMessage::Release`].
    Release(Ticket, ReleasePort),
}

/// Messages to the registry, which finds or starts the addressed actor.
pub enum RegistryMessage {
    /// A handle of this resource was created.
    Open(Resource),
    /// A handle of this resource was dropped.
    Dropped(Resource),
    /// Passed to the actor of the lock at this path.
    Lock(Arc<str>, LockMessage),
    /// Passed to the actor of the semaphore at this path.
    Semaphore(Arc<str>, SemaphoreMessage),
    /// Starts or cancels a multi-lock.
    MultiLock(MultiLockMessage),
    /// Asks how long the leases of the session are still proven; zero without a session.
    Margin(RpcReplyPort<Duration>),
    /// Asks what the servers show.
    Inspect(InspectMessage),
}

/// Questions about the locks and semaphores of all clients.
#[non_exhaustive]
pub enum InspectMessage {
    /// Walks from a path downwards. Nodes that the inventory shows are not read again. Closing the channel ends the walk.
    Walk(Arc<str>, Arc<Inventory>, oneshot::Sender<Result<Inventory, QueryError>>),
    /// Looks at one path. Closing the channel ends the look.
    Look(Arc<str>, oneshot::Sender<Result<Option<PathState>, QueryError>>),
    /// Replies once what is at a path differs from what the caller knows. Closing the channel ends the request.
    Changed(Arc<str>, Option<PathState>, oneshot::Sender<Result<Option<PathState>, QueryError>>),
    /// Deletes the node that was created by this transaction.
    Delete(Arc<str>, FencingToken, RpcReplyPort<Result<(), DeleteNodeError>>),
}

#[cfg(feature = "cluster")]
mod cluster {
    impl ractor::Message for super::LockMessage {}
    impl ractor::Message for super::SemaphoreMessage {}
    impl ractor::Message for super::MultiLockMessage {}
    impl ractor::Message for super::RegistryMessage {}
}

impl RegistryMessage {
    /// Answers a message that arrives after the keeper was closed.
    pub fn refuse(self) {
        match self {
            RegistryMessage::Lock(_, message) => message.refuse(),
            RegistryMessage::Semaphore(_, message) => message.refuse(),
            RegistryMessage::MultiLock(MultiLockMessage::Acquire(request)) => {
                request.refuse(AcquireError::Closed)
            }
            RegistryMessage::Inspect(message) => message.refuse(QueryError::Closed),
            // Same as for a lock.
            RegistryMessage::MultiLock(MultiLockMessage::Cancel(_) | MultiLockMessage::Release(..))
            | RegistryMessage::Open(_)
            | RegistryMessage::Dropped(_)
            | RegistryMessage::Margin(_) => {}
        }
    }
}

impl InspectMessage {
    /// Answers with this error.
    pub(crate) fn refuse(self, error: QueryError) {
        match self {
            InspectMessage::Walk(_, _, reply) => answer(reply.into(), error),
            InspectMessage::Look(_, reply) => answer(reply.into(), error),
            InspectMessage::Changed(_, _, reply) => answer(reply.into(), error),
            InspectMessage::Delete(_, _, reply) => answer(reply, error.into()),
        }
    }
}

impl LockMessage {
    /// Whether it is a request that waits if there is no session.
    pub(crate) fn waits(&self) -> bool {
        matches!(self, LockMessage::Acquire(request) if request.wait != Wait::Try)
    }

    fn refuse(self) {
        match self {
            LockMessage::Acquire(request) => request.refuse(AcquireError::Closed),
            LockMessage::Contenders(_, reply) => answer(reply, QueryError::Closed),
            LockMessage::First(_, _, reply) => answer(reply.into(), QueryError::Closed),
            LockMessage::SetIdentifier(_, _, reply) => answer(reply, AdvertiseError::Closed),
            LockMessage::RemoveContender(_, reply) => answer(reply, QueryError::Closed.into()),
            LockMessage::LetGo(reply) => answer(reply, QueryError::Closed),
            // The lock was lost. Dropping the reply port reports that.
            LockMessage::Cancel(_) | LockMessage::Release(..) => {}
        }
    }
}

impl SemaphoreMessage {
    /// As [`LockMessage::waits`].
    pub(crate) fn waits(&self) -> bool {
        matches!(self, SemaphoreMessage::Acquire(request, _) if request.wait != Wait::Try)
    }

    fn refuse(self) {
        match self {
            SemaphoreMessage::Acquire(request, _) => request.refuse(AcquireError::Closed),
            SemaphoreMessage::LeaseHolders(reply) => answer(reply, QueryError::Closed),
            SemaphoreMessage::State(reply) => answer(reply, QueryError::Closed),
            SemaphoreMessage::Resize(_, _, reply) => answer(reply, QueryError::Closed.into()),
            // Same as for a lock.
            SemaphoreMessage::Cancel(_) | SemaphoreMessage::Release(..) => {}
        }
    }
}

fn answer<T, E>(reply: RpcReplyPort<Result<T, E>>, error: E) {
    // The caller may no longer wait.
    let _ = reply.send(Err(error));
}
