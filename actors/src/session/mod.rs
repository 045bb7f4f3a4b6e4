//! The session actor: owns the connection, proves that the session lives, and tells when it does not.
//!
//! One actor is one session. When the session is lost the actor ends, and its supervisor starts the next one with
//! the next epoch.

mod connect;
mod handle;
mod own_nodes;
mod watches;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt, join_all};
use futures::stream::{BoxStream, FuturesUnordered};
use ractor::{ActorProcessingErr, ActorRef, DerivedActorRef, RpcReplyPort};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use self::connect::Connecting;
pub(crate) use self::handle::SessionHandle;
pub(crate) use self::own_nodes::OwnNodes;
pub(crate) use self::watches::{Change, Watch, Watches};
use crate::api::error::ConnectError;
use crate::api::session_lease::SessionLease;
use crate::machine::session::{Command, Event, Session};
use crate::machine::{Failure, Machine, Moment};
use crate::runtime::clock::Clock;
use crate::runtime::random::Randomness;
use crate::runtime::timer::{Precision, Timer};
use crate::zookeeper::{CheckFailure, Connect, Connected, LinkState, ZooKeeper};

/// What the other actors have of a session.
#[derive(Clone)]
pub(crate) struct Connection {
    pub epoch: u64,
    pub client: Arc<dyn ZooKeeper>,
    pub lease: Arc<SessionLease>,
    pub nodes: Arc<OwnNodes>,
    pub watches: Arc<Watches>,
}

/// What happens to a session, by epoch.
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

/// To the keeper: what happens to the session, or that there is none.
pub(crate) enum SessionReport {
    News(SessionNews),
    NotConnected(ConnectError),
}

/// To the registry of path actors.
pub(crate) enum PathsReport {
    News(SessionNews),
    /// Heartbeats did not find these nodes of ours.
    Missing(Vec<String>),
}

pub(crate) struct SessionActor;

pub(crate) struct SessionArguments {
    pub keeper: DerivedActorRef<SessionReport>,
    pub registry: DerivedActorRef<PathsReport>,
    pub connector: Arc<dyn Connect>,
    pub clock: Clock,
    pub epoch: u64,
    pub connect_timeout: Duration,
    /// How the last try before this actor failed, if there was one.
    pub trouble: Option<String>,
    pub randomness: Randomness,
    /// The server's tickTime, where it is known.
    pub tick: Option<Duration>,
}

pub(crate) enum SessionMessage {
    Connected(Moment, Result<Connected, ConnectError>),
    Link(LinkState),
    Wake,
    Beaten { sent: Moment, batch: Vec<String>, result: Result<(), CheckFailure> },
    Missing(Vec<String>),
    Identified { sent: Moment, owner: Result<Option<i64>, Failure> },
    Close(RpcReplyPort<()>),
}

#[cfg(feature = "cluster")]
mod cluster {
    impl ractor::Message for super::SessionMessage {}
    impl ractor::Message for super::SessionReport {}
    impl ractor::Message for super::PathsReport {}
}

pub(crate) struct State {
    arguments: SessionArguments,
    live: Option<Live>,
    /// Ended with the actor: nothing of a session outlives it.
    tasks: JoinSet<()>,
    timer: Timer,
    closing: Option<RpcReplyPort<()>>,
}

struct Live {
    connection: Connection,
    machine: Session,
    /// To the pump, which brings the answers of heartbeats, and of what identifies a connection.
    heartbeats: mpsc::UnboundedSender<BoxFuture<'static, SessionMessage>>,
    suspended: bool,
    /// Where the rotation over own nodes stands.
    cursor: String,
    /// The next heartbeat checks no own nodes: one of them is known to be gone, and the rest is being looked at.
    bare: bool,
}

#[ractor::actor(message = SessionMessage, state = State, arguments = SessionArguments)]
impl SessionActor {
    async fn pre_start(
        &self,
        myself: ActorRef<SessionMessage>,
        arguments: SessionArguments,
    ) -> Result<State, ActorProcessingErr> {
        let mut tasks = JoinSet::new();
        let connecting = Connecting {
            connector: arguments.connector.clone(),
            clock: arguments.clock,
            limit: arguments.connect_timeout,
            trouble: arguments.trouble.clone(),
            randomness: arguments.randomness.clone(),
        };
        tasks.spawn(async move {
            let (begun, result) = connecting.run().await;
            let _ = myself.cast(SessionMessage::Connected(begun, result));
        });
        let timer = Timer::new(arguments.clock, Precision::ThroughSleep);
        Ok(State { arguments, live: None, tasks, timer, closing: None })
    }

    async fn handle(
        &self,
        myself: ActorRef<SessionMessage>,
        message: SessionMessage,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        // Only handles of tasks that have not ended are worth keeping.
        while state.tasks.try_join_next().is_some() {}
        match message {
            SessionMessage::Connected(begun, Ok(connected)) => state.begin(begun, connected, &myself),
            SessionMessage::Connected(_, Err(error)) => {
                // A keeper that is gone takes this actor along.
                let _ = state.arguments.keeper.send_message(SessionReport::NotConnected(error));
                myself.stop(Some("not connected".into()));
            }
            SessionMessage::Link(LinkState::Up) => state.feed(Event::Reconnected, &myself),
            SessionMessage::Link(LinkState::Down) => state.feed(Event::Disconnected, &myself),
            SessionMessage::Link(LinkState::Ended) => state.ended(&myself),
            SessionMessage::Wake => {
                state.timer.rang();
                state.feed(Event::Wake, &myself);
            }
            SessionMessage::Beaten { sent, batch, result } => state.beaten(sent, batch, result, &myself),
            SessionMessage::Missing(paths) => state.missing(paths),
            SessionMessage::Identified { sent, owner } => state.identified(sent, owner, &myself),
            SessionMessage::Close(reply) => state.close(reply, &myself),
        }
        let due = state.live.as_ref().and_then(|live| live.machine.wakeup());
        state.timer.set(due, move || drop(myself.cast(SessionMessage::Wake)));
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
        let (now, mut commands) = (clock.now(), Vec::new());
        let machine = Session::new(begun, now, client.timeout(), tick, &mut commands);
        info!(epoch, session = format!("{:#x}", client.session()), timeout = ?client.timeout(), "session begun");
        let (until, suspended) = match commands.first() {
            Some(Command::Hold(until)) => (*until, false),
            Some(Command::Suspend(until)) => (*until, true),
            Some(Command::Heartbeat(_) | Command::Identify(_) | Command::Lose) | None => {
                return self.lose(myself);
            }
        };
        let lease = Arc::new(SessionLease::new(clock, client.timeout(), until, suspended));
        let nodes = Arc::new(OwnNodes::new(client.chroot()));
        let watches = Watches::new(client.clone());
        let connection = Connection { epoch, client, lease, nodes, watches };
        let cursor = String::new();
        let live =
            Live { connection: connection.clone(), machine, heartbeats, suspended, cursor, bare: false };
        self.live = Some(live);
        self.tell(SessionNews::Connected(connection));
        if suspended {
            self.tell(SessionNews::Suspended(epoch));
        }
        self.execute(commands, myself);
    }

    fn feed(&mut self, event: Event, myself: &ActorRef<SessionMessage>) {
        let Some(live) = &mut self.live else { return };
        let mut commands = Vec::new();
        live.machine.handle(event, self.arguments.clock.now(), &mut commands);
        self.execute(commands, myself);
    }

    fn execute(&mut self, commands: Vec<Command>, myself: &ActorRef<SessionMessage>) {
        let epoch = self.arguments.epoch;
        for command in commands {
            let Some(live) = &mut self.live else { return };
            match command {
                Command::Heartbeat(sent) => self.beat(sent),
                Command::Identify(sent) => self.identify(sent),
                Command::Hold(until) => {
                    if !live.connection.lease.publish(until, false) {
                        return self.lose(myself);
                    }
                    if std::mem::replace(&mut live.suspended, false) {
                        self.tell(SessionNews::Resumed(epoch));
                    }
                }
                Command::Suspend(until) => {
                    if !live.connection.lease.publish(until, true) {
                        return self.lose(myself);
                    }
                    if !std::mem::replace(&mut live.suspended, true) {
                        debug!(epoch, "session suspended");
                        self.tell(SessionNews::Suspended(epoch));
                    }
                }
                Command::Lose => return self.lose(myself),
            }
        }
    }

    fn beat(&mut self, sent: Moment) {
        let Some(live) = &mut self.live else { return };
        let client = &live.connection.client;
        let (batch, answer) = match std::mem::take(&mut live.bare) {
            true => (Vec::new(), client.check(&[])),
            false => live.connection.nodes.batch(&mut live.cursor, |batch| client.check(batch)),
        };
        // The pump ends only with the session's state, and then nobody waits for the answer.
        let _ = live
            .heartbeats
            .send(Box::pin(async move { SessionMessage::Beaten { sent, batch, result: answer.await } }));
    }

    fn identify(&mut self, sent: Moment) {
        let Some(live) = &self.live else { return };
        let owner = live.connection.client.owner(&live.connection.nodes.directories());
        // As for a heartbeat.
        let _ = live.heartbeats.send(Box::pin(async move {
            let owner = owner.await;
            SessionMessage::Identified { sent, owner }
        }));
    }

    fn identified(
        &mut self,
        sent: Moment,
        owner: Result<Option<i64>, Failure>,
        myself: &ActorRef<SessionMessage>,
    ) {
        let (Some(live), epoch) = (&self.live, self.arguments.epoch) else { return };
        let session = live.connection.client.session();
        match owner {
            Ok(Some(owner)) if owner != session => {
                let (session, owner) = (format!("{session:#x}"), format!("{owner:#x}"));
                warn!(epoch, session, owner, "the server replaced the session by another one");
                self.feed(Event::Identified { sent, same: false }, myself);
            }
            // Nothing was made in this session that could stand in another one; and servers that do not tell do not
            // replace sessions.
            Ok(Some(_) | None) => self.feed(Event::Identified { sent, same: true }, myself),
            // Asked again with the next heartbeat.
            Err(failure) => debug!(epoch, ?failure, "connection not identified"),
        }
    }

    fn beaten(
        &mut self,
        sent: Moment,
        batch: Vec<String>,
        result: Result<(), CheckFailure>,
        myself: &ActorRef<SessionMessage>,
    ) {
        let input = match result {
            Ok(()) => Event::Answered { sent },
            Err(CheckFailure::Missing(_)) => {
                self.look_for(batch, myself);
                Event::Failed { sent, at_once: true }
            }
            Err(CheckFailure::Unreadable(index)) => {
                if let (Some(live), Some(path)) = (&self.live, batch.get(index)) {
                    warn!(path, "own node cannot be read, so that its removal would go unnoticed");
                    live.connection.nodes.untrack(path);
                }
                Event::Failed { sent, at_once: true }
            }
            Err(CheckFailure::Failed(failure)) => {
                debug!(?failure, "heartbeat failed");
                Event::Failed { sent, at_once: false }
            }
        };
        self.feed(input, myself);
    }

    /// A check names only the first node that is gone: looks at each.
    fn look_for(&mut self, batch: Vec<String>, myself: &ActorRef<SessionMessage>) {
        let Some(live) = &mut self.live else { return };
        live.bare = true;
        let reads: Vec<_> = batch.iter().map(|path| live.connection.client.read(path)).collect();
        let myself = myself.clone();
        self.tasks.spawn(async move {
            let gone = |(path, read)| matches!(read, Err(Failure::NoNode)).then_some(path);
            let missing = batch.into_iter().zip(join_all(reads).await).filter_map(gone).collect();
            let _ = myself.cast(SessionMessage::Missing(missing));
        });
    }

    fn missing(&mut self, paths: Vec<String>) {
        let Some(live) = &self.live else { return };
        // Those that were deleted by their owners in the meantime are not missed.
        let paths: Vec<String> =
            paths.into_iter().filter(|path| live.connection.nodes.untrack(path)).collect();
        let _ = self.arguments.registry.send_message(PathsReport::Missing(paths));
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
            live.connection.lease.lose();
            warn!(epoch = self.arguments.epoch, "session lost");
            self.tell(SessionNews::Lost(self.arguments.epoch));
        }
        self.tasks.abort_all();
        myself.stop(Some("session lost".into()));
    }

    /// The session closes when the last clone of its client is gone, and the state pump hears of it.
    fn close(&mut self, reply: RpcReplyPort<()>, myself: &ActorRef<SessionMessage>) {
        match self.live.take() {
            Some(live) => {
                live.connection.lease.close();
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
        // The registry first: a caller that hears of a session from the keeper can use it. If one of them is gone, the
        // keeper is, and takes this actor along.
        let _ = self.arguments.registry.send_message(PathsReport::News(news.clone()));
        let _ = self.arguments.keeper.send_message(SessionReport::News(news));
    }
}

/// Brings news of the connection and answers to heartbeats, news first: an answer that came over a new connection must
/// not be heard before that connection is, or it would be taken for the last one before the reconnect.
async fn pump(
    mut states: BoxStream<'static, LinkState>,
    mut heartbeats: mpsc::UnboundedReceiver<BoxFuture<'static, SessionMessage>>,
    tell: impl Fn(SessionMessage) -> bool,
) {
    let (mut answers, mut linked) = (FuturesUnordered::new(), true);
    loop {
        let message = tokio::select! {
            biased;
            link = states.next(), if linked => match link {
                Some(link) => SessionMessage::Link(link),
                None => {
                    linked = false;
                    continue;
                }
            },
            Some(answer) = answers.next() => {
                // The news may have come after they were looked for, and before the answer.
                while linked && let Some(link) = states.next().now_or_never() {
                    linked = link.is_some();
                    if link.is_some_and(|link| !tell(SessionMessage::Link(link))) {
                        return;
                    }
                }
                answer
            }
            Some(heartbeat) = heartbeats.recv() => {
                answers.push(heartbeat);
                continue;
            }
            else => return,
        };
        if !tell(message) {
            return;
        }
    }
}

/// How long closing waits for the server's answer.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use futures::stream;

    use super::*;

    /// The client tells of a new connection before it hands out an answer that came over it.
    #[tokio::test]
    async fn a_connection_is_told_of_before_the_answers_that_came_over_it() {
        let (heartbeats, answers) = mpsc::unbounded_channel::<BoxFuture<'static, SessionMessage>>();
        let (connected, reconnected) = futures::channel::oneshot::channel::<()>();
        let links = stream::once(async move {
            let _ = reconnected.await;
            LinkState::Up
        });
        let (answered, answer) = futures::channel::oneshot::channel::<()>();
        let told = RefCell::new(Vec::new());
        let tell = |message: SessionMessage| {
            told.borrow_mut().push(match message {
                SessionMessage::Link(_) => "link",
                SessionMessage::Beaten { .. } => "answer",
                _ => "something else",
            });
            true
        };
        let beaten = async move {
            let _ = answer.await;
            SessionMessage::Beaten { sent: Moment(1), batch: Vec::new(), result: Ok(()) }
        };
        heartbeats.send(Box::pin(beaten)).expect("the pump receives");
        drop(heartbeats);
        let mut pump = Box::pin(pump(links.boxed(), answers, tell));
        assert!(futures::poll!(pump.as_mut()).is_pending());
        // Both are there when the pump looks, and the answer woke it.
        connected.send(()).expect("the link is awaited");
        answered.send(()).expect("the answer is awaited");
        pump.await;
        assert_eq!(*told.borrow(), ["link", "answer"]);
    }
}
