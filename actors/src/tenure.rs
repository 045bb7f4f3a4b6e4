//! The actor above an application's actor that works under a lease: carries out what the machine of that run decides.

use std::time::Duration;

use futures::future::join_all;
use ractor::{ActorCell, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::task::{AbortHandle, JoinSet};
use tracing::{debug, warn};

use crate::clock::Clock;
use crate::job::{Hired, Job};
use crate::lease::{Lease, LeaseState, Term};
use crate::machine::Moment;
pub use crate::machine::tenure::Reason;
use crate::machine::tenure::{Limits, Tenure, TenureCommand, TenureInput};
use crate::supervisor::KeeperMessage;

/// What an application may choose about the end of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How long the actor may take to stop, before it is killed.
    pub grace: Duration,
    /// Whether it is stopped as soon as the connection is in doubt.
    pub stop_when_suspended: bool,
}

impl Default for Terms {
    fn default() -> Terms {
        Terms { grace: Duration::from_secs(5), stop_when_suspended: false }
    }
}

/// A run that is over: the actor has ended.
pub struct Ended {
    /// What it worked under.
    pub lease: Lease,
    /// Why.
    pub reason: Reason,
    /// The actor's error, or that it panicked.
    pub error: Option<String>,
    /// For the next run.
    pub job: Job,
}

/// To the actor above a run.
pub enum TenureMessage {
    /// End the run.
    Stop,
    #[doc(hidden)]
    Lease(LeaseState),
    #[doc(hidden)]
    Gone { failed: bool, error: Option<String> },
    #[doc(hidden)]
    Wake,
}

#[cfg(feature = "cluster")]
impl ractor::Message for TenureMessage {}

/// The actor above a run.
pub struct TenureActor;

/// What a run needs.
pub struct TenureArguments {
    /// Who closes the run before the session, if nobody else is above it.
    pub keeper: Option<ActorRef<KeeperMessage>>,
    /// What it works under.
    pub lease: Lease,
    /// What works.
    pub job: Job,
    /// When it ends.
    pub terms: Terms,
    /// Hears the end.
    pub finish: Finish,
}

/// Hears the end of a run.
pub type Finish = Box<dyn FnOnce(Ended) + Send>;

/// A run under way.
pub struct State {
    clock: Clock,
    machine: Tenure,
    term: Term,
    /// Until the end.
    work: Option<(Lease, Job, Finish)>,
    hired: Option<Hired>,
    /// The actor's children, and theirs, when it was asked to stop or killed: they end with it, but not at once.
    below: Vec<ActorCell>,
    error: Option<String>,
    tasks: JoinSet<()>,
    wake: Option<(Moment, AbortHandle)>,
}

#[ractor::actor(message = TenureMessage, state = State, arguments = TenureArguments)]
impl TenureActor {
    async fn pre_start(
        &self,
        myself: ActorRef<TenureMessage>,
        arguments: TenureArguments,
    ) -> Result<State, ActorProcessingErr> {
        let TenureArguments { keeper, lease, mut job, terms, finish } = arguments;
        if let Some(keeper) = keeper {
            let run = myself.clone();
            let close = Box::new(move || drop(run.cast(TenureMessage::Stop)));
            keeper.cast(KeeperMessage::Adopt(myself.get_cell(), close))?;
        }
        let (term, mut tasks) = (lease.term(), JoinSet::new());
        let (actor, watched) = (myself.clone(), term.clone());
        tasks.spawn(async move {
            let mut state = LeaseState::Held;
            while state != LeaseState::Lost {
                state = watched.changed(state).await;
                if actor.cast(TenureMessage::Lease(state)).is_err() {
                    return;
                }
            }
        });
        let hired = job.hire(term.clone(), myself.get_cell());
        let gone = |error| TenureMessage::Gone { failed: true, error: Some(error) };
        let hired = match hired {
            Ok(mut hired) => {
                let started = std::mem::replace(&mut hired.started, Box::pin(async { Ok(()) }));
                let actor = myself.clone();
                tasks.spawn(async move {
                    if let Err(error) = started.await {
                        let _ = actor.cast(gone(error));
                    }
                });
                Some(hired)
            }
            Err(error) => {
                myself.cast(gone(error))?;
                None
            }
        };
        myself.cast(TenureMessage::Wake)?;
        let Terms { grace, stop_when_suspended } = terms;
        let limits = Limits { grace, stop_when_suspended, session_timeout: lease.session_timeout() };
        Ok(State {
            clock: lease.clock(),
            machine: Tenure::new(limits),
            term,
            work: Some((lease, job, finish)),
            hired,
            below: Vec::new(),
            error: None,
            tasks,
            wake: None,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<TenureMessage>,
        message: TenureMessage,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        while state.tasks.try_join_next().is_some() {}
        let input = match message {
            TenureMessage::Stop => TenureInput::Stop,
            TenureMessage::Lease(lease) => TenureInput::Lease(lease),
            TenureMessage::Gone { failed, error } => {
                state.error = error;
                TenureInput::Ended { failed }
            }
            TenureMessage::Wake => {
                state.wake = None;
                TenureInput::Wake
            }
        };
        state.feed(input, &myself);
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<TenureMessage>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorTerminated(_, _, reason) => {
                let killed = reason.as_deref() == Some("killed");
                state.gone(killed, reason.filter(|_| killed), &myself);
            }
            SupervisionEvent::ActorFailed(_, error) => state.gone(true, Some(error.to_string()), &myself),
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {}
            #[cfg(feature = "cluster")]
            SupervisionEvent::PidLifecycleEvent(_) => {}
        }
        Ok(())
    }
}

impl State {
    fn feed(&mut self, input: TenureInput, myself: &ActorRef<TenureMessage>) {
        let mut commands = Vec::new();
        self.machine.handle(input, self.term.until(), self.clock.now(), &mut commands);
        for command in commands {
            match command {
                TenureCommand::Tell(event) => {
                    if let Some(hired) = &self.hired {
                        hired.tell(event);
                    }
                }
                TenureCommand::Stop => {
                    debug!(path = self.term.path(), "stopping an actor that works under a lease");
                    self.end(ActorCell::stop);
                }
                TenureCommand::Kill => {
                    warn!(path = self.term.path(), "killing an actor that works under a lease");
                    self.end(|actor, _| actor.kill());
                }
                TenureCommand::Finish(reason) => {
                    if let Some((lease, job, finish)) = self.work.take() {
                        finish(Ended { lease, reason, error: self.error.take(), job });
                    }
                    myself.stop(None);
                }
            }
        }
        self.set_wake(myself);
    }

    fn end(&mut self, end: impl Fn(&ActorCell, Option<String>)) {
        let Some(hired) = &self.hired else { return };
        let mut open = hired.cell.get_children();
        while let Some(actor) = open.pop() {
            open.extend(actor.get_children());
            self.below.push(actor);
        }
        end(&hired.cell, None);
    }

    /// The actor has ended. Its children were killed with it, and end at their next await.
    fn gone(&mut self, failed: bool, error: Option<String>, myself: &ActorRef<TenureMessage>) {
        let (below, myself) = (std::mem::take(&mut self.below), myself.clone());
        self.tasks.spawn(async move {
            join_all(below.iter().map(|actor| actor.wait(None))).await;
            let _ = myself.cast(TenureMessage::Gone { failed, error });
        });
    }

    fn set_wake(&mut self, myself: &ActorRef<TenureMessage>) {
        let due = self.machine.wakeup(self.term.until());
        if self.wake.as_ref().map(|(moment, _)| *moment) == due {
            return;
        }
        if let Some((_, task)) = self.wake.take() {
            task.abort();
        }
        if let Some(due) = due {
            let (at, myself) = (self.clock.at(due), myself.clone());
            let task = self.tasks.spawn(async move {
                tokio::time::sleep_until(at).await;
                let _ = myself.cast(TenureMessage::Wake);
            });
            self.wake = Some((due, task));
        }
    }
}
