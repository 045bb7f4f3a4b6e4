//! What a holder has in hand.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::time::Instant;

use lockkeeper_actors::error::{Lost, ReleaseError};
use lockkeeper_actors::lease::{FencingToken, Lease, LeaseState, Term};
use lockkeeper_actors::machine::znode::Mode;
use lockkeeper_actors::messages::Ticket;

/// A held lock. Dropping it releases the lock, in the background.
///
/// It goes where its owner goes: owned, `Send`, `'static`, and independent of the handles. Known as [`LockGuard`],
/// [`ReadGuard`] and [`WriteGuard`].
#[must_use = "dropping the guard releases the lock"]
pub struct Guard<M>(pub(crate) Lease, PhantomData<fn() -> M>);

/// Holds an exclusive lock.
pub type LockGuard = Guard<Exclusive>;
/// Holds a path together with other readers.
pub type ReadGuard = Guard<Read>;
/// Holds a path alone.
pub type WriteGuard = Guard<Write>;
/// Holds permits of a semaphore, as many as were acquired together.
///
/// Its [token](Guard::token) is that of the turn in which its process took permits: it is larger than the tokens of
/// all turns before, but permits of one turn share it, and holders of older and younger permits work at the same time.
/// A resource cannot tell a live permit from a lost one by a maximum; it can by [its nodes](Guard::nodes).
pub type Permit = Guard<Pooled>;

/// Marks what belongs to an exclusive lock.
#[derive(Debug)]
pub enum Exclusive {}
/// Marks what belongs to a reader.
#[derive(Debug)]
pub enum Read {}
/// Marks what belongs to a writer.
#[derive(Debug)]
pub enum Write {}
/// Marks what belongs to a semaphore.
#[derive(Debug)]
pub enum Pooled {}

/// How a kind of lock wants its path. Not to be implemented elsewhere.
pub trait Access: sealed::Sealed + 'static {
    /// The row of the exclusion table.
    const MODE: Mode;
}

impl Access for Exclusive {
    const MODE: Mode = Mode::Lock;
}

impl Access for Read {
    const MODE: Mode = Mode::Read;
}

impl Access for Write {
    const MODE: Mode = Mode::Write;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Exclusive {}
    impl Sealed for super::Read {}
    impl Sealed for super::Write {}
}

impl<M> Guard<M> {
    pub(crate) fn new(lease: Lease) -> Guard<M> {
        Guard(lease, PhantomData)
    }

    /// The path of the lock, or of the semaphore's root, without the connection's chroot.
    pub fn path(&self) -> &str {
        self.0.path()
    }

    /// The path of the node that stands for this guard. A ZooKeeper `multi` of a check of this node (any version)
    /// and a write is a write fenced by the server itself.
    pub fn node(&self) -> &str {
        self.0.node()
    }

    /// The fencing token: larger than that of every earlier holder that excludes this one. Holders that do not exclude
    /// each other, such as two readers, have tokens in no order.
    pub fn token(&self) -> FencingToken {
        self.0.token()
    }

    /// The request that this guard answers.
    pub fn ticket(&self) -> Ticket {
        self.0.ticket()
    }

    /// What may be believed at this moment. The clock is read at every call, so a task that was paused for long
    /// sees [`LeaseState::Lost`] as soon as it runs again.
    pub fn state(&self) -> LeaseState {
        self.0.state()
    }

    /// Until when nobody that this guard excludes can hold the lock, as far as is proven at this moment; heartbeats
    /// move it on. In the past once the lease is lost. `None` for a lock that outlives sessions.
    pub fn valid_until(&self) -> Option<Instant> {
        self.0.valid_until()
    }

    /// A view of this guard, for those who work under it: it knows the token and the state, and holds nothing.
    pub fn term(&self) -> Term {
        self.0.term()
    }

    /// Ends when the lease is lost. Cancel safe.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime with its time enabled; so does [`protect`](Guard::protect).
    pub async fn lost(&self) {
        self.0.lost().await;
    }

    /// Runs `work` for as long as the lease lasts: its result, or `Err(Lost)` when the lease ended first, and then
    /// `work` is dropped where it stood. Work that never awaits cannot be cut short: then the token protects.
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
    pub async fn protect<F: Future>(&self, work: F) -> Result<F::Output, Lost> {
        self.0.protect(work).await
    }

    /// Releases the lock, and waits until the server has confirmed it; dropping the guard releases without waiting.
    /// A node that is gone already counts as released. The release goes on when this future is dropped.
    ///
    /// # Errors
    ///
    /// [`ReleaseError::Lost`] when the lease ended first.
    pub async fn release(self) -> Result<(), ReleaseError> {
        self.0.release().await
    }
}

impl Guard<Pooled> {
    /// How many permits it holds.
    pub fn count(&self) -> usize {
        self.0.nodes().len()
    }

    /// The paths of the leases, one for each permit.
    pub fn nodes(&self) -> &[String] {
        self.0.nodes()
    }
}

impl<M> fmt::Debug for Guard<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Guard").field(&self.0).finish()
    }
}
