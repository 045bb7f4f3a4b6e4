//! How long a process waits for a lock whose node lingers in another process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use lockkeeper::messages::LockEvent;
use lockkeeper::{Lock, LockGuard};
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::handoff::{self, Latency};
use crate::lingering::lingering;
use crate::report::{self, Expectation, Row};
use crate::{Bench, Result, TASKS, common};

const ROUNDS: usize = 200;

/// How long both processes are left alone before the stranger asks, so that the watch is set. It cannot be observed from
/// here.
const REST: Duration = Duration::from_millis(5);

pub async fn run(bench: Bench) -> Result<()> {
    let (first, second) = (bench.keeper().await?, bench.keeper().await?);
    let path = common::unique_path("stranger-plain");
    let plain = (first.lock(&path)?, second.lock(&path)?);
    let path = common::unique_path("stranger");
    let (ours, theirs) = (first.lock_with(&path, lingering())?, second.lock(&path)?);

    let rounds = bench.times(ROUNDS);
    let (mut handed, mut idle) = (Vec::new(), Waits::default());
    for _ in 0..rounds {
        handed.push(handoff::between(&plain).await?);
        drop(ours.acquire().await?);
        sleep(REST).await;
        idle.add(wait(&theirs, &Arc::default()).await?);
    }
    let cycling = beside_cycling(&ours, &theirs, rounds).await?;
    first.close().await;
    second.close().await;

    let floor = Latency::of(handed);
    let overtaken = |place: usize| cycling.overtaken.get(place).copied().unwrap_or_default();
    let overtaken = format!("p50 {} most {}", overtaken(rounds / 2), overtaken(rounds - 1));
    let row = |name: &str, latency: &Latency| Row::new(name, latency.to_string());
    let beyond = |name: &str, latency: Latency| {
        let ratio = latency.p50 / floor.p50;
        let text = format!("p50 {ratio:.2}, p99 {:.2} of a hand-off", latency.p99 / floor.p99);
        row(name, &latency).with(text, ratio, Expectation::AtMost(1.3))
    };
    report::print(
        &format!("Lingering: a stranger asks another process for its lock; {rounds} times"),
        &[
            row("hand-off of plain locks", &floor),
            row("idle: since it asked", &Latency::of(idle.asked)),
            beyond("idle: since it was queued", Latency::of(idle.beyond)),
            row("64 tasks cycle: since it asked", &Latency::of(cycling.asked)),
            beyond("64 tasks cycle: after the line", Latency::of(cycling.beyond)),
            Row::new("64 tasks cycle: grants meanwhile", overtaken),
        ],
    );
    Ok(())
}

#[derive(Default)]
struct Waits {
    asked: Vec<Duration>,
    beyond: Vec<Duration>,
    /// In ascending order.
    overtaken: Vec<u64>,
}

impl Waits {
    fn add(&mut self, (asked, beyond, overtaken): (Duration, Duration, u64)) {
        self.asked.push(asked);
        self.beyond.push(beyond);
        let place = self.overtaken.partition_point(|other| *other < overtaken);
        self.overtaken.insert(place, overtaken);
    }
}

/// What the tasks of the other process do.
struct Cycles {
    begun: Instant,
    grants: AtomicU64,
    /// When the last one was released, in nanoseconds.
    released: AtomicU64,
    over: AtomicBool,
}

impl Default for Cycles {
    fn default() -> Cycles {
        let (grants, released, over) = Default::default();
        Cycles { begun: Instant::now(), grants, released, over }
    }
}

async fn beside_cycling(ours: &Lock, theirs: &Lock, rounds: usize) -> Result<Waits> {
    let cycles = Arc::<Cycles>::default();
    let tasks: Vec<_> = (0..TASKS).map(|_| tokio::spawn(cycle(ours.clone(), cycles.clone()))).collect();
    let mut waits = Waits::default();
    for _ in 0..rounds {
        sleep(REST).await;
        waits.add(wait(theirs, &cycles).await?);
    }
    cycles.over.store(true, Ordering::Relaxed);
    try_join_all(tasks).await?.into_iter().collect::<Result<()>>()?;
    Ok(waits)
}

async fn cycle(lock: Lock, cycles: Arc<Cycles>) -> Result<()> {
    while !cycles.over.load(Ordering::Relaxed) {
        let guard = lock.acquire().await?;
        cycles.grants.fetch_add(1, Ordering::SeqCst);
        cycles.released.store(cycles.begun.elapsed().as_nanos() as u64, Ordering::SeqCst);
        drop(guard);
    }
    Ok(())
}

/// The time since the stranger asked, the time that it waited in the queue after the last release of the others, and
/// their grants while it was in the queue.
async fn wait(stranger: &Lock, cycles: &Arc<Cycles>) -> Result<(Duration, Duration, u64)> {
    let (sender, mut events) = mpsc::unbounded_channel();
    let asked = Instant::now();
    let seen = cycles.clone();
    stranger.acquire().listen(move |event: LockEvent<LockGuard>| {
        drop(sender.send((Instant::now(), seen.grants.load(Ordering::SeqCst), event)));
    });
    let mut queued = None;
    loop {
        match events.recv().await.ok_or("the request has ended")? {
            (at, grants, LockEvent::Enqueued { .. }) => {
                queued.get_or_insert((at, grants));
            }
            (at, grants, LockEvent::Acquired { guard, .. }) => {
                let released = cycles.begun + Duration::from_nanos(cycles.released.load(Ordering::SeqCst));
                guard.release().await?;
                let (queued, before) = queued.unwrap_or((at, grants));
                return Ok((at - asked, at - queued.max(released), grants - before));
            }
            (_, _, other) => return Err(format!("not granted: {other:?}").into()),
        }
    }
}
