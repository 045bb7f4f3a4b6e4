//! Creates the nodes of a multi-lock in one transaction, sent by the actor of one of its locks.

use std::sync::Arc;

use futures::future::join_all;
use ractor::DerivedActorRef;

use super::State;
use crate::api::request::ContenderOptions;
use crate::machine::Failure;
use crate::machine::linger;
use crate::machine::lock::{Created, Event};
use crate::machine::node::{Attempt, Znode};
use crate::path::{PathMessage, PathReport};
use crate::session::SessionHandle;
use crate::zookeeper::{CreatedNodes, NewNode, NotCreated};

/// Marks a request as one part of a multi-lock.
pub(crate) struct Part {
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
    pub(super) attempt: Attempt,
    /// Its node's name, without the sequence number.
    pub(super) name: String,
    pub(super) options: Arc<ContenderOptions>,
    /// The lock's actor, which receives the answer.
    pub(super) answers: DerivedActorRef<PathMessage<linger::Event>>,
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
    pub answer: Box<dyn FnOnce(Vec<Retried>) + Send>,
}

/// An entrant that can be tried again, with the number of its part.
pub(crate) type Retried = (usize, Entrant);

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

    /// Sends the answer to the lock's actor. Returns `false` when that has died.
    fn answer(mut self, created: Result<Created, Failure>, children: Result<Vec<String>, Failure>) -> bool {
        self.on_drop = None;
        self.tell(created, children)
    }

    fn tell(&self, created: Result<Created, Failure>, children: Result<Vec<String>, Failure>) -> bool {
        let event = Event::CreatedAndListed { attempt: self.attempt, created, children };
        self.answers.send_message(PathMessage::Answer(self.epoch, event.into(), Vec::new())).is_ok()
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
        let (created, registry) = (client.create_all(&nodes), self.path.registry.clone());
        let epoch = session.connection.epoch;
        let lists: Vec<_> = create.entrants.iter().map(|entrant| client.children(&entrant.path)).collect();
        for entrant in &mut create.entrants {
            entrant.on_drop = Some(Failure::Unknown("the task that awaits the answer has ended".into()));
        }
        session.spawn(async move {
            let (created, lists) = (created.await, join_all(lists).await);
            let nodes = create.distribute(created, lists);
            if !nodes.is_empty() {
                // If the registry has ended, so does the session, which deletes the nodes.
                let _ = registry.send_message(PathReport::Orphaned { epoch, nodes });
            }
        });
    }
}

impl JointCreate {
    /// Sends the answers to all locks. Returns the nodes of locks whose actors have died: the cleanup for those actors
    /// may have run before the nodes existed.
    fn distribute(
        self,
        created: Result<CreatedNodes, NotCreated>,
        lists: Vec<Result<Vec<String>, Failure>>,
    ) -> Vec<String> {
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
        let mut orphaned = Vec::new();
        for (entrant, outcome, list) in answered {
            let node = outcome.as_ref().ok().map(|made| format!("{}/{}", entrant.path, made.node.name()));
            if !entrant.answer(outcome, list) {
                orphaned.extend(node);
            }
        }
        orphaned
    }
}
