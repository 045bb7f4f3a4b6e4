//! Lists holders and waiters from ZooKeeper: for people, for observers of a leader, and for cleanup after a crash.

mod look;
mod walk;

use std::sync::Arc;

use futures::future::{Either, select};
use futures::stream::{self, StreamExt};
use tokio::sync::oneshot;

use self::look::{changed, delete, look};
use self::walk::walk;
use crate::api::contender::{Contender, Known, LeaseHolder, SemaphoreState};
use crate::api::error::{QueryError, RemoveContenderError};
use crate::api::lease::FencingToken;
use crate::api::messages::InspectMessage;
use crate::machine::Failure;
use crate::machine::exclusion::Mode;
use crate::machine::lock::NodeStat;
use crate::machine::node::Znode;
use crate::machine::patterns::Patterns;
use crate::session::Watches;
use crate::zookeeper::ZooKeeper;

/// Answers a question about any path.
pub(crate) async fn answer(client: Arc<dyn ZooKeeper>, watches: Arc<Watches>, question: InspectMessage) {
    let Some(inspection) = client.inspection() else {
        return question
            .refuse(QueryError::Rejected { path: "/".into(), reason: "this client cannot inspect".into() });
    };
    match question {
        InspectMessage::Walk(prefix, known, reply) => reply_to(reply, walk(inspection, prefix, known)).await,
        InspectMessage::Look(path, reply) => reply_to(reply, look(inspection, path)).await,
        InspectMessage::Changed(path, known, reply) => {
            reply_to(reply, changed(inspection, watches, path, known)).await
        }
        // Nobody may wait for the answer any more.
        InspectMessage::Delete(node, token, reply) => drop(reply.send(delete(inspection, node, token).await)),
    }
}

/// Replies to a question that only reads. If the caller has gone, no more requests are sent.
pub(crate) async fn reply_to<T>(mut reply: oneshot::Sender<T>, answer: impl Future<Output = T>) {
    let answer = match select(Box::pin(answer), Box::pin(reply.closed())).await {
        Either::Left((answer, _)) => answer,
        Either::Right(_) => return,
    };
    let _ = reply.send(answer);
}

/// Lists the contenders of a lock, in the order of the queue. A missing directory has none, and is not created.
pub(crate) async fn contenders(
    client: Arc<dyn ZooKeeper>,
    path: Arc<str>,
    patterns: Patterns,
) -> Result<Vec<Contender>, QueryError> {
    let children = children(&*client, &path).await?;
    let mut nodes: Vec<Znode> = children.iter().filter_map(|name| Znode::parse(name)).collect();
    nodes.retain(|node| is_contender(node, &patterns));
    nodes.sort();
    let read = read_each(client, &path, nodes, Znode::name).await?.into_iter().enumerate();
    Ok(read.map(|(position, (node, data, stat))| contender(&node, position, data, &stat)).collect())
}

/// Waits until the front of the queue differs from `known`, and returns it. It is never older than `known`.
pub(crate) async fn first(
    client: Arc<dyn ZooKeeper>,
    watches: Arc<Watches>,
    path: Arc<str>,
    patterns: Patterns,
    known: Known,
) -> Result<Option<Contender>, QueryError> {
    let first = differing_first(&*client, &watches, &path, &patterns, &known).await?;
    if is_later(&first, &known) {
        return Ok(first);
    }
    // An earlier session may have told what is known. The server of this one may lag behind it.
    client.sync(&path).await.map_err(|failure| QueryError::new(&path, failure))?;
    differing_first(&*client, &watches, &path, &patterns, &known).await
}

/// Whether the front alone shows that its server has all that is known.
fn is_later(first: &Option<Contender>, known: &Known) -> bool {
    match (known, first) {
        (Known::Nothing, _) => true,
        (Known::First(known), Some(first)) => first.token > known.token,
        (Known::First(_), None) | (Known::Nobody, _) => false,
    }
}

/// Waits until the front of the queue differs from `known`, as this session's server shows it.
async fn differing_first(
    client: &dyn ZooKeeper,
    watches: &Watches,
    path: &str,
    patterns: &Patterns,
    known: &Known,
) -> Result<Option<Contender>, QueryError> {
    loop {
        let Some(node) = first_name(client, path, patterns).await? else {
            if *known != Known::Nobody {
                return Ok(None);
            }
            match watches.children(path).await {
                // Waits, unless a contender has been created since the list.
                Ok((found, watching)) if first_of(&found.names, patterns).is_none() => drop(watching.await),
                // The watch may have been set through another server, which knew of the contender earlier.
                Ok(_) => client.sync(path).await.map_err(|failure| QueryError::new(path, failure))?,
                Err(Failure::NoNode) => match watches.absent_node(path).await {
                    Ok(watching) => drop(watching.await),
                    Err(failure) => return Err(QueryError::new(path, failure)),
                },
                Err(failure) => return Err(QueryError::new(path, failure)),
            }
            continue;
        };
        let name = format!("{path}/{}", node.name());
        let is_known = matches!(known, Known::First(known) if known.name == node.name());
        let found = async {
            // A contender that is not known is reported at once, so it needs no watch.
            let watch = match is_known {
                true => Some(watches.node(&name).await?),
                false => None,
            };
            // Before the read, so that no change is missed.
            watches.catch_up(path, watch.as_slice()).await?;
            Ok((watch, client.read(&name).await?))
        };
        match found.await {
            Ok((watch, found)) => {
                let contender = contender(&node, 0, shown(&found.data), &found.stat);
                match watch {
                    // The next list shows what has changed, or fails if the session has ended.
                    Some(watch) if *known == Known::First(contender.clone()) => drop(watch.await),
                    _ => return Ok(Some(contender)),
                }
            }
            // Deleted since the list. The watch may have been set through another server, which knew it earlier.
            Err(Failure::NoNode) => {
                if let Err(failure) = client.sync(path).await {
                    return Err(QueryError::new(path, failure));
                }
            }
            Err(failure) => return Err(QueryError::new(&name, failure)),
        }
    }
}

async fn first_name(
    client: &dyn ZooKeeper,
    path: &str,
    patterns: &Patterns,
) -> Result<Option<Znode>, QueryError> {
    Ok(first_of(&children(client, path).await?, patterns))
}

fn first_of(children: &[String], patterns: &Patterns) -> Option<Znode> {
    let nodes = children.iter().filter_map(|name| Znode::parse(name));
    nodes.filter(|node| is_contender(node, patterns)).min()
}

/// Whether a node is a contender, by its name.
fn is_contender(node: &Znode, patterns: &Patterns) -> bool {
    node.mode().is_some() || patterns.matches(node.name())
}

/// The session that owns a node; `None` if the node outlives sessions. The owner of a container is the smallest number,
/// that of a node with a TTL has `0xff` as its highest byte, and that of others is zero (ZooKeeper's `EphemeralType`). The
/// highest byte of a session is the number of its server, so negative ones are those of servers from 128 on.
fn session(owner: i64) -> Option<i64> {
    (owner != 0 && owner != i64::MIN && owner.to_be_bytes()[0] != 0xff).then_some(owner)
}

fn contender(node: &Znode, position: usize, identifier: String, stat: &NodeStat) -> Contender {
    Contender {
        name: node.name().to_owned(),
        position,
        identifier,
        mode: node.mode().unwrap_or(Mode::Lock),
        session: session(stat.owner),
        token: FencingToken::new(stat.czxid),
    }
}

/// The number of nodes read at a time. Limited because each can have almost 1 MiB of data.
const READS: usize = 16;

/// The maximum number of bytes of a node's data that are shown.
const SHOWN: usize = 1024;

/// The names of a node's children; none if it is missing.
async fn children(client: &dyn ZooKeeper, path: &str) -> Result<Vec<String>, QueryError> {
    match client.children(path).await {
        Ok(children) => Ok(children),
        Err(Failure::NoNode) => Ok(Vec::new()),
        Err(failure) => Err(QueryError::new(path, failure)),
    }
}

/// Reads the data, as far as they are shown, and the stats of these children of a node, in this order. Those that were
/// deleted meanwhile are left out.
async fn read_each<T>(
    client: Arc<dyn ZooKeeper>,
    path: &str,
    nodes: Vec<T>,
    name: fn(&T) -> &str,
) -> Result<Vec<(T, String, NodeStat)>, QueryError> {
    let mut found = Vec::with_capacity(nodes.len());
    let reads = stream::iter(nodes).map(|node| {
        let path = format!("{path}/{}", name(&node));
        let read = client.read(&path);
        async move {
            let read = read.await.map(|read| (shown(&read.data), read.stat));
            (node, read.map_err(|failure| (path, failure)))
        }
    });
    let mut reads = reads.buffered(READS);
    while let Some((node, read)) = reads.next().await {
        match read {
            Ok((data, stat)) => found.push((node, data, stat)),
            Err((_, Failure::NoNode)) => {}
            Err((path, failure)) => return Err(QueryError::new(&path, failure)),
        }
    }
    Ok(found)
}

/// The beginning of the data as text, cut at the end of a character.
fn shown(data: &[u8]) -> String {
    let continues = |end: &usize| data.get(*end).is_some_and(|byte| byte & 0b1100_0000 == 0b1000_0000);
    let end = (SHOWN - 3..=SHOWN).rev().find(|end| !continues(end)).unwrap_or(SHOWN);
    String::from_utf8_lossy(&data[..data.len().min(end)]).into_owned()
}

/// Deletes a contender's node, if it is still the listed one and no session owns it.
pub(crate) async fn remove(
    client: Arc<dyn ZooKeeper>,
    path: Arc<str>,
    contender: Contender,
) -> Result<(), RemoveContenderError> {
    let node = format!("{path}/{}", contender.name);
    match client.read(&node).await {
        Ok(found) if FencingToken::new(found.stat.czxid) != contender.token => return Ok(()),
        Ok(found) if found.stat.owner != 0 => {
            return Err(RemoveContenderError::Ephemeral { name: contender.name, session: found.stat.owner });
        }
        Ok(_) => {}
        Err(Failure::NoNode) => return Ok(()),
        Err(failure) => return Err(QueryError::new(&node, failure).into()),
    }
    match client.delete(&node).await {
        Ok(()) | Err(Failure::NoNode) => Ok(()),
        Err(failure) => Err(QueryError::new(&node, failure).into()),
    }
}

/// Reads the stored number of permits, and counts those that are taken.
pub(crate) async fn semaphore_state(
    client: Arc<dyn ZooKeeper>,
    root: Arc<str>,
) -> Result<SemaphoreState, QueryError> {
    // Sent together.
    let (data, leases) = (client.read_root(&root), client.leases(&root));
    match (data.await, leases.await) {
        (Ok(data), Ok(leases)) => Ok(SemaphoreState {
            limit: data.permits().map(|permits| u32::try_from(permits.max(0)).unwrap_or(u32::MAX)),
            taken: u32::try_from(leases.names.len()).unwrap_or(u32::MAX),
        }),
        (Err(Failure::NoNode), _) | (_, Err(Failure::NoNode)) => Ok(SemaphoreState { limit: None, taken: 0 }),
        (Err(failure), _) | (_, Err(failure)) => Err(QueryError::new(&root, failure)),
    }
}

/// Lists the leases of a semaphore, in no particular order. A missing root has none, and is not created.
pub(crate) async fn lease_holders(
    client: Arc<dyn ZooKeeper>,
    root: Arc<str>,
) -> Result<Vec<LeaseHolder>, QueryError> {
    let names = children(&*client, &root).await?;
    let read = read_each(client, &root, names, String::as_str).await?.into_iter();
    let holder = |(name, identifier, stat): (String, String, NodeStat)| LeaseHolder {
        name,
        identifier,
        session: session(stat.owner),
    };
    Ok(read.map(holder).collect())
}

#[cfg(test)]
mod tests {
    use super::session;

    #[test]
    fn sessions_of_all_servers_are_told_from_containers_and_nodes_with_a_ttl() {
        let cases = [
            (0x0100_0000_0000_0001_u64, true),
            (0x8000_0000_0000_0001, true),
            (0xfe00_0000_0000_0001, true),
            (0, false),
            (0x8000_0000_0000_0000, false),
            (0xff00_0000_0000_1388, false),
        ];
        for (owner, expected) in cases {
            assert_eq!(session(i64::from_be_bytes(owner.to_be_bytes())).is_some(), expected, "{owner:x}");
        }
    }
}
