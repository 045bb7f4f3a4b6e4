//! Sessions that end, and nodes and directories that other clients delete.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use futures::FutureExt;
use lockkeeper::LeaseState;
use lockkeeper::error::{LostError, ReleaseError};
use lockkeeper::messages::LockEvent;
use lockkeeper::session::SessionEvent;
use tokio::time::timeout;

use crate::common::events::{acquired, granted, listen, lost, queued, session_event};
use crate::common::kinds::Kind;
use crate::common::{BRISK, SHORT, SOON, connect, connect_for, connect_through, eventually, proxied};

promises! {
    every_kind:
        a_waiter_whose_session_is_lost_queues_again_at_the_tail_and_is_granted,
        a_disconnected_holder_is_suspended_and_then_lost_before_another_is_granted,
        a_holder_whose_node_is_deleted_is_lost_at_the_next_heartbeat,
        a_waiter_whose_node_is_deleted_queues_again,
        a_waiter_whose_node_is_deleted_together_with_the_holders_queues_again,
        protected_work_ends_with_the_lease;
    own_nodes:
        a_deleted_directory_is_recreated_and_tokens_keep_growing;
    [lock, multi_lock]:
        work_that_is_done_when_the_lease_has_ended_counts_as_unknown;
}

async fn a_waiter_whose_session_is_lost_queues_again_at_the_tail_and_is_granted(kind: Kind) {
    let (site, keeper, proxy) = (kind.site("waiter-lost").await, connect().await, proxied().await);
    let cut_off = connect_through(&proxy, SHORT).await;
    let mut session = cut_off.events();
    let guard = site.rival(&keeper).acquire().await.expect("the lock is free");
    let (_, mut waiter) = listen(&site.lock(&cut_off));
    assert_eq!(queued(&mut waiter).await, (kind.ahead)(1, 0));
    let (_, mut later) = listen(&site.rival(&keeper));
    queued(&mut later).await;

    proxy.black_hole(true);
    session_event(&mut session, SessionEvent::Lost { epoch: 1 }).await;
    proxy.black_hole(false);
    let ahead = queued(&mut waiter).await;
    assert!(ahead > (kind.ahead)(1, 0), "the later request should now be ahead: {ahead}");
    drop(guard);
    let guard = acquired(&mut later).await;
    // On a busy machine it may lose its session once more.
    while let Ok(event) = waiter.try_recv() {
        assert!(matches!(event, LockEvent::Enqueued { .. }), "it is not granted yet: {event:?}");
    }
    drop(guard);
    assert_eq!(granted(&mut waiter).await.state(), LeaseState::Held);
}

async fn a_disconnected_holder_is_suspended_and_then_lost_before_another_is_granted(kind: Kind) {
    let (site, keeper, proxy) = (kind.site("holder-lost").await, connect().await, proxied().await);
    let cut_off = connect_through(&proxy, SHORT).await;
    let (ticket, mut events) = listen(&site.lock(&cut_off));
    let guard = acquired(&mut events).await;
    let (_, mut waiter) = listen(&site.rival(&keeper));
    queued(&mut waiter).await;

    proxy.black_hole(true);
    eventually("it is not held", SOON, async || guard.state() != LeaseState::Held).await;
    let until = guard.valid_until().expect("the end of the lease");
    // A busy machine may see only the end of the suspension.
    let early = !waiter.is_empty();
    assert!(!early || guard.state() == LeaseState::Lost, "no other client can hold it yet");

    let other = acquired(&mut waiter).await;
    let granted = Instant::now();
    assert_eq!(guard.state(), LeaseState::Lost);
    assert!(until < granted, "granted {:?} before the lease ended", until - granted);
    assert!(other.token() > guard.token());
    timeout(SOON, guard.lost()).await.expect("it is already lost");
    let mut received = Vec::new();
    while let Some(event) = events.recv().await {
        received.push(event);
    }
    let [.., LockEvent::Suspended(first), LockEvent::Lost(last)] = &received[..] else {
        panic!("{received:?}")
    };
    assert_eq!((*first, *last), (ticket, ticket));

    proxy.black_hole(false);
    assert_eq!(guard.state(), LeaseState::Lost, "lost is final");
    assert_eq!(guard.release().await, Err(ReleaseError::Lost));
    drop(other);
    drop(site.lock(&cut_off).acquire().await.expect("acquired in the next session"));
}

async fn a_holder_whose_node_is_deleted_is_lost_at_the_next_heartbeat(kind: Kind) {
    let (site, keeper) = (kind.site("holder-deleted").await, connect_for(BRISK).await);
    let lock = site.lock(&keeper);
    let (ticket, mut events) = listen(&lock);
    let guard = acquired(&mut events).await;
    site.server.delete(&guard.node()).await;
    timeout(SOON, guard.lost()).await.expect("a heartbeat notices it");
    assert_eq!(guard.state(), LeaseState::Lost);
    assert_eq!(lost(&mut events).await, ticket);
    // Otherwise the session is intact.
    assert_eq!(guard.release().await, Err(ReleaseError::Lost));
    drop(lock.acquire_timeout(SOON).await.expect("the lock is free"));
    site.until_only(&[]).await;
}

async fn a_waiter_whose_node_is_deleted_queues_again(kind: Kind) {
    let (site, keeper, other) =
        (kind.site("waiter-deleted").await, connect().await, connect_for(BRISK).await);
    let guard = site.rival(&keeper).acquire().await.expect("the lock is free");
    let (_, mut waiter) = listen(&site.lock(&other));
    assert_eq!(queued(&mut waiter).await, (kind.ahead)(1, 0));
    let mut deleted = site.nodes().await;
    deleted.retain(|node| !guard.nodes().contains(node));
    site.delete_together(&deleted).await;
    assert_eq!(queued(&mut waiter).await, (kind.ahead)(1, 0));
    site.until_nodes(2).await;
    let nodes = site.nodes().await;
    assert!(deleted.iter().all(|node| !nodes.contains(node)), "it has new nodes");
    drop(guard);
    assert_eq!(acquired(&mut waiter).await.state(), LeaseState::Held);
}

async fn a_waiter_whose_node_is_deleted_together_with_the_holders_queues_again(kind: Kind) {
    let (site, keeper) = (kind.site("both-deleted").await, connect_for(BRISK).await);
    let guard = site.rival(&keeper).acquire().await.expect("the lock is free");
    let (_, mut events) = listen(&site.lock(&keeper));
    assert_eq!(queued(&mut events).await, (kind.ahead)(1, 0));
    site.delete_all().await;
    timeout(SOON, guard.lost()).await.expect("a heartbeat notices it");
    let next = granted(&mut events).await;
    assert_eq!(site.nodes().await, next.nodes(), "granted on deleted nodes");
    assert_eq!(next.state(), LeaseState::Held);
}

async fn a_deleted_directory_is_recreated_and_tokens_keep_growing(kind: Kind) {
    let (site, keeper, other) = (kind.site("directory").await, connect().await, connect().await);
    let mut tokens = Vec::new();
    for round in 0..3 {
        for keeper in [&keeper, &other] {
            let guard = site.lock(keeper).acquire().await.expect("the lock is free");
            tokens.push(guard.token());
            guard.release().await.expect("released");
        }
        if round == 1 {
            site.delete_all().await;
        }
    }
    assert!(tokens.is_sorted_by(|earlier, later| earlier < later), "{tokens:?}");
}

async fn protected_work_ends_with_the_lease(kind: Kind) {
    let (site, proxy) = (kind.site("protect").await, proxied().await);
    let keeper = connect_through(&proxy, SHORT).await;
    let guard = site.lock(&keeper).acquire().await.expect("the lock is free");
    assert_eq!(guard.protect(async { 42 }.boxed()).await, Ok(42));

    proxy.black_hole(true);
    let dropped = Arc::new(AtomicBool::new(false));
    let set = OnDrop(dropped.clone());
    let work = async move {
        let _set = set;
        pending().await
    };
    assert_eq!(guard.protect(work.boxed()).await, Err(LostError));
    assert!(dropped.load(Ordering::SeqCst), "the work is dropped when the lease ends");
    assert_eq!(guard.protect(async { unreachable!("it is already lost") }.boxed()).await, Err(LostError));
}

async fn work_that_is_done_when_the_lease_has_ended_counts_as_unknown(kind: Kind) {
    let (site, proxy) = (kind.site("late").await, proxied().await);
    let keeper = connect_through(&proxy, SHORT).await;
    let guard = site.lock(&keeper).acquire().await.expect("the lock is free");
    proxy.black_hole(true);
    let done = AtomicBool::new(false);
    // As in a process that is paused: the work is done, and the lease is over, in one poll.
    let work = async {
        while guard.state() != LeaseState::Lost {
            std::thread::sleep(SHORT / 100);
        }
        done.store(true, Ordering::SeqCst);
        42
    };
    let error = guard.protect(work.boxed()).await.expect_err("the lease has ended");
    assert!(done.load(Ordering::SeqCst));
    assert!(error.to_string().contains("unknown how far the work has come"), "{error}");
}

/// Sets a flag when it is dropped.
struct OnDrop(Arc<AtomicBool>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
