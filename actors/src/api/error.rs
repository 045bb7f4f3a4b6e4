//! Errors: one enum for each operation.

use thiserror::Error;

use crate::machine::Failure;
pub use crate::machine::Reason;
use crate::zookeeper::NoAuth;

/// Why an acquire failed. A lock that is merely held by somebody else is not an error: see
/// [`Refused`](super::event::Refused).
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum AcquireError {
    /// [`Keeper::close`](https://docs.rs/lockkeeper) was called, or the last handle of the keeper dropped.
    #[error("the keeper is closed")]
    Closed,
    /// The access list of a node denies a request that the lock needs.
    #[error("the access list of {path:?} denies what the lock needs")]
    NoAuth {
        /// The node: the lock's directory, the semaphore's path or that of its queue; the nearest parent that exists, if
        /// one of them is missing; or a contender ahead. A parent above the chroot has its whole path.
        path: String,
    },
    /// The lock's directory has used up nearly all of its sequence numbers. Delete the directory; the next request
    /// creates it again.
    #[error("{path:?} has nearly used up its sequence numbers: delete it, and it is created again")]
    SequenceExhausted {
        /// The lock's directory, or that of a semaphore's mutex.
        path: String,
    },
    /// Another client on the same path follows different locking rules, so both could hold at the same time: a client
    /// of another dialect, or in Curator's dialect a read/write lock beside a mutex. The request has been withdrawn.
    /// Use the same dialect, or add an extra lock pattern that matches the other one's node.
    #[error(
        "{contender:?} belongs to another kind of lock, and the two would not exclude each other: \
         use the same dialect, or add an extra lock pattern that matches it"
    )]
    MixedDialects {
        /// The other client's node.
        contender: String,
    },
    /// The semaphore does not have the requested permits.
    #[error(transparent)]
    Permits(#[from] PermitsError),
    /// This process already has as many waiting requests as the handle's
    /// [limit](https://docs.rs/lockkeeper/latest/lockkeeper/struct.LockOptions.html#method.max_waiting) allows.
    #[error("{limit} requests already wait for {path:?}, which is the limit of this handle")]
    TooManyWaiting {
        /// The lock's directory, or the semaphore's path.
        path: String,
        /// The maximum number of waiting requests.
        limit: usize,
    },
    /// A request was rejected, by ZooKeeper or because it could never succeed. The reason is the
    /// [`source`](std::error::Error::source).
    #[error("a request for {path:?} was rejected")]
    Rejected {
        /// The lock's directory, or the semaphore's path.
        path: String,
        /// Why it was rejected.
        #[source]
        reason: Reason,
    },
    /// The actor of this path stopped unexpectedly. Its nodes are being cleaned up, and the request can be repeated.
    #[error("the actor of {path:?} stopped unexpectedly: try again")]
    Stopped {
        /// The lock's directory, or the semaphore's path.
        path: String,
    },
}

/// Why a semaphore refused the requested number of permits.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum PermitsError {
    /// Zero permits were requested.
    #[error("at least one permit of {path:?} must be requested")]
    None {
        /// The semaphore's path.
        path: String,
    },
    /// More permits were requested than the semaphore has.
    #[error(
        "{count} permits of {path:?} were requested, but it has only {limit}: request fewer, or resize it"
    )]
    TooMany {
        /// The semaphore's path.
        path: String,
        /// The number of permits requested.
        count: u32,
        /// The number of permits that the semaphore has.
        limit: u32,
    },
    /// The stored number of permits differs from the one that the handle was created with.
    #[error("{path:?} has {stored} permits, not {given}: use the stored number, or resize it")]
    LimitMismatch {
        /// The semaphore's path.
        path: String,
        /// The stored number of permits.
        stored: i64,
        /// The number that the handle was created with.
        given: u32,
    },
    /// No number of permits is stored, and the handle was created without one.
    #[error(
        "no number of permits is stored at {path:?}: create the handle with one, or resize the semaphore"
    )]
    NoLimit {
        /// The semaphore's path.
        path: String,
    },
}

/// Why a release was not confirmed.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReleaseError {
    /// The lease ended before the release was confirmed: somebody else may have held the lock in the meantime.
    #[error("the lease ended before the release was confirmed")]
    Lost,
    /// The request has not been granted, so there is nothing to release. It continues to wait; cancel it instead.
    #[error("the request has not been granted yet: cancel it instead")]
    NotGranted,
}

/// The lease ended before the work was known to be done, so the work was dropped, or its result.
///
/// How far the work has come is unknown: what it had sent may be carried out, and it may even be done. So before the
/// same work begins again, look what has been done, or let the resource refuse it.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the lease was lost, and it is unknown how far the work has come")]
pub struct LostError;

/// Why a question about a lock or semaphore was not answered, or a change not confirmed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum QueryError {
    /// [`Keeper::close`](https://docs.rs/lockkeeper) was called, or the last handle of the keeper dropped.
    #[error("the keeper is closed")]
    Closed,
    /// There is no session at the moment. Try again once the keeper has connected.
    #[error("there is no connection to ZooKeeper at the moment: try again later")]
    Disconnected,
    /// The access list of a node denies the request.
    #[error("the access list of {path:?} denies the request")]
    NoAuth {
        /// The node.
        path: String,
    },
    /// ZooKeeper rejected the request. The reason is the [`source`](std::error::Error::source).
    #[error("a request for {path:?} was rejected")]
    Rejected {
        /// The node.
        path: String,
        /// Why it was rejected.
        #[source]
        reason: Reason,
    },
    /// The connection broke before the answer came. The reason is the [`source`](std::error::Error::source).
    #[error("a request for {path:?} got no answer: try again")]
    Unanswered {
        /// The node.
        path: String,
        /// What happened to the connection.
        #[source]
        reason: Reason,
    },
}

/// Why a contender was not removed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum RemoveContenderError {
    /// The contender's node is ephemeral: ZooKeeper deletes it with its session. It cannot be removed by hand, because
    /// its owner could still believe that it holds the lock.
    #[error(
        "{name:?} is ephemeral and ends with session {session:#x}; only persistent contenders can be removed"
    )]
    Ephemeral {
        /// The contender's node.
        name: String,
        /// The session that owns the node.
        session: i64,
    },
    /// A request failed. The node may have been deleted if it was [`Unanswered`](QueryError::Unanswered).
    #[error(transparent)]
    Failed(#[from] QueryError),
}

/// Why a semaphore's number of permits was not changed, or may not have been.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResizeError {
    /// The new number of permits was zero.
    #[error("a semaphore must have at least one permit")]
    NoPermits,
    /// A request failed. After [`Unanswered`](QueryError::Unanswered), [`Disconnected`](QueryError::Disconnected) and
    /// [`Closed`](QueryError::Closed), the number may have been changed nevertheless.
    #[error(transparent)]
    Failed(#[from] QueryError),
}

/// Why the data that a candidate advertises were not written, or may not have been.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum AdvertiseError {
    /// The candidacy has ended, or the keeper was closed.
    #[error("the candidacy has ended")]
    Closed,
    /// The data are too long. Nothing was changed.
    #[error("the data have {bytes} bytes; at most {limit} are allowed")]
    TooLong {
        /// Their length in bytes.
        bytes: usize,
        /// The greatest length in bytes.
        limit: usize,
    },
    /// The access list of the candidate's node denies the write. The next node is created with the data.
    #[error("the access list of {path:?} denies the request")]
    NoAuth {
        /// The candidate's node.
        path: String,
    },
    /// ZooKeeper rejected the write. The next node is created with the data. The reason is the
    /// [`source`](std::error::Error::source).
    #[error("ZooKeeper rejected the write of the candidate's node")]
    Rejected {
        /// Why it was rejected.
        #[source]
        reason: Reason,
    },
    /// The answer was lost, or the node was deleted meanwhile. The next node is created with the data. The reason is the
    /// [`source`](std::error::Error::source).
    #[error("the candidate's node was not written")]
    Failed {
        /// Why it failed.
        #[source]
        reason: Reason,
    },
}

/// Why there is no connection.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectError {
    /// An option has an invalid value.
    #[error("{option} of {value} is invalid: {reason}")]
    InvalidOption {
        /// The option's name.
        option: &'static str,
        /// The invalid value.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The address cannot be parsed.
    #[error("{address:?} is not a valid ZooKeeper address: {reason}")]
    InvalidAddress {
        /// The invalid address.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The server rejected the credentials.
    #[error("ZooKeeper at {address:?} rejected the credentials")]
    AuthFailed {
        /// The address of the server or servers.
        address: String,
    },
    /// The actor that should supervise the keeper is stopping.
    #[error("the actor that should supervise the keeper is stopping")]
    NoSupervisor,
    /// No server granted a session in time.
    #[error("no connection to ZooKeeper at {address:?} within {timeout:?}: {reason}")]
    Unreachable {
        /// The address of the server or servers.
        address: String,
        /// How long the keeper tried.
        timeout: std::time::Duration,
        /// Why the last attempt failed.
        reason: String,
    },
}

impl AcquireError {
    /// Whether the same request can succeed later without a change to the code or the cluster.
    pub fn is_retryable(&self) -> bool {
        match self {
            AcquireError::TooManyWaiting { .. } | AcquireError::Stopped { .. } => true,
            AcquireError::Rejected { reason, .. } => is_throttled(reason),
            AcquireError::Closed
            | AcquireError::NoAuth { .. }
            | AcquireError::SequenceExhausted { .. }
            | AcquireError::MixedDialects { .. }
            | AcquireError::Permits(_) => false,
        }
    }
}

impl ReleaseError {
    /// Whether the same release can succeed later: once the request has been granted.
    pub fn is_retryable(&self) -> bool {
        match self {
            ReleaseError::NotGranted => true,
            ReleaseError::Lost => false,
        }
    }
}

impl QueryError {
    /// Whether the same question can be answered later without a change to the code or the cluster.
    pub fn is_retryable(&self) -> bool {
        match self {
            QueryError::Disconnected | QueryError::Unanswered { .. } => true,
            QueryError::Rejected { reason, .. } => is_throttled(reason),
            QueryError::Closed | QueryError::NoAuth { .. } => false,
        }
    }

    pub(crate) fn new(path: &str, failure: Failure) -> QueryError {
        match failure {
            Failure::NoAuth => QueryError::NoAuth { path: path.to_owned() },
            Failure::SessionGone => QueryError::Disconnected,
            Failure::NoNode => {
                QueryError::Rejected { path: path.to_owned(), reason: "it does not exist".into() }
            }
            Failure::Refused(reason) => match NoAuth::in_reason(&reason) {
                Some(NoAuth { path }) => QueryError::NoAuth { path: path.clone() },
                None => QueryError::Rejected { path: path.to_owned(), reason },
            },
            Failure::Unknown(reason) => QueryError::Unanswered { path: path.to_owned(), reason },
        }
    }
}

impl RemoveContenderError {
    /// Whether the same request can succeed later without a change to the code or the cluster.
    pub fn is_retryable(&self) -> bool {
        match self {
            RemoveContenderError::Failed(error) => error.is_retryable(),
            RemoveContenderError::Ephemeral { .. } => false,
        }
    }
}

impl ConnectError {
    /// Whether the same connection can succeed later without a change to the code or the cluster.
    pub fn is_retryable(&self) -> bool {
        match self {
            ConnectError::Unreachable { .. } => true,
            ConnectError::InvalidOption { .. }
            | ConnectError::InvalidAddress { .. }
            | ConnectError::AuthFailed { .. }
            | ConnectError::NoSupervisor => false,
        }
    }
}

impl AdvertiseError {
    /// Whether the same call can succeed later without a change to the code or the cluster.
    pub fn is_retryable(&self) -> bool {
        match self {
            AdvertiseError::Failed { .. } => true,
            AdvertiseError::Rejected { reason } => is_throttled(reason),
            AdvertiseError::Closed | AdvertiseError::TooLong { .. } | AdvertiseError::NoAuth { .. } => false,
        }
    }

    pub(crate) fn new(path: &str, failure: Failure) -> AdvertiseError {
        match failure {
            Failure::NoAuth => AdvertiseError::NoAuth { path: path.to_owned() },
            Failure::SessionGone | Failure::NoNode => AdvertiseError::gone(),
            Failure::Refused(reason) => AdvertiseError::Rejected { reason },
            Failure::Unknown(reason) => AdvertiseError::Failed { reason },
        }
    }

    pub(crate) fn gone() -> AdvertiseError {
        AdvertiseError::Failed { reason: "the candidate's node no longer exists".into() }
    }
}

impl ResizeError {
    /// Whether the same resize can succeed later without a change to the code or the cluster.
    pub fn is_retryable(&self) -> bool {
        match self {
            ResizeError::Failed(error) => error.is_retryable(),
            ResizeError::NoPermits => false,
        }
    }
}

/// Whether a request was rejected only because the server is overloaded, so that it can succeed later. Any other
/// rejection stays.
pub fn is_throttled(reason: &Reason) -> bool {
    matches!(reason.downcast_ref(), Some(zookeeper_client::Error::Throttled))
}

/// Whether a request was rejected because a node has another version than the one that was read.
pub(crate) fn is_other_version(reason: &Reason) -> bool {
    matches!(reason.downcast_ref(), Some(zookeeper_client::Error::BadVersion))
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    #[test]
    fn an_error_of_zookeeper_is_the_source_and_tells_whether_to_try_again() {
        let rejected = |error: zookeeper_client::Error| {
            QueryError::new("/a", Failure::from(error)).source().map(|source| source.downcast_ref().cloned())
        };
        for error in [zookeeper_client::Error::Throttled, zookeeper_client::Error::QuotaExceeded] {
            assert_eq!(rejected(error.clone()), Some(Some(error)));
        }
        let retryable = |error| QueryError::new("/a", Failure::from(error)).is_retryable();
        assert!(retryable(zookeeper_client::Error::Throttled));
        assert!(!retryable(zookeeper_client::Error::QuotaExceeded));
        assert!(retryable(zookeeper_client::Error::ConnectionLoss), "its outcome is unknown");
        let error = AcquireError::Rejected { path: "/a".into(), reason: "too long".into() };
        assert_eq!(error.to_string(), "a request for \"/a\" was rejected");
        assert_eq!(error.source().map(|source| source.to_string()), Some("too long".into()));
    }
}
