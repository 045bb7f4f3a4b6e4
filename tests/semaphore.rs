//! What only semaphores have: several holders at once, requests for several permits, limits.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use common::{Proxy, TestServer, caught_up, eventually, proxied, shared, unique_path};
use futures::{FutureExt, StreamExt};
use lockkeeper::auth::{Acl, AuthId, Permission};
use lockkeeper::error::{
    AcquireError, AcquireTimeoutError, InvalidHandle, PermitsError, QueryError, ResizeError, TryAcquireError,
};
use lockkeeper::session::SessionEvent;
use lockkeeper::{Keeper, LeaseState, LockOptions, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(10);
/// A time limit for a lot of work on a busy machine.
const LATE: Duration = Duration::from_secs(300);

async fn connect(address: &str) -> Keeper {
    (Keeper::options().session_timeout(Duration::from_secs(10)).identifier("ours").connect(address).await)
        .expect("should connect")
}

async fn semaphore(path: &str, permits: u32) -> Semaphore {
    connect(&shared().address()).await.semaphore(path, permits).expect("a path and a number")
}

/// Waits until there are this many leases.
async fn leased(semaphore: &Semaphore, count: usize) {
    eventually("there are that many leases", SOON, async || {
        semaphore.lease_holders().await.is_ok_and(|holders| holders.len() == count)
    })
    .await;
}

#[tokio::test]
async fn as_many_hold_as_there_are_permits_across_processes() {
    let path = unique_path("permits");
    let (one, two) = (semaphore(&path, 3).await, semaphore(&path, 3).await);
    let first = one.acquire().await.expect("free");
    let second = two.acquire().await.expect("free");
    let third = one.try_acquire().await.expect("free");
    assert_eq!(first.state(), LeaseState::Held);
    for handle in [&one, &two] {
        assert!(matches!(handle.try_acquire().await.err(), Some(TryAcquireError::Contended { .. })));
        let late = handle.acquire_timeout(Duration::from_millis(100)).await;
        assert!(matches!(late.err(), Some(AcquireTimeoutError::TimedOut { .. })));
    }
    let waiting = tokio::spawn(two.acquire());
    first.release().await.expect("released");
    let fourth = timeout(SOON, waiting).await.expect("granted in time").expect("no panic").expect("granted");
    leased(&one, 3).await;
    for permit in [second, third, fourth] {
        permit.release().await.expect("released");
    }
    leased(&one, 0).await;
}

#[tokio::test]
async fn many_permits_are_taken_together_or_not_at_all() {
    let path = unique_path("many");
    let pool = semaphore(&path, 4).await;
    let three = pool.acquire_many(3).await.expect("free");
    assert_eq!((three.count(), three.nodes().len()), (3, 3));
    assert!(matches!(pool.try_acquire_many(2).await.err(), Some(TryAcquireError::Contended { .. })));
    leased(&pool, 3).await;
    let one = pool.try_acquire().await.expect("one is free");
    let waiting = tokio::spawn(pool.acquire_many(2));
    one.release().await.expect("released");
    // One permit is free, two are requested, and no later request may overtake.
    eventually("the first in the queue keeps the free permit", SOON, async || {
        matches!(pool.try_acquire().await.err(), Some(TryAcquireError::Contended { .. }))
    })
    .await;
    assert!(!waiting.is_finished());
    three.release().await.expect("released");
    let two = timeout(SOON, waiting).await.expect("granted in time").expect("no panic").expect("granted");
    leased(&pool, 2).await;
    two.release().await.expect("released");
}

#[tokio::test]
async fn requests_that_can_never_be_served_are_refused_before_anything_is_written() {
    let path = unique_path("never");
    let pool = semaphore(&path, 2).await;
    let error = pool.acquire_many(3).await.expect_err("more than there are");
    assert_eq!(
        error,
        AcquireError::Permits(PermitsError::TooMany { path: path.clone(), count: 3, limit: 2 })
    );
    assert_eq!(
        pool.acquire_many(0).await.err(),
        Some(AcquireError::Permits(PermitsError::None { path: path.clone() }))
    );
    // It does not depend on a session.
    assert_eq!(pool.resize(0).now_or_never(), Some(Err(ResizeError::NoPermits)));
    let keeper = connect(&shared().address()).await;
    assert!(keeper.semaphore(&path, 0).is_err());
    assert!(keeper.semaphore("no-slash", 1).is_err());
    let stored = keeper.semaphore_stored(&path).expect("a valid path");
    assert_eq!(
        stored.acquire().await.err(),
        Some(AcquireError::Permits(PermitsError::NoLimit { path: path.clone() }))
    );
    assert_eq!(stored.lease_holders().await.expect("connected"), []);
}

#[tokio::test]
async fn a_handle_with_a_different_limit_fails_and_one_without_uses_the_stored_limit() {
    let path = unique_path("mismatch");
    let pool = semaphore(&path, 2).await;
    let permit = pool.acquire().await.expect("free");
    let other = semaphore(&path, 3).await;
    let mismatch =
        AcquireError::Permits(PermitsError::LimitMismatch { path: path.clone(), stored: 2, given: 3 });
    for _ in 0..2 {
        assert_eq!(other.acquire().await.err(), Some(mismatch.clone()));
        assert_eq!(other.try_acquire().await.err(), Some(TryAcquireError::Failed(mismatch.clone())));
    }
    let stored = connect(&shared().address()).await.semaphore_stored(&path).expect("a valid path");
    let second = stored.acquire().await.expect("the second of two");
    assert!(matches!(stored.try_acquire().await.err(), Some(TryAcquireError::Contended { .. })));
    drop((permit, second));
    leased(&pool, 0).await;
    let keeper = connect(&shared().address()).await;
    let named = keeper.semaphore_stored_with(&path, LockOptions::new().identifier("a worker"));
    let third = named.expect("valid options").acquire().await.expect("free");
    leased(&pool, 1).await;
    assert_eq!(pool.lease_holders().await.expect("connected")[0].identifier, "a worker");
    let refused = keeper.semaphore_stored_with(&path, LockOptions::new().ephemeral(false));
    assert!(matches!(refused, Err(InvalidHandle::NotForSemaphores { .. })), "{refused:?}");
    drop(third);
    leased(&pool, 0).await;
}

#[tokio::test]
async fn a_raised_limit_applies_at_once() {
    let path = unique_path("raised");
    let (keeper, other) = (connect(&shared().address()).await, semaphore(&path, 1).await);
    let pool = keeper.semaphore(&path, 1).expect("a valid path");
    pool.acquire().await.expect("free").release().await.expect("released");
    other.resize(2).await.expect("connected");
    let both =
        timeout(SOON, pool.acquire_many(2)).await.expect("no other contender").expect("two permits are free");
    other.resize(3).await.expect("connected");
    caught_up(&keeper).await;
    let third = pool.try_acquire().await.expect("a third permit is free");
    drop((both, third));
    leased(&pool, 0).await;
}

#[tokio::test]
async fn a_resize_wakes_waiters_and_revokes_nothing() {
    let path = unique_path("resize");
    let (pool, keeper) = (semaphore(&path, 1).await, connect(&shared().address()).await);
    let other = keeper.semaphore(&path, 1).expect("a valid path");
    let first = pool.acquire().await.expect("free");
    let waiting = [tokio::spawn(other.acquire()), tokio::spawn(pool.acquire())];
    let waited = async || {
        let before = matches!(other.try_acquire().await.err(), Some(TryAcquireError::Contended { .. }));
        before && waiting.iter().all(|task| !task.is_finished())
    };
    eventually("two wait", SOON, waited).await;
    pool.resize(3).await.expect("connected");
    let mut permits = vec![first];
    for task in waiting {
        permits.push(timeout(SOON, task).await.expect("woken").expect("no panic").expect("granted"));
    }
    other.resize(1).await.expect("connected");
    assert!(permits.iter().all(|permit| permit.state() == LeaseState::Held));
    permits.pop().expect("three").release().await.expect("released");
    permits.pop().expect("two").release().await.expect("released");
    assert!(
        matches!(pool.try_acquire().await.err(), Some(TryAcquireError::Contended { .. })),
        "one is still held"
    );
    let many = pool.acquire_many(2).await.expect_err("more than there are now");
    assert_eq!(many, AcquireError::Permits(PermitsError::TooMany { path: path.clone(), count: 2, limit: 1 }));
    permits.pop().expect("one").release().await.expect("released");
    caught_up(&keeper).await;
    let again = other.try_acquire().await.expect("free");
    again.release().await.expect("released");
}

#[tokio::test]
async fn a_handle_whose_resize_got_no_answer_follows_the_stored_number() {
    let (proxy, path) = (proxied().await, unique_path("unanswered"));
    let other = semaphore(&path, 2).await;
    other.acquire().await.expect("free").release().await.expect("released");
    let pool = connect(&proxy.address()).await.semaphore(&path, 2).expect("a valid path");
    proxy.drop_replies_then_cut();
    let resizing = tokio::spawn({
        let pool = pool.clone();
        async move { pool.resize(5).await }
    });
    eventually("it is carried out", SOON, async || other.limit().await == Ok(Some(5))).await;
    proxy.cut();
    let answer = timeout(SOON, resizing).await.expect("an answer").expect("no panic");
    assert!(matches!(answer, Err(ResizeError::Failed(QueryError::Unanswered { .. }))), "{answer:?}");
    let all = timeout(SOON, pool.acquire_many(5)).await.expect("an answer").expect("it follows the number");
    assert_eq!(all.count(), 5);
}

#[tokio::test]
async fn a_request_queued_before_a_resize_is_not_refused_for_its_limit() {
    let server = TestServer::start();
    let path = unique_path("number");
    let pool = connect(&server.address()).await.semaphore(&path, 1).expect("a valid path");
    let other = connect(&server.address()).await.semaphore(&path, 1).expect("a valid path");
    let first = pool.acquire().await.expect("free");
    let ahead = tokio::spawn(other.acquire());
    eventually("it is first in the queue and waits for permits", SOON, async || {
        server.mntr("zk_watch_count") == 2
    })
    .await;
    let mut behind = Box::pin(other.acquire());
    assert!((&mut behind).now_or_never().is_none(), "it waits for the first one");
    let contended = other.try_acquire().await.err();
    assert!(matches!(contended, Some(TryAcquireError::Contended { .. })), "both are queued: {contended:?}");
    pool.resize(3).await.expect("connected");
    let second = timeout(SOON, ahead).await.expect("woken").expect("no panic").expect("granted");
    let third = timeout(SOON, behind).await.expect("woken").expect("granted");
    drop((first, second, third));
    leased(&pool, 0).await;
}

#[tokio::test]
async fn the_next_request_is_served_when_a_large_one_is_cancelled_before_the_root_is_read() {
    let server = TestServer::start();
    let proxy = Proxy::start(server.one_address()).await.expect("a free port");
    let path = unique_path("next");
    let pool = connect(&server.address()).await.semaphore(&path, 2).expect("a valid path");
    let (elsewhere, slow) = (connect(&server.address()).await, connect(&proxy.address()).await);
    let permit = pool.acquire().await.expect("free");
    let ahead = tokio::spawn(elsewhere.semaphore(&path, 2).expect("a valid path").acquire_many(2));
    eventually("it is first in the queue and waits for permits", SOON, async || {
        server.mntr("zk_watch_count") == 2
    })
    .await;
    let next = slow.semaphore(&path, 2).expect("a valid path");
    let large = tokio::spawn(next.acquire_many(2));
    eventually("another session is queued behind it", SOON, async || server.mntr("zk_watch_count") == 3)
        .await;
    let small = tokio::spawn(next.acquire());
    proxy.delay(Duration::from_millis(500));
    elsewhere.close().await;
    drop(ahead.await);
    // Two watches are left. One is on the leases. The reply that sets the other, on the root, is still delayed.
    eventually("the large request waits for permits", SOON, async || server.mntr("zk_watch_count") == 2)
        .await;
    large.abort();
    proxy.delay(Duration::ZERO);
    let small = timeout(SOON, small).await.expect("one is free").expect("no panic").expect("granted");
    drop((permit, small));
    leased(&pool, 0).await;
}

#[tokio::test]
async fn a_cancel_at_any_moment_leaves_no_lease() {
    let server = TestServer::start();
    let path = unique_path("cancel");
    let pool = connect(&server.address()).await.semaphore(&path, 2).expect("a valid path");
    for delay in 0..40 {
        let task = tokio::spawn(pool.acquire_many(2));
        // The delay varies the stage of the request that is cancelled.
        tokio::time::sleep(Duration::from_micros(delay * 100)).await;
        task.abort();
        drop(task.await);
    }
    leased(&pool, 0).await;
    let both = timeout(SOON, pool.acquire_many(2)).await.expect("nothing is left").expect("granted");
    both.release().await.expect("released");
    eventually("no watch is left", SOON, async || server.mntr("zk_watch_count") == 0).await;
}

#[tokio::test]
async fn only_one_process_watches_the_leases_however_many_wait() {
    let server = TestServer::start();
    let path = unique_path("watches");
    let mut waiting = JoinSet::new();
    let pool = connect(&server.address()).await.semaphore(&path, 1).expect("a valid path");
    let permit = pool.acquire().await.expect("free");
    for _ in 0..4 {
        let process = connect(&server.address()).await.semaphore(&path, 1).expect("a valid path");
        for _ in 0..5 {
            waiting.spawn(process.acquire());
        }
    }
    // The first process watches the leases and the limit; each of the others watches its predecessor.
    eventually("all requests wait", SOON, async || server.mntr("zk_watch_count") == 2 + 3).await;
    permit.release().await.expect("released");
    while let Some(done) = timeout(SOON, waiting.join_next()).await.expect("every request should be granted")
    {
        drop(done.expect("no panic").expect("granted"));
    }
    leased(&pool, 0).await;
    eventually("no watch is left", SOON, async || server.mntr("zk_watch_count") == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_holds_of_one_permit() {
    random_holds(1, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_holds_of_three_permits() {
    random_holds(3, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_holds_of_eight_permits() {
    random_holds(8, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_holds_of_three_permits_with_resizes() {
    random_holds(3, true).await;
}

/// A hundred contenders in four sessions, some of which give up.
async fn random_holds(permits: u32, resized: bool) {
    let server = TestServer::start();
    let path = unique_path("random");
    let inside = Arc::new(AtomicI64::new(0));
    // Permits taken under the higher limit remain valid when it is lowered again.
    let most = i64::from(permits) * if resized { 2 } else { 1 };
    let mut pools = Vec::new();
    for _ in 0..4 {
        let pool = connect(&server.address()).await.semaphore(&path, permits).expect("a valid path");
        // After this the handle follows the stored limit.
        pool.acquire().await.expect("free").release().await.expect("released");
        pools.push(pool);
    }
    let mut workers = JoinSet::new();
    for worker in 0..100_u64 {
        let (pool, inside) = (pools[worker as usize % 4].clone(), inside.clone());
        workers.spawn(async move {
            let mut seed = worker * 2 + 1;
            for _ in 0..4 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let random = seed >> 33;
                let many = 1 + (random % u64::from(permits)) as u32;
                let permit = match random % 5 {
                    0 => pool.acquire_many_timeout(many, Duration::from_millis(random % 50)).await.ok(),
                    1 => pool.try_acquire().await.ok(),
                    _ => Some(pool.acquire_many(many).await.expect("granted")),
                };
                let Some(permit) = permit else { continue };
                let count = permit.count() as i64;
                let now = inside.fetch_add(count, Ordering::SeqCst) + count;
                assert!(now <= most, "{now} permits of {permits} are held at once");
                // Simulated work under the permit.
                tokio::time::sleep(Duration::from_micros(random % 2000)).await;
                inside.fetch_sub(count, Ordering::SeqCst);
                drop(permit);
            }
        });
    }
    let all = timeout(LATE, workers.join_all());
    let resizes = async {
        for number in (0..20).map(|round| if round % 2 == 0 { 2 * permits } else { permits }) {
            if resized {
                pools[0].resize(number).await.expect("connected");
                // Spreads the resizes over the run.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    };
    tokio::join!(all, resizes).0.expect("every worker should finish");
    leased(&pools[0], 0).await;
    eventually("no watch is left", SOON, async || server.mntr("zk_watch_count") == 0).await;
}

#[tokio::test]
async fn the_size_of_a_request_includes_the_chroot() {
    let chroot = format!("/{}", "x".repeat(2000));
    for (below, fits) in [("", true), (chroot.as_str(), false)] {
        let keeper = connect(&format!("{}{below}", shared().address())).await;
        let pool = keeper.semaphore(&unique_path("long"), 600).expect("a valid path");
        match timeout(SOON, pool.acquire_many(600)).await.expect("an answer") {
            Err(AcquireError::Rejected { reason, .. }) => {
                assert!(!fits && reason.to_string().contains("1 MiB"), "{reason}");
            }
            other => assert!(fits && other.is_ok(), "{other:?}"),
        }
    }
}

/// A server closes a connection on which a request exceeds 1 MiB.
#[tokio::test]
async fn leases_that_do_not_fit_into_one_request_are_created_in_several_or_refused() {
    let server = TestServer::start();
    // A busy machine must not suspend it, because that is what a closed connection would do.
    let patient = Keeper::options().session_timeout(Duration::from_secs(60));
    let keeper = patient.connect(&server.address()).await.expect("should connect");
    let mut events = keeper.events();
    let large = LockOptions::new().identifier("x".repeat(400 * 1024));
    let pool = keeper.semaphore_with(&unique_path("large"), 4, large).expect("a valid path");
    let mut all = JoinSet::new();
    for _ in 0..4 {
        all.spawn(pool.acquire());
    }
    let mut permits = Vec::new();
    while let Some(done) = timeout(SOON, all.join_next()).await.expect("every request should be granted") {
        permits.push(done.expect("no panic").expect("granted"));
    }
    let never = pool.acquire_many(3).await.expect_err("more than 1 MiB");
    assert!(
        matches!(&never, AcquireError::Rejected { reason, .. } if reason.to_string().contains("1 MiB")),
        "{never}"
    );
    let many = keeper.semaphore(&unique_path("many"), 20_000).expect("a valid path");
    let never = many.acquire_many(12_000).await.expect_err("more than 1 MiB");
    assert!(
        matches!(&never, AcquireError::Rejected { reason, .. } if reason.to_string().contains("1 MiB")),
        "{never}"
    );
    keeper.close().await;
    let mut seen = Vec::new();
    while let Some(event) = events.next().await {
        seen.push(event);
    }
    let trouble = |event: &SessionEvent| matches!(event, SessionEvent::Suspended { .. });
    assert!(!seen.iter().any(trouble), "the session was suspended: {seen:?}");
}

#[tokio::test]
async fn an_access_list_that_is_refused_harms_only_the_requests_that_have_it() {
    let path = unique_path("invalid-list");
    let keeper = connect(&shared().address()).await;
    let valid = keeper.semaphore(&path, 4).expect("a valid path");
    // The client has no credentials.
    let own = LockOptions::new().acl(vec![Acl::new(Permission::ALL, AuthId::authed())]);
    let invalid = keeper.semaphore_with(&path, 4, own).expect("a valid path");
    // In the first round, the directory and the root are missing, too.
    for round in 0..2 {
        let (first, refused, second) =
            timeout(SOON, async { tokio::join!(invalid.acquire(), invalid.acquire(), valid.acquire()) })
                .await
                .expect("answers");
        for refused in [first.err(), refused.err()] {
            assert!(matches!(refused, Some(AcquireError::Rejected { .. })), "round {round}: {refused:?}");
        }
        let third =
            timeout(SOON, async { tokio::join!(valid.acquire(), invalid.acquire(), valid.acquire()) });
        let (third, refused, fourth) = third.await.expect("answers");
        assert!(matches!(refused.err(), Some(AcquireError::Rejected { .. })), "round {round}");
        for granted in [second, third, fourth] {
            granted.expect("there are enough permits").release().await.expect("released");
        }
    }
}
