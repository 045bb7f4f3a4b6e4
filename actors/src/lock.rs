//! The actor of one lock or one semaphore: carries out what its machine decides.
//!
//! Nothing is decided here. Messages and answers become events, commands become requests and replies.

mod commands;
mod joint;
mod leases;
mod link;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use futures::future::{BoxFuture, Either, select};
use ractor::{ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tracing::{Span, debug, warn};

pub(crate) use self::joint::{Entrant, Joint, Together};
use self::leases::Survey;
use self::link::Session;

use crate::api::error::{AcquireError, ContendersError, ReleaseError, ResizeError};
use crate::api::lease::{FencingToken, Hold, LeaseState};
use crate::api::messages::{
    AcquireRequest, Contender, ContenderOptions, Kind, Lifeline, Listener, LockEvent, LockMessage, Place,
    Refused,
};
use crate::keeper::PrimitivesMessage;
use crate::machine::lock::Queue;
use crate::machine::lock::protocol::{Event, Ticket, Wait};
use crate::machine::node::{Instance, Patterns, Znode};
use crate::machine::semaphore::Semaphore;
use crate::machine::{Machine, Moment};
use crate::runtime::clock::Clock;
use crate::session::{Connection, SessionNews};
use crate::zookeeper::{Fired, ZooKeeper};
use crate::{inspect as contenders, leases as questions};

pub(crate) struct LockActor;

pub(crate) struct LockArguments {
    pub place: Place,
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
    /// Nodes of this path and others are to be made together.
    Together(Together),
    /// An answer, and watches that are armed.
    Surveyed(u64, Survey),
    /// A question in the session of this epoch is over.
    Answered(u64),
    Wake,
    /// The heartbeat did not find these nodes.
    Missing(Vec<String>),
    /// No handle is left: say so, with this number, as soon as nothing is left to do.
    Retire(u64),
    Close,
}

#[cfg(feature = "cluster")]
impl ractor::Message for LockActorMessage {}

pub(crate) struct State {
    arguments: LockArguments,
    /// Where the contenders stand.
    directory: Arc<str>,
    machine: Box<dyn Machine>,
    requests: BTreeMap<Ticket, Entry>,
    connection: Option<Session>,
    wake: Option<(Moment, AbortHandle)>,
    retiring: Option<u64>,
}

/// What a request needs besides its place in the machine.
struct Entry {
    span: Span,
    options: Arc<ContenderOptions>,
    /// It is no try.
    waits: bool,
    /// Until the last word is said.
    listener: Option<Listener>,
    /// Until it is granted: the lease takes it.
    lifeline: Option<Arc<Lifeline>>,
    hold: Option<Hold>,
    /// Who has its node made, unless its own actor does.
    joint: Option<Joint>,
    release: Vec<RpcReplyPort<Result<(), ReleaseError>>>,
    /// It was granted, and its lease has ended since.
    lost: bool,
    /// The newest node that was asked for and that outlives sessions, without its number.
    outliving: Option<String>,
}

#[ractor::actor(message = LockActorMessage, state = State, arguments = LockArguments)]
impl LockActor {
    async fn pre_start(
        &self,
        _myself: ActorRef<LockActorMessage>,
        arguments: LockArguments,
    ) -> Result<State, ActorProcessingErr> {
        Ok(State {
            machine: match arguments.place.kind {
                Kind::Lock => Box::new(Queue::new(arguments.instance)),
                Kind::Semaphore => Box::new(Semaphore::new(arguments.instance)),
            },
            directory: arguments.place.queue(),
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
        if let Some(generation) = state.retiring.filter(|_| state.is_idle()) {
            let place = state.arguments.place.clone();
            state.arguments.primitives.cast(PrimitivesMessage::Retired { place, generation })?;
        }
        Ok(())
    }
}

impl State {
    /// Nobody waits for anything any more.
    fn is_idle(&self) -> bool {
        self.machine.is_idle() && self.connection.as_ref().is_none_or(|session| session.questions == 0)
    }

    fn handle(&mut self, message: LockActorMessage, myself: &ActorRef<LockActorMessage>) {
        match message {
            LockActorMessage::Public(LockMessage::Acquire(request)) => self.acquire(request, myself),
            LockActorMessage::Public(LockMessage::Cancel(ticket)) => self.feed(Event::Cancel(ticket), myself),
            LockActorMessage::Public(LockMessage::Release(ticket, reply)) => {
                self.release(ticket, reply, myself)
            }
            LockActorMessage::Public(LockMessage::Contenders(patterns, reply)) => {
                let path = self.directory.clone();
                let none = ContendersError::Disconnected;
                self.ask(reply, none, myself, |client| contenders::list(client, path, patterns));
            }
            LockActorMessage::Public(LockMessage::First(patterns, known, reply)) => {
                self.follow(patterns, known, reply, myself)
            }
            LockActorMessage::Public(LockMessage::RemoveContender(contender, reply)) => {
                let path = self.directory.clone();
                let none = ContendersError::Disconnected;
                self.ask(reply, none, myself, |client| contenders::remove(client, path, contender));
            }
            LockActorMessage::Public(LockMessage::LeaseHolders(reply)) => {
                let path = self.arguments.place.path.clone();
                let none = ContendersError::Disconnected;
                self.ask(reply, none, myself, |client| questions::holders(client, path));
            }
            LockActorMessage::Public(LockMessage::Resize(limit, options, reply)) => {
                let path = self.arguments.place.path.clone();
                let none = ResizeError::Disconnected;
                self.ask(reply, none, myself, |client| questions::resize(client, path, limit, options));
            }
            LockActorMessage::Session(news) => self.session(news, myself),
            LockActorMessage::Event(epoch, event) => {
                if let Some(session) = self.connection.as_mut().filter(|s| s.connection.epoch == epoch) {
                    if let Event::Fired { node, .. } | Event::Watched(node, Err(_)) = &event {
                        session.unwatch(node);
                    }
                    self.feed(event, myself);
                }
            }
            LockActorMessage::Armed(epoch, node, fired) => self.armed(epoch, node, fired, myself),
            LockActorMessage::Together(together) => self.make_together(together),
            LockActorMessage::Surveyed(epoch, survey) => self.surveyed(epoch, survey, myself),
            LockActorMessage::Answered(epoch) => {
                if let Some(session) = self.connection.as_mut().filter(|s| s.connection.epoch == epoch) {
                    session.questions -= 1;
                }
            }
            LockActorMessage::Wake => {
                self.wake = None;
                self.feed(Event::Wake, myself);
            }
            LockActorMessage::Missing(names) => self.feed(Event::Missing(names), myself),
            LockActorMessage::Retire(generation) => self.retiring = Some(generation),
            LockActorMessage::Close => self.feed(Event::Close, myself),
        }
    }

    fn acquire(&mut self, request: AcquireRequest, myself: &ActorRef<LockActorMessage>) {
        let (ticket, event) = (request.ticket, request.event());
        if self.requests.contains_key(&ticket) {
            // The listener says that it was not served; the first use of the ticket goes on.
            warn!(path = %self.arguments.place.path, %ticket, "a ticket was used twice");
            return;
        }
        if let Some(limit) = request.max_waiting().filter(|limit| self.has_waiting(*limit)) {
            let path = self.arguments.place.path.to_string();
            let refused = Refused::Failed(AcquireError::TooManyWaiting { path, limit });
            return request.listener.conclude(LockEvent::Refused(ticket, refused));
        }
        request.span.in_scope(|| debug!(wait = ?request.wait, "wanted"));
        let entry = Entry {
            span: request.span,
            options: request.options,
            waits: request.wait != Wait::Try,
            listener: Some(request.listener),
            lifeline: Some(request.lifeline),
            hold: None,
            joint: request.joint,
            release: Vec::new(),
            lost: false,
            outliving: None,
        };
        self.requests.insert(ticket, entry);
        self.feed(event, myself);
    }

    /// Whether so many wait already.
    fn has_waiting(&self, limit: usize) -> bool {
        let waits = |entry: &&Entry| entry.waits && entry.lifeline.is_some() && entry.listener.is_some();
        self.requests.values().filter(waits).take(limit).count() == limit
    }

    fn release(
        &mut self,
        ticket: Ticket,
        reply: Option<RpcReplyPort<Result<(), ReleaseError>>>,
        myself: &ActorRef<LockActorMessage>,
    ) {
        // What is left of a lost one is cleaned up, and that confirms nothing to its holder.
        match self.requests.get_mut(&ticket).filter(|entry| !entry.lost) {
            Some(entry) if entry.lifeline.is_some() => {
                if let Some(reply) = reply {
                    let _ = reply.send(Err(ReleaseError::NotGranted));
                }
            }
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
        watch.armed(task);
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

    /// A question that may be long in being answered.
    fn follow(
        &mut self,
        patterns: Patterns,
        known: Option<Option<FencingToken>>,
        mut reply: oneshot::Sender<Result<Option<Contender>, ContendersError>>,
        myself: &ActorRef<LockActorMessage>,
    ) {
        let Some(session) = &mut self.connection else {
            let _ = reply.send(Err(ContendersError::Disconnected));
            return;
        };
        let Connection { client, nodes, .. } = session.connection.clone();
        let path = self.directory.clone();
        // One that waits for a change keeps nobody from ending.
        let question = known.is_none().then(|| session.question(myself));
        session.tasks.spawn(async move {
            let _question = question;
            let answer = Box::pin(contenders::first(client, nodes, path, patterns, known));
            let answered = match select(answer, Box::pin(reply.closed())).await {
                Either::Left((answer, _)) => answer,
                Either::Right(_) => return,
            };
            let _ = reply.send(answered);
        });
        while session.tasks.try_join_next().is_some() {}
    }

    /// A question that the machine has no part in.
    fn ask<T: Send + 'static, E: Send + 'static, F>(
        &mut self,
        reply: RpcReplyPort<Result<T, E>>,
        disconnected: E,
        myself: &ActorRef<LockActorMessage>,
        send: impl FnOnce(Arc<dyn ZooKeeper>) -> F,
    ) where
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let Some(session) = &mut self.connection else {
            let _ = reply.send(Err(disconnected));
            return;
        };
        let answer = send(session.connection.client.clone());
        let question = session.question(myself);
        // Ended with the session, which closes the reply port.
        session.tasks.spawn(async move {
            let _question = question;
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
