//! The tasks that cycle or wait, and what they count.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;

use super::mutex::Mutex as Lock;
use crate::Result;
use crate::monotonic;

#[derive(Default)]
pub struct Contenders {
    tasks: JoinSet<()>,
    counts: Arc<Counts>,
}

impl Contenders {
    /// Each of the locks has a task, which acquires and releases it until `end`, or until it fails and does not persist.
    pub fn start(&mut self, locks: Vec<Lock>, persist: bool) {
        self.counts = Arc::default();
        for lock in locks {
            let counts = self.counts.clone();
            self.tasks.spawn(async move {
                loop {
                    match lock.cycle().await {
                        Ok(()) => counts.completed(),
                        Err(_) if persist => sleep(PAUSE).await,
                        Err(reason) => return counts.fail(reason.to_string()),
                    }
                }
            });
        }
    }

    /// A task acquires the lock and holds it until `end`.
    pub fn wait(&mut self, lock: Lock) {
        let counts = self.counts.clone();
        self.tasks.spawn(async move {
            match lock.acquire().await {
                Ok(_held) => std::future::pending().await,
                Err(reason) => counts.fail(reason.to_string()),
            }
        });
    }

    /// The cycles so far, and when the last one was complete.
    pub fn count(&self) -> Result<Vec<u64>> {
        let failure = self.counts.failure.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reason) = &*failure {
            return Err(reason.clone().into());
        }
        let last = self.counts.last.load(Ordering::Acquire);
        Ok(vec![self.counts.cycles.load(Ordering::Acquire), last])
    }

    pub async fn end(&mut self) {
        self.tasks.shutdown().await;
        self.counts = Arc::default();
    }
}

/// Between a failure and the next attempt.
const PAUSE: Duration = Duration::from_millis(50);

#[derive(Default)]
struct Counts {
    cycles: AtomicU64,
    last: AtomicU64,
    failure: Mutex<Option<String>>,
}

impl Counts {
    fn completed(&self) {
        self.cycles.fetch_add(1, Ordering::AcqRel);
        self.last.store(monotonic(), Ordering::Release);
    }

    fn fail(&self, reason: String) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
    }
}
