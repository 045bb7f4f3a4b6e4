//! Reads one path: its kind, its holders and its waiters.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::future::select_all;
use futures::stream::{self, StreamExt};

use super::{session, shown};
use crate::api::contender::{Contender, LeaseHolder};
use crate::api::error::{QueryError, is_other_version};
use crate::api::inspection::{DeleteNodeError, Entry, PathState, Pool, Queue, Taken};
use crate::api::lease::FencingToken;
use crate::api::resource::Resource;
use crate::machine::Failure;
use crate::machine::exclusion::{Dialect, Mode};
use crate::machine::node::Znode;
use crate::machine::waits::waits;
use crate::session::{SetWatch, Watches};
use crate::zookeeper::inspection::{Inspection, Status};

/// What is at a path; `None` if there is neither a lock that somebody holds or waits for, nor a semaphore.
pub(crate) async fn look(
    client: Arc<dyn Inspection>,
    path: Arc<str>,
) -> Result<Option<PathState>, QueryError> {
    let mutex = mutex_of(&path);
    // Sent together.
    let (directory, queued) = (list(&client, &path), list(&client, &mutex));
    let (directory, queued) = (existing(&path, directory.await)?, existing(&mutex, queued.await)?);
    let Some(directory) = directory else { return Ok(None) };
    let known = BTreeMap::new();
    if directory.is_semaphore(queued.is_some()) {
        let queue = queue(&client, &mutex, &queued.unwrap_or_default(), &known).await?;
        return Ok(Some(PathState::Semaphore(pool(&client, &path, &directory, queue).await?)));
    }
    match directory.has_contenders() {
        true => Ok(Some(PathState::Lock(queue(&client, &path, &directory, &known).await?))),
        false => Ok(None),
    }
}

/// Waits until what is at a path differs from `known`, and returns it.
pub(crate) async fn changed(
    client: Arc<dyn Inspection>,
    watches: Arc<Watches>,
    path: Arc<str>,
    known: Option<PathState>,
) -> Result<Option<PathState>, QueryError> {
    loop {
        // Before the look, so that no change is missed.
        let mut watching = Vec::new();
        for directory in [path.to_string(), mutex_of(&path)] {
            watching.push(
                watch(&watches, &directory).await.map_err(|failure| QueryError::new(&directory, failure))?,
            );
        }
        match watches.root(&path).await {
            Ok((_, watch)) => watching.push(watch),
            // Without a node, or without the permission to read it, there is no number of permits.
            Err(Failure::NoNode | Failure::NoAuth) => {}
            Err(failure) => return Err(QueryError::new(&path, failure)),
        }
        watches.catch_up(&path, &watching).await.map_err(|failure| QueryError::new(&path, failure))?;
        let state = look(client.clone(), path.clone()).await?;
        if state != known {
            return Ok(state);
        }
        // The next round shows what has changed, or fails if the session has ended.
        select_all(watching).await;
    }
}

/// Watches a directory's children, or for its creation.
async fn watch(watches: &Watches, path: &str) -> Result<SetWatch, Failure> {
    match watches.children(path).await {
        Ok((_, watching)) => Ok(watching),
        Err(Failure::NoNode) => watches.absent_node(path).await,
        Err(failure) => Err(failure),
    }
}

/// Deletes a node, if it is still the one that was created by this transaction and has not changed since it was read.
pub(crate) async fn delete(
    client: Arc<dyn Inspection>,
    node: Arc<str>,
    token: FencingToken,
) -> Result<(), DeleteNodeError> {
    let changed = || DeleteNodeError::Changed { node: node.to_string() };
    let failed = |failure| match failure {
        Failure::NoNode => DeleteNodeError::Gone { node: node.to_string() },
        Failure::Refused(reason) if is_other_version(&reason) => changed(),
        failure => QueryError::new(&node, failure).into(),
    };
    let status = client.status(&node).await.map_err(failed)?;
    if transaction(Some(status)) != token {
        return Err(changed());
    }
    client.delete_version(&node, status.version).await.map_err(failed)
}

/// A directory, as listed.
#[derive(Clone, Debug, Default)]
pub(super) struct Directory {
    names: Vec<String>,
    status: Option<Status>,
    /// The data, if they can be a number of permits.
    number: Option<Vec<u8>>,
}

impl Directory {
    /// Children that can be directories. Contenders have no children, and neither have leases, which only a node with a
    /// number has: elsewhere, such a name is an application's. `/zookeeper` is the server's own.
    pub fn directories(&self, path: &str) -> impl Iterator<Item = &String> {
        let is_lease = |name: &str| self.has_number() && is_lease(name);
        let is_own = move |name: &str| path == "/" && name == "zookeeper";
        self.names.iter().filter(move |name| !is_contender(name) && !is_lease(name) && !is_own(name))
    }

    /// Whether the data can be a number of permits.
    pub fn has_number(&self) -> bool {
        self.number.is_some()
    }

    pub fn has_contenders(&self) -> bool {
        self.names.iter().any(|name| is_contender(name))
    }

    /// Whether the node is a semaphore's: it has a number, and a mutex beside it, or leases.
    pub fn is_semaphore(&self, has_mutex: bool) -> bool {
        self.has_number() && (has_mutex || self.names.iter().any(|name| is_lease(name)))
    }

    /// Whether it is a persistent node with nothing in it.
    pub fn is_empty(&self) -> bool {
        self.status.is_some_and(|status| status.owner == 0 && status.children == 0 && status.bytes == 0)
    }
}

/// Lists a directory. The request is sent by the call.
pub(super) fn list(
    client: &Arc<dyn Inspection>,
    path: &str,
) -> impl Future<Output = Result<Directory, Failure>> + Send + use<> {
    let (client, path, listed) = (client.clone(), path.to_owned(), client.list(path));
    async move {
        let (names, status) = listed.await?;
        let number = match (1..=LONGEST_NUMBER).contains(&status.bytes) {
            true => match client.data(&path).await {
                Ok((data, _)) => Some(data).filter(|data| number(data).is_some()),
                Err(Failure::NoAuth) => None,
                Err(failure) => return Err(failure),
            },
            false => None,
        };
        Ok(Directory { names, status: Some(status), number })
    }
}

/// A number of permits has at most ten digits; clients may have written spaces, too.
const LONGEST_NUMBER: i32 = 32;

fn number(data: &[u8]) -> Option<i64> {
    std::str::from_utf8(data).ok()?.trim().parse().ok()
}

/// Reads the queue in a directory.
pub(super) async fn queue(
    client: &Arc<dyn Inspection>,
    path: &str,
    directory: &Directory,
    known: &BTreeMap<String, Entry>,
) -> Result<Queue, QueryError> {
    let mut nodes: Vec<Znode> = directory.names.iter().filter_map(|name| Znode::parse(name)).collect();
    nodes.retain(|node| node.mode().is_some());
    nodes.sort();
    let reads = stream::iter(nodes).map(|node| {
        let node_path = join(path, node.name());
        let known = known.get(&node_path).cloned();
        let read = known.is_none().then(|| read(client, &node_path));
        async move {
            match (known, read) {
                (Some(entry), _) => Ok(Some((node, entry))),
                (None, Some(read)) => {
                    let read = read.await.map_err(|failure| QueryError::new(&node_path, failure))?;
                    Ok(read.map(|read| (node.clone(), entry(&node, read))))
                }
                (None, None) => Ok(None),
            }
        }
    });
    let mut reads = reads.buffered(NODES);
    let (mut nodes, mut entries) = (Vec::new(), Vec::new());
    while let Some(read) = reads.next().await {
        // A node that has been deleted since the list is left out.
        if let Some((node, entry)) = read? {
            nodes.push(node);
            entries.push(entry);
        }
    }
    for (position, waits_for) in waits(&nodes).into_iter().enumerate() {
        entries[position].waits_for = waits_for;
        entries[position].contender.position = position;
    }
    let created = directory.status.map_or(-1, |status| i64::from(status.creations()) - 1);
    let last_number = nodes.iter().map(Znode::sequence).max().unwrap_or(-1).max(created);
    Ok(Queue { path: path.to_owned(), entries, last_number })
}

/// Reads the permits of a semaphore.
pub(super) async fn pool(
    client: &Arc<dyn Inspection>,
    path: &str,
    directory: &Directory,
    mutex: Queue,
) -> Result<Pool, QueryError> {
    let reads = stream::iter(directory.names.clone()).map(|name| {
        let node_path = join(path, &name);
        let read = read(client, &node_path);
        async move { (name, read.await.map_err(|failure| QueryError::new(&node_path, failure))) }
    });
    let mut reads = reads.buffered(NODES);
    let mut taken = Vec::new();
    while let Some((name, read)) = reads.next().await {
        let Some(Read { data, status }) = read? else { continue };
        taken.push(Taken {
            holder: LeaseHolder { name, identifier: identifier(&data), session: owner(status) },
            transaction: transaction(status),
            created: status.map(created),
            readable: data.is_some(),
        });
    }
    taken.sort_by(|a, b| (a.transaction, &a.holder.name).cmp(&(b.transaction, &b.holder.name)));
    let limit = directory.number.as_deref().and_then(number);
    let limit = limit.and_then(|limit| u32::try_from(limit).ok()).filter(|limit| *limit > 0);
    Ok(Pool { path: path.to_owned(), limit, taken, mutex })
}

/// How many nodes are read at a time. Limited because each can have almost 1 MiB of data.
const NODES: usize = 64;

/// The path of a semaphore's mutex.
pub(super) fn mutex_of(path: &str) -> String {
    Resource::semaphore(path).queue().to_string()
}

pub(super) fn join(directory: &str, name: &str) -> String {
    format!("{}/{name}", directory.trim_end_matches('/'))
}

/// What could be read of a node.
#[derive(Default)]
struct Read {
    /// `None` if the access list denies reading them.
    data: Option<Vec<u8>>,
    /// `None` if the server denies that, too: newer ones do.
    status: Option<Status>,
}

/// Reads a node, or only its stat if its data may not be read; `None` if it no longer exists. The first request is sent
/// by the call.
fn read(
    client: &Arc<dyn Inspection>,
    path: &str,
) -> impl Future<Output = Result<Option<Read>, Failure>> + Send + use<> {
    let (client, path, answer) = (client.clone(), path.to_owned(), client.data(path));
    async move {
        match answer.await {
            Ok((data, status)) => Ok(Some(Read { data: Some(data), status: Some(status) })),
            Err(Failure::NoNode) => Ok(None),
            Err(Failure::NoAuth) => match client.status(&path).await {
                Ok(status) => Ok(Some(Read { data: None, status: Some(status) })),
                Err(Failure::NoAuth) => Ok(Some(Read::default())),
                Err(Failure::NoNode) => Ok(None),
                Err(failure) => Err(failure),
            },
            Err(failure) => Err(failure),
        }
    }
}

fn existing(path: &str, listed: Result<Directory, Failure>) -> Result<Option<Directory>, QueryError> {
    match listed {
        Ok(directory) => Ok(Some(directory)),
        Err(Failure::NoNode) => Ok(None),
        Err(failure) => Err(QueryError::new(path, failure)),
    }
}

fn entry(node: &Znode, Read { data, status }: Read) -> Entry {
    Entry {
        contender: Contender {
            name: node.name().to_owned(),
            position: 0,
            identifier: identifier(&data),
            mode: node.mode().unwrap_or(Mode::Lock),
            session: owner(status),
            token: transaction(status),
        },
        dialect: node.dialect().unwrap_or(Dialect::Kazoo),
        created: status.map(created),
        readable: data.is_some(),
        waits_for: None,
    }
}

fn identifier(data: &Option<Vec<u8>>) -> String {
    data.as_deref().map(shown).unwrap_or_default()
}

fn owner(status: Option<Status>) -> Option<i64> {
    status.and_then(|status| session(status.owner))
}

fn transaction(status: Option<Status>) -> FencingToken {
    FencingToken::new(status.map_or(0, |status| status.czxid))
}

fn created(status: Status) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(status.created).unwrap_or_default())
}

fn is_contender(name: &str) -> bool {
    Znode::parse(name).is_some_and(|node| node.mode().is_some())
}

/// Whether a name is one that kazoo and this library give to leases.
fn is_lease(name: &str) -> bool {
    name.len() == 32 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}
