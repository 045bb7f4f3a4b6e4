//! The same operations on every kind of lock, by message.

use std::marker::PhantomData;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use lockkeeper::error::{Refused, ReleaseError};
use lockkeeper::marker::Access;
use lockkeeper::messages::{LockEvent, LockMessage, MultiLockMessage, SemaphoreMessage, Ticket, Wait};
use lockkeeper::{Lock, MultiLock, Semaphore};
use ractor::rpc::CallResult;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::mpsc;

use super::events::Events;
use super::kinds::AnyGuard;

/// The answer to a call; `None` if it was not answered, or not in time.
pub type Called<T> = BoxFuture<'static, Option<T>>;

pub trait ByMessage {
    /// Requests the lock with a reply port.
    fn call(
        &self,
        ticket: Ticket,
        wait: Wait,
        timeout: Option<Duration>,
    ) -> Called<Result<AnyGuard, Refused>>;
    /// Requests the lock with the events sent to an actor, which ends with the result.
    fn call_for_events(&self, ticket: Ticket, wait: Wait) -> BoxFuture<'static, (Events, Listening)>;
    fn cancel_by_message(&self, ticket: Ticket);
    fn release_by_message(&self, ticket: Ticket) -> Called<Result<(), ReleaseError>>;
}

/// Stops the listening actor.
pub struct Listening(ractor::ActorCell);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.stop(None);
    }
}

/// An actor that records lock events with their own guards.
struct Listener<G>(PhantomData<fn() -> G>);

struct Heard<G>(LockEvent<G>);

impl<G> From<LockEvent<G>> for Heard<G> {
    fn from(event: LockEvent<G>) -> Heard<G> {
        Heard(event)
    }
}

impl<G> From<Heard<G>> for LockEvent<G> {
    fn from(heard: Heard<G>) -> LockEvent<G> {
        heard.0
    }
}

#[cfg(feature = "cluster")]
impl<G: Send + 'static> ractor::Message for Heard<G> {}

type Sender = mpsc::UnboundedSender<LockEvent<AnyGuard>>;

#[ractor::actor(message = Heard<G>, state = Sender, arguments = Sender)]
impl<G: Send + Into<AnyGuard> + 'static> Listener<G> {
    async fn pre_start(&self, _: ActorRef<Heard<G>>, sender: Sender) -> Result<Sender, ActorProcessingErr> {
        Ok(sender)
    }

    async fn handle(
        &self,
        _: ActorRef<Heard<G>>,
        Heard(event): Heard<G>,
        sender: &mut Sender,
    ) -> Result<(), ActorProcessingErr> {
        let _ = sender.send(event.map_guard(Into::into));
        Ok(())
    }
}

async fn listener<G: Send + Into<AnyGuard> + 'static>() -> (ActorRef<Heard<G>>, Events) {
    let (sender, events) = mpsc::unbounded_channel();
    let (actor, _) = Actor::spawn(None, Listener(PhantomData), sender).await.expect("an actor");
    (actor, events)
}

fn answer<T, E>(called: Result<CallResult<T>, E>) -> Option<T> {
    match called {
        Ok(CallResult::Success(answer)) => Some(answer),
        Ok(CallResult::Timeout | CallResult::SenderError) | Err(_) => None,
    }
}

/// `$count` stands between the ticket and the wait.
macro_rules! by_message {
    ([$($mode:ident: $bound:ident)?] $handle:ty, $message:ident, |$this:ident| $lock:expr, ($($count:expr)?)) => {
        impl $(<$mode: $bound>)? ByMessage for $handle {
            fn call(
                &self,
                ticket: Ticket,
                wait: Wait,
                timeout: Option<Duration>,
            ) -> Called<Result<AnyGuard, Refused>> {
                let $this = self;
                let actor = $lock.actor();
                async move {
                    let acquire = |reply| $message::Acquire(ticket, $($count,)? wait, reply);
                    answer(actor.call(acquire, timeout).await).map(|answer| answer.map(AnyGuard::from))
                }
                .boxed()
            }

            fn call_for_events(
                &self,
                ticket: Ticket,
                wait: Wait,
            ) -> BoxFuture<'static, (Events, Listening)> {
                let $this = self;
                let actor = $lock.actor();
                async move {
                    let (listener, events) = listener().await;
                    let acquire = $message::AcquireWithEvents(ticket, $($count,)? wait, listener.get_derived());
                    actor.cast(acquire).expect("the handle lives");
                    (events, Listening(listener.get_cell()))
                }
                .boxed()
            }

            fn cancel_by_message(&self, ticket: Ticket) {
                let $this = self;
                $lock.actor().cast($message::Cancel(ticket)).expect("the handle lives");
            }

            fn release_by_message(&self, ticket: Ticket) -> Called<Result<(), ReleaseError>> {
                let $this = self;
                let actor = $lock.actor();
                async move { answer(actor.call(|reply| $message::Release(ticket, reply), None).await) }.boxed()
            }
        }
    };
}

by_message!([M: Access] Lock<M>, LockMessage, |this| this, ());
by_message!([](MultiLock, Lock), MultiLockMessage, |this| this.0, ());
by_message!([] Semaphore, SemaphoreMessage, |this| this, (1));
