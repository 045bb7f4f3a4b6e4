//! One queue with a live Curator client, in Curator's dialect.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use common::{
    Curator, CuratorKind, Kazoo, Kind, TestServer, beside_curator, eventually, refusal, shared, unique_path,
};
use lockkeeper::error::{AcquireError, TryAcquireError};
use lockkeeper::{Dialect, Keeper, Lock, LockOptions, Mode, ReadWriteLock};
use tokio::task::JoinSet;

const LIMIT: Duration = common::HANGING;

async fn connect() -> Keeper {
    Keeper::connect(&shared().address()).await.expect("should connect")
}

fn curator_options() -> LockOptions {
    LockOptions::new().identifier("ours").dialect(Dialect::Curator)
}

async fn pair(name: &str) -> (Curator, Lock, String) {
    let path = unique_path(name);
    let lock = connect().await.lock_with(&path, curator_options()).expect("a valid path");
    (Curator::start(&shared().address()).await, lock, path)
}

/// Waits until this many contenders are queued.
async fn queued<M>(lock: &Lock<M>, count: usize) {
    eventually("the contenders are queued", LIMIT, async || {
        lock.contenders().await.is_ok_and(|contenders| contenders.len() == count)
    })
    .await;
}

#[tokio::test]
async fn a_curator_mutex_and_ours_wait_for_each_other() {
    let (curator, lock, path) = pair("mutex").await;
    let theirs = curator.acquire(&path, CuratorKind::Mutex).await;
    let tried = refusal(lock.try_acquire().await);
    assert!(matches!(tried, TryAcquireError::Contended { .. }), "{tried:?}");
    let waiting = tokio::spawn(lock.acquire());
    queued(&lock, 2).await;
    assert!(!waiting.is_finished());
    curator.release(theirs).await;
    let ours = waiting.await.expect("no panic").expect("granted");

    assert!(curator.try_acquire(&path, CuratorKind::Mutex).await.is_none(), "ours is held");
    let waiting = tokio::spawn(curator.begin(&path, CuratorKind::Mutex));
    queued(&lock, 2).await;
    assert!(!waiting.is_finished());
    ours.release().await.expect("released");
    let theirs = waiting.await.expect("granted to Curator");
    curator.release(theirs).await;
    lock.try_acquire().await.expect("the lock is free").release().await.expect("released");
}

#[tokio::test]
async fn the_locks_of_the_page_and_curators_exclude_each_other() {
    let text = include_str!("common/beside_curator.rs");
    assert!(include_str!("../docs/from-curator.md").contains(text), "the page must quote the tested code");
    let (keeper, curator) = (connect().await, Curator::start(&shared().address()).await);
    let path = unique_path("page");
    let mutex = beside_curator::mutex(&keeper, &path).expect("a valid path");
    let ours = mutex.acquire().await.expect("free");
    assert!(curator.try_acquire(&path, CuratorKind::Mutex).await.is_none(), "two clients hold");
    ours.release().await.expect("released");
    let theirs = curator.acquire(&path, CuratorKind::Mutex).await;
    assert!(matches!(mutex.try_acquire().await, Err(TryAcquireError::Contended { .. })));
    curator.release(theirs).await;

    let path = unique_path("page");
    let both = beside_curator::read_write(&keeper, &path).expect("a valid path");
    let ours = both.write().acquire().await.expect("free");
    for kind in [CuratorKind::Read, CuratorKind::Write] {
        assert!(curator.try_acquire(&path, kind).await.is_none(), "{kind:?} although our writer holds");
    }
    ours.release().await.expect("released");
    let theirs = curator.acquire(&path, CuratorKind::Read).await;
    assert!(matches!(both.write().try_acquire().await, Err(TryAcquireError::Contended { .. })));
    both.read().try_acquire().await.expect("shared with Curator's reader").release().await.expect("released");
    curator.release(theirs).await;
}

#[tokio::test]
async fn a_multi_lock_of_curators_dialect_and_a_curator_mutex_on_one_of_its_paths_wait_for_each_other() {
    let (curator, lock, path) = pair("several").await;
    let modes = [(unique_path("several"), Mode::Lock), (path.clone(), Mode::Lock)];
    let several = connect().await.multi_lock_with(modes, curator_options()).expect("valid paths");
    let theirs = curator.acquire(&path, CuratorKind::Mutex).await;
    assert!(matches!(several.try_acquire().await.err(), Some(TryAcquireError::Contended { .. })));
    let waiting = tokio::spawn(several.acquire());
    queued(&lock, 2).await;
    assert!(!waiting.is_finished());
    curator.release(theirs).await;
    let ours = waiting.await.expect("no panic").expect("granted");
    assert!(curator.try_acquire(&path, CuratorKind::Mutex).await.is_none(), "ours is held");
    ours.release().await.expect("released");
    let theirs = curator.acquire(&path, CuratorKind::Mutex).await;
    curator.release(theirs).await;
}

#[tokio::test]
async fn our_nodes_look_like_curator_options() {
    let (curator, lock, path) = pair("wire").await;
    let kazoo = Kazoo::start(&shared().address()).await;
    let theirs = curator.acquire(&path, CuratorKind::Mutex).await;
    let waiting = tokio::spawn(lock.acquire());
    queued(&lock, 2).await;
    let mut names = kazoo.children(&path).await.expect("the directory is there");
    names.sort_by_key(|name| name[name.len() - 10..].to_owned());
    let [of_curator, of_ours] = names.as_slice() else { panic!("two contenders, not {names:?}") };
    // Apart from the UUID's digits the names must be equal.
    let shape = |name: &str| name.replace(|c: char| c.is_ascii_digit() || ('a'..='f').contains(&c), "x");
    assert_eq!(shape(of_curator), shape(of_ours), "{names:?}");
    assert!(of_ours.starts_with("_c_") && of_ours.ends_with("-lock-0000000001"), "{of_ours}");
    curator.release(theirs).await;
    let guard = waiting.await.expect("no panic").expect("granted");
    assert_eq!(kazoo.get(guard.node()).await.as_deref(), Ok(&b"ours"[..]));
}

async fn read_write(name: &str) -> (Curator, ReadWriteLock, String) {
    let path = unique_path(name);
    let lock = connect().await.read_write_with(&path, curator_options()).expect("a valid path");
    (Curator::start(&shared().address()).await, lock, path)
}

#[tokio::test]
async fn readers_of_both_share_the_lock_and_writers_of_both_exclude() {
    let (curator, ours, path) = read_write("shared").await;
    let theirs = curator.acquire(&path, CuratorKind::Read).await;
    let read = ours.read().try_acquire().await.expect("shared with Curator's reader");
    assert!(matches!(ours.write().try_acquire().await.err(), Some(TryAcquireError::Contended { .. })));
    let another = curator.try_acquire(&path, CuratorKind::Read).await.expect("shared with our reader");
    assert!(curator.try_acquire(&path, CuratorKind::Write).await.is_none(), "readers hold the lock");

    // Curator's readers do not pass our waiting writer.
    let writing = tokio::spawn(ours.write().acquire());
    queued(ours.write(), 4).await;
    assert!(
        curator.try_acquire(&path, CuratorKind::Read).await.is_none(),
        "a reader passed a waiting writer"
    );
    for held in [theirs, another] {
        curator.release(held).await;
    }
    assert!(!writing.is_finished());
    read.release().await.expect("released");
    let written = writing.await.expect("no panic").expect("granted");
    queued(ours.write(), 1).await;
    let modes = ours.read().contenders().await.expect("connected");
    assert!(modes.iter().all(|contender| contender.mode == Mode::Write), "{modes:?}");
    for kind in [CuratorKind::Read, CuratorKind::Write] {
        assert!(curator.try_acquire(&path, kind).await.is_none(), "our writer holds the lock");
    }

    // Our readers do not pass Curator's waiting writer.
    let writing = tokio::spawn(curator.begin(&path, CuratorKind::Write));
    queued(ours.write(), 2).await;
    let reading = tokio::spawn(ours.read().acquire());
    queued(ours.write(), 3).await;
    written.release().await.expect("released");
    let theirs = writing.await.expect("granted to Curator");
    assert!(!reading.is_finished());
    assert!(matches!(ours.read().try_acquire().await.err(), Some(TryAcquireError::Contended { .. })));
    curator.release(theirs).await;
    reading.await.expect("no panic").expect("granted").release().await.expect("released");
}

/// Checks who holds the lock: readers are counted, a writer must be alone.
#[derive(Default)]
struct Witness(AtomicI64);

impl Witness {
    fn enter(&self, writes: bool) {
        match writes {
            true => assert_eq!(self.0.swap(-1, Ordering::SeqCst), 0, "a writer is not alone"),
            false => {
                assert!(self.0.fetch_add(1, Ordering::SeqCst) >= 0, "a reader entered while a writer holds")
            }
        }
    }

    fn leave(&self, writes: bool) {
        match writes {
            true => assert_eq!(self.0.swap(0, Ordering::SeqCst), -1, "another client entered"),
            false => assert!(self.0.fetch_sub(1, Ordering::SeqCst) > 0, "a writer entered"),
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
        let lock = connect().await.lock_with(&path, curator_options()).expect("a valid path");
        let witness = witness.clone();
        workers.spawn(async move {
            for _ in 0..ROUNDS {
                let guard = lock.acquire().await.expect("granted");
                witness.enter(true);
                tokio::task::yield_now().await;
                witness.leave(true);
                drop(guard);
            }
        });
    }
    tokio::time::timeout(LIMIT, workers.join_all()).await.expect("every worker should finish");
}

#[tokio::test(flavor = "multi_thread")]
async fn random_readers_and_writers_of_both_never_conflict() {
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
        let keeper = Keeper::connect(&server.address()).await.expect("should connect");
        let lock = keeper.read_write_with(&path, curator_options()).expect("a valid path");
        seen = Some(lock.clone());
        let witness = witness.clone();
        workers.spawn(async move {
            let mut seed = 100 + worker;
            for _ in 0..ROUNDS {
                visit(&lock, &witness, random(&mut seed) % 3 == 0).await;
            }
        });
    }
    tokio::time::timeout(LIMIT, workers.join_all()).await.expect("every worker should finish");
    queued(seen.expect("four handles").read(), 0).await;
    eventually("no watch is left", LIMIT, async || server.mntr("zk_watch_count") == 0).await;
}

#[tokio::test]
async fn a_lock_of_the_default_dialect_withdraws_beside_curators_and_leaves_nothing() {
    let (curator, _, path) = pair("mixed").await;
    let keeper = connect().await;
    let (lock, both) =
        (keeper.lock(&path).expect("a valid path"), keeper.read_write(&path).expect("a valid path"));
    let theirs = curator.acquire(&path, CuratorKind::Mutex).await;
    let [contender] = &lock.contenders().await.expect("connected")[..] else { panic!("one contender") };
    let mixed = AcquireError::MixedDialects { contender: format!("{path}/{}", contender.name) };
    assert_eq!(lock.try_acquire().await.err(), Some(TryAcquireError::Failed(mixed.clone())));
    assert_eq!(lock.acquire().await.err(), Some(mixed.clone()));
    assert_eq!(both.read().acquire().await.err(), Some(mixed.clone()));
    assert_eq!(both.write().acquire().await.err(), Some(mixed));
    queued(&lock, 1).await;

    // With Curator's name pattern as an option, the lock waits instead.
    let tolerant = LockOptions::new().extra_lock_patterns(["-lock-"]);
    let tolerant = keeper.lock_with(&path, tolerant).expect("a valid path");
    assert!(matches!(tolerant.try_acquire().await.err(), Some(TryAcquireError::Contended { .. })));
    let waiting = tokio::spawn(tolerant.acquire());
    queued(&tolerant, 2).await;
    curator.release(theirs).await;
    waiting.await.expect("no panic").expect("granted").release().await.expect("released");
    lock.acquire().await.expect("the lock is free").release().await.expect("released");
}

#[tokio::test]
async fn a_lock_of_curators_dialect_withdraws_beside_kazoos_and_beside_a_read_write_lock() {
    let path = unique_path("kazoo");
    let keeper = connect().await;
    let lock = keeper.lock_with(&path, curator_options()).expect("a valid path");
    let both = keeper.read_write_with(&path, curator_options()).expect("a valid path");
    let refused = |error: Option<AcquireError>| matches!(error, Some(AcquireError::MixedDialects { .. }));
    let kazoo = Kazoo::start(&shared().address()).await;
    for kind in [Kind::Lock, Kind::ReadLock] {
        let held = kazoo.acquire(&path, kind, common::Acquire::default()).await.expect("free");
        assert!(refused(lock.acquire().await.err()), "kazoo's {kind:?} is held");
        assert!(refused(both.read().acquire().await.err()), "kazoo's {kind:?} is held");
        assert_eq!(kazoo.release(held).await, Ok(true));
    }
    // As in the default dialect, a mutex and a read/write lock on one path are not compatible.
    let read = both.read().acquire().await.expect("the lock is free");
    assert!(refused(lock.acquire().await.err()));
    read.release().await.expect("released");
    let held = lock.acquire().await.expect("the lock is free");
    assert!(refused(both.write().acquire().await.err()));
    held.release().await.expect("released");
}

#[tokio::test]
async fn a_curator_holder_that_dies_blocks_us_until_its_session_ends() {
    let path = unique_path("dies");
    let lock = connect().await.lock_with(&path, curator_options()).expect("a valid path");
    let curator = Curator::start_with_session(&shared().address(), Duration::from_secs(4)).await;
    curator.acquire(&path, CuratorKind::Mutex).await;
    drop(curator);
    assert!(matches!(lock.try_acquire().await.err(), Some(TryAcquireError::Contended { .. })));
    let guard = tokio::time::timeout(LIMIT, lock.acquire()).await.expect("the session ends");
    guard.expect("granted").release().await.expect("released");
}

fn lingering() -> LockOptions {
    curator_options().linger(Duration::from_secs(3600))
}

#[tokio::test]
async fn curator_is_granted_at_once_while_our_node_lingers_and_we_wait_while_it_holds() {
    let (curator, _, path) = pair("lingering").await;
    let lock = connect().await.lock_with(&path, lingering()).expect("a valid path");
    let token = lock.acquire().await.expect("free").token();
    assert_eq!(lock.acquire().await.expect("idle").token(), token);
    let theirs = curator.acquire(&path, CuratorKind::Mutex);
    let theirs = tokio::time::timeout(LIMIT, theirs).await.expect("the idle node makes way");
    assert!(matches!(lock.try_acquire().await.err(), Some(TryAcquireError::Contended { .. })));
    let waiting = tokio::spawn(lock.acquire());
    queued(&lock, 2).await;
    assert!(!waiting.is_finished());
    curator.release(theirs).await;
    assert!(waiting.await.expect("no panic").expect("granted").token() > token);
}

/// Holds one side of the lock for a moment.
async fn visit(lock: &ReadWriteLock, witness: &Witness, writes: bool) {
    if writes {
        let guard = lock.write().acquire().await.expect("granted to the writer");
        witness.enter(true);
        tokio::task::yield_now().await;
        witness.leave(true);
        drop(guard);
    } else {
        let guard = lock.read().acquire().await.expect("granted to the reader");
        witness.enter(false);
        tokio::task::yield_now().await;
        witness.leave(false);
        drop(guard);
    }
}

/// Tasks of one process of ours read and write without a pause until two of Curator have had all their turns.
#[tokio::test(flavor = "multi_thread")]
async fn readers_and_writers_of_curator_get_their_turns_while_our_nodes_linger() {
    const ROUNDS: usize = 25;
    let path = unique_path("lingering");
    let (witness, over) = (Arc::new(Witness::default()), Arc::new(AtomicBool::new(false)));
    let lock = connect().await.read_write_with(&path, lingering()).expect("a valid path");
    let (mut theirs, mut ours) = (JoinSet::new(), JoinSet::new());
    for task in 0..8 {
        let (lock, witness, over) = (lock.clone(), witness.clone(), over.clone());
        ours.spawn(async move {
            while !over.load(Ordering::Relaxed) {
                visit(&lock, &witness, task % 4 == 0).await;
            }
        });
    }
    for kind in [CuratorKind::Read, CuratorKind::Write] {
        let curator = Curator::start(&shared().address()).await;
        let (witness, path) = (witness.clone(), path.clone());
        theirs.spawn(async move {
            for _ in 0..ROUNDS {
                let held = curator.acquire(&path, kind).await;
                witness.enter(kind == CuratorKind::Write);
                tokio::task::yield_now().await;
                witness.leave(kind == CuratorKind::Write);
                curator.release(held).await;
            }
        });
    }
    tokio::time::timeout(LIMIT, theirs.join_all()).await.expect("Curator is not starved");
    over.store(true, Ordering::Relaxed);
    ours.join_all().await;
}
