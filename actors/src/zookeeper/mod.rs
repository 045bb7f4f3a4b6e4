//! The seam to ZooKeeper: all that the actors ask of it, and nothing else.
//!
//! Every method sends its request when it is called, in the order of the calls. The answer may be awaited later, or
//! dropped. [`Connector`] implements it with `zookeeper_client`; a simulation implements the same two traits.

mod client;
mod servers;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;

pub use self::client::Connector;
use crate::machine::Failure;
use crate::machine::lock::NodeStat;
use crate::machine::semaphore::{Leases, Root, TakeFailure};

#[cfg(any(feature = "sasl-digest-md5", feature = "sasl-gssapi"))]
pub use zookeeper_client::SaslOptions;
pub use zookeeper_client::{Acl, AuthId, Permission};
#[cfg(feature = "tls")]
pub use zookeeper_client::{TlsCa, TlsCerts, TlsIdentity, TlsOptions};

/// An answer on its way. Its request is sent already.
pub type Answer<T> = BoxFuture<'static, Result<T, Failure>>;

/// One session with ZooKeeper.
pub trait ZooKeeper: Send + Sync + 'static {
    /// The session's id, as `ephemeralOwner` shows it.
    fn session(&self) -> i64;
    /// The timeout that the server granted.
    fn timeout(&self) -> Duration;
    /// The prefix that the client adds to every path.
    fn chroot(&self) -> &str {
        ""
    }
    /// Makes a sequential node.
    fn create(&self, prefix: &str, data: &[u8], ephemeral: bool, acl: &[Acl]) -> Answer<CreatedNode>;
    /// Makes ephemeral sequential nodes, all or none, in one transaction.
    fn create_all(&self, prefixes: &[NewNode<'_>]) -> BoxFuture<'static, Result<CreatedNodes, NotCreated>>;
    /// Makes a directory and its parents, the connection's chroot included; an empty path is the chroot itself. Neither
    /// atomic nor ordered.
    fn make_directories(&self, path: &str, container: bool, acl: &[Acl]) -> Answer<()>;
    /// The names of a node's children, in no order.
    fn children(&self, path: &str) -> Answer<Vec<String>>;
    /// Brings the server that the session talks to up to date with its leader.
    fn sync(&self, path: &str) -> Answer<()>;
    /// A node's data and stat.
    fn read(&self, path: &str) -> Answer<Node>;
    /// Leaves a watch on a node.
    fn watch(&self, path: &str) -> Answer<Watching>;
    /// Leaves a watch on a node that does not exist, which fires when it is made; `None` when it exists.
    fn watch_for(&self, path: &str) -> Answer<Option<Watching>>;
    /// A node's data and their version.
    fn read_root(&self, path: &str) -> Answer<Root>;
    /// The same, and leaves a watch on the data.
    fn watch_root(&self, path: &str) -> Answer<(Root, Watching)>;
    /// The names of a node's children, and which transaction wrote its data.
    fn leases(&self, path: &str) -> Answer<Leases>;
    /// The same, and leaves a watch on the children.
    fn watch_children(&self, path: &str) -> Answer<(Leases, Watching)>;
    /// Makes a node that outlives sessions. One that exists already is left as it is.
    fn make(&self, path: &str, data: &[u8], acl: &[Acl]) -> Answer<()>;
    /// Replaces a node's data, whatever their version.
    fn write(&self, path: &str, data: &[u8]) -> Answer<()>;
    /// Makes ephemeral nodes, all or none.
    fn take(&self, take: TakeRequest<'_>) -> BoxFuture<'static, Result<(), TakeFailure>>;
    /// Deletes a node, whatever its version.
    fn delete(&self, path: &str) -> Answer<()>;
    /// Tells which session owns the ephemeral nodes that this connection makes: some servers answer a reconnect with
    /// another session than the one that was asked for, and `zookeeper_client` does not show it.
    ///
    /// Makes a node and deletes it in the same transaction, in the first of these directories that exists, or else in the
    /// one in which a contender was made last. `None` if none was ever made, or the server does not tell.
    fn owner(&self, directories: &[String]) -> Answer<Option<i64>>;
    /// A write through the quorum that changes nothing: checks that these nodes exist.
    fn check(&self, paths: &[String]) -> BoxFuture<'static, Result<(), CheckFailure>>;
}

/// A watch that is armed. It ends when the watch fires; dropped, it takes the watch back.
pub type Watching = BoxFuture<'static, Fired>;

/// The leases that a semaphore takes in one transaction, and the conditions.
#[derive(Clone, Debug)]
pub struct TakeRequest<'a> {
    /// A node that must exist.
    pub mutex: &'a str,
    /// Whether it stays; otherwise it is deleted.
    pub keep: bool,
    /// A node that must exist, in this version.
    pub root: (&'a str, i32),
    /// The nodes to make.
    pub leases: &'a [NewNode<'a>],
}

/// A node to be made.
#[derive(Clone, Copy, Debug)]
pub struct NewNode<'a> {
    /// Where.
    pub path: &'a str,
    /// What is in it.
    pub data: &'a [u8],
    /// Who may do what with it.
    pub acl: &'a [Acl],
}

/// A node that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreatedNode {
    /// The number that was appended to its name.
    pub sequence: i64,
    /// The transaction that made it.
    pub czxid: i64,
}

/// Nodes that were made in one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedNodes {
    /// The numbers that were appended to their names, in the order of the request.
    pub sequences: Vec<i64>,
    /// The transaction that made them.
    pub czxid: i64,
}

/// A node that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its data.
    pub data: Vec<u8>,
    /// What its stat tells about its owner.
    pub stat: NodeStat,
}

/// Why none of several nodes was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotCreated {
    /// The node that made the others fail, if it was one of them and the failure is definite.
    pub culprit: Option<usize>,
    /// What happened to this node, or to the request.
    pub failure: Failure,
}

/// How a watch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fired {
    /// The node is gone.
    Gone,
    /// Something else happened to the node.
    Changed,
    /// The session ended.
    Ended,
}

/// Why a check did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckFailure {
    /// The node at this index does not exist.
    Missing(usize),
    /// The node at this index may not be read.
    Unreadable(usize),
    /// Anything else.
    Failed(Failure),
}

/// Makes sessions.
pub trait Connect: Send + Sync + 'static {
    /// Begins a session. Returns once there is one, or it is known that there will be none.
    fn connect(&self) -> BoxFuture<'static, Result<Connected, Unconnected>>;
    /// What it connects to, for logs and errors.
    fn address(&self) -> &str;
}

/// A session that has begun.
pub struct Connected {
    /// For requests. The session is closed when the last clone is dropped.
    pub client: Arc<dyn ZooKeeper>,
    /// The states of the connection. Only the newest is kept: a short interruption may not be shown, but the
    /// [`LinkState::Up`] after it is.
    pub states: BoxStream<'static, LinkState>,
}

/// The state of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Connected again.
    Up,
    /// Not connected; the client is trying.
    Down,
    /// The session is over. Nothing follows.
    Ended,
}

/// Why there is no session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unconnected {
    /// The address cannot be read.
    Address(String),
    /// The credentials were refused.
    AuthFailed,
    /// No server gave a session.
    Unreachable(String),
}
