//! A number of permits that a cluster shares.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lockkeeper_actors::error::{AcquireError, ContendersError, ResizeError};
use lockkeeper_actors::machine::protocol::Wait;
use lockkeeper_actors::machine::znode::Mode;
use lockkeeper_actors::messages::{LeaseHolder, LockEvent, LockMessage, Permits, Place, Ticket};
use tokio::sync::oneshot;

use crate::guard::Permit;
use crate::handle::{Handle, Shared};
use crate::options::{InvalidLock, LockOptions};
use crate::pending::{AcquireTimeoutError, Hear, Pending, Target, TryAcquireError, sealed};

/// A handle to a semaphore, on the wire of kazoo's `Semaphore`. Cheap to clone.
///
/// The number of permits is stored in ZooKeeper by whoever comes first. A handle that was made with another number
/// gets [`AcquireError::LimitMismatch`](crate::AcquireError); one that has had permits, or has
/// set the number itself, follows every [`resize`](Semaphore::resize), and so does a request that already waits. Every
/// acquire is a permit of its own, also by the same task.
///
/// Requests of one process are served in their order, each whole: a request for many permits is not overtaken by
/// requests for few. Processes take turns: in its turn a process serves the requests that it had when the turn began.
/// So the order is fair from process to process, not from request to request across the cluster.
///
/// A semaphore's path is not to be locked, and has no children but leases: each counts as a permit that is taken.
#[derive(Clone)]
pub struct Semaphore {
    handle: Handle,
    limit: Option<u32>,
    agreed: Arc<AtomicBool>,
}

impl Semaphore {
    pub(crate) fn new(
        shared: &Arc<Shared>,
        path: &str,
        limit: Option<u32>,
        options: LockOptions,
    ) -> Result<Semaphore, InvalidLock> {
        let options = options.checked_for_semaphore()?;
        if limit == Some(0) {
            return Err(InvalidLock::NoPermits);
        }
        let handle = Handle::open(shared, Place::semaphore(path), Mode::Lock, options)?;
        Ok(Semaphore { handle, limit, agreed: Arc::default() })
    }

    /// Waits for a permit.
    ///
    /// A session that is lost meanwhile does not end the waiting.
    ///
    /// # Errors
    ///
    /// [`AcquireError`](crate::AcquireError), when no permit can be had at all.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels the request, and leaves no lease; nothing is sent before the first poll.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let zookeeper = lockkeeper_embedded::Embedded::start().await?;
    /// # let keeper = lockkeeper::Keeper::connect(&zookeeper.address()).await?;
    /// let gpus = keeper.semaphore("/pools/gpu", 2)?;
    /// let (first, second) = (gpus.acquire().await?, gpus.acquire().await?);
    /// assert!(gpus.try_acquire().await.is_err(), "both are taken");
    /// drop(first);
    /// let third = gpus.acquire().await?;
    /// # drop((second, third));
    /// # Ok(())
    /// # }
    /// ```
    pub fn acquire(&self) -> Pending<AcquireError, Claim> {
        self.acquire_many(1)
    }

    /// Waits for `count` permits, and takes all of them or none. Otherwise as [`acquire`](Semaphore::acquire).
    ///
    /// # Errors
    ///
    /// [`TooManyPermits`](crate::AcquireError::TooManyPermits) when there are not as many, also when that is so
    /// because the semaphore was resized meanwhile.
    pub fn acquire_many(&self, count: u32) -> Pending<AcquireError, Claim> {
        Pending::new(self.claim(count), Wait::Forever)
    }

    /// Takes a permit if one is free that nobody waits for. Writes nothing if none is.
    ///
    /// A free permit is taken in the process' turn: while others are at theirs, that takes a moment, and a second at
    /// most; then the answer is `Contended`.
    ///
    /// # Errors
    ///
    /// [`TryAcquireError::Contended`](crate::TryAcquireError) when no permit is free, `Suspended` at once while the
    /// connection is in doubt.
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Semaphore::acquire).
    pub fn try_acquire(&self) -> Pending<TryAcquireError, Claim> {
        self.try_acquire_many(1)
    }

    /// The same for `count` permits, all or none.
    pub fn try_acquire_many(&self, count: u32) -> Pending<TryAcquireError, Claim> {
        Pending::new(self.claim(count), Wait::Try)
    }

    /// Waits for a permit, until `timeout` after this call. One deadline covers it all, a lost session included.
    /// Zero is one try; a time too long to be counted is none.
    ///
    /// # Errors
    ///
    /// [`AcquireTimeoutError::TimedOut`](crate::AcquireTimeoutError) when the time is over.
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Semaphore::acquire).
    pub fn acquire_timeout(&self, timeout: Duration) -> Pending<AcquireTimeoutError, Claim> {
        self.acquire_many_timeout(1, timeout)
    }

    /// The same for `count` permits, all or none.
    pub fn acquire_many_timeout(&self, count: u32, timeout: Duration) -> Pending<AcquireTimeoutError, Claim> {
        Pending::new(self.claim(count), self.handle.wait(timeout))
    }

    /// Changes how many permits there are, for all handles that have had permits. Waiting requests of all processes
    /// go on when it is raised; when it is lowered, nobody loses a permit, and no new one is given out before enough
    /// have come back. Running clients of kazoo keep the number that they have.
    ///
    /// # Errors
    ///
    /// [`ResizeError`]; after `Failed`, `Disconnected` and `Closed` it may have been changed all the same.
    ///
    /// # Cancel safety
    ///
    /// It may have been changed when this future is dropped.
    pub async fn resize(&self, permits: u32) -> Result<(), ResizeError> {
        let (reply, answer) = oneshot::channel();
        self.handle.send(LockMessage::Resize(permits, self.handle.options().clone(), reply.into()));
        match answer.await.unwrap_or(Err(ResizeError::Disconnected)) {
            Err(ResizeError::Disconnected) if self.handle.is_closed() => Err(ResizeError::Closed),
            Err(error) => Err(error),
            Ok(()) => {
                self.agreed.store(true, Ordering::Relaxed);
                Ok(())
            }
        }
    }

    /// Who holds permits, in no order. Makes nothing: a path that is not there has no holders.
    ///
    /// # Cancel safety
    ///
    /// Nothing is changed.
    pub async fn lease_holders(&self) -> Result<Vec<LeaseHolder>, ContendersError> {
        self.handle.ask(LockMessage::LeaseHolders).await
    }

    /// Cancels a request that was made [by message](Pending::forward). Does nothing to one that holds, or is done.
    pub fn cancel(&self, ticket: Ticket) {
        self.handle.cancel(ticket);
    }

    /// The path of the root, without the connection's chroot.
    pub fn path(&self) -> &str {
        self.handle.path()
    }

    fn claim(&self, count: u32) -> Claim {
        Claim { semaphore: self.clone(), count }
    }
}

/// So many permits of a semaphore, all or none.
#[derive(Clone)]
pub struct Claim {
    semaphore: Semaphore,
    count: u32,
}

impl sealed::Target for Claim {}

impl Target for Claim {
    type Guard = Permit;

    fn request(&self, ticket: Ticket, wait: Wait, mut hear: Hear<Permit>) {
        let Semaphore { handle, limit, agreed } = &self.semaphore;
        let permits = Permits { count: self.count, limit: *limit, agreed: agreed.load(Ordering::Relaxed) };
        let agreed = agreed.clone();
        let hear = Box::new(move |event| {
            if let LockEvent::Acquired { .. } = &event {
                agreed.store(true, Ordering::Relaxed);
            }
            hear(event);
        });
        handle.send(LockMessage::Acquire(handle.request(ticket, wait, hear).permits(permits)));
    }

    fn withdraw(&self, ticket: Ticket) {
        self.semaphore.cancel(ticket);
    }

    fn name(&self) -> String {
        self.semaphore.path().to_owned()
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Semaphore").field("path", &self.path()).finish_non_exhaustive()
    }
}
