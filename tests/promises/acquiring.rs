//! Acquiring a lock, waiting for it, and being refused.

use std::time::{Duration, Instant};

use lockkeeper::LeaseState;
use lockkeeper::error::{AcquireTimeoutError, TryAcquireError};
use lockkeeper::messages::LockEvent;
use tokio::sync::mpsc;

use crate::common::events::{acquired, listen, queued};
use crate::common::kinds::{AnyLock, Kind, Wait};
use crate::common::{LONG, SOON, caught_up, connect, connect_through, proxied, refusal};

promises! {
    every_kind:
        a_free_lock_is_granted,
        a_refusal_names_the_path,
        try_acquire_of_a_contended_lock_fails_and_writes_nothing,
        a_timed_out_acquire_leaves_neither_node_nor_watch;
    own_nodes:
        tokens_grow_from_holder_to_holder;
    [lock, write_lock, semaphore, multi_lock]:
        the_lock_is_not_reentrant;
    exclusive:
        requests_of_one_keeper_are_granted_in_request_order;
    in_order:
        locks_are_granted_in_request_order_across_keepers;
    // Not for semaphores: a lease has to be deleted before the next one can be created.
    queued:
        handles_of_one_keeper_hand_over_without_waiting_for_the_server;
}

async fn a_free_lock_is_granted(kind: Kind) {
    let (site, keeper) = (kind.site("free").await, connect().await);
    let lock = site.lock(&keeper);
    let guard = lock.acquire().await.expect("the lock is free");
    assert_eq!((guard.state(), guard.paths()), (LeaseState::Held, (kind.paths)(&site.path)));
    assert_eq!(site.nodes().await, guard.nodes());
    guard.release().await.expect("released");

    lock.try_acquire().await.expect("the lock is free").release().await.expect("released");
    lock.acquire_timeout(SOON).await.expect("the lock is free").release().await.expect("released");
    let at_once = lock.acquire_timeout(Duration::ZERO).await;
    at_once.expect("a timeout of zero tries once").release().await.expect("released");
    let unlimited = lock.acquire_timeout(Duration::MAX).await;
    unlimited.expect("an unrepresentable timeout counts as none").release().await.expect("released");
}

async fn try_acquire_of_a_contended_lock_fails_and_writes_nothing(kind: Kind) {
    let (site, keeper, other) = (kind.site("try").await, connect().await, connect().await);
    let _guard = site.rival(&keeper).acquire().await.expect("the lock is free");
    // Both change whenever a child is created or deleted.
    let written = async || {
        let mut counts = Vec::new();
        for directory in site.directories() {
            counts.push(site.server.stat(&directory).await.map(|stat| (stat.cversion, stat.pzxid)));
        }
        counts
    };
    caught_up(&other).await;
    let before = written().await;
    for keeper in [&keeper, &other] {
        let lock = site.lock(keeper);
        assert!(matches!(refusal(lock.try_acquire().await), TryAcquireError::Contended { .. }));
        let at_once = lock.acquire_timeout(Duration::ZERO).await;
        assert!(matches!(refusal(at_once), AcquireTimeoutError::TimedOut { .. }));
    }
    assert_eq!(written().await, before);
}

async fn a_timed_out_acquire_leaves_neither_node_nor_watch(kind: Kind) {
    let (site, keeper, other) = (kind.site("timeout").await, connect().await, connect().await);
    let guard = site.rival(&keeper).acquire().await.expect("the lock is free");
    for keeper in [&keeper, &other] {
        let begun = Instant::now();
        // Without a handle the actor would end, and its watches with it.
        let lock = site.lock(keeper);
        let acquire = lock.acquire_timeout(Duration::from_millis(300));
        assert!(matches!(refusal(acquire.await), AcquireTimeoutError::TimedOut { .. }));
        assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
        site.until_only(&[&guard]).await;
        site.until_unwatched().await;
    }
}

async fn a_refusal_names_the_path(kind: Kind) {
    let (site, keeper) = (kind.site("refused").await, connect().await);
    let _guard = site.rival(&keeper).acquire().await.expect("the lock is free");
    let lock = site.lock(&keeper);
    let contended = refusal(lock.try_acquire().await).to_string();
    let late = refusal(lock.acquire_timeout(Duration::from_millis(1)).await).to_string();
    for error in [contended, late] {
        for path in (kind.paths)(&site.path) {
            assert!(error.contains(&path), "{error}");
        }
    }
}

async fn tokens_grow_from_holder_to_holder(kind: Kind) {
    let (site, keeper, other) = (kind.site("tokens").await, connect().await, connect().await);
    let mut tokens = Vec::new();
    for _ in 0..2 {
        for lock in [site.rival(&keeper), site.lock(&keeper), site.rival(&other), site.lock(&other)] {
            let guard = lock.acquire().await.expect("the lock is free");
            tokens.push(guard.token());
            // The next acquire works without waiting for the confirmation.
            drop(guard);
        }
    }
    assert!(tokens.is_sorted_by(|earlier, later| earlier < later), "{tokens:?}");
}

async fn the_lock_is_not_reentrant(kind: Kind) {
    let (site, keeper) = (kind.site("reentrant").await, connect().await);
    let lock = site.lock(&keeper);
    let first = lock.acquire().await.expect("the lock is free");
    assert!(matches!(refusal(lock.try_acquire().await), TryAcquireError::Contended { .. }));
    let refused = lock.acquire_timeout(Duration::from_millis(100)).await;
    assert!(matches!(refusal(refused), AcquireTimeoutError::TimedOut { .. }));

    let (_, mut events) = listen(&lock);
    assert_eq!(queued(&mut events).await, (kind.ahead)(1, 0));
    assert!(events.try_recv().is_err(), "it waits while the first guard is held");
    site.until_nodes(2).await;
    let token = first.token();
    drop(first);
    assert!(acquired(&mut events).await.token() > token);
}

async fn locks_are_granted_in_request_order_across_keepers(kind: Kind) {
    let (site, keepers) = (kind.site("order").await, [connect().await, connect().await]);
    let locks = keepers.each_ref().map(|keeper| site.lock(keeper));
    let tokens = granted_in_request_order(&locks).await;
    assert!(tokens.is_sorted_by(|earlier, later| earlier < later), "{tokens:?}");
}

async fn requests_of_one_keeper_are_granted_in_request_order(kind: Kind) {
    let (site, keeper) = (kind.site("local-order").await, connect().await);
    let tokens = granted_in_request_order(&[site.lock(&keeper)]).await;
    // Permits granted in the same turn of a semaphore share a token.
    assert!(tokens.is_sorted(), "{tokens:?}");
}

async fn granted_in_request_order(locks: &[AnyLock]) -> Vec<lockkeeper::FencingToken> {
    let (sender, mut granted) = mpsc::unbounded_channel();
    for number in 0..6 {
        let (sender, (sender_of_events, mut first_event)) = (sender.clone(), mpsc::unbounded_channel());
        let on_event = move |event| {
            let _ = sender_of_events.send(());
            if let LockEvent::Acquired { guard, .. } = event {
                let _ = sender.send((number, guard));
            }
        };
        locks[number % locks.len()].listen(Wait::Forever, Box::new(on_event));
        first_event.recv().await.expect("it is queued, or granted");
    }
    let mut tokens = Vec::new();
    for expected in 0..6 {
        let (number, guard) = granted.recv().await.expect("a grant");
        assert_eq!(number, expected);
        tokens.push(guard.token());
    }
    tokens
}

async fn handles_of_one_keeper_hand_over_without_waiting_for_the_server(kind: Kind) {
    let (site, proxy) = (kind.site("hand-over").await, proxied().await);
    let keeper = connect_through(&proxy, LONG).await;
    let guard = site.rival(&keeper).acquire().await.expect("the lock is free");
    let (_, mut second) = listen(&site.lock(&keeper));
    assert_eq!(queued(&mut second).await, 1);
    let (_, mut third) = listen(&site.rival(&keeper));
    assert_eq!(queued(&mut third).await, 2);

    proxy.hold_replies(true);
    drop(guard);
    let guard = acquired(&mut second).await;
    assert_eq!(guard.state(), LeaseState::Held);
    assert!(third.try_recv().is_err(), "it is not granted yet");
    drop(guard);
    assert_eq!(acquired(&mut third).await.state(), LeaseState::Held);
    proxy.hold_replies(false);
    site.until_only(&[]).await;
}
