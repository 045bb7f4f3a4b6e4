//! What goes into a lock's or a semaphore's machine and what comes out: data, so that a test compares it and a reader
//! prints it.

use crate::machine::Moment;
use crate::machine::node::{Attempt, Dialect, Mode, Patterns, Znode};

/// Names one request for a lock, from the call until its node is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub(crate) u64);

impl Ticket {
    /// For whoever drives a [`Queue`](super::Queue) alone and counts its requests itself, as a model does.
    /// Where actors are, [`Ticket::new`] keeps tickets apart.
    pub const fn numbered(number: u64) -> Ticket {
        Ticket(number)
    }

    /// The number that it was made of.
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// What a caller asks of the queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    /// How the path is wanted.
    pub mode: Mode,
    /// Whose names the node goes by.
    pub dialect: Dialect,
    /// Further name endings that count as contenders.
    pub patterns: Patterns,
    /// Whether the node goes with the session.
    pub ephemeral: bool,
    /// How long to wait.
    pub wait: Wait,
}

/// What a caller asks of a semaphore.
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

/// How long a request waits for its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wait {
    /// Not at all.
    Try,
    /// Until this moment, and no later.
    Until(Moment),
    /// For as long as it takes.
    Forever,
}

/// What happened. Answers carry the attempt that asked; a driver drops those of an earlier session.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// Somebody wants the lock.
    Acquire {
        /// New, and used once.
        ticket: Ticket,
        /// What is wanted.
        request: Request,
    },
    /// Somebody wants permits of a semaphore.
    AcquirePermits {
        /// New, and used once.
        ticket: Ticket,
        /// What is wanted.
        request: PermitRequest,
    },
    /// Somebody no longer wants it. Nothing happens to a lock that is already held.
    Cancel(Ticket),
    /// A holder is done.
    Release(Ticket),
    /// Nothing more is wanted by anybody.
    Close,
    /// A session is there.
    Connected {
        /// Its id, as `ephemeralOwner` shows it.
        session: i64,
    },
    /// It cannot be told whether the session still lives.
    Suspended,
    /// It lives.
    Resumed,
    /// It is gone, or must be taken for gone.
    Lost,
    /// Answer to [`Command::List`].
    Listed(Attempt, Result<Vec<String>, Failure>),
    /// Answer to [`Command::Enter`].
    Entered {
        /// Who asked.
        attempt: Attempt,
        /// The create's answer.
        created: Result<Created, Failure>,
        /// The answer of the list that was sent right behind it.
        children: Result<Vec<String>, Failure>,
    },
    /// Answer to [`Command::MakeDirectory`].
    DirectoryMade(Attempt, Result<(), Failure>),
    /// Answer to [`Command::Look`].
    Looked(Attempt, Result<Vec<String>, Failure>),
    /// Answer to [`Command::Inspect`].
    Inspected(Attempt, Result<Inspection, Failure>),
    /// Answer to [`Command::Watch`]: armed, or not.
    Watched(Znode, Result<(), Failure>),
    /// An armed watch fired.
    Fired {
        /// What was watched.
        node: Znode,
        /// Whether it is gone; otherwise something else happened to it.
        gone: bool,
    },
    /// Answer to [`Command::Delete`].
    Deleted(Attempt, Result<(), Failure>),
    /// Answer to [`Command::Survey`].
    Surveyed {
        /// Which.
        survey: Attempt,
        /// The semaphore's root, if it was asked for.
        root: Option<Result<Root, Failure>>,
        /// All leases, if they were asked for.
        leases: Option<Result<Leases, Failure>>,
    },
    /// What a survey watches has changed: the root's data, or else the leases.
    Disturbed {
        /// Which survey left the watch.
        survey: Attempt,
        /// The root's data.
        root: bool,
    },
    /// Answer to [`Command::MakeRoot`].
    RootMade(Attempt, Result<(), Failure>),
    /// Answer to [`Command::Take`].
    Taken(Attempt, Result<(), TakeFailure>),
    /// Answer to [`Command::FindLeases`].
    LeasesFound(Attempt, Result<Vec<String>, Failure>),
    /// Answer to [`Command::Return`].
    Returned(String, Result<(), Failure>),
    /// A heartbeat did not find these nodes of ours.
    Missing(Vec<String>),
    /// The time that [`Machine::wakeup`](crate::machine::Machine::wakeup) named has come.
    Wake,
}

/// What a successful create tells.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Created {
    /// The node.
    pub node: Znode,
    /// The transaction that made it: the fencing token.
    pub czxid: i64,
}

/// What a node's stat tells about whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Inspection {
    /// The transaction that made it.
    pub czxid: i64,
    /// The session that it goes with; zero for none.
    pub owner: i64,
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

/// Why a request to ZooKeeper did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// Nothing is at that path, or its parent is missing.
    NoNode,
    /// The access list forbids it.
    NoAuth,
    /// A definite no, for this reason: nothing was changed.
    Refused(String),
    /// The session ended: no further request will be answered.
    SessionGone,
    /// Nobody knows whether it was carried out.
    Unknown(String),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// List the directory.
    List(Attempt),
    /// Create the node and list the directory, both sent before either is answered.
    Enter(Attempt, Ticket),
    /// Make the directory and what leads to it.
    MakeDirectory(Attempt, Ticket),
    /// Sync and list: whether a create of unknown outcome was carried out.
    Look(Attempt),
    /// Read the node's stat.
    Inspect(Attempt, Znode),
    /// Read the node and leave a watch.
    Watch(Znode),
    /// The watch is no longer needed.
    Unwatch(Znode),
    /// Delete the node.
    Delete(Attempt, Znode),
    /// This node of ours is to be checked by the heartbeats from now on.
    Track(Znode),
    /// Read a semaphore's root, list its leases, or both, with watches or without. The watches of an earlier survey
    /// that are left again are replaced.
    Survey {
        /// Which.
        survey: Attempt,
        /// Sync first, on the same connection. If that fails, so does everything that is asked for, and no watch is
        /// left.
        sync: bool,
        /// The root's data.
        root: Sight,
        /// The names of the leases.
        leases: Sight,
    },
    /// The watches of surveys are no longer needed.
    Calm,
    /// Make the root with this number of permits, and what leads to it.
    MakeRoot {
        /// Whose answer it is.
        survey: Attempt,
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
        /// Whether it stays; otherwise it goes with the success.
        keep: bool,
        /// The names, each with whom it is for.
        leases: Vec<(Ticket, String)>,
    },
    /// Sync and list the leases: whether a take of unknown outcome was carried out.
    FindLeases(Attempt),
    /// Delete a lease.
    Return(String),
    /// This lease of ours is to be checked by the heartbeats from now on.
    TrackLease(String),
    /// The permits are held.
    GrantPermits {
        /// By whom.
        ticket: Ticket,
        /// The names of the leases.
        leases: Vec<String>,
        /// The transaction that made the mutex's node: it orders the turns.
        czxid: i64,
    },
    /// The lock is held.
    Grant {
        /// By whom.
        ticket: Ticket,
        /// With which node.
        node: Znode,
        /// The fencing token.
        czxid: i64,
    },
    /// The request stands in the queue, with this many blocking contenders ahead.
    Queued(Ticket, usize),
    /// The request is not granted.
    Refuse(Ticket, Refusal),
    /// A holder can no longer be sure.
    Suspend(Ticket),
    /// A holder can be sure again.
    Resume(Ticket),
    /// A holder holds no longer.
    Lose(Ticket),
    /// Nothing is left of the request.
    Forget {
        /// Which.
        ticket: Ticket,
        /// Whether the server confirmed that its node is gone.
        confirmed: bool,
    },
}

/// How a survey looks at something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sight {
    /// Not at all.
    Skip,
    /// Once.
    Look,
    /// And is told of the next change.
    Watch,
}

/// Why a request is not granted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Somebody is ahead, and the request would not wait.
    Contended,
    /// There is no session to ask right now, and the request would not wait.
    Suspended,
    /// The deadline came first.
    TimedOut,
    /// It was cancelled.
    Cancelled,
    /// Everything is being closed.
    Closed,
    /// The directory is running out of sequence numbers.
    Exhausted,
    /// This contender and the one that asked could hold at the same time.
    MixedDialects(Znode),
    /// No permits are wanted.
    NoPermits,
    /// The semaphore has fewer permits than are wanted.
    TooMany {
        /// How many are wanted.
        count: u32,
        /// How many there are.
        limit: u32,
    },
    /// The semaphore has another number of permits than the caller says.
    LimitMismatch {
        /// The number that is stored.
        stored: i64,
        /// The caller's.
        given: u32,
    },
    /// Nobody has stored how many permits the semaphore has.
    NoLimit,
    /// The access list forbids a step; on this node, or on the directory.
    NoAuth(Option<Znode>),
    /// The server said no.
    Rejected(String),
}
