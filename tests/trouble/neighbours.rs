//! Nodes that other clients create, change and delete in the directory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lockkeeper::error::{AcquireError, AcquireTimeoutError, ReleaseError, TryAcquireError};
use lockkeeper::{LeaseState, Mode};
use tokio::task::JoinSet;
use tokio::time::timeout;
use zookeeper_client as zk;

use crate::common::events::{acquired, granted, listen, queued};
use crate::common::kinds::Kind;
use crate::common::{
    BRISK, LONG, SOON, caught_up, connect, connect_for, connect_through, eventually, proxied, refusal,
    unique_path,
};

promises! {
    every_kind:
        changes_to_the_predecessor_grant_nothing,
        sequence_numbers_past_the_overflow_are_reported_and_not_compared,
        waiters_beyond_the_watch_limit_are_granted_too;
    exclusive:
        a_deleted_directory_is_recreated_and_all_requests_are_served;
    // Only for plain locks, because some of these names are contenders for a write lock.
    [lock]:
        children_of_any_name_and_data_never_break_a_queue;
}

const UUID: &str = "0123456789abcdef0123456789abcdef";

async fn children_of_any_name_and_data_never_break_a_queue(kind: Kind) {
    let (site, keeper, other) = (kind.site("strange").await, connect().await, connect().await);
    let (server, path) = (&site.server, &site.path);
    site.make().await;
    let names = [
        "notes",
        "0",
        "-",
        "__lock__",
        "__lock__12",
        "__lock__00000000001x",
        "x__rlock__0000000000",
        "x-LOCK-0000000000",
        "-0000000001",
        "9999999999",
        "-9999999999",
        "ключ",
        "a b[.*",
    ];
    for name in names {
        server.create(&format!("{path}/{name}"), b"\xff\xfe\x00", zk::CreateMode::Persistent).await;
    }
    // These names count as contenders.
    let mut ahead = Vec::new();
    for prefix in ["__lock__", "ключ__lock__", "x__rlock____lock__"] {
        let foreign = format!("{path}/{prefix}");
        ahead.push(server.create(&foreign, b"\xc3\x28", zk::CreateMode::EphemeralSequential).await);
    }
    let lock = site.lock(&keeper);
    assert!(matches!(refusal(lock.try_acquire().await), TryAcquireError::Contended { .. }));
    let (_, mut first) = listen(&lock);
    assert_eq!(queued(&mut first).await, ahead.len());
    let (_, mut second) = listen(&site.lock(&other));
    assert_eq!(queued(&mut second).await, ahead.len() + 1);
    caught_up(&keeper).await;
    let contenders = site.queue(&keeper).contenders().await.expect("an answer");
    let locks: Vec<_> = contenders.iter().filter(|contender| contender.mode == Mode::Lock).collect();
    assert_eq!(locks.len(), ahead.len() + 2);
    assert_eq!(locks[0].identifier, "\u{fffd}(");

    for foreign in [1, 0, 2] {
        assert!(first.try_recv().is_err(), "another contender is ahead");
        server.delete(&ahead[foreign]).await;
    }
    drop(acquired(&mut first).await);
    drop(acquired(&mut second).await);
    site.until_nodes(names.len()).await;
}

async fn changes_to_the_predecessor_grant_nothing(kind: Kind) {
    let (site, keeper) = (kind.site("changed").await, connect().await);
    site.make().await;
    let ahead = site.obstruct().await;
    let (_, mut events) = listen(&site.lock(&keeper));
    queued(&mut events).await;
    for _ in 0..3 {
        site.until_watched(&ahead).await;
        site.touch(&ahead).await;
    }
    site.until_watched(&ahead).await;
    assert!(events.try_recv().is_err(), "the predecessor still exists");
    site.clear(&ahead).await;
    assert_eq!(acquired(&mut events).await.state(), LeaseState::Held);
}

async fn sequence_numbers_past_the_overflow_are_reported_and_not_compared(kind: Kind) {
    let keeper = connect().await;
    for number in ["-2147483648", "-999999999", "-000000001"] {
        let site = kind.site("wrap").await;
        site.make().await;
        let queue = site.directories().pop().expect("a directory of contenders");
        let wrapped = format!("{queue}/{UUID}{}{number}", kind.marker);
        site.server.create(&wrapped, b"", zk::CreateMode::Ephemeral).await;
        // A node that is not a contender is ignored.
        let stranger = format!("{queue}/{UUID}-2147483648");
        site.server.create(&stranger, b"", zk::CreateMode::Ephemeral).await;

        let lock = site.lock(&keeper);
        let refused = AcquireError::SequenceExhausted { path: queue.clone() };
        assert!(refused.to_string().contains(&queue), "{refused}");
        let acquire = timeout(SOON, lock.acquire()).await.expect("an answer");
        assert_eq!(refusal(acquire), refused);
        let acquire = lock.acquire_timeout(LONG).await;
        assert_eq!(refusal(acquire), AcquireTimeoutError::Failed(refused));
        let left = async || site.server.nodes(&queue).await.len() == 2;
        eventually("its own nodes are deleted", SOON, left).await;

        site.server.delete(&wrapped).await;
        drop(lock.acquire().await.expect("the lock is free"));
    }
}

async fn waiters_beyond_the_watch_limit_are_granted_too(kind: Kind) {
    let proxy = proxied().await;
    let keeper = connect_through(&proxy, LONG).await;
    let mut waiting = Vec::new();
    // With watches on 128 KiB of paths the client could not resume its session, so spare sessions set some of them.
    for _ in 0..6 {
        let site = kind.site_at(&format!("{}{}", unique_path("room"), "x".repeat(30_000))).await;
        site.make().await;
        let ahead = site.obstruct().await;
        let (_, mut events) = listen(&site.lock(&keeper));
        queued(&mut events).await;
        waiting.push((site, ahead, events));
    }
    for (site, ahead, _) in &waiting {
        site.until_watched(ahead).await;
    }
    let (accepted, open) = (proxy.accepted(), proxy.open());
    proxy.cut();
    eventually("all sessions have connected again", SOON, async || {
        proxy.accepted() >= accepted + open && proxy.open() == open
    })
    .await;
    for (site, ahead, events) in &mut waiting {
        assert!(events.try_recv().is_err(), "another contender is ahead");
        site.clear(ahead).await;
        let guard = timeout(SOON, acquired(events)).await.expect("the lock is woken");
        assert_eq!(guard.state(), LeaseState::Held);
    }
}

async fn a_deleted_directory_is_recreated_and_all_requests_are_served(kind: Kind) {
    let (holding, waiting) = (connect_for(BRISK).await, connect_for(BRISK).await);
    let site = Arc::new(kind.site("deleted").await);
    let guard = site.rival(&holding).acquire().await.expect("the lock is free");
    let holders = Arc::new(AtomicUsize::new(0));
    let mut waiters = JoinSet::new();
    for keeper in [&holding, &waiting] {
        let lock = site.lock(keeper);
        let (_, mut events) = listen(&lock);
        queued(&mut events).await;
        let (site, holders) = (site.clone(), holders.clone());
        waiters.spawn(async move {
            let mut guard = granted(&mut events).await;
            // The next heartbeat notices that the own node was deleted too.
            while site.server.stat(&guard.node()).await.is_none() {
                timeout(SOON, guard.lost()).await.expect("a heartbeat");
                guard = lock.acquire().await.expect("the lock is granted eventually");
            }
            assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0, "one holds at a time");
            site.server.stat(&guard.node()).await;
            holders.fetch_sub(1, Ordering::SeqCst);
            let token = guard.token();
            assert_eq!(guard.release().await, Ok(()));
            token
        });
    }
    site.delete_all().await;
    timeout(SOON, guard.lost()).await.expect("a heartbeat notices it");
    let tokens = waiters.join_all().await;
    assert!(tokens.iter().all(|token| *token > guard.token()), "tokens must keep growing");
    assert_eq!(guard.release().await, Err(ReleaseError::Lost));
    site.until_only(&[]).await;
}
