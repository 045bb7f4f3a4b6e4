//! Guards of held locks and permits.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::time::Instant;

use lockkeeper_actors::api::error::{LostError, ReleaseError};
use lockkeeper_actors::api::lease::{FencingToken, Lease, LeaseState};
use lockkeeper_actors::api::lease_view::LeaseView;
use lockkeeper_actors::api::request::Ticket;

use crate::marker::{Exclusive, Pooled, Read, Write};

/// A held lock. Dropping it releases the lock in the background.
///
/// A guard is owned, `Send` and `'static`, and does not depend on the handle that it came from. [`LockGuard`],
/// [`ReadGuard`], [`WriteGuard`] and [`Permit`] are its aliases.
#[must_use = "dropping the guard releases the lock"]
pub struct Guard<M>(pub(crate) Lease, PhantomData<fn() -> M>);

/// The guard of an exclusive lock.
pub type LockGuard = Guard<Exclusive>;
/// The guard of a read lock. Several can be held at the same time.
pub type ReadGuard = Guard<Read>;
/// The guard of a write lock.
pub type WriteGuard = Guard<Write>;
/// The guard of one or more permits of a semaphore that were acquired together.
///
/// A process takes permits in turns. All permits of one turn have the same [token](Guard::token), which is larger than
/// the tokens of all earlier turns. Permits of several turns are held at the same time, so a resource cannot detect a
/// lost permit by remembering the largest token. It can check the [nodes](Guard::nodes) instead, as
/// [`fenced`](Guard::fenced) does.
pub type Permit = Guard<Pooled>;

impl<M> Guard<M> {
    pub(crate) fn new(lease: Lease) -> Guard<M> {
        Guard(lease, PhantomData)
    }

    /// The path of the lock or semaphore, without the connection's chroot.
    pub fn path(&self) -> &str {
        self.0.path()
    }

    /// The path of the ZooKeeper node of this guard. [`fenced`](Guard::fenced) lets the server carry out writes only if
    /// the node exists. Another client of ZooKeeper can send them in one `multi` with a check of this node, at any
    /// version. Wait for its answer before you release the lock: to the next holder in this process, the lock is handed
    /// on before the node is deleted.
    pub fn node(&self) -> &str {
        self.0.node()
    }

    /// The fencing token. It is not smaller than the token of any earlier holder that excludes this one. It is larger,
    /// unless the two share a node that [lingers](crate::LockOptions::linger): so a resource compares with `<=`. The
    /// tokens of holders that do not exclude each other, such as two readers, have no particular order.
    pub fn token(&self) -> FencingToken {
        self.0.token()
    }

    /// The ticket of the request that was granted with this guard.
    pub fn ticket(&self) -> Ticket {
        self.0.ticket()
    }

    /// The current state of the lease. Every call reads the clock, so a task that was paused beyond the end of the
    /// lease sees [`LeaseState::Lost`] as soon as it runs again.
    pub fn state(&self) -> LeaseState {
        self.0.state()
    }

    /// Whether the lease is [`Held`](LeaseState::Held) at this moment.
    pub fn is_held(&self) -> bool {
        self.state() == LeaseState::Held
    }

    /// The time until which no holder that this guard excludes can have the lock, as far as is proven now. Heartbeats
    /// extend it. It is in the past once the lease is lost, and `None` for a lock that outlives sessions.
    ///
    /// The lease also runs out while the machine sleeps, which an [`Instant`] does not show: call this again after a
    /// sleep, or use [`state`](Guard::state), which takes it into account on Linux.
    pub fn valid_until(&self) -> Option<Instant> {
        self.0.valid_until()
    }

    /// A view of this guard for code that works under it. It shows the token and the state, and does not keep the lock.
    pub fn view(&self) -> LeaseView {
        self.0.view()
    }

    /// Waits until the lease is lost. Cancel safe.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime with time enabled. The same applies to [`protect`](Guard::protect).
    pub async fn lost(&self) {
        self.0.lost().await;
    }

    /// Runs `work` under the lease, and returns its result. If the lease is lost first, drops `work` and returns
    /// `Err(LostError)`.
    ///
    /// `Ok` means that `work` was done while the lease was valid. After [`LostError`] it is unknown how far `work` has
    /// come. It may even be done: a task that was paused may find at the same moment that its work is done and that the
    /// lease is over, and then the result is dropped, too. So work that begins again has to look what has been done.
    ///
    /// Work that never awaits cannot be interrupted. Only the fencing token protects against its late writes.
    ///
    /// # Errors
    ///
    /// [`LostError`] if the lease is lost before `work` is known to be done.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops `work` at its current await. The guard keeps the lock.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let zookeeper = lockkeeper_embedded::Embedded::start().await?;
    /// # let keeper = lockkeeper::Keeper::connect(&zookeeper.address()).await?;
    /// # async fn write(_: lockkeeper::FencingToken) -> u32 { 7 }
    /// let guard = keeper.lock("/locks/ledger")?.acquire().await?;
    /// let row = guard.protect(write(guard.token())).await?;
    /// # assert_eq!(row, 7);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn protect<F: Future>(&self, work: F) -> Result<F::Output, LostError> {
        self.0.protect(work).await
    }

    /// Releases the lock, and waits until the server has confirmed it. Dropping the guard releases without waiting.
    ///
    /// A node that no longer exists counts as released. If the node [lingers](crate::LockOptions::linger), or serves
    /// further requests, it stays, and there is nothing to wait for.
    ///
    /// # Errors
    ///
    /// [`ReleaseError::Lost`] if the lease ends before the release is confirmed.
    ///
    /// # Cancel safety
    ///
    /// The release continues in the background when this future is dropped.
    pub async fn release(self) -> Result<(), ReleaseError> {
        self.0.release().await
    }
}

impl Guard<Pooled> {
    /// The number of permits.
    pub fn count(&self) -> usize {
        self.0.nodes().len()
    }

    /// The paths of the nodes, one for each permit.
    pub fn nodes(&self) -> &[String] {
        self.0.nodes()
    }
}

impl<M> fmt::Debug for Guard<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Guard").field(&self.0).finish()
    }
}
