//! Multi-locks: all paths or none, no deadlock with other contenders, and nothing left behind.

#[path = "../common/mod.rs"]
mod common;

mod acquiring;
mod contention;
mod ending;
mod faults;

use std::time::Duration;

use common::{TestServer, eventually, shared, unique_path};
use lockkeeper::future::Pending;
use lockkeeper::messages::{LockEvent, Ticket};
use lockkeeper::{Keeper, Lock, MultiGuard, MultiLock};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// An upper limit that is only reached when a test fails.
const LIMIT: Duration = common::HANGING;
/// The timeout of sessions that a test lets expire.
const SHORT: Duration = Duration::from_secs(2);

async fn connect() -> Keeper {
    connect_to(&shared().address(), Duration::from_secs(20)).await
}

async fn connect_to(address: &str, session: Duration) -> Keeper {
    (Keeper::options().session_timeout(session).connect(address).await).expect("should connect")
}

/// Paths that no other test uses, in a directory that does not exist yet.
fn paths<const N: usize>(name: &str) -> [String; N] {
    let directory = unique_path(name);
    std::array::from_fn(|number| format!("{directory}/{number}"))
}

fn all(keeper: &Keeper, paths: &[String]) -> MultiLock {
    keeper.multi_lock(paths).expect("paths")
}

fn one(keeper: &Keeper, path: &str) -> Lock {
    keeper.lock(path).expect("a valid path")
}

/// Waits until this many contenders are queued on a path.
async fn until_queued(keeper: &Keeper, path: &str, count: usize) {
    let lock = one(keeper, path);
    eventually(&format!("{count} contenders on {path}"), LIMIT, async || {
        lock.contenders().await.is_ok_and(|contenders| contenders.len() == count)
    })
    .await;
}

async fn nothing_left(keeper: &Keeper, paths: &[String]) {
    for path in paths {
        until_queued(keeper, path, 0).await;
    }
}

async fn no_watch_left(server: &TestServer) {
    eventually("no watch is left", LIMIT, async || server.mntr("zk_watch_count") == 0).await;
}

type Events = mpsc::UnboundedReceiver<LockEvent<MultiGuard>>;

fn listen<E>(acquire: Pending<E, MultiLock>) -> (Ticket, Events) {
    let (sender, events) = mpsc::unbounded_channel();
    let ticket = acquire.listen(move |event| {
        let _ = sender.send(event);
    });
    (ticket, events)
}

async fn next(events: &mut Events) -> LockEvent<MultiGuard> {
    timeout(LIMIT, events.recv()).await.expect("an event").expect("more events")
}

/// Waits for the grant, skipping any number of `Queued` events.
async fn granted(events: &mut Events) -> MultiGuard {
    loop {
        match next(events).await {
            LockEvent::Enqueued { .. } => {}
            LockEvent::Acquired { guard, .. } => return guard,
            other => panic!("no grant, but {other:?}"),
        }
    }
}
