//! Many contenders at once: exclusion, order and tokens under contention, and no node or task left behind.

mod common;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use common::{
    HANGING, LONG, SOON, TestServer, client, connect, connect_through, connect_to, eventually, proxied,
    unique_path,
};
use lockkeeper::Lock;
use lockkeeper::messages::LockEvent;
use tokio::task::JoinSet;
use zookeeper_client::{Acls, CreateMode};

/// Checks the holders of one lock from outside: only one at a time, with growing tokens.
#[derive(Default)]
struct Witness {
    held: AtomicBool,
    last: AtomicU64,
    grants: AtomicU64,
}

impl Witness {
    async fn hold_once(&self, lock: &Lock) {
        let guard = lock.acquire().await.expect("the lock is granted");
        assert!(!self.held.swap(true, Ordering::SeqCst), "two clients hold at once");
        let before = self.last.swap(guard.token().as_u64(), Ordering::SeqCst);
        assert!(before < guard.token().as_u64(), "token {} came after {before}", guard.token());
        self.grants.fetch_add(1, Ordering::SeqCst);
        tokio::task::yield_now().await;
        assert!(self.held.swap(false, Ordering::SeqCst));
        drop(guard);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_contenders_in_eight_sessions_hold_one_at_a_time_under_growing_tokens() {
    let server = TestServer::start();
    let path = unique_path("crowd");
    let witness = Arc::new(Witness::default());
    let mut keepers = Vec::new();
    let mut workers = JoinSet::new();
    for _ in 0..8 {
        let keeper = connect_to(&server).await;
        for _ in 0..8 {
            let (lock, witness) = (keeper.lock(&path).expect("a valid path"), witness.clone());
            workers.spawn(async move {
                for _ in 0..10 {
                    witness.hold_once(&lock).await;
                }
            });
        }
        keepers.push(keeper);
    }
    let all = async { while workers.join_next().await.transpose().expect("no worker fails").is_some() {} };
    tokio::time::timeout(HANGING, all).await.expect("every worker should finish");
    assert_eq!(witness.grants.load(Ordering::SeqCst), 8 * 8 * 10);
    let lock = keepers[0].lock(&path).expect("a valid path");
    eventually("every node is gone", SOON, async || {
        lock.contenders().await.is_ok_and(|contenders| contenders.is_empty())
    })
    .await;
    eventually("no watch is left", SOON, async || server.mntr("zk_watch_count") == 0).await;
}

#[tokio::test]
async fn the_queue_is_first_come_first_served_across_sessions() {
    let path = unique_path("order");
    let keepers = [connect().await, connect().await];
    let holder = keepers[0].lock(&path).expect("a valid path").acquire().await.expect("free");
    let (said, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let mut waiting = JoinSet::new();
    for place in 0..12 {
        let (lock, said) = (keepers[place % 2].lock(&path).expect("a valid path"), said.clone());
        let seen = lock.clone();
        waiting.spawn(async move {
            let guard = lock.acquire().await.expect("the lock is granted");
            said.send(place).expect("the test listens");
            drop(guard);
        });
        eventually("the contender is queued", SOON, async || {
            seen.contenders().await.is_ok_and(|contenders| contenders.len() == place + 2)
        })
        .await;
    }
    drop(holder);
    for place in 0..12 {
        assert_eq!(heard.recv().await, Some(place));
    }
}

/// Otherwise heartbeats would wait behind the requests of all, and the session would be suspended.
#[tokio::test]
async fn a_burst_over_new_paths_is_sent_in_portions() {
    const PATHS: usize = 600;
    /// As many requests are sent before the first answer.
    const PORTION: usize = 256;
    let (directory, proxy) = (unique_path("burst"), proxied().await);
    let observer = client().await;
    let paths: Vec<String> = (0..PATHS).map(|number| format!("{directory}/{number:03}")).collect();
    let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
    let marker = format!("{directory}/marker");
    for path in paths.iter().chain([&marker]) {
        observer.mkdir(path, &options).await.expect("permitted");
    }
    let is_entered = async |path: &String| {
        let stat = observer.check_stat(path).await.expect("should connect");
        stat.expect("the directory exists").num_children > 0
    };

    let keeper = connect_through(&proxy, LONG).await;
    proxy.hold_replies(true);
    let (granted, mut grants) = tokio::sync::mpsc::unbounded_channel();
    for path in &paths {
        let granted = granted.clone();
        keeper.lock(path).expect("a valid path").acquire().listen(move |event| drop(granted.send(event)));
    }
    // Multi-locks do not wait for their turn, so its node is created after those of the first portion.
    let multi_lock = keeper.multi_lock([&marker]).expect("a valid path");
    multi_lock.acquire().listen(drop);
    eventually("the marker is there", SOON, async || is_entered(&marker).await).await;
    let mut entered = 0;
    for path in &paths {
        entered += usize::from(is_entered(path).await);
    }
    assert!((1..=PORTION).contains(&entered), "{entered} nodes without an answer");

    proxy.hold_replies(false);
    let mut guards = Vec::new();
    while guards.len() < PATHS {
        match tokio::time::timeout(SOON, grants.recv()).await.expect("all are granted") {
            Some(LockEvent::Acquired { guard, .. }) => guards.push(guard),
            // On a busy machine the lease is in doubt by now, because replies were held for so long.
            Some(LockEvent::Enqueued { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Futures that are dropped at any stage of an acquire leave nothing behind and block nobody.
#[tokio::test]
async fn requests_dropped_at_random_leave_no_node_and_no_task() {
    let keeper = connect().await;
    let lock = keeper.lock(&unique_path("dropped")).expect("a valid path");
    lock.acquire().await.expect("free").release().await.expect("released");
    let tasks = tokio::runtime::Handle::current().metrics();
    let before = tasks.num_alive_tasks();
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    for _ in 0..500 {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let patience = Duration::from_micros(seed % 1500);
        drop(tokio::time::timeout(patience, lock.acquire()).await);
    }
    // Futures that are polled once and dropped.
    for _ in 0..100 {
        let mut acquire = pin!(lock.acquire());
        assert!(acquire.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    let guard = tokio::time::timeout(SOON, lock.acquire()).await;
    guard.expect("no contender is left").expect("free").release().await.expect("released");
    eventually("every node is gone", SOON, async || {
        lock.contenders().await.is_ok_and(|contenders| contenders.is_empty())
    })
    .await;
    eventually("every task is gone", SOON, async || tasks.num_alive_tasks() <= before).await;
}
