//! Transactions that ZooKeeper carries out only while a lock is held.

mod common;

use std::time::Duration;

use common::events::session_event;
use common::site::Observer;
use common::{
    LONG, SHORT, SOON, connect, connect_for, connect_through, eventually, options, proxied, shared,
    unique_path,
};
use futures::FutureExt;
use lockkeeper::auth::{Acl, AuthId, Permission};
use lockkeeper::error::{FencedError, WriteFailure};
use lockkeeper::messages::LockMessage;
use lockkeeper::session::SessionEvent;
use lockkeeper::{LeaseState, LockGuard, LockOptions};
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::time::timeout;
use zookeeper_client as zk;

/// A held lock, a node that it protects, and a client that looks at the node.
struct Ledger {
    guard: LockGuard,
    data: String,
    server: Observer,
}

impl Ledger {
    async fn held_by(keeper: &lockkeeper::Keeper) -> Ledger {
        let (server, data) = (Observer::new().await, unique_path("ledger"));
        server.create(&data, b"old", zk::CreateMode::Persistent).await;
        let lock = keeper.lock(&format!("{data}/lock")).expect("a valid path");
        Ledger { guard: lock.acquire().await.expect("the lock is free"), data, server }
    }

    fn below(&self, name: &str) -> String {
        format!("{}/{name}", self.data)
    }

    async fn read(&self) -> Vec<u8> {
        self.server.catch_up().await;
        self.server.0.get_data(&self.data).await.expect("the node").0
    }

    async fn set(&self, data: &str) -> Result<(), FencedError> {
        timeout(SOON, self.guard.fenced().set(&self.data, data).commit()).await.expect("an answer")
    }
}

#[tokio::test]
async fn all_writes_of_a_holder_are_carried_out_and_each_sees_those_before_it() {
    let ledger = Ledger::held_by(&connect().await).await;
    let (entry, draft) = (ledger.below("entry"), ledger.below("draft"));
    let first = ledger.guard.fenced().create(&draft, "one").set_version(&ledger.data, "new", 0);
    assert_eq!(first.commit().await, Ok(()));
    let second = ledger.guard.fenced().create(&entry, b"two".as_slice()).set_version(&entry, "three", 0);
    assert_eq!(second.delete(&draft).commit().await, Ok(()));
    assert_eq!(ledger.read().await, b"new");
    assert_eq!(ledger.server.0.get_data(&entry).await.expect("the node").0, b"three");
    assert_eq!(ledger.server.stat(&draft).await, None);
    assert_eq!(ledger.guard.release().await, Ok(()));
}

#[tokio::test]
async fn nothing_is_written_if_one_write_fails_and_the_error_names_it() {
    let ledger = Ledger::held_by(&connect().await).await;
    let (missing, directory) = (ledger.below("missing"), ledger.below("lock"));
    let below_ephemeral = format!("{}/child", ledger.guard.node());
    let begin = || ledger.guard.fenced().set(&ledger.data, "new").create(ledger.below("made"), "");
    for (writes, path, failure) in [
        (begin().set(&missing, ""), &missing, WriteFailure::NoNode),
        (begin().delete(&missing), &missing, WriteFailure::NoNode),
        (begin().create(&ledger.data, ""), &ledger.data, WriteFailure::NodeExists),
        (begin().set_version(&ledger.data, "", 7), &ledger.data, WriteFailure::BadVersion),
        (begin().delete(&directory), &directory, WriteFailure::NotEmpty),
        (begin().create(&below_ephemeral, ""), &below_ephemeral, WriteFailure::EphemeralParent),
    ] {
        let error = writes.delete(ledger.below("made")).commit().await.expect_err(path);
        assert_eq!(error, FencedError::Write { index: 2, path: path.clone(), failure });
        assert!(error.to_string().contains(path), "{error}");
        assert_eq!(ledger.read().await, b"old", "{error}");
        assert_eq!(ledger.server.stat(&ledger.below("made")).await, None, "{error}");
    }
    assert_eq!(ledger.guard.state(), LeaseState::Held);
    assert_eq!(ledger.set("new").await, Ok(()), "the guard can still write");
}

#[tokio::test]
async fn a_guard_whose_node_was_deleted_by_hand_writes_nothing() {
    let ledger = Ledger::held_by(&connect().await).await;
    ledger.server.delete(ledger.guard.node()).await;
    assert_eq!(ledger.set("new").await, Err(FencedError::Lost));
    assert_eq!(ledger.read().await, b"old");
}

#[tokio::test]
async fn a_guard_whose_session_has_expired_writes_nothing() {
    let (proxy, next) = (proxied().await, connect().await);
    let ledger = Ledger::held_by(&connect_through(&proxy, SHORT).await).await;
    proxy.black_hole(true);
    let next = next.lock(&ledger.below("lock")).expect("a valid path");
    let next = timeout(SOON, next.acquire()).await.expect("an answer").expect("the session has ended");
    assert_eq!(next.fenced().set(&ledger.data, "next").commit().await, Ok(()));
    let late = ledger.guard.fenced().set(&ledger.data, "late").commit();
    assert_eq!(late.now_or_never(), Some(Err(FencedError::Lost)), "nothing is sent");
    assert_eq!(ledger.read().await, b"next");
}

/// How a guard is released while a transaction under it is in flight.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Dropped,
    DroppedAfterMessage,
    /// And that runtime has ended.
    BegunInAnotherRuntime,
}

#[tokio::test]
async fn a_released_lock_is_not_handed_on_before_its_writes_are_answered() {
    for way in [Way::Dropped, Way::DroppedAfterMessage, Way::BegunInAnotherRuntime] {
        let proxy = proxied().await;
        let keeper = connect_through(&proxy, LONG).await;
        let ledger = Ledger::held_by(&keeper).await;
        let lock = keeper.lock(&ledger.below("lock")).expect("a valid path");
        let waiting = lock.clone();
        let next = tokio::spawn(async move { waiting.acquire().await });
        let queued = async || lock.contenders().await.is_ok_and(|contenders| contenders.len() == 2);
        eventually("the next request is queued", SOON, queued).await;
        proxy.delay(Duration::from_millis(200));
        let write = || async { ledger.set("late").now_or_never() };
        let answer = match way {
            Way::Dropped | Way::DroppedAfterMessage => write().await,
            Way::BegunInAnotherRuntime => {
                let begin = || {
                    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
                    runtime.block_on(write())
                };
                std::thread::scope(|threads| threads.spawn(begin).join().expect("no panic"))
            }
        };
        assert_eq!(answer, None, "{way:?}: it was sent, and its future is dropped");
        let Ledger { guard, data, server } = ledger;
        if way == Way::DroppedAfterMessage {
            let (reply, _) = oneshot::channel();
            let release = LockMessage::Release(guard.ticket(), reply.into());
            lock.actor().cast(release).expect("the actor runs");
            eventually("the release has begun", SOON, async || guard.state() == LeaseState::Lost).await;
        }
        drop(guard);
        let next = timeout(SOON, next).await.expect("in time").expect("no panic").expect("it is granted");
        assert_eq!(next.state(), LeaseState::Held);
        // From here on, nothing that the former holder has sent may be carried out.
        server.catch_up().await;
        assert_eq!(server.0.get_data(&data).await.expect("the node").0, b"late", "{way:?}");
    }
}

/// If the session is lost, its nodes would stay as long as the future.
#[tokio::test]
async fn a_write_that_is_not_polled_any_more_does_not_keep_the_session_open() {
    let proxy = proxied().await;
    let keeper = connect_through(&proxy, LONG).await;
    let ledger = Ledger::held_by(&keeper).await;
    let mut write = Box::pin(ledger.set("new"));
    assert_eq!((&mut write).now_or_never(), None);
    eventually("it is carried out", SOON, async || ledger.read().await == b"new").await;
    keeper.close().await;
    eventually("the connection is closed", SOON, async || proxy.open() == 0).await;
    drop(write);
}

#[tokio::test]
async fn a_write_waits_for_the_connection() {
    let proxy = proxied().await;
    let ledger = Ledger::held_by(&connect_through(&proxy, LONG).await).await;
    proxy.refuse(true);
    proxy.cut();
    eventually("it is suspended", SOON, async || ledger.guard.state() == LeaseState::Suspended).await;
    let mut write = Box::pin(ledger.set("new"));
    assert_eq!((&mut write).now_or_never(), None);
    proxy.refuse(false);
    assert_eq!(write.await, Ok(()));
    assert_eq!(ledger.read().await, b"new");
}

#[tokio::test]
async fn a_write_that_waits_for_the_connection_ends_with_the_session() {
    let proxy = proxied().await;
    let ledger = Ledger::held_by(&connect_through(&proxy, SHORT).await).await;
    proxy.refuse(true);
    proxy.cut();
    eventually("it is not held", SOON, async || ledger.guard.state() != LeaseState::Held).await;
    assert_eq!(ledger.set("late").await, Err(FencedError::Lost));
    assert_eq!(ledger.read().await, b"old");
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_reported_as_unknown() {
    let proxy = proxied().await;
    let ledger = Ledger::held_by(&connect_through(&proxy, LONG).await).await;
    proxy.drop_replies_then_cut();
    let mut write = Box::pin(ledger.set("new"));
    assert_eq!((&mut write).now_or_never(), None);
    eventually("it is written", SOON, async || ledger.read().await == b"new").await;
    proxy.cut();
    assert!(matches!(write.await, Err(FencedError::Unknown { .. })));
    eventually("it is held", SOON, async || ledger.guard.state() == LeaseState::Held).await;
    assert_eq!(ledger.set("newer").await, Ok(()));
}

#[tokio::test]
async fn bad_input_is_refused_before_anything_is_sent() {
    let ledger = Ledger::held_by(&connect().await).await;
    let now =
        |fenced: lockkeeper::Fenced<'_>| fenced.commit().now_or_never().expect("no I/O").expect_err("bad");
    assert_eq!(now(ledger.guard.fenced()), FencedError::Empty);
    for path in ["", "relative", "/", "/a/", "/a//b", "/a/../b", "/zookeeper/config", "/a\0"] {
        let valid = || ledger.guard.fenced().set(&ledger.data, "new");
        for writes in [
            valid().create(path, ""),
            valid().set(path, ""),
            valid().set_version(path, "", 1),
            valid().delete(path),
        ] {
            let error = now(writes);
            assert!(matches!(&error, FencedError::InvalidPath { path: of, .. } if of == path), "{error:?}");
            assert!(error.to_string().contains(&format!("{path:?} cannot be written")), "{error}");
        }
    }
    let large = vec![0; 600 * 1024];
    let error = now(ledger.guard.fenced().set(&ledger.data, large.clone()).set(&ledger.data, large.clone()));
    assert!(matches!(error, FencedError::TooLarge { bytes } if bytes > 2 * large.len()), "{error:?}");
    assert_eq!(ledger.read().await, b"old");
    assert_eq!(ledger.guard.fenced().set(&ledger.data, large).commit().await, Ok(()));
}

#[tokio::test]
async fn the_size_includes_access_lists() {
    let (keeper, path) = (connect().await, unique_path("listed"));
    let user = |number: usize| {
        let digest = format!("{number}:{}", "x".repeat(28));
        Acl::new(Permission::ALL, AuthId::new("digest", &digest))
    };
    let acl: Vec<Acl> =
        [Acl::new(Permission::ALL, AuthId::anyone())].into_iter().chain((0..9).map(user)).collect();
    let lock = keeper.lock_with(&path, LockOptions::new().acl(acl)).expect("a path");
    let guard = lock.acquire().await.expect("it is free");
    let mut fenced = guard.fenced();
    for number in 0..3_000 {
        fenced = fenced.create(format!("{path}-{number}"), "");
    }
    let error = fenced.commit().now_or_never().expect("no I/O").expect_err("1.2 MB of access lists");
    assert!(matches!(error, FencedError::TooLarge { bytes } if bytes > 3_000 * 9 * 40), "{error:?}");
    guard.release().await.expect("it is held");
}

#[tokio::test]
async fn a_permit_writes_only_while_all_of_its_nodes_exist() {
    let ledger = Ledger::held_by(&connect().await).await;
    let keeper = connect().await;
    let semaphore = keeper.semaphore(&unique_path("pool"), 3).expect("a valid path");
    let permit = semaphore.acquire_many(2).await.expect("three are free");
    assert_eq!(permit.fenced().set(&ledger.data, "permit").commit().await, Ok(()));
    ledger.server.delete(&permit.nodes()[1]).await;
    assert_eq!(permit.fenced().set(&ledger.data, "late").commit().await, Err(FencedError::Lost));
    assert_eq!(ledger.read().await, b"permit");
}

#[tokio::test]
async fn a_multi_guard_writes_only_while_all_of_its_nodes_exist() {
    let ledger = Ledger::held_by(&connect().await).await;
    let keeper = connect().await;
    let lock = keeper.multi_lock([unique_path("alice"), unique_path("bob")]).expect("valid paths");
    let guard = lock.acquire().await.expect("both are free");
    assert_eq!(guard.fenced().set(&ledger.data, "both").commit().await, Ok(()));
    ledger.server.delete(guard.nodes().last().expect("two nodes")).await;
    assert_eq!(guard.fenced().set(&ledger.data, "late").commit().await, Err(FencedError::Lost));
    assert_eq!(ledger.read().await, b"both");
}

#[tokio::test]
async fn readers_and_writers_write_too() {
    let ledger = Ledger::held_by(&connect().await).await;
    let lock = connect().await.read_write(&unique_path("read-write")).expect("a valid path");
    let reader = lock.read().acquire().await.expect("the lock is free");
    assert_eq!(reader.fenced().set(&ledger.data, "reader").commit().await, Ok(()));
    drop(reader);
    let writer = lock.write().acquire().await.expect("it is released");
    assert_eq!(writer.fenced().set_version(&ledger.data, "writer", 1).commit().await, Ok(()));
    assert_eq!(ledger.read().await, b"writer");
}

#[tokio::test]
async fn a_lock_that_outlives_its_session_writes_in_the_next_one() {
    let proxy = proxied().await;
    let keeper = connect_through(&proxy, SHORT).await;
    let ledger = Ledger::held_by(&keeper).await;
    let lock = keeper.lock_with(&unique_path("outlives"), LockOptions::new().ephemeral(false));
    let guard = lock.expect("valid options").acquire().await.expect("the lock is free");
    let mut session = keeper.events();
    proxy.refuse(true);
    proxy.cut();
    session_event(&mut session, SessionEvent::Lost { epoch: 1 }).await;
    let write = |data: &str| guard.fenced().set(&ledger.data, data).commit();
    eventually("there is no session", SOON, async || write("late").await == Err(FencedError::Disconnected))
        .await;
    assert_eq!(guard.state(), LeaseState::Suspended);
    assert_eq!(ledger.read().await, b"old");
    proxy.refuse(false);
    eventually("it is held again", SOON, async || guard.state() == LeaseState::Held).await;
    assert_eq!(write("next").await, Ok(()));
    assert_eq!(ledger.read().await, b"next");
}

#[tokio::test]
async fn paths_are_below_the_chroot() {
    let (server, chroot) = (Observer::new().await, unique_path("chroot"));
    let keeper = options().connect(&format!("{}{chroot}", shared().address())).await.expect("should connect");
    let guard = keeper.lock("/lock").expect("a valid path").acquire().await.expect("the lock is free");
    assert_eq!(guard.fenced().create("/data", "below").commit().await, Ok(()));
    server.catch_up().await;
    let (data, _) = server.0.get_data(&format!("{chroot}/data")).await.expect("the node");
    assert_eq!(data, b"below");
    server.delete(&format!("{chroot}{}", guard.node())).await;
    assert_eq!(guard.fenced().set("/data", "late").commit().await, Err(FencedError::Lost));
}

#[tokio::test]
async fn a_new_node_has_the_access_list_of_the_lock() {
    let (server, keeper, path) = (Observer::new().await, connect().await, unique_path("acl"));
    server.make(&path).await;
    let acl = [Acl::new(Permission::READ | Permission::DELETE, AuthId::anyone())];
    let lock = keeper.lock_with(&format!("{path}/lock"), LockOptions::new().acl(acl.to_vec()));
    server.make(&format!("{path}/lock")).await;
    let guard = lock.expect("valid options").acquire().await.expect("the lock is free");
    let data = format!("{path}/data");
    assert_eq!(guard.fenced().create(&data, "").commit().await, Ok(()));
    server.catch_up().await;
    assert_eq!(server.0.get_acl(&data).await.expect("the node").0, acl);
    let denied = FencedError::Write { index: 0, path: data.clone(), failure: WriteFailure::NoAuth };
    assert_eq!(guard.fenced().set(&data, "new").commit().await, Err(denied));
}

#[tokio::test]
async fn a_node_that_the_client_may_not_read_cannot_be_checked() {
    let (server, keeper, path) = (Observer::new().await, connect_for(LONG).await, unique_path("unreadable"));
    let directory = format!("{path}/lock");
    server.make(&directory).await;
    // The node has this list from the start. After a change of the list, a leader goes by the old one until it has applied
    // the change itself, which a client of a follower cannot see.
    let acl = vec![Acl::new(Permission::WRITE | Permission::DELETE | Permission::ADMIN, AuthId::anyone())];
    let lock = keeper.lock_with(&directory, LockOptions::new().acl(acl)).expect("valid options");
    let guard = lock.acquire().await.expect("the lock is free");
    let write = guard.fenced().create(format!("{path}/data"), "").commit();
    let refused = timeout(SOON, write).await.expect("an answer");
    let node = guard.node().to_owned();
    assert_eq!(refused, Err(FencedError::Unchecked { node, failure: WriteFailure::NoAuth }));
    assert_eq!(server.stat(&format!("{path}/data")).await, None);
}
