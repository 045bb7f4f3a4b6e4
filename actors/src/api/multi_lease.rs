//! Several held locks.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use futures::future::join_all;
use ractor::DerivedActorRef;

use super::error::{LostError, ReleaseError};
use super::keep_alive::KeepAlive;
use super::lease::{FencingToken, Lease, LeaseState, protect};
use super::lease_view::LeaseView;
use crate::machine::Ticket;

/// Several held locks. Dropping it releases all of them in the background.
#[must_use = "dropping the lease releases the locks"]
pub struct MultiLease {
    /// Dropped first: the request's actor hears of it before the actors of the locks.
    reports: ReportsDrop,
    ticket: Ticket,
    leases: Vec<Lease>,
    view: LeaseView,
}

impl MultiLease {
    pub(crate) fn new(ticket: Ticket, leases: Vec<Lease>, reports: ReportsDrop) -> MultiLease {
        MultiLease { reports, ticket, view: Lease::view_of(&leases), leases }
    }

    /// The request that was granted this lease.
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// The leases of all paths, in the order of the request.
    pub fn leases(&self) -> &[Lease] {
        &self.leases
    }

    /// Each path with its fencing token, in the order of the request.
    pub fn tokens(&self) -> impl Iterator<Item = (&str, FencingToken)> {
        self.view.tokens()
    }

    /// The worst state of all leases: `Lost`, then `Suspended`, then `Held`.
    pub fn state(&self) -> LeaseState {
        self.view.state()
    }

    /// The earliest proven end of all leases.
    pub fn valid_until(&self) -> Option<Instant> {
        self.view.valid_until()
    }

    /// One read-only view of all leases, for code that works under them.
    pub fn view(&self) -> LeaseView {
        self.view.clone()
    }

    /// What keeps the keeper open that the leases belong to. `None` if there is no lease.
    pub fn keep_alive(&self) -> Option<&KeepAlive> {
        self.leases.first().map(Lease::keep_alive)
    }

    /// Waits until any of the leases is lost. Cancel safe.
    pub async fn lost(&self) {
        self.view.lost().await;
    }

    /// Runs `work` for as long as all leases last, like [`Lease::protect`].
    pub async fn protect<F: Future>(&self, work: F) -> Result<F::Output, LostError> {
        protect(|| self.state(), self.lost(), work).await
    }

    /// Releases all locks concurrently, and waits until the server has confirmed each. Dropping this future does not
    /// stop the release.
    pub async fn release(self) -> Result<(), ReleaseError> {
        drop(self.reports);
        join_all(self.leases.into_iter().map(Lease::release)).await.into_iter().collect()
    }
}

/// To the actor of the request: the lease was released or dropped.
pub(crate) struct LeaseDropped;

#[cfg(feature = "cluster")]
impl ractor::Message for LeaseDropped {}

/// Reports when the lease is released or dropped.
pub(crate) struct ReportsDrop {
    /// For what outlives the actor.
    dropped: Arc<AtomicBool>,
    actor: DerivedActorRef<LeaseDropped>,
}

impl ReportsDrop {
    pub fn new(dropped: Arc<AtomicBool>, actor: DerivedActorRef<LeaseDropped>) -> ReportsDrop {
        ReportsDrop { dropped, actor }
    }
}

impl Drop for ReportsDrop {
    fn drop(&mut self) {
        self.dropped.store(true, Ordering::SeqCst);
        // The actor may have ended.
        let _ = self.actor.send_message(LeaseDropped);
    }
}

impl fmt::Debug for MultiLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.leases).finish()
    }
}
