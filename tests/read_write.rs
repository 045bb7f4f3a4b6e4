//! Readers share the lock; writers are exclusive.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use common::{HANGING, SOON, TestServer, connect, connect_to, eventually, unique_path};
use lockkeeper::error::TryAcquireError;
use lockkeeper::{Mode, ReadWriteLock};
use tokio::task::JoinSet;

async fn pair(path: &str) -> [ReadWriteLock; 2] {
    let keepers = [connect().await, connect().await];
    keepers.map(|keeper| keeper.read_write(path).expect("a valid path"))
}

/// Waits until this many contenders are queued.
async fn queued(lock: &ReadWriteLock, count: usize) {
    eventually("the contenders are queued", SOON, async || {
        lock.read().contenders().await.is_ok_and(|contenders| contenders.len() == count)
    })
    .await;
}

#[tokio::test]
async fn readers_hold_together_and_a_writer_alone() {
    let [one, two] = pair(&unique_path("shared")).await;
    let readers = [
        one.read().acquire().await.expect("free"),
        one.read().acquire().await.expect("shared with a reader"),
        two.read().try_acquire().await.expect("shared with readers"),
    ];
    assert!(matches!(two.write().try_acquire().await.err(), Some(TryAcquireError::Contended { .. })));
    queued(&one, 3).await;
    let contenders = one.write().contenders().await.expect("connected");
    assert!(contenders.iter().all(|contender| contender.mode == Mode::Read), "{contenders:?}");
    for reader in readers {
        reader.release().await.expect("released");
    }
    let writer = two.write().try_acquire().await.expect("free");
    for lock in [&one, &two] {
        assert!(matches!(lock.read().try_acquire().await.err(), Some(TryAcquireError::Contended { .. })));
        assert!(matches!(lock.write().try_acquire().await.err(), Some(TryAcquireError::Contended { .. })));
    }
    writer.release().await.expect("released");
}

#[tokio::test]
async fn a_reader_does_not_pass_a_waiting_writer_but_enters_when_it_gives_up() {
    let [one, two] = pair(&unique_path("strict")).await;
    let reader = one.read().acquire().await.expect("free");
    let writing = tokio::spawn(two.write().acquire());
    queued(&one, 2).await;
    let reading = [tokio::spawn(one.read().acquire()), tokio::spawn(two.read().acquire())];
    queued(&one, 4).await;
    assert!(reading.iter().all(|task| !task.is_finished()));
    writing.abort();
    for task in reading {
        let guard = tokio::time::timeout(SOON, task).await;
        guard
            .expect("granted in time")
            .expect("no panic")
            .expect("granted")
            .release()
            .await
            .expect("released");
    }
    reader.release().await.expect("released");
}

#[tokio::test]
async fn many_readers_behind_one_writer_share_one_watch() {
    let server = TestServer::start();
    let path = unique_path("watch");
    let writer = connect_to(&server).await.read_write(&path).expect("a valid path");
    let readers = connect_to(&server).await.read_write(&path).expect("a valid path");
    let written = writer.write().acquire().await.expect("free");
    let mut reading = JoinSet::new();
    for _ in 0..20 {
        reading.spawn(readers.read().acquire());
    }
    queued(&readers, 21).await;
    eventually("one watch is left", SOON, async || server.mntr("zk_watch_count") == 1).await;
    written.release().await.expect("released");
    let guards = reading.join_all().await;
    assert_eq!(guards.iter().filter(|guard| guard.is_ok()).count(), 20);
    assert_eq!(server.mntr("zk_watch_count"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn random_readers_and_writers_never_conflict() {
    let server = TestServer::start();
    let path = unique_path("random");
    // Readers are counted; a writer must be alone.
    let (inside, newest) = (Arc::new(AtomicI64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut workers = JoinSet::new();
    for worker in 0..8_u64 {
        let lock = connect_to(&server).await.read_write(&path).expect("a valid path");
        let (inside, newest) = (inside.clone(), newest.clone());
        workers.spawn(async move {
            let mut seed = worker + 1;
            for _ in 0..100 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                if (seed >> 33) % 3 == 0 {
                    let guard = lock.write().acquire().await.expect("granted to the writer");
                    assert_eq!(inside.swap(-1, Ordering::SeqCst), 0, "a writer is not alone");
                    let before = newest.swap(guard.token().as_u64(), Ordering::SeqCst);
                    assert!(before < guard.token().as_u64(), "a writer's token did not grow");
                    tokio::task::yield_now().await;
                    assert_eq!(inside.swap(0, Ordering::SeqCst), -1);
                } else {
                    let guard = lock.read().acquire().await.expect("granted to the reader");
                    assert!(
                        inside.fetch_add(1, Ordering::SeqCst) >= 0,
                        "a reader entered while a writer holds"
                    );
                    assert!(
                        newest.load(Ordering::SeqCst) < guard.token().as_u64(),
                        "a reader's token is not larger than every writer's"
                    );
                    tokio::task::yield_now().await;
                    inside.fetch_sub(1, Ordering::SeqCst);
                }
            }
            lock
        });
    }
    let all = tokio::time::timeout(HANGING, workers.join_all()).await;
    let locks = all.expect("every worker should finish");
    queued(&locks[0], 0).await;
    eventually("no watch is left", SOON, async || server.mntr("zk_watch_count") == 0).await;
}
