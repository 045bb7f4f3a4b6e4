//! A view of one or several leases, for code that works under them.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::future::select_all;

use super::grant::Grant;
use super::token::FencingToken;
use crate::machine::{LeaseState, Moment};
use crate::runtime::clock::Clock;
use crate::zookeeper::ZooKeeper;

/// A read-only view of a guard, for code that works under it. It does not keep the lock, and may outlive the guard.
///
/// A guard of several locks has one view of all of them: its state is the worst of theirs.
#[derive(Clone)]
pub struct LeaseView(Arc<[Arc<Grant>]>);

impl LeaseView {
    /// Of at least one grant.
    pub(super) fn of(grants: impl IntoIterator<Item = Arc<Grant>>) -> LeaseView {
        LeaseView(grants.into_iter().collect())
    }

    /// The path of the lock, without the connection's chroot. Of several locks, the first.
    pub fn path(&self) -> &str {
        self.first().map_or("", |grant| &grant.path)
    }

    /// The path of the lock's node. Of several locks, the first.
    pub fn node(&self) -> &str {
        self.first().map_or("", |grant| &grant.node)
    }

    /// See [`FencingToken`]. Of several locks, that of the first: see [`tokens`](LeaseView::tokens).
    pub fn token(&self) -> FencingToken {
        self.first().map_or(FencingToken::from(0), |grant| grant.token())
    }

    /// Each path with its fencing token, in the order in which the paths were given.
    pub fn tokens(&self) -> impl Iterator<Item = (&str, FencingToken)> {
        self.0.iter().map(|grant| (&*grant.path, grant.token()))
    }

    /// The state at this moment. `Lost` once a lock has been released.
    pub fn state(&self) -> LeaseState {
        LeaseState::worst(self.0.iter().map(|grant| grant.state()))
    }

    /// Whether the lease is `Held` at this moment.
    pub fn is_held(&self) -> bool {
        self.state() == LeaseState::Held
    }

    /// The proven end of the lease: see [`Lease::valid_until`](super::lease::Lease::valid_until).
    pub fn valid_until(&self) -> Option<Instant> {
        self.0.iter().filter_map(|grant| grant.valid_until()).min()
    }

    /// Waits until a lock is lost or released. Cancel safe.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime with time enabled. The same applies to [`changed`](LeaseView::changed).
    pub async fn lost(&self) {
        select_all(self.0.iter().map(|grant| Box::pin(grant.lost()))).await;
    }

    /// Waits until the state differs from `from`, and returns the new one. Cancel safe.
    pub async fn changed(&self, from: LeaseState) -> LeaseState {
        loop {
            // Read once, so that a change between the two is not missed.
            let states: Vec<LeaseState> = self.0.iter().map(|grant| grant.state()).collect();
            let state = LeaseState::worst(states.iter().copied());
            if state != from {
                return state;
            }
            let changes = self.0.iter().zip(states).map(|(grant, state)| Box::pin(grant.changed(state)));
            select_all(changes).await;
        }
    }

    /// The timeout of the session that owns the nodes; `None` for a persistent node.
    pub(crate) fn session_timeout(&self) -> Option<Duration> {
        Some(self.first()?.session.as_ref()?.timeout)
    }

    /// The clock that the lease is measured with.
    pub(crate) fn clock(&self) -> Clock {
        let session = self.first().and_then(|grant| grant.session.as_ref());
        session.map_or_else(Clock::start, |session| session.clock)
    }

    /// The session in which the lease was last verified, if it has not been given up. It stays open as long as the
    /// result is kept.
    pub(crate) fn keep_session(&self) -> Option<Arc<dyn ZooKeeper>> {
        self.first()?.client().upgrade()
    }

    /// Whether the lease is lost because its session is being closed.
    pub(crate) fn is_closed(&self) -> bool {
        let session = self.first().and_then(|grant| grant.session.as_ref());
        session.is_some_and(|session| session.closed.load(Ordering::SeqCst))
    }

    pub(crate) fn until(&self) -> Option<Moment> {
        self.0.iter().filter_map(|grant| grant.until()).min()
    }

    fn first(&self) -> Option<&Arc<Grant>> {
        self.0.first()
    }
}

impl fmt::Debug for LeaseView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseView")
            .field("node", &self.node())
            .field("token", &self.token())
            .finish_non_exhaustive()
    }
}
