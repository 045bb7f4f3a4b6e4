//! Killed actors: their leases are lost, their nodes are deleted, and their successors work. And keepers that are
//! supervised by an application.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::internals::{contender_options, keeper_settings, kill_session_actors, until_no_nodes};
use common::logs::{Logs, with_a_log_that_panics};
use common::{LONG, SHORT, SOON, client, eventually, proxied, shared, unique_path};
use futures::StreamExt;
use futures::future::BoxFuture;

use lockkeeper::Keeper;
use lockkeeper::error::ConnectError;
use lockkeeper::session::SessionStatus;
use lockkeeper_actors::api::error::AcquireError;
use lockkeeper_actors::api::event::{EventSink, LockEvent, Refused, SessionEvent};
use lockkeeper_actors::api::keep_alive::KeepAlive;
use lockkeeper_actors::api::lease::{Lease, LeaseState};
use lockkeeper_actors::api::messages::{LockMessage, MultiLockMessage, RegistryMessage};
use lockkeeper_actors::api::multi_lease::MultiLease;
use lockkeeper_actors::api::request::{
    AcquireRequest, ContenderOptions, MultiLockPart, MultiLockRequest, Ticket, Wait,
};
use lockkeeper_actors::api::resource::Resource;
use lockkeeper_actors::keeper::{self, KeeperMessage, Started};
use lockkeeper_actors::zookeeper::{Connect, Connected, Connector, Unconnected};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// A keeper with one lock path, driven through its actors.
struct Test {
    started: Started,
    keep_alive: Arc<KeepAlive>,
    path: Arc<str>,
    observer: zookeeper_client::Client,
}

impl Test {
    async fn new(name: &str) -> Test {
        Test::with(Connector::new(&shared().address(), LONG), name).await
    }

    async fn with(connector: Connector, name: &str) -> Test {
        let started = keeper::start(keeper_settings(Arc::new(connector))).await.expect("should connect");
        let keep_alive = Arc::new(KeepAlive::new(started.keeper.get_derived(), None));
        let path: Arc<str> = unique_path(name).into();
        started.registry.send_message(RegistryMessage::Open(Resource::lock(&path))).expect("it runs");
        let observer = client().await;
        Test { started, keep_alive, path, observer }
    }

    fn acquire(&self) -> mpsc::UnboundedReceiver<LockEvent> {
        self.acquire_with(contender_options())
    }

    fn acquire_with(&self, options: Arc<ContenderOptions>) -> mpsc::UnboundedReceiver<LockEvent> {
        let (sender, events) = mpsc::unbounded_channel();
        self.request(Ticket::new(), options, Wait::Forever, move |event| drop(sender.send(event)));
        events
    }

    fn request(
        &self,
        ticket: Ticket,
        options: Arc<ContenderOptions>,
        wait: Wait,
        listener: impl FnMut(LockEvent) + Send + 'static,
    ) {
        let sink = EventSink::new(ticket, self.path.clone(), listener);
        let request = AcquireRequest::new(ticket, options, wait, sink, self.keep_alive.clone());
        let message = RegistryMessage::Lock(self.path.clone(), LockMessage::Acquire(request));
        self.started.registry.send_message(message).expect("it runs");
    }

    /// Acquires the lock and another one, whose actor already runs, as a multi-lock; returns the other path.
    fn acquire_two(&self, name: &str) -> (mpsc::UnboundedReceiver<LockEvent<MultiLease>>, Arc<str>) {
        let (sender, events) = mpsc::unbounded_channel();
        let (ticket, other): (_, Arc<str>) = (Ticket::new(), unique_path(name).into());
        let sink = EventSink::new(ticket, "both".into(), move |event| {
            let _ = sender.send(event);
        });
        let parts = [&self.path, &other]
            .map(|path| MultiLockPart { path: path.clone(), options: contender_options() });
        let request =
            MultiLockRequest::new(ticket, parts.into(), Wait::Forever, sink, self.keep_alive.clone());
        let open = RegistryMessage::Open(Resource::lock(&other));
        self.started.registry.send_message(open).expect("it runs");
        let message = RegistryMessage::MultiLock(MultiLockMessage::Acquire(request));
        self.started.registry.send_message(message).expect("it runs");
        (events, other)
    }

    fn kill_actors(&self) {
        self.started.registry.get_children().iter().for_each(ActorCell::kill);
    }

    async fn until_no_nodes(&self) {
        self.no_nodes_at(&self.path).await;
    }

    async fn no_nodes_at(&self, path: &str) {
        until_no_nodes(&self.observer, path, SOON).await;
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
            Some(LockEvent::Enqueued { .. }) => {}
            other => panic!("not granted, but {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_lock_actor_that_is_killed_loses_its_leases_and_leaves_no_node() {
    let test = Test::new("killed").await;
    let held = lease(&mut test.acquire()).await;
    let mut waiting = test.acquire();
    assert!(matches!(timeout(SOON, waiting.recv()).await, Ok(Some(LockEvent::Enqueued { ahead: 1, .. }))));
    let mut session = test.events();
    test.kill_actors();
    timeout(SOON, held.lost()).await.expect("its actor has ended");
    assert_eq!(held.state(), LeaseState::Lost);
    let event = timeout(SOON, waiting.recv()).await.expect("it is refused");
    let stopped = Refused::Failed(AcquireError::Stopped { path: test.path.to_string() });
    assert!(matches!(&event, Some(LockEvent::Refused(_, why)) if *why == stopped), "{event:?}");
    // The session lives on, and the nodes are deleted nevertheless.
    test.until_no_nodes().await;
    assert_eq!(session.recv().await, Some(SessionEvent::Connected { epoch: 1 }));
    assert!(session.try_recv().is_err(), "nothing happened to the session");
    let again = lease(&mut test.acquire()).await;
    assert!(again.token() > held.token());
    assert!(held.release().await.is_err());
    assert_eq!(again.state(), LeaseState::Held);
}

/// A listener that takes its time when the actor of its path has died.
fn slow_listener(event: LockEvent) {
    if let LockEvent::Refused(_, Refused::Failed(AcquireError::Stopped { .. })) = event {
        // The task that a thread woke last is taken over by no other thread. This makes it another one.
        tokio::spawn(async {});
        std::thread::sleep(Duration::from_millis(500));
    }
}

#[derive(Clone, Copy, Debug)]
enum Death {
    LockActorKilled,
    LockActorPanics,
    KeeperKilled,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn leases_of_dead_actors_are_lost_before_others_are_granted() {
    for death in [Death::LockActorKilled, Death::LockActorPanics, Death::KeeperKilled] {
        let test = Test::new("dies-slowly").await;
        let (early, held) = (Ticket::new(), lease(&mut test.acquire()).await);
        let other = Keeper::connect(&shared().address()).await.expect("connected");
        let lock = other.lock(&test.path).expect("a valid path");
        let next = tokio::spawn(lock.acquire());
        let queued = async |count| lock.contenders().await.is_ok_and(|contenders| contenders.len() == count);
        eventually("the next holder is queued", SOON, async || queued(2).await).await;
        // Told of the death before the lease ends, because the requests are dropped in the order of their tickets.
        test.request(early, contender_options(), Wait::Forever, slow_listener);
        eventually("the slow listener's request is queued", SOON, async || queued(3).await).await;
        match death {
            Death::LockActorKilled => test.kill_actors(),
            Death::LockActorPanics => with_a_log_that_panics(|| drop(test.acquire())),
            Death::KeeperKilled => test.started.keeper.kill(),
        }
        let next = timeout(SOON, next).await.expect("granted").expect("no panic").expect("connected");
        assert_eq!(held.state(), LeaseState::Lost, "{death:?}");
        assert!(next.token() > held.token());
    }
}

fn outliving() -> Arc<ContenderOptions> {
    Arc::new(ContenderOptions { ephemeral: false, ..(*contender_options()).clone() })
}

#[tokio::test]
async fn a_node_that_outlives_its_session_is_deleted_in_a_later_one_when_its_actor_has_died() {
    for dies_first in [false, true] {
        let proxy = proxied().await;
        let test = Test::with(Connector::new(&proxy.address(), SHORT), "outlives").await;
        let held = lease(&mut test.acquire_with(outliving())).await;
        let mut session = test.events();
        let mut session_lost = async || {
            while timeout(SOON, session.recv()).await != Ok(Some(SessionEvent::Lost { epoch: 1 })) {}
        };
        proxy.refuse(true);
        proxy.cut();
        if !dies_first {
            session_lost().await;
            assert_ne!(held.state(), LeaseState::Lost);
        }
        test.kill_actors();
        timeout(SOON, held.lost()).await.expect("its actor has ended");
        if dies_first {
            session_lost().await;
        }
        proxy.refuse(false);
        test.until_no_nodes().await;
    }
}

#[tokio::test]
async fn closing_warns_of_a_node_that_outlives_sessions_when_its_actor_has_died() {
    let (logs, proxy) = (Logs::start(), proxied().await);
    let test = Test::with(Connector::new(&proxy.address(), SHORT), "left-behind").await;
    let held = lease(&mut test.acquire_with(outliving())).await;
    proxy.refuse(true);
    proxy.cut();
    test.kill_actors();
    timeout(SOON, held.lost()).await.expect("its actor has ended");
    let (reply, closed) = oneshot::channel();
    test.started.keeper.cast(KeeperMessage::Close(reply.into())).expect("it runs");
    timeout(SOON, closed).await.expect("it closes").expect("a reply");
    assert_eq!(logs.with(&["WARN", "persistent ones may be left behind", &test.path]).len(), 1);
}

#[tokio::test]
async fn a_lock_actor_that_is_killed_leaves_no_node_that_lingers() {
    let test = Test::new("lingering").await;
    let linger = Some(Duration::from_secs(3600));
    let options = Arc::new(ContenderOptions { linger, ..(*contender_options()).clone() });
    let held = lease(&mut test.acquire_with(options.clone())).await;
    let token = held.token();
    held.release().await.expect("held");
    test.kill_actors();
    test.until_no_nodes().await;
    let again = lease(&mut test.acquire_with(options.clone())).await;
    assert!(again.token() > token);
    let token = again.token();
    again.release().await.expect("held");
    assert_eq!(lease(&mut test.acquire_with(options)).await.token(), token, "its successor's node lingers");
}

#[tokio::test]
async fn a_multi_lock_request_whose_actor_is_killed_releases_its_places() {
    let test = Test::new("several").await;
    let held = lease(&mut test.acquire()).await;
    let (mut events, other) = test.acquire_two("several-other");
    let event = timeout(SOON, events.recv()).await;
    assert!(matches!(event, Ok(Some(LockEvent::Enqueued { ahead: 1, .. }))), "{event:?}");
    // Sorted by age: the actors of the first path, of the second path, and of the request.
    let mut actors = test.started.registry.get_children();
    actors.sort_by_key(|actor| actor.get_id().pid());
    actors[2].kill();
    let event = timeout(SOON, events.recv()).await;
    let Ok(Some(LockEvent::Refused(_, Refused::Failed(AcquireError::Stopped { .. })))) = event else {
        panic!("not refused, but {event:?}");
    };
    test.no_nodes_at(&other).await;
    assert_eq!(held.state(), LeaseState::Held);
    held.release().await.expect("released");
    test.until_no_nodes().await;
}

#[tokio::test]
async fn a_multi_lock_request_queues_again_when_one_of_its_lock_actors_is_killed() {
    let test = Test::new("several").await;
    let held = lease(&mut test.acquire()).await;
    let (mut events, other) = test.acquire_two("several-other");
    let event = timeout(SOON, events.recv()).await;
    assert!(matches!(event, Ok(Some(LockEvent::Enqueued { ahead: 1, .. }))), "{event:?}");
    let mut actors = test.started.registry.get_children();
    actors.sort_by_key(|actor| actor.get_id().pid());
    actors[1].kill();
    let event = timeout(SOON, events.recv()).await;
    assert!(matches!(event, Ok(Some(LockEvent::Enqueued { .. }))), "{event:?}");
    held.release().await.expect("released");
    let event = timeout(SOON, events.recv()).await;
    let Ok(Some(LockEvent::Acquired { guard, .. })) = event else { panic!("not granted, but {event:?}") };
    guard.release().await.expect("released");
    test.until_no_nodes().await;
    test.no_nodes_at(&other).await;
}

#[tokio::test]
async fn a_granted_multi_lock_survives_the_death_of_its_request_actor() {
    let test = Test::new("several").await;
    let (mut events, other) = test.acquire_two("several-other");
    let event = timeout(SOON, events.recv()).await;
    let Ok(Some(LockEvent::Acquired { guard, .. })) = event else { panic!("not granted, but {event:?}") };
    let mut actors = test.started.registry.get_children();
    actors.sort_by_key(|actor| actor.get_id().pid());
    actors[2].kill();
    eventually("it has ended", SOON, async || test.started.registry.get_children().len() == 2).await;
    assert_eq!(guard.state(), LeaseState::Held);
    guard.release().await.expect("released");
    assert!(timeout(SOON, events.recv()).await.expect("the end").is_none(), "no further events");
    test.until_no_nodes().await;
    test.no_nodes_at(&other).await;
}

#[tokio::test]
async fn a_session_actor_that_is_killed_ends_its_session_and_the_next_one_begins() {
    let test = Test::new("session").await;
    let mut session = test.events();
    let held = lease(&mut test.acquire()).await;
    let mut waiting = test.acquire();
    kill_session_actors(&test.started);
    timeout(SOON, held.lost()).await.expect("its session has ended");
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
async fn killing_the_registry_ends_the_keeper_and_its_session() {
    let test = Test::new("registry").await;
    let mut session = test.events();
    let held = lease(&mut test.acquire()).await;
    test.started.registry.kill();
    timeout(SOON, held.lost()).await.expect("the keeper has ended");
    assert_eq!(session.recv().await, Some(SessionEvent::Connected { epoch: 1 }));
    assert_eq!(timeout(SOON, session.recv()).await, Ok(Some(SessionEvent::Closed)));
    test.until_no_nodes().await;
}

#[tokio::test]
async fn killing_the_registry_reports_the_loss_of_a_multi_lock() {
    let test = Test::new("registry").await;
    let (mut events, _) = test.acquire_two("registry-other");
    let event = timeout(SOON, events.recv()).await;
    let Ok(Some(LockEvent::Acquired { ticket, guard })) = event else { panic!("not granted, but {event:?}") };
    test.started.registry.kill();
    let event = timeout(SOON, events.recv()).await;
    assert!(matches!(event, Ok(Some(LockEvent::Lost(lost))) if lost == ticket), "{event:?}");
    assert_eq!(guard.state(), LeaseState::Lost);
}

#[tokio::test]
async fn a_supervisor_sees_the_death_of_the_registry_as_a_failure() {
    let (root, mut ends) = root().await;
    let test = Test::new("registry").await;
    test.started.link(&root.get_cell()).expect("the supervisor runs");
    test.started.registry.kill();
    assert_eq!(timeout(SOON, ends.recv()).await, Ok(Some(End::Failed(None))));
}

/// An application's supervisor that records how its children end.
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
    let (actor, _) = Actor::spawn(None, Root, sender).await.expect("the actor starts");
    (actor, ends)
}

/// A connector whose credentials are rejected on demand.
struct Rejecting(Connector, Arc<AtomicBool>);

impl Connect for Rejecting {
    fn connect(&self) -> BoxFuture<'static, Result<Connected, Unconnected>> {
        match self.1.load(Ordering::SeqCst) {
            true => self.0.connect(),
            false => Box::pin(async { Err(Unconnected::AuthFailed) }),
        }
    }

    fn address(&self) -> &str {
        "the test"
    }
}

#[tokio::test]
async fn a_keeper_whose_credentials_are_rejected_gives_up_and_tells_its_supervisor_why() {
    let (root, mut ends) = root().await;
    let open = Arc::new(AtomicBool::new(true));
    let connector = Connector::new(&shared().address(), Duration::from_secs(20));
    let settings = keeper_settings(Arc::new(Rejecting(connector, open.clone())));
    let started = keeper::start(settings).await.expect("should connect");
    started.link(&root.get_cell()).expect("the supervisor runs");
    let (sender, mut events) = mpsc::unbounded_channel();
    started.keeper.cast(KeeperMessage::Subscribe(sender)).expect("it runs");
    open.store(false, Ordering::SeqCst);
    kill_session_actors(&started);
    let error = ConnectError::AuthFailed { address: "the test".into() };
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
async fn a_keeper_gives_up_after_the_configured_time_and_answers_waiters() {
    let (root, mut ends) = root().await;
    let proxy = proxied().await;
    let options = Keeper::options().session_timeout(Duration::from_secs(1)).connect_timeout(SOON);
    let options = options.backoff(Duration::from_millis(10), Duration::from_millis(50));
    let options = options.give_up_after(Duration::from_millis(300));
    let keeper = options.connect_linked(&proxy.address(), &root.get_cell()).await.expect("connected");
    let lock = keeper.lock(&unique_path("gives-up")).expect("a valid path");
    let guard = lock.acquire().await.expect("connected");
    let waiting = tokio::spawn(lock.acquire());
    let events = keeper.events();
    proxy.refuse(true);
    proxy.cut();
    let received: Vec<_> = timeout(SOON, events.collect()).await.expect("the events end");
    let [.., SessionEvent::Lost { .. }, SessionEvent::GaveUp { error }, SessionEvent::Closed] = &received[..]
    else {
        panic!("{received:?}")
    };
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
    assert_eq!(guard.state(), LeaseState::Lost);
    assert_eq!(waiting.await.expect("no panic").map(drop), Err(AcquireError::Closed));
    assert_eq!(timeout(SOON, ends.recv()).await, Ok(Some(End::Failed(Some(error.clone())))));
}

#[tokio::test]
async fn a_closed_keeper_tells_its_supervisor() {
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
async fn a_dying_supervisor_takes_its_keeper_down_and_leaves_nothing() {
    let metrics = tokio::runtime::Handle::current().metrics();
    let before = metrics.num_alive_tasks();
    let (root, _ends) = root().await;
    let address = shared().address();
    let keeper = Keeper::options().connect_linked(&address, &root.get_cell()).await.expect("connected");
    let path = unique_path("takes-all");
    let guard = keeper.lock(&path).expect("a valid path").acquire().await.expect("connected");
    root.kill();
    timeout(SOON, guard.lost()).await.expect("it is lost");
    let mut state = keeper.state();
    timeout(SOON, async { while state.changed().await.is_some() {} }).await.expect("the keeper has ended");
    assert_eq!(state.get().status, SessionStatus::Closed);
    let gone = async || metrics.num_alive_tasks() == before;
    eventually("every actor and task is gone", SOON, gone).await;
    // The session was closed, not left to expire.
    let other = Keeper::connect(&address).await.expect("connected");
    let next = other.lock(&path).expect("a valid path").acquire_timeout(Duration::from_secs(5)).await;
    assert!(next.expect("free").token() > guard.token());
}

/// A supervisor that connects a keeper, closes it, and reads its events and states to the end, before it handles anything
/// else.
struct Busy;

type Report = oneshot::Sender<Vec<SessionEvent>>;

#[ractor::actor(message = (), state = Option<Report>, arguments = Report)]
impl Busy {
    async fn pre_start(&self, _: ActorRef<()>, report: Report) -> Result<Option<Report>, ActorProcessingErr> {
        Ok(Some(report))
    }

    async fn post_start(
        &self,
        myself: ActorRef<()>,
        report: &mut Option<Report>,
    ) -> Result<(), ActorProcessingErr> {
        let keeper = Keeper::options().connect_linked(&shared().address(), &myself.get_cell()).await?;
        let (events, mut state) = (keeper.events(), keeper.state());
        keeper.close().await;
        while state.changed().await.is_some() {}
        let _ = report.take().ok_or("it starts once")?.send(events.collect().await);
        Ok(())
    }
}

#[tokio::test]
async fn the_events_and_the_state_of_a_closed_keeper_end_while_its_supervisor_is_busy() {
    let (report, events) = oneshot::channel();
    let (actor, _) = Actor::spawn(None, Busy, report).await.expect("the actor starts");
    let events = timeout(SOON, events).await.expect("the events end").expect("it has not failed");
    assert_eq!(events.last(), Some(&SessionEvent::Closed));
    actor.stop(None);
}
