//! What a lease, its views and the actor that granted it share.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use futures::future::select;
use tokio::sync::Notify;

use super::session_lease::SessionLease;
use super::token::FencingToken;
use crate::machine::{LeaseState, Moment, Ticket};
use crate::zookeeper::ZooKeeper;

/// State shared by a lease and the actor that granted it.
pub(crate) struct Grant {
    pub ticket: Ticket,
    pub path: Arc<str>,
    /// The first node of the lease, which it keeps when it is split or merged.
    pub node: String,
    /// Grows when a lease with a larger one is merged into this one.
    token: AtomicU64,
    /// The session that owns the node; `None` for a persistent node.
    pub session: Option<Arc<SessionLease>>,
    /// Another one after each lost session that the node outlives.
    client: Mutex<Weak<dyn ZooKeeper>>,
    mark: AtomicU64,
    /// The number of transactions under this lease that have not been answered.
    writes: AtomicUsize,
    changed: Notify,
}

const HELD: u64 = 0;
const SUSPENDED: u64 = 1;
const LOST: u64 = 2;

impl Grant {
    pub fn new(
        ticket: Ticket,
        path: Arc<str>,
        node: String,
        token: FencingToken,
        session: Option<Arc<SessionLease>>,
        client: Weak<dyn ZooKeeper>,
    ) -> Grant {
        let token = AtomicU64::new(token.as_u64());
        let (client, mark, changed) = (Mutex::new(client), AtomicU64::new(HELD), Notify::new());
        Grant { ticket, path, node, token, session, client, mark, writes: AtomicUsize::new(0), changed }
    }

    pub fn token(&self) -> FencingToken {
        FencingToken::from(self.token.load(Ordering::SeqCst))
    }

    pub fn raise_token(&self, token: FencingToken) {
        self.token.fetch_max(token.as_u64(), Ordering::SeqCst);
    }

    pub fn client(&self) -> MutexGuard<'_, Weak<dyn ZooKeeper>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn state(&self) -> LeaseState {
        match (self.mark.load(Ordering::SeqCst), &self.session) {
            (LOST, _) => LeaseState::Lost,
            (_, Some(session)) => session.state(),
            (SUSPENDED, None) => LeaseState::Suspended,
            (_, None) => LeaseState::Held,
        }
    }

    /// The proven end; once the lease is lost, the origin of the clock. `None` for a persistent node.
    pub fn until(&self) -> Option<Moment> {
        let session = self.session.as_ref()?;
        Some(match self.mark.load(Ordering::SeqCst) {
            LOST => Moment(0),
            _ => session.valid_until(),
        })
    }

    pub fn valid_until(&self) -> Option<Instant> {
        Some(self.session.as_ref()?.clock.instant(self.until()?))
    }

    pub async fn lost(&self) {
        let mut state = self.state();
        while state != LeaseState::Lost {
            state = self.changed(state).await;
        }
    }

    pub fn has_writes(&self) -> bool {
        self.writes.load(Ordering::SeqCst) > 0
    }

    /// Waits until all transactions under this lease are answered.
    pub async fn written(&self) {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if !self.has_writes() {
                return;
            }
            changed.await;
        }
    }

    pub async fn changed(&self, from: LeaseState) -> LeaseState {
        loop {
            let mut marked = pin!(self.changed.notified());
            marked.as_mut().enable();
            let Some(session) = &self.session else {
                match self.state() {
                    state if state == from => marked.await,
                    state => return state,
                }
                continue;
            };
            let mut published = pin!(session.changed.notified());
            published.as_mut().enable();
            let state = self.state();
            if state != from {
                return state;
            }
            if state == LeaseState::Lost {
                return std::future::pending().await;
            }
            let end = pin!(tokio::time::sleep_until(session.clock.at(session.valid_until())));
            select(select(marked, published), end).await;
        }
    }
}

/// A transaction under a lease, until it is dropped. A lock that is released meanwhile is not handed on before.
#[must_use]
pub struct Writing(Arc<Grant>);

impl Writing {
    pub(super) fn new(grant: Arc<Grant>) -> Writing {
        grant.writes.fetch_add(1, Ordering::SeqCst);
        Writing(grant)
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.0.writes.fetch_sub(1, Ordering::SeqCst);
        self.0.changed.notify_waiters();
    }
}

/// The actor's part of a grant. Dropping it marks the lease as `Lost`, even when the actor is killed or panics.
pub(crate) struct Hold(pub Arc<Grant>);

impl Hold {
    pub fn ticket(&self) -> Ticket {
        self.0.ticket
    }

    /// Whether the lease or a view of it still exists.
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// The mark only matters for persistent nodes; leases of ephemeral nodes follow their session's lease.
    pub fn suspend(&self) {
        if self.0.mark.compare_exchange(HELD, SUSPENDED, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            self.0.changed.notify_waiters();
        }
    }

    pub fn resume(&self, client: Weak<dyn ZooKeeper>) {
        *self.0.client() = client;
        if self.0.mark.compare_exchange(SUSPENDED, HELD, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            self.0.changed.notify_waiters();
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.mark.store(LOST, Ordering::SeqCst);
        self.0.changed.notify_waiters();
    }
}
