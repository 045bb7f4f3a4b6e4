//! What holds when connections break, servers restart, sessions end, and when the application stops or panics.

mod common;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Proxy, TestServer, eventually, proxied, shared, unique_path};
use futures::StreamExt;
use lockkeeper::{
    AcquireError, AcquireTimeoutError, ContendersError, Keeper, KeeperOptions, LeaseState, LockEvent,
    LockGuard, LockOptions, Pending, Refused, ReleaseError, SessionEvent, Ticket, TryAcquireError,
};
use tokio::sync::mpsc;
use tokio::time::timeout;
use zookeeper_client as zk;

// ---- connections that break ----

#[test]
fn a_reset_connection_costs_a_holder_nothing() {
    run(async {
        let (proxy, path) = (proxied().await, unique_path("reset-holder"));
        let keeper = connect_through(&proxy, LONG).await;
        let server = Observer::new().await;
        let (ticket, mut events) = listen(keeper.lock(&path).expect("a path").acquire());
        let guard = acquired(&mut events).await;
        let (token, node) = (guard.token(), guard.node().to_owned());
        for _ in 0..3 {
            proxy.cut();
            let told = events.recv().await;
            assert!(matches!(told, Some(LockEvent::Suspended(of)) if of == ticket), "{told:?}");
            let told = events.recv().await;
            assert!(matches!(told, Some(LockEvent::Resumed(of)) if of == ticket), "{told:?}");
            assert_eq!((guard.state(), guard.token()), (LeaseState::Held, token));
            assert_eq!(server.nodes(&path).await, [node.as_str()]);
        }
        assert_eq!(guard.release().await, Ok(()));
    });
}

#[test]
fn a_reset_connection_costs_a_waiter_no_place() {
    run(async {
        let (proxy, path) = (proxied().await, unique_path("reset-waiter"));
        let (cut_off, other) = (connect_through(&proxy, LONG).await, connect().await);
        let server = Observer::new().await;
        let guard = other.lock(&path).expect("a path").acquire().await.expect("a free lock");
        let (_, mut waiter) = listen(cut_off.lock(&path).expect("a path").acquire());
        assert_eq!(queued(&mut waiter).await, 1);
        let (_, mut later) = listen(other.lock(&path).expect("a path").acquire());
        assert_eq!(queued(&mut later).await, 2);
        let nodes = server.nodes(&path).await;

        let mut session = cut_off.events();
        for _ in 0..3 {
            proxy.cut();
            session_event(&mut session, SessionEvent::Suspended { epoch: 1 }).await;
            session_event(&mut session, SessionEvent::Resumed { epoch: 1 }).await;
            assert_eq!(server.nodes(&path).await, nodes);
        }
        drop(guard);
        let guard = acquired(&mut waiter).await;
        assert_eq!(guard.node(), nodes[1]);
        assert!(later.try_recv().is_err(), "it is not its turn yet");
        drop(guard);
        drop(acquired(&mut later).await);
    });
}

#[test]
fn a_node_ahead_that_goes_while_the_connection_is_broken_is_noticed_afterwards() {
    run(async {
        let (proxy, path) = (proxied().await, unique_path("gone-meanwhile"));
        let (cut_off, other) = (connect_through(&proxy, LONG).await, connect().await);
        let guard = other.lock(&path).expect("a path").acquire().await.expect("a free lock");
        let (_, mut waiter) = listen(cut_off.lock(&path).expect("a path").acquire());
        assert_eq!(queued(&mut waiter).await, 1);
        proxy.refuse(true);
        proxy.cut();
        assert_eq!(guard.release().await, Ok(()));
        proxy.refuse(false);
        assert_eq!(acquired(&mut waiter).await.state(), LeaseState::Held);
    });
}

#[test]
fn while_the_connection_is_in_doubt_a_try_is_refused_at_once_and_a_waiter_waits() {
    run(async {
        let (proxy, path) = (proxied().await, unique_path("in-doubt"));
        let session = Duration::from_secs(12);
        let keeper = connect_through(&proxy, session).await;
        let lock = keeper.lock(&path).expect("a path");
        let mut events = keeper.events();
        proxy.refuse(true);
        proxy.cut();
        session_event(&mut events, SessionEvent::Suspended { epoch: 1 }).await;
        assert_eq!(refusal(lock.try_acquire().await), TryAcquireError::Suspended);
        let (limit, begun) = (Duration::from_millis(200), Instant::now());
        assert_eq!(refusal(lock.acquire_timeout(limit).await), AcquireTimeoutError::TimedOut);
        assert!((limit..limit + SLACK).contains(&begun.elapsed()), "{:?}", begun.elapsed());
        let waiting = tokio::spawn(lock.acquire());
        proxy.refuse(false);
        let guard = waiting.await.expect("no panic").expect("a free lock");
        Observer::new().await.until_nodes(&path, &[guard.node()]).await;
    });
}

#[test]
fn a_create_in_doubt_when_the_session_is_lost_is_made_again_and_granted_once() {
    run(async {
        let (proxy, path) = (proxied().await, unique_path("doubt-and-loss"));
        let keeper = connect_through(&proxy, SHORT).await;
        let server = Observer::new().await;
        server.make(&path).await;
        proxy.drop_replies_then_cut();
        let (_, mut events) = listen(keeper.lock(&path).expect("a path").acquire());
        server.until_node_count(&path, 1).await;
        let old = server.nodes(&path).await;
        let mut session = keeper.events();
        session_event(&mut session, SessionEvent::Lost { epoch: 1 }).await;
        proxy.cut();
        let guard = granted(&mut events).await;
        assert_ne!(old, [guard.node()], "the old node goes with the old session");
        server.until_nodes(&path, &[guard.node()]).await;
        assert_eq!(guard.release().await, Ok(()));
        assert!(events.recv().await.is_none(), "nothing follows");
        server.until_nodes(&path, &[]).await;
    });
}

#[test]
fn a_keeper_finds_back_from_a_long_absence_of_the_server() {
    run(async {
        let (proxy, path) = (proxied().await, unique_path("absence"));
        let keeper = absent_for_several_rounds(&proxy).await;
        let (lock, mut events) = (keeper.lock(&path).expect("a path"), keeper.events());
        assert_eq!(events.next().await, Some(SessionEvent::Lost { epoch: 1 }));
        assert_eq!(lock.contenders().await, Err(ContendersError::Disconnected));
        assert_eq!(refusal(lock.try_acquire().await), TryAcquireError::Suspended);
        let waiting = tokio::spawn(lock.acquire());
        proxy.refuse(false);
        drop(waiting.await.expect("no panic").expect("a free lock"));
        assert!(matches!(events.next().await, Some(SessionEvent::Connected { .. })));
    });
}

#[test]
fn epochs_count_sessions_and_not_tries() {
    run(async {
        let proxy = proxied().await;
        let keeper = absent_for_several_rounds(&proxy).await;
        let mut events = keeper.events();
        assert_eq!(events.next().await, Some(SessionEvent::Lost { epoch: 1 }));
        proxy.refuse(false);
        assert_eq!(events.next().await, Some(SessionEvent::Connected { epoch: 2 }));
    });
}

// ---- servers that restart ----

#[test]
fn a_restarted_server_never_lets_two_hold() {
    run(async {
        let server = TestServer::start();
        let session = options().session_timeout(Duration::from_secs(6));
        let holding = session.clone().connect(&server.address()).await.expect("a server");
        let waiting = session.connect(&server.address()).await.expect("a server");
        let guard = holding.lock("/restart").expect("a path").acquire().await.expect("a free lock");
        let guard = Arc::new(guard);
        let waiter = waiting.lock("/restart").expect("a path").acquire();
        let first = Arc::downgrade(&guard);
        let waiter = tokio::spawn(async move {
            let second = waiter.await.expect("the lock, in the end");
            (first.upgrade().map(|first| first.state()), second)
        });
        let lock = holding.lock("/restart").expect("a path");
        eventually("both are in the queue", SOON, async || {
            lock.contenders().await.is_ok_and(|contenders| contenders.len() == 2)
        })
        .await;
        for _ in 0..2 {
            server.restart();
            eventually("it is held again, or lost", SOON, async || guard.state() != LeaseState::Suspended)
                .await;
        }
        match guard.state() {
            LeaseState::Lost => {}
            held => {
                assert_eq!(held, LeaseState::Held);
                assert!(!waiter.is_finished(), "there is one holder already");
                let guard = Arc::into_inner(guard).expect("the only one");
                // A lease that ends at this very moment is one that ended.
                let released = guard.release().await;
                assert!(matches!(released, Ok(()) | Err(ReleaseError::Lost)), "{released:?}");
            }
        }
        let (first, second) = waiter.await.expect("no panic");
        assert!(matches!(first, None | Some(LeaseState::Lost)), "granted while the other one was {first:?}");
        assert_eq!(second.release().await, Ok(()));
    });
}

// ---- keepers that close ----

#[test]
fn closing_answers_everybody_and_leaves_nothing() {
    run(async {
        let proxy = proxied().await;
        let keeper = connect_through(&proxy, LONG).await;
        let (server, other) = (Observer::new().await, connect().await);
        let (held, contended) = (unique_path("close-held"), unique_path("close-contended"));
        let lock = keeper.lock(&held).expect("a path");
        let guard = lock.acquire().await.expect("a free lock");
        let outlives = keeper.lock_with(&unique_path("close"), LockOptions::new().ephemeral(false));
        let outlives = outlives.expect("options").acquire().await.expect("a free lock");
        let theirs = other.lock(&contended).expect("a path").acquire().await.expect("a free lock");
        let (local, remote) = (tokio::spawn(lock.acquire()), keeper.lock(&contended).expect("a path"));
        let remote = tokio::spawn(remote.acquire_timeout(LONG));
        let (ticket, mut heard) = listen(keeper.lock(&contended).expect("a path").acquire());
        server.until_node_count(&held, 2).await;
        server.until_node_count(&contended, 3).await;
        let session = lock.contenders().await.expect("an answer")[0].session.expect("a session");
        assert!(is_known(session));
        let mut events = keeper.events();

        timeout(SOON, keeper.close()).await.expect("the server is there");
        assert_eq!((guard.state(), outlives.state()), (LeaseState::Lost, LeaseState::Lost));
        assert_eq!(refusal(local.await.expect("no panic")), AcquireError::Closed);
        let refused = AcquireTimeoutError::Failed(AcquireError::Closed);
        assert_eq!(refusal(remote.await.expect("no panic")), refused);
        assert!(queued(&mut heard).await > 0);
        let told = heard.recv().await;
        let closed = Refused::Failed(AcquireError::Closed);
        let refused = matches!(&told, Some(LockEvent::Refused(of, why)) if *of == ticket && *why == closed);
        assert!(refused, "{told:?}");
        assert_eq!(server.nodes(&held).await, [""; 0]);
        assert_eq!(server.nodes(outlives.path()).await, [""; 0]);
        assert_eq!(server.nodes(&contended).await, [theirs.node()]);
        session_event(&mut events, SessionEvent::Closed).await;
        assert_eq!(events.next().await, None);
        eventually("the session is gone", SOON, async || !is_known(session)).await;
        eventually("the connection is gone", SOON, async || proxy.open() == 0).await;

        timeout(SOON, guard.lost()).await.expect("it is lost already");
        assert_eq!(guard.release().await, Err(ReleaseError::Lost));
        let late = keeper.lock(&unique_path("late")).expect("a path");
        for lock in [&lock, &late] {
            refused_for_good(timeout(SLACK, lock.acquire()).await.expect("an answer at once"));
            let tried = timeout(SLACK, lock.try_acquire()).await.expect("an answer at once");
            assert!(matches!(refusal(tried), TryAcquireError::Failed(_)));
            assert_eq!(lock.contenders().await, Err(ContendersError::Disconnected));
        }
        timeout(SLACK, keeper.close()).await.expect("it is closed already");
        assert_eq!(keeper.events().next().await, None);
    });
}

#[test]
fn closing_without_a_connection_ends_with_the_session() {
    run(async {
        let (proxy, path) = (proxied().await, unique_path("close-cut-off"));
        let keeper = connect_through(&proxy, SHORT).await;
        let (server, other) = (Observer::new().await, connect().await);
        let guard = keeper.lock(&path).expect("a path").acquire().await.expect("a free lock");
        let waiter = tokio::spawn(keeper.lock(&path).expect("a path").acquire());
        server.until_node_count(&path, 2).await;
        proxy.black_hole(true);
        timeout(SOON, keeper.close()).await.expect("no longer than the session");
        assert_eq!(guard.state(), LeaseState::Lost);
        assert_eq!(refusal(waiter.await.expect("no panic")), AcquireError::Closed);
        // The server ends the session by itself.
        server.until_nodes(&path, &[]).await;
        drop(other.lock(&path).expect("a path").acquire().await.expect("a free lock"));
    });
}

#[test]
fn closing_while_the_next_session_is_sought_answers_everybody_at_once() {
    run(async {
        let (proxy, path) = (proxied().await, unique_path("close-lost"));
        let keeper = absent_for_several_rounds(&proxy).await;
        let (_, mut waiter) = listen(keeper.lock(&path).expect("a path").acquire());
        timeout(SLACK, keeper.close()).await.expect("there is nothing to wait for");
        let told = waiter.recv().await;
        let closed = Refused::Failed(AcquireError::Closed);
        assert!(matches!(&told, Some(LockEvent::Refused(_, why)) if *why == closed), "{told:?}");
        proxy.refuse(false);
        assert_eq!(keeper.events().next().await, None);
        eventually("nobody goes on trying", SOON, async || proxy.open() == 0).await;
    });
}

#[test]
fn dropping_all_handles_closes_the_session_but_a_guard_keeps_it_open() {
    run(async {
        let (server, path) = (Observer::new().await, unique_path("dropped"));
        let keeper = options().session_timeout(Duration::from_secs(4));
        let keeper = keeper.connect(&shared().address()).await.expect("a server");
        let lock = keeper.lock(&path).expect("a path");
        let guard = lock.acquire().await.expect("a free lock");
        let session = lock.contenders().await.expect("an answer")[0].session.expect("a session");
        let until = guard.valid_until();
        drop((keeper.clone(), keeper, lock));
        eventually("heartbeats go on", SOON, async || guard.valid_until() > until).await;
        assert_ne!(guard.state(), LeaseState::Lost);
        assert!(is_known(session));
        drop(guard);
        server.until_nodes(&path, &[]).await;
        eventually("the session is gone", SOON, async || !is_known(session)).await;
    });
}

#[test]
fn a_request_under_way_keeps_the_session_open_without_any_handle() {
    run(async {
        let (other, path) = (connect().await, unique_path("pending"));
        let guard = other.lock(&path).expect("a path").acquire().await.expect("a free lock");
        let (_, mut events) = {
            let keeper = connect().await;
            listen(keeper.lock(&path).expect("a path").acquire())
        };
        assert_eq!(queued(&mut events).await, 1);
        drop(guard);
        assert_eq!(acquired(&mut events).await.state(), LeaseState::Held);
    });
}

#[test]
fn a_connect_that_is_dropped_leaves_nothing() {
    run(async {
        let proxy = proxied().await;
        proxy.black_hole(true);
        let connect = tokio::spawn({
            let address = proxy.address();
            async move { options().connect(&address).await.map(drop) }
        });
        eventually("it is under way", SOON, async || proxy.open() == 1).await;
        connect.abort();
        assert!(connect.await.expect_err("it is aborted").is_cancelled());
        proxy.black_hole(false);
        eventually("no connection is left", SOON, async || proxy.open() == 0).await;
    });
}

// ---- applications that stop, or panic ----

#[test]
fn a_lock_held_by_a_runtime_that_is_shut_down_is_free_again_with_its_session() {
    run(async {
        let (server, other, path) = (Observer::new().await, connect().await, unique_path("runtime"));
        let (address, theirs) = (shared().address(), path.clone());
        let stopped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            runtime.block_on(async {
                let keeper = options().session_timeout(SHORT).connect(&address).await.expect("a server");
                keeper.lock(&theirs).expect("a path").acquire().await.expect("a free lock")
            })
        });
        let guard = stopped.join().expect("a guard whose runtime is gone");
        assert_eq!(guard.state(), LeaseState::Lost);
        drop(other.lock(&path).expect("a path").acquire_timeout(SOON).await.expect("a free lock"));
        server.until_nodes(&path, &[]).await;
    });
}

#[test]
fn a_listener_that_panics_ends_its_own_request_and_nothing_else() {
    run(async {
        let (keeper, server) = (connect().await, Observer::new().await);
        // What comes first when several things are dropped may be left to chance.
        for _ in 0..4 {
            let path = unique_path("panic");
            let lock = keeper.lock(&path).expect("a path");
            let guard = lock.acquire().await.expect("a free lock");
            lock.acquire().listen(|_| panic!("a listener that panics, as this test wants it"));
            let (_, mut waiter) = listen(lock.acquire());
            assert!(queued(&mut waiter).await > 0);
            server.until_node_count(&path, 2).await;
            assert_eq!(guard.state(), LeaseState::Held);
            assert_eq!(server.nodes(&path).await[0], guard.node());
            drop(guard);
            drop(acquired(&mut waiter).await);
            server.until_nodes(&path, &[]).await;

            // The guard that it was given is released.
            lock.acquire().listen(|_| panic!("a listener that panics, as this test wants it"));
            drop(lock.acquire_timeout(SOON).await.expect("a free lock"));
            server.until_nodes(&path, &[]).await;
        }
    });
}

#[test]
fn an_actor_that_dies_costs_the_guards_of_its_path_and_leaves_no_node() {
    run(async {
        let (keeper, path) = (connect().await, unique_path("dies"));
        let server = Observer::new().await;
        let (lock, elsewhere) = (keeper.lock(&path).expect("a path"), unique_path("lives"));
        let untouched = keeper.lock(&elsewhere).expect("a path").acquire().await.expect("a free lock");
        let guard = lock.acquire().await.expect("a free lock");
        let waiter = tokio::spawn(lock.acquire());
        let (ticket, mut heard) = listen(lock.acquire());
        assert!(queued(&mut heard).await > 0);
        server.until_node_count(&path, 3).await;
        let session = lock.contenders().await.expect("an answer")[0].session.expect("a session");

        // What a listener owns is dropped where it ran, once it has heard the last word.
        let owned = PanicsWhenDropped;
        lock.try_acquire().listen(move |_| {
            let _owns = &owned;
        });
        timeout(SOON, guard.lost()).await.expect("its actor is gone");
        assert_eq!(guard.state(), LeaseState::Lost);
        let stopped = AcquireError::Stopped { path: path.clone() };
        let told = timeout(SOON, waiter).await.expect("the waiter is told").expect("no panic");
        assert_eq!(refusal(told), stopped);
        let (told, why) = (heard.recv().await, Refused::Failed(stopped));
        let refused = matches!(&told, Some(LockEvent::Refused(of, told)) if *of == ticket && *told == why);
        assert!(refused, "{told:?}");
        // Its nodes go although the session lives.
        server.until_nodes(&path, &[]).await;
        assert!(is_known(session));
        let again = lock.acquire_timeout(SOON).await.expect("a free lock");
        assert!(again.token() > guard.token());
        assert_eq!(guard.release().await, Err(ReleaseError::Lost));
        assert_eq!(again.state(), LeaseState::Held);
        assert_eq!(untouched.state(), LeaseState::Held, "other paths have nothing to do with it");
        assert_eq!(again.release().await, Ok(()));
    });
}

// ---- what the tests use ----

/// A session timeout under which no busy machine loses a session.
const LONG: Duration = Duration::from_secs(20);
/// For sessions that are to be lost.
const SHORT: Duration = Duration::from_secs(2);
/// For what is done in milliseconds when nothing is wrong.
const SOON: Duration = Duration::from_secs(10);
/// What a busy machine may add to a time limit.
const SLACK: Duration = Duration::from_secs(2);

/// Runs a test, and ends it when it hangs.
fn run(test: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async { timeout(Duration::from_secs(60), test).await.expect("the test hangs") });
}

fn options() -> KeeperOptions {
    Keeper::options().session_timeout(LONG)
}

async fn connect() -> Keeper {
    options().connect(&shared().address()).await.expect("a server")
}

async fn connect_through(proxy: &Proxy, session: Duration) -> Keeper {
    options().session_timeout(session).connect(&proxy.address()).await.expect("a server")
}

/// A keeper that has lost its session, and has failed to get another one more than once.
async fn absent_for_several_rounds(proxy: &Proxy) -> Keeper {
    let impatient = options().session_timeout(SHORT).connect_timeout(Duration::from_millis(100));
    let keeper = impatient.connect(&proxy.address()).await.expect("a server");
    let mut events = keeper.events();
    proxy.refuse(true);
    proxy.cut();
    session_event(&mut events, SessionEvent::Lost { epoch: 1 }).await;
    let tries = proxy.accepted();
    eventually("it goes on trying", SOON, async || proxy.accepted() > tries + 2).await;
    keeper
}

/// Whether the server has this session.
fn is_known(session: i64) -> bool {
    let (dump, id) = (shared().four_letter("dump"), format!("0x{session:x}"));
    assert!(dump.contains("Sessions"), "no dump: {dump}");
    dump.split_whitespace().any(|word| word.trim_end_matches(':') == id)
}

fn refusal<E>(result: Result<LockGuard, E>) -> E {
    result.expect_err("it must not be granted")
}

fn refused_for_good(result: Result<LockGuard, AcquireError>) {
    let error = refusal(result);
    assert!(matches!(error, AcquireError::Closed | AcquireError::Stopped { .. }), "{error:?}");
}

type Events = mpsc::UnboundedReceiver<LockEvent<LockGuard>>;

fn listen<E>(acquire: Pending<E>) -> (Ticket, Events) {
    let (sender, events) = mpsc::unbounded_channel();
    let ticket = acquire.listen(move |event| {
        let _ = sender.send(event);
    });
    (ticket, events)
}

async fn queued(events: &mut Events) -> usize {
    match events.recv().await {
        Some(LockEvent::Queued { ahead, .. }) => ahead,
        other => panic!("it should be queued: {other:?}"),
    }
}

async fn acquired(events: &mut Events) -> LockGuard {
    match events.recv().await {
        Some(LockEvent::Acquired { guard, .. }) => guard,
        other => panic!("it should be granted: {other:?}"),
    }
}

/// The same, however often it queues before.
async fn granted(events: &mut Events) -> LockGuard {
    loop {
        match events.recv().await {
            Some(LockEvent::Queued { .. }) => {}
            Some(LockEvent::Acquired { guard, .. }) => return guard,
            other => panic!("it should be granted: {other:?}"),
        }
    }
}

/// Waits for an event of the session, and passes over those before.
async fn session_event(events: &mut lockkeeper::Events, wanted: SessionEvent) {
    while events.next().await.expect("the keeper is open") != wanted {}
}

struct PanicsWhenDropped;

impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        panic!("a destructor that panics, as this test wants it");
    }
}

/// Somebody else on the same server, who looks at nodes.
struct Observer(zk::Client);

impl Observer {
    async fn new() -> Observer {
        Observer(zk::Client::connect(&shared().address()).await.expect("a server"))
    }

    /// The paths of the nodes in a directory, in the order of their numbers; none where there is no directory.
    async fn nodes(&self, directory: &str) -> Vec<String> {
        let mut names = match self.0.list_children(directory).await {
            Err(zk::Error::NoNode) => Vec::new(),
            names => names.expect("a list"),
        };
        names.sort_by_key(|name| name.as_bytes()[name.len().saturating_sub(10)..].to_vec());
        names.iter().map(|name| format!("{directory}/{name}")).collect()
    }

    async fn until_nodes(&self, directory: &str, expected: &[&str]) {
        let what = format!("{directory} contains just {expected:?}");
        eventually(&what, SOON, async || self.nodes(directory).await == expected).await;
    }

    async fn until_node_count(&self, directory: &str, count: usize) {
        let what = format!("{directory} contains {count} nodes");
        eventually(&what, SOON, async || self.nodes(directory).await.len() == count).await;
    }

    async fn make(&self, directory: &str) {
        let options = zk::CreateMode::Persistent.with_acls(zk::Acls::anyone_all());
        self.0.create(directory, b"", &options).await.expect("a new node");
    }
}
