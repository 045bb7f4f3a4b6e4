//! A process as its tasks see it: its clock, its sessions, its keeper, and the requests that wait.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use lockkeeper_actors::api::keep_alive::KeepAlive;
use lockkeeper_actors::keeper::Started;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::{ArmedPanics, Character, World};
use crate::client::Link;
use crate::coverage::{Fault, Stage};
use crate::ensemble::{Ensemble, Time, Wire, actor_of};
use crate::twins::Twin;

/// A process as its tasks see it.
pub struct Host {
    pub index: usize,
    pub quick: bool,
    pub twin: Twin,
    world: Arc<Mutex<World>>,
    pub(super) base: Instant,
    pub(super) begun: Time,
    /// How fast its clock runs, in thousandths of the servers' clocks.
    pub(super) rate: u64,
    pub(super) dead: AtomicBool,
    pub(super) calm: AtomicBool,
    pub links: Mutex<Vec<Arc<Link>>>,
    /// The newest session.
    pub session: AtomicI64,
    /// The beginnings of the nodes that outlive sessions, for the actor of each path.
    pub(super) outliving: Mutex<BTreeMap<String, String>>,
    /// The same for actors of paths that died. Their keeper deletes the nodes as long as it lives.
    pub(super) orphaned: Mutex<Vec<String>>,
    /// Whether an operator is at work in this process.
    pub(super) operated: AtomicBool,
    pub(super) opened: watch::Sender<Option<Arc<Opened>>>,
    pub(super) close: Notify,
    pub(super) closing: AtomicBool,
    pub wanted: Mutex<BTreeMap<u64, Wanted>>,
    pub armed: ArmedPanics,
    /// The number of callers that have finished.
    pub(super) finished: Mutex<usize>,
}

/// A running keeper.
pub struct Opened {
    pub started: Started,
    pub keep_alive: Arc<KeepAlive>,
}

/// A request that is not yet granted.
pub struct Wanted {
    pub paths: Vec<&'static str>,
    pub tried: bool,
    pub deadline: Option<Time>,
    pub cancel: Arc<Notify>,
}

/// What a fault hits.
#[derive(Clone, Copy)]
pub enum Hit<'a> {
    /// Every request of the process.
    Process,
    /// The requests on these paths.
    Paths(&'a [&'a str]),
    /// This request alone.
    Request(u64),
}

impl Host {
    pub(super) fn new(
        index: usize,
        world: Arc<Mutex<World>>,
        now: Time,
        rate: u64,
        character: Character,
    ) -> Host {
        Host {
            index,
            quick: character.quick,
            twin: character.twin,
            world,
            base: Instant::now(),
            begun: now,
            rate,
            dead: AtomicBool::new(false),
            calm: AtomicBool::new(false),
            links: Mutex::default(),
            session: AtomicI64::new(0),
            outliving: Mutex::default(),
            orphaned: Mutex::default(),
            operated: AtomicBool::new(false),
            opened: watch::Sender::new(None),
            close: Notify::new(),
            closing: AtomicBool::new(false),
            wanted: Mutex::default(),
            armed: ArmedPanics::default(),
            finished: Mutex::new(0),
        }
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    pub fn now(&self) -> Time {
        self.after(Duration::ZERO)
    }

    /// The time when this much will have passed on the process's own clock.
    pub fn after(&self, passed: Duration) -> Time {
        self.begun + (self.base.elapsed() + passed).as_millis() as Time * 1000 / self.rate
    }

    /// What the process's own clock shows at a time, or a little later.
    pub(super) fn at(&self, time: Time) -> Instant {
        self.base + Duration::from_millis((time.saturating_sub(self.begun) * self.rate).div_ceil(1000))
    }

    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    pub fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }

    /// Whether the process closes: then it opens no keeper any more.
    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    pub async fn opened(&self) -> Option<Arc<Opened>> {
        let mut opened = self.opened.subscribe();
        opened.wait_for(Option::is_some).await.ok()?.clone()
    }

    pub fn want(&self, key: u64, wanted: Wanted) {
        self.wanted.lock().unwrap().insert(key, wanted);
    }

    /// Whether there is a try for this path.
    pub fn is_tried(&self, path: &str) -> bool {
        self.wanted.lock().unwrap().values().any(|wanted| wanted.paths.contains(&path) && wanted.tried)
    }

    /// The requests that reach their deadline in this time.
    pub fn due(&self, time: std::ops::Range<Time>) -> Vec<u64> {
        let wanted = self.wanted.lock().unwrap();
        let due = |wanted: &Wanted| wanted.deadline.is_some_and(|deadline| time.contains(&deadline));
        wanted.iter().filter(|(_, wanted)| due(wanted)).map(|(key, _)| *key).collect()
    }

    /// Whether it still waits.
    pub fn is_open(&self, key: u64) -> bool {
        !self.world().witness.is_answered(key)
    }

    pub fn cancel(&self, key: u64) -> bool {
        let now = self.now();
        self.strike(Fault::Cancelled, Hit::Request(key));
        self.world().witness.cancelled(key, now);
        true
    }

    /// The connection and the session, if there are any.
    pub fn up(&self) -> Option<(Wire, i64)> {
        self.links.lock().unwrap().iter().find_map(|link| link.up())
    }

    /// The stages of what a fault hits.
    pub fn stages(&self, hit: Hit<'_>) -> BTreeSet<Stage> {
        let (own, paths) = match hit {
            Hit::Process => (None, None),
            Hit::Paths(paths) => (None, Some(paths.to_vec())),
            Hit::Request(key) => match self.paths_of(key) {
                Some(paths) => (Some(key), Some(paths)),
                None => return BTreeSet::new(),
            },
        };
        let paths = paths.as_deref();
        let links = self.links.lock().unwrap().clone();
        let mut stages: BTreeSet<Stage> = links.iter().flat_map(|link| link.stages(paths)).collect();
        let is_wanted = |wanted: &Wanted| paths.is_none_or(|paths| wanted.is_on(paths));
        let idle = links.iter().all(|link| link.up().is_none())
            && self.wanted.lock().unwrap().values().any(is_wanted);
        stages.extend(idle.then_some(Stage::Idle));
        stages.extend(self.world().witness.holds(self.index, paths).then_some(Stage::Held));
        if own.is_some() {
            // These belong to requests that were granted or given up before.
            stages.retain(|stage| !matches!(stage, Stage::Held | Stage::Deleting | Stage::Following));
        }
        stages
    }

    /// The paths of a request, if the process waits for no other one on them. Otherwise it is not known which of them
    /// something on its way belongs to.
    fn paths_of(&self, key: u64) -> Option<Vec<&'static str>> {
        let wanted = self.wanted.lock().unwrap();
        let paths = wanted.get(&key)?.paths.clone();
        let alone = wanted.iter().all(|(other, wanted)| *other == key || !wanted.is_on(&paths));
        alone.then_some(paths)
    }

    pub fn strike(&self, fault: Fault, hit: Hit<'_>) {
        let stages = self.stages(hit);
        self.world().coverage.mark(fault, stages);
    }

    /// Called when a path's actor creates a node that outlives sessions.
    pub fn note_outliving(&self, path: &str, node: &str) {
        self.outliving.lock().unwrap().insert(path.to_owned(), actor_of(node).to_owned());
    }

    /// The actors of all paths have ended with their keeper.
    pub(super) fn keeper_died(&self, ensemble: &mut Ensemble) {
        let outliving = std::mem::take(&mut *self.outliving.lock().unwrap()).into_values();
        let orphaned = std::mem::take(&mut *self.orphaned.lock().unwrap());
        for beginning in outliving.chain(orphaned) {
            ensemble.died(beginning, self.session.load(Ordering::Relaxed));
        }
    }
}

impl Wanted {
    fn is_on(&self, paths: &[&str]) -> bool {
        self.paths.iter().any(|path| paths.contains(path))
    }
}
