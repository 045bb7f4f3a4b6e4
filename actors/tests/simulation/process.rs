//! A process: a runtime with a keeper and callers, whose time is its own.
//!
//! Every process has a runtime with a paused clock, and is run up to a moment, no further than nothing from the
//! others can reach it in between. So one that is paused simply is not run, and when it is run again its clock has
//! jumped, and one that is killed is a runtime that is dropped.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::FutureExt;
use lockkeeper_actors::api::event::SessionEvent;
use lockkeeper_actors::api::keep_alive::KeepAlive;
use lockkeeper_actors::api::messages::RegistryMessage;
use lockkeeper_actors::keeper::{self, KeeperMessage, KeeperSettings, RestartPolicy, Started};
use lockkeeper_actors::{Clock, Randomness};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::callers::{caller, resources};
use crate::client::{Dialer, Link};
use crate::coverage::{Coverage, Fault, Stage};
use crate::ensemble::{Ensemble, TICK, Time};
use crate::random::Random;
use crate::twins::Twin;
use crate::witness::Witness;

/// What all processes share: the outside.
pub struct World {
    pub ensemble: Ensemble,
    pub witness: Witness,
    pub coverage: Coverage,
}

/// What is different from one schedule to another.
#[derive(Clone, Copy, Debug)]
pub struct Character {
    pub callers: usize,
    /// The keepers are told the server's tick.
    pub tick: bool,
    /// Locks are held for short times only.
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
    dead: AtomicBool,
    calm: AtomicBool,
    pub links: Mutex<Vec<Arc<Link>>>,
    opened: watch::Sender<Option<Arc<Opened>>>,
    close: Notify,
    closing: AtomicBool,
    pub wanted: Mutex<BTreeMap<u64, Wanted>>,
    pub arms: Arms,
    /// Callers that have got what they wanted, and went.
    finished: Mutex<usize>,
}

/// A keeper that runs.
pub struct Opened {
    pub started: Started,
    pub keep_alive: Arc<KeepAlive>,
}

/// A request under way.
pub struct Wanted {
    pub path: &'static str,
    pub tried: bool,
    pub deadline: Option<Time>,
    pub cancel: Arc<Notify>,
}

/// Who is going to panic, at the next occasion.
#[derive(Default)]
pub struct Arms {
    pub listener: AtomicBool,
    pub lock: AtomicBool,
    /// Whoever cleans up after the lock's actor.
    pub sweep: AtomicBool,
    pub session: AtomicBool,
    /// The actor above, when it writes that the one below has died.
    pub above: AtomicBool,
}

impl Host {
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    pub fn now(&self) -> Time {
        self.begun + self.base.elapsed().as_millis() as Time
    }

    fn at(&self, time: Time) -> Instant {
        self.base + Duration::from_millis(time.saturating_sub(self.begun))
    }

    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    pub fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }

    pub async fn opened(&self) -> Option<Arc<Opened>> {
        let mut opened = self.opened.subscribe();
        opened.wait_for(Option::is_some).await.ok()?.clone()
    }

    pub fn want(&self, key: u64, wanted: Wanted) {
        self.wanted.lock().unwrap().insert(key, wanted);
    }

    /// Whether somebody who would not wait has asked for this path.
    pub fn is_tried(&self, path: &str) -> bool {
        self.wanted.lock().unwrap().values().any(|wanted| wanted.path == path && wanted.tried)
    }

    pub fn has_deadline(&self, time: std::ops::Range<Time>) -> bool {
        let wanted = self.wanted.lock().unwrap();
        wanted.values().filter_map(|wanted| wanted.deadline).any(|deadline| time.contains(&deadline))
    }

    pub fn cancel(&self, key: u64) -> bool {
        let now = self.now();
        self.strike(Fault::Cancelled);
        self.world().witness.cancelled(key, now);
        true
    }

    /// Connected, with a session.
    pub fn up(&self) -> Option<(crate::ensemble::Wire, i64)> {
        self.links.lock().unwrap().iter().find_map(|link| link.up())
    }

    pub fn stages(&self) -> BTreeSet<Stage> {
        let links = self.links.lock().unwrap().clone();
        let mut stages: BTreeSet<Stage> = links.iter().flat_map(|link| link.stages()).collect();
        let idle = links.iter().all(|link| link.up().is_none()) && !self.wanted.lock().unwrap().is_empty();
        stages.extend(idle.then_some(Stage::Idle));
        stages.extend(self.world().witness.holds(self.index).then_some(Stage::Held));
        stages
    }

    pub fn strike(&self, fault: Fault) {
        let stages = self.stages();
        self.world().coverage.mark(fault, stages);
    }

    pub fn listener_panics(&self) -> bool {
        self.arms.listener.swap(false, Ordering::Relaxed)
    }

    /// A lock's actor, which sends a request, panics if it is to.
    pub fn may_panic(&self) {
        if self.arms.lock.swap(false, Ordering::Relaxed) {
            self.panic(Fault::LockPanics, Fault::RegistryPanics, "the actor of a path died");
        }
    }

    /// Whoever cleans up after an actor asks for this first.
    pub fn sweep_may_panic(&self) {
        let lock_died = !self.arms.lock.load(Ordering::Relaxed);
        if lock_died && self.arms.sweep.swap(false, Ordering::Relaxed) {
            self.strike(Fault::SweepPanics);
            panic!("injected: {:?}", Fault::SweepPanics);
        }
    }

    pub fn session_may_panic(&self) {
        if self.arms.session.swap(false, Ordering::Relaxed) {
            self.panic(Fault::SessionPanics, Fault::KeeperPanics, "the session actor ended");
        }
    }

    pub fn keeper_panics(&self) {
        self.panic_above(Fault::KeeperPanics, "the session actor ended");
    }

    /// The actor above panics when it writes that the one below has died.
    fn panic_above(&self, above: Fault, says: &'static str) {
        SABOTAGE.with_borrow_mut(|sabotage| *sabotage = Some(Sabotage { process: self.index, says, above }));
    }

    fn panic(&self, fault: Fault, above: Fault, says: &'static str) -> ! {
        self.strike(fault);
        if self.arms.above.swap(false, Ordering::Relaxed) {
            self.panic_above(above, says);
        }
        panic!("injected: {fault:?}");
    }
}

pub struct Process {
    index: usize,
    runtime: Runtime,
    host: Arc<Host>,
    pub paused_until: Option<Time>,
    callers: usize,
    /// For permits: a look, a transaction that takes them, or the question what became of one.
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
        let random = Mutex::new(random.fork());
        let host = runtime.block_on(async {
            let host = Arc::new(Host {
                index,
                quick: character.quick,
                twin: character.twin,
                world: world.clone(),
                base: Instant::now(),
                begun: now,
                dead: AtomicBool::new(false),
                calm: AtomicBool::new(false),
                links: Mutex::default(),
                opened: watch::Sender::new(None),
                close: Notify::new(),
                closing: AtomicBool::new(false),
                wanted: Mutex::default(),
                arms: Arms::default(),
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
            };
            tokio::spawn(keep(host.clone(), settings));
            host
        });
        Process { index, runtime, host, paused_until: None, callers: character.callers, asking: false }
    }

    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// Runs to a moment, with what the network delivers until then.
    pub fn run(&mut self, from: Time, until: Time) {
        let host = &self.host;
        SABOTEUR.with_borrow_mut(|current| *current = Some(host.clone()));
        let asking = self.runtime.block_on(async {
            let behind = from.saturating_sub(host.now());
            if behind > 0 {
                // The clock has jumped, and nobody has run yet.
                let _ = Box::pin(tokio::time::advance(Duration::from_millis(behind))).now_or_never();
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
            let mut stages = links.iter().flat_map(|link| link.stages());
            // What the next line ends is answered, and nobody has heard of it yet.
            let asking =
                stages.any(|stage| matches!(stage, Stage::Surveying | Stage::Taking | Stage::Looking));
            links.iter().for_each(Link::tick);
            links.retain(|link| !link.is_ended());
            drop(links);
            self.read();
            host.world().witness.check_answers(self.index, until);
            asking
        });
        self.asking = asking;
        SABOTEUR.with_borrow_mut(|current| *current = None);
    }

    /// By the process's own clock.
    fn read(&self) {
        let (host, now) = (&self.host, self.host.now());
        let base = host.base.into_std();
        let to_time = |instant: std::time::Instant| {
            host.begun + instant.saturating_duration_since(base).as_micros().div_ceil(1000) as Time
        };
        host.world().witness.read(self.index, now, to_time);
    }

    /// What was under way is cut short, and nobody says good-bye.
    pub fn kill(self, now: Time) {
        self.host.dead.store(true, Ordering::Relaxed);
        let links = self.host.links.lock().unwrap().clone();
        let mut world = self.host.world();
        world.witness.killed(self.index, now);
        for wire in links.iter().filter_map(|link| link.wire()) {
            world.ensemble.hang_up(wire, now);
        }
        drop(world);
        drop(self);
    }

    /// No more faults: callers finish what they do, and ask one last time.
    pub fn calm(&self) {
        self.host.calm.store(true, Ordering::Relaxed);
        let Arms { listener, lock, sweep, session, above: _ } = &self.host.arms;
        for arm in [listener, lock, sweep, session] {
            arm.store(false, Ordering::Relaxed);
        }
    }

    pub fn finished(&self) -> bool {
        *self.host.finished.lock().unwrap() == self.callers
    }

    pub fn close(&self) {
        self.host.closing.store(true, Ordering::Relaxed);
        self.host.close.notify_one();
    }

    /// Armed, as far as the client knows.
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
        // They know each other, and would keep each other.
        let links = std::mem::take(&mut *self.host.links.lock().unwrap());
        drop(links);
        self.host.opened.send_replace(None);
    }
}

/// Has a keeper running until the process is to close; after a death there is another one.
async fn keep(host: Arc<Host>, settings: KeeperSettings) {
    while !host.closing.load(Ordering::Relaxed) {
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
        let keep_alive = Arc::new(KeepAlive::new(keeper.get_derived()));
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
                    // The last handle, which closes as well.
                    host.opened.send_replace(None);
                }
            }
        }
        host.opened.send_replace(None);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

thread_local! {
    /// Whose tasks run.
    static SABOTEUR: RefCell<Option<Arc<Host>>> = const { RefCell::new(None) };
    static SABOTAGE: RefCell<Option<Sabotage>> = const { RefCell::new(None) };
}

struct Sabotage {
    process: usize,
    /// In its handler, and nowhere else.
    says: &'static str,
    above: Fault,
}

/// Forgets a panic that did not come about.
pub fn disarm() {
    SABOTAGE.with_borrow_mut(|sabotage| *sabotage = None);
}

/// Panics inside the actors that make no requests: whoever writes the log runs in them.
pub struct Saboteur;

/// An event's message.
struct Said(String);

impl tracing::field::Visit for Said {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

impl tracing::Subscriber for Saboteur {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        let target = metadata.target();
        metadata.is_event() && (target.ends_with("::keeper") || target.ends_with("::registry"))
    }

    fn event(&self, event: &tracing::Event<'_>) {
        let Some(host) = SABOTEUR.with_borrow(|current| current.clone()) else { return };
        let sabotage = SABOTAGE.with_borrow_mut(|sabotage| {
            let mut said = Said(String::new());
            event.record(&mut said);
            sabotage.take_if(|sabotage| sabotage.process == host.index && sabotage.says == said.0)
        });
        if let Some(Sabotage { above, .. }) = sabotage {
            host.strike(above);
            drop(host);
            panic!("injected: {above:?}");
        }
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}
