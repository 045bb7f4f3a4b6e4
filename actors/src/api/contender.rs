//! Holders and waiters, as listed from ZooKeeper.

use super::lease::FencingToken;
use crate::machine::exclusion::Mode;

/// A holder of a lock or a waiter for it, as listed from the lock's directory.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Contender {
    /// The node's name in the lock's directory.
    pub name: String,
    /// The position in the queue; zero is the front.
    pub position: usize,
    /// The first KiB of the node's data, which describes the owner. Invalid UTF-8 is shown as `\u{fffd}`.
    pub identifier: String,
    /// Which other contenders it excludes.
    pub mode: Mode,
    /// The session that owns the node; `None` for a persistent node, which outlives sessions.
    pub session: Option<i64>,
    /// The fencing token of a holder, or the one that a waiter will get.
    pub token: FencingToken,
}

impl Default for Contender {
    fn default() -> Contender {
        Contender {
            name: String::new(),
            position: 0,
            identifier: String::new(),
            mode: Mode::Lock,
            session: None,
            token: FencingToken::new(0),
        }
    }
}

/// A permit that is taken, as listed from the semaphore's path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaseHolder {
    /// The node's name below the path.
    pub name: String,
    /// The first KiB of the node's data, which describes the owner. Invalid UTF-8 is shown as `\u{fffd}`.
    pub identifier: String,
    /// The session that owns the node; `None` for a persistent node, which this library never creates for a permit.
    pub session: Option<i64>,
}

/// The permits of a semaphore, as stored in ZooKeeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SemaphoreState {
    /// The stored number of permits; `None` if there is none, or if the data is not a number.
    pub limit: Option<u32>,
    /// The number of permits that are taken.
    pub taken: u32,
}

/// What the caller already knows about the front of the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// Nothing yet.
    Nothing,
    /// The queue was empty.
    Nobody,
    /// This contender was at the front, with this identifier.
    First(Contender),
}
