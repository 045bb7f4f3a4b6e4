//! Semaphores.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use lockkeeper_actors::api::contender::{LeaseHolder, SemaphoreState};
use lockkeeper_actors::api::error::{AcquireError, QueryError, ReleaseError, ResizeError};
use lockkeeper_actors::api::event::LockEvent;
use lockkeeper_actors::api::messages::{RegistryMessage, SemaphoreMessage as ActorMessage};
use lockkeeper_actors::api::request::{Permits, Ticket, Wait};
use lockkeeper_actors::api::resource::Resource;
use lockkeeper_actors::machine::exclusion::Mode;
use ractor::ActorRef;

use crate::address::{Address, Recipient};
use crate::guard::Permit;
use crate::handle::{Handle, Shared};
use crate::options::{InvalidHandle, LockOptions};
use crate::pending::{AcquireTimeoutError, Pending, Target, TryAcquireError, sealed};
use crate::wait;

/// A handle to a semaphore, compatible with kazoo's `Semaphore`. Cheap to clone.
///
/// The first client stores the number of permits in ZooKeeper. Requests of a handle that was created with another
/// number fail with [`LimitMismatch`](crate::error::PermitsError::LimitMismatch). A handle that has acquired permits or
/// called [`resize`](Semaphore::resize) accepts later changes of the number, and so does a request that already waits.
/// Each acquire takes further permits, also in the same task.
///
/// Within a process, requests are served in order: a request for many permits is not overtaken by one for few. Between
/// processes, the semaphore goes in turns: in its turn, a process serves the requests that it had when the turn began.
/// So the order is fair among processes, not among all requests of the cluster.
///
/// Do not lock the path of a semaphore, and do not create other nodes below it: each child counts as a taken permit.
#[derive(Clone)]
pub struct Semaphore {
    handle: Handle,
    limit: Option<u32>,
    agreed: Arc<AtomicBool>,
    address: Arc<Address>,
}

/// What [`Semaphore::acquire`] and [`Semaphore::acquire_many`] return.
pub type AcquirePermit = Pending<AcquireError, Claim>;
/// What [`Semaphore::try_acquire`] and [`Semaphore::try_acquire_many`] return.
pub type TryAcquirePermit = Pending<TryAcquireError, Claim>;
/// What the methods of [`Semaphore`] that wait until a deadline return.
pub type AcquirePermitTimeout = Pending<AcquireTimeoutError, Claim>;

impl Semaphore {
    pub(crate) fn new(
        shared: &Arc<Shared>,
        path: &str,
        limit: Option<u32>,
        options: LockOptions,
    ) -> Result<Semaphore, InvalidHandle> {
        let options = options.checked_for_semaphore(&shared.defaults)?;
        if limit == Some(0) {
            return Err(InvalidHandle::NoPermits);
        }
        let handle = Handle::open(shared, Resource::semaphore(path), Mode::Lock, options)?;
        Ok(Semaphore { handle, limit, agreed: Arc::default(), address: Arc::default() })
    }

    /// Waits for a permit.
    ///
    /// If the session is lost meanwhile, the request continues to wait in the next session.
    ///
    /// # Errors
    ///
    /// [`AcquireError`] if the request fails, for example because the number of permits differs from the stored one.
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
    /// let gpus = keeper.semaphore("/pools/gpu", 2)?;
    /// let (first, second) = (gpus.acquire().await?, gpus.acquire().await?);
    /// assert!(gpus.try_acquire().await.is_err(), "both are taken");
    /// drop(first);
    /// let third = gpus.acquire().await?;
    /// # drop((second, third));
    /// # Ok(())
    /// # }
    /// ```
    pub fn acquire(&self) -> AcquirePermit {
        self.acquire_many(1)
    }

    /// Waits for `count` permits, and takes all or none. Otherwise as [`acquire`](Semaphore::acquire).
    ///
    /// # Errors
    ///
    /// [`TooMany`](crate::error::PermitsError::TooMany) if the semaphore has fewer permits, initially or after a resize.
    /// [`PermitsError::None`](crate::error::PermitsError::None) if `count` is zero.
    pub fn acquire_many(&self, count: u32) -> AcquirePermit {
        Pending::new(self.claim(count), Wait::Forever)
    }

    /// Takes a permit if one is free and no request waits for it. If it finds none free, it writes nothing. If others take
    /// them before its turn, it deletes the node that it has created.
    ///
    /// Taking a free permit needs this process' turn. If other processes have theirs, this waits for at most one
    /// second, and then fails with `Contended`.
    ///
    /// # Errors
    ///
    /// [`TryAcquireError::Contended`] if no permit is free. [`TryAcquireError::Suspended`] as in
    /// [`Lock::try_acquire`](crate::Lock::try_acquire). [`TryAcquireError::Failed`] if the request fails, as
    /// [`acquire`](Semaphore::acquire).
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Semaphore::acquire).
    pub fn try_acquire(&self) -> TryAcquirePermit {
        self.try_acquire_many(1)
    }

    /// As [`try_acquire`](Semaphore::try_acquire), for `count` permits, all or none.
    pub fn try_acquire_many(&self, count: u32) -> TryAcquirePermit {
        Pending::new(self.claim(count), Wait::Try)
    }

    /// Waits for a permit until `timeout` after this call, also across lost sessions.
    ///
    /// With a timeout of zero it tries once, as [`try_acquire`](Semaphore::try_acquire), which may wait for its turn for up
    /// to one second. A timeout of more than 146 years never expires.
    ///
    /// # Errors
    ///
    /// [`AcquireTimeoutError::TimedOut`] when the time is over, also if ZooKeeper was out of reach.
    /// [`AcquireTimeoutError::Failed`] if the request fails, as [`acquire`](Semaphore::acquire).
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Semaphore::acquire).
    pub fn acquire_timeout(&self, timeout: Duration) -> AcquirePermitTimeout {
        self.acquire_many_timeout(1, timeout)
    }

    /// As [`acquire_timeout`](Semaphore::acquire_timeout), for `count` permits, all or none.
    pub fn acquire_many_timeout(&self, count: u32, timeout: Duration) -> AcquirePermitTimeout {
        Pending::new(self.claim(count), self.handle.shared().timeout(timeout))
    }

    /// Waits for `count` permits, all or none, until `deadline`: as [`Lock::acquire_until`](crate::Lock::acquire_until).
    ///
    /// # Errors
    ///
    /// As [`acquire_timeout`](Semaphore::acquire_timeout).
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Semaphore::acquire).
    pub fn acquire_many_until(&self, count: u32, deadline: impl Into<Instant>) -> AcquirePermitTimeout {
        Pending::new(self.claim(count), self.wait(wait::Wait::Until(deadline.into())))
    }

    /// As [`acquire_many_until`](Semaphore::acquire_many_until), for one permit.
    pub fn acquire_until(&self, deadline: impl Into<Instant>) -> AcquirePermitTimeout {
        self.acquire_many_until(1, deadline)
    }

    /// Changes the number of permits. Handles of all processes that have acquired permits accept it.
    ///
    /// If the number is raised, waiting requests of all processes can proceed. If it is lowered, no holder loses a
    /// permit, and new ones are granted only after enough have been released. Running kazoo clients keep the old
    /// number.
    ///
    /// # Errors
    ///
    /// [`ResizeError`], which also tells when the number may have been changed nevertheless. So this handle follows the
    /// stored number after an error, too. Zero is refused before anything is sent.
    ///
    /// # Cancel safety
    ///
    /// The number may have been changed when this future is dropped.
    pub async fn resize(&self, permits: u32) -> Result<(), ResizeError> {
        self.ask_resize(permits).await
    }

    /// The number of permits that is stored in ZooKeeper. `None` while none is stored, and if another client has stored
    /// something else than a number.
    ///
    /// # Errors
    ///
    /// [`QueryError`], for example [`Disconnected`](QueryError::Disconnected) while there is no session.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads.
    pub async fn limit(&self) -> Result<Option<u32>, QueryError> {
        self.ask_limit().await
    }

    /// The number of permits that are free at the moment, at least zero. While no number is stored, this handle's number
    /// counts, if it has one. A free permit may be kept for a request that waits for several.
    ///
    /// Errors and cancel safety are as in [`limit`](Semaphore::limit).
    pub async fn available(&self) -> Result<u32, QueryError> {
        self.ask_available().await
    }

    /// Lists the holders of permits, in no particular order. A path that does not exist has none.
    ///
    /// # Errors
    ///
    /// [`QueryError`], for example [`Disconnected`](QueryError::Disconnected) while there is no session.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads.
    pub async fn lease_holders(&self) -> Result<Vec<LeaseHolder>, QueryError> {
        self.ask_holders().await
    }

    /// Cancels a request that was made [by message](Pending::forward). Does nothing if it has been granted or has
    /// ended.
    pub fn cancel(&self, ticket: Ticket) {
        self.send(ActorMessage::Cancel(ticket));
    }

    /// The path of the semaphore, without the connection's chroot.
    pub fn path(&self) -> &str {
        self.handle.path()
    }

    /// The actor of this handle and its clones, which is started at the first call.
    pub(crate) fn start_actor(&self) -> ActorRef<<Self as Recipient>::Message>
    where
        Self: Recipient,
    {
        self.address.actor(|| Semaphore { address: Arc::default(), ..self.clone() })
    }

    pub(crate) fn wait(&self, wait: wait::Wait) -> Wait {
        self.handle.shared().wait(wait)
    }

    pub(crate) fn ask_holders(&self) -> BoxFuture<'static, Result<Vec<LeaseHolder>, QueryError>> {
        self.handle.ask(|reply| self.message(ActorMessage::LeaseHolders(reply)))
    }

    pub(crate) fn ask_limit(&self) -> BoxFuture<'static, Result<Option<u32>, QueryError>> {
        self.ask_state().map(|state| state.map(|state| state.limit)).boxed()
    }

    pub(crate) fn ask_available(&self) -> BoxFuture<'static, Result<u32, QueryError>> {
        let limit = self.limit;
        let free =
            move |state: SemaphoreState| state.limit.or(limit).unwrap_or(0).saturating_sub(state.taken);
        self.ask_state().map(move |state| state.map(free)).boxed()
    }

    pub(crate) fn ask_release(&self, ticket: Ticket) -> BoxFuture<'static, Result<(), ReleaseError>> {
        let release = |reply| self.message(ActorMessage::Release(ticket, Some(reply)));
        self.handle.shared().release(release)
    }

    pub(crate) fn ask_resize(&self, permits: u32) -> BoxFuture<'static, Result<(), ResizeError>> {
        if permits == 0 {
            return ready(Err(ResizeError::NoPermits)).boxed();
        }
        // Even if it fails: without an answer, it may have been carried out.
        self.agreed.store(true, Ordering::Relaxed);
        let options = self.handle.options().clone();
        self.handle.ask(|reply| self.message(ActorMessage::Resize(permits, options, reply)))
    }

    fn ask_state(&self) -> BoxFuture<'static, Result<SemaphoreState, QueryError>> {
        self.handle.ask(|reply| self.message(ActorMessage::State(reply)))
    }

    fn message(&self, message: ActorMessage) -> RegistryMessage {
        RegistryMessage::Semaphore(self.handle.path().clone(), message)
    }

    fn send(&self, message: ActorMessage) {
        self.handle.shared().send(self.message(message));
    }

    pub(crate) fn claim(&self, count: u32) -> Claim {
        Claim { semaphore: self.clone(), count }
    }
}

/// A number of permits of a semaphore, acquired all or none.
#[derive(Clone, Debug)]
pub struct Claim {
    semaphore: Semaphore,
    count: u32,
}

impl sealed::Target for Claim {}

impl Target for Claim {
    type Guard = Permit;

    fn request(
        &self,
        ticket: Ticket,
        wait: Wait,
        mut on_event: impl FnMut(LockEvent<Permit>) + Send + 'static,
    ) {
        let Semaphore { handle, limit, agreed, address: _ } = &self.semaphore;
        let permits = Permits { count: self.count, limit: *limit, agreed: agreed.load(Ordering::Relaxed) };
        let agreed = agreed.clone();
        let on_event = move |event| {
            if let LockEvent::Acquired { .. } = &event {
                agreed.store(true, Ordering::Relaxed);
            }
            on_event(event);
        };
        self.semaphore.send(ActorMessage::Acquire(handle.request(ticket, wait, on_event), permits));
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
