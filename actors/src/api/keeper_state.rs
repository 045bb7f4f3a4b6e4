//! The state of a keeper, for a view of it that is always current.

use std::time::Duration;

/// A keeper's session at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeeperState {
    /// Whether locks can be granted and held.
    pub status: SessionStatus,
    /// The number of the newest session; the first is one.
    pub epoch: u64,
    /// ZooKeeper's number of the newest session, as the server's commands show it in hexadecimal.
    pub session_id: i64,
    /// The timeout that the server granted for the newest session.
    pub session_timeout: Duration,
}

/// The status of a keeper's session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionStatus {
    /// There is a session, and it is verified: locks are granted.
    Connected,
    /// The connection broke, or has not been verified for too long. Nothing is granted until it is.
    Suspended,
    /// There is no session. The keeper connects again.
    Lost,
    /// The keeper is closed, gave up, or died.
    Closed,
}

impl KeeperState {
    /// Before the first session.
    pub(crate) const FIRST: KeeperState =
        KeeperState { status: SessionStatus::Lost, epoch: 0, session_id: 0, session_timeout: Duration::ZERO };
}
