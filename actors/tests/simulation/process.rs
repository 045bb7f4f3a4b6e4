//! A process: a runtime with a keeper and callers, and its own time.
//!
//! The runtime's clock is paused, and the simulation runs one process after the other up to the same moment. Each step
//! is so short that nothing sent by one process can reach another within it. A paused process is not run, and its clock
//! jumps when it runs again. A killed process is a runtime that is dropped.
//!
//! The clock of a process runs at a rate of its own. Everything else, also what simulates its client library, uses the
//! servers' time.

mod panics;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::FutureExt;
use lockkeeper_actors::api::event::SessionEvent;
use lockkeeper_actors::api::keep_alive::KeepAlive;
use lockkeeper_actors::api::messages::RegistryMessage;
use lockkeeper_actors::keeper::{self, KeeperMessage, KeeperSettings, RestartPolicy, Started};
use lockkeeper_actors::metrics::Metrics;
use lockkeeper_actors::{Clock, Randomness};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;

use self::panics::CURRENT;
pub use self::panics::{ArmedPanics, PanicOnLog, disarm};
use crate::callers::{caller, resources};
use crate::client::{Dialer, Link};
use crate::coverage::{Coverage, Fault, Stage};
use crate::ensemble::{Ensemble, TICK, Time, actor_of};
use crate::operator;
use crate::random::Random;
use crate::twins::Twin;
use crate::witness::Witness;

/// The state shared by all processes.
pub struct World {
    pub ensemble: Ensemble,
    pub witness: Witness,
    pub coverage: Coverage,
}

/// The properties in which schedules differ.
#[derive(Clone, Copy, Debug)]
pub struct Character {
    pub callers: usize,
    /// Whether the keepers know the server's tick.
    pub tick: bool,
    /// Whether locks are held only for short times.
    pub quick: bool,
    pub twin: Twin,
}

/// A process as its tasks see it.
pub struct Host {
    pub index: usize,
    pub quick: bool,
    pub twin: Twin,
    world: Arc<Mutex<World>>,
    base: Instant,
    begun: Time,
    /// How fast its clock runs, in thousandths of the servers' clocks.
    rate: u64,
    dead: AtomicBool,
    calm: AtomicBool,
    pub links: Mutex<Vec<Arc<Link>>>,
    /// The newest session.
    pub session: AtomicI64,
    /// The beginnings of the nodes that outlive sessions, for the actor of each path.
    outliving: Mutex<BTreeMap<String, String>>,
    /// The same for actors of paths that died. Their keeper deletes the nodes as long as it lives.
    orphaned: Mutex<Vec<String>>,
    /// Whether an operator is at work in this process.
    operated: AtomicBool,
    opened: watch::Sender<Option<Arc<Opened>>>,
    close: Notify,
    closing: AtomicBool,
    pub wanted: Mutex<BTreeMap<u64, Wanted>>,
    pub armed: ArmedPanics,
    /// The number of callers that have finished.
    finished: Mutex<usize>,
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
    fn at(&self, time: Time) -> Instant {
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
    pub fn up(&self) -> Option<(crate::ensemble::Wire, i64)> {
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
    fn keeper_died(&self, ensemble: &mut Ensemble) {
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

pub struct Process {
    index: usize,
    runtime: Runtime,
    host: Arc<Host>,
    pub paused_until: Option<Time>,
    callers: usize,
    /// Whether a request of a semaphore's turn was in flight at the end of the last step.
    pub asking: bool,
}

impl Process {
    pub fn boot(
        index: usize,
        world: &Arc<Mutex<World>>,
        now: Time,
        random: &mut Random,
        character: Character,
    ) -> Process {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        // Less than the hundredth that is promised.
        let rate = character.twin.rate().unwrap_or(random.between(991, 1009));
        let random = Mutex::new(random.fork());
        let host = runtime.block_on(async {
            let host = Arc::new(Host {
                index,
                quick: character.quick,
                twin: character.twin,
                world: world.clone(),
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
            });
            for number in 0..character.callers {
                let (host, random) = (host.clone(), random.lock().unwrap().fork());
                tokio::spawn(async move {
                    caller(host.clone(), random, number as Time + 1).await;
                    *host.finished.lock().unwrap() += 1;
                });
            }
            let random = Mutex::new(random.lock().unwrap().fork());
            let random = move || {
                let mut random = random.lock().unwrap();
                (u128::from(random.next()) << 64) | u128::from(random.next())
            };
            let settings = KeeperSettings {
                clock: Clock::of_tokio(),
                connector: character.twin.connector(Arc::new(Dialer(host.clone()))),
                connect_timeout: Duration::from_secs(10),
                tick: character.tick.then(|| Duration::from_millis(TICK)),
                randomness: Randomness::new(random),
                restart: RestartPolicy::default(),
                close_timeout: None,
                metrics: Metrics::new(Vec::new()),
                recording: None,
            };
            tokio::spawn(keep(host.clone(), settings));
            host
        });
        Process { index, runtime, host, paused_until: None, callers: character.callers, asking: false }
    }

    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// Runs until a moment, with the packets that the network delivers until then.
    pub fn run(&mut self, from: Time, until: Time) {
        let host = &self.host;
        CURRENT.with_borrow_mut(|current| *current = Some(host.clone()));
        let asking = self.runtime.block_on(async {
            let behind = host.at(from).saturating_duration_since(Instant::now());
            if !behind.is_zero() {
                // The process was paused: its clock jumps before any task runs.
                let _ = Box::pin(tokio::time::advance(behind)).now_or_never();
                self.read();
            }
            loop {
                let next = host.world().ensemble.next_delivery(self.index);
                let Some(next) = next.filter(|next| *next < until) else { break };
                tokio::time::sleep_until(host.at(next)).await;
                loop {
                    let packet = host.world().ensemble.take_delivery(self.index, host.now());
                    let Some((wire, packet)) = packet else { break };
                    let links = host.links.lock().unwrap().clone();
                    if let Some(link) = links.iter().find(|link| link.wire() == Some(wire)) {
                        link.deliver(packet);
                    }
                }
            }
            tokio::time::sleep_until(host.at(until)).await;
            let mut links = host.links.lock().unwrap();
            let mut stages = links.iter().flat_map(|link| link.stages(None));
            // Computed before the ticks, which may end requests that the actors do not know to have ended.
            let asking = stages
                .any(|stage| matches!(stage, Stage::ReadingPermits | Stage::Taking | Stage::FindingCreated));
            links.iter().for_each(Link::tick);
            links.retain(|link| !link.is_ended());
            drop(links);
            self.read();
            host.world().witness.check_answers(self.index, until);
            asking
        });
        self.asking = asking;
        CURRENT.with_borrow_mut(|current| *current = None);
    }

    /// Reads the leases, by the process's own clock.
    fn read(&self) {
        let (host, now) = (&self.host, self.host.now());
        let base = host.base.into_std();
        let to_time = |instant: std::time::Instant| {
            host.begun + (instant.saturating_duration_since(base).as_micros() as Time).div_ceil(host.rate)
        };
        host.world().witness.read(self.index, now, to_time);
    }

    /// Ends the process at once, without closing anything.
    pub fn kill(self, now: Time) {
        self.host.dead.store(true, Ordering::Relaxed);
        let links = self.host.links.lock().unwrap().clone();
        let mut world = self.host.world();
        world.witness.killed(self.index, now);
        self.host.keeper_died(&mut world.ensemble);
        links.iter().for_each(|link| world.ensemble.give_up(link.session()));
        for wire in links.iter().filter_map(|link| link.wire()) {
            world.ensemble.hang_up(wire, now);
        }
        drop(world);
        drop(self);
    }

    /// Ends all faults. Callers finish their requests, and make a last one.
    pub fn calm(&self) {
        self.host.calm.store(true, Ordering::Relaxed);
        let ArmedPanics { listener, lock, sweep, session, supervisor: _ } = &self.host.armed;
        for arm in [listener, lock, sweep, session] {
            arm.store(false, Ordering::Relaxed);
        }
    }

    /// Has an operator delete what was left behind through this process, unless one is at work there.
    pub fn operate(&self) {
        let host = self.host.clone();
        if !host.is_closing() && !host.operated.swap(true, Ordering::Relaxed) {
            self.runtime.spawn(async move {
                operator::clean_up(&host).await;
                host.operated.store(false, Ordering::Relaxed);
            });
        }
    }

    pub fn finished(&self) -> bool {
        *self.host.finished.lock().unwrap() == self.callers
    }

    pub fn close(&self) {
        self.host.closing.store(true, Ordering::Relaxed);
        self.host.close.notify_one();
    }

    /// The number of watches that the client has set.
    pub fn watches(&self) -> usize {
        self.host.links.lock().unwrap().iter().map(|link| link.watches()).sum()
    }

    pub fn tasks(&self) -> usize {
        self.runtime.metrics().num_alive_tasks()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.host.dead.store(true, Ordering::Relaxed);
        // The host and its links reference each other, so the cycle must be broken.
        let links = std::mem::take(&mut *self.host.links.lock().unwrap());
        drop(links);
        self.host.opened.send_replace(None);
    }
}

/// Keeps a keeper running until the process closes. Starts another one when it dies.
async fn keep(host: Arc<Host>, settings: KeeperSettings) {
    while !host.is_closing() {
        let Ok(started) = keeper::start(settings.clone()).await else {
            tokio::time::sleep(Duration::from_millis(500)).await;
            continue;
        };
        let (keeper, registry) = (started.keeper.clone(), started.registry.clone());
        let (subscriber, mut events) = mpsc::unbounded_channel();
        let _ = keeper.cast(KeeperMessage::Subscribe(subscriber));
        for resource in resources() {
            let _ = registry.send_message(RegistryMessage::Open(resource));
        }
        let keep_alive = Arc::new(KeepAlive::new(keeper.get_derived(), None));
        host.opened.send_replace(Some(Arc::new(Opened { started, keep_alive })));
        loop {
            tokio::select! {
                biased;
                event = events.recv() => match event {
                    Some(event) => {
                        let now = host.now();
                        host.world().witness.note(now, host.index, || format!("{event:?}"));
                        if event == SessionEvent::Closed {
                            break;
                        }
                    }
                    None => break,
                },
                () = host.close.notified() => {
                    for resource in resources() {
                        let _ = registry.send_message(RegistryMessage::Dropped(resource));
                    }
                    if host.index % 2 == 0 {
                        let (reply, closed) = oneshot::channel();
                        let _ = keeper.cast(KeeperMessage::Close(reply.into()));
                        let _ = closed.await;
                    }
                    // Drops the last handle, which also closes the keeper.
                    host.opened.send_replace(None);
                }
            }
        }
        host.opened.send_replace(None);
        host.keeper_died(&mut host.world().ensemble);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
