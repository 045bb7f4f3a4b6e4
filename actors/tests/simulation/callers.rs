//! Those who want locks: each asks, waits, gives up, holds, lets go, and asks again.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use lockkeeper_actors::api::error::ReleaseError;
use lockkeeper_actors::api::event::{EventSink, LockEvent, Refused};
use lockkeeper_actors::api::lease::Lease;
use lockkeeper_actors::api::messages::{LockMessage, MultiLockMessage, RegistryMessage, SemaphoreMessage};
use lockkeeper_actors::api::multi_lease::MultiLease;
use lockkeeper_actors::api::request::Wait;
use lockkeeper_actors::api::request::{
    AcquireRequest, ContenderOptions, MultiLockPart, MultiLockRequest, Permits, Ticket,
};
use lockkeeper_actors::api::resource::Resource;
use lockkeeper_actors::machine::exclusion::{Dialect, Mode};
use tokio::sync::{Notify, mpsc};

use crate::coverage::Fault;
use crate::ensemble::{SESSION_TIMEOUT, Time};
use crate::process::{Host, Opened, Wanted};
use crate::random::Random;
use crate::witness::Word;

/// What can be wanted. A kind is a row here.
pub struct Kind {
    pub path: &'static str,
    pub what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Lock(Mode),
    /// So many of a semaphore's [`LIMIT`].
    Permits(u32),
    /// Several locks together: these rows.
    All([usize; 2]),
}

pub const KINDS: [Kind; 6] = [
    Kind { path: "/app/exclusive", what: What::Lock(Mode::Lock) },
    Kind { path: "/app/shared", what: What::Lock(Mode::Read) },
    Kind { path: "/app/shared", what: What::Lock(Mode::Write) },
    Kind { path: SEMAPHORE, what: What::Permits(1) },
    Kind { path: SEMAPHORE, what: What::Permits(2) },
    Kind { path: "/app/exclusive", what: What::All([0, 2]) },
];

pub const SEMAPHORE: &str = "/app/permits";

/// How many permits the semaphore has.
pub const LIMIT: u32 = 2;

pub fn resources() -> [Resource; 3] {
    [Resource::lock("/app/exclusive"), Resource::lock("/app/shared"), Resource::semaphore(SEMAPHORE)]
}

/// What was granted.
enum Held {
    One(Lease),
    Several(MultiLease),
}

impl Held {
    async fn lost(&self) {
        match self {
            Held::One(lease) => lease.lost().await,
            Held::Several(leases) => leases.lost().await,
        }
    }

    fn release(self) -> BoxFuture<'static, Result<(), ReleaseError>> {
        match self {
            Held::One(lease) => Box::pin(lease.release()),
            Held::Several(leases) => Box::pin(leases.release()),
        }
    }
}

/// Leases, and a word to the witness just before they go.
pub struct Guard {
    held: Option<Held>,
    grants: std::sync::OnceLock<Vec<usize>>,
    host: Arc<Host>,
}

impl Guard {
    fn held(&self) -> &Held {
        self.held.as_ref().expect("taken only when the guard goes")
    }

    pub fn leases(&self) -> &[Lease] {
        match self.held() {
            Held::One(lease) => std::slice::from_ref(lease),
            Held::Several(leases) => leases.leases(),
        }
    }

    fn say_ended(&self) {
        for grant in self.grants.get().into_iter().flatten().filter(|_| !self.host.is_dead()) {
            let now = self.host.now();
            self.host.world().witness.ended(*grant, now);
        }
    }

    fn take(mut self) -> Option<Held> {
        self.say_ended();
        self.held.take()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.held.is_some() {
            self.say_ended();
        }
    }
}

/// One after the other, until the process is told that it is enough; then once more, and that must succeed.
pub async fn caller(host: Arc<Host>, mut random: Random, first: Time) {
    tokio::time::sleep(Duration::from_millis(first)).await;
    loop {
        let last = host.is_calm();
        let Some(opened) = host.opened().await else { return };
        // Whoever waited for a keeper does not go at the same moment as the others.
        tokio::time::sleep(Duration::from_millis(first)).await;
        let request = if last { Plan::last(&mut random) } else { Plan::random(&host, &mut random) };
        let succeeded = call(&host, opened, request).await;
        if last && succeeded {
            return;
        }
        let pause = if last { 10 } else { random.between(0, 400) };
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
}

/// What a caller is going to do.
struct Plan {
    kind: usize,
    wait: Patience,
    /// Gives up after so long.
    cancel: Option<Time>,
    /// Does not wait for the answer to that.
    vanish: bool,
    hold: Time,
    /// Lets go when the lease is lost; otherwise it stays.
    attentive: bool,
    release: Release,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Patience {
    Try,
    For(Time),
    Forever,
}

#[derive(Clone, Copy)]
enum Release {
    Drop,
    Await,
    /// Asks for a confirmation, and does not wait for it.
    AskOnly,
}

impl Plan {
    fn random(host: &Host, random: &mut Random) -> Plan {
        let wait = match random.between(0, 9) {
            0..=1 => Patience::Try,
            2..=4 => Patience::For(random.between(0, 4000)),
            _ => Patience::Forever,
        };
        let cancel = random.percent(25).then(|| random.between(0, 3000));
        let release = match random.between(0, 3) {
            0 => Release::AskOnly,
            1 => Release::Drop,
            _ => Release::Await,
        };
        Plan {
            kind: random.between(0, KINDS.len() as u64 - 1) as usize,
            wait,
            cancel,
            vanish: random.percent(50),
            hold: match random.percent(4) {
                true => 3 * SESSION_TIMEOUT / 2,
                false => random.between(0, if host.quick { 300 } else { 1500 }),
            },
            attentive: random.percent(70),
            release,
        }
    }

    fn last(random: &mut Random) -> Plan {
        Plan {
            kind: random.between(0, KINDS.len() as u64 - 1) as usize,
            wait: Patience::Forever,
            cancel: None,
            vanish: false,
            hold: 20,
            attentive: true,
            release: Release::Await,
        }
    }
}

enum Heard {
    Acquired(Arc<Guard>),
    Over,
    News,
}

/// Tells whether the lock was held, and its release confirmed where that was asked for.
async fn call(host: &Arc<Host>, opened: Arc<Opened>, plan: Plan) -> bool {
    let kind = &KINDS[plan.kind];
    let (deadline, wait) = match plan.wait {
        Patience::Try => (None, Wait::Try),
        Patience::Forever => (None, Wait::Forever),
        Patience::For(time) => {
            let wait = Wait::Until(opened.started.clock.now() + Duration::from_millis(time));
            (Some(host.now() + time), wait)
        }
    };
    let key = host.world().witness.asked(host.index, plan.kind, deadline);
    let cancel = Arc::new(Notify::new());
    let tried = plan.wait == Patience::Try;
    host.want(key, Wanted { path: kind.path, tried, deadline, cancel: cancel.clone() });
    let ticket = Ticket::new();
    let (tell, mut told) = mpsc::unbounded_channel();
    let mut hear = hear(host.clone(), key, plan.kind, tell);
    let (keep_alive, path) = (opened.keep_alive.clone(), Arc::<str>::from(kind.path));
    let (message, resource) = match kind.what {
        What::Lock(_) | What::Permits(_) => {
            let sink = EventSink::new(ticket, path.clone(), move |event: LockEvent| {
                hear(event.map_guard(Held::One))
            });
            let request = AcquireRequest::new(ticket, Arc::new(options(kind.what)), wait, sink, keep_alive);
            match kind.what {
                What::Permits(count) => {
                    let permits = Permits { count, limit: Some(LIMIT), agreed: false };
                    let message = SemaphoreMessage::Acquire(request, permits);
                    (RegistryMessage::Semaphore(path.clone(), message), Some(Resource::Semaphore(path)))
                }
                What::Lock(_) | What::All(_) => {
                    let message = LockMessage::Acquire(request);
                    (RegistryMessage::Lock(path.clone(), message), Some(Resource::Lock(path)))
                }
            }
        }
        What::All(rows) => {
            let part = |Kind { path, what }: &Kind| MultiLockPart {
                path: Arc::from(*path),
                options: Arc::new(options(*what)),
            };
            let parts: Arc<[MultiLockPart]> = rows.iter().map(|row| part(&KINDS[*row])).collect();
            let sink =
                EventSink::new(ticket, path, move |event: LockEvent<_>| hear(event.map_guard(Held::Several)));
            let request = MultiLockRequest::new(ticket, parts, wait, sink, keep_alive);
            (RegistryMessage::MultiLock(MultiLockMessage::Acquire(request)), None)
        }
    };
    let registry = opened.started.registry.clone();
    drop(opened);
    let _ = registry.send_message(message);

    let patience = tokio::time::sleep(Duration::from_millis(plan.cancel.unwrap_or(Time::MAX / 4)));
    tokio::pin!(patience);
    let mut cancelled = false;
    let guard = loop {
        tokio::select! {
            biased;
            word = told.recv() => match word {
                Some(Heard::Acquired(guard)) => break Some(guard),
                Some(Heard::News) => {}
                Some(Heard::Over) | None => break None,
            },
            () = cancel.notified(), if !cancelled => cancelled = true,
            () = &mut patience, if !cancelled => cancelled = true,
        }
        if cancelled && !host.world().witness.is_answered(key) && host.cancel(key) {
            let _ = registry.send_message(host.twin.cancel(resource.as_ref(), ticket));
            if plan.vanish {
                break None;
            }
        }
    };
    host.wanted.lock().unwrap().remove(&key);
    drop(registry);
    match guard {
        Some(guard) => hold(host, guard, &plan).await,
        None => false,
    }
}

async fn hold(host: &Arc<Host>, guard: Arc<Guard>, plan: &Plan) -> bool {
    let held = tokio::time::sleep(Duration::from_millis(plan.hold));
    match plan.attentive {
        true => tokio::select! {
            biased;
            () = guard.held().lost() => {}
            () = held => {}
        },
        false => held.await,
    }
    let Ok(guard) = Arc::try_unwrap(guard) else { unreachable!("nobody else keeps a guard") };
    match plan.release {
        Release::Drop => {
            drop(guard);
            true
        }
        Release::Await | Release::AskOnly => {
            let nodes: Vec<String> = guard.leases().iter().flat_map(Lease::nodes).cloned().collect();
            let Some(held) = guard.take() else { return false };
            let released = held.release();
            if let Release::AskOnly = plan.release {
                let _ = tokio::time::timeout(Duration::from_millis(10), released).await;
                return true;
            }
            let confirmed = released.await.is_ok();
            if confirmed {
                let now = host.now();
                let mut world = host.world();
                for node in nodes {
                    let there = world.ensemble.nodes.contains_key(&node);
                    world.witness.released(&node, there, now);
                }
            }
            confirmed
        }
    }
}

fn options(what: What) -> ContenderOptions {
    ContenderOptions {
        mode: match what {
            What::Lock(mode) => mode,
            What::Permits(_) | What::All(_) => Mode::Lock,
        },
        dialect: Dialect::Kazoo,
        identifier: Vec::new(),
        patterns: Arc::from([]),
        ephemeral: true,
        container: false,
        acl: Vec::new(),
        max_waiting: None,
    }
}

/// Hears for one request, and knows when it is let go of.
fn hear(
    host: Arc<Host>,
    key: u64,
    kind: usize,
    tell: mpsc::UnboundedSender<Heard>,
) -> impl FnMut(LockEvent<Held>) + Send + 'static {
    let ear = Ear { host, key };
    move |event| {
        let host = &ear.host;
        if host.is_dead() {
            return;
        }
        let now = host.now();
        let (word, heard) = match event {
            LockEvent::Queued { .. } => (Word::Queued, Heard::News),
            LockEvent::Acquired { guard, .. } => {
                let guard = Guard { held: Some(guard), grants: Default::default(), host: host.clone() };
                let guard = Arc::new(guard);
                let grants = host.world().witness.granted(host.index, kind, &guard, now);
                let _ = guard.grants.set(grants);
                (Word::Acquired, Heard::Acquired(guard))
            }
            LockEvent::Suspended(_) => (Word::Suspended, Heard::News),
            LockEvent::Resumed(_) => (Word::Resumed, Heard::News),
            LockEvent::Lost(_) => (Word::Lost, Heard::Over),
            LockEvent::Released(_) => (Word::Released, Heard::Over),
            LockEvent::Refused(_, Refused::TimedOut) => (Word::TimedOut, Heard::Over),
            LockEvent::Refused(_, Refused::Failed(_)) => (Word::Failed, Heard::Over),
            LockEvent::Refused(..) => (Word::Refused, Heard::Over),
            _ => unreachable!("no other event is known"),
        };
        host.world().witness.heard(key, word, now);
        if host.listener_panics() {
            host.world().witness.panicked(key);
            host.strike(Fault::ListenerPanics);
            drop(heard);
            panic!("injected: a listener");
        }
        // A caller that has gone drops what it is told, and so does this.
        let _ = tell.send(heard);
    }
}

struct Ear {
    host: Arc<Host>,
    key: u64,
}

impl Drop for Ear {
    fn drop(&mut self) {
        if !self.host.is_dead() {
            let now = self.host.now();
            self.host.world().witness.dropped(self.key, now);
        }
    }
}
