//! The session actor: owns the connection, proves with heartbeats that the session lives, and reports its state.
//!
//! There is one actor for each session. When the session is lost, the actor ends, and its supervisor starts another one
//! with the next epoch.

mod connect;
mod handle;
mod heartbeat;
mod own_nodes;
mod pump;
mod spares;
mod watches;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use ractor::{ActorProcessingErr, ActorRef, DerivedActorRef, RpcReplyPort};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use self::connect::Connecting;
pub(crate) use self::handle::SessionHandle;
pub(crate) use self::own_nodes::OwnNodes;
use self::pump::pump;
use self::spares::SpareSettings;
use self::watches::ROOM;
pub(crate) use self::watches::{Change, SetWatch, Watch, Watches};
use crate::api::error::ConnectError;
use crate::api::session_lease::SessionLease;
use crate::machine::session::{Command, Event, Session};
use crate::machine::{Failure, Machine, Moment};
use crate::metrics::{Counted, Metrics};
use crate::record::{self, Origin, Recorder, Recording};
use crate::runtime::clock::Clock;
use crate::runtime::log::SessionId;
use crate::runtime::random::Randomness;
use crate::runtime::tasks::Tasks;
use crate::runtime::timer::{Precision, Timer};
use crate::zookeeper::{CheckFailure, Connect, Connected, LinkState, ZooKeeper};

/// A session, as the other actors share it.
#[derive(Clone)]
pub(crate) struct Connection {
    pub epoch: u64,
    pub client: Arc<dyn ZooKeeper>,
    pub lease: Arc<SessionLease>,
    pub nodes: Arc<OwnNodes>,
    pub watches: Arc<Watches>,
}

/// A change of a session's state, with the session's epoch.
#[derive(Clone)]
pub(crate) enum SessionNews {
    Connected(Connection),
    Suspended(u64),
    Resumed(u64),
    Lost(u64),
}

impl SessionNews {
    pub fn epoch(&self) -> u64 {
        match self {
            SessionNews::Connected(connection) => connection.epoch,
            SessionNews::Suspended(epoch) | SessionNews::Resumed(epoch) | SessionNews::Lost(epoch) => *epoch,
        }
    }
}

/// To the keeper.
pub(crate) enum SessionReport {
    News(SessionNews),
    NotConnected(ConnectError),
}

/// To the registry of path actors.
pub(crate) enum SessionNotice {
    News(SessionNews),
    /// These nodes of ours no longer exist, as heartbeats have shown.
    Missing(Vec<String>),
}

pub(crate) struct SessionActor;

pub(crate) struct SessionArguments {
    pub keeper: DerivedActorRef<SessionReport>,
    pub registry: DerivedActorRef<SessionNotice>,
    pub connector: Arc<dyn Connect>,
    pub clock: Clock,
    pub epoch: u64,
    /// Set before the session is announced. When the actor has died, its report to the keeper may still be on its way.
    pub announced: Arc<AtomicBool>,
    /// How long this actor tries to establish the session.
    pub round: Duration,
    /// How long establishing a spare session may take.
    pub connect_timeout: Duration,
    /// Why the last attempt before this actor's failed, if there was one.
    pub last_error: Option<String>,
    pub randomness: Randomness,
    /// The server's tickTime, if known.
    pub tick: Option<Duration>,
    pub metrics: Metrics,
    pub recording: Option<Recording>,
}

pub(crate) enum SessionMessage {
    Connected(Moment, Result<Connected, ConnectError>),
    Link(LinkState),
    Wake,
    HeartbeatAnswered { sent: Moment, batch: Vec<String>, result: Result<(), CheckFailure> },
    Missing(Vec<String>),
    Identified { sent: Moment, owner: Result<Option<i64>, Failure> },
    Close(RpcReplyPort<()>),
}

#[cfg(feature = "cluster")]
mod cluster {
    impl ractor::Message for super::SessionMessage {}
    impl ractor::Message for super::SessionReport {}
    impl ractor::Message for super::SessionNotice {}
}

pub(crate) struct State {
    arguments: SessionArguments,
    live: Option<Live>,
    /// Aborted when the actor ends.
    tasks: Tasks,
    timer: Timer,
    closing: Option<RpcReplyPort<()>>,
}

struct Live {
    connection: Connection,
    machine: Session,
    recorder: Option<Recorder>,
    /// To the pump: answers to heartbeats and to requests that identify a connection.
    heartbeats: mpsc::UnboundedSender<BoxFuture<'static, SessionMessage>>,
    /// Whether the client has a connection.
    connected: bool,
    /// Since when the lease is suspended.
    suspended: Option<Moment>,
    /// Whether it was logged that heartbeats are answered slowly.
    slow: bool,
    /// Whether it was logged that an access list denies them.
    denied: bool,
    /// The last own node that a heartbeat checked. The next one continues behind it.
    cursor: String,
    /// The next heartbeat checks no own nodes. The last one failed because a node is gone or cannot be read, and it is
    /// not known yet which.
    skip_nodes: bool,
    _counted: Counted,
}

#[ractor::actor(message = SessionMessage, state = State, arguments = SessionArguments)]
impl SessionActor {
    async fn pre_start(
        &self,
        myself: ActorRef<SessionMessage>,
        arguments: SessionArguments,
    ) -> Result<State, ActorProcessingErr> {
        let mut tasks = Tasks::default();
        let connecting = Connecting {
            connector: arguments.connector.clone(),
            clock: arguments.clock,
            limit: arguments.round,
            last_error: arguments.last_error.clone(),
            randomness: arguments.randomness.clone(),
        };
        tasks.spawn(async move {
            let (begun, result) = connecting.run().await;
            let _ = myself.cast(SessionMessage::Connected(begun, result));
        });
        let timer = Timer::new(Precision::ThroughSleep);
        Ok(State { arguments, live: None, tasks, timer, closing: None })
    }

    async fn handle(
        &self,
        myself: ActorRef<SessionMessage>,
        message: SessionMessage,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            SessionMessage::Connected(begun, Ok(connected)) => state.begin(begun, connected, &myself),
            SessionMessage::Connected(_, Err(error)) => {
                state.arguments.metrics.connect_failed();
                // If the keeper has ended, this actor ends with it.
                let _ = state.arguments.keeper.send_message(SessionReport::NotConnected(error));
                myself.stop(Some("not connected".into()));
            }
            SessionMessage::Link(LinkState::Up) => {
                state.linked(true);
                state.feed(Event::Reconnected, &myself);
            }
            SessionMessage::Link(LinkState::Down) => {
                state.linked(false);
                state.feed(Event::Disconnected, &myself);
            }
            SessionMessage::Link(LinkState::Ended) => state.ended(&myself),
            SessionMessage::Wake => {
                state.timer.rang();
                state.feed(Event::Wake, &myself);
            }
            SessionMessage::HeartbeatAnswered { sent, batch, result } => {
                state.heartbeat_answered(sent, batch, result, &myself)
            }
            SessionMessage::Missing(paths) => state.missing(paths),
            SessionMessage::Identified { sent, owner } => state.identified(sent, owner, &myself),
            SessionMessage::Close(reply) => state.close(reply, &myself),
        }
        let due = state.live.as_ref().and_then(|live| live.machine.wakeup());
        state.timer.set(state.arguments.clock, due, move || drop(myself.cast(SessionMessage::Wake)));
        Ok(())
    }
}

impl State {
    fn begin(&mut self, begun: Moment, connected: Connected, myself: &ActorRef<SessionMessage>) {
        let Connected { client, states } = connected;
        let (heartbeats, answers) = mpsc::unbounded_channel();
        let actor = myself.clone();
        self.tasks.spawn(pump(states, answers, move |message| actor.cast(message).is_ok()));
        let SessionArguments { clock, epoch, tick, .. } = self.arguments;
        let counted = self.arguments.metrics.session_begun();
        let (now, mut commands) = (clock.now(), Vec::new());
        let machine = Session::new(begun, now, client.timeout(), tick, &mut commands);
        let recorder = self.arguments.recording.as_ref().map(|recording| {
            let (timeout, commands) = (client.timeout(), commands.clone());
            recording.machine(now, Origin::Session { epoch, begun, timeout, tick, commands })
        });
        let session = SessionId(client.session());
        info!(epoch, %session, timeout = ?client.timeout(), "session established");
        let (until, suspended) = match commands.first() {
            Some(Command::Hold(until)) => (*until, false),
            Some(Command::Suspend(until)) => (*until, true),
            Some(Command::Heartbeat(_) | Command::Identify(_) | Command::Lose) | None => {
                return self.lose(myself);
            }
        };
        let lease = Arc::new(SessionLease::new(clock, client.timeout(), until, suspended));
        let nodes = Arc::new(OwnNodes::new(client.chroot(), self.arguments.metrics.clone()));
        let watches = Watches::new(client.clone(), self.spare_settings());
        let connection = Connection { epoch, client, lease, nodes, watches };
        self.arguments.announced.store(true, Ordering::SeqCst);
        let cursor = String::new();
        let live = Live {
            connection: connection.clone(),
            machine,
            recorder,
            heartbeats,
            connected: true,
            suspended: suspended.then_some(now),
            slow: false,
            denied: false,
            cursor,
            skip_nodes: false,
            _counted: counted,
        };
        self.live = Some(live);
        self.tell(SessionNews::Connected(connection));
        if suspended {
            self.log_suspension(until);
            self.arguments.metrics.session_suspended();
            self.tell(SessionNews::Suspended(epoch));
        }
        self.execute(commands, myself);
    }

    fn spare_settings(&self) -> SpareSettings {
        SpareSettings {
            connector: self.arguments.connector.clone(),
            connect_timeout: self.arguments.connect_timeout,
            clock: self.arguments.clock,
            randomness: self.arguments.randomness.clone(),
            room: ROOM,
            metrics: self.arguments.metrics.clone(),
        }
    }

    fn feed(&mut self, event: Event, myself: &ActorRef<SessionMessage>) {
        let Some(live) = &mut self.live else { return };
        let mut commands = Vec::new();
        let now = self.arguments.clock.now();
        record::handle(live.recorder.as_ref(), &mut live.machine, event, now, &mut commands);
        self.execute(commands, myself);
    }

    fn execute(&mut self, commands: Vec<Command>, myself: &ActorRef<SessionMessage>) {
        let epoch = self.arguments.epoch;
        for command in commands {
            let Some(live) = &mut self.live else { return };
            if let Command::Hold(until) | Command::Suspend(until) = command {
                let before = live.connection.lease.valid_until();
                if until > before {
                    self.arguments.metrics.lease_extended(before.since(self.arguments.clock.now()));
                }
            }
            match command {
                Command::Heartbeat(sent) => self.send_heartbeat(sent),
                Command::Identify(sent) => self.identify(sent),
                Command::Hold(until) => {
                    if !live.connection.lease.publish(until, false) {
                        return self.lose(myself);
                    }
                    if let Some(since) = live.suspended.take() {
                        let session = SessionId(live.connection.client.session());
                        let suspended = self.arguments.clock.now().since(since);
                        info!(epoch, %session, ?suspended, "session resumed");
                        self.tell(SessionNews::Resumed(epoch));
                    }
                }
                Command::Suspend(until) => {
                    if !live.connection.lease.publish(until, true) {
                        return self.lose(myself);
                    }
                    if live.suspended.is_none() {
                        live.suspended = Some(self.arguments.clock.now());
                        self.log_suspension(until);
                        self.arguments.metrics.session_suspended();
                        self.tell(SessionNews::Suspended(epoch));
                    }
                }
                Command::Lose => return self.lose(myself),
            }
        }
    }

    fn linked(&mut self, connected: bool) {
        let epoch = self.arguments.epoch;
        if let Some(live) = &mut self.live {
            live.connected = connected;
            match connected {
                true => debug!(epoch, "connected again"),
                false => debug!(epoch, "connection lost"),
            }
        }
    }

    /// Says whether there is a connection, because a server that is slow suspends a lease too.
    fn log_suspension(&self, until: Moment) {
        let Some(live) = &self.live else { return };
        let (epoch, session) = (self.arguments.epoch, SessionId(live.connection.client.session()));
        let (connected, left) = (live.connected, until.since(self.arguments.clock.now()));
        warn!(epoch, %session, connected, ?left, "session suspended");
    }

    fn ended(&mut self, myself: &ActorRef<SessionMessage>) {
        match self.closing.take() {
            Some(reply) => {
                let _ = reply.send(());
                myself.stop(Some("closed".into()));
            }
            None => self.feed(Event::Ended, myself),
        }
    }

    fn lose(&mut self, myself: &ActorRef<SessionMessage>) {
        if let Some(live) = self.live.take() {
            self.end_leases(&live);
            live.connection.watches.close();
            self.tell(SessionNews::Lost(self.arguments.epoch));
        }
        self.tasks.abort_all();
        myself.stop(Some("session lost".into()));
    }

    /// Every guard reads `Lost`.
    fn end_leases(&self, live: &Live) {
        live.connection.lease.lose();
        let session = SessionId(live.connection.client.session());
        warn!(epoch = self.arguments.epoch, %session, "session lost");
        self.arguments.metrics.session_lost();
    }

    /// The session closes when the last clone of its client is dropped, and the pump reports that.
    fn close(&mut self, reply: RpcReplyPort<()>, myself: &ActorRef<SessionMessage>) {
        match self.live.take() {
            Some(live) => {
                let session = SessionId(live.connection.client.session());
                info!(epoch = self.arguments.epoch, %session, "session closed");
                live.connection.lease.close();
                live.connection.watches.close();
                self.closing = Some(reply);
                let myself = myself.clone();
                self.tasks.spawn(async move {
                    tokio::time::sleep(CLOSE_LIMIT).await;
                    let _ = myself.cast(SessionMessage::Link(LinkState::Ended));
                });
            }
            None => {
                let _ = reply.send(());
                myself.stop(Some("closed".into()));
            }
        }
    }

    fn tell(&self, news: SessionNews) {
        // The registry first, so that a caller that learns of a session from the keeper can use it. A send fails only
        // when the keeper has ended, and this actor ends with it.
        let _ = self.arguments.registry.send_message(SessionNotice::News(news.clone()));
        let _ = self.arguments.keeper.send_message(SessionReport::News(news));
    }
}

impl Drop for State {
    /// If this actor was killed or panicked, every guard reads `Lost` before the session can be closed: this state has a
    /// clone of the client.
    fn drop(&mut self) {
        if let Some(live) = &self.live {
            self.end_leases(live);
        }
    }
}

/// How long closing waits for the server to confirm it.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
