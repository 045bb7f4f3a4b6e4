//! The keeper: the root of the tree. It does no I/O; it starts the session actor again when a session is lost,
//! passes on what becomes of sessions, and closes everything in order.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ractor::{
    Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, ActorStatus, RpcReplyPort, SupervisionEvent,
};
use tokio::sync::mpsc;
use tracing::{debug, warn};

use crate::api::error::ConnectError;
use crate::api::messages::SessionEvent;
use crate::machine::Moment;
use crate::machine::backoff::Backoff;
pub(crate) use crate::registry::PrimitivesMessage;
use crate::registry::{PrimitivesActor, PrimitivesArguments};
use crate::runtime::clock::Clock;
use crate::runtime::random::Randomness;
use crate::session::{SessionActor, SessionArguments, SessionMessage, SessionNews};
use crate::zookeeper::Connect;

/// Everything a keeper needs to know. Checked by whoever makes it.
#[derive(Clone)]
pub struct KeeperSettings {
    /// Makes the sessions.
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
    /// How long closing waits for actors that work under locks, and for the server. For ever unless set.
    pub close_timeout: Option<Duration>,
}

/// How a keeper seeks the next session.
///
/// Credentials that are not taken any more end it at once: they do not become better by themselves, and whoever
/// supervises the keeper may have others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RestartPolicy {
    /// How long it rests between rounds of connecting.
    pub backoff: Backoff,
    /// How long it goes on without a session, rests included. For ever unless set.
    pub give_up_after: Option<Duration>,
}

/// To the keeper's actor.
pub enum KeeperMessage {
    /// Every later session event goes here, none dropped; the newest one is told at once.
    Subscribe(mpsc::UnboundedSender<SessionEvent>),
    /// Refuse new work, cancel who waits, release what is held, close the session; then tell.
    Close(RpcReplyPort<()>),
    /// The last handle and the last lease are gone.
    Abandoned,
    /// This actor works under locks of this keeper. When the keeper closes, it is asked to end, and the locks stay
    /// until it has; when the keeper dies, it is killed.
    Adopt(ActorCell, Box<dyn Fn() + Send>),
    #[doc(hidden)]
    #[allow(private_interfaces)]
    Session(SessionNews),
    #[doc(hidden)]
    Unconnected(ConnectError),
    #[doc(hidden)]
    Missing(Vec<String>),
    #[doc(hidden)]
    StartSession,
    #[doc(hidden)]
    PrimitivesClosed,
    #[doc(hidden)]
    SessionClosed,
    #[doc(hidden)]
    CloseOverdue,
}

#[cfg(feature = "cluster")]
impl ractor::Message for KeeperMessage {}

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
    let primitives = first.await.map_err(|_| unreachable("the keeper stopped".into()))??;
    guard.keep();
    Ok(Started { keeper, primitives, clock, view })
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
    /// Finds the actors of the primitives.
    pub primitives: ActorRef<PrimitivesMessage>,
    /// The clock of this keeper's deadlines.
    pub clock: Clock,
    view: Arc<View>,
}

/// What may be known of a keeper without asking it.
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

type FirstSession = RpcReplyPort<Result<ActorRef<PrimitivesMessage>, ConnectError>>;

type KeeperArguments = (KeeperSettings, Clock, FirstSession, Arc<View>);

struct State {
    settings: KeeperSettings,
    clock: Clock,
    view: Arc<View>,
    primitives: ActorRef<PrimitivesMessage>,
    session: Option<ActorRef<SessionMessage>>,
    /// How many sessions have begun.
    epoch: u64,
    /// The last of them has not ended, as far as was told.
    open: bool,
    /// Rounds of connecting, or sessions, that failed in a row.
    failures: u32,
    /// When the last session was lost, until there is another.
    without_since: Option<Moment>,
    /// What the last try to get a session ended with, until there is one.
    trouble: Option<String>,
    gave_up: Option<ConnectError>,
    first: Option<FirstSession>,
    subscribers: Vec<mpsc::UnboundedSender<SessionEvent>>,
    newest: Option<SessionEvent>,
    closing: Option<Vec<RpcReplyPort<()>>>,
    /// Actors that work under locks, and how to end them.
    adopted: HashMap<ActorId, Box<dyn Fn() + Send>>,
    /// Nobody works under a lock any more.
    closing_primitives: bool,
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
        let arguments = PrimitivesArguments { clock, randomness: settings.randomness.clone() };
        let (primitives, _) =
            Actor::spawn_linked(None, PrimitivesActor, arguments, myself.get_cell()).await?;
        myself.cast(KeeperMessage::StartSession)?;
        Ok(State {
            settings,
            clock,
            view,
            primitives,
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
            closing_primitives: false,
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
            KeeperMessage::Abandoned => state.close(None, &myself)?,
            KeeperMessage::Adopt(actor, close) => state.adopt(actor, close, &myself),
            KeeperMessage::Session(news) => state.news(news)?,
            KeeperMessage::Unconnected(error) => match state.first.take() {
                Some(first) => {
                    let _ = first.send(Err(error));
                    myself.stop(None);
                }
                None => state.unconnected(error, &myself)?,
            },
            KeeperMessage::Missing(paths) => state.primitives.cast(PrimitivesMessage::Missing(paths))?,
            KeeperMessage::StartSession => state.start_session(&myself).await?,
            KeeperMessage::PrimitivesClosed if state.closing_session => {}
            KeeperMessage::PrimitivesClosed => state.close_session(&myself)?,
            KeeperMessage::CloseOverdue => state.close_at_once(&myself)?,
            KeeperMessage::SessionClosed => {
                state.tell(SessionEvent::Closed);
                for reply in state.closing.take().into_iter().flatten() {
                    let _ = reply.send(());
                }
                if let Some(error) = state.gave_up.take() {
                    // For its supervisor, who can find the `ConnectError` in it.
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
        if id == state.primitives.get_id() {
            // Its children went with it, and what they knew. Ending the session takes their nodes away.
            warn!(%event, "the primitives stopped");
            state.tell(SessionEvent::Closed);
            return Err("the primitives stopped".into());
        } else if state.session.as_ref().is_some_and(|session| session.get_id() == id) {
            debug!(%event, epoch = state.epoch, "the session actor ended");
            state.session = None;
            if state.open && !state.closing_session {
                // Whether it said so itself or not: what it said comes later than this.
                state.pass_on(SessionNews::Lost(state.epoch))?;
            }
            if state.closing_session {
                myself.cast(KeeperMessage::SessionClosed)?;
            } else if state.closing.is_none() {
                state.without_since.get_or_insert(state.clock.now());
                myself.send_after(state.rest(), || KeeperMessage::StartSession);
            }
        } else if state.adopted.remove(&id).is_some() {
            state.close_primitives_when_alone(&myself)?;
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
            keeper: myself.clone(),
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

    /// How much longer it tries; `None` when it tries for ever.
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

    fn unconnected(
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
        warn!(%error, "no further session is sought");
        self.tell(SessionEvent::GaveUp { error: error.clone() });
        self.gave_up = Some(error);
        self.close(None, myself)
    }

    fn news(&mut self, news: SessionNews) -> Result<(), ActorProcessingErr> {
        // Supervision overtakes messages: what an actor said before its end may come after it.
        let next = matches!(&news, SessionNews::Connected(_));
        if self.session.is_none() || news.epoch() != self.epoch + u64::from(next) {
            return Ok(());
        }
        self.pass_on(news)
    }

    fn pass_on(&mut self, news: SessionNews) -> Result<(), ActorProcessingErr> {
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
        self.primitives.cast(PrimitivesMessage::Session(news))?;
        self.tell(event);
        if let Some(first) = self.first.take() {
            let _ = first.send(Ok(self.primitives.clone()));
        }
        Ok(())
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
            self.adopted.values().for_each(|close| close());
            self.close_primitives_when_alone(myself)?;
        }
        Ok(())
    }

    fn adopt(&mut self, actor: ActorCell, close: Box<dyn Fn() + Send>, myself: &ActorRef<KeeperMessage>) {
        actor.link(myself.get_cell());
        // One that has ended meanwhile cannot be linked, and would never be heard of.
        if actor.try_get_supervisor().is_none_or(|supervisor| supervisor.get_id() != myself.get_id()) {
            return;
        }
        if self.closing.is_some() {
            close();
        }
        self.adopted.insert(actor.get_id(), close);
    }

    fn close_primitives_when_alone(
        &mut self,
        myself: &ActorRef<KeeperMessage>,
    ) -> Result<(), ActorProcessingErr> {
        match self.closing.is_some() && self.adopted.is_empty() {
            true => self.close_primitives(myself),
            false => Ok(()),
        }
    }

    fn close_primitives(&mut self, myself: &ActorRef<KeeperMessage>) -> Result<(), ActorProcessingErr> {
        if !self.closing_primitives {
            self.closing_primitives = true;
            self.primitives.call_and_forward(
                PrimitivesMessage::Close,
                myself,
                |()| KeeperMessage::PrimitivesClosed,
                None,
            )?;
        }
        Ok(())
    }

    /// Waits for nobody any more: guards are lost, and the session ends soon.
    fn close_at_once(&mut self, myself: &ActorRef<KeeperMessage>) -> Result<(), ActorProcessingErr> {
        if self.closing_session {
            return Ok(());
        }
        warn!(actors = self.adopted.len(), "closing takes too long: the session ends under what still works");
        self.close_primitives(myself)?;
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
