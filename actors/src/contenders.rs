//! Who waits and holds, for people and for cleaning up after a crash.

use std::sync::Arc;

use futures::future::join_all;

use crate::error::ContendersError;
use crate::lease::FencingToken;
use crate::machine::protocol::Failure;
use crate::machine::znode::{Mode, Patterns, Znode};
use crate::messages::Contender;
use crate::zookeeper::ZooKeeper;

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
    nodes.retain(|node| node.mode().is_some() || node.matches(&patterns));
    nodes.sort();
    let reads: Vec<_> = nodes.iter().map(|node| client.read(&format!("{path}/{}", node.name()))).collect();
    let mut contenders = Vec::with_capacity(nodes.len());
    for (node, read) in nodes.iter().zip(join_all(reads).await) {
        match read {
            Ok((data, found)) => contenders.push(Contender {
                name: node.name().to_owned(),
                position: contenders.len(),
                identifier: String::from_utf8_lossy(&data).into_owned(),
                mode: node.mode().unwrap_or(Mode::Lock),
                session: Some(found.owner).filter(|owner| *owner != 0),
                token: FencingToken::new(found.czxid),
            }),
            // Gone since the listing.
            Err(Failure::NoNode) => {}
            Err(failure) => return Err(ContendersError::new(&format!("{path}/{}", node.name()), failure)),
        }
    }
    Ok(contenders)
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
