//! A semaphore's root node, which stores the number of permits.

use std::sync::Arc;

use crate::api::error::{QueryError, ResizeError};
use crate::api::request::ContenderOptions;
use crate::machine::Failure;
use crate::zookeeper::{NoAuth, ZooKeeper};

/// Changes the number of permits. Waiters notice through their watch on the root's data.
pub(super) async fn resize(
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
        // Another client may have created it meanwhile with another number, so write again.
        written = match make(client.clone(), root.clone(), limit, options).await {
            Ok(()) => client.write(&root, data.as_bytes()).await,
            Err(failure) => Err(failure),
        };
    }
    written.map_err(|failure| QueryError::new(&root, failure).into())
}

/// Creates the root together with its number: with a root that stores none, every client would use its own number.
pub(super) async fn make(
    client: Arc<dyn ZooKeeper>,
    root: Arc<str>,
    limit: u32,
    options: Arc<ContenderOptions>,
) -> Result<(), Failure> {
    let parent = root.rsplit_once('/').map_or("", |(parent, _)| parent);
    client.make_directories(parent, options.container, &options.acl).await?;
    let made = client.make(&root, limit.to_string().as_bytes(), &options.acl).await;
    made.map_err(|failure| match failure {
        Failure::NoAuth => NoAuth { path: if parent.is_empty() { "/" } else { parent }.to_owned() }.into(),
        failure => failure,
    })
}
