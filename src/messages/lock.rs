//! Messages to a lock.

use futures::FutureExt;
use lockkeeper_actors::api::contender::Contender;
use lockkeeper_actors::api::error::{QueryError, ReleaseError, RemoveContenderError};
use lockkeeper_actors::api::event::{LockEvent, Refused};
use lockkeeper_actors::api::request::Ticket;
use ractor::{ActorRef, DerivedActorRef, RpcReplyPort};

use super::{Wait, reply_with};
use crate::address::Recipient;
use crate::guard::Guard;
use crate::lock::{Lock, first};
use crate::marker::{Access, Exclusive};
use crate::pending::{request_once, request_with_events};

/// A message to a lock: see [`Lock::actor`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let zookeeper = lockkeeper_embedded::Embedded::start().await?;
/// # let keeper = lockkeeper::Keeper::connect(&zookeeper.address()).await?;
/// use lockkeeper::messages::{LockMessage, Ticket, Wait};
/// use ractor::{call, call_t};
///
/// let lock = keeper.lock("/locks/ledger")?;
/// let ledger = lock.actor();
/// let guard = call!(ledger, LockMessage::Acquire, Ticket::new(), Wait::Forever)??;
/// let tried = call!(ledger, LockMessage::Acquire, Ticket::new(), Wait::Try)?;
/// assert_eq!(tried.unwrap_err(), lockkeeper::error::Refused::Contended);
/// let holder = call_t!(ledger, LockMessage::Holder, 1000)??;
/// assert_eq!(holder.map(|holder| holder.token), Some(guard.token()));
/// call!(ledger, LockMessage::Release, guard.ticket())??;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum LockMessage<M = Exclusive> {
    /// Requests the lock. The answer is the guard, or why it was refused.
    ///
    /// The timeout of a `call_t!` limits the wait. A caller that stops waiting otherwise keeps its place in the queue,
    /// and its guard is released as soon as it is granted. Cancel the ticket to leave the queue before.
    Acquire(Ticket, Wait, RpcReplyPort<Result<Guard<M>, Refused>>),
    /// Requests the lock, and sends all its events to an actor, the guard among them. When the actor ends, a request
    /// that still waits is cancelled.
    AcquireWithEvents(Ticket, Wait, DerivedActorRef<LockEvent<Guard<M>>>),
    /// Cancels a waiting request. It is then refused with [`Refused::Cancelled`]. A request that has been granted or has
    /// ended is not affected, and neither is an unknown ticket.
    Cancel(Ticket),
    /// Releases the lock that was granted to this ticket, and answers when the server has confirmed it. Its guard, if
    /// there still is one, turns to `Lost`. A request that still waits is not affected: the answer is
    /// [`ReleaseError::NotGranted`].
    Release(Ticket, RpcReplyPort<Result<(), ReleaseError>>),
    /// Lists the contenders: see [`Lock::contenders`].
    Contenders(RpcReplyPort<Result<Vec<Contender>, QueryError>>),
    /// Asks who is at the front of the queue: see [`Lock::holder`].
    Holder(RpcReplyPort<Result<Option<Contender>, QueryError>>),
    /// Deletes the node of a contender whose owner has crashed: see [`Lock::remove_contender`].
    RemoveContender(Contender, RpcReplyPort<Result<(), RemoveContenderError>>),
    /// Deletes nodes that linger: see [`Lock::let_go`].
    LetGo(RpcReplyPort<Result<(), QueryError>>),
}

impl<M: Access> Lock<M> {
    /// The lock as an actor, to which [messages](crate::messages) are sent. It is started at the first call, and ends
    /// when the last clone of this handle is dropped: messages that were sent before are still handled. It runs in the
    /// Tokio runtime of the first call. If that runtime ends before, the actor takes no more messages, and is not started
    /// again.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime.
    pub fn actor(&self) -> ActorRef<LockMessage<M>> {
        self.start_actor()
    }
}

#[cfg(feature = "cluster")]
impl<M: 'static> ractor::Message for LockMessage<M> {}

impl<M: Access> Recipient for Lock<M> {
    type Message = LockMessage<M>;

    fn receive(&self, message: LockMessage<M>) {
        match message {
            LockMessage::Acquire(ticket, wait, reply) => {
                let wait = self.wait(wait.at_most(reply.get_timeout()));
                request_once(self, ticket, wait, |answer| drop(reply.send(answer)));
            }
            LockMessage::AcquireWithEvents(ticket, wait, actor) => {
                let asker = actor.get_cell();
                let tell = move |event| drop(actor.send_message(event));
                request_with_events(self, ticket, self.wait(wait), asker, tell);
            }
            LockMessage::Cancel(ticket) => self.cancel(ticket),
            LockMessage::Release(ticket, reply) => reply_with(reply, self.ask_release(ticket)),
            LockMessage::Contenders(reply) => reply_with(reply, self.ask_contenders()),
            LockMessage::Holder(reply) => {
                reply_with(reply, self.ask_contenders().map(|answer| answer.map(first)))
            }
            LockMessage::RemoveContender(contender, reply) => reply_with(reply, self.ask_remove(contender)),
            LockMessage::LetGo(reply) => reply_with(reply, self.ask_let_go()),
        }
    }
}
