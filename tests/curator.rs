//! Beside a live Curator, on one path, in Curator's dialect.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use common::{
    Curator, CuratorKind, Kazoo, Kind, TestServer, beside_curator, eventually, shared, unique_path,
};
use lockkeeper::{AcquireError, Dialect, Keeper, Lock, LockOptions, Mode, ReadWriteLock, TryAcquireError};
use tokio::task::JoinSet;

const LIMIT: Duration = Duration::from_secs(60);

async fn connect() -> Keeper {
    Keeper::connect(&shared().address()).await.expect("the test's server takes connections")
}

fn curators() -> LockOptions {
    LockOptions::new().identifier("ours").dialect(Dialect::Curator)
}

async fn pair(name: &str) -> (Curator, Lock, String) {
    let path = unique_path(name);
    let lock = connect().await.lock_with(&path, curators()).expect("a path");
    (Curator::start(&shared().address()).await, lock, path)
}

/// Waits until so many contenders stand in the queue.
async fn queued<M>(lock: &Lock<M>, count: usize) {
    eventually("the contenders stand in the queue", LIMIT, async || {
        lock.contenders().await.is_ok_and(|contenders| contenders.len() == count)
    })
    .await;
}

#[tokio::test]
async fn a_mutex_of_curators_and_ours_wait_for_each_other() {
    let (curator, lock, path) = pair("mutex").await;
    let theirs = curator.acquire(&path, CuratorKind::Mutex).await;
    assert!(matches!(lock.try_acquire().await.err(), Some(TryAcquireError::Contended { .. })));
    let waiting = tokio::spawn(lock.acquire());
    queued(&lock, 2).await;
    assert!(!waiting.is_finished());
    curator.release(theirs).await;
    let ours = waiting.await.expect("no panic").expect("our turn");

    assert!(curator.try_acquire(&path, CuratorKind::Mutex).await.is_none(), "not beside ours");
    let waiting = tokio::spawn(curator.begin(&path, CuratorKind::Mutex));
    queued(&lock, 2).await;
    assert!(!waiting.is_finished());
    ours.release().await.expect("released");
    let theirs = waiting.await.expect("Curator's turn");
    curator.release(theirs).await;
    lock.try_acquire().await.expect("nobody is left").release().await.expect("released");
}

#[tokio::test]
async fn the_locks_of_the_guide_and_curators_keep_each_other_out() {
    let text = include_str!("common/beside_curator.rs");
    assert!(include_str!("../docs/guide.md").contains(text), "the guide shows what is tested here");
    let (keeper, curator) = (connect().await, Curator::start(&shared().address()).await);
    let path = unique_path("guide");
    let mutex = beside_curator::mutex(&keeper, &path).expect("a path");
    let ours = mutex.acquire().await.expect("free");
    assert!(curator.try_acquire(&path, CuratorKind::Mutex).await.is_none(), "two hold");
    ours.release().await.expect("released");
    let theirs = curator.acquire(&path, CuratorKind::Mutex).await;
    assert!(matches!(mutex.try_acquire().await, Err(TryAcquireError::Contended { .. })));
    curator.release(theirs).await;

    let path = unique_path("guide");
    let both = beside_curator::read_write(&keeper, &path).expect("a path");
    let ours = both.write().acquire().await.expect("free");
    for kind in [CuratorKind::Read, CuratorKind::Write] {
        assert!(curator.try_acquire(&path, kind).await.is_none(), "{kind:?} beside our writer");
    }
    ours.release().await.expect("released");
    let theirs = curator.acquire(&path, CuratorKind::Read).await;
    assert!(matches!(both.write().try_acquire().await, Err(TryAcquireError::Contended { .. })));
    both.read().try_acquire().await.expect("beside Curator's reader").release().await.expect("released");
    curator.release(theirs).await;
}

#[tokio::test]
async fn our_nodes_look_like_curators() {
    let (curator, lock, path) = pair("wire").await;
    let kazoo = Kazoo::start(&shared().address()).await;
    let theirs = curator.acquire(&path, CuratorKind::Mutex).await;
    let waiting = tokio::spawn(lock.acquire());
    queued(&lock, 2).await;
    let mut names = kazoo.children(&path).await.expect("the directory is there");
    names.sort_by_key(|name| name[name.len() - 10..].to_owned());
    let [of_curator, of_ours] = names.as_slice() else { panic!("two contenders, not {names:?}") };
    // What is not a digit of the UUID stands where Curator puts it.
    let shape = |name: &str| name.replace(|c: char| c.is_ascii_digit() || ('a'..='f').contains(&c), "x");
    assert_eq!(shape(of_curator), shape(of_ours), "{names:?}");
    assert!(of_ours.starts_with("_c_") && of_ours.ends_with("-lock-0000000001"), "{of_ours}");
    curator.release(theirs).await;
    let guard = waiting.await.expect("no panic").expect("our turn");
    assert_eq!(kazoo.get(guard.node()).await.as_deref(), Ok(&b"ours"[..]));
}

async fn read_write(name: &str) -> (Curator, ReadWriteLock, String) {
    let path = unique_path(name);
    let lock = connect().await.read_write_with(&path, curators()).expect("a path");
    (Curator::start(&shared().address()).await, lock, path)
}

#[tokio::test]
async fn readers_of_both_hold_together_and_writers_of_both_alone() {
    let (curator, ours, path) = read_write("shared").await;
    let theirs = curator.acquire(&path, CuratorKind::Read).await;
    let read = ours.read().try_acquire().await.expect("beside Curator's reader");
    assert!(matches!(ours.write().try_acquire().await.err(), Some(TryAcquireError::Contended { .. })));
    let another = curator.try_acquire(&path, CuratorKind::Read).await.expect("beside our reader");
    assert!(curator.try_acquire(&path, CuratorKind::Write).await.is_none(), "not beside readers");

    // A writer of ours that waits is not passed by Curator's readers.
    let writing = tokio::spawn(ours.write().acquire());
    queued(ours.write(), 4).await;
    assert!(curator.try_acquire(&path, CuratorKind::Read).await.is_none(), "not past a writer");
    for held in [theirs, another] {
        curator.release(held).await;
    }
    assert!(!writing.is_finished());
    read.release().await.expect("released");
    let written = writing.await.expect("no panic").expect("our turn");
    let modes = ours.read().contenders().await.expect("connected");
    assert!(modes.iter().all(|contender| contender.mode == Mode::Write), "{modes:?}");
    for kind in [CuratorKind::Read, CuratorKind::Write] {
        assert!(curator.try_acquire(&path, kind).await.is_none(), "not beside our writer");
    }

    // Nor is one of Curator's by ours.
    let writing = tokio::spawn(curator.begin(&path, CuratorKind::Write));
    queued(ours.write(), 2).await;
    let reading = tokio::spawn(ours.read().acquire());
    queued(ours.write(), 3).await;
    written.release().await.expect("released");
    let theirs = writing.await.expect("Curator's turn");
    assert!(!reading.is_finished());
    assert!(matches!(ours.read().try_acquire().await.err(), Some(TryAcquireError::Contended { .. })));
    curator.release(theirs).await;
    reading.await.expect("no panic").expect("our turn").release().await.expect("released");
}

/// Counts who is inside: readers up, a writer takes all of it.
#[derive(Default)]
struct Witness(AtomicI64);

impl Witness {
    fn enter(&self, writes: bool) {
        match writes {
            true => assert_eq!(self.0.swap(-1, Ordering::SeqCst), 0, "a writer is alone"),
            false => assert!(self.0.fetch_add(1, Ordering::SeqCst) >= 0, "no writer beside a reader"),
        }
    }

    fn leave(&self, writes: bool) {
        match writes {
            true => assert_eq!(self.0.swap(0, Ordering::SeqCst), -1, "nobody came in"),
            false => assert!(self.0.fetch_sub(1, Ordering::SeqCst) > 0, "no writer came in"),
        }
    }
}

fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
    *seed >> 33
}

#[tokio::test(flavor = "multi_thread")]
async fn two_of_each_hold_a_mutex_one_at_a_time() {
    const ROUNDS: usize = 25;
    let path = unique_path("mixed");
    let witness = Arc::new(Witness::default());
    let mut workers = JoinSet::new();
    for _ in 0..2 {
        let (curator, witness, path) =
            (Curator::start(&shared().address()).await, witness.clone(), path.clone());
        workers.spawn(async move {
            for _ in 0..ROUNDS {
                let held = curator.acquire(&path, CuratorKind::Mutex).await;
                witness.enter(true);
                witness.leave(true);
                curator.release(held).await;
            }
        });
    }
    for _ in 0..2 {
        let lock = connect().await.lock_with(&path, curators()).expect("a path");
        let witness = witness.clone();
        workers.spawn(async move {
            for _ in 0..ROUNDS {
                let guard = lock.acquire().await.expect("our turn");
                witness.enter(true);
                tokio::task::yield_now().await;
                witness.leave(true);
                drop(guard);
            }
        });
    }
    tokio::time::timeout(LIMIT, workers.join_all()).await.expect("everybody gets their turns");
}

#[tokio::test(flavor = "multi_thread")]
async fn random_readers_and_writers_of_both_never_overlap_wrongly() {
    const ROUNDS: usize = 25;
    let server = TestServer::start();
    let path = unique_path("random");
    let witness = Arc::new(Witness::default());
    let mut workers = JoinSet::new();
    for worker in 0..2_u64 {
        let (curator, witness, path) =
            (Arc::new(Curator::start(&server.address()).await), witness.clone(), path.clone());
        for thread in 0..2 {
            let (curator, witness, path) = (curator.clone(), witness.clone(), path.clone());
            workers.spawn(async move {
                let mut seed = 2 * worker + thread;
                for _ in 0..ROUNDS {
                    let writes = random(&mut seed) % 3 == 0;
                    let kind = if writes { CuratorKind::Write } else { CuratorKind::Read };
                    let held = curator.acquire(&path, kind).await;
                    witness.enter(writes);
                    tokio::task::yield_now().await;
                    witness.leave(writes);
                    curator.release(held).await;
                }
            });
        }
    }
    let mut seen = None;
    for worker in 0..4_u64 {
        let keeper = Keeper::connect(&server.address()).await.expect("the test's server takes connections");
        let lock = keeper.read_write_with(&path, curators()).expect("a path");
        seen = Some(lock.clone());
        let witness = witness.clone();
        workers.spawn(async move {
            let mut seed = 100 + worker;
            for _ in 0..ROUNDS {
                if random(&mut seed) % 3 == 0 {
                    let guard = lock.write().acquire().await.expect("a writer's turn");
                    witness.enter(true);
                    tokio::task::yield_now().await;
                    witness.leave(true);
                    drop(guard);
                } else {
                    let guard = lock.read().acquire().await.expect("a reader's turn");
                    witness.enter(false);
                    tokio::task::yield_now().await;
                    witness.leave(false);
                    drop(guard);
                }
            }
        });
    }
    tokio::time::timeout(LIMIT, workers.join_all()).await.expect("everybody gets their turns");
    queued(seen.expect("four of them").read(), 0).await;
    eventually("no watch is left", LIMIT, async || server.mntr("zk_watch_count") == 0).await;
}

#[tokio::test]
async fn a_lock_of_the_default_dialect_withdraws_beside_curators_and_leaves_nothing() {
    let (curator, _, path) = pair("mixed").await;
    let keeper = connect().await;
    let (lock, both) = (keeper.lock(&path).expect("a path"), keeper.read_write(&path).expect("a path"));
    let theirs = curator.acquire(&path, CuratorKind::Mutex).await;
    let [contender] = &lock.contenders().await.expect("connected")[..] else { panic!("one contender") };
    let mixed = AcquireError::MixedDialects { contender: format!("{path}/{}", contender.name) };
    assert_eq!(lock.try_acquire().await.err(), Some(TryAcquireError::Failed(mixed.clone())));
    assert_eq!(lock.acquire().await.err(), Some(mixed.clone()));
    assert_eq!(both.read().acquire().await.err(), Some(mixed.clone()));
    assert_eq!(both.write().acquire().await.err(), Some(mixed));
    queued(&lock, 1).await;

    // Told of them, it waits.
    let told = LockOptions::new().extra_lock_patterns(["-lock-"]);
    let told = keeper.lock_with(&path, told).expect("a path");
    assert!(matches!(told.try_acquire().await.err(), Some(TryAcquireError::Contended { .. })));
    let waiting = tokio::spawn(told.acquire());
    queued(&told, 2).await;
    curator.release(theirs).await;
    waiting.await.expect("no panic").expect("our turn").release().await.expect("released");
    lock.acquire().await.expect("nobody is left").release().await.expect("released");
}

#[tokio::test]
async fn a_lock_of_curators_dialect_withdraws_beside_kazoos_and_beside_a_read_write_lock() {
    let path = unique_path("kazoo");
    let keeper = connect().await;
    let lock = keeper.lock_with(&path, curators()).expect("a path");
    let both = keeper.read_write_with(&path, curators()).expect("a path");
    let refused = |error: Option<AcquireError>| matches!(error, Some(AcquireError::MixedDialects { .. }));
    let kazoo = Kazoo::start(&shared().address()).await;
    for kind in [Kind::Lock, Kind::ReadLock] {
        let held = kazoo.acquire(&path, kind, common::Acquire::default()).await.expect("free");
        assert!(refused(lock.acquire().await.err()), "beside kazoo's {kind:?}");
        assert!(refused(both.read().acquire().await.err()), "beside kazoo's {kind:?}");
        assert_eq!(kazoo.release(held).await, Ok(true));
    }
    // In Curator's dialect too, the mutex and the read/write lock do not know each other.
    let read = both.read().acquire().await.expect("nobody is left");
    assert!(refused(lock.acquire().await.err()));
    read.release().await.expect("released");
    let held = lock.acquire().await.expect("nobody is left");
    assert!(refused(both.write().acquire().await.err()));
    held.release().await.expect("released");
}

#[tokio::test]
async fn curator_holding_when_its_process_dies_is_waited_for_until_its_session_ends() {
    let path = unique_path("dies");
    let lock = connect().await.lock_with(&path, curators()).expect("a path");
    let curator = Curator::start_with_session(&shared().address(), Duration::from_secs(2)).await;
    curator.acquire(&path, CuratorKind::Mutex).await;
    drop(curator);
    assert!(matches!(lock.try_acquire().await.err(), Some(TryAcquireError::Contended { .. })));
    let guard = tokio::time::timeout(LIMIT, lock.acquire()).await.expect("the session ends");
    guard.expect("our turn").release().await.expect("released");
}
