//! Clients that are broken on purpose, each with one bug that the checks must detect.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use lockkeeper::LeaseState;
use tokio::time::sleep;
use zookeeper_client as zk;

use super::locks::{Asked, Held};

/// The bug of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Twin {
    None,
    /// Claims to hold the lock whatever its lease says.
    Deaf,
    /// Claims to have released, and leaves its node.
    Leaver,
    /// Considers its session alive as long as a server answers its reads.
    FollowerReads,
    /// Uses a semaphore that grants one permit too many.
    Overdraws,
}

impl Twin {
    pub fn read(text: &str) -> Option<Twin> {
        let all = [Twin::None, Twin::Deaf, Twin::Leaver, Twin::FollowerReads, Twin::Overdraws];
        all.into_iter().find(|twin| format!("{twin:?}") == text)
    }
}

/// A plain lock after the recipe. Its lease lasts for a session timeout from the last read of its own node.
pub struct FollowerReads {
    client: zk::Client,
    session: Duration,
}

impl FollowerReads {
    pub async fn connect(address: &str, session: Duration) -> FollowerReads {
        let connector = zk::Client::connector().with_session_timeout(session);
        FollowerReads { client: connector.connect(address).await.expect("connected"), session }
    }

    pub fn ask(&self, path: &'static str) -> Asked {
        let (client, session) = (self.client.clone(), self.session);
        // A separate task, so that its node is deleted even if the caller stops waiting.
        let task = tokio::spawn(async move {
            let acl = zk::Acls::anyone_all();
            client.mkdir(path, &zk::CreateMode::Persistent.with_acls(acl)).await.ok();
            let options = zk::CreateMode::EphemeralSequential.with_acls(acl);
            let prefix = format!("{path}/{}__lock__", uuid::Uuid::new_v4().simple());
            let said = |error: zk::Error| error.to_string();
            let (stat, number) = client.create(&prefix, b"", &options).await.map_err(said)?;
            let own = format!("{number}");
            let node = Node { client: client.clone(), path: format!("{prefix}{own}") };
            loop {
                let mut names = client.list_children(path).await.map_err(said)?;
                names.sort_by_key(|name| name[name.len().saturating_sub(10)..].to_owned());
                if names.first().is_some_and(|first| first.ends_with(&own)) {
                    break;
                }
                // Polls, because this simple lock sets no watches.
                sleep(Duration::from_millis(5)).await;
            }
            let begun = Instant::now();
            let lease = Arc::new(Lease { begun, until: AtomicU64::new(0) });
            tokio::spawn(keep(Arc::downgrade(&lease), client, node.path.clone(), session));
            lease.believe(begun, session);
            let token = u64::try_from(stat.czxid).expect("positive");
            Ok(Some(Box::new(Guard { lease, _node: node, token }) as Box<dyn Held>))
        });
        task.map(|done| done.unwrap_or_else(|panicked| Err(panicked.to_string()))).boxed()
    }
}

async fn keep(lease: Weak<Lease>, client: zk::Client, node: String, session: Duration) {
    while let Some(lease) = lease.upgrade() {
        let sent = Instant::now();
        if client.get_data(&node).await.is_ok() {
            lease.believe(sent, session);
        }
        drop(lease);
        // The interval between two reads.
        sleep(session / 20).await;
    }
}

struct Lease {
    begun: Instant,
    /// Nanoseconds after `begun`.
    until: AtomicU64,
}

impl Lease {
    fn believe(&self, read: Instant, session: Duration) {
        let until = (read - self.begun + session * 99 / 100).as_nanos();
        self.until.store(u64::try_from(until).expect("a test is short"), Ordering::SeqCst);
    }
}

struct Guard {
    lease: Arc<Lease>,
    _node: Node,
    token: u64,
}

/// A node that is deleted when this is dropped.
struct Node {
    client: zk::Client,
    path: String,
}

impl Drop for Node {
    fn drop(&mut self) {
        let (client, path) = (self.client.clone(), self.path.clone());
        tokio::spawn(async move {
            let gone = |answer| matches!(answer, Ok(()) | Err(zk::Error::NoNode | zk::Error::SessionExpired));
            while !gone(client.delete(&path, None).await) {
                sleep(Duration::from_millis(20)).await;
            }
        });
    }
}

impl Held for Guard {
    fn tokens(&self) -> Vec<u64> {
        vec![self.token]
    }

    fn state(&self) -> LeaseState {
        match self.valid_until() {
            Some(until) if Instant::now() < until => LeaseState::Held,
            Some(_) | None => LeaseState::Lost,
        }
    }

    fn valid_until(&self) -> Option<Instant> {
        Some(self.lease.begun + Duration::from_nanos(self.lease.until.load(Ordering::SeqCst)))
    }

    fn release(self: Box<Self>) -> BoxFuture<'static, ()> {
        futures::future::ready(()).boxed()
    }
}
