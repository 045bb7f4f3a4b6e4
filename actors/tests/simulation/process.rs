//! A process: a runtime with a keeper and callers, and its own time.
//!
//! The runtime's clock is paused, and the simulation runs one process after the other up to the same moment. Each step
//! is so short that nothing sent by one process can reach another within it. A paused process is not run, and its clock
//! jumps when it runs again. A killed process is a runtime that is dropped.
//!
//! The clock of a process runs at a rate of its own. Everything else, also what simulates its client library, uses the
//! servers' time.

mod host;
mod panics;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use lockkeeper_actors::api::event::SessionEvent;
use lockkeeper_actors::api::keep_alive::KeepAlive;
use lockkeeper_actors::api::messages::RegistryMessage;
use lockkeeper_actors::keeper::{self, KeeperMessage, KeeperSettings, RestartPolicy};
use lockkeeper_actors::metrics::Metrics;
use lockkeeper_actors::{Clock, Randomness};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

pub use self::host::{Hit, Host, Opened, Wanted};
use self::panics::CURRENT;
pub use self::panics::{ArmedPanics, PanicOnLog, disarm};
use crate::callers::{caller, resources};
use crate::client::{Dialer, Link};
use crate::coverage::{Coverage, Stage};
use crate::ensemble::{Ensemble, TICK, Time};
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
            let host = Arc::new(Host::new(index, world.clone(), now, rate, character));
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
