//! A session's watches: sets them, limits their number, and reports to path actors when they fire.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{FutureExt, ready};
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

/// A watch that has been set. Resolves when it fires. Dropping it removes the watch and frees its room.
pub(crate) struct SetWatch {
    watching: Watching,
    /// `None` for a timer.
    room: Option<Room>,
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
    pub fn node(&self, path: &str) -> Answer<SetWatch> {
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
    pub fn absent_node(&self, path: &str) -> Answer<SetWatch> {
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
    pub fn root(&self, path: &str) -> Answer<(Root, SetWatch)> {
        self.set(path, |zk, path| zk.watch_root(path), |zk, path| zk.read_root(path))
    }

    /// Lists a node's children, and watches them.
    pub fn children(&self, path: &str) -> Answer<(Leases, SetWatch)> {
        self.set(path, |zk, path| zk.watch_children(path), |zk, path| zk.leases(path))
    }

    /// Lists a node's children, and watches them. Fails if there is no room for the watch: a timer does not replace it.
    pub fn children_at_once(&self, path: &str) -> Answer<(Leases, SetWatch)> {
        let answer = self.children(path);
        Box::pin(async move {
            let (found, watch) = answer.await?;
            match watch.room {
                Some(_) => Ok((found, watch)),
                None => Err(Failure::Refused("there is no room for the watch".into())),
            }
        })
    }

    /// Brings the main session's server up to date if a spare session has set one of these watches: that session's server
    /// may have known more, and does not report what it knew before.
    pub fn catch_up(&self, path: &str, watches: &[SetWatch]) -> Answer<()> {
        match watches.iter().any(SetWatch::is_spared) {
            true => self.client.sync(path),
            false => Box::pin(ready(Ok(()))),
        }
    }

    /// Sets a watch in a session that has room. Without room, only reads in the main session.
    fn set<T: Send + 'static>(
        &self,
        path: &str,
        watch: fn(&dyn ZooKeeper, &str) -> Answer<(T, Watching)>,
        read: fn(&dyn ZooKeeper, &str) -> Answer<T>,
    ) -> Answer<(T, SetWatch)> {
        let Some(room) = self.spares.reserve(self.client.chroot().len() + path.len()) else {
            self.spares.refused();
            let answer = read(&*self.client, path);
            return Box::pin(async move { Ok((answer.await?, later())) });
        };
        let Some(spare) = &room.spare else {
            let answer = watch(&*self.client, path);
            return Box::pin(async move {
                let (found, watching) = answer.await?;
                Ok((found, SetWatch { watching, room: Some(room) }))
            });
        };
        let (client, spares, path) = (self.client.clone(), self.spares.clone(), path.to_owned());
        let answer = spare.ask({
            let path = path.clone();
            move |zk| watch(zk, &path)
        });
        Box::pin(async move {
            // The owner's later answers wait for this one.
            match timeout(LONGEST_ANSWER, answer).await {
                Ok(Ok(Ok((found, watching)))) => Ok((found, SetWatch { watching, room: Some(room) })),
                Ok(Ok(Err(Failure::NoNode))) => Err(Failure::NoNode),
                Ok(Ok(Err(_)) | Err(_)) | Err(_) => {
                    spares.refused();
                    Ok((read(&*client, &path).await?, later()))
                }
            }
        })
    }
}

impl SetWatch {
    /// Whether a spare session has set it.
    fn is_spared(&self) -> bool {
        self.room.as_ref().is_some_and(|room| room.spare.is_some())
    }
}

impl Future for SetWatch {
    type Output = Fired;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Fired> {
        let is_spared = self.is_spared();
        self.watching.poll_unpin(context).map(|fired| match fired {
            // The end of a spare session is not the end of the main session, so the owner reads again.
            Fired::Ended if is_spared => Fired::Changed,
            fired => fired,
        })
    }
}

impl Watch {
    /// Calls `fired` when the watch fires. Not at the end of the session, which the session actor reports.
    pub fn tell(mut watch: SetWatch, fired: impl FnOnce(Change) + Send + 'static) -> Watch {
        let task = tokio::spawn(async move {
            match (&mut watch).await {
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

/// Replaces a watch for which there is no room.
fn later() -> SetWatch {
    let watching = Box::pin(async {
        tokio::time::sleep(LATER).await;
        Fired::Changed
    });
    SetWatch { watching, room: None }
}

/// The client fails to resume a session that watches more than 128 KiB of paths, their chroot included.
pub(super) const ROOM: usize = 64 * 1024;

/// How often the owner of a watch without room asks again.
const LATER: Duration = Duration::from_secs(1);

/// How long a watch waits for a spare session.
const LONGEST_ANSWER: Duration = Duration::from_secs(2);
