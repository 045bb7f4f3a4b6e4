//! The registry: finds or starts the actor of a path, stops actors that are no longer needed, and cleans up after those
//! that died.

mod dead;
mod paths;
mod sweep;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ractor::actor::messages::BoxedState;
use ractor::{
    Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, DerivedActorRef, RpcReplyPort, SupervisionEvent,
};
use tokio::task::JoinHandle;
use tracing::warn;

use self::dead::Dead;
use self::paths::{Entry, Paths};
use crate::api::error::{AcquireError, QueryError};
use crate::api::lease::ReleasePort;
use crate::api::messages::{InspectMessage, LockMessage, MultiLockMessage, RegistryMessage};
use crate::api::request::MultiLockRequest;
use crate::api::resource::Resource;
use crate::inspect;
use crate::lock::{LockActor, LockActorMessage};
use crate::machine::Ticket;
use crate::machine::node::Instance;
use crate::metrics::Metrics;
use crate::multi_lock::{MultiLockActor, MultiLockActorMessage, MultiLockArguments, MultiLockReport};
use crate::path::{PathArguments, PathNotice, PathReport};
use crate::record::Recording;
use crate::runtime::clock::Clock;
use crate::runtime::random::Randomness;
use crate::runtime::tasks::Tasks;
use crate::semaphore::{SemaphoreActor, SemaphoreActorMessage};
use crate::session::{Connection, SessionNews, SessionNotice};

pub(crate) struct RegistryActor;

pub(crate) struct RegistryArguments {
    pub clock: Clock,
    pub randomness: Randomness,
    pub metrics: Metrics,
    pub recording: Option<Recording>,
}

pub(crate) enum RegistryActorMessage {
    Public(RegistryMessage),
    Session(SessionNotice),
    Path(PathReport),
    MultiLock(MultiLockReport),
    /// Nothing is left of the actor of this instance, which died.
    Gone(Instance),
    /// Its nodes are deleted.
    Swept(Instance),
    /// Announce the session of this epoch to the next actors.
    Announce(u64),
    /// Refuse new requests, and reply once all actors have ended.
    Close(RpcReplyPort<()>),
}

accepts!(RegistryActorMessage:
    Public(RegistryMessage), Session(SessionNotice), Path(PathReport), MultiLock(MultiLockReport));

pub(crate) struct State {
    myself: ActorRef<RegistryActorMessage>,
    /// The same address, as paths know it.
    reports: DerivedActorRef<PathReport>,
    clock: Clock,
    randomness: Randomness,
    metrics: Metrics,
    recording: Option<Recording>,
    locks: Paths<LockActorMessage>,
    semaphores: Paths<SemaphoreActorMessage>,
    multi_locks: BTreeMap<Ticket, ActorRef<MultiLockActorMessage>>,
    children: HashMap<ActorId, Child>,
    dead: BTreeMap<Instance, Dead>,
    connection: Option<Connection>,
    suspended: bool,
    /// How many more actors may learn of the session before the next round trip has ended.
    turns: usize,
    /// That round trip has begun.
    pacing: bool,
    /// Tasks that clean up after dead actors, and that pace announcements. Aborted when the session ends.
    tasks: Tasks,
    /// New requests are refused.
    closed: bool,
    closing: Option<RpcReplyPort<()>>,
}

enum Child {
    /// With the actor's task.
    Path(Resource, JoinHandle<()>),
    MultiLock(Ticket),
}

#[ractor::actor(message = RegistryActorMessage, state = State, arguments = RegistryArguments)]
impl RegistryActor {
    async fn pre_start(
        &self,
        myself: ActorRef<RegistryActorMessage>,
        arguments: RegistryArguments,
    ) -> Result<State, ActorProcessingErr> {
        Ok(State {
            reports: myself.get_derived(),
            myself,
            clock: arguments.clock,
            randomness: arguments.randomness,
            metrics: arguments.metrics,
            recording: arguments.recording,
            locks: Paths(BTreeMap::new()),
            semaphores: Paths(BTreeMap::new()),
            multi_locks: BTreeMap::new(),
            children: HashMap::new(),
            dead: BTreeMap::new(),
            connection: None,
            suspended: false,
            turns: 0,
            pacing: false,
            tasks: Tasks::default(),
            closed: false,
            closing: None,
        })
    }

    async fn handle(
        &self,
        _: ActorRef<RegistryActorMessage>,
        message: RegistryActorMessage,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            RegistryActorMessage::Public(message) if state.closed => state.refuse(message),
            RegistryActorMessage::Public(message) => state.public(message).await?,
            RegistryActorMessage::Session(SessionNotice::News(news)) => state.session_news(news),
            RegistryActorMessage::Session(SessionNotice::Missing(paths)) => state.missing(&paths),
            RegistryActorMessage::Path(PathReport::Retired { resource, instance, generation }) => {
                state.retired(&resource, instance, generation)
            }
            RegistryActorMessage::Path(PathReport::Orphaned { epoch, directory, instance, attempt }) => {
                state.delete_orphan(epoch, directory, instance, attempt)
            }
            RegistryActorMessage::MultiLock(report) => state.multi_lock_report(report).await?,
            RegistryActorMessage::Gone(instance) => state.gone(instance),
            RegistryActorMessage::Swept(instance) => drop(state.dead.remove(&instance)),
            RegistryActorMessage::Announce(epoch) => state.announce(epoch),
            RegistryActorMessage::Close(reply) => state.close(reply),
        }
        state.pace();
        state.report_when_closed();
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<RegistryActorMessage>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorTerminated(actor, its_state, reason) => {
                state.died(actor, its_state, &reason.unwrap_or_default()).await?
            }
            SupervisionEvent::ActorFailed(actor, error) => {
                state.died(actor, None, &error.to_string()).await?
            }
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {}
            #[cfg(feature = "cluster")]
            SupervisionEvent::PidLifecycleEvent(_) => {}
        }
        state.report_when_closed();
        Ok(())
    }
}

impl State {
    async fn public(&mut self, message: RegistryMessage) -> Result<(), ActorProcessingErr> {
        match message {
            RegistryMessage::Open(resource) => self.open(resource).await?,
            RegistryMessage::Dropped(resource) => self.dropped(&resource),
            // If the actor has died meanwhile, its supervision event follows, and the caller sees that the message's
            // reply port was dropped.
            RegistryMessage::Lock(path, message) => {
                self.start_lock(&path).await?;
                let (connection, turns) =
                    (self.connection.as_ref(), message.waits().then_some(&mut self.turns));
                self.locks.pass(
                    &path,
                    LockActorMessage::Public(message),
                    connection,
                    self.suspended,
                    turns,
                )?;
            }
            RegistryMessage::Semaphore(path, message) => {
                self.start_semaphore(&path).await?;
                let (connection, turns) =
                    (self.connection.as_ref(), message.waits().then_some(&mut self.turns));
                let message = SemaphoreActorMessage::Public(message);
                self.semaphores.pass(&path, message, connection, self.suspended, turns)?;
            }
            RegistryMessage::MultiLock(MultiLockMessage::Acquire(request)) => {
                self.start_multi_lock(request).await?
            }
            RegistryMessage::Margin(reply) => {
                let margin = self.connection.as_ref().map(|connection| connection.lease.left());
                // The caller may no longer wait.
                let _ = reply.send(margin.unwrap_or_default());
            }
            RegistryMessage::MultiLock(MultiLockMessage::Cancel(ticket)) => self.cancel_multi_lock(ticket),
            RegistryMessage::MultiLock(MultiLockMessage::Release(ticket, reply)) => {
                self.release_multi_lock(ticket, reply)
            }
            RegistryMessage::Inspect(question) => self.inspect(question),
        }
        Ok(())
    }

    /// Questions are answered beside the actors of paths, because most of the paths have none.
    fn inspect(&mut self, question: InspectMessage) {
        let Some(connection) = &self.connection else { return question.refuse(QueryError::Disconnected) };
        self.tasks.spawn(inspect::answer(connection.client.clone(), connection.watches.clone(), question));
    }

    /// After a close, dropped handles and cancels are still processed.
    fn refuse(&mut self, message: RegistryMessage) {
        match message {
            RegistryMessage::Dropped(resource) => self.dropped(&resource),
            RegistryMessage::MultiLock(MultiLockMessage::Cancel(ticket)) => self.cancel_multi_lock(ticket),
            message => message.refuse(),
        }
    }

    async fn open(&mut self, resource: Resource) -> Result<(), ActorProcessingErr> {
        match resource {
            Resource::Lock(path) => self.lock(&path).await?.opened(),
            Resource::Semaphore(path) => self.semaphore(&path).await?.opened(),
        }
        Ok(())
    }

    fn dropped(&mut self, resource: &Resource) {
        match resource {
            Resource::Lock(path) => self.locks.dropped(path),
            Resource::Semaphore(path) => self.semaphores.dropped(path),
        }
    }

    async fn lock(&mut self, path: &Arc<str>) -> Result<&mut Entry<LockActorMessage>, ActorProcessingErr> {
        self.start_lock(path).await?;
        self.locks.get(path)
    }

    async fn start_lock(&mut self, path: &Arc<str>) -> Result<(), ActorProcessingErr> {
        if !self.locks.0.contains_key(path) {
            let entry = self.start(LockActor, Resource::Lock(path.clone())).await?;
            self.locks.0.insert(path.clone(), entry);
        }
        Ok(())
    }

    async fn semaphore(
        &mut self,
        path: &Arc<str>,
    ) -> Result<&mut Entry<SemaphoreActorMessage>, ActorProcessingErr> {
        self.start_semaphore(path).await?;
        self.semaphores.get(path)
    }

    async fn start_semaphore(&mut self, path: &Arc<str>) -> Result<(), ActorProcessingErr> {
        if !self.semaphores.0.contains_key(path) {
            let entry = self.start(SemaphoreActor, Resource::Semaphore(path.clone())).await?;
            self.semaphores.0.insert(path.clone(), entry);
        }
        Ok(())
    }

    async fn start<A>(&mut self, actor: A, resource: Resource) -> Result<Entry<A::Msg>, ActorProcessingErr>
    where
        A: Actor<Arguments = PathArguments, Msg: From<PathNotice>>,
    {
        let instance = Instance::new(self.randomness.next());
        let (registry, recording) = (self.reports.clone(), self.recording.clone());
        let (clock, metrics) = (self.clock, self.metrics.path(resource.path()));
        let arguments =
            PathArguments { resource: resource.clone(), instance, clock, registry, metrics, recording };
        let (actor, task) = Actor::spawn_linked(None, actor, arguments, self.myself.get_cell()).await?;
        self.children.insert(actor.get_id(), Child::Path(resource, task));
        Ok(Entry::new(actor, instance))
    }

    async fn start_multi_lock(&mut self, request: MultiLockRequest) -> Result<(), ActorProcessingErr> {
        let ticket = request.ticket();
        if self.multi_locks.contains_key(&ticket) {
            // Dropping the request reports an error to its sink. The first request with the ticket continues.
            warn!(%ticket, "a ticket was used twice");
            return Ok(());
        }
        let (registry, spread) = (self.myself.get_derived(), self.randomness.next() as u32);
        let (metrics, recording) = (self.metrics.paths(), self.recording.clone());
        let arguments =
            MultiLockArguments { request, registry, clock: self.clock, metrics, spread, recording };
        let supervisor = self.myself.get_cell();
        let (actor, _) = Actor::spawn_linked(None, MultiLockActor, arguments, supervisor).await?;
        self.children.insert(actor.get_id(), Child::MultiLock(ticket));
        self.multi_locks.insert(ticket, actor);
        Ok(())
    }

    fn cancel_multi_lock(&mut self, ticket: Ticket) {
        if let Some(actor) = self.multi_locks.get(&ticket) {
            let _ = actor.cast(MultiLockActorMessage::Cancel);
        }
    }

    /// An unknown ticket is that of a request that has ended. Dropping the reply port reports that.
    fn release_multi_lock(&self, ticket: Ticket, reply: ReleasePort) {
        if let Some(actor) = self.multi_locks.get(&ticket) {
            let _ = actor.cast(MultiLockActorMessage::Release(reply));
        }
    }

    async fn multi_lock_report(&mut self, report: MultiLockReport) -> Result<(), ActorProcessingErr> {
        match report {
            MultiLockReport::Open(path) if !self.closed => self.lock(&path).await?.opened(),
            MultiLockReport::Acquire(_, request, part) if self.closed => {
                drop(part);
                request.refuse(AcquireError::Closed);
            }
            MultiLockReport::Acquire(path, request, part) => {
                self.start_lock(&path).await?;
                let message = LockActorMessage::AcquirePart(Box::new((request, part)));
                self.locks.pass(&path, message, self.connection.as_ref(), self.suspended, None)?;
            }
            MultiLockReport::Cancel(path, ticket) if !self.closed => {
                let cancel = RegistryMessage::Lock(path, LockMessage::Cancel(ticket));
                self.public(cancel).await?;
            }
            MultiLockReport::Release(path, ticket, reply) if !self.closed => {
                let release = RegistryMessage::Lock(path, LockMessage::Release(ticket, Some(reply)));
                self.public(release).await?;
            }
            // Closing releases and cancels everything.
            MultiLockReport::Open(_) | MultiLockReport::Cancel(..) | MultiLockReport::Release(..) => {}
            MultiLockReport::Dropped(path) => self.locks.dropped(&path),
        }
        Ok(())
    }

    fn session_news(&mut self, news: SessionNews) {
        let current = self.connection.as_ref().is_some_and(|connection| connection.epoch == news.epoch());
        match &news {
            // A clone of the connection would keep the session open.
            SessionNews::Connected(_) if self.closed && self.closing.is_none() => return,
            SessionNews::Connected(connection) => {
                self.connection = Some(connection.clone());
                self.suspended = false;
                self.sweep_all();
                return self.announce(connection.epoch);
            }
            SessionNews::Suspended(_) if current => self.suspended = true,
            SessionNews::Resumed(_) if current => self.suspended = false,
            SessionNews::Lost(_) if current => {
                if let Some(connection) = self.connection.take() {
                    connection.lease.lose();
                }
                self.tasks.abort_all();
            }
            // From an earlier session, or a duplicate.
            SessionNews::Suspended(_) | SessionNews::Resumed(_) | SessionNews::Lost(_) => return,
        }
        self.locks.tell(&news);
        self.semaphores.tell(&news);
    }

    /// Announces the session to some of the actors that do not know it. Each sends requests at once, and heartbeats would
    /// wait behind those of thousands.
    fn announce(&mut self, epoch: u64) {
        let Some(connection) = self.connection.as_ref().filter(|c| c.epoch == epoch) else { return };
        (self.turns, self.pacing) = (TURNS, false);
        self.locks.announce(connection, self.suspended, &mut self.turns);
        self.semaphores.announce(connection, self.suspended, &mut self.turns);
    }

    /// Called after every message. When all turns are taken, there are new ones after a round trip.
    fn pace(&mut self) {
        let Some(connection) = self.connection.as_ref().filter(|_| self.turns == 0 && !self.pacing) else {
            return;
        };
        let (answered, epoch, myself) = (connection.client.check(&[]), connection.epoch, self.myself.clone());
        self.pacing = true;
        self.tasks.spawn(async move {
            // The check only paces. If it fails, the next actors learn of the session all the same.
            let _ = answered.await;
            let _ = myself.cast(RegistryActorMessage::Announce(epoch));
        });
    }

    fn missing(&self, paths: &[String]) {
        let mut by_directory: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (directory, name) in paths.iter().filter_map(|path| path.rsplit_once('/')) {
            by_directory.entry(directory).or_default().push(name.to_owned());
        }
        for (directory, names) in by_directory {
            for resource in Resource::owners(directory) {
                self.notify(&resource, PathNotice::Missing(names.clone()));
            }
        }
    }

    fn notify(&self, resource: &Resource, notice: PathNotice) {
        match resource {
            Resource::Lock(path) => self.locks.notify(path, notice),
            Resource::Semaphore(path) => self.semaphores.notify(path, notice),
        }
    }

    fn retired(&mut self, resource: &Resource, instance: Instance, generation: u64) {
        let actor = match resource {
            Resource::Lock(path) => self.locks.take_retired(path, instance, generation, self.closed),
            Resource::Semaphore(path) => {
                self.semaphores.take_retired(path, instance, generation, self.closed)
            }
        };
        if let Some(actor) = actor {
            self.children.remove(&actor.get_id());
            actor.stop(None);
        }
    }

    /// Cleans up after an actor that ended without retiring. Dropping its state marks its leases as `Lost` and reports
    /// an error to its callers. Its nodes are left, and are found by its instance.
    async fn died(
        &mut self,
        actor: ActorCell,
        state: Option<BoxedState>,
        reason: &str,
    ) -> Result<(), ActorProcessingErr> {
        let (resource, task) = match self.children.remove(&actor.get_id()) {
            Some(Child::Path(resource, task)) => (resource, task),
            Some(Child::MultiLock(ticket)) => {
                // Dropping its state cancels and releases all its parts.
                self.multi_locks.remove(&ticket);
                return Ok(());
            }
            None => return Ok(()),
        };
        let removed = match &resource {
            Resource::Lock(path) => self.locks.remove(path),
            Resource::Semaphore(path) => self.semaphores.remove(path),
        };
        let Some((instance, handles, generation)) = removed else { return Ok(()) };
        warn!(path = %resource.path(), reason, "the actor of a path died");
        self.bury(resource.clone(), instance, state, task);
        if handles > 0 && !self.closed {
            match resource {
                Resource::Lock(path) => self.lock(&path).await?.inherit(handles, generation),
                Resource::Semaphore(path) => self.semaphore(&path).await?.inherit(handles, generation),
            }
        }
        Ok(())
    }

    fn close(&mut self, reply: RpcReplyPort<()>) {
        (self.closed, self.closing) = (true, Some(reply));
        self.locks.close();
        self.semaphores.close();
        for multi_lock in self.multi_locks.values() {
            let _ = multi_lock.cast(MultiLockActorMessage::Close);
        }
    }

    fn report_when_closed(&mut self) {
        if self.locks.0.is_empty() && self.semaphores.0.is_empty() && self.multi_locks.is_empty() {
            if let Some(reply) = self.closing.take() {
                self.connection = None;
                self.tasks.abort_all();
                self.leave_behind();
                let _ = reply.send(());
            }
        }
    }
}

/// How many actors learn of the session in one round trip.
const TURNS: usize = 256;
