//! What an actor application sends and receives.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ractor::{ActorRef, RpcReplyPort};
use tokio::sync::oneshot;
use tracing::{Span, debug_span, warn};

use crate::api::error::{AcquireError, ConnectError, ContendersError, ReleaseError, ResizeError};
use crate::api::lease::{FencingToken, Lease};
use crate::keeper::KeeperMessage;
use crate::lock::Joint;
pub use crate::machine::lock::protocol::Ticket;
use crate::machine::lock::protocol::{Event, PermitRequest, Request, Wait};
use crate::machine::node::{Dialect, Mode, Patterns};
use crate::zookeeper::Acl;

/// To the actor of one lock or one semaphore.
#[non_exhaustive]
pub enum LockMessage {
    /// Wants the lock. What becomes of it is told to the request's listener.
    Acquire(AcquireRequest),
    /// Does not want it any more. Says nothing to a ticket that is held: drop its lease. A ticket that has not been
    /// used, or is done, is passed over.
    Cancel(Ticket),
    /// Releases a held lock, and tells when the server has confirmed it. A request that has not been granted is not
    /// released, and goes on: the answer is [`ReleaseError::NotGranted`].
    Release(Ticket, Option<RpcReplyPort<Result<(), ReleaseError>>>),
    /// Who waits and holds, in order.
    Contenders(Patterns, RpcReplyPort<Result<Vec<Contender>, ContendersError>>),
    /// Who is first in the queue, as soon as that is another than the one with this token, or none, whom the asker
    /// knows already. `None` asks for an answer at once. Closing the channel ends the watching.
    First(
        Patterns,
        Option<Option<FencingToken>>,
        oneshot::Sender<Result<Option<Contender>, ContendersError>>,
    ),
    /// Deletes the node of a contender that no session takes away: that of a crashed owner.
    RemoveContender(Contender, RpcReplyPort<Result<(), ContendersError>>),
    /// Who holds permits of a semaphore, in no order.
    LeaseHolders(RpcReplyPort<Result<Vec<LeaseHolder>, ContendersError>>),
    /// Changes how many permits a semaphore has; makes its root, in the way of these options, if there is none.
    Resize(u32, Arc<ContenderOptions>, RpcReplyPort<Result<(), ResizeError>>),
}

#[cfg(feature = "cluster")]
impl ractor::Message for LockMessage {}

impl Ticket {
    /// A ticket that this process has not used.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Ticket {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Ticket(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A request for a lock.
pub struct AcquireRequest {
    pub(crate) ticket: Ticket,
    pub(crate) options: Arc<ContenderOptions>,
    pub(crate) wait: Wait,
    pub(crate) permits: Option<Permits>,
    pub(crate) listener: Listener,
    pub(crate) joint: Option<Joint>,
    /// It follows upon another one.
    pub(crate) again: bool,
    pub(crate) lifeline: Arc<Lifeline>,
    /// A child of the caller's span, from the call until nothing is left of the request.
    pub(crate) span: Span,
}

impl AcquireRequest {
    /// Names the request, to cancel it.
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// What a handle of the lock fills in.
    pub fn new(
        ticket: Ticket,
        options: Arc<ContenderOptions>,
        wait: Wait,
        listener: Listener,
        lifeline: Arc<Lifeline>,
    ) -> AcquireRequest {
        let span = debug_span!("lock", path = %listener.path, %ticket);
        AcquireRequest {
            ticket,
            options,
            wait,
            permits: None,
            listener,
            joint: None,
            again: false,
            lifeline,
            span,
        }
    }

    /// Makes it a request for permits of a semaphore.
    pub fn permits(self, permits: Permits) -> AcquireRequest {
        AcquireRequest { permits: Some(permits), ..self }
    }

    /// With how many others waiting it is refused. A try does not wait, and a request for several locks that has to
    /// begin anew has waited already.
    pub(crate) fn max_waiting(&self) -> Option<usize> {
        self.options.max_waiting.filter(|_| self.wait != Wait::Try && !self.again)
    }

    /// Has its node made together with others'.
    pub(crate) fn joint(self, joint: Joint, again: bool) -> AcquireRequest {
        AcquireRequest { joint: Some(joint), again, ..self }
    }

    pub(crate) fn event(&self) -> Event {
        let (ticket, wait) = (self.ticket, self.wait);
        match self.permits {
            Some(Permits { count, limit, agreed }) => {
                let bytes = self.options.bytes(&self.listener.path);
                Event::AcquirePermits { ticket, request: PermitRequest { count, limit, agreed, bytes, wait } }
            }
            None => {
                let ContenderOptions { mode, dialect, ephemeral, .. } = *self.options;
                let patterns = self.options.patterns.clone();
                Event::Acquire { ticket, request: Request { mode, dialect, patterns, ephemeral, wait } }
            }
        }
    }
}

/// Which permits of a semaphore are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permits {
    /// How many, all or none.
    pub count: u32,
    /// How many there are, as far as the caller knows; `None` takes what is stored.
    pub limit: Option<u32>,
    /// The caller's number was the stored one when it got permits before: from then on what is stored counts.
    pub agreed: bool,
}

/// What kind of thing is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A lock, or a read/write lock.
    Lock,
    /// A semaphore.
    Semaphore,
}

/// What an actor is responsible for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// What is there.
    pub kind: Kind,
    /// The lock's directory, or the semaphore's root.
    pub path: Arc<str>,
}

impl Place {
    /// A lock at this path.
    pub fn lock(path: &str) -> Place {
        Place { kind: Kind::Lock, path: path.into() }
    }

    /// A semaphore at this path.
    pub fn semaphore(path: &str) -> Place {
        Place { kind: Kind::Semaphore, path: path.into() }
    }

    /// Where contenders stand: in the lock's directory, or that of the semaphore's mutex beside the root.
    pub fn queue(&self) -> Arc<str> {
        match self.kind {
            Kind::Lock => self.path.clone(),
            Kind::Semaphore => format!("{}{MUTEX}", self.path).into(),
        }
    }

    /// Which places have nodes in this directory.
    pub(crate) fn owners(directory: &str) -> impl Iterator<Item = Place> {
        let mutex = directory.strip_suffix(MUTEX).map(Place::semaphore);
        [Place::lock(directory), Place::semaphore(directory)].into_iter().chain(mutex)
    }

    /// All directories that may have nodes of this place.
    pub(crate) fn directories(&self) -> Vec<Arc<str>> {
        match self.kind {
            Kind::Lock => vec![self.path.clone()],
            Kind::Semaphore => vec![self.path.clone(), self.queue()],
        }
    }
}

/// What kazoo appends to a semaphore's path to get that of its mutex.
const MUTEX: &str = "-__lock__";

/// How a contender's node is made and whom it counts as a contender.
#[derive(Clone, Debug)]
pub struct ContenderOptions {
    /// How the path is wanted.
    pub mode: Mode,
    /// Whose names the node goes by.
    pub dialect: Dialect,
    /// The node's data: who this is, for people.
    pub identifier: Vec<u8>,
    /// Further name endings that count as contenders.
    pub patterns: Patterns,
    /// Whether the node goes with the session.
    pub ephemeral: bool,
    /// Whether directories are made as containers, which the server removes when they have been emptied.
    pub container: bool,
    /// The access list of the node, and of directories that must be made.
    pub acl: Vec<Acl>,
    /// With how many requests of this process waiting another one is refused; `None` for no limit.
    pub max_waiting: Option<usize>,
}

impl ContenderOptions {
    /// What a node of these options in this directory adds to a transaction, with room to spare.
    pub fn bytes(&self, directory: &str) -> usize {
        const NODE: usize = 128;
        const ENTRY: usize = 32;
        let acl = self.acl.iter().map(|entry| ENTRY + entry.scheme().len() + entry.id().len());
        NODE + directory.len() + self.identifier.len() + acl.sum::<usize>()
    }
}

/// What becomes of a request. After `Refused`, `Lost` and `Released` nothing follows.
#[derive(Debug)]
#[non_exhaustive]
pub enum LockEvent<G = Lease> {
    /// It stands in the queue. Told again when it had to queue anew, at the tail, because a session was lost.
    Queued {
        /// Which request.
        ticket: Ticket,
        /// How many contenders ahead block it.
        ahead: usize,
    },
    /// The lock is held. Dropping the guard releases it.
    Acquired {
        /// Which request.
        ticket: Ticket,
        /// The lock.
        guard: G,
    },
    /// The connection is in doubt: see [`LeaseState::Suspended`](crate::api::lease::LeaseState).
    Suspended(Ticket),
    /// The connection is no longer in doubt.
    Resumed(Ticket),
    /// Somebody else may hold the lock now.
    Lost(Ticket),
    /// The guard was released, or dropped, and the server has confirmed that its node is gone.
    Released(Ticket),
    /// The lock is not acquired.
    Refused(Ticket, Refused),
}

impl<G> LockEvent<G> {
    /// The same event with the guard wrapped.
    pub fn map_guard<H>(self, wrap: impl FnOnce(G) -> H) -> LockEvent<H> {
        match self {
            LockEvent::Queued { ticket, ahead } => LockEvent::Queued { ticket, ahead },
            LockEvent::Acquired { ticket, guard } => LockEvent::Acquired { ticket, guard: wrap(guard) },
            LockEvent::Suspended(ticket) => LockEvent::Suspended(ticket),
            LockEvent::Resumed(ticket) => LockEvent::Resumed(ticket),
            LockEvent::Lost(ticket) => LockEvent::Lost(ticket),
            LockEvent::Released(ticket) => LockEvent::Released(ticket),
            LockEvent::Refused(ticket, refused) => LockEvent::Refused(ticket, refused),
        }
    }
}

/// Why a request did not get the lock.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refused {
    /// Somebody is ahead, and the request would not wait.
    Contended,
    /// The connection is in doubt, and the request would not wait.
    Suspended,
    /// The deadline came first.
    TimedOut,
    /// It was cancelled.
    Cancelled,
    /// It cannot be had.
    Failed(AcquireError),
}

/// Hears what becomes of one request. Runs inside the lock's actor, so it must pass events on, and never block. One
/// that panics is not called again, and its request is cancelled, or released; nobody else notices.
pub struct Listener<G = Lease> {
    hear: Option<Box<dyn FnMut(LockEvent<G>) + Send>>,
    /// It was told of a grant.
    granted: bool,
    ticket: Ticket,
    path: Arc<str>,
}

impl<G> Listener<G> {
    /// Hears the events of `ticket`, on what is at `path`.
    pub fn new(
        ticket: Ticket,
        path: Arc<str>,
        hear: impl FnMut(LockEvent<G>) + Send + 'static,
    ) -> Listener<G> {
        Listener { hear: Some(Box::new(hear)), granted: false, ticket, path }
    }

    /// Says whether it is still listening.
    pub(crate) fn tell(&mut self, event: LockEvent<G>) -> bool {
        let Some(mut hear) = self.hear.take() else { return false };
        self.granted |= matches!(event, LockEvent::Acquired { .. });
        // What the closure leaves half done is its own, and it is not called again.
        let heard = catch_unwind(AssertUnwindSafe(move || {
            hear(event);
            hear
        }));
        match heard {
            Ok(hear) => self.hear = Some(hear),
            Err(_) => warn!(path = %self.path, ticket = %self.ticket, "a listener panicked"),
        }
        self.hear.is_some()
    }

    /// The last event.
    pub(crate) fn conclude(mut self, event: LockEvent<G>) {
        self.tell(event);
        self.hear = None;
    }

    /// Without a last word: the guard outlives whoever could say it.
    pub(crate) fn leave(mut self) {
        self.hear = None;
    }
}

impl<G> Drop for Listener<G> {
    /// Dropped without a last word: its actor was killed, or has panicked.
    fn drop(&mut self) {
        let error = AcquireError::Stopped { path: self.path.to_string() };
        self.tell(match self.granted {
            true => LockEvent::Lost(self.ticket),
            false => LockEvent::Refused(self.ticket, Refused::Failed(error)),
        });
    }
}

/// Somebody who holds or waits for a lock, as the lock's directory shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Contender {
    /// The node's name in the lock's directory.
    pub name: String,
    /// The place in the queue; zero comes first.
    pub position: usize,
    /// The first KiB of the node's data: who that is, for people. What is no UTF-8 is shown as `\u{fffd}`.
    pub identifier: String,
    /// How the path is wanted.
    pub mode: Mode,
    /// The session that the node goes with; `None` when it outlives sessions.
    pub session: Option<i64>,
    /// The token that the contender has, or will have, when it holds.
    pub token: FencingToken,
}

/// Somebody who holds a permit of a semaphore, as its root shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaseHolder {
    /// The lease's name below the root.
    pub name: String,
    /// The first KiB of the lease's data: who that is, for people. What is no UTF-8 is shown as `\u{fffd}`.
    pub identifier: String,
    /// The session that the lease goes with; `None` when it outlives sessions, and so is none of ours.
    pub session: Option<i64>,
}

/// What becomes of a keeper's session.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionEvent {
    /// A session has begun. Epochs count sessions from one.
    Connected {
        /// Which session of this keeper.
        epoch: u64,
    },
    /// The connection is in doubt.
    Suspended {
        /// Which session of this keeper.
        epoch: u64,
    },
    /// The connection is no longer in doubt.
    Resumed {
        /// Which session of this keeper.
        epoch: u64,
    },
    /// The session is gone, and all that was held in it. The next one is being sought.
    Lost {
        /// Which session of this keeper.
        epoch: u64,
    },
    /// The keeper seeks no further session, and is closing: its credentials were not taken, or it was told to try no
    /// longer.
    GaveUp {
        /// What its last try ended with.
        error: ConnectError,
    },
    /// The keeper is closed. Nothing follows.
    Closed,
}

/// Keeps a keeper open: held by every handle and every lease.
pub struct Lifeline(ActorRef<KeeperMessage>);

impl Lifeline {
    /// When it is dropped, the keeper closes.
    pub fn new(keeper: ActorRef<KeeperMessage>) -> Lifeline {
        Lifeline(keeper)
    }

    pub(crate) fn keeper(&self) -> &ActorRef<KeeperMessage> {
        &self.0
    }
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        // A keeper that is closed already needs no telling.
        let _ = self.0.cast(KeeperMessage::Abandoned);
    }
}
