//! The lock actor: carries out what one path's machine decides.
//!
//! Nothing is decided here. Messages and answers become events, commands become requests and replies.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use futures::future::BoxFuture;
use ractor::{ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tracing::{Span, debug, warn};

use crate::clock::Clock;
use crate::contenders;
use crate::error::{AcquireError, ContendersError, ReleaseError};
use crate::lease::{FencingToken, Grant, Hold, Lease, LeaseState};
use crate::machine::Moment;
use crate::machine::protocol::{Command, Created, Event, Failure, Refusal, Ticket};
use crate::machine::queue::Queue;
use crate::machine::znode::{Attempt, Instance, Znode};
use crate::messages::{
    AcquireRequest, ContenderOptions, Lifeline, Listener, LockEvent, LockMessage, Refused,
};
use crate::session::{Connection, SessionNews};
use crate::supervisor::PrimitivesMessage;
use crate::zookeeper::{Answer, Fired};

pub(crate) struct LockActor;

pub(crate) struct LockArguments {
    pub path: Arc<str>,
    pub instance: Instance,
    pub clock: Clock,
    pub primitives: ActorRef<PrimitivesMessage>,
}

pub(crate) enum LockActorMessage {
    Public(LockMessage),
    Session(SessionNews),
    /// An answer, or a watch that fired, in the session of this epoch.
    Event(u64, Event),
    /// A watch is armed; the future ends when it fires.
    Armed(u64, Znode, BoxFuture<'static, Fired>),
    Wake,
    /// The heartbeat did not find these nodes.
    Missing(Vec<Znode>),
    /// No handle is left: say so, with this number, as soon as nothing is left to do.
    Retire(u64),
    Close,
}

#[cfg(feature = "cluster")]
impl ractor::Message for LockActorMessage {}

pub(crate) struct State {
    arguments: LockArguments,
    machine: Queue,
    requests: BTreeMap<Ticket, Entry>,
    connection: Option<Session>,
    wake: Option<(Moment, AbortHandle)>,
    retiring: Option<u64>,
}

/// What a request needs besides its place in the machine.
struct Entry {
    span: Span,
    options: Arc<ContenderOptions>,
    /// Until the last word is said.
    listener: Option<Listener>,
    /// Until the lease takes it.
    lifeline: Option<Arc<Lifeline>>,
    hold: Option<Hold>,
    release: Vec<RpcReplyPort<Result<(), ReleaseError>>>,
}

/// A session, and everything that must not outlive it.
struct Session {
    connection: Connection,
    /// Answers are cast back in the order of the requests.
    answers: mpsc::UnboundedSender<BoxFuture<'static, LockActorMessage>>,
    watches: BTreeMap<Znode, Watch>,
    tasks: JoinSet<()>,
}

enum Watch {
    Arming,
    Armed(AbortHandle),
}

#[ractor::actor(message = LockActorMessage, state = State, arguments = LockArguments)]
impl LockActor {
    async fn pre_start(
        &self,
        _myself: ActorRef<LockActorMessage>,
        arguments: LockArguments,
    ) -> Result<State, ActorProcessingErr> {
        Ok(State {
            machine: Queue::new(arguments.instance),
            arguments,
            requests: BTreeMap::new(),
            connection: None,
            wake: None,
            retiring: None,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<LockActorMessage>,
        message: LockActorMessage,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        state.handle(message, &myself);
        state.set_wake(&myself);
        if let Some(generation) = state.retiring.filter(|_| state.machine.is_idle()) {
            let path = state.arguments.path.clone();
            state.arguments.primitives.cast(PrimitivesMessage::Retired { path, generation })?;
        }
        Ok(())
    }
}

impl State {
    fn handle(&mut self, message: LockActorMessage, myself: &ActorRef<LockActorMessage>) {
        match message {
            LockActorMessage::Public(LockMessage::Acquire(request)) => self.acquire(request, myself),
            LockActorMessage::Public(LockMessage::Cancel(ticket)) => self.feed(Event::Cancel(ticket), myself),
            LockActorMessage::Public(LockMessage::Release(ticket, reply)) => {
                self.release(ticket, reply, myself)
            }
            LockActorMessage::Public(LockMessage::Contenders(patterns, reply)) => {
                let path = self.arguments.path.clone();
                self.ask(reply, |client| contenders::list(client, path, patterns));
            }
            LockActorMessage::Public(LockMessage::RemoveContender(contender, reply)) => {
                let path = self.arguments.path.clone();
                self.ask(reply, |client| contenders::remove(client, path, contender));
            }
            LockActorMessage::Session(news) => self.session(news, myself),
            LockActorMessage::Event(epoch, event) => {
                if let Some(session) = self.connection.as_mut().filter(|s| s.connection.epoch == epoch) {
                    if let Event::Fired { node, .. } | Event::Watched(node, Err(_)) = &event {
                        session.unwatch(node, &self.arguments.path);
                    }
                    self.feed(event, myself);
                }
            }
            LockActorMessage::Armed(epoch, node, fired) => self.armed(epoch, node, fired, myself),
            LockActorMessage::Wake => {
                self.wake = None;
                self.feed(Event::Wake, myself);
            }
            LockActorMessage::Missing(nodes) => self.feed(Event::Missing(nodes), myself),
            LockActorMessage::Retire(generation) => self.retiring = Some(generation),
            LockActorMessage::Close => self.feed(Event::Close, myself),
        }
    }

    fn acquire(&mut self, request: AcquireRequest, myself: &ActorRef<LockActorMessage>) {
        let (ticket, asked) = (request.ticket, request.request());
        if self.requests.contains_key(&ticket) {
            // The listener says that it was not served; the first use of the ticket goes on.
            warn!(path = %self.arguments.path, %ticket, "a ticket was used twice");
            return;
        }
        request.span.in_scope(|| debug!(wait = ?asked.wait, "wanted"));
        let entry = Entry {
            span: request.span,
            options: request.options,
            listener: Some(request.listener),
            lifeline: Some(request.lifeline),
            hold: None,
            release: Vec::new(),
        };
        self.requests.insert(ticket, entry);
        self.feed(Event::Acquire { ticket, request: asked }, myself);
    }

    fn release(
        &mut self,
        ticket: Ticket,
        reply: Option<RpcReplyPort<Result<(), ReleaseError>>>,
        myself: &ActorRef<LockActorMessage>,
    ) {
        match self.requests.get_mut(&ticket) {
            Some(entry) => {
                entry.span.in_scope(|| debug!("released"));
                entry.release.extend(reply);
                // Its guard may still be in somebody's hands, and must not read `Held` beside the next one.
                entry.hold = None;
                self.feed(Event::Release(ticket), myself);
            }
            None => {
                if let Some(reply) = reply {
                    let _ = reply.send(Err(ReleaseError::Lost));
                }
            }
        }
    }

    fn session(&mut self, news: SessionNews, myself: &ActorRef<LockActorMessage>) {
        let current = self.connection.as_ref().map(|session| session.connection.epoch);
        match news {
            SessionNews::Connected(connection) => {
                if self.connection.take().is_some() {
                    self.feed(Event::Lost, myself);
                }
                let session = connection.client.session();
                self.connection = Some(Session::new(connection, myself.clone()));
                self.feed(Event::Connected { session }, myself);
            }
            SessionNews::Suspended(epoch) if current == Some(epoch) => self.feed(Event::Suspended, myself),
            SessionNews::Resumed(epoch) if current == Some(epoch) => self.feed(Event::Resumed, myself),
            SessionNews::Lost(epoch) if current == Some(epoch) => {
                self.connection = None;
                self.feed(Event::Lost, myself);
            }
            // Of a session that is not ours any more.
            SessionNews::Suspended(_) | SessionNews::Resumed(_) | SessionNews::Lost(_) => {}
        }
    }

    fn armed(
        &mut self,
        epoch: u64,
        node: Znode,
        fired: BoxFuture<'static, Fired>,
        myself: &ActorRef<LockActorMessage>,
    ) {
        let Some(session) = self.connection.as_mut().filter(|s| s.connection.epoch == epoch) else { return };
        // No longer wanted: dropping the future takes the watch back.
        let Some(watch) = session.watches.get_mut(&node) else { return };
        let (actor, watched) = (myself.clone(), node.clone());
        let task = session.tasks.spawn(async move {
            let event = match fired.await {
                Fired::Gone => Event::Fired { node: watched, gone: true },
                Fired::Changed => Event::Fired { node: watched, gone: false },
                // The session actor tells the end of the session.
                Fired::Ended => return,
            };
            let _ = actor.cast(LockActorMessage::Event(epoch, event));
        });
        if let Watch::Armed(before) = std::mem::replace(watch, Watch::Armed(task)) {
            before.abort();
        }
        self.feed(Event::Watched(node, Ok(())), myself);
    }

    /// One event through the machine, and what follows from it.
    fn feed(&mut self, event: Event, myself: &ActorRef<LockActorMessage>) {
        let (now, mut commands) = (self.arguments.clock.now(), Vec::new());
        // The lease's word is ahead of the messages that tell of it: no grant on a lease that is in doubt, and no
        // resuming by news that is out of date. Fresh news is on its way then.
        let sure = |s: &Session| s.connection.lease.state() == LeaseState::Held;
        let sure = self.connection.as_ref().is_some_and(sure);
        if self.machine.is_up() && !sure {
            self.machine.handle(Event::Suspended, now, &mut commands);
        }
        if sure || event != Event::Resumed {
            self.machine.handle(event, now, &mut commands);
        }
        for command in commands {
            self.execute(command, myself);
        }
    }

    fn execute(&mut self, command: Command, myself: &ActorRef<LockActorMessage>) {
        let path = self.arguments.path.clone();
        match command {
            Command::List(attempt) => {
                self.submit(|zk| zk.client.children(&path), move |r| Event::Listed(attempt, r))
            }
            Command::Enter(attempt, ticket) => self.enter(attempt, ticket),
            Command::MakeDirectory(attempt, ticket) => {
                let Some(options) = self.requests.get(&ticket).map(|entry| entry.options.clone()) else {
                    return;
                };
                self.submit(
                    |zk| zk.client.make_directories(&path, options.container, &options.acl),
                    move |result| Event::DirectoryMade(attempt, result),
                )
            }
            Command::Look(attempt) => self.submit(
                |zk| {
                    debug!(%path, epoch = zk.epoch, attempt = attempt.0, "outcome unknown: looking");
                    let (sync, list) = (zk.client.sync(&path), zk.client.children(&path));
                    Box::pin(async move { sync.await.and(list.await) })
                },
                move |result| Event::Looked(attempt, result),
            ),
            Command::Inspect(attempt, node) => self.submit(
                |zk| zk.client.read(&full(&path, &node)),
                move |result| Event::Inspected(attempt, result.map(|(_, inspection)| inspection)),
            ),
            Command::Watch(node) => {
                if let Some(session) = &mut self.connection {
                    session.watch(node, &path);
                }
            }
            Command::Unwatch(node) => {
                if let Some(session) = &mut self.connection {
                    session.unwatch(&node, &path);
                }
            }
            Command::Delete(attempt, node) => {
                let node = full(&path, &node);
                self.submit(
                    |zk| {
                        zk.nodes.untrack(&node);
                        zk.client.delete(&node)
                    },
                    move |result| Event::Deleted(attempt, result),
                )
            }
            Command::Track(node) => {
                if let Some(session) = &self.connection {
                    session.connection.nodes.track(full(&path, &node));
                }
            }
            Command::Grant { ticket, node, czxid } => self.grant(ticket, &node, czxid, myself),
            Command::Queued(ticket, ahead) => {
                self.note(ticket, |epoch| debug!(epoch, ahead, "queued"));
                self.tell(ticket, LockEvent::Queued { ticket, ahead }, myself);
            }
            Command::Refuse(ticket, refusal) => {
                self.note(ticket, |epoch| debug!(epoch, ?refusal, "refused"));
                let refused = refused(&path, refusal);
                self.conclude(ticket, LockEvent::Refused(ticket, refused));
            }
            Command::Suspend(ticket) => {
                self.note(ticket, |epoch| debug!(epoch, "suspended"));
                self.hold(ticket, Hold::suspend);
                self.tell(ticket, LockEvent::Suspended(ticket), myself);
            }
            Command::Resume(ticket) => {
                self.note(ticket, |epoch| debug!(epoch, "resumed"));
                self.hold(ticket, Hold::resume);
                self.tell(ticket, LockEvent::Resumed(ticket), myself);
            }
            Command::Lose(ticket) => {
                self.note(ticket, |epoch| warn!(%path, %ticket, epoch, "lost"));
                if let Some(entry) = self.requests.get_mut(&ticket) {
                    entry.hold = None;
                }
                self.conclude(ticket, LockEvent::Lost(ticket));
            }
            Command::Forget { ticket, confirmed } => self.forget(ticket, confirmed),
        }
    }

    /// Create and list, sent together.
    fn enter(&mut self, attempt: Attempt, ticket: Ticket) {
        let (path, instance) = (self.arguments.path.clone(), self.arguments.instance);
        let Some(options) = self.requests.get(&ticket).map(|entry| entry.options.clone()) else { return };
        let name = instance.prefix(attempt, options.mode);
        let Some(session) = &self.connection else { return };
        let (epoch, client) = (session.connection.epoch, &session.connection.client);
        let prefix = format!("{path}/{name}");
        let create = client.create(&prefix, &options.identifier, options.ephemeral, &options.acl);
        let list = client.children(&path);
        session.expect(Box::pin(async move {
            let created = create.await.and_then(|(sequence, czxid)| {
                let node = Znode::parse(&format!("{name}{sequence:010}"));
                let node = node.ok_or_else(|| Failure::Unknown(format!("no sequence number: {sequence}")))?;
                Ok(Created { node, czxid })
            });
            let children = list.await;
            LockActorMessage::Event(epoch, Event::Entered { attempt, created, children })
        }));
    }

    fn grant(&mut self, ticket: Ticket, node: &Znode, czxid: i64, myself: &ActorRef<LockActorMessage>) {
        let (Some(entry), Some(session)) = (self.requests.get_mut(&ticket), &self.connection) else { return };
        let Some(lifeline) = entry.lifeline.take() else { return };
        let path = self.arguments.path.clone();
        let token = FencingToken::new(czxid);
        let epoch = session.connection.epoch;
        entry.span.in_scope(|| debug!(epoch, %token, "granted"));
        let lease = entry.options.ephemeral.then(|| session.connection.lease.clone());
        let grant = Arc::new(Grant::new(ticket, path.clone(), full(&path, node), token, lease));
        entry.hold = Some(Hold(grant.clone()));
        let guard = Lease::new(grant, myself.clone(), lifeline);
        // The guard travels in the event: a caller that has gone away drops it, and that releases the lock.
        self.tell(ticket, LockEvent::Acquired { ticket, guard }, myself);
    }

    fn forget(&mut self, ticket: Ticket, confirmed: bool) {
        let Some(entry) = self.requests.remove(&ticket) else { return };
        entry.span.in_scope(|| debug!(confirmed, "done"));
        for reply in entry.release {
            let _ = reply.send(if confirmed { Ok(()) } else { Err(ReleaseError::Lost) });
        }
        if let Some(listener) = entry.listener {
            listener.conclude(None);
        }
    }

    /// For people: inside the request's span, with the session's epoch; zero while there is none.
    fn note(&self, ticket: Ticket, write: impl FnOnce(u64)) {
        let epoch = self.connection.as_ref().map_or(0, |session| session.connection.epoch);
        match self.requests.get(&ticket) {
            Some(entry) => entry.span.in_scope(|| write(epoch)),
            None => write(epoch),
        }
    }

    fn tell(&mut self, ticket: Ticket, event: LockEvent, myself: &ActorRef<LockActorMessage>) {
        let Some(entry) = self.requests.get_mut(&ticket) else { return };
        let listening = entry.listener.as_mut().is_none_or(|listener| listener.tell(event));
        if !listening {
            entry.listener = None;
            // Nobody hears of a grant any more. A guard that it was told of has been dropped.
            let _ = myself.cast(LockActorMessage::Public(LockMessage::Cancel(ticket)));
        }
    }

    fn conclude(&mut self, ticket: Ticket, event: LockEvent) {
        if let Some(listener) = self.requests.get_mut(&ticket).and_then(|entry| entry.listener.take()) {
            listener.conclude(Some(event));
        }
    }

    fn hold(&self, ticket: Ticket, change: fn(&Hold)) {
        if let Some(hold) = self.requests.get(&ticket).and_then(|entry| entry.hold.as_ref()) {
            change(hold);
        }
    }

    fn submit<T: 'static>(
        &self,
        send: impl FnOnce(&Connection) -> Answer<T>,
        event: impl FnOnce(Result<T, Failure>) -> Event + Send + 'static,
    ) {
        let Some(session) = &self.connection else { return };
        let epoch = session.connection.epoch;
        let answer = send(&session.connection);
        session.expect(Box::pin(async move { LockActorMessage::Event(epoch, event(answer.await)) }));
    }

    /// A question that the machine has no part in.
    fn ask<T: Send + 'static, F>(
        &mut self,
        reply: RpcReplyPort<Result<T, ContendersError>>,
        question: impl FnOnce(Arc<dyn crate::zookeeper::ZooKeeper>) -> F,
    ) where
        F: Future<Output = Result<T, ContendersError>> + Send + 'static,
    {
        let Some(session) = &mut self.connection else {
            let _ = reply.send(Err(ContendersError::Disconnected));
            return;
        };
        let answer = question(session.connection.client.clone());
        // Ended with the session, which closes the reply port.
        session.tasks.spawn(async move {
            let _ = reply.send(answer.await);
        });
        while session.tasks.try_join_next().is_some() {}
    }

    fn set_wake(&mut self, myself: &ActorRef<LockActorMessage>) {
        let due = self.machine.wakeup();
        if self.wake.as_ref().map(|(moment, _)| *moment) == due {
            return;
        }
        if let Some((_, task)) = self.wake.take() {
            task.abort();
        }
        if let Some(due) = due {
            let (at, myself) = (self.arguments.clock.at(due), myself.clone());
            let task = tokio::spawn(async move {
                tokio::time::sleep_until(at).await;
                let _ = myself.cast(LockActorMessage::Wake);
            });
            self.wake = Some((due, task.abort_handle()));
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if let Some((_, task)) = &self.wake {
            task.abort();
        }
    }
}

impl Session {
    fn new(connection: Connection, actor: ActorRef<LockActorMessage>) -> Session {
        let (answers, mut queue) = mpsc::unbounded_channel::<BoxFuture<'static, LockActorMessage>>();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Some(answer) = queue.recv().await {
                if actor.cast(answer.await).is_err() {
                    return;
                }
            }
        });
        Session { connection, answers, watches: BTreeMap::new(), tasks }
    }

    fn expect(&self, answer: BoxFuture<'static, LockActorMessage>) {
        // Fails only when the actor has gone, and then nobody waits for the answer.
        let _ = self.answers.send(answer);
    }

    fn watch(&mut self, node: Znode, path: &str) {
        let (epoch, client, target) = (self.connection.epoch, &self.connection.client, full(path, &node));
        if !self.connection.nodes.reserve_watch(&target) {
            let read = client.read(&target);
            return self.expect(Box::pin(async move {
                let result = read.await.and(Err(Failure::Refused("no room for another watch".into())));
                LockActorMessage::Event(epoch, Event::Watched(node, result))
            }));
        }
        let answer = client.watch(&target);
        if self.watches.insert(node.clone(), Watch::Arming).is_some() {
            self.connection.nodes.free_watch(&target);
        }
        self.expect(Box::pin(async move {
            match answer.await {
                Ok(fired) => LockActorMessage::Armed(epoch, node, fired),
                Err(failure) => LockActorMessage::Event(epoch, Event::Watched(node, Err(failure))),
            }
        }));
    }

    fn unwatch(&mut self, node: &Znode, path: &str) {
        if let Some(watch) = self.watches.remove(node) {
            self.connection.nodes.free_watch(&full(path, node));
            if let Watch::Armed(task) = watch {
                task.abort();
            }
        }
        while self.tasks.try_join_next().is_some() {}
    }
}

fn full(path: &str, node: &Znode) -> String {
    format!("{path}/{}", node.name())
}

fn refused(path: &Arc<str>, refusal: Refusal) -> Refused {
    let path = path.to_string();
    match refusal {
        Refusal::Contended => Refused::Contended,
        Refusal::Suspended => Refused::Suspended,
        Refusal::TimedOut => Refused::TimedOut,
        Refusal::Cancelled => Refused::Cancelled,
        Refusal::Closed => Refused::Failed(AcquireError::Closed),
        Refusal::Exhausted => Refused::Failed(AcquireError::SequenceExhausted { path }),
        Refusal::NoAuth(None) => Refused::Failed(AcquireError::NoAuth { path }),
        Refusal::NoAuth(Some(node)) => Refused::Failed(AcquireError::NoAuth { path: full(&path, &node) }),
        Refusal::Rejected(reason) => Refused::Failed(AcquireError::Rejected { path, reason }),
    }
}
