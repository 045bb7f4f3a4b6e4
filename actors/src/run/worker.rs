//! How an application's actor is started and spoken to, whatever its type.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::BoxFuture;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, ActorRuntime, SupervisionEvent};
use tracing::warn;

use crate::api::lease::Term;
pub use crate::machine::run::TermEvent;

/// How to start an actor under a lease, and how to tell it what becomes of that.
pub struct Job(Box<Hire>);

type Hire = dyn FnMut(Term, ActorCell) -> Result<(Hired, Start), String> + Send;

/// An actor that is being started, or runs. It is killed when this is dropped: ractor links an actor that is spawned
/// "instant" only after its `pre_start`, so until then no supervisor that dies could take it along.
pub(crate) struct Hired {
    pub cell: ActorCell,
    tell: Box<dyn Fn(TermEvent) + Send + Sync>,
    fate: Arc<Fate>,
}

/// Ends when the actor's `pre_start` is over, well or not.
pub(crate) type Start = BoxFuture<'static, Result<(), String>>;

/// Shared by an actor and the run that started it.
#[derive(Default)]
struct Fate {
    /// A start that has not begun is not to begin.
    called_off: AtomicBool,
    /// `post_stop` was carried out to its end.
    stopped: AtomicBool,
}

impl Job {
    /// `make` gives the actor and its arguments; `tell` makes its messages of what becomes of the lease, or none.
    /// Both are called by our actors: they must not block. One that panics fails its run, and nothing else.
    pub fn new<A: Actor>(
        mut make: impl FnMut(Term) -> (A, A::Arguments) + Send + 'static,
        tell: impl Fn(TermEvent) -> Option<A::Msg> + Send + Sync + 'static,
    ) -> Job {
        let tell = Arc::new(tell);
        Job(Box::new(move |term, supervisor| hire(make(term), tell.clone(), supervisor)))
    }

    /// The same for one run; a second one fails.
    pub fn once<A: Actor>(
        make: impl FnOnce(Term) -> (A, A::Arguments) + Send + 'static,
        tell: impl Fn(TermEvent) -> Option<A::Msg> + Send + Sync + 'static,
    ) -> Job {
        let (mut make, mut tell) = (Some(make), Some(tell));
        Job(Box::new(move |term, supervisor| match (make.take(), tell.take()) {
            (Some(make), Some(tell)) => hire(make(term), Arc::new(tell), supervisor),
            _ => Err("it was for one run".into()),
        }))
    }

    pub(crate) fn hire(&mut self, term: Term, supervisor: ActorCell) -> Result<(Hired, Start), String> {
        // What the closure leaves half done is its own.
        catch_unwind(AssertUnwindSafe(|| (self.0)(term, supervisor)))
            .unwrap_or_else(|_| Err("what makes the actor panicked".into()))
    }
}

fn hire<A: Actor>(
    (actor, arguments): (A, A::Arguments),
    tell: Arc<impl Fn(TermEvent) -> Option<A::Msg> + Send + Sync + 'static>,
    supervisor: ActorCell,
) -> Result<(Hired, Start), String> {
    let fate = Arc::new(Fate::default());
    let worker = Worker { actor, fate: fate.clone() };
    let spawned = ActorRuntime::spawn_linked_instant(None, worker, arguments, supervisor);
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
            // One that is ending need not be told.
            let _ = actor.cast(message);
        }
    });
    Ok((Hired { cell, tell, fate }, start))
}

impl Hired {
    pub fn tell(&self, event: TermEvent) {
        if catch_unwind(AssertUnwindSafe(|| (self.tell)(event))).is_err() {
            warn!(?event, "what tells an actor of its lease panicked");
        }
    }

    /// Whether the actor's `post_stop` was carried out to its end. A killed actor's is not: the reason of its end
    /// does not tell, for anybody may stop an actor and give the reason "killed".
    pub fn stopped(&self) -> bool {
        self.fate.stopped.load(Ordering::SeqCst)
    }

    /// Cuts the actor short at its next await, in `pre_start` and `post_stop` as well.
    pub fn kill(&self) {
        self.fate.called_off.store(true, Ordering::SeqCst);
        self.cell.kill();
    }
}

impl Drop for Hired {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An application's actor, and what is noted of it.
struct Worker<A> {
    actor: A,
    fate: Arc<Fate>,
}

#[ractor::actor(message = A::Msg, state = A::State, arguments = A::Arguments)]
impl<A: Actor> Worker<A> {
    async fn pre_start(
        &self,
        myself: ActorRef<A::Msg>,
        arguments: A::Arguments,
    ) -> Result<A::State, ActorProcessingErr> {
        if self.fate.called_off.load(Ordering::SeqCst) {
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
        self.fate.stopped.store(true, Ordering::SeqCst);
        Ok(())
    }
}
