//! The actor of one candidate for a singleton: carries out its machine's commands.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef, DerivedActorRef, SupervisionEvent};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{debug, info};

use crate::api::error::AcquireError;
use crate::api::event::{EventSink, LockEvent, Refused};
use crate::api::keep_alive::{KeepAlive, KeeperRequest};
use crate::api::lease::{Lease, LeaseView};
use crate::api::messages::{LockMessage, RegistryMessage};
use crate::api::request::{AcquireRequest, ContenderOptions};
use crate::api::resource::Resource;
use crate::machine::backoff::Backoff;
use crate::machine::candidate::{Candidate, Command, Event};
use crate::machine::{Machine, Ticket, Wait};
use crate::run::worker::ActorFactory;
use crate::run::{Ended, RunActor, RunArguments, RunMessage, StopPolicy};
use crate::runtime::clock::Clock;
use crate::runtime::random::Randomness;

/// The state of a candidate.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum CandidateState {
    /// Another member leads, or ZooKeeper has not answered yet.
    Waiting,
    /// This member holds the lock, and the actor is starting: `pre_start` or `post_start` has not finished.
    Starting(LeaseView),
    /// The actor runs here: `pre_start` and `post_start` have finished.
    Running(LeaseView),
    /// The actor has ended, and the lock is being released.
    Releasing,
    /// The candidate pauses before the next attempt.
    Resting {
        /// Why the last attempt failed.
        reason: String,
    },
    /// The candidate was shut down, or its keeper was closed.
    Over,
}

/// Messages to the actor of a candidate.
pub enum CandidateMessage {
    /// Stop the singleton's actor, release the lock, and end.
    Shutdown,
    #[doc(hidden)]
    Lock(LockEvent),
    #[doc(hidden)]
    Started(LeaseView),
    #[doc(hidden)]
    Ended(Box<Ended>),
    #[doc(hidden)]
    Released,
    #[doc(hidden)]
    Rested,
}

#[cfg(feature = "cluster")]
impl ractor::Message for CandidateMessage {}

/// The actor of one candidate for a singleton.
pub struct CandidateActor;

/// The arguments of a candidate's actor.
pub struct CandidateArguments {
    /// The keeper, which shuts the candidate down before it closes the session.
    pub keeper: DerivedActorRef<KeeperRequest>,
    /// The keeper's clock.
    pub clock: Clock,
    /// The registry, which finds the lock's actor.
    pub registry: DerivedActorRef<RegistryMessage>,
    /// Keeps the keeper open.
    pub keep_alive: Arc<KeepAlive>,
    /// The lock's path.
    pub path: Arc<str>,
    /// How the contender's node is created.
    pub options: Arc<ContenderOptions>,
    /// Starts the singleton's actor.
    pub factory: ActorFactory,
    /// Spreads the retries of many members.
    pub randomness: Randomness,
    /// How the singleton's actor is stopped.
    pub stop_policy: StopPolicy,
    /// The pauses after failed runs.
    pub backoff: Backoff,
    /// Receives each state.
    pub states: watch::Sender<CandidateState>,
}

/// The state of a candidate's actor.
pub struct State {
    arguments: Arguments,
    machine: Candidate,
    clock: Clock,
    ticket: Ticket,
    lease: Option<Lease>,
    factory: Option<ActorFactory>,
    run: Option<ActorRef<RunMessage>>,
    /// The lease of an actor that has started, until the machine announces it.
    view: Option<LeaseView>,
    /// Why the last attempt failed.
    reason: String,
    tasks: JoinSet<()>,
}

/// The arguments, except for those that the state stores or uses separately.
struct Arguments {
    registry: DerivedActorRef<RegistryMessage>,
    keep_alive: Arc<KeepAlive>,
    path: Arc<str>,
    options: Arc<ContenderOptions>,
    randomness: Randomness,
    stop_policy: StopPolicy,
    backoff: Backoff,
    states: watch::Sender<CandidateState>,
}

#[ractor::actor(message = CandidateMessage, state = State, arguments = CandidateArguments)]
impl CandidateActor {
    async fn pre_start(
        &self,
        myself: ActorRef<CandidateMessage>,
        arguments: CandidateArguments,
    ) -> Result<State, ActorProcessingErr> {
        let CandidateArguments {
            keeper,
            clock,
            registry,
            keep_alive,
            path,
            options,
            factory,
            randomness,
            stop_policy,
            backoff,
            states,
        } = arguments;
        let candidate = myself.clone();
        let stop = Box::new(move || drop(candidate.cast(CandidateMessage::Shutdown)));
        let adopt = KeeperRequest::Adopt { actor: myself.get_cell(), stop };
        keeper.send_message(adopt).map_err(|_| "the keeper has ended")?;
        let open = RegistryMessage::Open(Resource::Lock(path.clone()));
        registry.send_message(open).map_err(|_| "the keeper has ended")?;
        let mut tasks = JoinSet::new();
        let candidate = myself.clone();
        // If the keeper ends before it has handled `Adopt`, it can neither shut this actor down nor kill it.
        tasks.spawn(async move {
            if keeper.wait(None).await.is_ok() {
                let _ = candidate.cast(CandidateMessage::Shutdown);
            }
        });
        let mut commands = Vec::new();
        let machine = Candidate::new(backoff.maximum, &mut commands);
        let mut state = State {
            arguments: Arguments {
                registry,
                keep_alive,
                path,
                options,
                randomness,
                stop_policy,
                backoff,
                states,
            },
            machine,
            clock,
            ticket: Ticket::new(),
            lease: None,
            factory: Some(factory),
            run: None,
            view: None,
            reason: String::new(),
            tasks,
        };
        state.execute(commands, &myself).await?;
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<CandidateMessage>,
        message: CandidateMessage,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        while state.tasks.try_join_next().is_some() {}
        let event = match message {
            CandidateMessage::Shutdown => Event::Shutdown,
            CandidateMessage::Lock(event) => match state.lock(event) {
                Some(event) => event,
                None => return Ok(()),
            },
            CandidateMessage::Started(view) => {
                state.view = Some(view);
                Event::Started
            }
            CandidateMessage::Ended(ended) => state.ended(*ended),
            CandidateMessage::Released => Event::Released,
            CandidateMessage::Rested => Event::Rested,
        };
        let mut commands = Vec::new();
        state.machine.handle(event, state.clock.now(), &mut commands);
        state.execute(commands, &myself).await
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<CandidateMessage>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            // The run reports its end by message once its actor has ended, even when the run itself was killed.
            SupervisionEvent::ActorTerminated(..) | SupervisionEvent::ActorFailed(..) => {
                debug!(path = %state.arguments.path, %event, "a run's actor ended");
            }
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {}
            #[cfg(feature = "cluster")]
            SupervisionEvent::PidLifecycleEvent(_) => {}
        }
        Ok(())
    }
}

impl State {
    fn lock(&mut self, event: LockEvent) -> Option<Event> {
        match event {
            LockEvent::Acquired { guard, .. } => {
                self.lease = Some(guard);
                Some(Event::Granted)
            }
            LockEvent::Refused(_, refused) => {
                let for_good = refused == Refused::Failed(AcquireError::Closed);
                self.reason = match refused {
                    Refused::Failed(error) => error.to_string(),
                    Refused::Contended | Refused::Suspended | Refused::TimedOut | Refused::Cancelled => {
                        "the request was cancelled".into()
                    }
                };
                Some(Event::Refused { for_good })
            }
            // The run watches the lease itself.
            LockEvent::Queued { .. }
            | LockEvent::Suspended(_)
            | LockEvent::Resumed(_)
            | LockEvent::Lost(_)
            | LockEvent::Released(_) => None,
        }
    }

    fn ended(&mut self, ended: Ended) -> Event {
        let Ended { lease, reason, failure, factory } = ended;
        info!(path = %self.arguments.path, token = %lease.token(), ?reason, ?failure, "a run of a singleton ended");
        let reason_to_rest = failure.map(|failure| failure.to_string());
        self.reason = reason_to_rest.unwrap_or("the actor stopped by itself".into());
        (self.lease, self.factory, self.run) = (Some(lease), Some(factory), None);
        Event::Ended(reason)
    }

    async fn execute(
        &mut self,
        commands: Vec<Command>,
        myself: &ActorRef<CandidateMessage>,
    ) -> Result<(), ActorProcessingErr> {
        for command in commands {
            match command {
                Command::Acquire => self.acquire(myself),
                Command::Cancel => self.send(LockMessage::Cancel(self.ticket)),
                Command::StartRun => self.start_run(myself).await?,
                Command::Announce => {
                    if let Some(view) = self.view.take() {
                        self.publish(CandidateState::Running(view));
                    }
                }
                Command::StopRun => {
                    if let Some(run) = &self.run {
                        // The run may have ended.
                        let _ = run.cast(RunMessage::Stop);
                    }
                }
                Command::Release => self.release(myself),
                Command::Rest(failures) => {
                    let rest = self.arguments.backoff.rest(failures, self.arguments.randomness.next());
                    debug!(path = %self.arguments.path, failures, ?rest, reason = self.reason, "pausing");
                    let reason = std::mem::take(&mut self.reason);
                    self.publish(CandidateState::Resting { reason });
                    let myself = myself.clone();
                    self.tasks.spawn(async move {
                        tokio::time::sleep(rest).await;
                        let _ = myself.cast(CandidateMessage::Rested);
                    });
                }
                Command::Finish => {
                    self.publish(CandidateState::Over);
                    myself.stop(None);
                }
            }
        }
        Ok(())
    }

    fn acquire(&mut self, myself: &ActorRef<CandidateMessage>) {
        self.publish(CandidateState::Waiting);
        self.ticket = Ticket::new();
        let (candidate, path) = (myself.clone(), self.arguments.path.clone());
        let sink = EventSink::new(self.ticket, path, move |event| {
            // If the candidate has ended, the lease is dropped with the message, which releases the lock.
            let _ = candidate.cast(CandidateMessage::Lock(event));
        });
        let (options, keep_alive) = (self.arguments.options.clone(), self.arguments.keep_alive.clone());
        let request = AcquireRequest::new(self.ticket, options, Wait::Forever, sink, keep_alive);
        self.send(LockMessage::Acquire(request));
    }

    async fn start_run(&mut self, myself: &ActorRef<CandidateMessage>) -> Result<(), ActorProcessingErr> {
        let (Some(lease), Some(factory)) = (self.lease.take(), self.factory.take()) else { return Ok(()) };
        let (view, candidate) = (lease.view(), myself.clone());
        info!(path = %self.arguments.path, token = %lease.token(), "a run of a singleton begins");
        let finish = Box::new(move |ended| {
            let _ = candidate.cast(CandidateMessage::Ended(Box::new(ended)));
        });
        let stop_policy = self.arguments.stop_policy;
        let (starting, started) = (view.clone(), myself.clone());
        let started = Box::new(move |_| drop(started.cast(CandidateMessage::Started(starting))));
        let arguments = RunArguments { keeper: None, lease, factory, stop_policy, started, finish };
        self.publish(CandidateState::Starting(view));
        let (run, _) = Actor::spawn_linked(None, RunActor, arguments, myself.get_cell()).await?;
        self.run = Some(run);
        Ok(())
    }

    fn release(&mut self, myself: &ActorRef<CandidateMessage>) {
        self.publish(CandidateState::Releasing);
        let (lease, myself) = (self.lease.take(), myself.clone());
        self.tasks.spawn(async move {
            if let Some(lease) = lease {
                // The error is ignored: a lost lease needs no release.
                let _ = lease.release().await;
            }
            let _ = myself.cast(CandidateMessage::Released);
        });
    }

    fn send(&self, message: LockMessage) {
        // If the keeper has ended, the message is dropped, and the event sink inside it reports that.
        let message = RegistryMessage::Lock(self.arguments.path.clone(), message);
        let _ = self.arguments.registry.send_message(message);
    }

    fn publish(&self, state: CandidateState) {
        self.arguments.states.send_replace(state);
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.publish(CandidateState::Over);
        let dropped = RegistryMessage::Dropped(Resource::Lock(self.arguments.path.clone()));
        let _ = self.arguments.registry.send_message(dropped);
    }
}
