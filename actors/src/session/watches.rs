//! A session's watches: sets them, limits their number, and reports to path actors when they fire.

use std::sync::Arc;
use std::time::Duration;

use futures::future::ready;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::spares::{Room, SpareSettings, Spares};
use crate::machine::Failure;
use crate::machine::semaphore::{Leases, Root};
use crate::zookeeper::{Answer, Fired, Watching, ZooKeeper};

/// The watches of one session.
///
/// A client that resumes a session sends all watched paths in one request, so their total size is limited. Further
/// watches are set by spare sessions. If there is none with room, a watch is replaced with a timer that fires as if the
/// node had changed, so that its owner reads again.
pub(crate) struct Watches {
    client: Arc<dyn ZooKeeper>,
    spares: Arc<Spares>,
}

/// A watch that reports to its owner. Dropping it removes the watch and frees its room.
pub(crate) struct Watch(AbortHandle);

impl Watches {
    pub fn new(client: Arc<dyn ZooKeeper>, settings: SpareSettings) -> Arc<Watches> {
        Arc::new(Watches { client, spares: Spares::new(settings) })
    }

    /// Closes the spare sessions. From now on, watches are replaced with timers.
    pub fn close(&self) {
        self.spares.close();
    }

    /// Watches a node.
    pub fn node(&self, path: &str) -> Answer<Watching> {
        let watch = |zk: &dyn ZooKeeper, path: &str| -> Answer<_> {
            let answer = zk.watch(path);
            Box::pin(async move { Ok(((), answer.await?)) })
        };
        let read = |zk: &dyn ZooKeeper, path: &str| -> Answer<()> {
            let answer = zk.read(path);
            Box::pin(async move { answer.await.map(drop) })
        };
        let answer = self.set(path, watch, read);
        Box::pin(async move { answer.await.map(|((), watching)| watching) })
    }

    /// Watches for the creation of a node. Fires at once if it already exists.
    pub fn absent_node(&self, path: &str) -> Answer<Watching> {
        let watch = |zk: &dyn ZooKeeper, path: &str| -> Answer<_> {
            let answer = zk.watch_for(path);
            Box::pin(
                async move { Ok(((), answer.await?.unwrap_or_else(|| Box::pin(ready(Fired::Changed))))) },
            )
        };
        let read = |_: &dyn ZooKeeper, _: &str| -> Answer<()> { Box::pin(ready(Ok(()))) };
        let answer = self.set(path, watch, read);
        Box::pin(async move { answer.await.map(|((), watching)| watching) })
    }

    /// Reads a node's data, and watches them.
    pub fn root(&self, path: &str) -> Answer<(Root, Watching)> {
        self.set(path, |zk, path| zk.watch_root(path), |zk, path| zk.read_root(path))
    }

    /// Lists a node's children, and watches them.
    pub fn children(&self, path: &str) -> Answer<(Leases, Watching)> {
        self.set(path, |zk, path| zk.watch_children(path), |zk, path| zk.leases(path))
    }

    /// Lists a node's children, and watches them. Fails if no watch can be set, which a timer does not replace.
    pub fn children_at_once(&self, path: &str) -> Answer<(Leases, Watching)> {
        let answer = self.try_set(path, |zk, path| zk.watch_children(path), |zk, path| zk.leases(path));
        Box::pin(async move {
            match answer.await? {
                (found, Some(watching)) => Ok((found, watching)),
                (_, None) => Err(Failure::Refused("there is no room for the watch".into())),
            }
        })
    }

    /// Sets a watch, or replaces it with a timer.
    fn set<T: Send + 'static>(
        &self,
        path: &str,
        watch: fn(&dyn ZooKeeper, &str) -> Answer<(T, Watching)>,
        read: fn(&dyn ZooKeeper, &str) -> Answer<T>,
    ) -> Answer<(T, Watching)> {
        let answer = self.try_set(path, watch, read);
        Box::pin(async move {
            let (found, watching) = answer.await?;
            Ok((found, watching.unwrap_or_else(later)))
        })
    }

    /// Sets a watch in a session that has room. Without room, only reads in the main session.
    fn try_set<T: Send + 'static>(
        &self,
        path: &str,
        watch: fn(&dyn ZooKeeper, &str) -> Answer<(T, Watching)>,
        read: fn(&dyn ZooKeeper, &str) -> Answer<T>,
    ) -> Answer<(T, Option<Watching>)> {
        let Some(room) = self.spares.reserve(self.client.chroot().len() + path.len()) else {
            let answer = read(&*self.client, path);
            return Box::pin(async move { Ok((answer.await?, None)) });
        };
        let Some(spare) = &room.spare else {
            let answer = watch(&*self.client, path);
            return Box::pin(async move {
                let (found, watching) = answer.await?;
                Ok((found, Some(with(room, watching))))
            });
        };
        let (client, path) = (self.client.clone(), path.to_owned());
        let answer = spare.ask({
            let path = path.clone();
            move |zk| watch(zk, &path)
        });
        Box::pin(async move {
            // The owner's later answers wait for this one.
            match timeout(LONGEST_ANSWER, answer).await {
                Ok(Ok(Ok((found, watching)))) => Ok((found, Some(with(room, spared(watching))))),
                Ok(Ok(Err(Failure::NoNode))) => Err(Failure::NoNode),
                Ok(Ok(Err(_)) | Err(_)) | Err(_) => Ok((read(&*client, &path).await?, None)),
            }
        })
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

/// A watch that frees its room when it ends.
fn with(room: Room, watching: Watching) -> Watching {
    Box::pin(async move {
        let _room = room;
        watching.await
    })
}

/// A watch of a spare session. The end of that session is not the end of the main session, so the owner reads again.
fn spared(watching: Watching) -> Watching {
    Box::pin(async move {
        match watching.await {
            Fired::Ended => Fired::Changed,
            fired => fired,
        }
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
pub(super) const ROOM: usize = 64 * 1024;

/// How often the owner of a watch without room asks again.
const LATER: Duration = Duration::from_secs(1);

/// How long a watch waits for a spare session.
const LONGEST_ANSWER: Duration = Duration::from_secs(2);
