//! The common part of the actors of locks and semaphores: callers' requests, the session, and the queue of contenders.
//!
//! A [`Path`] is the common state of such an actor. A [`Driver`] passes events through the gate to the machine, and
//! carries out the commands.

mod queue;
mod requests;
mod watches;

use std::fmt::Debug;
use std::sync::Arc;

use ractor::{DerivedActorRef, RpcReplyPort};
use tracing::trace;

use self::requests::Entry;
use self::watches::WantedWatches;
use crate::api::lease::{Grantor, ReleasePort};
use crate::api::resource::Resource;
use crate::machine::linger::LineId;
use crate::machine::node::{Attempt, Instance, Znode};
use crate::machine::semaphore::Part;
use crate::machine::small_map::SmallMap;
use crate::machine::{COMMANDS, Failure, Machine, Moment, PathEvent, PathMachine, Ticket, gate};
use crate::metrics::PathMetrics;
use crate::record::{self, Origin, Recorded, Recorder, Recording};
use crate::runtime::clock::Clock;
use crate::runtime::timer::{Precision, Timer};
use crate::session::{Change, Connection, SessionHandle, SessionNews, SetWatch, Watch};
use crate::zookeeper::{Answer, ZooKeeper};

/// The arguments of a path's actor.
pub(crate) struct PathArguments {
    pub resource: Resource,
    pub instance: Instance,
    pub clock: Clock,
    pub registry: DerivedActorRef<PathReport>,
    pub metrics: PathMetrics,
    pub recording: Option<Recording>,
}

/// To the registry.
pub(crate) enum PathReport {
    /// The actor of this instance has nothing left to do. Answers [`PathNotice::Retire`] with the same generation, and
    /// may do so more than once.
    Retired { resource: Resource, instance: Instance, generation: u64 },
    /// There may be a node of this attempt. Its actor has died, and has not learned of it.
    Orphaned { epoch: u64, directory: Arc<str>, instance: Instance, attempt: Attempt },
}

/// From the registry.
#[derive(Clone)]
pub(crate) enum PathNotice {
    Session(SessionNews),
    /// These nodes no longer exist, as heartbeats have shown.
    Missing(Vec<String>),
    /// No handle is left: reply [`PathReport::Retired`] with this generation, once nothing is left to do.
    Retire(u64),
    Close,
}

/// From the actor to itself: `E` is its machine's event.
pub(crate) enum PathMessage<E> {
    /// An answer in the session of this epoch, and the watches that were set with it.
    Answer(u64, E, Vec<NewWatch<E>>),
    /// A watch in the session of this epoch has fired, or could not be set.
    WatchOver(u64, WatchKey, E),
    /// A question in the session of this epoch is over.
    QuestionOver(u64),
    /// All transactions under the lease of this request are answered. It was released before.
    Written(Ticket),
    /// The event sink of this request has panicked.
    SinkFailed(Ticket),
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
    /// The children of the directory, for a node that others may wait for.
    Children(LineId),
}

/// A watch that was set with a request, on its way to the actor with the answer.
pub(crate) struct NewWatch<E> {
    pub key: WatchKey,
    pub watch: SetWatch,
    /// The machine's event for when it fires.
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
    pub watches: WantedWatches,
    pub metrics: PathMetrics,
    clock: Clock,
    /// The time of the newest event.
    now: Moment,
    machine: M,
    /// Empty between events. Kept, so that not every event allocates it.
    commands: Vec<M::Command>,
    recorder: Option<Recorder>,
    /// The epoch and the id of the newest session, for logs. Zero before the first.
    newest: (u64, i64),
    /// Boxed, because a tree makes room for eleven at once.
    requests: SmallMap<Ticket, Box<Entry>>,
    /// The number of requests that are neither granted nor refused, except for tries.
    waiting: usize,
    timer: Timer,
    retiring: Option<u64>,
    actor: DerivedActorRef<PathMessage<M::Event>>,
    grantor: Grantor,
}

/// Drives the machine of a path.
pub(crate) trait Driver {
    type Event: Clone + Debug + PartialEq + From<PathEvent> + Send + 'static;
    type Machine: PathMachine<Event = Self::Event> + Recorded;

    fn path(&mut self) -> &mut Path<Self::Machine>;

    /// Carries out one command.
    fn execute(&mut self, command: <Self::Machine as Machine>::Command);

    /// Passes one event through the gate to the machine, and carries out its commands.
    fn feed(&mut self, event: impl Into<Self::Event>) {
        let path = self.path();
        let mut commands = std::mem::take(&mut path.commands);
        let lease = path.session.as_ref().map(|session| session.connection.lease.state());
        let now = path.clock.now();
        path.now = now;
        for event in gate::admit(&path.machine, lease, event.into()) {
            trace!(path = %path.directory, ?lease, ?event, "event");
            record::handle(path.recorder.as_ref(), &mut path.machine, event, now, &mut commands);
        }
        trace!(path = %path.directory, ?commands, "commands");
        for command in commands.drain(..) {
            self.execute(command);
        }
        commands.shrink_to(COMMANDS);
        self.path().commands = commands;
    }

    fn message(&mut self, message: PathMessage<Self::Event>) {
        match message {
            PathMessage::Answer(epoch, event, watches) if self.path().is_current(epoch) => {
                if self.path().keep_watches(watches) {
                    self.feed(event);
                }
            }
            PathMessage::WatchOver(epoch, key, event) if self.path().is_current(epoch) => {
                self.path().watch_over(&key);
                self.feed(event);
            }
            PathMessage::QuestionOver(epoch) if self.path().is_current(epoch) => {
                self.path().session.iter_mut().for_each(SessionHandle::answered)
            }
            // From an earlier session.
            PathMessage::Answer(..) | PathMessage::WatchOver(..) | PathMessage::QuestionOver(_) => {}
            PathMessage::Written(ticket) => {
                if self.path().written(ticket) {
                    self.feed(PathEvent::Release(ticket));
                }
            }
            PathMessage::SinkFailed(ticket) => self.feed(PathEvent::Cancel(ticket)),
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
                self.path().newest = (connection.epoch, session);
                self.path().session = Some(SessionHandle::new(connection));
                self.feed(PathEvent::Connected { session });
            }
            SessionNews::Suspended(epoch) if self.path().is_current(epoch) => self.feed(PathEvent::Suspended),
            SessionNews::Resumed(epoch) if self.path().is_current(epoch) => self.feed(PathEvent::Resumed),
            SessionNews::Lost(epoch) if self.path().is_current(epoch) => {
                self.path().leave_session();
                self.feed(PathEvent::Lost);
            }
            // From an earlier session.
            SessionNews::Suspended(_) | SessionNews::Resumed(_) | SessionNews::Lost(_) => {}
        }
    }

    fn release(&mut self, ticket: Ticket, reply: Option<ReleasePort>) {
        if self.path().begin_release(ticket, reply) {
            self.feed(PathEvent::Release(ticket));
        }
    }

    /// Called after every message. Sets the timer, and reports when nothing is left to do.
    fn after_message(&mut self) {
        let path = self.path();
        let (due, actor) = (path.machine.wakeup(), path.actor.clone());
        path.timer.set(path.clock, due, move || drop(actor.send_message(PathMessage::Wake)));
        if let Some(generation) = path.retiring.filter(|_| path.is_idle()) {
            let (resource, instance) = (path.resource.clone(), path.instance);
            // If the registry has ended, this actor ends with it.
            let _ = path.registry.send_message(PathReport::Retired { resource, instance, generation });
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
        grantor: Grantor,
    ) -> Path<M> {
        let PathArguments { resource, instance, clock, registry, metrics, recording } = arguments;
        let recorder = recording.map(|recording| {
            let path = resource.path().clone();
            let origin = match &resource {
                Resource::Lock(_) => Origin::Lock { path, instance },
                Resource::Semaphore(_) => Origin::Semaphore { path, instance },
            };
            recording.machine(clock.now(), origin)
        });
        Path {
            directory: resource.queue(),
            resource,
            instance,
            registry,
            session: None,
            watches: WantedWatches::default(),
            metrics,
            clock,
            now: Moment::default(),
            machine,
            commands: Vec::new(),
            recorder,
            newest: (0, 0),
            requests: SmallMap::default(),
            waiting: 0,
            timer: Timer::new(Precision::Tokio),
            retiring: None,
            actor,
            grantor,
        }
    }

    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// The address of the actor itself.
    pub fn actor(&self) -> DerivedActorRef<PathMessage<M::Event>> {
        self.actor.clone()
    }

    pub fn is_current(&self, epoch: u64) -> bool {
        self.session.as_ref().is_some_and(|session| session.connection.epoch == epoch)
    }

    /// Ends everything that depends on the session. Returns whether there was one.
    fn leave_session(&mut self) -> bool {
        self.watches.clear();
        self.session.take().is_some()
    }

    /// Reports these watches when they fire. Drops those that are no longer wanted, and returns whether the machine is to
    /// have the answer: it must not take a watch on a node for set that was dropped.
    fn keep_watches(&mut self, watches: Vec<NewWatch<M::Event>>) -> bool {
        let Some(session) = &self.session else { return false };
        let (epoch, mut answered) = (session.connection.epoch, true);
        for NewWatch { key, watch, event } in watches {
            let Some(wanted) = self.watches.get(&key) else {
                answered &= !matches!(key, WatchKey::Node(_));
                continue;
            };
            let actor = self.actor.clone();
            *wanted = Some(Watch::tell(watch, move |change| {
                // The actor may have ended.
                let _ = actor.send_message(PathMessage::WatchOver(epoch, key, event(change)));
            }));
        }
        answered
    }

    fn watch_over(&mut self, key: &WatchKey) {
        match key {
            WatchKey::Node(_) | WatchKey::Children(_) => self.watches.remove(key),
            // The entry may already be for the watch of a later read.
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
        let retries = self.metrics.retries();
        self.expect(async move {
            let answered = answer.await;
            retries.count(&answered);
            PathMessage::Answer(epoch, event(answered), Vec::new())
        });
    }

    /// Receives this answer, in the order of the requests.
    pub fn expect(&self, answer: impl Future<Output = PathMessage<M::Event>> + Send + 'static) {
        if let Some(session) = &self.session {
            session.expect(&self.actor, answer);
        }
    }

    /// Answers a caller's question that does not concern the machine.
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
        // The task ends with the session, which closes the reply port.
        session.spawn(async move {
            let _question = question;
            let _ = reply.send(answer.await);
        });
    }
}
