//! Starts an application's actor of any type, and sends it lease events.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::{BoxFuture, join_all};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, ActorRuntime, SpawnErr, SupervisionEvent};
use tokio::task::JoinHandle;
use tracing::warn;

use super::failure::{Crash, WorkerEnd};
use crate::api::lease_view::LeaseView;
pub use crate::machine::run::LeaseEvent;

/// Starts actors under leases, and sends them the events of their lease.
pub struct ActorFactory(Box<Spawn>);

type Spawn = dyn FnMut(LeaseView, ActorCell) -> Result<(Worker, Start), WorkerEnd> + Send;

/// A starting or running actor. Dropping this kills it: ractor links an actor that is spawned "instant" only after its
/// `pre_start`, so until then it would survive the death of its supervisor.
pub(crate) struct Worker {
    pub cell: ActorCell,
    tell: Box<dyn Fn(LeaseEvent) + Send + Sync>,
    end: Arc<End>,
}

/// Resolves when the actor's `pre_start` has ended: with its task, which ends when the actor and its state are dropped,
/// or with the actor's end if it failed.
pub(crate) type Start = BoxFuture<'static, Result<JoinHandle<()>, WorkerEnd>>;

/// State about an actor's end, shared by the actor and the run that started it.
#[derive(Default)]
struct End {
    /// The actor was killed, so `pre_start` must not begin.
    killed: AtomicBool,
    /// `post_stop` has run to its end.
    stopped: AtomicBool,
    /// One of the actor's methods has panicked. ractor reports a panic as it reports an error.
    panicked: AtomicBool,
    /// The run has stopped or killed the actor.
    ending: AtomicBool,
    descendants: Descendants,
}

/// The actors that end with the application's actor, but not at once: all its descendants that were seen when the run
/// stopped or killed it, or when one of its methods ended after that.
#[derive(Clone, Default)]
pub(crate) struct Descendants(Arc<Mutex<Vec<ActorCell>>>);

impl ActorFactory {
    /// `make` returns the actor and its arguments. `tell` turns an event of the lease into a message for the actor, or
    /// into none. Both are called by actors of this crate, and must not block. A panic in `make` fails the run; after a
    /// panic in `tell`, the event is not delivered.
    pub fn new<A: Actor>(
        mut make: impl FnMut(LeaseView) -> (A, A::Arguments) + Send + 'static,
        tell: impl Fn(LeaseEvent) -> Option<A::Msg> + Send + Sync + 'static,
    ) -> ActorFactory {
        let tell = Arc::new(tell);
        ActorFactory(Box::new(move |view, supervisor| spawn(make(view), tell.clone(), supervisor)))
    }

    /// A factory for one run. A second run fails.
    pub fn once<A: Actor>(
        make: impl FnOnce(LeaseView) -> (A, A::Arguments) + Send + 'static,
        tell: impl Fn(LeaseEvent) -> Option<A::Msg> + Send + Sync + 'static,
    ) -> ActorFactory {
        let (mut make, mut tell) = (Some(make), Some(tell));
        ActorFactory(Box::new(move |view, supervisor| match (make.take(), tell.take()) {
            (Some(make), Some(tell)) => spawn(make(view), Arc::new(tell), supervisor),
            _ => {
                let error = ActorProcessingErr::from("this factory can start only one run");
                Err(WorkerEnd::Crashed(Crash::Error(error.into())))
            }
        }))
    }

    pub(crate) fn spawn(
        &mut self,
        view: LeaseView,
        supervisor: ActorCell,
    ) -> Result<(Worker, Start), WorkerEnd> {
        // The next run calls the closure again, even after a panic.
        catch_unwind(AssertUnwindSafe(|| (self.0)(view, supervisor)))
            .unwrap_or_else(|payload| Err(WorkerEnd::Crashed(Crash::of_panic(payload))))
    }
}

fn spawn<A: Actor>(
    (actor, arguments): (A, A::Arguments),
    tell: Arc<impl Fn(LeaseEvent) -> Option<A::Msg> + Send + Sync + 'static>,
    supervisor: ActorCell,
) -> Result<(Worker, Start), WorkerEnd> {
    let end = Arc::new(End::default());
    let watched = Watched { actor, end: end.clone() };
    let spawned = ActorRuntime::spawn_linked_instant(None, watched, arguments, supervisor);
    let (actor, starting) = spawned.map_err(|error| end.after(error.into()))?;
    let (cell, end_of_start) = (actor.get_cell(), end.clone());
    let start = Box::pin(async move {
        let error = match starting.await {
            Ok(Ok(task)) => return Ok(task),
            Ok(Err(SpawnErr::StartupFailed(error))) => error,
            Ok(Err(error)) => error.into(),
            Err(error) => error.into(),
        };
        Err(end_of_start.after(error))
    });
    let tell = Box::new(move |event| {
        if let Some(message) = tell(event) {
            // The actor may have ended.
            let _ = actor.cast(message);
        }
    });
    Ok((Worker { cell, tell, end }, start))
}

impl Worker {
    pub fn tell(&self, event: LeaseEvent) {
        if catch_unwind(AssertUnwindSafe(|| (self.tell)(event))).is_err() {
            warn!(?event, "the function that turns lease events into messages panicked");
        }
    }

    /// How the actor ended, if it did not fail. The reason that ractor reports does not show whether it was killed,
    /// because any caller can stop an actor with the reason "killed".
    pub fn terminated(&self) -> WorkerEnd {
        match self.end.stopped.load(Ordering::SeqCst) {
            true => WorkerEnd::Stopped,
            false => WorkerEnd::Killed,
        }
    }

    /// How the actor ended, if it failed with this error.
    pub fn failed(&self, error: ActorProcessingErr) -> WorkerEnd {
        WorkerEnd::Crashed(self.end.crash(error))
    }

    /// Asks the actor to stop.
    pub fn stop(&self) {
        self.end.begin(&self.cell);
        self.cell.stop(None);
    }

    /// Ends the actor and its descendants at their next await, also in `pre_start` and `post_stop`.
    pub fn kill(&self) {
        self.end.killed.store(true, Ordering::SeqCst);
        self.end.begin(&self.cell);
        self.cell.kill();
        // The end of a supervisor does not kill children that are in their `post_stop`, so they are killed here.
        self.end.descendants.lock().iter().for_each(ActorCell::kill);
    }

    pub fn descendants(&self) -> Descendants {
        self.end.descendants.clone()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Descendants {
    pub fn extend(&self, actors: impl IntoIterator<Item = ActorCell>) {
        self.lock().extend(actors);
    }

    /// Waits until all have ended. Their tasks are not known: what they drop after their end was reported may take
    /// longer.
    pub async fn gone(&self) {
        let actors = self.lock().clone();
        join_all(actors.iter().map(|actor| actor.wait(None))).await;
    }

    fn extend_from(&self, ancestor: &ActorCell) {
        let mut open = ancestor.get_children();
        while let Some(actor) = open.pop() {
            open.extend(actor.get_children());
            self.lock().push(actor);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<ActorCell>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl End {
    /// The order matters: what a method links after the descendants were read is seen when the method ends.
    fn begin(&self, actor: &ActorCell) {
        self.ending.store(true, Ordering::SeqCst);
        self.descendants.extend_from(actor);
    }

    /// How an actor ended that did not start because of this error.
    fn after(&self, error: ActorProcessingErr) -> WorkerEnd {
        match self.killed.load(Ordering::SeqCst) {
            true => WorkerEnd::Killed,
            false => WorkerEnd::Crashed(self.crash(error)),
        }
    }

    fn crash(&self, error: ActorProcessingErr) -> Crash {
        match self.panicked.load(Ordering::SeqCst) {
            true => Crash::Panic(error.to_string()),
            false => Crash::Error(error.into()),
        }
    }
}

/// Wraps an application's actor, and records its end.
struct Watched<A> {
    actor: A,
    end: Arc<End>,
}

impl<A> Watched<A> {
    fn watch(&self, myself: &ActorRef<A::Msg>) -> Watch<'_>
    where
        A: Actor,
    {
        Watch { end: &self.end, actor: myself.get_cell() }
    }
}

/// Lives while a method of the actor runs. Notes when that panics, and the children that it has linked while the actor
/// was to end: once the actor has ended, ractor has unlinked them.
struct Watch<'a> {
    end: &'a End,
    actor: ActorCell,
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.end.panicked.store(true, Ordering::SeqCst);
        }
        if self.end.ending.load(Ordering::SeqCst) {
            self.end.descendants.extend_from(&self.actor);
        }
    }
}

#[ractor::actor(message = A::Msg, state = A::State, arguments = A::Arguments)]
impl<A: Actor> Watched<A> {
    async fn pre_start(
        &self,
        myself: ActorRef<A::Msg>,
        arguments: A::Arguments,
    ) -> Result<A::State, ActorProcessingErr> {
        if self.end.killed.load(Ordering::SeqCst) {
            return Err("it was killed before it started".into());
        }
        let _watch = self.watch(&myself);
        self.actor.pre_start(myself, arguments).await
    }

    async fn post_start(
        &self,
        myself: ActorRef<A::Msg>,
        state: &mut A::State,
    ) -> Result<(), ActorProcessingErr> {
        let _watch = self.watch(&myself);
        self.actor.post_start(myself, state).await
    }

    async fn handle(
        &self,
        myself: ActorRef<A::Msg>,
        message: A::Msg,
        state: &mut A::State,
    ) -> Result<(), ActorProcessingErr> {
        let _watch = self.watch(&myself);
        self.actor.handle(myself, message, state).await
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<A::Msg>,
        event: SupervisionEvent,
        state: &mut A::State,
    ) -> Result<(), ActorProcessingErr> {
        let _watch = self.watch(&myself);
        self.actor.handle_supervisor_evt(myself, event, state).await
    }

    async fn post_stop(
        &self,
        myself: ActorRef<A::Msg>,
        state: &mut A::State,
    ) -> Result<(), ActorProcessingErr> {
        let _watch = self.watch(&myself);
        self.actor.post_stop(myself, state).await?;
        self.end.stopped.store(true, Ordering::SeqCst);
        Ok(())
    }
}
