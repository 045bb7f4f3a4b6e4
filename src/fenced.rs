//! Writes to ZooKeeper that only the holder of a lock can make.

use std::fmt;
use std::slice;

use lockkeeper_actors::api::error::{Reason, is_throttled};
use lockkeeper_actors::api::lease::{Lease, LeaseState, Writing};
use lockkeeper_actors::api::request::bytes_of;
use lockkeeper_actors::machine::Failure;
use lockkeeper_actors::machine::path_rules::{InvalidPath, check_path};
use lockkeeper_actors::zookeeper::{TransactionFailure, Write, WriteFailure};
use thiserror::Error;

use crate::guard::Guard;
use crate::multi_lock::MultiGuard;
use crate::options::MAX_REQUEST;

impl<M> Guard<M> {
    /// Begins a transaction that ZooKeeper carries out only if this guard's node exists, so only while the lock is
    /// held. Nothing is sent before [`commit`](Fenced::commit).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let zookeeper = lockkeeper_embedded::Embedded::start().await?;
    /// # let keeper = lockkeeper::Keeper::connect(&zookeeper.address()).await?;
    /// let guard = keeper.lock("/locks/ledger")?.acquire().await?;
    /// guard.fenced().create("/ledger", "balance 100").create("/ledger/draft", "").commit().await?;
    /// guard.fenced().set("/ledger", "balance 90").delete("/ledger/draft").commit().await?;
    /// guard.release().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn fenced(&self) -> Fenced<'_> {
        Fenced::new(slice::from_ref(&self.0))
    }
}

impl MultiGuard {
    /// Begins a transaction that ZooKeeper carries out only if the nodes of all locks exist: see [`Guard::fenced`].
    pub fn fenced(&self) -> Fenced<'_> {
        Fenced::new(self.0.leases())
    }
}

/// A transaction that ZooKeeper carries out as a whole or not at all, and only if the nodes of a guard exist. It sends
/// one request, over the keeper's own session.
///
/// The server checks and writes at one moment. So no write of a former holder succeeds after another contender that
/// excludes it was granted the lock, however long the process or the network was paused. No token has to be stored.
/// Within one process a released lock is handed on before its node is deleted, but not before its transactions are
/// answered.
///
/// The paths are subject to the chroot of the keeper's address, as those of locks are. The writes are carried out in
/// their order, and each sees the effects of those before it.
#[derive(Clone)]
#[must_use = "nothing is written before `commit`"]
pub struct Fenced<'guard> {
    leases: &'guard [Lease],
    writes: Vec<Write>,
}

impl<'guard> Fenced<'guard> {
    fn new(leases: &'guard [Lease]) -> Fenced<'guard> {
        Fenced { leases, writes: Vec::new() }
    }

    /// Creates a persistent node, with the access list of the lock's nodes. Its parent must exist.
    pub fn create(self, path: impl Into<String>, data: impl Into<Vec<u8>>) -> Fenced<'guard> {
        let acl = self.leases.first().map(|lease| lease.acl().to_vec()).unwrap_or_default();
        self.with(Write::Create { path: path.into(), data: data.into(), acl })
    }

    /// Replaces the data of a node.
    pub fn set(self, path: impl Into<String>, data: impl Into<Vec<u8>>) -> Fenced<'guard> {
        self.with(Write::Set { path: path.into(), data: data.into(), version: None })
    }

    /// Replaces the data of a node if they have this version, as in ZooKeeper's `Stat`. The new version is larger by
    /// one. As for ZooKeeper, the version -1 stands for any.
    pub fn set_version(
        self,
        path: impl Into<String>,
        data: impl Into<Vec<u8>>,
        version: i32,
    ) -> Fenced<'guard> {
        self.with(Write::Set { path: path.into(), data: data.into(), version: Some(version) })
    }

    /// Deletes a node, which must have no children.
    pub fn delete(self, path: impl Into<String>) -> Fenced<'guard> {
        self.with(Write::Delete { path: path.into() })
    }

    fn with(mut self, write: Write) -> Fenced<'guard> {
        self.writes.push(write);
        self
    }

    /// Sends the transaction, and waits for the answer. While the connection is interrupted, this waits until it is
    /// back or the session has ended.
    ///
    /// # Errors
    ///
    /// [`FencedError`]. Nothing was written, except perhaps with [`FencedError::Unknown`]. Bad input and a lease that is
    /// known to be lost are reported before anything is sent.
    ///
    /// # Cancel safety
    ///
    /// Nothing is sent before the first poll. After that, dropping the future does not stop the transaction: it may or
    /// may not be carried out, but never in part. A guard that is dropped meanwhile is released after the answer, so
    /// nobody else holds the lock before that, unless the session ends.
    pub async fn commit(self) -> Result<(), FencedError> {
        let Fenced { leases, writes } = self;
        let nodes: Vec<String> = leases.iter().flat_map(Lease::nodes).cloned().collect();
        let session = leases.first().and_then(Lease::keep_session);
        check(&nodes, &writes, session.as_ref().map_or("", |session| session.chroot()))?;
        // First, so that a release by message either comes before and is seen, or waits.
        let writing: Vec<Writing> = leases.iter().map(Lease::begin_write).collect();
        if leases.iter().any(|lease| lease.state() == LeaseState::Lost) {
            return Err(FencedError::Lost);
        }
        let Some((lease, session)) = leases.first().zip(session) else {
            return Err(no_session(leases));
        };
        let paths: Vec<String> = writes.iter().map(|write| write.path().to_owned()).collect();
        let answer = session.transact(&nodes, writes);
        drop(session);
        // A task, because this future may be dropped, or kept without being polled. It does not end with the caller's
        // runtime. The session is open until the answer.
        let answered = lease.keep_alive().runtime().spawn(async move {
            let answered = answer.await;
            drop(writing);
            answered
        });
        let answered =
            answered.await.map_err(|ended| FencedError::Unknown { reason: ended.to_string().into() })?;
        answered.map_err(|failure| match failure {
            TransactionFailure::Condition(_, WriteFailure::NoNode) => FencedError::Lost,
            TransactionFailure::Condition(index, failure) => {
                FencedError::Unchecked { node: at(nodes, index), failure }
            }
            TransactionFailure::Write(index, failure) => {
                FencedError::Write { index, path: at(paths, index), failure }
            }
            TransactionFailure::Request(Failure::SessionGone) => no_session(leases),
            TransactionFailure::Request(Failure::Unknown(reason)) => FencedError::Unknown { reason },
            TransactionFailure::Request(Failure::Refused(reason)) => FencedError::Rejected { reason },
            TransactionFailure::Request(failure @ (Failure::NoNode | Failure::NoAuth)) => {
                FencedError::Rejected { reason: format!("{failure:?}").into() }
            }
        })
    }
}

impl fmt::Debug for Fenced<'_> {
    /// Leaves out the data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let paths: Vec<&str> = self.writes.iter().map(Write::path).collect();
        f.debug_struct("Fenced").field("leases", &self.leases).field("paths", &paths).finish()
    }
}

/// Why a [fenced transaction](Guard::fenced) was not carried out. Nothing was written, except perhaps with
/// [`Unknown`](FencedError::Unknown).
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum FencedError {
    /// The lock is no longer held: its lease has ended, or its node does not exist.
    #[error("nothing was written, because the lock is no longer held")]
    Lost,
    /// The lock outlives sessions, and there is no session at the moment. Try again once the keeper has connected.
    #[error(
        "nothing was written, because there is no connection to ZooKeeper at the moment: try again later"
    )]
    Disconnected,
    /// The transaction has no writes.
    #[error("a transaction must have at least one write")]
    Empty,
    /// A path is not valid.
    #[error("{path:?} cannot be written: {reason}")]
    InvalidPath {
        /// The path.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The transaction is larger than a server accepts by default.
    #[error("the transaction has {bytes} bytes; at most {MAX_REQUEST} are allowed")]
    TooLarge {
        /// Its size in bytes.
        bytes: usize,
    },
    /// One of the writes failed.
    #[error("nothing was written, because {path:?} could not be written: {failure}")]
    Write {
        /// The index of the write, in the order of the calls.
        index: usize,
        /// The path of the write.
        path: String,
        /// Why it failed.
        failure: WriteFailure,
    },
    /// It could not be checked that the lock is held, for example because its node's access list denies reading it.
    #[error("nothing was written, because the lock's node {node:?} could not be checked: {failure}")]
    Unchecked {
        /// The node of the guard.
        node: String,
        /// Why it could not be checked.
        failure: WriteFailure,
    },
    /// ZooKeeper rejected the transaction as a whole. The reason is the [`source`](std::error::Error::source).
    #[error("nothing was written, because ZooKeeper rejected the transaction")]
    Rejected {
        /// Why it was rejected.
        #[source]
        reason: Reason,
    },
    /// The connection broke before the answer. The transaction was carried out as a whole or not at all; only reading
    /// what it writes tells which.
    #[error("it is unknown whether the transaction was carried out, because its answer was lost")]
    Unknown {
        /// What happened to the connection.
        #[source]
        reason: Reason,
    },
}

impl FencedError {
    /// Whether the same transaction can succeed later without a change to the code or the cluster. Not so after
    /// [`Unknown`](FencedError::Unknown): read first whether it was carried out.
    pub fn is_retryable(&self) -> bool {
        match self {
            FencedError::Disconnected => true,
            FencedError::Rejected { reason } => is_throttled(reason),
            FencedError::Lost
            | FencedError::Empty
            | FencedError::InvalidPath { .. }
            | FencedError::TooLarge { .. }
            | FencedError::Write { .. }
            | FencedError::Unchecked { .. }
            | FencedError::Unknown { .. } => false,
        }
    }
}

/// Checks what can be checked without a server.
fn check(nodes: &[String], writes: &[Write], chroot: &str) -> Result<(), FencedError> {
    if writes.is_empty() {
        return Err(FencedError::Empty);
    }
    for write in writes {
        check_path(write.path())
            .map_err(|InvalidPath { path, reason, .. }| FencedError::InvalidPath { path, reason })?;
    }
    // An upper bound for the fields of one operation, with the beginning of its path.
    let operation = 64 + chroot.len();
    let checks: usize = nodes.iter().map(|node| operation + node.len()).sum();
    let bytes = checks + writes.iter().map(|write| operation + size(write)).sum::<usize>();
    if bytes > MAX_REQUEST {
        return Err(FencedError::TooLarge { bytes });
    }
    Ok(())
}

fn size(write: &Write) -> usize {
    let rest = match write {
        Write::Create { data, acl, .. } => data.len() + bytes_of(acl),
        Write::Set { data, .. } => data.len(),
        Write::Delete { .. } => 0,
    };
    write.path().len() + rest
}

/// The error if the session has ended before the transaction was sent.
fn no_session(leases: &[Lease]) -> FencedError {
    // Only a lease that outlives sessions has no end.
    match leases.iter().all(|lease| lease.valid_until().is_none()) {
        true => FencedError::Disconnected,
        false => FencedError::Lost,
    }
}

/// The path that a server's answer names by its index.
fn at(mut paths: Vec<String>, index: usize) -> String {
    match index < paths.len() {
        true => paths.swap_remove(index),
        false => String::new(),
    }
}
