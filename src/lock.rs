//! Handles to locks on one path.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use lockkeeper_actors::api::contender::Contender;
use lockkeeper_actors::api::error::{AcquireError, QueryError, ReleaseError, RemoveContenderError};
use lockkeeper_actors::api::event::LockEvent;
use lockkeeper_actors::api::messages::LockMessage as ActorMessage;
use lockkeeper_actors::api::request::{Ticket, Wait};
use lockkeeper_actors::api::resource::Resource;
use lockkeeper_actors::machine::path_rules::InvalidPath;
use ractor::ActorRef;

use crate::address::{Address, Recipient};
use crate::guard::Guard;
use crate::handle::{Handle, Shared};
use crate::marker::{Access, Exclusive};
use crate::options::LockOptions;
use crate::pending::{AcquireTimeoutError, Pending, Target, TryAcquireError, sealed};
use crate::wait;

/// A handle to a lock, exclusive by default. Cheap to clone. All clones, and all handles of the same path, share one
/// queue.
///
/// The queue is first come, first served across the cluster, and is shared with kazoo clients of the same path. A lock
/// is not re-entrant: a holder that acquires it again waits for itself.
pub struct Lock<M = Exclusive> {
    handle: Handle,
    mode: PhantomData<fn() -> M>,
    address: Arc<Address>,
}

/// What [`Lock::acquire`] returns.
pub type Acquire<M = Exclusive> = Pending<AcquireError, Lock<M>>;
/// What [`Lock::try_acquire`] returns.
pub type TryAcquire<M = Exclusive> = Pending<TryAcquireError, Lock<M>>;
/// What [`Lock::acquire_timeout`] and [`Lock::acquire_until`] return.
pub type AcquireTimeout<M = Exclusive> = Pending<AcquireTimeoutError, Lock<M>>;

impl<M: Access> Lock<M> {
    /// Expects options that have been [checked](LockOptions::checked).
    pub(crate) fn new(
        shared: &Arc<Shared>,
        path: &str,
        options: LockOptions,
    ) -> Result<Lock<M>, InvalidPath> {
        let handle = Handle::open(shared, Resource::lock(path), M::MODE, options)?;
        Ok(Lock { handle, mode: PhantomData, address: Arc::default() })
    }

    /// Waits for the lock.
    ///
    /// If the session is lost meanwhile, the request queues again at the tail and continues to wait.
    ///
    /// # Errors
    ///
    /// [`AcquireError`] if the request fails, for example because the keeper is closed or because an access list does
    /// not permit it.
    ///
    /// # Cancel safety
    ///
    /// Nothing is sent before the first poll. Dropping the future after that cancels the request and leaves no node.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let zookeeper = lockkeeper_embedded::Embedded::start().await?;
    /// # let keeper = lockkeeper::Keeper::connect(&zookeeper.address()).await?;
    /// let lock = keeper.lock("/locks/ledger")?;
    /// let guard = lock.acquire().await?;
    /// assert!(lock.try_acquire().await.is_err(), "it is held");
    /// drop(guard);
    /// let again = lock.acquire().await?;
    /// # drop(again);
    /// # Ok(())
    /// # }
    /// ```
    pub fn acquire(&self) -> Acquire<M> {
        Pending::new(self.clone(), Wait::Forever)
    }

    /// Acquires the lock if no other contender is ahead. Otherwise fails without waiting.
    ///
    /// If it finds the lock taken, it writes nothing. If it finds the lock free and another contender comes first, it
    /// deletes the node that it has created.
    ///
    /// # Errors
    ///
    /// [`TryAcquireError::Contended`] if another contender is ahead. [`TryAcquireError::Suspended`], without asking the
    /// server, while the connection is suspended. If the servers do not answer, the try ends with it when the keeper
    /// notices that, at most seven tenths of the session timeout later. [`TryAcquireError::Failed`] if the request
    /// fails, as [`acquire`](Lock::acquire).
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Lock::acquire).
    pub fn try_acquire(&self) -> TryAcquire<M> {
        Pending::new(self.clone(), Wait::Try)
    }

    /// Waits for the lock until `timeout` after this call, also across lost sessions.
    ///
    /// With a timeout of zero it tries once. A timeout of more than 146 years never expires.
    ///
    /// # Errors
    ///
    /// [`AcquireTimeoutError::TimedOut`] when the time is over. By then the request to delete the node has been sent;
    /// it is confirmed in the background. The error does not say whether another contender held the lock or ZooKeeper
    /// was out of reach: see [`Keeper::state`](crate::Keeper::state) and [`Keeper::health`](crate::Keeper::health).
    ///
    /// [`AcquireTimeoutError::Failed`] if the request fails, as [`acquire`](Lock::acquire).
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Lock::acquire).
    pub fn acquire_timeout(&self, timeout: Duration) -> AcquireTimeout<M> {
        Pending::new(self.clone(), self.handle.shared().timeout(timeout))
    }

    /// Waits for the lock until `deadline`, an [`Instant`] of the standard library or of Tokio. Otherwise as
    /// [`acquire_timeout`](Lock::acquire_timeout). A deadline in the past fails without asking the server.
    ///
    /// # Errors
    ///
    /// As [`acquire_timeout`](Lock::acquire_timeout).
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Lock::acquire).
    pub fn acquire_until(&self, deadline: impl Into<Instant>) -> AcquireTimeout<M> {
        Pending::new(self.clone(), self.wait(wait::Wait::Until(deadline.into())))
    }
}

impl<M> Lock<M> {
    /// The path of the lock, without the connection's chroot.
    pub fn path(&self) -> &str {
        self.handle.path()
    }

    /// Cancels a request that was made [by message](Pending::forward). Does nothing if it has been granted or has
    /// ended.
    pub fn cancel(&self, ticket: Ticket) {
        self.send(ActorMessage::Cancel(ticket));
    }

    /// Lists the contenders, holders and waiters, in the order of the queue. A path that does not exist has none.
    ///
    /// # Errors
    ///
    /// [`QueryError`], for example [`Disconnected`](QueryError::Disconnected) while there is no session.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads.
    pub async fn contenders(&self) -> Result<Vec<Contender>, QueryError> {
        self.ask_contenders().await
    }

    /// The contender at the front of the queue, which holds the lock, or is about to. `None` if the lock is free. Behind
    /// a reader at the front, [`contenders`](Lock::contenders) may show further readers that hold.
    ///
    /// Errors and cancel safety are as in [`contenders`](Lock::contenders).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let zookeeper = lockkeeper_embedded::Embedded::start().await?;
    /// # let keeper = lockkeeper::Keeper::options().identifier("billing-7").connect(&zookeeper.address()).await?;
    /// let lock = keeper.lock("/locks/ledger")?;
    /// let guard = lock.acquire().await?;
    /// let holder = lock.holder().await?.expect("it is held");
    /// assert_eq!((&*holder.identifier, holder.token), ("billing-7", guard.token()));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn holder(&self) -> Result<Option<Contender>, QueryError> {
        self.ask_contenders().await.map(first)
    }

    /// Deletes the node of a contender that was made with [`LockOptions::ephemeral`]`(false)` and whose owner has
    /// crashed. [`contenders`](Lock::contenders) lists it.
    ///
    /// Make sure that the owner has crashed: otherwise two may hold the lock. A node that no longer exists counts as
    /// removed.
    ///
    /// # Errors
    ///
    /// [`RemoveContenderError::Ephemeral`] if the node belongs to a session, which deletes it when it ends. Otherwise as
    /// [`contenders`](Lock::contenders).
    ///
    /// # Cancel safety
    ///
    /// The node may have been deleted when this future is dropped.
    pub async fn remove_contender(&self, contender: &Contender) -> Result<(), RemoveContenderError> {
        self.ask_remove(contender.clone()).await
    }

    /// Deletes the nodes of this path that [linger](LockOptions::linger) although nobody wants them, of all handles of
    /// this keeper. Returns once they are gone. A node that is held stays, and may linger afterwards.
    ///
    /// # Errors
    ///
    /// [`QueryError::Closed`] if the keeper is closed. [`QueryError::Disconnected`] if the session or the path's actor ends
    /// before the server has confirmed that the nodes are gone. They are deleted then, too, but perhaps later.
    ///
    /// # Cancel safety
    ///
    /// The nodes are deleted even if this future is dropped.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let zookeeper = lockkeeper_embedded::Embedded::start().await?;
    /// # let keeper = lockkeeper::Keeper::connect(&zookeeper.address()).await?;
    /// # let options = lockkeeper::LockOptions::new().linger(std::time::Duration::from_secs(10));
    /// let lock = keeper.lock_with("/locks/ledger", options)?;
    /// drop(lock.acquire().await?);
    /// lock.let_go().await?;
    /// assert_eq!(lock.contenders().await?, []);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn let_go(&self) -> Result<(), QueryError> {
        self.ask_let_go().await
    }

    /// The actor of this handle and its clones, which is started at the first call.
    pub(crate) fn start_actor(&self) -> ActorRef<<Self as Recipient>::Message>
    where
        Self: Recipient,
    {
        self.address.actor(|| Lock { address: Arc::default(), ..self.clone() })
    }

    pub(crate) fn wait(&self, wait: wait::Wait) -> Wait {
        self.handle.shared().wait(wait)
    }

    pub(crate) fn ask_contenders(&self) -> BoxFuture<'static, Result<Vec<Contender>, QueryError>> {
        let patterns = self.handle.options().patterns.clone();
        self.handle.ask(|reply| self.handle.to_lock(ActorMessage::Contenders(patterns, reply)))
    }

    pub(crate) fn ask_remove(
        &self,
        contender: Contender,
    ) -> BoxFuture<'static, Result<(), RemoveContenderError>> {
        self.handle.ask(|reply| self.handle.to_lock(ActorMessage::RemoveContender(contender, reply)))
    }

    pub(crate) fn ask_let_go(&self) -> BoxFuture<'static, Result<(), QueryError>> {
        self.handle.ask(|reply| self.handle.to_lock(ActorMessage::LetGo(reply)))
    }

    pub(crate) fn ask_release(&self, ticket: Ticket) -> BoxFuture<'static, Result<(), ReleaseError>> {
        let release = |reply| self.handle.to_lock(ActorMessage::Release(ticket, Some(reply)));
        self.handle.shared().release(release)
    }

    fn send(&self, message: ActorMessage) {
        self.handle.shared().send(self.handle.to_lock(message));
    }
}

/// The front of the queue.
pub(crate) fn first(contenders: Vec<Contender>) -> Option<Contender> {
    contenders.into_iter().next()
}

impl<M: 'static> sealed::Target for Lock<M> {}

impl<M: 'static> Target for Lock<M> {
    type Guard = Guard<M>;

    fn request(
        &self,
        ticket: Ticket,
        wait: Wait,
        on_event: impl FnMut(LockEvent<Guard<M>>) + Send + 'static,
    ) {
        let request = self.handle.request(ticket, wait, on_event);
        self.send(ActorMessage::Acquire(request));
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
        Lock { handle: self.handle.clone(), mode: PhantomData, address: self.address.clone() }
    }
}
