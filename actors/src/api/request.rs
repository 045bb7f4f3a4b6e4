//! A request for a lock or for permits of a semaphore.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tracing::{Span, debug_span};

use super::error::AcquireError;
use super::event::{EventSink, LockEvent, Refused};
use super::keep_alive::KeepAlive;
use super::multi_lease::MultiLease;
use crate::machine::exclusion::{Dialect, Mode};
use crate::machine::patterns::Patterns;
pub use crate::machine::{Ticket, Wait};
use crate::metrics::{Asked, Kind};
use crate::zookeeper::Acl;

/// A request for the lock or semaphore at one path.
pub struct AcquireRequest {
    pub(crate) ticket: Ticket,
    pub(crate) options: Arc<ContenderOptions>,
    pub(crate) wait: Wait,
    pub(crate) sink: EventSink,
    pub(crate) keep_alive: Arc<KeepAlive>,
    /// A child of the caller's span. Open from the call until the request's nodes are deleted.
    pub(crate) span: Span,
    pub(crate) asked: Asked,
}

impl AcquireRequest {
    /// A request whose events go to `sink`. The ticket must not have been used before.
    pub fn new(
        ticket: Ticket,
        options: Arc<ContenderOptions>,
        wait: Wait,
        sink: EventSink,
        keep_alive: Arc<KeepAlive>,
    ) -> AcquireRequest {
        let span = debug_span!("lock", path = %sink.path(), %ticket);
        let asked = Asked::now(options.mode.into());
        let request = AcquireRequest { ticket, options, wait, sink, keep_alive, span, asked };
        if request.options.counted { request } else { request.counted_as(None) }
    }

    /// The same request, counted as one of this kind; `None` for a probe, and for a part of a request that is counted.
    pub(crate) fn counted_as(mut self, kind: Option<Kind>) -> AcquireRequest {
        self.asked.is_for(kind);
        self
    }

    /// The ticket that identifies the request.
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// The number of waiting requests at which this one is refused; `None` for a try, which does not wait.
    pub(crate) fn max_waiting(&self) -> Option<usize> {
        self.options.max_waiting.filter(|_| self.wait != Wait::Try)
    }

    /// Ends the request with this error.
    pub fn refuse(self, error: AcquireError) {
        self.sink.conclude(LockEvent::Refused(self.ticket, Refused::Failed(error)));
    }
}

/// A request for several locks, all or none.
pub struct MultiLockRequest {
    pub(crate) ticket: Ticket,
    pub(crate) parts: Arc<[MultiLockPart]>,
    pub(crate) wait: Wait,
    pub(crate) sink: EventSink<MultiLease>,
    pub(crate) keep_alive: Arc<KeepAlive>,
    pub(crate) asked: Asked,
}

/// One lock of several.
#[derive(Clone, Debug)]
pub struct MultiLockPart {
    /// The lock's path.
    pub path: Arc<str>,
    /// How its node is created. Its node is always ephemeral, even if the options say otherwise.
    pub options: Arc<ContenderOptions>,
}

impl MultiLockRequest {
    /// A request whose events go to `sink`. The ticket must not have been used before, and the paths must be distinct.
    pub fn new(
        ticket: Ticket,
        parts: Arc<[MultiLockPart]>,
        wait: Wait,
        sink: EventSink<MultiLease>,
        keep_alive: Arc<KeepAlive>,
    ) -> MultiLockRequest {
        let asked = Asked::now(Kind::MultiLock);
        MultiLockRequest { ticket, parts, wait, sink, keep_alive, asked }
    }

    /// The ticket that identifies the request.
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// Ends the request with this error.
    pub fn refuse(self, error: AcquireError) {
        self.sink.conclude(LockEvent::Refused(self.ticket, Refused::Failed(error)));
    }
}

impl Ticket {
    /// A ticket that this process has not used yet.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Ticket {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Ticket::numbered(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number().fmt(f)
    }
}

/// The permits that a request wants from a semaphore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permits {
    /// The number of permits requested, all or none.
    pub count: u32,
    /// The total number of permits that the caller expects; `None` accepts the stored number.
    pub limit: Option<u32>,
    /// The expected number matched the stored one when the caller was granted permits before. From then on the stored
    /// number counts, even if it changes.
    pub agreed: bool,
}

/// How a contender's node is created, and which other nodes count as contenders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContenderOptions {
    /// Which other contenders it excludes.
    pub mode: Mode,
    /// How the node is named.
    pub dialect: Dialect,
    /// The node's data: a text that describes the owner, for people.
    pub identifier: Arc<[u8]>,
    /// Additional name endings that count as contenders.
    pub patterns: Patterns,
    /// Whether the server deletes the node when the session ends.
    pub ephemeral: bool,
    /// Whether missing directories are created as containers, which the server deletes once they are empty again.
    pub container: bool,
    /// The access list of the node and of missing directories.
    pub acl: Arc<[Acl]>,
    /// A request is refused when this process already has this many waiting; `None` for no limit.
    pub max_waiting: Option<usize>,
    /// Requests of this process with the same options share a node, which stays for this time when nobody wants it.
    /// `None` for a node of its own for each request. It must be `None` if the node outlives sessions, and has no effect
    /// in a multi-lock.
    pub linger: Option<Duration>,
    /// The number of bytes that the connection's chroot adds to every path.
    pub chroot: usize,
    /// Whether metrics count its requests.
    pub counted: bool,
}

impl ContenderOptions {
    /// An upper bound for the bytes that a node with these options in this directory adds to a transaction.
    pub fn bytes(&self, directory: &str) -> usize {
        const NODE: usize = 128;
        NODE + self.chroot + directory.len() + self.identifier.len() + bytes_of(&self.acl)
    }
}

/// An upper bound for the size of an access list in a request.
pub fn bytes_of(acl: &[Acl]) -> usize {
    const ENTRY: usize = 32;
    acl.iter().map(|entry| ENTRY + entry.scheme().len() + entry.id().len()).sum()
}
