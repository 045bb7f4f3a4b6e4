//! Contenders of other processes, and those of this process that share no node.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use lockkeeper::error::TryAcquireError;
use tokio::task::JoinSet;

use super::{Asked, Scene, begin, open, read_write};
use crate::common::{SOON, connect, eventually};

#[tokio::test]
async fn another_process_is_granted_at_once_while_the_node_is_idle_and_its_try_is_refused() {
    let scene = Scene::new("idle").await;
    let node = scene.idle().await;
    let stranger = connect().await.lock(&scene.path).expect("a valid path");
    let tried = stranger.try_acquire().await;
    assert!(matches!(tried, Err(TryAcquireError::Contended { .. })), "{tried:?}");
    assert_eq!(scene.nodes().await, [node], "a try writes nothing, so it is not noticed");
    let guard = stranger.acquire_timeout(SOON).await.expect("the idle node makes way");
    assert_eq!(scene.nodes().await, [guard.node()]);

    let mut ours = Asked::new(&scene.lock);
    assert_eq!(ours.queued().await, 1, "behind the other process");
    drop(guard);
    drop(ours.granted().await);
}

#[tokio::test]
async fn a_lingering_node_of_another_process_makes_way_too() {
    let scene = Scene::new("both").await;
    let other = open(&connect().await, &scene.path);
    for _ in 0..10 {
        drop(scene.lock.acquire_timeout(SOON).await.expect("the idle node makes way"));
        drop(other.acquire_timeout(SOON).await.expect("the idle node makes way"));
    }
}

#[tokio::test]
async fn a_stranger_waits_only_for_the_requests_that_were_made_before_it_was_noticed() {
    let scene = Scene::new("noticed").await;
    let first = scene.lock.acquire().await.expect("free");
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for _ in 0..10 {
        let mut asked = Asked::new(&scene.lock);
        asked.queued().await;
        before.push(asked);
    }
    let stranger = scene.observer.contender(&scene.path, b"").await;
    eventually("the stranger is noticed", SOON, async || {
        let mut asked = Asked::new(&scene.lock);
        asked.queued().await;
        let noticed = scene.nodes().await.len() == 3;
        if noticed { &mut after } else { &mut before }.push(asked);
        noticed
    })
    .await;
    for place in 1..10 {
        let mut asked = Asked::new(&scene.lock);
        assert_eq!(asked.queued().await, 2 + place, "behind the stranger");
        after.push(asked);
    }
    let nodes = scene.nodes().await;
    assert_eq!((nodes.len(), &nodes[0][..], &nodes[1]), (3, first.node(), &stranger));

    let token = first.token();
    drop(first);
    for asked in &mut before {
        assert_eq!(asked.granted().await.token(), token);
    }
    scene.until_nodes(2).await;
    assert!(after.iter_mut().all(Asked::waits), "it is the stranger's turn");
    scene.observer.delete(&stranger).await;
    for asked in &mut after {
        assert!(asked.granted().await.token() > token);
    }
    // Other processes come here, so that node does not stay.
    scene.until_nodes(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_granted_while_sixty_four_tasks_cycle_without_pause() {
    let scene = Scene::new("cycling").await;
    let (stop, grants, inside) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut tasks = JoinSet::new();
    for _ in 0..64 {
        let (lock, stop, grants, inside) = (scene.lock.clone(), stop.clone(), grants.clone(), inside.clone());
        tasks.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let guard = lock.acquire().await.expect("granted");
                grants.fetch_add(1, Ordering::SeqCst);
                hold_alone(&inside).await;
                drop(guard);
            }
        });
    }
    let other = connect().await.lock(&scene.path).expect("a valid path");
    eventually("they cycle", SOON, async || grants.load(Ordering::SeqCst) > 64).await;
    for _ in 0..5 {
        // It may find the path free, between two nodes.
        let guard = Asked::new(&other).granted().await;
        hold_alone(&inside).await;
        drop(guard);
    }
    stop.store(true, Ordering::Relaxed);
    tasks.join_all().await;
}

/// Fails if somebody else holds meanwhile.
async fn hold_alone(inside: &AtomicUsize) {
    for _ in 0..10 {
        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two hold at once");
        tokio::task::yield_now().await;
        inside.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_plain_request_of_this_process_keeps_its_place() {
    let scene = Scene::new("plain").await;
    let plain = scene.keeper.lock(&scene.path).expect("a valid path");
    let guard = scene.lock.acquire().await.expect("free");
    let mut before = Asked::new(&scene.lock);
    before.queued().await;
    let mut between = Asked::new(&plain);
    assert_eq!(between.queued().await, 1, "one node is ahead");
    let mut after = Asked::new(&scene.lock);
    after.queued().await;
    drop(guard);
    let guard = before.granted().await;
    assert!(between.waits() && after.waits());
    drop(guard);
    let guard = between.granted().await;
    assert!(after.waits());
    drop(guard);
    drop(after.granted().await);
}

#[tokio::test]
async fn a_plain_try_of_this_process_succeeds_on_an_idle_node() {
    let scene = Scene::new("try").await;
    let node = scene.idle().await;
    let plain = scene.keeper.lock(&scene.path).expect("a valid path");
    let guard = plain.try_acquire().await.expect("nobody holds it");
    assert!(guard.node() != node);
    assert!(matches!(scene.lock.try_acquire().await, Err(TryAcquireError::Contended { .. })));
    assert_eq!(scene.nodes().await, [guard.node()]);
    drop(guard);

    let held = scene.lock.acquire().await.expect("free");
    assert!(matches!(plain.try_acquire().await, Err(TryAcquireError::Contended { .. })));
    let waits = begin(&scene.lock);
    drop(held);
    drop(waits.await.expect("no panic").expect("granted"));
    assert_eq!(scene.nodes().await.len(), 1, "a refused try does not end the lingering");
}

#[tokio::test]
async fn readers_and_writers_of_one_handle_exclude_each_other() {
    let scene = Scene::new("modes").await;
    let both = read_write(&scene.keeper, &scene.path);
    drop(both.read().acquire().await.expect("free"));
    let written = both.write().try_acquire().await.expect("nobody reads");
    assert!(matches!(both.read().try_acquire().await, Err(TryAcquireError::Contended { .. })));
    let reading: Vec<_> = (0..3).map(|_| begin(both.read())).collect();
    scene.until_nodes(2).await;
    drop(written);
    let mut read = Vec::new();
    for reader in reading {
        read.push(reader.await.expect("no panic").expect("granted"));
    }
    assert!(matches!(both.write().try_acquire().await, Err(TryAcquireError::Contended { .. })));
    scene.until_only(read[0].node()).await;
}

#[tokio::test]
async fn a_reader_of_another_process_shares_an_idle_read_node_and_a_writer_ends_it() {
    let scene = Scene::new("read").await;
    let (ours, theirs) = (read_write(&scene.keeper, &scene.path), connect().await);
    let theirs = theirs.read_write(&scene.path).expect("a valid path");
    let token = ours.read().acquire().await.expect("free").token();
    let read = theirs.read().try_acquire().await.expect("shared");
    let again = ours.read().acquire().await.expect("idle");
    assert_eq!(again.token(), token, "readers do not end each other's nodes");
    drop(again);
    let writer = begin(theirs.write());
    scene.until_nodes(2).await;
    drop(read);
    let written = writer.await.expect("no panic").expect("the idle read node makes way");
    assert_eq!(scene.nodes().await, [written.node()]);
}
