//! The keeper: the root supervisor. It does no I/O. It restarts the session actor when a session is lost, reports
//! session events to subscribers, and closes everything in order.

mod closing;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ractor::{
    Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, ActorStatus, DerivedActorRef, RpcReplyPort,
    SupervisionEvent,
};
use tokio::sync::{mpsc, watch};
use tracing::{debug, warn};

use crate::api::error::ConnectError;
use crate::api::event::SessionEvent;
use crate::api::keep_alive::KeeperRequest;
use crate::api::keeper_state::{KeeperState, SessionStatus};
use crate::api::messages::RegistryMessage;
use crate::machine::Moment;
use crate::machine::backoff::Backoff;
use crate::metrics::Metrics;
use crate::record::Recording;
use crate::registry::{RegistryActor, RegistryActorMessage, RegistryArguments};
use crate::runtime::clock::Clock;
use crate::runtime::random::Randomness;
use crate::runtime::tasks::Tasks;
use crate::session::{
    SessionActor, SessionArguments, SessionMessage, SessionNews, SessionNotice, SessionReport,
};
use crate::zookeeper::Connect;

/// The settings of a keeper. The caller must have validated them.
#[derive(Clone)]
pub struct KeeperSettings {
    /// Creates sessions.
    pub connector: Arc<dyn Connect>,
    /// How long one round of connection attempts may take.
    pub connect_timeout: Duration,
    /// The server's tickTime, if known.
    pub tick: Option<Duration>,
    /// The clock that leases are measured with.
    pub clock: Clock,
    /// For node names, and to spread the retries of many processes.
    pub randomness: Randomness,
    /// How the keeper connects again after a session is lost.
    pub restart: RestartPolicy,
    /// How long closing waits for actors that work under locks, and for the server; `None` for no limit.
    pub close_timeout: Option<Duration>,
    /// Counts and times what happens.
    pub metrics: Metrics,
    /// Records what the state machines decide.
    pub recording: Option<Recording>,
}

/// How a keeper connects again.
///
/// When its credentials are rejected, it gives up at once: a retry would not help, and its supervisor may have other
/// credentials.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RestartPolicy {
    /// The pauses between rounds of connection attempts.
    pub backoff: Backoff,
    /// How long the keeper may be without a session, pauses included, before it gives up; `None` for no limit.
    pub give_up_after: Option<Duration>,
}

/// Messages to the keeper's actor.
pub enum KeeperMessage {
    /// Sends the newest session event at once, and every later one as it happens.
    Subscribe(mpsc::UnboundedSender<SessionEvent>),
    /// Refuses new requests, cancels waiting ones, releases held locks, closes the session, and then replies.
    Close(RpcReplyPort<()>),
    /// A message from a handle, a lease, or an actor that works under one.
    Request(KeeperRequest),
    #[doc(hidden)]
    #[allow(private_interfaces)]
    Session(SessionReport),
    #[doc(hidden)]
    StartSession,
    #[doc(hidden)]
    AdoptedEnded(ActorId),
    #[doc(hidden)]
    RegistryClosed,
    #[doc(hidden)]
    SessionClosed,
    #[doc(hidden)]
    CloseOverdue,
}

accepts!(KeeperMessage: Request(KeeperRequest), Session(SessionReport));

/// Starts a keeper and waits for its first session.
pub async fn start(settings: KeeperSettings) -> Result<Started, ConnectError> {
    let (clock, metrics) = (settings.clock, settings.metrics.clone());
    let (reply, first) = tokio::sync::oneshot::channel();
    let unreachable = |reason: String| ConnectError::Unreachable {
        address: settings.connector.address().to_owned(),
        timeout: settings.connect_timeout,
        reason,
    };
    let (closing, (sender, view)) = (Arc::<AtomicBool>::default(), watch::channel(KeeperState::FIRST));
    let arguments = KeeperArguments {
        settings: settings.clone(),
        first: reply.into(),
        closing: closing.clone(),
        sender: StateSender(sender),
    };
    let (keeper, _) =
        Actor::spawn(None, KeeperActor, arguments).await.map_err(|error| unreachable(error.to_string()))?;
    // Stops the keeper if this future is dropped while connecting.
    let guard = StopOnDrop(Some(keeper.clone()));
    let registry = first.await.map_err(|_| unreachable("the keeper stopped".into()))??;
    guard.keep();
    Ok(Started { keeper, registry, clock, metrics, state: view, closing })
}

/// A running keeper.
#[derive(Clone)]
pub struct Started {
    /// The root actor.
    pub keeper: ActorRef<KeeperMessage>,
    /// The registry, which finds or starts the actors of paths.
    pub registry: DerivedActorRef<RegistryMessage>,
    /// The clock that deadlines are measured with.
    pub clock: Clock,
    /// Counts and times what happens.
    pub metrics: Metrics,
    /// The state of the session. Its sender is dropped when the keeper ends.
    pub state: watch::Receiver<KeeperState>,
    closing: Arc<AtomicBool>,
}

impl Started {
    /// Whether the keeper is closing, closed or dead.
    pub fn is_closed(&self) -> bool {
        self.closing.load(Ordering::Relaxed) || self.keeper.get_status() >= ActorStatus::Stopping
    }

    /// Links the keeper under a supervisor of the application.
    ///
    /// # Errors
    ///
    /// [`ConnectError::NoSupervisor`] when the supervisor is stopping; the keeper is then stopped too.
    pub fn link(&self, supervisor: &ActorCell) -> Result<(), ConnectError> {
        self.keeper.link(supervisor.clone());
        match self.keeper.try_get_supervisor() {
            Some(linked) if linked.get_id() == supervisor.get_id() => Ok(()),
            Some(_) | None => {
                self.keeper.stop(None);
                Err(ConnectError::NoSupervisor)
            }
        }
    }
}

struct StopOnDrop(Option<ActorRef<KeeperMessage>>);

impl StopOnDrop {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        if let Some(keeper) = self.0.take() {
            keeper.stop(None);
        }
    }
}

struct KeeperActor;

type FirstSession = RpcReplyPort<Result<DerivedActorRef<RegistryMessage>, ConnectError>>;

struct KeeperArguments {
    settings: KeeperSettings,
    first: FirstSession,
    closing: Arc<AtomicBool>,
    sender: StateSender,
}

/// Shows the state of the session. Whatever ends the keeper, its last state is `Closed`.
struct StateSender(watch::Sender<KeeperState>);

impl Drop for StateSender {
    fn drop(&mut self) {
        self.0.send_modify(|state| state.status = SessionStatus::Closed);
    }
}

struct State {
    settings: KeeperSettings,
    view: StateSender,
    /// Shared with all handles.
    is_closing: Arc<AtomicBool>,
    registry: ActorRef<RegistryActorMessage>,
    session: Option<ActorRef<SessionMessage>>,
    /// The number of the newest session; sessions are numbered from one.
    epoch: u64,
    /// Whether the newest session is still open, as far as is known.
    open: bool,
    /// Whether the session actor has announced a session to the registry that it has not reported here.
    announced: Arc<AtomicBool>,
    /// The number of session actors that have ended since a session was last established.
    failures: u32,
    /// When the last session was lost; `None` while there is one.
    disconnected_since: Option<Moment>,
    /// Why the last connection attempt failed; `None` once there is a session.
    last_error: Option<String>,
    gave_up: Option<ConnectError>,
    /// Where the caller of [`start`] waits for the first session.
    first: Option<FirstSession>,
    subscribers: Vec<mpsc::UnboundedSender<SessionEvent>>,
    newest: Option<SessionEvent>,
    closing: Option<Vec<RpcReplyPort<()>>>,
    /// The actors that work under locks.
    adopted: HashMap<ActorId, Adopted>,
    /// The close timeout has passed, and what they run is being killed.
    killing: bool,
    /// Whether the registry has been asked to close.
    closing_registry: bool,
    /// Whether the session has been asked to close.
    closing_session: bool,
    /// Messages to this actor that are due later.
    timers: Tasks,
}

/// How an actor that works under locks is ended: see [`KeeperRequest::Adopt`].
struct Adopted {
    stop: Box<dyn Fn() + Send>,
    kill: Box<dyn Fn() + Send>,
}

#[ractor::actor(message = KeeperMessage, state = State, arguments = KeeperArguments)]
impl KeeperActor {
    async fn pre_start(
        &self,
        myself: ActorRef<KeeperMessage>,
        KeeperArguments { settings, first, closing, sender }: KeeperArguments,
    ) -> Result<State, ActorProcessingErr> {
        let (clock, randomness, metrics) =
            (settings.clock, settings.randomness.clone(), settings.metrics.clone());
        let recording = settings.recording.clone();
        let arguments = RegistryArguments { clock, randomness, metrics, recording };
        let (registry, _) = Actor::spawn_linked(None, RegistryActor, arguments, myself.get_cell()).await?;
        myself.cast(KeeperMessage::StartSession)?;
        Ok(State {
            settings,
            view: sender,
            is_closing: closing,
            registry,
            session: None,
            epoch: 0,
            open: false,
            announced: Arc::default(),
            failures: 0,
            disconnected_since: None,
            last_error: None,
            gave_up: None,
            first: Some(first),
            subscribers: Vec::new(),
            newest: None,
            closing: None,
            adopted: HashMap::new(),
            killing: false,
            closing_registry: false,
            closing_session: false,
            timers: Tasks::default(),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<KeeperMessage>,
        message: KeeperMessage,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            KeeperMessage::Subscribe(subscriber) => {
                state.subscribers.retain(|subscriber| !subscriber.is_closed());
                if state.newest.as_ref().is_none_or(|newest| subscriber.send(newest.clone()).is_ok()) {
                    state.subscribers.push(subscriber);
                }
            }
            KeeperMessage::Close(reply) => state.close(Some(reply), &myself)?,
            KeeperMessage::Request(KeeperRequest::Abandoned) => state.close(None, &myself)?,
            KeeperMessage::Request(KeeperRequest::Adopt { actor, stop, kill }) => {
                state.adopt(actor, Adopted { stop, kill }, &myself)
            }
            KeeperMessage::Session(SessionReport::News(news)) => state.news(news),
            KeeperMessage::Session(SessionReport::NotConnected(error)) => match state.first.take() {
                Some(first) => {
                    let _ = first.send(Err(error));
                    myself.stop(None);
                }
                None => state.not_connected(error, &myself)?,
            },
            KeeperMessage::StartSession => state.start_session(&myself).await?,
            KeeperMessage::AdoptedEnded(actor) => {
                state.adopted.remove(&actor);
                state.close_registry_when_alone(&myself)?;
            }
            KeeperMessage::RegistryClosed if state.closing_session => {}
            KeeperMessage::RegistryClosed => state.close_session(&myself)?,
            KeeperMessage::CloseOverdue => state.close_overdue(&myself)?,
            KeeperMessage::SessionClosed => {
                state.timers.abort_all();
                state.tell(SessionEvent::Closed);
                for reply in state.closing.take().into_iter().flatten() {
                    let _ = reply.send(());
                }
                if let Some(error) = state.gave_up.take() {
                    // The supervisor can downcast this to the `ConnectError`.
                    return Err(error.into());
                }
                myself.stop(Some("closed".into()));
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<KeeperMessage>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let Some(id) = event.actor_id() else { return Ok(()) };
        let ended =
            matches!(event, SupervisionEvent::ActorTerminated(..) | SupervisionEvent::ActorFailed(..));
        if !ended {
            return Ok(());
        }
        if id == state.registry.get_id() {
            // The registry's children ended with it. Their nodes are deleted at the end of the session.
            warn!(%event, "the registry stopped");
            state.tell(SessionEvent::Closed);
            return Err("the registry stopped".into());
        } else if state.session.as_ref().is_some_and(|session| session.get_id() == id) {
            debug!(%event, epoch = state.epoch, "the session actor ended");
            state.session = None;
            if state.open && !state.closing_session {
                // If the session actor has reported the loss as well, its message arrives later and is ignored.
                let lost = SessionNotice::News(SessionNews::Lost(state.epoch));
                state.registry.cast(RegistryActorMessage::Session(lost))?;
                state.follow(SessionNews::Lost(state.epoch));
            } else if state.announced.load(Ordering::SeqCst) && !state.closing_session {
                // Its report will be ignored, but the registry knows the session: its epoch is not used again.
                state.epoch += 1;
                let lost = SessionNotice::News(SessionNews::Lost(state.epoch));
                state.registry.cast(RegistryActorMessage::Session(lost))?;
            }
            if state.closing_session {
                myself.cast(KeeperMessage::SessionClosed)?;
            } else if state.closing.is_none() {
                state.disconnected_since.get_or_insert(state.settings.clock.now());
                let rest = state.rest();
                state.cast_after(rest, KeeperMessage::StartSession, &myself);
            }
        } else {
            // An actor that works under locks. What the application gave it is in its state, and may take long to drop,
            // or panic.
            tokio::spawn(async move { drop(event) });
        }
        Ok(())
    }
}

impl State {
    async fn start_session(&mut self, myself: &ActorRef<KeeperMessage>) -> Result<(), ActorProcessingErr> {
        if self.closing.is_some() {
            return Ok(());
        }
        if let Some(error) = self.out_of_time() {
            return self.give_up(error, myself);
        }
        let connect_timeout = self.settings.connect_timeout;
        let round = match self.until_giving_up() {
            Some(left) => left.clamp(SHORTEST_ROUND, connect_timeout.max(SHORTEST_ROUND)),
            None => connect_timeout,
        };
        self.announced = Arc::default();
        let arguments = SessionArguments {
            keeper: myself.get_derived(),
            registry: self.registry.get_derived(),
            connector: self.settings.connector.clone(),
            clock: self.settings.clock,
            epoch: self.epoch + 1,
            announced: self.announced.clone(),
            round,
            connect_timeout,
            last_error: self.last_error.clone(),
            randomness: self.settings.randomness.clone(),
            tick: self.settings.tick,
            metrics: self.settings.metrics.clone(),
            recording: self.settings.recording.clone(),
        };
        let (session, _) = Actor::spawn_linked(None, SessionActor, arguments, myself.get_cell()).await?;
        self.session = Some(session);
        Ok(())
    }

    /// The time left until the keeper gives up; `None` without a limit.
    fn until_giving_up(&self) -> Option<Duration> {
        let tried = self.settings.clock.now().since(self.disconnected_since?);
        Some(self.settings.restart.give_up_after?.saturating_sub(tried))
    }

    /// The pause before the next round. It ends no later than the time to give up. Before the first round, it takes at
    /// most half of the time that is left, so that there is time for a round.
    fn rest(&mut self) -> Duration {
        let rest = self.settings.restart.backoff.rest(self.failures, self.settings.randomness.next());
        self.failures = self.failures.saturating_add(1);
        let longest =
            self.until_giving_up().map(|left| if self.last_error.is_some() { left } else { left / 2 });
        rest.min(longest.unwrap_or(Duration::MAX))
    }

    /// The error to give up with, if the time is over.
    fn out_of_time(&self) -> Option<ConnectError> {
        let (reason, timeout) = (self.last_error.clone()?, self.settings.restart.give_up_after?);
        let address = self.settings.connector.address().to_owned();
        let over = self.until_giving_up()?.is_zero();
        over.then_some(ConnectError::Unreachable { address, timeout, reason })
    }

    fn not_connected(
        &mut self,
        error: ConnectError,
        myself: &ActorRef<KeeperMessage>,
    ) -> Result<(), ActorProcessingErr> {
        warn!(%error, "could not connect");
        let last = match error {
            ConnectError::Unreachable { reason, .. } => {
                self.last_error = Some(reason);
                self.out_of_time()
            }
            ConnectError::AuthFailed { .. }
            | ConnectError::InvalidAddress { .. }
            | ConnectError::InvalidOption { .. }
            | ConnectError::NoSupervisor => Some(error),
        };
        match last {
            Some(error) if self.closing.is_none() => self.give_up(error, myself),
            Some(_) | None => Ok(()),
        }
    }

    fn give_up(
        &mut self,
        error: ConnectError,
        myself: &ActorRef<KeeperMessage>,
    ) -> Result<(), ActorProcessingErr> {
        warn!(%error, "giving up");
        self.tell(SessionEvent::GaveUp { error: error.clone() });
        self.gave_up = Some(error);
        self.close(None, myself)
    }

    fn news(&mut self, news: SessionNews) {
        // Supervision events overtake messages: a report can arrive after the event of its actor's end.
        let next = matches!(&news, SessionNews::Connected(_));
        if self.session.is_some() && news.epoch() == self.epoch + u64::from(next) {
            self.follow(news);
        }
    }

    fn follow(&mut self, news: SessionNews) {
        let event = match &news {
            SessionNews::Connected(connection) => {
                (self.open, self.failures, self.epoch) = (true, 0, connection.epoch);
                (self.disconnected_since, self.last_error) = (None, None);
                self.announced = Arc::default();
                self.view.0.send_modify(|state| {
                    (state.epoch, state.session_id) = (connection.epoch, connection.client.session());
                    state.session_timeout = connection.client.timeout();
                });
                SessionEvent::Connected { epoch: connection.epoch }
            }
            SessionNews::Suspended(epoch) => SessionEvent::Suspended { epoch: *epoch },
            SessionNews::Resumed(epoch) => SessionEvent::Resumed { epoch: *epoch },
            SessionNews::Lost(epoch) => {
                self.open = false;
                SessionEvent::Lost { epoch: *epoch }
            }
        };
        self.tell(event);
        if let Some(first) = self.first.take() {
            let _ = first.send(Ok(self.registry.get_derived()));
        }
    }

    fn tell(&mut self, event: SessionEvent) {
        let status = match &event {
            SessionEvent::Connected { .. } | SessionEvent::Resumed { .. } => SessionStatus::Connected,
            SessionEvent::Suspended { .. } => SessionStatus::Suspended,
            SessionEvent::Lost { .. } => SessionStatus::Lost,
            SessionEvent::GaveUp { .. } | SessionEvent::Closed => SessionStatus::Closed,
        };
        self.view.0.send_modify(|state| state.status = status);
        self.subscribers.retain(|subscriber| subscriber.send(event.clone()).is_ok());
        self.newest = Some(event);
    }

    /// Casts a message to this actor, unless it ends before.
    fn cast_after(&mut self, time: Duration, message: KeeperMessage, myself: &ActorRef<KeeperMessage>) {
        let myself = myself.clone();
        self.timers.spawn(async move {
            tokio::time::sleep(time).await;
            let _ = myself.cast(message);
        });
    }
}

/// The minimum length of the last round of connection attempts before giving up.
const SHORTEST_ROUND: Duration = Duration::from_millis(1);
