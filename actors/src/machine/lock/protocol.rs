//! What goes into a lock's machine and what comes out: data, so that a test can compare it and a reader can print it.

use crate::machine::exclusion::{Dialect, Mode, Patterns};
use crate::machine::node::{Attempt, Znode};
use crate::machine::{Failure, PathEvent, Reply, Ticket, Wait};

/// What a caller asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    /// Which other contenders it excludes.
    pub mode: Mode,
    /// How its node is named.
    pub dialect: Dialect,
    /// Further name endings that count as contenders.
    pub patterns: Patterns,
    /// Whether the server deletes the node when the session ends.
    pub ephemeral: bool,
    /// How long to wait.
    pub wait: Wait,
}

/// What happened. Answers carry the attempt that asked; a driver drops those of an earlier session.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A caller wants the lock.
    Acquire {
        /// New, and used once.
        ticket: Ticket,
        /// What is wanted.
        request: Request,
    },
    /// What every path is told.
    Path(PathEvent),
    /// Answer to [`Command::List`].
    Listed(Attempt, Result<Vec<String>, Failure>),
    /// Answer to [`Command::CreateAndList`].
    CreatedAndListed {
        /// Whose node it is.
        attempt: Attempt,
        /// The create's answer.
        created: Result<Created, Failure>,
        /// The answer of the list that was sent right behind it.
        children: Result<Vec<String>, Failure>,
    },
    /// Answer to [`Command::MakeDirectory`].
    DirectoryMade(Attempt, Result<(), Failure>),
    /// Answer to [`Command::FindCreated`].
    Found(Attempt, Result<Vec<String>, Failure>),
    /// Answer to [`Command::ReadStat`].
    StatRead(Attempt, Result<NodeStat, Failure>),
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
}

impl From<PathEvent> for Event {
    fn from(event: PathEvent) -> Event {
        Event::Path(event)
    }
}

/// What a successful create tells.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Created {
    /// The node.
    pub node: Znode,
    /// The transaction that made it: the fencing token.
    pub czxid: i64,
}

/// What a node's stat tells about its owner.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeStat {
    /// The transaction that made it.
    pub czxid: i64,
    /// The session that owns it; zero when it outlives sessions.
    pub owner: i64,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// List the directory.
    List(Attempt),
    /// Create the node and list the directory, both sent before either is answered.
    CreateAndList(Attempt, Ticket),
    /// Make the directory and its parents.
    MakeDirectory(Attempt, Ticket),
    /// Sync and list: whether a create of unknown outcome was carried out.
    FindCreated(Attempt),
    /// Read the node's stat.
    ReadStat(Attempt, Znode),
    /// Read the node and leave a watch.
    Watch(Znode),
    /// The watch is no longer needed.
    Unwatch(Znode),
    /// Delete the node.
    Delete(Attempt, Znode),
    /// Heartbeats check this node of ours from now on.
    Track(Znode),
    /// The lock is held.
    Grant {
        /// By whom.
        ticket: Ticket,
        /// With which node.
        node: Znode,
        /// The fencing token.
        czxid: i64,
    },
    /// Tell the caller.
    Reply(Reply),
}
