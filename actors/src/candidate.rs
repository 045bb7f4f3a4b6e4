//! The actor of one candidate for a singleton: carries out its machine's commands.

mod state;

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use ractor::{
    Actor, ActorCell, ActorProcessingErr, ActorRef, DerivedActorRef, Message, RpcReplyPort, SupervisionEvent,
};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{debug, info, warn};

pub use self::state::{CandidateState, RestReason, RunFailed, Supervisor};
use crate::api::error::{AcquireError, AdvertiseError};
use crate::api::event::{EventSink, LockEvent, Refused};
use crate::api::keep_alive::{KeepAlive, KeeperRequest};
use crate::api::lease::Lease;
use crate::api::lease_view::LeaseView;
use crate::api::messages::{LockMessage, RegistryMessage};
use crate::api::request::{AcquireRequest, ContenderOptions};
use crate::api::resource::Resource;
use crate::machine::backoff::Backoff;
use crate::machine::candidate::{Candidate, Command, Event};
use crate::machine::{Ticket, Wait};
use crate::metrics::{Kind, Metrics, RunMetrics};
use crate::record::{self, Origin, Recorder};
use crate::run::worker::ActorFactory;
use crate::run::{Ended, RunActor, RunArguments, RunMessage, StopPolicy};
use crate::runtime::clock::Clock;
use crate::runtime::log::Foreign;
use crate::runtime::random::Randomness;
use crate::runtime::tasks::Tasks;

/// Messages to the actor of a candidate. `M` is the message type of the singleton's actor.
#[non_exhaustive]
pub enum CandidateMessage<M> {
    /// Stop the singleton's actor, release the lock, and end.
    Shutdown,
    /// Sends the state now, and every later one. After `Over`, which is not sent, the sender is dropped.
    Subscribe(mpsc::UnboundedSender<CandidateState<M>>),
    /// Changes the data of the candidate's node, now and for its later nodes. Replies when the server has confirmed it.
    Advertise(Vec<u8>, AdvertisePort),
    /// The request with this ticket had no node that could be written.
    #[doc(hidden)]
    NotAdvertised(Ticket, AdvertisePort),
    #[doc(hidden)]
    Lock(LockEvent),
    #[doc(hidden)]
    Started(LeaseView, ActorRef<M>),
    #[doc(hidden)]
    Ended(Box<(Lease, Ended)>),
    #[doc(hidden)]
    KillRun,
    #[doc(hidden)]
    Released,
    #[doc(hidden)]
    Rested,
}

#[cfg(feature = "cluster")]
impl<M: 'static> ractor::Message for CandidateMessage<M> {}

/// Where the reply to a change of the advertised data is sent.
pub type AdvertisePort = RpcReplyPort<Result<(), AdvertiseError>>;

/// The actor of one candidate for a singleton, whose actor takes messages of type `M`.
pub struct CandidateActor<M>(PhantomData<fn() -> M>);

impl<M> Default for CandidateActor<M> {
    fn default() -> CandidateActor<M> {
        CandidateActor(PhantomData)
    }
}

/// The arguments of a candidate's actor, beside the factory, which starts the singleton's actor and must take messages of
/// type `M`.
pub struct CandidateArguments<M> {
    /// The keeper's clock.
    pub clock: Clock,
    /// The registry, which finds the lock's actor.
    pub registry: DerivedActorRef<RegistryMessage>,
    /// Keeps the keeper open, which shuts the candidate down before it closes the session.
    pub keep_alive: Arc<KeepAlive>,
    /// The lock's path.
    pub path: Arc<str>,
    /// How the contender's node is created.
    pub options: Arc<ContenderOptions>,
    /// Spreads the retries of many members.
    pub randomness: Randomness,
    /// How the singleton's actor is stopped.
    pub stop_policy: StopPolicy,
    /// The pauses after failed runs.
    pub backoff: Backoff,
    /// Is told of failed runs.
    pub supervisor: Option<Supervisor>,
    /// Receives each state.
    pub states: watch::Sender<CandidateState<M>>,
    /// Counts and times the runs.
    pub metrics: Metrics,
}

/// The state of a candidate's actor.
pub struct State<M> {
    arguments: CandidateArguments<M>,
    machine: Candidate,
    recorder: Option<Recorder>,
    /// The request for the lock, until the lock is refused, lost or released.
    ticket: Option<Ticket>,
    lease: Option<Lease>,
    factory: Option<ActorFactory>,
    run: Option<ActorRef<RunMessage>>,
    /// The lease of an actor that has started, and the actor, until the machine announces it.
    started: Option<(LeaseView, ActorRef<M>)>,
    /// Why the last attempt failed.
    reason: Option<RestReason>,
    /// The number of consecutive attempts that have failed, for the log.
    failed: u32,
    subscribers: Vec<mpsc::UnboundedSender<CandidateState<M>>>,
    /// The callers who wait until the next node has the advertised data.
    advertising: Vec<AdvertisePort>,
    metrics: RunMetrics,
    tasks: Tasks,
}

#[ractor::actor(message = CandidateMessage<M>, state = State<M>, arguments = (CandidateArguments<M>, ActorFactory))]
impl<M: Message> CandidateActor<M> {
    async fn pre_start(
        &self,
        myself: ActorRef<CandidateMessage<M>>,
        (arguments, factory): (CandidateArguments<M>, ActorFactory),
    ) -> Result<State<M>, ActorProcessingErr> {
        let keeper = arguments.keep_alive.keeper().clone();
        let (stopped, killed) = (myself.clone(), myself.clone());
        let stop = Box::new(move || drop(stopped.cast(CandidateMessage::Shutdown)));
        let kill = Box::new(move || drop(killed.cast(CandidateMessage::KillRun)));
        let adopt = KeeperRequest::Adopt { actor: myself.get_cell(), stop, kill };
        keeper.send_message(adopt).map_err(|_| "the keeper has ended")?;
        let open = RegistryMessage::Open(Resource::Lock(arguments.path.clone()));
        arguments.registry.send_message(open).map_err(|_| "the keeper has ended")?;
        let mut tasks = Tasks::default();
        let candidate = myself.clone();
        // If the keeper ends before it has handled `Adopt`, it can neither shut this actor down nor kill it.
        tasks.spawn(async move {
            if keeper.wait(None).await.is_ok() {
                let _ = candidate.cast(CandidateMessage::Shutdown);
            }
        });
        let mut commands = Vec::new();
        let proven_after = arguments.backoff.maximum;
        let machine = Candidate::new(proven_after, &mut commands);
        let recorder = arguments.keep_alive.recording().map(|recording| {
            let origin = Origin::Candidate { path: arguments.path.clone(), proven_after };
            recording.machine(arguments.clock.now(), origin)
        });
        let mut state = State {
            machine,
            recorder,
            ticket: None,
            lease: None,
            factory: Some(factory),
            run: None,
            started: None,
            reason: None,
            failed: 0,
            subscribers: Vec::new(),
            advertising: Vec::new(),
            metrics: arguments.metrics.runs(),
            tasks,
            arguments,
        };
        state.execute(commands, &myself).await?;
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<CandidateMessage<M>>,
        message: CandidateMessage<M>,
        state: &mut State<M>,
    ) -> Result<(), ActorProcessingErr> {
        let event = match message {
            CandidateMessage::Shutdown => Event::Shutdown,
            CandidateMessage::Subscribe(subscriber) => {
                state.subscribe(subscriber);
                return Ok(());
            }
            CandidateMessage::Advertise(data, reply) => {
                Arc::make_mut(&mut state.arguments.options).identifier = data.into();
                state.advertise(reply, &myself);
                return Ok(());
            }
            CandidateMessage::NotAdvertised(ticket, reply) => {
                match state.ticket == Some(ticket) {
                    // Somebody else has deleted the node, or it went with a session whose loss was not reported yet.
                    true => drop(reply.send(Err(AdvertiseError::gone()))),
                    false => state.advertise(reply, &myself),
                }
                return Ok(());
            }
            CandidateMessage::Lock(event) => match state.lock(event) {
                Some(event) => event,
                None => return Ok(()),
            },
            CandidateMessage::Started(lease, actor) => {
                state.started = Some((lease, actor));
                state.metrics.started();
                Event::Started
            }
            CandidateMessage::Ended(ended) => {
                let (lease, ended) = *ended;
                state.ended(lease, ended)
            }
            CandidateMessage::KillRun => {
                if let Some(run) = &state.run {
                    // The run may have ended.
                    let _ = run.cast(RunMessage::Kill);
                }
                return Ok(());
            }
            CandidateMessage::Released => {
                state.metrics.released();
                Event::Released
            }
            CandidateMessage::Rested => Event::Rested,
        };
        let mut commands = Vec::new();
        let now = state.arguments.clock.now();
        record::handle(state.recorder.as_ref(), &mut state.machine, event, now, &mut commands);
        state.execute(commands, &myself).await
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<CandidateMessage<M>>,
        event: SupervisionEvent,
        state: &mut State<M>,
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

impl<M: Message> State<M> {
    fn subscribe(&mut self, subscriber: mpsc::UnboundedSender<CandidateState<M>>) {
        self.subscribers.retain(|subscriber| !subscriber.is_closed());
        if subscriber.send(self.arguments.states.borrow().clone()).is_ok() {
            self.subscribers.push(subscriber);
        }
    }

    /// Writes the data to the candidate's node. If it has none, and does not wait for one, the next node gets them.
    fn advertise(&mut self, reply: AdvertisePort, myself: &ActorRef<CandidateMessage<M>>) {
        let Some(ticket) = self.ticket else {
            self.advertising.retain(|reply| !reply.is_closed());
            return self.advertising.push(reply);
        };
        let identifier = self.arguments.options.identifier.clone();
        let (written, answer) = oneshot::channel();
        self.send(LockMessage::SetIdentifier(ticket, identifier, written.into()));
        let myself = myself.clone();
        // Not one of `tasks`, because the caller is told also when the candidate has ended.
        tokio::spawn(async move {
            match answer.await {
                // If that is so because the lock was refused or lost, this actor was told of it before.
                Ok(Err(error)) if error == AdvertiseError::gone() => {
                    let _ = myself.cast(CandidateMessage::NotAdvertised(ticket, reply));
                }
                Ok(answer) => drop(reply.send(answer)),
                Err(_) => drop(reply),
            }
        });
    }

    fn lock(&mut self, event: LockEvent) -> Option<Event> {
        match event {
            LockEvent::Acquired { guard, .. } => {
                self.lease = Some(guard);
                Some(Event::Granted)
            }
            LockEvent::Refused(_, refused) => {
                let for_good = refused == Refused::Failed(AcquireError::Closed);
                (self.ticket, self.reason) = (None, Some(RestReason::Refused(refused)));
                Some(Event::Refused { for_good })
            }
            // The run watches the lease itself. But nothing is written any more under this ticket.
            LockEvent::Lost(ticket) => {
                self.ticket = self.ticket.filter(|current| *current != ticket);
                None
            }
            LockEvent::Enqueued { .. }
            | LockEvent::Suspended(_)
            | LockEvent::Resumed(_)
            | LockEvent::Released(_) => None,
        }
    }

    fn ended(&mut self, lease: Lease, ended: Ended) -> Event {
        let Ended { reason, failure, factory } = ended;
        self.metrics.ended(reason);
        let (path, token, shown) = (&self.arguments.path, lease.token(), Foreign(&failure));
        info!(%path, %token, ?reason, failure = ?shown, "a run of a singleton ended");
        self.reason = Some(failure.map_or(RestReason::Finished, RestReason::Failed));
        (self.lease, self.factory, self.run) = (Some(lease), Some(factory), None);
        Event::Ended(reason)
    }

    async fn execute(
        &mut self,
        commands: Vec<Command>,
        myself: &ActorRef<CandidateMessage<M>>,
    ) -> Result<(), ActorProcessingErr> {
        for command in commands {
            match command {
                Command::Acquire => self.acquire(myself),
                Command::Cancel => {
                    if let Some(ticket) = self.ticket {
                        self.send(LockMessage::Cancel(ticket));
                    }
                }
                Command::StartRun => self.start_run(myself).await?,
                Command::Announce => {
                    if let Some((lease, actor)) = self.started.take() {
                        self.publish(CandidateState::Running { lease, actor });
                    }
                }
                Command::StopRun => {
                    if let Some(run) = &self.run {
                        self.metrics.stops();
                        // The run may have ended.
                        let _ = run.cast(RunMessage::Stop);
                    }
                }
                Command::Release => self.release(myself),
                Command::Rest(failures) => {
                    let rest = self.arguments.backoff.rest(failures, self.arguments.randomness.next());
                    let reason = self.reason.take().unwrap_or(RestReason::Finished);
                    self.log_pause(failures, rest, &reason);
                    self.publish(CandidateState::Resting { reason });
                    let myself = myself.clone();
                    self.tasks.spawn(async move {
                        tokio::time::sleep(rest).await;
                        let _ = myself.cast(CandidateMessage::Rested);
                    });
                }
                Command::Finish => {
                    self.end();
                    myself.stop(None);
                }
            }
        }
        Ok(())
    }

    /// Warns after the first failed attempt, the second, the fourth and so on.
    fn log_pause(&mut self, failures: u32, rest: Duration, reason: &RestReason) {
        let path = &self.arguments.path;
        self.failed = match reason {
            RestReason::Finished => 0,
            RestReason::Failed(_) | RestReason::Refused(_) if failures == 0 => 1,
            RestReason::Failed(_) | RestReason::Refused(_) => self.failed.saturating_add(1),
        };
        let reason = Foreign(reason);
        match self.failed.is_power_of_two() {
            true => warn!(%path, failed = self.failed, ?rest, %reason, "a singleton does not run here"),
            false => debug!(%path, failed = self.failed, ?rest, %reason, "pausing"),
        }
    }

    fn acquire(&mut self, myself: &ActorRef<CandidateMessage<M>>) {
        // A candidate waits from the beginning: its first request changes nothing.
        if !matches!(*self.arguments.states.borrow(), CandidateState::Waiting) {
            self.publish(CandidateState::Waiting);
        }
        let ticket = Ticket::new();
        self.ticket = Some(ticket);
        let (candidate, path) = (myself.clone(), self.arguments.path.clone());
        let sink = EventSink::new(ticket, path, move |event| {
            // If the candidate has ended, the lease is dropped with the message, which releases the lock.
            let _ = candidate.cast(CandidateMessage::Lock(event));
        });
        let (options, keep_alive) = (self.arguments.options.clone(), self.arguments.keep_alive.clone());
        let request = AcquireRequest::new(ticket, options, Wait::Forever, sink, keep_alive)
            .counted_as(Some(Kind::Singleton));
        self.send(LockMessage::Acquire(request));
        for reply in std::mem::take(&mut self.advertising) {
            self.advertise(reply, myself);
        }
    }

    async fn start_run(&mut self, myself: &ActorRef<CandidateMessage<M>>) -> Result<(), ActorProcessingErr> {
        let (Some(lease), Some(factory)) = (self.lease.take(), self.factory.take()) else { return Ok(()) };
        let (view, candidate) = (lease.view(), myself.clone());
        self.metrics.starts();
        info!(path = %self.arguments.path, token = %lease.token(), "a run of a singleton begins");
        let supervisor = self.arguments.supervisor.clone();
        let finish = Box::new(move |ended: Ended| {
            // Not left to the candidate, because that may have been killed together with the run.
            if let (Some(supervisor), Some(failure)) = (supervisor, ended.failure.clone()) {
                let (path, token) = (lease.path().to_owned(), lease.token());
                supervisor.tell(RunFailed { path, token, failure });
            }
            let _ = candidate.cast(CandidateMessage::Ended(Box::new((lease, ended))));
        });
        let stop_policy = self.arguments.stop_policy;
        let (starting, candidate) = (view.clone(), myself.clone());
        let started = Box::new(move |actor: ActorCell| {
            let _ = candidate.cast(CandidateMessage::Started(starting, actor.into()));
        });
        self.publish(CandidateState::Starting(view.clone()));
        let recording = self.arguments.keep_alive.recording().cloned();
        let arguments = RunArguments { keeper: None, view, factory, stop_policy, started, finish, recording };
        let (run, _) = Actor::spawn_linked(None, RunActor, arguments, myself.get_cell()).await?;
        self.run = Some(run);
        Ok(())
    }

    fn release(&mut self, myself: &ActorRef<CandidateMessage<M>>) {
        self.publish(CandidateState::Releasing);
        self.metrics.releases();
        self.ticket = None;
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

    fn publish(&mut self, state: CandidateState<M>) {
        // First, so that who is told of a state reads no earlier one.
        self.arguments.states.send_replace(state.clone());
        self.subscribers.retain(|subscriber| subscriber.send(state.clone()).is_ok());
    }
}

impl<M> State<M> {
    fn end(&mut self) {
        self.arguments.states.send_replace(CandidateState::Over);
        self.subscribers.clear();
    }
}

impl<M> Drop for State<M> {
    fn drop(&mut self) {
        self.end();
        let dropped = RegistryMessage::Dropped(Resource::Lock(self.arguments.path.clone()));
        let _ = self.arguments.registry.send_message(dropped);
    }
}
