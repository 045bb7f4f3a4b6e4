//! A run in which every machine has something to decide.

use std::time::Duration;

use lockkeeper::record::Recording;
use lockkeeper::run::{LeaseEvent, LeaseView, StopPolicy};
use lockkeeper::session::SessionEvent;
use lockkeeper::{Keeper, LockOptions};
use lockkeeper_actors::record::{Step, steps};
use ractor::{ActorProcessingErr, ActorRef};

use super::ROOM;
use super::common::events::session_event;
use super::common::{BRISK, SOON, eventually, options, proxied, refusal, shared, unique_path};

/// The record of all scenes.
pub async fn all() -> Vec<Step> {
    let (recording, proxy) = (Recording::new(ROOM), proxied().await);
    let recorded = options().session_timeout(BRISK).record(&recording);
    let keeper = recorded.connect(&proxy.address()).await.expect("should connect");
    let stranger = options().connect(&shared().address()).await.expect("should connect");
    twice(&keeper).await;
    given_up(&keeper).await;
    // The node of the other process, and ours: one for each request, or one for all.
    locks(&keeper, &stranger, LockOptions::new(), 1 + 9).await;
    locks(&keeper, &stranger, LockOptions::new().linger(Duration::from_millis(20)), 1 + 1).await;
    readers(&keeper).await;
    permits(&keeper, &stranger).await;
    several(&keeper).await;
    actors(&keeper).await;
    let guard = keeper.lock(&unique_path("recorded")).expect("a path").acquire().await.expect("it is free");
    let mut events = keeper.events();
    proxy.cut();
    session_event(&mut events, SessionEvent::Resumed { epoch: 1 }).await;
    drop(guard);
    keeper.close().await;
    assert_eq!(recording.dropped(), 0);
    steps(&recording)
}

/// A free lock, once and again.
async fn twice(keeper: &Keeper) {
    let lock = keeper.lock(&unique_path("record-twice")).expect("a path");
    for _ in 0..2 {
        lock.acquire().await.expect("it is free").release().await.expect("held");
    }
}

/// A request that is cancelled while its node is being made.
async fn given_up(keeper: &Keeper) {
    let lock = keeper.lock(&unique_path("record-given-up")).expect("a path");
    lock.acquire().await.expect("it is free").release().await.expect("held");
    let mut asked = lock.acquire();
    assert!(futures::poll!(&mut asked).is_pending());
    drop(asked);
    lock.acquire().await.expect("it is free").release().await.expect("held");
}

/// Grants in turn, a cancel, a timeout, a try, and a holder of another process.
async fn locks(keeper: &Keeper, stranger: &Keeper, options: LockOptions, nodes: usize) {
    let path = unique_path("record");
    let lock = keeper.lock_with(&path, options).expect("valid options");
    let theirs = stranger.lock(&path).expect("a path").acquire().await.expect("it is free");
    let workers: Vec<_> = (0..8)
        .map(|_| {
            let lock = lock.clone();
            tokio::spawn(async move { lock.acquire().await.expect("connected").release().await })
        })
        .collect();
    refusal(lock.acquire_timeout(Duration::from_millis(10)).await);
    let cancelled = tokio::spawn(lock.acquire());
    eventually("our requests wait", SOON, async || {
        lock.contenders().await.is_ok_and(|contenders| contenders.len() == nodes)
    })
    .await;
    refusal(lock.try_acquire().await);
    cancelled.abort();
    theirs.release().await.expect("held");
    for worker in workers {
        worker.await.expect("no panic").expect("held");
    }
}

/// Two readers under one node that lingers.
async fn readers(keeper: &Keeper) {
    let options = LockOptions::new().linger(SOON);
    let lock = keeper.read_write_with(&unique_path("record-read"), options).expect("valid options");
    let lock = lock.read();
    let both = [lock.acquire().await.expect("it is free"), lock.acquire().await.expect("it is shared")];
    drop(both);
}

/// Permits: for two requests at once, beside others of the same client, behind the mutex of another process, split and
/// merged.
async fn permits(keeper: &Keeper, stranger: &Keeper) {
    let path = unique_path("record-semaphore");
    let (semaphore, others) = (keeper.semaphore(&path, 4), stranger.semaphore(&path, 4));
    let (semaphore, others) = (semaphore.expect("a path"), others.expect("a path"));
    let theirs = others.acquire().await.expect("free");
    let mut two = semaphore.acquire_many(2).await.expect("free");
    let one = semaphore.acquire().await.expect("free");
    let part = two.split(1).expect("one of two");
    two.merge(part).expect("of the same semaphore");
    let mutex = stranger.lock(&format!("{path}-__lock__")).expect("a path");
    let waits = async |count| {
        eventually("it waits for permits or the mutex", SOON, async || {
            mutex.contenders().await.is_ok_and(|contenders| contenders.len() == count)
        })
        .await;
    };
    drop(theirs);
    let theirs = tokio::spawn(others.acquire_many(4));
    waits(1).await;
    let ours = tokio::spawn(semaphore.acquire_many(4));
    waits(2).await;
    two.release().await.expect("held");
    one.release().await.expect("held");
    drop(theirs.await.expect("no panic").expect("granted"));
    ours.await.expect("no panic").expect("granted").release().await.expect("held");
    let both = [semaphore.acquire(), semaphore.acquire()];
    for guard in futures::future::try_join_all(both).await.expect("free") {
        guard.release().await.expect("held");
    }
}

/// Several locks at once.
async fn several(keeper: &Keeper) {
    let paths = [unique_path("record-multi"), unique_path("record-multi")];
    let multi = keeper.multi_lock(&paths).expect("two paths");
    multi.acquire().await.expect("free").release().await.expect("held");
}

/// A singleton, and an actor under a guard.
async fn actors(keeper: &Keeper) {
    let (make, tell) = (|_: LeaseView| (Worker, ()), |_: LeaseEvent| None);
    let singleton = keeper.singleton(&unique_path("record-singleton")).expect("a path");
    let mut candidate = singleton.run(make, tell);
    candidate.running().await;
    candidate.shutdown().await;
    let guard = keeper.lock(&unique_path("record-run")).expect("a path").acquire().await.expect("free");
    let run = guard.run(StopPolicy::default(), make, tell);
    run.stop();
    drop(run.ended().await.expect("the guard was held"));
}

struct Worker;

#[ractor::actor(message = (), state = (), arguments = ())]
impl Worker {
    async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}
