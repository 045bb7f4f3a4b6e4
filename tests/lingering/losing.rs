//! Nodes that others delete, connections that are cut, and sessions that end.

use std::time::{Duration, Instant};

use lockkeeper::LeaseState;
use lockkeeper::error::{QueryError, ReleaseError, TryAcquireError};
use lockkeeper::messages::LockEvent;
use lockkeeper::session::SessionEvent;
use tokio::time::timeout;

use super::{Asked, Scene, begin, read_write, until_watches};
use crate::common::events::session_event;
use crate::common::{
    BRISK, SHORT, SOON, TestServer, connect, connect_for, connect_through, eventually, options, proxied,
};

/// With a heartbeat every seven and a half seconds.
const LONGEST: Duration = Duration::from_secs(60);
/// Before the next heartbeat, which comes after an eighth of that.
const AT_ONCE: Duration = Duration::from_millis(6500);

/// A scene on a server of its own, with a long session.
async fn alone(name: &str) -> (TestServer, Scene) {
    let server = TestServer::start();
    let keeper = options().session_timeout(LONGEST).connect(&server.address()).await;
    let scene = Scene::on(&server, keeper.expect("should connect"), name).await;
    (server, scene)
}

#[tokio::test]
async fn the_holder_of_a_node_that_is_deleted_by_hand_is_lost_at_once_and_the_line_gets_a_new_node() {
    let (server, scene) = alone("by-hand").await;
    let guard = scene.lock.acquire().await.expect("free");
    let mut line: Vec<_> = (0..3).map(|_| Asked::new(&scene.lock)).collect();
    for asked in &mut line {
        asked.queued().await;
    }
    until_watches(&server, 1).await;
    let deleted = Instant::now();
    scene.observer.delete(guard.node()).await;
    timeout(SOON, guard.lost()).await.expect("it is noticed");
    assert!(deleted.elapsed() < AT_ONCE, "only a heartbeat has noticed it: {:?}", deleted.elapsed());
    assert_eq!(guard.state(), LeaseState::Lost);
    let mut token = None;
    for asked in &mut line {
        let next = asked.granted().await;
        assert_eq!(scene.nodes().await, [next.node()]);
        assert!(next.token() > guard.token());
        assert_eq!(*token.get_or_insert(next.token()), next.token(), "they share the new node");
    }
    assert_eq!(guard.release().await, Err(ReleaseError::Lost));
    assert_eq!(scene.nodes().await.len(), 1, "the new node lingers");
}

#[tokio::test]
async fn all_readers_of_a_node_that_is_deleted_by_hand_are_lost() {
    let (server, scene) = alone("readers-by-hand").await;
    let both = read_write(&scene.keeper, &scene.path);
    let guards = [both.read().acquire().await.expect("free"), both.read().acquire().await.expect("shared")];
    until_watches(&server, 1).await;
    scene.observer.delete(guards[0].node()).await;
    for guard in &guards {
        timeout(AT_ONCE, guard.lost()).await.expect("it is noticed at once");
    }
    assert!(both.read().acquire().await.expect("free").token() > guards[0].token());
}

#[tokio::test]
async fn an_idle_node_that_is_deleted_by_hand_is_replaced() {
    let (server, scene) = alone("idle-by-hand").await;
    let node = scene.idle().await;
    until_watches(&server, 1).await;
    scene.observer.delete(&node).await;
    eventually("the next grant has a new node", AT_ONCE, async || {
        let guard = scene.lock.acquire().await.expect("granted");
        guard.node() != node && scene.nodes().await == [guard.node()]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_connection_suspends_the_holder_and_grants_nothing_until_it_is_verified() {
    let proxy = proxied().await;
    let scene = Scene::with(connect_through(&proxy, BRISK).await, "cut").await;
    let guard = scene.lock.acquire().await.expect("free");
    let mut line: Vec<_> = (0..2).map(|_| Asked::new(&scene.lock)).collect();
    for asked in &mut line {
        asked.queued().await;
    }
    proxy.black_hole(true);
    eventually("it is suspended", SOON, async || guard.state() == LeaseState::Suspended).await;
    assert!(matches!(scene.lock.try_acquire().await, Err(TryAcquireError::Suspended)));
    drop(guard);
    assert!(matches!(scene.lock.try_acquire().await, Err(TryAcquireError::Suspended)));
    assert!(line.iter_mut().all(Asked::waits), "nothing is granted on a session in doubt");
    let mut late = Asked::new(&scene.lock);
    proxy.black_hole(false);
    for asked in &mut line {
        assert_eq!(asked.granted().await.state(), LeaseState::Held);
    }
    drop(late.granted().await);
    assert_eq!(scene.keeper.state().get().epoch, 1, "the session has survived");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_node_does_not_outlast_a_session_in_doubt() {
    let proxy = proxied().await;
    let scene = Scene::with(connect_through(&proxy, BRISK).await, "doubt").await;
    scene.idle().await;
    let mut events = scene.keeper.events();
    proxy.cut();
    session_event(&mut events, SessionEvent::Resumed { epoch: 1 }).await;
    // A stranger may have come unseen.
    scene.until_nodes(0).await;
    drop(scene.lock.acquire().await.expect("free"));
    scene.until_nodes(1).await;
}

#[tokio::test]
async fn a_release_after_the_end_of_the_lease_is_not_confirmed() {
    for is_awaited in [true, false] {
        let scene = Scene::with(connect_for(SHORT).await, "paused").await;
        let mut holder = Asked::new(&scene.lock);
        let guard = holder.granted().await;
        let mut next = Asked::new(&scene.lock);
        next.queued().await;
        let token = guard.token();
        // As in a process that is paused: the release is handled before the session reports its end.
        while guard.state() != LeaseState::Lost {
            std::thread::sleep(SHORT / 100);
        }
        match is_awaited {
            true => assert_eq!(guard.release().await, Err(ReleaseError::Lost)),
            false => drop(guard),
        }
        assert!(matches!(holder.last().await, LockEvent::Lost(_)));
        assert!(next.granted().await.token() > token, "it has another node");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn letting_go_fails_if_the_session_ends_before_the_server_has_confirmed_it() {
    let proxy = proxied().await;
    let scene = Scene::with(connect_through(&proxy, SHORT).await, "let-go-lost").await;
    scene.idle().await;
    proxy.black_hole(true);
    let answer = timeout(SOON, scene.lock.let_go()).await.expect("the session ends");
    assert_eq!(answer, Err(QueryError::Disconnected));
    // The server ends the session, too.
    scene.until_nodes(0).await;
    // Nothing is left to do.
    assert_eq!(timeout(SOON, scene.lock.let_go()).await, Ok(Ok(())));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_line_of_a_lost_session_queues_again_under_one_node() {
    let proxy = proxied().await;
    let scene = Scene::with(connect_through(&proxy, SHORT).await, "lost").await;
    let guard = scene.lock.acquire().await.expect("free");
    let mut line: Vec<_> = (0..5).map(|_| Asked::new(&scene.lock)).collect();
    for asked in &mut line {
        asked.queued().await;
    }
    let mut session = scene.keeper.events();
    proxy.black_hole(true);
    session_event(&mut session, SessionEvent::Lost { epoch: 1 }).await;
    timeout(SOON, guard.lost()).await.expect("its session has ended");
    let other = connect().await.lock(&scene.path).expect("a valid path");
    let between = other.acquire_timeout(SOON).await.expect("the node ends with its session");
    proxy.black_hole(false);
    for (place, asked) in line.iter_mut().enumerate() {
        assert_eq!(asked.queued().await, 1 + place);
    }
    assert_eq!(scene.nodes().await.len(), 2);
    let mut late = begin(&scene.lock);
    assert!(timeout(Duration::from_millis(50), &mut late).await.is_err(), "it waits for the stranger");
    assert_eq!(scene.nodes().await.len(), 2, "and shares the node");
    drop(between);
    let mut tokens = Vec::new();
    for asked in &mut line {
        tokens.push(asked.granted().await.token());
    }
    tokens.push(late.await.expect("no panic").expect("granted").token());
    tokens.dedup();
    assert!(tokens.len() == 1 && tokens[0] > guard.token(), "{tokens:?}");
}
