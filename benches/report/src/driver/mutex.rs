//! The locks of the libraries that this language has.

use std::time::Duration;

use lockkeeper::{Keeper, Lock, LockGuard, LockOptions};
use zookeeper_client::{Acls, Client, CreateMode, Error, LockPrefix, OwnedLockClient};

use crate::Result;
use crate::SESSION_TIMEOUT;
use crate::floors;
use crate::library::Library;

/// A session of a library.
pub enum Session {
    Lockkeeper { keeper: Keeper, options: LockOptions, confirmed: bool },
    ZookeeperClient(Client),
    Floor(Client),
}

/// A lock of a session.
pub enum Mutex {
    Lockkeeper { lock: Lock, confirmed: bool },
    ZookeeperClient { client: Client, directory: String },
    Floor { client: Client, directory: String },
}

/// A held lock.
pub enum Held {
    Lockkeeper { guard: LockGuard, confirmed: bool },
    ZookeeperClient(OwnedLockClient),
    Floor { client: Client, node: String },
}

impl Session {
    pub async fn open(library: Library, address: &str) -> Result<Session> {
        let options = match library {
            Library::Lockkeeper | Library::Dropped => LockOptions::new(),
            Library::Lingering => LockOptions::new().linger(Duration::from_secs(3600)),
            Library::ZookeeperClient => {
                return Ok(Session::ZookeeperClient(floors::connect(address).await?));
            }
            Library::Floor => return Ok(Session::Floor(floors::connect(address).await?)),
            Library::Kazoo | Library::Curator | Library::Go => {
                return Err(format!("{library} is another language's").into());
            }
        };
        let keeper = Keeper::options().session_timeout(SESSION_TIMEOUT).connect(address).await?;
        Ok(Session::Lockkeeper { keeper, options, confirmed: library != Library::Dropped })
    }

    /// Makes the directory of a lock, if the lock does not make it itself.
    pub async fn make_directory(&self, path: &str) -> Result<()> {
        match self {
            Session::Lockkeeper { .. } => Ok(()),
            Session::ZookeeperClient(client) | Session::Floor(client) => {
                floors::make_directory(client, path).await
            }
        }
    }

    pub fn mutex(&self, path: &str) -> Result<Mutex> {
        let directory = path.to_owned();
        Ok(match self {
            Session::Lockkeeper { keeper, options, confirmed } => {
                Mutex::Lockkeeper { lock: keeper.lock_with(path, options.clone())?, confirmed: *confirmed }
            }
            Session::ZookeeperClient(client) => Mutex::ZookeeperClient { client: client.clone(), directory },
            Session::Floor(client) => Mutex::Floor { client: client.clone(), directory },
        })
    }

    /// Those of the client are closed when nothing uses them any more.
    pub async fn close(self) {
        if let Session::Lockkeeper { keeper, .. } = self {
            keeper.close().await;
        }
    }
}

impl Mutex {
    /// The floor's is a create, then a delete.
    pub async fn cycle(&self) -> Result<()> {
        match self {
            Mutex::Floor { client, directory } => floors::pair(client, directory).await,
            lock => lock.acquire().await?.release().await,
        }
    }

    /// The floor waits for the delete of the one node in the directory, which a watch notices.
    pub async fn acquire(&self) -> Result<Held> {
        Ok(match self {
            Mutex::Lockkeeper { lock, confirmed } => {
                Held::Lockkeeper { guard: lock.acquire().await?, confirmed: *confirmed }
            }
            Mutex::ZookeeperClient { client, directory } => {
                let prefix = LockPrefix::new_curator(directory, "lock-")?;
                let lock = client.lock(prefix, b"", Acls::anyone_all()).await?;
                Held::ZookeeperClient(lock.into_owned())
            }
            Mutex::Floor { client, directory } => {
                let node = format!("{directory}/held");
                let options = CreateMode::Ephemeral.with_acls(Acls::anyone_all());
                match client.create(&node, b"", &options).await {
                    Err(Error::NodeExists) => {
                        let (_, _, watcher) = client.get_and_watch_data(&node).await?;
                        watcher.changed().await;
                    }
                    created => drop(created?),
                }
                Held::Floor { client: client.clone(), node }
            }
        })
    }
}

impl Held {
    /// `zookeeper-client` sends the request when the lock is dropped, and offers nothing to wait for.
    pub async fn release(self) -> Result<()> {
        match self {
            Held::Lockkeeper { guard, confirmed: true } => Ok(guard.release().await?),
            Held::Lockkeeper { guard, confirmed: false } => {
                drop(guard);
                Ok(())
            }
            Held::ZookeeperClient(lock) => {
                drop(lock);
                Ok(())
            }
            // The one who waited for the delete has no node.
            Held::Floor { client, node } => match client.delete(&node, None).await {
                Ok(()) | Err(Error::NoNode) => Ok(()),
                Err(error) => Err(error.into()),
            },
        }
    }
}
