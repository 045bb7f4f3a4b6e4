//! The session actor: owns the connection, proves that the session lives, and tells when it does not.
//!
//! One actor is one session. When the session is lost the actor ends, and its supervisor starts the next one with
//! the next epoch.

use std::any::Any;
use std::collections::BTreeSet;
use std::ops::Bound;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use futures::stream::{BoxStream, FuturesUnordered};
use futures::{FutureExt, StreamExt};
use ractor::{ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tracing::{debug, info, warn};

use crate::api::error::ConnectError;
use crate::api::lease::SessionLease;
use crate::keeper::KeeperMessage;
use crate::machine::Moment;
use crate::machine::backoff::Backoff;
use crate::machine::lock::protocol::Failure;
use crate::machine::node::Instance;
use crate::machine::session::{Session, SessionCommand, SessionInput};
use crate::runtime::clock::Clock;
use crate::runtime::random::Randomness;
use crate::zookeeper::{CheckFailure, Connect, Connected, LinkState, Unconnected, ZooKeeper};

/// What the other actors get of a session.
#[derive(Clone)]
pub(crate) struct Connection {
    pub epoch: u64,
    pub client: Arc<dyn ZooKeeper>,
    pub lease: Arc<SessionLease>,
    pub nodes: Arc<OwnNodes>,
}

/// What becomes of a session, by epoch.
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

pub(crate) struct SessionActor;

pub(crate) struct SessionArguments {
    pub keeper: ActorRef<KeeperMessage>,
    pub connector: Arc<dyn Connect>,
    pub clock: Clock,
    pub epoch: u64,
    pub connect_timeout: Duration,
    /// What the last try before this actor ended with, if there was one.
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
impl ractor::Message for SessionMessage {}

pub(crate) struct State {
    arguments: SessionArguments,
    live: Option<Live>,
    /// Ended with the actor: nothing of a session outlives it.
    tasks: JoinSet<()>,
    wake: Option<(Moment, AbortHandle)>,
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
        let connecting = connect(&arguments);
        tasks.spawn(async move {
            let (begun, result) = connecting.await;
            let _ = myself.cast(SessionMessage::Connected(begun, result));
        });
        Ok(State { arguments, live: None, tasks, wake: None, closing: None })
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
                state.arguments.keeper.cast(KeeperMessage::Unconnected(error))?;
                myself.stop(Some("not connected".into()));
            }
            SessionMessage::Link(LinkState::Up) => state.input(SessionInput::Reconnected, &myself),
            SessionMessage::Link(LinkState::Down) => state.input(SessionInput::Disconnected, &myself),
            SessionMessage::Link(LinkState::Ended) => state.ended(&myself),
            SessionMessage::Wake => {
                state.wake = None;
                state.input(SessionInput::Wake, &myself);
            }
            SessionMessage::Beaten { sent, batch, result } => state.beaten(sent, batch, result, &myself),
            SessionMessage::Missing(paths) => state.missing(paths),
            SessionMessage::Identified { sent, owner } => state.identified(sent, owner, &myself),
            SessionMessage::Close(reply) => state.close(reply, &myself),
        }
        state.set_wake(&myself);
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
            Some(SessionCommand::Hold(until)) => (*until, false),
            Some(SessionCommand::Suspend(until)) => (*until, true),
            Some(SessionCommand::Beat(_) | SessionCommand::Identify(_) | SessionCommand::Lose) | None => {
                return self.lose(myself);
            }
        };
        let lease = Arc::new(SessionLease::new(clock, client.timeout(), until, suspended));
        let nodes = Arc::new(OwnNodes::new(client.chroot()));
        let connection = Connection { epoch, client, lease, nodes };
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

    fn input(&mut self, input: SessionInput, myself: &ActorRef<SessionMessage>) {
        let Some(live) = &mut self.live else { return };
        let mut commands = Vec::new();
        live.machine.handle(input, self.arguments.clock.now(), &mut commands);
        self.execute(commands, myself);
    }

    fn execute(&mut self, commands: Vec<SessionCommand>, myself: &ActorRef<SessionMessage>) {
        let epoch = self.arguments.epoch;
        for command in commands {
            let Some(live) = &mut self.live else { return };
            match command {
                SessionCommand::Beat(sent) => self.beat(sent),
                SessionCommand::Identify(sent) => self.identify(sent),
                SessionCommand::Hold(until) => {
                    if !live.connection.lease.publish(until, false) {
                        return self.lose(myself);
                    }
                    if std::mem::replace(&mut live.suspended, false) {
                        self.tell(SessionNews::Resumed(epoch));
                    }
                }
                SessionCommand::Suspend(until) => {
                    if !live.connection.lease.publish(until, true) {
                        return self.lose(myself);
                    }
                    if !std::mem::replace(&mut live.suspended, true) {
                        debug!(epoch, "session suspended");
                        self.tell(SessionNews::Suspended(epoch));
                    }
                }
                SessionCommand::Lose => return self.lose(myself),
            }
        }
    }

    fn beat(&mut self, sent: Moment) {
        let Some(live) = &mut self.live else { return };
        let client = &live.connection.client;
        let room = if std::mem::take(&mut live.bare) { 0 } else { BATCH_BYTES };
        let (batch, answer) =
            live.connection.nodes.batch(&mut live.cursor, room, |batch| client.check(batch));
        // The pump ends only with the session's state, and then nobody waits for the answer.
        let _ = live
            .heartbeats
            .send(Box::pin(async move { SessionMessage::Beaten { sent, batch, result: answer.await } }));
    }

    fn identify(&mut self, sent: Moment) {
        let Some(live) = &self.live else { return };
        let owner = live.connection.client.owner(&live.connection.nodes.directories(DIRECTORIES));
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
                self.input(SessionInput::Identified { sent, same: false }, myself);
            }
            // Nothing was made in this session that could stand in another one; and servers that do not tell do not
            // replace sessions.
            Ok(Some(_) | None) => self.input(SessionInput::Identified { sent, same: true }, myself),
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
            Ok(()) => SessionInput::Answered { sent },
            Err(CheckFailure::Missing(_)) => {
                self.look_for(batch, myself);
                SessionInput::Failed { sent, at_once: true }
            }
            Err(CheckFailure::Unreadable(index)) => {
                if let (Some(live), Some(path)) = (&self.live, batch.get(index)) {
                    warn!(path, "own node cannot be read, so that its removal would go unnoticed");
                    live.connection.nodes.untrack(path);
                }
                SessionInput::Failed { sent, at_once: true }
            }
            Err(CheckFailure::Failed(failure)) => {
                debug!(?failure, "heartbeat failed");
                SessionInput::Failed { sent, at_once: false }
            }
        };
        self.input(input, myself);
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
        let _ = self.arguments.keeper.cast(KeeperMessage::Missing(paths));
    }

    fn ended(&mut self, myself: &ActorRef<SessionMessage>) {
        match self.closing.take() {
            Some(reply) => {
                let _ = reply.send(());
                myself.stop(Some("closed".into()));
            }
            None => self.input(SessionInput::Ended, myself),
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
        // A keeper that is gone takes this actor with it.
        let _ = self.arguments.keeper.cast(KeeperMessage::Session(news));
    }

    fn set_wake(&mut self, myself: &ActorRef<SessionMessage>) {
        let due = self.live.as_ref().and_then(|live| live.machine.wakeup());
        if self.wake.as_ref().map(|(moment, _)| *moment) == due {
            return;
        }
        if let Some((_, task)) = self.wake.take() {
            task.abort();
        }
        if let Some(due) = due {
            let (clock, myself) = (self.arguments.clock, myself.clone());
            let task = self.tasks.spawn(async move {
                clock.sleep_until(due).await;
                let _ = myself.cast(SessionMessage::Wake);
            });
            self.wake = Some((due, task));
        }
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

/// Tries until the time is over; tells when the successful try began. A try that panics is the last one.
fn connect(
    arguments: &SessionArguments,
) -> impl Future<Output = (Moment, Result<Connected, ConnectError>)> + Send + use<> {
    let SessionArguments { connector, clock, connect_timeout, trouble, randomness, .. } = arguments;
    let (connector, clock, limit) = (connector.clone(), *clock, *connect_timeout);
    let (mut trouble, randomness) = (trouble.clone(), randomness.clone());
    let deadline = tokio::time::Instant::now() + limit;
    async move {
        let address = connector.address().to_owned();
        let mut tries = 0;
        let (begun, reason) = loop {
            let begun = clock.now();
            let connecting = AssertUnwindSafe(async { connector.connect().await }).catch_unwind();
            match tokio::time::timeout_at(deadline, connecting).await {
                Ok(Ok(Ok(connected))) => return (begun, Ok(connected)),
                Ok(Ok(Err(Unconnected::Address(reason)))) => {
                    return (begun, Err(ConnectError::InvalidAddress { address, reason }));
                }
                Ok(Ok(Err(Unconnected::AuthFailed))) => {
                    return (begun, Err(ConnectError::AuthFailed { address }));
                }
                Ok(Ok(Err(Unconnected::Unreachable(reason)))) => {
                    trouble = Some(reason);
                    let rest = tokio::time::Instant::now() + BETWEEN_TRIES.rest(tries, randomness.next());
                    tries = tries.saturating_add(1);
                    tokio::time::sleep_until(deadline.min(rest)).await;
                }
                Ok(Err(panic)) => break (begun, format!("connecting panicked: {}", message(&*panic))),
                Err(_) => break (begun, trouble.unwrap_or_else(|| "no answer".to_owned())),
            }
        };
        (begun, Err(ConnectError::Unreachable { address, timeout: limit, reason }))
    }
}

/// What a panic said.
fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it did not say why")
}

/// The nodes that this process has in a session: what heartbeats check, and how much of the room for watches is
/// used.
pub(crate) struct OwnNodes {
    paths: Mutex<BTreeSet<String>>,
    watched: AtomicUsize,
    /// The bytes that the connection's chroot adds to every watched path.
    chroot: usize,
}

impl OwnNodes {
    pub fn new(chroot: &str) -> OwnNodes {
        OwnNodes { paths: Mutex::default(), watched: AtomicUsize::new(0), chroot: chroot.len() }
    }

    pub fn track(&self, path: String) {
        self.lock().insert(path);
    }

    /// Before the delete is sent, so that no heartbeat that is sent behind it misses the node. Tells whether it was
    /// tracked.
    pub fn untrack(&self, path: &str) -> bool {
        self.lock().remove(path)
    }

    /// The nodes of an actor that died.
    pub fn untrack_all(&self, directory: &str, instance: Instance) {
        self.lock().retain(|path| {
            let node = path.rsplit_once('/').filter(|(parent, _)| *parent == directory);
            node.and_then(|(_, name)| instance.attempt(name)).is_none()
        });
    }

    /// The next nodes in the rotation, as many as there is room for, and what `send` makes of them. It runs before
    /// any of them can be untracked.
    fn batch<T>(
        &self,
        cursor: &mut String,
        room: usize,
        send: impl FnOnce(&[String]) -> T,
    ) -> (Vec<String>, T) {
        let paths = self.lock();
        let after = (Bound::Excluded(cursor.as_str()), Bound::Unbounded);
        let upto = (Bound::Unbounded, Bound::Included(cursor.as_str()));
        let mut bytes = 0;
        let batch: Vec<String> = paths
            .range::<str, _>(after)
            .chain(paths.range::<str, _>(upto))
            .take_while(|path| {
                bytes += self.chroot + path.len() + CHECK_OVERHEAD;
                bytes <= room
            })
            .cloned()
            .collect();
        if let Some(last) = batch.last() {
            cursor.clone_from(last);
        }
        let sent = send(&batch);
        (batch, sent)
    }

    /// Some of the directories that hold these nodes, at most so many.
    fn directories(&self, most: usize) -> Vec<String> {
        let mut directories: Vec<String> = Vec::new();
        for path in self.lock().iter() {
            let Some((directory, _)) = path.rsplit_once('/') else { continue };
            if directories.last().is_none_or(|last| last != directory) {
                directories.push(directory.to_owned());
            }
            if directories.len() == most {
                break;
            }
        }
        directories
    }

    /// Takes room for a watch on this path, if there is any, until what this returns is dropped.
    pub fn room_for_watch(self: &Arc<OwnNodes>, path: &str) -> Option<WatchRoom> {
        let room = WatchRoom { nodes: self.clone(), bytes: self.chroot + path.len() };
        let used = self.watched.fetch_add(room.bytes, Ordering::SeqCst) + room.bytes;
        (used <= WATCH_BYTES).then_some(room)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        // A set of names is whole even when a thread died with the lock in hand.
        self.paths.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Room for one watch, taken.
pub(crate) struct WatchRoom {
    nodes: Arc<OwnNodes>,
    bytes: usize,
}

impl Drop for WatchRoom {
    fn drop(&mut self) {
        self.nodes.watched.fetch_sub(self.bytes, Ordering::SeqCst);
    }
}

/// What one heartbeat may check, of the server's limit of 1 MiB for a request.
const BATCH_BYTES: usize = 64 * 1024;

/// How many directories are tried to identify a connection. One does, unless it has just been deleted.
const DIRECTORIES: usize = 8;

/// What a check adds to its path on the wire: operation header, length, version.
const CHECK_OVERHEAD: usize = 17;

/// The client fails to resume a session that watches more than 128 KiB of paths, their chroot included.
const WATCH_BYTES: usize = 64 * 1024;

/// After a try in which every server has failed.
const BETWEEN_TRIES: Backoff =
    Backoff { initial: Duration::from_millis(100), maximum: Duration::from_secs(1) };

/// How long closing waits for the server's good-bye.
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
