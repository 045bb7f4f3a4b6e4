//! Getting a lock, waiting for it, and not getting it.

use std::time::{Duration, Instant};

use lockkeeper::{AcquireTimeoutError, LeaseState, LockEvent, TryAcquireError};
use tokio::sync::mpsc;

use crate::common::hearing::{acquired, listen, queued};
use crate::common::kinds::{AnyLock, Kind, Wait};
use crate::common::{LONG, SOON, connect, connect_through, proxied, refusal};

promises! {
    every_kind:
        a_free_lock_is_granted,
        who_is_refused_learns_of_which_path,
        a_try_at_a_contended_lock_answers_contended_and_writes_nothing,
        an_acquire_with_a_timeout_answers_timed_out_and_leaves_neither_node_nor_watch,
        tokens_grow_from_holder_to_holder;
    exclusive:
        the_lock_is_not_reentrant,
        requests_of_one_keeper_are_granted_in_the_order_of_asking;
    in_order:
        locks_are_granted_in_the_order_of_asking_across_keepers;
    // A lease has to be deleted before the next one may be made.
    queued:
        handles_of_one_keeper_hand_over_without_waiting_for_the_server;
}

async fn a_free_lock_is_granted(kind: Kind) {
    let (site, keeper) = (kind.site("free").await, connect().await);
    let lock = site.lock(&keeper);
    let guard = lock.acquire().await.expect("a free lock");
    assert_eq!((guard.state(), guard.paths()), (LeaseState::Held, (kind.paths)(&site.path)));
    assert_eq!(site.nodes().await, guard.nodes());
    guard.release().await.expect("a release");

    lock.try_acquire().await.expect("a free lock").release().await.expect("a release");
    lock.acquire_timeout(SOON).await.expect("a free lock").release().await.expect("a release");
    let at_once = lock.acquire_timeout(Duration::ZERO).await;
    at_once.expect("a timeout of zero is one try").release().await.expect("a release");
    let some_day = lock.acquire_timeout(Duration::MAX).await;
    some_day.expect("a timeout too long to be counted is none").release().await.expect("a release");
}

async fn a_try_at_a_contended_lock_answers_contended_and_writes_nothing(kind: Kind) {
    let (site, keeper, other) = (kind.site("try").await, connect().await, connect().await);
    let _guard = site.rival(&keeper).acquire().await.expect("a free lock");
    // Both count every child that was ever made or deleted.
    let written = async || {
        let mut counts = Vec::new();
        for directory in site.directories() {
            counts.push(site.server.stat(&directory).await.map(|stat| (stat.cversion, stat.pzxid)));
        }
        counts
    };
    let before = written().await;
    for keeper in [&keeper, &other] {
        let lock = site.lock(keeper);
        assert!(matches!(refusal(lock.try_acquire().await), TryAcquireError::Contended { .. }));
        let at_once = lock.acquire_timeout(Duration::ZERO).await;
        assert!(matches!(refusal(at_once), AcquireTimeoutError::TimedOut { .. }));
    }
    assert_eq!(written().await, before);
}

async fn an_acquire_with_a_timeout_answers_timed_out_and_leaves_neither_node_nor_watch(kind: Kind) {
    let (site, keeper, other) = (kind.site("timeout").await, connect().await, connect().await);
    let guard = site.rival(&keeper).acquire().await.expect("a free lock");
    for keeper in [&keeper, &other] {
        let begun = Instant::now();
        // An actor without handles ends, and its watches with it.
        let lock = site.lock(keeper);
        let acquire = lock.acquire_timeout(Duration::from_millis(300));
        assert!(matches!(refusal(acquire.await), AcquireTimeoutError::TimedOut { .. }));
        assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
        site.until_only(&[&guard]).await;
        site.until_unwatched().await;
    }
}

async fn who_is_refused_learns_of_which_path(kind: Kind) {
    let (site, keeper) = (kind.site("refused").await, connect().await);
    let _guard = site.rival(&keeper).acquire().await.expect("a free lock");
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
            let guard = lock.acquire().await.expect("a free lock");
            tokens.push(guard.token());
            // The next one need not wait until it is confirmed.
            drop(guard);
        }
    }
    assert!(tokens.is_sorted_by(|earlier, later| earlier < later), "{tokens:?}");
}

async fn the_lock_is_not_reentrant(kind: Kind) {
    let (site, keeper) = (kind.site("reentrant").await, connect().await);
    let lock = site.lock(&keeper);
    let first = lock.acquire().await.expect("a free lock");
    assert!(matches!(refusal(lock.try_acquire().await), TryAcquireError::Contended { .. }));
    let in_vain = lock.acquire_timeout(Duration::from_millis(100)).await;
    assert!(matches!(refusal(in_vain), AcquireTimeoutError::TimedOut { .. }));

    let (_, mut events) = listen(&lock);
    assert_eq!(queued(&mut events).await, (kind.ahead)(1, 0));
    assert!(events.try_recv().is_err(), "it waits as long as the first guard is there");
    site.until_nodes(2).await;
    let token = first.token();
    drop(first);
    assert!(acquired(&mut events).await.token() > token);
}

async fn locks_are_granted_in_the_order_of_asking_across_keepers(kind: Kind) {
    let (site, keepers) = (kind.site("order").await, [connect().await, connect().await]);
    let locks = keepers.each_ref().map(|keeper| site.lock(keeper));
    let tokens = granted_in_the_order_of_asking(&locks).await;
    assert!(tokens.is_sorted_by(|earlier, later| earlier < later), "{tokens:?}");
}

async fn requests_of_one_keeper_are_granted_in_the_order_of_asking(kind: Kind) {
    let (site, keeper) = (kind.site("local-order").await, connect().await);
    let tokens = granted_in_the_order_of_asking(&[site.lock(&keeper)]).await;
    // Whoever is served in one turn of a semaphore shares its token.
    assert!(tokens.is_sorted(), "{tokens:?}");
}

async fn granted_in_the_order_of_asking(locks: &[AnyLock]) -> Vec<lockkeeper::FencingToken> {
    let (sender, mut granted) = mpsc::unbounded_channel();
    for number in 0..6 {
        let (sender, (heard, mut standing)) = (sender.clone(), mpsc::unbounded_channel());
        let hear = move |event| {
            let _ = heard.send(());
            if let LockEvent::Acquired { guard, .. } = event {
                let _ = sender.send((number, guard));
            }
        };
        locks[number % locks.len()].listen(Wait::Forever, Box::new(hear));
        standing.recv().await.expect("it is queued, or granted");
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
    let guard = site.rival(&keeper).acquire().await.expect("a free lock");
    let (_, mut second) = listen(&site.lock(&keeper));
    assert_eq!(queued(&mut second).await, 1);
    let (_, mut third) = listen(&site.rival(&keeper));
    assert_eq!(queued(&mut third).await, 2);

    proxy.hold_replies(true);
    drop(guard);
    let guard = acquired(&mut second).await;
    assert_eq!(guard.state(), LeaseState::Held);
    assert!(third.try_recv().is_err(), "it is not its turn yet");
    drop(guard);
    assert_eq!(acquired(&mut third).await.state(), LeaseState::Held);
    proxy.hold_replies(false);
    site.until_only(&[]).await;
}
