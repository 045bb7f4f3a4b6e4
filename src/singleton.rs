//! Actors that run once in the cluster.

mod candidate;
mod leaders;
mod options;

use std::fmt;
use std::sync::Arc;

use lockkeeper_actors::Randomness;
use lockkeeper_actors::api::contender::Contender;
use lockkeeper_actors::api::error::QueryError;
use lockkeeper_actors::api::lease_view::LeaseView;
use lockkeeper_actors::api::resource::Resource;
use lockkeeper_actors::backoff::Backoff;
use lockkeeper_actors::candidate::{CandidateActor, CandidateArguments, Supervisor};
#[doc(inline)]
pub use lockkeeper_actors::candidate::{CandidateState, RestReason, RunFailed};
use lockkeeper_actors::machine::exclusion::Mode;
use lockkeeper_actors::machine::path_rules::InvalidPath;
use lockkeeper_actors::run::StopPolicy;
use lockkeeper_actors::run::worker::{ActorFactory, LeaseEvent};
use ractor::{Actor, ActorRef, ActorRuntime, Message};
use tokio::sync::watch;

pub(crate) use self::candidate::Candidacy;
pub use self::candidate::Candidate;
pub use self::leaders::Leaders;
pub(crate) use self::leaders::ask_leader;
pub use self::options::SingletonOptions;
use crate::handle::{Handle, Shared};
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
    supervisor: Option<Supervisor>,
}

impl Singleton {
    /// Expects options that have been [checked](SingletonOptions::checked).
    pub(crate) fn new(
        shared: &Arc<Shared>,
        path: &str,
        options: SingletonOptions,
    ) -> Result<Singleton, InvalidPath> {
        let SingletonOptions { lock, stop_policy, backoff, supervisor } = options;
        let handle = Handle::open(shared, Resource::lock(path), Mode::Lock, lock)?;
        Ok(Singleton { handle, stop_policy, backoff, supervisor })
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
    ) -> Candidate<A::Msg> {
        let (states, state) = watch::channel(CandidateState::Waiting);
        let shared = self.handle.shared();
        let arguments = CandidateArguments {
            clock: shared.started.clock,
            registry: shared.started.registry.clone(),
            keep_alive: shared.keep_alive.clone(),
            path: self.handle.path().clone(),
            options: self.handle.options().clone(),
            randomness: Randomness::default(),
            stop_policy: self.stop_policy,
            backoff: self.backoff,
            supervisor: self.supervisor.clone(),
            states,
            metrics: shared.started.metrics.clone(),
        };
        let arguments = (arguments, ActorFactory::new(make, tell));
        // This fails only for a name that is taken, and there is none. The state reports a failed start: with a closed
        // keeper, it is `Over`.
        let spawned = ActorRuntime::spawn_instant(None, CandidateActor::<A::Msg>::default(), arguments);
        Candidate::new(Candidacy::new(self.handle.clone(), spawned.ok().map(|(actor, _)| actor), state))
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
        ask_leader(&self.handle).await
    }

    /// The [leader](Singleton::leader) as a stream: the current one, then each change.
    pub fn leaders(&self) -> Leaders {
        Leaders::new(&self.handle)
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

impl fmt::Debug for Singleton {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Singleton").field("path", &self.path()).finish_non_exhaustive()
    }
}
