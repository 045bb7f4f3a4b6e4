//! Directories that are missing or closed to the client, lost answers, lost sessions and deleted nodes.

use std::time::Duration;

use lockkeeper::error::{AcquireError, LostError, Refused, ReleaseError, TryAcquireError};
use lockkeeper::messages::{LockEvent, MultiLockMessage};
use lockkeeper::{Dialect, LeaseState, LockOptions};
use ractor::call;
use tokio::time::timeout;
use zookeeper_client as zk;

use super::{
    LIMIT, SHORT, all, connect, connect_to, granted, listen, next, nothing_left, one, paths, until_queued,
};
use crate::common::{BRISK, caught_up, eventually, proxied, shared, unique_path};

#[tokio::test]
async fn missing_directories_are_created_and_the_request_is_retried() {
    let (keeper, [missing, there, deeper]) = (connect().await, paths("missing"));
    one(&keeper, &there).acquire().await.expect("free").release().await.expect("released");
    let deeper = format!("{deeper}/down/below");
    let multi = all(&keeper, &[there.clone(), missing.clone(), deeper.clone()]);
    let guard = timeout(LIMIT, multi.acquire()).await.expect("in time").expect("free");
    for path in [there, missing, deeper] {
        until_queued(&keeper, &path, 1).await;
    }
    guard.release().await.expect("released");
}

#[tokio::test]
async fn a_path_without_permission_is_reported_and_the_others_are_released() {
    let (keeper, [open, private]) = (connect().await, paths("no-right"));
    one(&keeper, &open).acquire().await.expect("free").release().await.expect("released");
    let owner = zk::Client::connector().with_auth("digest", b"owner:secret");
    let owner = owner.connect(&shared().address()).await.expect("should connect");
    let creator = zk::CreateMode::Persistent.with_acls(zk::Acls::creator_all());
    owner.create(&private, b"", &creator).await.expect("a new node");
    for named in [[&open, &private], [&private, &open]] {
        let multi = keeper.multi_lock(named).expect("paths");
        let error = AcquireError::NoAuth { path: private.clone() };
        let acquire = timeout(LIMIT, multi.acquire()).await.expect("an answer");
        assert_eq!(acquire.err(), Some(error.clone()));
        assert_eq!(multi.try_acquire().await.err(), Some(TryAcquireError::Failed(error)));
        until_queued(&keeper, &open, 0).await;
    }
}

#[tokio::test]
async fn a_path_of_another_dialect_fails_and_the_others_are_released() {
    let (keeper, other, paths) = (connect().await, connect().await, paths::<2>("dialect"));
    let options = LockOptions::new().dialect(Dialect::Curator);
    let curators = other.lock_with(&paths[1], options).expect("a valid path");
    let held = curators.acquire().await.expect("free");
    let multi = all(&keeper, &paths);
    let refused = timeout(LIMIT, multi.acquire()).await.expect("an answer").err();
    assert_eq!(refused, Some(AcquireError::MixedDialects { contender: held.node().to_owned() }));
    until_queued(&other, &paths[0], 0).await;
    until_queued(&other, &paths[1], 1).await;
}

#[tokio::test]
async fn a_transaction_whose_reply_is_lost_is_found_and_granted_once() {
    let (proxy, paths) = (proxied().await, paths::<2>("lost-answer"));
    let keeper = connect_to(&proxy.address(), Duration::from_secs(20)).await;
    let other = connect().await;
    let multi = all(&keeper, &paths);
    multi.acquire().await.expect("free").release().await.expect("released");
    proxy.drop_replies_then_cut();
    let (_, mut events) = listen(multi.acquire());
    for path in &paths {
        until_queued(&other, path, 1).await;
    }
    let seen = one(&other, &paths[0]).contenders().await.expect("connected");
    assert!(events.try_recv().is_err(), "the client cannot know yet");
    proxy.cut();
    let guard = granted(&mut events).await;
    assert_eq!(guard.token(&paths[0]), Some(seen[0].token), "the same node");
    for path in &paths {
        until_queued(&other, path, 1).await;
    }
    guard.release().await.expect("released");
    nothing_left(&other, &paths).await;
}

#[tokio::test]
async fn a_transaction_that_never_arrived_is_sent_again_and_one_abandoned_in_doubt_leaves_nothing() {
    let (proxy, paths) = (proxied().await, paths::<2>("never-arrived"));
    let keeper = connect_to(&proxy.address(), Duration::from_secs(20)).await;
    let other = connect().await;
    let multi = all(&keeper, &paths);
    multi.acquire().await.expect("free").release().await.expect("released");
    proxy.black_hole(true);
    let (_, mut events) = listen(multi.acquire());
    proxy.cut();
    proxy.black_hole(false);
    granted(&mut events).await.release().await.expect("released");

    proxy.drop_replies_then_cut();
    let (ticket, mut events) = listen(multi.acquire());
    for path in &paths {
        until_queued(&other, path, 1).await;
    }
    multi.cancel(ticket);
    assert!(matches!(next(&mut events).await, LockEvent::Refused(_, Refused::Cancelled)));
    proxy.cut();
    nothing_left(&other, &paths).await;
}

#[tokio::test]
async fn a_lost_session_ends_the_lease_and_makes_a_waiter_queue_again() {
    let (proxy, paths) = (proxied().await, paths::<2>("lost"));
    let (keeper, other) = (connect_to(&proxy.address(), SHORT).await, connect().await);
    let multi = all(&keeper, &paths);
    let (ticket, mut events) = listen(multi.acquire());
    let guard = granted(&mut events).await;
    // A request with one free path and one that is held.
    let half = [paths[0].clone(), unique_path("lost-free")];
    let (_, mut waiting) = listen(all(&keeper, &half).acquire());
    assert!(matches!(next(&mut waiting).await, LockEvent::Enqueued { ahead: 1, .. }));
    let theirs = tokio::spawn(all(&other, &paths).acquire());
    until_queued(&other, &paths[1], 2).await;

    proxy.refuse(true);
    proxy.cut();
    timeout(LIMIT, guard.lost()).await.expect("the lease ends");
    assert_eq!(guard.state(), LeaseState::Lost);
    assert_eq!(guard.protect(async {}).await, Err(LostError));
    let theirs = timeout(LIMIT, theirs).await.expect("in time").expect("no panic").expect("granted");
    assert_eq!(guard.state(), LeaseState::Lost);
    let mut received = Vec::new();
    while let Some(event) = timeout(LIMIT, events.recv()).await.expect("the end") {
        match event {
            // A busy machine may suspend it for a moment.
            LockEvent::Resumed(_) => assert!(matches!(received.pop(), Some(LockEvent::Suspended(_)))),
            event => received.push(event),
        }
    }
    let [LockEvent::Suspended(first), LockEvent::Lost(last)] = &received[..] else { panic!("{received:?}") };
    assert_eq!((*first, *last), (ticket, ticket));
    assert_eq!(guard.release().await, Err(ReleaseError::Lost));

    proxy.refuse(false);
    until_queued(&other, &half[1], 1).await;
    assert!(matches!(next(&mut waiting).await, LockEvent::Enqueued { .. }), "queued again");
    theirs.release().await.expect("released");
    granted(&mut waiting).await.release().await.expect("released");
    nothing_left(&other, &[&paths[..], &half[..]].concat()).await;
}

#[tokio::test]
async fn a_holder_and_a_waiter_survive_a_connection_reset() {
    let (proxy, paths) = (proxied().await, paths::<2>("reset"));
    let (keeper, other) = (connect_to(&proxy.address(), Duration::from_secs(20)).await, connect().await);
    let (_, mut holding) = listen(all(&keeper, &paths).acquire());
    let guard = granted(&mut holding).await;
    let (_, mut waiting) = listen(all(&keeper, &paths).acquire());
    next(&mut waiting).await;
    caught_up(&other).await;
    let before = one(&other, &paths[1]).contenders().await.expect("connected");
    proxy.cut();
    assert!(matches!(next(&mut holding).await, LockEvent::Suspended(_)));
    assert!(matches!(next(&mut holding).await, LockEvent::Resumed(_)));
    assert_eq!(guard.state(), LeaseState::Held);
    assert_eq!(one(&other, &paths[1]).contenders().await.expect("connected"), before);
    guard.release().await.expect("released");
    granted(&mut waiting).await.release().await.expect("released");
}

#[tokio::test]
async fn a_node_deleted_by_hand_makes_a_waiter_queue_again_and_a_holder_lose_its_lease() {
    let (keeper, other, paths) =
        (connect_to(&shared().address(), BRISK).await, connect().await, paths::<2>("by-hand"));
    let server = zk::Client::connect(&shared().address()).await.expect("should connect");
    let held = one(&other, &paths[1]).acquire().await.expect("free");
    let (_, mut events) = listen(all(&keeper, &paths).acquire());
    next(&mut events).await;
    caught_up(&other).await;
    let contenders = one(&other, &paths[1]).contenders().await.expect("connected");
    let first = one(&other, &paths[0]).contenders().await.expect("connected")[0].clone();
    // It holds the first path by then.
    server.delete(&format!("{}/{}", paths[1], contenders[1].name), None).await.expect("deleted");
    assert!(matches!(next(&mut events).await, LockEvent::Enqueued { ahead: 1, .. }), "queued again");
    eventually("both places are new", LIMIT, async || {
        let now = one(&other, &paths[0]).contenders().await.expect("connected");
        matches!(&now[..], [only] if only.token > first.token)
    })
    .await;
    held.release().await.expect("released");
    let guard = granted(&mut events).await;
    let node = guard.nodes().next().expect("two nodes").to_owned();
    server.delete(&node, None).await.expect("deleted");
    timeout(LIMIT, guard.lost()).await.expect("a heartbeat finds out");
    assert_eq!(guard.state(), LeaseState::Lost);
    assert!(matches!(next(&mut events).await, LockEvent::Lost(_)));
    // The guard still exists. Its other lock is released by message.
    let actor = all(&keeper, &paths).actor();
    let released = call!(actor, MultiLockMessage::Release, guard.ticket()).expect("an answer");
    assert_eq!(released, Err(ReleaseError::Lost));
    nothing_left(&other, &paths).await;
    drop(guard);
}
