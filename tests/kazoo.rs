//! One queue with a live kazoo client: each waits for the other and lists the other.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Acquire, Create, HANGING, Kazoo, Kind, eventually, shared, unique_path};
use lockkeeper::error::{AcquireError, AcquireTimeoutError, TryAcquireError};
use lockkeeper::{Keeper, Lock, LockOptions, ReadWriteLock};

async fn connect() -> Keeper {
    (Keeper::options().session_timeout(Duration::from_secs(10)).identifier("ours"))
        .connect(&shared().address())
        .await
        .expect("should connect")
}

async fn pair(name: &str) -> (Kazoo, Keeper, Lock, String) {
    let path = unique_path(name);
    let keeper = connect().await;
    let lock = keeper.lock(&path).expect("a valid path");
    (Kazoo::start(&shared().address()).await, keeper, lock, path)
}

#[tokio::test]
async fn we_wait_for_kazoo() {
    let (kazoo, _keeper, lock, path) = pair("kazoo-first").await;
    let held = kazoo.acquire(&path, Kind::Lock, Acquire::identified("theirs")).await.expect("free");
    assert!(matches!(lock.try_acquire().await.err(), Some(TryAcquireError::Contended { .. })));
    let late = lock.acquire_timeout(Duration::from_millis(200)).await.err();
    assert!(matches!(late, Some(AcquireTimeoutError::TimedOut { .. })));
    let waiting = tokio::spawn({
        let lock = lock.clone();
        async move { lock.acquire().await }
    });
    eventually("we are queued behind kazoo", Duration::from_secs(10), async || {
        let names = lock.contenders().await.expect("connected");
        names.iter().map(|c| c.identifier.as_str()).eq(["theirs", "ours"])
    })
    .await;
    assert!(!waiting.is_finished());
    assert_eq!(kazoo.release(held).await, Ok(true));
    waiting.await.expect("no panic").expect("granted").release().await.expect("released");
}

#[tokio::test]
async fn kazoo_waits_for_us() {
    let (kazoo, _keeper, lock, path) = pair("ours-first").await;
    let guard = lock.acquire().await.expect("free");
    let impatient = Acquire { blocking: false, ..Acquire::identified("theirs") };
    assert_eq!(kazoo.acquire(&path, Kind::Lock, impatient).await.err().as_deref(), Some("NotAcquired"));
    let waiting = kazoo.start_acquire(&path, Kind::Lock, Acquire::identified("theirs"));
    eventually("kazoo is queued behind us", Duration::from_secs(10), async || {
        kazoo.contenders(&path, Kind::Lock).await.is_ok_and(|names| names == ["ours", "theirs"])
    })
    .await;
    assert!(!waiting.is_finished());
    guard.release().await.expect("released");
    let held = waiting.await.expect("granted to kazoo");
    assert_eq!(kazoo.release(held).await, Ok(true));
}

#[tokio::test]
async fn kazoo_gets_the_lock_after_ours_is_dropped_and_another_request_timed_out() {
    let (kazoo, _keeper, lock, path) = pair("dropped").await;
    let guard = lock.acquire().await.expect("free");
    assert!(lock.acquire_timeout(Duration::from_millis(100)).await.is_err());
    let waiting = kazoo.start_acquire(&path, Kind::Lock, Acquire::default());
    drop(guard);
    let held = waiting.await.expect("granted to kazoo");
    assert_eq!(kazoo.release(held).await, Ok(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_of_each_hold_one_at_a_time() {
    const ROUNDS: usize = 25;
    let path = unique_path("mixed");
    let held = Arc::new(AtomicBool::new(false));
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let (kazoo, theirs, target) = (Kazoo::start(&shared().address()).await, held.clone(), path.clone());
        workers.spawn(async move {
            for _ in 0..ROUNDS {
                let lock =
                    kazoo.acquire(&target, Kind::Lock, Acquire::default()).await.expect("granted to kazoo");
                assert!(!theirs.swap(true, Ordering::SeqCst), "two clients hold at once");
                assert!(theirs.swap(false, Ordering::SeqCst));
                kazoo.release(lock).await.expect("released");
            }
        });
        let (lock, ours) = (connect().await.lock(&path).expect("a valid path"), held.clone());
        workers.spawn(async move {
            for _ in 0..ROUNDS {
                let guard = lock.acquire().await.expect("granted");
                assert!(!ours.swap(true, Ordering::SeqCst), "two clients hold at once");
                assert!(ours.swap(false, Ordering::SeqCst));
                drop(guard);
            }
        });
    }
    let all = async { while workers.join_next().await.transpose().expect("no worker fails").is_some() {} };
    tokio::time::timeout(HANGING, all).await.expect("every worker should finish");
}

#[tokio::test]
async fn a_kazoo_holder_that_dies_blocks_us_until_its_session_ends() {
    let path = unique_path("dies");
    let lock = connect().await.lock(&path).expect("a valid path");
    let kazoo = Kazoo::start_with_session(&shared().address(), Duration::from_secs(4)).await;
    kazoo.acquire(&path, Kind::Lock, Acquire::default()).await.expect("free");
    kazoo.kill().await;
    assert!(matches!(lock.try_acquire().await.err(), Some(TryAcquireError::Contended { .. })));
    let guard = tokio::time::timeout(Duration::from_secs(30), lock.acquire()).await;
    guard.expect("the session ends").expect("granted").release().await.expect("released");
}

#[tokio::test]
async fn our_nodes_look_like_kazoos() {
    let (kazoo, _keeper, lock, path) = pair("wire").await;
    let guard = lock.acquire().await.expect("free");
    let names = kazoo.children(&path).await.expect("the directory is there");
    let [name] = names.as_slice() else { panic!("one contender, not {names:?}") };
    let (unique, rest) = name.split_at(32);
    assert!(unique.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()), "{name}");
    assert_eq!(rest, "__lock__0000000000");
    assert_eq!(kazoo.get(guard.node()).await.as_deref(), Ok(&b"ours"[..]));
    let stat = kazoo.stat(guard.node()).await.expect("answered").expect("there");
    assert_eq!(stat.czxid as u64, guard.token().as_u64());
    assert_ne!(stat.ephemeral_owner, 0);
    let directory = kazoo.stat(&path).await.expect("answered").expect("there");
    assert_eq!((directory.ephemeral_owner, kazoo.get(&path).await), (0, Ok(Vec::new())));
}

#[tokio::test]
async fn names_that_kazoo_ignores_are_ignored() {
    let (kazoo, _keeper, lock, path) = pair("others").await;
    kazoo.ensure_path(&path).await.expect("made");
    for name in ["config", "__lock__", "x__lock__12", "é", "_c_1-__LOCK__", "y__rlock__"] {
        let sequence = name.starts_with("_c") || name.starts_with('y');
        let how = Create { sequence, ..Create::default() };
        kazoo.create(&format!("{path}/{name}"), b"\xff", how).await.expect("made");
    }
    lock.try_acquire().await.expect("no contender is ahead").release().await.expect("released");
    let held = kazoo.acquire(&path, Kind::Lock, Acquire::default()).await.expect("no contender is ahead");
    assert_eq!(kazoo.release(held).await, Ok(true));
}

#[tokio::test]
async fn kazoos_readers_and_writers_share_our_queue() {
    let path = unique_path("kazoo");
    let kazoo = Kazoo::start(&shared().address()).await;
    let ours = connect().await.read_write(&path).expect("a valid path");

    let theirs = kazoo.acquire(&path, Kind::ReadLock, Acquire::default()).await.expect("free");
    let read = ours.read().try_acquire().await.expect("shared with kazoo's reader");
    assert!(matches!(ours.write().try_acquire().await.err(), Some(TryAcquireError::Contended { .. })));
    let writing = kazoo.start_acquire(&path, Kind::WriteLock, Acquire::default());
    queued(&ours, 3).await;
    assert!(matches!(ours.read().try_acquire().await.err(), Some(TryAcquireError::Contended { .. })));
    assert_eq!(kazoo.release(theirs).await, Ok(true));
    assert!(!writing.is_finished());
    read.release().await.expect("released");
    let theirs = writing.await.expect("granted to kazoo's writer");

    let waiting = tokio::spawn(ours.read().acquire());
    queued(&ours, 2).await;
    assert_eq!(kazoo.release(theirs).await, Ok(true));
    let read = waiting.await.expect("no panic").expect("granted");
    let theirs =
        kazoo.acquire(&path, Kind::ReadLock, Acquire::default()).await.expect("shared with our reader");
    let writing = tokio::spawn(ours.write().acquire());
    queued(&ours, 3).await;
    read.release().await.expect("released");
    assert!(!writing.is_finished());
    assert_eq!(kazoo.release(theirs).await, Ok(true));
    let written = writing.await.expect("no panic").expect("granted");
    let impatient = Acquire { blocking: false, ..Acquire::default() };
    for kind in [Kind::ReadLock, Kind::WriteLock, Kind::Lock] {
        assert!(kazoo.acquire(&path, kind, impatient.clone()).await.is_err(), "our writer holds the lock");
    }
    written.release().await.expect("released");
}

/// Waits until this many contenders are queued.
async fn queued(lock: &ReadWriteLock, count: usize) {
    eventually("the contenders are queued", Duration::from_secs(10), async || {
        lock.read().contenders().await.is_ok_and(|contenders| contenders.len() == count)
    })
    .await;
}

#[tokio::test]
async fn a_multi_lock_and_kazoo_on_one_of_its_paths_wait_for_each_other() {
    let (kazoo, keeper) = (Kazoo::start(&shared().address()).await, connect().await);
    let paths = [unique_path("several"), unique_path("several")];
    let (multi, seen) =
        (keeper.multi_lock(&paths).expect("paths"), keeper.lock(&paths[1]).expect("a valid path"));
    let queued = async |count: usize| {
        eventually("the contenders are queued", Duration::from_secs(10), async || {
            seen.contenders().await.is_ok_and(|contenders| contenders.len() == count)
        })
        .await;
    };
    let theirs = kazoo.acquire(&paths[1], Kind::Lock, Acquire::default()).await.expect("free");
    assert!(matches!(multi.try_acquire().await.err(), Some(TryAcquireError::Contended { .. })));
    let waiting = tokio::spawn(multi.acquire());
    queued(2).await;
    assert!(!waiting.is_finished());
    let impatient = Acquire { blocking: false, ..Acquire::default() };
    let free = kazoo.acquire(&paths[0], Kind::Lock, impatient.clone()).await;
    assert!(free.is_err(), "the multi-lock already holds this path");
    assert_eq!(kazoo.release(theirs).await, Ok(true));
    let guard = waiting.await.expect("no panic").expect("granted");

    let waiting = kazoo.start_acquire(&paths[1], Kind::Lock, Acquire::default());
    queued(2).await;
    assert!(!waiting.is_finished());
    guard.release().await.expect("released");
    assert_eq!(kazoo.release(waiting.await.expect("granted to kazoo")).await, Ok(true));
    let free = kazoo.acquire(&paths[0], Kind::Lock, impatient).await.expect("the lock is free");
    assert_eq!(kazoo.release(free).await, Ok(true));
}

/// Two clients of ours lock both paths, in different orders, and two of kazoo lock one each.
#[tokio::test(flavor = "multi_thread")]
async fn multi_locks_and_kazoo_hold_each_path_one_at_a_time() {
    const ROUNDS: usize = 20;
    let paths = [unique_path("both"), unique_path("both")];
    let held: Arc<[AtomicBool; 2]> = Arc::default();
    let mut workers = tokio::task::JoinSet::new();
    for number in 0..2 {
        let kazoo = Kazoo::start(&shared().address()).await;
        let (path, theirs) = (paths[number].clone(), held.clone());
        workers.spawn(async move {
            for _ in 0..ROUNDS {
                let lock =
                    kazoo.acquire(&path, Kind::Lock, Acquire::default()).await.expect("granted to kazoo");
                assert!(!theirs[number].swap(true, Ordering::SeqCst), "two clients hold at once");
                assert!(theirs[number].swap(false, Ordering::SeqCst));
                kazoo.release(lock).await.expect("released");
            }
        });
        let named = if number == 0 { [&paths[0], &paths[1]] } else { [&paths[1], &paths[0]] };
        let (multi, ours) = (connect().await.multi_lock(named).expect("paths"), held.clone());
        workers.spawn(async move {
            for _ in 0..ROUNDS {
                let guard = multi.acquire().await.expect("granted");
                assert!(
                    ours.iter().all(|held| !held.swap(true, Ordering::SeqCst)),
                    "two clients hold at once"
                );
                tokio::task::yield_now().await;
                assert!(ours.iter().all(|held| held.swap(false, Ordering::SeqCst)));
                drop(guard);
            }
        });
    }
    let all = async { while workers.join_next().await.transpose().expect("no worker fails").is_some() {} };
    tokio::time::timeout(HANGING, all).await.expect("every worker should finish");
}

/// Each pattern as an extra lock pattern, and whether a lock of either kind waits for a node with each name. Numbers
/// that have wrapped are left out: kazoo compares numbers as text, so it may not wait for a name that matches.
#[tokio::test]
async fn a_pattern_matches_the_same_names_as_in_kazoo() {
    const PATTERNS: [&str; 22] = [
        "-lock-",
        "-lock",
        "lock-?",
        "lock.",
        r"x\.lock-",
        "x.lock-",
        "^x",
        "^lock|^y-",
        "^[a-z]+-(?:lock|mutex)-",
        r"[^-]+-lock-",
        r"\w-lock-",
        r"\bmutex\b-",
        "(?i:LOCK-)",
        "mutex-?|é-",
        r"a\[",
        r"\d",
        "0{3}",
        "k-00",
        ".*",
        "x{2,3}-",
        "(?:xx)+?-",
        "no such thing",
    ];
    const NAMES: [&str; 15] = [
        "x-lock-0000000000",
        "x.lock-0000000000",
        "LOCK-0000000000",
        "x-lock-y-0000000000",
        "y-mutex-0000000000",
        "ymutex0000000000",
        "a[0000000000",
        "é-lock-0000000000",
        "xxxx-0000000000",
        "0000000000",
        "lock-00000000000000",
        "x-lock-00000000",
        "x-lock-",
        "lock-0000000000-",
        "-lock-0000000000x",
    ];
    let (kazoo, keeper) = (Kazoo::start(&shared().address()).await, connect().await);
    let mut matched = 0;
    for name in NAMES {
        let path = unique_path("patterns");
        kazoo.ensure_path(&path).await.expect("made");
        kazoo.create(&format!("{path}/{name}"), b"", Create::default()).await.expect("made");
        for pattern in PATTERNS {
            let theirs = Acquire {
                blocking: false,
                extra_lock_patterns: vec![pattern.to_owned()],
                ..Acquire::default()
            };
            let theirs = match kazoo.acquire(&path, Kind::Lock, theirs).await {
                Ok(held) => kazoo.release(held).await.map(|_| false).expect("released"),
                Err(error) => {
                    assert_eq!(error, "NotAcquired", "{pattern:?} and {name:?}");
                    true
                }
            };
            let ours = LockOptions::new().extra_lock_patterns([pattern]);
            let ours = keeper.lock_with(&path, ours).expect("a valid pattern");
            let ours = match ours.try_acquire().await {
                Ok(guard) => guard.release().await.map(|()| false).expect("released"),
                // Names of Curator's kind are refused if no pattern matches them.
                Err(TryAcquireError::Failed(AcquireError::MixedDialects { .. })) => false,
                Err(TryAcquireError::Contended { .. }) => true,
                Err(error) => panic!("{pattern:?} and {name:?}: {error}"),
            };
            assert_eq!(ours, theirs, "whether {pattern:?} matches {name:?}");
            matched += usize::from(ours);
        }
    }
    let pairs = NAMES.len() * PATTERNS.len();
    assert!((pairs / 10..pairs).contains(&matched), "{matched} of {pairs} match");
}

/// Two clients of ours, two of kazoo, and two of a kind whose names only the patterns match.
#[tokio::test(flavor = "multi_thread")]
async fn with_the_same_patterns_three_kinds_of_clients_hold_one_at_a_time() {
    const ROUNDS: usize = 15;
    const PATTERN: &str = "^old-[a-f]-(?:lock|mutex)-";
    let path = unique_path("three-kinds");
    let held = Arc::new(AtomicBool::new(false));
    let mut workers = tokio::task::JoinSet::new();
    for marker in ["old-a-lock-", "old-b-mutex-"] {
        let (kazoo, theirs, target) = (Kazoo::start(&shared().address()).await, held.clone(), path.clone());
        kazoo.ensure_path(&path).await.expect("made");
        workers.spawn(async move {
            for _ in 0..ROUNDS {
                let options = Acquire { extra_lock_patterns: vec![PATTERN.to_owned()], ..Acquire::default() };
                let lock = kazoo.acquire(&target, Kind::Lock, options).await.expect("granted to kazoo");
                hold(&theirs, "kazoo").await;
                kazoo.release(lock).await.expect("released");
            }
        });
        let options = LockOptions::new().extra_lock_patterns([PATTERN]);
        let lock = connect().await.lock_with(&path, options).expect("a valid pattern");
        let ours = held.clone();
        workers.spawn(async move {
            for _ in 0..ROUNDS {
                let guard = lock.acquire().await.expect("granted");
                hold(&ours, "ours").await;
                guard.release().await.expect("released");
            }
        });
        let (third, old, target) = (Kazoo::start(&shared().address()).await, held.clone(), path.clone());
        workers.spawn(async move {
            for _ in 0..ROUNDS {
                let how = Create { ephemeral: true, sequence: true };
                let node = third.create(&format!("{target}/{marker}"), b"", how).await.expect("made");
                let number = |name: &str| name[name.len() - 10..].to_owned();
                let ahead = |names: Vec<String>| names.iter().any(|name| number(name) < number(&node));
                while ahead(third.children(&target).await.expect("the directory is there")) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                hold(&old, marker).await;
                third.delete(&node).await.expect("deleted");
            }
        });
    }
    let all = async { while workers.join_next().await.transpose().expect("no worker fails").is_some() {} };
    tokio::time::timeout(Duration::from_secs(120), all).await.expect("every worker should finish");
}

async fn hold(held: &AtomicBool, who: &str) {
    assert!(!held.swap(true, Ordering::SeqCst), "{who} and another client hold at once");
    tokio::task::yield_now().await;
    assert!(held.swap(false, Ordering::SeqCst));
}

fn lingering() -> LockOptions {
    LockOptions::new().identifier("ours").linger(Duration::from_secs(3600))
}

#[tokio::test]
async fn kazoo_is_granted_at_once_while_our_node_lingers_and_we_wait_while_it_holds() {
    let (kazoo, keeper, _, path) = pair("lingering").await;
    let lock = keeper.lock_with(&path, lingering()).expect("a valid path");
    let token = lock.acquire().await.expect("free").token();
    assert_eq!(lock.acquire().await.expect("idle").token(), token);
    let limit = Acquire { timeout: Some(Duration::from_secs(10)), ..Acquire::identified("theirs") };
    let held = kazoo.acquire(&path, Kind::Lock, limit).await.expect("the idle node makes way");
    assert!(matches!(lock.try_acquire().await.err(), Some(TryAcquireError::Contended { .. })));
    let waiting = tokio::spawn(lock.acquire());
    eventually("we are queued behind kazoo", Duration::from_secs(10), async || {
        kazoo.contenders(&path, Kind::Lock).await.is_ok_and(|names| names == ["theirs", "ours"])
    })
    .await;
    assert!(!waiting.is_finished());
    assert_eq!(kazoo.release(held).await, Ok(true));
    assert!(waiting.await.expect("no panic").expect("granted").token() > token);
}

/// kazoo's try creates a node, which is noticed.
#[tokio::test]
async fn kazoos_try_is_refused_by_an_idle_node_and_ends_it() {
    let (kazoo, keeper, _, path) = pair("lingering").await;
    let lock = keeper.lock_with(&path, lingering()).expect("a valid path");
    let guard = lock.acquire().await.expect("free");
    let impatient = Acquire { blocking: false, ..Acquire::default() };
    assert!(kazoo.acquire(&path, Kind::Lock, impatient.clone()).await.is_err(), "ours is held");
    drop(guard);
    eventually("a later try succeeds", Duration::from_secs(10), async || {
        kazoo.acquire(&path, Kind::Lock, impatient.clone()).await.is_ok()
    })
    .await;
    assert!(matches!(lock.try_acquire().await.err(), Some(TryAcquireError::Contended { .. })));
}

/// Two processes of ours, with eight tasks each that cycle without a pause until two of kazoo have had all their turns.
#[tokio::test(flavor = "multi_thread")]
async fn two_of_kazoo_get_their_turns_while_our_nodes_linger_and_one_client_holds_at_a_time() {
    const ROUNDS: usize = 25;
    let path = unique_path("lingering");
    let (held, over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (mut theirs, mut ours) = (tokio::task::JoinSet::new(), tokio::task::JoinSet::new());
    for _ in 0..2 {
        let lock = connect().await.lock_with(&path, lingering()).expect("a valid path");
        for _ in 0..8 {
            let (lock, held, over) = (lock.clone(), held.clone(), over.clone());
            ours.spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    let guard = lock.acquire().await.expect("granted");
                    hold(&held, "ours").await;
                    drop(guard);
                }
            });
        }
        let (kazoo, held, path) = (Kazoo::start(&shared().address()).await, held.clone(), path.clone());
        theirs.spawn(async move {
            for _ in 0..ROUNDS {
                let lock =
                    kazoo.acquire(&path, Kind::Lock, Acquire::default()).await.expect("granted to kazoo");
                hold(&held, "kazoo").await;
                kazoo.release(lock).await.expect("released");
            }
        });
    }
    let all = async { while theirs.join_next().await.transpose().expect("no worker fails").is_some() {} };
    tokio::time::timeout(HANGING, all).await.expect("kazoo is not starved");
    over.store(true, Ordering::Relaxed);
    ours.join_all().await;
}
