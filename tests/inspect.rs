//! What the servers show of locks and semaphores: the walk, the look, the watch, and deleting a node.

mod common;

use std::time::SystemTime;

use common::{SOON, caught_up, client, connect, eventually, run, unique_path};
use futures::FutureExt;
use lockkeeper::error::{InvalidPath, QueryError};
use lockkeeper::inspect::{DeleteNodeError, Entry, InspectError, Inspector, PathState, Pool, Queue};
use lockkeeper::{Dialect, LockOptions, Mode};
use zookeeper_client as zk;

fn lock(state: &PathState) -> &Queue {
    match state {
        PathState::Lock(queue) => queue,
        other => panic!("it is a lock: {other:?}"),
    }
}

fn semaphore(state: &PathState) -> &Pool {
    match state {
        PathState::Semaphore(pool) => pool,
        other => panic!("it is a semaphore: {other:?}"),
    }
}

async fn make(client: &zk::Client, path: &str, data: &[u8], acl: zk::Acls<'static>) {
    client.create(path, data, &zk::CreateMode::Persistent.with_acls(acl)).await.expect("made");
}

/// Waits until this many are in the queue of a lock.
async fn queued(inspector: &Inspector, path: &str, count: usize) -> Vec<Entry> {
    let mut entries = Vec::new();
    eventually("they queue", SOON, async || {
        let state = inspector.look(path).await.expect("read");
        entries = state.map(|state| state.queue().entries.clone()).unwrap_or_default();
        entries.len() == count
    })
    .await;
    entries
}

#[test]
fn a_walk_finds_locks_and_semaphores_at_any_depth() {
    run(async {
        let (keeper, root) = (connect().await, unique_path("walk"));
        let guard =
            keeper.lock(&format!("{root}/a/deep/lock")).expect("a path").acquire().await.expect("free");
        let permits = keeper.semaphore(&format!("{root}/pool"), 3).expect("a path");
        let permits = permits.acquire_many(2).await.expect("free");
        keeper
            .lock(&format!("{root}/used"))
            .expect("a path")
            .acquire()
            .await
            .expect("free")
            .release()
            .await
            .unwrap();

        let found = keeper.inspector().walk(&root).await.expect("read");
        let paths: Vec<&str> = found.places.iter().map(PathState::path).collect();
        assert_eq!(paths, [format!("{root}/a/deep/lock"), format!("{root}/pool")]);
        let entry = &lock(&found.places[0]).entries[0];
        assert_eq!((entry.contender.token, entry.waits_for), (guard.token(), None));
        assert_eq!((entry.dialect, entry.contender.mode, entry.readable), (Dialect::Kazoo, Mode::Lock, true));
        let pool = semaphore(&found.places[1]);
        assert_eq!((pool.limit, pool.taken.len()), (Some(3), 2));
        let nodes: Vec<_> =
            pool.taken.iter().map(|taken| format!("{root}/pool/{}", taken.holder.name)).collect();
        assert_eq!((&nodes[..], pool.mutex.entries.len()), (permits.nodes(), 0));
        assert_eq!(found.empty, [format!("{root}/used")]);
        assert_eq!(found.unreadable, Vec::<String>::new());
        let own = keeper.inspector().walk(&format!("{root}/a/deep/lock")).await.expect("read");
        assert_eq!(own.places[..], found.places[..1], "the prefix may be the lock");
        let none = keeper.inspector().walk(&unique_path("nothing")).await.expect("read");
        assert_eq!((none.places.len(), none.empty.len()), (0, 0));
    });
}

#[test]
fn a_walk_from_a_semaphore_shows_what_a_look_shows() {
    run(async {
        let (keeper, other, path) = (connect().await, connect().await, unique_path("walk-pool"));
        let inspector = keeper.inspector();
        let permit = keeper.semaphore(&path, 1).expect("a path").acquire().await.expect("free");
        let waiting = other.semaphore(&path, 1).expect("a path");
        let waiting = tokio::spawn(async move { waiting.acquire().await });
        queued(&inspector, &path, 1).await;
        let look = inspector.look(&path).await.expect("read");
        let found = inspector.walk(&path).await.expect("read");
        assert_eq!((found.places, found.empty), (Vec::from_iter(look), Vec::new()), "somebody waits");

        waiting.abort();
        queued(&inspector, &path, 0).await;
        permit.release().await.expect("released");
        let look = inspector.look(&path).await.expect("read").expect("it exists");
        assert_eq!(semaphore(&look).taken, []);
        let found = inspector.walk(&path).await.expect("read");
        assert_eq!((found.places, found.empty), (vec![look], Vec::new()), "nobody uses it");
    });
}

#[test]
fn a_walk_finds_locks_with_names_that_look_like_something_else() {
    run(async {
        let (keeper, root) = (connect().await, unique_path("walk-names"));
        let names = ["0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210", "zookeeper"];
        let [lock_path, pool_path, reserved] = names.map(|name| format!("{root}/{name}"));
        let _lock = keeper.lock(&lock_path).expect("a path").acquire().await.expect("free");
        let _permit = keeper.semaphore(&pool_path, 1).expect("a path").acquire().await.expect("free");
        let _other = keeper.lock(&reserved).expect("a path").acquire().await.expect("free");
        let found = keeper.inspector().walk(&root).await.expect("read");
        let paths: Vec<&str> = found.places.iter().map(PathState::path).collect();
        assert_eq!(paths, [&lock_path, &pool_path, &reserved]);
        assert_eq!(semaphore(&found.places[1]).taken.len(), 1);
    });
}

#[test]
fn a_walk_of_everything_leaves_out_what_is_the_servers() {
    run(async {
        let (keeper, path) = (connect().await, unique_path("walk-all"));
        let guard = keeper.lock(&path).expect("a path").acquire().await.expect("free");
        let found = keeper.inspector().walk("/").await.expect("read");
        assert!(found.places.iter().any(|place| place.path() == path));
        assert!(found.empty.iter().all(|path| !path.starts_with("/zookeeper")), "{:?}", found.empty);
        drop(guard);
    });
}

#[test]
fn a_look_shows_who_waits_for_whom() {
    run(async {
        let (keeper, path) = (connect().await, unique_path("look"));
        let (locks, inspector) = (keeper.read_write(&path).expect("a path"), keeper.inspector());
        let before = SystemTime::now();
        let _first = locks.read().acquire().await.expect("free");
        let _second = locks.read().acquire().await.expect("shared");
        let (writer, last) = (locks.write().clone(), locks.read().clone());
        let writer = tokio::spawn(async move { writer.acquire().await });
        queued(&inspector, &path, 3).await;
        let last = tokio::spawn(async move { last.acquire().await });
        let entries = queued(&inspector, &path, 4).await;
        let waits: Vec<_> = entries.iter().map(|entry| entry.waits_for).collect();
        assert_eq!(waits, [None, None, Some(1), Some(2)]);
        let session = keeper.state().get().session_id;
        assert!(entries.iter().all(|entry| entry.contender.session == Some(session)));
        let apart = |entry: &Entry| match entry.created.expect("readable").duration_since(before) {
            Ok(after) => after,
            Err(before) => before.duration(),
        };
        assert!(
            entries.iter().all(|entry| apart(entry) < SOON),
            "times are those of the server: {entries:?}"
        );
        let state = inspector.look(&path).await.expect("read").expect("it is used");
        assert_eq!((state.queue().holders().count(), state.queue().waiters().count()), (2, 2));
        assert_eq!(state.queue().last_number, 3);
        writer.abort();
        last.abort();
    });
}

#[test]
fn a_semaphore_shows_who_waits_for_permits() {
    run(async {
        let (keeper, other, path) = (connect().await, connect().await, unique_path("look-pool"));
        let _permits = keeper.semaphore(&path, 1).expect("a path").acquire().await.expect("free");
        let waiting = other.semaphore(&path, 1).expect("a path");
        let waiting = tokio::spawn(async move { waiting.acquire().await });
        let entries = queued(&keeper.inspector(), &path, 1).await;
        assert_eq!(entries[0].contender.session, Some(other.state().get().session_id));
        waiting.abort();
    });
}

#[test]
fn both_dialects_are_shown() {
    run(async {
        let (keeper, path) = (connect().await, unique_path("look-dialects"));
        let options = || LockOptions::new().dialect(Dialect::Curator);
        let curator = keeper.lock_with(&path, options()).expect("a path").acquire().await.expect("free");
        let entries = queued(&keeper.inspector(), &path, 1).await;
        assert_eq!((entries[0].dialect, entries[0].contender.token), (Dialect::Curator, curator.token()));
    });
}

#[test]
fn a_change_is_reported_once_it_happens() {
    run(async {
        let (keeper, path) = (connect().await, unique_path("changed"));
        let (inspector, lock) = (keeper.inspector(), keeper.lock(&path).expect("a path"));
        let following = tokio::spawn({
            let (inspector, path) = (inspector.clone(), path.clone());
            async move { inspector.changed(&path, None).await }
        });
        let guard = lock.acquire().await.expect("free");
        let held = following.await.expect("no panic").expect("read");
        assert_eq!(held.as_ref().map(|state| state.queue().entries.len()), Some(1));
        let following = tokio::spawn({
            let (inspector, path) = (inspector.clone(), path.clone());
            async move { inspector.changed(&path, held).await }
        });
        guard.release().await.expect("released");
        assert_eq!(following.await.expect("no panic").expect("read"), None);
    });
}

#[test]
fn a_change_of_a_semaphores_limit_is_reported() {
    run(async {
        let (keeper, path) = (connect().await, unique_path("changed-limit"));
        let pool = keeper.semaphore(&path, 2).expect("a path");
        pool.acquire().await.expect("free").release().await.expect("released");
        let inspector = keeper.inspector();
        let known = inspector.look(&path).await.expect("read");
        let following = tokio::spawn({
            let path = path.clone();
            async move { inspector.changed(&path, known).await }
        });
        pool.resize(5).await.expect("resized");
        let state = following.await.expect("no panic").expect("read").expect("it exists");
        assert_eq!(semaphore(&state).limit, Some(5));
    });
}

#[test]
fn nodes_that_may_not_be_read_are_shown_without_their_data() {
    run(async {
        let (keeper, client, root) = (connect().await, client().await, unique_path("unreadable"));
        client.auth("digest", b"me:secret").await.expect("authenticated");
        make(&client, &root, b"", zk::Acls::anyone_all()).await;
        make(&client, &format!("{root}/closed"), b"", zk::Acls::creator_all()).await;
        make(&client, &format!("{root}/lock"), b"", zk::Acls::anyone_all()).await;
        let node = format!("{root}/lock/0123456789abcdef0123456789abcdef__lock__0000000000");
        make(&client, &node, b"hidden", zk::Acls::creator_all()).await;
        caught_up(&keeper).await;
        let found = keeper.inspector().walk(&root).await.expect("read");
        assert_eq!(found.unreadable, [format!("{root}/closed"), node]);
        let entry = &found.places[0].queue().entries[0];
        assert_eq!(
            (entry.readable, &*entry.contender.identifier, entry.contender.session),
            (false, "", None)
        );
        let denied = keeper.inspector().look(&format!("{root}/closed")).await;
        assert!(matches!(denied, Err(InspectError::Query(QueryError::NoAuth { .. }))), "{denied:?}");
    });
}

#[test]
fn what_is_known_is_not_read_again() {
    run(async {
        let (keeper, path) = (connect().await, unique_path("known"));
        let lock = keeper.lock(&path).expect("a path");
        let guard = lock.acquire().await.expect("free");
        let inspector = keeper.inspector();
        let mut known = inspector.walk(&path).await.expect("read");
        let again = inspector.walk_again(&path, known.clone()).await.expect("read");
        assert_eq!(again, known);
        let PathState::Lock(queue) = &mut known.places[0] else { panic!("it is a lock") };
        queue.entries[0].contender.identifier = "as it was".to_owned();
        let again = inspector.walk_again(&path, known).await.expect("read");
        assert_eq!(again.places[0].queue().entries[0].contender.identifier, "as it was");
        drop(guard);
    });
}

#[test]
fn a_node_is_deleted_only_if_it_is_the_one_that_was_seen() {
    run(async {
        let (keeper, path) = (connect().await, unique_path("delete"));
        let (inspector, lock) = (keeper.inspector(), keeper.lock(&path).expect("a path"));
        let guard = lock.acquire().await.expect("free");
        let (node, token) = (guard.node().to_owned(), guard.token());
        let other = lockkeeper::FencingToken::from(token.as_u64() - 1);
        let changed = inspector.delete_node(&node, other).await;
        assert_eq!(changed, Err(DeleteNodeError::Changed { node: node.clone() }));
        assert!(guard.is_held());
        inspector.delete_node(&node, token).await.expect("deleted");
        guard.lost().await;
        let gone = inspector.delete_node(&node, token).await;
        assert_eq!(gone, Err(DeleteNodeError::Gone { node }));
    });
}

#[test]
fn an_invalid_path_of_a_node_is_refused_without_asking_the_server() {
    run(async {
        let inspector = connect().await.inspector();
        let long = format!("/{}", "x".repeat(40_000));
        for node in ["", "relative", "/", "/a/", "/a//b", "/a/../b", "/zookeeper/config", "/a\0", &long] {
            let refused = inspector.delete_node(node, lockkeeper::FencingToken::from(1)).now_or_never();
            assert!(
                matches!(&refused, Some(Err(DeleteNodeError::Path(path))) if path.path == node),
                "{refused:?}"
            );
        }
    });
}

#[test]
fn a_node_whose_data_change_during_the_call_is_not_deleted() {
    run(async {
        let (keeper, client, path) = (connect().await, client().await, unique_path("changing"));
        let inspector = keeper.inspector();
        let writers: Vec<_> =
            (0..8).map(|_| tokio::spawn(write_forever(client.clone(), path.clone()))).collect();
        eventually("the data change during the call", SOON, async || {
            make(&client, &path, b"", zk::Acls::anyone_all()).await;
            let created = client.check_stat(&path).await.expect("an answer").expect("the node").czxid;
            let token = lockkeeper::FencingToken::from(u64::try_from(created).expect("a transaction"));
            caught_up(&keeper).await;
            let deleted = inspector.delete_node(&path, token).await;
            if deleted == Ok(()) {
                return false;
            }
            assert_eq!(deleted, Err(DeleteNodeError::Changed { node: path.clone() }));
            true
        })
        .await;
        writers.iter().for_each(|writer| writer.abort());
    });
}

/// Changes the data of a node, whether or not it exists.
async fn write_forever(client: zk::Client, path: String) {
    loop {
        let _ = client.set_data(&path, b"", None).await;
    }
}

#[test]
fn bad_paths_and_a_closed_keeper_are_errors() {
    run(async {
        let keeper = connect().await;
        let inspector = keeper.inspector();
        for result in [inspector.look("locks").await.map(drop), inspector.walk("locks").await.map(drop)] {
            assert!(matches!(result, Err(InspectError::Path(InvalidPath { .. }))), "{result:?}");
        }
        keeper.close().await;
        assert_eq!(inspector.look("/a").await, Err(InspectError::Query(QueryError::Closed)));
    });
}
