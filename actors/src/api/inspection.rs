//! Locks and semaphores of all clients, as the servers show them.

use std::time::SystemTime;

use thiserror::Error;

use super::contender::{Contender, LeaseHolder};
use super::error::QueryError;
use super::token::FencingToken;
use crate::machine::exclusion::Dialect;
use crate::machine::path_rules::InvalidPath;

/// What was found below a path.
///
/// It and its parts have default values, so that the tests of a program that reads them can make some of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Inventory {
    /// The locks and semaphores, in the order of their paths. A lock that nobody holds or waits for is not shown: its
    /// directory is like any other.
    pub places: Vec<PathState>,
    /// Persistent nodes without data and children. Locks leave them behind when nobody uses them any more.
    pub empty: Vec<String>,
    /// Nodes whose access list denies reading them.
    pub unreadable: Vec<String>,
}

/// A lock or a semaphore at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PathState {
    /// A lock or read/write lock.
    Lock(Queue),
    /// A semaphore.
    Semaphore(Pool),
}

/// The queue of a lock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Queue {
    /// The path, without the connection's chroot.
    pub path: String,
    /// The holders and waiters, in the order of the queue.
    pub entries: Vec<Entry>,
    /// The largest sequence number that was used, as far as it is known.
    pub last_number: i64,
}

/// A holder of a lock, or a waiter for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// The node. If it is not readable, its identifier is empty, and newer servers show neither its session nor its
    /// token, which is zero then.
    pub contender: Contender,
    /// The naming scheme of the node.
    pub dialect: Dialect,
    /// When the node was created, by the server's clock; `None` if the server does not show it.
    pub created: Option<SystemTime>,
    /// Whether the node's data could be read.
    pub readable: bool,
    /// The position of the nearest contender ahead that this one waits for; `None` if it holds, or is about to. kazoo's
    /// locks and writers have the same names. Here they count as writers, so a [`Mode::Lock`] behind readers seems to
    /// wait.
    ///
    /// [`Mode::Lock`]: crate::machine::exclusion::Mode::Lock
    pub waits_for: Option<usize>,
}

/// A semaphore: its permits, and the queue of those that want some.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pool {
    /// The path, without the connection's chroot.
    pub path: String,
    /// The stored number of permits; `None` if the data is not a number above zero.
    pub limit: Option<u32>,
    /// The permits that are taken, in the order in which they were taken.
    pub taken: Vec<Taken>,
    /// The queue of the mutex that lets one process at a time take permits. The first one is taking some, or waits for
    /// others to be released.
    pub mutex: Queue,
}

/// A permit that is taken. Every child of a semaphore's node counts as one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Taken {
    /// The node. Its identifier is empty if the node is not readable.
    pub holder: LeaseHolder,
    /// The transaction that created the node; zero if the server does not show it. The token of a permit is another
    /// one: that of the turn in which it was granted.
    pub transaction: FencingToken,
    /// When the node was created, by the server's clock; `None` if the server does not show it.
    pub created: Option<SystemTime>,
    /// Whether the node's data could be read.
    pub readable: bool,
}

impl Default for Taken {
    fn default() -> Taken {
        Taken {
            holder: LeaseHolder::default(),
            transaction: FencingToken::new(0),
            created: None,
            readable: false,
        }
    }
}

impl PathState {
    /// The path, without the connection's chroot.
    pub fn path(&self) -> &str {
        match self {
            PathState::Lock(queue) => &queue.path,
            PathState::Semaphore(pool) => &pool.path,
        }
    }

    /// The queue of the lock, or of the semaphore's mutex.
    pub fn queue(&self) -> &Queue {
        match self {
            PathState::Lock(queue) => queue,
            PathState::Semaphore(pool) => &pool.mutex,
        }
    }
}

impl Queue {
    /// Those that hold the lock, or are about to: one, or several readers.
    pub fn holders(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.waits_for.is_none())
    }

    /// Those that wait, in the order of the queue.
    pub fn waiters(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.waits_for.is_some())
    }
}

/// Why a node was not deleted.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeleteNodeError {
    /// The path is not valid.
    #[error(transparent)]
    Path(#[from] InvalidPath),
    /// The node no longer exists.
    #[error("{node:?} no longer exists")]
    Gone {
        /// The node.
        node: String,
    },
    /// There is another node of this name, or its data have been changed meanwhile.
    #[error("{node:?} has changed: look again")]
    Changed {
        /// The node.
        node: String,
    },
    /// A request failed. The node may have been deleted if it was [`Unanswered`](QueryError::Unanswered).
    #[error(transparent)]
    Failed(#[from] QueryError),
}

impl DeleteNodeError {
    /// Whether the same call can succeed later without a change to the code or the cluster.
    pub fn is_retryable(&self) -> bool {
        match self {
            DeleteNodeError::Failed(error) => error.is_retryable(),
            DeleteNodeError::Path(_) | DeleteNodeError::Gone { .. } | DeleteNodeError::Changed { .. } => {
                false
            }
        }
    }
}
