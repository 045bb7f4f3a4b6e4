//! What the actors of locks and of semaphores share: callers' requests, the session, and the queue of contenders.
//!
//! A [`Path`] is the state of such an actor, but for what its kind adds. A [`Driver`] passes events through the gate to
//! the machine and carries out the commands.

mod queue;
mod requests;

use std::collections::BTreeMap;
use std::sync::Arc;

use ractor::{DerivedActorRef, RpcReplyPort};

use self::requests::Entry;
use crate::api::lease::{Release, ReleasePort};
use crate::api::resource::Resource;
use crate::machine::node::{Instance, Znode};
use crate::machine::semaphore::Part;
use crate::machine::{Failure, Machine, PathEvent, PathMachine, Ticket, gate};
use crate::runtime::clock::Clock;
use crate::runtime::timer::{Precision, Timer};
use crate::session::{Change, Connection, SessionHandle, SessionNews, Watch};
use crate::zookeeper::{Answer, Watching, ZooKeeper};

/// What the actor of a path needs.
pub(crate) struct PathArguments {
    pub resource: Resource,
    pub instance: Instance,
    pub clock: Clock,
    pub registry: DerivedActorRef<PathReport>,
}

/// To the registry.
pub(crate) enum PathReport {
    /// Nothing is left to do since the registry said, with this generation, that no handle is left.
    Retired { resource: Resource, generation: u64 },
    /// These nodes were made for actors that have died since.
    Orphaned { epoch: u64, nodes: Vec<String> },
}

/// From the registry.
#[derive(Clone)]
pub(crate) enum PathNotice {
    Session(SessionNews),
    /// Heartbeats did not find these nodes.
    Missing(Vec<String>),
    /// No handle is left: report it, with this generation, once nothing is left to do.
    Retire(u64),
    Close,
}

/// From the actor to itself: `E` is its machine's event.
pub(crate) enum PathMessage<E> {
    /// An answer in the session of this epoch, and the watches that it left.
    Answer(u64, E, Vec<LeftWatch<E>>),
    /// A watch of the session of this epoch has fired, or was not left.
    WatchOver(u64, WatchKey, E),
    /// A question in the session of this epoch is over.
    QuestionOver(u64),
    /// The event sink of this request has failed.
    Unheard(Ticket),
    Wake,
}

#[cfg(feature = "cluster")]
mod cluster {
    impl ractor::Message for super::PathReport {}
    impl ractor::Message for super::PathNotice {}
    impl<E: Send + 'static> ractor::Message for super::PathMessage<E> {}
}

/// What is watched.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum WatchKey {
    /// A contender ahead.
    Node(Znode),
    /// A part of a semaphore's state.
    Part(Part),
}

/// A watch that an answer left, until its actor has that answer.
pub(crate) struct LeftWatch<E> {
    pub key: WatchKey,
    pub watching: Watching,
    /// What the machine is told when it fires.
    pub event: Box<dyn FnOnce(Change) -> E + Send>,
}

/// The state of a path's actor.
pub(crate) struct Path<M: Machine> {
    pub resource: Resource,
    pub instance: Instance,
    pub registry: DerivedActorRef<PathReport>,
    /// The directory of the contenders.
    pub directory: Arc<str>,
    pub session: Option<SessionHandle<PathMessage<M::Event>>>,
    /// The watches that are wanted; without one until the answer has come.
    pub watches: BTreeMap<WatchKey, Option<Watch>>,
    clock: Clock,
    machine: M,
    requests: BTreeMap<Ticket, Entry>,
    timer: Timer,
    retiring: Option<u64>,
    actor: DerivedActorRef<PathMessage<M::Event>>,
    releases: DerivedActorRef<Release>,
}

/// Drives the machine of a path.
pub(crate) trait Driver {
    type Event: PartialEq + From<PathEvent> + Send + 'static;
    type Machine: PathMachine<Event = Self::Event>;

    fn path(&mut self) -> &mut Path<Self::Machine>;

    /// Carries out one command.
    fn execute(&mut self, command: <Self::Machine as Machine>::Command);

    /// Passes one event through the gate to the machine, and carries out its commands.
    fn feed(&mut self, event: impl Into<Self::Event>) {
        let path = self.path();
        let mut commands = Vec::new();
        let lease = path.session.as_ref().map(|session| session.connection.lease.state());
        let now = path.clock.now();
        for event in gate::admit(&path.machine, lease, event.into()) {
            path.machine.handle(event, now, &mut commands);
        }
        for command in commands {
            self.execute(command);
        }
    }

    fn message(&mut self, message: PathMessage<Self::Event>) {
        match message {
            PathMessage::Answer(epoch, event, watches) if self.path().is_current(epoch) => {
                self.path().keep_watches(watches);
                self.feed(event);
            }
            PathMessage::WatchOver(epoch, key, event) if self.path().is_current(epoch) => {
                self.path().watch_over(&key);
                self.feed(event);
            }
            PathMessage::QuestionOver(epoch) if self.path().is_current(epoch) => {
                self.path().session.iter_mut().for_each(SessionHandle::answered)
            }
            // Of an earlier session.
            PathMessage::Answer(..) | PathMessage::WatchOver(..) | PathMessage::QuestionOver(_) => {}
            PathMessage::Unheard(ticket) => self.feed(PathEvent::Cancel(ticket)),
            PathMessage::Wake => {
                self.path().timer.rang();
                self.feed(PathEvent::Wake);
            }
        }
    }

    fn notice(&mut self, notice: PathNotice) {
        match notice {
            PathNotice::Session(news) => self.session_news(news),
            PathNotice::Missing(names) => self.feed(PathEvent::Missing(names)),
            PathNotice::Retire(generation) => self.path().retiring = Some(generation),
            PathNotice::Close => self.feed(PathEvent::Close),
        }
    }

    fn session_news(&mut self, news: SessionNews) {
        match news {
            SessionNews::Connected(connection) => {
                if self.path().leave_session() {
                    self.feed(PathEvent::Lost);
                }
                let session = connection.client.session();
                let actor = self.path().actor.clone();
                self.path().session = Some(SessionHandle::new(connection, actor));
                self.feed(PathEvent::Connected { session });
            }
            SessionNews::Suspended(epoch) if self.path().is_current(epoch) => self.feed(PathEvent::Suspended),
            SessionNews::Resumed(epoch) if self.path().is_current(epoch) => self.feed(PathEvent::Resumed),
            SessionNews::Lost(epoch) if self.path().is_current(epoch) => {
                self.path().leave_session();
                self.feed(PathEvent::Lost);
            }
            // Of an earlier session.
            SessionNews::Suspended(_) | SessionNews::Resumed(_) | SessionNews::Lost(_) => {}
        }
    }

    fn release(&mut self, ticket: Ticket, reply: Option<ReleasePort>) {
        if self.path().begin_release(ticket, reply) {
            self.feed(PathEvent::Release(ticket));
        }
    }

    /// After every message: sets the timer, and reports when nothing is left to do.
    fn settle(&mut self) {
        let path = self.path();
        let (due, actor) = (path.machine.wakeup(), path.actor.clone());
        path.timer.set(due, move || drop(actor.send_message(PathMessage::Wake)));
        if let Some(generation) = path.retiring.filter(|_| path.is_idle()) {
            let resource = path.resource.clone();
            // A registry that is gone takes this actor along.
            let _ = path.registry.send_message(PathReport::Retired { resource, generation });
        }
    }
}

impl<M: PathMachine> Path<M>
where
    M::Event: Send + 'static,
{
    pub fn new(
        arguments: PathArguments,
        machine: M,
        actor: DerivedActorRef<PathMessage<M::Event>>,
        releases: DerivedActorRef<Release>,
    ) -> Path<M> {
        let PathArguments { resource, instance, clock, registry } = arguments;
        Path {
            directory: resource.queue(),
            resource,
            instance,
            registry,
            session: None,
            watches: BTreeMap::new(),
            clock,
            machine,
            requests: BTreeMap::new(),
            timer: Timer::new(clock, Precision::Tokio),
            retiring: None,
            actor,
            releases,
        }
    }

    /// To the actor itself.
    pub fn actor(&self) -> DerivedActorRef<PathMessage<M::Event>> {
        self.actor.clone()
    }

    pub fn is_current(&self, epoch: u64) -> bool {
        self.session.as_ref().is_some_and(|session| session.connection.epoch == epoch)
    }

    /// Ends everything that depends on the session. Gives whether there was one.
    fn leave_session(&mut self) -> bool {
        self.watches.clear();
        self.session.take().is_some()
    }

    /// From now on these watches are told, unless they are no longer wanted.
    fn keep_watches(&mut self, left: Vec<LeftWatch<M::Event>>) {
        let Some(session) = &self.session else { return };
        let epoch = session.connection.epoch;
        for LeftWatch { key, watching, event } in left {
            let Some(watch) = self.watches.get_mut(&key) else { continue };
            let actor = self.actor.clone();
            *watch = Some(Watch::tell(watching, move |change| {
                // The actor may have gone.
                let _ = actor.send_message(PathMessage::WatchOver(epoch, key, event(change)));
            }));
        }
    }

    fn watch_over(&mut self, key: &WatchKey) {
        match key {
            WatchKey::Node(_) => drop(self.watches.remove(key)),
            // A later read may have been sent, whose watch is wanted.
            WatchKey::Part(_) => {}
        }
    }

    /// Sends a request; its answer becomes an event.
    pub fn submit<T: 'static>(
        &self,
        send: impl FnOnce(&Connection) -> Answer<T>,
        event: impl FnOnce(Result<T, Failure>) -> M::Event + Send + 'static,
    ) {
        let Some(session) = &self.session else { return };
        let (epoch, answer) = (session.connection.epoch, send(&session.connection));
        session.expect(async move { PathMessage::Answer(epoch, event(answer.await), Vec::new()) });
    }

    /// Answers a question that the machine has no part in.
    pub fn ask<T: Send + 'static, E: Send + 'static, F>(
        &mut self,
        reply: RpcReplyPort<Result<T, E>>,
        disconnected: E,
        send: impl FnOnce(Arc<dyn ZooKeeper>) -> F,
    ) where
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let Some(session) = &mut self.session else {
            let _ = reply.send(Err(disconnected));
            return;
        };
        let answer = send(session.connection.client.clone());
        let epoch = session.connection.epoch;
        let question = session.question(&self.actor, PathMessage::QuestionOver(epoch));
        // It ends with the session, and that closes the reply port.
        session.spawn(async move {
            let _question = question;
            let _ = reply.send(answer.await);
        });
    }
}
