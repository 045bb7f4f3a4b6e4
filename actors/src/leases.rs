//! A semaphore's root and its leases, for people and for changing the number of permits.

use std::sync::Arc;

use crate::api::error::{ContendersError, ResizeError};
use crate::api::messages::{ContenderOptions, LeaseHolder};
use crate::inspect::read_all;
use crate::machine::lock::protocol::Failure;
use crate::zookeeper::ZooKeeper;

/// In no order. A root that is not there has no holders, and is not made.
pub(crate) async fn holders(
    client: Arc<dyn ZooKeeper>,
    root: Arc<str>,
) -> Result<Vec<LeaseHolder>, ContendersError> {
    let names = match client.children(&root).await {
        Ok(names) => names,
        Err(Failure::NoNode) => return Ok(Vec::new()),
        Err(failure) => return Err(ContendersError::new(&root, failure)),
    };
    let paths = names.iter().map(|name| format!("{root}/{name}")).collect();
    let mut holders = Vec::with_capacity(names.len());
    for (name, read) in names.into_iter().zip(read_all(client, paths).await) {
        match read {
            Ok((identifier, found)) => holders.push(LeaseHolder {
                name,
                identifier,
                session: Some(found.owner).filter(|owner| *owner != 0),
            }),
            // Gone since the listing.
            Err(Failure::NoNode) => {}
            Err(failure) => return Err(ContendersError::new(&format!("{root}/{name}"), failure)),
        }
    }
    Ok(holders)
}

/// Whoever waits is told by the watch on the root's data.
pub(crate) async fn resize(
    client: Arc<dyn ZooKeeper>,
    root: Arc<str>,
    limit: u32,
    options: Arc<ContenderOptions>,
) -> Result<(), ResizeError> {
    if limit == 0 {
        return Err(ResizeError::NoPermits);
    }
    let data = limit.to_string();
    let mut written = client.write(&root, data.as_bytes()).await;
    if written == Err(Failure::NoNode) {
        // Somebody else may have made it with another number meanwhile.
        written = match make_root(client.clone(), root.clone(), limit, options).await {
            Ok(()) => client.write(&root, data.as_bytes()).await,
            Err(failure) => Err(failure),
        };
    }
    written.map_err(|failure| match failure {
        Failure::NoAuth => ResizeError::NoAuth { path: root.to_string() },
        Failure::SessionGone => ResizeError::Disconnected,
        Failure::NoNode => ResizeError::Failed { reason: format!("{root:?} is not there") },
        Failure::Refused(reason) | Failure::Unknown(reason) => ResizeError::Failed { reason },
    })
}

/// Makes the root with its number in one step: a root without a number would be one for any.
pub(crate) async fn make_root(
    client: Arc<dyn ZooKeeper>,
    root: Arc<str>,
    limit: u32,
    options: Arc<ContenderOptions>,
) -> Result<(), Failure> {
    let parent = root.rsplit_once('/').map_or("", |(parent, _)| parent);
    client.make_directories(parent, options.container, &options.acl).await?;
    client.make(&root, limit.to_string().as_bytes(), &options.acl).await
}
