//! One semaphore shared with a live kazoo client.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use common::{Acquire, Create, HANGING, Kazoo, Kind, eventually, shared, unique_path};
use lockkeeper::error::{AcquireError, AcquireTimeoutError, PermitsError, TryAcquireError};
use lockkeeper::{Keeper, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(10);

async fn connect() -> Keeper {
    (Keeper::options().session_timeout(Duration::from_secs(10)).identifier("ours"))
        .connect(&shared().address())
        .await
        .expect("should connect")
}

async fn pair(name: &str, permits: u32) -> (Kazoo, Semaphore, String) {
    let path = unique_path(name);
    let pool = connect().await.semaphore(&path, permits).expect("a path and a number");
    (Kazoo::start(&shared().address()).await, pool, path)
}

fn theirs(permits: u32) -> Acquire {
    Acquire { max_leases: permits, ..Acquire::identified("theirs") }
}

#[tokio::test]
async fn our_nodes_look_like_kazoos() {
    let (kazoo, pool, path) = pair("wire", 2).await;
    let permit = pool.acquire().await.expect("free");
    assert_eq!(kazoo.get(&path).await.as_deref(), Ok(&b"2"[..]));
    let [lease] = permit.nodes() else { panic!("one lease for one permit: {:?}", permit.nodes()) };
    let name = lease.strip_prefix(&format!("{path}/")).expect("below the root");
    assert!(
        name.len() == 32 && name.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()),
        "{name}"
    );
    assert_eq!(kazoo.get(lease).await.as_deref(), Ok(&b"ours"[..]));
    assert_ne!(kazoo.stat(lease).await.expect("answered").expect("there").ephemeral_owner, 0);
    let mutex = kazoo.stat(&format!("{path}-__lock__")).await.expect("answered").expect("there");
    assert_eq!(mutex.ephemeral_owner, 0);
    assert_eq!(kazoo.children(&format!("{path}-__lock__")).await, Ok(Vec::new()), "the mutex is released");
}

#[tokio::test]
async fn permits_are_shared_and_each_lists_the_other() {
    let (kazoo, pool, path) = pair("shared", 2).await;
    let held = kazoo.acquire(&path, Kind::Semaphore, theirs(2)).await.expect("free");
    let ours = pool.acquire().await.expect("the second of two");
    let mut listed = kazoo.lease_holders(&path).await.expect("answered");
    listed.sort();
    assert_eq!(listed, ["ours", "theirs"]);
    let holders = pool.lease_holders().await.expect("connected");
    let mut names: Vec<&str> = holders.iter().map(|holder| holder.identifier.as_str()).collect();
    names.sort();
    assert_eq!(names, ["ours", "theirs"]);
    assert!(matches!(pool.try_acquire().await.err(), Some(TryAcquireError::Contended { .. })));
    let impatient = Acquire { blocking: false, ..theirs(2) };
    let refused = kazoo.acquire(&path, Kind::Semaphore, impatient).await.err();
    assert_eq!(refused.as_deref(), Some("NotAcquired"));

    let waiting = tokio::spawn(pool.acquire());
    eventually("we hold the mutex and wait", SOON, async || {
        kazoo.children(&format!("{path}-__lock__")).await.is_ok_and(|mutex| mutex.len() == 1)
    })
    .await;
    assert_eq!(kazoo.release(held).await, Ok(true));
    let second = timeout(SOON, waiting).await.expect("granted").expect("no panic").expect("granted");
    let waiting = kazoo.start_acquire(&path, Kind::Semaphore, theirs(2));
    eventually("kazoo holds the mutex and waits", SOON, async || {
        kazoo.children(&format!("{path}-__lock__")).await.is_ok_and(|mutex| mutex.len() == 1)
    })
    .await;
    assert!(!waiting.is_finished());
    ours.release().await.expect("released");
    let held = timeout(SOON, waiting).await.expect("granted to kazoo").expect("granted");
    assert_eq!(kazoo.release(held).await, Ok(true));
    second.release().await.expect("released");
}

#[tokio::test]
async fn a_different_limit_is_an_error_on_both_sides() {
    let (kazoo, pool, path) = pair("mismatch", 3).await;
    let held = kazoo.acquire(&path, Kind::Semaphore, theirs(2)).await.expect("free");
    for _ in 0..2 {
        let error =
            AcquireError::Permits(PermitsError::LimitMismatch { path: path.clone(), stored: 2, given: 3 });
        assert_eq!(pool.acquire().await.err(), Some(error), "on every attempt");
    }
    assert_eq!(kazoo.release(held).await, Ok(true));

    let (kazoo, pool, path) = pair("mismatch", 3).await;
    pool.acquire().await.expect("free").release().await.expect("released");
    let refused = kazoo.acquire(&path, Kind::Semaphore, theirs(2)).await.err();
    assert_eq!(refused.as_deref(), Some("ValueError"));
}

#[tokio::test]
async fn without_a_stored_limit_none_is_compared_and_foreign_children_count() {
    for data in [&b""[..], b"for other purposes"] {
        let (kazoo, pool, path) = pair("data", 2).await;
        kazoo.create(&path, data, Create::default()).await.expect("made");
        kazoo.create(&format!("{path}/foreign"), b"", Create::default()).await.expect("made");
        let permit = pool.acquire().await.expect("the second of two");
        assert!(matches!(pool.try_acquire().await.err(), Some(TryAcquireError::Contended { .. })));
        assert_eq!(kazoo.get(&path).await.as_deref(), Ok(data), "foreign data is not changed");
        let stored = connect().await.semaphore_stored(&path).expect("a valid path");
        assert_eq!(
            stored.acquire().await.err(),
            Some(AcquireError::Permits(PermitsError::NoLimit { path: path.clone() }))
        );
        permit.release().await.expect("released");
    }
}

/// kazoo returns `False` here whenever the mutex is held.
#[tokio::test]
async fn try_acquire_gets_a_free_permit_although_the_mutex_is_briefly_held() {
    let (kazoo, pool, path) = pair("busy", 1).await;
    pool.acquire().await.expect("free").release().await.expect("released");
    let mutex = format!("{path}-__lock__");
    let busy = kazoo.acquire(&mutex, Kind::Lock, Acquire::default()).await.expect("free");
    let trying = tokio::spawn(pool.try_acquire());
    eventually("we are queued behind kazoo", SOON, async || {
        kazoo.children(&mutex).await.is_ok_and(|children| children.len() == 2)
    })
    .await;
    assert_eq!(kazoo.release(busy).await, Ok(true));
    let permit = timeout(SOON, trying).await.expect("answered").expect("no panic").expect("it was free");
    permit.release().await.expect("released");

    let busy = kazoo.acquire(&mutex, Kind::Lock, Acquire::default()).await.expect("free");
    let answer = timeout(SOON, pool.try_acquire()).await.expect("answered");
    assert!(matches!(answer.err(), Some(TryAcquireError::Contended { .. })));
    eventually("our contender is gone", SOON, async || {
        kazoo.children(&mutex).await.is_ok_and(|children| children.len() == 1)
    })
    .await;
    assert_eq!(kazoo.release(busy).await, Ok(true));
}

/// kazoo's `cancel` has no effect on a waiter that is still queued for the mutex.
#[tokio::test]
async fn giving_up_while_queued_on_the_mutex_leaves_nothing() {
    let (kazoo, pool, path) = pair("queued", 1).await;
    pool.acquire().await.expect("free").release().await.expect("released");
    let mutex = format!("{path}-__lock__");
    let busy = kazoo.acquire(&mutex, Kind::Lock, Acquire::default()).await.expect("free");
    let waiting = tokio::spawn(pool.acquire());
    eventually("we are queued behind kazoo", SOON, async || {
        kazoo.children(&mutex).await.is_ok_and(|children| children.len() == 2)
    })
    .await;
    let late = pool.acquire_timeout(Duration::from_millis(100)).await;
    assert!(matches!(late.err(), Some(AcquireTimeoutError::TimedOut { .. })));
    waiting.abort();
    eventually("our contender is gone", SOON, async || {
        kazoo.children(&mutex).await.is_ok_and(|children| children.len() == 1)
    })
    .await;
    assert_eq!(kazoo.release(busy).await, Ok(true));
    assert_eq!(kazoo.children(&path).await, Ok(Vec::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_of_each_never_exceed_the_limit() {
    const ROUNDS: usize = 15;
    const PERMITS: u32 = 3;
    let path = unique_path("mixed");
    let inside = Arc::new(AtomicI64::new(0));
    let enter = |inside: &AtomicI64| {
        assert!(inside.fetch_add(1, Ordering::SeqCst) < PERMITS.into(), "too many permits are held at once");
    };
    let mut workers = JoinSet::new();
    for _ in 0..2 {
        let kazoo = Arc::new(Kazoo::start(&shared().address()).await);
        for _ in 0..3 {
            let (kazoo, inside, path) = (kazoo.clone(), inside.clone(), path.clone());
            workers.spawn(async move {
                for _ in 0..ROUNDS {
                    let held = kazoo.acquire(&path, Kind::Semaphore, theirs(PERMITS)).await;
                    enter(&inside);
                    tokio::task::yield_now().await;
                    inside.fetch_sub(1, Ordering::SeqCst);
                    kazoo.release(held.expect("granted to kazoo")).await.expect("released");
                }
            });
        }
        let pool = connect().await.semaphore(&path, PERMITS).expect("a valid path");
        for _ in 0..3 {
            let (pool, inside) = (pool.clone(), inside.clone());
            workers.spawn(async move {
                for _ in 0..ROUNDS {
                    let permit = pool.acquire().await.expect("granted");
                    enter(&inside);
                    tokio::task::yield_now().await;
                    inside.fetch_sub(1, Ordering::SeqCst);
                    permit.release().await.expect("released");
                }
            });
        }
    }
    timeout(HANGING, workers.join_all()).await.expect("every worker should finish");
}
