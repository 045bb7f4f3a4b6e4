//! The actor that takes a handle's messages.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::OnceLock;

use ractor::{ActorProcessingErr, ActorRef, ActorRuntime, Message, RpcReplyPort};
use tokio::sync::oneshot;

/// A handle that takes messages.
pub(crate) trait Recipient: Send + Sync + 'static {
    type Message: Message;

    /// Does what the message asks for. Must not block.
    fn receive(&self, message: Self::Message);
}

/// The actor of a handle and its clones. Started at the first use. When this is dropped, the actor handles what it was
/// sent before, and ends.
pub(crate) struct Address<T>(OnceLock<Started<T>>);

struct Started<T> {
    actor: ActorRef<T>,
    /// Dropped with the address.
    _alive: oneshot::Sender<()>,
}

impl<T: Message> Address<T> {
    /// The actor, which works with the handle that `handle` makes. That handle must not own this address.
    pub fn actor<R: Recipient<Message = T>>(&self, handle: impl FnOnce() -> R) -> ActorRef<T> {
        let start = || {
            let spawned = ActorRuntime::spawn_instant(None, HandleActor(PhantomData), handle());
            // Only a name that is already taken makes it fail.
            let (actor, starting) = spawned.expect("an actor without a name starts");
            let (alive, dropped) = oneshot::channel();
            let draining = actor.clone();
            tokio::spawn(async move {
                // An actor that is drained before it has started would never start.
                let _ = starting.await;
                let _ = dropped.await;
                let _ = draining.drain();
            });
            Started { actor, _alive: alive }
        };
        self.0.get_or_init(start).actor.clone()
    }
}

impl<T> Default for Address<T> {
    fn default() -> Address<T> {
        Address(OnceLock::new())
    }
}

impl<T> fmt::Debug for Address<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Address").field(&self.0.get().map(|started| started.actor.get_id())).finish()
    }
}

struct HandleActor<R>(PhantomData<fn() -> R>);

#[ractor::actor(message = R::Message, state = R, arguments = R)]
impl<R: Recipient> HandleActor<R> {
    async fn pre_start(&self, _: ActorRef<R::Message>, handle: R) -> Result<R, ActorProcessingErr> {
        Ok(handle)
    }

    async fn handle(
        &self,
        _: ActorRef<R::Message>,
        message: R::Message,
        handle: &mut R,
    ) -> Result<(), ActorProcessingErr> {
        handle.receive(message);
        Ok(())
    }
}

/// Sends the result of `answer` once it is there.
pub(crate) fn reply_with<T: Send + 'static>(
    reply: RpcReplyPort<T>,
    answer: impl Future<Output = T> + Send + 'static,
) {
    tokio::spawn(async move {
        // The caller may no longer wait.
        let _ = reply.send(answer.await);
    });
}
