//! Several locks at once: all of them, or none.

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lockkeeper_actors::PrimitivesMessage;
use lockkeeper_actors::error::{AcquireError, Lost, ReleaseError};
use lockkeeper_actors::lease::{FencingToken, LeaseState};
use lockkeeper_actors::machine::protocol::Wait;
use lockkeeper_actors::machine::znode::{Mode, check_path};
use lockkeeper_actors::messages::{Listener, LockEvent, Ticket};
use lockkeeper_actors::multi::{MultiLease, MultiMessage, MultiPart, MultiRequest};
use ractor::MessagingErr;

use crate::handle::Shared;
use crate::options::{InvalidLock, LockOptions, MAX_IDENTIFIER};
use crate::pending::{AcquireTimeoutError, Hear, Pending, Target, TryAcquireError, sealed};

/// A handle to the locks on several paths, which are acquired together. Cheap to clone.
///
/// The places in all queues are taken in one transaction, so any two multi-locks stand in the same order wherever they
/// meet: however their paths are ordered or overlap, multi-locks do not deadlock among each other. What still can,
/// as with any lock: whoever holds one lock, or one multi-lock, and acquires another while it does. No path is
/// re-entrant.
///
/// While it waits for one path, a multi-lock stands in the queues of the others, or holds them already: that is what
/// keeps it from starving, and what others have to wait for. It is granted when it holds all of them. When its node
/// on one path is lost before that, with the session or by hand, it gives all places back and queues for all of them
/// anew.
///
/// Each path is locked on the same wire, and in the same queue, as by a [`Lock`](crate::Lock) or a
/// [`ReadWriteLock`](crate::ReadWriteLock).
#[derive(Clone)]
pub struct MultiLock {
    shared: Arc<Shared>,
    parts: Arc<[MultiPart]>,
}

impl MultiLock {
    pub(crate) fn new<S: AsRef<str>>(
        shared: &Arc<Shared>,
        paths: impl IntoIterator<Item = (S, Mode)>,
        options: LockOptions,
    ) -> Result<MultiLock, InvalidLock> {
        let options = options.checked_for_multi_lock()?;
        let (mut parts, mut seen, mut bytes) = (Vec::new(), BTreeSet::new(), 0);
        for (path, mode) in paths {
            let path: Arc<str> = path.as_ref().into();
            check_path(&path)?;
            if !seen.insert(path.clone()) {
                return Err(InvalidLock::Twice { path: path.to_string() });
            }
            let options = Arc::new(shared.contender(mode, options.clone()));
            bytes += options.bytes(&path);
            parts.push(MultiPart { path, options });
        }
        match parts.is_empty() {
            true => Err(InvalidLock::NoPaths),
            false if bytes > MAX_IDENTIFIER => Err(InvalidLock::TooLarge { bytes }),
            false => Ok(MultiLock { shared: shared.clone(), parts: parts.into() }),
        }
    }

    /// The paths, without the connection's chroot, in the order in which they were given.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().map(|part| &*part.path)
    }

    /// Waits for all locks.
    ///
    /// A session that is lost meanwhile does not end the waiting: the request queues again on all paths, at the tail.
    ///
    /// # Errors
    ///
    /// [`AcquireError`], when one of the locks cannot be had at all.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels the request, and leaves no node; nothing is sent before the first poll.
    pub fn acquire(&self) -> Pending<AcquireError, MultiLock> {
        Pending::new(self.clone(), Wait::Forever)
    }

    /// Takes all locks if nobody is ahead on any path, without waiting. Looks first, and writes nothing if somebody
    /// is.
    ///
    /// # Errors
    ///
    /// [`TryAcquireError::Contended`] when somebody is ahead, `Suspended` at once while the connection is in doubt.
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](MultiLock::acquire).
    pub fn try_acquire(&self) -> Pending<TryAcquireError, MultiLock> {
        Pending::new(self.clone(), Wait::Try)
    }

    /// Waits for all locks, until `timeout` after this call. One deadline covers all paths, a lost session included.
    /// Zero is one try; a time too long to be counted is none.
    ///
    /// # Errors
    ///
    /// [`AcquireTimeoutError::TimedOut`] when the time is over; all places are given back by then, and their nodes'
    /// deletion is confirmed in the background.
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](MultiLock::acquire).
    pub fn acquire_timeout(&self, timeout: Duration) -> Pending<AcquireTimeoutError, MultiLock> {
        Pending::new(self.clone(), self.shared.wait(timeout))
    }

    /// Cancels a request that was made [by message](Pending::forward). Does nothing to one that holds, or is done.
    pub fn cancel(&self, ticket: Ticket) {
        self.send(MultiMessage::Cancel(ticket));
    }

    fn send(&self, message: MultiMessage) {
        let sent = self.shared.started.primitives.cast(PrimitivesMessage::Multi(message));
        if let Err(MessagingErr::SendErr(PrimitivesMessage::Multi(MultiMessage::Acquire(request)))) = sent {
            request.refuse(AcquireError::Closed);
        }
    }
}

impl sealed::Target for MultiLock {}

impl Target for MultiLock {
    type Guard = MultiGuard;

    fn request(&self, ticket: Ticket, wait: Wait, mut hear: Hear<MultiGuard>) {
        let hear = move |event: LockEvent<MultiLease>| hear(event.map_guard(MultiGuard));
        let listener = Listener::new(ticket, self.name().into(), hear);
        let (parts, lifeline) = (self.parts.clone(), self.shared.lifeline.clone());
        let request = MultiRequest::new(ticket, parts, wait, listener, lifeline);
        self.send(MultiMessage::Acquire(request));
    }

    fn withdraw(&self, ticket: Ticket) {
        self.cancel(ticket);
    }

    fn name(&self) -> String {
        self.paths().collect::<Vec<_>>().join(", ")
    }
}

/// Holds several locks. Dropping it releases all of them, in the background.
#[must_use = "dropping the guard releases the locks"]
pub struct MultiGuard(MultiLease);

impl MultiGuard {
    /// Each path with its fencing token, in the order in which the paths were given. A token is to be compared with
    /// others of the same path.
    pub fn tokens(&self) -> impl Iterator<Item = (&str, FencingToken)> {
        self.0.tokens()
    }

    /// The fencing token of one path; `None` for a path that was not asked for.
    pub fn token(&self, path: &str) -> Option<FencingToken> {
        self.tokens().find(|(of, _)| *of == path).map(|(_, token)| token)
    }

    /// The paths of the nodes that stand for this guard, in the order in which the paths were given: for a ZooKeeper
    /// `multi` that checks them beside a write.
    pub fn nodes(&self) -> impl Iterator<Item = &str> {
        self.0.leases().iter().map(|lease| lease.node())
    }

    /// The request that this guard answers.
    pub fn ticket(&self) -> Ticket {
        self.0.ticket()
    }

    /// What may be believed at this moment of the worst of its locks: see [`LockGuard::state`](crate::Guard::state).
    pub fn state(&self) -> LeaseState {
        self.0.state()
    }

    /// Until when nobody that this guard excludes can hold any of the locks, as far as is proven at this moment;
    /// heartbeats move it on. In the past once one of them is lost with the session.
    pub fn valid_until(&self) -> Option<Instant> {
        self.0.valid_until()
    }

    /// Ends when one of the locks is lost. Cancel safe.
    pub async fn lost(&self) {
        self.0.lost().await;
    }

    /// Runs `work` for as long as all locks are held: its result, or `Err(Lost)` when one was lost first, and then
    /// `work` is dropped where it stood. Work that never awaits cannot be cut short: then the tokens protect.
    pub async fn protect<F: Future>(&self, work: F) -> Result<F::Output, Lost> {
        self.0.protect(work).await
    }

    /// Releases all locks at once, and waits until the server has confirmed each; dropping the guard releases without
    /// waiting. A node that is gone already counts as released. The release goes on when this future is dropped.
    ///
    /// # Errors
    ///
    /// [`ReleaseError::Lost`] when one of them was lost first. The others are released all the same.
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
