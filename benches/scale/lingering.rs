//! Many locks of one process that nobody wants, and whose nodes linger: their memory, and their requests at rest.

use std::time::Duration;

use futures::future::try_join_all;
use lockkeeper::{Keeper, Lock, LockOptions};
use tokio::time::sleep;

use crate::common::unique_path;
use crate::curve::{self, FLAT, Metric};
use crate::locks::{allocated, tenths, whole};
use crate::relay::Relay;
use crate::row::Progress;
use crate::site::Site;
use crate::{Bench, Result, SESSION_TIMEOUT};

pub fn run(bench: &Bench) -> Result<()> {
    let idle = Duration::from_secs(if bench.quick { 1 } else { 10 });
    let title = "Locks of one process, idle, each with a node that lingers on its own path";
    curve::draw(bench, title, &METRICS, move |address, size, progress| async move {
        measure(Site::connect(address).await?, size, progress, idle).await
    })
}

const HANDLES: &str = "allocated bytes, each handle";
const LINGERING: &str = "allocated bytes, each with its node";
const AT_REST: &str = "requests a second at rest";

const METRICS: [Metric; 3] = [
    // A plain lock that was acquired and released.
    Metric { name: HANDLES, show: whole, expected: FLAT },
    Metric { name: LINGERING, show: whole, expected: FLAT },
    // Heartbeats, and pings. Watches for which the session has no room have sessions of their own, which ping too.
    Metric { name: AT_REST, show: tenths, expected: None },
];

async fn measure(site: Site, size: usize, progress: Progress, idle: Duration) -> Result<()> {
    progress.begin("make the directories", size);
    let directory = unique_path("lingering");
    let paths: Vec<String> = (0..size).map(|number| format!("{directory}/{number:05}")).collect();
    site.make(&paths).await?;
    let relay = Relay::start(&site.address).await?;
    let keeper = Keeper::options().session_timeout(SESSION_TIMEOUT).connect(relay.address()).await?;

    let lingering = LockOptions::new().linger(Duration::from_secs(3600));
    for (name, options) in [(HANDLES, LockOptions::new()), (LINGERING, lingering)] {
        progress.begin(name, size);
        let before = allocated();
        let locks = cycled(&keeper, &paths, options, &progress).await?;
        until_quiet(&relay).await;
        progress.measured(name, allocated().saturating_sub(before) as f64 / size as f64);
        if name == LINGERING {
            let before = relay.counts();
            sleep(idle).await;
            let requests = (relay.counts() - before).requests;
            progress.measured(AT_REST, requests as f64 / idle.as_secs_f64());
            if site.children_of_all(&paths).await? != size {
                return Err("not all nodes linger".into());
            }
        }
        drop(locks);
        until_quiet(&relay).await;
    }
    keeper.close().await;
    Ok(())
}

/// Locks that have been acquired and released.
async fn cycled(
    keeper: &Keeper,
    paths: &[String],
    options: LockOptions,
    progress: &Progress,
) -> Result<Vec<Lock>> {
    let mut locks = Vec::new();
    for paths in paths.chunks(AT_ONCE) {
        let first = locks.len();
        for path in paths {
            locks.push(keeper.lock_with(path, options.clone())?);
        }
        drop(try_join_all(locks[first..].iter().map(Lock::acquire)).await?);
        progress.reached(locks.len());
    }
    Ok(locks)
}

/// Waits until there are hardly any requests.
async fn until_quiet(relay: &Relay) {
    loop {
        let before = relay.counts();
        sleep(Duration::from_millis(500)).await;
        if (relay.counts() - before).requests <= HEARTBEATS {
            return;
        }
    }
}

/// How many locks are acquired at the same time.
const AT_ONCE: usize = 250;

/// The heartbeats and pings that fit into half a second.
const HEARTBEATS: u64 = 4;
