//! The supervisor of the lock actors: finds or makes the actor of a path, ends the idle ones, and cleans up after
//! one that died.

use std::collections::{BTreeMap, HashMap};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::join_all;
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};
use tokio::task::JoinSet;
use tracing::{debug, warn};

use crate::api::error::{AcquireError, ContendersError, ResizeError};
use crate::api::messages::{LockEvent, LockMessage, Place, Refused};
use crate::lock::{LockActor, LockActorMessage, LockArguments};
use crate::machine::backoff::Rests;
use crate::machine::lock::protocol::Failure;
use crate::machine::lock::protocol::Ticket;
use crate::machine::node::Instance;
use crate::multi_lock::{MultiActor, MultiActorMessage, MultiArguments, MultiMessage};
use crate::runtime::clock::Clock;
use crate::runtime::random::Randomness;
use crate::session::{Connection, SessionNews};
use crate::zookeeper::ZooKeeper;

/// To the supervisor of the lock actors.
pub enum PrimitivesMessage {
    /// A handle of this place was made.
    Open(Place),
    /// A handle of this place is gone.
    Dropped(Place),
    /// For the actor of this place.
    Lock(Place, LockMessage),
    /// For whoever acquires several paths at once.
    Multi(MultiMessage),
    #[doc(hidden)]
    #[allow(private_interfaces)]
    Session(SessionNews),
    #[doc(hidden)]
    Missing(Vec<String>),
    #[doc(hidden)]
    Retired { place: Place, generation: u64 },
    /// Nodes of actors that died before they were made.
    #[doc(hidden)]
    Orphaned { epoch: u64, nodes: Vec<String> },
    #[doc(hidden)]
    Close(RpcReplyPort<()>),
}

#[cfg(feature = "cluster")]
impl ractor::Message for PrimitivesMessage {}

pub(crate) struct PrimitivesActor;

pub(crate) struct PrimitivesArguments {
    pub clock: Clock,
    pub randomness: Randomness,
}

pub(crate) struct State {
    clock: Clock,
    randomness: Randomness,
    locks: BTreeMap<Place, Entry>,
    places: HashMap<ActorId, Place>,
    multis: BTreeMap<Ticket, ActorRef<MultiActorMessage>>,
    tickets: HashMap<ActorId, Ticket>,
    connection: Option<Connection>,
    suspended: bool,
    /// Cleaning up after actors that died. Ended with the session, which takes their nodes away.
    sweeps: JoinSet<()>,
    /// New work is refused.
    closed: bool,
    closing: Option<RpcReplyPort<()>>,
}

struct Entry {
    actor: ActorRef<LockActorMessage>,
    instance: Instance,
    handles: usize,
    /// Counts the handles ever made, so that an actor's word that it is idle can be too old.
    generation: u64,
}

#[ractor::actor(message = PrimitivesMessage, state = State, arguments = PrimitivesArguments)]
impl PrimitivesActor {
    async fn pre_start(
        &self,
        _myself: ActorRef<PrimitivesMessage>,
        arguments: PrimitivesArguments,
    ) -> Result<State, ActorProcessingErr> {
        Ok(State {
            clock: arguments.clock,
            randomness: arguments.randomness,
            locks: BTreeMap::new(),
            places: HashMap::new(),
            multis: BTreeMap::new(),
            tickets: HashMap::new(),
            connection: None,
            suspended: false,
            sweeps: JoinSet::new(),
            closed: false,
            closing: None,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<PrimitivesMessage>,
        message: PrimitivesMessage,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            PrimitivesMessage::Open(_) if state.closed => {}
            PrimitivesMessage::Open(place) => {
                let entry = state.entry(place, &myself).await?;
                entry.handles += 1;
                entry.generation += 1;
            }
            PrimitivesMessage::Dropped(place) => {
                if let Some(entry) = state.locks.get_mut(&place) {
                    entry.handles = entry.handles.saturating_sub(1);
                    if entry.handles == 0 {
                        let _ = entry.actor.cast(LockActorMessage::Retire(entry.generation));
                    }
                }
            }
            PrimitivesMessage::Lock(place, message) => match state.closed {
                true => refuse(message),
                false => {
                    let entry = state.entry(place, &myself).await?;
                    // An actor that has died meanwhile is told of by its supervision event; the message's reply
                    // ports say so when they are dropped.
                    let _ = entry.actor.cast(LockActorMessage::Public(message));
                }
            },
            PrimitivesMessage::Multi(message) => state.multi(message, &myself).await?,
            PrimitivesMessage::Session(news) => state.session(news),
            PrimitivesMessage::Missing(paths) => state.missing(&paths),
            PrimitivesMessage::Retired { place, generation } => {
                let retired = (state.locks.get(&place))
                    .filter(|entry| state.closed || entry.handles == 0)
                    .filter(|entry| entry.generation == generation)
                    .map(|entry| entry.actor.clone());
                if let Some(actor) = retired {
                    state.locks.remove(&place);
                    state.places.remove(&actor.get_id());
                    actor.stop(None);
                }
            }
            PrimitivesMessage::Orphaned { epoch, nodes } => state.delete_orphans(epoch, nodes),
            PrimitivesMessage::Close(reply) => {
                (state.closed, state.closing) = (true, Some(reply));
                for entry in state.locks.values() {
                    let _ = entry.actor.cast(LockActorMessage::Close);
                    let _ = entry.actor.cast(LockActorMessage::Retire(entry.generation));
                }
                for multi in state.multis.values() {
                    let _ = multi.cast(MultiActorMessage::Close);
                }
            }
        }
        state.close_when_empty();
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<PrimitivesMessage>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorTerminated(actor, _, reason) => {
                state.died(actor, &reason.unwrap_or_default(), &myself).await?
            }
            SupervisionEvent::ActorFailed(actor, error) => {
                state.died(actor, &error.to_string(), &myself).await?
            }
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {}
            #[cfg(feature = "cluster")]
            SupervisionEvent::PidLifecycleEvent(_) => {}
        }
        state.close_when_empty();
        Ok(())
    }
}

impl State {
    async fn entry(
        &mut self,
        place: Place,
        myself: &ActorRef<PrimitivesMessage>,
    ) -> Result<&mut Entry, ActorProcessingErr> {
        if !self.locks.contains_key(&place) {
            let entry = self.spawn(place.clone(), myself).await?;
            self.places.insert(entry.actor.get_id(), place.clone());
            self.locks.insert(place.clone(), entry);
        }
        self.locks.get_mut(&place).ok_or_else(|| "an entry that was made is there".into())
    }

    async fn multi(
        &mut self,
        message: MultiMessage,
        myself: &ActorRef<PrimitivesMessage>,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            MultiMessage::Acquire(request) if self.closed => request.refuse(AcquireError::Closed),
            MultiMessage::Acquire(request) if self.multis.contains_key(&request.ticket()) => {
                // The listener says that it was not served; the first use of the ticket goes on.
                warn!(ticket = %request.ticket(), "a ticket was used twice");
            }
            MultiMessage::Acquire(request) => {
                let (ticket, spread) = (request.ticket(), self.randomness.next() as u32);
                let arguments =
                    MultiArguments { request, primitives: myself.clone(), clock: self.clock, spread };
                let (actor, _) = Actor::spawn_linked(None, MultiActor, arguments, myself.get_cell()).await?;
                self.tickets.insert(actor.get_id(), ticket);
                self.multis.insert(ticket, actor);
            }
            MultiMessage::Cancel(ticket) => {
                if let Some(actor) = self.multis.get(&ticket) {
                    let _ = actor.cast(MultiActorMessage::Cancel);
                }
            }
        }
        Ok(())
    }

    async fn spawn(
        &self,
        place: Place,
        myself: &ActorRef<PrimitivesMessage>,
    ) -> Result<Entry, ActorProcessingErr> {
        let instance = Instance::new(self.randomness.next());
        let arguments = LockArguments { place, instance, clock: self.clock, primitives: myself.clone() };
        let (actor, _) = Actor::spawn_linked(None, LockActor, arguments, myself.get_cell()).await?;
        if let Some(connection) = &self.connection {
            actor.cast(LockActorMessage::Session(SessionNews::Connected(connection.clone())))?;
            if self.suspended {
                actor.cast(LockActorMessage::Session(SessionNews::Suspended(connection.epoch)))?;
            }
        }
        Ok(Entry { actor, instance, handles: 0, generation: 0 })
    }

    fn session(&mut self, news: SessionNews) {
        let current = self.connection.as_ref().map(|connection| connection.epoch);
        match &news {
            // A clone would keep the session from being closed.
            SessionNews::Connected(_) if self.closed && self.closing.is_none() => return,
            SessionNews::Connected(connection) => {
                self.connection = Some(connection.clone());
                self.suspended = false;
            }
            SessionNews::Suspended(_) => self.suspended = true,
            SessionNews::Resumed(_) => self.suspended = false,
            SessionNews::Lost(epoch) if current == Some(*epoch) => {
                if let Some(connection) = self.connection.take() {
                    connection.lease.lose();
                }
                self.sweeps.abort_all();
            }
            SessionNews::Lost(_) => {}
        }
        for entry in self.locks.values() {
            let _ = entry.actor.cast(LockActorMessage::Session(news.clone()));
        }
    }

    fn missing(&self, paths: &[String]) {
        let mut by_directory: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (directory, name) in paths.iter().filter_map(|path| path.rsplit_once('/')) {
            by_directory.entry(directory).or_default().push(name.to_owned());
        }
        for (directory, names) in by_directory {
            for entry in Place::owners(directory).filter_map(|place| self.locks.get(&place)) {
                let _ = entry.actor.cast(LockActorMessage::Missing(names.clone()));
            }
        }
    }

    /// A lock actor that did not retire: its leases read `Lost` and its callers were told when its state was
    /// dropped; what is left are its nodes, which its instance names.
    async fn died(
        &mut self,
        actor: ActorCell,
        reason: &str,
        myself: &ActorRef<PrimitivesMessage>,
    ) -> Result<(), ActorProcessingErr> {
        if let Some(ticket) = self.tickets.remove(&actor.get_id()) {
            // Whatever it had asked for, it has given back.
            self.multis.remove(&ticket);
        }
        let Some(place) = self.places.remove(&actor.get_id()) else { return Ok(()) };
        let Some(entry) = self.locks.remove(&place) else { return Ok(()) };
        warn!(path = %place.path, reason, "a lock actor died");
        if let Some(connection) = &self.connection {
            while self.sweeps.try_join_next().is_some() {}
            for directory in place.directories() {
                connection.nodes.untrack_all(&directory, entry.instance);
                let (client, instance) = (connection.client.clone(), entry.instance);
                self.sweeps.spawn(async move {
                    // Nobody watches over this, and the node would block the path for as long as the session lives.
                    let again = || {
                        AssertUnwindSafe(sweep(client.clone(), directory.clone(), instance)).catch_unwind()
                    };
                    let mut rests = Rests::new(instance.spread());
                    while again().await.is_err() {
                        warn!(path = %directory, "cleaning up after a dead actor panicked, and begins anew");
                        tokio::time::sleep(rests.next()).await;
                    }
                });
            }
        }
        if entry.handles > 0 && !self.closed {
            let again = self.entry(place, myself).await?;
            (again.handles, again.generation) = (entry.handles, entry.generation);
        }
        Ok(())
    }

    fn delete_orphans(&mut self, epoch: u64, nodes: Vec<String>) {
        let Some(connection) = self.connection.as_ref().filter(|c| c.epoch == epoch) else { return };
        while self.sweeps.try_join_next().is_some() {}
        for node in nodes {
            let spread = self.randomness.next() as u32;
            self.sweeps.spawn(delete(connection.client.clone(), node, spread));
        }
    }

    fn close_when_empty(&mut self) {
        if self.locks.is_empty() && self.multis.is_empty() {
            if let Some(reply) = self.closing.take() {
                self.connection = None;
                self.sweeps.abort_all();
                let _ = reply.send(());
            }
        }
    }
}

/// Deletes the nodes of a dead actor. Its requests were sent before, on the same connection, so a listing that
/// shows none of them is the last word.
async fn sweep(client: Arc<dyn ZooKeeper>, path: Arc<str>, instance: Instance) {
    let mut rests = Rests::new(instance.spread());
    loop {
        let (sync, children) = (client.sync(&path), client.children(&path));
        match sync.await.and(children.await) {
            Ok(children) => {
                let mut nodes =
                    children.into_iter().filter(|name| instance.attempt(name).is_some()).peekable();
                if nodes.peek().is_none() {
                    return;
                }
                debug!(%path, "cleaning up after a dead actor");
                let nodes = nodes.map(|name| format!("{path}/{name}"));
                join_all(nodes.map(|node| delete(client.clone(), node, instance.spread()))).await;
            }
            Err(Failure::NoNode | Failure::SessionGone) => return,
            Err(Failure::Unknown(_) | Failure::NoAuth | Failure::Refused(_)) => {
                tokio::time::sleep(rests.next()).await;
            }
        }
    }
}

/// Tries until the node is gone, or the session, which takes it away.
async fn delete(client: Arc<dyn ZooKeeper>, node: String, spread: u32) {
    let mut rests = Rests::new(spread);
    loop {
        match client.delete(&node).await {
            Ok(()) | Err(Failure::NoNode | Failure::SessionGone) => return,
            Err(Failure::Unknown(_) | Failure::NoAuth | Failure::Refused(_)) => {
                tokio::time::sleep(rests.next()).await;
            }
        }
    }
}

/// Answers what comes too late.
pub fn refuse(message: LockMessage) {
    match message {
        LockMessage::Acquire(request) => {
            let refused = Refused::Failed(AcquireError::Closed);
            request.listener.conclude(LockEvent::Refused(request.ticket, refused));
        }
        LockMessage::Contenders(_, reply) => answer(reply, ContendersError::Closed),
        LockMessage::First(_, _, reply) => answer(reply.into(), ContendersError::Closed),
        LockMessage::RemoveContender(_, reply) => answer(reply, ContendersError::Closed),
        LockMessage::LeaseHolders(reply) => answer(reply, ContendersError::Closed),
        LockMessage::Resize(_, _, reply) => answer(reply, ResizeError::Closed),
        // A release that is not confirmed is one of a lost lease: its reply port says so when it is dropped.
        LockMessage::Cancel(_) | LockMessage::Release(..) => {}
    }
}

fn answer<T, E>(reply: RpcReplyPort<Result<T, E>>, error: E) {
    // Who does not wait for it any more need not be told.
    let _ = reply.send(Err(error));
}
