//! What can go wrong: one enum for each operation.

use thiserror::Error;

use crate::machine::Failure;

/// Why a lock was not acquired, apart from somebody else having it.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum AcquireError {
    /// [`Keeper::close`](https://docs.rs/lockkeeper) was called, or the last handle of the keeper dropped.
    #[error("the keeper is closed")]
    Closed,
    /// The access list of a node does not allow a step that the lock needs.
    #[error("the access list of {path:?} does not allow to lock")]
    NoAuth {
        /// The node: the lock's directory, one that leads to it, or a contender ahead.
        path: String,
    },
    /// The lock's directory has given out nearly all of its sequence numbers, and must be deleted and made anew.
    #[error("{path:?} is running out of sequence numbers, and must be made anew")]
    SequenceExhausted {
        /// The lock's directory, or that of a semaphore's mutex.
        path: String,
    },
    /// Somebody on the same path keeps to rules by which both could hold at the same time: a client of another dialect,
    /// or a read/write lock beside a mutex in Curator's. Nothing is left of the request. Choose that dialect, or
    /// name its contenders as extra lock patterns.
    #[error("{contender:?} belongs to another kind of lock, and the two would not exclude each other")]
    MixedDialects {
        /// Their node.
        contender: String,
    },
    /// Permits were asked for, but none of them.
    #[error("no permits of {path:?} are no request")]
    NoPermits {
        /// The semaphore's root.
        path: String,
    },
    /// More permits are wanted than the semaphore has.
    #[error("{count} permits of {path:?} cannot be had: it has {limit}")]
    TooManyPermits {
        /// The semaphore's root.
        path: String,
        /// How many are wanted.
        count: u32,
        /// How many there are.
        limit: u32,
    },
    /// Another number of permits is stored than the handle was made with.
    #[error("{path:?} has {stored} permits, not {given}")]
    LimitMismatch {
        /// The semaphore's root.
        path: String,
        /// The number that is stored.
        stored: i64,
        /// The number that the handle was made with.
        given: u32,
    },
    /// No number of permits is stored, and the handle has none.
    #[error("no number of permits is stored at {path:?}")]
    NoLimit {
        /// The semaphore's root.
        path: String,
    },
    /// As many requests of this process wait already as the handle's
    /// [limit](https://docs.rs/lockkeeper/latest/lockkeeper/struct.LockOptions.html#method.max_waiting) allows.
    #[error("{limit} requests wait for {path:?} already")]
    TooManyWaiting {
        /// The lock's directory, or the semaphore's root.
        path: String,
        /// How many may wait.
        limit: usize,
    },
    /// ZooKeeper refused a request, for the reason given.
    #[error("ZooKeeper refused to lock {path:?}: {reason}")]
    Rejected {
        /// The lock's directory.
        path: String,
        /// ZooKeeper's reason.
        reason: String,
    },
    /// The actor of this path stopped unexpectedly; its nodes are being cleaned up, and the call can be made again.
    #[error("the actor that locks {path:?} stopped unexpectedly")]
    Stopped {
        /// The lock's directory.
        path: String,
    },
}

/// Why a release was not confirmed.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReleaseError {
    /// The lease had ended, or ended before the release was confirmed: somebody else may have held the lock since.
    #[error("the lease ended before the release was confirmed")]
    Lost,
    /// The request has not been granted, so that there is nothing to release. It goes on; cancel it instead.
    #[error("the request has not been granted")]
    NotGranted,
}

/// Work was cut short because its lease ended first.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the lease was lost")]
pub struct Lost;

/// Why contenders could not be listed or removed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ContendersError {
    /// [`Keeper::close`](https://docs.rs/lockkeeper) was called, or the last handle of the keeper dropped.
    #[error("the keeper is closed")]
    Closed,
    /// There is no session at the moment, and no answer until there is one.
    #[error("there is no connection to ZooKeeper at the moment")]
    Disconnected,
    /// The access list of a node does not allow it.
    #[error("the access list of {path:?} does not allow it")]
    NoAuth {
        /// The node.
        path: String,
    },
    /// The contender's node belongs to a session and goes with it. Deleting it under its owner would let two hold.
    #[error("{name:?} belongs to session {session:#x}, and goes with it")]
    Ephemeral {
        /// The contender's node.
        name: String,
        /// Whose it is.
        session: i64,
    },
    /// ZooKeeper refused, or the answer was lost.
    #[error("ZooKeeper did not answer: {reason}")]
    Failed {
        /// What came instead of an answer.
        reason: String,
    },
}

/// Why a semaphore's number of permits was not changed, or may not have been.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResizeError {
    /// [`Keeper::close`](https://docs.rs/lockkeeper) was called, or the last handle of the keeper dropped. A change
    /// that was under way may have been made.
    #[error("the keeper is closed")]
    Closed,
    /// A semaphore without permits would be of no use.
    #[error("a semaphore has at least one permit")]
    NoPermits,
    /// There is no session at the moment, and no answer until there is one.
    #[error("there is no connection to ZooKeeper at the moment")]
    Disconnected,
    /// The access list of a node does not allow it.
    #[error("the access list of {path:?} does not allow it")]
    NoAuth {
        /// The semaphore's root.
        path: String,
    },
    /// ZooKeeper refused, or the answer was lost.
    #[error("ZooKeeper did not answer: {reason}")]
    Failed {
        /// What came instead of an answer.
        reason: String,
    },
}

/// Why there is no connection.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectError {
    /// An option cannot be used.
    #[error("{option} of {value} cannot be used: {reason}")]
    InvalidOption {
        /// Which.
        option: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The address cannot be read.
    #[error("{address:?} is not an address of ZooKeeper: {reason}")]
    InvalidAddress {
        /// What was given.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The server did not take the credentials.
    #[error("ZooKeeper at {address:?} did not take the credentials")]
    AuthFailed {
        /// Which server, or servers.
        address: String,
    },
    /// The actor that the keeper was to be linked under is ending.
    #[error("the actor that should supervise the keeper is ending")]
    NoSupervisor,
    /// Nobody answered in time.
    #[error("no connection to ZooKeeper at {address:?} within {timeout:?}: {reason}")]
    Unreachable {
        /// Which server, or servers.
        address: String,
        /// How long was tried.
        timeout: std::time::Duration,
        /// What the last try ended with.
        reason: String,
    },
}

impl ContendersError {
    pub(crate) fn new(path: &str, failure: Failure) -> ContendersError {
        match failure {
            Failure::NoAuth => ContendersError::NoAuth { path: path.to_owned() },
            Failure::SessionGone => ContendersError::Disconnected,
            Failure::NoNode => ContendersError::Failed { reason: format!("{path:?} does not exist") },
            Failure::Refused(reason) | Failure::Unknown(reason) => ContendersError::Failed { reason },
        }
    }
}

impl ResizeError {
    pub(crate) fn new(path: &str, failure: Failure) -> ResizeError {
        match failure {
            Failure::NoAuth => ResizeError::NoAuth { path: path.to_owned() },
            Failure::SessionGone => ResizeError::Disconnected,
            Failure::NoNode => ResizeError::Failed { reason: format!("{path:?} does not exist") },
            Failure::Refused(reason) | Failure::Unknown(reason) => ResizeError::Failed { reason },
        }
    }
}
