//! Cleaning up after actors that died: otherwise their nodes would block their paths until the session ends.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::join_all;
use tracing::{debug, warn};

use crate::machine::Failure;
use crate::machine::backoff::Rests;
use crate::machine::node::{Attempt, Instance};
use crate::zookeeper::ZooKeeper;

/// Deletes all nodes of this instance in a directory, or the node of this attempt. Starts over after a panic, because
/// nothing else would delete them. Returns `false` if the session has ended before.
pub(super) async fn sweep(
    client: Arc<dyn ZooKeeper>,
    directory: Arc<str>,
    instance: Instance,
    attempt: Option<Attempt>,
) -> bool {
    let mut rests = Rests::new(instance.spread());
    let once =
        || AssertUnwindSafe(sweep_once(client.clone(), directory.clone(), instance, attempt)).catch_unwind();
    loop {
        if let Ok(is_swept) = once().await {
            return is_swept;
        }
        warn!(path = %directory, "cleaning up after a dead actor panicked; starting over");
        tokio::time::sleep(rests.next()).await;
    }
}

/// The requests were sent earlier on the same connection, so a list that shows none of the nodes is final.
async fn sweep_once(
    client: Arc<dyn ZooKeeper>,
    path: Arc<str>,
    instance: Instance,
    only: Option<Attempt>,
) -> bool {
    let is_wanted = |attempt| only.is_none_or(|only| only == attempt);
    let mut rests = Rests::new(instance.spread());
    loop {
        let (sync, children) = (client.sync(&path), client.children(&path));
        match sync.await.and(children.await) {
            Ok(children) => {
                let mut nodes = children
                    .into_iter()
                    .filter(|name| instance.attempt(name).is_some_and(is_wanted))
                    .peekable();
                if nodes.peek().is_none() {
                    return true;
                }
                debug!(%path, "cleaning up after a dead actor");
                let nodes = nodes.map(|name| format!("{path}/{name}"));
                join_all(nodes.map(|node| delete(client.clone(), node, instance.spread()))).await;
            }
            Err(Failure::NoNode) => return true,
            Err(Failure::SessionGone) => return false,
            Err(Failure::Unknown(_) | Failure::NoAuth | Failure::Refused(_)) => {
                tokio::time::sleep(rests.next()).await;
            }
        }
    }
}

/// Tries until the node is deleted, or the session has ended.
async fn delete(client: Arc<dyn ZooKeeper>, node: String, spread: u32) {
    let mut rests = Rests::new(spread);
    loop {
        match client.delete(&node).await {
            Ok(()) | Err(Failure::NoNode | Failure::SessionGone) => return,
            Err(Failure::Unknown(_) | Failure::NoAuth | Failure::Refused(_)) => {
                tokio::time::sleep(rests.next()).await;
            }
        }
    }
}
