//! What becomes of requests and sessions, heard one event after the other.

use futures::StreamExt;
use lockkeeper::{LockEvent, Refused, SessionEvent, Ticket};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::mpsc;

use super::kinds::{AnyGuard, AnyLock, Wait};

pub type Events = mpsc::UnboundedReceiver<LockEvent<AnyGuard>>;
type Sender = mpsc::UnboundedSender<LockEvent<AnyGuard>>;

/// Acquires, and hears of it.
pub fn listen(lock: &AnyLock) -> (Ticket, Events) {
    listen_for(lock, Wait::Forever)
}

pub fn listen_for(lock: &AnyLock, wait: Wait) -> (Ticket, Events) {
    let (sender, events) = mpsc::unbounded_channel();
    let hear = move |event| {
        let _ = sender.send(event);
    };
    (lock.listen(wait, Box::new(hear)), events)
}

/// That it is queued next, and how many are ahead.
pub async fn queued(events: &mut Events) -> usize {
    match events.recv().await {
        Some(LockEvent::Queued { ahead, .. }) => ahead,
        other => panic!("it should be queued: {other:?}"),
    }
}

/// That it is granted next; the end of another request may be told before.
pub async fn acquired(events: &mut Events) -> AnyGuard {
    loop {
        match events.recv().await {
            Some(LockEvent::Released(_)) => {}
            Some(LockEvent::Acquired { guard, .. }) => return guard,
            other => panic!("it should be granted: {other:?}"),
        }
    }
}

/// That its release is confirmed, and nothing follows.
pub async fn released(events: &mut Events) {
    let told = events.recv().await;
    assert!(matches!(told, Some(LockEvent::Released(_))), "it should be released: {told:?}");
    assert!(events.recv().await.is_none(), "nothing follows");
}

/// The same, however often it queues before.
pub async fn granted(events: &mut Events) -> AnyGuard {
    loop {
        match events.recv().await {
            Some(LockEvent::Queued { .. }) => {}
            Some(LockEvent::Acquired { guard, .. }) => return guard,
            other => panic!("it should be granted: {other:?}"),
        }
    }
}

/// That it is refused, however often it queues before.
pub async fn refused(events: &mut Events) -> (Ticket, Refused) {
    loop {
        match events.recv().await {
            Some(LockEvent::Queued { .. }) => {}
            Some(LockEvent::Refused(ticket, refused)) => return (ticket, refused),
            other => panic!("it should be refused: {other:?}"),
        }
    }
}

/// Waits for an event of the session, and passes over those before.
pub async fn session_event(events: &mut lockkeeper::Events, wanted: SessionEvent) {
    while events.next().await.expect("the keeper is open") != wanted {}
}

/// An actor that passes on what it hears of its locks.
pub struct Ear;

pub struct Heard(pub LockEvent<AnyGuard>);

#[cfg(feature = "cluster")]
impl ractor::Message for Heard {}

impl Ear {
    pub async fn start() -> (ActorRef<Heard>, Events) {
        let (sender, events) = mpsc::unbounded_channel();
        let (actor, _) = Actor::spawn(None, Ear, sender).await.expect("an actor");
        (actor, events)
    }
}

#[ractor::actor(message = Heard, state = Sender, arguments = Sender)]
impl Ear {
    async fn pre_start(
        &self,
        _myself: ActorRef<Heard>,
        sender: Sender,
    ) -> Result<Sender, ActorProcessingErr> {
        Ok(sender)
    }

    async fn handle(
        &self,
        _myself: ActorRef<Heard>,
        Heard(event): Heard,
        sender: &mut Sender,
    ) -> Result<(), ActorProcessingErr> {
        let _ = sender.send(event);
        Ok(())
    }
}
