//! An actor that works for as long as a guard is held.

use std::fmt;
use std::marker::PhantomData;

use lockkeeper_actors::error::Lost;
use lockkeeper_actors::job::{Job, TermEvent};
use lockkeeper_actors::lease::Term;
use lockkeeper_actors::tenure::{self, Reason, TenureActor, TenureArguments, TenureMessage, Terms};
use ractor::{Actor, ActorRef, ActorRuntime, Message};
use tokio::sync::oneshot;

use crate::guard::{Exclusive, Guard};
use crate::subscribe;

impl<M: 'static> Guard<M> {
    /// Starts an actor that works under this guard, and with it all the children that it links to itself: they run
    /// only while the lock is held.
    ///
    /// `make` is given the [`Term`], with its fencing token, and gives the actor and its arguments; `tell` makes its
    /// messages of what becomes of the lease, or none. The actor is told of a doubt, at the latest when five sixteenths
    /// of the session timeout are left before somebody else can hold; stopped when a quarter is left, or at the first
    /// doubt, as `terms` say; killed when an eighth is left, and at once when the lease is found lost. A doubt that
    /// lasts so costs the run, and not only the lock. Tasks that the actor spawned are its own to end, and a
    /// `pre_start` or handler that never awaits cannot be killed: then the token is what protects.
    ///
    /// Children of an actor that ends by itself, or fails, are killed with it and end at their next await; the guard
    /// does not wait for that. An actor whose children must not outlive the lock ends them before it ends.
    ///
    /// The guard comes back when the actor has ended.
    ///
    /// ```
    /// # #[cfg(not(feature = "cluster"))]
    /// # mod hidden {
    /// # use lockkeeper::{Keeper, Reason, Term, TermEvent, Terms};
    /// # use ractor::{Actor, ActorProcessingErr, ActorRef};
    /// struct Import;
    ///
    /// #[ractor::actor(message = TermEvent, state = Term, arguments = Term)]
    /// impl Import {
    ///     async fn pre_start(&self, me: ActorRef<TermEvent>, term: Term) -> Result<Term, ActorProcessingErr> {
    ///         me.stop(None); // nothing to do today
    ///         Ok(term)
    ///     }
    /// }
    ///
    /// # pub async fn example(keeper: Keeper) -> Result<(), Box<dyn std::error::Error>> {
    /// let guard = keeper.lock("/locks/import")?.acquire().await?;
    /// let run = guard.run(Terms::default(), |term| (Import, term), Some);
    /// let ended = run.ended().await?;
    /// assert_eq!(ended.reason, Reason::Finished);
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
        terms: Terms,
        make: impl FnOnce(Term) -> (A, A::Arguments) + Send + 'static,
        tell: impl Fn(TermEvent) -> Option<A::Msg> + Send + Sync + 'static,
    ) -> Run<M> {
        let (sender, ended) = oneshot::channel();
        let keeper = Some(self.0.keeper().clone());
        let finish = Box::new(|ended| {
            // Nobody asks any more: the lease goes, and that releases the lock.
            let _ = sender.send(ended);
        });
        let (job, started) = (Job::once(make, tell), Box::new(|| {}));
        let arguments = TenureArguments { keeper, lease: self.0, job, terms, started, finish };
        let spawned = ActorRuntime::spawn_instant(None, TenureActor, arguments);
        Run { actor: spawned.ok().map(|(actor, _)| actor), ended, guard: PhantomData }
    }
}

/// An actor that works under a guard. Dropping it stops the actor, as [`stop`](Run::stop) does, and then releases the
/// lock.
#[must_use = "dropping the run ends it"]
pub struct Run<M = Exclusive> {
    actor: Option<ActorRef<TenureMessage>>,
    ended: oneshot::Receiver<tenure::Ended>,
    guard: PhantomData<fn() -> M>,
}

/// A run that is over: its actor has ended.
#[derive(Debug)]
pub struct Ended<M = Exclusive> {
    /// Why.
    pub reason: Reason,
    /// The actor's error, or that it panicked.
    pub error: Option<String>,
    /// The lock. It may still be held, also when the lease was coming to its end: see [`Guard::state`].
    pub guard: Guard<M>,
}

impl<M: 'static> Run<M> {
    /// Asks the actor to stop, and kills it after its grace. The run is over when it has ended.
    pub fn stop(&self) {
        if let Some(actor) = &self.actor {
            // One that is over need not be told.
            let _ = actor.cast(TenureMessage::Stop);
        }
    }

    /// Waits until the actor has ended, and gives the guard back. Dropping the future ends the run.
    ///
    /// # Errors
    ///
    /// [`Lost`] when the keeper was closed already, and nothing was started.
    pub async fn ended(mut self) -> Result<Ended<M>, Lost> {
        let ended = (&mut self.ended).await.map_err(|_| Lost)?;
        let tenure::Ended { lease, reason, error, job: _ } = ended;
        Ok(Ended { reason, error, guard: Guard::new(lease) })
    }

    /// The same by message. The run goes on by itself; when `actor` has gone, it ends.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime.
    pub fn forward<T: Message>(
        self,
        actor: &ActorRef<T>,
        convert: impl FnMut(Result<Ended<M>, Lost>) -> T + Send + 'static,
    ) {
        subscribe::forward(futures::stream::once(self.ended()), actor, convert);
    }
}

impl<M> Drop for Run<M> {
    fn drop(&mut self) {
        if let Some(actor) = &self.actor {
            let _ = actor.cast(TenureMessage::Stop);
        }
    }
}

impl<M> fmt::Debug for Run<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run").finish_non_exhaustive()
    }
}
