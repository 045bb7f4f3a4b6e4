//! A granted lock in its holder's hands, and how long it is good for.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures::future::{Either, select};
use ractor::ActorRef;
use tokio::sync::{Notify, oneshot};

use crate::api::error::{Lost, ReleaseError};
use crate::api::messages::{Lifeline, LockMessage};
use crate::keeper::KeeperMessage;
use crate::lock::LockActorMessage;
use crate::machine::Moment;
use crate::machine::lock::protocol::Ticket;
use crate::runtime::clock::Clock;
use crate::zookeeper::ZooKeeper;

/// What a holder may believe of its lease at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LeaseState {
    /// Nobody that this lease excludes can hold the lock. Two readers do not exclude each other, nor do two permits of
    /// a semaphore. As in kazoo, a reader does not exclude a plain lock on the same path.
    Held,
    /// The same, but the connection is in doubt; it will be `Held` again, or `Lost`.
    Suspended,
    /// Somebody else may hold it. Final.
    Lost,
}

/// Grows with every grant that conflicts with an earlier one, in whatever process: the id of the ZooKeeper
/// transaction that made the holder's node (`czxid`).
///
/// A resource that remembers the largest token it has seen, and refuses smaller ones, is safe from a holder that
/// was paused past the end of its lease. It keeps growing when the lock's directory is deleted and made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FencingToken(u64);

impl FencingToken {
    pub(crate) fn new(czxid: i64) -> FencingToken {
        FencingToken(czxid as u64)
    }

    /// The token as a number, to be stored beside what it protects.
    pub fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A held lock. Dropping it releases the lock in the background.
#[must_use = "dropping the lease releases the lock"]
pub struct Lease {
    grant: Arc<Grant>,
    actor: ActorRef<LockActorMessage>,
    /// The last guard keeps the session open even when every handle is gone.
    lifeline: Arc<Lifeline>,
    client: Weak<dyn ZooKeeper>,
    released: bool,
}

impl Lease {
    pub(crate) fn new(
        grant: Arc<Grant>,
        actor: ActorRef<LockActorMessage>,
        lifeline: Arc<Lifeline>,
        client: Weak<dyn ZooKeeper>,
    ) -> Lease {
        Lease { grant, actor, lifeline, client, released: false }
    }

    /// The lock's path, without the connection's chroot.
    pub fn path(&self) -> &str {
        &self.grant.path
    }

    /// The path of the node that stands for this lease, for a `multi` that checks it beside a write.
    pub fn node(&self) -> &str {
        self.grant.nodes.first().map_or("", String::as_str)
    }

    /// The paths of all nodes that stand for this lease: as many as it has permits.
    pub fn nodes(&self) -> &[String] {
        &self.grant.nodes
    }

    /// See [`FencingToken`].
    pub fn token(&self) -> FencingToken {
        self.grant.token
    }

    /// The request that this lease answers.
    pub fn ticket(&self) -> Ticket {
        self.grant.ticket
    }

    /// What may be believed now: the clock is compared at every call, so a task that was paused sees `Lost` as
    /// soon as it runs again.
    pub fn state(&self) -> LeaseState {
        self.grant.state()
    }

    /// Until when nobody that this lease excludes can hold the lock, as far as is proven at this moment; heartbeats
    /// move it on. In the past once the lease is lost. `None` when the lock's node outlives sessions: such a lease
    /// ends only with its node. The lease also runs out while the machine sleeps, and an [`Instant`] does not follow
    /// that: ask again, or use [`state`](Lease::state), which does.
    pub fn valid_until(&self) -> Option<Instant> {
        self.grant.valid_until()
    }

    /// Ends when the lease is lost. Cancel safe.
    pub async fn lost(&self) {
        self.grant.lost().await;
    }

    /// Runs `work` for as long as the lease lasts: its result, or `Err(Lost)` when the lease ended first, and then
    /// `work` is dropped where it stood. Work that never awaits cannot be cut short.
    pub async fn protect<F: Future>(&self, work: F) -> Result<F::Output, Lost> {
        protect(|| self.state(), self.lost(), work).await
    }

    /// A view of this lease, for those who work under it.
    pub fn term(&self) -> Term {
        Term(self.grant.clone())
    }

    /// The timeout of the session that the lock goes with.
    pub(crate) fn session_timeout(&self) -> Option<Duration> {
        self.grant.session.as_ref().map(|session| session.timeout)
    }

    /// Its session, which stays open for as long as this is kept.
    pub(crate) fn keep_session(&self) -> Option<Arc<dyn ZooKeeper>> {
        self.client.upgrade()
    }

    /// The clock of its deadlines.
    pub(crate) fn clock(&self) -> Clock {
        self.grant.session.as_ref().map_or_else(Clock::start, |session| session.clock)
    }

    /// The keeper that it goes with.
    pub fn keeper(&self) -> &ActorRef<KeeperMessage> {
        self.lifeline.keeper()
    }

    /// Releases the lock and waits until the server has confirmed it. The release goes on when this future is
    /// dropped. A node that is gone already counts as released.
    pub async fn release(mut self) -> Result<(), ReleaseError> {
        self.released = true;
        let (reply, answer) = oneshot::channel();
        let message = LockMessage::Release(self.grant.ticket, Some(reply.into()));
        if self.actor.cast(LockActorMessage::Public(message)).is_err() {
            return Err(ReleaseError::Lost);
        }
        answer.await.unwrap_or(Err(ReleaseError::Lost))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.released {
            // An actor that is gone has no node left, or a supervisor that deletes it.
            let _ = self.actor.cast(LockActorMessage::Public(LockMessage::Release(self.grant.ticket, None)));
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("nodes", &self.grant.nodes)
            .field("token", &self.grant.token)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

/// Runs `work` until it is done or lost.
pub(crate) async fn protect<F: Future>(
    state: impl Fn() -> LeaseState,
    lost: impl Future<Output = ()>,
    work: F,
) -> Result<F::Output, Lost> {
    if state() == LeaseState::Lost {
        return Err(Lost);
    }
    match select(pin!(work), pin!(lost)).await {
        Either::Left((done, _)) if state() != LeaseState::Lost => Ok(done),
        Either::Left(_) | Either::Right(_) => Err(Lost),
    }
}

/// A view of a lease: what those who work under it may know. Keeps nothing locked, and may outlive the lease.
#[derive(Clone)]
pub struct Term(Arc<Grant>);

impl Term {
    /// The lock's path, without the connection's chroot.
    pub fn path(&self) -> &str {
        &self.0.path
    }

    /// The path of the node that stands for the lease, for a `multi` that checks it beside a write.
    pub fn node(&self) -> &str {
        self.0.nodes.first().map_or("", String::as_str)
    }

    /// See [`FencingToken`].
    pub fn token(&self) -> FencingToken {
        self.0.token
    }

    /// What may be believed now. `Lost` once the lock has been released.
    pub fn state(&self) -> LeaseState {
        self.0.state()
    }

    /// Until when nobody that the lease excludes can hold the lock, as far as is proven at this moment: see
    /// [`Lease::valid_until`].
    pub fn valid_until(&self) -> Option<Instant> {
        self.0.valid_until()
    }

    /// Ends when the lease is lost, or released. Cancel safe.
    pub async fn lost(&self) {
        self.0.lost().await;
    }

    /// Ends when the lease is in another state than this one, and tells in which. Cancel safe.
    pub async fn changed(&self, from: LeaseState) -> LeaseState {
        self.0.changed(from).await
    }

    /// It is lost because its session is being closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.session.as_ref().is_some_and(|session| session.closed.load(Ordering::SeqCst))
    }

    pub(crate) fn until(&self) -> Option<Moment> {
        self.0.session.as_ref().map(|session| session.valid_until())
    }
}

impl fmt::Debug for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Term")
            .field("node", &self.node())
            .field("token", &self.token())
            .finish_non_exhaustive()
    }
}

/// What a lease and the actor that granted it share.
pub(crate) struct Grant {
    pub ticket: Ticket,
    pub path: Arc<str>,
    /// At least one.
    pub nodes: Vec<String>,
    pub token: FencingToken,
    /// The session that the node goes with, unless it outlives sessions.
    pub session: Option<Arc<SessionLease>>,
    mark: AtomicU64,
    changed: Notify,
}

const HELD: u64 = 0;
const SUSPENDED: u64 = 1;
const LOST: u64 = 2;

impl Grant {
    pub fn new(
        ticket: Ticket,
        path: Arc<str>,
        nodes: Vec<String>,
        token: FencingToken,
        session: Option<Arc<SessionLease>>,
    ) -> Grant {
        Grant { ticket, path, nodes, token, session, mark: AtomicU64::new(HELD), changed: Notify::new() }
    }

    fn state(&self) -> LeaseState {
        match (self.mark.load(Ordering::SeqCst), &self.session) {
            (LOST, _) => LeaseState::Lost,
            (_, Some(session)) => session.state(),
            (SUSPENDED, None) => LeaseState::Suspended,
            (_, None) => LeaseState::Held,
        }
    }

    fn valid_until(&self) -> Option<Instant> {
        self.session.as_ref().map(|session| session.clock.instant(session.valid_until()))
    }

    async fn lost(&self) {
        let mut state = self.state();
        while state != LeaseState::Lost {
            state = self.changed(state).await;
        }
    }

    async fn changed(&self, from: LeaseState) -> LeaseState {
        loop {
            let mut marked = pin!(self.changed.notified());
            marked.as_mut().enable();
            let Some(session) = &self.session else {
                match self.state() {
                    state if state == from => marked.await,
                    state => return state,
                }
                continue;
            };
            let mut published = pin!(session.changed.notified());
            published.as_mut().enable();
            let state = self.state();
            if state != from {
                return state;
            }
            if state == LeaseState::Lost {
                return std::future::pending().await;
            }
            let end = pin!(tokio::time::sleep_until(session.clock.at(session.valid_until())));
            select(select(marked, published), end).await;
        }
    }
}

/// The actor's hold on a grant. When it goes, however it goes, the lease reads `Lost`.
pub(crate) struct Hold(pub Arc<Grant>);

impl Hold {
    /// Only matters to nodes that outlive sessions; the others follow their session's lease.
    pub fn suspend(&self) {
        if self.0.mark.compare_exchange(HELD, SUSPENDED, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            self.0.changed.notify_waiters();
        }
    }

    pub fn resume(&self) {
        if self.0.mark.compare_exchange(SUSPENDED, HELD, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            self.0.changed.notify_waiters();
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.mark.store(LOST, Ordering::SeqCst);
        self.0.changed.notify_waiters();
    }
}

/// How long a session is proven to live: one word that every lease of that session reads, so that what they say
/// does not wait for a message.
#[derive(Debug)]
pub(crate) struct SessionLease {
    pub clock: Clock,
    /// Of the session.
    pub timeout: Duration,
    /// The end in nanoseconds, doubled, plus one while suspended. Zero when lost, and then for good.
    word: AtomicU64,
    /// The application ends the session.
    closed: AtomicBool,
    /// It is suspended, or is not any more, or is lost. Not told when the end is reached: that is the clock's part.
    changed: Notify,
}

impl SessionLease {
    pub fn new(clock: Clock, timeout: Duration, until: Moment, suspended: bool) -> SessionLease {
        let word = AtomicU64::new(encode(until, suspended));
        SessionLease { clock, timeout, word, closed: AtomicBool::new(false), changed: Notify::new() }
    }

    pub fn state(&self) -> LeaseState {
        loop {
            let word = self.word.load(Ordering::SeqCst);
            if word == 0 {
                return LeaseState::Lost;
            }
            if self.clock.now() < Moment(word >> 1) {
                return if word & 1 == 1 { LeaseState::Suspended } else { LeaseState::Held };
            }
            // Whoever first finds the end passed makes it final, so that no later proof can take it back.
            if self.word.compare_exchange(word, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                return LeaseState::Lost;
            }
        }
    }

    pub fn valid_until(&self) -> Moment {
        Moment(self.word.load(Ordering::SeqCst) >> 1)
    }

    /// `false` when the lease is lost already, and stays so.
    pub fn publish(&self, until: Moment, suspended: bool) -> bool {
        let update = |word| (word != 0).then(|| encode(until, suspended));
        let before = self.word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, update);
        if before.is_ok_and(|word| (word & 1 == 1) != suspended) {
            self.changed.notify_waiters();
        }
        before.is_ok()
    }

    pub fn lose(&self) {
        self.word.store(0, Ordering::SeqCst);
        self.changed.notify_waiters();
    }

    /// Lost, because the session is being closed.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.lose();
    }
}

fn encode(until: Moment, suspended: bool) -> u64 {
    until.0.min(u64::MAX >> 1) << 1 | u64::from(suspended)
}
