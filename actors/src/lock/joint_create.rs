//! Creates the nodes of a multi-lock in one transaction, sent by the actor of one of its locks.

use std::sync::Arc;

use futures::future::join_all;
use ractor::DerivedActorRef;

use super::State;
use crate::api::request::ContenderOptions;
use crate::machine::Failure;
use crate::machine::linger;
use crate::machine::lock::{Created, Event};
use crate::machine::node::{Attempt, Instance, Znode};
use crate::path::{PathMessage, PathReport};
use crate::session::SessionHandle;
use crate::zookeeper::{CreatedNodes, NewNode, NotCreated};

/// Marks a request as one part of a multi-lock.
pub(crate) struct LockPart {
    /// Whether an earlier round of the multi-lock failed.
    pub again: bool,
    /// Receives the contender when its node must be created.
    pub offer: Box<dyn Fn(Entrant) + Send>,
}

/// A contender whose node must be created. Dropping it reports a failure to its lock.
pub(crate) struct Entrant {
    /// The epoch of its lock's session.
    pub epoch: u64,
    pub(super) path: Arc<str>,
    pub(super) instance: Instance,
    pub(super) attempt: Attempt,
    /// Its node's name, without the sequence number.
    pub(super) name: String,
    pub(super) options: Arc<ContenderOptions>,
    /// The lock's actor, which receives the answer.
    pub(super) answers: DerivedActorRef<PathMessage<linger::Event>>,
    /// Learns of a node whose lock's actor has died.
    pub(super) registry: DerivedActorRef<PathReport>,
    pub(super) creates: DerivedActorRef<JointCreate>,
    /// The failure to report when it is dropped.
    pub(super) on_drop: Option<Failure>,
}

/// The contenders of one multi-lock, whose nodes must be created in one transaction.
pub(crate) struct JointCreate {
    /// In the order of the parts, all with the same epoch.
    pub entrants: Vec<Entrant>,
    /// Receives, before any lock gets its answer, the parts that can be tried again because another part made the
    /// transaction fail.
    pub answer: Box<dyn FnOnce(Vec<GivenBack>) + Send>,
}

/// An entrant that can be tried again, with the number of its part.
pub(crate) type GivenBack = (usize, Entrant);

impl Entrant {
    /// The failure of a contender whose create was not sent.
    pub(super) fn withdrawn() -> Option<Failure> {
        Some(Failure::Refused("the multi-lock withdrew the request".into()))
    }

    /// The actor that can create this contender's node together with others.
    pub fn creates(&self) -> DerivedActorRef<JointCreate> {
        self.creates.clone()
    }

    fn prefix(&self) -> String {
        format!("{}/{}", self.path, self.name)
    }

    /// Sends the answer to the lock's actor.
    fn answer(mut self, created: Result<Created, Failure>, children: Result<Vec<String>, Failure>) {
        self.on_drop = None;
        self.tell(created, children);
    }

    fn tell(&self, created: Result<Created, Failure>, children: Result<Vec<String>, Failure>) {
        let &Entrant { epoch, instance, attempt, .. } = self;
        let may_exist = matches!(created, Ok(_) | Err(Failure::Unknown(_)));
        let event = Event::CreatedAndListed { attempt, created, children };
        let told = self.answers.send_message(PathMessage::Answer(epoch, event.into(), Vec::new()));
        if told.is_err() && may_exist {
            // The clean-up after that actor may have run before the node existed. If the registry has ended, so does the
            // session, which deletes the node.
            let directory = self.path.clone();
            let orphaned = PathReport::Orphaned { epoch, directory, instance, attempt };
            let _ = self.registry.send_message(orphaned);
        }
    }
}

impl Drop for Entrant {
    fn drop(&mut self) {
        if let Some(failure) = self.on_drop.take() {
            self.tell(Err(failure.clone()), Err(failure));
        }
    }
}

impl State {
    /// Sends the transaction, and right after it the lists of all directories.
    pub(super) fn create_jointly(&mut self, mut create: JointCreate) {
        let epoch = create.entrants.first().map(|entrant| entrant.epoch);
        let current = |s: &&mut SessionHandle<_>| Some(s.connection.epoch) == epoch;
        let Some(session) = self.path.session.as_mut().filter(current) else {
            // The other locks will learn of the end of that session, as this one did.
            for entrant in &mut create.entrants {
                entrant.on_drop = Some(Failure::SessionGone);
            }
            return;
        };
        let client = &session.connection.client;
        let prefixes: Vec<String> = create.entrants.iter().map(Entrant::prefix).collect();
        let nodes: Vec<NewNode<'_>> = (create.entrants.iter().zip(&prefixes))
            .map(|(entrant, path)| NewNode {
                path,
                data: &entrant.options.identifier,
                acl: &entrant.options.acl,
            })
            .collect();
        let created = client.create_all(&nodes);
        let lists: Vec<_> = create.entrants.iter().map(|entrant| client.children(&entrant.path)).collect();
        for entrant in &mut create.entrants {
            entrant.on_drop = Some(Failure::Unknown("the task that awaits the answer has ended".into()));
        }
        let retries = self.path.metrics.retries();
        session.spawn(async move {
            let (created, lists) = (created.await, join_all(lists).await);
            match &created {
                Ok(_) => lists.iter().for_each(|list| retries.count(list)),
                Err(NotCreated { failure, .. }) => retries.failed(failure),
            }
            create.distribute(created, lists);
        });
    }
}

impl JointCreate {
    /// Sends the answers to all locks.
    fn distribute(self, created: Result<CreatedNodes, NotCreated>, lists: Vec<Result<Vec<String>, Failure>>) {
        let (mut back, mut answered) = (Vec::new(), Vec::new());
        for (part, (mut entrant, list)) in self.entrants.into_iter().zip(lists).enumerate() {
            let outcome = match &created {
                Ok(CreatedNodes { sequences, czxid }) => sequences
                    .get(part)
                    .and_then(|sequence| Znode::parse(&format!("{}{sequence:010}", entrant.name)))
                    .map(|node| Created { node, czxid: *czxid })
                    .ok_or_else(|| Failure::Unknown("no sequence number".into())),
                Err(NotCreated { culprit: Some(culprit), failure }) if *culprit != part => {
                    // A part whose own directory is missing is answered, so that all missing directories are created in
                    // the same round.
                    if (failure, &list) != (&Failure::NoNode, &Err(Failure::NoNode)) {
                        entrant.on_drop = Entrant::withdrawn();
                        back.push((part, entrant));
                        continue;
                    }
                    Err(Failure::NoNode)
                }
                Err(NotCreated { failure, .. }) => Err(failure.clone()),
            };
            answered.push((entrant, outcome, list));
        }
        (self.answer)(back);
        for (entrant, outcome, list) in answered {
            entrant.answer(outcome, list);
        }
    }
}
