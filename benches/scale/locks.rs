//! Many locks of one process, each of which waits for a stranger on a path of its own: their memory, their requests at
//! rest, and a reconnect.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{sleep, timeout};

use crate::common::unique_path;
use crate::curve::{self, FLAT, Metric};
use crate::process::{Entrance, Event, Events, Kind, Library, Process};
use crate::report::Expectation;
use crate::row::Progress;
use crate::site::{self, Site};
use crate::{ALLOCATOR, Bench, Result, machine};

pub fn run(bench: &Bench) -> Result<()> {
    let (idle, fresh) = (Duration::from_secs(if bench.quick { 1 } else { 10 }), machine::resident());
    for library in bench.libraries(&[Library::Lockkeeper, Library::ZookeeperClient]) {
        let title =
            format!("Locks of one process, each behind a stranger on its own path: {}", library.name());
        let metrics: Vec<Metric> = match library {
            Library::Lockkeeper => METRICS.into(),
            // What the rows before have left is in memory.
            _ => METRICS.into_iter().filter(|metric| metric.name != RESIDENT).map(Metric::reported).collect(),
        };
        curve::draw(bench, &title, &metrics, move |address, size, progress| async move {
            measure(Site::connect(address).await?, library, size, progress, idle, fresh).await
        })?;
    }
    Ok(())
}

const QUEUE: &str = "queue, each";
const ALLOCATED: &str = "allocated bytes, each";
const RESIDENT: &str = "resident bytes, each";
const AT_REST: &str = "requests a second at rest";
const RECONNECT: &str = "reconnect";
const REQUESTS: &str = "requests for a reconnect, each";
const LEFT: &str = "nodes after it, of those before";

const METRICS: [Metric; 7] = [
    Metric { name: QUEUE, show: curve::milliseconds, expected: FLAT },
    Metric { name: ALLOCATED, show: whole, expected: FLAT },
    // More than at the start of the bench, so what the rows before needed and still have is not left out.
    Metric { name: RESIDENT, show: whole, expected: None },
    // Heartbeats and pings, which do not depend on the number of locks.
    Metric { name: AT_REST, show: tenths, expected: FLAT },
    // Until a free lock is granted, and there are hardly more requests than at rest.
    Metric { name: RECONNECT, show: curve::milliseconds, expected: None },
    Metric { name: REQUESTS, show: hundredths, expected: FLAT },
    Metric { name: LEFT, show: hundredths, expected: Some(Expectation::AtLeast(1.0)) },
];

async fn measure(
    site: Site,
    library: Library,
    size: usize,
    progress: Progress,
    idle: Duration,
    fresh: usize,
) -> Result<()> {
    progress.begin("make the strangers' nodes", size);
    let directory = unique_path("locks");
    let paths: Vec<String> = (0..size).map(|number| format!("{directory}/{number:05}")).collect();
    site.make(&paths).await?;
    let strangers: Vec<String> =
        paths.iter().map(|path| site::stranger(Kind::Lock, library.dialect(), path)).collect();
    site.strangers(&strangers).await?;

    let process = Process::connect(library, &site.address).await?;
    let (requests, events) = unbounded_channel();
    // Has its room from the beginning, so that it does not count as memory of the locks.
    let open = Vec::with_capacity(size);
    let mut locks = Locks { site, process, progress, paths, requests, events, open };
    let allocated = allocated();
    locks.queue().await?;
    locks.measured_each(ALLOCATED, self::allocated().saturating_sub(allocated) as f64);
    locks.measured_each(RESIDENT, machine::resident().saturating_sub(fresh) as f64);
    let at_rest = locks.rest(idle).await;
    locks.reconnect(at_rest).await?;
    // Closing may take longer than the row; the connection ends with the runtime.
    let _ = timeout(MOMENT, locks.process.close()).await;
    Ok(())
}

/// Locks of one process that wait for strangers.
struct Locks {
    site: Site,
    process: Process,
    progress: Progress,
    paths: Vec<String>,
    requests: Events,
    events: UnboundedReceiver<(usize, Event)>,
    /// They stay open, like those of an application.
    open: Vec<Entrance>,
}

impl Locks {
    async fn queue(&mut self) -> Result<()> {
        let size = self.paths.len();
        self.progress.begin("queue", size);
        let begun = Instant::now();
        for (number, path) in self.paths.iter().enumerate() {
            let lock = self.process.open(Kind::Lock, path)?;
            lock.request(number, &self.requests);
            self.open.push(lock);
        }
        if self.process.tells() {
            for queued in 1..=size {
                self.until(|event| matches!(event, Event::Queued)).await?;
                self.progress.reached(queued);
            }
        } else {
            while self.site.children_of_all(&self.paths).await? < 2 * size {}
        }
        self.measured_each(QUEUE, begun.elapsed().as_secs_f64());
        self.progress.begin("come to rest", size);
        until_quiet(&self.process, None).await;
        Ok(())
    }

    /// Returns the number of requests a second.
    async fn rest(&self, idle: Duration) -> f64 {
        let before = self.process.relay.counts();
        sleep(idle).await;
        let at_rest = (self.process.relay.counts() - before).requests as f64 / idle.as_secs_f64();
        self.progress.measured(AT_REST, at_rest);
        at_rest
    }

    async fn reconnect(&mut self, at_rest: f64) -> Result<()> {
        let size = self.paths.len();
        self.progress.begin("reconnect", size);
        let before = self.process.relay.counts();
        self.process.relay.interrupt();
        sleep(MOMENT).await;
        self.process.relay.resume();
        let begun = Instant::now();
        self.process.open(Kind::Lock, &unique_path("free"))?.request(size, &self.requests);
        self.until(|event| matches!(event, Event::Granted(_))).await?;
        let granted = Instant::now();
        let quiet = until_quiet(&self.process, Some((2.0 * at_rest) as u64)).await;
        self.progress.measured(RECONNECT, (granted.max(quiet) - begun).as_secs_f64());

        let (requests, usual) =
            (self.process.relay.counts() - before, at_rest * begun.elapsed().as_secs_f64());
        self.measured_each(REQUESTS, (requests.requests as f64 - usual).max(0.0));
        if self.process.session().is_some_and(|(epoch, _)| epoch != 1) {
            return Err("the session was lost".into());
        }
        let left = self.site.children_of_all(&self.paths).await?.saturating_sub(size);
        self.measured_each(LEFT, left as f64);
        Ok(())
    }

    async fn until(&mut self, is_wanted: impl Fn(&Event) -> bool) -> Result<()> {
        loop {
            match self.events.recv().await.ok_or("the requests have ended")? {
                (number, Event::Failed(reason)) => return Err(format!("lock {number}: {reason}").into()),
                (_, event) if is_wanted(&event) => return Ok(()),
                _ => {}
            }
        }
    }

    fn measured_each(&self, name: &'static str, total: f64) {
        self.progress.measured(name, total / self.paths.len() as f64);
    }
}

/// Waits until the process is connected and for a window's time has sent hardly more than `at_rest`, or than in the
/// window before, and returns when that began.
async fn until_quiet(process: &Process, at_rest: Option<u64>) -> Instant {
    let mut samples = VecDeque::new();
    loop {
        let sample = (Instant::now(), process.relay.counts().requests);
        samples.push_front(sample);
        samples.truncate(2 * SAMPLES + 1);
        let is_connected = process.session().is_none_or(|(_, is_connected)| is_connected);
        if let Some((begun, then)) = samples.get(SAMPLES) {
            let before = samples.get(2 * SAMPLES).map(|(_, before)| then - before);
            let is_quiet = |usual| sample.1 - then <= usual + usual / 2 + HEARTBEATS;
            if is_connected && at_rest.or(before).is_some_and(is_quiet) {
                return *begun;
            }
        }
        sleep(SAMPLE).await;
    }
}

/// How long the connection is cut.
const MOMENT: Duration = Duration::from_millis(100);

/// Two seconds, the window in which requests are counted, are this many samples. Watched paths that are polled once a
/// second are polled two times in it.
const SAMPLES: usize = 100;
const SAMPLE: Duration = Duration::from_millis(20);

/// The heartbeats and pings that fit into a window.
const HEARTBEATS: u64 = 4;

/// The bytes that the whole process has allocated.
pub fn allocated() -> usize {
    let stats = ALLOCATOR.stats();
    // The bytes that a reallocation adds or takes away are among those of the allocations and deallocations.
    stats.bytes_allocated.saturating_sub(stats.bytes_deallocated)
}

pub fn whole(value: f64) -> String {
    format!("{value:.0}")
}

pub fn tenths(value: f64) -> String {
    format!("{value:.1}")
}

fn hundredths(value: f64) -> String {
    format!("{value:.2}")
}
