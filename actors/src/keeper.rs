//! The keeper: the root of the tree. It does no I/O. It starts the session actor again when a session is lost, tells
//! subscribers what happens to sessions, and closes everything in order.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ractor::{
    Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, ActorStatus, DerivedActorRef, RpcReplyPort,
    SupervisionEvent,
};
use tokio::sync::mpsc;
use tracing::{debug, warn};

use crate::api::error::ConnectError;
use crate::api::event::SessionEvent;
use crate::api::keep_alive::KeeperRequest;
use crate::api::messages::RegistryMessage;
use crate::machine::Moment;
use crate::machine::backoff::Backoff;
use crate::registry::{RegistryActor, RegistryActorMessage, RegistryArguments};
use crate::runtime::clock::Clock;
use crate::runtime::random::Randomness;
use crate::session::{
    PathsReport, SessionActor, SessionArguments, SessionMessage, SessionNews, SessionReport,
};
use crate::zookeeper::Connect;

/// Everything a keeper needs to know. Checked by whoever makes it.
#[derive(Clone)]
pub struct KeeperSettings {
    /// Connects.
    pub connector: Arc<dyn Connect>,
    /// How long one round of connecting may take.
    pub connect_timeout: Duration,
    /// The server's tickTime, where it is known.
    pub tick: Option<Duration>,
    /// Tells how long a lease is good for.
    pub clock: Clock,
    /// For the names of nodes, and so that many processes do not come back at once.
    pub randomness: Randomness,
    /// What follows when a session is lost.
    pub restart: RestartPolicy,
    /// How long closing waits for actors that work under locks, and for the server. Without limit unless set.
    pub close_timeout: Option<Duration>,
}

/// How a keeper connects again.
///
/// It ends at once when its credentials are refused: trying them again would not help, and its supervisor may have
/// others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RestartPolicy {
    /// How long it rests between rounds of connecting.
    pub backoff: Backoff,
    /// How long it tries without a session, rests included. Without limit unless set.
    pub give_up_after: Option<Duration>,
}

/// To the keeper's actor.
pub enum KeeperMessage {
    /// Sends every later session event there, and the newest one at once.
    Subscribe(mpsc::UnboundedSender<SessionEvent>),
    /// Refuses new work, cancels waiters, releases what is held, closes the session, and replies.
    Close(RpcReplyPort<()>),
    /// From handles, leases, and the actors that work under them.
    Request(KeeperRequest),
    #[doc(hidden)]
    #[allow(private_interfaces)]
    Session(SessionReport),
    #[doc(hidden)]
    StartSession,
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
    let clock = settings.clock;
    let (reply, first) = tokio::sync::oneshot::channel();
    let unreachable = |reason: String| ConnectError::Unreachable {
        address: settings.connector.address().to_owned(),
        timeout: settings.connect_timeout,
        reason,
    };
    let view = Arc::<View>::default();
    let arguments = (settings.clone(), clock, reply.into(), view.clone());
    let (keeper, _) =
        Actor::spawn(None, KeeperActor, arguments).await.map_err(|error| unreachable(error.to_string()))?;
    // Dropped in the middle of connecting: nothing is to be left running.
    let guard = StopOnDrop(Some(keeper.clone()));
    let registry = first.await.map_err(|_| unreachable("the keeper stopped".into()))??;
    guard.keep();
    Ok(Started { keeper, registry, clock, view })
}

impl Started {
    /// The timeout that the server granted to the newest session.
    pub fn session_timeout(&self) -> Duration {
        Duration::from_millis(self.view.session_timeout.load(Ordering::Relaxed))
    }

    /// Whether the keeper is closed, or closing, or dead.
    pub fn is_closed(&self) -> bool {
        self.view.closing.load(Ordering::Relaxed) || self.keeper.get_status() >= ActorStatus::Stopping
    }

    /// Links the keeper under a supervisor of the application.
    ///
    /// # Errors
    ///
    /// [`ConnectError::NoSupervisor`] when that is ending; the keeper is stopped then.
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

/// A running keeper.
pub struct Started {
    /// The root actor.
    pub keeper: ActorRef<KeeperMessage>,
    /// Finds the actors of paths.
    pub registry: DerivedActorRef<RegistryMessage>,
    /// The clock of this keeper's deadlines.
    pub clock: Clock,
    view: Arc<View>,
}

/// What is known of a keeper without asking it.
#[derive(Default)]
struct View {
    /// That of the newest session, in milliseconds.
    session_timeout: AtomicU64,
    closing: AtomicBool,
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

type KeeperArguments = (KeeperSettings, Clock, FirstSession, Arc<View>);

struct State {
    settings: KeeperSettings,
    clock: Clock,
    view: Arc<View>,
    registry: ActorRef<RegistryActorMessage>,
    session: Option<ActorRef<SessionMessage>>,
    /// How many sessions have begun.
    epoch: u64,
    /// The last of them has not ended, as far as is known.
    open: bool,
    /// Rounds of connecting, or sessions, that failed in a row.
    failures: u32,
    /// When the last session was lost, until there is another.
    without_since: Option<Moment>,
    /// How the last try to get a session failed, until there is one.
    trouble: Option<String>,
    gave_up: Option<ConnectError>,
    first: Option<FirstSession>,
    subscribers: Vec<mpsc::UnboundedSender<SessionEvent>>,
    newest: Option<SessionEvent>,
    closing: Option<Vec<RpcReplyPort<()>>>,
    /// Actors that work under locks, and how to end them.
    adopted: HashMap<ActorId, Box<dyn Fn() + Send>>,
    /// No actor works under a lock any more.
    closing_registry: bool,
    /// Everything else is closed.
    closing_session: bool,
}

#[ractor::actor(message = KeeperMessage, state = State, arguments = KeeperArguments)]
impl KeeperActor {
    async fn pre_start(
        &self,
        myself: ActorRef<KeeperMessage>,
        (settings, clock, first, view): KeeperArguments,
    ) -> Result<State, ActorProcessingErr> {
        let arguments = RegistryArguments { clock, randomness: settings.randomness.clone() };
        let (registry, _) = Actor::spawn_linked(None, RegistryActor, arguments, myself.get_cell()).await?;
        myself.cast(KeeperMessage::StartSession)?;
        Ok(State {
            settings,
            clock,
            view,
            registry,
            session: None,
            epoch: 0,
            open: false,
            failures: 0,
            without_since: None,
            trouble: None,
            gave_up: None,
            first: Some(first),
            subscribers: Vec::new(),
            newest: None,
            closing: None,
            adopted: HashMap::new(),
            closing_registry: false,
            closing_session: false,
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
            KeeperMessage::Request(KeeperRequest::Adopt { actor, stop }) => state.adopt(actor, stop, &myself),
            KeeperMessage::Session(SessionReport::News(news)) => state.news(news),
            KeeperMessage::Session(SessionReport::NotConnected(error)) => match state.first.take() {
                Some(first) => {
                    let _ = first.send(Err(error));
                    myself.stop(None);
                }
                None => state.not_connected(error, &myself)?,
            },
            KeeperMessage::StartSession => state.start_session(&myself).await?,
            KeeperMessage::RegistryClosed if state.closing_session => {}
            KeeperMessage::RegistryClosed => state.close_session(&myself)?,
            KeeperMessage::CloseOverdue => state.close_at_once(&myself)?,
            KeeperMessage::SessionClosed => {
                state.tell(SessionEvent::Closed);
                for reply in state.closing.take().into_iter().flatten() {
                    let _ = reply.send(());
                }
                if let Some(error) = state.gave_up.take() {
                    // For its supervisor, which can find the `ConnectError` in it.
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
            // Its children ended with it. The end of the session deletes their nodes.
            warn!(%event, "the registry stopped");
            state.tell(SessionEvent::Closed);
            return Err("the registry stopped".into());
        } else if state.session.as_ref().is_some_and(|session| session.get_id() == id) {
            debug!(%event, epoch = state.epoch, "the session actor ended");
            state.session = None;
            if state.open && !state.closing_session {
                // If it has told that itself, this comes first; then the second one is ignored.
                let lost = PathsReport::News(SessionNews::Lost(state.epoch));
                state.registry.cast(RegistryActorMessage::Session(lost))?;
                state.follow(SessionNews::Lost(state.epoch));
            }
            if state.closing_session {
                myself.cast(KeeperMessage::SessionClosed)?;
            } else if state.closing.is_none() {
                state.without_since.get_or_insert(state.clock.now());
                myself.send_after(state.rest(), || KeeperMessage::StartSession);
            }
        } else if state.adopted.remove(&id).is_some() {
            state.close_registry_when_alone(&myself)?;
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
        let connect_timeout = match self.until_giving_up() {
            Some(left) => left.clamp(SHORTEST_ROUND, self.settings.connect_timeout.max(SHORTEST_ROUND)),
            None => self.settings.connect_timeout,
        };
        let arguments = SessionArguments {
            keeper: myself.get_derived(),
            registry: self.registry.get_derived(),
            connector: self.settings.connector.clone(),
            clock: self.clock,
            epoch: self.epoch + 1,
            connect_timeout,
            trouble: self.trouble.clone(),
            randomness: self.settings.randomness.clone(),
            tick: self.settings.tick,
        };
        let (session, _) = Actor::spawn_linked(None, SessionActor, arguments, myself.get_cell()).await?;
        self.session = Some(session);
        Ok(())
    }

    /// How much longer it tries; `None` without a limit.
    fn until_giving_up(&self) -> Option<Duration> {
        let tried = self.clock.now().since(self.without_since?);
        Some(self.settings.restart.give_up_after?.saturating_sub(tried))
    }

    /// How long to rest before the next round. Ends when it is time to give up; if no round has been tried by then,
    /// there is time left for one.
    fn rest(&mut self) -> Duration {
        let rest = self.settings.restart.backoff.rest(self.failures, self.settings.randomness.next());
        self.failures = self.failures.saturating_add(1);
        let longest = self.until_giving_up().map(|left| if self.trouble.is_some() { left } else { left / 2 });
        rest.min(longest.unwrap_or(Duration::MAX))
    }

    /// The error to give up with, once the time for trying is over.
    fn out_of_time(&self) -> Option<ConnectError> {
        let (reason, timeout) = (self.trouble.clone()?, self.settings.restart.give_up_after?);
        let address = self.settings.connector.address().to_owned();
        let over = self.until_giving_up()?.is_zero();
        over.then_some(ConnectError::Unreachable { address, timeout, reason })
    }

    fn not_connected(
        &mut self,
        error: ConnectError,
        myself: &ActorRef<KeeperMessage>,
    ) -> Result<(), ActorProcessingErr> {
        warn!(%error, "no session");
        let last = match error {
            ConnectError::Unreachable { reason, .. } => {
                self.trouble = Some(reason);
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
        // Supervision events overtake messages: what an actor told before its end can come after that.
        let next = matches!(&news, SessionNews::Connected(_));
        if self.session.is_some() && news.epoch() == self.epoch + u64::from(next) {
            self.follow(news);
        }
    }

    fn follow(&mut self, news: SessionNews) {
        let event = match &news {
            SessionNews::Connected(connection) => {
                (self.open, self.failures, self.epoch) = (true, 0, connection.epoch);
                (self.without_since, self.trouble) = (None, None);
                let timeout = connection.client.timeout().as_millis() as u64;
                self.view.session_timeout.store(timeout, Ordering::Relaxed);
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
        self.subscribers.retain(|subscriber| subscriber.send(event.clone()).is_ok());
        self.newest = Some(event);
    }

    fn close(
        &mut self,
        reply: Option<RpcReplyPort<()>>,
        myself: &ActorRef<KeeperMessage>,
    ) -> Result<(), ActorProcessingErr> {
        let first = self.closing.is_none();
        self.closing.get_or_insert_default().extend(reply);
        if first {
            self.view.closing.store(true, Ordering::Relaxed);
            if let Some(limit) = self.settings.close_timeout {
                myself.send_after(limit, || KeeperMessage::CloseOverdue);
            }
            self.adopted.values().for_each(|stop| stop());
            self.close_registry_when_alone(myself)?;
        }
        Ok(())
    }

    fn adopt(&mut self, actor: ActorCell, stop: Box<dyn Fn() + Send>, myself: &ActorRef<KeeperMessage>) {
        actor.link(myself.get_cell());
        // One that has ended meanwhile cannot be linked, and its end would never be told.
        if actor.try_get_supervisor().is_none_or(|supervisor| supervisor.get_id() != myself.get_id()) {
            return;
        }
        if self.closing.is_some() {
            stop();
        }
        self.adopted.insert(actor.get_id(), stop);
    }

    fn close_registry_when_alone(
        &mut self,
        myself: &ActorRef<KeeperMessage>,
    ) -> Result<(), ActorProcessingErr> {
        match self.closing.is_some() && self.adopted.is_empty() {
            true => self.close_registry(myself),
            false => Ok(()),
        }
    }

    fn close_registry(&mut self, myself: &ActorRef<KeeperMessage>) -> Result<(), ActorProcessingErr> {
        if !self.closing_registry {
            self.closing_registry = true;
            self.registry.call_and_forward(
                RegistryActorMessage::Close,
                myself,
                |()| KeeperMessage::RegistryClosed,
                None,
            )?;
        }
        Ok(())
    }

    /// Waits no longer: guards are lost, and the session ends soon.
    fn close_at_once(&mut self, myself: &ActorRef<KeeperMessage>) -> Result<(), ActorProcessingErr> {
        if self.closing_session {
            return Ok(());
        }
        warn!(actors = self.adopted.len(), "closing takes too long: the session ends under what still works");
        self.close_registry(myself)?;
        self.close_session(myself)
    }

    fn close_session(&mut self, myself: &ActorRef<KeeperMessage>) -> Result<(), ActorProcessingErr> {
        self.closing_session = true;
        let asked = self.session.as_ref().map(|session| {
            session.call_and_forward(SessionMessage::Close, myself, |()| KeeperMessage::SessionClosed, None)
        });
        if !matches!(asked, Some(Ok(_))) {
            myself.cast(KeeperMessage::SessionClosed)?;
        }
        Ok(())
    }
}

/// Of the last round of connecting before giving up.
const SHORTEST_ROUND: Duration = Duration::from_millis(1);
