//! What the machine decided, carried out: commands become requests, replies and guards.

use std::sync::Arc;

use ractor::ActorRef;
use tracing::{debug, warn};

use super::link::full;
use super::{Entrant, LockActorMessage, State};
use crate::api::error::{AcquireError, ReleaseError};
use crate::api::lease::{FencingToken, Grant, Hold, Lease};
use crate::api::messages::{LockEvent, LockMessage, Refused};
use crate::machine::lock::protocol::{Command, Created, Event, Failure, Refusal, Ticket};
use crate::machine::node::{Attempt, Znode};
use crate::session::Connection;
use crate::zookeeper::Answer;

impl State {
    pub(super) fn execute(&mut self, command: Command, myself: &ActorRef<LockActorMessage>) {
        let path = self.directory.clone();
        match command {
            Command::List(attempt) => {
                self.submit(|zk| zk.client.children(&path), move |r| Event::Listed(attempt, r))
            }
            Command::Enter(attempt, ticket) => self.enter(attempt, ticket, myself),
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
                    session.unwatch(&node);
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
            Command::Survey { survey, sync, root, leases } => self.survey(survey, sync, root, leases),
            Command::Calm => {
                if let Some(session) = &mut self.connection {
                    session.calm();
                }
            }
            Command::MakeRoot { survey, ticket, limit } => self.make_root(survey, ticket, limit),
            Command::Take { take, version, mutex, keep, leases } => {
                self.take(take, version, &mutex, keep, &leases)
            }
            Command::FindLeases(take) => {
                let root = self.arguments.place.path.clone();
                self.submit(
                    |zk| {
                        debug!(path = %root, epoch = zk.epoch, "outcome of a take unknown: looking");
                        let (sync, list) = (zk.client.sync(&root), zk.client.children(&root));
                        Box::pin(async move { sync.await.and(list.await) })
                    },
                    move |result| Event::LeasesFound(take, result),
                )
            }
            Command::Return(lease) => {
                let node = format!("{}/{lease}", self.arguments.place.path);
                self.submit(
                    |zk| {
                        zk.nodes.untrack(&node);
                        zk.client.delete(&node)
                    },
                    move |result| Event::Returned(lease, result),
                )
            }
            Command::TrackLease(lease) => {
                if let Some(session) = &self.connection {
                    session.connection.nodes.track(format!("{}/{lease}", self.arguments.place.path));
                }
            }
            Command::GrantPermits { ticket, leases, czxid } => {
                let root = &self.arguments.place.path;
                let nodes = leases.iter().map(|lease| format!("{root}/{lease}")).collect();
                self.grant(ticket, nodes, czxid, myself);
            }
            Command::Grant { ticket, node, czxid } => {
                self.grant(ticket, vec![full(&path, &node)], czxid, myself)
            }
            Command::Queued(ticket, ahead) => {
                self.note(ticket, |epoch| debug!(epoch, ahead, "queued"));
                self.tell(ticket, LockEvent::Queued { ticket, ahead }, myself);
            }
            Command::Refuse(ticket, refusal) => {
                self.note(ticket, |epoch| debug!(epoch, ?refusal, "refused"));
                let refused = refused(&self.arguments.place.path, &path, refusal);
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
                    (entry.hold, entry.lost) = (None, true);
                }
                self.conclude(ticket, LockEvent::Lost(ticket));
            }
            Command::Forget { ticket, confirmed } => self.forget(ticket, confirmed),
        }
    }

    /// Create and list, sent together; or somebody else does it.
    fn enter(&mut self, attempt: Attempt, ticket: Ticket, myself: &ActorRef<LockActorMessage>) {
        let (path, instance) = (self.directory.clone(), self.arguments.instance);
        let Some(entry) = self.requests.get_mut(&ticket) else { return };
        let options = entry.options.clone();
        let name = instance.prefix(attempt, options.dialect, options.mode);
        let Some(session) = &self.connection else { return };
        let (epoch, client) = (session.connection.epoch, &session.connection.client);
        entry.outliving = (!options.ephemeral).then(|| format!("{path}/{name}"));
        if let Some(joint) = &entry.joint {
            let (actor, otherwise) = (myself.clone(), Entrant::withdrawn());
            return joint(Entrant { epoch, path, attempt, name, options, actor, otherwise });
        }
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

    fn grant(&mut self, ticket: Ticket, nodes: Vec<String>, czxid: i64, myself: &ActorRef<LockActorMessage>) {
        let (Some(entry), Some(session)) = (self.requests.get_mut(&ticket), &self.connection) else { return };
        let Some(lifeline) = entry.lifeline.take() else { return };
        let path = self.arguments.place.path.clone();
        let token = FencingToken::new(czxid);
        let epoch = session.connection.epoch;
        entry.span.in_scope(|| debug!(epoch, %token, "granted"));
        let lease = entry.options.ephemeral.then(|| session.connection.lease.clone());
        let grant = Arc::new(Grant::new(ticket, path, nodes, token, lease));
        entry.hold = Some(Hold(grant.clone()));
        let client = Arc::downgrade(&session.connection.client);
        let guard = Lease::new(grant, myself.clone(), lifeline, client);
        // The guard travels in the event: a caller that has gone away drops it, and that releases the lock.
        self.tell(ticket, LockEvent::Acquired { ticket, guard }, myself);
    }

    pub(super) fn forget(&mut self, ticket: Ticket, confirmed: bool) {
        let Some(entry) = self.requests.remove(&ticket) else { return };
        entry.span.in_scope(|| debug!(confirmed, "done"));
        if let Some(node) = entry.outliving.filter(|_| !confirmed) {
            warn!(node, "a node that outlives sessions may be left: its number follows this name");
        }
        for reply in entry.release {
            let _ = reply.send(if confirmed { Ok(()) } else { Err(ReleaseError::Lost) });
        }
        if let Some(listener) = entry.listener {
            let last = if confirmed { LockEvent::Released } else { LockEvent::Lost };
            listener.conclude(last(ticket));
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

    pub(super) fn tell(&mut self, ticket: Ticket, event: LockEvent, myself: &ActorRef<LockActorMessage>) {
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
            listener.conclude(event);
        }
    }

    fn hold(&self, ticket: Ticket, change: fn(&Hold)) {
        if let Some(hold) = self.requests.get(&ticket).and_then(|entry| entry.hold.as_ref()) {
            change(hold);
        }
    }

    pub(super) fn submit<T: 'static>(
        &self,
        send: impl FnOnce(&Connection) -> Answer<T>,
        event: impl FnOnce(Result<T, Failure>) -> Event + Send + 'static,
    ) {
        let Some(session) = &self.connection else { return };
        let epoch = session.connection.epoch;
        let answer = send(&session.connection);
        session.expect(Box::pin(async move { LockActorMessage::Event(epoch, event(answer.await)) }));
    }
}

fn refused(path: &str, directory: &str, refusal: Refusal) -> Refused {
    let path = path.to_owned();
    match refusal {
        Refusal::Contended => Refused::Contended,
        Refusal::Suspended => Refused::Suspended,
        Refusal::TimedOut => Refused::TimedOut,
        Refusal::Cancelled => Refused::Cancelled,
        Refusal::Closed => Refused::Failed(AcquireError::Closed),
        Refusal::Exhausted => Refused::Failed(AcquireError::SequenceExhausted { path: directory.to_owned() }),
        Refusal::MixedDialects(node) => {
            Refused::Failed(AcquireError::MixedDialects { contender: full(directory, &node) })
        }
        Refusal::NoAuth(None) => Refused::Failed(AcquireError::NoAuth { path }),
        Refusal::NoAuth(Some(node)) => Refused::Failed(AcquireError::NoAuth { path: full(directory, &node) }),
        Refusal::NoPermits => Refused::Failed(AcquireError::NoPermits { path }),
        Refusal::TooMany { count, limit } => {
            Refused::Failed(AcquireError::TooManyPermits { path, count, limit })
        }
        Refusal::LimitMismatch { stored, given } => {
            Refused::Failed(AcquireError::LimitMismatch { path, stored, given })
        }
        Refusal::NoLimit => Refused::Failed(AcquireError::NoLimit { path }),
        Refusal::Rejected(reason) => Refused::Failed(AcquireError::Rejected { path, reason }),
    }
}
