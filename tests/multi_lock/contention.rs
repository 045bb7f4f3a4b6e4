//! Many requests at once exclude each other, end, and leave nothing behind.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use lockkeeper::{LockOptions, Mode, MultiGuard};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{
    LIMIT, all, connect, connect_to, granted, listen, no_watch_left, nothing_left, one, paths, until_queued,
};
use crate::common::{TestServer, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn random_subsets_from_many_sessions_exclude_each_other_and_never_deadlock() {
    const ROUNDS: usize = 40;
    let server = TestServer::start();
    let paths = Arc::new(paths::<6>("random"));
    let witnesses: Arc<[Witness; 6]> = Arc::default();
    let (mut keepers, mut workers) = (Vec::new(), JoinSet::new());
    for session in 0..6 {
        let keeper = connect_to(&server.address(), Duration::from_secs(20)).await;
        for worker in 0..2 {
            let (keeper, paths, witnesses) = (keeper.clone(), paths.clone(), witnesses.clone());
            workers.spawn(async move {
                let mut random = Random(2 * session + worker);
                for _ in 0..ROUNDS {
                    let subset = random.subset(6);
                    let named = subset.iter().map(|(path, mode)| (&paths[*path], *mode));
                    let multi = keeper.multi_lock_with(named, LockOptions::new()).expect("paths");
                    let patience = Duration::from_micros(random.below(20_000) as u64);
                    let guard = match random.below(8) {
                        0 => multi.try_acquire().await.ok(),
                        1 => multi.acquire_timeout(patience).await.ok(),
                        2 => timeout(patience, multi.acquire())
                            .await
                            .ok()
                            .map(|granted| granted.expect("granted")),
                        _ => Some(multi.acquire().await.expect("granted")),
                    };
                    let Some(guard) = guard else { continue };
                    for (path, mode) in &subset {
                        let token = guard.token(&paths[*path]).expect("asked for").as_u64();
                        witnesses[*path].enter(*mode, token);
                    }
                    tokio::task::yield_now().await;
                    for (path, mode) in &subset {
                        witnesses[*path].leave(*mode);
                    }
                    drop(guard);
                }
            });
        }
        keepers.push(keeper);
    }
    timeout(LIMIT, workers.join_all()).await.expect("every worker should finish");
    nothing_left(&keepers[0], &paths[..]).await;
    no_watch_left(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_order_of_paths_does_not_matter_and_single_locks_interleave() {
    let (paths, mut workers) = (paths::<2>("order"), JoinSet::new());
    let witnesses: Arc<[Witness; 2]> = Arc::default();
    for worker in 0..6 {
        let (keeper, paths, witnesses) = (connect().await, paths.clone(), witnesses.clone());
        workers.spawn(async move {
            let backwards: Vec<String> = paths.iter().rev().cloned().collect();
            for _ in 0..25 {
                let token = |guard: &MultiGuard, path: &str| guard.token(path).expect("asked for").as_u64();
                match worker % 3 {
                    0 | 1 => {
                        let named = if worker % 3 == 0 { &paths[..] } else { &backwards[..] };
                        let guard = all(&keeper, named).acquire().await.expect("granted");
                        for (path, witness) in paths.iter().zip(&*witnesses) {
                            witness.enter(Mode::Lock, token(&guard, path));
                        }
                        tokio::task::yield_now().await;
                        witnesses.iter().for_each(|witness| witness.leave(Mode::Lock));
                    }
                    _ => {
                        let guard = one(&keeper, &paths[worker % 2]).acquire().await.expect("granted");
                        witnesses[worker % 2].enter(Mode::Lock, guard.token().as_u64());
                        tokio::task::yield_now().await;
                        witnesses[worker % 2].leave(Mode::Lock);
                    }
                }
            }
        });
    }
    timeout(LIMIT, workers.join_all()).await.expect("every worker should finish");
    nothing_left(&connect().await, &paths).await;
}

#[tokio::test]
async fn waiting_takes_one_watch_per_path_and_none_for_local_predecessors() {
    let server = TestServer::start();
    let address = server.address();
    let [theirs, ours] = [(); 2].map(|()| connect_to(&address, Duration::from_secs(20)));
    let (theirs, ours, paths) = (theirs.await, ours.await, paths::<3>("watches"));
    let held = all(&theirs, &paths).acquire().await.expect("free");
    let multi = all(&ours, &paths);
    let mut waiting: Vec<_> = (0..4).map(|_| listen(multi.acquire())).collect();
    for path in &paths {
        until_queued(&theirs, path, 5).await;
    }
    eventually("one watch per path", LIMIT, async || server.mntr("zk_watch_count") == 3).await;
    held.release().await.expect("released");
    for (_, events) in &mut waiting {
        drop(granted(events).await);
    }
    nothing_left(&theirs, &paths).await;
    assert_eq!(server.mntr("zk_watch_count"), 0);
}

#[tokio::test]
async fn requests_dropped_at_random_leave_no_node_and_no_task() {
    let (keeper, other, paths) = (connect().await, connect().await, paths::<3>("dropped"));
    let tasks = tokio::runtime::Handle::current().metrics();
    let before = tasks.num_alive_tasks();
    let multi = all(&keeper, &paths);
    let mut random = Random(7);
    for _ in 0..300 {
        let patience = Duration::from_micros(random.below(2_500) as u64);
        drop(timeout(patience, multi.acquire()).await);
    }
    for _ in 0..50 {
        let mut acquire = pin!(multi.acquire());
        assert!(acquire.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    let guard = timeout(LIMIT, multi.acquire()).await.expect("no contender is left");
    guard.expect("free").release().await.expect("released");
    nothing_left(&other, &paths).await;
    eventually("every task is gone", LIMIT, async || tasks.num_alive_tasks() <= before).await;
}

/// The holders of a path, counted by their own reports. A writer must be the only one.
#[derive(Default)]
struct Witness {
    inside: AtomicI64,
    newest: AtomicU64,
}

impl Witness {
    fn enter(&self, mode: Mode, token: u64) {
        match mode {
            Mode::Read => {
                assert!(
                    self.inside.fetch_add(1, Ordering::SeqCst) >= 0,
                    "a reader entered while a writer holds"
                );
                assert!(
                    self.newest.load(Ordering::SeqCst) < token,
                    "a reader's token is not larger than every writer's"
                );
            }
            _ => {
                assert_eq!(self.inside.swap(-1, Ordering::SeqCst), 0, "a writer is not alone");
                assert!(self.newest.swap(token, Ordering::SeqCst) < token, "a token did not grow");
            }
        }
    }

    fn leave(&self, mode: Mode) {
        match mode {
            Mode::Read => assert!(self.inside.fetch_sub(1, Ordering::SeqCst) > 0, "a writer entered"),
            _ => assert_eq!(self.inside.swap(0, Ordering::SeqCst), -1, "another client entered"),
        }
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % limit
    }

    /// Some paths in random order, each to write or to read.
    fn subset(&mut self, paths: usize) -> Vec<(usize, Mode)> {
        let mut rest: Vec<usize> = (0..paths).collect();
        let count = 1 + self.below(paths.min(4));
        let mode = |number| if number == 0 { Mode::Read } else { Mode::Write };
        (0..count).map(|_| (rest.swap_remove(self.below(rest.len())), mode(self.below(3)))).collect()
    }
}
