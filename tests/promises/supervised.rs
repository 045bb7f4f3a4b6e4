//! Actors of an application that supervise others: actors that hold guards, and keepers.

use futures::StreamExt;
use lockkeeper::error::TryAcquireError;
use lockkeeper::session::SessionEvent;
use lockkeeper::{Lock, LockGuard};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::common::{SOON, connect, options, shared, unique_path};

/// An actor that holds a lock.
struct Holder;

struct Held {
    guard: Option<LockGuard>,
    /// Whether it releases the lock in its `post_stop`.
    releases: bool,
}

#[ractor::actor(message = (), state = Held, arguments = Held)]
impl Holder {
    async fn pre_start(&self, _: ActorRef<()>, held: Held) -> Result<Held, ActorProcessingErr> {
        Ok(held)
    }

    async fn post_stop(&self, _: ActorRef<()>, held: &mut Held) -> Result<(), ActorProcessingErr> {
        if held.releases {
            held.guard = None;
        }
        Ok(())
    }
}

/// Handles the end of its child only once it is permitted.
struct Supervisor;

type Permission = Option<oneshot::Receiver<()>>;

#[ractor::actor(message = (), state = Permission, arguments = oneshot::Receiver<()>)]
impl Supervisor {
    async fn pre_start(
        &self,
        _: ActorRef<()>,
        permission: oneshot::Receiver<()>,
    ) -> Result<Permission, ActorProcessingErr> {
        Ok(Some(permission))
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<()>,
        event: SupervisionEvent,
        permission: &mut Permission,
    ) -> Result<(), ActorProcessingErr> {
        let ended = matches!(event, SupervisionEvent::ActorTerminated(..));
        if let Some(permission) = permission.take_if(|_| ended) {
            let _ = permission.await;
        }
        Ok(())
    }
}

async fn supervisor() -> (ActorRef<()>, oneshot::Sender<()>) {
    let (permit, permission) = oneshot::channel();
    let (supervisor, _) = Actor::spawn(None, Supervisor, permission).await.expect("the actor starts");
    (supervisor, permit)
}

/// An actor acquires the lock, and stops in order.
async fn hold_and_stop(lock: &Lock, releases: bool, supervisor: &ActorRef<()>) {
    let guard = Some(lock.acquire().await.expect("the lock is free"));
    let started = Actor::spawn_linked(None, Holder, Held { guard, releases }, supervisor.get_cell()).await;
    started.expect("it starts").0.stop_and_wait(None, Some(SOON)).await.expect("it stops");
}

#[tokio::test]
async fn a_guard_in_a_supervised_actors_state_is_released_when_the_actors_end_has_been_handled() {
    let (keeper, (supervisor, permit)) = (connect().await, supervisor().await);
    let lock = keeper.lock(&unique_path("supervised")).expect("a valid path");
    hold_and_stop(&lock, false, &supervisor).await;
    let tried = lock.try_acquire().await;
    assert!(
        matches!(tried, Err(TryAcquireError::Contended { .. })),
        "its supervisor has the guard: {tried:?}"
    );
    permit.send(()).expect("the supervisor waits");
    drop(timeout(SOON, lock.acquire()).await.expect("released").expect("connected"));
}

#[tokio::test]
async fn a_supervised_actor_that_drops_its_guard_in_post_stop_has_released_it_when_it_has_ended() {
    let (keeper, (supervisor, _permit)) = (connect().await, supervisor().await);
    let lock = keeper.lock(&unique_path("supervised")).expect("a valid path");
    hold_and_stop(&lock, true, &supervisor).await;
    drop(timeout(SOON, lock.acquire()).await.expect("released").expect("connected"));
}

/// An actor that passes on what happens to a session.
struct Watcher;

struct Session(SessionEvent);

#[cfg(feature = "cluster")]
impl ractor::Message for Session {}

type Events = mpsc::UnboundedSender<SessionEvent>;

#[ractor::actor(message = Session, state = Events, arguments = Events)]
impl Watcher {
    async fn pre_start(&self, _: ActorRef<Session>, events: Events) -> Result<Events, ActorProcessingErr> {
        Ok(events)
    }

    async fn handle(
        &self,
        _: ActorRef<Session>,
        Session(event): Session,
        events: &mut Events,
    ) -> Result<(), ActorProcessingErr> {
        let _ = events.send(event);
        Ok(())
    }
}

#[tokio::test]
async fn a_keeper_that_dies_with_its_supervisor_is_reported_as_closed() {
    let (supervisor, _permit) = supervisor().await;
    let keeper = options().connect_linked(&shared().address(), &supervisor.get_cell()).await;
    let keeper = keeper.expect("should connect");
    let (sender, mut heard) = mpsc::unbounded_channel();
    let (watcher, _) = Actor::spawn(None, Watcher, sender).await.expect("the actor starts");
    keeper.subscribe(&watcher, Session);
    assert_eq!(timeout(SOON, heard.recv()).await, Ok(Some(SessionEvent::Connected { epoch: 1 })));
    let events = keeper.events();
    supervisor.kill();
    let seen: Vec<_> = timeout(SOON, events.collect()).await.expect("the events end");
    assert_eq!(seen.iter().filter(|event| **event == SessionEvent::Closed).count(), 1, "{seen:?}");
    assert_eq!(seen.last(), Some(&SessionEvent::Closed));
    let mut last = None;
    while last != Some(SessionEvent::Closed) {
        last = timeout(SOON, heard.recv()).await.expect("it is reported");
    }
    assert_eq!(keeper.events().collect::<Vec<_>>().await, [SessionEvent::Closed], "also later");
}
