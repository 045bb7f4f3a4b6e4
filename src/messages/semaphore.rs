//! Messages to a semaphore.

use lockkeeper_actors::api::contender::LeaseHolder;
use lockkeeper_actors::api::error::{QueryError, ReleaseError, ResizeError};
use lockkeeper_actors::api::event::{LockEvent, Refused};
use lockkeeper_actors::api::request::Ticket;
use ractor::{ActorRef, DerivedActorRef, RpcReplyPort};

use super::{Wait, reply_with};
use crate::address::Recipient;
use crate::guard::Permit;
use crate::pending::{request_once, request_with_events};
use crate::semaphore::Semaphore;

/// A message to a semaphore: see [`Semaphore::actor`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let zookeeper = lockkeeper_embedded::Embedded::start().await?;
/// # let keeper = lockkeeper::Keeper::connect(&zookeeper.address()).await?;
/// use lockkeeper::messages::{SemaphoreMessage, Ticket, Wait};
/// use ractor::call;
///
/// let semaphore = keeper.semaphore("/pools/gpu", 8)?;
/// let gpus = semaphore.actor();
/// let permit = call!(gpus, SemaphoreMessage::Acquire, Ticket::new(), 2, Wait::Forever)??;
/// assert_eq!((permit.count(), call!(gpus, SemaphoreMessage::Available)??), (2, 6));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum SemaphoreMessage {
    /// Requests this number of permits, all or none. Otherwise as [`LockMessage::Acquire`](super::LockMessage::Acquire).
    Acquire(Ticket, u32, Wait, RpcReplyPort<Result<Permit, Refused>>),
    /// Requests this number of permits, and sends all events of the request to an actor. Otherwise as
    /// [`LockMessage::AcquireWithEvents`](super::LockMessage::AcquireWithEvents).
    AcquireWithEvents(Ticket, u32, Wait, DerivedActorRef<LockEvent<Permit>>),
    /// As [`LockMessage::Cancel`](super::LockMessage::Cancel).
    Cancel(Ticket),
    /// Releases all permits that were granted to this ticket: as
    /// [`LockMessage::Release`](super::LockMessage::Release).
    Release(Ticket, RpcReplyPort<Result<(), ReleaseError>>),
    /// Lists the holders of permits: see [`Semaphore::lease_holders`].
    LeaseHolders(RpcReplyPort<Result<Vec<LeaseHolder>, QueryError>>),
    /// Asks for the stored number of permits: see [`Semaphore::limit`].
    Limit(RpcReplyPort<Result<Option<u32>, QueryError>>),
    /// Asks for the number of free permits: see [`Semaphore::available`].
    Available(RpcReplyPort<Result<u32, QueryError>>),
    /// Changes the number of permits: see [`Semaphore::resize`].
    Resize(u32, RpcReplyPort<Result<(), ResizeError>>),
}

impl Semaphore {
    /// The semaphore as an actor, to which [messages](crate::messages) are sent: see
    /// [`Lock::actor`](crate::Lock::actor).
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime.
    pub fn actor(&self) -> ActorRef<SemaphoreMessage> {
        self.start_actor()
    }
}

#[cfg(feature = "cluster")]
impl ractor::Message for SemaphoreMessage {}

impl Recipient for Semaphore {
    type Message = SemaphoreMessage;

    fn receive(&self, message: SemaphoreMessage) {
        match message {
            SemaphoreMessage::Acquire(ticket, count, wait, reply) => {
                let wait = self.wait(wait.at_most(reply.get_timeout()));
                request_once(&self.claim(count), ticket, wait, |answer| drop(reply.send(answer)));
            }
            SemaphoreMessage::AcquireWithEvents(ticket, count, wait, actor) => {
                let asker = actor.get_cell();
                let tell = move |event| drop(actor.send_message(event));
                request_with_events(&self.claim(count), ticket, self.wait(wait), asker, tell);
            }
            SemaphoreMessage::Cancel(ticket) => self.cancel(ticket),
            SemaphoreMessage::Release(ticket, reply) => reply_with(reply, self.ask_release(ticket)),
            SemaphoreMessage::LeaseHolders(reply) => reply_with(reply, self.ask_holders()),
            SemaphoreMessage::Limit(reply) => reply_with(reply, self.ask_limit()),
            SemaphoreMessage::Available(reply) => reply_with(reply, self.ask_available()),
            SemaphoreMessage::Resize(permits, reply) => reply_with(reply, self.ask_resize(permits)),
        }
    }
}
