//! Handles to locks.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use lockkeeper_actors::error::ContendersError;
use lockkeeper_actors::machine::protocol::Wait;
use lockkeeper_actors::machine::znode::{Dialect, InvalidName, InvalidPattern, Mode, check_patterns};
use lockkeeper_actors::messages::{
    AcquireRequest, Contender, ContenderOptions, Listener, LockEvent, LockMessage, Place, Ticket,
};
use lockkeeper_actors::zookeeper::Acl;
use lockkeeper_actors::{PrimitivesMessage, refuse};
use ractor::{ActorRef, MessagingErr, RpcReplyPort};
use thiserror::Error;
use tokio::sync::oneshot;

use crate::guard::Guard;
use crate::guard::{Access, Exclusive};
use crate::keeper::{Keeper, Shared};
use crate::pending::{Acquire, AcquireTimeout, Hear, Pending, Target, TryAcquire, sealed};

/// A handle to a lock, exclusive unless it says otherwise. Cheap to clone; all clones, and all handles of the same
/// path, stand in one queue.
///
/// The queue is first come, first served across the whole cluster, and shared with kazoo's on the same path. A lock
/// is not re-entrant: whoever holds it and acquires again waits for itself.
pub struct Lock<M = Exclusive> {
    pub(crate) shared: Arc<Shared>,
    handle: Arc<Handle>,
    options: Arc<ContenderOptions>,
    mode: PhantomData<fn() -> M>,
}

impl<M> Clone for Lock<M> {
    fn clone(&self) -> Lock<M> {
        let Lock { shared, handle, options, mode } = self;
        Lock { shared: shared.clone(), handle: handle.clone(), options: options.clone(), mode: *mode }
    }
}

impl<M: Access> Lock<M> {
    pub(crate) fn new(keeper: &Keeper, path: &str, options: LockOptions) -> Lock<M> {
        Lock::at(keeper, Place::lock(path), M::MODE, options)
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
        Pending::new(self.clone(), self.shared.wait(timeout))
    }
}

impl<M> Lock<M> {
    pub(crate) fn at(keeper: &Keeper, place: Place, mode: Mode, options: LockOptions) -> Lock<M> {
        let shared = keeper.shared.clone();
        let options = options.contender(&shared, mode);
        let handle = Handle { place, primitives: shared.started.primitives.clone() };
        // Refused by a keeper that is closed; then so is everything that follows.
        let _ = handle.primitives.cast(PrimitivesMessage::Open(handle.place.clone()));
        Lock { shared, handle: Arc::new(handle), options: Arc::new(options), mode: PhantomData }
    }

    /// The lock's path, without the connection's chroot.
    pub fn path(&self) -> &str {
        &self.handle.place.path
    }

    /// Cancels a request that was made [by message](Pending::forward). Does nothing to one that holds, or is done.
    pub fn cancel(&self, ticket: Ticket) {
        self.send(LockMessage::Cancel(ticket));
    }

    /// Who holds and waits, in order. Makes nothing: a path that is not there has no contenders.
    ///
    /// # Cancel safety
    ///
    /// Nothing is changed.
    pub async fn contenders(&self) -> Result<Vec<Contender>, ContendersError> {
        self.ask(|reply| LockMessage::Contenders(self.options.patterns.clone(), reply)).await
    }

    /// Deletes the node of a contender that [`contenders`](Lock::contenders) listed and that no session takes away:
    /// one made with [`LockOptions::ephemeral`]`(false)` whose owner has crashed. Make sure that it has. One that
    /// is gone already counts as removed.
    ///
    /// # Errors
    ///
    /// [`ContendersError::Ephemeral`] for a node that goes with its session.
    pub async fn remove_contender(&self, contender: &Contender) -> Result<(), ContendersError> {
        self.ask(|reply| LockMessage::RemoveContender(contender.clone(), reply)).await
    }

    /// Sends a message to the lock's actor. What it answers with says when the keeper is closed.
    pub fn send(&self, message: LockMessage) {
        self.try_send(message);
    }

    /// `false` when the keeper is closed.
    pub(crate) fn try_send(&self, message: LockMessage) -> bool {
        let message = PrimitivesMessage::Lock(self.handle.place.clone(), message);
        match self.handle.primitives.cast(message) {
            Ok(()) => true,
            Err(MessagingErr::SendErr(PrimitivesMessage::Lock(_, message))) => {
                refuse(message);
                false
            }
            Err(_) => false,
        }
    }

    /// A request that is not sent yet.
    pub(crate) fn prepare(&self, ticket: Ticket, wait: Wait, mut hear: Hear<Guard<M>>) -> AcquireRequest
    where
        M: 'static,
    {
        let hear = move |event: LockEvent| hear(event.map_guard(Guard::new));
        let listener = Listener::new(ticket, self.path().into(), hear);
        AcquireRequest::new(ticket, self.options.clone(), wait, listener, self.shared.lifeline.clone())
    }

    pub(crate) fn options(&self) -> &Arc<ContenderOptions> {
        &self.options
    }

    pub(crate) async fn ask<T>(
        &self,
        message: impl FnOnce(RpcReplyPort<Result<T, ContendersError>>) -> LockMessage,
    ) -> Result<T, ContendersError> {
        let (reply, answer) = oneshot::channel();
        self.send(message(reply.into()));
        self.answered(answer.await)
    }

    /// An answer to a question; none came when its actor or its session ended first.
    pub(crate) fn answered<T>(
        &self,
        answer: Result<Result<T, ContendersError>, oneshot::error::RecvError>,
    ) -> Result<T, ContendersError> {
        match answer.unwrap_or(Err(ContendersError::Disconnected)) {
            Err(ContendersError::Disconnected) if self.shared.started.is_closed() => {
                Err(ContendersError::Closed)
            }
            answer => answer,
        }
    }
}

impl<M: 'static> sealed::Target for Lock<M> {}

impl<M: 'static> Target for Lock<M> {
    type Guard = Guard<M>;

    fn request(&self, ticket: Ticket, wait: Wait, hear: Hear<Guard<M>>) {
        self.send(LockMessage::Acquire(self.prepare(ticket, wait, hear)));
    }

    fn withdraw(&self, ticket: Ticket) {
        self.cancel(ticket);
    }

    fn name(&self) -> String {
        self.path().to_owned()
    }
}

/// Counted by the supervisor, which ends an idle actor when no handle is left.
struct Handle {
    place: Place,
    primitives: ActorRef<PrimitivesMessage>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        let _ = self.primitives.cast(PrimitivesMessage::Dropped(self.place.clone()));
    }
}

/// Options of one lock handle. They belong to the contenders that the handle makes: handles of one path with
/// different options stand in one queue.
#[derive(Clone, Debug)]
pub struct LockOptions {
    identifier: Option<Vec<u8>>,
    dialect: Dialect,
    patterns: Vec<String>,
    ephemeral: bool,
    container: bool,
    acl: Option<Vec<Acl>>,
    max_waiting: Option<usize>,
}

impl Default for LockOptions {
    fn default() -> LockOptions {
        LockOptions {
            identifier: None,
            dialect: Dialect::Kazoo,
            patterns: Vec::new(),
            ephemeral: true,
            container: false,
            acl: None,
            max_waiting: None,
        }
    }
}

impl LockOptions {
    /// The defaults, which are the keeper's.
    pub fn new() -> LockOptions {
        LockOptions::default()
    }

    /// Who this is, for people who list contenders; the keeper's identifier unless set.
    pub fn identifier(self, identifier: impl Into<String>) -> Self {
        LockOptions { identifier: Some(identifier.into().into_bytes()), ..self }
    }

    /// With whose clients the lock shares its queue: kazoo's unless set. With [`Dialect::Curator`], a
    /// [`Lock`] and Curator's `InterProcessMutex` exclude each other, and so do a
    /// [`ReadWriteLock`](crate::ReadWriteLock) and its `InterProcessReadWriteLock`; all clients of one path have to
    /// choose alike.
    ///
    /// A lock that finds a contender of another kind on its path withdraws, and answers
    /// [`MixedDialects`](crate::AcquireError::MixedDialects). That is one-sided: one of kazoo or Curator that comes
    /// later does not know ours, and may hold beside it.
    pub fn dialect(self, dialect: Dialect) -> Self {
        LockOptions { dialect, ..self }
    }

    /// Further contenders to wait for: nodes whose names end in one of these texts and a sequence number, as kazoo's
    /// `extra_lock_patterns`. `-lock-` covers Curator and go-zookeeper, which wait for ours only if those are named
    /// like theirs: see [`dialect`](LockOptions::dialect).
    pub fn extra_lock_patterns<S: Into<String>>(self, patterns: impl IntoIterator<Item = S>) -> Self {
        LockOptions { patterns: patterns.into_iter().map(Into::into).collect(), ..self }
    }

    /// `false` makes nodes that outlive sessions, as kazoo's `ephemeral=False`: a lock held so is not lost with the
    /// connection, and not free again when its holder crashes. Such a node is found with [`Lock::contenders`] and
    /// removed with [`Lock::remove_contender`]. So is one whose create was under way when its session was lost, and
    /// which the server carried out only after a new session had looked for it; and one whose keeper is closed while
    /// there is no connection, of which the log warns.
    pub fn ephemeral(self, ephemeral: bool) -> Self {
        LockOptions { ephemeral, ..self }
    }

    /// `true` makes missing directories as container nodes, which the server (3.5.3 and later) removes some time
    /// after they have been emptied.
    pub fn container_directories(self, container: bool) -> Self {
        LockOptions { container, ..self }
    }

    /// The access list of the contender's node, and of directories that must be made; the keeper's unless set.
    pub fn acl(self, acl: Vec<Acl>) -> Self {
        LockOptions { acl: Some(acl), ..self }
    }

    /// With how many requests of this process waiting on the path another one is refused, at once and before anything
    /// is sent: [`TooManyWaiting`](crate::AcquireError::TooManyWaiting). No limit unless set.
    ///
    /// The requests of all handles of the path count, until they are granted, refused or cancelled; those that hold do
    /// not. A try does not wait: it is neither counted nor refused. A request of several locks is refused when the
    /// limit is reached on one of its paths.
    pub fn max_waiting(self, requests: usize) -> Self {
        LockOptions { max_waiting: Some(requests), ..self }
    }

    /// For a contender in this mode, with what the keeper says where these do not.
    pub(crate) fn contender(self, shared: &Shared, mode: Mode) -> ContenderOptions {
        ContenderOptions {
            mode,
            dialect: self.dialect,
            identifier: self.identifier.unwrap_or_else(|| shared.identifier.clone()),
            patterns: self.patterns.into(),
            ephemeral: self.ephemeral,
            container: self.container,
            acl: self.acl.unwrap_or_else(|| shared.acl.clone()),
            max_waiting: self.max_waiting,
        }
    }

    pub(crate) fn is_ephemeral(&self) -> bool {
        self.ephemeral
    }

    pub(crate) fn check(&self) -> Result<(), InvalidLock> {
        check_patterns(&self.patterns)?;
        match &self.identifier {
            Some(identifier) if identifier.len() > MAX_IDENTIFIER => {
                return Err(InvalidLock::Identifier { bytes: identifier.len() });
            }
            Some(_) | None => {}
        }
        if self.max_waiting == Some(0) {
            return Err(InvalidLock::NobodyMayWait);
        }
        match &self.acl {
            Some(acl) if acl.is_empty() => Err(InvalidLock::Acl),
            Some(_) | None => Ok(()),
        }
    }
}

impl LockOptions {
    /// What makes no sense for a semaphore is not passed over in silence.
    pub(crate) fn check_for_semaphore(&self) -> Result<(), InvalidLock> {
        self.check()?;
        if !self.patterns.is_empty() {
            return Err(InvalidLock::NotForSemaphores { option: "extra lock patterns" });
        }
        if self.dialect != Dialect::Kazoo {
            return Err(InvalidLock::NotForSemaphores { option: "dialect but kazoo's" });
        }
        if !self.ephemeral {
            return Err(InvalidLock::NotForSemaphores { option: "nodes that outlive sessions" });
        }
        Ok(())
    }
}

/// The server takes requests of less than 1 MiB; this leaves room for the path and the access list.
pub(crate) const MAX_IDENTIFIER: usize = 1024 * 1024 - 64 * 1024;

/// A lock that cannot be made as it was asked for.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidLock {
    /// The path cannot be locked.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// An extra pattern cannot match.
    #[error(transparent)]
    Pattern(#[from] InvalidPattern),
    /// The identifier does not fit into a node.
    #[error("an identifier of {bytes} bytes does not fit into a node of less than 1 MiB")]
    Identifier {
        /// How long it is.
        bytes: usize,
    },
    /// Several locks at once, but none is named.
    #[error("no path is named to be locked")]
    NoPaths,
    /// Several locks at once, and one of them twice: the request would wait for itself.
    #[error("{path:?} is named twice, and would wait for itself")]
    Twice {
        /// The path.
        path: String,
    },
    /// Several locks at once, of nodes that outlive sessions: after a lost session they could not be taken together
    /// again.
    #[error("several locks that are taken together go with the session")]
    Outlives,
    /// Several locks at once, too many for the one request that takes them.
    #[error("a request of {bytes} bytes for all paths is larger than ZooKeeper's 1 MiB")]
    TooLarge {
        /// How long it would be.
        bytes: usize,
    },
    /// A semaphore of zero permits.
    #[error("a semaphore has at least one permit")]
    NoPermits,
    /// An option that a semaphore does not have.
    #[error("a semaphore has no {option}")]
    NotForSemaphores {
        /// Which.
        option: &'static str,
    },
    /// A limit of zero waiting requests: each waits for a moment at least.
    #[error("a limit of 0 waiting requests would refuse all of them")]
    NobodyMayWait,
    /// The access list is empty.
    #[error("an access list with no entries would let nobody use what is made")]
    Acl,
}

impl<M> fmt::Debug for Lock<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock").field("path", &self.path()).finish_non_exhaustive()
    }
}
