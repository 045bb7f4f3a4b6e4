//! A request for a lock or for permits of a semaphore.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::{Span, debug_span};

use super::error::AcquireError;
use super::event::{EventSink, LockEvent, Refused};
use super::keep_alive::KeepAlive;
use super::multi_lease::MultiLease;
use crate::machine::exclusion::{Dialect, Mode, Patterns};
pub use crate::machine::{Ticket, Wait};
use crate::zookeeper::Acl;

/// A request for what is at one path.
pub struct AcquireRequest {
    pub(crate) ticket: Ticket,
    pub(crate) options: Arc<ContenderOptions>,
    pub(crate) wait: Wait,
    pub(crate) sink: EventSink,
    pub(crate) keep_alive: Arc<KeepAlive>,
    /// A child of the caller's span, from the call until nothing is left of the request.
    pub(crate) span: Span,
}

impl AcquireRequest {
    /// A request whose events go to `sink`. The ticket has not been used before.
    pub fn new(
        ticket: Ticket,
        options: Arc<ContenderOptions>,
        wait: Wait,
        sink: EventSink,
        keep_alive: Arc<KeepAlive>,
    ) -> AcquireRequest {
        let span = debug_span!("lock", path = %sink.path(), %ticket);
        AcquireRequest { ticket, options, wait, sink, keep_alive, span }
    }

    /// Names the request, to cancel it.
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// The number of waiting requests at which it is refused. A try does not wait.
    pub(crate) fn max_waiting(&self) -> Option<usize> {
        self.options.max_waiting.filter(|_| self.wait != Wait::Try)
    }

    /// Ends it with this error.
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
}

/// One lock of several.
#[derive(Clone, Debug)]
pub struct MultiLockPart {
    /// The lock's path.
    pub path: Arc<str>,
    /// How its node is made. It is ephemeral, whatever is said here.
    pub options: Arc<ContenderOptions>,
}

impl MultiLockRequest {
    /// A request whose events go to `sink`. The ticket has not been used before, and the paths differ from each other.
    pub fn new(
        ticket: Ticket,
        parts: Arc<[MultiLockPart]>,
        wait: Wait,
        sink: EventSink<MultiLease>,
        keep_alive: Arc<KeepAlive>,
    ) -> MultiLockRequest {
        MultiLockRequest { ticket, parts, wait, sink, keep_alive }
    }

    /// Names the request, to cancel it.
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// Ends it with this error.
    pub fn refuse(self, error: AcquireError) {
        self.sink.conclude(LockEvent::Refused(self.ticket, Refused::Failed(error)));
    }
}

impl Ticket {
    /// A ticket that this process has not used.
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

/// The permits that are wanted of a semaphore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permits {
    /// How many, all or none.
    pub count: u32,
    /// How many there are, as far as the caller knows; `None` takes what is stored.
    pub limit: Option<u32>,
    /// The caller's number was the stored one when it got permits before. From then on the stored one counts.
    pub agreed: bool,
}

/// How a contender's node is made, and which other nodes count as contenders.
#[derive(Clone, Debug)]
pub struct ContenderOptions {
    /// Which other contenders it excludes.
    pub mode: Mode,
    /// How the node is named.
    pub dialect: Dialect,
    /// The node's data: a text that tells people who this is.
    pub identifier: Vec<u8>,
    /// Further name endings that count as contenders.
    pub patterns: Patterns,
    /// Whether the server deletes the node when the session ends.
    pub ephemeral: bool,
    /// Whether directories are made as containers, which the server deletes once they are empty again.
    pub container: bool,
    /// The access list of the node, and of directories that must be made.
    pub acl: Vec<Acl>,
    /// A request is refused when this many of this process wait already; `None` for no limit.
    pub max_waiting: Option<usize>,
}

impl ContenderOptions {
    /// An upper bound of what a node with these options in this directory adds to a transaction.
    pub fn bytes(&self, directory: &str) -> usize {
        const NODE: usize = 128;
        const ENTRY: usize = 32;
        let acl = self.acl.iter().map(|entry| ENTRY + entry.scheme().len() + entry.id().len());
        NODE + directory.len() + self.identifier.len() + acl.sum::<usize>()
    }
}
