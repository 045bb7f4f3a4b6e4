//! Actors that run once in the cluster.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use lockkeeper_actors::Randomness;
use lockkeeper_actors::api::contender::{Contender, Known};
use lockkeeper_actors::api::error::QueryError;
use lockkeeper_actors::api::lease::LeaseView;
use lockkeeper_actors::api::messages::LockMessage;
use lockkeeper_actors::api::resource::Resource;
use lockkeeper_actors::backoff::Backoff;
#[doc(inline)]
pub use lockkeeper_actors::candidate::CandidateState;
use lockkeeper_actors::candidate::{CandidateActor, CandidateArguments, CandidateMessage};
use lockkeeper_actors::machine::exclusion::Mode;
use lockkeeper_actors::machine::path_rules::InvalidName;
use lockkeeper_actors::run::StopPolicy;
use lockkeeper_actors::run::worker::{ActorFactory, LeaseEvent};
use lockkeeper_actors::zookeeper::Acl;
use ractor::{Actor, ActorRef, ActorRuntime, Message};
use tokio::sync::{oneshot, watch};

use crate::handle::{Handle, Shared};
use crate::options::{InvalidLock, LockOptions};
use crate::subscribe;

/// A handle to an actor that runs on at most one member of the cluster at a time. Cheap to clone. The handle observes;
/// only [`run`](Singleton::run) makes this process a candidate.
///
/// Candidates queue for the [`Lock`](crate::Lock) on the path, and its holder runs the actor. As with any lock, a
/// holder cannot be stopped while its *process* is paused or its handler does not await. So everything that the actor
/// writes must carry its fencing token.
///
/// ```
/// # #[cfg(not(feature = "cluster"))]
/// # mod hidden {
/// # use lockkeeper::Keeper;
/// # use lockkeeper::run::{LeaseEvent, LeaseView};
/// use ractor::{Actor, ActorProcessingErr, ActorRef};
///
/// struct Scheduler;
///
/// #[ractor::actor(message = LeaseEvent, state = LeaseView, arguments = LeaseView)]
/// impl Scheduler {
///     async fn pre_start(&self, _: ActorRef<LeaseEvent>, lease: LeaseView) -> Result<LeaseView, ActorProcessingErr> {
///         println!("this process runs the scheduler, under token {}", lease.token());
///         Ok(lease)
///     }
/// }
///
/// # pub async fn example(keeper: Keeper) -> Result<(), Box<dyn std::error::Error>> {
/// use lockkeeper::singleton::SingletonOptions;
///
/// let options = SingletonOptions::new().advertise("10.0.0.7:9000");
/// let scheduler = keeper.singleton_with("/singletons/scheduler", options)?;
/// let mut candidate = scheduler.run(|lease| (Scheduler, lease), Some);
///
/// candidate.running().await; // the actor runs in this process
/// let leader = scheduler.leader().await?.expect("it is this process");
/// assert_eq!(leader.identifier, "10.0.0.7:9000");
/// candidate.shutdown().await; // the actor stops, the next member takes over
/// # Ok(())
/// # }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let zookeeper = lockkeeper_embedded::Embedded::start().await?;
/// # let keeper = lockkeeper::Keeper::connect(&zookeeper.address()).await?;
/// # #[cfg(not(feature = "cluster"))]
/// # hidden::example(keeper).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Singleton {
    handle: Handle,
    stop_policy: StopPolicy,
    backoff: Backoff,
}

impl Singleton {
    /// Expects options that have been [checked](LockOptions::checked).
    pub(crate) fn new(
        shared: &Arc<Shared>,
        path: &str,
        options: SingletonOptions,
    ) -> Result<Singleton, InvalidName> {
        let SingletonOptions { lock, stop_policy, backoff } = options;
        let handle = Handle::open(shared, Resource::lock(path), Mode::Lock, lock)?;
        Ok(Singleton { handle, stop_policy, backoff })
    }

    /// The path of the lock, without the connection's chroot.
    pub fn path(&self) -> &str {
        self.handle.path()
    }

    /// Makes this process a candidate until the [`Candidate`] is dropped or shut down.
    ///
    /// Each time the candidate acquires the lock, `make` receives the [`LeaseView`], which has the fencing token, and
    /// returns the actor and its arguments. `tell` converts changes of the lease to messages for the actor; it may
    /// return `None`. A run ends as follows:
    ///
    /// - If the connection is suspended, the actor is told at the latest when 5/16 of the session timeout are left
    ///   before another member can hold the lock. It is stopped when 1/4 is left, or immediately with
    ///   [`stop_when_suspended`](SingletonOptions::stop_when_suspended). Its `post_stop` has 1/8 of the session
    ///   timeout, or the [grace](SingletonOptions::grace) if that is shorter. Then it is killed. If the lease is
    ///   already lost, it is killed immediately. Children that are linked to it are killed with it. Tasks that it has
    ///   spawned are not ended: the actor must do that.
    /// - If the actor fails or ends by itself, the lock goes to the next member. This member queues again at the tail
    ///   after a [pause](SingletonOptions::backoff). The actor's children are killed. They end at their next await, and
    ///   the release does not wait for that.
    /// - If the keeper dies, for example with the supervisor that it is linked to, the actor is killed, also in its
    ///   `pre_start` or `post_stop`. The session stays open until the actor has ended, but for at most one session
    ///   timeout.
    ///
    /// Every run has its own lock and token, and starts without the state of earlier runs. A suspension that is over
    /// before the actor is stopped costs only messages. They wait in the mailbox like any others, and messages that
    /// still wait when the actor is stopped are discarded. After a pause of the whole process, the actor is told first,
    /// and stopped 1/16 of the session timeout later, or killed if less time is left.
    ///
    /// A `pre_start`, handler or `post_stop` that blocks its thread and never awaits cannot be killed. While the keeper
    /// lives, this process does not start the actor again. When the session ends or the keeper dies, another member
    /// starts it, and only the fencing token protects against the blocked one.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime.
    pub fn run<A: Actor>(
        &self,
        make: impl FnMut(LeaseView) -> (A, A::Arguments) + Send + 'static,
        tell: impl Fn(LeaseEvent) -> Option<A::Msg> + Send + Sync + 'static,
    ) -> Candidate {
        let (states, state) = watch::channel(CandidateState::Waiting);
        let shared = self.handle.shared();
        let arguments = CandidateArguments {
            keeper: shared.started.keeper.get_derived(),
            clock: shared.started.clock,
            registry: shared.started.registry.clone(),
            keep_alive: shared.keep_alive.clone(),
            path: self.handle.path().clone(),
            options: self.handle.options().clone(),
            factory: ActorFactory::new(make, tell),
            randomness: Randomness::default(),
            stop_policy: self.stop_policy,
            backoff: self.backoff,
            states,
        };
        // This fails only for a name that is taken, and there is none. The state reports a failed start: with a closed
        // keeper, it is `Over`.
        let spawned = ActorRuntime::spawn_instant(None, CandidateActor, arguments);
        Candidate { actor: spawned.ok().map(|(actor, _)| actor), state }
    }

    /// The leader: the candidate that is first in the queue, and runs the actor or is about to. Its
    /// [`identifier`](Contender::identifier) is the data that it [advertises](SingletonOptions::advertise). `None` if
    /// there is no candidate. A member that has died is returned until its session has ended.
    ///
    /// # Errors
    ///
    /// [`QueryError`], for example [`Disconnected`](QueryError::Disconnected) while there is no session.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads.
    pub async fn leader(&self) -> Result<Option<Contender>, QueryError> {
        let (reply, answer) = oneshot::channel();
        let first = LockMessage::First(self.handle.options().patterns.clone(), Known::Nothing, reply);
        self.handle.shared().send(self.handle.to_lock(first));
        self.handle.answered(answer.await)
    }

    /// The [leader](Singleton::leader) as a stream: the current one, then each change.
    pub fn leaders(&self) -> Leaders {
        let changes = stream::unfold((self.handle.clone(), Some(Known::Nothing)), next_leader);
        Leaders(changes.boxed())
    }

    /// Sends the items of [`leaders`](Singleton::leaders) to `actor` for as long as it lives. The last message is an
    /// error if an access list does not permit reading.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime.
    pub fn subscribe<T: Message>(
        &self,
        actor: &ActorRef<T>,
        convert: impl FnMut(Result<Option<Contender>, QueryError>) -> T + Send + 'static,
    ) {
        subscribe::forward(self.leaders(), actor, convert);
    }
}

/// A candidacy of this process. Dropping it ends the candidacy in the background, as [`shutdown`](Candidate::shutdown)
/// does.
#[must_use = "dropping the candidate ends the candidacy"]
pub struct Candidate {
    actor: Option<ActorRef<CandidateMessage>>,
    state: watch::Receiver<CandidateState>,
}

impl Candidate {
    /// The current state.
    pub fn state(&self) -> CandidateState {
        // The actor owns the sender, and drops it when it ends.
        match self.state.has_changed() {
            Ok(_) => self.state.borrow().clone(),
            Err(_) => CandidateState::Over,
        }
    }

    /// A view of the lease while the actor runs in this process. `None` while it is starting.
    pub fn lease(&self) -> Option<LeaseView> {
        match self.state() {
            CandidateState::Running(lease) => Some(lease),
            _ => None,
        }
    }

    /// Waits until the state changes, and returns the new one. States of short duration may be missed. Returns
    /// [`CandidateState::Over`] immediately if the candidacy has ended. Cancel safe.
    pub async fn changed(&mut self) -> CandidateState {
        match self.state.changed().await {
            Ok(()) => self.state.borrow_and_update().clone(),
            Err(_) => CandidateState::Over,
        }
    }

    /// Waits until the actor runs in this process, and returns a view of its lease, or `None` if the candidacy ends
    /// first. Until the actor's `pre_start` is over, the state is [`CandidateState::Starting`]. Cancel safe.
    pub async fn running(&mut self) -> Option<LeaseView> {
        let found =
            self.state.wait_for(|state| matches!(state, CandidateState::Running(_) | CandidateState::Over));
        match &*found.await.ok()? {
            CandidateState::Running(lease) => Some(lease.clone()),
            _ => None,
        }
    }

    /// Ends the candidacy: asks the actor to stop, kills it after its [grace](SingletonOptions::grace), and releases
    /// the lock when it has ended. Returns when the server has confirmed the release.
    ///
    /// # Cancel safety
    ///
    /// The shutdown continues in the background when this future is dropped.
    pub async fn shutdown(mut self) {
        self.ask_to_end();
        while !matches!(self.changed().await, CandidateState::Over) {}
    }

    fn ask_to_end(&mut self) {
        if let Some(actor) = self.actor.take() {
            // This fails if the candidacy has ended already.
            let _ = actor.cast(CandidateMessage::Shutdown);
        }
    }
}

impl Drop for Candidate {
    fn drop(&mut self) {
        self.ask_to_end();
    }
}

impl fmt::Debug for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Candidate").field(&self.state()).finish()
    }
}

/// Options of a [`Singleton`] handle, and of its candidates.
#[derive(Clone, Debug, Default)]
pub struct SingletonOptions {
    lock: LockOptions,
    stop_policy: StopPolicy,
    backoff: Backoff,
}

impl SingletonOptions {
    /// The default options.
    pub fn new() -> SingletonOptions {
        SingletonOptions::default()
    }

    /// Data about this member that others can read, for example its address. At most 960 KiB. The default is the
    /// keeper's identifier.
    pub fn advertise(self, data: impl Into<String>) -> Self {
        SingletonOptions { lock: self.lock.identifier(data), ..self }
    }

    /// The time that the actor may take to stop, including its `post_stop`, before it is killed. The default is five
    /// seconds. If it is stopped because the lease is about to end, it has at most 1/8 of the session timeout: a
    /// `post_stop` of one second needs a session timeout of more than eight seconds.
    pub fn grace(self, grace: Duration) -> Self {
        SingletonOptions { stop_policy: StopPolicy { grace, ..self.stop_policy }, ..self }
    }

    /// `true` stops the actor as soon as the connection is suspended, instead of when 1/4 of the session timeout is
    /// left. Every short interruption then moves it to another member, and it does not receive
    /// [`LeaseEvent::Suspended`]. The default is `false`.
    pub fn stop_when_suspended(self, stop_when_suspended: bool) -> Self {
        SingletonOptions { stop_policy: StopPolicy { stop_when_suspended, ..self.stop_policy }, ..self }
    }

    /// The pause of this member after a run that failed or ended by itself: `initial` at first, then doubled each time
    /// up to `maximum`, each minus a random part of up to a half. The defaults are 100 milliseconds and five seconds.
    /// After a run of more than `maximum`, the pause is `initial` again.
    pub fn backoff(self, initial: Duration, maximum: Duration) -> Self {
        SingletonOptions { backoff: Backoff { initial, maximum }, ..self }
    }

    /// The access list of the candidate's node and of missing directories. The default is the keeper's access list.
    /// Other members must be able to read the node.
    pub fn acl(self, acl: Vec<Acl>) -> Self {
        SingletonOptions { lock: self.lock.acl(acl), ..self }
    }

    /// Returns the options if they can be used.
    pub(crate) fn checked(self) -> Result<SingletonOptions, InvalidLock> {
        Ok(SingletonOptions { lock: self.lock.checked()?, ..self })
    }
}

/// The leader of a singleton, as a stream: the current one, then each change. An item is `None` when there is no
/// candidate.
///
/// The stream may miss leaders, because a watch reports that something has changed, not what. A leader may be missed if
/// it serves for less than a few round trips, or while the stream is not polled or not connected. If every leader must
/// be known, let the leaders announce themselves.
///
/// The path need not exist: its first leader is reported as soon as there is one. If the session has no room for
/// another watch, the stream reads once per second. If ZooKeeper refuses or does not answer, it retries after a pause
/// that doubles from 100 milliseconds to five seconds. Without a connection it waits. The stream ends when the keeper
/// is closed, or after an error if an access list does not permit reading.
pub struct Leaders(BoxStream<'static, Result<Option<Contender>, QueryError>>);

impl Stream for Leaders {
    type Item = Result<Option<Contender>, QueryError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(context)
    }
}

impl fmt::Debug for Leaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaders").finish_non_exhaustive()
    }
}

/// The handle, and what the last item told. `None` after an error: the stream ends.
type Following = (Handle, Option<Known>);

async fn next_leader(
    (handle, known): Following,
) -> Option<(Result<Option<Contender>, QueryError>, Following)> {
    let known = known?;
    let ask = || {
        let (reply, answer) = oneshot::channel();
        let message = LockMessage::First(handle.options().patterns.clone(), known, reply);
        let sent = handle.shared().send(handle.to_lock(message));
        sent.then_some(async { answer.await.unwrap_or(Err(QueryError::Disconnected)) })
    };
    match insist(ask).await? {
        Ok(leader) => {
            let known = leader.as_ref().map_or(Known::Nobody, |leader| Known::First(leader.token));
            Some((Ok(leader), (handle, Some(known))))
        }
        Err(error) => Some((Err(error), (handle, None))),
    }
}

/// Repeats a question until there is an answer, or an error that will not change. `None` if the keeper is closed.
async fn insist<T, F>(mut ask: impl FnMut() -> Option<F>) -> Option<Result<T, QueryError>>
where
    F: Future<Output = Result<T, QueryError>>,
{
    let (backoff, randomness, mut failures) = (Backoff::default(), Randomness::default(), 0);
    loop {
        match ask()?.await {
            Ok(answer) => return Some(Ok(answer)),
            Err(error @ QueryError::NoAuth { .. }) => return Some(Err(error)),
            Err(QueryError::Closed) => return None,
            // There is no session, so nothing was sent to a server.
            Err(QueryError::Disconnected) => tokio::time::sleep(RETRY).await,
            Err(_) => {
                tokio::time::sleep(backoff.rest(failures, randomness.next())).await;
                failures += 1;
            }
        }
    }
}

/// The pause between two checks for a session.
const RETRY: Duration = Duration::from_millis(100);

impl fmt::Debug for Singleton {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Singleton").field("path", &self.path()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_that_refuses_is_asked_less_and_less_often() {
        let mut asked = 0;
        let ask = || {
            asked += 1;
            Some(async {
                Err::<(), _>(QueryError::Rejected { path: "/a".into(), reason: "throttled".into() })
            })
        };
        let two_seconds = tokio::time::timeout(Duration::from_secs(2), insist(ask)).await;
        assert!(two_seconds.is_err(), "it must go on asking");
        assert!(asked <= 9, "asked {asked} times in two seconds");
    }
}
