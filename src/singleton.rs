//! An actor that runs once in the cluster, and who runs it.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use lockkeeper_actors::Randomness;
use lockkeeper_actors::backoff::Backoff;
use lockkeeper_actors::error::ContendersError;
use lockkeeper_actors::job::{Job, TermEvent};
use lockkeeper_actors::lease::{FencingToken, Term};
use lockkeeper_actors::machine::znode::{InvalidName, Mode};
use lockkeeper_actors::messages::{Contender, LockMessage, Place};
use lockkeeper_actors::singleton::{CandidateState, SingletonActor, SingletonArguments, SingletonMessage};
use lockkeeper_actors::tenure::Terms;
use lockkeeper_actors::zookeeper::Acl;
use ractor::{Actor, ActorRef, ActorRuntime, Message};
use tokio::sync::{oneshot, watch};

use crate::handle::{Handle, Shared};
use crate::options::{InvalidLock, LockOptions};
use crate::subscribe;

/// A handle to an actor that runs on exactly one member of the cluster. Cheap to clone; by itself it is no
/// candidate, only an observer.
///
/// It is a [`Lock`](crate::Lock) on the same path, on the same wire: whoever is first in its queue runs the actor. What the
/// README says of locks holds for it, above all that an actor whose *process* was paused, or whose handler never
/// awaits, cannot be stopped by anybody: what it writes must carry its fencing token.
///
/// ```
/// # #[cfg(not(feature = "cluster"))]
/// # mod hidden {
/// # use lockkeeper::{Keeper, Term, TermEvent};
/// use ractor::{Actor, ActorProcessingErr, ActorRef};
///
/// struct Scheduler;
///
/// #[ractor::actor(message = TermEvent, state = Term, arguments = Term)]
/// impl Scheduler {
///     async fn pre_start(&self, _: ActorRef<TermEvent>, term: Term) -> Result<Term, ActorProcessingErr> {
///         println!("this process is the one, under token {}", term.token());
///         Ok(term)
///     }
/// }
///
/// # pub async fn example(keeper: Keeper) -> Result<(), Box<dyn std::error::Error>> {
/// use lockkeeper::SingletonOptions;
///
/// let options = SingletonOptions::new().advertise("10.0.0.7:9000");
/// let scheduler = keeper.singleton_with("/singletons/scheduler", options)?;
/// let mut candidate = scheduler.run(|term| (Scheduler, term), Some);
///
/// candidate.running().await; // this member's turn has come
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
    terms: Terms,
    backoff: Backoff,
}

impl Singleton {
    /// The options have been checked.
    pub(crate) fn new(
        shared: &Arc<Shared>,
        path: &str,
        options: SingletonOptions,
    ) -> Result<Singleton, InvalidName> {
        let SingletonOptions { lock, terms, backoff } = options;
        let handle = Handle::open(shared, Place::lock(path), Mode::Lock, lock)?;
        Ok(Singleton { handle, terms, backoff })
    }

    /// The path that the members share.
    pub fn path(&self) -> &str {
        self.handle.path()
    }

    /// Makes this process a candidate, now and again until the [`Candidate`] is dropped or shut down.
    ///
    /// When its turn comes, `make` is given the [`Term`], with its fencing token, and gives the actor and its
    /// arguments; that actor is started, and from then on it:
    ///
    /// - is told of a connection in doubt by the messages that `tell` makes, if it makes any: at the latest when five
    ///   sixteenths of the session timeout are left before somebody else can hold;
    /// - is stopped when a quarter is left, or at the first doubt
    ///   ([`stop_when_suspended`](SingletonOptions::stop_when_suspended)). An eighth of the session timeout, or its
    ///   [grace](SingletonOptions::grace) if that is shorter, is for its `post_stop`. Then it is killed, and at once
    ///   when the lease is found lost. Its children, linked to it, are killed with it. Tasks that it spawned are its
    ///   own to end;
    /// - when it fails or ends by itself, hands the lock to the next member. This one queues again, at the tail,
    ///   after a [rest](SingletonOptions::backoff). Every run has a lock, and a token, of its own. Its children are
    ///   killed with it, and end at their next await, which is not waited for;
    /// - is killed when the keeper dies, for example with the supervisor that the keeper is linked to, also in its
    ///   `pre_start` and `post_stop`. The session stays open until it has ended, for one session timeout at most.
    ///
    /// A doubt that lasts costs the run and not only the lock: the actor ends, and it is started again on a member
    /// whose turn it is, with another token and without its state. A doubt that passes costs a message. The message
    /// waits in the mailbox like any other, and those that wait when the actor is stopped are discarded. In a process
    /// that was paused, the actor is told when the process goes on, and stopped a sixteenth of the session timeout
    /// later, or killed if there is less time.
    ///
    /// A `pre_start`, handler or `post_stop` that blocks its thread, and never awaits, cannot be killed. While the
    /// keeper lives, this process starts no other one; when the session ends or the keeper dies, another member does,
    /// and only the token protects from the one that blocks.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime.
    pub fn run<A: Actor>(
        &self,
        make: impl FnMut(Term) -> (A, A::Arguments) + Send + 'static,
        tell: impl Fn(TermEvent) -> Option<A::Msg> + Send + Sync + 'static,
    ) -> Candidate {
        let (states, state) = watch::channel(CandidateState::Waiting);
        let shared = self.handle.shared();
        let arguments = SingletonArguments {
            keeper: shared.started.keeper.clone(),
            primitives: shared.started.primitives.clone(),
            lifeline: shared.lifeline.clone(),
            place: self.handle.place().clone(),
            options: self.handle.options().clone(),
            job: Job::new(make, tell),
            randomness: Randomness::default(),
            terms: self.terms,
            backoff: self.backoff,
            states,
        };
        // Only a name that is taken could fail it. What becomes of the start is told by the state: a closed keeper's
        // candidate is over.
        let spawned = ActorRuntime::spawn_instant(None, SingletonActor, arguments);
        Candidate { actor: spawned.ok().map(|(actor, _)| actor), state }
    }

    /// Who runs the actor: the first in the queue, who runs it or is about to, with its advertised data as
    /// [`identifier`](Contender::identifier). `None` when there is no candidate. Makes nothing.
    ///
    /// A member that has died is shown until its session has ended.
    ///
    /// # Cancel safety
    ///
    /// Nothing is changed.
    pub async fn leader(&self) -> Result<Option<Contender>, ContendersError> {
        let (reply, answer) = oneshot::channel();
        self.handle.send(LockMessage::First(self.handle.options().patterns.clone(), None, reply));
        self.handle.answered(answer.await)
    }

    /// Tells who runs the actor: now, and whenever it changes.
    pub fn leaders(&self) -> Leaders {
        let changes = stream::unfold((self.handle.clone(), Some(None)), next_leader);
        Leaders(changes.boxed())
    }

    /// The same by message, for as long as `actor` lives. An access list that forbids it ends it, with the last
    /// message.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime.
    pub fn subscribe<T: Message>(
        &self,
        actor: &ActorRef<T>,
        convert: impl FnMut(Result<Option<Contender>, ContendersError>) -> T + Send + 'static,
    ) {
        subscribe::forward(self.leaders(), actor, convert);
    }
}

/// A candidacy. Dropping it ends it in the background, as [`shutdown`](Candidate::shutdown) does.
#[must_use = "dropping the candidate ends the candidacy"]
pub struct Candidate {
    actor: Option<ActorRef<SingletonMessage>>,
    state: watch::Receiver<CandidateState>,
}

impl Candidate {
    /// Where it stands.
    pub fn state(&self) -> CandidateState {
        // The sender goes with the actor.
        match self.state.has_changed() {
            Ok(_) => self.state.borrow().clone(),
            Err(_) => CandidateState::Over,
        }
    }

    /// The term of the actor, while it runs here. `None` while it is starting.
    pub fn term(&self) -> Option<Term> {
        match self.state() {
            CandidateState::Running(term) => Some(term),
            _ => None,
        }
    }

    /// Waits until the state is another one, and tells which; states that pass quickly may be missed. At the end
    /// it is [`CandidateState::Over`], at once. Cancel safe.
    pub async fn changed(&mut self) -> CandidateState {
        match self.state.changed().await {
            Ok(()) => self.state.borrow_and_update().clone(),
            Err(_) => CandidateState::Over,
        }
    }

    /// Waits until the actor runs here, and gives its term; `None` when the candidacy is over before. An actor runs
    /// when its `pre_start` is over; until then it is [`CandidateState::Starting`]. Cancel safe.
    pub async fn running(&mut self) -> Option<Term> {
        let found =
            self.state.wait_for(|state| matches!(state, CandidateState::Running(_) | CandidateState::Over));
        match &*found.await.ok()? {
            CandidateState::Running(term) => Some(term.clone()),
            _ => None,
        }
    }

    /// Hands over: asks the actor to stop, waits until it has ended (and kills it after its
    /// [grace](SingletonOptions::grace)), then releases the lock. Returns when the server has confirmed that. Goes on
    /// when this future is dropped.
    pub async fn shutdown(mut self) {
        self.ask_to_end();
        while !matches!(self.changed().await, CandidateState::Over) {}
    }

    fn ask_to_end(&mut self) {
        if let Some(actor) = self.actor.take() {
            // One that is over needs no asking.
            let _ = actor.cast(SingletonMessage::Shutdown);
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

/// Options of a [`Singleton`] handle, and of the candidates that it makes.
#[derive(Clone, Debug, Default)]
pub struct SingletonOptions {
    lock: LockOptions,
    terms: Terms,
    backoff: Backoff,
}

impl SingletonOptions {
    /// The defaults.
    pub fn new() -> SingletonOptions {
        SingletonOptions::default()
    }

    /// What everybody may know of this member, above all how to reach it; the keeper's identifier unless set. At
    /// most 960 KiB.
    pub fn advertise(self, data: impl Into<String>) -> Self {
        SingletonOptions { lock: self.lock.identifier(data), ..self }
    }

    /// How long the actor may take to stop, its `post_stop` included, before it is killed. Five seconds unless set.
    /// When it is stopped because the lease comes to its end, it has an eighth of the session timeout at most: a
    /// `post_stop` that needs a second asks for a session timeout of more than eight.
    pub fn grace(self, grace: Duration) -> Self {
        SingletonOptions { terms: Terms { grace, ..self.terms }, ..self }
    }

    /// `true` stops the actor as soon as the connection is in doubt, and not only when a quarter of the session
    /// timeout is left; every short interruption then moves it to another member. The stop takes the place of
    /// [`TermEvent::Suspended`], which would be discarded with the other messages.
    pub fn stop_when_suspended(self, stop_when_suspended: bool) -> Self {
        SingletonOptions { terms: Terms { stop_when_suspended, ..self.terms }, ..self }
    }

    /// How long this member rests after a run that failed, or ended by itself: `initial`, then twice as long each
    /// time up to `maximum`, less a random part of up to a half. From a tenth of a second to five unless set. A run
    /// that lasted longer than `maximum` begins anew.
    pub fn backoff(self, initial: Duration, maximum: Duration) -> Self {
        SingletonOptions { backoff: Backoff { initial, maximum }, ..self }
    }

    /// The access list of the candidate's node, and of directories that must be made; the keeper's unless set.
    /// Others must be able to read it.
    pub fn acl(self, acl: Vec<Acl>) -> Self {
        SingletonOptions { lock: self.lock.acl(acl), ..self }
    }

    /// The same options, if they can be used.
    pub(crate) fn checked(self) -> Result<SingletonOptions, InvalidLock> {
        Ok(SingletonOptions { lock: self.lock.checked()?, ..self })
    }
}

/// Who runs the actor, as a stream: the current one first, then the next one whenever it has changed, `None` when there
/// is no candidate.
///
/// It shows the newest, not all: a watch tells that something has changed, not what, and between two looks a leader may
/// come and go. One that serves for less than a few round trips, or while this stream is not polled or not connected,
/// may never be shown. Whoever must know of each gives it to the leader to tell.
///
/// A path that does not exist yet is watched, so its first leader is shown as soon as it is there. When there is no
/// room for another watch in the session, it looks once a second. When ZooKeeper refuses or does not answer, it asks
/// again after a rest that doubles, from a tenth of a second to five seconds. While there is no connection it is silent.
/// Ends when the keeper is closed, or after an error: an access list that forbids to look.
pub struct Leaders(BoxStream<'static, Result<Option<Contender>, ContendersError>>);

impl Stream for Leaders {
    type Item = Result<Option<Contender>, ContendersError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(context)
    }
}

impl fmt::Debug for Leaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaders").finish_non_exhaustive()
    }
}

/// Whom the last item showed, if there was one; `None` after an error.
type Known = Option<Option<Option<FencingToken>>>;

async fn next_leader(
    (handle, known): (Handle, Known),
) -> Option<(Result<Option<Contender>, ContendersError>, (Handle, Known))> {
    let known = known?;
    let ask = || {
        let (reply, answer) = oneshot::channel();
        let message = LockMessage::First(handle.options().patterns.clone(), known, reply);
        handle.send(message).then_some(async { answer.await.unwrap_or(Err(ContendersError::Disconnected)) })
    };
    match insist(ask).await? {
        Ok(leader) => {
            let token = leader.as_ref().map(|leader| leader.token);
            Some((Ok(leader), (handle, Some(Some(token)))))
        }
        Err(error) => Some((Err(error), (handle, None))),
    }
}

/// Asks until there is an answer, or an error that asking again does not change; `None` when nobody can be asked.
async fn insist<T, F>(mut ask: impl FnMut() -> Option<F>) -> Option<Result<T, ContendersError>>
where
    F: Future<Output = Result<T, ContendersError>>,
{
    let (backoff, randomness, mut failures) = (Backoff::default(), Randomness::default(), 0);
    loop {
        match ask()?.await {
            Ok(answer) => return Some(Ok(answer)),
            Err(error @ (ContendersError::NoAuth { .. } | ContendersError::Ephemeral { .. })) => {
                return Some(Err(error));
            }
            Err(ContendersError::Closed) => return None,
            // Nothing was sent to a server: there is no session.
            Err(ContendersError::Disconnected) => tokio::time::sleep(RETRY).await,
            Err(_) => {
                tokio::time::sleep(backoff.rest(failures, randomness.next())).await;
                failures += 1;
            }
        }
    }
}

/// Between two looks for a session.
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
            Some(async { Err::<(), _>(ContendersError::Failed { reason: "throttled".into() }) })
        };
        let two_seconds = tokio::time::timeout(Duration::from_secs(2), insist(ask)).await;
        assert!(two_seconds.is_err(), "it goes on asking");
        assert!(asked <= 9, "asked {asked} times in two seconds");
    }
}
