//! A session's watches: sets them, limits their number, and reports to path actors when they fire.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::AbortHandle;

use crate::machine::semaphore::{Leases, Root};
use crate::zookeeper::{Answer, Fired, Watching, ZooKeeper};

/// The watches of one session.
///
/// A client that resumes a session sends all watched paths in one request, so their total size is limited. Beyond the
/// limit, a watch is replaced with a timer that fires as if the node had changed, so that its owner reads again.
pub(crate) struct Watches {
    client: Arc<dyn ZooKeeper>,
    /// The total size of the watched paths, in bytes.
    used: Arc<AtomicUsize>,
}

/// A watch that reports to its owner. Dropping it removes the watch and frees its room.
pub(crate) struct Watch(AbortHandle);

impl Watches {
    pub fn new(client: Arc<dyn ZooKeeper>) -> Arc<Watches> {
        Arc::new(Watches { client, used: Arc::default() })
    }

    /// Watches a node.
    pub fn node(&self, path: &str) -> Answer<Watching> {
        match self.room(path) {
            Some(room) => {
                let answer = self.client.watch(path);
                Box::pin(async move { Ok(with(room, answer.await?)) })
            }
            None => {
                let answer = self.client.read(path);
                Box::pin(async move { answer.await.map(|_| later()) })
            }
        }
    }

    /// Watches for the creation of a node. `None` when it already exists.
    pub fn absent_node(&self, path: &str) -> Answer<Option<Watching>> {
        match self.room(path) {
            Some(room) => {
                let answer = self.client.watch_for(path);
                Box::pin(async move { Ok(answer.await?.map(|watching| with(room, watching))) })
            }
            None => Box::pin(async { Ok(Some(later())) }),
        }
    }

    /// Reads a node's data, and watches them.
    pub fn root(&self, path: &str) -> Answer<(Root, Watching)> {
        match self.room(path) {
            Some(room) => {
                let answer = self.client.watch_root(path);
                Box::pin(async move { answer.await.map(|(root, watching)| (root, with(room, watching))) })
            }
            None => {
                let answer = self.client.read_root(path);
                Box::pin(async move { answer.await.map(|root| (root, later())) })
            }
        }
    }

    /// Lists a node's children, and watches them.
    pub fn children(&self, path: &str) -> Answer<(Leases, Watching)> {
        match self.room(path) {
            Some(room) => {
                let answer = self.client.watch_children(path);
                Box::pin(async move { answer.await.map(|(leases, watching)| (leases, with(room, watching))) })
            }
            None => {
                let answer = self.client.leases(path);
                Box::pin(async move { answer.await.map(|leases| (leases, later())) })
            }
        }
    }

    /// Reserves room for a watch on this path, if there is enough.
    fn room(&self, path: &str) -> Option<Room> {
        let room = Room { used: self.used.clone(), bytes: self.client.chroot().len() + path.len() };
        let used = self.used.fetch_add(room.bytes, Ordering::SeqCst) + room.bytes;
        (used <= ROOM).then_some(room)
    }
}

impl Watch {
    /// Calls `fired` when the watch fires. Not at the end of the session, which the session actor reports.
    pub fn tell(watching: Watching, fired: impl FnOnce(Change) + Send + 'static) -> Watch {
        let task = tokio::spawn(async move {
            match watching.await {
                Fired::Gone => fired(Change::Gone),
                Fired::Changed => fired(Change::Changed),
                Fired::Ended => {}
            }
        });
        Watch(task.abort_handle())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Why a watch fired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// The node was deleted.
    Gone,
    /// Something else happened to it.
    Changed,
}

/// The room reserved for one watch. Freed when it is dropped.
struct Room {
    used: Arc<AtomicUsize>,
    bytes: usize,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.used.fetch_sub(self.bytes, Ordering::SeqCst);
    }
}

/// A watch that frees its room when it ends.
fn with(room: Room, watching: Watching) -> Watching {
    Box::pin(async move {
        let _room = room;
        watching.await
    })
}

/// Replaces a watch for which there is no room.
fn later() -> Watching {
    Box::pin(async {
        tokio::time::sleep(LATER).await;
        Fired::Changed
    })
}

/// The client fails to resume a session that watches more than 128 KiB of paths, their chroot included.
const ROOM: usize = 64 * 1024;

/// How often the owner of a watch without room asks again.
const LATER: Duration = Duration::from_secs(1);
