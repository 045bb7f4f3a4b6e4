//! A simple lock after ZooKeeper's "Recipes and Solutions": create, list, watch the predecessor, list again at every
//! wake-up, delete.

use uuid::Uuid;
use zookeeper_client::{Acls, Client, CreateMode, Error};

/// A lock. Its directory must exist.
#[derive(Clone)]
pub struct PlainLock {
    client: Client,
    directory: String,
}

/// A held lock. Dropping it does nothing.
pub struct PlainGuard {
    client: Client,
    node: String,
}

impl PlainLock {
    pub fn new(client: Client, directory: &str) -> PlainLock {
        PlainLock { client, directory: directory.to_owned() }
    }

    pub async fn acquire(&self) -> Result<PlainGuard, Error> {
        let unique = format!("{}__lock__", Uuid::new_v4().simple());
        let prefix = format!("{}/{unique}", self.directory);
        let options = CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());
        let (_, sequence) = self.client.create(&prefix, b"", &options).await?;
        let own = format!("{unique}{sequence}");
        while let Some(predecessor) = self.predecessor(&own).await? {
            let path = format!("{}/{predecessor}", self.directory);
            match self.client.get_and_watch_data(&path).await {
                Ok((_, _, watcher)) => {
                    watcher.changed().await;
                }
                // It was deleted since the listing.
                Err(Error::NoNode) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(PlainGuard { client: self.client.clone(), node: format!("{}/{own}", self.directory) })
    }

    /// The predecessor, or `None` if we hold the lock.
    async fn predecessor(&self, own: &str) -> Result<Option<String>, Error> {
        let mut queue = self.client.list_children(&self.directory).await?;
        queue.retain(|name| name.contains("__lock__"));
        queue.sort_by(|a, b| sequence(a).cmp(sequence(b)));
        let place = queue.iter().position(|name| name == own).ok_or(Error::NoNode)?;
        Ok(place.checked_sub(1).map(|before| queue.swap_remove(before)))
    }
}

impl PlainGuard {
    pub async fn release(self) -> Result<(), Error> {
        self.client.delete(&self.node, None).await
    }
}

/// The ten digits at the end of the name.
fn sequence(name: &str) -> &str {
    &name[name.len().saturating_sub(10)..]
}
