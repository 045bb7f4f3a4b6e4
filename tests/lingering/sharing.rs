//! The requests of one process share a node and its token, and cost no requests to the server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lockkeeper::error::{AcquireTimeoutError, InvalidHandle, TryAcquireError};
use lockkeeper::marker::Access;
use lockkeeper::{Dialect, Lock, LockOptions, Mode};
use tokio::task::JoinSet;

use super::{Asked, HOUR, Scene, begin, lingering, open, read_write};
use crate::common::{SOON, TestServer, connect, connect_to, unique_path};

const CYCLES: usize = 10_000;

/// The packets that the server receives during the work, except for what heartbeats, pings and questions of this test
/// may be.
async fn packets(server: &TestServer, work: impl Future<Output = ()>) -> i64 {
    let (before, begun) = (server.mntr("zk_packets_received"), Instant::now());
    work.await;
    server.mntr("zk_packets_received") - before - 4 * (1 + begun.elapsed().as_secs() as i64)
}

async fn cycle<M: Access>(lock: Lock<M>, cycles: usize) {
    for _ in 0..cycles {
        drop(lock.acquire().await.expect("granted"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_cycles_of_one_task_send_a_handful_of_packets() {
    let server = TestServer::start();
    let keeper = connect_to(&server).await;
    let lock = open(&keeper, &unique_path("one-task"));
    let sent = packets(&server, cycle(lock.clone(), CYCLES)).await;
    assert!(sent < 10, "{sent} packets for {CYCLES} cycles");
    let sent = packets(&server, async {
        for _ in 0..CYCLES {
            lock.acquire().await.expect("granted").release().await.expect("released");
        }
    });
    let sent = sent.await;
    assert!(sent < 5, "{sent} packets for {CYCLES} cycles that wait for the release");
    let sent = packets(&server, async {
        for _ in 0..CYCLES {
            drop(lock.try_acquire().await.expect("idle"));
        }
    });
    let sent = sent.await;
    assert!(sent < 5, "{sent} packets for {CYCLES} tries");
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_cycles_of_sixty_four_tasks_send_a_handful_of_packets_and_hold_one_at_a_time() {
    let server = TestServer::start();
    let keeper = connect_to(&server).await;
    let lock = open(&keeper, &unique_path("tasks"));
    let sent = packets(&server, async {
        let (held, mut tasks) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
        for _ in 0..64 {
            let (lock, held) = (lock.clone(), held.clone());
            tasks.spawn(async move {
                for _ in 0..CYCLES / 64 {
                    let guard = lock.acquire().await.expect("granted");
                    assert!(!held.swap(true, Ordering::SeqCst), "two tasks hold at once");
                    tokio::task::yield_now().await;
                    held.store(false, Ordering::SeqCst);
                    drop(guard);
                }
            });
        }
        tasks.join_all().await;
    });
    let sent = sent.await;
    assert!(sent < 10, "{sent} packets for {CYCLES} cycles");
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_readers_hold_one_node_at_the_same_time() {
    let scene = Scene::new("readers").await;
    let both = read_write(&scene.keeper, &scene.path);
    let readers: Vec<_> = (0..64).map(|_| begin(both.read())).collect();
    let mut guards = Vec::new();
    for reader in readers {
        guards.push(reader.await.expect("no panic").expect("granted"));
    }
    assert!(guards.iter().all(|guard| guard.is_held() && guard.token() == guards[0].token()));
    assert_eq!(scene.nodes().await, [guards[0].node()]);
    let contenders = both.read().contenders().await.expect("connected");
    let [contender] = &contenders[..] else { panic!("one node: {contenders:?}") };
    assert_eq!((contender.mode, contender.token), (Mode::Read, guards[0].token()));

    let mut writer = Box::pin(both.write().acquire());
    assert!(futures::poll!(&mut writer).is_pending());
    scene.until_nodes(2).await;
    drop(guards);
    let written = writer.await.expect("granted after the readers");
    scene.until_only(written.node()).await;
}

#[tokio::test]
async fn all_grants_of_a_node_have_its_token_and_the_next_node_has_a_larger_one() {
    let scene = Scene::new("token").await;
    let mut last = None;
    for _ in 0..3 {
        let first = scene.lock.acquire().await.expect("free");
        let (token, waiting) = (first.token(), begin(&scene.lock));
        drop(first);
        let second = waiting.await.expect("no panic").expect("granted");
        assert_eq!((second.token(), scene.nodes().await), (token, vec![second.node().to_owned()]));
        drop(second);
        assert!(last < Some(token));
        last = Some(token);
        scene.lock.let_go().await.expect("open");
        assert_eq!(scene.nodes().await, [""; 0]);
    }
}

#[tokio::test]
async fn tasks_are_served_in_the_order_of_their_requests_and_contenders_shows_one_node() {
    let scene = Scene::new("order").await;
    let first = scene.lock.acquire().await.expect("free");
    let mut line = Vec::new();
    for ahead in 1..=5 {
        let mut asked = Asked::new(&scene.lock);
        assert_eq!(asked.queued().await, ahead);
        line.push(asked);
    }
    let contenders = scene.lock.contenders().await.expect("connected");
    assert_eq!(contenders.iter().map(|it| it.token).collect::<Vec<_>>(), [first.token()]);
    let mut guard = first;
    while !line.is_empty() {
        assert!(line.iter_mut().all(Asked::waits));
        drop(guard);
        guard = line.remove(0).granted().await;
    }
}

#[tokio::test]
async fn requests_that_end_leave_the_others_their_places() {
    let scene = Scene::new("cancel").await;
    let guard = scene.lock.acquire().await.expect("free");
    let late = scene.lock.acquire_timeout(Duration::from_millis(50));
    let dropped = begin(&scene.lock);
    let (sender, mut cancelled) = tokio::sync::mpsc::unbounded_channel();
    let ticket = scene.lock.acquire().listen(move |event| drop(sender.send(event)));
    let mut last = Asked::new(&scene.lock);
    assert!(matches!(late.await, Err(AcquireTimeoutError::TimedOut { .. })));
    dropped.abort();
    scene.lock.cancel(ticket);
    while cancelled.recv().await.is_some() {}
    last.queued().await;
    assert!(matches!(scene.lock.try_acquire().await, Err(TryAcquireError::Contended { .. })));
    assert_eq!(scene.nodes().await, [guard.node()]);
    drop(guard);
    let guard = last.granted().await;
    assert_eq!(scene.nodes().await, [guard.node()]);
}

#[tokio::test]
async fn a_request_whose_caller_has_gone_does_not_keep_the_others() {
    let scene = Scene::new("gone").await;
    let guard = scene.lock.acquire().await.expect("free");
    let mut forgotten = Box::pin(scene.lock.acquire());
    assert!(futures::poll!(&mut forgotten).is_pending());
    let mut next = Asked::new(&scene.lock);
    next.queued().await;
    // It is granted while its future is not polled, and then dropped with the guard.
    drop(guard);
    drop(forgotten);
    drop(next.granted().await);
}

#[tokio::test]
async fn handles_of_other_options_do_not_share_the_node_and_all_are_served_in_order() {
    let scene = Scene::new("options").await;
    let named = scene.keeper.lock_with(&scene.path, lingering(HOUR).identifier("billing-7"));
    let named = named.expect("a valid path");
    let first = scene.lock.acquire().await.expect("free");
    let mut second = Asked::new(&named);
    assert_eq!(second.queued().await, 1);
    let mut third = Asked::new(&scene.lock);
    assert_eq!(third.queued().await, 2);
    scene.until_nodes(3).await;
    let tokens = [first.token(), {
        drop(first);
        let guard = second.granted().await;
        assert!(third.waits());
        guard.token()
    }];
    assert!(third.granted().await.token() > tokens[1] && tokens[1] > tokens[0]);
    // The same options of another handle share the node.
    scene.until_nodes(1).await;
    drop(open(&scene.keeper, &scene.path).acquire().await.expect("idle"));
    scene.until_nodes(1).await;
}

#[tokio::test]
async fn nodes_of_curators_names_linger_too() {
    let scene = Scene::new("curator").await;
    let options = lingering(HOUR).dialect(Dialect::Curator);
    let lock = scene.keeper.lock_with(&scene.path, options.clone()).expect("a valid path");
    let token = lock.acquire().await.expect("free").token();
    assert_eq!(lock.acquire().await.expect("idle").token(), token);
    let other = connect().await.lock_with(&scene.path, options).expect("a valid path");
    drop(other.acquire_timeout(SOON).await.expect("the idle node makes way"));
}

#[tokio::test]
async fn nodes_that_cannot_linger_are_refused_before_any_request() {
    let scene = Scene::new("refused").await;
    let (keeper, path) = (&scene.keeper, &scene.path);
    let refused = keeper.lock_with(path, lingering(HOUR).ephemeral(false)).err();
    assert!(matches!(refused, Some(InvalidHandle::CannotLinger { .. })), "{refused:?}");
    let refused = keeper.read_write_with(path, lingering(HOUR).ephemeral(false)).err();
    assert!(matches!(refused, Some(InvalidHandle::CannotLinger { .. })), "{refused:?}");
    let refused = keeper.multi_lock_with([(path.clone(), Mode::Lock)], lingering(HOUR)).err();
    assert!(matches!(refused, Some(InvalidHandle::CannotLinger { .. })), "{refused:?}");
    let refused = keeper.semaphore_with(path, 2, lingering(HOUR)).err();
    assert!(matches!(refused, Some(InvalidHandle::NotForSemaphores { .. })), "{refused:?}");
    assert_eq!(refused.expect("an error").to_string(), "a semaphore does not support lingering nodes");
    // The limit of waiting requests counts those that share a node.
    let limited = lingering(HOUR).max_waiting(1);
    let lock = keeper.lock_with(path, LockOptions::clone(&limited)).expect("valid options");
    let guard = lock.acquire().await.expect("free");
    let mut waits = Asked::new(&lock);
    waits.queued().await;
    assert!(lock.acquire().await.is_err());
    drop(guard);
    drop(waits.granted().await);
}
