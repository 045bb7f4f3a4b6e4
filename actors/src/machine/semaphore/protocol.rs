//! What goes into a semaphore's machine and what comes out.

use crate::machine::lock;
use crate::machine::node::{Attempt, Znode};
use crate::machine::{Failure, PathEvent, Reply, Ticket, Wait};

/// What a caller asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PermitRequest {
    /// How many permits, all or nothing. At least one.
    pub count: u32,
    /// The number of permits that there are, as far as the caller knows; `None` takes what is stored.
    pub limit: Option<u32>,
    /// The caller's number was found to be the stored one before: from then on what is stored counts.
    pub agreed: bool,
    /// What each of its leases adds to a transaction.
    pub bytes: usize,
    /// How long to wait.
    pub wait: Wait,
}

/// What happened. Answers carry the attempt that asked; a driver drops those of an earlier session.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A caller wants permits.
    Acquire {
        /// New, and used once.
        ticket: Ticket,
        /// What is wanted.
        request: PermitRequest,
    },
    /// What every path is told.
    Path(PathEvent),
    /// An answer to what the mutex asked.
    Mutex(lock::Event),
    /// Answer to [`Command::ReadState`].
    StateRead {
        /// Which.
        read: Attempt,
        /// The semaphore's root, if it was asked for.
        root: Option<Result<Root, Failure>>,
        /// All leases, if they were asked for.
        leases: Option<Result<Leases, Failure>>,
    },
    /// What a read watches has changed.
    Changed {
        /// Which read left the watch.
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

/// What the root of a semaphore tells.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Root {
    /// Counts the changes of its data.
    pub version: i32,
    /// The transaction that wrote its data.
    pub written: i64,
    /// Its data: how many permits there are, in decimal digits, or anything else.
    pub data: Vec<u8>,
}

/// What a list of a semaphore's leases tells.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Leases {
    /// In no order.
    pub names: Vec<String>,
    /// The transaction that wrote the root's data, as of this list.
    pub written: i64,
}

/// Why no lease was taken.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TakeFailure {
    /// The mutex's node is not there any more.
    MutexGone,
    /// The root is not there any more.
    RootGone,
    /// The root's data is not what it was.
    LimitChanged,
    /// Anything else.
    Failed(Failure),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// What the mutex needs.
    Mutex(lock::Command),
    /// Read the root, list the leases, or both, with watches or without. The watches of an earlier read that are left
    /// again are replaced.
    ReadState {
        /// Which.
        read: Attempt,
        /// Sync first, on the same connection. If that fails, so does everything that is asked for, and no watch is
        /// left.
        sync: bool,
        /// The root's data.
        root: Reading,
        /// The names of the leases.
        leases: Reading,
    },
    /// The watches of reads are no longer needed.
    UnwatchState,
    /// Make the root with this number of permits, and its parents.
    MakeRoot {
        /// Whose answer it is.
        read: Attempt,
        /// For whom.
        ticket: Ticket,
        /// How many permits there are.
        limit: u32,
    },
    /// Make these leases, all or none, if the mutex is still held and the root's version is this.
    Take {
        /// Which.
        take: Attempt,
        /// Of the root.
        version: i32,
        /// The mutex's node.
        mutex: Znode,
        /// Whether the mutex is kept; otherwise it is deleted in the same transaction.
        keep: bool,
        /// The names, each with whom it is for.
        leases: Vec<(Ticket, String)>,
    },
    /// Sync and list the leases: whether a take of unknown outcome was carried out.
    FindLeases(Attempt),
    /// Delete a lease.
    DeleteLease(String),
    /// Heartbeats check this lease of ours from now on.
    TrackLease(String),
    /// The permits are held.
    Grant {
        /// By whom.
        ticket: Ticket,
        /// The names of the leases.
        leases: Vec<String>,
        /// The transaction that made the mutex's node: it orders the turns.
        czxid: i64,
    },
    /// Tell the caller.
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
    /// Not at all.
    Skip,
    /// Once.
    Once,
    /// Once, and a watch is left for the next change.
    Watch,
}
