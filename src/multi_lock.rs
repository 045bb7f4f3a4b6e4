//! Locks on several paths, acquired all or none.

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use lockkeeper_actors::api::error::{AcquireError, LostError, ReleaseError};
use lockkeeper_actors::api::event::{EventSink, LockEvent};
use lockkeeper_actors::api::lease::{FencingToken, LeaseState};
use lockkeeper_actors::api::lease_view::LeaseView;
use lockkeeper_actors::api::messages::{MultiLockMessage as ActorMessage, RegistryMessage};
use lockkeeper_actors::api::multi_lease::MultiLease;
use lockkeeper_actors::api::request::{MultiLockPart, MultiLockRequest, Ticket, Wait};
use lockkeeper_actors::machine::exclusion::Mode;
use lockkeeper_actors::machine::path_rules::check_path;
use ractor::ActorRef;

use crate::address::{Address, Recipient};
use crate::handle::Shared;
use crate::options::{InvalidHandle, LockOptions, MAX_REQUEST};
use crate::pending::{AcquireTimeoutError, Pending, Target, TryAcquireError, sealed};
use crate::wait;

/// A handle to the locks on several paths, which are acquired all or none. Cheap to clone.
///
/// One transaction enters all queues, so any two multi-locks have the same order in every queue that they share.
/// Multi-locks therefore do not deadlock with each other, however their paths are ordered or overlap. Acquiring another
/// lock or multi-lock while holding one can still deadlock, as with any lock. No path is re-entrant.
///
/// While a multi-lock waits for one path, it keeps its places in the other queues, and may already hold some of their
/// locks. So it cannot starve, but other contenders of those paths wait for it. It is granted when it holds all locks.
/// If its node on one path is lost before that, it leaves all queues and enters them again at the tail.
///
/// Each path uses the same nodes and the same queue as a [`Lock`](crate::Lock) or a
/// [`ReadWriteLock`](crate::ReadWriteLock).
#[derive(Clone)]
pub struct MultiLock {
    shared: Arc<Shared>,
    parts: Arc<[MultiLockPart]>,
    address: Arc<Address>,
}

/// What [`MultiLock::acquire`] returns.
pub type AcquireAll = Pending<AcquireError, MultiLock>;
/// What [`MultiLock::try_acquire`] returns.
pub type TryAcquireAll = Pending<TryAcquireError, MultiLock>;
/// What [`MultiLock::acquire_timeout`] and [`MultiLock::acquire_until`] return.
pub type AcquireAllTimeout = Pending<AcquireTimeoutError, MultiLock>;

impl MultiLock {
    pub(crate) fn new<S: AsRef<str>>(
        shared: &Arc<Shared>,
        paths: impl IntoIterator<Item = (S, Mode)>,
        options: LockOptions,
    ) -> Result<MultiLock, InvalidHandle> {
        let options = options.checked_for_multi_lock(&shared.defaults)?;
        let (mut parts, mut seen, mut bytes) = (Vec::new(), BTreeSet::new(), 0);
        for (path, mode) in paths {
            let path: Arc<str> = path.as_ref().into();
            check_path(&path)?;
            if !seen.insert(path.clone()) {
                return Err(InvalidHandle::DuplicatePath { path: path.to_string() });
            }
            let options = Arc::new(shared.contender(mode, options.clone()));
            bytes += options.bytes(&path);
            parts.push(MultiLockPart { path, options });
        }
        match parts.is_empty() {
            true => Err(InvalidHandle::NoPaths),
            false if bytes > MAX_REQUEST => Err(InvalidHandle::TooLarge { bytes }),
            false => Ok(MultiLock { shared: shared.clone(), parts: parts.into(), address: Arc::default() }),
        }
    }

    /// The paths in the order in which they were given, without the connection's chroot.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().map(|part| &*part.path)
    }

    /// Waits for all locks. Errors and cancel safety are as in [`Lock::acquire`](crate::Lock::acquire).
    pub fn acquire(&self) -> AcquireAll {
        Pending::new(self.clone(), Wait::Forever)
    }

    /// Acquires all locks if no other contender is ahead on any path. Does not wait. Reads all queues first, and writes
    /// nothing if another contender is ahead. Errors and cancel safety are as in
    /// [`Lock::try_acquire`](crate::Lock::try_acquire).
    pub fn try_acquire(&self) -> TryAcquireAll {
        Pending::new(self.clone(), Wait::Try)
    }

    /// Waits for all locks until `timeout` after this call; the one deadline applies to all paths. The timeout, errors
    /// and cancel safety are as in [`Lock::acquire_timeout`](crate::Lock::acquire_timeout).
    pub fn acquire_timeout(&self, timeout: Duration) -> AcquireAllTimeout {
        Pending::new(self.clone(), self.shared.timeout(timeout))
    }

    /// Waits for all locks until `deadline`, as [`Lock::acquire_until`](crate::Lock::acquire_until).
    pub fn acquire_until(&self, deadline: impl Into<Instant>) -> AcquireAllTimeout {
        Pending::new(self.clone(), self.wait(wait::Wait::Until(deadline.into())))
    }

    /// Cancels a request that was made [by message](Pending::forward). Does nothing if it has been granted or has
    /// ended.
    pub fn cancel(&self, ticket: Ticket) {
        self.send(ActorMessage::Cancel(ticket));
    }

    /// The actor of this handle and its clones, which is started at the first call.
    pub(crate) fn start_actor(&self) -> ActorRef<<Self as Recipient>::Message>
    where
        Self: Recipient,
    {
        self.address.actor(|| MultiLock { address: Arc::default(), ..self.clone() })
    }

    pub(crate) fn wait(&self, wait: wait::Wait) -> Wait {
        self.shared.wait(wait)
    }

    pub(crate) fn ask_release(&self, ticket: Ticket) -> BoxFuture<'static, Result<(), ReleaseError>> {
        self.shared.release(|reply| RegistryMessage::MultiLock(ActorMessage::Release(ticket, reply)))
    }

    fn send(&self, message: ActorMessage) {
        self.shared.send(RegistryMessage::MultiLock(message));
    }
}

impl sealed::Target for MultiLock {}

impl Target for MultiLock {
    type Guard = MultiGuard;

    fn request(
        &self,
        ticket: Ticket,
        wait: Wait,
        mut on_event: impl FnMut(LockEvent<MultiGuard>) + Send + 'static,
    ) {
        let correct = self.shared.correct();
        let on_event = move |event: LockEvent<MultiLease>| on_event(correct(event).map_guard(MultiGuard));
        let sink = EventSink::new(ticket, self.name().into(), on_event);
        let (parts, keep_alive) = (self.parts.clone(), self.shared.keep_alive.clone());
        let request = MultiLockRequest::new(ticket, parts, wait, sink, keep_alive);
        self.send(ActorMessage::Acquire(request));
    }

    fn withdraw(&self, ticket: Ticket) {
        self.cancel(ticket);
    }

    fn name(&self) -> String {
        self.paths().collect::<Vec<_>>().join(", ")
    }
}

/// The guard of several locks. Dropping it releases all of them in the background.
///
/// Its methods are those of a [`Guard`](crate::Guard), applied to all locks together.
#[must_use = "dropping the guard releases the locks"]
pub struct MultiGuard(pub(crate) MultiLease);

impl MultiGuard {
    /// Each path with its fencing token, in the order in which the paths were given. Compare a token only with tokens
    /// of the same path.
    pub fn tokens(&self) -> impl Iterator<Item = (&str, FencingToken)> {
        self.0.tokens()
    }

    /// The fencing token of one path, or `None` if the path is not among the locks.
    pub fn token(&self, path: &str) -> Option<FencingToken> {
        self.tokens().find(|(of, _)| *of == path).map(|(_, token)| token)
    }

    /// The [node](crate::Guard::node) of each lock, in the order in which the paths were given.
    pub fn nodes(&self) -> impl Iterator<Item = &str> {
        self.0.leases().iter().map(|lease| lease.node())
    }

    /// The ticket of the request that was granted with this guard.
    pub fn ticket(&self) -> Ticket {
        self.0.ticket()
    }

    /// The worst [state](crate::Guard::state) of the locks.
    pub fn state(&self) -> LeaseState {
        self.0.state()
    }

    /// Whether all locks are held at this moment.
    pub fn is_held(&self) -> bool {
        self.state() == LeaseState::Held
    }

    /// The time until which [all locks are valid](crate::Guard::valid_until).
    pub fn valid_until(&self) -> Option<Instant> {
        self.0.valid_until()
    }

    /// A view of this guard for code that works under it: see [`Guard::view`](crate::Guard::view).
    pub fn view(&self) -> LeaseView {
        self.0.view()
    }

    /// Waits until one of the locks is lost. Cancel safety and panics are as in [`Guard::lost`](crate::Guard::lost).
    pub async fn lost(&self) {
        self.0.lost().await;
    }

    /// Runs `work` until one of the locks is lost. Then it is unknown how far `work` has come. Errors and cancel safety
    /// are as in [`Guard::protect`](crate::Guard::protect).
    pub async fn protect<F: Future>(&self, work: F) -> Result<F::Output, LostError> {
        self.0.protect(work).await
    }

    /// Releases all locks, and waits until the server has confirmed it: see [`Guard::release`](crate::Guard::release).
    ///
    /// # Errors
    ///
    /// [`ReleaseError::Lost`] if one of the leases ends before its release is confirmed. The other locks are released
    /// nevertheless.
    pub async fn release(self) -> Result<(), ReleaseError> {
        self.0.release().await
    }
}

impl fmt::Debug for MultiGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MultiGuard").field(&self.0).finish()
    }
}

impl fmt::Debug for MultiLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MultiLock").field("paths", &self.name()).finish_non_exhaustive()
    }
}
