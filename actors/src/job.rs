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
        Job(Box::new(move |term, supervisor| {
            let (actor, arguments) = make(term);
            let spawned = ActorRuntime::spawn_linked_instant(None, actor, arguments, supervisor);
            let (actor, starting) = spawned.map_err(|error| error.to_string())?;
            let (cell, tell) = (actor.get_cell(), tell.clone());
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
        }))
    }

    pub(crate) fn hire(&mut self, term: Term, supervisor: ActorCell) -> Result<Hired, String> {
        // What the closure leaves half done is its own.
        catch_unwind(AssertUnwindSafe(|| (self.0)(term, supervisor)))
            .unwrap_or_else(|_| Err("what makes the actor panicked".into()))
    }
}

impl Hired {
    pub fn tell(&self, event: TermEvent) {
        if catch_unwind(AssertUnwindSafe(|| (self.tell)(event))).is_err() {
            warn!(?event, "what tells an actor of its lease panicked");
        }
    }
}
