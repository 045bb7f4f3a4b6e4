//! Who holds and who waits, as ZooKeeper shows it.

use super::lease::FencingToken;
use crate::machine::exclusion::Mode;

/// A holder of a lock, or a waiter, as the lock's directory shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Contender {
    /// The node's name in the lock's directory.
    pub name: String,
    /// The place in the queue; zero comes first.
    pub position: usize,
    /// The first KiB of the node's data, a text that tells people who this is. Invalid UTF-8 is shown as `\u{fffd}`.
    pub identifier: String,
    /// Which other contenders it excludes.
    pub mode: Mode,
    /// The session that owns the node; `None` when it outlives sessions.
    pub session: Option<i64>,
    /// The fencing token that the contender has as a holder, or will have.
    pub token: FencingToken,
}

/// A lease of a semaphore, as its root shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaseHolder {
    /// The lease's name below the root.
    pub name: String,
    /// The first KiB of the lease's data, a text that tells people who this is. Invalid UTF-8 is shown as `\u{fffd}`.
    pub identifier: String,
    /// The session that owns the lease; `None` when it outlives sessions, and so was not made by this library.
    pub session: Option<i64>,
}

/// What an asker knows of the first in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Nothing yet.
    Nothing,
    /// The queue was empty.
    Nobody,
    /// The contender with this token was first.
    First(FencingToken),
}
