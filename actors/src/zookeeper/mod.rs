//! The interface to ZooKeeper: exactly the requests that the actors need.
//!
//! Every method sends its request when it is called, so requests are sent in the order of the calls. The answer may be
//! awaited later, or dropped. [`Connector`] implements the two traits with `zookeeper_client`; a simulation implements
//! them too.

mod client;
#[cfg(feature = "tls")]
mod handshake;
pub mod inspection;
mod no_delay;
mod servers;
mod transaction;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use thiserror::Error;

pub use self::client::Connector;
#[cfg(any(feature = "sasl-digest-md5", feature = "sasl-gssapi"))]
pub use self::client::SaslOptions;
use self::inspection::Inspection;
pub use self::transaction::{TransactionFailure, Write, WriteFailure};
use crate::machine::lock::NodeStat;
use crate::machine::semaphore::{Leases, Root, TakeFailure};
use crate::machine::{Failure, Reason};

pub use zookeeper_client::{Acl, AuthId, Permission};
#[cfg(feature = "tls")]
pub use zookeeper_client::{TlsCa, TlsCerts, TlsDynamicCerts, TlsIdentity, TlsOptions};

/// The answer to a request that has already been sent.
pub type Answer<T> = BoxFuture<'static, Result<T, Failure>>;

/// One session with ZooKeeper.
pub trait ZooKeeper: Send + Sync + 'static {
    /// The session's id, as in `ephemeralOwner`.
    fn session(&self) -> i64;
    /// The timeout that the server granted.
    fn timeout(&self) -> Duration;
    /// The prefix that the client adds to every path; empty for none.
    fn chroot(&self) -> &str {
        ""
    }
    /// Creates a sequential node.
    fn create(
        &self,
        prefix: String,
        data: Arc<[u8]>,
        ephemeral: bool,
        acl: Arc<[Acl]>,
    ) -> Answer<CreatedNode>;
    /// Creates ephemeral sequential nodes in one transaction, all or none.
    fn create_all(&self, prefixes: &[NewNode<'_>]) -> BoxFuture<'static, Result<CreatedNodes, NotCreated>>;
    /// Creates a directory and its missing parents, including the connection's chroot. An empty path is the chroot
    /// itself. This is several requests: neither atomic, nor ordered with other requests. If an access list denies that,
    /// the reason of the failure is a [`NoAuth`].
    fn make_directories(&self, path: &str, container: bool, acl: &[Acl]) -> Answer<()>;
    /// Lists the names of a node's children, in no particular order.
    fn children(&self, path: &str) -> Answer<Vec<String>>;
    /// Brings the session's server up to date, by a write through the quorum that changes nothing: what is read below this
    /// path afterwards, on the same connection, is not older than anything that any session has seen before. A `sync` of
    /// ZooKeeper does not prove that: a leader that was deposed answers it alone.
    fn sync(&self, path: &str) -> Answer<()>;
    /// Reads a node's data and stat.
    fn read(&self, path: &str) -> Answer<Node>;
    /// Sets a watch on a node.
    fn watch(&self, path: &str) -> Answer<Watching>;
    /// Sets a watch that fires when a node is created; `None` if the node already exists.
    fn watch_for(&self, path: &str) -> Answer<Option<Watching>>;
    /// Reads a semaphore's root: its data and their version.
    fn read_root(&self, path: &str) -> Answer<Root>;
    /// The same as [`read_root`](ZooKeeper::read_root), and sets a watch on the data.
    fn watch_root(&self, path: &str) -> Answer<(Root, Watching)>;
    /// Lists the leases below a semaphore's root, with the transaction that wrote the root's data.
    fn leases(&self, path: &str) -> Answer<Leases>;
    /// The same as [`leases`](ZooKeeper::leases), and sets a watch on the children.
    fn watch_children(&self, path: &str) -> Answer<(Leases, Watching)>;
    /// Creates a persistent node. If it already exists, it is not changed.
    fn make(&self, path: &str, data: &[u8], acl: &[Acl]) -> Answer<()>;
    /// Replaces a node's data, regardless of their version.
    fn write(&self, path: &str, data: &[u8]) -> Answer<()>;
    /// Creates the leases of a semaphore, all or none, under conditions.
    fn take(&self, take: TakeRequest<'_>) -> BoxFuture<'static, Result<(), TakeFailure>>;
    /// Deletes a node, regardless of its version.
    fn delete(&self, path: &str) -> Answer<()>;
    /// Carries out these writes in one transaction, all or none, on the condition that the nodes `required` exist.
    fn transact(
        &self,
        required: &[String],
        writes: Vec<Write>,
    ) -> BoxFuture<'static, Result<(), TransactionFailure>>;
    /// The requests of inspection in this session; `None` if the implementation has none. They keep the session open.
    fn inspection(&self) -> Option<Arc<dyn Inspection>> {
        None
    }
    /// Finds out which session owns the ephemeral nodes that this connection creates. Some servers answer a reconnect
    /// with another session than the requested one, and `zookeeper_client` does not report that.
    ///
    /// Creates a node and deletes it in the same transaction, in the first of these directories where it can, or else in
    /// that of the last contender, or above them. `None` if there has been no contender yet, or if the server does not
    /// return the owner.
    fn owner(&self, directories: &[String]) -> Answer<Option<i64>>;
    /// Checks that these nodes exist, with a write that goes through the quorum but changes nothing.
    fn check(&self, paths: &[String]) -> BoxFuture<'static, Result<(), CheckFailure>>;
}

/// A watch that has been set. Resolves when the watch fires. Dropping it removes the watch.
pub type Watching = BoxFuture<'static, Fired>;

/// A transaction that creates leases of a semaphore, with its conditions.
#[derive(Clone, Debug)]
pub struct TakeRequest<'a> {
    /// The node that holds the semaphore's mutex, which must exist.
    pub mutex: &'a str,
    /// Whether the mutex is kept; otherwise the transaction deletes its node.
    pub keep: bool,
    /// The path of the root, and the version that its data must have.
    pub root: (&'a str, i32),
    /// The leases to create.
    pub leases: &'a [NewNode<'a>],
}

/// A node to create.
#[derive(Clone, Copy, Debug)]
pub struct NewNode<'a> {
    /// The path, without the sequence number of a sequential node.
    pub path: &'a str,
    /// The node's data.
    pub data: &'a [u8],
    /// The node's access list.
    pub acl: &'a [Acl],
}

/// A node that was created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreatedNode {
    /// The sequence number that was appended to its name.
    pub sequence: i64,
    /// The transaction that created it.
    pub czxid: i64,
}

/// Nodes that were created in one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedNodes {
    /// The sequence numbers that were appended to their names, in the order of the request.
    pub sequences: Vec<i64>,
    /// The transaction that created them.
    pub czxid: i64,
}

/// A node that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The node's data.
    pub data: Vec<u8>,
    /// The part of the node's stat that shows its owner.
    pub stat: NodeStat,
}

/// Why none of several nodes was created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotCreated {
    /// The index of the node that made the transaction fail; `None` if no single node did, or the outcome is unknown.
    pub culprit: Option<usize>,
    /// The failure of that node, or of the whole request.
    pub failure: Failure,
}

/// The access list of a node denies a request. This is the [reason](Failure::Refused) of a failure where the node is not
/// the one that the request is for.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("the access list of {path:?} denies the request")]
pub struct NoAuth {
    /// The node, without the connection's chroot. A node above the chroot has its whole path.
    pub path: String,
}

impl NoAuth {
    /// The node that a reason names.
    pub fn in_reason(reason: &Reason) -> Option<&NoAuth> {
        reason.downcast_ref()
    }
}

impl From<NoAuth> for Failure {
    fn from(denied: NoAuth) -> Failure {
        Failure::Refused(denied.into())
    }
}

/// How a watch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fired {
    /// The node was deleted.
    Gone,
    /// Something else happened to the node.
    Changed,
    /// The session ended.
    Ended,
}

/// Why a check failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckFailure {
    /// The node at this index does not exist.
    Missing(usize),
    /// The access list of the node at this index denies reading it.
    Unreadable(usize),
    /// The access list of this node, which every check reads, denies that.
    Denied(&'static str),
    /// Anything else.
    Failed(Failure),
}

/// Establishes sessions.
pub trait Connect: Send + Sync + 'static {
    /// Establishes a session. Returns once there is one, or the attempt has failed.
    fn connect(&self) -> BoxFuture<'static, Result<Connected, Unconnected>>;
    /// The address of the servers, for logs and errors.
    fn address(&self) -> &str;
    /// Whether a session can reconnect while it has watches.
    fn resumes_watches(&self) -> bool {
        true
    }
}

/// A session that was established.
pub struct Connected {
    /// The client that sends requests. The session is closed when the last clone is dropped.
    pub client: Arc<dyn ZooKeeper>,
    /// The states of the connection. Only the newest one is kept, so a short interruption may be skipped, but not the
    /// [`LinkState::Up`] after it.
    pub states: BoxStream<'static, LinkState>,
}

/// The state of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Connected again.
    Up,
    /// Disconnected; the client is reconnecting.
    Down,
    /// The session has ended. This state is final.
    Ended,
}

/// Why there is no session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unconnected {
    /// The address is invalid.
    Address(String),
    /// The credentials were rejected.
    AuthFailed,
    /// No server granted a session.
    Unreachable(String),
}
