//! One run of an application's actor under a lease: carries out its machine's commands.

pub mod failure;
pub mod worker;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::time::Duration;

use futures::future::{FutureExt, Shared, select};
use ractor::actor::messages::BoxedState;
use ractor::{
    ActorCell, ActorProcessingErr, ActorRef, ActorRuntime, ActorStatus, DerivedActorRef, SupervisionEvent,
};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tracing::{debug, warn};

use self::failure::{RunFailure, WorkerEnd};
use self::worker::{ActorFactory, Worker};
use crate::api::keep_alive::KeeperRequest;
use crate::api::lease::LeaseState;
use crate::api::lease_view::LeaseView;
use crate::machine::Machine;
pub use crate::machine::run::EndReason;
use crate::machine::run::{Command, Event, Limits, Run};
use crate::record::{self, Origin, Recorder, Recording};
use crate::runtime::clock::Clock;
use crate::runtime::tasks::Tasks;
use crate::runtime::timer::{Precision, Timer};

/// How an application's actor is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopPolicy {
    grace: Duration,
    stop_when_suspended: bool,
}

impl StopPolicy {
    /// The default policy.
    pub fn new() -> StopPolicy {
        StopPolicy::default()
    }

    /// How long the actor may take to stop before it is killed. The default is five seconds.
    pub fn grace(self, grace: Duration) -> StopPolicy {
        StopPolicy { grace, ..self }
    }

    /// Whether the actor is stopped as soon as the lease is suspended. The default is `false`.
    pub fn stop_when_suspended(self, stop_when_suspended: bool) -> StopPolicy {
        StopPolicy { stop_when_suspended, ..self }
    }
}

impl Default for StopPolicy {
    fn default() -> StopPolicy {
        StopPolicy { grace: Duration::from_secs(5), stop_when_suspended: false }
    }
}

/// The end of a run, reported once the application's actor has ended.
pub struct Ended {
    /// Why the run ended.
    pub reason: EndReason,
    /// Why the run failed, if it did.
    pub failure: Option<RunFailure>,
    /// The factory, for the next run.
    pub factory: ActorFactory,
}

/// Messages to the actor of a run.
pub enum RunMessage {
    /// Stop the application's actor, and end the run.
    Stop,
    /// Kill the application's actor, as at the end of the lease, and end the run.
    Kill,
    #[doc(hidden)]
    Lease(LeaseState),
    #[doc(hidden)]
    #[allow(private_interfaces)]
    NotStarted(WorkerEnd),
    /// The task of the application's actor is over.
    #[doc(hidden)]
    TaskOver,
    #[doc(hidden)]
    #[allow(private_interfaces)]
    Gone(WorkerEnd),
    #[doc(hidden)]
    Wake,
}

#[cfg(feature = "cluster")]
impl ractor::Message for RunMessage {}

/// The actor of a run.
pub struct RunActor;

/// The arguments of a run's actor.
pub struct RunArguments {
    /// The keeper, which stops the run before it closes the session: see [`start`]. `None` when another actor supervises
    /// the run.
    pub keeper: Option<DerivedActorRef<KeeperRequest>>,
    /// A view of the guard of the run, which `finish` owns.
    pub view: LeaseView,
    /// Starts the application's actor.
    pub factory: ActorFactory,
    /// How the application's actor is stopped.
    pub stop_policy: StopPolicy,
    /// Called with the application's actor when it has started.
    pub started: Box<dyn FnOnce(ActorCell) + Send>,
    /// Called once the application's actor has ended, even if the run's own actor is killed or panics.
    pub finish: Finish,
    /// Records what the run decides.
    pub recording: Option<Recording>,
}

/// Starts a run. Its keeper knows it when this returns, so a close that is asked for later stops it first.
pub fn start(arguments: RunArguments) -> Option<ActorRef<RunMessage>> {
    let keeper = arguments.keeper.clone();
    let (run, _) = ActorRuntime::spawn_instant(None, RunActor, arguments).ok()?;
    if let Some(keeper) = keeper {
        let (stopped, killed) = (run.clone(), run.clone());
        let stop = Box::new(move || drop(stopped.cast(RunMessage::Stop)));
        let kill = Box::new(move || drop(killed.cast(RunMessage::Kill)));
        // If the keeper has ended, the run does not start.
        let _ = keeper.send_message(KeeperRequest::Adopt { actor: run.get_cell(), stop, kill });
    }
    Some(run)
}

/// The callback that receives the end of a run.
pub type Finish = Box<dyn FnOnce(Ended) + Send>;

/// The state of a run's actor.
pub struct State {
    clock: Clock,
    machine: Run,
    recorder: Option<Recorder>,
    view: LeaseView,
    /// `None` once the application's actor has started.
    started: Option<Box<dyn FnOnce(ActorCell) + Send>>,
    /// `None` once the run has ended.
    work: Option<Work>,
    /// How the application's actor ended, once it has.
    end: Option<WorkerEnd>,
    tasks: Tasks,
    timer: Timer,
}

/// The application's actor, and what `finish` returns once it has ended.
struct Work {
    factory: ActorFactory,
    finish: Finish,
    worker: Option<Worker>,
    /// The end of the application's actor is known.
    ended: bool,
    /// Ends when the application's actor and its state are dropped. ractor reports the end before that. `None` if it
    /// was not spawned.
    dropped: Option<Dropped>,
    /// Keeps the session open until it is dropped.
    _session: Option<oneshot::Sender<()>>,
}

type Dropped = Shared<oneshot::Receiver<()>>;

#[ractor::actor(message = RunMessage, state = State, arguments = RunArguments)]
impl RunActor {
    async fn pre_start(
        &self,
        myself: ActorRef<RunMessage>,
        arguments: RunArguments,
    ) -> Result<State, ActorProcessingErr> {
        let RunArguments { keeper, view, factory, stop_policy, started, finish, recording } = arguments;
        if keeper.is_some_and(|keeper| keeper.get_status() >= ActorStatus::Stopping) {
            return Err("the keeper has ended".into());
        }
        let mut tasks = Tasks::default();
        let (actor, watched) = (myself.clone(), view.clone());
        tasks.spawn(async move {
            let mut state = LeaseState::Held;
            while state != LeaseState::Lost {
                state = watched.changed(state).await;
                if actor.cast(RunMessage::Lease(state)).is_err() {
                    return;
                }
            }
        });
        myself.cast(RunMessage::Wake)?;
        let StopPolicy { grace, stop_when_suspended } = stop_policy;
        let limits = Limits { grace, stop_when_suspended, session_timeout: view.session_timeout() };
        let (session, clock) = (keep_session(view.clone()), view.clock());
        let recorder = recording.map(|recording| {
            let origin = Origin::Run { path: view.path().into(), limits: limits.clone() };
            recording.machine(clock.now(), origin)
        });
        let mut state = State {
            clock,
            machine: Run::new(limits),
            recorder,
            view,
            started: Some(started),
            work: Some(Work {
                factory,
                finish,
                worker: None,
                ended: false,
                dropped: None,
                _session: session,
            }),
            end: None,
            tasks,
            timer: Timer::new(Precision::ThroughSleep),
        };
        state.start_worker(&myself);
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<RunMessage>,
        message: RunMessage,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let event = match message {
            RunMessage::Stop => Event::Stop,
            RunMessage::Kill => Event::Lease(LeaseState::Lost),
            RunMessage::Lease(lease) => Event::Lease(lease),
            RunMessage::NotStarted(end) => {
                state.worker_ended(end, None, &myself);
                return Ok(());
            }
            RunMessage::TaskOver => {
                // ractor reports the end before, but not to this actor if the application has linked its actor to
                // another one.
                if let Some(end) = state.work.as_ref().and_then(Work::unreported) {
                    state.worker_ended(end, None, &myself);
                }
                return Ok(());
            }
            RunMessage::Gone(end) => {
                let failed = !matches!(end, WorkerEnd::Stopped);
                state.end = Some(end);
                Event::Ended { failed }
            }
            RunMessage::Wake => {
                state.timer.rang();
                Event::Wake
            }
        };
        state.feed(event, &myself);
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<RunMessage>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let worker = state.work.as_ref().and_then(|work| work.worker.as_ref());
        // The application's actor may have linked other actors to this one. Their end is not its end.
        let Some(worker) = worker.filter(|worker| event.actor_id() == Some(worker.cell.get_id())) else {
            // It may contain the state of such an actor, whose drop may panic.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(event)));
            return Ok(());
        };
        match event {
            SupervisionEvent::ActorStarted(_) => {
                let actor = worker.cell.clone();
                if let Some(tell) = state.started.take() {
                    tell(actor);
                }
            }
            SupervisionEvent::ActorTerminated(_, its_state, _) => {
                let end = worker.terminated();
                state.worker_ended(end, its_state, &myself);
            }
            SupervisionEvent::ActorFailed(_, error) => {
                let end = worker.failed(error);
                state.worker_ended(end, None, &myself);
            }
            SupervisionEvent::ProcessGroupChanged(_) => {}
            #[cfg(feature = "cluster")]
            SupervisionEvent::PidLifecycleEvent(_) => {}
        }
        Ok(())
    }
}

impl State {
    /// The last step of `pre_start`: nothing after it can fail, so the state always owns the worker.
    fn start_worker(&mut self, myself: &ActorRef<RunMessage>) {
        // Nothing has watched the lease before, and the process may have been paused.
        if self.view.state() == LeaseState::Lost {
            self.feed(Event::Lease(LeaseState::Lost), myself);
            return self.feed(Event::Ended { failed: false }, myself);
        }
        let Some(work) = &mut self.work else { return };
        let not_started = {
            let myself = myself.clone();
            move |end| drop(myself.cast(RunMessage::NotStarted(end)))
        };
        match work.factory.spawn(self.view.clone(), myself.get_cell()) {
            Ok((worker, start)) => {
                let (alive, dropped) = oneshot::channel();
                (work.worker, work.dropped) = (Some(worker), Some(dropped.shared()));
                // Not one of `tasks`, because it is awaited also when this actor has died.
                let myself = myself.clone();
                tokio::spawn(async move {
                    match start.await {
                        Ok(task) => {
                            // It fails only if a drop has panicked, or with the runtime.
                            drop(task.await);
                            let _ = myself.cast(RunMessage::TaskOver);
                        }
                        Err(end) => not_started(end),
                    }
                    drop(alive);
                });
            }
            Err(end) => not_started(end),
        }
    }

    fn feed(&mut self, event: Event, myself: &ActorRef<RunMessage>) {
        let mut commands = Vec::new();
        self.machine.set_until(self.view.until());
        let now = self.clock.now();
        record::handle(self.recorder.as_ref(), &mut self.machine, event, now, &mut commands);
        for command in commands {
            match command {
                Command::Tell(event) => {
                    if let Some(worker) = self.work.as_ref().and_then(|work| work.worker.as_ref()) {
                        worker.tell(event);
                    }
                }
                Command::Stop => {
                    debug!(path = self.view.path(), "stopping an actor that works under a lease");
                    if let Some(worker) = self.work.as_ref().and_then(|work| work.worker.as_ref()) {
                        worker.stop();
                    }
                }
                Command::Kill => {
                    if let Some(worker) = self.work.as_ref().and_then(|work| work.worker.as_ref()) {
                        warn!(path = self.view.path(), "killing an actor that works under a lease");
                        worker.kill();
                    }
                }
                Command::Finish(reason) => {
                    let failure = RunFailure::new(reason, self.end.take(), self.started.is_none());
                    if let Some(work) = self.work.take() {
                        work.finish(reason, failure);
                    }
                    myself.stop(None);
                }
            }
        }
        let (due, myself) = (self.machine.wakeup(), myself.clone());
        self.timer.set(self.clock, due, move || drop(myself.cast(RunMessage::Wake)));
    }

    /// Waits until the application's actor, which has ended, is dropped, and for all other actors of the run. Its children
    /// were killed with it, and end at their next await. Actors that it has linked to this run are killed here. ractor
    /// leaves the state of an actor that has stopped to this one.
    fn worker_ended(&mut self, end: WorkerEnd, its_state: Option<BoxedState>, myself: &ActorRef<RunMessage>) {
        let Some(work) = &mut self.work else { return };
        work.ended = true;
        if let Some(its_state) = its_state {
            work.drop_later(its_state);
        }
        if let Some(worker) = &work.worker {
            let ended = worker.cell.get_id();
            let linked = myself.get_children().into_iter().filter(|actor| actor.get_id() != ended);
            // They stay in the list, so that a later kill reaches them too.
            worker.descendants().extend(linked.inspect(ActorCell::kill));
        }
        let (gone, myself) = (work.gone(), myself.clone());
        self.tasks.spawn(async move {
            gone.await;
            let _ = myself.cast(RunMessage::Gone(end));
        });
    }
}

impl Drop for State {
    /// If this actor was killed, panicked or could not start, kills the application's actor. The lease is passed to
    /// `finish` only after that has ended, so nobody else gets the lock before.
    fn drop(&mut self) {
        let Some(work) = self.work.take() else { return };
        if let Some(worker) = &work.worker {
            worker.kill();
        }
        // Without a runtime, no task runs any more.
        let Ok(runtime) = Handle::try_current() else { return };
        runtime.spawn(async move {
            work.gone().await;
            work.finish(EndReason::Failed, Some(RunFailure::Killed));
        });
    }
}

impl Work {
    /// How the application's actor has ended, if nobody has reported it.
    fn unreported(&self) -> Option<WorkerEnd> {
        self.worker.as_ref().filter(|_| !self.ended).map(Worker::terminated)
    }

    /// Drops the state of the application's actor, as a part of what is waited for. Beside this actor, because the drop may
    /// panic or take long.
    fn drop_later(&mut self, state: BoxedState) {
        let (alive, dropped) = oneshot::channel();
        let task = self.dropped.replace(dropped.shared());
        // Not one of `tasks`, because it is awaited also when this actor has died.
        tokio::spawn(async move {
            let _alive = alive;
            if let Some(task) = task {
                let _ = task.await;
            }
            drop(state);
        });
    }

    /// Waits until nothing is left of the application's actor, and all its descendants have ended.
    fn gone(&self) -> impl Future<Output = ()> + use<> {
        let (dropped, descendants) = (self.dropped.clone(), self.worker.as_ref().map(Worker::descendants));
        async move {
            if let Some(dropped) = dropped {
                let _ = dropped.await;
            }
            // Not before, because the actor's last method may have linked some.
            if let Some(descendants) = descendants {
                descendants.gone().await;
            }
        }
    }

    fn finish(self, reason: EndReason, failure: Option<RunFailure>) {
        let Work { factory, finish, .. } = self;
        finish(Ended { reason, failure, factory });
    }
}

/// Keeps the session open until the result is dropped: when the keeper dies, nobody else gets the lock before the
/// application's actor has ended. This lasts no longer than one session timeout after the lease's end, which is how
/// long the lock would stay if the whole process had died. When the application closes the session, this ends with the
/// lease.
fn keep_session(view: LeaseView) -> Option<oneshot::Sender<()>> {
    let (session, timeout) = (view.keep_session()?, view.session_timeout()?);
    let (keep, dropped) = oneshot::channel();
    tokio::spawn(async move {
        let limit = async {
            view.lost().await;
            if !view.is_closed() {
                tokio::time::sleep(timeout).await;
            }
        };
        select(dropped, pin!(limit)).await;
        drop(session);
    });
    Some(keep)
}
