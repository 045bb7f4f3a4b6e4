//! What ends a node that lingers.

use std::time::{Duration, Instant};

use lockkeeper::Lock;
use lockkeeper::error::QueryError;
use lockkeeper::messages::LockMessage;
use ractor::call;
use tokio::time::timeout;

use super::{Asked, Scene, lingering, open, until_watches};
use crate::common::site::Observer;
use crate::common::{LONG, Proxy, SOON, TestServer, connect_through, eventually, unique_path};

#[tokio::test]
async fn an_idle_node_is_deleted_after_its_time() {
    let scene = Scene::new("time").await;
    let idle = Duration::from_millis(300);
    let lock = scene.keeper.lock_with(&scene.path, lingering(idle)).expect("a valid path");
    let guard = lock.acquire().await.expect("free");
    let (token, dropped) = (guard.token(), Instant::now());
    drop(guard);
    scene.until_nodes(0).await;
    assert!(dropped.elapsed() >= idle, "it is deleted too early");
    assert!(lock.acquire().await.expect("free").token() > token);
    // Without time to linger, the requests that wait share a node, which is deleted after the last of them.
    let brief = scene.keeper.lock_with(&scene.path, lingering(Duration::ZERO)).expect("a valid path");
    let first = brief.acquire().await.expect("free");
    let mut second = Asked::new(&brief);
    second.queued().await;
    drop(first);
    drop(second.granted().await);
    scene.until_nodes(0).await;
}

#[tokio::test]
async fn letting_go_ends_an_idle_node_and_not_a_held_one() {
    let scene = Scene::new("let-go").await;
    scene.lock.let_go().await.expect("nothing to do");
    scene.idle().await;
    scene.lock.let_go().await.expect("open");
    assert_eq!(scene.nodes().await, [""; 0]);

    scene.idle().await;
    call!(scene.lock.actor(), LockMessage::LetGo).expect("its actor").expect("open");
    assert_eq!(scene.nodes().await, [""; 0]);

    // Any handle of the path can be used, and a held node stays and lingers.
    let guard = scene.lock.acquire().await.expect("free");
    let plain = scene.keeper.lock(&scene.path).expect("a valid path");
    plain.let_go().await.expect("open");
    assert_eq!(scene.nodes().await, [guard.node()]);
    guard.release().await.expect("released");
    assert_eq!(scene.nodes().await.len(), 1);
    plain.let_go().await.expect("open");
    assert_eq!(scene.nodes().await, [""; 0]);
    scene.keeper.close().await;
    assert_eq!(plain.let_go().await, Err(QueryError::Closed));
}

#[tokio::test]
async fn dropping_the_last_handle_ends_an_idle_node() {
    let scene = Scene::new("dropped").await;
    scene.idle().await;
    let clone = scene.lock.clone();
    let Scene { path, keeper, lock, observer } = scene;
    drop(lock);
    drop(clone.acquire().await.expect("idle"));
    assert_eq!(observer.nodes(&path).await.len(), 1);
    drop(clone);
    eventually("the node is gone", SOON, async || observer.nodes(&path).await.is_empty()).await;

    // A guard does not need the handle, and nothing lingers after it.
    let guard = open(&keeper, &path).acquire().await.expect("free");
    // By then, the keeper has noticed that the handle was dropped.
    drop(open(&keeper, &unique_path("another")).acquire().await.expect("free"));
    drop(guard);
    eventually("the node is gone", SOON, async || observer.nodes(&path).await.is_empty()).await;
}

#[tokio::test]
async fn closing_the_keeper_ends_idle_nodes() {
    let scene = Scene::new("closed").await;
    scene.idle().await;
    timeout(SOON, scene.keeper.close()).await.expect("it does not wait for the hour");
    assert_eq!(scene.nodes().await, [""; 0]);

    let scene = Scene::new("dropped-keeper").await;
    scene.idle().await;
    let Scene { path, keeper, lock, observer } = scene;
    drop((keeper, lock));
    eventually("the node is gone", SOON, async || observer.nodes(&path).await.is_empty()).await;
}

/// Locks on paths of which two fit into the room of one session.
fn long_paths(keeper: &lockkeeper::Keeper, count: usize) -> Vec<Lock> {
    let path = |number| format!("/{}/{number}", "x".repeat(30_000));
    (0..count).map(|number| open(keeper, &path(number))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_linger_on_more_paths_than_one_session_can_watch() {
    let server = TestServer::start();
    let proxy = Proxy::start(server.one_address()).await.expect("a free port");
    let (keeper, observer) = (connect_through(&proxy, LONG).await, Observer::of(&server).await);
    let locks = long_paths(&keeper, 6);
    for lock in &locks {
        drop(lock.acquire().await.expect("free"));
    }
    until_watches(&server, 6).await;
    assert_eq!(proxy.open(), 3, "one session, and two spares");
    for lock in &locks {
        let nodes = observer.nodes(lock.path()).await;
        assert_eq!(nodes.len(), 1);
        let stranger = observer.contender(lock.path(), b"").await;
        eventually("the idle node makes way", SOON, async || {
            observer.nodes(lock.path()).await == [stranger.as_str()]
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_be_watched_does_not_linger() {
    let server = TestServer::start();
    let proxy = Proxy::start(server.one_address()).await.expect("a free port");
    let (keeper, observer) = (connect_through(&proxy, LONG).await, Observer::of(&server).await);
    let locks = long_paths(&keeper, 3);
    for lock in &locks[..2] {
        drop(lock.acquire().await.expect("free"));
    }
    until_watches(&server, 2).await;
    proxy.refuse(true);
    for _ in 0..3 {
        drop(locks[2].acquire_timeout(SOON).await.expect("granted all the same"));
        let path = locks[2].path();
        eventually("it does not linger", SOON, async || observer.nodes(path).await.is_empty()).await;
    }
    for lock in &locks[..2] {
        assert_eq!(observer.nodes(lock.path()).await.len(), 1, "the others stay");
    }
}
