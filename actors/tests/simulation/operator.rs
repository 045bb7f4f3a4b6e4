//! An operator who deletes the nodes that outlive sessions and that nobody else will delete, with the product's own list
//! and removal.

use std::time::Duration;

use lockkeeper_actors::api::contender::Contender;
use lockkeeper_actors::api::messages::{LockMessage, RegistryMessage};
use lockkeeper_actors::machine::patterns::Patterns;
use tokio::sync::oneshot;

use crate::process::Host;

/// How long the operator takes to make sure that the owner has crashed.
const MAKES_SURE: Duration = Duration::from_secs(1);

/// Deletes them through the keeper of a process. Those that it cannot delete are left to the next call.
pub async fn clean_up(host: &Host) {
    tokio::time::sleep(MAKES_SURE).await;
    if host.is_closing() {
        return;
    }
    let Some(opened) = host.opened().await else { return };
    let registry = opened.started.registry.clone();
    let left = host.world().ensemble.left_behind();
    for node in left {
        let Some((path, name)) = node.rsplit_once('/') else { continue };
        let (reply, listed) = oneshot::channel::<Result<Vec<Contender>, _>>();
        let list = LockMessage::Contenders(Patterns::default(), reply.into());
        let _ = registry.send_message(RegistryMessage::Lock(path.into(), list));
        let Ok(Ok(contenders)) = listed.await else { return };
        // It is missing if this server has not heard of it, or if it is already deleted.
        let Some(contender) = contenders.into_iter().find(|contender| contender.name == name) else {
            continue;
        };
        let (reply, removed) = oneshot::channel();
        let remove = LockMessage::RemoveContender(contender, reply.into());
        let _ = registry.send_message(RegistryMessage::Lock(path.into(), remove));
        let _ = removed.await;
    }
}
