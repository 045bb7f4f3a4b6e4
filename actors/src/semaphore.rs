//! The actor of one semaphore: carries out its machine's commands.

mod root;

use std::sync::Arc;

use ractor::{ActorProcessingErr, ActorRef};
use tracing::debug;

use crate::api::error::QueryError;
use crate::api::lease::{Grantor, Regroup, Release};
use crate::api::messages::SemaphoreMessage;
use crate::api::request::{AcquireRequest, Permits};
use crate::inspect;
use crate::machine::node::{Attempt, Znode};
use crate::machine::semaphore::{
    Command, Event, Leases, Part, PermitRequest, Reading, Root, Semaphore, TakeFailure,
};
use crate::machine::{Failure, PathEvent, Ticket};
use crate::metrics::Kind;
use crate::path::{Driver, NewWatch, Path, PathArguments, PathMessage, PathNotice, WatchKey};
use crate::session::SetWatch;
use crate::zookeeper::{Answer, NewNode, TakeRequest};

pub(crate) struct SemaphoreActor;

pub(crate) enum SemaphoreActorMessage {
    Public(SemaphoreMessage),
    Release(Release),
    Regroup(Regroup),
    Path(PathMessage<Event>),
    Notice(PathNotice),
}

accepts!(SemaphoreActorMessage: Release(Release), Regroup(Regroup), Path(PathMessage<Event>), Notice(PathNotice));

pub(crate) struct State {
    path: Path<Semaphore>,
}

#[ractor::actor(message = SemaphoreActorMessage, state = State, arguments = PathArguments)]
impl SemaphoreActor {
    async fn pre_start(
        &self,
        myself: ActorRef<SemaphoreActorMessage>,
        arguments: PathArguments,
    ) -> Result<State, ActorProcessingErr> {
        let machine = Semaphore::new(arguments.instance);
        let grantor = Grantor { releases: myself.get_derived(), regroups: Some(myself.get_derived()) };
        Ok(State { path: Path::new(arguments, machine, myself.get_derived(), grantor) })
    }

    async fn handle(
        &self,
        _: ActorRef<SemaphoreActorMessage>,
        message: SemaphoreActorMessage,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            SemaphoreActorMessage::Public(message) => state.public(message),
            SemaphoreActorMessage::Release(Release { ticket, reply }) => state.release(ticket, reply),
            SemaphoreActorMessage::Regroup(regroup) => state.regroup(regroup),
            SemaphoreActorMessage::Path(message) => state.message(message),
            SemaphoreActorMessage::Notice(notice) => state.notice(notice),
        }
        state.after_message();
        Ok(())
    }
}

impl Driver for State {
    type Event = Event;
    type Machine = Semaphore;

    fn path(&mut self) -> &mut Path<Semaphore> {
        &mut self.path
    }

    fn execute(&mut self, command: Command) {
        match command {
            Command::Mutex(command) => self.path.execute(command),
            Command::ReadState { read, sync, root, leases } => self.read_state(read, sync, root, leases),
            Command::UnwatchState => {
                self.path.watches.remove(&WatchKey::Part(Part::Root));
                self.path.watches.remove(&WatchKey::Part(Part::Leases));
            }
            Command::MakeRoot { read, ticket, limit } => {
                let (Some(options), root) = (self.path.options(ticket), self.root()) else { return };
                self.path.submit(
                    |zk| Box::pin(root::make(zk.client.clone(), root, limit, options)),
                    move |result| Event::RootMade(read, result),
                );
            }
            Command::Take { take, version, mutex, keep, leases } => {
                self.take(take, version, &mutex, keep, &leases)
            }
            Command::FindLeases(take) => {
                let root = self.root();
                self.path.submit(
                    |zk| {
                        debug!(path = %root, epoch = zk.epoch, "the outcome of a take is unknown");
                        let (sync, list) = (zk.client.sync(&root), zk.client.children(&root));
                        Box::pin(async move { sync.await.and(list.await) })
                    },
                    move |result| Event::LeasesFound(take, result),
                );
            }
            Command::DeleteLease(lease) => {
                let node = self.lease_path(&lease);
                self.path.submit(
                    |zk| {
                        zk.nodes.untrack(&node);
                        zk.client.delete(&node)
                    },
                    move |result| Event::LeaseDeleted(lease, result),
                );
            }
            Command::TrackLease(lease) => {
                if let Some(session) = &self.path.session {
                    session.connection.nodes.track(self.lease_path(&lease));
                }
            }
            Command::Grant { ticket, leases, czxid } => {
                let nodes: Vec<String> = leases.iter().map(|lease| self.lease_path(lease)).collect();
                let first = nodes.first().cloned().unwrap_or_default();
                self.path.grant(ticket, first, nodes, czxid);
            }
            Command::Merged { ticket, into } => self.path.merged(ticket, into),
            Command::Reply(reply) => self.path.reply(reply),
        }
    }
}

impl State {
    fn public(&mut self, message: SemaphoreMessage) {
        match message {
            SemaphoreMessage::Acquire(request, permits) => self.acquire(request, permits),
            SemaphoreMessage::Cancel(ticket) => self.feed(PathEvent::Cancel(ticket)),
            SemaphoreMessage::Release(ticket, reply) => self.release(ticket, reply),
            SemaphoreMessage::LeaseHolders(reply) => {
                let (root, disconnected) = (self.root(), QueryError::Disconnected);
                self.path.ask(reply, disconnected, |client| inspect::lease_holders(client, root));
            }
            SemaphoreMessage::State(reply) => {
                let (root, disconnected) = (self.root(), QueryError::Disconnected);
                self.path.ask(reply, disconnected, |client| inspect::semaphore_state(client, root));
            }
            SemaphoreMessage::Resize(limit, options, reply) => {
                let (root, disconnected) = (self.root(), QueryError::Disconnected.into());
                self.path.ask(reply, disconnected, |client| root::resize(client, root, limit, options));
            }
        }
    }

    fn acquire(&mut self, request: AcquireRequest, Permits { count, limit, agreed }: Permits) {
        let (ticket, wait, max_waiting) = (request.ticket, request.wait, request.max_waiting());
        let bytes = request.options.bytes(self.path.resource.path());
        if self.path.accept(request.counted_as(Some(Kind::Semaphore)), max_waiting) {
            let request = PermitRequest { count, limit, agreed, bytes, wait };
            self.feed(Event::Acquire { ticket, request });
        }
    }

    fn regroup(&mut self, regroup: Regroup) {
        match regroup {
            Regroup::Split { ticket, nodes, part } => {
                let into = part.ticket();
                if self.path.split(ticket, part) {
                    let name = |node: &String| node.rsplit('/').next().map(str::to_owned);
                    let leases = nodes.iter().filter_map(name).collect();
                    self.feed(Event::Split { ticket, into, leases });
                }
            }
            Regroup::Merge { ticket, into } => self.feed(Event::Merge { ticket, into }),
        }
    }

    /// Sends all requests without waiting for an answer in between.
    fn read_state(&mut self, read: Attempt, sync: bool, root: Reading, leases: Reading) {
        let path = self.root();
        let Some(session) = &self.path.session else { return };
        for (part, reading) in [(Part::Root, root), (Part::Leases, leases)] {
            if reading == Reading::Watch {
                // The watch of an earlier read stays until the new one replaces it.
                self.path.watches.want(WatchKey::Part(part));
            }
        }
        let (epoch, client, watches) =
            (session.connection.epoch, &session.connection.client, &session.connection.watches);
        let sync = sync.then(|| client.sync(&path));
        let root: Option<Answer<Found<Root>>> = match root {
            Reading::Skip => None,
            Reading::Once => Some(unwatched(client.read_root(&path))),
            Reading::Watch => Some(watched(watches.root(&path))),
        };
        let leases: Option<Answer<Found<Leases>>> = match leases {
            Reading::Skip => None,
            Reading::Once => Some(unwatched(client.leases(&path))),
            Reading::Watch => Some(watched(watches.children(&path))),
        };
        let retries = self.path.metrics.retries();
        self.path.expect(async move {
            let synced = match sync {
                Some(answer) => answer.await,
                None => Ok(()),
            };
            let mut new_watches = Vec::new();
            let mut keep = |part, watch: Option<SetWatch>| {
                new_watches.extend(watch.filter(|_| synced.is_ok()).map(|watch| NewWatch {
                    key: WatchKey::Part(part),
                    watch,
                    event: Box::new(move |_| Event::Changed { read, part }),
                }))
            };
            let (mut root_found, mut leases_found) = (None, None);
            if let Some(answer) = root {
                let (found, watch) = split(answer.await);
                keep(Part::Root, watch);
                root_found = Some(synced.clone().and(found));
            }
            if let Some(answer) = leases {
                let (found, watch) = split(answer.await);
                keep(Part::Leases, watch);
                leases_found = Some(synced.clone().and(found));
            }
            let failed = root_found.as_ref().and_then(|found| found.as_ref().err());
            let failed = failed.or(leases_found.as_ref().and_then(|found| found.as_ref().err()));
            if let Some(failure) = failed {
                retries.failed(failure);
            }
            let event = Event::StateRead { read, root: root_found, leases: leases_found };
            PathMessage::Answer(epoch, event, new_watches)
        });
    }

    fn take(&mut self, take: Attempt, version: i32, mutex: &Znode, keep: bool, leases: &[(Ticket, String)]) {
        let Some(session) = &self.path.session else { return };
        let (epoch, root, mutex) = (session.connection.epoch, self.root(), self.path.node_path(mutex));
        let wanted: Vec<_> = (leases.iter())
            .filter_map(|(ticket, lease)| Some((self.path.options(*ticket)?, self.lease_path(lease))))
            .collect();
        let nodes: Vec<NewNode<'_>> = (wanted.iter())
            .map(|(options, path)| NewNode { path, data: &options.identifier, acl: &options.acl })
            .collect();
        if !keep {
            session.connection.nodes.untrack(&mutex);
        }
        let request = TakeRequest { mutex: &mutex, keep, root: (&root, version), leases: &nodes };
        let answer = session.connection.client.take(request);
        let retries = self.path.metrics.retries();
        self.path.expect(async move {
            let taken = answer.await;
            if let Err(TakeFailure::Failed(failure)) = &taken {
                retries.failed(failure);
            }
            PathMessage::Answer(epoch, Event::Taken(take, taken), Vec::new())
        });
    }

    fn root(&self) -> Arc<str> {
        self.path.resource.path().clone()
    }

    fn lease_path(&self, lease: &str) -> String {
        format!("{}/{lease}", self.path.resource.path())
    }
}

/// A part of the state, and the watch that was set when it was read.
type Found<T> = (T, Option<SetWatch>);

fn unwatched<T: Send + 'static>(answer: Answer<T>) -> Answer<Found<T>> {
    Box::pin(async move { Ok((answer.await?, None)) })
}

fn watched<T: Send + 'static>(answer: Answer<(T, SetWatch)>) -> Answer<Found<T>> {
    Box::pin(async move { answer.await.map(|(found, watch)| (found, Some(watch))) })
}

fn split<T>(answer: Result<Found<T>, Failure>) -> (Result<T, Failure>, Option<SetWatch>) {
    match answer {
        Ok((found, watch)) => (Ok(found), watch),
        Err(failure) => (Err(failure), None),
    }
}
