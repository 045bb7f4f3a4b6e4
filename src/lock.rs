//! Handles to locks.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use lockkeeper_actors::error::{AcquireError, ContendersError};
use lockkeeper_actors::machine::protocol::Wait;
use lockkeeper_actors::machine::znode::InvalidName;
use lockkeeper_actors::messages::{Contender, LockMessage, Place, Ticket};

use crate::guard::{Access, Exclusive, Guard};
use crate::handle::{Handle, Shared};
use crate::options::LockOptions;
use crate::pending::{AcquireTimeoutError, Hear, Pending, Target, TryAcquireError, sealed};

/// A handle to a lock, exclusive unless it says otherwise. Cheap to clone; all clones, and all handles of the same
/// path, stand in one queue.
///
/// The queue is first come, first served across the whole cluster, and shared with kazoo's on the same path. A lock
/// is not re-entrant: whoever holds it and acquires again waits for itself.
pub struct Lock<M = Exclusive> {
    handle: Handle,
    mode: PhantomData<fn() -> M>,
}

/// What [`Lock::acquire`] returns.
pub type Acquire<M = Exclusive> = Pending<AcquireError, Lock<M>>;
/// What [`Lock::try_acquire`] returns.
pub type TryAcquire<M = Exclusive> = Pending<TryAcquireError, Lock<M>>;
/// What [`Lock::acquire_timeout`] returns.
pub type AcquireTimeout<M = Exclusive> = Pending<AcquireTimeoutError, Lock<M>>;

impl<M: Access> Lock<M> {
    /// The options have been checked.
    pub(crate) fn new(
        shared: &Arc<Shared>,
        path: &str,
        options: LockOptions,
    ) -> Result<Lock<M>, InvalidName> {
        let handle = Handle::open(shared, Place::lock(path), M::MODE, options)?;
        Ok(Lock { handle, mode: PhantomData })
    }

    /// Waits for the lock.
    ///
    /// A session that is lost meanwhile does not end the waiting: the request queues again, at the tail.
    ///
    /// # Errors
    ///
    /// [`AcquireError`](crate::AcquireError), when the lock cannot be had at all.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels the request, and leaves no node; nothing is sent before the first poll.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let zookeeper = lockkeeper_embedded::Embedded::start().await?;
    /// # let keeper = lockkeeper::Keeper::connect(&zookeeper.address()).await?;
    /// let lock = keeper.lock("/locks/ledger")?;
    /// let guard = lock.acquire().await?;
    /// assert!(lock.try_acquire().await.is_err(), "somebody has it");
    /// drop(guard);
    /// let again = lock.acquire().await?;
    /// # drop(again);
    /// # Ok(())
    /// # }
    /// ```
    pub fn acquire(&self) -> Acquire<M> {
        Pending::new(self.clone(), Wait::Forever)
    }

    /// Takes the lock if nobody is ahead, without waiting. Writes nothing if somebody is.
    ///
    /// # Errors
    ///
    /// [`TryAcquireError::Contended`](crate::TryAcquireError) when somebody is ahead, `Suspended` at once while
    /// the connection is in doubt.
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Lock::acquire).
    pub fn try_acquire(&self) -> TryAcquire<M> {
        Pending::new(self.clone(), Wait::Try)
    }

    /// Waits for the lock, until `timeout` after this call. One deadline covers it all, a lost session included.
    /// Zero is one try; a time too long to be counted is none.
    ///
    /// # Errors
    ///
    /// [`AcquireTimeoutError::TimedOut`](crate::AcquireTimeoutError) when the time is over; the deletion of the
    /// node is sent by then, and confirmed in the background.
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Lock::acquire).
    pub fn acquire_timeout(&self, timeout: Duration) -> AcquireTimeout<M> {
        Pending::new(self.clone(), self.handle.wait(timeout))
    }
}

impl<M> Lock<M> {
    /// The lock's path, without the connection's chroot.
    pub fn path(&self) -> &str {
        self.handle.path()
    }

    /// Cancels a request that was made [by message](Pending::forward). Does nothing to one that holds, or is done.
    pub fn cancel(&self, ticket: Ticket) {
        self.handle.cancel(ticket);
    }

    /// Who holds and waits, in order. Makes nothing: a path that is not there has no contenders.
    ///
    /// # Cancel safety
    ///
    /// Nothing is changed.
    pub async fn contenders(&self) -> Result<Vec<Contender>, ContendersError> {
        let patterns = self.handle.options().patterns.clone();
        self.handle.ask(|reply| LockMessage::Contenders(patterns, reply)).await
    }

    /// Deletes the node of a contender that [`contenders`](Lock::contenders) listed and that no session takes away:
    /// one made with [`LockOptions::ephemeral`]`(false)` whose owner has crashed. Make sure that it has. One that
    /// is gone already counts as removed.
    ///
    /// # Errors
    ///
    /// [`ContendersError::Ephemeral`] for a node that goes with its session.
    pub async fn remove_contender(&self, contender: &Contender) -> Result<(), ContendersError> {
        self.handle.ask(|reply| LockMessage::RemoveContender(contender.clone(), reply)).await
    }

    /// Sends a message to the lock's actor. What it answers with says when the keeper is closed.
    pub fn send(&self, message: LockMessage) {
        self.handle.send(message);
    }
}

impl<M: 'static> sealed::Target for Lock<M> {}

impl<M: 'static> Target for Lock<M> {
    type Guard = Guard<M>;

    fn request(&self, ticket: Ticket, wait: Wait, hear: Hear<Guard<M>>) {
        let request = self.handle.request(ticket, wait, hear);
        self.handle.send(LockMessage::Acquire(request));
    }

    fn withdraw(&self, ticket: Ticket) {
        self.cancel(ticket);
    }

    fn name(&self) -> String {
        self.path().to_owned()
    }
}

impl<M> fmt::Debug for Lock<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock").field("path", &self.path()).finish_non_exhaustive()
    }
}

impl<M> Clone for Lock<M> {
    fn clone(&self) -> Lock<M> {
        Lock { handle: self.handle.clone(), mode: PhantomData }
    }
}
