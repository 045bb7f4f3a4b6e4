//! Actors that are killed: what they held is lost, what they left behind is cleaned up, and the next one serves. And
//! keepers that an application supervises.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{eventually, proxied, shared, unique_path};
use futures::StreamExt;
use futures::future::BoxFuture;
use lockkeeper::actors::error::AcquireError;
use lockkeeper::actors::lease::{Lease, LeaseState};
use lockkeeper::actors::machine::protocol::Wait;
use lockkeeper::actors::machine::znode::{Dialect, Mode};
use lockkeeper::actors::messages::{
    AcquireRequest, ContenderOptions, Lifeline, Listener, LockEvent, LockMessage, Place, Refused,
    SessionEvent, Ticket,
};
use lockkeeper::actors::multi::{MultiLease, MultiMessage, MultiPart, MultiRequest};
use lockkeeper::actors::supervisor::{self, KeeperMessage, KeeperSettings, RestartPolicy, Started};
use lockkeeper::actors::zookeeper::{Acl, AuthId, Connect, Connected, Connector, Permission, Unconnected};
use lockkeeper::actors::{Clock, PrimitivesMessage, Randomness};
use lockkeeper::{ConnectError, Keeper};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
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
            clock: Clock::start(),
            connector: Arc::new(Connector::new(&shared().address(), Duration::from_secs(20))),
            connect_timeout: SOON,
            tick: None,
            randomness: Randomness::default(),
            restart: RestartPolicy::default(),
            close_timeout: None,
        };
        let started = supervisor::start(settings).await.expect("the test's server takes connections");
        let lifeline = Arc::new(Lifeline::new(started.keeper.clone()));
        let path: Arc<str> = unique_path(name).into();
        started.primitives.cast(PrimitivesMessage::Open(Place::lock(&path))).expect("it runs");
        let observer = zookeeper_client::Client::connect(&shared().address()).await.expect("connected");
        Test { started, lifeline, path, observer }
    }

    fn acquire(&self) -> mpsc::UnboundedReceiver<LockEvent> {
        let (sender, events) = mpsc::unbounded_channel();
        let ticket = Ticket::new();
        let listener = Listener::new(ticket, self.path.clone(), move |event| {
            let _ = sender.send(event);
        });
        let lifeline = self.lifeline.clone();
        let request = AcquireRequest::new(ticket, options(), Wait::Forever, listener, lifeline);
        let message = PrimitivesMessage::Lock(Place::lock(&self.path), LockMessage::Acquire(request));
        self.started.primitives.cast(message).expect("it runs");
        events
    }

    /// The lock and another one, whose actor runs already, both at once; tells where the other one is.
    fn acquire_two(&self, name: &str) -> (mpsc::UnboundedReceiver<LockEvent<MultiLease>>, Arc<str>) {
        let (sender, events) = mpsc::unbounded_channel();
        let (ticket, other): (_, Arc<str>) = (Ticket::new(), unique_path(name).into());
        let listener = Listener::new(ticket, "both".into(), move |event| {
            let _ = sender.send(event);
        });
        let parts = [&self.path, &other].map(|path| MultiPart { path: path.clone(), options: options() });
        let request = MultiRequest::new(ticket, parts.into(), Wait::Forever, listener, self.lifeline.clone());
        let open = PrimitivesMessage::Open(Place::lock(&other));
        self.started.primitives.cast(open).expect("it runs");
        let message = PrimitivesMessage::Multi(MultiMessage::Acquire(request));
        self.started.primitives.cast(message).expect("it runs");
        (events, other)
    }

    async fn no_nodes(&self) {
        self.no_nodes_at(&self.path).await;
    }

    async fn no_nodes_at(&self, path: &str) {
        eventually("every node is gone", SOON, async || {
            self.observer.sync("/").await.expect("connected");
            self.observer.list_children(path).await.is_ok_and(|children| children.is_empty())
        })
        .await;
    }

    fn events(&self) -> mpsc::UnboundedReceiver<SessionEvent> {
        let (sender, events) = mpsc::unbounded_channel();
        self.started.keeper.cast(KeeperMessage::Subscribe(sender)).expect("it runs");
        events
    }
}

fn options() -> Arc<ContenderOptions> {
    Arc::new(ContenderOptions {
        mode: Mode::Lock,
        dialect: Dialect::Kazoo,
        identifier: Vec::new(),
        patterns: Arc::from([]),
        ephemeral: true,
        container: false,
        acl: vec![Acl::new(Permission::ALL, AuthId::anyone())],
        max_waiting: None,
    })
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
async fn a_request_for_several_locks_whose_actor_is_killed_gives_back_what_it_had() {
    let test = Test::new("several").await;
    let held = lease(&mut test.acquire()).await;
    let (mut events, other) = test.acquire_two("several-other");
    let told = timeout(SOON, events.recv()).await;
    assert!(matches!(told, Ok(Some(LockEvent::Queued { ahead: 1, .. }))), "{told:?}");
    // In the order in which they began.
    let mut actors = test.started.primitives.get_children();
    actors.sort_by_key(|actor| actor.get_id().pid());
    actors[2].kill();
    let told = timeout(SOON, events.recv()).await;
    let Ok(Some(LockEvent::Refused(_, Refused::Failed(AcquireError::Stopped { .. })))) = told else {
        panic!("not refused, but {told:?}");
    };
    test.no_nodes_at(&other).await;
    assert_eq!(held.state(), LeaseState::Held);
    held.release().await.expect("released");
    test.no_nodes().await;
}

#[tokio::test]
async fn a_request_for_several_locks_queues_anew_when_the_actor_of_one_it_has_is_killed() {
    let test = Test::new("several").await;
    let held = lease(&mut test.acquire()).await;
    let (mut events, other) = test.acquire_two("several-other");
    let told = timeout(SOON, events.recv()).await;
    assert!(matches!(told, Ok(Some(LockEvent::Queued { ahead: 1, .. }))), "{told:?}");
    let mut actors = test.started.primitives.get_children();
    actors.sort_by_key(|actor| actor.get_id().pid());
    actors[1].kill();
    let told = timeout(SOON, events.recv()).await;
    assert!(matches!(told, Ok(Some(LockEvent::Queued { .. }))), "{told:?}");
    held.release().await.expect("released");
    let told = timeout(SOON, events.recv()).await;
    let Ok(Some(LockEvent::Acquired { guard, .. })) = told else { panic!("not granted, but {told:?}") };
    guard.release().await.expect("released");
    test.no_nodes().await;
    test.no_nodes_at(&other).await;
}

#[tokio::test]
async fn a_request_for_several_locks_whose_actor_is_killed_keeps_what_it_was_granted() {
    let test = Test::new("several").await;
    let (mut events, other) = test.acquire_two("several-other");
    let told = timeout(SOON, events.recv()).await;
    let Ok(Some(LockEvent::Acquired { guard, .. })) = told else { panic!("not granted, but {told:?}") };
    let mut actors = test.started.primitives.get_children();
    actors.sort_by_key(|actor| actor.get_id().pid());
    actors[2].kill();
    assert!(timeout(SOON, events.recv()).await.expect("the end").is_none(), "nobody tells any more");
    assert_eq!(guard.state(), LeaseState::Held);
    guard.release().await.expect("released");
    test.no_nodes().await;
    test.no_nodes_at(&other).await;
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

#[tokio::test]
async fn a_supervisor_is_told_of_the_death_of_the_primitives_as_of_a_failure() {
    let (root, mut ends) = root().await;
    let test = Test::new("primitives").await;
    test.started.link(&root.get_cell()).expect("it lives");
    test.started.primitives.kill();
    assert_eq!(timeout(SOON, ends.recv()).await, Ok(Some(End::Failed(None))));
}

/// The supervisor of an application, who notes how its children end.
struct Root;

#[derive(Debug, PartialEq)]
enum End {
    Failed(Option<ConnectError>),
    Terminated(Option<String>),
}

#[ractor::actor(message = (), state = mpsc::UnboundedSender<End>, arguments = mpsc::UnboundedSender<End>)]
impl Root {
    async fn pre_start(
        &self,
        _: ActorRef<()>,
        ends: mpsc::UnboundedSender<End>,
    ) -> Result<mpsc::UnboundedSender<End>, ActorProcessingErr> {
        Ok(ends)
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<()>,
        event: SupervisionEvent,
        ends: &mut mpsc::UnboundedSender<End>,
    ) -> Result<(), ActorProcessingErr> {
        let end = match event {
            SupervisionEvent::ActorFailed(_, error) => End::Failed(error.downcast_ref().cloned()),
            SupervisionEvent::ActorTerminated(_, _, reason) => End::Terminated(reason),
            _ => return Ok(()),
        };
        let _ = ends.send(end);
        Ok(())
    }
}

async fn root() -> (ActorRef<()>, mpsc::UnboundedReceiver<End>) {
    let (sender, ends) = mpsc::unbounded_channel();
    let (actor, _) = Actor::spawn(None, Root, sender).await.expect("it starts");
    (actor, ends)
}

/// A server that takes the credentials until it does not.
struct Doorkeeper(Connector, Arc<AtomicBool>);

impl Connect for Doorkeeper {
    fn connect(&self) -> BoxFuture<'static, Result<Connected, Unconnected>> {
        match self.1.load(Ordering::SeqCst) {
            true => self.0.connect(),
            false => Box::pin(async { Err(Unconnected::AuthFailed) }),
        }
    }

    fn address(&self) -> &str {
        "the door"
    }
}

#[tokio::test]
async fn a_keeper_whose_credentials_are_not_taken_any_more_gives_up_and_its_supervisor_learns_why() {
    let (root, mut ends) = root().await;
    let open = Arc::new(AtomicBool::new(true));
    let connector = Connector::new(&shared().address(), Duration::from_secs(20));
    let settings = KeeperSettings {
        clock: Clock::start(),
        connector: Arc::new(Doorkeeper(connector, open.clone())),
        connect_timeout: SOON,
        tick: None,
        randomness: Randomness::default(),
        restart: RestartPolicy::default(),
        close_timeout: None,
    };
    let started = supervisor::start(settings).await.expect("the door is open");
    started.link(&root.get_cell()).expect("it lives");
    let (sender, mut events) = mpsc::unbounded_channel();
    started.keeper.cast(KeeperMessage::Subscribe(sender)).expect("it runs");
    open.store(false, Ordering::SeqCst);
    let primitives = started.primitives.get_id();
    for actor in started.keeper.get_children() {
        if actor.get_id() != primitives {
            actor.kill();
        }
    }
    let error = ConnectError::AuthFailed { address: "the door".into() };
    for expected in [
        SessionEvent::Connected { epoch: 1 },
        SessionEvent::Lost { epoch: 1 },
        SessionEvent::GaveUp { error: error.clone() },
        SessionEvent::Closed,
    ] {
        assert_eq!(timeout(SOON, events.recv()).await, Ok(Some(expected)));
    }
    assert_eq!(timeout(SOON, ends.recv()).await, Ok(Some(End::Failed(Some(error)))));
}

#[tokio::test]
async fn a_keeper_gives_up_when_it_was_told_to_and_answers_who_waits() {
    let (root, mut ends) = root().await;
    let proxy = proxied().await;
    let options = Keeper::options().session_timeout(Duration::from_secs(1)).connect_timeout(SOON);
    let options = options.backoff(Duration::from_millis(10), Duration::from_millis(50));
    let options = options.give_up_after(Duration::from_millis(300));
    let keeper = options.connect_linked(&proxy.address(), &root.get_cell()).await.expect("connected");
    let lock = keeper.lock(&unique_path("gives-up")).expect("a good path");
    let guard = lock.acquire().await.expect("connected");
    let waiting = tokio::spawn(lock.acquire());
    let events = keeper.events();
    proxy.refuse(true);
    proxy.cut();
    let told: Vec<_> = timeout(SOON, events.collect()).await.expect("it ends");
    let [.., SessionEvent::Lost { .. }, SessionEvent::GaveUp { error }, SessionEvent::Closed] = &told[..]
    else {
        panic!("{told:?}")
    };
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
    assert_eq!(guard.state(), LeaseState::Lost);
    assert_eq!(waiting.await.expect("no panic").map(drop), Err(AcquireError::Closed));
    assert_eq!(timeout(SOON, ends.recv()).await, Ok(Some(End::Failed(Some(error.clone())))));
}

#[tokio::test]
async fn a_keeper_that_is_closed_tells_its_supervisor_so() {
    let (root, mut ends) = root().await;
    let address = shared().address();
    let keeper = Keeper::options().connect_linked(&address, &root.get_cell()).await.expect("connected");
    keeper.close().await;
    assert_eq!(timeout(SOON, ends.recv()).await, Ok(Some(End::Terminated(Some("closed".into())))));
    root.stop_and_wait(None, Some(SOON)).await.expect("it stops");
    let refused = Keeper::options().connect_linked(&address, &root.get_cell()).await;
    assert_eq!(refused.map(drop), Err(ConnectError::NoSupervisor));
}

#[tokio::test]
async fn a_supervisor_that_dies_takes_the_keeper_with_it_and_leaves_nothing() {
    let metrics = tokio::runtime::Handle::current().metrics();
    let before = metrics.num_alive_tasks();
    let (root, _ends) = root().await;
    let address = shared().address();
    let keeper = Keeper::options().connect_linked(&address, &root.get_cell()).await.expect("connected");
    let path = unique_path("takes-all");
    let guard = keeper.lock(&path).expect("a good path").acquire().await.expect("connected");
    root.kill();
    timeout(SOON, guard.lost()).await.expect("it is lost");
    let gone = async || metrics.num_alive_tasks() == before;
    eventually("every actor and task is gone", SOON, gone).await;
    // The session was closed, not left to expire.
    let other = Keeper::connect(&address).await.expect("connected");
    let next = other.lock(&path).expect("a good path").acquire_timeout(Duration::from_secs(5)).await;
    assert!(next.expect("free").token() > guard.token());
}
