//! How long a lock is idle between two processes: from the release of one to the grant of the other.

use std::fmt;
use std::time::{Duration, Instant};

use futures::future::try_join;
use lockkeeper::Lock;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use zookeeper_client::{Acls, Client, CreateMode};

use crate::plain::PlainLock;
use crate::report::{self, Row};
use crate::spread::percentile;
use crate::{Bench, Error, Result, common, floors};

const HANDOFFS: usize = 300;

/// How long the first client holds, so that the second one's watch is set and both clients are idle before the time
/// begins. The watch cannot be observed from here.
const HOLD: Duration = Duration::from_millis(5);

pub async fn run(bench: Bench) -> Result<()> {
    let (first, second) = (bench.keeper().await?, bench.keeper().await?);
    let clients = (floors::connect(&bench.address).await?, floors::connect(&bench.address).await?);
    let path = common::unique_path("handoff");
    let locks = (first.lock(&path)?, second.lock(&path)?);
    let path = common::unique_path("handoff-plain");
    floors::make_directory(&clients.0, &path).await?;
    let plain = (PlainLock::new(clients.0.clone(), &path), PlainLock::new(clients.1.clone(), &path));

    let (mut ours, mut plain_times, mut floor) = (Vec::new(), Vec::new(), Vec::new());
    let warm_up = bench.times(HANDOFFS / 6);
    for round in 0..warm_up + bench.times(HANDOFFS) {
        let times = (between(&locks).await?, watch(&clients).await?, between_plain(&plain).await?);
        if round >= warm_up {
            ours.push(times.0);
            floor.push(times.1);
            plain_times.push(times.2);
        }
    }
    first.close().await;
    second.close().await;

    let floor = Latency::of(floor);
    let row = |name, latency: &Latency| Row::new(name, latency.to_string());
    let compared_to_floor = |name, latency: &Latency| {
        let ratio = latency.p50 / floor.p50;
        let text = format!("p50 {ratio:.2}, p99 {:.2} of watch → delete", latency.p99 / floor.p99);
        row(name, latency).with(text, ratio, None)
    };
    report::print(
        &format!("From release to grant, between two sessions; {} hand-offs", bench.times(HANDOFFS)),
        &[
            compared_to_floor("release → grant", &Latency::of(ours)),
            compared_to_floor("plain recipe", &Latency::of(plain_times)),
            row("watch → delete", &floor),
        ],
    );
    Ok(())
}

pub struct Latency {
    pub p50: f64,
    pub p99: f64,
}

impl Latency {
    pub fn of(mut times: Vec<Duration>) -> Latency {
        times.sort();
        let times: Vec<f64> = times.iter().map(Duration::as_secs_f64).collect();
        Latency { p50: percentile(&times, 0.5), p99: percentile(&times, 0.99) }
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p50 {:.0} p99 {:.0} µs", self.p50 * 1e6, self.p99 * 1e6)
    }
}

/// The time between the release of one and the grant of the other.
pub async fn between((first, second): &(Lock, Lock)) -> Result<Duration> {
    let held = first.acquire().await?;
    let pending = second.acquire();
    let granted = tokio::spawn(async move {
        let guard = pending.await?;
        Ok((Instant::now(), guard))
    });
    while second.contenders().await?.len() < 2 {}
    sleep(HOLD).await;
    let begun = Instant::now();
    let ((), (at, guard)) = both(held.release(), granted).await?;
    guard.release().await?;
    Ok(at - begun)
}

async fn between_plain((first, second): &(PlainLock, PlainLock)) -> Result<Duration> {
    let held = first.acquire().await?;
    let second = second.clone();
    let granted = tokio::spawn(async move {
        let guard = second.acquire().await?;
        Ok((Instant::now(), guard))
    });
    // Twice as long, because this lock cannot list its contenders to see when the second one is queued.
    sleep(2 * HOLD).await;
    let begun = Instant::now();
    let ((), (at, guard)) = both(held.release(), granted).await?;
    guard.release().await?;
    Ok(at - begun)
}

/// The lower bound: only a watch and the delete that fires it.
async fn watch((first, second): &(Client, Client)) -> Result<Duration> {
    let node = common::unique_path("watched");
    first.create(&node, b"", &CreateMode::Ephemeral.with_acls(Acls::anyone_all())).await?;
    let (_, _, watcher) = second.get_and_watch_data(&node).await?;
    let fired = tokio::spawn(async move {
        watcher.changed().await;
        Ok(Instant::now())
    });
    sleep(HOLD).await;
    let begun = Instant::now();
    let ((), at) = both(first.delete(&node, None), fired).await?;
    Ok(at - begun)
}

async fn both<T, E: Into<Error>>(
    release: impl Future<Output = std::result::Result<(), E>>,
    granted: JoinHandle<Result<T>>,
) -> Result<((), T)> {
    let release = async { release.await.map_err(Into::into) };
    try_join(release, async { granted.await? }).await
}
