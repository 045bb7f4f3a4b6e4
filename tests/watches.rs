//! Locks that wait behind strangers on more paths than one session can watch.

mod common;

use std::ops::Range;
use std::time::{Duration, Instant};

use common::events::session_event;
use common::site::Observer;
use common::{LONG, SOON, TestServer, connect_through, eventually, options};
use lockkeeper::messages::LockEvent;
use lockkeeper::session::SessionEvent;
use lockkeeper::{Keeper, LeaseState, Lock, LockGuard};
use lockkeeper_embedded::{Embedded, Proxy, SessionId};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

/// Two such paths fit into one session.
const LONG_NAME: usize = 30_000;

/// A spare session that could not be opened is tried again after up to five seconds, by a waiter that looks again up to
/// five seconds later.
const WATCHED: Duration = Duration::from_secs(30);

/// Locks that wait, each behind a stranger on its own path.
struct Waiters {
    observer: Observer,
    waiters: Vec<Waiter>,
}

struct Waiter {
    lock: Lock,
    stranger: String,
    events: mpsc::UnboundedReceiver<LockEvent<LockGuard>>,
}

impl Waiters {
    async fn queue(server: &TestServer, keeper: &Keeper, count: usize, name: usize) -> Waiters {
        let (observer, mut waiters) = (Observer::of(server).await, Vec::new());
        for number in 0..count {
            let path = format!("/{}/{number}", "x".repeat(name));
            observer.make(&path).await;
            let stranger = observer.contender(&path, b"").await;
            let lock = keeper.lock(&path).expect("a valid path");
            let (sender, mut events) = mpsc::unbounded_channel();
            lock.acquire().listen(move |event| drop(sender.send(event)));
            assert!(matches!(events.recv().await, Some(LockEvent::Enqueued { .. })));
            waiters.push(Waiter { lock, stranger, events });
        }
        Waiters { observer, waiters }
    }

    /// Waits until every stranger is watched.
    async fn until_watched(&self, server: &TestServer) {
        let count = self.waiters.len() as i64;
        eventually("all are watched", WATCHED, async || server.mntr("zk_watch_count") == count).await;
    }

    /// The nodes in all queues.
    async fn nodes(&self) -> Vec<Vec<String>> {
        let mut nodes = Vec::new();
        for waiter in &self.waiters {
            nodes.push(self.observer.nodes(waiter.lock.path()).await);
        }
        nodes
    }

    /// The end of each stranger wakes the waiter behind it, and no other.
    async fn each_wakes(&mut self, waiters: Range<usize>) {
        for waiter in &mut self.waiters[waiters] {
            let event = waiter.events.try_recv();
            assert!(matches!(event, Err(mpsc::error::TryRecvError::Empty)), "{event:?}");
            self.observer.delete(&waiter.stranger).await;
            let guard = match timeout(SOON, waiter.events.recv()).await.expect("it is woken") {
                Some(LockEvent::Acquired { guard, .. }) => guard,
                other => panic!("it should be granted: {other:?}"),
            };
            assert_eq!(guard.state(), LeaseState::Held);
            guard.release().await.expect("it is held");
        }
    }
}

/// How many packets the server receives in a second, on average over this time. They are expected to be few, so there
/// is nothing to wait for.
async fn packets_a_second(server: &TestServer, time: Duration) -> f64 {
    let (before, begun) = (server.mntr("zk_packets_received"), Instant::now());
    sleep(time).await;
    (server.mntr("zk_packets_received") - before) as f64 / begun.elapsed().as_secs_f64()
}

#[tokio::test(flavor = "multi_thread")]
async fn waiters_of_many_sessions_room_are_silent_keep_their_places_and_are_woken() {
    let server = TestServer::start();
    let proxy = Proxy::start(server.one_address()).await.expect("a free port");
    let keeper = connect_through(&proxy, LONG).await;
    let mut waiters = Waiters::queue(&server, &keeper, 16, LONG_NAME).await;
    waiters.until_watched(&server).await;
    assert_eq!(proxy.open(), 8, "one session, and seven spares");

    // Without spare sessions, fourteen of them would read once a second. Heartbeats and pings come every two or three
    // seconds.
    let received = packets_a_second(&server, Duration::from_secs(3)).await;
    assert!(received < 10.0, "{received} packets a second");

    let (nodes, accepted) = (waiters.nodes().await, proxy.accepted());
    for round in 1..=2 {
        proxy.cut();
        eventually("all sessions have connected again", SOON, async || {
            proxy.accepted() >= accepted + 8 * round && proxy.open() == 8
        })
        .await;
        waiters.until_watched(&server).await;
    }
    assert_eq!(waiters.nodes().await, nodes, "all keep their places");
    assert_eq!(keeper.state().get().epoch, 1);

    // The last stranger ends while nobody is connected.
    proxy.refuse(true);
    proxy.cut();
    waiters.observer.delete(&waiters.waiters[15].stranger).await;
    proxy.refuse(false);
    let woken = timeout(SOON, waiters.waiters[15].events.recv()).await.expect("it is woken");
    assert!(matches!(woken, Some(LockEvent::Acquired { .. } | LockEvent::Suspended(_))), "{woken:?}");
    waiters.each_wakes(0..15).await;

    eventually("spares without watches are closed", SOON, async || proxy.open() <= 2).await;
    keeper.close().await;
    eventually("all sessions are closed", SOON, async || proxy.open() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_with_waiters_closes_the_spare_sessions_too() {
    let server = TestServer::start();
    let proxy = Proxy::start(server.one_address()).await.expect("a free port");
    let keeper = connect_through(&proxy, LONG).await;
    let waiters = Waiters::queue(&server, &keeper, 8, LONG_NAME).await;
    waiters.until_watched(&server).await;
    assert_eq!(proxy.open(), 4);
    timeout(SOON, keeper.close()).await.expect("it does not wait for spares");
    eventually("all connections are closed", SOON, async || proxy.open() == 0).await;
    drop(waiters);
    eventually("no session is left", SOON, async || server.mntr("zk_global_sessions") == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiters_are_woken_although_no_spare_session_can_be_opened() {
    let server = TestServer::start();
    let proxy = Proxy::start(server.one_address()).await.expect("a free port");
    let keeper = connect_through(&proxy, LONG).await;
    proxy.refuse(true);
    let mut waiters = Waiters::queue(&server, &keeper, 6, LONG_NAME).await;
    let accepted = proxy.accepted();
    // The attempts are expected to be few, so there is nothing to wait for.
    sleep(Duration::from_secs(3)).await;
    let attempts = proxy.accepted() - accepted;
    assert!(attempts <= 6, "{attempts} attempts in three seconds");
    waiters.each_wakes(4..6).await;
    proxy.refuse(false);
    waiters.waiters.truncate(4);
    waiters.until_watched(&server).await;
    waiters.each_wakes(0..4).await;
}

/// Also in a session for which there was less time.
#[tokio::test(flavor = "multi_thread")]
async fn opening_a_spare_session_may_take_the_whole_connect_timeout() {
    let server = TestServer::Embedded(Embedded::start().await.expect("a free port"));
    let TestServer::Embedded(embedded) = &server else { unreachable!() };
    let proxy = Proxy::start(server.one_address()).await.expect("a free port");
    let time = Duration::from_secs(2);
    let keeper = options().give_up_after(time).connect(&proxy.address()).await.expect("should connect");
    let mut events = keeper.events();
    assert!(embedded.controls().expire(SessionId(keeper.state().get().session_id)));
    session_event(&mut events, SessionEvent::Connected { epoch: 2 }).await;
    // Opening a session takes two round trips.
    proxy.delay(time / 3);
    let waiters = Waiters::queue(&server, &keeper, 3, LONG_NAME).await;
    waiters.until_watched(&server).await;
}

/// Only the embedded server ends a session that is connected.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_spare_session_ends_no_lease_and_its_waiters_are_woken() {
    let server = TestServer::Embedded(Embedded::start().await.expect("a free port"));
    let TestServer::Embedded(embedded) = &server else { unreachable!() };
    let keeper = options().connect(&server.address()).await.expect("should connect");
    let guard = keeper.lock("/held").expect("a valid path").acquire().await.expect("free");
    let mut waiters = Waiters::queue(&server, &keeper, 6, LONG_NAME).await;
    waiters.until_watched(&server).await;
    let main = keeper.state().get().session_id;
    let observer = waiters.observer.0.session_id().0;
    let spares = embedded.controls().sessions().into_iter().map(|session| session.id);
    let spares: Vec<SessionId> = spares.filter(|id| ![main, observer].contains(&id.0)).collect();
    assert_eq!(spares.len(), 2);
    for spare in &spares {
        assert!(embedded.controls().expire(*spare));
    }
    waiters.until_watched(&server).await;
    assert!(embedded.controls().sessions().iter().all(|session| !spares.contains(&session.id)));
    assert_eq!((keeper.state().get().epoch, guard.state()), (1, LeaseState::Held));
    waiters.each_wakes(2..6).await;
}

/// The real number of watches that a session can have.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_waiters_are_watched_by_few_sessions() {
    let server = TestServer::start();
    let proxy = Proxy::start(server.one_address()).await.expect("a free port");
    let keeper = connect_through(&proxy, LONG).await;
    let mut waiters = Waiters::queue(&server, &keeper, 1_000, 100).await;
    waiters.until_watched(&server).await;
    // A path has 156 bytes.
    assert_eq!(proxy.open(), 3);
    let accepted = proxy.accepted();
    proxy.cut();
    eventually("all sessions have connected again", SOON, async || {
        proxy.accepted() >= accepted + 3 && proxy.open() == 3
    })
    .await;
    waiters.until_watched(&server).await;
    waiters.each_wakes(0..20).await;
    waiters.each_wakes(980..1_000).await;
}

/// They learn of it in batches.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_lost_session_the_waiters_of_all_paths_queue_again() {
    let server = TestServer::Embedded(Embedded::start().await.expect("a free port"));
    let TestServer::Embedded(embedded) = &server else { unreachable!() };
    let keeper = options().connect(&server.address()).await.expect("should connect");
    let mut waiters = Waiters::queue(&server, &keeper, 600, 100).await;
    waiters.until_watched(&server).await;
    let main = keeper.state().get().session_id;
    assert!(embedded.controls().expire(SessionId(main)));
    eventually("all have a node again", SOON, async || server.mntr("zk_ephemerals_count") == 1_200).await;
    waiters.until_watched(&server).await;
    // A request is served whether or not its path has learned of the session.
    let lock = keeper.lock("/another").expect("a valid path");
    drop(timeout(SOON, lock.acquire()).await.expect("an answer").expect("it is free"));
    for waiter in &mut waiters.waiters {
        while waiter.events.try_recv().is_ok() {}
    }
    waiters.each_wakes(0..600).await;
}
