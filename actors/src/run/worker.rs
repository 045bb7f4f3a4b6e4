//! Starts an application's actor of any type, and sends it lease events.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::BoxFuture;
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
}

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

    /// Ends the actor at its next await, also in `pre_start` and `post_stop`.
    pub fn kill(&self) {
        self.end.killed.store(true, Ordering::SeqCst);
        self.cell.kill();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.kill();
    }
}

impl End {
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
    fn watch(&self) -> PanicWatch<'_> {
        PanicWatch(&self.end)
    }
}

/// Lives while a method of the actor runs, and notes when that panics.
struct PanicWatch<'a>(&'a End);

impl Drop for PanicWatch<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.panicked.store(true, Ordering::SeqCst);
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
        let _watch = self.watch();
        self.actor.pre_start(myself, arguments).await
    }

    async fn post_start(
        &self,
        myself: ActorRef<A::Msg>,
        state: &mut A::State,
    ) -> Result<(), ActorProcessingErr> {
        let _watch = self.watch();
        self.actor.post_start(myself, state).await
    }

    async fn handle(
        &self,
        myself: ActorRef<A::Msg>,
        message: A::Msg,
        state: &mut A::State,
    ) -> Result<(), ActorProcessingErr> {
        let _watch = self.watch();
        self.actor.handle(myself, message, state).await
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<A::Msg>,
        event: SupervisionEvent,
        state: &mut A::State,
    ) -> Result<(), ActorProcessingErr> {
        let _watch = self.watch();
        self.actor.handle_supervisor_evt(myself, event, state).await
    }

    async fn post_stop(
        &self,
        myself: ActorRef<A::Msg>,
        state: &mut A::State,
    ) -> Result<(), ActorProcessingErr> {
        let _watch = self.watch();
        self.actor.post_stop(myself, state).await?;
        self.end.stopped.store(true, Ordering::SeqCst);
        Ok(())
    }
}
