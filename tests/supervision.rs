//! Actors that are killed: what they held is lost, what they left behind is cleaned up, and the next one serves.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{eventually, shared, unique_path};
use lockkeeper::actors::PrimitivesMessage;
use lockkeeper::actors::error::AcquireError;
use lockkeeper::actors::lease::{Lease, LeaseState};
use lockkeeper::actors::machine::protocol::Wait;
use lockkeeper::actors::machine::znode::Mode;
use lockkeeper::actors::messages::{
    AcquireRequest, ContenderOptions, Lifeline, Listener, LockEvent, LockMessage, Refused, SessionEvent,
    Ticket,
};
use lockkeeper::actors::supervisor::{self, KeeperMessage, KeeperSettings, Started};
use lockkeeper::actors::zookeeper::{Acl, AuthId, Connector, Permission};
use tokio::sync::mpsc;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(10);

/// A keeper with one lock path, from the inside.
struct Test {
    started: Started,
    lifeline: Arc<Lifeline>,
    path: Arc<str>,
    observer: zookeeper_client::Client,
}

impl Test {
    async fn new(name: &str) -> Test {
        let settings = KeeperSettings {
            connector: Arc::new(Connector::new(&shared().address(), Duration::from_secs(20))),
            connect_timeout: SOON,
            tick: None,
        };
        let started = supervisor::start(settings).await.expect("the test's server takes connections");
        let lifeline = Arc::new(Lifeline::new(started.keeper.clone()));
        let path: Arc<str> = unique_path(name).into();
        started.primitives.cast(PrimitivesMessage::Open(path.clone())).expect("it runs");
        let observer = zookeeper_client::Client::connect(&shared().address()).await.expect("connected");
        Test { started, lifeline, path, observer }
    }

    fn acquire(&self) -> mpsc::UnboundedReceiver<LockEvent> {
        let (sender, events) = mpsc::unbounded_channel();
        let options = ContenderOptions {
            mode: Mode::Lock,
            identifier: Vec::new(),
            patterns: Arc::from([]),
            ephemeral: true,
            container: false,
            acl: vec![Acl::new(Permission::ALL, AuthId::anyone())],
        };
        let ticket = Ticket::new();
        let listener = Listener::new(ticket, self.path.clone(), move |event| {
            let _ = sender.send(event);
        });
        let lifeline = self.lifeline.clone();
        let request = AcquireRequest::new(ticket, Arc::new(options), Wait::Forever, listener, lifeline);
        let message = PrimitivesMessage::Lock(self.path.clone(), LockMessage::Acquire(request));
        self.started.primitives.cast(message).expect("it runs");
        events
    }

    async fn no_nodes(&self) {
        eventually("every node is gone", SOON, async || {
            self.observer.sync("/").await.expect("connected");
            self.observer.list_children(&self.path).await.is_ok_and(|children| children.is_empty())
        })
        .await;
    }

    fn events(&self) -> mpsc::UnboundedReceiver<SessionEvent> {
        let (sender, events) = mpsc::unbounded_channel();
        self.started.keeper.cast(KeeperMessage::Subscribe(sender)).expect("it runs");
        events
    }
}

async fn lease(events: &mut mpsc::UnboundedReceiver<LockEvent>) -> Lease {
    loop {
        match timeout(SOON, events.recv()).await.expect("an event") {
            Some(LockEvent::Acquired { guard, .. }) => return guard,
            Some(LockEvent::Queued { .. }) => {}
            other => panic!("not granted, but {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_lock_actor_that_is_killed_loses_its_leases_and_leaves_no_node() {
    let test = Test::new("killed").await;
    let held = lease(&mut test.acquire()).await;
    let mut waiting = test.acquire();
    assert!(matches!(timeout(SOON, waiting.recv()).await, Ok(Some(LockEvent::Queued { ahead: 1, .. }))));
    let mut session = test.events();
    for actor in test.started.primitives.get_children() {
        actor.kill();
    }
    timeout(SOON, held.lost()).await.expect("its actor is gone");
    assert_eq!(held.state(), LeaseState::Lost);
    let told = timeout(SOON, waiting.recv()).await.expect("it is told");
    let stopped = Refused::Failed(AcquireError::Stopped { path: test.path.to_string() });
    assert!(matches!(&told, Some(LockEvent::Refused(_, why)) if *why == stopped), "{told:?}");
    // The session lives on, and the nodes go all the same.
    test.no_nodes().await;
    assert_eq!(session.recv().await, Some(SessionEvent::Connected { epoch: 1 }));
    assert!(session.try_recv().is_err(), "nothing happened to the session");
    let again = lease(&mut test.acquire()).await;
    assert!(again.token() > held.token());
    assert!(held.release().await.is_err());
    assert_eq!(again.state(), LeaseState::Held);
}

#[tokio::test]
async fn a_session_actor_that_is_killed_ends_its_session_and_the_next_one_begins() {
    let test = Test::new("session").await;
    let mut session = test.events();
    let held = lease(&mut test.acquire()).await;
    let mut waiting = test.acquire();
    let primitives = test.started.primitives.get_id();
    for actor in test.started.keeper.get_children() {
        if actor.get_id() != primitives {
            actor.kill();
        }
    }
    timeout(SOON, held.lost()).await.expect("its session is gone");
    for expected in [
        SessionEvent::Connected { epoch: 1 },
        SessionEvent::Lost { epoch: 1 },
        SessionEvent::Connected { epoch: 2 },
    ] {
        assert_eq!(timeout(SOON, session.recv()).await, Ok(Some(expected)));
    }
    assert!(lease(&mut waiting).await.token() > held.token());
}

#[tokio::test]
async fn when_the_primitives_are_killed_the_keeper_ends_and_with_it_the_session() {
    let test = Test::new("primitives").await;
    let mut session = test.events();
    let held = lease(&mut test.acquire()).await;
    test.started.primitives.kill();
    timeout(SOON, held.lost()).await.expect("everything is gone");
    assert_eq!(session.recv().await, Some(SessionEvent::Connected { epoch: 1 }));
    assert_eq!(timeout(SOON, session.recv()).await, Ok(Some(SessionEvent::Closed)));
    test.no_nodes().await;
}
