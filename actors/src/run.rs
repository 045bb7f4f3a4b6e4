//! The actor above an application's actor that works under a lease: carries out what the machine of that run decides.

pub mod worker;

use std::pin::pin;
use std::time::Duration;

use futures::future::{join_all, select};
use ractor::{ActorCell, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};
use tracing::{debug, warn};

use crate::api::lease::{Lease, LeaseState, Term};
use crate::keeper::KeeperMessage;
use crate::machine::Moment;
pub use crate::machine::run::Reason;
use crate::machine::run::{Limits, Tenure, TenureCommand, TenureInput};
use crate::run::worker::{Hired, Job};
use crate::runtime::clock::Clock;

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
    NotStarted(String),
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
    /// Hears that the actor has started.
    pub started: Box<dyn FnOnce() + Send>,
    /// Hears the end: once the actor has ended, whatever happens to the one above it.
    pub finish: Finish,
}

/// Hears the end of a run.
pub type Finish = Box<dyn FnOnce(Ended) + Send>;

/// A run under way.
pub struct State {
    clock: Clock,
    machine: Tenure,
    term: Term,
    started: Option<Box<dyn FnOnce() + Send>>,
    /// Until the end.
    work: Option<Work>,
    error: Option<String>,
    tasks: JoinSet<()>,
    wake: Option<(Moment, AbortHandle)>,
}

/// What is given back when the actor has ended.
struct Work {
    lease: Lease,
    job: Job,
    finish: Finish,
    hired: Option<Hired>,
    /// Actors below this run, when they were asked to stop or killed: they end with it, but not at once.
    below: Vec<ActorCell>,
    /// Keeps the session open.
    _session: Option<oneshot::Sender<()>>,
}

#[ractor::actor(message = TenureMessage, state = State, arguments = TenureArguments)]
impl TenureActor {
    async fn pre_start(
        &self,
        myself: ActorRef<TenureMessage>,
        arguments: TenureArguments,
    ) -> Result<State, ActorProcessingErr> {
        let TenureArguments { keeper, lease, job, terms, started, finish } = arguments;
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
        myself.cast(TenureMessage::Wake)?;
        let Terms { grace, stop_when_suspended } = terms;
        let limits = Limits { grace, stop_when_suspended, session_timeout: lease.session_timeout() };
        let session = keep_session(&lease);
        let mut state = State {
            clock: lease.clock(),
            machine: Tenure::new(limits),
            term,
            started: Some(started),
            work: Some(Work { lease, job, finish, hired: None, below: Vec::new(), _session: session }),
            error: None,
            tasks,
            wake: None,
        };
        state.hire(&myself);
        Ok(state)
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
            TenureMessage::NotStarted(error) => {
                state.gone(true, Some(error), &myself);
                return Ok(());
            }
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
        let hired = state.work.as_ref().and_then(|work| work.hired.as_ref());
        // The actor may link others here, beside itself: their ends are not its own.
        let Some(hired) = hired.filter(|hired| event.actor_id() == Some(hired.cell.get_id())) else {
            return Ok(());
        };
        match event {
            SupervisionEvent::ActorStarted(_) => {
                if let Some(tell) = state.started.take() {
                    tell();
                }
            }
            SupervisionEvent::ActorTerminated(..) => {
                let killed = !hired.stopped();
                state.gone(killed, killed.then(|| "it was killed".into()), &myself);
            }
            SupervisionEvent::ActorFailed(_, error) => state.gone(true, Some(error.to_string()), &myself),
            SupervisionEvent::ProcessGroupChanged(_) => {}
            #[cfg(feature = "cluster")]
            SupervisionEvent::PidLifecycleEvent(_) => {}
        }
        Ok(())
    }
}

impl State {
    /// Nothing that can fail comes behind it, so that whatever was started is in the state.
    fn hire(&mut self, myself: &ActorRef<TenureMessage>) {
        let Some(work) = &mut self.work else { return };
        let not_started = {
            let myself = myself.clone();
            move |error| drop(myself.cast(TenureMessage::NotStarted(error)))
        };
        match work.job.hire(self.term.clone(), myself.get_cell()) {
            Ok((hired, start)) => {
                work.hired = Some(hired);
                self.tasks.spawn(async move { start.await.unwrap_or_else(not_started) });
            }
            Err(error) => not_started(error),
        }
    }

    fn feed(&mut self, input: TenureInput, myself: &ActorRef<TenureMessage>) {
        let mut commands = Vec::new();
        self.machine.handle(input, self.term.until(), self.clock.now(), &mut commands);
        for command in commands {
            match command {
                TenureCommand::Tell(event) => {
                    if let Some(hired) = self.work.as_ref().and_then(|work| work.hired.as_ref()) {
                        hired.tell(event);
                    }
                }
                TenureCommand::Stop => {
                    debug!(path = self.term.path(), "stopping an actor that works under a lease");
                    if let Some(work) = &mut self.work {
                        work.stop();
                    }
                }
                TenureCommand::Kill => {
                    warn!(path = self.term.path(), "killing an actor that works under a lease");
                    if let Some(work) = &mut self.work {
                        work.kill();
                    }
                }
                TenureCommand::Finish(reason) => {
                    if let Some(work) = self.work.take() {
                        work.finish(reason, self.error.take());
                    }
                    myself.stop(None);
                }
            }
        }
        self.set_wake(myself);
    }

    /// The actor has ended. Its children were killed with it, and end at their next await; those that it has linked
    /// here end with it as well.
    fn gone(&mut self, failed: bool, error: Option<String>, myself: &ActorRef<TenureMessage>) {
        let Some(work) = &mut self.work else { return };
        let ended = work.hired.as_ref().map(|hired| hired.cell.get_id());
        let beside = myself.get_children().into_iter().filter(|actor| Some(actor.get_id()) != ended);
        work.below.extend(beside.inspect(ActorCell::kill));
        // They stay known: until they have ended, a kill is for them as well.
        let (below, myself) = (work.below.clone(), myself.clone());
        self.tasks.spawn(async move {
            wait_for(below).await;
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
            let (clock, myself) = (self.clock, myself.clone());
            let task = self.tasks.spawn(async move {
                clock.sleep_until(due).await;
                let _ = myself.cast(TenureMessage::Wake);
            });
            self.wake = Some((due, task));
        }
    }
}

impl Drop for State {
    /// Before the end: this actor was killed, has panicked, or could not be started. Nobody else may have the lock
    /// before the actor has ended.
    fn drop(&mut self) {
        let Some(mut work) = self.work.take() else { return };
        work.kill();
        // Outside a runtime nothing runs any more.
        let Ok(runtime) = Handle::try_current() else { return };
        runtime.spawn(async move {
            let all = work.hired.iter().map(|hired| &hired.cell).chain(&work.below).cloned();
            wait_for(all.collect()).await;
            work.finish(Reason::Failed, Some("the actor above it was killed".into()));
        });
    }
}

impl Work {
    fn stop(&mut self) {
        self.look_below();
        if let Some(hired) = &self.hired {
            hired.cell.stop(None);
        }
    }

    fn kill(&mut self) {
        self.look_below();
        if let Some(hired) = &self.hired {
            hired.kill();
        }
        // A supervisor's end does not kill those that are in their `post_stop`.
        self.below.iter().for_each(ActorCell::kill);
    }

    fn look_below(&mut self) {
        let Some(hired) = &self.hired else { return };
        let mut open = hired.cell.get_children();
        while let Some(actor) = open.pop() {
            open.extend(actor.get_children());
            self.below.push(actor);
        }
    }

    fn finish(self, reason: Reason, error: Option<String>) {
        let Work { lease, job, finish, .. } = self;
        finish(Ended { lease, reason, error, job });
    }
}

async fn wait_for(actors: Vec<ActorCell>) {
    join_all(actors.iter().map(|actor| actor.wait(None))).await;
}

/// Keeps the session open until what is returned is dropped: when the keeper dies, nobody else gets the lock before
/// the actor has ended. For a session timeout after the lease's end at most, which is as long as the lock would stay
/// if the whole process had died; and not beyond the end that the application itself puts to the session.
fn keep_session(lease: &Lease) -> Option<oneshot::Sender<()>> {
    let (session, timeout, term) = (lease.keep_session()?, lease.session_timeout()?, lease.term());
    let (keep, dropped) = oneshot::channel();
    tokio::spawn(async move {
        let limit = async {
            term.lost().await;
            if !term.is_closed() {
                tokio::time::sleep(timeout).await;
            }
        };
        select(dropped, pin!(limit)).await;
        drop(session);
    });
    Some(keep)
}
