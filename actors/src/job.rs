//! How an application's actor is started and spoken to, whatever its type.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use futures::future::BoxFuture;
use ractor::{Actor, ActorCell, ActorRuntime};
use tracing::warn;

use crate::lease::Term;
pub use crate::machine::tenure::TermEvent;

/// How to start an actor under a lease, and how to tell it what becomes of that.
pub struct Job(Box<dyn FnMut(Term, ActorCell) -> Result<Hired, String> + Send>);

/// An actor that is being started.
pub(crate) struct Hired {
    pub cell: ActorCell,
    /// Ends when it has started, or has not.
    pub started: BoxFuture<'static, Result<(), String>>,
    pub tell: Box<dyn Fn(TermEvent) + Send + Sync>,
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

    pub(crate) fn hire(&mut self, term: Term, supervisor: ActorCell) -> Result<Hired, String> {
        // What the closure leaves half done is its own.
        catch_unwind(AssertUnwindSafe(|| (self.0)(term, supervisor)))
            .unwrap_or_else(|_| Err("what makes the actor panicked".into()))
    }
}

fn hire<A: Actor>(
    (actor, arguments): (A, A::Arguments),
    tell: Arc<impl Fn(TermEvent) -> Option<A::Msg> + Send + Sync + 'static>,
    supervisor: ActorCell,
) -> Result<Hired, String> {
    let spawned = ActorRuntime::spawn_linked_instant(None, actor, arguments, supervisor);
    let (actor, starting) = spawned.map_err(|error| error.to_string())?;
    let cell = actor.get_cell();
    let started = Box::pin(async move {
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
    Ok(Hired { cell, started, tell })
}

impl Hired {
    pub fn tell(&self, event: TermEvent) {
        if catch_unwind(AssertUnwindSafe(|| (self.tell)(event))).is_err() {
            warn!(?event, "what tells an actor of its lease panicked");
        }
    }
}
