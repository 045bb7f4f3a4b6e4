//! The actor of one candidate of a singleton: carries out what its machine decides.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{debug, info};

use crate::api::error::AcquireError;
use crate::api::lease::{Lease, Term};
use crate::api::messages::{
    AcquireRequest, ContenderOptions, Lifeline, Listener, LockEvent, LockMessage, Place, Refused,
};
use crate::keeper::KeeperMessage;
use crate::machine::backoff::Backoff;
use crate::machine::candidate::{Singleton, SingletonCommand, SingletonInput};
use crate::machine::lock::protocol::{Ticket, Wait};
use crate::machine::run::Reason;
use crate::registry::PrimitivesMessage;
use crate::run::worker::Job;
use crate::run::{Ended, TenureActor, TenureArguments, TenureMessage, Terms};
use crate::runtime::clock::Clock;
use crate::runtime::random::Randomness;

/// Where a candidate stands.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum CandidateState {
    /// Somebody else is first, or ZooKeeper has not answered yet.
    Waiting,
    /// This member's turn has come: the actor is in its `pre_start`.
    Starting(Term),
    /// The actor runs here: its `pre_start` and `post_start` are over.
    Running(Term),
    /// The actor has ended, and the lock is being released.
    Releasing,
    /// Before the next try.
    Resting {
        /// What went wrong.
        reason: String,
    },
    /// It was shut down, or its keeper was closed.
    Over,
}

/// To the actor of a candidate.
pub enum SingletonMessage {
    /// Stop the actor, release the lock, and end.
    Shutdown,
    #[doc(hidden)]
    Lock(LockEvent),
    #[doc(hidden)]
    Started(Term),
    #[doc(hidden)]
    Ended(Box<Ended>),
    #[doc(hidden)]
    Released,
    #[doc(hidden)]
    Rested,
}

#[cfg(feature = "cluster")]
impl ractor::Message for SingletonMessage {}

/// The actor of a candidate.
pub struct SingletonActor;

/// What a candidate needs.
pub struct SingletonArguments {
    /// Shuts it down when it closes.
    pub keeper: ActorRef<KeeperMessage>,
    /// Where locks are had.
    pub primitives: ActorRef<PrimitivesMessage>,
    /// Keeps the keeper open.
    pub lifeline: Arc<Lifeline>,
    /// Which lock.
    pub place: Place,
    /// Its node.
    pub options: Arc<ContenderOptions>,
    /// What is to run.
    pub job: Job,
    /// So that many members do not come back at once.
    pub randomness: Randomness,
    /// How a run ends.
    pub terms: Terms,
    /// How long to rest after a run that failed.
    pub backoff: Backoff,
    /// Where the candidate stands.
    pub states: watch::Sender<CandidateState>,
}

/// A candidate.
pub struct State {
    arguments: Arguments,
    machine: Singleton,
    clock: Clock,
    ticket: Ticket,
    lease: Option<Lease>,
    job: Option<Job>,
    tenure: Option<ActorRef<TenureMessage>>,
    /// Of an actor that has started, until that is announced.
    term: Option<Term>,
    /// What went wrong last.
    reason: String,
    tasks: JoinSet<()>,
}

/// All but the job, which goes from run to run.
struct Arguments {
    primitives: ActorRef<PrimitivesMessage>,
    lifeline: Arc<Lifeline>,
    place: Place,
    options: Arc<ContenderOptions>,
    randomness: Randomness,
    terms: Terms,
    backoff: Backoff,
    states: watch::Sender<CandidateState>,
}

#[ractor::actor(message = SingletonMessage, state = State, arguments = SingletonArguments)]
impl SingletonActor {
    async fn pre_start(
        &self,
        myself: ActorRef<SingletonMessage>,
        arguments: SingletonArguments,
    ) -> Result<State, ActorProcessingErr> {
        let SingletonArguments {
            keeper,
            primitives,
            lifeline,
            place,
            options,
            job,
            randomness,
            terms,
            backoff,
            states,
        } = arguments;
        let candidate = myself.clone();
        let close = Box::new(move || drop(candidate.cast(SingletonMessage::Shutdown)));
        keeper.cast(KeeperMessage::Adopt(myself.get_cell(), close))?;
        primitives.cast(PrimitivesMessage::Open(place.clone()))?;
        let mut tasks = JoinSet::new();
        let candidate = myself.clone();
        // A keeper that ends before it has read that can neither shut it down nor take it along.
        tasks.spawn(async move {
            if keeper.wait(None).await.is_ok() {
                let _ = candidate.cast(SingletonMessage::Shutdown);
            }
        });
        let mut commands = Vec::new();
        let machine = Singleton::new(backoff.maximum, &mut commands);
        let mut state = State {
            arguments: Arguments { primitives, lifeline, place, options, randomness, terms, backoff, states },
            machine,
            clock: Clock::start(),
            ticket: Ticket::new(),
            lease: None,
            job: Some(job),
            tenure: None,
            term: None,
            reason: String::new(),
            tasks,
        };
        state.execute(commands, &myself).await?;
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<SingletonMessage>,
        message: SingletonMessage,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        while state.tasks.try_join_next().is_some() {}
        let input = match message {
            SingletonMessage::Shutdown => SingletonInput::Shutdown,
            SingletonMessage::Lock(event) => match state.lock(event) {
                Some(input) => input,
                None => return Ok(()),
            },
            SingletonMessage::Started(term) => {
                state.term = Some(term);
                SingletonInput::Started
            }
            SingletonMessage::Ended(ended) => state.ended(*ended),
            SingletonMessage::Released => SingletonInput::Released,
            SingletonMessage::Rested => SingletonInput::Rested,
        };
        let mut commands = Vec::new();
        state.machine.handle(input, state.clock.now(), &mut commands);
        state.execute(commands, &myself).await
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<SingletonMessage>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            // A run tells its end in a message, once its actor has ended, also when the run itself was killed.
            SupervisionEvent::ActorTerminated(..) | SupervisionEvent::ActorFailed(..) => {
                debug!(path = %state.arguments.place.path, %event, "the actor above a run ended");
            }
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {}
            #[cfg(feature = "cluster")]
            SupervisionEvent::PidLifecycleEvent(_) => {}
        }
        Ok(())
    }
}

impl State {
    fn lock(&mut self, event: LockEvent) -> Option<SingletonInput> {
        match event {
            LockEvent::Acquired { guard, .. } => {
                self.lease = Some(guard);
                Some(SingletonInput::Granted)
            }
            LockEvent::Refused(_, refused) => {
                let for_good = refused == Refused::Failed(AcquireError::Closed);
                self.reason = match refused {
                    Refused::Failed(error) => error.to_string(),
                    Refused::Contended | Refused::Suspended | Refused::TimedOut | Refused::Cancelled => {
                        "the request was taken back".into()
                    }
                };
                Some(SingletonInput::Refused { for_good })
            }
            // The run watches its lease.
            LockEvent::Queued { .. }
            | LockEvent::Suspended(_)
            | LockEvent::Resumed(_)
            | LockEvent::Lost(_)
            | LockEvent::Released(_) => None,
        }
    }

    fn ended(&mut self, ended: Ended) -> SingletonInput {
        let Ended { lease, reason, error, job } = ended;
        info!(path = %self.arguments.place.path, token = %lease.token(), ?reason, ?error, "a singleton's run ended");
        self.reason = match (reason, error) {
            (Reason::Finished, _) => "the actor stopped by itself".into(),
            (_, Some(error)) => error,
            (Reason::Failed, None) => "the actor failed".into(),
            (Reason::Stopped, None) => "the actor was stopped".into(),
            (Reason::Lease, None) => "the lease came to its end".into(),
        };
        (self.lease, self.job, self.tenure) = (Some(lease), Some(job), None);
        SingletonInput::Ended(reason)
    }

    async fn execute(
        &mut self,
        commands: Vec<SingletonCommand>,
        myself: &ActorRef<SingletonMessage>,
    ) -> Result<(), ActorProcessingErr> {
        for command in commands {
            match command {
                SingletonCommand::Ask => self.ask(myself),
                SingletonCommand::Withdraw => self.send(LockMessage::Cancel(self.ticket)),
                SingletonCommand::Serve => self.serve(myself).await?,
                SingletonCommand::Announce => {
                    if let Some(term) = self.term.take() {
                        self.publish(CandidateState::Running(term));
                    }
                }
                SingletonCommand::Dismiss => {
                    if let Some(tenure) = &self.tenure {
                        // One that has ended said so before.
                        let _ = tenure.cast(TenureMessage::Stop);
                    }
                }
                SingletonCommand::Release => self.release(myself),
                SingletonCommand::Rest(failures) => {
                    let rest = self.arguments.backoff.rest(failures, self.arguments.randomness.next());
                    debug!(path = %self.arguments.place.path, failures, ?rest, reason = self.reason, "resting");
                    let reason = std::mem::take(&mut self.reason);
                    self.publish(CandidateState::Resting { reason });
                    let myself = myself.clone();
                    self.tasks.spawn(async move {
                        tokio::time::sleep(rest).await;
                        let _ = myself.cast(SingletonMessage::Rested);
                    });
                }
                SingletonCommand::Finish => {
                    self.publish(CandidateState::Over);
                    myself.stop(None);
                }
            }
        }
        Ok(())
    }

    fn ask(&mut self, myself: &ActorRef<SingletonMessage>) {
        self.publish(CandidateState::Waiting);
        self.ticket = Ticket::new();
        let (candidate, path) = (myself.clone(), self.arguments.place.path.clone());
        let listener = Listener::new(self.ticket, path, move |event| {
            // A candidate that is gone drops the lease with the message, and that releases the lock.
            let _ = candidate.cast(SingletonMessage::Lock(event));
        });
        let (options, lifeline) = (self.arguments.options.clone(), self.arguments.lifeline.clone());
        let request = AcquireRequest::new(self.ticket, options, Wait::Forever, listener, lifeline);
        self.send(LockMessage::Acquire(request));
    }

    async fn serve(&mut self, myself: &ActorRef<SingletonMessage>) -> Result<(), ActorProcessingErr> {
        let (Some(lease), Some(job)) = (self.lease.take(), self.job.take()) else { return Ok(()) };
        let (term, candidate) = (lease.term(), myself.clone());
        info!(path = %self.arguments.place.path, token = %lease.token(), "a singleton's run begins");
        let finish = Box::new(move |ended| {
            let _ = candidate.cast(SingletonMessage::Ended(Box::new(ended)));
        });
        let terms = self.arguments.terms;
        let (starting, started) = (term.clone(), myself.clone());
        let started = Box::new(move || drop(started.cast(SingletonMessage::Started(starting))));
        let arguments = TenureArguments { keeper: None, lease, job, terms, started, finish };
        self.publish(CandidateState::Starting(term));
        let (tenure, _) = Actor::spawn_linked(None, TenureActor, arguments, myself.get_cell()).await?;
        self.tenure = Some(tenure);
        Ok(())
    }

    fn release(&mut self, myself: &ActorRef<SingletonMessage>) {
        self.publish(CandidateState::Releasing);
        let (lease, myself) = (self.lease.take(), myself.clone());
        self.tasks.spawn(async move {
            if let Some(lease) = lease {
                // A lease that was lost is as good as released.
                let _ = lease.release().await;
            }
            let _ = myself.cast(SingletonMessage::Released);
        });
    }

    fn send(&self, message: LockMessage) {
        // A closed keeper drops the message; a listener in it says so.
        let _ =
            self.arguments.primitives.cast(PrimitivesMessage::Lock(self.arguments.place.clone(), message));
    }

    fn publish(&self, state: CandidateState) {
        self.arguments.states.send_replace(state);
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.publish(CandidateState::Over);
        let _ = self.arguments.primitives.cast(PrimitivesMessage::Dropped(self.arguments.place.clone()));
    }
}
