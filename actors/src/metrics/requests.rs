//! The metrics of requests.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use metrics::{Counter, Gauge, Histogram, Label};

use super::counted::{Counted, Retries};
use super::{Kind, RefusedFor, table};

/// The metrics of the requests for one path, or for several. Cheap to clone.
#[derive(Clone)]
pub(crate) struct PathMetrics(pub(super) Arc<Kinds>);

impl PathMetrics {
    /// Begins to count a request. A try does not wait.
    pub fn request(&self, asked: Asked, waits: bool) -> RequestMetrics {
        RequestMetrics(asked.kind.map(|kind| {
            let stage = if waits { Stage::Waiting } else { Stage::Trying };
            let request = Request { kinds: self.0.clone(), kind, since: asked.at, stage };
            if waits {
                request.handles().waiting.increment(1.0);
            }
            request
        }))
    }

    /// A clean-up after a dead actor, until the result is dropped.
    pub fn cleanup(&self, kind: Kind) -> Counted {
        Counted::new(&self.0.of(kind).cleanups)
    }

    pub fn retries(&self) -> Retries {
        Retries(self.0.retries.clone())
    }
}

/// When a request was made, and what it is for. `None` for a part of another request, which is not counted.
#[derive(Clone, Copy)]
pub(crate) struct Asked {
    kind: Option<Kind>,
    at: Instant,
}

impl Asked {
    pub fn now(kind: Kind) -> Asked {
        Asked { kind: Some(kind), at: Instant::now() }
    }

    pub fn is_for(&mut self, kind: Option<Kind>) {
        self.kind = kind;
    }
}

/// What is counted of one request, until it is dropped. Nothing by default.
#[derive(Default)]
pub(crate) struct RequestMetrics(Option<Request>);

impl RequestMetrics {
    pub fn granted(&mut self) {
        let Some(request) = self.0.as_mut().filter(|request| request.is_open()) else { return };
        let handles = request.handles();
        handles.acquired.increment(1);
        handles.wait.record(request.since.elapsed());
        request.enter(Stage::Held);
    }

    pub fn refused(&mut self, reason: RefusedFor) {
        let Some(request) = self.0.as_mut().filter(|request| request.is_open()) else { return };
        request.handles().refused(reason).increment(1);
        request.enter(Stage::CleaningUp);
    }

    pub fn suspended(&self) {
        if let Some(request) = self.held() {
            request.handles().suspended.increment(1);
        }
    }

    pub fn lost(&mut self) {
        if let Some(request) = self.held_mut() {
            request.handles().lost.increment(1);
            request.enter(Stage::CleaningUp);
        }
    }

    pub fn released(&mut self) {
        if let Some(request) = self.held_mut() {
            request.enter(Stage::CleaningUp);
        }
    }

    /// The guard has become a part of another one.
    pub fn merged(&mut self) {
        if let Some(request) = self.held_mut() {
            request.enter(Stage::Merged);
        }
    }

    /// A guard that was split off this one.
    pub fn split(&self) -> RequestMetrics {
        RequestMetrics(self.held().map(|request| {
            request.handles().held.increment(1.0);
            Request { kinds: request.kinds.clone(), ..*request }
        }))
    }

    fn held(&self) -> Option<&Request> {
        self.0.as_ref().filter(|request| request.stage == Stage::Held)
    }

    fn held_mut(&mut self) -> Option<&mut Request> {
        self.0.as_mut().filter(|request| request.stage == Stage::Held)
    }
}

impl Drop for RequestMetrics {
    /// A request that has not ended ends with its actor.
    fn drop(&mut self) {
        self.refused(RefusedFor::Stopped);
        self.lost();
        if let Some(request) = &mut self.0 {
            request.enter(Stage::Over);
        }
    }
}

struct Request {
    kinds: Arc<Kinds>,
    kind: Kind,
    /// When it was made, or granted.
    since: Instant,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Trying,
    Waiting,
    Held,
    /// It has ended, but its node may still exist.
    CleaningUp,
    Merged,
    Over,
}

impl Request {
    fn handles(&self) -> &Handles {
        self.kinds.of(self.kind)
    }

    fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Trying | Stage::Waiting)
    }

    fn enter(&mut self, stage: Stage) {
        let handles = self.kinds.of(self.kind);
        if let Some(gauge) = handles.gauge(self.stage) {
            gauge.decrement(1.0);
        }
        if let Some(gauge) = handles.gauge(stage) {
            gauge.increment(1.0);
        }
        if self.stage == Stage::Held {
            handles.hold.record(self.since.elapsed());
        }
        if stage == Stage::Held {
            self.since = Instant::now();
        }
        self.stage = stage;
    }
}

/// The handles of each kind of request, with one label `path` or none.
pub(super) struct Kinds {
    path: Option<String>,
    /// In the order of [`Kind`].
    handles: [OnceLock<Handles>; 6],
    retries: Counter,
}

impl Kinds {
    pub fn new(path: Option<String>, retries: Counter) -> Kinds {
        Kinds { path, handles: Default::default(), retries }
    }

    fn of(&self, kind: Kind) -> &Handles {
        self.handles[kind as usize].get_or_init(|| Handles::new(kind, self.path.as_deref()))
    }
}

struct Handles {
    waiting: Gauge,
    held: Gauge,
    wait: Histogram,
    hold: Histogram,
    acquired: Counter,
    /// In the order of [`RefusedFor`].
    refused: [Counter; 12],
    suspended: Counter,
    lost: Counter,
    cleanups: Gauge,
}

impl Handles {
    fn new(kind: Kind, path: Option<&str>) -> Handles {
        let labels = || {
            let mut labels = vec![Label::from_static_parts("kind", kind.label())];
            labels.extend(path.map(|path| Label::new("path", path.to_owned())));
            labels
        };
        let refused = RefusedFor::ALL.map(|reason| {
            let mut labels = labels();
            labels.push(Label::from_static_parts("reason", reason.label()));
            table::REFUSED_TOTAL.counter(labels)
        });
        Handles {
            waiting: table::REQUESTS_WAITING.gauge(labels()),
            held: table::GUARDS_HELD.gauge(labels()),
            wait: table::WAIT_SECONDS.histogram(labels()),
            hold: table::HOLD_SECONDS.histogram(labels()),
            acquired: table::ACQUIRED_TOTAL.counter(labels()),
            refused,
            suspended: table::LEASES_SUSPENDED_TOTAL.counter(labels()),
            lost: table::LEASES_LOST_TOTAL.counter(labels()),
            cleanups: table::CLEANUPS_PENDING.gauge(labels()),
        }
    }

    fn refused(&self, reason: RefusedFor) -> &Counter {
        &self.refused[reason as usize]
    }

    /// The gauge that counts the requests in this stage.
    fn gauge(&self, stage: Stage) -> Option<&Gauge> {
        match stage {
            Stage::Waiting => Some(&self.waiting),
            Stage::Held => Some(&self.held),
            Stage::CleaningUp => Some(&self.cleanups),
            Stage::Trying | Stage::Merged | Stage::Over => None,
        }
    }
}

impl Kind {
    fn label(self) -> &'static str {
        match self {
            Kind::Lock => "lock",
            Kind::ReadLock => "read_lock",
            Kind::WriteLock => "write_lock",
            Kind::Semaphore => "semaphore",
            Kind::MultiLock => "multi_lock",
            Kind::Singleton => "singleton",
        }
    }
}

impl RefusedFor {
    const ALL: [RefusedFor; 12] = [
        RefusedFor::Contended,
        RefusedFor::Suspended,
        RefusedFor::TimedOut,
        RefusedFor::Cancelled,
        RefusedFor::Closed,
        RefusedFor::Stopped,
        RefusedFor::NoAuth,
        RefusedFor::SequenceExhausted,
        RefusedFor::MixedDialects,
        RefusedFor::Permits,
        RefusedFor::TooManyWaiting,
        RefusedFor::Rejected,
    ];

    fn label(self) -> &'static str {
        match self {
            RefusedFor::Contended => "contended",
            RefusedFor::Suspended => "suspended",
            RefusedFor::TimedOut => "timed_out",
            RefusedFor::Cancelled => "cancelled",
            RefusedFor::Closed => "closed",
            RefusedFor::Stopped => "stopped",
            RefusedFor::NoAuth => "no_auth",
            RefusedFor::SequenceExhausted => "sequence_exhausted",
            RefusedFor::MixedDialects => "mixed_dialects",
            RefusedFor::Permits => "permits",
            RefusedFor::TooManyWaiting => "too_many_waiting",
            RefusedFor::Rejected => "rejected",
        }
    }
}
