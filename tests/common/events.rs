//! Helpers that receive the events of requests and sessions one by one.

use std::fmt::Debug;

use futures::StreamExt;
use lockkeeper::error::Refused;
use lockkeeper::messages::{LockEvent, Ticket};
use lockkeeper::session::SessionEvent;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::HANGING;
use super::kinds::{AnyGuard, AnyLock, Wait};

pub type Events = mpsc::UnboundedReceiver<LockEvent<AnyGuard>>;
type Sender = mpsc::UnboundedSender<LockEvent<AnyGuard>>;

/// Starts an acquire and returns its events.
pub fn listen(lock: &AnyLock) -> (Ticket, Events) {
    listen_for(lock, Wait::Forever)
}

pub fn listen_for(lock: &AnyLock, wait: Wait) -> (Ticket, Events) {
    let (sender, events) = mpsc::unbounded_channel();
    let on_event = move |event| {
        let _ = sender.send(event);
    };
    (lock.listen(wait, Box::new(on_event)), events)
}

/// Expects the request to be queued next, and returns how many are ahead.
pub async fn queued(events: &mut Events) -> usize {
    match events.recv().await {
        Some(LockEvent::Enqueued { ahead, .. }) => ahead,
        other => panic!("it should be queued: {other:?}"),
    }
}

/// Expects the grant next. The release of an earlier request may be reported before it.
pub async fn acquired(events: &mut Events) -> AnyGuard {
    loop {
        match events.recv().await {
            Some(LockEvent::Released(_)) => {}
            Some(LockEvent::Acquired { guard, .. }) => return guard,
            other => panic!("it should be granted: {other:?}"),
        }
    }
}

/// Waits for the confirmation of the release, and expects no event after it.
pub async fn released(events: &mut Events) {
    match ended(events).await {
        LockEvent::Released(_) => assert!(events.recv().await.is_none(), "no further event"),
        other => panic!("it should be released: {other:?}"),
    }
}

/// Waits for the loss of the lease.
pub async fn lost<G: Debug>(events: &mut mpsc::UnboundedReceiver<LockEvent<G>>) -> Ticket {
    match ended(events).await {
        LockEvent::Lost(ticket) => ticket,
        other => panic!("it should be lost: {other:?}"),
    }
}

/// The next event of a holder that is no suspension: a busy machine may suspend a session for a moment.
async fn ended<G>(events: &mut mpsc::UnboundedReceiver<LockEvent<G>>) -> LockEvent<G> {
    loop {
        match events.recv().await.expect("an event") {
            LockEvent::Suspended(_) | LockEvent::Resumed(_) => {}
            event => return event,
        }
    }
}

/// Waits for the grant, skipping any number of `Queued` events.
pub async fn granted(events: &mut Events) -> AnyGuard {
    loop {
        match events.recv().await {
            Some(LockEvent::Enqueued { .. }) => {}
            Some(LockEvent::Acquired { guard, .. }) => return guard,
            other => panic!("it should be granted: {other:?}"),
        }
    }
}

/// Waits for the refusal, skipping any number of `Queued` events.
pub async fn refused(events: &mut Events) -> (Ticket, Refused) {
    loop {
        match events.recv().await {
            Some(LockEvent::Enqueued { .. }) => {}
            Some(LockEvent::Refused(ticket, refused)) => return (ticket, refused),
            other => panic!("it should be refused: {other:?}"),
        }
    }
}

/// Waits for this session event, skipping those before it.
pub async fn session_event(events: &mut lockkeeper::session::Events, wanted: SessionEvent) {
    let found = async { while events.next().await.expect("the keeper is open") != wanted {} };
    timeout(HANGING / 2, found).await.unwrap_or_else(|_| panic!("never {wanted:?}"));
}

/// An actor that records the lock events it is sent.
pub struct Recorder;

pub struct Recorded(pub LockEvent<AnyGuard>);

#[cfg(feature = "cluster")]
impl ractor::Message for Recorded {}

impl Recorder {
    pub async fn start() -> (ActorRef<Recorded>, Events) {
        let (sender, events) = mpsc::unbounded_channel();
        let (actor, _) = Actor::spawn(None, Recorder, sender).await.expect("an actor");
        (actor, events)
    }
}

#[ractor::actor(message = Recorded, state = Sender, arguments = Sender)]
impl Recorder {
    async fn pre_start(
        &self,
        _myself: ActorRef<Recorded>,
        sender: Sender,
    ) -> Result<Sender, ActorProcessingErr> {
        Ok(sender)
    }

    async fn handle(
        &self,
        _myself: ActorRef<Recorded>,
        Recorded(event): Recorded,
        sender: &mut Sender,
    ) -> Result<(), ActorProcessingErr> {
        let _ = sender.send(event);
        Ok(())
    }
}
