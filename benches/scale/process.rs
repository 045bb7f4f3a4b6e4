//! The processes that contend: this library, and its peers. Each has one session, behind a relay.

use std::sync::Arc;

use lockkeeper::future::{FromRefused, Pending, Target};
use lockkeeper::messages::LockEvent;
use lockkeeper::session::{KeeperState, SessionStatus};
use lockkeeper::{Keeper, Lock, ReadLock, Semaphore};
use tokio::sync::mpsc::UnboundedSender;
use zookeeper_client::{Acls, Client, CreateMode, LockOptions, LockPrefix};

use crate::common::{Acquire, Curator, CuratorKind, Kazoo, Kind as KazooKind};
use crate::relay::Relay;
use crate::{Result, SESSION_TIMEOUT, floors};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Library {
    Lockkeeper,
    ZookeeperClient,
    Kazoo,
    Curator,
}

/// Whose names the nodes have.
#[derive(Clone, Copy)]
pub enum Dialect {
    Kazoo,
    Curator,
}

/// What is contended for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Lock,
    Reader,
    Permit { limit: u32 },
}

/// What happens to a request.
pub enum Event {
    /// It is in the queue. Only this library tells.
    Queued,
    /// It is granted. The call releases it.
    Granted(Release),
    /// The release is confirmed. Only this library tells.
    Released,
    Failed(String),
}

pub type Release = Box<dyn FnOnce() + Send>;

/// The number of a request, and what happens to it.
pub type Events = UnboundedSender<(usize, Event)>;

/// A process with one session, which passes the relay.
pub struct Process {
    pub relay: Relay,
    client: Connected,
}

#[derive(Clone)]
enum Connected {
    Lockkeeper(Keeper),
    ZookeeperClient(Client),
    Kazoo(Arc<Kazoo>),
    Curator(Arc<Curator>),
}

/// A lock, or the like, of a process.
pub enum Entrance {
    Lock(Lock),
    Reader(ReadLock),
    Semaphore(Semaphore),
    ZookeeperClient(Client, String),
    Kazoo(Arc<Kazoo>, KazooKind, u32, String),
    Curator(Arc<Curator>, CuratorKind, String),
}

impl Library {
    pub fn name(self) -> &'static str {
        match self {
            Library::Lockkeeper => "lockkeeper",
            Library::ZookeeperClient => "zookeeper-client's lock",
            Library::Kazoo => "kazoo",
            Library::Curator => "Curator",
        }
    }

    pub fn dialect(self) -> Dialect {
        match self {
            Library::Lockkeeper | Library::Kazoo => Dialect::Kazoo,
            Library::ZookeeperClient | Library::Curator => Dialect::Curator,
        }
    }
}

impl Process {
    pub async fn connect(library: Library, address: &str) -> Result<Process> {
        let relay = Relay::start(address).await?;
        let address = relay.address();
        let client = match library {
            Library::Lockkeeper => Connected::Lockkeeper(
                Keeper::options().session_timeout(SESSION_TIMEOUT).connect(address).await?,
            ),
            Library::ZookeeperClient => Connected::ZookeeperClient(floors::connect(address).await?),
            Library::Kazoo => {
                Connected::Kazoo(Arc::new(Kazoo::start_with_session(address, SESSION_TIMEOUT).await))
            }
            Library::Curator => {
                Connected::Curator(Arc::new(Curator::start_with_session(address, SESSION_TIMEOUT).await))
            }
        };
        Ok(Process { relay, client })
    }

    pub fn open(&self, kind: Kind, path: &str) -> Result<Entrance> {
        let path = path.to_owned();
        Ok(match (self.client.clone(), kind) {
            (Connected::Lockkeeper(keeper), Kind::Lock) => Entrance::Lock(keeper.lock(&path)?),
            (Connected::Lockkeeper(keeper), Kind::Reader) => {
                Entrance::Reader(keeper.read_write(&path)?.read().clone())
            }
            (Connected::Lockkeeper(keeper), Kind::Permit { limit }) => {
                Entrance::Semaphore(keeper.semaphore(&path, limit)?)
            }
            (Connected::ZookeeperClient(client), Kind::Lock) => Entrance::ZookeeperClient(client, path),
            (Connected::Kazoo(kazoo), kind) => {
                let (kind, limit) = match kind {
                    Kind::Lock => (KazooKind::Lock, 1),
                    Kind::Reader => (KazooKind::ReadLock, 1),
                    Kind::Permit { limit } => (KazooKind::Semaphore, limit),
                };
                Entrance::Kazoo(kazoo, kind, limit, path)
            }
            (Connected::Curator(curator), Kind::Lock) => Entrance::Curator(curator, CuratorKind::Mutex, path),
            (Connected::Curator(curator), Kind::Reader) => {
                Entrance::Curator(curator, CuratorKind::Read, path)
            }
            (Connected::ZookeeperClient(_) | Connected::Curator(_), _) => {
                return Err("this library's client here has no such lock".into());
            }
        })
    }

    /// Whether requests tell that they are queued and released, and queue again after a lost session.
    pub fn tells(&self) -> bool {
        matches!(self.client, Connected::Lockkeeper(_))
    }

    /// The process loses its session. Returns when it has the next one.
    pub async fn lose_session(&self) -> Result<()> {
        let Connected::Lockkeeper(keeper) = &self.client else {
            return Err("only this library goes on".into());
        };
        let mut state = keeper.state();
        let epoch = state.get().epoch;
        self.relay.end_session().await?;
        let next = |state: KeeperState| state.epoch > epoch && state.status == SessionStatus::Connected;
        state.wait_for(next).await.ok_or("the keeper is closed")?;
        Ok(())
    }

    /// The number of the session of this library, and whether it is connected.
    pub fn session(&self) -> Option<(u64, bool)> {
        let Connected::Lockkeeper(keeper) = &self.client else { return None };
        let state = keeper.state().get();
        Some((state.epoch, state.status == SessionStatus::Connected))
    }

    /// Closes the session, so that it does not burden the next row.
    pub async fn close(self) {
        if let Connected::Lockkeeper(keeper) = &self.client {
            keeper.close().await;
        }
    }
}

impl Entrance {
    /// Makes the request with this number.
    pub fn request(&self, number: usize, events: &Events) {
        let events = events.clone();
        match self {
            Entrance::Lock(lock) => listen(lock.acquire(), number, events),
            Entrance::Reader(lock) => listen(lock.acquire(), number, events),
            Entrance::Semaphore(semaphore) => listen(semaphore.acquire(), number, events),
            Entrance::ZookeeperClient(client, path) => {
                let request = hold_with_client(client.clone(), path.clone());
                tokio::spawn(async move { tell(&events, number, request.await) });
            }
            Entrance::Kazoo(kazoo, kind, max_leases, path) => {
                let options = Acquire { max_leases: *max_leases, ..Acquire::default() };
                let (pending, kazoo) = (kazoo.start_acquire(path, *kind, options), kazoo.clone());
                tokio::spawn(async move {
                    let held = pending.await.map(|held| -> Release {
                        Box::new(move || drop(tokio::spawn(async move { kazoo.release(held).await })))
                    });
                    tell(&events, number, held.map_err(Into::into));
                });
            }
            Entrance::Curator(curator, kind, path) => {
                let (pending, curator) = (curator.begin(path, *kind), curator.clone());
                tokio::spawn(async move {
                    // A failure panics. The inner task turns that into an error.
                    let held = tokio::spawn(pending).await.map(|held| -> Release {
                        Box::new(move || drop(tokio::spawn(async move { curator.release(held).await })))
                    });
                    tell(&events, number, held.map_err(Into::into));
                });
            }
        }
    }
}

fn tell(events: &Events, number: usize, held: Result<Release>) {
    let event = held.map_or_else(|error| Event::Failed(error.to_string()), Event::Granted);
    // The row may have ended.
    let _ = events.send((number, event));
}

fn listen<E: FromRefused, T: Target>(pending: Pending<E, T>, number: usize, events: Events) {
    pending.listen(move |event| {
        let event = match event {
            LockEvent::Enqueued { .. } => Event::Queued,
            LockEvent::Acquired { guard, .. } => Event::Granted(Box::new(move || drop(guard))),
            LockEvent::Released(_) => Event::Released,
            LockEvent::Lost(_) => Event::Failed("the lease was lost".to_owned()),
            LockEvent::Refused(_, refused) => Event::Failed(refused.to_string()),
            _ => return,
        };
        let _ = events.send((number, event));
    });
}

async fn hold_with_client(client: Client, path: String) -> Result<Release> {
    let parents = CreateMode::Persistent.with_acls(Acls::anyone_all());
    let options = LockOptions::new(Acls::anyone_all()).with_ancestor_options(parents)?;
    let lock = client.lock(LockPrefix::new_curator(&path, "lock-")?, b"", options).await?.into_owned();
    Ok(Box::new(move || drop(lock)))
}
