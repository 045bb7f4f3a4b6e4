//! What holds when something is wrong: with what is asked, with what others have left in the directory, with access
//! lists, or with an answer that never comes. Lost sessions have a file of their own.

mod common;

use std::future::Future;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{Proxy, eventually, proxied, shared, unique_path};
use lockkeeper::{
    Acl, AcquireError, AcquireTimeoutError, AuthId, ConnectError, ContendersError, Keeper, KeeperOptions,
    LeaseState, LockEvent, LockGuard, LockOptions, Mode, Pending, Permission, Refused, ReleaseError, Ticket,
    TryAcquireError,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use zookeeper_client as zk;

// ---- what cannot be meant ----

#[test]
fn paths_that_cannot_be_locked_are_refused_by_name_without_asking_the_server() {
    run(async {
        let proxy = proxied().await;
        let keeper = connect_through(&proxy, LONG).await;
        proxy.black_hole(true);
        for (path, reason) in [
            ("", "empty"),
            ("ledger", "relative"),
            ("locks/ledger", "relative"),
            ("/", "root"),
            ("/ledger/", "ends with"),
            ("/locks//ledger", "empty part"),
            ("/locks/./ledger", "`.`"),
            ("/locks/../ledger", "`..`"),
            ("/locks/led\0ger", "NUL"),
            ("/locks/led\u{1}ger", "character"),
            // Java's strings have two units for it, and the server takes neither.
            ("/locks/\u{1f512}", "character"),
            ("/zookeeper/ledger", "server"),
        ] {
            let error = keeper.lock(path).err().expect(path);
            let same = keeper.lock_with(path, LockOptions::new()).err().expect(path);
            assert_eq!(error.to_string(), same.to_string());
            assert!(error.to_string().contains(&format!("{path:?}")), "{error}");
            assert!(error.to_string().contains(reason), "{path:?}: {error}");
        }
        let long = format!("/{}", "x".repeat(40_000));
        assert!(keeper.lock(&long).is_err());
        for path in ["/locks/.ledger", "/locks/ledger..", "/locks/Kontobücher", "/locks/a b"] {
            assert!(keeper.lock(path).is_ok(), "{path:?}");
        }
    });
}

#[test]
fn lock_options_that_cannot_be_used_are_refused_by_value_without_asking_the_server() {
    run(async {
        let proxy = proxied().await;
        let keeper = connect_through(&proxy, LONG).await;
        proxy.black_hole(true);
        let too_much = 1024 * 1024;
        for (options, value) in [
            (LockOptions::new().extra_lock_patterns(["-lock-", ""]), "\"\"".to_owned()),
            (LockOptions::new().extra_lock_patterns(["up/down"]), "\"up/down\"".to_owned()),
            (LockOptions::new().identifier("x".repeat(too_much)), too_much.to_string()),
            (LockOptions::new().acl(vec![]), "no entries".to_owned()),
        ] {
            let error = keeper.lock_with("/ledger", options).err().expect(&value);
            assert!(error.to_string().contains(&value), "{error}");
        }
    });
}

#[test]
fn connect_options_that_cannot_be_used_are_refused_by_value_without_asking_a_server() {
    run(async {
        let weeks = Duration::from_secs(60 * 24 * 3600);
        for (options, value) in [
            (Keeper::options().session_timeout(Duration::ZERO), "session timeout of 0ns"),
            (Keeper::options().session_timeout(weeks), "session timeout of 5184000s"),
            (Keeper::options().connect_timeout(Duration::ZERO), "connect timeout of 0ns"),
            (Keeper::options().tick_time(Duration::ZERO), "tick time of 0ns"),
            (Keeper::options().identifier("x".repeat(1024 * 1024)), "identifier of 1048576 bytes"),
            (Keeper::options().acl(vec![]), "access list of no entries"),
        ] {
            let error = options.connect(&nobody()).await.err().expect(value);
            assert!(matches!(error, ConnectError::InvalidOption { .. }), "{error:?}");
            assert!(error.to_string().contains(value), "{error}");
        }
    });
}

#[test]
fn addresses_that_cannot_be_read_are_refused_by_name() {
    run(async {
        for address in ["", "127.0.0.1:port", "127.0.0.1:2181,", "127.0.0.1:2181/a//b"] {
            let connect = options().connect_timeout(Duration::from_secs(2)).connect(address);
            let error = connect.await.err().expect(address);
            assert!(matches!(error, ConnectError::InvalidAddress { .. }), "{address:?}: {error:?}");
            assert!(error.to_string().contains(&format!("{address:?}")), "{error}");
        }
    });
}

#[test]
fn a_server_that_is_away_is_named_within_the_connect_timeout() {
    run(async {
        let (refusing, silent) = (Proxy::start(nobody()).await.expect("a free port"), proxied().await);
        refusing.refuse(true);
        silent.black_hole(true);
        for address in [nobody(), refusing.address(), silent.address()] {
            let (limit, begun) = (Duration::from_millis(600), Instant::now());
            let error = options().connect_timeout(limit).connect(&address).await.err().expect("an error");
            assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
            assert!(error.to_string().contains(&address), "{error}");
            assert!(begun.elapsed() < limit + SLACK, "{address}: {:?}", begun.elapsed());
        }
        // Nobody goes on in the background.
        silent.black_hole(false);
        eventually("no connection is left", SOON, async || silent.open() == 0).await;
    });
}

// ---- what others have left in the directory ----

#[test]
fn children_of_any_name_and_data_never_break_a_queue() {
    run(async {
        let (keeper, other, path) = (connect().await, connect().await, unique_path("strange"));
        let server = Observer::new().await;
        server.make(&path).await;
        let names = [
            "notes",
            "0",
            "-",
            "__lock__",
            "__lock__12",
            "__lock__00000000001x",
            "x__rlock__0000000000",
            "x-lock-0000000000",
            "-0000000001",
            "9999999999",
            "-9999999999",
            "ключ",
            "a b[.*",
        ];
        for name in names {
            server.create(&format!("{path}/{name}"), b"\xff\xfe\x00", zk::CreateMode::Persistent).await;
        }
        // These are contenders, whatever else they are.
        let mut ahead = Vec::new();
        for prefix in ["__lock__", "ключ__lock__", "x__rlock____lock__"] {
            let foreign = format!("{path}/{prefix}");
            ahead.push(server.create(&foreign, b"\xc3\x28", zk::CreateMode::EphemeralSequential).await);
        }
        let (lock, second) = (keeper.lock(&path).expect("a path"), other.lock(&path).expect("a path"));
        assert_eq!(refusal(lock.try_acquire().await), TryAcquireError::Contended);
        let (_, mut first) = listen(lock.acquire());
        assert_eq!(queued(&mut first).await, ahead.len());
        let (_, mut second) = listen(second.acquire());
        assert_eq!(queued(&mut second).await, ahead.len() + 1);
        let contenders = lock.contenders().await.expect("an answer");
        let locks: Vec<_> = contenders.iter().filter(|contender| contender.mode == Mode::Lock).collect();
        assert_eq!(locks.len(), ahead.len() + 2);
        assert_eq!(locks[0].identifier, "\u{fffd}(");

        for foreign in [1, 0, 2] {
            assert!(first.try_recv().is_err(), "somebody is ahead");
            server.delete(&ahead[foreign]).await;
        }
        drop(acquired(&mut first).await);
        drop(acquired(&mut second).await);
        eventually("only strangers are left", SOON, async || server.nodes(&path).await.len() == names.len())
            .await;
    });
}

#[test]
fn changes_to_the_node_ahead_grant_nothing() {
    run(async {
        let (keeper, server, path) = (connect().await, Observer::new().await, unique_path("changed"));
        server.make(&path).await;
        let ahead = server.contender(&path).await;
        let (_, mut events) = listen(keeper.lock(&path).expect("a path").acquire());
        assert_eq!(queued(&mut events).await, 1);
        for round in 0..3 {
            server.until_watched(&ahead).await;
            server.0.set_data(&ahead, &[round], None).await.expect("a change");
        }
        server.until_watched(&ahead).await;
        assert!(events.try_recv().is_err(), "it is still there");
        server.delete(&ahead).await;
        assert_eq!(acquired(&mut events).await.state(), LeaseState::Held);
    });
}

#[test]
fn numbers_past_the_wrap_are_told_and_not_compared() {
    run(async {
        let (keeper, server) = (connect().await, Observer::new().await);
        for name in ["__lock__-2147483648", "__lock__-999999999", "__lock__-000000001"] {
            let path = unique_path("wrap");
            server.make(&path).await;
            let wrapped = format!("{path}/{UUID}{name}");
            server.create(&wrapped, b"", zk::CreateMode::Ephemeral).await;
            // One that is nobody's contender says nothing.
            let stranger = format!("{path}/{UUID}-2147483648");
            server.create(&stranger, b"", zk::CreateMode::Ephemeral).await;

            let lock = keeper.lock(&path).expect("a path");
            let refused = AcquireError::SequenceExhausted { path: path.clone() };
            assert!(refused.to_string().contains(&path), "{refused}");
            let acquire = timeout(SOON, lock.acquire()).await.expect("an answer");
            assert_eq!(refusal(acquire), refused);
            let acquire = lock.acquire_timeout(LONG).await;
            assert_eq!(refusal(acquire), AcquireTimeoutError::Failed(refused));
            let left = async || server.nodes(&path).await.len() == 2;
            eventually("own nodes are gone", SOON, left).await;

            server.delete(&wrapped).await;
            drop(lock.acquire().await.expect("a free lock"));
        }
    });
}

#[test]
fn a_directory_deleted_under_everybody_is_made_again_and_everybody_is_served() {
    run(async {
        let (holding, waiting, path) = (brisk().await, brisk().await, unique_path("deleted"));
        let server = Arc::new(Observer::new().await);
        let guard = holding.lock(&path).expect("a path").acquire().await.expect("a free lock");
        let holders = Arc::new(AtomicUsize::new(0));
        let mut waiters = JoinSet::new();
        for (ahead, keeper) in [(1, &holding), (2, &waiting)] {
            let lock = keeper.lock(&path).expect("a path");
            let (_, mut events) = listen(lock.acquire());
            assert_eq!(queued(&mut events).await, ahead);
            let (server, holders) = (server.clone(), holders.clone());
            waiters.spawn(async move {
                let mut guard = granted(&mut events).await;
                // That the own node went as well is noticed at the next heartbeat.
                while server.stat(guard.node()).await.is_none() {
                    timeout(SOON, guard.lost()).await.expect("a heartbeat");
                    guard = lock.acquire().await.expect("a lock, in the end");
                }
                assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0, "one holds at a time");
                server.stat(guard.node()).await;
                holders.fetch_sub(1, Ordering::SeqCst);
                let token = guard.token();
                assert_eq!(guard.release().await, Ok(()));
                token
            });
        }
        server.delete_all(&path).await;
        timeout(SOON, guard.lost()).await.expect("it is noticed at a heartbeat");
        let tokens = waiters.join_all().await;
        assert!(tokens.iter().all(|token| *token > guard.token()), "tokens go on growing");
        assert_eq!(guard.release().await, Err(ReleaseError::Lost));
        server.until_nodes(&path, &[]).await;
    });
}

#[test]
fn a_waiter_whose_node_is_deleted_together_with_the_holders_queues_again() {
    run(async {
        let (keeper, server, path) = (brisk().await, Observer::new().await, unique_path("both-deleted"));
        let guard = keeper.lock(&path).expect("a path").acquire().await.expect("a free lock");
        let (_, mut events) = listen(keeper.lock(&path).expect("a path").acquire());
        assert_eq!(queued(&mut events).await, 1);
        server.delete_all(&path).await;
        timeout(SOON, guard.lost()).await.expect("it is noticed at a heartbeat");
        let next = granted(&mut events).await;
        assert!(server.stat(next.node()).await.is_some(), "granted on a node that is known to be gone");
        assert_eq!(next.state(), LeaseState::Held);
    });
}

#[test]
fn waiters_for_whom_there_is_no_room_to_watch_get_their_locks_all_the_same() {
    run(async {
        let proxy = proxied().await;
        let keeper = connect_through(&proxy, LONG).await;
        let server = Observer::new().await;
        let mut waiting = Vec::new();
        // Watches on 128 KiB of paths would keep the client from resuming its session.
        for _ in 0..6 {
            let path = format!("{}{}", unique_path("room"), "x".repeat(30_000));
            server.make(&path).await;
            let ahead = server.contender(&path).await;
            let (_, mut events) = listen(keeper.lock(&path).expect("a path").acquire());
            assert_eq!(queued(&mut events).await, 1);
            waiting.push((ahead, events));
        }
        proxy.cut();
        eventually("it has connected again", SOON, async || proxy.accepted() > 1 && proxy.open() == 1).await;
        for (ahead, events) in &mut waiting {
            assert!(events.try_recv().is_err(), "somebody is ahead");
            server.delete(ahead).await;
            let guard = timeout(SOON, acquired(events)).await.expect("a look a second");
            assert_eq!(guard.state(), LeaseState::Held);
        }
    });
}

// ---- access lists ----

#[test]
fn a_missing_right_is_told_with_the_path() {
    run(async {
        let (keeper, path) = (connect().await, unique_path("no-right"));
        let owner = zk::Client::connector().with_auth("digest", b"owner:secret");
        let owner = owner.connect(&shared().address()).await.expect("a server");
        let private = zk::CreateMode::Persistent.with_acls(zk::Acls::creator_all());
        owner.create(&path, b"", &private).await.expect("a new node");
        owner.create(&format!("{path}/made"), b"", &private).await.expect("a new node");
        for lock in [format!("{path}/missing"), format!("{path}/made"), path] {
            let lock = keeper.lock(&lock).expect("a path");
            let error = AcquireError::NoAuth { path: lock.path().to_owned() };
            assert!(error.to_string().contains(lock.path()), "{error}");
            let acquire = timeout(SOON, lock.acquire()).await.expect("an answer");
            assert_eq!(refusal(acquire), error);
            assert_eq!(refusal(lock.try_acquire().await), TryAcquireError::Failed(error.clone()));
            let acquire = lock.acquire_timeout(LONG).await;
            assert_eq!(refusal(acquire), AcquireTimeoutError::Failed(error));
        }
    });
}

#[test]
fn a_contender_ahead_that_cannot_be_read_is_told_with_its_path() {
    run(async {
        let (keeper, path) = (connect().await, unique_path("unreadable"));
        let server = Observer::new().await;
        let owner = zk::Client::connector().with_auth("digest", b"owner:secret");
        let owner = owner.connect(&shared().address()).await.expect("a server");
        server.make(&path).await;
        let private = zk::CreateMode::EphemeralSequential.with_acls(zk::Acls::creator_all());
        let prefix = format!("{path}/{UUID}__lock__");
        let (_, number) = owner.create(&prefix, b"", &private).await.expect("a new node");
        let ahead = format!("{prefix}{number}");
        let lock = keeper.lock(&path).expect("a path");
        let acquire = timeout(SOON, lock.acquire()).await.expect("an answer");
        assert_eq!(refusal(acquire), AcquireError::NoAuth { path: ahead.clone() });
        assert_eq!(lock.contenders().await, Err(ContendersError::NoAuth { path: ahead.clone() }));
        server.until_nodes(&path, &[&ahead]).await;
    });
}

#[test]
fn a_keeper_closes_although_it_may_not_delete_its_node() {
    run(async {
        let (keeper, path) = (connect().await, unique_path("no-delete"));
        let server = Observer::new().await;
        let acl = [Acl::new(Permission::READ | Permission::CREATE, AuthId::anyone())];
        let directory = zk::CreateMode::Persistent.with_acls(zk::Acls::new(&acl));
        server.0.create(&path, b"", &directory).await.expect("a new node");
        let guard = keeper.lock(&path).expect("a path").acquire().await.expect("a free lock");
        timeout(SOON, keeper.close()).await.expect("the session can be closed");
        assert_eq!(guard.state(), LeaseState::Lost);
        server.until_nodes(&path, &[]).await;
    });
}

// ---- answers that never come ----

#[test]
fn a_create_whose_answer_is_lost_is_found_again_and_granted_once() {
    run(async {
        for ephemeral in [true, false] {
            let (proxy, path) = (proxied().await, unique_path("create"));
            let (keeper, server) = (connect_through(&proxy, LONG).await, Observer::new().await);
            server.make(&path).await;
            let lock = keeper.lock_with(&path, LockOptions::new().ephemeral(ephemeral)).expect("options");
            proxy.drop_replies_then_cut();
            let (_, mut events) = listen(lock.acquire());
            server.until_node_count(&path, 1).await;
            assert!(events.try_recv().is_err(), "nobody here can know");
            proxy.cut();

            let guard = granted(&mut events).await;
            server.until_nodes(&path, &[guard.node()]).await;
            assert_eq!(guard.release().await, Ok(()));
            assert!(events.recv().await.is_none(), "nothing follows");
            server.until_nodes(&path, &[]).await;
        }
    });
}

#[test]
fn a_create_that_never_arrived_is_sent_again() {
    run(async {
        let (proxy, path) = (proxied().await, unique_path("never-arrived"));
        let keeper = connect_through(&proxy, LONG).await;
        let server = Observer::new().await;
        server.make(&path).await;
        proxy.black_hole(true);
        let (_, mut events) = listen(keeper.lock(&path).expect("a path").acquire());
        proxy.cut();
        proxy.black_hole(false);
        let guard = granted(&mut events).await;
        server.until_nodes(&path, &[guard.node()]).await;
    });
}

#[test]
fn a_request_given_up_while_its_create_is_in_doubt_leaves_no_node() {
    run(async {
        let (proxy, path) = (proxied().await, unique_path("given-up"));
        let keeper = connect_through(&proxy, LONG).await;
        let server = Observer::new().await;
        server.make(&path).await;
        let lock = keeper.lock(&path).expect("a path");
        for way in ["cancelled", "timed out", "dropped"] {
            proxy.drop_replies_then_cut();
            match way {
                "cancelled" => {
                    let (ticket, mut events) = listen(lock.acquire());
                    server.until_node_count(&path, 1).await;
                    lock.cancel(ticket);
                    assert_eq!(refused(&mut events).await, Refused::Cancelled);
                }
                "timed out" => {
                    let acquire = lock.acquire_timeout(Duration::from_millis(200));
                    assert_eq!(refusal(acquire.await), AcquireTimeoutError::TimedOut);
                }
                _ => {
                    let acquire = tokio::spawn(lock.acquire());
                    server.until_node_count(&path, 1).await;
                    acquire.abort();
                }
            }
            server.until_node_count(&path, 1).await;
            proxy.cut();
            server.until_nodes(&path, &[]).await;
            drop(timeout(SOON, lock.acquire()).await.expect("an answer").expect("a free lock"));
            server.until_nodes(&path, &[]).await;
        }
    });
}

#[test]
fn a_release_whose_answer_is_lost_is_confirmed_in_the_end() {
    run(async {
        let (proxy, path) = (proxied().await, unique_path("release"));
        let keeper = connect_through(&proxy, LONG).await;
        let server = Observer::new().await;
        let lock = keeper.lock(&path).expect("a path");
        for arrives in [true, false] {
            let guard = lock.acquire().await.expect("a free lock");
            match arrives {
                true => proxy.drop_replies_then_cut(),
                false => proxy.black_hole(true),
            }
            let node = guard.node().to_owned();
            let release = tokio::spawn(guard.release());
            match arrives {
                true => server.until_nodes(&path, &[]).await,
                false => server.until_nodes(&path, &[&node]).await,
            }
            proxy.cut();
            proxy.black_hole(false);
            assert_eq!(release.await.expect("no panic"), Ok(()));
            server.until_nodes(&path, &[]).await;
        }
    });
}

// ---- what the tests use ----

/// A session timeout under which no busy machine loses a session.
const LONG: Duration = Duration::from_secs(20);
/// For what is done in milliseconds when nothing is wrong.
const SOON: Duration = Duration::from_secs(10);
/// What a busy machine may add to a time limit.
const SLACK: Duration = Duration::from_secs(2);
const UUID: &str = "0123456789abcdef0123456789abcdef";

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

/// One that notices soon when a node is gone.
async fn brisk() -> Keeper {
    let brisk = options().session_timeout(Duration::from_secs(4));
    brisk.connect(&shared().address()).await.expect("a server")
}

/// An address at which nobody listens.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").to_string()
}

fn refusal<E>(result: Result<LockGuard, E>) -> E {
    result.expect_err("it must not be granted")
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

async fn refused(events: &mut Events) -> Refused {
    loop {
        match events.recv().await {
            Some(LockEvent::Queued { .. }) => {}
            Some(LockEvent::Refused(_, refused)) => return refused,
            other => panic!("it should be refused: {other:?}"),
        }
    }
}

/// Somebody else on the same server, who looks at nodes, and makes and deletes them.
struct Observer(zk::Client);

impl Observer {
    async fn new() -> Observer {
        Observer(zk::Client::connect(&shared().address()).await.expect("a server"))
    }

    async fn stat(&self, path: &str) -> Option<zk::Stat> {
        self.0.check_stat(path).await.expect("a stat")
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

    async fn until_watched(&self, node: &str) {
        let watched = async || shared().four_letter("wchp").lines().any(|line| line == node);
        eventually("somebody watches the node", SOON, watched).await;
    }

    async fn make(&self, directory: &str) {
        self.create(directory, b"", zk::CreateMode::Persistent).await;
    }

    /// The node's path: with its number if it has one.
    async fn create(&self, path: &str, data: &[u8], mode: zk::CreateMode) -> String {
        let options = mode.with_acls(zk::Acls::anyone_all());
        let (_, number) = self.0.create(path, data, &options).await.expect(path);
        match mode {
            zk::CreateMode::EphemeralSequential => format!("{path}{number}"),
            _ => path.to_owned(),
        }
    }

    /// A contender as kazoo makes it.
    async fn contender(&self, directory: &str) -> String {
        let path = format!("{directory}/{UUID}__lock__");
        self.create(&path, b"", zk::CreateMode::EphemeralSequential).await
    }

    async fn delete(&self, path: &str) {
        self.0.delete(path, None).await.expect("a node to delete");
    }

    /// Deletes a directory and all that is in it, at once.
    async fn delete_all(&self, directory: &str) {
        let mut deletes = self.0.new_multi_writer();
        for path in self.nodes(directory).await.iter().map(String::as_str).chain([directory]) {
            deletes.add_delete(path, None).expect("a path");
        }
        deletes.commit().await.expect("nothing that was made in between");
    }
}
