//! Many contenders of one process on one path: waiters of a lock, readers, claims of a semaphore.

use std::collections::HashSet;
use std::time::Instant;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::common::unique_path;
use crate::curve::{self, FLAT, Metric, milliseconds};
use crate::process::{Entrance, Event, Events, Kind, Library, Process, Release};
use crate::row::Progress;
use crate::site::Site;
use crate::{Bench, Result};

pub fn waiters(bench: &Bench) -> Result<()> {
    let libraries = [Library::Lockkeeper, Library::ZookeeperClient, Library::Kazoo, Library::Curator];
    compare(bench, Kind::Lock, "Waiters of one process behind a stranger", &libraries)
}

pub fn readers(bench: &Bench) -> Result<()> {
    let libraries = [Library::Lockkeeper, Library::Kazoo, Library::Curator];
    compare(bench, Kind::Reader, "Readers of one process behind a strange writer", &libraries)
}

pub fn claims(bench: &Bench) -> Result<()> {
    let libraries = [Library::Lockkeeper, Library::Kazoo];
    compare(
        bench,
        Kind::Permit { limit: 10 },
        "Claims of one process, strangers hold all 10 permits",
        &libraries,
    )
}

/// As `claims`, but the process itself holds the permits.
pub fn pool(bench: &Bench) -> Result<()> {
    let limit = u32::try_from(bench.times(1_000))?;
    for library in bench.libraries(&[Library::Lockkeeper, Library::Kazoo]) {
        let title = format!("Claims of one process that holds all {limit} permits: {}", library.name());
        let (metrics, held) = (metrics(library, Kind::Permit { limit }), limit as usize);
        curve::draw(bench, &title, &metrics, move |address, size, progress| async move {
            let site = Site::connect(address).await?;
            let process = Process::connect(library, &site.address).await?;
            for round in 0..rounds(size + held) {
                Crowd::behind_itself(&site, &process, limit, size, progress.clone()).await?.pass().await?;
                forget_warm_up(size + held, round, &progress);
            }
            process.close().await;
            Ok(())
        })?;
    }
    Ok(())
}

fn compare(bench: &Bench, kind: Kind, title: &str, libraries: &[Library]) -> Result<()> {
    for library in bench.libraries(libraries) {
        let (title, metrics) = (format!("{title}: {}", library.name()), metrics(library, kind));
        curve::draw(bench, &title, &metrics, move |address, size, progress| async move {
            let site = Site::connect(address).await?;
            let process = Process::connect(library, &site.address).await?;
            for round in 0..rounds(size) {
                let progress = progress.clone();
                let crowd = Crowd::behind_strangers(&site, &process, library, kind, size, progress.clone());
                crowd.await?.pass().await?;
                forget_warm_up(size, round, &progress);
            }
            process.close().await;
            Ok(())
        })?;
    }
    Ok(())
}

const QUEUE: &str = "queue";
const QUEUE_AGAIN: &str = "queue in the next session";
const GRANT: &str = "grant";
const RELEASE: &str = "release";
const DRAIN: &str = "grant and release in turn";

/// Milliseconds for each contender.
fn metrics(library: Library, kind: Kind) -> Vec<Metric> {
    let is_ours = library == Library::Lockkeeper;
    let phases: &[&str] = match kind {
        Kind::Lock if is_ours => &[QUEUE, QUEUE_AGAIN, DRAIN],
        Kind::Reader if is_ours => &[QUEUE, QUEUE_AGAIN, GRANT, RELEASE],
        Kind::Reader => &[QUEUE, GRANT, RELEASE],
        Kind::Lock | Kind::Permit { .. } => &[QUEUE, DRAIN],
    };
    let expected = if is_ours { FLAT } else { None };
    phases.iter().map(|name| Metric { name, show: milliseconds, expected }).collect()
}

/// Few requests take so little time that they need several rounds, and one before that is not counted.
fn rounds(requests: usize) -> usize {
    if requests < MANY { 6 } else { 1 }
}

fn forget_warm_up(requests: usize, round: usize, progress: &Progress) {
    if requests < MANY && round == 0 {
        progress.forget();
    }
}

const MANY: usize = 1_000;

/// Requests of one process on one path.
struct Crowd<'a> {
    site: &'a Site,
    process: &'a Process,
    progress: Progress,
    kind: Kind,
    size: usize,
    path: String,
    /// What holds the requests up, and is removed in the end.
    strangers: Vec<String>,
    held: Vec<Release>,
    entrance: Entrance,
    requests: Events,
    events: UnboundedReceiver<(usize, Event)>,
}

impl<'a> Crowd<'a> {
    async fn behind_strangers(
        site: &'a Site,
        process: &'a Process,
        library: Library,
        kind: Kind,
        size: usize,
        progress: Progress,
    ) -> Result<Crowd<'a>> {
        let path = unique_path("crowd");
        site.make(std::slice::from_ref(&path)).await?;
        let strangers = site.obstruct(kind, library.dialect(), &path).await?;
        let ((requests, events), entrance) = (unbounded_channel(), process.open(kind, &path)?);
        let held = Vec::new();
        Ok(Crowd { site, process, progress, kind, size, path, strangers, held, entrance, requests, events })
    }

    async fn behind_itself(
        site: &'a Site,
        process: &'a Process,
        limit: u32,
        size: usize,
        progress: Progress,
    ) -> Result<Crowd<'a>> {
        let (path, kind) = (unique_path("crowd"), Kind::Permit { limit });
        site.make(std::slice::from_ref(&path)).await?;
        site.store_limit(&path, limit).await?;
        let ((requests, events), entrance) = (unbounded_channel(), process.open(kind, &path)?);
        let (strangers, held) = (Vec::new(), Vec::new());
        let mut crowd =
            Crowd { site, process, progress, kind, size, path, strangers, held, entrance, requests, events };
        crowd.fill(limit as usize).await?;
        Ok(crowd)
    }

    /// Acquires permits that stay held. Their numbers are those after the crowd's.
    async fn fill(&mut self, permits: usize) -> Result<()> {
        self.progress.begin("hold all permits", permits);
        (0..permits).for_each(|permit| self.entrance.request(self.size + permit, &self.requests));
        while self.held.len() < permits {
            if let (_, Event::Granted(release)) = self.next().await? {
                self.held.push(release);
                self.progress.reached(self.held.len());
            }
        }
        Ok(())
    }

    /// All requests queue, and queue again in the next session; then all are granted and released.
    async fn pass(mut self) -> Result<()> {
        let begun = self.begin(QUEUE);
        (0..self.size).for_each(|number| self.entrance.request(number, &self.requests));
        self.until_queued().await?;
        self.end(QUEUE, begun, self.size);

        // Permits that this process holds would be lost, and a claim of a semaphore is told only once.
        if self.process.tells() && !matches!(self.kind, Kind::Permit { .. }) {
            self.progress.begin("lose the session", 1);
            self.process.lose_session().await?;
            let begun = self.begin(QUEUE_AGAIN);
            self.until_queued().await?;
            self.end(QUEUE_AGAIN, begun, self.size);
        }
        match self.kind {
            Kind::Reader => self.grant_then_release().await,
            Kind::Lock | Kind::Permit { .. } => self.drain().await,
        }
    }

    /// Each contender holds until all do.
    async fn grant_then_release(&mut self) -> Result<()> {
        let begun = self.begin(GRANT);
        self.site.delete_all(&self.strangers).await?;
        let mut held = Vec::new();
        while held.len() < self.size {
            if let (_, Event::Granted(release)) = self.next().await? {
                held.push(release);
                self.progress.reached(held.len());
            }
        }
        self.end(GRANT, begun, self.size);
        let begun = self.begin(RELEASE);
        held.into_iter().for_each(|release| release());
        self.until_released(0, self.size).await?;
        self.end(RELEASE, begun, self.size);
        Ok(())
    }

    /// Each contender releases as soon as it is granted.
    async fn drain(&mut self) -> Result<()> {
        let (begun, mut granted, mut released) = (self.begin(DRAIN), 0, 0);
        let before = self.held.len();
        self.site.delete_all(&self.strangers).await?;
        self.held.drain(..).for_each(|release| release());
        while granted < self.size {
            match self.next().await?.1 {
                Event::Granted(release) => {
                    release();
                    granted += 1;
                    self.progress.reached(granted);
                }
                Event::Released => released += 1,
                Event::Queued | Event::Failed(_) => {}
            }
        }
        let of = self.size + before;
        self.until_released(released, of).await?;
        self.end(DRAIN, begun, of);
        Ok(())
    }

    async fn until_queued(&mut self) -> Result<()> {
        if !self.process.tells() {
            let (expected, queue) = match self.kind {
                // kazoo's claims queue in a lock beside the semaphore.
                Kind::Permit { .. } => (self.size, format!("{}-__lock__", self.path)),
                Kind::Lock | Kind::Reader => (self.size + self.strangers.len(), self.path.clone()),
            };
            let reached = |count| self.progress.reached(count);
            let queued = self.site.until_children(&queue, |count| count >= expected, reached);
            return tokio::select! {
                queued = queued => queued,
                failure = failure(&mut self.events) => failure,
            };
        }
        let mut queued = HashSet::new();
        while queued.len() < self.size {
            if let (number, Event::Queued) = self.next().await? {
                queued.insert(number);
                self.progress.reached(queued.len());
            }
        }
        Ok(())
    }

    /// Waits until all releases are confirmed, of which some have been already, or until all nodes are gone.
    async fn until_released(&mut self, mut released: usize, of: usize) -> Result<()> {
        if !self.process.tells() {
            return self.site.until_children(&self.path, |count| count == 0, |_| ()).await;
        }
        while released < of {
            if let (_, Event::Released) = self.next().await? {
                released += 1;
                self.progress.reached(released);
            }
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<(usize, Event)> {
        match self.events.recv().await.ok_or("the requests have ended")? {
            (number, Event::Failed(reason)) => Err(format!("request {number}: {reason}").into()),
            event => Ok(event),
        }
    }

    fn begin(&self, phase: &'static str) -> Instant {
        self.progress.begin(phase, self.size);
        Instant::now()
    }

    fn end(&self, phase: &'static str, begun: Instant, contenders: usize) {
        self.progress.measured(phase, begun.elapsed().as_secs_f64() / contenders as f64);
    }
}

/// Waits for a request that fails. None is granted meanwhile.
async fn failure(events: &mut UnboundedReceiver<(usize, Event)>) -> Result<()> {
    while let Some((number, event)) = events.recv().await {
        if let Event::Failed(reason) = event {
            return Err(format!("request {number}: {reason}").into());
        }
    }
    Err("the requests have ended".into())
}
