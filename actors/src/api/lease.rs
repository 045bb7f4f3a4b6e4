//! A held lock, and until when it is proven to be held.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::slice;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use ractor::{DerivedActorRef, RpcReplyPort};
use tokio::sync::oneshot;

use super::error::{LostError, ReleaseError};
pub use super::grant::Writing;
use super::grant::{Grant, Hold};
use super::keep_alive::KeepAlive;
use super::lease_view::LeaseView;
pub use super::token::{FencingToken, InvalidToken};
pub use crate::machine::LeaseState;
use crate::machine::Ticket;
use crate::zookeeper::{Acl, ZooKeeper};

/// A held lock. Dropping it releases the lock in the background.
#[must_use = "dropping the lease releases the lock"]
pub struct Lease {
    grant: Arc<Grant>,
    /// The paths of its nodes; empty for a lock, which has that of the grant.
    nodes: Vec<String>,
    grantor: Grantor,
    /// Keeps the session open even when every handle has been dropped.
    keep_alive: Arc<KeepAlive>,
    /// The access list of the nodes.
    acl: Arc<[Acl]>,
    released: bool,
}

impl Lease {
    pub(crate) fn new(
        grant: Arc<Grant>,
        nodes: Vec<String>,
        grantor: Grantor,
        keep_alive: Arc<KeepAlive>,
        acl: Arc<[Acl]>,
    ) -> Lease {
        Lease { grant, nodes, grantor, keep_alive, acl, released: false }
    }

    /// The lock's path, without the connection's chroot.
    pub fn path(&self) -> &str {
        &self.grant.path
    }

    /// The path of this lease's node, for a `multi` that checks the node together with a write.
    pub fn node(&self) -> &str {
        &self.grant.node
    }

    /// The paths of all nodes of this lease: one for each permit.
    pub fn nodes(&self) -> &[String] {
        match self.nodes.is_empty() {
            true => slice::from_ref(&self.grant.node),
            false => &self.nodes,
        }
    }

    /// See [`FencingToken`].
    pub fn token(&self) -> FencingToken {
        self.grant.token()
    }

    /// The request that was granted this lease.
    pub fn ticket(&self) -> Ticket {
        self.grant.ticket
    }

    /// The state at this moment. Every call compares the clock, so a task that was paused sees `Lost` as soon as it
    /// runs again.
    pub fn state(&self) -> LeaseState {
        self.grant.state()
    }

    /// The proven end of the lease: until then, nobody whom this lease excludes can hold the lock. Heartbeats extend
    /// it. It is in the past once the lease is lost. `None` when the lock's node is persistent: such a lease ends only
    /// with its node.
    ///
    /// The lease also runs out while the machine sleeps, which an [`Instant`] does not show: call this again after a
    /// sleep, or use [`state`](Lease::state), which takes it into account.
    pub fn valid_until(&self) -> Option<Instant> {
        self.grant.valid_until()
    }

    /// Waits until the lease is lost. Cancel safe.
    pub async fn lost(&self) {
        self.grant.lost().await;
    }

    /// Runs `work` for as long as the lease lasts, and returns its result. When the lease ends first, `work` is dropped
    /// at its current await, and the result is `Err(LostError)`. It is the same if `work` is done when the lease has
    /// ended: its result is dropped. Work that never awaits cannot be interrupted.
    pub async fn protect<F: Future>(&self, work: F) -> Result<F::Output, LostError> {
        protect(|| self.state(), self.lost(), work).await
    }

    /// A read-only view of this lease, for code that works under it.
    pub fn view(&self) -> LeaseView {
        LeaseView::of([self.grant.clone()])
    }

    /// One view of several leases, at least one.
    pub(super) fn view_of(leases: &[Lease]) -> LeaseView {
        LeaseView::of(leases.iter().map(|lease| lease.grant.clone()))
    }

    /// The session in which the lease was last verified, if it has not been given up. It stays open as long as the
    /// result is kept.
    pub fn keep_session(&self) -> Option<Arc<dyn ZooKeeper>> {
        self.grant.client().upgrade()
    }

    /// Begins a transaction that the server carries out only while the lease's nodes exist. While the result is kept, the
    /// release of a lock is put off, so that no other request of the same process is granted it before the transaction is
    /// answered. If the state is `Lost` after this call, the release may have come before: do not send the transaction.
    pub fn begin_write(&self) -> Writing {
        Writing::new(self.grant.clone())
    }

    /// The access list of the lease's nodes.
    pub fn acl(&self) -> &[Acl] {
        &self.acl
    }

    /// What keeps the keeper open that the lease belongs to.
    pub fn keep_alive(&self) -> &KeepAlive {
        &self.keep_alive
    }

    /// Moves the last `count` nodes to a lease of their own. `None`, and nothing is changed, if that would leave one of
    /// the two without a node. The part of a lost lease is lost.
    pub fn split(&mut self, count: usize) -> Option<Lease> {
        let regroups = self.grantor.regroups.as_ref()?;
        let left = self.nodes.len().checked_sub(count).filter(|left| *left > 0)?;
        let (path, session) = (self.grant.path.clone(), self.grant.session.clone());
        let node = self.nodes.get(left)?.clone();
        let client = self.grant.client().clone();
        let grant = Arc::new(Grant::new(Ticket::new(), path, node, self.token(), session, client));
        let (ticket, nodes, part) = (self.ticket(), self.nodes.split_off(left), Hold(grant.clone()));
        if self.state() != LeaseState::Lost {
            // If the actor has died, the part is dropped with the message, and is lost like this lease.
            let _ = regroups.send_message(Regroup::Split { ticket, nodes: nodes.clone(), part });
        }
        let (grantor, keep_alive) = (self.grantor.clone(), self.keep_alive.clone());
        Some(Lease::new(grant, nodes, grantor, keep_alive, self.acl.clone()))
    }

    /// Moves all nodes of another lease of the same semaphore and session to this one. Gives the other lease back, and
    /// changes nothing, if it belongs to another semaphore, keeper or session, or if one of the two is lost.
    pub fn merge(&mut self, mut other: Lease) -> Result<(), Lease> {
        let is_lost = self.state() == LeaseState::Lost || other.state() == LeaseState::Lost;
        let Some(regroups) =
            self.grantor.regroups.as_ref().filter(|_| !is_lost && self.has_grantor_of(&other))
        else {
            return Err(other);
        };
        let merge = Regroup::Merge { ticket: other.ticket(), into: self.ticket() };
        if regroups.send_message(merge).is_err() {
            return Err(other);
        }
        self.grant.raise_token(other.token());
        self.nodes.append(&mut other.nodes);
        other.released = true;
        Ok(())
    }

    /// Whether the same actor has granted both, in the same session.
    fn has_grantor_of(&self, other: &Lease) -> bool {
        let same_session = match (&self.grant.session, &other.grant.session) {
            (Some(ours), Some(theirs)) => Arc::ptr_eq(ours, theirs),
            _ => false,
        };
        same_session && self.grantor.releases.get_id() == other.grantor.releases.get_id()
    }

    /// Releases the lock and waits until the server has confirmed it. Dropping this future does not stop the release. A
    /// node that is already gone counts as released. One that stays for further requests is not waited for. The release
    /// begins when all transactions under the lease are [answered](Lease::begin_write).
    pub async fn release(mut self) -> Result<(), ReleaseError> {
        self.released = true;
        let (reply, answer) = oneshot::channel();
        let release = Release { ticket: self.grant.ticket, reply: Some(reply.into()) };
        if self.grantor.releases.send_message(release).is_err() {
            return Err(ReleaseError::Lost);
        }
        answer.await.unwrap_or(Err(ReleaseError::Lost))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.released {
            // If the actor has died, its supervisor deletes the node.
            let _ = self.grantor.releases.send_message(Release { ticket: self.grant.ticket, reply: None });
        }
    }
}

/// Where the reply to a release is sent.
pub type ReleasePort = RpcReplyPort<Result<(), ReleaseError>>;

/// Asks an actor to release a lock. Without a reply port, nobody waits for the confirmation.
pub(crate) struct Release {
    pub ticket: Ticket,
    pub reply: Option<ReleasePort>,
}

/// Asks a semaphore's actor to change which permits belong together.
pub(crate) enum Regroup {
    /// Moves these nodes to a lease of their own. Dropping the message loses that lease.
    Split { ticket: Ticket, nodes: Vec<String>, part: Hold },
    /// Moves all nodes of one lease to another.
    Merge { ticket: Ticket, into: Ticket },
}

/// The actor that has granted a lease.
#[derive(Clone)]
pub(crate) struct Grantor {
    pub releases: DerivedActorRef<Release>,
    /// `None` for a lock, whose leases have one node each.
    pub regroups: Option<DerivedActorRef<Regroup>>,
}

#[cfg(feature = "cluster")]
mod cluster {
    impl ractor::Message for super::Release {}
    impl ractor::Message for super::Regroup {}
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("nodes", &self.nodes())
            .field("token", &self.token())
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

/// Runs `work` until it is done or `lost` ends. It is not polled once the state is `Lost`.
pub(crate) async fn protect<F: Future>(
    state: impl Fn() -> LeaseState,
    lost: impl Future<Output = ()>,
    work: F,
) -> Result<F::Output, LostError> {
    let (mut work, mut lost) = (pin!(work), pin!(lost));
    poll_fn(|context| {
        // Not left to `lost`, which may be woken later than the work, or get no turn beside it.
        if state() == LeaseState::Lost {
            return Poll::Ready(Err(LostError));
        }
        match work.as_mut().poll(context) {
            Poll::Ready(done) if state() != LeaseState::Lost => Poll::Ready(Ok(done)),
            Poll::Ready(_) => Poll::Ready(Err(LostError)),
            Poll::Pending => lost.as_mut().poll(context).map(|()| Err(LostError)),
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::pending;

    use super::*;

    #[tokio::test]
    async fn work_is_not_polled_once_the_lease_has_ended() {
        let state = Cell::new(LeaseState::Held);
        let work = poll_fn(|context| {
            assert_eq!(state.get(), LeaseState::Held, "polled after the end");
            // The process is paused here, and the work is woken meanwhile.
            state.set(LeaseState::Lost);
            context.waker().wake_by_ref();
            Poll::<()>::Pending
        });
        assert_eq!(protect(|| state.get(), pending(), work).await, Err(LostError));
    }
}
