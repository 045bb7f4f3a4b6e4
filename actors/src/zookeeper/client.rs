//! Implements the interface with `zookeeper_client`. No other file uses that crate, except its submodules, and that
//! [the parent module](super) re-exports some of its types.

mod answers;
mod errors;
mod inspection;
mod owner;
#[cfg(any(feature = "sasl-digest-md5", feature = "sasl-gssapi"))]
mod sasl;

use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::future::{self, BoxFuture, FutureExt, TryFutureExt};
use futures::stream::{self, BoxStream, StreamExt};
use tracing::warn;
use zookeeper_client as zk;

use self::answers::{caught, commit, created_by};
use self::owner::{LastDirectories, owner};
#[cfg(any(feature = "sasl-digest-md5", feature = "sasl-gssapi"))]
pub use self::sasl::SaslOptions;
#[cfg(feature = "tls")]
use super::TlsOptions;
use super::inspection::Inspection;
use super::no_delay::NoDelay;
use super::servers::{self, diagnose};
use super::{
    Acl, Answer, CheckFailure, Connect, Connected, CreatedNode, CreatedNodes, Fired, LinkState, NewNode,
    NoAuth, Node, NotCreated, TakeRequest, TransactionFailure, Unconnected, Watching, Write, ZooKeeper,
};
use crate::machine::Failure;
use crate::machine::lock::NodeStat;
use crate::machine::semaphore::{Leases, Root, TakeFailure};

/// Connects with `zookeeper_client`. It has no `Debug` output, because that of its client has the password for SASL.
#[derive(Clone)]
pub struct Connector {
    inner: zk::Connector,
    session_timeout: Duration,
    connect_timeout: Duration,
    address: String,
    /// Whether to connect with TLS, if the address does not say so.
    secure: bool,
    /// Whether to authenticate with SASL.
    sasl: bool,
}

impl Connector {
    /// A connector for a list of servers with an optional chroot, such as `zk1:2181,zk2:2181/app`. A server may be
    /// written as `tcp+tls://host:port`. Spaces around a server do not matter.
    pub fn new(address: &str, session_timeout: Duration) -> Connector {
        Connector {
            // Fail eagerly, so that an attempt ends once every server has failed. The proof of a session counts from
            // the beginning of its attempt.
            inner: zk::Client::connector().with_session_timeout(session_timeout).with_fail_eagerly(),
            session_timeout,
            connect_timeout: Duration::MAX,
            address: servers::without_spaces(address),
            secure: false,
            sasl: false,
        }
    }

    /// The chroot of the address; empty for none.
    pub fn chroot(&self) -> &str {
        servers::chroot(&self.address)
    }

    /// How long establishing a session may take, retries included. A server that does not answer takes a part of it.
    pub fn connect_timeout(self, connect_timeout: Duration) -> Connector {
        Connector { connect_timeout, ..self }
    }

    /// Adds credentials, as ZooKeeper's `addauth` does.
    pub fn auth(self, scheme: &str, credentials: &[u8]) -> Connector {
        Connector { inner: self.inner.with_auth(scheme, credentials), ..self }
    }

    /// Connects to all servers with TLS.
    #[cfg(feature = "tls")]
    pub fn tls(self, options: TlsOptions) -> Connector {
        Connector { inner: self.inner.with_tls(options), secure: true, ..self }
    }

    /// Authenticates with SASL.
    #[cfg(any(feature = "sasl-digest-md5", feature = "sasl-gssapi"))]
    pub fn sasl(self, options: SaslOptions) -> Connector {
        Connector { inner: self.inner.with_sasl(options.0), sasl: true, ..self }
    }
}

impl Connect for Connector {
    fn connect(&self) -> BoxFuture<'static, Result<Connected, Unconnected>> {
        let this = self.clone();
        Box::pin(async move {
            servers::check(&this.address, this.secure).map_err(Unconnected::Address)?;
            let no_delay = NoDelay::new(&this.address).await;
            let servers = servers::servers(&this.address).count();
            let silence = longest_silence(this.session_timeout, this.connect_timeout, servers);
            // Zero stands for the client's own choice.
            let connector = this.inner.with_connection_timeout(silence.unwrap_or_default());
            #[cfg(feature = "tls")]
            let result = match this.secure {
                true => connector.secure_connect(&this.address).await,
                false => connector.connect(&this.address).await,
            };
            #[cfg(not(feature = "tls"))]
            let result = connector.connect(&this.address).await;
            let client = match result {
                Ok(client) => client,
                Err(zk::Error::BadArguments(reason)) => {
                    return Err(Unconnected::Address((*reason).to_string()));
                }
                Err(zk::Error::AuthFailed) => return Err(Unconnected::AuthFailed),
                Err(zk::Error::NoHosts | zk::Error::Timeout) => {
                    return Err(Unconnected::Unreachable(diagnose(&this.address, this.secure).await));
                }
                Err(other) => return Err(Unconnected::Unreachable(other.to_string())),
            };
            let (asked, granted) = (this.session_timeout, client.session_timeout());
            if asked.as_millis() != granted.as_millis() {
                warn!(?asked, ?granted, "the server granted another session timeout than the requested one");
            }
            no_delay.connected();
            let states = states(client.state_watcher(), Arc::clone(&no_delay));
            let root = Arc::new(client.clone().chroot("/").unwrap_or_else(|client| client));
            let chroot = Some(client.path()).filter(|path| *path != "/").unwrap_or_default().to_owned();
            let directories = LastDirectories::default();
            let client = Arc::new(client);
            Ok(Connected { client: Arc::new(Client { client, root, chroot, directories, no_delay }), states })
        })
    }

    fn address(&self) -> &str {
        &self.address
    }

    /// After a reconnect, the client sends its watches before SASL has finished. Servers that require SASL then end the
    /// session.
    fn resumes_watches(&self) -> bool {
        !self.sasl
    }
}

/// How long the client waits for a server before it tries the next one: for a connection, and for any answer, also later
/// in the session. `None` for its own choice, two fifths of the session timeout.
///
/// It waits less if a connect could not try all servers in time otherwise: where a majority answers, less than half of
/// them are silent. A single server leaves time for no other one. A second is enough for the handshake of TLS over any
/// distance.
fn longest_silence(session_timeout: Duration, connect_timeout: Duration, servers: usize) -> Option<Duration> {
    let most_silent = u32::try_from(servers / 2).unwrap_or(u32::MAX - 1);
    let share = connect_timeout / (most_silent + 1);
    let silence = share.max(session_timeout / 10).max(SHORTEST_SILENCE);
    (servers > 1 && silence < session_timeout * 2 / 5).then_some(silence)
}

const SHORTEST_SILENCE: Duration = Duration::from_secs(1);

#[derive(Clone)]
struct Client {
    /// Shared with requests in flight. A clone of its own would copy the session's password.
    client: Arc<zk::Client>,
    /// The same session without a chroot.
    root: Arc<zk::Client>,
    chroot: String,
    directories: LastDirectories,
    no_delay: Arc<NoDelay>,
}

impl Client {
    /// Polls a request once, which sends it, if it has not been sent yet: `zookeeper_client` sends when its method is
    /// called, and an async block that owns what the method borrows calls it at its first poll.
    ///
    /// Here and below, futures are combined without async blocks: each of those has room for the inner future twice.
    fn send<T: Send + 'static>(
        &self,
        request: impl Future<Output = T> + Send + 'static,
    ) -> BoxFuture<'static, T> {
        let in_flight = self.no_delay.request();
        let mut request = Box::pin(request.inspect(move |_| drop(in_flight)));
        match request.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => Box::pin(future::ready(answer)),
            Poll::Pending => request,
        }
    }

    fn submit<T: Send + 'static>(
        &self,
        request: impl Future<Output = Result<T, zk::Error>> + Send + 'static,
    ) -> Answer<T> {
        self.send(caught(request).map_err(Failure::from))
    }
}

/// A node that exists on every server, and that everybody may read, unless its access list was changed.
const ANCHOR: &str = "/zookeeper";

impl ZooKeeper for Client {
    fn session(&self) -> i64 {
        self.client.session_id().0
    }

    fn timeout(&self) -> Duration {
        self.client.session_timeout()
    }

    fn chroot(&self) -> &str {
        &self.chroot
    }

    fn create(
        &self,
        prefix: String,
        data: Arc<[u8]>,
        ephemeral: bool,
        acl: Arc<[Acl]>,
    ) -> Answer<CreatedNode> {
        let (client, directories) = (self.client.clone(), self.directories.clone());
        directories.tried(&prefix);
        let mode = match ephemeral {
            true => zk::CreateMode::EphemeralSequential,
            false => zk::CreateMode::PersistentSequential,
        };
        self.submit(async move {
            let options = mode.with_acls(zk::Acls::new(&acl));
            let (stat, sequence) = client.create(&prefix, &data, &options).await?;
            directories.succeeded(&prefix);
            Ok(CreatedNode { sequence: sequence.into_i64(), czxid: created_by(&stat)? })
        })
    }

    fn create_all(&self, prefixes: &[NewNode<'_>]) -> BoxFuture<'static, Result<CreatedNodes, NotCreated>> {
        if let Some(node) = prefixes.last() {
            self.directories.tried(node.path);
        }
        let (client, directories) = (self.client.clone(), self.directories.clone());
        // The async block must own all that the multi borrows: the client, and the arguments.
        let own = |node: &NewNode<'_>| (node.path.to_owned(), node.data.to_vec(), node.acl.to_vec());
        let nodes: Vec<_> = prefixes.iter().map(own).collect();
        let failed = |error: zk::Error| NotCreated { culprit: None, failure: error.into() };
        self.send(async move {
            let mut multi = client.new_multi_writer();
            for (prefix, data, acl) in &nodes {
                let options = zk::CreateMode::EphemeralSequential.with_acls(zk::Acls::new(acl));
                multi.add_create(prefix, data, &options).map_err(failed)?;
            }
            let results = commit(multi, nodes.len()).await.map_err(|error| match error {
                zk::MultiWriteError::OperationFailed { index, source } => {
                    NotCreated { culprit: Some(index), failure: source.into() }
                }
                zk::MultiWriteError::RequestFailed { source } => failed(source),
            })?;
            let unexpected =
                |what: &str| NotCreated { culprit: None, failure: Failure::Unknown(what.into()) };
            let (mut sequences, mut czxid) = (Vec::with_capacity(nodes.len()), None);
            for (result, (prefix, ..)) in results.into_iter().zip(&nodes) {
                let zk::MultiWriteResult::Create { path, stat } = result else {
                    return Err(unexpected("the answer to a create has another type"));
                };
                directories.succeeded(prefix);
                let number = path.strip_prefix(prefix.as_str()).and_then(|number| number.parse().ok());
                sequences.push(number.ok_or_else(|| unexpected("the created node has no sequence number"))?);
                if czxid.is_none() {
                    czxid = Some(match stat.is_invalid() {
                        false => created_by(&stat).map_err(failed)?,
                        // Servers before 3.7.2, 3.8.2 and 3.9.0 leave out the stat (ZOOKEEPER-4026), so it is read from
                        // one of the nodes: all were created by the same transaction. If the read fails, the outcome
                        // counts as unknown.
                        true => match caught(client.get_data(&path)).await {
                            Ok((_, stat)) => created_by(&stat).map_err(failed)?,
                            Err(error) => {
                                return Err(match Failure::from(error) {
                                    Failure::SessionGone => failed(zk::Error::SessionExpired),
                                    other => unexpected(&format!("{other:?}")),
                                });
                            }
                        },
                    });
                }
            }
            Ok(CreatedNodes { sequences, czxid: czxid.ok_or_else(|| unexpected("the answer is empty"))? })
        })
    }

    fn make_directories(&self, path: &str, container: bool, acl: &[Acl]) -> Answer<()> {
        let (root, path, acl) = (self.root.clone(), format!("{}{path}", self.chroot), acl.to_vec());
        if path.is_empty() {
            // The root node, which always exists.
            return Box::pin(future::ready(Ok(())));
        }
        let mode = match container {
            true => zk::CreateMode::Container,
            false => zk::CreateMode::Persistent,
        };
        let chroot = self.chroot.clone();
        self.send(async move {
            match caught(root.mkdir(&path, &mode.with_acls(zk::Acls::new(&acl)))).await {
                Err(zk::Error::NoAuth) => Err(denied_above(&root, &path, &chroot).await),
                made => made.map_err(Failure::from),
            }
        })
    }

    fn children(&self, path: &str) -> Answer<Vec<String>> {
        let answer = self.client.get_children(path);
        self.submit(async move { Ok(answer.await?.0) })
    }

    fn sync(&self, _path: &str) -> Answer<()> {
        let written = self.check(&[]);
        Box::pin(async move {
            match written.await {
                // A write that was refused went through the quorum, too.
                Ok(())
                | Err(CheckFailure::Missing(_) | CheckFailure::Unreadable(_) | CheckFailure::Denied(_)) => {
                    Ok(())
                }
                Err(CheckFailure::Failed(failure)) => Err(failure),
            }
        })
    }

    fn read(&self, path: &str) -> Answer<Node> {
        let answer = self.client.get_data(path);
        self.submit(async move {
            let (data, stat) = answer.await?;
            Ok(Node { data, stat: NodeStat { czxid: created_by(&stat)?, owner: stat.ephemeral_owner } })
        })
    }

    fn watch(&self, path: &str) -> Answer<Watching> {
        let (client, path) = (self.client.clone(), path.to_owned());
        self.submit(async move { Ok(fired(client.get_and_watch_data(&path).await?.2)) })
    }

    fn watch_for(&self, path: &str) -> Answer<Option<Watching>> {
        let (client, path) = (self.client.clone(), path.to_owned());
        self.submit(async move {
            let (found, watcher) = client.check_and_watch_stat(&path).await?;
            Ok(found.is_none().then(|| fired(watcher)))
        })
    }

    fn read_root(&self, path: &str) -> Answer<Root> {
        let answer = self.client.get_data(path);
        self.submit(async move {
            let (data, stat) = answer.await?;
            Ok(Root { version: stat.version, written: stat.mzxid, data })
        })
    }

    fn watch_root(&self, path: &str) -> Answer<(Root, Watching)> {
        let (client, path) = (self.client.clone(), path.to_owned());
        self.submit(async move {
            let (data, stat, watcher) = client.get_and_watch_data(&path).await?;
            Ok((Root { version: stat.version, written: stat.mzxid, data }, fired(watcher)))
        })
    }

    fn leases(&self, path: &str) -> Answer<Leases> {
        let answer = self.client.get_children(path);
        self.submit(async move {
            let (names, stat) = answer.await?;
            Ok(Leases { names, written: stat.mzxid })
        })
    }

    fn watch_children(&self, path: &str) -> Answer<(Leases, Watching)> {
        let (client, path) = (self.client.clone(), path.to_owned());
        self.submit(async move {
            let (names, stat, watcher) = client.get_and_watch_children(&path).await?;
            Ok((Leases { names, written: stat.mzxid }, fired(watcher)))
        })
    }

    fn make(&self, path: &str, data: &[u8], acl: &[Acl]) -> Answer<()> {
        let (client, path, data, acl) = (self.client.clone(), path.to_owned(), data.to_vec(), acl.to_vec());
        self.submit(async move {
            let options = zk::CreateMode::Persistent.with_acls(zk::Acls::new(&acl));
            match client.create(&path, &data, &options).await {
                Ok(_) | Err(zk::Error::NodeExists) => Ok(()),
                Err(error) => Err(error),
            }
        })
    }

    fn write(&self, path: &str, data: &[u8]) -> Answer<()> {
        let answer = self.client.set_data(path, data, None);
        self.submit(async move { answer.await.map(drop) })
    }

    fn delete(&self, path: &str) -> Answer<()> {
        self.submit(self.client.delete(path, None))
    }

    fn take(&self, take: TakeRequest<'_>) -> BoxFuture<'static, Result<(), TakeFailure>> {
        let client = self.client.clone();
        // The async block must own all that the multi borrows: the client, and the arguments.
        let (mutex, keep) = (take.mutex.to_owned(), take.keep);
        let (root, version) = (take.root.0.to_owned(), take.root.1);
        let own = |lease: &NewNode<'_>| (lease.path.to_owned(), lease.data.to_vec(), lease.acl.to_vec());
        let leases: Vec<_> = take.leases.iter().map(own).collect();
        let failed = |error: zk::Error| TakeFailure::Failed(error.into());
        self.send(async move {
            let mut multi = client.new_multi_writer();
            match keep {
                true => multi.add_check_version(&mutex, -1).map_err(failed)?,
                false => multi.add_delete(&mutex, None).map_err(failed)?,
            }
            multi.add_check_version(&root, version).map_err(failed)?;
            for (path, data, acl) in &leases {
                let options = zk::CreateMode::Ephemeral.with_acls(zk::Acls::new(acl));
                multi.add_create(path, data, &options).map_err(failed)?;
            }
            match commit(multi, 2 + leases.len()).await {
                Ok(_) => Ok(()),
                Err(zk::MultiWriteError::OperationFailed { index, source }) => Err(match (index, source) {
                    (0, zk::Error::NoNode) => TakeFailure::MutexGone,
                    // Reading a node is up to its own access list, deleting it up to that of its directory.
                    (0, zk::Error::NoAuth) if keep => TakeFailure::MutexUnreadable,
                    (0, zk::Error::NoAuth) => {
                        TakeFailure::Failed(NoAuth { path: parent(&mutex).to_owned() }.into())
                    }
                    (1, zk::Error::BadVersion) => TakeFailure::LimitChanged,
                    (_, zk::Error::NoNode) => TakeFailure::RootGone,
                    (index, error) => match (index.checked_sub(2), Failure::from(error)) {
                        (Some(lease), Failure::Refused(reason)) => TakeFailure::Lease(lease, reason),
                        (_, failure) => TakeFailure::Failed(failure),
                    },
                }),
                Err(zk::MultiWriteError::RequestFailed { source }) => Err(failed(source)),
            }
        })
    }

    fn transact(
        &self,
        required: &[String],
        writes: Vec<Write>,
    ) -> BoxFuture<'static, Result<(), TransactionFailure>> {
        let (client, required) = (self.client.clone(), required.to_vec());
        let refused =
            move |conditions: usize, index: usize, error: zk::Error| match index.checked_sub(conditions) {
                None => TransactionFailure::Condition(index, error.into()),
                Some(index) => TransactionFailure::Write(index, error.into()),
            };
        self.send(async move {
            let (mut multi, conditions) = (client.new_multi_writer(), required.len());
            for (index, path) in required.iter().enumerate() {
                multi.add_check_version(path, -1).map_err(|error| refused(conditions, index, error))?;
            }
            for (index, write) in writes.iter().enumerate() {
                let added = match write {
                    Write::Create { path, data, acl } => {
                        let options = zk::CreateMode::Persistent.with_acls(zk::Acls::new(acl));
                        multi.add_create(path, data, &options)
                    }
                    Write::Set { path, data, version } => multi.add_set_data(path, data, *version),
                    Write::Delete { path } => multi.add_delete(path, None),
                };
                added.map_err(|error| refused(conditions, conditions + index, error))?;
            }
            commit(multi, conditions + writes.len()).await.map(drop).map_err(|error| match error {
                zk::MultiWriteError::OperationFailed { index, source } => refused(conditions, index, source),
                zk::MultiWriteError::RequestFailed { source } => TransactionFailure::Request(source.into()),
            })
        })
    }

    fn inspection(&self) -> Option<Arc<dyn Inspection>> {
        Some(Arc::new(self.clone()))
    }

    fn owner(&self, directories: &[String]) -> Answer<Option<i64>> {
        let (client, directories) = (self.client.clone(), self.directories.after(directories));
        self.submit(async move { owner(&client, &directories).await })
    }

    fn check(&self, paths: &[String]) -> BoxFuture<'static, Result<(), CheckFailure>> {
        let root = self.root.clone();
        let paths: Vec<String> = paths.iter().map(|path| format!("{}{path}", self.chroot)).collect();
        self.send(async move {
            let mut multi = root.new_multi_writer();
            for path in std::iter::once(ANCHOR).chain(paths.iter().map(String::as_str)) {
                multi.add_check_version(path, -1).map_err(|error| CheckFailure::Failed(error.into()))?;
            }
            match commit(multi, 1 + paths.len()).await {
                Ok(_) => Ok(()),
                Err(zk::MultiWriteError::OperationFailed { index, source: zk::Error::NoNode })
                    if index > 0 =>
                {
                    Err(CheckFailure::Missing(index - 1))
                }
                Err(zk::MultiWriteError::OperationFailed { index, source: zk::Error::NoAuth })
                    if index > 0 =>
                {
                    Err(CheckFailure::Unreadable(index - 1))
                }
                Err(zk::MultiWriteError::OperationFailed { index: 0, source: zk::Error::NoAuth }) => {
                    Err(CheckFailure::Denied(ANCHOR))
                }
                Err(error) => Err(CheckFailure::Failed(zk::Error::from(error).into())),
            }
        })
    }
}

/// Why a directory could not be created: the access list of the nearest node above it that exists.
async fn denied_above(root: &zk::Client, path: &str, chroot: &str) -> Failure {
    let mut node = parent(path);
    while node != "/" {
        match caught(root.check_stat(node)).await {
            Ok(None) => node = parent(node),
            // Some servers show a stat only to those who may read the node.
            Ok(Some(_)) | Err(zk::Error::NoAuth) => break,
            Err(error) => return error.into(),
        }
    }
    let path = match node.strip_prefix(chroot) {
        Some("") => "/",
        Some(below) if below.starts_with('/') => below,
        Some(_) | None => node,
    };
    NoAuth { path: path.to_owned() }.into()
}

fn parent(path: &str) -> &str {
    match path.rsplit_once('/') {
        Some(("", _)) | None => "/",
        Some((parent, _)) => parent,
    }
}

fn fired(watcher: zk::OneshotWatcher) -> Watching {
    Box::pin(watcher.changed().map(|event| match event.event_type {
        zk::EventType::NodeDeleted => Fired::Gone,
        zk::EventType::Session => Fired::Ended,
        zk::EventType::NodeCreated | zk::EventType::NodeDataChanged | zk::EventType::NodeChildrenChanged => {
            Fired::Changed
        }
    }))
}

fn states(watcher: zk::StateWatcher, no_delay: Arc<NoDelay>) -> BoxStream<'static, LinkState> {
    stream::unfold((watcher, no_delay, false), |(mut watcher, no_delay, ended)| async move {
        if ended {
            return None;
        }
        let state = match watcher.changed().await {
            zk::SessionState::SyncConnected | zk::SessionState::ConnectedReadOnly => LinkState::Up,
            zk::SessionState::Disconnected => LinkState::Down,
            zk::SessionState::AuthFailed | zk::SessionState::Expired | zk::SessionState::Closed => {
                LinkState::Ended
            }
        };
        if state == LinkState::Up {
            no_delay.connected();
        }
        Some((state, (watcher, no_delay, state == LinkState::Ended)))
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silent_servers_leave_time_for_the_others() {
        let silence = |session: u64, connect: u64, servers| {
            let (session, connect) = (Duration::from_secs(session), Duration::from_secs(connect));
            longest_silence(session, connect, servers).map(|silence| silence.as_millis())
        };
        for (session, connect, servers, expected) in [
            (10, 10, 3, None),
            (10, 10, 5, Some(3333)),
            (30, 10, 1, None),
            (30, 10, 3, Some(5000)),
            (40, 10, 5, Some(4000)),
            // The connect timeout is too short for that, or the session timeout.
            (30, 1, 3, Some(3000)),
            (4, 1, 3, Some(1000)),
            (2, 10, 3, None),
        ] {
            assert_eq!(silence(session, connect, servers), expected, "{session} {connect} {servers}");
        }
        assert_eq!(longest_silence(Duration::MAX / 2, Duration::MAX, usize::MAX), Some(Duration::MAX / 20));
    }
}
