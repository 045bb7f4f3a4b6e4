//! The actor of one lock: carries out its machine's commands.

pub(crate) mod joint_create;
mod shared_options;

use std::collections::BTreeMap;

use futures::future::{Either, select};
use ractor::{ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::sync::oneshot;

use self::joint_create::{Entrant, JointCreate, LockPart};
use self::shared_options::SharedOptions;
use crate::api::contender::{Contender, Known};
use crate::api::error::{AdvertiseError, QueryError};
use crate::api::lease::{Grantor, Release};
use crate::api::messages::LockMessage;
use crate::api::request::AcquireRequest;
use crate::inspect;
use crate::machine::linger::{Command, Event, LineId, LingeringLock, SharedRequest};
use crate::machine::lock::{self, Request};
use crate::machine::node::Attempt;
use crate::machine::patterns::Patterns;
use crate::machine::{PathEvent, Reply, Ticket};
use crate::path::{Driver, NewWatch, Path, PathArguments, PathMessage, PathNotice, WatchKey};

pub(crate) struct LockActor;

pub(crate) enum LockActorMessage {
    Public(LockMessage),
    /// A request that is one part of a multi-lock. Boxed, because an actor at rest has room for its largest message.
    AcquirePart(Box<(AcquireRequest, LockPart)>),
    /// Creates the nodes of a multi-lock, among them a node of this lock.
    JointCreate(JointCreate),
    Release(Release),
    Path(PathMessage<Event>),
    Notice(PathNotice),
}

accepts!(LockActorMessage: Release(Release), Path(PathMessage<Event>), Notice(PathNotice), JointCreate(JointCreate));

pub(crate) struct State {
    path: Path<LingeringLock>,
    myself: ActorRef<LockActorMessage>,
    /// The requests that are parts of multi-locks.
    parts: BTreeMap<Ticket, LockPart>,
    /// Callers who wait until the node of a request has its new data.
    identifying: Vec<(Ticket, AdvertisePort)>,
    options: SharedOptions,
    /// Callers who wait until the idle nodes are gone.
    letting_go: BTreeMap<Ticket, RpcReplyPort<Result<(), QueryError>>>,
}

type AdvertisePort = RpcReplyPort<Result<(), AdvertiseError>>;

#[ractor::actor(message = LockActorMessage, state = State, arguments = PathArguments)]
impl LockActor {
    async fn pre_start(
        &self,
        myself: ActorRef<LockActorMessage>,
        arguments: PathArguments,
    ) -> Result<State, ActorProcessingErr> {
        let machine = LingeringLock::new(arguments.instance);
        let grantor = Grantor { releases: myself.get_derived(), regroups: None };
        let path = Path::new(arguments, machine, myself.get_derived(), grantor);
        Ok(State {
            path,
            myself,
            parts: BTreeMap::new(),
            identifying: Vec::new(),
            options: SharedOptions::default(),
            letting_go: BTreeMap::new(),
        })
    }

    async fn handle(
        &self,
        _: ActorRef<LockActorMessage>,
        message: LockActorMessage,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            LockActorMessage::Public(message) => state.public(message),
            LockActorMessage::AcquirePart(part) => {
                let (request, part) = *part;
                state.acquire(request, Some(part))
            }
            LockActorMessage::JointCreate(create) => state.create_jointly(create),
            LockActorMessage::Release(Release { ticket, reply }) => state.release(ticket, reply),
            LockActorMessage::Path(message) => state.message(message),
            LockActorMessage::Notice(notice) => {
                let retires = matches!(notice, PathNotice::Retire(_));
                state.notice(notice);
                if retires {
                    state.feed(Event::Retire);
                }
            }
        }
        state.write_identifiers();
        state.after_message();
        Ok(())
    }
}

impl Driver for State {
    type Event = Event;
    type Machine = LingeringLock;

    fn path(&mut self) -> &mut Path<LingeringLock> {
        &mut self.path
    }

    fn execute(&mut self, command: Command) {
        match command {
            Command::Queue(lock::Command::CreateAndList(attempt, ticket))
                if self.parts.contains_key(&ticket) =>
            {
                self.offer(attempt, ticket)
            }
            Command::Queue(lock::Command::Reply(Reply::Forgotten { ticket, confirmed })) => {
                self.parts.remove(&ticket);
                if let Some(reply) = self.letting_go.remove(&ticket) {
                    let _ = reply.send(if confirmed { Ok(()) } else { Err(QueryError::Disconnected) });
                }
                self.path.reply(Reply::Forgotten { ticket, confirmed });
            }
            Command::Queue(command) => self.path.execute(command),
            Command::Follow(line) => self.follow(line),
            Command::Unfollow(line) => self.path.watches.remove(&WatchKey::Children(line)),
        }
    }
}

impl State {
    fn public(&mut self, message: LockMessage) {
        let disconnected = QueryError::Disconnected;
        match message {
            LockMessage::Acquire(request) => self.acquire(request, None),
            LockMessage::Cancel(ticket) => self.feed(PathEvent::Cancel(ticket)),
            LockMessage::Release(ticket, reply) => self.release(ticket, reply),
            LockMessage::Contenders(patterns, reply) => {
                let path = self.path.directory.clone();
                self.path.ask(reply, disconnected, |client| inspect::contenders(client, path, patterns));
            }
            LockMessage::First(patterns, known, reply) => self.follow_first(patterns, known, reply),
            LockMessage::SetIdentifier(ticket, identifier, reply) => {
                self.path.set_identifier(ticket, identifier);
                self.identifying.push((ticket, reply));
            }
            LockMessage::RemoveContender(contender, reply) => {
                let path = self.path.directory.clone();
                self.path.ask(reply, disconnected.into(), |client| inspect::remove(client, path, contender));
            }
            LockMessage::LetGo(reply) => {
                let ticket = Ticket::new();
                self.letting_go.insert(ticket, reply);
                self.feed(Event::LetGo(ticket));
            }
        }
    }

    fn acquire(&mut self, request: AcquireRequest, part: Option<LockPart>) {
        let (ticket, wait, options) = (request.ticket, request.wait, request.options.clone());
        // A later round of a multi-lock was admitted in its first round.
        let again = part.as_ref().is_some_and(|part| part.again);
        let limit = request.max_waiting().filter(|_| !again);
        if self.path.accept(request, limit) {
            let joint = part.is_some();
            self.parts.extend(part.map(|part| (ticket, part)));
            let request = Request {
                mode: options.mode,
                dialect: options.dialect,
                patterns: options.patterns.clone(),
                ephemeral: options.ephemeral,
                joint,
                bytes: options.bytes(&self.path.directory),
                wait,
            };
            match options.linger.filter(|_| !joint && options.ephemeral) {
                Some(linger) => {
                    let request = SharedRequest { request, options: self.options.number(&options), linger };
                    self.feed(Event::Share { ticket, request });
                }
                None => self.feed(lock::Event::Acquire { ticket, request }),
            }
        }
    }

    /// Lists the directory, and watches its children.
    fn follow(&mut self, line: LineId) {
        let Some(session) = &self.path.session else { return };
        let key = WatchKey::Children(line);
        self.path.watches.want(key.clone());
        let (epoch, watches) = (session.connection.epoch, &session.connection.watches);
        let answer = watches.children_at_once(&self.path.directory);
        let retries = self.path.metrics.retries();
        self.path.expect(async move {
            let answered = answer.await;
            retries.count(&answered);
            match answered {
                Ok((found, watch)) => {
                    let event = Box::new(move |_| Event::ChildrenChanged(line));
                    let watch = NewWatch { key, watch, event };
                    PathMessage::Answer(epoch, Event::Followed(line, Ok(found.names)), vec![watch])
                }
                Err(failure) => PathMessage::WatchOver(epoch, key, Event::Followed(line, Err(failure))),
            }
        });
    }

    /// Writes new data to the nodes of requests, as far as they have nodes. A create that was in flight when the data
    /// changed has the former ones.
    fn write_identifiers(&mut self) {
        for (ticket, reply) in std::mem::take(&mut self.identifying) {
            let node = self.path.machine().node(ticket).map(|node| self.path.node_path(node));
            match (node, self.path.options(ticket)) {
                (Some(node), Some(options)) => self.path.ask(reply, AdvertiseError::gone(), |client| {
                    let written = client.write(&node, &options.identifier);
                    async move { written.await.map_err(|failure| AdvertiseError::new(&node, failure)) }
                }),
                _ if self.path.waits(ticket) => self.identifying.push((ticket, reply)),
                _ => drop(reply.send(Err(AdvertiseError::gone()))),
            }
        }
    }

    /// Offers a part's node to its multi-lock, which creates it together with the nodes of the other parts.
    fn offer(&mut self, attempt: Attempt, ticket: Ticket) {
        let (Some(part), Some(options), Some(session)) =
            (self.parts.get(&ticket), self.path.options(ticket), &self.path.session)
        else {
            return;
        };
        (part.offer)(Entrant {
            epoch: session.connection.epoch,
            path: self.path.directory.clone(),
            instance: self.path.instance,
            attempt,
            name: self.path.instance.prefix(attempt, options.dialect, options.mode),
            options,
            answers: self.path.actor(),
            registry: self.path.registry.clone(),
            creates: self.myself.get_derived(),
            on_drop: Entrant::withdrawn(),
        });
    }

    /// Replies once the front of the queue differs from what the caller knows.
    fn follow_first(
        &mut self,
        patterns: Patterns,
        known: Known,
        mut reply: oneshot::Sender<Result<Option<Contender>, QueryError>>,
    ) {
        let path = self.path.directory.clone();
        let actor = self.path.actor();
        let Some(session) = &mut self.path.session else {
            let _ = reply.send(Err(QueryError::Disconnected));
            return;
        };
        let connection = session.connection.clone();
        // A question that waits for a change is not counted, so that it does not keep this actor from retiring.
        let question = (known == Known::Nothing)
            .then(|| session.question(&actor, PathMessage::QuestionOver(connection.epoch)));
        session.spawn(async move {
            let _question = question;
            let answer =
                Box::pin(inspect::first(connection.client, connection.watches, path, patterns, known));
            let answered = match select(answer, Box::pin(reply.closed())).await {
                Either::Left((answer, _)) => answer,
                Either::Right(_) => return,
            };
            let _ = reply.send(answered);
        });
    }
}
