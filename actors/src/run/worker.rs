//! How an application's actor is started and spoken to, whatever its type.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::BoxFuture;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, ActorRuntime, SupervisionEvent};
use tracing::warn;

use crate::api::lease::LeaseView;
pub use crate::machine::run::LeaseEvent;

/// Starts actors under leases, and tells them what happens to their lease.
pub struct ActorFactory(Box<Spawn>);

type Spawn = dyn FnMut(LeaseView, ActorCell) -> Result<(Worker, Start), String> + Send;

/// An actor that is being started, or runs. It is killed when this is dropped: ractor links an actor that is spawned
/// "instant" only after its `pre_start`, so until then no supervisor that dies could take it along.
pub(crate) struct Worker {
    pub cell: ActorCell,
    tell: Box<dyn Fn(LeaseEvent) + Send + Sync>,
    end: Arc<End>,
}

/// Ends when the actor's `pre_start` is over, well or not.
pub(crate) type Start = BoxFuture<'static, Result<(), String>>;

/// What an actor and the run that started it share about its end.
#[derive(Default)]
struct End {
    /// A start that has not begun is not to begin.
    called_off: AtomicBool,
    /// `post_stop` was carried out to its end.
    stopped: AtomicBool,
}

impl ActorFactory {
    /// `make` gives the actor and its arguments; `tell` makes its message of an event of the lease, or none. Both are called
    /// by actors of this crate, and must not block. A panic in one fails its run, and nothing else.
    pub fn new<A: Actor>(
        mut make: impl FnMut(LeaseView) -> (A, A::Arguments) + Send + 'static,
        tell: impl Fn(LeaseEvent) -> Option<A::Msg> + Send + Sync + 'static,
    ) -> ActorFactory {
        let tell = Arc::new(tell);
        ActorFactory(Box::new(move |view, supervisor| spawn(make(view), tell.clone(), supervisor)))
    }

    /// For one run only: a second one fails.
    pub fn once<A: Actor>(
        make: impl FnOnce(LeaseView) -> (A, A::Arguments) + Send + 'static,
        tell: impl Fn(LeaseEvent) -> Option<A::Msg> + Send + Sync + 'static,
    ) -> ActorFactory {
        let (mut make, mut tell) = (Some(make), Some(tell));
        ActorFactory(Box::new(move |view, supervisor| match (make.take(), tell.take()) {
            (Some(make), Some(tell)) => spawn(make(view), Arc::new(tell), supervisor),
            _ => Err("the factory was for one run".into()),
        }))
    }

    pub(crate) fn spawn(
        &mut self,
        view: LeaseView,
        supervisor: ActorCell,
    ) -> Result<(Worker, Start), String> {
        // A closure that has panicked may be inconsistent; the next run calls it all the same.
        catch_unwind(AssertUnwindSafe(|| (self.0)(view, supervisor)))
            .unwrap_or_else(|_| Err("making the actor panicked".into()))
    }
}

fn spawn<A: Actor>(
    (actor, arguments): (A, A::Arguments),
    tell: Arc<impl Fn(LeaseEvent) -> Option<A::Msg> + Send + Sync + 'static>,
    supervisor: ActorCell,
) -> Result<(Worker, Start), String> {
    let end = Arc::new(End::default());
    let watched = Watched { actor, end: end.clone() };
    let spawned = ActorRuntime::spawn_linked_instant(None, watched, arguments, supervisor);
    let (actor, starting) = spawned.map_err(|error| error.to_string())?;
    let cell = actor.get_cell();
    let start = Box::pin(async move {
        match starting.await {
            Ok(Ok(_running)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    });
    let tell = Box::new(move |event| {
        if let Some(message) = tell(event) {
            // It may be ending.
            let _ = actor.cast(message);
        }
    });
    Ok((Worker { cell, tell, end }, start))
}

impl Worker {
    pub fn tell(&self, event: LeaseEvent) {
        if catch_unwind(AssertUnwindSafe(|| (self.tell)(event))).is_err() {
            warn!(?event, "telling an actor of its lease panicked");
        }
    }

    /// Whether the actor's `post_stop` was carried out to its end. A killed actor's is not: the reason of its end
    /// does not tell, for anybody may stop an actor and give the reason "killed".
    pub fn stopped(&self) -> bool {
        self.end.stopped.load(Ordering::SeqCst)
    }

    /// Cuts the actor short at its next await, in `pre_start` and `post_stop` as well.
    pub fn kill(&self) {
        self.end.called_off.store(true, Ordering::SeqCst);
        self.cell.kill();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An application's actor, whose end is noted.
struct Watched<A> {
    actor: A,
    end: Arc<End>,
}

#[ractor::actor(message = A::Msg, state = A::State, arguments = A::Arguments)]
impl<A: Actor> Watched<A> {
    async fn pre_start(
        &self,
        myself: ActorRef<A::Msg>,
        arguments: A::Arguments,
    ) -> Result<A::State, ActorProcessingErr> {
        if self.end.called_off.load(Ordering::SeqCst) {
            return Err("its start was called off".into());
        }
        self.actor.pre_start(myself, arguments).await
    }

    async fn post_start(
        &self,
        myself: ActorRef<A::Msg>,
        state: &mut A::State,
    ) -> Result<(), ActorProcessingErr> {
        self.actor.post_start(myself, state).await
    }

    async fn handle(
        &self,
        myself: ActorRef<A::Msg>,
        message: A::Msg,
        state: &mut A::State,
    ) -> Result<(), ActorProcessingErr> {
        self.actor.handle(myself, message, state).await
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<A::Msg>,
        event: SupervisionEvent,
        state: &mut A::State,
    ) -> Result<(), ActorProcessingErr> {
        self.actor.handle_supervisor_evt(myself, event, state).await
    }

    async fn post_stop(
        &self,
        myself: ActorRef<A::Msg>,
        state: &mut A::State,
    ) -> Result<(), ActorProcessingErr> {
        self.actor.post_stop(myself, state).await?;
        self.end.stopped.store(true, Ordering::SeqCst);
        Ok(())
    }
}
