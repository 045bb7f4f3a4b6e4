//! The callers: each requests a lock, waits or cancels, holds, releases, and starts again.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures::future::BoxFuture;

use lockkeeper_actors::api::error::ReleaseError;
use lockkeeper_actors::api::event::{EventSink, LockEvent, Refused};
use lockkeeper_actors::api::lease::Lease;
use lockkeeper_actors::api::messages::{LockMessage, MultiLockMessage, RegistryMessage, SemaphoreMessage};
use lockkeeper_actors::api::multi_lease::MultiLease;
use lockkeeper_actors::api::request::{
    AcquireRequest, ContenderOptions, MultiLockPart, MultiLockRequest, Permits, Ticket, Wait,
};
use lockkeeper_actors::api::resource::Resource;
use lockkeeper_actors::machine::exclusion::{Dialect, Mode};
use tokio::sync::{Notify, mpsc};

use crate::coverage::Fault;
use crate::ensemble::{SESSION_TIMEOUT, Time};
use crate::process::{Hit, Host, Opened, Wanted};
use crate::random::Random;
use crate::witness::Received;

/// One kind of request.
pub struct Kind {
    pub path: &'static str,
    pub what: What,
    /// Whether requests share nodes, which stay for a while.
    pub lingers: bool,
    /// Whether its nodes outlive sessions.
    pub outlives: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Lock(Mode),
    /// This many of the semaphore's [`LIMIT`] permits.
    Permits(u32),
    /// A multi-lock of these [`KINDS`].
    All([usize; 2]),
}

pub const KINDS: [Kind; 13] = [
    Kind::new(EXCLUSIVE, What::Lock(Mode::Lock)),
    Kind::new(SHARED, What::Lock(Mode::Read)),
    Kind::new(SHARED, What::Lock(Mode::Write)),
    Kind::new(SEMAPHORE, What::Permits(1)),
    Kind::new(SEMAPHORE, What::Permits(2)),
    Kind::new(EXCLUSIVE, What::All([0, 2])),
    Kind { lingers: true, ..Kind::new(EXCLUSIVE, What::Lock(Mode::Lock)) },
    Kind { lingers: true, ..Kind::new(SHARED, What::Lock(Mode::Read)) },
    Kind { lingers: true, ..Kind::new(SHARED, What::Lock(Mode::Write)) },
    Kind::new(CURATOR, What::Lock(Mode::Read)),
    Kind::new(CURATOR, What::Lock(Mode::Write)),
    Kind { outlives: true, ..Kind::new(EXCLUSIVE, What::Lock(Mode::Lock)) },
    Kind { outlives: true, ..Kind::new(SHARED, What::Lock(Mode::Read)) },
];

impl Kind {
    const fn new(path: &'static str, what: What) -> Kind {
        Kind { path, what, lingers: false, outlives: false }
    }

    pub fn paths(&self) -> Vec<&'static str> {
        match self.what {
            What::Lock(_) | What::Permits(_) => vec![self.path],
            What::All(rows) => rows.map(|row| KINDS[row].path).to_vec(),
        }
    }
}

const EXCLUSIVE: &str = "/app/exclusive";
const SHARED: &str = "/app/shared";
/// The path on which all nodes have Curator's names.
const CURATOR: &str = "/app/curator";

/// The paths on which nodes linger.
pub const LINGERING: [&str; 2] = [EXCLUSIVE, SHARED];

/// How long an idle node stays.
const LINGER: Duration = Duration::from_millis(1500);

/// The options of each kind, which all its requests share.
static OPTIONS: LazyLock<Vec<Arc<ContenderOptions>>> =
    LazyLock::new(|| KINDS.iter().map(|kind| Arc::new(options(kind))).collect());

pub const SEMAPHORE: &str = "/app/permits";

/// The total number of permits of the semaphore.
pub const LIMIT: u32 = 2;

pub fn resources() -> [Resource; 4] {
    let [exclusive, shared, curator] = [EXCLUSIVE, SHARED, CURATOR].map(Resource::lock);
    [exclusive, shared, curator, Resource::semaphore(SEMAPHORE)]
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

/// The leases of a grant. Reports their end to the witness just before they are released or dropped.
pub struct Guard {
    held: Option<Held>,
    grants: std::sync::OnceLock<Vec<usize>>,
    host: Arc<Host>,
}

impl Guard {
    fn held(&self) -> &Held {
        self.held.as_ref().expect("it is taken only when the guard is released")
    }

    pub fn leases(&self) -> &[Lease] {
        match self.held() {
            Held::One(lease) => std::slice::from_ref(lease),
            Held::Several(leases) => leases.leases(),
        }
    }

    fn report_end(&self) {
        for grant in self.grants.get().into_iter().flatten().filter(|_| !self.host.is_dead()) {
            let now = self.host.now();
            self.host.world().witness.ended(*grant, now);
        }
    }

    fn take(mut self) -> Option<Held> {
        self.report_end();
        self.held.take()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.held.is_some() {
            self.report_end();
        }
    }
}

/// Makes one request after the other, until the faults are over. Then makes requests until one succeeds.
pub async fn caller(host: Arc<Host>, mut random: Random, first: Time) {
    tokio::time::sleep(Duration::from_millis(first)).await;
    loop {
        let last = host.is_calm();
        let Some(opened) = host.opened().await else { return };
        // Callers that waited for the same keeper do not start at the same moment.
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

/// What a caller will do with one request.
struct Plan {
    kind: usize,
    wait: PlannedWait,
    /// Cancels the request after this time.
    cancel: Option<Time>,
    /// Does not wait for the answer to the cancel.
    vanish: bool,
    hold: Time,
    /// Releases when the lease is lost. Otherwise it keeps the guard for the whole time.
    attentive: bool,
    release: Release,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum PlannedWait {
    Try,
    For(Time),
    Forever,
}

#[derive(Clone, Copy)]
enum Release {
    Drop,
    Await,
    /// Requests a confirmation, but waits for it only briefly.
    AskOnly,
}

impl Plan {
    fn random(host: &Host, random: &mut Random) -> Plan {
        let wait = match random.between(0, 9) {
            0..=1 => PlannedWait::Try,
            2..=4 => PlannedWait::For(random.between(0, 4000)),
            _ => PlannedWait::Forever,
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
            wait: PlannedWait::Forever,
            cancel: None,
            vanish: false,
            hold: 20,
            attentive: true,
            release: Release::Await,
        }
    }
}

/// What a caller learns from its listener.
enum Update {
    Acquired(Arc<Guard>),
    /// The last event.
    Ended,
    Other,
}

/// Makes one request. Returns whether the lock was held, and its release confirmed if that was requested.
async fn call(host: &Arc<Host>, opened: Arc<Opened>, plan: Plan) -> bool {
    let kind = &KINDS[plan.kind];
    let (deadline, wait) = match plan.wait {
        PlannedWait::Try => (None, Wait::Try),
        PlannedWait::Forever => (None, Wait::Forever),
        PlannedWait::For(time) => {
            let time = Duration::from_millis(time);
            (Some(host.after(time)), host.twin.wait(Wait::Until(opened.started.clock.now() + time)))
        }
    };
    let key = host.world().witness.asked(host.index, plan.kind, deadline);
    let cancel = Arc::new(Notify::new());
    let tried = plan.wait == PlannedWait::Try;
    host.want(key, Wanted { paths: kind.paths(), tried, deadline, cancel: cancel.clone() });
    let ticket = Ticket::new();
    let (tell, mut told) = mpsc::unbounded_channel();
    let mut listen = listener(host.clone(), key, plan.kind, tell);
    let (keep_alive, path) = (opened.keep_alive.clone(), Arc::<str>::from(kind.path));
    let (message, resource) = match kind.what {
        What::Lock(_) | What::Permits(_) => {
            let sink = EventSink::new(ticket, path.clone(), move |event: LockEvent| {
                listen(event.map_guard(Held::One))
            });
            let request = AcquireRequest::new(ticket, OPTIONS[plan.kind].clone(), wait, sink, keep_alive);
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
            let part = |row: &usize| MultiLockPart {
                path: Arc::from(KINDS[*row].path),
                options: OPTIONS[*row].clone(),
            };
            let parts: Arc<[MultiLockPart]> = rows.iter().map(part).collect();
            let sink = EventSink::new(ticket, path, move |event: LockEvent<_>| {
                listen(event.map_guard(Held::Several))
            });
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
            update = told.recv() => match update {
                Some(Update::Acquired(guard)) => break Some(guard),
                Some(Update::Other) => {}
                Some(Update::Ended) | None => break None,
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
    let Ok(guard) = Arc::try_unwrap(guard) else { unreachable!("the guard is not shared") };
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
            // A node that lingers stays.
            if confirmed && !KINDS[plan.kind].lingers {
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

fn options(kind: &Kind) -> ContenderOptions {
    ContenderOptions {
        mode: match kind.what {
            What::Lock(mode) => mode,
            What::Permits(_) | What::All(_) => Mode::Lock,
        },
        dialect: if kind.path == CURATOR { Dialect::Curator } else { Dialect::Kazoo },
        identifier: Arc::default(),
        patterns: Default::default(),
        ephemeral: !kind.outlives,
        container: false,
        acl: Arc::default(),
        max_waiting: None,
        linger: kind.lingers.then_some(LINGER),
        chroot: 0,
        counted: true,
    }
}

/// The listener of one request. Reports its events to the witness and the caller, and to the witness when it is
/// dropped.
fn listener(
    host: Arc<Host>,
    key: u64,
    kind: usize,
    tell: mpsc::UnboundedSender<Update>,
) -> impl FnMut(LockEvent<Held>) + Send + 'static {
    let listener = Listener { host, key };
    move |event| {
        let host = &listener.host;
        if host.is_dead() {
            return;
        }
        let now = host.now();
        let (received, update) = match event {
            LockEvent::Enqueued { .. } => (Received::Queued, Update::Other),
            LockEvent::Acquired { guard, .. } => {
                let guard = Guard { held: Some(guard), grants: Default::default(), host: host.clone() };
                let guard = Arc::new(guard);
                let grants = host.world().witness.granted(host.index, kind, &guard, now);
                let _ = guard.grants.set(grants);
                (Received::Acquired, Update::Acquired(guard))
            }
            LockEvent::Suspended(_) => (Received::Suspended, Update::Other),
            LockEvent::Resumed(_) => (Received::Resumed, Update::Other),
            LockEvent::Lost(_) => (Received::Lost, Update::Ended),
            LockEvent::Released(_) => (Received::Released, Update::Ended),
            LockEvent::Refused(_, Refused::TimedOut) => (Received::TimedOut, Update::Ended),
            LockEvent::Refused(_, Refused::Failed(_)) => (Received::Failed, Update::Ended),
            LockEvent::Refused(..) => (Received::Refused, Update::Ended),
            _ => unreachable!("there is no other event"),
        };
        host.world().witness.received(key, received, now);
        if host.listener_panics() {
            host.world().witness.panicked(key);
            host.strike(Fault::ListenerPanics, Hit::Paths(&KINDS[kind].paths()));
            drop(update);
            panic!("injected: a listener");
        }
        // If the caller no longer waits, the guard inside the update is dropped, which releases the lock.
        let _ = tell.send(update);
    }
}

struct Listener {
    host: Arc<Host>,
    key: u64,
}

impl Drop for Listener {
    fn drop(&mut self) {
        if !self.host.is_dead() {
            let now = self.host.now();
            self.host.world().witness.dropped(self.key, now);
        }
    }
}
