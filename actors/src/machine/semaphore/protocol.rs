//! The events and commands of a semaphore's machine.

use std::fmt;

use crate::machine::lock;
use crate::machine::node::{Attempt, Znode};
use crate::machine::{Failure, PathEvent, Reason, Reply, Ticket, Wait};

/// A caller's request for permits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PermitRequest {
    /// The number of permits requested, all or none.
    pub count: u32,
    /// The total number of permits that the caller expects; `None` accepts the stored number.
    pub limit: Option<u32>,
    /// The expected number has matched the stored one before. From then on the stored number counts, even if it
    /// changes.
    pub agreed: bool,
    /// The bytes that each of its leases adds to a transaction.
    pub bytes: usize,
    /// How long to wait.
    pub wait: Wait,
}

/// What happened. Answers carry the attempt that asked; a driver drops those of an earlier session.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A caller requests permits.
    Acquire {
        /// A ticket that has not been used before.
        ticket: Ticket,
        /// The request.
        request: PermitRequest,
    },
    /// A caller splits the permits that it holds.
    Split {
        /// The request that was granted.
        ticket: Ticket,
        /// A ticket for the new part, which has not been used before.
        into: Ticket,
        /// The names of the leases that the new part gets: some of the request's leases, but not all.
        leases: Vec<String>,
    },
    /// A caller merges the permits of two requests.
    Merge {
        /// The request whose ticket is not used any more.
        ticket: Ticket,
        /// The request that gets all leases.
        into: Ticket,
    },
    /// An event that locks and semaphores have in common.
    Path(PathEvent),
    /// An event for the mutex.
    Mutex(lock::Event),
    /// Answer to [`Command::ReadState`].
    StateRead {
        /// The read.
        read: Attempt,
        /// The semaphore's root, if it was requested.
        root: Option<Result<Root, Failure>>,
        /// All leases, if they were requested.
        leases: Option<Result<Leases, Failure>>,
    },
    /// A watch fired.
    Changed {
        /// The read that set the watch.
        read: Attempt,
        /// What has changed.
        part: Part,
    },
    /// Answer to [`Command::MakeRoot`].
    RootMade(Attempt, Result<(), Failure>),
    /// Answer to [`Command::Take`].
    Taken(Attempt, Result<(), TakeFailure>),
    /// Answer to [`Command::FindLeases`].
    LeasesFound(Attempt, Result<Vec<String>, Failure>),
    /// Answer to [`Command::DeleteLease`].
    LeaseDeleted(String, Result<(), Failure>),
}

impl From<PathEvent> for Event {
    fn from(event: PathEvent) -> Event {
        Event::Path(event)
    }
}

impl From<lock::Event> for Event {
    fn from(event: lock::Event) -> Event {
        Event::Mutex(event)
    }
}

/// The two parts of a semaphore's state on the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// The root's data: the number of permits.
    Root,
    /// The leases below it.
    Leases,
}

/// The root of a semaphore.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Root {
    /// The version of its data.
    pub version: i32,
    /// The transaction that wrote its data.
    pub written: i64,
    /// Its data: the number of permits in decimal digits. Other data are ignored.
    pub data: Vec<u8>,
}

impl Root {
    /// The number of permits; `None` if the data is not a number.
    pub fn permits(&self) -> Option<i64> {
        std::str::from_utf8(&self.data).ok()?.trim().parse().ok()
    }
}

impl fmt::Debug for Root {
    /// Data that are not a number may be an application's: they are not shown, and not kept in a record.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Root { version, written, data } = self;
        let mut shown = f.debug_struct("Root");
        shown.field("version", version).field("written", written).field("bytes", &data.len());
        shown.field("permits", &self.permits()).finish()
    }
}

/// A list of a semaphore's leases.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Leases {
    /// The names of the leases, in no particular order.
    pub names: Vec<String>,
    /// The transaction that wrote the root's data, as of this list.
    pub written: i64,
}

/// Why no lease was created.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TakeFailure {
    /// The mutex's node no longer exists.
    MutexGone,
    /// The root no longer exists.
    RootGone,
    /// The root's data has changed.
    LimitChanged,
    /// The access list of the mutex's node, which is kept, denies reading it.
    MutexUnreadable,
    /// The server rejects the lease at this index for this reason.
    Lease(usize, Reason),
    /// Anything else.
    Failed(Failure),
}

/// What the driver must do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// A command of the mutex.
    Mutex(lock::Command),
    /// Read the root, list the leases, or both, with or without watches. A new watch replaces that of an earlier read.
    ReadState {
        /// Identifies the read.
        read: Attempt,
        /// Whether to bring the server up to date first, on the same connection. If that fails, all parts of the read count as
        /// failed, and no watch is set.
        sync: bool,
        /// How to read the root's data.
        root: Reading,
        /// How to read the names of the leases.
        leases: Reading,
    },
    /// Remove the watches of reads.
    UnwatchState,
    /// Create the root with this number of permits, and its parents.
    MakeRoot {
        /// Identifies the answer.
        read: Attempt,
        /// The request whose options are used.
        ticket: Ticket,
        /// The number of permits.
        limit: u32,
    },
    /// Create these leases in one transaction, all or none, on condition that the mutex is still held and that the
    /// root's data has this version.
    Take {
        /// Identifies the transaction.
        take: Attempt,
        /// The version of the root's data.
        version: i32,
        /// The mutex's node.
        mutex: Znode,
        /// Whether the mutex is kept; otherwise the transaction deletes its node.
        keep: bool,
        /// The names of the leases, each with its request.
        leases: Vec<(Ticket, String)>,
    },
    /// Sync and list the leases, to find out whether a take of unknown outcome was carried out.
    FindLeases(Attempt),
    /// Delete a lease.
    DeleteLease(String),
    /// Check this lease of ours with heartbeats from now on.
    TrackLease(String),
    /// Grant the permits.
    Grant {
        /// The request.
        ticket: Ticket,
        /// The names of the leases.
        leases: Vec<String>,
        /// The fencing token: the transaction that created the mutex's node, because that orders the turns.
        czxid: i64,
    },
    /// Two requests are merged: replies for `into` concern `ticket` too, and there are no others for it.
    Merged {
        /// The request whose leases have moved.
        ticket: Ticket,
        /// The request that has them now.
        into: Ticket,
    },
    /// Report to the caller.
    Reply(Reply),
}

impl From<lock::Command> for Command {
    fn from(command: lock::Command) -> Command {
        Command::Mutex(command)
    }
}

/// How a part of the state is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reading {
    /// Not read.
    Skip,
    /// Read without a watch.
    Once,
    /// Read, and set a watch for the next change.
    Watch,
}
