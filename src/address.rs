//! The actor that takes a handle's messages.

use std::fmt;
use std::marker::PhantomData;
use std::sync::OnceLock;

use ractor::{ActorCell, ActorProcessingErr, ActorRef, ActorRuntime, Message};
use tokio::sync::oneshot;

/// A handle that takes messages.
pub(crate) trait Recipient: Send + Sync + 'static {
    type Message: Message;

    /// Does what the message asks for. Must not block.
    fn receive(&self, message: Self::Message);
}

/// The actor of a handle and its clones. Started at the first use. When this is dropped, the actor handles what it was
/// sent before, and ends.
#[derive(Default)]
pub(crate) struct Address(OnceLock<Started>);

struct Started {
    actor: ActorCell,
    /// Dropped with the address.
    _alive: oneshot::Sender<()>,
}

impl Address {
    /// The actor, which works with the handle that `handle` makes, always of the same type. That handle must not own
    /// this address.
    pub fn actor<R: Recipient>(&self, handle: impl FnOnce() -> R) -> ActorRef<R::Message> {
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
            Started { actor: actor.get_cell(), _alive: alive }
        };
        self.0.get_or_init(start).actor.clone().into()
    }
}

impl fmt::Debug for Address {
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
