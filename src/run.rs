//! Actors that run under a guard.

use std::fmt;

use lockkeeper_actors::api::error::LostError;
use lockkeeper_actors::api::keep_alive::KeeperRequest;
#[doc(inline)]
pub use lockkeeper_actors::api::lease_view::LeaseView;
use lockkeeper_actors::record::Recording;
#[doc(inline)]
pub use lockkeeper_actors::run::failure::{Crash, RunFailure};
use lockkeeper_actors::run::worker::ActorFactory;
#[doc(inline)]
pub use lockkeeper_actors::run::worker::LeaseEvent;
use lockkeeper_actors::run::{self, RunArguments, RunMessage};
#[doc(inline)]
pub use lockkeeper_actors::run::{EndReason, StopPolicy};
use ractor::{Actor, ActorRef, DerivedActorRef, Message};
use tokio::sync::oneshot;

use crate::guard::{Guard, LockGuard};
use crate::multi_lock::MultiGuard;
use crate::subscribe;

impl<M: 'static> Guard<M> {
    /// Starts an actor that runs only while the lock is held. The same applies to the children that it links to itself.
    /// The guard is returned when the actor has ended.
    ///
    /// `make` receives the [`LeaseView`], which has the fencing token, and returns the actor and its arguments. `tell`
    /// converts changes of the lease to messages for the actor; it may return `None`.
    ///
    /// If the connection is suspended, the actor and its children are ended before another holder can get the lock:
    ///
    /// - the actor is told at the latest when 5/16 of the session timeout are left of the lease;
    /// - it is stopped when 1/4 is left, or as soon as the connection is suspended if `stop_policy` says so;
    /// - it is killed when 1/8 is left, and immediately if the lease is already lost.
    ///
    /// If the lease is lost before the actor is started, neither `make` nor the actor runs, and the run ends with
    /// [`EndReason::Lease`].
    ///
    /// A `pre_start` or handler that never awaits cannot be killed; only the fencing token protects against it. Tasks
    /// that the actor has spawned are not ended either: the actor must do that.
    ///
    /// If the actor ends by itself or fails, its children are killed. They end at their next await, and the guard does
    /// not wait for that. If children must not outlive the lock, the actor must end them before it ends.
    ///
    /// ```
    /// # #[cfg(not(feature = "cluster"))]
    /// # mod hidden {
    /// # use lockkeeper::Keeper;
    /// # use lockkeeper::run::{EndReason, LeaseEvent, LeaseView, StopPolicy};
    /// # use ractor::{Actor, ActorProcessingErr, ActorRef};
    /// struct Import;
    ///
    /// #[ractor::actor(message = LeaseEvent, state = LeaseView, arguments = LeaseView)]
    /// impl Import {
    ///     async fn pre_start(&self, me: ActorRef<LeaseEvent>, lease: LeaseView) -> Result<LeaseView, ActorProcessingErr> {
    ///         me.stop(None); // nothing to do today
    ///         Ok(lease)
    ///     }
    /// }
    ///
    /// # pub async fn example(keeper: Keeper) -> Result<(), Box<dyn std::error::Error>> {
    /// let guard = keeper.lock("/locks/import")?.acquire().await?;
    /// let run = guard.run(StopPolicy::default(), |lease| (Import, lease), Some);
    /// let ended = run.ended().await?;
    /// assert_eq!(ended.reason, EndReason::Finished);
    /// ended.guard.release().await?;
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
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime.
    pub fn run<A: Actor>(
        self,
        stop_policy: StopPolicy,
        make: impl FnOnce(LeaseView) -> (A, A::Arguments) + Send + 'static,
        tell: impl Fn(LeaseEvent) -> Option<A::Msg> + Send + Sync + 'static,
    ) -> Run<Guard<M>> {
        let (keep_alive, view) = (self.0.keep_alive(), self.view());
        let (keeper, recording) = (Some(keep_alive.keeper().clone()), keep_alive.recording().cloned());
        start(self, view, keeper, recording, ActorFactory::once(make, tell), stop_policy)
    }
}

impl MultiGuard {
    /// Starts an actor that runs only while all locks are held: see [`Guard::run`]. The view has the tokens of all locks.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime.
    pub fn run<A: Actor>(
        self,
        stop_policy: StopPolicy,
        make: impl FnOnce(LeaseView) -> (A, A::Arguments) + Send + 'static,
        tell: impl Fn(LeaseEvent) -> Option<A::Msg> + Send + Sync + 'static,
    ) -> Run<MultiGuard> {
        let (keep_alive, view) = (self.0.keep_alive(), self.view());
        let keeper = keep_alive.map(|keep_alive| keep_alive.keeper().clone());
        let recording = keep_alive.and_then(|keep_alive| keep_alive.recording().cloned());
        start(self, view, keeper, recording, ActorFactory::once(make, tell), stop_policy)
    }
}

fn start<G: Send + 'static>(
    guard: G,
    view: LeaseView,
    keeper: Option<DerivedActorRef<KeeperRequest>>,
    recording: Option<Recording>,
    factory: ActorFactory,
    stop_policy: StopPolicy,
) -> Run<G> {
    let (sender, ended) = oneshot::channel();
    let finish = Box::new(|run::Ended { reason, failure, factory: _ }| {
        // If the run was dropped, the guard is dropped here, which releases the lock.
        let _ = sender.send(Ended { reason, failure, guard });
    });
    let started = Box::new(drop);
    let arguments = RunArguments { keeper, view, factory, stop_policy, started, finish, recording };
    Run { actor: run::start(arguments), ended }
}

/// An actor that runs under a guard. Dropping it stops the actor, as [`stop`](Run::stop) does, and then releases the
/// lock.
#[must_use = "dropping the run ends it"]
pub struct Run<G = LockGuard> {
    actor: Option<ActorRef<RunMessage>>,
    ended: oneshot::Receiver<Ended<G>>,
}

/// The result of a run, after its actor has ended.
#[derive(Debug)]
#[non_exhaustive]
pub struct Ended<G = LockGuard> {
    /// Why the actor ended.
    pub reason: EndReason,
    /// Why the run failed, if it did.
    pub failure: Option<RunFailure>,
    /// The guard. The lock may still be held, even if the run ended because of the lease: see [`Guard::state`].
    pub guard: G,
}

impl<G: Send + 'static> Run<G> {
    /// Asks the actor to stop, and kills it after its [grace](StopPolicy::grace). Does not wait for its end.
    pub fn stop(&self) {
        if let Some(actor) = &self.actor {
            // This fails if the run has ended already.
            let _ = actor.cast(RunMessage::Stop);
        }
    }

    /// Waits until the actor has ended, and returns the guard.
    ///
    /// # Errors
    ///
    /// [`LostError`] if the keeper was closed already, so the actor was not started.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the run, as dropping the `Run` does.
    pub async fn ended(mut self) -> Result<Ended<G>, LostError> {
        (&mut self.ended).await.map_err(|_| LostError)
    }

    /// Sends the result of [`ended`](Run::ended) to `actor`. If `actor` ends first, the run ends, too.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime.
    pub fn forward<T: Message>(
        self,
        actor: &ActorRef<T>,
        convert: impl FnMut(Result<Ended<G>, LostError>) -> T + Send + 'static,
    ) {
        subscribe::forward(futures::stream::once(self.ended()), actor, convert);
    }
}

impl<G> Drop for Run<G> {
    fn drop(&mut self) {
        if let Some(actor) = &self.actor {
            let _ = actor.cast(RunMessage::Stop);
        }
    }
}

impl<G> fmt::Debug for Run<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run").finish_non_exhaustive()
    }
}
