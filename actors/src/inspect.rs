//! Who waits and holds, for people and for cleaning up after a crash.

use std::sync::Arc;

use futures::stream::{self, StreamExt};

use crate::api::error::ContendersError;
use crate::api::lease::FencingToken;
use crate::api::messages::Contender;
use crate::machine::lock::protocol::{Failure, Inspection};
use crate::machine::node::{Mode, Patterns, Znode};
use crate::session::OwnNodes;
use crate::zookeeper::{Answer, Fired, Watching, ZooKeeper};

/// In the order of the queue. A directory that is not there has no contenders, and is not made.
pub(crate) async fn list(
    client: Arc<dyn ZooKeeper>,
    path: Arc<str>,
    patterns: Patterns,
) -> Result<Vec<Contender>, ContendersError> {
    let children = match client.children(&path).await {
        Ok(children) => children,
        Err(Failure::NoNode) => return Ok(Vec::new()),
        Err(failure) => return Err(ContendersError::new(&path, failure)),
    };
    let mut nodes: Vec<Znode> = children.iter().filter_map(|name| Znode::parse(name)).collect();
    nodes.retain(|node| counts(node, &patterns));
    nodes.sort();
    let paths = nodes.iter().map(|node| format!("{path}/{}", node.name())).collect();
    let mut contenders = Vec::with_capacity(nodes.len());
    for (node, read) in nodes.iter().zip(read_all(client, paths).await) {
        match read {
            Ok((identifier, found)) => contenders.push(contender(node, contenders.len(), identifier, &found)),
            // Gone since the listing.
            Err(Failure::NoNode) => {}
            Err(failure) => return Err(ContendersError::new(&format!("{path}/{}", node.name()), failure)),
        }
    }
    Ok(contenders)
}

/// The first in the queue, as soon as it is another than `known`: one with another token, or none.
pub(crate) async fn first(
    client: Arc<dyn ZooKeeper>,
    nodes: Arc<OwnNodes>,
    path: Arc<str>,
    patterns: Patterns,
    known: Option<Option<FencingToken>>,
) -> Result<Option<Contender>, ContendersError> {
    loop {
        let Some(node) = first_name(&*client, &path, &patterns).await? else {
            if known != Some(None) {
                return Ok(None);
            }
            let Some(_room) = nodes.room_for_watch(&path) else {
                tokio::time::sleep(LOOK).await;
                continue;
            };
            match client.watch_children(&path).await {
                // Somebody may have come since the listing.
                Ok((found, fired)) if first_of(&found.names, &patterns).is_none() => drop(fired.await),
                Ok(_) => {}
                Err(Failure::NoNode) => match client.watch_for(&path).await {
                    Ok(Some(made)) => drop(made.await),
                    // Made since.
                    Ok(None) => {}
                    Err(failure) => return Err(ContendersError::new(&path, failure)),
                },
                Err(failure) => return Err(ContendersError::new(&path, failure)),
            }
            continue;
        };
        let name = format!("{path}/{}", node.name());
        let room = nodes.room_for_watch(&name);
        let watch = room.as_ref().map(|_| client.watch(&name));
        let read = client.read(&name);
        let watch: Answer<Watching> = watch.unwrap_or_else(|| Box::pin(async { Ok(later()) }));
        match (watch.await, read.await) {
            (Ok(fired), Ok((data, found))) => {
                let contender = contender(&node, 0, shown(&data), &found);
                if known != Some(Some(contender.token)) {
                    return Ok(Some(contender));
                }
                // Whatever happened, the next listing shows it. A session that ended answers no more.
                fired.await;
            }
            // Gone since the listing.
            (Err(Failure::NoNode), _) | (_, Err(Failure::NoNode)) => {}
            (Err(failure), _) | (_, Err(failure)) => return Err(ContendersError::new(&name, failure)),
        }
    }
}

fn later() -> Watching {
    Box::pin(async {
        tokio::time::sleep(LOOK).await;
        Fired::Changed
    })
}

/// How often something is looked at for whose watch there is no room.
const LOOK: std::time::Duration = std::time::Duration::from_secs(1);

async fn first_name(
    client: &dyn ZooKeeper,
    path: &str,
    patterns: &Patterns,
) -> Result<Option<Znode>, ContendersError> {
    match client.children(path).await {
        Ok(children) => Ok(first_of(&children, patterns)),
        Err(Failure::NoNode) => Ok(None),
        Err(failure) => Err(ContendersError::new(path, failure)),
    }
}

fn first_of(children: &[String], patterns: &Patterns) -> Option<Znode> {
    let nodes = children.iter().filter_map(|name| Znode::parse(name));
    nodes.filter(|node| counts(node, patterns)).min()
}

/// Whoever it waits for and who waits for it.
fn counts(node: &Znode, patterns: &Patterns) -> bool {
    node.mode().is_some() || node.matches(patterns)
}

fn contender(node: &Znode, position: usize, identifier: String, found: &Inspection) -> Contender {
    Contender {
        name: node.name().to_owned(),
        position,
        identifier,
        mode: node.mode().unwrap_or(Mode::Lock),
        session: Some(found.owner).filter(|owner| *owner != 0),
        token: FencingToken::new(found.czxid),
    }
}

/// How many nodes are read at a time: each may be of almost 1 MiB.
const READS: usize = 16;

/// How many bytes of a node's data are shown at most.
const SHOWN: usize = 1024;

/// What is in these nodes, in this order, as far as it is shown.
pub(crate) async fn read_all(
    client: Arc<dyn ZooKeeper>,
    paths: Vec<String>,
) -> Vec<Result<(String, Inspection), Failure>> {
    let reads = stream::iter(paths).map(|path| {
        let read = client.read(&path);
        async move { read.await.map(|(data, found)| (shown(&data), found)) }
    });
    reads.buffered(READS).collect().await
}

/// The beginning, without a part of a character at its end.
fn shown(data: &[u8]) -> String {
    let continues = |end: &usize| data.get(*end).is_some_and(|byte| byte & 0b1100_0000 == 0b1000_0000);
    let end = (SHOWN - 3..=SHOWN).rev().find(|end| !continues(end)).unwrap_or(SHOWN);
    String::from_utf8_lossy(&data[..data.len().min(end)]).into_owned()
}

/// Deletes a contender's node, if it is still the one that was listed, and no session takes it away.
pub(crate) async fn remove(
    client: Arc<dyn ZooKeeper>,
    path: Arc<str>,
    contender: Contender,
) -> Result<(), ContendersError> {
    let node = format!("{path}/{}", contender.name);
    match client.read(&node).await {
        Ok((_, found)) if FencingToken::new(found.czxid) != contender.token => return Ok(()),
        Ok((_, found)) if found.owner != 0 => {
            return Err(ContendersError::Ephemeral { name: contender.name, session: found.owner });
        }
        Ok(_) => {}
        Err(Failure::NoNode) => return Ok(()),
        Err(failure) => return Err(ContendersError::new(&node, failure)),
    }
    match client.delete(&node).await {
        Ok(()) | Err(Failure::NoNode) => Ok(()),
        Err(failure) => Err(ContendersError::new(&node, failure)),
    }
}

impl ContendersError {
    pub(crate) fn new(path: &str, failure: Failure) -> ContendersError {
        match failure {
            Failure::NoAuth => ContendersError::NoAuth { path: path.to_owned() },
            Failure::SessionGone => ContendersError::Disconnected,
            Failure::NoNode => ContendersError::Failed { reason: format!("{path:?} is not there") },
            Failure::Refused(reason) | Failure::Unknown(reason) => ContendersError::Failed { reason },
        }
    }
}
