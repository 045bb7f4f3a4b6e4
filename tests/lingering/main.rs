//! Locks whose requests share a node, which stays for a while when nobody wants it. What every kind of lock promises is
//! tested for them too, in `tests/promises` and `tests/trouble`.

#[path = "../common/mod.rs"]
mod common;

mod ending;
mod losing;
mod sharing;
mod strangers;

use std::time::Duration;

use common::site::Observer;
use common::{SOON, TestServer, connect, eventually, shared, unique_path};
use lockkeeper::error::AcquireError;
use lockkeeper::marker::Access;
use lockkeeper::messages::LockEvent;
use lockkeeper::{Guard, Keeper, Lock, LockGuard, LockOptions, ReadWriteLock};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Longer than any test.
const HOUR: Duration = Duration::from_secs(3600);

fn lingering(idle: Duration) -> LockOptions {
    LockOptions::new().linger(idle)
}

fn open(keeper: &Keeper, path: &str) -> Lock {
    keeper.lock_with(path, lingering(HOUR)).expect("a valid path")
}

fn read_write(keeper: &Keeper, path: &str) -> ReadWriteLock {
    keeper.read_write_with(path, lingering(HOUR)).expect("a valid path")
}

/// A path, a keeper whose lock there lingers for an hour, and an observer of the nodes.
struct Scene {
    path: String,
    keeper: Keeper,
    lock: Lock,
    observer: Observer,
}

impl Scene {
    async fn new(name: &str) -> Scene {
        Scene::with(connect().await, name).await
    }

    async fn with(keeper: Keeper, name: &str) -> Scene {
        Scene::on(shared(), keeper, name).await
    }

    async fn on(server: &TestServer, keeper: Keeper, name: &str) -> Scene {
        let path = unique_path(name);
        let lock = open(&keeper, &path);
        Scene { path, keeper, lock, observer: Observer::of(server).await }
    }

    async fn nodes(&self) -> Vec<String> {
        self.observer.nodes(&self.path).await
    }

    async fn until_nodes(&self, count: usize) {
        let what = format!("{} has {count} nodes", self.path);
        eventually(&what, SOON, async || self.nodes().await.len() == count).await;
    }

    /// Waits until this node is the only one: a lock is handed over within the process while the former holder's node is
    /// being deleted.
    async fn until_only(&self, node: &str) {
        let what = format!("{node} is the only node");
        eventually(&what, SOON, async || self.nodes().await == [node]).await;
    }

    /// Acquires and releases the lock, so that its node is idle.
    async fn idle(&self) -> String {
        let guard = self.lock.acquire().await.expect("free");
        let node = guard.node().to_owned();
        guard.release().await.expect("released");
        assert_eq!(self.nodes().await, [node.as_str()]);
        node
    }
}

/// Waits until this many directories and nodes are watched. Servers do not show which directories.
async fn until_watches(server: &TestServer, count: i64) {
    let what = format!("{count} watches");
    eventually(&what, SOON, async || server.mntr("zk_watch_count") == count).await;
}

/// A request, and its events.
struct Asked(mpsc::UnboundedReceiver<LockEvent<LockGuard>>);

impl Asked {
    /// The request is sent before this returns.
    fn new(lock: &Lock) -> Asked {
        let (sender, events) = mpsc::unbounded_channel();
        lock.acquire().listen(move |event| drop(sender.send(event)));
        Asked(events)
    }

    /// Waits until it has a place in the queue, and returns how many are ahead.
    async fn queued(&mut self) -> usize {
        match timeout(SOON, self.0.recv()).await.expect("an event") {
            Some(LockEvent::Enqueued { ahead, .. }) => ahead,
            other => panic!("it should be queued: {other:?}"),
        }
    }

    async fn granted(&mut self) -> LockGuard {
        loop {
            match timeout(SOON, self.0.recv()).await.expect("an event") {
                Some(LockEvent::Acquired { guard, .. }) => return guard,
                Some(LockEvent::Enqueued { .. }) => {}
                other => panic!("it should be granted: {other:?}"),
            }
        }
    }

    /// The last event of a lease.
    async fn last(&mut self) -> LockEvent<LockGuard> {
        loop {
            match timeout(SOON, self.0.recv()).await.expect("an event") {
                Some(LockEvent::Suspended(_) | LockEvent::Resumed(_)) => {}
                Some(event) => return event,
                None => panic!("the last event is missing"),
            }
        }
    }

    fn waits(&mut self) -> bool {
        self.0.try_recv().is_err()
    }
}

/// Starts a request in a task.
fn begin<M: Access>(lock: &Lock<M>) -> JoinHandle<Result<Guard<M>, AcquireError>>
where
    Guard<M>: Send,
{
    tokio::spawn(lock.acquire())
}
